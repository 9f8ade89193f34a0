"""The best point told so far, for methods that do not keep it anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from blackbox.arrays import Array, namespace
from blackbox.shaping import finite_or_worst

if TYPE_CHECKING:
    from jaxtyping import Float


class Best(NamedTuple):
    x: Float[Array, "d"]
    fitness: Float[Array, ""]


def none_yet(x0: Float[Array, "d"]) -> Best:
    """The start of a run: ``x0``, worse than any told point."""
    xp = namespace(x0)
    return Best(x0, xp.asarray(xp.inf, dtype=x0.dtype)[()])


def better_of(best: Best, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> Best:
    """The best of a generation if it beats ``best``, else ``best``."""
    xp = namespace(best.x)
    fitness = finite_or_worst(fitness, best.fitness.dtype)
    winner = xp.argmin(fitness)
    better = fitness[winner] < best.fitness
    return Best(
        x=xp.where(better, xp.take(population, winner[None], axis=0)[0, :], best.x),
        fitness=xp.where(better, fitness[winner], best.fitness)[()],
    )
