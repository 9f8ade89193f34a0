"""Candidates of GEPA with their ancestors: who leads on which instance, and merges of two lines.

Source: Agrawal et al. 2025, "GEPA: reflective prompt evolution can outperform reinforcement learning"
(arXiv:2507.19457), algorithms 2 to 4.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from blackbox.llm.text.draws import Draws
from blackbox.pareto import non_dominated


class Candidate(NamedTuple):
    """A genome that was accepted, and evaluated on all validation instances."""

    genome: Mapping[str, str]
    parents: tuple[int, ...]
    """Numbers of candidates before it."""
    losses: tuple[float, ...]
    """On the validation instances, infinite where it failed."""
    loss: float
    """Their mean."""
    component: int = 0
    """Number of the text that is rewritten next."""


def items_led(losses: Sequence[Sequence[float]]) -> list[int]:
    """On how many instances each candidate has the least loss, 0 for those that another one dominates.

    One dominates another if it has no more loss on any instance and less on one. An instance on which all failed is led
    by none.

    Args:
        losses: of shape (candidates, instances), infinite where it failed.
    """
    table = np.asarray(losses, float)
    least = table.min(axis=0)
    led = ((table == least) & np.isfinite(least)).sum(axis=1)
    return np.where(non_dominated(table), led, 0).tolist()


def ancestors(pool: Sequence[Candidate], number: int) -> set[int]:
    """Numbers of the candidates from which one descends, without itself."""
    found: set[int] = set()
    due = list(pool[number].parents)
    while due:
        parent = due.pop()
        if parent not in found:
            found.add(parent)
            due += pool[parent].parents
    return found


class Merge(NamedTuple):
    """Two candidates and an ancestor of both."""

    first: int
    second: int
    ancestor: int


def possible_merges(pool: Sequence[Candidate], front: Sequence[int]) -> list[Merge]:
    """Pairs of the front, neither the other's ancestor, with a common ancestor from which they took different ways.

    The ancestor is no better than either, and of some text exactly one of the two still has the ancestor's version.
    """
    lines = {number: ancestors(pool, number) for number in front}
    found = []
    for i, j in combinations(sorted(front), 2):
        if i in lines[j] or j in lines[i]:
            continue
        for a in sorted(lines[i] & lines[j]):
            first, second, origin = pool[i].genome, pool[j].genome, pool[a].genome
            is_changed = [(first[name] != origin[name], second[name] != origin[name]) for name in origin]
            no_better = pool[a].loss >= max(pool[i].loss, pool[j].loss)
            if no_better and any(one != other for one, other in is_changed):
                found.append(Merge(i, j, a))
    return found


def merged(pool: Sequence[Candidate], merge: Merge, draws: Draws) -> dict[str, str]:
    """Of each text the version of the side that changed it; if both did, that of the better candidate.

    Of two that are equally good, one is drawn for each text.
    """
    first, second, origin = (pool[number] for number in merge)
    genome = {}
    for name, before in origin.genome.items():
        one, other = first.genome[name], second.genome[name]
        if one in (before, other):
            genome[name] = other
        elif other == before or first.loss < second.loss:
            genome[name] = one
        elif second.loss < first.loss:
            genome[name] = other
        else:
            genome[name] = draws.choose((one, other))
    return genome


def telling_instances(first: Sequence[float], second: Sequence[float], size: int, draws: Draws) -> list[int]:
    """Positions on which to try a merge: as many where the first is better as where the second is, or neither.

    Args:
        first: losses of one candidate on the validation instances.
        second: those of the other.
        size: how many positions, at most all.
        draws: by which they are chosen.
    """
    groups = [
        [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if kind(a, b)]
        for kind in (operator.lt, operator.gt, operator.eq)
    ]
    share = -(-size // len(groups))
    chosen = [i for group in groups for i in draws.subset(group, share)][:size]
    rest = [i for i in range(len(first)) if i not in chosen]
    return chosen + draws.subset(rest, size - len(chosen))
