"""NSGA-II: a population that keeps the best fronts of several objectives, and of the last one what is least crowded.

Source: Deb, Pratap, Agarwal & Meyarivan 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II",
doi:10.1109/4235.996017. One generation, of N members:

    parents     two tournaments of two: the lower front wins, within a front the larger crowding distance
    crossover   simulated binary (SBX, Deb & Agrawal 1995), eta = 15, of a pair with probability 0.9
    mutation    polynomial, eta = 20, of each variable with probability 1 / variables
    survival    parents and children together: whole fronts as long as there is room, then by crowding distance

Front 1 is dominated by nothing, front 2 by front 1 alone, and so on; the crowding distance of a member is the sum over
objectives of the gap between its neighbors within the front, in units of the front's extent, infinite at the ends.

Members 2k and 2k + 1 are the two children of a pair, and what one takes from a parent the other takes from the other
parent. Each member enters as many tournaments as all others, as in the authors' code. Integers are crossed and mutated
as numbers, by eta = 3; choices are taken from either parent, and mutated to any option. A child that would be a copy of
its parent is mutated in one variable. With one objective it is an elitist genetic algorithm.

Cost per generation: O(N d + N^2 (k + fronts)) for k objectives. State O(N (d + k)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from blackbox.arrays import Array, Key, namespace, while_loop
from blackbox.ga.mating import children, entrants, founders, parts, parts_of
from blackbox.layout import Layout
from blackbox.strategy import algorithm, require_box, require_integer

if TYPE_CHECKING:
    from jaxtyping import Float, Int

PAIRED = 0.9  # probability of crossover
MOST = 100  # members by default, as in the paper
GENERATIONS = 12  # for which the planned evaluations shall suffice
LEAST = 12


class NSGA2State(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    population: Float[Array, "N d"]
    """Best first."""
    fitness: Float[Array, "N k"]
    """Very large before the first evaluation, and for failed members."""
    front: Int[Array, "N"]
    crowding: Float[Array, "N"]


@algorithm
class NSGA2:
    """NSGA-II, for several objectives.

    Args:
        popsize: members, at least 4; by default 100, or a twelfth of the planned evaluations if that is less.
        objectives: how many; with one, fitness is of shape (n,), else (n, objectives).
        evaluations: planned number of evaluations.
        layout: ``Space.layout``, see :class:`blackbox.es.CatCMA`; None: all floats.
        low: lower bound of every coordinate.
        high: upper bound of every coordinate.
    """

    popsize: int | None = None
    objectives: int = 1
    evaluations: int | None = None
    layout: Layout | None = None
    low: float = 0.0
    high: float = 1.0

    injectable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=4)
        require_integer("objectives", self.objectives, low=1, optional=False)
        require_integer("evaluations", self.evaluations, low=1)
        require_box(self.low, self.high)
        if self.layout is not None:
            parts(self.layout)

    def init(self, key: Key, x0: Float[Array, "d"]) -> NSGA2State:
        """The start: ``x0`` and uniform points."""
        xp = namespace(x0)
        parts_of(self.layout, x0.shape[0])
        planned = MOST if self.evaluations is None else self.evaluations // GENERATIONS
        n = self.popsize or min(MOST, max(LEAST, planned))
        return NSGA2State(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            population=founders(key, x0, n, self.low, self.high),
            fitness=xp.full((n, self.objectives), largest(x0), dtype=x0.dtype),
            front=xp.zeros((n,), dtype=xp.asarray(0).dtype),
            crowding=xp.zeros((n,), dtype=x0.dtype),
        )

    def ask(self, state: NSGA2State, first: int = 0) -> Float[Array, "n d"]:
        n = state.crowding.shape[0]
        parents = [_winners(state, *two) for two in entrants(state.key, state.generation, n, first, state.crowding)]
        p = parts_of(self.layout, state.population.shape[1])
        return children(state.key, state.generation, state.population, parents, first, p, self.low, self.high, PAIRED)

    def tell(self, state: NSGA2State, population: Float[Array, "n d"], fitness: Float[Array, "n *k"]) -> NSGA2State:
        xp = namespace(state.population)
        n = state.population.shape[0]
        told = comparable(population, fitness, state.fitness, self.low, self.high)
        every = xp.concat([state.fitness, told])
        front = fronts(every)
        crowding = crowding_distances(every, front)
        order = xp.argsort(every[:, 0], stable=True)  # what else is equal, by the first objective
        order = xp.take(order, xp.argsort(-xp.take(crowding, order), stable=True))
        order = xp.take(order, xp.argsort(xp.take(front, order), stable=True))[:n]
        return NSGA2State(
            key=state.key,
            generation=state.generation + 1,
            population=xp.take(xp.concat([state.population, population]), order, axis=0),
            fitness=xp.take(every, order, axis=0),
            front=xp.take(front, order),
            crowding=xp.take(crowding, order),
        )

    def recommend(self, state: NSGA2State) -> Float[Array, "d"]:
        """The compromise of the first front, see :func:`compromise`."""
        return compromise(state.population, state.fitness, state.front)


def fronts(fitness: Float[Array, "n k"]) -> Int[Array, "n"]:
    """The number of each row's front, from 0."""
    xp = namespace(fitness)
    a, b = fitness[:, None, :], fitness[None, :, :]
    dominates = xp.all(a <= b, axis=-1) & xp.any(a < b, axis=-1)
    none = xp.zeros((fitness.shape[0],), dtype=xp.asarray(0).dtype) - 1

    def peel(found: tuple[Array, Array]) -> tuple[Array, Array]:
        number, front = found
        left = front < 0
        beaten = xp.any(dominates & left[:, None], axis=0)
        return number + 1, xp.where(left & ~beaten, number, front)

    return while_loop(lambda found: xp.any(found[1] < 0), peel, (xp.asarray(0)[()], none))[1]


