"""The sampler for Optuna: Optuna's own tests, and what it promises beyond them."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blackbox as bb

pytest.importorskip("optuna")

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)
from optuna.trial import create_trial

from blackbox.integrations.optuna import BlackboxSampler, to_distributions, to_space

optuna.logging.set_verbosity(optuna.logging.WARNING)
NESTED = bb.Space(
    {
        "c": bb.Float(1e-3, 1e3, log=True),
        "kernel": bb.Choice(
            {"rbf": bb.Space({"gamma": bb.Float(0, 1)}), "poly": bb.Space({"degree": bb.Int(2, 5)}), "linear": None}
        ),
        "flag": bb.Bool(),
    }
)


class OptunasOwnTests(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """Those of several objectives do not apply."""

    method = "auto"

    @pytest.fixture
    def sampler(self) -> Callable[[], Any]:
        return lambda: BlackboxSampler(self.method, seed=0)


class TestAuto(OptunasOwnTests):
    pass


class TestLSHADE(OptunasOwnTests):
    method = "l-shade"


class TestNelderMead(OptunasOwnTests):
    method = "nelder-mead"


def sphere(trial: Any) -> float:
    x = [trial.suggest_float(f"x{i}", -5, 5) for i in range(3)]
    return sum((value - 1) ** 2 for value in x)


def nested(trial: Any) -> float:
    value = abs(np.log10(trial.suggest_float("c", 1e-3, 1e3, log=True))) + trial.suggest_categorical(
        "flag", [False, True]
    )
    kernel = trial.suggest_categorical("kernel", ["rbf", "poly", "linear"])
    if kernel == "rbf":
        return value + (trial.suggest_float("gamma", 0, 1) - 0.3) ** 2
    return value + 0.5 + (trial.suggest_int("degree", 2, 5) if kernel == "poly" else 0)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("method", ["cma-es", "nelder-mead"])
def test_finds_the_optimum(method: str, direction: str) -> None:
    sign = 1 if direction == "minimize" else -1
    study = optuna.create_study(direction=direction, sampler=BlackboxSampler(method, seed=1))
    study.optimize(lambda t: sign * sphere(t), n_trials=250)
    assert sign * study.best_value < 1e-3


def test_a_given_space_is_searched_whole_from_the_first_trial_on() -> None:
    independent = Refusing()
    sampler = BlackboxSampler(seed=0, space=NESTED, independent_sampler=independent)
    study = optuna.create_study(sampler=sampler)
    study.optimize(nested, n_trials=120)
    assert study.best_value < 0.2 and study.best_params["kernel"] == "rbf"


class Refusing(optuna.samplers.RandomSampler):
    def sample_independent(self, *arguments: Any) -> Any:
        raise AssertionError("nothing should be left to sample")


def test_conditional_parameters_without_a_space() -> None:
    study = optuna.create_study(sampler=BlackboxSampler(seed=0))
    study.optimize(nested, n_trials=100)
    assert study.best_value < 0.5


@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize("method", ["cma-es", "l-shade", "nelder-mead", "cat-cma"])
@pytest.mark.parametrize("objective", [sphere, nested])
def test_a_new_sampler_goes_on_as_the_old_one_would(method: str, seed: int | None, objective: Any) -> None:
    """Also after generations have closed, and with trials that failed, were pruned, or ended late."""

    def flaky(trial: Any) -> float:
        value = objective(trial)
        if trial.number % 7 == 3:
            raise optuna.TrialPruned
        return float("nan") if trial.number % 11 == 5 else value

    space = NESTED if objective is nested else None
    study = optuna.create_study(sampler=BlackboxSampler(method, seed=seed, space=space))
    late: list[Any] = []
    for n in range(40):
        study.optimize(flaky, n_trials=3)
        trial = study.ask()
        objective(trial)
        late.append(trial)
        if n % 3 == 0:
            study.tell(late.pop(0), float(n))
        new = BlackboxSampler(method, seed=seed, space=space)
        trial = study.ask()
        value = objective(trial)
        distributions = new.infer_relative_search_space(study, study.trials[-1])
        proposed = new.sample_relative(study, study.trials[-1], distributions)
        assert proposed == trial.params
        study.tell(trial, value)


def test_running_trials_are_not_proposed_twice_and_may_end_in_any_order() -> None:
    study = optuna.create_study(sampler=BlackboxSampler("cma-es", seed=0))
    study.optimize(sphere, n_trials=1)
    running: list[Any] = []
    seen = set()
    rng = np.random.default_rng(0)
    for _ in range(200):
        while len(running) < 12:
            trial = study.ask()
            value = sphere(trial)
            assert tuple(trial.params.values()) not in seen
            seen.add(tuple(trial.params.values()))
            running.append((trial, value))
        trial, value = running.pop(int(rng.integers(len(running))))
        study.tell(trial, value)
    assert study.best_value < 0.05


def test_trials_that_never_end_block_nothing() -> None:
    study = optuna.create_study(sampler=BlackboxSampler("cma-es", seed=0))
    study.optimize(sphere, n_trials=1)
    for _ in range(10):
        sphere(study.ask())
    study.optimize(sphere, n_trials=200)
    assert study.best_value < 1e-2


def test_threads() -> None:
    study = optuna.create_study(sampler=BlackboxSampler("cma-es", seed=0))
    study.optimize(sphere, n_trials=200, n_jobs=4)
    points = [tuple(trial.params.values()) for trial in study.trials if "blackbox" in trial.system_attrs]
    assert len(set(points)) == len(points) >= 190
    assert study.best_value < 0.05


def work(path: str, seed: int | None, n: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(path))
    study = optuna.load_study(study_name="shared", storage=storage, sampler=BlackboxSampler("cma-es", seed=seed))
    study.optimize(sphere, n_trials=n)


@pytest.mark.parametrize("seed", [5, None])
def test_processes_on_one_storage_are_one_search(tmp_path: Path, seed: int | None) -> None:
    path = str(tmp_path / "journal")
    storage = JournalStorage(JournalFileBackend(path))
    study = optuna.create_study(study_name="shared", storage=storage, sampler=BlackboxSampler("cma-es", seed=seed))
    study.optimize(sphere, n_trials=1)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(3, mp_context=context) as pool:
        list(pool.map(work, [path] * 3, [seed] * 3, [60] * 3))
    trials = optuna.load_study(study_name="shared", storage=JournalStorage(JournalFileBackend(path))).trials
    kept = [tuple(trial.system_attrs["blackbox"]) for trial in trials[1:]]
    assert len({name for name, _, _ in kept}) == 1
    assert len(set(kept)) == len(kept) == 180
    assert max(generation for _, generation, _ in kept) >= 15
    assert min(trial.value for trial in trials) < 0.05


@pytest.mark.parametrize("through", ["set_constraint", "constraints_func"])
def test_infeasible_trials_rank_last_by_their_violation(through: str) -> None:
    """The sphere's best feasible point is on the boundary x0 + x1 + x2 = 0."""

    def objective(trial: Any) -> float:
        value = sphere(trial)
        violation = sum(trial.params.values())
        if through == "set_constraint":
            trial.set_constraint("sum", violation)
        trial.set_user_attr("violation", violation)
        return value

    function = None if through == "set_constraint" else lambda trial: (trial.user_attrs["violation"],)
    study = optuna.create_study(sampler=BlackboxSampler("cma-es", seed=0, constraints_func=function))
    study.optimize(objective, n_trials=300)
    feasible = [t.value for t in study.trials if t.user_attrs["violation"] <= 0]
    assert len(feasible) > 100
    assert min(feasible) == pytest.approx(3.0, abs=0.05)


