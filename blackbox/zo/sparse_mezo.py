"""Sparse-MeZO: MeZO that perturbs and trains the small weights alone.

Source: Liu et al. 2024, "Sparse MeZO: Less Parameters for Better Performance in Zeroth-Order LLM Fine-Tuning"
(arXiv:2402.15751), algorithm 1. For each leaf, with a threshold h fixed before training,

    z_k  <-  z_k  where |x| <= h, else 0                    h: the quantile 1 - sparsity of |x| at the start
    d_k   =  (f(x + mu z_k) - f(x - mu z_k)) / (2 mu)
    x    <-  x - lr (mean_k d_k z_k + weight_decay x)       where |x| <= h

Noise in large weights costs more of the loss than it tells of the gradient, so that fewer weights allow a larger
learning rate.

The mask is made from the present weights in each step, as in the paper, and nowhere stored: a weight that grows beyond
h stays where it is from then on. :meth:`SparseMeZO.step`, which perturbs weights where they lie, keeps it during a step
in the last place of each weight (:mod:`blackbox.zo.in_place`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from blackbox.errors import SettingError
from blackbox.population import hashable
from blackbox.strategy import algorithm, require_number
from blackbox.virtual import Leaf, NoisePopulation, dense_structure
from blackbox.zo.fine_tuning import (
    away_from_center,
    descended,
    own_arrays,
    rate_of,
    require_population,
    require_precision,
    require_settings,
    slopes_of,
    stepped,
)  # fmt: skip
from blackbox.zo.in_place import BLOCK, moves
from blackbox.zo.pairs import mean_of_finite

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from blackbox.arrays import Key
    from blackbox.kernels.spec import Kind


class SparseMeZOState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    params: Any
    """The parameters, a pytree like that given to ``init``."""
    thresholds: tuple[Float[Array, ""], ...]
    """h of each leaf that is trained, in the order of the tree."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MaskedPopulation(NoisePopulation):
    """Mirrored pairs of members that differ from the center where its weights are small.

    Attributes:
        thresholds: of each perturbed leaf the largest magnitude of weights with noise.
    """

    thresholds: tuple[Float[Array, ""], ...]

    def candidates(self, rows: Int[Array, "k"]) -> tuple[tuple[Any, ...], Any]:
        """Weights of some members, with the ``in_axes`` under which ``vmap`` maps over them."""
        members, axes = super().candidates(rows)
        masked = zip(members, self.weights, self.thresholds, strict=True)
        return tuple(jnp.where(moves(w, h), member, w) for member, w, h in masked), axes

    def noise(self, i: int) -> Any:
        """What member ``i`` is away from the center, a pytree with zeros where nothing is perturbed."""
        return away_from_center(self, i)


jax.tree_util.register_dataclass(
    MaskedPopulation,
    data_fields=["weights", "arrays", "key", "generation", "sigma", "ids", "thresholds"],
    meta_fields=["structure", "popsize", "kind"],
)


@algorithm
class SparseMeZO:
    """MeZO on the small weights of each leaf; see :class:`blackbox.zo.mezo.MeZO` for what both have.

    Args:
        sparsity: share of each leaf's weights, the largest ones, that stay as they are; at least 0 and below 1.
        queries: pairs of evaluations for a step.
        mu: standard deviation of the perturbation, in units of the parameters.
        lr: learning rate, or a function of the generation.
        weight_decay: of leaves with two axes or more.
        policy: :class:`blackbox.virtual.Leaf` by shell pattern of the leaf's path, "dense" or "frozen".
        noise: distribution of the entries.
    """

    virtual = True

    sparsity: float = 0.75
    queries: int = 1
    mu: float = 1e-3
    lr: Any = 1e-6
    weight_decay: float = 0.0
    policy: Mapping[str, Leaf] | None = None
    noise: Kind = "normal"

    def __post_init__(self) -> None:
        require_settings(self)
        require_number("sparsity", self.sparsity, low=0)
        if self.sparsity >= 1:
            raise SettingError(f"sparsity must be below 1, got {self.sparsity!r}")

    def init(self, key: Key, params: Any) -> SparseMeZOState:
        """The state around ``params``, whose JAX arrays it shares."""
        structure = dense_structure(params, self.policy)
        require_precision(structure, params)
        params = own_arrays(params)
        thresholds = tuple(magnitude_below(w, 1 - self.sparsity) for w in structure.split(params)[0])
        return SparseMeZOState(jnp.asarray(key), jnp.asarray(0), params, thresholds)

    def ask(self, state: SparseMeZOState, first: int = 0) -> MaskedPopulation:
        """Members 2k and 2k + 1: ``x + mu z_k`` and ``x - mu z_k``."""
        structure = dense_structure(state.params, self.policy)
        ids = None if first == 0 else first + jnp.arange(2 * self.queries)
        return MaskedPopulation(
            *structure.split(state.params), structure, state.key, state.generation, jnp.asarray(self.mu, jnp.float32),
            ids, 2 * self.queries, self.noise, state.thresholds,
        )  # fmt: skip

    def tell(self, state: SparseMeZOState, population: MaskedPopulation, fitness: Float[Array, "n"]) -> SparseMeZOState:
        require_population(state.params, population, fitness)
        lr = rate_of(self, state.generation)
        rates = lr * slopes_of(self, population.rows, fitness)
        weights, arrays = population.structure.split(state.params)
        all_moved = descended(population, weights, rates, lr * self.weight_decay)
        told = zip(weights, all_moved, state.thresholds, strict=True)
        moved = tuple(jnp.where(moves(w, h), new, w) for w, new, h in told)
        return state._replace(generation=state.generation + 1, params=population.structure.join(moved, arrays))

    def recommend(self, state: SparseMeZOState) -> Any:
        return state.params

    def step(self, loss: Callable[..., Any], *, jit: bool = True) -> Callable[..., tuple[SparseMeZOState, float]]:
        """A step in the memory of the weights; see :meth:`blackbox.zo.mezo.MeZO.step`."""

        loss = hashable(loss)

        def advance(state: SparseMeZOState, *args: Any) -> tuple[SparseMeZOState, float]:
            population = self.ask(state)
            weights, fitness = stepped(self, population, state.thresholds, loss, args, jit)
            params = population.structure.join(weights, population.arrays)
            return state._replace(generation=state.generation + 1, params=params), mean_of_finite(fitness)

        return advance


@jax.jit
def magnitude_below(w: Float[Array, "..."], share: float) -> Float[Array, ""]:
    """The magnitude that the given share of the weights does not exceed, by bisection, without a sort's memory.

    It is one of the weights' own magnitudes, in float32.
    """
    flat, rest = w.reshape(-1), w.size % BLOCK
    due = jnp.ceil(share * w.size - 1e-3).astype(jnp.int32)

    def below(block: Array, trial: Array) -> Array:
        # Bits of positive floats are ordered as these are.
        return jnp.sum(jax.lax.bitcast_convert_type(jnp.abs(block).astype(jnp.float32), jnp.uint32) < trial)

    def narrow(i: Array, least: Array) -> Array:
        trial = least | (jnp.uint32(1) << (30 - i).astype(jnp.uint32))

        def add(k: Array, count: Array) -> Array:
            return count + below(jax.lax.dynamic_slice_in_dim(flat, k * BLOCK, BLOCK), trial)

        count = below(flat[w.size - rest :], trial)
        if w.size >= BLOCK:
            count = jax.lax.fori_loop(0, w.size // BLOCK, add, count)
        return jnp.where(count >= due, least, trial)  # the bit stays zero if enough weights are below it

    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, narrow, jnp.uint32(0)), jnp.float32)
