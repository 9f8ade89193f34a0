"""The best points that were told, with their values, for prompts that list them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.llm.elite_history import LARGEST
from blackbox.shaping import bounded_or_failed

if TYPE_CHECKING:
    from jaxtyping import Float


class Pairs(NamedTuple):
    """The best first; no point twice."""

    points: Float[ndarray, "size d"]
    values: Float[ndarray, "size"]
    """Infinite in rows not in use."""

    @property
    def used(self) -> int:
        """Rows in use."""
        return int(np.isfinite(self.values).sum())


def no_pairs(size: int, d: int) -> Pairs:
    """Room for so many."""
    return Pairs(np.zeros((size, d)), np.full(size, np.inf))


def with_results(pairs: Pairs, population: Float[ndarray, "n d"], fitness: Float[ndarray, "n"]) -> Pairs:
    """The best of those known and those told, which did not fail; of a point told twice the lower value."""
    points = np.concatenate([pairs.points, np.asarray(population, np.float64)])
    values = np.concatenate([pairs.values, bounded_or_failed(fitness, LARGEST)])
    values = np.where(np.isfinite(points).all(axis=1), values, np.inf)
    order = np.lexsort((*points.T[::-1], values))
    order = order[np.isfinite(values[order])]
    _, first = np.unique(points[order], axis=0, return_index=True)
    order = order[np.sort(first)][: len(values) - len(fitness)]
    kept = no_pairs(len(pairs.values), points.shape[1])
    kept.points[: len(order)], kept.values[: len(order)] = points[order], values[order]
    return kept
