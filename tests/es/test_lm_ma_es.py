"""LM-MA-ES: agreement with the paper's loops, invariances, convergence, restarts' reasons."""

from __future__ import annotations

import numpy as np
import pytest
from es_runs import Function, ellipsoid, evaluations, rosenbrock, sphere, trajectory
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.es.lm_ma_es import LMMAES, constants
from blackbox.kernels.noise import normal


def explicit_product(M: np.ndarray, c_d: np.ndarray, generation: int) -> np.ndarray:
    """P as a matrix, from lines 8-10 of algorithm 2."""
    d = M.shape[1]
    P = np.eye(d)
    for j in range(min(generation, len(M))):
        P = ((1 - c_d[j]) * np.eye(d) + c_d[j] * np.outer(M[j], M[j])) @ P
    return P


@pytest.mark.parametrize("d", [2000, 100_000])
def test_rates_are_the_paper_s_in_large_dimensions(d: int) -> None:
    popsize = 4 + int(3 * np.log(d))
    c = constants(popsize, d)
    j = np.arange(popsize)
    raw = np.log(popsize // 2 + 0.5) - np.log(np.arange(1, popsize // 2 + 1))
    assert_allclose(c.weights, raw / raw.sum(), rtol=1e-12)
    assert_allclose(c.mu_w, 1 / (c.weights**2).sum(), rtol=1e-12)
    assert_allclose(c.c_sigma, 2 * popsize / d, rtol=2 * popsize / d)
    assert_allclose(c.c_c, popsize / (4.0**j * d), rtol=1e-12)
    assert_allclose(c.c_d, 1 / (1.5**j * d), rtol=(c.mu_w + 6) / d)


@pytest.mark.parametrize("d", [1, 2, 10])
@pytest.mark.parametrize("popsize", [3, 10, 5000])
def test_rates_are_rates_in_small_dimensions(d: int, popsize: int) -> None:
    c = constants(popsize, d)
    for rates in (c.c_sigma, c.c_c, c.c_d):
        assert np.all(np.asarray(rates) > 0)
        assert np.all(np.asarray(rates) <= 1)
    assert c.c_d.max() < 1


@pytest.mark.parametrize("d", [3, 40])
def test_a_run_is_that_of_the_paper_s_loops(d: int) -> None:
    """Algorithm 2 with one rank-one map after the other and with the sampled z kept, on the same noise."""
    strategy = LMMAES(sigma0=0.5)
    states = trajectory(strategy, rosenbrock, np.zeros(d), 40)
    popsize = 4 + int(3 * np.log(d))
    c = constants(popsize, d)
    y, sigma, p_sigma, M = np.zeros(d), 0.5, np.zeros(d), np.zeros((popsize, d))
    for t, state in enumerate(states[:-1]):
        z = normal(bb.key(3), t, (popsize, d), like=y)
        steps = np.array([explicit_product(M, c.c_d, t) @ member for member in z])
        assert_allclose(strategy.ask(state), y + sigma * steps, rtol=1e-6, atol=1e-9)
        order = np.argsort(rosenbrock(y + sigma * steps))[: popsize // 2]
        wz = sum(w * z[i] for w, i in zip(c.weights, order, strict=True))
        y = y + sigma * sum(w * steps[i] for w, i in zip(c.weights, order, strict=True))
        p_sigma = (1 - c.c_sigma) * p_sigma + np.sqrt(c.mu_w * c.c_sigma * (2 - c.c_sigma)) * wz
        for j in range(popsize):
            M[j] = (1 - c.c_c[j]) * M[j] + np.sqrt(c.mu_w * c.c_c[j] * (2 - c.c_c[j])) * wz
        sigma *= np.exp(min(1, c.c_sigma / 2 * (p_sigma @ p_sigma / d - 1)))
    assert_allclose(states[-1].mean, y, rtol=1e-6, atol=1e-9)
    assert_allclose(states[-1].M, M, rtol=1e-5, atol=1e-8)
    assert_allclose(states[-1].sigma, sigma, rtol=1e-6)


def test_deviations_are_those_of_the_explicit_matrix() -> None:
    d, strategy = 12, LMMAES(sigma0=0.5)
    state = trajectory(strategy, ellipsoid, np.ones(d), 200)[-1]
    P = explicit_product(state.M, constants(11, d).c_d, int(state.generation))
    assert np.linalg.cond(P) > 2  # it has learned something
    assert_allclose(strategy.deviations(state), state.sigma * np.linalg.norm(P, axis=1), rtol=1e-10)


def test_rotation_translation_and_scale_change_nothing() -> None:
    d, shift = 6, np.arange(6.0)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    strategy = LMMAES(sigma0=0.5)
    plain, rotated = strategy.init(bb.key(0), np.ones(d)), strategy.init(bb.key(0), rotation @ np.ones(d))
    for _ in range(30):
        population = strategy.ask(plain)
        fitness = ellipsoid(population)
        plain = strategy.tell(plain, population, fitness)
        rotated = strategy.tell(rotated, population @ rotation.T, fitness)
    assert_allclose(rotated.mean, rotation @ plain.mean, rtol=1e-7, atol=1e-9)
    assert_allclose(rotated.M, plain.M @ rotation.T, rtol=1e-6, atol=1e-8)
    start = trajectory(LMMAES(sigma0=0.5), rosenbrock, np.zeros(4), 25)[-1]
    moved = trajectory(LMMAES(sigma0=0.5), lambda x: rosenbrock(x - shift[:4]), shift[:4], 25)[-1]
    assert_allclose(moved.mean - shift[:4], start.mean, rtol=1e-7, atol=1e-9)
    wider = trajectory(LMMAES(sigma0=4.0), lambda x: rosenbrock(x / 8), np.zeros(4), 25)[-1]
    assert_allclose(wider.mean / 8, start.mean, rtol=1e-10)


@pytest.mark.parametrize("transform", [np.log1p, lambda f: f**3, lambda f: -1 / (1 + f)], ids=["log", "cube", "odds"])
def test_monotone_transforms_of_fitness_change_nothing(transform: Function) -> None:
    plain = trajectory(LMMAES(), rosenbrock, np.zeros(4), 25)[-1]
    other = trajectory(LMMAES(), lambda x: transform(rosenbrock(x)), np.zeros(4), 25)[-1]
    assert_array_equal(other.mean, plain.mean)
    assert_array_equal(other.M, plain.M)


def test_told_positions_count_not_the_sampled_ones() -> None:
    """Clipped members move the state as their clipped positions say; an unclipped population is as sampled."""
    strategy = LMMAES(sigma0=0.5)
    state = trajectory(strategy, sphere, np.ones(5), 10)[-1]
    population = strategy.ask(state)
    fitness = sphere(population)
    clipped = np.minimum(population, state.mean + 0.1 * state.sigma)
    told = strategy.tell(state, clipped, fitness)
    order = np.argsort(fitness)[: len(population) // 2]
    assert_allclose(told.mean, constants(len(population), 5).weights @ clipped[order], rtol=1e-10)
    assert not np.allclose(told.p_sigma, strategy.tell(state, population, fitness).p_sigma)


@pytest.mark.parametrize(
    ("f", "x0", "d", "low", "high"),
    [(sphere, 1.0, 10, 1000, 1450), (rosenbrock, 0.0, 10, 6300, 8500), (sphere, 1.0, 40, 3900, 4900)],
)
def test_needs_the_recorded_number_of_evaluations(f: Function, x0: float, d: int, low: int, high: int) -> None:
    counts = [evaluations(LMMAES(sigma0=0.5), f, np.full(d, x0), 1e-9, seed) for seed in range(3)]
    assert low < np.median(counts) < high, counts


def test_learns_correlations() -> None:
    """A rotated cigar, whose valley separable methods cannot follow."""
    d = 10
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]

    def cigar(x: np.ndarray) -> np.ndarray:
        y = (x @ rotation) ** 2
        return y[:, 0] + 1e4 * y[:, 1:].sum(axis=1)

    ours = [evaluations(LMMAES(sigma0=0.5), cigar, np.ones(d), 1e-6, seed) for seed in range(3)]
    separable = [
        evaluations(bb.create("sep-cma-es", sigma0=0.5), cigar, np.ones(d), 1e-6, s, budget=20_000) for s in range(3)
    ]
    assert np.median(ours) < 0.6 * np.median(separable)


def test_large_populations_converge() -> None:
    """Restarts double the population; the paper's rates break down at a few times the default."""
    assert evaluations(LMMAES(popsize=160, sigma0=0.5), rosenbrock, np.zeros(10), 1e-6, 1, budget=150_000) < 150_000
