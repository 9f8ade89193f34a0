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

from collections.abc import Callable
from typing import Any

import jax
import quax

from blackbox.perturbed import programs, views  # noqa: F401  their rules are registered by the import
from blackbox.perturbed.lowrank import Array, LowRank, Materialized
from blackbox.perturbed.products import product

__all__ = ["LowRank", "Materialized", "perturbed", "perturbed_matmul"]


def perturbed(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` for arguments that hold :class:`LowRank` weights among their leaves."""
    wrapped = quax.quaxify(function)

    def formed(*args: Any) -> Any:
        """What the function returns; a weight that it returns as it is leaves as an array."""
        return jax.tree.map(
            lambda x: x.materialise() if isinstance(x, LowRank) else x,
            wrapped(*args),
            is_leaf=lambda x: isinstance(x, LowRank),
        )

    return formed


def perturbed_matmul(x: Array, w: Array) -> Array:
    """``x @ w`` for a plain or :class:`LowRank` weight, outside :func:`perturbed`; shapes ``(..., m)``, ``(m, n)``."""
    if not isinstance(w, LowRank):
        return x @ w
    numbers = (((x.ndim - 1,), (0,)), ((), ()))
    return product(w, x, weight_first=False, dimension_numbers=numbers)
