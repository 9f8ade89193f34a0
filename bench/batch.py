"""Many runs in one program: evaluations per second of scanned and vmapped runs against a Python loop over evosax.

    python bench/batch.py                a minute on one core; writes bench/results/batch.md

Each entry minimizes a 10-dimensional ellipsoid (condition 1e4) with CMA-ES, population 10, 350 generations, JAX arrays
in float32, on one CPU core. ``first call`` has the compilation in it. The Python loop jits the peer's ask and tell and
the objective, as its documentation does. Entries take turns; the median over the turns counts.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from evosax.algorithms import CMA_ES
from record import write

import blackbox as bb

D, POPSIZE, GENERATIONS = 10, 10, 350  # the run has not converged by then
START = jnp.ones(D)
WEIGHTS = jnp.asarray(10.0 ** (4 * np.arange(D) / (D - 1)), jnp.float32)


def ellipsoid(x: Any) -> Any:
    return WEIGHTS @ (x * x)


def scanned(runs: int | None, generations: int) -> Callable[[int], int]:
    strategy = bb.create("cma-es", popsize=POPSIZE, sigma0=1.0)

    def run(seed: int) -> int:
        _, history = bb.run(strategy, ellipsoid, START, key=bb.key(seed), generations=generations, runs=runs)
        return int(np.sum(history.evaluations))

    return run


def evosax_loop(generations: int) -> Callable[[int], int]:
    strategy = CMA_ES(population_size=POPSIZE, solution=START)
    parameters = strategy.default_params.replace(std_init=1.0)
    ask, tell, objective = jax.jit(strategy.ask), jax.jit(strategy.tell), jax.jit(jax.vmap(ellipsoid))

    def run(seed: int) -> int:
        key = jax.random.key(seed)
        state = strategy.init(key, START, parameters)
        for _ in range(generations):
            key, ask_key, tell_key = jax.random.split(key, 3)
            population, state = ask(ask_key, state, parameters)
            state, _ = tell(tell_key, population, objective(population), state, parameters)
        jax.block_until_ready(state)
        return generations * POPSIZE

    return run


def evosax_scan(runs: int, generations: int) -> Callable[[int], int]:
    strategy = CMA_ES(population_size=POPSIZE, solution=START)
    parameters = strategy.default_params.replace(std_init=1.0)

    @jax.jit
    def program(keys: Any) -> Any:
        def one(key: Any) -> Any:
            def generation(carry: Any, _: None) -> Any:
                key, state = carry
                key, ask_key, tell_key = jax.random.split(key, 3)
                population, state = strategy.ask(ask_key, state, parameters)
                state, _ = strategy.tell(tell_key, population, jax.vmap(ellipsoid)(population), state, parameters)
                return (key, state), None

            start = (key, strategy.init(key, START, parameters))
            return jax.lax.scan(generation, start, length=generations)[0][1]

        return jax.vmap(one)(keys)

    def run(seed: int) -> int:
        jax.block_until_ready(program(jax.random.split(jax.random.key(seed), runs)))
        return runs * generations * POPSIZE

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    entries = {
        "blackbox run, scanned": scanned(None, GENERATIONS),
        "blackbox run(runs=64), vmapped": scanned(64, GENERATIONS),
        "blackbox run(runs=1024), vmapped": scanned(1024, GENERATIONS),
        "evosax CMA_ES, Python loop": evosax_loop(GENERATIONS),
        "evosax CMA_ES, scanned by hand": evosax_scan(1, GENERATIONS),
        "evosax CMA_ES, 64 scanned by hand": evosax_scan(64, GENERATIONS),
    }
    first, rates = {}, {}
    for name, run in entries.items():
        started = time.perf_counter()
        run(0)
        first[name] = time.perf_counter() - started
        rates[name] = []
    for seed in range(1, arguments.repeats + 1):
        for name, run in entries.items():
            started = time.process_time()
            count = run(seed)
            rates[name].append((time.process_time() - started) / count * 1e6)
    loop = statistics.median(rates["evosax CMA_ES, Python loop"])
    rows = []
    for name in entries:
        cost = statistics.median(rates[name])
        rows.append({
            "entry": name,
            "µs per evaluation": f"{cost:.2f}",
            "evaluations per second": f"{1e6 / cost:,.0f}",
            "times the Python loop": f"{loop / cost:.1f}",
            "first call, s": f"{first[name]:.2f}",
        })  # fmt: skip
    note = f"CPU time, median of {arguments.repeats} turns with seeds 1 to {arguments.repeats}; one core."
    write("batch", "Many runs in one program", list(rows[0]), rows, ["numpy", "jax", "evosax"], note)


if __name__ == "__main__":
    main()
