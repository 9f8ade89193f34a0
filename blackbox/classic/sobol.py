"""Quasi-random search: scrambled Sobol points, which fill the box more evenly than random ones.

Sources: Joe & Kuo 2008, "Constructing Sobol sequences with better two-dimensional projections", SIAM J. Sci.
Comput. 30 (direction numbers, in ``joe_kuo.npz``); Owen 1998, "Scrambling Sobol' and Niederreiter-Xing points",
J. Complexity 14; Matousek 1998, "On the L2-discrepancy for anchored boxes", J. Complexity 14 (linear scrambling).

Point i is the exclusive or of the direction numbers V_b over the bits b of i's Gray code. Scrambling multiplies
every V_b, as a vector of bits, with a random nonsingular lower triangular matrix, and shifts all points by one
random word; both keep the net: of any 2^k consecutive points from a multiple of 2^k on, each of the 2^k slabs of a
coordinate holds one.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, namespace
from blackbox.best import Best, better_of, none_yet
from blackbox.errors import SettingError
from blackbox.kernels.noise import uniform
from blackbox.strategy import algorithm, require_box, require_integer

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt32

BITS = 32
SECOND_HALF = 2 ** (BITS - 1)
PAGES = 64  # of further members per generation, before they run into those of the next one
MAX_DIMENSION = 1111
"""The first 1,111 of Joe and Kuo's 21,201 dimensions are those that have Sobol's property A."""


@lru_cache(maxsize=8)
def direction_numbers(d: int) -> UInt32[np.ndarray, "32 d"]:
    """V_b of the first ``d`` dimensions, as binary fractions in 32-bit words.

    Raises:
        SettingError: for more dimensions than the table has.
    """
    if d > MAX_DIMENSION:
        raise SettingError(
            f"method 'sobol' has direction numbers for at most {MAX_DIMENSION} coordinates, got {d}; use 'random'"
        )
    with np.load(Path(__file__).with_name("joe_kuo.npz"), allow_pickle=False) as table:
        polynomials, initial = table["polynomials"][:d].astype(np.uint32), table["initial"][:d].astype(np.uint32)
    degrees = np.frexp(polynomials.astype(np.float64))[1] - 1
    m = np.ones((BITS, d), np.uint32)  # the first dimension is van der Corput's sequence: all ones
    for degree in range(1, int(degrees.max()) + 1):
        (columns,) = np.nonzero(degrees == degree)
        part = np.zeros((BITS, len(columns)), np.uint32)
        part[:degree] = initial[columns, :degree].T
        for b in range(degree, BITS):
            part[b] = part[b - degree]
            for k in range(1, degree + 1):
                coefficient = (polynomials[columns] >> np.uint32(degree - k)) & np.uint32(1)
                part[b] ^= coefficient * part[b - k] << np.uint32(k)
        m[:, columns] = part
    words = m << np.arange(BITS - 1, -1, -1, dtype=np.uint32)[:, None]
    words.flags.writeable = False
    return words


def scramble(key: Key, directions: UInt32[Array, "32 d"], like: Array) -> UInt32[Array, "33 d"]:
    """Randomly scrambled direction numbers, and the shift as the last row."""
    xp = namespace(directions)
    shape = (BITS + 1, directions.shape[1])
    high, low = (xp.floor(uniform(key, 0, shape, leaf=leaf, like=like) * 65536.0) for leaf in range(2))
    random = (xp.astype(high, xp.uint32) << 16) | xp.astype(low, xp.uint32)
    # Row p of the matrix makes the p-th bit from the top of that bit and of random ones above it.
    bit = np.uint32(1) << np.arange(BITS - 1, -1, -1, dtype=np.uint32)
    diagonal = xp.asarray(bit)[:, None]
    above = xp.asarray(~(bit | (bit - np.uint32(1))))[:, None]
    rows = (random[:BITS, :] & above) | diagonal
    parity = rows[:, None, :] & directions[None, :, :]
    for distance in (16, 8, 4, 2, 1):
        parity = parity ^ (parity >> distance)
    scrambled = xp.sum(xp.where((parity & 1) == 1, diagonal[:, :, None], xp.zeros_like(parity)), axis=0)
    return xp.concat([xp.astype(scrambled, xp.uint32), random[BITS:, :]])


def points(start: Array, n: int, directions: UInt32[Array, "32 d"]) -> UInt32[Array, "n d"]:
    """Points ``start`` to ``start + n - 1`` of the sequence, as binary fractions in 32-bit words."""
    xp = namespace(directions)
    index = xp.asarray(start, dtype=xp.uint32) + xp.arange(n, dtype=xp.uint32)
    gray = index ^ (index >> 1)
    bits = (gray[:, None] >> xp.arange(BITS, dtype=xp.uint32)) & 1
    words = xp.where((bits == 1)[:, :, None], directions[None, :, :], xp.zeros_like(directions)[None, :, :])
    for half in (16, 8, 4, 2, 1):
        words = words[:, :half, :] ^ words[:, half:, :]
    return words[:, 0, :]


class SobolState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    scrambled: UInt32[Array, "33 d"]
    """Scrambled direction numbers and, as the last row, the shift."""
    best: Best


@algorithm
class Sobol:
    """Scrambled Sobol points in a box: point ``generation * popsize + member`` of one sequence.

    Members beyond popsize, for evaluations that run ahead, come from the sequence's second half. Most even when the
    budget is a power of two.

    Args:
        popsize: candidates per generation; it decides nothing but how many are made at once.
        low: lower bound of every coordinate.
        high: upper bound of every coordinate.

    Raises:
        SettingError: in ``init``, for more than 1,111 coordinates.
    """

    popsize: int = 16
    low: float = 0.0
    high: float = 1.0

    injectable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=1)
        require_box(self.low, self.high)

    def init(self, key: Key, x0: Float[Array, "d"]) -> SobolState:
        xp = namespace(x0)
        directions = xp.asarray(direction_numbers(x0.shape[0]))
        return SobolState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            scrambled=scramble(key, directions, x0),
            best=none_yet(x0),
        )

    def ask(self, state: SobolState, first: int = 0) -> Float[Array, "n d"]:
        xp = namespace(state.scrambled)
        page = first // self.popsize
        start = state.generation * self.popsize + first
        if page:  # not the points of the generations to come: those of the sequence's second half, page by page
            start = SECOND_HALF + (state.generation * PAGES + page - 1) * self.popsize + first % self.popsize
        words = points(start, self.popsize, state.scrambled[:BITS, :]) ^ state.scrambled[BITS, :]
        dtype = state.best.x.dtype
        digits = min(BITS, 1 - round(np.log2(float(xp.finfo(dtype).eps))))  # as many as the dtype holds exactly
        u = xp.astype(words >> (BITS - digits), dtype) * 2.0**-digits
        return self.low + (self.high - self.low) * u

    def tell(self, state: SobolState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> SobolState:
        return state._replace(generation=state.generation + 1, best=better_of(state.best, population, fitness))

    def recommend(self, state: SobolState) -> Float[Array, "d"]:
        return state.best.x
