"""The 24 noiseless BBOB functions with COCO's own instances, for NumPy and JAX from one text.

Sources: Hansen, Finck, Ros, Auger 2009, "Real-parameter black-box optimization benchmarking 2009: noiseless
functions definitions" (INRIA RR-6829); Varelas et al. 2018, "A comparative study of large-scale variants of
CMA-ES" (block rotations above 40 dimensions). Where COCO's code and the reports differ, the code is followed:
values agree with ``coco-experiment`` to 1e-9 (``bench/bbob_coco.py``).

Up to 40 dimensions these are the problems of the suite ``bbob``, above 40 those of ``bbob-largescale``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy import ndarray

from blackbox.errors import SettingError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Array = Any  # a NumPy or JAX array
Namespace = Any  # the module numpy or jax.numpy

_BLOCK = 40  # largest rotation; above, rotations are block diagonal
_CHUNK = 1 << 15  # elements of a NumPy batch's largest temporary: it stays in the cache


# COCO's generator of 2009: every draw is a function of an integer seed.


def _uniform(count: int, seed: int) -> Float[ndarray, "count"]:
    """Park and Miller's minimal standard generator with a Bays-Durham shuffle, in (0, 1)."""
    state = max(seed, 1)
    table = [0] * 32
    for i in range(39, -1, -1):
        state = state * 16807 % 2147483647
        if i < 32:
            table[i] = state
    last = table[0]
    draws = []
    for _ in range(count):
        state = state * 16807 % 2147483647
        slot = last // 67108865
        last, table[slot] = table[slot], state
        draws.append(last)
    return np.maximum(np.array(draws) / 2.147483647e9, 1e-99)


def _normal(count: int, seed: int) -> Float[ndarray, "count"]:
    """Box-Muller, the cosine branch."""
    u = _uniform(2 * count, seed).tolist()
    pairs = zip(u[:count], u[count:], strict=True)
    return np.array([math.sqrt(-2.0 * math.log(a)) * math.cos(2.0 * math.pi * b) or 1e-99 for a, b in pairs])


def _orthogonal(d: int, seed: int) -> Float[ndarray, "d d"]:
    """Gram-Schmidt on the columns of a normal matrix, with COCO's order of additions, bit for bit.

    Where the draw is ill-conditioned another order, or a QR decomposition, is felt in the tenth digit of f16.
    """
    b = np.ascontiguousarray(_normal(d * d, seed).reshape(d, d).T)
    for j in range(d):
        column, rest = b[:, j : j + 1], b[:, j + 1 :]
        column /= math.sqrt((column**2).cumsum()[-1])
        rest -= (column * rest).cumsum(0)[-1] * column
    return b


