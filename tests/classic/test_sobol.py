"""Sobol points: SciPy's unscrambled sequence, and what scrambling must and must not change."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import qmc

import blackbox as bb
from blackbox.classic.sobol import MAX_DIMENSION, Sobol, direction_numbers, points
from blackbox.shell.auto import choose_method


@pytest.mark.parametrize("d", [1, 2, 13, 100, 1000, MAX_DIMENSION])
def test_unscrambled_points_are_scipys(d: int) -> None:
    ours = points(np.uint32(0), 64, direction_numbers(d)) * 2.0**-32
    assert np.array_equal(ours, qmc.Sobol(d, scramble=False).random(64))


def test_later_points_are_scipys() -> None:
    theirs = qmc.Sobol(7, scramble=False).fast_forward(123457).random(10)
    assert np.array_equal(points(np.uint32(123457), 10, direction_numbers(7)) * 2.0**-32, theirs)


def sequence(strategy: Sobol, seed: int, d: int, generations: int) -> np.ndarray:
    state = strategy.init(bb.key(seed), np.zeros(d))
    found = []
    for _ in range(generations):
        found.append(strategy.ask(state))
        state = strategy.tell(state, found[-1], np.zeros(len(found[-1])))
    return np.concatenate(found)


def test_points_depend_on_the_index_alone() -> None:
    long, short = sequence(Sobol(popsize=32), 3, 5, 2), sequence(Sobol(popsize=8), 3, 5, 8)
    assert np.array_equal(long, short)


@pytest.mark.parametrize("seed", range(3))
def test_scrambled_points_are_a_net(seed: int) -> None:
    x = sequence(Sobol(popsize=64), seed, 20, 4)
    for block in (x, x[64:128], x[32:64]):  # one point in each slab of each coordinate
        slabs = np.sort(np.floor(block * len(block)), axis=0)
        assert np.array_equal(slabs, np.repeat(np.arange(len(block))[:, None], 20, axis=1))
    square = np.floor(x[:, :2] * 16)  # the first two coordinates: one point in each of 16 x 16 cells
    assert len({tuple(cell) for cell in square}) == 256


def test_scrambling_is_uniform_over_keys() -> None:
    first = np.stack([sequence(Sobol(popsize=2), seed, 4, 1) for seed in range(400)])
    for member in range(2):
        mean_error = np.abs(first[:, member].mean(axis=0) - 0.5)
        assert np.all(mean_error < 5 * np.sqrt(1 / 12 / 400))
        assert np.all(np.abs(first[:, member].std(axis=0) - np.sqrt(1 / 12)) < 0.04)
    assert np.all(np.abs(np.corrcoef(first[:, 0].T) - np.eye(4)) < 0.2)


def test_integrates_better_than_random_points() -> None:
    def error(x: np.ndarray) -> float:
        return float(np.mean(np.prod(1 + (x - 0.5), axis=1)) - 1.0)

    ours = [error(sequence(Sobol(popsize=256), seed, 5, 2)) for seed in range(20)]
    plain = [error(np.random.default_rng(seed).random((512, 5))) for seed in range(20)]
    assert np.std(ours) < 0.1 * np.std(plain)


def test_fills_its_box_in_float32() -> None:
    strategy = Sobol(popsize=512, low=-1.0, high=3.0)
    x = strategy.ask(strategy.init(bb.key(0), np.zeros(3, np.float32)))
    assert x.dtype == np.float32
    assert x.min() >= -1.0
    assert x.max() < 3.0
    assert np.all(np.abs(x.mean(axis=0) - 1.0) < 0.01)


def test_too_many_dimensions_are_named() -> None:
    with pytest.raises(bb.SettingError, match="at most 1111 coordinates, got 1112"):
        Sobol().init(bb.key(0), np.zeros(1112))


def test_members_asked_ahead_are_not_those_of_later_generations() -> None:
    strategy = Sobol(popsize=8)
    state = strategy.init(bb.key(3), np.zeros(3))
    seen: set[bytes] = set()
    for _ in range(20):
        for page in range(3):
            seen.update(row.tobytes() for row in strategy.ask(state, first=8 * page))
        state = strategy.tell(state, strategy.ask(state), np.zeros(8))
    assert len(seen) == 20 * 3 * 8


def test_auto_does_not_choose_it_beyond_its_table() -> None:
    for d, method in ((MAX_DIMENSION, "sobol"), (MAX_DIMENSION + 1, "random")):
        space = bb.Box(0.0, 1.0, dimension=d)
        assert choose_method(space, 20).method == method
        assert bb.minimize(lambda x: float(x[0]), space, budget=20, seed=0).evaluations == 20
