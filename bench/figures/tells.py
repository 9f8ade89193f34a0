"""R3, R8 and R14: what is told is malformed, is no number, or comes a million times."""

from __future__ import annotations

import math
import random
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from malformed import malformed_points, malformed_spaces

import blackbox as bb
from blackbox.errors import BlackboxError, DuplicateTell, NonFinite, SettingError, UnknownCandidate
from figures.course import (
    METHODS,
    MODELLED,
    Figure,
    Outcome,
    affordable,
    finish,
    finite_where,
    make,
    objective,
    scaled,
    start,
    state_digest,
)

NO_VALUES: list[Any] = [
    "1", "", b"1", True, False, np.bool_(True), 1j, np.complex128(1), [], [1.0, 2.0], (), {}, {1.0}, object(), len, int,
    np.zeros(2), np.zeros((2, 2)), np.array("1"), np.array([1j]), np.array([True]), np.array([None, 1]), slice(1),
    np.datetime64("2026-01-01"), range(2), Ellipsis, ["1"], [None, None], np.str_("1"), np.zeros((0,)), [[]], Exception,
]  # fmt: skip
GOOD_VALUES: list[Any] = [0.5, 1, np.float32(2), np.int8(3), None, math.nan, math.inf, Decimal("1.5"), Fraction(1, 3),
                          np.array(4.0), np.array([5.0])]  # fmt: skip
NO_COUNTS: list[Any] = [
    0,
    -1,
    1.0,
    "2",
    b"1",
    True,
    math.nan,
    math.inf,
    [1],
    (1,),
    {},
    object(),
    np.float64(2),
    1j,
    len,
]
NO_CANDIDATES: list[Any] = [None, 5, "x", b"x", 1.5, object(), {}, {"x": 1.0}, {1: 2}, np.zeros(3), len, set(), 1j]
Case = tuple[str, type[BlackboxError], Callable[[], Any]]


class Stage(NamedTuple):
    """Where malformed calls are made: a run with candidates that are waited for."""

    rng: random.Random
    optimizer: bb.Optimizer
    stranger: bb.Optimizer
    """Another run."""
    told: list[bb.Candidate]
    """Some that the run was told."""

    def waiting(self, n: int = 1) -> list[Any]:
        return self.rng.sample(list(self.optimizer._gate.waiting.values()), n)


def malformed_calls(stage: Stage, n: int) -> Iterator[Case]:
    """``n`` malformed asks, tells, failures and budgets: what must be named, the class due, and the call."""
    makers = [_bad_value, _bad_values, _bad_candidate, _bad_list, _bad_fail, _bad_count, _foreign, _twice, _closed]
    for _ in range(n):
        yield stage.rng.choice(makers)(stage)


def _bad_value(stage: Stage) -> Case:
    rng, tell, (candidate,) = stage.rng, stage.optimizer.tell, stage.waiting()
    value = rng.choice(NO_VALUES)
    worst = rng.choice([-math.inf, np.float32("-inf"), np.array(-np.inf)])
    return rng.choice([
        ("value", bb.TellError, lambda: tell(candidate, value)),
        ("value", NonFinite, lambda: tell(candidate, worst)),
        ("seconds", bb.TellError, lambda: tell(candidate, 1.0, seconds=value)),
    ])  # fmt: skip


def _bad_values(stage: Stage) -> Case:
    rng, tell, count = stage.rng, stage.optimizer.tell, stage.rng.randint(2, 6)
    candidates = stage.waiting(count)
    values: list[Any] = [rng.choice(GOOD_VALUES) for _ in range(count)]
    at = rng.randrange(count)
    one_bad = [*values[:at], rng.choice([*NO_VALUES, -math.inf]), *values[at + 1 :]]
    number: Any = values[:-1] if rng.random() < 0.5 else [*values, 1.0]
    shape = rng.choice([np.zeros((count, 1)), np.zeros((count, 2)), np.zeros(count + 1), np.array(["1"] * count)])
    kind: Any = rng.choice(
        [1.0, None, "x" * count, dict.fromkeys(range(count), 1.0), {*range(count)}, iter(values), len]
    )
    return rng.choice([
        (f"value[{at}]", bb.TellError, lambda: tell(candidates, one_bad)),
        ("value", bb.TellError, lambda: tell(candidates, number)),
        ("value", bb.TellError, lambda: tell(candidates, shape)),
        ("value", bb.TellError, lambda: tell(candidates, kind)),
    ])  # fmt: skip


def _bad_candidate(stage: Stage) -> Case:
    rng, optimizer, foreign = stage.rng, stage.optimizer, stage.rng.choice(NO_CANDIDATES)
    point = optimizer.space.decode([rng.random() for _ in range(optimizer.space.dimension)])
    point[rng.choice([*point, "w"])] = rng.choice([None, "x", math.nan, 1e9, [], object()])
    return rng.choice([
        ("candidate", bb.TellError, lambda: optimizer.tell(foreign, 1.0)),
        ("candidate", bb.TellError, lambda: optimizer.fail(foreign)),
        ("candidate", bb.TellError, lambda: optimizer.tell(point, 1.0)),
    ])  # fmt: skip


