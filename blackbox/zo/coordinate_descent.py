"""Descent along gradients taken coordinate by coordinate, for flat vectors: CGE with AdaMM.

Sources: Kiefer & Wolfowitz 1952, "Stochastic estimation of the maximum of a regression function" (differences);
Chen, Liu, Xu, Li, Lin, Hong & Cox 2019, "ZO-AdaMM: Zeroth-Order Adaptive Momentum Method for Black-Box Optimization"
(arXiv:1910.06513), algorithm 1 (steps). For every coordinate i

    g_i   <-  (f(mean + mu e_i) - f(mean - mu e_i)) / (2 mu)
    mean  <-  mean - lr m / sqrt(v_max)         with AdaMM's moments of g (:mod:`blackbox.zo.adamm`)

The partial derivative is the slope of the regression line through all values told along a coordinate, read off
positions: of two points the difference, also if one has been clipped. A coordinate without values at two points stays
where it is.

Cost per generation: 2 d candidates, O(d^2). State O(d).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.strategy import algorithm, require_number
from blackbox.zo.adamm import Moments, at_rest, no_moments, step_of, updated
from blackbox.zo.mirrored import bounded, kept_values

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class CoordinateDescentState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    mean: Float[Array, "d"]
    moments: Moments


@algorithm
class CoordinateDescent:
    """Descent along coordinate-wise gradient estimates; nothing about it is random.

    Further members of a generation are at a half, a third, ... of the radius.

    Args:
        mu: radius of the differences, in units of x.
        lr: learning rate, about the length of the first steps in each coordinate, in units of x.
        beta1: decay of the mean gradient.
        beta2: decay of the mean squared gradient.
    """

    mu: float = 0.01
    lr: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.3

    needs_values: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_number("mu", self.mu, above=0)
        require_number("lr", self.lr, above=0)
        require_number("beta1", self.beta1, low=0, high=0.9999)
        require_number("beta2", self.beta2, low=0, high=0.9999)

    def init(self, key: Key, x0: Float[Array, "d"]) -> CoordinateDescentState:
        xp = namespace(x0)
        return CoordinateDescentState(
            key=xp.asarray(key), generation=xp.asarray(0)[()], mean=x0, moments=no_moments(x0)
        )  # fmt: skip

    def ask(self, state: CoordinateDescentState, first: int = 0) -> Float[Array, "2*d d"]:
        xp = namespace(state.mean)
        d = state.mean.shape[0]
        member = xp.arange(first, first + 2 * d)
        side = xp.astype(1 - 2 * (member % 2), state.mean.dtype)
        step = self.mu * side / xp.astype(1 + member // (2 * d), state.mean.dtype)
        is_own = (member % (2 * d) // 2)[:, None] == xp.arange(d)[None, :]
        return state.mean + step[:, None] * xp.astype(is_own, state.mean.dtype)

    def tell(
        self, state: CoordinateDescentState, population: Float[Array, "n d"], fitness: Float[Array, "n"]
    ) -> CoordinateDescentState:
        gradient, known = partial_derivatives(population, fitness, state.mean)
        moments = updated(state.moments, gradient, known, self.beta1, self.beta2)
        step = step_of(moments, self.lr)
        mean = namespace(step).where(known, bounded(state.mean - step), state.mean)
        return CoordinateDescentState(state.key, state.generation + 1, mean, moments)

    def recommend(self, state: CoordinateDescentState) -> Float[Array, "d"]:
        return state.mean

    def stop(self, state: CoordinateDescentState) -> dict[str, Bool[Array, ""]]:
        """``tolx``: the mean has come to rest, at a minimum or where the function is flat."""
        return {"tolx": at_rest(state.moments, self.lr, self.mu)}


def partial_derivatives(
    population: Float[Array, "n d"], fitness: Float[Array, "n"], mean: Float[Array, "d"]
) -> tuple[Float[Array, "d"], Bool[Array, "d"]]:
    """Slopes of the values along each coordinate, and where there are values to tell them.

    A row is along the coordinate of its largest step.
    """
    xp = namespace(mean)
    f, usable = kept_values(fitness, mean)
    steps = population - mean
    size = xp.abs(steps)
    is_along = usable[:, None] & (size > 0) & (size == xp.max(size, axis=1, keepdims=True))
    along, zeros = xp.astype(is_along, steps.dtype), xp.zeros_like(mean)
    count = xp.maximum(xp.sum(along, axis=0), xp.ones_like(mean))
    unit = xp.max(size * along, axis=0)  # squares of small steps would vanish, those of large ones overflow
    steps = along * steps / xp.where(unit > 0, unit, xp.ones_like(unit))
    deviation = along * (steps - xp.sum(steps, axis=0) / count)
    spread = xp.sum(deviation * deviation, axis=0)
    known = spread > 1e-6
    own = xp.astype(along, f.dtype)  # less each coordinate's own mean: values along one do not touch another
    centered = own * (f[:, None] - xp.sum(own * f[:, None], axis=0) / xp.astype(count, f.dtype))
    slope = xp.astype(xp.sum(centered * xp.astype(deviation, f.dtype), axis=0), mean.dtype)
    slope = slope / xp.where(known, spread * unit, xp.ones_like(spread))
    return bounded(xp.where(known, slope, zeros)), known
