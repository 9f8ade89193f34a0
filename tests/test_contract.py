"""Every registered strategy sits the exam of ``blackbox.testing`` on every array library."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from jaxtyping import Float

import blackbox as bb
from blackbox import testing
from blackbox.cbo.constrained import ConstrainedCBO
from blackbox.strategy import algorithm
from blackbox.testing.virtual import parameters as model

# Step sizes fit the exam's sphere, which lies in the unit cube, and few points the exam's many evaluations; everything
# else is each method's default.
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"sigma0": 0.3} for name in ("cma-es", "sep-cma-es", "lm-ma-es", "snes", "pgpe", "cat-cma", "lq-cma-es")},
    **{name: {"popsize": 8} for name in ("nsga-ii", "nsga-iii")},
    "ga": {"popsize": 20, "sigma0": 0.3},
    **{name: {"sigma0": 0.3, "emitters": 2, "batch": 9, "cells": (9, 7)} for name in ("cma-me", "cma-mae")},
    "map-elites": {"popsize": 20, "cells": (9, 7)},
    "dominated-novelty-search": {"popsize": 20, "capacity": 30},
    "novelty-search": {"capacity": 200},
    "ns-es": {"variant": "nsr-es", "capacity": 200},  # which descends, as novelty alone does not
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


@pytest.mark.parametrize("name", [name for name in NAMES if getattr(build(name), "batched", False)])
def test_the_start_points_of_many_runs_are_copied(name: str) -> None:
    keys, x0 = np.stack([bb.key(0), bb.key(1)]), np.full((2, 3), 0.8)
    state = build(name).init(keys, x0)
    before = [(leaf, np.array(array)) for leaf, array in testing.dense.leaves(state)]
    x0 += 7
    for (leaf, array), (_, now) in zip(before, testing.dense.leaves(state), strict=True):
        assert np.array_equal(now, array, equal_nan=True), leaf


@pytest.mark.parametrize("name", NAMES)
def test_populations_of_another_width_are_refused(name: str) -> None:
    strategy = build(name)
    state = strategy.init(bb.key(0), np.full(3, 0.8, np.float32))
    population = strategy.ask(state)
    wide = np.ones((len(population), 5), np.float32)
    message = r"population must have rows of 3 numbers, as x0; got float32 of shape"
    for wrong in (population[:, :1], population[:, :2], wide):
        with pytest.raises(bb.TellError, match=message):
            strategy.tell(state, wrong, wrong.sum(axis=1))
    with pytest.raises(bb.TellError, match=message):
        strategy.tell(state, wide[0, :3], wide[0, :3])
    if name in PURE:
        with pytest.raises(bb.TellError, match=message):
            jax.jit(strategy.tell)(*jax.tree.map(jax.numpy.asarray, (state, wide, wide[:, 0])))


@pytest.mark.parametrize("name", [name for name in NAMES if getattr(build(name), "batched", False)])
def test_populations_of_another_width_are_refused_of_many_runs(name: str) -> None:
    strategy = build(name)
    state = strategy.init(np.stack([bb.key(0), bb.key(1)]), np.full((2, 3), 0.8, np.float32))
    wrong = strategy.ask(state)[..., :1]
    with pytest.raises(bb.TellError, match="population must have rows of 3 numbers"):
        strategy.tell(state, wrong, wrong[..., 0])
    with pytest.raises(bb.TellError, match="population must have rows of 3 numbers"):
        jax.vmap(strategy.tell)(*jax.tree.map(jax.numpy.asarray, (state, wrong, wrong[..., 0])))


def test_the_width_of_mixed_spaces_is_that_of_their_layout() -> None:
    layout = (("choice", 3), ("float",), ("int", (0.5,)), ("choice", 2))
    for given, width in ((layout, 7), (layout[:1] + layout[3:], 5)):
        strategy = bb.create("cat-cma", layout=given)
        state = strategy.init(bb.key(0), np.full(width, 0.5))
        population = strategy.ask(state)
        assert strategy.tell(state, population, population.sum(axis=1)).generation == 1
        for wrong in (population[:, :2], np.ones((len(population), width + 1))):
            with pytest.raises(bb.TellError, match=f"population must have rows of {width} numbers"):
                strategy.tell(state, wrong, wrong.sum(axis=1))


class Doubled(NamedTuple):
    both: Float[np.ndarray, "n 2*d"]
    shared: Float[np.ndarray, "#d"]


MaybeFloat = float | None


@algorithm
class Doubling:
    """A strategy of somebody else, with all that is not to be mistaken."""

    sigma0: MaybeFloat = 0.3
    inner: float = dataclasses.field(init=False)
    made: Any = dataclasses.field(default_factory=lambda: None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", 1.0)

    def init(self, key: Any, x0: Any) -> Any:
        return Doubled(np.zeros((2, 2 * len(x0))), np.zeros(1))

    def ask(self, state: Any, first: int = 0) -> Any:
        return state.both[:, : state.both.shape[1] // 2]

    def tell(self, state: Any, population: Any, fitness: Any) -> Any:
        return state

    def recommend(self, state: Any) -> Any:
        return state.both[0]


def test_nothing_is_refused_that_others_have_every_right_to() -> None:
    strategy = Doubling(sigma0=None)
    state = strategy.init(bb.key(0), np.zeros(4))
    assert strategy.tell(state, strategy.ask(state), np.zeros(2)) is state


def test_states_that_do_not_say_their_width_take_any() -> None:
    @algorithm
    class Last:
        def init(self, key: Any, x0: Any) -> Any:
            return (x0,)

        def ask(self, state: Any, first: int = 0) -> Any:
            return state[0][None, :]

        def tell(self, state: Any, population: Any, fitness: Any) -> Any:
            return (population[0, :],)

        def recommend(self, state: Any) -> Any:
            return state[0]

    strategy: Any = Last()
    assert strategy.tell((np.ones(3),), np.ones((1, 2)), np.ones(1))[0].shape == (2,)


@pytest.mark.parametrize("name", NAMES)
def test_settings_that_are_scalars_of_numpy_are_numbers(name: str) -> None:
    """Whose precision a state in float32 would else be promoted to."""
    of_numpy = {int: np.int64, float: np.float64, bool: np.bool_, str: np.str_}
    plain = build(name)
    settings = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
    given = {k: of_numpy[type(v)](v) for k, v in settings.items() if type(v) in of_numpy}
    strategy = build(name, **given)
    for setting, value in settings.items():
        assert type(getattr(strategy, setting)) is type(value), setting
    assert strategy == plain
    state = strategy.init(bb.key(0), np.full(3, 0.8, np.float32))
    for _ in range(2):
        population = strategy.ask(state)
        assert population.dtype == np.float32
        state = strategy.tell(state, population, testing.dense.sphere(population))
    assert strategy.recommend(state).dtype == np.float32


@pytest.mark.parametrize("name", ["cbo", "snes", "pgpe"])
def test_a_root_of_numpy_keeps_float32(name: str) -> None:
    strategy = bb.create(name, sigma0=np.sqrt(3))
    state = strategy.init(bb.key(0), np.ones(4, np.float32))
    population = strategy.ask(state)
    state = strategy.tell(state, population, testing.dense.sphere(population))
    wide = [leaf for leaf, array in testing.dense.leaves(state) if np.asarray(array).dtype == np.float64]
    assert not wide and strategy.ask(state).dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
def test_settings_without_a_default_of_none_are_not_none(name: str) -> None:
    for field in dataclasses.fields(build(name)):
        if field.default is None:
            build(name, **{field.name: None})
            continue
        with pytest.raises(bb.SettingError, match=rf"{field.name} must be .*; got None"):
            build(name, **{field.name: None})


def test_settings_that_may_be_none_may_be_none() -> None:
    assert bb.create("eggroll", popsize=4, rank=None).rank is None
    assert ConstrainedCBO(inequality=lambda x: x, nu=None).nu is None
    with pytest.raises(bb.SettingError, match=r"sigma0 must be of type float, by default 1\.0; got None"):
        bb.create("cma-es", sigma0=None)


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
DEEP_GA = {"popsize": 16, "truncation": 4, "sigma": 0.05, "n_candidates": 3, "generations": 60}
VIRTUAL: list[tuple[str, dict[str, Any]]] = [
    ("eggroll", {}),
    ("eggroll", {"rank": 3, "shaping": "centered-ranks", "noise": "normal"}),
    ("eggroll", {"rank": None, "shaping": "sign", "noise": "sign"}),
    ("eggroll", {"shaping": "group-relative", "noise": "uniform", "persistent": 3}),
    ("mezo", {"queries": 4, "lr": 0.03}),
    ("deep-ga", DEEP_GA),
    ("deep-ga", DEEP_GA | {"initial": None, "noise": "binom8", "cached": False}),
]


def test_every_virtual_method_sits_the_exam() -> None:
    assert {name for name, _ in VIRTUAL} == {name for name, method in bb.methods().items() if "virtual" in method.tags}


@pytest.mark.parametrize("check", testing.VIRTUAL_CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize(("name", "settings"), VIRTUAL, ids=lambda x: x if isinstance(x, str) else x.get("noise", ""))
def test_law_of_virtual_populations_holds(name: str, settings: dict[str, Any], check: testing.VirtualCheck) -> None:
    check(bb.create(name, **(EGGROLL if name == "eggroll" else {}), **settings), model())


@pytest.mark.parametrize("method", ["eggroll", bb.create("eggroll", popsize=4)])
def test_virtual_methods_do_not_search_spaces(method: Any) -> None:
    with pytest.raises(bb.SettingError, match="trains the parameters of JAX models"):
        bb.Optimizer({"a": bb.Float(0, 1)}, method, budget=10)
    with pytest.raises(bb.SettingError, match="strategy must be one of flat vectors; Eggroll trains"):
        bb.run(bb.create("eggroll", popsize=4), lambda x: x.sum(), np.ones(3), key=bb.key(0), generations=1)
