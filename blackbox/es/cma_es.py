"""CMA-ES: sampling from a multivariate normal distribution whose mean, step size and covariance are learned.

Source: Hansen 2016, "The CMA evolution strategy: a tutorial", arXiv:1604.00772 (equation numbers below), with
the negative weights of active CMA-ES. Update, with y_i = (x_i - mean) / sigma sorted by fitness:

    mean  <- mean + sigma * sum_i w_i y_i                                           over positive weights
    p_s   <- (1 - c_s) p_s + sqrt(c_s (2 - c_s) mu_eff) C^(-1/2) sum_i w_i y_i
    p_c   <- (1 - c_c) p_c + h_s sqrt(c_c (2 - c_c) mu_eff) sum_i w_i y_i
    C     <- (1 - c_1 - c_mu sum_j w_j) C + c_1 p_c p_c^T + c_mu sum_i w_i y_i y_i^T
    sigma <- sigma * exp(c_s / d_s * (|p_s| / E|N(0, I)| - 1))

Cost per generation: O(popsize d^2), and O(d^3) each time C is decomposed. That is done only as often as C changes
appreciably, every 1 / (2 d (c_1 + c_mu)) generations as in the author's short code (the tutorial, B.2, has a fifth
of that; no difference on BBOB). State O(d^2).

Runs that nobody stops stay finite: eigenvalues are at least the dtype's precision times the largest, a C that has
drifted far from 1 hands its scale to sigma, and sigma has bounds.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, cond, eigh, namespace
from blackbox.errors import TellError
from blackbox.es.stall import Stall, no_stall, watch
from blackbox.kernels.noise import normal
from blackbox.shaping import best_first
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


SIGMA_BOUNDS = (1e-25, 1e25)


class Constants(NamedTuple):
    """Strategy parameters, functions of popsize and dimension alone (table 1 and equations 49-58)."""

    positive: np.ndarray  # (popsize,) w_i where positive, summing to 1, else 0
    negative: np.ndarray  # (popsize,) w_i where negative, else 0
    sum_weights: float
    mu_eff: float
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    chi: float  # E|N(0, I)|
    decompose_every: int  # generations


def default_popsize(d: int) -> int:
    """4 + floor(3 ln d), equation (48)."""
    return 4 + int(3 * math.log(d))


@lru_cache(maxsize=256)
def constants(popsize: int, d: int) -> Constants:
    """Default parameters for a population size and dimension."""
    if popsize < 2:
        raise TellError(f"population must have at least 2 rows to rank, got {popsize}")
    raw = math.log((popsize + 1) / 2) - np.log(np.arange(1, popsize + 1))  # (49)
    mu = popsize // 2
    positive, negative = raw[:mu], raw[mu:]
    mu_eff = float(positive.sum() ** 2 / (positive**2).sum())
    mu_eff_negative = float(negative.sum() ** 2 / (negative**2).sum())
    c_c = (4 + mu_eff / d) / (d + 4 + 2 * mu_eff / d)  # (56)
    c_1 = 2 / ((d + 1.3) ** 2 + mu_eff)  # (57)
    c_mu = min(1 - c_1, 2 * (1 / 4 + mu_eff + 1 / mu_eff - 2) / ((d + 2) ** 2 + mu_eff))  # (58)
    c_sigma = (mu_eff + 2) / (d + mu_eff + 5)  # (55)
    d_sigma = 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (d + 1)) - 1) + c_sigma
    alpha = min(  # (50)-(52): how far negative weights may sum up
        1 + c_1 / c_mu, 1 + 2 * mu_eff_negative / (mu_eff + 2), (1 - c_1 - c_mu) / (d * c_mu)
    )
    weights = np.concatenate([positive / positive.sum(), -alpha * negative / negative.sum()])  # (53)
    return Constants(
        positive=np.maximum(weights, 0),
        negative=np.minimum(weights, 0),
        sum_weights=float(weights.sum()),
        mu_eff=mu_eff,
        c_sigma=c_sigma,
        d_sigma=d_sigma,
        c_c=c_c,
        c_1=c_1,
        c_mu=c_mu,
        chi=math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d * d)),
        decompose_every=math.ceil(1 / (2 * d * (c_1 + c_mu))),
    )


class CMAESState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    mean: Float[Array, "d"]
    sigma: Float[Array, ""]
    p_sigma: Float[Array, "d"]
    p_c: Float[Array, "d"]
    C: Float[Array, "d d"]
    B: Float[Array, "d d"]
    """Eigenvectors of C, in columns, as of the last decomposition."""
    D: Float[Array, "d"]
    """Square roots of the eigenvalues of C, ascending."""
    stall: Stall


@algorithm
class CMAES:
    """CMA-ES with active covariance update and lazy eigendecomposition.

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

    def init(self, key: Key, x0: Float[Array, "d"]) -> CMAESState:
        xp = namespace(x0)
        identity = xp.eye(x0.shape[0], dtype=x0.dtype)
        return CMAESState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            mean=x0,
            sigma=xp.asarray(self.sigma0, dtype=x0.dtype)[()],
            p_sigma=xp.zeros_like(x0),
            p_c=xp.zeros_like(x0),
            C=identity,
            B=identity,
            D=xp.ones_like(x0),
            stall=no_stall(x0),
        )

    def ask(self, state: CMAESState, first: int = 0) -> Float[Array, "n d"]:
        d = state.mean.shape[0]
        shape = (self.popsize or default_popsize(d), d)
        z = normal(state.key, state.generation, shape, first=first, like=state.mean)
        return state.mean + state.sigma * ((z * state.D) @ state.B.T)  # (40)

    def tell(self, state: CMAESState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> CMAESState:
        xp = namespace(state.mean)
        popsize, d = population.shape
        c = constants(popsize, d)
        positive = xp.asarray(c.positive, dtype=state.mean.dtype)
        negative = xp.asarray(c.negative, dtype=state.mean.dtype)
        generation = state.generation + 1
        order = best_first(fitness)
        y = (xp.take(population, order, axis=0) - state.mean) / state.sigma
        z = (y @ state.B) / state.D  # C^(-1/2) y, in the eigenbasis
        squared_length = xp.vecdot(z, z) + 1e-30
        # No sampled step is this long; an injected one counts as far as a sampled one could reach.
        shorten = xp.minimum((math.sqrt(d) + 5) / xp.sqrt(squared_length), 1.0)
        recombine = positive * shorten
        step = recombine @ y

        noise_step = math.sqrt(c.c_sigma * (2 - c.c_sigma) * c.mu_eff) * (state.B @ (recombine @ z))
        p_sigma = (1 - c.c_sigma) * state.p_sigma + noise_step  # (43)
        length = xp.sqrt(p_sigma @ p_sigma)
        age = xp.asarray(generation, dtype=y.dtype)
        expected = c.chi * xp.sqrt(1 - (1 - c.c_sigma) ** (2 * age))  # of the length, so early in the run
        h_sigma = xp.asarray(length < (1.4 + 2 / (d + 1)) * expected, dtype=y.dtype)
        p_c = (1 - c.c_c) * state.p_c + (h_sigma * math.sqrt(c.c_c * (2 - c.c_c) * c.mu_eff)) * step  # (45)

        # (46): long steps that did badly must not make C indefinite.
        weights = recombine * shorten + negative * (d / squared_length)
        decay = (1 - c.c_1 - c.c_mu * c.sum_weights) + (1 - h_sigma) * (c.c_1 * c.c_c * (2 - c.c_c))
        C = decay * state.C + (c.c_1 * p_c)[:, None] * p_c + (y.T * (c.c_mu * weights)) @ y  # (47)
        change = (c.c_sigma / c.d_sigma) * (length / c.chi - 1)  # (44)
        sigma = state.sigma * xp.exp(xp.minimum(change, 1.0))
        sigma, p_c, C, B, D = cond(
            generation % c.decompose_every == 0,
            lambda: _decomposed(sigma, p_c, C),
            lambda: (sigma, p_c, C, state.B, state.D),
        )
        return CMAESState(
            key=state.key,
            generation=generation,
            mean=state.mean + state.sigma * step,  # (42)
            sigma=sigma,
            p_sigma=p_sigma,
            p_c=p_c,
            C=C,
            B=B,
            D=D,
            stall=watch(state.stall, fitness[order[0]], generation, 10 + math.ceil(30 * d / popsize)),
        )

    def recommend(self, state: CMAESState) -> Float[Array, "d"]:
        return state.mean

    def stop(self, state: CMAESState) -> dict[str, Bool[Array, ""]]:
        """Reasons to restart (appendix B.3 of the tutorial), each a scalar boolean."""
        xp = namespace(state.mean)
        longest, shortest = state.D[-1], state.D[0]
        too_long = min(1e7, 0.9 / math.sqrt(xp.finfo(state.D.dtype).eps))  # less than what `_decomposed` leaves
        axis = state.generation % state.mean.shape[0]
        along_axis = state.mean + (0.1 * state.sigma * state.D[axis]) * state.B[:, axis]
        along_coordinates = state.mean + (0.2 * state.sigma) * xp.sqrt(xp.linalg.diagonal(state.C))
        return {
            "tolfun": state.stall.spread < 1e-12,
            "tolx": state.sigma * longest < 1e-12 * self.sigma0,
            "tolxup": state.sigma * longest > 1e4 * self.sigma0,
            "condition": longest > too_long * shortest,
            "noeffectaxis": xp.all(state.mean == along_axis),
            "noeffectcoord": xp.any(state.mean == along_coordinates),
        }


def _decomposed(
    sigma: Float[Array, ""], p_c: Float[Array, "d"], C: Float[Array, "d d"]
) -> tuple[Float[Array, ""], Float[Array, "d"], Float[Array, "d d"], Float[Array, "d d"], Float[Array, "d"]]:
    """sigma, p_c and C, repaired where they went out of bounds, and C's eigenvectors and roots of eigenvalues.

    As long as the longest axis of C is within five powers of ten of 1, C keeps its scale.
    """
    xp = namespace(C)
    eigenvalues, B = eigh(C)
    # Lesser ones are rounding errors of C: samples along them would be noise, and a negative one could only grow.
    least = float(xp.finfo(C.dtype).eps) * eigenvalues[-1]
    D = xp.sqrt(xp.maximum(eigenvalues, least))
    far = (D[-1] < 1e-5) | (D[-1] > 1e5)

    def repaired() -> tuple[Array, ...]:
        scale = xp.where(far, D[-1], xp.ones_like(D[-1]))[()]
        axes = B * (D / scale)
        # Products of these bounds and D are finite even in float32.
        return xp.clip(sigma * scale, *SIGMA_BOUNDS)[()], p_c / scale, axes @ axes.T, B, D / scale

    out = far | (eigenvalues[0] < least) | (sigma < SIGMA_BOUNDS[0]) | (sigma > SIGMA_BOUNDS[1])
    return cond(out, repaired, lambda: (sigma, p_c, C, B, D))
