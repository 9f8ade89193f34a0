"""Novelty: how far a behaviour is from those seen before, and the archive of these.

Source: Lehman & Stanley 2011, "Abandoning objectives: evolution through the search for novelty alone"
(doi:10.1162/EVCO_a_00025).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blackbox.arrays import Array, is_jax, namespace

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

LARGEST = 2**22  # differences in memory at once


class Behaviours(NamedTuple):
    """A ring: what is remembered beyond its capacity replaces what was remembered first."""

    points: Float[Array, "capacity k"]
    count: Int[Array, ""]
    """How many were ever remembered."""


def nothing(capacity: int, k: int, like: Array) -> Behaviours:
    """An archive without behaviours of ``k`` numbers, in the library and dtype of ``like``."""
    xp = namespace(like)
    return Behaviours(
        points=xp.zeros((capacity, k), dtype=like.dtype), count=xp.zeros((), dtype=xp.asarray(0).dtype)[()]
    )


def is_filled(archive: Behaviours) -> Bool[Array, "capacity"]:
    """Which rows hold a behaviour."""
    return namespace(archive.points).arange(archive.points.shape[0]) < archive.count


def remember(archive: Behaviours, points: Float[Array, "n k"], chosen: Bool[Array, "n"]) -> Behaviours:
    """The archive with those of the ``points`` that are ``chosen``, in their order."""
    xp = namespace(points)
    capacity = archive.points.shape[0]
    number = xp.cumulative_sum(xp.astype(chosen, archive.count.dtype))
    new = number[-1]
    turn = (xp.arange(capacity) - archive.count) % capacity  # which of the new ones is the first to come to each row
    last = turn + (new - 1 - turn) // capacity * capacity
    source = xp.minimum(xp.searchsorted(number, last + 1), points.shape[0] - 1)
    is_new = (turn < new)[:, None]
    return Behaviours(
        points=xp.where(is_new, xp.take(points, source, axis=0), archive.points), count=archive.count + new
    )


def novelty(
    points: Float[Array, "n k"],
    valid: Bool[Array, "n"],
    archive: Behaviours,
    neighbours: int,
    *,
    together: bool = True,
    squared: bool = False,
) -> Float[Array, "n"]:
    """The mean distance of each point to the nearest ones in the archive and among the points.

    A point is not its own neighbour, another one that does the same is. Where there are fewer neighbours than asked
    for, the mean is over those, and without any novelty is infinite.

    Args:
        points: behaviours.
        valid: which of them are behaviours at all.
        archive: of behaviours.
        neighbours: how many count.
        together: whether the points are neighbours of each other.
        squared: whether distances are squared.
    """
    xp = namespace(points)
    others, known = archive.points, is_filled(archive)
    if together:
        others, known = xp.concat([others, points]), xp.concat([known, valid])
    number = xp.arange(others.shape[0]) - archive.points.shape[0]  # of the archive negative: nobody's own
    means = []
    for part in blocks(points.shape[0], others.shape[0] * others.shape[1]):
        distance = distances(points[part, :], others, squared=squared)
        own = xp.arange(points.shape[0])[part]
        counts = known & (own[:, None] != number)
        means.append(mean_of_least(xp.where(counts, distance, xp.inf), neighbours))
    return xp.concat(means)


def distances(
    points: Float[Array, "n k"], others: Float[Array, "m k"], *, squared: bool = False
) -> Float[Array, "n m"]:
    """Euclidean distances of all pairs; those of points that are the same are 0."""
    xp = namespace(points)
    difference = points[:, None, :] - others[None, :, :]
    square = xp.sum(difference * difference, axis=-1)
    return square if squared else xp.sqrt(square)


def mean_of_least(distance: Float[Array, "n m"], count: int) -> Float[Array, "n"]:
    """The mean of the ``count`` least finite numbers of each row; infinite where there are none."""
    xp = namespace(distance)
    near = _least(distance, min(count, distance.shape[1]))
    is_there = near < xp.inf
    found = xp.sum(xp.astype(is_there, distance.dtype), axis=1)
    total = xp.sum(xp.where(is_there, near, 0.0), axis=1)
    return xp.where(found > 0, total / xp.maximum(found, 1.0), xp.inf)


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of rows of so many numbers, few enough to be in memory at once."""
    size = max(1, LARGEST // max(1, width))
    yield from (slice(i, min(rows, i + size)) for i in range(0, rows, size))


def _least(values: Float[Array, "n m"], count: int) -> Float[Array, "n count"]:
    """The least numbers of each row, ascending: by selection, where a library has that, instead of a sort."""
    xp = namespace(values)
    if isinstance(values, np.ndarray):
        return np.sort(np.partition(values, count - 1, axis=1)[:, :count], axis=1)
    if is_jax(values):
        return -sys.modules["jax"].lax.top_k(-values, count)[0]
    return xp.sort(values, axis=1)[:, :count]
