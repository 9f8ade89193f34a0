"""The shell: what is asked, what may be told and when, and that the course depends on nothing else."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import subprocess
import sys
import threading
import tracemalloc
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blackbox.auto import choose_method
from blackbox.errors import (
    BlackboxError,
    BudgetExhausted,
    DuplicateTell,
    NonFinite,
    SettingError,
    SpaceError,
    TellError,
    UnknownCandidate,
)
from blackbox.es.cma_es import CMAES
from blackbox.kernels.noise import uniform
from blackbox.optimizer import Candidate, Optimizer
from blackbox.space import Bool, Box, Choice, Float, Int, Permutation, Space
from blackbox.states import flatten

D = 3


def sphere(x) -> float:
    return float(((np.asarray(x) - 0.3) ** 2).sum())


def make(method: Any = "cma-es", **arguments: Any) -> Optimizer:
    return Optimizer(Box(-1, 1, D), method, **{"seed": 1, **arguments})


def state_digest(optimizer: Optimizer) -> str:
    """Everything that the optimizer's further answers depend on, and what it waits for."""
    search = optimizer._search
    digest = hashlib.sha256()
    for name, array in flatten((search.state, search.population)).items():
        digest.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
    for entries in (search.results, search.outside):
        for id in sorted(entries):
            row, value = entries[id]
            digest.update(f"{id}{value!r}".encode() + row.tobytes())
    best = search.best.row
    rest = (
        search.generation, search.evaluations, search.run_evaluations, search.failures, search.injected, search.barren,
        search.run, search.stopped, search.best.rank, None if best is None else best.tobytes(),
        sorted(optimizer._gate.waiting), optimizer._member, optimizer.budget,
    )  # fmt: skip
    digest.update(repr(rest).encode())
    return digest.hexdigest()


class State(NamedTuple):
    key: Any
    generation: Any
    told: Any
    """How many rows each generation was told, (20,)."""


@dataclasses.dataclass(frozen=True)
class Recorder:
    """A strategy that keeps what it is told: populations and fitness in a list beside its state."""

    popsize: int = 4
    log: list[Any] = dataclasses.field(default_factory=list, compare=False)

    def init(self, key, x0):
        return State(key, np.int64(0), np.zeros(20, np.int64))

    def ask(self, state, first=0):
        return uniform(state.key, state.generation, (self.popsize, D), first=first, like=np.empty(0))

    def tell(self, state, population, fitness):
        self.log.append((population.copy(), fitness.copy()))
        told = state.told.copy()
        told[int(state.generation) % 20] = len(fitness)
        return State(state.key, state.generation + 1, told)

    def recommend(self, state):
        return np.full(D, 0.5)


class Injectable(Recorder):
    injectable: ClassVar[bool] = True


class Positional(Recorder):
    positional: ClassVar[bool] = True


# --- asking -----------------------------------------------------------------------------------------------------


def test_candidates_are_native_and_their_ids_are_unique():
    space = Space({"a": Float(1e-3, 10, log=True), "n": Int(1, 5), "b": Bool(), "c": Choice(["x", "y"])})
    optimizer = Optimizer(space, "cma-es", seed=0)
    candidates = [optimizer.ask(), *optimizer.ask(30)]
    assert len({candidate.id for candidate in candidates}) == 31
    for candidate in candidates:
        assert candidate.status == "asked"
        assert candidate.value is None
        assert {name: type(value) for name, value in candidate.x.items()} == {"a": float, "n": int, "b": bool, "c": str}
        assert space.contains(candidate.x)
        assert str(candidate.id) in repr(candidate)


def test_box_candidates_are_arrays():
    candidate = make().ask()
    assert candidate.x.shape == (D,)
    assert candidate.x.dtype == np.float64


def test_a_dictionary_is_a_space_and_the_start_is_its_center():
    optimizer = Optimizer({"x": Float(0, 10), "n": Int(0, 4)}, "cma-es", seed=0)
    assert optimizer.recommend() == {"x": 5.0, "n": 2}
    optimizer = Optimizer({"x": Float(0, 10), "n": Int(0, 4)}, "cma-es", seed=0, x0={"x": 7.5, "n": 1})
    assert optimizer.recommend() == {"x": 7.5, "n": 1}


