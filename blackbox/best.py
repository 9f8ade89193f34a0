"""The best point told so far, for methods that do not keep it anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from blackbox.arrays import Array, first_least, namespace, settled
from blackbox.shaping import finite_or_worst

if TYPE_CHECKING:
    from jaxtyping import Float


class Best(NamedTuple):
    x: Float[Array, "*runs d"]
    fitness: Float[Array, "*runs"]


def none_yet(x0: Float[Array, "*runs d"]) -> Best:
    """The start of a run: ``x0``, worse than any told point."""
    return Best(x0, settled(namespace(x0).full_like(x0[..., 0], float("inf"))))


def better_of(best: Best, population: Float[Array, "*runs n d"], fitness: Float[Array, "*runs n"]) -> Best:
    """The best of a generation if it beats ``best``, else ``best``."""
    xp = namespace(best.x)
    fitness = finite_or_worst(fitness, best.fitness.dtype)
    least, winner = first_least(fitness)
    better = least < best.fitness
    point = xp.take_along_axis(population, winner[..., None, None], axis=-2)[..., 0, :]
    return Best(
        x=xp.where(better[..., None], point, best.x),
        fitness=settled(xp.where(better, least, best.fitness)),
    )
