"""Where a process expects to improve most: the best of random points, and of points with few variables changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.model.gaussian_process import LEAST_VARIANCE, Features, Process, covariance, diagonal
from blackbox.model.improvement import among, climbed, log_improvement
from blackbox.model.variables import Variables

if TYPE_CHECKING:
    from jaxtyping import Float

RANDOM, NEAR, NEARER = 100, 150, 60  # candidates of each kind
DRAWN = NEAR + 2 * NEARER  # rows of noise
_WINNERS = 3  # candidates that others are near
_STEPS = (0.01, 0.5)  # least and largest deviation of a changed number
_CLIMBERS, _CLIMB = 2, 8  # candidates that are moved along the gradient, and steps
_NOWHERE = 1e17  # less logarithm of improvement than any, of s2 times the least variance


class Candidates(NamedTuple):
    """Points and what the process knows of them."""

    points: Float[ndarray, "n v"]
    mean: Float[ndarray, "n"]
    half: Float[ndarray, "n m"]
    """What of its covariances is known: products of these rows."""
    variance: Float[ndarray, "n"]
    """In units of s2."""
    succeeds: Float[ndarray, "n"]
    """Logarithm of how likely it is an evaluation that succeeds, and of a new point."""
    score: Float[ndarray, "n"]
    """Logarithm of the expected improvement by such an evaluation."""

    def best(self, n: int) -> Float[ndarray, "n v"]:
        return self.points[np.argsort(-self.score, kind="stable")[:n]]

    def joined(self, others: Candidates) -> Candidates:
        return Candidates(*map(np.concatenate, zip(self, others, strict=True)))

    def believing(self, at: int, features: Features, process: Process, least: float) -> Candidates:
        """The same after one of them is taken, and its value is its mean."""
        rest = covariance(features, features.rows(slice(at, at + 1)), process.theta)[:, 0] - self.half @ self.half[at]
        rest /= math.sqrt(max(float(self.variance[at]), LEAST_VARIANCE) + process.eta)
        most = np.sqrt(np.maximum(self.variance, 0.0))  # beyond, rounding of what is nearly known has grown
        rest = np.clip(rest, -most, most)
        variance = self.variance - rest**2
        succeeds = np.where((self.points == self.points[at]).all(1), -_NOWHERE, self.succeeds)
        score = _improvement(process, least, self.mean, variance) + succeeds
        half = np.concatenate([self.half, rest[:, None]], axis=1)
        return self._replace(half=half, variance=variance, succeeds=succeeds, score=score)


def most_improving(
    process: Process,
    least: float,
    v: Variables,
    leaders: Float[ndarray, "m v"],
    seen: Float[ndarray, "k v"],
    log_success: Callable[[Features], Float[ndarray, "n"]],
    u: Float[ndarray, "rows 3*v"],
    z: Float[ndarray, "drawn v"],
    count: int,
) -> Float[ndarray, "count v"]:
    """Points that improve most, each as if all before it had been found to have their means.

    Args:
        process: of the values.
        least: to improve on.
        v: the variables.
        leaders: known points, which some candidates are near.
        seen: points that are not asked again as long as there is something else.
        log_success: logarithm of the probability that an evaluation succeeds.
        u: uniform random numbers, rows for all candidates.
        z: normal random numbers, for all but the random ones.
        count: how many points.
    """

    def assessed(points: Float[ndarray, "n v"]) -> Candidates:
        features = v.features(points)
        mean, half = process.half(features)
        variance = diagonal(features, process.theta) - np.einsum("nm,nm->n", half, half)
        succeeds = log_success(features) - _NOWHERE * among(points, seen)
        score = _improvement(process, least, mean, variance) + succeeds
        return Candidates(points, mean, half, variance, succeeds, score)

    def near(points: Float[ndarray, "n v"], turn: int) -> Float[ndarray, "n v"]:
        rows = slice(0, NEAR) if turn == 0 else slice(NEAR + (turn - 1) * NEARER, NEAR + turn * NEARER)
        drawn, n, size = u[RANDOM:][rows], len(z[rows]), len(v.first)
        # Every one of the points has each variable changed before any has it changed again.
        origins = points[np.arange(n) // size % len(points)]
        steps = _STEPS[0], _STEPS[1] * 0.4**turn
        return v.changed(origins, drawn.reshape(n, 3, size).transpose(1, 0, 2), z[rows], steps)

    pool = assessed(np.concatenate([v.spread(u[:RANDOM, : len(v.first)]), near(leaders, 0)]))
    for turn in (1, 2):
        pool = pool.joined(assessed(near(pool.best(_WINNERS), turn)))
    if v.is_free.any():
        start = pool.best(_CLIMBERS)
        is_free = v.is_free & v.active(start)
        risen = climbed(process, v.features(start), least, 0.0, 1.0, is_free[:, v.owner], _CLIMB)[0]
        pool = pool.joined(assessed(np.where(is_free, risen.x[:, v.first], start)))
    chosen = [int(np.argmax(pool.score))]
    if count > 1:
        features = v.features(pool.points)
    while len(chosen) < count:
        pool = pool.believing(chosen[-1], features, process, least)
        chosen.append(int(np.argmax(pool.score)))
    return pool.points[chosen]


def _improvement(
    process: Process, least: float, mean: Float[ndarray, "n"], variance: Float[ndarray, "n"]
) -> Float[ndarray, "n"]:
    return log_improvement(least, mean, process.s2 * np.maximum(variance, LEAST_VARIANCE))
