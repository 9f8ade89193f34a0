"""Virtual populations: coordinates, lineages of seeds, sums of noise, and the statistics of the leaves' noise."""

from __future__ import annotations

import itertools
import math
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import blackbox as bb
from blackbox.errors import SettingError
from blackbox.kernels.spec import UNIT
from blackbox.virtual import (
    CoordinatePopulation,
    Leaf,
    LineagePopulation,
    VirtualPopulation,
    credited_noise,
    draw,
    structure_of,
    weighted_noise,
)

KEY = jnp.asarray(bb.key(7))
RNG = np.random.default_rng(3)
PARAMS = {
    "w": jnp.asarray(RNG.normal(size=(20, 24)), jnp.float32),
    "b": jnp.asarray(RNG.normal(size=24), jnp.float32),
    "stack": jnp.asarray(RNG.normal(size=(3, 24, 17)) / 5, jnp.float32),
    "n": jnp.arange(2),
}
X = jnp.asarray(RNG.normal(size=(4, 20)), jnp.float32)


def outputs(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ params["w"] + params["b"])
    return jnp.stack([h @ w for w in params["stack"]])


def total(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.sum(outputs(params, x) ** 2)


def flat(params: dict[str, jax.Array]) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params) if x.dtype == jnp.float32])


# ---- coordinates


SIZE = flat(PARAMS).size
STACKED = {"stack": Leaf(stacked=1)}


def test_coordinates_are_those_of_the_flat_parameters() -> None:
    coordinates = np.array([0, 5, 24, 24 + 3 * 24 * 17, SIZE - 1, 30])
    steps = np.array([0.5, -0.5, 1.0, 2.0, 3.0, -1.0])
    population = CoordinatePopulation.around(PARAMS, coordinates, steps, STACKED)
    assert len(population) == 6
    for i, (c, step) in enumerate(zip(coordinates, steps, strict=True)):
        expected = np.zeros(SIZE)
        expected[c] = step
        assert_allclose(flat(population.noise(i)), expected, atol=1e-6)
        assert_allclose(flat(population[i]) - flat(PARAMS), expected, atol=1e-6)
    some = population.take(jnp.array([4, 0]))
    assert_array_equal(flat(some[0]), flat(population[4]))


@pytest.mark.parametrize("chunk", [None, 7])
def test_central_differences_along_coordinates_are_the_gradient(chunk: int | None) -> None:
    coordinates = np.repeat(np.arange(0, SIZE, 50), 2)
    steps = np.resize([1e-2, -1e-2], len(coordinates))
    population = CoordinatePopulation.around(PARAMS, coordinates, steps, STACKED)
    fitness = np.asarray(bb.evaluate(total, population, X, chunk=chunk))
    alone = [total(population[i], X) for i in range(0, len(population), 9)]
    assert_allclose(fitness[::9], alone, rtol=1e-5)
    gradient = jax.grad(total, allow_int=True)(PARAMS, X)
    exact = np.concatenate([np.ravel(gradient[name]) for name in ("b", "stack", "w")])[coordinates[::2]]
    assert_allclose((fitness[::2] - fitness[1::2]) / 2e-2, exact, rtol=0.02, atol=0.5)


def test_coordinates_share_the_product_with_the_weights() -> None:
    """Changes of one entry are of rank one: no member forms its own copy of a matrix."""
    population = CoordinatePopulation.around({"w": PARAMS["w"]}, np.arange(40), np.ones(40))
    jaxpr = str(jax.make_jaxpr(lambda p: bb.evaluate(lambda q, x: jnp.sum(x @ q["w"]), p, X))(population))
    assert "40,20,24" not in jaxpr


def test_coordinates_of_other_shape_are_refused() -> None:
    with pytest.raises(SettingError, match=r"coordinates and steps must be of one shape \(n,\), got \(3,\) and \(2,\)"):
        CoordinatePopulation.around(PARAMS, np.arange(3), np.ones(2))


