"""PGPE with ClipUp: policy gradients with parameter-based exploration, from mirrored samples of a normal.

Sources: Sehnke et al. 2010, "Parameter-exploring policy gradients" (Neural Networks 23), algorithm 2, with centered
ranks r in place of rewards (best -1/2); Toklu, Liskowski & Srivastava 2020, "ClipUp: a simple and powerful optimizer
for distribution-based policy evolution" (arXiv:2008.02387), algorithm 1. With e_i = x_i - mean, sums over the
population, all vectors coordinate by coordinate:

    gradient <- sum_i r_i e_i / n
    velocity <- momentum velocity - lr gradient / |gradient|, shortened to at most max_speed
    mean     <- mean + velocity
    stdev    <- stdev - stdev_lr sum_i r_i (e_i^2 - stdev^2) / stdev / n, changed by at most stdev_max_change stdev

Over mirrored pairs these sums are the paper's. Centered ranks sum to 0, so that no baseline is needed.

Cost per generation: O(popsize d). State O(d).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.es.mirrored import default_popsize, mirrored_normal
from blackbox.shaping import centered_ranks
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class PGPEState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    mean: Float[Array, "d"]
    velocity: Float[Array, "d"]
    stdev: Float[Array, "d"]


@algorithm
class PGPE:
    """Policy gradients with parameter-based exploration.

    Args:
        popsize: candidates per generation, even; by default 2 (1 + floor(sqrt(d))), at most 200.
        sigma0: initial standard deviation, in units of x.
        max_speed: longest step of the mean; by default a fifteenth of the initial radius ``sigma0 sqrt(d)``.
        lr: step length along the normalized gradient; by default half of ``max_speed``.
        momentum: how much of the velocity is kept.
        stdev_lr: learning rate of the standard deviations.
        stdev_max_change: largest relative change of a standard deviation in one generation.
    """

    popsize: int | None = None
    sigma0: float = 1.0
    max_speed: float | None = None
    lr: float | None = None
    momentum: float = 0.9
    stdev_lr: float = 0.1
    stdev_max_change: float = 0.2

    generational: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, even=True)
        require_number("sigma0", self.sigma0, above=0)
        require_number("max_speed", self.max_speed, above=0)
        require_number("lr", self.lr, above=0)
        require_number("momentum", self.momentum, low=0, high=1)
        require_number("stdev_lr", self.stdev_lr, low=0)
        require_number("stdev_max_change", self.stdev_max_change, low=0, high=0.99)

    def init(self, key: Key, x0: Float[Array, "d"]) -> PGPEState:
        xp = namespace(x0)
        return PGPEState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            mean=x0,
            velocity=xp.zeros_like(x0),
            stdev=xp.ones_like(x0) * self.sigma0,
        )

    def ask(self, state: PGPEState, first: int = 0) -> Float[Array, "n d"]:
        popsize = self.popsize or default_popsize(state.mean.shape[0])
        z = mirrored_normal(state.key, state.generation, popsize, first, like=state.mean)
        return state.mean + state.stdev * z

    def tell(self, state: PGPEState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> PGPEState:
        xp = namespace(state.mean)
        gradient, stdev_gradient = gradients(population, fitness, state.mean, state.stdev)
        most = self.stdev_max_change * state.stdev
        change = xp.minimum(xp.maximum(-self.stdev_lr * stdev_gradient, -most), most)
        velocity = self._clip_up(state.velocity, gradient)
        return PGPEState(
            key=state.key,
            generation=state.generation + 1,
            mean=state.mean + velocity,
            velocity=velocity,
            stdev=xp.clip(state.stdev + change, 1e-30, 1e30),
        )

    def _clip_up(self, velocity: Float[Array, "d"], gradient: Float[Array, "d"]) -> Float[Array, "d"]:
        xp = namespace(velocity)
        radius = self.sigma0 * math.sqrt(velocity.shape[0])
        max_speed = radius / 15 if self.max_speed is None else self.max_speed
        lr = max_speed / 2 if self.lr is None else self.lr
        # Divided twice, so that squares neither overflow nor vanish.
        largest = xp.max(xp.abs(gradient))
        direction = gradient / xp.where(largest > 0, largest, xp.ones_like(largest))
        direction = direction / xp.maximum(xp.sqrt(direction @ direction), 0.5)
        velocity = self.momentum * velocity - lr * direction
        return velocity * xp.minimum(max_speed / (xp.sqrt(velocity @ velocity) + 1e-30), 1.0)

    def recommend(self, state: PGPEState) -> Float[Array, "d"]:
        return state.mean


def gradients(
    population: Float[Array, "n d"], fitness: Float[Array, "n"], mean: Float[Array, "d"], stdev: Float[Array, "d"]
) -> tuple[Float[Array, "d"], Float[Array, "d"]]:
    """Estimated gradients of the expected centered rank with respect to mean and stdev, both times the variance."""
    steps = population - mean
    weights = namespace(mean).astype(centered_ranks(fitness), mean.dtype) / population.shape[0]
    # The weights sum to 0, so that the -stdev^2 of each term drops out.
    return weights @ steps, (weights @ (steps * steps)) / stdev
