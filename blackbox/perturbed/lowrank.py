"""The weight that stands for ``w + a b^T`` without being it."""

from __future__ import annotations

import string
import warnings
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import quax
from jax.extend.core import Primitive

from blackbox.kernels.spec import Kind

Array = Any


class Materialized(UserWarning):
    """A perturbed weight met an operation without a rule: every member of a chunk forms its own copy of it."""


class Source(eqx.Module):
    """What the factors of a weight are made of, for products that make them where they are used.

    Attributes:
        words: of each stacked weight what :func:`blackbox.kernels.lowrank_mix` takes, shape ``(*stacked, 6)``. Each
            factor lies in its row in the order of its own axes and the rank.
        size: of a member's row of the stream.
        kind: of the noise.
    """

    words: Array
    size: int = eqx.field(static=True)
    kind: Kind = eqx.field(static=True)


class LowRank(quax.ArrayValue):
    """A weight and its perturbation of low rank.

    Each axis of the weight but the leading stacked ones belongs to one of the two factors.

    Attributes:
        w: the weight, shape ``(*stacked, *axes)``.
        a: shape ``(*stacked, *axes marked a, rank)``.
        b: shape ``(*stacked, *axes marked b, rank)``.
        axes: one letter, ``a`` or ``b``, for each axis that is not stacked.
        scale: of each stacked weight what ``w`` is multiplied with where it is used, shape ``(*stacked,)``, in the
            dtype that the program sees; None if ``w`` is the weight itself. For weights in eight bits, and for those
            that a program multiplies with a number of each member's own.
        source: what both factors are made of, ``a`` with the step; None where that is not known. It says nothing that
            the factors do not say: whoever changes them otherwise than as a whole leaves it away.
    """

    w: Array
    a: Array
    b: Array
    axes: str = eqx.field(static=True)
    scale: Array | None = None
    source: Source | None = None

    @property
    def stacked(self) -> int:
        """How many leading axes count separate weights."""
        return self.w.ndim - len(self.axes)

    def aval(self) -> Any:
        return jax.core.ShapedArray(self.w.shape, self.w.dtype if self.scale is None else self.scale.dtype)

    @property
    def unscaled(self) -> Array:
        """The weight alone before it is scaled, in the dtype that the program sees."""
        return self.w if self.scale is None else self.w.astype(self.scale.dtype)

    @property
    def center(self) -> Array:
        """The weight alone."""
        return self.w if self.scale is None else scaled(self.w, self.scale)

    def materialise(self) -> Array:
        """The sum, rounded once to the dtype of the weight."""
        w, a, b = axis_letters(self)
        noise = jnp.einsum(f"{a}R,{b}R->{w}", self.a, self.b)
        return added(self.center, noise)

    @staticmethod
    def default(primitive: Primitive, values: Sequence[Any], params: dict[str, Any]) -> Any:
        return primitive.bind(*(formed(value, primitive) for value in values), **params)


def sourceless(value: Any) -> Any:
    """A weight without its source; other values as they are."""
    if not isinstance(value, LowRank) or value.source is None:
        return value
    return LowRank(value.w, value.a, value.b, value.axes, value.scale)


def formed(value: Any, primitive: Primitive) -> Any:
    """The array that ``value`` stands for, with a warning that names what needs it; other values as they are."""
    if not isinstance(value, LowRank):
        return value
    warnings.warn(
        f"no low-rank rule for the primitive {primitive} on a weight of shape {value.w.shape}: each member forms its "
        "own copy of it. Rewrite the operation as a product, or freeze the weight or give it dense noise",
        Materialized,
        stacklevel=2,
    )
    return value.materialise()


def axis_letters(value: LowRank) -> tuple[str, str, str]:
    """Einsum letters of the axes of the weight and of its two factors, without the rank."""
    stacked, w = value.stacked, string.ascii_lowercase[: value.w.ndim]
    of = {kind: "".join(x for x, axis in zip(w[stacked:], value.axes, strict=True) if axis == kind) for kind in "ab"}
    return w, w[:stacked] + of["a"], w[:stacked] + of["b"]


def widened(x: Array) -> Array:
    """At least float32, so that a perturbation far below the last place of a bfloat16 weight still counts."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def scaled(w: Array, scale: Array) -> Array:
    """Stacked weights times their scales, in the dtype of these."""
    return w.astype(scale.dtype) * scale.reshape(*scale.shape, *[1] * (w.ndim - scale.ndim))


def added(plain: Array, noise: Array) -> Array:
    """The sum in float32 at least, rounded once to the dtype of what is perturbed."""
    return (plain.astype(jnp.promote_types(plain.dtype, jnp.float32)) + noise).astype(plain.dtype)
