"""CatCMA with margin: CMA-ES without discrete variables, agreement with cmaes, margins, layouts, minimize."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox import testing
from blackbox.es.cat_cma import CatCMA, parts
from blackbox.es.cma_es import CMAES, constants
from blackbox.es.margin import Margin, cells, centered, with_margin
from blackbox.es.normal_tail import upper_tail
from blackbox.layout import Layout

cmaes = pytest.importorskip("cmaes")

Objective = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
FLOAT = ("float",)


def integer(k: int) -> tuple[Any, ...]:
    return ("int", tuple((i + 1) / k for i in range(k - 1)))


MIXED: Layout = (
    integer(5), FLOAT, ("choice", 3), integer(2), FLOAT, ("choice", 1), ("int", (0.1, 0.4)), ("choice", 2), FLOAT,
)  # fmt: skip


def width(layout: Layout) -> int:
    return sum(entry[1] if entry[0] == "choice" else 1 for entry in layout)


def decode(layout: Layout, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Floats, numbers of integers' cells, and categories of a row."""
    x, z, c, d = [], [], [], 0
    for entry in layout:
        if entry[0] == "choice":
            c.append(int(np.argmax(row[d : d + entry[1]])))
            d += entry[1]
            continue
        if entry[0] == "float":
            x.append(row[d])
        else:
            z.append(int(np.sum(np.array(entry[1]) <= row[d])))
        d += 1
    return np.array(x), np.array(z), np.array(c)


def mixed_sphere(population: Any) -> Any:
    """Of all coordinates as they are, so that it is traceable; the optimum has categories 0 and 1."""
    xp = population.__array_namespace__()
    target = xp.asarray([0.3] * 2 + [1.0, 0, 0] + [0.2, 0.6, 1, 0.3, 0, 1, 0.4], dtype=population.dtype)
    return xp.sum((population - target) ** 2, axis=1)


def run(strategy: Any, x0: Any, f: Any, generations: int, seed: int = 0) -> list[Any]:
    states = [strategy.init(bb.key(seed), x0)]
    for _ in range(generations):
        population = strategy.ask(states[-1])
        states.append(strategy.tell(states[-1], population, f(population)))
    return states


@pytest.mark.parametrize("layout", [None, (FLOAT,) * 5])
def test_without_discrete_variables_it_is_cma_es(layout: Layout | None) -> None:
    ours = run(CatCMA(sigma0=0.4, layout=layout), np.full(5, 0.8), testing.sphere, 40)[-1]
    theirs = run(CMAES(sigma0=0.4), np.full(5, 0.8), testing.sphere, 40)[-1]
    testing.assert_same(ours.gaussian, theirs, "same as CMA-ES")


def test_members_are_points_of_the_layout() -> None:
    strategy = CatCMA(sigma0=0.3, layout=MIXED, popsize=200)
    population = strategy.ask(strategy.init(bb.key(0), np.full(12, 0.5)))
    assert population.shape == (200, 12)
    for block in (population[:, 2:5], population[:, 7:8], population[:, 9:11]):
        assert_array_equal(np.sort(block, axis=1)[:, -1], 1)
        assert_array_equal(block.sum(axis=1), 1)
    assert set(population[:, 5]) == {0.25, 0.75}
    assert np.all((population[:, [0, 8]] >= 0) & (population[:, [0, 8]] <= 1))
    assert_allclose(population[:, 2:5].mean(axis=0), 1 / 3, atol=0.12)


def test_a_start_point_s_categories_are_likelier() -> None:
    x0 = np.array([0.5, 0.5, 0.0, 0.0, 1.0, 0.75, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5])
    choices = CatCMA(layout=MIXED).init(bb.key(0), x0).choices
    assert choices is not None
    assert_allclose(choices.q, [[1 / 6, 1 / 6, 2 / 3], [0.75, 0.25, 0], [1, 0, 0], [0.5, 0.5, 0]])


def test_mixed_layout_is_the_same_program_everywhere() -> None:
    strategy = CatCMA(sigma0=0.3, layout=MIXED)
    reference = run(strategy, np.full(12, 0.5), mixed_sphere, 40)[-1]
    strict = run(strategy, array_api_strict.asarray(np.full(12, 0.5)), mixed_sphere, 40)[-1]
    testing.assert_same(reference, strict, "NumPy and array-api-strict", rtol=1e-9)
    with jax.enable_x64(True):

        def generation(state: Any, _: None) -> Any:
            population = strategy.ask(state)
            return strategy.tell(state, population, mixed_sphere(population)), None

        start = strategy.init(jnp.asarray(bb.key(0)), jnp.full(12, 0.5))
        scanned = jax.jit(lambda s: jax.lax.scan(generation, s, None, length=40)[0])(start)
        testing.assert_same(reference, scanned, "NumPy and JAX", rtol=1e-6)
        testing.assert_same(strategy.recommend(reference), strategy.recommend(scanned), "recommend", rtol=1e-6)


