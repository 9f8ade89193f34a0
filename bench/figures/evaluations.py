"""R9 and R10: evaluations that hang, and workers that are killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import blackbox as bb
from blackbox.journal import Journal
from blackbox.workers import start_workers
from figures.course import Figure, Outcome, finish, scaled, start

LIMIT = 1.0  # seconds


def log(path: str, text: str) -> None:
    """One line; lines of several processes do not mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def read(path: str) -> list[list[str]]:
    return [line.split() for line in Path(path).read_text().splitlines()] if Path(path).exists() else []


def children() -> dict[int, str]:
    """State of each child of this process, by process identifier."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (folder / "cmdline").read_text()
            except OSError:
                continue
            if int(parent) == os.getpid() and "resource_tracker" not in command:
                found[int(folder.name)] = state
    return found


def hanging(x: tuple[str, str]) -> float:
    """An objective in a worker: hangs, hangs and is deaf to all signals that can be ignored, or is quick."""
    kind, path = x
    if kind == "deaf":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    log(path, f"{os.getpid()} {time.monotonic()} {kind}")
    while kind != "quick":
        time.sleep(60)
    time.sleep(0.02)
    return 1.0


def hangs(path: str, count: int) -> list[float]:
    """In a child: seconds after the limit until the worker is gone and until its slot is refilled, at worst; both for
    a worker that is deaf to signals; zombies and processes left at the end.
    """
    workers = start_workers(hanging, 2, timeout=LIMIT)
    figures = {"hang": [0.0, 0.0], "deaf": [0.0, 0.0]}
    for kind in ["hang"] * count + ["deaf"]:
        workers.submit(0, (kind, path))
        while kind not in [line[2] for line in read(path)[-1:]]:
            time.sleep(0.002)
        known = set(children())
        queued, gone, deadline = 0, 0.0, 0.0
        fresh: list[float] = []
        while not fresh:  # the other worker goes on, and a new one must join it
            for _ in range(4 - queued):
                workers.submit(1, ("quick", path))
            outcomes = workers.wait(None)
            queued = 4 - sum(outcome.id == 1 for outcome in outcomes)
            lines = read(path)
            if not gone and any(outcome.status == "timeout" for outcome in outcomes):
                worker, begin, _ = [line for line in lines if line[2] != "quick"][-1]
                deadline = float(begin) + LIMIT
                while int(worker) in children():
                    time.sleep(0.002)
                gone = time.monotonic() - deadline
            fresh = [
                float(line[1]) for line in lines if gone and int(line[0]) not in known and float(line[1]) > deadline
            ]
        worst = figures[kind]
        worst[:] = max(worst[0], gone), max(worst[1], min(fresh) - deadline)
        while workers.wait(1.0):
            pass
    workers.close()
    left = children()
    return [*figures["hang"], *figures["deaf"], sum(state == "Z" for state in left.values()), len(left)]


def hung(scale: float, folder: Path) -> Outcome:
    """R9. Two workers; one hangs, the other goes through quick evaluations."""
    if not Path("/proc/self/stat").exists():
        return Outcome("not measured: needs /proc", None)
    count = scaled(10, scale, 2)
    code = "import figures.evaluations as e\nif __name__ == '__main__': print(*e.hangs(sys.argv[1], int(sys.argv[2])))"
    gone, refilled, deaf_gone, deaf_refilled, zombies, left = map(
        float, finish(start(code, folder / "log", count)).split()
    )
    measured = (
        f"{count} hangs under a limit of {LIMIT:g} s: worker gone within {gone:.2f} s and slot refilled within "
        f"{refilled:.2f} s after the limit ({deaf_gone:.2f} s and {deaf_refilled:.2f} s where the objective ignores "
        f"SIGTERM); {zombies:g} zombies and {left:g} processes left"
    )
    return Outcome(measured, gone < 2 and refilled < 2 and not zombies and not left)


def short(x: Any) -> float:
    """An objective in a worker."""
    time.sleep(0.02 + 0.02 * abs(float(x[0])))
    return float(((x - 0.3) ** 2).sum())


class Killer:
    """Kills a random worker of this process every few results, at a random moment between two of them."""

    def __init__(self, kills: int, every: int) -> None:
        self.left, self.every, self.kills = kills, every, 0
        self._random = random.Random(0)
        self._timers: list[threading.Timer] = []

    def on_tell(self, run: Any) -> None:
        if self.left and run.evaluations % self.every == 0:
            self.left -= 1
            timer = threading.Timer(self._random.uniform(0, 0.05), self._kill)
            self._timers.append(timer)
            timer.start()

    def _kill(self) -> None:
        workers = [pid for pid, state in children().items() if state != "Z"]
        if workers:
            os.kill(self._random.choice(workers), signal.SIGKILL)
            self.kills += 1

    def join(self) -> None:
        for timer in self._timers:
            timer.join()


def pool(path: str, kills: int) -> list[Any]:
    """In a child: a run of minimize with four workers that are killed."""
    killer = Killer(kills, every=4)
    budget = 4 * kills + 20
    result = bb.minimize(
        short,
        bb.Box(-1, 1, 3),
        budget=budget,
        workers=4,
        seed=0,
        journal=path,
        callbacks=[killer],
        timeout=30,
        retries=3,
    )
    killer.join()
    with Journal.open(path, read_only=True) as journal:
        events = list(journal.events())
    told = Counter((event.generation, event.member) for event in events)
    statuses = Counter(event.status for event in events)
    plain = [event.value for event in events if event.status == "ok"]
    right = result.value == min(plain)
    zombies = len(children())
    return [killer.kills, budget, result.evaluations, max(told.values()), statuses["crashed"], int(right), zombies]


def killed(scale: float, folder: Path) -> Outcome:
    """R10."""
    if not Path("/proc/self/stat").exists():
        return Outcome("not measured: needs /proc", None)
    code = "import figures.evaluations as e\nif __name__ == '__main__': print(*e.pool(sys.argv[1], int(sys.argv[2])))"
    output = finish(start(code, folder / "run.db", scaled(100, scale, 5)))
    kills, budget, evaluations, most, crashed, right, left = map(int, output.split())
    measured = (
        f"{kills} workers killed in a pool of 4: {evaluations} of {budget} evaluations told, each {most} time(s), "
        f"{crashed} as crashed after 3 retries; {left} processes left"
    )
    return Outcome(measured, evaluations == budget and most == 1 and right == 1 and left == 0)


FIGURES = [
    Figure("R9", "evaluations that hang, `timeout=1`", "worker gone and slot refilled within 2 s; no zombie", hung),
    Figure("R10", "100 workers killed in a pool of 4", "the run completes; each member told once", killed),
]
