"""A space with variables of every kind that other packages can express, nested ones among them."""

from __future__ import annotations

import blackbox as bb


def every_kind(*options: str | int | float | bool | None) -> bb.Space:
    """The space; ``options`` are those of its variable ``c``."""
    inner = bb.Choice({"u": bb.Space({"v": bb.Int(0, 3)}), "w": None})
    return bb.Space(
        {
            "x": bb.Float(-1, 1),
            "l": bb.Float(1e-5, 1, log=True),
            "n": bb.Int(1, 6),
            "m": bb.Int(1, 64, log=True),
            "b": bb.Bool(),
            "k": bb.Choice({"rbf": bb.Space({"g": bb.Float(0, 1), "s": inner}), "linear": None}),
            "c": bb.Choice(list(options)),
        }
    )
