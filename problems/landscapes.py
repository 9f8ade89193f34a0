"""The test functions of consensus-based optimization, for arrays of any library from one text.

They are those of CBXpy, ConsensusBasedX.jl, KV-CBO and Riedl's code, with their minimum and their axes moved to where
is asked for: a minimum in the middle of the first particles flatters every method, and noise coordinate by coordinate
one whose valleys lie along the axes. With z = 0 at the minimum, which has the value 0, and q = sum_i z_i^2:

==================  =====================================================================================
sphere              q
rastrigin           sum_i z_i^2 + 10 (1 - cos 2 pi z_i)
ackley              20 (1 - exp(-sqrt(q / d) / 5)) + e - exp(mean_i cos 2 pi z_i)
rosenbrock          sum_(i<d) 100 (x_(i+1) - x_i^2)^2 + (1 - x_i)^2, x = z + 1
griewank            q / 4000 + 1 - prod_i cos(z_i / sqrt i)
salomon             1 - cos(2 pi sqrt q) + sqrt(q) / 10
levy                sin^2(pi w_1) + sum_(i<d) u_i^2 (1 + 10 sin^2(pi w_i + 1)) + u_d^2 (1 + sin^2(2 pi w_d)),
                    u = z / 4, w = u + 1
schaffer            1/2 + (sin^2(sqrt q) - 1/2) / (1 + q / 1000)^2
schwefel-2.20       sum_i abs(z_i)
himmelblau          (x_1^2 + x_2 - 11)^2 + (x_1 + x_2^2 - 7)^2, x = z + (3, 2): four minima
three-hump-camel    2 z_1^2 - 1.05 z_1^4 + z_1^6 / 6 + z_1 z_2 + z_2^2
snowflake           1/4 + min(4/5, r^8 - r^4 + min_(k<3) abs(cos(phi + k pi / 3))^(1/2) r^0.3), six minima; r and
                    phi are the polar coordinates of x / 2, x = z + (0, 2^(3/4))
==================  =====================================================================================

Rastrigin's function is published in three scalings, on which the meaning of alpha depends: "sum" is that of CBXpy 1.0.4
and most others; "riedl" has 2.5 for the 10 (Fornasier, Klock & Riedl, arXiv:2103.15130, and their code); "mean" is the
sum over d (Pinnau, Totzeck, Tse & Martin 2017; Carrillo, Jin, Li & Zhu 2021; ConsensusBasedX.jl).

Alpine's function is left out: it is zero wherever each coordinate is one of many zeros, so nothing is to be found.

All are computed without cancellation: values near the minimum are exact to rounding, in float32 as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.arrays import Array, described, dtype_name, is_jax, namespace
from blackbox.errors import SettingError
from blackbox.kernels import noise
from blackbox.kernels.arguments import require_count
from blackbox.space import Box

from .streams import seed_key

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Namespace = Any  # the module numpy, jax.numpy, ...


# ---- what the functions are made of; also the other problems'


def real_points(x: Any, d: int) -> Float[Array, "*n d"]:
    """``x`` as an array of points of floats, of any leading axes; a `SettingError` for another last axis."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        x = np.asarray(x)
    name = dtype_name(x)
    if tuple(x.shape[-1:]) != (d,) or not name.startswith(("float", "bfloat", "int", "uint")):
        raise SettingError(f"x must be real numbers of shape (..., {d}), got {described(x)}")
    if "float" in name:
        return x
    xp = namespace(x)
    return xp.astype(x, xp.asarray(0.0).dtype)


def like(x: Float[Array, "..."], values: Any) -> Float[Array, "..."]:
    """Constants in the library and dtype of ``x``."""
    return namespace(x).asarray(values, dtype=x.dtype)


def product(x: Float[Array, "*n d"], matrix: Float[np.ndarray, "d k"]) -> Float[Array, "*n k"]:
    """``x @ matrix``; JAX on a GPU would shorten the factors."""
    xp = namespace(x)
    return xp.matmul(x, like(x, matrix), precision="highest") if is_jax(x) else xp.matmul(x, like(x, matrix))


