"""Whether the best fitness of a run has stopped changing, in a few scalars."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int

from blackbox.arrays import Array, cond, namespace


class Stall(NamedTuple):
    low: Float[Array, ""]
    high: Float[Array, ""]
    """Least and greatest of the generations' best fitness in the current window."""
    spread: Float[Array, ""]
    """``high - low`` of the last complete window; infinite before."""


def no_stall(like: Array) -> Stall:
    """The start of a run, in the library and dtype of ``like``."""
    xp = namespace(like)
    inf = xp.asarray(xp.inf, dtype=like.dtype)[()]
    return Stall(low=inf, high=-inf, spread=inf)


def watch(stall: Stall, best: Float[Array, ""], generation: Int[Array, ""], window: int) -> Stall:
    """Account for the best fitness of one generation (the ``generation``-th told, from 1)."""
    xp = namespace(stall.low)
    # A generation without any finite fitness says nothing about convergence: it counts as a change.
    best = xp.where(xp.isfinite(best), best, xp.inf)
    low, high = xp.minimum(stall.low, best), xp.maximum(stall.high, best)
    inf = xp.full_like(low, xp.inf)
    return cond(
        generation % window == 0,
        lambda: Stall(low=inf, high=-inf, spread=high - low),
        lambda: Stall(low=low, high=high, spread=stall.spread),
    )
