"""Several budgets: who goes on, what the method hears of it, what survives; runs that begin with earlier ones."""

from __future__ import annotations

import math
import random
import warnings

import numpy as np
import pytest
from recorder import Injectable, state_digest

from blackbox import Box, Choice, Fidelity, Float, Int, Optimizer, Space, minimize
from blackbox.errors import BudgetExhausted, DuplicateTell, SettingError, UnknownCandidate
from blackbox.journal import Journal
from blackbox.shell.replay import replay
from blackbox.shell.rungs import Rungs
from blackbox.shell.told import Told

LADDER = Fidelity(1, 27, brackets=1)
SPACE = Space({"a": Float(0, 1), "k": Choice(["p", "q"]), "n": Int(1, 5)})
METHODS = ("ego", "cat-cma", "random")


@pytest.fixture(autouse=True)
def _frequent_checkpoints(monkeypatch):
    monkeypatch.setattr("blackbox.optimizer.CHECKPOINT_GENERATIONS", 3)


def loss(x, budget) -> float:
    return (x["a"] - 0.3) ** 2 + 0.1 * (x["k"] == "q") + 0.01 * x["n"] + 1 / budget


def make(method="ego", **arguments) -> Optimizer:
    return Optimizer(SPACE, method, **{"seed": 3, "fidelity": LADDER, **arguments})


def digest(optimizer) -> str:
    """All but what is waited for, which a resume forgets."""
    optimizer.forget(list(optimizer._gate.waiting.values()))
    optimizer._member = 0
    return state_digest(optimizer)


def tell(optimizer, candidate) -> None:
    """A result, some of which fail."""
    failed = int(1e4 * candidate.x["a"]) % 7 == 0
    optimizer.tell(candidate, None if failed else loss(candidate.x, candidate.budget))


def test_budgets_end_at_most_and_are_a_factor_apart():
    assert Fidelity(1, 81).budgets == (1, 3, 9, 27, 81)
    assert Fidelity(1, 100).budgets == (1, 4, 11, 33, 100)
    assert Fidelity(0.1, 1.0, factor=2).budgets == (0.125, 0.25, 0.5, 1.0)
    assert all(isinstance(budget, int) for budget in Fidelity(np.int64(2), 20).budgets)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"least": 0, "most": 9}, "least"),
        ({"least": True, "most": 9}, "least"),
        ({"least": 1, "most": math.inf}, "most"),
        ({"least": 5, "most": 9}, "most"),
        ({"least": 1, "most": 9, "factor": 1}, "factor"),
        ({"least": 1, "most": 9, "factor": 2.5}, "factor"),
        ({"least": 1, "most": 9, "brackets": 0}, "brackets"),
        ({"least": 1, "most": 9, "brackets": 4}, "brackets"),
    ],
)
def test_a_malformed_fidelity_names_the_argument(given, named):
    with pytest.raises(SettingError, match=f"^{named} must be"):
        Fidelity(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fidelity": 3}, "fidelity must be None or a Fidelity"),
        ({"constraints": 1}, "fidelity must be None with constraints"),
        ({"method": "turbo"}, "turbo"),
        ({"method": "nelder-mead"}, "nelder-mead"),
    ],
)
def test_what_does_not_go_with_a_fidelity_is_refused(given, message):
    with pytest.raises(SettingError, match=message):
        make(**given)


def test_configurations_begin_in_the_shares_of_hyperband():
    ladder = Fidelity(1, 27)
    assert ladder == Fidelity(1, 27, brackets=4)
    starts = np.bincount([ladder.start(number) for number in range(5000)], minlength=4) / 5000
    n = np.array([27 / 4, 9 / 3, 3 / 2, 1])  # of each bracket, times s_max + 1
    np.testing.assert_allclose(starts, n / n.sum(), atol=1e-3)
    assert {LADDER.start(number) for number in range(100)} == {0}


@pytest.mark.parametrize("brackets", [1, 3])
def test_a_full_evaluation_buys_as_many_configurations_as_promised(brackets):
    ladder = Fidelity(1, 27, brackets=brackets)
    optimizer = make("random", fidelity=ladder)
    for _ in range(1500):
        candidate = optimizer.ask()
        optimizer.tell(candidate, loss(candidate.x, candidate.budget))
    search = optimizer._search
    assert len(search.rungs.rows) / search.spent == pytest.approx(ladder.configurations, rel=0.05)