# ---- lineages


@pytest.mark.parametrize("rank", [None, 1, 2])
def test_a_genome_is_the_sum_of_its_mutations(rank: int | None) -> None:
    seeds = np.array([[11, 12, 13], [11, 99, 0], [11, 12, 14]], np.uint32)
    sigmas = np.array([[1.0, 0.1, 0.1], [1.0, 0.2, 0.0], [1.0, 0.1, 0.1]])
    population = LineagePopulation.around(PARAMS, KEY, seeds, sigmas, rank=rank, policy={"stack": Leaf(stacked=1)})
    single = {
        seed: flat(LineagePopulation.around(PARAMS, KEY, [[seed]], [[1.0]], rank=rank, policy=STACKED).noise(0))
        for seed in (11, 12, 13, 99)
    }
    assert_allclose(flat(population.noise(0)), single[11] + 0.1 * (single[12] + single[13]), atol=1e-5)
    assert_allclose(flat(population.noise(1)), single[11] + 0.2 * single[99], atol=1e-5)
    # Siblings share all but the last mutation.
    assert np.abs(flat(population.noise(0)) - flat(population.noise(2))).max() < 2.0
    for chunk in (None, 2):
        fitness = bb.evaluate(total, population, X, chunk=chunk)
        assert_allclose(fitness, [total(population[i], X) for i in range(3)], rtol=1e-4)


def test_seeds_and_sigmas_of_other_shape_are_refused() -> None:
    with pytest.raises(SettingError, match=r"seeds and sigmas must be of one shape \(n, generations\)"):
        LineagePopulation.around(PARAMS, KEY, np.ones((3, 2)), np.ones(3))


def test_genomes_are_of_noise_that_is_the_same_everywhere() -> None:
    with pytest.raises(SettingError, match="a genome of seeds would decode differently elsewhere"):
        LineagePopulation.around(PARAMS, KEY, np.ones((3, 2)), np.ones((3, 2)), kind="normal_fast")


def test_populations_are_small_and_survive_pickling() -> None:
    kinds: list[VirtualPopulation] = [
        bb.es.Eggroll(popsize=10_000).ask(bb.es.Eggroll(popsize=10_000).init(bb.key(0), PARAMS)),
        CoordinatePopulation.around(PARAMS, np.arange(8), np.ones(8)),
        LineagePopulation.around(PARAMS, KEY, np.ones((8, 3)), np.ones((8, 3))),
    ]
    for population in kinds:
        data = pickle.dumps(population)
        assert len(data) - len(pickle.dumps(PARAMS)) < 1500
        copy = pickle.loads(data)  # noqa: S301
        assert_array_equal(flat(copy[3]), flat(population[3]))
        assert "members" in repr(copy)
        with pytest.raises(IndexError, match=f"member {len(copy)} of a population of {len(copy)}"):
            copy[len(copy)]


# ---- sums of noise


