"""A generational genetic algorithm for real numbers: selection, crossover, Gaussian mutation, elites.

Sources: Holland 1975 and De Jong 1975 for generations and elites; Goldberg & Deb 1991 for tournaments; Schwefel 1987
and Bäck & Schwefel 1993 (doi:10.1162/evco.1993.1.1.1) for step sizes that adapt themselves. One generation, of N:

    parents     each the best of a tournament of q, drawn from the best T members
    crossover   one of :mod:`blackbox.ga.crossover`, with a probability; else the child begins as its first parent
    step size   the geometric mean of both parents' times exp(tau N(0, 1)), tau = 1 / sqrt(d); or a constant
    mutation    + step size N(0, I)
    survival    the E best members, and the best children for the other N - E places

With q = 1 it is truncation selection, with T = N tournament selection. Step sizes are passed on by members that are
successful, and so follow the distance to an optimum without a schedule. Each is of a place in the generation, hence
members are told in order.

Cost per generation: O(N (d + ln N)). State O(N d).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.errors import SettingError
from blackbox.ga import crossover
from blackbox.kernels.noise import normal, uniform
from blackbox.shaping import best_first, finite_or_worst
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

ETA = 15.0  # of simulated binary crossover


def _simulated_binary(
    first: Float[Array, "n d"], second: Float[Array, "n d"], u: Float[Array, "n d+2"]
) -> Float[Array, "n d"]:
    """The child that is nearer to the first parent."""
    xp = namespace(u)
    low, high = crossover.simulated_binary(xp.minimum(first, second), xp.maximum(first, second), u[:, 2:], ETA)
    return xp.where(first <= second, low, high)


CROSSOVERS: dict[str, Callable[..., Array]] = {
    "uniform": lambda first, second, u: crossover.uniform(first, second, u[:, 2:]),
    "one-point": lambda first, second, u: crossover.one_point(first, second, u[:, :1]),
    "two-point": lambda first, second, u: crossover.two_point(first, second, u[:, :2]),
    "arithmetic": lambda first, second, u: crossover.arithmetic(first, second, u[:, :1]),
    "blend": lambda first, second, u: crossover.blend(first, second, u[:, 2:]),
    "sbx": _simulated_binary,
}
"""By their names, of two parents and d + 2 uniform numbers for each child."""


class GeneticAlgorithmState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    population: Float[Array, "N d"]
    """Best first; the start point throughout before the first generation."""
    fitness: Float[Array, "N"]
    """Infinite before the first evaluation and for failed members."""
    sigma: Float[Array, "N"]
    """The step size that each was made with."""


@algorithm
class GeneticAlgorithm:
    """A genetic algorithm with elites.

    Args:
        popsize: members and children of a generation, N.
        elites: members that stay whatever the children are, E; less than popsize.
        parents: the best so many members may be parents, T; by default all.
        tournament: entrants of each tournament, q; with 1, all of these parents are as likely.
        crossover: "uniform", "one-point", "two-point", "arithmetic", "blend" (BLX-0.5) or "sbx" (eta = 15).
        probability: of crossover.
        sigma0: standard deviation of the first generation about x0.
        sigma: standard deviation of mutations; None: each member has its own, at first sigma0, by the lognormal rule.
    """

    popsize: int = 50
    elites: int = 2
    parents: int | None = None
    tournament: int = 3
    crossover: Literal["uniform", "one-point", "two-point", "arithmetic", "blend", "sbx"] = "uniform"
    probability: float = 0.9
    sigma0: float = 1.0
    sigma: float | None = None

    positional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, optional=False)
        require_integer("elites", self.elites, low=0, optional=False)
        if self.elites >= self.popsize:
            raise SettingError(f"elites must be below popsize = {self.popsize}, got {self.elites!r}")
        require_integer("parents", self.parents, low=1)
        require_integer("tournament", self.tournament, low=1, optional=False)
        require_one_of("crossover", self.crossover, tuple(CROSSOVERS))
        require_number("probability", self.probability, low=0, high=1)
        require_number("sigma0", self.sigma0, above=0)
        require_number("sigma", self.sigma, above=0)

    def init(self, key: Key, x0: Float[Array, "d"]) -> GeneticAlgorithmState:
        xp = namespace(x0)
        return GeneticAlgorithmState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            population=xp.zeros((self.popsize, x0.shape[0]), dtype=x0.dtype) + x0,
            fitness=xp.full((self.popsize,), xp.inf, dtype=x0.dtype),
            sigma=xp.zeros((self.popsize,), dtype=x0.dtype) + self.sigma0,
        )

    def ask(self, state: GeneticAlgorithmState, first: int = 0) -> Float[Array, "n d"]:
        xp = namespace(state.population)
        n, d = state.population.shape
        start = first % n
        parents, sigma = self._parents(state)
        at = (start + xp.arange(n)) % n
        a, b = (xp.take(state.population, xp.take(parent, at), axis=0) for parent in parents)
        u = uniform(state.key, state.generation, (n, d + 3), leaf=1, first=first, like=a)
        child = xp.where(u[:, :1] < self.probability, CROSSOVERS[self.crossover](a, b, u[:, 1:]), a)
        z = normal(state.key, state.generation, (n, d), first=first, like=a)
        far = _far(child)
        return xp.clip(child + xp.take(sigma, at)[:, None] * z, -far, far)

    def tell(
        self, state: GeneticAlgorithmState, population: Float[Array, "n d"], fitness: Float[Array, "n"]
    ) -> GeneticAlgorithmState:
        xp = namespace(state.population)
        n = self.popsize
        fitness = finite_or_worst(fitness, state.fitness.dtype)
        _, sigma = self._parents(state)
        sigma = xp.take(sigma, xp.arange(population.shape[0]) % n)
        # Elites first; then what was told, best first; former members only where that is too little.
        order = best_first(fitness)[: min(population.shape[0], n - self.elites)]
        everyone, every, sizes = (
            xp.concat([old[: self.elites, ...], xp.take(new, order, axis=0), old[self.elites :, ...]])[:n, ...]
            for old, new in ((state.population, population), (state.fitness, fitness), (state.sigma, sigma))
        )
        order = best_first(every)
        return GeneticAlgorithmState(
            key=state.key,
            generation=state.generation + 1,
            population=xp.take(everyone, order, axis=0),
            fitness=xp.take(every, order),
            sigma=xp.take(sizes, order),
        )

    def recommend(self, state: GeneticAlgorithmState) -> Float[Array, "d"]:
        """The best member."""
        return state.population[0, :]

    def _parents(
        self, state: GeneticAlgorithmState
    ) -> tuple[tuple[Int[Array, "N"], Int[Array, "N"]], Float[Array, "N"]]:
        """Both parents of each place of the generation, and its step size."""
        xp = namespace(state.population)
        n, d = state.population.shape
        most = n if self.parents is None else min(self.parents, n)
        u = uniform(state.key, state.generation, (n, 2 * self.tournament), leaf=2, like=state.population)
        entrant = xp.minimum(xp.astype(xp.floor(u * most), state.generation.dtype), xp.asarray(most - 1))
        first = xp.min(entrant[:, : self.tournament], axis=1)  # members are sorted
        second = xp.min(entrant[:, self.tournament :], axis=1)
        if self.sigma is not None:
            return (first, second), xp.where(
                state.generation == 0, state.sigma, xp.zeros_like(state.sigma) + self.sigma
            )
        z = normal(state.key, state.generation, (n, 1), leaf=3, like=state.population)[:, 0]
        mean = xp.sqrt(xp.take(state.sigma, first)) * xp.sqrt(xp.take(state.sigma, second))
        sigma = mean * xp.where(state.generation == 0, 1.0, xp.exp(z / math.sqrt(d)))
        return (first, second), xp.clip(sigma, 1 / _far(sigma), _far(sigma))


def _far(like: Float[Array, "*n"]) -> float:
    """What coordinates and step sizes stay below, so that sums and squares of them are finite."""
    return float(namespace(like).finfo(like.dtype).max) ** 0.25
