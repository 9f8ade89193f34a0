"""A space of real coordinates without bounds, for hosts that have such."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.arrays import Array
from blackbox.box import Box, reflect

if TYPE_CHECKING:
    from jaxtyping import Float

    Point = Float[np.ndarray, "d"]

WIDTH = 5.0  # steps in the side of the unit cube, whose fifth is the default sigma0


class Line(Box):
    """A box that is open where bounds are infinite: coordinates of the unit cube go on beyond it there.

    Args:
        low: lower bounds, shape (d,); may be infinite.
        high: upper bounds, likewise, above ``low``.
        x0: what lies in the middle of the cube in coordinates without two bounds.
        step: the first standard deviation there.
    """

    def __init__(self, low: Point, high: Point, x0: Point, step: Point) -> None:
        self._bounded = np.isfinite(low) & np.isfinite(high)
        self._lower, self._upper = low, high
        reach = 0.5 * WIDTH * step
        super().__init__(np.where(self._bounded, low, x0 - reach), np.where(self._bounded, high, x0 + reach))

    @property
    def is_closed(self) -> bool:
        """Whether all coordinates have two bounds."""
        return bool(self._bounded.all())

    def decode(self, u: Float[Array, "d"]) -> Point:
        return self.decode_many(np.asarray(u)[None])[0]

    def decode_many(self, u: Float[Array, "n d"]) -> list[Point]:
        rows = np.asarray(u, dtype=np.float64)
        line = self.low + rows * self._width
        line = np.where(line < self._lower, 2.0 * self._lower - line, line)  # where only one bound is finite
        line = np.where(line > self._upper, 2.0 * self._upper - line, line)
        return list(np.where(self._bounded, self._point(reflect(rows)), line))

    def encode(self, x: Any) -> Point:
        u: Point = (np.asarray(x, dtype=np.float64) - self.low) / self._width
        return u
