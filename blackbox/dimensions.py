"""The variables of a search space, and how each one maps to coordinates of the unit cube.

A class per kind of variable: frozen, checked at construction, and with its own codec, described by
:class:`Dimension`. :class:`blackbox.space.Choice`, the one that may hold spaces, is defined beside the space.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from blackbox.arrays import Array
from blackbox.errors import SpaceError
from blackbox.layout import Layout

if TYPE_CHECKING:
    from jaxtyping import Float as FloatArray

Option = str | int | float | bool | None
"""A value that ``Choice`` and ``Permutation`` can hold."""

MAX_EDGES = 128  # cells; an integer with more of them has cells too narrow to matter and is laid out as a float
MAX_LENGTH = 2**27  # coordinates; 1 GiB as float64
_OPTION_TYPES = (str, int, float, bool, type(None))
# Half steps, because ulp(1.0) is twice the distance to the number below; the nearest first, to win ties.
_STEPS = np.array(sorted(np.arange(-8, 9) / 2, key=abs))[:, None]
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def show(value: object) -> str:
    """``value`` in few characters with its type, whatever it is."""
    try:
        return f"{_short.repr(value)} ({type(value).__name__})"
    except Exception:  # a foreign __repr__ may raise anything, and so does an int of more than 4300 digits
        return f"an object of type {type(value).__name__}"


def refusal(argument: str, allowed: str, value: object) -> SpaceError:
    """The error for an ``argument`` that came as ``value`` and is not what is ``allowed``."""
    return SpaceError(f"{argument} must be {allowed}; got {show(value)}")


def real(argument: str, value: object) -> float:
    """``value`` as a finite float, or SpaceError; bool is not a number."""
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise refusal(argument, "a finite real number", value)


def integer(argument: str, value: object, least: int = -(2**63), greatest: int = 2**63 - 1) -> int:
    """``value`` as an int within the bounds, or SpaceError; neither bool nor 2.0 is an integer."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if is_integer and least <= value <= greatest:  # type: ignore[operator]
        return int(value)  # type: ignore[call-overload]
    raise refusal(argument, f"an integer from {least} to {greatest}", value)


def flag(argument: str, value: object) -> bool:
    """``value`` as a bool, or SpaceError."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise refusal(argument, "True or False", value)


def option_key(value: object) -> tuple[bool, Option] | None:
    """What identifies an option: True is not 1, but a NumPy 1 is. None if ``value`` cannot be an option."""
    if isinstance(value, np.generic):
        value = value.item()
    return (type(value) is bool, value) if type(value) in _OPTION_TYPES else None  # type: ignore[return-value]


def option_positions(argument: str, values: object) -> dict[tuple[bool, Option], int]:
    """The position of each option of a sequence by its key, in order; SpaceError for malformed sequences."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        values = values.tolist()
    if not isinstance(values, list | tuple | range) or len(values) == 0:
        raise refusal(argument, "a non-empty list or tuple", values)
    positions: dict[tuple[bool, Option], int] = {}
    for i, value in enumerate(values):
        key = option_key(value)
        if key is None or (isinstance(key[1], float) and not math.isfinite(key[1])):
            raise refusal(f"{argument}[{i}]", "a str, int, finite float, bool or None", value)
        if key in positions:
            raise refusal(f"{argument}[{i}]", f"different from {argument}[{positions[key]}]", value)
        positions[key] = i
    return positions


def unknown(argument: str, name: object, known: Iterable[object]) -> SpaceError:
    """The error for a ``name`` that is not among the ``known``; suggests the nearest."""
    import difflib

    names = [str(other) for other in known]
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return SpaceError(f"{argument} must be among {', '.join(names[:20])}; got {show(name)}{hint}")


def tagged(
    argument: str, data: object, kinds: Mapping[str, tuple[Sequence[str], Sequence[str]]]
) -> tuple[str, dict[str, Any]]:
    """The type and the other fields of a dictionary, checked.

    Args:
        argument: what the dictionary is, for errors.
        data: the dictionary; ``data["type"]`` is one of ``kinds``.
        kinds: by type, the names of the required and of the optional fields.

    Raises:
        SpaceError: not a dictionary, unknown type, unknown or missing field.
    """
    if not isinstance(data, Mapping) or "type" not in data:
        raise refusal(argument, 'a dictionary with "type"', data)
    kind = data["type"]
    if not isinstance(kind, str) or kind not in kinds:
        raise unknown(f"{argument} type", kind, kinds)
    required, optional = kinds[kind]
    fields = {name: value for name, value in data.items() if name != "type"}
    for name in fields:
        if name not in (*required, *optional):
            raise unknown(f"{argument} keys", name, ("type", *required, *optional))
    for name in required:
        if name not in fields:
            raise SpaceError(f"{argument} must have {name!r}; got only {', '.join(map(str, data))}")
    return kind, fields


def assign(instance: object, **fields: object) -> None:
    """Set normalized fields of a frozen dataclass during its construction."""
    for name, value in fields.items():
        object.__setattr__(instance, name, value)


