"""What swarms have in common: how they start, how results reach their particles, and whether they have agreed.

Everything here takes any number of leading axes, for runs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from blackbox.arrays import Array, Key, namespace, settled
from blackbox.cbo.diffusion import squared_length
from blackbox.kernels.noise import normal, uniform
from blackbox.shaping import finite_or_worst

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

LARGEST = 1e8
"""Coordinates stay within: heavy-tailed noise throws particles far, and some never return."""

STOPPED = 1e-12
"""The distance from the consensus at which nothing moves any more, in units of sigma0."""


def batch_of(settings: Any) -> int:
    """Particles of a generation: all of them where there are no more than ``batch``, as in small restarts."""
    popsize: int = settings.popsize
    return popsize if settings.batch is None else min(settings.batch, popsize)


def no_steps(x0: Float[Array, "*runs d"]) -> Int[Array, "*runs"]:
    """The count of each run at its start."""
    xp = namespace(x0)
    return settled(xp.astype(xp.zeros_like(x0[..., 0]), xp.asarray(0).dtype))


def of_each_run(x0: Float[Array, "*runs d"], value: Array | float) -> Float[Array, "*runs"]:
    """One number for each run."""
    return settled(namespace(x0).zeros_like(x0[..., 0]) + value)


def uniform_start(
    key: Key, x0: Float[Array, "*runs d"], popsize: int, sigma0: Array | float, leaf: int = 1
) -> Float[Array, "*runs popsize d"]:
    """Particles uniform in a cube about ``x0``, of standard deviation ``sigma0``."""
    shape = (*x0.shape[:-1], popsize, x0.shape[-1])
    return x0[..., None, :] + sigma0 * math.sqrt(12.0) * (uniform(key, 0, shape, leaf=leaf, like=x0) - 0.5)


def asked(state: Any, particles: Float[Array, "*runs n d"], first: int) -> Float[Array, "*runs n d"]:
    """The particles, or from ``first > 0`` on points as far from them as they are from the consensus."""
    if first == 0:
        return particles
    z = normal(state.key, state.generation, particles.shape, first=first, leaf=2, like=particles)
    return particles + state.spread[..., None, None] * z


def results(
    population: Float[Array, "*runs m d"], fitness: Float[Array, "*runs m"], most: int, dtype: Any
) -> tuple[Float[Array, "*runs n d"], Float[Array, "*runs n"]]:
    """What was told of particles, of which there are at most so many: where they were evaluated, and their energy."""
    told = min(population.shape[-2], most)
    return population[..., :told, :], finite_or_worst(fitness, dtype)[..., :told]


def where_told(
    particles: Float[Array, "*runs n d"], population: Float[Array, "*runs m d"]
) -> Float[Array, "*runs n d"]:
    """The particles where they were evaluated, of which the first ``m`` have been; the others where they are."""
    xp = namespace(particles)
    told = min(population.shape[-2], particles.shape[-2])
    if told == particles.shape[-2]:
        return population[..., :told, :]
    return xp.concat([population[..., :told, :], particles[..., told:, :]], axis=-2)


def order_of_turns(
    key: Key, generation: Int[Array, "*runs"], particles: Float[Array, "*runs n d"], batch: int, leaf: int = 4
) -> Int[Array, "*runs n"]:
    """Which particle comes to each place, so that the next batch is in front: those of the last one go to the end, and
    when all have had their turn the swarm is shuffled (Carrillo, Jin, Li & Zhu 2021, algorithm 2.1)."""
    xp = namespace(particles)
    n = particles.shape[-2]
    lots = uniform(key, generation, particles.shape[:-1], leaf=leaf, like=particles)
    order = xp.argsort(lots, axis=-1, stable=True)
    is_last = ((generation + 1) % (n // batch) == 0)[..., None]  # some have no turn if it is no divisor of n
    return xp.where(is_last, order, (xp.zeros_like(order) + xp.arange(n) + batch) % n)


def in_order(rows: Float[Array, "*runs n d"], order: Int[Array, "*runs n"]) -> Float[Array, "*runs n d"]:
    """Rows as they come to their places; every array that has one for each particle is to be put in the same order."""
    return namespace(rows).take_along_axis(rows, order[..., None], axis=-2)


def dealt(
    key: Key, generation: Int[Array, "*runs"], particles: Float[Array, "*runs n d"], batch: int, leaf: int = 4
) -> Float[Array, "*runs n d"]:
    """The particles with the next batch in front."""
    return in_order(particles, order_of_turns(key, generation, particles, batch, leaf))


def bounded(particles: Float[Array, "*runs n d"]) -> Float[Array, "*runs n d"]:
    return namespace(particles).clip(particles, -LARGEST, LARGEST)


def most_agree(
    squares: Float[Array, "*runs n"], consensus: Float[Array, "*runs #n d"], within: Array | float
) -> Bool[Array, "*runs"]:
    """Whether more than half of the particles are within a distance of the consensus, or as near as rounding allows.

    Half, since noise in proportion to the distance has a heavy tail: some are always far. The distance is the root mean
    square of a coordinate, ``squares`` are the squared lengths, and the consensus may be one for each particle.
    """
    xp = namespace(consensus)
    rounding = 16 * xp.finfo(consensus.dtype).eps * xp.max(xp.abs(consensus), axis=-1)
    limit = xp.maximum(rounding, xp.zeros_like(rounding) + within)
    limit = limit if limit.ndim == squares.ndim else limit[..., None]
    is_near = xp.astype(squares <= consensus.shape[-1] * limit * limit, squares.dtype)
    return settled(xp.mean(is_near, axis=-1) > 0.5)


def spread(offset: Float[Array, "*runs n d"], squares: Float[Array, "*runs n"] | None = None) -> Float[Array, "*runs"]:
    """How far particles are from the consensus: the root mean square of a coordinate; ``squares`` if they are known."""
    xp = namespace(offset)
    squares = squared_length(offset) if squares is None else squares
    return xp.sqrt(xp.mean(squares, axis=-1) / offset.shape[-1])
