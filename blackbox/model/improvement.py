"""The expected improvement on a value, as a logarithm that does not underflow, and its climb by the gradient.

Source: Ament et al. 2023, "Unexpected improvements to expected improvement" (arXiv:2310.20708), section 4.1. With z =
(best - mean) / deviation, phi and Phi the normal density and distribution:

    log EI = log deviation + log h(z),   h(z) = phi(z) + z Phi(z),   h'(z) = Phi(z)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from blackbox.model.covariance import ROOT5, Features
from blackbox.model.gaussian_process import Prediction, Process, conditioned, prior

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)
_LENGTH = 0.1  # of the first step, in widths
_LENGTHS = np.array([0.0, 0.1, 0.35, 1.0, 2.0, 5.0])  # of those that are tried, in units of the last one
_SHORTER = 0.1  # the next one after none was any good
_CHANCE = 0.5  # variance of the noise of failures
_FAR = -25.0  # below, phi + z Phi would cancel; the asymptotic series errs by 105 / z^6


def log_h(z: Float[ndarray, "n"]) -> tuple[Float[ndarray, "n"], Float[ndarray, "n"]]:
    """log h(z), and its derivative Phi(z) / h(z)."""
    near = np.maximum(z, _FAR)
    density = np.exp(-0.5 * near * near - _LOG_ROOT_2PI)
    distribution = np.array([0.5 * math.erfc(v) for v in (near / -math.sqrt(2.0)).tolist()])
    h = density + near * distribution
    value, slope = np.log(h), distribution / h
    if (is_far := z <= _FAR).any():
        far = z[is_far]
        value[is_far] = np.log1p(-3 / far**2 + 15 / far**4) - 2 * np.log(-far) - 0.5 * far * far - _LOG_ROOT_2PI
        slope[is_far] = -far
    return value, slope


def log_improvement(best: float, mean: Float[ndarray, "n"], variance: Float[ndarray, "n"]) -> Float[ndarray, "n"]:
    """log EI where the values have such means and variances, which are above zero."""
    deviation = np.sqrt(variance)
    return np.log(deviation) + log_h((best - mean) / deviation)[0]


def climbed(
    process: Process,
    x: Float[ndarray, "n f"],
    best: float,
    low: Float[ndarray, "f"] | float,
    high: Float[ndarray, "f"] | float,
    is_free: Bool[ndarray, "n f"],
    steps: int,
) -> tuple[Float[ndarray, "n f"], Float[ndarray, "n"]]:
    """Points of more expected improvement, and log EI there: steps along the gradient, the best of some lengths each.

    Only what is free moves, within its bounds.
    """
    low, high = np.where(is_free, low, x), np.where(is_free, high, x)
    width = np.minimum(high - low, ROOT5 / process.kernel.weights)  # no longer than the lengths of the process
    size, first = np.full(len(x), _LENGTH), np.arange(len(x)) * len(_LENGTHS)

    def seen(x: Float[ndarray, "m f"]) -> tuple[Prediction, ndarray, ndarray, ndarray]:
        """What is known, log EI, and its derivatives by the mean, and by the variance over s2."""
        known = process.prediction(x)
        deviation = np.sqrt(process.s2 * known.variance)
        z = (best - known.mean) / deviation
        value, slope = log_h(z)
        # log deviation has half of the gradient of the variance by the variance.
        return known, np.log(deviation) + value, -slope / deviation, 0.5 * (1 - slope * z) / known.variance

    known, value, by_mean, by_variance = seen(x)
    for _ in range(steps):
        gradient = process.gradient(known, by_mean, by_variance)
        outward = np.where(gradient < 0, x <= low, x >= high)
        direction = np.where(outward, 0.0, gradient * width)
        direction *= width / np.maximum(np.sqrt((direction * direction).sum(1, keepdims=True)), 1e-150)
        tried = x[:, None] + np.multiply.outer(size, _LENGTHS)[:, :, None] * direction[:, None]
        tried = np.minimum(np.maximum(tried, low[:, None]), high[:, None]).reshape(-1, x.shape[1])
        known, value, by_mean, by_variance = seen(tried)
        length = value.reshape(len(x), -1).argmax(1)
        at = first + length
        x, known, value, by_mean, by_variance = tried[at], known.rows(at), value[at], by_mean[at], by_variance[at]
        size *= np.where(length > 0, _LENGTHS[length], _SHORTER)
    return x, value


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


def among(points: Float[ndarray, "n v"], others: Set[bytes]) -> Bool[ndarray, "n"]:
    """Which of the points are among others, given as :func:`bytes_of` rows."""
    return np.array([row in others for row in bytes_of(points)], dtype=bool)


def bytes_of(points: Float[ndarray, "n v"]) -> list[bytes]:
    """Rows that can be looked up."""
    size = points.shape[1] * points.itemsize
    whole = points.tobytes()
    return [whole[i : i + size] for i in range(0, len(whole), size)]
