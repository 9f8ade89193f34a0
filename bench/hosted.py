"""Whether every hosted optimizer does its work: evosax's in both precisions, nevergrad's, SciPy's.

    python bench/hosted.py evosax       ten minutes on one core; writes bench/results/hosted_evosax.md
    python bench/hosted.py nevergrad    ten minutes
    python bench/hosted.py scipy        a minute
    python bench/hosted.py evosax --only SNES LES       some again, the others as they were

On a sphere and a rotated ellipsoid in the box [-5, 5]^d, whose minimum lies off the center where runs start. Each
optimizer is judged by the median of three seeds (the third is run where two disagree) against the median of 201 runs
of random search with as many evaluations; and what it asks for after some generations must be what another object asks
for that is made again from the state. One that stays behind is weak, not broken, if nevergrad's own object, given the
same random numbers and no blackbox, asks for the same points to the last bit. Every one runs in a process with a time
limit: some hang.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import importlib
import json
import math
import multiprocessing
import random
import signal
import time
import warnings
from concurrent.futures import TimeoutError
from typing import Any

import numpy as np
from pebble import ProcessPool
from record import RESULTS, write

import blackbox as bb
from blackbox.hosted.replay import seed_of

D = 5
PACKAGES = ("evosax", "nevergrad", "scipy")
EVALUATIONS = {"evosax": 2000, "nevergrad": 600, "scipy": 600}  # evosax's take some to learn their step size
BETTER = 2.0  # on the sphere: so many times below random search's median
SAMPLING = 3.0  # designs and random searches: at most so many times above it
LIMIT = 60.0  # seconds of processor time for all runs of one optimizer
HUNG = 900.0  # seconds after which an optimizer is taken to hang
REPLAYED = 20  # generations after which another object must ask for the same

CRITERION = f"""
Verified: at d = {D} within {EVALUATIONS["nevergrad"]} evaluations, of evosax's within {EVALUATIONS["evosax"]}, the
median of three seeds is at most 1/{BETTER:g} of random search's median on the sphere and at most that median on the
ellipsoid (condition 1e4, rotated); for designs and random searches, at most {SAMPLING:g} times it on both. Made again
from its state, it asks for the same. At most {LIMIT:g} s of processor time for all of it; evosax's in float32 and in
float64. Weak: it misses those values, but nevergrad's own object without blackbox, given the same random numbers, asks
for the same {EVALUATIONS["nevergrad"]} points to the last bit.
""".strip()

OPTIMUM = np.array([1.7, -2.3, 0.9, -1.2, 2.6])
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


class Slow(Exception):
    """An optimizer has used its processor time."""


def limit_time() -> None:
    """Raise Slow here once this much processor time is used, wherever that is."""

    def stop(*_: Any) -> None:
        raise Slow(f"more than {LIMIT:.0f} s of processor time")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)


def search(method: str, function: Any, seed: int, evaluations: int, bar: float) -> tuple[float, int]:
    """Best value through the shell, and evaluations, up to the first value that passes the bar."""
    optimizer = bb.Optimizer(bb.Box(-5, 5, D), method, seed=seed, budget=evaluations)
    best, count = math.inf, 0
    while count < evaluations and best > bar:
        candidate = optimizer.ask()
        value = function(candidate.x)
        optimizer.tell(candidate, value)
        best, count = min(best, value), count + 1
    return best, count


def loop(method: str, function: Any, seed: int, evaluations: int, bar: float, dtype: str) -> tuple[float, int]:
    """The same of a strategy asked directly, in ``dtype``."""
    strategy = bb.create(method, sigma0=0.2)
    state = strategy.init(bb.key(seed), np.full(D, 0.5, dtype))
    best, count = math.inf, 0
    while count < evaluations and best > bar:
        population = strategy.ask(state)
        values = np.array([function(10 * row - 5) for row in np.asarray(bb.reflect(population), float)])
        best, count = min(best, float(values[: evaluations - count].min())), count + len(values)
        state = strategy.tell(state, population, values.astype(dtype))
    return best, count


def is_replayed(method: str, dtype: str) -> bool:
    """Whether an object made again from a state asks for the same as the one that led there."""
    box = {} if method.startswith("evosax:") else {"low": 0.0, "high": 1.0}
    strategy = bb.create(method, sigma0=0.2, **box)
    state = strategy.init(bb.key(0), np.full(D, 0.5, dtype))
    for _ in range(REPLAYED):
        population = strategy.ask(state)
        state = strategy.tell(state, population, np.array([sphere(10 * row - 5) for row in population], dtype))
    return np.array_equal(strategy.ask(state), bb.create(method, sigma0=0.2, **box).ask(state))


def is_upstreams(method: str) -> bool:
    """Whether nevergrad's own object, from the same random numbers, asks for the same points on the ellipsoid."""
    import nevergrad
    from cma.options_parameters import cma_default_options

    evaluations, x0 = EVALUATIONS["nevergrad"], np.full(D, 0.5)
    strategy: Any = bb.create(method, sigma0=0.2, low=0.0, high=1.0, evaluations=evaluations)
    state = strategy.init(bb.key(0), x0)
    points: list[Any] = []
    for _ in range(evaluations):
        population = strategy.ask(state)
        points.append(population[0])
        state = strategy.tell(state, population, np.array([ellipsoid(10 * population[0] - 5)]))

    seed = seed_of(bb.key(0))
    np.random.seed(seed)  # some draw from the global generators,
    random.seed(seed)
    cma_default_options["seed"] = math.nan  # which pycma would seed by the clock
    array = nevergrad.p.Array(init=x0).set_mutation(sigma=0.2).set_bounds(0.0, 1.0)
    array.random_state = np.random.RandomState(seed)
    optimizer = nevergrad.optimizers.registry[method.partition(":")[2]](array, budget=evaluations, num_workers=1)
    for point in points:
        candidate = optimizer.ask()
        if not np.array_equal(candidate.value, point):
            return False
        optimizer.tell(candidate, ellipsoid(10 * candidate.value - 5))
    return True


