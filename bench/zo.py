"""Networks trained from function values: which gradient estimator, how sparse, how many queries a step.

    python bench/zo.py estimators      estimators at one step length beside backpropagation; results/zo_estimators.md
    python bench/zo.py sparsity        DeepZero and other masks at 80 to 99 %; results/zo_sparsity.md
    python bench/zo.py budget          8 to 1,210 queries a step at equal queries in all; results/zo_budget.md and .png
    python bench/zo.py resnet          ResNet-20 of reduced width; results/zo_resnet.md
    python bench/zo.py speed           feature reuse and batched queries; results/zo_speed.md
    python bench/zo.py estimators --seeds 0-2      fewer seeds

Handwritten digits of scikit-learn, a fifth held out: 360 images, so one of them is 0.28 %. The seed decides the split,
the initial weights, the batches of 64 images and the queries. All ways of training have the same networks, images,
batches, Adam with a cosine schedule of the learning rate, whose first value is the best of a grid by a fifth of the
training images of seeds 100 and 101 (of ResNet-20: 100), which are in no table. A query is a direction or a
coordinate, and takes two evaluations (central differences). The accuracy is that after the last step.

Runs are kept in --cache until the table is written; a second call goes on where the first was cut off.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from record import write
from runs import numbers

import blackbox as bb
from blackbox.problems import classifiers
from blackbox.zo.cge import estimated

BATCH = 64
NETWORKS = {
    "conv net": classifiers.conv_net(),
    "MLP": classifiers.mlp(),
    "ResNet-20, width 4": classifiers.resnet20(width=4, channels=1, groups=2),
}


@dataclass(frozen=True)
class Way:
    """A way of training a network."""

    name: str
    network: str
    steps: int
    estimator: Callable[[Any, Any, Any, Any], Any] | None = None
    """From initial parameters, key, images and labels to an estimator; None for backpropagation."""
    rates: tuple[float, ...] = (0.03, 0.1, 0.2)
    tuning: tuple[int, ...] = (100, 101)
    """Seeds on which the learning rate is chosen."""


def fixed(estimator: Any) -> Callable[..., Any]:
    return lambda params, key, x, y: estimator


def split(seed: int, tuning: bool) -> classifiers.Images:
    data = classifiers.digits(seed)
    if not tuning:
        return data
    held = len(data.x) // 5
    return classifiers.Images(data.x[held:], data.y[held:], data.x[:held], data.y[:held])


@cache
def program(way: Way) -> Callable[..., Any]:
    """The training as one program: a scan over batches."""
    network = NETWORKS[way.network]
    adam = optax.scale_by_adam()

    def train(estimator: Any, params: Any, key: Any, lr: Any, x: Any, y: Any, rows: Any) -> Any:
        interval = getattr(estimator, "interval", 1)  # the same key, the same coordinates
        if estimator is None:
            gradient = lambda p, k, x, y: jax.value_and_grad(network.loss)(p, x, y)  # noqa: E731
        else:
            gradient = bb.zo.value_and_grad(network.loss, estimator)

        def step(carry: Any, given: Any) -> Any:
            params, moments = carry
            number, rows = given
            value, g = gradient(params, bb.fold(key, number // interval), x[rows], y[rows])
            u, moments = adam.update(g, moments)
            rate = lr * 0.5 * (1 + jnp.cos(jnp.pi * number / way.steps))
            return (jax.tree.map(lambda p, u: p - rate * u, params, u), moments), value

        carry = (params, adam.init(params))
        return jax.lax.scan(step, carry, (jnp.arange(way.steps), rows))[0][0]

    return jax.jit(train, static_argnums=0)


def accuracy(way: Way, seed: int, lr: float, tuning: bool) -> tuple[float, float, int]:
    """Test accuracy, seconds of processor time and function values a step."""
    data = split(seed, tuning)
    network, key = NETWORKS[way.network], bb.key(seed)
    params = network.init(bb.fold(key, 1))
    rng = np.random.default_rng(seed)
    rows = jnp.asarray(rng.integers(0, len(data.x), (way.steps, BATCH)))
    began = time.process_time()
    first = rows[0]
    estimator = way.estimator and way.estimator(params, bb.fold(key, 2), data.x[first], data.y[first])
    trained = program(way)(estimator, params, bb.fold(key, 3), lr, data.x, data.y, rows)
    found = float(network.accuracy(trained, data.test_x, data.test_y))
    evaluations = 1 if estimator is None else estimator.evaluations(params)
    return found, time.process_time() - began, evaluations


class Cache:
    """Runs that were made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs = dict(json.loads(line) for line in path.read_text().splitlines()) if path.exists() else {}

    def run(self, way: Way, seed: int, lr: float, tuning: bool = False) -> list[float]:
        name = f"{way.network}|{way.name}|{way.steps}|{seed}|{lr}|{tuning}"
        if name not in self.runs:
            self.runs[name] = accuracy(way, seed, lr, tuning)
            with self.path.open("a") as file:
                file.write(json.dumps([name, self.runs[name]]) + "\n")
            print(name, self.runs[name], flush=True)
        return self.runs[name]


