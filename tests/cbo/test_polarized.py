"""Polarized consensus-based optimization: the written step, plain CBO as a limit, scales, and the minima it finds."""

from __future__ import annotations

from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.cbo import CBO, PolarizedCBO, minima
from blackbox.cbo.polarized import squared_distances
from blackbox.kernels.noise import normal

D = 3
HIMMELBLAU = np.array([(3.0, 2.0), (-2.805118, 3.131313), (-3.779310, -3.283186), (3.584428, -1.848127)])


def rastrigin(x: Any) -> Any:
    return np.sum(x**2 - 10 * np.cos(2 * np.pi * x), axis=-1) + 10 * x.shape[-1]


def himmelblau(x: Any) -> Any:
    return (x[..., 0] ** 2 + x[..., 1] - 11) ** 2 + (x[..., 0] + x[..., 1] ** 2 - 7) ** 2


def steps(strategy: Any, f: Any, x0: np.ndarray, count: int, key: Any = None) -> Any:
    state = strategy.init(bb.key(0) if key is None else key, x0)
    for _ in range(count):
        population = strategy.ask(state)
        state = strategy.tell(state, population, f(population))
    return state


def himmelblau_runs(seeds: int, scale: float = 1.0, **settings: Any) -> list[Any]:
    """States of single runs, made as one with a leading axis."""
    strategy = PolarizedCBO(sigma0=5 / np.sqrt(3), **settings)
    keys = np.stack([bb.key(seed) for seed in range(seeds)])
    states = steps(strategy, lambda x: scale * himmelblau(x), np.zeros((seeds, 2)), 200, keys)
    return [states._replace(leaders=states.leaders[i], values=states.values[i]) for i in range(seeds)]


def found(state: Any) -> int:
    points = minima(state, within=0.5).x
    return int((np.abs(points[:, None] - HIMMELBLAU).max(axis=-1) < 0.02).any(axis=0).sum())


@pytest.mark.parametrize("kernel", ["sharpening", "constant"])
@pytest.mark.parametrize("noise", ["anisotropic", "isotropic"])
def test_a_step_is_the_written_one(kernel: Any, noise: Any) -> None:
    strategy = PolarizedCBO(
        popsize=7, sigma0=0.5, kappa=0.7, kernel=kernel, diffusion=noise, s=0.4, drift=0.3, alpha0=2.0
    )
    start = strategy.init(bb.key(0), np.full(D, 0.3))
    first = rastrigin(start.particles)
    state = steps(strategy, rastrigin, np.full(D, 0.3), 3)
    assert state.unit == pytest.approx(np.median(first - first.min()), rel=1e-12)
    x, energy, alpha = state.particles, rastrigin(state.particles) / state.unit, 2.0 * 1.05**3
    c = alpha if kernel == "sharpening" else 1.0
    xi = normal(state.key, 3, (7, D), like=x)
    moved, consensus = np.empty_like(x), np.empty_like(x)
    for i in range(7):
        logs = np.array(
            [-alpha * energy[j] - c * np.sum((x[i] - x[j]) ** 2) / (2 * (0.7 * 0.5) ** 2) for j in range(7)]
        )
        weights = np.exp(logs - logs.max())
        v = sum(weights[j] * x[j] for j in range(7)) / weights.sum()
        size = np.abs(x[i] - v) if noise == "anisotropic" else np.linalg.norm(x[i] - v)
        moved[i], consensus[i] = x[i] - 0.3 * (x[i] - v) + 0.4 * size * xi[i], v
    told = strategy.tell(state, x, rastrigin(x))
    assert np.allclose(told.particles, moved, rtol=0, atol=1e-12)
    assert np.allclose(told.consensus, consensus, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", ["sharpening", "constant"])
@pytest.mark.parametrize("alpha", ["geometric", "hard"])
def test_particles_that_see_all_others_are_plain_cbo(kernel: Any, alpha: Any) -> None:
    shared: dict[str, Any] = {"popsize": 12, "diffusion": "anisotropic", "s": 0.7, "drift": 0.2, "alpha": alpha}
    polarized = steps(PolarizedCBO(kappa=np.inf, kernel=kernel, **shared), rastrigin, np.full(D, 0.4), 10)
    plain = steps(CBO(truncation=np.inf, **shared), lambda x: rastrigin(x) / polarized.unit, np.full(D, 0.4), 10)
    assert np.allclose(polarized.particles, plain.particles, rtol=0, atol=1e-12)
    assert np.allclose(polarized.consensus, plain.consensus, rtol=0, atol=1e-12)


def test_distances_are_those_of_differences_far_from_the_origin() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 3, 6, 5)) + 1e6
    expected = ((a[..., :, None, :] - b[..., None, :, :]) ** 2).sum(-1)
    assert np.allclose(squared_distances(a, b), expected, rtol=1e-9, atol=1e-9)


