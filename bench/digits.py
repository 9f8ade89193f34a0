"""Handwritten digits without backpropagation: test accuracy of EGGROLL beside Adam on the same networks and data.

    python bench/digits.py                   some 20 minutes of processor time; writes bench/results/digits.md
    python bench/digits.py --seeds 0 1       fewer seeds

The 1,797 images of 8 x 8 pixels of scikit-learn, a fifth of them held out: 360 images, so one of them is 0.28 %. The
seed decides the split, the initial weights, the batches, the shifts and the noise. A share of the training images is
shifted by up to one pixel in each direction. Both ways of training are given the same images in the same batches, and
the accuracy is that after the last step: nothing is chosen by the test images.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from record import write
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import blackbox as bb

BATCH = 32


@dataclass(frozen=True)
class Setting:
    """A network, how much of the data is shifted, and how long it is trained."""

    shapes: tuple[tuple[int, ...], ...]
    output: Callable[[Any, Any], Any]
    shifted: float
    generations: int
    popsize: int = 2048
    sigma: float = 0.05
    lr: float = 0.008


def dense(layer: Any, x: Any) -> Any:
    return x.reshape(x.shape[0], -1) @ layer["w"] + layer["b"]


def convolution(layer: Any, x: Any) -> Any:
    y = jax.lax.conv_general_dilated(x, layer["w"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + layer["b"]


def perceptron(params: Any, x: Any) -> Any:
    return dense(params[1], jax.nn.relu(dense(params[0], x)))


def convolutional(params: Any, x: Any) -> Any:
    return dense(params[1], jax.nn.relu(convolution(params[0], x[..., None])))


SETTINGS = {
    "MLP, 64-256-10": Setting(((64, 256), (256, 10)), perceptron, shifted=0.2, generations=800),
    "conv net, 5x5x32, 512-10": Setting(((5, 5, 1, 32), (512, 10)), convolutional, shifted=0.3, generations=1200),
}


class Digits:
    """The data of a seed, and a stream of batches of it."""

    def __init__(self, seed: int) -> None:
        pixels, digits = load_digits(return_X_y=True)
        images = pixels.reshape(-1, 8, 8).astype(np.float32)
        self.train, test, self.labels, self.test_labels = train_test_split(
            images, digits, test_size=0.2, random_state=seed, stratify=digits
        )
        self.mean, self.deviation = self.train.mean(axis=0), self.train.std()
        self.test = jnp.asarray((test - self.mean) / self.deviation)

    def batches(self, rng: np.random.Generator, shifted: float, count: int) -> Iterator[tuple[Any, Any]]:
        padded = np.pad(self.train, ((0, 0), (1, 1), (1, 1)))
        for _ in range(count):
            chosen = rng.choice(len(self.labels), BATCH, replace=False)
            down, right = np.where(rng.random(BATCH) < shifted, rng.integers(0, 3, (2, BATCH)), 1)
            cut = [padded[k, i : i + 8, j : j + 8] for k, i, j in zip(chosen, down, right, strict=True)]
            yield jnp.asarray((np.stack(cut) - self.mean) / self.deviation), jnp.asarray(self.labels[chosen])


def initial(setting: Setting, rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        {
            "w": jnp.asarray(rng.normal(size=shape) * (2 / np.prod(shape[:-1])) ** 0.5, jnp.float32),
            "b": jnp.zeros(shape[-1]),
        }
        for shape in setting.shapes
    ]


def evolved(setting: Setting, loss: Any, params: Any, data: Iterator[tuple[Any, Any]], seed: int) -> Any:
    """The convolution's kernel has a side of 25 entries, so it has noise of low rank as the matrices do."""
    strategy = bb.es.Eggroll(
        popsize=setting.popsize,
        sigma=setting.sigma,
        shaping="centered-ranks",
        optimizer=optax.adam(optax.cosine_decay_schedule(setting.lr, setting.generations)),
    )
    state = strategy.init(bb.key(seed), params)
    for x, y in data:
        population = strategy.ask(state)
        state = strategy.tell(state, population, bb.evaluate(loss, population, x, y, chunk=64))
    return strategy.recommend(state)


def descended(setting: Setting, loss: Any, params: Any, data: Iterator[tuple[Any, Any]], seed: int) -> Any:
    optimizer = optax.adam(optax.cosine_decay_schedule(setting.lr, setting.generations))

    @jax.jit
    def step(params: Any, moments: Any, x: Any, y: Any) -> Any:
        updates, moments = optimizer.update(jax.grad(loss)(params, x, y), moments)
        return optax.apply_updates(params, updates), moments

    moments = optimizer.init(params)
    for x, y in data:
        params, moments = step(params, moments, x, y)
    return params


def trained(setting: Setting, train: Any, seed: int) -> tuple[float, float]:
    """Test accuracy and seconds of processor time, compilation included."""
    began = time.process_time()
    digits, rng = Digits(seed), np.random.default_rng(seed)

    def loss(params: Any, x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(setting.output(params, x), y).mean()

    params = initial(setting, rng)
    params = train(setting, loss, params, digits.batches(rng, setting.shifted, setting.generations), seed)
    accuracy = np.mean(setting.output(params, digits.test).argmax(axis=1) == digits.test_labels)
    return float(accuracy), time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    seeds = parser.parse_args().seeds
    rows = []
    for name, setting in SETTINGS.items():
        for way, train in {"EGGROLL": evolved, "backpropagation": descended}.items():
            runs = []
            for seed in seeds:
                runs.append(trained(setting, train, seed))
                print(f"{name}, {way}, seed {seed}: {runs[-1][0]:.4f}, {runs[-1][1]:.1f} CPU s", flush=True)
            accuracies, seconds = zip(*runs, strict=True)
            rows.append({
                "network": name,
                "trained by": way,
                "steps": setting.generations,
                "test accuracy, mean": f"{statistics.mean(accuracies):.2%}",
                "worst": f"{min(accuracies):.2%}",
                "each seed": ", ".join(f"{accuracy:.1%}" for accuracy in accuracies),
                "CPU s, mean": f"{statistics.mean(seconds):.0f}",
            })  # fmt: skip
    note = (
        f"Seeds {', '.join(map(str, seeds))}, each with a split of its own, 360 images held out. EGGROLL: rank 1, "
        f"popsize {setting.popsize}, sigma {setting.sigma}, Adam {setting.lr} with cosine decay, centered ranks; "
        f"backpropagation: the same Adam, batches of {BATCH} and number of steps. Up to one pixel of shift for "
        "20 % (MLP) and 30 % (conv net) of the training images. One core, shared with other programs."
    )
    write("digits", "Handwritten digits without backpropagation", list(rows[0]), rows, ["jax", "optax"], note)


if __name__ == "__main__":
    main()
