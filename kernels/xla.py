"""Noise specification 1 in JAX: the same words, and under 64-bit mode the same bits of every kind.

Without 64-bit mode XLA decides whether ``a * b + c`` is fused, so ``normal`` may differ from the reference: hardly ever
where it is fused, in the last two bits where it is not. All other kinds are exact in either mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from . import spec
from .environments import ENVIRONMENTS
from .weights import leaves_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int8, Int32, UInt32

    from .rollout import Setting
    from .weights import Arrays

_f32, _u32 = jnp.float32, jnp.uint32
_LARGEST = 2**24  # values of noise in memory at once, in sums


def _multiply(multiplier: int, a: UInt32[Array, "*shape"]) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """High and low words of a 32 x 32 bit product, from four 16-bit products: needs no 64-bit mode."""
    a_low, a_high = a & _u32(0xFFFF), a >> 16
    m_low, m_high = _u32(multiplier & 0xFFFF), _u32(multiplier >> 16)
    low_low, low_high, high_low = a_low * m_low, a_low * m_high, a_high * m_low
    middle = (low_low >> 16) + (low_high & _u32(0xFFFF)) + (high_low & _u32(0xFFFF))
    high = a_high * m_high + (low_high >> 16) + (high_low >> 16) + (middle >> 16)
    return high, a * _u32(multiplier)


def philox(
    counter: Sequence[UInt32[Array, "*shape"]],
    key: Sequence[UInt32[Array, "*shape"]],
    rounds: int = spec.ROUNDS,
) -> tuple[UInt32[Array, "*shape"], ...]:
    """Philox4x32 of four counter words under two key words.

    A loop, because XLA on a CPU otherwise fuses all rounds into every consumer and computes them for each
    again, and with some shapes takes minutes to compile.
    """
    shape = jnp.broadcast_shapes(*(jnp.shape(word) for word in counter))
    w0, w1 = (_u32(w) for w in spec.WEYL)

    def one_round(_: int, state: tuple[Array, ...]) -> tuple[Array, ...]:
        c0, c1, c2, c3, k0, k1 = state
        high0, low0 = _multiply(spec.MULTIPLIERS[0], c0)
        high1, low1 = _multiply(spec.MULTIPLIERS[1], c2)
        return high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0, k0 + w0, k1 + w1

    start = (*(jnp.broadcast_to(word, shape) for word in counter), key[0], key[1])
    return tuple(lax.fori_loop(0, rounds, one_round, start, unroll=5)[:4])


def fold(key: UInt32[Array, "2"], a: Array | int, b: Array | int = 0) -> UInt32[Array, "2"]:
    """The key derived from ``key`` and two integers (taken modulo 2**32)."""
    return _fold(jnp.asarray(key, _u32), _word(a), _word(b))


@jax.jit
def _fold(key: UInt32[Array, "2"], a: UInt32[Array, ""], b: UInt32[Array, ""]) -> UInt32[Array, "2"]:
    k0, k1 = key[0], key[1]
    w0, w1, _, _ = philox((a, b, ~k0, ~k1), (k0, k1))
    return jnp.stack([w0, w1])


def _word(value: Array | int) -> UInt32[Array, ""]:
    if isinstance(value, int):
        return _u32(value & 0xFFFFFFFF)
    word: Array = jnp.asarray(value).astype(_u32)
    return word


def _unit(w: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    odd: Array = (((w >> 9) << 1) | _u32(1)).astype(_f32)
    return odd * _f32(2.0**-24)


def _fma(a: Array, b: Array, c: Array | float) -> Array:
    """A float32 fused multiply-add, exact when float64 exists (see :func:`blackbox.kernels.ref._fma`)."""
    if not jax.config.read("jax_enable_x64"):
        return jnp.add(a * b, _f32(c))
    wide = a.astype(jnp.float64) * b.astype(jnp.float64) + jnp.asarray(c, _f32).astype(jnp.float64)
    # ``reduce_precision`` cannot be optimized away, unlike a pair of conversions.
    return lax.reduce_precision(wide, 8, 23).astype(_f32)


def _exact(x: Array) -> Array:
    """Keep a rounded float32 product out of XLA's fused multiply-adds."""
    return lax.reduce_precision(x, 8, 23) if jax.config.read("jax_enable_x64") else x


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    p = jnp.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        p = _fma(p, x, c)
    return p


