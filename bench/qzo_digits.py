"""QZO on a digits network in 4 bits under a shifted domain: accuracy before and after, beside MeZO on its floats.

    python bench/qzo_digits.py           some ten minutes; writes bench/results/qzo_digits.md

A network 64-32-10 of 2,410 parameters is trained by gradients on handwritten digits and rounded to 4 bits with a scale
for each 16 inputs of each output (148 scales). Then all images are shifted by one pixel, and the scales are trained on
shifted training images by function values alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from record import write
from runs import numbers
from sklearn.datasets import load_digits

import blackbox as bb
from blackbox.zo.mezo import MeZO
from blackbox.zo.quantized import quantize
from blackbox.zo.qzo import QZO

TUNING = (100, 101)


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


def settings(way: str) -> list[Any]:
    """The grid of a way of training."""
    if way == "MeZO on all floats":
        return [MeZO(lr=lr, mu=mu) for lr, mu in itertools.product((1e-4, 3e-4, 1e-3, 3e-3), (1e-3, 1e-2))]
    if way == "QZO, relative scales":
        grid = itertools.product((1e-3, 3e-3, 1e-2, 3e-2), (1e-3, 1e-2, 5e-2), (100.0, 5.0))
        return [QZO(lr=lr, mu=mu, clip=clip) for lr, mu, clip in grid]
    grid = itertools.product((3e-5, 1e-4, 3e-4, 1e-3), (1e-4, 1e-3, 5e-3), (100.0, 5.0))  # a scale is about 0.05
    return [QZO(lr=lr, mu=mu, clip=clip, relative=False) for lr, mu, clip in grid]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", default="0-9")
    arguments = parser.parse_args()
    seeds = numbers(arguments.seeds)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x, y = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
    shifted = jnp.roll(x.reshape(-1, 8, 8), 1, axis=2).reshape(-1, 64)
    validation, train, test = slice(0, 260), slice(260, 1297), slice(1297, None)

    @functools.cache
    def start(seed: int, floats: bool) -> Any:
        params = pretrained(x[:1297], y[:1297], seed)
        return params if floats else quantize(params, bits=4, group_size=16)

    def trained(way: str, strategy: Any, seed: int) -> Any:
        return tuned(strategy, start(seed, way.startswith("MeZO")), shifted[train], y[train], arguments.steps, seed)

    rows = []
    for way in ("no training", "QZO, relative scales", "QZO, absolute scales", "MeZO on all floats"):
        chosen, described = None, {"lr": "", "mu": "", "clip": ""}
        if way != "no training":
            grid = settings(way)
            scores = [
                np.mean([accuracy(trained(way, s, seed), shifted[validation], y[validation]) for seed in TUNING])
                for s in grid
            ]
            chosen = grid[int(np.argmax(scores))]
            described = {name: f"{getattr(chosen, name):g}" if hasattr(chosen, name) else "" for name in described}
        found = []
        for seed in seeds:
            end = start(seed, False) if chosen is None else trained(way, chosen, seed)
            found.append((accuracy(end, x[test], y[test]), accuracy(end, shifted[test], y[test])))
        own, moved = np.mean(found, axis=0)
        error = np.std(found, axis=0, ddof=1) / len(found) ** 0.5 if len(found) > 1 else (np.nan, np.nan)
        rows.append({
            "way": way,
            **described,
            "shifted, %": f"{moved:.1f} ± {error[1]:.1f}",
            "as trained, %": f"{own:.1f} ± {error[0]:.1f}",
        })  # fmt: skip
        print(rows[-1], flush=True)
    note = (
        f"Accuracy on 500 test images, shifted by a pixel and as the network was trained for: mean of {len(seeds)} "
        f"seeds ± standard error; {arguments.steps} steps of one pair on batches of 64. Settings are the best of a "
        "grid of lr, mu and clip by 260 other images of the seeds 100 and 101."
    )
    packages = ["jax", "optax", "numpy", "scikit-learn"]
    write("qzo_digits", "QZO on a digits network in 4 bits", list(rows[0]), rows, packages, note)


if __name__ == "__main__":
    main()
