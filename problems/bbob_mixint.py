"""The mixed-integer suite ``bbob-mixint``: the BBOB functions with four variables of five made integer.

Source: Tusar, Brockhoff, Hansen 2019, "Mixed-integer benchmark problems for single- and bi-objective
optimization" (GECCO). The first fifth of the variables has 2 values, the next 4, then 8, then 16; the last fifth is
continuous. Values agree with ``coco-experiment`` to 1e-9 (``bench/bbob_coco.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from blackbox.errors import SettingError

from .bbob import BBOB, Array, as_points

if TYPE_CHECKING:
    from jaxtyping import Float

    from blackbox.space import Space

_ARITIES = (2, 4, 8, 16)
_FACTORS = (
    *(1.0, 1e-3, 1e-1, 1e-1, 1.0, 1e-2, 1.0, 1e-2, 1e-2, 1e-3, 1e-2, 1e-4),
    *(1e-1, 1.0, 1e-1, 1.0, 10.0, 1.0, 10.0, 1e-1, 1.0, 1.0, 10.0, 1e-1),
)  # make the functions about equally difficult


@dataclass(frozen=True, eq=False)
class MixedBBOB:
    """One problem of COCO's suite ``bbob-mixint``.

    Callable on a point (d,) or a batch (n, d) of NumPy or JAX, as `BBOB`, and on a point of its ``space``. Integer
    variables count from 0; other numbers are rounded to the nearest and clipped to the bounds.

    Args:
        function: 1 to 24.
        dimension: number of variables d, a multiple of 5; COCO's suite has 5, 10, 20, 40, 80 and 160.
        instance: COCO's instance number, at least 1.

    Raises:
        SettingError: an argument outside its range; on a call, points of a wrong shape.
    """

    function: int
    dimension: int
    instance: int = 1

    def __post_init__(self) -> None:
        BBOB(self.function, self.dimension, self.instance)
        if self.dimension % 5:
            raise SettingError(f"dimension is {self.dimension}; allowed: a multiple of 5")

    @cached_property
    def continuous(self) -> BBOB:
        """The problem behind: an integer is a point of its grid in [-4, 4], shifted onto the optimum."""
        return BBOB(self.function, self.dimension, self.instance)

    @property
    def name(self) -> str:
        return f"{self.continuous.name}, mixed-integer"

    @property
    def n_int(self) -> int:
        """How many variables are integers: the first of them."""
        return self.dimension // 5 * 4

    @cached_property
    def low(self) -> Float[ndarray, "d"]:
        return self._join(np.zeros(self.n_int), -5.0)

    @cached_property
    def high(self) -> Float[ndarray, "d"]:
        return self._join(np.repeat(np.array(_ARITIES) - 1.0, self.dimension // 5), 5.0)

    @property
    def bounds(self) -> tuple[Float[ndarray, "d"], Float[ndarray, "d"]]:
        return self.low, self.high

    @property
    def f_opt(self) -> float:
        """The smallest value, up to rounding."""
        return _FACTORS[self.function - 1] * self.continuous.f_opt

    @cached_property
    def x_opt(self) -> Float[ndarray, "d"]:
        """A point of the smallest value."""
        low, step = self._grid
        nearest = np.floor((self.continuous.x_opt[: self.n_int] - low) / step + 0.5 + 1e-7)
        return self._join(np.clip(nearest, 0.0, self.high[: self.n_int]), self.continuous.x_opt[self.n_int :])

    @cached_property
    def space(self) -> Space:
        """Variables ``x0``, ``x1``, ... as `Int` and `Float`."""
        from blackbox.space import Float as FloatVariable
        from blackbox.space import Int as IntVariable
        from blackbox.space import Space

        bounds = zip(self.low.tolist(), self.high.tolist(), strict=True)
        return Space(
            {
                f"x{i}": IntVariable(int(low), int(high)) if i < self.n_int else FloatVariable(low, high)
                for i, (low, high) in enumerate(bounds)
            }
        )

    def __call__(self, x: Float[Array, "*n d"] | Mapping[str, Any]) -> Float[Array, "*n"]:
        """Values (n,) of a batch (n, d), or the value of one point: (d,), or as ``space`` gives it."""
        if isinstance(x, Mapping):
            x = np.array([x[f"x{i}"] for i in range(self.dimension)], np.float64)
        x = as_points(x, self.dimension)
        xp = x.__array_namespace__()
        high, start, step = (c.astype(x.dtype) for c in (self.high[: self.n_int], self._start, self._grid[1]))
        levels = xp.minimum(xp.maximum(xp.floor(x[..., : self.n_int] + 0.5), 0.0), high)
        inner = xp.concat([start + step * levels, x[..., self.n_int :]], axis=-1)
        return _FACTORS[self.function - 1] * self.continuous(inner)

    @cached_property
    def _grid(self) -> tuple[Float[ndarray, "n_int"], Float[ndarray, "n_int"]]:
        """First point and step of each integer's grid: ``arity`` inner points of [-4, 4]."""
        step = 8.0 / (self.high[: self.n_int] + 2.0)
        return -4.0 + step, step

    @cached_property
    def _start(self) -> Float[ndarray, "n_int"]:
        """The first grid point once the grid is shifted so that the optimum lies on it."""
        return np.asarray(self.continuous.x_opt[: self.n_int] - self._grid[1] * self.x_opt[: self.n_int])

    def _join(self, integers: Float[ndarray, "n_int"], rest: Any) -> Float[ndarray, "d"]:
        joined = np.concatenate([integers, np.broadcast_to(rest, self.dimension - self.n_int)])
        joined.flags.writeable = False
        return joined

    def __reduce__(self) -> tuple[type[MixedBBOB], tuple[int, int, int]]:
        return MixedBBOB, (self.function, self.dimension, self.instance)
