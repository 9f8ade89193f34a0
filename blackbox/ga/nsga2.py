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

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, namespace, while_loop
from blackbox.errors import SettingError
from blackbox.kernels.noise import uniform
from blackbox.layout import Layout, variables_of
from blackbox.strategy import algorithm, require_box, require_integer

if TYPE_CHECKING:
    from jaxtyping import Float, Int

PAIRED = 0.9  # probability of crossover
MOST = 100  # members by default, as in the paper
GENERATIONS = 12  # for which the planned evaluations shall suffice
LEAST = 12


class Parts(NamedTuple):
    """A layout as arrays."""

    owner: Int[np.ndarray, "d"]
    """The first coordinate of each one's variable."""
    option: Int[np.ndarray, "d"]
    """Number of the option that it stands for; 0 for numbers."""
    variable: Int[np.ndarray, "d"]
    """Number of each one's variable."""
    options: Int[np.ndarray, "d"]
    """How many options its variable has; 0 for numbers."""
    eta_crossover: Float[np.ndarray, "d"]
    eta_mutation: Float[np.ndarray, "d"]
    variables: int


@lru_cache(maxsize=256)
def parts(layout: Layout) -> Parts:
    """The arrays that a layout stands for; SettingError for a malformed one."""
    columns: list[tuple[int, int, int, int, float, float]] = []
    for number, (kind, first, _, k) in enumerate(variables_of(layout)):
        etas = (3.0, 3.0) if kind == "int" else (15.0, 20.0)
        columns += [(first, option, number, k, *etas) for option in range(max(1, k))]
    owner, option, variable, options, crossover, mutation = map(np.array, zip(*columns, strict=True))
    return Parts(owner, option, variable, options, crossover, mutation, len(layout))


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
        d = x0.shape[0]
        if len(self._parts(d).owner) != d:
            raise SettingError(f"layout must have as many coordinates as x0, {d}; got {len(self._parts(d).owner)}")
        planned = MOST if self.evaluations is None else self.evaluations // GENERATIONS
        n = self.popsize or min(MOST, max(LEAST, planned))
        others = uniform(key, 0, (n - 1, d), leaf=1, like=x0)
        inside = xp.minimum(xp.maximum(x0, self.low), self.high)
        return NSGA2State(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            population=xp.concat([inside[None, :], self.low + (self.high - self.low) * others]),
            fitness=xp.full((n, self.objectives), _largest(x0), dtype=x0.dtype),
            front=xp.zeros((n,), dtype=xp.asarray(0).dtype),
            crowding=xp.zeros((n,), dtype=x0.dtype),
        )

    def ask(self, state: NSGA2State, first: int = 0) -> Float[Array, "n d"]:
        xp = namespace(state.population)
        n, d = state.population.shape
        p = self._parts(d)
        # Pairs begin anew in each n members, of which an odd last one is alone.
        member = first % n + xp.arange(n)
        is_second = (member % n % 2 == 1)[:, None]
        pair = member // n * n + member % n // 2
        u = uniform(state.key, state.generation, (2 * n, 1 + 2 * d), first=first - first % n, like=state.population)
        u = xp.take(u, pair, axis=0)
        own = uniform(state.key, state.generation, (n, 1 + 2 * d), leaf=2, first=first, like=state.population)
        x = (state.population - self.low) / (self.high - self.low)
        a, b = (xp.take(x, parent, axis=0) for parent in _parents(state, first))
        kind, spread, mutates, shift = u[:, 1 : 1 + d], u[:, 1 + d :], own[:, 1 : 1 + d], own[:, 1 + d :]
        kind, mutates, drawn = (xp.take(column, xp.asarray(p.owner), axis=1) for column in (kind, mutates, shift))
        # Half of the variables of a pair that is crossed are; of either child a quarter near the lower parent's.
        kind = xp.where(u[:, :1] < PAIRED, kind, 1.0)
        a, b = xp.where(is_second, b, a), xp.where(is_second, a, b)
        kind = xp.where(is_second & (kind < 0.5), 0.5 - kind, kind)
        eta_crossover = xp.asarray(p.eta_crossover, dtype=x.dtype)
        eta_mutation = xp.asarray(p.eta_mutation, dtype=x.dtype)
        low, high = _crossed(xp.minimum(a, b), xp.maximum(a, b), spread, eta_crossover)
        child = xp.where(kind < 0.25, low, xp.where(kind < 0.5, high, a))
        changed = _mutated(child, shift, eta_mutation)
        if p.options.any():
            options = xp.asarray(p.options)
            is_option = options > 0
            child = xp.where(is_option, xp.where(kind < 0.5, b, a), child)
            category = xp.floor(drawn * xp.asarray(p.options, dtype=x.dtype))
            onehot = xp.astype(category == xp.asarray(p.option, dtype=x.dtype), x.dtype)
            changed = xp.where(is_option, onehot, changed)
        is_mutated = mutates < 1 / p.variables
        is_copy = xp.all(xp.where(is_mutated, changed, child) == a, axis=1)
        is_due = xp.asarray(p.variable) == xp.astype(xp.floor(own[:, :1] * p.variables), state.front.dtype)
        is_mutated = is_mutated | (is_copy[:, None] & is_due)
        child = xp.clip(xp.where(is_mutated, changed, child), 0.0, 1.0)
        starting = state.population if first == 0 else self.low + (self.high - self.low) * shift
        return xp.where(state.generation == 0, starting, self.low + (self.high - self.low) * child)

    def tell(self, state: NSGA2State, population: Float[Array, "n d"], fitness: Float[Array, "n *k"]) -> NSGA2State:
        xp = namespace(state.population)
        n = state.population.shape[0]
        largest = _largest(state.population)
        told = xp.astype(xp.reshape(fitness, (population.shape[0], self.objectives)), state.fitness.dtype)
        inside = xp.all((population >= self.low) & (population <= self.high), axis=1)
        failed = xp.any(xp.isnan(told) | (told == xp.inf), axis=1) | ~inside
        told = xp.where(failed[:, None], largest, xp.clip(told, -largest, largest))
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
        """Of the first front, the member nearest to the best value of each objective, in units of its extent."""
        xp = namespace(state.population)
        is_first = (state.front == 0)[:, None]
        low = xp.min(state.fitness, axis=0)
        high = xp.max(xp.where(is_first, state.fitness, low), axis=0)
        share = (state.fitness - low) / xp.where(high > low, high - low, xp.ones_like(low))
        distance = xp.where(is_first[:, 0], xp.sum(xp.clip(share, 0.0, 1.0) ** 2, axis=1), xp.inf)
        return xp.take(state.population, xp.argmin(distance)[None], axis=0)[0, :]

    def _parts(self, d: int) -> Parts:
        return parts(self.layout or (("float",),) * d)


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


