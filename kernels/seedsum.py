"""Weighted sums of members' noise, which is made where it is added and nowhere stored.

One sum over a population is the update of evolution strategies with noise of independent entries; a sum for each member
decodes genomes of seeds (Such et al. 2017, arXiv:1712.06567, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.arrays import Array, is_cupy, is_jax
from blackbox.errors import SettingError

from . import cuda, dispatch, spec
from .arguments import require_array, require_count, require_words

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32


def seedsum(
    keys: UInt32[Array, "streams 2"],
    bases: Sequence[Float[Array, "#sums size"]],
    weights: Float[Array, "sums terms"],
    members: UInt32[Array, "sums terms"],
    kind: spec.Kind = "normal",
    *,
    chunk: int = spec.SUM_CHUNK,
    impl: dispatch.Impl = "auto",
) -> tuple[Float[Array, "sums size"], ...]:
    """``base + sum_k weights_k noise_k`` for each stream, each row its own sum, over members' centered noise.

    Args:
        keys: of the streams, such as one for each leaf of a network.
        bases: for each stream what is added to, one row for all sums or one for each.
        weights: of the terms, which may be none. All arrays are JAX's, CuPy's or NumPy's as this one is.
        members: whose noise the terms are, numbers below 2**32.
        kind: of the noise. It is centered and not divided: its unit is ``spec.UNIT[kind]``.
        chunk: terms that are summed on their own before they are added to the others (see :mod:`.spec`).
        impl: what computes it, see :func:`blackbox.kernels.explain`.

    Raises:
        SettingError: shapes that do not fit, a kind, chunk or ``impl`` that is unknown or cannot be had here.
    """
    _require(keys, bases, weights, members, kind, chunk)
    blocks = math.prod(weights.shape) * sum(spec.blocks_of(base.shape[1], kind) for base in bases)
    sums: tuple[Array, ...]
    if is_jax(weights):
        sums = dispatch.in_jax(impl, blocks).seedsum(keys, bases, weights, members, kind, chunk)
        return sums
    # Words need no look, for which a GPU would have to be waited for.
    if members.dtype != np.uint32 and members.size and not (members.min() >= 0 and members.max() < 2**32):
        raise SettingError(f"members must be from 0 to 2**32 - 1, got {members.min()} to {members.max()}")
    chosen = dispatch.of_arrays(weights, impl, blocks)
    if not is_cupy(weights) or chosen is cuda:
        sums = chosen.seedsum(keys, bases, weights, members, kind, chunk)
        return sums
    import cupy

    copied = [cupy.asnumpy(array) for array in (keys, weights, members, *bases)]
    return tuple(cupy.asarray(total) for total in chosen.seedsum(copied[0], copied[3:], *copied[1:3], kind, chunk))


def _require(keys: Any, bases: Any, weights: Any, members: Any, kind: str, chunk: int) -> None:
    spec.require_kind(kind)
    require_count("chunk", chunk, 1)
    require_array("weights", weights)
    require_array("members", members, "integers")
    shape = weights.shape
    if len(shape) != 2 or members.shape != shape:
        raise SettingError(f"weights and members must be of one shape (sums, terms), got {shape} and {members.shape}")
    if not isinstance(bases, Sequence):
        raise SettingError(f"bases must be a sequence of one array for each stream, got {bases!r}")
    require_words("keys", keys, (len(bases), 2))
    for base in bases:
        require_array("a base", base)
        if len(base.shape) != 2 or base.shape[0] not in (1, shape[0]):
            raise SettingError(f"a base must be of shape ({shape[0]} or 1, size), got {base.shape}")
