"""Gaussian processes over numbers and choices, with hyperparameters of greatest posterior density.

Source: Rasmussen & Williams 2006, "Gaussian Processes for Machine Learning", chapters 2 and 5.4; Snelson, Rasmussen &
Ghahramani 2003, "Warped Gaussian processes", for values of which only the order is to be trusted. With p, q features:
numbers in [0, 1], of which u = 2 p - 1, and one-hot choices, any two options of which are 1 apart:

    kernel     k(p, q) = (1 + r + r^2 / 3) exp(-r) + tau (1 + u . u')^2,   r^2 = 5 sum_i |p_i - q_i|^2 / l_i^2 with a
               length for each variable: Matern with nu = 5/2
    values     y(t) = log(1 + lambda t) / lambda, standardized, for t >= 0;   y = f + noise,   cov(y) = s2 (k + eta I)
    posterior  of theta = log(l, tau, eta, lambda), normal each, with s2 at its best under an inverse gamma prior;
               some steps of BFGS with the gradient, O(n^3 + n^2 d)

tau (1 + u . u')^2 is the kernel of all quadratics, which the rest deviates from: near a smooth minimum they are
nearly everything. lambda tells whether differences of large values count (0) or hardly do (large).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

ROOT5 = math.sqrt(5.0)
LEAST_NOISE = math.log(1e-12)  # of log eta; with less K is not positive definite in float64
LEAST_VARIANCE = 1e-14  # in units of s2
NOISY = math.log(0.05)  # log eta of the other start of a fit
NOTABLE = 0.01  # variance of the noise, of values of variance 1, from which on values are not taken as they are
_LARGEST = 1e30  # of t
_FIRST_STEPS, _STEPS = 30, 4  # of a fit
_RARELY = 16  # values between two fits, once there are many


class Features(NamedTuple):
    """Points of a mixed space."""

    x: Float[ndarray, "n f"]
    """Numbers in [0, 1], and of each choice an option's column at sqrt(1/2), the others at 0."""
    owner: Int[ndarray, "f"]
    """The variable, from 0, that each column belongs to."""
    is_number: Bool[ndarray, "f"]

    def rows(self, index: Int[ndarray, "q"] | Bool[ndarray, "n"] | slice) -> Features:
        return self._replace(x=self.x[index])

    @property
    def u(self) -> Float[ndarray, "n f"]:
        u = self.x + self.x
        u -= self.is_number
        return u if self.is_number.all() else u * self.is_number


class Prior(NamedTuple):
    """Of theta: the logarithms of the lengths of the variables, and of tau, eta and lambda."""

    mean: Float[ndarray, "p"]
    deviation: Float[ndarray, "p"]
    weight: float
    """Number of values that the prior of s2, which is about 1, counts for."""


def prior(variables: int) -> Prior:
    """Lengths grow with the root of the number of variables, so that distances do not; little noise."""
    length = 0.5 * math.log(variables) - 1.0
    return Prior(
        np.array([*[length] * variables, 0.0, -13.0, -2.0]), np.array([*[0.8] * variables, 2.0, 4.0, 2.0]), 1.0
    )


