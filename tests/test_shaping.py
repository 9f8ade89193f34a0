"""Shaping: one order of members for every shaping, whatever dtype the fitness has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from blackbox.shaping import group_relative, pair_signs, whole_ranks, z_scores

SHAPINGS: dict[str, Callable[[Any], Any]] = {
    "ranks": whole_ranks,
    "z-scores": z_scores,
    "group of all": lambda f: group_relative(f, f.shape[0]),
}


@pytest.mark.parametrize("name", SHAPINGS)
@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
def test_failed_members_are_worst_and_minus_infinity_is_best(xp: Any, name: str) -> None:
    shaped = np.asarray(SHAPINGS[name](xp.asarray([1.0, np.nan, -np.inf, 3.0, np.inf, -2.0], dtype=xp.float32)))
    assert np.isfinite(shaped).all()
    assert shaped[2] == shaped.min()
    assert shaped[1] == shaped[4] == shaped.max()
    assert shaped[5] < shaped[0] < shaped[3]


def test_signs_have_the_same_order() -> None:
    fitness = np.array([-np.inf, 1.0, np.nan, 2.0, np.nan, np.inf, 3.0, 3.0])
    assert_array_equal(pair_signs(fitness), [-1, 1, 1, -1, 0, 0, 0, 0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_ranks_of_narrow_fitness_are_whole_and_exact(dtype: str) -> None:
    values = jnp.asarray(np.random.default_rng(0).normal(size=4096), dtype)
    ranks = whole_ranks(values)
    assert ranks.dtype == jnp.float32
    assert_array_equal(ranks, whole_ranks(np.asarray(values, np.float64)))
    assert np.isfinite(whole_ranks(jnp.arange(2**17).astype(dtype))).all()


def test_integers_are_ranked_as_they_are() -> None:
    """Not as the nearest float32, which is the same for all of these."""
    fitness = 2**25 + jnp.array([0, 3, 1, 2])
    assert_array_equal(whole_ranks(fitness), [-3, 3, -1, 1])
    assert_array_equal(pair_signs(fitness), [-1, 1, -1, 1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_differences_of_rounding_are_ties(dtype: Any) -> None:
    fitness = np.full(8, 0.1, dtype)
    fitness[3] = np.nextafter(fitness[3], dtype(1))
    assert not z_scores(fitness).any()
    fitness[3] *= 1 + 1e3 * np.finfo(dtype).eps
    assert z_scores(fitness).any()
