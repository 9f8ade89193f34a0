"""The step that minimizes a quadratic in a ball, or in a ball and a box.

Sources: Moré & Sorensen 1983, "Computing a trust region step" (SIAM J. Sci. Stat. Comput. 4), here by eigenvalues;
Powell 2009, "The BOBYQA algorithm", section 3, for coordinates that meet a bound and stay there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    from jaxtyping import Float


def least_in_ball(g: Float[ndarray, "d"], h: Float[ndarray, "d d"], radius: float) -> Float[ndarray, "d"]:
    """The s that minimizes ``g . s + s . h s / 2`` where ``|s| <= radius``, to a thousandth of the radius."""
    scale = max(float(np.abs(g).max()) / radius, float(np.abs(h).max()))
    if not 0 < scale < math.inf:
        return np.zeros(len(g))
    w, v = np.linalg.eigh(h / scale)
    c = v.T @ (g / scale)
    if w[0] > 1e-12 and np.linalg.norm(c / w) <= radius:
        s: Float[ndarray, "d"] = -v @ (c / w)
        return s
    lower = max(0.0, -float(w[0])) + 1e-13  # so that no denominator is zero
    s = -c / (w + lower)
    if (left := radius**2 - float(s @ s)) >= 0:
        # The hard case: without a larger shift s stays inside; the rest of the way goes along the lowest eigenvector.
        if w[0] < 0:
            s[0] = math.copysign(math.sqrt(float(s[0]) ** 2 + left), s[0])
        return v @ s
    shift, upper = lower, lower + float(np.linalg.norm(c)) / radius
    for _ in range(60):
        s = -c / (w + shift)
        size = float(np.linalg.norm(s))
        if abs(size - radius) <= 1e-3 * radius:
            break
        lower, upper = (shift, upper) if size > radius else (lower, shift)
        # Newton's step for 1 / |s|, which is nearly linear in the shift.
        shift += (size - radius) / radius * size**2 / float(s @ (s / (w + shift)))
        if not lower < shift < upper:
            shift = 0.5 * (lower + upper)
    return v @ (s * min(1.0, radius / size))


def least_in_box(
    g: Float[ndarray, "d"], h: Float[ndarray, "d d"], radius: float, low: Float[ndarray, "d"], high: Float[ndarray, "d"]
) -> Float[ndarray, "d"]:
    """Nearly the same where also ``low <= s <= high``, which 0 satisfies."""
    s: Float[ndarray, "d"] = np.zeros(len(g))
    free = ~(((low >= 0) & (g > 0)) | ((high <= 0) & (g < 0)))
    while free.any():
        left = radius**2 - float(s[~free] @ s[~free])
        if left <= 0:
            break
        # Of the coordinates that are free, from 0 on: those at a bound give them another gradient.
        wanted = least_in_ball(g[free] + h[np.ix_(free, ~free)] @ s[~free], h[np.ix_(free, free)], math.sqrt(left))
        step = wanted - s[free]
        bound = np.where(step > 0, high[free], low[free])
        room = np.where(step != 0, (bound - s[free]) / np.where(step != 0, step, 1.0), np.inf)
        if room.min() >= 1:
            s[free] = wanted
            break
        hits = room <= room.min() * (1 + 1e-12)
        s[free] = np.where(hits, bound, s[free] + room.min() * step)
        free[np.flatnonzero(free)[hits]] = False
    return np.clip(s, low, high)