def crowding_distances(fitness: Float[Array, "n k"], front: Int[Array, "n"]) -> Float[Array, "n"]:
    """The gap between each row's neighbors in its front, summed over objectives; infinite at the ends."""
    xp = namespace(fitness)
    total = xp.zeros_like(fitness[:, 0])
    for j in range(fitness.shape[1]):
        order = xp.argsort(fitness[:, j], stable=True)
        order = xp.take(order, xp.argsort(xp.take(front, order), stable=True))
        f, number = xp.take(fitness[:, j], order), xp.take(front, order)
        is_start = xp.concat([xp.ones_like(number[:1]), number[1:] - number[:-1]]) > 0
        is_end = xp.concat([is_start[1:], is_start[:1]])  # the first row starts a front
        low = xp.take(f, xp.searchsorted(number, number, side="left"))
        high = xp.take(f, xp.searchsorted(number, number, side="right") - 1)
        gap = xp.concat([f[1:], f[-1:]]) - xp.concat([f[:1], f[:-1]])
        gap = xp.where(is_start | is_end, 0.0, gap) / xp.where(high > low, high - low, xp.ones_like(low))
        gap = xp.where(is_start | is_end, xp.inf, gap)
        total = total + xp.take(gap, xp.argsort(order, stable=True))
    return total


def _winners(state: NSGA2State, i: Int[Array, "n"], j: Int[Array, "n"]) -> Int[Array, "n"]:
    """Of each two members the one of the lower front or, within a front, the less crowded one."""
    xp = namespace(state.crowding)
    front_i, front_j = xp.take(state.front, i), xp.take(state.front, j)
    is_less_crowded = xp.take(state.crowding, i) >= xp.take(state.crowding, j)
    return xp.where((front_i < front_j) | ((front_i == front_j) & is_less_crowded), i, j)


def comparable(
    population: Float[Array, "n d"],
    fitness: Float[Array, "n *k"],
    like: Float[Array, "N k"],
    low: Array | float,
    high: Array | float,
) -> Float[Array, "n k"]:
    """Finite values, one for each objective: :func:`largest` ones of members that failed or left the box."""
    xp = namespace(like)
    worst = largest(like)
    told = xp.astype(xp.reshape(fitness, (population.shape[0], like.shape[1])), like.dtype)
    inside = xp.all((population >= low) & (population <= high), axis=1)
    failed = xp.any(xp.isnan(told) | (told == xp.inf), axis=1) | ~inside
    return xp.where(failed[:, None], worst, xp.clip(told, -worst, worst))


def compromise(
    population: Float[Array, "n d"], fitness: Float[Array, "n k"], front: Int[Array, "n"]
) -> Float[Array, "d"]:
    """Of the first front, the member nearest to the best value of each objective, in units of its extent."""
    xp = namespace(population)
    is_first = (front == 0)[:, None]
    low = xp.min(fitness, axis=0)
    high = xp.max(xp.where(is_first, fitness, low), axis=0)
    share = (fitness - low) / xp.where(high > low, high - low, xp.ones_like(low))
    distance = xp.where(is_first[:, 0], xp.sum(xp.clip(share, 0.0, 1.0) ** 2, axis=1), xp.inf)
    return xp.take(population, xp.argmin(distance)[None], axis=0)[0, :]


def largest(like: Float[Array, "*n"]) -> float:
    """What failed members have, and greater values count as; differences of such values are finite."""
    return float(namespace(like).finfo(like.dtype).max) / 4
