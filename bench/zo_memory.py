"""Peak memory and time of a training step on a language model of 110 million parameters, beside those of inference.

    python bench/zo_memory.py            some minutes on two cores; writes bench/results/zo_memory.md

A decoder of 12 layers of width 768 with 32,000 tokens (440 MB in float32) takes the loss of one sequence. Each way runs
in a process of its own. Peak memory is the process's largest resident set without what Python and JAX take before a
parameter exists; it includes the program that is compiled. Ways on quantized weights are compared with inference on the
same quantized weights, which become floats where they are used.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from record import write

import blackbox as bb
from blackbox.zo.dequantization import dequantized
from blackbox.zo.low_rank import LOZO
from blackbox.zo.mezo import MeZO
from blackbox.zo.quantized import QuantizedWeight
from blackbox.zo.qzo import QZO
from blackbox.zo.sparse_mezo import SparseMeZO

MB = 1e6
HEADS = 12
STEPS = 3
# Each way with the one that its memory is compared with.
WAYS = {
    "inference": "inference",
    "MeZO": "inference",
    "MeZO, signs": "inference",
    "MeZO, rank 2": "inference",
    "LOZO, rank 2": "inference",
    "Sparse-MeZO": "inference",
    "SGD": "inference",
    "Adam": "inference",
    "inference, 8 bits": "inference, 8 bits",
    "QZO, 8 bits": "inference, 8 bits",
    "inference, 4 bits": "inference, 4 bits",
    "QZO, 4 bits": "inference, 4 bits",
}


def peak() -> float:
    """Largest resident set so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB


def normalized(x: jax.Array, gain: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * gain


def loss(params: Any, tokens: jax.Array) -> jax.Array:
    """Mean negative log likelihood of the next tokens of sequences, shape ``(batch, length + 1)``."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    batch, length = inputs.shape
    x = params["embedding"][inputs] + params["positions"][:length]
    causal = jnp.tril(jnp.ones((length, length), bool))
    for layer in params["layers"]:
        h = normalized(x, layer["gain1"])
        q, k, v = ((h @ layer[name]).reshape(batch, length, HEADS, -1) for name in ("query", "key", "value"))
        scores = jnp.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5
        attention = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), -1)
        x = x + jnp.einsum("bhij,bjhd->bihd", attention, v).reshape(x.shape) @ layer["out"]
        x = x + jax.nn.gelu(normalized(x, layer["gain2"]) @ layer["up"]) @ layer["down"]
    logits = normalized(x, params["gain"]) @ params["embedding"].T
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets))


def model(width: int, layers: int, vocabulary: int, length: int, bits: int) -> Any:
    """Random parameters; in 4 or 8 bits made as such, so that no floats ever were."""
    rng = np.random.default_rng(0)

    def weight(inputs: int, outputs: int) -> Any:
        if bits == 32:
            return jnp.asarray(rng.standard_normal((inputs, outputs), np.float32) * np.float32(inputs**-0.5))
        group = 128
        if bits == 8:
            values = rng.integers(-127, 128, (inputs // group, group, outputs), np.int8)
        else:
            values = rng.integers(0, 256, (inputs // group, group // 2, outputs), np.uint8)
        scale = jnp.full((inputs // group, outputs), inputs**-0.5 / (4 if bits == 4 else 74), jnp.float32)
        return QuantizedWeight(jnp.asarray(values), scale, inputs, bits, jnp.dtype(jnp.float32))

    def layer() -> dict[str, Any]:
        square = {name: weight(width, width) for name in ("query", "key", "value", "out")}
        wide = {"up": weight(width, 4 * width), "down": weight(4 * width, width)}
        return {**square, **wide, "gain1": jnp.ones(width), "gain2": jnp.ones(width)}

    return {
        "embedding": weight(vocabulary, width),
        "positions": jnp.zeros((length, width)),
        "layers": [layer() for _ in range(layers)],
        "gain": jnp.ones(width),
    }


def stepper(way: str) -> tuple[Callable[[Any], Any], Callable[..., Any]]:
    """From parameters to a state, and from a state and tokens to the next state and a value."""
    quantized = "bits" in way
    objective = dequantized(loss) if quantized else loss
    if way.startswith("inference"):
        forward = jax.jit(objective)
        return lambda params: params, lambda params, tokens: (params, forward(params, tokens))
    if way in ("SGD", "Adam"):
        optimizer = optax.sgd(1e-3) if way == "SGD" else optax.adam(1e-4)

        def step(state: Any, tokens: jax.Array) -> Any:
            params, moments = state
            value, gradient = jax.value_and_grad(loss)(params, tokens)
            updates, moments = optimizer.update(gradient, moments, params)
            return (optax.apply_updates(params, updates), moments), value

        return lambda params: (params, optimizer.init(params)), jax.jit(step, donate_argnums=0)
    strategy: Any = {
        "MeZO": MeZO(),
        "MeZO, signs": MeZO(noise="sign"),
        "MeZO, rank 2": MeZO(rank=2),
        "LOZO, rank 2": LOZO(),
        "Sparse-MeZO": SparseMeZO(),
        "QZO, 8 bits": QZO(),
        "QZO, 4 bits": QZO(),
    }[way]
    return lambda params: strategy.init(bb.key(0), params), strategy.step(objective)


def measured(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Memory and seconds of one way, in this process."""
    jax.block_until_ready(jax.jit(lambda x: x @ x)(jnp.ones((8, 8))))
    before = peak()
    bits = int(way.split()[-2]) if "bits" in way else 32
    params = model(arguments.width, arguments.layers, arguments.vocabulary, arguments.length, bits)
    size = sum(x.nbytes for x in jax.tree.leaves(params)) / MB
    start, step = stepper(way)
    state = start(params)
    del params
    rng = np.random.default_rng(1)
    seconds = []
    for _ in range(STEPS):
        tokens = jnp.asarray(rng.integers(0, arguments.vocabulary, (arguments.batch, arguments.length + 1)))
        started = time.perf_counter()
        state, value = step(state, tokens)
        jax.block_until_ready((state, value))
        seconds.append(time.perf_counter() - started)
    return {"way": way, "parameters": size, "peak": peak() - before, "seconds": min(seconds[1:]), "value": float(value)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--alone", choices=list(WAYS), help="measure one way in this process and print it as JSON")
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(measured(arguments.alone, arguments)))
        return
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("width", "layers", "vocabulary", "batch", "length")]
    found: dict[str, dict[str, Any]] = {}
    rows = []
    for way in arguments.ways:
        command = [sys.executable, __file__, "--alone", way, *sizes]
        found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        own, other = found[way], found[WAYS[way]]
        rows.append({
            "way": way,
            "parameters, MB": f"{own['parameters']:.0f}",
            "peak, MB": f"{own['peak']:.0f}",
            "times inference": f"{own['peak'] / other['peak']:.2f}",
            "s per step": f"{own['seconds']:.2f}",
            "times a forward pass": f"{own['seconds'] / other['seconds']:.1f}",
        })  # fmt: skip
        print(rows[-1], flush=True)
    note = (
        f"{arguments.layers} layers of width {arguments.width}, {arguments.vocabulary:,} tokens, batches of "
        f"{arguments.batch} x {arguments.length}. Seconds are the least of {STEPS - 1} steps after the first, which "
        "compiles; a step of the zeroth-order methods has two evaluations. Quantized inference is of weights that "
        "become floats where they are used."
    )
    write("zo_memory", "Memory of a training step", list(rows[0]), rows, ["jax", "jaxlib", "optax", "numpy"], note)


if __name__ == "__main__":
    main()
