"""Restart schedules: the regimes' sizes and budgets, and that all is a function of key and account."""

from __future__ import annotations

import json

import numpy as np
import pytest

from blackbox.kernels.noise import key
from blackbox.restarts import MAX_DOUBLINGS, Run, next_run, run_key, start_point

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
