"""The search algorithm for Ray Tune: spaces in both directions, what is told, saving, and Tune itself."""

from __future__ import annotations

import copy
import json
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray_cluster import RAYS_OWN, local_ray

import blackbox as bb

pytest.importorskip("ray")
pytest.importorskip("pandas")

pytestmark = [
    *RAYS_OWN,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

from ray import tune  # noqa: E402
from ray.tune.search import ConcurrencyLimiter, Searcher, SearchGenerator  # noqa: E402
from ray.tune.search.variant_generator import generate_variants  # noqa: E402

from blackbox.integrations.ray import BlackboxSearch  # noqa: E402
from blackbox.integrations.ray_spaces import TuneSpace  # noqa: E402

SPHERE = {"x": tune.uniform(-5, 5), "y": tune.uniform(-5, 5), "nested": {"z": tune.uniform(-5, 5)}, "constant": "kept"}


def sphere(config: dict[str, Any]) -> float:
    return sum((value - 1) ** 2 for value in (config["x"], config["y"], config["nested"]["z"]))


class Optimizer:  # a category that is no option of bb.Choice
    pass


EVERYTHING = {
    "uniform": tune.uniform(-2, 3.5),
    "loguniform": tune.loguniform(1e-5, 1e-1),
    "randint": tune.randint(-3, 4),
    "lograndint": tune.lograndint(1, 1000),
    "quniform": tune.quniform(-1, 1, 0.25),
    "qloguniform": tune.qloguniform(0.5, 64, 0.5),
    "qrandint": tune.qrandint(10, 100, 10),
    "qlograndint": tune.qlograndint(8, 512, 8),
    "randn": tune.randn(2, 0.5),
    "qrandn": tune.qrandn(0, 10, 0.5),
    "numbers": tune.choice([64, 16, 32]),
    "choice": tune.choice(["a", None, Optimizer, (1, 2), True, 1]),
    "constant": {"epochs": 10},
    "nested": {"deep": {"rate": tune.uniform(0, 1), "steps": 3},
               "list": [1, tune.uniform(0, 1), {"k": tune.randint(0, 9)}]},
    "model": tune.choice([
        {"kind": "tree", "depth": tune.randint(1, 9), "leaf": tune.choice([{"min": tune.randint(1, 5)}, None])},
        {"kind": "net", "layers": [tune.randint(1, 64), tune.randint(1, 64)], "rate": tune.loguniform(1e-4, 1)},
        "constant",
        tune.uniform(0, 1),
    ]),
}  # fmt: skip


STEPS = {"quniform": 0.25, "qloguniform": 0.5, "qrandint": 10, "qlograndint": 8, "qrandn": 0.5}


# ---- spaces


def test_every_point_is_a_configuration_that_tune_could_draw() -> None:
    space = TuneSpace(EVERYTHING)
    rng = np.random.default_rng(0)
    points = space.space.decode_many(rng.random((300, space.space.dimension)))
    models = set()
    for point in points:
        config = space.config(point)
        assert set(config) == set(EVERYTHING) - {"constant"}
        for name, domain in EVERYTHING.items():
            if isinstance(domain, tune.search.sample.Domain) and name != "model":
                assert domain.is_valid(config[name])
        for name, q in (
            ("quniform", 0.25),
            ("qloguniform", 0.5),
            ("qrandint", 10),
            ("qlograndint", 8),
            ("qrandn", 0.5),
        ):
            assert config[name] == pytest.approx(round(config[name] / q) * q)
        assert type(config["randint"]) is int and type(config["qrandint"]) is int and type(config["quniform"]) is float
        assert config["nested"]["deep"]["steps"] == 3 and config["nested"]["list"][0] == 1
        back = space.point({**config, "constant": {"epochs": 10}})
        assert {**back, "randn": 0, "qrandn": 0} == {**point, "randn": 0, "qrandn": 0}
        assert back["randn"] == pytest.approx(point["randn"], abs=1e-9)
        models.add(config["model"]["kind"] if isinstance(config["model"], dict) else type(config["model"]))
    assert models == {"tree", "net", str, float}
    for name, domain in (("randint", range(-3, 4)), ("qrandint", range(10, 101, 10)), ("numbers", (16, 32, 64))):
        assert {space.config(point)[name] for point in points} == set(domain)


def test_what_tune_draws_is_a_point_and_comes_back() -> None:
    space = TuneSpace(EVERYTHING)
    for seed in range(100):
        _, drawn = next(generate_variants({"config": EVERYTHING}, random_state=seed))
        config = drawn["config"]
        back = space.config(space.point(config))
        for name in set(config) - {"constant", "randn", "qrandn"}:
            assert back[name] == config[name]
        assert back["randn"] == pytest.approx(config["randn"], abs=1e-6)
        assert back["qrandn"] == config["qrandn"]


def test_bounds_are_those_of_tune() -> None:
    space = TuneSpace({"a": tune.randint(0, 3), "b": tune.qrandint(0, 9, 3), "c": tune.qrandint(0, 3, 1)}).space
    assert space == bb.Space({"a": bb.Int(0, 2), "b": bb.Int(0, 3), "c": bb.Int(0, 2)})
    assert TuneSpace({"a": tune.lograndint(2, 9)}).space == bb.Space({"a": bb.Int(2, 8, log=True)})
    assert TuneSpace({"a": {"b": tune.randint(4, 5)}}).space == bb.Space({"a/b": bb.Choice([4])})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"a": tune.grid_search([1, 2])}, "grid_search"),
        ({"b": {"a": tune.sample_from(lambda config: 3)}}, "b/a.*sample_from"),
        ({"a": 3}, "at least one domain"),
        ({"a": tune.uniform(1, 0)}, "low"),
        ({"a": {"b": tune.uniform(0, 1)}, "a/b": tune.uniform(0, 1)}, "different paths"),
        (3, "space"),
    ],
)
def test_what_cannot_be_searched_is_named(config: Any, named: str) -> None:
    with pytest.raises(bb.SpaceError, match=named):
        TuneSpace(config)


