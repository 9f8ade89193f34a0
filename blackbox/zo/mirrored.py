"""Mirrored points of dense strategies, and the gradient that their values tell, in any array library.

Members 2k and 2k + 1 of a generation are opposite steps from the mean, of a radius times directions u with
``E u u^T = I``. Of the values f_i that have not failed, n in number, with s_i = x_i - mean and f their mean,

    g  =  sum_i (f_i - f) s_i / (n radius^2)

which of whole pairs is the mean of their central differences ``(f_+ - f_-) / (2 radius) u``. It is read off positions:
rows may be told in any order, clipped, or further ones of the same distribution. A value whose partner has failed or
is late counts by itself, against the mean of all and by half; if it is the only one, it counts nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blackbox.arrays import Array, namespace

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def mirrored(directions: Float[Array, "pairs d"], popsize: int, first: int) -> Float[Array, "popsize d"]:
    """Members ``first`` to ``first + popsize - 1`` of those from ``first - first % 2`` on, two for each direction."""
    xp = namespace(directions)
    rows = xp.reshape(xp.stack([directions, -directions], axis=1), (-1, directions.shape[1]))
    return rows[first % 2 : first % 2 + popsize, :]


def mirrored_gradient(
    population: Float[Array, "n d"], fitness: Float[Array, "n"], mean: Float[Array, "d"], radius: Any
) -> tuple[Float[Array, "d"], Bool[Array, ""]]:
    """The gradient g at the mean, and whether there are values to tell it."""
    xp = namespace(mean)
    f, usable = usable_values(fitness, mean)
    count = xp.sum(xp.astype(usable, f.dtype))
    weights = f / xp.where(count > 0, count, xp.ones_like(count))
    steps = (population - mean) / radius
    return bounded((xp.astype(weights, mean.dtype) @ steps) / radius), count > 1


def usable_values(fitness: Float[Array, "n"], like: Array) -> tuple[Float[Array, "n"], Bool[Array, "n"]]:
    """Values less the mean of those that have not failed, zero for those that have; and which have not."""
    xp = namespace(like)
    f, usable = kept_values(fitness, like)
    count = xp.sum(xp.astype(usable, f.dtype))
    # Twice, as the first mean of large values is rounded.
    for _ in range(2):
        f = xp.where(usable, f - xp.sum(f) / xp.where(count > 0, count, xp.ones_like(count)), xp.zeros_like(f))
    return f, usable


def kept_values(fitness: Float[Array, "n"], like: Array) -> tuple[Float[Array, "n"], Bool[Array, "n"]]:
    """Values, zero for those that have failed; and which have not.

    A value has failed if it is not finite, or greater than the 0.4th power of the largest float of ``like`` (1e15 in
    float32), so that squares of differences can be added up.
    """
    xp = namespace(like)
    f = xp.astype(fitness, xp.result_type(fitness.dtype, like.dtype))
    usable = xp.abs(f) <= float(xp.finfo(like.dtype).max) ** 0.4  # false of NaN
    return xp.where(usable, f, xp.zeros_like(f)), usable


def bounded(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """``x`` with no entry so large that squares of many could not be added up."""
    xp = namespace(x)
    largest = float(xp.finfo(x.dtype).max) ** 0.45
    return xp.clip(x, -largest, largest)
