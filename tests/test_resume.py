"""Journaled runs: what is told is kept, and a resumed run is the uninterrupted one, bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from killed_studies import STUDIES, search
from recorder import D, Recorder, make, sphere, state_digest

from blackbox.benchmark import dense_methods
from blackbox.cbo.cbs import CBS
from blackbox.errors import CheckpointError, DuplicateTell, JournalError, SettingError, UnknownCandidate
from blackbox.es.cat_cma import CatCMA
from blackbox.es.cma_es import CMAES
from blackbox.journal import Journal
from blackbox.minimizer import Stop, minimize
from blackbox.optimizer import Optimizer
from blackbox.shell.interrupts import uninterrupted
from blackbox.shell.search import Search
from blackbox.shell.settings import Settings
from blackbox.shell.states import flatten, unflatten
from blackbox.space import Bool, Box, Choice, Float, Int, Permutation, Space
from blackbox.storage.journal_file import Tail

BOX = Box(-1, 1, D)


@pytest.fixture(autouse=True)
def _frequent_checkpoints(monkeypatch):
    """So that resuming starts at a checkpoint and replays some results after it."""
    monkeypatch.setattr("blackbox.optimizer.CHECKPOINT_GENERATIONS", 3)


def without_waiting(optimizer: Optimizer) -> str:
    """The digest but for what is asked and not told, which a resume forgets."""
    waiting, member = dict(optimizer._gate.waiting), optimizer._member
    optimizer._gate.waiting.clear()
    optimizer._member = 0
    digest = state_digest(optimizer)
    optimizer._gate.waiting.update(waiting)
    optimizer._member = member
    return digest


def rough(x: Any) -> float | None:
    """A sphere with a flat middle (so that runs stall and restart), failures and an infeasible corner."""
    value = max(0.5, sphere(x))
    if int(1e4 * abs(x[0])) % 11 == 0:
        return None
    return math.inf if x[1] > 0.8 else value


def drive(optimizer: Optimizer, tells: int, seed: int = 0):
    """Tell in random order, in batches, late and from outside; yields after each transaction."""
    rng = random.Random(seed)
    waiting = []
    while optimizer.evaluations < tells:
        while len(waiting) < 9:
            waiting.append(optimizer.ask())
        rng.shuffle(waiting)
        batch = [waiting.pop() for _ in range(rng.choice([1, 1, 1, 2, 5]))]
        kind = rng.random()
        if kind < 0.1:
            optimizer.tell(np.array([rng.uniform(-1, 1) for _ in range(D)]), 1 + rng.random())
        elif kind < 0.2:
            optimizer.fail(batch.pop(), "no reason")
        elif len(batch) == 1:
            optimizer.tell(batch[0], rough(batch[0].x), seconds=0.5)
        else:
            optimizer.tell(batch, [rough(candidate.x) for candidate in batch])
        yield


METHODS = [
    ("cma-es", {"popsize": 5}),
    ("random", {"popsize": 4}),
    ("nelder-mead", {}),
    ("cma-es", {"restarts": "same"}),
    ("nsga-ii", {"popsize": 8}),
]
SWARMS = {"popsize": 8}  # of those whose hundred particles would see a handful of generations
ARCHIVES: dict[str, dict[str, Any]] = {
    **{name: {"emitters": 2, "batch": 4, "cells": (5, 5)} for name in ("cma-me", "cma-mae")},
    "map-elites": {"popsize": 8, "cells": 25},
    "novelty-search": {"popsize": 8, "parents": 3, "insertion": 0.2, "capacity": 20},
    "dominated-novelty-search": {"popsize": 8, "capacity": 20},
    **{name: {"popsize": 8} for name in ("nsga-iii", "ga")},
}
OTHERS = [
    (name, SWARMS if name.endswith("cbo") or name in ("cbs", "consensus-hopping") else ARCHIVES.get(name, {}))
    for name in sorted({*dense_methods()} - {name for name, _ in METHODS})
]


@pytest.mark.filterwarnings("ignore:.*no finite value")
@pytest.mark.parametrize(("method", "settings"), METHODS + OTHERS)
def test_a_resumed_run_is_where_it_was(tmp_path, method, settings):
    """Figure R2, with results in any order, late, failed and from outside."""
    optimizer = make(method, journal=tmp_path / "run.db", **settings)
    tells, resumes = (70, 6) if method in ("ego", "turbo") else (500, 13)  # which take milliseconds for each
    cuts = sorted(random.Random(1).sample(range(1, tells // 2), resumes))
    steps = 0
    while optimizer.evaluations < tells:
        for _ in drive(optimizer, tells, seed=steps):
            steps += 1
            if cuts and steps >= cuts[0]:
                cuts.pop(0)
                break
        before, recommended = without_waiting(optimizer), optimizer.recommend()
        best, left, points = optimizer.best, optimizer.left, optimizer._search.population
        optimizer.close()
        optimizer = Optimizer.resume(tmp_path / "run.db")
        assert without_waiting(optimizer) == before
        assert np.array_equal(optimizer.recommend(), recommended)
        assert (optimizer.best.id, optimizer.best.value) == (best.id, best.value)
        assert np.array_equal(optimizer.best.x, best.x)
        assert optimizer.left == left
        assert np.array_equal(optimizer._search.population, points)
    assert optimizer.generation > 4
    assert optimizer.n_restarts > 0 or method != "cma-es"


@pytest.mark.parametrize(("method", "settings"), METHODS)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, method, settings, direction):
    def go_on(optimizer, tells):
        while optimizer.evaluations < tells:
            candidate = optimizer.ask()
            optimizer.tell(candidate, rough(candidate.x) if direction == "minimize" else sphere(candidate.x))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no finite value")
        plain = make(method, direction=direction, **settings)
        go_on(plain, 300)
        with make(method, direction=direction, journal=tmp_path / "run.db", **settings) as optimizer:
            go_on(optimizer, 3)
        for tells in (17, 18, 100, 101, 211, 300):
            with Optimizer.resume(tmp_path / "run.db") as optimizer:
                go_on(optimizer, tells)
    assert state_digest(optimizer) == state_digest(plain)
    assert np.array_equal(optimizer._search.population, plain._search.population)


def test_only_the_results_after_the_checkpoint_are_replayed(tmp_path, monkeypatch):
    with make(journal=tmp_path / "run.db") as optimizer:
        for _ in range(20):
            optimizer.tell(candidates := optimizer.ask(7), [sphere(candidate.x) for candidate in candidates])
        digest = state_digest(optimizer)
    told = []
    tell = CMAES.tell
    monkeypatch.setattr(CMAES, "tell", lambda self, *arguments: told.append(1) or tell(self, *arguments))
    with Optimizer.resume(tmp_path / "run.db") as optimizer:
        assert without_waiting(optimizer) == digest
    assert 0 < len(told) < 3


def test_points_and_settings_of_mixed_spaces_come_back(tmp_path):
    space = Space(
        {
            "x": Float(1e-3, 10, log=True), "n": Int(1, 5), "b": Bool(), "p": Permutation(["a", "b", "c"]),
            "k": Choice({"rbf": Space({"gamma": Float(0, 1)}), "linear": None}),
        }
    )  # fmt: skip
    x0 = {"x": 0.1, "n": 2, "b": True, "p": ["b", "a", "c"], "k": "rbf", "gamma": 0.25}
    with Optimizer(space, "cma-es", x0=x0, budget=50, journal=tmp_path / "a" / "run.db") as optimizer:
        optimizer.tell(x0, 0.5)
        optimizer.tell(optimizer.ask(7), [1.0] * 7)
        ask = optimizer.ask().x
    with Optimizer.resume(tmp_path / "a" / "run.db") as resumed:
        assert resumed.space == space
        assert resumed.best.x == optimizer.best.x
        assert resumed.best.x["p"] == ["b", "a", "c"]
        assert resumed.ask().x == ask
        assert (resumed.seed, resumed.method, resumed.left) == (optimizer.seed, "cma-es", 50 - 9)


def test_a_strategy_instance_comes_back_if_it_is_registered(tmp_path):
    with make(CMAES(popsize=9, sigma0=0.3), journal=tmp_path / "run.db") as optimizer:
        expected = optimizer.ask().x
    with Optimizer.resume(tmp_path / "run.db") as optimizer:
        assert np.array_equal(optimizer.ask().x, expected)
    with pytest.raises(SettingError, match="journal: the strategy Recorder is not registered"):
        make(Recorder(), journal=tmp_path / "other.db")
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize("ready_made", [False, True])
def test_hyperparameters_that_are_tuples_come_back_as_tuples(tmp_path, ready_made):
    """JSON knows lists alone, which a strategy that keeps its hyperparameters' hash cannot take."""
    space = Space({"x": Float(0, 1), "n": Int(0, 3), "c": Choice(["a", "b", "c"])})
    layout = (("float",), ("int", (0.25, 0.5, 0.75)), ("choice", 3))
    settings: dict[str, Any] = {"method": "cat-cma", "layout": layout}
    if ready_made:
        settings = {"method": CatCMA(layout=layout)}
    with Optimizer(space, seed=1, journal=tmp_path / "run.db", **settings) as optimizer:
        optimizer.tell(candidates := optimizer.ask(optimizer.popsize), range(len(candidates)))
        expected = optimizer.ask().x
    with Optimizer.resume(tmp_path / "run.db") as optimizer:
        assert optimizer.ask().x == expected
    again = minimize(lambda x: x["x"], space, journal=tmp_path / "run.db", resume=True, budget=20, seed=1, **settings)
    assert again.evaluations == 20


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (CBS(), {}),
        ("cbs", {"dt": math.inf, "popsize": 8}),
        ("mirror-cbo", {"truncation": math.inf, "popsize": 8}),
        ("polarized-cbo", {"kappa": np.inf, "popsize": 8}),
    ],
)
def test_infinite_settings_come_back(tmp_path, method, settings):
    """JSON has no infinity."""

    def go_on(optimizer, tells):
        while optimizer.evaluations < tells:
            candidate = optimizer.ask()
            optimizer.tell(candidate, sphere(candidate.x))
        return optimizer

    plain = go_on(make(method, **settings), 250)
    with make(method, journal=tmp_path / "run.db", **settings) as optimizer:
        go_on(optimizer, 130)
    with Optimizer.resume(tmp_path / "run.db") as optimizer:
        assert math.inf in optimizer.settings.hyperparameters.values()
        assert state_digest(go_on(optimizer, 250)) == state_digest(plain)
    given = {"method": method, "budget": 260, "seed": 1, **settings}
    again = minimize(sphere, BOX, journal=tmp_path / "run.db", resume=True, **given)
    assert again.evaluations == 260


