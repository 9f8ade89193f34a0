"""MeZO and its relatives: the written step, weights restored in every bit, masks, subspaces, and training in place."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.errors import SettingError, TellError
from blackbox.testing.virtual import check_total_on_fitness, parameters
from blackbox.virtual import Leaf
from blackbox.zo import in_place
from blackbox.zo.low_rank import LOZO
from blackbox.zo.mezo import MeZO
from blackbox.zo.sparse_mezo import SparseMeZO, magnitude_below

pytestmark = pytest.mark.usefixtures("little_noise_by_compiled_code")


RNG = np.random.default_rng(0)
TARGET = jnp.asarray(RNG.normal(size=(20, 24)), jnp.float32)


def params() -> dict[str, jax.Array]:
    rng = np.random.default_rng(1)
    return {"w": jnp.asarray(rng.normal(size=(20, 24)) / 5, jnp.float32), "b": jnp.full(24, 0.5, jnp.float32)}


def loss(p: dict[str, jax.Array]) -> jax.Array:
    """Smooth, and different in every coordinate."""
    return jnp.mean((jnp.eye(20, dtype=p["w"].dtype) @ p["w"] - TARGET) ** 2) + jnp.mean(
        jnp.cos(p["b"] + jnp.arange(24.0))
    )


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


def bits(tree: Any) -> list[np.ndarray]:
    return [np.asarray(x).view(f"u{x.dtype.itemsize}") for x in jax.tree.leaves(tree)]


def told(strategy: Any, state: Any, function: Any = loss) -> Any:
    population = strategy.ask(state)
    return strategy.tell(state, population, bb.evaluate(function, population))


# ---- ask and tell


@pytest.mark.parametrize("strategy", [SparseMeZO(queries=4, lr=0.03), LOZO(queries=4, lr=0.03, momentum=0.5)])
def test_relatives_keep_the_laws_that_are_their_own(strategy: Any) -> None:
    check_total_on_fitness(strategy, parameters())


WRITTEN = MeZO(queries=3, mu=1e-2, lr=lambda t: 0.1 / (t + 1), weight_decay=0.2, rank=2)


def test_a_step_is_the_written_one() -> None:
    strategy = WRITTEN
    state = strategy.init(bb.key(0), params())
    for t in range(2):
        population = strategy.ask(state)
        fitness = np.random.default_rng(t).normal(size=6)
        x = flat(state.params)
        step = np.zeros_like(x)
        for k in range(3):
            z = flat(population.noise(2 * k)) / 1e-2
            step += (fitness[2 * k] - fitness[2 * k + 1]) / 2e-2 * z / 3
        step[24:] += 0.2 * x[24:]  # of the matrix
        state = strategy.tell(state, population, jnp.asarray(fitness, jnp.float32))
        assert_allclose(flat(state.params), x - 0.1 / (t + 1) * step, rtol=1e-4, atol=1e-5)


def test_pairs_that_failed_or_were_lost_count_nothing() -> None:
    strategy = WRITTEN
    state = strategy.init(bb.key(0), params())
    population = strategy.ask(state)
    fitness = jnp.asarray([3.0, 1.0, jnp.nan, 2.0, 0.5, 1.5])
    whole = strategy.tell(state, population, fitness)
    kept = jnp.array([4, 1, 0, 3, 5])
    some = strategy.tell(state, population.take(kept), fitness[kept])
    assert_allclose(flat(whole.params), flat(some.params), rtol=1e-5, atol=1e-6)
    for values in (jnp.full(6, jnp.nan), jnp.array([jnp.inf, 1, 1, -jnp.inf, jnp.nan, 1])):
        decayed = flat(params()) * np.where(np.arange(504) < 24, 1, 1 - 0.1 * 0.2)  # of the matrix
        assert_allclose(flat(strategy.tell(state, population, values).params), decayed, rtol=1e-6)


# ---- weights that are perturbed where they lie


def hostile(kind: str) -> jax.Array:
    rng = np.random.default_rng(5)
    n = in_place.BLOCK + 77  # a block, and a rest
    values = {
        "zeros": np.zeros(n),
        "ones": np.ones(n),
        "usual": rng.normal(size=n) / 30,
        "tiny": rng.normal(size=n) * 1e-37,
        "large": rng.normal(size=n) * 1e30,
        "wide": rng.normal(size=n) * 10.0 ** rng.uniform(-30, 6, n),
    }
    return jnp.asarray(values[kind], jnp.float32)


UNMASKED = [(kind, False) for kind in ("zeros", "usual", "tiny", "large", "wide")]


@pytest.mark.parametrize(("kind", "masked"), [*UNMASKED, ("wide", True), ("ones", True)])
def test_weights_are_restored_in_every_bit(kind: str, masked: bool) -> None:
    mu, key = jnp.float32(1e-3), jnp.asarray(bb.key(3))
    threshold = magnitude_below(hostile(kind), 0.5) if masked else None
    w, grid = in_place.on_grid(hostile(kind), 6 * mu, threshold)
    assert np.abs(np.asarray(w) - hostile(kind)).max() <= (2 if masked else 0.5) * grid
    before = np.array(w)
    for pair in range(2):
        sides = []
        for side in (1.0, -2.0, 1.0):
            w = in_place.shifted(w, grid, key, jnp.uint32(pair), mu, side, "normal", masked)
            sides.append(np.array(w, np.float64))
        assert_array_equal(np.asarray(w).view(np.uint32), before.view(np.uint32))
        assert_array_equal(sides[0] - before, before - sides[1])  # exact in float64
        if not masked and kind in ("usual", "zeros", "tiny"):
            assert_allclose(np.std(sides[0] - before), 1e-3, rtol=0.01)


def test_noise_in_place_is_the_populations() -> None:
    size = in_place.BLOCK + 36
    population = MeZO(queries=2, mu=1.0).ask(MeZO().init(bb.key(4), jnp.zeros(size)))
    (key,), grid = in_place.keys_of(population), jnp.float32(2.0**-20)
    for pair in (0, 1):
        w = in_place.shifted(jnp.zeros(size), grid, key, jnp.uint32(pair), jnp.float32(1), 1.0, "normal", False)
        assert_allclose(w, population[2 * pair], atol=1e-6)


@pytest.fixture
def whole_compilation() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.usefixtures("whole_compilation")
def test_a_leaf_is_moved_in_its_own_memory() -> None:
    w, scalar = jax.ShapeDtypeStruct((16 * in_place.BLOCK,), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    key, rates = jax.ShapeDtypeStruct((2,), jnp.uint32), jax.ShapeDtypeStruct((1,), jnp.float32)
    pair = jax.ShapeDtypeStruct((), jnp.uint32)
    for lowered in (
        in_place.on_grid.lower(w, scalar, None),
        in_place.on_grid.lower(w, scalar, scalar),
        in_place.shifted.lower(w, scalar, key, pair, scalar, scalar, "normal", True),
        in_place.trained.lower(w, scalar, key, key, rates, scalar, "normal", False),
    ):
        memory = lowered.compile().memory_analysis()
        assert memory.alias_size_in_bytes >= 64 * in_place.BLOCK
        assert memory.temp_size_in_bytes < 16 * in_place.BLOCK
    assert magnitude_below.lower(w, scalar).compile().memory_analysis().temp_size_in_bytes < 8 * in_place.BLOCK


def test_updates_below_the_grid_are_right_on_average() -> None:
    n, key = 2**18, jnp.asarray(bb.key(0))
    w, grid = in_place.on_grid(jnp.ones(n), jnp.float32(6e-3))
    rate = 0.02 * float(grid)
    z = in_place.shifted(jnp.zeros(n), jnp.float32(2.0**-20), key, jnp.uint32(0), jnp.float32(1), 1.0, "normal", False)
    moved = in_place.trained(w, grid, key, key + 1, jnp.full(1, rate), jnp.float32(0), "normal", False)
    steps = (1 - np.asarray(moved, np.float64)) / float(grid)
    assert_array_equal(steps, np.round(steps))
    assert float(np.dot(steps, z) / np.dot(z, z)) == pytest.approx(0.02, rel=0.1)
    assert 0.01 < np.mean(steps != 0) < 0.03  # rounded to nearest none would move


STRATEGIES = [
    MeZO(queries=2, lr=0.02, policy={"w": Leaf(rank=1, scale=0.5), "b": Leaf(scale=2.0)}, noise="sign"),
    SparseMeZO(queries=2, lr=0.02, sparsity=0.6, weight_decay=0.1),
    LOZO(queries=2, lr=0.02, interval=2, momentum=0.5, weight_decay=0.1),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_training_in_place_is_ask_and_tell(strategy: Any) -> None:
    state, ours, step = (*(strategy.init(bb.key(0), params()) for _ in range(2)), strategy.step(loss))
    for t in range(3):
        value = float(loss(state.params))
        state = told(strategy, state)
        ours, mean = step(ours)
        assert float(mean) == pytest.approx(value, rel=1e-3)
        assert int(ours.generation) == t + 1
    assert_allclose(flat(ours.params), flat(state.params), atol=3e-5)
    assert np.abs(flat(state.params) - flat(params())).max() > 5e-3


@pytest.mark.parametrize("strategy", [MeZO(queries=2, lr=0.0), SparseMeZO(queries=2, lr=0.0)])
def test_a_step_of_length_zero_changes_no_bit(strategy: Any) -> None:
    step = strategy.step(loss)
    state, _ = step(strategy.init(bb.key(0), params()))
    after = bits(state.params)
    for _ in range(2):
        state, _ = step(state)
        for x, y in zip(bits(state.params), after, strict=True):
            assert_array_equal(x, y)
    assert_allclose(flat(state.params), flat(params()), atol=2.0**-22)


def test_a_loss_may_be_any_function_and_its_failure_changes_nothing() -> None:
    seen = []

    def crude(p: dict[str, jax.Array], scale: float) -> float:
        seen.append(flat(p))
        return scale * float(np.sum(np.abs(seen[-1])))

    state, value = MeZO(lr=0.0).step(crude, jit=False)(MeZO().init(bb.key(0), params()), 2.0)
    assert_allclose(seen[0] + seen[1], 2 * flat(state.params), atol=1e-6)
    assert np.std(seen[0] - seen[1]) == pytest.approx(2e-3, rel=0.1)
    assert float(value) == pytest.approx(np.sum(np.abs(seen[0])) + np.sum(np.abs(seen[1])), rel=1e-5)
    failing = MeZO(lr=1.0).step(lambda p: jnp.log(-jnp.sum(p["b"])))
    first, mean = failing(MeZO().init(bb.key(0), params()))
    assert np.isnan(mean)
    assert_allclose(flat(first.params), flat(params()), atol=2.0**-22)


def test_differences_of_values_are_taken_in_the_precision_that_they_have() -> None:
    slope = RNG.normal(size=504)

    def crude(p: dict[str, jax.Array], offset: float) -> float:
        return offset + float(slope @ flat(p))

    step = MeZO(lr=1e-3).step(crude, jit=False)
    near, far = (step(MeZO().init(bb.key(0), params()), offset)[0].params for offset in (0.0, 2.0**30))
    assert_allclose(flat(far), flat(near), atol=1e-6)
    assert np.abs(flat(near) - flat(params())).max() > 1e-3


def test_a_loss_of_another_kind_is_named_and_the_state_can_still_be_used() -> None:
    state = MeZO().init(bb.key(0), params())
    for wrong, message in (
        (lambda p: p["b"], "loss must give one real number, got float32 of shape (24,)"),
        (lambda p: None, "loss must give one real number, got None"),
        (lambda p: "low", "returned a value of type <class 'str'>"),  # as JAX has it
    ):
        with pytest.raises(TypeError if "str" in message else TellError, match=re.escape(message)):
            MeZO().step(wrong)(state)
    moved, _ = MeZO().step(loss)(state)
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))  # but by a step that was made it is used up
    expected, _ = MeZO().step(loss)(MeZO().init(bb.key(0), params()))
    assert_array_equal(flat(moved.params), flat(expected.params))


@pytest.mark.parametrize("strategy", [MeZO(lr=1e-2), SparseMeZO(lr=1e-2), LOZO(lr=1e-2)], ids=repr)
def test_an_exception_in_the_loss_gives_the_parameters_back(strategy: Any) -> None:
    calls = []

    def failing(p: Any) -> jax.Array:
        calls.append(p)
        if len(calls) in (1, 3):  # in each half of the pair
            raise KeyboardInterrupt
        return loss(p)

    state, kept = strategy.init(bb.key(0), params()), []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt) as caught:
            strategy.step(failing, jit=False)(state)
        state = state._replace(params=caught.value.params)  # type: ignore[attr-defined]
        kept.append(flat(state.params).copy())
    np.testing.assert_allclose(kept[0], flat(params()), rtol=1e-6, atol=1e-6)  # rounded to their grids
    assert_array_equal(kept[1], kept[0])
    moved, _ = strategy.step(failing, jit=False)(state)
    expected, _ = strategy.step(loss)(strategy.init(bb.key(0), params()))
    np.testing.assert_allclose(flat(moved.params), flat(expected.params), atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Sealed(Exception):
    """Takes no attribute."""


def test_what_a_user_gives_may_fail_and_the_parameters_are_not_lost() -> None:
    def sealed(p: Any) -> Any:
        raise Sealed

    def no_rate(generation: Any) -> float:
        raise IndexError

    for strategy in (MeZO(), LOZO()):
        state = strategy.init(bb.key(0), params())
        with pytest.raises(IndexError):
            dataclasses.replace(strategy, lr=no_rate).step(loss)(state)
        assert not any(x.is_deleted() for x in jax.tree.leaves(state.params))
        with pytest.raises(TellError, match="loss raised Sealed") as caught:
            strategy.step(sealed, jit=False)(state)
        assert isinstance(caught.value.__cause__, Sealed)
        np.testing.assert_allclose(flat(caught.value.params), flat(params()), rtol=1e-6, atol=1e-6)  # type: ignore[attr-defined]


def test_arrays_that_are_shared_or_of_numpy_are_trained_as_their_copies() -> None:
    memory = np.empty(24 + 16, np.float32)
    numbers = memory[-memory.ctypes.data % 64 // 4 :][:24]  # aligned, where JAX may use NumPy's memory
    numbers[:] = 0.5
    a, b, c = (params()["b"] for _ in range(3))
    step = MeZO(lr=1e-2).step(lambda p: jnp.sum(p["x"]) + jnp.sum(p["y"] ** 2))
    moved = []
    for tree in ({"x": a, "y": b}, {"x": c, "y": c}, {"x": numbers, "y": numbers}):
        state = MeZO().init(bb.key(0), tree)
        numbers[:] = 3.0  # by who owns it
        moved.append(flat(step(state)[0].params))
        assert np.all(numbers == 3)
        numbers[:] = 0.5
    assert_array_equal(moved[1], moved[0])
    assert_array_equal(moved[2], moved[0])
    assert not np.array_equal(moved[0][:24], moved[0][24:])


def test_half_precision_is_for_low_rank() -> None:
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params())
    with pytest.raises(SettingError, match="b is bfloat16, where most of mu z is lost in rounding"):
        MeZO(rank=2).init(bb.key(0), half)
    half["b"] = params()["b"]
    strategy = MeZO(queries=2, rank=2, lr=0.02)
    told_, stepped = told(strategy, strategy.init(bb.key(0), half)).params, strategy.step(loss)
    moved = stepped(strategy.init(bb.key(0), jax.tree.map(jnp.copy, half)))[0].params
    for x, y, start in zip(*map(jax.tree.leaves, (told_, moved, half)), strict=True):
        assert x.dtype == y.dtype == start.dtype
        assert np.any(np.asarray(x, np.float32) != np.asarray(start, np.float32))
        assert_allclose(
            np.asarray(x, np.float32), np.asarray(y, np.float32), atol=1e-2 if x.dtype == half["w"].dtype else 1e-5
        )


def test_roundings_by_lot_keep_the_mean() -> None:
    x = jnp.asarray(RNG.normal(size=500), jnp.float32)
    for dtype, unit in ((jnp.bfloat16, 2.0**-7), (jnp.float16, 2.0**-10)):
        lots = jnp.asarray(RNG.uniform(size=(4000, 500)), jnp.float32)
        drawn = np.asarray(in_place.rounded(jnp.broadcast_to(x, lots.shape), lots, dtype), np.float64)
        assert np.all(np.abs(drawn - x) <= unit * np.abs(x))
        assert_allclose(drawn.mean(axis=0), x, atol=5 * unit * np.abs(x).max() / 4000**0.5)


# ---- the relatives


def test_the_largest_weights_stay() -> None:
    strategy = SparseMeZO(sparsity=0.75, lr=0.05, mu=0.05)
    step = strategy.step(loss)
    state, _ = step(strategy.init(bb.key(0), params()))
    for h, x in zip(state.thresholds, (params()["b"], params()["w"]), strict=True):
        assert h == np.sort(np.abs(np.ravel(x)))[int(np.ceil(0.25 * x.size)) - 1]
    w, h = np.array(state.params["w"]), float(state.thresholds[1])
    fixed = np.abs(np.asarray(params()["w"])) > h
    assert 0.74 < fixed.mean() < 0.76
    population = strategy.ask(state)
    assert np.all((np.asarray(population.noise(0)["w"]) == 0) == (np.abs(w) > h))
    for _ in range(5):
        state, _ = step(state)
    assert_array_equal(np.asarray(state.params["w"])[fixed], w[fixed])
    assert np.mean(np.asarray(state.params["w"])[~fixed] != w[~fixed]) > 0.5
    outgrown = (np.abs(np.asarray(state.params["w"])) > h) & ~fixed
    assert outgrown.any()
    grown = np.array(state.params["w"])[outgrown]
    state, _ = step(state)
    assert_allclose(np.asarray(state.params["w"])[outgrown], grown, atol=2.0**-22)  # rounded to be odd, no more


def test_subspaces_last_for_an_interval_and_momentum_is_carried_over() -> None:
    rank, interval, beta, lr, mu = 2, 3, 0.7, 0.05, 1e-2
    strategy = LOZO(queries=2, rank=rank, interval=interval, momentum=beta, lr=lr, mu=mu)
    state = strategy.init(bb.key(0), {"w": params()["w"]})
    x, n, before = flat(state.params).reshape(20, 24), np.zeros((20, rank)), np.zeros((24, rank))
    m_first = LOZO(rank=rank).ask(state).structure.weights[0].split  # the axis that U belongs to
    assert m_first == 1
    for t in range(2 * interval):
        population = strategy.ask(state)
        fitness = np.random.default_rng(t).normal(size=4)
        members = population.candidates(jnp.arange(4))[0][0]
        u, v = np.asarray(members.a, np.float64) / mu * rank**0.5, np.asarray(members.b[0], np.float64)
        for i in range(4):
            sign = 1 - 2 * (i % 2)
            z = sign * u[i] @ v.T / rank**0.5
            assert_allclose(population.noise(i)["w"], sign * mu * z, atol=1e-5)
            assert_array_equal(members.b[i], members.b[0])
        if t % interval == 0 and t:
            assert not np.allclose(v, before)
            n = n @ before.T @ v / 24
        elif t:
            assert_allclose(v, before)
        slopes = (fitness[::2] - fitness[1::2]) / (2 * mu)
        n = beta * n + (1 - beta) * np.mean(slopes[:, None, None] * u[::2], axis=0)
        x, before = x - lr * n @ v.T / rank**0.5, v
        state = strategy.tell(state, population, jnp.asarray(fitness, jnp.float32))
        assert_allclose(state.params["w"], x, atol=1e-3)
        assert_allclose(state.momentum[0], n, rtol=1e-3, atol=1e-3)


# ---- arguments


@pytest.mark.parametrize("cls", [MeZO, SparseMeZO, LOZO])
def test_settings_are_checked(cls: Any) -> None:
    for setting in (
        {"queries": 0},
        {"mu": 0.0},
        {"lr": -1.0},
        {"lr": None},
        {"weight_decay": -1.0},
        {"noise": "cauchy"},
    ):
        with pytest.raises(SettingError, match=f"^{next(iter(setting))} must be"):
            cls(**setting)


def test_settings_of_each_are_checked() -> None:
    for cls, setting in ((MeZO, {"rank": 0}), (SparseMeZO, {"sparsity": 1.0}), (LOZO, {"interval": 0})):
        with pytest.raises(SettingError, match=f"^{next(iter(setting))} must be"):
            cls(**setting)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="policy must give dense noise or none, got low rank for w"):
        SparseMeZO(policy={"w": Leaf(rank=2)}).init(bb.key(0), params())
    strategy = MeZO()
    state = strategy.init(bb.key(0), params())
    with pytest.raises(TellError, match="one whose parameters are another tree"):
        strategy.tell(state, strategy.ask(strategy.init(bb.key(0), {"w": jnp.zeros(3)})), jnp.zeros(2))
    with pytest.raises(TellError, match=re.escape("fitness must be real numbers of shape (n,)")):
        strategy.tell(state, strategy.ask(state), jnp.zeros((2, 3)))
