"""Federated optimization from values alone: FZooS beside FedZO, FedProx and SCAFFOLD, at equal numbers of evaluations.

    python bench/zo_federated.py                 some ten minutes of processor time; writes bench/results/zo_federated.*
    python bench/zo_federated.py --seeds 0 1     fewer seeds

Quadratics are those of the authors' code of FZooS (Shu et al. 2023, arXiv:2308.04077), d = 300, N = 5 clients, x in
[0, 1]^d, z = 20 clip(x) - 10, a_i and b_i = 1 + C (w_i - 1/N) for each coordinate with w of a Dirichlet distribution
with all parameters 1/N, start uniform:

    f_i(x) = (a_i^T z^2 + b_i^T z + 1) / (10 d)          C is how much they differ; their mean does not depend on it

Digits: a linear classifier (650 numbers) of scikit-learn's 8 x 8 digits is trained by its gradient on a third of the
images, and meets images that are moved down by a pixel. Five clients share half of the others, of each class by a
Dirichlet distribution with parameters 0.5; a change of the classifier is sought by their values of 1 - F1 (the mean
over the classes that a client has) or 1 - accuracy alone, which are piecewise constant. A quarter of all is held out.

Defaults are those of the authors' experiments: 10 local steps a round, 20 orthogonal directions and x itself for a
gradient by differences, which are 210 evaluations of each client a round (SCAFFOLD I: 231). FZooS makes as many with
200 active queries a round, and 60 with the 50 of the paper.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import dataclasses
import functools
import itertools
import math
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from record import RESULTS, markdown, write
from sklearn.datasets import load_digits

import blackbox as bb
from blackbox.zo.fed_zo import FedZO
from blackbox.zo.federated import play
from blackbox.zo.fzoos import FZooS
from blackbox.zo.scaffold import Scaffold

matplotlib.use("Agg")
import matplotlib.pyplot as plt

N = 5
TUNING = (1000,)  # seeds of the problems and runs that settings are chosen on
COLOURS = {
    "FZooS": "#1b6ca8", "FZooS, 50 active": "#66a182", "FZooS, uncertainty": "#2a9df4", "FedZO": "#d1495b",
    "FedProx": "#edae49", "SCAFFOLD I": "#8d6a9f", "SCAFFOLD II": "#5c5c5c",
}  # fmt: skip
D, BUDGET, HETEROGENEITIES = 300, 3150, (0.5, 5.0, 50.0)
LEAST = (1 - D / 4) / (10 * D)  # of the mean of all quadratics, at z = -1/2
ADAM, PLAIN = (0.003, 0.01, 0.03, 0.1), (0.01, 0.03, 0.1, 0.3, 1.0)
METHODS: dict[str, Any] = {
    "FZooS": FZooS(active=200, candidates=200, history=210, features=1200),
    "FZooS, 50 active": FZooS(history=120, features=1200),
    "FZooS, uncertainty": FZooS(active=200, candidates=200, history=210, features=1200, correction="uncertainty"),
    "FedZO": FedZO(),
    "FedProx": FedZO(proximal=1.0),
    "SCAFFOLD I": Scaffold(option="I"),
    "SCAFFOLD II": Scaffold(option="II"),
}

ON_QUADRATICS = [name for name in METHODS if name != "FZooS, uncertainty"]
ON_DIGITS = [name for name in METHODS if name != "FZooS, 50 active"]


class Task(NamedTuple):
    """Clients' functions as one of their data, and what is measured of a point after each round."""

    value: Any
    measure: Any
    data: Any
    start: Any


def quadratics(heterogeneity: float, seed: int) -> Task:
    rng = np.random.default_rng(seed)
    a, b = (1 + heterogeneity * (rng.dirichlet(np.full(N, 1 / N), D).T - 1 / N) for _ in range(2))
    data = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    return Task(quadratic, gap, data, jnp.asarray(rng.uniform(size=D), jnp.float32))


def quadratic(data: Any, client: Any, x: Any) -> Any:
    z = 20 * jnp.clip(x, 0, 1) - 10
    return (jnp.dot(data[0][client], z**2) + jnp.dot(data[1][client], z) + 1) / (10 * D)


