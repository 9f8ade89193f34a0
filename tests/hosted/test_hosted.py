"""Optimizers of other packages under our interface: same course, journals, bounds, failures, errors."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blackbox as bb
from blackbox import testing
from blackbox.benchmark import check_methods
from blackbox.hosted import scipy
from blackbox.journal import Journal
from blackbox.reporting.report import describe_method
from blackbox.shell.settings import Settings

EVOSAX = ["SNES", "CMA_ES", "Open_ES", "SV_CMA_ES", "DifferentialEvolution", "SimpleGA"]
NEVERGRAD = ["DE", "CMA", "OnePlusOne", "Cobyla", "ScrHammersleySearch", "NGOpt", "MultiDS"]
SCIPY = ["COBYQA", "L-BFGS-B", "Powell", "differential_evolution", "dual_annealing", "direct"]
PACKAGES = {"evosax": "evosax", "nevergrad": "nevergrad", "scipy": "scipy"}
METHODS = [*(f"evosax:{n}" for n in EVOSAX), *(f"nevergrad:{n}" for n in NEVERGRAD), *(f"scipy:{n}" for n in SCIPY)]
SPACE = bb.Box(-1, 1, 3)

pytestmark = [
    # What the packages themselves warn of, at import and in use.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def _package(request: pytest.FixtureRequest) -> None:
    method = getattr(request.node, "callspec", None) and request.node.callspec.params.get("method", "")
    if method:
        pytest.importorskip(PACKAGES[method.partition(":")[0]])


def sphere(x: Any) -> float:
    return float(np.sum((np.asarray(x) - 0.3) ** 2))


def course(optimizer: bb.Optimizer, evaluations: int, fail: int = 0) -> list[Any]:
    """The points asked; of ``fail`` evaluations one fails."""
    points = []
    for i in range(evaluations):
        candidate = optimizer.ask()
        points.append(np.array(candidate.x))
        optimizer.tell(candidate, float("nan") if fail and i % fail == 1 else sphere(candidate.x))
    return points


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_points_inside_the_bounds(method: str) -> None:
    first, second = (course(bb.Optimizer(SPACE, method, seed=3, budget=60), 60) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.abs(first).max() <= 1
    values = [sphere(x) for x in first]
    assert min(values) < values[0]


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_resumes_bit_for_bit(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blackbox.optimizer.CHECKPOINT_GENERATIONS", 3)
    whole = course(bb.Optimizer(SPACE, method, seed=5, budget=80), 80, fail=7)
    path = tmp_path / "run.db"
    with bb.Optimizer(SPACE, method, seed=5, budget=80, journal=path) as optimizer:
        begun = course(optimizer, 37, fail=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a checkpoint that does not fit
        resumed = bb.Optimizer.resume(path)
    with resumed:
        rest = []
        for i in range(37, 80):
            candidate = resumed.ask()
            rest.append(np.array(candidate.x))
            resumed.tell(candidate, float("nan") if i % 7 == 1 else sphere(candidate.x))
    assert np.array_equal(whole, begun + rest)


@pytest.mark.parametrize("method", METHODS)
def test_journals_hold_checkpoints_that_fit(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blackbox.optimizer.CHECKPOINT_GENERATIONS", 1)
    path = tmp_path / "run.db"
    with bb.Optimizer(SPACE, method, seed=5, budget=60, journal=path) as optimizer:
        course(optimizer, 50)
    journal = Journal.open(path)
    try:
        _, arrays, manifest = next(iter(journal.checkpoints()))
        assert manifest["generation"] > 0
        assert all(array.dtype.kind in "biuf" for array in arrays.values())
        Settings.from_json(journal.configuration).plan()
    finally:
        journal.close()


@pytest.mark.parametrize("method", ["evosax:SNES", "nevergrad:DE", "scipy:Powell"])
def test_an_instance_is_the_method_by_name(method: str, tmp_path: Path) -> None:
    settings = {"popsize": 8} if method == "evosax:SNES" else {}
    given = (
        bb.create(method, sigma0=0.2, low=0.0, high=1.0) if not settings else bb.create(method, sigma0=0.2, **settings)
    )
    by_instance = bb.Optimizer(SPACE, given, seed=1, budget=40, journal=tmp_path / "run.db")
    by_name = bb.Optimizer(SPACE, method, seed=1, budget=40, **settings)
    assert by_instance.method == method
    assert np.array_equal(course(by_instance, 40), course(by_name, 40))


@pytest.mark.parametrize("method", METHODS)
def test_old_states_are_asked_again(method: str) -> None:
    """Of a state that is long past, and by an object that never saw it."""
    settings = {} if method.startswith("evosax") else {"low": 0.0, "high": 1.0}
    strategy = bb.create(method, sigma0=0.2, **settings)
    state = strategy.init(bb.key(2), np.full(3, 0.8))
    states, populations = [], []
    for _ in range(8):
        states.append(state)
        populations.append(np.array(strategy.ask(state)))
        state = strategy.tell(state, populations[-1], testing.dense.sphere(populations[-1]))
    other = bb.create(method, sigma0=0.2, **settings)
    for old, population in zip(reversed(states), reversed(populations), strict=True):
        assert np.array_equal(strategy.ask(old), population)
        assert np.array_equal(other.ask(old), population)


LAWS = [
    testing.check_ask_is_pure,
    testing.check_replayable,
    testing.check_total_on_fitness,
    testing.check_nan_ranks_last,
    testing.check_further_members,
    testing.check_injected_points,
    testing.check_improves_with_failures,
]


@pytest.mark.parametrize("check", LAWS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize("method", METHODS)
def test_law_holds(method: str, check: testing.Check) -> None:
    if method == "evosax:DifferentialEvolution" and check is testing.check_further_members:
        pytest.skip("few members have few differences: trials repeat")
    settings = {} if method.startswith("evosax") else {"low": -1.0, "high": 2.0}
    check(bb.create(method, sigma0=0.3, **settings), np.full(3, 0.8))


@pytest.mark.parametrize("method", ["evosax:SNES", "nevergrad:DE", "nevergrad:CMA", "nevergrad:OnePlusOne"])
def test_seeds_differ(method: str) -> None:
    testing.check_seeds_differ(bb.create(method, sigma0=0.3), np.full(3, 0.8))


@pytest.mark.parametrize("method", ["evosax:SNES"])
def test_fitness_of_any_type_is_taken(method: str) -> None:
    testing.check_types_of_fitness(bb.create(method, sigma0=0.3), np.full(3, 0.8))


@pytest.mark.parametrize("method", ["evosax:SNES", "evosax:CMA_ES"])
def test_evosax_is_an_array_program(method: str) -> None:
    import jax
    import jax.numpy as jnp

    strategy = bb.create(method, sigma0=0.3, popsize=8)

    def run(key: Any) -> Any:
        def generation(state: Any, _: None) -> Any:
            population = strategy.ask(state)
            return strategy.tell(state, population, testing.dense.sphere(population)), None

        return jax.lax.scan(generation, strategy.init(key, jnp.full(3, 0.8)), None, length=30)[0]

    keys = jnp.stack([jnp.asarray(bb.key(i)) for i in range(3)])
    states = jax.jit(jax.vmap(run))(keys)
    assert states.best.shape == (3,)
    assert float(states.best.max()) < 0.2
    # After the program above: what it left behind must serve others.
    for x0 in (np.full(3, 0.8), np.full(3, 0.8, np.float32), jnp.full(3, 0.8)):
        testing.check_shape_stable(strategy, x0)


@pytest.mark.parametrize("method", ["evosax:PGPE", "evosax:CR_FM_NES", "evosax:ESMC"])
def test_odd_popsizes_are_refused_where_they_must_be(method: str) -> None:
    with pytest.raises(bb.SettingError, match=r"popsize must be even .* got 7"):
        bb.create(method, popsize=7)
    bb.create("evosax:SNES", popsize=7)


@pytest.mark.parametrize("method", ["evosax:SNES", "nevergrad:Cobyla", "scipy:COBYQA"])
def test_restarts_that_change_sizes_are_refused(method: str) -> None:
    with pytest.raises(bb.SettingError, match='restarts must be None, "same" or "none"'):
        bb.Optimizer(SPACE, method, restarts="bipop")


@pytest.mark.parametrize("method", ["nevergrad:DE", "nevergrad:CMA", "scipy:Nelder-Mead", "scipy:Powell"])
def test_a_start_that_fails_is_not_the_best(method: str) -> None:
    """Whatever the scale of the values that come later."""
    strategy = bb.create(method, sigma0=0.2, low=0.0, high=1.0)
    state = strategy.init(bb.key(0), np.full(3, 0.5))
    population = strategy.ask(state)
    state = strategy.tell(state, population, np.full(len(population), np.nan))
    best = np.inf
    for _ in range(60):
        population = strategy.ask(state)
        values = np.array([1e3 + sphere(x) for x in population])
        best = min(best, float(values.min()))
        state = strategy.tell(state, population, values)
    assert 1e3 + sphere(strategy.recommend(state)) == pytest.approx(best, abs=0.05)
    assert not np.array_equal(strategy.recommend(state), np.full(3, 0.5))


@pytest.mark.parametrize("method", ["scipy:L-BFGS-B", "scipy:TNC", "scipy:SLSQP", "scipy:dual_annealing"])
def test_differences_are_in_the_precision_of_the_points(method: str) -> None:
    strategy = bb.create(method, sigma0=0.2, low=0.0, high=1.0)
    state = strategy.init(bb.key(0), np.full(3, 0.8, np.float32))
    best = np.inf
    for _ in range(60):
        population = strategy.ask(state)
        assert population.dtype == np.float32
        values = np.array([sphere(x) for x in population])
        best = min(best, float(values.min()))
        state = strategy.tell(state, population, values)
    assert best < 1e-5


@pytest.mark.parametrize("method", ["evosax:SNES"])
def test_evosax_generations_are_whole(method: str) -> None:
    strategy = bb.create(method, popsize=8)
    state = strategy.init(bb.key(0), np.zeros(3))
    with pytest.raises(bb.TellError, match="8 rows, as asked; got 7"):
        strategy.tell(state, np.zeros((7, 3)), np.zeros(7))


@pytest.mark.parametrize("method", ["evosax:DifferentialEvolution"])
def test_the_first_population_contains_the_start_and_is_evaluated(method: str) -> None:
    strategy = bb.create(method, popsize=8, sigma0=0.1)
    state = strategy.init(bb.key(0), np.full(3, 0.5))
    founders = strategy.ask(state)
    assert np.array_equal(founders[0], np.full(3, 0.5))
    state = strategy.tell(state, founders, np.arange(8.0)[::-1])
    assert np.allclose(strategy.recommend(state), founders[7])


@pytest.mark.parametrize("method", ["nevergrad:DE", "nevergrad:CMA"])
def test_nevergrad_asks_for_as_many_as_are_evaluated_at_once(method: str) -> None:
    result = bb.minimize(sphere, SPACE, method=method, budget=160, seed=0, popsize=8)
    assert result.value < 0.1


@pytest.mark.parametrize("method", ["nevergrad:Cobyla"])
def test_sequential_optimizers_refuse_several_workers(method: str) -> None:
    with pytest.raises(bb.SettingError, match="popsize must be 1 for nevergrad:Cobyla"):
        bb.create(method, popsize=4)


@pytest.mark.parametrize("method", ["scipy:L-BFGS-B", "evosax:SNES", "nevergrad:Cobyla"])
def test_ended_runs_are_restarted(method: str) -> None:
    settings = {"evaluations": 100} if method == "nevergrad:Cobyla" else {}
    optimizer = bb.Optimizer(SPACE, method, seed=0, budget=2000, **settings)
    for _ in range(1500):
        candidate = optimizer.ask()
        optimizer.tell(candidate, max(0.05, sphere(candidate.x)))
    assert optimizer._search.lane.run.number > 0


@pytest.mark.parametrize("method", ["nevergrad:DE", "nevergrad:CmaFmin2", "nevergrad:MultiDS"])
def test_global_generators_are_left_alone(method: str) -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    course(bb.Optimizer(SPACE, method, seed=0, budget=20), 20)
    assert np.array_equal(before, np.random.get_state()[1])


def test_no_thread_is_left() -> None:
    gc.collect()
    before = threading.active_count()
    kept = []
    for method in [*(f"scipy:{name}" for name in scipy.names()), "nevergrad:Cobyla"]:
        kept.append(bb.Optimizer(SPACE, method, seed=0, budget=30))
        course(kept[-1], 7)
        assert threading.active_count() == before + len(kept)
    kept.clear()
    gc.collect()
    for _ in range(1000):
        if threading.active_count() == before:
            return
        time.sleep(0.01)  # nevergrad's is told to end, not waited for
    raise AssertionError([thread.name for thread in threading.enumerate()])


@pytest.mark.parametrize("method", ["scipy:COBYQA", "nevergrad:Cobyla"])
def test_the_interpreter_ends_while_methods_wait(method: str) -> None:
    code = f"import blackbox as bb; kept = bb.Optimizer(bb.Box(0, 1, 2), {method!r}, budget=30); kept.ask()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("method", ["nevergrad:CMA", "scipy:Powell"])
def test_searches_in_several_threads_do_not_disturb_each_other(method: str) -> None:
    alone = [course(bb.Optimizer(SPACE, method, seed=seed, budget=60), 60) for seed in range(3)]
    filters = list(warnings.filters)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda seed: course(bb.Optimizer(SPACE, method, seed=seed, budget=60), 60), range(3)))
    assert np.array_equal(alone, together)
    assert warnings.filters == filters


@pytest.mark.parametrize("method", ["nevergrad:BOBYQA"])
def test_optimizers_that_need_a_further_package_name_it(method: str) -> None:
    if importlib.util.find_spec("pybobyqa"):
        pytest.skip("it is installed")
    with pytest.raises(bb.MissingExtra, match=r"nevergrad:BOBYQA needs a package that is not installed.*pybobyqa"):
        bb.Optimizer(SPACE, method, budget=10)


@pytest.mark.parametrize("method", ["scipy:Powell", "nevergrad:DE"])
def test_other_versions_of_the_package_are_reported(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bb.Optimizer(SPACE, method, seed=0, journal=tmp_path / "run.db").close()
    installed = importlib.metadata.version
    host = method.partition(":")[0]
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0" if name == host else installed(name))
    with pytest.warns(RuntimeWarning, match=rf"resumed under .*'{host}': '0\.0'"):
        bb.Optimizer.resume(tmp_path / "run.db").close()


@pytest.mark.parametrize("method", ["scipy:direct"])
def test_global_methods_need_a_box(method: str) -> None:
    with pytest.raises(bb.SettingError, match="low and high must be given to scipy:direct"):
        bb.create(method).init(bb.key(0), np.zeros(2))
    with pytest.raises(bb.SettingError, match="low and high must be two numbers"):
        bb.create(method, low=1.0)


@pytest.mark.parametrize("method", ["evosax:SNS", "nevergrad:TwoPointDE", "scipy:COBYQ"])
def test_unknown_names_get_the_nearest(method: str) -> None:
    with pytest.raises(bb.SettingError, match=r"did you mean .(SNES|TwoPointsDE|COBYQA)."):
        bb.create(method)


@pytest.mark.parametrize("method", ["evosax:SNES", "nevergrad:DE", "scipy:Powell"])
def test_unknown_hyperparameters_and_packages_are_named(method: str) -> None:
    with pytest.raises(bb.SettingError, match=r"has no hyperparameter .sigma..*did you mean 'sigma0'"):
        bb.create(method, sigma=1.0)
    with pytest.raises(bb.SettingError, match="did you mean 'evosax'"):
        bb.create("evosaxx:SNES")


@pytest.mark.parametrize("method", ["scipy:Powell"])
def test_hosted_methods_are_described_and_compared(method: str) -> None:
    facts = describe_method(method)
    assert [field["name"] for field in facts["hyperparameters"]] == ["sigma0", "low", "high"]
    check_methods([method, "cma-es"])
    for refuses in (describe_method, lambda name: check_methods([name])):
        with pytest.raises(bb.SettingError, match="did you mean 'Powell'"):
            refuses("scipy:Powel")


@pytest.mark.parametrize("package", ["evosax", "nevergrad", "scipy"])
def test_missing_packages_name_the_install_command(package: str) -> None:
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import blackbox as bb
try:
    bb.create("{package}:SNES")
except bb.MissingExtra as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install 'blackbox-engine[{package}]'" in result.stdout, result.stderr


@pytest.mark.parametrize("method", ["nevergrad:CMA", "nevergrad:OnePlusOne", "nevergrad:ScrHammersleySearch"])
def test_the_recommendation_is_of_the_run_that_used_the_budget(method: str) -> None:
    optimizer = bb.Optimizer(SPACE, method, seed=0, budget=100)
    course(optimizer, 100)
    assert optimizer.n_restarts == 0
    assert sphere(optimizer.recommend()) < 0.3
