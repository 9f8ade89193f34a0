"""From function values along directions to directional derivatives, whatever order they were told in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.arrays import described
from blackbox.errors import SettingError, TellError
from blackbox.virtual import Leaf

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from blackbox.arrays import Key
    from blackbox.virtual import VirtualPopulation

LARGEST = 1e15  # of a derivative; squares of larger ones, which optimizers take, would overflow


class Estimate(NamedTuple):
    """What values say of an objective."""

    value: Float[Array, ""]
    """f at the center, of forward differences; the mean of all values, of central ones. NaN if all have failed."""
    gradient: Any
    """A pytree like the parameters, of at least float32; zeros where nothing is estimated, None for what is no array.
    """

    @classmethod
    def of(cls, population: VirtualPopulation, value: Float[Array, ""], weights: Sequence[Array]) -> Estimate:
        """The estimate whose gradient has these parts for the weights."""
        structure, found = population.structure, iter(weights)
        others = iter([jnp.zeros_like(x) for x in population.arrays])
        parts: dict[str, Iterator[Any]] = {"weight": found, "array": others, "static": itertools.repeat(None)}
        return cls(value, jax.tree.unflatten(structure.treedef, [next(parts[slot]) for slot in structure.slots]))


class Estimator(Protocol):
    """An estimate of gradients from function values.

    A member of ``ask``'s population is a query; ``estimate`` takes the values in any order, together with their
    population. A query that failed, NaN or infinite, takes its direction out of the estimate.
    """

    def ask(self, params: Any, key: Key, generation: Any = 0, first: int = 0) -> VirtualPopulation: ...
    def estimate(self, population: Any, fitness: Float[Array, "n"]) -> Estimate: ...
    def evaluations(self, params: Any) -> int: ...


class Slopes(NamedTuple):
    """Directional derivatives."""

    slope: Float[Array, "directions"]
    """Zero where a query failed."""
    known: Bool[Array, "directions"]
    value: Float[Array, ""]


def slopes(
    fitness: Float[Array, "n"], steps: Float[Array, "n"], at: Int[Array, "n"], directions: int, central: bool
) -> Slopes:
    """Differences of values over the steps between them, in any order; one direction's values do not touch another's.

    Args:
        fitness: values.
        steps: of each value, signed; zero for the center.
        at: each value's direction, from 0; any for the center.
        directions: how many there are, with or without values.
        central: whether a derivative is half of the difference of both sides, or that from the center.
    """
    f = fitness.astype(jnp.promote_types(fitness.dtype, jnp.float32))
    is_finite = jnp.isfinite(f)
    kept = jnp.where(is_finite, f, 0)
    is_center, zeros = steps == 0, jnp.zeros(directions, f.dtype)

    def side(of: Bool[Array, "n"]) -> tuple[Float[Array, "directions"], Float[Array, "directions"]]:
        """Of each direction the value on one side, and whether it is known."""
        told = of & is_finite
        return zeros.at[at].add(jnp.where(told, f, 0)), zeros.at[at].add(told.astype(f.dtype))

    ahead, has_ahead = side(steps > 0)
    radius = zeros.at[at].max(jnp.where(is_center, 0, jnp.abs(steps)).astype(f.dtype))
    of_value = is_finite if central else is_finite & is_center
    count = jnp.sum(of_value)
    value = jnp.where(count > 0, jnp.sum(jnp.where(of_value, kept / jnp.maximum(count, 1), 0)), jnp.nan)
    if central:
        behind, has_behind = side(steps < 0)
        known, width = (has_ahead == 1) & (has_behind == 1), 2 * radius
    else:
        behind, known, width = jnp.where(count > 0, value, 0), (has_ahead == 1) & (count > 0), radius
    slope = (ahead - behind) / jnp.where(radius > 0, width, 1)
    known = known & jnp.isfinite(slope)
    return Slopes(jnp.clip(jnp.where(known, slope, 0), -LARGEST, LARGEST), known, value)


def members(queries: int, central: bool) -> int:
    """Function values of some directions."""
    return 2 * queries if central else queries + 1


def require_whole(fitness: Float[Array, "n"], n: int) -> Float[Array, "n"]:
    """``fitness`` as a JAX array, or TellError unless it is one real number for each of n members."""
    fitness = jnp.asarray(fitness)
    if fitness.shape != (n,) or jnp.issubdtype(fitness.dtype, jnp.complexfloating):
        raise TellError(
            f"fitness must be of all members at once, {n} real numbers, got {fitness.dtype} of shape {fitness.shape}"
        )
    return fitness


def require_first(first: int, n: int) -> None:
    """Raise :class:`SettingError` unless further members are asked for in whole populations of n."""
    if isinstance(first, bool) or not isinstance(first, int) or first < 0 or first % n:
        raise SettingError(f"first must be a multiple of the {n} members of a population, got {first!r}")


def plain_radius(mu: float | None) -> float | None:
    """``mu`` as a number of Python, or SettingError unless it is one above zero, or None."""
    if mu is None:
        return None
    try:
        plain = float("nan") if isinstance(mu, str | bool) else float(mu)
    except (TypeError, ValueError):
        plain = float("nan")
    if not 1e-35 < plain < 1e35:  # as float32, in which steps are
        got = repr(mu) if np.ndim(mu) == 0 else described(mu)
        raise SettingError(f"mu must be a number from 1e-35 to 1e35, or None, got {got}")
    return plain


def without(frozen: Sequence[str]) -> dict[str, Leaf]:
    """The policy of leaves that have no gradient."""
    return {pattern: Leaf(noise="frozen") for pattern in frozen}


def require_patterns(frozen: object) -> tuple[str, ...]:
    """``frozen`` as a tuple, or SettingError unless it is one of strings."""
    if isinstance(frozen, str) or not isinstance(frozen, Sequence) or not all(isinstance(x, str) for x in frozen):
        raise SettingError(f'frozen must be a sequence of patterns such as ("*/bias",), got {frozen!r}')
    return tuple(frozen)
