"""Consensus-based optimization with adaptive momentum."""

from __future__ import annotations

from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.cbo import AdamCBO
from blackbox.kernels.noise import fold_many, normal

D = 4


def sphere(x: Any) -> Any:
    return np.sum(x**2, axis=-1)


def steps(strategy: Any, f: Any, x0: Any, count: int, key: Any = None) -> Any:
    state = strategy.init(bb.key(0) if key is None else key, x0)
    for _ in range(count):
        population = strategy.ask(state)
        state = strategy.tell(state, population, f(population))
    return state


@pytest.mark.parametrize("noise", ["constant", "anisotropic", "isotropic"])
def test_steps_are_the_written_ones(noise: Any) -> None:
    """Four of them from the start, in loops; without batches particles keep their places."""
    strategy = AdamCBO(
        popsize=6, sigma0=0.5, drift=0.3, s=0.2, decay=0.9, diffusion=noise, beta1=0.8, beta2=0.95, eps=1e-3,
        alpha0=2.0, growth=1.1,
    )  # fmt: skip
    state = strategy.init(bb.key(0), np.full(D, 0.3))
    x = state.particles.copy()
    first, second = np.zeros_like(x), np.zeros_like(x)
    for t in range(1, 5):
        weights = np.exp(-2.0 * 1.1 ** (t - 1) * (sphere(x) - sphere(x).min()))
        v = (weights[:, None] * x).sum(axis=0) / weights.sum()
        z = normal(state.key, t - 1, (6, D), like=x)
        moved = np.empty_like(x)
        for i in range(6):
            length = np.linalg.norm(x[i] - v)
            for k in range(D):
                offset = x[i, k] - v[k]
                first[i, k] = 0.8 * first[i, k] + 0.2 * offset
                second[i, k] = 0.95 * second[i, k] + 0.05 * offset**2
                m, u = first[i, k] / (1 - 0.8**t), second[i, k] / (1 - 0.95**t)
                size = {"constant": 0.5, "anisotropic": abs(offset), "isotropic": length}[noise]
                step = 0.3 * 0.5 * m / (np.sqrt(u) + 1e-3 * 0.5)
                moved[i, k] = x[i, k] - step + 0.2 * 0.9 ** (t - 1) * size * z[i, k]
        state = strategy.tell(state, state.particles, sphere(state.particles))
        x = moved
        assert np.allclose(state.particles, x, rtol=0, atol=1e-12)


def test_each_batch_has_its_own_consensus_and_particles_keep_their_moments() -> None:
    strategy = AdamCBO(popsize=6, batch=3, s=1e-300, drift=1e-300, beta1=0.0, beta2=0.0, alpha="hard")
    state = strategy.init(bb.key(0), np.zeros(2))
    x = state.particles
    told = strategy.tell(state, x, np.array([3.0, 1.0, 2.0, 7.0, 8.0, 6.0]))
    best = np.repeat(x[[1, 5]], 3, axis=0)
    order = [int(np.flatnonzero((x == row).all(axis=1))[0]) for row in told.particles]
    assert sorted(order) == list(range(6))
    assert order != list(range(6))
    assert np.allclose(told.first.mean(), (x - best)[order], rtol=1e-12)
    assert np.allclose(told.second.mean(), ((x - best) ** 2)[order], rtol=1e-12)
    assert told.first.weight == 1


def test_a_step_is_a_length_whatever_the_distance() -> None:
    """The first one is ``drift`` sigma0 in each coordinate: there is no dt, and no scale of offsets."""
    for far in (1e-3, 1.0, 1e3):
        strategy = AdamCBO(popsize=2, sigma0=0.5, drift=0.1, s=1e-300, alpha="hard", eps=1e-12)
        state = strategy.init(bb.key(0), np.zeros(2))
        told = strategy.tell(state, np.array([[0.0, 0.0], [far, -far]]), np.array([0.0, 1.0]))
        assert np.allclose(told.particles, [[0.0, 0.0], [far - 0.05, -far + 0.05]], rtol=1e-9)