def test_failed_and_pruned_trials_rank_last() -> None:
    def objective(trial: Any) -> float:
        value = sphere(trial)
        if trial.params["x0"] > 0:
            raise optuna.TrialPruned if trial.number % 2 else ValueError
        return value

    study = optuna.create_study(sampler=BlackboxSampler("cma-es", seed=0))
    study.optimize(objective, n_trials=300, catch=ValueError)
    assert study.best_value == pytest.approx(1.0, abs=0.02)


def test_hyperband_hides_trials_and_they_are_known_all_the_same() -> None:
    def objective(trial: Any) -> float:
        value = sphere(trial)
        for step in range(4):
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=4)
    study = optuna.create_study(study_name="a", sampler=BlackboxSampler("cma-es", seed=0), pruner=pruner)
    study.optimize(objective, n_trials=200)
    assert study.best_value < 0.05


def test_enqueued_and_added_trials_are_told_as_they_were() -> None:
    study = optuna.create_study(sampler=BlackboxSampler("cma-es", seed=0))
    study.optimize(sphere, n_trials=2)
    study.enqueue_trial({"x0": 1.0, "x1": 1.0, "x2": 1.0})
    distributions = {f"x{i}": FloatDistribution(-5, 5) for i in range(3)}
    study.add_trial(create_trial(params={"x0": 1.1, "x1": 1.0, "x2": 1.0}, distributions=distributions, value=0.01))
    study.optimize(sphere, n_trials=40)
    assert study.best_value == 0.0
    assert np.median([t.value for t in study.trials[-10:]]) < 5


