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
block; at most 5.77 in magnitude. ``normal_fast``: as ``normal`` to within 1e-5, absolute, which is to be measured on a
GPU; on GPUs made by the special function units, elsewhere ``normal`` itself, and so the one kind whose bits depend on
the device. ``sign``: bit ``j`` of the block's 128, 1 for -1. ``binom8``: centered
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

from blackbox.errors import SettingError

Kind = Literal["normal", "uniform", "sign", "binom8", "normal_fast"]

VALUES_PER_BLOCK: dict[Kind, int] = {"normal": 4, "uniform": 4, "sign": 128, "binom8": 16, "normal_fast": 4}


def blocks_of(size: int, kind: Kind) -> int:
    """Blocks that ``size`` values take."""
    return -(-size // VALUES_PER_BLOCK[kind])


def require_kind(kind: object) -> None:
    """Raises SettingError for what is no kind of noise."""
    if not isinstance(kind, str) or kind not in VALUES_PER_BLOCK:
        raise SettingError(f"kind must be one of {', '.join(VALUES_PER_BLOCK)}, got {kind!r}")


# What centered noise is multiplied with for unit variance: fair signs as they are, binomial counts from -4 to 4, and
# uniform numbers from -1/2 to 1/2.
UNIT: dict[Kind, float] = {"normal": 1.0, "uniform": 12**0.5, "sign": 1.0, "binom8": 2**-0.5, "normal_fast": 1.0}

SUM_CHUNK = 64
DOT_SUMS = 64

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)

# Polynomials of ``normal`` in Horner order, fitted and rounded by bench/fit_polynomials.py. With e whole, m = u / 2**e
# in [2/3, 4/3) and s = 2 - 2 m: -2 log(u) = s + s^2 LOG(s) - 2 ln 2 e. The constants are the bits of 2/3 as float32
# and -2 ln 2 2**-23, since e is taken as it lies in the bits.
LOG = (5.8544887e-4, 1.1983648e-3, 2.1505123e-3, 5.1345e-3, 1.2518124e-2, 3.125812e-2, 8.333193e-2, 2.4999987e-1)
TWO_THIRDS, MINUS_TWO_LN2 = 0x3F2AAAAB, -1.6525917e-7
# With x in quarter turns from -1/2 to 1/2: sin = x pi / 2 + x SIN(x^2), cos = 1 + x^2 COS(x^2).
HALF_PI = 1.5707964
SIN = (-4.6025137e-3, 7.968034e-2, -6.459635e-1, -4.879786e-8)
COS = (8.944864e-4, -2.085559e-2, 2.5366855e-1, -1.2337005)
