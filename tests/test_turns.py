"""Two methods that share an optimization: whose turn it is, what the second one begins with, and the way back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from recorder import D, make, state_digest

from blackbox import Box, Optimizer, SettingError
from blackbox.shell.turns import AHEAD, FAVOR, HEAD, next_turn

METHOD = "quadratic+cma-es"  # of which the first has no randomness of its own


def rugged(x):
    return float(np.sum(10 * x**2) + np.sum(1 - np.cos(12 * x)))


def advance(optimizer, evaluations):
    for _ in range(evaluations):
        candidate = optimizer.ask()
        optimizer.tell(candidate, rugged(candidate.x))


def advance_to_turn(optimizer, turn):
    while optimizer._search.turn != turn:
        advance(optimizer, 1)


def totals(optimizer):
    return [lane.total if lane else 0 for lane in optimizer._search.lanes]


def test_the_first_method_begins_and_then_neither_falls_far_behind():
    turn, used, history = 0, [0, 0], []
    for _ in range(20_000):
        used[turn] += 7
        turn = next_turn(turn, used, [0.5, None], dimension=3, has_converged=False)
        history.append(turn)
        if used[1]:
            assert used[0] >= HEAD * 3
            assert max(used) <= AHEAD * min(used) + 7 or used[1] < HEAD * 3
    switches = sum(a != b for a, b in itertools.pairwise(history))
    assert 10 < switches < 40  # turns grow with the run, rather than taking place at each generation
    assert next_turn(0, [10**9], [0.5], dimension=3, has_converged=False) == 0
    assert next_turn(0, [HEAD * 3 - 1, 0], [0.5, None], dimension=3, has_converged=False) == 0
    assert next_turn(0, [20, 0], [0.5, None], dimension=3, has_converged=True) == 1


@pytest.mark.parametrize(("bests", "share"), [([1.0, 2.0], FAVOR), ([2.0, 1.0], 1 / FAVOR), ([1.0, 1.0], 1.0)])
def test_the_method_with_the_lower_value_gets_most_evaluations(bests, share):
    turn, used = 0, [0, 0]
    for _ in range(20_000):
        used[turn] += 7
        turn = next_turn(turn, used, bests, dimension=3, has_converged=True)
    assert share / AHEAD * 0.99 <= used[0] / used[1] <= share * AHEAD * 1.01


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_value_counts_for_the_method_that_found_it_from_a_start_of_its_own(direction, workers):
    optimizer, sign = make(METHOD, direction=direction), 1 if direction == "minimize" else -1
    lowest, running = [np.inf, np.inf], []
    for _ in range(3_000):
        while len(running) < workers:
            running.append(optimizer.ask())
        candidate, search = running.pop(0), optimizer._search
        value = rugged(candidate.x)
        is_of_this_run = candidate.id[0] >= search.generation_since
        if is_of_this_run and (search.turn == 0 or search.lane.run.number > 0):
            lowest[search.turn] = min(value, lowest[search.turn])
        optimizer.tell(candidate, sign * value)
    bests = [lane.best for lane in optimizer._search.lanes]
    assert None not in bests
    assert bests[0] != bests[1]
    for turn in (0, 1):  # what was told since the open generation was opened is not in there yet
        assert lowest[turn] <= bests[turn]
        assert turn == optimizer._search.turn or lowest[turn] == bests[turn]
    more, less = np.array(totals(optimizer))[np.argsort(bests)]
    assert 1.3 * less < more < FAVOR * AHEAD * less + 50


@pytest.mark.parametrize("settings", [{"noise": True, "budget": 4000}, {"constraints": 1}])
def test_where_values_do_not_say_which_is_better_the_shares_are_equal(settings):
    optimizer = make("sep-cma-es+cma-es", **settings)
    for _ in range(3_000):
        candidate = optimizer.ask()
        constraints = {"constraints": [-1.0]} if "constraints" in settings else {}
        optimizer.tell(candidate, rugged(candidate.x), **constraints)
    assert [lane.best for lane in optimizer._search.lanes] == [None, None]
    assert max(totals(optimizer)) <= AHEAD * min(totals(optimizer)) + 50


def test_one_who_waits_goes_on_where_it_was():
    shared, alone = make(METHOD), make("quadratic")
    advance_to_turn(shared, 1)
    used = totals(shared)[0]
    assert 0 < used <= HEAD * D
    advance_to_turn(shared, 0)
    assert totals(shared)[0] == used
    advance(alone, used)
    assert np.array_equal(shared.ask().x, alone.ask().x)


def test_the_second_method_begins_at_the_best_point_and_leaves_it_to_chance_afterwards():
    optimizer = make(METHOD)
    advance_to_turn(optimizer, 1)
    lane = optimizer._search.lane
    assert np.array_equal(lane.state.mean, optimizer._search.best.row)
    assert np.array_equal(lane.state.mean, optimizer.space.encode(optimizer.best.x))
    advance(optimizer, 8_000)
    first, second = optimizer._search.lanes
    assert first.run.number > 1
    assert second.run.number > 0
    assert optimizer.n_restarts == first.run.number + second.run.number


@pytest.mark.parametrize("evaluations", [HEAD * D - 1, HEAD * D, HEAD * D + 30, 3 * HEAD * D, 2000])
def test_a_resumed_run_goes_on_in_either_turn_bit_for_bit(evaluations, tmp_path, monkeypatch):
    plain = make(METHOD)
    advance(plain, evaluations + 300)
    for checkpoints in (1, 10**9):  # from each generation's checkpoint, and from the results alone
        monkeypatch.setattr("blackbox.optimizer.CHECKPOINT_GENERATIONS", checkpoints)
        monkeypatch.setattr("blackbox.optimizer.CHECKPOINT_SECONDS", 1e9)
        path = tmp_path / f"{checkpoints}.journal"
        with make(METHOD, journal=path) as optimizer:
            advance(optimizer, evaluations)
            is_decided = len({lane.best for lane in optimizer._search.lanes if lane} - {None}) == 2
            assert is_decided == (evaluations == 2000)
        with Optimizer.resume(path) as resumed:
            advance(resumed, 300)
            assert state_digest(resumed) == state_digest(plain)


def test_late_results_of_a_former_turn_count_for_the_best_and_teach_nothing():
    optimizer = make(METHOD)
    late = []
    while optimizer._search.turn == 0:
        candidate, *late = optimizer.ask(3)
        optimizer.forget(late[1:])
        optimizer.tell(candidate, rugged(candidate.x))
    optimizer.tell(late[0], -1.0)
    assert not optimizer._search.outside
    assert optimizer.best.value == -1.0


def test_without_restarts_the_first_that_converges_is_the_end():
    optimizer = make(METHOD, restarts="none")
    while not optimizer.stopped:
        advance(optimizer, 1)
    assert "rho_end" in optimizer.stopped
    assert totals(optimizer) == [optimizer.evaluations, 0]


def test_hyperparameters_go_to_those_who_have_them():
    optimizer = make(METHOD, popsize=11, sigma0=0.1, rho_end=1e-3)
    quadratic, cma = (member.strategy for member in optimizer._search.plan.members)
    assert (quadratic.sigma0, quadratic.rho_end) == (0.1, 1e-3)
    assert (cma.sigma0, cma.popsize) == (0.1, 11)
    with pytest.raises(
        SettingError, match=r"quadratic\+cma-es has no hyperparameter 'popsiz'; .*did you mean 'popsize'"
    ):
        make(METHOD, popsiz=3)


@pytest.mark.parametrize(
    "method", ["quadratic+quadratic", "quadratic+cma-es+sobol", "quadratic+nothing", "+", "quadratic+"]
)
def test_what_is_no_pair_of_methods_is_refused(method):
    with pytest.raises(SettingError, match="method must be"):
        Optimizer(Box(0, 1, 2), method)


def test_restarts_are_those_of_each():
    assert "restarts: same, bipop" in make(METHOD).explain()
    assert "restarts: same, ipop" in make(METHOD, restarts="ipop").explain()
