"""The hyperparameter suite: deterministic, honest about its test data, and strict about its points."""

from __future__ import annotations

import math
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest

from blackbox.errors import SettingError, SpaceError
from blackbox.problems import hpo

pytest.importorskip("sklearn")

CHEAP: dict[str, dict[str, Any]] = {
    "svc_breast_cancer": {"C": 1.0, "shrinking": True, "kernel": "rbf", "gamma": 0.01},
    "svc_digits": {"C": 1.0, "shrinking": False, "kernel": "linear"},
    "random_forest_digits": {
        "n_estimators": 10,
        "max_depth": 8,
        "min_samples_split": 2,
        "max_features": 0.2,
        "sampling": "bootstrap",
        "max_samples": 0.5,
    },
    "random_forest_diabetes": {
        "n_estimators": 10,
        "max_depth": 4,
        "min_samples_split": 10,
        "max_features": 0.5,
        "sampling": "all",
    },
    "gradient_boosting_wine": {
        "learning_rate": 0.1,
        "n_estimators": 10,
        "max_depth": 2,
        "subsample": 0.7,
        "min_samples_leaf": 2,
        "max_features": None,
    },
    "gradient_boosting_diabetes": {
        "learning_rate": 0.1,
        "n_estimators": 20,
        "max_depth": 2,
        "subsample": 0.7,
        "min_samples_leaf": 5,
        "max_features": "sqrt",
        "loss": "huber",
        "alpha": 0.9,
    },
    "mlp_wine": {
        "width": 8,
        "layers": 2,
        "activation": "tanh",
        "alpha": 1e-3,
        "solver": "sgd",
        "learning_rate_init": 0.05,
        "batch_size": 16,
        "momentum": 0.9,
    },
    "mlp_digits": {"width": 8, "layers": 1, "activation": "relu", "alpha": 1e-3, "solver": "lbfgs"},
}

LEARNS_NOTHING = {"error": 0.37, "log_loss": math.log(3.0), "mse": 5900.0}
"""An upper bound over the data sets: constant predictions do no better than this."""


def test_the_eight_tasks_are_there_under_their_names() -> None:
    assert hpo.tasks() == tuple(CHEAP)
    assert [hpo.task(name).name for name in hpo.tasks()] == list(hpo.tasks())
    with pytest.raises(SettingError, match=r"name must be one of .*mlp_wine.*; got 'svm'"):
        hpo.task("svm")


@pytest.mark.parametrize("name", CHEAP)
def test_sensible_points_learn_and_losses_repeat(name: str) -> None:
    task = hpo.task(name)
    assert task.space.contains(CHEAP[name])
    loss = task(CHEAP[name], seed=3)
    assert type(loss) is float
    assert 0.0 < loss < 0.9 * LEARNS_NOTHING[task.loss]
    assert task(CHEAP[name], seed=3) == loss
    test_score = task.test_score(CHEAP[name])
    assert 0.0 <= test_score < 0.9 * LEARNS_NOTHING[task.loss]
    assert test_score == task.test_score(CHEAP[name])


def test_seed_is_the_learners() -> None:
    forest = CHEAP["random_forest_diabetes"] | {"max_features": 0.1}
    assert hpo.task("random_forest_diabetes")(forest, seed=0) != hpo.task("random_forest_diabetes")(forest, seed=1)
    svc = CHEAP["svc_breast_cancer"]  # has no randomness of its own, so a changed fold would show
    assert hpo.task("svc_breast_cancer")(svc, seed=0) == hpo.task("svc_breast_cancer")(svc, seed=1)


@pytest.mark.parametrize("name", CHEAP)
def test_test_data_take_no_part_in_the_search(name: str) -> None:
    task = hpo.task(name)
    data = hpo._load(task.data, task.folds)
    searched = {row.tobytes() for row in data.x}
    held_out = {row.tobytes() for row in data.x_test}
    assert len(held_out) > 0.24 * (len(data.x) + len(data.x_test))
    assert not searched & held_out
    validated = np.concatenate([validate for _, validate in data.splits])
    assert sorted(validated.tolist()) == list(range(len(data.x)))
    assert all(not set(train.tolist()) & set(validate.tolist()) for train, validate in data.splits)
    if task.loss != "mse":  # every class in every fold
        assert all(set(data.y[validate]) == set(data.y) == set(data.y_test) for _, validate in data.splits)


def test_every_branch_of_every_space_runs() -> None:
    """Each option of each conditional choice reaches its learner under names that it knows."""
    for name in ("svc_breast_cancer", "random_forest_diabetes", "gradient_boosting_diabetes", "mlp_wine"):
        task = hpo.task(name)
        cheap = {"n_estimators": 5, "width": 4, "layers": 1, "batch_size": 64}
        rng = np.random.default_rng(0)
        seen: set[object] = set()
        conditional = next(key for key in ("kernel", "sampling", "loss", "solver") if key in task.space.names)
        while len(seen) < len(task.space.dimensions[conditional].options):  # type: ignore[attr-defined]
            x = task.space.decode(rng.random(task.space.dimension))
            if x[conditional] not in seen:
                seen.add(x[conditional])
                assert math.isfinite(task(x | {key: value for key, value in cheap.items() if key in x}))


def test_a_point_outside_the_space_is_refused_by_name() -> None:
    task = hpo.task("svc_digits")
    with pytest.raises(SpaceError, match="svc_digits: C must be"):
        task(CHEAP["svc_digits"] | {"C": -1.0})
    with pytest.raises(SpaceError, match="gamma"):
        task.test_score(CHEAP["svc_digits"] | {"gamma": 0.1})


def test_a_point_is_left_as_it_was() -> None:
    x = dict(CHEAP["mlp_wine"])
    hpo.task("mlp_wine")(x)
    assert x == CHEAP["mlp_wine"]


def test_tasks_travel_to_workers_by_name() -> None:
    for name in hpo.tasks():
        packed = bytes(ForkingPickler.dumps(hpo.task(name)))
        assert ForkingPickler.loads(packed) is hpo.task(name)
        assert len(packed) < 200
