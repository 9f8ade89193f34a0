"""The loop of online bin packing around a priority function: what a program is run in, in whatever process.

It imports NumPy alone, since :mod:`blackbox.problems.bin_packing` sends its text to the process that runs a program.
Source: Romera-Paredes et al. 2024, "Mathematical discoveries from program search with large language models"
(FunSearch), Nature 625, section "Bin packing".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def run(program: Callable[[float, Any], Any], instance: Sequence[Any]) -> Any:
    """The packing of ``instance``, a pair of items and capacity, by ``program``: the bin of each item."""
    items, capacity = instance
    return pack(program, items, capacity)


def pack(priority: Callable[[float, Any], Any], items: Any, capacity: float, empty: int = 1) -> Any:
    """Put one item after the other into the bin of the highest priority, in which it must fit.

    Args:
        priority: ``priority(item, bins) -> scores``: of the item's size and of the remaining capacities, floats (n,),
            of those bins in which it fits, in the order in which they were opened, the last ``empty`` ones being
            empty. One score for each bin, or one for all; NaN is the lowest, and of equals the first bin is taken.
        items: sizes (N,), each at most ``capacity``.
        capacity: of every bin.
        empty: how many empty bins are offered; FunSearch's loop has N bins from the beginning.

    Returns:
        Number of the bin of each item, integers (N,).
    """
    sizes = [float(size) for size in items]
    bins, chosen = np.full(len(sizes), float(capacity)), np.zeros(len(sizes), np.int32)
    opened = 0
    with np.errstate(all="ignore"):
        for number, item in enumerate(sizes):
            places = np.flatnonzero(bins[: opened + empty] >= item)
            remaining = bins[places]
            scores = np.asarray(priority(item, remaining), float)
            if scores.shape != places.shape:
                scores = np.broadcast_to(scores, places.shape)
            best = scores.argmax()  # the first NaN, if there is one
            if scores[best] != scores[best]:
                best = np.where(np.isnan(scores), -np.inf, scores).argmax()
            place = int(places[best])
            bins[place] -= item
            chosen[number] = place
            opened = max(opened, place + 1)
    return chosen
