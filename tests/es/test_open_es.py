"""OpenAI-ES: agreement with evosax and optax, unbiased gradients, convergence to the width of the samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from es_runs import Function, evaluations, rosenbrock, sphere, trajectory
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.es.mirrored import mirrored_normal
from blackbox.es.open_es import OpenES


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside evosax
@pytest.mark.parametrize("adam", [True, False])
def test_ten_updates_are_those_of_evosax(adam: bool) -> None:
    evosax = pytest.importorskip("evosax.algorithms")
    import jax
    import jax.numpy as jnp
    import optax

    d, popsize, sigma, lr = 6, 12, 0.2, 0.05
    strategy = OpenES(popsize=popsize, sigma=sigma, lr=lr, adam=adam)
    state = strategy.init(bb.key(0), np.zeros(d))
    with jax.enable_x64(True):
        optimizer = optax.adam(lr) if adam else optax.sgd(lr)
        schedule = optax.constant_schedule(sigma)
        peer = evosax.Open_ES(popsize, jnp.zeros(d), optimizer=optimizer, std_schedule=schedule)
        key, params = jax.random.key(0), peer.default_params
        theirs = peer.init(key, jnp.zeros(d), params)
        for _ in range(10):
            population = strategy.ask(state)
            fitness = rosenbrock(population)
            state = strategy.tell(state, population, fitness)
            theirs = peer.tell(key, jnp.asarray(population), jnp.asarray(fitness), theirs, params)[0]
        assert_allclose(state.mean, np.asarray(theirs.mean), rtol=1e-6, atol=1e-9)


def test_members_2k_and_2k_plus_1_mirror_each_other() -> None:
    strategy = OpenES(popsize=6)
    state = trajectory(strategy, sphere, np.ones(5), 3)[-1]
    steps = strategy.ask(state) - state.mean
    assert_allclose(steps[0::2], -steps[1::2], rtol=1e-12)


def test_gradient_of_a_linear_function_is_unbiased() -> None:
    """For one mirrored pair the expectation is known: sqrt(2 / pi) / (2 sigma) times the unit slope."""
    slope, mean = np.array([1.0, -2.0, 0.5, 0.0]), np.arange(4.0)
    strategy = OpenES(popsize=2, sigma=0.3, lr=1.0, adam=False)
    state = strategy.init(bb.key(0), mean)
    estimates = []
    for generation in range(4000):
        population = mean + 0.3 * mirrored_normal(bb.key(0), np.int64(generation), 2, 0, mean)
        estimates.append(mean - strategy.tell(state, population, population @ slope).mean)
    expected = np.sqrt(2 / np.pi) / (2 * 0.3) * slope / np.linalg.norm(slope)
    error = np.std(estimates, axis=0) / np.sqrt(len(estimates))
    assert np.all(np.abs(np.mean(estimates, axis=0) - expected) < 4 * error)
    assert np.all(error < 0.05)


def test_first_step_of_adam_is_lr_in_each_coordinate() -> None:
    states = trajectory(OpenES(popsize=8, sigma=0.1, lr=0.02), sphere, np.arange(1.0, 5.0), 1)
    assert_allclose(np.abs(states[1].mean - states[0].mean), 0.02, rtol=1e-5)


def test_translation_and_scale_change_nothing() -> None:
    x0, shift = np.full(5, 0.5), np.arange(5.0)
    plain = trajectory(OpenES(sigma=0.1), rosenbrock, x0, 25)[-1]
    moved = trajectory(OpenES(sigma=0.1), lambda x: rosenbrock(x - shift), x0 + shift, 25)[-1]
    assert_allclose(moved.mean - shift, plain.mean, rtol=1e-7, atol=1e-9)
    wider = trajectory(OpenES(sigma=0.8), lambda x: rosenbrock(x / 8), x0 * 8, 25)[-1]
    assert_allclose(wider.mean / 8, plain.mean, rtol=1e-5)  # but for Adam's eps
    plain = trajectory(OpenES(sigma=0.1, adam=False), rosenbrock, x0, 25)[-1]
    wider = trajectory(OpenES(sigma=0.8, adam=False), lambda x: rosenbrock(x / 8), x0 * 8, 25)[-1]
    assert_allclose(wider.mean / 8, plain.mean, rtol=1e-9)


@pytest.mark.parametrize("transform", [np.log1p, lambda f: f**3, lambda f: -1 / (1 + f)], ids=["log", "cube", "odds"])
def test_monotone_transforms_of_fitness_change_nothing(transform: Function) -> None:
    plain = trajectory(OpenES(), rosenbrock, np.zeros(4), 25)[-1]
    other = trajectory(OpenES(), lambda x: transform(rosenbrock(x)), np.zeros(4), 25)[-1]
    assert_array_equal(other.mean, plain.mean)


@pytest.mark.parametrize(
    ("d", "adam", "low", "high"),
    [(10, True, 150, 450), (40, True, 600, 1300), (10, False, 650, 950), (40, False, 2500, 3500)],
)
def test_needs_the_recorded_number_of_evaluations(d: int, adam: bool, low: int, high: int) -> None:
    """To a hundredth of the start's fitness; beyond, the fixed width of the samples is the limit."""
    counts = [evaluations(OpenES(sigma=0.1, adam=adam), sphere, np.ones(d), d / 100, seed) for seed in range(5)]
    assert low < np.median(counts) < high, counts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popsize": 7}, "popsize must be an even integer >= 2, got 7"),
        ({"sigma": 0.0}, "sigma must be a finite number and > 0, got 0.0"),
        ({"beta2": 1.0}, "beta2 must be a finite number and >= 0 and <= 0.9999, got 1.0"),
        ({"sigma0": 1.0}, "openai-es has no hyperparameter 'sigma0'.*did you mean 'sigma'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(bb.SettingError, match=message):
        bb.create("openai-es", **settings)
