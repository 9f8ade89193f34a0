"""Integer EGGROLL: no float in the loop, members to the last bit, the scheduled fraction, the range, resuming."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.errors import SettingError
from blackbox.es.integer_eggroll import IntegerEggroll, IntegerEggrollState, signed_ranks, standard_threshold
from blackbox.kernels import xla
from blackbox.problems import egg
from blackbox.shaping import pair_signs
from blackbox.virtual.integer import draw, named, weighted_signs

RNG = np.random.default_rng(3)
TEXT = jnp.asarray(RNG.integers(0, 128, (12, 6)), jnp.uint8)


def model() -> Any:
    """A small language model whose head is not zero, so that members differ from the first generation."""
    params = egg.init(1, width=4, expansion=2)
    return params | {"head": jnp.asarray(RNG.integers(-40, 41, params["head"].shape), jnp.int8)}


def evaluated(state: IntegerEggrollState, strategy: IntegerEggroll, chunk: int | None = None) -> Any:
    population = strategy.ask(state)
    n = len(population)
    return population, bb.evaluate(egg.loss, population, egg.start(state.params, n), TEXT[:n], in_axes=0, chunk=chunk)


@jax.jit
def told(strategy: IntegerEggroll, state: IntegerEggrollState, fitness: Any) -> IntegerEggrollState:
    return strategy.tell(state, strategy.ask(state), fitness)


def equations(jaxpr: Any) -> Iterator[Any]:
    """Of a program and of all programs in it."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(parameter, "eqns") or hasattr(parameter, "jaxpr"):
                yield from equations(parameter)


def dtypes(jaxpr: Any) -> list[Any]:
    """Of every value in a program."""
    variables = [*jaxpr.jaxpr.invars, *jaxpr.jaxpr.outvars, *jaxpr.jaxpr.constvars]
    for equation in equations(jaxpr):
        variables += [*equation.invars, *equation.outvars]
    return [getattr(variable.aval, "dtype", None) for variable in variables]


def is_integral(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.integer) or dtype == jnp.bool_


@pytest.mark.parametrize(("levels", "carry", "x64"), [(1, False, False), (7, True, False), (7, True, True)])
def test_no_float_in_the_training_loop(levels: int, carry: bool, x64: bool) -> None:
    strategy = IntegerEggroll(popsize=12, levels=levels, carry=carry, update_chunk=4)

    def generation(state: IntegerEggrollState, hidden: Any, text: Any) -> Any:
        population = strategy.ask(state)
        losses, hidden = bb.evaluate(egg.loss, population, hidden, text, in_axes=0, chunk=4)
        population = population.reading({"embedding": egg.bytes_read(text)})
        return strategy.tell(state, population, losses), egg.pair_mean(hidden)

    state = strategy.init(bb.key(0), model())
    with jax.enable_x64(x64):
        found = dtypes(jax.make_jaxpr(generation)(state, egg.start(state.params, 12), TEXT))
    assert len(found) > 1000
    assert all(is_integral(dtype) for dtype in found), set(found)


def test_the_search_for_floats_finds_one_in_a_nested_loop() -> None:
    def hidden(n: Any) -> Any:
        return jax.lax.fori_loop(0, n, jax.jit(lambda i, x: x + (i * jnp.float32(0.5)).astype(jnp.int32)), n)

    assert not all(is_integral(dtype) for dtype in dtypes(jax.make_jaxpr(hidden)(3)))


def test_all_members_share_one_product_with_each_matrix() -> None:
    strategy = IntegerEggroll(popsize=12)
    state = strategy.init(bb.key(0), model())
    program = jax.make_jaxpr(lambda state: evaluated(state, strategy)[1])(state)
    products = [equation for equation in equations(program) if equation.primitive.name == "dot_general"]
    assert len(products) == 7  # four of the recurrent unit, two of the hidden layer, the head
    for product in products:
        assert product.params["dimension_numbers"][1] == ((), ())  # no batch of matrices
        members, matrix = sorted((x.aval for x in product.invars), key=lambda x: x.shape[0] != 12)
        assert (members.shape[0], members.dtype, matrix.dtype) == (12, jnp.int8, jnp.int8)


