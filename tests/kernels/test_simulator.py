"""The kernels as a GPU runs them, thread by thread on the CPU: the bits of the reference, whatever the schedule."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import lowrank_cases
import ml_dtypes
import numpy as np
import pytest
import rollout_cases
import simulator
from numpy.testing import assert_array_equal

from blackbox.kernels import device, native, ref, spec
from blackbox.kernels.finish import finished

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")
KINDS = native.KINDS
KEYS = np.array([[0xDEADBEEF, 0x12345678], [5, 6]], np.uint32)


def assert_same_bits(got: object, expected: object) -> None:
    for a, b in zip(got, expected, strict=True):  # type: ignore[call-overload]
        assert_array_equal(np.asarray(a, np.float32).view(np.uint32), np.asarray(b, np.float32).view(np.uint32))


@pytest.mark.parametrize("order", simulator.ORDERS)
@pytest.mark.parametrize("threads", [1, 32, 256])
@pytest.mark.parametrize("kind", KINDS)
def test_noise_has_the_bits_of_the_reference(kind: spec.Kind, threads: int, order: int) -> None:
    launch = simulator.launcher(order, threads=threads)
    for members, sizes in (([3, 4, 2**32 - 1], (37, 1)), ([9], (1030, 128)), ([], (5, 5)), ([1, 2], (0, 3))):
        numbers = np.array(members, np.uint32)
        made = device.centered_noise(launch, KEYS, numbers, sizes, kind, centered=False)
        for key, values, size in zip(KEYS, made, sizes, strict=True):
            expected = [ref.noise(key, member, 1, size, kind)[0] for member in members]
            assert_same_bits([values], [np.reshape(expected, (len(members), size))])
        one, zeros = np.ones((len(members), 1), np.float32), [np.zeros((1, size), np.float32) for size in sizes]
        centered = device.centered_noise(launch, KEYS, numbers, sizes, kind)
        assert_same_bits(centered, ref.seedsum(KEYS, zeros, one, numbers[:, None], kind))


@pytest.mark.parametrize("order", simulator.ORDERS)
@pytest.mark.parametrize("threads", [1, 32, 256])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_have_the_bits_of_the_reference(kind: spec.Kind, threads: int, order: int) -> None:
    rng, launch = np.random.default_rng(0), simulator.launcher(order, threads=threads)
    shapes = [(1, 150, (101, 1), 1, 64), (3, 5, (77, 3), 3, 1), (2, 0, (10, 10), 1, 64), (2, 64, (257, 1), 2, 7)]
    for sums, terms, sizes, rows, chunk in shapes:
        bases = [rng.normal(size=(rows, size)).astype(np.float32) for size in sizes]
        weights = rng.normal(size=(sums, terms)).astype(np.float32)
        members = rng.integers(0, 2**32, (sums, terms), dtype=np.uint32)
        got = device.seedsum(launch, KEYS, bases, weights, members, kind, chunk)
        assert_same_bits(got, ref.seedsum(KEYS, bases, weights, members, kind, chunk))


@pytest.mark.parametrize("order", simulator.ORDERS)
def test_signs_in_eight_bits_are_those_of_the_reference(order: int) -> None:
    members = np.array([3, 2**32 - 1], np.uint32)
    for key, made in zip(KEYS, device.signs(simulator.launcher(order), KEYS, members, (130, 1)), strict=True):
        expected = [ref.noise(key, int(member), 1, made.shape[1], "sign")[0] for member in members]
        assert made.dtype == np.int8
        assert_array_equal(made, expected)


# ---- products with noise of low rank


@pytest.mark.parametrize("order", simulator.ORDERS)
@pytest.mark.parametrize("threads", [1, 32, 256])
def test_products_of_low_rank_have_the_bits_of_the_reference(threads: int, order: int) -> None:
    launch = simulator.launcher(order, threads=threads)
    for kind, (index, shape) in itertools.product(
        KINDS, enumerate([*lowrank_cases.SHAPES, *lowrank_cases.WITHOUT_AXIS])
    ):
        if threads == 256 and index % 4 != KINDS.index(kind):  # each shape with one kind: all of them take long
            continue
        x, y, source, size, rank = lowrank_cases.problem(shape, ("", "xy", "x")[index % 3], paired=index != 3)
        expected = ref.lowrank_mix(x, y, source, size, rank, kind)
        assert_same_bits(device.lowrank_mix(launch, x, y, source, size, rank, kind), expected)
        sizes = (x.shape[2] * rank, y.shape[2] * rank)
        expected = ref.lowrank_factors(source, sizes, size, kind)
        assert_same_bits(device.lowrank_factors(launch, source, sizes, size, kind), expected)


def test_products_take_long_rows_and_many_rows_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_TILE", 128)
    monkeypatch.setattr(device, "_SUMS", 128)
    launch = simulator.launcher(7, threads=32)
    for shape in ((2, 7, 200, 150, 1, 3, 2), (3, 3, 130, 131, 3, 0, 0)):
        x, y, source, size, rank = lowrank_cases.problem(shape)
        got = device.lowrank_mix(launch, x, y, source, size, rank, "binom8")
        assert_same_bits(got, ref.lowrank_mix(x, y, source, size, rank, "binom8"))


Ends = list(itertools.product(("float32", "bfloat16"), ("float32", "bfloat16"), (None, "relu", "tanh")))


@pytest.mark.parametrize("order", simulator.ORDERS)
@pytest.mark.parametrize(("taken", "given", "activation"), Ends)
def test_products_end_in_bias_activation_and_one_rounding(taken: Any, given: Any, activation: Any, order: int) -> None:
    kind = KINDS[Ends.index((taken, given, activation)) % len(KINDS)]
    # By fours and one by one, with values of the noise at multiples of four and not, and more than fit at once.
    shapes = [(5, 1, 70, 132, 1, 0, 6), (2, 3, 1100, 36, 1, 2, 1), *lowrank_cases.SHAPES[1:6]]
    for index, shape in enumerate(shapes):
        if (
            index + Ends.index((taken, given, activation)) + simulator.ORDERS.index(order)
        ) % 3:  # all of them take long
            continue
        launch = simulator.launcher(order, threads=(256, 32, 1)[index % 3])
        x, y, source, size, rank = lowrank_cases.problem(shape, ("", "y", "xy")[index % 3])
        source[0, 3] = 0  # what is rounded is y
        y.view(np.uint32)[0, 0, ::3] = y.view(np.uint32)[0, 0, ::3] & 0xFFFF0000 | 0x8000  # halfway
        y[0, 0, :7] = np.resize([np.nan, -np.nan, np.inf, -np.inf, -0.0, 3.4e38, 1e-40], y[0, 0, :7].shape)
        x = x.astype(ml_dtypes.bfloat16) if taken == "bfloat16" else x
        bias = np.random.default_rng(0).normal(size=(1 + index % 2 * (len(source) - 1), y.shape[2])).astype("f")
        for added in (None, bias):
            got = device.lowrank_mix(launch, x, y, source, size, rank, kind, added, activation, given)
            expected = finished(ref.lowrank_mix(x, y, source, size, rank, kind), added, activation, given)
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
            lowrank_cases.assert_same_bits([got], [expected])


def test_products_of_arrays_that_are_not_aligned_have_the_bits_of_the_reference() -> None:
    x, y, source, size, rank = lowrank_cases.problem((4, 2, 64, 128, 1, 0, 0))
    moved = np.empty(y.size + 1, np.float32)[1:].reshape(y.shape)
    moved[:] = y
    got = device.lowrank_mix(simulator.launcher(7), x, moved, source, size, rank, "sign", dtype="bfloat16")
    expected = ref.lowrank_mix(x, y, source, size, rank, "sign")
    lowrank_cases.assert_same_bits([got], [expected.astype(ml_dtypes.bfloat16)])


def test_every_number_is_rounded_to_the_nearest_of_bfloat16() -> None:
    """Among them what is no number, infinite, subnormal, or halfway, to whose odd and even side."""
    rng = np.random.default_rng(0)
    upper, lower = rng.integers(0, 2**16, (2, 8192), np.uint32)
    lower[::2] = np.resize([0x7FFF, 0x8000, 0x8001, 0, 0xFFFF], 4096)
    y = (upper << 16 | lower).view(np.float32).reshape(1, 1, -1)
    x, source = np.ones((1, 1, 3), np.float32), np.array([[1, 2, 3, 0, 0, 3]], np.uint32)
    got = device.lowrank_mix(simulator.launcher(), x, y, source, 8195, 1, "sign", dtype="bfloat16")
    with np.errstate(invalid="ignore"):
        expected = (y + np.float32(0)).astype(ml_dtypes.bfloat16)
    lowrank_cases.assert_same_bits([got], [expected])


# ---- rollouts


@pytest.mark.parametrize("order", simulator.ORDERS)
@pytest.mark.parametrize("name", rollout_cases.NAMES)
def test_rollouts_have_the_bits_of_the_reference(name: str, order: int) -> None:
    """A few of those in test_rollout.py."""
    for source, threads in zip(rollout_cases.SOURCES, (1, 32, 256, 32, 256), strict=True):
        hidden = (17, 18) if source.startswith("low") else (5,)
        weights, starts = rollout_cases.case(name, hidden, source)
        setting, arrays = rollout_cases.prepared(name, hidden, weights, 9)
        got = device.rollout(simulator.launcher(order, threads=threads), setting, arrays, starts)
        rollout_cases.assert_same(got, rollout_cases.expected(name, hidden, source, 9))


# ---- barriers


def few_blocks_differ(launch: device.Launcher) -> list[str]:
    """Sources of weights whose episodes have other bits than the reference's, in blocks of several members."""

    def few(call: device.Launch, *arrays: Any) -> tuple[np.ndarray, ...]:
        return launch(replace(call, blocks=(2, 2)), *arrays)

    found, hidden = [], (16, 17, 18)
    for source in ("genomes", "low rank"):
        weights, starts = rollout_cases.case("Pendulum-v1", hidden, source, 5, 3)
        setting, arrays = rollout_cases.prepared("Pendulum-v1", hidden, weights, 4)
        got = device.rollout(few, setting, arrays, starts)
        expected = rollout_cases.expected("Pendulum-v1", hidden, source, 4, 5, 3)
        if any(a.tobytes() != b.tobytes() for a, b in zip(got, expected, strict=True)):
            found.append(source)
    return found


