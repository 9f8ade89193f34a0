"""The landscapes: the published formulas, the minimum, moved and turned, in every array library, and hashable."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy import ndarray

import blackbox as bb
from blackbox.errors import SettingError
from blackbox.kernels import noise
from blackbox.problems import entries, load
from blackbox.problems.landscapes import LANDSCAPES, Landscape, versine

NAMES = list(LANDSCAPES)


def dimension(name: str, d: int = 5) -> int:
    """``d``, or the only one that the function has."""
    return 2 if isinstance(LANDSCAPES[name].minima, tuple) else d


def points(landscape: Landscape, n: int) -> ndarray:
    """Some where particles start, some near the minimum."""
    rng = np.random.default_rng(len(landscape.name))
    x = rng.uniform(landscape.box().low, landscape.box().high, (n, landscape.d))
    x[::4] = landscape.x_opt + 0.1 * rng.standard_normal((n, landscape.d))[::4]
    return x


# ---- as they are published


def snowflake(x: ndarray) -> float:
    r, phi = np.linalg.norm(x / 2), np.arctan2(x[1], x[0])
    arms = [r**8 - r**4 + np.abs(np.cos(phi + k * np.pi / 3)) ** 0.5 * r**0.3 for k in range(3)]
    return float(min(*arms, 0.8) + 0.25)


def levy(x: ndarray) -> float:
    w = 1 + (x - 1) / 4
    middle = ((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2)).sum()
    last = (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2)
    return float(np.sin(np.pi * w[0]) ** 2 + middle + last)


PUBLISHED: dict[str, Any] = {
    "sphere": lambda x: sum(x**2),
    "rastrigin": lambda x: sum(x**2 - 10 * np.cos(2 * np.pi * x)) + 10 * len(x),
    "ackley": lambda x: (
        -20 * np.exp(-0.2 * np.sqrt(np.mean(x**2))) - np.exp(np.mean(np.cos(2 * np.pi * x))) + 20 + math.e
    ),
    "rosenbrock": lambda x: sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2),
    "griewank": lambda x: sum(x**2) / 4000 - np.prod(np.cos(x / np.sqrt(np.arange(1, len(x) + 1)))) + 1,
    "salomon": lambda x: 1 - np.cos(2 * np.pi * np.linalg.norm(x)) + 0.1 * np.linalg.norm(x),
    "levy": levy,
    "schaffer": lambda x: 0.5 + (np.sin(np.linalg.norm(x)) ** 2 - 0.5) / (1 + 0.001 * sum(x**2)) ** 2,
    "schwefel-2.20": lambda x: sum(np.abs(x)),
    "himmelblau": lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2,
    "three-hump-camel": lambda x: 2 * x[0] ** 2 - 1.05 * x[0] ** 4 + x[0] ** 6 / 6 + x[0] * x[1] + x[1] ** 2,
    "snowflake": snowflake,
}


@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_published_ones(name: str) -> None:
    landscape = Landscape(name, dimension(name))
    x = points(landscape, 50)
    expected = np.array([PUBLISHED[name](row) for row in x])
    assert np.allclose(landscape(x), expected, rtol=1e-11, atol=1e-11)


def test_rastrigins_scalings_are_the_written_ones() -> None:
    x = points(Landscape("rastrigin", 7), 20)
    wave = np.cos(2 * np.pi * x)
    expected = {
        "sum": (x**2 - 10 * wave).sum(-1) + 70,
        "riedl": (x**2).sum(-1) + 2.5 * (1 - wave).sum(-1),
        "mean": ((x**2 - 10 * wave).sum(-1) + 70) / 7,
    }
    for scaling, values in expected.items():
        assert np.allclose(Landscape("rastrigin", 7, scaling=scaling)(x), values, rtol=1e-12)


# ---- the minimum


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rotation", [None, 4])
def test_the_minimum_is_where_it_was_put_and_nothing_is_below(name: str, rotation: int | None) -> None:
    d = dimension(name)
    place = np.linspace(0.7, 1.7, d)
    landscape = Landscape(name, d, minimum=place, rotation=rotation)
    assert np.array_equal(landscape.x_opt, place)
    assert landscape(landscape.x_opt) == landscape.f_opt == 0.0
    # What is left of rounding: a root of it in the snowflake, which is not smooth there.
    assert np.all(np.abs(landscape(landscape.minima)) < (1e-7 if name == "snowflake" else 1e-25))
    values = landscape(points(landscape, 400))
    assert values.min() > 1e-4
    for step in 1e-5 * np.eye(d):
        assert min(landscape(place + step), landscape(place - step)) > 0.0


def test_values_near_the_minimum_are_exact_in_float32() -> None:
    """Where 10 d - 10 sum cos would be made of rounding."""
    z = np.full(20, 1e-6, np.float32)
    assert float(Landscape("rastrigin", 20)(z)) == pytest.approx(20e-12 * (1 + 20 * np.pi**2), rel=1e-4)
    assert float(Landscape("ackley", 20)(z)) == pytest.approx(4e-6, rel=1e-4)


def test_solved_looks_at_the_farthest_coordinate_and_at_all_minima() -> None:
    landscape = Landscape("rastrigin", 3, minimum=(1.0, 2.0, 3.0))
    x = landscape.x_opt + np.array([[0.2, -0.2, 0.24], [0.0, 0.0, 0.26], [0.0, np.nan, 0.0]])
    assert landscape.solved(x).tolist() == [True, False, False]
    assert landscape.solved(x[:, None, :], within=0.3).tolist() == [[True], [True], [False]]
    for name, count in (("himmelblau", 4), ("snowflake", 6)):
        several = Landscape(name, 2, rotation=3, minimum=(-1.0, 0.5))
        assert several.minima.shape == (count, 2)
        assert several.solved(several.minima + 0.2).all()
        assert not several.solved(several.minima.mean(0))
        assert len(np.unique(several.minima.round(3), axis=0)) == count


# ---- axes


def test_rotation_changes_what_has_axes_and_nothing_else() -> None:
    for name in ("sphere", "salomon", "schaffer"):
        plain, turned = (Landscape(name, 6, minimum=0.4, rotation=seed) for seed in (None, 1))
        assert np.allclose(plain(points(plain, 30)), turned(points(plain, 30)), rtol=1e-10)
    for name in ("rastrigin", "ackley", "schwefel-2.20", "levy", "rosenbrock", "griewank"):
        plain, turned, other = (Landscape(name, 6, minimum=0.4, rotation=seed) for seed in (None, 1, 2))
        x = points(plain, 30)
        assert np.abs(plain(x) - turned(x)).max() > 1e-3 < np.abs(other(x) - turned(x)).max()
        moved = plain.x_opt + (x - plain.x_opt) @ turned.axes  # R (moved - x_opt) = x - x_opt
        assert np.allclose(turned(moved), plain(x), rtol=1e-8)
    assert np.allclose(turned.axes @ turned.axes.T, np.eye(6), atol=1e-14)


def test_axes_are_not_of_the_noise_of_a_strategy_with_the_same_seed() -> None:
    q, r = np.linalg.qr(noise.normal(noise.key(7), 0, (6, 6), like=np.zeros(())))
    assert not np.allclose(Landscape("rastrigin", 6, rotation=7).axes, q * np.sign(np.diag(r)))


# ---- array libraries


MOVED = [Landscape(name, dimension(name), minimum=0.3, rotation=2) for name in NAMES]


def test_strict_arrays_give_the_same_bits() -> None:
    strict = pytest.importorskip("array_api_strict")
    for landscape in MOVED:
        x = points(landscape, 24).reshape(4, 6, -1)
        assert landscape(x).shape == (4, 6)
        assert np.array_equal(np.asarray(landscape(strict.asarray(x))), landscape(x))
        assert np.array_equal(np.asarray(landscape.solved(strict.asarray(x))), landscape.solved(x))


def test_jax_agrees() -> None:
    jax = pytest.importorskip("jax")
    batches = [points(landscape, 24) for landscape in MOVED]

    @jax.jit
    def program(batches: list[Any]) -> list[Any]:
        return [(jax.vmap(landscape)(x), landscape.solved(x)) for landscape, x in zip(MOVED, batches, strict=True)]

    for landscape, x, (found, solved) in zip(MOVED, batches, program(batches), strict=True):
        values, single = landscape(x), x.astype(np.float32)
        assert found.dtype == landscape(single).dtype == np.float32
        # The steps of float32 in x - minimum, where the slope is steep.
        assert np.allclose(found, values, rtol=1e-5, atol=1e-5 * (1 + values.max())), landscape.name
        assert np.array_equal(solved, landscape.solved(single))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 4e-7), (np.float64, 1e-15)])
def test_the_versine_is_exact_to_rounding(dtype: Any, tolerance: float) -> None:
    jax = pytest.importorskip("jax")
    x = np.random.default_rng(0).uniform(-4, 4, 20_000).astype(dtype)
    whole = np.array([-1e9, -3, 0, 1, 2, 1e6], dtype)
    turn = x.astype(np.float64) - np.round(x.astype(np.float64))
    exact = 2 * np.sin(np.pi * turn) ** 2
    with jax.enable_x64(dtype == np.float64):
        for function in (versine, jax.jit(versine)):
            found = np.asarray(function(np.concatenate([whole, x])))
            assert found.dtype == dtype
            assert np.allclose(found[6:], exact, rtol=tolerance, atol=0)
            assert np.array_equal(found[:6], np.zeros(6))


def test_far_points_warn_of_nothing_and_nan_stays_nan() -> None:
    for name in NAMES:
        landscape = Landscape(name, dimension(name))
        assert not landscape(np.full(landscape.d, 1e200)) < 0.1
        assert np.isnan(landscape(np.where(np.arange(landscape.d) == 1, np.nan, 0.5)))


def test_integers_and_lists_are_points() -> None:
    landscape = Landscape("rosenbrock", 3)
    assert landscape([1, 2, 3]) == landscape(np.array([1, 2, 3])) == landscape(np.array([1.0, 2.0, 3.0])) == 201.0


# ---- as an objective


def test_equal_ones_are_one_key_and_others_are_not() -> None:
    one = Landscape("rosenbrock", 4)
    same = [Landscape("rosenbrock", 4, minimum=np.ones(4)), Landscape("rosenbrock", 4, start=[-2, 2]), copy.copy(one)]
    assert all(other == one and hash(other) == hash(one) for other in same)
    assert Landscape("rastrigin", 4) == Landscape("rastrigin", 4, scaling="sum")
    others = [
        Landscape("rosenbrock", 5), Landscape("levy", 4), Landscape("rosenbrock", 4, minimum=(1.0, 1.0, 1.0, 1.1)),
        Landscape("rosenbrock", 4, rotation=0), Landscape("rosenbrock", 4, start=(0.0, 2.0)),
    ]  # fmt: skip
    assert len({one, *same, *others}) == 6


class Counted(Landscape):
    """Counts how often it is traced or called."""

    calls: ClassVar[list[Any]] = []

    def __call__(self, x: Any) -> Any:
        self.calls.append(x)
        return super().__call__(x)


def test_a_run_is_one_program_that_equal_objectives_share() -> None:
    jnp = pytest.importorskip("jax.numpy")
    strategy, calls = bb.create("snes", popsize=16), []
    for _ in range(2):
        objective = Counted("sphere", 3, minimum=0.7)
        _, history = bb.run(strategy, objective, jnp.zeros(3), key=bb.key(0), generations=60)
        assert objective.solved(history.x_best)
        calls.append(len(Counted.calls))
    assert 0 < calls[0] < 10  # not once a generation
    assert calls[1] - calls[0] <= 1  # whether it can be traced is all that is asked again


def test_problems_are_loaded_by_name() -> None:
    listed = {entry.name for entry in entries() if entry.suite == "landscapes"}
    assert {"rastrigin-dD", "schwefel-2.20-dD", "himmelblau-d2"} <= listed
    assert len(listed) == len(NAMES)
    objective, box = load("schwefel-2.20-d12")
    assert objective == Landscape("schwefel-2.20", 12)
    assert box.low.tolist() == [-100.0] * 12
    with pytest.raises(SettingError, match="rastrigin"):
        load("alpine-d3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "alpine"}, "name must be one of sphere"),
        ({"d": 0}, "d must be"),
        ({"d": 2.0}, "d must be"),
        ({"name": "rosenbrock", "d": 1}, "d must be"),
        ({"name": "himmelblau", "d": 3}, "d must be 2"),
        ({"minimum": (1.0, 2.0)}, "minimum must be"),
        ({"minimum": np.inf}, "minimum must be"),
        ({"minimum": "zero"}, "minimum must be"),
        ({"rotation": -1}, "rotation must be"),
        ({"rotation": 0.5}, "rotation must be"),
        ({"start": (1.0, 1.0)}, "start must be"),
        ({"start": (1.0, 2.0, 3.0)}, "start must be"),
        ({"scaling": "max"}, "scaling must be"),
        ({"name": "ackley", "scaling": "sum"}, "scaling must be"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Landscape(**{"name": "rastrigin", "d": 3, **arguments})


@pytest.mark.parametrize("x", [np.zeros(4), np.zeros((3, 2)), np.float64(0.0), ["a", "b", "c"], np.zeros(3, complex)])
def test_a_wrong_point_is_named(x: Any) -> None:
    for ask in (Landscape("rastrigin", 3), Landscape("rastrigin", 3).solved):
        with pytest.raises(SettingError, match="x must be"):
            ask(x)
