"""Fitness shaping: from fitness (lower is better, NaN = failed = worst) to ranks and weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blackbox.arrays import Array, namespace

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def finite_or_worst(fitness: Float[Array, "n"], dtype: Any = None) -> Float[Array, "n"]:
    """Fitness, as ``dtype`` if one is given, with NaN replaced by plus infinity, so that failed members rank last."""
    xp = namespace(fitness)
    if dtype is not None and fitness.dtype != dtype:
        fitness = xp.astype(fitness, dtype)
    return xp.where(xp.isnan(fitness), xp.asarray(xp.inf, dtype=fitness.dtype), fitness)


def best_first(fitness: Float[Array, "n"]) -> Int[Array, "n"]:
    """Member indices from best to worst; ties keep their order, NaN comes last (in every library's sort)."""
    return namespace(fitness).argsort(fitness, stable=True)


def centered_ranks(fitness: Float[Array, "n"]) -> Float[Array, "n"]:
    """Ranks scaled to [-1/2, 1/2], best member -1/2 (Salimans et al. 2017, section 2.1, for minimization).

    Members of equal fitness share the mean of their ranks, so the result does not depend on their order.
    """
    xp = namespace(fitness)
    f = finite_or_worst(fitness)
    n = f.shape[0]
    if n == 1:
        return xp.zeros_like(f)
    ordered = xp.sort(f)
    below = xp.searchsorted(ordered, f, side="left")
    up_to = xp.searchsorted(ordered, f, side="right")
    mean_rank = xp.astype(below + up_to - 1, f.dtype) / 2
    return mean_rank / (n - 1) - 0.5
