"""Crossover of dense genomes: pure functions of two parents, row by row, and uniform numbers.

Each gives one child for each row, but for :func:`simulated_binary`, whose two children mirror each other; the second
children of the others are those of exchanged parents.

    uniform       every number from the other parent with a probability      Ackley 1987; Syswerda 1989
    one point     all numbers from a point on from the other parent          Holland 1975; De Jong 1975
    two points    a stretch of a ring from the other parent                  Cavicchio 1970; Booker 1987
    arithmetic    a point between the two, the same share of all numbers     Michalewicz 1992, "whole" crossover
    blend         each number between the two and somewhat beyond, BLX-alpha Eshelman & Schaffer 1993
    simulated binary    the distribution of distances that one-point crossover of bits has    Deb & Agrawal 1995

Uniform numbers are arguments, so that the same text serves NumPy, JAX and whatever counts its noise otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blackbox.arrays import Array, namespace

if TYPE_CHECKING:
    from jaxtyping import Float


def uniform(
    first: Float[Array, "n d"], second: Float[Array, "n d"], u: Float[Array, "n d"], probability: float = 0.5
) -> Float[Array, "n d"]:
    """Each number of the second parent with a probability, else of the first."""
    return namespace(u).where(u < probability, second, first)


def one_point(first: Float[Array, "n d"], second: Float[Array, "n d"], u: Float[Array, "n 1"]) -> Float[Array, "n d"]:
    """The first parent up to one of the d - 1 inner points, the second from there on."""
    xp = namespace(u)
    d = first.shape[1]
    cut = 1 + xp.floor(u * (d - 1))
    return xp.where(xp.arange(d, dtype=u.dtype)[None, :] < cut, first, second)


def two_point(first: Float[Array, "n d"], second: Float[Array, "n d"], u: Float[Array, "n 2"]) -> Float[Array, "n d"]:
    """The second parent between two points of d, the first before and after, or the other way round: on a ring."""
    xp = namespace(u)
    d = first.shape[1]
    cut = xp.floor(u * d)
    number = xp.arange(d, dtype=u.dtype)[None, :]
    start, stop = cut[:, :1], cut[:, 1:2]
    is_between = (number >= start) & (number < stop)
    is_around = (number >= start) | (number < stop)
    return xp.where(xp.where(start <= stop, is_between, is_around), second, first)


def arithmetic(first: Float[Array, "n d"], second: Float[Array, "n d"], u: Float[Array, "n 1"]) -> Float[Array, "n d"]:
    """``first + u (second - first)``, on the line between the parents."""
    return first + u * (second - first)


def blend(
    first: Float[Array, "n d"], second: Float[Array, "n d"], u: Float[Array, "n d"], alpha: float = 0.5
) -> Float[Array, "n d"]:
    """BLX-alpha: each number uniform between the parents', and beyond either by alpha of their distance.

    Without selection the variance of a population stays at alpha = (sqrt(3) - 1) / 2 = 0.37, and grows by a sixth with
    each generation at the 0.5 that is usual.
    """
    return first + ((1 + 2 * alpha) * u - alpha) * (second - first)


def simulated_binary(
    low: Float[Array, "n d"],
    high: Float[Array, "n d"],
    u: Float[Array, "n d"],
    eta: Float[Array, "d"] | float,
    bounds: tuple[float, float] = (-float("inf"), float("inf")),
) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    """SBX: a number near the lower parent's and one near the higher parent's, as far from the middle without bounds.

    The distance of the children is ``beta`` times that of the parents, of density ``(eta + 1) beta^eta / 2`` below 1
    and ``(eta + 1) beta^-(eta + 2) / 2`` above; within bounds, cut off where the child would leave them (Deb & Kumar
    1995; Deb et al. 2007).

    Args:
        low: the lower one of each two numbers of the parents.
        high: the higher one.
        u: uniform numbers, one for both children.
        eta: the greater, the nearer are children to their parents.
        bounds: what children stay between; parents are.
    """
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
    return middle - 0.5 * factor(low - bounds[0]) * gap, middle + 0.5 * factor(bounds[1] - high) * gap
