"""Online bin packing: items come one by one, and each must be put into a bin before the next is seen.

What is searched for is a priority function, ``priority(item, bins) -> scores``: the item goes into the bin of the
highest score, see :func:`blackbox.problems.online_packing.pack`. The value of a heuristic is its excess, the bins that
it uses beyond a lower bound, in percent of the bound. Two kinds of instances:

* ``uniform(n)``: sizes are integers from 20 to 100, capacity 150, as the classes u120 to u1000 of the OR-library have
  them (Falkenauer 1996, "A hybrid grouping genetic algorithm for bin packing"). They are drawn here, not the files.
* ``weibull(n)``: sizes are Weibull(shape 3, scale 45), rounded, from 1 to 100, capacity 100, as in Romera-Paredes et
  al. 2024 (FunSearch), after Castiñeiras, De Cauwer & O'Sullivan 2012, "Weibull-based benchmarks for bin packing".

A heuristic's own process can claim anything, so :func:`excess` takes a packing, checks it, and counts::

    train = [weibull(1000, seed) for seed in range(4)]
    evaluate = bb.llm.ProgramEvaluator(HARNESS, "priority", [instance.given for instance in train],
                                       lambda packing, i: excess(packing, train[i]))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.kernels.arguments import require_count
from blackbox.kernels.noise import uniform as uniform_noise

from .online_packing import pack
from .streams import seed_key

if TYPE_CHECKING:
    from jaxtyping import Float, Int

HARNESS = (Path(__file__).parent / "online_packing.py").read_text()
"""Text that defines ``run(program, instance)``: what a program is run by in another process."""

BEST_FIT = '''\
import numpy as np


def priority(item: float, bins: np.ndarray) -> np.ndarray:
    """Scores of the bins in which an item fits, by its size and their remaining capacities."""
    left = bins - item  # what remains of each when the item is in it
    # EVOLVE-BLOCK-START
    return -left
    # EVOLVE-BLOCK-END
'''
"""Where a search over programs begins: best fit, whose body is to be improved."""


class Instance(NamedTuple):
    """Items in the order in which they come."""

    name: str
    items: Int[np.ndarray, "n"]
    capacity: int
    bound: int
    """No packing has fewer bins, see :func:`lower_bound`."""

    @property
    def given(self) -> list[Any]:
        """What a heuristic's process is told: items and capacity."""
        return [self.items, self.capacity]


def uniform(n: int, seed: int = 0) -> Instance:
    """An instance like those of the OR-library: ``n`` sizes from 20 to 100, capacity 150.

    Raises:
        SettingError: ``n`` is no positive integer, ``seed`` none from 0 to 2**64 - 1.
    """
    return _instance(f"u{n}-{seed}", 20 + np.floor(81 * _numbers(n, seed, 1)), 150)


def weibull(n: int, seed: int = 0) -> Instance:
    """An instance like FunSearch's: ``n`` sizes of Weibull(3, 45), rounded, from 1 to 100, capacity 100.

    Raises:
        SettingError: ``n`` is no positive integer, ``seed`` none from 0 to 2**64 - 1.
    """
    sizes = 45 * (-np.log(_numbers(n, seed, 2))) ** (1 / 3)
    return _instance(f"weibull{n}-{seed}", np.clip(np.round(sizes), 1, 100), 100)


def lower_bound(items: Int[np.ndarray, "n"], capacity: int) -> int:
    """L2 of Martello & Toth 1990, "Lower bounds and reduction procedures for the bin packing problem".

    For each size a up to half the capacity: those larger than capacity - a are alone in their bins, those larger than
    half the capacity have one bin each, and what is at least a and no larger fills what they leave, then further bins.
    """
    best = math.ceil(int(items.sum()) / capacity)
    alone = items[2 * items > capacity]
    for a in np.unique(items[2 * items <= capacity]):
        half = alone[alone <= capacity - a]
        rest = int(items[(items >= a) & (2 * items <= capacity)].sum())
        left = len(half) * capacity - int(half.sum())
        best = max(best, len(alone) + max(0, math.ceil((rest - left) / capacity)))
    return max(best, len(alone))


def bins_used(packing: Any, instance: Instance) -> int:
    """How many bins a packing uses.

    Args:
        packing: the bin of each item, integers (n,) from 0 to n - 1, from a process that may be hostile.
        instance: what was packed.

    Raises:
        ValueError: it is none, or a bin holds more than its capacity; says which.
    """
    n = len(instance.items)
    if not isinstance(packing, np.ndarray) or packing.dtype.kind not in "iu" or packing.shape != (n,):
        raise ValueError(f"a packing is an array of {n} integers, the bin of each item")
    if not ((packing >= 0) & (packing < n)).all():
        raise ValueError(f"bins are numbered from 0 to {n - 1}")
    loads = np.bincount(packing.astype(np.int64), instance.items, minlength=n)
    if (loads > instance.capacity).any():
        full = int(loads.argmax())
        raise ValueError(f"bin {full} holds {loads[full]:g}, and its capacity is {instance.capacity}")
    return int((loads > 0).sum())


def excess(packing: Any, instance: Instance) -> float:
    """Bins beyond the lower bound, in percent of it.

    Raises:
        ValueError: ``packing`` is none, see :func:`bins_used`.
    """
    return 100 * (bins_used(packing, instance) / instance.bound - 1)


def value(priority: Callable[[float, Any], Any], instance: Instance, *, empty: int = 1) -> float:
    """Excess of a heuristic that is a function of this process, one that can be trusted."""
    return excess(pack(priority, instance.items, instance.capacity, empty), instance)


def best_fit(item: float, bins: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The bin that is left with the least capacity."""
    return item - bins


def first_fit(item: float, bins: Float[np.ndarray, "n"]) -> float:
    """The bin that was opened first."""
    return 0.0


def funsearch_weibull(item: float, bins: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """What FunSearch published for Weibull instances: exact fits first, else a drop in score from bin to bin decides.

    Made for all bins being there from the beginning, ``empty=n``.
    """
    score = (bins - bins.max()) ** 2 / item + (bins / item) ** 2 + bins**2 / item**3
    signed = np.where(bins > item, -score, score)
    return np.diff(signed, prepend=0.0)


def funsearch_uniform(item: float, bins: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """What FunSearch published for the OR-library's instances: a step function of the capacity that is left."""
    left = np.searchsorted([2, 3, 5, 7, 9, 12, 15, 21], bins - item)
    return np.array([4, 3, 2, 1, 0.9, 0.95, 0.97, 0.98, 0.99])[left]


def _numbers(n: int, seed: int, leaf: int) -> Float[np.ndarray, "n"]:
    """Uniform between 0 and 1, neither included."""
    require_count("n", n, 1)
    numbers = uniform_noise(seed_key(seed), n, (1, n), leaf=leaf, like=np.zeros(0))  # n: no size begins as another one
    return numbers[0]


def _instance(name: str, sizes: Float[np.ndarray, "n"], capacity: int) -> Instance:
    items = sizes.astype(np.int64)
    items.flags.writeable = False
    return Instance(name, items, capacity, lower_bound(items, capacity))