def test_infinity_in_a_journal_is_no_text():
    settings = dataclasses.replace(make("cma-es").settings, hyperparameters={
        "a": math.inf, "b": (-math.inf, (1.5, math.inf)), "c": "inf", "d": ("Infinity", "-inf"), "e": {"inf": 1},
    })  # fmt: skip
    text = json.dumps(settings.to_json(), allow_nan=False)
    assert Settings.from_json(json.loads(text)).hyperparameters == settings.hyperparameters
    with pytest.raises(SettingError, match=r"journal: a cannot be kept as JSON .*; got nan"):
        dataclasses.replace(settings, hyperparameters={"a": math.nan}).to_json()


def test_a_journal_holds_one_run(tmp_path):
    make(journal=tmp_path / "run.db").close()
    with pytest.raises(JournalError, match="resume"):
        make(journal=tmp_path / "run.db")
    with pytest.raises(JournalError, match=r"missing\.db"):
        Optimizer.resume(tmp_path / "missing.db")


def test_the_journal_keeps_values_reasons_and_durations(tmp_path):
    with make(journal=tmp_path / "run.db", direction="maximize") as optimizer:
        candidates = optimizer.ask(4)
        optimizer.tell(candidates[0], 1.5, seconds=2.0)
        optimizer.fail(candidates[1], "singular", seconds=1.0)
        optimizer.fail(candidates[2], "too slow", status="timeout")
        optimizer.tell(candidates[3], -math.inf)
    with Journal.open(tmp_path / "run.db", read_only=True) as journal:
        first, second, third, fourth = journal.events()
    assert (first.generation, first.member, first.value, first.status, first.seconds) == (0, 0, 1.5, "ok", 2.0)
    assert math.isnan(second.value)
    assert (second.status, second.reason, second.seconds) == ("failed", "singular", 1.0)
    assert (third.status, third.reason) == ("timeout", "too slow")
    assert (fourth.value, fourth.status) == (-math.inf, "infeasible")


