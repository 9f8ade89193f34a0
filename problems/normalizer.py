"""Running mean and deviation of observations, shared by a population.

Within a generation they are frozen: each episode only gathers :class:`Moments` of what it sees, before it ends and not
after. Between generations :func:`merge` adds these. So all members see the same numbers in the same place, and a policy
is its parameters together with the :class:`Normalizer` that it was scored with.

Moments are taken about the frozen mean, which in the first generation is zero, so that little cancels in float32 (Chan,
Golub & LeVeque 1983, "Algorithms for computing the sample variance"). Clipping to five deviations is that of Salimans
et al. 2017 (arXiv:1703.03864). Everything is for arrays of NumPy and JAX, also under ``jit`` and ``vmap``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.arrays import Array, namespace

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

MOST_DEVIATIONS = 5.0
LEAST_DEVIATION = 1e-3  # of what hardly ever changes


class Normalizer(NamedTuple):
    """What observations have been, over all episodes so far."""

    count: Float[Array, ""]
    mean: Float[Array, "*shape"]
    squares: Float[Array, "*shape"]
    """Sum of the squared deviations from the mean."""


class Moments(NamedTuple):
    """Sums over observations of their deviations from a normalizer's mean."""

    count: Float[Array, "*n"]
    deviations: Float[Array, "*n *shape"]
    squares: Float[Array, "*n *shape"]


def fresh(shape: tuple[int, ...]) -> Normalizer:
    """That of no observations; it changes nothing."""
    return Normalizer(np.float32(0), np.zeros(shape, np.float32), np.zeros(shape, np.float32))


def normalize(normalizer: Normalizer, observation: Float[Array, "*n *shape"]) -> Float[Array, "*n *shape"]:
    """Observations in deviations from the mean, at most five."""
    xp = namespace(observation)
    deviation = xp.maximum(xp.sqrt(variance(normalizer)), LEAST_DEVIATION)
    scaled = xp.clip((observation - normalizer.mean) / deviation, -MOST_DEVIATIONS, MOST_DEVIATIONS)
    return xp.where(normalizer.count > 0, scaled, observation)


def variance(normalizer: Normalizer) -> Float[Array, "*shape"]:
    """Mean squared deviation of all observations so far."""
    return normalizer.squares / namespace(normalizer.mean).maximum(normalizer.count, 1.0)


def moments(normalizer: Normalizer, observations: Float[Array, "n *shape"], is_counted: Bool[Array, "n"]) -> Moments:
    """Of those observations that count."""
    xp: Any = namespace(observations)
    mask = xp.reshape(is_counted, (-1,) + (1,) * len(normalizer.mean.shape))
    deviations = xp.where(mask, observations - normalizer.mean, 0.0)
    count = xp.sum(is_counted, dtype=deviations.dtype)
    return Moments(count, xp.sum(deviations, axis=0), xp.sum(deviations * deviations, axis=0))


def merge(normalizer: Normalizer, gathered: Moments) -> Normalizer:
    """With the observations of a generation, whose moments may have any leading axes: members, episodes."""
    mean, xp = normalizer.mean, namespace(gathered.count)
    leading = tuple(range(len(gathered.count.shape)))
    n, total, squares = (xp.sum(part, axis=leading) for part in gathered)
    count = normalizer.count + n
    shift = total / xp.maximum(count, 1.0)  # of the mean
    return Normalizer(count, mean + shift, xp.maximum(normalizer.squares + squares - shift * total, 0.0))
