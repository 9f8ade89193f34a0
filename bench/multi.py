"""NSGA-II and NSGA-III, ours and pymoo's: how good the population is after as many evaluations.

    python bench/multi.py            some ten minutes on one core; writes bench/results/multi.md
    python bench/multi.py nsga-iii   some five minutes; writes bench/results/many.md

ZDT1 and ZDT2 with 30 variables, reference point (1.1, 1.1), and DTLZ2 with 12 variables and 3 objectives, reference
point (1.1, 1.1, 1.1); 100 members, crossover and mutation as in the paper, the defaults of both. The
hypervolume is that of the members of the first front; higher is better.

NSGA-III: DTLZ2 as above and DTLZ1 with 7 variables, reference point (0.55, 0.55, 0.55), with 92 members, 91 reference
directions and as many generations as in the paper. IGD: the mean distance to the nearest member from the 91 points of
the front that lie in these directions; lower is better.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.indicators.hv import HV
from pymoo.problems import get_problem
from pymoo.util.ref_dirs import get_reference_directions
from record import write

import blackbox as bb
from blackbox.ga import reference_directions

PROBLEMS = {"zdt1": 2, "zdt2": 2, "dtlz2": 3}
CHECKPOINTS = (2500, 5000, 10000, 20000)
POPSIZE = 100
MANY = {"dtlz2": (12, 250, 1.1), "dtlz1": (7, 400, 0.55)}
"""Variables and generations, which are those of Deb and Jain 2014, and the reference point of the hypervolume."""
DIVISIONS, MEMBERS = 12, 92


def ours(problem: Any, seed: int, method: str = "nsga-ii", popsize: int = POPSIZE) -> Iterator[np.ndarray]:
    """The values of the population after each generation."""
    strategy = bb.create(method, popsize=popsize, objectives=problem.n_obj)
    # pymoo's first population is uniform; the middle of the box, where a search begins here, is a good guess for DTLZ2.
    start = np.random.default_rng(seed).random(problem.n_var)
    state = strategy.init(bb.key(seed), start)
    while True:
        population = strategy.ask(state)
        state = strategy.tell(state, population, problem.evaluate(population))
        yield state.fitness


def pymoo(problem: Any, seed: int, algorithm: Any = None) -> Iterator[np.ndarray]:
    algorithm = algorithm or NSGA2(pop_size=POPSIZE)
    algorithm.setup(problem, termination=("n_gen", 10**6), seed=seed, verbose=False)
    while True:
        algorithm.next()
        yield algorithm.pop.get("F")


def pymoo_nsga3(problem: Any, seed: int) -> Iterator[np.ndarray]:
    directions = get_reference_directions("das-dennis", problem.n_obj, n_partitions=DIVISIONS)
    return pymoo(problem, seed, NSGA3(ref_dirs=directions, pop_size=MEMBERS))


Solver = Callable[[Any, int], Iterator[np.ndarray]]
SOLVERS: dict[str, Solver] = {"blackbox": ours, "pymoo": pymoo}
MANY_SOLVERS: dict[str, Solver] = {
    "nsga-ii": partial(ours, method="nsga-ii", popsize=MEMBERS),
    "nsga-iii": partial(ours, method="nsga-iii", popsize=MEMBERS),
    "pymoo NSGA-III": pymoo_nsga3,
}


def three_objectives(seeds: int) -> None:
    """NSGA-III beside NSGA-II and pymoo's, as in the experiments of the paper."""
    directions, rows = reference_directions(3, (DIVISIONS,)), []
    for name, (variables, generations, corner) in MANY.items():
        problem = get_problem(name, n_var=variables, n_obj=3)
        front = directions if name == "dtlz2" else 0.5 * directions / directions.sum(axis=1, keepdims=True)
        for solver, run in MANY_SOLVERS.items():
            start, found = time.process_time(), np.zeros((seeds, 2))
            for seed in range(seeds):
                course = run(problem, seed)
                for _ in range(generations):
                    values = next(course)
                found[seed, 0] = np.linalg.norm(front[:, None] - values[None], axis=2).min(axis=1).mean()
                found[seed, 1] = bb.hypervolume(values, np.full(3, corner))
            seconds = (time.process_time() - start) / seeds
            low, middle, high = np.quantile(found, (0.0, 0.5, 1.0), axis=0)
            row: dict[str, Any] = {"problem": name.upper(), "method": solver, "generations": generations}
            row["IGD"] = f"{middle[0]:.2e} ({low[0]:.2e} to {high[0]:.2e})"
            row["hypervolume"] = f"{middle[1]:.5f} ({low[1]:.5f} to {high[1]:.5f})"
            rows.append(row | {"s": f"{seconds:.1f}"})
            print(rows[-1], flush=True)
    note = (
        f"Median, least and greatest over {seeds} seeds, as in the paper, whose medians of IGD are 1.357e-3 for DTLZ2 "
        "and 1.308e-3 for DTLZ1; seconds of CPU time for one run, the objective's included."
    )
    columns = ["problem", "method", "generations", "IGD", "hypervolume", "s"]
    write("many", "Three objectives", columns, rows, ["blackbox-engine", "numpy", "pymoo"], note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", nargs="?", choices=("nsga-ii", "nsga-iii"), default="nsga-ii")
    parser.add_argument("--seeds", type=int, default=11)
    arguments = parser.parse_args()
    seeds = arguments.seeds
    if arguments.method == "nsga-iii":
        three_objectives(seeds)
        return
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
