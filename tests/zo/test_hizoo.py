"""HiZOO: the written step, curvatures that are found, and the laws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.errors import SettingError, TellError
from blackbox.testing.virtual import check_total_on_fitness, parameters
from blackbox.zo.hizoo import HiZOO

pytestmark = pytest.mark.usefixtures("little_noise_by_compiled_code")

PARAMS = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32), "b": jnp.ones(4)}


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


def test_a_step_is_the_written_one() -> None:
    strategy = HiZOO(queries=2, mu=0.1, lr=0.02, alpha=0.3, weight_decay=0.1)
    state = strategy.init(bb.key(0), PARAMS)
    order = jnp.array([3, 4, 0, 2, 1])  # in which members are told does not matter
    for t in range(2):
        population = strategy.ask(state, first=5 * t)  # any generation's further members are told like its own
        fitness = np.random.default_rng(t).normal(size=5)
        x, h = flat(state.params), flat(state.curvature)
        step, found = np.zeros_like(x), np.zeros_like(h)
        for k in range(2):
            e = flat(population.noise(2 * k)) / 0.1
            assert_allclose(flat(population.noise(2 * k + 1)), -0.1 * e, atol=1e-6)
            up, down, center = fitness[2 * k], fitness[2 * k + 1], fitness[4]
            step += (up - down) / 0.2 * e / 2
            found += abs(up + down - 2 * center) / (2 * 0.1**2) * h * (e * np.sqrt(h)) ** 2 / 2
        assert not flat(population.noise(4)).any()
        step[4:] += 0.1 * x[4:]
        state = strategy.tell(state, population.take(order), jnp.asarray(fitness, jnp.float32)[order])
        assert_allclose(flat(state.params), x - 0.02 * step, rtol=1e-4, atol=1e-5)
        assert_allclose(flat(state.curvature), np.clip(0.7 * h + 0.3 * found, 1e-2, 1e4), rtol=1e-3)


def test_steep_coordinates_are_perturbed_less() -> None:
    """Of a pair c z_i^2 / 2 is (sum_j h_j + 2 h_i) / 2 on average: 605 and 506 for curvatures of 100 and 1."""
    steep = jnp.where(jnp.arange(20) < 10, 100.0, 1.0)
    strategy = HiZOO(queries=128, mu=1e-2, lr=0.0, alpha=0.5)
    state = strategy.init(bb.key(0), jnp.zeros(20))

    def bowl(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(steep * x * x)

    population = strategy.ask(state)
    state = strategy.tell(state, population, bb.evaluate(bowl, population))
    (h,) = state.curvature
    assert np.mean(h[:10]) == pytest.approx(0.5 + 605 / 2, rel=0.3)
    assert np.mean(h[:10]) > 1.1 * np.mean(h[10:])
    spread = np.abs(flat(strategy.ask(state).noise(0)))
    assert spread.max() < 1e-2


def test_any_fitness_may_be_told() -> None:
    check_total_on_fitness(HiZOO(queries=2, lr=0.01, alpha=0.1), parameters())


def test_further_generations_are_other_pairs_and_failures_count_nothing() -> None:
    strategy = HiZOO(queries=2, lr=0.1, alpha=0.5)
    state = strategy.init(bb.key(0), PARAMS)
    first, further = strategy.ask(state), strategy.ask(state, first=5)
    members = [flat(p[i]) for p in (first, further) for i in range(4)]
    assert len({tuple(m) for m in members}) == 8
    assert_array_equal(flat(further[4]), flat(PARAMS))
    with pytest.raises(SettingError, match="first must be a multiple of the 5 members of a population, got 4"):
        strategy.ask(state, first=4)
    told = strategy.tell(state, first, jnp.array([1.0, jnp.nan, 2.0, jnp.inf, 1.0]))
    assert_array_equal(flat(told.params), flat(PARAMS))
    assert_array_equal(flat(told.curvature), 1.0)
    with pytest.raises(TellError, match="all 5 members are told at once, got 2"):
        strategy.tell(state, first.take(jnp.arange(2)), jnp.zeros(2))
    for setting in ({"alpha": 2.0}, {"least": 0.0}, {"largest": 0.5}, {"mu": 0.0}):
        with pytest.raises(SettingError, match=f"^{next(iter(setting))} must be"):
            HiZOO(**setting)  # type: ignore[arg-type]
