"""Every registered strategy sits the exam of ``blackbox.testing`` on every array library."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import optax
import pytest

import blackbox as bb
from blackbox import testing
from blackbox.testing.virtual import parameters as model

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Step sizes fit the exam's sphere, which lies in the unit cube, and few points the exam's many evaluations; everything
# else is each method's default.
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"sigma0": 0.3} for name in ("cma-es", "sep-cma-es", "lm-ma-es", "snes", "pgpe", "cat-cma", "lq-cma-es")},
    "nsga-ii": {"popsize": 20},
    "ego": {"points": 40},
    "turbo": {"points": 40, "candidates": 64},
}
NAMES = sorted(name for name, method in bb.methods().items() if "virtual" not in method.tags)
PURE = [name for name in NAMES if "pure" in bb.methods()[name].tags]  # programs of any array library


def build(name: str, **settings: Any) -> Any:
    return bb.create(name, **{**SETTINGS.get(name, {}), **settings})


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize(
    ("name", "library"), [*((name, "numpy") for name in NAMES), *((name, "array_api_strict") for name in PURE)]
)
def test_law_holds(name: str, library: str, check: testing.Check) -> None:
    check(build(name), testing.start_point(library, 6, "float64"))


@pytest.mark.parametrize("name", NAMES)
def test_laws_hold_in_float32(name: str) -> None:
    testing.check_strategy(build(name), dtype="float32")


@pytest.mark.parametrize("name", PURE)
def test_laws_hold_with_jax_arrays(name: str) -> None:
    # The laws that need no jit are library-independent text; these three see JAX's own arrays.
    x0 = testing.start_point("jax", 5, "float32")
    testing.check_shape_stable(build(name), x0)
    testing.check_ask_is_pure(build(name), x0)
    testing.check_total_on_fitness(build(name), x0)


@pytest.mark.parametrize("name", PURE)
def test_scans_and_vmaps(name: str) -> None:
    with jax.enable_x64(True):
        testing.check_scan_and_vmap(build(name), testing.start_point("jax", 5, "float64"))


@pytest.mark.parametrize("name", PURE)
def test_libraries_agree(name: str) -> None:
    testing.check_libraries_agree(build(name), np.full(6, 0.8))


@pytest.mark.parametrize("d", [1, 2, 33])
@pytest.mark.parametrize("name", NAMES)
def test_unusual_dimensions(name: str, d: int) -> None:
    x0 = np.full(d, 0.8)
    testing.check_shape_stable(build(name), x0)
    testing.check_total_on_fitness(build(name), x0)


@pytest.mark.parametrize("popsize", [4, 5, 7, 32])
@pytest.mark.parametrize("name", NAMES)
def test_unusual_popsizes(name: str, popsize: int) -> None:
    fields = [f.name for f in dataclasses.fields(bb.methods()[name].load())]
    if "popsize" not in fields:
        assert np.asarray(build(name).ask(build(name).init(bb.key(0), np.full(4, 0.8)))).shape[0] >= 1
        return
    try:
        strategy = build(name, popsize=popsize)
    except bb.SettingError as error:
        assert popsize % 2 == 1, error
        assert "popsize" in str(error) and "even" in str(error)
        return
    testing.check_shape_stable(strategy, np.full(5, 0.8))
    testing.check_total_on_fitness(strategy, np.full(5, 0.8))


@pytest.mark.parametrize("name", NAMES)
def test_the_start_point_is_copied(name: str) -> None:
    x0 = np.full(3, 0.8)
    state = build(name).init(bb.key(0), x0)
    population = build(name).ask(state).copy()
    x0 += 1
    assert np.array_equal(build(name).ask(state), population)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_of_init_and_tell_are_named(name: str) -> None:
    strategy, key = build(name), bb.key(0)
    of_runs = [] if getattr(strategy, "batched", False) else [np.zeros((2, 2))]
    for x0 in (np.array([1, 2]), np.zeros(0), np.zeros(()), *of_runs):
        with pytest.raises(
            bb.SettingError, match=r"x0 must be floating-point numbers of shape \(d,\) with d >= 1; got"
        ):
            strategy.init(key, x0)
    for wrong in (0, np.array([0, 1]), jax.random.key(0)):
        with pytest.raises(bb.SettingError, match="key must be two uint32 words"):
            strategy.init(wrong, np.ones(2))
    state = strategy.init(key, np.ones(2))
    population = strategy.ask(state)
    fitness = population.sum(1)
    for values in (fitness[:, None], np.append(fitness, 0.0), 1.0, fitness + 0j, fitness.astype(str)):
        with pytest.raises(bb.TellError, match="fitness must be"):
            strategy.tell(state, population, values)
    with pytest.raises(bb.TellError, match="at least one row"):
        strategy.tell(state, population[:0], fitness[:0])


@pytest.mark.parametrize("name", [name for name in NAMES if getattr(build(name), "batched", False)])
def test_arguments_of_many_runs_are_named(name: str) -> None:
    strategy, keys = build(name), np.stack([bb.key(0), bb.key(1)])
    for x0 in (np.zeros((2, 3), int), np.zeros((2, 0))):
        with pytest.raises(bb.SettingError, match=r"x0 must be floating-point numbers of shape \(runs, d\)"):
            strategy.init(keys, x0)
    for wrong in (bb.key(0), keys[:1], keys.astype(int)):
        with pytest.raises(bb.SettingError, match="for each of 2 runs"):
            strategy.init(wrong, np.zeros((2, 3)))


@pytest.mark.parametrize("name", ["cma-es", "sep-cma-es", "lm-ma-es", "cat-cma"])
def test_one_row_cannot_be_ranked(name: str) -> None:
    strategy = build(name)
    state = strategy.init(bb.key(0), np.ones(2))
    with pytest.raises(bb.TellError, match="population must have at least 2 rows to rank, got 1"):
        strategy.tell(state, np.ones((1, 2)), np.ones(1))


def test_numpy_scalars_are_checked_like_numbers() -> None:
    for value in (np.float64(-1), np.float32("nan")):
        with pytest.raises(bb.SettingError, match="sigma0 must be a finite number and > 0"):
            bb.create("cma-es", sigma0=value)


def test_exam_catches_a_strategy_that_prefers_high_fitness() -> None:
    @dataclasses.dataclass(frozen=True)
    class Backwards:
        inner: Any

        def init(self, key: Any, x0: Any) -> Any:
            return self.inner.init(key, x0)

        def ask(self, state: Any, first: int = 0) -> Any:
            return self.inner.ask(state, first)

        def tell(self, state: Any, population: Any, fitness: Any) -> Any:
            return self.inner.tell(state, population, -fitness)

        def recommend(self, state: Any) -> Any:
            return self.inner.recommend(state)

    with pytest.raises(AssertionError, match="lower is better"):
        testing.check_strategy(Backwards(build("cma-es")))


EGGROLL = {"popsize": 8, "sigma": 0.1, "optimizer": optax.sgd(0.1)}
VIRTUAL: list[tuple[str, dict[str, Any]]] = [
    ("eggroll", {}),
    ("eggroll", {"rank": 3, "shaping": "centered-ranks", "noise": "normal"}),
    ("eggroll", {"rank": None, "shaping": "sign", "noise": "sign"}),
    ("eggroll", {"shaping": "group-relative", "noise": "uniform", "persistent": 3}),
]


def test_every_virtual_method_sits_the_exam() -> None:
    assert {name for name, _ in VIRTUAL} == {name for name, method in bb.methods().items() if "virtual" in method.tags}


@pytest.mark.parametrize("check", testing.VIRTUAL_CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize(("name", "settings"), VIRTUAL, ids=lambda x: x if isinstance(x, str) else x.get("noise", ""))
def test_law_of_virtual_populations_holds(name: str, settings: dict[str, Any], check: testing.VirtualCheck) -> None:
    check(bb.create(name, **EGGROLL, **settings), model())


@pytest.mark.parametrize("method", ["eggroll", bb.create("eggroll", popsize=4)])
def test_virtual_methods_do_not_search_spaces(method: Any) -> None:
    with pytest.raises(bb.SettingError, match="trains the parameters of JAX models"):
        bb.Optimizer({"a": bb.Float(0, 1)}, method, budget=10)
    with pytest.raises(bb.SettingError, match="strategy must be one of flat vectors; Eggroll trains"):
        bb.run(bb.create("eggroll", popsize=4), lambda x: x.sum(), np.ones(3), key=bb.key(0), generations=1)
