"""Weights in four or eight bits with a scale for each group of inputs, which programs use like arrays.

Symmetric and uniform, as what QZO fine-tunes: w = s q with q from -7 to 7 or from -127 to 127, and s the largest
magnitude of a group over 7 or 127. Four-bit integers lie two in a byte.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError
from blackbox.strategy import require_integer, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int8, UInt8

LARGEST = {4: 7, 8: 127}


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight of shape ``(*stack, inputs, outputs)``, as of ``x @ w``, in integers and scales.

    JAX's functions take it in place of an array, and ``x @ w`` does: they read :attr:`floats`, where they are. It is
    a pytree node, so that ``jax.lax.scan`` over stacked layers gives the layers' own.

    Attributes:
        values: integers in groups of inputs, int8 of shape ``(*stack, groups, group, outputs)``; in four bits uint8 of
            shape ``(*stack, groups, group / 2, outputs)``, of which the lower half of a byte belongs to the first half
            of the group. The last group is filled with zeros.
        scale: what they are multiplied with, shape ``(*stack, groups, outputs)``.
        inputs: length of the axis that is in groups.
        bits: 4 or 8.
        dtype: of the weight as programs see it.
    """

    values: Int8[Array, "... groups group outputs"] | UInt8[Array, "... groups group/2 outputs"]
    scale: Float[Array, "... groups outputs"]
    inputs: int
    bits: int
    dtype: Any

    @classmethod
    def of(cls, w: Float[Array, "*stack inputs outputs"], bits: int = 4, group_size: int = 128) -> QuantizedWeight:
        """The nearest such weight.

        Args:
            w: at least two axes.
            bits: 4 or 8.
            group_size: inputs that share a scale for each output, even; at most all of them.

        Raises:
            SettingError: a weight of fewer axes, of integers or not finite, other bits, a group that is odd or below 2.
        """
        return _quantized("w", w, bits, group_size)

    @property
    def floats(self) -> Float[Array, "*stack inputs outputs"]:
        """The weight, ``s q``."""
        q = self.values
        if self.bits == 4:
            halves = (q & 15).astype(jnp.int8), (q >> 4).astype(jnp.int8)
            q = jnp.concatenate(halves, axis=-2) - jnp.int8(8)
        w = q.astype(self.scale.dtype) * self.scale[..., None, :]
        w = w.reshape(*w.shape[:-3], -1, w.shape[-1])
        return w[..., : self.inputs, :].astype(self.dtype)

    @property
    def group(self) -> int:
        """Inputs of a group."""
        return int(self.values.shape[-2]) * (2 if self.bits == 4 else 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return (*self.scale.shape[:-2], self.inputs, self.scale.shape[-1])

    @property
    def ndim(self) -> int:
        """Axes of the weight."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Memory of the integers and the scales."""
        return int(self.values.nbytes + self.scale.nbytes)

    def __jax_array__(self) -> Float[Array, "*stack inputs outputs"]:
        return self.floats


jax.tree_util.register_dataclass(
    QuantizedWeight, data_fields=["values", "scale"], meta_fields=["inputs", "bits", "dtype"]
)


def _quantized(name: str, w: Any, bits: int, group_size: int) -> QuantizedWeight:
    """See :meth:`QuantizedWeight.of`; ``name`` is what errors call the weight."""
    require_one_of("bits", bits, tuple(LARGEST))
    require_integer("group_size", group_size, low=2, even=True, optional=False)
    w = jnp.asarray(w)
    if w.ndim < 2 or not jnp.issubdtype(w.dtype, jnp.floating):
        raise SettingError(
            f"{name} must be floating-point numbers of two axes or more, got {w.dtype} of shape {w.shape}"
        )
    if not w.size:
        raise SettingError(f"{name} must have entries, got shape {w.shape}")
    inputs = w.shape[-2]
    group = min(group_size, inputs + inputs % 2)
    values, scale = _rounded(w, bits, group)
    if not isinstance(scale, jax.core.Tracer) and not bool(jnp.all(jnp.isfinite(scale))):
        raise SettingError(f"{name} must be finite in float32, got entries that are not")
    return QuantizedWeight(values, scale, inputs, bits, jnp.dtype(w.dtype))


def _rounded(w: Any, bits: int, group: int) -> tuple[Array, Array]:
    spare = -w.shape[-2] % group
    w = jnp.pad(w.astype(jnp.float32), [(0, 0)] * (w.ndim - 2) + [(0, spare), (0, 0)])
    w = w.reshape(*w.shape[:-2], -1, group, w.shape[-1])
    largest = jnp.max(jnp.abs(w), axis=-2)
    scale = jnp.where(largest == 0, 1.0, largest / LARGEST[bits])  # not finite if an entry is not
    q = jnp.round(w / scale[..., None, :]).astype(jnp.int8)
    if bits == 4:
        first, second = jnp.split((q + jnp.int8(8)).astype(jnp.uint8), 2, axis=-2)
        return first | second << 4, scale
    return q, scale


def quantize(params: Any, bits: int = 4, group_size: int = 128, keep: Sequence[str] = ()) -> Any:
    """A pytree with a :class:`QuantizedWeight` for each floating-point array of two axes or more.

    Args:
        params: any pytree.
        bits: 4 or 8.
        group_size: inputs that share a scale for each output.
        keep: shell patterns of the paths of leaves that stay as they are, such as ``"*embed*"``.

    Raises:
        SettingError: a pattern that matches no leaf, no array to quantize, or what :meth:`QuantizedWeight.of` refuses.
    """
    if isinstance(keep, str):
        raise SettingError(f'keep must be a sequence of patterns such as ("*embed*",), got {keep!r}')
    unmatched, count = set(keep), 0

    def chosen(path: Any, x: Any) -> Any:
        nonlocal unmatched, count
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        matching = {pattern for pattern in keep if fnmatch.fnmatchcase(name, pattern)}
        unmatched -= matching
        is_weight = isinstance(x, jax.Array | np.ndarray) and x.ndim > 1 and jnp.issubdtype(x.dtype, jnp.floating)
        count += isinstance(x, QuantizedWeight)
        if matching or not is_weight:
            return x
        count += 1
        return _quantized(f"params: {name}", x, bits, group_size)

    out = jax.tree_util.tree_map_with_path(chosen, params, is_leaf=lambda x: isinstance(x, QuantizedWeight))
    if unmatched:
        raise SettingError(f"keep: {sorted(unmatched)} match no leaf")
    if not count:
        raise SettingError("params has no floating-point array of two axes or more to quantize")
    return out
