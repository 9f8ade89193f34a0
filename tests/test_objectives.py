"""Several objectives: the front is what nothing dominates, NSGA-II approaches it, runs resume bit for bit."""

from __future__ import annotations

import itertools
import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blackbox as bb
from blackbox.journal import Journal
from blackbox.pareto import Front, non_dominated
from blackbox.shell import replay

BOX = bb.Box(0, 1, 6)
MIXED = bb.Space({"a": bb.Float(0, 1), "n": bb.Int(0, 9), "c": bb.Choice(["x", "y", "z"]), "b": bb.Bool()})


def zdt1(x: Any) -> tuple[float, float]:
    g = 1 + 9 * float(np.mean(x[1:]))
    return float(x[0]), g * (1 - math.sqrt(x[0] / g))


def mixed(x: Any) -> tuple[float, float]:
    rest = x["n"] + {"x": 2, "y": 0, "z": 1}[x["c"]] + x["b"]
    return x["a"], 1 - x["a"] + rest


def dominates(a: Any, b: Any) -> bool:
    return all(p <= q for p, q in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def told(optimizer: bb.Optimizer, generations: int) -> list[Any]:
    """The points of some generations, told out of order, one of each late."""
    points = []
    for _ in range(generations):
        candidates = optimizer.ask(optimizer.popsize + 1)
        for candidate in [*candidates[2:], *candidates[:2]]:
            optimizer.tell(candidate, zdt1(candidate.x))
            points.append(candidate.x)
    return points


def test_the_front_is_what_no_told_result_dominates() -> None:
    optimizer = bb.Optimizer(BOX, objectives=2, seed=1)
    values = {}
    for _ in range(300):
        candidate = optimizer.ask()
        own = tuple(round(v, 1) for v in zdt1(candidate.x))  # so that some are equal
        optimizer.tell(candidate, own)
        assert candidate.values == own
        assert candidate.value is None
        values[candidate.id] = own
    best = {v for v in values.values() if not any(dominates(w, v) for w in values.values())}
    assert sorted(c.values for c in optimizer.pareto) == sorted(best)
    for candidate in optimizer.pareto:
        assert values[candidate.id] == candidate.values
        assert candidate.id == next(id for id, own in values.items() if own == candidate.values)
    assert optimizer.best is None
    assert optimizer.method == "nsga-ii"


@pytest.mark.parametrize(
    ("objectives", "budget", "method"),
    [(2, None, "nsga-ii"), (3, 999, "nsga-ii"), (3, 1000, "nsga-iii"), (5, None, "nsga-iii")],
)
def test_auto_takes_reference_directions_for_many_objectives(objectives: int, budget: int | None, method: str) -> None:
    assert bb.Optimizer(BOX, objectives=objectives, budget=budget, seed=0).method == method


def test_nsga2_reaches_most_of_the_front() -> None:
    result = bb.minimize(zdt1, BOX, objectives=2, budget=6000, seed=1)
    volume = bb.hypervolume([c.values for c in result.pareto], [1.1, 1.1])
    assert 0.86 < volume < 0.8767  # the whole front's is 0.8767
    assert result.x is None
    assert result.value is None
    assert result.best is None
    assert len(result.pareto) > 50


def test_nsga2_finds_integers_and_choices() -> None:
    result = bb.minimize(mixed, MIXED, objectives=2, budget=3000, seed=1)
    is_best = [c.x["n"] == 0 and c.x["c"] == "y" and c.x["b"] is False for c in result.pareto]
    assert np.mean(is_best) > 0.95  # at the very end of the front others may be left over
    assert bb.hypervolume([c.values for c in result.pareto], [1.1, 1.1]) > 0.68  # the whole front's is 0.71


def test_each_objective_has_its_direction() -> None:
    def turned(x: Any) -> tuple[float, float]:
        a, b = zdt1(x)
        return -a, b

    plain = bb.minimize(zdt1, BOX, objectives=2, budget=500, seed=3)
    other = bb.minimize(turned, BOX, objectives=2, direction=["maximize", "minimize"], budget=500, seed=3)
    assert [(-a, b) for a, b in (c.values for c in other.pareto)] == [c.values for c in plain.pareto]
    assert all(np.array_equal(c.x, d.x) for c, d in zip(plain.pareto, other.pareto, strict=True))
    both = bb.minimize(lambda x: [-v for v in zdt1(x)], BOX, objectives=2, direction="maximize", budget=500, seed=3)
    assert all(np.array_equal(c.x, d.x) for c, d in zip(plain.pareto, both.pareto, strict=True))


def test_constraints_are_kept_by_the_front() -> None:
    def constrained(x: Any) -> tuple[Any, list[float]]:
        return zdt1(x), [0.3 - x[0], x[1] - 0.5]

    result = bb.minimize(constrained, BOX, objectives=2, constraints=2, budget=3000, seed=1)
    assert all(c.x[0] >= 0.3 and c.x[1] <= 0.5 for c in result.pareto)
    assert all(max(c.constraints) <= 0 for c in result.pareto)
    values = [c.values for c in result.pareto]
    assert min(values)[0] < 0.31
    assert bb.hypervolume(values, [1.1, 1.1]) > 0.49  # the whole front's is 0.5167


def test_a_run_that_is_killed_anywhere_resumes_bit_for_bit(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("blackbox.optimizer.CHECKPOINT_GENERATIONS", 12)
    whole = told(bb.Optimizer(BOX, "nsga-ii", objectives=2, popsize=8, seed=7), 40)
    for cut in (1, 13, 29):
        path = tmp_path / f"{cut}.db"
        with bb.Optimizer(BOX, "nsga-ii", objectives=2, popsize=8, seed=7, journal=path) as optimizer:
            points = told(optimizer, cut)
            front = optimizer.pareto
        with bb.Optimizer.resume(path) as optimizer:
            assert repr(optimizer.pareto) == repr(front)
            points += told(optimizer, 40 - cut)
        assert np.array_equal(points, whole)


def test_journals_keep_vectors(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    settings: Any = {"objectives": 2, "constraints": 1, "popsize": 8, "seed": 7, "direction": ("minimize", "maximize")}
    with bb.Optimizer(BOX, journal=path, **settings) as optimizer:
        late = optimizer.ask()
        others = optimizer.ask(8)
        optimizer.tell(others, [[i, -i] for i in range(8)], constraints=[[0.0]] * 8)
        optimizer.tell(late, [0.5, math.inf * -1], constraints=[0.25])
        optimizer.tell(np.full(6, 0.5), np.array([-1.0, 1.0]), constraints=[-1])
        optimizer.tell(optimizer.ask(), None)
        optimizer.tell(optimizer.ask(), [1.0, math.nan], constraints=[0])
        optimizer.fail(optimizer.ask(), "no")
        following = optimizer.ask(8)
        assert [c.values for c in optimizer.pareto] == [(-1.0, 1.0)]
    with bb.Optimizer.resume(path) as optimizer:
        assert optimizer.direction == ("minimize", "maximize")
        assert [c.values for c in optimizer.pareto] == [(-1.0, 1.0)]
        assert np.array_equal([c.x for c in optimizer.ask(8)], [c.x for c in following])
    with Journal.open(path, read_only=True) as journal:
        found = [evaluation.candidate for evaluation in replay.replay(journal)]
    assert [c.status for c in found[8:]] == ["infeasible", "ok", "failed", "failed", "failed"]
    assert found[8].values == (0.5, -math.inf)
    assert found[8].constraints == (0.25,)
    assert math.isnan(found[11].values[1])
    with sqlite3.connect(path) as connection:
        (text,) = connection.execute("SELECT configuration FROM run").fetchone()
    assert json.loads(text)["objectives"] == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.0, r"value must be a sequence of 2 values, one for each objective; got 1\.0"),
        ([1.0], r"one for each objective; got 1"),
        ([1.0, 2.0, 3.0], r"one for each objective; got 3"),
        ([1.0, "low"], r"value\[1\] must be a real number.*got 'low'"),
        ("ab", r"one for each objective; got 'ab'"),
        (np.zeros((2, 2)), r"got an array of shape \(2, 2\)"),
        ([1.0, -math.inf], r"value\[1\] must not be -inf"),
    ],
)
def test_values_that_cannot_be_used_change_nothing(value: Any, message: str) -> None:
    optimizer = bb.Optimizer(BOX, objectives=2, seed=0)
    candidate = optimizer.ask()
    with pytest.raises(bb.TellError, match=message):
        optimizer.tell(candidate, value)
    assert candidate.status == "asked"
    assert optimizer.evaluations == 0