def test_asking_one_by_one_or_in_batches_gives_the_same_candidates():
    singly, batched = make(), make()
    first = [singly.ask() for _ in range(25)]
    second = [*batched.ask(3), batched.ask(), *batched.ask(21)]
    for a, b in zip(first, second, strict=True):
        assert a.id == b.id
        assert np.array_equal(a.x, b.x)


def test_same_seed_same_course_and_other_seed_another():
    def best(seed):
        optimizer = make(seed=seed)
        for _ in range(60):
            candidate = optimizer.ask()
            optimizer.tell(candidate, sphere(candidate.x))
        return optimizer.best.value

    assert best(5) == best(5)
    assert len({best(seed) for seed in range(20)}) == 20


def test_a_seed_that_was_drawn_repeats_the_run():
    first = make(seed=None)
    second = make(seed=first.seed)
    assert np.array_equal(first.ask().x, second.ask().x)
    assert make(seed=None).seed != first.seed


def test_the_budget_counts_what_is_told_and_what_is_waited_for():
    optimizer = make(budget=10)
    assert optimizer.left == 10
    candidates = optimizer.ask(6)
    optimizer.tell(candidates[:2], [1.0, 2.0])
    assert optimizer.left == 4
    before = state_digest(optimizer)
    with pytest.raises(BudgetExhausted, match=r"n must be at most 4 .* got 5"):
        optimizer.ask(5)
    assert state_digest(optimizer) == before
    optimizer.ask(4)
    with pytest.raises(BudgetExhausted):
        optimizer.ask()
    optimizer.budget = 11
    assert optimizer.ask().id == (0, 10)


@pytest.mark.parametrize("n", [0, -1, 1.0, "2", True, None.__class__])
def test_ask_takes_positive_integers(n):
    with pytest.raises(SettingError, match="n must be"):
        make().ask(n)


# --- generations ------------------------------------------------------------------------------------------------


def test_the_order_and_the_batches_of_tells_do_not_matter():
    """Figure R4."""
    rng = np.random.default_rng(0)
    digests = set()
    for _ in range(200):
        optimizer = make()
        for _ in range(3):
            candidates = optimizer.ask(optimizer.popsize)
            order = rng.permutation(len(candidates))
            cuts = np.sort(rng.integers(0, len(order) + 1, rng.integers(0, 4)))
            for part in np.split(order, cuts):
                batch = [candidates[i] for i in part]
                values = [sphere(c.x) if c.id[1] != 2 else math.nan for c in batch]
                if len(batch) == 1 and rng.random() < 0.5:
                    optimizer.tell(batch[0], values[0])
                else:
                    optimizer.tell(batch, values)
        digests.add(state_digest(optimizer))
    assert len(digests) == 1
    assert optimizer.generation == 3


def test_a_generation_closes_with_any_popsize_results_sorted_by_member():
    strategy = Recorder()
    optimizer = make(strategy)
    candidates = optimizer.ask(7)
    for i in (6, 1, 5, 0):
        assert optimizer.generation == 0
        optimizer.tell(candidates[i], float(i))
    assert optimizer.generation == 1
    ((population, fitness),) = strategy.log
    assert fitness.tolist() == [0, 1, 5, 6]
    assert np.array_equal(population, np.stack([candidates[i]._row for i in (0, 1, 5, 6)]))


def test_results_told_together_enter_together():
    strategy = Recorder()
    optimizer = make(strategy)
    optimizer.tell(optimizer.ask(11), np.arange(11.0))
    assert [len(fitness) for _, fitness in strategy.log] == [11]


def test_stragglers_do_not_block_and_late_results_count_for_the_best_only():
    strategy = Recorder()
    optimizer = make(strategy)
    slow, *quick = optimizer.ask(5)
    optimizer.tell(quick, [3.0, 2.0, 1.0, 2.0])
    assert optimizer.generation == 1
    optimizer.tell(slow, -5.0)
    assert optimizer.best.id == slow.id
    assert optimizer.evaluations == 5
    optimizer.tell(optimizer.ask(4), [0.0] * 4)
    assert [len(fitness) for _, fitness in strategy.log] == [4, 4]


def test_late_results_and_points_from_outside_join_the_next_tell_of_an_injectable_method():
    strategy = Injectable()
    optimizer = make(strategy)
    slow, *quick = optimizer.ask(5)
    optimizer.tell(quick, [3.0, 2.0, 1.0, 2.0])
    optimizer.tell(slow, -5.0)
    optimizer.tell([0.0, 0.5, 1.0], 7.0)
    optimizer.tell(optimizer.ask(4), [0.0] * 4)
    population, fitness = strategy.log[1]
    assert fitness.tolist() == [0, 0, 0, 0, 7, -5]
    assert np.allclose(population[4], [0.5, 0.75, 1.0])
    assert np.array_equal(population[5], slow._row)
    optimizer.tell(optimizer.ask(4), [0.0] * 4)
    assert len(strategy.log[2][1]) == 4


