"""What ask and tell cost beside the objective, per evaluation, ours and the peers' in one process.

    python bench/overhead.py             half a minute on one core; writes bench/results/overhead.md

CPU time of one thread on an ellipsoid (condition 1e4) from the same start and step size with every library's
default population; the objective's own time is left out. The libraries take turns; the median over the turns
counts. ``Optimizer`` is the whole shell: candidates, checks, restarts, no journal.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import cma
import cmaes
import numpy as np
from record import write

import blackbox as bb

Run = Callable[[int, int, int], tuple[float, int]]
"""From (dimension, evaluations, seed) to (seconds inside ask and tell, evaluations made)."""


def weights(d: int) -> np.ndarray:
    return 10.0 ** (4 * np.arange(d) / max(1, d - 1))


def strategy(name: str) -> Run:
    def run(d: int, evaluations: int, seed: int) -> tuple[float, int]:
        method, w = bb.create(name, sigma0=1.0), weights(d)
        state = method.init(bb.key(seed), np.ones(d))
        spent, count = 0.0, 0
        while count < evaluations:
            start = time.process_time()
            population = method.ask(state)
            asked = time.process_time()
            fitness = (population * population) @ w
            evaluated = time.process_time()
            state = method.tell(state, population, fitness)
            spent += time.process_time() - evaluated + asked - start
            count += len(population)
        return spent, count

    return run


def optimizer(name: str) -> Run:
    def run(d: int, evaluations: int, seed: int) -> tuple[float, int]:
        w, popsize = weights(d), 4 + int(3 * np.log(d))
        opt = bb.Optimizer(bb.Box(-5.0, 5.0, d), method=name, seed=seed)
        spent, count = 0.0, 0
        while count < evaluations:
            start = time.process_time()
            candidates = opt.ask(popsize)
            asked = time.process_time()
            values = [float((c.x * c.x) @ w) for c in candidates]
            evaluated = time.process_time()
            opt.tell(candidates, values)
            spent += time.process_time() - evaluated + asked - start
            count += popsize
        return spent, count

    return run


def run_cmaes(cls: Any) -> Run:
    def run(d: int, evaluations: int, seed: int) -> tuple[float, int]:
        method, w = cls(mean=np.ones(d), sigma=1.0, seed=seed), weights(d)
        spent, count = 0.0, 0
        while count < evaluations:
            start = time.process_time()
            population = [method.ask() for _ in range(method.population_size)]
            asked = time.process_time()
            told = [(x, float((x * x) @ w)) for x in population]
            evaluated = time.process_time()
            method.tell(told)
            spent += time.process_time() - evaluated + asked - start
            count += len(told)
        return spent, count

    return run


def run_pycma(d: int, evaluations: int, seed: int) -> tuple[float, int]:
    method, w = cma.CMAEvolutionStrategy(np.ones(d), 1.0, {"verbose": -9, "seed": seed + 1}), weights(d)
    spent, count = 0.0, 0
    while count < evaluations:
        start = time.process_time()
        population = method.ask()
        asked = time.process_time()
        values = [float((x * x) @ w) for x in population]
        evaluated = time.process_time()
        method.tell(population, values)
        spent += time.process_time() - evaluated + asked - start
        count += len(values)
    return spent, count


ENTRIES: list[tuple[str, Run, tuple[int, ...]]] = [
    ("blackbox cma-es", strategy("cma-es"), (2, 10, 40, 100)),
    ("blackbox Optimizer cma-es", optimizer("cma-es"), (2, 10, 40, 100)),
    ("cmaes CMA", run_cmaes(cmaes.CMA), (2, 10, 40, 100)),
    ("pycma", run_pycma, (2, 10, 40, 100)),
    ("blackbox sep-cma-es", strategy("sep-cma-es"), (10, 100, 1000)),
    ("blackbox lm-ma-es", strategy("lm-ma-es"), (10, 100, 1000)),
    ("blackbox snes", strategy("snes"), (10, 100, 1000)),
    ("cmaes SepCMA", run_cmaes(cmaes.SepCMA), (10, 100, 1000)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--evaluations", type=int, default=2000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    times: dict[tuple[str, int], list[float]] = {}
    for _, run, dimensions in ENTRIES:
        run(dimensions[0], 200, 99)  # imports and first calls
    for seed in range(arguments.repeats):
        for name, run, dimensions in ENTRIES:
            for d in dimensions:
                spent, count = run(d, arguments.evaluations, seed)
                times.setdefault((name, d), []).append(spent / count * 1e6)
    columns = ["library", *[f"D = {d}" for d in (2, 10, 40, 100, 1000)]]
    rows = [
        {"library": name, **{f"D = {d}": f"{statistics.median(times[name, d]):.1f}" for d in dimensions}}
        for name, _, dimensions in ENTRIES
    ]
    note = (
        f"Microseconds of CPU time in ask and tell per evaluation, median of {arguments.repeats} turns of "
        f"{arguments.evaluations} evaluations, seeds 0 to {arguments.repeats - 1}."
    )
    write("overhead", "Overhead of ask and tell", columns, rows, ["numpy", "cma", "cmaes"], note)


if __name__ == "__main__":
    main()
