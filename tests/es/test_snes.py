"""SNES: agreement with evosax, invariances, convergence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.es.snes import SNES, utilities

WEIGHTS = 10.0 ** (3 * np.arange(6) / 5)


def ellipsoid(x: np.ndarray) -> np.ndarray:
    return (x * x) @ WEIGHTS


def test_utilities_are_the_paper_s() -> None:
    u = utilities(6)
    raw = [np.log(4) - np.log(i) for i in (1, 2, 3)]
    assert_allclose(u, np.array([*(r / sum(raw) for r in raw), 0, 0, 0]) - 1 / 6)
    assert abs(u.sum()) < 1e-15


def test_updates_equal_those_of_evosax() -> None:
    evosax = pytest.importorskip("evosax.algorithms")
    with jax.enable_x64(True):
        peer = evosax.SNES(population_size=8, solution=jnp.zeros(6))
        parameters = peer.default_params.replace(std_init=0.5)
        theirs = peer.init(jax.random.key(0), jnp.ones(6), parameters)
        strategy = SNES(popsize=8, sigma0=0.5)
        ours = strategy.init(bb.key(0), np.ones(6))
        for _ in range(5):
            population = strategy.ask(ours)
            fitness = ellipsoid(population)
            ours = strategy.tell(ours, population, fitness)
            theirs, _ = peer.tell(jax.random.key(1), jnp.asarray(population), jnp.asarray(fitness), theirs, parameters)
        assert_allclose(ours.mean, theirs.mean, rtol=1e-6)
        assert_allclose(ours.sigma, theirs.std, rtol=1e-6)


def test_monotone_transforms_and_scale_change_nothing() -> None:
    def final(f: object, sigma0: float, x0: float) -> np.ndarray:
        strategy = SNES(sigma0=sigma0)
        state = strategy.init(bb.key(1), np.full(6, x0))
        for _ in range(30):
            population = strategy.ask(state)
            state = strategy.tell(state, population, f(population))  # type: ignore[operator]
        return np.asarray(state.mean)

    plain = final(ellipsoid, 0.5, 1.0)
    assert_array_equal(final(lambda x: np.log1p(ellipsoid(x)) ** 3, 0.5, 1.0), plain)
    assert_array_equal(final(lambda x: ellipsoid(x / 64), 32.0, 64.0) / 64, plain)


def test_converges_on_a_separable_ellipsoid_and_then_stops() -> None:
    strategy = SNES(sigma0=0.5)
    state = strategy.init(bb.key(2), np.ones(6))
    while not any(strategy.stop(state).values()) and state.generation < 3000:
        population = strategy.ask(state)
        state = strategy.tell(state, population, ellipsoid(population))
    assert ellipsoid(state.mean[None])[0] < 1e-10
    assert 100 < state.generation < 2900
    # sigma learns the scales of the coordinates, here 1 : 10**1.5.
    assert state.sigma[0] / state.sigma[-1] > 5
