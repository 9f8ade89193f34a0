"""The trust region of TuRBO: how large it is, and points in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.arrays import Array
from blackbox.model.variables import Variables

if TYPE_CHECKING:
    from jaxtyping import Float, Int

LENGTH, LONGEST, SHORTEST = 0.8, 1.6, 2.0**-7  # of the region's sides, in widths of the space (TuRBO, supplement)
_SUCCESSES, _FAILURES, _FAILURES_DISCRETE = 3, 3, 5  # in a row; integers and choices have no small improvements


class Region(NamedTuple):
    length: Float[Array, ""]
    successes: Int[Array, ""]
    failures: Int[Array, ""]

    @classmethod
    def at_first(cls) -> Region:
        return cls(np.float64(LENGTH), np.asarray(0)[()], np.asarray(0)[()])

    def resized(self, improves: bool, v: Variables) -> Region:
        """A larger region after a number of improvements in a row, a smaller one after others."""
        successes, failures = (self.successes + 1, 0) if improves else (0, self.failures + 1)
        length = float(self.length)
        if successes == _SUCCESSES:
            length, successes = min(2 * length, LONGEST), 0
        if failures == (_FAILURES if v.is_free.all() else _FAILURES_DISCRETE):
            length, failures = max(0.5 * length, 0.25 * SHORTEST), 0
        return Region(np.float64(length), np.asarray(successes)[()], np.asarray(failures)[()])

    def bounds(
        self, v: Variables, center: Float[ndarray, "v"], lengths: Float[ndarray, "v"]
    ) -> tuple[Float[ndarray, "v"], Float[ndarray, "v"]]:
        """Of the numbers, by the logarithms of the lengths of the process."""
        half = 0.5 * self.sides(v, lengths)
        return np.maximum(center - half, 0.0), np.minimum(center + half, 1.0)

    def sides(self, v: Variables, lengths: Float[ndarray, "v"]) -> Float[ndarray, "v"]:
        """Of integers two cells at least."""
        is_number = v.options == 0
        middle = lengths.mean(where=is_number) if is_number.any() else 0.0
        return np.maximum(self.length * np.exp(lengths - middle), 2 * v.gap)

    def candidates(
        self,
        v: Variables,
        center: Float[ndarray, "v"],
        bounds: tuple[Float[ndarray, "v"], Float[ndarray, "v"]],
        u: Float[ndarray, "2 n v"],
    ) -> Float[ndarray, "n v"]:
        """Points of the region, half of which differ from the center in few variables."""
        count, choices = len(center), int((v.options > 0).sum())
        change = min(0.5, max(0.5 * self.length / LENGTH, 1 / max(1, choices)))
        chance = np.tile(np.where(v.options > 0, change, min(1.0, 20 / count)), (u.shape[1], 1))
        chance[1::2] = min(1.0, 2 / count)
        return v.around(center, *bounds, chance, u)
