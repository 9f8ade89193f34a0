"""Search spaces and their encoding to the unit cube.

Strategies see vectors of the unit cube ``[0, 1]^d``; users see native values. :class:`Space` (named variables,
conditional branches) and :class:`Box` (one array) translate between them, on the host, with NumPy alone:

======================  ===========  ======================================================================
variable                coordinates  decoding
======================  ===========  ======================================================================
``Float``               1            ``low + u (high - low)``, or the same on the logarithms
``Int``                 1            one of ``high - low + 1`` cells of equal width; with ``log``, cell ``i``
                                     runs from ``log(i - 1/2)`` to ``log(i + 1/2)``
``Bool``                1            False below 1/2, True from there on
``Choice`` of k         k            the option of the largest coordinate, the first of equals; the
                                     coordinates of all its branches follow
``Permutation`` of n    n            random keys (Bean 1994): the items in the order of their coordinates
======================  ===========  ======================================================================

Encoding gives the point itself (Float), the center of the cell (Int, Bool), a one-hot vector (Choice), ranks
over ``n - 1`` (Permutation), and 1/2 for every coordinate of an inactive branch.

Laws. Decoding accepts every finite vector and never leaves the bounds. ``decode(encode(x)) == x`` for every x that
came from decoding and for all discrete values, integers of up to 2**51 cells (with ``log``: up to 2**42); other
floats and integers come back as the nearest that a float64 coordinate resolves.

Vectors outside the cube are mirrored into it (:func:`reflect`), for all dense strategies alike. Why not clip:
clipping moves every sample beyond a face onto that face. They become equal in that coordinate, so the search
distribution gets a point mass there, selection cannot tell the samples apart, evaluations are spent on duplicates,
and nothing pulls back a mean that has drifted outside. Mirroring is continuous and keeps volumes: distinct samples
stay distinct, and every part of the cube keeps its share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.arrays import Array
from blackbox.box import Box, reflect, unit
from blackbox.dimensions import (
    Bool,
    Dimension,
    Float,
    Int,
    Option,
    Permutation,
    Scaling,
    assign,
    option_key,
    option_positions,
    refusal,
    show,
    tagged,
    unknown,
)
from blackbox.errors import SpaceError
from blackbox.layout import Conditions, Layout

if TYPE_CHECKING:
    from jaxtyping import Bool as BoolArray
    from jaxtyping import Float as FloatArray

__all__ = ["Bool", "Box", "Choice", "Float", "Int", "Permutation", "Space", "as_space", "reflect", "space_from_dict"]


@dataclass(frozen=True, init=False, repr=False)
class Choice:
    """One of several unordered options, each perhaps with variables of its own.

    Args:
        options: a list or tuple of different values (str, int, finite float, bool, None), or a dictionary from
            an option's name to the :class:`Space` of the variables that exist only under it, or to None.

    Raises:
        SpaceError: no options, equal options, or an option of another type.
    """

    options: tuple[Option, ...]
    branches: tuple[Space | None, ...]
    _positions: dict[tuple[bool, Option], int] = field(hash=False)

    scaling = Scaling()

    def __init__(self, options: Sequence[Option] | Mapping[str, Space | None]) -> None:
        branches: tuple[Space | None, ...] | None = None
        if isinstance(options, Mapping):
            for name, branch in options.items():
                if type(name) is not str or not name:
                    raise refusal("options", "keyed by non-empty strings if a dictionary", name)
                if not (branch is None or isinstance(branch, Space)):
                    raise refusal(f"options[{name!r}]", "a Space or None", branch)
            branches = tuple(options.values())
        positions = option_positions("options", list(options) if isinstance(options, Mapping) else options)
        values = tuple(value for _, value in positions)
        assign(self, options=values, branches=branches or (None,) * len(values), _positions=positions)

    def __repr__(self) -> str:
        if self.is_conditional:
            return f"Choice({dict(zip(self.options, self.branches, strict=True))!r})"
        return f"Choice({list(self.options)!r})"

    @property
    def is_conditional(self) -> bool:
        """Whether any option has variables of its own."""
        return any(branch is not None for branch in self.branches)

    @property
    def layout(self) -> Layout:
        return (("choice", len(self.options)),)

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(map(repr, self.options[:20]))}{', ...' if len(self.options) > 20 else ''}"

    def contains(self, value: object) -> bool:
        return option_key(value) in self._positions

    def position(self, value: object) -> int:
        """The index of an option that the choice contains."""
        return self._positions[option_key(value)]  # type: ignore[index]

    def encode(self, value: Any) -> list[float]:
        coordinates = [0.0] * len(self.options)
        coordinates[self.position(value)] = 1.0
        return coordinates

    def decode(self, block: FloatArray[np.ndarray, "k n"]) -> list[Any]:
        return [self.options[i] for i in block.argmax(axis=0).tolist()]

    def to_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = {"type": "choice", "options": list(self.options)}
        if self.is_conditional:
            named = zip(self.options, self.branches, strict=True)
            data["branches"] = {o: branch.to_dict()["variables"] for o, branch in named if branch is not None}
        return data


class _Variable(NamedTuple):
    """A variable of a space, those of all branches included, and when it is active."""

    name: str
    dimension: Dimension
    start: int  # first coordinate
    stop: int
    parent: int  # index of the Choice whose branch it belongs to, -1 if always active
    branch: int  # the option of the parent that makes it active


class Space:
    """Named variables. A point is a flat dictionary of native values; names of inactive branches are absent.

    ``Space({"C": Float(1e-3, 1e3, log=True), "kernel": Choice({"rbf": Space({"gamma": Float(0, 1)}), "linear":
    None})})`` has the points ``{"C": 1.0, "kernel": "rbf", "gamma": 0.1}`` and ``{"C": 1.0, "kernel": "linear"}``.

    Args:
        dimensions: from name to Float, Int, Choice, Bool or Permutation. Branches of one Choice may share names;
            names that can be active together must differ.

    Attributes:
        dimension: number of coordinates d, those of all branches included.
        names: all variables' names in the order of coordinates, those of all branches included.
        layout: kinds of variables in the order of coordinates: ("float",); ("int", inner cell edges) for Bool and
            for Int of at most 128 cells (("float",) beyond); ("choice", k), which has k coordinates. A Permutation
            of n counts as n times ("float",).
        conditions: for each entry of the layout what makes it active: the position of a ("choice", k) in the layout,
            and its option; (-1, -1) for what always is.

    Raises:
        SpaceError: no variables, malformed names, values that are not variables, or clashing names.
    """

    def __init__(self, dimensions: Mapping[str, Dimension]) -> None:
        if not isinstance(dimensions, Mapping) or not dimensions:
            raise refusal("dimensions", "a non-empty dictionary from name to variable", dimensions)
        self._dimensions = dict(dimensions)
        self._variables: list[_Variable] = []
        self.dimension = 0
        taken: set[str] = set()
        for name, dimension in self._dimensions.items():
            self._append(name, dimension, taken)
        self.names = tuple(dict.fromkeys(variable.name for variable in self._variables))
        self.layout: Layout = tuple(entry for variable in self._variables for entry in variable.dimension.layout)
        positions = np.cumsum([0, *(len(variable.dimension.layout) for variable in self._variables)]).tolist()
        self.conditions: Conditions = tuple(
            (positions[variable.parent] if variable.parent >= 0 else -1, variable.branch)
            for variable in self._variables
            for _ in variable.dimension.layout
        )
        self._is_conditional = any(variable.parent >= 0 for variable in self._variables)

        scalings = [v.dimension.scaling for v in self._variables for _ in range(v.start, v.stop)]
        parts = np.array(scalings, dtype=np.float64).T[:, :, None]
        self._base, self._scale, log, self._low, self._high = parts
        self._log = np.flatnonzero(log)  # coordinates

    def _append(self, name: str, dimension: Dimension, taken: set[str]) -> None:
        """Add a variable and those of its branches; ``taken`` are the names of all before it."""
        if type(name) is not str or not name:
            raise refusal("dimensions", "keyed by non-empty strings", name)
        if not isinstance(dimension, Float | Int | Choice | Bool | Permutation):
            allowed = "Float, Int, Choice, Bool or Permutation (a Space belongs inside a Choice)"
            raise refusal(f"dimensions[{name!r}]", allowed, dimension)
        parent, start = len(self._variables), self.dimension
        self.dimension += sum(entry[1] if entry[0] == "choice" else 1 for entry in dimension.layout)
        self._variables.append(_Variable(name, dimension, start, self.dimension, -1, -1))
        names: set[str] = set()
        for option, branch in enumerate(dimension.branches if isinstance(dimension, Choice) else ()):
            if branch is not None:
                names.update(branch.names)
                self._variables += branch._moved(len(self._variables), self.dimension, parent, option)
                self.dimension += branch.dimension
        if clash := ({name} & names) | (taken & names) | (taken & {name}):
            allowed = "of names that differ from all that are active beside it"
            raise SpaceError(f"dimensions[{name!r}] must be {allowed}; got {min(clash)!r} twice")
        taken |= names | {name}

    def _moved(self, first: int, start: int, parent: int, option: int) -> Iterator[_Variable]:
        """The variables as those of a branch, when ``first`` variables and ``start`` coordinates come before."""
        for v in self._variables:
            parent_, branch = (parent, option) if v.parent < 0 else (v.parent + first, v.branch)
            yield _Variable(v.name, v.dimension, v.start + start, v.stop + start, parent_, branch)

    @property
    def dimensions(self) -> Mapping[str, Dimension]:
        """The variables by name, without those of branches."""
        return MappingProxyType(self._dimensions)

    def decode(self, u: FloatArray[Array, "d"]) -> dict[str, Any]:
        """The point of a vector; coordinates outside [0, 1] are mirrored into it.

        Args:
            u: finite coordinates, shape (d,).

        Raises:
            SpaceError: another shape, not numbers, or not finite.
        """
        return self._points(self._scaled(unit(u, 1, self.dimension)[None]))[0]

    def decode_many(self, u: FloatArray[Array, "n d"]) -> list[dict[str, Any]]:
        """The points of ``n`` vectors at once, as :meth:`decode` gives each."""
        return self._points(self._scaled(unit(u, 2, self.dimension)))

    def _scaled(self, unit: FloatArray[np.ndarray, "n d"]) -> FloatArray[np.ndarray, "d n"]:
        line: FloatArray[np.ndarray, "d n"] = self._base + unit.T * self._scale
        if len(self._log):
            line[self._log] = np.exp(line[self._log])
        line = np.minimum(np.maximum(line, self._low), self._high)
        return line

    def _chosen(self, scaled: FloatArray[np.ndarray, "d n"]) -> dict[int, Any]:
        """By index of each Choice: the chosen options, shape (n,), -1 where the Choice itself is inactive."""
        chosen: dict[int, Any] = {}
        for index, v in enumerate(self._variables):
            if isinstance(v.dimension, Choice):
                chosen[index] = scaled[v.start : v.stop].argmax(axis=0)
                if v.parent >= 0:
                    chosen[index] = np.where(chosen[v.parent] == v.branch, chosen[index], -1)
        return chosen

    def _points(self, scaled: FloatArray[np.ndarray, "d n"]) -> list[dict[str, Any]]:
        columns = [v.dimension.decode(scaled[v.start : v.stop]) for v in self._variables]
        if not self._is_conditional:
            return [dict(zip(self.names, row, strict=True)) for row in zip(*columns, strict=True)]
        chosen = {index: options.tolist() for index, options in self._chosen(scaled).items()}
        cells = [
            (v.name, column, chosen.get(v.parent), v.branch) for v, column in zip(self._variables, columns, strict=True)
        ]
        return [
            {name: column[i] for name, column, gate, branch in cells if gate is None or gate[i] == branch}
            for i in range(scaled.shape[1])
        ]

    def active_mask(self, u: FloatArray[Array, "d"]) -> BoolArray[np.ndarray, "d"]:
        """Which coordinates of a vector, shape (d,), take part in its point: all but those of inactive branches."""
        chosen = self._chosen(self._scaled(unit(u, 1, self.dimension)[None]))
        mask = np.ones(self.dimension, dtype=bool)
        for v in self._variables:
            if v.parent >= 0:
                mask[v.start : v.stop] = chosen[v.parent][0] == v.branch
        return mask

    def encode(self, x: Mapping[str, Any]) -> FloatArray[np.ndarray, "d"]:
        """The vector of a point, shape (d,), in [0, 1]; 1/2 in the coordinates of inactive branches.

        Raises:
            SpaceError: a variable that is missing, out of its range, unknown or inactive.
        """
        u = np.full(self.dimension, 0.5)
        for v in self._active(x):
            u[v.start : v.stop] = v.dimension.encode(x[v.name])
        return u

    def _active(self, x: Mapping[str, Any]) -> list[_Variable]:
        """The variables that are active at ``x``; SpaceError if ``x`` is not a point of the space."""
        if not isinstance(x, Mapping):
            raise refusal("x", f"a dictionary with the names {', '.join(self.names)}", x)
        active: list[_Variable] = []
        chosen: dict[int, int] = {}
        for index, v in enumerate(self._variables):
            if v.parent >= 0 and chosen.get(v.parent) != v.branch:
                continue
            if v.name not in x:
                raise SpaceError(f"{v.name} must be {v.dimension.allowed}; got nothing")
            if not v.dimension.contains(x[v.name]):
                raise refusal(v.name, v.dimension.allowed, x[v.name])
            if isinstance(v.dimension, Choice):
                chosen[index] = v.dimension.position(x[v.name])
            active.append(v)
        known = {v.name for v in active}
        for name in x:
            if name not in self.names:
                raise unknown("names of x", name, self.names)
            if name not in known:
                raise SpaceError(f"{name} must be absent, its branch is not active; got {show(x[name])}")
        return active

    def explain(self, x: object) -> str | None:
        """Why ``x`` is not a point of the space, or None if it is."""
        try:
            self._active(x)  # type: ignore[arg-type]
        except SpaceError as error:
            return str(error)
        return None

    def contains(self, x: object) -> bool:
        """Whether ``x`` is a point of the space."""
        return self.explain(x) is None

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        return f"Space({self._dimensions!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def to_dict(self) -> dict[str, Any]:
        """The space as JSON-able data, which :meth:`from_dict` takes back.

        Lists keep the order of variables, on which coordinates depend, whatever is done to the keys.
        """
        return {"type": "space", "variables": [[name, d.to_dict()] for name, d in self._dimensions.items()]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Space:
        """The space of :meth:`to_dict`'s data; strict: SpaceError for unknown keys and types."""
        return cls(_dimensions("variables", tagged("data", data, {"space": (("variables",), ())})[1]["variables"]))

    @classmethod
    def from_toml(cls, path_or_text: str | os.PathLike[str]) -> Space:
        """The space that a TOML file or text describes, a table per variable::

            [C]
            type = "float"          # low, high, log (optional)
            low = 1e-3
            high = 1e3
            log = true

            [degree]
            type = "int"            # low, high, log (optional)
            low = 1
            high = 6

            [shrinking]
            type = "bool"

            [order]
            type = "permutation"
            items = ["a", "b", "c"] # or a number n for 0 to n - 1

            [kernel]
            type = "choice"
            options = ["rbf", "linear"]
            [kernel.branches.rbf.gamma]     # a variable that exists only where kernel = "rbf"
            type = "float"
            low = 1e-5
            high = 10.0

        Args:
            path_or_text: a path object or a string that ends in ".toml" is a file; any other string is the text.

        Raises:
            SpaceError: an unreadable file, malformed TOML, or a malformed space; names the variable.
        """
        import tomllib

        is_path = isinstance(path_or_text, os.PathLike) or (
            isinstance(path_or_text, str) and path_or_text.endswith(".toml") and "\n" not in path_or_text
        )
        if not is_path and not isinstance(path_or_text, str):
            raise refusal("path_or_text", "a path or TOML text", path_or_text)
        try:
            tables = tomllib.loads(Path(path_or_text).read_text("utf-8") if is_path else str(path_or_text))
        except (OSError, ValueError, RecursionError) as error:
            raise SpaceError(f"path_or_text must be a readable .toml file or TOML text: {error}") from error
        return cls(_dimensions("path_or_text", tables))


