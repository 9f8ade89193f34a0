"""EGGROLL: factored against formed members, the update against the dense sum, the estimator's moments, training."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import pickle
import subprocess
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import roots_genlaguerre

import blackbox as bb
from blackbox.errors import SettingError, TellError
from blackbox.es.eggroll import Eggroll
from blackbox.kernels import native, ref, xla
from blackbox.kernels.spec import UNIT
from blackbox.perturbed import LowRank, Materialized
from blackbox.virtual import Leaf, NoisePopulation, structure_of, weighted_noise


def network(sizes: tuple[int, ...], seed: int = 0) -> list[dict[str, jax.Array]]:
    rng = np.random.default_rng(seed)
    return [
        {"w": jnp.asarray(rng.normal(size=(m, n)) / m**0.5, jnp.float32), "b": jnp.zeros(n, jnp.float32)}
        for m, n in itertools.pairwise(sizes)
    ]


def forward(params: Any, x: jax.Array) -> jax.Array:
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def loss(params: Any, x: jax.Array) -> jax.Array:
    return jnp.sum(forward(params, x) ** 2)


X = jnp.asarray(np.random.default_rng(5).normal(size=(3, 20)), jnp.float32)


def asked(strategy: Eggroll, params: Any = None, seed: int = 0) -> tuple[Any, NoisePopulation]:
    state = strategy.init(bb.key(seed), network((20, 24, 18)) if params is None else params)
    return state, strategy.ask(state)


@pytest.mark.parametrize(("rank", "chunk"), [(1, None), (1, 5), (3, 4), (None, None), (None, 5)])
def test_evaluation_equals_that_of_each_member(rank: int | None, chunk: int | None) -> None:
    _, population = asked(Eggroll(popsize=10, rank=rank, sigma=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Materialized)
        fitness = bb.evaluate(loss, population, X, chunk=chunk)
    assert_allclose(fitness, [loss(population[i], X) for i in range(10)], rtol=1e-5)


def test_arguments_of_each_member_and_outputs_of_any_form() -> None:
    _, population = asked(Eggroll(popsize=6, sigma=0.1))
    xs = jnp.stack([X * k for k in range(6)])

    def both(params: Any, x: jax.Array, scale: float) -> dict[str, jax.Array]:
        return {"loss": scale * loss(params, x), "outputs": forward(params, x)}

    out = bb.evaluate(both, population, xs, 2.0, in_axes=(0, None), chunk=4)
    assert out["outputs"].shape == (6, 3, 18)
    assert_allclose(out["loss"], [2 * loss(population[i], xs[i]) for i in range(6)], rtol=1e-5)


def test_members_are_mirrored_pairs_and_positions_do_not_matter() -> None:
    _, population = asked(Eggroll(popsize=8, sigma=0.1))
    for even, odd in ((0, 1), (6, 7)):
        for x, y in zip(*(jax.tree.leaves(population.noise(i)) for i in (even, odd)), strict=True):
            assert_array_equal(x, -y)
    few = population.take(jnp.array([5, 2, 3]))
    assert len(few) == 3
    assert_allclose(bb.evaluate(loss, few, X), bb.evaluate(loss, population, X)[jnp.array([5, 2, 3])], rtol=1e-6)
    assert_array_equal(few[0][0]["w"], population[5][0]["w"])


def test_adding_a_layer_moves_no_other_noise() -> None:
    strategy = Eggroll(popsize=4)
    small = {"a": jnp.zeros((20, 20)), "c": jnp.zeros((20, 20))}
    large = {**small, "b": jnp.zeros((20, 20))}
    first, second = (asked(strategy, params)[1].noise(1) for params in (small, large))
    for name in small:
        assert_array_equal(first[name], second[name])
    assert not np.array_equal(second["a"], second["b"])


@pytest.mark.parametrize("rank", [1, 4, None])
@pytest.mark.parametrize("update_chunk", [3, 1024])
def test_update_is_the_dense_sum(rank: int | None, update_chunk: int) -> None:
    strategy = Eggroll(popsize=10, rank=rank, sigma=0.1, optimizer=optax.sgd(1.0), update_chunk=update_chunk)
    state, population = asked(strategy)
    fitness = jnp.asarray(np.random.default_rng(0).normal(size=10), jnp.float32)
    told = strategy.tell(state, population, fitness)
    shaped = (fitness - fitness.mean()) / fitness.std()
    noise = [population.noise(i) for i in range(10)]
    step = jax.tree.map(lambda *e: sum(f * x for f, x in zip(shaped, e, strict=True)) / 10**0.5, *noise)
    for new, old, s in zip(*map(jax.tree.leaves, (told.params, state.params, step)), strict=True):
        assert_allclose(new, old - s, rtol=1e-5, atol=1e-6)


def test_results_of_any_members_may_be_told() -> None:
    """Lost and reordered results: the sum over those that are there."""
    strategy = Eggroll(popsize=10, sigma=0.1)
    state, population = asked(strategy)
    ids = jnp.array([7, 0, 1, 4])
    shaped = jnp.array([0.3, -1.0, 0.5, 0.2])
    parts = weighted_noise(population.take(ids), shaped)
    noise = [population.noise(int(i)) for i in ids]
    expected = jax.tree.map(lambda *e: sum(f * x for f, x in zip(shaped, e, strict=True)), *noise)
    for ours, theirs in zip(parts, jax.tree.leaves(expected), strict=True):
        assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert np.isfinite(strategy.tell(state, population.take(ids), shaped).params[0]["w"]).all()


def members_of(strategy: Eggroll, shape: tuple[int, ...]) -> Any:
    """The population of a matrix of zeros, and a function that gives noise of its even members."""
    population = strategy.ask(strategy.init(bb.key(3), jnp.zeros(shape)))

    def noise(first: int, count: int) -> jax.Array:
        (value,), _ = population.candidates(first + jnp.arange(2 * count))
        return jnp.einsum("pmr,pnr->pmn", value.a[::2], value.b[::2])

    return population, jax.jit(noise, static_argnums=1)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_second_moment_of_the_estimator(rank: int) -> None:
    """(mn + 2 + (2m + 2n + 2) / r) |G|^2 for a linear function and normal factors."""
    m, n, pairs, chunk = 16, 24, 400_000, 20_000
    population, noise = members_of(Eggroll(popsize=2 * pairs, rank=rank, sigma=1.0, noise="normal"), (m, n))
    g = jnp.asarray(np.random.default_rng(1).normal(size=(m, n)), jnp.float32)
    f = bb.evaluate(lambda w: jnp.einsum("mn,mn->", g, w), population, chunk=chunk)[::2]
    squared = jnp.concatenate([jnp.sum(noise(2 * k, chunk) ** 2, axis=(1, 2)) for k in range(0, pairs, chunk)])
    moment = float(jnp.mean(f**2 * squared) / jnp.sum(g**2))
    assert moment == pytest.approx(m * n + 2 + (2 * m + 2 * n + 2) / rank, rel=0.02)


def tanh_moment(rank: int | None) -> float:
    """E[e tanh(2e)] for an entry e of A B^T / sqrt(r) with normal factors, by quadrature; None for a normal e.

    Given A, e is normal with the variance v = |a|^2 / r, and r v has the chi-square law of r degrees of freedom.
    """
    z, w = np.polynomial.hermite_e.hermegauss(120)
    v, p = (np.ones(1), np.ones(1)) if rank is None else roots_genlaguerre(60, rank / 2 - 1)
    e = np.sqrt(v * (2 / rank if rank else 1))[:, None] * z
    return float((p / p.sum()) @ (e * np.tanh(2 * e)) @ (w / w.sum()))


def test_bias_falls_as_one_over_the_rank() -> None:
    """Drawn members are off by c / r of what normal noise gives, c the same to 10 % for r from 8 to 64.

    The square of an entry, whose expected value is one for every rank, takes most of the variance away.
    """
    exact, pairs, chunk = tanh_moment(None), 20_000, 2_000
    constants = []
    for rank in (8, 16, 32, 64):
        _, noise = members_of(Eggroll(popsize=2 * pairs, rank=rank, sigma=1.0, noise="normal"), (16, 16))
        drawn = (noise(2 * k, chunk) for k in range(0, pairs, chunk))
        means = [np.asarray([jnp.mean(e * jnp.tanh(2 * e), (1, 2)), jnp.mean(e * e, (1, 2))], float) for e in drawn]
        values, squares = np.concatenate(means, axis=1)
        slope = np.cov(values, squares)[0, 1] / squares.var()
        constants.append(rank * ((values - slope * (squares - 1)).mean() / exact - 1))
        assert constants[-1] == pytest.approx(rank * (tanh_moment(rank) / exact - 1), rel=0.1)
    assert max(constants) < 0
    assert_allclose(constants, np.mean(constants), rtol=0.1)
    assert tanh_moment(1) / exact - 1 == pytest.approx(-0.226, abs=0.002)


@pytest.mark.parametrize("kind", ["binom8", "normal", "sign", "uniform"])
@pytest.mark.parametrize("rank", [1, 4, None])
def test_noise_has_the_standard_deviation_that_was_asked_for(kind: Any, rank: int | None) -> None:
    """Sigma times the leaf's scale for every entry, whatever the kind, the rank and the form of the leaf."""
    params = {
        "w": jnp.zeros((40, 50)),
        "stack": jnp.zeros((3, 30, 40)),
        "b": jnp.zeros(64),
        "half": jnp.zeros((64, 30)),
    }
    policy = {"stack": Leaf(stacked=1), "half": Leaf(scale=0.5)}
    _, population = asked(Eggroll(popsize=8000, rank=rank, sigma=0.3, noise=kind, policy=policy), params)
    members, _ = population.candidates(jnp.arange(8000))
    for weight, values in zip(population.structure.weights, members, strict=True):
        if isinstance(values, LowRank):
            values = jax.vmap(lambda a, b, v=values: LowRank(v.w, a, b, v.axes).materialise())(values.a, values.b)
        assert float(jnp.std(values)) == pytest.approx(0.15 if weight.name == "half" else 0.3, rel=0.02)


