"""CatCMA with margin: CMA-ES on floats, and the steps and the speed of the authors' implementation."""

from __future__ import annotations

from typing import Any

import cmaes
import numpy as np
import pytest
from scipy.stats import norm

import blackbox as bb
from blackbox.es import cat_cma, margin
from blackbox.es.cat_cma import CatCMA
from blackbox.es.cma_es import CMAES


def evenly(k: int) -> tuple[float, ...]:
    """Edges of k equal cells."""
    return tuple(i / k for i in range(1, k))


MIXED = (("choice", 3), ("float",), ("int", evenly(5)), ("choice", 2), ("int", evenly(2)), ("float",), ("choice", 4))
D = 13


def test_without_integers_and_choices_it_is_cma_es() -> None:
    ours, plain = CatCMA(sigma0=0.3), CMAES(sigma0=0.3)
    a, b = ours.init(bb.key(1), np.full(5, 0.8)), plain.init(bb.key(1), np.full(5, 0.8))
    for _ in range(40):
        x = ours.ask(a)
        assert np.array_equal(x, plain.ask(b))
        fitness = (x**2).sum(axis=1)
        a, b = ours.tell(a, x, fitness), plain.tell(b, x, fitness)
    assert np.array_equal(ours.recommend(a), plain.recommend(b))
    assert ours.stop(a) == plain.stop(b)


def test_normal_tail_and_quantile() -> None:
    z = np.linspace(-8, 8, 401)
    np.testing.assert_allclose(margin._tail(z), norm.sf(z), rtol=2e-7)
    p = np.geomspace(1e-8, 0.5, 200)
    np.testing.assert_allclose(margin._upper_quantile(p), norm.isf(p), atol=1e-5)


def reference(k: int, integers: int, choices: tuple[int, ...] = (), floats: int = 0, seed: int = 0) -> Any:
    return cmaes.CatCMAwM(
        x_space=[[-np.inf, np.inf]] * floats or None,
        z_space=[list(range(k))] * integers or None,
        c_space=list(choices) or None,
        seed=seed,
    )


