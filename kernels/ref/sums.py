"""Weighted sums of members' noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from .. import spec
from .generator import words
from .kinds import CENTERED, CHUNK, f32

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32


def seedsum(
    keys: UInt32[ndarray, "streams 2"],
    bases: Sequence[Float[ndarray, "#sums size"]],
    weights: Float[ndarray, "sums terms"],
    members: UInt32[ndarray, "sums terms"],
    kind: spec.Kind = "normal",
    chunk: int = spec.SUM_CHUNK,
) -> tuple[Float[ndarray, "sums size"], ...]:
    """``base + sum_k weights_k noise_k`` for each stream and row, over centered noise of members, in float32."""
    (sums, terms), per_block = weights.shape, spec.VALUES_PER_BLOCK[kind]
    out = tuple(np.array(np.broadcast_to(base, (sums, base.shape[1])), f32) for base in bases)
    for key, totals in zip(keys, out, strict=True):
        blocks = spec.blocks_of(totals.shape[1], kind)
        for q, low in itertools.product(range(sums), range(0, blocks, CHUNK)):
            part = totals[q, low * per_block : (low + CHUNK) * per_block]
            for first in range(0, terms, chunk):
                added = np.zeros_like(part)
                for k in range(first, min(first + chunk, terms)):
                    made = words(key, int(members[q, k]) * blocks + low, min(CHUNK, blocks - low))
                    added += f32(weights[q, k]) * CENTERED[kind](made).reshape(-1)[: part.size]
                part += added
    return out