def test_a_policy_leaves_to_the_strategy_what_it_does_not_say() -> None:
    params = {"embed": jnp.zeros((50, 32)), "head": jnp.zeros((256, 10)), "gate": jnp.zeros((4, 4)), "b": jnp.zeros(9)}
    for rank in (4, None):
        _, plain = asked(Eggroll(popsize=4, rank=rank), params)
        _, halved = asked(Eggroll(popsize=4, rank=rank, policy={"*": Leaf(scale=0.5)}), params)
        expected = [dataclasses.replace(weight, multiplier=0.5) for weight in plain.structure.weights]
        assert list(halved.structure.weights) == expected
    _, asked_for = asked(Eggroll(popsize=4, rank=None, policy={"gate": Leaf(rank=2), "embed": Leaf(split=1)}), params)
    found = {weight.name: (weight.noise, weight.rank) for weight in asked_for.structure.weights}
    assert found == {"embed": ("low-rank", 1), "head": ("dense", 1), "gate": ("low-rank", 2), "b": ("dense", 1)}


def test_the_optimizer_sees_the_tree_of_the_parameters() -> None:
    """Masks and labels by leaf, as users of optax write them; leaves without noise are masked."""
    params = {"w": jnp.ones((20, 20)), "b": jnp.ones(20), "frozen": jnp.ones(3), "n": jnp.arange(3), "name": "static"}
    policy = {"frozen": Leaf(noise="frozen")}

    def is_matrix(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == "w", params)

    tie = jnp.zeros(4)
    for optimizer in (
        optax.adamw(0.1, weight_decay=0.5, mask=is_matrix),
        optax.adamw(0.1, weight_decay=0.5, mask={name: name == "w" for name in params}),
        optax.multi_transform(
            {"decayed": optax.adamw(0.1, weight_decay=0.5), "plain": optax.adam(0.1)},
            {name: "decayed" if name == "w" else "plain" for name in params},
        ),
    ):
        strategy = Eggroll(popsize=4, optimizer=optimizer, policy=policy)
        state, population = asked(strategy, params)
        told = strategy.tell(state, population, tie).params
        assert_allclose(told["w"], 0.95, rtol=1e-6)
        assert_array_equal(told["b"], params["b"])
        assert told["name"] == "static"


