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
from blackbox.model.covariance import Features

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_CHANGED = 0.5  # variables that change beside one


class Cells(NamedTuple):
    """The cells of all integers, numbered through."""

    variables: Int[ndarray, "m"]
    """That are integers."""
    order: Int[ndarray, "v"]
    """Of each variable among them, from 0; -1 for others."""
    first: Int[ndarray, "m+1"]
    """Number of the first cell of each, and of all cells."""
    edges: Float[ndarray, "cells-m"]
    """Between the cells of each, plus twice its order, so that all of them ascend."""
    centers: Float[ndarray, "cells"]

    def of(self, order: Int[ndarray, "*n"], values: Float[ndarray, "*n"]) -> Int[ndarray, "*n"]:
        """The cells of values of the integers of such order."""
        return np.searchsorted(self.edges, values + 2.0 * order, side="right") + order

    def moved(
        self, order: Int[ndarray, "n"], old: Float[ndarray, "n"], new: Float[ndarray, "n"], side: Float[ndarray, "n"]
    ) -> Float[ndarray, "n"]:
        """Centers of the cells of new values, or of one next to that of the old value, on the side of a sign."""
        at, to, step = self.of(order, old), self.of(order, new), np.where(side < 0, -1, 1)
        to = np.where(to == at, at + step, to)
        is_outside = (to < self.first[order]) | (to >= self.first[order + 1])
        return self.centers[np.where(is_outside, at - step, to)]


class Variables(NamedTuple):
    """A point has one number for each variable: its coordinate, or the index of its option.

    Integers are at the centers of their cells, and variables of inactive branches all at one place, so that they are
    no distance apart.
    """

    options: Int[ndarray, "v"]
    """Of a choice; 0 for numbers."""
    is_choice: Bool[ndarray, "v"]
    option: Int[ndarray, "d"]
    """Of a choice, that each coordinate stands for; -1 for numbers."""
    cells: Cells
    """Of the integers."""
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
        return self.settled(np.where(self.is_choice, self._drawn(u), u))

    def rows(self, points: Float[ndarray, "n v"]) -> Float[ndarray, "n d"]:
        """The rows of points: choices are one-hot."""
        rows = points[:, self.owner]
        return np.where(self.option < 0, rows, rows == self.option)

    def features(self, points: Float[ndarray, "n v"]) -> Features:
        """Rows of which those of different options are 1 apart."""
        is_number, rows = self.option < 0, points[:, self.owner]
        return Features(np.where(is_number, rows, (rows == self.option) * math.sqrt(0.5)), self.owner, is_number)

    def changed(
        self,
        points: Float[ndarray, "n v"],
        u: Float[ndarray, "n v"],
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
        chance, turns = _CHANGED / count, np.arange(n) * count + np.arange(n) % count
        is_changed = u < chance
        is_changed.flat[turns] = True
        at = np.flatnonzero(is_changed)
        v, old, side, share = at % count, points.flat[at], z.flat[at], u.flat[at]
        share = np.where(at // count % count == v, share, share / chance)  # is as uniform
        moved = reflect(old + steps[0] * (steps[1] / steps[0]) ** share * side)
        chosen = (old + 1 + np.floor(share * (self.options[v] - 1))) % np.maximum(self.options[v], 1)
        moved = np.where(self.is_choice[v], chosen, moved)
        if len(self.cells.variables):
            order = self.cells.order[v]
            i = np.flatnonzero(order >= 0)
            moved[i] = self.cells.moved(order[i], old[i], moved[i], side[i])
        changed = points.copy()
        changed.flat[at] = moved
        return self._without_inactive(changed)

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
        drawn = np.where(self.is_choice, self._drawn(u[1]), low + (high - low) * u[1])
        return self.settled(np.where(differs, drawn, center))

    def settled(self, points: Float[ndarray, "n v"]) -> Float[ndarray, "n v"]:
        """The points with integers at the centers of their cells, and inactive variables at one place."""
        if len(integers := self.cells.variables):
            points[:, integers] = self.cells.centers[self.cells.of(np.arange(len(integers)), points[:, integers])]
        return self._without_inactive(points)

    def _without_inactive(self, points: Float[ndarray, "n v"]) -> Float[ndarray, "n v"]:
        """The points with inactive variables at one place."""
        if self.parents:
            points = np.where(self.active(points), points, np.where(self.is_choice, 0.0, 0.5))
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
    edges = {v: np.array([0.0, *variable.edges, 1.0]) for v, variable in enumerate(found) if variable.edges}
    centers = {v: 0.5 * (bounds[1:] + bounds[:-1]) for v, bounds in edges.items()}
    gap, order = np.zeros(len(found)), np.full(len(found), -1)
    for i, v in enumerate(centers):
        gap[v], order[v] = np.diff(centers[v]).max(), i
    cells = Cells(
        variables=np.flatnonzero(order >= 0),
        order=order,
        first=np.cumsum([0, *map(len, centers.values())]),
        edges=np.concatenate([np.zeros(0), *(bounds[1:-1] + 2.0 * order[v] for v, bounds in edges.items())]),
        centers=np.concatenate([np.zeros(0), *centers.values()]),
    )
    return Variables(
        options=options,
        is_choice=options > 0,
        option=np.concatenate([np.arange(k) if k else [-1] for k in options]),
        cells=cells,
        first=np.array([variable.first for variable in found]),
        owner=np.repeat(np.arange(len(found)), np.maximum(options, 1)),
        parents=tuple((v, *condition) for v, condition in enumerate(conditions) if condition != (-1, -1)),
        is_free=(options == 0) & (gap == 0),
        gap=gap,
    )
