"""OpenAI-ES: the estimator is unbiased and exact on linear functions; Adam is optax's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import blackbox as bb
from blackbox.es.open_es import OpenES
from blackbox.shaping import centered_ranks


def test_estimate_is_unbiased_for_the_smoothed_gradient() -> None:
    """For f = a.x + |x|^2 the smoothed gradient is a + 2 mean exactly: the average must be within its own error."""
    a, mean = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.1, -0.4])
    strategy = OpenES(popsize=20_000, sigma=0.5)
    state = strategy.init(bb.key(0), mean)
    population = strategy.ask(state)
    fitness = population @ a + np.sum(population**2, axis=1)
    estimate = strategy.gradient(state, population, fitness)
    per_member = fitness[:, None] * (population - mean) / 0.5**2
    pairs = (per_member[0::2] + per_member[1::2]) / 2
    standard_error = pairs.std(axis=0) / np.sqrt(len(pairs))
    assert np.all(np.abs(estimate - (a + 2 * mean)) < 4.5 * standard_error)


def test_adam_is_that_of_optax() -> None:
    optax = pytest.importorskip("optax")
    strategy = OpenES(popsize=6, sigma=0.2, lr=0.03)
    state = strategy.init(bb.key(1), np.ones(4))
    adam = optax.adam(0.03)
    mean, moments = np.ones(4, np.float32), adam.init(np.ones(4, np.float32))
    for _ in range(10):
        population = strategy.ask(state)
        fitness = np.sum(population**2, axis=1)
        gradient = strategy.gradient(state, population, centered_ranks(fitness))
        updates, moments = adam.update(gradient.astype(np.float32), moments)
        mean = optax.apply_updates(mean, updates)
        state = strategy.tell(state, population, fitness)
    assert_allclose(state.mean, mean, rtol=1e-5)


def test_reaches_the_neighborhood_that_sigma_allows() -> None:
    strategy = OpenES(popsize=20, sigma=0.05, lr=0.02)
    state = strategy.init(bb.key(2), np.full(10, 0.9))
    for _ in range(300):
        population = strategy.ask(state)
        state = strategy.tell(state, population, np.sum((population - 0.3) ** 2, axis=1))
    assert np.linalg.norm(state.mean - 0.3) < 0.1