def test_configurations_that_are_no_points_are_named() -> None:
    space = TuneSpace({"a": {"b": tune.uniform(0, 1), "c": 3}, "d": tune.choice([{"e": tune.randint(0, 3)}, "none"])})
    good = {"a": {"b": 0.5, "c": 3}, "d": {"e": 2}}
    assert space.config(space.point(good)) == good
    for wrong, named in (
        ({"a": {"b": 2.0, "c": 3}, "d": "none"}, "a/b"), ({"a": {"b": 0.5, "c": 4}, "d": "none"}, "a/c"),
        ({"a": {"b": 0.5, "c": 3}, "d": {"e": 3}}, "d"), ({"d": "none"}, "a"), ({"a": 3, "d": "none"}, "a"),
    ):  # fmt: skip
        with pytest.raises(bb.SpaceError, match=named):
            space.point(wrong)


# ---- without a cluster: as Tune's SearchGenerator calls it


def begun(method: str = "cma-es", config: dict[str, Any] = SPHERE, **arguments: Any) -> BlackboxSearch:
    search = BlackboxSearch(method, **{"seed": 0, **arguments})
    assert search.set_search_properties("loss", "min", config, num_samples=60)
    return search


def run(search: Any, trials: int, objective: Callable[[dict[str, Any]], Any] = sphere, at_once: int = 4) -> list[Any]:
    """Trials that end in any order; what they were given."""
    chance, running, seen = random.Random(0), [], []
    while len(seen) < trials or running:
        if len(seen) < trials and len(running) < at_once:
            trial = f"{id(search)}-{len(seen)}-{chance.random()}"
            config = search.suggest(trial)
            seen.append(config)
            running.append((trial, config))
        else:
            trial, config = running.pop(chance.randrange(len(running)))
            value = objective(config)
            search.on_trial_complete(trial, None if value is None else {"loss": value}, error=value is None)
    return seen


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("method", ["cma-es", "l-shade", "nelder-mead"])
def test_finds_the_optimum(method: str, mode: str) -> None:
    sign = 1 if mode == "min" else -1
    search = BlackboxSearch(method, metric="loss", mode=mode, space=SPHERE, seed=1)
    configs = run(search, 300, lambda config: sign * sphere(config))
    assert min(map(sphere, configs)) < 0.02
    assert search._optimizer is not None and search._optimizer.direction == mode + "imize"


