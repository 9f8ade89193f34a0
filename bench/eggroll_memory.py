"""Peak memory of EGGROLL on a large network: 100 million parameters, 4,096 members, one generation after another.

    python bench/eggroll_memory.py       some minutes on two cores; writes bench/results/eggroll_memory.md

A network of four layers of 5,000 x 5,000 (400 MB in float32) classifies random vectors, one for every pair. Peak memory
is the process's largest resident set; ``over import`` is without what Python and JAX take before a parameter exists.
A population of stored members would take 4,096 times the parameters.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from record import write

import blackbox as bb

MB = 1e6


def peak() -> float:
    """Largest resident set so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB


def loss(params: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    h = x
    for name in sorted(params):
        h = jnp.tanh(h @ params[name])
    return optax.softmax_cross_entropy_with_integer_labels(10 * h[:10], y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=5000)
    parser.add_argument("--popsize", type=int, default=4096)
    parser.add_argument("--chunk", type=int, default=512, help="members evaluated at once")
    parser.add_argument("--generations", type=int, default=2)
    arguments = parser.parse_args()
    jax.block_until_ready(jnp.ones((8, 8)) @ jnp.ones((8, 8)))
    before = peak()
    width, n = arguments.width, arguments.popsize
    rng = np.random.default_rng(0)
    params = {}
    for i in range(4):
        params[f"layer{i}"] = jnp.asarray(rng.standard_normal((width, width), np.float32) * width**-0.5)
    entries = 4 * width * width
    x = jnp.asarray(np.repeat(rng.standard_normal((n // 2, width), np.float32), 2, axis=0))
    y = jnp.asarray(np.repeat(rng.integers(0, 10, n // 2), 2))
    strategy = bb.es.Eggroll(popsize=n, sigma=0.01)
    state = strategy.init(bb.key(0), params)
    del params
    rows = []
    for generation in range(arguments.generations):
        started, cpu = time.perf_counter(), time.process_time()
        population = strategy.ask(state)
        fitness = bb.evaluate(loss, population, x, y, in_axes=0, chunk=arguments.chunk)
        jax.block_until_ready(fitness)
        evaluated, evaluated_cpu = time.perf_counter(), time.process_time()
        state = strategy.tell(state, population, fitness)
        del population
        jax.block_until_ready(state)
        rows.append({
            "generation": generation + 1,
            "peak memory, MB": f"{peak():.0f}",
            "over import, MB": f"{peak() - before:.0f}",
            "times the parameters": f"{(peak() - before) * MB / (4 * entries):.2f}",
            "evaluation, s (CPU s)": f"{evaluated - started:.1f} ({evaluated_cpu - cpu:.1f})",
            "update, s (CPU s)": f"{time.perf_counter() - evaluated:.1f} ({time.process_time() - evaluated_cpu:.1f})",
            "mean fitness": f"{float(fitness.mean()):.4f}",
        })  # fmt: skip
        print(rows[-1], flush=True)
    note = (
        f"{entries:,} parameters, {4 * entries / MB:.0f} MB; popsize {n}, rank 1, evaluated {arguments.chunk} members "
        f"at a time; inputs of {x.nbytes / MB:.0f} MB included. Generation 1 has the compilation in its times."
    )
    write("eggroll_memory", "EGGROLL on 100 million parameters", list(rows[0]), rows, ["jax", "numpy"], note)


if __name__ == "__main__":
    main()
