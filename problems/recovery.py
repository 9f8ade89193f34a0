"""Recovery of a vector from few measurements: what constrained and mirrored consensus-based optimization is shown on.

:class:`SparseRecovery` is the example of MirrorCBO (Bungert, Hoffmann, Kim & Roith, arXiv:2501.12189; a notebook of
CBXpy), :class:`PhaseRetrieval` that of KV-CBO on the sphere (Fornasier, Huang, Pareschi & Sünnen 2021, JMLR 22). Their
data are drawn by :mod:`blackbox.kernels.noise` from the seed. Points are arrays (..., d) of any library, also under
``jit`` and ``vmap``; values are in their dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from blackbox.arrays import Array, namespace
from blackbox.errors import SettingError
from blackbox.kernels.arguments import require_count
from blackbox.kernels.noise import normal, uniform

from .landscapes import like, numbers, product, real_points, total
from .streams import seed_key

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True)
class SparseRecovery:
    """Least squares for a sparse vector: ``|A x - y|^2 / 2 + penalty |x|_1``, ``y = A x_true + noise``.

    A and the spikes are standard normal, and the spikes' places uniform. With fewer measurements than variables least
    squares alone has many minima; that the solution is sparse must come from the penalty or from the method.

    Args:
        d: number of variables.
        spikes: how many are not zero.
        measurements: rows m of A; by default d, as in CBXpy.
        noise: standard deviation of the measurements' errors.
        penalty: weight of the sum of absolute values.
        seed: of the data.

    Raises:
        SettingError: a number outside its range; on a call, points of a wrong shape.
    """

    d: int = 30
    spikes: int = 3
    measurements: int | None = None
    noise: float = 0.01
    penalty: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.d, self.measurements, self.noise)
        require_count("spikes", self.spikes, 1)
        if self.spikes > self.d:
            raise SettingError(f"spikes must be at most d = {self.d}, got {self.spikes!r}")
        _require_not_negative("penalty", self.penalty)
        seed_key(self.seed)
        object.__setattr__(self, "measurements", self.m)

    @property
    def m(self) -> int:
        """Number of measurements."""
        return self.d if self.measurements is None else self.measurements

    @cached_property
    def A(self) -> Float[np.ndarray, "m d"]:  # noqa: N802
        """The matrix."""
        return _normal(self.seed, 0, self.m, self.d)

    @cached_property
    def x_true(self) -> Float[np.ndarray, "d"]:
        """What is to be recovered; without errors and penalty a minimum."""
        order = uniform(seed_key(self.seed), 0, (self.d,), leaf=1, like=np.zeros(()))
        x = np.zeros(self.d)
        x[np.argsort(order, kind="stable")[: self.spikes]] = _normal(self.seed, 2, self.spikes)
        x.flags.writeable = False
        return x

    @cached_property
    def y(self) -> Float[np.ndarray, "m"]:
        """The measurements."""
        return self.A @ self.x_true + self.noise * _normal(self.seed, 3, self.m)

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        """The loss of each point."""
        x = real_points(x, self.d)
        with np.errstate(all="ignore"):  # far away infinity is the right answer
            error = product(x, self.A.T) - like(x, self.y)
            loss = 0.5 * total(error * error)
            return loss + self.penalty * total(namespace(x).abs(x)) if self.penalty else loss

    def distance(self, x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        """From what is to be recovered, in units of its length."""
        return _length(real_points(x, self.d), self.x_true) / float(np.linalg.norm(self.x_true))

    def recovered(self, x: Float[Array, "*n d"], within: float = 0.05) -> Bool[Array, "*n"]:
        """Whether each point is so near to it, in units of its length."""
        return self.distance(x) < within


@dataclass(frozen=True)
class PhaseRetrieval:
    """A unit vector from squared projections, without their signs: ``mean_i (<a_i, x>^2 - y_i)^2``.

    ``y_i = <a_i, x_true>^2 + noise``, a_i standard normal, x_true uniform on the sphere. ``x_true`` and ``-x_true``
    cannot be told apart. A method may stay on the sphere, and need not.

    Args:
        d: number of variables.
        measurements: how many; by default 6 d, as in KV-CBO's code.
        noise: standard deviation of the measurements' errors.
        seed: of the data.

    Raises:
        SettingError: a number outside its range; on a call, points of a wrong shape.
    """

    d: int = 32
    measurements: int | None = None
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.d, self.measurements, self.noise)
        seed_key(self.seed)
        object.__setattr__(self, "measurements", self.m)

    @property
    def m(self) -> int:
        """Number of measurements."""
        return 6 * self.d if self.measurements is None else self.measurements

    @cached_property
    def A(self) -> Float[np.ndarray, "m d"]:  # noqa: N802
        """The vectors a_i, in rows."""
        return _normal(self.seed, 0, self.m, self.d)

    @cached_property
    def x_true(self) -> Float[np.ndarray, "d"]:
        """What is to be recovered, up to its sign; without errors a minimum."""
        x = _normal(self.seed, 2, self.d)
        x = x / np.linalg.norm(x)
        x.flags.writeable = False
        return x

    @cached_property
    def y(self) -> Float[np.ndarray, "m"]:
        """The measurements."""
        return (self.A @ self.x_true) ** 2 + self.noise * _normal(self.seed, 3, self.m)

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        """The loss of each point."""
        x = real_points(x, self.d)
        with np.errstate(all="ignore"):  # far away infinity is the right answer
            projections = product(x, self.A.T)
            error = projections * projections - like(x, self.y)
            return total(error * error) / self.m

    def distance(self, x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        """From ``x_true`` or ``-x_true``, whichever is nearer."""
        x = real_points(x, self.d)
        return namespace(x).minimum(_length(x, self.x_true), _length(x, -self.x_true))

    def recovered(self, x: Float[Array, "*n d"], within: float = 0.05) -> Bool[Array, "*n"]:
        """Whether each point is so near to either."""
        return self.distance(x) < within


def _normal(seed: int, leaf: int, *shape: int) -> Float[np.ndarray, "..."]:
    values: np.ndarray = normal(seed_key(seed), 0, shape, leaf=leaf, like=np.zeros(()))
    return values


def _length(x: Float[Array, "*n d"], center: Float[np.ndarray, "d"]) -> Float[Array, "*n"]:
    offset = x - like(x, center)
    return namespace(x).sqrt(total(offset * offset))


def _require(d: int, measurements: int | None, noise: float) -> None:
    require_count("d", d, 1)
    if measurements is not None:
        require_count("measurements", measurements, 1)
    _require_not_negative("noise", noise)


def _require_not_negative(name: str, value: float) -> None:
    if numbers(name, value, 1)[0] < 0.0:
        raise SettingError(f"{name} must be at least 0, got {value!r}")
