"""The kernels as a GPU runs them, thread by thread on the CPU: the bits of the reference, whatever the schedule."""

from __future__ import annotations

import numpy as np
import pytest
import simulator
from numpy.testing import assert_array_equal

from blackbox.kernels import device, native, ref, spec

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
