"""Multi-objective consensus-based optimization: each particle solves a problem of its own, and all of them the front.

Source: Borghi, Herty & Pareschi 2022, "An adaptive consensus based method for multi-objective optimization with uniform
Pareto front approximation", arXiv:2208.01362. Particle i has weights w_i on the simplex and minimizes the largest of
w_ik g_k, with g_k = (f_k - z_k) / (z'_k - z_k) for the objectives f. Over all particles j, with xi_i ~ N(0, I):

    v_i  =  sum_j x_j exp(-alpha max_k w_ik g_k(x_j)), normalized
    x_i <-  x_i - drift (x_i - v_i) + s |x_i - v_i| xi_i                coordinate by coordinate
    w_i <-  P(w_i - tau C / 2 mean_j (g_i - g_j) / |g_i - g_j| exp(-C |g_i - g_j|))

P is the projection onto the simplex: particles whose images are close repel each other (the Morse potential), and who
is to have more of an objective gets less weight on it. z is the lowest value of each objective so far, and z' its
highest on the swarm's own front; the authors' code takes both as known, 0 and 1. ``drift`` is the paper's lambda dt,
``s`` its sigma sqrt(dt), ``tau`` of two objectives twice its tau dt. The authors' values, 0.01, 0.3 and 0.002, are for
5000 steps; the defaults are for a hundred. Of the paper's potentials this is the one that is finite everywhere.

Where one end of the front is found long before the rest, as on ZDT2, whole swarms may end there.

Cost per generation: O(N^2 (d + k)) for N particles and k objectives. State O(N (d + k)). All arrays may have a leading
axis of runs, the key as well.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, namespace
from blackbox.cbo.consensus import softmin
from blackbox.cbo.diffusion import scales
from blackbox.cbo.swarm import asked, bounded, no_steps, of_each_run, spread, uniform_start, where_told
from blackbox.kernels.noise import normal
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_FARTHEST = 1e6  # g is at most, so that it is finite


@lru_cache(maxsize=64)
def even_weights(popsize: int, objectives: int) -> Float[np.ndarray, "popsize k"]:
    """Weights spread over the simplex: the gaps between sorted points of a lattice in the cube, uniform on both."""
    number, others = np.arange(popsize), max(0, objectives - 2)
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (others + 1))  # of x^(others + 1) = x + 1, whose powers make the R-sequence
    rows = [number / (popsize - 1), *(number * root**-power % 1.0 for power in range(1, others + 1))]
    points = np.sort(np.array([np.zeros(popsize), *rows[: objectives - 1], np.ones(popsize)]), axis=0)
    return np.ascontiguousarray(np.diff(points, axis=0).T)


def onto_simplex(weights: Float[Array, "*runs n k"]) -> Float[Array, "*runs n k"]:
    """The nearest weights that are not negative and sum to 1: all are lowered by one number, and cut at 0."""
    xp = namespace(weights)
    k = weights.shape[-1]
    largest = -xp.sort(-weights, axis=-1)
    lowered = (xp.cumulative_sum(largest, axis=-1) - 1.0) / xp.asarray(np.arange(1, k + 1), dtype=weights.dtype)
    return xp.maximum(weights - xp.max(lowered, axis=-1, keepdims=True), xp.zeros_like(weights))


class MultiObjectiveCBOState(NamedTuple):
    key: Key
    generation: Int[Array, "*runs"]
    particles: Float[Array, "*runs popsize d"]
    weights: Float[Array, "*runs popsize k"]
    ideal: Float[Array, "*runs k"]
    """The lowest value of each objective so far."""
    spread: Float[Array, "*runs"]
    evaluated: Float[Array, "*runs popsize d"]
    """Where the particles were when they were told last."""
    fitness: Float[Array, "*runs popsize k"]
    """What was told; very large before, and for failed ones."""


@algorithm
class MultiObjectiveCBO:
    """Multi-objective consensus-based optimization.

    Args:
        popsize: particles, at least 2.
        objectives: how many; with one, fitness is of shape (n,), else (n, objectives).
        sigma0: standard deviation of the first particles about x0, uniform in a cube of half width sqrt(3) sigma0.
        s: noise of a step, in units of the distance from a particle's consensus.
        drift: part of that distance by which a step shrinks it, from 0 to 1.
        alpha: how sharp the weights of a consensus are; objectives are in units of the front's extent.
        tau: how fast particles change their weights on the objectives; 0: not at all.
        C: inverse of how far particles repel each other, in units of the front's extent.
    """

    popsize: int = 100
    objectives: int = 1
    sigma0: float = 0.3
    s: float = 0.65
    drift: float = 0.5
    alpha: float = 1e6
    tau: float = 0.01
    C: float = 20.0

    positional: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2)
        require_integer("objectives", self.objectives, low=1, optional=False)
        for name in ("sigma0", "s", "alpha", "C"):
            require_number(name, getattr(self, name), above=0)
        require_number("drift", self.drift, above=0, high=1)
        require_number("tau", self.tau, low=0)

    def init(self, key: Key, x0: Float[Array, "*runs d"]) -> MultiObjectiveCBOState:
        xp = namespace(x0)
        particles = uniform_start(key, x0, self.popsize, self.sigma0)
        none = xp.zeros_like(particles[..., :1]) + xp.zeros((self.objectives,), dtype=x0.dtype)
        return MultiObjectiveCBOState(
            key=xp.asarray(key),
            generation=no_steps(x0),
            particles=particles,
            weights=none + xp.asarray(even_weights(self.popsize, self.objectives), dtype=x0.dtype),
            ideal=none[..., 0, :] + _largest(x0),
            spread=of_each_run(x0, self.sigma0),
            evaluated=xp.zeros_like(particles) + x0[..., None, :],
            fitness=none + _largest(x0),
        )

    def ask(self, state: MultiObjectiveCBOState, first: int = 0) -> Float[Array, "*runs n d"]:
        """The particles; further ones lie about these."""
        return asked(state, state.particles, first)

    def tell(
        self, state: MultiObjectiveCBOState, population: Float[Array, "*runs n d"], fitness: Float[Array, "*runs n *k"]
    ) -> MultiObjectiveCBOState:
        xp = namespace(state.particles)
        largest = _largest(state.particles)
        n = min(population.shape[-2], self.popsize)
        told = xp.reshape(fitness, (*population.shape[:-1], self.objectives))[..., :n, :]
        told = xp.astype(told, state.fitness.dtype)
        failed = xp.any(xp.isnan(told) | (told == xp.inf), axis=-1)
        told = xp.where(failed[..., None], xp.asarray(largest, dtype=told.dtype), xp.clip(told, -largest, largest))
        evaluated = population[..., :n, :]
        ideal = xp.minimum(state.ideal, xp.min(told, axis=-2))
        g = _scaled(told, failed, ideal)

        energy = xp.max(state.weights[..., :, None, :] * g[..., None, :, :], axis=-1)
        energy = xp.where(failed[..., None, :], xp.asarray(xp.inf, dtype=energy.dtype), energy)
        particles = where_told(state.particles, evaluated)
        offset = particles - softmin(energy, self.alpha) @ evaluated
        z = normal(state.key, state.generation, particles.shape, like=particles)
        moved = particles - self.drift * offset + self.s * scales("anisotropic", offset) * z

        lighter = state.weights[..., :n, :] - self.tau * _repulsion(g, failed, self.C)
        return MultiObjectiveCBOState(
            key=state.key,
            generation=state.generation + 1,
            particles=bounded(moved),
            weights=where_told(state.weights, onto_simplex(lighter)),
            ideal=ideal,
            spread=spread(offset),
            evaluated=where_told(state.evaluated, evaluated),
            fitness=where_told(state.fitness, told),
        )

    def recommend(self, state: MultiObjectiveCBOState) -> Float[Array, "*runs d"]:
        """Of the particles told last, the one whose largest scaled objective is least."""
        xp = namespace(state.particles)
        failed = xp.any(state.fitness >= _largest(state.particles), axis=-1)
        worst = xp.max(_scaled(state.fitness, failed, state.ideal), axis=-1)
        chosen = xp.argmin(xp.where(failed, xp.asarray(xp.inf, dtype=worst.dtype), worst), axis=-1, keepdims=True)
        return xp.take_along_axis(state.evaluated, chosen[..., None], axis=-2)[..., 0, :]


def _largest(like: Float[Array, "*n"]) -> float:
    """What failed particles have, and greater values count as; differences of such values are finite."""
    return float(namespace(like).finfo(like.dtype).max) / 4


def _scaled(
    fitness: Float[Array, "*runs n k"], failed: Bool[Array, "*runs n"], ideal: Float[Array, "*runs k"]
) -> Float[Array, "*runs n k"]:
    """g: 0 at the lowest value so far, 1 at the highest of those that no other particle dominates."""
    xp = namespace(fitness)
    a, b = fitness[..., :, None, :], fitness[..., None, :, :]
    beaten = xp.any(xp.all(a <= b, axis=-1) & xp.any(a < b, axis=-1), axis=-2) | failed
    low = ideal[..., None, :]
    extent = xp.max(xp.where(beaten[..., None], low, fitness), axis=-2, keepdims=True) - low
    extent = xp.where(extent > 0, extent, xp.ones_like(extent))
    return xp.minimum(fitness - low, _FARTHEST * extent) / extent


def _repulsion(
    g: Float[Array, "*runs n k"], failed: Bool[Array, "*runs n"], C: Array | float
) -> Float[Array, "*runs n k"]:
    """Where the Morse potential exp(-C r), summed over the others, drives the image of each particle."""
    xp = namespace(g)
    between = g[..., :, None, :] - g[..., None, :, :]
    counts = ~(failed[..., :, None] | failed[..., None, :])[..., None]
    between = xp.where(counts, between, xp.zeros_like(between))
    r = xp.max(xp.abs(between), axis=-1, keepdims=True)  # in units of which no square overflows
    unit = between / xp.where(r > 0, r, xp.ones_like(r))
    length = xp.sqrt(xp.sum(unit * unit, axis=-1, keepdims=True))
    away = unit / xp.where(length > 0, length, xp.ones_like(length))
    far = xp.minimum(r * length, xp.zeros_like(r) + 1000.0 / C)  # where the exponential is 0 in any dtype
    return xp.sum(0.5 * C * away * xp.exp(-C * far), axis=-2) / max(1, g.shape[-2] - 1)