def gap(data: Any, x: Any) -> Any:
    return jnp.mean(jax.vmap(quadratic, (None, 0, None))(data, jnp.arange(N), x)) - LEAST


def digits(metric: str, seed: int) -> Task:
    """Data: the classifier, each client's images and labels (-1 where a client has no more), those held out."""
    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    images, labels = (images[order] / 16).astype(np.float32), labels[order]
    before, after = 600, 1350
    weights = trained(jnp.asarray(images[:before]), jnp.asarray(labels[:before]))
    moved = np.roll(images.reshape(-1, 8, 8), 1, axis=1).reshape(-1, 64)
    owners: list[list[int]] = [[] for _ in range(N)]
    for digit in range(10):
        rows = before + np.flatnonzero(labels[before:after] == digit)
        ends = np.cumsum(rng.dirichlet(np.full(N, 0.5)) * len(rows)).round().astype(int)[:-1]
        for owner, part in zip(owners, np.split(rows, ends), strict=True):
            owner.extend(part.tolist())
    most = 750  # at most, so that programs are the same for all seeds
    x, y = np.zeros((N, most, 64), np.float32), np.full((N, most), -1)
    for i, owner in enumerate(owners):
        x[i, : len(owner)], y[i, : len(owner)] = moved[owner], labels[owner]
    data = weights, jnp.asarray(x), jnp.asarray(y), jnp.asarray(moved[after:]), jnp.asarray(labels[after:])
    return Task(VALUES[metric], MEASURES[metric], data, jnp.zeros(650))


@jax.jit
def trained(images: Any, labels: Any) -> Any:
    """Weights and biases of multinomial regression, by gradient descent."""

    def loss(weights: Any) -> Any:
        chances = jax.nn.log_softmax(images @ weights[:640].reshape(64, 10) + weights[640:])
        return -jnp.mean(jnp.take_along_axis(chances, labels[:, None], axis=1)) + 1e-3 * jnp.sum(weights**2)

    return jax.lax.fori_loop(0, 500, lambda _, weights: weights - 0.5 * jax.grad(loss)(weights), jnp.zeros(650))


def error(metric: str, weights: Any, images: Any, labels: Any) -> Any:
    """1 - accuracy, or 1 - the mean F1 of the classes that there are."""
    guesses = jnp.argmax(images @ weights[:640].reshape(64, 10) + weights[640:], axis=1)
    there = labels >= 0
    if metric == "accuracy":
        return 1 - jnp.sum((guesses == labels) & there) / jnp.maximum(jnp.sum(there), 1)
    guessed = (guesses[:, None] == jnp.arange(10)) & there[:, None]
    true = labels[:, None] == jnp.arange(10)
    both, either = jnp.sum(guessed & true, axis=0), jnp.sum(guessed, axis=0) + jnp.sum(true, axis=0)
    present = jnp.any(true, axis=0)
    return 1 - jnp.sum(jnp.where(present, 2 * both / jnp.maximum(either, 1), 0)) / jnp.maximum(jnp.sum(present), 1)


def value_of(metric: str) -> Any:
    """The error of a client."""
    return lambda data, client, x: error(metric, data[0] + x, data[1][client], data[2][client])


def measure_of(metric: str) -> Any:
    """The mean error of all clients, and that of the images held out."""
    value = value_of(metric)

    def measured(data: Any, x: Any) -> Any:
        clients = jax.vmap(lambda client: value(data, client, x))(jnp.arange(N))
        return jnp.stack([jnp.mean(clients), error(metric, data[0] + x, data[3], data[4])])

    return measured


VALUES = {metric: value_of(metric) for metric in ("F1", "accuracy")}
MEASURES = {metric: measure_of(metric) for metric in VALUES}  # made once, so that programs are compiled once


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def run(value: Any, measure: Any, rounds: int, method: Any, key: Any, data: Any, start: Any) -> Any:
    """What is measured at the start and after each round."""
    _, path = play(method, method.init(key, start), functools.partial(value, data), rounds)
    return jax.vmap(measure, (None, 0))(data, jnp.concatenate([start[None], path]))


def rounds_of(method: Any, budget: int, d: int) -> int:
    return round(budget / method.cost(d).evaluations)


