"""What the command line knows, as JSON values: a run as its journal tells it, the outcome of a call, a method."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.journal import Journal
from blackbox.pareto import non_dominated
from blackbox.shell.auto import choose_method
from blackbox.shell.replay import Evaluation, replay
from blackbox.shell.settings import Settings, fingerprint
from blackbox.strategy import create, find_method
from blackbox.task import COMMAND, Task

if TYPE_CHECKING:
    from blackbox.optimizer import Optimizer


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """A run as its journal tells it.

    Attributes:
        path: the journal.
        settings: what the run is made from.
        budget: evaluations in all, as last set; None is unlimited.
        command: how the command line evaluates, empty for runs from Python.
        made_by: versions that wrote the journal.
        evaluations: in the order of telling.
    """

    path: Path
    settings: Settings
    budget: int | None
    command: Mapping[str, Any]
    made_by: Mapping[str, str]
    evaluations: Sequence[Evaluation]

    @classmethod
    def read(cls, path: Path) -> Report:
        """The run of a journal, which may be in progress.

        Raises:
            JournalError: the file is missing, damaged, or something else.
            SettingError: the run's method is not installed here.
        """
        with Journal.open(path, read_only=True) as journal:
            settings = Settings.from_json(journal.configuration)
            budget, command = journal.note("budget"), journal.note(COMMAND)
            return cls(
                path=path,
                settings=settings,
                budget=settings.budget if budget is None else budget["evaluations"],
                command=command if isinstance(command, dict) else {},
                made_by=journal.configuration["fingerprint"],
                evaluations=list(replay(journal)),
            )

    @property
    def sign(self) -> int:
        """1 if lower is better, -1 if higher is."""
        return self.settings.policy.sign

    @cached_property
    def values(self) -> np.ndarray:
        """The told values, shape (n,); NaN where the evaluation failed, infinite where a constraint is not kept."""
        worst, candidates = self.sign * math.inf, [evaluation.candidate for evaluation in self.evaluations]
        told = [worst if candidate.status == "infeasible" else candidate.value for candidate in candidates]
        values: np.ndarray = np.array(told, dtype=float)
        return values

    @cached_property
    def is_ok(self) -> np.ndarray:
        """Which evaluations have a finite value, shape (n,)."""
        has_value = np.array([e.candidate.status == "ok" for e in self.evaluations], dtype=bool)
        is_ok: np.ndarray = has_value & np.isfinite(self.values)
        return is_ok

    @cached_property
    def ranking(self) -> list[int]:
        """Positions of the evaluations that have a value, best first; of equal ones the first asked.

        With a fidelity those of the largest budget come first. With several objectives: of those that no other
        dominates, by their first value.
        """
        if self.settings.objectives > 1:
            return self._front()
        return sorted((i for i, e in enumerate(self.evaluations) if e.candidate.status == "ok"), key=self._rank)

    @cached_property
    def best_so_far(self) -> list[int]:
        """Of each evaluation with a finite value, in order, the position of the best one until then."""
        best: list[int] = []
        for i in np.flatnonzero(self.is_ok).tolist():
            best.append(min(best[-1], i, key=self._rank) if best else i)
        return best

    def _rank(self, position: int) -> tuple[float, float, tuple[int, int]]:
        candidate = self.evaluations[position].candidate
        return -(candidate.budget or 0.0), self.sign * (candidate.value or 0.0), candidate.id

    def _front(self) -> list[int]:
        found = [i for i, e in enumerate(self.evaluations) if e.candidate.status == "ok"]
        signs = np.array(self.settings.goals.signs)
        values = np.array([self.evaluations[i].candidate.values for i in found]).reshape(len(found), -1) * signs
        best = np.flatnonzero(non_dominated(values))
        return [found[i] for i in best[np.lexsort(values[best].T[::-1])].tolist()]

    @property
    def statuses(self) -> dict[str, int]:
        """How many evaluations ended how, the most frequent first."""
        return dict(Counter(e.candidate.status for e in self.evaluations).most_common())

    @property
    def seconds(self) -> float | None:
        """Time in the objective, as far as it was told."""
        told = [e.seconds for e in self.evaluations if e.seconds is not None]
        return sum(told) if told else None

    @property
    def doubt(self) -> str:
        """Why the points may not be those that were evaluated, or empty."""
        here = fingerprint(self.settings.method)
        if self.made_by == here:
            return ""
        made, now = (" ".join(f"{k} {v}" for k, v in versions.items()) for versions in (self.made_by, here))
        return f"written under {made}, read under {now}: points may differ in their last digits, or altogether"

    def facts(self) -> dict[str, Any]:
        """The run without its evaluations, as JSON values."""
        settings = self.settings
        return {
            "journal": str(self.path),
            "method": settings.method,
            "reason": settings.reason,
            "hyperparameters": dict(settings.hyperparameters),
            "restarts": settings.restarts,
            "direction": settings.direction,
            "seed": settings.seed,
            "budget": self.budget,
            "command": dict(self.command),
            "made_by": dict(self.made_by),
            "evaluations": len(self.evaluations),
            "statuses": self.statuses,
            "seconds": self.seconds,
            "best": self.row(self.ranking[0]) if self.ranking else None,
        }

    def row(self, position: int) -> dict[str, Any]:
        """One evaluation; numbers count from 1."""
        candidate, reason, seconds = self.evaluations[position]
        return {
            "number": position + 1,
            "id": list(candidate.id),
            **({} if candidate.budget is None else {"budget": candidate.budget}),
            "value": candidate.value,
            **({} if candidate.values is None else {"values": list(candidate.values)}),
            **({} if candidate.constraints is None else {"constraints": list(candidate.constraints)}),
            "status": candidate.status,
            "seconds": seconds,
            "reason": reason,
            "x": candidate.x,
        }

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            **self.facts(),
            "space": self.settings.space.to_dict(),
            "points": [self.row(i) for i in range(len(self.evaluations))],
        }


def jsonable(value: Any) -> Any:
    """``value`` with arrays as lists and NumPy scalars as Python's; what is not finite, which JSON lacks, is None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def coordinates(x: Any) -> dict[str, Any]:
    """The variables of a point by name; those of an array are x0, x1, ..."""
    return dict(x) if isinstance(x, Mapping) else {f"x{i}": value for i, value in enumerate(x.tolist())}


