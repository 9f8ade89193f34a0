"""Noise specification 1 in NumPy: the reference that every other backend must equal."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from . import exact, spec
from .environments import ENVIRONMENTS
from .weights import leaves_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int8, Int32, UInt8, UInt32

    from .environments import Environment
    from .rollout import Setting
    from .weights import Arrays

_CHUNK = 2048  # blocks worked on at once: all temporaries stay in the cache
_WINDOW = 64  # generations made at once for small populations
_WORD = 0xFFFFFFFF
_MULTIPLIERS = np.array(spec.MULTIPLIERS, np.uint64)
_ROUND_OFFSETS = np.array([[(w * r) & _WORD for w in spec.WEYL] for r in range(spec.ROUNDS)], np.uint32)
f32 = np.float32


def philox(counter: Sequence[int], key: Sequence[int], rounds: int = spec.ROUNDS) -> tuple[int, int, int, int]:
    """Philox4x32 of one counter (four words) under one key (two words), in Python integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    (m0, m1), (w0, w1) = spec.MULTIPLIERS, spec.WEYL
    for _ in range(rounds):
        p0, p1 = m0 * c0, m1 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _WORD, (p0 >> 32) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + w0) & _WORD, (k1 + w1) & _WORD
    return c0, c1, c2, c3


def fold(key: UInt32[ndarray, "2"], a: int, b: int = 0) -> UInt32[ndarray, "2"]:
    """The key derived from ``key`` and two integers (taken modulo 2**32)."""
    k0, k1 = key.tolist()
    w0, w1, _, _ = philox((int(a) & _WORD, int(b) & _WORD, k0 ^ _WORD, k1 ^ _WORD), (k0, k1))
    return np.array((w0, w1), np.uint32)


def words(keys: UInt32[ndarray, "*streams 2"], start: int, count: int) -> UInt32[ndarray, "*streams count 4"]:
    """Blocks ``start`` to ``start + count - 1`` of each stream."""
    index = np.arange(start, start + count, dtype=np.uint64)
    k = np.moveaxis(keys, -1, 0)[..., None]  # (2, *streams, 1)
    even = np.empty((2, *keys.shape[:-1], count), np.uint32)
    odd = np.empty_like(even)
    even[0], odd[0] = index & np.uint64(_WORD), index >> np.uint64(32)
    even[1], odd[1] = k
    return _philox_arrays(even, odd, k)


def _philox_arrays(even: ndarray, odd: ndarray, key: ndarray) -> UInt32[ndarray, "*shape 4"]:
    """Philox of counters given as (word 0, word 2) and (word 1, word 3), so that a round is three calls.

    The two halves of a product are read through a 32-bit view; the products alternate between two buffers,
    since the low half of one round is still needed in the next.
    """
    shape = even.shape[1:]
    product = np.empty((2, 2, *shape), np.uint64)
    low, high = _halves(product)
    multipliers = _MULTIPLIERS.reshape(2, *(1,) * len(shape))
    round_keys = _ROUND_OFFSETS.reshape(spec.ROUNDS, 2, *(1,) * len(shape)) + key
    for r in range(spec.ROUNDS):
        np.multiply(even, multipliers, out=product[r & 1])
        np.bitwise_xor(high[r & 1], odd, out=even)
        even ^= round_keys[r]
        odd = low[r & 1]
    out = np.empty((*shape, 4), np.uint32)
    out[..., 0::2], out[..., 1::2] = np.moveaxis(even, 0, -1), np.moveaxis(odd, 0, -1)
    return out


def _halves(product: ndarray) -> tuple[ndarray, ndarray]:
    """Low and high words of 64-bit products, rows exchanged: each feeds the other half of the state."""
    view = product.view(np.uint32).reshape(*product.shape, 2)[:, ::-1]
    first, second = view[..., 0], view[..., 1]
    return (first, second) if np.little_endian else (second, first)


