"""Archives of elites: the best solution known of each cell of descriptor space.

Sources: Mouret & Clune 2015, "Illuminating search spaces by mapping elites" (arXiv:1504.04909); acceptance by
thresholds from Fontaine & Nikolaidis 2023, "Covariance matrix adaptation MAP-Annealing" (arXiv:2205.10752):

    elite_c     <- the best of its candidates, if better than elite_c; of equal ones the first of the batch
    accepted    if f < t_c
    t_c         <- f of elite_c, or with a rate alpha (1 - alpha)^n t_c + (1 - (1 - alpha)^n) mean of n accepted f

A rate does not make elites worse: an archive has both what the papers keep in an archive and a result archive.
Candidates that failed or have no finite descriptors change nothing. In NumPy and JAX the best of a cell is found by
minima that are scattered, which no order of the candidates changes, in a hundredth of the time of a sort.

Cost of a batch: O(n (k + d) + cells d). State O(cells d).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blackbox.arrays import Array, choose, first_least, is_jax, namespace, settled
from blackbox.best import Best
from blackbox.qd.tessellation import Tessellation, cell_of, tessellation

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped

    from blackbox.qd.tessellation import Ranges


class Archive(NamedTuple):
    tessellation: Tessellation
    solutions: Float[Array, "cells d"]
    fitness: Float[Array, "cells"]
    """Infinite where there is no elite."""
    descriptors: Float[Array, "cells k"]
    threshold: Float[Array, "cells"]
    """What a candidate's fitness must be below to be accepted."""


class Outcome(NamedTuple):
    """What became of each candidate, compared with the archive before."""

    status: Int[Array, "n"]
    """0: not accepted, 1: better than the threshold of a cell with an elite, 2: the first in its cell."""
    value: Float[Array, "n"]
    """How far below the threshold; of a first one in a cell without any its negative fitness; failed: -inf."""


def empty(cells: int | tuple[int, ...], ranges: Ranges, x0: Float[Array, "d"]) -> Archive:
    """An archive without elites and thresholds, in the library and dtype of ``x0``.

    Args:
        cells: of a grid, along each descriptor; or one number, of centroidal Voronoi cells.
        ranges: least and greatest value of each descriptor.
        x0: any solution.
    """
    xp = namespace(x0)
    n = cells if isinstance(cells, int) else math.prod(cells)
    return Archive(
        tessellation=tessellation(cells, ranges, x0),
        solutions=xp.zeros((n, x0.shape[0]), dtype=x0.dtype),
        fitness=xp.full((n,), xp.inf, dtype=x0.dtype),
        descriptors=xp.zeros((n, len(ranges)), dtype=x0.dtype),
        threshold=xp.full((n,), xp.inf, dtype=x0.dtype),
    )


def insert(
    archive: Archive,
    solutions: Float[Array, "n d"],
    fitness: Float[Array, "n"],
    descriptors: Float[Array, "n k"],
    alpha: Float[Array, ""] | float | None = None,
) -> tuple[Archive, Outcome]:
    """The archive after a batch of candidates, and what became of each.

    Args:
        archive: as made by :func:`empty`.
        solutions: of the candidates.
        fitness: lower is better.
        descriptors: of each.
        alpha: the rate of thresholds, from 0 to 1; None: they are the elites' fitness.
    """
    xp = namespace(archive.fitness)
    n, cells = fitness.shape[0], archive.fitness.shape[0]
    solutions, fitness, descriptors = (
        a if a.dtype == archive.fitness.dtype else xp.astype(a, archive.fitness.dtype)
        for a in (solutions, fitness, descriptors)
    )
    columns = xp.stack(xp.unstack(descriptors, axis=1))  # rows of few numbers are slow to work on
    is_valid = xp.isfinite(fitness) & xp.all(xp.isfinite(columns), axis=0)
    cell = cell_of(archive.tessellation, choose(is_valid, lambda: columns, lambda: xp.zeros_like(columns)))
    f = choose(is_valid, lambda: fitness, lambda: xp.full_like(fitness, xp.inf))

    best = least_of_each(cell, f, cells, xp.inf)
    number = xp.arange(n, dtype=cell.dtype)
    first = least_of_each(cell, xp.where(f == xp.take(best, cell), number, n - 1), cells, n - 1)
    is_better = best < archive.fitness
    elites = archive._replace(
        solutions=xp.where(is_better[:, None], xp.take(solutions, first, axis=0), archive.solutions),
        fitness=xp.where(is_better, best, archive.fitness),
        descriptors=xp.where(is_better[:, None], xp.take(descriptors, first, axis=0), archive.descriptors),
    )

    threshold = xp.take(archive.threshold, cell)
    is_accepted = f < threshold
    is_first = (threshold if alpha is None else xp.take(archive.fitness, cell)) == xp.inf
    finite = choose(is_valid, lambda: f, lambda: xp.zeros_like(f))
    gain = choose(threshold < xp.inf, lambda: threshold - finite, lambda: -finite)
    outcome = Outcome(
        status=xp.astype(is_accepted, cell.dtype) * (1 + xp.astype(is_first, cell.dtype)),
        value=choose(is_valid, lambda: gain, lambda: xp.full_like(f, -xp.inf)),
    )
    if alpha is None:
        return elites._replace(threshold=elites.fitness), outcome
    mean, accepted = _means(cell, xp.where(is_accepted, f, 0.0), xp.astype(is_accepted, f.dtype), cells)
    kept = (1 - alpha) ** accepted
    annealed = kept * archive.threshold + (1 - kept) * mean
    return elites._replace(threshold=xp.where(accepted > 0, annealed, archive.threshold)), outcome


