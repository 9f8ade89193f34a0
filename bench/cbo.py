"""Consensus-based optimization, ours and CBXpy's, in one process: how often runs succeed, and how fast steps are.

    pip install cbx
    python bench/cbo.py             five minutes on one core; writes bench/results/cbo.md
    python bench/cbo.py speed       only the steps per second

Objectives and protocol are CBXpy's: Rastrigin sum(x^2 - 10 cos 2 pi x) + 10 d and Ackley (20, 0.2, 2 pi), particles
uniform in [-3, 3]^d, all runs in one batch. "Shifted": the minimum at (1.7, ..., 1.7); "outside": particles start in
[1, 4]^d; "rotated": by a random matrix. Ours has its defaults, and sigma0 = sqrt(3), which makes that start; CBXpy
lambda = 1, alpha from 30 by 5 % a step to 1e5, no correction, and the noise of its three good settings: "docs" (sigma
10.1, dt 0.01, of its notebook on success rates), "default" (5.1, 0.01), "tuned" (sqrt 10, 0.1, found by a scan).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cbx.dynamics import CBO
from cbx.scheduler import multiply
from record import write

import blackbox as bb
from kernels import measure

WITHIN = 0.25  # of the minimum in every coordinate: success
GAP = 1.0  # f above the minimum, for the evaluations until
CBX = {"docs": (10.1, 0.01), "default": (5.1, 0.01), "tuned": (math.sqrt(10), 0.1)}


def rastrigin(z: Any, xp: Any) -> Any:
    return xp.sum(z * z - 10 * xp.cos(2 * xp.pi * z), axis=-1) + 10 * z.shape[-1]


def ackley(z: Any, xp: Any) -> Any:
    d = z.shape[-1]
    waves = xp.exp(xp.sum(xp.cos(2 * xp.pi * z), axis=-1) / d)
    return -20 * xp.exp(-0.2 * xp.sqrt(xp.sum(z * z, axis=-1) / d)) - waves + 20 + math.e


class Problem(NamedTuple):
    name: str
    function: Callable[[Any, Any], Any]
    d: int
    budget: int
    """Evaluations of a run."""
    minimum: float = 0.0
    """Every coordinate of it."""
    start: tuple[float, float] = (-3.0, 3.0)
    rotated: bool = False

    def __call__(self, x: Any, xp: Any) -> Any:
        z = x - self.minimum
        if self.rotated:
            z = z @ xp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(self.d, self.d)))[0], dtype=z.dtype)
        return self.function(z, xp)


PROBLEMS = (
    Problem("Rastrigin", rastrigin, 20, 150_000),
    Problem("Rastrigin", rastrigin, 10, 50_000),
    Problem("Ackley", ackley, 20, 30_000),
    Problem("Rastrigin, shifted", rastrigin, 10, 50_000, minimum=1.7),
    Problem("Rastrigin, outside", rastrigin, 10, 50_000, start=(1.0, 4.0)),
    Problem("Rastrigin, rotated", rastrigin, 10, 50_000, rotated=True),
    Problem("Ackley, shifted", ackley, 20, 30_000, minimum=1.7),
    Problem("Ackley, outside", ackley, 20, 30_000, start=(1.0, 4.0)),
    Problem("Ackley, rotated", ackley, 20, 30_000, rotated=True),
)


class Outcome(NamedTuple):
    """Of all runs: the best points, their values by step, the evaluations of a step."""

    points: Any
    values: Any
    each: int


def ours(problem: Problem, runs: int, seed: int) -> Outcome:
    low, high = problem.start
    strategy = bb.create("cbo", sigma0=(high - low) / math.sqrt(12))
    _, history = bb.run(
        strategy, lambda x: problem(x, jnp), jnp.full(problem.d, (low + high) / 2), key=bb.key(seed),
        generations=problem.budget // strategy.popsize, runs=runs,
    )  # fmt: skip
    return Outcome(np.asarray(history.x_best), np.asarray(history.best), strategy.popsize)


def cbx(problem: Problem, runs: int, seed: int, setting: str, popsize: int = 100) -> Outcome:
    sigma, dt = CBX[setting]
    start = np.random.default_rng(seed).uniform(*problem.start, (runs, popsize, problem.d))
    dynamic = CBO(
        lambda x: problem(x, np), f_dim="3D", check_f_dims=False, x=start, M=runs, N=popsize, d=problem.d,
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


def row(problem: Problem, solver: str, solve: Callable[[], Outcome], runs: int) -> dict[str, Any]:
    began = time.process_time()
    outcome = solve()
    seconds = time.process_time() - began
    successes = int((np.abs(outcome.points - problem.minimum).max(axis=1) < WITHIN).sum())
    low, high = wilson(successes, runs)
    reached = outcome.values <= GAP
    until = np.where(reached.any(axis=1), (reached.argmax(axis=1) + 1.0) * outcome.each, np.inf)
    median = float(np.median(until))
    cells = {
        "problem": problem.name,
        "d": problem.d,
        "solver": solver,
        "evaluations": f"{problem.budget:,}",
        "success": f"{successes / runs:.0%} ({low:.0%} to {high:.0%})",
        "median f": f"{np.median(outcome.values[:, -1]):.1e}",
        "evaluations to f < 1": f"{median:,.0f}" if math.isfinite(median) else "–",
        "CPU s": f"{seconds:.1f}",
    }
    print(cells, flush=True)
    return cells


def steps_per_second() -> list[dict[str, Any]]:
    """Particle-steps per second of 100 runs of 100 particles in 20 dimensions, in turns, medians of five."""
    runs, popsize, d = 100, 100, 20
    problem = PROBLEMS[0]
    strategy = bb.create("cbo", popsize=popsize, sigma0=math.sqrt(3))

    def objective(x: Any) -> Any:
        return problem(x, jnp)

    def compiled(steps: int) -> None:
        states, _ = bb.run(strategy, objective, jnp.zeros(d), key=bb.key(0), generations=steps, runs=runs)
        jax.block_until_ready(states.particles)

    def plain(steps: int) -> None:
        for run in range(runs):
            state = strategy.init(bb.key(run), np.zeros(d))
            for _ in range(steps):
                population = strategy.ask(state)
                state = strategy.tell(state, population, problem(population, np))

    def peer(steps: int) -> None:
        cbx(problem._replace(budget=steps * popsize), runs, 0, "docs")

    makers: dict[str, tuple[Callable[[int], None], int]] = {
        "blackbox, JAX": (compiled, 500), "blackbox, NumPy": (plain, 40), "cbx": (peer, 40),
    }  # fmt: skip
    times = measure(
        {name: lambda turn, make=make, steps=steps: make(steps) for name, (make, steps) in makers.items()}, 5
    )
    speeds = {name: runs * popsize * steps / times[name] for name, (_, steps) in makers.items()}
    return [
        {
            "steps of": name,
            "particle-steps per CPU second": f"{speed:,.0f}",
            "times cbx": f"{speed / speeds['cbx']:.1f}",
        }
        for name, speed in speeds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("all", "speed"), default="all")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    packages = ("blackbox-engine", "numpy", "jax", "cbx")
    speeds = steps_per_second()
    note = "100 runs of 100 particles in 20 dimensions, Rastrigin; medians of five, in turns, compilation not included."
    write("cbo_speed", "Steps of consensus-based optimization", list(speeds[0]), speeds, packages, note)
    if arguments.what == "speed":
        return
    rows = []
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
        rows += [row(problem, name, solve, arguments.runs) for name, solve in solvers.items()]
    note = f"""
{(__doc__ or "").strip().split(chr(10) * 2)[-1]}
Success: the best point within {WITHIN} of the minimum in every coordinate, of {arguments.runs} runs, with Wilson's
interval of 95 %. Evaluations to f < 1: median, of runs that do not get there infinite. CPU s: of all runs, ours with
compilation. Seed {arguments.seed}.
"""
    write("cbo", "Consensus-based optimization", list(rows[0]), rows, packages, note)


if __name__ == "__main__":
    main()
