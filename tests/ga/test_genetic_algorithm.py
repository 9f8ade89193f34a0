"""The genetic algorithm and its crossover operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import blackbox as bb
from blackbox.ga import crossover
from blackbox.ga.genetic_algorithm import CROSSOVERS, GeneticAlgorithm

N, D = 4000, 6
RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(N, D)), RNG.normal(size=(N, D))


def sphere(x: Any) -> Any:
    return ((x - 0.3) ** 2).sum(1)


def rastrigin(x: Any) -> Any:
    y = 5.12 * (x - 0.3)
    return (y**2 - 10 * np.cos(2 * np.pi * y) + 10).sum(1)


def run(strategy: Any, objective: Any, evaluations: int, seed: int = 0, d: int = 10) -> Any:
    state = strategy.init(bb.key(seed), np.full(d, 0.8))
    for _ in range(evaluations // strategy.popsize):
        population = strategy.ask(state)
        state = strategy.tell(state, population, objective(population))
    return state


def test_discrete_crossovers_take_every_number_from_a_parent() -> None:
    u = RNG.random((N, D))
    cut, two = RNG.random((N, 1)), RNG.random((N, 2))
    taken = {
        "uniform": crossover.uniform(FIRST, SECOND, u, 0.3),
        "one point": crossover.one_point(FIRST, SECOND, cut),
        "two points": crossover.two_point(FIRST, SECOND, two),
    }
    for child in taken.values():
        assert np.all((child == FIRST) | (child == SECOND))
    share = {name: (child == SECOND).mean(0) for name, child in taken.items()}
    assert np.allclose(share["uniform"], 0.3, atol=0.03)
    assert np.allclose(share["one point"], np.arange(D) / (D - 1), atol=0.03)  # cuts are inside, and as likely
    assert np.allclose(share["two points"], share["two points"].mean(), atol=0.03)  # a ring has no ends
    changes = {name: np.abs(np.diff((child == SECOND).astype(int), axis=1)).sum(1) for name, child in taken.items()}
    assert set(changes["one point"]) == {1}
    assert changes["two points"].max() == 2
    assert np.array_equal(crossover.one_point(FIRST[:, :1], SECOND[:, :1], cut), FIRST[:, :1])


def test_arithmetic_children_lie_on_the_line_and_blended_ones_in_the_wider_box() -> None:
    u = RNG.random((N, 1))
    assert np.allclose(crossover.arithmetic(FIRST, SECOND, u), (1 - u) * FIRST + u * SECOND)
    u = RNG.random((N, D))
    share = (crossover.blend(FIRST, SECOND, u, 0.5) - FIRST) / (SECOND - FIRST)
    assert share.min() >= -0.5 - 1e-9
    assert share.max() <= 1.5 + 1e-9
    assert np.allclose(np.quantile(share, (0.25, 0.5, 0.75)), (0, 0.5, 1), atol=0.03)
    steady = crossover.blend(FIRST, SECOND, u, (np.sqrt(3) - 1) / 2)
    assert abs(steady.var() - 1) < 0.03
    assert abs(crossover.blend(FIRST, SECOND, u).var() - 7 / 6) < 0.03


def test_simulated_binary_crossover_has_the_papers_distribution() -> None:
    low, high = np.minimum(FIRST, SECOND), np.maximum(FIRST, SECOND)
    a, b = crossover.simulated_binary(low, high, RNG.random((N, D)), 2.0)
    assert np.allclose(a + b, low + high)
    beta = (b - a) / (high - low)
    assert abs((beta < 1).mean() - 0.5) < 0.01
    assert abs((beta < 0.5).mean() - 0.5**3 / 2) < 0.01  # the integral of (eta + 1) beta^eta / 2
    assert abs((beta > 2).mean() - 0.5**3 / 2) < 0.01  # and of (eta + 1) beta^-(eta + 2) / 2


@pytest.mark.parametrize("name", [*CROSSOVERS])
def test_every_crossover_descends(name: str) -> None:
    assert run(GeneticAlgorithm(sigma0=0.3, crossover=name), sphere, 4000).fitness[0] < 1e-3  # type: ignore[arg-type]


def test_step_sizes_adapt_and_constant_ones_do_not() -> None:
    own = run(GeneticAlgorithm(sigma0=0.3), sphere, 5000)
    constant = run(GeneticAlgorithm(sigma0=0.3, sigma=0.02), sphere, 5000)
    assert own.fitness[0] < 1e-6 < constant.fitness[0] < 0.01
    assert own.sigma.max() < 1e-3
    assert np.all(constant.sigma == 0.02)


def test_many_minima() -> None:
    found = [run(GeneticAlgorithm(sigma0=0.3), rastrigin, 5000, seed).fitness[0] for seed in range(3)]
    assert np.median(found) < 12  # from 65; ten local minima away is 10
    assert run(GeneticAlgorithm(sigma0=0.3), rastrigin, 5000, d=2).fitness[0] < 1e-6


def test_elites_stay_and_others_go() -> None:
    strategy = GeneticAlgorithm(popsize=6, elites=2)
    state = strategy.init(bb.key(0), np.zeros(3))
    rows = np.arange(18.0).reshape(6, 3)
    state = strategy.tell(state, rows, np.array([5.0, 1.0, 3.0, np.nan, 0.0, 2.0]))
    assert state.fitness.tolist() == [0, 1, 2, 3, np.inf, np.inf]  # the start was never evaluated
    state = strategy.tell(state, rows + 100, np.full(6, 9.0))
    assert state.fitness.tolist() == [0, 1, 9, 9, 9, 9]
    assert np.array_equal(state.population[:2], rows[[4, 1]])
    assert np.array_equal(strategy.recommend(state), rows[4])
    none = GeneticAlgorithm(popsize=6, elites=0)
    assert none.tell(state, rows + 100, np.full(6, 9.0)).fitness.tolist() == [9.0] * 6


def test_only_the_best_are_parents() -> None:
    """Truncation: without mutation worth the name, each child is one of the best."""
    strategy = GeneticAlgorithm(popsize=40, parents=3, tournament=1, probability=0.0, sigma0=1e-9, sigma=1e-9)
    state = strategy.init(bb.key(0), np.zeros(2))
    rows = np.random.default_rng(0).random((40, 2))
    state = strategy.tell(state, rows, sphere(rows))
    children = strategy.ask(state)
    near = np.abs(children[:, None] - state.population[None]).max(2).argmin(1)
    assert set(near.tolist()) == {0, 1, 2}
    drawn = GeneticAlgorithm(popsize=40, tournament=4, probability=0.0, sigma0=1e-9, sigma=1e-9)
    children = drawn.ask(state)
    assert np.abs(children[:, None] - state.population[None]).max(2).argmin(1).mean() < 12  # 40 / 5 is the mean


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popsize": 1}, "popsize must be an integer >= 2"),
        ({"popsize": 4, "elites": 4}, "elites must be below popsize = 4, got 4"),
        ({"tournament": 0}, "tournament must be an integer >= 1"),
        ({"crossover": "none"}, "crossover must be one of uniform, one-point"),
        ({"probability": 1.5}, "probability must be"),
        ({"sigma": 0.0}, "sigma must be"),
    ],
)
def test_settings_are_checked(settings: Any, message: str) -> None:
    with pytest.raises(bb.SettingError, match=message):
        GeneticAlgorithm(**settings)
