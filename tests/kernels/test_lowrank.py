"""Products with noise of low rank: the contract's bits from compiled code, also within JAX."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from lowrank_cases import SHAPES, assert_same_bits, problem
from numpy.testing import assert_allclose

import blackbox as bb
from blackbox.kernels import lowrank_factors, lowrank_linear, lowrank_mix, native, ref, spec, xla

KINDS = native.KINDS
needs_compiler = pytest.mark.skipif(native.library("lowrank_mix") is None, reason="no C++ compiler")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES[:6])
def test_the_reference_is_the_product_with_the_noise(kind: spec.Kind, shape: tuple[int, ...]) -> None:
    x, y, source, size, rank = problem(shape)
    m, k = x.shape[2], y.shape[2]
    mixed = ref.lowrank_mix(x, y, source, size, rank, kind)
    factors = ref.lowrank_factors(source, (m * rank, k * rank), size, kind)
    unit, shift = (2**0.5 if kind == "binom8" else 1.0), (0.5 if kind == "uniform" else 0.0)
    for i, words in enumerate(source):
        row = ref.noise(words[:2], int(words[2]), 1, size, kind)[0].astype(float) * unit - shift
        a, b = row[words[4] :][: m * rank], row[words[5] :][: k * rank]
        step = float(words[3:4].view(np.float32)[0])
        assert_allclose(factors[0][i], step * a, rtol=1e-6, atol=1e-7)
        assert_allclose(factors[1][i], b, rtol=1e-6, atol=1e-7)
        expected = y[i] + step * (x[i].astype(float) @ a.reshape(m, rank)) @ b.reshape(k, rank).T
        assert_allclose(mixed[i], expected, rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_products_have_the_bits_of_the_reference(kind: spec.Kind, shape: tuple[int, ...]) -> None:
    for shared, paired in (("", True), ("", False), ("x", True), ("xy", True)):
        x, y, source, size, rank = problem(shape, shared, paired)
        expected = ref.lowrank_mix(x, y, source, size, rank, kind)
        assert_same_bits(native.lowrank_mix(x, y, source, size, rank, kind), expected)
        arrays = (jnp.asarray(x), jnp.asarray(y), jnp.asarray(source))
        assert_same_bits(lowrank_mix(*arrays, size, rank, kind, impl="native"), expected)


@pytest.mark.parametrize(
    ("kind", "shape", "shared"), list(zip(KINDS, SHAPES[1:6], ("", "x", "xy", "", "y"), strict=True))
)
def test_without_compiled_code_products_differ_by_roundings(
    kind: spec.Kind, shape: tuple[int, ...], shared: str
) -> None:
    x, y, source, size, rank = problem(shape, shared)
    got = lowrank_mix(jnp.asarray(x), jnp.asarray(y), jnp.asarray(source), size, rank, kind, impl="xla")
    assert_allclose(got, ref.lowrank_mix(x, y, source, size, rank, kind), rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_factors_have_the_bits_of_the_reference(kind: spec.Kind, shape: tuple[int, ...]) -> None:
    x, y, source, size, rank = problem(shape)
    sizes = (x.shape[2] * rank, y.shape[2] * rank)
    expected = ref.lowrank_factors(source, sizes, size, kind)
    assert_same_bits(native.lowrank_factors(source, sizes, size, kind), expected)
    assert_same_bits(lowrank_factors(jnp.asarray(source), sizes, size, kind, impl="native"), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_members_far_out_are_the_same_without_compiled_code(kind: spec.Kind) -> None:
    """Block numbers beyond 32 bits, with a carry between the words."""
    size = 2**30
    source = np.array(
        [[1, 2, 2**32 - 1, 0x3F800000, 2**30 - 300, 77], [1, 2, 511, 0x3F800000, 2**30 - 9, 1]], np.uint32
    )
    got = xla.lowrank_factors(jnp.asarray(source), (9, 5), size, kind)
    for a, b in zip(got, ref.lowrank_factors(source, (9, 5), size, kind), strict=True):
        assert_allclose(a, b, rtol=2e-6, atol=2e-6)


@needs_compiler
def test_loops_maps_and_shards_get_the_same_bits() -> None:
    x, y, source, size, rank = problem((24, 2, 70, 33, 2, 3, 1))
    expected = ref.lowrank_mix(x, y, source, size, rank, "normal")
    shared = ref.lowrank_mix(x[:1], y[:1], source, size, rank, "normal")
    arrays = tuple(map(jnp.asarray, (x, y, source)))
    run = partial(lowrank_mix, size=size, rank=rank, kind="normal", impl="native")

    def one(x: Any, y: Any, words: Any) -> Any:
        return run(x[None], y[None], words[None])[0]

    parts = [array.reshape(4, 6, *array.shape[1:]) for array in arrays]
    _, scanned = jax.lax.scan(lambda carry, part: (carry, run(*part)), 0, parts)
    mesh = jax.make_mesh((len(jax.devices()),), ("members",), axis_types=(jax.sharding.AxisType.Auto,))
    split, part = PartitionSpec("members"), jax.vmap(one)
    sharded = jax.jit(jax.shard_map(part, mesh=mesh, in_specs=split, out_specs=split, check_vma=False))(*arrays)
    for values in (scanned, jax.vmap(one)(*arrays), jax.vmap(jax.vmap(one))(*parts), jax.vmap(run)(*parts), sharded):
        assert_same_bits(np.asarray(values).reshape(expected.shape), expected)
    # What members share stays one array, whichever of nested maps shares it.
    few = jax.vmap(one, (None, None, 0))(arrays[0][0], arrays[1][0], arrays[2])
    assert_same_bits(few, shared)
    inner = jax.vmap(one, (None, None, 0))
    assert_same_bits(jax.vmap(inner, (None, None, 0))(arrays[0][0], arrays[1][0], parts[2])[1], shared[6:12])
    assert_same_bits(jax.vmap(jax.vmap(one), (None, 0, 0))(parts[0][0], parts[1], parts[2])[0], expected[:6])
    across = jax.vmap(jax.vmap(one, (0, 0, None)), (None, None, 0))(arrays[0], arrays[1], arrays[2])
    assert_same_bits([across[i, i] for i in range(24)], expected)
    text = str(jax.make_jaxpr(jax.vmap(jax.vmap(one)))(*parts))
    assert "f32[4,6,2,33]" in text
    assert text.count("ffi_call") == 1


@needs_compiler
def test_a_product_may_take_the_place_of_what_it_is_added_to() -> None:
    """And does not where that is still needed."""
    x, y, source, size, rank = problem((6, 2, 40, 50, 1, 0, 0))
    expected = ref.lowrank_mix(x, y, source, size, rank, "sign")

    @jax.jit
    def both(x: Any, y: Any, source: Any) -> Any:
        doubled = 2 * y
        return lowrank_mix(x, doubled, source, size, rank, "sign", impl="native"), doubled, y

    mixed, doubled, same = both(x, y / 2, source)
    assert_same_bits(mixed, expected)
    assert_same_bits([doubled, same], [y, y / 2])


@needs_compiler
def test_products_have_derivatives() -> None:
    x, y, source, size, rank = problem((4, 2, 20, 30, 2, 0, 0))

    def total(impl: Any, x: Any, y: Any) -> Any:
        weights = jnp.arange(240.0).reshape(4, 2, 30)
        return jnp.sum(weights * lowrank_mix(x, y, jnp.asarray(source), size, rank, "normal", impl=impl) ** 2)

    arrays = jnp.asarray(x), jnp.asarray(y)
    got, expected = (jax.grad(partial(total, impl), (0, 1))(*arrays) for impl in ("native", "xla"))
    for a, b in zip(got, expected, strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 4), np.float32)}, "x and y must be of shapes"),
        ({"y": np.zeros((2, 4, 6), np.float32)}, "x and y must be of shapes"),
        ({"x": np.zeros((2, 3, 5), np.float32)}, "x must have 1 or 4 members as source has, got 2"),
        (
            {"source": np.zeros((4, 5), np.uint32)},
            r"source must be an array of uint32 of shape \(n, 6\), got uint32 of shape",
        ),
        ({"source": np.zeros((4, 6), np.int32)}, r"source must be an array of uint32 of shape \(n, 6\), got int32"),
        ({"size": 10}, "A and B must lie within a row of 10 values, got values up to"),
        ({"size": 0}, "size must be an integer >= 1, got 0"),
        ({"size": 2**32}, "size must be at most"),
        ({"size": 20.0}, "size must be an integer >= 1, got 20.0"),
        ({"x": [[[1.0]]]}, r"x must be an array of real numbers, got \[\[\[1.0\]\]\]"),
        ({"rank": 0}, "rank must be an integer >= 1, got 0"),
        ({"kind": "gaussian"}, "kind must be one of normal, uniform, sign, binom8, normal_fast, got 'gaussian'"),
        ({"impl": "gpu"}, "impl must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    x, y, source, size, rank = problem((4, 3, 5, 6, 1, 0, 0))
    with pytest.raises(bb.SettingError, match=message):
        lowrank_mix(**({"x": x, "y": y, "source": source, "size": size, "rank": rank} | change))


# ---- layers


def layer(dtype: Any, shared: str = "", k: int = 40) -> tuple[Any, ...]:
    """x, a weight, sources, the size of a row, the rank, and biases of each member."""
    x, _, source, size, rank = problem((6, 3, 200, k, 2, 3, 1), shared)
    source[:, 3] = (source[:, 3].view(np.float32) / 20).view(np.uint32)
    rng = np.random.default_rng(1)
    w = (rng.normal(size=(200, k)) / 200**0.5).astype(np.float32)
    return x.astype(dtype), w.astype(dtype), source, size, rank, rng.normal(size=(6, k)).astype(np.float32)


def in_float64(x: Any, w: Any, source: Any, size: int, rank: int, bias: Any, activation: Any) -> np.ndarray:
    a, b = (f.astype(float) for f in ref.lowrank_factors(source, (len(w) * rank, w.shape[1] * rank), size, "binom8"))
    x, w = np.broadcast_to(x.astype(float), (len(source), *x.shape[1:])), w.astype(float)
    noise = np.einsum("nti,nir,njr->ntj", x, a.reshape(len(a), -1, rank), b.reshape(len(b), -1, rank))
    total = x @ w + noise + np.broadcast_to(bias, (len(source), w.shape[1]))[:, None].astype(float)
    return {"tanh": np.tanh, "relu": lambda t: np.maximum(t, 0), None: lambda t: t}[activation](total)


@needs_compiler
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("shared", ["", "x"])
def test_a_layer_errs_by_its_roundings(activation: Any, shared: str) -> None:
    """In bfloat16 at most twice as much as float64 rounded once."""
    for dtype, own_bias in itertools.product((np.float32, ml_dtypes.bfloat16), (True, False)):
        x, w, source, size, rank, bias = layer(dtype, shared)
        bias = bias if own_bias else bias[0]
        exact = in_float64(x, w, source, size, rank, bias, activation)
        for array, impl in itertools.product((np.asarray, jnp.asarray), ("native", "ref")):
            got = lowrank_linear(
                *map(array, (x, w, source)), size, rank, "binom8", bias=array(bias), activation=activation, impl=impl
            )
            assert got.dtype == x.dtype
            assert isinstance(got, np.ndarray) == (array is np.asarray)
            error, least = (
                np.abs(np.asarray(got).astype(float) - exact),
                np.abs(exact.astype(dtype).astype(float) - exact),
            )
            if dtype is np.float32:
                assert error.max() < 3e-5
            else:
                assert error.max() <= 2 * least.max() and error.mean() <= 1.01 * least.mean()


@needs_compiler
def test_layers_of_numpy_have_the_bits_of_the_reference() -> None:
    for activation, dtype in itertools.product((None, "relu", "tanh"), (np.float32, ml_dtypes.bfloat16)):
        *given, bias = layer(dtype)
        got, expected = (
            lowrank_linear(*given, "normal", bias=bias, activation=activation, impl=impl)  # type: ignore[arg-type]
            for impl in ("native", "ref")
        )
        assert_same_bits([got], [expected])


@needs_compiler
def test_members_of_layers_join_and_have_derivatives() -> None:
    x, w, source, size, rank, bias = layer(np.float32)
    whole = lowrank_linear(*map(jnp.asarray, (x, w, source)), size, rank, bias=bias, activation="tanh", impl="native")

    def one(impl: Any, x: Any, words: Any, bias: Any, w: Any) -> Any:
        return lowrank_linear(x[None], w, words[None], size, rank, bias=bias, activation="tanh", impl=impl)[0]

    mapped = jax.vmap(partial(one, "native"), (0, 0, 0, None))
    assert_allclose(mapped(x, source, bias, w), whole, rtol=1e-5, atol=1e-6)
    assert str(jax.make_jaxpr(mapped)(x, source, bias, w)).count("ffi_call") == 1
    shared = jax.vmap(partial(one, "native"), (0, 0, None, None))(x, source, bias[0], w)
    assert_allclose(shared[0], whole[0], rtol=1e-5, atol=1e-6)

    def total(impl: Any, activation: Any, x: Any, w: Any, bias: Any) -> Any:
        out = lowrank_linear(x, w, jnp.asarray(source), size, rank, bias=bias, activation=activation, impl=impl)
        return jnp.sum(out**2)

    for activation in (None, "relu", "tanh"):
        got, expected = (
            jax.grad(partial(total, impl, activation), (0, 1, 2))(*map(jnp.asarray, (x, w, bias)))
            for impl in ("native", "xla")
        )
        for a, b in zip(got, expected, strict=True):
            assert_allclose(a, b, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((4, 5), np.float32)}, "x and w must be of shapes"),
        ({"w": np.zeros((4, 6), np.float32)}, r"x and w must be .*, got \(4, 3, 5\) and \(4, 6\)"),
        ({"x": np.zeros((4, 3, 5))}, "x must be of dtype float32 or bfloat16, got float64"),
        ({"w": np.zeros((5, 6), np.float16)}, "w must be of dtype float32 or bfloat16, got float16"),
        ({"x": np.zeros((2, 3, 5), np.float32)}, "x must have 1 or 4 members as source has, got 2"),
        ({"bias": np.zeros(5, np.float32)}, r"bias must be of shape \(6,\) or \(n, 6\), got \(5,\)"),
        ({"activation": "gelu"}, "activation must be one of None, relu, tanh, got 'gelu'"),
        ({"rank": 0}, "rank must be an integer >= 1, got 0"),
    ],
)
def test_layers_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    x, y, source, size, rank = problem((4, 3, 5, 6, 1, 0, 0))
    call = {"x": x, "w": np.zeros((5, 6), np.float32), "source": source, "size": size, "rank": rank}
    with pytest.raises(bb.SettingError, match=message):
        lowrank_linear(**(call | change))
    with pytest.raises(bb.SettingError, match="dtype must be one of float32, bfloat16, got 'float16'"):
        lowrank_mix(x, y, source, size, dtype="float16")  # type: ignore[arg-type]
