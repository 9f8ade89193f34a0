"""Stall: the spread of the best fitness over the last window, in steps of half a window."""

from __future__ import annotations

import numpy as np
import pytest

from blackbox.es.stall import no_stall, watch

LIKE = np.zeros(1)


def spreads(values: list[float], window: int) -> list[float]:
    stall, found = no_stall(LIKE), []
    for generation, value in enumerate(values, 1):
        stall = watch(stall, np.float64(value), np.int64(generation), window)
        found.append(float(stall.spread))
    return found


def test_spread_is_that_of_the_last_window() -> None:
    values = np.random.default_rng(0).normal(size=60).tolist()
    found = spreads(values, 10)
    assert np.all(np.isinf(found[:9]))
    for end in range(10, 61, 5):
        assert found[end - 1] == np.ptp(values[end - 10 : end])


@pytest.mark.parametrize("failed", [np.nan, np.inf])
def test_a_failed_generation_counts_as_a_change(failed: float) -> None:
    found = spreads([1.0] * 12 + [failed] + [1.0] * 27, 10)
    assert found[9] == 0
    assert np.isinf(found[14])
    assert np.isinf(found[19])
    assert found[24] == 0


def test_a_flat_function_stalls_after_one_window() -> None:
    assert spreads([2.0] * 20, 20)[-1] == 0
    assert np.isinf(spreads([2.0] * 19, 20)[-1])