def row(way: Way, seeds: tuple[int, ...], kept: Cache) -> dict[str, Any]:
    """Trains on all seeds at the best of the learning rates."""
    tuned = {lr: statistics.mean(kept.run(way, seed, lr, True)[0] for seed in way.tuning) for lr in way.rates}
    lr = max(way.rates, key=lambda rate: tuned[rate])
    runs = [kept.run(way, seed, lr) for seed in seeds]
    found = [run[0] for run in runs]
    error = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else float("nan")
    return {
        "network": way.network,
        "gradient": way.name,
        "steps": way.steps,
        "values a step": runs[0][2] if way.estimator else "–",
        "lr": lr,
        "accuracy": f"{statistics.mean(found):.1%} ± {error:.1%}",
        "worst": f"{min(found):.1%}",
        "CPU ms a step": f"{1000 * statistics.median(run[1] for run in runs) / way.steps:.0f}",
        "mean": statistics.mean(found),
        "error": error,
    }


def table(name: str, title: str, ways: list[Way], seeds: tuple[int, ...], kept: Cache, note: str = "") -> list[Any]:
    rows = [row(way, seeds, kept) for way in ways]
    columns = [column for column in rows[0] if column not in ("mean", "error")]
    about = (
        f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]}): mean ± standard error, worst seed; CPU time of training a "
        "step, median, compilation included, one core shared with other programs."
    )
    write(name, title, columns, rows, ["jax", "optax", "scikit-learn", "numpy"], f"{about} {note}")
    return rows


def estimators(seeds: tuple[int, ...], kept: Cache) -> None:
    ways = []
    for network in ("conv net", "MLP"):
        ways.append(Way("backpropagation", network, 120))
        ways.append(Way("CGE", network, 120, fixed(bb.zo.CGE())))
        ways.append(Way("CGE, forward", network, 120, fixed(bb.zo.CGE(central=False))))
        kinds = ("normal", "rademacher", "sphere", "orthogonal", "hadamard") if network == "conv net" else ("normal",)
        ways += [Way(f"RGE, {kind}", network, 120, fixed(bb.zo.RGE(1210, kind))) for kind in kinds]
    table(
        "zo_estimators", "Gradients from function values: digits, 120 steps", ways, seeds, kept,
        "Both networks have 1,210 parameters; RGE has 1,210 directions a step.",
    )  # fmt: skip


@dataclass(frozen=True)
class Pruned:
    """CGE of coordinates that are never others."""

    coordinates: tuple[int, ...]

    def ask(self, params: Any, key: Any, generation: Any = 0, first: int = 0) -> Any:
        pairs = 2 * np.array(self.coordinates)[:, None] + np.arange(2)
        return bb.zo.CGE().ask(params, key).take(pairs.ravel())

    def estimate(self, population: Any, fitness: Any) -> Any:
        return bb.zo.Estimate.of(population, *estimated(True, (1.0,) * len(population.weights), population, fitness))

    def evaluations(self, params: Any) -> int:
        return 2 * len(self.coordinates)