def test_conditional_space_is_searched() -> None:
    def objective(config: dict[str, Any]) -> float:
        model = config["model"]
        return (
            (model["rate"] - 0.01) ** 2 + (model["layers"][0] - 9) ** 2 / 1e3
            if type(model) is dict and model["kind"] == "net"
            else 2.0
        )

    configs = run(begun("auto", EVERYTHING), 60, objective)
    assert min(map(objective, configs)) < 0.1


@pytest.mark.parametrize("value", [None, math.nan, "missing", math.inf])
def test_failures_rank_last_and_stop_nothing(value: Any) -> None:
    search = begun()
    chance = random.Random(1)
    for n in range(120):
        config = search.suggest(str(n))
        if chance.random() < 0.3:
            result = {"loss": value} if isinstance(value, float) else {} if value == "missing" else None
            search.on_trial_complete(str(n), result, error=value is None)
        else:
            search.on_trial_complete(str(n), {"loss": sphere(config), "other": 3})
    assert search._optimizer is not None and search._optimizer.best.value < 1  # type: ignore[union-attr]
    search.on_trial_complete("0", {"loss": -100.0})  # it has ended
    search.on_trial_complete("unknown", {"loss": -100.0})  # not ours
    assert search._optimizer.best.value > 0 and search._optimizer.evaluations == 120  # type: ignore[union-attr]
    assert search.suggest("next") == search.suggest("next") != search.suggest("another")


@pytest.mark.parametrize("method", ["cma-es", "auto", "l-shade", "nelder-mead", "turbo"])
def test_restored_search_goes_on_with_the_same_bits(method: str, tmp_path: Path) -> None:
    """Saved in the middle of a generation, with trials under way that end after it, failed ones and added points."""
    points = [{"x": 0.0, "y": 0.5, "nested": {"z": -1.0}}]
    first = begun(method, points_to_evaluate=points, x0=points[0])
    first.add_evaluated_point({"x": 2.0, "y": 2.0, "nested": {"z": 2.0}, "constant": "kept"}, 3.0)
    assert first.suggest("t")["nested"] == {"z": -1.0}
    run(first, 27, lambda config: None if config["x"] > 3 else sphere(config))
    for n in range(5):
        first.suggest(f"open {n}")
    first.save(str(tmp_path / "state"))
    assert os.listdir(tmp_path) == ["state"]
    second = BlackboxSearch(method, points_to_evaluate=points, x0=points[0])
    second.restore(str(tmp_path / "state"))  # before Tune has told the space
    second.set_search_properties("loss", "min", SPHERE, num_samples=99)
    third = copy.deepcopy(first)
    for search in (first, second, third):
        for n in (3, 1, 4, 0):
            search.on_trial_complete(f"open {n}", {"loss": 0.25 * n})
    others = [[search.suggest(f"{n}") for n in range(3)] + run(search, 40) for search in (first, second, third)]
    assert others[0] == others[1] == others[2]
    first.save(str(tmp_path / "first"))
    second.save(str(tmp_path / "second"))
    states = [json.loads((tmp_path / name).read_text()) for name in ("first", "second")]
    logs = [[(entry[0], *entry[2:]) for entry in state.pop("log")] for state in states]  # without the names of trials
    assert logs[0] == logs[1] and len(logs[0]) > 100 and states[0] == states[1]


