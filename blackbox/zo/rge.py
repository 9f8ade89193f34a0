"""RGE: the gradient from differences along random directions.

Sources: Nesterov & Spokoiny 2017, "Random gradient-free minimization of convex functions"; Spall 1992 (SPSA: Rademacher
directions, one of them); Choromanski et al. 2018 (arXiv:1804.02395, orthogonal and Hadamard directions). Over q
directions u of zero mean and ``E u u^T = I``

    g  =  1/q sum_u (f(x + mu u) - f(x - mu u)) / (2 mu) u          central, 2 q evaluations
    g  =  1/q sum_u (f(x + mu u) - f(x)) / mu u                     forward, q + 1 evaluations

which is unbiased for the gradient of f smoothed over the directions. Of a linear f in d dimensions the mean square
error ``E |g - grad f|^2 / |grad f|^2`` is

    (d + 1) / q        "normal"
    (d - 1) / q        "rademacher", and "sphere": normal directions scaled to the length d^(1/2)
    (d - q) / q        "orthogonal", blocks of at most d directions from a random orthogonal matrix; and "hadamard",
                       rows of Hadamard's matrix with random signs, where d is a power of two; up to (d - 1) / q else

so that learning rates go with q / d. All but orthogonal directions are made from a key where they are used, in O(d) of
memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.kernels import xla
from blackbox.kernels.noise import normal
from blackbox.strategy import require_bool, require_integer, require_key, require_one_of
from blackbox.virtual import (
    Directions,
    Hadamard,
    Leaf,
    ProbePopulation,
    Seeded,
    Stored,
    Structure,
    Weight,
    squared_lengths,
    structure_of,
)
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
from blackbox.zo.orthogonal import orthonormal_rows
from blackbox.zo.smoothing import radius_along

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from blackbox.arrays import Key

DISTRIBUTIONS = ("normal", "rademacher", "sphere", "orthogonal", "hadamard")


@dataclass(frozen=True)
class RGE:
    """Random gradient estimation.

    Args:
        queries: directions in an estimate. A central query is two evaluations; all forward ones share one more.
        distribution: of the directions: "normal", "rademacher", "sphere", "orthogonal" or "hadamard".
        central: central differences, or forward ones.
        mu: smoothing radius, the standard deviation of a step in each coordinate, in units of the parameters; by
            default by their dtype and root mean square, see :mod:`blackbox.zo.smoothing`: one for all leaves, so that
            leaves of much larger weights are to be rescaled or frozen.
        frozen: shell patterns of the paths of leaves that have no gradient.
    """

    queries: int = 64
    distribution: Literal["normal", "rademacher", "sphere", "orthogonal", "hadamard"] = "normal"
    central: bool = True
    mu: float | None = None
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_integer("queries", self.queries, low=1, optional=False)
        require_one_of("distribution", self.distribution, DISTRIBUTIONS)
        require_bool("central", self.central)
        object.__setattr__(self, "mu", plain_radius(self.mu))
        object.__setattr__(self, "frozen", require_patterns(self.frozen))

    def ask(self, params: Any, key: Key, generation: Any = 0, first: int = 0) -> ProbePopulation:
        """The queries around ``params``; those of another ``first`` are along further directions."""
        require_key(key)
        require_first(first, members(self.queries, self.central))
        structure = structure_of(params, without(self.frozen), Leaf(noise="dense"))
        form = (self.distribution, self.queries, self.central)
        return _asked(structure, form, first, self.mu, structure.split(params), key, generation)

    def estimate(self, population: ProbePopulation, fitness: Float[Array, "n"]) -> Estimate:
        """Value and gradient from the values of all members."""
        fitness = require_whole(fitness, members(self.queries, self.central))
        return Estimate.of(population, *along(self.central, population, fitness))

    def evaluations(self, params: Any) -> int:
        """How many function values an estimate takes."""
        return members(self.queries, self.central)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _asked(
    structure: Structure,
    form: tuple[str, int, bool],
    first: int,
    mu: float | None,
    leaves: tuple[tuple[Any, ...], tuple[Any, ...]],
    key: Key,
    generation: Any,
) -> ProbePopulation:
    distribution, queries, central = form
    begin = first // members(queries, central) * queries
    key = xla.fold(jnp.asarray(key), generation)
    source, lengths = _directions(distribution, queries, structure.weights, key, begin)
    weights, arrays = leaves
    step = radius_along(weights, central) if mu is None else jnp.asarray(mu, jnp.float32)
    ids = begin + jnp.arange(queries)
    if central:
        at, steps = jnp.repeat(ids, 2), jnp.tile(jnp.stack([step, -step]), len(ids))
    else:
        at, steps = jnp.append(ids, begin), jnp.append(jnp.full(len(ids), step), jnp.float32(0))
    return ProbePopulation(weights, arrays, structure, source, at, steps, jnp.asarray(begin), lengths, ordered=central)


def _directions(
    distribution: str, q: int, weights: tuple[Weight, ...], key: Key, begin: int
) -> tuple[Directions, Float[Array, "q"]]:
    """The directions, and what they are multiplied with for entries of unit variance."""
    ones = jnp.ones(q, jnp.float32)
    match distribution:
        case "normal":
            return Seeded(key, "normal"), ones
        case "rademacher":
            return Seeded(key, "sign"), ones
        case "hadamard":
            return Hadamard(key), ones
        case "orthogonal":
            return Stored(_orthogonal(weights, key, q, begin), jnp.asarray(begin)), ones
    source = Seeded(key, "normal")
    d = sum(int(np.prod(weight.shape)) for weight in weights)
    return source, jnp.sqrt(d / squared_lengths(source, weights, begin + jnp.arange(q)))


def _orthogonal(weights: tuple[Weight, ...], key: Key, q: int, begin: int) -> tuple[Float[Array, "q ..."], ...]:
    """Rows of random orthogonal matrices times d^(1/2), in blocks of at most d."""
    sizes = [int(np.prod(weight.shape)) for weight in weights]
    d = sum(sizes)
    rows = min(d, q)
    z = normal(key, begin, (-(-q // rows), rows, d), like=jnp.zeros((), jnp.float32))
    directions = orthonormal_rows(z).reshape(-1, d)[:q] * d**0.5
    parts = jnp.split(directions, np.cumsum(sizes)[:-1], axis=1)
    return tuple(part.reshape(q, *weight.shape) for part, weight in zip(parts, weights, strict=True))


@partial(jax.jit, static_argnums=0)
def along(
    central: bool, population: ProbePopulation, fitness: Float[Array, "n"]
) -> tuple[Float[Array, ""], list[Float[Array, "..."]]]:
    """The value, and for each weight the mean over the directions of their derivatives times them."""
    q = population.lengths.shape[0]
    found = slopes(fitness, population.steps, population.directions - population.first, q, central)
    count = jnp.maximum(jnp.sum(found.known), 1)
    return found.value, population.weighted(found.slope.astype(jnp.float32) / count)
