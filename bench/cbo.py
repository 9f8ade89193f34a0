"""Consensus-based optimization, ours and CBXpy's, in one process: how often runs succeed, and how fast steps are.

    pip install cbx
    python bench/cbo.py             (on Linux) three to ten minutes; writes bench/results/cbo.md, cbo.png, cbo_speed.md
    python bench/cbo.py speed       only the steps per second, and the memory of a run

Problems are those of CBXpy's protocol, as problems/landscapes.py has them: Rastrigin sum(x^2 - 10 cos 2 pi x) + 10 d
and Ackley (20, 0.2, 2 pi), particles uniform in [-3, 3]^d, all runs in one batch. "Shifted": the minimum at
(1.7, ..., 1.7); "outside": particles start in [1, 4]^d; "rotated": by a random matrix. Ours has its defaults, and
sigma0 = sqrt(3), which makes that start of the first swarm; later ones are normal of the same deviation. CBXpy has
lambda = 1, no correction, 100 particles, and four settings: with noise by coordinate and alpha from 30 by 5 % a step to
1e5 "docs" (sigma 10.1, dt 0.01, of its notebook on success rates), "default" (5.1, 0.01) and "tuned" (sqrt 10, 0.1,
found by a scan); "isotropic" has noise by length and its scheduler for an effective sample size (dt 0.8, sigma 0.95 of
the limit of stability, sqrt(1.2 / d), eta 0.2: what our own first swarm has).

Both were tuned on these problems: ours with other seeds and another rotation, CBXpy's by its authors and by our scan.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["CORES"] = ",".join(map(str, sorted(os.sched_getaffinity(0))))
if "cores" not in sys.argv:  # one core for all: threads that wait for each other would count as work
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import argparse
import json
import math
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from cbx.dynamics import CBO
from cbx.scheduler import effective_sample_size, multiply
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from record import RESULTS, write

import blackbox as bb
from blackbox.problems.landscapes import Landscape
from kernels import measure

ALL = {int(core) for core in os.environ["CORES"].split(",")}
CORES = len(ALL)
if "cores" in sys.argv:
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={CORES}"  # kernels.py has others,
    os.sched_setaffinity(0, ALL)  # and one core
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
GAP = 0.5  # f above the minimum, for the evaluations until; Rastrigin's next minimum is at 0.995
CBX = {"docs": (10.1, 0.01), "default": (5.1, 0.01), "tuned": (math.sqrt(10), 0.1), "isotropic": (0.95, 0.8)}
COLOURS = {
    "blackbox:cbo": "#1b6ca8", "cbx:docs": "#d1495b", "cbx:default": "#edae49", "cbx:tuned": "#66a182",
    "cbx:isotropic": "#8d6a9f",
}  # fmt: skip
ROTATION = 1


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
        rotation = ROTATION
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
    if is_isotropic := setting == "isotropic":
        sigma *= math.sqrt((2 - dt) / landscape.d)
    start = np.random.default_rng(seed).uniform(*landscape.start, (runs, popsize, landscape.d))
    dynamic = CBO(
        landscape, f_dim="3D", check_f_dims=False, x=start, M=runs, N=popsize, d=landscape.d,
        noise="isotropic" if is_isotropic else "anisotropic", alpha=30.0, sigma=sigma, dt=dt, lamda=1.0,
        verbosity=0, track_args={"names": []}, max_it=problem.budget // popsize, seed=seed,
    )  # fmt: skip
    schedule = effective_sample_size(eta=0.2) if is_isotropic else multiply(name="alpha", factor=1.05, maximum=1e5)
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
    """The evaluations of each run until f < GAP."""
    reached = outcome.values < GAP
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
        f"evaluations to f < {GAP}": f"{median:,.0f}" if math.isfinite(median) else "–",
        "CPU s": f"{seconds:.1f}",
    }
    print(cells, flush=True)
    return cells


def draw(curves: dict[str, dict[str, np.ndarray]], budgets: list[int]) -> None:
    """The share of runs that have reached f < GAP, over evaluations."""
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
        axis.set_ylabel(f"runs with f < {GAP}")
    for axis in axes[-1]:
        axis.set_xlabel("evaluations")
    axes[0, 0].legend(frameon=False)
    figure.savefig(RESULTS / "cbo.png", dpi=110)


RUNS, POPSIZE, D = 100, 100, 20  # of the steps that are timed


OBJECTIVES = ("rastrigin", "sphere")
STEPS = {"blackbox, JAX": 500, "blackbox, NumPy": 200, "cbx": 40}  # CBXpy's are all alike, our first are softer


def stepping(landscape: Landscape) -> dict[str, Callable[[int], None]]:
    """What makes so many steps of all runs."""
    strategy = bb.create("cbo", popsize=POPSIZE, sigma0=math.sqrt(3))
    keys = np.stack([bb.key(run) for run in range(RUNS)])
    each = NamedSharding(Mesh(np.array(jax.devices()), ("runs",)), PartitionSpec("runs"))
    starts = jax.device_put(jnp.zeros((RUNS, D)), each) if RUNS % jax.device_count() == 0 else jnp.zeros((RUNS, D))

    def compiled(steps: int) -> None:
        bb.run(strategy, landscape, starts, key=bb.key(0), generations=steps, runs=RUNS)

    def plain(steps: int) -> None:
        state = strategy.init(keys, np.zeros((RUNS, D)))
        for _ in range(steps):
            population = strategy.ask(state)
            state = strategy.tell(state, population, landscape(population))

    def peer(steps: int) -> None:
        cbx(Problem("", landscape, steps * POPSIZE), RUNS, 0, "docs")

    return {"blackbox, JAX": compiled, "blackbox, NumPy": plain, "cbx": peer}


def turns_on(name: str) -> dict[str, Callable[[int], None]]:
    """The steps of each solver that are timed, on an objective."""
    makers = stepping(Landscape(name, D, start=(-3.0, 3.0)))
    return {solver: lambda turn, make=make, n=STEPS[solver]: make(n) for solver, make in makers.items()}


def steps_per_second(repeats: int) -> list[dict[str, Any]]:
    """Particle-steps per CPU second, in turns, medians."""
    rows = []
    on_all = json.loads(printed("cores", "--repeats", str(repeats)))
    for name in OBJECTIVES:
        speeds = per_second(measure(turns_on(name), repeats))
        walls = per_second(on_all[name])
        rows += [
            {
                "objective": name,
                "steps of": solver,
                "particle-steps per CPU second": f"{speed:,.0f}",
                "times cbx": f"{speed / speeds['cbx']:.1f}",
                f"per second on {CORES} cores": f"{walls[solver]:,.0f}",
                "times cbx ": f"{walls[solver] / walls['cbx']:.1f}",
                "MiB": printed("memory", "--solver", solver) if name == "rastrigin" else "–",
            }
            for solver, speed in speeds.items()
        ]
    return rows


def per_second(seconds: dict[str, float]) -> dict[str, float]:
    return {solver: RUNS * POPSIZE * STEPS[solver] / taken for solver, taken in seconds.items()}


def report_cores(repeats: int) -> None:
    """Seconds of wall time of the steps, with all cores for each; the runs of JAX over as many devices."""
    print(json.dumps({name: measure(turns_on(name), repeats, time.perf_counter) for name in OBJECTIVES}))


def printed(*arguments: str) -> str:
    """What this program prints in a process of its own, with those cores that this one had at first."""
    command = [sys.executable, __file__, *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ONE_THREAD}
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, ALL),
    ).stdout.strip()  # fmt: skip


def report_memory(solver: str) -> None:
    """What 500 steps add to the peak memory of a process that has imported everything, in MiB."""
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
    parser.add_argument("what", nargs="?", choices=("all", "speed", "success", "memory", "cores"), default="all")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--solver", help="whose memory")
    arguments = parser.parse_args()
    if arguments.what == "memory":
        report_memory(arguments.solver)
        return
    if arguments.what == "cores":
        report_cores(arguments.repeats)
        return
    packages = ("blackbox-engine", "numpy", "jax", "cbx")
    if arguments.what != "success":
        speeds = steps_per_second(arguments.repeats)
        note = f"""
{RUNS} runs of {POPSIZE} particles in {D} dimensions; medians of {arguments.repeats}, in turns, compilation not
included; float32 in JAX, float64 in NumPy. CPU seconds on one core; seconds of wall time with {CORES} cores for each,
of which JAX has one device each for its share of the runs, and NumPy makes use of one. The objective is part of a step
and in NumPy for both the same; on the sphere it costs next to nothing. MiB: what 500 steps add to the peak memory of a
process, in JAX with compilation.
"""
        write("cbo_speed", "Steps of consensus-based optimization", list(speeds[0]), speeds, packages, note)
    if arguments.what == "speed":
        return
    rows, curves = [], {}
    ours(problem("sphere", 2, 1000), 2, 0)  # which starts JAX
    for each in PROBLEMS:
        solvers: dict[str, Callable[[], Outcome]] = {
            "blackbox:cbo": lambda each=each: ours(each, arguments.runs, arguments.seed),
            **{
                f"cbx:{setting}": lambda each=each, setting=setting: cbx(each, arguments.runs, arguments.seed, setting)
                for setting in CBX
            },
        }
        until = curves.setdefault(f"{each.name}, d = {each.landscape.d}", {})
        for name, solve in solvers.items():
            began = time.process_time()
            outcome = solve()
            rows.append(row(each, name, outcome, time.process_time() - began))
            until[name] = arrivals(outcome)
    draw(curves, [each.budget for each in PROBLEMS])
    note = f"""
{(__doc__ or "").strip().split(chr(10) * 2, 2)[-1]}
Success: the best point within 0.25 of the minimum in every coordinate, of {arguments.runs} runs, with Wilson's
interval of 95 %. Evaluations to f < {GAP}: median, of runs that do not get there infinite. CPU s: of all runs, ours
with compilation for each problem, but without the start of JAX, as without imports. Seed {arguments.seed}.

![Shares of runs with f < {GAP}, over evaluations](cbo.png)
"""
    write("cbo", "Consensus-based optimization", list(rows[0]), rows, packages, note)


if __name__ == "__main__":
    main()
