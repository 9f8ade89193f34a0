"""Rules for what multiplies a weight: products, convolutions, and lookups in an embedding."""

from __future__ import annotations

import string
from typing import Any

import jax
import jax.numpy as jnp
import quax
from jax import lax

from blackbox.perturbed.lowrank import Array, LowRank, added, axis_letters, widened

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
    center = value.center
    operands = (center, x) if weight_first else (x, center)
    exact = jnp.promote_types(center.dtype, x.dtype)
    dtype = preferred_element_type or exact
    wide = jnp.promote_types(jnp.float32, exact)
    plain = lax.dot_general(*operands, dimension_numbers, preferred_element_type=wide, **params)
    noise = jnp.einsum(f"{x_letters},{a}R,{b}R->{out}", widened(x), value.a, value.b)
    return (plain + noise).astype(dtype)


@quax.register(lax.dot_general_p)
def _(lhs: LowRank, rhs: jax.typing.ArrayLike, **params: Any) -> Array:
    return product(lhs, jnp.asarray(rhs), weight_first=True, **params)


@quax.register(lax.dot_general_p)
def _(lhs: jax.typing.ArrayLike, rhs: LowRank, **params: Any) -> Array:
    return product(rhs, jnp.asarray(lhs), weight_first=False, **params)


@quax.register(lax.dot_general_p)
def _(lhs: LowRank, rhs: LowRank, **params: Any) -> Array:
    return product(lhs, rhs.materialise(), weight_first=True, **params)


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
        x, rhs.center, dimension_numbers=dimension_numbers, preferred_element_type=preferred_element_type, **params
    )
    narrow = lax.conv_general_dilated_p.bind(
        widened(x), kernel, dimension_numbers=dimension_numbers, preferred_element_type=None, **params
    )
    channel = dimension_numbers.out_spec[1]
    noise = jnp.moveaxis(jnp.moveaxis(narrow, channel, -1) @ outer_factor.T, -1, channel)
    return added(plain, noise)


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
    plain = lax.gather_p.bind(operand.center, indices, **whole)
    w, a, b = axis_letters(operand)
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
    return added(plain, noise)