def _unit(w: UInt32[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
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


def _minus_two_log(u: Float[ndarray, "*shape"], coefficients: Sequence[float] = spec.LOG) -> Float[ndarray, "*shape"]:
    bits = u.view(np.int32)
    exponent = (bits - np.int32(spec.TWO_THIRDS)) & np.int32(-(2**23))  # where it lies in the bits
    m = (bits - exponent).view(f32)  # [2/3, 4/3)
    s = f32(2.0) - (m + m)
    p = _polynomial(coefficients, s)
    return _fma(exponent.astype(f32), f32(spec.MINUS_TWO_LN2), _fma(p, s * s, s))


def _sin_cos_2pi(
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
    radius = np.sqrt(_minus_two_log(_unit(w[..., 0::2])))
    s, c = _sin_cos_2pi(w[..., 1::2])
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


_KINDS = {"normal": _normal, "uniform": _unit, "sign": _sign, "binom8": _binom8, "normal_fast": _normal}


def noise(
    key: UInt32[ndarray, "2"], first: int, members: int, size: int, kind: spec.Kind = "normal"
) -> Float[ndarray, "members size"]:
    """Noise of members ``first`` to ``first + members - 1`` of one stream, ``size`` float32 values each."""
    per_block, blocks = spec.VALUES_PER_BLOCK[kind], spec.blocks_of(size, kind)
    start, count = first * blocks, members * blocks
    if count <= _CHUNK:
        out = _KINDS[kind](words(key, start, count))
    else:
        out = np.empty((count, per_block), f32)
        for low in range(0, count, _CHUNK):
            high = min(low + _CHUNK, count)
            out[low:high] = _KINDS[kind](words(key, start + low, high - low))
    return out.reshape(members, blocks * per_block)[:, :size]


def _centered_uniform(w: UInt32[ndarray, "*blocks 4"]) -> Float[ndarray, "*blocks 4"]:
    return _unit(w) - f32(0.5)


def _counts(w: UInt32[ndarray, "*blocks 4"]) -> Float[ndarray, "*blocks 16"]:
    return binom8_counts(w).astype(f32)


CENTERED = {"normal": _normal, "uniform": _centered_uniform, "sign": _sign, "binom8": _counts, "normal_fast": _normal}


def seedsum(
    keys: UInt32[ndarray, "streams 2"],
    bases: Sequence[Float[ndarray, "#sums size"]],
    weights: Float[ndarray, "sums terms"],
    members: UInt32[ndarray, "sums terms"],
    kind: spec.Kind = "normal",
    chunk: int = spec.SUM_CHUNK,
) -> tuple[Float[ndarray, "sums size"], ...]:
    """``base + sum_k weights_k noise_k`` for each stream and row, over centered noise of members, in float32."""
    (sums, terms), per_block = weights.shape, spec.VALUES_PER_BLOCK[kind]
    out = tuple(np.array(np.broadcast_to(base, (sums, base.shape[1])), f32) for base in bases)
    for key, totals in zip(keys, out, strict=True):
        blocks = spec.blocks_of(totals.shape[1], kind)
        for q, low in itertools.product(range(sums), range(0, blocks, _CHUNK)):
            part = totals[q, low * per_block : (low + _CHUNK) * per_block]
            for first in range(0, terms, chunk):
                added = np.zeros_like(part)
                for k in range(first, min(first + chunk, terms)):
                    made = words(key, int(members[q, k]) * blocks + low, min(_CHUNK, blocks - low))
                    added += f32(weights[q, k]) * CENTERED[kind](made).reshape(-1)[: part.size]
                part += added
    return out


def formed(setting: Setting, arrays: Arrays) -> Float[ndarray, "n d"]:
    """The weights of all members (see :mod:`.weights`)."""
    keys, base, factors, members = arrays
    if not setting.form.rank:
        return seedsum(keys, (base,), factors, members, setting.form.kind, 1)[0]
    return np.array(
        [
            _perturbed(setting, keys, row, int(member), step)
            for row, (member,), step in zip(
                np.broadcast_to(base, (factors.shape[0], base.shape[1])), members, factors, strict=True
            )
        ],
        f32,
    ).reshape(factors.shape[0], base.shape[1])


def _perturbed(
    setting: Setting, keys: UInt32[ndarray, "leaves 2"], base: Float[ndarray, "d"], member: int, steps: ndarray
) -> Float[ndarray, "d"]:
    """``base`` and a member's noise: of low rank, in a fused sum over the ranks in order, or of independent entries."""
    (kind, rank, small), out = setting.form, base.copy()
    for key, leaf in zip(keys, leaves_of(setting.sizes, small), strict=True):
        size = (leaf.inputs + leaf.outputs) * rank if leaf.is_low_rank else leaf.stop - leaf.start
        blocks = spec.blocks_of(size, kind)
        drawn = CENTERED[kind](words(key, member * blocks, blocks)).reshape(-1)[:size]
        own = out[leaf.start : leaf.stop].reshape(leaf.inputs, leaf.outputs)
        if leaf.is_low_rank:
            a, b = np.split(drawn.reshape(-1, rank), [leaf.inputs])
            for r in range(rank):
                own[...] = exact.fma((steps[1] * a[:, r])[:, None], b[:, r], own)
        else:
            own[...] = exact.fma(steps[0], drawn.reshape(own.shape), own)
    return out


def rollout(
    setting: Setting, arrays: Arrays, starts: Float[ndarray, "episodes state"]
) -> tuple[Float[ndarray, "n episodes"], Int32[ndarray, "n episodes"]]:
    """Returns and lengths of all members' episodes (:func:`blackbox.kernels.rollout`), those that run in lockstep."""
    weights, environment = formed(setting, arrays), ENVIRONMENTS[setting.env]
    shape = weights.shape[0], starts.shape[0]
    returns, lengths = np.zeros(shape[0] * shape[1], f32), np.zeros(shape[0] * shape[1], np.int32)
    running = np.arange(returns.size)
    own, state = np.repeat(weights, shape[1], axis=0), tuple(np.tile(starts, (shape[0], 1)).T)
    # Numbers that overflow are infinite, as in compiled code.
    with np.errstate(all="ignore"):
        for _ in range(setting.steps if returns.size else 0):
            action = _action(environment, setting.sizes, own, state)
            state, reward, is_over = environment.step(state, action, np, exact.sin_cos)
            returns[running] += reward
            lengths[running] += 1
            if is_over.any():
                keep = ~is_over
                running, own, state = running[keep], own[keep], tuple(x[keep] for x in state)
            if not running.size:
                break
    return returns.reshape(shape), lengths.reshape(shape)


def _action(
    environment: Environment, sizes: tuple[int, ...], weights: Float[ndarray, "k d"], state: tuple[ndarray, ...]
) -> Float[ndarray, "k"]:
    """What a network for each state does: biases first, then a fused multiply-add for each input in order."""
    seen = environment.observe(state, np, exact.sin_cos)
    values = np.stack([x / f32(scale) for x, scale in zip(seen, environment.scale, strict=True)], -1)
    leaves = tuple(leaves_of(sizes, 1))
    for matrix, biases in zip(leaves[::2], leaves[1::2], strict=True):
        inputs = exact.tanh(values) if matrix.start else values
        columns = weights[:, matrix.start : matrix.stop].reshape(-1, matrix.inputs, matrix.outputs)
        values = weights[:, biases.start : biases.stop]
        for i in range(matrix.inputs):
            values = exact.fma(inputs[:, i, None], columns[:, i], values)
    if environment.force is not None:
        action: ndarray = f32(environment.force) * exact.tanh(values[:, 0])
        return action
    # Not argmax, for which NaN is the largest: here it is never larger, as in compiled code.
    best, chosen = values[:, 0], np.zeros(values.shape[0], f32)
    for k in range(1, environment.outputs):
        is_larger = values[:, k] > best
        best, chosen = np.where(is_larger, values[:, k], best), np.where(is_larger, f32(k), chosen)
    return chosen


def lowrank_mix(
    x: Float[ndarray, "#n rows m"],
    y: Float[ndarray, "#n rows k"],
    source: UInt32[ndarray, "n 6"],
    size: int,
    rank: int,
    kind: spec.Kind = "normal",
) -> Float[ndarray, "n rows k"]:
    """``y + sum_r (step (x . A_r)) B_r`` for the rows of each source's member, in float32.

    Args:
        x: of each member, or one for all.
        y: of each member, or one for all; such as the product of x and a weight.
        source: what names step, A (m, rank) and B (k, rank), see :mod:`.spec`.
        size: of a member's row of the stream that A and B lie in.
        rank: of the noise.
        kind: of the noise.
    """
    m, k = x.shape[2], y.shape[2]
    out = np.array(np.broadcast_to(y, (len(source), *y.shape[1:])), f32)
    for i, words_of_one in enumerate(source):
        a, b = _drawn_factors(words_of_one, (m * rank, k * rank), size, kind)
        step, own = words_of_one[3:4].view(f32)[0], x[i if len(x) > 1 else 0].astype(f32, copy=False)
        for r in range(rank):
            out[i] += (step * _dot(own, a[r::rank]))[:, None] * b[r::rank]
    return out


def _dot(x: Float[ndarray, "rows m"], a: Float[ndarray, "m"]) -> Float[ndarray, "rows"]:
    products = np.pad(x * a, ((0, 0), (0, -len(a) % spec.DOT_SUMS)))
    sums = np.zeros((len(x), spec.DOT_SUMS), f32)
    for first in range(0, len(a), spec.DOT_SUMS):
        sums += products[:, first : first + spec.DOT_SUMS]
    while (half := sums.shape[1] // 2) > 0:
        sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]


def lowrank_factors(
    source: UInt32[ndarray, "n 6"], sizes: tuple[int, int], size: int, kind: spec.Kind = "normal"
) -> tuple[Float[ndarray, "n a"], Float[ndarray, "n b"]]:
    """``step A`` and ``B`` of each source, of so many values."""
    a, b = (np.empty((len(source), own), f32) for own in sizes)
    for i, words_of_one in enumerate(source):
        first, b[i] = _drawn_factors(words_of_one, sizes, size, kind)
        a[i] = words_of_one[3:4].view(f32)[0] * first
    return a, b


def _drawn_factors(
    source: UInt32[ndarray, "6"], sizes: tuple[int, int], size: int, kind: spec.Kind
) -> tuple[Float[ndarray, "a"], Float[ndarray, "b"]]:
    per_block, (number, _, *offsets) = spec.VALUES_PER_BLOCK[kind], source[2:].tolist()
    out = []
    for offset, count in zip(offsets, sizes, strict=True):
        block, shift = divmod(offset, per_block)
        made = words(source[:2], number * spec.blocks_of(size, kind) + block, spec.blocks_of(shift + count, kind))
        out.append(CENTERED[kind](made).reshape(-1)[shift : shift + count])
    return out[0], out[1]


def generation_noise(
    key: UInt32[ndarray, "2"], generation: int, leaf: int, first: int, members: int, size: int, kind: spec.Kind
) -> Float[ndarray, "members size"]:
    """Noise of the stream ``fold(key, generation, leaf)``, read-only where it is remembered.

    For small populations the cost is the number of NumPy calls, not of values. Noise is a pure function of
    its arguments, so a window of generations is made at once and kept for the next ones.
    """
    blocks = members * spec.blocks_of(size, kind)
    if not 0 < blocks <= _CHUNK // 4:
        return noise(fold(key, generation, leaf), first, members, size, kind)
    length = min(_WINDOW, _CHUNK // blocks)
    window, position = divmod(generation, length)
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


def fold_many(key: UInt32[ndarray, "2"], start: int, length: int, b: int) -> UInt32[ndarray, "length 2"]:
    """``fold(key, a, b)`` for ``a`` from ``start`` to ``start + length - 1``."""
    even, odd = np.empty((2, 2, length), np.uint32)
    even[0], odd[0] = np.arange(start, start + length, dtype=np.uint64) & np.uint64(_WORD), b & _WORD
    even[1], odd[1] = ~key[0], ~key[1]
    return _philox_arrays(even, odd, key[:, None])[:, :2]