def test_a_run_that_is_open_here_says_so(tmp_path):
    first = make(journal=tmp_path / "run.db")
    with pytest.raises(JournalError, match=r"this one: close .* or open the file with steal=True"):
        Optimizer.resume(tmp_path / "run.db")
    with Optimizer.resume(tmp_path / "run.db", steal=True) as second:
        candidate = first.ask()
        with pytest.raises(JournalError, match="taken over"):
            first.tell(candidate, 1.0)
        assert candidate.status == "asked"
        second.tell(second.ask(), 1.0)


def test_a_result_that_cannot_be_written_is_not_taken(tmp_path, monkeypatch):
    optimizer = make(journal=tmp_path / "run.db")
    candidates = optimizer.ask(7)
    before = state_digest(optimizer)

    def full(self, events):
        raise JournalError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        with pytest.raises(JournalError):
            optimizer.tell(candidates, [1.0] * 7)
        with pytest.raises(JournalError):
            optimizer.tell(np.zeros(D), 1.0)
    assert state_digest(optimizer) == before
    assert candidates[0].status == "asked"
    optimizer.tell(candidates, [1.0] * 7)
    assert optimizer.generation == 1
    optimizer.close()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_durability_is_kept_through_a_resume(tmp_path, durability):
    arguments: dict[str, Any] = {"journal": tmp_path / "run.db", "durability": durability}
    minimize(sphere, BOX, seed=1, budget=5, **arguments)
    with Optimizer.resume(tmp_path / "run.db") as optimizer:
        assert optimizer.durability == durability
        (synchronous,) = optimizer._journal._connection.execute("PRAGMA synchronous").fetchone()
        assert synchronous == (2 if durability == "power" else 1)
    assert minimize(sphere, BOX, budget=8, resume=True, **arguments).evaluations == 8
    with pytest.raises(JournalError, match="durability must be"):
        make(journal=tmp_path / "other.db", durability="much")
    assert make().durability is None


