"""Dense zeroth-order strategies: estimates against their theory, updates against loops in NumPy, gains, failures."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.zo.coordinate_descent import CoordinateDescent, partial_derivatives
from blackbox.zo.mirrored import mirrored_gradient
from blackbox.zo.random_descent import DISTRIBUTIONS, RandomDescent
from blackbox.zo.spsa import MEASURED, MOST, SPSA

METHODS = ["spsa", "cge", "rge"]


def bowl(x: np.ndarray) -> np.ndarray:
    """Neither quadratic nor separable."""
    return np.sum((x - 0.3) ** 2 * np.arange(1, x.shape[1] + 1), axis=1) + np.sin(3 * x.sum(axis=1))


def estimates(strategy: Any, slope: np.ndarray, count: int, radius: float) -> np.ndarray:
    """Gradients of a linear function from the populations of some generations."""
    state, found = strategy.init(bb.key(0), np.zeros(len(slope))), []
    for generation in range(count):
        population = strategy.ask(state._replace(generation=np.int64(generation)))
        found.append(mirrored_gradient(population, population @ slope, state.mean, radius)[0])
    return np.array(found)


@pytest.mark.parametrize(
    ("distribution", "error"), [("normal", 9 / 4), ("rademacher", 7 / 4), ("sphere", 7 / 4), ("orthogonal", 4 / 4)]
)
def test_estimates_of_a_linear_function_have_the_mean_and_the_error_of_theory(distribution: Any, error: float) -> None:
    slope = np.array([1.0, -2.0, 0.5, 0.0, 3.0, 1.0, -1.0, 0.2])
    strategy = RandomDescent(queries=4, distribution=distribution, mu=0.5)
    found = estimates(strategy, slope, 3000, 0.5)
    deviation = np.std(found, axis=0) / len(found) ** 0.5
    assert np.all(np.abs(np.mean(found, axis=0) - slope) < 4 * deviation)
    square = np.mean(np.sum((found - slope) ** 2, axis=1)) / (slope @ slope)
    assert_allclose(square, error, rtol=0.08)


@pytest.mark.parametrize("queries", [3, 5, 12])
def test_orthogonal_directions_are_orthogonal_and_enough_of_them_exact(queries: int) -> None:
    strategy = RandomDescent(queries=queries, mu=0.5)
    state = strategy.init(bb.key(1), np.full(5, 0.2))
    u = (strategy.ask(state)[::2] - state.mean) / 0.5
    for start in range(0, queries, 5):
        block = u[start : start + 5]
        assert_allclose(block @ block.T, 5 * np.eye(len(block)), atol=1e-12)
    if queries == 5:
        slope = np.arange(5.0)
        population = strategy.ask(state)
        assert_allclose(mirrored_gradient(population, population @ slope, state.mean, 0.5)[0], slope, atol=1e-12)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("first", [1, 6, 9, 14])
def test_a_member_is_the_same_in_any_page(distribution: Any, first: int) -> None:
    strategy = RandomDescent(queries=3, distribution=distribution)
    state = strategy.init(bb.key(2), np.zeros(4))
    whole = np.concatenate([strategy.ask(state, first=6 * page) for page in range(4)])
    assert_allclose(strategy.ask(state, first=first), whole[first : first + 6], atol=1e-15)


@pytest.mark.parametrize("strategy", [RandomDescent(queries=3), CoordinateDescent()], ids=["rge", "cge"])
def test_updates_are_those_of_a_loop(strategy: Any) -> None:
    d = 5
    x, m, v, v_max = np.full(d, 0.8), np.zeros(d), np.zeros(d), np.zeros(d)
    state = strategy.init(bb.key(3), x)
    for _ in range(12):
        population = strategy.ask(state)
        g = np.zeros(d)
        for one, other in zip(population[::2], population[1::2], strict=True):
            u = (one - other) / (2 * 0.01)
            slope = (bowl(one[None])[0] - bowl(other[None])[0]) / (2 * 0.01)
            g += slope * u / (1 if isinstance(strategy, CoordinateDescent) else 3)
        m = 0.9 * m + 0.1 * g
        v = 0.3 * v + 0.7 * g**2
        v_max = np.maximum(v_max, v)
        x = x - 0.02 * m / np.sqrt(v_max)
        state = strategy.tell(state, population, bowl(population))
        assert_allclose(strategy.recommend(state), x, rtol=1e-9)


def test_steps_are_those_of_spsa() -> None:
    a, c, A, alpha, gamma = 0.05, 0.2, 7.0, 0.602, 0.101
    strategy = SPSA(pairs=2, a=a, c=c, A=A)
    x = np.full(4, 0.8)
    state = strategy.init(bb.key(4), x)
    for k in range(20):
        population = strategy.ask(state)
        radius = c / (k + 1) ** gamma
        assert_allclose(np.abs(population - x), radius, rtol=1e-9)
        differences = [bowl(population[i : i + 1])[0] - bowl(population[i + 1 : i + 2])[0] for i in (0, 2)]
        # As the paper writes it, with the reciprocals of the entries.
        g = np.mean([y / (population[i] - population[i + 1]) for i, y in zip((0, 2), differences, strict=True)], axis=0)
        x = x - a / (k + 1 + A) ** alpha * g
        state = strategy.tell(state, population, bowl(population))
        assert_allclose(state.mean, x, rtol=1e-9)


def test_the_gain_of_spsa_follows_from_the_first_estimates() -> None:
    strategy = SPSA(step=0.01, evaluations=2000)  # 1,000 generations: A = 100
    state = strategy.init(bb.key(5), np.full(30, 0.8))
    magnitudes = []
    for k in range(MEASURED + 5):
        population = strategy.ask(state)
        g = mirrored_gradient(population, bowl(population), state.mean, 0.03 / (k + 1) ** 0.101)[0]
        magnitudes.append(np.mean(np.abs(g)))
        told = strategy.tell(state, population, bowl(population))
        a = 0.01 * 101**0.602 / np.mean(magnitudes[:MEASURED])
        limit = MOST * 0.01 * (101 / (k + 101)) ** 0.602
        assert_allclose(state.mean - told.mean, np.clip(a / (k + 101) ** 0.602 * g, -limit, limit), rtol=1e-9)
        state = told
    assert state.measured == MEASURED
    assert_allclose(state.magnitude, np.mean(magnitudes[:MEASURED]), rtol=1e-12)


def test_a_tenth_of_the_generations_is_the_stability_constant() -> None:
    for strategy, A in ((SPSA(), 100.0), (SPSA(evaluations=400), 20.0), (SPSA(evaluations=400, pairs=4), 5.0)):
        same = SPSA(pairs=strategy.pairs, A=A)
        state = strategy.init(bb.key(0), np.full(3, 0.8))._replace(generation=np.int64(50), measured=np.int64(99))
        state = state._replace(magnitude=np.float64(2.0))
        population = strategy.ask(state)
        means = [s.tell(state, population, bowl(population)).mean for s in (strategy, same)]
        assert_array_equal(*means)


def test_coordinate_differences_of_a_quadratic_are_its_gradient() -> None:
    rng = np.random.default_rng(0)
    root, x = rng.normal(size=(6, 6)), rng.normal(size=6)
    strategy = CoordinateDescent(mu=0.1)
    population = strategy.ask(strategy.init(bb.key(0), x))
    assert population.shape == (12, 6)
    order = rng.permutation(12)
    for rows in (population, population[order], np.clip(population, x - 0.1, x + 0.1)):
        gradient, known = partial_derivatives(rows, np.sum((rows @ root) ** 2, axis=1), x)
        assert_allclose(gradient, 2 * root @ (root.T @ x), rtol=1e-9)
        assert known.all()


def test_a_clipped_side_counts_by_where_it_is() -> None:
    x, slope = np.full(3, 0.95), np.array([1.0, -2.0, 3.0])
    strategy = CoordinateDescent(mu=0.1)
    population = np.minimum(strategy.ask(strategy.init(bb.key(0), x)), 1.0)
    assert_allclose(partial_derivatives(population, 7 + population @ slope, x)[0], slope, rtol=1e-9)


def test_a_coordinate_without_a_difference_stays() -> None:
    strategy = CoordinateDescent(mu=0.1)
    state = strategy.init(bb.key(0), np.full(3, 0.8))
    state = strategy.tell(state, strategy.ask(state), bowl(strategy.ask(state)))
    population = strategy.ask(state)
    fitness = bowl(population)
    whole = strategy.tell(state, population, fitness)
    fitness[2] = np.nan
    told = strategy.tell(state, population, fitness)
    for before, after, complete in zip(
        (state.mean, *state.moments[:3]), (told.mean, *told.moments[:3]), (whole.mean, *whole.moments[:3]), strict=True
    ):
        assert after[1] == before[1]
        assert_allclose(after[[0, 2]], complete[[0, 2]], rtol=1e-12)


@pytest.mark.parametrize("failed", [np.nan, np.inf, -np.inf, 1e200])
def test_failed_pairs_count_nothing(failed: float) -> None:
    strategy = RandomDescent(queries=4)
    state = strategy.init(bb.key(0), np.full(6, 0.8))
    population = strategy.ask(state)
    fitness = bowl(population)
    fitness[2:4] = failed
    told = strategy.tell(state, population, fitness)
    rest = np.delete(np.arange(8), [2, 3])
    assert_allclose(told.mean, strategy.tell(state, population[rest], fitness[rest]).mean, rtol=1e-12)


@pytest.mark.parametrize("strategy", [RandomDescent(queries=1), SPSA()], ids=["rge", "spsa"])
def test_one_value_alone_tells_nothing(strategy: Any) -> None:
    state = strategy.init(bb.key(0), np.full(6, 0.8))
    population = strategy.ask(state)
    told = strategy.tell(state, population, np.array([1.0, np.nan]))
    assert told.generation == 1
    assert_array_equal(told.mean, state.mean)


def test_values_on_a_high_plateau_are_told_apart() -> None:
    strategy = CoordinateDescent()
    state = strategy.init(bb.key(0), np.full(4, 0.8, np.float32))
    population = strategy.ask(state)
    high = strategy.tell(state, population, 1e7 + bowl(population.astype(np.float64)))
    assert high.mean.dtype == np.float32
    assert_allclose(high.moments.m, strategy.tell(state, population, bowl(population)).moments.m, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_minimize_reaches_a_minimum(method: str) -> None:
    target = np.linspace(0.2, 0.7, 8)
    space = bb.Box(np.zeros(8), np.ones(8))
    result = bb.minimize(lambda x: float(np.sum((x - target) ** 2)), space, method=method, budget=1200, seed=0)
    assert result.value < 1e-2, result.value
    assert_allclose(result.x, target, atol=0.06)


@pytest.mark.parametrize("method", METHODS)
def test_noise_is_averaged(method: str) -> None:
    """Means end near the minimum although single values are off by a hundred times what they end at."""
    rng, strategy = np.random.default_rng(0), bb.create(method)
    state = strategy.init(bb.key(0), np.full(10, 0.8))
    for _ in range(3000 // len(strategy.ask(state))):
        population = strategy.ask(state)
        fitness = np.sum((population - 0.3) ** 2, axis=1)
        state = strategy.tell(state, population, fitness + 0.01 * rng.normal(size=len(fitness)))
    assert np.sum((state.mean - 0.3) ** 2) < 0.15, np.sum((state.mean - 0.3) ** 2)


@pytest.mark.parametrize("strategy", [RandomDescent(), CoordinateDescent()], ids=["rge", "cge"])
def test_runs_end_where_nothing_moves(strategy: Any) -> None:
    state = strategy.init(bb.key(0), np.full(4, 0.8))
    assert not strategy.stop(state)["tolx"]
    population = strategy.ask(state)
    assert not strategy.stop(strategy.tell(state, population, bowl(population)))["tolx"]
    assert strategy.stop(strategy.tell(state, population, np.ones(len(population))))["tolx"]
    generations = 0
    while not strategy.stop(state)["tolx"] and generations < 1000:
        population = strategy.ask(state)
        state = strategy.tell(state, population, np.sum((population - 0.3) ** 2, axis=1))
        generations += 1
    assert 20 < generations < 1000
    assert_allclose(state.mean, 0.3, atol=1e-5)


def test_a_steep_wall_is_not_leapt_from() -> None:
    """Without a bound of its steps SPSA leaves a quartic valley for infinity."""

    def rosenbrock(x: np.ndarray) -> np.ndarray:
        x = 4 * x - 2
        return np.sum(100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2, axis=1)

    strategy = SPSA(evaluations=1000)
    state = strategy.init(bb.key(0), np.full(20, 0.5))
    for _ in range(500):
        population = strategy.ask(state)
        state = strategy.tell(state, population, rosenbrock(population))
    assert rosenbrock(state.mean[None])[0] < rosenbrock(np.full((1, 20), 0.5))[0] * 1.05


@pytest.mark.parametrize("method", METHODS)
def test_constraints_which_change_the_meaning_of_values_are_refused(method: str) -> None:
    with pytest.raises(bb.SettingError, match="method must be one that only ranks"):
        bb.Optimizer({"x": bb.Float(0, 1)}, method, budget=10, constraints=1)


def test_jax_is_not_imported() -> None:
    program = (
        "import sys, numpy as np, blackbox as bb\n"
        "for name in ('spsa', 'cge', 'rge'):\n"
        "    bb.minimize(lambda x: float(x @ x), bb.Box(-np.ones(2), np.ones(2)), method=name, budget=8, seed=0)\n"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("rge", {"queries": 0}, "queries must be an integer >= 1, got 0"),
        ("rge", {"distribution": "cauchy"}, "distribution must be one of normal, rademacher, sphere, orthogonal; got"),
        ("rge", {"mu": 0.0}, "mu must be a finite number and > 0, got 0.0"),
        ("cge", {"beta1": 1.0}, "beta1 must be a finite number and >= 0 and <= 0.9999, got 1.0"),
        ("cge", {"queries": 3}, "cge has no hyperparameter 'queries'"),
        ("spsa", {"pairs": 1.5}, "pairs must be an integer >= 1, got 1.5"),
        ("spsa", {"a": -1.0}, "a must be a finite number and > 0, got -1.0"),
        ("spsa", {"A": -1.0}, "A must be a finite number and >= 0, got -1.0"),
    ],
)
def test_bad_settings_are_named(method: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(bb.SettingError, match=message):
        bb.create(method, **settings)


@pytest.mark.parametrize("strategy", [RandomDescent(), CoordinateDescent()], ids=["rge", "cge"])
def test_a_run_does_not_end_before_anything_is_known(strategy: Any) -> None:
    state = strategy.init(bb.key(0), np.full(3, 0.8))
    population = strategy.ask(state)
    state = strategy.tell(state, population, np.full(len(population), np.nan))
    assert not strategy.stop(state)["tolx"]
    assert strategy.stop(strategy.tell(state, strategy.ask(state), np.zeros(len(population))))["tolx"]


def test_a_penalty_in_one_coordinate_leaves_the_others() -> None:
    population = np.repeat(np.zeros((6, 3), np.float32), 1, axis=0)
    for i in range(3):
        population[2 * i, i], population[2 * i + 1, i] = 0.5, -0.5
    fitness = (population @ np.array([1, 2, 3], np.float32)).astype(np.float32)
    fitness[0] = 1e9
    slope, known = partial_derivatives(population, fitness, np.zeros(3, np.float32))
    assert known.all()
    np.testing.assert_allclose(slope[1:], [2, 3], rtol=1e-6)