def _minus_two_log(u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    bits = lax.bitcast_convert_type(u, jnp.int32)
    exponent = (bits - jnp.int32(spec.TWO_THIRDS)) & jnp.int32(-(2**23))  # where it lies in the bits
    m = lax.bitcast_convert_type(bits - exponent, _f32)  # [2/3, 4/3)
    s = _f32(2.0) - (m + m)
    p = _polynomial(spec.LOG, s)
    return _fma(exponent.astype(_f32), _f32(spec.MINUS_TWO_LN2), _fma(p, _exact(s * s), s))


def _sin_cos_2pi(w: UInt32[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    quarters = w + _u32(2**29)  # two bits for the nearest
    x = lax.bitcast_convert_type(w >> 9 << 11 | _u32(2**10), jnp.int32).astype(_f32) * _f32(2.0**-32)
    z = _exact(x * x)
    # In either mode: else XLA may choose the other one of two products for its fused multiply-add.
    sine = _fma(x, _f32(spec.HALF_PI), lax.reduce_precision(_polynomial(spec.SIN, z) * x, 8, 23))
    cosine = _fma(_polynomial(spec.COS, z), z, 1.0)
    swap = (quarters & _u32(2**30)) != 0
    s, c = jnp.where(swap, cosine, sine), jnp.where(swap, sine, cosine)
    turned = quarters + _u32(2**30)
    return jnp.where(quarters >> 31 == 1, -s, s), jnp.where(turned >> 31 == 1, -c, c)


def _box_muller(a: UInt32[Array, "n"], b: UInt32[Array, "n"]) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    radius = jnp.sqrt(_minus_two_log(_unit(a)))
    s, c = _sin_cos_2pi(b)
    return _exact(radius * c), _exact(radius * s)


def _normal(w: Sequence[UInt32[Array, "n"]]) -> Float[Array, "n 4"]:
    # One evaluation for both pairs halves the program XLA has to compile.
    cosines, sines = _box_muller(jnp.concatenate([w[0], w[2]]), jnp.concatenate([w[1], w[3]]))
    n = w[0].shape[0]
    return jnp.stack([cosines[:n], sines[:n], cosines[n:], sines[n:]], -1)


def _uniform(w: Sequence[UInt32[Array, "n"]]) -> Float[Array, "n 4"]:
    return _unit(jnp.stack(w, -1))


def _sign(w: Sequence[UInt32[Array, "n"]]) -> Float[Array, "n 128"]:
    bits = (jnp.stack(w, -1)[..., None] >> lax.iota(_u32, 32)) & _u32(1)
    return jnp.where(bits.reshape(-1, 128) == 1, _f32(-1.0), _f32(1.0))


def binom8_counts(w: Sequence[UInt32[Array, "n"]]) -> Int8[Array, "n 16"]:
    """Centered binomial counts, -4 to 4: exact in any number format."""
    packed = lax.bitcast_convert_type(jnp.stack(w, -1), jnp.uint8)
    counts: Array = lax.population_count(packed).astype(jnp.int8).reshape(-1, 16)
    return counts - jnp.int8(4)


def _binom8(w: Sequence[UInt32[Array, "n"]]) -> Float[Array, "n 16"]:
    counts: Array = binom8_counts(w).astype(_f32)
    return counts * _f32(2.0**-0.5)


_KINDS = {"normal": _normal, "uniform": _uniform, "sign": _sign, "binom8": _binom8, "normal_fast": _normal}


@partial(jax.jit, static_argnames=("members", "size", "kind"))  # called outside a program, it is compiled once
def noise(
    key: UInt32[Array, "2"], first: Array | int, members: int, size: int, kind: spec.Kind = "normal"
) -> Float[Array, "members size"]:
    """Noise of members ``first`` to ``first + members - 1`` of one stream, ``size`` float32 values each."""
    per_block, blocks = spec.VALUES_PER_BLOCK[kind], spec.blocks_of(size, kind)
    numbers = _word(first) + lax.iota(_u32, members)
    values = _KINDS[kind](words_of(jnp.asarray(key, _u32)[None], numbers, [blocks]))
    return values.reshape(members, blocks * per_block)[:, :size]


def _centered_uniform(w: Sequence[UInt32[Array, "n"]]) -> Float[Array, "n 4"]:
    return _uniform(w) - _f32(0.5)


def _counts(w: Sequence[UInt32[Array, "n"]]) -> Float[Array, "n 16"]:
    return binom8_counts(w).astype(_f32)


_CENTERED = {"normal": _normal, "uniform": _centered_uniform, "sign": _sign, "binom8": _counts, "normal_fast": _normal}


def words_of(
    keys: UInt32[Array, "streams 2"], members: UInt32[Array, "n"], blocks: Sequence[int]
) -> tuple[UInt32[Array, "words"], ...]:
    """Words 0 to 3 of any members of several streams, flat: by member, by stream, by the ``blocks`` of each stream.

    One program for all streams, because what costs time to compile is the generator.
    """
    index, high = [], []
    for count in blocks:
        # The index of a block has 64 bits: a large leaf has more blocks in all than 32 bits can count.
        upper, lower = _multiply(count, members.astype(_u32))
        index.append(lower[:, None] + lax.iota(_u32, count))
        high.append(upper[:, None] + (index[-1] < lower[:, None]).astype(_u32))
    key = jnp.asarray(keys, _u32)[np.repeat(np.arange(len(blocks)), blocks)]
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
    values = _CENTERED[kind](words_of(keys, members, blocks)).reshape(n, sum(blocks), per_block)
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
    bits = drawn[..., None] >> lax.iota(_u32, 32) & _u32(1)
    values = (1 - 2 * bits.astype(jnp.int8)).reshape(members.shape[0], per_block * sum(blocks))
    starts = per_block * (np.cumsum(blocks) - blocks)
    return tuple(values[:, start : start + size] for start, size in zip(starts, sizes, strict=True))


@partial(jax.jit, static_argnames=("kind", "chunk"))
def seedsum(
    keys: UInt32[Array, "streams 2"],
    bases: Sequence[Float[Array, "#sums size"]],
    weights: Float[Array, "sums terms"],
    members: UInt32[Array, "sums terms"],
    kind: spec.Kind = "normal",
    chunk: int = spec.SUM_CHUNK,
) -> tuple[Float[Array, "sums size"], ...]:
    """What :func:`blackbox.kernels.ref.seedsum` computes, but for roundings: XLA fuses products and sums.

    Unless ``chunk`` is 1, as many terms at once as memory allows: a launch for every chunk costs more than its sum.
    """
    sums, terms = weights.shape
    sizes = tuple(base.shape[1] for base in bases)
    start = tuple(jnp.broadcast_to(jnp.asarray(base, _f32), (sums, base.shape[1])) for base in bases)
    if terms * sums * len(bases) == 0:
        return start
    step = 1 if chunk == 1 else max(1, min(terms, _LARGEST // max(1, sums * sum(sizes))))
    # Terms that fill the last step weigh nothing.
    padded = [jnp.pad(x, ((0, 0), (0, -terms % step))) for x in (weights, members.astype(_u32))]
    parts = tuple(jnp.moveaxis(x.reshape(sums, -1, step), 1, 0) for x in padded)

    def add(totals: tuple[Array, ...], part: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        weight, member = part
        drawn = centered_noise(keys, member.reshape(-1), sizes, kind)
        added = [
            jnp.einsum("qk,qkd->qd", weight, e.reshape(sums, step, size), precision=lax.Precision.HIGHEST)
            for e, size in zip(drawn, sizes, strict=True)
        ]
        return tuple(total + more for total, more in zip(totals, added, strict=True)), None

    totals: tuple[Array, ...] = lax.scan(add, start, parts)[0]
    return totals


def formed(setting: Setting, arrays: Arrays) -> Float[Array, "n d"]:
    """The weights of all members, which exist in memory."""
    (keys, base, factors, members), (kind, rank, small) = arrays, setting.form
    if not rank:
        return seedsum(keys, (base,), factors, members, kind, 1)[0]
    leaves = tuple(leaves_of(setting.sizes, small))
    sizes = tuple((x.inputs + x.outputs) * rank if x.is_low_rank else x.stop - x.start for x in leaves)
    parts = []
    for leaf, e in zip(leaves, centered_noise(keys, members[:, 0], sizes, kind), strict=True):
        if leaf.is_low_rank:
            a, b = jnp.split(e.reshape(-1, leaf.inputs + leaf.outputs, rank), [leaf.inputs], axis=1)
            e = jnp.einsum("nir,nor->nio", a, b, precision=lax.Precision.HIGHEST)
        step = factors[:, int(leaf.is_low_rank), None]
        parts.append(base[:, leaf.start : leaf.stop] + step * e.reshape(e.shape[0], -1))
    return jnp.concatenate(parts, 1)


@partial(jax.jit, static_argnames="setting")
def rollout(
    setting: Setting, arrays: Arrays, starts: Float[Array, "episodes state"]
) -> tuple[Float[Array, "n episodes"], Int32[Array, "n episodes"]]:
    """What :func:`blackbox.kernels.ref.rollout` computes, but for roundings; all step until the last episode ends."""
    environment, weights = ENVIRONMENTS[setting.env], formed(setting, arrays)
    n, episodes = weights.shape[0], starts.shape[0]

    def sin_cos(x: Array) -> tuple[Array, Array]:
        return jnp.sin(x), jnp.cos(x)

    def act(state: tuple[Array, ...]) -> Array:
        seen = environment.observe(state, jnp, sin_cos)
        values = jnp.stack([x / scale for x, scale in zip(seen, environment.scale, strict=True)], -1)
        for leaf in leaves_of(setting.sizes, 1):
            part = weights[:, leaf.start : leaf.stop]
            if leaf.is_low_rank and leaf.start:
                values = jnp.tanh(values)
            if leaf.is_low_rank:
                matrix = part.reshape(n, leaf.inputs, leaf.outputs)
                values = jnp.einsum("nei,nio->neo", values, matrix, precision=lax.Precision.HIGHEST)
            else:
                values = values + part[:, None]
        if environment.force is None:
            return jnp.argmax(values, -1).astype(_f32)
        return environment.force * jnp.tanh(values[..., 0])

    def is_running(carry: Any) -> Array:
        time, _, _, _, is_over = carry
        return (time < setting.steps) & ~is_over.all()

    def advance(carry: Any) -> Any:
        time, state, total, lengths, was_over = carry
        state, reward, ends = environment.step(state, act(state), jnp, sin_cos)
        return time + 1, state, total + jnp.where(was_over, 0, reward), lengths + ~was_over, was_over | ends

    begin = tuple(jnp.broadcast_to(x, (n, episodes)) for x in starts.T)
    zero = jnp.zeros((n, episodes), _f32)
    carry = (jnp.int32(0), begin, zero, zero.astype(jnp.int32), zero.astype(bool))
    _, _, total, lengths, _ = lax.while_loop(is_running, advance, carry)
    return total, lengths


@partial(jax.jit, static_argnames=("size", "rank", "kind"))
def lowrank_mix(
    x: Float[Array, "#n rows m"],
    y: Float[Array, "#n rows k"],
    source: UInt32[Array, "n 6"],
    size: int,
    rank: int,
    kind: spec.Kind = "normal",
) -> Float[Array, "n rows k"]:
    """What :func:`blackbox.kernels.ref.lowrank_mix` computes, but for roundings."""
    m, k = x.shape[2], y.shape[2]
    a, b = lowrank_factors(source, (m * rank, k * rank), size, kind)
    exact = lax.Precision.HIGHEST
    narrow = jnp.einsum(
        "ntm,nmr->ntr", jnp.broadcast_to(x, (len(a), *x.shape[1:])), a.reshape(-1, m, rank), precision=exact
    )
    return y + jnp.einsum("ntr,nkr->ntk", narrow, b.reshape(-1, k, rank), precision=exact)


@partial(jax.jit, static_argnames=("sizes", "size", "kind"))
def lowrank_factors(
    source: UInt32[Array, "n 6"], sizes: tuple[int, int], size: int, kind: spec.Kind = "normal"
) -> tuple[Float[Array, "n a"], Float[Array, "n b"]]:
    """What :func:`blackbox.kernels.ref.lowrank_factors` makes."""
    step = lax.bitcast_convert_type(source[:, 3:4], _f32)
    a, b = (_part_of_row(source, source[:, 4 + i], count, size, kind) for i, count in enumerate(sizes))
    return step * a, b


def _part_of_row(
    source: UInt32[Array, "n 6"], offset: UInt32[Array, "n"], count: int, size: int, kind: spec.Kind
) -> Float[Array, "n count"]:
    """Values of each source's member from an offset on."""
    per_block = spec.VALUES_PER_BLOCK[kind]
    used = spec.blocks_of(count + per_block - 1, kind)
    upper, lower = _multiply(spec.blocks_of(size, kind), source[:, 2])
    first = lower + offset // per_block
    index = first[:, None] + lax.iota(_u32, used)
    high = (upper + (first < lower))[:, None] + (index < first[:, None])
    k0, k1 = (jnp.broadcast_to(source[:, i : i + 1], index.shape).reshape(-1) for i in (0, 1))
    values = _CENTERED[kind](philox((index.reshape(-1), high.reshape(-1), k0, k1), (k0, k1)))
    at = (offset % per_block)[:, None] + lax.iota(_u32, count)
    return jnp.take_along_axis(values.reshape(-1, used * per_block), at, axis=1)
