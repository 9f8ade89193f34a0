"""Dominated novelty search: a population whose members survive by how far they are from those that are fitter.

Source: Bahlous-Boldi, Faldor, Grillotti, Janmohamed, Coiffard, Spector & Cully 2025, "Dominated novelty search:
rethinking local competition in quality-diversity" (arXiv:2502.00593). One generation:

    offspring   Iso+LineDD of two members, drawn uniformly (:mod:`blackbox.qd.variation`)
    score       mean distance of each descriptor to its k nearest among the fitter; infinite for the best
    survival    the ``capacity`` best by score, of members and offspring together

There are no cells and no bounds. Of equal fitness, who was there first counts as fitter, so that copies do not support
each other and survivors do not depend on how a sort treats ties.

Cost per generation: O(popsize d + (capacity + popsize)^2). State O(capacity d).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.kernels.noise import normal, uniform
from blackbox.qd.behaviour import blocks, distances, mean_of_least
from blackbox.qd.descriptors import descriptors_of
from blackbox.qd.variation import iso_line
from blackbox.shaping import best_first
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class DominatedNoveltySearchState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    x0: Float[Array, "d"]
    population: Float[Array, "capacity d"]
    """Those that are there before those that are not."""
    fitness: Float[Array, "capacity"]
    """Infinite where nobody is."""
    descriptors: Float[Array, "capacity k"]


@algorithm
class DominatedNoveltySearch:
    """Dominated novelty search.

    ``tell`` takes the descriptors of the population as its last argument, of shape (n, dimensions); without them, as in
    ``bb.minimize``, they are a member's first coordinates.

    Args:
        capacity: most members of the population.
        popsize: candidates per generation.
        dimensions: numbers that describe what a candidate does.
        sigma0: standard deviation of the first generation about x0.
        iso_sigma: standard deviation of the noise in each coordinate, in units of x.
        line_sigma: standard deviation along the line to another member, in units of their distance.
        k: nearest fitter members that count.
    """

    capacity: int = 1000
    popsize: int = 100
    dimensions: int = 2
    sigma0: float = 0.3
    iso_sigma: float = 0.01
    line_sigma: float = 0.2
    k: int = 3

    def __post_init__(self) -> None:
        for name in ("capacity", "popsize", "dimensions", "k"):
            require_integer(name, getattr(self, name), low=1, optional=False)
        require_number("sigma0", self.sigma0, above=0)
        require_number("iso_sigma", self.iso_sigma, above=0)
        require_number("line_sigma", self.line_sigma, low=0)

    def init(self, key: Key, x0: Float[Array, "d"]) -> DominatedNoveltySearchState:
        xp = namespace(x0)
        return DominatedNoveltySearchState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            x0=x0,
            population=xp.zeros((self.capacity, x0.shape[0]), dtype=x0.dtype),
            fitness=xp.full((self.capacity,), xp.inf, dtype=x0.dtype),
            descriptors=xp.zeros((self.capacity, self.dimensions), dtype=x0.dtype),
        )

    def ask(self, state: DominatedNoveltySearchState, first: int = 0) -> Float[Array, "n d"]:
        xp = namespace(state.x0)
        d = state.x0.shape[0]
        u = uniform(state.key, state.generation, (self.popsize, 2), leaf=1, first=first, like=state.x0)
        z = normal(state.key, state.generation, (self.popsize, d + 1), first=first, like=state.x0)
        count = xp.sum(xp.astype(state.fitness < xp.inf, state.generation.dtype))
        member = xp.astype(u * xp.astype(count, u.dtype), count.dtype)
        one, other = (xp.take(state.population, member[:, side], axis=0) for side in (0, 1))
        varied = iso_line(one, other, z, self.iso_sigma, self.line_sigma)
        return xp.where(count == 0, state.x0 + self.sigma0 * z[:, :d], varied)

    def tell(
        self,
        state: DominatedNoveltySearchState,
        population: Float[Array, "n d"],
        fitness: Float[Array, "n"],
        descriptors: Float[Array, "n k"] | None = None,
    ) -> DominatedNoveltySearchState:
        xp = namespace(state.x0)
        told = descriptors_of(population, descriptors, self.dimensions)
        valid = xp.isfinite(fitness) & xp.all(xp.isfinite(told), axis=1)
        f = xp.concat([state.fitness, xp.astype(xp.where(valid, fitness, xp.inf), state.fitness.dtype)])
        descriptors = xp.concat([state.descriptors, xp.where(valid[:, None], told, 0.0)])
        score = xp.where(f < xp.inf, dominated_novelty(descriptors, f, self.k), -xp.inf)
        order = best_first(-score)[: self.capacity]
        return DominatedNoveltySearchState(
            key=state.key,
            generation=state.generation + 1,
            x0=state.x0,
            population=xp.take(xp.concat([state.population, population]), order, axis=0),
            fitness=xp.take(f, order),
            descriptors=xp.take(descriptors, order, axis=0),
        )

    def recommend(self, state: DominatedNoveltySearchState) -> Float[Array, "d"]:
        """The fittest member."""
        xp = namespace(state.x0)
        best = xp.take(state.population, xp.argmin(state.fitness)[None], axis=0)[0, :]
        return xp.where(xp.min(state.fitness) < xp.inf, best, state.x0)


def dominated_novelty(
    descriptors: Float[Array, "n k"], fitness: Float[Array, "n"], neighbours: int
) -> Float[Array, "n"]:
    """The mean distance of each to the nearest of those that are fitter; infinite for the fittest."""
    xp = namespace(fitness)
    rank = xp.argsort(best_first(fitness), stable=True)
    means = []
    for part in blocks(descriptors.shape[0], descriptors.shape[0] * descriptors.shape[1]):
        is_fitter = rank < rank[part, None]
        distance = distances(descriptors[part, :], descriptors)
        means.append(mean_of_least(xp.where(is_fitter, distance, xp.inf), neighbours))
    return xp.concat(means)
