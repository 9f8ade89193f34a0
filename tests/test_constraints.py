"""Inequality constraints: the best is feasible, searches converge to the edge, runs resume bit for bit."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blackbox as bb
from blackbox.journal import Journal
from blackbox.shell import replay
from blackbox.shell.constraints import INFEASIBLE, AugmentedLagrangian, FeasibleFirst

BOX = bb.Box(-5, 5, 4)
CENTER = np.array([1.0, 0.5, 0.0, 0.0])  # the least of the sphere where the two constraints hold
GENERATIONAL = [name for name, m in bb.methods().items() if getattr(m.load(), "generational", False)]
RANKING = [
    name for name, m in bb.methods().items() if "virtual" not in m.tags and not hasattr(m.load(), "needs_values")
]


def sphere(x: Any) -> tuple[float, list[float]]:
    return float(x @ x), [1.0 - x[0], 0.5 - x[1]]


def told(optimizer: bb.Optimizer, generations: int) -> list[Any]:
    """The points of some generations that were told, two of each out of order and one late."""
    points = []
    for _ in range(generations):
        candidates = optimizer.ask(optimizer.popsize + 1)
        for candidate in [*candidates[2:], *candidates[:2]]:
            value, constraints = sphere(candidate.x)
            optimizer.tell(candidate, value, constraints=constraints)
            points.append(candidate.x)
    return points


@pytest.mark.parametrize("method", ["auto", "cma-es", "sep-cma-es", "lm-ma-es", "snes", "cat-cma", "l-shade"])
def test_the_best_converges_to_the_constrained_optimum(method: str) -> None:
    result = bb.minimize(sphere, BOX, method=method, constraints=2, budget=2500, seed=1)
    assert abs(result.value - 1.25) < 1e-5
    assert np.allclose(result.x, CENTER, atol=1e-2)
    assert result.best is not None
    assert all(g <= 0 for g in result.best.constraints)


@pytest.mark.parametrize("method", RANKING)
def test_best_and_recommendation_keep_the_constraints(method: str) -> None:
    optimizer = bb.Optimizer(BOX, method, constraints=2, seed=3)
    feasible = []
    for _ in range(60):
        candidate = optimizer.ask()
        value, constraints = sphere(candidate.x)
        optimizer.tell(candidate, value, constraints=constraints)
        assert candidate.constraints == tuple(constraints)
        assert candidate.status == ("infeasible" if max(constraints) > 0 else "ok")
        if max(constraints) <= 0:
            feasible.append(value)
            assert np.array_equal(optimizer.recommend(), optimizer.best.x)
        assert (None if optimizer.best is None else optimizer.best.value) == min(feasible, default=None)
    assert optimizer.failures == 0
    assert feasible


def test_maximizing_goes_to_the_same_point() -> None:
    def negative(x: Any) -> tuple[float, list[float]]:
        value, constraints = sphere(x)
        return -value, constraints

    up = bb.minimize(negative, BOX, direction="maximize", constraints=2, budget=600, seed=1)
    down = bb.minimize(sphere, BOX, constraints=2, budget=600, seed=1)
    assert np.array_equal(up.x, down.x)
    assert up.value == -down.value


@pytest.mark.parametrize("method", ["cma-es", "snes"])
def test_units_of_values_and_constraints_change_nothing(method: str) -> None:
    def scaled(x: Any) -> tuple[float, list[float]]:
        value, constraints = sphere(x)
        return 1024.0 * value, [g / 64 for g in constraints]

    plain = bb.minimize(sphere, BOX, method=method, constraints=2, budget=600, seed=1)
    other = bb.minimize(scaled, BOX, method=method, constraints=2, budget=600, seed=1)
    assert np.array_equal(plain.x, other.x)


def test_a_constraint_that_is_never_near_changes_nothing() -> None:
    def free(x: Any) -> tuple[float, list[float]]:
        return float(x @ x), [-100.0]

    with_it = bb.minimize(free, BOX, method="cma-es", constraints=1, budget=300, seed=1)
    without = bb.minimize(lambda x: float(x @ x), BOX, method="cma-es", budget=300, seed=1)
    assert np.array_equal(with_it.x, without.x)


def test_many_active_constraints_leave_feasible_points() -> None:
    def corner(x: Any) -> tuple[float, Any]:
        return float(x.sum()), -x

    result = bb.minimize(corner, bb.Box(-1, 3, 8), constraints=8, budget=4000, seed=0)
    assert 0 <= result.value < 1e-4


def test_a_run_that_is_killed_anywhere_resumes_bit_for_bit(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("blackbox.optimizer.CHECKPOINT_GENERATIONS", 12)  # so that two of them begin from one
    whole = told(bb.Optimizer(BOX, "cma-es", constraints=2, seed=7), 40)
    for cut in (1, 13, 29):
        path = tmp_path / f"{cut}.db"
        with bb.Optimizer(BOX, "cma-es", constraints=2, seed=7, journal=path) as optimizer:
            points = told(optimizer, cut)
            best = optimizer.best
        with bb.Optimizer.resume(path) as optimizer:
            assert (optimizer.best is None) == (best is None)
            if best is not None:
                assert repr(optimizer.best) == repr(best)
            points += told(optimizer, 40 - cut)
        assert np.array_equal(points, whole)


def test_late_results_and_points_from_outside_are_in_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with bb.Optimizer(BOX, "cma-es", constraints=2, seed=7, journal=path) as optimizer:
        late = optimizer.ask()
        told(optimizer, 2)
        optimizer.tell(CENTER, 1.25, constraints=[0.0, -0.0])
        optimizer.tell(late, 3.5, constraints=[0.25, math.nan])
        optimizer.fail(optimizer.ask(), "no")
        told(optimizer, 3)
        following = optimizer.ask(8)
    with bb.Optimizer.resume(path) as optimizer:
        assert optimizer.best.value == 1.25
        assert np.array_equal([c.x for c in optimizer.ask(8)], [c.x for c in following])
    with Journal.open(path, read_only=True) as journal:
        found = [evaluation.candidate for evaluation in replay.replay(journal)]
    assert sum(c.status == "failed" for c in found) == 1
    (again,) = (c for c in found if c.id == late.id)
    assert again.status == "infeasible"
    assert again.value == 3.5
    assert again.constraints[0] == 0.25
    assert math.isnan(again.constraints[1])


def test_journals_without_constraints_are_as_before(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with bb.Optimizer(BOX, "cma-es", seed=0, budget=50, journal=path) as optimizer:
        for candidate in optimizer.ask(optimizer.popsize + 1):
            optimizer.tell(candidate, float(candidate.x[0]))
        optimizer.tell(CENTER, 0.0)
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT payload FROM tell").fetchall()
        (text,) = connection.execute("SELECT configuration FROM run").fetchone()
    late, outside = rows[-2][0], rows[-1][0]
    assert rows[:-2] == [(None,)] * 8
    assert late[:8] == bytes([1, 0, 0, 0, 0, 0, 0, 0])
    assert len(late) == 8 + 4 * 8
    assert outside == BOX.encode(CENTER).tobytes()
    assert list(json.loads(text)) == [
        "space", "method", "reason", "seed", "budget", "direction", "restarts", "owner", "hyperparameters", "x0",
        "policy", "fingerprint",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (None, r"constraints must be a sequence of 2 numbers, of which those <= 0 are kept; got None"),
        ([1.0], r"constraints must be a sequence of 2 values, one for each constraint; got 1"),
        ([1.0, 2.0, 3.0], r"one for each constraint; got 3"),
        (1.0, r"one for each constraint; got 1\.0"),
        ("ab", r"one for each constraint; got 'ab'"),
        ([0.0, "low"], r"constraints\[1\] must be a real number.*got 'low'"),
        ([0.0, True], r"constraints\[1\] must be a real number.*got True"),
        (np.zeros((2, 1)), r"got an array of shape \(2, 1\)"),
    ],
)
def test_constraints_that_cannot_be_used_change_nothing(constraints: Any, message: str) -> None:
    optimizer = bb.Optimizer(BOX, constraints=2, seed=0)
    candidate = optimizer.ask()
    with pytest.raises(bb.TellError, match=message):
        optimizer.tell(candidate, 1.0, constraints=constraints)
    assert candidate.status == "asked"
    assert optimizer.evaluations == 0


def test_lists_are_told_with_a_row_for_each_candidate() -> None:
    optimizer = bb.Optimizer(BOX, constraints=2, seed=0)
    candidates = optimizer.ask(4)
    optimizer.tell(candidates[:2], [1.0, 2.0], constraints=np.array([[0.0, -1.0], [1.0, -1.0]]))
    optimizer.tell(candidates[2:], [math.nan, 3.0], constraints=[None, (-1, -2)])
    assert [c.status for c in candidates] == ["ok", "infeasible", "failed", "ok"]
    assert candidates[3].constraints == (-1.0, -2.0)
    two = optimizer.ask(2)
    for constraints, message in [
        (np.zeros((2, 3)), r"sequence for each of 2 candidates, of 2 values each; got an array of shape \(2, 3\)"),
        ([[0.0, 0.0]], r"for each of 2 candidates.*got 1"),
        ([[0.0, 0.0], [0.0]], r"constraints\[1\] must be a sequence of 2 values.*got 1"),
        ([[0.0, 0.0], None], r"constraints\[1\] must be a sequence of 2 numbers.*got None"),
    ]:
        with pytest.raises(bb.TellError, match=message):
            optimizer.tell(two, [1.0, 2.0], constraints=constraints)
    assert optimizer.evaluations == 4


def test_constraints_without_being_asked_for_say_what_to_do() -> None:
    optimizer = bb.Optimizer(BOX, seed=0)
    with pytest.raises(bb.TellError, match=r"constraints must be left out.*make it with constraints=1"):
        optimizer.tell(optimizer.ask(), 1.0, constraints=[0.0])
    for wrong in (-1, 1.5, True, "two"):
        with pytest.raises(bb.SettingError, match="constraints must be an integer >= 0"):
            bb.Optimizer(BOX, constraints=wrong)
    with pytest.raises(bb.SettingError, match=r"method must be one that only ranks.*quadratic"):
        bb.Optimizer(BOX, "quadratic", constraints=1)


def test_a_constraint_that_could_not_be_computed_is_not_kept() -> None:
    optimizer = bb.Optimizer(BOX, constraints=1, seed=0)
    candidate = optimizer.ask()
    optimizer.tell(candidate, -1e9, constraints=[math.nan])
    assert candidate.status == "infeasible"
    assert optimizer.best is None
    strict = bb.Optimizer(BOX, constraints=1, seed=0, nonfinite="raise")
    with pytest.raises(bb.NonFinite, match="constraints must be finite"):
        strict.tell(strict.ask(), 1.0, constraints=[math.nan])


def test_objectives_return_pairs() -> None:
    with pytest.raises(bb.TellError, match="objective must return a pair, a value and 2 constraints"):
        bb.minimize(lambda x: 1.0, BOX, constraints=2, budget=3)
    lost = bb.minimize(lambda x: None, BOX, constraints=2, budget=3, method="random")
    assert lost.failures == 3
    assert lost.x is None
    alone = bb.minimize(sphere, BOX, constraints=2, budget=64, seed=1)
    batch = bb.minimize(
        lambda x: ((x * x).sum(1), np.stack([1 - x[:, 0], 0.5 - x[:, 1]], axis=1)),
        BOX, constraints=2, budget=64, seed=1, vectorized=True,
    )  # fmt: skip
    assert np.allclose(alone.x, batch.x)


def test_processes_return_pairs(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    result = bb.minimize(sphere, BOX, constraints=2, budget=200, seed=1, workers=2, journal=path)
    assert result.value >= 1.25
    again = bb.minimize(sphere, BOX, constraints=2, budget=400, workers=1, journal=path, resume=True)
    assert again.evaluations == 400
    assert again.value <= result.value
    with pytest.raises(bb.SettingError, match="constraints must be 2 as in the journal"):
        bb.minimize(sphere, BOX, constraints=1, budget=400, journal=path, resume=True)


@pytest.mark.parametrize("name", GENERATIONAL)
def test_generational_methods_do_not_compare_generations(name: str) -> None:
    strategy = bb.create(name)
    plain = moved = strategy.init(bb.key(0), np.full(5, 0.8))
    for generation in range(30):
        population = strategy.ask(plain)
        assert np.array_equal(population, strategy.ask(moved))
        fitness = (population**2).sum(1)
        plain = strategy.tell(plain, population, fitness)
        moved = strategy.tell(moved, population, 2.0 ** (generation % 7) * fitness - 100.0 * (generation % 5))


def test_feasible_points_come_first_then_the_least_violation() -> None:
    rows = np.array(
        [
            [5.0, -1.0, 0.0],
            [1e300, -1.0, 0.0],
            [-9.0, 1e-9, -5.0],
            [-9.0, 0.5, 0.5],
            [-9.0, 0.0, 2.0],
            [-9.0, 1e200, 0.0],
            [-np.inf, 0.0, 0.0],
        ]
    )
    scalars, state = FeasibleFirst(1).rank((), rows)
    assert np.argsort(scalars, kind="stable").tolist() == [6, 0, 1, 2, 3, 4, 5]
    assert np.isfinite(scalars[:6]).all()
    assert scalars[1] == INFEASIBLE
    assert state == ()
    lost, _ = FeasibleFirst(1).rank((), np.array([[np.nan, 0.0], [1.0, np.nan], [np.inf, -1.0], [1.0, np.inf]]))
    assert (lost == np.inf).all()


def test_members_without_numbers_teach_multipliers_nothing() -> None:
    ranking = AugmentedLagrangian(1, 3)
    rows = np.random.default_rng(0).normal(size=(8, 2))
    _, state = ranking.rank(ranking.begin(), rows)
    scalars, same = ranking.rank(state, np.array([[np.nan, 0.0], [1.0, np.nan], [np.inf, 0.0], [0.0, np.inf]]))
    assert (scalars == np.inf).all()
    assert same is state
    extra = np.vstack([rows, [[np.nan, 1.0], [np.inf, -1.0]]])
    scalars, _ = ranking.rank(state, extra)
    alone, _ = ranking.rank(state, rows)
    assert np.array_equal(scalars[:8], alone)
    assert (scalars[8:] == np.inf).all()
