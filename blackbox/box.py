"""The unit cube, and the space whose points are arrays.

Every vector that a strategy proposes enters through :func:`unit`, which mirrors it into the cube.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.arrays import Array, namespace
from blackbox.dimensions import MAX_LENGTH, integer, nearest, real, refusal, tagged
from blackbox.errors import SpaceError
from blackbox.layout import Layout

if TYPE_CHECKING:
    from jaxtyping import Bool as BoolArray
    from jaxtyping import Float as FloatArray


def reflect(u: FloatArray[Array, "*n d"]) -> FloatArray[Array, "*n d"]:
    """Fold ``u`` into the unit cube by mirrors at 0 and 1: 1.1 becomes 0.9, -0.1 becomes 0.1, 2.3 becomes 0.3.

    The triangle wave of period 2; exact inside the cube. For arrays of any library, traced ones included.

    Args:
        u: finite coordinates, of any shape.

    Returns:
        Coordinates in [0, 1], of the same shape and dtype.
    """
    xp = namespace(u)
    distance = xp.abs(u)  # the wave is even
    phase = distance - 2.0 * xp.floor(0.5 * distance)
    return xp.minimum(phase, 2.0 - phase)


def unit(u: object, ndim: int, dimension: int) -> FloatArray[np.ndarray, "*n d"]:
    """``u`` as float64 inside the unit cube; SpaceError where it is not a finite array of the right shape."""
    due = f"an array of real numbers of shape {'(n, d)' if ndim == 2 else '(d,)'} with d = {dimension}"
    try:
        points = np.asarray(u)
    except Exception as error:  # ragged lists, foreign arrays: whatever their conversion raises
        raise refusal("u", due, u) from error
    if points.dtype.kind not in "fiu":
        raise refusal("u", due, u)
    if points.ndim != ndim or points.shape[-1] != dimension:
        raise SpaceError(f"u must be {due}; got shape {points.shape}")
    with np.errstate(over="ignore"):
        points = points.astype(np.float64, copy=False)
    if points.size == 0 or (points.min() >= 0.0 and points.max() <= 1.0):
        return points
    if not (finite := np.isfinite(points)).all():
        where = tuple(np.argwhere(~finite)[0].tolist())
        raise refusal(f"u[{', '.join(map(str, where))}]", "finite", float(points[where]))
    inside: FloatArray[np.ndarray, "*n d"] = reflect(points)
    return inside


def _bound(argument: str, value: object) -> FloatArray[np.ndarray, "..."]:
    """A number or a sequence of numbers as a float64 array of at most one axis."""
    if hasattr(value, "__array__") and np.ndim(value) == 1:
        value = np.asarray(value).tolist()
    if isinstance(value, list | tuple | range):
        return np.array([real(f"{argument}[{i}]", number) for i, number in enumerate(value)], dtype=np.float64)
    return np.array(real(argument, value))


class Box:
    """Arrays between two bounds: a point is a float64 array of shape (d,).

    ``Box(-5, 5, 10)`` has ten coordinates in [-5, 5]; ``Box([0, 0], [1, 2])`` is a rectangle.

    Args:
        low: lower bound, a finite number or ``d`` of them.
        high: upper bound, likewise, above ``low``.
        dimension: ``d``; needed where both bounds are numbers.

    Attributes:
        low, high: the bounds, shape (d,).
        dimension: number of coordinates d.
        names: "x0" to "x{d-1}", for reports.
        layout: ("float",) for each coordinate.

    Raises:
        SpaceError: malformed bounds, or lengths that do not match.
    """

    def __init__(
        self, low: float | Sequence[float] | Array, high: float | Sequence[float] | Array, dimension: int | None = None
    ) -> None:
        lower, upper = _bound("low", low), _bound("high", high)
        lengths = {len(bound) for bound in (lower, upper) if bound.ndim}
        if dimension is not None:
            lengths.add(integer("dimension", dimension, 1, MAX_LENGTH))
        if not lengths:
            raise SpaceError("dimension must be an integer where low and high are numbers; got nothing")
        if len(lengths) > 1:
            raise SpaceError(f"low, high and dimension must agree on one length; got {sorted(lengths)}")
        self.dimension = lengths.pop()
        if self.dimension == 0:
            raise refusal("low", "of at least one number", low)
        self.low, self.high = (np.broadcast_to(bound, self.dimension).copy() for bound in (lower, upper))
        with np.errstate(over="ignore"):
            width = self.high - self.low
        if (width <= 0.0).any():
            i = int(np.argmax(width <= 0.0))
            raise refusal(f"low[{i}]", f"below high[{i}] = {float(self.high[i])!r}", float(self.low[i]))
        if np.isinf(width).any():
            i = int(np.argmax(width))
            raise refusal(f"high[{i}]", f"such that high[{i}] - low[{i}] is finite in float64", float(self.high[i]))
        # As in dimensions.scaling: the rounded sum reaches the upper bound.
        self._width = np.where(self.low + width < self.high, np.nextafter(width, np.inf), width)
        self.low.flags.writeable = self.high.flags.writeable = False

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(f"x{i}" for i in range(self.dimension))

    @property
    def layout(self) -> Layout:
        return (("float",),) * self.dimension

    def decode(self, u: FloatArray[Array, "d"]) -> FloatArray[np.ndarray, "d"]:
        """The point of a vector; coordinates outside [0, 1] are mirrored into it.

        Args:
            u: finite coordinates, shape (d,).

        Raises:
            SpaceError: another shape, not numbers, or not finite.
        """
        return self._point(unit(u, 1, self.dimension))

    def decode_many(self, u: FloatArray[Array, "n d"]) -> list[FloatArray[np.ndarray, "d"]]:
        """The points of ``n`` vectors at once, as :meth:`decode` gives each."""
        return list(self._point(unit(u, 2, self.dimension)))

    def _point(self, u: FloatArray[np.ndarray, "*n d"]) -> FloatArray[np.ndarray, "*n d"]:
        point: FloatArray[np.ndarray, "*n d"] = np.minimum(self.low + u * self._width, self.high)
        return point

    def encode(self, x: Sequence[float] | Array) -> FloatArray[np.ndarray, "d"]:
        """The vector of a point, shape (d,), in [0, 1].

        Raises:
            SpaceError: another shape, not numbers, or a coordinate out of its bounds.
        """
        point = self._checked(x)
        u = np.minimum((point - self.low) / self._width, 1.0)
        encoded: FloatArray[np.ndarray, "d"] = nearest(u, np.spacing(u), lambda c: np.abs(self._point(c) - point))
        return encoded

    def _checked(self, x: object) -> FloatArray[np.ndarray, "d"]:
        due = f"an array of {self.dimension} real numbers"
        try:
            point = np.asarray(x)
        except Exception as error:  # ragged lists, foreign arrays: whatever their conversion raises
            raise refusal("x", due, x) from error
        if point.dtype.kind not in "fiu" or point.shape != (self.dimension,):
            raise refusal("x", due, x)
        inside = (point >= self.low) & (point <= self.high)
        if not inside.all():
            i = int(np.argmin(inside))
            raise refusal(f"x[{i}]", f"a number in [{self.low[i]}, {self.high[i]}]", point[i].item())
        return point.astype(np.float64)

    def explain(self, x: object) -> str | None:
        """Why ``x`` is not a point of the box, or None if it is."""
        try:
            self._checked(x)
        except SpaceError as error:
            return str(error)
        return None

    def contains(self, x: object) -> bool:
        """Whether ``x`` is a point of the box."""
        return self.explain(x) is None

    def active_mask(self, u: FloatArray[Array, "d"]) -> BoolArray[np.ndarray, "d"]:
        """Which coordinates take part in the point: all, shape (d,)."""
        return np.ones(unit(u, 1, self.dimension).shape, dtype=bool)

    def __len__(self) -> int:
        return self.dimension

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def _arguments(self) -> dict[str, Any]:
        if (self.low == self.low[0]).all() and (self.high == self.high[0]).all():
            return {"low": self.low[0].item(), "high": self.high[0].item(), "dimension": self.dimension}
        return {"low": self.low.tolist(), "high": self.high.tolist()}

    def __repr__(self) -> str:
        return f"Box({', '.join(map(repr, self._arguments().values()))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and self._arguments() == other._arguments()

    def __hash__(self) -> int:
        return hash((self.low.tobytes(), self.high.tobytes()))

    def to_dict(self) -> dict[str, Any]:
        """The box as JSON-able data, which :meth:`from_dict` takes back."""
        return {"type": "box", **self._arguments()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Box:
        """The box of :meth:`to_dict`'s data; strict: SpaceError for unknown keys and types."""
        return cls(**tagged("data", data, {"box": (("low", "high"), ("dimension",))})[1])
