"""Integer coordinates of a normal distribution: a lower bound on the probability of leaving the present value.

Sources: Hamano, Saito, Nomura & Shirakawa 2022, "CMA-ES with margin", GECCO, arXiv:2205.13482; Hamano, Nomura,
Saito, Uchida & Shirakawa 2025, "CatCMA with margin", arXiv:2504.07884, sections 3 and 4 (integer centering,
adaptive mutation rates).

An integer variable is one coordinate whose axis is cut into cells. Once the standard deviation is small against the
cell around the mean, all samples fall into that cell and the variable is stuck. The margin scales the coordinate
by A and shifts the mean, such that the neighboring cells keep a probability of at least ``alpha`` in all.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from blackbox.arrays import Array, namespace

EPS = 1e-8  # probabilities are kept this far from 0 and 1/2


class Cells(NamedTuple):
    """The cells of k integer variables; those with fewer than the most edges are padded."""

    edges: np.ndarray  # (k, m) ascending, infinite from ``count`` on
    centers: np.ndarray  # (k, m + 1)
    count: np.ndarray  # (k,) edges of each variable


@lru_cache(maxsize=64)
def cells(edges: tuple[tuple[float, ...], ...]) -> Cells:
    """The cells between the inner ``edges`` of each variable, in [0, 1]."""
    most = max(map(len, edges))
    table, centers = np.full((len(edges), most), np.inf), np.zeros((len(edges), most + 1))
    for row, inner in enumerate(edges):
        bounds = np.array([0.0, *inner, 1.0])
        table[row, : len(inner)] = inner
        centers[row, : len(inner) + 1] = (bounds[1:] + bounds[:-1]) / 2
    return Cells(table, centers, np.array([len(inner) for inner in edges]))


def into_cube(v: Float[Array, "n k"], cells: Cells) -> Float[Array, "n k"]:
    """Squeeze the axis into (0, 1): the identity between the centers of the outermost cells, inverted by
    :func:`out_of_cube`. A sample far outside so keeps its cell, and selection sees how far it was.
    """
    xp = namespace(v)
    low, high = _outer_centers(cells, v)
    below = low * xp.exp(xp.minimum(v / low - 1, xp.zeros_like(v)))
    above = 1 - (1 - high) * xp.exp(xp.minimum((1 - v) / (1 - high) - 1, xp.zeros_like(v)))
    return xp.where(v < low, below, xp.where(v > high, above, v))


def out_of_cube(u: Float[Array, "n k"], cells: Cells) -> Float[Array, "n k"]:
    """The inverse of :func:`into_cube`; at most 20 half cells outside."""
    xp = namespace(u)
    low, high = _outer_centers(cells, u)
    least = xp.asarray(math.exp(-20.0), dtype=u.dtype)
    below = low * (1 + xp.log(xp.maximum(u / low, least)))
    above = 1 - (1 - high) * (1 + xp.log(xp.maximum((1 - u) / (1 - high), least)))
    return xp.where(u < low, below, xp.where(u > high, above, u))


def _outer_centers(cells: Cells, like: Array) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    xp = namespace(like)
    low, high = cells.centers[:, 0], cells.centers[np.arange(len(cells.count)), cells.count]
    return xp.asarray(low, dtype=like.dtype), xp.asarray(high, dtype=like.dtype)


def center_of_cell(v: Float[Array, "*n k"], cells: Cells) -> Float[Array, "*n k"]:
    """The value in the middle of the cell that each coordinate is in."""
    xp = namespace(v)
    return _pick(xp.asarray(cells.centers, dtype=v.dtype), _cell(v, cells))


def _cell(v: Float[Array, "*n k"], cells: Cells) -> Int[Array, "*n k"]:
    xp = namespace(v)
    return xp.count_nonzero(v[..., None] >= xp.asarray(cells.edges, dtype=v.dtype), axis=-1)


def _pick(table: Float[Array, "k m"], column: Int[Array, "*n k"]) -> Float[Array, "*n k"]:
    xp = namespace(table)
    flat = column + xp.arange(table.shape[0]) * table.shape[1]
    return xp.reshape(xp.take(xp.reshape(table, (-1,)), xp.reshape(flat, (-1,))), column.shape)


def centered(
    v: Float[Array, "mu k"], mean: Float[Array, "k"], cells: Cells
) -> tuple[Float[Array, "mu k"], Bool[Array, "k"]]:
    """Integer centering of selected samples: whoever left the mean's cell is moved to the middle of its own.

    The others are moved toward theirs such that the average does not change, as far as that can be. Otherwise the
    mean would not follow a step to another value, most samples of which lie near the edge.

    Returns:
        The samples, and for each variable whether any of them left the mean's cell.
    """
    xp = namespace(v)
    to_center = center_of_cell(v, cells) - v
    left = _cell(v, cells) != _cell(mean, cells)
    zero = xp.zeros_like(v)
    bias = xp.sum(xp.where(left, to_center, zero), axis=0)
    against = ~left & (bias * to_center < 0)
    room = xp.abs(xp.sum(xp.where(against, to_center, zero), axis=0))
    share = xp.minimum(xp.abs(bias) / xp.where(room > 0, room, 1.0), xp.ones_like(bias))
    return v + xp.where(left, to_center, xp.where(against, share * to_center, zero)), xp.any(left, axis=0)


class Margin(NamedTuple):
    mean: Float[Array, "k"]
    A: Float[Array, "k"]
    """Scales of the coordinates."""
    rate: Float[Array, "k"]
    """Mutation rates: the last probability of leaving the mean's cell."""