@pytest.fixture
def _interruptible():
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("moment", ["append", "write", "commit"])
def test_an_interruption_within_a_tell_comes_after_it(tmp_path, monkeypatch, moment):
    """Ctrl-C between the journal's commit and our own would leave us without a result that the journal has."""
    cls = {"append": Journal, "write": Tail, "commit": Search}[moment]
    act = getattr(cls, moment)

    def interrupted(*arguments):
        act(*arguments)
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)  # where Python looks for signals

    optimizer = make(journal=tmp_path / "run.db")
    candidates = optimizer.ask(7)
    for i, batch in enumerate((candidates[:1], candidates[1:])):
        with monkeypatch.context() as patch:
            patch.setattr(cls, moment, interrupted)
            with pytest.raises(KeyboardInterrupt):
                optimizer.tell(batch, [sphere(candidate.x) for candidate in batch])
        assert [candidate.status for candidate in batch] == ["ok"] * len(batch)
        assert (optimizer.evaluations, optimizer.generation) == ((1, 0), (7, 1))[i]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    optimizer.tell(candidate := optimizer.ask(), sphere(candidate.x))
    optimizer.close()
    with Optimizer.resume(tmp_path / "run.db") as resumed:
        assert without_waiting(resumed) == without_waiting(optimizer)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_other_handlers_of_interruptions_stay(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with uninterrupted():
            assert signal.getsignal(signal.SIGINT) == handler
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_refused_tell_leaves_the_journal_as_it_was(tmp_path):
    with make(journal=tmp_path / "run.db") as optimizer:
        candidates = optimizer.ask(3)
        optimizer.tell(candidates[0], 1.0)
        for value in ([1.0, "x"], [1.0, -math.inf], [1.0]):
            with pytest.raises(Exception, match="value"):
                optimizer.tell(candidates[1:], value)
        with pytest.raises(DuplicateTell):
            optimizer.tell(candidates[:2], [1.0, 1.0])
    with Journal.open(tmp_path / "run.db", read_only=True) as journal:
        assert len(journal) == 1


def test_a_checkpoint_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    def full(self, *arguments):
        raise JournalError("disk full")

    monkeypatch.setattr(Journal, "save_checkpoint", full)
    values = list(range(7))
    with make(journal=tmp_path / "run.db") as optimizer:
        for _ in range(2):
            optimizer.tell(optimizer.ask(7), values)
        with pytest.warns(RuntimeWarning, match="checkpoint could not be saved"):
            optimizer.tell(optimizer.ask(7), values)
        digest = state_digest(optimizer)
    with Optimizer.resume(tmp_path / "run.db") as optimizer:
        assert without_waiting(optimizer) == digest


@pytest.mark.parametrize("arrays", [{}, {"state.mean": np.zeros(2)}])
def test_a_checkpoint_of_something_else_is_passed_over(tmp_path, arrays):
    with make(journal=tmp_path / "run.db") as optimizer:
        for _ in range(8):
            optimizer.tell(candidates := optimizer.ask(7), [sphere(candidate.x) for candidate in candidates])
        digest = state_digest(optimizer)
        good = optimizer._search.snapshot()[1]
    with Journal.open(tmp_path / "run.db") as journal:
        journal.save_checkpoint(56, arrays, good if arrays else {"generation": 3})
    with pytest.warns(RuntimeWarning, match="checkpoint after 56 results does not fit"):
        optimizer = Optimizer.resume(tmp_path / "run.db")
    assert without_waiting(optimizer) == digest
    optimizer.close()


def test_other_versions_are_reported(tmp_path, monkeypatch):
    make(journal=tmp_path / "run.db").close()
    monkeypatch.setattr("blackbox.optimizer.fingerprint", lambda method: {"blackbox": "9.9", "numpy": "9.9"})
    with pytest.warns(RuntimeWarning, match=r"resumed under .*9\.9.*not necessarily bit for bit"):
        Optimizer.resume(tmp_path / "run.db").close()


def test_a_closed_optimizer_takes_no_results_but_can_be_read(tmp_path):
    optimizer = make(journal=tmp_path / "run.db")
    optimizer.tell(optimizer.ask(), 1.0)
    candidate = optimizer.ask()
    optimizer.close()
    optimizer.close()
    before = state_digest(optimizer)
    with pytest.raises(JournalError, match="closed"):
        optimizer.tell(candidate, 1.0)
    assert state_digest(optimizer) == before
    assert optimizer.best.value == 1.0


def test_candidates_from_before_a_resume(tmp_path):
    optimizer = make(journal=tmp_path / "run.db")
    late, *rest = optimizer.ask(8)
    optimizer.tell(rest, [2.0] * 7)
    told, *waiting = optimizer.ask(4)
    optimizer.tell(told, 1.0)
    optimizer.close()
    with Optimizer.resume(tmp_path / "run.db") as resumed:
        resumed.tell(waiting[1], 0.5)
        assert np.array_equal(resumed.best.x, waiting[1].x)
        assert [candidate.id for candidate in resumed.ask(3)] == [(1, 1), (1, 3), (1, 4)]
        with pytest.raises(DuplicateTell):
            resumed.tell(told, 1.0)
        with pytest.raises(DuplicateTell):
            resumed.tell(waiting[1], 1.0)
        with pytest.raises(UnknownCandidate, match="generation 1 is open"):
            resumed.tell(late, 1.0)


def test_a_changed_budget_is_kept(tmp_path):
    with make(journal=tmp_path / "run.db", budget=3) as optimizer:
        optimizer.tell(optimizer.ask(3), [1.0] * 3)
        optimizer.budget = 8
    with Optimizer.resume(tmp_path / "run.db") as optimizer:
        assert (optimizer.budget, optimizer.left) == (8, 5)
        optimizer.budget = None
    with Optimizer.resume(tmp_path / "run.db") as optimizer:
        assert optimizer.left == math.inf


CHILD = """
    import sys
    from pathlib import Path
    from blackbox.optimizer import Optimizer
    from blackbox.space import Box
    import blackbox.optimizer
    blackbox.optimizer.CHECKPOINT_GENERATIONS = 3
    path = sys.argv[1]
    optimizer = Optimizer.resume(path) if Path(path).exists() else Optimizer(Box(-1, 1, 3), seed=1, journal=path)
    print("begin", flush=True)
    while True:
        candidate = optimizer.ask()
        optimizer.tell(candidate, float(((candidate.x - 0.3) ** 2).sum()))
        print(optimizer.evaluations, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_has_lost_nothing(tmp_path):
    """Figure R1 in little: what was acknowledged is there, once, and the run goes on as if nothing had happened."""
    path, acknowledged = str(tmp_path / "run.db"), 0
    make(journal=path, method="cma-es").close()
    for kill_after in (40, 3, 150):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), path], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout.readline() == "begin\n"
        for _ in range(kill_after):
            acknowledged = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in child.stdout.read().split("\n")[:-1] if line)])
        child.stdout.close()
        child.wait()
    plain = make()
    with Optimizer.resume(path) as optimizer:
        assert acknowledged <= optimizer.evaluations <= acknowledged + 1
        for _ in range(optimizer.evaluations):
            plain.tell(candidate := plain.ask(), sphere(candidate.x))
        assert without_waiting(optimizer) == without_waiting(plain)


KILLS = 20


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_that_was_killed_twenty_times_gives_the_same_best(tmp_path, name):
    study, journals = STUDIES[name], [str(tmp_path / "killed.db"), str(tmp_path / "plain.db")]
    script = str(Path(__file__).with_name("killed_studies.py"))
    command = [sys.executable, script, name, journals[0], str(KILLS), "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    assert (
        study.budget <= int(run.stdout) <= study.budget + KILLS
    )  # no result was lost, no evaluation made in vain twice
    plain = search(study, journals[1], study.objective)
    with Optimizer.resume(journals[0]) as killed, Optimizer.resume(journals[1]) as uninterrupted:
        assert killed.best.value == plain.value == uninterrupted.best.value
        assert np.all(killed.best.x == plain.x)
        assert killed.best.id == uninterrupted.best.id
        assert killed.evaluations == plain.evaluations == study.budget
        assert without_waiting(killed) == without_waiting(uninterrupted)
    results = [Journal.open(journal) for journal in journals]
    told = [[(e.generation, e.member, e.value, e.status) for e in journal.events()] for journal in results]
    assert repr(told[0]) == repr(told[1])  # NaN included
    for journal in results:
        journal.close()


# --- minimize -----------------------------------------------------------------------------------------------------


def test_minimize_goes_on_where_it_was_interrupted(tmp_path):
    arguments: dict[str, Any] = {"space": BOX, "seed": 3, "journal": tmp_path / "run.db", "resume": True}
    count = 0

    def objective(x):
        nonlocal count
        count += 1
        if count == 50:
            raise KeyboardInterrupt
        return sphere(x)

    with pytest.raises(KeyboardInterrupt):
        minimize(objective, budget=120, **arguments)
    stopped = minimize(objective, callbacks=[lambda run: Stop() if run.evaluations == 80 else None], **arguments)
    assert (stopped.evaluations, count) == (80, 81)
    result = minimize(objective, **arguments)
    assert result.evaluations == 120
    assert result.stopped == {"budget": "all 120 evaluations are done"}
    plain = minimize(sphere, BOX, seed=3, budget=120)
    assert result.value == plain.value
    assert np.array_equal(result.x, plain.x)
    more = minimize(objective, budget=130, **arguments)
    assert more.evaluations == 130
    assert minimize(objective, **arguments).evaluations == 130


@pytest.mark.parametrize("left", ["nothing", "an empty file", "a file without tables"])
def test_a_run_that_was_killed_while_its_journal_was_made_begins(tmp_path, left):
    path = tmp_path / "run.db"
    if left != "nothing":
        path.touch()
    if left == "a file without tables":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        assert path.stat().st_size
    for _ in range(2):
        result = minimize(sphere, BOX, seed=1, budget=9, journal=path, resume=True)
        assert (result.evaluations, result.stopped.keys()) == (9, {"budget"})


def test_what_is_no_journal_is_neither_resumed_nor_written(tmp_path):
    (tmp_path / "text").write_text("a text " * 100)
    for path in (tmp_path, tmp_path / "text"):
        with pytest.raises(JournalError, match=r"must be a file|not a blackbox journal"):
            minimize(sphere, BOX, budget=9, journal=path, resume=True)
    assert (tmp_path / "text").read_text() == "a text " * 100


def test_an_error_that_is_not_caught_leaves_a_resumable_journal(tmp_path):
    def broken(x):
        if x[0] > 0.1:
            raise ValueError("fix me")
        return sphere(x)

    arguments: dict[str, Any] = {"space": BOX, "seed": 1, "journal": tmp_path / "run.db", "budget": 30}
    with pytest.raises(ValueError, match="fix me"):
        minimize(broken, catch=(), **arguments)
    with pytest.raises(JournalError, match="resume"):
        minimize(sphere, **arguments)
    result = minimize(sphere, resume=True, **arguments)
    assert result.failures == 0
    assert result.value == minimize(sphere, BOX, seed=1, budget=30).value


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"space": Box(-2, 1, D)}, "space"),
        ({"method": "random"}, "method"),
        ({"seed": 2}, "seed"),
        ({"direction": "maximize"}, "direction"),
        ({"x0": [0.5] * D}, "x0"),
        ({"popsize": 8}, "popsize"),
        ({"sigma0": 0.5}, "sigma0"),
        ({"nonfinite": "raise"}, "nonfinite"),
        ({"durability": "power"}, "durability must be 'process' as in the journal"),
        ({"method": CMAES(popsize=6)}, "hyperparameters"),
    ],
)
def test_a_run_is_resumed_only_with_its_own_settings(tmp_path, change, named):
    arguments = {"space": BOX, "seed": 1, "journal": tmp_path / "run.db", "popsize": 6, "x0": [0.0] * D}
    arguments["method"] = "cma-es"
    minimize(sphere, budget=10, **arguments)
    assert minimize(sphere, resume=True, **arguments).evaluations == 10
    with pytest.raises(SettingError, match=named):
        minimize(sphere, resume=True, **{**arguments, **change})
    assert minimize(sphere, resume=True, budget=12, **arguments).evaluations == 12


def test_workers_and_a_journal(tmp_path):
    result = minimize(sphere, BOX, seed=1, budget=80, workers=3, kind="thread", journal=tmp_path / "run.db")
    with Optimizer.resume(tmp_path / "run.db") as optimizer:
        assert optimizer.evaluations == 80
        assert optimizer.best.value == result.value
        assert without_waiting(optimizer) == without_waiting(result.optimizer)


# --- states as arrays ---------------------------------------------------------------------------------------------


class Inner(NamedTuple):
    scalar: Any
    nothing: Any


class Outer(NamedTuple):
    matrix: Any
    inner: Inner
    pair: tuple[Any, Any]


def tree(seed: int) -> Outer:
    rng = np.random.default_rng(seed)
    matrix = np.asfortranarray(rng.random((2, 3)))
    return Outer(matrix, Inner(np.float64(seed), None), (np.array(seed), seed))


def test_states_survive_as_arrays_with_their_types_and_memory_order():
    arrays = flatten(tree(7))
    assert sorted(arrays) == ["state.inner.scalar", "state.matrix.T", "state.pair.0", "state.pair.1"]
    assert all(array.flags.c_contiguous for array in arrays.values())
    again = unflatten(tree(1), arrays)
    assert np.array_equal(again.matrix, tree(7).matrix)
    assert again.matrix.flags.f_contiguous
    assert (again.inner, again.pair) == (tree(7).inner, tree(7).pair)
    assert [type(leaf) for leaf in (again.inner.scalar, *again.pair)] == [np.float64, np.ndarray, int]


@pytest.mark.parametrize("wrong", [None, np.zeros(2), np.float32(1)])
def test_states_of_something_else_are_refused(wrong):
    arrays = flatten(tree(7))
    arrays["state.inner.scalar"] = wrong
    if wrong is None:
        del arrays["state.inner.scalar"]
    with pytest.raises(CheckpointError, match=r"state\.inner\.scalar"):
        unflatten(tree(1), arrays)
