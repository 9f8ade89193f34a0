"""Quadratic models in a trust region: each next point minimizes a model of all that is known near the best one.

Sources: Powell 2006, "The NEWUOA software for unconstrained optimization without derivatives" (sections 2 to 7), and
Powell 2009, "The BOBYQA algorithm for bound constrained optimization without derivatives" (DAMTP 2009/NA06). With
x_k the best point, s a step from it, and Q the model that takes the known values of up to (d + 1)(d + 2) / 2 points:

    start     x0, then for each coordinate i in turn x_k + rho e_i, or x_k - rho e_i away from the nearer bound
    model     but for a multiple of the identity, which is free, the Hessian changes as little as the values allow
              (Frobenius norm): d + 1 points give a plane, d + 2 a sphere, all points determine it
    step      minimize Q(x_k + s) where |s| <= delta, in the box
    radius    r = (f(x_k) - f(x_k + s)) / (Q(x_k) - Q(x_k + s)):  delta is halved if r <= 0.1, and may double if r > 0.7
    geometry  a step that is too short or of no use, and a point beyond 2 delta: that one moves to where it tells most
    finer     otherwise rho, below which delta does not fall, shrinks; the run ends at rho_end

A point that is told makes room by its Lagrange functions: the one that it can stand in for best, and that is far, goes.
Unlike Powell's codes this one takes any points, in any order, such as those of workers that run ahead, fits the model
anew each time (O(points^3), where his updates take O(points^2)), and finds steps by eigenvalues. His start has 2 d + 1
points about x0, for the Hessian's diagonal. With d + 1 that move on with the best one, and a sphere until more is
known, the area within 60 evaluations of BBOB's functions in 5 dimensions is 0.082 instead of 0.063.

Cost per evaluation: O((points + d)^3): 0.4 ms at d = 5, 1 ms at d = 10. State O(points d).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.arrays import Array, Key
from blackbox.errors import SettingError
from blackbox.kernels.noise import normal
from blackbox.shaping import bounded_or_failed
from blackbox.strategy import algorithm, require_box, require_integer, require_number
from blackbox.trust_region import least_in_box

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_MOST_POINTS = 80  # by default, or 2 d + 1: more would take longer than most evaluations
_LARGEST = 1e30  # values beyond are taken as this large
_DESIGN, _TRUST, _GEOMETRY = range(3)  # what the due point is for


class QuadraticState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    points: Float[ndarray, "points d"]
    values: Float[ndarray, "points"]
    """NaN where a point of the start is awaited, or a row not in use."""
    used: Int[Array, ""]
    """Rows in use."""
    hessian: Float[ndarray, "d d"]
    rho: Float[Array, ""]
    delta: Float[Array, ""]
    due: Float[ndarray, "d"]
    purpose: Int[Array, ""]
    moved: Int[Array, ""]
    """The row that the due point is to replace, if it is for the geometry."""
    predicted: Float[Array, ""]
    """What the due point is to gain, if it is for the trust region."""
    done: Bool[Array, ""]


class Model(NamedTuple):
    """A quadratic about the best point, in units of delta, and the inverse of what it was solved with."""

    best: int
    center: Float[ndarray, "d"]
    offsets: Float[ndarray, "n d"]
    inverse: Float[ndarray, "n+terms n+terms"]
    gradient: Float[ndarray, "d"]
    hessian: Float[ndarray, "d d"]

    def lagrange(self, step: Float[ndarray, "d"]) -> Float[ndarray, "n"]:
        """The Lagrange functions of all points, after a step from the best one."""
        n = len(self.offsets)
        along = np.concatenate([0.5 * (self.offsets @ step) ** 2, [1.0], step, [0.5 * step @ step]])
        return self.inverse[:n] @ along[: len(self.inverse)]


@algorithm
class Quadratic:
    """Trust-region search by quadratic models, for few evaluations without much noise.

    Args:
        points: that the model takes, from d + 2 to (d + 1)(d + 2) / 2; by default as many, at most 80 or 2 d + 1.
        sigma0: distance of the first points, and the first radius of the trust region, in units of x.
        rho_end: the last radius, in units of sigma0, at which the run ends.
        low: lower bound of every coordinate.
        high: upper bound of every coordinate.
    """

    points: int | None = None
    sigma0: float = 0.2
    rho_end: float = 1e-7
    low: float = 0.0
    high: float = 1.0

    pure: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    injectable: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("points", self.points, low=3)
        require_number("sigma0", self.sigma0, above=0)
        require_number("rho_end", self.rho_end, above=0, high=1)
        require_box(self.low, self.high)

    def init(self, key: Key, x0: Float[Array, "d"]) -> QuadraticState:
        start = np.asarray(x0)
        d, rho = len(start), min(self.sigma0, 0.5 * (self.high - self.low))
        most = self.points or max(2 * d + 1, min(_MOST_POINTS, (d + 1) * (d + 2) // 2))
        if not d + 2 <= most <= max(2 * d + 1, (d + 1) * (d + 2) // 2):
            allowed = f"from {d + 2} to {(d + 1) * (d + 2) // 2} with {d} coordinates"
            raise SettingError(f"points must be {allowed}; got {most}")
        count = d + 1
        points, values = np.zeros((most, d)), np.full(most, np.nan)
        points[0] = _inside(start.astype(np.float64), rho, self.low, self.high).astype(start.dtype)
        points[:count] = self._design(points[:count], values[:count], rho, start.dtype)
        return QuadraticState(
            key=np.asarray(key),
            generation=np.asarray(0)[()],
            points=points,
            values=values,
            used=np.asarray(count)[()],
            hessian=np.zeros((d, d)),
            rho=np.float64(rho),
            delta=np.float64(rho),
            due=points[0].astype(start.dtype),
            purpose=np.asarray(_DESIGN)[()],
            moved=np.asarray(0)[()],
            predicted=np.float64(0),
            done=np.bool_(False),
        )

    def _design(
        self, points: Float[ndarray, "n d"], values: Float[ndarray, "n"], rho: float, dtype: np.dtype[Any]
    ) -> Float[ndarray, "n d"]:
        """The points of the start, those that are awaited moved to where the values suggest.

        The first is x0; each other one is from the best one of them along an axis of its own.
        """
        points, best = points.copy(), points[0 if np.isnan(values).all() else np.nanargmin(values)]
        x0, (low, high) = points[0], np.asarray([self.low, self.high], dtype)
        for row in 1 + np.flatnonzero(np.isnan(values[1:])):
            axis = row - 1
            points[row] = best
            points[row, axis] += -rho if x0[axis] - low > high - x0[axis] else rho
        return np.clip(points, low, high).astype(dtype).astype(np.float64)

    def ask(self, state: QuadraticState, first: int = 0) -> Float[ndarray, "1 d"]:
        """The due point; further members are the points of the start that follow it, then some in the trust region."""
        if first == 0:
            return state.due[None]
        awaited = np.flatnonzero(np.isnan(state.values[: state.used]))
        if first < len(awaited):
            return state.points[awaited[first]][None].astype(state.due.dtype)
        z = normal(state.key, state.generation, (1, len(state.due)), first=first, like=state.due)
        center = state.points[_best(state)] if _best(state) is not None else state.due
        step = state.delta / math.sqrt(len(state.due))
        return np.clip(center + step * z, self.low, self.high).astype(state.due.dtype)

    def tell(
        self, state: QuadraticState, population: Float[Array, "n d"], fitness: Float[Array, "n"]
    ) -> QuadraticState:
        rows, values = np.asarray(population, np.float64), bounded_or_failed(fitness, _LARGEST)
        state = state._replace(generation=state.generation + 1, points=state.points.copy(), values=state.values.copy())
        is_due = (np.asarray(population) == state.due).all(1)
        # The due point first, then the best: whatever the order in which they are told.
        order = np.lexsort((*rows.T[::-1], values, ~is_due))
        if state.done:
            return state
        if state.purpose == _DESIGN:
            return self._started(state, rows[order], values[order])
        is_short = False
        for row, value, is_due_one in zip(rows[order], values[order], is_due[order], strict=True):
            if is_due_one:
                state, is_short = self._due_told(state, row, value)
                is_due[:] = False
            elif np.isfinite(value):
                state = self._taken(state, row, value)
        return self._planned(state, is_short)

    def _started(
        self, state: QuadraticState, rows: Float[ndarray, "n d"], values: Float[ndarray, "n"]
    ) -> QuadraticState:
        """Values of the points of the start; when all are in, the first step."""
        count = int(state.used)
        points, known, dtype = state.points[:count], state.values[:count], state.due.dtype
        others = []
        for row, value in zip(rows.astype(dtype).astype(np.float64), values, strict=True):
            own = np.flatnonzero((points == row).all(1) & np.isnan(known)).tolist() or _along(points, known, row)
            if own:
                points[own[0]], known[own[0]] = row, value
                points[:] = self._design(points, known, float(state.rho), dtype)
            elif np.isfinite(value):
                others.append((row, value))
        awaited = np.flatnonzero(np.isnan(known))
        if len(awaited):
            return state._replace(due=points[awaited[0]].astype(dtype))
        state = _without(state, np.isinf(state.values))._replace(purpose=np.asarray(_TRUST)[()])
        if state.used == 0:  # nothing is known here
            return state._replace(done=np.bool_(True))
        for row, value in others:
            state = self._taken(state, row, value)
        return self._planned(state, False)

    def _due_told(self, state: QuadraticState, row: Float[ndarray, "d"], value: float) -> tuple[QuadraticState, bool]:
        """The state with the due point's value, and whether its step was of no use."""
        if state.purpose == _GEOMETRY:
            if not np.isfinite(value):
                return _without(state, np.arange(len(state.points)) == state.moved), False
            state.points[state.moved], state.values[state.moved] = row, value
            return state, False
        if state.used <= len(row):  # the point leads out of a plane: nothing was predicted
            if np.isfinite(value):
                return self._taken(state, row, value), False
            shorter = np.float64(0.5 * state.delta)
            return self._finer(state) if shorter < state.rho else state._replace(delta=shorter), False
        best = _best(state)
        assert best is not None
        size = float(np.linalg.norm(row - state.points[best]))
        ratio = (state.values[best] - value) / state.predicted if state.predicted > 0 else -1.0
        delta = 0.5 * state.delta
        delta = min(delta, size) if ratio <= 0.1 else max(delta, size if ratio <= 0.7 else 2 * size)
        is_finest = delta <= 1.5 * state.rho
        if np.isfinite(value):
            state = self._taken(state, row, value)
        state = state._replace(delta=np.float64(state.rho if is_finest else delta))
        is_short = size <= state.rho * (1 + 1e-9) or not np.isfinite(value)
        if ratio <= 0 and is_finest and is_short and _farthest(state)[1] <= 2 * state.delta:
            return self._finer(state), False
        return state, bool(ratio <= 0.1)

    def _taken(self, state: QuadraticState, row: Float[ndarray, "d"], value: float) -> QuadraticState:
        """The state with one more point, or one instead of another."""
        count = state.used
        apart = np.linalg.norm(state.points[:count] - row, axis=1)
        if count < len(state.points) and apart.min() > 1e-3 * state.rho:
            state.points[count], state.values[count] = row, value
            return state._replace(used=count + 1)
        model = _fitted(state)
        step = (row - model.center) / state.delta
        is_better = value < state.values[model.best]
        lagrange = np.abs(model.lagrange(step))
        distance = np.linalg.norm(model.offsets - (step if is_better else 0.0), axis=1)
        score = np.maximum(1.0, distance / max(0.1, state.rho / state.delta)) ** 4 * lagrange**2
        if not is_better:
            score[model.best] = -1.0
        out = int(np.argmax(score))
        if lagrange[out] > 1e-8:
            state.points[out], state.values[out] = row, value
        return state

    def _planned(self, state: QuadraticState, is_short: bool) -> QuadraticState:
        """The state with its next due point, after a step that was, or was not, of use."""
        while not state.done:
            if state.used <= len(state.due):
                return self._spanning(state)
            model = _fitted(state)
            state = state._replace(hessian=model.hessian / state.delta**2)
            far, distance = _farthest(state)
            if is_short and distance > 2 * state.delta:
                return self._geometry(state, model, far)
            low, high = ((bound - model.center) / state.delta for bound in (self.low, self.high))
            step = least_in_box(model.gradient, model.hessian, 1.0, low, high)
            predicted = -float(model.gradient @ step + 0.5 * step @ model.hessian @ step)
            if np.linalg.norm(step) * state.delta >= 0.5 * state.rho and predicted > 0:
                due = np.clip(model.center + state.delta * step, self.low, self.high).astype(state.due.dtype)
                return state._replace(due=due, purpose=np.asarray(_TRUST)[()], predicted=np.float64(predicted))
            if distance > 2 * max(state.delta, state.rho):
                return self._geometry(state, model, far)
            state, is_short = self._finer(state), False
        return state._replace(due=state.points[_best(state) or 0].astype(state.due.dtype), predicted=np.float64(0))

    def _spanning(self, state: QuadraticState) -> QuadraticState:
        """The state whose due point leads out of the plane in which all others lie, as where some have failed.

        To either side in turns, shorter each time, and not as far as the point of the start that may have failed there.
        """
        best = state.points[_best(state) or 0]
        step = np.linalg.svd(state.points[: state.used] - best)[2][-1] * 0.75 * state.delta * (-1.0) ** state.generation
        one, other = (np.clip(best + side, self.low, self.high) for side in (step, -step))
        has_room = np.linalg.norm(one - best) >= 0.5 * np.linalg.norm(other - best)
        due = (one if has_room else other).astype(state.due.dtype)
        return state._replace(due=due, purpose=np.asarray(_TRUST)[()], predicted=np.float64(0))

    def _finer(self, state: QuadraticState) -> QuadraticState:
        """The state with a smaller rho, or one that is done."""
        resolution = 10 * float(np.finfo(state.due.dtype).eps) * max(abs(self.low), abs(self.high))
        end = max(self.rho_end * min(self.sigma0, 0.5 * (self.high - self.low)), resolution)
        ratio = state.rho / end
        if ratio <= 1:
            return state._replace(done=np.bool_(True))
        rho = end if ratio <= 16 else math.sqrt(ratio) * end if ratio <= 250 else 0.1 * state.rho
        return state._replace(rho=np.float64(rho), delta=np.float64(max(0.5 * state.rho, rho)))

    def _geometry(self, state: QuadraticState, model: Model, moved: int) -> QuadraticState:
        """The state whose due point takes the place of another, where its Lagrange function is largest."""
        n, offsets = len(model.offsets), model.offsets
        distance = float(np.linalg.norm(offsets[moved]))
        radius = max(min(0.1 * distance, 0.5), float(state.rho / state.delta))
        low, high = ((bound - model.center) / state.delta for bound in (self.low, self.high))
        gradient, curvature = _derivatives(offsets, model.inverse[:, moved])
        steps = [least_in_box(sign * gradient, sign * curvature, radius, low, high) for sign in (1.0, -1.0)]
        for i in range(n):
            if (length := float(np.linalg.norm(offsets[i]))) > 0:
                along = radius / length * offsets[i]
                steps += [np.clip(along, low, high), np.clip(-along, low, high)]
        step = max(steps, key=lambda step: abs(model.lagrange(step)[moved]))
        due = np.clip(model.center + state.delta * step, self.low, self.high).astype(state.due.dtype)
        return state._replace(due=due, purpose=np.asarray(_GEOMETRY)[()], moved=np.asarray(moved)[()])

    def recommend(self, state: QuadraticState) -> Float[ndarray, "d"]:
        best = _best(state)
        return state.due if best is None else state.points[best].astype(state.due.dtype)

    def stop(self, state: QuadraticState) -> dict[str, Bool[Array, ""]]:
        """The one reason to end: the finest steps gain nothing any more."""
        return {"rho_end": state.done}