def test_a_positional_method_is_told_its_first_members():
    strategy = Positional()
    optimizer = make(strategy)
    candidates = optimizer.ask(10)
    for i in (1, 5, 9, 4, 2, 7, 3):
        optimizer.tell(candidates[i], float(i))
    assert optimizer.generation == 0
    optimizer.tell(candidates[0], 0.0)
    assert optimizer.generation == 1
    ((population, fitness),) = strategy.log
    assert fitness.tolist() == [0, 1, 2, 3]
    assert np.array_equal(population, np.stack([candidate._row for candidate in candidates[:4]]))


def test_a_positional_method_gives_a_straggler_up_for_another_of_its_slot():
    strategy = Positional()
    optimizer = make(strategy)
    candidates = optimizer.ask(200)
    told = [c for c in candidates if c.id[1] % 4 != 2]
    optimizer.tell(told, [float(c.id[1]) for c in told])
    assert optimizer.generation == 0
    optimizer.tell(candidates[10], 10.0)
    assert [fitness.tolist() for _, fitness in strategy.log] == [[0, 1, 10, 3]]


def test_nelder_mead_converges_with_evaluations_that_run_ahead():
    optimizer = Optimizer(Box(-1, 1, 2), "nelder-mead", seed=0, restarts="none")
    rng = np.random.default_rng(0)
    waiting = optimizer.ask(3)
    for _ in range(300):
        candidate = waiting.pop(rng.integers(len(waiting)))
        optimizer.tell(candidate, sphere(candidate.x))
        waiting.append(optimizer.ask())
    assert optimizer.best.value < 1e-10


def test_cma_es_converges_with_eight_evaluations_at_once_in_random_order():
    optimizer = make(restarts="none")
    rng = np.random.default_rng(0)
    waiting = optimizer.ask(8)
    for _ in range(900):
        candidate = waiting.pop(rng.integers(len(waiting)))
        optimizer.tell(candidate, sphere(candidate.x))
        waiting.append(optimizer.ask())
    assert optimizer.best.value < 1e-8


def test_maximizing_the_negative_is_the_same_course():
    low, high = make(), make(direction="maximize")
    for _ in range(80):
        a, b = low.ask(), high.ask()
        assert np.array_equal(a.x, b.x)
        low.tell(a, sphere(a.x))
        high.tell(b, -sphere(b.x))
    assert high.best.value == -low.best.value
    assert np.array_equal(high.best.x, low.best.x)


def test_the_best_is_the_first_asked_of_equals_and_a_copy():
    optimizer = make("random", popsize=4)
    candidates = optimizer.ask(4)
    for i in (3, 1, 2, 0):
        optimizer.tell(candidates[i], 1.0)
    assert optimizer.best.id == (0, 0)
    assert np.array_equal(optimizer.best.x, candidates[0].x)
    candidates[0].x[:] = 99
    assert optimizer.best.x.max() <= 1
    assert optimizer.best is optimizer.best


# --- the policies: one test for each line of the table ------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, None, np.nan, np.float32("nan"), np.array(np.nan), np.ma.masked])
def test_nan_and_none_are_failures_that_rank_last(value):
    strategy = Recorder()
    optimizer = make(strategy)
    candidates = optimizer.ask(4)
    optimizer.tell(candidates, [1.0, value, 3.0, 4.0])
    assert candidates[1].status == "failed"
    assert math.isnan(candidates[1].value)
    assert np.array_equal(strategy.log[0][1], [1, np.nan, 3, 4], equal_nan=True)
    assert optimizer.failures == 1
    assert optimizer.best.value == 1.0