def test_the_optimizer_is_given_the_mean_fitness() -> None:
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, accumulation_size=1)
    strategy = Eggroll(popsize=4, optimizer=optax.chain(optax.sgd(0.1), plateau))
    state, _ = asked(strategy)
    for better in (0.0, 1.0, 2.0, 2.0, 2.0):  # three generations of improvement, then two without
        state = strategy.tell(state, strategy.ask(state), jnp.array([1.0, 2.0, 3.0, 4.0]) - better)
    assert optax.tree.get(state.optimizer, "scale") == 0.25


def test_late_populations_are_refused_where_noise_is_credited_to_an_episode() -> None:
    strategy = Eggroll(popsize=4, persistent=4)
    state, population = asked(strategy)
    later = strategy.tell(state, population, jnp.arange(4.0))
    with pytest.raises(TellError, match="must be told to the state that it was asked from"):
        strategy.tell(later, population, jnp.arange(4.0))


def test_a_population_of_another_model_is_refused() -> None:
    strategy = Eggroll(popsize=4)
    (state, _), (_, other) = asked(strategy), asked(strategy, {"w": jnp.zeros((20, 20))})
    with pytest.raises(TellError, match="got one whose parameters are another tree"):
        strategy.tell(state, other, jnp.arange(4.0))


def test_what_numpy_changes_afterwards_is_no_part_of_the_state() -> None:
    params = {"w": np.ones((20, 20), np.float32)}
    state, _ = asked(Eggroll(popsize=4), params)
    params["w"][:] = 7
    assert_array_equal(state.params["w"], 1)


