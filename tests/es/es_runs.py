"""What the tests of evolution strategies share: landscapes and runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import blackbox as bb

Function = Callable[[np.ndarray], np.ndarray]


def sphere(x: np.ndarray) -> np.ndarray:
    return np.sum(x**2, axis=1)


def ellipsoid(x: np.ndarray) -> np.ndarray:
    return (x**2) @ 10.0 ** (6 * np.arange(x.shape[1]) / (x.shape[1] - 1))


def rosenbrock(x: np.ndarray) -> np.ndarray:
    return np.sum(100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2, axis=1)


def trajectory(strategy: Any, f: Function, x0: np.ndarray, generations: int, seed: int = 3) -> list[Any]:
    """The states of a run, the first one included."""
    states = [strategy.init(bb.key(seed), x0)]
    for _ in range(generations):
        population = strategy.ask(states[-1])
        states.append(strategy.tell(states[-1], population, f(population)))
    return states


def evaluations(strategy: Any, f: Function, x0: np.ndarray, target: float, seed: int, budget: int = 50_000) -> float:
    """How many a run needs until one is below the target; infinite if more than the budget."""
    state, count = strategy.init(bb.key(seed), x0), 0
    while count < budget:
        population = strategy.ask(state)
        fitness = f(population)
        count += len(population)
        if fitness.min() < target:
            return count
        state = strategy.tell(state, population, fitness)
    return math.inf
