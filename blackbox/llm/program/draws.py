"""Random decisions as functions of (key, generation, member, leaf), one after another, on counter noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from blackbox.arrays import Key
from blackbox.kernels import noise

T = TypeVar("T")

_BLOCK = 64  # numbers that are made at once
_BLOCKS = 1 << 16  # of one leaf, at most


class Draws:
    """The decisions of one member: the same for the same arguments, independent of those of all other members.

    Args:
        key: of the run, by ``bb.key(seed)``.
        generation: number of the generation.
        member: number within it.
        leaf: tells several purposes apart.
    """

    def __init__(self, key: Key, generation: int, member: int, leaf: int = 0) -> None:
        self._of = key, generation, member
        self._block = leaf * _BLOCKS
        self._rest: list[float] = []

    def uniform(self) -> float:
        """Between 0 and 1, never either."""
        if not self._rest:
            key, generation, member = self._of
            self._block += 1
            row = noise.uniform(key, generation, (1, _BLOCK), leaf=self._block, first=member, like=np.zeros(0))
            self._rest = row[0].tolist()
        return self._rest.pop()

    def normal(self) -> float:
        """Standard normal, by Box and Muller."""
        return math.sqrt(-2 * math.log(self.uniform())) * math.cos(2 * math.pi * self.uniform())

    def integer(self, n: int) -> int:
        """From 0 to n - 1."""
        return int(self.uniform() * n)

    def choose(self, options: Sequence[T]) -> T:
        """One of them, all with the same probability."""
        return options[self.integer(len(options))]

    def weighted(self, options: Sequence[T], weights: Sequence[float]) -> T:
        """One of them, with probabilities in proportion to their weights, at least one of which is positive."""
        aim = self.uniform() * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            aim -= weight
            if aim < 0:
                return option
        return max(zip(options, weights, strict=True), key=lambda pair: pair[1])[0]
