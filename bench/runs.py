"""Runs of solvers on problems: their score, and a file of them that survives being cut off."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from objective import TARGETS

GROUPS = {
    "separable": range(1, 6),
    "low c.": range(6, 10),
    "high c.": range(10, 15),
    "multi": range(15, 20),
    "weak": range(20, 25),
}
"""BBOB's groups of functions: separable, of low and high conditioning, multimodal with strong and weak structure."""


def numbers(text: str) -> tuple[int, ...]:
    """``1-3,7`` as (1, 2, 3, 7)."""
    chosen: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        chosen += range(int(first), int(last or first) + 1)
    return tuple(chosen)


class Key(NamedTuple):
    """What a run is a function of."""

    solver: str
    factor: int
    """Budget of evaluations by dimension."""
    dimension: int
    function: int
    instance: int
    seed: int

    @property
    def budget(self) -> int:
        return self.factor * self.dimension


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a solver."""

    key: Key
    evaluations: int
    distance: float
    """Of the best value from the optimal one."""
    hits: tuple[int, ...]
    """Evaluations until the first, second, ... target was hit."""
    seconds: float
    """Processor time."""
    error: str | None = None
    """What the solver raised, if it did; what it had reached until then counts."""

    @property
    def area(self) -> float:
        """Area under the runtime ECDF with a logarithmic axis from 1 to the budget: misses count 0."""
        return sum(1.0 - math.log(hit) / math.log(self.key.budget) for hit in self.hits) / len(TARGETS)

    @property
    def solved(self) -> float:
        """Share of the targets hit."""
        return len(self.hits) / len(TARGETS)

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**self.key._asdict(), **{k: v for k, v in vars(self).items() if k != "key"}})

    @classmethod
    def from_json(cls, line: str) -> Run:
        """The run of such a line; raises ValueError, KeyError or TypeError for any other."""
        data: dict[str, Any] = json.loads(line)
        key = Key(**{name: data.pop(name) for name in Key._fields})
        return cls(key, **{**data, "hits": tuple(data["hits"])})


class Ledger:
    """A file of runs, one a line; the last of one key counts. Lines that were cut off are skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped = 0
        self._runs: dict[Key, Run] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._cut_off = text[-1:] not in ("", "\n")
        for line in text.splitlines():
            try:
                run = Run.from_json(line)
            except (ValueError, KeyError, TypeError):
                self.skipped += 1
            else:
                self._runs[run.key] = run

    def has(self, key: Key) -> bool:
        """Whether the run was made and did not fail."""
        return key in self._runs and self._runs[key].error is None

    def add(self, run: Run) -> None:
        """Keep a run, in the file before this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            if self._cut_off:
                file.write("\n")
                self._cut_off = False
            file.write(run.to_json() + "\n")
        self._runs[run.key] = run

    @property
    def runs(self) -> list[Run]:
        return list(self._runs.values())


def mean_area(runs: Sequence[Run]) -> float:
    """Mean area; NaN for no runs."""
    return float(np.mean([run.area for run in runs])) if runs else math.nan


class Difference(NamedTuple):
    """A paired difference of areas: mean over (function, dimension) of the mean over instances and seeds."""

    mean: float
    error: float
    """Standard error over the functions and dimensions."""
    pairs: int
    """Runs that were paired."""

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.error:.3f}" if self.pairs else "–"


def difference(ours: Iterable[Run], theirs: Iterable[Run]) -> Difference:
    """Area of ``ours`` less that of ``theirs`` on the problems and seeds that both have."""
    other = {run.key._replace(solver=""): run.area for run in theirs}
    cells: dict[tuple[int, int], list[float]] = {}
    for run in ours:
        if (area := other.get(run.key._replace(solver=""))) is not None:
            cells.setdefault((run.key.function, run.key.dimension), []).append(run.area - area)
    means = [float(np.mean(cell)) for cell in cells.values()]
    if len(means) < 2:
        return Difference(means[0] if means else math.nan, math.nan, sum(map(len, cells.values())))
    error = float(np.std(means, ddof=1)) / math.sqrt(len(means))
    return Difference(float(np.mean(means)), error, sum(map(len, cells.values())))
