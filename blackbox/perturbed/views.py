"""Rules for views: what selects, orders, splits or scales the entries of a weight does so with both factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import quax
from jax import lax
from jax.extend.core.primitives import stop_gradient_p

from blackbox.perturbed.lowrank import Array, LowRank, Source


def _each(
    value: LowRank, view: Callable[[Array, tuple[int, ...]], Array], axes: str, *, whole: bool = False
) -> LowRank:
    """The same view of the weight and of both factors; ``view`` also gets the weight's axes that an array has.

    ``whole`` says that it leaves every entry of either factor in its place but for stacked axes.
    """
    stacked = value.stacked
    lead = tuple(range(stacked))
    own = {kind: lead + tuple(stacked + i for i, axis in enumerate(value.axes) if axis == kind) for kind in "ab"}
    scale = None if value.scale is None else view(value.scale, lead)
    w = view(value.w, tuple(range(value.w.ndim)))
    source = _seen(value.source, lambda words: view(words, lead)) if whole else None
    return LowRank(w, view(value.a, own["a"]), view(value.b, own["b"]), axes, scale, source)


def _seen(source: Source | None, view: Callable[[Array], Array]) -> Source | None:
    return None if source is None else Source(view(source.words), source.size, source.kind)


@quax.register(lax.transpose_p)
def _(operand: LowRank, *, permutation: Any) -> Any:
    stacked = operand.stacked
    if any(p >= stacked for p in permutation[:stacked]):
        return LowRank.default(lax.transpose_p, (operand,), {"permutation": permutation})

    def view(x: Array, own: tuple[int, ...]) -> Array:
        order = [own.index(p) for p in permutation if p in own]
        return jnp.transpose(x, [*order, *range(len(order), x.ndim)])

    axes = "".join(operand.axes[p - stacked] for p in permutation[stacked:])
    own = [[p for p, axis in zip(permutation[stacked:], axes, strict=True) if axis == kind] for kind in "ab"]
    return _each(operand, view, axes, whole=all(order == sorted(order) for order in own))


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The least groups of axes of equal size in both shapes of a reshape, in order."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left: list[int] = []
        right: list[int] = []
        sizes = [1, 1]
        while True:
            if sizes[0] <= sizes[1] and i < len(old) and (sizes[0] < sizes[1] or not left):
                sizes[0] *= old[i]
                left.append(i)
                i += 1
            elif j < len(new) and (sizes[1] < sizes[0] or not right):
                sizes[1] *= new[j]
                right.append(j)
                j += 1
            else:
                break
        groups.append((left, right))
    return groups


@quax.register(lax.reshape_p)
def _(operand: LowRank, *, new_sizes: Any, dimensions: Any, **params: Any) -> Any:
    reshaped = None if dimensions is not None else _reshaped(operand, tuple(new_sizes))
    if reshaped is None:
        rest = {"new_sizes": new_sizes, "dimensions": dimensions, **params}
        return LowRank.default(lax.reshape_p, (operand,), rest)
    return reshaped


def _reshaped(operand: LowRank, shape: tuple[int, ...]) -> LowRank | None:
    """The weight in another shape, None where an axis would need both factors."""
    stacked = operand.stacked
    kinds = "s" * stacked + operand.axes
    axes = ""
    for left, right in _blocks(operand.w.shape, shape):
        found = {kinds[i] for i in left if operand.w.shape[i] > 1} or {kinds[i] for i in left}
        if len(found) > 1:
            return None
        # An axis of size one that is new belongs to the stack in front of it, or else to the first factor.
        kind = found.pop() if found else "s" if not axes.strip("s") else "a"
        axes += kind * len(right)
    if "s" in axes.lstrip("s"):
        return None
    rank = operand.a.shape[-1:]
    own = {kind: tuple(n for n, axis in zip(shape, axes, strict=True) if axis in ("s", kind)) for kind in "ab"}
    factors = operand.a.reshape(own["a"] + rank), operand.b.reshape(own["b"] + rank)
    stack = shape[: axes.count("s")]
    scale = None if operand.scale is None else operand.scale.reshape(stack)
    source = _seen(operand.source, lambda words: words.reshape(*stack, words.shape[-1]))
    return LowRank(operand.w.reshape(shape), *factors, axes.lstrip("s"), scale, source)


@quax.register(lax.broadcast_in_dim_p)
def _(operand: LowRank, *dynamic: Any, shape: Any, broadcast_dimensions: Any, **params: Any) -> Any:
    """New axes of size one."""
    kept = [shape[i] for i in broadcast_dimensions]
    if dynamic or kept != list(operand.w.shape) or math.prod(shape) != operand.w.size:
        rest = {"shape": shape, "broadcast_dimensions": broadcast_dimensions, **params}
        return LowRank.default(lax.broadcast_in_dim_p, (operand, *dynamic), rest)
    return _reshaped(operand, tuple(shape))


@quax.register(lax.squeeze_p)
def _(operand: LowRank, *, dimensions: Any) -> LowRank:
    stacked = operand.stacked

    def view(x: Array, own: tuple[int, ...]) -> Array:
        return jnp.squeeze(x, tuple(own.index(k) for k in dimensions if k in own))

    axes = "".join(a for i, a in enumerate(operand.axes) if i + stacked not in dimensions)
    return _each(operand, view, axes, whole=True)


@quax.register(lax.slice_p)
def _(operand: LowRank, *, start_indices: Any, limit_indices: Any, strides: Any) -> LowRank:
    def view(x: Array, own: tuple[int, ...]) -> Array:
        return x[tuple(slice(start_indices[k], limit_indices[k], strides and strides[k]) for k in own)]

    # As many entries as there were are those that were there.
    kept = jax.eval_shape(lambda w: view(w, tuple(range(w.ndim))), operand.w).shape
    return _each(operand, view, operand.axes, whole=kept[operand.stacked :] == operand.w.shape[operand.stacked :])


@quax.register(lax.dynamic_slice_p)
def _(operand: LowRank, *starts: jax.typing.ArrayLike, slice_sizes: Any) -> LowRank:
    def view(x: Array, own: tuple[int, ...]) -> Array:
        # Of one type, as the primitive demands, which need not be that of a Python 0.
        zeros = [lax.full_like(starts[0], 0)] * (x.ndim - len(own))
        return lax.dynamic_slice(
            x, [*(starts[k] for k in own), *zeros], [*(slice_sizes[k] for k in own), *x.shape[len(own) :]]
        )

    whole = tuple(slice_sizes[operand.stacked :]) == operand.w.shape[operand.stacked :]
    return _each(operand, view, operand.axes, whole=whole)


@quax.register(lax.split_p)
def _(operand: LowRank, *, sizes: Any, axis: int) -> list[LowRank]:
    bounds = [0]
    for size in sizes:
        bounds.append(bounds[-1] + int(size))
    parts = pairwise(bounds)

    def view(i: int, j: int, x: Array, own: tuple[int, ...]) -> Array:
        return lax.slice_in_dim(x, i, j, axis=own.index(axis)) if axis in own else x

    whole = axis < operand.stacked
    return [_each(operand, partial(view, i, j), operand.axes, whole=whole) for i, j in parts]


@quax.register(lax.convert_element_type_p)
def _(operand: LowRank, *, new_dtype: Any, **params: Any) -> Any:
    if not jnp.issubdtype(new_dtype, jnp.floating):
        return LowRank.default(lax.convert_element_type_p, (operand,), {"new_dtype": new_dtype, **params})
    if operand.scale is not None:
        scale = operand.scale.astype(new_dtype)
        return LowRank(operand.w, operand.a, operand.b, operand.axes, scale, operand.source)
    return LowRank(operand.w.astype(new_dtype), operand.a, operand.b, operand.axes, None, operand.source)


@quax.register(lax.neg_p)
def _(x: LowRank) -> LowRank:
    return _times(x, -1)


@quax.register(lax.copy_p)
@quax.register(stop_gradient_p)
def _(x: LowRank, **params: Any) -> LowRank:
    return x


@quax.register(lax.rev_p)
def _(operand: LowRank, *, dimensions: Any) -> LowRank:
    def view(x: Array, own: tuple[int, ...]) -> Array:
        return lax.rev(x, tuple(own.index(k) for k in dimensions if k in own))

    return _each(operand, view, operand.axes, whole=all(k < operand.stacked for k in dimensions))


def _times(value: LowRank, scalar: Any) -> LowRank:
    """The weight times a number; one that may differ from member to member stays beside the weight, as its scale."""
    if jnp.ndim(scalar):
        scalar = jnp.reshape(scalar, ())
    if value.scale is None and not isinstance(scalar, jax.core.Tracer):
        return LowRank(value.w * scalar, value.a * scalar, value.b, value.axes)
    scale = jnp.ones(value.w.shape[: value.stacked], value.w.dtype) if value.scale is None else value.scale
    return LowRank(value.w, value.a * scalar, value.b, value.axes, scale * scalar)


def _multiplied(x: LowRank, y: jax.typing.ArrayLike, params: dict[str, Any]) -> Any:
    return _times(x, y) if jnp.size(y) == 1 else LowRank.default(lax.mul_p, (x, jnp.asarray(y)), params)


@quax.register(lax.mul_p)
def _(x: LowRank, y: jax.typing.ArrayLike, **params: Any) -> Any:
    return _multiplied(x, y, params)


@quax.register(lax.mul_p)
def _(x: jax.typing.ArrayLike, y: LowRank, **params: Any) -> Any:
    return _multiplied(y, x, params)


@quax.register(lax.div_p)
def _(x: LowRank, y: jax.typing.ArrayLike, **params: Any) -> Any:
    return _times(x, 1 / y) if jnp.size(y) == 1 else LowRank.default(lax.div_p, (x, jnp.asarray(y)), params)


def _summed(table: LowRank, other: jax.typing.ArrayLike, params: dict[str, Any]) -> Any:
    """A table added to an array as large, as positions are to tokens: that sum is each member's own anyway."""
    if jnp.size(other) < table.w.size:
        return LowRank.default(lax.add_p, (table, other), params)
    return lax.add_p.bind(table.materialise(), other, **params)


@quax.register(lax.add_p)
def _(x: LowRank, y: jax.typing.ArrayLike, **params: Any) -> Any:
    return _summed(x, y, params)


@quax.register(lax.add_p)
def _(x: jax.typing.ArrayLike, y: LowRank, **params: Any) -> Any:
    return _summed(y, x, params)
