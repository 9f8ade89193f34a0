"""Gaussian processes over numbers and choices, with hyperparameters of greatest posterior density.

Source: Rasmussen & Williams 2006, "Gaussian Processes for Machine Learning", chapters 2 and 5.4; Wan et al. 2021,
"Casmopolitan" (arXiv:2102.07188), section 3, for the factor of choices; Snelson, Rasmussen & Ghahramani 2003, "Warped
Gaussian processes", for values of which only the order is to be trusted. With x numbers in [0, 1], u = 2 x - 1, and h
choices:

    kernel     k(p, q) = m(r) prod_j exp(-[h_j != h'_j] / l_j) + tau (1 + u . u')^2
               m(r) = (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r),   r^2 = sum_i (x_i - x'_i)^2 / l_i^2:
               Matern with nu = 5/2
    values     y(t) = log(1 + lambda t) / lambda, standardized, for t >= 0;   y = f + noise,   cov(y) = s2 (k + eta I)
    posterior  of theta = log(l, tau, eta, lambda), normal each, with s2 at its best under an inverse gamma prior;
               some steps of BFGS with the gradient, O(n^3 + n^2 d)

tau (1 + u . u')^2 is the kernel of all quadratics, which the rest deviates from: near a smooth minimum they are
nearly everything. lambda tells whether differences of large values count (0) or hardly do (large).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    from jaxtyping import Float, Int

ROOT5 = math.sqrt(5.0)
LEAST_NOISE = math.log(1e-12)  # of log eta; with less K is not positive definite in float64
LEAST_VARIANCE = 1e-14  # in units of s2


class Points(NamedTuple):
    """Points of a mixed space."""

    x: Float[ndarray, "n m"]
    """Numbers in [0, 1]."""
    h: Float[ndarray, "n k"]
    """Choices, one-hot, side by side."""
    choice: Int[ndarray, "k"]
    """The choice, from 0, that each column of h belongs to."""

    def rows(self, index: Int[ndarray, "q"] | slice) -> Points:
        return Points(self.x[index], self.h[index], self.choice)


class Prior(NamedTuple):
    """Of theta: the logarithms of the lengths of numbers, then of choices, and of tau, eta and lambda."""

    mean: Float[ndarray, "p"]
    deviation: Float[ndarray, "p"]
    weight: float
    """Number of values that the prior of s2, which is about 1, counts for."""


class Process(NamedTuple):
    """A Gaussian process after its values."""

    seen: Points
    y: Float[ndarray, "n"]
    theta: Float[ndarray, "p"]
    s2: float
    root: Float[ndarray, "n n"]
    """Inverse of the lower Cholesky factor of K = k + eta I."""
    alpha: Float[ndarray, "n"]
    """K^-1 y."""

    def at(self, points: Points) -> tuple[Float[ndarray, "q"], Float[ndarray, "q"]]:
        """Mean and variance of f at each point."""
        k = covariance(points, self.seen, self.theta)
        variance = diagonal(points, self.theta) - ((k @ self.root.T) ** 2).sum(1)
        return k @ self.alpha, self.s2 * np.maximum(variance, LEAST_VARIANCE)

    def jointly(self, points: Points) -> tuple[Float[ndarray, "q"], Float[ndarray, "q q"]]:
        """Mean and covariance of f at all points."""
        k = covariance(points, self.seen, self.theta)
        half = k @ self.root.T
        return k @ self.alpha, self.s2 * (covariance(points, points, self.theta) - half @ half.T)

    def slopes(
        self, points: Points
    ) -> tuple[Float[ndarray, "q"], Float[ndarray, "q"], Float[ndarray, "q m"], Float[ndarray, "q m"]]:
        """Mean and variance of f at each point, and the gradients of both by its numbers."""
        theta, seen = self.theta, self.seen
        r, fall = decay(points, seen, theta)
        u, v, dot, tau = 2 * points.x - 1, 2 * seen.x - 1, _dot(points, seen), math.exp(_tail(theta)[0])
        k = (1 + r + r * r / 3) * fall + tau * dot**2
        solved = (k @ self.root.T) @ self.root
        matern = -5 / 3 * (1 + r) * fall  # its derivative by x is this, times (x - x') / l^2

        def gradient(weights: Float[ndarray, "q n"]) -> Float[ndarray, "q m"]:
            w = weights * matern
            by_matern = (points.x * w.sum(1)[:, None] - w @ seen.x) * np.exp(-2 * theta[: points.x.shape[1]])
            return by_matern + 4 * tau * (weights * dot) @ v

        alone = 8 * tau * (1 + (u * u).sum(1))[:, None] * u  # of the variance without values
        variance = np.maximum(diagonal(points, theta) - (k * solved).sum(1), LEAST_VARIANCE)
        by_mean = gradient(np.broadcast_to(self.alpha, k.shape))
        return k @ self.alpha, self.s2 * variance, by_mean, self.s2 * (alone - 2 * gradient(solved))

    def believing(self, points: Points) -> Process:
        """The process after further values, each equal to its mean: mean as it was, less variance around them."""
        seen = Points(np.vstack([self.seen.x, points.x]), np.vstack([self.seen.h, points.h]), points.choice)
        root = _root(seen, self.theta)
        y = np.concatenate([self.y, self.at(points)[0]])
        return Process(seen, y, self.theta, self.s2, root, root.T @ (root @ y))


def _tail(theta: Float[ndarray, "p"]) -> Float[ndarray, "3"]:
    """log tau, log eta and log lambda."""
    return theta[-3:]


def _dot(a: Points, b: Points) -> Float[ndarray, "n q"]:
    return 1 + (2 * a.x - 1) @ (2 * b.x - 1).T


def decay(a: Points, b: Points, theta: Float[ndarray, "p"]) -> tuple[Float[ndarray, "n q"], Float[ndarray, "n q"]]:
    """sqrt(5) r between points, and exp(-sqrt(5) r) times the factor of choices."""
    m = a.x.shape[1]
    x, z = a.x * np.exp(-theta[:m]), b.x * np.exp(-theta[:m])
    squares = (x * x).sum(1)[:, None] + (z * z).sum(1) - 2 * x @ z.T
    r = ROOT5 * np.sqrt(np.maximum(squares, 0.0))
    if a.h.shape[1] == 0:
        return r, np.exp(-r)
    inverse = np.exp(-theta[m:-3])
    return r, np.exp((a.h * inverse[a.choice]) @ b.h.T - inverse.sum() - r)


def covariance(a: Points, b: Points, theta: Float[ndarray, "p"]) -> Float[ndarray, "n q"]:
    """k between points."""
    r, fall = decay(a, b, theta)
    return (1 + r + r * r / 3) * fall + math.exp(_tail(theta)[0]) * _dot(a, b) ** 2


def diagonal(a: Points, theta: Float[ndarray, "p"]) -> Float[ndarray, "n"]:
    """k between each point and itself."""
    return 1 + math.exp(_tail(theta)[0]) * (1 + ((2 * a.x - 1) ** 2).sum(1)) ** 2


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


def conditioned(seen: Points, t: Float[ndarray, "n"], theta: Float[ndarray, "p"], prior: Prior) -> Process:
    """The process after the values, with hyperparameters theta and the best s2."""
    y, root = warped(t, theta[-1])[0], _root(seen, theta)
    half = root @ y
    return Process(seen, y, theta, _s2(half, prior), root, root.T @ half)


def _root(seen: Points, theta: Float[ndarray, "p"]) -> Float[ndarray, "n n"]:
    """Inverse of the lower Cholesky factor of K."""
    k = covariance(seen, seen, theta)
    k[np.diag_indices_from(k)] = diagonal(seen, theta) + math.exp(_tail(theta)[1])
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
    seen: Points, t: Float[ndarray, "n"], theta: Float[ndarray, "p"], prior: Prior
) -> tuple[float, Float[ndarray, "p"]]:
    """Minus the logarithm of the posterior density of theta, up to a constant, and its gradient.

    The gradient by s2 is zero where s2 is best. Infinite where K is not positive definite.
    """
    n, m = seen.x.shape
    tau, eta = np.exp(_tail(theta)[:2])
    y, volume, y_slope, volume_slope = warped(t, theta[-1])
    r, fall = decay(seen, seen, theta)
    matern, quadratic = (1 + r + r * r / 3) * fall, tau * _dot(seen, seen) ** 2
    k = matern + quadratic
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
    by_r = weights * (5 / 3 * (1 + r) * fall)  # dK / dlog l_i is the bracket, times (x_i - x'_i)^2 / l_i^2
    x = seen.x * np.exp(-theta[:m])
    gradient = z / prior.deviation
    gradient[:m] += (x * x * by_r.sum(1)[:, None]).sum(0) - (x * (by_r @ x)).sum(0)
    if choices := len(theta) - m - 3:
        by_h = weights * matern
        agreeing = np.bincount(seen.choice, (seen.h * (by_h @ seen.h)).sum(0), choices)
        gradient[m:-3] += 0.5 * np.exp(-theta[m:-3]) * (by_h.sum() - agreeing)
    gradient[-3:] += (
        0.5 * float((weights * quadratic).sum()),
        0.5 * eta * float(np.trace(weights)),
        float(alpha @ y_slope) / s2 - volume_slope,
    )
    return fit - volume + 0.5 * float(z @ z), gradient


def fitted(
    seen: Points, t: Float[ndarray, "n"], theta: Float[ndarray, "p"], prior: Prior, steps: int
) -> Float[ndarray, "p"]:
    """theta of less loss, after at most so many steps of BFGS."""
    value, gradient = loss(seen, t, theta, prior)
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