def curve(method: Any, task: Task, seed: int, budget: int) -> np.ndarray:
    rounds = rounds_of(method, budget, len(task.start))
    key = jnp.asarray(bb.key(seed))
    return np.asarray(run(task.value, task.measure, rounds, method, key, task.data, task.start))


def tuned(method: Any, grid: list[dict[str, float]], tasks: list[Task], budget: int, score: Any) -> Any:
    """The method with those settings of the grid whose mean score is least on other seeds."""
    options = [dataclasses.replace(method, **settings) for settings in grid]
    scores = [
        np.mean([score(curve(option, task, seed, budget)) for seed, task in zip(TUNING, tasks, strict=True)])
        for option in options
    ]
    return options[int(np.argmin(scores))]


def spread(values: Any) -> str:
    """Median (quartiles)."""
    low, middle, high = np.quantile(np.asarray(values, float), (0.25, 0.5, 0.75), method="inverted_cdf")
    return f"{middle:.3g} ({low:.2g} to {high:.2g})"


def until(curves: list[np.ndarray], level: float) -> str:
    """Rounds until the gap is below ``level``, the median; infinite where it never is."""
    middle = np.median([np.argmax(gaps < level) if (gaps < level).any() else math.inf for gaps in curves])
    return f"{middle:.0f}" if math.isfinite(middle) else "–"


class Comparison(NamedTuple):
    rows: list[dict[str, Any]]
    curves: dict[str, tuple[np.ndarray, int]]
    """Of each method that is drawn: what is measured after each round of each run, and the evaluations of a round."""


