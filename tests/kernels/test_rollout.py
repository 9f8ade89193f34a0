"""Episodes of classic control: the same bits from every backend, weights formed from seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simulator
from jax.sharding import PartitionSpec
from numpy.testing import assert_array_equal
from rollout_cases import HIDDEN, KEY, NAMES, SOURCES, assert_same, case, expected, prepared

import blackbox as bb
from blackbox.kernels import LowRankWeights, SummedWeights, device, native, ref, rollout, seedsum
from blackbox.kernels.environments import ENVIRONMENTS, dimension_of

needs_compiler = pytest.mark.skipif(native.library("rollout") is None, reason="no C++ compiler")
FALL = np.array([0.24, 0.6, 3.0 * 0.21, 3.0])  # push towards where the pole falls, a little against the drift
BALANCE = np.concatenate([np.stack([-FALL, FALL], axis=1).ravel(), [0.0, 0.0]])


# ---- episodes


def test_a_known_policy_keeps_the_pole_up() -> None:
    starts = np.random.default_rng(0).uniform(-0.05, 0.05, (20, 4)).astype(np.float32)
    for impl in ("ref", "auto"):
        returns, lengths = rollout("CartPole-v1", (), np.stack([BALANCE, -BALANCE]), starts, impl=impl)  # type: ignore[arg-type]
        assert (returns[0] == 500).all() and (lengths[0] == 500).all()
        assert (returns[1] < 15).all()
        assert_array_equal(returns, lengths)


@needs_compiler
@pytest.mark.parametrize("name", ["Acrobot-v1", "CartPole-v1"])
def test_episodes_of_many_lengths_have_the_bits_of_the_reference(name: str) -> None:
    """From first states far apart, so that when an episode ends tells what the dynamics did."""
    environment, rng = ENVIRONMENTS[name], np.random.default_rng(0)
    spread = 3.0 if name == "Acrobot-v1" else 0.2
    starts = rng.uniform(-spread, spread, (9, environment.state)).astype(np.float32)
    population = rng.normal(size=(12, dimension_of(environment.sizes((5,))))).astype(np.float32)
    setting, arrays = prepared(name, (5,), population, 120)
    wanted = ref.rollout(setting, arrays, starts)
    assert len(np.unique(wanted[1])) > 10
    assert_same(native.rollout(setting, arrays, starts), wanted)
    assert_same(device.rollout(simulator.launcher(7, threads=32), setting, arrays, starts), wanted)


@needs_compiler
@pytest.mark.parametrize("name", NAMES)
def test_policies_and_episodes_are_those_of_the_control_tasks(name: str) -> None:
    from blackbox.problems.control import JaxControl

    task = JaxControl(name, hidden=(7,), episodes=3)
    population = np.random.default_rng(1).uniform(-1, 1, (8, task.dimension)).astype(np.float32)
    returns, _ = rollout(name, (7,), population, task.starts())
    costs = np.asarray(jax.jit(jax.vmap(task))(population))
    assert np.median(np.abs(returns.mean(1) + costs)) <= 2e-3  # roundings, which may move an end by a step
    np.testing.assert_allclose(-returns.mean(1), costs, rtol=0.05)


# ---- the same bits


@needs_compiler
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", NAMES)
def test_compiled_episodes_have_the_bits_of_the_reference(name: str, source: str) -> None:
    for hidden in HIDDEN:
        for steps, *more in ((40, 3, 2), (12, 1, 1), (9, 1, 37), (9, 41, 1)):
            weights, starts = case(name, hidden, source, *more)
            assert_same(rollout(name, hidden, weights, starts, steps=steps, impl="native"),
                        expected(name, hidden, source, steps, *more))  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("name", NAMES)
def test_whole_episodes_have_the_bits_of_the_reference(name: str) -> None:
    steps = ENVIRONMENTS[name].steps
    weights, starts = case(name, (5,), "seeds", 30, 2)
    got = rollout(name, (5,), weights, starts, impl="native")
    assert_same(got, expected(name, (5,), "seeds", steps, 30, 2))
    assert got[1].max() <= steps and (len(np.unique(got[1])) > 5 or name != "CartPole-v1")


@needs_compiler
@pytest.mark.parametrize("kind", native.KINDS)
def test_every_kind_of_noise_has_the_bits_of_the_reference(kind: Any) -> None:
    launch = simulator.launcher(7, threads=64)
    for source in ("genomes", "low rank"):
        weights, starts = case("CartPole-v1", (17, 18), source, 3, 2, kind)
        wanted = expected("CartPole-v1", (17, 18), source, 30, 3, 2, kind)
        assert_same(rollout("CartPole-v1", (17, 18), weights, starts, steps=30, impl="native"), wanted)
        setting, arrays = prepared("CartPole-v1", (17, 18), weights, 30)
        assert_same(device.rollout(launch, setting, arrays, starts), wanted)


@needs_compiler
@pytest.mark.parametrize("order", simulator.ORDERS)
@pytest.mark.parametrize("threads", [1, 32, 256])
@pytest.mark.parametrize("name", NAMES)
def test_grids_have_the_bits_of_the_reference(
    name: str, threads: int, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in SOURCES:
        for hidden in HIDDEN[1:] if source.startswith("low") else HIDDEN[:3]:
            weights, starts = case(name, hidden, source)
            setting, arrays = prepared(name, hidden, weights, 9)
            wanted = expected(name, hidden, source, 9)
            for busy in (1, 1 << 17):  # a member's episodes in one block, and one in each
                monkeypatch.setattr(device, "_BUSY", busy)
                assert_same(device.rollout(simulator.launcher(order, threads=threads), setting, arrays, starts), wanted)


@needs_compiler
def test_blocks_may_play_several_members() -> None:
    weights, starts = case("CartPole-v1", (17, 18), "low rank", 5, 3)
    setting, arrays = prepared("CartPole-v1", (17, 18), weights, 20)

    def few(call: device.Launch, *arrays: Any) -> tuple[np.ndarray, ...]:
        return simulator.launcher(7)(replace(call, blocks=(2, 2)), *arrays)

    assert_same(device.rollout(few, setting, arrays, starts), expected("CartPole-v1", (17, 18), "low rank", 20, 5, 3))


@needs_compiler
def test_rows_may_be_played_in_pieces() -> None:
    weights, starts = case("CartPole-v1", (5,), "genomes", 40, 3)
    setting, arrays = prepared("CartPole-v1", (5,), weights, 60)
    returns, lengths = np.full((40, 3), np.nan, np.float32), np.full((40, 3), -1, np.int32)
    scalars = native.rollout_scalars(setting, arrays.base.shape, arrays.factors.shape, 3)
    buffers = np.array([x.ctypes.data for x in (*arrays, starts, returns, lengths)], np.uintp)
    library = native.library("rollout")
    assert library is not None
    for begin, end in ((30, 40), (0, 1), (1, 30)):
        library.bb_rollout(buffers.ctypes.data, scalars.ctypes.data, begin, end)
    assert_same((returns, lengths), expected("CartPole-v1", (5,), "genomes", 60, 40, 3))


@needs_compiler
@pytest.mark.parametrize("source", SOURCES)
def test_programs_of_jax_have_the_bits_of_the_reference(source: str) -> None:
    weights, starts = case("CartPole-v1", (17, 18), source, 40, 2)
    wanted = expected("CartPole-v1", (17, 18), source, 30, 40, 2)
    fields = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in vars(weights).items()}
    assert_same(rollout("CartPole-v1", (17, 18), type(weights)(**fields), starts, steps=30), wanted)


@needs_compiler
def test_loops_maps_and_shards_have_the_same_bits() -> None:
    weights, starts = case("Pendulum-v1", (5,), "seeds", 8, 2)
    assert isinstance(weights, SummedWeights)
    base, members = jnp.asarray(weights.base), jnp.asarray(weights.members)
    sigmas = jnp.float32([0.1, 0.2, 0.7])

    def returns(sigma: jax.Array, base: jax.Array, members: jax.Array) -> jax.Array:
        source = SummedWeights(base, KEY, jnp.broadcast_to(sigma, members.shape), members)
        return rollout("Pendulum-v1", (5,), source, starts, steps=20)[0]

    def by_reference(sigma: float) -> np.ndarray:
        source = SummedWeights(weights.base, KEY, np.full((8, 1), sigma, np.float32), weights.members)  # type: ignore[union-attr]
        return rollout("Pendulum-v1", (5,), source, starts, steps=20, impl="ref")[0]

    wanted = np.stack([by_reference(sigma) for sigma in sigmas.tolist()])
    mapped = jax.jit(jax.vmap(returns, (0, None, None)))(sigmas, base, members)
    _, scanned = jax.lax.scan(lambda carry, sigma: (carry, returns(sigma, base, members)), 0, sigmas)
    assert_same((mapped, scanned), (wanted, wanted))
    mesh = jax.make_mesh((len(jax.devices()),), ("members",), axis_types=(jax.sharding.AxisType.Auto,))
    part = PartitionSpec("members")
    sharded = jax.shard_map(
        returns, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec(), part), out_specs=part, check_vma=False
    )
    assert_same([jax.jit(sharded)(sigmas[1], base, members)], wanted[1:2])

    stored = jnp.stack([base.repeat(3, 0), 2 * base.repeat(3, 0)])
    both = jax.vmap(lambda population: rollout("Pendulum-v1", (5,), population, starts, steps=20)[0])(stored)
    for population, got in zip(stored, both, strict=True):
        assert_same([got], [rollout("Pendulum-v1", (5,), np.asarray(population), starts, steps=20, impl="ref")[0]])


@needs_compiler
@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_no_numbers_end_no_episode_otherwise(name: str) -> None:
    weights, starts = case(name, (5,), "stored", 4, 2)
    broken = np.array(weights.base)
    broken[0], broken[1, 3], broken[2, -1], broken[3, 0] = np.nan, np.inf, np.nan, -3e38
    wanted = rollout(name, (5,), broken, starts, steps=50, impl="ref")
    setting, arrays = prepared(name, (5,), broken, 50)
    grid = device.rollout(simulator.launcher(7), setting, arrays, starts)
    for got in (rollout(name, (5,), broken, starts, steps=50, impl="native"), grid):
        assert_array_equal(got[0], wanted[0])
        assert_array_equal(got[1], wanted[1])


# ---- without compiled code

WITHOUT = """
import warnings, numpy as np, jax.numpy as jnp
from blackbox.kernels import rollout
starts = np.zeros((2, 4), np.float32)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for array in (np.asarray, jnp.asarray, np.asarray):
        returns, lengths = rollout("CartPole-v1", (), np.zeros((3, 10), np.float32), array(starts))
        assert (np.asarray(lengths) == 9).all() and (np.asarray(returns) == 9).all(), lengths
