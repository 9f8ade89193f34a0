"""EGGROLL in integers alone: int8 weights that move by one unit, for networks without a float.

Source: Sarkar et al. 2025, "Evolution Strategies at the Hyperscale" (arXiv:2511.16652), section 6.1 and appendix H. For
a matrix M (m x n) of int8, pairs p of members with opposite steps, and losses L (integers, lower is better):

    E_p      <- A_p B_p^T                                   entries of A (m) and B (n) are fair signs
    evaluate    M + sigma E_p  and  M - sigma E_p           the factors applied to sums: (u M) + sigma (u . A) B
    F_p      <- sign(L_p- - L_p+) r_p                       r_p = 1, or the difference's rank, 1 to ``levels``
    G        <- sum_p F_p E_p                               one int8 product, (diag(F) A)^T B, summed in int32
    Z        <- Z + G / isqrt(V)                            V = sum_p F_p^2: of unit variance if F is random
    M        <- M + sign(Z)  where |Z| > threshold          by one unit, within the range
    Z        <- Z - sign(Z) threshold  where M was moved

The threshold is such that with random F a scheduled fraction of the weights moves. In the paper Z is forgotten after
each update (``carry=False``) and the threshold is the normal quantile. Here what did not move a weight is kept, like
the error of a quantized gradient (Seide et al. 2014, "1-bit stochastic gradient descent"): at small fractions most of
what the members found out would otherwise be lost. A walk of normal steps overshoots a threshold by 0.583 standard
deviations (Siegmund 1985, "Sequential Analysis", section 10.4), so that Z is stationary with the fraction
``1 / (threshold^2 + 2 * 0.583 threshold)``: within 2 % for fractions up to 0.2; at 0.4, 8 % of it are missing.

The paper's F is the sign alone, ``levels=1``. A sign test needs about 1.5 times the pairs of Wilcoxon's signed ranks,
which ``levels`` above 1 approximate; no outlier among the differences counts for more.

Of a matrix that is looked up, a member reads few rows, and what it was elsewhere made no difference: see
:meth:`IntegerPopulation.reading`.

Signs make every member an int8 network: the perturbed sums are those of M + sigma E, to the last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError
from blackbox.kernels import xla
from blackbox.kernels.spec import VALUES_PER_BLOCK
from blackbox.strategy import algorithm, require_integer, require_number
from blackbox.virtual import Leaf, Weight

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int, Int8, UInt32

    from blackbox.arrays import Key

LARGEST = 127  # -128 is no weight: the range is symmetric
LARGEST_VARIANCE = 2**23  # times 256 it is an int32
UNIT = 64  # of Z: one standard deviation
SIGNS_PER_BLOCK = VALUES_PER_BLOCK["sign"]
OVERSHOOT = 0.5826  # of a random walk of unit normal steps beyond a distant threshold: -zeta(1/2) / sqrt(2 pi)


@dataclasses.dataclass(frozen=True, eq=False)
class PerturbedWeight:
    """An int8 weight of one member, ``w + a b^T`` for a matrix and ``w + a * b`` for a vector.

    Attributes:
        w: the center, shape ``(m, n)`` or ``(n,)``.
        a: shape ``(m,)`` or ``(n,)``, with the member's sign and sigma.
        b: shape ``(n,)``.
    """

    w: Int8[Array, "..."]
    a: Int8[Array, "m"]
    b: Int8[Array, "n"]

    def accumulate(self, u: Int8[Array, "m"]) -> Int[Array, "n"]:
        """``u W`` in int32; under ``vmap`` over members one product with ``w`` serves all."""
        shared = jax.lax.dot(u, self.w, preferred_element_type=jnp.int32)
        return shared + jnp.sum(u.astype(jnp.int32) * self.a.astype(jnp.int32)) * self.b.astype(jnp.int32)

    def row(self, i: Int[Array, ""]) -> Int[Array, "n"]:
        """Row ``i`` in int32."""
        return self.w[i].astype(jnp.int32) + self.a[i].astype(jnp.int32) * self.b.astype(jnp.int32)

    def value(self) -> Int[Array, "..."]:
        """The weight in int32."""
        a = self.a.astype(jnp.int32)
        return self.w.astype(jnp.int32) + (a[:, None] if self.w.ndim == 2 else a) * self.b.astype(jnp.int32)


jax.tree_util.register_dataclass(PerturbedWeight, data_fields=["w", "a", "b"], meta_fields=[])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class IntegerPopulation:
    """Mirrored pairs of int8 networks around a center, for :func:`blackbox.evaluate`.

    Attributes:
        params: the center, a pytree of int8 arrays.
        key: key of the run.
        generation: the generation counter.
        popsize: members.
        sigma: size of the perturbation, in units of the weights.
        reads: see :meth:`reading`.
    """

    params: Any
    key: UInt32[Array, "2"]
    generation: Int[Array, ""]
    popsize: int
    sigma: int
    reads: Mapping[str, Bool[Array, "pairs m"]] = dataclasses.field(default_factory=dict)

    paired = True
    """Members 2k and 2k + 1 are made together."""

    @property
    def rows(self) -> Int[Array, "n"]:
        return jnp.arange(self.popsize)

    def candidates(self, rows: Int[Array, "k"]) -> tuple[Any, Any]:
        """:class:`PerturbedWeight` of some whole pairs of members, with the ``in_axes`` to map over them."""
        leaves, treedef = jax.tree.flatten(self.params)
        signs = self.sigma * (1 - 2 * (rows % 2)).astype(jnp.int8)
        factors = draw(named(self.params), self.key, self.generation, rows[::2] // 2)
        both = [tuple(jnp.repeat(x, 2, axis=0) for x in ab) for ab in factors]
        out = [PerturbedWeight(w, a * signs[:, None], b) for w, (a, b) in zip(leaves, both, strict=True)]
        axes: Any = PerturbedWeight(None, 0, 0)  # type: ignore[arg-type]
        return jax.tree.unflatten(treedef, out), jax.tree.unflatten(treedef, [axes] * len(leaves))

    def reading(self, reads: Mapping[str, Bool[Array, "pairs m"]]) -> IntegerPopulation:
        """The population whose pairs read some rows of a matrix alone, such as an embedding.

        The others' noise is then no part of the update, and a row's sum is measured by the pairs that read it: rare
        rows learn as fast as frequent ones.

        Args:
            reads: by the path of a matrix, which of its rows each pair reads.
        """
        shapes = {weight.name: weight.shape for weight in named(self.params)}
        for name, rows in reads.items():
            expected = (self.popsize // 2, *shapes.get(name, ())[:1])
            if len(shapes.get(name, ())) != 2 or rows.shape != expected:
                raise SettingError(
                    f"reads must give rows of shape {expected} for matrices of the population, which are "
                    f"{[n for n, shape in shapes.items() if len(shape) == 2]}; got {rows.shape} for {name!r}"
                )
        return dataclasses.replace(self, reads=dict(reads))

    def member(self, candidate: Any) -> Any:
        return candidate

    def __len__(self) -> int:
        return self.popsize

    def __repr__(self) -> str:
        return f"IntegerPopulation({self.popsize} members, {', '.join(w.name for w in named(self.params))})"

    def __getitem__(self, i: int) -> Any:
        """Member ``i``, a pytree of int8 arrays like the center."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"member {i} of a population of {len(self)}")
        return _formed(self, i % len(self))


