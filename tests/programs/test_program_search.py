"""Regularised evolution of programs: ageing, the cache, replay, resumption; and that it finds what it shall."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import blackbox as bb
from blackbox.errors import CheckpointError, SettingError, TellError
from blackbox.programs import (
    ADAMW,
    GRADIENT,
    LION,
    MOMENTUM,
    Draws,
    Program,
    RegularizedEvolution,
    SearchState,
    analysis,
    descend,
    from_json,
    funnel,
    mutate,
    parse,
    search,
    to_json,
)

SCALES, BEST = np.geomspace(1e-3, 1.0, 6), (-1.0) ** np.arange(6)


def ill_scaled(program: Program) -> float:
    """Loss after 15 steps on a quadratic whose curvatures differ by a thousand: what ignores scales is better."""
    rates = np.array([[0.03], [0.1], [0.3], [1.0]])
    w = descend(
        program, lambda w, t: SCALES * (w - BEST), np.zeros((4, 6)), lr=lambda t: rates * (1 - t / 15), steps=15
    )
    with np.errstate(all="ignore"):
        loss = np.mean((w - BEST) ** 2, axis=1)
    return float(np.min(np.where(np.isfinite(loss), loss, np.inf)))


def length(program: Program) -> float:
    """Of what a program computes, as fitness must be."""
    return float(len(analysis(program).program.statements))


EVOLUTION = RegularizedEvolution(start=GRADIENT, popsize=20, tournament=4)


def test_the_first_child_is_the_start_and_others_are_mutations_of_members() -> None:
    state = EVOLUTION.init(bb.key(0))
    assert state.population == ((GRADIENT, analysis(GRADIENT).key),) * 20
    children = EVOLUTION.ask(state, 6)
    assert children[0] == GRADIENT and GRADIENT not in children[1:]
    assert EVOLUTION.ask(state, 3, first=3) == children[3:]
    assert EVOLUTION.ask(state, 6) == children


def test_the_oldest_dies_whatever_its_fitness() -> None:
    state = EVOLUTION.init(bb.key(0))
    best = LION
    state = EVOLUTION.tell(state, [best], [-1.0])
    for _ in range(19):
        assert best in [member.program for member in state.population]
        state = EVOLUTION.tell(state, [MOMENTUM], [5.0])
    assert state.population[0].program == best
    state = EVOLUTION.tell(state, [MOMENTUM], [None])
    assert [member.program for member in state.population] == [MOMENTUM] * 20
    assert EVOLUTION.recommend(state) == analysis(best).program


def test_the_best_of_a_tournament_is_the_parent() -> None:
    strategy = RegularizedEvolution(start=GRADIENT, popsize=4, tournament=60)
    state = strategy.tell(strategy.init(bb.key(0)), [ADAMW, LION, MOMENTUM, GRADIENT], [3.0, 1.0, math.nan, 2.0])
    longest = len(LION.statements) + 1
    for child in strategy.ask(state, 20):
        assert len(set(LION.statements) - set(child.statements)) <= 1
        assert len(child.statements) <= longest


def test_failures_rank_last() -> None:
    state = EVOLUTION.init(bb.key(0))
    state = EVOLUTION.tell(state, [LION, ADAMW, MOMENTUM], [math.nan, math.inf, 7.0])
    assert [state.fitness[analysis(program).key] for program in (LION, ADAMW)] == [math.inf, math.inf]
    assert state.elites == (analysis(MOMENTUM).program,)
    nothing = EVOLUTION.tell(EVOLUTION.init(bb.key(0)), [LION], [-math.inf])
    assert EVOLUTION.recommend(nothing) == GRADIENT


def test_what_is_known_is_not_evaluated_again() -> None:
    seen: list[str] = []

    def objective(program: Program) -> float:
        seen.append(analysis(program).key)
        assert analysis(program).program == program and "g" in analysis(program).depends_on
        return ill_scaled(program)

    state = search(EVOLUTION, EVOLUTION.init(bb.key(1)), objective, evaluations=60, batch=7)
    assert len(seen) == len(set(seen)) == state.evaluations == 60
    assert state.drawn == state.saved + state.rejected + 60
    assert state.saved > 60  # most mutations of a short program change nothing or have been there


def test_a_program_without_the_gradient_fails_unseen() -> None:
    state = EVOLUTION.init(bb.key(0))
    program = parse("update = w * lr")
    assert EVOLUTION.known(state, program) == math.inf
    assert EVOLUTION.known(state, LION) is None
    state = EVOLUTION.tell(state, [program], [None])
    assert (state.rejected, state.evaluations, state.elites) == (1, 0, ())


def test_the_same_seed_gives_the_same_search_and_another_another() -> None:
    runs = [search(EVOLUTION, EVOLUTION.init(bb.key(seed)), length, evaluations=40) for seed in (3, 3, 4)]
    assert to_json(runs[0]) == to_json(runs[1]) != to_json(runs[2])


def test_a_stored_search_goes_on_with_the_same_bits() -> None:
    strategy = RegularizedEvolution(start=ADAMW, popsize=15, tournament=3, patience=25)
    whole = search(strategy, strategy.init(bb.key(5)), ill_scaled, evaluations=60, batch=4)
    states: list[SearchState] = []
    search(strategy, strategy.init(bb.key(5)), ill_scaled, evaluations=25, batch=4, callback=states.append)
    resumed = from_json(to_json(states[-2]))
    assert to_json(resumed) == to_json(states[-2])
    assert to_json(search(strategy, resumed, ill_scaled, evaluations=60, batch=4)) == to_json(whole)


def test_states_are_not_changed() -> None:
    state = search(EVOLUTION, EVOLUTION.init(bb.key(0)), length, evaluations=10)
    before = to_json(state)
    search(EVOLUTION, state, length, evaluations=20)
    assert to_json(state) == before


def test_children_may_be_told_late_and_in_any_order() -> None:
    state = EVOLUTION.init(bb.key(7))
    children = EVOLUTION.ask(state, 6)
    now = state
    for child in reversed(children):  # while others were told
        now = EVOLUTION.tell(now, [child], [None if EVOLUTION.known(now, child) is not None else length(child)])
    assert [member.program for member in now.population[-6:]] == children[::-1]
    together = EVOLUTION.tell(state, children, [length(child) for child in children])
    assert dict(now.fitness) == dict(together.fitness)


def test_without_progress_the_population_is_the_best_again() -> None:
    strategy = RegularizedEvolution(start=GRADIENT, popsize=5, patience=8)
    state = strategy.tell(strategy.init(bb.key(0)), [LION, *[MOMENTUM] * 7], [1.0, *[2.0] * 7])
    assert state.restarts == 0 and {member.program for member in state.population} == {MOMENTUM}
    state = strategy.tell(state, [MOMENTUM], [None])
    assert state.restarts == 1 and {member.program for member in state.population} == {analysis(LION).program}


def test_evolution_finds_what_ignores_scales() -> None:
    strategy = RegularizedEvolution(start=GRADIENT, popsize=40, tournament=6)
    state = search(strategy, strategy.init(bb.key(2)), ill_scaled, evaluations=100, batch=5)
    assert ill_scaled(strategy.recommend(state)) < 0.2 * ill_scaled(GRADIENT)
    values = [ill_scaled(program) for program in state.elites]
    assert values == sorted(values) and len(set(state.elites)) == 32


def test_a_funnel_lets_through_the_best_of_each_stage() -> None:
    programs = [GRADIENT, MOMENTUM, LION, ADAMW, parse("update = lr * g")]
    failing = analysis(LION).program
    found = funnel(programs, [(length, 3), (lambda p: math.nan if p == failing else -length(p), 2)])
    assert [finalist.program for finalist in found] == [analysis(MOMENTUM).program, analysis(GRADIENT).program]
    assert found[0].values == (3.0, -3.0)


def test_draws_are_uniform_normal_and_independent() -> None:
    draws = Draws(bb.key(0), 3, 4)
    uniform = np.array([draws.uniform() for _ in range(2000)])
    normal = np.array([draws.normal() for _ in range(2000)])
    assert uniform.min() > 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.03
    assert abs(normal.mean()) < 0.1 and abs(normal.std() - 1) < 0.06
    assert {draws.integer(3) for _ in range(60)} == {0, 1, 2}
    assert len({Draws(bb.key(k), g, m).uniform() for k in range(3) for g in range(3) for m in range(3)}) == 27


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popsize": 0}, "popsize must be an integer >= 1, got 0"),
        ({"tournament": 1.5}, "tournament must be an integer >= 1, got 1.5"),
        ({"memory": 5}, "memory must be a finite number and <= 4, got 5"),
        ({"patience": 0}, "patience must be an integer >= 1, got 0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        RegularizedEvolution(start=GRADIENT, **settings)  # type: ignore[arg-type]


def test_wrong_tells_are_refused() -> None:
    state = EVOLUTION.init(bb.key(0))
    with pytest.raises(TellError, match="a number for each of the 2 programs, got 1"):
        EVOLUTION.tell(state, [LION, ADAMW], [1.0])
    with pytest.raises(TellError, match="for a program that is not known, got None"):
        EVOLUTION.tell(state, [LION], [None])
    with pytest.raises(SettingError, match="key must be two uint32 words"):
        EVOLUTION.init(np.zeros(3))


@pytest.mark.parametrize("part", ["format", "key", "population", "programs", "elites", "fitness", "drawn"])
def test_damaged_states_are_refused(part: str) -> None:
    good = json.loads(to_json(search(EVOLUTION, EVOLUTION.init(bb.key(0)), length, evaluations=5)))
    bad = {"population": [999], "programs": ["update = ("], "elites": ["update = 1"], "fitness": [1]}
    for value in (bad.get(part, "x"), 3):
        if (part, value) != ("drawn", 3):
            with pytest.raises(CheckpointError, match="search: "):
                from_json(json.dumps({**good, part: value}))
    del good[part]
    with pytest.raises(CheckpointError, match="search: "):
        from_json(json.dumps(good))
    with pytest.raises(CheckpointError, match="search: "):
        from_json("{")


def test_mutation_ends_where_nothing_fits() -> None:
    program = parse("update = g * lr")
    assert analysis(mutate(program, Draws(bb.key(0)), longest=1, memory=0)).key
