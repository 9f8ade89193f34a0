"""Guided ES: covariance of the directions, the estimate against the paper's formula, what surrogates are worth."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox import testing
from blackbox.testing.virtual import check_further_members, check_jit_and_scan, check_total_on_fitness, parameters
from blackbox.zo.guided import GuidedES

SHAPES = {"a": (2, 3), "b": (5,), "c": ()}
D = 12


def tree(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def flat(value: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(value)[0])


@partial(jax.jit, static_argnums=(1, 2))
def drawn(source: Any, weights: Any, count: int) -> jax.Array:
    return jnp.concatenate([part.reshape(count, -1) for part in source.drawn(weights, jnp.arange(count))], axis=1)


def directions(strategy: GuidedES, state: Any, count: int = 20_000) -> np.ndarray:
    population = strategy.ask(state)
    return np.asarray(drawn(population.source, population.structure.weights, count))


def covariance(alpha: float, *surrogates: Any) -> np.ndarray:
    if not surrogates:
        return np.eye(D) / D
    basis = np.linalg.qr(np.stack([flat(s) for s in surrogates], axis=1))[0]
    return alpha / D * np.eye(D) + (1 - alpha) / len(surrogates) * basis @ basis.T


def assert_covariance(found: np.ndarray, expected: np.ndarray) -> None:
    error = np.abs(found.T @ found / len(found) - expected)
    deviation = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / len(found))
    assert np.all(error < 5 * deviation), np.max(error / deviation)
    assert_allclose(np.mean(np.sum(found**2, axis=1)), 1, rtol=0.02)


@pytest.mark.parametrize("alpha", [0.5, 0.0])
def test_directions_have_the_covariance_of_the_paper(alpha: float) -> None:
    strategy = GuidedES(optax.sgd(0.1), k=4, alpha=alpha)
    state = strategy.init(bb.key(0), tree(0))
    assert_covariance(directions(strategy, state), covariance(alpha))
    for seed in (1, 2, 3, 4, 5):  # the first of them is forgotten
        state = strategy.guide(state, jax.tree.map(lambda x, c=10.0**seed: c * x, tree(seed)))
        if seed == 1:
            assert_covariance(directions(strategy, state), covariance(alpha, tree(1)))
    assert_covariance(directions(strategy, state), covariance(alpha, *map(tree, (5, 4, 3, 2))))


def test_dependent_surrogates_count_once() -> None:
    strategy = GuidedES(optax.sgd(0.1), k=4, alpha=0.2)
    state = strategy.init(bb.key(0), tree(0))
    for surrogate in (tree(1), tree(2), jax.tree.map(lambda x: -3 * x, tree(2)), tree(1)):
        state = strategy.guide(state, surrogate)
    assert_covariance(directions(strategy, state), covariance(0.2, tree(1), tree(2)))


def test_more_surrogates_than_dimensions_span_them() -> None:
    strategy = GuidedES(optax.sgd(0.1), k=5, alpha=0.5)
    state = strategy.init(bb.key(0), {"x": jnp.zeros(2)})
    for seed in range(5):
        state = strategy.guide(state, {"x": jnp.asarray(np.random.default_rng(seed).normal(size=2))})
    found = directions(strategy, state)
    assert_allclose(found.T @ found / len(found), np.eye(2) / 2, atol=0.02)


@pytest.mark.parametrize("nothing", [0.0, np.nan, np.inf])
def test_a_surrogate_that_says_nothing_is_not_kept(nothing: float) -> None:
    strategy = GuidedES(optax.sgd(0.1), k=2)
    state = strategy.guide(strategy.init(bb.key(0), tree(0)), tree(1))
    after = strategy.guide(state, jax.tree.map(lambda x: x * nothing, tree(2)))
    for x, y in zip(state.surrogates, after.surrogates, strict=True):
        assert_array_equal(x, y)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_length_of_a_surrogate_does_not_matter(scale: float) -> None:
    strategy = GuidedES(optax.sgd(0.1))
    state = strategy.init(bb.key(0), tree(0))
    one, other = (strategy.guide(state, jax.tree.map(lambda x, c=c: c * x, tree(1))) for c in (1.0, scale))
    for x, y in zip(one.surrogates, other.surrogates, strict=True):
        assert_allclose(x, y, rtol=1e-5)


def value(x: np.ndarray) -> np.ndarray:
    return (x * x) @ np.arange(1.0, D + 1) + np.sin(3 * x.sum(axis=-1))


def test_a_step_is_that_of_the_paper_without_pairs_that_failed() -> None:
    failed, sigma, beta, pairs, lr = 1, 0.2, 1.5, 3, 0.1
    strategy = GuidedES(optax.sgd(lr), queries=pairs, k=2, sigma=sigma, beta=beta)
    state = strategy.guide(strategy.init(bb.key(1), tree(0)), tree(1))
    population = strategy.ask(state)
    steps = np.stack([flat(population.noise(i)) for i in range(2 * pairs)])
    fitness = value(flat(tree(0)) + steps)
    g, used = np.zeros(D), 0
    for i in range(pairs):
        if i == failed // 2:
            continue
        eps = steps[2 * i]
        assert_allclose(steps[2 * i + 1], -eps, rtol=1e-6)
        g += eps * (fitness[2 * i] - fitness[2 * i + 1])
        used += 1
    g *= beta / (2 * sigma**2 * used)
    fitness[failed] = np.nan
    told = strategy.tell(state, population, jnp.asarray(fitness, jnp.float32))
    assert_allclose(flat(told.params), flat(tree(0)) - lr * g, rtol=1e-4, atol=1e-5)


def test_estimates_of_a_linear_function_have_the_mean_of_the_paper() -> None:
    strategy = GuidedES(optax.sgd(1.0), queries=2000, k=2, beta=2.0, alpha=0.5)
    slope = flat(tree(5))
    state = strategy.guide(strategy.init(bb.key(2), tree(0)), tree(1))
    difference = 0.1 * directions(strategy, state, 2000) @ slope
    fitness = jnp.asarray(np.stack([difference, -difference], axis=1).ravel())
    step = flat(tree(0)) - flat(strategy.tell(state, strategy.ask(state), fitness).params)
    expected = 2.0 * covariance(0.5, tree(1)) @ slope
    assert np.linalg.norm(step - expected) < 0.15 * np.linalg.norm(expected)


def test_a_perfect_surrogate_beats_random_directions_by_far() -> None:
    """A quadratic of 200 dimensions, 40 steps of one pair, at the best constant rates of both."""
    start = {"x": jnp.asarray(np.random.default_rng(0).normal(size=200), jnp.float32)}

    def loss(params: Any) -> jax.Array:
        return 0.5 * jnp.sum(params["x"] ** 2)

    @jax.jit
    def run(strategy: Any) -> jax.Array:
        def generation(state: Any, _: None) -> tuple[Any, None]:
            state = strategy.guide(state, state.params)
            population = strategy.ask(state)
            return strategy.tell(state, population, bb.evaluate(loss, population)), None

        state = jax.lax.scan(generation, strategy.init(bb.key(3), start), None, length=40)[0]
        return loss(strategy.recommend(state)) / loss(start)

    guided = run(GuidedES(optax.sgd(0.5)))
    # Without guidance this is RGE's normal directions, at a learning rate of 1 / (d + 2).
    plain = run(GuidedES(optax.sgd(0.5), alpha=1.0, beta=2 * 200 / 202))
    assert guided < 1e-4, guided
    assert 0.85 < plain < 1, plain


def test_estimates_are_reused() -> None:
    strategy = GuidedES(optax.sgd(0.1), queries=3, k=2, reuse=True)
    state = strategy.init(bb.key(4), tree(0))
    population, fitness = strategy.ask(state), jnp.arange(6.0) ** 2
    told = strategy.tell(state, population, fitness)
    step = flat(tree(0)) - flat(told.params)
    kept = np.concatenate([np.asarray(part[0]).ravel() for part in told.surrogates])
    assert_allclose(kept, step / np.linalg.norm(step), rtol=1e-3, atol=1e-4)
    plain = GuidedES(optax.sgd(0.1), queries=3, k=2)
    assert not any(np.any(part) for part in plain.tell(state, population, fitness).surrogates)


def test_what_is_frozen_has_no_part() -> None:
    strategy = GuidedES(optax.sgd(0.1), frozen=("b",))
    state = strategy.guide(strategy.init(bb.key(5), tree(0)), tree(1))
    assert [part.shape for part in state.surrogates] == [(1, 2, 3), (1,)]
    member = strategy.ask(state)[0]
    assert_array_equal(member["b"], tree(0)["b"])
    assert np.any(member["a"] != tree(0)["a"])


CHECKS = (check_further_members, check_jit_and_scan, check_total_on_fitness)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
def test_laws_of_virtual_strategies_hold(check: testing.VirtualCheck) -> None:
    check(GuidedES(optax.sgd(0.2), queries=4, k=2, beta=100.0, reuse=True), parameters())


def test_bad_arguments_are_named() -> None:
    for settings, message in (
        ({"queries": 0}, "queries must be an integer >= 1, got 0"),
        ({"k": None}, "k must be .*None"),
        ({"alpha": 1.5}, "alpha must be a finite number and >= 0 and <= 1, got 1.5"),
        ({"sigma": 0.0}, "sigma must be a finite number and > 0, got 0.0"),
        ({"frozen": "b"}, "frozen must be a sequence of patterns"),
    ):
        with pytest.raises(bb.SettingError, match=message):
            GuidedES(optax.sgd(0.1), **settings)
    with pytest.raises(bb.SettingError, match="optimizer must be one of optax's"):
        GuidedES(0.1)
    strategy = GuidedES(optax.sgd(0.1))
    state = strategy.init(bb.key(0), tree(0))
    with pytest.raises(bb.TellError, match="surrogate must be a tree like the parameters"):
        strategy.guide(state, [1.0])
    with pytest.raises(bb.TellError, match=r"surrogate must be real and of shape \(5,\) at b; got"):
        strategy.guide(state, {**tree(0), "b": jnp.zeros(4)})
    with pytest.raises(bb.TellError, match="fitness must be of all members at once, 2 real numbers"):
        strategy.tell(state, strategy.ask(state).take(jnp.array([0])), jnp.zeros(1))
    with pytest.raises(bb.SettingError, match="first must be a multiple of the 2 members"):
        strategy.ask(state, first=1)
