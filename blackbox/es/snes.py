"""SNES: natural-gradient ascent on a normal distribution with a step size per coordinate.

Source: Wierstra et al. 2014, "Natural evolution strategies", JMLR 15, algorithm 6; defaults from its table 1.
Update, with z_i = (x_i - mean) / sigma sorted by fitness and utilities u_i:

    mean  <- mean + sigma * sum_i u_i z_i
    sigma <- sigma * exp(eta_sigma / 2 * sum_i u_i (z_i^2 - 1))                      coordinate by coordinate

Cost per generation: O(popsize d). State O(d). Learns scales, not correlations.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from blackbox.arrays import Array, Key, namespace
from blackbox.es.cma_es import default_popsize
from blackbox.es.stall import Stall, no_stall, watch
from blackbox.kernels.noise import normal
from blackbox.shaping import best_first
from blackbox.strategy import algorithm, require_integer, require_number


@lru_cache(maxsize=256)
def utilities(popsize: int) -> np.ndarray:
    """u_i for ranks 1 to popsize, shape (popsize,), sum 0: log-shaped for the better half, constant for the rest."""
    raw = np.maximum(0.0, math.log(popsize / 2 + 1) - np.log(np.arange(1, popsize + 1)))
    return raw / raw.sum() - 1 / popsize


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
        popsize: candidates per generation, at least 2; by default 4 + floor(3 ln d).
        sigma0: initial step size of every coordinate, in units of x.
        eta_sigma: learning rate of the step sizes; by default (3 + ln d) / (5 sqrt(d)).
    """

    popsize: int | None = None
    sigma0: float = 1.0
    eta_sigma: float | None = None

    injectable: ClassVar[bool] = False  # a foreign point is no sample of the distribution whose gradient is estimated

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2)
        require_number("sigma0", self.sigma0, above=0)
        require_number("eta_sigma", self.eta_sigma, above=0)

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
        return state.mean + state.sigma * normal(state.key, state.generation, shape, first=first, like=state.mean)

    def tell(self, state: SNESState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> SNESState:
        xp = namespace(state.mean)
        popsize, d = population.shape
        generation = state.generation + 1
        order = best_first(fitness)
        z = (xp.take(population, order, axis=0) - state.mean) / state.sigma
        u = xp.asarray(utilities(popsize), dtype=z.dtype)
        eta_sigma = (3 + math.log(d)) / (5 * math.sqrt(d)) if self.eta_sigma is None else self.eta_sigma
        change = xp.minimum(eta_sigma / 2 * (u @ (z * z)), 1.0)  # sum_i u_i = 0; a huge step must not overflow
        return SNESState(
            key=state.key,
            generation=generation,
            mean=state.mean + state.sigma * (u @ z),
            sigma=xp.maximum(state.sigma * xp.exp(change), 1e-30),
            stall=watch(state.stall, fitness[order[0]], generation, 10 + math.ceil(30 * d / popsize)),
        )

    def recommend(self, state: SNESState) -> Float[Array, "d"]:
        return state.mean

    def stop(self, state: SNESState) -> dict[str, Bool[Array, ""]]:
        """Reasons to restart, each a scalar boolean."""
        longest = namespace(state.mean).max(state.sigma)
        return {
            "tolfun": state.stall.spread < 1e-12,
            "tolx": longest < 1e-12 * self.sigma0,
            "tolxup": longest > 1e4 * self.sigma0,
        }
