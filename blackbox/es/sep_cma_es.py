"""Separable CMA-ES: CMA-ES with a diagonal covariance matrix, linear in the dimension and faster to learn.

Sources: Ros & Hansen 2008, "A simple modification in CMA-ES achieving linear time and space complexity"
(doi:10.1007/978-3-540-87700-4_30), whose learning rates are (d + 2) / 3 times those of CMA-ES; Akimoto & Hansen
2020, "Diagonal acceleration for covariance matrix adaptation evolution strategies" (arXiv:1905.05885), whose
exponential update of the standard deviations D stays positive for any negative weights. All other parameters are
CMA-ES's (:mod:`blackbox.es.cma_es`). Update, with z_i = (x_i - mean) / (sigma D) sorted by fitness:

    mean  <- mean + sigma D sum_i w_i z_i                                           over positive weights
    p_s   <- (1 - c_s) p_s + sqrt(c_s (2 - c_s) mu_eff) sum_i w_i z_i
    p_c   <- (1 - c_c) p_c + h_s sqrt(c_c (2 - c_c) mu_eff) D sum_i w_i z_i
    D     <- D exp((c_1 ((p_c / D)^2 - 1) + c_mu sum_i w_i (z_i^2 - 1)) / 2)        over all weights
    sigma <- sigma exp(c_s / d_s (|p_s| / E|N(0, I)| - 1))

after which D is scaled to a geometric mean of 1, and sigma and p_c against it.

Cost per generation: O(popsize d). State O(d).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, namespace
from blackbox.es import cma_es
from blackbox.es.cma_es import default_popsize
from blackbox.es.stall import Stall, no_stall, watch
from blackbox.kernels.noise import normal
from blackbox.shaping import best_first
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@lru_cache(maxsize=256)
def constants(popsize: int, d: int) -> cma_es.Constants:
    """Default parameters for a population size and dimension.

    Negative weights sum up to what balances c_1 or to what their variance allows (equations 50 and 51 of the
    CMA-ES tutorial); the third bound, which keeps C positive there, is not needed.
    """
    c = cma_es.constants(popsize, d)
    c_1 = c.c_1 * (d + 2) / 3
    c_mu = min(1 - c_1, c.c_mu * (d + 2) / 3)
    negative = np.minimum(0.0, math.log((popsize + 1) / 2) - np.log(np.arange(1, popsize + 1)))
    mu_eff_negative = float(negative.sum() ** 2 / (negative**2).sum())
    alpha = min(1 + c_1 / c_mu, 1 + 2 * mu_eff_negative / (c.mu_eff + 2))
    return c._replace(
        negative=-alpha * negative / negative.sum(),
        sum_weights=1 - alpha,
        c_1=c_1,
        c_mu=c_mu,
    )


class SepCMAESState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    mean: Float[Array, "d"]
    sigma: Float[Array, ""]
    p_sigma: Float[Array, "d"]
    p_c: Float[Array, "d"]
    D: Float[Array, "d"]
    """Standard deviations of the coordinates, in units of sigma, their geometric mean."""
    stall: Stall


@algorithm
class SepCMAES:
    """Separable CMA-ES with active exponential update.

    Args:
        popsize: candidates per generation, at least 3; by default 4 + floor(3 ln d).
        sigma0: initial step size, in units of x: about a third of the width of the region of interest.
    """

    popsize: int | None = None
    sigma0: float = 1.0

    injectable: ClassVar[bool] = True
    generational: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=3)
        require_number("sigma0", self.sigma0, above=0)

    def init(self, key: Key, x0: Float[Array, "d"]) -> SepCMAESState:
        xp = namespace(x0)
        return SepCMAESState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            mean=x0,
            sigma=xp.asarray(self.sigma0, dtype=x0.dtype)[()],
            p_sigma=xp.zeros_like(x0),
            p_c=xp.zeros_like(x0),
            D=xp.ones_like(x0),
            stall=no_stall(x0),
        )

    def ask(self, state: SepCMAESState, first: int = 0) -> Float[Array, "n d"]:
        d = state.mean.shape[0]
        shape = (self.popsize or default_popsize(d), d)
        z = normal(state.key, state.generation, shape, first=first, like=state.mean)
        return state.mean + z * (state.sigma * state.D)

    def tell(self, state: SepCMAESState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> SepCMAESState:
        xp = namespace(state.mean)
        popsize, d = population.shape
        c = constants(popsize, d)
        positive = xp.asarray(c.positive, dtype=state.mean.dtype)
        negative = xp.asarray(c.negative, dtype=state.mean.dtype)
        generation = state.generation + 1
        order = best_first(fitness)
        z = (xp.take(population, order, axis=0) - state.mean) / (state.sigma * state.D)
        # No sampled step is this long; an injected one counts as far as a sampled one could reach.
        shorten = xp.minimum((math.sqrt(d) + 5) / xp.sqrt(xp.vecdot(z, z) + 1e-30), 1.0)
        recombine = positive * shorten
        step = recombine @ z

        noise_step = math.sqrt(c.c_sigma * (2 - c.c_sigma) * c.mu_eff) * step
        p_sigma = (1 - c.c_sigma) * state.p_sigma + noise_step
        length = xp.sqrt(p_sigma @ p_sigma)
        age = xp.asarray(generation, dtype=z.dtype)
        expected = c.chi * xp.sqrt(1 - (1 - c.c_sigma) ** (2 * age))  # of the length, so early in the run
        h_sigma = xp.asarray(length < (1.4 + 2 / (d + 1)) * expected, dtype=z.dtype)
        p_c = (1 - c.c_c) * state.p_c + (h_sigma * math.sqrt(c.c_c * (2 - c.c_c) * c.mu_eff)) * (state.D * step)

        c_1 = c.c_1 * (1 - (1 - h_sigma) * (c.c_c * (2 - c.c_c)))  # a path that was held back is shorter
        rank_mu = (c.c_mu * (recombine + negative * shorten) * shorten) @ (z * z) - c.c_mu * c.sum_weights
        growth = 0.5 * xp.clip(c_1 * ((p_c / state.D) ** 2 - 1) + rank_mu, -1.0, 1.0)
        common = xp.mean(growth)  # goes to sigma: D alone would drift without bound
        change = xp.minimum((c.c_sigma / c.d_sigma) * (length / c.chi - 1), 1.0) + common
        return SepCMAESState(
            key=state.key,
            generation=generation,
            mean=state.mean + state.sigma * (state.D * step),
            sigma=xp.clip(state.sigma * xp.exp(change), 1e-25, 1e25),  # finite products with D even in float32
            p_sigma=p_sigma,
            p_c=p_c * xp.exp(-common),  # in units of sigma, too
            D=xp.clip(state.D * xp.exp(growth - common), 1e-10, 1e10),
            stall=watch(state.stall, fitness[order[0]], generation, 10 + math.ceil(30 * d / popsize)),
        )

    def recommend(self, state: SepCMAESState) -> Float[Array, "d"]:
        return state.mean

    def stop(self, state: SepCMAESState) -> dict[str, Bool[Array, ""]]:
        """Reasons to restart (appendix B.3 of the CMA-ES tutorial), each a scalar boolean."""
        xp = namespace(state.mean)
        longest, shortest = xp.max(state.D), xp.min(state.D)
        return {
            "tolfun": state.stall.spread < 1e-12,
            "tolx": state.sigma * longest < 1e-12 * self.sigma0,
            "tolxup": state.sigma * longest > 1e4 * self.sigma0,
            "condition": longest > 1e7 * shortest,
            "noeffectcoord": xp.any(state.mean == state.mean + (0.2 * state.sigma) * state.D),
        }
