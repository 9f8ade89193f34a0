"""Weighted sums of noise: the contract's bits from compiled code, and what they are good for."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from numpy.testing import assert_array_equal

import blackbox as bb
from blackbox.kernels import native, ref, seedsum, spec

KINDS = native.KINDS
KEYS = np.array([[0xDEADBEEF, 0x12345678], [3, 4]], np.uint32)
needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")


def problem(
    sums: int, terms: int, sizes: tuple[int, ...], rows: int
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng([sums, terms, *sizes])
    bases = [rng.normal(size=(rows, size)).astype(np.float32) for size in sizes]
    weights = rng.normal(size=(sums, terms)).astype(np.float32)
    return bases, weights, rng.integers(0, 2**32, (sums, terms), dtype=np.uint32)


def assert_same_bits(left: object, right: object) -> None:
    for a, b in zip(left, right, strict=True):  # type: ignore[call-overload]
        assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 64])
def test_the_reference_is_the_sum_of_the_noise(kind: spec.Kind, chunk: int) -> None:
    bases, weights, members = problem(2, 70, (37, 1), 1)
    for key, base, total in zip(KEYS, bases, ref.seedsum(KEYS, bases, weights, members, kind, chunk), strict=True):
        for q in range(2):
            drawn = [ref.noise(key, int(member), 1, base.shape[1], kind)[0].astype(float) for member in members[q]]
            unit = 2**0.5 if kind == "binom8" else 1.0
            centered = np.array(drawn) * unit - (0.5 if kind == "uniform" else 0.0)
            np.testing.assert_allclose(total[q], base[0] + weights[q].astype(float) @ centered, atol=2e-5)


@needs_compiler
@pytest.mark.parametrize(("sums", "terms", "sizes", "rows"),
    [(1, 200, (1000, 29), 1), (3, 5, (77, 3), 3), (1, 0, (10, 10), 1), (2, 64, (4097, 1), 1), (5, 130, (33, 300), 5),
     (4, 3, (0, 5), 1)])  # fmt: skip
@pytest.mark.parametrize("chunk", [1, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_sums_have_the_bits_of_the_reference(
    kind: spec.Kind, chunk: int, sums: int, terms: int, sizes: tuple[int, ...], rows: int
) -> None:
    bases, weights, members = problem(sums, terms, sizes, rows)
    expected = ref.seedsum(KEYS, bases, weights, members, kind, chunk)
    assert_same_bits(native.seedsum(KEYS, bases, weights, members, kind, chunk), expected)
    in_jax = seedsum(jnp.asarray(KEYS), bases, jnp.asarray(weights), members, kind, chunk=chunk, impl="native")
    assert_same_bits(in_jax, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 64])
def test_without_compiled_code_sums_differ_by_roundings(kind: spec.Kind, chunk: int) -> None:
    bases, weights, members = problem(3, 40, (130, 9), 3)
    expected = ref.seedsum(KEYS, bases, weights, members, kind, chunk)
    got = seedsum(jnp.asarray(KEYS), bases, jnp.asarray(weights), members, kind, chunk=chunk, impl="xla")
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@needs_compiler
def test_rows_and_devices_may_share_the_work() -> None:
    bases, weights, members = problem(8, 6, (500, 40), 8)
    expected = ref.seedsum(KEYS, bases, weights, members, "normal", 1)
    scalars = native.seedsum_scalars([base.shape for base in bases], weights.shape, "normal", 1)
    sums = [np.full_like(base, np.nan) for base in bases]
    buffers = np.array([x.ctypes.data for x in (KEYS, weights, members, *bases, *sums)], np.uintp)
    library = native.library()
    assert library is not None
    for begin, end in ((50, int(scalars[0])), (0, 3), (3, 50)):
        library.bb_seedsum(buffers.ctypes.data, scalars.ctypes.data, begin, end)
    assert_same_bits(sums, expected)

    mesh = jax.make_mesh((len(jax.devices()),), ("sums",), axis_types=(jax.sharding.AxisType.Auto,))
    part = PartitionSpec("sums")
    run = jax.shard_map(
        partial(lambda *arrays: seedsum(jnp.asarray(KEYS), arrays[:2], *arrays[2:], "normal", chunk=1)),
        mesh=mesh, in_specs=part, out_specs=part, check_vma=False,
    )  # fmt: skip
    assert_same_bits(jax.jit(run)(*map(jnp.asarray, (*bases, weights, members))), expected)


@pytest.mark.parametrize("impl", ["ref", pytest.param("native", marks=needs_compiler)])
def test_a_child_is_its_parent_and_one_term(impl: str) -> None:
    (base,), weights, members = problem(1, 30, (200,), 1)
    make = partial(seedsum, KEYS[:1], kind="normal", chunk=1, impl=impl)
    (parent,) = make([base], weights[:, :29], members[:, :29])
    assert_same_bits(make([parent], weights[:, 29:], members[:, 29:]), make([base], weights, members))


@needs_compiler
@pytest.mark.parametrize("scale", [1e-40, 1e-44])
def test_subnormal_numbers_are_kept_within_programs_of_jax(scale: float) -> None:
    """XLA has its threads flush them to zero; the kernels do not."""
    bases, weights, members = problem(1, 3, (5000,), 1)
    bases, weights = [np.float32(scale) * base for base in bases], np.float32(scale) * weights
    expected = ref.seedsum(KEYS[:1], bases, weights, members, "binom8", 64)
    assert np.count_nonzero(expected[0]) > 4000
    # Bits in and out: a conversion by XLA itself would flush them.
    assert_same_bits(native.seedsum(KEYS[:1], bases, weights, members, "binom8", 64), expected)
    got = seedsum(jnp.asarray(KEYS[:1]), bases, jnp.asarray(weights), jnp.asarray(members), "binom8", impl="native")
    assert_same_bits(got, expected)


@needs_compiler
def test_sums_have_derivatives() -> None:
    """They are linear: the derivative for a term's weight is the noise of its member."""
    bases, weights, members = problem(1, 5, (40,), 1)

    def total(bases: list[jax.Array], weights: jax.Array) -> jax.Array:
        (row,) = seedsum(jnp.asarray(KEYS[:1]), bases, weights, jnp.asarray(members), "sign", impl="native")
        return (row * jnp.arange(40)).sum()

    by_base, by_weight = jax.grad(total, (0, 1))([jnp.asarray(bases[0])], jnp.asarray(weights))
    assert_array_equal(by_base[0][0], np.arange(40))
    drawn = [ref.noise(KEYS[0], int(member), 1, 40, "sign")[0] for member in members[0]]
    np.testing.assert_allclose(by_weight[0], np.array(drawn) @ np.arange(40), rtol=1e-6)


