"""EGGROLL's forward pass and update against plain batched inference, with the noise made in the measured program.

    python bench/eggroll_throughput.py          some minutes on one core; writes bench/results/eggroll_throughput.md

Three tanh layers of d x d, 1,024 members, one input for each. 100 % is batched inference: the same network without
perturbation on the same 1,024 inputs, in one program, but for the sum of the outputs: XLA takes that into the last
layer's product, which then takes a third longer at d = 1024. Every entry draws its noise anew in each call.
``threefry`` is EGGROLL written by hand with ``jax.random.normal`` once per pair, ``vmapped threefry`` the published
way, with the key folded and the factors drawn inside ``vmap``, for every member; ``full rank`` is OpenAI-ES by hand
with ``jax.random.normal``, ``rank=None`` ours; of both few members are timed and the time scaled. Entries take turns of
several calls after one that does not count; the median of CPU time over the turns counts.
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
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from record import write

import blackbox as bb
from blackbox.virtual import weighted_noise

MEMBERS, FEW, SIGMA = 1024, 32, 0.05
CALLS = 5  # of a turn, after one that does not count
FULL = "full rank, threefry"
KINDS = ("binom8", "sign", "uniform", "normal")
Params = list[jax.Array]


def outputs(params: Params, x: jax.Array) -> jax.Array:
    for w in params:
        x = jnp.tanh(x @ w)
    return x


def network(params: Params, x: jax.Array) -> jax.Array:
    return outputs(params, x).sum()


def factors(key: jax.Array, generation: Any, layer: int, pairs: jax.Array, d: int) -> tuple[jax.Array, jax.Array]:
    """Rank-1 factors by JAX's own generator, one draw for all pairs of a layer."""
    key = jax.random.fold_in(jax.random.fold_in(key, generation), layer)
    drawn = jax.random.normal(key, (pairs.shape[0], 2 * d))
    return drawn[:, :d], drawn[:, d:]


