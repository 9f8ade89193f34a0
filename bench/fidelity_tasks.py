"""Tables of learning curves: every point of a grid of scikit-learn's hyperparameters, at all budgets of a ladder.

    python bench/fidelity_tasks.py [TASK ...]     makes what is missing: some minutes a task on an idle core

A budget of 81 is the whole training: 81 epochs of a network, 81 trees of a boosting, 81/81 of the samples for support
vectors. A point's curve is a line of ``results/fidelity-curves.jsonl``; its value is that on the half of the data that
was not learned from. Grids in order are integers, names are choices, as in ``hpo_tasks.py``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import dataclasses
import itertools
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hpo_tasks import add_entry, entries

from blackbox import Choice, Int, Space

CURVES = Path(__file__).parent / "results" / "fidelity-curves.jsonl"
RUNGS = (1, 3, 9, 27, 81)
MOST = RUNGS[-1]
WORST = 10.0  # what a value counts at most

Grid = Mapping[str, Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Task:
    """A search: lower is better."""

    name: str
    grid: Grid
    curve: Callable[[dict[str, Any]], list[float]]
    """Values of one point at all RUNGS."""

    @property
    def space(self) -> Space:
        grid = self.grid.items()
        return Space({k: Choice(list(v)) if isinstance(v[0], str) else Int(0, len(v) - 1) for k, v in grid})

    def value(self, point: Mapping[str, Any], budget: float) -> float:
        """The value of a point of the space at one of RUNGS."""
        grid = self.grid.items()
        indices = [values.index(point[k]) if isinstance(values[0], str) else point[k] for k, values in grid]
        return table(self.name)[tuple(indices)][RUNGS.index(round(budget))]

    @property
    def scale(self) -> tuple[float, float]:
        """The best and the median value at full budget."""
        full = [curve[-1] for curve in table(self.name).values()]
        return min(full), float(np.median(full))


@cache
def data(name: str) -> tuple[Any, Any, Any, Any]:
    """Halves of scikit-learn's data, scaled: inputs and targets to learn from, and those to judge by."""
    from sklearn import datasets
    from sklearn.preprocessing import StandardScaler

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(y))
    x, y, half = x[order], y[order], len(y) // 2
    x = StandardScaler().fit(x[:half]).transform(x)
    return x[:half], y[:half], x[half:], y[half:]


def network(name: str, point: dict[str, Any]) -> list[float]:
    """Log loss by epochs."""
    from sklearn.metrics import log_loss
    from sklearn.neural_network import MLPClassifier

    x, y, x_test, y_test = data(name)
    model, found = MLPClassifier((point.pop("hidden"),), random_state=0, **point), []
    classes = np.unique(y)
    for epoch in range(1, MOST + 1):
        model.partial_fit(x, y, **({"classes": classes} if epoch == 1 else {}))
        if epoch in RUNGS:
            found.append(float(log_loss(y_test, model.predict_proba(x_test))))
    return found


def trees(name: str, point: dict[str, Any]) -> list[float]:
    """Log loss by trees."""
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.metrics import log_loss

    x, y, x_test, y_test = data(name)
    model = GradientBoostingClassifier(n_estimators=MOST, random_state=0, **point).fit(x, y)
    stages = list(model.staged_predict_proba(x_test))
    return [float(log_loss(y_test, stages[rung - 1])) for rung in RUNGS]


def samples(name: str, point: dict[str, Any]) -> list[float]:
    """Share of errors by samples."""
    from sklearn.svm import SVC

    x, y, x_test, y_test = data(name)
    found = []
    for rung in RUNGS:
        count = len(y) * rung // MOST
        found.append(1 - float(SVC(max_iter=2000, **point).fit(x[:count], y[:count]).score(x_test, y_test)))
    return found


NETWORK: Grid = {
    "hidden": [4, 16, 64],
    "learning_rate_init": np.geomspace(1e-4, 0.3, 8).tolist(),
    "batch_size": [16, 32, 64],
    "activation": ["relu", "tanh", "logistic"],
    "alpha": [1e-5, 1e-1, 10.0],
}
BOOSTING: Grid = {
    "learning_rate": np.geomspace(1e-2, 1, 8).tolist(),
    "max_depth": [1, 2, 3, 5],
    "subsample": [0.3, 0.6, 1.0],
    "max_features": ["sqrt", "log2"],
    "min_samples_leaf": [1, 4, 16],
}
SVC: Grid = {
    "C": np.geomspace(1e-2, 1e3, 10).tolist(),
    "gamma": np.geomspace(1e-5, 1e1, 10).tolist(),
    "coef0": [0.0, 1.0],
    "kernel": ["rbf", "poly", "sigmoid"],
}
TASKS = {
    task.name: task
    for task in (
        Task("svc:digits", SVC, lambda point: samples("digits", point)),
        Task("boosting:breast_cancer", BOOSTING, lambda point: trees("breast_cancer", point)),
        Task("network:wine", NETWORK, lambda point: network("wine", point)),
        Task("boosting:wine", BOOSTING, lambda point: trees("wine", point)),
    )
}


@cache
def table(name: str) -> dict[tuple[int, ...], list[float]]:
    """The curves of all points by their places in the grid; those that are missing are made."""
    task = TASKS[name]
    known = {(of, *place): curve for of, place, curve in entries(CURVES)}
    known = {key[1:]: curve for key, curve in known.items() if key[0] == name}
    for place in itertools.product(*(range(len(values)) for values in task.grid.values())):
        if place not in known:
            point = {key: values[i] for i, (key, values) in zip(place, task.grid.items(), strict=True)}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                curve = [min(v, WORST) if math.isfinite(v) else WORST for v in task.curve(point)]
            known[place] = curve
            add_entry(CURVES, [name, place, curve])
    return known


if __name__ == "__main__":
    for chosen in sys.argv[1:] or TASKS:
        print(chosen, len(table(chosen)), TASKS[chosen].scale, flush=True)