@pytest.mark.parametrize("kind", ["normal", "normal_fast", "sign", "binom8", "uniform"])
def test_sums_are_those_of_the_members_noise(kind: Any) -> None:
    strategy = bb.es.Eggroll(popsize=12, noise=kind, sigma=0.3, policy={"stack": Leaf(rank=2, scale=0.5, stacked=1)})
    population = strategy.ask(strategy.init(bb.key(2), PARAMS))
    f = jnp.asarray(RNG.normal(size=12), jnp.float32)
    sums = np.concatenate([np.ravel(x) for x in weighted_noise(population, f, chunk=5)])
    expected = sum(w * flat(population.noise(i)) for i, w in enumerate(np.asarray(f)))
    assert_allclose(sums, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sign", "binom8"])
@pytest.mark.parametrize("rank", [1, None])
def test_sums_of_whole_numbers_do_not_depend_on_the_chunk(kind: Any, rank: int | None) -> None:
    strategy = bb.es.Eggroll(popsize=256, noise=kind, rank=rank)
    population = strategy.ask(strategy.init(bb.key(2), PARAMS))
    ranks = jnp.asarray(RNG.permutation(256) * 2 - 255, jnp.float32)
    reference = weighted_noise(population, ranks)
    for chunk in (1, 7, 64):
        for x, y in zip(reference, weighted_noise(population, ranks, chunk=chunk), strict=True):
            assert_array_equal(x, y)


def episode_gradient(strategy: bb.es.Eggroll, length: int, slope: np.ndarray) -> np.ndarray:
    """What an episode's updates sum to, for a state that adds up the parameters and a loss linear in it."""
    d, n = len(slope), strategy.popsize
    state = strategy.init(bb.key(5), {"theta": jnp.zeros(d)})
    inner = jnp.zeros((n, d))
    total_gradient = np.zeros(d)
    for generation in range(length):
        population = strategy.ask(state._replace(generation=jnp.asarray(generation)))
        inner = bb.evaluate(lambda p, s: s + p["theta"], population, inner, in_axes=0)
        f, episode = inner @ jnp.asarray(slope), strategy._episode(jnp.asarray(generation))
        noise = weighted_noise(population, f) if episode is None else credited_noise(population, f, *episode)
        total_gradient += np.asarray(noise[0]) / (n * strategy.sigma**2)
    return total_gradient


def test_persistent_and_reused_noise_credit_the_whole_episode() -> None:
    """d/dtheta of sum_t <slope, t theta> is slope K (K + 1) / 2; fresh noise sees slope K: truncation bias."""
    length, slope = 4, np.array([1.0, -2.0, 0.5])
    settings = {"popsize": 20_000, "sigma": 0.1, "noise": "normal"}
    whole = slope * length * (length + 1) / 2
    fresh = episode_gradient(bb.es.Eggroll(**settings), length, slope)
    assert_allclose(fresh, slope * length, atol=0.7)
    persistent = episode_gradient(bb.es.Eggroll(**settings, persistent=length), length, slope)
    assert_allclose(persistent, whole, atol=1.0)
    reused = episode_gradient(bb.es.Eggroll(**settings, noise_reuse=length), length, slope)
    assert_allclose(reused, whole, atol=1.0)
    both = episode_gradient(bb.es.Eggroll(**settings, persistent=length, noise_reuse=2), length, slope)
    assert_allclose(both, whole, atol=1.0)


def test_credit_is_the_sum_over_the_generations_of_the_episode() -> None:
    strategy = bb.es.Eggroll(popsize=6, persistent=3, sigma=lambda g: 0.1 + 0.05 * g)
    state = strategy.init(bb.key(1), PARAMS)
    f = jnp.asarray(RNG.normal(size=6), jnp.float32)
    populations = [strategy.ask(state._replace(generation=jnp.asarray(g))) for g in (3, 4)]
    credited = credited_noise(populations[1], f, jnp.array([3, 4, 5]), jnp.array([0.25, 0.3, 0.35]), jnp.asarray(2))
    expected = [weighted_noise(population, f) for population in populations]
    for x, y, z in zip(credited, *expected, strict=True):
        assert_allclose(x, y + z, rtol=1e-4, atol=1e-5)


# ---- statistics of the noise of leaves

LEAVES = structure_of({name: jnp.zeros((40, 30)) for name in ("a", "b", "layers/0/kernel")}, {}, Leaf(noise="dense"))


def drawn(kind: Any, generation: int, pairs: Any) -> list[np.ndarray]:
    parts = draw(LEAVES.weights, KEY, jnp.asarray(generation), jnp.asarray(pairs), kind)
    return [np.asarray(e, np.float64) * UNIT[kind] for (e,) in parts]


@pytest.mark.parametrize(("kind", "fourth"), [("normal", 3.0), ("sign", 1.0), ("binom8", 2.75), ("uniform", 1.8)])
def test_moments_of_every_leaf_and_generation(kind: Any, fourth: float) -> None:
    for generation in (0, 1, 1000):
        for values in drawn(kind, generation, np.arange(300)):
            z = values.reshape(-1)
            for power, expected in ((1, 0.0), (2, 1.0), (3, 0.0), (4, fourth)):
                sample = z**power
                assert abs(sample.mean() - expected) <= 4.5 * sample.std() / len(z) ** 0.5 + 1e-12


@pytest.mark.parametrize("kind", ["normal", "sign", "binom8", "uniform"])
def test_leaves_members_generations_and_entries_are_uncorrelated(kind: Any) -> None:
    now, later = drawn(kind, 0, np.arange(200)), drawn(kind, 1, np.arange(200))
    pairs = [*itertools.combinations(now, 2), *zip(now, later, strict=True)]  # leaves of one shape, and generations
    pairs += [(x[:-1], x[1:]) for x in now]  # neighboring members
    pairs += [(x[:, :, :-1], x[:, :, 1:]) for x in now] + [(x[:, :-1], x[:, 1:]) for x in now]  # neighboring entries
    for x, y in pairs:
        n = x.size
        assert abs(np.mean(x * y)) < 4.5 / math.sqrt(n)
        if kind != "sign":  # whose squares are constant
            squares = np.mean((x**2 - 1) * (y**2 - 1)) / np.mean((x**2 - 1) ** 2)
            assert abs(squares) < 4.5 / math.sqrt(n)


@pytest.mark.parametrize("kind", ["normal", "binom8", "uniform"])
def test_distribution_of_every_leaf(kind: Any) -> None:
    for values in drawn(kind, 3, np.arange(100)):
        z = values.reshape(-1)
        if kind == "binom8":
            counts = np.array([np.sum(np.isclose(z, k * 2**-0.5)) for k in range(-4, 5)])
            expected = len(z) * stats.binom.pmf(np.arange(9), 8, 0.5)
        else:
            law = stats.norm() if kind == "normal" else stats.uniform(-(3**0.5), 2 * 3**0.5)
            counts = np.bincount(np.minimum((law.cdf(z) * 64).astype(int), 63), minlength=64)
            expected = np.full(64, len(z) / 64)
        assert counts.sum() == len(z)
        assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_streams_never_cross() -> None:
    """No block of random bits is used twice: by leaves, members or generations."""
    seen: set[bytes] = set()
    total_blocks = 0
    for generation in range(3):
        for values in drawn("uniform", generation, np.array([*range(50), 2**31, 2**32 - 1], np.uint32)):
            blocks = values.reshape(values.shape[0], -1, 4)
            seen |= {block.tobytes() for block in blocks.reshape(-1, 4)}
            total_blocks += blocks.shape[0] * blocks.shape[1]
    assert len(seen) == total_blocks  # 140,000 blocks of 92 bits: a chance match has a probability of 1e-18


@pytest.mark.parametrize("ids", [[9], [-5], 2, [0.5], [[1]]])
def test_ids_that_do_not_exist_are_refused(ids: Any) -> None:
    strategy = bb.es.Eggroll(popsize=4)
    lineages = LineagePopulation.around(PARAMS, KEY, np.ones((4, 3)), np.ones((4, 3)))
    for population in (strategy.ask(strategy.init(bb.key(0), PARAMS)), lineages):
        with pytest.raises(SettingError, match="ids must be"):
            population.take(ids)
        with pytest.raises(SettingError, match="at least one member"):
            bb.evaluate(total, population.take(np.zeros(0, int)), X)
        with pytest.raises(TypeError, match="one by one"):
            population[1:2]
    with pytest.raises(SettingError, match=f"coordinates must be from -{SIZE} to {SIZE - 1}, got 3 to {SIZE}"):
        CoordinatePopulation.around(PARAMS, [3, SIZE], [1.0, 1.0])
