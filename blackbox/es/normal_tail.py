"""Tail probabilities of the standard normal distribution and their inverse, in any array library.

The array API standard has no error function. Both functions here are Chebyshev series of what is left after the
exponential factor is taken out (Schonfelder 1978, doi:10.1090/S0025-5718-1978-0494846-8, for the error function).
The coefficients come, when first needed, from interpolation of the standard library's scalar functions, so every
library sums the same series: good to about 1e-11 relative in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from blackbox.arrays import Array, namespace

if TYPE_CHECKING:
    from jaxtyping import Float

_FARTHEST = 37.0  # deviations; beyond, the tail underflows in float64
_BEND = 3.0  # where the variable of the tail's series turns from z to 1 / z
_LEAST = 1e-12  # probability
_DEEPEST = math.sqrt(-2 * math.log(2 * _LEAST))


def upper_tail(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The probability that a standard normal variable exceeds ``z``; relative precision holds far out, too."""
    xp = namespace(z)
    size = xp.minimum(xp.abs(z), xp.asarray(_FARTHEST, dtype=z.dtype))
    x = 2 * (1 + _BEND / _FARTHEST) * size / (size + _BEND) - 1
    tail = _sum(_tail_series(), x) * xp.exp(-0.5 * size * size) / (size + _BEND)
    return xp.where(z < 0, 1 - tail, tail)


def upper_quantile(p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The ``z`` that a standard normal variable exceeds with probability ``p``, from 1e-12 to 1/2."""
    xp = namespace(p)
    depth = xp.sqrt(-2 * xp.log(2 * xp.clip(p, _LEAST, 0.5)))
    return _sum(_quantile_series(), 2 * depth / _DEEPEST - 1) * depth * depth


def _sum(series: Float[np.ndarray, "terms"], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The Chebyshev series at ``x`` in [-1, 1], term by term: T_n(cos a) = cos(n a)."""
    xp = namespace(x)
    n = xp.arange(series.shape[0], dtype=x.dtype)
    return xp.cos(xp.acos(xp.clip(x, -1.0, 1.0))[..., None] * n) @ xp.asarray(series, dtype=x.dtype)


@lru_cache(maxsize=1)
def _tail_series() -> Float[np.ndarray, "terms"]:
    def rest(x: float) -> float:
        z = (x + 1) * _BEND / (2 * (1 + _BEND / _FARTHEST) - (x + 1))
        return 0.5 * math.erfc(z / math.sqrt(2)) * math.exp(0.5 * z * z) * (z + _BEND)

    return _interpolate(rest, 32)


@lru_cache(maxsize=1)
def _quantile_series() -> Float[np.ndarray, "terms"]:
    def rest(x: float) -> float:
        depth = 0.5 * (x + 1) * _DEEPEST
        return -NormalDist().inv_cdf(0.5 * math.exp(-0.5 * depth * depth)) / (depth * depth)

    return _interpolate(rest, 48)


def _interpolate(f: Callable[[float], float], terms: int) -> Float[np.ndarray, "terms"]:
    """Coefficients of the Chebyshev series through ``f`` at the zeros of T_terms."""
    return np.polynomial.chebyshev.chebinterpolate(np.vectorize(f), terms - 1)
