"""Where a swarm agrees: weights of its particles, how sharp they are, and their weighted mean.

Everything here takes any number of leading axes, for runs: energies are of shape (..., n), particles (..., n, d).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from blackbox.arrays import Array, namespace, repeat, settled
from blackbox.shaping import finite_or_worst
from blackbox.strategy import require_number, require_one_of, require_order

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Sharpness = Literal["geometric", "effective", "hard"]
SHARPNESSES: tuple[Sharpness, ...] = get_args(Sharpness)
"""How alpha is controlled: it grows by a factor each step; so that an effective share of the particles counts; or the
best particle alone counts."""

HARD = 1e30
"""The alpha by which the best particle alone counts."""

_HALVINGS = 6  # of the interval of alpha, after which a step of Newton's leaves less than 1 % of the share, seldom 4 %
_INTERVAL = 11.512925464970229  # ln 1e5: alpha is from 1e-5 to 1e5 in units of the mean energy


def softmin(energy: Float[Array, "*runs n"], alpha: Float[Array, "*runs"] | float) -> Float[Array, "*runs n"]:
    """Gibbs weights exp(-alpha energy), which sum to 1 (Pinnau et al. 2017, equation 1.3).

    Only differences count, so the least energy is taken off first and nothing underflows that has weight. NaN and
    infinity have none; where nothing else is known, all weigh the same, and where some are minus infinity, these do.
    """
    xp = namespace(energy)
    e = finite_or_worst(energy)
    alpha = xp.asarray(alpha, dtype=e.dtype)[..., None]
    above, counts = above_least(e)
    above = xp.minimum(above, 1000.0 / alpha)  # where the exponential is 0 in any dtype
    weights = xp.where(counts, xp.exp(-alpha * above), xp.zeros_like(e))
    return weights / xp.sum(weights, axis=-1, keepdims=True)


def effective(energy: Float[Array, "*runs n"], share: Float[Array, ""] | float) -> Float[Array, "*runs"]:
    """The alpha of which the effective number of particles, 1 / sum w^2, is this share of those that have a value.

    By bisection of its logarithm in units of the mean energy above the least, so that neither level nor scale of the
    objective matter, and a step of Newton's method. Where no alpha is sharp or soft enough, the nearest.
    """
    xp = namespace(energy)
    e = finite_or_worst(energy)
    above, counts = above_least(e)
    zero = xp.zeros_like(e)
    unit = mean_above(above, counts)
    unit = xp.where(unit > 0, unit, xp.ones_like(unit))
    scaled = xp.where(counts, above, zero) / unit[..., None]
    target = share * xp.sum(xp.astype(counts, e.dtype), axis=-1)

    def sums(alpha: Float[Array, "*runs"]) -> tuple[Array, Array, Array]:
        weights = xp.where(counts, xp.exp(-alpha[..., None] * scaled), zero)
        return weights, xp.sum(weights, axis=-1), xp.sum(weights * weights, axis=-1)

    def halve(bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        middle, half = bracket
        _, first, second = sums(xp.exp(middle))
        half = half / 2
        return middle + xp.where(first * first > target * second, half, -half), half

    middle, half = repeat(halve, _HALVINGS, (xp.zeros_like(unit), xp.zeros_like(unit) + _INTERVAL))
    alpha = xp.exp(middle)
    weights, first, second = sums(alpha)
    excess = xp.log(first * first / (target * second))
    # As sums of squares, which XLA on CPUs adds up many at a time, and products of two arrays one by one.
    once, twice = xp.sqrt(weights * scaled), weights * xp.sqrt(scaled)
    fall = 2 * alpha * (xp.sum(once * once, axis=-1) / first - xp.sum(twice * twice, axis=-1) / second)
    step = xp.clip(excess / xp.maximum(fall, 1e-3 * xp.abs(excess) + 1e-30), -half, half)
    return xp.exp(middle + step) / unit


def above_least(e: Float[Array, "*runs n"]) -> tuple[Float[Array, "*runs n"], Bool[Array, "*runs n"]]:
    """Energies less the least one, finite; and which of them count: infinity does where there is nothing else."""
    xp = namespace(e)
    least = xp.min(e, axis=-1, keepdims=True)
    return difference(e, least), (e < xp.inf) | (least == xp.inf)


def difference(e: Float[Array, "*runs n"], other: Float[Array, "*runs #n"]) -> Float[Array, "*runs n"]:
    """``e - other``, finite also where these are not, and so are sums of a million."""
    xp = namespace(e)
    largest = xp.finfo(e.dtype).max / 2**22
    return xp.clip(e, -largest, largest) - xp.clip(other, -largest, largest)


def mean_above(above: Float[Array, "*runs n"], counts: Bool[Array, "*runs n"]) -> Float[Array, "*runs"]:
    """The mean of those that count, a scale of the energies."""
    xp = namespace(above)
    known = xp.where(counts, above, xp.zeros_like(above))
    mean: Array = xp.sum(known, axis=-1) / xp.sum(xp.astype(counts, above.dtype), axis=-1)
    return mean


def geometric(
    start: Array | float, growth: Array | float, most: Array | float, age: Int[Array, "*runs"], like: Array
) -> Float[Array, "*runs"]:
    """Alpha after so many steps, min(start growth^age, most), in the library and dtype of ``like``."""
    xp = namespace(like)
    start, growth, most = (xp.log(xp.asarray(number, dtype=like.dtype)) for number in (start, growth, most))
    alpha: Array = xp.exp(xp.minimum(start + growth * xp.astype(age, like.dtype), most))
    return alpha


def require_sharpness(settings: Any, kinds: Sequence[Sharpness | None] = SHARPNESSES) -> None:
    """Raise :class:`SettingError` unless ``alpha`` is one of ``kinds``, and what :func:`alpha_of` reads fits it."""
    require_one_of("alpha", settings.alpha, kinds)
    for name in ("alpha0", "growth", "alpha_max"):
        require_number(name, getattr(settings, name), above=0)
    require_order("alpha0", settings.alpha0, "alpha_max", settings.alpha_max)
    require_number("share", settings.share, above=0, high=1)


def alpha_of(
    kind: Sharpness, settings: Any, age: Int[Array, "*runs"], energy: Float[Array, "*runs n"]
) -> Float[Array, "*runs"]:
    """Alpha by this kind of control in step number ``age`` of a swarm, from its method's settings of these names."""
    if kind == "hard":
        return settled(namespace(energy).full_like(energy[..., 0], HARD))
    if kind == "effective":
        return effective(energy, settings.share)
    return geometric(settings.alpha0, settings.growth, settings.alpha_max, age, energy)


def mean_of(weights: Float[Array, "*runs n"], particles: Float[Array, "*runs n d"]) -> Float[Array, "*runs d"]:
    """The consensus: the weighted mean of the particles."""
    return (weights[..., None, :] @ particles)[..., 0, :]