@pytest.mark.parametrize("value", [math.nan, None, math.inf])
def test_nonfinite_values_can_be_errors(value):
    optimizer = make(nonfinite="raise")
    candidate = optimizer.ask()
    before = state_digest(optimizer)
    with pytest.raises(NonFinite, match="value"):
        optimizer.tell(candidate, value)
    assert state_digest(optimizer) == before


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_worst_infinity_is_infeasible_and_best_infinity_an_error(direction):
    worst = math.inf if direction == "minimize" else -math.inf
    strategy = Recorder()
    optimizer = make(strategy, direction=direction)
    candidates = optimizer.ask(4)
    optimizer.tell(candidates[0], worst)
    assert candidates[0].status == "infeasible"
    assert candidates[0].value == worst
    assert optimizer.best is None
    assert optimizer.failures == 0
    before = state_digest(optimizer)
    with pytest.raises(NonFinite, match=r"value\[1\].*allow_neg_inf"):
        optimizer.tell(candidates[1:3], [0.0, -worst])
    assert state_digest(optimizer) == before
    optimizer.tell(candidates[1:], [1.0, 2.0, 3.0])
    assert strategy.log[0][1][0] == math.inf


def test_best_infinity_can_be_allowed():
    optimizer = make(allow_neg_inf=True)
    candidate = optimizer.ask()
    optimizer.tell(candidate, -math.inf)
    assert optimizer.best.value == -math.inf


def test_a_failed_generation_changes_nothing_but_the_points_asked_next():
    optimizer = make()
    mean, sigma = optimizer._search.state.mean, optimizer._search.state.sigma
    candidates = optimizer.ask(optimizer.popsize)
    points = [candidate.x for candidate in candidates]
    with pytest.warns(RuntimeWarning, match="generation 0 has no finite value"):
        optimizer.tell(candidates, [None] * len(candidates))
    state = optimizer._search.state
    assert np.array_equal(state.mean, mean)
    assert state.sigma == sigma
    assert state.generation == optimizer.generation == 1
    assert not any(np.array_equal(a, b.x) for a in points for b in optimizer.ask(optimizer.popsize))
    assert optimizer.stopped is None


def test_three_failed_generations_in_a_row_are_a_reason_to_stop():
    optimizer = make(popsize=8)

    def fail():
        with pytest.warns(RuntimeWarning, match="no finite value"):
            optimizer.tell(optimizer.ask(8), [None] * 8)

    fail()
    fail()
    candidates = optimizer.ask(8)
    optimizer.tell(candidates, [1.0] + [None] * 7)
    fail()
    fail()
    assert optimizer.stopped is None
    fail()
    assert "3 generations" in optimizer.stopped
    assert optimizer.ask(3)


NOT_VALUES = [
    "1", b"1", True, False, np.bool_(True), 1j, np.complex128(1), [1.0], (1.0,), {}, {1.0}, object(), len, float,
    np.array([1.0, 2.0]), np.array([]), np.array([[1.0, 2.0]]), np.array(True), np.array(1j), np.array("1"),
    np.datetime64("2026-01-01"), np.str_("1"), np.array([None, 1.0]), 10**400, Decimal("sNaN"), slice(1), range(1),
    Ellipsis, NotImplemented, np.array([object()]), type("Hostile", (), {"__float__": lambda self: 1 / 0})(),
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_VALUES, ids=lambda value: type(value).__name__)
def test_what_is_no_value_is_refused(value):
    optimizer = make()
    first, second = optimizer.ask(2)
    before = state_digest(optimizer)
    with pytest.raises(TellError, match="value"):
        optimizer.tell(first, value)
    with pytest.raises(TellError, match=r"value\[1\]"):
        optimizer.tell([first, second], [1.0, value])
    assert state_digest(optimizer) == before
    assert first.status == second.status == "asked"


class Exported:
    """A scalar of a library that only knows DLPack."""

    def __init__(self, value):
        self._array = np.array(value)

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


@pytest.mark.parametrize(
    "value",
    [2, 2.0, np.float32(2), np.float64(2), np.int8(2), np.array(2), np.array([2.0]), np.array([[2]]),
     np.array([2.0], dtype=object), Decimal(2), Fraction(2), Exported(2.0), Exported([2.0])],
    ids=lambda value: f"{type(value).__name__}",
)  # fmt: skip
def test_numbers_and_arrays_of_one_number_are_values(value):
    optimizer = make()
    first, second = optimizer.ask(2)
    optimizer.tell(first, value)
    optimizer.tell([second], [value])
    assert first.value == second.value == 2.0
    assert type(first.value) is float


