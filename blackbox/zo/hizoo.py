"""HiZOO: MeZO with perturbations and steps shaped by a diagonal of curvatures, which the same evaluations show.

Source: Zhao et al. 2024, "Second-Order Fine-Tuning without Pain for LLMs: A Hessian Informed Zeroth-Order Optimizer"
(arXiv:2402.15173), algorithm 1. With H = 1 / Sigma the diagonal of curvatures, 1 at the start, and pairs k:

    e_k  =  H^(-1/2) z_k                                    z_k standard normal
    d_k  =  (f(x + mu e_k) - f(x - mu e_k)) / (2 mu)
    c_k  =  (f(x + mu e_k) + f(x - mu e_k) - 2 f(x)) / mu^2
    H   <-  (1 - alpha) H + alpha mean_k |c_k| / 2 H z_k^2
    x   <-  x - lr (mean_k d_k e_k + weight_decay x)        e_k as it was evaluated

f(x) is one evaluation for all pairs, the generation's last member. H is kept within ``least`` and ``largest``, as the
paper's analysis assumes it to be.

H is a second copy of the weights, so that this is for models of which two fit: there is no step in place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from blackbox.errors import TellError
from blackbox.kernels.spec import UNIT
from blackbox.strategy import algorithm, require_number, require_order
from blackbox.virtual import Leaf, NoisePopulation, dense_structure, draw
from blackbox.zo import in_place
from blackbox.zo.differences import require_first
from blackbox.zo.fine_tuning import (
    away_from_center,
    own_arrays,
    rate_of,
    require_population,
    require_precision,
    require_settings,
)
from blackbox.zo.pairs import LARGEST

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from blackbox.arrays import Key
    from blackbox.kernels.spec import Kind


class HiZOOState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    params: Any
    """The parameters, a pytree like that given to ``init``."""
    curvature: tuple[Float[Array, "..."], ...]
    """H of each leaf that is trained, in the order of the tree."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ShapedPopulation(NoisePopulation):
    """Mirrored pairs of members by noise of standard deviation ``sigma H^(-1/2)``, and then the center.

    Member ``2 queries`` of a generation is the center itself.

    Attributes:
        curvature: H of each perturbed leaf.
    """

    curvature: tuple[Float[Array, "..."], ...]

    @property
    def paired(self) -> bool:
        return False

    def candidates(self, rows: Int[Array, "k"]) -> tuple[tuple[Any, ...], Any]:
        """Weights of some members, with the ``in_axes`` under which ``vmap`` maps over them."""
        sign = self.sigma * self.signs(rows)
        drawn = draw(self.structure.weights, self.key, self.generation, self.pairs(rows), self.kind)
        out = []
        for w, weight, h, (z,) in zip(self.weights, self.structure.weights, self.curvature, drawn, strict=True):
            step = z * weight.scale(self.kind) / jnp.sqrt(h)
            out.append(w + sign.reshape(-1, *[1] * w.ndim) * step)
        return tuple(out), (0,) * len(out)

    def pairs(self, rows: Int[Array, "k"]) -> Int[Array, "k"]:
        """The pair that each of some members belongs to, and for a center any."""
        block, place = jnp.divmod(rows, self.popsize)
        return block * (self.popsize // 2) + place // 2

    def signs(self, rows: Int[Array, "k"]) -> Float[Array, "k"]:
        """1, -1, or 0 for a center."""
        place = rows % self.popsize
        return jnp.where(place == self.popsize - 1, 0.0, 1.0 - 2.0 * (place % 2))

    def noise(self, i: int) -> Any:
        """What member ``i`` is away from the center, a pytree with zeros where nothing is perturbed."""
        return away_from_center(self, i)


jax.tree_util.register_dataclass(
    ShapedPopulation,
    data_fields=["weights", "arrays", "key", "generation", "sigma", "ids", "curvature"],
    meta_fields=["structure", "popsize", "kind"],
)


@algorithm
class HiZOO:
    """Hessian-informed zeroth-order optimization; see :class:`blackbox.zo.mezo.MeZO` for what both have.

    A generation is told whole: all pairs and the center, in any order.

    Args:
        queries: pairs of evaluations for a step, beside that of the center.
        mu: standard deviation of the perturbation of a weight of curvature 1, in units of the parameters.
        lr: learning rate, or a function of the generation.
        alpha: weight of a step's curvatures in their mean, from 0 (MeZO) to 1; the authors' 1e-6 is for LoRA, for all
            weights they take 1e-8 or less.
        least: smallest curvature.
        largest: largest curvature.
        weight_decay: of leaves with two axes or more.
        policy: :class:`blackbox.virtual.Leaf` by shell pattern of the leaf's path, "dense" or "frozen".
        noise: distribution of the entries.
    """

    virtual = True

    queries: int = 1
    mu: float = 1e-3
    lr: Any = 1e-6
    alpha: float = 1e-6
    least: float = 1e-2
    largest: float = 1e4
    weight_decay: float = 0.0
    policy: Mapping[str, Leaf] | None = None
    noise: Kind = "normal"

    def __post_init__(self) -> None:
        require_settings(self)
        require_number("alpha", self.alpha, low=0, high=1)
        require_number("least", self.least, above=0, high=1)
        require_number("largest", self.largest, low=1)
        require_order("least", self.least, "largest", self.largest)

    def init(self, key: Key, params: Any) -> HiZOOState:
        """The state around ``params``, whose JAX arrays it shares."""
        structure = dense_structure(params, self.policy)
        require_precision(structure, params)
        ones = tuple(jnp.ones(weight.shape, jnp.float32) for weight in structure.weights)
        return HiZOOState(jnp.asarray(key), jnp.asarray(0), own_arrays(params), ones)

    def ask(self, state: HiZOOState, first: int = 0) -> ShapedPopulation:
        """Members 2k and 2k + 1: ``x + mu e_k`` and ``x - mu e_k``; the last one: x."""
        structure = dense_structure(state.params, self.policy)
        n = 2 * self.queries + 1
        require_first(first, n)
        ids = None if first == 0 else first + jnp.arange(n)
        return ShapedPopulation(
            *structure.split(state.params), structure, state.key, state.generation, jnp.asarray(self.mu, jnp.float32),
            ids, n, self.noise, state.curvature,
        )  # fmt: skip

    def tell(self, state: HiZOOState, population: ShapedPopulation, fitness: Float[Array, "n"]) -> HiZOOState:
        require_population(state.params, population, fitness)
        if len(population) != 2 * self.queries + 1:
            raise TellError(f"all {2 * self.queries + 1} members are told at once, got {len(population)}")
        weights, arrays = population.structure.split(state.params)
        order = jnp.argsort(population.rows)
        f = jnp.asarray(fitness)[order].astype(jnp.float32)
        even, odd, center = f[:-1:2], f[1:-1:2], f[-1]
        first, second = (even - odd) / (2 * self.mu), jnp.abs((even - center) + (odd - center)) / (2 * self.mu**2)
        usable = jnp.abs(even - odd) < LARGEST
        known = usable & (second < LARGEST)
        slopes = jnp.where(usable, first, 0) / jnp.maximum(jnp.sum(usable), 1)
        bends = jnp.where(known, second, 0) / jnp.maximum(jnp.sum(known), 1)
        lr = rate_of(self, state.generation)
        share = jnp.where(jnp.any(known), self.alpha, 0.0)  # no curvature is nothing known of it
        rates = lr, lr * self.weight_decay, share, self.least, self.largest
        pairs = population.pairs(population.rows[order])[:-1:2]
        moved, curvature = _descended(population, weights, pairs, slopes, bends, rates)
        params = population.structure.join(moved, arrays)
        return HiZOOState(state.key, state.generation + 1, params, curvature)

    def recommend(self, state: HiZOOState) -> Any:
        return state.params


@jax.jit
def _descended(
    population: ShapedPopulation,
    weights: tuple[Float[Array, "..."], ...],
    pairs: Int[Array, "pairs"],
    slopes: Float[Array, "pairs"],
    bends: Float[Array, "pairs"],
    rates: tuple[Any, ...],
) -> tuple[tuple[Float[Array, "..."], ...], tuple[Float[Array, "..."], ...]]:
    """The weights and the curvatures after a step, pair by pair so that one pair's noise is in memory at once."""
    lr, decay, share, least, largest = rates
    named = population.structure.weights

    def add(k: Array, sums: Any) -> Any:
        drawn = draw(named, population.key, population.generation, pairs[k][None], population.kind)
        unit = [z[0] * UNIT[population.kind] for (z,) in drawn]
        return tuple((g + slopes[k] * z, c + bends[k] * z * z) for z, (g, c) in zip(unit, sums, strict=True))

    zeros = tuple((jnp.zeros(w.shape, jnp.float32), jnp.zeros(w.shape, jnp.float32)) for w in weights)
    sums = jax.lax.fori_loop(0, pairs.shape[0], add, zeros)
    moved, curvature = [], []
    shrinking = in_place.decays(population.structure, decay)
    for w, weight, h, (g, c), shrink in zip(weights, named, population.curvature, sums, shrinking, strict=True):
        moved.append(w * (1 - shrink) - lr * weight.multiplier * g / jnp.sqrt(h))
        curvature.append(jnp.clip((1 - share) * h + share * c * h, least, largest))
    return tuple(moved), tuple(curvature)
