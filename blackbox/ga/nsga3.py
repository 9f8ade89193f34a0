"""NSGA-III: of the last front, what fills the niches of reference directions spread over the objectives.

Source: Deb & Jain 2014, "An evolutionary many-objective optimization algorithm using reference-point-based
nondominated sorting approach, part I", doi:10.1109/TEVC.2013.2281535, algorithms 1 to 4. One generation, of N members:

    children    SBX, eta = 30, of every pair, and polynomial mutation, eta = 20, as in NSGA-II
    survival    parents and children together: whole fronts as long as there is room; of the last one l
      normalize   (f - ideal) / intercepts, of the plane through the extreme point of each objective
      associate   each member up to l with the direction whose line from the origin it is nearest to
      niches      the direction of fewest survivors gets, from l, its nearest member if it had none, else any of its own

The directions are those of Das & Dennis (:mod:`blackbox.ga.directions`).

Ideal is the least value so far. The extreme point of an objective is that member of the first front, or of the extreme
points before, whose greatest share of the intercepts is least if shares of other objectives count a million times (the
achievement function). Where the plane through them is none, or misses an axis, the front's greatest values replace it.

Departures: shares are first taken of the first front's extent, so that no scale of an objective matters. Extremes are
sought in the first front and kept, where the paper seeks them in all fronts up to l: others only stretch the scale, and
the plane is steadier. Shares below 1e-3 count as none, as in pymoo: else what is a millionth from an axis would be
preferred to what has converged. All members are parents once, as the paper holds all for equally important; but where
another one that is drawn is of a lower front, it takes the place, which makes what keeps constraints win, as in part
II. Niches are filled by one sort: the c-th survivor of a direction enters at level c, and of one level the directions
follow in a random order, as in the paper's loop.

Cost per generation: O(N d + N^2 (M + fronts) + N H M) for H directions. State O(N (d + M)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, namespace
from blackbox.ga.directions import divisions_for, reference_directions
from blackbox.ga.mating import children, entrants, founders, parts, parts_of
from blackbox.ga.niching import niched, normalized
from blackbox.ga.nsga2 import GENERATIONS, LEAST, comparable, compromise, fronts, largest
from blackbox.kernels.noise import uniform
from blackbox.layout import Layout
from blackbox.strategy import algorithm, require_box, require_integer

if TYPE_CHECKING:
    from jaxtyping import Float, Int

ETA = 30.0  # of crossover, as in the paper
MANY = 3  # objectives, above which
MOST = (100, 275)  # directions at most by default: the paper has 91 for 3 objectives, and 275 for 10


class NSGA3State(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    population: Float[Array, "N d"]
    """Whole fronts first."""
    fitness: Float[Array, "N k"]
    """Very large before the first evaluation, and for failed members."""
    front: Int[Array, "N"]
    ideal: Float[Array, "k"]
    """The least value of each objective so far."""
    extremes: Float[Array, "k k"]
    """For each objective the member nearest to its axis so far; very large before the first."""


@algorithm
class NSGA3:
    """NSGA-III, for three and more objectives.

    Args:
        popsize: members, at least 4; by default the least multiple of 4 that is not below the number of directions.
        objectives: how many, M; with one, fitness is of shape (n,), else (n, objectives).
        divisions: of each axis, p, or of both layers; by default as many as the popsize has room for, or without one
            the paper's: (12,) for 3 objectives, (6,) for 5, (3, 2) for 8 and 10; fewer if a twelfth of the planned
            evaluations is less.
        evaluations: planned number of evaluations.
        layout: ``Space.layout``, see :class:`blackbox.es.CatCMA`; None: all floats.
        low: lower bound of every coordinate.
        high: upper bound of every coordinate.
    """

    popsize: int | None = None
    objectives: int = 1
    divisions: tuple[int, ...] | None = None
    evaluations: int | None = None
    layout: Layout | None = None
    low: float = 0.0
    high: float = 1.0

    injectable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=4)
        require_integer("objectives", self.objectives, low=1, optional=False)
        require_integer("evaluations", self.evaluations, low=1)
        for number in self.divisions or ():
            require_integer("divisions", number, low=1, optional=False)
        require_box(self.low, self.high)
        if self.layout is not None:
            parts(self.layout, ETA)

    def init(self, key: Key, x0: Float[Array, "d"]) -> NSGA3State:
        """The start: ``x0`` and uniform points."""
        xp = namespace(x0)
        parts_of(self.layout, x0.shape[0], ETA)
        count = self._room if self.objectives == 1 else len(self.directions)
        n = self.popsize or max(4, -(-count // 4) * 4)
        return NSGA3State(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            population=founders(key, x0, n, self.low, self.high),
            fitness=xp.full((n, self.objectives), largest(x0), dtype=x0.dtype),
            front=xp.zeros((n,), dtype=xp.asarray(0).dtype),
            ideal=xp.full((self.objectives,), largest(x0), dtype=x0.dtype),
            extremes=xp.full((self.objectives, self.objectives), largest(x0), dtype=x0.dtype),
        )

    def ask(self, state: NSGA3State, first: int = 0) -> Float[Array, "n d"]:
        n, d = state.population.shape
        two, others = entrants(state.key, state.generation, n, first, state.population)
        parents = [_winners(state.front, i, j) for i, j in zip(two, others, strict=True)]
        p = parts_of(self.layout, d, ETA)
        return children(state.key, state.generation, state.population, parents, first, p, self.low, self.high, 1.0)

    def tell(self, state: NSGA3State, population: Float[Array, "n d"], fitness: Float[Array, "n *k"]) -> NSGA3State:
        xp = namespace(state.population)
        n = state.population.shape[0]
        told = comparable(population, fitness, state.fitness, self.low, self.high)
        everyone, every = xp.concat([state.population, population]), xp.concat([state.fitness, told])
        # By their values, so that nothing that follows depends on the order of the members.
        order = xp.arange(every.shape[0])
        for j in range(self.objectives):
            order = xp.take(order, xp.argsort(xp.take(every[:, j], order), stable=True))
        every = xp.take(every, order, axis=0)
        front = fronts(every)
        ideal = xp.minimum(state.ideal, xp.min(told, axis=0))
        last = xp.sort(front)[n - 1]
        s, extremes = normalized(every, front, last, ideal, state.extremes)
        u = uniform(state.key, state.generation, (every.shape[0] + len(self.directions), 1), leaf=4, like=s)[:, 0]
        level, turn = niched(s, front, last, xp.asarray(self.directions, dtype=s.dtype), u)
        rank = xp.argsort(turn, stable=True)
        rank = xp.take(rank, xp.argsort(xp.take(level, rank), stable=True))
        rank = xp.take(rank, xp.argsort(xp.take(front, rank), stable=True))[:n]
        return NSGA3State(
            key=state.key,
            generation=state.generation + 1,
            population=xp.take(everyone, xp.take(order, rank), axis=0),
            fitness=xp.take(every, rank, axis=0),
            front=xp.take(front, rank),
            ideal=ideal,
            extremes=extremes,
        )

    def recommend(self, state: NSGA3State) -> Float[Array, "d"]:
        """The compromise of the first front, see :func:`blackbox.ga.nsga2.compromise`."""
        return compromise(state.population, state.fitness, state.front)

    @property
    def directions(self) -> Float[np.ndarray, "H k"]:
        """The reference directions, of length 1."""
        return reference_directions(self.objectives, self.divisions or divisions_for(self.objectives, self._room))

    @property
    def _room(self) -> int:
        """For how many directions there is room."""
        if self.popsize is not None:
            return self.popsize
        most = MOST[self.objectives > MANY]
        return most if self.evaluations is None else min(most, max(LEAST, self.evaluations // GENERATIONS))


def _winners(front: Int[Array, "N"], i: Int[Array, "n"], j: Int[Array, "n"]) -> Int[Array, "n"]:
    """The first of each two members, or the second if its front is a lower one."""
    xp = namespace(front)
    return xp.where(xp.take(front, j) < xp.take(front, i), j, i)