@pytest.mark.parametrize(
    "values", [np.arange(3), np.arange(3, dtype=np.float32), (0, 1, 2), Exported([0.0, 1.0, 2.0]), np.ma.arange(3)]
)
def test_sequences_of_values(values):
    optimizer = make()
    candidates = optimizer.ask(3)
    optimizer.tell(candidates, values)
    assert [candidate.value for candidate in candidates] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "values", [[1.0, 2.0], [1.0] * 4, 1.0, None, np.ones(2), np.ones((3, 1)), "abc", {0: 1.0}, {1.0}, iter([1.0] * 3)]
)
def test_the_number_of_values_is_that_of_candidates(values):
    optimizer = make()
    candidates = optimizer.ask(3)
    before = state_digest(optimizer)
    with pytest.raises(TellError, match="value must be a sequence of 3"):
        optimizer.tell(candidates, values)
    assert state_digest(optimizer) == before


def test_a_second_result_is_refused_or_ignored():
    optimizer, lenient = make(), make(if_told="ignore")
    for o in (optimizer, lenient):
        candidates = o.ask(3)
        o.tell(candidates[0], 1.0)
        before = state_digest(o)
        if o is optimizer:
            with pytest.raises(DuplicateTell, match=r"candidate must not have a result; \(0, 0\)"):
                o.tell(candidates[0], 0.0)
            with pytest.raises(DuplicateTell, match=r"candidate\[1\]"):
                o.tell(candidates[:2][::-1], [0.0, 0.0])
            with pytest.raises(DuplicateTell, match=r"candidate\[1\]"):
                o.tell([candidates[1], candidates[1]], [0.0, 0.0])
            with pytest.raises(DuplicateTell):
                o.fail(candidates[0])
            assert state_digest(o) == before
        else:
            o.tell(candidates[0], 0.0)
            assert state_digest(o) == before
            o.tell([candidates[0], candidates[1], candidates[1]], [0.0, 2.0, 3.0])
            assert candidates[1].value == 2.0
            assert o.evaluations == 2


def test_duplicates_are_known_after_their_generation_has_closed():
    optimizer = make()
    candidates = optimizer.ask(optimizer.popsize)
    optimizer.tell(candidates, [1.0] * len(candidates))
    with pytest.raises(DuplicateTell):
        optimizer.tell(candidates[0], 1.0)


def test_candidates_of_another_optimizer_are_unknown():
    optimizer, other = make(), make()
    candidate = other.ask()
    optimizer.ask()
    before = state_digest(optimizer)
    with pytest.raises(UnknownCandidate, match="generation 0 is open"):
        optimizer.tell(candidate, 1.0)
    with pytest.raises(UnknownCandidate, match=r"candidate\[1\]"):
        optimizer.tell([optimizer._gate.waiting[0, 0], candidate], [1.0, 1.0])
    assert state_digest(optimizer) == before


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_of_candidates_are_known(copied):
    optimizer = make()
    candidate = optimizer.ask()
    optimizer.tell(copied(candidate), 1.0)
    assert optimizer.evaluations == 1
    with pytest.raises(TellError):
        optimizer.tell(candidate, 1.0)


def test_failures_are_told_with_their_reason():
    strategy = Recorder()
    optimizer = make(strategy)
    candidates = optimizer.ask(4)
    optimizer.fail(candidates[0], "no convergence")
    optimizer.fail(candidates[1], status="timeout", seconds=3.0)
    optimizer.tell(candidates[2:], [1.0, 2.0])
    assert [candidate.status for candidate in candidates] == ["failed", "timeout", "ok", "ok"]
    assert optimizer.failures == 2
    assert np.isnan(strategy.log[0][1]).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((1.0,), "candidate"),
        ((None,), "candidate"),
        (([],), "candidate"),
        (("c", 3), "reason"),
        (("c", "", "bad"), "status"),
        (("c", "", "failed", "soon"), "seconds"),
    ],
)
def test_fail_checks_its_arguments(arguments, named):
    optimizer = make()
    names = ("candidate", "reason", "status", "seconds")
    given = dict(zip(names, arguments, strict=False))
    if given["candidate"] == "c":
        given["candidate"] = optimizer.ask()
    before = state_digest(optimizer)
    with pytest.raises(TellError, match=named):
        optimizer.fail(given.pop("candidate"), given.pop("reason", ""), **given)
    assert state_digest(optimizer) == before


