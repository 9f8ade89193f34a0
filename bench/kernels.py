"""Noise by one core, sums of noise, genomes of seeds and episodes, ours and others'.

    python bench/kernels.py          some minutes; writes bench/results/kernels.md, genomes.md and rollouts.md
    python bench/kernels.py --only rollouts

Noise: a call makes 1,024 rows of 1,024 float32 values. Sums: a call adds the noise of 8 members to a million weights,
as an update does for a population. Genomes: 4 million weights, 100 generations. Episodes: a call plays two of each of
1,024 members around a random network of 32 hidden values. Entries take turns, and the median of CPU time over the turns
counts.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from record import write

import blackbox as bb
from blackbox.kernels import SummedWeights, ffi, native, noise, ref, rollout, seedsum, xla
from blackbox.kernels.environments import ENVIRONMENTS
from blackbox.problems.control import JaxControl
from blackbox.virtual import LineagePopulation

ROWS, SIZE = 1024, 1024
TERMS, WEIGHTS = 8, 2**20
MEMBERS, EPISODES, HIDDEN, SIZE_OF_WEIGHTS, SIGMA = 1024, 2, (32,), 0.3, 0.1
GENERATIONS, WEIGHTS_OF_GENOME = 100, 4_000_000
FASTEST = "normal, NumPy SFC64"
KINDS = [kind for kind in native.KINDS if kind != "normal_fast"]  # which is "normal" on a CPU


def entries() -> dict[str, Callable[[int], Any]]:
    """What makes rows of noise, given the number of a turn."""
    shape, key = (ROWS, SIZE), bb.key(0)
    generators = {name: np.random.Generator(getattr(np.random, name)(0)) for name in ("SFC64", "PCG64", "Philox")}
    drawn = {
        f"normal, NumPy {name}": lambda _, generator=generator: generator.standard_normal(shape, np.float32)
        for name, generator in generators.items()
    }
    for name in ("threefry2x32", "rbg"):
        root = jax.random.key(0, impl=name)
        drawn[f"normal, JAX {name}"] = partial(jax.jit(lambda turn, root: fresh(root, turn, shape)), root=root)
    for kind in KINDS:
        drawn[f"{kind}, compiled"] = partial(
            lambda turn, kind: noise.noise(kind, key, turn, shape, like=np.zeros(0, np.float32), impl="native"),
            kind=kind,
        )
        drawn[f"{kind}, compiled, in JAX"] = lambda turn, kind=kind: ffi.noise(xla.fold(key, turn), 0, *shape, kind)
        drawn[f"{kind}, XLA"] = lambda turn, kind=kind: xla.noise(xla.fold(key, turn), 0, *shape, kind)
        drawn[f"{kind}, reference"] = lambda turn, kind=kind: ref.noise(ref.fold(key, turn), 0, *shape, kind)
    return drawn


def sums() -> dict[str, Callable[[int], Any]]:
    """What adds members' noise to weights, given the number of a turn."""
    rng, keys = np.random.default_rng(0), bb.key(0)[None]
    base, f = np.zeros((1, WEIGHTS), np.float32), rng.normal(size=(1, TERMS)).astype(np.float32)
    ids = np.arange(TERMS, dtype=np.uint32)[None]
    traced = [jnp.asarray(x) for x in (keys, base, f)]

    def in_numpy(turn: int, kind: Any, impl: Any) -> Any:
        return seedsum(keys, [base], f, ids + TERMS * turn, kind, impl=impl)

    def in_jax(turn: int, kind: Any, impl: Any) -> Any:
        return seedsum(traced[0], [traced[1]], traced[2], ids + TERMS * turn, kind, impl=impl)

    def numpy_sfc64(turn: int) -> Any:
        """A generator for each member, as is done by hand where seeds are all that is kept."""
        total = base[0].copy()
        for k in range(TERMS):
            total += f[0, k] * np.random.Generator(np.random.SFC64([turn, k])).standard_normal(WEIGHTS, np.float32)
        return total

    @jax.jit
    def jax_threefry(turn: Any) -> Any:
        def add(total: Any, term: Any) -> Any:
            k, weight = term
            root = jax.random.fold_in(jax.random.key(0), turn)
            return total + weight * jax.random.normal(jax.random.fold_in(root, k), (WEIGHTS,)), None

        return jax.lax.scan(add, traced[1][0], (jnp.arange(TERMS), traced[2][0]))[0]

    drawn: dict[str, Callable[[int], Any]] = {
        "sum of normal, NumPy SFC64": numpy_sfc64,
        "sum of normal, JAX threefry2x32": jax_threefry,
    }
    for kind in KINDS:
        drawn |= {
            f"sum of {kind}, compiled": partial(in_numpy, kind=kind, impl="native"),
            f"sum of {kind}, compiled, in JAX": partial(in_jax, kind=kind, impl="native"),
            f"sum of {kind}, XLA": partial(in_jax, kind=kind, impl="xla"),
            f"sum of {kind}, reference": partial(in_numpy, kind=kind, impl="ref"),
        }
    return drawn


