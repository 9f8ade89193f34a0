"""Consensus hopping: the written step, the implicit gradient step that it is, and valleys that it does not see."""

from __future__ import annotations

from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.cbo import ConsensusHopping
from blackbox.kernels.noise import normal

HESSIAN = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 0.7]])
LEAST = np.array([1.0, -0.5, 2.0])


def quadratic(x: Any) -> Any:
    return ((x - LEAST) @ HESSIAN * (x - LEAST)).sum(-1) / 2


def wavy(x: Any) -> Any:
    """Rastrigin's function as the paper scales it."""
    return (x**2 + 2.5 * (1 - np.cos(2 * np.pi * x))).sum(-1)


def steps(strategy: Any, f: Any, state: Any, count: int) -> Any:
    for _ in range(count):
        population = strategy.ask(state)
        state = strategy.tell(state, population, f(population))
    return state


def test_a_step_is_the_written_one() -> None:
    strategy = ConsensusHopping(popsize=7, sigma0=0.5, alpha=2.0, decay=0.9)
    state = steps(strategy, quadratic, strategy.init(bb.key(0), np.zeros(3)), 3)
    sigma, alpha = 0.5 * 0.9**3, 2.0 / 0.9**6
    cloud = [state.consensus + sigma * xi for xi in normal(state.key, 3, (7, 3), like=LEAST)]
    assert np.allclose(strategy.ask(state), cloud, rtol=0, atol=1e-12)
    weights = [np.exp(-alpha * quadratic(x)) for x in cloud]
    v = sum(w * x for w, x in zip(weights, cloud, strict=True)) / sum(weights)
    told = strategy.tell(state, np.array(cloud), quadratic(np.array(cloud)))
    assert np.allclose(told.consensus, v, rtol=0, atol=1e-12)
    assert told.sigma == pytest.approx(0.5 * 0.9**4, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 3.0, 20.0])
@pytest.mark.parametrize("decay", [1.0, 0.7])
def test_on_a_quadratic_it_is_an_implicit_gradient_step_of_length_alpha_sigma_squared(
    alpha: float, decay: float
) -> None:
    """v' = v - tau A (v' - x*), within the Monte-Carlo error of a mean with these weights."""
    strategy = ConsensusHopping(popsize=400_000, sigma0=0.4, alpha=alpha, decay=decay)
    state = strategy.init(bb.key(0), np.array([0.5, 0.0, 1.5]))
    tau = alpha * 0.4**2  # the same for all steps, whatever the decay
    for _ in range(2):
        v, cloud = state.consensus, strategy.ask(state)
        scaled = tau / state.sigma**2 * quadratic(cloud)
        weights = np.exp(-(scaled - scaled.min()))
        weights /= weights.sum()
        expected = v - np.linalg.solve(np.eye(3) + tau * HESSIAN, tau * HESSIAN @ (v - LEAST))
        error = np.sqrt((weights**2) @ (cloud - expected) ** 2)
        state = strategy.tell(state, cloud, quadratic(cloud))
        assert (np.abs(state.consensus - expected) < 4.5 * error).all()
        assert (error < 0.1 * np.abs(expected - v).max()).all()  # so that the test can fail
        implicit = (state.consensus - v) + tau * HESSIAN @ (state.consensus - LEAST)
        assert np.abs(implicit).max() < 4.5 * error.max() * (1 + tau * np.linalg.norm(HESSIAN, 2))


def test_narrow_valleys_are_not_seen() -> None:
    """The paper's setting: gradient descent from there stays at a distance of 11."""
    strategy = ConsensusHopping(sigma0=0.7, decay=1.0)
    keys = np.stack([bb.key(seed) for seed in range(20)])
    state = steps(strategy, wavy, strategy.init(keys, np.full((20, 2), 8.0)), 100)
    distances = np.linalg.norm(state.consensus, axis=-1)
    assert np.median(distances) < 0.15
    assert distances.max() < 1.5


def test_it_converges_with_the_default_decay_and_not_without() -> None:
    last = {}
    for decay in (ConsensusHopping().decay, 1.0):
        strategy = ConsensusHopping(decay=decay)
        state = steps(strategy, quadratic, strategy.init(bb.key(0), np.zeros(3)), 400)
        last[decay] = np.linalg.norm(strategy.recommend(state) - LEAST)
    assert last[ConsensusHopping().decay] < 1e-3 < last[1.0]


def test_it_ends_as_a_point() -> None:
    strategy = ConsensusHopping(decay=0.5, popsize=20)
    state = strategy.init(bb.key(0), np.zeros(3))
    assert not strategy.stop(state)["sigma"]
    state = steps(strategy, quadratic, state, 60)
    assert strategy.stop(state)["sigma"] and state.sigma > 0 and np.isfinite(state.consensus).all()


def test_members_may_be_told_in_any_order_and_failures_have_no_weight() -> None:
    strategy = ConsensusHopping(popsize=10)
    state = strategy.init(bb.key(0), np.zeros(3))
    cloud = strategy.ask(state)
    fitness = quadratic(cloud)
    told = strategy.tell(state, cloud, fitness)
    assert np.allclose(strategy.tell(state, cloud[::-1], fitness[::-1]).consensus, told.consensus, rtol=1e-12)
    fitness[3] = np.nan
    rest = np.arange(10) != 3
    failed, without = strategy.tell(state, cloud, fitness), strategy.tell(state, cloud[rest], fitness[rest])
    assert np.allclose(failed.consensus, without.consensus, rtol=1e-12)


def test_libraries_agree_on_a_step_and_many_runs_are_single_ones() -> None:
    strategy = ConsensusHopping(popsize=9, decay=0.9)
    state = strategy.init(bb.key(3), np.full(3, 0.3))
    cloud = strategy.ask(state)
    told = strategy.tell(state, cloud, quadratic(cloud))
    strict = strategy.init(bb.key(3), array_api_strict.asarray(np.full(3, 0.3)))
    same = strategy.tell(strict, strategy.ask(strict), array_api_strict.asarray(quadratic(cloud)))
    assert np.array_equal(np.asarray(same.consensus), told.consensus)
    traced = strategy.init(bb.key(3), jnp.full(3, 0.3))
    single = jax.jit(lambda s, f: strategy.tell(s, strategy.ask(s), f))(traced, jnp.asarray(quadratic(cloud)))
    assert np.allclose(single.consensus, told.consensus, rtol=1e-5, atol=1e-6)

    keys, x0 = np.stack([bb.key(5), bb.key(6)]), np.array([np.full(3, 0.1), np.full(3, 0.7)])
    both = steps(strategy, quadratic, strategy.init(keys, x0), 20)
    for i in range(2):
        alone = steps(strategy, quadratic, strategy.init(keys[i], x0[i]), 20)
        assert np.array_equal(both.consensus[i], alone.consensus)
        assert np.array_equal(both.sigma[i], alone.sigma)


def test_settings_are_checked() -> None:
    for name, value in (("popsize", 1), ("sigma0", 0.0), ("alpha", 0.0), ("alpha", np.inf), ("decay", 1.01)):
        with pytest.raises(bb.SettingError, match=f"^{name} must be"):
            ConsensusHopping(**{name: value})  # type: ignore[arg-type]
