"""The expected improvement on a value, as a logarithm that does not underflow, and its climb by the gradient.

Source: Ament et al. 2023, "Unexpected improvements to expected improvement" (arXiv:2310.20708), section 4.1. With z =
(best - mean) / deviation, phi and Phi the normal density and distribution:

    log EI = log deviation + log h(z),   h(z) = phi(z) + z Phi(z),   h'(z) = Phi(z)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from blackbox.model.gaussian_process import Features, Process, conditioned, prior

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)
_CHANCE = 0.5  # variance of the noise of failures
_FAR = -25.0  # below, phi + z Phi would cancel; the asymptotic series errs by 105 / z^6


def log_h(z: Float[ndarray, "n"]) -> tuple[Float[ndarray, "n"], Float[ndarray, "n"]]:
    """log h(z), and its derivative Phi(z) / h(z)."""
    near = np.maximum(z, _FAR)
    density = np.exp(-0.5 * near * near - _LOG_ROOT_2PI)
    distribution = np.array([0.5 * math.erfc(v) for v in (near / -math.sqrt(2.0)).tolist()])
    h = density + near * distribution
    far = np.minimum(z, _FAR)
    tail = np.log1p(-3 / far**2 + 15 / far**4) - 2 * np.log(-far) - 0.5 * far * far - _LOG_ROOT_2PI
    return np.where(z > _FAR, np.log(h), tail), np.where(z > _FAR, distribution / h, -far)


def log_improvement(best: float, mean: Float[ndarray, "n"], variance: Float[ndarray, "n"]) -> Float[ndarray, "n"]:
    """log EI where the values have such means and variances, which are above zero."""
    deviation = np.sqrt(variance)
    return np.log(deviation) + log_h((best - mean) / deviation)[0]


def climbed(
    process: Process,
    points: Features,
    best: float,
    low: Float[ndarray, "f"] | float,
    high: Float[ndarray, "f"] | float,
    is_free: Bool[ndarray, "n f"],
    steps: int,
) -> tuple[Features, Float[ndarray, "n"]]:
    """Points of more expected improvement, and log EI there: steps along the gradient, which grow while they gain.

    Only what is free moves, within its bounds.
    """
    width = np.where(is_free, np.subtract(high, low), 0.0)

    slopes = process.slopes()

    def value_and_gradient(x: Float[ndarray, "n f"]) -> tuple[Float[ndarray, "n"], Float[ndarray, "n f"]]:
        mean, variance, by_mean, by_variance = slopes(x)
        deviation = np.sqrt(variance)
        z = (best - mean) / deviation
        value, slope = log_h(z)
        # log deviation has half of the gradient of the variance by the variance.
        by_log = (0.5 * (1 - slope * z) / variance)[:, None] * by_variance
        return np.log(deviation) + value, by_log - (slope / deviation)[:, None] * by_mean

    x = points.x
    value, gradient = value_and_gradient(x)
    size = np.full((len(value), 1), 0.1)
    for _ in range(steps):
        outward = np.where(gradient < 0, x <= low, x >= high)
        direction = np.where(outward, 0.0, gradient * width)
        direction /= np.maximum(np.sqrt((direction * direction).sum(1, keepdims=True)), 1e-150)
        tried = np.where(is_free, np.minimum(np.maximum(x + size * direction * width, low), high), x)
        new, slope = value_and_gradient(tried)
        gains = (new > value)[:, None]
        x, gradient = np.where(gains, tried, x), np.where(gains, slope, gradient)
        value, size = np.maximum(new, value), np.where(gains, 1.5 * size, 0.3 * size)
    return points._replace(x=x), value


def log_success(
    known: Features, failed: Bool[ndarray, "n"], longest: Float[ndarray, "v"] | float = math.inf
) -> Callable[[Features], Float[ndarray, "q"]]:
    """A function of points: log of the probability that evaluations there fail less often than not, or than elsewhere.

    By a process of what failed, with the prior's lengths, but ``longest`` at most (logarithms), and noise: a failure
    here and there says little.
    """
    if failed.all() or not failed.any():
        return lambda points: np.zeros(len(points.x))
    known_prior = prior(int(known.owner[-1]) + 1)
    theta = known_prior.mean.copy()
    theta[:-3], theta[-2] = np.minimum(theta[:-3], longest), math.log(_CHANCE)
    process = conditioned(known, failed.astype(np.float64), theta, known_prior)
    share, deviation = float(failed.mean()), float(failed.std())

    def log_share(points: Features) -> Float[ndarray, "q"]:
        mean, variance = process.at(points)
        value, slope = log_h((max(0.5, share) - share - deviation * mean) / (deviation * np.sqrt(variance)))
        return value + np.log(slope)  # Phi

    return log_share


def among(points: Float[ndarray, "n v"], others: Float[ndarray, "m v"]) -> Bool[ndarray, "n"]:
    """Which of the points are among others."""
    known = set(_bytes(others))
    return np.array([row in known for row in _bytes(points)], dtype=bool)


def _bytes(points: Float[ndarray, "n v"]) -> list[bytes]:
    size = points.shape[1] * points.itemsize
    whole = points.tobytes()
    return [whole[i : i + size] for i in range(0, len(whole), size)]
