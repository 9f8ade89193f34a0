"""AdaMM: Adam whose running second moment is not allowed to fall, for estimated gradients.

Sources: Chen, Liu, Xu, Li, Lin, Hong & Cox 2019, "ZO-AdaMM: Zeroth-Order Adaptive Momentum Method for Black-Box
Optimization" (arXiv:1910.06513), algorithm 1, without constraints; Reddi, Kale & Kumar 2018, "On the Convergence of
Adam and Beyond" (AMSGrad). Coordinate by coordinate, with gradients g:

    m      <-  beta1 m + (1 - beta1) g
    v      <-  beta2 v + (1 - beta2) g^2
    v_max  <-  max(v_max, v)
    x      <-  x - lr m / sqrt(v_max)

Moments are not corrected for their start at zero. Where a coordinate has no gradient, its moments stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from blackbox.arrays import Array, namespace

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class Moments(NamedTuple):
    m: Float[Array, "d"]
    """Running mean of the gradient."""
    v: Float[Array, "d"]
    """Running mean of its square."""
    v_max: Float[Array, "d"]
    """The largest v so far."""
    estimates: Int[Array, ""]
    """How many gradients of which something was known."""


def no_moments(like: Float[Array, "d"]) -> Moments:
    """The start of a run."""
    xp = namespace(like)
    zeros = xp.zeros_like(like)
    return Moments(m=zeros, v=zeros, v_max=zeros, estimates=xp.zeros((), dtype=xp.asarray(0).dtype)[()])


def updated(moments: Moments, gradient: Float[Array, "d"], known: Bool[Array, "*d"], beta1: Any, beta2: Any) -> Moments:
    """The moments after one more gradient, in those coordinates where it is known."""
    xp = namespace(gradient)
    m = beta1 * moments.m + (1 - beta1) * gradient
    v = beta2 * moments.v + (1 - beta2) * (gradient * gradient)
    return Moments(
        m=xp.where(known, m, moments.m),
        v=xp.where(known, v, moments.v),
        v_max=xp.where(known, xp.maximum(moments.v_max, v), moments.v_max),
        estimates=moments.estimates + xp.astype(xp.any(known), moments.estimates.dtype),
    )


def step_of(moments: Moments, lr: Any) -> Float[Array, "d"]:
    """What is taken from x: about ``lr`` in each coordinate at first, and less as the gradient vanishes."""
    xp = namespace(moments.m)
    root = xp.sqrt(moments.v_max)
    return lr * moments.m / xp.where(root > 0, root, xp.ones_like(root))


def at_rest(moments: Moments, lr: Any, radius: Any) -> Bool[Array, ""]:
    """Whether steps have become shorter than a millionth of the radius of the differences."""
    xp = namespace(moments.m)
    return (moments.estimates > 0) & (xp.max(xp.abs(step_of(moments, lr))) < 1e-6 * radius)