def test_all_four_minima_are_found_whatever_the_scale_of_the_objective() -> None:
    for scale in (1e-6, 1.0, 1e6):
        states = himmelblau_runs(8, scale)
        assert [found(state) for state in states] == [4] * 8
        best = minima(states[0], within=0.5)
        assert np.array_equal(best.value, scale * himmelblau(best.x))  # the points themselves have been evaluated
        assert (np.diff(best.value) >= 0).all() and best.particles.sum() == 100
    assert max(found(state) for state in himmelblau_runs(8, kappa=np.inf)) == 1


def test_close_points_are_one_minimum_and_failures_none() -> None:
    state = PolarizedCBO(popsize=4).init(bb.key(0), np.zeros(2))
    points, values = np.array([(0.0, 0), (0.05, 0), (1, 0), (2, 0)]), np.array([3.0, 2.0, 1.0, np.inf])
    x, value, particles = minima(state._replace(leaders=points, values=values), within=0.1)
    assert x.tolist() == [[1, 0], [0.05, 0]] and value.tolist() == [1, 2] and particles.tolist() == [1, 2]
    assert minima(state, within=0.1).x.shape == (0, 2)  # nothing has been told
    for wrong in (0.0, np.nan):
        with pytest.raises(bb.SettingError, match=r"^within must be"):
            minima(state, within=wrong)
    with pytest.raises(bb.SettingError, match=r"^state must be of one run"):
        minima(state._replace(leaders=points[None]), within=0.1)


def test_failed_particles_have_no_weight_and_the_others_their_own_minima() -> None:
    """CBXpy 1.0.4: one NaN makes every consensus NaN for ever."""

    def fails(x: np.ndarray) -> np.ndarray:
        values = himmelblau(x)
        values[..., ::7] = np.nan
        return values

    state = steps(PolarizedCBO(sigma0=5 / np.sqrt(3)), fails, np.zeros(2), 200)
    assert np.isfinite(state.consensus).all() and np.isfinite(state.values).all()
    assert found(state) == 4


def test_libraries_agree_on_a_step_and_many_runs_are_single_ones() -> None:
    strategy = PolarizedCBO(popsize=9)
    state = strategy.init(bb.key(3), np.full(D, 0.3))
    told = strategy.tell(state, state.particles, rastrigin(state.particles))
    strict = strategy.init(bb.key(3), array_api_strict.asarray(np.full(D, 0.3)))
    fitness = array_api_strict.asarray(rastrigin(state.particles))
    assert np.array_equal(np.asarray(strategy.tell(strict, strict.particles, fitness).particles), told.particles)
    traced = strategy.init(bb.key(3), jnp.full(D, 0.3))
    single = jax.jit(strategy.tell)(traced, traced.particles, jnp.asarray(rastrigin(state.particles)))
    assert np.allclose(single.particles, told.particles, rtol=1e-5, atol=1e-5)

    keys, x0 = np.stack([bb.key(5), bb.key(6)]), np.array([np.full(D, 0.1), np.full(D, 0.7)])
    both = steps(strategy, rastrigin, x0, 20, keys)
    for i in range(2):
        alone = steps(strategy, rastrigin, x0[i], 20, keys[i])
        for name in ("particles", "consensus", "leaders", "values", "spread", "unit"):
            assert np.array_equal(getattr(both, name)[i], getattr(alone, name)), name


def test_equal_seeds_give_equal_particles() -> None:
    first, second, other = (PolarizedCBO().init(bb.key(seed), np.zeros(D)).particles for seed in (1, 1, 2))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_settings_are_checked() -> None:
    for name, value in (
        ("popsize", 1), ("popsize", None), ("sigma0", 0.0), ("kappa", -1.0), ("kappa", np.nan), ("kernel", "flat"),
        ("diffusion", "alternating"), ("s", 0.0), ("drift", 1.5), ("alpha", "soft"), ("share", 0.0),
    ):  # fmt: skip
        with pytest.raises(bb.SettingError, match=f"^{name} must be"):
            PolarizedCBO(**{name: value})  # type: ignore[arg-type]