@pytest.mark.parametrize(("sums", "terms", "sizes"), [(0, 3, (5,)), (2, 0, (5, 1)), (2, 3, ()), (2, 3, (0,))])
def test_empty_sums_have_their_shapes(sums: int, terms: int, sizes: tuple[int, ...]) -> None:
    bases, weights, members = problem(sums, terms, sizes, sums)
    for array in (np.asarray, jnp.asarray):
        got = seedsum(array(KEYS[: len(sizes)]), bases, array(weights), array(members))
        assert [total.shape for total in got] == [(sums, size) for size in sizes]


@pytest.mark.parametrize("kind", ["sign", "binom8"])
def test_whole_numbers_sum_exactly_in_any_order(kind: spec.Kind) -> None:
    rng = np.random.default_rng(0)
    weights, members = rng.integers(-500, 500, (1, 300)), rng.integers(0, 2**32, (1, 300), dtype=np.uint32)
    exact = np.zeros(100, np.int64)
    for weight, member in zip(weights[0].tolist(), members[0].tolist(), strict=True):
        drawn = ref.noise(KEYS[0], member, 1, 100, kind)[0]
        exact += weight * np.rint(drawn * (2**0.5 if kind == "binom8" else 1)).astype(np.int64)
    order, zero = rng.permutation(300), np.zeros((1, 100), np.float32)
    f = weights.astype(np.float32)
    for array in (np.asarray, jnp.asarray):
        for chunk in (1, 7, 64):
            (total,) = seedsum(array(KEYS[:1]), [zero], array(f[:, order]), array(members[:, order]), kind, chunk=chunk)
            assert_array_equal(np.asarray(total)[0], exact)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": np.zeros((2, 4), np.uint32)}, "one shape"),
        ({"bases": [np.zeros((3, 5), np.float32)]}, "a base must be of shape"),
        ({"keys": KEYS}, "keys must be an array of uint32 of shape"),
        ({"keys": KEYS[:1].astype(int)}, r"keys must be an array of uint32 of shape \(1, 2\), got int64"),
        ({"bases": 3}, "bases must be a sequence of one array for each stream, got 3"),
        ({"bases": [[[1.0, 2.0]]]}, r"a base must be an array of real numbers, got \[\[1.0, 2.0\]\]"),
        ({"members": np.zeros((2, 3))}, "members must be an array of integers, got float64"),
        ({"members": [[1, 2, 3]] * 2}, "members must be an array of integers, got"),
        ({"weights": np.full((2, 3), "a")}, "weights must be an array of real numbers, got <U1"),
        ({"kind": "gaussian"}, "kind must be one of normal, uniform, sign, binom8, normal_fast, got 'gaussian'"),
        ({"chunk": 0}, "chunk must be an integer >= 1, got 0"),
        ({"impl": "gpu"}, "impl must be one of"),
        ({"members": np.full((2, 3), -1)}, "members must be from 0 to 2"),
        ({"members": np.full((2, 3), 2**32)}, "members must be from 0 to 2"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    bases, weights, members = problem(2, 3, (5,), 1)
    arguments = {"keys": KEYS[:1], "bases": bases, "weights": weights, "members": members} | change
    with pytest.raises(bb.SettingError, match=message):
        seedsum(**arguments)  # type: ignore[arg-type]
