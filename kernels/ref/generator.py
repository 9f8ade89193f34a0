"""Philox4x32-10 words and keys of noise specification 1 (:mod:`blackbox.kernels.spec`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from .. import spec

if TYPE_CHECKING:
    from jaxtyping import UInt32

_WORD = 0xFFFFFFFF
_MULTIPLIERS = np.array(spec.MULTIPLIERS, np.uint64)
_ROUND_OFFSETS = np.array([[(w * r) & _WORD for w in spec.WEYL] for r in range(spec.ROUNDS)], np.uint32)


def philox(counter: Sequence[int], key: Sequence[int], rounds: int = spec.ROUNDS) -> tuple[int, int, int, int]:
    """Philox4x32 of one counter (four words) under one key (two words), in Python integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    (m0, m1), (w0, w1) = spec.MULTIPLIERS, spec.WEYL
    for _ in range(rounds):
        p0, p1 = m0 * c0, m1 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _WORD, (p0 >> 32) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + w0) & _WORD, (k1 + w1) & _WORD
    return c0, c1, c2, c3


def fold(key: UInt32[ndarray, "2"], a: int, b: int = 0) -> UInt32[ndarray, "2"]:
    """The key derived from ``key`` and two integers (taken modulo 2**32)."""
    k0, k1 = key.tolist()
    w0, w1, _, _ = philox((int(a) & _WORD, int(b) & _WORD, k0 ^ _WORD, k1 ^ _WORD), (k0, k1))
    return np.array((w0, w1), np.uint32)


def words(keys: UInt32[ndarray, "*streams 2"], start: int, count: int) -> UInt32[ndarray, "*streams count 4"]:
    """Blocks ``start`` to ``start + count - 1`` of each stream."""
    index = np.arange(start, start + count, dtype=np.uint64)
    k = np.moveaxis(keys, -1, 0)[..., None]  # (2, *streams, 1)
    even = np.empty((2, *keys.shape[:-1], count), np.uint32)
    odd = np.empty_like(even)
    even[0], odd[0] = index & np.uint64(_WORD), index >> np.uint64(32)
    even[1], odd[1] = k
    return _philox_arrays(even, odd, k)


def _philox_arrays(even: ndarray, odd: ndarray, key: ndarray) -> UInt32[ndarray, "*shape 4"]:
    """Philox of counters given as (word 0, word 2) and (word 1, word 3), so that a round is three calls.

    The two halves of a product are read through a 32-bit view; the products alternate between two buffers,
    since the low half of one round is still needed in the next.
    """
    shape = even.shape[1:]
    product = np.empty((2, 2, *shape), np.uint64)
    low, high = _halves(product)
    multipliers = _MULTIPLIERS.reshape(2, *(1,) * len(shape))
    round_keys = _ROUND_OFFSETS.reshape(spec.ROUNDS, 2, *(1,) * len(shape)) + key
    for r in range(spec.ROUNDS):
        np.multiply(even, multipliers, out=product[r & 1])
        np.bitwise_xor(high[r & 1], odd, out=even)
        even ^= round_keys[r]
        odd = low[r & 1]
    out = np.empty((*shape, 4), np.uint32)
    out[..., 0::2], out[..., 1::2] = np.moveaxis(even, 0, -1), np.moveaxis(odd, 0, -1)
    return out


def _halves(product: ndarray) -> tuple[ndarray, ndarray]:
    """Low and high words of 64-bit products, rows exchanged: each feeds the other half of the state."""
    view = product.view(np.uint32).reshape(*product.shape, 2)[:, ::-1]
    first, second = view[..., 0], view[..., 1]
    return (first, second) if np.little_endian else (second, first)


def fold_many(key: UInt32[ndarray, "2"], start: int, length: int, b: int) -> UInt32[ndarray, "length 2"]:
    """``fold(key, a, b)`` for ``a`` from ``start`` to ``start + length - 1``."""
    even, odd = np.empty((2, 2, length), np.uint32)
    even[0], odd[0] = np.arange(start, start + length, dtype=np.uint64) & np.uint64(_WORD), b & _WORD
    even[1], odd[1] = ~key[0], ~key[1]
    return _philox_arrays(even, odd, key[:, None])[:, :2]
