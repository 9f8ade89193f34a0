"""Weights whose factors have a source: views keep it where it still names the factors, and products use it."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quax
from jax import lax
from numpy.testing import assert_allclose, assert_array_equal
from test_perturbed import CASES, assert_rule_gives_the_sum

import blackbox as bb
from blackbox.kernels import dispatch, native, ref
from blackbox.perturbed import LowRank, Materialized, perturbed, perturbed_matmul
from blackbox.perturbed.lowrank import Source
from blackbox.virtual import Leaf, NoisePopulation, Quantized, weighted_noise

pytestmark = pytest.mark.skipif(native.library("lowrank_mix") is None, reason="no C++ compiler")
X = jnp.asarray(np.random.default_rng(1).normal(size=(7, 5)), jnp.float32)


def factors_of(words: np.ndarray, sizes: tuple[int, int], source: Source) -> tuple[np.ndarray, np.ndarray]:
    """The factors that sources name, flat, of each stacked weight."""
    a, b = ref.lowrank_factors(words.reshape(-1, 6), sizes, source.size, source.kind)
    return a, b


def named(shape: tuple[int, ...], axes: str, rank: int = 2, kind: Any = "normal") -> LowRank:
    """A weight whose factors are made of its source."""
    rng = np.random.default_rng(0)
    stacked = len(shape) - len(axes)
    lead, count = shape[:stacked], math.prod(shape[:stacked])
    own = [tuple(n for n, axis in zip(shape[stacked:], axes, strict=True) if axis == letter) for letter in "ab"]
    sizes = (math.prod(own[0]) * rank, math.prod(own[1]) * rank)
    words = np.zeros((count, 6), np.uint32)
    words[:, :3] = 5, 6, 7
    words[:, 3] = rng.normal(size=count).astype(np.float32).view(np.uint32)
    words[:, 4] = 3 + sizes[0] * np.arange(count)
    words[:, 5] = 3 + sizes[0] * count + sizes[1] * np.arange(count)
    source = Source(jnp.asarray(words.reshape(*lead, 6)), 3 + count * sum(sizes), kind)
    a, b = factors_of(words, sizes, source)
    w = jnp.asarray(rng.normal(size=shape), jnp.float32)
    factors = jnp.asarray(a.reshape(*lead, *own[0], rank)), jnp.asarray(b.reshape(*lead, *own[1], rank))
    return LowRank(w, *factors, axes, None, source)


def assert_source_names_the_factors(value: LowRank) -> None:
    assert value.source is not None
    words, stacked = np.asarray(value.source.words), value.stacked
    assert words.shape == (*value.w.shape[:stacked], 6)
    count = math.prod(words.shape[:-1])
    a, b = factors_of(words, (value.a.size // count, value.b.size // count), value.source)
    assert_array_equal(np.asarray(value.a).reshape(count, -1), a)
    assert_array_equal(np.asarray(value.b).reshape(count, -1), b)


# A view, the weight's shape and axes, and whether what comes out still has a source.
VIEWS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], str, bool]] = {
    "transpose": (lambda w: w.T, (5, 3), "ab", True),
    "transpose back": (lambda w: w.T.T, (5, 3), "ab", True),
    "transpose of heads, factors in order": (lambda w: w.transpose(1, 2, 0), (5, 2, 3), "abb", True),
    "transpose of heads, out of order": (lambda w: w.transpose(0, 2, 1), (5, 2, 3), "abb", False),
    "transpose of heads, of equal sizes": (lambda w: w.transpose(0, 2, 1), (5, 3, 3), "abb", False),
    "transpose that mixes, in order": (lambda w: w.transpose(0, 2, 1, 3), (2, 3, 4, 5), "aabb", True),
    "transpose that mixes, out of order": (lambda w: w.transpose(1, 0, 2, 3), (2, 2, 4, 5), "aabb", False),
    "transpose of the stack": (lambda w: w.transpose(1, 0, 2, 3), (2, 3, 4, 5), "ab", True),
    "transpose of each stacked": (lambda w: w.transpose(0, 2, 1), (2, 4, 5), "ab", True),
    "reshape to heads": (lambda w: w.reshape(5, 2, 3), (5, 6), "ab", True),
    "reshape of heads": (lambda w: w.reshape(5, 6), (5, 2, 3), "abb", True),
    "reshape after a transpose": (lambda w: w.transpose(0, 2, 1).reshape(5, 6), (5, 2, 3), "abb", False),
    "reshape of the stack": (lambda w: w.reshape(6, 4, 5), (2, 3, 4, 5), "ab", True),
    "reshape into a stack": (lambda w: w.reshape(3, 2, 4, 5), (6, 4, 5), "ab", True),
    "new axis": (lambda w: w[None], (5, 3), "ab", True),
    "new axis within": (lambda w: w[:, None], (5, 3), "ab", True),
    "new axis and away": (lambda w: w[None, :, None][0, :, 0], (5, 3), "ab", True),
    "squeeze of a factor": (lambda w: w[:, 0], (5, 1, 3), "aab", True),
    "squeeze of the stack": (lambda w: w[0], (1, 5, 3), "ab", True),
    "one of a stack": (lambda w: w[2], (4, 5, 3), "ab", True),
    "one of a stack, from the end": (lambda w: w[-1], (4, 5, 3), "ab", True),
    "some of a stack": (lambda w: w[1:3], (4, 5, 3), "ab", True),
    "every other of a stack": (lambda w: w[::2], (5, 5, 3), "ab", True),
    "one of a stack, dynamically": (lambda w: lax.dynamic_slice(w, (2, 0, 0), (1, 5, 3)), (4, 5, 3), "ab", True),
    "slice beyond the end": (lambda w: lax.dynamic_slice(w, (9, 1, 2), (1, 5, 3)), (4, 5, 3), "ab", True),
    "slice of a factor": (lambda w: w[1:], (5, 3), "ab", False),
    "slice of the other factor": (lambda w: w[:, :2], (5, 3), "ab", False),
    "slice of all": (lambda w: lax.slice(w, (0, 0), (5, 3)), (5, 3), "ab", True),
    "every other row": (lambda w: w[::2], (5, 3), "ab", False),
    "dynamic slice of a factor": (lambda w: lax.dynamic_slice(w, (1, 0), (2, 3)), (5, 3), "ab", False),
    "split of a factor": (lambda w: jnp.split(w, 3, axis=1)[1], (5, 6), "ab", False),
    "split of a factor, first part": (lambda w: jnp.split(w, 3, axis=1)[0], (5, 6), "ab", False),
    "split of the stack": (lambda w: jnp.split(w, 2)[1], (4, 5, 6), "ab", True),
    "rev of a factor": (lambda w: w[::-1], (5, 3), "ab", False),
    "rev of the stack": (lambda w: w[::-1], (4, 5, 3), "ab", True),
    "rev of both": (lambda w: jnp.flip(w, (0, 1)), (4, 5, 3), "ab", False),
    "narrower": (lambda w: w.astype(jnp.bfloat16), (5, 3), "ab", True),
    "narrower and back": (lambda w: w.astype(jnp.bfloat16).astype(jnp.float32), (5, 3), "ab", True),
    "stop_gradient": (lambda w: lax.stop_gradient(w), (5, 3), "ab", True),
    "copy": (lambda w: jnp.copy(w), (5, 3), "ab", True),
    "negated": (lambda w: -w, (5, 3), "ab", False),
    "times a number": (lambda w: 0.5 * w, (5, 3), "ab", False),
    "by a number": (lambda w: w / 4.0, (5, 3), "ab", False),
    "jit": (lambda w: jax.jit(lambda w: w.T)(w), (5, 3), "ab", True),
    "checkpoint": (lambda w: jax.checkpoint(lambda w: w.T)(w), (5, 3), "ab", True),
    "cond, both with": (lambda w: lax.cond(True, lambda w: w, lambda w: lax.stop_gradient(w), w), (5, 5), "ab", True),
    "cond, one without": (lambda w: lax.cond(True, lambda w: w, lambda w: w[::-1], w), (5, 5), "ab", False),
    "cond, the other without": (lambda w: lax.cond(False, lambda w: w, lambda w: w[::-1], w), (5, 5), "ab", False),
    "fori, with": (lambda w: lax.fori_loop(0, 3, lambda _, w: lax.stop_gradient(w), w), (5, 5), "ab", True),
    "fori, without": (lambda w: lax.fori_loop(0, 3, lambda _, w: w * 0.5, w), (5, 5), "ab", False),
    "while, without": (lambda w: lax.while_loop(lambda c: c[1] < 3, lambda c: (c[0][::-1], c[1] + 1), (w, 0))[0],
                       (5, 5), "ab", False),
    "scan, carried": (lambda w: lax.scan(lambda w, _: (w[::-1], None), w, None, length=3)[0], (5, 5), "ab", False),
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_views_keep_a_source_that_names_the_factors(name: str) -> None:
    view, shape, axes, keeps = VIEWS[name]
    value = named(shape, axes)
    assert_source_names_the_factors(value)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Materialized)
        seen = quax.quaxify(view)(value)
    assert isinstance(seen, LowRank)
    assert_allclose(
        seen.materialise(),
        view(value.materialise()),
        rtol=1e-2 if "narrower" in name else 1e-5,
        atol=1e-2 if "narrower" in name else 1e-5,
    )
    assert (seen.source is not None) == keeps
    if keeps:
        assert_source_names_the_factors(seen)


def test_weights_that_change_places_take_their_sources_along() -> None:
    v, w = named((5, 5), "ab"), named((5, 5), "ab", kind="sign")

    def turned(v: Any, w: Any) -> Any:
        return lax.fori_loop(0, 3, lambda _, c: (c[1], c[0]), (v, w))

    first, second = quax.quaxify(turned)(v, w)  # of kinds that differ, and kinds are static
    assert first.source is None
    assert second.source is None
    assert_array_equal(first.materialise(), w.materialise())
    other = LowRank(w.w, w.a, w.b, "ab", None, Source(v.source.words.at[2].set(8), v.source.size, "normal"))  # type: ignore[union-attr]
    a, b = factors_of(np.asarray(other.source.words), (10, 10), other.source)  # type: ignore[union-attr]
    other = LowRank(w.w, jnp.asarray(a.reshape(5, 2)), jnp.asarray(b.reshape(5, 2)), "ab", None, other.source)
    first, second = quax.quaxify(turned)(v, other)
    for value, expected in ((first, other), (second, v)):
        assert_source_names_the_factors(value)
        assert_array_equal(value.materialise(), expected.materialise())


@pytest.mark.parametrize("name", CASES)
def test_rule_gives_what_the_sum_gives(name: str) -> None:
    function, shape, axes = CASES[name]
    assert_rule_gives_the_sum(function, named(shape, axes))


# Products that make their noise themselves, and such that cannot.
PRODUCTS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], str, bool]] = {
    "right": (lambda w: X @ w, (5, 3), "ab", True),
    "right, one row": (lambda w: X[0] @ w, (5, 3), "ab", True),
    "right, other factor first": (lambda w: X @ w, (5, 3), "ba", True),
    "left": (lambda w: w @ X, (3, 7), "ab", True),
    "left, one column": (lambda w: w @ X[:, 0], (3, 7), "ab", True),
    "left, other factor first": (lambda w: w @ X, (3, 7), "ba", True),
    "transposed": (lambda w: X @ w.T, (3, 5), "ab", True),
    "first axis of x": (lambda w: jnp.einsum("db,dn->bn", X.T, w), (5, 3), "ab", True),
    "rows of two axes": (lambda w: jnp.einsum("abd,dn->abn", jnp.stack([X, -X]), w), (5, 3), "ab", True),
    "heads": (lambda w: jnp.einsum("bd,dhk->bhk", X, w), (5, 2, 4), "abb", True),
    "heads back": (lambda w: jnp.einsum("bhk,hkd->bd", X.reshape(7, 5, 1), w), (5, 1, 4), "aab", True),
    "heads back, axes of x in another order": (
        lambda w: jnp.einsum("kbh,hkd->bd", jnp.arange(12.0).reshape(2, 2, 3), w), (3, 2, 4), "aab", True),
    "heads back, out of order": (
        lambda w: jnp.einsum("bhk,khd->bd", jnp.arange(12.0).reshape(2, 3, 2), w.transpose(1, 0, 2)), (3, 2, 4), "aab",
        False),
    "reshaped": (lambda w: X @ w.reshape(5, 6), (5, 2, 3), "abb", True),
    "one of a stack": (lambda w: X @ w[1], (3, 5, 4), "ab", True),
    "narrow x": (lambda w: X.astype(jnp.bfloat16) @ w, (5, 3), "ab", True),
    "narrow weight": (lambda w: X @ w.astype(jnp.bfloat16), (5, 3), "ab", True),
    "no factor whole": (lambda w: jnp.einsum("bd,dhk->bhk", X, w), (5, 2, 4), "aab", False),
    "axes of both factors": (lambda w: jnp.einsum("bd,dhb->h", X, w), (5, 2, 7), "abb", False),
    "nothing contracted": (lambda w: jnp.einsum("b,dn->bdn", X[0], w), (5, 3), "ab", False),
    "all contracted": (lambda w: jnp.einsum("dn,dn->", jnp.ones((5, 3)), w), (5, 3), "ab", False),
    "experts": (lambda w: jnp.einsum("ebi,eij->ebj", jnp.ones((3, 6, 2)), w), (3, 2, 4), "ab", False),
    "experts, routed": (lambda w: jnp.einsum("be,eij->bij", X, w), (5, 2, 4), "ab", False),
    "scaled": (lambda w: X @ (0.5 * w), (5, 3), "ab", False),
    "complex": (lambda w: (X * 1j) @ w, (5, 3), "ab", False),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("quantized", [False, True])
def test_products_make_the_noise_themselves(name: str, quantized: bool) -> None:
    function, shape, axes, makes = PRODUCTS[name]
    value = named(shape, axes)
    if quantized:
        if name in ("narrow weight", "scaled", "complex"):
            pytest.skip("of floats alone")
        copy = Quantized.of(value.w, value.stacked)
        value = LowRank(copy.values, value.a, value.b, axes, copy.scale, value.source)
    text = str(jax.make_jaxpr(perturbed(function))(value))
    assert text.count("ffi_call") == int(makes)
    got, expected = jax.jit(perturbed(function))(value), function(value.materialise())
    assert got.dtype == expected.dtype
    tolerance = 1e-5 if got.dtype != jnp.bfloat16 and "narrow" not in name else 1e-1
    assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
    if makes:  # it does not even look at the factors
        blind = LowRank(value.w, value.a * jnp.nan, value.b * jnp.nan, axes, value.scale, value.source)
        assert_array_equal(jax.jit(perturbed(function))(blind), got)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("rows", [4, 5])
def test_many_rows_of_rank_one_use_the_factors(rank: int, rows: int) -> None:
    value, x = named((5, 3), "ab", rank), X[:rows]
    text = str(jax.make_jaxpr(perturbed(lambda w: x @ w))(value))
    assert ("ffi_call" in text) == (rows == 4 or rank == 2)
    assert_allclose(perturbed(lambda w: x @ w)(value), x @ value.materialise(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["scan, constant", "fori", "while"])
def test_loops_do_not_make_the_same_noise_in_each_step(name: str) -> None:
    function, shape, axes = CASES[name]
    assert "ffi_call" not in str(jax.make_jaxpr(perturbed(function))(named(shape, axes)))


def test_float64_keeps_its_precision() -> None:
    with jax.enable_x64():
        value = named((5, 3), "ab")
        for x, w in ((X.astype(jnp.float64), value.w), (X, value.w.astype(jnp.float64))):
            wide = LowRank(w, value.a, value.b, "ab", None, value.source)
            assert "ffi_call" not in str(jax.make_jaxpr(lambda x, v: perturbed_matmul(x, v))(x, wide))
        assert_allclose(perturbed_matmul(X, value), X @ value.materialise(), rtol=1e-4, atol=1e-4)


def test_scanned_weights_make_their_noise_in_each_step() -> None:
    value = named((4, 5, 5), "ab")

    def layers(w: Any) -> Any:
        return lax.scan(lambda c, w: (jnp.tanh(c @ w), c.sum()), X, w)[0]

    assert "ffi_call" in str(jax.make_jaxpr(perturbed(layers))(value))
    assert_allclose(jax.jit(perturbed(layers))(value), layers(value.materialise()), rtol=1e-4, atol=1e-5)


# ---- populations


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compiled code for any amount of noise."""
    monkeypatch.setenv("BLACKBOX_KERNELS", "native")
    dispatch.from_environment.cache_clear()
    yield
    dispatch.from_environment.cache_clear()