def _swaps(d: int, seed: int) -> Int[ndarray, "d"]:
    """A permutation by ``d`` swaps, each over at most ``d // 3`` places."""
    p = np.arange(d)
    for k, i in enumerate(np.argsort(_uniform(d, seed), kind="stable").tolist()):
        low, high = max(i - d // 3, 0), min(i + d // 3, d - 1)
        j = low + int(_uniform(1, seed + 1000 * (k + 1))[0] * (high - low))
        j += j >= i
        p[[i, j]] = p[[j, i]]
    return p


def optimal_value(seed: int) -> float:
    """The optimal value: a Cauchy variate of scale 100, to two decimals, within 1000 of zero."""
    ratio = _normal(1, seed)[0] / _normal(1, seed + 1)[0]
    return float(np.clip(np.floor(100.0 * 100.0 * ratio + 0.5) / 100.0, -1000.0, 1000.0))


@dataclass(frozen=True)
class Draws:
    """What one function instance draws from its seed.

    Args:
        dimension: number of variables, d.
        seed: function number + 10000 * instance number.
        swaps: above 40 dimensions, seeds (in millions above ``seed``) of the permutations about R and Q, or 0.
    """

    dimension: int
    seed: int
    swaps: tuple[int, int] = (0, 0)

    @cached_property
    def ramp(self) -> Float[ndarray, "d"]:
        """From 0 to 1 over the coordinates."""
        return np.arange(self.dimension) / (self.dimension - 1)

    @cached_property
    def x_opt(self) -> Float[ndarray, "d"]:
        return self.optimum(self.seed)

    @cached_property
    def R(self) -> Float[ndarray, "d d"]:  # noqa: N802
        return self._rotation(self.seed + 1_000_000, self.swaps[0])

    @cached_property
    def Q(self) -> Float[ndarray, "d d"]:  # noqa: N802
        return self._rotation(self.seed, self.swaps[1])

    def optimum(self, seed: int) -> Float[ndarray, "d"]:
        """Uniform in [-4, 4] on a grid of 0.0008, never 0."""
        x = 8.0 * np.floor(1e4 * _uniform(self.dimension, seed)) / 1e4 - 4.0
        return np.where(x == 0.0, -1e-5, x)

    def power(self, base: float) -> Float[ndarray, "d"]:
        """``base^ramp``; the diagonal of Lambda^alpha is ``power(sqrt(alpha))``."""
        return np.array([base**t for t in self.ramp.tolist()])

    def chain(self, alpha: float) -> Float[ndarray, "d d"]:
        """``R Lambda^alpha Q``, up to 40 dimensions with COCO's order of additions."""
        left = self.R * self.power(math.sqrt(alpha))
        product = (left[:, :, None] * self.Q).sum(1) if self.dimension <= _BLOCK else left @ self.Q
        return np.asarray(product)

    def axes(self, first: float, rest: float) -> Float[ndarray, "d"]:
        """``first`` for the leading fortieth of the coordinates, ``rest`` for the others."""
        return np.where(np.arange(self.dimension) < -(-self.dimension // _BLOCK), first, rest)

    def _rotation(self, seed: int, swaps: int) -> Float[ndarray, "d d"]:
        d = self.dimension
        rotation = np.zeros((d, d))
        for k, i in enumerate(range(0, d, _BLOCK)):
            j = min(i + _BLOCK, d)
            rotation[i:j, i:j] = _orthogonal(j - i, seed + 1_000_000 * k)
        if d > _BLOCK and swaps:
            columns, rows = (np.argsort(_swaps(d, self.seed + 1_000_000 * k)) for k in (swaps, swaps + 1))
            rotation = rotation[np.argsort(rows)][:, columns]
        return rotation


# Steps: functions of (xp, z, *constants). Those that transform z work along its last axis, on (d,) and (n, d).


def _dot(xp: Namespace, a: Float[Array, "*n d"], b: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    # On a GPU, XLA may shorten the factors of a float32 dot product, but not those of a sum.
    return np.vecdot(a, b) if xp is np else (a * b).sum(-1)


def _shift(xp: Namespace, z: Float[Array, "*n d"], offset: Float[Array, "..."]) -> Float[Array, "*n d"]:
    return z - offset


def _scale(xp: Namespace, z: Float[Array, "*n d"], factors: Float[Array, "d"]) -> Float[Array, "*n d"]:
    return factors * z


def _rotate(xp: Namespace, z: Float[Array, "*n d"], matrix: Float[Array, "d d"]) -> Float[Array, "*n d"]:
    """``matrix @ z`` for each point."""
    return z @ matrix.T if xp is np else xp.matmul(z, matrix.T, precision="highest")


def _rotate_in_order(xp: Namespace, z: Float[Array, "*n d"], matrix: Float[Array, "d d"]) -> Float[Array, "*n d"]:
    """As `_rotate`, in NumPy with COCO's order of additions: f16, f19, f23 and f24 magnify the last bit."""
    if xp is np and len(matrix) <= _BLOCK:
        return np.multiply(z[..., None], matrix.T, order="C").sum(-2)
    return _rotate(xp, z, matrix)


def _t_osz(xp: Namespace, z: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Smooth irregularities: ``sign(z) exp(l + 0.049 (sin(a l) + sin(b l)))``, ``l = log |z|``.

    ``(a, b)`` is (10, 7.9) right of zero, (5.5, 3.1) left of it.
    """
    log = xp.log(xp.abs(z) + (z == 0)) / 0.1
    right = z > 0
    wave = xp.sin(xp.where(right, log, 0.55 * log)) + xp.sin(xp.where(right, 0.79 * log, 0.31 * log))
    power = log + 0.49 * wave
    # The first is COCO's rounding, to the last bit, which f16 magnifies; in float32 it would overflow.
    size = xp.exp(power) ** 0.1 if z.dtype == np.float64 else xp.exp(0.1 * power)
    return xp.sign(z) * size


def _t_asy(xp: Namespace, z: Float[Array, "*n d"], beta: Float[Array, "d"]) -> Float[Array, "*n d"]:
    """Asymmetry: ``z_i^(1 + beta_i sqrt(z_i))`` where ``z_i > 0``."""
    right = xp.maximum(z, 0.0)
    return xp.where(z > 0, right ** (1.0 + beta * xp.sqrt(right)), z)


def f_pen(xp: Namespace, x: Float[Array, "*n d"], bound: float = 5.0) -> Float[Array, "*n"]:
    """The boundary penalty: squared distance from the box."""
    outside = xp.maximum(xp.abs(x) - bound, 0.0)
    return _dot(xp, outside, outside)


def as_points(x: Array, dimension: int) -> Float[Array, "*n d"]:
    """``x`` as a point (d,) or points (n, d) of floats; a `SettingError` for any other shape."""
    if not hasattr(x, "__array_namespace__"):
        x = np.asarray(x)
    if x.ndim not in (1, 2) or x.shape[-1] != dimension:
        raise SettingError(f"x has shape {tuple(x.shape)}; allowed: ({dimension},) or (n, {dimension})")
    return x * 1.0 if x.dtype.kind in "iub" else x


@dataclass(frozen=True, eq=False)
class Landscape:
    """``f_opt + factor * steps(x) + penalty * f_pen(x)``, for one point or a batch.

    Args:
        x_opt: (d,), a global minimizer of the steps, where they give 0.
        steps: functions with their constants, applied in turn: ``z = step(xp, z, *constants)``; the last one
            reduces (d,) to a scalar, (n, d) to (n,). Constants are cast to the data type of the points.
        penalty: factor of the boundary penalty.
        factor: factor of the steps' value.
        f_opt: the optimal value.
        width: elements of the largest temporary per coordinate of a point.
    """

    x_opt: Float[ndarray, "d"]
    steps: tuple[tuple[Any, ...], ...]
    penalty: float = 0.0
    factor: float = 1.0
    f_opt: float = 0.0
    width: int = 1
    _cast: dict[Any, list[tuple[Any, list[ndarray]]]] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        d = len(self.x_opt)
        x = as_points(x, d)
        xp = x.__array_namespace__()
        if xp is not np:
            return self._evaluate(xp, x)
        rows = max(1, _CHUNK // (self.width * d))
        with np.errstate(all="ignore"):  # far from the box infinity is the right answer
            if x.ndim == 1 or len(x) <= rows:
                return self._evaluate(np, x)
            return np.concatenate([self._evaluate(np, x[i : i + rows]) for i in range(0, len(x), rows)])

    def _evaluate(self, xp: Namespace, x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        steps = self._cast.get(x.dtype)
        if steps is None:
            steps = [(step, [np.asarray(c, x.dtype) for c in constants]) for step, *constants in self.steps]
            self._cast[x.dtype] = steps
        value = x
        for step, constants in steps:
            value = step(xp, value, *constants)
        value = self.factor * value + self.f_opt
        return value + self.penalty * f_pen(xp, x) if self.penalty else value


# The functions: R, Q are rotations; Lambda^a, T_osz, T_asy the transformations above; ``ramp`` goes from 0 to 1.


def _quadratic(xp: Namespace, z: Float[Array, "*n d"], weights: Float[Array, "d"]) -> Float[Array, "*n"]:
    return _dot(xp, weights * z, z)


def sphere(s: Draws) -> Landscape:
    """``|x - x_opt|^2``"""
    return Landscape(s.x_opt, ((_shift, s.x_opt), (_quadratic, 1.0)))


def ellipsoid(s: Draws) -> Landscape:
    """``sum_i 10^(6 ramp_i) z_i^2``, ``z = T_osz(x - x_opt)``"""
    return Landscape(s.x_opt, ((_shift, s.x_opt), (_t_osz,), (_quadratic, s.power(1e6))))


def _rastrigin_sum(xp: Namespace, z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """``10 (d - sum_i cos(2 pi z_i)) + |z|^2``"""
    return 10.0 * (z.shape[-1] - xp.cos(2.0 * np.pi * z).sum(-1)) + _dot(xp, z, z)


def rastrigin(s: Draws) -> Landscape:
    """Rastrigin's sum at ``z = Lambda^10 T_asy^0.2(T_osz(x - x_opt))``"""
    scale = (_scale, s.power(math.sqrt(10.0)))
    return Landscape(s.x_opt, ((_shift, s.x_opt), (_t_osz,), (_t_asy, 0.2 * s.ramp), scale, (_rastrigin_sum,)))


def _scale_by_side(xp: Namespace, z: Array, left: Float[Array, "d"], right: Float[Array, "d"]) -> Array:
    return xp.where(z > 0, right, left) * z


def bueche_rastrigin(s: Draws) -> Landscape:
    """Rastrigin's sum at ``z = Lambda^10 T_osz(x - x_opt)``, ten times that for positive odd coordinates"""
    odd = np.arange(s.dimension) % 2 == 0  # the first coordinate is number one
    x_opt = np.where(odd, np.abs(s.x_opt), s.x_opt)
    left = s.power(math.sqrt(10.0))
    scale = (_scale_by_side, left, np.where(odd, 10.0 * left, left))
    return Landscape(x_opt, ((_shift, x_opt), (_t_osz,), scale, (_rastrigin_sum,)), penalty=100.0)


def _slope_sum(xp: Namespace, x: Array, x_opt: Float[Array, "d"], slope: Float[Array, "d"]) -> Array:
    return _dot(xp, slope, x_opt - xp.where(x * x_opt >= 25.0, x_opt, x))


def linear_slope(s: Draws) -> Landscape:
    """``sum_i s_i (x_opt_i - x_i)`` up to the optimal corner, ``s_i = sign(x_opt_i) 10^ramp_i``"""
    x_opt = np.where(s.x_opt < 0.0, -5.0, 5.0)
    return Landscape(x_opt, ((_slope_sum, x_opt, np.sign(x_opt) * s.power(10.0)),))


def _sector_sum(xp: Namespace, z: Array, x_opt: Float[Array, "d"], norm: Float[Array, ""]) -> Array:
    z = xp.where(z * x_opt > 0, 100.0 * z, z)
    return _t_osz(xp, norm * _dot(xp, z, z)) ** 0.9


def attractive_sector(s: Draws) -> Landscape:
    """``T_osz(sum_i (s_i z_i)^2)^0.9``, ``s_i = 100`` if ``z_i x_opt_i > 0`` else 1

    ``z = R Lambda^10 Q (x - x_opt)``
    """
    core = (_sector_sum, s.x_opt, min(1.0, _BLOCK / s.dimension))
    return Landscape(s.x_opt, ((_shift, s.x_opt), (_rotate, s.chain(10.0)), core))


def _step_sum(xp: Namespace, z: Array, plateau: Array, rotation: Array, weights: Array) -> Array:
    size = xp.abs(z)
    stepped = xp.where(size > 0.5, xp.floor(z + 0.5), xp.floor(10.0 * z + 0.5) / 10.0)
    value = _quadratic(xp, _rotate(xp, stepped, rotation), weights)
    return 0.1 * xp.maximum(plateau * size[..., 0], value)


def step_ellipsoid(s: Draws) -> Landscape:
    """``0.1 max(|z_1| / 10^4, sum_i 10^(2 ramp_i) (R round(z))_i^2)``, ``z = Lambda^10 Q (x - x_opt)``

    Rounding is to integers, within 0.5 of zero to tenths.
    """
    matrix = s.power(math.sqrt(10.0))[:, None] * s.Q
    plateau = 1e-4 * (s.dimension if s.dimension > _BLOCK else 1)
    core = (_step_sum, plateau, s.R, s.power(100.0))
    return Landscape(s.x_opt, ((_shift, s.x_opt), (_rotate, matrix), core), penalty=1.0)


def _rosenbrock_sum(xp: Namespace, z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """``sum_i 100 (z_i^2 - z_(i+1))^2 + (z_i - 1)^2``"""
    head = z[..., :-1]
    valley, slope = head * head - z[..., 1:], head - 1.0
    return 100.0 * _dot(xp, valley, valley) + _dot(xp, slope, slope)


def rosenbrock(s: Draws) -> Landscape:
    """Rosenbrock's sum at ``z = x - x_opt + 1``"""
    x_opt = 0.75 * s.x_opt
    return Landscape(x_opt, ((_shift, x_opt - 1.0), (_rosenbrock_sum,)))


def rosenbrock_rotated(s: Draws) -> Landscape:
    """Rosenbrock's sum at ``z = Q (x - x_opt) + 1``; up to 40 dimensions ``Q x_opt = 1/2``"""
    x_opt = s.Q.sum(0) / 2.0 if s.dimension <= _BLOCK else 0.75 * s.x_opt
    return Landscape(x_opt, ((_shift, x_opt), (_rotate, s.Q), (_shift, -1.0), (_rosenbrock_sum,)))


def ellipsoid_rotated(s: Draws, weights: Float[ndarray, "d"]) -> Landscape:
    """``sum_i weights_i z_i^2``, ``z = T_osz(R (x - x_opt))``"""
    return Landscape(s.x_opt, ((_shift, s.x_opt), (_rotate, s.R), (_t_osz,), (_quadratic, weights)))


def bent_cigar(s: Draws) -> Landscape:
    """``z_1^2 + 10^6 sum_(i>1) z_i^2``, ``z = R T_asy^0.5(R (x - x_opt))``"""
    x_opt = s.optimum(s.seed + 1_000_000)
    bend = (_t_asy, 0.5 * s.ramp)
    return Landscape(x_opt, ((_shift, x_opt), (_rotate, s.R), bend, (_rotate, s.R), (_quadratic, s.axes(1.0, 1e6))))


def _ridge_sum(xp: Namespace, z: Array, along: Float[Array, "d"], across: Float[Array, "d"]) -> Array:
    return _quadratic(xp, z, along) + 100.0 * xp.sqrt(_quadratic(xp, z, across))


def sharp_ridge(s: Draws) -> Landscape:
    """``z_1^2 + 100 sqrt(sum_(i>1) z_i^2)``, ``z = R Lambda^10 Q (x - x_opt)``"""
    core = (_ridge_sum, s.axes(1.0, 0.0), s.axes(0.0, 1.0))
    return Landscape(s.x_opt, ((_shift, s.x_opt), (_rotate, s.chain(10.0)), core))


def _power_sum(xp: Namespace, z: Array, exponents: Float[Array, "d"]) -> Array:
    return xp.sqrt((xp.abs(z) ** exponents).sum(-1))


def different_powers(s: Draws) -> Landscape:
    """``sqrt(sum_i |z_i|^(2 + 4 ramp_i))``, ``z = R (x - x_opt)``"""
    return Landscape(s.x_opt, ((_shift, s.x_opt), (_rotate, s.R), (_power_sum, 2.0 + 4.0 * s.ramp)))


def rastrigin_rotated(s: Draws) -> Landscape:
    """Rastrigin's sum at ``z = R Lambda^10 Q T_asy^0.2(T_osz(R (x - x_opt)))``"""
    shape = ((_shift, s.x_opt), (_rotate, s.R), (_t_osz,), (_t_asy, 0.2 * s.ramp), (_rotate, s.chain(10.0)))
    return Landscape(s.x_opt, (*shape, (_rastrigin_sum,)))


def _weierstrass_sum(xp: Namespace, z: Array, frequency: Array, amplitude: Array, f_0: Array) -> Array:
    waves = xp.cos((2.0 * np.pi * (z + 0.5))[..., None] * frequency)
    return 10.0 * ((waves * amplitude).sum((-2, -1)) / z.shape[-1] - f_0) ** 3


def weierstrass(s: Draws) -> Landscape:
    """``10 (mean_i sum_(k<12) cos(2 pi 3^k (z_i + 1/2)) / 2^k - f_0)^3``

    ``z = R Lambda^0.01 Q T_osz(R (x - x_opt))``
    """
    frequency, amplitude = 3.0 ** np.arange(12), 0.5 ** np.arange(12)
    core = (_weierstrass_sum, frequency, amplitude, amplitude @ np.cos(np.pi * frequency))
    shape = ((_shift, s.x_opt), (_rotate_in_order, s.R), (_t_osz,), (_rotate_in_order, s.chain(0.01)))
    return Landscape(s.x_opt, (*shape, core), penalty=10.0 / s.dimension, width=_BLOCK)


def _schaffer_sum(xp: Namespace, z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    r2 = z[..., :-1] ** 2 + z[..., 1:] ** 2
    return (r2**0.25 * (1.0 + xp.sin(50.0 * r2**0.1) ** 2)).mean(-1) ** 2


def schaffer(s: Draws, condition: float = 10.0) -> Landscape:
    """``mean_i(sqrt(r_i) (1 + sin(50 r_i^0.2)^2))^2``, ``r_i = |(z_i, z_(i+1))|``

    ``z = Lambda^condition Q T_asy^0.5(R (x - x_opt))``
    """
    matrix = s.power(math.sqrt(condition))[:, None] * s.Q
    shape = ((_shift, s.x_opt), (_rotate, s.R), (_t_asy, 0.5 * s.ramp), (_rotate, matrix))
    return Landscape(s.x_opt, (*shape, (_schaffer_sum,)), penalty=10.0)


def _griewank_sum(xp: Namespace, z: Float[Array, "*n d"], factor: Float[Array, ""]) -> Float[Array, "*n"]:
    head = z[..., :-1]
    valley = head * head - z[..., 1:]
    t = 100.0 * valley * valley + (1.0 - head) ** 2
    return factor + factor * (t / 4000.0 - xp.cos(t)).mean(-1)


def griewank_rosenbrock(s: Draws, factor: float = 10.0) -> Landscape:
    """``factor (1 + mean_i(t_i / 4000 - cos t_i))``, ``t_i`` the terms of Rosenbrock's sum, ``z = Q x + 1/2``"""
    steps = ((_rotate_in_order, s.Q), (_shift, -0.5), (_griewank_sum, factor))
    return Landscape(s.Q.sum(0) / 2.0, steps, width=_BLOCK)


_SCHWEFEL = 4.2096874637  # twice |x_opt_i|


def _schwefel_sum(xp: Namespace, x: Array, sign: Float[Array, "d"], scale: Float[Array, "d"]) -> Array:
    w = 2.0 * sign * x
    y = xp.concat([w[..., :1], w[..., 1:] + 0.25 * (w[..., :-1] - _SCHWEFEL)], axis=-1)
    z = 100.0 * (scale * (y - _SCHWEFEL) + _SCHWEFEL)
    mean = (z * xp.sin(xp.sqrt(xp.abs(z)))).mean(-1)
    return 0.01 * (f_pen(xp, z, 500.0) + 418.9828872724339 - mean)


def schwefel(s: Draws) -> Landscape:
    """``4.19 - mean_i(z_i sin sqrt|z_i|) / 100 + sum_i max(0, |z_i| - 500)^2 / 100``

    ``z = 100 (Lambda^10 (y - m) + m)``, ``y_i = w_i + (w_(i-1) - m) / 4``, ``w = 2 sign(x_opt) x``, ``m = 4.21``
    """
    sign = np.where(_uniform(s.dimension, s.seed) < 0.5, -1.0, 1.0)
    return Landscape(sign * 4.2096874633 / 2.0, ((_schwefel_sum, sign, s.power(math.sqrt(10.0))),))


def _gallagher_max(xp: Namespace, z: Array, centers: Array, shape: Array, height: Array) -> Array:
    offset = (z[..., None] - centers) * shape  # (..., d, peaks)
    bumps = height * xp.exp((-0.5 / z.shape[-1]) * (offset * offset).sum(-2))
    return _t_osz(xp, 10.0 - bumps.max(-1)) ** 2


def gallagher(s: Draws, peaks: int) -> Landscape:
    """``T_osz(10 - max_i w_i exp(-|C_i^(1/2) Q (x - y_i)|^2 / 2 d))^2``: peaks of height w_i and shape C_i at y_i"""
    d, reach = s.dimension, {101: 5.0, 21: 4.9}[peaks]
    y = 2.0 * reach * _uniform(peaks * d, s.seed).reshape(peaks, d) - reach
    y[0] *= 0.8
    order = np.argsort(_uniform(peaks - 1, s.seed), kind="stable")
    alpha = np.concatenate([[1000.0**0.5 if peaks == 101 else 1000.0], 1000.0 ** (order / (peaks - 2))])
    height = np.concatenate([[10.0], 1.1 + 8.0 * np.arange(peaks - 1) / (peaks - 2)])
    places = np.array([np.argsort(_uniform(d, s.seed + 1000 * i), kind="stable") for i in range(peaks)])
    shape = alpha[:, None] ** (s.ramp[places] / 2.0 - 0.25)
    steps = ((_rotate, s.Q), (_gallagher_max, s.Q @ y.T, shape.T, height))
    return Landscape(y[0], steps, penalty=1.0, width=peaks)


def _katsuura_product(xp: Namespace, z: Array, powers: Array, inverse: Array, index: Array) -> Array:
    d = z.shape[-1]
    z = z[..., None] * powers
    rough = _dot(xp, xp.abs(z - xp.floor(z + 0.5)), inverse)
    return (10.0 / d**2) * (((1.0 + index * rough) ** (10.0 / d**1.2)).prod(-1) - 1.0)


def katsuura(s: Draws) -> Landscape:
    """``10/d^2 (prod_i (1 + i sum_(j=1..32) |2^j z_i - round(2^j z_i)| / 2^j)^(10 / d^1.2) - 1)``

    ``z = R Lambda^100 Q (x - x_opt)``
    """
    powers = 2.0 ** np.arange(1, 33)
    core = (_katsuura_product, powers, 1.0 / powers, np.arange(1, s.dimension + 1))
    steps = ((_shift, s.x_opt), (_rotate_in_order, s.chain(100.0)), core)
    return Landscape(s.x_opt, steps, penalty=1.0, width=_BLOCK)


def _lunacek_sum(xp: Namespace, x: Array, signs: Array, inner: Array, outer: Array) -> Array:
    d = x.shape[-1]
    c = 1.0 - 0.5 / ((d + 20) ** 0.5 - 4.1)
    near = signs * x - 2.5
    far = near + (2.5 + (5.25 / c) ** 0.5)
    funnels = xp.minimum(_dot(xp, near, near), d + c * _dot(xp, far, far))
    z = _rotate_in_order(xp, _rotate_in_order(xp, near, inner), outer)
    return funnels + 10.0 * (d - xp.cos(2.0 * np.pi * z).sum(-1))


def lunacek(s: Draws) -> Landscape:
    """``min(|y - m|^2, d + c |y - m_1|^2) + 10 (d - sum_i cos(2 pi z_i))``, ``z = R Lambda^100 Q (y - m)``

    ``y = 2 sign(x_opt) x``, ``m = 2.5``, ``c = 1 - 1 / (2 sqrt(d + 20) - 8.2)``, ``m_1 = -sqrt((m^2 - 1) / c)``
    """
    sign = np.where(_normal(s.dimension, s.seed) < 0.0, -1.0, 1.0)
    core = (_lunacek_sum, 2.0 * sign, s.power(10.0)[:, None] * s.Q, s.R)
    return Landscape(1.25 * sign, (core,), penalty=1e4, width=_BLOCK)


# Function number: name, landscape, permutation seeds (see `Draws`).
FUNCTIONS: dict[int, tuple[str, Callable[[Draws], Landscape], tuple[int, int]]] = {
    1: ("Sphere", sphere, (0, 0)),
    2: ("Ellipsoid, separable", ellipsoid, (0, 0)),
    3: ("Rastrigin, separable", rastrigin, (0, 0)),
    4: ("Bueche-Rastrigin", bueche_rastrigin, (0, 0)),
    5: ("Linear slope", linear_slope, (0, 0)),
    6: ("Attractive sector", attractive_sector, (4, 2)),
    7: ("Step ellipsoid", step_ellipsoid, (4, 2)),
    8: ("Rosenbrock", rosenbrock, (0, 0)),
    9: ("Rosenbrock, rotated", rosenbrock_rotated, (0, 2)),
    10: ("Ellipsoid", lambda s: ellipsoid_rotated(s, s.power(1e6)), (2, 0)),
    11: ("Discus", lambda s: ellipsoid_rotated(s, s.axes(1e6, 1.0)), (2, 0)),
    12: ("Bent cigar", bent_cigar, (2, 0)),
    13: ("Sharp ridge", sharp_ridge, (3, 5)),
    14: ("Different powers", different_powers, (2, 0)),
    15: ("Rastrigin", rastrigin_rotated, (3, 5)),
    16: ("Weierstrass", weierstrass, (5, 3)),
    17: ("Schaffer F7", schaffer, (5, 3)),
    18: ("Schaffer F7, ill-conditioned", lambda s: schaffer(s, 1000.0), (5, 3)),
    19: ("Griewank-Rosenbrock", griewank_rosenbrock, (0, 2)),
    20: ("Schwefel", schwefel, (0, 0)),
    21: ("Gallagher, 101 peaks", lambda s: gallagher(s, 101), (0, 0)),
    22: ("Gallagher, 21 peaks", lambda s: gallagher(s, 21), (0, 0)),
    23: ("Katsuura", katsuura, (5, 3)),
    24: ("Lunacek bi-Rastrigin", lunacek, (5, 3)),
}
_SEEDS = {4: 3, 18: 17}  # functions that draw under another's number
_SCALED = {1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 24}  # by 40 / d above 40 dimensions


@dataclass(frozen=True, eq=False)
class BBOB:
    """One problem of COCO's suites ``bbob`` (2 to 40 dimensions) and ``bbob-largescale`` (above 40).

    Callable on a point (d,) or a batch (n, d) of NumPy or JAX, in the points' data type, and under ``jit`` and
    ``vmap``. Compared and hashed by identity.

    Args:
        function: 1 to 24.
        dimension: number of variables d, at least 2.
        instance: COCO's instance number, at least 1: another rotation, optimum and optimal value.

    Raises:
        SettingError: an argument outside its range; on a call, points of a wrong shape.

    Example:
        >>> problem = BBOB(1, 5)
        >>> problem.name, problem.f_opt, problem(problem.x_opt) == problem.f_opt
        ('Sphere', 79.48, np.True_)
    """

    function: int
    dimension: int
    instance: int = 1
    bounds: ClassVar[tuple[float, float]] = (-5.0, 5.0)

    def __post_init__(self) -> None:
        check_integer("function", self.function, 1, 24)
        check_integer("dimension", self.dimension, 2)
        check_integer("instance", self.instance, 1)

    @cached_property
    def landscape(self) -> Landscape:
        _, build, swaps = FUNCTIONS[self.function]
        seed = _SEEDS.get(self.function, self.function) + 10000 * self.instance
        landscape = build(Draws(self.dimension, seed, swaps))
        landscape.x_opt.flags.writeable = False
        factor = min(1.0, _BLOCK / self.dimension) if self.function in _SCALED else 1.0
        return replace(landscape, factor=factor, f_opt=optimal_value(seed))

    @property
    def name(self) -> str:
        return FUNCTIONS[self.function][0]

    @property
    def f_opt(self) -> float:
        """The smallest value, up to rounding."""
        return self.landscape.f_opt

    @property
    def x_opt(self) -> Float[ndarray, "d"]:
        """A point of the smallest value."""
        return self.landscape.x_opt

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        """Values (n,) of a batch (n, d), or the value of one point (d,)."""
        return self.landscape(x)

    def __reduce__(self) -> tuple[type[BBOB], tuple[int, int, int]]:
        return BBOB, (self.function, self.dimension, self.instance)  # what a worker process needs


def check_integer(name: str, value: int, low: int, high: int | None = None) -> None:
    """Raise a `SettingError` unless ``value`` is an integer from ``low`` to ``high``."""
    if not isinstance(value, int) or value < low or (high is not None and value > high):
        allowed = f"an integer, at least {low}" if high is None else f"an integer from {low} to {high}"
        raise SettingError(f"{name} is {value!r}; allowed: {allowed}")
