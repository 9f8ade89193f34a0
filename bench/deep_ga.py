"""Deep GA: what genomes of a network of four million weights take, a generation of a thousand, and ask and tell.

    python bench/deep_ga.py              ten minutes on one core; writes bench/results/deep_ga.md

The network is the paper's for Atari (arXiv:1712.06567), 4,052,658 parameters. Genomes: after 100 generations, decoded
by one core. Memory: the largest resident set of a process that asks, evaluates and tells a generation of 1,000, without
what Python and JAX take before a parameter exists. Ask and tell: beside evosax's SimpleGA, each also with a look at
every weight of every member, since ours forms them where they are evaluated and evosax's in ask.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from record import write

import blackbox as bb
from blackbox.ga import DeepGA, compact, decode, restore

GENERATIONS = 100
LAYERS = {
    "conv1": (8, 8, 4, 32),
    "conv2": (4, 4, 32, 64),
    "conv3": (3, 3, 64, 64),
    "dense": (7744, 512),
    "out": (512, 18),
}
STRIDES = {"conv1": 4, "conv2": 2, "conv3": 1}
PEERS = 1024  # members beside evosax, as in its own examples


def network() -> dict[str, Any]:
    shapes = {name: (shape, shape[-1:]) for name, shape in LAYERS.items()}
    return {name: {"w": jnp.zeros(w, jnp.float32), "b": jnp.zeros(b, jnp.float32)} for name, (w, b) in shapes.items()}


def outputs(params: Any, frames: jax.Array) -> jax.Array:
    """Of four frames of 84 x 84."""
    x = frames[None]
    for name, stride in STRIDES.items():
        made = jax.lax.conv_general_dilated(
            x, params[name]["w"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(made + params[name]["b"])
    x = jax.nn.relu(x.reshape(1, -1) @ params["dense"]["w"] + params["dense"]["b"])
    return (x @ params["out"]["w"] + params["out"]["b"])[0]


def peak() -> float:
    """Largest resident set so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def grown(strategy: DeepGA, params: Any, generations: int) -> Any:
    """A state after generations of selection by chance, which no evaluation is needed for."""
    state = strategy.init(bb.key(0), params)
    for generation in range(generations):
        fitness = np.random.default_rng(generation).permutation(strategy.popsize).astype(np.float32)
        state = strategy.tell(state, strategy.ask(state), jnp.asarray(fitness))
    return state


def spent(run: Callable[[], Any], turns: int) -> float:
    """CPU seconds, the median of some turns after one that compiles."""
    times = []
    for _ in range(turns + 1):
        start = time.process_time()
        jax.block_until_ready(run())
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


def genomes(turns: int) -> list[dict[str, Any]]:
    params, rows = network(), []
    size = sum(x.size for x in jax.tree.leaves(params))
    for noise in ("normal", "binom8", "sign"):
        strategy = DeepGA(popsize=8, truncation=4, n_candidates=2, noise=noise)  # type: ignore[arg-type]
        state = grown(strategy, params, GENERATIONS)
        population = strategy.ask(state)
        data = population.genome(0)
        decoded = decode(data, params)
        member = population[0]
        same = all(map(np.array_equal, jax.tree.leaves(decoded), jax.tree.leaves(member)))
        rows.append({
            "what": f"genome of {size:,} weights after {GENERATIONS} generations, {noise}",
            "bytes": f"{len(data):,}",
            "times smaller": f"{4 * size / len(data):,.0f}",
            "CPU seconds": f"{spent(lambda data=data: decode(data, params), turns):.2f} to decode",  # type: ignore[misc]
            "note": "bits of the member that was evaluated" if same else "rounded otherwise where it was evaluated",
        })  # fmt: skip
        print(rows[-1], flush=True)
    strategy = DeepGA(popsize=1000)
    state = grown(strategy, {"w": jnp.zeros((30, 30))}, GENERATIONS)
    rows.append(
        {
            "what": f"state after {GENERATIONS} generations, T = 20, C = 10",
            "bytes": f"{len(compact(strategy, state)):,}",
        }
    )
    strategy = DeepGA(popsize=40)
    state = grown(strategy, params, GENERATIONS)
    data = compact(strategy, state)
    start = time.process_time()
    again = restore(strategy, data, params)
    seconds = time.process_time() - start
    same = all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(state)))
    rows.append({
        "what": f"state of {size:,} weights after {GENERATIONS} generations, restored",
        "bytes": f"{len(data):,}",
        "CPU seconds": f"{seconds:.1f} with all parents",
        "note": "the same bits" if same else "OTHER BITS",
    })  # fmt: skip
    return rows