@pytest.mark.parametrize("rank", [1, 8])
def test_drawn_perturbations_have_the_law_of_the_theory(rank: int) -> None:
    _, noise = members_of(Eggroll(popsize=40_000, rank=rank, sigma=1.0, noise="normal"), (16, 16))
    # Entries of one diagonal share no factor, so they are independent.
    e = np.diagonal(np.asarray(noise(0, 20_000), np.float64), axis1=1, axis2=2).reshape(-1)
    for values, expected in ((e, 0), (e**2, 1), (e**4, 3 + 6 / rank), (e * np.tanh(2 * e), tanh_moment(rank))):
        assert abs(values.mean() - expected) < 4 * values.std() / len(e) ** 0.5


@pytest.mark.parametrize(("noise", "shaping"), [("binom8", "z-score"), ("normal", "centered-ranks"), ("sign", "sign")])
def test_trains(noise: Any, shaping: Any) -> None:
    target = network((20, 24, 18), seed=9)

    def distance(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean((forward(params, x) - forward(target, x)) ** 2)

    strategy = Eggroll(popsize=128, sigma=0.05, optimizer=optax.adam(0.03), noise=noise, shaping=shaping)
    state = strategy.init(bb.key(0), network((20, 24, 18)))
    x = jax.random.normal(jax.random.key(0), (64, 20))
    before = float(distance(state.params, x))
    for _ in range(60):
        population = strategy.ask(state)
        state = strategy.tell(state, population, bb.evaluate(distance, population, x))
    assert float(distance(strategy.recommend(state), x)) < 0.5 * before


def test_failed_members_are_the_worst_and_all_equal_moves_nothing() -> None:
    strategy = Eggroll(popsize=4, sigma=0.1)
    state, population = asked(strategy)
    told = strategy.tell(state, population, jnp.array([1.0, jnp.nan, 2.0, jnp.inf]))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(told.params))
    same = strategy.tell(state, population, jnp.ones(4))
    for x, y in zip(jax.tree.leaves(same.params), jax.tree.leaves(state.params), strict=True):
        assert_array_equal(x, y)


def test_noise_reuse_and_schedule_of_sigma() -> None:
    strategy = Eggroll(popsize=4, noise_reuse=2, sigma=lambda g: 0.1 * 0.5**g)
    state, first = asked(strategy)
    fitness = jnp.arange(4.0)
    second_state = strategy.tell(state, first, fitness)
    second = strategy.ask(second_state)
    third = strategy.ask(strategy.tell(second_state, second, fitness))
    assert_allclose(first.noise(0)[0]["w"], 2 * second.noise(0)[0]["w"], rtol=1e-6)
    assert not np.allclose(second.noise(0)[0]["w"], 2 * third.noise(0)[0]["w"])


def test_population_is_small_beside_the_mean() -> None:
    params = {"w": jnp.zeros((256, 256)), "name": "static"}
    _, population = asked(Eggroll(popsize=2**20), params)
    assert len(pickle.dumps(population)) - len(pickle.dumps(params)) < 1000
    copy = pickle.loads(pickle.dumps(population))  # noqa: S301
    assert len(copy) == 2**20
    assert_array_equal(copy[12345]["w"], population[12345]["w"])
    assert copy[0]["name"] == "static"


