"""The search for scikit-learn: its own checks, and what a search of ours adds."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from every_kind import every_kind

import blackbox as bb

pytest.importorskip("sklearn")

from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_iris, make_classification
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, ParameterSampler, ShuffleSplit, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from blackbox.integrations.distributions import Parameters, to_distributions
from blackbox.integrations.sklearn import BlackboxSearchCV

X, Y = load_iris(return_X_y=True)
EXPECTED = ["check_supervised_y_2d", "check_requires_y_none"]  # as scikit-learn lists for RandomizedSearchCV
FLAT = LogisticRegression(max_iter=1000)
C = {"C": bb.Float(1e-3, 1e2, log=True)}


@pytest.fixture(scope="module", autouse=True)
def no_processes_left() -> Iterator[None]:
    """Joblib keeps the processes of n_jobs > 1 for the next call; other modules count the children of this process."""
    from joblib.externals.loky import get_reusable_executor

    yield
    get_reusable_executor(reuse=True).shutdown(wait=True)
    assert not [child for child in multiprocessing.active_children() if "Loky" in type(child).__name__]


class Picky(ClassifierMixin, BaseEstimator):
    """Predicts one class, and refuses to be fitted with some parameters."""

    def __init__(self, c: float = 0.5, limit: float = 0.5) -> None:
        self.c = c
        self.limit = limit

    def fit(self, X: Any, y: Any) -> Picky:
        if self.c > self.limit:
            raise RuntimeError("too large")
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.classes_[0])

    def score(self, X: Any, y: Any) -> float:
        return self.c


@parametrize_with_checks(
    [
        BlackboxSearchCV(FLAT, C, n_iter=3, cv=2, random_state=0, error_score="raise"),
        BlackboxSearchCV(Ridge(), {"alpha": [0.1, 1.0, 10.0]}, n_iter=3, cv=2, random_state=0, error_score="raise"),
    ],
    expected_failed_checks=lambda estimator: dict.fromkeys(EXPECTED, "scikit-learn's own searches fail it, too"),
)
def test_passes_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks' data are meant to be hard
        check(estimator)


def test_finds_what_random_search_finds_and_refits() -> None:
    search = BlackboxSearchCV(
        SVC(), {"C": stats.loguniform(1e-3, 1e3), "gamma": bb.Float(1e-5, 10, log=True)}, n_iter=40
    )
    search.set_params(random_state=0, cv=3).fit(X, Y)
    assert search.best_score_ >= 0.97
    assert search.score(X, Y) > 0.95
    assert search.predict(X[:3]).shape == (3,)
    assert len(search.cv_results_["params"]) == 40
    assert search.optimizer_.best.value == search.best_score_


def test_is_a_function_of_the_random_state_and_survives_cloning() -> None:
    search = BlackboxSearchCV(FLAT, C, n_iter=6, random_state=3, cv=2)
    first, second = clone(search).fit(X, Y), search.fit(X, Y)
    assert first.cv_results_["params"] == second.cv_results_["params"]
    other = clone(search).set_params(random_state=4, estimator__max_iter=2000).fit(X, Y)
    assert other.cv_results_["params"] != first.cv_results_["params"]
    assert other.best_estimator_.max_iter == 2000


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_jobs_and_batches(batch_size: int | None) -> None:
    search = BlackboxSearchCV(
        LogisticRegression(max_iter=1000), C, n_iter=7, batch_size=batch_size, cv=2, random_state=0
    )
    results = search.fit(X, Y).cv_results_
    parallel = clone(search).set_params(n_jobs=2).fit(X, Y).cv_results_
    assert results["params"] == parallel["params"]
    assert (results["mean_test_score"] == parallel["mean_test_score"]).all()


def test_works_in_pipelines_and_in_cross_validation() -> None:
    pipeline = Pipeline([("scale", StandardScaler()), ("svc", SVC())])
    search = BlackboxSearchCV(pipeline, {"svc__C": bb.Float(0.1, 10.0, log=True)}, n_iter=4, cv=2, random_state=0)
    assert search.fit(X, Y).best_params_.keys() == {"svc__C"}
    outer = Pipeline([("scale", StandardScaler()), ("search", clone(search))])
    assert cross_val_score(outer, X, Y, cv=2).mean() > 0.8


def test_conditional_parameters_are_set_only_where_they_are_active() -> None:
    space = bb.Space({"kernel": bb.Choice({"rbf": bb.Space({"gamma": bb.Float(1e-3, 1.0)}), "linear": None})})
    search = BlackboxSearchCV(SVC(), space, n_iter=12, cv=2, random_state=0).fit(X, Y)
    for params in search.cv_results_["params"]:
        assert ("gamma" in params) == (params["kernel"] == "rbf")
    assert search.cv_results_["param_gamma"].mask.any()


def test_a_list_of_dictionaries_is_a_choice_of_them() -> None:
    grids = [{"kernel": ["linear"], "C": stats.loguniform(0.1, 10)}, {"kernel": ["rbf"], "gamma": [0.01, 0.1, 1.0]}]
    search = BlackboxSearchCV(SVC(), grids, n_iter=12, cv=2, random_state=0).fit(X, Y)
    for params in search.cv_results_["params"]:
        assert params.keys() == ({"kernel", "C"} if params["kernel"] == "linear" else {"kernel", "gamma"})


def test_several_metrics_refit_names_the_one_that_is_optimized() -> None:
    scoring = {"accuracy": "accuracy", "loss": "neg_log_loss"}
    search = BlackboxSearchCV(
        LogisticRegression(max_iter=1000), C, n_iter=5, cv=2, scoring=scoring, refit="loss", random_state=0
    )
    search.fit(X, Y)
    assert search.optimizer_.best.value == search.best_score_ == search.cv_results_["mean_test_loss"].max()
    assert "mean_test_accuracy" in search.cv_results_
    with pytest.raises(bb.SettingError, match="refit"):
        search.set_params(refit=False).fit(X, Y)


def test_a_callable_scoring_may_return_several_metrics() -> None:
    def scores(estimator: Any, X: Any, y: Any) -> dict[str, float]:
        return {"a": estimator.score(X, y), "b": -estimator.C}

    search = BlackboxSearchCV(
        LogisticRegression(max_iter=1000), C, n_iter=5, cv=2, scoring=scores, refit="b", random_state=0
    )
    assert search.fit(X, Y).best_params_["C"] == min(p["C"] for p in search.cv_results_["params"])
    with pytest.raises(bb.SettingError, match="refit"):
        search.set_params(refit=False).fit(X, Y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning", "ignore:One or more of:UserWarning")
@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_candidates_whose_fits_fail_rank_last_and_stay_in_the_table(batch_size: int | None) -> None:
    space = {"c": bb.Float(0.0, 1.0)}
    search = BlackboxSearchCV(Picky(), space, n_iter=20, batch_size=batch_size, cv=2, random_state=0).fit(X, Y)
    c = np.array([p["c"] for p in search.cv_results_["params"]])
    assert len(c) == 20 and (c > 0.5).any()
    assert (np.isnan(search.cv_results_["mean_test_score"]) == (c > 0.5)).all()
    assert (search.cv_results_["param_c"] == c).all()
    assert search.optimizer_.failures == (c > 0.5).sum()
    assert search.best_params_["c"] == c[c <= 0.5].max()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.parametrize("batch_size", [1, None])
def test_an_estimator_that_always_fails_is_an_error_soon(batch_size: int | None) -> None:
    search = BlackboxSearchCV(Picky(limit=-1.0), {"c": bb.Float(0.0, 1.0)}, n_iter=1000, batch_size=batch_size, cv=2)
    with pytest.raises(ValueError, match="fits failed"):
        search.fit(X, Y)
    assert search.optimizer_.evaluations < 20


def test_errors_are_raised_on_demand() -> None:
    search = BlackboxSearchCV(Picky(limit=-1.0), {"c": bb.Float(0.0, 1.0)}, n_iter=4, error_score="raise")
    with pytest.raises(RuntimeError, match="too large"):
        search.fit(X, Y)


@pytest.mark.parametrize("cv", [KFold(3, shuffle=True), ShuffleSplit(2, random_state=np.random.RandomState(0))])
def test_all_candidates_are_scored_on_the_same_splits(cv: Any) -> None:
    seen = set()

    def score(estimator: Any, X: Any, y: Any) -> float:
        seen.add(X.tobytes())
        return float(len(y))

    BlackboxSearchCV(FLAT, C, n_iter=6, batch_size=2, cv=cv, scoring=score).fit(X, Y)
    assert len(seen) == cv.get_n_splits()


def test_callbacks_of_scikit_learn_see_the_tasks() -> None:
    callback = pytest.importorskip("sklearn.callback")
    X, y = make_classification(40, random_state=0)
    search = BlackboxSearchCV(FLAT, C, n_iter=4, batch_size=2, cv=2, random_state=0)
    search.set_callbacks(callback.ProgressBar())
    search.fit(X, y)
    assert len(search.cv_results_["params"]) == 4


@pytest.mark.parametrize(
    ("space", "values"),
    [
        (stats.uniform(-1, 3), lambda v: -1 <= v <= 2),
        (stats.loguniform(1e-4, 1), lambda v: 1e-4 <= v <= 1),
        (stats.randint(2, 7), lambda v: v in range(2, 7)),
        (stats.norm(5, 1), lambda v: -5 < v < 15),
        (stats.Normal(mu=5, sigma=1), lambda v: -5 < v < 15),
        (stats.poisson(3), lambda v: v >= 0 and v == int(v)),
        ([1, 10, 100], lambda v: v in (1, 10, 100)),
        ([5], lambda v: v == 5),
        (np.linspace(0, 1, 5), lambda v: v in np.linspace(0, 1, 5)),
        (["a", None, 2.5], lambda v: v in ("a", None, 2.5)),
        ([(1, 2), (3,)], lambda v: v in ((1, 2), (3,))),
        (bb.Bool(), lambda v: v in (True, False)),
    ],
    ids=lambda value: getattr(getattr(value, "dist", None), "name", None) or type(value).__name__,
)
def test_distributions_and_lists(space: Any, values: Any) -> None:
    parameters = Parameters({"p": space})
    rows = np.random.default_rng(0).random((200, parameters.space.dimension))
    found = [parameters.of(point)["p"] for point in parameters.space.decode_many(rows)]
    assert all(values(value) for value in found)
    assert not any(isinstance(value, np.generic) for value in found)


def test_quantiles_follow_the_distribution() -> None:
    parameters = Parameters({"p": stats.norm(5, 2)})
    points = parameters.space.decode_many(np.linspace(0, 1, 2001)[:, None])
    found = [parameters.of(point)["p"] for point in points]
    assert np.mean(found) == pytest.approx(5, abs=0.01) and np.std(found) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("space", [{}, [], {"C": "abc"}, {"C": 3}, {"C": []}, [{}], {"C": stats.norm}])
def test_malformed_spaces_are_refused(space: Any) -> None:
    with pytest.raises(bb.SpaceError, match="space"):
        BlackboxSearchCV(FLAT, space, n_iter=2, cv=2).fit(X, Y)


@pytest.mark.parametrize("setting", [{"n_iter": 0}, {"batch_size": 0}, {"method": 3}, {"settings": 1}, {"space": "a"}])
def test_malformed_arguments_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        BlackboxSearchCV(FLAT, C, n_iter=2, cv=2).set_params(**setting).fit(X, Y)


def test_a_space_as_distributions() -> None:
    space = every_kind(1, "a", None)
    distributions = to_distributions(space)
    assert [(d["k"], d.get("s")) for d in distributions] == [(["rbf"], ["u"]), (["rbf"], ["w"]), (["linear"], None)]
    points = list(ParameterSampler(distributions, 900, random_state=0))
    assert all(space.explain(point) is None for point in points)
    # On a log scale half of the values are below the middle of the range's logarithms.
    assert np.mean([point["m"] <= 6 for point in points]) == pytest.approx(0.53, abs=0.06)
    assert np.mean([point["l"] < 10**-2.5 for point in points]) == pytest.approx(0.5, abs=0.06)
    assert Parameters(to_distributions(C)[0]).space == bb.Space(C)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"p": bb.Permutation(3)}, "Float, Int, Bool or Choice"),
        ({"n": bb.Int(1, 10**6, log=True)}, "at most 100000 values"),
        ({f"k{i}": bb.Choice({"a": bb.Space({f"x{i}": bb.Bool()}), "b": None}) for i in range(10)}, "at most 1000"),
        (bb.Box(0, 1, 2), "names"),
    ],
)
def test_what_distributions_cannot_express_is_refused(space: Any, message: str) -> None:
    with pytest.raises(bb.SpaceError, match=message):
        to_distributions(space)