def test_one_in_factor_goes_on_and_the_highest_rung_comes_first():
    optimizer = make("random")
    values = iter(range(100))
    first = optimizer.ask(9)
    assert {candidate.budget for candidate in first} == {1}
    assert all(candidate.continues is None for candidate in first)
    optimizer.tell(first, [next(values) for _ in first])
    second = optimizer.ask(4)
    assert [candidate.budget for candidate in second] == [3, 3, 3, 1]
    assert [candidate.continues for candidate in second[:3]] == [candidate.id for candidate in first[:3]]
    assert [candidate.x for candidate in second[:3]] == [candidate.x for candidate in first[:3]]
    optimizer.tell(second[:3], [5.0, 2.0, 4.0])
    third = optimizer.ask()
    assert (third.budget, third.continues, third.x) == (9, second[1].id, first[1].x)


def test_stragglers_block_nobody():
    optimizer = make("random")
    straggler, *others = optimizer.ask(10)
    optimizer.tell(others, range(9))
    assert [candidate.budget for candidate in optimizer.ask(4)] == [3, 3, 3, 1]
    optimizer.tell(straggler, -1.0)
    assert optimizer.ask().continues == straggler.id


def test_what_failed_is_never_promoted_and_no_value_at_a_small_budget_is_better():
    optimizer = make("random")
    first = optimizer.ask(9)
    optimizer.tell(first, [math.nan] * 7 + [1.0, math.inf])
    assert optimizer.best.id == first[7].id
    promoted, *rest = optimizer.ask(3)
    assert (promoted.continues, [candidate.budget for candidate in rest]) == (first[7].id, [1, 1])
    optimizer.tell(promoted, 100.0)
    assert (optimizer.best.value, optimizer.best.budget, optimizer.best.continues) == (100.0, 3, first[7].id)
    assert optimizer.recommend() == first[7].x
    optimizer.tell(rest, [0.0, 0.5])
    assert optimizer.best.value == 100.0
    going_on = optimizer.ask()
    assert going_on.continues == rest[0].id
    optimizer.fail(going_on, "out of memory")
    assert optimizer.best.value == 100.0
    assert all(candidate.continues != going_on.id for candidate in optimizer.ask(20))


def test_the_budget_is_in_full_evaluations_and_the_last_one_may_exceed_it():
    optimizer = make("random", budget=2)
    spent = 0.0
    while optimizer.left:
        assert optimizer.left == pytest.approx(2 - spent)
        candidate = optimizer.ask()
        spent += candidate.budget / 27
        if optimizer.evaluations % 2:
            assert optimizer.left == pytest.approx(max(0, 2 - spent))
        optimizer.tell(candidate, loss(candidate.x, candidate.budget))
    assert 2 <= round(spent, 9) < 3
    with pytest.raises(BudgetExhausted, match="full evaluations"):
        optimizer.ask()
    optimizer.budget = 3
    before = state_digest(optimizer)
    with pytest.raises(BudgetExhausted, match=r"less than 84: .* 1 left"):
        optimizer.ask(84)
    assert state_digest(optimizer) == before


def test_a_forgotten_promotion_is_asked_again():
    optimizer = make("random")
    optimizer.tell(optimizer.ask(3), [1, 2, 3])
    promoted = optimizer.ask()
    assert optimizer.ask().budget == 1
    optimizer.forget([promoted])
    again = optimizer.ask()
    assert (again.id, again.budget) == (promoted.id, 3)
    optimizer.tell(again, 1.0)
    with pytest.raises(DuplicateTell):
        optimizer.tell(again, 1.0)
    with pytest.raises(UnknownCandidate):
        optimizer.tell(promoted, 1.0)


def test_promote_goes_on_with_the_same_point_or_says_that_it_should_end():
    optimizer, reached = make("random"), []
    for number in range(60):
        candidate = optimizer.ask()
        while candidate is not None:
            at = candidate
            optimizer.tell(candidate, loss(candidate.x, candidate.budget))
            candidate = optimizer.promote(candidate)
            assert candidate is None or (candidate.continues, candidate.x) == (at.id, at.x)
        reached.append(at.budget)
        assert number or at.budget == 1
    assert max(reached) == 27
    assert np.mean(np.array(reached) == 1) > 0.4


@pytest.mark.parametrize("method", METHODS)
def test_results_in_any_order_and_resumes_in_the_middle_change_nothing(method, tmp_path):
    """A run that is resumed after every few results goes on as its twin does that never stops."""
    chance, path = random.Random(5), tmp_path / "run.db"
    settings = {"fidelity": Fidelity(1, 27, brackets=2)}
    whole, broken = make(method, **settings), make(method, **settings, journal=path)
    for turn in range(45):
        asked = whole.ask(4), broken.ask(4)
        assert [(c.id, c.x, c.budget, c.continues) for c in asked[0]] == [
            (c.id, c.x, c.budget, c.continues) for c in asked[1]
        ]
        order = chance.sample(range(4), chance.randint(1, 4))
        for i in order:
            tell(whole, asked[0][i])
            tell(broken, asked[1][i])
        left = [i for i in range(4) if i not in order]
        for optimizer, candidates in zip((whole, broken), asked, strict=True):
            optimizer.forget([candidates[i] for i in left])
        if turn % 5 == 4:
            broken.close()
            broken = Optimizer.resume(path)
        assert digest(whole) == digest(broken)
    assert whole.best.budget == 27
    with Journal.open(path, read_only=True) as journal:
        evaluations = list(replay(journal))
    assert len(evaluations) == whole.evaluations
    assert {e.candidate.budget for e in evaluations} == {1, 3, 9, 27}
    ids = {e.candidate.id for e in evaluations}
    assert all(e.candidate.continues in ids for e in evaluations if e.candidate.id[0] < -1)
    broken.close()


