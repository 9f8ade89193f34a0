"""Novelty: brute force, the ring of behaviours, agents that spread, and survival among the fitter."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.qd import behaviour
from blackbox.qd.behaviour import Behaviours, is_filled, nothing, novelty, remember
from blackbox.qd.dominated_novelty import dominated_novelty


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("xp", [np, jnp])
def test_novelty_is_that_of_a_loop(xp: Any, squared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviour, "LARGEST", 300)  # so that there are several blocks
    rng = np.random.default_rng(0)
    points, seen, valid = rng.random((30, 2)).round(1), rng.random((6, 2)).round(1), rng.random(30) > 0.2
    archive = Behaviours(np.concatenate([seen, np.full((4, 2), 0.5)]), np.asarray(6)[()])
    expected = []
    for i in range(30):
        others = [*seen, *(points[j] for j in range(30) if j != i and valid[j])]
        far = np.sort([np.sum((points[i] - o) ** 2) ** (1 if squared else 0.5) for o in others])
        expected.append(far[:5].mean())
    arrays = xp.asarray(points), xp.asarray(valid), Behaviours(*map(xp.asarray, archive))
    assert np.allclose(novelty(*arrays, 5, squared=squared), expected, atol=1e-6)


def test_a_point_alone_is_infinitely_novel_and_a_twin_is_not() -> None:
    archive = nothing(4, 1, np.zeros(1))
    assert novelty(np.zeros((1, 1)), np.array([True]), archive, 3).tolist() == [np.inf]
    assert novelty(np.zeros((2, 1)), np.array([True, True]), archive, 3).tolist() == [0.0, 0.0]


def test_the_archive_is_a_ring() -> None:
    rng = np.random.default_rng(0)
    archive, log = nothing(5, 1, np.zeros(1)), []
    for _ in range(60):
        points, chosen = rng.random((rng.integers(1, 14), 1)), rng.random
        mask = chosen(len(points)) < rng.choice([0.0, 0.2, 1.0])
        archive = remember(archive, points, mask)
        log += points[mask, 0].tolist()
        assert archive.count == len(log)
        assert sorted(archive.points[is_filled(archive), 0]) == sorted(log[-5:])


def deceptive(x: Any) -> Any:
    """A wall at 0.5 before the goal at x = 2, around which the only way leads away from it."""
    return np.where((x[:, 0] > 0.5) & (np.abs(x[:, 1]) < 1), 1.6 + 0 * x[:, 0], np.hypot(x[:, 0] - 2, x[:, 1]))


@pytest.mark.parametrize("variant", ["ns-es", "nsr-es", "nsra-es"])
def test_agents_spread_and_the_best_is_kept(variant: Any) -> None:
    strategy = bb.qd.NSES(variant=variant, popsize=10, agents=3, lr=0.1)
    state = strategy.init(bb.key(0), np.zeros(3))
    lowest = np.inf
    for generation in range(60):
        if generation < 3:
            assert strategy.agent(state) == generation
        population = strategy.ask(state)
        assert np.array_equal(population[0], state.agents[strategy.agent(state)])
        fitness = deceptive(population)
        lowest = min(lowest, fitness.min())
        before, state = state, strategy.tell(state, population, fitness)
        moved = (before.agents != state.agents).any(axis=1)
        assert moved.tolist() == [i == strategy.agent(before) for i in range(3)]
    assert deceptive(strategy.recommend(state)[None])[0] == lowest == state.best.fitness
    assert state.archive.count == 60
    assert state.weight == {"ns-es": 0.0, "nsr-es": 0.5}.get(variant, state.weight)
    if variant == "ns-es":
        assert np.ptp(state.archive.points, axis=0).min() > 1


def test_nsra_turns_to_novelty_while_nothing_improves() -> None:
    strategy = bb.qd.NSES(variant="nsra-es", popsize=2, agents=1)
    state, weights = strategy.init(bb.key(0), np.zeros(2)), []
    for generation in range(205):
        fitness = np.full(3, -1.0 if generation == 204 else 0.0)
        state = strategy.tell(state, strategy.ask(state), fitness)
        weights.append(float(state.weight))
    assert weights[49] == 1.0
    assert weights[50] == pytest.approx(0.95)
    assert weights[203] == pytest.approx(0.8)
    assert weights[204] == pytest.approx(0.85)


def test_selection_is_by_novelty_alone() -> None:
    strategy = bb.qd.NoveltySearch(popsize=40, parents=5, k=3, insertion=0.0)
    state = strategy.init(bb.key(0), np.zeros(2))
    population = strategy.ask(state)
    fitness = np.random.default_rng(0).random(40)
    fitness[:2] = np.nan
    told = strategy.tell(state, population, fitness)
    score = novelty(population, ~np.isnan(fitness), state.archive, 3)
    score[:2] = -1
    assert np.array_equal(told.parents, population[np.argsort(-score, kind="stable")[:5]])
    assert np.array_equal(told.best.x, population[np.nanargmin(fitness)])
    assert told.archive.count == 0
    # Of fewer than five that did not fail, former parents stay beside them.
    few = strategy.tell(told, strategy.ask(told), np.where(np.arange(40) < 2, 1.0, np.nan))
    assert np.array_equal(few.parents[2:], told.parents[:3])


def test_behaviours_enter_the_archive_by_chance() -> None:
    strategy = bb.qd.NoveltySearch(popsize=100, insertion=0.1)
    state = strategy.init(bb.key(0), np.zeros(2))
    for _ in range(30):
        population = strategy.ask(state)
        state = strategy.tell(state, population, population.sum(axis=1))
    assert 240 < state.archive.count < 360


def test_dominated_novelty_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    points, fitness = rng.random((40, 2)), rng.integers(0, 9, 40).astype(float)
    expected = []
    for i in range(40):
        fitter = [j for j in range(40) if fitness[j] < fitness[i] or (fitness[j] == fitness[i] and j < i)]
        far = np.sort([np.hypot(*(points[i] - points[j])) for j in fitter])[:3]
        expected.append(far.mean() if fitter else np.inf)
    assert np.allclose(dominated_novelty(points, fitness, 3), expected)


def test_survivors_are_the_fittest_and_what_differs_from_them() -> None:
    strategy = bb.qd.DominatedNoveltySearch(capacity=3, popsize=5, k=1)
    state = strategy.init(bb.key(0), np.zeros(2))
    population = np.array([[0.0, 0], [0.1, 0], [0.2, 0], [5.0, 0], [0.0, 9]])
    state = strategy.tell(state, population, np.array([0.0, 1.0, 2.0, 3.0, np.nan]))
    assert sorted(state.population[:, 0]) == [0.0, 0.1, 5.0]
    assert strategy.recommend(state).tolist() == [0.0, 0.0]
