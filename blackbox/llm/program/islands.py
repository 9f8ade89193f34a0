"""Islands of programs, in clusters of equal behaviour: who is a parent.

FunSearch (Romera-Paredes et al. 2024, Nature 625, methods): the programs of an island with the same scores on all
instances are one cluster. A cluster is drawn by a softmax of its score, whose temperature falls and is raised again,
and in the cluster shorter programs are likelier. Now and then the weaker half of the islands begins again with a
survivor's best. Scores are taken in units of the island's spread, as objectives have all scales.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from blackbox.draws import Draws


def temperature(count: int, first: float, period: int) -> float:
    """Of the softmax after ``count`` programs came to an island: it falls linearly from ``first`` in each period."""
    return first * (1 - (count % period) / period)


def spread(scores: Sequence[float]) -> float:
    """The median less the best; where half are as good as the best, the next score less it; 1 if they are all alike."""
    ordered = sorted(scores)
    positive = [score - ordered[0] for score in ordered[len(ordered) // 2 :] if score > ordered[0]]
    return positive[0] if positive else 1.0


def cluster_probabilities(scores: Sequence[float], temperature: float) -> list[float]:
    """Of clusters by their scores, lower is better: softmax of -score / (temperature x spread)."""
    scale = max(temperature, 1e-9) * spread(scores)
    best = min(scores)
    return _normalized([math.exp(-min(700.0, (score - best) / scale)) for score in scores])


def length_probabilities(lengths: Sequence[int]) -> list[float]:
    """Of the programs of a cluster: softmax of minus the length, from 0 for the shortest to 1 for the longest."""
    shortest, width = min(lengths), max(1e-6, max(lengths) - min(lengths))
    return _normalized([math.exp(-(length - shortest) / width) for length in lengths])


def clusters(scores: Sequence[tuple[float, ...]]) -> list[list[int]]:
    """Numbers of the programs with equal scores on each instance, in order of the first."""
    found: dict[tuple[float, ...], list[int]] = {}
    for number, row in enumerate(scores):
        found.setdefault(tuple(float(f"{score:.9g}") for score in row), []).append(number)
    return list(found.values())


def parent(scores: Sequence[tuple[float, ...]], lengths: Sequence[int], temperature: float, draws: Draws) -> int:
    """Number of the program of an island that is drawn as a parent.

    Args:
        scores: of each program, one for each instance.
        lengths: of each program.
        temperature: of the softmax over clusters.
        draws: the decisions.
    """
    groups = clusters(scores)
    means = [math.fsum(scores[group[0]]) / len(scores[group[0]]) for group in groups]
    group = draws.weighted(groups, cluster_probabilities(means, temperature))
    return draws.weighted(group, length_probabilities([lengths[i] for i in group]))


def weaker_half(bests: Sequence[float]) -> list[int]:
    """Numbers of the islands that begin again, by the best score of each; of equals the later ones."""
    order = sorted(range(len(bests)), key=lambda i: (bests[i], i))
    return sorted(order[len(order) - len(order) // 2 :])


def migrate(islands: list[list[int]], scores: Mapping[int, float]) -> None:
    """Let the best program of each island also join the next one."""
    bests = [_best(island, scores) for island in islands]
    for i, best in enumerate(bests):
        target = islands[(i + 1) % len(islands)]
        if best is not None and best not in target:
            target.append(best)


def restart(islands: list[list[int]], scores: Mapping[int, float], draws: Draws) -> list[int]:
    """Let the weaker half of the islands begin again with the best of a survivor; returns which they are."""
    bests = [_best(island, scores) for island in islands]
    weak = weaker_half([math.inf if best is None else scores[best] for best in bests])
    strong = [best for i, best in enumerate(bests) if i not in weak and best is not None]
    for i in weak:
        islands[i] = [draws.choose(strong)] if strong else []
    return weak


def survivors(scores: Sequence[tuple[float, ...]], lengths: Sequence[int], cluster_size: int) -> list[int]:
    """Numbers of programs that stay, best first: of each cluster the shortest few, or one would fill an island."""
    order = sorted(range(len(scores)), key=lambda i: (math.fsum(scores[i]), lengths[i], i))
    groups = clusters([scores[i] for i in order])
    kept = {one for group in groups for one in group[:cluster_size]}
    return [number for i, number in enumerate(order) if i in kept]


def _best(island: Sequence[int], scores: Mapping[int, float]) -> int | None:
    return min(island, key=lambda number: (scores[number], number), default=None)


def _normalized(weights: Sequence[float]) -> list[float]:
    total = math.fsum(weights)
    return [weight / total for weight in weights]
