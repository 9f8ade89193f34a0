"""Novelty search: a genetic algorithm that selects what does something new, whatever its fitness.

Sources: Lehman & Stanley 2011 (doi:10.1162/EVCO_a_00025); as in the experiments of Such et al. 2017, "Deep
neuroevolution" (arXiv:1712.06567), GA-NS: mutation alone, and truncation selection. One generation:

    parents     the T most novel of the generation before, each as likely
    offspring   parent + sigma N(0, I)
    novelty     mean distance of a behaviour to its k nearest in the archive and the generation
    archive     + each behaviour of the generation, with a probability of insertion

Failed members are no parents, and former parents stay where there are fewer than T others. The recommendation is the
fittest individual ever seen. The archive is a ring: when it is full, its oldest behaviours go.

Cost per generation: O(popsize d + popsize (capacity + popsize)). State O(parents d + capacity).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.best import Best, better_of, none_yet
from blackbox.kernels.noise import normal, uniform
from blackbox.qd.behaviour import Behaviours, nothing, novelty, remember
from blackbox.qd.descriptors import descriptors_of
from blackbox.shaping import best_first
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class NoveltySearchState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    parents: Float[Array, "T d"]
    """Most novel first."""
    archive: Behaviours
    best: Best


@algorithm
class NoveltySearch:
    """Novelty search by a genetic algorithm.

    ``tell`` takes the behaviours of the population as its last argument, of shape (n, dimensions); without them, as in
    ``bb.minimize``, they are a member's first coordinates.

    Args:
        popsize: candidates per generation.
        parents: how many survive, T; at most popsize.
        dimensions: numbers that describe a behaviour.
        sigma0: standard deviation of the first generation about x0.
        sigma: standard deviation of mutations.
        k: nearest behaviours that novelty is the mean distance to.
        insertion: probability with which a behaviour enters the archive.
        capacity: most behaviours of the archive.
        squared: whether distances are squared, as in the maze of Such et al.
    """

    popsize: int = 100
    parents: int = 20
    dimensions: int = 2
    sigma0: float = 0.3
    sigma: float = 0.1
    k: int = 25
    insertion: float = 0.01
    capacity: int = 1000
    squared: bool = False

    def __post_init__(self) -> None:
        for name in ("popsize", "parents", "dimensions", "k", "capacity"):
            require_integer(name, getattr(self, name), low=1, optional=False)
        require_number("sigma0", self.sigma0, above=0)
        require_number("sigma", self.sigma, above=0)
        require_number("insertion", self.insertion, low=0, high=1)

    def init(self, key: Key, x0: Float[Array, "d"]) -> NoveltySearchState:
        xp = namespace(x0)
        return NoveltySearchState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            parents=xp.broadcast_to(x0, (self.parents, x0.shape[0])) + xp.zeros_like(x0),
            archive=nothing(self.capacity, self.dimensions, x0),
            best=none_yet(x0),
        )

    def ask(self, state: NoveltySearchState, first: int = 0) -> Float[Array, "n d"]:
        xp = namespace(state.parents)
        d = state.parents.shape[1]
        u = uniform(state.key, state.generation, (self.popsize, 1), leaf=1, first=first, like=state.parents)[:, 0]
        z = normal(state.key, state.generation, (self.popsize, d), first=first, like=state.parents)
        parent = xp.take(state.parents, xp.astype(u * self.parents, state.generation.dtype), axis=0)
        return parent + xp.where(state.generation == 0, self.sigma0 * z, self.sigma * z)

    def tell(
        self,
        state: NoveltySearchState,
        population: Float[Array, "n d"],
        fitness: Float[Array, "n"],
        descriptors: Float[Array, "n k"] | None = None,
    ) -> NoveltySearchState:
        xp = namespace(state.parents)
        told = descriptors_of(population, descriptors, self.dimensions)
        valid = (fitness < xp.inf) & xp.all(xp.isfinite(told), axis=1)  # NaN is not below infinity
        told = xp.where(valid[:, None], told, 0.0)
        score = novelty(told, valid, state.archive, self.k, squared=self.squared)
        # Former parents rank below all that is told, but for what has failed.
        score = xp.concat([xp.where(valid, score, -2.0), xp.full((self.parents,), -1.0, dtype=told.dtype)])
        order = best_first(-score)
        everyone = xp.concat([population, state.parents])
        # By novelty, so that who enters the archive does not depend on the order of the members.
        ranked = best_first(-score[: told.shape[0]])
        chance = uniform(state.key, state.generation, (told.shape[0], 1), leaf=2, like=told)[:, 0]
        chosen = (chance < self.insertion) & xp.take(valid, ranked)
        return NoveltySearchState(
            key=state.key,
            generation=state.generation + 1,
            parents=xp.take(everyone, order[: self.parents], axis=0),
            archive=remember(state.archive, xp.take(told, ranked, axis=0), chosen),
            best=better_of(state.best, population, fitness),
        )

    def recommend(self, state: NoveltySearchState) -> Float[Array, "d"]:
        """The fittest individual ever seen."""
        return state.best.x