def compare_quadratics(heterogeneity: float, seeds: list[int]) -> Comparison:
    rows, drawn = [], {}
    others = [quadratics(heterogeneity, seed) for seed in TUNING]
    tasks = [quadratics(heterogeneity, seed) for seed in seeds]
    for name, (steps, rates) in itertools.product(ON_QUADRATICS, (("Adam", ADAM), ("plain", PLAIN))):
        given = dataclasses.replace(METHODS[name], adam=steps == "Adam")
        if steps == "plain" and name == "FZooS, 50 active":
            continue
        began = time.process_time()
        method = tuned(
            given, [{"lr": lr} for lr in rates], others, BUDGET, lambda gaps: np.mean(np.log(np.maximum(gaps, 1e-6)))
        )  # fmt: skip
        curves = [curve(method, task, seed, BUDGET) for task, seed in zip(tasks, seeds, strict=True)]
        cost = method.cost(D)
        third = rounds_of(method, BUDGET // 3, D)
        row = {
            "C": heterogeneity,
            "steps": steps,
            "method": name,
            "lr": method.lr,
            "evaluations a round": cost.evaluations,
            "sent a round": cost.sent,
            f"gap at {BUDGET // 3:,}": spread([gaps[third] for gaps in curves]),
            f"gap at {BUDGET:,}": spread([gaps[-1] for gaps in curves]),
            "rounds to 0.35": until(curves, 0.35),
            "rounds to 0.035": until(curves, 0.035),
            "CPU s": f"{time.process_time() - began:.0f}",
        }
        print(row, flush=True)
        rows.append(row)
        if steps == "Adam":
            drawn[name] = np.stack(curves), cost.evaluations
    return Comparison(rows, drawn)


GRID = list(itertools.product((0.01, 0.03, 0.1, 0.3), (0.1, 0.3, 1.0)))


def compare_digits(metric: str, seeds: list[int]) -> Comparison:
    rows, drawn = [], {}
    others = [digits(metric, seed) for seed in TUNING]
    tasks = [digits(metric, seed) for seed in seeds]
    for name in ON_DIGITS:
        given = METHODS[name]
        began = time.process_time()
        if name.startswith("FZooS"):
            given = dataclasses.replace(given, features=1300)
            grid = [{"lr": lr, "radius": radius} for lr, radius in GRID]
        else:
            grid = [{"lr": lr, "mu": radius * (650 / 3) ** 0.5} for lr, radius in GRID]
        method = tuned(given, grid, others, BUDGET, lambda errors: np.mean(errors[:, 0]))
        curves = np.stack([curve(method, task, seed, BUDGET) for task, seed in zip(tasks, seeds, strict=True)])
        cost = method.cost(650)
        third = rounds_of(method, BUDGET // 3, 650)
        row = {
            "metric": f"1 - {metric}",
            "method": name,
            "lr": method.lr,
            "radius or mu": f"{method.radius if name.startswith('FZooS') else method.mu:.2g}",
            "evaluations a round": cost.evaluations,
            "sent a round": cost.sent,
            "at first": spread(curves[:, 0, 0]),
            f"at {BUDGET // 3:,}": spread(curves[:, third, 0]),
            f"at {BUDGET:,}": spread(curves[:, -1, 0]),
            "held out at first": spread(curves[:, 0, 1]),
            "held out": spread(curves[:, -1, 1]),
            "CPU s": f"{time.process_time() - began:.0f}",
        }
        print(row, flush=True)
        rows.append(row)
        drawn[name] = curves[:, :, 0], cost.evaluations
    return Comparison(rows, drawn)


def draw(axis: Any, name: str, curves: np.ndarray, each: int) -> None:
    """Medians and quartiles by the evaluations of a client."""
    low, middle, high = np.quantile(curves, (0.25, 0.5, 0.75), axis=0)
    evaluations = each * np.arange(curves.shape[1])
    axis.plot(evaluations, middle, label=name, color=COLOURS[name])
    axis.fill_between(evaluations, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        started = [pool.submit(compare_digits, metric, arguments.seeds) for metric in VALUES]
        started = [pool.submit(compare_quadratics, C, arguments.seeds) for C in HETEROGENEITIES] + started
        compared = [each.result() for each in started]
    figure, axes = plt.subplots(2, 3, figsize=(14, 7.5), layout="constrained")
    titles = [f"Quadratics, d = {D}, C = {C:g}, Adam" for C in HETEROGENEITIES]
    titles += [f"Digits, 1 - {metric} of the clients" for metric in VALUES]
    for axis, title, comparison in zip(axes.flat, titles, compared, strict=False):
        for name, (curves, each) in comparison.curves.items():
            draw(axis, name, curves, each)
        axis.set(title=title, xlabel="evaluations of each client", xlim=(0, BUDGET))
        if title.startswith("Quadratics"):
            axis.set(yscale="log", ylabel="gap of the mean")
    axes[1, 2].set_axis_off()
    named = {}
    for axis in axes.flat:
        named |= {line.get_label(): line for line in axis.get_lines()}
    axes[1, 2].legend(named.values(), named.keys(), frameon=False, loc="center", fontsize=11)
    figure.savefig(RESULTS / "zo_federated.png", dpi=110)
    quadratic_rows = [row for comparison in compared[:3] for row in comparison.rows]
    digit_rows = [row for comparison in compared[3:] for row in comparison.rows]
    packages = ("blackbox-engine", "numpy", "jax", "scikit-learn")
    note = f"""
{(__doc__ or "").strip().split(chr(10) * 2, 2)[-1]}

Seeds {", ".join(map(str, arguments.seeds))}: medians with quartiles. Settings are tuned for each method, kind of step
and task on seed {TUNING[0]}: on quadratics lr over {ADAM} with Adam, begun anew each round, and {PLAIN} for plain
steps along the gradient, by the mean logarithm of the gap over the run; on digits lr over
{sorted({lr for lr, _ in GRID})} and the radius of queries over {sorted({radius for _, radius in GRID})}, by the mean
error over the run, with Adam; mu is such that differences are as long as to points of a cube of that half side.
"Uncertainty" is FZooS with that correction. Evaluations are of each client. "Sent" are numbers from a client to the
server in a round; as many come back. Gaps of 0.35 and 0.035 are a tenth and a hundredth of the first one; "–": not
within {BUDGET:,} evaluations. CPU s: of tuning and all runs, with compilation. float32.

![Gap and error over evaluations](zo_federated.png)

## Digits

{markdown(list(digit_rows[0]), digit_rows)}

## Quadratics
"""
    write(
        "zo_federated", "Federated zeroth-order optimization", list(quadratic_rows[0]), quadratic_rows, packages, note
    )


if __name__ == "__main__":
    main()
