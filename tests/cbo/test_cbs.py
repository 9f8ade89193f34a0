"""Consensus-based sampling: the written step, roots of covariances, affine invariance, exact samples of a normal."""

from __future__ import annotations

from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.cbo import CBS
from blackbox.cbo.cbs import root_of_covariance
from blackbox.kernels.noise import normal

AXES = 10.0 ** np.linspace(-2, 0, 4)
TURN = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
A = TURN @ np.diag(AXES) @ TURN.T  # symmetric, condition 100
MEAN = np.array([1.0, -2.0, 0.5, 3.0])


def sphere(x: Any) -> Any:
    return (x * x).sum(-1)


def steps(strategy: Any, f: Any, state: Any, count: int) -> Any:
    for _ in range(count):
        population = strategy.ask(state)
        state = strategy.tell(state, population, f(population))
    return state


@pytest.mark.parametrize("popsize", [3, 9])  # fewer and more than the coordinates
@pytest.mark.parametrize("mode", ["sample", "optimize"])
def test_a_step_is_the_written_one(popsize: int, mode: Any) -> None:
    strategy = CBS(popsize=popsize, mode=mode, dt=0.4, alpha=0.8)
    state = steps(strategy, sphere, strategy.init(bb.key(0), np.ones(4)), 2)
    x, energy = state.particles, sphere(state.particles)
    weights = [np.exp(-0.8 * e) for e in energy]
    v = sum(w * row for w, row in zip(weights, x, strict=True)) / sum(weights)
    beta, inverse_lambda = np.exp(-0.4), 1.8 if mode == "sample" else 1.0
    if popsize < 4:
        xi = normal(state.key, 2, (popsize, popsize), like=x)
        noise = [sum(np.sqrt(weights[j] / sum(weights)) * (x[j] - v) * xi[i, j] for j in range(3)) for i in range(3)]
    else:
        covariance = sum(w * np.outer(row - v, row - v) for w, row in zip(weights, x, strict=True)) / sum(weights)
        xi = normal(state.key, 2, (popsize, 4), like=x)
        noise = [np.linalg.cholesky(covariance) @ row for row in xi]
    expected = [
        v + beta * (row - v) + np.sqrt((1 - beta**2) * inverse_lambda) * z for row, z in zip(x, noise, strict=True)
    ]
    told = strategy.tell(state, x, energy)
    assert np.allclose(told.particles, expected, rtol=0, atol=1e-12)
    assert np.allclose(told.consensus, v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (5, 5), (40, 5)])