def _largest(like: Float[Array, "*n"]) -> float:
    """What failed members have, and greater values count as; differences of such values are finite."""
    return float(namespace(like).finfo(like.dtype).max) / 4


def _parents(state: NSGA2State, first: int) -> tuple[Int[Array, "n"], Int[Array, "n"]]:
    """The parents of the pairs that members belong to, by tournaments in which each member takes part once.

    One permutation gives the tournaments of all first parents of a population, another those of the second ones.
    """
    xp = namespace(state.population)
    n = state.population.shape[0]
    u = uniform(state.key, state.generation, (2 * n, 2), leaf=3, first=first - first % n, like=state.population)
    order = xp.argsort(xp.reshape(u, (2, n, 2)), axis=1, stable=True)  # of the first member's population and the next
    slot = first % n + xp.arange(n)
    page, pair = slot // n, slot % n // 2 * 2

    def winners(side: int) -> Int[Array, "n"]:
        entrants = xp.reshape(order[:, :, side], (-1,))
        i, j = (xp.take(entrants, page * n + (pair + k) % n) for k in (0, 1))
        front_i, front_j = xp.take(state.front, i), xp.take(state.front, j)
        is_less_crowded = xp.take(state.crowding, i) >= xp.take(state.crowding, j)
        return xp.where((front_i < front_j) | ((front_i == front_j) & is_less_crowded), i, j)

    return winners(0), winners(1)


def _crossed(
    low: Float[Array, "n d"], high: Float[Array, "n d"], u: Float[Array, "n d"], eta: Float[Array, "d"]
) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    """Simulated binary crossover within [0, 1]: a number near the lower parent's and one near the other's."""
    xp = namespace(u)
    gap = high - low
    safe = xp.where(gap > 1e-14, gap, xp.ones_like(gap))

    def factor(room: Float[Array, "n d"]) -> Float[Array, "n d"]:
        alpha = 2 - (1 + 2 * room / safe) ** -(eta + 1)
        narrow = u * alpha
        return xp.where(narrow <= 1, narrow, 1 / (2 - xp.where(narrow <= 1, xp.ones_like(narrow), narrow))) ** (
            1 / (eta + 1)
        )

    middle = 0.5 * (low + high)
    return middle - 0.5 * factor(low) * gap, middle + 0.5 * factor(1 - high) * gap


def _mutated(x: Float[Array, "n d"], u: Float[Array, "n d"], eta: Float[Array, "d"]) -> Float[Array, "n d"]:
    """Polynomial mutation within [0, 1]."""
    xp = namespace(u)
    x = xp.clip(x, 0.0, 1.0)
    down = (2 * u + (1 - 2 * u) * (1 - x) ** (eta + 1)) ** (1 / (eta + 1)) - 1
    up = 1 - (2 * (1 - u) + (2 * u - 1) * x ** (eta + 1)) ** (1 / (eta + 1))
    return x + xp.where(u <= 0.5, down, up)
