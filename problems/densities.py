"""Targets of sampling by consensus: negative log densities whose constants and moments are known.

Both are normalized: ``exp(-f)`` integrates to 1. ``f`` is computed for arrays (..., d) of any library from one text, in
their dtype, also under ``jit`` and ``vmap``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.arrays import Array, Key, described, namespace
from blackbox.errors import SettingError
from blackbox.kernels.arguments import require_count
from blackbox.kernels.noise import normal, uniform

from .landscapes import like, numbers, product, real_points, total
from .streams import data_key

if TYPE_CHECKING:
    from jaxtyping import Float

    Values = float | Sequence[Any] | np.ndarray


@dataclass(frozen=True)
class GaussianMixture:
    """The negative log density of a mixture of normal distributions.

    Args:
        means: (k, d), one of each component.
        covariances: (k, d, d); or (k,) variances, or one for all, of components that are alike in all directions.
        weights: (k,) positive numbers, divided by their sum; by default all components weigh the same.

    Raises:
        SettingError: shapes that do not fit each other, a covariance that is not symmetric and positive definite, a
            weight that is not positive; on a call, points of a wrong shape.

    Example:
        >>> target = GaussianMixture([[-2.0, 0.0], [2.0, 0.0]], 0.25)
        >>> target.mean.tolist(), target.covariance.tolist()
        ([0.0, 0.0], [[4.25, 0.0], [0.0, 0.25]])
        >>> target.sample(bb.key(0), 1000).shape
        (1000, 2)
    """

    means: Values
    covariances: Values = 1.0
    weights: Values | None = None

    def __post_init__(self) -> None:
        means = _array("means", self.means)
        if means.ndim != 2 or 0 in means.shape:
            raise SettingError(f"means must be of shape (k, d), got {described(means)}")
        k, d = means.shape
        covariances = _array("covariances", self.covariances)
        if covariances.ndim < 2 and covariances.shape in ((), (k,)):
            covariances = np.broadcast_to(covariances, k)[:, None, None] * np.eye(d)
        if covariances.shape != (k, d, d):
            raise SettingError(
                f"covariances must be a number or of shape ({k},) or {(k, d, d)}, got {self.covariances!r}"
            )
        if not np.allclose(covariances, covariances.mT) or not (np.linalg.eigvalsh(covariances) > 0.0).all():
            raise SettingError(f"covariances must be symmetric and positive definite, got {self.covariances!r}")
        weights = np.array(numbers("weights", 1.0 if self.weights is None else self.weights, k))
        if not (weights > 0.0).all():
            raise SettingError(f"weights must be positive, got {self.weights!r}")
        # Tuples have a hash, by which a program compiled for this target is found again.
        object.__setattr__(self, "means", _tuples(means))
        object.__setattr__(self, "covariances", _tuples(covariances))
        object.__setattr__(self, "weights", _tuples(weights / weights.sum()))

    @property
    def d(self) -> int:
        """Number of variables."""
        return self._centers.shape[1]

    @cached_property
    def mean(self) -> Float[np.ndarray, "d"]:
        """Of the mixture."""
        return np.asarray(self.weights) @ self._centers

    @cached_property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """Of the mixture: the mean of the components' own, and the spread of their means."""
        weights, offsets = np.asarray(self.weights), self._centers - self.mean
        return np.tensordot(weights, np.asarray(self.covariances), 1) + (weights * offsets.T) @ offsets

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        """Minus the logarithm of the density at each point."""
        x = real_points(x, self.d)
        xp, (matrix, shift, height) = namespace(x), self._whitening
        with np.errstate(all="ignore"):  # far away infinity is the right answer
            z = xp.reshape(product(x, matrix) - like(x, shift), (*x.shape[:-1], *self._centers.shape))
            exponents = like(x, height) - 0.5 * total(z * z)  # (..., k)
            highest = xp.max(exponents, axis=-1)
            rest = xp.sum(xp.exp(exponents - highest[..., None]), axis=-1)
            # Where no component has a density that is a number: too far, unless x itself is none.
            unknown = xp.sum(xp.abs(x), axis=-1)
            beyond = xp.where(xp.isnan(unknown), unknown, xp.asarray(xp.inf, dtype=x.dtype))
            return xp.where(highest > -xp.inf, -(highest + xp.log(rest)), beyond)

    def sample(self, key: Key, n: int) -> Float[Array, "n d"]:
        """Independent points, in the library of the key and its default dtype."""
        require_count("n", n)
        xp = namespace(key)
        zero, key = xp.asarray(0.0), data_key(key)
        normals = normal(key, 0, (n, self.d), like=zero)
        uniforms = uniform(key, 0, (n, 1), leaf=1, like=zero)
        below = uniforms > like(zero, np.cumsum(np.asarray(self.weights))[:-1])  # (n, k - 1)
        chosen = xp.sum(xp.astype(below, xp.int32), axis=-1)
        roots = xp.take(like(zero, self._roots), chosen, axis=0)  # (n, d, d)
        centers = xp.take(like(zero, self._centers), chosen, axis=0)
        return centers + xp.sum(roots * normals[:, None, :], axis=-1)

    @cached_property
    def _centers(self) -> Float[np.ndarray, "k d"]:
        return np.asarray(self.means)

    @cached_property
    def _roots(self) -> Float[np.ndarray, "k d d"]:
        return np.linalg.cholesky(np.asarray(self.covariances))

    @cached_property
    def _whitening(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One matrix (d, k d) and shift (k d,) for all components, and the logarithms of their heights (k,)."""
        inverses = np.linalg.inv(self._roots)
        k, d = self._centers.shape
        heights = np.log(np.diagonal(inverses, axis1=1, axis2=2)).sum(-1) - 0.5 * d * math.log(2.0 * math.pi)
        shift = (inverses @ self._centers[:, :, None]).reshape(k * d)
        return inverses.reshape(k * d, d).T, shift, heights + np.log(np.asarray(self.weights))


@dataclass(frozen=True)
class TwoMoons:
    """The negative log density of two crescents that face each other.

    ``((r - radius) / width)^2 / 2 - log(g(x_1 - radius) + g(x_1 + radius))``, ``g(a) = exp(-(a / spread)^2 / 2)``, r
    the distance from 0, and a constant: the first test energy of Rezende & Mohamed 2015, arXiv:1505.05770.

    Args:
        radius: where the crescents lie.
        width: how thick they are.
        spread: how far along the circle they reach.

    Raises:
        SettingError: a number that is not finite and positive; on a call, points of a wrong shape.
    """

    radius: float = 2.0
    width: float = 0.4
    spread: float = 0.6

    def __post_init__(self) -> None:
        for name in ("radius", "width", "spread"):
            (value,) = numbers(name, getattr(self, name), 1)
            if value <= 0.0:
                raise SettingError(f"{name} must be positive, got {value!r}")
            object.__setattr__(self, name, value)

    @property
    def d(self) -> int:
        """Number of variables."""
        return 2

    @property
    def log_constant(self) -> float:
        """What is added to the formula above so that the density integrates to 1, within 1e-9."""
        return self._integrals[0]

    @property
    def mean(self) -> Float[np.ndarray, "2"]:
        """Of the density."""
        return np.zeros(2)

    @property
    def covariance(self) -> Float[np.ndarray, "2 2"]:
        """Of the density."""
        return np.diag(self._integrals[1:])

    def __call__(self, x: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
        """Minus the logarithm of the density at each point."""
        x = real_points(x, 2)
        with np.errstate(all="ignore"):  # far away infinity is the right answer
            return self._energy(namespace(x).sqrt(total(x * x)), x[..., 0]) + self.log_constant

    def _energy(self, distance: Float[Array, "*n"], first: Float[Array, "*n"]) -> Float[Array, "*n"]:
        xp, side = namespace(distance), namespace(distance).abs(first)
        ring, moon = (distance - self.radius) / self.width, (side - self.radius) / self.spread
        other = xp.log1p(xp.exp(-2.0 * self.radius / self.spread**2 * side))
        return 0.5 * (ring * ring + moon * moon) - other

    @cached_property
    def _integrals(self) -> tuple[float, float, float]:
        """The logarithm of the integral, and both variances, in polar coordinates."""
        nodes, weights = np.polynomial.legendre.leggauss(300)
        low, high = max(0.0, self.radius - 12.0 * self.width), self.radius + 12.0 * self.width
        r = (0.5 * (low + high) + 0.5 * (high - low) * nodes)[:, None]
        phi = np.arange(2048) * (2.0 * np.pi / 2048)
        x, y = r * np.cos(phi), r * np.sin(phi)
        mass = weights[:, None] * r * np.exp(-self._energy(np.broadcast_to(r, x.shape), x))
        whole = mass.sum()
        area = 0.5 * (high - low) * 2.0 * np.pi / 2048
        return math.log(whole * area), float((mass * x * x).sum() / whole), float((mass * y * y).sum() / whole)


def _array(name: str, value: Any) -> Float[np.ndarray, "..."]:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{name} must be an array of numbers, got {value!r}") from error
    if not np.isfinite(array).all():
        raise SettingError(f"{name} must be finite, got {value!r}")
    return array


def _tuples(array: Float[np.ndarray, "..."]) -> tuple[Any, ...]:
    return tuple(row.tolist() if row.ndim == 0 else _tuples(row) for row in array)
