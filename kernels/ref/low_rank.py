"""Products with members' noise of low rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from .. import spec
from .generator import words
from .kinds import CENTERED, f32

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32


def lowrank_mix(
    x: Float[ndarray, "#n rows m"],
    y: Float[ndarray, "#n rows k"],
    source: UInt32[ndarray, "n 6"],
    size: int,
    rank: int,
    kind: spec.Kind = "normal",
) -> Float[ndarray, "n rows k"]:
    """``y + sum_r (step (x . A_r)) B_r`` for the rows of each source's member, in float32.

    Args:
        x: of each member, or one for all.
        y: of each member, or one for all; such as the product of x and a weight.
        source: what names step, A (m, rank) and B (k, rank), see :mod:`.spec`.
        size: of a member's row of the stream that A and B lie in.
        rank: of the noise.
        kind: of the noise.
    """
    m, k = x.shape[2], y.shape[2]
    out = np.array(np.broadcast_to(y, (len(source), *y.shape[1:])), f32)
    for i, words_of_one in enumerate(source):
        a, b = _drawn_factors(words_of_one, (m * rank, k * rank), size, kind)
        step, own = words_of_one[3:4].view(f32)[0], x[i if len(x) > 1 else 0].astype(f32, copy=False)
        for r in range(rank):
            out[i] += (step * _dot(own, a[r::rank]))[:, None] * b[r::rank]
    return out


def _dot(x: Float[ndarray, "rows m"], a: Float[ndarray, "m"]) -> Float[ndarray, "rows"]:
    products = np.pad(x * a, ((0, 0), (0, -len(a) % spec.DOT_SUMS)))
    sums = np.zeros((len(x), spec.DOT_SUMS), f32)
    for first in range(0, len(a), spec.DOT_SUMS):
        sums += products[:, first : first + spec.DOT_SUMS]
    while (half := sums.shape[1] // 2) > 0:
        sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]


def lowrank_factors(
    source: UInt32[ndarray, "n 6"], sizes: tuple[int, int], size: int, kind: spec.Kind = "normal"
) -> tuple[Float[ndarray, "n a"], Float[ndarray, "n b"]]:
    """``step A`` and ``B`` of each source, of so many values."""
    a, b = (np.empty((len(source), own), f32) for own in sizes)
    for i, words_of_one in enumerate(source):
        first, b[i] = _drawn_factors(words_of_one, sizes, size, kind)
        a[i] = words_of_one[3:4].view(f32)[0] * first
    return a, b


def _drawn_factors(
    source: UInt32[ndarray, "6"], sizes: tuple[int, int], size: int, kind: spec.Kind
) -> tuple[Float[ndarray, "a"], Float[ndarray, "b"]]:
    per_block, (number, _, *offsets) = spec.VALUES_PER_BLOCK[kind], source[2:].tolist()
    out = []
    for offset, count in zip(offsets, sizes, strict=True):
        block, shift = divmod(offset, per_block)
        made = words(source[:2], number * spec.blocks_of(size, kind) + block, spec.blocks_of(shift + count, kind))
        out.append(CENTERED[kind](made).reshape(-1)[shift : shift + count])
    return out[0], out[1]
