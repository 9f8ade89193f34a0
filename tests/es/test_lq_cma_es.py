"""lq-CMA-ES: models, evaluations that they save, invariances, points from elsewhere, failures, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
from es_runs import Function, evaluations, trajectory
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.es import CMAES, LQCMAES
from blackbox.es.lq_model import fitted, kendall, parameters
from blackbox.shell.states import flatten, unflatten
from blackbox.testing import assert_same


def quadratic(d: int, condition: float = 1e3, seed: int = 0) -> tuple[Function, np.ndarray]:
    """A rotated convex quadratic with its minimum in the unit cube."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    root = condition ** (np.linspace(0, 1, d) / 2)[:, None] * rotation
    center = rng.uniform(0.4, 0.6, d)
    return lambda x: (((x - center) @ root.T) ** 2).sum(axis=1), center


def rosenbrock(x: np.ndarray) -> np.ndarray:
    x = 4 * x - 2
    return np.sum(100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2, axis=1)


# ---- models


@pytest.mark.parametrize("d", [1, 2, 5, 10])
def test_the_full_model_is_exact_on_quadratics(d: int) -> None:
    f, _ = quadratic(d)
    rng = np.random.default_rng(1)
    x = rng.uniform(size=(2 * parameters(d)[-1], d))
    model, other = fitted(x, f(x)), rng.uniform(size=(50, d))
    assert_allclose(model(other), f(other) - f(x).min(), rtol=1e-9, atol=1e-9 * f(x).max())


@pytest.mark.parametrize("d", [3, 5])
def test_models_grow_with_the_archive(d: int) -> None:
    """Linear, then diagonal, then full: each from 1.1 points for a parameter on, in the better three quarters."""
    rng = np.random.default_rng(2)
    x = rng.uniform(size=(200, d))
    y = rng.normal(size=200)
    for n in range(2, 200):
        hessian = fitted(x[:n], y[:n]).hessian
        mixed = hessian - np.diag(np.diag(hessian))
        assert hessian.any() == (0.75 * n >= 1.1 * (2 * d + 1))
        assert mixed.any() == (0.75 * n >= 1.1 * (d + 1) * (d + 2) / 2)


def test_models_of_few_points_take_their_values() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.uniform(size=(4, 7)), rng.normal(size=4)
    assert_allclose(fitted(x, y)(x), y - y.min(), atol=1e-9)


def test_the_full_model_rotates_with_the_points_and_shifts_and_scales_with_the_values() -> None:
    rng = np.random.default_rng(4)
    x, others = rng.normal(size=(60, 4)), rng.normal(size=(20, 4))
    y = np.exp(x).sum(axis=1)  # no quadratic
    rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    plain = fitted(x, y)(others)
    assert_allclose(fitted(x @ rotation.T + 3, y)(others @ rotation.T + 3), plain, rtol=1e-8)
    assert_allclose(fitted(x, 1e-7 * y - 5)(others), 1e-7 * plain, rtol=1e-6)


def test_models_of_points_that_do_not_determine_them_are_finite() -> None:
    rng = np.random.default_rng(5)
    x = np.repeat(rng.uniform(size=(3, 4)), 20, axis=0)
    for values in (np.zeros(60), np.full(60, 1e150), rng.normal(size=60), rng.choice([-1e150, 1e150], 60)):
        assert np.isfinite(fitted(x, values)(rng.uniform(size=(9, 4)))).all()


def test_kendalls_tau_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(6)
    for _ in range(20):
        a, b = rng.integers(0, 6, 15).astype(float), rng.normal(size=15)
        assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)
        assert kendall(a, np.round(b)) == pytest.approx(stats.kendalltau(a, np.round(b)).statistic)
    assert kendall(np.zeros(5), np.arange(5.0)) == 0


