"""Mirrored sampling: members 2k and 2k + 1 of a generation are opposite steps from the mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from blackbox.arrays import Array, Key, namespace
from blackbox.kernels.noise import normal

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def default_popsize(d: int) -> int:
    """2 (1 + floor(sqrt(d))), at most 200.

    The papers have no rule. Few pairs suffice where momentum averages the gradients of many generations (BBOB in 2 to
    20 dimensions), but in 40 and more too few never tell the gradient from the noise.
    """
    return min(200, 2 * (1 + math.isqrt(d)))


def mirrored_normal(
    key: Key, generation: Int[Array, ""], popsize: int, first: int, like: Float[Array, "d"]
) -> Float[Array, "popsize d"]:
    """Standard normal noise of members ``first`` to ``first + popsize - 1``, in opposite pairs.

    One draw per pair (Brockhoff et al. 2010, doi:10.1007/978-3-642-15844-5_2, who mirror in sequence).
    """
    xp = namespace(like)
    d = like.shape[0]
    before = first % 2
    pairs = (popsize + before + 1) // 2
    z = normal(key, generation, (pairs, d), first=first // 2, like=like)
    return xp.reshape(xp.stack([z, -z], axis=1), (2 * pairs, d))[before : before + popsize, :]