def test_the_root_is_one_of_the_covariance(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    offset, weights = rng.normal(size=shape) * 10.0 ** -np.arange(5), rng.dirichlet(np.ones(shape[0]))
    root = root_of_covariance(weights, offset)
    assert root.shape == (min(shape), 5)
    assert np.allclose(root.T @ root, np.einsum("j,ja,jb->ab", weights, offset, offset), rtol=1e-12, atol=1e-18)
    assert np.isfinite(root_of_covariance(weights, 0 * offset)).all()  # where all particles agree


@pytest.mark.parametrize("popsize", [3, 8])
@pytest.mark.parametrize("settings", [{"mode": "optimize", "dt": 0.5}, {"mode": "sample", "dt": 0.5}, {}])
def test_the_swarm_follows_affine_maps_of_space(popsize: int, settings: dict[str, Any]) -> None:
    """With few particles for any map; with many, of the root that is taken, for triangular ones (next: in law)."""
    strategy, shift = CBS(popsize=popsize, **settings), np.array([5.0, 1.0, -2.0, 0.0])
    matrix = A if popsize < 4 else np.tril(A)
    plain = strategy.init(bb.key(0), np.ones(4))
    mapped = plain._replace(particles=plain.particles @ matrix.T + shift)
    plain = steps(strategy, lambda x: sphere(x - 0.2), plain, 10)
    mapped = steps(strategy, lambda x: sphere(np.linalg.solve(matrix, (x - shift).T).T - 0.2), mapped, 10)
    assert np.allclose(mapped.particles, plain.particles @ matrix.T + shift, rtol=0, atol=1e-9)


def test_optimization_takes_as_long_on_an_ellipsoid_as_on_the_sphere() -> None:
    """Condition 1e8, rotated, from a swarm that is stretched likewise."""
    stretch = TURN @ np.diag(10.0 ** np.linspace(-4, 0, 4)) @ TURN.T
    needed = {"sphere": [], "ellipsoid": []}
    for name, matrix in (("sphere", np.eye(4)), ("ellipsoid", stretch)):
        inverse = np.linalg.inv(matrix)
        for seed in range(9):
            strategy = CBS()
            state = strategy.init(bb.key(seed), np.zeros(4))
            state = state._replace(particles=(state.particles + 0.2) @ matrix.T)
            while state.best.fitness > 1e-10:
                state = steps(strategy, lambda x, m=inverse: sphere(x @ m.T), state, 1)
                assert state.generation < 200
            needed[name].append(int(state.generation))
    assert np.median(needed["ellipsoid"]) == pytest.approx(np.median(needed["sphere"]), rel=0.1)
    assert np.median(needed["sphere"]) < 60


@pytest.mark.parametrize(("dt", "alpha"), [(np.inf, 1.0), (0.5, 1.0), (1.0, 0.3)])
def test_samples_of_a_normal_have_its_mean_and_covariance(dt: float, alpha: float) -> None:
    """N(MEAN, A A) with f = |A^-1 (x - MEAN)|^2 / 2: in its own coordinates all moments are known."""
    popsize, inverse = 5000, np.linalg.inv(A)
    strategy = CBS(popsize=popsize, mode="sample", dt=dt, alpha=alpha, sigma0=2.0)

    def f(x: np.ndarray) -> np.ndarray:
        return sphere((x - MEAN) @ inverse) / 2

    state = steps(strategy, f, strategy.init(bb.key(0), np.zeros(4)), 120)
    means, covariances = [], []
    for _ in range(10):
        state = steps(strategy, f, state, 4)
        z = (state.particles - MEAN) @ inverse
        means.append(z.mean(0))
        covariances.append(np.cov(z.T))
    error = 1 / np.sqrt(popsize)  # of one sample; the swarm's own moments wander by a few times that
    assert np.abs(np.mean(means, axis=0)).max() < 4 * error
    assert np.abs(np.mean(covariances, axis=0) - np.eye(4)).max() < 6 * error
    assert np.allclose(strategy.recommend(state), MEAN, atol=10 * error)


def test_a_mode_that_optimizes_contracts_and_one_that_samples_does_not() -> None:
    for mode, contracts in (("optimize", True), ("sample", False)):
        strategy = CBS(mode=mode)  # type: ignore[arg-type]
        state = steps(strategy, lambda x: sphere(x) / 2, strategy.init(bb.key(0), np.full(3, 0.2)), 150)
        assert (state.spread < 1e-12) == contracts
        assert bool(strategy.stop(state)["consensus"]) == contracts


def test_minimize_returns_the_minimum() -> None:
    """CBXpy 1.0.4: CBS.optimize() returns None."""
    result = bb.minimize(lambda x: float(sphere((x - 0.3) @ A)), bb.Box(-2, 2, 4), method="cbs", budget=8000, seed=0)
    assert result.value < 1e-10


def test_a_failed_value_does_not_poison_the_swarm() -> None:
    """CBXpy 1.0.4: one NaN poisons the consensus for ever."""
    strategy = CBS()
    state = steps(
        strategy,
        lambda x: np.where(np.arange(100) % 5 == 3, np.nan, sphere(x)),
        strategy.init(bb.key(0), np.full(3, 0.2)),
        60,
    )
    assert np.isfinite(state.particles).all()
    assert state.best.fitness < 1e-6


@pytest.mark.parametrize("popsize", [3, 9])
def test_libraries_agree_on_a_step_and_many_runs_are_single_ones(popsize: int) -> None:
    strategy = CBS(popsize=popsize)
    state = strategy.init(bb.key(3), np.full(4, 0.3))
    fitness = sphere(state.particles)
    told = strategy.tell(state, state.particles, fitness)
    strict = strategy.init(bb.key(3), array_api_strict.asarray(np.full(4, 0.3)))
    same = strategy.tell(strict, strict.particles, array_api_strict.asarray(fitness))
    assert np.array_equal(np.asarray(same.particles), told.particles)
    traced = strategy.init(bb.key(3), jnp.full(4, 0.3))
    single = jax.jit(strategy.tell)(traced, traced.particles, jnp.asarray(fitness))
    assert np.allclose(single.particles, told.particles, rtol=1e-5, atol=1e-5)

    keys, x0 = np.stack([bb.key(5), bb.key(6)]), np.array([np.full(4, 0.1), np.full(4, 0.7)])
    both = steps(strategy, sphere, strategy.init(keys, x0), 20)
    for i in range(2):
        alone = steps(strategy, sphere, strategy.init(keys[i], x0[i]), 20)
        for name in ("particles", "consensus", "spread"):
            assert np.array_equal(getattr(both, name)[i], getattr(alone, name)), name


def test_settings_are_checked() -> None:
    for name, value in (
        ("popsize", 1), ("sigma0", 0.0), ("mode", "both"), ("dt", 0.0), ("dt", np.nan), ("alpha", -1.0), ("share", 2.0),
    ):  # fmt: skip
        with pytest.raises(bb.SettingError, match=f"^{name} must be"):
            CBS(**{name: value})  # type: ignore[arg-type]
