"""Separable CMA-ES: agreement with CMA-ES and cmaes, invariances, convergence, restarts' reasons."""

from __future__ import annotations

import numpy as np
import pytest
from es_runs import Function, ellipsoid, evaluations, rosenbrock, sphere, trajectory
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.es import cma_es
from blackbox.es.cma_es import CMAES
from blackbox.es.sep_cma_es import SepCMAES, constants


@pytest.mark.parametrize("d", [2, 5, 10, 40, 1000])
def test_learning_rates_are_those_of_cma_es_times_a_third_of_d_plus_2(d: int) -> None:
    popsize = cma_es.default_popsize(d)
    ours, full = constants(popsize, d), cma_es.constants(popsize, d)
    assert_allclose([ours.c_1, ours.c_mu], [full.c_1 * (d + 2) / 3, full.c_mu * (d + 2) / 3], rtol=1e-12)
    assert_array_equal(ours.positive, full.positive)
    assert_allclose(ours.sum_weights, ours.positive.sum() + ours.negative.sum(), rtol=1e-12)
    assert_allclose(ours.negative / ours.negative.sum(), full.negative / full.negative.sum(), rtol=1e-12)


@pytest.mark.parametrize("popsize", [3, 10, 1000, 30_000])
def test_learning_rates_stay_below_1(popsize: int) -> None:
    c = constants(popsize, 10)
    assert 0 < c.c_1 < c.c_1 + c.c_mu <= 1 + 1e-12


@pytest.mark.parametrize("d", [10, 40, 200])
def test_constants_are_near_those_of_cmaes(d: int) -> None:
    """cmaes has older formulas of the same parameters."""
    peer = pytest.importorskip("cmaes").SepCMA(mean=np.zeros(d), sigma=1.0)
    ours = constants(peer.population_size, d)
    assert_allclose(ours.c_1, peer._c1 * (d + 2) / 3, rtol=0.03)
    assert_allclose(ours.c_mu, peer._cmu, rtol=0.6)
    assert_allclose(ours.positive[: len(peer._weights)], peer._weights, atol=0.03)
    assert_allclose([ours.c_sigma, ours.d_sigma], [peer._c_sigma, peer._d_sigma], rtol=0.35)


def test_first_generation_moves_as_cma_es_does() -> None:
    """While C is the identity both methods have the same step."""
    x0 = np.zeros(7)
    ours, full = SepCMAES(sigma0=0.5), CMAES(sigma0=0.5)
    a, b = trajectory(ours, rosenbrock, x0, 1)[-1], trajectory(full, rosenbrock, x0, 1)[-1]
    assert_allclose(a.mean, b.mean, rtol=1e-12)
    assert_allclose(a.p_sigma, b.p_sigma, rtol=1e-12)
    assert_allclose(a.p_c * a.sigma, b.p_c * b.sigma, rtol=1e-12)


def test_one_update_is_the_paper_s() -> None:
    """Against a plain transcription, member by member and coordinate by coordinate."""
    d, strategy = 5, SepCMAES(sigma0=0.5)
    state = trajectory(strategy, rosenbrock, np.zeros(d), 7)[-1]
    population = strategy.ask(state)
    fitness = rosenbrock(population)
    c = constants(len(population), d)
    w = c.positive + c.negative
    z = ((population - state.mean) / (state.sigma * state.D))[np.argsort(fitness)]
    step = sum(w[i] * z[i] for i in range(len(z)) if w[i] > 0)
    p_sigma = (1 - c.c_sigma) * state.p_sigma + np.sqrt(c.c_sigma * (2 - c.c_sigma) * c.mu_eff) * step
    norm = np.linalg.norm(p_sigma)
    h = float(norm / np.sqrt(1 - (1 - c.c_sigma) ** (2 * (state.generation + 1))) < (1.4 + 2 / (d + 1)) * c.chi)
    p_c = (1 - c.c_c) * state.p_c + h * np.sqrt(c.c_c * (2 - c.c_c) * c.mu_eff) * state.D * step
    D = state.D.copy()
    for k in range(d):
        growth = c.c_1 * (1 - (1 - h) * c.c_c * (2 - c.c_c)) * ((p_c[k] / state.D[k]) ** 2 - 1)
        growth += c.c_mu * sum(w[i] * (z[i, k] ** 2 - 1) for i in range(len(z)))
        D[k] *= np.exp(growth / 2)
    told = strategy.tell(state, population, fitness)
    assert_allclose(told.mean, state.mean + state.sigma * state.D * step, rtol=1e-10)
    assert_allclose(told.p_sigma, p_sigma, rtol=1e-10)
    sigma = state.sigma * np.exp(c.c_sigma / c.d_sigma * (norm / c.chi - 1))
    assert_allclose(told.sigma * told.D, sigma * D, rtol=1e-10)
    assert_allclose(told.sigma * told.p_c, sigma * p_c, rtol=1e-10)
    assert_allclose(np.log(told.D).mean(), 0, atol=1e-12)


