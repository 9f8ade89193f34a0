"""Episodes of classic control to compare, without JAX."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.testing import assert_array_equal

from blackbox.kernels import LowRankWeights, SummedWeights, rollout
from blackbox.kernels.environments import ENVIRONMENTS, dimension_of
from blackbox.kernels.weights import Arrays, Setting, arrays_of, checked

NAMES = tuple(ENVIRONMENTS)
KEY = np.array([0xDEADBEEF, 0x12345678], np.uint32)
# Networks without hidden layers, narrow, odd and wide enough for noise of low rank.
HIDDEN = [(), (5,), (17, 18), (33, 16, 1)]
SOURCES = ["stored", "seeds", "genomes", "low rank", "low rank, own centers"]
Case = tuple[SummedWeights | LowRankWeights, np.ndarray]


@cache
def case(env: str, hidden: tuple[int, ...], source: str, n: int = 3, episodes: int = 2, kind: Any = "normal") -> Case:
    """Weights and first states."""
    rng, environment = np.random.default_rng([len(env), len(source), *hidden, n]), ENVIRONMENTS[env]
    d = dimension_of(environment.sizes(hidden))
    starts = rng.uniform(environment.low, environment.high, (episodes, environment.state)).astype(np.float32)
    rows = n if source in ("stored", "genomes", "low rank, own centers") else 1
    base = rng.normal(size=(rows, d)).astype(np.float32)
    if source.startswith("low"):
        keys = rng.integers(0, 2**32, (2 * len(hidden) + 2, 2), dtype=np.uint32)
        steps = np.where(np.arange(n) % 2, -0.3, 0.3).astype(np.float32)
        members = rng.integers(0, 2**32, (n + 1) // 2, dtype=np.uint32).repeat(2)[:n]
        return LowRankWeights(base, keys, steps, members, rank=2, small=8, kind=kind), starts
    terms = {"stored": 0, "seeds": 1, "genomes": 3}[source]
    weights, members = (
        rng.normal(size=(n, terms)).astype(np.float32),
        rng.integers(0, 2**32, (n, terms), dtype=np.uint32),
    )
    return SummedWeights(base, KEY, weights, members, kind), starts


@cache
def expected(env: str, hidden: tuple[int, ...], source: str, steps: int, *more: Any) -> tuple[np.ndarray, ...]:
    weights, starts = case(env, hidden, source, *more)
    return rollout(env, hidden, weights, starts, steps=steps, impl="ref")


def assert_same(got: Any, wanted: Any) -> None:
    for a, b in zip(got, wanted, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


def prepared(env: str, hidden: tuple[int, ...], weights: Any, steps: int) -> tuple[Setting, Arrays]:
    sizes = ENVIRONMENTS[env].sizes(hidden)
    arrays, form = arrays_of(checked(weights, dimension_of(sizes), len(sizes) - 1), np)
    return Setting(env, sizes, steps, form), arrays