def with_margin(
    margin: Margin, deviation: Float[Array, "k"], succeeded: Bool[Array, "k"], cells: Cells, alpha: float
) -> Margin:
    """Move means and scales such that every neighboring cell keeps its share of ``alpha``.

    Args:
        margin: the means after their update, and the scales and rates before.
        deviation: standard deviations before scaling by A.
        succeeded: whether a selected sample left the cell of the mean; only then may a rate grow.
        cells: the cells.
        alpha: least probability of leaving the mean's cell.
    """
    xp = namespace(deviation)
    m, A, rate = margin
    dtype = deviation.dtype
    edges, last = xp.asarray(cells.edges, dtype=dtype), xp.asarray(cells.count - 1)
    cell = _cell(m, cells)
    low_edge = _pick(edges, xp.minimum(xp.maximum(cell - 1, xp.zeros_like(cell)), last))
    up_edge = _pick(edges, xp.minimum(cell, last))
    low = _tail((m - low_edge) / (A * deviation))
    up = _tail((up_edge - m) / (A * deviation))

    # The mean is in an outermost cell: one edge, with at least alpha beyond it.
    beyond = xp.maximum(xp.minimum(low, up), xp.asarray(alpha, dtype=dtype))
    beyond = xp.clip(xp.where(succeeded, beyond, xp.minimum(beyond, rate)), EPS, 0.5 - EPS)
    edge = xp.where(cell == 0, up_edge, low_edge)
    side = xp.where(cell == 0, -xp.ones_like(m), xp.ones_like(m))
    reach = xp.abs(center_of_cell(m, cells) - edge)
    alpha_quantile = _upper_quantile(xp.asarray([min(max(alpha, EPS), 0.5 - EPS)], dtype=dtype))
    A_outer = xp.maximum(A, reach / (alpha_quantile * deviation))
    m_outer = edge + side * A_outer * deviation * _upper_quantile(beyond)

    # It is in an inner cell: two edges, with at least alpha / 2 beyond each.
    half = alpha / 2
    low, up = xp.maximum(low, xp.asarray(half, dtype=dtype)), xp.maximum(up, xp.asarray(half, dtype=dtype))
    stay_before = 1 - _tail((m - low_edge) / (A * deviation)) - _tail((up_edge - m) / (A * deviation))
    stay = xp.where(succeeded, stay_before, xp.maximum(stay_before, 1 - rate))
    slack = low + up + stay - alpha - xp.where(succeeded, xp.full_like(rate, half), 1 - rate)
    excess = (1 - low - up - stay) / xp.where(slack > EPS, slack, 1.0)
    excess = xp.where(slack > EPS, excess, 0.0)
    low = xp.clip(low + excess * (low - half), EPS, 0.5 - EPS)
    up = xp.clip(up + excess * (up - half), EPS, 0.5 - EPS)
    z_low, z_up = _upper_quantile(low), _upper_quantile(up)
    z_sum = xp.maximum(z_low + z_up, xp.asarray(EPS, dtype=dtype))
    A_inner = (up_edge - low_edge) / (z_sum * deviation)
    m_inner = (low_edge * z_up + up_edge * z_low) / z_sum

    outer = (cell == 0) | (cell == last + 1)
    return Margin(
        mean=xp.where(outer, m_outer, m_inner),
        A=xp.where(outer, A_outer, A_inner),
        rate=xp.where(outer, beyond, low + up),
    )


def _tail(z: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Probability that a standard normal variable exceeds z, to a relative error of 1.2e-7.

    Chebyshev fit of erfc (Press et al., Numerical Recipes, section 6.2); the array API has no error function.
    """
    xp = namespace(z)
    x = xp.abs(z) / math.sqrt(2)
    t = 1 / (1 + x / 2)
    p = xp.zeros_like(t)
    for c in _ERFC:
        p = p * t + c
    upper = 0.5 * t * xp.exp(-x * x + p)
    return xp.where(z >= 0, upper, 1 - upper)


_ERFC = (
    0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368,
    -1.26551223,
)  # fmt: skip


def _upper_quantile(p: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The z >= 0 with ``_tail(z) = p``, for p in (0, 1/2]: Abramowitz & Stegun 26.2.23 and one Newton step."""
    xp = namespace(p)
    t = xp.sqrt(-2 * xp.log(p))
    z = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
    density = xp.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return xp.maximum(z + (_tail(z) - p) / density, xp.zeros_like(z))
