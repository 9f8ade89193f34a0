"""What follows a product in the same pass: a bias, an activation, and one rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from blackbox.arrays import Array, namespace

from . import exact

if TYPE_CHECKING:
    from jaxtyping import Float

Activation = Literal["relu", "tanh"] | None
ACTIVATIONS: tuple[Activation, ...] = (None, "relu", "tanh")  # as numbered in csrc/lowrank.cu
DType = Literal["float32", "bfloat16"]


def finished(
    total: Float[Array, "n rows k"], bias: Float[Array, "#n k"] | None, activation: Activation, dtype: DType
) -> Float[Array, "n rows k"]:
    """``activation(total + bias)`` of float32 in NumPy or JAX, rounded to nearest; "relu" leaves a zero its sign."""
    xp = namespace(total)
    if bias is not None:
        total = total + xp.asarray(bias, dtype=xp.float32)[:, None]
    if activation == "relu":
        total = xp.where(total < 0, xp.float32(0), total)
    elif activation == "tanh":
        total = exact.tanh(total) if xp is np else xp.tanh(total)
    if dtype == "bfloat16":
        import ml_dtypes

        return total.astype(ml_dtypes.bfloat16)
    return total.astype(xp.float32)