def _inside(x0: Float[ndarray, "d"], rho: float, low: float, high: float) -> Float[ndarray, "d"]:
    """A start on the bounds or at least rho away from them (BOBYQA)."""
    x0 = np.clip(x0, low, high)
    for bound, inward in ((low, 1.0), (high, -1.0)):
        distance = (x0 - bound) * inward
        x0 = np.where(distance < 0.5 * rho, bound, np.where(distance < rho, bound + inward * rho, x0))
    return x0


def _along(points: Float[ndarray, "n d"], values: Float[ndarray, "n"], row: Float[ndarray, "d"]) -> list[int]:
    """Awaited rows of a start for which a point will do: it is from a known one along their axis.

    Workers that run ahead have such points, from what was the best one when they were asked for.
    """
    is_known = ~np.isnan(values)
    differs = points[is_known] != row
    axes = differs[differs.sum(1) == 1].argmax(1)[:1]
    return [int(axis) + 1 for axis in axes if not is_known[axis + 1]]


def _without(state: QuadraticState, failed: Bool[ndarray, "points"]) -> QuadraticState:
    """The state without some rows: what a failed evaluation would stand for, no number says."""
    kept = np.flatnonzero(~failed[: state.used])
    points, values = np.zeros_like(state.points), np.full_like(state.values, np.nan)
    points[: len(kept)], values[: len(kept)] = state.points[kept], state.values[kept]
    return state._replace(points=points, values=values, used=np.asarray(len(kept))[()])