class Scaling(NamedTuple):
    """How a coordinate maps to the real line: base + u * scale, or its exponential, within low and high."""

    base: float = 0.0
    scale: float = 1.0
    log: bool = False
    low: float = -math.inf
    high: float = math.inf

    def decode(self, u: Array) -> Array:
        line = self.base + u * self.scale
        return np.minimum(np.maximum(np.exp(line) if self.log else line, self.low), self.high)

    def invert(self, value: float) -> float:
        """The coordinate of ``value``, up to rounding."""
        return min(max(((math.log(value) if self.log else value) - self.base) / self.scale, 0.0), 1.0)

    def encode(self, u: float, distance: Callable[[Array], Array]) -> list[float]:
        """The coordinate near ``u`` whose decoded value has the least ``distance`` to the one to encode."""
        step = math.ulp(u)
        if self.log:  # on narrow ranges the rounding of the sum decides
            step = max(step, math.ulp(max(abs(self.base), abs(self.base + self.scale))) / self.scale)
        return nearest(np.array([u]), np.array([step]), distance).tolist()


def scaling(low: float, high: float, log: bool) -> Scaling:
    """The scaling whose rounded values reach both bounds, so that after clipping 0 and 1 decode to them exactly."""
    start, stop = low, high
    if log:
        start, stop = math.log(low), math.log(high)
        while np.exp(start) > low:
            start -= max(math.ulp(start), 2.0**-53)
        while np.exp(stop) < high:
            stop += max(math.ulp(stop), 2.0**-53)
    scale = stop - start
    return Scaling(start, math.nextafter(scale, math.inf) if start + scale < stop else scale, log, low, high)


def nearest(
    u: FloatArray[np.ndarray, "d"], step: FloatArray[np.ndarray, "d"], distance: Callable[[Array], Array]
) -> FloatArray[np.ndarray, "d"]:
    """The coordinates within four steps of ``u`` with the least ``distance``: undoes the rounding of an inverse.

    A value that decoding returned has a coordinate among these that decodes to exactly it (tested, not proven).
    """
    if not distance(u).any():
        return u
    candidates = np.clip(u + step * _STEPS, 0.0, 1.0)
    closest = distance(candidates).argmin(axis=0)
    best: FloatArray[np.ndarray, "d"] = np.take_along_axis(candidates, closest[None], axis=0)[0]
    return best


class Dimension(Protocol):
    """What every kind of variable provides."""

    @property
    def layout(self) -> Layout:
        """An entry per coordinate, or one for all coordinates of a choice."""

    @property
    def scaling(self) -> Scaling:
        """The map of its coordinates that is applied, for all variables at once, before ``decode``."""

    @property
    def allowed(self) -> str:
        """What its values are, in words."""

    def contains(self, value: object) -> bool:
        """Whether ``value`` is one of its values."""

    def encode(self, value: Any) -> list[float]:
        """The coordinates of a value that it contains."""

    def decode(self, block: FloatArray[np.ndarray, "k n"]) -> list[Any]:
        """The n native values of scaled coordinates."""

    def to_dict(self) -> dict[str, Any]:
        """The variable as JSON-able data."""


