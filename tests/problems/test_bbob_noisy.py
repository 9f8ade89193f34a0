"""The noisy suite: COCO's functions and noise models, distributions, and noise from a key alone."""

from __future__ import annotations

import copy
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from numpy import ndarray

from blackbox.errors import SettingError
from blackbox.kernels import noise
from blackbox.problems import bbob
from blackbox.problems.bbob_noisy import KeyedByPoint, NoisyBBOB

ALL = range(101, 131)


def coco_draws(function: int, calls: int) -> tuple[ndarray, ndarray]:
    """The normal and uniform variates that COCO draws in the first calls of a fresh suite."""
    normals, uniforms = np.zeros((calls, 2)), np.zeros((calls, 2))
    model = (function - 101) % 3
    n_normals, n_uniforms = ((1, 0), (0, 2), (2, 1))[model]
    for i in range(calls):
        for k in range(n_normals):
            normals[i, k] = bbob._normal(1, 31 + i * n_normals + k)[0]
        for k in range(n_uniforms):
            uniforms[i, k] = bbob._uniform(1, 31 + i * n_uniforms + k)[0]
    return normals, uniforms


@pytest.mark.parametrize("function", ALL)
def test_functions_and_noise_models_are_cocos(function: int) -> None:
    """Fed with COCO's own draws, a problem gives COCO's noisy values."""
    cocoex = pytest.importorskip("cocoex")
    for dimension, instance in [(2, 1), (10, 5)]:
        suite = cocoex.Suite("bbob-noisy", f"instances: {instance}", f"dimensions: {dimension}")
        coco = suite.get_problem_by_function_dimension_instance(function, dimension, instance)
        problem = NoisyBBOB(function, dimension, instance)
        rng = np.random.default_rng([function, dimension])
        x = rng.uniform(-5.0, 5.0, (20, dimension))
        x[::4] *= 1.2
        expected = np.array([coco(p) for p in x])
        values = problem._noisy(np, x, *coco_draws(function, 20))
        size = np.maximum(np.abs(expected), np.abs(expected - problem.f_opt))
        # COCO takes the optimal value off its rounded sum with the function's value.
        assert np.max(np.abs(values - expected) / size) <= 1e-10


@pytest.mark.parametrize("function", ALL)
def test_the_optimum_is_the_smallest_value_without_noise(function: int) -> None:
    problem = NoisyBBOB(function, 5, 2)
    x = np.random.default_rng(function).uniform(-6.0, 6.0, (50, 5))
    assert problem.noiseless(problem.x_opt) == pytest.approx(problem.f_opt, rel=1e-12, abs=1e-12)
    assert np.all(problem.noiseless(x) > problem.f_opt)


def test_noise_has_the_distribution_of_its_model() -> None:
    n = 20000
    x = np.tile([1.0, -2.0, 3.0], (n, 1))
    gaussian, uniform, cauchy = (NoisyBBOB(f, 3) for f in (107, 108, 109))
    f = gaussian.noiseless(x[0]) - gaussian.f_opt
    quantiles = np.array([0.1, 0.25, 0.5, 0.75, 0.9])

    normal = np.log((gaussian(x, noise.key(1)) - gaussian.f_opt) / f)
    np.testing.assert_allclose(np.quantile(normal, quantiles), [-1.2816, -0.6745, 0.0, 0.6745, 1.2816], atol=0.04)

    u = np.random.default_rng(0).uniform(size=(2, 200_000))
    expected = u[0] * np.maximum(1.0, (1e9 / f) ** ((0.49 + 1.0 / 3.0) * u[1]))
    factor = (uniform(x, noise.key(2)) - uniform.f_opt) / f
    np.testing.assert_allclose(
        np.log(np.quantile(factor, quantiles)), np.log(np.quantile(expected, quantiles)), atol=0.25
    )

    excess = cauchy(x, noise.key(3)) - cauchy.f_opt - f - 1000.0
    outliers = excess[np.abs(excess) > 1e-6]
    assert len(outliers) / n == pytest.approx(0.2, abs=0.015)
    np.testing.assert_allclose(np.quantile(outliers, [0.25, 0.5, 0.75]), [-1.0, 0.0, 1.0], atol=0.12)


