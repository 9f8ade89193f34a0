"""Where a swarm agrees: weights of its particles, and their weighted mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blackbox.arrays import Array, namespace
from blackbox.shaping import finite_or_worst

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def softmin(energy: Float[Array, "n"], alpha: Float[Array, ""] | float) -> Float[Array, "n"]:
    """Gibbs weights exp(-alpha energy), which sum to 1 (Pinnau et al. 2017, equation 1.3).

    Only differences count, so the least energy is taken off first and nothing underflows that has weight. NaN and
    infinity have none; where nothing else is known, all weigh the same, and where some are minus infinity, these do.
    """
    xp = namespace(energy)
    e = finite_or_worst(energy)
    largest = xp.finfo(e.dtype).max / 4
    least = xp.min(e)
    above = xp.clip(e, -largest, largest) - xp.clip(least, -largest, largest)
    above = xp.minimum(above, xp.zeros_like(above) + 1000.0 / alpha)  # where the exponential is 0 in any dtype
    weights = xp.where((e < xp.inf) | (least == xp.inf), xp.exp(-alpha * above), xp.zeros_like(e))
    return weights / xp.sum(weights)


def geometric(
    start: Array | float, growth: Array | float, most: Array | float, generation: Int[Array, ""], like: Array
) -> Float[Array, ""]:
    """Alpha after so many steps, min(start growth^generation, most), in the library and dtype of ``like``."""
    xp = namespace(like)
    start, growth, most = (xp.log(xp.asarray(number, dtype=like.dtype)) for number in (start, growth, most))
    alpha: Array = xp.exp(xp.minimum(start + growth * xp.astype(generation, like.dtype), most))
    return alpha
