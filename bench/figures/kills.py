"""R1, R7 and R12: the process dies, the disk is full, two processes want one file."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blackbox as bb
import blackbox.journal
from figures.course import (
    Figure,
    Outcome,
    advance,
    digest,
    finish,
    frequent_checkpoints,
    make,
    objective,
    same_value,
    scaled,
    start,
)

KILLED_METHODS = ("cma-es", "l-shade", "nelder-mead")
MOMENTS = ("any moment", "tell", "checkpoint", "resume")


def dying(function: Callable[..., Any], calls: int, events: int) -> Callable[..., Any]:
    """``function``, but within its ``calls``-th call this process is killed after so many calls and returns."""

    def killer(frame: Any, event: str, argument: Any) -> None:
        nonlocal events
        events -= 1
        if events <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls -= 1
        if calls > 0:
            return function(*arguments, **settings)
        sys.setprofile(killer)
        try:
            return function(*arguments, **settings)
        finally:
            sys.setprofile(None)

    return wrapped


def victim(path: str, moment: str, seed: str) -> None:
    """In a child: go on with a run, say what was acknowledged, until killed from outside or within a function."""
    rng = random.Random(int(seed))
    journal, optimizer_class = blackbox.journal.Journal, bb.Optimizer
    frequent_checkpoints(2)
    warnings.simplefilter("ignore")
    if moment == "tell":
        journal.append = dying(journal.append, rng.randint(1, 200), rng.randint(1, 120))  # type: ignore[method-assign]
    if moment == "checkpoint":
        save = dying(journal.save_checkpoint, rng.randint(1, 4), int(10 ** rng.uniform(0, 3)))
        journal.save_checkpoint = save  # type: ignore[method-assign]
    resume: Any = optimizer_class.resume
    if moment == "resume":
        resume = dying(resume, 1, int(10 ** rng.uniform(0, 4.5)))
    print("begin", flush=True)
    optimizer = resume(path)
    while True:
        batch = optimizer.ask(rng.randint(1, optimizer.popsize - len(optimizer._search.results)))
        values = [objective(candidate.x) for candidate in batch]
        optimizer.tell(batch, values)
        lines = [f"{c.id[0]} {c.id[1]} {v!r}\n" for c, v in zip(batch, values, strict=True)]
        print("".join(lines), end="", flush=True)


def kills(scale: float, folder: Path) -> Outcome:
    """R1. A kill from outside comes at a random time; one from within, at a random call inside the function."""
    count = scaled(100, scale, 12)
    rng = random.Random(0)
    lost = duplicated = unreadable = different = acknowledged = 0
    dead = dict.fromkeys(MOMENTS, 0)
    for method in KILLED_METHODS:
        path = folder / f"{method}.db"
        make(method, path).close()
        told: dict[tuple[int, int], float | None] = {}
        for kill in range(count // len(KILLED_METHODS) + (method == KILLED_METHODS[0]) * (count % len(KILLED_METHODS))):
            moment = MOMENTS[kill % len(MOMENTS)]
            child = start("import figures.kills as k; k.victim(*sys.argv[1:])", path, moment, rng.randrange(2**32))
            timer = None
            if child.stdout is None or child.stdout.readline() != "begin\n":
                raise RuntimeError(finish(child))
            if moment in ("any moment", "resume"):  # a resume that was quicker than its killer is killed soon after
                time.sleep(rng.uniform(0, 0.4) if moment == "any moment" else 0.5)
                child.kill()
            else:
                timer = time.monotonic()
            output, errors = child.communicate(timeout=60)
            if child.returncode != -signal.SIGKILL:
                raise RuntimeError(f"the child ended by itself after {timer}: {errors[-2000:]}")
            dead[moment] += 1
            for line in output.split("\n")[:-1]:  # what follows the last line end was cut off
                generation, member, value = line.split()
                told[int(generation), int(member)] = None if value == "None" else float(value)
            try:
                with bb.Optimizer.resume(path) as optimizer:
                    evaluations = optimizer.evaluations
                with blackbox.journal.Journal.open(path, read_only=True) as journal:
                    events = {(event.generation, event.member): event.value for event in journal.events()}
            except bb.BlackboxError:
                unreadable += 1
                continue
            duplicated += evaluations - len(events)
            lost += sum(id not in events or not same_value(events[id], value) for id, value in told.items())
        acknowledged += len(told)
        plain = make(method)
        with bb.Optimizer.resume(path) as optimizer:
            advance(plain, optimizer.evaluations)
            different += digest(optimizer) != digest(plain)
    inside = ", ".join(f"{number} in {moment}" for moment, number in dead.items() if moment != "any moment")
    measured = (
        f"{sum(dead.values())} kills ({dead['any moment']} at any moment, {inside}): {acknowledged} acknowledged, "
        f"{lost} lost, {duplicated} duplicated, {unreadable} unreadable; {different} of "
        f"{len(KILLED_METHODS)} end states differ"
    )
    return Outcome(measured, not (lost or duplicated or unreadable or different))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A folder with 300 kB of space, or None where this may not be made."""
    small = folder / "small"
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)]
    may = sys.platform.startswith("linux") and os.geteuid() == 0
    if not may or subprocess.run(command, check=False, capture_output=True).returncode:
        yield None
        return
    try:
        yield small
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def again(optimizer: bb.Optimizer, candidate: bb.Candidate) -> None:
    """Tell, and once more if there is no space: the first failure has folded the log into the file."""
    try:
        optimizer.tell(candidate, objective(candidate.x))
    except bb.JournalError:
        optimizer.tell(candidate, objective(candidate.x))