def test_only_the_same_search_is_restored(tmp_path: Path) -> None:
    first = begun()
    run(first, 5)
    first.save(str(tmp_path / "state"))
    for other, named in (
        (begun("l-shade"), "method"), (begun(seed=1), "seed"), (begun(popsize=20), "hyperparameters"),
        (begun(config={"x": tune.uniform(0, 1)}), "space"), (begun(restarts="ipop"), "restarts"),
    ):  # fmt: skip
        with pytest.raises(bb.SettingError, match=named):
            other.restore(str(tmp_path / "state"))
        run(other, 3, lambda config: config["x"])  # as before
    for text in ("", "{}", '{"format": 99}', "[]"):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(bb.CheckpointError, match="no saved"):
            begun().restore(str(tmp_path / "bad"))
    with pytest.raises(bb.CheckpointError, match="no saved"):
        begun().restore(str(tmp_path / "absent"))


def test_limiter_is_obeyed_and_tells_auto_how_many_run_at_once() -> None:
    space = {"x": tune.uniform(0, 1), "y": tune.uniform(0, 1)}
    methods = []
    for at_once in (1, 8):
        limiter = ConcurrencyLimiter(BlackboxSearch(seed=0), max_concurrent=at_once)
        limiter.set_search_properties("loss", "min", space, num_samples=40)
        assert [limiter.suggest(str(n)) is None for n in range(10)] == [False] * at_once + [True] * (10 - at_once)
        assert limiter.searcher._optimizer is not None
        methods.append(limiter.searcher._optimizer.method)
    expected = [bb.Optimizer({"x": bb.Float(0, 1), "y": bb.Float(0, 1)}, budget=40, parallel=n).method for n in (1, 8)]
    assert methods == expected and len(set(methods)) == 2


def test_points_to_evaluate_come_first_and_added_points_count() -> None:
    points = [{"x": 4.0, "y": 4.0, "nested": {"z": n}} for n in (1.0, 2.0)]
    search = BlackboxSearch("cma-es", seed=0, points_to_evaluate=points)
    search.add_evaluated_point({"x": 1, "y": 1, "nested": {"z": 1.5}}, 0.25)  # before the space is known
    search.add_evaluated_point({"x": 1, "y": 1, "nested": {"z": 1.0}}, 0.0, error=True)
    search.set_search_properties("loss", "min", SPHERE)
    assert [search.suggest(name) for name in "ab"] == points
    search.on_trial_complete("a", {"loss": 18.0})
    search.on_trial_complete("b", None, error=True)
    optimizer = search._optimizer
    assert optimizer is not None and optimizer.best is not None
    assert (optimizer.best.value, optimizer.evaluations, optimizer.failures) == (0.25, 4, 2)
    with pytest.raises(bb.SpaceError, match="x must be"):
        search.add_evaluated_point({"x": 9, "y": 1, "nested": {"z": 1.5}}, 0.25)


def test_space_of_variables_and_several_metrics() -> None:
    space = bb.Space({"x": bb.Float(0, 1), "kind": bb.Choice({"a": bb.Space({"n": bb.Int(0, 5)}), "b": None})})
    search = BlackboxSearch(space=space, metric=["f", "g"], mode=["min", "max"], seed=0)
    assert search.set_search_properties(None, None, {"epochs": 3}, num_samples=50) is False
    for n in range(50):
        config = search.suggest(str(n))
        assert space.contains(config)
        search.on_trial_complete(str(n), {"f": config["x"] ** 2, "g": 1 - (config["x"] - 1) ** 2} if n % 9 else None)
    assert search._optimizer is not None and len(search._optimizer.pareto) > 5