# ---- a run


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("d", [2, 5, 10])
def test_the_first_full_model_finds_the_minimum_of_a_quadratic(d: int, seed: int) -> None:
    """In its first generation, if the minimum is no farther than members are."""
    f, center = quadratic(d)
    strategy = LQCMAES()
    state = strategy.init(bb.key(seed), center + 0.02)
    others = np.random.default_rng(seed).uniform(size=(2 * parameters(d)[-1], d))
    rows = np.concatenate([strategy.ask(state), others])
    assert np.abs(strategy.ask(state) - center).max(axis=1).min() > 1e-3
    state = strategy.tell(state, rows, f(rows))
    assert state.cma.generation == 1, "the model is full and exact, so the generation is closed by it"
    assert np.abs(strategy.ask(state) - center).max(axis=1).min() < 1e-9


@pytest.mark.parametrize("d", [5, 10])
def test_ever_fewer_of_a_generation_are_evaluated_on_a_quadratic(d: int) -> None:
    f, _ = quadratic(d)
    states = trajectory(LQCMAES(), f, np.full(d, 0.9), parameters(d)[-1] + 40, seed=0)
    generations = np.array([int(state.cma.generation) for state in states])
    told = np.array([0, *(len(LQCMAES().ask(state)) for state in states[:-1])]).cumsum()
    full = int(np.argmax(0.75 * told >= 1.1 * parameters(d)[-1]))
    assert told[1] == 5
    # Not longer: at the minimum itself rounding gives the values an order that no model could know.
    window = [full + 1, full + 7]
    assert np.diff(told[window]) <= 1.5 * np.diff(generations[window])


@pytest.mark.parametrize(("d", "factor"), [(5, 3.0), (10, 3.0)])
def test_far_fewer_evaluations_than_cma_es(d: int, factor: float) -> None:
    f, _ = quadratic(d, condition=1e6)
    ours = sum(evaluations(LQCMAES(), f, np.full(d, 0.9), 1e-8, seed, 5000) for seed in range(3))
    theirs = sum(evaluations(CMAES(sigma0=0.2), f, np.full(d, 0.9), 1e-8, seed, 20_000) for seed in range(3))
    assert factor * ours < theirs


def test_no_more_evaluations_than_pycma() -> None:
    """Medians: some runs end in the other minimum of the function."""
    cma = pytest.importorskip("cma")
    ours, theirs, x0 = [], [], np.full(5, 0.3)
    for seed in range(7):
        ours.append(evaluations(LQCMAES(), rosenbrock, x0, 1e-6, seed, 1000))
        options = {"verbose": -9, "seed": seed + 1, "ftarget": 1e-6, "maxfevals": 1000}
        theirs.append(cma.fmin_lq_surr2(lambda x: float(rosenbrock(x[None])[0]), x0, 0.2, options)[1].countevals)
    assert np.median(ours) < 1.25 * np.median(theirs)


def test_noise_makes_it_evaluate_all() -> None:
    """Where no model predicts the order, this is CMA-ES with the true values."""
    rng = np.random.default_rng(0)
    states = trajectory(LQCMAES(), lambda x: rng.normal(size=len(x)), np.full(4, 0.5), 120, seed=0)
    told = sum(len(LQCMAES().ask(state)) for state in states[:-1])
    assert told > 0.8 * states[-1].cma.generation * len(states[-1].fitness)


def test_the_minimum_may_lie_at_the_box() -> None:
    target = np.array([-0.5, 0.4, 1.7])
    states = trajectory(LQCMAES(), lambda x: ((x - target) ** 2).sum(axis=1), np.full(3, 0.5), 40, seed=0)
    strategy = LQCMAES()
    asked = np.concatenate([strategy.ask(state) for state in states])
    assert asked.min() >= 0 and asked.max() <= 1
    assert np.abs(asked - [0.0, 0.4, 1.0]).max(axis=1).min() < 1e-6