def test_noise_depends_on_the_key_and_the_member_alone() -> None:
    problem = NoisyBBOB(110, 4, 3)
    x = np.tile(np.arange(4.0), (8, 1))
    values = problem(x, noise.key(7))
    assert len(set(values.tolist())) == 8
    np.testing.assert_array_equal(values, problem(x, noise.key(7)))
    np.testing.assert_array_equal(values[:3], problem(x[:3], noise.key(7)))
    assert problem(x[0], noise.key(7)) == values[0]
    assert not np.any(values == problem(x, noise.key(8)))


@pytest.mark.parametrize("function", [108, 109])
def test_numpy_and_jax_agree(function: int) -> None:
    jax = pytest.importorskip("jax")
    problem = NoisyBBOB(function, 5, 1)
    x = np.random.default_rng(0).uniform(-5.0, 5.0, (64, 5))
    expected = problem(x, noise.key(5))
    with jax.enable_x64(True):
        values = jax.jit(problem)(jax.numpy.asarray(x), jax.numpy.asarray(noise.key(5)))
        np.testing.assert_allclose(values, expected, rtol=1e-11)
    x32 = x.astype(np.float32)
    values = jax.jit(problem)(jax.numpy.asarray(x32), jax.numpy.asarray(noise.key(5)))
    assert values.dtype == problem(x32, noise.key(5)).dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=1e-3)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(SettingError, match="function is 100; allowed: an integer from 101 to 130"):
        NoisyBBOB(100, 5)
    with pytest.raises(SettingError, match="dimension is 41"):
        NoisyBBOB(101, 41)
    with pytest.raises(SettingError, match=r"allowed: \(5,\) or \(n, 5\)"):
        NoisyBBOB(101, 5)(np.zeros(4), noise.key(0))


def test_a_used_problem_can_be_copied_to_a_worker() -> None:
    problem = NoisyBBOB(128, 5, 1)
    value = problem(problem.x_opt, noise.key(0))
    assert copy.deepcopy(problem)(problem.x_opt, noise.key(0)) == value
    assert problem.name == "Gallagher, 101 peaks, Gaussian noise"


@pytest.mark.parametrize("function", [107, 108, 109])
def test_keyed_by_the_point_the_same_point_has_the_same_value(function: int) -> None:
    problem = KeyedByPoint(NoisyBBOB(function, 4))
    x = np.random.default_rng(function).uniform(-5.0, 5.0, (6, 4))
    values = problem(x)
    assert [problem(point) for point in x] == values.tolist()
    assert [problem(point.tolist()) for point in x] == values.tolist()
    twin = ForkingPickler.loads(ForkingPickler.dumps(problem))
    np.testing.assert_array_equal(twin(x[::-1]), values[::-1])
    assert problem(np.array([0.0, 0.0, 1.0, 2.0])) == problem(np.array([-0.0, 0.0, 1.0, 2.0]))


def test_keyed_by_the_point_near_points_have_independent_noise_of_the_model() -> None:
    problem = NoisyBBOB(107, 3)
    x = np.tile([1.0, -2.0, 3.0], (4000, 1))
    x[:, 0] += np.arange(4000) * 1e-12
    normal = np.log((KeyedByPoint(problem)(x) - problem.f_opt) / (problem.noiseless(x) - problem.f_opt))
    np.testing.assert_allclose(np.quantile(normal, [0.1, 0.5, 0.9]), [-1.2816, 0.0, 1.2816], atol=0.1)
    assert abs(np.corrcoef(normal[:-1], normal[1:])[0, 1]) < 0.06
    other = NoisyBBOB(107, 3, 2)
    factor = np.log((KeyedByPoint(other)(x) - other.f_opt) / (other.noiseless(x) - other.f_opt))
    assert abs(np.corrcoef(normal, factor)[0, 1]) < 0.06


def test_keyed_by_the_point_wrong_shapes_are_refused() -> None:
    for shape in [(), (3,), (1, 1, 5)]:
        with pytest.raises(SettingError, match=r"allowed: \(5,\) or \(n, 5\)"):
            KeyedByPoint(NoisyBBOB(101, 5))(np.zeros(shape))
