"""What each kind of noise makes of words, and noise of members."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from .. import spec
from .generator import fold, fold_many, words

if TYPE_CHECKING:
    from jaxtyping import Float, Int8, UInt8, UInt32

CHUNK = 2048  # blocks worked on at once: all temporaries stay in the cache
_WINDOW = 64  # generations made at once for small populations
f32 = np.float32


def unit(w: UInt32[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
    """Odd multiples of 2**-24 in (0, 1): exact in float32."""
    odd: ndarray = (((w >> 9) << 1) | 1).astype(f32)
    return odd * f32(2.0**-24)


def _fma(a: ndarray, b: ndarray | np.float32, c: ndarray | np.float32) -> ndarray:
    """A float32 fused multiply-add: float64 holds the product exactly, and rounding the sum twice hardly ever tells.

    In ``normal`` it never does: tests compare all logarithms, sines and cosines with the compiled text.
    """
    wide: ndarray = np.multiply(a, b, dtype=np.float64)
    wide += c
    return wide.astype(f32)


def _polynomial(coefficients: Sequence[float], x: ndarray) -> ndarray:
    wide = x.astype(np.float64)
    p: ndarray = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        product = np.multiply(p, wide)
        product += f32(c)
        p = product.astype(f32)
    return p


def minus_two_log(u: Float[ndarray, "*shape"], coefficients: Sequence[float] = spec.LOG) -> Float[ndarray, "*shape"]:
    bits = u.view(np.int32)
    exponent = (bits - np.int32(spec.TWO_THIRDS)) & np.int32(-(2**23))  # where it lies in the bits
    m = (bits - exponent).view(f32)  # [2/3, 4/3)
    s = f32(2.0) - (m + m)
    p = _polynomial(coefficients, s)
    return _fma(exponent.astype(f32), f32(spec.MINUS_TWO_LN2), _fma(p, s * s, s))


def sin_cos_2pi(
    w: UInt32[ndarray, "*shape"],
    sine_coefficients: Sequence[float] = spec.SIN,
    cosine_coefficients: Sequence[float] = spec.COS,
) -> tuple[Float[ndarray, "*shape"], Float[ndarray, "*shape"]]:
    """Sine and cosine of 2 pi times the uniform number of a word: quarter turns are split off, exactly."""
    quarters = w + np.uint32(2**29)  # two bits for the nearest
    x = (w >> 9 << 11 | np.uint32(2**10)).view(np.int32).astype(f32) * f32(2.0**-32)
    z = x * x
    sine = _fma(x, f32(spec.HALF_PI), _polynomial(sine_coefficients, z) * x)
    cosine = _fma(_polynomial(cosine_coefficients, z), z, f32(1.0))
    swap = (quarters & 2**30).astype(bool)
    s, c = np.where(swap, cosine, sine), np.where(swap, sine, cosine)
    # Negation flips the sign bit.
    s.view(np.uint32)[...] ^= quarters & np.uint32(2**31)
    c.view(np.uint32)[...] ^= (quarters + np.uint32(2**30)) & np.uint32(2**31)
    return s, c


def _normal(w: UInt32[ndarray, "*blocks 4"]) -> Float[ndarray, "*blocks 4"]:
    radius = np.sqrt(minus_two_log(unit(w[..., 0::2])))
    s, c = sin_cos_2pi(w[..., 1::2])
    out = np.empty(w.shape, f32)
    np.multiply(radius, c, out=out[..., 0::2])
    np.multiply(radius, s, out=out[..., 1::2])
    return out


def _sign(w: UInt32[ndarray, "*blocks 4"]) -> Float[ndarray, "*blocks 128"]:
    bits: UInt8[ndarray, "*blocks 128"] = np.unpackbits(
        w.astype("<u4", copy=False).view(np.uint8), axis=-1, bitorder="little"
    )
    return f32(1.0) - f32(2.0) * bits.astype(f32)


def binom8_counts(w: UInt32[ndarray, "*blocks 4"]) -> Int8[ndarray, "*blocks 16"]:
    """Centered binomial counts, -4 to 4: exact in any number format."""
    counts: Int8[ndarray, "*blocks 16"] = np.bitwise_count(w.astype("<u4", copy=False).view(np.uint8)).astype(np.int8)
    return counts - np.int8(4)


def _binom8(w: UInt32[ndarray, "*blocks 4"]) -> Float[ndarray, "*blocks 16"]:
    return binom8_counts(w).astype(f32) * f32(2.0**-0.5)


_KINDS = {"normal": _normal, "uniform": unit, "sign": _sign, "binom8": _binom8, "normal_fast": _normal}


def noise(
    key: UInt32[ndarray, "2"], first: int, members: int, size: int, kind: spec.Kind = "normal"
) -> Float[ndarray, "members size"]:
    """Noise of members ``first`` to ``first + members - 1`` of one stream, ``size`` float32 values each."""
    per_block, blocks = spec.VALUES_PER_BLOCK[kind], spec.blocks_of(size, kind)
    start, count = first * blocks, members * blocks
    if count <= CHUNK:
        out = _KINDS[kind](words(key, start, count))
    else:
        out = np.empty((count, per_block), f32)
        for low in range(0, count, CHUNK):
            high = min(low + CHUNK, count)
            out[low:high] = _KINDS[kind](words(key, start + low, high - low))
    return out.reshape(members, blocks * per_block)[:, :size]


def noise_of_runs(
    keys: UInt32[ndarray, "runs 2"],
    generations: UInt32[ndarray, "runs"],
    first: UInt32[ndarray, "runs"],
    leaf: int,
    members: int,
    size: int,
    kind: spec.Kind = "normal",
) -> Float[ndarray, "runs members size"]:
    """:func:`noise` of many runs, each in the stream ``fold(key, generation, leaf)`` and from a first member on."""
    runs = zip(keys, generations, first, strict=True)
    return np.stack([noise(fold(key, int(g), leaf), int(start), members, size, kind) for key, g, start in runs])


def _centered_uniform(w: UInt32[ndarray, "*blocks 4"]) -> Float[ndarray, "*blocks 4"]:
    return unit(w) - f32(0.5)


def _counts(w: UInt32[ndarray, "*blocks 4"]) -> Float[ndarray, "*blocks 16"]:
    return binom8_counts(w).astype(f32)


CENTERED = {"normal": _normal, "uniform": _centered_uniform, "sign": _sign, "binom8": _counts, "normal_fast": _normal}


def generation_noise(
    key: UInt32[ndarray, "2"], generation: int, leaf: int, first: int, members: int, size: int, kind: spec.Kind
) -> Float[ndarray, "members size"]:
    """Noise of the stream ``fold(key, generation, leaf)``, read-only where it is remembered.

    For small populations the cost is the number of NumPy calls, not of values. Noise is a pure function of
    its arguments, so a window of generations is made at once and kept for the next ones.
    """
    blocks = members * spec.blocks_of(size, kind)
    if not 0 < blocks <= CHUNK // 4:
        return noise(fold(key, generation, leaf), first, members, size, kind)
    length = min(_WINDOW, CHUNK // blocks)
    window, position = divmod(generation % 2**32, length)
    values: ndarray = _noise_window(key.tobytes(), window * length, length, leaf, first, members, size, kind)[position]
    return values


@lru_cache(maxsize=64)
def _noise_window(
    key: bytes, start: int, length: int, leaf: int, first: int, members: int, size: int, kind: spec.Kind
) -> Float[ndarray, "length members size"]:
    per_block, blocks = spec.VALUES_PER_BLOCK[kind], spec.blocks_of(size, kind)
    keys = fold_many(np.frombuffer(key, np.uint32), start, length, leaf)
    out = _KINDS[kind](words(keys, first * blocks, members * blocks))
    out = np.ascontiguousarray(out.reshape(length, members, blocks * per_block)[..., :size])
    out.flags.writeable = False
    return out
