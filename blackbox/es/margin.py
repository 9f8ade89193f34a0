"""Integers as coordinates of a normal distribution: centering, and a lower bound on the probability of a change.

Source: Hamano et al. 2025, "CatCMA with margin", arXiv:2504.07884, after Hamano et al. 2022, "CMA-ES with margin",
arXiv:2205.13482.

An integer is the cell of its axis that a sample falls into. Once the deviation is small against the cell around the
mean all samples fall into it and the variable is stuck. Hence the samples are scaled by A and the mean is shifted,
such that the neighboring cells together keep a probability of at least alpha.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blackbox.arrays import Array, namespace
from blackbox.es.normal_tail import upper_quantile, upper_tail

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class Cells(NamedTuple):
    """The cells of each integer variable in [0, 1]; variables of fewer edges than others are padded."""

    edges: Float[np.ndarray, "integers edges"]
    """Inner edges, ascending, padded with infinity; an edge belongs to the cell above it."""
    first: Float[np.ndarray, "integers"]
    last: Float[np.ndarray, "integers"]
    """First and last inner edge."""
    gaps: Float[np.ndarray, "integers edges"]
    """Distance between the centers of the cells on both sides of each edge, padded with 0."""

    def around(self, v: Float[Array, "*n integers"]) -> tuple[Float[Array, "*n integers"], Float[Array, "*n integers"]]:
        """Number and center of the cell that each value is in."""
        xp = namespace(v)
        edges, gaps, first = (xp.asarray(a, dtype=v.dtype) for a in (self.edges, self.gaps, self.first))
        passed = xp.astype(v[..., None] >= edges, v.dtype)
        return xp.sum(passed, axis=-1), first / 2 + xp.sum(passed * gaps, axis=-1)


@lru_cache(maxsize=256)
def cells(edges: tuple[tuple[float, ...], ...]) -> Cells:
    """The cells between the inner ``edges`` of each variable."""
    shape = (len(edges), max(map(len, edges)))
    padded, gaps = np.full(shape, np.inf), np.zeros(shape)
    for i, inner in enumerate(edges):
        bounds = np.array([0.0, *inner, 1.0])
        padded[i, : len(inner)] = inner
        gaps[i, : len(inner)] = (bounds[2:] - bounds[:-2]) / 2
    return Cells(padded, np.array([inner[0] for inner in edges]), np.array([inner[-1] for inner in edges]), gaps)


class Margin(NamedTuple):
    A: Float[Array, "integers"]
    """What the deviations are multiplied with."""
    p_leave: Float[Array, "integers"]
    """Probability of leaving the mean's cell."""


def centered(
    cells: Cells, mean: Float[Array, "integers"], v: Float[Array, "n integers"]
) -> tuple[Float[Array, "n integers"], Bool[Array, "integers"]]:
    """Integer centering of a population, best first.

    A good member (of the better half) that left the mean's cell is moved to the center of its own: the mean would
    hardly follow it otherwise, as most of these lie just beyond the edge. The shift is balanced by moving good
    members that stayed towards their cell's center, as far as that can be.

    Returns:
        The rows to learn from, and for each variable whether a good member left the mean's cell.
    """
    xp = namespace(v)
    good = v[: v.shape[0] // 2, :]
    cell, center = cells.around(good)
    left = cell != cells.around(mean)[0]
    to_center = center - good
    stays = xp.where(left, 0.0, to_center)
    bias = xp.sum(xp.where(left, to_center, 0.0), axis=0)
    balances = stays * bias < 0
    balance = xp.sum(xp.where(balances, stays, 0.0), axis=0)
    share = xp.minimum(-bias / xp.where(balance == 0, 1.0, balance), xp.asarray(1.0, dtype=v.dtype))
    moved = good + xp.where(left, to_center, xp.where(balances, share * stays, 0.0))
    return xp.concat([moved, v[v.shape[0] // 2 :, :]]), xp.any(left, axis=0)


def with_margin(
    cells: Cells,
    mean: Float[Array, "integers"],
    deviation: Float[Array, "integers"],
    margin: Margin,
    left: Bool[Array, "integers"],
    alpha: float,
) -> tuple[Float[Array, "integers"], Margin]:
    """Move mean and A such that each integer leaves its cell with probability ``alpha`` at least.

    Args:
        cells: the cells.
        mean: after its update.
        deviation: after its update, without A.
        margin: before the update.
        left: where a good member left the mean's cell: only there may the probability grow.
        alpha: least probability; at most half of it is kept on each side of an inner cell.
    """
    xp = namespace(mean)
    dtype = mean.dtype
    almost_half = 0.5 - math.sqrt(xp.finfo(dtype).eps)  # a quantile of exactly 0 would divide by zero below
    edges, first, last = (xp.asarray(a, dtype=dtype) for a in cells[:3])
    below = edges <= mean[:, None]
    low = xp.maximum(xp.max(xp.where(below, edges, -xp.inf), axis=1), first)
    high = xp.minimum(xp.min(xp.where(below, xp.inf, edges), axis=1), last)
    tails = upper_tail(xp.stack([mean - low, high - mean]) / (deviation * margin.A))
    p_low, p_high = tails[0, :], tails[1, :]

    # The mean is beyond the outermost edge, or on it: A lets a mean in the cell's center reach that edge with
    # probability alpha, then the distance from the edge sets the probability.
    outside = low == high
    p_outside = xp.maximum(xp.minimum(p_low, p_high), xp.asarray(alpha, dtype=dtype))
    p_outside = xp.clip(xp.where(left, p_outside, xp.minimum(p_outside, margin.p_leave)), alpha, almost_half)

    # The mean is between two edges: at least alpha / 2 beyond each, and no less than before in between.
    least = 0.5 * alpha
    p_stay = 1 - p_low - p_high
    least_stay = xp.where(left, xp.asarray(least, dtype=dtype), 1 - margin.p_leave)
    p_stay = xp.where(left, p_stay, xp.maximum(p_stay, least_stay))
    p_low, p_high = xp.clip(p_low, least, 1.0), xp.clip(p_high, least, 1.0)
    excess = p_low + p_high + p_stay - 1
    spare = p_low + p_high + p_stay - 2 * least - least_stay
    keep = 1 - xp.where(excess > 0, excess, 0.0) / xp.where(excess > 0, spare, 1.0)
    p_low = xp.clip(least + keep * (p_low - least), least, almost_half)
    p_high = xp.clip(least + keep * (p_high - least), least, almost_half)

    z = upper_quantile(xp.stack([p_low, p_high, p_outside, xp.full_like(p_low, alpha)]))
    z_low, z_high, z_outside, z_alpha = (z[i, :] for i in range(4))
    side = xp.where(mean < first, -1.0, xp.ones_like(mean))
    A_outside = xp.maximum(margin.A, xp.abs(cells.around(mean)[1] - high) / (deviation * z_alpha))
    A = xp.where(outside, A_outside, (high - low) / ((z_low + z_high) * deviation))
    beyond = high + side * deviation * A_outside * z_outside
    between = (low * z_high + high * z_low) / (z_low + z_high)
    mean = xp.where(outside, beyond, between)
    return mean, Margin(A=A, p_leave=xp.where(outside, p_outside, p_low + p_high))
