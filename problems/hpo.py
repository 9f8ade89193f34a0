"""Hyperparameter search on scikit-learn's own data sets: real learners, real cross-validation, no download.

``task(name)`` is a function of a point of its ``space``: the mean loss over fixed cross-validation folds, lower is
better. A quarter of each data set takes no part in the search: ``test_score`` trains on all the rest and scores
there, which says whether a low cross-validated loss was skill or luck.

==========================  ===================  ========================  ===========================================
task                        loss                 variables                 conditional on
==========================  ===================  ========================  ===========================================
svc_breast_cancer           error rate           C, shrinking, kernel      kernel: gamma, degree, coef0
svc_digits                  error rate           C, shrinking, kernel      kernel: gamma, degree, coef0
random_forest_digits        log loss             4, sampling               sampling "bootstrap": max_samples
random_forest_diabetes      mean squared error   4, sampling               sampling "bootstrap": max_samples
gradient_boosting_wine      log loss             6                         nothing
gradient_boosting_diabetes  mean squared error   6, loss                   loss "huber": alpha
mlp_wine                    log loss             4, solver                 solver: learning rate, batch size, momentum
mlp_digits                  log loss             4, solver                 solver: learning rate, batch size, momentum
==========================  ===================  ========================  ===========================================

An evaluation takes 0.02 to 2 s on one core. The error rates move in steps of one sample; the other losses are
smooth in the real variables only as far as the learner is.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from blackbox.dimensions import Dimension
from blackbox.errors import SettingError, SpaceError, missing_extra
from blackbox.space import Bool, Choice, Float, Int, Space

if TYPE_CHECKING:
    from jaxtyping import Float as FloatArray
    from jaxtyping import Int as IntArray

Point = Mapping[str, Any]


@dataclass(frozen=True)
class HPOTask:
    """One learner on one data set.

    Attributes:
        name: as in the table above.
        data: the data set, ``sklearn.datasets.load_<data>``.
        loss: "error" (fraction of wrong predictions), "log_loss" (mean negative log likelihood of the true class,
            natural logarithm) or "mse" (mean squared error in squared units of the target).
        folds: of the cross-validation, stratified for classes, shuffled once, the same in every call.
        space: what a point may be.
        learner: from a point and a seed to an unfitted scikit-learn estimator.
    """

    name: str
    data: Literal["breast_cancer", "diabetes", "digits", "wine"]
    loss: Literal["error", "log_loss", "mse"]
    folds: int
    space: Space
    learner: Callable[[dict[str, Any], int], Any]

    def __call__(self, x: Point, seed: int = 0) -> float:
        """Mean loss over the folds of the search data.

        Args:
            x: a point of ``space``.
            seed: of the learner's own random numbers, 0 <= seed < 2**32; the folds do not depend on it.

        Raises:
            SpaceError: ``x`` is not a point of the space.
        """
        data = _load(self.data, self.folds)
        losses = [
            self._fit_and_score(x, seed, data.x[train], data.y[train], data.x[validate], data.y[validate])
            for train, validate in data.splits
        ]
        return float(np.mean(losses))

    def test_score(self, x: Point, seed: int = 0) -> float:
        """The same loss on the test data, after training on all of the search data."""
        data = _load(self.data, self.folds)
        return self._fit_and_score(x, seed, data.x, data.y, data.x_test, data.y_test)

    def _fit_and_score(self, x: Point, seed: int, inputs: Any, targets: Any, new: Any, truth: Any) -> float:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.metrics import log_loss
        from threadpoolctl import threadpool_limits

        if problem := self.space.explain(x):
            raise SpaceError(f"{self.name}: {problem}")
        with warnings.catch_warnings(), threadpool_limits(1):  # one core: workers run side by side
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = self.learner(dict(x), seed).fit(inputs, targets)
            if self.loss == "log_loss":
                return float(log_loss(truth, model.predict_proba(new), labels=model.classes_))
            predicted = model.predict(new)
        return float(np.mean(predicted != truth if self.loss == "error" else (predicted - truth) ** 2))

    def __reduce__(self) -> tuple[Callable[[str], HPOTask], tuple[str]]:
        return task, (self.name,)


class _Data(NamedTuple):
    """Search data, its folds, and the test data that the search never sees."""

    x: FloatArray[np.ndarray, "n features"]
    y: FloatArray[np.ndarray, "n"] | IntArray[np.ndarray, "n"]
    splits: tuple[tuple[IntArray[np.ndarray, "train"], IntArray[np.ndarray, "validate"]], ...]
    x_test: FloatArray[np.ndarray, "m features"]
    y_test: FloatArray[np.ndarray, "m"] | IntArray[np.ndarray, "m"]


@functools.cache
def _load(name: str, folds: int) -> _Data:
    try:
        from sklearn import datasets
        from sklearn.model_selection import KFold, StratifiedKFold, train_test_split
    except ImportError as error:
        raise missing_extra("scikit-learn", "hpo") from error
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    has_classes = name != "diabetes"
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y if has_classes else None)
    splitter = (StratifiedKFold if has_classes else KFold)(folds, shuffle=True, random_state=0)
    return _Data(x, y, tuple(splitter.split(x, y)), x_test, y_test)


def _svc(x: dict[str, Any], seed: int) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    # The cap on iterations binds only where a huge C meets a poor kernel, which would take minutes.
    return make_pipeline(StandardScaler(), SVC(**x, max_iter=20_000, random_state=seed))


def _random_forest_classifier(x: dict[str, Any], seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    bootstrap = x.pop("sampling") == "bootstrap"
    return RandomForestClassifier(**x, bootstrap=bootstrap, random_state=seed)


def _random_forest_regressor(x: dict[str, Any], seed: int) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    bootstrap = x.pop("sampling") == "bootstrap"
    return RandomForestRegressor(**x, bootstrap=bootstrap, random_state=seed)


def _gradient_boosting_classifier(x: dict[str, Any], seed: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(**x, random_state=seed)


def _gradient_boosting_regressor(x: dict[str, Any], seed: int) -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(**x, random_state=seed)


def _mlp(x: dict[str, Any], seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    hidden = (x.pop("width"),) * x.pop("layers")
    network = MLPClassifier(hidden, **x, max_iter=20, random_state=seed)
    return make_pipeline(StandardScaler(), network)


def _svc_space() -> Space:
    gamma = Float(1e-5, 10.0, log=True)
    coef0 = Float(0.0, 1.0)
    return Space(
        {
            "C": Float(1e-3, 1e3, log=True),
            "shrinking": Bool(),
            "kernel": Choice(
                {
                    "linear": None,
                    "rbf": Space({"gamma": gamma}),
                    "poly": Space({"gamma": gamma, "degree": Int(2, 5), "coef0": coef0}),
                    "sigmoid": Space({"gamma": gamma, "coef0": coef0}),
                }
            ),
        }
    )


def _random_forest_space(trees: int) -> Space:
    return Space(
        {
            "n_estimators": Int(4, trees, log=True),
            "max_depth": Int(1, 14),
            "min_samples_split": Int(2, 30, log=True),
            "max_features": Float(0.05, 1.0),
            "sampling": Choice({"bootstrap": Space({"max_samples": Float(0.2, 1.0)}), "all": None}),
        }
    )


def _gradient_boosting_space(trees: int, **more: Choice) -> Space:
    return Space(
        {
            "learning_rate": Float(1e-3, 1.0, log=True),
            "n_estimators": Int(5, trees, log=True),
            "max_depth": Int(1, 6),
            "subsample": Float(0.3, 1.0),
            "min_samples_leaf": Int(1, 20, log=True),
            "max_features": Choice(["sqrt", "log2", None]),
            **more,
        }
    )


def _mlp_space(batch: int) -> Space:
    stochastic: dict[str, Dimension] = {
        "learning_rate_init": Float(1e-4, 1e-1, log=True),
        "batch_size": Int(batch // 8, batch, log=True),
    }
    return Space(
        {
            "width": Int(4, 64, log=True),
            "layers": Int(1, 2),
            "activation": Choice(["relu", "tanh", "logistic"]),
            "alpha": Float(1e-6, 10.0, log=True),
            "solver": Choice(
                {
                    "adam": Space(stochastic),
                    "sgd": Space({**stochastic, "momentum": Float(0.0, 0.99)}),
                    "lbfgs": None,
                }
            ),
        }
    )


def _all() -> Iterator[HPOTask]:
    yield HPOTask("svc_breast_cancer", "breast_cancer", "error", 5, _svc_space(), _svc)
    yield HPOTask("svc_digits", "digits", "error", 5, _svc_space(), _svc)
    yield HPOTask("random_forest_digits", "digits", "log_loss", 3, _random_forest_space(60), _random_forest_classifier)
    yield HPOTask("random_forest_diabetes", "diabetes", "mse", 5, _random_forest_space(60), _random_forest_regressor)
    yield HPOTask(
        "gradient_boosting_wine", "wine", "log_loss", 5, _gradient_boosting_space(60), _gradient_boosting_classifier
    )
    loss = Choice({"squared_error": None, "absolute_error": None, "huber": Space({"alpha": Float(0.5, 0.99)})})
    yield HPOTask(
        "gradient_boosting_diabetes",
        "diabetes",
        "mse",
        5,
        _gradient_boosting_space(60, loss=loss),
        _gradient_boosting_regressor,
    )
    yield HPOTask("mlp_wine", "wine", "log_loss", 5, _mlp_space(64), _mlp)
    yield HPOTask("mlp_digits", "digits", "log_loss", 3, _mlp_space(256), _mlp)


_TASKS = {each.name: each for each in _all()}


def tasks() -> tuple[str, ...]:
    """The names of all tasks."""
    return tuple(_TASKS)


def task(name: str) -> HPOTask:
    """The task of that name. Raises SettingError for an unknown one."""
    if name not in _TASKS:
        raise SettingError(f"name must be one of {', '.join(_TASKS)}; got {name!r}")
    return _TASKS[name]