@pytest.mark.parametrize("low", [-3.0, 2.0])
def test_any_box_will_do(low: float) -> None:
    f, _ = quadratic(4)
    strategy = LQCMAES(low=low, high=low + 8, sigma0=1.6)
    count = evaluations(strategy, lambda x: f((x - low) / 8), low + 8 * np.full(4, 0.9), 1e-9, 0, 400)
    assert count < 200


# ---- invariances


def test_shifting_and_scaling_the_values_changes_nothing() -> None:
    x0 = np.full(4, 0.3)
    plain = trajectory(LQCMAES(), rosenbrock, x0, 60)
    scaled = trajectory(LQCMAES(), lambda x: 1024 * rosenbrock(x), x0, 60)[-1]  # a power of two: exact
    assert_array_equal(scaled.cma.mean, plain[-1].cma.mean)
    assert_array_equal(scaled.cma.C, plain[-1].cma.C)
    shifted = trajectory(LQCMAES(), lambda x: rosenbrock(x) - 32, x0, 25)[-1]
    assert_allclose(shifted.cma.mean, plain[25].cma.mean, rtol=1e-5)


def test_with_full_models_a_rotated_run_is_the_run_rotated() -> None:
    """From the same archive, distribution and open generation, all rotated, with fitness told as before."""
    d = 4
    f, _ = quadratic(d, condition=1e4, seed=1)
    strategy = LQCMAES(low=-1e3, high=1e3)  # the box does not rotate
    plain = trajectory(strategy, lambda x: f(x) ** 0.6, np.full(d, 0.9), 60, seed=0)[-1]
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))
    c = plain.cma
    rotated = plain._replace(
        points=plain.points @ rotation.T,
        population=plain.population @ rotation.T,
        cma=c._replace(
            mean=rotation @ c.mean,
            p_sigma=rotation @ c.p_sigma,
            p_c=rotation @ c.p_c,
            C=rotation @ c.C @ rotation.T,
            B=rotation @ c.B,
        ),
    )
    generation = plain.cma.generation
    while plain.cma.generation == generation:
        population = strategy.ask(plain)
        assert_allclose(strategy.ask(rotated), population @ rotation.T, atol=1e-9)
        fitness = f(population) ** 0.6
        plain, rotated = (strategy.tell(s, strategy.ask(s), fitness) for s in (plain, rotated))
    assert_allclose(rotated.cma.mean, rotation @ plain.cma.mean, atol=1e-8)
    assert_allclose(rotated.cma.C, rotation @ plain.cma.C @ rotation.T, rtol=1e-6, atol=1e-7)


# ---- points from elsewhere, workers, failures


def test_points_that_are_told_from_outside_enter_the_archive() -> None:
    f, center = quadratic(3)
    strategy = LQCMAES()
    state = strategy.init(bb.key(0), np.full(3, 0.9))
    others = np.random.default_rng(0).uniform(size=(30, 3))
    rows = np.concatenate([strategy.ask(state), others])
    state = strategy.tell(state, rows, f(rows))
    assert state.known == len(state.values) == 20  # twice the parameters
    assert np.isin(state.points, rows).all()
    count = 0
    while np.abs(strategy.ask(state) - center).max(axis=1).min() > 1e-6:
        state = strategy.tell(state, strategy.ask(state), f(strategy.ask(state)))
        count += 1
    assert count < 15  # the model is exact at once, and its minimum a few steps away


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_points_in_any_order_are_all_of_use(workers: int) -> None:
    """Asked ahead for several workers, whose results come in any order."""
    f, _ = quadratic(4, condition=100)
    optimizer = bb.Optimizer(bb.Box(0, 1, dimension=4), method="lq-cma-es", seed=0, budget=240, x0=np.full(4, 0.9))
    rng, running = np.random.default_rng(0), []
    while optimizer.left or running:
        while optimizer.left and len(running) < workers:
            running.append(optimizer.ask())
        done = running.pop(int(rng.integers(len(running))))
        optimizer.tell(done, float(f(done.x[None])[0]))
    assert optimizer.best is not None and optimizer.best.value is not None
    assert optimizer.best.value < 1e-6