jax.tree_util.register_dataclass(
    IntegerPopulation, data_fields=["params", "key", "generation", "reads"], meta_fields=["popsize", "sigma"]
)


@jax.jit
def _formed(population: IntegerPopulation, i: Any) -> Any:
    weights, _ = population.candidates(i - i % 2 + jnp.arange(2))

    def value(weight: PerturbedWeight) -> Int8[Array, "..."]:
        return PerturbedWeight(weight.w, weight.a[i % 2], weight.b[i % 2]).value().astype(jnp.int8)

    return jax.tree.map(value, weights, is_leaf=lambda x: isinstance(x, PerturbedWeight))


class IntegerEggrollState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    params: Any
    """The center, a pytree of int8 arrays."""
    sums: Any
    """Z of each weight, int32 in 1 / 64: what has not moved it yet."""
    thresholds: Int[Array, "horizon"]
    """Of Z, by generation, in 1 / 64."""


@algorithm
class IntegerEggroll:
    """EGGROLL on int8 weights, without a float from the noise to the update.

    ``init`` takes a pytree of int8 vectors and matrices with entries within +-(127 - sigma). The model meets
    :class:`PerturbedWeight` in their place and uses its methods; see :mod:`blackbox.problems.egg`.

    Args:
        popsize: members per generation, even.
        fraction: of the weights that would move if fitness were random, above 0 and below 1, or a function from
            generations (an array) to that, such as an optax schedule. Small fractions are small learning rates.
        sigma: size of the perturbation, in units of the weights.
        levels: of the magnitude of a pair's difference in fitness, by rank; 1 for its sign alone.
        carry: whether Z is kept until it moves its weight.
        horizon: generations of the schedule; later ones have the fraction of the last.
        update_chunk: pairs whose factors are in memory at once in ``tell``.
    """

    virtual = True

    popsize: int = 256
    fraction: Any = 0.05
    sigma: int = 1
    levels: int = 7
    carry: bool = True
    horizon: int = 10_000
    update_chunk: int = 4096

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, even=True)
        if self.popsize * self.levels**2 > LARGEST_VARIANCE:
            raise SettingError(
                f"popsize * levels^2 must be at most {LARGEST_VARIANCE}, got {self.popsize} * {self.levels}^2"
            )
        for name in ("horizon", "update_chunk"):
            require_integer(name, getattr(self, name), low=1)
        if not callable(self.fraction):
            require_number("fraction", self.fraction, above=0)
        for name in ("sigma", "levels"):
            require_integer(name, getattr(self, name), low=1)
            if getattr(self, name) > LARGEST:
                raise SettingError(f"{name} must be at most {LARGEST}, got {getattr(self, name)}")

    def init(self, key: Key, params: Any) -> IntegerEggrollState:
        limit = LARGEST - self.sigma
        for weight, x in zip(named(params), jax.tree.leaves(params), strict=True):
            if getattr(x, "dtype", None) != np.int8 or x.ndim not in (1, 2):
                raise SettingError(f"params: {weight.name} must be a vector or matrix of int8, got {x!r}")
            if np.any(np.abs(np.asarray(x, np.int32)) > limit):
                raise SettingError(f"params: entries of {weight.name} must be within +-{limit}, 127 less sigma")
        params = jax.tree.map(jnp.asarray, params)
        sums = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.int32), params)
        thresholds = jnp.asarray(self._thresholds(), jnp.int32)
        return IntegerEggrollState(jnp.asarray(key), jnp.asarray(0, jnp.int32), params, sums, thresholds)

    def ask(self, state: IntegerEggrollState) -> IntegerPopulation:
        return IntegerPopulation(state.params, state.key, state.generation, self.popsize, self.sigma)

    def tell(
        self, state: IntegerEggrollState, population: IntegerPopulation, fitness: Int[Array, "n"]
    ) -> IntegerEggrollState:
        shaped = signed_ranks(jnp.asarray(fitness), self.levels)
        sums = weighted_signs(population, shaped, self.update_chunk)
        threshold = state.thresholds[jnp.minimum(state.generation, self.horizon - 1)]
        limit = LARGEST - self.sigma
        leaves, treedef = jax.tree.flatten(state.params)
        moved, kept = [], []
        for w, z, (found, variance) in zip(leaves, jax.tree.leaves(state.sums), sums, strict=True):
            standard = jax.lax.div(found * (16 * UNIT), jnp.broadcast_to(isqrt(variance << 8), found.shape))
            z = z + standard if self.carry else standard
            move = (z > threshold).astype(jnp.int32) - (z < -threshold).astype(jnp.int32)
            moved.append(jnp.clip(w.astype(jnp.int32) + move, -limit, limit).astype(jnp.int8))
            kept.append(z - move * threshold)
        params, sums = jax.tree.unflatten(treedef, moved), jax.tree.unflatten(treedef, kept)
        return IntegerEggrollState(state.key, state.generation + 1, params, sums, state.thresholds)

    def recommend(self, state: IntegerEggrollState) -> Any:
        return state.params

    def _thresholds(self) -> Int[np.ndarray, "horizon"]:
        """Floats, but once, and before the first generation."""
        generations = np.arange(self.horizon)
        scheduled = self.fraction(generations) if callable(self.fraction) else self.fraction
        fractions = np.broadcast_to(np.asarray(scheduled, np.float64), self.horizon)
        if not np.all((fractions > 0) & (fractions < 1)):
            raise SettingError(f"fraction must be above 0 and below 1 in every generation, got {self.fraction!r}")
        return np.rint(UNIT * standard_threshold(fractions, self.carry)).astype(np.int32)


