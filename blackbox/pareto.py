"""Several objectives at once, lower is better: which points nothing else beats, and how much they dominate.

One point dominates another if it is no worse in any objective and better in one. The points that no other dominates
are the Pareto front of a set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.errors import SettingError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class Front(NamedTuple):
    """Points that do not dominate each other, in the order of their ids; of equal values the first one asked."""

    values: Float[np.ndarray, "n k"]
    ids: Int[np.ndarray, "n 2"]
    rows: Float[np.ndarray, "n d"]
    vectors: Float[np.ndarray, "n k+m"]
    """What was told."""

    @classmethod
    def empty(cls, objectives: int, dimension: int, width: int) -> Front:
        return cls(
            np.empty((0, objectives)),
            np.empty((0, 2), dtype=np.int64),
            np.empty((0, dimension)),
            np.empty((0, width)),
        )

    def joined(self, values: Any, id: tuple[int, int], row: Any, vector: Any) -> Front:
        """With one more point; itself if that is dominated, or equal to an earlier one of it.

        Points may be told in any order: the front is the same.
        """
        is_earlier = (self.ids[:, 0] < id[0]) | ((self.ids[:, 0] == id[0]) & (self.ids[:, 1] < id[1]))
        is_beaten = (values <= self.values).all(1)  # or equal
        if ((self.values <= values).all(1) & ~(is_beaten & ~is_earlier)).any():
            return self
        before, after = is_earlier & ~is_beaten, ~is_earlier & ~is_beaten
        new = (values, id, row, vector)
        return Front(*(np.vstack([old[before], [one], old[after]]) for old, one in zip(self, new, strict=True)))


def non_dominated(values: Float[np.ndarray, "n k"]) -> Bool[np.ndarray, "n"]:
    """Which rows no other row dominates; equal ones are all among them, rows with NaN are not."""
    found = ~np.isnan(values).any(1)
    for i in np.flatnonzero(found):
        if found[i]:
            beaten = (values[i] <= values).all(1) & (values[i] < values).any(1)
            found &= ~beaten
    return found


def hypervolume(values: Any, reference: Any) -> float:
    """The volume between points and a reference point, where at least one of the points dominates. Lower is better.

    Exact, for two objectives in O(n log n) and for three in O(n^2). Points that are not below the reference in every
    objective add nothing.

    Args:
        values: of n points in 2 or 3 objectives, shape (n, k).
        reference: a point that is worse than all that matter, shape (k,).

    Raises:
        SettingError: other shapes, or a reference that is not finite.
    """
    points, corner = np.asarray(values, dtype=float), np.asarray(reference, dtype=float)
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise SettingError(f"values must be of shape (n, 2) or (n, 3); got {points.shape}")
    if corner.shape != points.shape[1:] or not np.isfinite(corner).all():
        raise SettingError(f"reference must be {points.shape[1]} finite numbers; got {reference!r}")
    points = points[(points < corner).all(1)]
    points = points[non_dominated(points)]
    if len(points) == 0:
        return 0.0
    if points.shape[1] == 2:
        return _area(points, corner)
    points = points[np.argsort(points[:, 2], kind="stable")]
    tops = np.append(points[1:, 2], corner[2])  # of the layers, in each of which the same points count
    layers = (_area(points[: i + 1, :2], corner[:2]) * (top - points[i, 2]) for i, top in enumerate(tops))
    return float(sum(layers))


def _area(points: Float[np.ndarray, "n 2"], corner: Float[np.ndarray, "2"]) -> float:
    """The hypervolume in two objectives, dominated points allowed."""
    points = points[np.lexsort((points[:, 1], points[:, 0]))]
    heights = np.minimum.accumulate(points[:, 1])
    widths = np.diff(np.append(points[:, 0], corner[0]))
    return float(widths @ (corner[1] - heights))
