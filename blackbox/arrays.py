"""Array libraries behind one text: which namespace an array belongs to, and what the standard lacks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Array = Any
"""An array of any library that follows the array API standard: NumPy, JAX, CuPy, array-api-strict."""

Key = Any
"""The key of a random stream, uint32[2]; see :func:`blackbox.kernels.noise.key`."""

T = TypeVar("T")


def namespace(array: Array) -> Any:
    """The array API namespace of ``array``: ``numpy`` itself for NumPy arrays, ``jax.numpy`` for JAX arrays."""
    if isinstance(array, np.ndarray | np.generic):
        return np
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    import array_api_compat

    return array_api_compat.array_namespace(array)


def is_jax(array: Any) -> bool:
    """Whether ``array`` is a JAX array or tracer; never imports JAX."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.Array)


def is_cupy(array: Any) -> bool:
    """Whether ``array`` is a CuPy array; never imports CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def dtype_name(array: Array) -> str:
    """Such as ``float32``: libraries have objects of their own for dtypes, which do not compare with each other's."""
    return str(getattr(array, "dtype", None)).rpartition(".")[2]


def described(value: Any) -> str:
    """An array by dtype and shape, all else as it is written: what errors say was given."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return repr(value)


def placed(array: Array, mesh: Any, spec: Any) -> Array:
    """``array`` laid out over a mesh, whose axes are explicit (of ``jax.make_mesh``) or automatic; in JAX programs."""
    import jax

    explicit = jax.sharding.AxisType.Explicit in mesh.axis_types
    lay: Callable[..., Array] = jax.reshard if explicit else jax.lax.with_sharding_constraint
    return lay(array, jax.sharding.NamedSharding(mesh, spec))


def settled(array: Array) -> Array:
    """``array``, or if it has no axes the scalar that NumPy's own operations would make of it."""
    return array[()] if array.ndim == 0 else array


def first_least(values: Array) -> tuple[Array, Array]:
    """The least value of the last axis and the index of the first that has it; there must be no NaN.

    XLA on CPUs looks for an argmin one number at a time, and for minima at as many as the processor can.
    """
    xp = namespace(values)
    least = xp.min(values, axis=-1)
    if not is_jax(values):
        return least, xp.argmin(values, axis=-1)
    n = values.shape[-1]
    return least, xp.min(xp.where(values == least[..., None], xp.arange(n), n - 1), axis=-1)


def cond(predicate: Array, true: Callable[[], T], false: Callable[[], T]) -> T:
    """``true()`` if the scalar ``predicate`` holds, else ``false()``; inside a JAX program ``lax.cond``."""
    if is_jax(predicate):
        import jax

        if isinstance(predicate, jax.core.Tracer):
            result: T = jax.lax.cond(predicate, true, false)
            return result
    return true() if bool(predicate) else false()


def while_loop(proceed: Callable[[T], Array], step: Callable[[T], T], start: T) -> T:
    """``start`` after as many times ``step`` as ``proceed`` holds; inside a JAX program ``lax.while_loop``."""
    if is_jax(predicate := proceed(start)):
        import jax

        if isinstance(predicate, jax.core.Tracer):
            result: T = jax.lax.while_loop(proceed, step, start)
            return result
    while bool(proceed(start)):
        start = step(start)
    return start


def choose(predicate: Array, true: Callable[[], Array], false: Callable[[], Array]) -> Array:
    """``where(predicate, true(), false())``, computing only one of them where that is known and all agree."""
    xp, jax = namespace(predicate), sys.modules.get("jax")
    if jax is None or not isinstance(predicate, jax.core.Tracer):
        if bool(xp.all(predicate)):
            return true()
        if not bool(xp.any(predicate)):
            return false()
    return xp.where(predicate, true(), false())


def repeat(step: Callable[[T], T], times: int, start: T) -> T:
    """``start`` after that many times ``step``; inside a JAX program one loop, whose body is compiled once."""
    jax = sys.modules.get("jax")
    if jax is not None and any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(start)):
        result: T = jax.lax.fori_loop(0, times, lambda _, value: step(value), start)
        return result
    for _ in range(times):
        start = step(start)
    return start


def eigh(matrix: Array) -> tuple[Array, Array]:
    """Ascending eigenvalues and, in columns, eigenvectors of a symmetric matrix, read from its lower triangle.

    JAX by default averages both triangles first, which takes a sixth of the time of a small matrix.
    """
    xp = namespace(matrix)
    return xp.linalg.eigh(matrix, symmetrize_input=False) if is_jax(matrix) else xp.linalg.eigh(matrix)