def test_lists_are_told_with_a_row_for_each_candidate() -> None:
    optimizer = bb.Optimizer(BOX, objectives=2, seed=0)
    candidates = optimizer.ask(4)
    optimizer.tell(candidates, np.array([[0.0, 1.0], [1.0, 0.0], [math.nan, 0.0], [2.0, 2.0]]))
    assert [c.status for c in candidates] == ["ok", "ok", "failed", "ok"]
    assert [c.values for c in optimizer.pareto] == [(0.0, 1.0), (1.0, 0.0)]
    two = optimizer.ask(2)
    for values, message in [
        ([1.0, 2.0], r"value\[0\] must be a sequence of 2 values, one for each objective; got 1\.0"),
        (np.zeros((2, 3)), r"value must be a sequence for each of 2 candidates, of 2 values each; got an array"),
        ([[0.0, 0.0]], r"for each of 2 candidates.*got 1"),
    ]:
        with pytest.raises(bb.TellError, match=message):
            optimizer.tell(two, values)
    optimizer.tell(two, [None, (0.0, 0.0)])
    assert [c.values for c in optimizer.pareto] == [(0.0, 0.0)]


def test_settings_that_do_not_fit_are_refused() -> None:
    for wrong in (0, 1.5, True, "two"):
        with pytest.raises(bb.SettingError, match="objectives must be an integer >= 1"):
            bb.Optimizer(BOX, objectives=wrong)
    with pytest.raises(bb.SettingError, match=r"method must be one of nsga-ii.* for 2 objectives; got 'cma-es'"):
        bb.Optimizer(BOX, "cma-es", objectives=2)
    for direction in (["minimize"], ["minimize", "up"], "up", ["minimize"] * 3, 1):
        with pytest.raises(bb.SettingError, match=r"direction.* must be \"minimize\" or \"maximize\""):
            bb.Optimizer(BOX, objectives=2, direction=direction)
    with pytest.raises(bb.SettingError, match='direction must be "minimize" or "maximize"; got'):
        bb.Optimizer(BOX, direction=["minimize"])
    with pytest.raises(bb.SettingError, match="target must be None with several objectives"):
        bb.minimize(zdt1, BOX, objectives=2, target=1.0)


