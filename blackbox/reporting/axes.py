"""The variables of a space as axes: one scale each, whatever branches a variable appears in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from blackbox.dimensions import Bool, Dimension, Float, Int, Permutation, option_key
from blackbox.space import Box, Choice, Space

MOST_ITEMS = 30  # of a permutation; longer ones have no axes


class Axis(NamedTuple):
    """One variable, or the place of one item in a permutation."""

    name: str
    low: float
    """Lower bound over all branches; 0 for options and places."""
    high: float
    is_log: bool = False
    is_integer: bool = False
    options: tuple[Any, ...] | None = None
    """Of a choice or Boolean; None for numbers."""
    item: tuple[Any] | None = None
    """The item of a permutation whose place is meant."""

    def number(self, x: Mapping[str, Any]) -> float:
        """The variable at a point as a number from ``low`` to ``high``; NaN where it is absent."""
        if self.name not in x:
            return math.nan
        value = x[self.name]
        if self.item is not None:
            return _place(value, self.item[0])
        return float(value) if self.options is None else _place(self.options, value)

    def position(self, number: float) -> float:
        """Where a number lies on the axis: 0 at ``low``, 1 at ``high``."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, number = math.log(low), math.log(high), math.log(number)
        return (number - low) / (high - low) if high > low else 0.5


def axes(space: Space | Box) -> list[Axis]:
    """The axes of a space in the order of its variables; a permutation of n items has n."""
    if isinstance(space, Box):
        bounds = zip(space.names, space.low.tolist(), space.high.tolist(), strict=True)
        return [Axis(name, low, high) for name, low, high in bounds]
    found: dict[str, list[Dimension]] = {}
    for name, dimension in _walk(space):
        found.setdefault(name, []).append(dimension)
    return [axis for name in space.names for axis in _axes(name, found[name])]


def _walk(space: Space) -> Iterator[tuple[str, Dimension]]:
    for name, dimension in space.dimensions.items():
        yield name, dimension
        for branch in dimension.branches if isinstance(dimension, Choice) else ():
            if branch is not None:
                yield from _walk(branch)


def _axes(name: str, dimensions: Sequence[Any]) -> Iterator[Axis]:
    """The axes of the variables that share a name, which branches that exclude each other may."""
    if all(isinstance(dimension, Float | Int) for dimension in dimensions):
        low, high = min(float(d.low) for d in dimensions), max(float(d.high) for d in dimensions)
        is_log, is_integer = all(d.log for d in dimensions), all(isinstance(d, Int) for d in dimensions)
        yield Axis(name, low, high, is_log, is_integer)
    elif all(isinstance(dimension, Permutation) for dimension in dimensions):
        items = {option_key(item): item for dimension in dimensions for item in dimension.items}
        if len(items) <= MOST_ITEMS:
            for item in items.values():
                yield Axis(name, 0.0, len(items) - 1.0, item=(item,))
    else:
        options: dict[Any, Any] = {}
        for d in dimensions:
            values = (False, True) if isinstance(d, Bool) else d.options if isinstance(d, Choice) else ()
            options |= {option_key(value): value for value in values}
        yield Axis(name, 0.0, len(options) - 1.0, options=tuple(options.values()))


def _place(values: Sequence[Any], value: Any) -> float:
    keys = [option_key(other) for other in values]
    return float(keys.index(option_key(value))) if option_key(value) in keys else math.nan