def sparsity(seeds: tuple[int, ...], kept: Cache) -> None:
    ways = [Way("CGE", "conv net", 120, fixed(bb.zo.CGE()))]
    loss = NETWORKS["conv net"].loss
    for percent in (80, 90, 95, 99):
        density = 1 - percent / 100

        def grasp(params: Any, key: Any, x: Any, y: Any, density: float = density) -> Any:
            return bb.zo.DeepZero(bb.zo.grasp_densities(loss, params, key, x, y, density=density))

        def pruned(params: Any, key: Any, x: Any, y: Any, density: float = density) -> Any:
            scores = bb.zo.grasp_scores(loss, params, key, x, y)
            order = np.argsort(np.concatenate([np.ravel(score) for score in scores.values()]), kind="stable")
            return Pruned(tuple(sorted(order[: round(density * len(order))].tolist())))

        for name, estimator in (
            ("dynamic, GraSP", grasp),
            ("dynamic, uniform", fixed(bb.zo.DeepZero(density))),
            ("redrawn every 30 steps", fixed(bb.zo.DeepZero(density, interval=30))),
            ("fixed, uniform", fixed(bb.zo.DeepZero(density, interval=10**6))),
            ("fixed, GraSP's mask", pruned),
        ):
            ways.append(Way(f"{percent} %: {name}", "conv net", 120, estimator))
    table(
        "zo_sparsity", "Sparse coordinate-wise gradients: digits, 120 steps", ways, seeds, kept,
        "80 % sparse: a fifth of the coordinates is queried at each step.",
    )  # fmt: skip


def budget(seeds: tuple[int, ...], kept: Cache) -> None:
    ways = [Way("backpropagation", "conv net", 1134, None, (0.003, 0.01, 0.03, 0.1))]
    for queries in (8, 32, 128, 512, 1210):
        steps = 120 * 1210 // queries
        rates = tuple(round(lr * min(1.0, (queries / 1210) ** 0.5), 5) for lr in (0.03, 0.1, 0.2))
        for name, estimator in (
            ("RGE, normal", bb.zo.RGE(queries)),
            ("RGE, hadamard", bb.zo.RGE(queries, "hadamard")),
            ("CGE, random coordinates", bb.zo.CGE(queries=queries)),
        ):
            ways.append(Way(f"{name}, {queries}", "conv net", steps, fixed(estimator), rates))
    rows = table(
        "zo_budget", "Queries a step at 145,200 queries in all: digits, conv net", ways, seeds, kept,
        "The number after the estimator is its queries a step; error bars are standard errors.",
    )  # fmt: skip
    drawn(rows)


def drawn(rows: list[Any]) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    axes.axhline(100 * rows[0]["mean"], color="0.5", linestyle="--", label="backpropagation, 1,134 steps")
    for name in dict.fromkeys(row["gradient"].rpartition(",")[0] for row in rows[1:]):
        own = [row for row in rows if row["gradient"].rpartition(",")[0] == name]
        axes.errorbar(
            [int(row["gradient"].rpartition(",")[2]) for row in own],
            [100 * row["mean"] for row in own],
            [100 * row["error"] for row in own],
            fmt="o-",
            capsize=3,
            label=name,
        )
    axes.set(xscale="log", xlabel="queries a step, at equal queries in all", ylabel="test accuracy, %")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(Path(__file__).parent / "results" / "zo_budget.png", dpi=150)


def resnet(seeds: tuple[int, ...], kept: Cache) -> None:
    network = "ResNet-20, width 4"
    loss = NETWORKS[network].loss

    def grasp(params: Any, key: Any, x: Any, y: Any) -> Any:
        return bb.zo.DeepZero(bb.zo.grasp_densities(loss, params, key, x, y, density=0.01))

    ways = [
        Way("backpropagation", network, 150, None, (0.003, 0.01, 0.03), (100,)),
        Way("DeepZero, 99 % sparse", network, 150, grasp, (0.01, 0.03), (100,)),
        Way("RGE, normal, 208", network, 150, fixed(bb.zo.RGE(208)), (0.003, 0.01), (100,)),
    ]
    table("zo_resnet", "ResNet-20 from function values: digits, 150 steps", ways, seeds, kept)