@partial(jax.jit, static_argnames="each")
def threefry(params: Params, x: jax.Array, generation: Any, each: bool) -> jax.Array:
    """EGGROLL by hand: once per pair in a batch, or for each member inside vmap."""
    key, d, sign = jax.random.key(0), x.shape[1], 1.0 - 2.0 * (jnp.arange(MEMBERS) % 2)
    if each:

        def member(i: jax.Array, u: jax.Array) -> jax.Array:
            for layer, w in enumerate(params):
                own = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, layer), generation), i // 2)
                drawn = jax.random.normal(own, (2 * d,))
                u = jnp.tanh(u @ w + (SIGMA * sign[i]) * (u @ drawn[d:]) * drawn[:d])
            return u.sum()

        return jax.vmap(member)(jnp.arange(MEMBERS), x)
    for layer, w in enumerate(params):
        a, b = (jnp.repeat(part, 2, axis=0) for part in factors(key, generation, layer, jnp.arange(MEMBERS // 2), d))
        x = jnp.tanh(x @ w + (SIGMA * sign * jnp.einsum("pn,pn->p", x, b))[:, None] * a)
    return x.sum(axis=1)


@jax.jit
def threefry_update(params: Params, f: jax.Array, generation: Any) -> Params:
    """The update by hand, without the second draw and half of the product that pairs need not make."""
    d, weights = params[0].shape[0], f[::2] - f[1::2]
    out = []
    for layer, _ in enumerate(params):
        a, b = factors(jax.random.key(0), generation, layer, jnp.arange(MEMBERS // 2), d)
        out.append((a * weights[:, None]).T @ b)
    return out


@jax.jit
def full_rank(params: Params, x: jax.Array, generation: Any) -> jax.Array:
    """OpenAI-ES by hand with JAX's generator: every pair has its own matrices of normal noise, drawn anew."""
    sign = 1.0 - 2.0 * (jnp.arange(x.shape[0]) % 2)
    for layer, w in enumerate(params):
        e = jnp.repeat(dense(params, x.shape[0], layer, generation), 2, axis=0)
        x = jnp.tanh(jnp.einsum("pm,pmn->pn", x, w + (SIGMA * sign)[:, None, None] * e))
    return x.sum(axis=1)


@jax.jit
def full_rank_update(params: Params, f: jax.Array, generation: Any) -> Params:
    weights = f[::2] - f[1::2]
    return [jnp.tensordot(weights, dense(params, f.shape[0], i, generation), axes=1) for i in range(len(params))]


def dense(params: Params, members: int, layer: int, generation: Any) -> jax.Array:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), generation), layer)
    return jax.random.normal(key, (members // 2, *params[layer].shape))


def entries(d: int) -> dict[str, tuple[Callable[[int], Any], Callable[[int], Any] | None, float]]:
    """Of each entry the forward pass, the update, and what its time is multiplied with."""
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=(d, d)) / d**0.5, jnp.float32) for _ in range(3)]
    x = jnp.asarray(rng.normal(size=(MEMBERS, d)), jnp.float32)
    f = jnp.asarray(rng.normal(size=MEMBERS), jnp.float32)
    plain = jax.jit(jax.vmap(outputs, in_axes=(None, 0)))

    def ours(rank: int | None, noise: Any, members: int) -> tuple[Callable[[int], Any], Callable[[int], Any], float]:
        strategy = bb.es.Eggroll(popsize=members, rank=rank, sigma=SIGMA, noise=noise)
        population, inputs = strategy.ask(strategy.init(bb.key(0), params)), x[:members]

        def at(generation: int) -> Any:
            return replace(population, generation=jnp.asarray(generation))

        return (
            lambda g: bb.evaluate(network, at(g), inputs, in_axes=0),
            lambda g: weighted_noise(at(g), f[:members]),
            MEMBERS / members,
        )

    return {
        "plain batched inference": (lambda g: plain(params, x), None, 1.0),
        **{f"Eggroll, {kind}": ours(1, kind, MEMBERS) for kind in KINDS},
        "Eggroll, rank 4, binom8": ours(4, "binom8", MEMBERS),
        "threefry": (lambda g: threefry(params, x, g, False), lambda g: threefry_update(params, f, g), 1.0),
        "vmapped threefry": (lambda g: threefry(params, x, g, True), None, 1.0),
        "Eggroll, rank=None, binom8": ours(None, "binom8", FEW),
        FULL: (
            lambda g: full_rank(params, x[:FEW], g),
            lambda g: full_rank_update(params, f[:FEW], g),
            MEMBERS / FEW,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512, 1024])
    arguments = parser.parse_args()
    rows = []
    for d in arguments.widths:
        chosen = entries(d)
        times: dict[tuple[str, int], list[float]] = {}
        for turn in range(arguments.repeats + 1):
            for name, (forward, update, scale) in chosen.items():
                if name in (FULL, "Eggroll, rank=None, binom8") and turn > 3:
                    continue
                for part, program in enumerate((forward, update)):
                    if program is None:
                        continue
                    # The first call of all compiles, the first of a turn finds the caches full of another entry.
                    jax.block_until_ready(program(turn))
                    calls = 1 if scale > 1 else CALLS
                    started = time.process_time()
                    for call in range(calls):
                        jax.block_until_ready(program(turn + 1000 * (1 + call)))
                    if turn:
                        spent = (time.process_time() - started) / calls
                        times.setdefault((name, part), []).append(spent * scale * 1e3)
        cost = {entry: statistics.median(values) for entry, values in times.items()}
        inference = cost["plain batched inference", 0]
        for name in chosen:
            forward, update = cost[name, 0], cost.get((name, 1))
            rows.append({
                "d": d,
                "entry": name,
                "forward, ms": f"{forward:,.1f}",
                "% of inference": f"{100 * inference / forward:.3g}",
                "update, ms": "–" if update is None else f"{update:,.1f}",
                "full rank over it": f"{cost[FULL, 0] / forward:,.0f}",
            })  # fmt: skip
            print(rows[-1], flush=True)
    note = (
        f"One core, CPU time, median of {arguments.repeats} turns (three for full rank, of which {FEW} members are "
        "timed). ``full rank over it``: the forward pass of full rank with threefry, in times of the entry's."
    )
    write("eggroll_throughput", "EGGROLL's throughput", list(rows[0]), rows, ["jax", "numpy"], note)


if __name__ == "__main__":
    main()
