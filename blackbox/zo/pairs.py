"""What mirrored pairs of evaluations say: directional derivatives, of which those that failed count nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

LARGEST = 1e25  # a difference beyond it is no measurement: a step along it would be the end of the weights


@jax.jit
def mirrored_differences(ids: Int[Array, "n"], fitness: Float[Array, "n"]) -> tuple[Float[Array, "n"], Int[Array, ""]]:
    """Of each member the difference in fitness to the other side of its pair, and how many members count.

    A member does not count if its mirror image was not told, or if either fitness or their difference is not finite:
    its difference is zero. Signed as the noise is and over the number of members that count, the sum over members is
    the mean over pairs of what even members have more than odd ones.
    """
    order = jnp.argsort(ids)
    at = jnp.minimum(jnp.searchsorted(ids[order], ids ^ 1), ids.shape[0] - 1)
    other = order[at]
    fitness = fitness.astype(jnp.promote_types(fitness.dtype, jnp.float32))
    difference = jnp.where(ids[other] == ids ^ 1, fitness - fitness[other], jnp.nan)
    counts = jnp.abs(difference) < LARGEST
    return jnp.where(counts, difference, 0.0), jnp.maximum(jnp.sum(counts), 1)


def slopes_of_pairs(fitness: Float[np.ndarray, "n"], mu: float, clip: float = float("inf")) -> Float[np.ndarray, "n/2"]:
    """``d_k`` of all pairs, clipped, over the number of those that count, from fitness in order; see above."""
    with np.errstate(over="ignore", invalid="ignore"):
        differences = fitness[::2] - fitness[1::2]
    counts = np.abs(differences) < LARGEST
    slopes = np.clip(np.where(counts, differences, 0) / (2 * mu), -clip, clip)
    return (slopes / max(1, counts.sum())).astype(np.float32)


def mean_of_finite(fitness: Float[np.ndarray, "n"]) -> float:
    """The mean of the finite values; NaN if there is none."""
    finite = fitness[np.isfinite(fitness)]
    return float(finite.mean()) if finite.size else float("nan")
