"""The live line of a run: best value, evaluations per second, time left."""

from __future__ import annotations

import math
import time
from typing import Any

from blackbox.callbacks import Snapshot

LINE_EVERY = 10.0  # seconds, where the output is no terminal
REFRESH_EVERY = 0.1  # seconds
BAR = 20  # columns, on terminals of at least
BAR_FROM = 80


class Progress:
    """A callback that draws on standard error: one live line on a terminal, else a plain line every ten seconds.

    Args:
        seconds: the run's time limit, if it has one.
        console: a rich Console to draw on.
    """

    def __init__(self, seconds: float | None = None, console: Any = None) -> None:
        from rich.console import Console

        self._limit = seconds
        self._console = console or Console(stderr=True)
        self._live: Any = None
        self._beside = 0
        self._spent = 0.0  # at the start
        self._next = 0.0

    def on_start(self, snapshot: Snapshot) -> None:
        self._spent = snapshot.optimizer.spent
        self._next = time.monotonic() + LINE_EVERY
        if self._console.is_terminal:
            from rich.progress import BarColumn, SpinnerColumn, TextColumn
            from rich.progress import Progress as Bar

            self._beside = 2  # columns that the text does not have: the spinner's, the bar's and those between
            columns: list[Any] = [SpinnerColumn()]
            if self._console.width >= BAR_FROM:
                columns.append(BarColumn(BAR))
                self._beside += BAR + 1
            columns.append(TextColumn("{task.description}", markup=False))
            self._live = Bar(*columns, console=self._console)
            self._live.add_task("", total=1.0 if self._bounded(snapshot) else None)
            self._live.start()
            self._next = 0.0

    def on_tell(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        if self._live is None:
            self._next = now + LINE_EVERY
            self._line(snapshot)
        else:
            self._next = now + REFRESH_EVERY
            self._draw(snapshot)

    def on_stop(self, snapshot: Snapshot) -> None:
        if self._live is None:
            self._line(snapshot)
        else:
            self._draw(snapshot)
            self._live.stop()
            self._live = None

    def _bounded(self, snapshot: Snapshot) -> bool:
        return self._limit is not None or snapshot.optimizer.budget is not None

    def _draw(self, snapshot: Snapshot) -> None:
        text = self._text(snapshot, self._console.width - self._beside)
        self._live.update(self._live.task_ids[0], completed=self._share(snapshot), description=text)

    def _line(self, snapshot: Snapshot) -> None:
        self._console.print(self._text(snapshot), markup=False, highlight=False, soft_wrap=True)

    def _share(self, snapshot: Snapshot) -> float:
        """How much of the run is done, by whichever limit is nearer."""
        budget = snapshot.optimizer.budget
        spent = snapshot.optimizer.spent / budget if budget else 0.0
        return min(1.0, max(spent, snapshot.seconds / self._limit if self._limit else 0.0))

    def _text(self, snapshot: Snapshot, width: float = math.inf) -> str:
        """The line. Where ``width`` columns are too few, best value, rate and time left stay, which fit into 50."""
        optimizer, best = snapshot.optimizer, snapshot.best
        has_budgets = optimizer.settings.fidelity is not None
        spent = f"{optimizer.spent:.1f}" if has_budgets else f"{optimizer.spent}"
        count = spent + (f"/{optimizer.budget}" if optimizer.budget else "")
        rate = (optimizer.spent - self._spent) / max(snapshot.seconds, 1e-9)
        found = "no value yet" if best is None else f"best {best.value:.6g}"
        if optimizer.settings.objectives > 1:
            found = f"{len(optimizer.pareto)} on the front"
        parts = {
            "method": f"{optimizer.method}: ",
            "count": f"{count} full evaluations" if has_budgets else f"{count} evaluations",
            "best": found,
            "finals": "finals" if optimizer.in_finals else "",
            "rate": f"{rate:.3g}/s",
            "failed": f"{optimizer.failures} failed" if optimizer.failures else "",
            "left": "",
        }
        if not snapshot.stopped and self._bounded(snapshot):
            parts["left"] = f"{_clock(self._left(snapshot, rate))} left"
        text = _joined(**parts)
        for name, shorter in (("count", count), ("method", ""), ("count", ""), ("failed", ""), ("finals", "")):
            if len(text) > width:
                parts[name] = shorter
                text = _joined(**parts)
        return text

    def _left(self, snapshot: Snapshot, rate: float) -> float:
        budget = snapshot.optimizer.budget
        by_budget = (budget - snapshot.optimizer.spent) / rate if budget and rate > 0 else math.inf
        return max(0.0, min(by_budget, self._limit - snapshot.seconds if self._limit else math.inf))


def _joined(method: str, **parts: str) -> str:
    return method + ", ".join(part for part in parts.values() if part)


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