@pytest.mark.parametrize(("sigma", "chunk"), [(1, None), (5, 5)])
def test_factors_give_the_losses_and_states_of_the_formed_members(sigma: int, chunk: int | None) -> None:
    strategy = IntegerEggroll(popsize=12, sigma=sigma)
    population, (losses, states) = evaluated(strategy.init(bb.key(0), model()), strategy, chunk)
    alone = jax.jit(egg.loss)
    for i in (0, 1, 6, 11):
        loss, state = alone(population[i], egg.start(population[i], 1)[0], TEXT[i])
        assert loss == losses[i]
        assert_array_equal(state, states[i])
    assert len(set(np.asarray(losses).tolist())) > 6


def test_members_are_sigma_away_on_both_sides() -> None:
    strategy = IntegerEggroll(popsize=6, sigma=2)
    state = strategy.init(bb.key(0), model())
    population = strategy.ask(state)
    for center, even, odd in zip(*map(jax.tree.leaves, (state.params, population[2], population[3])), strict=True):
        assert even.dtype == jnp.int8
        step = np.asarray(even, int) - np.asarray(center, int)
        assert_array_equal(step, np.asarray(center, int) - np.asarray(odd, int))
        assert_array_equal(np.abs(step), 2)
    assert_array_equal(population[-1]["head"], population[5]["head"])
    assert (len(population), repr(population)[:31]) == (6, "IntegerPopulation(6 members, bi")
    with pytest.raises(IndexError):
        population[6]


def test_update_is_the_sum_over_the_members() -> None:
    strategy = IntegerEggroll(popsize=10, update_chunk=2)
    population = strategy.ask(strategy.init(bb.key(5), {"w": jnp.zeros((5, 3), jnp.int8), "b": jnp.zeros(4, jnp.int8)}))
    f = np.array([1, 0, -3, 7, 2])
    read = RNG.integers(0, 2, (5, 5)).astype(bool)
    noise = [jax.tree.map(np.asarray, population[2 * pair]) for pair in range(5)]  # the center is zero, sigma one
    for chunk in (2, 5):
        (b, b_variance), (w, w_variance) = weighted_signs(population, jnp.asarray(f, jnp.int8), chunk)
        assert_array_equal(b, sum(k * e["b"].astype(int) for k, e in zip(f, noise, strict=True)))
        assert_array_equal(w, sum(k * e["w"].astype(int) for k, e in zip(f, noise, strict=True)))
        assert (b_variance.item(), w_variance.item()) == (63, 63)
        _, (w, variance) = weighted_signs(population.reading({"w": jnp.asarray(read)}), jnp.asarray(f, jnp.int8), chunk)
        assert_array_equal(w, sum(k * r[:, None] * e["w"] for k, r, e in zip(f, read, noise, strict=True)))
        assert_array_equal(variance, (f**2 @ read)[:, None])


def test_rows_that_no_pair_reads_stay() -> None:
    strategy = IntegerEggroll(popsize=64, fraction=0.5)
    state = strategy.init(bb.key(0), {"w": jnp.zeros((3, 200), jnp.int8), "u": jnp.zeros((3, 200), jnp.int8)})
    reads = jnp.asarray(np.arange(32)[:, None] % np.array([1, 8, 99]) == 0).at[:, 2].set(False)  # all, some, no pairs
    population = strategy.ask(state).reading({"w": reads})
    tell = jax.jit(lambda state, fitness: strategy.tell(state, strategy.ask(state).reading({"w": reads}), fitness))
    for _ in range(12):
        state = tell(state, jnp.asarray(RNG.integers(0, 1000, 64)))
    moved = np.mean(np.asarray(state.sums["w"]) != 0, axis=1)
    assert (moved[:2] > 0.9).all()
    assert not np.any(np.asarray(state.params["w"])[2])
    assert moved[2] == 0
    for wrong in ({"v": reads}, {"w": reads[:5]}):
        with pytest.raises(SettingError, match="reads must give rows"):
            population.reading(wrong)


