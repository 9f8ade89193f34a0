"""EGGROLL: evolution strategies with low-rank perturbations of every weight matrix, for networks.

Source: Sarkar et al. 2025, "Evolution Strategies at the Hyperscale" (arXiv:2511.16652), algorithm 1, with mirrored
pairs. For a matrix M (m x n), rank r, pairs p of members with opposite steps, and shaped fitness F (lower is better):

    E_p      <- A_p B_p^T / sqrt(r)                         entries of A (m x r), B (n x r): zero mean, unit variance
    evaluate    M + sigma E_p  and  M - sigma E_p
    G        <- sigma / sqrt(N) sum_p (F_p+ - F_p-) E_p     one product: (diag(F) A)^T B over stacked pairs
    M        <- M + optimizer(G)

For z-scored random fitness an entry of G has the root mean square sigma, whatever N and r: a learning rate of plain SGD
is a root mean square step in units of sigma. In the paper's units alpha = lr sigma sqrt(N); on the unbiased gradient of
the smoothed objective the learning rate is lr sigma^2 sqrt(N).

Vectors and narrow matrices have noise of independent entries. Memory O(parameters), whatever the population.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from blackbox.errors import SettingError
from blackbox.shaping import centered_ranks, pair_signs, z_scores
from blackbox.strategy import algorithm, require_integer, require_number
from blackbox.virtual import Leaf, NoisePopulation, Structure, Weight, draw, structure_of

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from blackbox.arrays import Key
    from blackbox.kernels.spec import Kind

SHAPINGS: dict[str, Callable[[Array], Array]] = {
    "z-score": z_scores,
    "centered-ranks": centered_ranks,
    "sign": pair_signs,
}


LARGEST = 2**24  # entries of noise in memory at once in ``tell``


class EggrollState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    params: Any
    """The mean, a pytree like that given to ``init``."""
    optimizer: Any
    """State of the optimizer."""


@algorithm
class Eggroll:
    """Evolution guided general optimization via low-rank learning.

    Args:
        popsize: members per generation, even.
        rank: of the perturbation of each matrix; None for independent entries (OpenAI-ES).
        sigma: standard deviation of the perturbation, in units of the parameters, or a function of the generation.
        optimizer: any optax optimizer; by default ``optax.sgd(1.0)``.
        shaping: "z-score", "centered-ranks" or "sign" (which side of each pair is better).
        policy: :class:`blackbox.virtual.Leaf` by shell pattern of the leaf's path: ``{"*embed*": Leaf(rank=4)}``.
        noise: distribution of the entries, "binom8" (fastest but sign), "normal", "sign"; all train alike.
        noise_reuse: generations that keep the same noise; 1 is fresh noise each time.
        dtype: of the population's weights, such as ``jnp.bfloat16``; the mean keeps its own. None: as the mean.
        update_chunk: pairs whose factors are in memory at once in ``tell``.
    """

    popsize: int
    rank: int | None = 1
    sigma: Any = 0.02
    optimizer: Any = None
    shaping: Literal["z-score", "centered-ranks", "sign"] = "z-score"
    policy: Mapping[str, Leaf] | None = None
    noise: Kind = "binom8"
    noise_reuse: int = 1
    dtype: Any = None
    update_chunk: int = 1024

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, even=True)
        require_integer("rank", self.rank, low=1)
        require_integer("noise_reuse", self.noise_reuse, low=1)
        require_integer("update_chunk", self.update_chunk, low=1)
        if not callable(self.sigma):
            require_number("sigma", self.sigma, above=0)
        if self.shaping not in SHAPINGS:
            raise SettingError(f"shaping must be one of {', '.join(SHAPINGS)}, got {self.shaping!r}")
        if self.noise not in ("binom8", "normal", "sign"):
            raise SettingError(f'noise must be "binom8", "normal" or "sign", got {self.noise!r}')

    def init(self, key: Key, params: Any) -> EggrollState:
        weights, _ = self._structure(params).split(params)
        return EggrollState(jnp.asarray(key), jnp.asarray(0), params, self._optimizer.init(weights))

    def ask(self, state: EggrollState) -> NoisePopulation:
        structure = self._structure(state.params)
        weights, arrays = structure.split(state.params)
        if self.dtype is not None:
            weights = tuple(w.astype(self.dtype) for w in weights)
        sigma = self.sigma(state.generation) if callable(self.sigma) else self.sigma
        return NoisePopulation(
            weights, arrays, state.key, state.generation // self.noise_reuse, jnp.arange(self.popsize),
            jnp.asarray(sigma, jnp.float32), structure, self.noise, paired=True,
        )  # fmt: skip

    def tell(self, state: EggrollState, population: NoisePopulation, fitness: Float[Array, "n"]) -> EggrollState:
        structure = population.structure
        weights, arrays = structure.split(state.params)
        shaped = SHAPINGS[self.shaping](jnp.asarray(fitness, jnp.float32))
        gradient = gradients(population, shaped, self.update_chunk)
        updates, optimizer = self._optimizer.update(gradient, state.optimizer, weights)
        moved = tuple((w + u).astype(w.dtype) for w, u in zip(weights, updates, strict=True))
        return EggrollState(state.key, state.generation + 1, structure.join(moved, arrays), optimizer)

    def recommend(self, state: EggrollState) -> Any:
        return state.params

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.sgd(1.0) if self.optimizer is None else self.optimizer

    def _structure(self, params: Any) -> Structure:
        default = Leaf(noise="dense") if self.rank is None else Leaf(rank=self.rank)
        return structure_of(params, self.policy or {}, default)


@partial(jax.jit, static_argnames="chunk")
def gradients(population: NoisePopulation, shaped: Float[Array, "n"], chunk: int) -> tuple[Float[Array, "..."], ...]:
    """``sigma / sqrt(n) sum_i F_i s_i E_i`` for each weight, streamed over chunks of pairs."""
    ids, n = population.ids, population.ids.shape[0]
    signed = shaped * (1.0 - 2.0 * (ids % 2)).astype(shaped.dtype)
    if population.paired:  # both sides of a pair have the same noise: half the draws, half the depth of the product
        pairs, signed = ids[::2] // 2, signed[::2] + signed[1::2]
    else:
        pairs = ids // 2
    weights = population.structure.weights
    sums: dict[Weight, Array] = {}
    for kind in ("low-rank", "dense"):
        group = [weight for weight in weights if weight.leaf.noise == kind]
        # Noise of independent entries is as large as the weights for every pair: few pairs at once.
        entries = sum(math.prod(part) for weight in group for part in weight.parts)
        if group:
            size = max(1, min(chunk, LARGEST // entries))
            sums |= zip(group, _streamed(population, group, pairs, signed, size), strict=True)
    scale = population.sigma / n**0.5
    rank = {weight: weight.leaf.rank if weight.leaf.noise == "low-rank" else 1 for weight in weights}
    return tuple(sums[weight] * (scale * weight.leaf.scale / rank[weight] ** 0.5) for weight in weights)


def _streamed(
    population: NoisePopulation,
    weights: list[Weight],
    pairs: Int[Array, "pairs"],
    signed: Float[Array, "pairs"],
    size: int,
) -> list[Float[Array, "..."]]:
    """The weighted sums of unit noise, ``size`` pairs at a time."""
    steps = -(-pairs.shape[0] // size)
    size = min(size, pairs.shape[0])
    spare = steps * size - pairs.shape[0]
    parts = (jnp.pad(pairs, (0, spare)).reshape(steps, size), jnp.pad(signed, (0, spare)).reshape(steps, size))

    def add(totals: list[Array], part: tuple[Array, Array]) -> tuple[list[Array], None]:
        drawn = draw(weights, population.key, population.generation, part[0], population.kind)
        added = [weighted_sum(weight, noise, part[1]) for weight, noise in zip(weights, drawn, strict=True)]
        return [total + more for total, more in zip(totals, added, strict=True)], None

    totals = [jnp.zeros(weight.shape, jnp.float32) for weight in weights]
    return jax.lax.scan(add, totals, parts)[0] if steps > 1 else add(totals, (parts[0][0], parts[1][0]))[0]


def weighted_sum(weight: Weight, drawn: tuple[Array, ...], f: Float[Array, "pairs"]) -> Float[Array, "..."]:
    """``sum_p f_p A_p B_p^T`` (or of E_p), as one product."""
    if len(drawn) == 1:
        return jnp.tensordot(f, drawn[0], axes=1)
    a, b = drawn
    s = weight.leaf.stacked
    stack, left, right = weight.shape[:s], a.shape[1 + s : -1], b.shape[1 + s : -1]
    a = (a * f.reshape(-1, *[1] * (a.ndim - 1))).reshape(len(f), -1, math.prod(left), weight.leaf.rank)
    b = b.reshape(len(f), -1, math.prod(right), weight.leaf.rank)
    return jnp.einsum("plmr,plnr->lmn", a, b).reshape(*stack, *left, *right)