def test_points_from_outside_count_for_the_best_and_move_the_search():
    optimizer, plain = make(), make()
    optimizer.tell(np.array([0.3, 0.3, 0.3]), 0.0)
    assert optimizer.best.value == 0.0
    assert np.allclose(optimizer.best.x, 0.3, atol=1e-15)
    assert optimizer.best.id[0] < 0
    assert optimizer.evaluations == 1
    for o in (optimizer, plain):
        candidates = o.ask(o.popsize)
        o.tell(candidates, [1.0 + sphere(candidate.x) for candidate in candidates])
    assert sphere(optimizer.recommend()) < sphere(plain.recommend())


@pytest.mark.parametrize(
    "x", [{"x": 2.0}, {"y": 0.5}, [0.5], 0.5, None, "x", {"x": "a"}, object(), [[0.5]], [{"x": 0.5}]]
)
def test_points_from_outside_must_be_in_the_space(x):
    optimizer = Optimizer({"x": Float(0, 1)}, "cma-es", seed=0)
    before = state_digest(optimizer)
    with pytest.raises(TellError, match="candidate must be"):
        optimizer.tell(x, 1.0)
    assert state_digest(optimizer) == before


def test_an_error_of_the_strategy_leaves_all_as_it_was():
    class Broken(Recorder):
        def tell(self, state, population, fitness):
            raise ZeroDivisionError

    optimizer = make(Broken())
    candidates = optimizer.ask(4)
    optimizer.tell(candidates[:3], [1.0] * 3)
    before = state_digest(optimizer)
    with pytest.raises(ZeroDivisionError):
        optimizer.tell(candidates[3], 1.0)
    assert state_digest(optimizer) == before
    assert candidates[3].status == "asked"


# --- malformed tells by the hundred (figure R3) -------------------------------------------------------------------

good = st.one_of(st.none(), st.floats(allow_infinity=False), st.integers(-(10**6), 10**6), st.just(math.inf))
bad = st.one_of(
    st.sampled_from([v for v in NOT_VALUES if not isinstance(v, list | tuple)]),
    st.text(max_size=3), st.binary(max_size=3), st.booleans(), st.complex_numbers(),
    st.dictionaries(st.text(), good, max_size=2),
    st.builds(np.full, st.sampled_from([(2,), (0,), (2, 2)]), st.floats()), st.just(-math.inf),
)  # fmt: skip
targets = st.sampled_from(["asked", "told", "foreign", "closed", "junk"])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(targets, st.booleans(), good, bad), max_size=5), st.integers(-1, 1), st.booleans(), st.data())
def test_malformed_tells_are_refused_by_name_and_change_nothing(entries, surplus, single, data):
    optimizer = make(popsize=5)
    closed = optimizer.ask(5)
    optimizer.tell(closed, [1.0, 2.0, 3.0, 4.0, 5.0])
    asked = optimizer.ask(12)
    optimizer.tell(asked[:3], [1.0, 2.0, 3.0])
    pool = {
        "asked": asked[3:], "told": asked[:3], "foreign": [make().ask()], "closed": closed,
        "junk": [None, 1, "x", [0.5], {"x": 1}, object()],
    }  # fmt: skip
    candidates = [data.draw(st.sampled_from(pool[kind])) for kind, *_ in entries]
    values = [wrong if is_bad else right for _, is_bad, right, wrong in entries]
    kinds = [kind for kind, *_ in entries]
    if single and entries:
        wrong = kinds[0] != "asked" or entries[0][1]
        arguments = (candidates[0], values[0])
    else:
        values = values[:-1] if surplus < 0 else values + [1.0] * surplus
        wrong = (
            len(values) != len(candidates)
            or any(kind != "asked" for kind in kinds)
            or any(is_bad for _, is_bad, *_ in entries)
            or len({id(candidate) for candidate in candidates}) < len(candidates)
        )
        arguments = (candidates, values)
    before = state_digest(optimizer)
    if not wrong:
        optimizer.tell(*arguments)
        assert (state_digest(optimizer) == before) == (not entries)
        return
    with pytest.raises(BlackboxError) as caught:
        optimizer.tell(*arguments)
    assert any(name in str(caught.value) for name in ("candidate", "value"))
    assert state_digest(optimizer) == before
    assert all(candidate.status == "asked" for candidate in asked[3:])


