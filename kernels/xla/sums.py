"""Weighted sums of members' noise."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import spec
from .generator import u32
from .kinds import centered_noise, f32

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32

_LARGEST = 2**24  # values of noise in memory at once, in sums


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
    start = tuple(jnp.broadcast_to(jnp.asarray(base, f32), (sums, base.shape[1])) for base in bases)
    if terms * sums * len(bases) == 0:
        return start
    step = 1 if chunk == 1 else max(1, min(terms, _LARGEST // max(1, sums * sum(sizes))))
    # Terms that fill the last step weigh nothing.
    padded = [jnp.pad(x, ((0, 0), (0, -terms % step))) for x in (weights, members.astype(u32))]
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
