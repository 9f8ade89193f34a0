"""The live line of a run: best value, evaluations per second, time left."""

from __future__ import annotations

import math
import time
from typing import Any

from blackbox.callbacks import Snapshot

LINE_EVERY = 10.0  # seconds, where the output is no terminal
REFRESH_EVERY = 0.1  # seconds


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
        self._evaluations = 0  # at the start
        self._next = 0.0

    def on_start(self, snapshot: Snapshot) -> None:
        self._evaluations = snapshot.evaluations
        self._next = time.monotonic() + LINE_EVERY
        if self._console.is_terminal:
            from rich.progress import BarColumn, SpinnerColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(20),
                TextColumn("{task.fields[text]}"),
            )
            self._live = Bar(*columns, console=self._console)
            self._live.add_task(snapshot.optimizer.method, total=1.0 if self._bounded(snapshot) else None, text="")
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
        self._live.update(self._live.task_ids[0], completed=self._share(snapshot), text=self._text(snapshot))

    def _line(self, snapshot: Snapshot) -> None:
        text = f"{snapshot.optimizer.method}: {self._text(snapshot)}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _share(self, snapshot: Snapshot) -> float:
        """How much of the run is done, by whichever limit is nearer."""
        budget = snapshot.optimizer.budget
        spent = snapshot.evaluations / budget if budget else 0.0
        return min(1.0, max(spent, snapshot.seconds / self._limit if self._limit else 0.0))

    def _text(self, snapshot: Snapshot) -> str:
        optimizer, best = snapshot.optimizer, snapshot.best
        count = f"{snapshot.evaluations}" + (f"/{optimizer.budget}" if optimizer.budget else "") + " evaluations"
        rate = (snapshot.evaluations - self._evaluations) / max(snapshot.seconds, 1e-9)
        parts = [count, "no value yet" if best is None else f"best {best.value:.6g}", f"{rate:.3g}/s"]
        if optimizer.failures:
            parts.append(f"{optimizer.failures} failed")
        if not snapshot.stopped and self._bounded(snapshot):
            parts.append(f"{_clock(self._left(snapshot, rate))} left")
        return ", ".join(parts)

    def _left(self, snapshot: Snapshot, rate: float) -> float:
        budget = snapshot.optimizer.budget
        by_budget = (budget - snapshot.evaluations) / rate if budget and rate > 0 else math.inf
        return max(0.0, min(by_budget, self._limit - snapshot.seconds if self._limit else math.inf))


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
