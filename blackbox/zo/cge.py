"""CGE: the gradient coordinate by coordinate, by finite differences.

Source: Kiefer & Wolfowitz 1952; as in Chen et al. 2024, "DeepZero: Scaling up zeroth-order optimization for deep model
training" (arXiv:2310.02025), equation 2. For each coordinate i

    g_i  =  (f(x + mu e_i) - f(x - mu e_i)) / (2 mu)            central, 2 d evaluations, error O(mu^2)
    g_i  =  (f(x + mu e_i) - f(x)) / mu                         forward, d + 1 evaluations, error O(mu)

With fewer queries than coordinates each weight has its share of them, at coordinates that are drawn anew each time,
without replacement; their derivatives are multiplied with what makes the estimate unbiased:

    E |g - grad f|^2  =  sum_l (d_l / q_l - 1) |grad_l f|^2      over weights l of d_l coordinates, q_l of them queried

Queries of one weight follow each other, so that :func:`blackbox.evaluate` runs for each of them only what comes after
that weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError
from blackbox.kernels import xla
from blackbox.kernels.noise import noise
from blackbox.strategy import require_bool, require_integer, require_key
from blackbox.virtual import CoordinatePopulation, Leaf, Structure, structure_of
from blackbox.zo.differences import (
    Estimate,
    members,
    plain_radius,
    require_first,
    require_patterns,
    require_whole,
    slopes,
    without,
)
from blackbox.zo.smoothing import relative, smoothing_radius, two_spacings

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from blackbox.arrays import Key


@dataclass(frozen=True)
class CGE:
    """Coordinate-wise gradient estimation.

    Args:
        mu: smoothing radius, in units of the parameters; by default by their dtype and each coordinate's size, see
            :mod:`blackbox.zo.smoothing`. It is at least two spacings of numbers of that size.
        central: central differences, or forward ones.
        queries: coordinates in an estimate; by default all. A central query is two evaluations; all forward ones share
            one more.
        frozen: shell patterns of the paths of leaves that have no gradient.
    """

    mu: float | None = None
    central: bool = True
    queries: int | None = None
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "mu", plain_radius(self.mu))
        object.__setattr__(self, "frozen", require_patterns(self.frozen))
        require_integer("queries", self.queries, low=1)
        require_bool("central", self.central)

    def ask(self, params: Any, key: Key, generation: Any = 0, first: int = 0) -> CoordinatePopulation:
        """The queries around ``params``; those of another ``first`` are of coordinates drawn anew, if not of all."""
        require_key(key)
        structure = self._structure(params)
        counts = shares(structure, self.queries)
        require_first(first, members(sum(counts), self.central))
        return asked(structure, counts, self.central, first, self.mu, structure.split(params), key, generation)

    def estimate(self, population: CoordinatePopulation, fitness: Float[Array, "n"]) -> Estimate:
        """Value and gradient from the values of all members."""
        counts = shares(population.structure, self.queries)
        sizes = [math.prod(weight.shape) for weight in population.structure.weights]
        unbiased = tuple(size / count for size, count in zip(sizes, counts, strict=True))
        fitness = require_whole(fitness, members(sum(counts), self.central))
        return Estimate.of(population, *estimated(self.central, unbiased, population, fitness))

    def evaluations(self, params: Any) -> int:
        """How many function values an estimate takes."""
        return members(sum(shares(self._structure(params), self.queries)), self.central)

    def _structure(self, params: Any) -> Structure:
        return structure_of(params, without(self.frozen), Leaf(), small=1)


def shares(structure: Structure, queries: int | None) -> tuple[int, ...]:
    """How many coordinates of each weight are queried: in proportion to its size, and at least one.

    Raises:
        SettingError: for fewer queries than weights.
    """
    sizes = np.array([math.prod(weight.shape) for weight in structure.weights])
    if queries is None or queries >= sizes.sum():
        return tuple(sizes.tolist())
    if queries < len(sizes):
        raise SettingError(f"queries must be at least {len(sizes)}, one for each array of params; got {queries}")
    exact = 1 + (sizes - 1) * (queries - len(sizes)) / max(1, sizes.sum() - len(sizes))
    counts = np.floor(exact).astype(int)
    missing = queries - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1  # the largest remainders
    return tuple(counts.tolist())


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def asked(
    structure: Structure,
    counts: tuple[int, ...],
    central: bool,
    first: int,
    mu: float | None,
    leaves: tuple[tuple[Any, ...], tuple[Any, ...]],
    key: Key,
    generation: Any,
) -> CoordinatePopulation:
    """Queries of some coordinates of each weight, of the parameters as ``structure`` splits them."""
    weights, arrays = leaves
    chosen, steps, begin = [], [], 0
    for number, (w, count) in enumerate(zip(weights, counts, strict=True)):
        at = drawn(xla.fold(jnp.asarray(key), generation, number), w.size, count, first)
        chosen.append(begin + at)
        size = jnp.ravel(w)[at]
        own = relative(smoothing_radius(w.dtype, central), size) if mu is None else jnp.float32(mu)
        steps.append(jnp.maximum(own, two_spacings(w.dtype, size)))
        begin += w.size
    coordinates, step = jnp.concatenate(chosen), jnp.concatenate(steps).astype(jnp.float32)
    told = list(counts)
    if central:
        coordinates, step = jnp.repeat(coordinates, 2), jnp.stack([step, -step], 1).reshape(-1)
        told = [2 * count for count in counts]
    else:  # the center, as the last coordinate's by a step of zero
        coordinates, step = jnp.append(coordinates, begin - 1), jnp.append(step, jnp.zeros((), step.dtype))
        told[-1] += 1
    return CoordinatePopulation(weights, arrays, structure, coordinates.astype(jnp.int32), step, tuple(told))


def drawn(key: Key, size: int, count: int, first: int) -> Int[Array, "count"]:
    """``count`` of ``size`` numbers, no two the same; all in order if there are no more."""
    if count == size:
        return jnp.arange(size, dtype=jnp.int32)
    u = noise("uniform", key, first, (1, size), like=jnp.zeros((), jnp.float32))[0]
    return jnp.sort(jax.lax.top_k(u, count)[1])


@partial(jax.jit, static_argnums=(0, 1))
def estimated(
    central: bool, factors: tuple[float, ...], population: CoordinatePopulation, fitness: Float[Array, "n"]
) -> tuple[Float[Array, ""], list[Float[Array, "..."]]]:
    """The value, and for each weight partial derivatives times a factor for each weight, zeros elsewhere."""
    structure = population.structure
    sizes = [math.prod(weight.shape) for weight in structure.weights]
    found = slopes(fitness, population.steps, population.coordinates, sum(sizes), central)
    parts = jnp.split(found.slope, np.cumsum(sizes)[:-1])
    gradient = [
        (part * factor).reshape(weight.shape)
        for part, factor, weight in zip(parts, factors, structure.weights, strict=True)
    ]
    return found.value, gradient
