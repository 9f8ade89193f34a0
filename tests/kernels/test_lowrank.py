"""Products with noise of low rank: the contract's bits from compiled code, also within JAX, and from a GPU's grids."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simulator
from jax.sharding import PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.kernels import device, lowrank_factors, lowrank_mix, native, ref, spec, xla

KINDS = native.KINDS
needs_compiler = pytest.mark.skipif(native.library("lowrank_mix") is None, reason="no C++ compiler")
# Members, rows of each, m, n, rank, values before A and between A and B: whole blocks and tiles, and not.
SHAPES = [
    (4, 1, 64, 128, 1, 0, 0),
    (5, 3, 100, 7, 2, 5, 3),
    (1, 2, 1, 1, 1, 130, 0),
    (6, 1, 129, 130, 4, 17, 1),
    (3, 2, 257, 65, 3, 1, 9),
    (2, 5, 1, 300, 2, 3, 0),
    (4, 0, 5, 4, 1, 0, 0),
    (0, 2, 5, 4, 1, 0, 0),
]
Problem = tuple[np.ndarray, np.ndarray, np.ndarray, int, int]


def problem(shape: tuple[int, ...], shared: str = "", paired: bool = True) -> Problem:
    """x, y, sources, the size of a row, and the rank; members of a pair have one noise and steps of their own."""
    members, rows, m, k, rank, before, between = shape
    rng = np.random.default_rng(shape)
    source = rng.integers(0, 2**32, (members, 6), dtype=np.uint32)
    source[:, 3] = rng.normal(size=members).astype(np.float32).view(np.uint32)
    source[:, 4:] = before, before + m * rank + between
    if paired:
        source[1::2, :3] = source[: members - 1 : 2, :3]
    x = rng.normal(size=(1 if "x" in shared else members, rows, m)).astype(np.float32)
    y = rng.normal(size=(1 if "y" in shared else members, rows, k)).astype(np.float32)
    return x, y, source, before + (m + k) * rank + between + 11, rank


def assert_same_bits(got: object, expected: object) -> None:
    for a, b in zip(got, expected, strict=True):  # type: ignore[call-overload]
        assert_array_equal(np.asarray(a, np.float32).view(np.uint32), np.asarray(b, np.float32).view(np.uint32))


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
@pytest.mark.parametrize("order", simulator.ORDERS)
@pytest.mark.parametrize("threads", [1, 32, 256])
def test_a_grid_has_the_bits_of_the_reference(threads: int, order: int) -> None:
    launch = simulator.launcher(order, threads=threads)
    for kind, (index, shape) in itertools.product(KINDS, enumerate(SHAPES)):
        if threads == 256 and index % 4 != KINDS.index(kind):  # each shape with one kind: all of them take long
            continue
        x, y, source, size, rank = problem(shape, ("", "xy", "x")[index % 3], paired=index != 3)
        expected = ref.lowrank_mix(x, y, source, size, rank, kind)
        assert_same_bits(device.lowrank_mix(launch, x, y, source, size, rank, kind), expected)
        sizes = (x.shape[2] * rank, y.shape[2] * rank)
        expected = ref.lowrank_factors(source, sizes, size, kind)
        assert_same_bits(device.lowrank_factors(launch, source, sizes, size, kind), expected)


@needs_compiler
def test_a_grid_takes_long_rows_and_many_rows_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_TILE", 128)
    monkeypatch.setattr(device, "_SUMS", 128)
    launch = simulator.launcher(7, threads=32)
    for shape in ((2, 7, 200, 150, 1, 3, 2), (3, 3, 130, 131, 3, 0, 0)):
        x, y, source, size, rank = problem(shape)
        got = device.lowrank_mix(launch, x, y, source, size, rank, "binom8")
        assert_same_bits(got, ref.lowrank_mix(x, y, source, size, rank, "binom8"))


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
        ({"source": np.zeros((4, 5), np.uint32)}, r"source must be uint32 of shape \(n, 6\), got uint32 of shape"),
        ({"source": np.zeros((4, 6), np.int32)}, r"source must be uint32 of shape \(n, 6\), got int32"),
        ({"size": 10}, "A and B must lie within a row of 10 values, got values up to"),
        ({"size": 0}, "size must be from 1 to"),
        ({"rank": 0}, "rank must be an integer >= 1, got 0"),
        ({"kind": "gaussian"}, "kind must be one of normal, uniform, sign, binom8, normal_fast, got 'gaussian'"),
        ({"impl": "gpu"}, "impl must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    x, y, source, size, rank = problem((4, 3, 5, 6, 1, 0, 0))
    with pytest.raises(bb.SettingError, match=message):
        lowrank_mix(**({"x": x, "y": y, "source": source, "size": size, "rank": rank} | change))
