"""A MAP-Elites archive of programs: the best of each kind, where kinds are bins of features.

Mouret & Clune 2015, "Illuminating search spaces by mapping elites" (arXiv:1504.04909). By default the features are
those that OpenEvolve has: how long a program is, and how much it differs from the first one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from blackbox.llm.program.identity import signature, similarity
from blackbox.llm.program.sites import size

Cell = tuple[int, ...]


def features(source: str, start: str, longest: int) -> tuple[float, float]:
    """From 0 to 1: the length on a logarithmic scale up to ``longest`` nodes, and the unlikeness to ``start``."""
    length = math.log1p(size(source)) / math.log1p(longest)
    return min(1.0, length), 1 - similarity(signature(source), signature(start))


def cell(values: Sequence[float], bins: int) -> Cell:
    """The bin of features from 0 to 1; values outside belong to the outermost bins."""
    return tuple(min(bins - 1, max(0, int(value * bins))) for value in values)


def insert(archive: Mapping[Cell, int], place: Cell, number: int, scores: Mapping[int, float]) -> dict[Cell, int]:
    """The archive with program ``number`` in its cell, if it is better than the one there."""
    new = dict(archive)
    if place not in new or scores[number] < scores[new[place]]:
        new[place] = number
    return new
