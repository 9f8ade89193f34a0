"""Layouts: which coordinates of the unit cube are which variable. Spaces write them, strategies read them."""

from __future__ import annotations

from typing import Any, NamedTuple

from blackbox.errors import SettingError

Layout = tuple[tuple[Any, ...], ...]
"""Kinds of variables in coordinate order: ``("float",)``, ``("int", inner cell edges)``, ``("choice", k)``."""

Conditions = tuple[tuple[int, int], ...]
"""For each variable the position of a choice and its option without which it does not count; (-1, -1) for none."""


class Variable(NamedTuple):
    """An entry of a layout."""

    kind: str
    """float, int or choice."""
    first: int
    """Its first coordinate."""
    edges: tuple[float, ...] = ()
    """Ascending, between the cells of an integer; none where they are too narrow to matter."""
    options: int = 0
    """Of a choice, which has as many coordinates; 0 for numbers, which have one."""


def variables_of(layout: Layout) -> tuple[Variable, ...]:
    """The variables of a layout; SettingError for a malformed one."""
    found: list[Variable] = []
    first = 0
    for entry in layout:
        match entry:
            case ("float",):
                found.append(Variable("float", first))
            case ("int", tuple(edges)):
                found.append(Variable("int", first, edges))
            case ("choice", int(options)) if options >= 1:
                found.append(Variable("choice", first, options=options))
            case _:
                allowed = '("float",), ("int", inner cell edges) or ("choice", number of options)'
                raise SettingError(f"layout must consist of {allowed}; got {entry!r}")
        first += max(1, found[-1].options)
    return tuple(found)
