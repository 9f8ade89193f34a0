"""Recovery from measurements: the data are as described, the losses as written, in every array library."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from blackbox.errors import SettingError
from blackbox.kernels.noise import key, normal, uniform
from blackbox.problems.recovery import PhaseRetrieval, SparseRecovery

PROBLEMS = [SparseRecovery(), SparseRecovery(12, 2, 8, penalty=0.1), PhaseRetrieval(), PhaseRetrieval(5, 9, noise=0.1)]


def points(problem: Any, *shape: int) -> np.ndarray:
    return problem.x_true + np.random.default_rng(0).normal(size=(*shape, problem.d))


def test_losses_are_the_written_ones() -> None:
    sparse, phase = PROBLEMS[1], PROBLEMS[3]
    for x, value in zip(points(sparse, 9), sparse(points(sparse, 9)), strict=True):
        assert value == pytest.approx(((sparse.A @ x - sparse.y) ** 2).sum() / 2 + 0.1 * np.abs(x).sum())
    for x, value in zip(points(phase, 9), phase(points(phase, 9)), strict=True):
        assert value == pytest.approx((((phase.A @ x) ** 2 - phase.y) ** 2).mean())


def test_a_sparse_vector_has_its_spikes_and_is_the_minimum_without_errors() -> None:
    problem = SparseRecovery(d=40, spikes=5, noise=0.0, seed=2)
    assert np.count_nonzero(problem.x_true) == 5
    assert problem.measurements == 40
    assert problem(problem.x_true) == 0.0
    assert problem(points(problem, 200)).min() > 1.0
    places = {tuple(np.flatnonzero(SparseRecovery(seed=seed).x_true)) for seed in range(20)}
    assert len(places) == 20


def test_sparse_recovery_succeeds_where_orthogonal_matching_pursuit_does() -> None:
    """With half as many measurements as variables, where least squares alone has many minima."""
    problem = SparseRecovery(d=60, spikes=3, measurements=30)
    support: list[int] = []
    residual = problem.y
    for _ in range(3):
        support.append(int(np.argmax(np.abs(problem.A.T @ residual))))
        fit = np.linalg.lstsq(problem.A[:, support], problem.y, rcond=None)[0]
        residual = problem.y - problem.A[:, support] @ fit
    x = np.zeros(60)
    x[support] = fit
    assert problem.recovered(x)
    assert 0 < problem.distance(x) < 0.05
    assert problem(x) <= problem(problem.x_true)
    least_squares = np.linalg.lstsq(problem.A, problem.y, rcond=None)[0]
    assert problem(least_squares) < 1e-20
    assert not problem.recovered(least_squares)


def test_phases_are_recovered_up_to_their_sign() -> None:
    problem = PhaseRetrieval(d=6, seed=1)
    x = problem.x_true
    assert np.linalg.norm(x) == pytest.approx(1.0)
    assert problem.measurements == 36 == len(problem.y)
    assert problem(np.stack([x, -x])).max() < 1e-30
    away = np.random.default_rng(0).normal(size=(300, 6))
    away /= np.linalg.norm(away, axis=-1, keepdims=True)
    assert problem(away).min() > 1e-3
    step = 0.04 * away
    assert np.allclose(problem.distance(np.stack([x + step, -x + step])), 0.04)
    assert problem.recovered(np.stack([x + step, -x + step])).all()
    assert not problem.recovered(x + 2 * step).any()
    assert not problem.recovered(0 * x)


def test_errors_are_those_asked_for() -> None:
    sparse = SparseRecovery(d=20, measurements=4000, noise=0.3)
    assert np.std(sparse.y - sparse.A @ sparse.x_true) == pytest.approx(0.3, rel=0.05)
    phase = PhaseRetrieval(d=20, measurements=4000, noise=0.3)
    assert np.std(phase.y - (phase.A @ phase.x_true) ** 2) == pytest.approx(0.3, rel=0.05)
    for matrix in (sparse.A, phase.A):
        assert matrix.std() == pytest.approx(1.0, rel=0.02)
        assert abs(matrix.mean()) < 0.02


def test_libraries_agree() -> None:
    strict, jax = pytest.importorskip("array_api_strict"), pytest.importorskip("jax")
    batches = [points(problem, 3, 4) for problem in PROBLEMS]

    @jax.jit
    def program(batches: list[Any]) -> list[Any]:
        pairs = list(zip(PROBLEMS, batches, strict=True))
        return [(jax.vmap(jax.vmap(problem))(x), problem.distance(x)) for problem, x in pairs]

    for problem, x, found in zip(PROBLEMS, batches, program(batches), strict=True):
        values, distances = problem(x), problem.distance(x)
        assert values.shape == distances.shape == (3, 4)
        assert np.array_equal(np.asarray(problem(strict.asarray(x))), values)
        assert np.array_equal(np.asarray(problem.distance(strict.asarray(x))), distances)
        assert found[0].dtype == problem(x.astype(np.float32)).dtype == np.float32
        assert np.allclose(found[0], values, rtol=1e-5)
        assert np.allclose(found[1], distances, rtol=1e-5)


def test_data_are_the_seeds() -> None:
    for kind in (SparseRecovery, PhaseRetrieval):
        one, same, other = kind(seed=1), kind(seed=1), kind(seed=2)
        assert one == same != other
        assert hash(one) == hash(same)
        assert np.array_equal(one.A, same.A) and np.array_equal(one.y, same.y)
        assert not np.array_equal(one.A, other.A) and not np.array_equal(one.x_true, other.x_true)
    assert SparseRecovery() == SparseRecovery(measurements=30)


def test_data_are_no_noise_of_a_strategy_with_the_same_seed() -> None:
    sparse, phase = SparseRecovery(seed=5), PhaseRetrieval(seed=5)
    for generation, leaf in itertools.product(range(3), range(4)):
        for matrix in (sparse.A, phase.A):
            drawn = normal(key(5), generation, matrix.shape, leaf=leaf, like=np.zeros(()))
            assert np.isin(matrix, drawn).mean() < 0.1
        spikes = np.argsort(uniform(key(5), generation, (30,), leaf=leaf, like=np.zeros(())))[:3]
        assert {*spikes.tolist()} != {*np.flatnonzero(sparse.x_true).tolist()}


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (SparseRecovery, "d", [0, 2.0, True]),
        (SparseRecovery, "spikes", [0, 31]),
        (SparseRecovery, "measurements", [0, "all"]),
        (SparseRecovery, "noise", [-0.1, np.nan]),
        (SparseRecovery, "penalty", [-0.1, "l1"]),
        (SparseRecovery, "seed", [-1, 2**64, 0.5]),
        (PhaseRetrieval, "d", [0]),
        (PhaseRetrieval, "measurements", [0]),
        (PhaseRetrieval, "noise", [-0.1]),
        (PhaseRetrieval, "seed", [-1]),
    ],
)
def test_a_bad_argument_is_named(kind: Any, name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(SettingError, match=f"{name} must be"):
            kind(**{name: value})


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_wrong_point_is_named(problem: Any) -> None:
    for ask in (problem, problem.distance, problem.recovered):
        with pytest.raises(SettingError, match="x must be"):
            ask(np.zeros(problem.d + 1))
