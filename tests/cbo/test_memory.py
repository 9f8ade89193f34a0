"""Consensus-based optimization with memory."""

from __future__ import annotations

from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.cbo import MemoryCBO, SecondOrderCBO
from blackbox.kernels.noise import fold_many, normal

D = 4


def rastrigin(x: Any) -> Any:
    return np.sum(x**2 - 10 * np.cos(2 * np.pi * x), axis=-1) + 10 * x.shape[-1]


def steps(strategy: Any, f: Any, x0: Any, count: int, key: Any = None) -> Any:
    state = strategy.init(bb.key(0) if key is None else key, x0)
    for _ in range(count):
        population = strategy.ask(state)
        state = strategy.tell(state, population, f(population))
    return state


@pytest.mark.parametrize("noise", ["anisotropic", "isotropic"])
@pytest.mark.parametrize("limit", [np.inf, 0.4])
def test_a_step_is_the_written_one(noise: Any, limit: float) -> None:
    """In loops, on noises of one's own for both pulls that have the sum of those drawn."""
    strategy = MemoryCBO(
        popsize=7, sigma0=0.5, s=0.4, drift=0.3, s_memory=0.25, drift_memory=0.2, diffusion=noise, truncation=limit,
        alpha0=0.2, growth=1.1,
    )  # fmt: skip
    state = steps(strategy, rastrigin, np.full(D, 0.3), 3)
    x, e = state.particles, rastrigin(state.particles)
    y, energy = state.memory.y.copy(), state.memory.energy.copy()
    for i in range(7):
        if e[i] < energy[i]:
            y[i], energy[i] = x[i], e[i]
    assert (y != x).any(axis=1).any()
    assert (y == x).all(axis=1).any()
    weights = [np.exp(-0.2 * 1.1**3 * (value - min(energy))) for value in energy]
    v = sum(w * row for w, row in zip(weights, y, strict=True)) / sum(weights)
    z = normal(state.key, 3, (7, D), like=x)
    expected = np.empty_like(x)
    for i in range(7):
        for k in range(D):
            offset, regret = x[i] - v, x[i] - y[i]
            size = abs(offset[k]) if noise == "anisotropic" else np.sqrt(offset @ offset)
            size_memory = abs(regret[k]) if noise == "anisotropic" else np.sqrt(regret @ regret)
            first, second = 0.4 * min(size, limit * 0.5), 0.25 * min(size_memory, limit * 0.5)
            both = np.sqrt(first**2 + second**2)
            # A normal of these parts has the same sum, and each is standard: xi and xi' are what they are said to be.
            xi, xi_memory = z[i, k] * first / (both or 1), z[i, k] * second / (both or 1)
            expected[i, k] = x[i, k] - 0.3 * offset[k] + first * xi - 0.2 * regret[k] + second * xi_memory
    told = strategy.tell(state, x, e)
    assert np.allclose(told.particles, expected, rtol=0, atol=1e-12)
    assert np.allclose(told.consensus, v, rtol=0, atol=1e-12)
    assert np.array_equal(told.memory.y, y)
    assert np.array_equal(told.memory.energy, energy)


def test_both_noises_have_their_variances() -> None:
    strategy = MemoryCBO(popsize=40_000, s=0.8, drift=0.1, s_memory=0.6, drift_memory=0.05, truncation=np.inf)
    state = strategy.init(bb.key(0), np.zeros(1))
    x = np.full((40_000, 1), 2.0)
    y = np.full((40_000, 1), 1.0)
    y[0] = 0.0
    memory = state.memory._replace(y=y, energy=np.where(np.arange(40_000) == 0, 0.0, 1e9))
    told = strategy.tell(state._replace(particles=x, memory=memory), x, np.full(40_000, np.inf))
    moved = told.particles[1:, 0]
    assert moved.mean() == pytest.approx(2 - 0.1 * 2 - 0.05 * 1, abs=0.03)
    assert moved.var() == pytest.approx(0.8**2 * 2**2 + 0.6**2 * 1**2, rel=0.03)


# ---- memory