_LEAVES = {"float": Float, "int": Int, "bool": Bool, "permutation": Permutation}
_FIELDS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "float": (("low", "high"), ("log",)),
    "int": (("low", "high"), ("log",)),
    "bool": ((), ()),
    "permutation": (("items",), ()),
    "choice": ((), ("options", "branches")),
}


def _dimensions(argument: str, data: object) -> dict[str, Dimension]:
    """Variables from a list of pairs (name, table), as ``to_dict`` writes, or from TOML's table of tables."""
    pairs = list(data.items()) if isinstance(data, Mapping) else data
    if not isinstance(pairs, list) or not pairs:
        raise refusal(argument, "a non-empty table or list of variables", data)
    dimensions: dict[str, Dimension] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise refusal(argument, "of pairs [name, table]", pair)
        name, table = pair
        if name in dimensions:
            raise SpaceError(f"{argument} must be of different names; got {name!r} twice")
        kind, fields = tagged(name, table, _FIELDS)
        try:
            dimensions[name] = _choice(**fields) if kind == "choice" else _LEAVES[kind](**fields)
        except SpaceError as error:
            raise SpaceError(f"{name}: {error}") from None
    return dimensions


def _choice(options: Any = None, branches: Any = None) -> Choice:
    """A choice from its table; where ``options`` is absent, they are the names of the branches."""
    if branches is None:
        return Choice(options)
    if not isinstance(branches, Mapping):
        raise refusal("branches", "a table from option to variables", branches)
    names = Choice(list(branches) if options is None else options).options
    for option in branches:
        if option not in names:
            raise unknown("branches", option, names)
    spaces = {
        option: None if table in ({}, []) else Space(_dimensions(f"branches.{option}", table))
        for option, table in branches.items()
    }
    return Choice({name: spaces.get(name) for name in names})  # type: ignore[misc]


def space_from_dict(data: Mapping[str, Any]) -> Space | Box:
    """The space or box whose ``to_dict`` gave ``data``; strict: SpaceError for unknown keys and types."""
    kind, _ = tagged("data", data, {"space": (("variables",), ()), "box": (("low", "high"), ("dimension",))})
    return Box.from_dict(data) if kind == "box" else Space.from_dict(data)


def as_space(space: Space | Box | Mapping[str, Dimension]) -> Space | Box:
    """``space`` itself, or the Space of a dictionary of variables; SpaceError for anything else."""
    if isinstance(space, Space | Box):
        return space
    if isinstance(space, Mapping):
        return Space(space)
    raise refusal("space", "a Space, a Box or a dictionary from name to variable", space)


def as_named_space(space: Space | Box | Mapping[str, Dimension]) -> Space:
    """As :func:`as_space`, but no Box."""
    named = as_space(space)
    if not isinstance(named, Space):
        raise refusal("space", "a Space, whose variables have names", space)
    return named
