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


def z_scores(fitness: Float[Array, "n"]) -> Float[Array, "n"]:
    """Fitness centered and divided by its standard deviation; failed members count as the worst finite one.

    Zero everywhere when all finite values are equal.
    """
    xp = namespace(fitness)
    ok = xp.isfinite(fitness)
    low = xp.asarray(-xp.inf, dtype=fitness.dtype)
    worst = xp.max(xp.where(ok, fitness, low))
    worst = xp.where(xp.isfinite(worst), worst, xp.zeros_like(worst))
    f = xp.where(ok, fitness, worst)
    centered = f - xp.mean(f)
    scale = xp.sqrt(xp.mean(centered * centered))
    one = xp.ones_like(scale)
    return xp.where(scale > 0, centered / xp.where(scale > 0, scale, one), xp.zeros_like(centered))


def pair_signs(fitness: Float[Array, "n"]) -> Float[Array, "n"]:
    """-1 for the better member of each pair (2k, 2k + 1), +1 for the worse, 0 for both if they tie or fail both.

    Only the order within a pair counts (Sarkar et al. 2025, arXiv:2511.16652, appendix H.2).
    """
    xp = namespace(fitness)
    pairs = xp.reshape(finite_or_worst(fitness), (-1, 2))
    first, second = pairs[:, 0], pairs[:, 1]
    sign = xp.astype(first > second, fitness.dtype) - xp.astype(first < second, fitness.dtype)
    return xp.reshape(xp.stack([sign, -sign], axis=1), (-1,))