def seconds(call: Callable[[], Any], repeats: int = 3) -> float:
    """Processor time, the median of some runs after a first one."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        jax.block_until_ready(call())
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def whole_sweep(loss: Any, params: Any, population: Any, *args: Any) -> Callable[[], Any]:
    """Every member by the whole network, 64 of them at once: what vmap gives without knowledge of the change."""
    flat, unravel = ravel_pytree(params)

    def value(row: Any, *args: Any) -> Any:
        return loss(unravel(flat.at[row[0]].add(row[1])), *args)

    rows = (population.coordinates, population.steps)
    run = jax.jit(lambda *args: jax.lax.map(lambda row: value(row, *args), rows, batch_size=64))
    return lambda: run(*args)


def one_by_one(loss: Any, params: Any, population: Any, *args: Any) -> Callable[[], Any]:
    """A loop in Python over compiled evaluations."""
    flat, unravel = ravel_pytree(params)
    value = jax.jit(lambda i, step, *args: loss(unravel(flat.at[i].add(step)), *args))
    rows = list(zip(np.asarray(population.coordinates), np.asarray(population.steps), strict=True))
    return lambda: jnp.stack([value(i, step, *args) for i, step in rows])


def speed(seeds: tuple[int, ...], kept: Cache) -> None:
    rng, rows = np.random.default_rng(0), []
    data = classifiers.digits(0)
    tasks = [
        ("conv net, digits", NETWORKS["conv net"], data.x[:BATCH]),
        ("MLP, digits", NETWORKS["MLP"], data.x[:BATCH]),
    ]
    for layers in (2, 4, 8, 16):
        wide = jnp.asarray(rng.normal(size=(BATCH, 64)), jnp.float32)
        tasks.append((f"MLP of {layers} layers, 64 wide", classifiers.mlp((*[64] * layers, 10)), wide))
    for name, network, x in tasks:
        params, y = network.init(bb.key(0)), data.y[:BATCH]
        population = bb.zo.CGE().ask(params, bb.key(0))
        shared = dataclasses.replace(population, counts=None)
        ways = {
            "reuse": lambda p=population, n=network, x=x, y=y: bb.evaluate(n.loss, p, x, y, chunk=64),
            "shared products": lambda p=shared, n=network, x=x, y=y: bb.evaluate(n.loss, p, x, y, chunk=64),
            "whole": whole_sweep(network.loss, params, population, x, y),
        }
        if "digits" in name:
            ways["loop"] = one_by_one(network.loss, params, population, x, y)
        took = {way: seconds(call) for way, call in ways.items()}
        exact, plain = np.asarray(ways["reuse"]()), np.asarray(ways["whole"]())
        rows.append({
            "network": name,
            "parameters": population.steps.shape[0] // 2,
            "sweep, s": f"{took['reuse']:.3f}",
            "whole network, batched": f"{took['whole'] / took['reuse']:.1f} x",
            "rank-one members": f"{took['shared products'] / took['reuse']:.1f} x",
            "one by one": f"{took['loop'] / took['reuse']:.0f} x" if "loop" in took else "–",
            "largest difference": f"{np.abs(exact - plain).max():.1e}",
        })  # fmt: skip
        print(rows[-1], flush=True)
    write(
        "zo_speed", "A whole sweep of central differences, by feature reuse and without", list(rows[0]), rows,
        ["jax", "numpy"],
        "Processor time on one core, compiled before, median of 3; batches of 64 samples, 64 queries at once. Beside "
        "it how many times longer it takes with every query through the whole network (vmap), with changes of rank one "
        "that share products but no layers, and with a loop in Python over compiled evaluations of single queries.",
    )  # fmt: skip


PARTS = {"speed": speed, "estimators": estimators, "sparsity": sparsity, "budget": budget, "resnet": resnet}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--cache", type=Path, default=Path("zo-runs.jsonl"))
    arguments = parser.parse_args()
    PARTS[arguments.part](numbers(arguments.seeds), Cache(arguments.cache))


if __name__ == "__main__":
    main()
