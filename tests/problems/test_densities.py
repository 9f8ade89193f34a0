"""The densities: they integrate to 1, samples and moments fit them, and every array library has the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy import ndarray

import blackbox as bb
from blackbox.errors import SettingError
from blackbox.kernels.noise import normal
from blackbox.problems.densities import GaussianMixture, TwoMoons

MIXTURE = GaussianMixture(
    means=[[-2.0, 0.5], [1.0, 1.0], [0.0, -2.0]],
    covariances=[[[0.5, 0.2], [0.2, 0.3]], [[0.1, 0.0], [0.0, 0.4]], [[1.0, -0.6], [-0.6, 0.7]]],
    weights=[3.0, 2.0, 1.0],
)
MOONS = TwoMoons()
TARGETS = [MIXTURE, MOONS, TwoMoons(radius=1.0, width=0.3, spread=1.5), GaussianMixture([[0.3, -0.2]])]


def grid(low: float = -9.0, high: float = 9.0, n: int = 721) -> tuple[ndarray, float]:
    axis, step = np.linspace(low, high, n, retstep=True)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1), float(step) ** 2


@pytest.mark.parametrize("target", TARGETS)
def test_densities_integrate_to_one_and_have_their_moments(target: Any) -> None:
    x, area = grid()
    density = np.exp(-target(x))
    assert density.sum() * area == pytest.approx(1.0, abs=1e-7)
    mean = np.tensordot(density, x, 2) * area
    assert np.allclose(mean, target.mean, atol=1e-7)
    outer = (density[..., None] * (x - mean)).reshape(-1, 2).T @ (x - mean).reshape(-1, 2) * area
    assert np.allclose(outer, target.covariance, atol=1e-6)


def test_the_mixture_is_the_written_one() -> None:
    x = np.random.default_rng(0).normal(size=(20, 2)) * 3
    density = np.zeros(20)
    for mean, covariance, weight in zip(MIXTURE.means, MIXTURE.covariances, (1 / 2, 1 / 3, 1 / 6), strict=True):
        offset, inverse = x - np.array(mean), np.linalg.inv(np.array(covariance))
        quadratic = np.einsum("ni,ij,nj->n", offset, inverse, offset)
        density += weight * np.exp(-quadratic / 2) / (2 * np.pi * np.sqrt(np.linalg.det(np.array(covariance))))
    assert np.allclose(MIXTURE(x), -np.log(density), rtol=1e-12)


def test_the_moons_are_the_written_ones() -> None:
    x = np.random.default_rng(0).normal(size=(20, 2)) * 2
    moons = np.exp(-0.5 * ((x[:, :1] - [2.0, -2.0]) / 0.6) ** 2).sum(-1)
    written = 0.5 * ((np.linalg.norm(x, axis=-1) - 2.0) / 0.4) ** 2 - np.log(moons)
    assert np.allclose(MOONS(x) - written, MOONS.log_constant, rtol=0, atol=1e-12)


def test_samples_have_the_mixtures_moments_and_entropy() -> None:
    n, key = 40_000, bb.key(3)
    sample = MIXTURE.sample(key, n)
    assert sample.shape == (n, 2)
    assert np.allclose(sample.mean(0), MIXTURE.mean, atol=4 * np.sqrt(np.diag(MIXTURE.covariance) / n).max())
    assert np.allclose(np.cov(sample.T), MIXTURE.covariance, rtol=0.03, atol=0.03)
    # Of its own density: also the components' shapes are right, not only the moments of all.
    x, area = grid()
    energy = MIXTURE(x)
    entropy = (np.exp(-energy) * energy).sum() * area
    spread = np.sqrt((np.exp(-energy) * (energy - entropy) ** 2).sum() * area)
    assert MIXTURE(sample).mean() == pytest.approx(entropy, abs=4 * spread / np.sqrt(n))


def test_samples_are_the_keys_in_every_library() -> None:
    sample = MIXTURE.sample(bb.key(3), 60)
    assert np.array_equal(sample[:20], MIXTURE.sample(bb.key(3), 20))
    assert not np.array_equal(sample, MIXTURE.sample(bb.key(4), 60))
    jax = pytest.importorskip("jax")
    found = jax.jit(lambda key: MIXTURE.sample(key, 60))(bb.key(3))
    assert np.allclose(found, sample, rtol=1e-5, atol=1e-5)


def test_samples_are_no_noise_of_a_strategy_with_the_same_key() -> None:
    sample = GaussianMixture([[0.0, 0.0]]).sample(bb.key(3), 60)
    for leaf in range(3):
        assert np.isin(sample, normal(bb.key(3), 0, (60, 2), leaf=leaf, like=np.zeros(()))).mean() < 0.1


def test_libraries_agree() -> None:
    x = np.random.default_rng(1).normal(size=(3, 5, 2)) * 2
    strict, jax = pytest.importorskip("array_api_strict"), pytest.importorskip("jax")
    single = x.astype(np.float32)
    program = jax.jit(lambda x: [jax.vmap(jax.vmap(target))(x) for target in TARGETS])
    for target, found in zip(TARGETS, program(single), strict=True):
        values = target(x)
        assert values.shape == (3, 5)
        assert np.array_equal(np.asarray(target(strict.asarray(x))), values)
        assert found.dtype == target(single).dtype == np.float32
        assert np.allclose(found, values, rtol=1e-5, atol=1e-5)


def test_far_points_have_a_finite_value() -> None:
    far = np.array([[1e4, -1e4]])
    for target in TARGETS:
        assert np.isfinite(target(far)).all()
        assert target(far) > 1e6


@pytest.mark.parametrize(
    ("dtype", "far"), [("float64", 1e200), ("float64", 1.7e308), ("float32", 1e20), ("float32", 3e38)]
)
def test_what_is_too_far_for_a_number_is_infinite(dtype: str, far: float) -> None:
    jax = pytest.importorskip("jax")
    x = np.array([[far, -far], [-far, far], [far, far], [0.0, far], [1e3, 0.0]], dtype)
    unknown = np.array([[np.nan, 0.0], [far, np.nan]], dtype)
    for target in TARGETS:
        assert target(x)[:-1].tolist() == [np.inf] * 4
        assert np.isfinite(target(x)[-1])
        assert np.isnan(target(unknown)).all()
        if dtype == "float32":
            assert np.array_equal(np.isinf(jax.jit(target)(x)), np.isinf(target(x)))


def test_equal_ones_have_one_hash() -> None:
    again = GaussianMixture(np.array(MIXTURE.means), np.array(MIXTURE.covariances), np.array([0.75, 0.5, 0.25]))
    assert again == MIXTURE
    assert hash(again) == hash(MIXTURE)
    shared = [GaussianMixture(np.eye(2), variance) for variance in (0.5, [0.5, 0.5], np.stack([np.eye(2) / 2] * 2))]
    assert len(set(shared)) == 1
    assert len({*shared, GaussianMixture(np.eye(2), [0.5, 0.6]), GaussianMixture(np.eye(2), 0.5, [1, 2])}) == 3
    assert TwoMoons() == TwoMoons(2, 0.4, 0.6) != TwoMoons(width=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0, 1.0],), "means must be"),
        (([[np.nan, 1.0]],), "means must be"),
        (("abc",), "means must be"),
        ((np.eye(2), [1.0, 1.0, 1.0]), "covariances must be"),
        ((np.eye(2), -1.0), "covariances must be"),
        ((np.zeros((1, 2)), [[[1.0, 0.5], [0.0, 1.0]]]), "covariances must be symmetric"),
        ((np.zeros((1, 2)), [[[1.0, 2.0], [2.0, 1.0]]]), "covariances must be symmetric and positive"),
        ((np.eye(2), 1.0, [1.0, 0.0]), "weights must be"),
        ((np.eye(2), 1.0, [1.0, 1.0, 1.0]), "weights must be"),
    ],
)
def test_a_bad_argument_is_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        GaussianMixture(*arguments)


def test_other_bad_arguments_are_named() -> None:
    for name in ("radius", "width", "spread"):
        for value in (0.0, -1.0, np.inf, "wide"):
            with pytest.raises(SettingError, match=f"{name} must be"):
                TwoMoons(**{name: value})
    for target in TARGETS:
        with pytest.raises(SettingError, match="x must be"):
            target(np.zeros(3))
    with pytest.raises(SettingError, match="n must be"):
        MIXTURE.sample(bb.key(0), -1)
    with pytest.raises(SettingError, match="key must be"):
        MIXTURE.sample(np.zeros(2), 5)
