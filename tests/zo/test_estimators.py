"""Gradient estimates: unbiased, with the errors of the formulas, exact where they are exact, and total."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import blackbox as bb
from blackbox.kernels.noise import fold_many
from blackbox.zo import CGE, RGE, ZO, DeepZero, smoothing_radius, value_and_grad

RNG = np.random.default_rng(0)
D = 32  # a power of two, for Hadamard's matrix
PARAMS = {
    "a": jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32), "b": jnp.zeros(7), "classes": jnp.arange(3),
    "c": jnp.asarray(RNG.normal(size=5), jnp.float32),
}  # fmt: skip
SLOPE = jax.tree.map(lambda x: jnp.asarray(np.random.default_rng(x.size).normal(size=x.shape), jnp.float32), PARAMS)


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(x) for name, x in tree.items() if name != "classes"])


def linear(params: Any) -> Any:
    return sum(jnp.vdot(params[name], SLOPE[name]) for name in ("a", "b", "c"))


def quadratic(params: Any) -> Any:
    x = jnp.concatenate([params[name].ravel() for name in ("a", "b", "c")])
    return jnp.sum(jnp.arange(1.0, D + 1) * x * x) / 2 + jnp.sum(x) ** 2 / 4


def smooth(params: Any) -> Any:
    return jnp.sum(jnp.sin(params["a"] @ params["c"])) + jnp.sum(jnp.exp(0.3 * params["b"])) / 5


def errors(f: Any, estimator: Any, estimates: int) -> np.ndarray:
    """Differences of many estimates from the gradient, relative to its length."""
    gradient = value_and_grad(f, estimator)
    keys = jnp.asarray(fold_many(bb.key(1), estimates))
    found = jax.jit(lambda keys: jax.lax.map(lambda key: gradient(PARAMS, key)[1], keys))(keys)
    truth = flat(jax.grad(f, allow_int=True)(PARAMS))
    rows = np.concatenate([np.reshape(found[name], (estimates, -1)) for name in ("a", "b", "c")], axis=1)
    return (rows - truth) / np.linalg.norm(truth)


FORMULAS = {  # of a linear function, relative to the squared length of its gradient
    "normal": lambda d, q: (d + 1) / q,
    "rademacher": lambda d, q: (d - 1) / q,
    "sphere": lambda d, q: (d - 1) / q,
    "orthogonal": lambda d, q: (d - q) / q,
    "hadamard": lambda d, q: (d - q) / q,
}


@pytest.mark.parametrize(
    ("distribution", "queries", "central"),
    [(kind, 8, True) for kind in FORMULAS] + [("orthogonal", D, True), ("hadamard", 2, False)],
)
def test_estimates_are_unbiased_with_the_error_of_the_formula(distribution: str, queries: int, central: bool) -> None:
    n = 1500
    found = errors(linear, RGE(queries, distribution, central=central), n)
    squares = np.sum(found**2, axis=1)
    expected = FORMULAS[distribution](D, queries)
    bar = np.std(squares) / n**0.5
    assert abs(squares.mean() - expected) < 4 * bar + 2e-3 * expected + 1e-7
    bias = found.mean(axis=0)
    assert np.all(np.abs(bias) < 5 * found.std(axis=0) / n**0.5 + 1e-3)


def test_coordinates_without_replacement() -> None:
    sizes = np.array([20, 7, 5])
    queries = 16
    estimator = CGE(queries=queries)
    counts = np.array(estimator.ask(PARAMS, bb.key(0)).counts) // 2
    assert counts.sum() == queries and np.all(counts >= 1)
    squared = np.array([np.sum(np.square(SLOPE[name])) for name in ("a", "b", "c")])
    expected = np.sum((sizes / counts - 1) * squared) / squared.sum()
    n = 1500
    found = errors(linear, estimator, n)
    squares = np.sum(found**2, axis=1)
    assert abs(squares.mean() - expected) < 4 * np.std(squares) / n**0.5
    assert np.all(np.abs(found.mean(axis=0)) < 5 * found.std(axis=0) / n**0.5 + 1e-3)


def test_coordinate_estimates_have_the_truncation_error_of_the_formula() -> None:
    truth = flat(jax.grad(quadratic, allow_int=True)(PARAMS))
    curvature = np.diagonal(
        jax.hessian(lambda x: jnp.sum(jnp.arange(1.0, D + 1) * x * x) / 2 + jnp.sum(x) ** 2 / 4)(truth)
    )
    with jax.enable_x64():
        params = {name: jnp.asarray(np.asarray(x), jnp.float64) for name, x in PARAMS.items() if name != "classes"}
        for mu in (1e-2, 1e-4):
            central = value_and_grad(quadratic, CGE(mu))(params, bb.key(0))[1]
            exact = flat(jax.grad(quadratic)(params))
            assert np.abs(flat(central) - exact).max() < 1e-8  # there is no third derivative
            forward = value_and_grad(quadratic, CGE(mu, central=False))(params, bb.key(0))[1]
            np.testing.assert_allclose(flat(forward) - exact, mu * curvature / 2, rtol=1e-5)


@pytest.mark.parametrize("central", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_default_radius_is_near_the_best(dtype: str, central: bool) -> None:
    """The error at the default is within a few times that of the best radius of a fine grid."""
    with jax.enable_x64():
        params = {name: jnp.asarray(np.asarray(x), dtype) for name, x in PARAMS.items() if name != "classes"}
        exact = flat(jax.grad(smooth)({name: jnp.asarray(x, jnp.float64) for name, x in params.items()}))

        def error(mu: float | None) -> float:
            return float(
                np.linalg.norm(flat(value_and_grad(smooth, CGE(mu, central=central))(params, bb.key(0))[1]) - exact)
            )

        default = smoothing_radius(dtype, central)
        grid = {k: error(default * 4.0**k) for k in range(-5, 4)}
        assert error(None) < 6 * min(grid.values())
        assert grid[-5] > 10 * min(grid.values()) and grid[3] > 10 * min(grid.values())  # both errors are seen


def test_radii_are_the_documented_ones() -> None:
    assert [smoothing_radius(t) for t in ("float32", "float64")] == [2.0**-8, 2.0**-17]
    assert [smoothing_radius(t, central=False) for t in ("float32", "float64")] == [2.0**-10, 2.0**-25]
    far = {"x": jnp.asarray([3e4, 0.0, -0.5], jnp.float32)}
    steps = CGE().ask(far, bb.key(0)).steps[::2]
    np.testing.assert_array_equal(steps, 2.0**-8 * np.array([2.0**14, 1, 1]))


ESTIMATORS = [
    CGE(queries=9, central=False), DeepZero(0.3), RGE(6), RGE(6, "sphere", central=False)
]  # fmt: skip


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_values_in_any_order_and_failed_ones(estimator: Any) -> None:
    population = estimator.ask(PARAMS, bb.key(3), 5)
    fitness = bb.evaluate(smooth, population)
    n = len(population)
    assert n == estimator.evaluations(PARAMS) == len(fitness)
    straight = estimator.estimate(population, fitness)
    order = np.random.default_rng(0).permutation(n)
    mixed = estimator.estimate(population.take(order), fitness[order])
    assert jax.tree.structure(straight.gradient) == jax.tree.structure(PARAMS)
    np.testing.assert_allclose(flat(mixed.gradient), flat(straight.gradient), rtol=1e-5, atol=1e-6)
    assert not np.any(straight.gradient["classes"])
    expected = float(smooth(PARAMS))
    assert math.isclose(straight.value, expected, abs_tol=1e-6 if not estimator.central else 0.01)

    nan, inf = fitness.at[2].set(jnp.nan), fitness.at[2].set(jnp.inf)
    lost, infinite = (estimator.estimate(population, values) for values in (nan, inf))
    np.testing.assert_array_equal(flat(lost.gradient), flat(infinite.gradient))
    assert np.all(np.isfinite(flat(lost.gradient))) and math.isfinite(lost.value)
    if isinstance(estimator, RGE):  # the others count as if there were fewer directions
        kept = 5 * flat(lost.gradient) + flat(_along(population, 1 if estimator.central else 2, fitness, estimator))
        np.testing.assert_allclose(kept, 6 * flat(straight.gradient), rtol=1e-4, atol=1e-5)
    none = estimator.estimate(population, jnp.full(n, jnp.nan))
    assert not np.any(flat(none.gradient)) and math.isnan(none.value)
    huge = estimator.estimate(population, 3e38 * (1 - 2 * (jnp.arange(n) % 2)))
    assert np.all(np.isfinite(np.square(flat(huge.gradient))))


def _along(population: Any, k: int, fitness: Any, estimator: RGE) -> Any:
    """One direction's part of the gradient."""
    mu = float(population.steps[0])
    if estimator.central:
        slope = (fitness[2 * k] - fitness[2 * k + 1]) / (2 * mu)
        noise = population.noise(2 * k)
    else:
        slope = (fitness[k] - fitness[-1]) / mu
        noise = population.noise(k)
    return jax.tree.map(lambda u: slope * u / mu, noise)