def _bad_list(stage: Stage) -> Case:
    at, candidates = stage.rng.randint(1, 3), stage.waiting(4)
    candidates[at] = stage.rng.choice(NO_CANDIDATES)
    return f"candidate[{at}]", bb.TellError, lambda: stage.optimizer.tell(candidates, [1.0] * 4)


def _bad_fail(stage: Stage) -> Case:
    rng, fail, (candidate,) = stage.rng, stage.optimizer.fail, stage.waiting()
    reason = rng.choice([None, 5, b"x", [], object(), 1.5, ("x",)])
    status = rng.choice(["ok", "late", "", "FAILED", None, 5, [], object(), "infeasible", b"failed"])
    return rng.choice([
        ("reason", bb.TellError, lambda: fail(candidate, reason)),
        ("status", bb.TellError, lambda: fail(candidate, "reason", status=status)),
    ])  # fmt: skip


def _bad_count(stage: Stage) -> Case:
    number = stage.rng.choice(NO_COUNTS)
    return stage.rng.choice([
        ("n", SettingError, lambda: stage.optimizer.ask(number)),
        ("budget", SettingError, lambda: setattr(stage.optimizer, "budget", number)),
    ])  # fmt: skip


def _foreign(stage: Stage) -> Case:
    """A candidate of another run."""
    tell, candidate, (own,) = stage.optimizer.tell, stage.stranger.ask(), stage.waiting()
    return stage.rng.choice([
        ("candidate", UnknownCandidate, lambda: tell(candidate, 1.0)),
        ("candidate[1]", UnknownCandidate, lambda: tell([own, candidate], [1.0, 2.0])),
    ])  # fmt: skip


def _twice(stage: Stage) -> Case:
    (candidate,) = stage.waiting()
    return "candidate[1]", DuplicateTell, lambda: stage.optimizer.tell([candidate, candidate], [1.0, 2.0])


def _closed(stage: Stage) -> Case:
    """A candidate that was told before."""
    optimizer, candidate = stage.optimizer, stage.rng.choice(stage.told)
    return stage.rng.choice([
        ("candidate", DuplicateTell, lambda: optimizer.tell(candidate, 1.0)),
        ("candidate", DuplicateTell, lambda: optimizer.fail(candidate)),
    ])  # fmt: skip


def names(error: BlackboxError, argument: str) -> bool:
    """Whether the message holds the argument as a word."""
    return re.search(rf"(?<!\w){re.escape(argument)}(?!\w)", str(error)) is not None


