"""LM-MA-ES: limited-memory matrix adaptation, which learns correlations with a few vectors instead of a matrix.

Source: Loshchilov, Glasmachers & Beyer 2019, "Large scale black-box optimization by limited-memory matrix
adaptation" (arXiv:1705.06693), algorithm 2. Steps are sampled as d = P z with z ~ N(0, I) and

    P = A_m ... A_1,   A_j = (1 - c_d,j) I + c_d,j m_j m_j^T       over the first min(t, m) vectors m_j

and after sorting by fitness

    mean  <- mean + sigma sum_i w_i d_i
    p_s   <- (1 - c_s) p_s + sqrt(mu_w c_s (2 - c_s)) sum_i w_i z_i
    m_j   <- (1 - c_c,j) m_j + sqrt(mu_w c_c,j (2 - c_c,j)) sum_i w_i z_i
    sigma <- sigma exp(c_s / 2 (|p_s|^2 / d - 1))

Departures. (1) z is recovered from the told positions, so that they may be clipped or injected. (2) The product is
not applied vector by vector but in closed form, where M has the rows m_j, E = diag(c_d,j / (1 - c_d,j)),
a = prod_j (1 - c_d,j), and L and U are the parts of M M^T below, and on and above the diagonal:

    P = a (I + M^T S M) with S = (I - E L)^(-1) E,   P^(-1) = (I - M^T S M) / a with S = (I + E U)^(-1) E

(3) The paper's rates are for d >= 128 and popsizes near the default. Here c_s = 2 n / (d + 2 n) instead of
2 n / d, c_c,j is at most 1, and c_d,j = 1 / (1.5^(j-1) (d + mu_w + 6)) instead of 1 / (1.5^(j-1) d), with n for the
popsize: the same in large dimensions, and tuned on BBOB in small ones. (4) sigma grows by at most e a generation.

Cost per generation: O(popsize m d + m^2 d). State O(m d), with m = 4 + floor(3 ln d).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, namespace
from blackbox.errors import TellError
from blackbox.es.cma_es import default_popsize
from blackbox.es.stall import Stall, no_stall, watch
from blackbox.kernels.noise import normal
from blackbox.shaping import best_first
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class Constants(NamedTuple):
    """Strategy parameters, functions of popsize and dimension alone."""

    weights: np.ndarray  # (mu,) summing to 1
    mu_w: float
    c_sigma: float
    c_d: np.ndarray  # (m,) how much each vector stretches
    c_c: np.ndarray  # (m,) how fast each vector changes


@lru_cache(maxsize=256)
def constants(popsize: int, d: int) -> Constants:
    """Default parameters for a population size and dimension."""
    if popsize < 2:
        raise TellError(f"population must have at least 2 rows to rank, got {popsize}")
    mu = popsize // 2
    raw = math.log(mu + 0.5) - np.log(np.arange(1, mu + 1))
    weights = raw / raw.sum()
    mu_w = float(1 / (weights**2).sum())
    j = np.arange(default_popsize(d))  # as many vectors as the default population has members
    return Constants(
        weights=weights,
        mu_w=mu_w,
        c_sigma=2 * popsize / (d + 2 * popsize),
        c_d=1 / (1.5**j * (d + mu_w + 6)),
        c_c=np.minimum(1.0, popsize / (4.0**j * d)),
    )


class LMMAESState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    mean: Float[Array, "d"]
    sigma: Float[Array, ""]
    p_sigma: Float[Array, "d"]
    M: Float[Array, "m d"]
    """Evolution paths over ever longer times, in rows: the directions in which steps are stretched."""
    stall: Stall


@algorithm
class LMMAES:
    """Limited-memory matrix adaptation evolution strategy.

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

    def init(self, key: Key, x0: Float[Array, "d"]) -> LMMAESState:
        xp = namespace(x0)
        d = x0.shape[0]
        return LMMAESState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            mean=x0,
            sigma=xp.asarray(self.sigma0, dtype=x0.dtype)[()],
            p_sigma=xp.zeros_like(x0),
            M=xp.zeros((default_popsize(d), d), dtype=x0.dtype),
            stall=no_stall(x0),
        )

    def ask(self, state: LMMAESState, first: int = 0) -> Float[Array, "n d"]:
        d = state.mean.shape[0]
        popsize = self.popsize or default_popsize(d)
        z = normal(state.key, state.generation, (popsize, d), first=first, like=state.mean)
        a, E, gram = _product(state, constants(popsize, d).c_d)
        steps = z + ((z @ state.M.T) @ _stretch(E, gram).T) @ state.M
        return state.mean + (state.sigma * a) * steps

    def tell(self, state: LMMAESState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> LMMAESState:
        xp = namespace(state.mean)
        popsize, d = population.shape
        c = constants(popsize, d)
        weights = xp.asarray(c.weights, dtype=state.mean.dtype)
        c_c = xp.asarray(c.c_c, dtype=state.mean.dtype)[:, None]
        generation = state.generation + 1
        order = best_first(fitness)
        step = (xp.take(population, order[: weights.shape[0]], axis=0) - state.mean) / state.sigma
        a, E, gram = _product(state, constants(self.popsize or default_popsize(d), d).c_d)
        z = (step - ((step @ state.M.T) @ _shrink(E, gram).T) @ state.M) / a
        # No sampled step is this long; an injected one counts as far as a sampled one could reach.
        weights = weights * xp.minimum((math.sqrt(d) + 5) / xp.sqrt(xp.vecdot(z, z) + 1e-30), 1.0)
        noise_step = math.sqrt(c.mu_w) * (weights @ z)

        p_sigma = (1 - c.c_sigma) * state.p_sigma + math.sqrt(c.c_sigma * (2 - c.c_sigma)) * noise_step
        change = c.c_sigma / 2 * (p_sigma @ p_sigma / d - 1)
        return LMMAESState(
            key=state.key,
            generation=generation,
            mean=state.mean + state.sigma * (weights @ step),
            sigma=xp.clip(state.sigma * xp.exp(xp.minimum(change, 1.0)), 1e-25, 1e25),
            p_sigma=p_sigma,
            M=(1 - c_c) * state.M + xp.sqrt(c_c * (2 - c_c)) * noise_step,
            stall=watch(state.stall, fitness[order[0]], generation, 10 + math.ceil(30 * d / popsize)),
        )

    def recommend(self, state: LMMAESState) -> Float[Array, "d"]:
        return state.mean

    def stop(self, state: LMMAESState) -> dict[str, Bool[Array, ""]]:
        """Reasons to restart (those of CMA-ES that need no eigenvectors), each a scalar boolean."""
        xp = namespace(state.mean)
        deviations = self.deviations(state)
        largest = xp.max(deviations)
        return {
            "tolfun": state.stall.spread < 1e-12,
            "tolx": largest < 1e-12 * self.sigma0,
            "tolxup": largest > 1e4 * self.sigma0,
            "noeffectcoord": xp.any(state.mean == state.mean + 0.2 * deviations),
        }

    def deviations(self, state: LMMAESState) -> Float[Array, "d"]:
        """Standard deviation of each coordinate of the samples, from the diagonal of P P^T."""
        xp = namespace(state.mean)
        d = state.mean.shape[0]
        a, E, gram = _product(state, constants(self.popsize or default_popsize(d), d).c_d)
        S = _stretch(E, gram)
        variance = 1 + xp.sum(state.M * ((S + S.T + S @ gram @ S.T) @ state.M), axis=0)
        return (state.sigma * a) * xp.sqrt(variance)


def _product(state: LMMAESState, c_d: np.ndarray) -> tuple[Float[Array, ""], Float[Array, "m m"], Float[Array, "m m"]]:
    """``a``, ``E`` and ``M M^T``; vectors that are not yet in use (line 9 of the algorithm) have rate 0."""
    xp = namespace(state.M)
    rates = xp.asarray(c_d, dtype=state.M.dtype)
    rates = xp.where(xp.arange(rates.shape[0]) < state.generation, rates, xp.zeros_like(rates))
    identity = xp.eye(rates.shape[0], dtype=rates.dtype)
    return xp.prod(1 - rates), identity * (rates / (1 - rates)), state.M @ state.M.T


def _stretch(E: Float[Array, "m m"], gram: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """``S`` of ``P = a (I + M^T S M)``."""
    xp = namespace(E)
    return xp.linalg.solve(xp.eye(E.shape[0], dtype=E.dtype) - E @ xp.tril(gram, k=-1), E)


def _shrink(E: Float[Array, "m m"], gram: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """``S`` of ``P^(-1) = (I - M^T S M) / a``."""
    xp = namespace(E)
    return xp.linalg.solve(xp.eye(E.shape[0], dtype=E.dtype) + E @ xp.triu(gram), E)
