"""Programs for arrays that take quantized weights in their place, and never form one of them as a whole.

A weight in four bits takes an eighth of its floats, which would be of no use if a program made all floats at its
beginning, as XLA likes to. Products with it take it in blocks of its groups, and rows of an embedding are looked up in
the integers. Other operations form the weight, where they need it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import quax
from jax import lax
from jax.extend.core import Primitive

from blackbox.zo.quantized import QuantizedWeight

Array = Any
BLOCK = 2**18  # weights that are floats at once


@dataclasses.dataclass(frozen=True)
class dequantized:  # noqa: N801  it is used as a function is
    """``loss`` for parameters with :class:`blackbox.zo.quantized.QuantizedWeight` leaves, which it meets as arrays.

    The loss is written for ordinary arrays and needs no change, unless it has a derivative of its own
    (``jax.custom_vjp``), which is not supported. Two wrappers of the same function are equal, so that
    :func:`blackbox.evaluate` compiles it once.

    Attributes:
        loss: a function of a pytree of parameters and of further arguments; a JAX program, unless no weight of its
            parameters is quantized.
    """

    loss: Callable[..., Any]

    def __call__(self, params: Any, *args: Any) -> Any:
        packed = jax.tree.map(lambda x: Packed(x, False) if _is_quantized(x) else x, params, is_leaf=_is_quantized)
        out = quax.quaxify(self.loss)(packed, *args)
        return jax.tree.map(lambda x: x.materialise() if isinstance(x, Packed) else x, out, is_leaf=_is_packed)


class Packed(quax.ArrayValue):
    """A quantized weight as a program sees it.

    Attributes:
        weight: what it stands for.
        turned: whether its last two axes have changed places.
    """

    weight: QuantizedWeight
    turned: bool = eqx.field(static=True)

    def aval(self) -> Any:
        shape = self.weight.shape
        return jax.core.ShapedArray((*shape[:-2], shape[-1], shape[-2]) if self.turned else shape, self.weight.dtype)

    def materialise(self) -> Array:
        w = self.weight.floats
        return jnp.swapaxes(w, -1, -2) if self.turned else w

    @staticmethod
    def default(primitive: Primitive, values: Sequence[Any], params: dict[str, Any]) -> Any:
        return primitive.bind(*(x.materialise() if isinstance(x, Packed) else x for x in values), **params)


def _is_quantized(x: Any) -> bool:
    return isinstance(x, QuantizedWeight)


def _is_packed(x: Any) -> bool:
    return isinstance(x, Packed)


@quax.register(lax.dot_general_p)
def _(x: jax.typing.ArrayLike, w: Packed, *, dimension_numbers: Any, **params: Any) -> Array:
    (own, axes), batch = dimension_numbers
    if len(axes) != 1 or any(batch) or w.ndim != 2:
        return Packed.default(lax.dot_general_p, (x, w), {"dimension_numbers": dimension_numbers, **params})
    return _product(jnp.asarray(x), own[0], w, axes[0], params)


@quax.register(lax.dot_general_p)
def _(w: Packed, x: jax.typing.ArrayLike, *, dimension_numbers: Any, **params: Any) -> Array:
    (axes, own), batch = dimension_numbers
    if len(axes) != 1 or any(batch) or w.ndim != 2:
        return Packed.default(lax.dot_general_p, (w, x), {"dimension_numbers": dimension_numbers, **params})
    return jnp.moveaxis(_product(jnp.asarray(x), own[0], w, axes[0], params), -1, 0)


def _product(x: Array, own: int, w: Packed, axis: int, params: dict[str, Any]) -> Array:
    """The sum over axis ``own`` of ``x`` and ``axis`` of a matrix; the matrix's other axis is the result's last."""
    weight = w.weight
    groups, outputs = weight.scale.shape
    group = weight.group
    size = next(n for n in range(max(1, BLOCK // (group * outputs)), 0, -1) if groups % n == 0)
    rows = jnp.moveaxis(x, own, -1)
    free, rows = rows.shape[:-1], rows.reshape(-1, rows.shape[-1])
    dtype = params.get("preferred_element_type") or jnp.promote_types(x.dtype, weight.dtype)
    wide = jnp.promote_types(dtype, jnp.float32)  # of what is added up
    rest: dict[str, Any] = {"precision": params.get("precision"), "preferred_element_type": wide}
    over_inputs = (axis == 0) != w.turned
    if over_inputs:
        rows = jnp.pad(rows, ((0, 0), (0, groups * group - weight.inputs)))

    def part(i: Array) -> QuantizedWeight:
        values, scale = (lax.dynamic_slice_in_dim(part, i * size, size) for part in (weight.values, weight.scale))
        return QuantizedWeight(values, scale, size * group, weight.bits, weight.dtype)

    def add(i: Array, total: Array) -> Array:
        block = lax.dynamic_slice_in_dim(rows, i * size * group, size * group, 1)
        return total + lax.dot_general(block, part(i).floats, (((1,), (0,)), ((), ())), **rest)

    def put(i: Array, out: Array) -> Array:
        block = lax.dot_general(rows, part(i).floats, (((1,), (1,)), ((), ())), **rest)
        return lax.dynamic_update_slice_in_dim(out, block, i * size * group, 1)

    width = outputs if over_inputs else groups * group
    out = lax.fori_loop(0, groups // size, add if over_inputs else put, jnp.zeros((len(rows), width), wide))
    return out.astype(dtype)[:, : outputs if over_inputs else weight.inputs].reshape(*free, -1)


@quax.register(lax.gather_p)
def _(
    operand: Packed, start_indices: jax.typing.ArrayLike, *, dimension_numbers: Any, slice_sizes: Any, mode: Any,
    fill_value: Any = None, **params: Any,
) -> Array:  # fmt: skip
    """Rows of an embedding."""
    d, at, weight = dimension_numbers, jnp.asarray(start_indices), operand.weight
    last = tuple(range(at.ndim - 1, at.ndim))
    is_lookup = (d.start_index_map, d.collapsed_slice_dims, d.offset_dims) == ((0,), (0,), last)
    if not is_lookup or operand.ndim != 2 or operand.turned or slice_sizes != (1, operand.shape[1]):
        rest = {"dimension_numbers": d, "slice_sizes": slice_sizes, "mode": mode, "fill_value": fill_value, **params}
        return Packed.default(lax.gather_p, (operand, at), rest)
    row = jnp.clip(at[..., 0], 0, weight.inputs - 1)
    stored = weight.values.shape[1]
    group, place = jnp.divmod(row, weight.group)
    q = weight.values[group, place % stored]
    if weight.bits == 4:
        q = jnp.where((place < stored)[..., None], q & 15, q >> 4).astype(jnp.int8) - jnp.int8(8)
    found = (q.astype(weight.scale.dtype) * weight.scale[group]).astype(weight.dtype)
    if mode != lax.GatherScatterMode.FILL_OR_DROP:
        return found
    return jnp.where(at == row[..., None], found, jnp.nan if fill_value is None else fill_value)


@quax.register(lax.transpose_p)
def _(operand: Packed, *, permutation: Any) -> Any:
    axes = tuple(range(operand.ndim))
    if tuple(permutation) == axes:
        return operand
    if tuple(permutation) == (*axes[:-2], axes[-1], axes[-2]):
        return Packed(operand.weight, not operand.turned)
    return Packed.default(lax.transpose_p, (operand,), {"permutation": permutation})


@quax.register(lax.convert_element_type_p)
def _(operand: Packed, *, new_dtype: Any, **params: Any) -> Any:
    if not jnp.issubdtype(new_dtype, jnp.floating):
        return Packed.default(lax.convert_element_type_p, (operand,), {"new_dtype": new_dtype, **params})
    return Packed(dataclasses.replace(operand.weight, dtype=jnp.dtype(new_dtype)), operand.turned)
