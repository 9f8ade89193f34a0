"""Products with members' noise of low rank, which is made where it is used and nowhere stored.

With ``y = x W`` for all members at once, ``lowrank_mix`` adds to each member's rows what its own perturbation of the
weight does to them: the forward pass of EGGROLL (Sarkar et al. 2025, arXiv:2511.16652, section 4.2).
``lowrank_linear`` is a whole layer. ``lowrank_factors`` makes what the update is a product of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from blackbox.arrays import Array, is_cupy, is_jax
from blackbox.errors import SettingError

from . import dispatch, spec
from .arguments import require_array, require_count, require_words
from .finish import ACTIVATIONS, Activation, DType, finished

if TYPE_CHECKING:
    from types import ModuleType

    from jaxtyping import Float, UInt32

_DTYPES = get_args(DType)


def lowrank_mix(
    x: Float[Array, "#n rows m"],
    y: Float[Array, "#n rows k"],
    source: UInt32[Array, "n 6"],
    size: int,
    rank: int = 1,
    kind: spec.Kind = "normal",
    *,
    dtype: DType = "float32",
    impl: dispatch.Impl = "auto",
) -> Float[Array, "n rows k"]:
    """``y + sum_r (step (x . A_r)) B_r`` for the rows of each member, over its centered noise A and B.

    Members 2k and 2k + 1 whose sources differ in the step alone, as those of a mirrored pair do, share noise that is
    made once.

    Args:
        x: of each member, or one for all, in float32 or bfloat16. All arrays are JAX's, CuPy's or NumPy's as this is.
        y: of each member, or one for all, in float32; such as the product of x and a weight (m, k).
        source: of each member six words: the stream's key, the number of the member in the stream, the bits of a
            float32 step, and at which values of the member's row A (m, rank) and B (k, rank) begin. Being bits, the
            step has no derivative. Whether noise lies beyond the row is checked where the words are NumPy's.
        size: of the member's row of the stream.
        rank: of the noise.
        kind: of the noise. It is centered and not divided: its unit is ``spec.UNIT[kind]``.
        dtype: of the result, to which it is rounded once. GPUs read and write bfloat16 as it is; CuPy has none.
        impl: what computes it, see :func:`blackbox.kernels.explain`.

    Raises:
        SettingError: shapes that do not fit, noise beyond the row, a kind, dtype or ``impl`` that is unknown or cannot
            be had here.
    """
    require_array("x", x)
    require_array("y", y)
    if np.ndim(x) != 3 or np.ndim(y) != 3 or np.shape(x)[1] != np.shape(y)[1]:
        raise SettingError(
            f"x and y must be of shapes (n or 1, rows, m) and (n or 1, rows, k), got {np.shape(x)} and {np.shape(y)}"
        )
    if dtype not in _DTYPES:
        raise SettingError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    return _finished(x, y, source, size, rank, kind, None, None, dtype, impl)


def lowrank_linear(
    x: Float[Array, "#n rows m"],
    w: Float[Array, "m k"],
    source: UInt32[Array, "n 6"],
    size: int,
    rank: int = 1,
    kind: spec.Kind = "normal",
    *,
    bias: Float[Array, "k"] | Float[Array, "n k"] | None = None,
    activation: Activation = None,
    impl: dispatch.Impl = "auto",
) -> Float[Array, "n rows k"]:
    """``activation(x w + sum_r (step (x . A_r)) B_r + bias)`` for the rows of each member, a layer of a network.

    The product is summed and kept in float32, of which bfloat16 would lose most perturbations, and all that follows it
    is on GPUs one pass. There, and in NumPy, "tanh" has the bits of :func:`blackbox.kernels.exact.tanh`.

    Args:
        x: of each member, or one for all, in float32 or bfloat16, as which the result is returned.
        w: the weight of all members, in float32 or bfloat16.
        source: see :func:`lowrank_mix`.
        size: of the member's row of the stream.
        rank: of the noise.
        kind: of the noise, centered.
        bias: of all members or of each.
        activation: "relu", "tanh" or None.
        impl: what computes it, see :func:`blackbox.kernels.explain`.

    Raises:
        SettingError: as :func:`lowrank_mix`; bfloat16 in CuPy.
    """
    require_array("x", x)
    require_array("w", w)
    require_words("source", source, (None, 6))
    if np.ndim(x) != 3 or np.ndim(w) != 2 or np.shape(x)[2] != np.shape(w)[0]:
        raise SettingError(
            f"x and w must be of shapes (n or 1, rows, m) and (m, k), got {np.shape(x)} and {np.shape(w)}"
        )
    dtypes = str(x.dtype), str(w.dtype)
    for name, own in zip("xw", dtypes, strict=True):
        if own not in _DTYPES:
            raise SettingError(f"{name} must be of dtype {' or '.join(_DTYPES)}, got {own}")
        if own == "bfloat16" and is_cupy(x):
            raise SettingError(f"{name} must be of dtype float32, since CuPy multiplies no bfloat16; JAX does")
    if not isinstance(activation, str | None) or activation not in ACTIVATIONS:
        raise SettingError(f"activation must be one of None, relu, tanh, got {activation!r}")
    if bias is not None and np.shape(bias) not in ((w.shape[1],), (source.shape[0], w.shape[1])):
        raise SettingError(f"bias must be of shape ({w.shape[1]},) or (n, {w.shape[1]}), got {np.shape(bias)}")
    rows = bias if bias is None or bias.ndim == 2 else bias[None]
    y, dtype = _product(x, w), dtypes[0]
    return _finished(x, y, source, size, rank, kind, rows, activation, dtype, impl)  # type: ignore[arg-type]


def _product(x: Any, w: Any) -> Any:
    """x w in float32."""
    if is_jax(x):
        import jax

        if x.dtype != w.dtype:
            x, w = x.astype(jax.numpy.float32), w.astype(jax.numpy.float32)
        return jax.lax.dot_general(x, w, (((2,), (0,)), ((), ())), preferred_element_type=jax.numpy.float32)
    members, rows, m = x.shape
    y = x.reshape(members * rows, m).astype(np.float32) @ w.astype(np.float32)
    return y.reshape(members, rows, w.shape[1])


def _finished(
    x: Any, y: Any, source: Any, size: int, rank: int, kind: spec.Kind, bias: Any, activation: Activation,
    dtype: DType, impl: dispatch.Impl,
) -> Array:  # fmt: skip
    require_count("rank", rank, 1)
    sizes = (x.shape[2] * rank, y.shape[2] * rank)
    _require(source, sizes, size, kind)
    for name, array in (("x", x), ("y", y)):
        if array.shape[0] not in (1, source.shape[0]):
            raise SettingError(f"{name} must have 1 or {source.shape[0]} members as source has, got {array.shape[0]}")
    if is_cupy(x) and dtype == "bfloat16":
        raise SettingError("dtype must be float32 for arrays of CuPy, got 'bfloat16'")
    module = _module(impl, x, source.shape[0], sizes, kind)
    if module.__name__.endswith((".ffi", ".cuda")):
        mixed: Array = module.lowrank_mix(x, y, source, size, rank, kind, bias, activation, dtype)
        return mixed
    x_here, y_here, source_here, bias_here = map(_in_numpy, (x, y, source, bias))
    mixed = module.lowrank_mix(x_here, y_here, source_here, size, rank, kind)
    return _back(x, finished(mixed, bias_here, activation, dtype))


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
        source: see :func:`lowrank_mix`. The result is of JAX, CuPy or NumPy as this array is.
        sizes: how many values A and B have.
        size: of the member's row of the stream.
        kind: of the noise, centered.
        impl: what computes it, see :func:`blackbox.kernels.explain`.

    Raises:
        SettingError: as :func:`lowrank_mix`.
    """
    _require(source, sizes, size, kind)
    module = _module(impl, source, source.shape[0], sizes, kind)
    if module.__name__.endswith(".cuda"):
        a, b = module.lowrank_factors(source, sizes, size, kind)
    else:
        made = module.lowrank_factors(_in_numpy(source), sizes, size, kind)
        a, b = (_back(source, factor) for factor in made)
    return a, b


