"""Weights with a low-rank perturbation that JAX programs use without ever forming the sum.

A :class:`LowRank` stands for ``w + a b^T``. Inside :func:`perturbed` the user's function sees it as an ordinary
array, and what multiplies it is computed as (Sarkar et al. 2025, "Evolution Strategies at the Hyperscale",
arXiv:2511.16652, section 4.2)

    x (w + a b^T) = x w + (x a) b^T

so that under ``vmap`` over members all share one product with ``w``. There are rules for dot_general in every
orientation, convolutions, embedding lookups, slices, transposes, reshapes and casts, also within jit, scan, while,
cond, checkpoint and custom derivatives. Where there is none the sum is formed, and a warning names the primitive.
"""

from __future__ import annotations

import math
import string
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import quax
import quax._trace
from jax import lax
from jax._src import core
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.extend.core.primitives import remat_p, stop_gradient_p

Array = Any


class Materialized(UserWarning):
    """A perturbed weight met an operation without a rule: every member of a chunk forms its own copy of it."""


class LowRank(quax.ArrayValue):
    """A weight and its perturbation of low rank.

    Each axis of the weight but the leading stacked ones belongs to one of the two factors.

    Attributes:
        w: the weight, shape ``(*stacked, *axes)``.
        a: shape ``(*stacked, *axes marked a, rank)``.
        b: shape ``(*stacked, *axes marked b, rank)``.
        axes: one letter, ``a`` or ``b``, for each axis that is not stacked.
    """

    w: Array
    a: Array
    b: Array
    axes: str = eqx.field(static=True)

    @property
    def stacked(self) -> int:
        """How many leading axes count separate weights."""
        return self.w.ndim - len(self.axes)

    def aval(self) -> Any:
        return jax.core.ShapedArray(self.w.shape, self.w.dtype)

    def materialise(self) -> Array:
        """The sum, rounded once to the dtype of the weight."""
        w, a, b = _letters(self)
        noise = jnp.einsum(f"{a}R,{b}R->{w}", self.a, self.b)
        return _added(self.w, noise)

    @staticmethod
    def default(primitive: Primitive, values: Sequence[Any], params: dict[str, Any]) -> Any:
        shapes = [value.w.shape for value in values if isinstance(value, LowRank)]
        warnings.warn(
            f"no low-rank rule for the primitive {primitive} on a weight of shape {shapes[0]}: each member forms its "
            "own copy of it. Rewrite the operation as a product, or freeze the weight or give it dense noise",
            Materialized,
            stacklevel=2,
        )
        return primitive.bind(*(v.materialise() if isinstance(v, LowRank) else v for v in values), **params)


