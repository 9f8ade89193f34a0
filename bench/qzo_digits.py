"""QZO on a digits network in 4 bits under a shifted domain: accuracy before and after, beside MeZO on its floats.

    python bench/qzo_digits.py           some minutes; writes bench/results/qzo_digits.md

A network 64-32-10 of 2,410 parameters is trained by gradients on handwritten digits and rounded to 4 bits with a scale
for each 16 inputs of each output (148 scales). Then all images are shifted by one pixel, and the scales are trained on
shifted training images by function values alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from record import write
from sklearn.datasets import load_digits

import blackbox as bb
from blackbox.zo.mezo import MeZO
from blackbox.zo.quantized import quantize
from blackbox.zo.qzo import QZO


def logits(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y))


def accuracy(params: Any, x: jax.Array, y: jax.Array) -> float:
    return 100 * float(jnp.mean(jnp.argmax(logits(params, x), -1) == y))


def pretrained(x: jax.Array, y: jax.Array, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    params = {
        "w1": jnp.asarray(rng.normal(size=(64, 32)) / 8, jnp.float32),
        "b1": jnp.zeros(32),
        "w2": jnp.asarray(rng.normal(size=(32, 10)) / 6, jnp.float32),
        "b2": jnp.zeros(10),
    }
    adam = optax.adam(0.01)

    def step(carry: Any, _: None) -> Any:
        params, moments = carry
        updates, moments = adam.update(jax.grad(loss)(params, x, y), moments)
        return (optax.apply_updates(params, updates), moments), None

    return jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=300)[0])((params, adam.init(params)))[0]


def tuned(strategy: Any, params: Any, x: jax.Array, y: jax.Array, steps: int, seed: int) -> Any:
    """The parameters after some steps on batches of 64, as one program."""

    def step(state: Any, batch: jax.Array) -> Any:
        population = strategy.ask(state)
        return strategy.tell(state, population, bb.evaluate(loss, population, x[batch], y[batch])), None

    batches = np.random.default_rng(seed).integers(0, len(x), (steps, 64))
    start = strategy.init(jnp.asarray(bb.key(seed)), params)
    state, _ = jax.jit(lambda state: jax.lax.scan(step, state, batches))(start)
    return strategy.recommend(state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x, y = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
    shifted = jnp.roll(x.reshape(-1, 8, 8), 1, axis=2).reshape(-1, 64)
    train, test = slice(0, 1297), slice(1297, None)
    ways: dict[str, Any] = {"no training": None}
    for lr in (1e-3, 3e-3, 1e-2):
        ways[f"QZO, relative, lr {lr:g}"] = QZO(lr=lr, mu=1e-2)
    for lr in (1e-5, 1e-4, 1e-3):
        ways[f"QZO, absolute, lr {lr:g}"] = QZO(lr=lr, mu=1e-3, relative=False)
    ways["QZO, absolute, lr 0.001, clip 5"] = QZO(lr=1e-3, mu=1e-3, relative=False, clip=5.0)
    for lr in (1e-4, 1e-3):
        ways[f"MeZO on all floats, lr {lr:g}"] = MeZO(lr=lr, mu=1e-2)
    rows = []
    for name, strategy in ways.items():
        found = []
        for seed in range(arguments.seeds):
            floats = pretrained(x[train], y[train], seed)
            start = floats if name.startswith("MeZO") else quantize(floats, bits=4, group_size=16)
            end = start
            if strategy is not None:
                end = tuned(strategy, start, shifted[train], y[train], arguments.steps, seed)
            found.append((accuracy(end, x[test], y[test]), accuracy(end, shifted[test], y[test])))
        own, moved = np.mean(found, axis=0)
        values = ", ".join(f"{value:.1f}" for _, value in found)
        rows.append({"way": name, "as trained, %": f"{own:.1f}", "shifted, %": f"{moved:.1f}", "seeds": values})
        print(rows[-1], flush=True)
    note = (
        f"Mean accuracy on 500 test images as the network was trained for, and shifted by a pixel; {arguments.steps} "
        "steps of one pair on batches of 64."
    )
    packages = ["jax", "optax", "numpy", "scikit-learn"]
    write("qzo_digits", "QZO on a digits network in 4 bits", list(rows[0]), rows, packages, note)


if __name__ == "__main__":
    main()