def test_policy_by_path() -> None:
    params = {
        "embed": jnp.zeros((50, 20)),
        "head": {"w": jnp.zeros((20, 50)), "b": jnp.zeros(50)},
        "n": jnp.zeros(3, int),
    }
    policy = {"embed": Leaf(rank=4, scale=2.0), "*/b": Leaf(noise="frozen"), "head/*": Leaf(noise="dense")}
    _, population = asked(Eggroll(popsize=4, policy=policy), params)
    found = {w.name: (w.noise, w.rank, w.multiplier) for w in population.structure.weights}
    assert found == {"embed": ("low-rank", 4, 2.0), "head/w": ("dense", 1, 1.0)}
    assert not population.noise(0)["head"]["b"].any()
    with pytest.raises(SettingError, match=r"policy must give a Leaf for each pattern, got 'frozen' for 'embed'"):
        asked(Eggroll(popsize=4, policy={"embed": "frozen"}), params)
    with pytest.raises(SettingError, match=r"policy: \['nothing'\] match no leaf; the leaves are"):
        asked(Eggroll(popsize=4, policy={"nothing": Leaf()}), params)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popsize": 3}, "popsize must be an even integer >= 2, got 3"),
        ({"popsize": None}, "popsize must be of type int, by default 256; got None"),
        ({"popsize": 4, "optimizer": 0.1}, "optimizer must be one of optax's, such as .*, got 0.1"),
        ({"popsize": 4, "rank": 0}, "rank must be an integer >= 1, got 0"),
        ({"popsize": 4, "sigma": -1.0}, "sigma must be a finite number and > 0, got -1.0"),
        (
            {"popsize": 4, "shaping": "best"},
            "shaping must be one of z-score, .*, group-relative, got 'best'",
        ),
        (
            {"popsize": 4, "noise": "cauchy"},
            "noise must be one of binom8, normal, normal_fast, sign, uniform, got 'cauchy'",
        ),
        ({"popsize": 4, "sigma": np.ones(2)}, "sigma must be a Python number or a function of the generation"),
        ({"popsize": 4, "persistent": 0}, "persistent must be an integer >= 1, got 0"),
        ({"popsize": 8, "shaping": "group-relative", "group_size": 6}, "group_size must divide popsize 8"),
        ({"popsize": 8, "group_size": 4}, "got 4 with 'z-score'"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Eggroll(**settings)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    w: jax.Array
    dtype: Any = dataclasses.field(default=jnp.float32, metadata={"static": True})


@pytest.mark.parametrize("params", [jnp.ones((20, 24)), np.ones((20, 24), np.float32), Layer(jnp.ones((20, 24)))])
def test_params_may_be_one_matrix_or_have_a_dtype_of_their_own(params: Any) -> None:
    _, population = asked(Eggroll(popsize=4), params)
    assert jax.tree.leaves(population[1])[0].shape == (20, 24)


def test_empty_leaves_have_no_noise_and_leaves_of_one_path_are_refused() -> None:
    strategy = Eggroll(popsize=4)
    state, population = asked(strategy, {"w": jnp.ones((20, 24)), "e": jnp.zeros((0, 5))})
    assert population[0]["e"].shape == (0, 5)
    assert strategy.tell(state, population, jnp.arange(4.0)).params["e"].shape == (0, 5)
    with pytest.raises(SettingError, match="two leaves of the path a/b"):
        asked(strategy, {"a/b": jnp.ones(3), "a": {"b": jnp.ones(3)}})


def test_params_without_arrays_are_refused() -> None:
    with pytest.raises(SettingError, match="params has no floating-point array"):
        Eggroll(popsize=4).init(bb.key(0), {"n": jnp.zeros(3, int)})


def test_eight_devices_give_what_one_gives() -> None:
    """Fitness bit for bit with equal chunks; means bit for bit with whole numbers, else to rounding."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    if native.library("lowrank_mix") is not None:  # so small a population would not take it
        environment["BLACKBOX_KERNELS"] = "native"
    script = pathlib.Path(__file__).with_name("eggroll_mesh.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.splitlines() == [
        "whole fitness True mean True",
        "sign fitness True mean True",
        "replicated first fitness True mean True",
        "sharded first fitness True mean True",
        "uneven True True",
        "coordinates True",
        "directions True",
    ], done.stderr


@pytest.mark.parametrize("size", [None, 4])
def test_groups_that_share_data_are_compared_among_themselves(size: int | None) -> None:
    """Less the mean of the group, over the deviation of all: a hard item moves nobody."""
    strategy = Eggroll(popsize=8, optimizer=optax.sgd(1.0), shaping="group-relative", group_size=size)
    state, population = asked(strategy)
    rng = np.random.default_rng(0)
    fitness = rng.normal(size=(8,) if size else (8, 5)).astype(np.float32)
    if size:
        shaped = (fitness.reshape(2, 4) - fitness.reshape(2, 4).mean(1, keepdims=True)).reshape(-1) / fitness.std()
        harder = fitness + np.repeat([0.0, 100.0], 4).astype(np.float32)
    else:
        shaped = ((fitness - fitness.mean(0)) / fitness.std()).mean(1)
        harder = fitness + np.array([0, 0, 100, 0, 0], np.float32)
    told = strategy.tell(state, population, jnp.asarray(fitness))
    steps = weighted_noise(population, jnp.asarray(shaped))
    for new, old, step in zip(jax.tree.leaves(told.params), jax.tree.leaves(state.params), steps, strict=True):
        assert_allclose(new, old - step / 8**0.5, rtol=1e-5, atol=1e-6)
    # With a harder item the direction is the same, and only the common scale differs.
    other = strategy.tell(state, population, jnp.asarray(harder))
    ratio = fitness.std() / harder.std()
    for x, y, old in zip(*map(jax.tree.leaves, (told.params, other.params, state.params)), strict=True):
        assert_allclose((y - old), ratio * (x - old), atol=2e-5)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [({}, (4, 3)), ({"shaping": "group-relative", "group_size": 2}, (4, 3)), ({}, (5,)), ({"shaping": "sign"}, (3,))],
)
def test_fitness_of_other_shape_is_refused(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    strategy = Eggroll(popsize=4, **settings)
    state, population = asked(strategy)
    with pytest.raises(TellError, match="fitness must be"):
        strategy.tell(state, population, jnp.zeros(shape))


def test_pairs_are_told_whole_where_their_order_counts() -> None:
    strategy = Eggroll(popsize=4, shaping="sign")
    state, population = asked(strategy)
    with pytest.raises(TellError, match="all 4 members are told at once, got 2"):
        strategy.tell(state, population.take(jnp.array([0, 2])), jnp.zeros(2))


@pytest.mark.parametrize("kind", ["normal", "normal_fast", "binom8", "sign", "uniform"])
def test_noise_of_any_members_is_that_of_the_reference(kind: Any) -> None:
    keys = np.stack([bb.key(1), bb.key(2**40)])
    members = np.array([3, 0, 2**31 + 5], np.uint32)  # the last one's blocks need more than 32 bits
    for stream, (values, size) in enumerate(
        zip(xla.centered_noise(keys, members, (40, 333), kind), (40, 333), strict=True)
    ):
        for row, member in zip(values, members, strict=True):
            expected = ref.noise(keys[stream], int(member), 1, size, kind)[0]
            if kind == "uniform":
                expected = (expected - 0.5) * UNIT[kind]
            assert_allclose(row * UNIT[kind], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "error"), [(jnp.bfloat16, 0.02), (jnp.int8, 0.02)])
def test_copies_in_few_bits_beside_a_float32_mean(dtype: Any, error: float) -> None:
    params = {"layers": jnp.asarray(np.random.default_rng(0).normal(size=(3, 20, 20)) / 4, jnp.float32)}
    policy = {"layers": Leaf(stacked=1)}

    def scanned(params: Any, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["layers"])[0].mean()

    exact, copied = (Eggroll(popsize=8, sigma=0.1, policy=policy, dtype=d) for d in (None, dtype))
    state = copied.init(bb.key(0), params)
    population = copied.ask(state)
    assert min(x.dtype.itemsize for x in jax.tree.leaves(population.weights)) == jnp.dtype(dtype).itemsize
    with warnings.catch_warnings():
        warnings.simplefilter("error", Materialized)
        fitness = bb.evaluate(scanned, population, X)
    assert_allclose(fitness, [scanned(population[i], X) for i in range(8)], rtol=error, atol=error / 10)
    assert_allclose(fitness, bb.evaluate(scanned, exact.ask(state), X), atol=error)
    assert_allclose(population.center["layers"].astype(jnp.float32), params["layers"], atol=error)
    told = copied.tell(state, population, fitness)
    assert told.params["layers"].dtype == jnp.float32
    # The noise is not rounded with the weights: a step is the same as without the copy.
    for x, y in zip(jax.tree.leaves(told), jax.tree.leaves(exact.tell(state, exact.ask(state), fitness)), strict=True):
        assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((3, 3, 32, 64), "aaab"), ((64, 32, 3, 3), "abbb"), ((11, 11, 3, 96), "aaab"), ((5, 5, 1, 32), "aaab"),
     ((64, 4, 16), "abb"), ((4, 16, 64), "aab"), ((20, 30), "ab")],
)  # fmt: skip
def test_axes_are_split_where_layers_use_them(shape: tuple[int, ...], axes: str) -> None:
    assert structure_of(jnp.zeros(shape), {}, Leaf()).weights[0].axes == axes
