"""FedCBO: the written round, whom agents choose, and consensus of hidden groups."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.cbo import FedCBO

D = 4


def told(strategy: FedCBO, state: Any, targets: np.ndarray) -> Any:
    """A round in which the loss of an agent is the squared distance from its target."""
    population = strategy.ask(state)
    return strategy.tell(state, population, ((population - targets[..., :, None, :]) ** 2).sum(axis=-1))


def test_a_round_is_the_written_one() -> None:
    strategy = FedCBO(agents=7, peers=3, drift=0.6, alpha=2.0)
    targets = np.random.default_rng(0).normal(size=(7, D))
    state = strategy.init(bb.key(0), np.zeros(D))
    for _ in range(4):
        models, gain, peers = state.models.copy(), state.gain.copy(), strategy.peers_of(state)
        for i in range(7):
            loss = [np.sum((model - targets[i]) ** 2) for model in state.models]
            masses = [np.exp(-2.0 * loss[j]) for j in peers[i, 1:]]
            mean = sum(m * state.models[j] for m, j in zip(masses, peers[i, 1:], strict=True)) / sum(masses)
            models[i] -= 0.6 * (models[i] - mean)
            for j in peers[i, 1:]:
                gain[i, j] += loss[i] - loss[j]
        state = told(strategy, state, targets)
        assert np.allclose(state.models, models, rtol=0, atol=1e-12)
        assert np.allclose(state.gain, gain, rtol=0, atol=1e-12)


def test_peers_are_others_once_each_at_random_or_the_best_known() -> None:
    strategy = FedCBO(agents=30, peers=10, epsilon=0.5, epsilon_decay=0.1, epsilon_least=0.3)
    state = strategy.init(bb.key(0), np.zeros(D))
    gain = np.random.default_rng(0).normal(size=(30, 30))
    best = np.argsort(-np.where(np.eye(30, dtype=bool), -np.inf, gain), axis=1)
    for generation, random in ((0, 10), (1, 4), (2, 3), (50, 3)):
        peers = strategy.peers_of(state._replace(gain=gain, generation=np.int64(generation)))
        assert np.array_equal(peers[:, 0], np.arange(30))
        for i in range(30):
            assert len(set(peers[i].tolist())) == 11
            assert set(best[i, : 10 - random].tolist()) <= set(peers[i, 1:].tolist())  # the drawn ones besides
    counts = np.zeros(30)
    for seed in range(200):  # all are drawn in the first round, each as often
        counts += np.bincount(strategy.peers_of(strategy.init(bb.key(seed), np.zeros(1)))[0, 1:], minlength=30)
    assert counts[0] == 0
    assert np.allclose(counts[1:] / 200, 10 / 29, atol=0.15)


def test_hidden_groups_reach_a_consensus_each_where_averaging_serves_none() -> None:
    """Twenty agents, two groups of targets; a step of gradient descent between rounds."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        group = rng.permutation(np.arange(20) % 2)
        targets = np.where(group[:, None] == 0, 1.0, -1.0) + 0.1 * rng.normal(size=(20, D))
        minima = np.stack([targets[group == g].mean(axis=0) for g in (0, 1)])
        strategy = FedCBO(agents=20, peers=6, sigma0=1.0)
        state = strategy.init(bb.key(seed), np.zeros(D))
        averaged = state.models
        for _ in range(30):
            state = strategy.update(state, state.models - 0.2 * (state.models - targets))
            state = told(strategy, state, targets)
            averaged = np.broadcast_to((averaged - 0.2 * (averaged - targets)).mean(axis=0), averaged.shape)
        models = strategy.recommend(state)
        within = max(models[group == g].std(axis=0).max() for g in (0, 1))
        assert within < 0.15
        assert np.linalg.norm(models - minima[group], axis=1).max() < 0.3
        assert np.linalg.norm(averaged - minima[group], axis=1).min() > 1.5
        same = group[strategy.peers_of(state)[:, 1:]] == group[:, None]
        assert same.mean() > 0.8


def test_failed_evaluations_neither_move_agents_nor_spoil_what_they_know() -> None:
    strategy = FedCBO(agents=6, peers=2)
    state = strategy.init(bb.key(0), np.zeros(D))
    population = strategy.ask(state)
    failed = strategy.tell(state, population, np.full((6, 3), np.nan))
    assert np.array_equal(failed.models, state.models)
    assert np.array_equal(failed.gain, state.gain)
    loss = np.ones((6, 3))
    loss[0], loss[1], loss[2] = [1.0, np.inf, 0.5], [np.nan, 2.0, 3.0], [1.0, -np.inf, 1.0]
    with np.errstate(over="ignore"):
        mixed = strategy.tell(state, population, loss)
    assert np.isfinite(mixed.models).all()
    assert np.isfinite(mixed.gain).all()
    assert np.allclose(mixed.models[0], 0.02 * state.models[0] + 0.98 * population[0, 2])


def test_libraries_and_leading_axes_agree() -> None:
    import array_api_strict

    strategy = FedCBO(agents=8, peers=3)
    targets = np.random.default_rng(0).normal(size=(8, D))
    states = [told(strategy, strategy.init(bb.key(seed), np.full(D, 1.0 * seed)), targets) for seed in range(3)]
    after = [told(strategy, state, targets) for state in states]
    many = type(states[0])(*(np.stack(leaves) for leaves in zip(*states, strict=True)))
    for leaf, own in zip(told(strategy, many, targets), zip(*after, strict=True), strict=True):
        assert np.array_equal(leaf, np.stack(own))
    strict = type(states[0])(*(array_api_strict.asarray(np.asarray(leaf)) for leaf in states[1]))
    population = strategy.ask(strict)
    loss = ((np.asarray(population) - targets[:, None, :]) ** 2).sum(axis=-1)
    strict = strategy.tell(strict, population, array_api_strict.asarray(loss))
    assert all(np.array_equal(np.asarray(a), b) for a, b in zip(strict, after[1], strict=True))

    def rounds(state: Any) -> Any:
        def one(state: Any, _: None) -> Any:
            population = strategy.ask(state)
            return strategy.tell(state, population, jnp.sum((population - targets[:, None, :]) ** 2, axis=-1)), None

        return jax.lax.scan(one, state, None, length=1)[0]

    traced = jax.jit(rounds)(type(states[1])(*(jnp.asarray(leaf) for leaf in states[1])))
    assert np.allclose(traced.models, after[1].models, rtol=1e-5, atol=1e-5)


def test_arguments_are_checked() -> None:
    for setting in (
        {"agents": 1},
        {"peers": 0},
        {"peers": 100},
        {"drift": 0.0},
        {"epsilon": 1.5},
        {"alpha": -1.0},
    ):
        with pytest.raises(bb.SettingError, match=f"^{next(iter(setting))} must be"):
            FedCBO(**setting)  # type: ignore[arg-type]
    strategy = FedCBO(agents=4, peers=2)
    state = strategy.init(bb.key(0), np.zeros(D))
    with pytest.raises(bb.TellError, match=r"models must be float64 of shape \(4, 4\); got float64 of shape \(4, 3\)"):
        strategy.update(state, np.zeros((4, 3)))
    with pytest.raises(bb.TellError, match="population must be models of shape"):
        strategy.tell(state, np.zeros((4, 2, D)), np.zeros((4, 2)))
    with pytest.raises(bb.TellError, match="fitness must be"):
        strategy.tell(state, strategy.ask(state), np.zeros(4))
