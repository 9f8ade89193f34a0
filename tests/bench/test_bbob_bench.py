"""The BBOB benchmark: its score, its file of runs, and a tiny benchmark from the command line."""

from __future__ import annotations

import itertools
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from blackbox.problems.bbob import BBOB

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from objective import TARGETS, Objective, Spent  # noqa: E402
from peers import SAME_METHOD, SOLVERS, select  # noqa: E402
from runs import Key, Ledger, Run, difference  # noqa: E402


def bbob(*arguments: str) -> list[str]:
    return [sys.executable, str(BENCH / "bbob.py"), *arguments]


def a_run(solver: str = "a", function: int = 1, hits: tuple[int, ...] = (1,), error: str | None = None) -> Run:
    return Run(Key(solver, 100, 2, function, 1, 0), 200, 1.0, hits, 0.1, error)


# ---- the objective


def test_hits_are_the_first_evaluations_at_or_below_each_target() -> None:
    problem = BBOB(1, 3)
    x = np.random.default_rng(0).normal(problem.x_opt, 1.0, (400, 3)) * np.linspace(2.0, 0.0, 400)[:, None] ** 0.2
    objective = Objective(problem, 1000)
    objective.many(x[:150])
    for point in x[150:160]:
        objective(point)
    objective.many(x[160:])
    best = np.minimum.accumulate(problem(x))
    expected = [1 + int(np.argmax(best <= problem.f_opt + t)) for t in TARGETS if best[-1] <= problem.f_opt + t]
    assert objective.hits == expected
    assert len(expected) > 5
    assert objective.evaluations == 400


def test_no_evaluation_is_made_or_counted_beyond_the_budget() -> None:
    objective = Objective(BBOB(8, 2), 10)
    objective.many(np.zeros((6, 2)))
    with pytest.raises(Spent):
        objective.many(np.zeros((6, 2)))
    with pytest.raises(Spent):
        objective(np.zeros(2))
    assert objective.evaluations == 10
    assert objective.quiet(np.zeros(2)) == objective.best


def test_the_last_target_ends_a_run() -> None:
    objective = Objective(BBOB(1, 2), 10)
    with pytest.raises(Spent):
        objective(BBOB(1, 2).x_opt)
    assert objective.left == 0
    assert objective.hits == [1] * len(TARGETS)


def test_starts_differ_by_run_and_problem_and_not_by_object() -> None:
    starts = {
        (tuple(Objective(BBOB(f, 2, i), 10, seed).start(run)))
        for f, i, seed, run in itertools.product((1, 2), (1, 2), (0, 1), (0, 1))
    }
    assert len(starts) == 16
    assert max(np.abs(np.array(list(starts))).max(), 4.0) == 4.0
    np.testing.assert_array_equal(Objective(BBOB(1, 2), 10).start(3), Objective(BBOB(1, 2), 99).start(3))


# ---- the score


def test_area_is_the_integral_of_the_runtime_ecdf() -> None:
    hits = (1, 7, 7, 30)
    t = np.linspace(0.0, math.log(200), 200_001)
    ecdf = sum((np.exp(t) >= hit * (1 - 1e-12)).astype(float) for hit in hits) / len(TARGETS)
    assert a_run(hits=hits).area == pytest.approx(np.trapezoid(ecdf, t) / math.log(200), abs=1e-4)
    assert a_run(hits=()).area == 0.0
    assert a_run(hits=(1,) * len(TARGETS)).area == pytest.approx(1.0)


def test_differences_are_paired() -> None:
    ours = [a_run("a", 1, (1, 1)), a_run("a", 2, (1,)), a_run("a", 3, (1,) * 9)]
    theirs = [a_run("b", 1, (1,)), a_run("b", 2, (1, 1, 1, 1))]
    mean, error, pairs = difference(ours, theirs)
    assert mean == pytest.approx((1 - 3) / 2 / len(TARGETS))
    assert error == pytest.approx(2 / len(TARGETS))
    assert pairs == 2


# ---- the file of runs


def test_ledger_keeps_runs_and_tolerates_a_cut_off_line(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    kept, cut = a_run("a", 1), a_run("a", 2)
    Ledger(path).add(kept)
    path.write_text(path.read_text() + cut.to_json()[:-20])
    ledger = Ledger(path)
    assert (ledger.runs, ledger.skipped) == ([kept], 1)
    ledger.add(cut)
    assert Ledger(path).runs == [kept, cut]


def test_failed_runs_are_run_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "runs.jsonl")
    ledger.add(a_run(error="no luck"))
    assert not ledger.has(a_run().key)
    ledger.add(a_run())
    assert ledger.has(a_run().key)
    assert Ledger(ledger.path).runs == [a_run()]


# ---- the solvers


def test_pairs_and_patterns_name_solvers() -> None:
    assert {name for pair in SAME_METHOD for name in pair} <= set(SOLVERS)
    assert list(select("pycma,fcmaes:c*")) == [n for n in SOLVERS if n == "pycma" or n.startswith("fcmaes:c")]
    with pytest.raises(ValueError, match="'nosuch'"):
        list(select("nosuch"))


def test_same_seed_same_run() -> None:
    def hits(name: str) -> list[int]:
        objective = Objective(BBOB(8, 2), 120)
        with pytest.raises(Spent):
            SOLVERS[name].solve(objective)
        assert objective.evaluations == 120
        return objective.hits

    for name in ("blackbox:cma-es", "blackbox:cma-es:bipop", "blackbox:cma-es:box", "pycma", "scipy:nelder-mead"):
        assert hits(name) == hits(name)


# ---- from the command line


def test_benchmark_end_to_end(tmp_path: Path) -> None:
    choices = (
        "--functions",
        "1,8",
        "--dimensions",
        "2,3",
        "--instances",
        "1",
        "--budget",
        "20",
        "--baseline",
        "cmaes:cma",
    )
    solvers = ["blackbox:cma-es", "cmaes:cma", "numpy:random"]
    command = bbob("run", "--solvers", ",".join(solvers), *choices, "--processes", "1", "--results", str(tmp_path))
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert "12 of 12 runs to do" in first.stdout
    report = (tmp_path / "bbob.md").read_text()
    assert report in first.stdout
    assert all(f"| {name} " in report for name in solvers)
    assert "| blackbox:cma-es less cmaes:cma " in report
    summary = json.loads((tmp_path / "bbob.json").read_text())
    assert [(row["solver"], row["dimension"]) for row in summary] == list(itertools.product(solvers, (2, 3)))
    assert {path.name for path in tmp_path.glob("*.png")} == {"bbob-area-20.png", "bbob-ecdf-20.png"}

    runs = tmp_path / "bbob.jsonl"
    lines = runs.read_text().splitlines()
    runs.write_text("\n".join(lines)[:-30])
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "1 of 12 runs to do" in again.stdout
    undamaged = [{**json.loads(line), "seconds": 0} for line in (*lines, *runs.read_text().splitlines()[-1:])]
    assert undamaged[-1] == undamaged[-2]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_interrupt_leaves_what_was_run_and_a_report(tmp_path: Path) -> None:
    command = bbob("run", "--solvers", "blackbox:cma-es", "--budget", "2000", "--results", str(tmp_path))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    runs = tmp_path / "bbob.jsonl"
    while not (runs.exists() and runs.read_text().count("\n") > 2) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "interrupted" in output
    assert len(Ledger(runs).runs) > 2
    assert (tmp_path / "bbob.md").exists()
