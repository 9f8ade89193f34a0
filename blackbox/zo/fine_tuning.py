"""What MeZO and its relatives share: checks of settings, slopes of pairs, and steps of a population's weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError, TellError
from blackbox.strategy import require_integer, require_number, require_one_of
from blackbox.virtual import NoisePopulation, Structure, weighted_noise
from blackbox.virtual.leaves import streams
from blackbox.zo import in_place
from blackbox.zo.pairs import mirrored_differences, slopes_of_pairs

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

NOISES = ("normal", "normal_fast", "sign", "binom8", "uniform")


def require_settings(strategy: Any) -> None:
    """Raise SettingError unless the settings that MeZO and its relatives share are in their ranges."""
    require_queries(strategy)
    require_number("weight_decay", strategy.weight_decay, low=0)


def require_queries(strategy: Any) -> None:
    """Raise SettingError unless the settings of pairs and their noise are in their ranges."""
    require_integer("queries", strategy.queries, low=1, optional=False)
    require_number("mu", strategy.mu, above=0)
    require_one_of("noise", strategy.noise, NOISES)
    if not callable(strategy.lr):
        require_number("lr", strategy.lr, low=0)
        if strategy.lr is None:
            raise SettingError("lr must be a number >= 0 or a function of the generation, got None")


def require_precision(structure: Structure, params: Any) -> None:
    """Raise SettingError if a leaf is of a type that cannot be trained, such as dense ones of less than 32 bits."""
    for weight, w in zip(structure.weights, structure.split(params)[0], strict=True):
        if str(w.dtype) not in in_place.DIGITS:
            raise SettingError(f"params: {weight.name} must be of {', '.join(in_place.DIGITS)}, got {w.dtype}")
        if weight.noise == "dense" and in_place.DIGITS[str(w.dtype)] < 24:
            raise SettingError(
                f"params: {weight.name} is {w.dtype}, where most of mu z is lost in rounding and what is added cannot "
                f"be taken away again; give it low rank (rank=2, of matrices), float32, or "
                f'policy={{"{weight.name}": Leaf(noise="frozen")}}'
            )


def own_arrays(params: Any) -> Any:
    """The tree with arrays of JAX; those of NumPy, which could be changed afterwards, are copied.

    So are arrays that are in it twice, each of which is moved where it lies.
    """
    seen: set[int] = set()

    def own(x: Any) -> Any:
        if not isinstance(x, np.ndarray | np.generic | jax.Array):
            return x
        shared = id(x) in seen
        seen.add(id(x))
        return jnp.array(x) if shared or not isinstance(x, jax.Array) else x

    return jax.tree.map(own, params)


def require_population(params: Any, population: NoisePopulation, fitness: Float[Array, "n"]) -> None:
    """Raise TellError unless the population is around such parameters and fitness is one number for each member."""
    if jax.tree.structure(params) != population.structure.treedef:
        raise TellError("population must be one of this state's, got one whose parameters are another tree")
    if fitness.ndim != 1 or jnp.issubdtype(fitness.dtype, jnp.complexfloating):
        raise TellError(f"fitness must be real numbers of shape (n,), got {fitness.dtype} of shape {fitness.shape}")


def slopes_of(strategy: Any, ids: Int[Array, "n"], fitness: Float[Array, "n"]) -> Float[Array, "n"]:
    """What each member's signed noise is multiplied with for the mean of ``d_k z_k`` over pairs."""
    differences, count = mirrored_differences(ids, jnp.asarray(fitness))
    return (differences / (2 * strategy.mu) / count).astype(jnp.float32)


def rate_of(strategy: Any, generation: Int[Array, ""]) -> Float[Array, ""]:
    """The learning rate of a generation."""
    return jnp.asarray(strategy.lr(generation) if callable(strategy.lr) else strategy.lr, jnp.float32)


@jax.jit
def descended(
    population: NoisePopulation,
    weights: tuple[Float[Array, "..."], ...],
    rates: Float[Array, "n"],
    decay: Float[Array, ""],
) -> tuple[Float[Array, "..."], ...]:
    """The weights after a step, large leaves one by one, so that no more than one's sum of noise lies beside them."""
    named = population.structure.weights
    keys, shrinking = (
        streams(named, population.key, population.generation),
        in_place.decays(population.structure, decay),
    )
    large = [[i] for i, weight in enumerate(named) if math.prod(weight.shape) > in_place.BLOCK]
    small = [i for i, weight in enumerate(named) if math.prod(weight.shape) <= in_place.BLOCK]
    moved = list(weights)
    for group in filter(None, [small, *large]):
        some = Structure(None, ("weight",) * len(group), (), tuple(named[i] for i in group))
        alone = dataclasses.replace(
            population, weights=tuple(weights[i] for i in group), arrays=(), structure=some, sigma=jnp.float32(1)
        )
        for i, total in zip(group, weighted_noise(alone, rates), strict=True):
            moved[i] = in_place.less(weights[i], total, shrinking[i], keys[i])
    return tuple(moved)


def stepped(
    strategy: Any,
    population: NoisePopulation,
    thresholds: tuple[Float[Array, ""] | None, ...],
    loss: Callable[..., Any],
    args: tuple[Any, ...],
    jit: bool,
) -> tuple[tuple[Array, ...], Float[np.ndarray, "n"]]:
    """The weights after a step, in the memory in which they were, and the members' fitness."""
    keys, kind = in_place.keys_of(population), population.kind
    narrow = [
        (key, weight)
        for key, weight in zip(keys, population.structure.weights, strict=True)
        if weight.noise == "low-rank"
    ]
    pairs = jnp.arange(strategy.queries)

    def factors(pairs: Int[Array, "pairs"]) -> list[in_place.Factors]:
        return [in_place.factors_of(key, pairs, weight.parts, weight.rank, kind) for key, weight in narrow]

    lr = rate_of(strategy, population.generation)  # before arrays are used up, as a user's function may fail
    weights, grids, fitness = in_place.values_in_place(
        population, loss, args, lambda pair: [(a[0], b[0]) for a, b in factors(pairs[pair : pair + 1])], thresholds, jit
    )
    rates, decay = lr * slopes_of_pairs(fitness, strategy.mu), lr * strategy.weight_decay
    moved = in_place.trained_leaves(population, weights, grids, rates, decay, iter(factors(pairs)), thresholds)
    return moved, fitness


def away_from_center(population: NoisePopulation, i: int) -> Any:
    """What member ``i`` is away from the center, for populations whose noise depends on the center."""
    return jax.tree.map(lambda x, y: x - y if isinstance(x, jax.Array) else x, population[i], population.center)