def test_one_sampler_for_several_studies() -> None:
    sampler = BlackboxSampler("cma-es", seed=0)
    found = []
    for storage in (InMemoryStorage(), InMemoryStorage()):
        study = optuna.create_study(study_name="same", storage=storage, sampler=sampler)
        study.enqueue_trial({"x0": 0.0, "x1": 0.0, "x2": 0.0})
        study.optimize(sphere, n_trials=30)
        found.append([trial.params for trial in study.trials])
    assert found[0] == found[1]


def test_samplers_can_be_pickled_and_go_on() -> None:
    study = optuna.create_study(sampler=BlackboxSampler("cma-es", seed=0))
    study.optimize(sphere, n_trials=20)
    copy = pickle.loads(pickle.dumps(study.sampler))  # noqa: S301
    study.sampler = copy
    study.optimize(sphere, n_trials=100)
    assert study.best_value < 0.5


def test_start_point_and_hyperparameters() -> None:
    x0 = {"x0": 4.0, "x1": 4.0, "x2": 4.0}
    study = optuna.create_study(sampler=BlackboxSampler("cma-es", seed=0, x0=x0, sigma0=0.001, popsize=6))
    study.optimize(sphere, n_trials=7)
    assert all(abs(value - 4.0) < 0.1 for trial in study.trials[1:] for value in trial.params.values())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"method": "nope"}, bb.SettingError),
        ({"method": "eggroll"}, bb.SettingError),
        ({"seed": -1}, bb.SettingError),
        ({"popsise": 3}, bb.SettingError),
        ({"space": {"p": bb.Permutation(3)}}, bb.SpaceError),
        ({"space": bb.Box(0, 1, 2)}, bb.SettingError),
        ({"space": {"x": bb.Float(0, 1)}, "x0": {"x": 2.0}}, bb.SpaceError),
    ],
)
def test_malformed_arguments_are_refused_at_once(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        BlackboxSampler(**arguments)


# ---- converters

floats = st.floats(-1e6, 1e6, allow_nan=False)
ranges = st.tuples(floats, floats).filter(lambda pair: pair[0] < pair[1])
dimensions = st.one_of(
    ranges.map(lambda pair: bb.Float(*pair)),
    st.integers(1, 100).map(lambda k: bb.Float(0.1, 0.1 + k, log=True)),
    st.tuples(st.integers(-50, 50), st.integers(1, 50)).map(lambda pair: bb.Int(pair[0], pair[0] + pair[1])),
    st.integers(2, 50).map(lambda k: bb.Int(1, k, log=True)),
    st.just(bb.Bool()),
    st.lists(st.one_of(st.text(), st.integers(5, 9), st.none()), min_size=1, unique=True).map(bb.Choice),
)


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1), dimensions, min_size=1, max_size=4), st.integers(0, 2**32))
def test_spaces_survive_the_way_there_and_back(variables: dict[str, Any], seed: int) -> None:
    space = bb.Space(variables)
    distributions = to_distributions(space)
    assert to_space(distributions) == space
    for point in space.decode_many(np.random.default_rng(seed).random((5, space.dimension))):
        for name, value in point.items():
            internal = distributions[name].to_internal_repr(value)
            assert distributions[name]._contains(internal)
            assert distributions[name].to_external_repr(internal) == value


def test_distributions_with_steps_are_choices_of_their_values() -> None:
    space = to_space(
        {"a": FloatDistribution(0, 1, step=0.25), "b": IntDistribution(1, 7, step=3), "c": IntDistribution(4, 4)}
    )
    assert space == bb.Space(
        {"a": bb.Choice([0.0, 0.25, 0.5, 0.75, 1.0]), "b": bb.Choice([1, 4, 7]), "c": bb.Choice([4])}
    )
    with pytest.raises(bb.SpaceError, match="steps"):
        to_space({"a": FloatDistribution(0, 1, step=1e-5)})


def test_branches_are_flat_there() -> None:
    distributions = to_distributions(NESTED)
    assert distributions["kernel"] == CategoricalDistribution(("rbf", "poly", "linear"))
    assert distributions.keys() == {"c", "kernel", "gamma", "degree", "flag"}
    clash = bb.Choice({"a": bb.Space({"n": bb.Int(0, 1)}), "b": bb.Space({"n": bb.Float(0, 1)})})
    with pytest.raises(bb.SpaceError, match="branches"):
        to_distributions({"c": clash})