PARAMS = {
    "w": jnp.asarray(np.random.default_rng(2).normal(size=(20, 18)), jnp.float32),
    "out": jnp.asarray(np.random.default_rng(3).normal(size=(17, 18)), jnp.float32),
    "layers": jnp.asarray(np.random.default_rng(4).normal(size=(3, 18, 18)), jnp.float32) / 4,
    "half": jnp.ones(17),
}
INPUT = jnp.asarray(np.random.default_rng(5).normal(size=(3, 20)), jnp.float32)


def network(params: Any, x: Any) -> Any:
    x = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x @ params["w"], params["layers"])[0]
    return jnp.sum((params["out"] @ x.T + params["half"][:, None]) ** 2)


def population_of(kind: Any, rank: int, popsize: int = 10) -> NoisePopulation:
    strategy = bb.es.Eggroll(
        popsize=popsize, rank=rank, sigma=0.1, noise=kind, policy={"layers": Leaf(stacked=1, scale=0.5)}
    )
    asked: NoisePopulation = strategy.ask(strategy.init(bb.key(3), PARAMS))
    return asked


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("kind", "rank"), [("normal", 1), ("uniform", 3), ("sign", 2), ("binom8", 1)])
def test_candidates_have_sources_that_name_their_factors(kind: Any, rank: int) -> None:
    population = population_of(kind, rank)
    for rows in (jnp.arange(10), jnp.array([3, 8, 8])):
        candidates, _ = population.candidates(rows)
        low_rank = [value for value in candidates if isinstance(value, LowRank)]
        assert len(low_rank) == 3
        for value in low_rank:
            for i in range(len(rows)):
                one = jax.tree.map(lambda x, i=i: np.asarray(x)[i], (value.a, value.b, value.source))
                assert_source_names_the_factors(LowRank(value.w, one[0], one[1], value.axes, None, one[2]))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("kind", "rank"), [("normal", 1), ("sign", 2), ("binom8", 4)])
