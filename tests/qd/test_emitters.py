"""MAP-Elites, CMA-ME and CMA-MAE: descriptors, restarts, and archives that fill as they should."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.qd import coverage, qd_score
from blackbox.qd.archive import sample
from blackbox.qd.variation import iso_line

D = 10
RANGES = ((-float(D), float(D)),) * 2


def arm(x: Any) -> tuple[Any, Any]:
    """An arm of ``D`` joints: the variance of its angles, and where its end is."""
    angle = np.cumsum(x, axis=1)
    return np.var(x, axis=1), np.stack([np.cos(angle).sum(axis=1), np.sin(angle).sum(axis=1)], axis=1)


def filled(strategy: Any, generations: int, seed: int = 0) -> Any:
    state = strategy.init(bb.key(seed), np.zeros(D))
    for _ in range(generations):
        population = strategy.ask(state)
        state = strategy.tell(state, population, *arm(population))
    return state


def test_archives_fill_in_the_order_that_the_papers_have() -> None:
    """20,000 evaluations of the arm; random sampling covers less than a tenth of what MAP-Elites does."""
    common: dict[str, Any] = {"cells": (30, 30), "ranges": RANGES}
    elites = filled(bb.qd.MAPElites(popsize=200, sigma0=0.2, iso_sigma=0.05, **common), 100)
    improving = filled(bb.qd.CMAME(emitters=5, batch=40, sigma0=0.2, **common), 100)
    annealing = filled(bb.qd.CMAMAE(emitters=5, batch=40, sigma0=0.2, threshold0=1.0, **common), 100)
    voronoi = filled(bb.qd.MAPElites(popsize=200, sigma0=0.2, iso_sigma=0.05, cells=900, ranges=RANGES), 100)
    for state, least in ((elites, 0.7), (improving, 0.75), (annealing, 0.75), (voronoi, 0.7)):
        assert coverage(state.archive) > least
        assert qd_score(state.archive, 1.0) > 0.9 * least * 900


def test_variation_is_that_of_the_paper() -> None:
    first, second = np.zeros((40_000, 2)), np.broadcast_to([2.0, 0.0], (40_000, 2))
    noise = np.random.default_rng(0).normal(size=(40_000, 3))
    x = iso_line(first, second, noise, 0.1, 0.5)
    assert np.allclose(x.std(axis=0), [np.hypot(0.1, 1.0), 0.1], rtol=0.02)


@pytest.mark.parametrize(
    "name", ["map-elites", "cma-me", "cma-mae", "novelty-search", "ns-es", "dominated-novelty-search"]
)
def test_descriptors_are_the_first_coordinates_unless_they_are_told(name: str) -> None:
    strategy = bb.create(name)
    state = strategy.init(bb.key(0), np.full(4, 0.5))
    population = strategy.ask(state)
    fitness = population.sum(axis=1)
    plain = strategy.tell(state, population, fitness)
    given = strategy.tell(state, population, fitness, descriptors=population[:, :2])
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(given), strict=True):
        assert np.array_equal(a, b)
    for wrong in (population, population[1:, :2], population[:, 0], [[0.0, 0.0]]):
        with pytest.raises(bb.TellError, match="descriptors must be 2 real numbers for each of"):
            strategy.tell(state, population, fitness, wrong)


@pytest.mark.parametrize("emitter", ["cma-es", "sep-cma-es"])
def test_emitters_without_improvement_begin_anew_at_an_elite(emitter: Any) -> None:
    strategy = bb.qd.CMAME(emitters=3, batch=6, cells=(1, 1), emitter=emitter)
    state = strategy.init(bb.key(0), np.full(3, 0.5))
    for _ in range(3):
        population = strategy.ask(state)
        state = strategy.tell(state, population, population.sum(axis=1))
    population = strategy.ask(state)
    fitness = np.where(np.arange(18) // 6 == 1, -10.0, 10.0)  # the second one alone improves something
    told = strategy.tell(state, population, fitness)
    assert told.emitters.generation.tolist()[1] > 1
    assert told.emitters.generation.tolist()[::2] == [0, 0]
    elites = sample(told.archive, np.linspace(0, 1, 500, endpoint=False))
    assert all((elites == told.emitters.mean[i]).all(axis=1).any() for i in (0, 2))
    assert told.emitters.sigma[0] == strategy.sigma0
    again = strategy.tell(told, strategy.ask(told), np.full(18, np.nan))
    assert len(np.unique(strategy.ask(again), axis=0)) == 18  # no noise is that of a former life


def test_the_first_thresholds_are_the_worst_of_the_first_generation() -> None:
    strategy = bb.qd.CMAMAE(emitters=2, batch=4, cells=(3, 3))
    state = strategy.init(bb.key(0), np.full(2, 0.5))
    state = strategy.tell(state, strategy.ask(state), np.full(8, np.nan))
    assert np.isinf(state.archive.threshold).all()
    fitness = np.array([1.0, 2.0, 7.0, 3.0, np.nan, np.inf, 4.0, 5.0])
    state = strategy.tell(state, np.full((8, 2), 0.9), fitness)
    assert state.archive.threshold[:8].tolist() == [7.0] * 8
    below = np.array([1.0, 2, 3, 4, 5])
    assert state.archive.threshold[8] == pytest.approx(7 * 0.99**5 + below.mean() * (1 - 0.99**5))


def test_a_run_is_one_program() -> None:
    strategy = bb.qd.CMAME(emitters=2, batch=8, cells=(8, 8), emitter="sep-cma-es")
    state, history = bb.run(
        strategy, lambda x: jnp.sum((x - 0.3) ** 2), jnp.full(3, 0.6), key=bb.key(0), generations=6, runs=2
    )
    assert state.archive.fitness.shape == (2, 64)
    assert np.array_equal(np.asarray(state.archive.fitness.min(axis=1)), np.asarray(history.best[:, -1]))


def test_a_search_of_a_space_returns_the_best_elite() -> None:
    space = bb.Space({"a": bb.Float(-1, 1), "b": bb.Float(-1, 1)})
    result = bb.minimize(lambda p: p["a"] ** 2 + (p["b"] - 0.5) ** 2, space, method="map-elites", budget=600, seed=0)
    assert result.value < 1e-2
