"""Where a process expects to improve most: the best of random points, and of points with few variables changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.model.covariance import Features
from blackbox.model.gaussian_process import LEAST_VARIANCE, Process
from blackbox.model.improvement import among, bytes_of, climbed, log_improvement
from blackbox.model.variables import Variables

if TYPE_CHECKING:
    from jaxtyping import Float

RANDOM, NEAR, NEARER = 100, 100, 40  # candidates of each kind
DRAWN = NEAR + 2 * NEARER  # candidates that are not random
_WINNERS = 3  # candidates that others are near
_STEPS = (0.01, 0.5)  # least and largest deviation of a changed number
_CLIMBERS, _CLIMB = 2, 4  # candidates that are moved along the gradient, and steps
_NOWHERE = 1e17  # less logarithm of improvement than any, of s2 times the least variance


class Candidates(NamedTuple):
    """Points and what the process knows of them."""

    points: Float[ndarray, "n v"]
    succeeds: Float[ndarray, "n"]
    """Logarithm of how likely it is an evaluation that succeeds, and of a new point."""
    score: Float[ndarray, "n"]
    """Logarithm of the expected improvement by such an evaluation."""

    def best(self, n: int) -> Float[ndarray, "n v"]:
        return self.points[np.argsort(-self.score, kind="stable")[:n]]

    def joined(self, others: Candidates) -> Candidates:
        return Candidates(*map(np.concatenate, zip(self, others, strict=True)))


def most_improving(
    process: Process,
    least: float,
    v: Variables,
    leaders: Float[ndarray, "m v"],
    seen: Float[ndarray, "k v"],
    log_success: Callable[[Features], Float[ndarray, "n"]],
    u: Float[ndarray, "rows v"],
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
    known = set(bytes_of(seen))

    def assessed(points: Float[ndarray, "n v"]) -> Candidates:
        features = v.features(points)
        return scored(points, features, log_improvement(least, *process.at(features)))

    def scored(points: Float[ndarray, "n v"], features: Features, improvement: Float[ndarray, "n"]) -> Candidates:
        succeeds = log_success(features) - _NOWHERE * among(points, known)
        return Candidates(points, succeeds, improvement + succeeds)

    def near(points: Float[ndarray, "n v"], turn: int) -> Float[ndarray, "n v"]:
        rows = slice(0, NEAR) if turn == 0 else slice(NEAR + (turn - 1) * NEARER, NEAR + turn * NEARER)
        n, steps = len(z[rows]), (_STEPS[0], _STEPS[1] * 0.4**turn)
        # Every one of the points has each variable changed before any has it changed again.
        origins = points[np.arange(n) // len(v.first) % len(points)]
        return v.changed(origins, u[RANDOM:][rows], z[rows], steps)

    pool = assessed(np.concatenate([v.spread(u[:RANDOM]), near(leaders, 0)]))
    for turn in (1, 2):
        pool = pool.joined(assessed(near(pool.best(_WINNERS), turn)))
    if v.is_free.any():
        start = pool.best(_CLIMBERS)
        is_free = v.is_free & v.active(start)
        risen, value = climbed(process, v.features(start).x, least, 0.0, 1.0, is_free[:, v.owner], _CLIMB)
        points = np.where(is_free, risen[:, v.first], start)
        pool = pool.joined(scored(points, v.features(points), value))
    return pool.points[_chosen(process, least, v, pool, count)]


def _chosen(process: Process, least: float, v: Variables, pool: Candidates, count: int) -> list[int]:
    """The best ones, each as if the values of all before it were found to be their means."""
    chosen = [int(np.argmax(pool.score))]
    if count == 1:
        return chosen
    known, kernel, succeeds = process.prediction(v.features(pool.points).x), process.kernel, pool.succeeds
    half, variance = known.half, known.variance
    while True:
        at = chosen[-1]
        rest = kernel.between(known.points, known.points.rows(slice(at, at + 1))).k[:, 0] - half @ half[at]
        rest /= math.sqrt(float(variance[at]) + process.eta)
        most = np.sqrt(variance)  # beyond, rounding of what is nearly known has grown
        rest = np.clip(rest, -most, most)
        variance = np.maximum(variance - rest**2, LEAST_VARIANCE)
        succeeds = np.where((pool.points == pool.points[at]).all(1), -_NOWHERE, succeeds)
        chosen.append(int(np.argmax(log_improvement(least, known.mean, process.s2 * variance) + succeeds)))
        if len(chosen) == count:
            return chosen
        half = np.concatenate([half, rest[:, None]], axis=1)
