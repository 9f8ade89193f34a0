"""Antithetic (mirrored) sampling: members 2k and 2k + 1 take opposite steps."""

from __future__ import annotations

import math

from jaxtyping import Float, Int

from blackbox.arrays import Array, Key, namespace
from blackbox.kernels.noise import normal


def even_popsize(d: int) -> int:
    """The default of CMA-ES, 4 + 3 ln d, rounded down to whole pairs."""
    return 2 * ((4 + int(3 * math.log(d))) // 2)


def antithetic_normal(
    key: Key, generation: Int[Array, ""], popsize: int, first: int, like: Float[Array, "d"]
) -> Float[Array, "popsize d"]:
    """Standard normal steps of members ``first`` (even) to ``first + popsize - 1``; a pair is a step and its mirror."""
    xp = namespace(like)
    d = like.shape[0]
    steps = normal(key, generation, (popsize // 2, d), first=first // 2, like=like)
    return xp.reshape(xp.stack([steps, -steps], axis=1), (popsize, d))
