"""One step in the conventions of others, with the learning rate converted as the documentation says."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import blackbox as bb

N, SIGMA, LR = 32, 0.1, 0.7
FITNESS = np.random.default_rng(0).normal(size=N).astype(np.float32)
PARAMS = {"w": jnp.ones((24, 16)), "b": jnp.zeros(16)}


def flat(params: Any) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])


def step(rank: int | None, shaping: Any) -> tuple[np.ndarray, np.ndarray]:
    """Members as rows, and the parameters after one step of plain SGD."""
    strategy = bb.es.Eggroll(popsize=N, rank=rank, sigma=SIGMA, shaping=shaping, optimizer=optax.sgd(LR))
    state = strategy.init(bb.key(0), PARAMS)
    population = strategy.ask(state)
    told = strategy.tell(state, population, jnp.asarray(FITNESS))
    return np.stack([flat(population[i]) for i in range(N)]), flat(strategy.recommend(told))


@pytest.mark.parametrize("rank", [None, 1, 4])
def test_algorithm_1_of_the_paper(rank: int | None) -> None:
    """M + alpha / N sum_i f_i E_i for z-scores f of what is maximized; alpha = lr sigma sqrt(N)."""
    members, moved = step(rank, "z-score")
    score = -(FITNESS - FITNESS.mean()) / FITNESS.std()
    noise = (members - flat(PARAMS)) / SIGMA
    alpha = LR * SIGMA * N**0.5
    assert_allclose(moved, flat(PARAMS) + alpha / N * score @ noise, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside evosax
@pytest.mark.parametrize("rank", [None, 1])
def test_openai_es_of_evosax(rank: int | None) -> None:
    """Its gradient is the unbiased one of the smoothed objective; its learning rate is lr sigma^2 sqrt(N)."""
    evosax = pytest.importorskip("evosax.algorithms")
    members, moved = step(rank, "centered-ranks")
    start, key = jnp.asarray(flat(PARAMS)), jax.random.key(0)
    optimizer = optax.sgd(LR * SIGMA**2 * N**0.5)
    peer = evosax.Open_ES(N, start, optimizer=optimizer, std_schedule=optax.constant_schedule(SIGMA))
    params = peer.default_params
    told = peer.tell(key, jnp.asarray(members), jnp.asarray(FITNESS), peer.init(key, start, params), params)[0]
    assert_allclose(moved, told.mean, atol=1e-5)


def test_openai_es_of_ours() -> None:
    members, moved = step(None, "centered-ranks")
    strategy = bb.es.OpenES(popsize=N, sigma=SIGMA, lr=LR * SIGMA**2 * N**0.5, adam=False)
    state = strategy.init(bb.key(0), flat(PARAMS))
    assert_allclose(moved, strategy.tell(state, members, FITNESS).mean, atol=1e-5)


def test_one_pair_of_zeroth_order_descent() -> None:
    """MeZO and SPSA: -eta (F+ - F-) / (2 sigma) E with fitness as it is; z-scores of a pair are -1 and 1."""
    strategy = bb.es.Eggroll(popsize=2, sigma=SIGMA, optimizer=optax.sgd(LR))
    state = strategy.init(bb.key(0), PARAMS)
    population = strategy.ask(state)
    moved = flat(strategy.tell(state, population, jnp.asarray([1.0, -1.0])).params)
    eta = LR * SIGMA**2 * 2**0.5
    noise = (flat(population[0]) - flat(PARAMS)) / SIGMA
    assert_allclose(moved, flat(PARAMS) - eta * 2 / (2 * SIGMA) * noise, atol=1e-5)
