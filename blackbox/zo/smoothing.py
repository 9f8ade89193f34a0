"""How far apart function values are taken for a difference: truncation against cancellation.

A central difference of radius mu has the truncation error ``mu^2 |f'''| / 6`` and, of values that are exact to a
relative eps, the cancellation error ``eps |f| / mu``; a forward one ``mu |f''| / 2`` and ``2 eps |f| / mu``. Their sums
are least at

    mu = (3 eps |f| / |f'''|)^(1/3)    central,        mu = 2 (eps |f| / |f''|)^(1/2)    forward

(Nocedal & Wright 2006, "Numerical optimization", section 8.1). The derivatives are not known: for values and
derivatives of one order these are some ``eps^(1/3)`` and ``2 eps^(1/2)``, which the defaults are, to a power of two, so
that a step rounds no further digits away; times the size of the parameters where they are larger than one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def smoothing_radius(dtype: object, central: bool = True) -> float:
    """The default radius for parameters of one order and a dtype: 2^-8 in float32, 2^-17 in float64, if central."""
    eps = float(jnp.finfo(dtype).eps)  # type: ignore[no-untyped-call]
    radius = eps ** (1 / 3) if central else 2 * eps**0.5
    return float(2.0 ** round(math.log2(radius)))


def radius_along(weights: Sequence[Float[Array, "..."]], central: bool) -> Float[Array, ""]:
    """The default radius along directions of all weights, by their root mean square: float32's if none has more digits.

    Where all weights move at once, a step is as long as the square root of their number, so that what bfloat16 would
    want for one coordinate is far too long; differences are large enough, as all weights add to them. It is two
    spacings of numbers of that size at least, since rounding would take less away.
    """
    wide = [w.astype(jnp.float32) for w in weights]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(w)) for w in wide]))
    unit = jnp.where(largest > 0, largest, 1)  # whose squares are in range
    size = unit * jnp.sqrt(sum(jnp.sum(jnp.square(w / unit)) for w in wide) / sum(w.size for w in wide))
    radius = max(smoothing_radius(jnp.promote_types(w.dtype, jnp.float32), central) for w in weights)
    two = jnp.max(jnp.stack([two_spacings(w.dtype, size) for w in weights]))
    return jnp.maximum(relative(radius, size), two)


def two_spacings(dtype: object, size: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Twice what numbers of a dtype are apart at a size, or somewhat more: steps that rounding leaves."""
    eps = jnp.float32(jnp.finfo(dtype).eps)  # type: ignore[no-untyped-call]
    size = jnp.abs(size).astype(jnp.float32)
    return jnp.where(size > 0, jnp.ldexp(eps, jnp.frexp(size)[1]), 0)


def relative(radius: float, size: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The radius times the size of what it is added to, if that is larger than one: a power of two."""
    _, exponent = jnp.frexp(jnp.maximum(jnp.abs(size).astype(jnp.float32), 1.0))
    return jnp.ldexp(jnp.float32(radius), exponent - 1)
