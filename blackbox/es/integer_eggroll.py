"""EGGROLL in integers alone: int8 weights that move by one unit, for networks without a float.

Source: Sarkar et al. 2025, "Evolution Strategies at the Hyperscale" (arXiv:2511.16652), section 6.1 and appendix H. For
a matrix M (m x n) of int8, pairs p of members with opposite steps, and losses L (integers, lower is better):

    E_p      <- A_p B_p^T                                   entries of A (m) and B (n) are fair signs
    evaluate    M + sigma E_p  and  M - sigma E_p           the factors applied to sums: (u M) + sigma (u . A) B
    F_p      <- sign(L_p- - L_p+) r_p                       r_p = 1, or the difference's rank, 1 to ``levels``
    G        <- sum_p F_p E_p                               one int8 product, (diag(F) A)^T B, summed in int32
    Z        <- Z + G / isqrt(V)                            V = sum_p F_p^2: of unit variance if F is random
    M        <- M + sign(Z)  where |Z| > threshold          by one unit, within the range
    Z        <- clip(Z - sign(Z) threshold, +-threshold)  where M was moved

The threshold is such that with random F a scheduled fraction of the weights moves. In the paper Z is forgotten after
each update (``carry=False``) and the threshold is the normal quantile. Here what did not move a weight is kept, like
the error of a quantized gradient (Seide et al. 2014, "1-bit stochastic gradient descent"): at small fractions most of
what the members found out would otherwise be lost. A walk of normal steps overshoots a threshold by 0.583 standard
deviations (Siegmund 1985, "Sequential Analysis", section 10.4), so that Z is stationary with the fraction
``1 / (threshold^2 + 2 * 0.583 threshold)``: within 2 % for fractions up to 0.2; at 0.4, 8 % of it are missing.

The paper's F is the sign alone, ``levels=1``. A sign test needs about 1.5 times the pairs of Wilcoxon's signed ranks,
which ``levels`` above 1 approximate; no outlier among the differences counts for more.

Of a matrix that is looked up, a member reads few rows, and what it was elsewhere made no difference: see
:meth:`blackbox.virtual.integer.IntegerPopulation.reading`.

Members are int8 networks, too: :mod:`blackbox.virtual.integer`.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError
from blackbox.strategy import algorithm, require_integer, require_number
from blackbox.virtual.integer import IntegerPopulation, named, weighted_signs

if TYPE_CHECKING:
    from jaxtyping import Array, Int, Int8

    from blackbox.arrays import Key

LARGEST = 127  # -128 is no weight: the range is symmetric
LARGEST_POPULATION = 2**22 - 1  # of popsize * levels^2: a sum of ranks times 1024 is an int32
UNIT = 64  # of Z: one standard deviation
OVERSHOOT = 0.5826  # of a random walk of unit normal steps beyond a distant threshold: -zeta(1/2) / sqrt(2 pi)


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
    :class:`blackbox.virtual.integer.PerturbedWeight` in their place and uses its methods, as
    :mod:`blackbox.problems.egg` does.

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
        require_integer("popsize", self.popsize, low=2, even=True, optional=False)
        for name in ("sigma", "levels", "horizon", "update_chunk"):
            require_integer(name, getattr(self, name), low=1, optional=False)
        for name in ("sigma", "levels"):
            if getattr(self, name) > LARGEST:
                raise SettingError(f"{name} must be at most {LARGEST}, got {getattr(self, name)}")
        if self.popsize * self.levels**2 > LARGEST_POPULATION:
            raise SettingError(
                f"popsize * levels^2 must be at most {LARGEST_POPULATION}, got {self.popsize} * {self.levels}^2"
            )
        if not callable(self.fraction):
            require_number("fraction", self.fraction, above=0)

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
            kept.append(jnp.clip(z - move * threshold, -threshold, threshold))
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
    ranks = jnp.zeros(order.shape, jnp.int32).at[order].set(_ranks(jnp.arange(order.shape[0], dtype=jnp.int32), levels))
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