@pytest.mark.parametrize("layout", [MIXED, (integer(4),) * 2, (("choice", 3),) * 3, (("choice", 1),), (integer(2),)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_exam_s_laws_hold_with_layouts(layout: Layout, dtype: str) -> None:
    strategy, x0 = CatCMA(sigma0=0.3, layout=layout), np.full(width(layout), 0.5, dtype=dtype)
    testing.check_shape_stable(strategy, x0)
    testing.check_total_on_fitness(strategy, x0)
    testing.check_nan_ranks_last(strategy, x0)
    if FLOAT in layout:  # among choices alone there are ties, which rank by position
        testing.check_order_of_members(strategy, x0)
    testing.check_injected_points(strategy, x0)


@pytest.mark.parametrize("goal", [0.3, 0.97, 0.01])
def test_margins_hold_whatever_is_selected(goal: float) -> None:
    """After long runs in which the float, one integer and one choice decide nothing and the others want one value."""
    layout: Layout = (FLOAT, integer(21), integer(21), ("choice", 4), ("choice", 4), integer(2))
    p = parts(layout)
    strategy = CatCMA(sigma0=0.2, layout=layout)

    def f(population: np.ndarray) -> np.ndarray:
        cell = np.floor(21 * np.clip(population[:, 1], 0, 0.999))
        return (cell - np.floor(21 * goal)) ** 2 + population[:, 3] + population[:, 11]

    states = run(strategy, np.full(12, 0.5), f, 160)
    assert not any(strategy.stop(state)["condition"] for state in states)
    for state in states[1::7]:
        mean, deviation = state.gaussian.mean[1:], state.gaussian.sigma * np.sqrt(np.diag(state.gaussian.C)[1:])
        edges = np.array(layout[1][1])
        for m, s, reported in zip(mean, deviation * state.margin.A, state.margin.p_leave, strict=True):
            below, above = edges[edges <= m], edges[edges > m]
            p_leave = sum(float(upper_tail(np.asarray(abs(edge - m) / s))) for edge in (*below[-1:], *above[:1]))
            assert p_leave >= p.alpha * (1 - 1e-9)
            assert p_leave == pytest.approx(reported)
        q = state.choices.q
        assert_allclose(q.sum(axis=1), 1)
        assert np.all(q >= p.q_min * (1 - 1e-9))
    assert np.floor(21 * strategy.recommend(state)[1]) == np.floor(21 * goal)


def peer(layout: Layout, seed: int = 1, **settings: Any) -> Any:
    floats = [[0.0, 1.0] for entry in layout if entry[0] == "float"]
    integers = [list(range(len(entry[1]) + 1)) for entry in layout if entry[0] == "int"]
    choices = [entry[1] for entry in layout if entry[0] == "choice"]
    return cmaes.CatCMAwM(
        x_space=floats or None, z_space=integers or None, c_space=choices or None, seed=seed, **settings
    )


def test_probabilities_follow_cmaes_for_the_same_samples() -> None:
    """Over many generations; cmaes takes each step with the length of one generation before, which is undone here."""
    layout: Layout = (("choice", 4), ("choice", 2), ("choice", 3))
    strategy = CatCMA(popsize=10, layout=layout)
    theirs = peer(layout, population_size=10)
    state = strategy.init(bb.key(0), np.full(9, 0.5))
    for _ in range(60):
        population = strategy.ask(state)
        fitness = population @ np.array([0.3, 0.2, 0.1, 0.5, 0.3, 0.1, 0.0, 0.2, 0.1])
        # Our first category is what the others leave; for cmaes it is the last.
        blocks = [population[:, a:b][:, ::-1] for a, b in ((0, 4), (4, 6), (6, 9))]
        onehot = np.stack([np.pad(block, ((0, 0), (0, 4 - block.shape[1]))) for block in blocks], axis=1)
        theirs._delta = 1 / theirs._Delta
        theirs._update_categorical(onehot[np.argsort(fitness, kind="stable")])
        state = strategy.tell(state, population, fitness)
        ours = [state.choices.q[i, :k][::-1] for i, k in enumerate((4, 2, 3))]
        for q, their_q in zip(ours, theirs._q, strict=True):
            assert_allclose(q, their_q[: len(q)], rtol=1e-5)
        assert_allclose(state.choices.Delta, theirs._Delta, rtol=1e-5)


def test_centering_and_margin_are_those_of_cmaes() -> None:
    """From random states: inner and outer cells, succeeded or not, wide and narrow."""
    rng = np.random.default_rng(0)
    k, n = 7, 6
    table = cells((tuple(np.arange(1, k) / k),) * n)
    alpha = 1 - 0.73 ** (1 / n)
    kinds = set()
    for _ in range(60):
        theirs = peer((integer(k),) * n, population_size=10)
        mean, deviation = rng.uniform(-0.1, 1.1, n), 10 ** rng.uniform(-2.5, -0.3, n)
        A, p_leave = 10 ** rng.uniform(-0.5, 1, n), rng.uniform(alpha, 0.5, n)
        v = mean + A * deviation * rng.normal(size=(10, n))
        # In units of cells, whose centers are the integers.
        theirs._mean, theirs._A, theirs._pmut = mean * k - 0.5, A.copy(), p_leave.copy()
        theirs._sigma, theirs._C = 1.0, np.diag((deviation * k) ** 2)
        good, left = centered(table, mean, v)
        assert_allclose(good * k - 0.5, theirs._integer_centering(v * k - 0.5), atol=1e-9)
        assert_array_equal(left, theirs._int_succ)
        theirs._margin_correction()
        new, margin = with_margin(table, mean, deviation, Margin(A, p_leave), left, alpha)
        assert_allclose(new * k - 0.5, theirs._mean, atol=1e-6)
        assert_allclose(margin.A, theirs._A, rtol=1e-5)
        assert_allclose(margin.p_leave, theirs._pmut, rtol=1e-6)
        kinds |= set(zip(left.tolist(), (np.abs(mean - 0.5) < 0.5 - 1 / k).tolist(), strict=True))
    assert len(kinds) == 4


@pytest.mark.parametrize("rounding", [-1e-14, 0.0, 1e-14])
@pytest.mark.parametrize("deviation", [1e-9, 0.01, 0.2, 1e6])
def test_a_mean_exactly_on_an_edge(monkeypatch: pytest.MonkeyPatch, rounding: float, deviation: float) -> None:
    """Whichever way the tail of half the probability is rounded: A stays positive, the mean between the edges."""
    monkeypatch.setattr("blackbox.es.margin.upper_tail", lambda z: upper_tail(z) + rounding)
    table = cells((integer(10)[1],) * 9)
    edges = np.array(integer(10)[1])
    for mean in (edges, np.nextafter(edges, 1.0), np.nextafter(edges, 0.0)):
        for left in (True, False):
            margin = Margin(np.ones(9), np.full(9, 0.3))
            new, margin = with_margin(table, mean, np.full(9, deviation), margin, np.full(9, left), 0.07)
            assert np.isfinite(margin.A).all() and (margin.A > 0).all()
            assert (np.abs(new - mean)[1:-1] <= 0.1 + 1e-12).all()


def square(x: np.ndarray) -> float:
    return float(np.sum((6 * x - 2) ** 2))


@pytest.mark.parametrize(
    ("layout", "f", "target"),
    [
        ((FLOAT,) * 4 + (("choice", 2),) * 4, lambda x, z, c: square(x) + np.sum(c != 1), 1e-5),
        ((integer(21),) * 5, lambda x, z, c: float(np.sum((z - 7) ** 2)), 0.5),
        (
            (FLOAT,) * 2 + (integer(21),) * 2 + (("choice", 4),) * 2,
            lambda x, z, c: square(x) + float(np.sum((z - 7) ** 2)) + np.sum(c != 2),
            1e-5,
        ),
    ],
    ids=["sphere and onemax", "sphere of integers", "sphere, integers, choices"],
)
def test_needs_no_more_evaluations_than_cmaes(layout: Layout, f: Objective, target: float) -> None:
    def ours(seed: int) -> float:
        strategy, count = CatCMA(sigma0=0.2, layout=layout), 0
        state = strategy.init(bb.key(seed), np.full(width(layout), 0.5))
        while count < 5000:
            population = strategy.ask(state)
            fitness = np.array([f(*decode(layout, row)) for row in population])
            count += len(population)
            if fitness.min() < target:
                return count
            state = strategy.tell(state, population, fitness)
        return np.inf

    def theirs(seed: int) -> float:
        other, count, none = peer(layout, seed + 1), 0, np.array([])
        while count < 5000:
            told = []
            for _ in range(other.population_size):
                s = other.ask()
                x, z = (none if part is None else part for part in (s.x, s.z))
                told.append((s, f(x, z, none if s.c is None else np.argmax(s.c, axis=1))))
            count += len(told)
            if min(value for _, value in told) < target:
                return count
            other.tell(told)
        return np.inf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # cmaes takes medians of empty histories
        reference = np.median([theirs(seed) for seed in range(15)])
    assert np.median([ours(seed) for seed in range(15)]) <= 1.25 * reference


def test_booleans_are_learned_as_fast_as_choices_of_two() -> None:
    layout: Layout = (FLOAT,) * 3 + (integer(2),) * 5
    strategy, counts = CatCMA(sigma0=0.2, layout=layout), []
    for seed in range(5):
        state, count = strategy.init(bb.key(seed), np.full(8, 0.5)), 0
        while count < 4000:
            population = strategy.ask(state)
            fitness = ((6 * population[:, :3] - 2) ** 2).sum(axis=1) + (population[:, 3:] < 0.5).sum(axis=1)
            count += len(population)
            if fitness.min() < 1e-5:
                break
            state = strategy.tell(state, population, fitness)
        counts.append(count)
    assert np.median(counts) < 1000  # about 500; as integers of two cells about 1200


def test_stops_when_nothing_changes() -> None:
    for layout in (MIXED, (("choice", 3),) * 3):
        strategy = CatCMA(sigma0=0.2, layout=layout)
        states = run(strategy, np.full(width(layout), 0.5), lambda u: np.zeros(len(u)), 120)
        assert not any(strategy.stop(states[0]).values())
        assert strategy.stop(states[-1])["tolfun"]
    assert set(strategy.stop(states[0])) == {"tolfun"}


def test_recommends_cell_centers_and_one_category() -> None:
    strategy = CatCMA(sigma0=0.2, layout=MIXED)
    x = strategy.recommend(run(strategy, np.full(12, 0.5), mixed_sphere, 150)[-1])
    assert_allclose(x[[0, 5, 8]], [0.3, 0.25, 0.25], atol=1e-12)
    assert_array_equal(x[[2, 3, 4, 7, 9, 10]], [1, 0, 0, 1, 0, 1])


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_minimize_finds_the_best_branch_of_a_conditional_space(direction: str) -> None:
    space = bb.Space(
        {
            "kernel": bb.Choice({"rbf": bb.Space({"gamma": bb.Float(1e-4, 10, log=True)}), "linear": None}),
            "degree": bb.Int(1, 9),
            "layers": bb.Int(1, 64, log=True),
            "shrink": bb.Bool(),
            "C": bb.Float(1e-2, 1e2, log=True),
        }
    )
    sign = 1 if direction == "minimize" else -1

    def f(x: dict[str, Any]) -> float:
        kernel = 1.0 if x["kernel"] == "linear" else np.log10(x["gamma"] / 0.1) ** 2
        rest = abs(x["degree"] - 3) + abs(np.log2(x["layers"] / 16)) + (not x["shrink"]) + np.log10(x["C"]) ** 2
        return sign * float(kernel + rest)

    for seed in range(3):
        result = bb.minimize(f, space, method="cat-cma", budget=800, seed=seed, direction=direction)
        assert {k: result.x[k] for k in ("kernel", "degree", "layers", "shrink")} == {
            "kernel": "rbf", "degree": 3, "layers": 16, "shrink": True,
        }  # fmt: skip
        assert sign * result.value < 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popsize": 2}, "popsize must be an integer >= 3, got 2"),
        ({"sigma0": 0.0}, "sigma0 must be a finite number and > 0, got 0.0"),
        ({"layout": (("real",),)}, r"layout must consist of .*; got \('real',\)"),
        ({"layout": (("choice", 0),)}, r"layout must consist of .*; got \('choice', 0\)"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(bb.SettingError, match=message):
        bb.create("cat-cma", **settings)


def test_a_layout_of_other_dimension_is_refused() -> None:
    with pytest.raises(bb.SettingError, match="layout must have as many coordinates as x0, 3; got 12"):
        CatCMA(layout=MIXED).init(bb.key(0), np.zeros(3))


def test_weights_are_those_of_cma_es() -> None:
    """The weights of ranks do not depend on the dimension, so choices and numbers share them."""
    assert_array_equal(constants(9, 1).positive, constants(9, 20).positive)
