"""Nelder-Mead: step by step the evaluations of SciPy's adaptive variant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize, rosen

import blackbox as bb
from blackbox.classic.nelder_mead import EXPAND, INSIDE, OUTSIDE, REFLECT, SHRINK, START, NelderMead, NelderMeadState


def descend(
    strategy: NelderMead, state: NelderMeadState, f: Callable[[np.ndarray], float], evaluations: int
) -> tuple[NelderMeadState, list[float]]:
    values = []
    for _ in range(evaluations):
        population = strategy.ask(state)
        values.append(float(f(population[0])))
        state = strategy.tell(state, population, np.array(values[-1:]))
    return state, values


def valley(x: np.ndarray) -> float:
    return 1.0 + rosen(x)


def rough(x: np.ndarray) -> float:
    """No slope to follow: contractions fail and the simplex shrinks."""
    return valley(x) + 100.0 * np.sin(300.0 * x).sum()


@pytest.mark.parametrize("f", [valley, rough])
@pytest.mark.parametrize("d", [2, 3, 5, 10])
def test_evaluations_are_scipys(f: Callable[[np.ndarray], float], d: int) -> None:
    x0 = np.linspace(-1.2, 1.4, d)
    strategy = NelderMead(sigma0=0.37)
    start = strategy.init(bb.key(0), x0)
    _, ours = descend(strategy, start, f, 200)
    theirs: list[float] = []

    def recorded(x: np.ndarray) -> float:
        theirs.append(float(f(x)))
        return theirs[-1]

    options = {"initial_simplex": start.simplex, "adaptive": True, "maxfev": 200, "xatol": 0.0, "fatol": 0.0}
    minimize(recorded, x0, method="Nelder-Mead", options=options)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_rough_function_shrinks_the_simplex() -> None:
    strategy = NelderMead(sigma0=0.37)
    state = strategy.init(bb.key(0), np.linspace(-1.2, 1.4, 5))
    phases = []
    for _ in range(200):
        state, _ = descend(strategy, state, rough, 1)
        phases.append(int(state.phase))
    assert set(phases) == {START, REFLECT, EXPAND, OUTSIDE, INSIDE, SHRINK}


def test_reaches_the_minimum_and_says_when_to_stop() -> None:
    strategy = NelderMead(sigma0=0.5)
    state = strategy.init(bb.key(0), np.full(4, 0.8))
    for evaluations in range(2000):  # noqa: B007
        if any(strategy.stop(state).values()):
            break
        state, _ = descend(strategy, state, lambda x: rosen(4 * x) + 7.0, 1)
    assert 100 < evaluations < 1000
    assert rosen(4 * strategy.recommend(state)) < 1e-9


def test_stops_on_a_plateau_not_before_the_simplex_is_small() -> None:
    strategy = NelderMead(sigma0=0.5)
    state, _ = descend(strategy, strategy.init(bb.key(0), np.zeros(2)), lambda _: 1.0, 20)
    assert not any(strategy.stop(state).values())
    state, _ = descend(strategy, state, lambda _: 1.0, 100)
    assert strategy.stop(state)["tolfun"]


def test_one_dimension() -> None:
    strategy = NelderMead(sigma0=0.5)
    state, _ = descend(strategy, strategy.init(bb.key(0), np.array([5.0])), lambda x: (x[0] - 1.0) ** 2, 100)
    assert abs(strategy.recommend(state)[0] - 1.0) < 1e-6


def ready(d: int) -> tuple[NelderMead, NelderMeadState]:
    """A state whose next step is a reflection."""
    strategy = NelderMead(sigma0=0.5)
    state, _ = descend(strategy, strategy.init(bb.key(0), np.full(d, 1.0)), rosen, d + 1)
    while state.phase != REFLECT:
        state, _ = descend(strategy, state, rosen, 1)
    return strategy, state


def test_better_foreign_point_replaces_the_worst_vertex() -> None:
    strategy, state = ready(3)
    own = strategy.ask(state)
    near = state.simplex.mean(axis=0) + 0.01
    told = strategy.tell(state, np.stack([own[0], near]), np.array([np.inf, state.values[0] - 1.0]))
    assert np.array_equal(told.simplex[0], near)
    assert np.array_equal(strategy.recommend(told), near)
    assert told.phase == REFLECT
    assert np.all(np.diff(told.values) >= 0)
    assert not np.any(np.all(told.simplex == state.simplex[-1], axis=1))


def test_foreign_point_does_not_lose_a_pending_reflection() -> None:
    strategy, state = ready(3)
    own = strategy.ask(state)
    expanding = strategy.tell(state, own, np.array([state.values[0] - 1.0]))
    near = state.simplex.mean(axis=0)
    told = strategy.tell(expanding, np.stack([strategy.ask(expanding)[0], near]), np.array([np.inf, state.values[1]]))
    assert np.array_equal(told.simplex[0], own[0])


@pytest.mark.parametrize("case", ["worse", "far", "starting"])
def test_foreign_point_is_ignored(case: str) -> None:
    strategy, state = ready(3)
    if case == "starting":
        state = strategy.init(bb.key(0), np.full(3, 1.0))
    own = strategy.ask(state)
    foreign = state.simplex[0] + (1e3 if case == "far" else 0.01)
    value = 1e9 if case == "worse" else -1.0
    told = strategy.tell(state, np.stack([own[0], foreign]), np.array([np.inf, value]))
    alone = strategy.tell(state, own, np.array([np.inf]))
    for a, b in zip(told, alone, strict=True):
        assert np.array_equal(a, b)


def test_further_members_surround_the_simplex() -> None:
    strategy, state = ready(3)
    x = np.concatenate([strategy.ask(state, first=i) for i in range(1, 1001)])
    center = state.simplex.mean(axis=0)
    covariance = (state.simplex - center).T @ (state.simplex - center) / 4
    spread = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(x.mean(axis=0) - center) < 0.1 * spread)
    assert np.all(np.abs(np.cov(x.T) - covariance) < 0.12 * spread[:, None] * spread)


def test_settings_are_checked() -> None:
    with pytest.raises(bb.SettingError, match="sigma0"):
        NelderMead(sigma0=0.0)
