"""Our BBOB problems against COCO's: the largest relative difference per function and dimension.

    python bench/bbob_coco.py            about two minutes on one core; writes bench/results/bbob_coco.md

Needs ``coco-experiment``. Every problem is evaluated at uniform points of the box, at points outside it and at
points near the optimum. Two figures: the difference relative to COCO's value, and relative to the larger of that
value and its distance from the optimal value. They differ where a value is near zero by accident (an optimal value
of -48.71 and 48.71 above it): there rounding, COCO's own too, is large beside the value.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cocoex
import numpy as np
from numpy import ndarray

from blackbox.problems.bbob import BBOB, FUNCTIONS
from blackbox.problems.bbob_mixint import MixedBBOB


class Suite(NamedTuple):
    name: str
    ours: type[BBOB] | type[MixedBBOB]
    dimensions: tuple[int, ...]


SUITES = (
    Suite("bbob", BBOB, (2, 3, 5, 10, 20, 40)),
    Suite("bbob-largescale", BBOB, (80, 160, 320)),
    Suite("bbob-mixint", MixedBBOB, (5, 10, 20, 40, 80, 160)),
)


def points(rng: np.random.Generator, x_opt: ndarray, low: ndarray, high: ndarray, n: int) -> ndarray:
    """80 % in the box, 10 % from a box half as wide again, 10 % near the optimum."""
    wide, near = n // 10, n // 10
    spread = np.repeat([1.0, 1.5], [n - wide - near, wide])[:, None]
    sample = (low + high) / 2.0 + (high - low) / 2.0 * spread * rng.uniform(-1.0, 1.0, (n - near, len(x_opt)))
    close = x_opt + 10.0 ** rng.uniform(-6.0, 0.0, (near, 1)) * rng.standard_normal((near, len(x_opt)))
    return np.concatenate([sample, close])


def compare(ours: Any, theirs: Callable[[ndarray], float], x: ndarray) -> tuple[float, float]:
    """Largest difference, relative to COCO's value, and to the larger of it and its distance from ``f_opt``."""
    reference = np.array([theirs(point) for point in x])
    difference, size = np.abs(ours(x) - reference), np.abs(reference)
    distance = np.maximum(size, np.abs(reference - ours.f_opt))
    return float(np.max(difference / np.maximum(size, 1e-300))), float(np.max(difference / distance))


def measure(suite: Suite, instances: int, n: int) -> dict[tuple[int, int], tuple[float, float]]:
    """The worst of all instances, by function and dimension."""
    worst = {}
    for dimension in suite.dimensions:
        coco = cocoex.Suite(suite.name, f"instances: 1-{instances}", f"dimensions: {dimension}")
        for function in FUNCTIONS:
            figures = []
            for instance in range(1, instances + 1):
                theirs = coco.get_problem_by_function_dimension_instance(function, dimension, instance)
                ours = suite.ours(function, dimension, instance)
                low, high = (np.broadcast_to(bound, dimension) for bound in ours.bounds)
                rng = np.random.default_rng([function, dimension, instance])
                figures.append(compare(ours, theirs, points(rng, ours.x_opt, low, high, n)))
                theirs.free()
            worst[function, dimension] = (max(a for a, _ in figures), max(b for _, b in figures))
        print(f"{suite.name}, {dimension} dimensions: done", flush=True)
    return worst


def section(suite: Suite, worst: dict[tuple[int, int], tuple[float, float]]) -> str:
    """A heading with the largest figures, and a table, functions by dimensions."""
    largest = [max(figures[which] for figures in worst.values()) for which in (0, 1)]
    lines = [
        f"## {suite.name}: at most {largest[0]:.1e} / {largest[1]:.1e}",
        "",
        "| function | " + " | ".join(f"d = {d}" for d in suite.dimensions) + " |",
        "|---|" + "---|" * len(suite.dimensions),
    ]
    for function, (name, *_) in FUNCTIONS.items():
        cells = " | ".join("{:.0e} / {:.0e}".format(*worst[function, d]) for d in suite.dimensions)
        lines.append(f"| f{function} {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Largest relative difference from COCO's BBOB values.")
    parser.add_argument("--points", type=int, default=1000, help="points per problem of bbob (default 1000)")
    parser.add_argument("--instances", type=int, default=15, help="instances 1 to this, of bbob (default 15)")
    arguments = parser.parse_args()
    start = time.perf_counter()
    sections = []
    for suite in SUITES:
        full = suite.name == "bbob"
        instances = arguments.instances if full else min(3, arguments.instances)
        worst = measure(suite, instances, arguments.points if full else min(200, arguments.points))
        sections.append(section(suite, worst))
    report = f"""# BBOB functions against coco-experiment {cocoex.__version__}

`python bench/bbob_coco.py`, NumPy {np.__version__}, Python {platform.python_version()}, {platform.machine()}, float64,
{time.perf_counter() - start:.0f} s. `bbob`: instances 1 to {arguments.instances}, {arguments.points} points a problem.
The other suites: at most 3 instances and 200 points. 80 % of the points are uniform in the box, 10 % in a box half as
wide again, 10 % near the optimum.

Each cell has the largest difference relative to COCO's value / relative to the larger of that value and its distance
from the optimal value. They differ where a value is near zero by accident of the optimal value; rounding, COCO's own
too, is large beside such a value.

""" + "\n\n".join(sections)
    print(report)
    target = Path(__file__).parent / "results" / "bbob_coco.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(report + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
