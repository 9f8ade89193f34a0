"""Guided ES: random directions drawn out along a few surrogate gradients.

Source: Maheswaranathan, Metz, Tucker, Choi & Sohl-Dickstein 2019, "Guided evolutionary strategies: augmenting random
search with surrogate gradients" (arXiv:1806.10230), algorithm 1. With U, d x k, an orthonormal basis of the last k
surrogate gradients, which need only be correlated with the gradient, P pairs of evaluations and any first-order
optimizer:

    eps  ~   N(0, sigma^2 Sigma),   Sigma  =  alpha / d I  +  (1 - alpha) / k U U^T
    g   <-   beta / (2 sigma^2 P)  sum_i eps_i (f(x + eps_i) - f(x - eps_i))
    x   <-   x + optimizer(g)

so that ``E g = beta Sigma grad f`` of a linear f: what of the gradient lies in the surrogates' span comes with the
weight ``beta ((1 - alpha) / k + alpha / d)``, the rest with ``beta alpha / d``. With ``alpha = 1`` this is plain ES,
with ``alpha = 0`` nothing but the span is searched.

Surrogates are pushed with :meth:`GuidedES.guide`. As long as there are r < k, and where some of them are linearly
dependent, the basis is of r directions and r takes the place of k; without any, Sigma is I / d.

Memory O(k parameters); the normal noise is made from its key where it is used.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from blackbox.errors import SettingError, TellError
from blackbox.kernels import seedsum, xla
from blackbox.perturbed.lowrank import widened
from blackbox.strategy import algorithm, require_integer, require_number
from blackbox.virtual import Directions, Leaf, ProbePopulation, Structure, Weight, structure_of
from blackbox.virtual.leaves import drawn, streams
from blackbox.zo.differences import Estimate, require_first, require_patterns, require_whole, slopes, without
from blackbox.zo.zo import stepped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float, Int, UInt32

    from blackbox.arrays import Key

INDEPENDENT = 1e-4  # sine of the angle to the span of newer surrogates below which one adds no direction
COEFFICIENTS = 1  # what the key of the noise within the basis is folded with


class GuidedESState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    params: Any
    """A pytree like that given to ``init``."""
    optimizer: Any
    """State of the optimizer, which sees the tree of ``params`` with ``optax.MaskedNode`` where nothing is trained."""
    surrogates: tuple[Float[Array, "k ..."], ...]
    """Of each trained leaf its part of the last surrogate gradients, newest first, each of unit length over all leaves;
    zero where there are none yet."""


@dataclasses.dataclass(frozen=True, eq=False)
class GuidedDirections(Directions):
    """``wide z + sum_j within_j c_j U_j`` of standard normal z, in all dimensions, and c; of expected squared length 1.

    Attributes:
        key: of the noise.
        basis: orthonormal over all leaves, of each leaf its part.
        wide: standard deviation in every direction.
        within: standard deviation along each of the basis; zero along what is none of it.
    """

    key: UInt32[Array, "2"]
    basis: tuple[Float[Array, "k ..."], ...]
    wide: Float[Array, ""]
    within: Float[Array, "k"]

    def drawn(self, weights: Sequence[Weight], ids: Int[Array, "n"]) -> list[Float[Array, "n ..."]]:
        named, keys = self._streams(weights)
        (c,), *z = drawn(named, keys, ids, "normal")
        return [self.wide * e + jnp.tensordot(c * self.within, u, 1) for (e,), u in zip(z, self.basis, strict=True)]

    def weighted(
        self, weights: Sequence[Weight], ids: Int[Array, "n"], f: Float[Array, "n"]
    ) -> list[Float[Array, "..."]]:
        named, keys = self._streams(weights)
        zeros = [jnp.zeros((1, math.prod(weight.shape)), jnp.float32) for weight in named]
        c, *z = seedsum(keys, zeros, f[None], ids[None].astype(jnp.uint32), "normal")
        along = c[0] * self.within
        return [
            self.wide * e.reshape(u.shape[1:]) + jnp.tensordot(along, u, 1) for e, u in zip(z, self.basis, strict=True)
        ]

    def _streams(self, weights: Sequence[Weight]) -> tuple[list[Weight], UInt32[Array, "weights+1 2"]]:
        """c and the leaves' z as they are drawn, with the keys of their streams; that of c is no leaf's of any name."""
        c = Weight("coefficients", self.within.shape, "dense")
        keys = streams([c], xla.fold(self.key, COEFFICIENTS), 0), streams(weights, self.key, 0)
        return [c, *weights], jnp.concatenate(keys)


@algorithm
class GuidedES:
    """Guided evolution strategy of a pytree of parameters.

    Args:
        optimizer: any optax optimizer.
        queries: P, directions in an estimate, two evaluations each.
        k: surrogate gradients that are kept.
        sigma: root mean square length of a step, in units of the parameters; that in each coordinate is
            ``sigma / sqrt(d)``.
        alpha: part of the variance in all directions, against that within the surrogates' span, from 0 to 1.
        beta: scale of the estimate. The gradient itself, on average and without surrogates, comes with ``beta = d``.
        reuse: whether each estimate is pushed as a surrogate for the next.
        frozen: shell patterns of the paths of leaves that are not trained.
    """

    virtual = True

    optimizer: Any = field(kw_only=False)
    queries: int = 1
    k: int = 1
    sigma: float = 0.1
    alpha: float = 0.5
    beta: float = 1.0
    reuse: bool = False
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, optax.GradientTransformation):
            raise SettingError(f"optimizer must be one of optax's, such as optax.adam(0.01), got {self.optimizer!r}")
        require_integer("queries", self.queries, low=1, optional=False)
        require_integer("k", self.k, low=1, optional=False)
        require_number("sigma", self.sigma, above=0)
        require_number("alpha", self.alpha, low=0, high=1)
        require_number("beta", self.beta, above=0)
        object.__setattr__(self, "frozen", require_patterns(self.frozen))

    def init(self, key: Key, params: Any) -> GuidedESState:
        # A copy of what NumPy could change afterwards.
        params = jax.tree.map(lambda x: jnp.array(x) if isinstance(x, np.ndarray | np.generic) else x, params)
        structure = self._structure(params)
        wide = [widened(w) for w in structure.split(params)[0]]  # so that the moments keep one precision
        optimizer = self.optimizer.init(structure.only(wide, optax.MaskedNode()))
        none = tuple(jnp.zeros((self.k, *weight.shape), jnp.float32) for weight in structure.weights)
        return GuidedESState(jnp.asarray(key), jnp.asarray(0), params, optimizer, none)

    def guide(self, state: GuidedESState, surrogate: Any) -> GuidedESState:
        """The state with one more surrogate gradient, in the place of the oldest.

        Args:
            state: of this strategy.
            surrogate: a pytree like the parameters; its length does not matter. One that is zero or not finite says
                nothing and is not kept.

        Raises:
            TellError: a tree of another form or other shapes than the parameters.
        """
        structure = self._structure(state.params)
        if jax.tree.structure(surrogate) != structure.treedef:
            raise TellError(
                f"surrogate must be a tree like the parameters, {structure.treedef}; "
                f"got {jax.tree.structure(surrogate)}"
            )
        parts = [jnp.asarray(x) for x in structure.split(surrogate)[0]]
        for weight, part in zip(structure.weights, parts, strict=True):
            if part.shape != weight.shape or jnp.issubdtype(part.dtype, jnp.complexfloating):
                raise TellError(
                    f"surrogate must be real and of shape {weight.shape} at {weight.name}; got {part.dtype} of shape "
                    f"{part.shape}"
                )
        return state._replace(surrogates=_pushed(state.surrogates, parts))

    def ask(self, state: GuidedESState, first: int = 0) -> ProbePopulation:
        """Members 2i and 2i + 1: ``x + eps_i`` and ``x - eps_i``."""
        require_first(first, 2 * self.queries)
        structure = self._structure(state.params)
        weights, arrays = structure.split(state.params)
        key = xla.fold(state.key, state.generation)
        source = _directions(key, state.surrogates, jnp.asarray(self.alpha, jnp.float32))
        begin, sigma = first // 2, jnp.asarray(self.sigma, jnp.float32)
        at = begin + jnp.repeat(jnp.arange(self.queries), 2)
        steps = jnp.tile(jnp.stack([sigma, -sigma]), self.queries)
        ones = jnp.ones(self.queries, jnp.float32)
        return ProbePopulation(
            weights, arrays, structure, source, at, steps, jnp.asarray(begin), ones, ordered=True
        )  # fmt: skip

    def tell(self, state: GuidedESState, population: ProbePopulation, fitness: Float[Array, "n"]) -> GuidedESState:
        """The state after the optimizer's step; a pair with a value that is not finite counts nothing.

        Raises:
            TellError: a population of another tree, or without some of its members.
        """
        structure = population.structure
        if jax.tree.structure(state.params) != structure.treedef:
            raise TellError("population must be one of this state's, got one whose parameters are another tree")
        fitness = require_whole(fitness, 2 * self.queries)
        estimate = Estimate.of(population, *_estimated(population, fitness, self.beta))
        params, optimizer = stepped(self.optimizer, structure, state.params, state.optimizer, estimate)
        surrogates = state.surrogates
        if self.reuse:
            surrogates = _pushed(surrogates, list(structure.split(estimate.gradient)[0]))
        return GuidedESState(state.key, state.generation + 1, params, optimizer, surrogates)

    def recommend(self, state: GuidedESState) -> Any:
        return state.params

    def _structure(self, params: Any) -> Structure:
        return structure_of(params, without(self.frozen), Leaf(noise="dense"))


@jax.jit
def _pushed(surrogates: tuple[Float[Array, "k ..."], ...], parts: list[Array]) -> tuple[Float[Array, "k ..."], ...]:
    """The surrogates with a new one in front, scaled to unit length, without the oldest."""
    parts = [part.astype(jnp.float32) for part in parts]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(part)) for part in parts]))
    parts = [part / largest for part in parts]  # squares of huge or tiny entries would overflow or vanish
    length = jnp.sqrt(sum(jnp.sum(part * part) for part in parts))
    is_taken = jnp.isfinite(length) & (largest > 0) & (length > 0)
    new = [jnp.concatenate([(part / length)[None], old[:-1]]) for part, old in zip(parts, surrogates, strict=True)]
    return tuple(jnp.where(is_taken, a, b) for a, b in zip(new, surrogates, strict=True))


@jax.jit
def _directions(
    key: UInt32[Array, "2"], surrogates: tuple[Float[Array, "k ..."], ...], alpha: Float[Array, ""]
) -> GuidedDirections:
    """The directions around an orthonormal basis of the surrogates."""
    basis = _orthonormal(surrogates)
    is_own = sum(jnp.sum(u * u, axis=tuple(range(1, u.ndim))) for u in basis) > 0.5
    count = jnp.sum(is_own)
    d = sum(u.size // len(u) for u in basis)
    part = jnp.where(count > 0, alpha, 1.0)
    within = jnp.where(is_own, jnp.sqrt((1 - part) / jnp.maximum(count, 1)), 0.0)
    return GuidedDirections(key, basis, jnp.sqrt(part / d), within)


def _orthonormal(vectors: tuple[Float[Array, "k ..."], ...]) -> tuple[Float[Array, "k ..."], ...]:
    """The vectors by Gram-Schmidt's process, in their order; zero for those in the span of the ones before."""

    def one_more(j: Int[Array, ""], basis: tuple[Array, ...]) -> tuple[Array, ...]:
        left = [x[j] for x in vectors]
        for _ in range(2):  # once more for what rounding has left
            along = sum(jnp.tensordot(u, x, x.ndim) for u, x in zip(basis, left, strict=True))
            left = [x - jnp.tensordot(along, u, 1) for u, x in zip(basis, left, strict=True)]
        length = jnp.sqrt(sum(jnp.sum(x * x) for x in left))
        scale = jnp.where(length > INDEPENDENT, 1 / jnp.maximum(length, INDEPENDENT), 0.0)
        return tuple(u.at[j].set(x * scale) for u, x in zip(basis, left, strict=True))

    zeros = tuple(jnp.zeros_like(x) for x in vectors)
    return cast("tuple[Array, ...]", jax.lax.fori_loop(0, len(vectors[0]), one_more, zeros))


@jax.jit
def _estimated(
    population: ProbePopulation, fitness: Float[Array, "n"], beta: Any
) -> tuple[Float[Array, ""], list[Float[Array, "..."]]]:
    """The value, and g of the pairs that have not failed."""
    found = slopes(
        fitness, population.steps, population.directions - population.first, len(population.lengths), central=True
    )
    count = jnp.maximum(jnp.sum(found.known), 1)
    return found.value, population.weighted(beta * found.slope.astype(jnp.float32) / count)


jax.tree_util.register_dataclass(GuidedDirections, data_fields=["key", "basis", "wide", "within"], meta_fields=[])
