"""Cells of descriptor space: a grid, whose cell follows from the bounds, or the Voronoi cells of centroids.

Descriptors outside the bounds belong to the nearest cell.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from blackbox.arrays import Array, namespace
from blackbox.errors import SettingError
from blackbox.qd import cvt

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Ranges: TypeAlias = tuple[tuple[float, float], ...]
"""Least and greatest value of each descriptor."""


class Grid(NamedTuple):
    low: Float[Array, "k"]
    high: Float[Array, "k"]
    counts: Int[Array, "k"]
    """Cells along each descriptor."""
    strides: Int[Array, "k"]
    """What the number of a cell grows by along each descriptor."""


class Voronoi(NamedTuple):
    centroids: Float[Array, "cells k"]


Tessellation: TypeAlias = Grid | Voronoi


def require_cells(cells: int | tuple[int, ...], ranges: Ranges) -> None:
    """Raise :class:`SettingError` unless there can be such cells."""
    is_tuple = (
        isinstance(ranges, tuple) and len(ranges) > 0 and all(isinstance(r, tuple) and len(r) == 2 for r in ranges)
    )
    if not is_tuple or not all(-math.inf < low < high < math.inf for low, high in ranges):
        raise SettingError(f"ranges must be a tuple of pairs (low, high) with low < high; got {ranges!r}")
    counts = cells if isinstance(cells, tuple) else (cells,)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in counts):
        raise SettingError(f"cells must be an integer >= 1, or a tuple of one for each descriptor; got {cells!r}")
    if isinstance(cells, tuple) and len(cells) != len(ranges):
        raise SettingError(f"cells must be an integer, or {len(ranges)} of them as there are ranges; got {cells!r}")


def tessellation(cells: int | tuple[int, ...], ranges: Ranges, like: Float[Array, "d"]) -> Tessellation:
    """A grid with so many cells along each descriptor, or that many centroidal Voronoi cells."""
    xp = namespace(like)
    if isinstance(cells, int):
        return Voronoi(xp.asarray(cvt.centroids(cells, ranges), dtype=like.dtype))
    integer = xp.asarray(0).dtype
    return Grid(
        low=xp.asarray([low for low, _ in ranges], dtype=like.dtype),
        high=xp.asarray([high for _, high in ranges], dtype=like.dtype),
        counts=xp.asarray(cells, dtype=integer),
        strides=xp.asarray([math.prod(cells[i + 1 :]) for i in range(len(cells))], dtype=integer),
    )


def cell_of(tessellation: Tessellation, columns: Float[Array, "k n"]) -> Int[Array, "n"]:
    """The number of the cell that each point lies in, or is nearest to; ``columns[j, i]`` is descriptor j of i."""
    if isinstance(tessellation, Voronoi):
        return cvt.nearest(columns.T, tessellation.centroids)
    xp = namespace(columns)
    low, high, counts, strides = (numbers[:, None] for numbers in tessellation)
    inside = xp.minimum(xp.maximum(columns, low), high)  # first, so that what follows stays finite
    at = xp.astype((inside - low) * (xp.astype(counts, low.dtype) / (high - low)), counts.dtype)
    return xp.sum(xp.minimum(at, counts - 1) * strides, axis=0, dtype=counts.dtype)
