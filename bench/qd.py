"""Quality diversity, ours and pyribs': the time of insertions, and archives after as many evaluations.

    python bench/qd.py               some ten minutes on one core; writes bench/results/qd.md

Insertion: 100,000 candidates with 20 numbers each, into an empty grid of 10,000 cells and into one that has an elite in
each cell. Archives: the sphere and the arm of pyribs' examples with 20 variables, 100 x 100 cells, batches of 540
(15 emitters of 36), settings as in those examples. QD score: the sum of the objective, which is at most 100, over all
elites, per cell. pyribs is optional: without it there are our figures alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
from record import write

import blackbox as bb
from blackbox.qd import coverage, empty, insert, qd_score

GRID = (100, 100)
D, EMITTERS, BATCH = 20, 15, 36
CANDIDATES = 100_000
METHODS = ("map-elites", "cma-me", "cma-mae")
Result = tuple[np.ndarray, np.ndarray]


def sphere(x: np.ndarray) -> Result:
    """Objective from 0 to 100 with its best at 2.048, and the sums of either half of the variables, folded back."""
    objective = 100 * (1 - ((x - 2.048) ** 2).sum(axis=1) / (7.168**2 * x.shape[1]))
    inside = np.where(np.abs(x) > 5.12, 5.12 / np.where(np.abs(x) > 5.12, x, 1), x)
    half = x.shape[1] // 2
    return objective, np.stack([inside[:, :half].sum(axis=1), inside[:, half:].sum(axis=1)], axis=1)


def arm(x: np.ndarray) -> Result:
    """100 less a hundred variances of the joints' angles, and where the end of the arm is."""
    angle = np.cumsum(x, axis=1)
    return 100 * (1 - x.var(axis=1)), np.stack([np.cos(angle).sum(axis=1), np.sin(angle).sum(axis=1)], axis=1)


TASKS: dict[str, tuple[Callable[[np.ndarray], Result], float, float, float]] = {
    # and half the extent of the descriptors, the step size of CMA-ES, and that of MAP-Elites
    "sphere": (sphere, 5.12 * D / 2, 0.5, 0.1),
    "arm": (arm, float(D), 0.2, 0.05),
}


def ours(task: str, method: str, generations: int, seed: int) -> tuple[float, float]:
    """QD score for each cell, and coverage."""
    objective, extent, sigma, iso_sigma = TASKS[task]
    settings: dict[str, Any] = {"cells": GRID, "ranges": ((-extent, extent),) * 2, "sigma0": sigma}
    if method == "map-elites":
        settings |= {"popsize": EMITTERS * BATCH, "sigma0": iso_sigma, "iso_sigma": iso_sigma}
    if method == "cma-mae":
        settings |= {"threshold0": 0.0}
    strategy = bb.create(method, **settings)
    state = strategy.init(bb.key(seed), np.zeros(D))
    for _ in range(generations):
        population = strategy.ask(state)
        values, descriptors = objective(population)
        state = strategy.tell(state, population, -values, descriptors)
    return float(qd_score(state.archive, 0.0)) / np.prod(GRID), float(coverage(state.archive))


def pyribs(task: str, method: str, generations: int, seed: int) -> tuple[float, float]:
    from ribs.archives import GridArchive
    from ribs.emitters import EvolutionStrategyEmitter, IsoLineEmitter
    from ribs.schedulers import Scheduler

    objective, extent, sigma, iso_sigma = TASKS[task]
    grid: dict[str, Any] = {"solution_dim": D, "dims": GRID, "ranges": [(-extent, extent)] * 2, "seed": seed}
    annealed = {"learning_rate": 0.01, "threshold_min": 0.0} if method == "cma-mae" else {}
    archive, best = GridArchive(**grid, **annealed), GridArchive(**grid)
    rules: dict[str, Any] = {
        "cma-me": {"ranker": "2imp", "selection_rule": "mu", "restart_rule": "no_improvement"},
        "cma-mae": {"ranker": "imp", "selection_rule": "mu", "restart_rule": "basic"},
    }
    start = np.zeros(D)
    if method == "map-elites":
        batch = EMITTERS * BATCH
        emitters: list[Any] = [
            IsoLineEmitter(archive, x0=start, iso_sigma=iso_sigma, line_sigma=0.2, batch_size=batch, seed=seed)
        ]
    else:
        emitters = [
            EvolutionStrategyEmitter(
                archive, x0=start, sigma0=sigma, batch_size=BATCH, seed=100 * seed + i, **rules[method]
            )
            for i in range(EMITTERS)
        ]
    scheduler = Scheduler(archive, emitters, result_archive=best)
    for _ in range(generations):
        scheduler.tell(*objective(scheduler.ask()))
    return float(best.stats.qd_score) / np.prod(GRID), float(best.stats.coverage)


