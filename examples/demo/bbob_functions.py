"""Eight methods minimize the 24 BBOB functions in five dimensions, 1,000 evaluations each. A target is a distance to
the optimal value: 51 of them from 100 down to 1e-8 for each function. The score is the area under the curve of
reached targets over the logarithm of the evaluations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import plots
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import blackbox as bb
from blackbox.problems.bbob import BBOB, FUNCTIONS

TITLE = "methods compared on BBOB"
METHODS = ("cma-es", "sep-cma-es", "lm-ma-es", "snes", "l-shade", "nelder-mead", "sobol", "random")
DIMENSION, BUDGET, INSTANCE = 5, 1000, 1
TARGETS = 10.0 ** np.linspace(2, -8, 51)


def hits(method: str, function: int) -> list[int]:
    """The evaluation at which each target that was reached was reached first."""
    problem = BBOB(function, DIMENSION, INSTANCE)
    distances: list[float] = []

    def objective(x: np.ndarray) -> float:
        value = float(problem(x))
        distances.append(value - problem.f_opt)
        return value

    start = np.random.default_rng(function).uniform(-4, 4, DIMENSION)
    bb.minimize(
        objective, bb.Box([-5.0] * DIMENSION, [5.0] * DIMENSION), method=method, budget=BUDGET, seed=1, x0=start
    )
    best = np.minimum.accumulate(distances)
    return [int(np.argmax(best <= target)) + 1 for target in TARGETS if best[-1] <= target]


def run(console: Console, folder: Path) -> tuple[Table, Path]:
    """The table of scores, and the picture of reached targets."""
    reached: dict[str, list[int]] = {method: [] for method in METHODS}
    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for method in METHODS:
            for function in progress.track(FUNCTIONS, description=method):
                reached[method] += hits(method, function)
    pairs = len(FUNCTIONS) * len(TARGETS)
    table = Table(
        title=f"BBOB: {len(FUNCTIONS)} functions, dimension {DIMENSION}, {BUDGET} evaluations", title_justify="left"
    )
    table.add_column("method")
    table.add_column("targets reached", justify="right")
    table.add_column("score (0 to 1)", justify="right")
    scores = {m: sum(1 - math.log(hit) / math.log(BUDGET) for hit in at) / pairs for m, at in reached.items()}
    for method in sorted(METHODS, key=lambda m: -scores[m]):
        table.add_row(method, f"{len(reached[method]) / pairs:.0%}", f"{scores[method]:.3f}")
    title = f"Targets reached on {len(FUNCTIONS)} BBOB functions"
    return table, plots.runtimes(reached, pairs, BUDGET, DIMENSION, title, folder)