def tiles_differ(launch: device.Launcher) -> list[tuple[int, ...]]:
    """Shapes whose products have other bits than the reference's."""
    found = []
    for shape in ((2, 7, 200, 150, 1, 3, 2), (3, 3, 130, 131, 3, 0, 0), (3, 2, 0, 70, 1, 0, 0)):
        x, y, source, size, rank = lowrank_cases.problem(shape)
        got = device.lowrank_mix(launch, x, y, source, size, rank, "binom8")
        if got.tobytes() != ref.lowrank_mix(x, y, source, size, rank, "binom8").tobytes():
            found.append(shape)
    return found


BARRIERS = [(source, line) for source in ("lowrank.cu", "rollout.cu") for line in simulator.barriers_of(source)]


def test_every_text_with_barriers_is_in_the_list() -> None:
    texts = (path.name for path in native.SOURCES.glob("*.cu*"))
    assert {name for name in texts if simulator.barriers_of(name)} == {source for source, _ in BARRIERS}


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_TILE", 128)
    monkeypatch.setattr(device, "_SUMS", 128)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("order", simulator.ORDERS)
@pytest.mark.parametrize("differ", [few_blocks_differ, tiles_differ])
def test_with_all_barriers_nothing_differs(differ: Any, order: int) -> None:
    assert differ(simulator.launcher(order, threads=64)) == []


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("source", "line"), BARRIERS)
def test_every_barrier_is_missed_where_it_is_left_out(source: str, line: int) -> None:
    """A schedule of threads that gives other bits, or threads that meet at different barriers."""
    differ = few_blocks_differ if source == "rollout.cu" else tiles_differ
    with simulator.without_barrier(line):
        for order in simulator.ORDERS:
            try:
                if differ(simulator.launcher(order, threads=64)):
                    return
            except RuntimeError as error:
                assert "threads at different barriers" in str(error)
                return
    pytest.fail(f"nothing shows that {source} has a barrier at line {line}")