def malformed(scale: float, folder: Path) -> Outcome:
    """R3. Some results are told between the cases, so that they meet many states."""
    total = scaled(10_000, scale, 300)
    calls = total // 2
    wrong: list[str] = []
    classes: set[str] = set()
    path = folder / "malformed.db"
    optimizer = make("cma-es", path)
    stage = Stage(random.Random(0), optimizer, make("cma-es", seed=2), optimizer.ask(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.tell(stage.told, [1.0, 2.0, 3.0, 4.0])
        optimizer.ask(8)
        for name, due, call in malformed_calls(stage, calls):
            before = state_digest(optimizer), journal_bytes(path)
            try:
                call()
                wrong.append(f"{name}: accepted")
            except BlackboxError as error:
                classes.add(type(error).__name__)
                if not isinstance(error, due) or not names(error, name):
                    wrong.append(f"{name}: {type(error).__name__}: {error}")
            except Exception as error:
                wrong.append(f"{name}: {type(error).__name__}")
            if (state_digest(optimizer), journal_bytes(path)) != before:
                wrong.append(f"{name}: something has changed")
            if stage.rng.random() < 0.05:
                candidate = optimizer.ask()
                optimizer.tell(candidate, objective(candidate.x))
                stage.told[stage.rng.randrange(4)] = candidate
    optimizer.close()
    others = total - calls
    for name, call in [*malformed_spaces(0, others // 2), *malformed_points(0, others - others // 2)]:
        try:
            call()
            wrong.append(f"{name}: accepted")
        except BlackboxError as error:
            classes.add(type(error).__name__)
            if not names(error, name.split(":")[0]):
                wrong.append(f"{name}: {error}")
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}")
    measured = (
        f"{calls} asks and tells, {others} spaces and points: {len(wrong)} not as documented (classes seen: "
        f"{', '.join(sorted(classes))})"
    )
    return Outcome(measured + "".join(f"; {case}" for case in wrong[:5]), not wrong)


def journal_bytes(path: Path) -> list[bytes]:
    """Of a journal and its log, which nothing but a write can change."""
    return [Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal", "-tail")]


# ---- R8

DIMENSION = 2
TARGET = 1e-3  # which random search takes some 1,300 evaluations to reach
FITNESS = ("fitness", "value", "stall")
"""In names of what methods remember of fitness, which is infinite where they were told so."""
PATTERNS: dict[str, Callable[[int, int], list[float]]] = {
    f"{name} in {share}": lambda popsize, _, value=value, count=count: [value] * count(popsize)
    for name, value in (("NaN", math.nan), ("+inf", math.inf))
    for share, count in (("one", lambda n: 1), ("half", lambda n: (n + 1) // 2), ("all", lambda n: n))
}


def sphere(x: Any) -> float:
    return float(((x - 0.3) ** 2).sum())


def evaluations_to_target(method: str, seed: int, share: float, limit: int) -> int:
    """Evaluations until a value below the target, where a share of all fails at random."""
    rng = random.Random(seed)
    x0 = [rng.uniform(-1, 1) for _ in range(DIMENSION)]
    optimizer = bb.Optimizer(bb.Box(-1, 1, DIMENSION), method, seed=seed, x0=x0)
    while optimizer.evaluations < limit:
        candidate = optimizer.ask()
        value = None if rng.random() < share else sphere(candidate.x)
        optimizer.tell(candidate, value)
        if value is not None and value < TARGET:
            break
    return optimizer.evaluations


def not_numbers(scale: float, folder: Path) -> Outcome:
    """R8."""
    broken, ratios = [], {}
    repeats = scaled(301, scale, 60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in METHODS:
            for name, pattern in PATTERNS.items():
                optimizer, clean = (bb.Optimizer(bb.Box(-1, 1, DIMENSION), method, seed=0) for _ in range(2))
                for generation in range(30):
                    for tells, hurt in ((optimizer, generation % 3 != 2), (clean, False)):
                        candidates = tells.ask(tells.popsize)
                        values = [sphere(candidate.x) for candidate in candidates]
                        if hurt:
                            bad = pattern(len(values), generation)
                            values[: len(bad)] = bad
                        tells.tell(candidates, values)
                    rows = [candidate._row for candidate in optimizer.ask(2 * optimizer.popsize)]
                    optimizer._gate.waiting.clear()
                    optimizer._member = 0
                    found = finite_where(clean._search.lane.state, optimizer._search.lane.state)
                    if not np.isfinite(rows).all() or not np.isfinite(optimizer.recommend()).all():
                        found.append("asks")
                    found = [array for array in found if not any(part in array for part in FITNESS)]
                    if found:
                        broken.append(f"{method}, {name}: {found[0]}")
                        break
            limit = 40_000
            runs = affordable(method, repeats)
            counts = [
                statistics.fmean(evaluations_to_target(method, seed, share, limit) for seed in range(runs))
                for share in (0.0, 0.2)
            ]
            ratios[method] = counts[1] / counts[0]
    worst = max(ratios, key=lambda method: ratios[method])
    measured = (
        f"{len(METHODS)} methods, {len(PATTERNS)} patterns: {len(broken)} non-finite"
        + "".join(f"; {case}" for case in broken[:4])
        + f"; with 20 % NaN at most {ratios[worst]:.2f} times the evaluations ({worst}), mean of {repeats} seeds, "
        f"{repeats // 4} of {' and '.join(sorted(MODELLED))}: "
        + ", ".join(f"{method} {ratio:.2f}" for method, ratio in ratios.items())
    )
    return Outcome(measured, not broken and ratios[worst] <= 2)


# ---- R14

LONG = """
import figures.tells as t
print(*t.endurance(sys.argv[1], int(sys.argv[2])))
"""


def resident() -> int:
    """Bytes of memory that this process holds."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def endurance(path: str, tells: int) -> tuple[float, float]:
    """In a child: growth of memory in bytes, and seconds per ask and tell."""
    warnings.simplefilter("ignore")
    optimizer = bb.Optimizer(bb.Box(-1, 1, 5), "cma-es", seed=0, journal=path)

    def go_on(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            candidate = optimizer.ask()
            optimizer.tell(candidate, 0.5)
        return time.perf_counter() - begin

    go_on(5000)
    before = resident()
    seconds = go_on(tells - 5000)
    return resident() - before, seconds / (tells - 5000)


def million(scale: float, folder: Path) -> Outcome:
    """R14. All values are equal, so that the method restarts often."""
    tells = scaled(1_000_000, scale, 20_000)
    growth, seconds = map(float, finish(start(LONG, folder / "run.db", tells), 3600).split())
    size = (folder / "run.db").stat().st_size
    measured = (
        f"{tells} tells: resident memory grows by {growth / 2**20:.1f} MiB, {seconds * 1e3:.3f} ms per ask and tell; "
        f"the journal has {size / tells:.0f} bytes per result"
    )
    return Outcome(measured, growth < 50e6 and seconds < 1e-3)


FIGURES = [
    Figure(
        "R3", "10,000 malformed spaces, points, asks and tells",
        "each a documented class that names the argument; state and journal unchanged", malformed,
    ),
    Figure(
        "R8", "NaN and +inf in one, half and all of a generation; 20 % NaN at random; every method",
        "non-finite state 0; sphere solved within 2 times the evaluations", not_numbers,
    ),
    Figure("R14", "1,000,000 tells with a journal", "memory grows < 50 MB, < 1 ms per tell", million),
]  # fmt: skip