@pytest.mark.parametrize("failed", [np.nan, np.inf])
def test_failures_never_enter_the_model(failed: float) -> None:
    f, _ = quadratic(3)
    rng = np.random.default_rng(0)
    strategy = LQCMAES()
    state, best = strategy.init(bb.key(0), np.full(3, 0.9)), np.inf
    for _ in range(120):
        population = strategy.ask(state)
        values = np.where(rng.uniform(size=len(population)) < 0.3, failed, f(population))
        best = min(best, np.min(values, initial=np.inf, where=np.isfinite(values)))
        state = strategy.tell(state, population, values)
        known = int(state.known)
        assert_allclose(state.values[:known], f(state.points[:known]))
    assert best < 1e-8


def test_a_region_that_fails_is_left() -> None:
    """The model knows nothing of it, and its minimum lies within: the failures rank last all the same."""
    center = np.array([0.3, 0.6, 0.5])

    def f(x: np.ndarray) -> np.ndarray:
        values = ((x - center) ** 2).sum(axis=1)
        return np.where(values < 0.01, np.nan, values)

    strategy = LQCMAES()
    states = trajectory(LQCMAES(), f, np.full(3, 0.9), 300, seed=0)
    best = min(np.nanmin(state.values[: state.known]) for state in states[1:])
    assert best < 0.011
    assert ((strategy.recommend(states[-1]) - center) ** 2).sum() < 0.05


def test_where_all_members_fail_others_are_drawn() -> None:
    states = trajectory(LQCMAES(), lambda x: np.full(len(x), np.nan), np.full(3, 0.5), 20, seed=0)
    assert states[-1].cma.generation > 2 and states[-1].known == 0
    assert_array_equal(states[-1].cma.C, np.eye(3))
    assert len({state.population.tobytes() for state in states}) > 2


# ---- checkpoints and restarts


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tells", [0, 3, 40])
def test_a_resumed_run_is_the_run(tells: int, dtype: str) -> None:
    strategy, x0 = LQCMAES(), np.full(4, 0.3, dtype)
    state = trajectory(LQCMAES(), rosenbrock, x0, tells, seed=0)[-1]
    again = unflatten(strategy.init(bb.key(9), x0), {k: np.array(a) for k, a in flatten(state).items()})
    for _ in range(20):
        population = strategy.ask(state)
        assert_array_equal(strategy.ask(again), population)
        fitness = rosenbrock(population)
        state, again = (strategy.tell(s, population, fitness) for s in (state, again))
    assert_same(state, again, "resumed")


@pytest.mark.parametrize("restarts", ["ipop", "bipop"])
def test_restarts_go_by_the_whole_population(restarts: str) -> None:
    f = lambda x: float(np.floor(20 * np.abs(x - 0.5)).max())  # noqa: E731 -- flat about the minimum: runs stall
    optimizer = bb.Optimizer(bb.Box(0, 1, 3), method="lq-cma-es", seed=1, budget=3000, restarts=restarts)
    sizes = []
    while optimizer.left:
        candidate = optimizer.ask()
        optimizer.tell(candidate, f(candidate.x))
        sizes.append(len(optimizer._search.lane.state.fitness))
    assert optimizer.n_restarts > 1
    assert sizes[0] == 7 and 14 in sizes
    assert optimizer._search.lane.popsize == 7


def test_popsize_and_sigma0_are_used() -> None:
    strategy = LQCMAES(popsize=40, sigma0=0.01)
    state = strategy.init(bb.key(0), np.full(3, 0.5))
    assert state.population.shape == (40, 3)
    assert 0.005 < state.population.std() < 0.02


def test_settings_are_checked() -> None:
    for name, value in {"popsize": 2, "sigma0": 0.0, "low": np.nan, "high": -1.0}.items():
        with pytest.raises(bb.SettingError, match=f"{name}|low"):
            LQCMAES(**{name: value})  # type: ignore[arg-type]
