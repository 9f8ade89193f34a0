"""NSGA-III: of the last front, what fills the niches of reference directions spread over the objectives.

Source: Deb & Jain 2014, "An evolutionary many-objective optimization algorithm using reference-point-based
nondominated sorting approach, part I", doi:10.1109/TEVC.2013.2281535, algorithms 1 to 4. One generation, of N members:

    children    SBX, eta = 30, of every pair, and polynomial mutation, eta = 20, as in NSGA-II
    survival    parents and children together: whole fronts as long as there is room; of the last one l
      normalize   (f - ideal) / intercepts, of the plane through the extreme point of each objective
      associate   each member up to l with the direction whose line from the origin it is nearest to
      niches      the direction of fewest survivors gets, from l, its nearest member if it had none, else any of its own

The directions are the points of Das & Dennis (1998) whose coordinates are multiples of 1 / p and sum to 1, as many as
C(p + M - 1, M - 1) for M objectives. Where p < M no such point lies inside the simplex, and there are two layers: of p
divisions on its boundary, and of a second number drawn halfway to the center.

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

import itertools
import math
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, namespace
from blackbox.ga.mating import children, entrants, founders, parts, parts_of
from blackbox.ga.nsga2 import GENERATIONS, LEAST, comparable, compromise, fronts, largest
from blackbox.kernels.noise import uniform
from blackbox.layout import Layout
from blackbox.strategy import algorithm, require_box, require_integer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

ETA = 30.0  # of crossover, table III
MANY = 3  # objectives, above which
MOST = (100, 275)  # directions at most by default: table I has 91 for 3 objectives, and 275 for 10
SMALL = 1e-6  # share of the worst value that is no extent, and the weight in an achievement function
NEGLIGIBLE = 1e-3  # share that counts as none in an achievement function
BEYOND = 100.0  # extents of the first front, at which former extremes are cut off
FAR = 1e9  # normalized values beyond count as this one


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


def divisions_for(objectives: int, most: int) -> tuple[int, ...]:
    """The most divisions that give no more than ``most`` directions; two layers where one has none inside."""
    p = 1
    while objectives > 1 and math.comb(p + objectives, objectives - 1) <= most:
        p += 1
    if p >= objectives:
        return (p,)
    p = 1
    while math.comb(p + objectives, objectives - 1) + math.comb(p + objectives - 1, objectives - 1) <= most:
        p += 1
    return (p, p - 1) if p > 1 else (1,)


@lru_cache(maxsize=256)
def reference_directions(objectives: int, divisions: tuple[int, ...]) -> Float[np.ndarray, "H k"]:
    """Das and Dennis's points of each layer, scaled to length 1; not to be written to.

    Args:
        objectives: how many, M.
        divisions: of each layer. The first is on the simplex itself, each further one drawn halfway to its center.
    """
    layers = []
    for depth, p in enumerate(divisions):
        # Bars among stars: where M - 1 of p + M - 1 places are taken, the gaps are M whole numbers that sum to p.
        bars = itertools.combinations(range(p + objectives - 1), objectives - 1)
        edges = np.array([(-1, *taken, p + objectives - 1) for taken in bars])
        points = (np.diff(edges, axis=1) - 1) / p
        layers.append(0.5**depth * points + (1 - 0.5**depth) / objectives)
    directions = np.concatenate(layers)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions.flags.writeable = False
    return directions


def normalized(
    fitness: Float[Array, "n k"],
    front: Int[Array, "n"],
    last: Int[Array, ""],
    ideal: Float[Array, "k"],
    extremes: Float[Array, "k k"],
) -> tuple[Float[Array, "n k"], Float[Array, "k k"]]:
    """How far from ideal, in units of the intercepts, and the extreme points; algorithm 2.

    Args:
        fitness: of members in some order, by which the first of equal extremes is taken.
        front: the number of each one's front.
        last: the number of the front that is the last one to count.
        ideal: the least value of each objective.
        extremes: those of the generation before.
    """
    xp = namespace(fitness)
    k = fitness.shape[1]
    z = fitness - ideal
    worst = xp.max(xp.where((front <= last)[:, None], z, 0.0), axis=0)
    extent = xp.max(xp.where((front == 0)[:, None], z, 0.0), axis=0)
    extent = xp.where(extent > SMALL * worst, extent, xp.where(worst > 0, worst, xp.ones_like(worst)))
    candidates = xp.concat([extremes, fitness])
    limit = FAR * xp.minimum(extent, xp.full_like(extent, largest(fitness) / FAR))
    share = xp.clip(xp.minimum(candidates - ideal, limit) / extent, 0.0, FAR)
    counts = xp.concat([xp.ones((k,), dtype=xp.bool), front == 0])
    others = xp.where(share < NEGLIGIBLE, 0.0, share / SMALL)
    found = []
    for j in range(k):
        weighted = xp.concat([others[:, :j], share[:, j : j + 1], others[:, j + 1 :]], axis=1)
        found.append(xp.argmin(xp.where(counts, xp.max(weighted, axis=1), xp.inf)))
    at = xp.stack(found)
    corners = xp.clip(xp.take(share, at, axis=0), 0.0, BEYOND)
    plane, is_plane = _plane(corners)
    is_plane = is_plane & xp.all((plane > SMALL) & (plane < 1 / SMALL))
    intercept = 1 / xp.where(is_plane, plane, xp.ones_like(plane))
    return xp.clip(share[k:, :] / intercept, 0.0, FAR), xp.take(candidates, at, axis=0)


def _plane(corners: Float[Array, "k k"]) -> tuple[Float[Array, "k"], Bool[Array, ""]]:
    """The solution of ``corners @ x = 1``, by elimination, and whether there is one.

    Without exchanges of rows: extreme points have their greatest share on the diagonal, or there is no use in them.
    """
    xp = namespace(corners)
    k = corners.shape[0]
    a = xp.concat([corners, xp.ones_like(corners[:, :1])], axis=1)
    is_regular = a[0, 0] == a[0, 0]
    for j in range(k):
        pivot = a[j, j]
        is_regular = is_regular & (xp.abs(pivot) > SMALL)
        row = a[j, :] / xp.where(xp.abs(pivot) > SMALL, pivot, xp.ones_like(pivot))
        rest = xp.clip(a - a[:, j : j + 1] * row, -FAR, FAR)
        a = xp.where((xp.arange(k) == j)[:, None], row, rest)
    return a[:, k], is_regular


def associated(s: Float[Array, "n k"], directions: Float[Array, "H k"]) -> tuple[Int[Array, "n"], Float[Array, "n"]]:
    """The direction that each point is nearest to, and how far it is from that line; algorithm 3."""
    xp = namespace(s)
    along = xp.zeros((s.shape[0], directions.shape[0]), dtype=s.dtype)
    for j in range(s.shape[1]):  # a sum of few products, in the same order in every library
        along = along + s[:, j : j + 1] * directions[None, :, j]
    nearest = xp.argmax(along, axis=1)  # of a point's square, what is not along a line is beside it
    length = xp.take_along_axis(along, nearest[:, None], axis=1)
    return nearest, xp.sqrt(xp.sum((s - length * xp.take(directions, nearest, axis=0)) ** 2, axis=1))


def niched(
    s: Float[Array, "n k"],
    front: Int[Array, "n"],
    last: Int[Array, ""],
    directions: Float[Array, "H k"],
    u: Float[Array, "n+H"],
) -> tuple[Int[Array, "n"], Float[Array, "n"]]:
    """By what the last front's members are chosen, the least first: how many their direction has by then, and in
    which turn of the directions; algorithm 4.

    Args:
        s: normalized values.
        front: the number of each one's front.
        last: the number of the front that has no room for all.
        directions: of length 1.
        u: uniform numbers, for the members and the directions.
    """
    xp = namespace(s)
    n = s.shape[0]
    niche, distance = associated(s, directions)
    is_last, survives = front == last, front < last
    is_same = niche[:, None] == niche[None, :]
    count = xp.sum(xp.astype(is_same & survives[None, :], front.dtype), axis=1)  # of survivors in each one's niche
    rival = is_same & is_last[None, :]
    nearest = xp.min(xp.where(rival, distance[None, :], xp.inf), axis=1)
    lot = xp.where((count == 0) & (distance == nearest), -1.0, u[:n])
    before = xp.sum(xp.astype(rival & (lot[None, :] < lot[:, None]), front.dtype), axis=1)
    return count + before, xp.take(u[n:], niche)