def test_search_that_has_nothing_left_to_do_says_so() -> None:
    search = begun("nelder-mead", {"x": tune.uniform(0, 1)}, restarts="none")
    for n in range(2000):
        config = search.suggest(str(n))
        if config == Searcher.FINISHED:
            break
        search.on_trial_complete(str(n), {"loss": (config["x"] - 0.3) ** 2})
    assert config == Searcher.FINISHED


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"method": "nope"}, "nope"),
        ({"seed": -1}, "seed"),
        ({"mode": "minimize"}, "mode"),
        ({"metric": ["f", "g"], "mode": "min"}, "mode"),
        ({"popsise": 3}, "popsise"),
        ({"journal": "a.db"}, "journal"),
        ({"space": 3}, "space"),
        ({"method": bb.Optimizer}, "method"),
    ],
)
def test_malformed_arguments_are_refused_at_once(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises((bb.SettingError, bb.SpaceError), match=named):
        BlackboxSearch(**arguments)


def test_what_the_tuner_must_give_is_named() -> None:
    with pytest.raises(bb.SettingError, match="a space"):
        BlackboxSearch().suggest("a")
    with pytest.raises(bb.SettingError, match="metric and mode"):
        BlackboxSearch(space=SPHERE).suggest("a")
    with pytest.raises(bb.SettingError, match=r"metric must be 'loss'.*got 'other'"):
        BlackboxSearch(metric="loss", mode="min").set_search_properties("other", "min", SPHERE)


def test_wrapped_in_a_generator_it_is_saved_and_restored_with_its_limiter(tmp_path: Path) -> None:
    generators = [SearchGenerator(ConcurrencyLimiter(BlackboxSearch("cma-es", seed=0), 2)) for _ in range(2)]
    for generator in generators:
        generator.set_search_properties("loss", "min", SPHERE, num_samples=10)
    run(generators[0].searcher, 9, at_once=2)
    generators[0].searcher.suggest("open")
    generators[0].save_to_dir(str(tmp_path), "session")
    generators[1].restore_from_dir(str(tmp_path))
    for generator in generators:
        generator.on_trial_complete("open", {"loss": 0.5})
    assert run(generators[0].searcher, 9, at_once=2) == run(generators[1].searcher, 9, at_once=2)


# ---- Tune itself


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with local_ray(Path(__file__).parent, num_cpus=2) as ray:
        yield ray


class Trainable(tune.Trainable):  # type: ignore[misc]
    """One step; processes are used again, so that a trial takes milliseconds."""

    def setup(self, config: dict[str, Any]) -> None:
        self._x = config

    def step(self) -> dict[str, Any]:
        if self._x["x"] > 4:
            raise ValueError("outside")
        assert self._x["constant"] == "kept"
        return {"loss": sphere(self._x), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: a trial is one step."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Likewise."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._x = new_config
        return True


def test_tuner_runs_fails_and_is_restored(cluster: Any, tmp_path: Path) -> None:
    configuration = tune.TuneConfig(
        metric="loss", mode="min", num_samples=6, max_concurrent_trials=2, reuse_actors=True,
        search_alg=BlackboxSearch("cma-es", seed=0),
    )  # fmt: skip
    run_config = tune.RunConfig(name="search", storage_path=str(tmp_path), verbose=0)
    results = tune.Tuner(Trainable, param_space=SPHERE, tune_config=configuration, run_config=run_config).fit()
    assert len(results) == 6
    configs = [result.config for result in results]
    assert len({config["x"] for config in configs}) == 6
    outside = [config["x"] > 4 for config in configs]
    assert results.num_errors == sum(outside)
    best = results.get_best_result()
    assert best.metrics["loss"] == min(sphere(c) for c, out in zip(configs, outside, strict=True) if not out)
    search = BlackboxSearch("cma-es", seed=0)
    search.restore_from_dir(str(tmp_path / "search"))
    search.set_search_properties("loss", "min", SPHERE)
    optimizer = search._optimizer
    assert optimizer is not None and optimizer.best is not None
    assert (optimizer.evaluations, optimizer.failures) == (6, sum(outside))
    assert optimizer.best.value == best.metrics["loss"]
    restored = tune.Tuner.restore(str(tmp_path / "search"), Trainable, param_space=SPHERE, restart_errored=True)
    assert len(restored.fit()) == 6