def fresh(root: Any, turn: Any, shape: tuple[int, int]) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(root, turn), shape)


def balancing(weights: np.ndarray) -> np.ndarray:
    """The network, but for its first hidden value, which pushes the cart to where the pole falls."""
    (first, _), (last, _) = JaxControl("CartPole-v1", HIDDEN).policy.layers(weights)  # views
    first[:, 0], last[0] = (0.24, 0.6, 0.63, 3.0), (-3.0, 3.0)
    return weights


def rollouts(env: str, is_trained: bool) -> tuple[dict[str, Callable[[int], Any]], int]:
    """What plays a population's episodes, and how many steps they have."""
    task = JaxControl(env, HIDDEN, EPISODES)
    weights = (SIZE_OF_WEIGHTS * np.random.default_rng(0).normal(size=task.dimension)).astype(np.float32)
    base, starts = (balancing(weights) if is_trained else weights)[None], task.starts().astype(np.float32)
    weights, members = np.full((MEMBERS, 1), SIGMA, np.float32), np.arange(MEMBERS, dtype=np.uint32)[:, None]
    source = SummedWeights(base, bb.key(0), weights, members)
    traced = SummedWeights(jnp.asarray(base), bb.key(0), jnp.asarray(weights), jnp.asarray(members))
    (population,) = seedsum(bb.key(0)[None], [base], weights, members, chunk=1)
    plain, stored = jax.jit(jax.vmap(task)), jnp.asarray(population)
    drawn: dict[str, Callable[[int], Any]] = {
        "compiled": lambda turn: rollout(env, HIDDEN, source, starts, impl="native"),
        "compiled, in JAX": lambda turn: rollout(env, HIDDEN, traced, starts, impl="native"),
        "XLA": lambda turn: rollout(env, HIDDEN, traced, starts, impl="xla"),
        "vmap of JaxControl": lambda turn: plain(stored),
    }
    return drawn, int(rollout(env, HIDDEN, source, starts, impl="native")[1].sum())


