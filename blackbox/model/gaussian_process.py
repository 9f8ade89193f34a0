"""Gaussian processes over numbers and choices, with hyperparameters of greatest posterior density.

Source: Rasmussen & Williams 2006, "Gaussian Processes for Machine Learning", chapters 2 and 5.4; Snelson, Rasmussen &
Ghahramani 2003, "Warped Gaussian processes", for values of which only the order is to be trusted:

    kernel     k = (1 + r + r^2 / 3) exp(-r) + tau (1 + u . u')^2 (:mod:`blackbox.model.covariance`)
    values     y(t) = log(1 + lambda t) / lambda, standardized, for t >= 0;   y = f + noise,   cov(y) = s2 (k + eta I)
    posterior  of theta = log(l, tau, eta, lambda), normal each, with s2 at its best under an inverse gamma prior;
               some steps of BFGS with the gradient, O(n^3 + n^2 d)

tau (1 + u . u')^2 is the kernel of all quadratics, which the rest deviates from: near a smooth minimum they are
nearly everything. lambda tells whether differences of large values count (0) or hardly do (large).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.model.covariance import Features, Kernel, Parts, Placed

if TYPE_CHECKING:
    from jaxtyping import Float, Int

LEAST_NOISE = math.log(1e-12)  # of log eta; with less K is not positive definite in float64
LEAST_VARIANCE = 1e-14  # in units of s2
NOISY = math.log(0.05)  # log eta of the other start of a fit
NOTABLE = 0.01  # variance of the noise, of values of variance 1, from which on values are not taken as they are
_LARGEST = 1e30  # of t
_BORDER = 1e30  # more than y K^-1 y can be
_LOWER = np.tri(48)  # ones; the largest triangles that are not inverted by halves
_FIRST_STEPS, _STEPS = 30, 4  # of a fit
_RARELY = 16  # values between two fits, once there are many


class Prior(NamedTuple):
    """Of theta: the logarithms of the lengths of the variables, and of tau, eta and lambda."""

    mean: Float[ndarray, "p"]
    deviation: Float[ndarray, "p"]
    weight: float
    """Number of values that the prior of s2, which is about 1, counts for."""


@lru_cache(maxsize=64)
def prior(variables: int) -> Prior:
    """Lengths grow with the root of the number of variables, so that distances do not; little noise."""
    length = 0.5 * math.log(variables) - 1.0
    return Prior(
        np.array([*[length] * variables, 0.0, -13.0, -2.0]), np.array([*[0.8] * variables, 2.0, 4.0, 2.0]), 1.0
    )


class Prediction(NamedTuple):
    """What a process knows of points."""

    points: Placed
    parts: Parts
    half: Float[ndarray, "q n"]
    """What of their covariances is known: products of these rows."""
    mean: Float[ndarray, "q"]
    variance: Float[ndarray, "q"]
    """In units of s2."""

    def rows(self, index: Int[ndarray, "m"]) -> Prediction:
        parts = self.parts.rows(index)
        return Prediction(self.points.rows(index), parts, self.half[index], self.mean[index], self.variance[index])


class Process(NamedTuple):
    """A Gaussian process after its values."""

    kernel: Kernel
    seen: Placed
    y: Float[ndarray, "n"]
    theta: Float[ndarray, "p"]
    s2: float
    root: Float[ndarray, "n n"]
    """Inverse of the lower Cholesky factor of K = k + eta I."""
    alpha: Float[ndarray, "n"]
    """K^-1 y."""

    @property
    def eta(self) -> float:
        """The noise's variance, in units of s2."""
        return math.exp(self.theta[-2])

    @property
    def means(self) -> Float[ndarray, "n"]:
        """Of f at the seen points."""
        return self.y - self.eta * self.alpha

    def best(self, t: Float[ndarray, "n"]) -> int:
        """Of the seen points that of the least mean or, where there is next to no noise, of the least value ``t``."""
        return int(np.argmin(self.means if self.s2 * self.eta > NOTABLE else t))

    def at(self, points: Features) -> tuple[Float[ndarray, "q"], Float[ndarray, "q"]]:
        """Mean and variance of f at each point."""
        known = self.prediction(points.x)
        return known.mean, self.s2 * known.variance

    def prediction(self, x: Float[ndarray, "q f"]) -> Prediction:
        """From features."""
        points = self.kernel.placed(x)
        parts = self.kernel.between(points, self.seen)
        k = parts.k
        half = k @ self.root.T
        variance = points.variance - np.einsum("qn,qn->q", half, half)
        return Prediction(points, parts, half, k @ self.alpha, np.maximum(variance, LEAST_VARIANCE))

    def gradient(
        self, known: Prediction, by_mean: Float[ndarray, "q"], by_variance: Float[ndarray, "q"]
    ) -> Float[ndarray, "q f"]:
        """Gradient by the features, of a function with such derivatives by the mean and by the variance over s2."""
        weights = np.multiply.outer(by_mean, self.alpha) - (2.0 * by_variance)[:, None] * (known.half @ self.root)
        alone = (4.0 * by_variance * known.points.square)[:, None] * known.points.u * self.kernel.tilt
        return alone + self.kernel.slopes(known.points, self.seen, known.parts, weights)

    def jointly(self, points: Features) -> tuple[Float[ndarray, "q"], Float[ndarray, "q q"]]:
        """Mean and covariance of f at all points."""
        known = self.prediction(points.x)
        k = self.kernel.between(known.points, known.points).k
        return known.mean, self.s2 * (k - known.half @ known.half.T)

    def believing(self, points: Features, y: Float[ndarray, "q"] | None = None) -> Process:
        """The process after further values ``y``, by default its means: these leave it, and take variance."""
        known, n, more = self.prediction(points.x), len(self.y), len(points.x)
        rest = self.kernel.between(known.points, known.points).k - known.half @ known.half.T
        rest.flat[:: more + 1] += self.eta
        root = np.zeros((n + more, n + more))
        root[:n, :n] = self.root
        root[n:, n:] = inverse_of_lower(_factor(rest, float(known.points.variance.max())))
        root[n:, :n] = -root[n:, n:] @ (known.half @ self.root)
        y = np.concatenate([self.y, known.mean if y is None else y])
        return self._replace(seen=self.seen.joined(known.points), y=y, root=root, alpha=root.T @ (root @ y))