def standard_threshold(fraction: Any, carry: bool) -> Any:
    """The threshold at which random fitness moves a fraction of the weights, in standard deviations of one update."""
    if carry:
        return np.sqrt(OVERSHOOT**2 + 1 / fraction) - OVERSHOOT
    return np.vectorize(NormalDist().inv_cdf)(1 - fraction / 2)


def signed_ranks(fitness: Int[Array, "n"], levels: int) -> Int8[Array, "n/2"]:
    """For each pair of members (2k, 2k + 1) the rank of its difference, 1 to ``levels``; negative if 2k is worse.

    0 if both are equal. As many pairs, give or take one, have each rank.
    """
    even, odd = fitness[::2], fitness[1::2]
    order = jnp.argsort(jnp.abs(even - odd), stable=True)
    ranks = jnp.zeros(order.shape, jnp.int32).at[order].set(_ranks(jnp.arange(order.shape[0]), levels))
    return (((even < odd).astype(jnp.int32) - (even > odd).astype(jnp.int32)) * ranks).astype(jnp.int8)


def _ranks(places: Any, levels: int) -> Any:
    """1 to ``levels``, for places 0 to n - 1 in order."""
    return 1 + places * levels // places.shape[0]


def isqrt(n: Int[Array, "*n"]) -> Int[Array, "*n"]:
    """The integer part of the square root, at least 1."""
    wide, root = n.astype(jnp.uint32), jnp.zeros(n.shape, jnp.uint32)
    for bit in reversed(range(16)):
        trial = root | jnp.uint32(1 << bit)
        root = jnp.where(trial * trial <= wide, trial, root)
    return jnp.maximum(root, 1).astype(jnp.int32)