def is_compiled(members: int, sizes: tuple[int, int], kind: spec.Kind) -> bool:
    """Whether JAX's programs make so much noise of low rank with compiled code."""
    return dispatch.in_jax("auto", _blocks(members, sizes, kind), "lowrank_mix").__name__.endswith(".ffi")


def _module(impl: dispatch.Impl, like: Any, members: int, sizes: tuple[int, int], kind: spec.Kind) -> ModuleType:
    blocks = _blocks(members, sizes, kind)
    if is_jax(like):
        return dispatch.in_jax(impl, blocks, "lowrank_mix")
    return dispatch.of_arrays(like, impl, blocks, "lowrank_mix")


def _in_numpy(array: Any) -> Any:
    """An array of CuPy copied to NumPy, for kernels on the CPU; others as they are."""
    if not is_cupy(array):
        return array
    import cupy

    return cupy.asnumpy(array)


def _back(like: Any, array: Any) -> Any:
    if not is_cupy(like):
        return array
    import cupy

    return cupy.asarray(array)


def _blocks(members: int, sizes: tuple[int, int], kind: spec.Kind) -> int:
    return members * sum(spec.blocks_of(own, kind) for own in sizes)


def _require(source: Any, sizes: tuple[int, int], size: int, kind: str) -> None:
    require_words("source", source, (None, 6))
    spec.require_kind(kind)
    require_count("size", size, 1)
    if size >= 2**32:
        raise SettingError(f"size must be at most 2**32 - 1, got {size!r}")
    if not isinstance(sizes, Sequence) or len(sizes) != 2:
        raise SettingError(f"sizes must be two integers, of A and of B, got {sizes!r}")
    for own in sizes:
        require_count("sizes", own)
    if max(sizes) > size:
        raise SettingError(f"A and B must lie within a row of {size} values, got {sizes[0]} and {sizes[1]} values")
    if isinstance(source, np.ndarray) and source.size:
        last = (source[:, 4:].astype(np.int64) + np.array(sizes)).max()
        if last > size:
            raise SettingError(f"A and B must lie within a row of {size} values, got values up to {last}")
