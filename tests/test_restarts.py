"""Restart schedules: the regimes' sizes and budgets, and that all is a function of key and account."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest
from recorder import D, Injectable, Recorder, make

from blackbox.kernels.noise import key
from blackbox.shell.restarts import MAX_DOUBLINGS, Run, next_run, run_key, start_point

POPSIZE = 10


def course(schedule, restarts, seed=0, spend=lambda run: 50 * (run.popsize or POPSIZE)):
    """The runs of an optimization in which each run spends as told, small ones at most their limit."""
    runs, spent = [Run()], []
    for _ in range(restarts):
        spent.append(min(spend(runs[-1]), runs[-1].limit or 10**9))
        runs.append(next_run(schedule, runs[-1], spent[-1], POPSIZE, key(seed)))
    return runs, spent


def test_same_changes_nothing_but_the_number():
    runs, _ = course("same", 5)
    assert runs == [Run(number) for number in range(6)]


def test_ipop_doubles_the_population_up_to_a_bound():
    runs, _ = course("ipop", 12)
    assert [run.popsize for run in runs[1:5]] == [20, 40, 80, 160]
    assert runs[-1].popsize == POPSIZE * 2**MAX_DOUBLINGS
    assert all(run.sigma_factor == 1 and run.limit is None for run in runs)


@pytest.mark.parametrize("seed", range(5))
def test_bipop_gives_each_turn_to_the_regime_that_has_spent_less(seed):
    runs, spent = course("bipop", 60, seed)
    account = {True: 0, False: 0}
    for run, following, used in zip(runs, runs[1:], spent, strict=False):
        if run.number:  # the first run counts for neither
            account[run.small] += used
        assert following.small == (account[True] < account[False])
    assert not runs[1].small
    assert runs[2].small


@pytest.mark.parametrize("seed", range(5))
def test_bipop_regimes_have_the_papers_sizes(seed):
    runs, spent = course("bipop", 60, seed)
    large = [run for run in runs[1:] if not run.small]
    assert [run.popsize for run in large[:5]] == [20, 40, 80, 160, 320]
    assert all(run.sigma_factor == 1 and run.limit is None for run in large)
    assert sum(run.small for run in runs) > 5
    last_large, used = POPSIZE, spent[0]
    for run, so_far in zip(runs[1:], spent[1:], strict=False):
        if run.small:
            assert POPSIZE <= run.popsize <= max(POPSIZE, last_large // 2)
            assert 0.01 <= run.sigma_factor <= 1
            assert run.limit == used // 2
        else:
            last_large, used = run.popsize, so_far


def test_a_schedule_is_a_function_of_key_and_account():
    assert course("bipop", 30, 1) == course("bipop", 30, 1)
    assert course("bipop", 30, 1) != course("bipop", 30, 2)


def test_a_run_survives_json():
    for run in course("bipop", 10)[0]:
        assert Run(**json.loads(json.dumps(run._asdict()))) == run


def test_keys_and_start_points_are_new_for_each_run():
    keys = [tuple(run_key(key(3), number).tolist()) for number in range(50)]
    assert keys[0] == tuple(key(3).tolist())
    assert len(set(keys)) == 50
    points = np.array([start_point(key(3), number, 4) for number in range(1, 400)])
    assert ((points > 0) & (points < 1)).all()
    assert len(np.unique(points, axis=0)) == len(points)
    assert np.abs(points.mean(axis=0) - 0.5).max() < 0.05
    assert np.array_equal(start_point(key(3), 7, 4), points[6])


# --- in the optimizer ---------------------------------------------------------------------------------------------


def constant_run(restarts, tells=900, **arguments):
    """CMA-ES on a constant function, which it gives up on quickly."""
    optimizer = make(restarts=restarts, **arguments)
    popsizes, generations = [optimizer.popsize], []
    while optimizer.evaluations < tells:
        number = optimizer.n_restarts
        candidates = optimizer.ask(optimizer.popsize)
        optimizer.tell(candidates, [1.0] * len(candidates))
        if optimizer.n_restarts != number:
            popsizes.append(optimizer.popsize)
            generations.append(optimizer.generation)
    return optimizer, popsizes, generations


def test_a_converged_run_restarts_elsewhere_by_the_schedule():
    optimizer, popsizes, generations = constant_run("ipop", 3000)
    assert popsizes[:4] == [7, 14, 28, 56]
    assert generations == sorted(set(generations))
    same, popsizes, _ = constant_run("same")
    assert set(popsizes) == {7}
    assert same.n_restarts > 2
    assert not np.allclose(optimizer.recommend(), 0)
    assert optimizer.stopped is same.stopped is None


def test_bipop_is_the_default_of_the_cma_family():
    optimizer, popsizes, _ = constant_run(None, 4000)
    assert popsizes[:2] == [7, 14]
    assert popsizes[2] < 14
    assert any(later > 14 for later in popsizes)
    assert "restarts: bipop" in optimizer.explain()
    assert "restarts: none" in make("random").explain()
    assert "restarts: same" in make("nelder-mead").explain()


def test_without_restarts_convergence_is_a_reason_to_stop():
    optimizer, _, _ = constant_run("none")
    assert "tolfun" in optimizer.stopped
    assert optimizer.ask()


def test_restarts_escape_a_local_optimum():
    def double_well(x):
        return float(min(((x - 0.7) ** 2).sum(), 0.3 + ((x + 0.5) ** 2).sum()))

    optimizer = make(x0=[-0.6] * D, sigma0=0.02)
    for _ in range(4000):
        candidate = optimizer.ask()
        optimizer.tell(candidate, double_well(candidate.x))
    assert optimizer.n_restarts > 0
    assert optimizer.best.value < 1e-6


def test_results_of_a_former_run_do_not_join_the_next_one():
    class Restarting(Injectable):
        def stop(self, state):
            return {"always": np.True_}

    strategy = Restarting()
    optimizer = make(strategy, restarts="same")
    slow, *quick = optimizer.ask(5)
    optimizer.tell(quick, [1.0] * 4)
    assert optimizer.n_restarts == 1
    optimizer.tell(slow, 0.0)
    optimizer.tell(optimizer.ask(4), [1.0] * 4)
    assert [len(fitness) for _, fitness in strategy.log] == [4, 4]
    assert optimizer.best.value == 0.0


def test_small_runs_end_when_they_have_spent_half_of_the_last_large_one():
    @dataclasses.dataclass(frozen=True)
    class Tireless(Recorder):
        """Stops after ten generations, unless it is started narrowly: then never."""

        sigma0: float = 1.0

        def stop(self, state):
            return {"done": state.generation >= 10 and self.sigma0 == 1.0}

    optimizer = make(Tireless(), restarts="bipop")
    runs = [(optimizer._search.lane.run, 0)]
    while len(runs) < 12:
        optimizer.tell(optimizer.ask(optimizer.popsize), [1.0] * optimizer.popsize)
        if optimizer.n_restarts == len(runs):
            runs.append((optimizer._search.lane.run, optimizer.evaluations))
    lengths = [after - before for (_, before), (_, after) in pairwise(runs)]
    large = [length for (run, _), length in zip(runs, lengths, strict=False) if not run.small]
    assert large[:3] == [40, 80, 160]
    last = 0
    for (run, _), length in zip(runs, lengths, strict=False):
        if run.small:
            assert last // 2 <= length < last // 2 + run.popsize
        else:
            last = length
    assert any(run.small for run, _ in runs)


def test_a_method_that_plans_its_whole_run_is_told_what_is_left_at_each_start():
    @dataclasses.dataclass(frozen=True)
    class Planner(Recorder):
        evaluations: int | None = None

        def stop(self, state):
            return {"done": state.generation >= 5}

    optimizer = make(Planner(), budget=100)
    planned = [optimizer._search.lane.strategy.evaluations]
    while optimizer.left:
        optimizer.tell(optimizer.ask(4), [1.0] * 4)
        if optimizer.n_restarts == len(planned):
            planned.append(optimizer._search.lane.strategy.evaluations)
    assert planned == [100, 80, 60, 40, 20, 1]
    assert make(Planner(evaluations=7), budget=100)._search.lane.strategy.evaluations == 7
    assert make(Planner())._search.lane.strategy.evaluations is None
