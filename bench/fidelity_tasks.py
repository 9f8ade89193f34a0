"""Hyperparameter searches whose evaluations may be stopped early: learning curves of scikit-learn's estimators.

A budget of 81 is the whole training: 81 epochs of a network, 81 trees of a boosting, 891 samples for support vectors.
Every rung of a curve is computed once: a line of ``results/fidelity-curves.jsonl``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hpo_tasks import BOOSTING, NETWORK, SVC, Point, boosting, entries

from blackbox import Space

CURVES = Path(__import__("os").environ.get("CURVES", Path(__file__).parent / "results" / "fidelity-curves.jsonl"))
RUNGS = (1, 3, 9, 27, 81)
MOST = RUNGS[-1]
WORST = 10.0  # what counts at most, and for what an estimator refuses
RANDOM = 60  # random points whose median at full budget is the scale of a task

Curve = Callable[[dict[str, Any], int], dict[int, float]]
"""From a point and a budget to the values at that budget and, where training passes them, at smaller ones."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A search: lower is better."""

    name: str
    space: Space
    curve: Curve

    def evaluate(self, point: Point, budget: int) -> float:
        """The value of a point at a budget among RUNGS."""
        return curves().of(self.name, point, budget, self.curve)

    @property
    def median(self) -> float:
        """Of random points at full budget."""
        return _median(self.name)


class Curves:
    """Values of points at budgets, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, float] = dict(entries(path))

    def of(self, task: str, point: Point, budget: int, curve: Curve) -> float:
        key = f"{task} {json.dumps(dict(point), sort_keys=True)} "
        if key + str(budget) not in self._values:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    found = curve(dict(point), budget)
                except ValueError:
                    found = {budget: WORST}
            with self._path.open("a", encoding="utf-8") as file:
                for rung, value in found.items():
                    value = min(value, WORST) if math.isfinite(value) else WORST
                    if key + str(rung) not in self._values:
                        self._values[key + str(rung)] = value
                        file.write(json.dumps([key + str(rung), value]) + "\n")
        return self._values[key + str(budget)]


@cache
def curves() -> Curves:
    return Curves(CURVES)


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


def network(name: str) -> Curve:
    """Log loss by epochs."""

    def curve(point: dict[str, Any], budget: int) -> dict[int, float]:
        from sklearn.metrics import log_loss
        from sklearn.neural_network import MLPClassifier

        x, y, x_test, y_test = data(name)
        layers = (point.pop("hidden"),) * point.pop("layers")
        model, classes, found = MLPClassifier(layers, random_state=0, **point), np.unique(y), dict[int, float]()
        for epoch in range(1, budget + 1):
            model.partial_fit(x, y, **({"classes": classes} if epoch == 1 else {}))
            if epoch in RUNGS:
                found[epoch] = float(log_loss(y_test, model.predict_proba(x_test)))
        return found

    return curve


def trees(name: str) -> Curve:
    """Log loss by trees."""

    def curve(point: dict[str, Any], budget: int) -> dict[int, float]:
        from sklearn.metrics import log_loss

        x, y, x_test, y_test = data(name)
        model = boosting({**point, "n_estimators": budget}).fit(x, y)
        stages = enumerate(model.staged_predict_proba(x_test), 1)
        return {number: float(log_loss(y_test, p)) for number, p in stages if number in RUNGS}

    return curve


def samples(name: str) -> Curve:
    """Share of errors by samples."""

    def curve(point: dict[str, Any], budget: int) -> dict[int, float]:
        from sklearn.svm import SVC as Machine

        x, y, x_test, y_test = data(name)
        count = len(y) * budget // MOST
        return {budget: 1 - float(Machine(max_iter=2000, **point).fit(x[:count], y[:count]).score(x_test, y_test))}

    return curve


_NO_TREES = Space({key: value for key, value in BOOSTING.dimensions.items() if key != "n_estimators"})
TASKS = {
    name: Task(name, space, curve)
    for name, space, curve in (
        ("network:wine", NETWORK, network("wine")),
        ("network:breast_cancer", NETWORK, network("breast_cancer")),
        ("network:digits", NETWORK, network("digits")),
        ("boosting:breast_cancer", _NO_TREES, trees("breast_cancer")),
        ("svc:digits", SVC, samples("digits")),
    )
}


@cache
def _median(name: str) -> float:
    task = TASKS[name]
    points = task.space.decode_many(np.random.default_rng(0).random((RANDOM, task.space.dimension)))
    return float(np.median([task.evaluate(point, MOST) for point in points]))