(notice,) = [str(warning.message) for warning in caught if "compiled code" in str(warning.message)]
print(notice)
"""


def test_without_a_compiler_all_works_after_one_notice(tmp_path: Path) -> None:
    environment = os.environ | {"CXX": "no-such-compiler", "BLACKBOX_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kernels run without compiled code, rollouts take")


@pytest.mark.parametrize(
    ("name", "source"), [*((name, "stored") for name in NAMES), *((NAMES[0], x) for x in SOURCES[1:])]
)
def test_without_compiled_code_episodes_differ_by_roundings(name: str, source: str) -> None:
    weights, starts = case(name, (17, 18), source, 8, 2)
    returns, lengths = rollout(name, (17, 18), weights, jnp.asarray(starts), steps=12, impl="xla")
    wanted_returns, wanted_lengths = expected(name, (17, 18), source, 12, 8, 2)
    np.testing.assert_allclose(returns, wanted_returns, rtol=1e-3, atol=1e-3)
    assert_array_equal(lengths, wanted_lengths)


# ---- weights


def test_summed_weights_are_sums_in_chunks_of_one_term() -> None:
    weights, _ = case("CartPole-v1", (5,), "genomes")
    assert isinstance(weights, SummedWeights)
    setting, arrays = prepared("CartPole-v1", (5,), weights, 1)
    (sums,) = seedsum(KEY[None], [weights.base], weights.weights, weights.members, chunk=1)
    assert_same([ref.formed(setting, arrays)], [sums])


@pytest.mark.parametrize("kind", ["normal", "binom8"])
def test_low_rank_weights_are_the_members_of_a_virtual_population(kind: Any) -> None:
    pytest.importorskip("quax")
    from blackbox.virtual.leaves import Leaf, streams, structure_of
    from blackbox.virtual.noise import NoisePopulation

    sizes, rng = ENVIRONMENTS["Acrobot-v1"].sizes((20, 16)), np.random.default_rng(0)
    params = [(rng.normal(size=(a, b)).astype("f"), rng.normal(size=b).astype("f")) for a, b in pairwise(sizes)]
    structure = structure_of(params, {}, Leaf("low-rank", rank=3))
    centers = tuple(map(jnp.asarray, jax.tree.leaves(params)))
    key, generation, sigma, popsize = jnp.asarray(KEY), jnp.int32(4), 0.1, 6
    population = NoisePopulation(centers, (), structure, key, generation, jnp.float32(sigma), None, popsize, kind)
    ids = np.arange(popsize)
    source = LowRankWeights(
        np.concatenate([x.ravel() for layer in params for x in layer])[None],
        np.asarray(streams(structure.weights, key, generation)),
        np.where(ids % 2, -sigma, sigma).astype(np.float32), ids // 2, rank=3, kind=kind,
    )  # fmt: skip
    setting, arrays = prepared("Acrobot-v1", (20, 16), source, 1)
    for row, member in zip(ref.formed(setting, arrays), (population[i] for i in range(popsize)), strict=True):
        np.testing.assert_allclose(row, np.concatenate([np.ravel(x) for x in jax.tree.leaves(member)]), atol=2e-6)


@pytest.mark.parametrize("impl", ["auto", "ref", "xla"])
@pytest.mark.parametrize(("n", "episodes"), [(0, 3), (2, 0)])
def test_nobody_and_no_episode_have_their_shapes(n: int, episodes: int, impl: Any) -> None:
    for array in (np.asarray, jnp.asarray):
        starts = array(np.zeros((episodes, 2), np.float32))
        returns, lengths = rollout("Pendulum-v1", (3,), np.zeros((n, 16), np.float32), starts, steps=3, impl=impl)
        assert returns.shape == lengths.shape == (n, episodes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "Walker"}, r"env must be one of CartPole-v1, .*; got 'Walker'"),
        ({"hidden": [3]}, r"hidden must be a tuple of at most 8 integers >= 1; got \[3\]"),
        ({"hidden": (0,)}, r"hidden must be .*; got \(0,\)"),
        ({"hidden": (5000, 5000)}, r"hidden must give a network of at most 16777216 weights; got \(5000, 5000\)"),
        ({"hidden": (1,) * 9}, r"hidden must be a tuple of at most 8"),
        ({"source": np.zeros((2, 5))}, r"source must be of shape \(n, 10\) for this network; got \(2, 5\)"),
        ({"base": np.zeros((4, 10))}, r"base must be of shape \(3 or 1, 10\); got \(4, 10\)"),
        ({"key": np.zeros((1, 2))}, r"key must be an array of uint32 of shape \(2,\), got float64 of shape \(1, 2\)"),
        ({"members": np.zeros((3, 2), int)}, r"weights and members must be of one shape \(n, terms\); got \(3, 1\)"),
        ({"members": np.zeros((3, 1))}, "members must be an array of integers, got float64"),
        ({"starts": [[0.0] * 4]}, "starts must be an array of real numbers, got"),
        ({"members": np.full((3, 1), -1)}, r"members must be from 0 to 2\*\*32 - 1; got -1 to -1"),
        ({"kind": "gaussian"}, "kind must be one of normal, uniform, sign, binom8, normal_fast, got 'gaussian'"),
        ({"starts": np.zeros(4)}, r"starts must be of shape \(episodes, 4\) for CartPole-v1; got \(4,\)"),
        ({"steps": 0}, "steps must be an integer from 1 to .* or None; got 0"),
        ({"impl": "gpu"}, "impl must be one of"),
        ({"keys": np.zeros((1, 2))}, r"keys must be an array of uint32 of shape \(2, 2\), got float64"),
        ({"rank": 0}, "rank must be an integer >= 1, got 0"),
        ({"deviations": np.zeros((3, 1))}, r"steps and members must be of one shape \(n,\); got \(3, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    weights, starts = case("CartPole-v1", (), "low rank" if change.keys() & {"keys", "rank", "deviations"} else "seeds")
    change = {{"deviations": "steps"}.get(name, name) if isinstance(weights, LowRankWeights) else name: value
              for name, value in change.items()}  # fmt: skip
    own = {name: change.pop(name) for name in list(change) if name in vars(weights)}
    call: dict[str, Any] = {"env": "CartPole-v1", "hidden": (), "source": weights, "starts": starts}
    if own:
        call["source"] = type(weights)(**vars(weights) | own)
    with pytest.raises(bb.SettingError, match=message):
        rollout(**call | change)


def test_a_network_that_no_block_holds_is_refused() -> None:
    weights = np.zeros((1, dimension_of((4, 300, 300, 2))), np.float32)
    setting, arrays = prepared("CartPole-v1", (300, 300), weights, 1)
    with pytest.raises(bb.SettingError, match=r"hidden must be such .* at most 232448 bytes; got .* for \(300, 300\)"):
        device.rollout(simulator.launcher(), setting, arrays, np.zeros((1, 4), np.float32))
