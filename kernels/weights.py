"""Where the weights of a population of networks come from, for kernels that form a member's when they need them.

:class:`Setting` is what is static of a call of such a kernel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.arrays import Array, is_jax
from blackbox.errors import SettingError

from . import spec
from .arguments import require_array, require_count, require_words

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32


@dataclass(frozen=True, eq=False)
class SummedWeights:
    """Weights of member i: ``base_i + sum_k weights[i, k] * noise(members[i, k])``, in float32.

    One term is a perturbation by seeded noise, several are a genome of seeds (Such et al. 2017, arXiv:1712.06567), none
    leaves stored weights. The bits are those of :func:`blackbox.kernels.seedsum` with chunks of one term.

    Attributes:
        base: what is added to, shape (1 or n, d).
        key: of the noise's stream.
        weights: of the terms, shape (n, terms).
        members: whose noise the terms are, numbers below 2**32, shape (n, terms).
        kind: of the noise. It is centered and not divided: its unit is ``spec.UNIT[kind]``.
    """

    base: Float[Array, "#n d"]
    key: UInt32[Array, "2"]
    weights: Float[Array, "n terms"]
    members: UInt32[Array, "n terms"]
    kind: spec.Kind = "normal"

    @staticmethod
    def stored(base: Float[Array, "n d"]) -> SummedWeights:
        """Weights as they are."""
        none = np.zeros((np.shape(base)[0], 0), np.float32)
        return SummedWeights(base, np.zeros(2, np.uint32), none, none.astype(np.uint32))


@dataclass(frozen=True, eq=False)
class LowRankWeights:
    """Weights of member i: ``base + steps_i * E_i``, with noise of low rank for large matrices.

    ``E = A B^T / sqrt(rank)`` for a layer's matrix, with entries of A and B of unit variance (EGGROLL, Sarkar et al.
    2025, arXiv:2511.16652, section 4.1). Matrices with a side shorter than ``small``, and biases, have independent
    entries. These are the members of :class:`blackbox.virtual.noise.NoisePopulation`, for a tree of these leaves.

    Attributes:
        base: the center, shape (1 or n, d).
        keys: of the leaves' streams, for each layer of the matrix and of the biases. A member's row of the stream of a
            matrix (inputs, outputs) of low rank holds A (inputs, rank), then B (outputs, rank).
        steps: the standard deviation of the noise, negative for a mirrored member, shape (n,).
        members: whose noise it is, numbers below 2**32, shape (n,); the same for both of a mirrored pair.
        rank: of the noise.
        small: the shortest side of a matrix with noise of low rank.
        kind: distribution of the noise.
    """

    base: Float[Array, "#n d"]
    keys: UInt32[Array, "leaves 2"]
    steps: Float[Array, "n"]
    members: UInt32[Array, "n"]
    rank: int = 1
    small: int = 16
    kind: spec.Kind = "normal"


Weights = SummedWeights | LowRankWeights


class Leaf(NamedTuple):
    """A part of a network's flat vector with a stream of its own: a matrix, or biases as a row of one input."""

    start: int
    inputs: int
    outputs: int
    is_low_rank: bool

    @property
    def stop(self) -> int:
        return self.start + self.inputs * self.outputs


def leaves_of(sizes: tuple[int, ...], small: int) -> Iterator[Leaf]:
    """The leaves of a network, for each layer the matrix and the biases."""
    start = 0
    for inputs, outputs in itertools.pairwise(sizes):
        matrix = Leaf(start, inputs, outputs, min(inputs, outputs) >= small)
        yield matrix
        yield Leaf(matrix.stop, 1, outputs, False)
        start = matrix.stop + outputs


class Arrays(NamedTuple):
    """A source as the kernels take it: four arrays, and what is static of them (``csrc/rollout.cuh``)."""

    keys: UInt32[Array, "streams 2"]
    base: Float[Array, "#n d"]
    factors: Float[Array, "n terms"]
    members: UInt32[Array, "n terms"]


class Form(NamedTuple):
    """What is static of a source of weights."""

    kind: spec.Kind
    rank: int
    """0: sums of terms."""
    small: int


@dataclass(frozen=True)
class Setting:
    """What is static of a call of rollouts.

    Attributes:
        env: the environment's name.
        sizes: widths of the policy's layers, from the observation to the outputs.
        steps: of the longest episode.
        form: of the source of weights.
    """

    env: str
    sizes: tuple[int, ...]
    steps: int
    form: Form


def arrays_of(source: Weights, xp: Any) -> tuple[Arrays, Form]:
    """The arrays of a source, float32 or uint32 of NumPy or JAX, and what is static.

    Factors of low rank are two numbers for each member: what centered noise of independent entries, and what a product
    of factors, is multiplied with.
    """
    base = xp.asarray(source.base, dtype=xp.float32)
    if isinstance(source, SummedWeights):
        key, members = xp.asarray(source.key, dtype=xp.uint32), xp.asarray(source.members).astype(xp.uint32)
        factors = xp.asarray(source.weights, dtype=xp.float32)
        return Arrays(key[None], base, factors, members), Form(source.kind, 0, 0)
    unit = spec.UNIT[source.kind]
    scales = xp.asarray([unit, unit * unit / math.sqrt(source.rank)], dtype=xp.float32)
    factors = xp.asarray(source.steps, dtype=xp.float32)[:, None] * scales
    keys, members = xp.asarray(source.keys, dtype=xp.uint32), xp.asarray(source.members).astype(xp.uint32)
    return Arrays(keys, base, factors, members[:, None]), Form(source.kind, source.rank, source.small)


def checked(source: Weights | Float[Array, "n d"], dimension: int, layers: int) -> Weights:
    """The source, of which a plain array is stored weights.

    Raises:
        SettingError: if its shapes do not fit each other, or the network.
    """
    if not isinstance(source, SummedWeights | LowRankWeights):
        require_array("source", source)
        if len(np.shape(source)) != 2 or np.shape(source)[1] != dimension:
            raise SettingError(f"source must be of shape (n, {dimension}) for this network; got {np.shape(source)}")
        return SummedWeights.stored(source)
    spec.require_kind(source.kind)
    require_array("base", source.base)
    require_array("members", source.members, "integers")
    if isinstance(source, SummedWeights):
        require_array("weights", source.weights)
        shape = np.shape(source.weights)
        if len(shape) != 2 or np.shape(source.members) != shape:
            raise SettingError(
                f"weights and members must be of one shape (n, terms); got {shape} and {np.shape(source.members)}"
            )
        require_words("key", source.key, (2,))
    else:
        require_array("steps", source.steps)
        shape = np.shape(source.steps)
        if len(shape) != 1 or np.shape(source.members) != shape:
            raise SettingError(
                f"steps and members must be of one shape (n,); got {shape} and {np.shape(source.members)}"
            )
        require_words("keys", source.keys, (2 * layers, 2))  # one for each leaf
        require_count("rank", source.rank, 1)
        require_count("small", source.small, 1)
    if np.shape(source.base) not in ((1, dimension), (shape[0], dimension)):
        raise SettingError(f"base must be of shape ({shape[0]} or 1, {dimension}); got {np.shape(source.base)}")
    is_known = is_jax(source.members) or getattr(source.members, "dtype", None) == np.uint32
    if np.size(source.members) and not is_known:
        least, most = np.min(source.members), np.max(source.members)
        if not 0 <= least <= most < 2**32:
            raise SettingError(f"members must be from 0 to 2**32 - 1; got {least} to {most}")
    return source
