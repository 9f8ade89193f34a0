"""Random decisions as functions of (key, generation, member, leaf), one after another, on counter noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from blackbox.arrays import Key
from blackbox.kernels import noise

T = TypeVar("T")

_BLOCK = 64  # numbers that are made at once
_BLOCKS = 1 << 16  # of one leaf, at most


class Draws:
    """The decisions of one member: the same for the same arguments, independent of those for any others.

    Args:
        key: of the run, by ``bb.key(seed)``.
        generation: number of the generation.
        member: number within it.
        leaf: tells several purposes apart.
    """

    def __init__(self, key: Key, generation: int = 0, member: int = 0, leaf: int = 0) -> None:
        self._of = key, generation, member
        self._leaves: Iterator[int] = itertools.count(leaf * _BLOCKS + 1)
        """Of the noise: one for each block of numbers."""
        self._block = _BLOCK
        self._rest: list[float] = []

    def uniform(self) -> float:
        """Between 0 and 1, never either."""
        if not self._rest:
            key, generation, member = self._of
            leaf = next(self._leaves)
            row = noise.uniform(key, generation, (1, self._block), leaf=leaf, first=member, like=np.zeros(0))
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

    def subset(self, options: Sequence[T], k: int) -> list[T]:
        """``k`` different ones of them in random order; all of them if they are fewer."""
        left = list(options)
        return [left.pop(self.integer(len(left))) for _ in range(min(k, len(left)))]

    def roulette(self, weights: Sequence[float]) -> int:
        """A position with probability in proportion to its weight, >= 0; uniform if all are 0."""
        total = sum(weights)
        if total <= 0.0:
            return self.integer(len(weights))
        mark = self.uniform() * total
        for position, weight in enumerate(weights):
            mark -= weight
            if mark < 0.0:
                return position
        return max(position for position, weight in enumerate(weights) if weight > 0.0)  # of rounding

    def weighted(self, options: Sequence[T], weights: Sequence[float]) -> T:
        """One of them, with probability in proportion to its weight, >= 0."""
        return options[self.roulette(weights)]
