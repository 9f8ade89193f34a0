"""NSGA-III: reference directions, normalization, niches, and fronts of three objectives beside NSGA-II's."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.ga.directions import divisions_for, reference_directions
from blackbox.ga.niching import associated, niched, normalized
from blackbox.ga.nsga2 import fronts
from blackbox.ga.nsga3 import NSGA3

FRONT = reference_directions(3, (12,))  # of DTLZ2: its points in these directions


def dtlz2(x: Any) -> Any:
    """Deb, Thiele, Laumanns & Zitzler 2002, with three objectives; the front is a part of the sphere."""
    xp = jnp if isinstance(x, jax.Array) else np
    g = 1 + ((x[:, 2:] - 0.5) ** 2).sum(1)
    a, b = np.pi / 2 * x[:, 0], np.pi / 2 * x[:, 1]
    return xp.stack([g * xp.cos(a) * xp.cos(b), g * xp.cos(a) * xp.sin(b), g * xp.sin(a)], 1)


def run(strategy: Any, objective: Any, generations: int, seed: int = 0, d: int = 7) -> Any:
    state = strategy.init(bb.key(seed), np.random.default_rng(seed).random(d))
    for _ in range(generations):
        population = strategy.ask(state)
        state = strategy.tell(state, population, objective(population))
    return state


def inverted_distance(values: Any) -> float:
    """IGD: from the points of the front to the nearest member, on average."""
    return float(np.linalg.norm(FRONT[:, None] - values[None], axis=2).min(1).mean())


@pytest.mark.parametrize(("objectives", "divisions"), [(1, (4,)), (2, (99,)), (3, (12,)), (5, (6,)), (8, (3, 2))])
def test_directions_are_those_of_das_and_dennis(objectives: int, divisions: tuple[int, ...]) -> None:
    found = reference_directions(objectives, divisions)
    assert len(found) == sum(math.comb(p + objectives - 1, objectives - 1) for p in divisions)
    assert np.allclose(np.linalg.norm(found, axis=1), 1)
    points = found / found.sum(1, keepdims=True)
    assert len(np.unique(points.round(12), axis=0)) == len(found)
    shares = points[: math.comb(divisions[0] + objectives - 1, objectives - 1)] * divisions[0]
    assert np.allclose(shares, shares.round(), atol=1e-12)
    assert points.min() > -1e-12
    if len(divisions) > 1:
        assert (points.min(1) > 0.5 / objectives - 1e-12).sum() == math.comb(
            divisions[1] + objectives - 1, objectives - 1
        )


def test_default_divisions_are_those_of_table_one() -> None:
    assert [divisions_for(m, 275) for m in (5, 8, 10, 15)] == [(6,), (3, 2), (3, 2), (2, 1)]
    assert divisions_for(3, 100) == (12,)
    sizes = [NSGA3(objectives=m).init(bb.key(0), np.zeros(4)).population.shape[0] for m in (3, 5, 8, 10, 15)]
    assert sizes == [92, 212, 156, 276, 136]
    assert len(NSGA3(objectives=3, popsize=40).directions) == 36
    assert NSGA3(objectives=3, evaluations=300).init(bb.key(0), np.zeros(4)).population.shape[0] == 24


def test_intercepts_are_those_of_the_plane_through_the_extremes() -> None:
    plane = np.array([2.0, 10.0, 0.5])  # intercepts
    share = np.random.default_rng(0).dirichlet(np.ones(3), 40)
    f = np.concatenate([share, np.eye(3), [[3.0, 3.0, 3.0]]]) * plane + 7
    far = np.full((3, 3), 1e300)
    s, extremes = normalized(f, fronts(f), np.asarray(1), np.full(3, 7.0), far)
    assert np.allclose(s, (f - 7) / plane)
    assert np.allclose(extremes, np.diag(plane) + 7)
    # One front on a line, through which no plane is defined: its greatest values.
    line = np.linspace(0, 1, 9)[:, None] * [1.0, 1.0, 0.0] + np.linspace(1, 0, 9)[:, None] * [0.0, 0.0, 4.0]
    s, _ = normalized(line, fronts(line), np.asarray(0), np.zeros(3), far)
    assert np.allclose(s, line / [1.0, 1.0, 4.0])


def test_members_belong_to_the_nearest_line() -> None:
    s = np.random.default_rng(0).random((30, 3))
    niche, distance = associated(s, FRONT)
    every = np.linalg.norm(s[:, None] - (s @ FRONT.T)[:, :, None] * FRONT[None], axis=2)
    assert np.array_equal(niche, every.argmin(1))
    assert np.allclose(distance, every.min(1))


def test_niches_are_filled_as_by_the_papers_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        s, front = rng.random((40, 3)), rng.integers(0, 3, 40)
        directions = reference_directions(3, (4,))
        niche, distance = associated(s, directions)
        level, _ = niched(s, front, np.asarray(1), directions, rng.random(40 + len(directions)))
        candidates = np.flatnonzero(front == 1)
        before = np.bincount(niche[front == 0], minlength=len(directions))
        for k in range(1, len(candidates)):
            count, left = before.copy(), np.bincount(niche[candidates], minlength=len(directions))
            for _ in range(k):  # algorithm 4: how many each direction gets, up to the order of equal ones
                j = min(np.flatnonzero(left), key=count.__getitem__)
                count[j], left[j] = count[j] + 1, left[j] - 1
            taken = candidates[np.argsort(level[candidates], kind="stable")[:k]]
            mine = before + np.bincount(niche[taken], minlength=len(directions))
            assert np.array_equal(np.sort(mine), np.sort(count))
        for j in np.unique(niche[candidates]):
            own = candidates[niche[candidates] == j]
            first = (niche[front == 0] == j).sum()
            assert sorted(level[own]) == list(range(first, first + len(own)))
            if first == 0:
                assert own[level[own].argmin()] == own[distance[own].argmin()]


def test_fronts_are_more_even_than_those_of_nsga2() -> None:
    """At 150 generations of 92, as many as NSGA-II has; the paper's figures are for 250."""
    distance, volume = {}, {}
    for name in ("nsga-ii", "nsga-iii"):
        state = run(bb.create(name, popsize=92, objectives=3), dtlz2, 150)
        distance[name] = inverted_distance(state.fitness)
        volume[name] = bb.hypervolume(state.fitness, np.full(3, 1.1))
    assert distance["nsga-iii"] < 0.01 < 0.05 < distance["nsga-ii"]
    whole = bb.hypervolume(FRONT, np.full(3, 1.1))  # 0.7449
    assert volume["nsga-iii"] > 0.99 * whole > volume["nsga-ii"]


