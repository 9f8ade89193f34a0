"""Whether every hosted optimizer does its work: evosax's in both precisions, nevergrad's as far as they can be made.

    python bench/hosted.py [--evosax] [--nevergrad] [--scipy] [--only NAME ...]

On a sphere and a rotated ellipsoid in the box [-5, 5]^d, whose minimum lies off the center where runs start. Each
optimizer is judged by the median of three seeds (the third is run where two disagree) against the median of 201 runs
of random search with as many evaluations. Every one runs in a process with a time limit: some hang.
"""

from __future__ import annotations

import argparse
import math
import os
import time
import warnings
from concurrent.futures import TimeoutError
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from pebble import ProcessPool
from record import write

import blackbox as bb

D = 3
EVALUATIONS = {"evosax": 600, "nevergrad": 200, "scipy": 200}
BETTER = 2.0  # on the sphere: so many times below random search's median
SAMPLING = 3.0  # designs and random searches: at most so many times above it
LIMIT = 60.0  # seconds for all runs of one optimizer

OPTIMUM = np.array([1.7, -2.3, 0.9])
ROTATION = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0]
SCALES = 100.0 ** np.linspace(0, 1, D)  # condition number 1e4 in f


def sphere(x: Any) -> float:
    return float(np.sum((x - OPTIMUM) ** 2))


def ellipsoid(x: Any) -> float:
    return float(np.sum((SCALES * (ROTATION @ (x - OPTIMUM))) ** 2))


FUNCTIONS = {"sphere": sphere, "ellipsoid": ellipsoid}


def random_median(function: Any, evaluations: int) -> float:
    """Median over 201 runs of the best of uniform points."""
    rng = np.random.default_rng(1)
    best = [min(map(function, rng.uniform(-5, 5, (evaluations, D)))) for _ in range(201)]
    return float(np.median(best))


def search(method: str, function: Any, seed: int, evaluations: int) -> float:
    """Best value through the shell."""
    optimizer = bb.Optimizer(bb.Box(-5, 5, D), method, seed=seed, budget=evaluations)
    for _ in range(evaluations):
        candidate = optimizer.ask()
        optimizer.tell(candidate, function(candidate.x))
    assert optimizer.best is not None
    return float(optimizer.best.value)


def loop(method: str, function: Any, seed: int, evaluations: int, dtype: str) -> float:
    """Best value of a strategy asked directly, in ``dtype``."""
    strategy = bb.create(method, sigma0=0.2)
    state = strategy.init(bb.key(seed), np.full(D, 0.5, dtype))
    best, count = math.inf, 0
    while count < evaluations:
        population = strategy.ask(state)
        values = np.array([function(10 * row - 5) for row in np.asarray(bb.reflect(population), float)])
        best, count = min(best, float(values[: evaluations - count].min())), count + len(values)
        state = strategy.tell(state, population, values.astype(dtype))
    return best


def judge(method: str, medians: dict[str, float], sampling: bool, dtype: str) -> dict[str, Any]:
    """One line of the table."""
    warnings.simplefilter("ignore")
    host = method.partition(":")[0]
    line: dict[str, Any] = {"method": method, "class": "sampling" if sampling else "search", "precision": dtype}
    started, verdicts = time.perf_counter(), []
    try:
        for name, function in FUNCTIONS.items():
            bar = medians[name] * (SAMPLING if sampling else 1 / BETTER if name == "sphere" else 1.0)
            values: list[float] = []
            for seed in range(3):
                if host == "evosax":
                    values.append(loop(method, function, seed, EVALUATIONS[host], dtype))
                else:
                    values.append(search(method, function, seed, EVALUATIONS[host]))
                passed = sum(value <= bar for value in values)
                if passed == 2 or len(values) - passed == 2:
                    break
            line[name] = f"{sorted(values)[(len(values) - 1) // 2]:.2g}"
            if passed < 2:
                verdicts.append(f"{name} above {bar:.2g}")
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0].replace("|", "/")
        verdicts.append(f"fails: {text[:110]}")
    line["status"] = "unverified: " + "; ".join(verdicts) if verdicts else "verified"
    line["s"] = f"{time.perf_counter() - started:.1f}"
    return line


def is_sampling(method: str) -> bool:
    """Whether a method makes a design or random points, which no value changes."""
    host, _, name = method.partition(":")
    if host != "nevergrad":
        return name == "RandomSearch"
    import nevergrad

    kind = nevergrad.optimizers.registry[name]
    return bool(getattr(kind, "one_shot", False)) or "RandomSearch" in name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for host in EVALUATIONS:
        parser.add_argument(f"--{host}", action="store_true", help="this package (default: all)")
    parser.add_argument("--only", nargs="*", help="names without their package")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    import importlib

    hosts = [host for host in EVALUATIONS if getattr(arguments, host)] or list(EVALUATIONS)
    jobs = []
    for host in hosts:
        medians = {name: random_median(function, EVALUATIONS[host]) for name, function in FUNCTIONS.items()}
        for name in importlib.import_module(f"blackbox.hosted.{host}").names():
            if not arguments.only or name in arguments.only:
                for dtype in ("float32", "float64") if host == "evosax" else ("float64",):
                    method = f"{host}:{name}"
                    jobs.append((method, medians, is_sampling(method), dtype))
    rows: list[dict[str, Any]] = []
    with ProcessPool(arguments.processes, max_tasks=60) as pool:
        futures = [pool.schedule(judge, args=job, timeout=LIMIT) for job in jobs]
        for job, future in zip(jobs, futures, strict=True):
            try:
                row = future.result()
            except TimeoutError:
                row = {"status": f"unverified: more than {LIMIT:.0f} s"}
            except Exception as error:
                row = {"status": f"unverified: process died ({type(error).__name__})"}
            kind = "sampling" if job[2] else "search"
            rows.append({"method": job[0], "class": kind, "precision": job[3], **row})
            print(rows[-1], flush=True)
    counts = []
    for host in hosts:
        own = [row for row in rows if row["method"].startswith(host + ":")]
        missing = [row for row in own if "ModuleNotFoundError" in row["status"] or "ImportError" in row["status"]]
        good = sum(row["status"] == "verified" for row in own)
        able = len(own) - len(missing)
        counts.append(
            f"{host}: {good} of {able} verified ({good / max(1, able):.1%}), {len(missing)} need absent packages."
        )
    bars = (
        f"Verified: at d = {D} with {EVALUATIONS} evaluations, the median of three seeds is at most 1/{BETTER:g} of "
        f"random search's median on the sphere and at most that median on the ellipsoid (condition 1e4, rotated); for "
        f"designs and random searches, at most {SAMPLING:g} times it on both. At most {LIMIT:g} s for all runs."
    )
    columns = ["method", "class", "precision", "sphere", "ellipsoid", "s", "status"]
    packages = ["blackbox-engine", "numpy", "jax", "evosax", "nevergrad", "scipy"]
    write("hosted", "Hosted optimizers", columns, rows, packages, " ".join([bars, *counts]))


if __name__ == "__main__":
    main()
