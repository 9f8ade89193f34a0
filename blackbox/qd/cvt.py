"""Centroidal Voronoi tessellations: centroids by k-means of uniform samples, spread evenly over a box.

Source: Vassiliades, Chatzilygeroudis & Mouret 2018, "Using centroidal Voronoi tessellations to scale up the
multidimensional archive of phenotypic elites algorithm" (arXiv:1610.05729), algorithm 2; the start is k-means++
(Arthur & Vassilvitskii 2007). The samples are those of one fixed key, so that all runs with the same settings have the
same cells and their scores can be compared. Cost: O(cells samples), once for each setting in a process.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.arrays import Array, first_least, namespace
from blackbox.kernels.noise import key, uniform

if TYPE_CHECKING:
    from jaxtyping import Float, Int

SAMPLES = 20  # for each cell
ROUNDS = 30
STILL = 1e-3  # mean shift of the centroids, in units of a cell's width, at which k-means ends
LARGEST = 2**22  # distances in memory at once


@lru_cache(maxsize=16)
def centroids(cells: int, ranges: tuple[tuple[float, float], ...]) -> Float[np.ndarray, "cells k"]:
    """So many centroids in a box."""
    k = len(ranges)
    low, high = np.array(ranges, float).T
    samples = uniform(key(0), 0, (SAMPLES * cells, k), like=low)  # in the unit cube: ranges weigh alike
    centers = _far_apart(samples, uniform(key(0), 1, (cells, 1), like=low)[:, 0])
    for _ in range(ROUNDS):
        owner = nearest(samples, centers)
        count = np.bincount(owner, minlength=cells)
        sums = np.stack([np.bincount(owner, samples[:, j], minlength=cells) for j in range(k)], axis=1)
        moved = np.where(count[:, None] > 0, sums / np.maximum(count, 1)[:, None], centers)
        shift, centers = np.abs(moved - centers).mean(), moved
        if shift < STILL * cells ** (-1 / k):
            break
    return low + (high - low) * centers


def nearest(points: Float[Array, "n k"], centroids: Float[Array, "cells k"]) -> Int[Array, "n"]:
    """The nearest centroid of each point: by a tree where SciPy is at hand, else by products of matrices."""
    if isinstance(points, np.ndarray) and (tree := _tree(centroids.tobytes(), centroids.shape, centroids.dtype)):
        return tree.query(points)[1]
    xp = namespace(points)
    squares = xp.vecdot(centroids, centroids)
    n, rows = points.shape[0], max(1, LARGEST // centroids.shape[0])
    parts = [points[i : min(n, i + rows), :] for i in range(0, n, rows)]
    # |x|^2 - 2 x c + |c|^2, of which the first is the same for all cells.
    return xp.concat([first_least(squares - 2 * (part @ centroids.T))[1] for part in parts])


@lru_cache(maxsize=4)
def _tree(centroids: bytes, shape: tuple[int, int], dtype: Any) -> Any:
    """A k-d tree of the centroids, or None without SciPy; in many dimensions it is no faster than products."""
    if shape[1] > 8:
        return None
    try:
        from scipy.spatial import KDTree
    except ImportError:
        return None
    return KDTree(np.frombuffer(centroids, dtype).reshape(shape))


def _far_apart(samples: Float[np.ndarray, "n k"], chance: Float[np.ndarray, "cells"]) -> Float[np.ndarray, "cells k"]:
    """k-means++: each next center is a sample drawn in proportion to its squared distance from those before."""
    chosen = [int(chance[0] * len(samples))]
    distance = np.full(len(samples), np.inf)
    for u in chance[1:]:
        np.minimum(distance, ((samples - samples[chosen[-1]]) ** 2).sum(axis=1), out=distance)
        total = np.cumsum(distance)
        chosen.append(min(int(np.searchsorted(total, u * total[-1])), len(samples) - 1))
    return samples[chosen]
