"""Philox4x32-10 words and keys of noise specification 1 (:mod:`blackbox.kernels.spec`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import spec

if TYPE_CHECKING:
    from jaxtyping import UInt32

u32 = jnp.uint32


def multiply(multiplier: int, a: UInt32[Array, "*shape"]) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """High and low words of a 32 x 32 bit product, from four 16-bit products: needs no 64-bit mode."""
    a_low, a_high = a & u32(0xFFFF), a >> 16
    m_low, m_high = u32(multiplier & 0xFFFF), u32(multiplier >> 16)
    low_low, low_high, high_low = a_low * m_low, a_low * m_high, a_high * m_low
    middle = (low_low >> 16) + (low_high & u32(0xFFFF)) + (high_low & u32(0xFFFF))
    high = a_high * m_high + (low_high >> 16) + (high_low >> 16) + (middle >> 16)
    return high, a * u32(multiplier)


def philox(
    counter: Sequence[UInt32[Array, "*shape"]],
    key: Sequence[UInt32[Array, "*shape"]],
    rounds: int = spec.ROUNDS,
) -> tuple[UInt32[Array, "*shape"], ...]:
    """Philox4x32 of four counter words under two key words.

    A loop, because XLA on a CPU otherwise fuses all rounds into every consumer and computes them for each
    again, and with some shapes takes minutes to compile.
    """
    shape = jnp.broadcast_shapes(*(jnp.shape(word) for word in counter))
    w0, w1 = (u32(w) for w in spec.WEYL)

    def one_round(_: int, state: tuple[Array, ...]) -> tuple[Array, ...]:
        c0, c1, c2, c3, k0, k1 = state
        high0, low0 = multiply(spec.MULTIPLIERS[0], c0)
        high1, low1 = multiply(spec.MULTIPLIERS[1], c2)
        return high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0, k0 + w0, k1 + w1

    start = (*(jnp.broadcast_to(word, shape) for word in counter), key[0], key[1])
    return tuple(lax.fori_loop(0, rounds, one_round, start, unroll=5)[:4])


def fold(key: UInt32[Array, "2"], a: Array | int, b: Array | int = 0) -> UInt32[Array, "2"]:
    """The key derived from ``key`` and two integers (taken modulo 2**32)."""
    return _fold(jnp.asarray(key, u32), word(a), word(b))


@jax.jit
def _fold(key: UInt32[Array, "2"], a: UInt32[Array, ""], b: UInt32[Array, ""]) -> UInt32[Array, "2"]:
    k0, k1 = key[0], key[1]
    w0, w1, _, _ = philox((a, b, ~k0, ~k1), (k0, k1))
    return jnp.stack([w0, w1])


def word(value: Array | int) -> UInt32[Array, ""]:
    if isinstance(value, int):
        return u32(value & 0xFFFFFFFF)
    word: Array = jnp.asarray(value).astype(u32)
    return word
