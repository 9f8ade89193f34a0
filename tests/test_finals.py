"""Under noise: what finals evaluate again, what they say of the best, what survives, what they do not wait for."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from recorder import Recorder, state_digest

from blackbox import Box, Choice, Fidelity, Float, Int, Optimizer, Space, minimize
from blackbox.errors import BudgetExhausted, DuplicateTell, SettingError, UnknownCandidate
from blackbox.journal import Journal
from blackbox.shell.auto import choose_method_under_noise
from blackbox.shell.finals import FINALISTS, MOST, ending, finalists, reserve, stages
from blackbox.shell.replay import replay

BOX = Box(-1, 1, 3)
SPACE = Space({"a": Float(0, 1), "k": Choice(["p", "q"]), "n": Int(1, 5)})
METHODS = ("ego", "cma-es", "random", "nelder-mead", "quadratic+cma-es")


@pytest.fixture(autouse=True)
def _frequent_checkpoints(monkeypatch):
    monkeypatch.setattr("blackbox.optimizer.CHECKPOINT_GENERATIONS", 3)


def true(x) -> float:
    return float(((np.asarray(x) - 0.3) ** 2).sum())


class Noisy:
    """A sphere with noise, whose n-th evaluation is the same in each run."""

    def __init__(self, seed: int = 0, deviation: float = 0.3) -> None:
        self._rng, self._deviation = np.random.default_rng(seed), deviation

    def __call__(self, x) -> float:
        return true(x) + self._deviation * float(self._rng.standard_normal())


def value(candidate) -> float:
    """Noise that depends on the candidate alone, not on when it is told."""
    return true(candidate.x) + 0.3 * random.Random(repr(candidate.id)).gauss(0, 1)


def make(method="cma-es", **arguments) -> Optimizer:
    return Optimizer(BOX, method, **{"seed": 3, "budget": 60, "noise": True, **arguments})


def finished(optimizer, f=value) -> Optimizer:
    while optimizer.left:
        candidate = optimizer.ask()
        optimizer.tell(candidate, f(candidate))
    return optimizer


def into_the_finals(optimizer) -> Optimizer:
    """One whose next candidate is a repeat."""
    while optimizer.left > reserve(optimizer.budget):
        candidate = optimizer.ask()
        optimizer.tell(candidate, value(candidate))
    return optimizer


def digest(optimizer) -> str:
    """All but what is waited for, which a resume forgets."""
    optimizer.forget(list(optimizer._gate.waiting.values()))
    optimizer._member = 0
    finals = optimizer._search.finals
    arrays = (*finals.leaders, *finals[1:-1], *finals.former)
    return state_digest(optimizer) + repr([array.tolist() for array in arrays])


def shown(candidates) -> list:
    return [(c.id, np.asarray(c.x).tolist(), c.repeats) for c in candidates]


def test_the_finals_take_a_tenth_and_at_least_some_evaluations():
    assert [reserve(budget) for budget in (1, 2, 8, 20, 60, 500, 10**6)] == [0, 1, 4, 5, 6, 50, MOST]
    for searched in (*range(1, 300), 10**5):
        assert ending(searched) - reserve(ending(searched)) == searched


def test_stages_halve_the_finalists_and_spend_everything():
    for total in range(1, 1001):
        count = finalists(total)
        assert 1 <= count <= FINALISTS
        plan = stages(count, total)
        assert [size for size, _ in plan] == [count >> k for k in range(len(plan))]
        each = np.diff([0, *(repeats for _, repeats in plan)])
        assert (each > 0).all() and np.dot(each, [size for size, _ in plan]) == total


@pytest.mark.parametrize("method", METHODS)
def test_finals_evaluate_only_points_that_are_known_or_recommended(method):
    optimizer, known, recommended = make(method, budget=80), {}, None
    f = Noisy()
    while optimizer.left:
        candidate = optimizer.ask()
        in_finals = optimizer.evaluations >= 72
        assert (candidate.id[0] < -1) == in_finals == optimizer.in_finals
        if in_finals and candidate.repeats is not None:
            assert known[candidate.repeats] == candidate.x.tolist()
        elif in_finals:
            np.testing.assert_array_equal(candidate.x, recommended)
        known[candidate.id] = candidate.x.tolist()
        optimizer.tell(candidate, f(candidate.x))
        recommended = recommended if in_finals else optimizer.recommend()
    best = optimizer.best
    assert known[best.id] == best.x.tolist() == optimizer.recommend().tolist()
    assert len({tuple(x) for id, x in known.items() if id[0] < -1}) == finalists(8)


@pytest.mark.parametrize(("budget", "at_once"), [(60, 1), (60, 8), (100, 16)])
def test_the_value_of_the_best_is_unbiased(budget, at_once):
    """Of a function that is 0 everywhere but for noise of deviation 1, whose least values are far below."""
    values = []
    for seed in range(120):
        optimizer, chance, out = make("random", seed=seed, budget=budget), random.Random(seed), []
        while optimizer.left or out:
            while optimizer.left and len(out) < at_once:
                out.append(optimizer.ask())
            optimizer.tell(out.pop(0), chance.gauss(0, 1))
        values.append(optimizer.best.value)
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(120) < 0.2


def test_the_mean_is_of_the_repeats_that_chose_nothing():
    optimizer = into_the_finals(make(budget=250))  # 4 finalists in stages of 2, 4 and 9 repeats more
    first = [optimizer.ask() for _ in range(8)]
    assert {c.id[1] for c in first} == {0, 1, 2, 3}
    optimizer.tell(first, [float(c.id[1]) for c in first])  # the lower the place the better
    second = [optimizer.ask() for _ in range(8)]
    assert {c.id[1] for c in second} == {0, 1}
    optimizer.tell(second, [5.0 + c.id[1] for c in second])
    assert optimizer.best.value == pytest.approx(10 / 3)  # of all so far, as there is no other
    numbers = [10.0, 12.0, 11.0]
    for number in numbers:
        candidate = optimizer.ask()
        assert candidate.id[1] == 0
        optimizer.tell(candidate, number)
    assert (optimizer.best.value, optimizer.best.n_evaluations) == (11.0, 3)
    assert optimizer.best.standard_error == pytest.approx(1 / math.sqrt(3))


def test_without_noise_the_best_is_optimistic():
    lucky = []
    for seed in range(20):
        optimizer, f = make("random", seed=seed, noise=False), Noisy(seed)
        finished(optimizer, lambda c, f=f: f(c.x))
        lucky.append(optimizer.best.value - true(optimizer.best.x))
    assert np.mean(lucky) < -0.3


def test_the_standard_error_is_that_of_the_mean():
    errors, stated = [], []
    for seed in range(40):
        optimizer, f = make("random", seed=seed, budget=100), Noisy(seed)
        best = finished(optimizer, lambda c, f=f: f(c.x)).best
        assert best.n_evaluations >= 5
        errors.append(best.value - true(best.x))
        stated.append(best.standard_error)
    assert np.std(errors) == pytest.approx(np.sqrt(np.mean(np.square(stated))), rel=0.3)


def test_finals_find_a_better_point():
    regrets = {True: [], False: []}
    for noise, own in regrets.items():
        for seed in range(25):
            f = Noisy(seed)
            own.append(true(finished(make("random", seed=seed, budget=200, noise=noise), lambda c, f=f: f(c.x)).best.x))
    assert np.mean(regrets[True]) < 0.9 * np.mean(regrets[False])


def test_before_the_finals_and_without_a_budget_the_best_is_the_best_value():
    optimizer = make(budget=None)
    values = []
    for _ in range(50):
        candidate = optimizer.ask()
        values.append(value(candidate))
        optimizer.tell(candidate, values[-1])
    assert (optimizer.best.value, optimizer.best.n_evaluations, optimizer.best.standard_error) == (min(values), 1, None)
    optimizer.begin_finals()
    assert (optimizer.budget, optimizer.left) == (None, 6)
    repeats = optimizer.ask(6)
    assert [c.id[0] for c in repeats] == [-2, -2, -3, -4, -5, -6]
    with pytest.raises(BudgetExhausted, match="n must be at most 0 in finals that end with 56 evaluations"):
        optimizer.ask()
    optimizer.tell(repeats, [value(c) for c in repeats])
    winner = optimizer.best
    assert not optimizer.in_finals and winner.n_evaluations > 1 and optimizer.ask().id[0] >= 0
    optimizer.begin_finals()
    assert (optimizer.best.id, optimizer.best.value) == (winner.id, winner.value)  # until others are known


@pytest.mark.parametrize("method", ["ego", "cma-es", "quadratic+cma-es"])
def test_results_in_any_order_and_resumes_in_the_middle_change_nothing(method, tmp_path):
    """A run that is resumed after every few results goes on as its twin does that never stops."""
    chance, path = random.Random(5), tmp_path / "run.db"
    budget = 25 if method == "ego" else 100
    whole, broken = make(method, budget=budget), make(method, budget=budget, journal=path)
    turn = 0
    while whole.left:
        count = min(4, int(whole.left))
        asked = whole.ask(count), broken.ask(count)
        assert shown(asked[0]) == shown(asked[1])
        order = chance.sample(range(count), chance.randint(1, count))
        for i in order:
            result = None if i == 3 else value(asked[0][i])
            whole.tell(asked[0][i], result)
            broken.tell(asked[1][i], result)
        for optimizer, candidates in zip((whole, broken), asked, strict=True):
            optimizer.forget([candidates[i] for i in range(count) if i not in order])
        turn += 1
        if turn % 5 == 4 or whole.in_finals:
            broken.close()
            broken = Optimizer.resume(path)
        assert digest(whole) == digest(broken)
    assert (whole.best.id, whole.best.value) == (broken.best.id, broken.best.value)
    assert not whole.in_finals and whole.best.n_evaluations > 1
    with Journal.open(path, read_only=True) as journal:
        evaluations = list(replay(journal))
    assert len(evaluations) == budget
    points = {e.candidate.id: np.asarray(e.candidate.x).tolist() for e in evaluations}
    repeats = [e.candidate for e in evaluations if e.candidate.repeats is not None]
    assert repeats and all(points[c.repeats] == c.x.tolist() for c in repeats)
    broken.close()


def test_a_resume_between_the_beginning_of_the_finals_and_their_first_result(tmp_path):
    path = tmp_path / "run.db"
    optimizer = make(budget=100, journal=path)
    while optimizer.left > 12:
        candidate = optimizer.ask()
        optimizer.tell(candidate, value(candidate))
    late = optimizer.ask(2)  # the last ones of the search, told after the finals have begun
    first = optimizer.ask(3)
    before = digest(optimizer)
    optimizer.close()
    optimizer = Optimizer.resume(path)
    assert digest(optimizer) == before
    optimizer.tell(first[2], value(first[2]))  # asked before, told now
    assert shown(optimizer.ask(2)) == shown(first[:2])
    optimizer.tell(late, [-9.0, value(late[1])])  # likewise
    finished(optimizer)
    points = [c.tolist() for c in optimizer._search.finals.rows]
    assert late[0]._row.tolist() not in points
    optimizer.close()


def test_nothing_waits_for_repeats_that_do_not_come_back():
    optimizer = into_the_finals(make(budget=500))
    first = optimizer.ask(8)
    assert [c.id for c in first] == [(-2, place) for place in range(8)]
    assert optimizer.left_in_generation == 0
    optimizer.tell(first[1:], [5.0, 1.0, 7.0, 2.0, 8.0, 9.0, 6.0])
    second = optimizer.ask(4)  # of those that are known the best, though one is missing
    assert {c.id[1] for c in second} == {2, 4, 1, 7}
    optimizer.tell(first[0], -1.0)
    assert [c.id for c in optimizer.ask(2)] == [(-3, 0), (-4, 0)]
    assert optimizer.best.id == first[0].id


def test_failed_repeats_rank_last_and_are_no_values():
    optimizer = into_the_finals(make(budget=500))
    first = optimizer.ask(8)
    best = optimizer.best
    optimizer.fail(first[0], "no luck")
    assert optimizer.best.id == best.id
    optimizer.tell(first[1:], [math.nan, math.inf, *range(5)])
    with pytest.raises(DuplicateTell):
        optimizer.tell(first[1], 1.0)
    assert optimizer.failures == 2
    assert {c.id[1] for c in optimizer.ask(4)} == {3, 4, 5, 6}
    while optimizer.left:
        optimizer.fail(optimizer.ask())
    assert optimizer.best.id == first[7].repeats  # the one that never failed
    assert (optimizer.best.value, optimizer.best.n_evaluations) == (4.0, 1)


def test_candidates_of_another_optimizer_and_ids_that_were_never_asked_are_refused():
    optimizer, other = finished(make()), make()
    foreign = other.ask()
    with pytest.raises(UnknownCandidate):
        optimizer.tell(foreign, 1.0)
    optimizer.budget = 61
    repeat = optimizer.ask()
    optimizer.forget([repeat])
    repeat.id = (-2, 99)
    with pytest.raises(UnknownCandidate):
        optimizer.tell(repeat, 1.0)


@pytest.mark.filterwarnings("ignore:.*no finite value")
def test_where_nothing_has_a_value_there_are_no_finals():
    optimizer = make(budget=20)
    assert all(candidate.id[0] >= 0 for candidate in optimizer.ask(20))
    optimizer = make("random", budget=20)
    while optimizer.left:
        candidate = optimizer.ask()
        assert candidate.id[0] >= 0
        optimizer.fail(candidate)
    assert optimizer.best is None


def test_a_raised_budget_goes_on_with_the_search_and_has_finals_of_its_own(tmp_path):
    path = tmp_path / "run.db"
    optimizer = finished(make(journal=path))
    first = optimizer.best
    optimizer.budget = 120
    assert optimizer.ask().id[0] >= 0
    finished(optimizer)
    assert optimizer._search.finals.n_finalists == finalists(12)
    assert first.x.tolist() in [optimizer.space.decode(row).tolist() for row in optimizer._search.finals.rows]
    assert optimizer.best.n_evaluations > 1
    state = digest(optimizer)
    optimizer.close()
    again = Optimizer.resume(path)
    assert digest(again) == state
    again.close()


@pytest.mark.parametrize("budget", [96, 101, 105, 150])
def test_a_budget_that_is_changed_in_the_finals_discards_no_repeat(budget):
    optimizer = into_the_finals(make(budget=100))
    for _ in range(3):
        candidate = optimizer.ask()
        optimizer.tell(candidate, value(candidate))
    finalists_before = optimizer._search.finals.rows.tolist()
    optimizer.budget = budget
    while optimizer.in_finals and optimizer.left:
        candidate = optimizer.ask()
        assert candidate.id[0] < -1
        optimizer.tell(candidate, value(candidate))
    assert optimizer._search.finals.rows.tolist() == finalists_before
    assert optimizer.evaluations == min(budget, 100)
    assert budget != 150 or optimizer.ask().id[0] >= 0


@pytest.mark.parametrize("budget", [2, 3, 5, 7])
def test_of_tiny_budgets_a_point_that_was_evaluated_is_the_best(budget):
    told = []
    optimizer = finished(make(budget=budget), lambda c: told.append(c) or true(c.x))
    assert optimizer.best.x.tolist() in [c.x.tolist() for c in told if c.id[0] >= 0]


def test_finals_begun_by_patience_go_on_after_a_kill_and_end_the_run(tmp_path):
    path = tmp_path / "run.db"
    settings = {"method": "cma-es", "noise": True, "seed": 0, "budget": 3000, "patience": 40}
    calls = 0

    def interrupted(x):
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return true(x) + 0.3 * random.Random(calls).gauss(0, 1)

    stop = 0
    whole = minimize(interrupted, BOX, **settings)
    assert whole.stopped.keys() == {"patience"} and 40 < whole.evaluations < 3000
    calls, stop = 0, whole.evaluations - 2
    with pytest.raises(KeyboardInterrupt):
        minimize(interrupted, BOX, journal=path, **settings)
    calls, stop = whole.evaluations - 3, 0
    again = minimize(interrupted, BOX, journal=path, resume=True, **settings)
    assert again.stopped.keys() == {"patience"}
    assert (again.evaluations, again.value, again.x.tolist()) == (whole.evaluations, whole.value, whole.x.tolist())


def test_patience_sees_records_after_earlier_finals(tmp_path):
    path, count = tmp_path / "run.db", 0

    def ever_better(x):
        nonlocal count
        count += 1
        return -float(count)

    settings = {"method": "random", "noise": True, "seed": 0, "journal": path}
    minimize(ever_better, BOX, budget=20, **settings)
    result = minimize(ever_better, BOX, budget=300, patience=30, resume=True, **settings)
    assert result.evaluations == 300


def test_finals_follow_where_the_method_has_nothing_left_to_do():
    result = minimize(
        Noisy(deviation=1e-3), BOX, method="nelder-mead", restarts="none", noise=True, budget=5000, seed=0
    )
    assert result.stopped.keys() == {"method"} and result.evaluations < 5000
    assert result.best.n_evaluations > 1


def test_other_facts_of_a_journal_are_no_finals(tmp_path):
    path = tmp_path / "run.db"
    with make(noise=False, journal=path) as optimizer:
        optimizer.keep("finals", {"of": "the user"})
        optimizer.tell(optimizer.ask(3), [1.0, 2.0, 3.0])
    with Optimizer.resume(path) as again:
        assert again.evaluations == 3


def test_no_method_hears_of_repeats():
    strategy = Recorder(popsize=6)
    finished(make(strategy, budget=60))
    assert [len(fitness) for _, fitness in strategy.log] == [6] * 9


def test_points_that_are_the_same_are_one_finalist():
    space = Space({"k": Choice(["p", "q", "r"])})
    optimizer = Optimizer(space, "cat-cma", seed=0, budget=200, noise=True)
    finished(optimizer, lambda c: {"p": 0.0, "q": 1.0, "r": 2.0}[c.x["k"]] + random.Random(repr(c.id)).gauss(0, 1))
    assert 1 <= optimizer._search.finals.n_finalists <= 3
    assert optimizer.best.x == {"k": "p"}


def test_maximization_is_the_mirror_image():
    least, most = finished(make()), finished(make(direction="maximize"), lambda c: -value(c))
    assert (least.best.id, least.best.value) == (most.best.id, -most.best.value)
    assert least.best.standard_error == most.best.standard_error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"noise": 1}, "noise must be True or False; got 1"),
        ({"noise": None}, "noise must be True or False; got None"),
        ({"fidelity": Fidelity(1, 9)}, "noise must be False with a fidelity"),
        ({"constraints": 1}, "noise must be False with a fidelity, constraints"),
        ({"objectives": 2, "method": "nsga-ii"}, "noise must be False with a fidelity, constraints or several"),
    ],
)
def test_what_does_not_go_with_noise_is_refused(given, message):
    with pytest.raises(SettingError, match=message):
        make(**given)


def test_finals_without_noise_or_results_and_targets_are_refused(tmp_path):
    with pytest.raises(SettingError, match="noise must be True"):
        make(noise=False).begin_finals()
    with pytest.raises(SettingError, match="finals need a result that has a value"):
        make().begin_finals()
    path = tmp_path / "run.db"
    with pytest.raises(SettingError, match=r"target must be None under noise.*; got 0\.1"):
        minimize(Noisy(), BOX, noise=True, target=0.1, seed=0, journal=path)
    assert not path.exists()
    minimize(Noisy(), BOX, noise=True, budget=20, seed=0, journal=path)
    with pytest.raises(SettingError, match="target must be None under noise"):
        minimize(Noisy(), BOX, target=0.1, budget=30, seed=0, journal=path, resume=True)


@pytest.mark.parametrize(
    ("space", "budget", "method", "popsize"),
    [
        (BOX, 8, "sobol", None),
        (BOX, 500, "ego", None),
        (SPACE, 500, "ego", None),
        (BOX, 2500, "cma-es", 50),
        (Box(0, 1, 100), 100, "cma-es", 17),
        (SPACE, 2500, "cat-cma", 50),
        (Box(0, 1, 1000), 10**4, "lm-ma-es", 100),
        (BOX, None, "cma-es", 28),
    ],
)
def test_auto_trusts_no_single_value(space, budget, method, popsize):
    chosen = choose_method_under_noise(space, budget)
    assert (chosen.method, chosen.popsize) == (method, popsize)
    assert f"``{method}``" in choose_method_under_noise.__doc__
    optimizer = Optimizer(space, seed=0, budget=budget, noise=True)
    assert optimizer.method == method and chosen.reason in optimizer.explain()
    assert popsize is None or optimizer.popsize == popsize
    if popsize:
        assert Optimizer(space, seed=0, budget=budget, noise=True, popsize=9).popsize == 9


def test_a_journal_keeps_noise_and_a_run_without_it_is_another(tmp_path):
    settings = {"seed": 0, "journal": tmp_path / "run.db", "method": "cma-es"}
    result = minimize(Noisy(), BOX, budget=60, noise=True, **settings)
    assert (result.value, result.x.tolist()) == (result.best.value, result.best.x.tolist())
    assert result.standard_error == result.best.standard_error > 0
    assert result.stopped.keys() == {"budget"}
    with pytest.raises(SettingError, match="noise must be True as in the journal"):
        minimize(Noisy(), BOX, budget=70, resume=True, noise=False, **settings)
    more = minimize(Noisy(), BOX, budget=70, resume=True, noise=True, **settings)
    assert more.evaluations == 70


def test_a_synchronous_run_is_the_same_with_any_workers():
    def objective(x):
        return true(x) + 0.3 * random.Random(x.tobytes()).gauss(0, 1)

    settings = {"method": "cma-es", "budget": 100, "noise": True, "seed": 0, "synchronous": True}
    alone = minimize(objective, BOX, **settings)
    together = minimize(objective, BOX, workers=3, kind="thread", **settings)
    at_once = minimize(lambda X: [objective(x) for x in X], BOX, vectorized=True, **{**settings, "synchronous": False})
    assert digest(alone.optimizer) == digest(together.optimizer) == digest(at_once.optimizer)
    assert alone.value == together.value == at_once.value


def test_workers_share_the_finals():
    result = minimize(Noisy(), BOX, method="cma-es", budget=100, noise=True, seed=0, workers=4, kind="thread")
    assert result.evaluations == 100
    assert result.best.n_evaluations > 1


def test_out_of_patience_the_finals_follow():
    seen = []
    result = minimize(
        Noisy(), BOX, method="random", budget=10**4, noise=True, seed=0, patience=40,
        callbacks=[lambda snapshot: seen.append(snapshot.optimizer.in_finals)],
    )  # fmt: skip
    assert result.stopped.keys() == {"patience"}
    assert sum(seen) == reserve(result.evaluations) and result.evaluations < 200
    assert result.optimizer.budget == 10**4
    assert result.best.n_evaluations > 1


def test_explain_says_what_the_finals_are():
    optimizer = make(budget=500)
    assert "budget: 500, the last 50 evaluations will be finals" in optimizer.explain()
    assert "budget: 500, finals of 50 evaluations since 450, among 8 points" in finished(optimizer).explain()