# --- restarts -----------------------------------------------------------------------------------------------------


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


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"method": "cma"}, "method must be one of.*did you mean"),
        ({"method": CMAES}, "method must be"),
        ({"method": 3}, "method must be"),
        ({"method": CMAES(), "popsize": 10}, "popsize"),
        ({"popsize": 1}, "popsize must be"),
        ({"pop": 10}, "no hyperparameter 'pop'.*did you mean 'popsize'"),
        ({"sigma0": -1.0}, "sigma0 must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 1.5}, "seed must be"),
        ({"seed": True}, "seed must be"),
        ({"seed": 2**64}, "seed must be"),
        ({"budget": 0}, "budget must be"),
        ({"budget": 10.0}, "budget must be"),
        ({"direction": "up"}, "direction must be"),
        ({"restarts": "often"}, "restarts must be"),
        ({"method": "random", "restarts": "same"}, "restarts must be"),
        ({"method": "nelder-mead", "restarts": "ipop"}, "restarts must be.*popsize"),
        ({"nonfinite": "drop"}, "nonfinite must be"),
        ({"if_told": "drop"}, "if_told must be"),
        ({"allow_neg_inf": 1}, "allow_neg_inf must be"),
    ],
)
def test_settings_are_checked(arguments, named):
    with pytest.raises(SettingError, match=named):
        make(**arguments)


def test_space_and_start_are_checked():
    with pytest.raises(SpaceError, match="space must be"):
        Optimizer([0, 1], "cma-es")
    with pytest.raises(SpaceError, match="x0 must be"):
        make(x0=[2.0] * D)
    with pytest.raises(SpaceError, match="x0 must be"):
        make(x0={"x": 1})


def test_a_strategy_instance_is_the_method():
    named, given_ready = make(popsize=9, sigma0=0.3), make(CMAES(popsize=9, sigma0=0.3))
    assert np.array_equal(named.ask().x, given_ready.ask().x)
    assert given_ready.method == "cma-es"


def test_numpy_numbers_are_numbers():
    optimizer = make(seed=np.uint64(7), budget=np.int64(20), popsize=np.int64(6))
    assert optimizer.seed == 7
    assert optimizer.ask(np.int64(20))


@pytest.mark.parametrize(
    ("space", "budget", "method"),
    [
        (Box(0, 1, 2), None, "cma-es"),
        (Box(0, 1, 200), 10_000, "cma-es"),
        (Box(0, 1, 201), None, "lm-ma-es"),
        (Box(0, 1, 1000), 1000, "sep-cma-es"),
        (Box(0, 1, 10), 15, "sobol"),
        (Space({"x": Float(0, 1), "n": Int(1, 5)}), 200, "cat-cma"),
        (Space({"x": Float(0, 1), "n": Int(1, 10**6), "p": Permutation(4)}), 200, "cma-es"),
        (Space({"x": Float(0, 1), "c": Choice(["a", "b"])}), None, "cat-cma"),
        (Space({"x": Float(0, 1)}), 30, "cma-es"),
    ],
)
def test_auto_is_a_documented_rule(space, budget, method):
    choice = choose_method(space, budget)
    assert choice.method == method
    assert f"``{method}``" in choose_method.__doc__


def test_explain_says_what_and_why():
    text = Optimizer({"x": Float(0, 1), "y": Float(0, 1)}, budget=30, seed=3).explain()
    for part in ("cma-es", "2 continuous coordinates", "rough", "budget: 30", "seed: 3"):
        assert part in text


# --- many at once -------------------------------------------------------------------------------------------------


def test_threads_may_ask_and_tell():
    optimizer = make(budget=600)
    failures = []

    def work():
        try:
            while True:
                candidate = optimizer.ask()
                optimizer.tell(candidate, sphere(candidate.x))
        except BudgetExhausted:
            pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert optimizer.evaluations == 600
    assert optimizer.left == 0
    assert optimizer.best.value < 1e-2


def test_memory_does_not_grow_with_tells():
    """Figure R14: 10,000 tells grow by less than 50 MB / 100."""
    optimizer = make("random")

    def tell(n):
        for _ in range(n):
            optimizer.tell(optimizer.ask(), 1.0)

    tell(3000)  # caches of noise fill up
    tracemalloc.start()
    tell(100)
    before = tracemalloc.get_traced_memory()[0]
    tell(10_000)
    growth = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert growth < 500_000


def test_jax_is_not_imported():
    code = (
        "import sys; from blackbox.optimizer import Optimizer; from blackbox.space import Box\n"
        "o = Optimizer(Box(0, 1, 3), seed=0)\n"
        "for _ in range(20): o.tell(o.ask(), 1.0)\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_candidate_is_exported():
    assert isinstance(make().ask(), Candidate)