def test_translation_scale_and_order_of_coordinates_change_nothing() -> None:
    x0, shift, order = np.full(5, 0.5), np.arange(5.0), np.array([3, 0, 4, 2, 1])
    plain = trajectory(SepCMAES(sigma0=0.5), rosenbrock, x0, 25)[-1]
    moved = trajectory(SepCMAES(sigma0=0.5), lambda x: rosenbrock(x - shift), x0 + shift, 25)[-1]
    assert_allclose(moved.mean - shift, plain.mean, rtol=1e-7, atol=1e-9)
    wider = trajectory(SepCMAES(sigma0=4.0), lambda x: rosenbrock(x / 8), x0 * 8, 25)[-1]
    assert_allclose(wider.mean / 8, plain.mean, rtol=1e-10)
    strategy = SepCMAES(sigma0=0.5)
    a, b = strategy.init(bb.key(0), x0), strategy.init(bb.key(0), x0)
    for _ in range(25):
        population = strategy.ask(a)
        fitness = rosenbrock(population)
        a, b = strategy.tell(a, population, fitness), strategy.tell(b, population[:, order], fitness)
    assert_allclose(b.mean, a.mean[order], rtol=1e-9)
    assert_allclose(b.D, a.D[order], rtol=1e-9)


@pytest.mark.parametrize("transform", [np.log1p, lambda f: f**3, lambda f: -1 / (1 + f)], ids=["log", "cube", "odds"])
def test_monotone_transforms_of_fitness_change_nothing(transform: Function) -> None:
    plain = trajectory(SepCMAES(), rosenbrock, np.zeros(4), 25)[-1]
    other = trajectory(SepCMAES(), lambda x: transform(rosenbrock(x)), np.zeros(4), 25)[-1]
    assert_array_equal(other.mean, plain.mean)
    assert_array_equal(other.D, plain.D)


def test_deviations_learn_the_scales_of_a_separable_function() -> None:
    state = trajectory(SepCMAES(sigma0=0.5), ellipsoid, np.ones(6), 500)[-1]
    assert np.ptp(np.log10(state.D * 10.0 ** (3 * np.arange(6) / 5))) < 0.5
    assert ellipsoid(state.mean[None])[0] < 1e-20


@pytest.mark.parametrize(
    ("f", "d", "low", "high"), [(sphere, 10, 1000, 1500), (ellipsoid, 10, 1600, 2300), (ellipsoid, 40, 7500, 9800)]
)
def test_needs_the_recorded_number_of_evaluations(f: Function, d: int, low: int, high: int) -> None:
    counts = [evaluations(SepCMAES(sigma0=0.5), f, np.ones(d), 1e-9, seed) for seed in range(5)]
    assert low < np.median(counts) < high, counts


def test_needs_fewer_evaluations_than_cmaes_on_the_ellipsoid() -> None:
    cmaes = pytest.importorskip("cmaes")

    def theirs(seed: int) -> int:
        peer = cmaes.SepCMA(mean=np.ones(10), sigma=0.5, seed=seed + 1)
        for count in range(0, 20_000, peer.population_size):
            population = np.array([peer.ask() for _ in range(peer.population_size)])
            fitness = ellipsoid(population)
            if fitness.min() < 1e-9:
                return count + len(population)
            peer.tell(list(zip(population, fitness, strict=True)))
        raise AssertionError("cmaes did not converge")

    runs = range(5)
    ours = [evaluations(SepCMAES(sigma0=0.5), ellipsoid, np.ones(10), 1e-9, s) for s in runs]
    assert np.median(ours) < 0.9 * np.median([theirs(s) for s in runs])
