"""The variables of a layout as numbers and one-hot choices, and points around one of them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.errors import SettingError
from blackbox.model.gaussian_process import Points

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Layout = tuple[tuple[Any, ...], ...]


class Variables(NamedTuple):
    """Where the variables of a layout are among the coordinates."""

    numeric: Int[ndarray, "m"]
    """Coordinates of floats and integers."""
    cells: tuple[tuple[Float[ndarray, "edges"], Float[ndarray, "centers"]] | None, ...]
    """Of each number: inner edges and centers of an integer's cells, None for a float."""
    free: Bool[ndarray, "m"]
    """Which numbers are floats."""
    gap: Float[ndarray, "m"]
    """Largest distance between the centers of neighboring cells; 0 for floats."""
    options: tuple[slice, ...]
    """Of each choice: its columns among those of all choices."""
    columns: Int[ndarray, "k"]
    """Coordinates of all options."""
    choice: Int[ndarray, "k"]
    """The choice of each of them."""

    @property
    def size(self) -> int:
        return len(self.numeric) + len(self.options)

    def read(self, rows: Float[ndarray, "n d"]) -> Points:
        """The points of coordinates; integers are the centers of their cells."""
        h = np.zeros((len(rows), len(self.columns)))
        for option in self.options:
            h[np.arange(len(rows)), option.start + rows[:, self.columns[option]].argmax(1)] = 1.0
        return Points(self.rounded(rows[:, self.numeric]), h, self.choice)

    def write(self, points: Points) -> Float[ndarray, "n d"]:
        """Coordinates of points."""
        rows = np.empty((len(points.x), len(self.numeric) + len(self.columns)))
        rows[:, self.numeric], rows[:, self.columns] = points.x, points.h
        return rows

    def rounded(self, x: Float[ndarray, "n m"]) -> Float[ndarray, "n m"]:
        """Numbers with integers at the centers of the cells that they are in."""
        x = x.copy()
        for i, cells in enumerate(self.cells):
            if cells is not None:
                x[:, i] = cells[1][np.searchsorted(cells[0], x[:, i], side="right")]
        return x

    def around(
        self,
        center: Points,
        low: Float[ndarray, "m"],
        high: Float[ndarray, "m"],
        chance: Float[ndarray, "n v"],
        u: Float[ndarray, "2 n v"],
    ) -> Points:
        """Points that differ from the center, one point, in some variables.

        Args:
            center: the point.
            low: of the numbers that differ, and
            high: likewise.
            chance: of each variable to differ, numbers before choices. Each point differs in one at least.
            u: uniform random numbers.
        """
        differs = u[0] < chance
        differs[np.arange(len(u[0])), (u[0] / chance).argmin(1)] = True
        m = len(self.numeric)
        x = np.where(differs[:, :m], low + (high - low) * u[1][:, :m], center.x)
        h = np.repeat(center.h, len(x), axis=0)
        for j, option in enumerate(self.options):
            k = option.stop - option.start
            drawn = np.minimum((u[1][:, m + j] * k).astype(int), k - 1)
            h[:, option] = np.where(differs[:, m + j, None], np.eye(k)[drawn], h[:, option])
        return Points(self.rounded(x), h, self.choice)


@lru_cache(maxsize=256)
def variables(layout: Layout) -> Variables:
    """The variables of a layout; SettingError for a malformed one."""
    numeric: list[int] = []
    cells: list[tuple[Float[ndarray, "edges"], Float[ndarray, "centers"]] | None] = []
    options: list[slice] = []
    columns: list[int] = []
    choice: list[int] = []
    d = 0
    for entry in layout:
        width = 1
        match entry:
            case ("float",) | ("int", ()):
                numeric.append(d)
                cells.append(None)
            case ("int", tuple(edges)):
                bounds = np.array([0.0, *edges, 1.0])
                numeric.append(d)
                cells.append((bounds[1:-1], (bounds[1:] + bounds[:-1]) / 2))
            case ("choice", int(width)) if width >= 1:
                options.append(slice(len(columns), len(columns) + width))
                columns += range(d, d + width)
                choice += [len(options) - 1] * width
            case _:
                allowed = '("float",), ("int", inner cell edges) or ("choice", number of options)'
                raise SettingError(f"layout must consist of {allowed}; got {entry!r}")
        d += width
    return Variables(
        numeric=np.array(numeric, dtype=int),
        cells=tuple(cells),
        free=np.array([c is None for c in cells], dtype=bool),
        gap=np.array([0.0 if c is None else float(np.diff(c[1]).max()) for c in cells]),
        options=tuple(options),
        columns=np.array(columns, dtype=int),
        choice=np.array(choice, dtype=int),
    )
