"""What each kind of noise makes of words, and noise of members."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .. import spec
from .generator import fold, multiply, philox, u32, word

if TYPE_CHECKING:
    from jaxtyping import Float, Int8, UInt32

f32 = jnp.float32


def unit(w: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    odd: Array = (((w >> 9) << 1) | u32(1)).astype(f32)
    return odd * f32(2.0**-24)


def _fma(a: Array, b: Array, c: Array | float) -> Array:
    """A float32 fused multiply-add, exact when float64 exists (see :func:`blackbox.kernels.ref.kinds._fma`)."""
    if not jax.config.read("jax_enable_x64"):
        return jnp.add(a * b, f32(c))
    wide = a.astype(jnp.float64) * b.astype(jnp.float64) + jnp.asarray(c, f32).astype(jnp.float64)
    # ``reduce_precision`` cannot be optimized away, unlike a pair of conversions.
    return lax.reduce_precision(wide, 8, 23).astype(f32)


def _exact(x: Array) -> Array:
    """Keep a rounded float32 product out of XLA's fused multiply-adds."""
    return lax.reduce_precision(x, 8, 23) if jax.config.read("jax_enable_x64") else x


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    p = jnp.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        p = _fma(p, x, c)
    return p


def minus_two_log(u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    bits = lax.bitcast_convert_type(u, jnp.int32)
    exponent = (bits - jnp.int32(spec.TWO_THIRDS)) & jnp.int32(-(2**23))  # where it lies in the bits
    m = lax.bitcast_convert_type(bits - exponent, f32)  # [2/3, 4/3)
    s = f32(2.0) - (m + m)
    p = _polynomial(spec.LOG, s)
    return _fma(exponent.astype(f32), f32(spec.MINUS_TWO_LN2), _fma(p, _exact(s * s), s))


def sin_cos_2pi(w: UInt32[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    quarters = w + u32(2**29)  # two bits for the nearest
    x = lax.bitcast_convert_type(w >> 9 << 11 | u32(2**10), jnp.int32).astype(f32) * f32(2.0**-32)
    z = _exact(x * x)
    # In either mode: else XLA may choose the other one of two products for its fused multiply-add.
    sine = _fma(x, f32(spec.HALF_PI), lax.reduce_precision(_polynomial(spec.SIN, z) * x, 8, 23))
    cosine = _fma(_polynomial(spec.COS, z), z, 1.0)
    swap = (quarters & u32(2**30)) != 0
    s, c = jnp.where(swap, cosine, sine), jnp.where(swap, sine, cosine)
    turned = quarters + u32(2**30)
    return jnp.where(quarters >> 31 == 1, -s, s), jnp.where(turned >> 31 == 1, -c, c)


def _box_muller(a: UInt32[Array, "n"], b: UInt32[Array, "n"]) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    radius = jnp.sqrt(minus_two_log(unit(a)))
    s, c = sin_cos_2pi(b)
    return _exact(radius * c), _exact(radius * s)


def _normal(w: Sequence[UInt32[Array, "n"]]) -> Float[Array, "n 4"]:
    # One evaluation for both pairs halves the program XLA has to compile.
    cosines, sines = _box_muller(jnp.concatenate([w[0], w[2]]), jnp.concatenate([w[1], w[3]]))
    n = w[0].shape[0]
    return jnp.stack([cosines[:n], sines[:n], cosines[n:], sines[n:]], -1)


def _uniform(w: Sequence[UInt32[Array, "n"]]) -> Float[Array, "n 4"]:
    return unit(jnp.stack(w, -1))


def _sign(w: Sequence[UInt32[Array, "n"]]) -> Float[Array, "n 128"]:
    bits = (jnp.stack(w, -1)[..., None] >> lax.iota(u32, 32)) & u32(1)
    return jnp.where(bits.reshape(-1, 128) == 1, f32(-1.0), f32(1.0))


def binom8_counts(w: Sequence[UInt32[Array, "n"]]) -> Int8[Array, "n 16"]:
    """Centered binomial counts, -4 to 4: exact in any number format."""
    packed = lax.bitcast_convert_type(jnp.stack(w, -1), jnp.uint8)
    counts: Array = lax.population_count(packed).astype(jnp.int8).reshape(-1, 16)
    return counts - jnp.int8(4)


def _binom8(w: Sequence[UInt32[Array, "n"]]) -> Float[Array, "n 16"]:
    counts: Array = binom8_counts(w).astype(f32)
    return counts * f32(2.0**-0.5)


_KINDS = {"normal": _normal, "uniform": _uniform, "sign": _sign, "binom8": _binom8, "normal_fast": _normal}


@partial(jax.jit, static_argnames=("members", "size", "kind"))  # called outside a program, it is compiled once
def noise(
    key: UInt32[Array, "2"], first: Array | int, members: int, size: int, kind: spec.Kind = "normal"
) -> Float[Array, "members size"]:
    """Noise of members ``first`` to ``first + members - 1`` of one stream, ``size`` float32 values each."""
    per_block, blocks = spec.VALUES_PER_BLOCK[kind], spec.blocks_of(size, kind)
    numbers = word(first) + lax.iota(u32, members)
    values = _KINDS[kind](words_of(jnp.asarray(key, u32)[None], numbers, [blocks]))
    return values.reshape(members, blocks * per_block)[:, :size]


def noise_of_runs(
    keys: UInt32[Array, "runs 2"],
    generations: UInt32[Array, "runs"],
    first: UInt32[Array, "runs"],
    leaf: Array | int,
    members: int,
    size: int,
    kind: spec.Kind = "normal",
) -> Float[Array, "runs members size"]:
    """:func:`noise` of many runs, each in the stream ``fold(key, generation, leaf)`` and from a first member on."""

    def one(key: Array, generation: Array, start: Array) -> Array:
        return noise(fold(key, generation, leaf), start, members, size, kind)

    values: Array = jax.vmap(one)(keys, generations, first)
    return values


def _centered_uniform(w: Sequence[UInt32[Array, "n"]]) -> Float[Array, "n 4"]:
    return _uniform(w) - f32(0.5)


def _counts(w: Sequence[UInt32[Array, "n"]]) -> Float[Array, "n 16"]:
    return binom8_counts(w).astype(f32)


CENTERED = {"normal": _normal, "uniform": _centered_uniform, "sign": _sign, "binom8": _counts, "normal_fast": _normal}


def words_of(
    keys: UInt32[Array, "streams 2"], members: UInt32[Array, "n"], blocks: Sequence[int]
) -> tuple[UInt32[Array, "words"], ...]:
    """Words 0 to 3 of any members of several streams, flat: by member, by stream, by the ``blocks`` of each stream.

    One program for all streams, because what costs time to compile is the generator.
    """
    index, high = [], []
    for count in blocks:
        # The index of a block has 64 bits: a large leaf has more blocks in all than 32 bits can count.
        upper, lower = multiply(count, members.astype(u32))
        index.append(lower[:, None] + lax.iota(u32, count))
        high.append(upper[:, None] + (index[-1] < lower[:, None]).astype(u32))
    key = jnp.asarray(keys, u32)[np.repeat(np.arange(len(blocks)), blocks)]
    k0, k1 = (jnp.broadcast_to(key[:, i], (members.shape[0], key.shape[0])).reshape(-1) for i in (0, 1))
    return philox((jnp.concatenate(index, 1).reshape(-1), jnp.concatenate(high, 1).reshape(-1), k0, k1), (k0, k1))


@partial(jax.jit, static_argnames=("sizes", "kind"))
def centered_noise(
    keys: UInt32[Array, "streams 2"], members: UInt32[Array, "n"], sizes: tuple[int, ...], kind: spec.Kind = "normal"
) -> tuple[Float[Array, "n size"], ...]:
    """Centered noise of any members of several streams: of each the rows of :func:`noise` that ``members`` name.

    Times ``spec.UNIT[kind]`` it has unit variance: entries of "sign" and "binom8" are whole numbers, whose sums and
    products are exact.
    """
    per_block = spec.VALUES_PER_BLOCK[kind]
    blocks = [spec.blocks_of(size, kind) for size in sizes]
    n, ends = members.shape[0], np.cumsum(blocks)
    values = CENTERED[kind](words_of(keys, members, blocks)).reshape(n, sum(blocks), per_block)
    parts = zip(ends - blocks, ends, sizes, strict=True)
    return tuple(values[:, a:b].reshape(n, -1)[:, :size] for a, b, size in parts)


@partial(jax.jit, static_argnames="sizes")
def signs(
    keys: UInt32[Array, "streams 2"], members: UInt32[Array, "n"], sizes: tuple[int, ...]
) -> tuple[Int8[Array, "n size"], ...]:
    """What :func:`centered_noise` makes of kind "sign", in int8 and without a float."""
    per_block = spec.VALUES_PER_BLOCK["sign"]
    blocks = [-(-size // per_block) for size in sizes]
    drawn = jnp.stack(words_of(keys, members, blocks), axis=-1)
    bits = drawn[..., None] >> lax.iota(u32, 32) & u32(1)
    values = (1 - 2 * bits.astype(jnp.int8)).reshape(members.shape[0], per_block * sum(blocks))
    starts = per_block * (np.cumsum(blocks) - blocks)
    return tuple(values[:, start : start + size] for start, size in zip(starts, sizes, strict=True))