def test_fitness_is_that_of_each_member(kind: Any, rank: int) -> None:
    population = population_of(kind, rank)
    members = jax.tree.map(lambda *x: jnp.stack(x), *(population[i] for i in range(10)))
    expected = jax.vmap(network, (0, None))(members, INPUT)
    whole = bb.evaluate(network, population, INPUT)
    assert_allclose(whole, expected, rtol=1e-5)
    assert_allclose(bb.evaluate(network, population, INPUT, chunk=4), expected, rtol=1e-5)
    assert_allclose(
        bb.evaluate(network, population.take(jnp.array([7, 2, 2])), INPUT), whole[jnp.array([7, 2, 2])], rtol=1e-6
    )
    own = jnp.stack([INPUT * i for i in range(10)])
    got = bb.evaluate(network, population, own, in_axes=0)
    assert_allclose(got, jax.vmap(network)(members, own), rtol=1e-5)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("kind", "rank"), [("normal", 1), ("binom8", 3)])
def test_updates_are_the_sums_of_the_members(kind: Any, rank: int) -> None:
    population = population_of(kind, rank)
    f = jnp.asarray(np.random.default_rng(0).normal(size=10), jnp.float32)
    noise = [population.noise(i) for i in range(10)]
    expected = jax.tree.map(lambda *e: sum(weight * x for weight, x in zip(f, e, strict=True)), *noise)
    for chunk in (1024, 2):
        for ours, theirs in zip(weighted_noise(population, f, chunk), jax.tree.leaves(expected), strict=True):
            assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("compiled")