def full_disk(scale: float, folder: Path) -> Outcome:
    """R7. The disk fills up at another byte each time; half of the runs then go on, half are resumed."""
    offsets = scaled(50, scale, 5)
    lost = different = stuck = told = 0
    with small_disk(folder) as small, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a checkpoint could not be saved")  # which is no result
        if small is None:
            return Outcome("not measured: needs the right to mount a small disk", None)
        for number in range(offsets):
            path, filler = small / "run.db", small / "filler"
            optimizer = make(KILLED_METHODS[number % len(KILLED_METHODS)], path)
            advance(optimizer, 3)
            stat = os.statvfs(small)
            filler.write_bytes(bytes(max(0, stat.f_bavail * stat.f_frsize - number * 200_000 // offsets)))
            while True:
                candidate, before = optimizer.ask(), digest(optimizer)
                optimizer._gate.waiting[candidate.id] = candidate
                try:
                    optimizer.tell(candidate, objective(candidate.x))
                except bb.JournalError:
                    break
            optimizer._gate.waiting[candidate.id] = candidate
            stuck += candidate.status != "asked"
            different += digest(optimizer) != before
            evaluations = optimizer.evaluations
            if number % 2:
                optimizer.close()  # on the full disk
                filler.unlink()
                optimizer = bb.Optimizer.resume(path)
            else:
                filler.unlink()
                again(optimizer, candidate)
            lost += max(0, evaluations - optimizer.evaluations)
            while optimizer.evaluations < evaluations + 30:
                again(optimizer, optimizer.ask())
            told += evaluations
            plain = make(optimizer.method)
            advance(plain, optimizer.evaluations)
            optimizer.close()
            with bb.Optimizer.resume(path) as optimizer:
                different += digest(optimizer) != digest(plain)
            for file in small.iterdir():
                file.unlink()
    measured = (
        f"{offsets} offsets, {told} acknowledged, {lost} lost; {different} states differ, {stuck} tells were half done"
    )
    return Outcome(measured, not (lost or different or stuck))


def hold(path: str) -> None:
    """In a child: write a run, and wait."""
    with bb.Optimizer.resume(path):
        print("mine", flush=True)
        time.sleep(100)


def two_writers(scale: float, folder: Path) -> Outcome:
    """R12."""
    path = folder / "run.db"
    make("cma-es", path).close()
    refusals, takeovers, wrong = [], [], 0
    for _ in range(scaled(20, scale, 3)):
        child = start("import figures.kills as k; k.hold(sys.argv[1])", path)
        if child.stdout is None or child.stdout.readline() != "mine\n":
            raise RuntimeError(finish(child))
        begin = time.perf_counter()
        try:
            bb.Optimizer.resume(path).close()
            wrong += 1
        except bb.JournalError as error:
            wrong += f"process {child.pid}" not in str(error)
        refusals.append(time.perf_counter() - begin)
        child.kill()
        begin = time.perf_counter()
        while time.perf_counter() - begin < 10:
            try:
                bb.Optimizer.resume(path).close()
                break
            except bb.JournalError:  # the kernel has not ended it yet
                time.sleep(0.001)
        takeovers.append(time.perf_counter() - begin)
        child.communicate()
    measured = (
        f"{len(refusals)} times: refused within {max(refusals):.3f} s, taken over within {max(takeovers):.3f} s after "
        f"the kill; {wrong} mistaken"
    )
    return Outcome(measured, not wrong and max(refusals) < 1 and max(takeovers) < 1)


FIGURES = [
    Figure(
        "R1", "SIGKILL at 100 moments, among them inside tell, checkpoint and resume; three algorithms",
        "lost 0, duplicated 0, unreadable 0, end state bit-identical", kills,
    ),
    Figure("R7", "full disk (300 kB) at 50 offsets", "lost 0; goes on after space is freed", full_disk),
    Figure("R12", "two writers of one file", "second refused, and takes over after a kill, within 1 s", two_writers),
]  # fmt: skip