def test_memory_is_the_best_of_each_particle_with_its_value() -> None:
    strategy = MemoryCBO(popsize=9)
    state = strategy.init(bb.key(0), np.zeros(D))
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(12):
        x = strategy.ask(state)
        seen.append((x, rastrigin(x)))
        state = strategy.tell(state, *seen[-1])
    values = np.stack([f for _, f in seen])
    best = values.argmin(axis=0)
    assert np.array_equal(state.memory.energy, values.min(axis=0))
    assert np.array_equal(state.memory.y, np.stack([seen[b][0][i] for i, b in enumerate(best)]))


def test_a_generation_takes_one_evaluation_of_each_particle() -> None:
    calls = 0

    def counted(x: float) -> float:
        nonlocal calls
        calls += 1
        return float(np.sum(np.square(x)))

    _, history = bb.run(MemoryCBO(popsize=8), counted, np.ones(3), key=bb.key(0), generations=5)
    assert calls == 40
    assert history.evaluations == 40


def test_the_consensus_is_of_the_bests_and_not_of_where_particles_are() -> None:
    """CBXpy weighs where particles are by the values of their personal bests."""
    state = steps(MemoryCBO(popsize=9, alpha="hard"), rastrigin, np.zeros(D), 8)
    assert np.array_equal(state.consensus, state.best.x)
    away = state.particles + 1.0
    told = MemoryCBO(popsize=9, alpha="hard").tell(state, away, rastrigin(away) + 1e3)
    assert np.array_equal(told.consensus, state.best.x)


@pytest.mark.parametrize("make", [MemoryCBO, SecondOrderCBO])
def test_batches_keep_each_particle_with_its_memory(make: Any) -> None:
    """CBXpy's memory raises an error with batches."""
    strategy = make(popsize=12, batch=4)
    state = strategy.init(bb.key(0), np.full(D, 0.3))
    first = state.particles
    told: set[bytes] = set()
    for generation in range(9):
        x = strategy.ask(state)
        assert x.shape == (4, D)
        told |= {row.tobytes() for row in x}
        state = strategy.tell(state, x, rastrigin(x))
        known = np.isfinite(state.memory.energy)
        assert known.sum() == min(12, 4 * (generation + 1))
        assert np.array_equal(rastrigin(state.memory.y)[known], state.memory.energy[known])
        assert {row.tobytes() for row in state.memory.y[known]} <= told
        if generation == 2:  # all have had their turn
            assert {row.tobytes() for row in first} == told
    # Each is still near the one best that is its own: had only the particles been dealt, it would be any one's.
    state = steps(make(popsize=200, batch=50, s=1e-9, drift=1e-9, s_memory=1e-9, drift_memory=1e-9), rastrigin,
                  np.zeros(D), 30)  # fmt: skip
    assert np.abs(state.memory.y - state.particles).max() < 1e-5


def test_batches_find_the_minimum_as_well() -> None:
    state = steps(MemoryCBO(batch=20), lambda x: np.sum((x - 0.2) ** 2, axis=-1), np.full(5, 0.4), 500)
    assert state.best.fitness < 1e-6


def test_particles_that_were_never_evaluated_do_not_count() -> None:
    """In CBXpy their infinite energy lets the search for the effective number fail."""
    strategy = MemoryCBO(popsize=12, alpha="effective", share=0.5)
    state = strategy.init(bb.key(0), np.zeros(D))
    six = strategy.tell(state, state.particles[:6], rastrigin(state.particles[:6]))
    alone = MemoryCBO(popsize=6, alpha="effective", share=0.5)
    there = alone.init(bb.key(0), np.zeros(D))
    there = there._replace(particles=state.particles[:6], memory=there.memory._replace(y=state.particles[:6]))
    same = alone.tell(there, state.particles[:6], rastrigin(state.particles[:6]))
    assert np.allclose(six.consensus, same.consensus, rtol=1e-12)


def test_failed_values_are_never_remembered() -> None:
    state = steps(MemoryCBO(), lambda x: np.where(x[:, 0] > 0.1, np.nan, np.sum(x**2, axis=-1)), np.zeros(3), 40)
    assert np.isfinite(state.memory.energy).all()
    assert (state.memory.y[:, 0] <= 0.1).all()


# ---- libraries and runs


