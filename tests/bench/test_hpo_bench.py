"""The benchmark of hyperparameter searches: its score, its file of runs, and its tuners' conventions."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

import blackbox as bb

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import hpo  # noqa: E402
import hpo_tasks  # noqa: E402
from hpo import Key, Ledger, Run, mean_and_error, measure, regrets  # noqa: E402
from hpo_tasks import Evaluations, Task  # noqa: E402
from hpo_tuners import TUNERS, select  # noqa: E402

SPACE = bb.Space({"rate": bb.Float(1e-3, 1e3, log=True), "n": bb.Int(1, 5), "kind": bb.Choice(["a", True, None])})


def loss(x: Any) -> float:
    assert SPACE.contains(dict(x)), x
    return abs(math.log10(x["rate"])) + abs(x["n"] - 2) + (x["kind"] is not None)


@pytest.fixture(autouse=True)
def _a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hpo, "task", lambda name: Task(name, SPACE, loss, 0.0 if name == "known" else None, 2.0))


@pytest.mark.parametrize("tuner", select("blackbox:*,random,optuna:tpe,cmaes:*"))
def test_tuners_ask_for_points_of_the_space_and_repeat_themselves(tuner: str) -> None:
    runs = [measure(Key("known", tuner, seed), budget=15) for seed in (0, 0, 1)]
    assert [run.error for run in runs] == [None] * 3
    assert runs[0].improved == runs[1].improved != runs[2].improved
    assert runs[0].found(15) <= runs[0].found(3)
    assert runs[0].ms > 0


def test_what_a_tuner_raises_is_kept_with_what_it_had_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(space: Any, budget: int, seed: int) -> Any:
        yield {"rate": 1.0, "n": 2, "kind": "a"}
        raise ZeroDivisionError("no")

    monkeypatch.setitem(TUNERS, "failing", (failing, "numpy"))
    run = measure(Key("known", "failing", 0))
    assert run.error == "ZeroDivisionError: no"
    assert run.improved == ((1, 1.0),)


def test_regret_is_measured_from_the_optimum_or_from_the_best_of_all_runs() -> None:
    runs = [Run(Key(name, tuner, 0), ((1, 3.0), (9, value)), 1.0)
            for name in ("known", "unknown") for tuner, value in (("x", 1.0), ("y", 0.5))]  # fmt: skip
    assert list(regrets(runs, 50).values()) == [0.5, 0.25, pytest.approx(0.5 / 1.5), 0.0]
    assert regrets(runs, 8)[Key("known", "x", 0)] == 1.5


def test_the_mean_is_over_tasks_and_its_error_over_seeds() -> None:
    scores = {Key("p", "x", 0): 1.0, Key("p", "x", 1): 3.0, Key("q", "x", 0): 0.0, Key("q", "x", 1): 0.0}
    mean, error = mean_and_error(scores)
    assert mean == 1.0
    assert error == pytest.approx(0.5)


def test_runs_and_evaluations_are_read_back_without_lines_that_were_cut_off(tmp_path: Path) -> None:
    ledger, run = Ledger(tmp_path / "runs"), Run(Key("known", "x", 3), ((1, 2.0), (4, 1.0)), 0.5)
    ledger.add(run)
    calls = []

    def evaluate(point: Any) -> float:
        calls.append(point)
        return 7.0

    assert Evaluations(tmp_path / "values").of("task", {"a": 1}, evaluate) == 7.0
    for name in ("runs", "values"):
        with (tmp_path / name).open("a") as file:
            file.write('{"key": ["known", ')
    assert Ledger(tmp_path / "runs").runs == {run.key: run}
    assert Evaluations(tmp_path / "values").of("task", {"a": 1}, evaluate) == 7.0
    assert len(calls) == 1
    other = Run(Key("known", "x", 4), ((1, 2.0),), 0.5)
    Ledger(tmp_path / "runs").add(other)
    assert Ledger(tmp_path / "runs").runs == {run.key: run, other.key: other}


def test_every_estimator_takes_the_points_of_its_space() -> None:
    for space, estimator, *_ in hpo_tasks.SKLEARN.values():
        for seed in range(3):
            point = next(TUNERS["random"][0](space, 1, seed))
            assert hasattr(estimator(dict(point)), "fit")
