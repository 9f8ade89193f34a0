"""NSGA-II: fronts, crowding, crossover and mutation as the paper has them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import blackbox as bb
from blackbox.arrays import while_loop
from blackbox.ga.crossover import simulated_binary
from blackbox.ga.mating import polynomial
from blackbox.ga.nsga2 import NSGA2, crowding_distances, fronts


def test_fronts_are_peeled_one_by_one() -> None:
    f = np.random.default_rng(0).integers(0, 6, (50, 3)).astype(float)
    expected, left = np.full(50, -1), np.ones(50, dtype=bool)
    for number in range(50):
        beaten = [any((f[j] <= f[i]).all() and (f[j] < f[i]).any() for j in np.flatnonzero(left)) for i in range(50)]
        peeled = left & ~np.array(beaten)
        expected[peeled] = number
        left &= ~peeled
    assert np.array_equal(fronts(f), expected)


def test_crowding_is_the_gap_between_neighbors_of_the_same_front() -> None:
    f = np.array([[0.0, 4.0], [1.0, 2.0], [3.0, 1.0], [4.0, 0.0], [5.0, 5.0], [4.5, 9.0]])
    front = fronts(f)
    assert front.tolist() == [0, 0, 0, 0, 1, 1]
    crowding = crowding_distances(f, front)
    assert crowding.tolist() == [np.inf, 3 / 4 + 3 / 4, 3 / 4 + 2 / 4, np.inf, np.inf, np.inf]


def test_survivors_are_whole_fronts_then_the_least_crowded() -> None:
    strategy = NSGA2(popsize=4, objectives=2)
    state = strategy.init(bb.key(0), np.full(2, 0.5))
    f = np.array([[9.0, 9.0], [0.0, 4.0], [1.0, 3.0], [1.1, 2.9], [2.5, 1.0], [4.0, 0.0]])
    rows = np.linspace(0, 1, 12).reshape(6, 2)
    told = strategy.tell(state, rows, f)
    assert sorted(told.fitness.tolist()) == sorted(f[[1, 5, 4, 3]].tolist())
    assert {tuple(r) for r in told.population.tolist()} == {tuple(r) for r in rows[[1, 5, 4, 3]].tolist()}


def test_failed_members_and_points_outside_the_box_do_not_survive() -> None:
    strategy = NSGA2(popsize=4, objectives=2)
    state = strategy.init(bb.key(0), np.full(2, 0.5))
    good = np.random.default_rng(0).random((4, 2))
    state = strategy.tell(state, good, good)
    rows = np.array([[0.1, 0.1], [2.0, 0.0], [0.2, 0.2]])
    told = strategy.tell(state, rows, np.array([[-1.0, np.nan], [-5.0, -5.0], [np.inf, 0.0]]))
    assert sorted(told.fitness.tolist()) == sorted(good.tolist())


def test_crossover_keeps_the_mean_of_children_and_the_box() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 200_000, 1))
    low, high = np.minimum(a, b), np.maximum(a, b)
    c, d = simulated_binary(low, high, rng.random(a.shape), np.array([15.0]), (0.0, 1.0))
    assert c.min() >= 0
    assert d.max() <= 1
    inside, outside = (c >= low).mean(), (c < low).mean()
    assert abs(inside - outside) < 0.2  # contracts about as often as it spreads
    wide = (low > 0.4) & (high < 0.6)  # bounds do not matter there, and SBX is symmetric
    assert np.allclose((low + high)[wide].mean(), (c + d)[wide].mean(), atol=1e-4)
    spread = np.median(((d - c) / (high - low))[wide])
    assert abs(spread - 1) < 0.01


def test_mutation_has_the_papers_distribution() -> None:
    u = (np.arange(100_000) + 0.5)[:, None] / 100_000
    moved = polynomial(np.full(u.shape, 0.5), u, np.array([20.0])) - 0.5
    assert abs(np.mean(moved)) < 1e-4
    # Far from the bounds, P(|delta| > t) = (1 - t)^(eta + 1).
    assert abs(np.mean(np.abs(moved) > 0.05) - 0.95**21) < 0.01
    edges = polynomial(np.array([[0.0], [1.0]]), np.array([[0.01], [0.99]]), np.array([20.0]))
    assert edges.tolist() == [[0.0], [1.0]]


def test_no_child_is_a_copy_of_its_parent() -> None:
    strategy = NSGA2(popsize=40, objectives=2, layout=(("float",), ("choice", 3), ("int", (0.5,))))
    state = strategy.init(bb.key(0), np.full(5, 0.5))
    for _ in range(20):
        population = strategy.ask(state)
        state = strategy.tell(state, population, population[:, :2])
        children = strategy.ask(state)
        numbers = np.column_stack([children[:, 0], children[:, 4], children[:, 1:4].argmax(1)])
        parents = np.column_stack([state.population[:, 0], state.population[:, 4], state.population[:, 1:4].argmax(1)])
        copies = sum((numbers[i] == parents).all(1).any() for i in range(40))
        assert copies < 8  # a choice may be mutated to what it was


@pytest.mark.parametrize("popsize", [6, 7])
def test_members_do_not_depend_on_where_asking_begins(popsize: int) -> None:
    strategy = NSGA2(popsize=popsize, objectives=2)
    state = strategy.init(bb.key(0), np.full(3, 0.5))
    for _ in range(3):
        population = strategy.ask(state)
        state = strategy.tell(state, population, population[:, :2])
    rows = np.concatenate([strategy.ask(state, first=i * popsize) for i in range(4)])
    for first in range(2 * popsize):
        assert np.array_equal(strategy.ask(state, first=first), rows[first : first + popsize])


def test_two_children_share_what_their_parents_have() -> None:
    strategy = NSGA2(popsize=200, objectives=2)
    state = strategy.init(bb.key(0), np.full(50, 0.5))
    population = strategy.ask(state)
    state = strategy.tell(state, population, population[:, :2])
    children = strategy.ask(state).reshape(100, 2, 50)
    taken = np.array([np.isin(children[i], state.population).mean() for i in range(100)])
    assert 0.4 < taken.mean() < 0.65  # half of the variables, and all where a pair is not crossed
    middle = np.sort(children.mean((1, 2)))  # crossover keeps the mean of a pair, and mutation is rare
    assert np.all(np.abs(middle - 0.5) < 0.2)


def test_options_stay_one_of_each() -> None:
    strategy = NSGA2(popsize=30, objectives=2, layout=(("choice", 3), ("float",)))
    state = strategy.init(bb.key(0), np.full(4, 0.5))
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(10):
        population = strategy.ask(state)
        state = strategy.tell(state, population, rng.random((30, 2)))
        seen.append(strategy.ask(state)[:, :3])
    options = np.concatenate(seen).argmax(1)
    assert set(options.tolist()) == {0, 1, 2}


def test_runs_as_one_jax_program() -> None:
    strategy = NSGA2(popsize=20, objectives=2)

    def both(x: jax.Array) -> jax.Array:
        return jax.numpy.stack([x[:, 0], 1 + x[:, 1:].sum(1) - x[:, 0]], axis=1)

    @jax.jit
    def generation(state, _):  # type: ignore[no-untyped-def]
        population = strategy.ask(state)
        return strategy.tell(state, population, both(population)), None

    state = strategy.init(bb.key(0), jax.numpy.full(4, 0.5))
    state, _ = jax.lax.scan(generation, state, None, length=60)
    values = np.asarray(state.fitness)
    assert bb.hypervolume(values, [1.1, 1.1]) > 0.65
    assert (np.asarray(state.front) == 0).all()


def test_while_loop_is_the_same_inside_and_outside_of_programs() -> None:
    def run(start):  # type: ignore[no-untyped-def]
        return while_loop(lambda n: n < 100, lambda n: 2 * n, start)

    assert run(np.int32(3)) == 192
    assert int(jax.jit(run)(jax.numpy.int32(3))) == 192
    assert int(run(jax.numpy.int32(3))) == 192


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popsize": 3}, "popsize must be an integer >= 4"),
        ({"objectives": 0}, "objectives must be an integer >= 1"),
        ({"objectives": None}, "objectives must be of type int, by default 1"),
        ({"low": 1.0}, "low must be below high"),
        ({"layout": (("real",),)}, "layout must consist of"),
    ],
)
def test_settings_are_checked(settings, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(bb.SettingError, match=message):
        NSGA2(**settings)


def test_fitness_has_a_number_for_each_objective() -> None:
    strategy = NSGA2(popsize=4, objectives=2)
    state = strategy.init(bb.key(0), np.full(2, 0.5))
    population = strategy.ask(state)
    for wrong in (np.zeros(4), np.zeros((4, 3)), np.zeros((3, 2))):
        with pytest.raises(bb.TellError, match="fitness must be an array, 2 numbers for each of the 4 rows"):
            strategy.tell(state, population, wrong)
