"""Constrained problems: our augmented Lagrangian beside pycma's, on COCO's bbob-constrained suite.

    python bench/constrained.py                    half an hour on one core; writes bench/results/constrained.md
    python bench/constrained.py --dimensions 5 --multiplier 200

Nine functions of BBOB, each with six numbers of constraints, of which most are active at the optimum. Every solver
starts at the suite's initial point with step size 2. What counts is the best evaluated point that keeps all
constraints: 41 targets, 10^2 to 10^-6 above the optimal value.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import math
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import cma
import cocoex
import numpy as np
from record import write

import blackbox as bb

TARGETS = 10.0 ** np.arange(2, -6.1, -0.2)


class Objective:
    """A problem that counts evaluations and records when feasible points hit the targets."""

    def __init__(self, problem: Any, budget: int) -> None:
        self.problem, self.budget = problem, budget
        problem._best_parameter("print")  # into a file of the current folder
        self.optimum = problem(np.loadtxt("._bbob_problem_best_parameter.txt"))
        self.hits = np.full(len(TARGETS), np.inf)
        self.evaluations = 0

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        value, constraints = float(self.problem(x)), self.problem.constraint(x)
        self.evaluations += 1
        if (constraints <= 0).all() and self.evaluations <= self.budget:
            hit = value - self.optimum <= TARGETS
            self.hits = np.minimum(self.hits, np.where(hit, self.evaluations, np.inf))
        return value, constraints


def ours(method: str) -> Callable[[Objective, int], None]:
    def solve(objective: Objective, seed: int) -> None:
        problem = objective.problem
        bb.minimize(
            objective,
            bb.Box(-5, 5, problem.dimension),
            method=method,
            x0=problem.initial_solution,
            constraints=problem.number_of_constraints,
            budget=objective.budget,
            seed=seed,
        )

    return solve


def pycma(objective: Objective, seed: int) -> None:
    known: dict[bytes, float] = {}

    def constraints(x: np.ndarray) -> np.ndarray:  # called before the value of the same point
        value, found = objective(x)
        known[x.tobytes()] = value
        return found

    cma.fmin_con2(
        lambda x: known.pop(x.tobytes()),
        objective.problem.initial_solution,
        2.0,
        constraints=constraints,
        options={"verbose": -9, "verb_log": 0, "seed": seed + 1, "maxfevals": objective.budget},
        restarts=9,
        kwargs_confit={"logging": 0, "archives": False},
    )


SOLVERS: dict[str, Callable[[Objective, int], None]] = {
    "blackbox:cma-es": ours("cma-es"),
    "blackbox:l-shade": ours("l-shade"),
    "pycma:fmin_con2": pycma,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", default="5,10")
    parser.add_argument("--multiplier", type=int, default=500, help="evaluations per dimension")
    parser.add_argument("--solvers", default=",".join(SOLVERS))
    parser.add_argument("--every", type=int, default=1, help="only every n-th function")
    arguments = parser.parse_args()
    chosen = arguments.solvers.split(",")
    scores: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        suite = cocoex.Suite("bbob-constrained", "", f"dimensions:{arguments.dimensions} instance_indices:1")
        for problem in suite:
            number = int(problem.id.split("_")[1][1:])
            if number % arguments.every:
                continue
            budget = arguments.multiplier * problem.dimension
            for name in chosen:
                objective = Objective(problem, budget)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    SOLVERS[name](objective, number)
                area = np.where(np.isinf(objective.hits), 0.0, 1 - np.log(objective.hits) / math.log(budget))
                score = float(np.isfinite(objective.hits).mean()), float(area.mean())
                scores.setdefault((name, problem.dimension, _group(problem)), []).append(score)
                print(problem.id, problem.number_of_constraints, name, *np.round(score, 3), flush=True)
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    rows = []
    for d in sorted({d for _, d, _ in scores}):
        for group in (*GROUPS, "all"):
            row: dict[str, Any] = {"D": d, "active constraints": group}
            for name in chosen:
                keys = [key for key in scores if key[:2] == (name, d) and group in (key[2], "all")]
                if found := [score for key in keys for score in scores[key]]:
                    solved, area = np.mean(found, axis=0)
                    row[name] = f"{solved:.0%} ({area:.3f})"
            rows.append(row)
    note = (
        f"Share of targets reached within {arguments.multiplier} D evaluations and, in brackets, area under the curve "
        "of reached targets over the logarithm of evaluations; instance 1, one run each. Constraints come in six "
        "numbers; those that are active at the optimum are 1, 2, 6, 6 + D / 2, 6 + D and 6 + 3 D."
    )
    columns = ["D", "active constraints", *chosen]
    write("constrained", "Constrained problems", columns, rows, ["blackbox-engine", "numpy", "cma"], note)


GROUPS = ("1, 2", "6, 6 + D / 2", "more")


def _group(problem: Any) -> str:
    """Which third of the six numbers of constraints a problem has."""
    return GROUPS[(int(problem.id.split("_")[1][1:]) - 1) % 6 // 2]


if __name__ == "__main__":
    main()