def test_late_results_and_promotions_of_before_a_resume_are_taken(tmp_path):
    path = tmp_path / "run.db"
    optimizer = make("ego", journal=path)
    late = optimizer.ask()
    while (promoted := optimizer.ask()).budget == 1:
        optimizer.tell(promoted, loss(promoted.x, 1))
    optimizer.tell(late, -1.0)
    assert optimizer.ask().continues == late.id
    optimizer.close()
    optimizer = Optimizer.resume(path)
    optimizer.tell(promoted, 0.5)
    assert (optimizer.best.id, optimizer.best.budget) == (promoted.id, 3)
    optimizer.close()
    again = Optimizer.resume(path)
    assert digest(again) == digest(optimizer)
    again.close()


def test_scores_are_shares_of_all_configurations():
    rungs = Rungs.empty(1, 3)
    low = [10.0, 20.0, 30.0, 60.0, math.nan]
    for i, value in enumerate(low):
        rungs = rungs.joined(Told(0, i, np.array([i / 9]), value, "ok"), value)
    np.testing.assert_allclose(np.exp(rungs.scores(3)), [0.1, 0.3, 0.5, 0.7, math.inf])
    for i, value in enumerate([math.nan, 2.0]):
        rungs = rungs.joined(Told(-2, i, rungs.rows[i], value, "ok", rung=1), value)
    np.testing.assert_allclose(np.exp(rungs.scores(3)), [math.inf, 1 / 4 / 3, 0.5, 0.7, math.inf])
    rungs = rungs.joined(Told(-3, 1, rungs.rows[1], 1.5, "ok", rung=2), 1.5)
    np.testing.assert_allclose(np.exp(rungs.scores(3)), [math.inf, 1 / 2 / 9, 0.5, 0.7, math.inf])


def test_methods_hear_the_scores_of_all_they_know():
    """At each tell, what the last results of the generation's members say, promoted ones included."""
    strategy = Injectable(popsize=4)
    optimizer = Optimizer(Box(-1, 1, 3), strategy, seed=1, fidelity=Fidelity(1, 9, brackets=1))
    first = optimizer.ask(3)
    optimizer.tell(first, [1.0, 2.0, 3.0])
    promoted = optimizer.ask()
    assert promoted.continues == first[0].id
    optimizer.tell(promoted, 0.1)
    optimizer.tell(optimizer.ask(), 4.0)
    ((_, fitness),) = strategy.log
    np.testing.assert_allclose(np.exp(fitness), [1 / 2 / 3, 3 / 8, 5 / 8, 7 / 8])


def test_ego_is_told_anew_what_it_knows():
    optimizer, candidate = make("ego"), None
    while optimizer.evaluations < 40 or candidate.continues is not None:
        candidate = optimizer.ask()
        optimizer.tell(candidate, loss(candidate.x, candidate.budget))
    search = optimizer._search
    values = search.lane.state.values
    np.testing.assert_array_equal(np.sort(values[~np.isnan(values)]), np.sort(search.rungs.scores(3)))
    assert optimizer.best.value < 1 / 27 + 0.03


def test_minimize_calls_the_objective_with_a_budget(tmp_path):
    seen = []

    def objective(x, budget):
        seen.append(budget)
        return loss(x, budget)

    settings = {"fidelity": LADDER, "seed": 0, "journal": tmp_path / "run.db"}
    result = minimize(objective, SPACE, budget=5, **settings)
    assert set(seen) == {1, 3, 9, 27}
    assert result.best.budget == 27
    assert 5 * 27 <= sum(seen) < 6 * 27
    assert "full evaluations" in result.stopped["budget"]
    more = minimize(objective, SPACE, budget=6, resume=True, **settings)
    assert more.evaluations == len(seen) > result.evaluations
    with pytest.raises(SettingError, match="fidelity must be"):
        minimize(objective, SPACE, budget=7, resume=True, **{**settings, "fidelity": Fidelity(1, 81)})
    with pytest.raises(SettingError, match="vectorized"):
        minimize(objective, SPACE, fidelity=LADDER, vectorized=True)


