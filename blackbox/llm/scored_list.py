"""A list of scored solutions as text, worst first, for a language model to continue; and what it answers.

Source: Lange, Tian & Tang 2024, "Large language models as evolution strategies" (arXiv:2402.18381): solutions are
integers, sorted from worst to best with their fitness, and the last line asks for one of better fitness. Nothing is
said of the problem.

The integers are of a window around the solutions, not of the whole search space, whose resolution would end the search;
the window has one width for all coordinates, so that distances stay comparable.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    from jaxtyping import Float

_MARGIN = 1.5  # of the window beyond the farthest solution, so that an answer may lie outside of what is known
_DIGITS = 4  # of the differences between losses

_LINE = re.compile(r"^loss (\S+): ?([\d ]*)$", re.MULTILINE)
_MARKS = str.maketrans({**dict.fromkeys("[](){}*_`", " "), "\u2212": "-", "\u2013": "-"})
_INTEGER = r"(?<![\w.%-])-?\d+(?![\w%]|\.\d)"  # no part of a word, a decimal fraction or a percentage
_RUN = re.compile(rf"{_INTEGER}(?:[ ,]+{_INTEGER})*")


class Window(NamedTuple):
    """Where the integers 0 to ``resolution - 1`` lie."""

    center: Float[ndarray, "d"]
    half: float
    """Of the width, the same for all coordinates."""
    resolution: int

    def integers(self, x: Float[ndarray, "n d"]) -> ndarray:
        """The nearest integers to ``x``."""
        steps = (x - self.center) / (2 * self.half) + 0.5
        return np.clip(np.rint(steps * (self.resolution - 1)), 0, self.resolution - 1).astype(np.int64)

    def points(self, integers: ndarray) -> Float[ndarray, "n d"]:
        """The points of ``integers``."""
        return self.center + self.lengths(integers) - self.half

    def lengths(self, integers: ndarray) -> Float[ndarray, "n d"]:
        """Numbers of steps as lengths in the units of the solutions."""
        return integers * (2 * self.half / (self.resolution - 1))


def window_of(solutions: Float[ndarray, "n d"], center: Float[ndarray, "d"], resolution: int) -> Window:
    """The window around ``center`` that has all ``solutions`` in it, with a margin."""
    farthest = float(np.max(np.abs(solutions - center)))
    least = 1e-12 * max(1.0, float(np.max(np.abs(center))))  # where all are one point
    return Window(center, max(_MARGIN * farthest, least), resolution)


class Asked(NamedTuple):
    """What a list says."""

    integers: ndarray
    """(n, d), worst first."""
    losses: Float[ndarray, "n"]
    desired: float
    """The loss of the solution that is asked for."""
    spread: bool
    """Whether the spread around it is asked for, too."""
    resolution: int


def render(asked: Asked) -> str:
    """The text of a list, and the beginning of its next line."""
    *losses, desired = written(np.append(asked.losses, asked.desired))
    lines = [
        f"loss {loss}: {' '.join(map(str, row))}" for loss, row in zip(losses, asked.integers.tolist(), strict=True)
    ]
    d = asked.integers.shape[1]
    numbers = "1 integer" if d == 1 else f"{d} integers"
    ask = f"Write the {numbers} of the last line"
    if asked.spread:
        ask += f", a semicolon, and {numbers} that say how far from it to look next"
    return "\n".join([
        f"Solutions of {numbers} from 0 to {asked.resolution - 1} and their losses, the worst first. {ask}, no words.",
        *lines,
        f"loss {desired}:",
    ])  # fmt: skip


def read(text: str) -> Asked | None:
    """What the text of :func:`render` says; None for another text."""
    lines = _LINE.findall(text)
    first = re.match(r"Solutions of \d+ integers? from 0 to (\d+) ", text)
    if first is None or len(lines) < 2 or lines[-1][1].strip() or not all(row for _, row in lines[:-1]):
        return None
    rows = [list(map(int, row.split())) for _, row in lines[:-1]]
    if len(set(map(len, rows))) != 1:
        return None
    try:
        losses = [float(loss) for loss, _ in lines]
    except ValueError:
        return None
    return Asked(np.array(rows), np.array(losses[:-1]), losses[-1], "semicolon" in text, int(first[1]) + 1)


class Answer(NamedTuple):
    """A solution in integers, and the spread around it if there is one."""

    integers: ndarray
    spread: ndarray | None


def parse(text: str, d: int, resolution: int, spread: bool = False) -> Answer | None:
    """The answer in ``text``: ``d`` integers of the range in a row, or none.

    Brackets and marks of emphasis do not count. Where a ``spread`` was asked for, the solution is what has a semicolon
    and ``d`` more integers behind it; without a semicolon the last two such rows are solution and spread, in one
    variable only if there are no others, and a row alone is the solution. Otherwise the last row is.
    """
    text = text.translate(_MARKS)
    runs = [(match.start(), match.end(), _integers(match[0])) for match in _RUN.finditer(text)]
    rows = [(start, end, row) for start, end, row in runs if len(row) == d]
    if not rows:
        return None
    chosen: tuple[list[int], list[int] | None] = (rows[-1][2], None)
    if spread:
        joined = [
            (first[2], second[2])
            for first, second in itertools.pairwise(rows)
            if text[first[1] : second[0]].strip() == ";"
        ]
        if joined:
            chosen = joined[-1]
        elif d == 1 and len(rows) > 2:
            return None
        elif len(rows) > 1:
            chosen = rows[-2][2], rows[-1][2]
    solution, around = chosen
    if not all(0 <= value < resolution for value in solution):
        return None
    told = around is not None and all(0 <= value < resolution for value in around)
    return Answer(np.array(solution), np.array(around) if told else None)


def _integers(text: str) -> list[int]:
    words = re.findall(r"-?\d+", text)
    return [int(word) if len(word) < 10 else -1 for word in words]  # int() refuses thousands of digits


def written(values: Float[ndarray, "n"]) -> list[str]:
    """``values`` as texts with the digits that tell their differences."""
    decimals = _decimals(float(np.max(values) - np.min(values)))
    return [_number(value, decimals) for value in values.tolist()]


def _decimals(width: float) -> int | None:
    """Decimals that tell apart what differs by a ``width``'s last significant digit; None if nothing differs."""
    return None if width <= 0 else _DIGITS - 1 - math.floor(math.log10(width))


def _number(value: float, decimals: int | None) -> str:
    """``value`` to so many decimals; negative ones round to tens and hundreds."""
    if decimals is None or decimals > 12 or abs(value) >= 1e15:
        return repr(value)
    return f"{round(value, decimals) + 0.0:.{max(0, decimals)}f}"  # + 0.0: no minus before a zero