def insertions() -> Iterator[tuple[str, Callable[[bool], Callable[[], object]]]]:
    """Libraries, and what inserts the candidates into an archive that is empty or full."""
    rng = np.random.default_rng(0)
    solutions, objective, where = rng.random((CANDIDATES, D)), rng.random(CANDIDATES), rng.random((CANDIDATES, 2))
    ranges = ((0.0, 1.0),) * 2

    def in_numpy(is_full: bool) -> Callable[[], object]:
        archive = empty(GRID, ranges, np.zeros(D))
        if is_full:
            archive, _ = insert(archive, solutions, -0.5 * objective, where)
        return lambda: insert(archive, solutions, -objective, where)

    yield "blackbox, NumPy", in_numpy
    if find_spec("jax"):
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)  # as pyribs has it
        inserting = jax.jit(insert)
        candidates = [jnp.asarray(array) for array in (solutions, -objective, where)]

        def in_jax(is_full: bool) -> Callable[[], object]:
            archive = empty(GRID, ranges, jnp.zeros(D))
            if is_full:
                archive, _ = inserting(archive, candidates[0], 0.5 * candidates[1], candidates[2])
            return lambda: jax.block_until_ready(inserting(archive, *candidates))

        yield "blackbox, JAX", in_jax
    if find_spec("ribs"):
        from ribs.archives import GridArchive

        def in_pyribs(is_full: bool) -> Callable[[], object]:
            archive = GridArchive(solution_dim=D, dims=GRID, ranges=ranges)
            if is_full:
                archive.add(solutions, 0.5 * objective, where)
            return lambda: archive.add(solutions, objective, where)

        yield "pyribs", in_pyribs


def times(rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of CPU time of an insertion, the least of some; the libraries take turns, each on a new archive."""
    makers = dict(insertions())
    rows = []
    for is_full in (False, True):
        least = dict.fromkeys(makers, np.inf)
        for _ in range(rounds):
            for name, make in makers.items():
                inserting = make(is_full)
                start = time.process_time()  # on a loaded machine long insertions would wait more often than short ones
                inserting()
                least[name] = min(least[name], time.process_time() - start)
        row: dict[str, Any] = {"task": "100,000 candidates", "method": "full" if is_full else "empty"}
        rows.append(row | {name: f"{1000 * seconds:.1f} ms" for name, seconds in least.items()})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--generations", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    rows = times(arguments.rounds)
    solvers = {"blackbox, NumPy": ours} | ({"pyribs": pyribs} if find_spec("ribs") else {})
    for task in TASKS:
        for method in METHODS:
            row: dict[str, Any] = {"task": task, "method": method}
            for name, run in solvers.items():
                start = time.process_time()
                found = np.array([run(task, method, arguments.generations, seed) for seed in range(arguments.seeds)])
                seconds = (time.process_time() - start) / arguments.seeds
                (score, share), deviation = found.mean(axis=0), found[:, 0].std()
                row[name] = f"score {score:.2f} ± {deviation:.2f}, coverage {100 * share:.1f}%, {seconds:.1f} s"
            rows.append(row)
            print(row, flush=True)
    note = (
        f"First two rows: CPU time of one insertion, the least of {arguments.rounds}, in turns. Others: means over "
        f"{arguments.seeds} seeds after {arguments.generations} generations of {EMITTERS * BATCH} evaluations; ± the "
        "standard deviation of the score; seconds of CPU time for a run, the objective's included. Parents of pyribs' "
        "CMA-ME are the better half, which scores higher here than its default."
    )
    columns = ["task", "method", "blackbox, NumPy", "blackbox, JAX", "pyribs"]
    write("qd", "Quality diversity", columns, rows, ["blackbox-engine", "numpy", "jax", "ribs"], note)


if __name__ == "__main__":
    main()
