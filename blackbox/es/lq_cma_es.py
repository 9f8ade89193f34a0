"""lq-CMA-ES: CMA-ES that evaluates only as much of a generation as a model of all evaluations needs to rank it.

Source: Hansen 2019, "A global surrogate assisted CMA-ES", GECCO 2019, doi:10.1145/3321707.3321842; constants as in the
author's pycma. In each generation, with the model linear, diagonal or full quadratic by the size of the archive:

    rank      the population by the model, and evaluate its first 1 + 2 %
    refit     the model with them; it is good if it orders the last max(15, min(1.2 evaluated, 0.75 popsize))
              points as their values do, Kendall's tau >= 0.85
    if not    evaluate half as many again, those first that the model has best, and refit
    update    CMA-ES by the model's values if it is good, by the true ones once all are evaluated
    inject    the model's minimum, at most as far away as the sample it takes the place of

The archive starts with 5. Unlike pycma's, the injected point is the minimum within that ball and the box (his
is the model's stationary point, drawn nearer if it is too far), the weights of the regression also fall with the value
(see lq_model.py), and points beyond the box are mirrored into it, and with its mean the whole distribution.

Points to evaluate at once are what ``ask`` returns, so it gives parts of a generation, of one point at first. Points
from elsewhere and late ones enter the archive. A failed evaluation ranks last and is not in the archive, and no
generation is closed by a model of which none of its own members is a part.

Cost per evaluation: O(d^6) in d <= 21 dimensions, where models are full: 0.6 ms at d = 10. State O(d^3).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.arrays import Array, Key
from blackbox.box import reflect
from blackbox.es.cma_es import CMAES, CMAESState, default_popsize
from blackbox.es.lq_model import Model, fitted, kendall, parameters
from blackbox.shaping import bounded_or_failed
from blackbox.strategy import algorithm, require_box, require_integer, require_number
from blackbox.trust_region import least_in_ball

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

LEAST_TAU = 0.85
LARGEST = 1e150  # fitness beyond counts as this much, so that sums of squares stay finite


class LQCMAESState(NamedTuple):
    cma: CMAESState
    points: Float[ndarray, "m d"]
    """The archive, newest first, zeros beyond ``known``."""
    values: Float[ndarray, "m"]
    known: Int[ndarray, ""]
    population: Float[ndarray, "popsize d"]
    """The open generation: evaluated members first, then by the model."""
    fitness: Float[ndarray, "popsize"]
    """Of its evaluated members, infinite where they failed; NaN beyond ``evaluated``."""
    evaluated: Int[ndarray, ""]
    due: Int[ndarray, ""]
    """How many are to be evaluated next."""


@algorithm
class LQCMAES:
    """CMA-ES with a linear-quadratic surrogate of the fitness, for expensive evaluations in up to some 20 dimensions.

    Args:
        popsize: candidates per generation, at least 3; by default 4 + floor(3 ln d).
        sigma0: initial step size, in units of x: about a third of the width of the region of interest.
        low: lower bound of every coordinate.
        high: upper bound of every coordinate.
    """

    popsize: int | None = None
    sigma0: float = 0.2
    low: float = 0.0
    high: float = 1.0

    pure: ClassVar[bool] = False
    needs_values: ClassVar[bool] = True
    injectable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=3)
        require_number("sigma0", self.sigma0, above=0)
        require_box(self.low, self.high)

    @functools.cached_property
    def _cma(self) -> CMAES:
        return CMAES(popsize=self.popsize, sigma0=self.sigma0)

    def population_size(self, d: int) -> int:
        """Members of a generation, of which ``ask`` returns a part."""
        return self.popsize or default_popsize(d)

    def init(self, key: Key, x0: Float[Array, "d"]) -> LQCMAESState:
        x0 = np.asarray(x0)
        d = len(x0)
        popsize = self.population_size(d)
        m = max(2 * parameters(d)[-1], popsize)
        state = LQCMAESState(
            cma=self._cma.init(np.asarray(key), x0),
            points=np.zeros((m, d)),
            values=np.full(m, np.nan),
            known=np.asarray(0)[()],
            population=np.zeros((popsize, d), x0.dtype),
            fitness=np.full(popsize, np.nan),
            evaluated=np.asarray(0)[()],
            due=np.asarray(0)[()],
        )
        return self._opened(state, None)

    def ask(self, state: LQCMAESState, first: int = 0) -> Float[ndarray, "n d"]:
        """The due members of the generation; further ones are the rest of it, and then more of its distribution."""
        rows, last = state.population[state.evaluated :], first + int(state.due)
        while len(rows) < last:
            rows = np.concatenate([rows, self._cma.ask(state.cma, first=int(state.evaluated) + len(rows))])
        return self._inside(rows[first:last]).copy()

    def _inside(self, x: Float[ndarray, "*n d"]) -> Float[ndarray, "*n d"]:
        """Mirrored into the box: CMA-ES goes by the points that it drew, the model by where they are evaluated."""
        is_in = (x >= self.low) & (x <= self.high)
        if is_in.all():
            return x
        inside = self.low + (self.high - self.low) * reflect((x - self.low) / (self.high - self.low))
        return np.where(is_in, x, np.clip(inside, self.low, self.high)).astype(x.dtype)

    def tell(self, state: LQCMAESState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> LQCMAESState:
        rows, values = np.asarray(population), bounded_or_failed(fitness, LARGEST)
        order = np.lexsort((*rows.T, values))  # whatever the order in which they are told
        state = _archived(self._matched(state, rows[order], values[order]), rows[order], values[order])
        known, evaluated, popsize = int(state.known), int(state.evaluated), len(state.fitness)
        if known == 0:
            model, is_good = None, False
        else:
            points, values = state.points[:known], state.values[:known]
            model = fitted(points, values)
            newest = min(known, int(max(15, min(1.2 * evaluated, 0.75 * popsize))))
            tau = kendall(model(points[:newest]), values[:newest]) if newest > 2 else 0.0
            is_good = tau >= LEAST_TAU and bool(np.isfinite(state.fitness[:evaluated]).any())
        if is_good or evaluated == popsize:
            return self._opened(self._closed(state, model), model)
        left = popsize - evaluated
        return self._ranked(state, model)._replace(due=np.asarray(min(left, max(1, math.ceil(evaluated / 2))))[()])

    def _closed(self, state: LQCMAESState, model: Model | None) -> LQCMAESState:
        """The state whose distribution has been updated by the open generation."""
        fitness, failed = state.fitness, np.isposinf(state.fitness)
        if failed.all():
            return state._replace(cma=state.cma._replace(generation=state.cma.generation + 1))
        if np.isnan(fitness).any():
            assert model is not None
            modelled = model(self._inside(state.population))
            fitness = np.where(failed, np.inf, modelled - modelled.min() + np.nanmin(fitness))
        return state._replace(cma=self._mirrored(self._cma.tell(state.cma, state.population, fitness)))

    def _mirrored(self, cma: CMAESState) -> CMAESState:
        """The same distribution about a mean in the box: outside, the fitness is that of the mirror image."""
        crossed = np.floor((cma.mean - self.low) / (self.high - self.low)) % 2 != 0
        sign = np.where(crossed, -1, 1).astype(cma.mean.dtype)
        return cma._replace(
            mean=self._inside(cma.mean),
            p_sigma=sign * cma.p_sigma,
            p_c=sign * cma.p_c,
            C=sign[:, None] * cma.C * sign,
            B=sign[:, None] * cma.B,
        )

    def _opened(self, state: LQCMAESState, model: Model | None) -> LQCMAESState:
        """The state with the next generation."""
        population = self._cma.ask(state.cma)
        if model is not None:
            population[0] = _injected(state.cma, model, population[0], self.low, self.high)
        popsize = len(population)
        due = int(1 + max(0.02 * popsize, 4 - int(state.known)))
        return self._ranked(
            state._replace(
                population=population,
                fitness=np.full(popsize, np.nan),
                evaluated=np.asarray(0)[()],
                due=np.asarray(min(due, popsize))[()],
            ),
            model,
        )

    def _matched(self, state: LQCMAESState, rows: Float[ndarray, "n d"], values: Float[ndarray, "n"]) -> LQCMAESState:
        """The state with the values of the told rows that are members of its generation."""
        members, fitness = self._inside(state.population), state.fitness.copy()
        for row, value in zip(rows, values, strict=True):
            at = np.flatnonzero(np.isnan(fitness) & (members == row).all(axis=1))
            if len(at):
                fitness[at[0]] = value
        order = np.argsort(np.isnan(fitness), kind="stable")
        evaluated = np.count_nonzero(~np.isnan(fitness))
        return state._replace(
            population=state.population[order], fitness=fitness[order], evaluated=np.asarray(evaluated)[()]
        )

    def _ranked(self, state: LQCMAESState, model: Model | None) -> LQCMAESState:
        """The state whose members without a value are in the order of the model."""
        if model is None:
            return state
        population, left = state.population.copy(), slice(int(state.evaluated), None)
        population[left] = population[left][np.argsort(model(self._inside(population[left])), kind="stable")]
        return state._replace(population=population)

    def recommend(self, state: LQCMAESState) -> Float[ndarray, "d"]:
        return state.cma.mean

    def stop(self, state: LQCMAESState) -> dict[str, Bool[Array, ""]]:
        """Reasons to restart: those of CMA-ES."""
        return self._cma.stop(state.cma)


def _archived(state: LQCMAESState, rows: Float[ndarray, "n d"], values: Float[ndarray, "n"]) -> LQCMAESState:
    """The state with told rows in the archive, the best of them newest, instead of the oldest."""
    finite, m = np.isfinite(values), len(state.values)
    points = np.concatenate([rows[finite].astype(np.float64), state.points])[:m]
    values = np.concatenate([values[finite], state.values])[:m]
    return state._replace(points=points, values=values, known=np.asarray(np.count_nonzero(~np.isnan(values)))[()])


def _injected(
    cma: CMAESState, model: Model, instead: Float[ndarray, "d"], low: float, high: float
) -> Float[ndarray, "d"]:
    """The model's minimum in the box, at most as far from the mean, in the metric of C, as the sample ``instead``."""
    axes = cma.sigma * cma.B * cma.D
    radius = float(np.linalg.norm((cma.B.T @ (instead - cma.mean)) / (cma.sigma * cma.D)))
    if not 0 < radius < math.inf:  # a distribution as narrow as rounding errors
        return instead
    hessian = model.hessian / (model.scale * model.scale[:, None])
    gradient = model.gradient / model.scale + hessian @ (cma.mean - model.center)
    step, free = np.zeros(len(instead)), np.ones(len(instead), bool)
    inner, center, left = axes, step.copy(), radius  # the ball is center + inner z for |z| <= left
    while True:
        g, h = (gradient + hessian @ center)[free], hessian[np.ix_(free, free)]
        step[free] = (center + inner @ least_in_ball(inner[free].T @ g, inner[free].T @ h @ inner[free], left))[free]
        x = np.clip(cma.mean + step, low, high)
        hit = free & (x != cma.mean + step)
        # Coordinates that leave the box stay at its bound; the others have what that leaves of the ball.
        step, free = x - cma.mean, free & ~hit
        inverse = np.linalg.pinv(axes[~free])
        z = inverse @ step[~free]
        if not hit.any() or not free.any() or (room := radius**2 - float(z @ z)) <= 0:
            break
        inner, center, left = axes - axes @ inverse @ axes[~free], axes @ z, math.sqrt(room)
        center[~free] = step[~free]
    return x.astype(instead.dtype) if np.isfinite(x).all() else instead