@pytest.mark.parametrize("k", [2, 3, 8])
@pytest.mark.parametrize("seed", range(20))
def test_margin_moves_mean_and_scale_as_the_reference(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    theirs = reference(k, 6, seed=seed)
    theirs._mean = rng.uniform(-1.0, k, 6)
    theirs._A = rng.uniform(0.5, 3.0, 6)
    theirs._sigma = 10.0 ** rng.uniform(-2, 1)
    theirs._C = np.diag(rng.uniform(0.1, 2.0, 6))
    theirs._pmut = rng.uniform(theirs._alpha, 0.5, 6)
    theirs._int_succ = rng.random(6) < 0.5
    before = margin.Margin((theirs._mean + 0.5) / k, theirs._A.copy(), theirs._pmut.copy())
    deviation = theirs._sigma * np.sqrt(np.diag(theirs._C)) / k
    ours = margin.with_margin(before, deviation, theirs._int_succ, margin.cells((evenly(k),) * 6), theirs._alpha)
    theirs._margin_correction()
    np.testing.assert_allclose(ours.mean, (theirs._mean + 0.5) / k, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.A, theirs._A, rtol=1e-4)
    np.testing.assert_allclose(ours.rate, theirs._pmut, rtol=1e-4)


@pytest.mark.parametrize("seed", range(10))
def test_integer_centering_is_the_references(seed: int) -> None:
    rng, k = np.random.default_rng(seed), 7
    theirs = reference(k, 5, seed=seed)
    theirs._mean = rng.uniform(0.0, k - 1, 5)
    v = theirs._mean + rng.normal(size=(theirs._popsize, 5)) * np.array([0.1, 0.3, 0.6, 1.0, 3.0])
    mu = theirs._mu
    cells = margin.cells((evenly(k),) * 5)
    ours, succeeded = margin.centered((v[:mu] + 0.5) / k, (theirs._mean + 0.5) / k, cells)
    expected = theirs._integer_centering(v.copy())
    np.testing.assert_allclose(ours, (expected[:mu] + 0.5) / k, atol=1e-12)
    assert np.array_equal(succeeded, theirs._int_succ)


def test_categorical_step_is_the_references() -> None:
    sizes = (2, 5, 3)
    theirs = reference(0, 0, sizes, seed=3)
    v = cat_cma.variables(tuple(("choice", k) for k in sizes), 10)
    assert v.alpha == pytest.approx(1 - 0.73 ** (1 / 3))
    np.testing.assert_allclose(v.q_min[:, 0], theirs._qmin)
    assert v.parameters == theirs._param_sum
    one = np.float64(1.0)
    state = cat_cma.Categorical(theirs._q.copy(), np.zeros((3, 5)), 0 * one, one)
    rng = np.random.default_rng(0)
    weights = np.where(theirs._weights > 0, theirs._weights, 0.0)
    for _ in range(30):
        categories = np.stack([rng.integers(k, size=theirs._popsize) for k in sizes], axis=1)
        c = (categories[..., None] == np.arange(5)).astype(float)
        state = cat_cma._natural_gradient_step(state, c, weights, v)
        theirs._delta = 1 / theirs._Delta  # theirs lags by one step here
        theirs._update_categorical(c)
        np.testing.assert_allclose(state.q, theirs._q, rtol=1e-6)
        np.testing.assert_allclose(state.Delta, theirs._Delta, rtol=1e-6)


def test_squeezing_into_the_cube_keeps_cells_and_is_undone() -> None:
    cells = margin.cells((evenly(4), (0.1, 0.7), (0.5,)))
    v = np.linspace(-2.0, 3.0, 501)[:, None] * np.ones(3)
    u = margin.into_cube(v, cells)
    assert np.all((u >= 0.0) & (u <= 1.0))
    assert np.array_equal(margin._cell(u, cells), margin._cell(v, cells))
    inside = np.abs(v[:, 0] - 0.5) < 1.0
    np.testing.assert_allclose(margin.out_of_cube(u, cells)[inside], v[inside], rtol=1e-9, atol=1e-9)


def mixed_state(generations: int, seed: int = 0) -> tuple[CatCMA, Any]:
    """After generations in which one float alone decided."""
    strategy = CatCMA(layout=MIXED)
    state = strategy.init(bb.key(seed), np.full(D, 0.5))
    for _ in range(generations):
        x = strategy.ask(state)
        state = strategy.tell(state, x, (x[:, 3] - 0.3) ** 2)
    return strategy, state


def test_samples_are_one_hot_in_their_blocks_and_follow_q() -> None:
    strategy, state = mixed_state(5)
    x = np.concatenate([strategy.ask(state, first=i * 9) for i in range(300)])
    for low, k, row in ((0, 3, 0), (5, 2, 1), (9, 4, 2)):
        block = x[:, low : low + k]
        assert np.array_equal(np.sort(block, axis=1)[:, -2:], np.tile([0.0, 1.0], (len(x), 1)))
        np.testing.assert_allclose(block.mean(axis=0), state.categorical.q[row, :k], atol=0.05)
    assert np.all((x[:, [4, 7]] >= 0) & (x[:, [4, 7]] <= 1))
    assert np.all(np.isin(strategy.recommend(state)[[0, 1, 2, 5, 6, 9, 10, 11, 12]], [0.0, 1.0]))


@pytest.mark.parametrize("seed", range(3))
def test_every_value_stays_reachable(seed: int) -> None:
    _, state = mixed_state(300, seed)
    v = cat_cma.variables(MIXED, D)
    deviation = state.margin.A * state.gaussian.sigma * np.sqrt(np.diag(state.gaussian.C)[v.n_floats :])
    edges = np.where(np.isfinite(v.cells.edges), v.cells.edges, np.nan)  # type: ignore[union-attr]
    beyond = norm.sf(np.abs(edges - state.margin.mean[:, None]) / deviation[:, None])
    assert np.all(np.nansum(beyond, axis=1) > 0.99 * v.alpha)
    q = state.categorical.q
    np.testing.assert_allclose(q.sum(axis=1), 1.0)
    assert np.all(q[v.exists] >= 0.999 * np.broadcast_to(v.q_min, q.shape)[v.exists])
    assert np.all(q[~v.exists] == 0)


def test_tell_reads_positions_of_foreign_points() -> None:
    strategy, state = mixed_state(5)
    x = strategy.ask(state)
    soft = x.copy()
    soft[:, :3] = 0.4 + 0.2 * x[:, :3]  # no one-hot, but the greatest coordinate is the same
    a, b = strategy.tell(state, x, x[:, 3]), strategy.tell(state, soft, x[:, 3])
    assert np.array_equal(a.categorical.q, b.categorical.q)


LAYOUT = (("float",),) * 4 + (("int", evenly(21)),) * 4 + (("choice", 5),) * 4


def value(x: np.ndarray, z: np.ndarray, c: np.ndarray) -> float:
    """Sphere in floats and integers, and the leading ones of the first categories."""
    return float(((x - 0.7) ** 2).sum() + ((z - 4) ** 2).sum() + len(c) - np.cumprod(c[:, 0]).sum())


def evaluations(seed: int) -> int:
    strategy = CatCMA(sigma0=0.1, layout=LAYOUT)
    state, count = strategy.init(bb.key(seed), np.full(28, 0.5)), 0
    while count < 5000:
        population = strategy.ask(state)
        z = np.floor(population[:, 4:8] * 21) - 10
        fitness = [
            value(6 * u[:4] - 3, integers, u[8:].reshape(4, 5)) for u, integers in zip(population, z, strict=True)
        ]
        count += len(fitness)
        if min(fitness) < 1e-8:
            return count
        state = strategy.tell(state, population, np.array(fitness))
    return count


def reference_evaluations(seed: int) -> int:
    z = [list(range(-10, 11))] * 4
    covariance = np.diag([0.6**2] * 4 + [2.1**2] * 4)
    theirs = cmaes.CatCMAwM(x_space=[[-3, 3]] * 4, z_space=z, c_space=[5] * 4, cov=covariance, seed=seed)
    count = 0
    while count < 5000:
        solutions = [theirs.ask() for _ in range(theirs.population_size)]
        told = [(s, value(s.x, s.z, s.c)) for s in solutions]
        count += len(told)
        if min(f for _, f in told) < 1e-8:
            return count
        theirs.tell(told)
    return count


def test_needs_as_many_evaluations_as_the_reference() -> None:
    ours = np.mean([evaluations(seed) for seed in range(6)])
    theirs = np.mean([reference_evaluations(seed) for seed in range(6)])
    assert 0.8 < ours / theirs < 1.2  # over 25 seeds: 1504 and 1489, standard deviation of one run 150


def test_choices_alone() -> None:
    strategy = CatCMA(layout=(("choice", 4),) * 6)
    state = strategy.init(bb.key(0), np.full(24, 0.5))
    for _ in range(80):
        x = strategy.ask(state)
        state = strategy.tell(state, x, -x[:, 1::4].sum(axis=1))
    assert np.array_equal(strategy.recommend(state), np.tile([0.0, 1.0, 0.0, 0.0], 6))
    assert strategy.stop(state)["tolfun"]


@pytest.mark.parametrize(
    ("layout", "message"),
    [((("float",),) * 2, "layout has 2 coordinates, but x0 has 3"), ((("real",),) * 3, "layout must be of")],
)
def test_layouts_are_checked(layout: tuple[Any, ...], message: str) -> None:
    with pytest.raises(bb.SettingError, match=message):
        CatCMA(layout=layout).init(bb.key(0), np.zeros(3))
