"""Separable natural evolution strategy: natural gradient steps on the mean and the deviations of a normal.

Source: Wierstra, Schaul, Glasmachers, Sun, Peters & Schmidhuber 2014, "Natural evolution strategies" (JMLR 15),
algorithm 6 with the defaults of table 1. With z_i = (x_i - mean) / sigma, all vectors coordinate by coordinate,
sorted by fitness:

    mean  <- mean + sigma sum_i u_i z_i                 u_i ~ max(0, ln(n / 2 + 1) - ln i) - 1 / n
    sigma <- sigma exp(eta_sigma / 2 sum_i u_i (z_i^2 - 1))

Cost per generation: O(popsize d). State O(d).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, namespace
from blackbox.es.cma_es import default_popsize
from blackbox.es.stall import Stall, no_stall, watch
from blackbox.kernels.noise import normal
from blackbox.shaping import best_first
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@lru_cache(maxsize=256)
def utilities(popsize: int) -> Float[np.ndarray, "popsize"]:
    """What each rank counts, best first; the sum is 0."""
    u = np.maximum(0.0, math.log(popsize / 2 + 1) - np.log(np.arange(1, popsize + 1)))
    return u / u.sum() - 1 / popsize


def eta_sigma(d: int) -> float:
    """Learning rate of the deviations; that of the mean is 1."""
    return (3 + math.log(d)) / (5 * math.sqrt(d))


class SNESState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    mean: Float[Array, "d"]
    sigma: Float[Array, "d"]
    stall: Stall


@algorithm
class SNES:
    """Separable natural evolution strategy.

    Args:
        popsize: candidates per generation, at least 3; by default 4 + floor(3 ln d).
        sigma0: initial standard deviation, in units of x: about a third of the width of the region of interest.
    """

    popsize: int | None = None
    sigma0: float = 1.0

    generational: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=3)
        require_number("sigma0", self.sigma0, above=0)

    def init(self, key: Key, x0: Float[Array, "d"]) -> SNESState:
        xp = namespace(x0)
        return SNESState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            mean=x0,
            sigma=xp.ones_like(x0) * self.sigma0,
            stall=no_stall(x0),
        )

    def ask(self, state: SNESState, first: int = 0) -> Float[Array, "n d"]:
        d = state.mean.shape[0]
        shape = (self.popsize or default_popsize(d), d)
        z = normal(state.key, state.generation, shape, first=first, like=state.mean)
        return state.mean + state.sigma * z

    def tell(self, state: SNESState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> SNESState:
        xp = namespace(state.mean)
        popsize, d = population.shape
        u = xp.asarray(utilities(popsize), dtype=state.mean.dtype)
        generation = state.generation + 1
        order = best_first(fitness)
        z = (xp.take(population, order, axis=0) - state.mean) / state.sigma
        # No asked population comes near the bounds; one that was moved far could make sigma overflow.
        growth = xp.clip((eta_sigma(d) / 2) * (u @ (z * z)), -1.0, 1.0)  # utilities sum to 0: the -1 drops out
        return SNESState(
            key=state.key,
            generation=generation,
            mean=state.mean + state.sigma * (u @ z),
            sigma=xp.clip(state.sigma * xp.exp(growth), 1e-30, 1e30),
            stall=watch(state.stall, fitness[order[0]], generation, 10 + math.ceil(30 * d / popsize)),
        )

    def recommend(self, state: SNESState) -> Float[Array, "d"]:
        return state.mean

    def stop(self, state: SNESState) -> dict[str, Bool[Array, ""]]:
        """Reasons to restart (those of CMA-ES, for axis-parallel distributions), each a scalar boolean."""
        xp = namespace(state.mean)
        longest, shortest = xp.max(state.sigma), xp.min(state.sigma)
        return {
            "tolfun": state.stall.spread < 1e-12,
            "tolx": longest < 1e-12 * self.sigma0,
            "tolxup": longest > 1e4 * self.sigma0,
            "condition": longest > 1e7 * shortest,
            "noeffectcoord": xp.any(state.mean == state.mean + 0.2 * state.sigma),
        }
