"""The mixed-integer suite: COCO's values, bounds and optimum, rounding, and points of its space."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from numpy import ndarray

from blackbox.errors import SettingError
from blackbox.problems.bbob import FUNCTIONS
from blackbox.problems.bbob_mixint import MixedBBOB

ALL = list(FUNCTIONS)


def points(problem: MixedBBOB, n: int) -> ndarray:
    """In the box and a little outside, half of them with integers; the optimum last."""
    rng = np.random.default_rng([problem.function, problem.dimension, problem.instance])
    x = rng.uniform(problem.low - 0.7, problem.high + 0.7, (n, problem.dimension))
    x[::2, : problem.n_int] = np.round(x[::2, : problem.n_int])
    x[-1] = problem.x_opt
    return x


@pytest.mark.parametrize("function", ALL)
def test_values_bounds_and_optimum_are_cocos(function: int) -> None:
    cocoex = pytest.importorskip("cocoex")
    for dimension in (5, 10, 20, 80):
        suite = cocoex.Suite("bbob-mixint", "instances: 1-3", f"dimensions: {dimension}")
        for instance in (1, 2, 3) if dimension < 80 else (2,):
            coco = suite.get_problem_by_function_dimension_instance(function, dimension, instance)
            problem = MixedBBOB(function, dimension, instance)
            x = points(problem, 200 if dimension < 80 else 20)
            expected = np.array([coco(p) for p in x])
            size = np.maximum(np.abs(expected), np.abs(expected - problem.f_opt))
            assert np.max(np.abs(problem(x) - expected) / np.maximum(size, 1e-6)) <= 1e-10
            assert expected[-1] == pytest.approx(problem.f_opt, rel=1e-12, abs=1e-9)
            assert coco.number_of_integer_variables == problem.n_int
            np.testing.assert_array_equal(coco.lower_bounds, problem.low)
            np.testing.assert_array_equal(coco.upper_bounds, problem.high)
            coco.free()


def test_integers_are_rounded_and_clipped_and_the_rest_is_not() -> None:
    problem = MixedBBOB(3, 5, 1)
    x = np.array([1.0, 3.0, 0.0, 7.0, 2.5])
    assert problem(x) == problem(x + np.array([8.0, 0.4, -0.3, -0.49, 0.0]))
    assert problem(x) != problem(x + np.array([0.0, 0.0, 0.0, 0.0, 0.01]))
    assert problem(x) != problem(x + np.array([0.0, -0.6, 0.0, 0.0, 0.0]))


def test_numpy_and_jax_agree() -> None:
    jax = pytest.importorskip("jax")
    problem = MixedBBOB(15, 10, 2)
    x = points(problem, 50)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(jax.vmap(problem))(jax.numpy.asarray(x)), problem(x), rtol=1e-11)
    x32 = x.astype(np.float32)
    values = jax.jit(problem)(jax.numpy.asarray(x32))
    assert values.dtype == problem(x32).dtype == np.float32
    np.testing.assert_allclose(values, problem(x), rtol=1e-4)


def test_its_space_gives_points_that_it_takes() -> None:
    problem = MixedBBOB(8, 10, 1)
    lowest, highest = problem.space.decode(np.zeros(10)), problem.space.decode(np.ones(10))
    assert problem(lowest) == problem(problem.low)
    assert problem(highest) == problem(problem.high)
    assert isinstance(lowest["x7"], int)
    assert isinstance(lowest["x8"], float)
    best = {f"x{i}": int(v) if i < problem.n_int else v for i, v in enumerate(problem.x_opt.tolist())}
    assert problem(problem.space.decode(problem.space.encode(best))) == pytest.approx(problem.f_opt)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(SettingError, match="dimension is 12; allowed: a multiple of 5"):
        MixedBBOB(1, 12)
    with pytest.raises(SettingError, match="function is 0"):
        MixedBBOB(0, 10)
    with pytest.raises(SettingError, match=r"allowed: \(10,\) or \(n, 10\)"):
        MixedBBOB(1, 10)(np.zeros(5))


def test_a_used_problem_can_be_copied_to_a_worker() -> None:
    problem = MixedBBOB(21, 5, 1)
    value = problem(problem.x_opt)
    assert copy.deepcopy(problem)(problem.x_opt) == value
