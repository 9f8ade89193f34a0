"""The noisy suite ``bbob-noisy``: ten BBOB functions, each under three models of noise.

Source: Hansen, Finck, Ros, Auger 2009, "Real-parameter black-box optimization benchmarking 2009: noisy functions
definitions" (INRIA RR-6869), as COCO's code has it: 1.01e-8 is added everywhere, and the constant 1000 alpha of
the Cauchy model too. Noise comes from a key and the member's number, as in a strategy, not from hidden state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy import ndarray

from blackbox.kernels import noise

from . import bbob
from .bbob import Array, Draws, Landscape, Namespace

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32

# Name, noise-free function, and the number whose draws it takes; three functions each, one per model of noise.
_FUNCTIONS: tuple[tuple[str, Callable[[Draws], Landscape], int], ...] = (
    ("Sphere, moderate", bbob.sphere, 1),
    ("Rosenbrock, moderate", bbob.rosenbrock, 8),
    ("Sphere", bbob.sphere, 1),
    ("Rosenbrock", bbob.rosenbrock, 8),
    ("Step ellipsoid", bbob.step_ellipsoid, 7),
    ("Ellipsoid", lambda s: bbob.ellipsoid_rotated(s, s.power(1e4)), 10),
    ("Different powers", bbob.different_powers, 14),
    ("Schaffer F7", bbob.schaffer, 17),
    ("Griewank-Rosenbrock", lambda s: bbob.griewank_rosenbrock(s, 1.0), 19),
    ("Gallagher, 101 peaks", lambda s: bbob.gallagher(s, 101), 21),
)


def _gaussian(xp: Namespace, f: Array, normals: Array, uniforms: Array, d: int, moderate: bool) -> Array:
    """``f exp(beta N)``"""
    return f * xp.exp((0.01 if moderate else 1.0) * normals[..., 0])


def _uniform(xp: Namespace, f: Array, normals: Array, uniforms: Array, d: int, moderate: bool) -> Array:
    """``f U_1^beta max(1, (10^9 / f)^(alpha U_2))``: worse near the optimum, to which it does not lead"""
    severity = 0.01 if moderate else 1.0
    alpha = severity * (0.49 + 1.0 / d)
    growth = (1e9 / xp.maximum(f, 1e-30)) ** (alpha * uniforms[..., 1])
    return f * uniforms[..., 0] ** severity * xp.maximum(growth, 1.0)


def _cauchy(xp: Namespace, f: Array, normals: Array, uniforms: Array, d: int, moderate: bool) -> Array:
    """``f + alpha max(0, 1000 + [U < p] N_1 / |N_2|)``: rare outliers, good ones too"""
    alpha, p = (0.01, 0.05) if moderate else (1.0, 0.2)
    ratio = normals[..., 0] / xp.maximum(xp.abs(normals[..., 1]), 1e-30)
    return f + alpha * xp.maximum(1000.0 + xp.where(uniforms[..., 0] < p, ratio, 0.0), 0.0)


_MODELS = (("Gaussian", _gaussian), ("uniform", _uniform), ("Cauchy", _cauchy))


@dataclass(frozen=True, eq=False)
class NoisyBBOB:
    """One problem of COCO's suite ``bbob-noisy``.

    Callable on a point (d,) or a batch (n, d) of NumPy or JAX, with a key: the same points and key give the same
    values, in NumPy and JAX; member i's noise depends on the key and i alone. Use a new key for every call, such as
    ``noise.fold(key, generation)``.

    Args:
        function: 101 to 130; 101 to 106 have moderate noise. 101, 104, ... are under Gaussian noise, 102, 105, ...
            under uniform, 103, 106, ... under Cauchy noise.
        dimension: number of variables d, 2 to 40.
        instance: COCO's instance number, at least 1.

    Raises:
        SettingError: an argument outside its range; on a call, points of a wrong shape.

    Example:
        >>> problem = NoisyBBOB(107, 5)
        >>> value = problem([0.0] * 5, noise.key(1))
        >>> bool(value != problem.noiseless([0.0] * 5))
        True
    """

    function: int
    dimension: int
    instance: int = 1
    bounds: ClassVar[tuple[float, float]] = (-5.0, 5.0)

    def __post_init__(self) -> None:
        bbob.check_integer("function", self.function, 101, 130)
        bbob.check_integer("dimension", self.dimension, 2, 40)
        bbob.check_integer("instance", self.instance, 1)

    @cached_property
    def landscape(self) -> Landscape:
        """The function without noise, boundary penalty and optimal value."""
        _, build, number = _FUNCTIONS[(self.function - 101) // 3]
        landscape = replace(build(Draws(self.dimension, number + 10000 * self.instance)), penalty=0.0)
        landscape.x_opt.flags.writeable = False
        return landscape

    @property
    def name(self) -> str:
        return f"{_FUNCTIONS[(self.function - 101) // 3][0]}, {_MODELS[(self.function - 101) % 3][0]} noise"

    @cached_property
    def f_opt(self) -> float:
        """The smallest value without noise, up to rounding."""
        return bbob.optimal_value(_FUNCTIONS[(self.function - 101) // 3][2] + 10000 * self.instance)

    @property
    def x_opt(self) -> Float[ndarray, "d"]:
        """A point of that value."""
        return self.landscape.x_opt

    def noiseless(self, x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        """Values without noise; outside the box with its penalty, ``100 f_pen``."""
        return self._base(x)

    def __call__(self, x: Float[Array, "*n d"], key: UInt32[Array, "2"]) -> Float[Array, "*n"]:
        """Noisy values (n,) of a batch (n, d), or the value of one point (d,), which has the noise of member 0.

        Args:
            x: the points.
            key: as `blackbox.kernels.noise.key` and ``fold`` give it.
        """
        x = bbob.as_points(x, self.dimension)
        xp = x.__array_namespace__()
        shape = (x.shape[0] if x.ndim == 2 else 1, 2)
        normals = noise.normal(key, 0, shape, leaf=0, like=x)
        uniforms = noise.uniform(key, 0, shape, leaf=1, like=x)
        if x.ndim == 1:
            normals, uniforms = normals[0], uniforms[0]
        return self._noisy(xp, x, normals, uniforms)

    def _noisy(self, xp: Namespace, x: Array, normals: Array, uniforms: Array) -> Array:
        model = _MODELS[(self.function - 101) % 3][1]
        f = model(xp, self.landscape(x), normals, uniforms, self.dimension, self.function <= 106)
        return f + 1.01e-8 + self.f_opt + 100.0 * bbob.f_pen(xp, x)

    @cached_property
    def _base(self) -> Landscape:
        return replace(self.landscape, penalty=100.0, f_opt=self.f_opt)

    def __reduce__(self) -> tuple[type[NoisyBBOB], tuple[int, int, int]]:
        return NoisyBBOB, (self.function, self.dimension, self.instance)


@dataclass(frozen=True, eq=False)
class KeyedByPoint:
    """A noisy problem as a function of the point alone, for an optimizer: the point's bytes make the noise's key.

    A counter of evaluations would give other values in every worker process, after a resume, and with every order of
    evaluation. Bytes give the same value wherever and whenever a point is evaluated, so runs repeat bit for bit; two
    points that differ in one bit, or the same point of another problem, have independent noise. The price: to evaluate
    a point again teaches nothing, so averages over repetitions need :class:`NoisyBBOB` and keys of your own.

    Example:
        >>> problem = KeyedByPoint(NoisyBBOB(107, 2))
        >>> bool(problem([0.0, 1.0]) == problem([-0.0, 1.0]) != problem.problem.noiseless([0.0, 1.0]))
        True
    """

    problem: NoisyBBOB

    def __call__(self, x: Float[ndarray, "*n d"]) -> Float[ndarray, "*n"]:
        """Noisy values (n,) of a batch (n, d) of NumPy, each as if alone, or the value of one point (d,)."""
        points = np.asarray(x, np.float64)
        if points.ndim == 2:
            return np.array([self(point) for point in points], np.float64)
        name = f"{self.problem.function} {self.problem.dimension} {self.problem.instance} "
        data = (points + 0.0).astype("<f8").tobytes()  # the sum makes -0.0 and 0.0, equal numbers, the same bytes
        seed = int.from_bytes(hashlib.blake2b(name.encode() + data, digest_size=8).digest(), "little")
        return self.problem(points, noise.key(seed))
