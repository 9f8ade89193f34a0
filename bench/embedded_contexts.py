"""Lists of solutions to train the embedded model on: from runs of evolution strategies and of the model itself.

What is asked of a list is where a solution of a desired loss is. The functions are known, so that the answer is: the
optimum, or points between the best member and it that are better than this member. No run is imitated; half of the
desired losses are below that of the optimum, which is then the answer, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from embedded_landscapes import Landscapes, rotations

from blackbox.llm.coordinate_transformer import ROWS, bin_of, posterior, tokens

GENERATIONS, MEMBERS, POPSIZE, BLOCK = 5, 5, 10, 8
BOX = 5.0
WARM_UP = 2
RESOLUTION, MARGIN = 1000, 1.5  # of the integers that the model reads
QUERIES = 3

Network = Callable[[np.ndarray], np.ndarray]
"""From features (lists, d, features) to logits (lists, d, bins)."""


class Lists(NamedTuple):
    """Members of the last generations of n runs, best first; ``losses`` are infinite in rows not in use."""

    solutions: np.ndarray
    losses: np.ndarray

    @property
    def count(self) -> np.ndarray:
        """Rows in use."""
        return np.isfinite(self.losses).sum(axis=1)


def best_first(solutions: np.ndarray, losses: np.ndarray, rows: int) -> Lists:
    """The best so many members of each run."""
    order = np.argsort(losses, axis=1, kind="stable")[:, :rows]
    return Lists(np.take_along_axis(solutions, order[..., None], axis=1), np.take_along_axis(losses, order, axis=1))


def shown(generations: list[Lists]) -> Lists:
    """The list that the next mean is asked from."""
    last = generations[-GENERATIONS:]
    solutions = np.concatenate([one.solutions for one in last], axis=1)
    losses = np.concatenate([one.losses for one in last], axis=1)
    free = ROWS - losses.shape[1]
    solutions = np.pad(solutions, ((0, 0), (0, free), (0, 0)))
    return best_first(solutions, np.pad(losses, ((0, 0), (0, free)), constant_values=np.inf), ROWS)


def desired(lists: Lists, delta: np.ndarray) -> np.ndarray:
    """The loss of EvoLLM's query."""
    best, worst = lists.losses[:, 0], lists.losses[np.arange(len(lists.losses)), lists.count - 1]
    return best - delta * (worst - best)


