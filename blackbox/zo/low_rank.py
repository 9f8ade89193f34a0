"""LOZO: zeroth-order fine-tuning by perturbations of low rank that share a subspace for some steps.

Source: Chen et al. 2024, "Enhancing Zeroth-Order Fine-Tuning for Language Models with Low-Rank Structures"
(arXiv:2410.07698), algorithms 1 (LOZO) and 2 (LOZO-M). For each matrix X (m x n), rank r, and pairs k:

    Z_k  <-  U_k V^T / sqrt(r)            U_k (m x r) fresh, V (n x r) kept for ``interval`` steps; standard normal
    d_k   =  (f(X + mu Z_k) - f(X - mu Z_k)) / (2 mu)
    N    <-  momentum N + (1 - momentum) mean_k d_k U_k
    X    <-  X - lr (N V^T / sqrt(r) + weight_decay X)

The paper perturbs by U V^T and divides the estimate by r: the same for matrices with its epsilon equal to mu / sqrt(r).
The authors' code does not divide, so that its learning rate is ours over r. When V is
drawn anew, the momentum is carried over to it, ``N <- N V_old^T V_new / n``. The gradient of a large model is close to
a matrix of low rank; for ``interval`` steps of ``momentum=0`` this is descent in a random subspace of that rank.

Vectors, and other than in the authors' code narrow matrices, have noise and momentum of independent entries. No weight
matrix is perturbed where it lies (:mod:`blackbox.perturbed`), so that every precision does. State beside the
parameters: N, r columns for a matrix.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from blackbox.kernels import seedsum
from blackbox.kernels.noise import fold
from blackbox.kernels.spec import UNIT
from blackbox.perturbed import LowRank
from blackbox.population import hashable
from blackbox.strategy import algorithm, require_integer, require_number
from blackbox.virtual import Leaf, NoisePopulation, Structure, draw, structure_of
from blackbox.virtual.leaves import streams
from blackbox.zo import in_place
from blackbox.zo.fine_tuning import (
    own_arrays,
    rate_of,
    require_population,
    require_precision,
    require_settings,
    slopes_of,
)  # fmt: skip
from blackbox.zo.pairs import mean_of_finite, slopes_of_pairs

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, UInt32

    from blackbox.arrays import Key
    from blackbox.kernels.spec import Kind

SHARED = 0x56  # tells the stream of V from that of U


class LOZOState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    params: Any
    """The parameters, a pytree like that given to ``init``."""
    momentum: tuple[Float[Array, "..."], ...]
    """Of each leaf that is trained: N, shape ``(*stacked, *m, rank)``, or the leaf's shape if its noise is dense."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SubspacePopulation(NoisePopulation):
    """Mirrored pairs of members whose second factor is the same for all of them, and for some generations.

    Attributes:
        interval: generations with one second factor.
    """

    interval: int

    @property
    def of_shared(self) -> NoisePopulation:
        """A population that names V as the second factors of its pairs, one for each interval."""
        return dataclasses.replace(self, key=fold(self.key, SHARED), generation=jnp.zeros_like(self.generation))

    def candidates(self, rows: Int[Array, "k"]) -> tuple[tuple[Any, ...], Any]:
        """Weights of some members, with the ``in_axes`` under which ``vmap`` maps over them."""
        members, axes = super().candidates(rows)
        narrow = [weight for weight in self.structure.weights if weight.noise == "low-rank"]
        if not narrow:
            return members, axes
        v = self.of_shared
        shared = iter(draw(narrow, v.key, v.generation, (self.generation // self.interval)[None], self.kind))
        out, mapped = list(members), list(axes)
        for i, member in enumerate(members):
            if isinstance(member, LowRank):
                out[i] = LowRank(member.w, member.a, jnp.broadcast_to(next(shared)[1], member.b.shape), member.axes)
                mapped[i] = LowRank(None, 0, 0, member.axes)
        return tuple(out), tuple(mapped)


jax.tree_util.register_dataclass(
    SubspacePopulation,
    data_fields=["weights", "arrays", "key", "generation", "sigma", "ids"],
    meta_fields=["structure", "popsize", "kind", "interval"],
)


@algorithm
class LOZO:
    """Low-rank zeroth-order optimization; see :class:`blackbox.zo.mezo.MeZO` for what both have.

    Args:
        queries: pairs of evaluations for a step.
        mu: standard deviation of the perturbation, in units of the parameters.
        lr: learning rate, or a function of the generation.
        rank: r.
        interval: steps (nu) with one subspace.
        momentum: of LOZO-M, at least 0 and below 1; the paper's is 0.9.
        weight_decay: of leaves with two axes or more.
        policy: :class:`blackbox.virtual.Leaf` by shell pattern of the leaf's path.
        noise: distribution of the entries of U, V and z.
    """

    virtual = True

    queries: int = 1
    mu: float = 1e-3
    lr: Any = 1e-6
    rank: int = 2
    interval: int = 50
    momentum: float = 0.0
    weight_decay: float = 0.0
    policy: Mapping[str, Leaf] | None = None
    noise: Kind = "normal"

    def __post_init__(self) -> None:
        require_settings(self)
        require_integer("rank", self.rank, low=1, optional=False)
        require_integer("interval", self.interval, low=1, optional=False)
        require_number("momentum", self.momentum, low=0, high=0.9999)

    def init(self, key: Key, params: Any) -> LOZOState:
        """The state around ``params``, whose JAX arrays it shares."""
        structure = self._structure(params)
        require_precision(structure, params)
        momentum = tuple(jnp.zeros(weight.parts[0], jnp.float32) for weight in structure.weights)
        return LOZOState(jnp.asarray(key), jnp.asarray(0), own_arrays(params), momentum)

    def ask(self, state: LOZOState, first: int = 0) -> SubspacePopulation:
        """Members 2k and 2k + 1: ``X + mu Z_k`` and ``X - mu Z_k``."""
        structure = self._structure(state.params)
        ids = None if first == 0 else first + jnp.arange(2 * self.queries)
        return SubspacePopulation(
            *structure.split(state.params), structure, state.key, state.generation, jnp.asarray(self.mu, jnp.float32),
            ids, 2 * self.queries, self.noise, self.interval,
        )  # fmt: skip

    def tell(self, state: LOZOState, population: SubspacePopulation, fitness: Float[Array, "n"]) -> LOZOState:
        require_population(state.params, population, fitness)
        weights, arrays = population.structure.split(state.params)
        slopes = slopes_of(self, population.rows, fitness)
        named = dataclasses.replace(population, weights=(), arrays=())
        moved, momentum = _descended(weights, state.momentum, named, slopes, *self._rates(state))
        return LOZOState(state.key, state.generation + 1, population.structure.join(moved, arrays), momentum)

    def recommend(self, state: LOZOState) -> Any:
        return state.params

    def step(self, loss: Callable[..., Any], *, jit: bool = True) -> Callable[..., tuple[LOZOState, float]]:
        """A step in the memory of the weights; see :meth:`blackbox.zo.mezo.MeZO.step`."""

        loss = hashable(loss)

        def advance(state: LOZOState, *args: Any) -> tuple[LOZOState, float]:
            population = self.ask(state)
            keys, shared = in_place.keys_of(population), in_place.keys_of(population.of_shared)
            epoch = (state.generation // self.interval)[None]

            def factors(pair: int) -> list[in_place.Factors]:
                form = [(weight.parts, weight.rank, self.noise) for weight in population.structure.weights]
                return [
                    (in_place.factors_of(own, pair + jnp.arange(1), *f)[0][0], in_place.factors_of(v, epoch, *f)[1][0])
                    for own, v, f, weight in zip(keys, shared, form, population.structure.weights, strict=True)
                    if weight.noise == "low-rank"
                ]

            nothing, rates = (None,) * len(population.weights), self._rates(state)
            weights, _, fitness = in_place.values_in_place(population, loss, args, factors, nothing, jit)
            slopes = jnp.asarray(slopes_of_pairs(fitness, self.mu))
            pairs = jnp.arange(self.queries)
            rest = pairs, slopes, *rates, keys, shared
            moved, momentum = _moved(weights, state.momentum, population, *rest)
            params = population.structure.join(moved, population.arrays)
            return LOZOState(state.key, state.generation + 1, params, momentum), mean_of_finite(fitness)

        return advance

    def _rates(self, state: LOZOState) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
        """Learning rate, weight decay and what is kept of the momentum."""
        lr = rate_of(self, state.generation)
        return lr, lr * self.weight_decay, jnp.float32(self.momentum)

    def _structure(self, params: Any) -> Structure:
        return structure_of(params, self.policy or {}, Leaf(rank=self.rank))


@jax.jit
def _descended(
    weights: tuple[Float[Array, "..."], ...],
    momentum: tuple[Float[Array, "..."], ...],
    population: SubspacePopulation,
    slopes: Float[Array, "n"],
    lr: Float[Array, ""],
    decay: Float[Array, ""],
    keep: Float[Array, ""],
) -> tuple[tuple[Float[Array, "..."], ...], tuple[Float[Array, "..."], ...]]:
    """The weights and the momentum after a step, as one program, which uses nothing up."""
    named = population, population.of_shared
    keys, shared = (streams(p.structure.weights, p.key, p.generation) for p in named)
    signed = slopes * (1.0 - 2.0 * (population.rows % 2))
    rest = population.rows // 2, signed, lr, decay, keep, list(keys), list(shared)
    return _moved(weights, momentum, population, *rest)


def _moved(
    weights: tuple[Float[Array, "..."], ...],
    momentum: tuple[Float[Array, "..."], ...],
    population: SubspacePopulation,
    pairs: Int[Array, "k"],
    signed: Float[Array, "k"],
    lr: Float[Array, ""],
    decay: Float[Array, ""],
    keep: Float[Array, ""],
    keys: Sequence[Any],
    shared: Sequence[Any],
) -> tuple[tuple[Float[Array, "..."], ...], tuple[Float[Array, "..."], ...]]:
    """The weights and the momentum after a step, leaf by leaf; the weights' arrays are used up."""
    structure, kind = population.structure, population.kind
    epoch, phase = jnp.divmod(population.generation, population.interval)
    is_new = (phase == 0) & (epoch > 0)
    leaves = zip(weights, momentum, structure.weights, keys, shared, in_place.decays(structure, decay), strict=True)
    moved, kept = [], []
    for w, n, weight, key, shared_key, shrink in leaves:
        lots_key, scale = fold(key, in_place.LOTS), weight.scale(kind)
        if weight.noise == "low-rank":
            form = weight.parts, weight.rank, weight.stacked, kind
            n, v = _in_subspace(n, key, shared_key, pairs, signed, epoch, is_new, keep, *form)
            moved.append(in_place.trained_by_factors(w, lots_key, n[None] * (lr * scale), v, shrink, weight.stacked))
        else:
            n = _of_entries(n, key, pairs, signed, keep, kind)
            moved.append(_less(w, n * (lr * scale), shrink, key))
        kept.append(n)
    return tuple(moved), tuple(kept)


@partial(jax.jit, static_argnums=(8, 9, 10, 11))
def _in_subspace(
    n: Float[Array, "*stacked *m rank"],
    key: UInt32[Array, "2"],
    shared_key: UInt32[Array, "2"],
    pairs: Int[Array, "k"],
    signed: Float[Array, "k"],
    epoch: Int[Array, ""],
    is_new: Bool[Array, ""],
    keep: Float[Array, ""],
    parts: tuple[tuple[int, ...], ...],
    rank: int,
    stacked: int,
    kind: Kind,
) -> tuple[Float[Array, "*stacked *m rank"], Float[Array, "1 *stacked *n rank"]]:
    """``keep N + (1 - keep) sum_k signed_k U_k``, with N carried over to a new V, and V."""
    unit = math.sqrt(rank) / UNIT[kind] ** 2  # U and V are as they were drawn
    u = in_place.factors_of(key, pairs, parts, rank, kind)[0] * unit
    v = in_place.factors_of(shared_key, epoch - jnp.arange(2), parts, rank, kind)[1]
    new, old = (x.reshape(*x.shape[:stacked], -1, rank) for x in v)
    flat = n.reshape(*n.shape[:stacked], -1, rank)
    # Of unit variance, so that the mean of V^T V over n is one.
    carried = jnp.einsum("...mr,...nr,...ns->...ms", flat, old, new) * (UNIT[kind] ** 2 / new.shape[-2])
    n = jnp.where(is_new, carried.reshape(n.shape), n)
    return keep * n + (1 - keep) * jnp.tensordot(signed, u, 1), v[:1]


@partial(jax.jit, static_argnums=5)
def _of_entries(
    n: Float[Array, "..."],
    key: UInt32[Array, "2"],
    pairs: Int[Array, "k"],
    signed: Float[Array, "k"],
    keep: Float[Array, ""],
    kind: Kind,
) -> Float[Array, "..."]:
    """``keep N + (1 - keep) sum_k signed_k z_k``."""
    start = (1 - keep) * signed[None], pairs.astype(jnp.uint32)[None]
    (total,) = seedsum(key[None], [(keep * n).reshape(1, -1)], *start, kind)
    return total.reshape(n.shape)


_less = jax.jit(in_place.less, donate_argnums=0)