def relative(values: Float[ndarray, "n"]) -> Float[ndarray, "n"]:
    """t: finite values from 0 on, in units of the difference between the median and the least."""
    if values.max() == values.min():
        return np.zeros(len(values))
    t = values / np.abs(values).max()
    t -= t.min()
    middle = np.sort(t)[[(len(t) - 1) // 2, len(t) // 2]]
    return np.minimum(t / (0.5 * float(middle.sum()) or t.max()), _LARGEST)


def warped(t: Float[ndarray, "n"], psi: float) -> tuple[Float[ndarray, "n"], float, Float[ndarray, "n"], float]:
    """y of values t >= 0 for log lambda = psi, and log |dy / dt|; both, and then their derivatives by psi."""
    scaled = math.exp(psi) * t
    g = np.log1p(scaled) * math.exp(-psi)
    n = len(t)
    y = g - g.sum() / n
    if not (deviation := math.sqrt(float(y @ y) / n)) > 0:
        return np.zeros(n), 0.0, np.zeros(n), 0.0
    y /= deviation
    slope = t / (1 + scaled) - g
    slope = (slope - slope.sum() / n) / deviation
    along = float(y @ slope) / n
    volume = -float(np.log1p(scaled).sum()) - n * math.log(deviation)
    return y, volume, slope - y * along, -float((scaled / (1 + scaled)).sum()) - n * along


def conditioned(seen: Features, t: Float[ndarray, "n"], theta: Float[ndarray, "p"], prior: Prior) -> Process:
    """The process after the values, with hyperparameters theta and the best s2."""
    kernel, y = Kernel.of(theta, seen), warped(t, theta[-1])[0]
    placed = kernel.placed(seen.x)
    k = _with_noise(kernel.between(placed, placed).k, placed, theta)
    root = inverse_of_lower(_factor(k, float(placed.variance.max())))
    half = root @ y
    return Process(kernel, placed, y, theta, _s2(half, prior), root, root.T @ half)


def _with_noise(k: Float[ndarray, "n n"], seen: Placed, theta: Float[ndarray, "p"]) -> Float[ndarray, "n n"]:
    """K of k, whose diagonal is exact."""
    k.flat[:: len(k) + 1] = seen.variance + math.exp(theta[-2])
    return k


def _factor(matrix: Float[ndarray, "n n"], scale: float) -> Float[ndarray, "n n"]:
    """The Cholesky factor, of a matrix with a larger diagonal where rounding has made this one indefinite."""
    for more in (0.0, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2):
        try:
            return np.linalg.cholesky(matrix + more * scale * np.eye(len(matrix)) if more else matrix)
        except np.linalg.LinAlgError:
            continue
    raise AssertionError("not a matrix of covariances")


def _s2(half: Float[ndarray, "n"], prior: Prior) -> float:
    return float((prior.weight + half @ half) / (prior.weight + len(half)))


def inverse_of_lower(factor: Float[ndarray, "n n"]) -> Float[ndarray, "n n"]:
    """The inverse of a lower triangular matrix by halves, a third of the work of a general one."""
    n = len(factor)
    if n <= len(_LOWER):
        inverse = np.linalg.inv(factor)
        inverse *= _LOWER[:n, :n]
        return inverse
    h = n // 2
    inverse = np.zeros_like(factor)
    inverse[:h, :h], inverse[h:, h:] = inverse_of_lower(factor[:h, :h]), inverse_of_lower(factor[h:, h:])
    inverse[h:, :h] = -inverse[h:, h:] @ (factor[h:, :h] @ inverse[:h, :h])
    return inverse


def loss(
    seen: Features, t: Float[ndarray, "n"], theta: Float[ndarray, "p"], prior: Prior
) -> tuple[float, Callable[[], Float[ndarray, "p"]]]:
    """Minus the logarithm of the posterior density of theta, up to a constant, and what computes its gradient.

    The gradient by s2 is zero where s2 is best. Infinite where K is not positive definite.
    """
    n, kernel = len(t), Kernel.of(theta, seen)
    y, volume, y_slope, volume_slope = warped(t, theta[-1])
    placed = kernel.placed(seen.x)
    parts = kernel.between(placed, placed)
    bordered = np.empty((n + 1, n + 1))
    bordered[:n, :n] = _with_noise(parts.k, placed, theta)
    bordered[n, :n], bordered[n, n] = y, _BORDER
    try:
        factor = np.linalg.cholesky(bordered)
    except np.linalg.LinAlgError:
        return math.inf, lambda: np.zeros_like(theta)
    half, factor = factor[n, :n], factor[:n, :n]  # L^-1 y, L
    s2, z = _s2(half, prior), (theta - prior.mean) / prior.deviation
    fit = 0.5 * (prior.weight + n) * math.log(s2) + float(np.log(np.diagonal(factor)).sum())

    def gradient() -> Float[ndarray, "p"]:
        root = inverse_of_lower(factor)
        alpha = root.T @ half
        weights = root.T @ root  # twice the derivative by K
        weights -= np.multiply.outer(alpha, alpha / s2)
        by_square = (1.0 + parts.r) * parts.fall  # dK / dlog l_i is a third of this, times |p_i - q_i|^2 / l_i^2
        by_square *= weights
        by_feature = (placed.z * (by_square.sum(1)[:, None] * placed.z - by_square @ placed.z)).sum(0) / 3
        slope = z / prior.deviation
        slope[:-3] += np.bincount(seen.owner, by_feature, len(theta) - 3)
        slope[-3:] += (
            0.5 * float(np.vdot(weights, parts.quadratic * parts.quadratic)),
            0.5 * math.exp(theta[-2]) * float(np.trace(weights)),
            float(alpha @ y_slope) / s2 - volume_slope,
        )
        return slope

    return fit - volume + 0.5 * float(z @ z), gradient


def steps_due(told: int, fitted_at: int) -> int:
    """Steps of the fit that is due after so many values, if the last one was after ``fitted_at``; 0 for none."""
    if not fitted_at:
        return _FIRST_STEPS
    return _STEPS if told - fitted_at >= min(max(1, told // 10), _RARELY) else 0


def fitted(
    seen: Features, t: Float[ndarray, "n"], theta: Float[ndarray, "p"], prior: Prior, steps: int
) -> Float[ndarray, "p"]:
    """theta of less loss, after at most so many steps of BFGS, from ``theta`` or from the prior's mean with noise.

    Without noise, lengths become short to explain it, and no small step leads from there to noise.
    """
    noisy = prior.mean.copy()
    noisy[-2] = NOISY
    value, slope = loss(seen, t, theta, prior)
    if (other := loss(seen, t, noisy, prior))[0] < value:
        theta, (value, slope) = noisy, other
    gradient = slope()
    start = np.diag(1 / (0.5 + prior.deviation**-2.0))
    inverse = start.copy()
    for _ in range(steps):
        step = -inverse @ gradient
        if float(step @ gradient) > -1e-4:
            break
        step *= min(1.0, 2.0 / float(np.abs(step).max()))  # a factor of e^2 at most
        for _ in range(6):
            tried = theta + step
            tried[-2] = max(tried[-2], LEAST_NOISE)
            new, slope = loss(seen, t, tried, prior)
            if new <= value + 1e-4 * float(gradient @ (tried - theta)):
                break
            step *= 0.3
        else:
            if np.array_equal(inverse, start):
                break
            inverse = start.copy()  # what was learned of the curvature elsewhere leads nowhere
            continue
        s, g = tried - theta, (new_gradient := slope()) - gradient
        theta, value, gradient = tried, new, new_gradient
        if (curvature := float(s @ g)) > 1e-10:
            h = inverse @ g
            both = np.outer(h, s)
            inverse += ((1 + float(g @ h) / curvature) * np.outer(s, s) - both - both.T) / curvature
    return theta
