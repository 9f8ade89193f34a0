"""Products with members' noise of low rank, which is made where it is used and nowhere stored.

With ``y = x W`` for all members at once, ``lowrank_mix`` adds to each member's rows what its own perturbation of the
weight does to them: the forward pass of EGGROLL (Sarkar et al. 2025, arXiv:2511.16652, section 4.2).
``lowrank_factors`` makes what its update is a product of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.arrays import Array, is_jax
from blackbox.errors import SettingError

from . import dispatch, spec

if TYPE_CHECKING:
    from types import ModuleType

    from jaxtyping import Float, UInt32


def lowrank_mix(
    x: Float[Array, "#n rows m"],
    y: Float[Array, "#n rows k"],
    source: UInt32[Array, "n 6"],
    size: int,
    rank: int = 1,
    kind: spec.Kind = "normal",
    *,
    impl: dispatch.Impl = "auto",
) -> Float[Array, "n rows k"]:
    """``y + sum_r (step (x . A_r)) B_r`` for the rows of each member, over its centered noise A and B.

    Members 2k and 2k + 1 whose sources differ in the step alone, as those of a mirrored pair do, share noise that is
    made once.

    Args:
        x: of each member, or one for all, in float32. All arrays are JAX's or NumPy's as this one is.
        y: of each member, or one for all, in float32; such as the product of x and a weight (m, k).
        source: of each member six words: the stream's key, the number of the member in the stream, the bits of a
            float32 step, and at which values of the member's row A (m, rank) and B (k, rank) begin.
        size: of the member's row of the stream.
        rank: of the noise.
        kind: of the noise. It is centered and not divided: its unit is ``spec.UNIT[kind]``.
        impl: what computes it, see :func:`blackbox.kernels.explain`.

    Raises:
        SettingError: shapes that do not fit, noise beyond the row, a kind or ``impl`` that is unknown or cannot be had
            here.
    """
    if np.ndim(x) != 3 or np.ndim(y) != 3 or np.shape(x)[1] != np.shape(y)[1]:
        raise SettingError(
            f"x and y must be of shapes (n or 1, rows, m) and (n or 1, rows, k), got {np.shape(x)} and {np.shape(y)}"
        )
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise SettingError(f"rank must be an integer >= 1, got {rank!r}")
    sizes = (x.shape[2] * rank, y.shape[2] * rank)
    _require(source, sizes, size, kind)
    for name, array in (("x", x), ("y", y)):
        if array.shape[0] not in (1, source.shape[0]):
            raise SettingError(f"{name} must have 1 or {source.shape[0]} members as source has, got {array.shape[0]}")
    module = _module(impl, x, source.shape[0], sizes, kind)
    mixed: Array = module.lowrank_mix(x, y, source, size, rank, kind)
    return mixed


def lowrank_factors(
    source: UInt32[Array, "n 6"],
    sizes: tuple[int, int],
    size: int,
    kind: spec.Kind = "normal",
    *,
    impl: dispatch.Impl = "auto",
) -> tuple[Float[Array, "n a"], Float[Array, "n b"]]:
    """``step A`` and ``B`` of each source.

    Args:
        source: see :func:`lowrank_mix`. The result is of JAX or NumPy as this array is.
        sizes: how many values A and B have.
        size: of the member's row of the stream.
        kind: of the noise, centered.
        impl: what computes it, see :func:`blackbox.kernels.explain`.

    Raises:
        SettingError: as :func:`lowrank_mix`.
    """
    _require(source, sizes, size, kind)
    a, b = _module(impl, source, source.shape[0], sizes, kind).lowrank_factors(source, sizes, size, kind)
    return a, b


def is_compiled(members: int, sizes: tuple[int, int], kind: spec.Kind) -> bool:
    """Whether JAX's programs make so much noise of low rank with compiled code."""
    return dispatch.in_jax("auto", _blocks(members, sizes, kind), "lowrank_mix").__name__.endswith(".ffi")


def _module(impl: dispatch.Impl, like: Any, members: int, sizes: tuple[int, int], kind: spec.Kind) -> ModuleType:
    blocks = _blocks(members, sizes, kind)
    if is_jax(like):
        return dispatch.in_jax(impl, blocks, "lowrank_mix")
    return dispatch.in_numpy(impl, blocks, "lowrank_mix")


def _blocks(members: int, sizes: tuple[int, int], kind: spec.Kind) -> int:
    return members * sum(spec.blocks_of(own, kind) for own in sizes)


def _require(source: Any, sizes: tuple[int, int], size: int, kind: str) -> None:
    if len(np.shape(source)) != 2 or np.shape(source)[1] != 6 or np.dtype(source.dtype) != np.uint32:
        raise SettingError(f"source must be uint32 of shape (n, 6), got {source.dtype} of shape {np.shape(source)}")
    if kind not in spec.VALUES_PER_BLOCK:
        raise SettingError(f"kind must be one of {', '.join(spec.VALUES_PER_BLOCK)}, got {kind!r}")
    if not 0 < size < 2**32:
        raise SettingError(f"size must be from 1 to 2**32 - 1, got {size!r}")
    if isinstance(source, np.ndarray) and source.size:
        last = (source[:, 4:].astype(np.int64) + np.array(sizes)).max()
        if last > size:
            raise SettingError(f"A and B must lie within a row of {size} values, got values up to {last}")
