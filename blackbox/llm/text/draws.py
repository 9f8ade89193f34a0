"""Random decisions of text searches, as functions of the run's key, a number and a purpose."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from blackbox import draws
from blackbox.arrays import Key

PARENTS, SAMPLES, BATCHES, MERGES = range(4)  # purposes, whose numbers are independent of each other
_PURPOSES = 8
_BLOCK = 32  # numbers that are made at once


class Draws(draws.Draws):
    """Decisions one after another: the same for the same arguments, independent of those for any others.

    Args:
        key: of the run, by ``bb.key(seed)``.
        number: of the generation, iteration or epoch.
        member: number within it.
        purpose: what is decided, one of this module's constants.
    """

    def __init__(self, key: Key, number: int, member: int = 0, purpose: int = PARENTS) -> None:
        super().__init__(key, number, member)
        self._leaves, self._block = itertools.count(purpose, _PURPOSES), _BLOCK

    def word(self) -> int:
        """Of 31 bits."""
        return self.integer(2**15) * 2**16 + self.integer(2**16)  # a uniform number has fewer


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
