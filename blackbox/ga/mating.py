"""Mating of the NSGA family: founders, entrants of tournaments, and the children of pairs in spaces of mixed variables.

Sources: Deb, Pratap, Agarwal & Meyarivan 2002 (doi:10.1109/4235.996017) and the authors' code; Deb & Agrawal 1995 for
both operators, Deb & Goyal 1996 for mutation. Members 2k and 2k + 1 are the two children of a pair, and what one takes
from a parent the other takes from the other parent. Each member enters as many tournaments as all others. Integers are
crossed and mutated as numbers, by eta = 3; choices are taken from either parent, and mutated to any option. A child
that would be a copy of its parent is mutated in one variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, namespace
from blackbox.errors import SettingError
from blackbox.ga.crossover import simulated_binary
from blackbox.kernels.noise import uniform
from blackbox.layout import Layout, variables_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int


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
def parts(layout: Layout, eta: float = 15.0) -> Parts:
    """The arrays that a layout stands for; SettingError for a malformed one.

    Args:
        layout: of a space.
        eta: of the crossover of real variables.
    """
    columns: list[tuple[int, int, int, int, float, float]] = []
    for number, v in enumerate(variables_of(layout)):
        etas = (3.0, 3.0) if v.kind == "int" else (eta, 20.0)
        columns += [(v.first, option, number, v.options, *etas) for option in range(max(1, v.options))]
    owner, option, variable, options, crossover, mutation = map(np.array, zip(*columns, strict=True))
    return Parts(owner, option, variable, options, crossover, mutation, len(layout))


def parts_of(layout: Layout | None, d: int, eta: float = 15.0) -> Parts:
    """The arrays of a layout of d coordinates, by default all floats; SettingError if it has not as many."""
    found = parts(layout or (("float",),) * d, eta)
    if len(found.owner) != d:
        raise SettingError(f"layout must have as many coordinates as x0, {d}; got {len(found.owner)}")
    return found


def founders(key: Key, x0: Float[Array, "d"], n: int, low: Array | float, high: Array | float) -> Float[Array, "n d"]:
    """The first population of a box: ``x0`` and uniform points."""
    xp = namespace(x0)
    others = uniform(key, 0, (n - 1, x0.shape[0]), leaf=1, like=x0)
    inside = xp.minimum(xp.maximum(x0, low), high)
    return xp.concat([inside[None, :], low + (high - low) * others])


def entrants(
    key: Key, generation: Int[Array, ""], n: int, first: int, like: Float[Array, "*shape"]
) -> tuple[tuple[Int[Array, "n"], Int[Array, "n"]], tuple[Int[Array, "n"], Int[Array, "n"]]]:
    """For the pairs that members belong to, two entrants of a permutation of all, and two of another one.

    So every member of a population enters as often as all others.
    """
    xp = namespace(like)
    u = uniform(key, generation, (2 * n, 2), leaf=3, first=first - first % n, like=like)
    order = xp.argsort(xp.reshape(u, (2, n, 2)), axis=1, stable=True)  # of the first member's population and the next
    slot = first % n + xp.arange(n)
    page, pair = slot // n, slot % n // 2 * 2

    def two(side: int) -> tuple[Int[Array, "n"], Int[Array, "n"]]:
        of_all = xp.reshape(order[:, :, side], (-1,))
        return xp.take(of_all, page * n + pair), xp.take(of_all, page * n + (pair + 1) % n)

    return two(0), two(1)


def children(
    key: Key,
    generation: Int[Array, ""],
    population: Float[Array, "n d"],
    parents: Sequence[Int[Array, "n"]],
    first: int,
    p: Parts,
    low: Array | float,
    high: Array | float,
    paired: float,
) -> Float[Array, "n d"]:
    """Members ``first`` to ``first + n - 1`` of a generation; of the first one the population itself.

    Args:
        key: of the run.
        generation: which one.
        population: whose members are parents.
        parents: the two of each member's pair.
        first: number of the first member.
        p: of the layout.
        low: lower bound of every coordinate.
        high: upper bound of every coordinate.
        paired: probability with which a pair is crossed.
    """
    xp = namespace(population)
    n, d = population.shape
    # Pairs begin anew in each n members, of which an odd last one is alone.
    member = first % n + xp.arange(n)
    is_second = (member % n % 2 == 1)[:, None]
    pair = member // n * n + member % n // 2
    u = uniform(key, generation, (2 * n, 1 + 2 * d), first=first - first % n, like=population)
    u = xp.take(u, pair, axis=0)
    own = uniform(key, generation, (n, 1 + 2 * d), leaf=2, first=first, like=population)
    x = (population - low) / (high - low)
    a, b = (xp.take(x, parent, axis=0) for parent in parents)
    kind, spread, mutates, shift = u[:, 1 : 1 + d], u[:, 1 + d :], own[:, 1 : 1 + d], own[:, 1 + d :]
    kind, mutates, drawn = (xp.take(column, xp.asarray(p.owner), axis=1) for column in (kind, mutates, shift))
    # Half of the variables of a pair that is crossed are; of either child a quarter near the lower parent's.
    kind = xp.where(u[:, :1] < paired, kind, 1.0)
    a, b = xp.where(is_second, b, a), xp.where(is_second, a, b)
    kind = xp.where(is_second & (kind < 0.5), 0.5 - kind, kind)
    eta_crossover = xp.asarray(p.eta_crossover, dtype=x.dtype)
    eta_mutation = xp.asarray(p.eta_mutation, dtype=x.dtype)
    lower, upper = simulated_binary(xp.minimum(a, b), xp.maximum(a, b), spread, eta_crossover, (0.0, 1.0))
    child = xp.where(kind < 0.25, lower, xp.where(kind < 0.5, upper, a))
    changed = polynomial(child, shift, eta_mutation)
    if p.options.any():
        options = xp.asarray(p.options)
        is_option = options > 0
        child = xp.where(is_option, xp.where(kind < 0.5, b, a), child)
        category = xp.floor(drawn * xp.asarray(p.options, dtype=x.dtype))
        onehot = xp.astype(category == xp.asarray(p.option, dtype=x.dtype), x.dtype)
        changed = xp.where(is_option, onehot, changed)
    is_mutated = mutates < 1 / p.variables
    is_copy = xp.all(xp.where(is_mutated, changed, child) == a, axis=1)
    variable = xp.asarray(p.variable)
    is_due = variable == xp.astype(xp.floor(own[:, :1] * p.variables), variable.dtype)
    is_mutated = is_mutated | (is_copy[:, None] & is_due)
    child = xp.clip(xp.where(is_mutated, changed, child), 0.0, 1.0)
    starting = population if first == 0 else low + (high - low) * shift
    return xp.where(generation == 0, starting, low + (high - low) * child)


def polynomial(x: Float[Array, "n d"], u: Float[Array, "n d"], eta: Float[Array, "d"]) -> Float[Array, "n d"]:
    """Polynomial mutation within [0, 1]."""
    xp = namespace(u)
    x = xp.clip(x, 0.0, 1.0)
    down = (2 * u + (1 - 2 * u) * (1 - x) ** (eta + 1)) ** (1 / (eta + 1)) - 1
    up = 1 - (2 * (1 - u) + (2 * u - 1) * x ** (eta + 1)) ** (1 / (eta + 1))
    return x + xp.where(u <= 0.5, down, up)