def test_programs_make_no_factors_that_nobody_needs() -> None:
    population = population_of("binom8", 1)

    def evaluated(population: Any, x: Any) -> Any:
        return bb.evaluate(network, population, x)

    text = jax.jit(evaluated).lower(population, INPUT).compile().as_text()
    calls = [line for line in text.splitlines() if "custom-call(" in line and "blackbox_launch" in line]
    kernels = sorted("lowrank_mix" if "lowrank_mix" in line else "noise" for line in calls)
    assert kernels == ["lowrank_mix"] * 3 + ["noise"]  # of the vector, whose noise is dense


@pytest.mark.parametrize("rows", [0, 3, 9])
@pytest.mark.parametrize("rank", [1, 2])
def test_derivatives_by_sigma_are_those_of_the_factors(rank: int, rows: int) -> None:
    """Also where compiled code makes the noise, to which the step is bits."""
    strategy = bb.es.Eggroll(popsize=64, rank=rank, sigma=0.1)
    population = strategy.ask(strategy.init(bb.key(3), {"w": jnp.zeros((96, 96))}))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(rows, 96)), jnp.float32)

    def total(sigma: jax.Array) -> jax.Array:
        changed = dataclasses.replace(population, sigma=sigma)
        return (bb.evaluate(lambda p, x: (x @ p["w"]).sum(), changed, x) * jnp.arange(64.0)).sum()

    sigma = jnp.float32(population.sigma)
    slope = jax.grad(total)(sigma)  # the total is proportional to sigma
    np.testing.assert_allclose(slope, total(sigma) / sigma, rtol=1e-4, atol=1e-4)
    assert rows == 0 or abs(slope) > 1


def test_few_members_of_many_leaves_are_drawn_at_once() -> None:
    """One call of compiled code, not a generator of XLA's for each."""
    params = {str(i): jnp.ones((32, 32)) for i in range(24)}
    strategy = bb.es.Eggroll(popsize=512, rank=1, sigma=0.1)
    population = strategy.ask(strategy.init(bb.key(3), params))

    def rows_of_ones(params: Any) -> jax.Array:
        return sum((jnp.ones((9, 32)) @ w).sum() for w in params.values())  # type: ignore[return-value]

    loss = jax.jit(lambda population: bb.evaluate(rows_of_ones, population))
    text = loss.lower(population.take(jnp.arange(8))).as_text()
    assert text.count("@blackbox_launch") == 1
    assert text.count("xor") < 300
