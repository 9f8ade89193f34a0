"""TuRBO: Bayesian optimization in a trust region, over floats, integers and choices.

Sources: Eriksson et al. 2019, "Scalable global optimization via local Bayesian optimization" (arXiv:1910.01739),
section 2 and supplement; Wan et al. 2021, "Think global and act local" (Casmopolitan, arXiv:2102.07188), for choices.

    start    x0, then a Latin hypercube of 2 points for each variable
    model    a Gaussian process of all points (:mod:`blackbox.model.gaussian_process`), of the nearest ones once there
             are more than ``points``
    region   around the known point of least mean, of sides L l_i / (geometric mean of l) for lengths l of the process
    next     the greatest expected improvement there: the best of random candidates, which differ from the center in
             all or in few variables, moved along the gradient
    L        doubles after 3 improvements in a row, halves after 3 others (5 where there are integers or choices); the
             run ends when L < 2^-7

Departures: the paper takes Thompson samples, max(4, d) failures, and needs improvements of a thousandth. Here only
further members are Thompson samples: with 60 evaluations of BBOB in 5 dimensions, expected improvement reaches more.
What is asked and not told, member 0 of former generations, counts as if its value were the model's mean, so that it is
not asked again nearby. Failed evaluations are no values of the model; another process tells where they are likely, and
the improvement is multiplied with the probability that it is not.

Cost per evaluation: O(points^3 + candidates points^2), with 50 points 4 ms, with 160 some 10 ms. State O(points d).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.arrays import Array, Key
from blackbox.errors import SettingError
from blackbox.kernels.noise import normal, uniform
from blackbox.layout import Layout
from blackbox.model.covariance import Features, Kernel
from blackbox.model.gaussian_process import Process, conditioned, fitted, prior, relative, steps_due
from blackbox.model.improvement import among, bytes_of, climbed, log_improvement, log_success
from blackbox.model.region import SHORTEST, Region
from blackbox.model.variables import Variables, variables
from blackbox.shaping import bounded_or_failed
from blackbox.strategy import algorithm, require_box, require_integer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

CLIMBERS, CLIMB = 4, 6  # candidates that are moved along the gradient, and steps
MARGIN = 0.1  # of the space that the start leaves out: at a border half of what a point tells is about the outside
FIT = 100  # points of the fit
PENDING = 16  # unanswered points that are remembered
_LARGEST = 1e100  # values beyond are taken as this large
_DESIGN, _FURTHER, _CANDIDATES, _SAMPLE = range(1, 5)  # leaves of the noise


class TurboState(NamedTuple):
    key: Key
    tells: Int[Array, ""]
    due: Float[ndarray, "d"]
    """Member 0, which is asked next."""
    points: Float[ndarray, "points v"]
    values: Float[ndarray, "points"]
    """Infinite where the evaluation failed."""
    used: Int[Array, ""]
    """Rows in use."""
    told: Int[Array, ""]
    pending: Float[ndarray, "pending d"]
    """Due points that were asked and are not told yet, the latest first; NaN where there are none."""
    theta: Float[ndarray, "p"]
    """Hyperparameters of the process."""
    fitted_at: Int[Array, ""]
    """What ``told`` was when they were last fitted."""
    region: Region


@algorithm
class Turbo:
    """TuRBO: Gaussian processes in a trust region, for few and costly evaluations.

    Args:
        popsize: candidates per generation; more than one for evaluations side by side.
        points: known points that the model takes, those nearest to the best.
        candidates: random ones among which each next point is chosen.
        layout: ``Space.layout``: an entry per variable in the order of coordinates. ("float",): one coordinate;
            ("int", edges): one coordinate, whose value is the cell of [0, 1] that it is in, between ascending
            inner edges; ("choice", k): k coordinates, whose value is the index of the largest. None: all floats.
        low: lower bound of every coordinate; 0 if there are integers or choices.
        high: upper bound of every coordinate; likewise 1.
    """

    popsize: int = 1
    points: int = 160
    candidates: int = 256
    layout: Layout | None = None
    low: float = 0.0
    high: float = 1.0

    pure: ClassVar[bool] = False
    injectable: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=1, optional=False)
        require_integer("points", self.points, low=4, optional=False)
        require_integer("candidates", self.candidates, low=4, optional=False)
        require_box(self.low, self.high)
        if any(entry != ("float",) for entry in self.layout or ()) and (self.low, self.high) != (0, 1):
            raise SettingError(f"low and high must be 0 and 1 with integers or choices, got {self.low}, {self.high}")

    def init(self, key: Key, x0: Float[Array, "d"]) -> TurboState:
        due = np.asarray(x0)
        v = variables(self.layout or (("float",),) * len(due))
        if len(due) != len(v.owner):
            raise SettingError(f"layout must be of {len(due)} coordinates as x0 is; got {self.layout!r}")
        return TurboState(
            key=np.asarray(key),
            tells=np.asarray(0)[()],
            due=due,
            points=np.zeros((self.points, len(v.first))),
            values=np.full(self.points, np.inf),
            used=np.asarray(0)[()],
            told=np.asarray(0)[()],
            pending=np.full((PENDING, len(due)), np.nan, due.dtype),
            theta=prior(len(v.first)).mean,
            fitted_at=np.asarray(0)[()],
            region=Region.at_first(),
        )

    def ask(self, state: TurboState, first: int = 0) -> Float[ndarray, "n d"]:
        """The due point, then Thompson samples: minimizers of functions that the process may be."""
        members = range(max(first, 1), first + self.popsize)
        rows = [state.due] if first == 0 else []
        if state.told < self._start(state):
            return np.stack([*rows, *(self._started(state, i) for i in members)])
        return np.stack([*rows, *(self._sampled(state, members.stop)[members.start - 1 :] if members else ())])

    def tell(self, state: TurboState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> TurboState:
        rows, values = np.asarray(population), bounded_or_failed(fitness, _LARGEST)
        awaited = [row for row in (state.due, *state.pending) if not (rows == row).all(1).any()]
        order = np.lexsort((*rows.T[::-1], values))  # whatever the order in which they are told
        best = float(state.values.min())
        state = state._replace(
            tells=state.tells + 1,
            pending=np.stack(awaited + [np.full_like(state.due, np.nan)] * PENDING)[:PENDING],
            points=state.points.copy(),
            values=state.values.copy(),
        )
        was_started = state.told >= self._start(state)
        v = self._variables(state)
        for point, value in zip(self._read(v, rows[order]), values[order], strict=True):
            state = self._taken(state, point, value)
        if was_started and values.min() < np.inf:
            state = state._replace(region=state.region.resized(values.min() < best, v))
        if state.told < self._start(state):
            return state._replace(due=self._started(state, 0))
        if steps := steps_due(int(state.told), int(state.fitted_at)):
            state = state._replace(theta=self._fitted(state, steps), fitted_at=state.told)
        return state._replace(due=self._improving(state))

    def recommend(self, state: TurboState) -> Float[ndarray, "d"]:
        """The point of the least value told, or, where values are noisy, of the least mean."""
        if state.used == 0:
            return state.due
        v = self._variables(state)
        points, t = self._seen(state, v)
        best = conditioned(v.features(points), t, state.theta, prior(len(v.first))).best(t)
        return self._placed(v, points[best], state)

    def stop(self, state: TurboState) -> dict[str, Bool[Array, ""]]:
        """The one reason to restart: the region has shrunk to nothing."""
        return {"length": state.region.length < SHORTEST}

    def _variables(self, state: TurboState) -> Variables:
        return variables(self.layout or (("float",),) * len(state.due))

    def _start(self, state: TurboState) -> int:
        """Number of points before the model's."""
        return min(2 * len(state.points[0]), self.points)

    def _started(self, state: TurboState, member: int) -> Float[ndarray, "d"]:
        """A point of the start: one of the Latin hypercube, or, for evaluations that run ahead, any."""
        d, n = len(state.due), self._start(state)
        if (cell := int(state.told) + member) < n and member < self.popsize:
            u = uniform(state.key, 0, (n, 2, d), leaf=_DESIGN, like=np.empty(0))
            row = (u[:, 0].argsort(0)[cell] + u[cell, 1]) / n
        else:
            row = uniform(state.key, state.tells, (1, d), leaf=_FURTHER, first=member, like=np.empty(0))[0]
        v = self._variables(state)
        return self._placed(v, v.points(MARGIN + (1 - 2 * MARGIN) * row[None])[0], state)

    def _placed(self, v: Variables, point: Float[ndarray, "v"], state: TurboState) -> Float[ndarray, "d"]:
        """The coordinates of a point."""
        return (self.low + (self.high - self.low) * v.rows(point[None])[0]).astype(state.due.dtype)

    def _read(self, v: Variables, rows: Float[ndarray, "n d"]) -> Float[ndarray, "n v"]:
        """The points of coordinates."""
        return v.points(np.clip((rows.astype(np.float64) - self.low) / (self.high - self.low), 0, 1))

    def _taken(self, state: TurboState, point: Float[ndarray, "v"], value: float) -> TurboState:
        """The state with one more point, or one instead of that which the best one depends on least."""
        at = int(state.used)
        if at == len(state.points):
            features = self._variables(state).features(state.points)
            at = int(np.argmax(_distances(features, state.theta, int(np.argmin(state.values)))))
        state.points[at], state.values[at] = point, value
        return state._replace(used=np.maximum(state.used, at + 1)[()], told=state.told + 1)

    def _seen(self, state: TurboState, v: Variables) -> tuple[Float[ndarray, "n v"], Float[ndarray, "n"]]:
        """The points that have values, and these; if all have failed, all of them, as if they were equal."""
        points, values = state.points[: state.used], state.values[: state.used]
        succeeded = np.isfinite(values)
        return (points[succeeded], relative(values[succeeded])) if succeeded.any() else (points, np.zeros(len(points)))

    def _fitted(self, state: TurboState, steps: int) -> Float[ndarray, "p"]:
        """Hyperparameters by the points that the best one depends on most."""
        v = self._variables(state)
        points, t = self._seen(state, v)
        seen = v.features(points)
        near = np.argsort(_distances(seen, state.theta, int(np.argmin(t))), kind="stable")[:FIT]
        return fitted(seen.rows(near), t[near], state.theta, prior(len(v.first)), steps)

    def _model(self, state: TurboState, v: Variables) -> tuple[Process, Float[ndarray, "v"], float]:
        """The process, with its mean for a value of what is pending, the known point of least mean, and that mean."""
        points, t = self._seen(state, v)
        process = conditioned(v.features(points), t, state.theta, prior(len(v.first)))
        center = int(np.argmin(process.means))
        best = float(process.means[center])
        if len(pending := self._pending(state, v)):
            process = process.believing(v.features(pending))
        return process, points[center], best

    def _pending(self, state: TurboState, v: Variables) -> Float[ndarray, "n v"]:
        return self._read(v, state.pending[~np.isnan(state.pending[:, 0])])

    def _bounds(self, state: TurboState, v: Variables, center: Float[ndarray, "v"]) -> tuple[ndarray, ndarray]:
        return state.region.bounds(v, center, state.theta[:-3])

    def _candidates(self, state: TurboState, v: Variables, center: Float[ndarray, "v"]) -> Float[ndarray, "n v"]:
        u = uniform(state.key, state.tells, (2, self.candidates, len(center)), leaf=_CANDIDATES, like=np.empty(0))
        return state.region.candidates(v, center, self._bounds(state, v, center), u)

    def _improving(self, state: TurboState) -> Float[ndarray, "d"]:
        """The point of greatest expected improvement."""
        v = self._variables(state)
        process, center, best = self._model(state, v)
        points = self._candidates(state, v, center)
        features, succeeds = v.features(points), self._succeeds(state, v)
        improvement = log_improvement(best, *process.at(features)) + succeeds(features)
        taken = among(points, {*bytes_of(state.points[: state.used]), *bytes_of(self._pending(state, v))})
        first = np.argsort(np.where(taken, np.inf, -improvement), kind="stable")[:CLIMBERS]
        points, improvement = points[first], improvement[first]
        if v.is_free.any():
            low, high = (bound[v.owner] for bound in self._bounds(state, v, center))
            is_free = np.tile(v.is_free[v.owner], (len(points), 1))
            risen, gained = climbed(process, v.features(points).x, best, low, high, is_free, CLIMB)
            higher = np.where(v.is_free, risen[:, v.first], points)
            gained = gained + succeeds(v.features(higher))
            points = np.where((gained > improvement)[:, None], higher, points)
            points = points[np.argsort(-np.maximum(gained, improvement), kind="stable")]
        return self._placed(v, points[0], state)

    def _succeeds(self, state: TurboState, v: Variables) -> Callable[[Features], Float[ndarray, "n"]]:
        known, failed = v.features(state.points[: state.used]), np.isinf(state.values[: state.used])
        return log_success(
            known, failed, np.where(v.options > 0, np.inf, np.log(state.region.sides(v, state.theta[:-3])))
        )

    def _sampled(self, state: TurboState, count: int) -> list[Float[ndarray, "d"]]:
        """Members 1 to count - 1: Thompson samples at the candidates, no point twice."""
        v = self._variables(state)
        process, center, _ = self._model(state, v)
        points = self._candidates(state, v, center)
        mean, covariance = process.jointly(v.features(points))
        z = normal(state.key, state.tells, (count - 1, len(mean)), leaf=_SAMPLE, first=1, like=mean)
        w, vectors = np.linalg.eigh(covariance)  # which rounding may have made indefinite
        samples = mean + (z * np.sqrt(np.maximum(w, 0.0))) @ vectors.T
        succeeds = self._succeeds(state, v)(v.features(points))
        known = [state.points[: state.used], self._pending(state, v), self._read(v, state.due[None])]
        taken = (succeeds < succeeds.max() - 1) | among(points, {row for part in known for row in bytes_of(part)})
        chosen = []
        for sample in samples:
            i = int(np.argmin(np.where(taken, np.inf, sample) if not taken.all() else sample))
            taken |= (points == points[i]).all(1)
            chosen.append(self._placed(v, points[i], state))
        return chosen


def _distances(points: Features, theta: Float[ndarray, "p"], origin: int) -> Float[ndarray, "n"]:
    """Squared, of points from one of them, in units of the process's lengths."""
    z = Kernel.of(theta, points).placed(points.x).z
    return ((z - z[origin]) ** 2).sum(1)
