"""EGO: the process, candidates, mixed and conditional spaces, workers, failures, and evaluations it takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import blackbox as bb
from blackbox.model import EGO
from blackbox.model.variables import variables
from blackbox.shell.states import flatten, unflatten

MIXED = bb.Space(
    {
        "rate": bb.Float(1e-4, 1.0, log=True),
        "layers": bb.Int(1, 6),
        "wide": bb.Bool(),
        "optimizer": bb.Choice(
            {"sgd": bb.Space({"momentum": bb.Float(0, 1), "schedule": bb.Choice(["a", "b", "c"])}), "adam": None}
        ),
    }
)


def loss(x: dict[str, Any]) -> float:
    value = (math.log10(x["rate"]) + 2.5) ** 2 + 0.3 * abs(x["layers"] - 4) + 0.2 * x["wide"]
    if x["optimizer"] == "adam":
        return value + 0.5
    return value + (x["momentum"] - 0.9) ** 2 + 0.3 * (x["schedule"] != "b")


def searched(method: Any, evaluations: int, seed: int, f: Any = loss, space: bb.Space = MIXED) -> list[float]:
    optimizer, values = bb.Optimizer(space, method, seed=seed), []
    for _ in range(evaluations):
        candidate = optimizer.ask()
        values.append(f(candidate.x))
        optimizer.tell(candidate, values[-1])
    return values


def strategy(space: bb.Space, **settings: Any) -> EGO:
    return EGO(layout=space.layout, conditions=space.conditions, **settings)


def advanced(method: EGO, d: int, n: int, seed: int = 0) -> Any:
    """A state that knows n random points of a slope."""
    state = method.init(bb.key(seed), np.full(d, 0.5))
    rows = np.random.default_rng(seed).random((n, d))
    return method.tell(state, rows, rows.sum(1))


def test_lengths_grow_along_what_does_not_matter() -> None:
    method, rng = EGO(), np.random.default_rng(0)
    state = method.init(bb.key(0), np.full(2, 0.5))
    for _ in range(40):
        rows = rng.random((1, 2))
        state = method.tell(state, rows, np.sin(6 * rows[:, 0]))
    assert state.theta[1] - state.theta[0] > 0.5


# ---- points


def test_rows_and_points_say_the_same() -> None:
    v = variables(MIXED.layout, MIXED.conditions)
    rows = np.random.default_rng(0).uniform(-0.5, 1.5, (300, MIXED.dimension))
    points = v.points(rows)
    assert MIXED.decode_many(v.rows(points))[:5] != MIXED.decode_many(v.rows(points))[5:10]
    assert np.array_equal(v.points(v.rows(points)), points)
    for before, after in zip(MIXED.decode_many(rows), MIXED.decode_many(v.rows(points)), strict=True):
        assert before.keys() == after.keys()
        assert all(before[n] == pytest.approx(after[n]) if isinstance(before[n], float) else before[n] == after[n]
                   for n in before)  # fmt: skip


def test_variables_of_inactive_branches_do_not_matter() -> None:
    method = strategy(MIXED)
    rng = np.random.default_rng(0)
    rows = rng.random((30, MIXED.dimension))
    others = rows.copy()
    for row, other in zip(rows, others, strict=True):
        inactive = ~MIXED.active_mask(row)
        other[inactive] = rng.random(inactive.sum())
    assert not np.array_equal(rows, others)
    state = method.init(bb.key(0), rows[0])
    values = np.array([loss(x) for x in MIXED.decode_many(rows)])
    told = [flatten(method.tell(state, r, values)) for r in (rows, others)]
    assert all(np.array_equal(told[0][name], told[1][name], equal_nan=True) for name in told[0])


def test_a_changed_point_has_another_value_of_each_variable_in_turn() -> None:
    space = bb.Space(
        {"n": bb.Int(1, 7, log=True), "b": bb.Bool(), "c": bb.Choice(["x", "y", "z"]), "f": bb.Float(0, 1)}
    )
    v, rng = variables(space.layout), np.random.default_rng(0)
    points = v.spread(rng.random((400, 4)))
    changed = v.changed(points, rng.random((400, 4)), rng.normal(size=(400, 4)), (0.01, 0.5))
    differs = changed != points
    assert differs[np.arange(400), np.arange(400) % 4].all()
    assert 1.2 < differs.sum(1).mean() < 1.6
    assert np.array_equal(v.points(v.rows(changed)), changed)


# ---- what is asked


def test_the_start_point_comes_first_and_then_a_latin_hypercube() -> None:
    method = EGO(start=10)
    state = method.init(bb.key(3), np.array([0.31, 0.77, 0.5]))
    rows = []
    for _ in range(10):
        rows.append(method.ask(state)[0])
        state = method.tell(state, rows[-1][None], np.ones(1))
    assert np.array_equal(rows[0], [0.31, 0.77, 0.5])
    assert (np.diff(np.sort(np.floor(10 * np.array(rows[1:])), axis=0), axis=0) > 0).all()


@pytest.mark.parametrize("told", [0, 40])
def test_pages_of_members_are_those_of_a_large_population(told: int) -> None:
    one, many = EGO(start=8), EGO(start=8, popsize=4)
    states = [advanced(m, 3, told) if told else m.init(bb.key(0), np.full(3, 0.5)) for m in (one, many)]
    pages = np.concatenate([many.ask(states[1], first=first) for first in range(0, 140, 4)])
    assert len(np.unique(pages, axis=0)) == 140
    if told:
        single = np.concatenate([one.ask(states[0], first=first) for first in (0, 1, 2, 3, 50, 139)])
        assert np.array_equal(pages[[0, 1, 2, 3, 50, 139]], single)


def test_nothing_is_asked_twice_before_all_has_been() -> None:
    space = bb.Space({"a": bb.Int(0, 4), "b": bb.Choice(["x", "y", "z"]), "c": bb.Bool()})
    optimizer = bb.Optimizer(space, "ego", seed=0)
    asked: list[tuple[Any, ...]] = []
    for number in range(45):
        candidate = optimizer.ask()
        point = tuple(candidate.x.values())
        if number >= 8 and len(set(asked)) < 30:  # points of the start may coincide
            assert point not in asked
        asked.append(point)
        optimizer.tell(candidate, candidate.x["a"] + (candidate.x["b"] == "y"))
    assert len(set(asked)) == 30


@pytest.mark.parametrize("workers", [3, 8])
def test_points_under_evaluation_are_not_asked_again(workers: int) -> None:
    space = bb.Space({name: bb.Int(0, 5) for name in "abc"})
    optimizer, rng = bb.Optimizer(space, "ego", seed=1), np.random.default_rng(0)
    running: list[Any] = []
    repeated, asked = 0, set()
    for number in range(120):
        while len(running) < workers:
            candidate = optimizer.ask()
            point = tuple(candidate.x.values())
            repeated += point in asked and number > 30
            asked.add(point)
            running.append(candidate)
        candidate = running.pop(int(rng.integers(workers)))
        optimizer.tell(candidate, sum((value - 2) ** 2 for value in candidate.x.values()))
    assert repeated <= 3, repeated


def test_few_workers_lose_little() -> None:
    values = []
    for seed in range(5):
        optimizer = bb.Optimizer(MIXED, "ego", seed=seed)
        for _ in range(12):
            candidates = optimizer.ask(4)
            optimizer.tell(candidates, [loss(candidate.x) for candidate in candidates])
        assert optimizer.best is not None
        values.append(optimizer.best.value)
    assert np.median(values) < 0.1


def test_it_needs_fewer_evaluations_than_random_search() -> None:
    found = [min(searched("ego", 40, seed)) for seed in range(5)]
    random = [min(searched("random", 200, seed)) for seed in range(5)]
    assert np.median(found) < 0.05
    assert np.median(found) < 0.5 * np.median(random)


def test_regions_that_fail_are_left() -> None:
    space = bb.Space({"a": bb.Float(0, 1), "b": bb.Float(0, 1)})
    optimizer, failed = bb.Optimizer(space, "ego", seed=0), []
    for _ in range(50):
        candidate = optimizer.ask()
        failed.append(candidate.x["a"] > 0.5)
        optimizer.tell(candidate, math.nan if failed[-1] else (candidate.x["a"] - 0.4) ** 2 + candidate.x["b"])
    assert (
        sum(failed[25:]) <= 8
    )  # of 25, half of which random points would lose; chance failures must not count as much
    assert optimizer.best is not None
    assert optimizer.best.value < 0.01


def test_points_from_elsewhere_are_used() -> None:
    space = bb.Space({"a": bb.Float(0, 1), "b": bb.Float(0, 1)})
    optimizer = bb.Optimizer(space, "ego", seed=0)
    for a in np.linspace(0, 1, 5):
        for b in np.linspace(0, 1, 5):
            point = {"a": float(a), "b": float(b)}
            optimizer.tell(point, (point["a"] - 0.6) ** 2 + (point["b"] - 0.2) ** 2)
    distances = []
    for _ in range(6):
        candidate = optimizer.ask()
        distances.append(math.hypot(candidate.x["a"] - 0.6, candidate.x["b"] - 0.2))
        optimizer.tell(candidate, distances[-1] ** 2)
    assert min(distances[1:]) < 0.05


# ---- the state


def test_the_best_half_and_the_newest_points_are_kept() -> None:
    method = EGO(points=20)
    state = method.init(bb.key(0), np.full(2, 0.5))
    rng = np.random.default_rng(0)
    rows, values = rng.random((60, 2)), rng.permutation(60).astype(float)
    for row, value in zip(rows, values, strict=True):
        state = method.tell(state, row[None], np.array([value]))
    assert state.told == 60
    assert state.points.shape == (20, 2)
    assert {0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0} <= set(state.values)
    assert set(values[-8:]) <= set(state.values)


def test_a_state_kept_as_arrays_goes_on_as_if_nothing_had_happened() -> None:
    method = strategy(MIXED)
    fresh = method.init(bb.key(1), np.full(MIXED.dimension, 0.5))
    state = fresh
    for _ in range(15):
        rows = np.concatenate([method.ask(state), method.ask(state, first=1)])
        state = method.tell(state, rows, np.array([loss(x) for x in MIXED.decode_many(rows)]))
    assert (state.since >= 0).sum() == 0
    state = method.tell(state, np.concatenate([method.ask(state, first=1), rows]), np.ones(3))
    assert (state.since >= 0).any()
    kept = unflatten(fresh, {name: array.copy() for name, array in flatten(state).items()})
    assert np.array_equal(method.ask(kept), method.ask(state))
    rows = method.ask(state)
    told = [flatten(method.tell(s, rows, np.ones(1))) for s in (kept, state)]
    assert all(np.array_equal(told[0][name], told[1][name], equal_nan=True) for name in told[0])


def test_scaling_all_values_changes_nothing() -> None:
    plain, scaled = (searched("ego", 25, 0, lambda x, s=s: s * loss(x)) for s in (1.0, 2.0**40))
    assert np.array_equal(np.array(plain) * 2.0**40, scaled)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popsize": 0}, "popsize must be an integer >= 1"),
        ({"start": 1}, "start must be an integer >= 2"),
        ({"points": None}, "points must be of type int, by default 150"),
        ({"layout": (("real",),)}, "layout must consist of"),
        (
            {"layout": (("float",),), "conditions": ((0, 0),)},
            r"conditions\[0\] must be \(-1, -1\) or an earlier choice",
        ),
        ({"layout": (("choice", 2), ("float",)), "conditions": ((-1, -1), (0, 2))}, r"conditions\[1\] must be"),
        ({"layout": (("float",),), "conditions": ()}, "conditions must be as many as entries of layout, 1; got 0"),
        ({"conditions": ((-1, -1),)}, "conditions must be None where layout is"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(bb.SettingError, match=message):
        EGO(**settings)


def test_a_layout_of_another_dimension_is_refused() -> None:
    with pytest.raises(bb.SettingError, match="layout must have as many coordinates as x0, 3; got 2"):
        EGO(layout=(("choice", 2),)).init(bb.key(0), np.full(3, 0.5))
