"""CMA-ES: agreement with pycma and cmaes, invariances, convergence, restarts' reasons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.es.cma_es import CMAES, constants

cma = pytest.importorskip("cma")

Function = Callable[[np.ndarray], np.ndarray]


def ellipsoid(x: np.ndarray) -> np.ndarray:
    return (x**2) @ 10.0 ** (6 * np.arange(x.shape[1]) / (x.shape[1] - 1))


def rosenbrock(x: np.ndarray) -> np.ndarray:
    return np.sum(100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2, axis=1)


def trajectory(f: Function, x0: np.ndarray, generations: int, strategy: Any = None, seed: int = 3) -> list[Any]:
    strategy = strategy or CMAES(sigma0=0.5)
    states = [strategy.init(bb.key(seed), x0)]
    for _ in range(generations):
        population = strategy.ask(states[-1])
        states.append(strategy.tell(states[-1], population, f(population)))
    return states


@pytest.mark.parametrize("d", [2, 5, 10, 40])
def test_constants_are_those_of_pycma(d: int) -> None:
    peer = cma.CMAEvolutionStrategy(np.zeros(d), 1, {"verbose": -9})
    ours = constants(peer.popsize, d)
    assert_allclose(ours.positive + ours.negative, peer.sp.weights, rtol=1e-12)
    assert_allclose([ours.c_1, ours.c_mu, ours.c_c], [peer.sp.c1, peer.sp.cmu, peer.sp.cc], rtol=1e-12)


def test_one_update_is_the_tutorial_s() -> None:
    """Against a plain transcription of equations (41)-(47) with the inverse square root formed explicitly."""
    d = 5
    f: Function = rosenbrock
    state = trajectory(f, np.zeros(d), 8)[-1]
    strategy = CMAES(sigma0=0.5)
    population = strategy.ask(state)
    fitness = f(population)
    c = constants(len(population), d)
    assert state.generation % c.decompose_every == 0  # B and D are those of this C
    w = c.positive + c.negative
    y = ((population - state.mean) / state.sigma)[np.argsort(fitness)]
    values, vectors = np.linalg.eigh(state.C)
    whiten = vectors @ np.diag(values**-0.5) @ vectors.T
    step = sum(w[i] * y[i] for i in range(len(y)) if w[i] > 0)
    p_sigma = (1 - c.c_sigma) * state.p_sigma + np.sqrt(c.c_sigma * (2 - c.c_sigma) * c.mu_eff) * whiten @ step
    norm = np.linalg.norm(p_sigma)
    h = float(norm / np.sqrt(1 - (1 - c.c_sigma) ** (2 * (state.generation + 1))) < (1.4 + 2 / (d + 1)) * c.chi)
    p_c = (1 - c.c_c) * state.p_c + h * np.sqrt(c.c_c * (2 - c.c_c) * c.mu_eff) * step
    rank_mu = sum(
        (w[i] if w[i] >= 0 else w[i] * d / np.linalg.norm(whiten @ y[i]) ** 2) * np.outer(y[i], y[i])
        for i in range(len(y))
    )
    keep = 1 + c.c_1 * (1 - h) * c.c_c * (2 - c.c_c) - c.c_1 - c.c_mu * w.sum()
    told = strategy.tell(state, population, fitness)
    assert_allclose(told.mean, state.mean + state.sigma * step, rtol=1e-10)
    assert_allclose(told.p_sigma, p_sigma, rtol=1e-9)
    assert_allclose(told.p_c, p_c, rtol=1e-10)
    assert_allclose(told.C, keep * state.C + c.c_1 * np.outer(p_c, p_c) + c.c_mu * rank_mu, rtol=1e-9, atol=1e-12)
    assert_allclose(told.sigma, state.sigma * np.exp(c.c_sigma / c.d_sigma * (norm / c.chi - 1)), rtol=1e-10)


def test_translation() -> None:
    shift = np.array([3.0, -2.0, 10.0, 0.5])
    plain = trajectory(ellipsoid, np.zeros(4) + 1, 30)
    moved = trajectory(lambda x: ellipsoid(x - shift), shift + 1, 30)
    assert_allclose(moved[-1].mean - shift, plain[-1].mean, rtol=1e-5, atol=1e-9)


def test_scale() -> None:
    plain = trajectory(rosenbrock, np.zeros(4), 30, CMAES(sigma0=0.5))
    scaled = trajectory(lambda x: rosenbrock(x / 1024), np.zeros(4), 30, CMAES(sigma0=512.0))
    assert_array_equal(scaled[-1].mean / 1024, plain[-1].mean)  # powers of two: exact
    assert scaled[-1].sigma / 1024 == plain[-1].sigma


def test_rotation() -> None:
    """The update commutes with rotations: fed rotated populations, state and statistics rotate along."""
    d = 6
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    strategy = CMAES(sigma0=0.5)
    plain = strategy.init(bb.key(0), np.ones(d))
    rotated = strategy.init(bb.key(0), rotation @ np.ones(d))
    for _ in range(30):
        population = strategy.ask(plain)
        fitness = ellipsoid(population)
        plain = strategy.tell(plain, population, fitness)
        rotated = strategy.tell(rotated, population @ rotation.T, fitness)
    assert_allclose(rotated.mean, rotation @ plain.mean, rtol=1e-7, atol=1e-9)
    assert_allclose(rotated.C, rotation @ plain.C @ rotation.T, rtol=1e-6, atol=1e-9)
    assert_allclose(rotated.sigma, plain.sigma, rtol=1e-8)


@pytest.mark.parametrize("transform", [np.log1p, lambda f: f**3, lambda f: -1 / (1 + f)], ids=["log", "cube", "odds"])
def test_monotone_transforms_of_fitness_change_nothing(transform: Function) -> None:
    plain = trajectory(rosenbrock, np.zeros(4), 25)
    other = trajectory(lambda x: transform(rosenbrock(x)), np.zeros(4), 25)
    assert_array_equal(other[-1].mean, plain[-1].mean)
    assert_array_equal(other[-1].C, plain[-1].C)


def test_covariance_approaches_the_inverse_hessian() -> None:
    state = trajectory(ellipsoid, np.ones(6), 900)[-1]
    scales = np.diag(state.C) * 10.0 ** (6 * np.arange(6) / 5)
    assert np.ptp(np.log10(scales)) < 1.0
    assert ellipsoid(state.mean[None])[0] < 1e-30


@pytest.mark.parametrize(
    ("f", "x0", "d"), [(ellipsoid, 1.0, 10), (rosenbrock, 0.0, 8)], ids=["ellipsoid", "rosenbrock"]
)
def test_needs_no_more_evaluations_than_pycma(f: Function, x0: float, d: int) -> None:
    def ours(seed: int) -> int:
        strategy = CMAES(sigma0=0.5)
        state, count = strategy.init(bb.key(seed), np.full(d, x0)), 0
        while True:
            population = strategy.ask(state)
            fitness = f(population)
            count += len(population)
            if fitness.min() < 1e-8:
                return count
            state = strategy.tell(state, population, fitness)

    def theirs(seed: int) -> int:
        options = {"verbose": -9, "seed": seed + 1, "ftarget": 1e-8, "maxfevals": 20_000}
        peer = cma.CMAEvolutionStrategy(np.full(d, x0), 0.5, options)
        while not peer.stop():
            population = np.array(peer.ask())
            peer.tell(list(population), f(population).tolist())
        return int(peer.countevals)

    runs = range(7)
    assert np.median([ours(s) for s in runs]) < 1.1 * np.median([theirs(s) for s in runs])


def test_stops_on_a_flat_function_and_at_convergence() -> None:
    strategy = CMAES(sigma0=0.5)
    flat = trajectory(lambda x: np.zeros(len(x)), np.zeros(4), 200)[-1]
    assert strategy.stop(flat)["tolfun"]
    start = strategy.init(bb.key(0), np.zeros(4))
    assert not any(strategy.stop(start).values())
    solved = trajectory(ellipsoid, np.ones(4), 1500)
    first = next(i for i, s in enumerate(solved) if any(strategy.stop(s).values()))
    assert ellipsoid(solved[first].mean[None])[0] < 1e-8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popsize": 2}, "popsize must be an integer >= 3, got 2"),
        ({"popsize": 7.0}, "popsize must be an integer >= 3, got 7.0"),
        ({"sigma0": 0.0}, "sigma0 must be a finite number and > 0, got 0.0"),
        ({"sigma0": float("nan")}, "sigma0 must be a finite number and > 0, got nan"),
        ({"sigma": 1.0}, "cma-es has no hyperparameter 'sigma'; it has popsize, sigma0; did you mean 'sigma0'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(bb.SettingError, match=message):
        bb.create("cma-es", **settings)
