"""Iso+LineDD: an elite moved by a little noise, and along the line to another elite.

Source: Vassiliades & Mouret 2018, "Discovering the elite hypervolume by leveraging interspecies correlation"
(arXiv:1804.03906), equation 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blackbox.arrays import Array, namespace

if TYPE_CHECKING:
    from jaxtyping import Float


def iso_line(
    first: Float[Array, "n d"],
    second: Float[Array, "n d"],
    noise: Float[Array, "n d+1"],
    iso_sigma: Float[Array, ""] | float,
    line_sigma: Float[Array, ""] | float,
) -> Float[Array, "n d"]:
    """``first + iso_sigma N(0, I) + line_sigma N(0, 1) (second - first)``.

    Args:
        first: the elites that are varied.
        second: the elites that they are moved to or away from.
        noise: standard normal; the last column is along the line.
        iso_sigma: standard deviation of each coordinate.
        line_sigma: standard deviation along the line, in units of the distance between the two elites.
    """
    xp = namespace(first)
    x = first + iso_sigma * noise[:, :-1] + line_sigma * noise[:, -1:] * (second - first)
    far = float(xp.finfo(x.dtype).max) ** 0.5  # where elites run away from each other, they stay finite
    return xp.clip(x, -far, far)
