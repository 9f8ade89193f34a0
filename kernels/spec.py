"""Noise specification 1: the contract that every backend keeps, bit for bit.

**Words.** Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). A stream is
named by a key ``(k0, k1)`` of two 32-bit words. Block ``i`` of a stream is Philox of the counter
``(low(i), high(i), k0, k1)`` under that key and holds four 32-bit words; XLA's ``RNG_PHILOX`` uses the same
layout. ``fold`` derives a key from a key and two integers: words 0 and 1 of Philox of the counter
``(a, b, ~k0, ~k1)``, which no block of the stream itself can use.

**Members.** Noise of shape ``(n, *event)`` gives each member whole blocks: member ``m`` owns blocks
``m * blocks`` to ``(m + 1) * blocks - 1``, so its noise depends on nothing but the key, ``m`` and the event size.

**Kinds.** ``uniform``: ``((w >> 9) * 2 + 1) * 2**-24``, exact in float32, never 0 or 1; four a block.
``normal``: Box-Muller on two uniforms with the polynomials below, in float32 with fused multiply-adds; four a
block; at most 5.77 in magnitude. ``sign``: bit ``j`` of the block's 128, 1 for -1. ``binom8``: centered
popcount of each of the block's 16 bytes (little endian) over sqrt(2), unit variance. Centered noise has zero mean
and is not divided: uniform less a half, counts of ``binom8`` from -4 to 4.

**Sums.** ``base + sum_k weight_k noise_k`` over centered noise of members is taken in chunks of terms: a chunk's sum
begins with zero and takes its terms in order, each product and each sum rounded to float32; the chunks' sums are added
to ``base`` in order. So the bits depend neither on the device nor on how the work is split, but XLA alone, without
compiled code, differs by roundings. ``SUM_CHUNK`` is for sums over a population; genomes take chunks of one term, so
that a child's weights are its parent's plus one term, in bits.

**Low rank.** ``y + sum_r (step (x . A_r)) B_r`` over centered noise A (m, rank) and B (n, rank), which a source names:
six words, key ``(k0, k1)``, member number, the float32 step, and where A and B begin in the member's row of the stream.
The dot product is taken in ``DOT_SUMS`` sums that begin with zero: sum ``l`` takes entries ``l``, ``l + DOT_SUMS`` and
so on, each product and each sum rounded; then the second half of the sums is added to the first until one is left. It
is multiplied with the step, and the products with B are added to ``y`` in the order of r. Again XLA alone differs by
roundings.
"""

from __future__ import annotations

from typing import Literal

VERSION = 1

Kind = Literal["normal", "uniform", "sign", "binom8"]

VALUES_PER_BLOCK: dict[Kind, int] = {"normal": 4, "uniform": 4, "sign": 128, "binom8": 16}
VALUES_PER_THREAD: dict[Kind, int] = {"normal": 4, "uniform": 4, "sign": 32, "binom8": 16}  # of a GPU, in sums


def blocks_of(size: int, kind: Kind) -> int:
    """Blocks that ``size`` values take."""
    return -(-size // VALUES_PER_BLOCK[kind])


# What centered noise is multiplied with for unit variance: fair signs as they are, binomial counts from -4 to 4, and
# uniform numbers from -1/2 to 1/2.
UNIT: dict[Kind, float] = {"normal": 1.0, "uniform": 12**0.5, "sign": 1.0, "binom8": 2**-0.5}

SUM_CHUNK = 64
DOT_SUMS = 64

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)

# Polynomials of ``normal`` in Horner order. Log is that of Cephes' single-precision logf (Moshier):
# log(1 + t) = t - t^2 / 2 + t^3 * LOG(t) on [sqrt(1/2) - 1, sqrt(2) - 1], with ln 2 split in two.
LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
SQRT2 = 1.41421354
HALF_PI = 1.57079637
# sin(r) = r + r^3 * SIN(r^2) and cos(r) = 1 + r^2 * COS(r^2) on [-pi/4, pi/4].
SIN = (2.7557314297e-6, -1.9841270114e-4, 8.3333337680e-3, -1.6666667163e-1)
COS = (2.4801587642e-5, -1.3888889225e-3, 4.1666667908e-2, -0.5)
