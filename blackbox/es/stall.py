"""Whether the best fitness of a run has stopped changing, in a few scalars."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from blackbox.arrays import Array, cond, namespace

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Stall(NamedTuple):
    """Extremes of the generations' best fitness, in two half windows: a sliding window in steps of its half."""

    low: Float[Array, ""]
    high: Float[Array, ""]
    """Of the current half window."""
    former_low: Float[Array, ""]
    former_high: Float[Array, ""]
    """Of the half window before."""
    spread: Float[Array, ""]
    """Greatest less least over the last two complete halves; infinite before."""


def no_stall(like: Array) -> Stall:
    """The start of a run, in the library and dtype of ``like``."""
    xp = namespace(like)
    inf = xp.asarray(xp.inf, dtype=like.dtype)[()]
    return Stall(low=inf, high=-inf, former_low=inf, former_high=inf, spread=inf)


def watch(stall: Stall, best: Float[Array, ""], generation: Int[Array, ""], window: int) -> Stall:
    """Account for the best fitness of one generation (the ``generation``-th told, from 1)."""
    xp = namespace(stall.low)
    # A generation without any finite fitness says nothing about convergence: it counts as a change.
    best = xp.where(xp.isfinite(best), best, xp.inf)
    if best.dtype != stall.low.dtype:
        best = xp.astype(best, stall.low.dtype)[()]
    low, high = xp.minimum(stall.low, best), xp.maximum(stall.high, best)

    def next_half() -> Stall:
        inf = xp.full_like(low, xp.inf)
        least, greatest = xp.minimum(low, stall.former_low), xp.maximum(high, stall.former_high)
        spread = xp.where(xp.isfinite(greatest), greatest - xp.where(xp.isfinite(least), least, 0.0), inf)
        return Stall(low=inf, high=-inf, former_low=low, former_high=high, spread=spread)

    return cond(generation % -(-window // 2) == 0, next_half, lambda: stall._replace(low=low, high=high))
