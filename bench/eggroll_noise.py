"""Learning curves of EGGROLL's kinds of noise, and of rank 1, 4 and full, side by side on handwritten digits.

    python bench/eggroll_noise.py            some 8 minutes on one core; writes bench/results/eggroll_noise.md, .png

The same network (64-256-256-10), batches, seeds and settings for each; only the noise differs. The curve is the mean
over seeds of the loss of the strategy's mean on held-out images.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from record import RESULTS, write
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import blackbox as bb

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ENTRIES: dict[str, dict[str, Any]] = {
    "rank 1, binom8": {"noise": "binom8"},
    "rank 1, sign": {"noise": "sign"},
    "rank 1, uniform": {"noise": "uniform"},
    "rank 1, normal": {"noise": "normal"},
    "rank 4, binom8": {"noise": "binom8", "rank": 4},
    "full rank, binom8": {"noise": "binom8", "rank": None},
}
pixels, digits = load_digits(return_X_y=True)
split = train_test_split(pixels.astype(np.float32) / 16, digits, test_size=0.2, random_state=0, stratify=digits)
train_x, test_x, train_y, test_y = map(jnp.asarray, split)


def network(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def loss(params: list[dict[str, jax.Array]], x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(network(params, x), y).mean()


test_loss = jax.jit(loss)


def run(settings: dict[str, Any], seed: int, generations: int, popsize: int) -> tuple[list[float], float, float]:
    """The held-out loss after each ten generations, the accuracy at the end, and CPU seconds."""
    rng = np.random.default_rng(seed)
    sizes = [(64, 256), (256, 256), (256, 10)]
    params = [
        {"w": jnp.asarray(rng.normal(size=(m, n)) * (2 / m) ** 0.5, jnp.float32), "b": jnp.zeros(n)} for m, n in sizes
    ]
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, generations))
    strategy = bb.es.Eggroll(popsize=popsize, sigma=0.05, shaping="centered-ranks", optimizer=optimizer, **settings)
    state = strategy.init(bb.key(seed), params)
    curve, started = [], time.process_time()
    for generation in range(generations):
        batch = rng.choice(len(train_y), 128, replace=False)
        population = strategy.ask(state)
        fitness = bb.evaluate(loss, population, train_x[batch], train_y[batch], chunk=64)
        state = strategy.tell(state, population, fitness)
        if generation % 10 == 9:
            curve.append(float(test_loss(state.params, test_x, test_y)))
    seconds = time.process_time() - started
    accuracy = float((network(strategy.recommend(state), test_x).argmax(axis=1) == test_y).mean())
    return curve, accuracy, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--popsize", type=int, default=256)
    arguments = parser.parse_args()
    rows, figure = [], plt.figure(figsize=(7, 4.5))
    axes = figure.add_subplot()
    for name, settings in ENTRIES.items():
        runs = [run(settings, seed, arguments.generations, arguments.popsize) for seed in range(arguments.seeds)]
        curves = np.array([curve for curve, _, _ in runs])
        accuracies = [accuracy for _, accuracy, _ in runs]
        final = curves[:, -1]
        error = f" ± {final.std(ddof=1) / len(runs) ** 0.5:.3f}" if len(runs) > 1 else ""
        rows.append({
            "noise": name,
            "seeds": len(runs),
            "held-out loss, halfway": f"{curves[:, curves.shape[1] // 2 - 1].mean():.3f}",
            "held-out loss, end": f"{final.mean():.3f}{error}",
            "accuracy, mean (least)": f"{100 * statistics.mean(accuracies):.1f} % ({100 * min(accuracies):.1f} %)",
            "CPU s per run": f"{statistics.median(seconds for _, _, seconds in runs):.0f}",
        })  # fmt: skip
        print(rows[-1], flush=True)
        axes.plot(10 * np.arange(1, curves.shape[1] + 1), curves.mean(axis=0), label=name)
    axes.set(xlabel="generation", ylabel="held-out loss, mean of seeds", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "eggroll_noise.png", dpi=120)
    note = (
        f"Popsize {arguments.popsize}, sigma 0.05, centered ranks, Adam 0.02 with cosine decay, batches of 128, "
        f"{arguments.generations} generations; the error is the standard error over seeds. ![curves](eggroll_noise.png)"
    )
    write("eggroll_noise", "Kinds of noise", list(rows[0]), rows, ["jax", "numpy", "scikit-learn"], note)


if __name__ == "__main__":
    main()
