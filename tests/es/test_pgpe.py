"""PGPE with ClipUp: agreement with evosax, unbiased gradients, limits of a step, convergence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from es_runs import Function, evaluations, rosenbrock, sphere, trajectory
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.es.mirrored import mirrored_normal
from blackbox.es.pgpe import PGPE, gradients


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside evosax
@pytest.mark.parametrize("d", [6, 30])
def test_ten_updates_are_those_of_evosax(d: int) -> None:
    evosax = pytest.importorskip("evosax.algorithms")
    import jax
    import jax.numpy as jnp
    from evosax.core.optimizer import clipup

    popsize = 12
    strategy = PGPE(popsize=popsize, sigma0=0.5, max_speed=0.2)
    state = strategy.init(bb.key(0), np.zeros(d))
    with jax.enable_x64(True):
        optimizer = clipup(learning_rate=0.1, max_velocity=0.2, eps=0.0)
        peer = evosax.PGPE(population_size=popsize, solution=jnp.zeros(d), optimizer=optimizer)
        params = peer.default_params.replace(std_init=0.5)
        key = jax.random.key(0)
        theirs = peer.init(key, jnp.zeros(d), params)
        halves = np.concatenate([np.arange(0, popsize, 2), np.arange(1, popsize, 2)])  # evosax: all +, then all -
        for _ in range(10):
            population = strategy.ask(state)
            fitness = rosenbrock(population)
            state = strategy.tell(state, population, fitness)
            told = jnp.asarray(population[halves]), jnp.asarray(fitness[halves])
            theirs = peer.tell(key, *told, theirs, params)[0]
        assert_allclose(state.mean, np.asarray(theirs.mean), rtol=1e-6, atol=1e-9)
        assert_allclose(state.stdev, np.asarray(theirs.std), rtol=1e-6)


def test_members_2k_and_2k_plus_1_mirror_each_other() -> None:
    strategy = PGPE(popsize=6)
    state = trajectory(strategy, sphere, np.ones(5), 3)[-1]
    steps = strategy.ask(state) - state.mean
    assert_allclose(steps[0::2], -steps[1::2], rtol=1e-12)
    assert len(np.unique(np.abs(steps[:, 0]).round(12))) == 3


@pytest.mark.parametrize("first", [0, 1, 6, 9])
@pytest.mark.parametrize("popsize", [1, 4, 5])
def test_noise_of_a_member_does_not_depend_on_where_the_page_begins(first: int, popsize: int) -> None:
    like = np.zeros(3)
    everything = mirrored_normal(bb.key(1), np.int64(2), 20, 0, like)
    page = mirrored_normal(bb.key(1), np.int64(2), popsize, first, like)
    assert_array_equal(page, everything[first : first + popsize])


def test_gradient_of_a_linear_function_is_unbiased() -> None:
    """For one mirrored pair the expectation is known: sigma / 2 sqrt(2 / pi) times the unit slope."""
    d, slope, stdev = 4, np.array([1.0, -2.0, 0.5, 0.0]), np.full(4, 0.3)
    mean = np.arange(4.0)
    estimates = []
    for generation in range(4000):
        population = mean + stdev * mirrored_normal(bb.key(0), np.int64(generation), 2, 0, mean)
        gradient, stdev_gradient = gradients(population, population @ slope, mean, stdev)
        estimates.append(gradient)
        assert_allclose(stdev_gradient, 0, atol=1e-15)  # a mirrored pair says nothing about curvature
    expected = 0.3 / 2 * np.sqrt(2 / np.pi) * slope / np.linalg.norm(slope)
    error = np.std(estimates, axis=0) / np.sqrt(len(estimates))
    assert np.all(np.abs(np.mean(estimates, axis=0) - expected) < 4 * error)
    assert np.all(error < 0.005)
    assert d == len(expected)


def test_gradient_of_the_deviations_has_the_sign_of_the_curvature() -> None:
    mean, stdev = np.zeros(3), np.ones(3)
    population = mirrored_normal(bb.key(0), np.int64(0), 400, 0, mean)
    fitness = population**2 @ np.array([1.0, 0.0, -1.0])
    _, stdev_gradient = gradients(population, fitness, mean, stdev)
    assert stdev_gradient[0] > 0.1
    assert abs(stdev_gradient[1]) < 0.05
    assert stdev_gradient[2] < -0.1


def test_steps_obey_max_speed_and_deviations_their_limit() -> None:
    strategy = PGPE(popsize=8, sigma0=0.5, max_speed=0.03, stdev_lr=5.0, stdev_max_change=0.15)
    states = trajectory(strategy, rosenbrock, np.zeros(5), 30)
    steps = np.diff([s.mean for s in states], axis=0)
    assert_allclose(np.linalg.norm(steps, axis=1).max(), 0.03, rtol=1e-9)
    assert_allclose(np.linalg.norm(steps[0]), 0.015, rtol=1e-9)  # lr is half of it
    change = np.diff([s.stdev for s in states], axis=0) / [s.stdev for s in states[:-1]]
    assert_allclose(np.abs(change).max(), 0.15, rtol=1e-9)


def test_default_speed_is_a_fifteenth_of_the_radius() -> None:
    given = trajectory(PGPE(sigma0=0.5, max_speed=0.5 * 4 / 15), sphere, np.ones(16), 20)[-1]
    default = trajectory(PGPE(sigma0=0.5), sphere, np.ones(16), 20)[-1]
    assert_allclose(default.mean, given.mean, rtol=1e-12)


def test_equal_fitness_moves_nothing_at_rest() -> None:
    strategy = PGPE(popsize=8)
    state = strategy.init(bb.key(0), np.ones(4))
    told = strategy.tell(state, strategy.ask(state), np.zeros(8))
    assert_array_equal(told.mean, state.mean)
    assert_array_equal(told.stdev, state.stdev)


def test_translation_and_scale_change_nothing() -> None:
    x0, shift = np.full(5, 0.5), np.arange(5.0)
    plain = trajectory(PGPE(sigma0=0.5), rosenbrock, x0, 25)[-1]
    moved = trajectory(PGPE(sigma0=0.5), lambda x: rosenbrock(x - shift), x0 + shift, 25)[-1]
    assert_allclose(moved.mean - shift, plain.mean, rtol=1e-7, atol=1e-9)
    wider = trajectory(PGPE(sigma0=4.0), lambda x: rosenbrock(x / 8), x0 * 8, 25)[-1]
    assert_allclose(wider.mean / 8, plain.mean, rtol=1e-9)


@pytest.mark.parametrize("transform", [np.log1p, lambda f: f**3, lambda f: -1 / (1 + f)], ids=["log", "cube", "odds"])
def test_monotone_transforms_of_fitness_change_nothing(transform: Function) -> None:
    plain = trajectory(PGPE(), rosenbrock, np.zeros(4), 25)[-1]
    other = trajectory(PGPE(), lambda x: transform(rosenbrock(x)), np.zeros(4), 25)[-1]
    assert_array_equal(other.mean, plain.mean)


@pytest.mark.parametrize(("d", "low", "high"), [(10, 120, 320), (40, 450, 1000)])
def test_needs_the_recorded_number_of_evaluations(d: int, low: int, high: int) -> None:
    """To a tenth of the start's fitness; with steps of fixed length PGPE does not converge to the last digit."""
    counts = [evaluations(PGPE(sigma0=0.5), sphere, np.ones(d), d / 10, seed) for seed in range(5)]
    assert low < np.median(counts) < high, counts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popsize": 7}, "popsize must be an even integer >= 2, got 7"),
        ({"max_speed": 0.0}, "max_speed must be a finite number and > 0, got 0.0"),
        ({"momentum": 1.5}, "momentum must be a finite number and >= 0 and <= 1, got 1.5"),
        ({"stdev_max_change": 1.0}, "stdev_max_change must be a finite number and >= 0 and <= 0.99, got 1.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(bb.SettingError, match=message):
        bb.create("pgpe", **settings)