# ---- noise


def named(params: Any) -> tuple[Weight, ...]:
    """The leaves of a pytree, with the names that their noise comes from."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
    return tuple(Weight(name, np.shape(x), Leaf()) for name, (_, x) in zip(names, flat, strict=True))


@partial(jax.jit, static_argnums=0)
def draw(
    weights: tuple[Weight, ...], key: UInt32[Array, "2"], generation: Int[Array, ""], pairs: Int[Array, "n"]
) -> list[tuple[Int8[Array, "n m"], Int8[Array, "n k"]]]:
    """Fair signs: for each weight the factors of some pairs. Of its stream's rows, noise of kind "sign"."""
    words = jnp.asarray([weight.words for weight in weights], jnp.uint32)
    streams = jax.vmap(lambda w: xla.fold(xla.fold(key, w[0], w[1]), generation))(words)
    sizes = [(weight.shape[0], weight.shape[-1]) for weight in weights]
    blocks = [-(-sum(size) // SIGNS_PER_BLOCK) for size in sizes]
    # One program for all streams, because what costs time to compile is the generator.
    index = jnp.concatenate(
        [
            pairs[:, None].astype(jnp.uint32) * jnp.uint32(count) + jnp.arange(count, dtype=jnp.uint32)
            for count in blocks
        ],
        axis=1,
    )
    keys = streams[np.repeat(np.arange(len(blocks)), blocks)]
    k0, k1 = (jnp.broadcast_to(keys[:, i], index.shape).reshape(-1) for i in (0, 1))
    index = index.reshape(-1)
    drawn = jnp.stack(xla.philox((index, jnp.zeros_like(index), k0, k1), (k0, k1)), axis=-1)
    bits = drawn[..., None] >> jnp.arange(32, dtype=jnp.uint32) & jnp.uint32(1)
    signs = (1 - 2 * bits.astype(jnp.int8)).reshape(pairs.shape[0], -1)
    starts = SIGNS_PER_BLOCK * (np.cumsum(blocks) - blocks)
    return [(signs[:, i : i + m], signs[:, i + m : i + m + n]) for i, (m, n) in zip(starts, sizes, strict=True)]


@partial(jax.jit, static_argnames="chunk")
def weighted_signs(
    population: IntegerPopulation, f: Int8[Array, "pairs"], chunk: int
) -> list[tuple[Int[Array, "..."], Int[Array, "..."]]]:
    """Of each leaf ``sum_p f_p E_p`` without sigma, and the entries' variance; int32, ``chunk`` pairs at a time."""
    weights = named(population.params)
    n = f.shape[0]
    chunk = min(chunk, n)
    steps = -(-n // chunk)

    def parts(x: Array) -> Array:
        padded = jnp.pad(x, ((0, steps * chunk - n), *[(0, 0)] * (x.ndim - 1)))  # pairs beyond the last count nothing
        return padded.reshape(steps, chunk, *x.shape[1:])

    def add(totals: list[tuple[Array, Array]], part: Any) -> tuple[list[tuple[Array, Array]], None]:
        pairs, f, reads = part
        drawn, out = draw(weights, population.key, population.generation, pairs), []
        for (total, variance), weight, (a, b) in zip(totals, weights, drawn, strict=True):
            own = f[:, None] * reads[weight.name] if weight.name in reads else f[:, None]
            more = jnp.sum(own.astype(jnp.int32) ** 2, axis=0)
            if len(weight.shape) == 2:
                product = jax.lax.dot((a * own).T, b, preferred_element_type=jnp.int32)
                out.append((total + product, variance + more[:, None]))
            else:
                out.append((total + jnp.sum((a * b * own).astype(jnp.int32), axis=0), variance + more))
        return out, None

    start = [
        (
            jnp.zeros(w.shape, jnp.int32),
            jnp.zeros((w.shape[0] if w.name in population.reads else 1, 1)[: len(w.shape)], jnp.int32),
        )
        for w in weights
    ]
    xs = (jnp.arange(steps * chunk).reshape(steps, chunk), parts(f), jax.tree.map(parts, population.reads))
    return jax.lax.scan(add, start, xs)[0]