def perturbed(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` for arguments that hold :class:`LowRank` weights among their leaves."""
    wrapped: Callable[..., Any] = quax.quaxify(function)
    return wrapped


def perturbed_matmul(x: Array, w: Array) -> Array:
    """``x @ w`` for a plain or :class:`LowRank` weight, outside :func:`perturbed`; shapes ``(..., m)``, ``(m, n)``."""
    if not isinstance(w, LowRank):
        return x @ w
    numbers = (((x.ndim - 1,), (0,)), ((), ()))
    return _product(w, x, weight_first=False, dimension_numbers=numbers)


def _letters(value: LowRank) -> tuple[str, str, str]:
    """Einsum letters of the axes of the weight and of its two factors, without the rank."""
    stacked, w = value.stacked, string.ascii_lowercase[: value.w.ndim]
    of = {kind: "".join(x for x, axis in zip(w[stacked:], value.axes, strict=True) if axis == kind) for kind in "ab"}
    return w, w[:stacked] + of["a"], w[:stacked] + of["b"]


def _wide(x: Array) -> Array:
    """At least float32, so that a perturbation far below the last place of a bfloat16 weight still counts."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _added(plain: Array, noise: Array) -> Array:
    """The sum in the precision of the noise, rounded once to the dtype of what is perturbed."""
    return (plain.astype(noise.dtype) + noise).astype(plain.dtype)


_FREE = string.ascii_uppercase.replace("R", "")  # einsum letters for what is no axis of a weight; R is the rank


# ---- products


def _product(
    value: LowRank,
    x: Array,
    *,
    weight_first: bool,
    dimension_numbers: Any,
    preferred_element_type: Any = None,
    **params: Any,
) -> Array:
    """dot_general with the weight on either side."""
    contract, batch = dimension_numbers
    mine, other = (0, 1) if weight_first else (1, 0)
    w, a, b = _letters(value)
    free = iter(_FREE)
    letters = {axis: w[own] for pairs in (contract, batch) for own, axis in zip(pairs[mine], pairs[other], strict=True)}
    x_letters = "".join(letters.get(axis) or next(free) for axis in range(x.ndim))
    used = set(contract[mine]) | set(batch[mine])
    w_free = "".join(letter for axis, letter in enumerate(w) if axis not in used)
    x_free = "".join(letter for axis, letter in enumerate(x_letters) if axis not in letters)
    out = "".join(w[axis] for axis in batch[mine]) + (w_free + x_free if weight_first else x_free + w_free)
    operands = (value.w, x) if weight_first else (x, value.w)
    exact = jnp.promote_types(value.w.dtype, x.dtype)
    dtype = preferred_element_type or exact
    wide = jnp.promote_types(jnp.float32, exact)
    plain = lax.dot_general(*operands, dimension_numbers, preferred_element_type=wide, **params)
    noise = jnp.einsum(f"{x_letters},{a}R,{b}R->{out}", _wide(x), value.a, value.b)
    return (plain + noise).astype(dtype)


@quax.register(lax.dot_general_p)
def _(lhs: LowRank, rhs: jax.typing.ArrayLike, **params: Any) -> Array:
    return _product(lhs, jnp.asarray(rhs), weight_first=True, **params)


@quax.register(lax.dot_general_p)
def _(lhs: jax.typing.ArrayLike, rhs: LowRank, **params: Any) -> Array:
    return _product(rhs, jnp.asarray(lhs), weight_first=False, **params)


@quax.register(lax.dot_general_p)
def _(lhs: LowRank, rhs: LowRank, **params: Any) -> Array:
    return _product(lhs, rhs.materialise(), weight_first=True, **params)


@quax.register(lax.conv_general_dilated_p)
def _(
    lhs: jax.typing.ArrayLike,
    rhs: LowRank,
    *,
    dimension_numbers: Any,
    preferred_element_type: Any = None,
    **params: Any,
) -> Array:
    x, spec = jnp.asarray(lhs), dimension_numbers.rhs_spec
    out_axis = spec[0]
    outer = rhs.axes[out_axis] if not rhs.stacked else ""
    # The kernel's output channels must be one factor, all else the other; groups would need both in each.
    if rhs.axes.count(outer or "?") != 1 or params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return LowRank.default(
            lax.conv_general_dilated_p,
            (x, rhs),
            {"dimension_numbers": dimension_numbers, "preferred_element_type": preferred_element_type, **params},
        )
    inner, outer_factor = (rhs.b, rhs.a) if outer == "a" else (rhs.a, rhs.b)
    kernel = jnp.moveaxis(inner, -1, out_axis)  # the rank takes the place of the output channels
    plain = lax.conv_general_dilated_p.bind(
        x, rhs.w, dimension_numbers=dimension_numbers, preferred_element_type=preferred_element_type, **params
    )
    narrow = lax.conv_general_dilated_p.bind(
        _wide(x), kernel, dimension_numbers=dimension_numbers, preferred_element_type=None, **params
    )
    channel = dimension_numbers.out_spec[1]
    noise = jnp.moveaxis(jnp.moveaxis(narrow, channel, -1) @ outer_factor.T, -1, channel)
    return _added(plain, noise)


@quax.register(lax.gather_p)
def _(
    operand: LowRank, start_indices: jax.typing.ArrayLike, *, dimension_numbers: Any, slice_sizes: Any, **params: Any
) -> Array:
    """Rows of an embedding: whole slices along one axis."""
    indices, d = jnp.asarray(start_indices), dimension_numbers
    whole = {"dimension_numbers": dimension_numbers, "slice_sizes": slice_sizes, **params}
    axis = d.start_index_map[0] if len(d.start_index_map) == 1 else -1
    rows = indices.ndim - 1
    trailing = tuple(range(rows, rows + operand.w.ndim - 1))
    full = all(size == n for k, (size, n) in enumerate(zip(slice_sizes, operand.w.shape, strict=True)) if k != axis)
    if (
        axis < 0
        or d.collapsed_slice_dims != (axis,)
        or d.operand_batching_dims
        or d.offset_dims != trailing
        or not full
    ):
        return LowRank.default(lax.gather_p, (operand, indices), whole)
    plain = lax.gather_p.bind(operand.w, indices, **whole)
    w, a, b = _letters(operand)
    row_letters = _FREE[:rows]
    picked = []
    for factor, letters in ((operand.a, a), (operand.b, b)):
        if w[axis] in letters:
            at = letters.index(w[axis])
            factor = jnp.moveaxis(
                jnp.take(factor, indices[..., 0], axis=at, mode="clip"), range(at, at + rows), range(rows)
            )
            letters = row_letters + letters.replace(w[axis], "")
        picked.append((factor, letters))
    (fa, la), (fb, lb) = picked
    noise = jnp.einsum(f"{la}R,{lb}R->{row_letters}{w.replace(w[axis], '')}", fa, fb)
    return _added(plain, noise)


# ---- views


def _each(value: LowRank, view: Callable[[Array, tuple[int, ...]], Array], axes: str) -> LowRank:
    """The same view of the weight and of both factors; ``view`` also gets the weight's axes that an array has."""
    stacked = value.stacked
    lead = tuple(range(stacked))
    own = {kind: lead + tuple(stacked + i for i, axis in enumerate(value.axes) if axis == kind) for kind in "ab"}
    return LowRank(view(value.w, tuple(range(value.w.ndim))), view(value.a, own["a"]), view(value.b, own["b"]), axes)


@quax.register(lax.transpose_p)
def _(operand: LowRank, *, permutation: Any) -> Any:
    stacked = operand.stacked
    if any(p >= stacked for p in permutation[:stacked]):
        return LowRank.default(lax.transpose_p, (operand,), {"permutation": permutation})

    def view(x: Array, own: tuple[int, ...]) -> Array:
        order = [own.index(p) for p in permutation if p in own]
        return jnp.transpose(x, [*order, *range(len(order), x.ndim)])

    return _each(operand, view, "".join(operand.axes[p - stacked] for p in permutation[stacked:]))


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
    return LowRank(operand.w.reshape(shape), *factors, axes.lstrip("s"))


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

    return _each(operand, view, "".join(a for i, a in enumerate(operand.axes) if i + stacked not in dimensions))


@quax.register(lax.slice_p)
def _(operand: LowRank, *, start_indices: Any, limit_indices: Any, strides: Any) -> LowRank:
    def view(x: Array, own: tuple[int, ...]) -> Array:
        return x[tuple(slice(start_indices[k], limit_indices[k], strides and strides[k]) for k in own)]

    return _each(operand, view, operand.axes)


@quax.register(lax.dynamic_slice_p)
def _(operand: LowRank, *starts: jax.typing.ArrayLike, slice_sizes: Any) -> LowRank:
    def view(x: Array, own: tuple[int, ...]) -> Array:
        rest = x.ndim - len(own)
        return lax.dynamic_slice(
            x, [*(starts[k] for k in own), *[0] * rest], [*(slice_sizes[k] for k in own), *x.shape[len(own) :]]
        )

    return _each(operand, view, operand.axes)


@quax.register(lax.split_p)
def _(operand: LowRank, *, sizes: Any, axis: int) -> list[LowRank]:
    bounds = [0]
    for size in sizes:
        bounds.append(bounds[-1] + int(size))
    parts = pairwise(bounds)

    def view(i: int, j: int, x: Array, own: tuple[int, ...]) -> Array:
        return lax.slice_in_dim(x, i, j, axis=own.index(axis)) if axis in own else x

    return [_each(operand, partial(view, i, j), operand.axes) for i, j in parts]


@quax.register(lax.convert_element_type_p)
def _(operand: LowRank, *, new_dtype: Any, **params: Any) -> Any:
    if not jnp.issubdtype(new_dtype, jnp.floating):
        return LowRank.default(lax.convert_element_type_p, (operand,), {"new_dtype": new_dtype, **params})
    return LowRank(operand.w.astype(new_dtype), operand.a, operand.b, operand.axes)


@quax.register(lax.neg_p)
def _(x: LowRank) -> LowRank:
    return LowRank(-x.w, -x.a, x.b, x.axes)


@quax.register(lax.copy_p)
@quax.register(stop_gradient_p)
def _(x: LowRank, **params: Any) -> LowRank:
    return x


def _scaled(value: LowRank, factor: Array, params: dict[str, Any]) -> Any:
    factor = jnp.asarray(factor)
    if factor.size != 1:
        return LowRank.default(lax.mul_p, (value, factor), params)
    scalar = factor.reshape(())
    return LowRank(value.w * scalar, value.a * scalar, value.b, value.axes)


@quax.register(lax.mul_p)
def _(x: LowRank, y: jax.typing.ArrayLike, **params: Any) -> Any:
    return _scaled(x, y, params)


@quax.register(lax.mul_p)
def _(x: jax.typing.ArrayLike, y: LowRank, **params: Any) -> Any:
    return _scaled(y, x, params)


# ---- programs within programs that quax does not open by itself


@quax.register(remat_p)
def _(*args: Any, jaxpr: Any, **params: Any) -> Any:
    """Nothing is differentiated, so nothing needs to be computed again."""
    return quax.quaxify(jaxpr_as_fun(ClosedJaxpr(jaxpr, ())))(*args)


def _custom_vjp(trace: Any, primitive: Any, fun: Any, fwd: Any, bwd: Any, tracers: Any, **params: Any) -> Any:
    """A function with its own derivative is called as it is: nothing is differentiated."""
    with core.set_current_trace(trace):
        return fun.call_wrapped(*tracers)


if quax._trace._QuaxTrace.process_custom_vjp_call is core.Trace.process_custom_vjp_call:  # quax 0.4 lacks it
    quax._trace._QuaxTrace.process_custom_vjp_call = _custom_vjp


@quax.register(lax.scan_p, precedence=1)
def _(
    *args: quax.ArrayValue | jax.typing.ArrayLike,
    jaxpr: Any,
    num_consts: int,
    num_carry: int,
    length: int,
    reverse: bool,
    unroll: int,
    **params: Any,
) -> Any:
    """Scanned weights need their leading axis in both factors: each step then has its own slice of either."""
    first = num_consts + num_carry
    constants, carry = args[:num_consts], list(args[num_consts:first])
    stacked = [_stack_first(x) if isinstance(x, LowRank) else x for x in args[first:]]
    step = quax.quaxify(jaxpr_as_fun(jaxpr))

    def body(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        out = step(*constants, *carry, *xs)
        return list(out[:num_carry]), list(out[num_carry:])

    last, ys = lax.scan(body, carry, stacked, length=length, reverse=reverse, unroll=unroll)
    return [*last, *ys]


def _stack_first(value: LowRank) -> LowRank:
    """The same weight with its first axis stacked."""
    if value.stacked:
        return value
    length, kind = value.w.shape[0], value.axes[0]

    def repeated(x: Array) -> Array:
        return jnp.broadcast_to(x, (length, *x.shape))

    a = value.a if kind == "a" else repeated(value.a)
    b = value.b if kind == "b" else repeated(value.b)
    return LowRank(value.w, a, b, value.axes[1:])
