"""NSGA-II, ours and pymoo's: the hypervolume of the population after as many evaluations.

    python bench/multi.py            some ten minutes on one core; writes bench/results/multi.md

ZDT1 and ZDT2 with 30 variables, reference point (1.1, 1.1), and DTLZ2 with 12 variables and 3 objectives, reference
point (1.1, 1.1, 1.1); 100 members, crossover and mutation as in the paper, the defaults of both. The
hypervolume is that of the members of the first front; higher is better.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.indicators.hv import HV
from pymoo.problems import get_problem
from record import write

import blackbox as bb

PROBLEMS = {"zdt1": 2, "zdt2": 2, "dtlz2": 3}
CHECKPOINTS = (2500, 5000, 10000, 20000)
POPSIZE = 100


def ours(problem: Any, seed: int) -> Iterator[np.ndarray]:
    """The values of the population after each generation."""
    strategy = bb.create("nsga-ii", popsize=POPSIZE, objectives=problem.n_obj)
    # pymoo's first population is uniform; the middle of the box, where a search begins here, is a good guess for DTLZ2.
    start = np.random.default_rng(seed).random(problem.n_var)
    state = strategy.init(bb.key(seed), start)
    while True:
        population = strategy.ask(state)
        state = strategy.tell(state, population, problem.evaluate(population))
        yield state.fitness


def pymoo(problem: Any, seed: int) -> Iterator[np.ndarray]:
    algorithm = NSGA2(pop_size=POPSIZE)
    algorithm.setup(problem, termination=("n_gen", 10**6), seed=seed, verbose=False)
    while True:
        algorithm.next()
        yield algorithm.pop.get("F")


SOLVERS: dict[str, Callable[[Any, int], Iterator[np.ndarray]]] = {"blackbox": ours, "pymoo": pymoo}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=11)
    seeds = parser.parse_args().seeds
    rows = []
    for name, objectives in PROBLEMS.items():
        problem, reference = get_problem(name), np.full(objectives, 1.1)
        found: dict[str, np.ndarray] = {}
        seconds = {}
        for solver, run in SOLVERS.items():
            start, volumes = time.process_time(), np.zeros((seeds, len(CHECKPOINTS)))
            for seed in range(seeds):
                course = run(problem, seed)
                for generation in range(1, CHECKPOINTS[-1] // POPSIZE + 1):
                    values = next(course)
                    if generation * POPSIZE in CHECKPOINTS:
                        volume = bb.hypervolume(values, reference)
                        assert np.isclose(volume, HV(ref_point=reference)(values))
                        volumes[seed, CHECKPOINTS.index(generation * POPSIZE)] = volume
            seconds[solver] = (time.process_time() - start) / seeds
            found[solver] = volumes
            print(name, solver, np.median(volumes, axis=0), f"{seconds[solver]:.1f} s", flush=True)
        for i, evaluations in enumerate(CHECKPOINTS):
            row: dict[str, Any] = {"problem": name.upper(), "evaluations": evaluations}
            for solver, volumes in found.items():
                low, middle, high = np.quantile(volumes[:, i], (0.25, 0.5, 0.75))
                row[solver] = f"{middle:.4f} ({low:.4f} to {high:.4f})"
            rows.append(row)
        last = {f"{solver}, s": f"{spent:.1f}" for solver, spent in seconds.items()}
        rows[-1].update(last)
    note = (
        f"Median and quartiles of the hypervolume over {seeds} seeds; seconds of CPU time for one run, "
        "the objective's included. Every volume is checked against pymoo's own indicator."
    )
    columns = ["problem", "evaluations", *SOLVERS, *(f"{solver}, s" for solver in SOLVERS)]
    write("multi", "Several objectives", columns, rows, ["blackbox-engine", "numpy", "pymoo"], note)


if __name__ == "__main__":
    main()