@pytest.mark.parametrize("beta1", [0.5, 0.9])
def test_offsets_shrink_down_to_the_limit_of_stability(beta1: float) -> None:
    """To some drift / (2 (1 + beta1) / (1 - beta1)), from where the step overshoots."""
    strategy = AdamCBO(popsize=2, sigma0=1.0, drift=0.1, s=1e-300, beta1=beta1, alpha="hard")
    state = strategy.init(bb.key(0), np.zeros(1))
    tail = []
    for generation in range(2500):
        particles = state.particles.copy()
        particles[0] = 0.0
        if generation == 0:
            particles[1] = 2.0
        state = strategy.tell(state, particles, np.array([0.0, 1.0]))
        tail.append(float(state.particles[1, 0]))
    floor = 0.1 / (2 * (1 + beta1) / (1 - beta1))
    assert 0.2 * floor < np.sqrt(np.mean(np.square(tail[-500:]))) < 5 * floor


def test_late_particles_have_no_weight_and_drift_as_well() -> None:
    strategy = AdamCBO(popsize=10, alpha="hard", beta1=0.0)
    state = strategy.init(bb.key(0), np.zeros(D))
    told = strategy.tell(state, state.particles[:6], np.arange(6.0))
    assert np.array_equal(told.first.mean(), state.particles - state.particles[0])
    assert (told.particles[1:] != state.particles[1:]).all()


def test_one_failed_value_does_not_poison_its_batch() -> None:
    state = steps(AdamCBO(popsize=20), lambda x: np.where(np.arange(20) == 3, np.nan, sphere(x)), np.ones(3), 200)
    assert np.isfinite(state.particles).all()
    assert state.best.fitness < 1e-3


@pytest.mark.parametrize("settings", [{}, {"batch": 20, "alpha": "effective"}, {"diffusion": "anisotropic"}])
def test_libraries_and_runs_agree(settings: dict[str, Any]) -> None:
    strategy = AdamCBO(**{"popsize": 20, **settings})
    x0, keys = np.linspace(0.1, 0.9, 3 * D).reshape(3, D), fold_many(bb.key(1), 3)
    many = steps(strategy, sphere, x0, 6, keys)
    for i in range(3):
        alone = steps(strategy, sphere, x0[i], 6, keys[i])
        assert np.array_equal(many.particles[i], alone.particles)
        assert np.array_equal(many.first.total[i], alone.first.total)
    strict = strategy.init(keys[0], array_api_strict.asarray(x0[0]))
    for _ in range(6):
        population = strategy.ask(strict)
        strict = strategy.tell(strict, population, array_api_strict.asarray(sphere(np.asarray(population))))
    assert np.array_equal(np.asarray(strict.particles), many.particles[0])
    small = steps(strategy, sphere, x0.astype(np.float32), 3, keys)
    told = strategy.tell(small, strategy.ask(small), sphere(strategy.ask(small)))
    in_jax = type(small)(*(_in_jax(leaf) for leaf in small))
    traced = jax.jit(strategy.tell)(in_jax, strategy.ask(in_jax), jnp.asarray(sphere(strategy.ask(small))))
    for ours, theirs in ((told.particles, traced.particles), (told.second.total, traced.second.total)):
        assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(ours).max())


def _in_jax(leaf: Any) -> Any:
    return type(leaf)(*(_in_jax(a) for a in leaf)) if isinstance(leaf, tuple) else jnp.asarray(leaf)


def test_translations() -> None:
    shift = np.array([3.0, -1.0, 0.5, 8.0])
    plain = steps(AdamCBO(popsize=20), sphere, np.zeros(D), 12)
    moved = steps(AdamCBO(popsize=20), lambda x: sphere(x - shift) + 7.0, shift, 12)
    assert np.allclose(moved.particles - shift, plain.particles, atol=1e-6)


def test_rastrigin_is_solved() -> None:
    def shifted(x: Any) -> Any:
        z = x - 1.7
        return np.sum(z**2 - 10 * np.cos(2 * np.pi * z), axis=-1) + 50

    state = steps(AdamCBO(sigma0=np.sqrt(3)), shifted, np.zeros((8, 5)), 250, fold_many(bb.key(0), 8))
    assert (np.abs(state.best.x - 1.7).max(axis=-1) < 0.25).mean() >= 0.75


def test_settings_are_checked() -> None:
    for name, value in {
        "popsize": 1, "batch": 1, "sigma0": 0, "s": 0.0, "drift": -0.1, "decay": 1.1, "beta1": 1.0, "beta2": -0.1,
        "eps": 0, "diffusion": "none", "alpha": "soft", "alpha0": np.nan, "growth": 0, "alpha_max": -1, "share": 2,
    }.items():  # fmt: skip
        with pytest.raises(bb.SettingError, match=f"^{name} must be"):
            AdamCBO(**{name: value})
