"""The BBOB functions: COCO's values, the optimum, and NumPy, JAX, batches and single points alike."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
from numpy import ndarray

from blackbox.errors import SettingError
from blackbox.problems.bbob import BBOB, FUNCTIONS

ALL = list(FUNCTIONS)


def points(problem: BBOB, n: int) -> ndarray:
    """Some in the box, some outside it, some near the optimum and the optimum itself."""
    rng = np.random.default_rng([problem.function, problem.dimension, problem.instance])
    x = rng.uniform(-5.0, 5.0, (n, problem.dimension))
    x[::5] *= 1.5
    x[1::5] = problem.x_opt + 1e-3 * rng.standard_normal((n, problem.dimension))[1::5]
    x[-1] = problem.x_opt
    return x


def relative(a: ndarray, b: ndarray, f_opt: float) -> float:
    """Largest difference, relative to the value or, where it nearly vanishes, to the distance from f_opt."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.max(np.abs(a - b) / np.maximum(np.maximum(np.abs(b), np.abs(b - f_opt)), 1e-6)))


@pytest.mark.parametrize("function", ALL)
def test_values_are_cocos(function: int) -> None:
    cocoex = pytest.importorskip("cocoex")
    for dimension, instance in [(2, 1), (2, 9), (5, 3), (5, 15), (10, 2), (40, 1)]:
        problem = BBOB(function, dimension, instance)
        coco = cocoex.BareProblem("bbob", function, dimension, instance)
        x = points(problem, 50)
        assert relative(problem(x), np.array([coco(p) for p in x]), problem.f_opt) <= 1e-11
        assert problem.f_opt == pytest.approx(coco.best_value(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("function", ALL)
def test_values_above_40_dimensions_are_those_of_the_large_scale_suite(function: int) -> None:
    cocoex = pytest.importorskip("cocoex")
    suite = cocoex.Suite("bbob-largescale", "instances: 2", "dimensions: 80")
    coco = suite.get_problem_by_function_dimension_instance(function, 80, 2)
    problem = BBOB(function, 80, 2)
    x = points(problem, 20)
    assert relative(problem(x), np.array([coco(p) for p in x]), problem.f_opt) <= 1e-10


@pytest.mark.parametrize("function", ALL)
def test_the_optimum_is_the_smallest_value(function: int) -> None:
    for dimension in (2, 7, 40, 100):
        problem = BBOB(function, dimension, 4)
        assert problem(problem.x_opt) == pytest.approx(problem.f_opt, rel=1e-12, abs=1e-9)
        assert np.all(np.abs(problem.x_opt) <= 5.0)
        assert np.all(problem(points(problem, 40)) >= problem.f_opt - 1e-9)


@pytest.mark.parametrize("function", ALL)
def test_a_batch_gives_the_values_of_its_points(function: int) -> None:
    problem = BBOB(function, 10, 2)
    x = points(problem, 600)  # more than one chunk where temporaries are wide
    values = problem(x)
    assert values.shape == (600,)
    assert values.dtype == np.float64
    assert relative(np.array([problem(p) for p in x[::20]]), values[::20], problem.f_opt) <= 1e-12
    assert isinstance(problem(x[0]), np.float64)


@pytest.mark.parametrize("function", ALL)
def test_numpy_and_jax_agree(function: int) -> None:
    jax = pytest.importorskip("jax")
    problem = BBOB(function, 10, 3)
    x = points(problem, 20)
    with jax.enable_x64(True):
        values = jax.jit(jax.vmap(problem))(jax.numpy.asarray(x))
        assert values.dtype == np.float64
        assert relative(values, problem(x), problem.f_opt) <= 1e-11
    x32 = x.astype(np.float32)
    values = jax.jit(problem)(jax.numpy.asarray(x32))
    assert values.dtype == problem(x32).dtype == np.float32
    # f16, f19 and f23 magnify rounding errors; all lose digits to float32's steps near the optimal value.
    tolerance = 2e-3 if function in (16, 19, 23) else 3e-5
    assert relative(values, problem(x), problem.f_opt) <= tolerance
    assert relative(problem(x32), problem(x), problem.f_opt) <= tolerance


def test_float32_does_not_overflow_where_values_are_large() -> None:
    x = np.full(40, 5.0, np.float32)
    for function in ALL:
        assert np.isfinite(BBOB(function, 40, 1)(x))


def test_a_far_point_warns_of_nothing_and_nan_stays_nan() -> None:
    for function in ALL:
        problem = BBOB(function, 5, 1)
        assert not problem(np.full(5, 1e200)) < problem.f_opt
        assert np.isnan(problem(np.array([0.0, np.nan, 0.0, 0.0, 0.0])))


def test_integers_and_lists_are_points() -> None:
    problem = BBOB(8, 3, 1)
    assert problem([1, 2, 3]) == problem(np.array([1, 2, 3])) == problem(np.array([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 1), "function is 0"),
        ((25, 5, 1), "function is 25"),
        (("8", 5, 1), "function is '8'"),
        ((1, 1, 1), "dimension is 1"),
        ((1, 2.0, 1), "dimension is 2.0"),
        ((1, 5, 0), "instance is 0"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        BBOB(*arguments)


@pytest.mark.parametrize("shape", [(), (4,), (6,), (2, 4), (1, 1, 5)])
def test_points_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match=r"allowed: \(5,\) or \(n, 5\)"):
        BBOB(1, 5, 1)(np.zeros(shape))


def test_a_problem_is_frozen_and_itself() -> None:
    problem = BBOB(15, 5, 1)
    assert len({problem, problem, BBOB(15, 5, 1)}) == 2
    with pytest.raises(AttributeError):
        problem.instance = 2  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        problem.x_opt[0] = 0.0
    assert (problem.name, problem.bounds) == ("Rastrigin", (-5.0, 5.0))
    assert repr(problem) == "BBOB(function=15, dimension=5, instance=1)"


def test_a_used_problem_can_be_copied_to_a_worker() -> None:
    problem = BBOB(21, 5, 1)
    value = problem(problem.x_opt)
    twin = copy.deepcopy(problem)  # by the same protocol as a process pool
    assert twin(problem.x_opt) == value


def test_importing_does_not_import_jax() -> None:
    code = "import sys, blackbox.problems.bbob; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
