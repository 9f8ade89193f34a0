"""Fitness shaping: from fitness (lower is better, NaN = failed = worst) to ranks and weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.arrays import Array, namespace

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped


def finite_or_worst(fitness: Float[Array, "n"], dtype: Any = None) -> Float[Array, "n"]:
    """Fitness, as ``dtype`` if one is given, with NaN replaced by plus infinity, so that failed members rank last."""
    xp = namespace(fitness)
    if dtype is not None and fitness.dtype != dtype:
        fitness = xp.astype(fitness, dtype)
    return xp.where(xp.isnan(fitness), xp.asarray(xp.inf, dtype=fitness.dtype), fitness)


def bounded_or_failed(fitness: Float[Array, "n"], largest: float) -> Float[np.ndarray, "n"]:
    """Fitness for models of values, in float64 of NumPy: at most ``largest`` in magnitude, or infinite if failed."""
    values = finite_or_worst(np.asarray(fitness, np.float64))
    return np.where(values == np.inf, np.inf, np.clip(values, -largest, largest))


def best_first(fitness: Float[Array, "n"]) -> Int[Array, "n"]:
    """Member indices from best to worst; ties keep their order, NaN comes last (in every library's sort)."""
    return namespace(fitness).argsort(fitness, stable=True)


def centered_ranks(fitness: Float[Array, "n"]) -> Float[Array, "n"]:
    """Ranks scaled to [-1/2, 1/2], best member -1/2 (Salimans et al. 2017, section 2.1, for minimization).

    Members of equal fitness share the mean of their ranks, so the result does not depend on their order.
    """
    return whole_ranks(fitness) / (2 * max(1, fitness.shape[0] - 1))


def whole_ranks(fitness: Float[Array, "n"]) -> Float[Array, "n"]:
    """Centered ranks as whole numbers: ``1 - n, 3 - n, ..., n - 1`` from the best member to the worst.

    Of the dtype of the fitness, or float32 if that is of integers or too narrow to count in.
    """
    xp = namespace(fitness)
    f = _comparable(fitness)
    ordered = xp.sort(f)
    below = xp.searchsorted(ordered, f, side="left")
    up_to = xp.searchsorted(ordered, f, side="right")
    return xp.astype(below + up_to - f.shape[0], _counting(xp, f.dtype))


def _comparable(fitness: Shaped[Array, "n"]) -> Shaped[Array, "n"]:
    """Fitness that can be ordered: NaN is worst, integers stay what they are."""
    return finite_or_worst(fitness) if namespace(fitness).isdtype(fitness.dtype, "real floating") else fitness


def _counting(xp: Any, dtype: Any) -> Any:
    """``dtype`` if it holds all whole numbers that populations need, else float32."""
    return dtype if xp.isdtype(dtype, "real floating") and xp.finfo(dtype).bits >= 32 else xp.float32


def z_scores(fitness: Float[Array, "n"]) -> Float[Array, "n"]:
    """Fitness centered and divided by its standard deviation; failed members count as the worst finite one.

    Minus infinity counts as the best finite one. Zero everywhere when all finite values are equal up to rounding.
    """
    f = _filled(fitness, axis=0)
    return _over_deviation(f - namespace(f).mean(f), f)


def group_relative(fitness: Float[Array, "n *items"], size: int) -> Float[Array, "n"]:
    """Fitness less the mean of its group, over the standard deviation of all (Sarkar et al. 2025, section 6.3).

    Members of a group share a data item, whose difficulty cancels; one deviation for all groups keeps the weight of
    each. Failed members count as the worst of their group.

    Args:
        fitness: shape ``(n,)`` in groups of ``size`` members that follow each other, or ``(n, items)`` where each
            member has met every item: then a group is what met one item, and a member's items are averaged.
        size: members of a group, a divisor of n.
    """
    xp = namespace(fitness)
    f = _filled(xp.reshape(fitness, (-1, size, *fitness.shape[1:])), axis=1)
    shaped = xp.reshape(_over_deviation(f - xp.mean(f, axis=1, keepdims=True), f), fitness.shape)
    return shaped if shaped.ndim == 1 else xp.mean(shaped, axis=tuple(range(1, shaped.ndim)))


def _filled(fitness: Float[Array, "*shape"], axis: int) -> Float[Array, "*shape"]:
    """Fitness between -1 and 1, with NaN and infinity replaced by the worst along an axis (of all if none is).

    Minus infinity is replaced by the best.
    """
    xp = namespace(fitness)
    ok = xp.isfinite(fitness)
    zero = xp.zeros_like(fitness)
    largest = xp.max(xp.abs(xp.where(ok, fitness, zero)))  # squares of huge values would overflow
    f = fitness / xp.where(largest > 0, largest, xp.ones_like(largest))
    low = xp.asarray(-xp.inf, dtype=f.dtype)
    worst = xp.max(xp.where(ok, f, low), axis=axis, keepdims=True)
    of_all = xp.max(worst)
    of_all = xp.where(xp.isfinite(of_all), of_all, xp.zeros_like(of_all))
    best = xp.min(xp.where(ok, f, -low), axis=axis, keepdims=True)
    worst = xp.where(xp.isfinite(worst), worst, of_all)
    best = xp.where(xp.isfinite(best), best, worst)
    return xp.where(ok, f, xp.where(fitness == low, best, worst))


def _over_deviation(centered: Float[Array, "*shape"], of: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """``centered`` over the standard deviation of ``of``, which is within 1; zeros where that is rounding alone."""
    xp = namespace(centered)
    spread = of - xp.mean(of)
    scale = xp.sqrt(xp.mean(spread * spread))
    positive = scale > xp.finfo(of.dtype).eps
    return xp.where(positive, centered / xp.where(positive, scale, xp.ones_like(scale)), xp.zeros_like(centered))


def pair_signs(fitness: Float[Array, "n"]) -> Float[Array, "n"]:
    """-1 for the better member of each pair (2k, 2k + 1), +1 for the worse, 0 for both if they tie or fail both.

    Only the order within a pair counts (Sarkar et al. 2025, arXiv:2511.16652, appendix H.2).
    """
    xp = namespace(fitness)
    pairs = xp.reshape(_comparable(fitness), (-1, 2))
    first, second = pairs[:, 0], pairs[:, 1]
    dtype = _counting(xp, fitness.dtype)
    sign = xp.astype(first > second, dtype) - xp.astype(first < second, dtype)
    return xp.reshape(xp.stack([sign, -sign], axis=1), (-1,))