def judge(method: str, medians: dict[str, float], sampling: bool, dtype: str) -> dict[str, Any]:
    """One line of the table."""
    warnings.simplefilter("ignore")
    host = method.partition(":")[0]
    line: dict[str, Any] = {"method": method, "class": "sampling" if sampling else "search", "precision": dtype}
    started, verdicts, missed = time.process_time(), [], "unverified"
    limit_time()
    try:
        for name, function in FUNCTIONS.items():
            bar = medians[name] * (SAMPLING if sampling else 1 / BETTER if name == "sphere" else 1.0)
            runs: list[tuple[float, int]] = []
            for seed in range(3):
                if host == "evosax":
                    runs.append(loop(method, function, seed, EVALUATIONS[host], bar, dtype))
                else:
                    runs.append(search(method, function, seed, EVALUATIONS[host], bar))
                passed = sum(best <= bar for best, _ in runs)
                if passed == 2 or len(runs) - passed == 2:
                    break
            if passed == 2:
                line[name] = max(count for best, count in runs if best <= bar)
            else:
                verdicts.append(f"{name}: {sorted(runs)[1][0]:.2g} instead of {bar:.2g}")
        if not is_replayed(method, dtype):
            verdicts.append("another course after a replay")
        elif verdicts and host == "nevergrad" and is_upstreams(method):
            missed = "weak"
    except Slow as error:
        verdicts.append(str(error))
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split()).replace("|", "/")
        verdicts.append(f"fails: {text[:140]}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    line["status"] = f"{missed}: " + "; ".join(verdicts) if verdicts else "verified"
    line["s"] = f"{time.process_time() - started:.1f}"
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", choices=PACKAGES)
    parser.add_argument("--only", nargs="*", help="optimizers to measure again, without the name of their package")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()

    host = arguments.package
    medians = {name: random_median(function, EVALUATIONS[host]) for name, function in FUNCTIONS.items()}
    names = importlib.import_module(f"blackbox.hosted.{host}").names()
    jobs = [
        (f"{host}:{name}", medians, is_sampling(f"{host}:{name}"), dtype)
        for name in names
        if not arguments.only or name in arguments.only
        for dtype in (("float32", "float64") if host == "evosax" else ("float64",))
    ]
    rows: list[dict[str, Any]] = []
    spawn = multiprocessing.get_context("spawn")  # JAX does not survive a fork
    with ProcessPool(arguments.processes, max_tasks=60, context=spawn) as pool:
        futures = [pool.schedule(judge, args=job, timeout=HUNG) for job in jobs]
        for job, future in zip(jobs, futures, strict=True):
            try:
                row = future.result()
            except TimeoutError:
                row = {"status": f"unverified: hangs, or takes more than {HUNG:.0f} s"}
            except Exception as error:
                row = {"status": f"unverified: process died ({type(error).__name__})"}
            kind = "sampling" if job[2] else "search"
            rows.append({"method": job[0], "class": kind, "precision": job[3], **row})
            print(rows[-1], flush=True)
    if arguments.only:
        again = {row["method"] for row in rows}
        kept = json.loads((RESULTS / f"hosted_{host}.json").read_text())["rows"]
        rows = sorted(
            [row for row in kept if row["method"] not in again] + rows,
            key=lambda row: (row["method"], row["precision"]),
        )
    columns = ["method", "class", "precision", "sphere", "ellipsoid", "s", "status"]
    packages = ["blackbox-engine", "numpy", *{"evosax": ["jax", "evosax"]}.get(host, [host])]
    note = f"{CRITERION} Columns sphere and ellipsoid: evaluations after which two of three seeds had passed."
    write(f"hosted_{host}", f"Optimizers of {host}", columns, rows, packages, note)
    summarize()


def summarize() -> None:
    """One table for all packages that have been measured."""
    rows = []
    for host in PACKAGES:
        path = RESULTS / f"hosted_{host}.json"
        if not path.exists():
            continue
        record = json.loads(path.read_text())
        statuses: dict[str, set[str]] = {}
        for row in record["rows"]:
            statuses.setdefault(row["method"].partition(":")[2], set()).add(row["status"])
        able = {name: own for name, own in statuses.items() if not any("MissingExtra" in status for status in own)}
        missed = {name: {status.partition(":")[0] for status in own} - {"verified"} for name, own in able.items()}
        weak = [name for name, kinds in missed.items() if kinds == {"weak"}]
        broken = [name for name, kinds in missed.items() if "unverified" in kinds]
        rows.append(
            {
                "package": f"{host} {record['environment'][host]}",
                "verified": f"{len(able) - len(broken) - len(weak)} of {len(able)}",
                "weak": len(weak),
                "need a further package": len(statuses) - len(able),
                "not verified": ", ".join(f"`{name}`" for name in broken) or "none",
            }
        )
    columns = ["package", "verified", "weak", "need a further package", "not verified"]
    write("hosted", "Optimizers of other packages", columns, rows, ["blackbox-engine", "numpy"], CRITERION)


if __name__ == "__main__":
    main()