@pytest.mark.parametrize("estimator", [RGE(4, "hadamard"), RGE(4, "orthogonal"), DeepZero(0.3)], ids=repr)
def test_keys_generations_and_further_members(estimator: Any) -> None:
    n = estimator.evaluations(PARAMS)

    def points(key: int, generation: int, first: int) -> np.ndarray:
        population = estimator.ask(PARAMS, bb.key(key), generation, first)
        return np.stack([flat(population.noise(i)) for i in range(n)])

    start = points(0, 0, 0)
    np.testing.assert_array_equal(points(0, 0, 0), start)
    for other in (points(1, 0, 0), points(0, 1, 0), points(0, 0, n)):
        assert not np.array_equal(other, start)


def test_masks_have_their_densities_and_are_kept_for_their_interval() -> None:
    estimator = DeepZero({"a": 0.5, "b": 0.1, "c": 1.0}, interval=3)
    population = estimator.ask(PARAMS, bb.key(0), 4)
    assert population.counts == (20, 2, 10)
    found = value_and_grad(linear, estimator)(PARAMS, bb.key(0))[1]
    for name, count in (("a", 10), ("b", 1), ("c", 5)):
        chosen = np.asarray(found[name]) != 0
        assert chosen.sum() == count
        np.testing.assert_allclose(found[name][chosen], SLOPE[name][chosen], rtol=1e-3)  # as they are, not unbiased
    same = [estimator.ask(PARAMS, bb.key(0), g).coordinates for g in range(2, 7)]
    assert [bool(np.array_equal(same[1], x)) for x in same] == [False, True, True, True, False]