def memory(popsize: int, chunk: int, depth: int) -> dict[str, Any]:
    """A generation, in this process."""
    jax.block_until_ready(jax.jit(lambda x: x @ x)(jnp.ones((8, 8))))
    before = peak()
    strategy, frames = DeepGA(popsize=popsize), jnp.ones((84, 84, 4))
    short = DeepGA(popsize=20)
    state = grown(short, network(), depth)

    def fitness(params: Any, frames: jax.Array) -> jax.Array:
        return -outputs(params, frames)[0]

    seconds = {}
    clock = time.process_time()
    population = strategy.ask(state)
    seconds["ask"], clock = time.process_time() - clock, time.process_time()
    values = jax.block_until_ready(bb.evaluate(fitness, population, frames, chunk=chunk))
    seconds["evaluate"], clock = time.process_time() - clock, time.process_time()
    state = jax.block_until_ready(strategy.tell(state, population, values))
    seconds["tell"] = time.process_time() - clock
    return {"peak": peak() - before, **seconds}


def beside_evosax(turns: int) -> list[dict[str, Any]]:
    try:
        from evosax.algorithms import SimpleGA
    except ImportError:
        print("evosax is not installed: without it")
        return []
    rows = []
    total = jax.jit(lambda population: jnp.sum(population, axis=1))
    for d in (10_000, 100_000):
        strategy, params = DeepGA(popsize=PEERS, sigma=0.1, initial=None), jnp.zeros(d)
        holder = {"ours": grown(strategy, params, 3)}

        def ours(look: bool, d: int = d, strategy: DeepGA = strategy, holder: dict[str, Any] = holder) -> Any:
            state = holder["ours"]
            population = strategy.ask(state)
            values = (
                bb.evaluate(jnp.sum, population, chunk=max(1, 10_000_000 // d)) if look else jnp.arange(1.0 * PEERS)
            )
            holder["ours"] = strategy.tell(state, population, values)
            return holder["ours"]

        algorithm = SimpleGA(population_size=PEERS, solution=jnp.zeros(d))
        settings, key = algorithm.default_params, jax.random.key(0)
        holder["evosax"] = algorithm.init(key, jnp.zeros((PEERS, d)), jnp.arange(1.0 * PEERS), settings)

        def theirs(look: bool, algorithm: Any = algorithm, settings: Any = settings, key: Any = key,
                   holder: dict[str, Any] = holder) -> Any:  # fmt: skip
            population, state = algorithm.ask(key, holder["evosax"], settings)
            values = total(population) if look else jnp.arange(1.0 * PEERS)
            holder["evosax"], _ = algorithm.tell(key, population, values, state, settings)
            return holder["evosax"]

        for way, look in (("ask and tell", False), ("ask, a sum of each member's weights, tell", True)):
            mine, other = spent(lambda: ours(look), turns), spent(lambda: theirs(look), turns)  # noqa: B023
            rows.append({
                "what": f"{way}, {PEERS} members, D = {d:,}",
                "CPU seconds": f"{mine:.3f}",
                "note": f"evosax SimpleGA {other:.3f}: {other / mine:.1f} times",
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--popsize", type=int, default=1000)
    parser.add_argument("--chunk", type=int, default=20)
    parser.add_argument("--memory", type=int, metavar="DEPTH", help="measure one generation in this process")
    arguments = parser.parse_args()
    if arguments.memory is not None:
        print(json.dumps(memory(arguments.popsize, arguments.chunk, arguments.memory)))
        return
    rows = []  # generations first: a process begins with the largest resident set of the one that starts it
    for depth in (1, GENERATIONS):
        sizes = [f"--{name}={getattr(arguments, name)}" for name in ("popsize", "chunk")]
        command = [sys.executable, __file__, f"--memory={depth}", *sizes]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append({
            "what": f"generation of {arguments.popsize:,} after {depth}, {arguments.chunk} at once",
            "CPU seconds": ", ".join(f"{name} {found[name]:.1f}" for name in ("ask", "evaluate", "tell")),
            "note": f"{found['peak']:.2f} GiB",
        })  # fmt: skip
        print(rows[-1], flush=True)
    rows = [*genomes(arguments.turns), *rows, *beside_evosax(arguments.turns)]
    note = (
        f"CPU time of one core, the median of {arguments.turns} turns after one that compiles, but for generations "
        "and restored states, which include compilation. A member is evaluated on one observation. evosax's SimpleGA "
        "stores its population; it has neither elites nor their validation nor genomes."
    )
    columns = ["what", "bytes", "times smaller", "CPU seconds", "note"]
    write("deep_ga", "Deep GA: genomes, memory and time", columns, rows, ["jax", "numpy", "evosax"], note)


if __name__ == "__main__":
    main()