def answered(network: Network, lists: Lists, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation by the model, each block of coordinates by itself."""
    parts = []
    losses = np.where(np.isfinite(lists.losses), lists.losses, 0.0)
    for start in range(0, lists.solutions.shape[-1], BLOCK):
        read = tokens(lists.solutions[..., start : start + BLOCK], losses, lists.count, wanted)
        parts.append(posterior(read, network(read.features)))
    return np.concatenate([p.mean for p in parts], axis=1), np.concatenate([p.deviation for p in parts], axis=1)


class Policy(NamedTuple):
    """How each of n runs goes."""

    uniform: np.ndarray
    """Whether its first generations are uniform in the box, not around a mean."""
    by_model: np.ndarray
    """Whether the model leads it, or cumulative step-size adaptation."""
    caution: np.ndarray
    delta: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator, n: int, share: float) -> Policy:
        """Random ones, ``share`` of them by the model."""
        uniform, by_model = rng.random(n) < 0.6, rng.random(n) < share
        return cls(uniform, by_model, 10 ** rng.uniform(-1.1, 0, n), 10 ** rng.uniform(-2, 0.7, n))

    @classmethod
    def fixed(cls, n: int, by_model: bool, caution: float = 1.0, delta: float = 0.1) -> Policy:
        """All alike, as EvoLLM runs."""
        return cls(np.full(n, True), np.full(n, by_model), np.full(n, caution), np.full(n, delta))


def run(
    functions: Landscapes, rng: np.random.Generator, network: Network | None, policy: Policy, generations: int
) -> tuple[list[Lists], np.ndarray]:
    """The lists that were asked about in all generations, and the best value of each run."""
    n, d = functions.optimum.shape
    mean, sigma = rng.uniform(-4, 4, (n, d)), 10 ** rng.uniform(-1.2, 0.4, (n, 1)) * np.ones((n, d))
    mu = POPSIZE // 2
    weights = np.log(mu + 0.5) - np.log(np.arange(1, mu + 1))
    weights /= weights.sum()
    effective = 1 / np.sum(weights**2)
    rate = (effective + 2) / (d + effective + 5)
    expected = np.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d * d))
    path, past, lists, best = np.zeros((n, d)), [], [], np.full(n, np.inf)
    for generation in range(generations):
        members = mean[:, None] + sigma[:, None] * rng.standard_normal((n, POPSIZE, d))
        if generation < WARM_UP:
            anywhere = rng.uniform(-BOX, BOX, (n, POPSIZE, d))
            members = np.where(policy.uniform[:, None, None], anywhere, members)
        members = np.clip(members, -BOX, BOX)
        values = functions(members)
        best = np.minimum(best, values.min(axis=1))
        newest = best_first(members, values, MEMBERS)
        past.append(newest)

        recombined = np.einsum("m,bmd->bd", weights, newest.solutions)
        spread = np.sqrt(np.mean((newest.solutions - recombined[:, None]) ** 2, axis=(1, 2)))[:, None]
        path = (1 - rate) * path + np.sqrt(rate * (2 - rate) * effective) * (recombined - mean) / sigma
        change = rate / (1 + rate) * (np.linalg.norm(path, axis=1) / expected - 1)
        adapted = np.clip(sigma * np.exp(np.clip(change, -1, 1))[:, None], 1e-9, BOX)
        begins = generation < WARM_UP
        path = np.where(begins, 0.0, path)
        mean = recombined
        sigma = np.where(policy.uniform[:, None], spread, sigma) if begins else adapted
        if generation >= WARM_UP - 1:
            lists.append(shown(past))
            if network is not None and policy.by_model.any():
                by_model, deviation = answered(network, lists[-1], desired(lists[-1], policy.delta))
                mean = np.where(policy.by_model[:, None], by_model, mean)
                sigma = np.where(policy.by_model[:, None], policy.caution[:, None] * deviation, sigma)
    return lists, best


class Questions(NamedTuple):
    """Lists with some desired losses each, and where the solutions of these are."""

    lists: Lists
    desired: np.ndarray
    answers: np.ndarray
    least: np.ndarray
    """The function's minimum."""


def questions(
    rng: np.random.Generator, n: int, d: int, network: Network | None, share: float, shown_d: int
) -> Questions:
    """Of ``n`` new functions of ``d`` variables, of which lists show ``shown_d``."""
    functions = Landscapes.drawn(rng, n, d)
    lists, _ = run(functions, rng, network, Policy.drawn(rng, n, share), 18)
    solutions, losses = (np.concatenate(part) for part in zip(*lists, strict=True))
    functions = functions.take(np.tile(np.arange(n), len(lists)))
    optimum, best = functions.optimum, losses[:, 0]
    least = functions(optimum[:, None])[:, 0]
    rows = np.arange(len(losses))

    way = optimum - solutions[:, 0]
    part = rng.uniform(0, 1, (len(losses), QUERIES, 1))
    part[:, :2] = 1.0
    points = solutions[:, :1] + part * way[:, None]
    beside = 0.1 * part * np.linalg.norm(way, axis=1)[:, None, None] / np.sqrt(d)
    points[:, 2:] += (beside * rng.standard_normal(points.shape))[:, 2:]
    wanted = functions(points)
    worse = ~(wanted < best[:, None])
    points, wanted = np.where(worse[..., None], optimum[:, None], points), np.where(worse, least[:, None], wanted)
    width = losses[rows, np.isfinite(losses).sum(axis=1) - 1] - best
    below = 10 ** rng.uniform(-2, 1.5, wanted.shape) * (rng.random(wanted.shape) < 0.5) * width[:, None]
    wanted = np.where(wanted <= least[:, None], least[:, None] - below, wanted)

    if shown_d < d:
        block = np.argsort(rng.random((len(losses), d)), axis=1)[:, None, :shown_d]
        solutions, points = np.take_along_axis(solutions, block, axis=2), np.take_along_axis(points, block, axis=2)
    unsolved = best - least > np.maximum(1e-12, 1e-9 * np.abs(least))
    return Questions(Lists(solutions[unsolved], losses[unsolved]), wanted[unsolved], points[unsolved], least[unsolved])


def batch(asked: Questions, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and bins of answers, of ``n`` random questions: rotated or reflected, their losses raised to powers."""
    rows = rng.integers(0, len(asked.least), n)
    query = rng.integers(0, QUERIES, n)
    solutions, losses = asked.lists.solutions[rows], asked.lists.losses[rows]
    answers, wanted = asked.answers[rows, query], asked.desired[rows, query]
    d = solutions.shape[-1]
    turn = rotations(rng, n, d)
    kept = rng.random(n) < 0.5
    reflected = np.eye(d)[np.argsort(rng.random((n, d)), axis=1)] * rng.choice([-1.0, 1.0], (n, d, 1))
    turn[kept] = reflected[kept]
    solutions, answers = np.einsum("bij,bnj->bni", turn, solutions), np.einsum("bij,bj->bi", turn, answers)

    used = np.isfinite(losses)
    power = np.where(rng.random(n) < 0.5, 1.0, 10 ** rng.uniform(-0.6, 0.4, n))
    above = np.where(used, losses, asked.least[rows, None]) - asked.least[rows, None]
    below = wanted - asked.least[rows]
    losses = np.abs(above) ** power[:, None]
    wanted = np.sign(below) * np.abs(below) ** power

    middle = np.where(used[..., None], solutions, solutions[:, :1]).mean(axis=1)  # integers, as in the text
    half = MARGIN * np.max(np.abs(np.where(used[..., None], solutions - middle[:, None], 0.0)), axis=(1, 2))
    step = 2 * half / (RESOLUTION - 1)
    solutions = np.rint((solutions - middle[:, None]) / step[:, None, None])
    answers = (answers - middle) / step[:, None]
    read = tokens(np.where(used[..., None], solutions, 0.0), losses, used.sum(axis=1), wanted)
    return read.features, bin_of((answers - read.center) / read.scale[:, None]).astype(np.float32)