def test_grasp_keeps_what_carries_the_gradient() -> None:
    """ZO-GraSP with exact gradients keeps the lowest -theta * (H g), which can be computed directly."""
    key = bb.key(0)

    def f(p: Any, x: Any) -> Any:
        return jnp.mean((jnp.tanh(x @ p["w"]) @ p["v"]) ** 2)

    params = {name: jnp.asarray(RNG.normal(size=s), jnp.float32) for name, s in (("w", (6, 8)), ("v", (8, 2)))}
    x = jnp.asarray(RNG.normal(size=(20, 6)), jnp.float32)
    found = bb.zo.grasp_densities(f, params, key, x, density=0.25, estimator=CGE(), delta=0.1)
    g = jax.grad(f)(params, x)
    hg = jax.jvp(lambda p: jax.grad(f)(p, x), (params,), (g,))[1]
    scores = jax.tree.map(lambda p, h: -p * h, params, hg)
    threshold = np.sort(np.concatenate([np.ravel(s) for s in scores.values()]))[64 // 4 - 1]
    for name, score in scores.items():
        assert abs(found[name] - np.mean(score <= threshold)) < 0.07
    assert abs(sum(found[name] * params[name].size for name in params) - 16) < 1.5


def test_grasp_leaves_out_what_is_frozen_and_names_a_step_that_failed() -> None:
    params = {name: jnp.asarray(RNG.normal(size=s), jnp.float32) for name, s in (("embed", (9, 9)), ("w", (9, 4)))}

    def f(p: Any) -> Any:
        return jnp.sum(jnp.tanh(p["embed"] @ p["w"]) ** 2)

    found = bb.zo.grasp_densities(f, params, bb.key(0), density=0.25, estimator=CGE(frozen=("embed",)))
    assert found == {"w": 0.25}
    assert bb.zo.DeepZero(found, frozen=("embed",)).evaluations(params) == 18
    with pytest.raises(bb.SettingError, match=r"density must be of leaves of params that have a gradient; \['x'\]"):
        bb.zo.DeepZero({**found, "x": 0.5}, frozen=("embed",)).evaluations(params)

    def fails_elsewhere(p: Any) -> Any:
        return jnp.where(jnp.max(jnp.abs(p["w"] - params["w"])) > 0.05, jnp.nan, jnp.sum(p["w"]))

    with pytest.raises(bb.SettingError, match=r"delta must lead to where f has a finite gradient, too; 9\.0 does not"):
        bb.zo.grasp_scores(fails_elsewhere, params, bb.key(0), estimator=CGE(mu=1e-3), delta=9.0)


def test_steps_are_longer_than_rounding_and_weights_may_be_large() -> None:
    def f(p: Any) -> Any:
        return jnp.sum(jax.lax.reduce_precision(p["w"].astype(jnp.float32), 8, 7) * jnp.arange(8.0))

    half = {"w": jnp.ones(8, jnp.bfloat16)}
    np.testing.assert_allclose(value_and_grad(f, CGE(mu=1e-3))(half, bb.key(0))[1]["w"], np.arange(8.0), atol=1e-3)
    large = {"w": jnp.full(8, 1e25)}
    found = value_and_grad(lambda p: jnp.sum(p["w"] / 1e25 * jnp.arange(8.0)), RGE(8, "orthogonal"))(large, bb.key(0))
    np.testing.assert_allclose(found[1]["w"] * 1e25, np.arange(8.0), atol=0.05)


@pytest.mark.parametrize("estimator", [CGE(queries=9), RGE(4, "sphere", central=False)], ids=repr)
def test_inside_a_program_and_over_its_arguments(estimator: Any) -> None:
    gradient = value_and_grad(lambda p, y: (smooth(p) - y) ** 2, estimator)
    alone = gradient(PARAMS, bb.key(1), 0.5)
    inside = jax.jit(gradient)(PARAMS, jnp.asarray(bb.key(1)), 0.5)
    for x, y in zip(jax.tree.leaves(inside), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)
    chunked = value_and_grad(lambda p, y: (smooth(p) - y) ** 2, estimator, chunk=3)(PARAMS, bb.key(1), 0.5)
    np.testing.assert_allclose(flat(chunked[1]), flat(alone[1]), rtol=1e-3, atol=1e-4)
    assert gradient.evaluations(PARAMS) == estimator.evaluations(PARAMS)


def test_a_model_with_bfloat16_weights_and_frozen_leaves() -> None:
    params = {"w": jnp.ones((3, 3), jnp.bfloat16), "b": jnp.zeros(3), "frozen": {"w": jnp.ones(3)}}

    def f(p: Any) -> Any:
        return jnp.sum(p["w"] @ p["b"].astype(jnp.bfloat16)) + jnp.sum(p["b"] ** 2 + p["b"]) + jnp.sum(p["frozen"]["w"])

    value, g = value_and_grad(f, CGE(frozen=["frozen/*"]))(params, bb.key(0))
    assert not np.any(g["frozen"]["w"]) and g["w"].dtype == jnp.float32 and math.isfinite(value)
    np.testing.assert_allclose(g["b"], 4.0, atol=0.1)
    assert not np.any(RGE(1, frozen=("frozen/*",)).ask(params, bb.key(0)).noise(0)["frozen"]["w"])


@pytest.mark.parametrize(("size", "central"), [(0.05, False), (1.0, True)])
def test_directions_of_half_precision_weights_show_the_gradient(size: float, central: bool) -> None:
    w = jnp.asarray(RNG.normal(size=64) * size, jnp.bfloat16)
    curvature = jnp.linspace(1, 3, 64)

    def bowl(p: Any) -> Any:
        x = jax.lax.reduce_precision(p["w"].astype(jnp.float32), 8, 7)  # so that XLA does round
        return jnp.sum(curvature * x * x)

    found = np.asarray(value_and_grad(bowl, RGE(512, central=central))({"w": w}, bb.key(0))[1]["w"], float)
    truth = 2 * np.asarray(curvature * w, float)
    assert found @ truth > 0.9 * np.linalg.norm(found) * np.linalg.norm(truth)  # (1 + 63 / 512)^-1/2 = 0.94 at best


def test_not_all_directions_are_in_memory_at_once() -> None:
    params, key = {"w": jax.ShapeDtypeStruct((2**20,), jnp.float32)}, jax.ShapeDtypeStruct((2,), jnp.uint32)
    program = jax.jit(value_and_grad(lambda p: jnp.sum(p["w"]), RGE(64)))  # which by itself takes no memory
    memory: Any = program.lower(params, key).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 64 * 2**20  # of 4 MiB each direction takes, and its members as much


def test_bad_arguments() -> None:
    for make, message in (
        (lambda: CGE(mu=0), "mu must be a number from 1e-35 to 1e35, or None, got 0"),
        (lambda: CGE(mu="a"), "mu must be a number from 1e-35 to 1e35, or None, got 'a'"),
        (lambda: RGE(4, central=None), "central must be True or False, got None"),
        (lambda: RGE(0), "queries must be an integer >= 1, got 0"),
        (lambda: RGE(4, "cauchy"), "distribution must be one of normal, .*; got 'cauchy'"),
        (lambda: RGE(4, frozen="*"), "frozen must be a sequence of patterns"),
        (lambda: DeepZero(1.5), "density must be a finite number and > 0 and <= 1, got 1.5"),
        (lambda: DeepZero({"a": 2}), "density of a must be"),
        (lambda: DeepZero({"a": 0.5}).ask(PARAMS, bb.key(0)), r"density must have one for each leaf .*'b', 'c'"),
        (lambda: CGE(queries=2).ask(PARAMS, bb.key(0)), "queries must be at least 3, one for each array"),
        (lambda: RGE(4, frozen=("z",)).ask(PARAMS, bb.key(0)), "match no leaf"),
        (lambda: RGE(4).ask(PARAMS, bb.key(0), 0, 3), "first must be a multiple of the 8 members"),
        (lambda: RGE(4).ask(PARAMS, 3), "key must be two uint32 words"),
        (lambda: value_and_grad(linear, RGE), "estimator must be one of"),
    ):  # fmt: skip
        with pytest.raises(bb.SettingError, match=message):
            make()
    with pytest.raises(
        bb.TellError, match="fitness must be of all members at once, 8 real numbers, got float32 of shape"
    ):
        RGE(4).estimate(RGE(4).ask(PARAMS, bb.key(0)), jnp.ones(3))


def test_a_penalty_along_one_coordinate_leaves_the_others() -> None:
    params = {"x": jnp.arange(4.0)}
    for central in (True, False):
        estimator = CGE(0.5, central=central)
        population = estimator.ask(params, bb.key(0))
        fitness = bb.evaluate(lambda p: jnp.sum(jnp.asarray([1.0, 2.0, 3.0, 4.0]) * p["x"]), population)
        gradient = estimator.estimate(population, fitness.at[0].set(1e9)).gradient["x"]
        np.testing.assert_allclose(gradient[1:], [2, 3, 4], rtol=1e-5)


@pytest.mark.parametrize("estimator", [CGE(0.1), RGE(3, mu=0.1), DeepZero(0.5, mu=0.1)], ids=repr)
def test_leaves_that_are_no_arrays(estimator: Any) -> None:
    """Functions and strings pass; numbers of Python are trained as JAX's gradients have it, inside programs and out."""
    params = {"w": jnp.ones(3), "activation": jnp.tanh, "b": 5.0, "mask": jnp.array([True, False])}

    def f(p: Any) -> Any:
        return jnp.sum(p["activation"](p["w"])) + 3 * p["b"]

    value, gradient = value_and_grad(f, estimator)(params, bb.key(0))
    assert gradient["activation"] is None and not np.any(gradient["mask"]) and math.isfinite(value)
    arrays = {k: v for k, v in params.items() if k != "activation"}
    inside = jax.jit(lambda p: value_and_grad(f, estimator)({**p, "activation": jnp.tanh}, bb.key(0))[1])(arrays)
    for name in ("w", "b"):
        np.testing.assert_allclose(inside[name], gradient[name], rtol=1e-4, atol=1e-5)
    if isinstance(estimator, CGE):
        assert float(gradient["b"]) == pytest.approx(3, rel=1e-3)
    strategy = ZO(estimator, optax.sgd(0.1))
    state = strategy.init(bb.key(0), params)
    population = strategy.ask(state)
    moved = strategy.tell(state, population, bb.evaluate(f, population))
    assert moved.params["b"] == 5.0 and moved.params["activation"] is jnp.tanh  # there they are constants
    assert not np.array_equal(moved.params["w"], params["w"])


def test_losses_that_are_no_numbers_are_named() -> None:
    for f in (lambda p: p["a"], lambda p: (jnp.sum(p["a"]), 1)):
        with pytest.raises(bb.SettingError, match="f must return one real number, got"):
            value_and_grad(f, RGE(4))(PARAMS, bb.key(0))
