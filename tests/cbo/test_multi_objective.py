"""Multi-objective consensus-based optimization: the written update, weights that spread a front, and fronts found."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.cbo.multi_objective import MultiObjectiveCBO, even_weights, onto_simplex
from blackbox.kernels.noise import normal

D = 3


def two(x: Any) -> np.ndarray:
    return np.stack([np.sum((x - 0.2) ** 2, axis=-1), 5 + 10 * np.sum((x + 0.3) ** 2, axis=-1)], axis=-1)


def zdt1(x: Any) -> tuple[float, float]:
    g = 1 + 9 * float(np.mean(x[1:]))
    return float(x[0]), g * (1 - float(np.sqrt(x[0] / g)))


def steps(strategy: MultiObjectiveCBO, f: Any, x0: np.ndarray, count: int, seed: int = 0) -> Any:
    state = strategy.init(bb.key(seed), x0)
    for _ in range(count):
        population = strategy.ask(state)
        state = strategy.tell(state, population, f(population))
    return state


def nearest_on_simplex(w: np.ndarray) -> np.ndarray:
    """By bisection of what is taken off."""
    low, high = w.min() - 1, w.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(w - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(w - low, 0)


def test_a_step_is_the_written_one() -> None:
    n, drift, s, alpha, tau, C = 6, 0.3, 0.4, 3.0, 0.5, 2.0
    strategy = MultiObjectiveCBO(popsize=n, objectives=2, sigma0=0.5, drift=drift, s=s, alpha=alpha, tau=tau, C=C)
    state = steps(strategy, two, np.full(D, 0.1), 3)
    x, f, w = state.particles, two(state.particles), state.weights
    ideal = np.minimum(state.ideal, f.min(axis=0))
    front = [i for i in range(n) if not any((f[j] <= f[i]).all() and (f[j] < f[i]).any() for j in range(n))]
    g = (f - ideal) / (f[front].max(axis=0) - ideal)
    xi = normal(state.key, 3, (n, D), like=x)
    moved, weights = np.empty_like(x), np.empty_like(w)
    for i in range(n):
        masses = [np.exp(-alpha * max(w[i, k] * g[j, k] for k in range(2))) for j in range(n)]
        v = sum(m * x[j] for j, m in enumerate(masses)) / sum(masses)
        moved[i] = x[i] - drift * (x[i] - v) + s * np.abs(x[i] - v) * xi[i]
        force = np.zeros(2)
        for j in range(n):
            if j != i:
                r = np.linalg.norm(g[i] - g[j])
                force += C / 2 * (g[i] - g[j]) / r * np.exp(-C * r) / (n - 1)
        weights[i] = nearest_on_simplex(w[i] - tau * force)
    told = strategy.tell(state, x, f)
    assert np.allclose(told.particles, moved, rtol=0, atol=1e-12)
    assert np.allclose(told.weights, weights, rtol=0, atol=1e-12)
    assert not np.allclose(told.weights, w, rtol=0, atol=1e-3)
    assert np.array_equal(told.ideal, ideal)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_weights_start_evenly_and_stay_on_the_simplex(k: int) -> None:
    weights = even_weights(400, k)
    assert weights.shape == (400, k)
    assert np.allclose(weights.sum(axis=1), 1)
    assert (weights >= 0).all()
    assert np.allclose(weights.mean(axis=0), 1 / k, atol=0.02)
    moved = np.random.default_rng(k).normal(size=(50, k))
    expected = np.array([nearest_on_simplex(w) for w in moved])
    assert np.allclose(onto_simplex(moved), expected, atol=1e-12)


def test_libraries_agree() -> None:
    import array_api_strict

    strategy = MultiObjectiveCBO(popsize=8, objectives=2)
    state = steps(strategy, two, np.full(D, 0.1), 2)
    told = strategy.tell(state, state.particles, two(state.particles))
    strict = type(state)(*(array_api_strict.asarray(np.asarray(leaf)) for leaf in state))
    fitness = array_api_strict.asarray(two(state.particles))
    assert all(
        np.array_equal(np.asarray(a), b)
        for a, b in zip(strategy.tell(strict, strict.particles, fitness), told, strict=True)
    )
    single = type(state)(*(jnp.asarray(leaf) for leaf in state))
    traced = strategy.tell(single, single.particles, jnp.asarray(two(state.particles)))
    assert np.allclose(traced.particles, told.particles, rtol=1e-5, atol=1e-5)


def test_a_run_among_others_is_the_run_alone() -> None:
    strategy = MultiObjectiveCBO(popsize=9, objectives=2)
    x0 = np.array([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [-1.0, 0.0, 1.0]])
    keys = np.stack([bb.key(seed) for seed in range(3)])
    many = strategy.init(keys, x0)
    alone = [strategy.init(keys[i], x0[i]) for i in range(3)]
    for _ in range(6):
        population = strategy.ask(many)
        many = strategy.tell(many, population, two(population))
        alone = [strategy.tell(s, strategy.ask(s), two(strategy.ask(s))) for s in alone]
    for i in range(3):
        assert all(np.array_equal(a[i], b) for a, b in zip(many, alone[i], strict=True))
    assert np.array_equal(strategy.recommend(many), [strategy.recommend(s) for s in alone])


def test_neither_translations_nor_units_of_the_objectives_matter() -> None:
    strategy, shift = MultiObjectiveCBO(popsize=12, objectives=2), np.array([3.0, -1.0, 8.0])
    plain = steps(strategy, two, np.zeros(D), 8)
    moved = steps(strategy, lambda x: two(x - shift) * [16.0, 0.25] + [7.0, -9.0], shift, 8)
    assert np.allclose(moved.particles - shift, plain.particles, atol=1e-6)


def test_repelling_particles_spread_over_the_front() -> None:
    """On a front of Lame's that hugs the axes even weights lead to its middle."""

    def hugging(x: np.ndarray) -> np.ndarray:
        angle = np.pi / 2 * np.clip(np.abs(x[..., 0]), 0, 1)
        outside = np.abs(x[..., 0]) - np.clip(np.abs(x[..., 0]), 0, 1)
        far = np.sqrt(np.sum(x[..., 1:] ** 2, axis=-1))
        values = np.stack([np.cos(angle) ** 8, np.sin(angle) ** 8], axis=-1)
        return values * (1 + far[..., None]) + outside[..., None]

    front = hugging(np.stack([np.linspace(0, 1, 20_001), np.zeros(20_001)], axis=-1))
    length = np.append(0, np.cumsum(np.linalg.norm(np.diff(front, axis=0), axis=1)))
    at = np.linspace(0, length[-1], 100)
    even = np.stack([np.interp(at, length, front[:, k]) for k in (0, 1)], axis=-1)

    def distance(tau: float) -> float:
        """Of points spread evenly over the front from the nearest image of a particle, in the mean."""
        strategy = MultiObjectiveCBO(popsize=50, objectives=2, tau=tau)
        found = []
        for seed in range(3):
            images = steps(strategy, hugging, np.full(5, 0.5), 150, seed).fitness
            found.append(np.linalg.norm(even[:, None] - images, axis=-1).min(axis=1).mean())
        return float(np.median(found))

    assert distance(0.01) < 0.05
    assert distance(0.0) > 0.1