def least_of_each(
    group: Int[Array, "n"], values: Shaped[Array, "n"], groups: int, none: float
) -> Shaped[Array, "groups"]:
    """The least value of each group, ``none`` if that is less."""
    xp = namespace(values)
    start = xp.full((groups,), none, dtype=values.dtype)
    if isinstance(values, np.ndarray):
        np.minimum.at(start, group, values)
        return start
    if is_jax(values):
        return start.at[group].min(values)
    order = xp.argsort(values, stable=True)
    order = xp.take(order, xp.argsort(xp.take(group, order), stable=True))
    ordered, each = xp.take(group, order), xp.arange(groups, dtype=group.dtype)
    at = xp.minimum(xp.searchsorted(ordered, each), group.shape[0] - 1)
    least = xp.minimum(xp.take(values, xp.take(order, at)), start)
    return xp.where(xp.take(ordered, at) == each, least, start)


def _means(
    group: Int[Array, "n"], values: Float[Array, "n"], weights: Float[Array, "n"], groups: int
) -> tuple[Float[Array, "groups"], Float[Array, "groups"]]:
    """The mean of each group's values whose weight is 1, and how many they are; other values are 0.

    Sorted groups are summed in steps that double: in no order but this one, and without the sums of other groups.
    """
    xp = namespace(values)
    order = xp.argsort(group, stable=True)
    of, sums = xp.take(group, order), xp.stack([xp.take(values, order), xp.take(weights, order)])
    step = 1
    while step < group.shape[0]:
        is_same = of[step:] == of[:-step]
        sums = xp.concat([sums[:, :step], sums[:, step:] + xp.where(is_same, sums[:, :-step], 0.0)], axis=1)
        step *= 2
    each = xp.arange(groups, dtype=group.dtype)
    end = xp.searchsorted(of, each, side="right") - 1
    at = xp.maximum(end, 0)
    total = xp.where((end >= 0) & (xp.take(of, at) == each), xp.take(sums, at, axis=1), 0.0)
    return total[0, :] / xp.maximum(total[1, :], 1.0), total[1, :]


def sample(archive: Archive, u: Float[Array, "n"]) -> Float[Array, "n d"]:
    """For each uniform number an elite, all of the same probability; zeros if there is none."""
    xp = namespace(archive.fitness)
    number = xp.cumulative_sum(xp.astype(archive.fitness < xp.inf, xp.asarray(0).dtype))  # of elites up to each cell
    wanted = 1 + xp.astype(xp.floor(u * xp.astype(number[-1], u.dtype)), number.dtype)
    cell = xp.searchsorted(number, xp.minimum(wanted, number[-1]))
    return xp.take(archive.solutions, cell, axis=0)


def is_empty(archive: Archive) -> Bool[Array, ""]:
    """Whether there is no elite."""
    return namespace(archive.fitness).min(archive.fitness) == float("inf")


def best(archive: Archive) -> Best:
    """The best elite, of fitness inf if there is none."""
    least, cell = first_least(archive.fitness)
    return Best(namespace(least).take(archive.solutions, cell[None], axis=0)[0, :], settled(least))


def recommended(archive: Archive, x0: Float[Array, "d"]) -> Float[Array, "d"]:
    """The best elite, ``x0`` if there is none."""
    return namespace(x0).where(is_empty(archive), x0, best(archive).x)


def coverage(archive: Archive) -> Float[Array, ""]:
    """The share of cells that have an elite."""
    xp = namespace(archive.fitness)
    return xp.mean(xp.astype(archive.fitness < xp.inf, archive.fitness.dtype))


def qd_score(archive: Archive, offset: float) -> Float[Array, ""]:
    """The sum over elites of how far their fitness is below ``offset``, the same for all runs that are compared.

    Args:
        archive: of any number of elites.
        offset: what no fitness exceeds, so that no elite lowers the score.
    """
    xp = namespace(archive.fitness)
    return xp.sum(xp.where(archive.fitness < xp.inf, offset - archive.fitness, 0.0))


def corrected(archive: Archive, fitness: Float[Array, "cells"], descriptors: Float[Array, "cells k"]) -> Archive:
    """The archive that its elites make by values measured anew, in which no lucky value counts.

    Its :func:`qd_score` and :func:`coverage` are the corrected ones of Flageat & Cully 2023, "Uncertain
    quality-diversity" (arXiv:2302.00463).

    Args:
        archive: of a task with noise.
        fitness: of ``archive.solutions``, such as means over repeats; whatever it is where there is no elite.
        descriptors: of the same.
    """
    xp = namespace(archive.fitness)
    nobody = xp.full_like(archive.fitness, xp.inf)
    measured = xp.where(archive.fitness < xp.inf, fitness, nobody)
    return insert(archive._replace(fitness=nobody, threshold=nobody), archive.solutions, measured, descriptors)[0]