def test_noise_is_that_of_the_specification_by_the_leafs_name() -> None:
    params = {"a": jnp.zeros((100, 60), jnp.int8), "b": jnp.zeros(70, jnp.int8)}
    key, pairs = bb.key(9), jnp.asarray([4, 0, 7])
    for weight, (a, b) in zip(named(params), draw(named(params), key, jnp.asarray(6), pairs), strict=True):
        stream = xla.fold(xla.fold(key, *weight.words), 6)
        both = np.asarray(xla.noise(stream, 0, 8, weight.shape[0] + weight.shape[-1], kind="sign"))[np.asarray(pairs)]
        assert_array_equal(np.concatenate([a, b], axis=1), both)
    alone = draw(named({"b": params["b"]}), key, jnp.asarray(6), pairs)
    assert_array_equal(alone[0][0], draw(named(params), key, jnp.asarray(6), pairs)[1][0])


@pytest.mark.parametrize("carry", [False, True])
def test_random_fitness_moves_the_scheduled_fraction(carry: bool) -> None:
    strategy = IntegerEggroll(popsize=512, fraction=lambda t: np.where(t < 40, 0.2, 0.03), carry=carry)
    state = strategy.init(bb.key(2), {"w": jnp.zeros((128, 128), jnp.int8)})
    moved = []
    for _ in range(120):
        after = told(strategy, state, jnp.asarray(RNG.normal(size=512), jnp.float32))
        moved.append(float(np.mean(np.asarray(after.params["w"]) != np.asarray(state.params["w"]))))
        state = after
    assert np.mean(moved[15:40]) == pytest.approx(0.2, rel=0.05)
    assert np.mean(moved[80:]) == pytest.approx(0.03, rel=0.08)


def test_thresholds_follow_the_schedule() -> None:
    strategy = IntegerEggroll(popsize=200, fraction=lambda t: 0.5 / (1 + t), carry=False, levels=1, horizon=4)
    state = strategy.init(bb.key(0), {"w": jnp.zeros((20, 20), jnp.int8)})
    expected = [64 * NormalDist().inv_cdf(1 - 0.25 / (1 + t)) for t in range(4)]
    assert_array_equal(state.thresholds, np.rint(expected))
    assert standard_threshold(0.3, carry=True) > standard_threshold(0.3, carry=False)


def one_pair_of_sums(strategy: IntegerEggroll, state: IntegerEggrollState, fitness: Any) -> np.ndarray:
    (found, variance), *_ = weighted_signs(strategy.ask(state), signed_ranks(fitness, strategy.levels), 64)
    return np.asarray(found) / np.sqrt(np.asarray(variance))


def test_a_weight_moves_by_one_where_the_sum_exceeds_the_threshold() -> None:
    strategy = IntegerEggroll(popsize=64, fraction=0.2, levels=1, carry=False)
    state = strategy.init(bb.key(1), {"w": jnp.zeros((40, 50), jnp.int8)})
    fitness = jnp.asarray(RNG.integers(0, 9, 64))
    z = one_pair_of_sums(strategy, state, fitness)
    quantile = NormalDist().inv_cdf(0.9)
    moves = np.asarray(strategy.tell(state, strategy.ask(state), fitness).params["w"])
    clear = np.abs(np.abs(z) - quantile) > 0.03  # Z counts in 1 / 64
    assert clear.mean() > 0.8
    assert_array_equal(moves[clear], (np.sign(z) * (np.abs(z) > quantile))[clear])


def test_what_moves_no_weight_is_carried() -> None:
    strategy = IntegerEggroll(popsize=64, fraction=0.05)
    state = strategy.init(bb.key(1), {"w": jnp.zeros((12, 10), jnp.int8)})
    total = np.zeros((12, 10))
    for _ in range(30):
        fitness = jnp.asarray(RNG.integers(0, 1000, 64))
        total += 64 * one_pair_of_sums(strategy, state, fitness)
        state = told(strategy, state, fitness)
    moves = np.asarray(state.params["w"], int)
    assert_allclose(np.asarray(state.sums["w"]) + moves * int(state.thresholds[0]), total, atol=30)
    assert np.abs(moves).max() >= 1
    assert np.abs(state.sums["w"]).max() > 64