@pytest.mark.parametrize("settings", [{}, {"batch": 4}, {"diffusion": "isotropic", "s": 0.1, "alpha": "effective"}])
@pytest.mark.parametrize("make", [MemoryCBO, SecondOrderCBO])
def test_libraries_and_runs_agree(make: Any, settings: dict[str, Any]) -> None:
    strategy = make(**{"popsize": 8, **settings})
    x0, keys = np.linspace(0.1, 0.9, 3 * D).reshape(3, D), fold_many(bb.key(1), 3)
    many = steps(strategy, rastrigin, x0, 6, keys)
    for i in range(3):
        alone = steps(strategy, rastrigin, x0[i], 6, keys[i])
        assert np.array_equal(many.particles[i], alone.particles)
        assert np.array_equal(many.memory.energy[i], alone.memory.energy)
        assert np.array_equal(many.spread[i], alone.spread)
    strict = strategy.init(keys[0], array_api_strict.asarray(x0[0]))
    for _ in range(6):
        population = strategy.ask(strict)
        strict = strategy.tell(strict, population, array_api_strict.asarray(rastrigin(np.asarray(population))))
    assert np.array_equal(np.asarray(strict.particles), many.particles[0])
    small = steps(strategy, rastrigin, x0.astype(np.float32), 3, keys)
    told = strategy.tell(small, strategy.ask(small), rastrigin(strategy.ask(small)))
    in_jax = type(small)(*(_in_jax(leaf) for leaf in small))
    traced = jax.jit(strategy.tell)(in_jax, strategy.ask(in_jax), jnp.asarray(rastrigin(strategy.ask(small))))
    for ours, theirs in ((told.particles, traced.particles), (told.consensus, traced.consensus)):
        assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(ours).max())


def _in_jax(leaf: Any) -> Any:
    return type(leaf)(*(_in_jax(a) for a in leaf)) if isinstance(leaf, tuple) else jnp.asarray(leaf)


# ---- what it is for


@pytest.mark.parametrize(("s", "s_memory", "contracts"), [(1.1, 0.5, True), (1.1, 1.3, False)])
def test_the_distance_to_where_all_bests_are_shrinks_below_the_limit_of_both_noises(
    s: float, s_memory: float, contracts: bool
) -> None:
    """If consensus and memory are one point, E log|1 - drift - drift_memory + sqrt(s^2 + s_memory^2) xi| decides,
    which is 0 at sqrt(s^2 + s_memory^2) = 1.65 for drifts of 0.14."""
    strategy = MemoryCBO(popsize=1000, s=s, drift=0.1, s_memory=s_memory, drift_memory=0.04, truncation=np.inf)
    state = strategy.init(bb.key(0), np.zeros(2))
    memory = state.memory._replace(y=np.zeros((1000, 2)), energy=np.zeros(1000))
    state = state._replace(memory=memory)
    for _ in range(150):
        state = strategy.tell(state, state.particles, np.ones(1000))
    typical = np.exp(np.mean(np.log(np.abs(state.particles) + 1e-300)))
    assert (typical < 0.1) == contracts


def test_translations() -> None:
    shift = np.array([3.0, -1.0, 0.5, 8.0])
    plain = steps(MemoryCBO(popsize=12), rastrigin, np.zeros(D), 12)
    moved = steps(MemoryCBO(popsize=12), lambda x: rastrigin(x - shift) + 7.0, shift, 12)
    assert np.allclose(moved.particles - shift, plain.particles, atol=1e-6)


def test_rastrigin_in_ten_dimensions_is_solved_by_the_default_within_50_000_evaluations() -> None:
    strategy = MemoryCBO(sigma0=np.sqrt(3))
    assert 1250 * strategy.popsize <= 50_000
    state = steps(strategy, lambda x: rastrigin(x - 1.7), np.zeros((12, 10)), 1250, fold_many(bb.key(0), 12))
    assert (np.abs(state.best.x - 1.7).max(axis=-1) < 0.25).mean() >= 0.9


def test_settings_are_checked() -> None:
    for name, value in {
        "popsize": 1, "batch": 1, "sigma0": 0, "s": 0.0, "drift": 1.5, "s_memory": -0.1, "drift_memory": 1.1,
        "diffusion": "constant", "truncation": 0.0, "alpha": "soft", "alpha0": np.nan, "growth": 0, "share": 2,
    }.items():  # fmt: skip
        for make in (MemoryCBO, SecondOrderCBO):
            with pytest.raises(bb.SettingError, match=f"^{name} must be"):
                make(**{name: value})