class Process(NamedTuple):
    """A Gaussian process after its values."""

    seen: Features
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
        mean, half = self.half(points)
        return mean, self.s2 * np.maximum(diagonal(points, self.theta) - (half * half).sum(1), LEAST_VARIANCE)

    def half(self, points: Features) -> tuple[Float[ndarray, "q"], Float[ndarray, "q n"]]:
        """Mean at each point, and what of its covariances is known: products of these rows."""
        k = covariance(points, self.seen, self.theta)
        return k @ self.alpha, k @ self.root.T

    def jointly(self, points: Features) -> tuple[Float[ndarray, "q"], Float[ndarray, "q q"]]:
        """Mean and covariance of f at all points."""
        mean, half = self.half(points)
        return mean, self.s2 * (covariance(points, points, self.theta) - half @ half.T)

    def slopes(self) -> Callable[[Float[ndarray, "q f"]], tuple[ndarray, ndarray, ndarray, ndarray]]:
        """A function: mean and variance of f at places, shape (q,), and the gradients of both by them, (q, f)."""
        seen, root, tau = self.seen, self.root, math.exp(self.theta[-3])
        weights, v, number = _weights(self.theta, seen), seen.u, seen.is_number
        scaled = seen.x * weights
        lengths = (scaled * scaled).sum(1)
        by_square = -weights * weights / 3  # the derivative of Matern by x is this, times (x - x') (1 + r) exp(-r)
        signs = np.array([1.0, -2.0])[:, None, None]

        def at(x: Float[ndarray, "q f"]) -> tuple[ndarray, ndarray, ndarray, ndarray]:
            y, u = x * weights, (2 * x - 1) * number
            r = np.sqrt(np.maximum((y * y).sum(1)[:, None] + lengths - 2 * y @ scaled.T, 0.0))
            fall, dot = np.exp(-r), 1 + u @ v.T
            k = (1 + r * (1 + r / 3)) * fall + tau * dot * dot
            solved = (k @ root.T) @ root
            both = np.stack([np.broadcast_to(self.alpha, k.shape), solved]) * signs
            w = both * ((1 + r) * fall)
            slopes = (x * w.sum(2)[..., None] - w @ seen.x) * by_square + (4 * tau) * ((both * dot) @ v)
            square = 1 + (u * u).sum(1)
            variance = self.s2 * np.maximum(1 + tau * square**2 - (k * solved).sum(1), LEAST_VARIANCE)
            alone = 8 * tau * square[:, None] * u  # of the variance without values
            return k @ self.alpha, variance, slopes[0], self.s2 * (alone + slopes[1])

        return at

    def believing(self, points: Features, y: Float[ndarray, "q"] | None = None) -> Process:
        """The process after further values ``y``, by default its means: these leave it, and take variance."""
        seen = self.seen._replace(x=np.concatenate([self.seen.x, points.x]))
        y = np.concatenate([self.y, self.at(points)[0] if y is None else y])
        root = _root(seen, self.theta)
        return self._replace(seen=seen, y=y, root=root, alpha=root.T @ (root @ y))


def decay(a: Features, b: Features, theta: Float[ndarray, "p"]) -> tuple[Float[ndarray, "n q"], Float[ndarray, "n q"]]:
    """r between points, and exp(-r)."""
    weights = _weights(theta, a)
    x, z = a.x * weights, b.x * weights
    r = (-2 * x) @ z.T
    r += (x * x).sum(1)[:, None] + (z * z).sum(1)
    np.sqrt(np.maximum(r, 0.0, out=r), out=r)
    return r, np.exp(-r)


def _weights(theta: Float[ndarray, "p"], points: Features) -> Float[ndarray, "f"]:
    """What features are multiplied with to be in units of r."""
    return ROOT5 * np.exp(-theta)[points.owner]


def covariance(a: Features, b: Features, theta: Float[ndarray, "p"]) -> Float[ndarray, "n q"]:
    """k between points."""
    r, fall = decay(a, b, theta)
    quadratic: Float[ndarray, "n q"] = (1 + a.u @ b.u.T) ** 2
    return (1 + r * (1 + r / 3)) * fall + math.exp(theta[-3]) * quadratic


def diagonal(a: Features, theta: Float[ndarray, "p"]) -> Float[ndarray, "n"]:
    """k between each point and itself."""
    u = a.u
    return 1 + math.exp(theta[-3]) * (1 + (u * u).sum(1)) ** 2


def relative(values: Float[ndarray, "n"]) -> Float[ndarray, "n"]:
    """t: finite values from 0 on, in units of the difference between the median and the least."""
    if values.max() == values.min():
        return np.zeros(len(values))
    t = values / np.abs(values).max()
    t -= t.min()
    return np.minimum(t / (float(np.median(t)) or t.max()), _LARGEST)


def warped(t: Float[ndarray, "n"], psi: float) -> tuple[Float[ndarray, "n"], float, Float[ndarray, "n"], float]:
    """y of values t >= 0 for log lambda = psi, and log |dy / dt|; both, and then their derivatives by psi."""
    scaled = math.exp(psi) * t
    g = np.log1p(scaled) * math.exp(-psi)
    center, deviation, n = g.mean(), g.std(), len(t)
    if not deviation > 0:
        return np.zeros(n), 0.0, np.zeros(n), 0.0
    y = (g - center) / deviation
    slope = t / (1 + scaled) - g
    slope = (slope - slope.mean()) / deviation
    along = float((y * slope).mean())
    volume = -float(np.log1p(scaled).sum()) - n * math.log(deviation)
    return y, volume, slope - y * along, -float((scaled / (1 + scaled)).sum()) - n * along