def test_each_direction_has_a_member_in_the_end() -> None:
    state = run(NSGA3(popsize=28, objectives=3, divisions=(6,)), dtlz2, 120)
    niche, distance = associated(state.fitness - state.ideal, reference_directions(3, (6,)))
    assert len(np.unique(niche)) == 28
    assert np.median(distance) < 0.01


def test_scales_of_objectives_do_not_matter() -> None:
    strategy = NSGA3(popsize=20, objectives=3)
    plain = run(strategy, dtlz2, 40)
    scaled = run(strategy, lambda x: dtlz2(x) * np.array([2.0**30, 1.0, 2.0**-12]), 40)
    assert np.array_equal(plain.population, scaled.population)


def test_survivors_do_not_depend_on_the_order_of_the_members() -> None:
    strategy = NSGA3(popsize=20, objectives=3)
    state = run(strategy, dtlz2, 5)
    population = strategy.ask(state)
    order = np.random.default_rng(0).permutation(20)
    told = [strategy.tell(state, rows, dtlz2(rows)) for rows in (population, population[order])]
    for a, b in zip(*told, strict=True):
        assert np.array_equal(a, b)


def test_runs_as_one_jax_program_as_in_numpy() -> None:
    strategy = NSGA3(popsize=12, objectives=3)
    with jax.enable_x64(True):

        def generation(state: Any, _: None) -> Any:
            population = strategy.ask(state)
            return strategy.tell(state, population, dtlz2(population)), None

        def rollout(key: Any) -> Any:
            start = jnp.asarray(np.random.default_rng(0).random(7))
            return jax.lax.scan(generation, strategy.init(key, start), None, length=25)[0]

        many = jax.jit(jax.vmap(rollout))(jnp.stack([jnp.asarray(bb.key(0)), jnp.asarray(bb.key(1))]))
    assert np.allclose(many.population[0], run(strategy, dtlz2, 25).population)
    assert not np.allclose(many.population[0], many.population[1])


def test_through_minimize_with_constraints_and_mixed_variables() -> None:
    space = bb.Space({"a": bb.Float(0, 1), "b": bb.Float(0, 1), "n": bb.Int(0, 5), "c": bb.Choice(["x", "y"])})

    def objective(x: Any) -> Any:
        rest = 1 + x["n"] + (x["c"] == "x")
        return (x["a"] * x["b"] * rest, x["a"] * (1 - x["b"]) * rest, (1 - x["a"]) * rest), [0.2 - x["a"]]

    result = bb.minimize(objective, space, method="nsga-iii", objectives=3, constraints=1, budget=1500, seed=0)
    assert all(candidate.x["a"] >= 0.2 for candidate in result.pareto)
    assert np.mean([c.x["n"] == 0 and c.x["c"] == "y" for c in result.pareto]) > 0.9
    assert len(result.pareto) > 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popsize": 3}, "popsize must be an integer >= 4"),
        ({"objectives": 0}, "objectives must be an integer >= 1"),
        ({"divisions": (3, 0)}, "divisions must be an integer >= 1"),
        ({"low": 1.0}, "low must be below high"),
        ({"layout": (("real",),)}, "layout must consist of"),
    ],
)
def test_settings_are_checked(settings: Any, message: str) -> None:
    with pytest.raises(bb.SettingError, match=message):
        NSGA3(**settings)
