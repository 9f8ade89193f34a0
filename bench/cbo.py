"""Consensus-based optimization, ours and CBXpy's, in one process: how often runs succeed, and how fast steps are.

    pip install cbx
    python bench/cbo.py             ten minutes on one core; writes bench/results/cbo.md, cbo.png, cbo_speed.md
    python bench/cbo.py speed       only the steps per second, and the memory of a run

Problems are those of CBXpy's protocol, as problems/landscapes.py has them: Rastrigin sum(x^2 - 10 cos 2 pi x) + 10 d
and Ackley (20, 0.2, 2 pi), particles uniform in [-3, 3]^d, all runs in one batch. "Shifted": the minimum at
(1.7, ..., 1.7); "outside": particles start in [1, 4]^d; "rotated": by a random matrix. Ours has its defaults, and
sigma0 = sqrt(3), which makes that start; CBXpy lambda = 1, alpha from 30 by 5 % a step to 1e5, no correction, 100
particles, and the noise of its three good settings: "docs" (sigma 10.1, dt 0.01, of its notebook on success rates),
"default" (5.1, 0.01), "tuned" (sqrt 10, 0.1, found by a scan).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if hasattr(os, "sched_setaffinity"):  # one core for all: threads that wait for each other would count as work
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from cbx.dynamics import CBO
from cbx.scheduler import multiply
from record import RESULTS, write

import blackbox as bb
from blackbox.problems.landscapes import Landscape
from kernels import measure

GAP = 1.0  # f above the minimum, for the evaluations until
CBX = {"docs": (10.1, 0.01), "default": (5.1, 0.01), "tuned": (math.sqrt(10), 0.1)}
COLOURS = {"blackbox:cbo": "#1b6ca8", "cbx:docs": "#d1495b", "cbx:default": "#edae49", "cbx:tuned": "#66a182"}


class Problem(NamedTuple):
    name: str
    landscape: Landscape
    budget: int
    """Evaluations of a run."""


def problem(name: str, d: int, budget: int, version: str = "") -> Problem:
    """A landscape in one of its versions, from the start of the protocol."""
    minimum, start, rotation = 0.0, (-3.0, 3.0), None
    if version == "shifted":
        minimum = 1.7
    elif version == "outside":
        start = (1.0, 4.0)
    elif version == "rotated":
        rotation = 0
    title = f"{name.capitalize()}, {version}" if version else name.capitalize()
    return Problem(title, Landscape(name, d, minimum=minimum, start=start, rotation=rotation), budget)


PROBLEMS = (
    problem("rastrigin", 20, 150_000),
    problem("rastrigin", 10, 50_000),
    problem("ackley", 20, 30_000),
    *(problem("rastrigin", 10, 50_000, version) for version in ("shifted", "outside", "rotated")),
    *(problem("ackley", 20, 30_000, version) for version in ("shifted", "outside", "rotated")),
)


class Outcome(NamedTuple):
    """Of all runs: the best points, their values by step, the evaluations of a step."""

    points: Any
    values: Any
    each: int


def ours(problem: Problem, runs: int, seed: int) -> Outcome:
    landscape = problem.landscape
    low, high = landscape.start
    strategy = bb.create("cbo", sigma0=(high - low) / math.sqrt(12))
    _, history = bb.run(
        strategy, landscape, jnp.full(landscape.d, (low + high) / 2), key=bb.key(seed),
        generations=problem.budget // strategy.popsize, runs=runs,
    )  # fmt: skip
    return Outcome(np.asarray(history.x_best), np.asarray(history.best), strategy.popsize)


def cbx(problem: Problem, runs: int, seed: int, setting: str, popsize: int = 100) -> Outcome:
    landscape = problem.landscape
    sigma, dt = CBX[setting]
    start = np.random.default_rng(seed).uniform(*landscape.start, (runs, popsize, landscape.d))
    dynamic = CBO(
        landscape, f_dim="3D", check_f_dims=False, x=start, M=runs, N=popsize, d=landscape.d,
        noise="anisotropic", alpha=30.0, sigma=sigma, dt=dt, lamda=1.0, verbosity=0, track_args={"names": []},
        max_it=problem.budget // popsize, seed=seed,
    )  # fmt: skip
    schedule = multiply(name="alpha", factor=1.05, maximum=1e5)
    values = []
    while len(values) < problem.budget // popsize:
        dynamic.step()
        schedule.update(dynamic)
        values.append(np.array(dynamic.best_energy))
    return Outcome(np.asarray(dynamic.best_particle), np.stack(values, axis=1), popsize)


def wilson(successes: int, runs: int) -> tuple[float, float]:
    """The interval of 95 % for a share."""
    z, share = 1.96, successes / runs
    center = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    half = z / (1 + z * z / runs) * math.sqrt(share * (1 - share) / runs + z * z / (4 * runs * runs))
    return center - half, center + half


def arrivals(outcome: Outcome) -> np.ndarray:
    """The evaluations of each run until f < 1."""
    reached = outcome.values <= GAP
    return np.where(reached.any(axis=1), (reached.argmax(axis=1) + 1.0) * outcome.each, np.inf)


def row(problem: Problem, solver: str, outcome: Outcome, seconds: float) -> dict[str, Any]:
    runs = len(outcome.points)
    successes = int(problem.landscape.solved(outcome.points).sum())
    low, high = wilson(successes, runs)
    median = float(np.median(arrivals(outcome)))
    cells = {
        "problem": problem.name,
        "d": problem.landscape.d,
        "solver": solver,
        "evaluations": f"{problem.budget:,}",
        "success": f"{successes / runs:.0%} ({low:.0%} to {high:.0%})",
        "median f": f"{np.median(outcome.values[:, -1]):.1e}",
        "evaluations to f < 1": f"{median:,.0f}" if math.isfinite(median) else "–",
        "CPU s": f"{seconds:.1f}",
    }
    print(cells, flush=True)
    return cells


def draw(curves: dict[str, dict[str, np.ndarray]], budgets: list[int]) -> None:
    """The share of runs that have reached f < 1, over evaluations."""
    figure, axes = plt.subplots(3, 3, figsize=(11, 8), sharey=True, layout="constrained")
    for axis, (name, solvers), budget in zip(axes.flat, curves.items(), budgets, strict=True):
        for solver, until in solvers.items():
            shares = np.arange(1, len(until) + 1) / len(until)
            x, y = np.append(np.sort(until), budget), np.append(shares, np.isfinite(until).mean())
            kept = np.isfinite(x)
            axis.step(x[kept], y[kept], where="post", color=COLOURS[solver], label=solver)
        axis.set(title=name, xlim=(0, budget), ylim=(-0.02, 1.02))
        axis.ticklabel_format(axis="x", style="sci", scilimits=(3, 3))
    for axis in axes[:, 0]:
        axis.set_ylabel("runs with f < 1")
    for axis in axes[-1]:
        axis.set_xlabel("evaluations")
    axes[0, 0].legend(frameon=False)
    figure.savefig(RESULTS / "cbo.png", dpi=110)


RUNS, POPSIZE, D = 100, 100, 20  # of the steps that are timed


def stepping(landscape: Landscape) -> dict[str, Callable[[int], None]]:
    """What makes so many steps of all runs."""
    strategy = bb.create("cbo", popsize=POPSIZE, sigma0=math.sqrt(3))
    keys = np.stack([bb.key(run) for run in range(RUNS)])

    def compiled(steps: int) -> None:
        bb.run(strategy, landscape, jnp.zeros(D), key=bb.key(0), generations=steps, runs=RUNS)

    def plain(steps: int) -> None:
        state = strategy.init(keys, np.zeros((RUNS, D)))
        for _ in range(steps):
            population = strategy.ask(state)
            state = strategy.tell(state, population, landscape(population))

    def peer(steps: int) -> None:
        cbx(Problem("", landscape, steps * POPSIZE), RUNS, 0, "docs")

    return {"blackbox, JAX": compiled, "blackbox, NumPy": plain, "cbx": peer}


def steps_per_second(repeats: int) -> list[dict[str, Any]]:
    """Particle-steps per CPU second, in turns, medians."""
    rows = []
    for name in ("rastrigin", "sphere"):
        makers = stepping(Landscape(name, D, start=(-3.0, 3.0)))
        steps = {"blackbox, JAX": 500, "blackbox, NumPy": 40, "cbx": 40}
        turns = {solver: lambda turn, make=make, n=steps[solver]: make(n) for solver, make in makers.items()}
        times = measure(turns, repeats)
        speeds = {solver: RUNS * POPSIZE * steps[solver] / times[solver] for solver in turns}
        rows += [
            {
                "objective": name,
                "steps of": solver,
                "particle-steps per CPU second": f"{speed:,.0f}",
                "times cbx": f"{speed / speeds['cbx']:.1f}",
                "MiB": memory_of(solver) if name == "rastrigin" else "–",
            }
            for solver, speed in speeds.items()
        ]
    return rows


def memory_of(solver: str) -> str:
    """What 500 steps add to the peak memory of a process that has imported everything, in MiB."""
    command = [sys.executable, __file__, "memory", "--solver", solver]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def report_memory(solver: str) -> None:
    make = stepping(Landscape("rastrigin", D, start=(-3.0, 3.0)))[solver]
    before = peak()
    make(500)
    print(f"{peak() - before:.0f}")


def peak() -> float:
    """Peak memory of this process in MiB; rusage would tell that of its parent, if it is larger."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("all", "speed", "success", "memory"), default="all")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--solver", help="whose memory")
    arguments = parser.parse_args()
    if arguments.what == "memory":
        report_memory(arguments.solver)
        return
    packages = ("blackbox-engine", "numpy", "jax", "cbx")
    if arguments.what != "success":
        speeds = steps_per_second(arguments.repeats)
        note = f"""
{RUNS} runs of {POPSIZE} particles in {D} dimensions, on one core; medians of {arguments.repeats}, in turns,
compilation not included. The objective is part of a step: on the sphere it costs next to nothing, and Rastrigin's
cosines are in JAX those of problems/landscapes.py, in NumPy for both the same. MiB: what 500 steps add to the peak
memory of a process, in JAX with compilation.
"""
        write("cbo_speed", "Steps of consensus-based optimization", list(speeds[0]), speeds, packages, note)
    if arguments.what == "speed":
        return
    rows, curves = [], {}
    for problem in PROBLEMS:
        solvers: dict[str, Callable[[], Outcome]] = {
            "blackbox:cbo": lambda problem=problem: ours(problem, arguments.runs, arguments.seed),
            **{
                f"cbx:{setting}": lambda problem=problem, setting=setting: cbx(
                    problem, arguments.runs, arguments.seed, setting
                )
                for setting in CBX
            },
        }
        until = curves.setdefault(f"{problem.name}, d = {problem.landscape.d}", {})
        for name, solve in solvers.items():
            began = time.process_time()
            outcome = solve()
            rows.append(row(problem, name, outcome, time.process_time() - began))
            until[name] = arrivals(outcome)
    draw(curves, [problem.budget for problem in PROBLEMS])
    note = f"""
{(__doc__ or "").strip().split(chr(10) * 2)[-1]}
Success: the best point within 0.25 of the minimum in every coordinate, of {arguments.runs} runs, with Wilson's
interval of 95 %. Evaluations to f < 1: median, of runs that do not get there infinite. CPU s: of all runs, ours with
compilation. Seed {arguments.seed}.

![Shares of runs with f < 1, over evaluations](cbo.png)
"""
    write("cbo", "Consensus-based optimization", list(rows[0]), rows, packages, note)


if __name__ == "__main__":
    main()