def conditioned(seen: Features, t: Float[ndarray, "n"], theta: Float[ndarray, "p"], prior: Prior) -> Process:
    """The process after the values, with hyperparameters theta and the best s2."""
    y, root = warped(t, theta[-1])[0], _root(seen, theta)
    half = root @ y
    return Process(seen, y, theta, _s2(half, prior), root, root.T @ half)


def _root(seen: Features, theta: Float[ndarray, "p"]) -> Float[ndarray, "n n"]:
    """Inverse of the lower Cholesky factor of K."""
    k = covariance(seen, seen, theta)
    k[np.diag_indices_from(k)] = diagonal(seen, theta) + math.exp(theta[-2])
    return inverse_of_lower(_factor(k))


def _factor(matrix: Float[ndarray, "n n"]) -> Float[ndarray, "n n"]:
    """The Cholesky factor, of a matrix with a larger diagonal where rounding has made this one indefinite."""
    scale = float(np.abs(np.diagonal(matrix)).max())
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
    if n <= 48:
        return np.tril(np.linalg.inv(factor))
    h = n // 2
    inverse = np.zeros_like(factor)
    inverse[:h, :h], inverse[h:, h:] = inverse_of_lower(factor[:h, :h]), inverse_of_lower(factor[h:, h:])
    inverse[h:, :h] = -inverse[h:, h:] @ (factor[h:, :h] @ inverse[:h, :h])
    return inverse


def loss(
    seen: Features, t: Float[ndarray, "n"], theta: Float[ndarray, "p"], prior: Prior
) -> tuple[float, Float[ndarray, "p"]]:
    """Minus the logarithm of the posterior density of theta, up to a constant, and its gradient.

    The gradient by s2 is zero where s2 is best. Infinite where K is not positive definite.
    """
    n = len(t)
    tau, eta = np.exp(theta[-3:-1])
    y, volume, y_slope, volume_slope = warped(t, theta[-1])
    r, fall = decay(seen, seen, theta)
    u = seen.u
    quadratic = tau * (1 + u @ u.T) ** 2
    k = (1 + r * (1 + r / 3)) * fall + quadratic
    k[np.diag_indices_from(k)] = diagonal(seen, theta) + eta
    try:
        factor = np.linalg.cholesky(k)
    except np.linalg.LinAlgError:
        return math.inf, np.zeros_like(theta)
    root = inverse_of_lower(factor)
    half = root @ y
    s2, alpha, z = _s2(half, prior), root.T @ half, (theta - prior.mean) / prior.deviation
    fit = 0.5 * (prior.weight + n) * math.log(s2) + float(np.log(np.diagonal(factor)).sum())

    weights = root.T @ root - np.multiply.outer(alpha, alpha) / s2  # twice the derivative by K
    by_r = weights * (1 + r) * fall  # dK / dlog l_i is 5 / 3 of (1 + r) exp(-r), times |p_i - q_i|^2 / l_i^2
    squared = 5 / 3 * np.exp(-2 * theta)[seen.owner]
    by_feature = squared * ((seen.x**2 * by_r.sum(1)[:, None]).sum(0) - (seen.x * (by_r @ seen.x)).sum(0))
    gradient = z / prior.deviation
    gradient[:-3] += np.bincount(seen.owner, by_feature, len(theta) - 3)
    gradient[-3:] += (
        0.5 * float(np.vdot(weights, quadratic)),
        0.5 * eta * float(np.trace(weights)),
        float(alpha @ y_slope) / s2 - volume_slope,
    )
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
    value, gradient = loss(seen, t, theta, prior)
    if (other := loss(seen, t, noisy, prior))[0] < value:
        theta, (value, gradient) = noisy, other
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
        s, g = tried - theta, slope - gradient
        theta, value, gradient = tried, new, slope
        if (curvature := float(s @ g)) > 1e-10:
            h = inverse @ g
            both = np.outer(h, s)
            inverse += ((1 + float(g @ h) / curvature) * np.outer(s, s) - both - both.T) / curvature
    return theta