def test_a_target_counts_at_full_budget_only():
    result = minimize(lambda x, budget: budget + x["a"], SPACE, fidelity=LADDER, target=28, budget=50, seed=0)
    assert result.best.budget == 27
    assert result.value <= 28
    assert "target" in result.stopped


def test_objectives_with_a_budget_run_in_processes():
    result = minimize(loss, SPACE, fidelity=LADDER, budget=4, workers=2, seed=0)
    assert result.failures == 0
    assert result.best.budget == 27


# Warm starts


@pytest.fixture
def earlier(tmp_path):
    """The journal of a run without a fidelity."""
    path = tmp_path / "earlier.db"
    minimize(lambda x: loss(x, 27), SPACE, method="random", budget=30, seed=7, journal=path)
    return path


@pytest.mark.parametrize("method", ["ego", "cat-cma", "random", "turbo"])
def test_a_run_knows_the_earlier_one_from_the_start(method, earlier, tmp_path):
    path = tmp_path / "new.db"
    optimizer = Optimizer(SPACE, method, seed=1, budget=10, warm_start=earlier, journal=path)
    known = optimizer.best
    assert (optimizer.evaluations, optimizer.left) == (30, 10)
    for _ in range(10):
        candidate = optimizer.ask()
        optimizer.tell(candidate, loss(candidate.x, 27))
    assert optimizer.left == 0
    assert optimizer.best.value <= known.value
    optimizer.close()
    earlier.unlink()
    again = Optimizer.resume(path)
    assert (again.left, digest(again)) == (0, digest(optimizer))
    again.close()


def test_ego_goes_on_at_once_from_what_an_earlier_run_knows(earlier):
    """From its first point on it is where it would be after as many evaluations of its own."""
    optimizer = Optimizer(SPACE, "ego", seed=1, warm_start=[earlier])
    values = [loss(optimizer.ask().x, 27) for _ in range(1)]
    assert optimizer.generation == 1
    assert values[0] < optimizer.best.value + 0.02


def test_with_a_fidelity_earlier_results_are_of_full_budget_and_count_on_their_rungs(earlier, tmp_path):
    first = make("ego", warm_start=earlier, journal=tmp_path / "first.db")
    assert first.best.budget == 27
    assert np.isfinite(first._search.rungs.values[:, 3]).sum() == 30
    for _ in range(60):
        candidate = first.ask()
        first.tell(candidate, loss(candidate.x, candidate.budget))
    first.close()
    second = make("ego", seed=4, warm_start=tmp_path / "first.db", budget=5)
    one, two = first._search.rungs.values, second._search.rungs.values
    np.testing.assert_array_equal(one, two)
    assert second.left == 5
    for _ in range(20):
        if not second.left:
            break
        candidate = second.ask()
        assert candidate.continues is None or candidate.continues[0] != -1
        second.tell(candidate, loss(candidate.x, candidate.budget))
    with pytest.warns(RuntimeWarning, match="left out"):
        full = Optimizer(SPACE, "ego", seed=4, warm_start=tmp_path / "first.db")
    assert full.evaluations == np.isfinite(one[:, 3]).sum()


def test_a_checkpoint_of_an_earlier_run_is_none_of_this_one(tmp_path):
    with make("random", journal=tmp_path / "a.db") as first:
        first.tell(first.ask(3), [1, 2, 3])
        first.tell(first.ask(), 1.0)
    second = make("random", warm_start=tmp_path / "a.db")
    assert second.evaluations == 4
    first_new = second.ask(3)
    second.tell(first_new, [0.1, 5.0, 6.0])
    promoted = second.ask(2)
    assert {candidate.continues for candidate in promoted} == {None, first_new[0].id}


def test_points_outside_the_space_are_left_out(earlier):
    narrow = Space({"a": Float(0.2, 0.8), "k": Choice(["p", "q"]), "n": Int(1, 5)})
    with pytest.warns(RuntimeWarning, match="of 30 results .* are left out"):
        optimizer = Optimizer(narrow, "ego", seed=1, warm_start=earlier)
    assert 0 < optimizer.evaluations < 30
    with pytest.raises(SettingError, match="none of the 30 results"):
        Optimizer({"b": Float(0, 1)}, seed=1, warm_start=earlier)
    with pytest.raises(SettingError, match="direction"):
        Optimizer(SPACE, seed=1, warm_start=earlier, direction="maximize")
    with pytest.raises(SettingError, match="warm_start must be"):
        Optimizer(SPACE, seed=1, warm_start=3)


def test_minimize_resumes_a_run_that_began_warm_without_the_old_file(earlier, tmp_path):
    settings = {"seed": 1, "journal": tmp_path / "new.db", "warm_start": earlier}
    minimize(lambda x: loss(x, 27), SPACE, budget=5, **settings)
    earlier.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = minimize(lambda x: loss(x, 27), SPACE, budget=8, resume=True, **settings)
    assert result.evaluations == 38
