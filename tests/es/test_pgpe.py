"""PGPE: agreement with evosax, unbiased gradients, ClipUp's speed limit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.es.antithetic import antithetic_normal
from blackbox.es.pgpe import PGPE


def sphere(x: np.ndarray) -> np.ndarray:
    return np.sum(x * x, axis=1)


@pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated")
def test_updates_equal_those_of_evosax() -> None:
    evosax = pytest.importorskip("evosax.algorithms")
    with jax.enable_x64(True):
        peer = evosax.PGPE(population_size=10, solution=jnp.zeros(5))
        theirs = peer.init(jax.random.key(0), jnp.ones(5), peer.default_params)
        strategy = PGPE(popsize=10, sigma0=1.0, lr=0.01, max_speed=0.02)
        ours = strategy.init(bb.key(0), np.ones(5))
        for _ in range(6):
            population = strategy.ask(ours)
            fitness = sphere(population)
            ours = strategy.tell(ours, population, fitness)
            halves = np.concatenate([np.arange(0, 10, 2), np.arange(1, 10, 2)])  # their pairs are k and n/2 + k
            told = jnp.asarray(population[halves]), jnp.asarray(fitness[halves])
            theirs, _ = peer.tell(jax.random.key(1), *told, theirs, peer.default_params)
        assert_allclose(ours.mean, theirs.mean, rtol=1e-6)
        assert_allclose(ours.sigma, theirs.std, rtol=1e-6)


def test_pairs_mirror_each_other_on_every_page() -> None:
    like = np.zeros(3)
    steps = antithetic_normal(bb.key(1), 4, 6, 0, like)
    assert_array_equal(steps[0::2], -steps[1::2])
    assert_array_equal(antithetic_normal(bb.key(1), 4, 6, 6, like), antithetic_normal(bb.key(1), 4, 12, 0, like)[6:])


def test_no_step_is_longer_than_max_speed() -> None:
    strategy = PGPE(popsize=20, max_speed=0.1)
    state = strategy.init(bb.key(2), np.full(4, 100.0))
    steps = []
    for _ in range(20):
        population = strategy.ask(state)
        told = strategy.tell(state, population, sphere(population))
        steps.append(np.linalg.norm(told.mean - state.mean))
        state = told
    assert max(steps) <= 0.1 * (1 + 1e-12)
    assert steps[-1] == pytest.approx(0.1)  # far from the optimum it runs at full speed


def test_sigma_changes_by_at_most_max_change() -> None:
    strategy = PGPE(popsize=10, lr_sigma=100.0, max_change=0.2)
    state = strategy.init(bb.key(3), np.ones(4))
    population = strategy.ask(state)
    told = strategy.tell(state, population, sphere(population))
    ratio = told.sigma / state.sigma
    assert np.all((ratio > 0.8 - 1e-12) & (ratio < 1.2 + 1e-12))
    assert np.any(np.isclose(ratio, 0.8) | np.isclose(ratio, 1.2))


def test_odd_popsize_is_refused() -> None:
    with pytest.raises(bb.SettingError, match="popsize must be an even integer >= 2, got 7"):
        PGPE(popsize=7)
