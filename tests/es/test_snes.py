"""SNES: agreement with evosax, invariances, convergence, restarts' reasons."""

from __future__ import annotations

import numpy as np
import pytest
from es_runs import Function, ellipsoid, evaluations, rosenbrock, sphere, trajectory
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.es.snes import SNES, eta_sigma, utilities


def test_utilities_and_rates_are_those_of_the_paper() -> None:
    """Table 1 of Wierstra et al. 2014, in plain Python."""
    raw = [max(0.0, np.log(10 / 2 + 1) - np.log(i)) for i in range(1, 11)]
    assert_allclose(utilities(10), [r / sum(raw) - 1 / 10 for r in raw], rtol=1e-12)
    assert_allclose([eta_sigma(1), eta_sigma(10)], [3 / 5, (3 + np.log(10)) / (5 * np.sqrt(10))], rtol=1e-12)


@pytest.mark.parametrize("popsize", [2, 3, 7, 100])
def test_utilities_sum_to_0_and_fall(popsize: int) -> None:
    u = utilities(popsize)
    assert abs(u.sum()) < 1e-12
    assert np.all(np.diff(u) <= 0)
    assert u[0] > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside evosax
def test_ten_updates_are_those_of_evosax() -> None:
    evosax = pytest.importorskip("evosax.algorithms")
    import jax
    import jax.numpy as jnp

    d, popsize = 6, 10
    strategy = SNES(popsize=popsize, sigma0=0.5)
    state = strategy.init(bb.key(0), np.zeros(d))
    with jax.enable_x64(True):
        peer = evosax.SNES(population_size=popsize, solution=jnp.zeros(d))
        params = peer.default_params.replace(std_init=jnp.asarray(0.5), weights=jnp.asarray(utilities(popsize)))
        key = jax.random.key(0)
        theirs = peer.init(key, jnp.zeros(d), params)
        for _ in range(10):
            population = strategy.ask(state)
            fitness = rosenbrock(population)
            state = strategy.tell(state, population, fitness)
            theirs = peer.tell(key, jnp.asarray(population), jnp.asarray(fitness), theirs, params)[0]
        assert_allclose(state.mean, np.asarray(theirs.mean), rtol=1e-6, atol=1e-9)
        assert_allclose(state.sigma, np.asarray(theirs.std), rtol=1e-6)


def test_translation_scale_and_order_of_coordinates_change_nothing() -> None:
    x0, shift, order = np.full(5, 0.5), np.arange(5.0), np.array([3, 0, 4, 2, 1])
    plain = trajectory(SNES(sigma0=0.5), rosenbrock, x0, 25)[-1]
    moved = trajectory(SNES(sigma0=0.5), lambda x: rosenbrock(x - shift), x0 + shift, 25)[-1]
    assert_allclose(moved.mean - shift, plain.mean, rtol=1e-7, atol=1e-9)
    wider = trajectory(SNES(sigma0=4.0), lambda x: rosenbrock(x / 8), x0 * 8, 25)[-1]
    assert_allclose(wider.mean / 8, plain.mean, rtol=1e-10)
    strategy = SNES(sigma0=0.5)
    a, b = strategy.init(bb.key(0), x0), strategy.init(bb.key(0), x0)
    for _ in range(25):
        population = strategy.ask(a)
        fitness = rosenbrock(population)
        a, b = strategy.tell(a, population, fitness), strategy.tell(b, population[:, order], fitness)
    assert_allclose(b.mean, a.mean[order], rtol=1e-9)
    assert_allclose(b.sigma, a.sigma[order], rtol=1e-9)


@pytest.mark.parametrize("transform", [np.log1p, lambda f: f**3, lambda f: -1 / (1 + f)], ids=["log", "cube", "odds"])
def test_monotone_transforms_of_fitness_change_nothing(transform: Function) -> None:
    plain = trajectory(SNES(), rosenbrock, np.zeros(4), 25)[-1]
    other = trajectory(SNES(), lambda x: transform(rosenbrock(x)), np.zeros(4), 25)[-1]
    assert_array_equal(other.mean, plain.mean)
    assert_array_equal(other.sigma, plain.sigma)


@pytest.mark.parametrize(
    ("f", "d", "low", "high"), [(sphere, 10, 1700, 2200), (ellipsoid, 10, 2200, 3300), (sphere, 40, 8700, 10_600)]
)
def test_needs_the_recorded_number_of_evaluations(f: Function, d: int, low: int, high: int) -> None:
    counts = [evaluations(SNES(sigma0=0.5), f, np.ones(d), 1e-9, seed) for seed in range(5)]
    assert low < np.median(counts) < high, counts


def test_deviations_learn_the_scales_of_a_separable_function() -> None:
    state = trajectory(SNES(sigma0=0.5), ellipsoid, np.ones(6), 300)[-1]
    assert np.ptp(np.log10(state.sigma * 10.0 ** (3 * np.arange(6) / 5))) < 0.8