def total(terms: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """The sum over coordinates.

    XLA on a CPU fuses a sum with what makes its terms, and then computes them one by one; ahead of a product it takes
    as many at a time as the processor can, which is three to five times as fast.
    """
    if is_jax(terms):
        return product(terms, np.ones(terms.shape[-1]))
    return namespace(terms).sum(terms, axis=-1)


# sqrt(2) sin(pi t) = t P(t^2) for abs(t) <= 1/2, by interpolation at Chebyshev's nodes: within 7e-9 and 4e-19, relative
_SINE = (4.442882919048678, -7.308245676836437, 3.6063540251301247, -0.8461104138748002, 0.10982204433919414)
_LONG_SINE = (
    4.442882938158366, -7.308249499995438, 3.606476571470641, -0.8474880248119808, 0.11617182688484404,
    -0.010423362781996133, 0.0006594475241877522, -3.097622262633553e-05, 1.0886371016421302e-06,
)  # fmt: skip


def versine(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``1 - cos(2 pi x) = 2 sin(pi x)^2``: no cancellation, and exactly 0 at whole numbers.

    Cosines are most of what a step of a swarm costs. The reduction to one turn is exact here, and then there are nine
    (float32) or seventeen (float64) operations, which JAX fuses and NumPy makes in place: a third of the time that its
    own sine takes, and in JAX a tenth of a cosine's.
    """
    turn = x - namespace(x).round(x)
    square = turn * turn
    is_short = dtype_name(x) in ("float16", "bfloat16", "float32")
    first, *between, last = _SINE if is_short else _LONG_SINE
    value = square * last
    for coefficient in reversed(between):
        value += coefficient
        value *= square
    value += first
    value *= turn
    value *= value
    return value


# ---- the functions, of offsets from a minimum


def _sphere(z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    return total(z * z)


def _rastrigin(z: Float[Array, "*n d"], height: float = 10.0) -> Float[Array, "*n"]:
    return total(z * z + height * versine(z))


def _rastrigin_mean(z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    return _rastrigin(z) / z.shape[-1]


def _rastrigin_riedl(z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    return _rastrigin(z, 2.5)


def _ackley(z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    xp, d = namespace(z), z.shape[-1]
    bowl = xp.expm1(-0.2 * xp.sqrt(total(z * z) / d))
    return -20.0 * bowl - math.e * xp.expm1(total(versine(z)) / -d)


def _rosenbrock(z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    head = z[..., :-1]
    valley = z[..., 1:] - head * (2.0 + head)
    return total(100.0 * valley * valley + head * head)


def _griewank(z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    turns = 1.0 / (2.0 * np.pi * np.sqrt(np.arange(1.0, z.shape[-1] + 1.0)))
    return total(z * z) / 4000.0 + (1.0 - namespace(z).prod(1.0 - versine(z * like(z, turns)), axis=-1))


def _salomon(z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    radius = namespace(z).sqrt(total(z * z))
    return versine(radius) + 0.1 * radius


def _levy(z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    u = 0.25 * z
    head, last = u[..., :-1], u[..., -1]
    middle = total(head * head * (1.0 + 5.0 * versine(head + 1.0 / math.pi)))
    return 0.5 * versine(u[..., 0]) + middle + last * last * (1.0 + 0.5 * versine(2.0 * last))


def _schaffer(z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    q = total(z * z)
    growth = 0.001 * q
    wave = 0.5 * versine(namespace(z).sqrt(q) / math.pi)
    return (0.5 * growth * (2.0 + growth) + wave) / ((1.0 + growth) * (1.0 + growth))


def _schwefel(z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    return total(namespace(z).abs(z))


def _himmelblau(z: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    a, b = z[..., 0], z[..., 1]
    first, second = a * (6.0 + a) + b, a + b * (4.0 + b)
    return first * first + second * second


def _camel(z: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    a, b = z[..., 0], z[..., 1]
    square = a * a
    return square * (2.0 + square * (square / 6.0 - 1.05)) + b * (a + b)


_SNOW = 2.0**0.75  # the distance of its minima from the middle


def _snowflake(z: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    xp = namespace(z)
    a, above = 0.5 * z[..., 0], 0.5 * z[..., 1]
    b = above + 0.5 * _SNOW
    excess = a * a + above * (above + _SNOW)  # r^2 - 2^(-1/2)
    square = a * a + b * b
    axes = [xp.abs(math.cos(k * math.pi / 3.0) * a - math.sin(k * math.pi / 3.0) * b) for k in range(3)]
    nearest = xp.minimum(xp.minimum(axes[0], axes[1]), axes[2])
    # abs(cos)^(1/2) r^0.3, where the distance from the axis is r abs(cos); it is 0 in the middle.
    arms = xp.sqrt(nearest) * xp.where(square > 0.0, square, xp.ones_like(square)) ** -0.1
    ring = excess * (excess + 2.0**0.5)  # r^4 - 1/2
    return xp.minimum(ring * ring + arms, 1.05 * xp.ones_like(square))


class Form(NamedTuple):
    """A function as it is published."""

    title: str
    value: Callable[[Any], Any]
    """Of offsets (..., d) from the first minimum."""
    start: tuple[float, float]
    """Where particles start."""
    minima: tuple[tuple[float, float], ...] | float = 0.0
    """All global minima of a function of two variables; else each coordinate of the only one."""
    least: int = 1
    """The smallest dimension d; the only one where ``minima`` are points."""


_RASTRIGIN: dict[str, Callable[[Any], Any]] = {"sum": _rastrigin, "riedl": _rastrigin_riedl, "mean": _rastrigin_mean}

LANDSCAPES: dict[str, Form] = {
    "sphere": Form("Sphere", _sphere, (-3.0, 3.0)),
    "rastrigin": Form("Rastrigin", _rastrigin, (-3.0, 3.0)),
    "ackley": Form("Ackley", _ackley, (-3.0, 3.0)),
    "rosenbrock": Form("Rosenbrock", _rosenbrock, (-2.0, 2.0), 1.0, 2),
    "griewank": Form("Griewank", _griewank, (-600.0, 600.0)),
    "salomon": Form("Salomon", _salomon, (-10.0, 10.0)),
    "levy": Form("Levy", _levy, (-10.0, 10.0), 1.0),
    "schaffer": Form("Schaffer F6, of the distance", _schaffer, (-100.0, 100.0)),
    "schwefel-2.20": Form("Schwefel 2.20", _schwefel, (-100.0, 100.0)),
    "himmelblau": Form(
        "Himmelblau, four minima", _himmelblau, (-5.0, 5.0),
        ((3.0, 2.0), (-2.805118086952745, 3.131312518250573), (-3.779310253377747, -3.2831859912861696),
         (3.5844283403304917, -1.8481265269644036)), 2,
    ),
    "three-hump-camel": Form("Three-hump camel", _camel, (-5.0, 5.0), ((0.0, 0.0),), 2),
    "snowflake": Form(
        "Snowflake, six minima", _snowflake, (-3.0, 3.0),
        tuple((_SNOW * x, _SNOW * y) for x, y in (
            (0.0, 1.0), (0.75**0.5, 0.5), (0.75**0.5, -0.5), (0.0, -1.0), (-(0.75**0.5), -0.5), (-(0.75**0.5), 0.5)
        )), 2,
    ),
}  # fmt: skip
"""The functions by name."""


@dataclass(frozen=True)
class Landscape:
    """One of the functions above, with its minimum and its axes where they are wanted.

    Callable on arrays (..., d) of any library, also under ``jit`` and ``vmap``, in their dtype. Equal ones have the
    same hash, and programs compiled for one are used for the other.

    Args:
        name: one of ``LANDSCAPES``.
        d: number of variables.
        minimum: where a global minimum is: one number for all coordinates, or d of them; by default as published.
        rotation: seed of a random rotation about that minimum; by default none.
        start: lower and upper bound of each coordinate of the first particles, which need not hold the minimum; by
            default as is usual.
        scaling: of Rastrigin's function, ``"sum"`` (the default), ``"riedl"`` or ``"mean"``.

    Raises:
        SettingError: an argument outside its range; on a call, points of a wrong shape.

    Example:
        >>> f = Landscape("rastrigin", 20, minimum=1.5, start=(2.0, 5.0))
        >>> float(f(np.full(20, 1.5))), float(f(np.full(20, 2.5)))
        (0.0, 20.0)
        >>> bool(f.solved(np.full(20, 1.6)))
        True
    """

    name: str
    d: int
    minimum: float | Sequence[float] | np.ndarray | None = None
    rotation: int | None = None
    start: tuple[float, float] | None = None
    scaling: str | None = None

    def __post_init__(self) -> None:
        if self.name not in LANDSCAPES:
            raise SettingError(f"name must be one of {', '.join(LANDSCAPES)}; got {self.name!r}")
        form = LANDSCAPES[self.name]
        require_count("d", self.d, form.least)
        if isinstance(form.minima, tuple) and self.d != form.least:
            raise SettingError(f"d must be {form.least} for {self.name}, got {self.d!r}")
        if self.rotation is not None:
            require_count("rotation", self.rotation)
        allowed = (None, *_RASTRIGIN) if self.name == "rastrigin" else (None,)
        if self.scaling not in allowed:
            raise SettingError(f"scaling must be one of {allowed} for {self.name}; got {self.scaling!r}")
        start = form.start if self.start is None else numbers("start", self.start, 2)
        if not start[0] < start[1]:
            raise SettingError(f"start must be a lower and a greater upper bound; got {self.start!r}")
        # Each landscape is written in one way only, so that equal ones compare equal.
        given = self.minimum if self.minimum is not None else form.minima
        if isinstance(given, tuple) and given and isinstance(given[0], tuple):
            given = given[0]
        minimum = numbers("minimum", given, self.d)
        for field, value in (
            ("d", int(self.d)),
            ("minimum", minimum if len(set(minimum)) > 1 else minimum[0]),
            ("start", start),
            ("scaling", (self.scaling or "sum") if self.name == "rastrigin" else None),
        ):
            object.__setattr__(self, field, value)

    @property
    def f_opt(self) -> float:
        """The smallest value."""
        return 0.0

    @property
    def x_opt(self) -> Float[np.ndarray, "d"]:
        """The minimum, of several the first."""
        return self.minima[0]

    @cached_property
    def minima(self) -> Float[np.ndarray, "k d"]:
        """All global minima."""
        places = np.reshape(np.asarray(LANDSCAPES[self.name].minima), (-1, 1))
        if isinstance(LANDSCAPES[self.name].minima, tuple):
            places = places.reshape(-1, self.d)
        offsets = np.broadcast_to(places - places[0], (len(places), self.d))
        minima = np.asarray(self.minimum) + (offsets if self.rotation is None else offsets @ self.axes)
        minima.flags.writeable = False
        return minima

    @cached_property
    def axes(self) -> Float[np.ndarray, "d d"]:
        """The rotation R: the function is computed at R (x - minimum)."""
        if self.rotation is None:
            return np.eye(self.d)
        draw = noise.normal(seed_key(self.rotation), 0, (self.d, self.d), like=np.zeros(()))
        q, r = np.linalg.qr(draw)
        return q * np.sign(np.diag(r))  # uniform over rotations and reflections

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        """The value of each point."""
        x = real_points(x, self.d)
        value = _RASTRIGIN[self.scaling] if self.scaling else LANDSCAPES[self.name].value
        with np.errstate(all="ignore"):  # far away infinity is the right answer
            if self.minimum != 0.0:
                x = x - (self.minimum if isinstance(self.minimum, float) else like(x, self.minimum))
            return value(x if self.rotation is None else product(x, self.axes.T))

    def solved(self, x: Float[Array, "*n d"], within: float = 0.25) -> Bool[Array, "*n"]:
        """Whether each point is so near to a minimum in every coordinate (Pinnau et al. 2017): in its basin."""
        x = real_points(x, self.d)
        xp = namespace(x)
        distances = xp.max(xp.abs(x[..., None, :] - like(x, self.minima)), axis=-1)
        return xp.min(distances, axis=-1) < within

    def box(self) -> Box:
        """The search space: where particles start."""
        low, high = numbers("start", self.start, 2)
        return Box(low, high, self.d)


def numbers(name: str, value: Any, count: int) -> tuple[float, ...]:
    """``value`` as so many finite numbers, where one stands for all; else a `SettingError`."""
    due = f"{name} must be finite numbers, {count} of them"
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{due}; got {value!r}") from error
    if array.shape not in ((), (count,)) or not np.isfinite(array).all():
        raise SettingError(f"{due}; got {described(value)}")
    return tuple(np.broadcast_to(array, count).tolist())
