"""Rules for what multiplies a weight: products, convolutions, and lookups in an embedding."""

from __future__ import annotations

import math
import string
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import quax
from jax import lax

from blackbox.kernels import lowrank_mix
from blackbox.kernels.finish import DType
from blackbox.kernels.spec import Kind
from blackbox.perturbed.lowrank import Array, LowRank, added, axis_letters, formed, scaled, widened

_FEW_ROWS = 4  # of a member, measured on one core
_FREE = string.ascii_uppercase.replace("R", "")  # einsum letters for what is no axis of a weight; R is the rank


def product(
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
    w, a, b = axis_letters(value)
    free = iter(_FREE)
    letters = {axis: w[own] for pairs in (contract, batch) for own, axis in zip(pairs[mine], pairs[other], strict=True)}
    x_letters = "".join(letters.get(axis) or next(free) for axis in range(x.ndim))
    used = set(contract[mine]) | set(batch[mine])
    w_free = "".join(letter for axis, letter in enumerate(w) if axis not in used)
    x_free = "".join(letter for axis, letter in enumerate(x_letters) if axis not in letters)
    out = "".join(w[axis] for axis in batch[mine]) + (w_free + x_free if weight_first else x_free + w_free)
    # A scale is applied to the product where it can be: each member may have its own, beside one weight for all.
    late = set(range(value.stacked)) <= set(batch[mine])
    center = value.unscaled if late else value.center
    operands = (center, x) if weight_first else (x, center)
    exact = jnp.promote_types(center.dtype, x.dtype)
    dtype = preferred_element_type or exact
    wide = jnp.promote_types(jnp.float32, exact)
    inner = "" if value.source is None or batch[mine] else _contracted_factor(value, contract[mine])
    # Of many rows of rank one XLA adds the noise in the activation's pass, and making the factors hardly counts.
    rows = math.prod(n for axis, n in enumerate(x.shape) if axis not in contract[other])
    if inner and wide == jnp.float32 and (rows <= _FEW_ROWS or value.a.shape[-1] > 1):
        pairs = dict(zip(contract[mine], contract[other], strict=True))
        return _mixed(value, x, inner, pairs, dtype, weight_first=weight_first, **params).astype(dtype)
    plain = lax.dot_general(*operands, dimension_numbers, preferred_element_type=wide, **params)
    if late and value.scale is not None:
        plain = jnp.einsum(f"{out},{w[: value.stacked]}->{out}", plain, value.scale.astype(wide))
    noise = jnp.einsum(f"{x_letters},{a}R,{b}R->{out}", widened(x), value.a, value.b)
    return (plain + noise).astype(dtype)


def _contracted_factor(value: LowRank, contracted: Any) -> str:
    """The factor all of whose axes, and no others, are contracted; empty if there is none."""
    if value.stacked:
        return ""
    own = {kind: {i for i, axis in enumerate(value.axes) if axis == kind} for kind in "ab"}
    return next((kind for kind in "ab" if own[kind] and own[kind] == set(contracted)), "")


def _mixed(
    value: LowRank, x: Array, inner: str, pairs: dict[int, int], dtype: Any, *, weight_first: bool, **params: Any
) -> Array:
    """The product by the operation that makes the noise itself; ``pairs``: of the contracted axes those of x.

    x is handed over as it is, and a result in bfloat16 taken: on GPUs passes of conversion would cost as much again.
    """
    assert value.source is not None
    rows, last = [axis for axis in range(x.ndim) if axis not in pairs.values()], [pairs[axis] for axis in sorted(pairs)]
    x = x.transpose(*rows, *last)
    own = tuple(range(len(rows), x.ndim)), tuple(sorted(pairs))
    y = lax.dot_general(x, value.unscaled, (own, ((), ())), preferred_element_type=jnp.dtype("float32"), **params)
    if value.scale is not None:
        y = y * value.scale.astype(y.dtype)
    count, shape, words = math.prod(x.shape[: len(rows)]), y.shape, value.source.words
    rank, factors = value.a.shape[-1], [value.a, value.b]
    if inner == "b":
        words, factors = words[jnp.array([0, 1, 2, 3, 5, 4])], factors[::-1]
    x = x if x.dtype == jnp.bfloat16 else widened(x)
    a, b = (factor.reshape(math.prod(factor.shape[:-1]), rank) for factor in factors)
    given = x.reshape(1, count, len(a)), y.reshape(1, count, len(b)), a, b
    short: DType = "bfloat16" if dtype == jnp.bfloat16 else "float32"
    out = _noised(value.source.size, rank, value.source.kind, short, words[None], *given).reshape(shape)
    return out.transpose(*range(len(rows), out.ndim), *range(len(rows))) if weight_first else out


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _noised(
    size: int, rank: int, kind: Kind, dtype: DType, words: Array, x: Array, y: Array, a: Array, b: Array
) -> Array:
    """``y + (x a) b^T``, where compiled code makes both factors, so that nothing here needs their values."""
    return lowrank_mix(x, y, words, size, rank, kind, dtype=dtype, impl="native")


@_noised.defjvp
def _(size: int, rank: int, kind: Kind, dtype: DType, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Derivatives go through the factors, which have the step as a number: the words have its bits alone."""

    def formed(x: Array, y: Array, a: Array, b: Array) -> Array:
        return (y + jnp.einsum("otm,mr,kr->otk", widened(x), a, b)).astype(dtype)

    return _noised(size, rank, kind, dtype, *primals), jax.jvp(formed, primals[1:], tangents[1:])[1]


@quax.register(lax.dot_general_p)
def _(lhs: LowRank, rhs: jax.typing.ArrayLike, **params: Any) -> Array:
    return product(lhs, jnp.asarray(rhs), weight_first=True, **params)


@quax.register(lax.dot_general_p)
def _(lhs: jax.typing.ArrayLike, rhs: LowRank, **params: Any) -> Array:
    return product(rhs, jnp.asarray(lhs), weight_first=False, **params)


@quax.register(lax.dot_general_p)
def _(lhs: LowRank, rhs: LowRank, **params: Any) -> Array:
    return product(lhs, formed(rhs, lax.dot_general_p), weight_first=True, **params)


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
        x, rhs.unscaled, dimension_numbers=dimension_numbers, preferred_element_type=preferred_element_type, **params
    )
    if rhs.scale is not None:
        plain = plain * rhs.scale
    narrow = lax.conv_general_dilated_p.bind(
        widened(x),
        kernel.astype(widened(x).dtype),
        dimension_numbers=dimension_numbers,
        preferred_element_type=None,
        **params,
    )
    channel = dimension_numbers.out_spec[1]
    noise = jnp.moveaxis(jnp.moveaxis(narrow, channel, -1) @ outer_factor.T, -1, channel)
    return added(plain, noise)


@quax.register(lax.gather_p)
def _(
    operand: LowRank,
    start_indices: jax.typing.ArrayLike,
    *,
    dimension_numbers: Any,
    slice_sizes: Any,
    mode: Any,
    **params: Any,
) -> Array:
    """Rows of an embedding: whole slices along one axis, each of one row."""
    indices, d = jnp.asarray(start_indices), dimension_numbers
    whole = {"dimension_numbers": dimension_numbers, "slice_sizes": slice_sizes, "mode": mode, **params}
    filled = mode == lax.GatherScatterMode.FILL_OR_DROP
    # The start of a slice that is a whole axis is clamped to zero, whatever it is.
    parts = [k for k in d.start_index_map if filled or slice_sizes[k] != operand.w.shape[k]]
    axis = parts[0] if len(parts) == 1 else -1
    due = tuple(1 if k == axis else n for k, n in enumerate(operand.w.shape))
    if axis < 0 or d.collapsed_slice_dims not in ((), (axis,)) or d.operand_batching_dims or slice_sizes != due:
        return LowRank.default(lax.gather_p, (operand, indices), whole)
    late = operand.scale is not None and not operand.stacked and not filled
    plain = lax.gather_p.bind(operand.w if late else operand.center, indices, **whole)
    if late:
        plain = scaled(plain, operand.scale)
    w, a, b = axis_letters(operand)
    at, row_letters = indices[..., d.start_index_map.index(axis)], _FREE[: indices.ndim - 1]
    picked = []
    for factor, letters in ((operand.a, a), (operand.b, b)):
        if w[axis] in letters:
            own = letters.index(w[axis])
            factor = jnp.moveaxis(
                jnp.take(factor, at, axis=own, mode="clip"), range(own, own + at.ndim), range(at.ndim)
            )
            letters = row_letters + letters.replace(w[axis], "")
        picked.append((factor, letters))
    (fa, la), (fb, lb) = picked
    slices, rows = iter(w if not d.collapsed_slice_dims else w.replace(w[axis], "")), iter(row_letters)
    out = "".join(next(slices if k in d.offset_dims else rows) for k in range(plain.ndim))
    noise = jnp.einsum(f"{la}R,{lb}R->{out.replace(w[axis], '')}", fa, fb)
    if w[axis] in out:
        noise = jnp.expand_dims(noise, out.index(w[axis]))
    if filled:  # what is filled in for rows that do not exist has no noise
        found = lax.gather_p.bind(jnp.ones(operand.w.shape, bool), indices, **whole | {"fill_value": False})
        noise = jnp.where(found, noise, 0)
    return added(plain, noise)
