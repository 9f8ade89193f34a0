"""PGPE: policy gradients with parameter-based exploration, with symmetric sampling and ClipUp.

Source: Sehnke et al. 2010, "Parameter-exploring policy gradients", Neural Networks 23 (symmetric sampling,
equations 12-15); Toklu, Liskowski & Srivastava 2020, "ClipUp", arXiv:2008.02387 (the optimizer, algorithm 1, and
fitness as centered ranks). Update, with steps e_i = x_i - mean and ranks r_i in [-1/2, 1/2], best -1/2:

    g_mean   = sum_i r_i e_i / popsize
    g_sigma  = sum_i r_i (e_i^2 - sigma^2) / sigma / popsize
    velocity <- clip(momentum * velocity + lr * g_mean / |g_mean|, max_speed)        clipped in length
    mean     <- mean - velocity
    sigma    <- sigma - lr_sigma * g_sigma                                           changed by at most a fifth

With symmetric pairs these sums are the paper's differences and means over pairs. Cost per generation: O(popsize d).
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

from jaxtyping import Float, Int

from blackbox.arrays import Array, Key, namespace
from blackbox.es.antithetic import antithetic_normal, even_popsize
from blackbox.shaping import centered_ranks
from blackbox.strategy import algorithm, require_integer, require_number


class PGPEState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    mean: Float[Array, "d"]
    sigma: Float[Array, "d"]
    velocity: Float[Array, "d"]


@algorithm
class PGPE:
    """PGPE with ClipUp.

    Args:
        popsize: candidates per generation, even; by default about 4 + 3 ln d. Noisy objectives want hundreds.
        sigma0: initial standard deviation of every coordinate, in units of x.
        max_speed: longest step of the mean in a generation, in units of x; by default sqrt(d) * sigma0 / 15, the
            ratio of Toklu et al., section 3.
        lr: step length that each gradient adds to the velocity; by default half of max_speed.
        momentum: share of the velocity that is kept.
        lr_sigma: learning rate of sigma.
        max_change: largest relative change of sigma in a generation.
    """

    popsize: int | None = None
    sigma0: float = 1.0
    max_speed: float | None = None
    lr: float | None = None
    momentum: float = 0.9
    lr_sigma: float = 0.1
    max_change: float = 0.2

    injectable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, even=True)
        require_number("sigma0", self.sigma0, above=0)
        require_number("max_speed", self.max_speed, above=0)
        require_number("lr", self.lr, above=0)
        require_number("momentum", self.momentum, low=0, high=1)
        require_number("lr_sigma", self.lr_sigma, low=0)
        require_number("max_change", self.max_change, low=0, high=1)

    def init(self, key: Key, x0: Float[Array, "d"]) -> PGPEState:
        xp = namespace(x0)
        return PGPEState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            mean=x0,
            sigma=xp.ones_like(x0) * self.sigma0,
            velocity=xp.zeros_like(x0),
        )

    def ask(self, state: PGPEState, first: int = 0) -> Float[Array, "n d"]:
        popsize = self.popsize or even_popsize(state.mean.shape[0])
        steps = antithetic_normal(state.key, state.generation, popsize, first, state.mean)
        return state.mean + state.sigma * steps

    def tell(self, state: PGPEState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> PGPEState:
        xp = namespace(state.mean)
        popsize, d = population.shape
        steps = population - state.mean
        ranks = centered_ranks(fitness) / popsize
        g_mean = ranks @ steps
        g_sigma = ranks @ ((steps * steps - state.sigma**2) / state.sigma)

        max_speed = math.sqrt(d) * self.sigma0 / 15 if self.max_speed is None else self.max_speed
        lr = max_speed / 2 if self.lr is None else self.lr
        velocity = self.momentum * state.velocity + lr * g_mean / _length(g_mean)
        velocity = velocity * xp.minimum(max_speed / _length(velocity), 1.0)
        largest = self.max_change * state.sigma
        return PGPEState(
            key=state.key,
            generation=state.generation + 1,
            mean=state.mean - velocity,
            sigma=state.sigma - xp.clip(self.lr_sigma * g_sigma, -largest, largest),
            velocity=velocity,
        )

    def recommend(self, state: PGPEState) -> Float[Array, "d"]:
        return state.mean


def _length(x: Float[Array, "d"]) -> Float[Array, ""]:
    """Euclidean norm, kept off zero so that a flat generation gives no direction instead of NaN."""
    return namespace(x).sqrt(x @ x) + 1e-30
