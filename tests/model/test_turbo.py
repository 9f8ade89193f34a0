"""TuRBO: what is asked and when, pending points, mixed spaces, failures and outliers, and evaluations it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blackbox as bb
from blackbox.model import Turbo
from blackbox.model.variables import variables
from blackbox.problems.bbob import BBOB

MIXED = bb.Space(
    {
        "lr": bb.Float(1e-4, 1.0, log=True),
        "layers": bb.Int(1, 5),
        "flag": bb.Bool(),
        "kind": bb.Choice(["a", "b", "c", "d"]),
    }
)


def mixed(x: dict[str, Any]) -> float:
    """Least, 0, at lr = 0.01, layers = 4, flag, kind = c."""
    wrong = 1.0 * (x["kind"] != "c") + 0.3 * (not x["flag"])
    return float((np.log10(x["lr"]) + 2) ** 2 + 0.5 * (x["layers"] - 4) ** 2 + wrong)


def sphere(x: np.ndarray) -> float:
    return float(((x - 0.3) ** 2).sum())


def run(f: Any, evaluations: int, d: int = 3, strategy: Turbo | None = None) -> tuple[Any, list[np.ndarray]]:
    strategy = strategy or Turbo()
    state, points = strategy.init(bb.key(0), np.full(d, 0.8)), []
    for _ in range(evaluations):
        x = strategy.ask(state)
        points += list(x)
        state = strategy.tell(state, x, np.array([f(row) for row in x]))
    return state, points


def search(f: Any, space: Any, budget: int, seed: int = 0, **settings: Any) -> bb.Optimizer:
    optimizer = bb.Optimizer(space, "turbo", seed=seed, budget=budget, **settings)
    while optimizer.left:
        candidate = optimizer.ask()
        optimizer.tell(candidate, f(candidate.x))
    return optimizer


# ---- what is asked


def test_the_start_is_the_given_point_and_a_latin_hypercube() -> None:
    _, points = run(sphere, 6)
    assert np.array_equal(points[0], np.full(3, 0.8))
    cells = np.floor((np.array(points) - 0.1) / 0.8 * 6)[1:]
    assert all(len(set(column)) == 5 for column in cells.T)  # the given point stands for the sixth


@pytest.mark.parametrize("popsize", [1, 3, 16])
def test_all_points_of_all_members_differ_and_lie_in_the_box(popsize: int) -> None:
    strategy = Turbo(popsize=popsize, low=-5.0, high=2.0)
    state = strategy.init(bb.key(0), np.full(2, 1.5))
    seen: list[np.ndarray] = []
    for _ in range(12):
        rows = np.concatenate([strategy.ask(state, first=i * popsize) for i in range(3)])
        assert ((rows >= -5) & (rows <= 2)).all()
        seen += list(rows)
        state = strategy.tell(state, rows[:popsize], (rows[:popsize] ** 2).sum(1))
    assert len(np.unique(seen, axis=0)) == len(seen)


def test_affine_changes_of_the_values_change_no_point() -> None:
    _, points = run(sphere, 25)
    for factor, shift in ((1024.0, 0.0), (0.001, 0.0), (1.0, -3.0)):
        _, others = run(lambda x, a=factor, b=shift: a * sphere(x) + b, 25)
        # Rounding of the values grows from one point to the next, but not without factors of two.
        assert np.allclose(points[:14], others[:14], atol=0 if factor == 1024 else 1e-3)
        assert factor != 1024 or np.array_equal(points, others)


def test_what_is_asked_and_not_told_is_not_asked_again_nearby() -> None:
    """From the same results the same point follows, unless it is remembered as pending."""
    strategy = Turbo()
    state, _ = run(lambda x: float(np.abs(x - 0.4).sum()), 12, strategy=strategy)
    due = strategy.ask(state)[0]
    further = strategy.ask(state, first=1)
    told = strategy.tell(state, further, np.array([float(np.abs(further[0] - 0.4).sum())]))
    assert np.array_equal(told.pending[0], due) and np.isnan(told.pending[1:]).all()
    assert np.array_equal(strategy._improving(state), due)
    waiting = state._replace(pending=told.pending)
    assert np.linalg.norm(strategy._improving(waiting) - due) > 0.01
    late = strategy.tell(told, due[None], np.array([0.5]))
    assert not (late.pending == due).all(1).any()


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_whose_results_come_in_any_order(workers: int) -> None:
    optimizer = bb.Optimizer(bb.Box(0, 1, dimension=4), "turbo", seed=1, budget=60, x0=np.full(4, 0.9))
    rng, running, asked = np.random.default_rng(0), [], []
    while optimizer.left or running:
        while optimizer.left and len(running) < workers:
            running.append(optimizer.ask())
            asked.append(running[-1].x)
        done = running.pop(int(rng.integers(len(running))))
        optimizer.tell(done, sphere(done.x))
    assert len(np.unique(asked, axis=0)) == 60
    assert optimizer.best is not None and optimizer.best.value is not None
    assert optimizer.best.value < 1e-3


# ---- mixed spaces


def test_points_around_another_differ_from_it_as_they_should() -> None:
    v, n = variables(MIXED.layout), 400
    center = v.points(MIXED.encode({"lr": 0.01, "layers": 3, "flag": True, "kind": "b"})[None])[0]
    u = np.random.default_rng(0).random((2, n, 4))
    chance = np.tile([0.5, 0.1, 0.0001, 0.2], (n, 1))
    around = v.around(center, np.array([0.4, 0.3, 0.0, 0.0]), np.array([0.6, 0.7, 1.0, 1.0]), chance, u)
    differs = around != center
    assert 0.5 < differs[:, 0].mean() < 0.9  # half of them, and those that would differ in nothing
    assert 0.05 < differs[:, 3].mean() < 0.3
    assert ((around[:, 0] >= 0.4) & (around[:, 0] <= 0.6)).all()
    assert set(np.round(around[:, 1], 6)) <= {0.3, 0.5, 0.7}
    assert set(around[:, 3]) <= {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize("seed", range(3))
def test_mixed_spaces_are_searched(seed: int) -> None:
    best = search(mixed, MIXED, 45, seed).best
    assert best is not None and best.value is not None and best.value < 0.02


def test_no_discrete_point_is_evaluated_twice() -> None:
    space = bb.Space({"i": bb.Int(0, 4), "j": bb.Int(0, 4), "k": bb.Choice(["a", "b", "c"])})
    asked = []

    def f(x: dict[str, Any]) -> float:
        asked.append(tuple(x.values()))
        return float((x["i"] - 3) ** 2 + (x["j"] - 1) ** 2 + (x["k"] != "b"))

    optimizer = search(f, space, 30, restarts="none")
    assert optimizer.best is not None and optimizer.best.value == 0.0
    assert len(set(asked[6:])) == 24 and not set(asked[6:]) & set(asked[:6])


@pytest.mark.parametrize("space", [{"c": bb.Choice(["a", "b"])}, {"i": bb.Int(0, 1)}, {"c": bb.Choice(["only"])}])
def test_spaces_of_few_points_are_asked_again(space: Any) -> None:
    assert search(lambda x: 1.0, bb.Space(space), 20).evaluations == 20


# ---- values


def test_points_that_are_told_from_outside_count() -> None:
    strategy = Turbo()
    state, _ = run(sphere, 10)
    near = np.full(3, 0.3) + 1e-3
    told = strategy.tell(state, near[None], np.array([sphere(near)]))
    assert np.array_equal(strategy.recommend(told), near)
    assert np.linalg.norm(strategy.ask(told)[0] - 0.3) < 0.2


@pytest.mark.parametrize("failures", [0.2, 0.5])
def test_failed_evaluations_are_avoided(failures: float) -> None:
    def f(x: np.ndarray) -> float:
        return np.nan if x[0] > 1 - failures else sphere(x)

    _, points = run(f, 45)
    failed = [np.isnan(f(x)) for x in points]
    assert min(sphere(x) for x in points) < 1e-4
    assert np.mean(failed[20:]) < 0.35  # those at the border, beside half of the space


def test_where_nothing_succeeds_another_point_is_asked() -> None:
    _, points = run(lambda x: np.nan, 30)
    assert len(np.unique(points, axis=0)) == 30


@pytest.mark.parametrize("outlier", [1e6, 1e300])
def test_outliers_and_huge_ranges_are_borne(outlier: float) -> None:
    def f(x: np.ndarray) -> float:
        return outlier if x[1] > 0.75 else sphere(x)

    _, points = run(f, 50)
    assert min(sphere(x) for x in points if x[1] <= 0.75) < 1e-3
    _, points = run(lambda x: float(np.exp(40 * np.linalg.norm(x - 0.3))), 50)
    assert min(np.linalg.norm(x - 0.3) for x in points) < 0.02


def test_noise_is_not_taken_for_the_function() -> None:
    rng = np.random.default_rng(0)
    f = lambda x: sphere(x) + 0.05 * rng.normal()  # noqa: E731
    state, _ = run(f, 60)
    assert 1e-4 < np.exp(state.theta[-2]) < 10
    strategy = Turbo()
    *_, center, _ = strategy._model(state, variables((("float",),) * 3))
    assert np.linalg.norm(center - 0.3) < 0.25


# ---- a run


def test_bbob_takes_fewer_evaluations_than_cma_es_and_sobol() -> None:
    """60 evaluations of 12 functions in 5 dimensions: at least as low as the better of both on most of them."""
    wins = 0
    for number in (1, 3, 6, 8, 10, 12, 15, 17, 20, 21, 22, 24):
        problem = BBOB(number, 5, 1)
        values = {}
        for method in ("turbo", "cma-es", "sobol"):
            optimizer = bb.Optimizer(bb.Box(-5, 5, dimension=5), method, seed=number, budget=60)
            while optimizer.left:
                candidate = optimizer.ask()
                optimizer.tell(candidate, float(problem(candidate.x[None])[0]))
            assert optimizer.best is not None
            values[method] = optimizer.best.value
        wins += values["turbo"] <= min(values.values())
    assert wins >= 7  # of 144 with other seeds it wins 111


def test_the_region_shrinks_to_nothing_and_the_search_restarts() -> None:
    state, _ = run(lambda x: float(np.round(20 * sphere(x))), 60)
    assert state.region.length < 0.8
    optimizer = search(lambda x: 1.0 - (x == 0.5).all(), bb.Box(0, 1, dimension=2), 60)
    assert optimizer.n_restarts > 0 and optimizer.best is not None and optimizer.best.value == 0.0


def test_more_points_than_the_model_takes_leave_the_near_ones() -> None:
    state, points = run(sphere, 60, strategy=Turbo(points=12))
    assert state.used == 12 and state.told == 60
    kept = np.linalg.norm(state.points - 0.3, axis=1)
    assert np.median(kept) < np.median(np.linalg.norm(np.array(points) - 0.3, axis=1))
    assert min(map(sphere, points)) < 1e-4


def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def points(optimizer: bb.Optimizer, count: int) -> list[Any]:
        asked = []
        for _ in range(count):
            candidate = optimizer.ask()
            asked.append(candidate.x)
            optimizer.tell(candidate, mixed(candidate.x))
        return asked

    whole = points(bb.Optimizer(MIXED, "turbo", seed=5, budget=40), 30)
    with bb.Optimizer(MIXED, "turbo", seed=5, budget=40, journal=tmp_path / "run.db") as first:
        before = points(first, 17)
    with bb.Optimizer.resume(tmp_path / "run.db") as second:
        assert before + points(second, 13) == whole


def test_settings_are_checked() -> None:
    wrong = {"popsize": 0, "points": 3, "candidates": 1, "low": np.nan, "high": -1.0, "layout": (("float", 1),)}
    for name, value in wrong.items():
        with pytest.raises(bb.SettingError, match=f"{name}|low"):
            Turbo(**{name: value}).init(bb.key(0), np.ones(1))  # type: ignore[arg-type]
    with pytest.raises(bb.SettingError, match="low and high must be 0 and 1"):
        Turbo(low=-1.0, layout=(("choice", 2),))
    with pytest.raises(bb.SettingError, match="layout must be of 2 coordinates"):
        Turbo(layout=(("choice", 3),)).init(bb.key(0), np.ones(2))
