"""Products with members' noise of low rank."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import spec
from .generator import multiply, philox, u32
from .kinds import CENTERED, f32

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32


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
        "ntm,nmr->ntr", jnp.broadcast_to(x, (len(a), *x.shape[1:])), a.reshape(len(a), m, rank), precision=exact
    )
    return y + jnp.einsum("ntr,nkr->ntk", narrow, b.reshape(len(a), k, rank), precision=exact)


@partial(jax.jit, static_argnames=("sizes", "size", "kind"))
def lowrank_factors(
    source: UInt32[Array, "n 6"], sizes: tuple[int, int], size: int, kind: spec.Kind = "normal"
) -> tuple[Float[Array, "n a"], Float[Array, "n b"]]:
    """What :func:`blackbox.kernels.ref.lowrank_factors` makes."""
    step = lax.bitcast_convert_type(source[:, 3:4], f32)
    a, b = (_part_of_row(source, source[:, 4 + i], count, size, kind) for i, count in enumerate(sizes))
    return step * a, b


def _part_of_row(
    source: UInt32[Array, "n 6"], offset: UInt32[Array, "n"], count: int, size: int, kind: spec.Kind
) -> Float[Array, "n count"]:
    """Values of each source's member from an offset on."""
    per_block = spec.VALUES_PER_BLOCK[kind]
    used = spec.blocks_of(count + per_block - 1, kind)
    upper, lower = multiply(spec.blocks_of(size, kind), source[:, 2])
    first = lower + offset // per_block
    index = first[:, None] + lax.iota(u32, used)
    high = (upper + (first < lower))[:, None] + (index < first[:, None])
    k0, k1 = (jnp.broadcast_to(source[:, i : i + 1], index.shape).reshape(-1) for i in (0, 1))
    values = CENTERED[kind](philox((index.reshape(-1), high.reshape(-1), k0, k1), (k0, k1)))
    at = (offset % per_block)[:, None] + lax.iota(u32, count)
    return jnp.take_along_axis(values.reshape(-1, used * per_block), at, axis=1)
