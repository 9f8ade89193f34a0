"""What ``minimize``, ``run`` and ``resume`` share: one call of :func:`blackbox.minimize`, watched and reported."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import typer

from blackbox.cli.terminal import is_live, show_result

if TYPE_CHECKING:
    from blackbox.callbacks import Snapshot
    from blackbox.optimizer import Optimizer
    from blackbox.task import Task

NOTHING_FOUND, INTERRUPTED = 1, 130  # exit codes


class _Watch:
    """A callback that keeps in the journal how to go on, counts how evaluations end, and draws the live line."""

    def __init__(self, task: Task, has_progress: bool) -> None:
        from blackbox.progress import Progress

        self._task = task
        self._progress = Progress(task.settings.get("seconds")) if has_progress else None
        self.begin = time.monotonic()
        self.optimizer: Optimizer | None = None
        self.statuses: Counter[str] = Counter()

    def on_start(self, snapshot: Snapshot) -> None:
        from blackbox.task import COMMAND, OBJECTIVE

        self.optimizer = snapshot.optimizer
        self.optimizer.keep(COMMAND, {OBJECTIVE: self._task.name, **self._task.evaluation})
        if self._progress is not None:
            self._progress.on_start(snapshot)

    def on_tell(self, snapshot: Snapshot) -> None:
        if snapshot.candidate is not None:
            self.statuses[snapshot.candidate.status] += 1
        if self._progress is not None:
            self._progress.on_tell(snapshot)

    def on_stop(self, snapshot: Snapshot) -> None:
        if self._progress is not None:
            self._progress.on_stop(snapshot)


def solve(task: Task, progress: bool | None, as_json: bool, resume: bool = False) -> None:
    """Minimize, print what was found, and choose the exit code."""
    from blackbox.minimizer import minimize
    from blackbox.reporting.report import outcome
    from blackbox.reporting.tables import outcome_tables

    watch, code = _Watch(task, is_live(progress)), 0
    try:
        result = minimize(task.objective, task.space, callbacks=[watch], resume=resume, **task.settings)
        optimizer, stopped = result.optimizer, result.stopped
    except KeyboardInterrupt:
        if watch.optimizer is None:
            raise
        optimizer, code, journal = watch.optimizer, INTERRUPTED, task.settings.get("journal")
        go_on = "nothing is kept without --journal"
        if journal is not None:
            go_on = f"go on with: blackbox resume {shlex.quote(str(journal))}"
        print(f"interrupted after {optimizer.evaluations} evaluations; {go_on}", file=sys.stderr)
        stopped = {"interrupted": f"interrupted; {go_on}"}
    facts = outcome(optimizer, task, watch.statuses, time.monotonic() - watch.begin, stopped)
    show_result(as_json, facts, lambda: outcome_tables(facts))
    if code or not optimizer.pareto:
        raise typer.Exit(code or NOTHING_FOUND)
