"""Products with noise of low rank to compare, without JAX."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_array_equal

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
WITHOUT_AXIS = [(3, 2, 0, 70, 1, 0, 0), (3, 2, 70, 0, 1, 0, 0)]
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


def bits_of(array: object) -> np.ndarray:
    """As whole numbers, of float32 or bfloat16."""
    values = np.asarray(array)
    return values.view(np.uint16 if values.dtype.itemsize == 2 else np.uint32)


def assert_same_bits(got: object, expected: object) -> None:
    for a, b in zip(got, expected, strict=True):  # type: ignore[call-overload]
        assert_array_equal(bits_of(a), bits_of(b))