def outcome(
    optimizer: Optimizer, task: Task, statuses: Mapping[str, int], seconds: float, stopped: Mapping[str, str]
) -> dict[str, Any]:
    """What a call of minimize came to, as JSON values.

    Args:
        optimizer: as the call has left it.
        task: what was minimized.
        statuses: how many evaluations of this call ended how; a resumed run has earlier ones.
        seconds: that the call took.
        stopped: why it ended.
    """
    front = [{"x": candidate.x, "values": list(candidate.values or ())} for candidate in optimizer.pareto]
    best, journal = optimizer.best, task.settings.get("journal")
    return {
        "objective": task.name,
        "x": None if best is None else best.x,
        "value": None if best is None else best.value,
        **({"standard_error": best.standard_error} if best is not None and optimizer.settings.noise else {}),
        **({"pareto": front} if optimizer.settings.objectives > 1 else {}),
        "evaluations": optimizer.evaluations,
        "failures": optimizer.failures,
        "statuses": dict(statuses),
        "seconds": seconds,
        "stopped": dict(stopped),
        "method": optimizer.method,
        "reason": optimizer.settings.reason,
        "direction": optimizer.direction,
        "seed": optimizer.seed,
        "journal": None if journal is None else str(journal),
    }


def describe_method(name: str) -> dict[str, Any]:
    """A registered method, or the rule of ``auto``, as JSON values.

    Raises:
        SettingError: an unknown name.
    """
    if name == "auto":
        rule = inspect.getdoc(choose_method) or ""
        return {"name": name, "tags": [], "source": "", "documentation": rule, "hyperparameters": []}
    method = find_method(name)
    cls = method.load()
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    if "hosted" in method.tags:
        create(name)  # or it is none of the package's
        fields = tuple(field for field in fields if field.name != "name")
    return {
        "name": name,
        "tags": sorted(method.tags),
        "source": method.source,
        "documentation": inspect.getdoc(cls) or "",
        "hyperparameters": [
            {
                "name": field.name,
                "type": field.type if isinstance(field.type, str) else field.type.__name__,
                "default": "" if field.default is dataclasses.MISSING else repr(field.default),
            }
            for field in fields
        ],
    }
