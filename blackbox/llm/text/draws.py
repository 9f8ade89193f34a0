"""Random decisions of text searches, as functions of the run's key, a number and a purpose, on the engine's noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from blackbox.arrays import Key
from blackbox.kernels import noise

T = TypeVar("T")

PARENTS, SAMPLES, BATCHES, MERGES = range(4)  # purposes, whose numbers are independent of each other
_PURPOSES = 8
_BLOCK = 32  # numbers that are made at once


class Draws:
    """Decisions one after another: the same for the same arguments, independent of those for any others.

    Args:
        key: of the run, by ``bb.key(seed)``.
        number: of the generation, iteration or epoch.
        member: number within it.
        purpose: what is decided, one of this module's constants.
    """

    def __init__(self, key: Key, number: int, member: int = 0, purpose: int = PARENTS) -> None:
        self._of = key, number, member, purpose
        self._block = 0
        self._rest: list[float] = []

    def uniform(self) -> float:
        """Between 0 and 1, never either."""
        if not self._rest:
            key, number, member, purpose = self._of
            leaf = self._block * _PURPOSES + purpose
            self._block += 1
            row = noise.uniform(key, number, (1, _BLOCK), leaf=leaf, first=member, like=np.zeros(0))
            self._rest = row[0].tolist()
        return self._rest.pop()

    def integer(self, n: int) -> int:
        """From 0 to n - 1."""
        return min(int(self.uniform() * n), n - 1)

    def word(self) -> int:
        """Of 31 bits."""
        return self.integer(2**15) * 2**16 + self.integer(2**16)  # a uniform number has fewer

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


def minibatch(key: Key, number: int, instances: Sequence[int], size: int) -> tuple[int, ...]:
    """Minibatch ``number`` of an endless series: the instances in a new random order in each epoch, a part at a time.

    The last part of an epoch is filled up from its beginning, so that all have ``min(size, len(instances))`` different
    instances.
    """
    size = min(size, len(instances))
    parts = -(-len(instances) // size)
    epoch, part = divmod(number, parts)
    order = Draws(key, epoch, purpose=BATCHES).subset(instances, len(instances))
    return tuple((order + order)[part * size : (part + 1) * size])