def _best(state: QuadraticState) -> int | None:
    """The row of the least value; None before any."""
    values = state.values[: state.used]
    return None if np.isnan(values).all() else int(np.nanargmin(values))


def _farthest(state: QuadraticState) -> tuple[int, float]:
    """The row farthest from the best one, and how far it is."""
    points = state.points[: state.used]
    distance = np.linalg.norm(points - points[np.argmin(state.values[: state.used])], axis=1)
    return int(np.argmax(distance)), float(distance.max())


def _fitted(state: QuadraticState) -> Model:
    """The model that takes all values, whose Hessian is nearest to the last one's (NEWUOA, equations 3.10 to 3.12)."""
    points, values = state.points[: state.used], state.values[: state.used]
    best = int(np.argmin(values))
    offsets = (points - points[best]) / state.delta
    n, d = offsets.shape
    terms = np.column_stack([np.ones(n), offsets, 0.5 * (offsets**2).sum(1)])  # that cost the norm nothing
    if n < d + 2 or len(state.points) == d + 2:  # whose Hessians would never be anything but spheres
        terms = terms[:, :-1]
    matrix = np.block([[0.5 * (offsets @ offsets.T) ** 2, terms], [terms.T, np.zeros((terms.shape[1],) * 2)]])
    try:
        inverse = np.linalg.inv(matrix)
        is_usable = bool(np.abs(matrix @ inverse - np.eye(len(matrix))).max() < 1e-6)  # not NaN, either
    except np.linalg.LinAlgError:
        is_usable = False
    if not is_usable:  # as where all points lie on two lines
        inverse = np.linalg.pinv(matrix, hermitian=True)
    hessian = state.hessian * state.delta**2
    rest = values - values[best] - 0.5 * np.einsum("ij,jk,ik->i", offsets, hessian, offsets)
    solved = inverse[:, :n] @ rest
    gradient, change = _derivatives(offsets, solved)
    hessian = hessian + change
    return Model(best, points[best], offsets, inverse, gradient, 0.5 * (hessian + hessian.T))


def _derivatives(
    offsets: Float[ndarray, "n d"], solved: Float[ndarray, "n+terms"]
) -> tuple[Float[ndarray, "d"], Float[ndarray, "d d"]]:
    """Gradient and Hessian at the best point of what a column of the inverse, or a sum of some, stands for."""
    n, d = offsets.shape
    hessian = (offsets.T * solved[:n]) @ offsets
    return solved[n + 1 : n + 1 + d], hessian + np.eye(d) * (solved[n + 1 + d] if len(solved) > n + 1 + d else 0.0)
