"""Multi-objective consensus-based optimization beside NSGA-II: the hypervolume after as many evaluations.

    python bench/cbo_multi.py            some minutes on one core; writes bench/results/cbo_multi.md

ZDT1 and ZDT2 with 10 variables, reference point (1.1, 1.1), and DTLZ2 with 7 variables and 3 objectives, reference
point (1.1, 1.1, 1.1); 100 members and all other settings default. The hypervolume is that of the state's fitness: of
multi-objective-cbo's particles as they were evaluated last, and of NSGA-II's population, which is the best of all that
was evaluated; higher is better.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import time
from typing import Any

import numpy as np
from record import write

import blackbox as bb
from blackbox.space import reflect

CHECKPOINTS = (1000, 2500, 5000, 10000)
POPSIZE = 100


def zdt(x: Any, exponent: float) -> Any:
    g = 1 + 9 * x[:, 1:].mean(axis=1)
    return np.stack([x[:, 0], g * (1 - (x[:, 0] / g) ** exponent)], axis=1)


def dtlz2(x: Any) -> Any:
    g = 1 + ((x[:, 2:] - 0.5) ** 2).sum(axis=1)
    a, b = np.pi / 2 * x[:, 0], np.pi / 2 * x[:, 1]
    return g[:, None] * np.stack([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)], axis=1)


PROBLEMS: dict[str, tuple[Any, int, int]] = {
    "ZDT1": (lambda x: zdt(x, 0.5), 10, 2),
    "ZDT2": (lambda x: zdt(x, 2.0), 10, 2),
    "DTLZ2": (dtlz2, 7, 3),
}


def volumes(method: str, problem: Any, d: int, objectives: int, seed: int) -> list[float]:
    """At each checkpoint; the start is a random point of the cube, as its middle is a good guess for DTLZ2."""
    strategy = bb.create(method, popsize=POPSIZE, objectives=objectives)
    state = strategy.init(bb.key(seed), np.random.default_rng(seed).random(d))
    found = []
    for evaluations in range(POPSIZE, CHECKPOINTS[-1] + 1, POPSIZE):
        population = strategy.ask(state)
        state = strategy.tell(state, population, problem(reflect(population)))
        if evaluations in CHECKPOINTS:
            found.append(bb.hypervolume(state.fitness, np.full(objectives, 1.1)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=11)
    seeds = parser.parse_args().seeds
    rows: list[dict[str, Any]] = []
    for name, (problem, d, objectives) in PROBLEMS.items():
        cells: list[dict[str, Any]] = [{"problem": name, "evaluations": f"{number:,}"} for number in CHECKPOINTS]
        for method in ("multi-objective-cbo", "nsga-ii"):
            start = time.process_time()
            runs = np.array([volumes(method, problem, d, objectives, seed) for seed in range(seeds)])
            cells[-1][f"{method}, s"] = f"{(time.process_time() - start) / seeds:.1f}"
            for i, cell in enumerate(cells):
                low, middle, high = np.quantile(runs[:, i], (0.25, 0.5, 0.75))
                cell[method] = f"{middle:.3f} ({low:.3f} to {high:.3f})"
            print(name, method, np.round(runs[:, -1], 3), flush=True)
        rows += cells
    note = (
        f"Median and quartiles of the hypervolume over {seeds} seeds: of multi-objective-cbo's particles as they were "
        "evaluated last, of NSGA-II's survivors, the best of all that was evaluated; seconds of CPU time for one run, "
        "the objective's included. The default drift and noise of multi-objective-cbo were chosen on these problems, "
        "by up to five of the seeds, and tau on fronts of Lame's; NSGA-II has its paper's settings."
    )
    columns = ["problem", "evaluations", *("multi-objective-cbo", "nsga-ii"), "multi-objective-cbo, s", "nsga-ii, s"]
    write("cbo_multi", "Consensus for several objectives", columns, rows, ["blackbox-engine", "numpy"], note)


if __name__ == "__main__":
    main()
