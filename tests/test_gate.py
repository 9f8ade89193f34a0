"""What may be told: one test for each line of the table of policies, and malformed tells by the hundred."""

from __future__ import annotations

import copy
import math
from collections import deque
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder import Recorder, make, sphere, state_digest

from blackbox.errors import BlackboxError, DuplicateTell, NonFinite, TellError, UnknownCandidate
from blackbox.optimizer import Optimizer
from blackbox.space import Float


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
    mean, sigma = optimizer._search.lane.state.mean, optimizer._search.lane.state.sigma
    candidates = optimizer.ask(optimizer.popsize)
    points = [candidate.x for candidate in candidates]
    with pytest.warns(RuntimeWarning, match="generation 0 has no finite value"):
        optimizer.tell(candidates, [None] * len(candidates))
    state = optimizer._search.lane.state
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


def test_small_generations_that_fail_need_twenty_evaluations_to_stop():
    optimizer = make("random", popsize=4)
    for generation in range(5):
        assert optimizer.stopped is None
        with pytest.warns(RuntimeWarning, match="no finite value"):
            optimizer.tell(optimizer.ask(4), [None] * 4)
        assert optimizer.generation == generation + 1
    assert "20 evaluations" in optimizer.stopped
    single = make("nelder-mead")
    for _ in range(19):  # of one candidate each: no generation to warn about
        single.tell(single.ask(), None)
    assert single.stopped is None
    with pytest.warns(RuntimeWarning, match="20 evaluations"):
        single.tell(single.ask(), None)


class Tracked:
    """As an array of PyTorch with ``requires_grad``, or of CuPy: not to be copied, but for one number."""

    def __init__(self, *values):
        self._values = values

    def __array__(self, *arguments, **options):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")

    def __float__(self):
        (value,) = self._values
        return value


NOT_VALUES = [
    "1", b"1", True, False, np.bool_(True), 1j, np.complex128(1), [1.0], (1.0,), {}, {1.0}, object(), len, float,
    np.array([1.0, 2.0]), np.array([]), np.array([[1.0, 2.0]]), np.array(True), np.array(1j), np.array("1"),
    np.datetime64("2026-01-01"), np.timedelta64(1, "ns"),
    np.array(1, "m8[ns]"), np.str_("1"), Tracked(1.0, 2.0), np.array([None, 1.0]), 10**400, Decimal("sNaN"), slice(1),
    range(1), Ellipsis, NotImplemented, np.array([object()]), type("Hostile", (), {"__float__": lambda self: 1 / 0})(),
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
     np.array([2.0], dtype=object), Decimal(2), Fraction(2), Exported(2.0), Exported([2.0]), Tracked(2.0)],
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
    "values",
    [np.arange(3), np.arange(3, dtype=np.float32), (0, 1, 2), range(3), deque([0, 1, 2]), Exported([0.0, 1.0, 2.0]),
     np.ma.arange(3)],
)  # fmt: skip
def test_sequences_of_values(values):
    optimizer = make()
    candidates = optimizer.ask(3)
    optimizer.tell(candidates, values)
    assert [candidate.value for candidate in candidates] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "values",
    [[1.0, 2.0], [1.0] * 4, 1.0, None, np.ones(2), np.ones((3, 1)), "abc", b"abc", {0: 1.0}, {1.0}, iter([1.0] * 3)],
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


@settings(max_examples=400, deadline=None)
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
