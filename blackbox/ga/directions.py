"""Reference directions: points spread evenly over the simplex of shares of several objectives.

Sources: Das & Dennis 1998, doi:10.1137/S1052623496307510; two layers from Deb & Jain 2014,
doi:10.1109/TEVC.2013.2281535. The points are those whose coordinates are multiples of 1 / p and sum to 1, as
many as C(p + M - 1, M - 1) for M objectives. Where p < M no such point lies inside the simplex: then a second layer is
drawn halfway to the center.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float


def divisions_for(objectives: int, most: int) -> tuple[int, ...]:
    """The most divisions that give no more than ``most`` directions; two layers where one has none inside."""
    p = 1
    while objectives > 1 and math.comb(p + objectives, objectives - 1) <= most:
        p += 1
    if p >= objectives:
        return (p,)
    p = 1
    while math.comb(p + objectives, objectives - 1) + math.comb(p + objectives - 1, objectives - 1) <= most:
        p += 1
    return (p, p - 1) if p > 1 else (1,)


@lru_cache(maxsize=256)
def reference_directions(objectives: int, divisions: tuple[int, ...]) -> Float[np.ndarray, "H k"]:
    """Das and Dennis's points of each layer, scaled to length 1; not to be written to.

    Args:
        objectives: how many, M.
        divisions: of each layer. The first is on the simplex itself, each further one drawn halfway to its center.
    """
    layers = []
    for depth, p in enumerate(divisions):
        # Bars among stars: where M - 1 of p + M - 1 places are taken, the gaps are M whole numbers that sum to p.
        bars = itertools.combinations(range(p + objectives - 1), objectives - 1)
        edges = np.array([(-1, *taken, p + objectives - 1) for taken in bars])
        points = (np.diff(edges, axis=1) - 1) / p
        layers.append(0.5**depth * points + (1 - 0.5**depth) / objectives)
    directions = np.concatenate(layers)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions.flags.writeable = False
    return directions