def test_failed_particles_have_no_part_in_any_consensus() -> None:
    strategy = MultiObjectiveCBO(popsize=10, objectives=2)

    def failing(x: np.ndarray) -> np.ndarray:
        f = two(x)
        f[2, 0], f[3, 1], f[4] = np.nan, np.inf, [-5.0, np.nan]
        return f

    state = steps(strategy, failing, np.full(D, 0.1), 30)
    assert np.isfinite(state.particles).all()
    assert np.isfinite(state.weights).all()
    assert (state.ideal >= [0.0, 5.0]).all()


def test_a_front_is_found_by_name() -> None:
    settings: Any = {"objectives": 2, "method": "multi-objective-cbo", "budget": 6000, "seed": 1}
    result = bb.minimize(zdt1, bb.Box(0, 1, 6), **settings)
    volume = bb.hypervolume([c.values for c in result.pareto], [1.1, 1.1])
    assert 0.84 < volume < 0.8767  # the whole front's is 0.8767
    assert len(result.pareto) > 50
    turned = bb.minimize(lambda x: [-v for v in zdt1(x)], bb.Box(0, 1, 6), **settings, direction="maximize")
    assert [c.values for c in turned.pareto] == [tuple(-v for v in c.values) for c in result.pareto]


def test_settings_are_checked() -> None:
    for setting in ({"popsize": 1}, {"objectives": 0}, {"s": 0.0}, {"drift": 1.5}, {"tau": -1.0}, {"C": 0.0}):
        with pytest.raises(bb.SettingError, match=f"^{next(iter(setting))} must be"):
            MultiObjectiveCBO(**setting)  # type: ignore[arg-type]