def test_weights_and_members_stay_in_range() -> None:
    strategy = IntegerEggroll(popsize=32, fraction=0.7, sigma=4)
    state = strategy.init(bb.key(0), {"w": jnp.full((6, 5), 110, jnp.int8), "b": jnp.full(9, -110, jnp.int8)})

    def outwards(params: Any) -> Any:  # lower the farther out
        return jnp.sum(params["b"].value()) - jnp.sum(params["w"].value())

    @jax.jit
    def generation(state: IntegerEggrollState) -> IntegerEggrollState:
        population = strategy.ask(state)
        return strategy.tell(state, population, bb.evaluate(outwards, population))

    for _ in range(200):
        state = generation(state)
    w, b = np.asarray(state.params["w"]), np.asarray(state.params["b"])
    assert (w.max(), b.min()) == (123, -123)
    assert (w.min() > 118, b.max() < -118) == (True, True)
    assert all(np.abs(z).max() <= int(state.thresholds[0]) for z in jax.tree.leaves(state.sums))  # Z does not wind up
    assert max(int(jnp.max(strategy.ask(state)[i]["w"])) for i in range(4)) == 127


def test_signed_ranks() -> None:
    fitness = jnp.asarray([5, 1, 2, 2, 0, 9, 3, 4])
    assert_array_equal(signed_ranks(fitness, 1), [-1, 0, 1, 1])
    assert_array_equal(signed_ranks(fitness, 4), [-3, 0, 4, 2])
    many = jnp.asarray(RNG.integers(0, 50, 400))
    assert_array_equal(signed_ranks(many, 1), -np.asarray(pair_signs(many.astype(jnp.float32)))[::2])
    counts = np.bincount(np.abs(np.asarray(signed_ranks(jnp.asarray(RNG.normal(size=400)), 5))))
    assert counts.tolist() == [0, 40, 40, 40, 40, 40]


def test_the_language_model_learns_and_a_resumed_run_is_the_same_to_the_last_bit() -> None:
    """A sentence that repeats: within 60 generations the loss is half of that at the start."""
    strategy = IntegerEggroll(popsize=256, fraction=0.3)
    start = strategy.init(bb.key(0), egg.init(0, width=8, expansion=0))
    text = jnp.asarray(np.tile(np.frombuffer(b"abracadabra simsalabim", np.uint8), (256, 3))[:, :40])

    @jax.jit
    def generation(state: IntegerEggrollState) -> Any:
        population = strategy.ask(state)
        losses, _ = bb.evaluate(egg.loss, population, egg.start(state.params, 256), text, in_axes=0)
        return strategy.tell(state, population, losses), losses

    def trained(state: IntegerEggrollState, generations: int) -> tuple[IntegerEggrollState, list[float]]:
        losses = []
        for _ in range(generations):
            state, found = generation(state)
            losses.append(float(np.mean(found)))
        return state, losses

    whole, losses = trained(start, 60)
    assert losses[-1] < 0.5 * losses[0]
    stored = jax.tree.map(np.asarray, trained(start, 25)[0])
    resumed, _ = trained(jax.tree.map(jnp.asarray, stored), 35)
    for a, b in zip(*map(jax.tree.leaves, (whole, resumed)), strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popsize": 7}, "popsize"),
        ({"popsize": 4, "sigma": 0}, "sigma"),
        ({"popsize": 4, "sigma": 128}, "sigma"),
        ({"popsize": 4, "levels": 200}, "levels"),
        ({"popsize": 4, "levels": "a"}, "levels must be an integer >= 1, got .a."),
        ({"popsize": 4, "levels": None}, "levels must be of type int, by default 7; got None"),
        ({"popsize": 2**20, "levels": 7}, r"popsize \* levels\^2"),
        ({"popsize": 4, "fraction": 0.0}, "fraction"),
    ],
)
def test_settings_outside_their_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        IntegerEggroll(**settings)


def test_what_init_does_not_take() -> None:
    strategy = IntegerEggroll(popsize=4)
    with pytest.raises(SettingError, match="w must be a vector or matrix of int8"):
        strategy.init(bb.key(0), {"w": jnp.zeros((3, 3))})
    with pytest.raises(SettingError, match=r"entries of w must be within \+-126"):
        strategy.init(bb.key(0), {"w": jnp.full((3, 3), -127, jnp.int8)})
    with pytest.raises(SettingError, match="below 1 in every generation"):
        IntegerEggroll(popsize=4, fraction=lambda t: 2.0 - t).init(bb.key(0), {"w": jnp.zeros(3, jnp.int8)})
