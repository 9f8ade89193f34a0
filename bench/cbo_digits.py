"""Handwritten digits by consensus-based optimization, with batches of particles and of data: test accuracy beside Adam.

    python bench/cbo_digits.py                   some four minutes of processor time; writes bench/results/cbo_digits.md
    python bench/cbo_digits.py --seeds 0 1       fewer seeds
    python bench/cbo_digits.py --validation      accuracy on a fifth of the training images instead, and no file

The method is that of Carrillo, Jin, Li & Zhu 2021, the numbers those of Riedl's code for MNIST: 100 particles in
batches of 10, each on the same 60 images, by which all particles move; drift lambda dt = 0.1, anisotropic noise sigma
sqrt(dt) = sqrt(0.4) sqrt(0.1), alpha = 50. After each of 100 epochs alpha is doubled and sigma cooled by log2(e + 1) /
log2(e + 2). First particles are uniform with deviation 1 instead of normal, and kicked when the consensus stands still.

The 1,797 images of 8 x 8 pixels of scikit-learn, a fifth of them held out: 360 images, so one of them is 0.28 %. The
seed decides the split, the batches, the first particles and the noise. The accuracy is that of the consensus after the
last step. Adam has the same networks, images and batches, one step for each.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from record import write
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import blackbox as bb

EPOCHS, POPSIZE, PARTICLES, IMAGES = 100, 100, 10, 60
SHOWN = (10, 25, 50, 100)
NETWORKS: dict[str, tuple[tuple[int, int], ...]] = {
    "linear, 64-10": ((64, 10),),
    "MLP, 64-32-10": ((64, 32), (32, 10)),
}
LR = 0.008  # of Adam, as in bench/digits.py


class Digits:
    """The data of a seed."""

    def __init__(self, seed: int, validation: bool) -> None:
        pixels, digits = load_digits(return_X_y=True)
        x, labels = pixels.astype(np.float32), digits
        for _ in range(1 + validation):
            x, held, labels, held_labels = train_test_split(
                x, labels, test_size=0.2, random_state=seed, stratify=labels
            )
        mean, deviation = x.mean(axis=0), x.std()
        self.x, self.labels = jnp.asarray((x - mean) / deviation), jnp.asarray(labels)
        self.held, self.held_labels = jnp.asarray((held - mean) / deviation), jnp.asarray(held_labels)

    def batches(self, seed: int) -> np.ndarray:
        """Rows of the images of each batch of each epoch, in a new order each epoch."""
        rng, count = np.random.default_rng(seed), len(self.labels) // IMAGES
        orders = [rng.permutation(len(self.labels))[: count * IMAGES] for _ in range(EPOCHS)]
        return np.reshape(orders, (EPOCHS, count, IMAGES))


def output(shapes: tuple[tuple[int, int], ...], parameters: Any, x: Any) -> Any:
    """Of the network whose weights and biases are one flat vector."""
    first = 0
    for number, (wide, high) in enumerate(shapes):
        w = parameters[first : first + wide * high].reshape(wide, high)
        first += wide * high + high
        x = (jax.nn.relu(x) if number else x) @ w + parameters[first - high : first]
    return x


def by_consensus(shapes: Any, loss: Any, accuracy: Any, digits: Digits, rows: Any, seed: int) -> Any:
    """The accuracy after each epoch; one program, one scan."""
    strategy = bb.cbo.CBO(
        popsize=POPSIZE,
        sigma0=1.0,
        diffusion="anisotropic",
        s=(0.4 * 0.1) ** 0.5,
        drift=0.1,
        truncation=float("inf"),
        alpha="geometric",
        growth=1.0,
        alpha_max=1e30,
        batch=PARTICLES,
        update="full",
        agreed="kick",
    )

    def epoch(state: Any, given: tuple[Any, Any]) -> tuple[Any, Any]:
        number, rows = given  # epochs count from 0: the factors log2(e + 1) / log2(e + 2) multiply to 1 / log2(e + 2)
        cooled = dataclasses.replace(
            strategy, s=strategy.s / jnp.log2(number + 2), alpha0=jnp.minimum(50 * 2.0**number, 1e30)
        )

        def step(state: Any, batch: Any) -> tuple[Any, None]:
            population = cooled.ask(state)
            fitness = jax.vmap(loss, (0, None, None))(population, digits.x[batch], digits.labels[batch])
            return cooled.tell(state, population, fitness), None

        state, _ = jax.lax.scan(step, state, jnp.repeat(rows, POPSIZE // PARTICLES, axis=0))
        return state, accuracy(state.consensus)

    size = sum(wide * high + high for wide, high in shapes)
    state = strategy.init(bb.key(seed), jnp.zeros(size))
    return jax.jit(lambda state: jax.lax.scan(epoch, state, (jnp.arange(float(EPOCHS)), rows))[1])(state)


def by_descent(shapes: Any, loss: Any, accuracy: Any, digits: Digits, rows: Any, seed: int) -> Any:
    """The accuracy after each epoch of Adam, from random weights of the usual size."""
    optimizer = optax.adam(LR)
    rng = np.random.default_rng(seed)
    layers = [(rng.normal(size=wide * high) * (2 / wide) ** 0.5, np.zeros(high)) for wide, high in shapes]
    parameters = jnp.asarray(np.concatenate([part for layer in layers for part in layer]), jnp.float32)

    def step(given: Any, batch: Any) -> tuple[Any, None]:
        parameters, moments = given
        gradient = jax.grad(loss)(parameters, digits.x[batch], digits.labels[batch])
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(parameters, updates), moments), None

    def epoch(given: Any, rows: Any) -> tuple[Any, Any]:
        given, _ = jax.lax.scan(step, given, rows)
        return given, accuracy(given[0])

    return jax.jit(lambda given: jax.lax.scan(epoch, given, rows)[1])((parameters, optimizer.init(parameters)))


WAYS: dict[str, tuple[Callable[..., Any], int]] = {"CBO": (by_consensus, POPSIZE), "backpropagation": (by_descent, 1)}
"""How a network is trained, and how many forward passes of a batch of images that takes."""


def trained(shapes: Any, train: Any, seed: int, validation: bool) -> tuple[np.ndarray, int, float]:
    """Accuracy after each epoch, steps of all batches of images, and seconds of processor time with compilation."""
    began = time.process_time()
    digits = Digits(seed, validation)
    rows = digits.batches(seed)

    def loss(parameters: Any, x: Any, labels: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(output(shapes, parameters, x), labels).mean()

    def accuracy(parameters: Any) -> Any:
        return jnp.mean(output(shapes, parameters, digits.held).argmax(axis=1) == digits.held_labels)

    found = np.asarray(train(shapes, loss, accuracy, digits, jnp.asarray(rows), seed))
    return found, rows.shape[0] * rows.shape[1], time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--validation", action="store_true")
    given = parser.parse_args()
    rows = []
    for name, shapes in NETWORKS.items():
        for way, (train, passes) in WAYS.items():
            runs = []
            for seed in given.seeds:
                runs.append(trained(shapes, train, seed, given.validation))
                print(f"{name}, {way}, seed {seed}: {runs[-1][0][-1]:.4f}, {runs[-1][2]:.1f} CPU s", flush=True)
            courses, steps, seconds = zip(*runs, strict=True)
            last = [course[-1] for course in courses]
            rows.append({
                "network": name,
                "parameters": sum(wide * high + high for wide, high in shapes),
                "trained by": way,
                "evaluations": f"{steps[0] * passes:,}",
                **{
                    f"after {number} epochs": f"{statistics.mean(float(course[number - 1]) for course in courses):.2%}"
                    for number in SHOWN
                },
                "worst": f"{min(last):.2%}",
                "each seed": ", ".join(f"{accuracy:.1%}" for accuracy in last),
                "CPU s, mean": f"{statistics.mean(seconds):.0f}",
            })  # fmt: skip
    note = (
        f"Seeds {', '.join(map(str, given.seeds))}, each with a split of its own, 360 images held out; the mean of "
        f"their accuracies after so many epochs, then the worst and each one's last. CBO: the published recipe, "
        f"{POPSIZE} particles in batches of {PARTICLES}, {IMAGES} images; an evaluation is one forward pass of "
        f"{IMAGES} images. Whether pixels are standardized and how strong the kick is (the default) was decided on a "
        f"fifth of the training images of seed 0, nothing by the test images. Backpropagation: Adam {LR} on the same "
        "batches, a forward and a backward pass for each. One core, shared with other programs."
    )
    if given.validation:
        print(*rows, sep="\n")
        return
    columns = list(rows[0])
    write("cbo_digits", "Handwritten digits by consensus", columns, rows, ["blackbox-engine", "jax", "optax"], note)


if __name__ == "__main__":
    main()
