"""Archives: insertion is that of a plain loop, whatever the library, the order and the ties."""

from __future__ import annotations

from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blackbox as bb
from blackbox.qd import cvt
from blackbox.qd.archive import best, corrected, coverage, empty, insert, is_empty, qd_score, sample
from blackbox.qd.tessellation import cell_of

RANGES = ((0.0, 1.0), (-2.0, 2.0))
CELLS = (4, 3)


def batch(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates with ties, failures, and descriptors outside the bounds and not finite."""
    rng = np.random.default_rng(seed)
    fitness = rng.integers(0, 5, n).astype(float)
    fitness[rng.random(n) < 0.1] = rng.choice([np.nan, np.inf, -np.inf])
    descriptors = rng.uniform((-0.3, -2.5), (1.3, 2.5), (n, 2))
    descriptors[rng.random(n) < 0.1] = rng.choice([np.nan, np.inf])
    return rng.random((n, 3)), fitness, descriptors


def by_a_loop(
    archive: Any, solutions: np.ndarray, fitness: np.ndarray, descriptors: np.ndarray
) -> tuple[Any, list[int]]:
    elites, old = [a.copy() for a in archive[1:4]], archive.fitness
    status = []
    for x, f, d in zip(solutions, fitness, descriptors, strict=True):
        if not (np.isfinite(f) and np.isfinite(d).all()):
            status.append(0)
            continue
        at = [
            int(np.clip(np.floor((v - low) / (high - low) * n), 0, n - 1))
            for v, (low, high), n in zip(d, RANGES, CELLS, strict=True)
        ]
        cell = at[0] * CELLS[1] + at[1]
        status.append((2 if np.isinf(old[cell]) else 1) if f < old[cell] else 0)
        if f < elites[1][cell]:
            for array, value in zip(elites, (x, f, d), strict=True):
                array[cell] = value
    return elites, status


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_insertion_is_that_of_a_loop(seed: int, n: int) -> None:
    archive = empty(CELLS, RANGES, np.zeros(3))
    for part in range(3):
        candidates = batch(seed + part, n)
        elites, status = by_a_loop(archive, *candidates)
        archive, outcome = insert(archive, *candidates)
        assert outcome.status.tolist() == status
        for found, expected in zip(archive[1:4], elites, strict=True):
            assert np.array_equal(found, expected)
        assert np.array_equal(archive.threshold, archive.fitness)


def test_the_order_of_a_batch_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    solutions, fitness, descriptors = rng.random((60, 3)), rng.random(60), rng.random((60, 2))
    order = rng.permutation(60)
    straight, outcome = insert(empty(CELLS, RANGES, np.zeros(3)), solutions, fitness, descriptors)
    mixed, other = insert(empty(CELLS, RANGES, np.zeros(3)), solutions[order], fitness[order], descriptors[order])
    assert np.array_equal(straight.solutions, mixed.solutions)
    assert np.array_equal(outcome.value[order], other.value)
    # One by one it is the same archive; candidates of one batch are compared with the archive before it.
    alone = empty(CELLS, RANGES, np.zeros(3))
    for i in range(60):
        alone, _ = insert(alone, solutions[i : i + 1], fitness[i : i + 1], descriptors[i : i + 1])
    assert np.array_equal(alone.solutions, straight.solutions)


@pytest.mark.parametrize("alpha", [None, 0.3])
@pytest.mark.parametrize("cells", [CELLS, 12])
def test_libraries_agree(cells: Any, alpha: float | None) -> None:
    with jax.enable_x64(True):
        inserting = jax.jit(insert)
        archives = [empty(cells, RANGES, xp.zeros(3)) for xp in (np, jnp, array_api_strict)]
        for seed in range(3):
            candidates = batch(seed, 50)
            outcomes = []
            for i, xp in enumerate((np, jnp, array_api_strict)):
                arrays = [xp.asarray(a) for a in candidates]
                archives[i], outcome = (inserting if xp is jnp else insert)(archives[i], *arrays, alpha)
                outcomes.append(outcome)
            for i in (1, 2):
                for a, b in zip((*archives[0][1:], *outcomes[0]), (*archives[i][1:], *outcomes[i]), strict=True):
                    assert np.allclose(a, np.asarray(b), rtol=1e-12, atol=0)


def test_values_are_what_an_emitter_ranks_by() -> None:
    archive = empty((2,), ((0.0, 2.0),), np.zeros(1))
    x, d = np.zeros((1, 1)), np.array([[0.5]])
    archive, outcome = insert(archive, x, np.array([3.0]), d)
    assert (outcome.status.tolist(), outcome.value.tolist()) == ([2], [-3.0])
    archive, outcome = insert(archive, np.zeros((3, 1)), np.array([1.0, 5.0, np.nan]), np.repeat(d, 3, axis=0))
    assert outcome.status.tolist() == [1, 0, 0]
    assert outcome.value.tolist() == [2.0, -2.0, -np.inf]


def test_thresholds_follow_by_their_rate() -> None:
    archive = empty((2,), ((0.0, 2.0),), np.zeros(1))
    archive = archive._replace(threshold=np.array([10.0, 10.0]))
    first, outcome = insert(archive, np.zeros((1, 1)), np.array([4.0]), np.array([[0.5]]), 0.1)
    assert outcome.value.tolist() == [6.0]
    assert first.threshold.tolist() == pytest.approx([0.9 * 10 + 0.1 * 4, 10])
    # 9 is worse than the elite and below the threshold; 11 is not below it; two of the other cell follow their mean.
    fitness, cells = np.array([9.0, 11.0, 2.0, 6.0]), np.array([[0.5], [0.5], [1.5], [1.5]])
    second, outcome = insert(first, np.zeros((4, 1)), fitness, cells, 0.1)
    assert outcome.status.tolist() == [1, 0, 2, 2]
    assert second.threshold.tolist() == pytest.approx([0.9 * 9.4 + 0.1 * 9, 0.81 * 10 + 0.19 * 4])
    assert second.fitness.tolist() == [4.0, 2.0]


def test_what_is_outside_belongs_to_the_nearest_cell() -> None:
    archive = empty(CELLS, RANGES, np.zeros(1))
    columns = np.array([[-5.0, 0.0, 0.26, 1.0, 1e300], [-9.0, -2.0, 0.0, 2.0, -1e300]])
    assert cell_of(archive.tessellation, columns).tolist() == [0, 0, 4, 11, 9]


def test_centroids_are_those_of_their_cells() -> None:
    centroids = cvt.centroids(40, RANGES)
    assert np.array_equal(centroids, cvt.centroids.__wrapped__(40, RANGES))
    points = np.random.default_rng(0).uniform((0, -2), (1, 2), (3000, 2))
    brute = np.argmin(((points[:, None] - centroids) ** 2).sum(axis=2), axis=1)
    assert np.array_equal(cvt.nearest(points, centroids), brute)
    assert np.array_equal(cvt.nearest(jnp.asarray(points), jnp.asarray(centroids)), brute)
    share = np.bincount(brute, minlength=40) / len(points)
    assert share.min() > 0.4 / 40 and share.max() < 2 / 40
    means = np.stack([points[brute == i].mean(axis=0) for i in range(40)])
    assert np.abs((means - centroids) / (1, 4)).mean() < 0.03


def test_elites_are_drawn_alike() -> None:
    archive = empty((5,), ((0.0, 5.0),), np.zeros(1))
    assert is_empty(archive) and np.isinf(best(archive).fitness)
    at = np.array([[0.5], [2.5], [4.5]])
    archive, _ = insert(archive, at, np.array([3.0, 1.0, 2.0]), at)
    u = (np.arange(300) + 0.5) / 300
    assert np.unique(sample(archive, u), return_counts=True)[1].tolist() == [100, 100, 100]
    assert best(archive).x.tolist() == [2.5]
    assert (coverage(archive), qd_score(archive, 5.0)) == (0.6, 9.0)


def test_cells_and_ranges_are_named() -> None:
    for cells in (0, (3, 0), (3, 3.0), "3", True):
        with pytest.raises(bb.SettingError, match="cells must be"):
            bb.create("map-elites", cells=cells)
    with pytest.raises(bb.SettingError, match="cells must be an integer, or 2 of them"):
        bb.create("map-elites", cells=(3, 3, 3))
    for ranges in ((), ((0, 0), (0, 1)), ((0, 1), (0, np.nan)), ((0, 1, 2),), 3):
        with pytest.raises(bb.SettingError, match="ranges must be"):
            bb.create("map-elites", ranges=ranges)


def test_an_archive_is_corrected_by_values_measured_anew() -> None:
    """Two elites of the same cell by their true descriptors: the better remains; lucky fitness is gone."""
    solutions = np.arange(8.0).reshape(4, 2)
    lucky = np.array([-9.0, -8.0, -7.0, np.nan])
    archive, _ = insert(
        empty((4,), ((0.0, 4.0),), np.zeros(2)), solutions, lucky, np.array([[0.5], [1.5], [2.5], [3.5]])
    )
    measured, where = np.array([1.0, 2.0, 3.0, np.nan]), np.array([[0.5], [0.6], [3.5], [np.nan]])
    honest = corrected(archive, measured, where)
    np.testing.assert_array_equal(honest.fitness, [1.0, np.inf, np.inf, 3.0])
    np.testing.assert_array_equal(honest.solutions[[0, 3]], solutions[[0, 2]])
    assert (coverage(honest), qd_score(honest, 5.0)) == (0.5, 6.0)
    np.testing.assert_array_equal(archive.fitness, [-9.0, -8.0, -7.0, np.inf])
