"""ZO-SVRG on the finite sum of a logistic regression: its mean, its variance, its formula."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.kernels.noise import fold_many
from blackbox.zo.cge import CGE
from blackbox.zo.gradient import value_and_grad
from blackbox.zo.rge import RGE
from blackbox.zo.svrg import Anchor, anchored, variance_reduced

pytestmark = pytest.mark.usefixtures("double_precision")

N, D, BATCH = 60, 5, 6
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, D)), np.sign(RNG.normal(size=N))
NEAR, FAR = RNG.normal(size=D), RNG.normal(size=D)
PARAMS = {"w": FAR, "epoch": np.arange(2)}
MU = 1e-4


@pytest.fixture(scope="module", autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean(jnp.log1p(jnp.exp(-y * (x @ params["w"]))))


def with_weights(w: np.ndarray) -> dict[str, jax.Array]:
    return {"w": jnp.asarray(w), "epoch": jnp.arange(2)}


def values(w: np.ndarray, rows: np.ndarray) -> float:
    return float(np.mean(np.log1p(np.exp(-Y[rows] * (X[rows] @ w)))))


def batches(count: int) -> np.ndarray:
    """Without replacement, so that all data are met equally often."""
    rng = np.random.default_rng(1)
    return np.concatenate([rng.permutation(N).reshape(-1, BATCH) for _ in range(count * BATCH // N)])


def many(estimator: Any, w: np.ndarray, anchor: Anchor | None, count: int) -> np.ndarray:
    """Estimates on different batches with different keys."""
    reduced, plain = variance_reduced(loss, estimator), value_and_grad(loss, estimator)
    rows, keys = batches(count), jnp.asarray(fold_many(bb.key(1), count))

    def one(key: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        if anchor is None:
            return plain(with_weights(w), key, x, y)[1]["w"]
        return reduced(with_weights(w), anchor, key, x, y)[1]["w"]

    return np.asarray(jax.jit(jax.vmap(one))(keys, jnp.asarray(X[rows]), jnp.asarray(Y[rows])))


def test_it_is_unbiased_and_varies_less_near_the_anchor() -> None:
    estimator = RGE(queries=2, mu=MU)
    anchor = anchored(loss, CGE(mu=MU))(with_weights(FAR), bb.key(2), X, Y)
    assert_allclose(anchor.gradient["w"], jax.grad(loss, allow_int=True)(with_weights(FAR), X, Y)["w"], atol=1e-6)
    spread = {}
    for part in (1.0, 0.1, 0.0):
        w = FAR + part * (NEAR - FAR)
        exact = np.asarray(jax.grad(loss, allow_int=True)(with_weights(w), X, Y)["w"])
        found = many(estimator, w, anchor, 2000)
        spread[part] = np.sum(np.var(found, axis=0))
        error = np.abs(np.mean(found, axis=0) - exact)
        assert np.all(error < 4 * np.std(found, axis=0) / 2000**0.5 + 1e-6), (part, error)
    plain = np.sum(np.var(many(estimator, FAR + 0.1 * (NEAR - FAR), None, 2000), axis=0))
    assert spread[0.1] < 0.02 * plain, (spread, plain)
    assert spread[0.1] < 0.05 * spread[1.0]
    assert spread[0.0] < 1e-12  # at the anchor nothing is left that varies


@pytest.mark.parametrize("central", [True, False])
def test_it_is_the_formula_written_out(central: bool) -> None:
    estimator = RGE(queries=3, mu=MU, central=central)
    anchor = anchored(loss, estimator)(with_weights(FAR), bb.key(3), X, Y)
    rows = np.arange(BATCH)
    value, gradient = variance_reduced(loss, estimator)(with_weights(NEAR), anchor, bb.key(4), X[rows], Y[rows])

    def by_hand(w: np.ndarray, key: Any, of: np.ndarray) -> np.ndarray:
        population = estimator.ask(with_weights(w), key)
        steps = [np.asarray(population.noise(i)["w"], np.float64) for i in range(len(population))]
        total = np.zeros(D)
        for k in range(3):
            u = steps[2 * k if central else k] / MU
            other = -MU if central else 0.0
            total += (values(w + MU * u, of) - values(w + other * u, of)) / (MU - other) * u / 3
        return total

    everything = np.arange(N)
    assert_allclose(anchor.gradient["w"], by_hand(FAR, bb.key(3), everything), rtol=1e-4, atol=1e-5)
    expected = by_hand(NEAR, bb.key(4), rows) - by_hand(FAR, bb.key(4), rows) + np.asarray(anchor.gradient["w"])
    assert_allclose(gradient["w"], expected, rtol=1e-4, atol=1e-5)
    assert_allclose(value, values(NEAR, rows), rtol=1e-6)
    assert_array_equal(gradient["epoch"], [0, 0])


def test_evaluations_are_counted() -> None:
    for estimator, alone in ((RGE(queries=3), 6), (RGE(queries=3, central=False), 4), (CGE(), 2 * D)):
        params = with_weights(NEAR)
        assert anchored(loss, estimator).evaluations(params) == alone
        assert variance_reduced(loss, estimator).evaluations(params) == 2 * alone


def test_a_query_that_fails_at_the_anchor_counts_at_neither() -> None:
    """Were it left out of one term alone, the other would no longer be its control variate."""
    estimator = CGE(mu=0.5)

    def fails(params: Any) -> jax.Array:
        w = params["w"]
        return jnp.where(w[0] > 1.2, jnp.nan, jnp.sum(w * jnp.arange(1.0, 4)))

    def at(first: float) -> dict[str, jax.Array]:
        return {"w": jnp.array([first, 0.0, 0.0])}

    anchor = Anchor(at(1.0), jnp.zeros(()), {"w": jnp.array([10.0, 20.0, 30.0])})
    _, gradient = variance_reduced(fails, estimator)(at(0.0), anchor, bb.key(0))
    assert_allclose(gradient["w"], [10.0, 20.0, 30.0], atol=1e-5)
    failed = Anchor(at(9.0), jnp.zeros(()), anchor.gradient)
    _, gradient = variance_reduced(fails, estimator)(at(0.0), failed, bb.key(0))
    assert_array_equal(gradient["w"], anchor.gradient["w"])


def test_bad_arguments_are_named() -> None:
    for make in (anchored, variance_reduced):
        with pytest.raises(bb.SettingError, match=r"estimator must be one of bb\.zo's"):
            make(loss, 3)
    anchor = anchored(loss, CGE())(with_weights(FAR), bb.key(0), X, Y)
    with pytest.raises(bb.TellError, match="anchor must be of parameters like params"):
        variance_reduced(loss, CGE())([jnp.ones(3)], anchor, bb.key(0), X, Y)
