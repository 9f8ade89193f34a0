"""A BBOB problem as a benchmark sees it: evaluations counted, the first hit of each target recorded."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from blackbox.problems.bbob import BBOB

TARGETS = 10.0 ** np.linspace(2.0, -8.0, 51)  # distances from the optimal value
LOW, HIGH = -5.0, 5.0  # the box of every BBOB problem, for solvers that take one
SIGMA0 = 2.0  # for solvers that take an initial step size


class Spent(Exception):
    """The budget is spent or the last target hit; ends the solver's loop."""


class Objective:
    """The function that a solver minimizes.

    A solver may simply loop for ever: a call raises :class:`Spent` when there is nothing left to measure.

    Args:
        problem: of any function, dimension and instance.
        budget: number of evaluations.
        seed: of the run; with the problem it determines :attr:`seed` and the start points.

    Attributes:
        sigma0: initial step size for solvers that take one.
        dimension: number of variables.
        budget: number of evaluations in all.
        seed: integer below 2**31 for the solver's generator; the next ones for its restarts.
        evaluations: made so far.
        best: lowest value so far.
        hits: evaluations until the first, second, ... target was hit, for those that were.
    """

    def __init__(self, problem: BBOB, budget: int, seed: int = 0) -> None:
        self._problem = problem
        self._values = (problem.f_opt + TARGETS).tolist()
        self._entropy = [seed, problem.function, problem.dimension, problem.instance]
        self.sigma0 = SIGMA0
        self.dimension = problem.dimension
        self.budget = budget
        self.seed = int(np.random.default_rng(self._entropy).integers(2**31 - 2**20))
        self.evaluations = 0
        self.best = math.inf
        self.hits: list[int] = []

    @property
    def left(self) -> int:
        """Evaluations that are left; 0 once the last target is hit."""
        return 0 if len(self.hits) == len(TARGETS) else self.budget - self.evaluations

    def start(self, run: int = 0) -> Float[ndarray, "d"]:
        """Where the ``run``-th restart begins, uniform in [-4, 4]^d: the same for every solver."""
        return np.random.default_rng([*self._entropy, run]).uniform(-4.0, 4.0, self.dimension)

    def many(self, x: Float[ndarray, "n d"]) -> Float[ndarray, "n"]:
        """Values at the rows of ``x``, evaluated in order.

        Raises:
            Spent: nothing was left before, or is left now.
        """
        if not self.left:
            raise Spent
        x = np.asarray(x, dtype=float)[: self.left]
        with np.errstate(all="ignore"):  # solvers may ask for points that are far away
            values: Float[ndarray, "n"] = self._problem(x)
        before, self.evaluations = self.evaluations, self.evaluations + len(values)
        lowest = float(np.fmin.reduce(values))
        if lowest < self.best:
            self.best = lowest
            while len(self.hits) < len(TARGETS) and lowest <= (target := self._values[len(self.hits)]):
                self.hits.append(before + 1 + int(np.argmax(values <= target)))
        if not self.left:
            raise Spent
        return values

    def __call__(self, x: Float[ndarray, "d"]) -> float:
        """The value at one point; raises :class:`Spent` as :meth:`many`."""
        return float(self.many(np.asarray(x)[None])[0])

    def quiet(self, x: Float[ndarray, "d"]) -> float:
        """As a call, for compiled solvers through which no exception may pass: in the end repeats the best value."""
        try:
            return self(x)
        except Spent:
            return self.best