def test_patience_waits_for_the_front() -> None:
    result = bb.minimize(zdt1, BOX, objectives=2, patience=30, budget=5000, seed=0)
    assert "patience" in result.stopped
    assert result.evaluations > 60
    flat = bb.minimize(lambda x: (1.0, 1.0), BOX, objectives=2, patience=30, budget=5000, seed=0)
    assert flat.evaluations == 31


def test_processes_and_vectorized_objectives_return_vectors(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    first = bb.minimize(zdt1, BOX, objectives=2, budget=150, seed=1, workers=2, journal=path)
    again = bb.minimize(zdt1, BOX, objectives=2, budget=300, seed=1, workers=0, journal=path, resume=True)
    assert again.evaluations == 300
    reference = [1.1, 10.0]
    volumes = [bb.hypervolume([c.values for c in r.pareto], reference) for r in (first, again)]
    assert volumes[1] >= volumes[0]
    alone = bb.minimize(zdt1, BOX, objectives=2, budget=100, seed=1)
    batch = bb.minimize(
        lambda x: np.array([zdt1(row) for row in x]), BOX, objectives=2, budget=100, seed=1, vectorized=True
    )
    assert repr(alone.pareto) == repr(batch.pareto)


def test_the_front_does_not_depend_on_the_order_of_telling() -> None:
    points = np.random.default_rng(0).integers(0, 6, (40, 3)).astype(float)
    _, first = np.unique(points, axis=0, return_index=True)  # of equal ones
    expected = [i for i in np.flatnonzero(non_dominated(points)).tolist() if i in first]
    for seed in range(5):
        front = Front.empty(3, 1, 3)
        for i in np.random.default_rng(seed).permutation(40).tolist():
            front = front.joined(points[i], (0, i), [float(i)], points[i])
        assert front.ids.tolist() == [[0, i] for i in expected]
        assert np.array_equal(points[expected], front.values)
        assert front.rows[:, 0].tolist() == expected


def test_non_dominated_is_the_definition() -> None:
    points = np.random.default_rng(1).integers(0, 5, (60, 3)).astype(float)
    points[7] = np.nan
    expected = [not np.isnan(p).any() and not any(dominates(q, p) for q in points.tolist()) for p in points.tolist()]
    assert non_dominated(points).tolist() == expected


@pytest.mark.parametrize("k", [2, 3])
def test_hypervolume_counts_boxes(k: int) -> None:
    rng = np.random.default_rng(k)
    for n in (0, 1, 2, 15):
        points = rng.integers(0, 8, (n, k)).astype(float)  # some equal, some not below the reference of 7
        corners = itertools.product(range(7), repeat=k)
        count = sum(any((p <= corner).all() for p in points) for corner in corners)
        assert bb.hypervolume(points, np.full(k, 7.0)) == count


def test_hypervolume_names_what_it_cannot_use() -> None:
    with pytest.raises(bb.SettingError, match=r"values must be of shape \(n, 2\) or \(n, 3\); got \(3,\)"):
        bb.hypervolume([1.0, 2.0, 3.0], [1.0])
    with pytest.raises(bb.SettingError, match="reference must be 2 finite numbers"):
        bb.hypervolume([[1.0, 2.0]], [1.0, math.inf])
    assert bb.hypervolume([[math.nan, 0.0], [0.0, 0.0]], [1.0, 1.0]) == 1.0


def test_show_lists_the_front(tmp_path: Path) -> None:
    from blackbox.reporting import page, plots
    from blackbox.reporting.report import Report
    from blackbox.reporting.tables import best_rows

    path = tmp_path / "run.db"
    with bb.Optimizer(MIXED, objectives=2, seed=7, journal=path) as optimizer:
        for _ in range(60):
            candidate = optimizer.ask()
            optimizer.tell(candidate, mixed(candidate.x))
        front = optimizer.pareto
    report = Report.read(path)
    assert [report.evaluations[i].candidate.values for i in report.ranking] == [c.values for c in front]
    assert [row[1] for row in best_rows(report, 100)[1]] == [list(c.values) for c in front]
    assert "First of the front" in page.page(report)
    with pytest.raises(bb.SettingError, match="must be of a run with one objective; got one with 2"):
        plots.save(report, tmp_path / "run.png")
