"""Float32 arithmetic in NumPy with the bits of compiled code: ``csrc/functions.cuh`` operation by operation.

Episodes are chaotic in the last bit, so that functions of NumPy's or a GPU's library, which differ there, would give
other episodes. Products, sums, quotients and roots of float32 arrays are rounded to nearest as they are; fused
multiply-adds and what is made of them are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    from jaxtyping import Float

f32 = np.float32

ROUNDING = f32(1.5 * 2**23)  # what is added to it is rounded to a whole number, which is in the last bits
HALF_PI_HIGH, HALF_PI_LOW = f32(1.57079637), f32(-4.37113883e-8)
# sin(r) = r + r^3 * SIN(r^2) and cos(r) = 1 - r^2 / 2 + r^4 * COS(r^2) on [-pi/4, pi/4]: single precision of Cephes
# (Moshier).
SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
# tanh(x) = x * P(x^2) / Q(x^2) on [-8, 8]: least squares of the relative error, weights sharpened towards its maximum
# (Lawson 1961), which is 6e-9 before rounding.
TANH_P = (1.5230391e-8, 2.1894642e-5, 3.571597e-3, 1.3444497e-1, 1.0)
TANH_Q = (8.5224355e-7, 3.4112902e-4, 2.6164439e-2, 4.6777824e-1, 1.0)
TANH_END = f32(8.0)


def fma(
    a: Float[ndarray, "*shape"] | np.float32,
    b: Float[ndarray, "*shape"] | np.float32,
    c: Float[ndarray, "*shape"] | np.float32,
) -> Float[ndarray, "*shape"]:
    """``a * b + c`` of float32 numbers, rounded once.

    Float64 holds the product exactly, but its sum is rounded there before it is rounded to float32, which errs where
    the first rounding ends halfway between two float32 numbers. Such sums are rounded to odd instead (Boldo and
    Melquiond 2008, "Emulation of a FMA and correctly rounded sums").
    """
    product = np.multiply(a, b, dtype=np.float64)
    total: ndarray = product + c
    # Halfway between two float32 numbers, subnormal ones included, the last 28 bits are zero.
    is_halfway = (total.view(np.int64) & 0xFFFFFFF) == 0
    if is_halfway.any():
        at = np.nonzero(is_halfway)
        total[at] = _rounded_to_odd(product[at], np.broadcast_to(c, total.shape)[at].astype(np.float64), total[at])
    result: ndarray = total.astype(f32)
    return result


def _rounded_to_odd(product: ndarray, c: ndarray, total: ndarray) -> ndarray:
    """The sum, of which ``total`` is the nearest, in float64; if inexact, the neighbor whose last bit is one."""
    added = total - product
    error = (product - (total - added)) + (c - added)  # exact (Knuth's two-sum)
    bits = total.view(np.int64)
    toward = np.where((error > 0) == (total > 0), 1, -1)  # of the magnitude
    is_inexact = np.abs(error) > 0  # not of what is infinite
    odd = np.where(is_inexact & (bits & 1 == 0), bits + toward, bits)
    return odd.view(np.float64)


def polynomial(coefficients: Sequence[float], x: Float[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
    """A polynomial in Horner's order, highest power first."""
    p: ndarray = fma(f32(coefficients[0]), x, f32(coefficients[1]))
    for c in coefficients[2:]:
        p = fma(p, x, f32(c))
    return p


def sin_cos(x: Float[ndarray, "*shape"]) -> tuple[Float[ndarray, "*shape"], Float[ndarray, "*shape"]]:
    """Sine and cosine of radians: within 1e-7, and within 2 ulp but next to their zeros, on [-50, 50]."""
    total = x * f32(2 / np.pi) + ROUNDING
    turns, k = total - ROUNDING, total.view(np.uint32)
    r = fma(-turns, HALF_PI_LOW, fma(-turns, HALF_PI_HIGH, x))
    z = r * r
    s = fma(polynomial(SIN, z) * z, r, r)
    c = fma(z * z, polynomial(COS, z), fma(z, f32(-0.5), f32(1.0)))
    swap = (k & 1).astype(bool)
    sine, cosine = np.where(swap, c, s), np.where(swap, s, c)
    return np.where(k & 2, -sine, sine), np.where((k + np.uint32(1)) & 2, -cosine, cosine)


def tanh(x: Float[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
    """Hyperbolic tangent: within 5 ulp and 3e-7, never beyond 1."""
    y = np.minimum(np.maximum(x, -TANH_END), TANH_END)
    z = y * y
    return (y * polynomial(TANH_P, z)) / polynomial(TANH_Q, z)
