"""The variables of a layout and of its conditions as arrays: points, their coordinates, and points near others."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.box import reflect
from blackbox.errors import SettingError
from blackbox.layout import Conditions, Layout, variables_of
from blackbox.model.gaussian_process import Features

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_CHANGED = 0.5  # variables that change beside one


class Variables(NamedTuple):
    """A point has one number for each variable: its coordinate, or the index of its option.

    Integers are at the centers of their cells, and variables of inactive branches all at one place, so that they are
    no distance apart.
    """

    options: Int[ndarray, "v"]
    """Of a choice; 0 for numbers."""
    edges: tuple[tuple[int, Float[ndarray, "cells+1"]], ...]
    """Each integer's variable, and the edges of its cells."""
    first: Int[ndarray, "v"]
    """The first coordinate."""
    owner: Int[ndarray, "d"]
    """The variable of each coordinate, which is that of each feature, too."""
    parents: tuple[tuple[int, int, int], ...]
    """Each conditional variable, and the choice and its option that make it active."""
    is_free: Bool[ndarray, "v"]
    """Whether it is a float."""
    gap: Float[ndarray, "v"]
    """Largest distance between the centers of neighboring cells; 0 for others than integers."""

    def points(self, rows: Float[ndarray, "n d"]) -> Float[ndarray, "n v"]:
        """The points of any rows."""
        rows = reflect(rows)
        points = rows[:, self.first]
        for v in np.flatnonzero(self.options):
            points[:, v] = rows[:, self.first[v] : self.first[v] + self.options[v]].argmax(axis=1)
        return self.settled(points)

    def spread(self, u: Float[ndarray, "n v"]) -> Float[ndarray, "n v"]:
        """Points as evenly as the numbers ``u``."""
        return self.settled(np.where(self.options > 0, self._drawn(u), u))

    def rows(self, points: Float[ndarray, "n v"]) -> Float[ndarray, "n d"]:
        """The rows of points: choices are one-hot."""
        rows = points[:, self.owner]
        for v in np.flatnonzero(self.options):
            k = self.options[v]
            rows[:, self.first[v] : self.first[v] + k] = points[:, v, None] == np.arange(k)
        return rows

    def features(self, points: Float[ndarray, "n v"]) -> Features:
        """Rows of which those of different options are 1 apart."""
        is_number = (self.options == 0)[self.owner]
        return Features(self.rows(points) * np.where(is_number, 1.0, math.sqrt(0.5)), self.owner, is_number)

    def changed(
        self,
        points: Float[ndarray, "n v"],
        u: Float[ndarray, "3 n v"],
        z: Float[ndarray, "n v"],
        steps: tuple[float, float],
    ) -> Float[ndarray, "n v"]:
        """Each point with a variable changed, all of them in turn, and others by chance.

        Args:
            points: to change.
            u: uniform random numbers.
            z: normal ones.
            steps: least and largest deviation of a changed number; an integer goes at least into the next cell.
        """
        n, count = points.shape
        is_changed = u[0] < _CHANGED / count
        is_changed[np.arange(n), np.arange(n) % count] = True
        moved = reflect(points + steps[0] * (steps[1] / steps[0]) ** u[1] * z)
        others = np.maximum(self.options - 1, 1)
        chosen = (points + 1 + np.floor(u[2] * others)) % np.maximum(self.options, 1)
        moved = np.where(self.options > 0, chosen, moved)
        for v, edges in self.edges:
            at, to = (np.searchsorted(edges[1:-1], p[:, v], side="right") for p in (points, moved))
            side = np.where(z[:, v] < 0, -1, 1)
            to = np.where(to == at, at + side, to)
            to = np.where((to < 0) | (to > len(edges) - 2), at - side, to)
            moved[:, v] = 0.5 * (edges[to] + edges[to + 1])
        return self._without_inactive(np.where(is_changed, moved, points))

    def around(
        self,
        center: Float[ndarray, "v"],
        low: Float[ndarray, "v"],
        high: Float[ndarray, "v"],
        chance: Float[ndarray, "n v"],
        u: Float[ndarray, "2 n v"],
    ) -> Float[ndarray, "n v"]:
        """Points that differ from the center in some variables.

        Args:
            center: the point.
            low: of the numbers that differ, and
            high: likewise.
            chance: of each variable to differ. Each point differs in one at least.
            u: uniform random numbers.
        """
        differs = u[0] < chance
        differs[np.arange(len(differs)), (u[0] / chance).argmin(1)] = True
        drawn = np.where(self.options > 0, self._drawn(u[1]), low + (high - low) * u[1])
        return self.settled(np.where(differs, drawn, center))

    def settled(self, points: Float[ndarray, "n v"]) -> Float[ndarray, "n v"]:
        """The points with integers at the centers of their cells, and inactive variables at one place."""
        for v, edges in self.edges:
            cell = np.searchsorted(edges[1:-1], points[:, v], side="right")
            points[:, v] = 0.5 * (edges[cell] + edges[cell + 1])
        return self._without_inactive(points)

    def _without_inactive(self, points: Float[ndarray, "n v"]) -> Float[ndarray, "n v"]:
        """The points with inactive variables at one place."""
        if self.parents:
            points = np.where(self.active(points), points, np.where(self.options > 0, 0.0, 0.5))
        return points + 0.0  # no -0.0

    def active(self, points: Float[ndarray, "n v"]) -> Bool[ndarray, "n v"]:
        """Which variables count."""
        is_active = np.ones(points.shape, dtype=bool)
        for v, parent, option in self.parents:
            is_active[:, v] = is_active[:, parent] & (points[:, parent] == option)
        return is_active

    def _drawn(self, u: Float[ndarray, "n v"]) -> Float[ndarray, "n v"]:
        """Options as evenly as the numbers ``u``."""
        return np.minimum(np.floor(u * self.options), self.options - 1)


@lru_cache(maxsize=256)
def variables(layout: Layout, conditions: Conditions | None = None) -> Variables:
    """The arrays that a layout and its conditions stand for; SettingError for malformed ones."""
    found = variables_of(layout)
    if conditions is None:
        conditions = ((-1, -1),) * len(found)
    for v, condition in enumerate(conditions):
        match condition:
            case (-1, -1):
                continue
            case (int(parent), int(option)) if 0 <= parent < v < len(found) and 0 <= option < found[parent].options:
                continue
        allowed = "(-1, -1) or an earlier choice of the layout and one of its options"
        raise SettingError(f"conditions[{v}] must be {allowed}; got {condition!r}")
    if len(conditions) != len(found):
        raise SettingError(f"conditions must be as many as entries of layout, {len(found)}; got {len(conditions)}")
    options = np.array([variable.options for variable in found])
    edges = tuple((v, np.array([0.0, *found[v].edges, 1.0])) for v in range(len(found)) if found[v].edges)
    gap = np.zeros(len(found))
    for v, bounds in edges:
        gap[v] = np.diff(0.5 * (bounds[1:] + bounds[:-1])).max()
    return Variables(
        options=options,
        edges=edges,
        first=np.array([variable.first for variable in found]),
        owner=np.repeat(np.arange(len(found)), np.maximum(options, 1)),
        parents=tuple((v, *condition) for v, condition in enumerate(conditions) if condition != (-1, -1)),
        is_free=(options == 0) & (gap == 0),
        gap=gap,
    )