def measure(
    chosen: dict[str, Callable[[int], Any]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Median CPU time of each in seconds, or by another clock, by turns."""
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for turn in range(repeats + 1):
        for name, make in chosen.items():
            began = clock()
            jax.block_until_ready(make(turn))
            if turn:  # the first one compiles
                times[name].append(clock() - began)
    return {name: statistics.median(spent) for name, spent in times.items()}


def record_rollouts(repeats: int) -> None:
    rows = []
    for env, is_trained in (*((env, False) for env in ENVIRONMENTS), ("CartPole-v1", True)):
        chosen, steps = rollouts(env, is_trained)
        times = measure(chosen, repeats)
        rows += [
            {
                "what": f"{env}{' balanced' if is_trained else ''}, {name}",
                "steps an episode": f"{steps / MEMBERS / EPISODES:,.0f}",
                "million steps/s": f"{steps / 1e6 / spent:.2f}",
                "times vmap of JaxControl": f"{times['vmap of JaxControl'] / spent:.2f}",
            }
            for name, spent in times.items()
        ]
    note = (
        f"One core, CPU time, median of {repeats} turns: {EPISODES} episodes of each of {MEMBERS:,} members around a "
        f"random network with {HIDDEN[0]} hidden values, weights of standard deviation {SIZE_OF_WEIGHTS} and noise of "
        f"{SIGMA}. Steps are those until an "
        "episode ends, of the compiled code for all entries. Compiled code and ``XLA``, what runs without a compiler, "
        "also form the members' weights from seeds; ``vmap of JaxControl`` is given them. Balanced: the network pushes "
        "the cart to where the pole falls, so that episodes have very different lengths."
    )
    write("rollouts", "Episodes of classic control by one core", list(rows[0]), rows, ["jax", "numpy"], note)


def record_genomes(repeats: int) -> None:
    """A network of seeds, decoded from the first ancestor on and from its parent."""
    rng, root = np.random.default_rng(0), bb.key(0)[None]
    base = np.zeros((1, WEIGHTS_OF_GENOME), np.float32)
    sigmas = np.full((1, GENERATIONS), 0.005, np.float32)
    seeds = rng.integers(0, 2**32, (1, GENERATIONS), dtype=np.uint32)

    def by_numpy(turn: int) -> Any:
        """A generator for each generation, as in the paper's code but for the table of noise."""
        total = base[0].copy()
        for seed, sigma in zip(seeds[0], sigmas[0], strict=True):
            total += sigma * np.random.Generator(np.random.SFC64(seed)).standard_normal(WEIGHTS_OF_GENOME, np.float32)
        return total

    def decoded(turn: int, kind: Any, first: int) -> Any:
        terms = sigmas[:, first:], seeds[:, first:]
        return seedsum(root, [base], *terms, kind, chunk=1, impl="native")

    def member(turn: int, kind: Any) -> Any:
        one = LineagePopulation.around({"w": jnp.asarray(base[0])}, bb.key(0), seeds, sigmas, kind=kind)
        return one[0]

    chosen: dict[str, Callable[[int], Any]] = {"whole, NumPy SFC64": by_numpy}
    for kind in ("normal", "binom8", "sign"):
        chosen |= {
            f"whole, {kind}": partial(decoded, kind=kind, first=0),
            f"whole, {kind}, LineagePopulation": partial(member, kind=kind),
            f"child of a parent at hand, {kind}": partial(decoded, kind=kind, first=GENERATIONS - 1),
        }
    times = measure(chosen, repeats)
    rows = [{"genome": name, "ms": f"{spent * 1e3:,.1f}"} for name, spent in times.items()]
    note = (
        f"One core, CPU time, median of {repeats} turns. A genome of {GENERATIONS} seeds for {WEIGHTS_OF_GENOME:,} "
        "weights; a child is its parent and one term, to the bit."
    )
    write("genomes", "Genomes of seeds, decoded by one core", list(rows[0]), rows, ["jax", "numpy"], note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", choices=RECORDS)
    arguments = parser.parse_args()
    for name, record in RECORDS.items():
        if arguments.only in (name, None):
            record(arguments.repeats)


def record_noise(repeats: int) -> None:
    chosen = entries() | sums()
    times = measure(chosen, repeats)
    values = {name: TERMS * WEIGHTS if name.startswith("sum") else ROWS * SIZE for name in chosen}
    rates = {name: values[name] / 1e6 / spent for name, spent in times.items()}
    rows = [
        {
            "what": name,
            "million values/s": f"{rate:,.0f}",
            "times NumPy's fastest": f"{rate / rates[f'sum of {FASTEST}' if name.startswith('sum') else FASTEST]:.2f}",
        }
        for name, rate in rates.items()
    ]
    note = (
        f"One core, CPU time, median of {repeats} turns. NumPy's fastest normal numbers are those of SFC64. "
        "``reference`` is ours in NumPy, ``XLA`` ours in JAX's own operations: what runs without a compiler. "
        "Ours and NumPy's write an array that was not there before, which is part of the time."
    )
    write("kernels", "Noise by one core, and sums of noise", list(rows[0]), rows, ["jax", "numpy"], note)


RECORDS = {"noise": record_noise, "genomes": record_genomes, "rollouts": record_rollouts}

if __name__ == "__main__":
    main()