@dataclass(frozen=True)
class Float:
    """A real variable in ``[low, high]``; with ``log``, equal steps are equal factors.

    Args:
        low: lower bound, finite; positive if ``log``.
        high: upper bound, finite, above ``low``; at most 1e308 if ``log``.
        log: whether the scale is logarithmic.

    Raises:
        SpaceError: a bound of another type or outside its range.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        low, high, log = real("low", self.low), real("high", self.high), flag("log", self.log)
        if log and low <= 0.0:
            raise refusal("low", "above 0 on a log scale", self.low)
        if log and high > 1e308:
            raise refusal("high", "at most 1e308 on a log scale", self.high)
        if not low < high:
            raise refusal("low", f"below high = {high!r}", self.low)
        if not math.isfinite(high - low):
            raise refusal("high", "such that high - low is finite in float64", self.high)
        assign(self, low=low, high=high, log=log)

    @cached_property
    def scaling(self) -> Scaling:
        return scaling(self.low, self.high, self.log)

    @property
    def layout(self) -> Layout:
        return (("float",),)

    @property
    def allowed(self) -> str:
        return f"a number in [{self.low!r}, {self.high!r}]"

    def contains(self, value: object) -> bool:
        try:
            return self.low <= real("value", value) <= self.high
        except SpaceError:
            return False

    def encode(self, value: Any) -> list[float]:
        value = float(value)
        return self.scaling.encode(self.scaling.invert(value), lambda u: np.abs(self.scaling.decode(u) - value))

    def decode(self, block: FloatArray[np.ndarray, "1 n"]) -> list[Any]:
        return block[0].tolist()

    def to_dict(self) -> dict[str, Any]:
        return {"type": "float", "low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Int:
    """An integer variable from ``low`` to ``high``, both included; with ``log``, small values get wide cells.

    Args:
        low: least value, of at most 64 bits; at least 1 if ``log``.
        high: greatest value, of at most 64 bits, above ``low``; at most 2**51 if ``log``.
        log: whether the scale is logarithmic.

    Raises:
        SpaceError: a bound of another type or outside its range.
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        low, high, log = integer("low", self.low), integer("high", self.high), flag("log", self.log)
        if log and low < 1:
            raise refusal("low", "at least 1 on a log scale", self.low)
        if log and high > 2**51:  # float64 holds half-integers to there
            raise refusal("high", "at most 2**51 on a log scale", self.high)
        if not low < high:
            raise refusal("low", f"below high = {high}", self.low)
        assign(self, low=low, high=high, log=log)

    @cached_property
    def scaling(self) -> Scaling:
        """To the value if ``log``, else to the number of its cell, which float64 resolves far from 0 as well."""
        if self.log:
            return scaling(self.low - 0.5, self.high + 0.5, True)
        return Scaling(scale=float(self.high - self.low + 1))

    def _edge(self, value: int) -> float:
        """Where the cell of ``value`` begins."""
        return self.scaling.invert(value - 0.5 if self.log else value - self.low)

    def _value(self, scaled: float) -> int:
        # Python's integers, because no float64 arithmetic keeps bounds beyond 2**53.
        value = int(scaled + 0.5) if self.log else self.low + int(scaled)
        return min(max(value, self.low), self.high)

    @property
    def layout(self) -> Layout:
        if self.high - self.low >= MAX_EDGES:
            return (("float",),)
        return (("int", tuple(self._edge(value) for value in range(self.low + 1, self.high + 1))),)

    @property
    def allowed(self) -> str:
        return f"an integer from {self.low} to {self.high}"

    def contains(self, value: object) -> bool:
        try:
            return self.low <= integer("value", value) <= self.high
        except SpaceError:
            return False

    def encode(self, value: Any) -> list[float]:
        value = int(value)

        def distance(u: Array) -> Array:
            scaled = self.scaling.decode(u)
            distances = [float(abs(self._value(point) - value)) for point in scaled.ravel().tolist()]
            return np.reshape(distances, u.shape)

        return self.scaling.encode(0.5 * (self._edge(value) + self._edge(value + 1)), distance)

    def decode(self, block: FloatArray[np.ndarray, "1 n"]) -> list[Any]:
        return [self._value(scaled) for scaled in block[0].tolist()]

    def to_dict(self) -> dict[str, Any]:
        return {"type": "int", "low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Bool:
    """A variable that is False or True."""

    scaling = Scaling()
    layout = (("int", (0.5,)),)
    allowed = "True or False"

    def contains(self, value: object) -> bool:
        return isinstance(value, bool | np.bool_)

    def encode(self, value: Any) -> list[float]:
        return [0.75 if value else 0.25]

    def decode(self, block: FloatArray[np.ndarray, "1 n"]) -> list[Any]:
        return (block[0] >= 0.5).tolist()

    def to_dict(self) -> dict[str, Any]:
        return {"type": "bool"}


@dataclass(frozen=True, init=False, repr=False)
class Permutation:
    """An order of different items, decoded as a list.

    Args:
        items: the items (str, int, finite float, bool, None), or their number ``n`` for the items 0 to n - 1.

    Raises:
        SpaceError: fewer than two items, equal items, or an item of another type.
    """

    items: tuple[Option, ...]
    _positions: dict[tuple[bool, Option], int] = field(hash=False)

    scaling = Scaling()

    def __init__(self, items: int | Sequence[Option]) -> None:
        values: object = items
        if not isinstance(items, Sequence | np.ndarray):
            values = range(integer("items", items, 2, MAX_LENGTH))
        positions = option_positions("items", values)
        if len(positions) < 2:
            raise refusal("items", "at least two values", items)
        assign(self, items=tuple(value for _, value in positions), _positions=positions)

    def __repr__(self) -> str:
        return f"Permutation({self._argument!r})"

    @cached_property
    def _is_range(self) -> bool:
        return all(type(item) is int and item == i for i, item in enumerate(self.items))

    @property
    def _argument(self) -> int | list[Option]:
        """What the constructor takes: the number of items if they are 0 to n - 1, else their list."""
        return len(self.items) if self._is_range else list(self.items)

    @property
    def layout(self) -> Layout:
        return (("float",),) * len(self.items)

    @property
    def allowed(self) -> str:
        return f"a list that has each of {_short.repr(list(self.items))} once"

    def contains(self, value: object) -> bool:
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list | tuple) or len(value) != len(self.items):
            return False
        return {option_key(item) for item in value} == self._positions.keys()

    def encode(self, value: Any) -> list[float]:
        keys = [0.0] * len(self.items)
        for rank, item in enumerate(value):
            keys[self._positions[option_key(item)]] = rank / (len(keys) - 1)  # type: ignore[index]
        return keys

    def decode(self, block: FloatArray[np.ndarray, "k n"]) -> list[Any]:
        orders: list[list[int]] = block.argsort(axis=0, kind="stable").T.tolist()
        if self._is_range:
            return orders
        return [[self.items[i] for i in order] for order in orders]

    def to_dict(self) -> dict[str, Any]:
        return {"type": "permutation", "items": self._argument}
