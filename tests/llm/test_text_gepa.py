"""GEPA: fronts by instance against brute force, merges, and an iteration step by step."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blackbox as bb
from blackbox.errors import SettingError, TellError
from blackbox.llm import GEPA, Client, Scripted, search_text
from blackbox.llm.text.draws import Draws
from blackbox.llm.text.gepa import GEPAState
from blackbox.llm.text.lineage import (
    Candidate,
    Merge,
    ancestors,
    items_led,
    merged,
    possible_merges,
    telling_instances,
)
from blackbox.llm.text.proposals import SYSTEM
from blackbox.llm.text.stored import from_json, to_json

KEY = bb.key(0)

TABLES = st.integers(1, 4).flatmap(
    lambda m: st.lists(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, math.inf]), min_size=m, max_size=m), min_size=1, max_size=6
    )
)


def brute_force(table: list[list[float]]) -> list[int]:
    def dominates(one: list[float], other: list[float]) -> bool:
        pairs = list(zip(one, other, strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    led = []
    for row in table:
        count = 0
        for i, loss in enumerate(row):
            count += math.isfinite(loss) and all(loss <= other[i] for other in table)
        led.append(0 if any(dominates(other, row) for other in table) else count)
    return led


@given(TABLES)
def test_the_front_is_that_of_brute_force(table: list[list[float]]) -> None:
    led = items_led(table)
    assert led == brute_force(table)
    is_anything_finite = bool(np.isfinite(np.asarray(table)).any())
    assert (sum(led) > 0) == is_anything_finite


def test_parents_are_drawn_in_proportion_to_the_items_they_lead() -> None:
    gepa = method(Client(Scripted([])), validation=range(10, 14))
    # The last one has the best mean but one, and leads nowhere; the second is the best on one item alone.
    table = [[0.0, 0.0, 0.0, 0.9], [1.0, 1.0, 1.0, 0.0], [0.1, 0.1, 0.1, 0.1]]
    pool = tuple(Candidate({"a": str(i), "b": ""}, (), tuple(row), sum(row) / 4) for i, row in enumerate(table))
    drawn: Counter[int] = Counter()
    for i in range(600):
        state = gepa._begin(gepa.init(KEY, {"a": "0", "b": ""})._replace(pool=pool, iteration=i))
        drawn[state.parents[0]] += 1
    assert set(drawn) == {0, 1}
    assert 0.69 < drawn[0] / 600 < 0.81  # three of four items
    failed = tuple(candidate._replace(losses=(math.inf,) * 4) for candidate in pool)
    states = [gepa._begin(state._replace(pool=failed, iteration=i)) for i in range(50)]
    assert {state.parents[0] for state in states} == {0, 1, 2}


# ---- merges


def family(*members: tuple[dict[str, str], tuple[int, ...], float]) -> list[Candidate]:
    return [Candidate(genome, parents, (loss,), loss) for genome, parents, loss in members]


ORIGIN = {"a": "a0", "b": "b0", "c": "c0", "d": "d0"}


def test_a_merge_takes_each_text_from_the_side_that_changed_it() -> None:
    pool = family(
        (ORIGIN, (), 0.9),
        ({**ORIGIN, "a": "a1", "c": "c1", "d": "d1"}, (0,), 0.4),
        ({**ORIGIN, "b": "b2", "c": "c2", "d": "d1"}, (0,), 0.5),
    )
    (merge,) = possible_merges(pool, [1, 2])
    assert merge == Merge(1, 2, 0)
    expected = {"a": "a1", "b": "b2", "c": "c1", "d": "d1"}  # c: both changed it, and the first is better
    assert merged(pool, merge, Draws(KEY, 0)) == expected
    pool[1] = pool[1]._replace(loss=0.6)
    assert merged(pool, merge, Draws(KEY, 0)) == {**expected, "c": "c2"}
    pool[1] = pool[1]._replace(loss=0.5)
    assert {merged(pool, merge, Draws(KEY, i))["c"] for i in range(20)} == {"c1", "c2"}


def test_which_pairs_can_be_merged() -> None:
    one, two = {**ORIGIN, "a": "a1"}, {**ORIGIN, "b": "b2"}
    assert possible_merges(family((ORIGIN, (), 0.9), (one, (0,), 0.5), (two, (0,), 0.5)), [0, 1]) == []
    pool = family((ORIGIN, (), 0.9), (one, (0,), 0.5), (two, (0,), 0.5), ({**one, "b": "b3"}, (1,), 0.4))
    assert possible_merges(pool, [1, 2, 3]) == [Merge(1, 2, 0), Merge(2, 3, 0)]  # 1 is an ancestor of 3
    assert possible_merges(pool, [2]) == []
    better = family((ORIGIN, (), 0.45), (one, (0,), 0.5), (two, (0,), 0.4))
    assert possible_merges(better, [1, 2]) == []  # the ancestor beats one of them
    alike = family((ORIGIN, (), 0.9), ({**ORIGIN, "a": "a1"}, (0,), 0.5), ({**ORIGIN, "a": "a2"}, (0,), 0.5))
    assert possible_merges(alike, [1, 2]) == []  # there is nothing to combine
    strangers = family((ORIGIN, (), 0.9), (one, (), 0.5))
    assert possible_merges(strangers, [0, 1]) == []


@given(st.lists(st.lists(st.integers(0, 30), max_size=2), min_size=1, max_size=8))
def test_ancestors_are_those_of_a_walk(parents: list[list[int]]) -> None:
    pool = family(*[(ORIGIN, tuple({p % i for p in given} if i else ()), 0.5) for i, given in enumerate(parents)])
    reached = np.zeros((len(pool), len(pool)), bool)
    for i, candidate in enumerate(pool):
        for parent in candidate.parents:
            reached[i] |= reached[parent]
            reached[i, parent] = True
        assert ancestors(pool, i) == set(np.flatnonzero(reached[i]).tolist())


def test_merges_are_tried_where_the_two_differ_evenly() -> None:
    first = [0.0] * 10 + [1.0] * 10 + [0.5] * 10
    second = [1.0] * 10 + [0.0] * 10 + [0.5] * 10
    for size, seed in itertools.product((3, 5, 6, 30), range(5)):
        chosen = telling_instances(first, second, size, Draws(KEY, seed))
        assert len(set(chosen)) == len(chosen) == size
        counts = Counter(i // 10 for i in chosen)
        assert max(counts.values()) <= -(-size // 3) + (size == 30)
    assert sorted(telling_instances([0.0] * 4, [0.0] * 4, 3, Draws(KEY, 0)))[-1] <= 3


# ---- an iteration


def method(client: Client, **settings: Any) -> GEPA:
    return GEPA(**{"provider": client, "instances": range(6), "validation": range(10, 13), **settings})


REFLECTION = """\
A language model did a task with this prompt:

<prompt>
Read.
</prompt>

Here is how it went on some instances, each with a score from 0 to 100 and feedback:

<example>
score: 50
wrong: &lt;/example>
</example>

<example>
score: 0
The evaluation failed
</example>

<example>
score: 100
right
</example>

Find out what the task is, what facts about it the feedback tells, and what went wrong. Write a better prompt that says\
 all that a model needs to know, also for instances other than these. Put it between <prompt> and </prompt>."""


def begun(gepa: GEPA) -> GEPAState:
    state = gepa.init(KEY, {"read": "Read.", "write": "Write."})
    assert gepa.batch(state) == (10, 11, 12)
    assert gepa.ask(state) == [{"read": "Read.", "write": "Write."}]
    return gepa.tell(state, gepa.ask(state), [[0.5, 0.5, 1.0]])


def traced(gepa: GEPA, state: GEPAState, losses: list[float]) -> GEPAState:
    assert state.phase == "trace"
    assert len(set(gepa.batch(state))) == 3
    words = ("wrong: </example>", "The evaluation failed", "right")
    return gepa.tell(state, gepa.ask(state), [losses], [words])


def test_an_iteration() -> None:
    script = Scripted(lambda request: f"<prompt>better {len(script.requests)}</prompt>")
    gepa = method(Client(script))
    state = begun(gepa)
    assert (state.phase, state.component, state.parents) == ("trace", "read", (0,))
    batch = gepa.batch(state)
    state = traced(gepa, state, [0.5, math.nan, 0.0])
    assert state.phase == "propose"
    assert gepa.batch(state) == batch  # paired
    assert gepa.reflection(state) == (("system", SYSTEM), ("user", REFLECTION))
    (child,) = gepa.ask(state)
    assert child == {"read": "better 1", "write": "Write."}
    assert gepa.ask(state) == [child]
    assert len(script.requests) == 1

    rejected = gepa.tell(state, [child], [[0.5, 0.5, 0.5]])  # the sum of 1.5 is that of the parent, whose failure is 1
    assert (rejected.phase, rejected.rejected, len(rejected.pool)) == ("trace", 1, 1)
    assert rejected.component == "write"  # in turn
    assert set(gepa.batch(rejected)).isdisjoint(batch)
    assert gepa.tell(state, [child], [[0.0, math.nan, 0.5]]).phase == "trace"

    state = gepa.tell(state, [child], [[0.5, 0.5, 0.4]])
    assert state.phase == "validate"
    assert gepa.batch(state) == (10, 11, 12)
    state = gepa.tell(state, gepa.ask(state), [[0.5, math.nan, 0.0]])
    assert state.accepted == 1
    assert state.pool[1] == Candidate(child, (0,), (0.5, math.inf, 0.0), 0.5, state.pool[1].component)
    assert gepa.front(state) == [2, 2]
    assert gepa.finalists(state, 5) == [child, {"read": "Read.", "write": "Write."}]
    assert gepa.recommend(state) == child


def test_texts_are_rewritten_in_turn_also_by_children() -> None:
    script = Scripted(lambda request: f"<prompt>better {request.sample}</prompt>")
    gepa = method(Client(script), validation=[10])
    state, turns = begun_with_one(gepa), []
    for i in range(6):  # each child is accepted and the only leader
        state = traced(gepa, state, [1.0, 1.0, 1.0])
        turns.append(state.component)
        state = gepa.tell(state, gepa.ask(state), [[0.9, 0.9, 0.9]])
        state = gepa.tell(state, gepa.ask(state), [[0.9 - i / 10]])
        assert state.parents == (i + 1,)
    assert turns == ["read", "write"] * 3


def begun_with_one(gepa: GEPA) -> GEPAState:
    state = gepa.init(KEY, {"read": "Read.", "write": "Write."})
    return gepa.tell(state, gepa.ask(state), [[1.0]])


def test_a_minibatch_without_mistakes_is_passed_over() -> None:
    gepa = method(Client(Scripted([])))
    state = begun(gepa)
    after = traced(gepa, state, [0.0, 0.0, 0.0])
    assert (after.phase, after.iteration, after.component) == ("trace", 2, "write")


def test_no_failure_is_better_than_what_came_back() -> None:
    """Losses may be above ``worst``: then failures are as bad as they are, and failing everywhere is worse than all."""
    gepa = method(Client(Scripted(lambda request: "<prompt>better</prompt>")))
    state = traced(gepa, begun(gepa), [3.0, 3.0, 2.0])
    (child,) = gepa.ask(state)
    assert gepa.tell(state, [child], [[3.0, 2.5, math.nan]]).phase == "trace"
    assert gepa.tell(state, [child], [[math.nan] * 3]).phase == "trace"
    assert gepa.tell(state, [child], [[3.0, 2.5, 2.0]]).phase == "validate"


def test_a_reply_without_a_text_leaves_the_parent() -> None:
    script = Scripted(["no", "no"])
    gepa = method(Client(script))
    state = traced(gepa, begun(gepa), [1.0, 1.0, 1.0])
    genomes = gepa.ask(state)
    assert genomes == [{"read": "Read.", "write": "Write."}]
    state = gepa.tell(state, genomes, [[1.0, 1.0, 1.0]])
    assert (state.phase, state.rejected, state.counts) == ("trace", 1, (2, 2, 0, 1))


def test_two_leaders_are_merged_after_an_accepted_child() -> None:
    script = Scripted(lambda request: f"<prompt>{'new' if 'Read' in request.messages[1].content else 'old'}</prompt>")
    gepa = method(Client(script), merges=1, merge_instances=2)
    state = begun(gepa)
    one = Candidate({"read": "Read.", "write": "W1"}, (0,), (0.0, 0.5, 1.0), 0.5)
    state = state._replace(pool=(*state.pool, one))
    state = traced(gepa, state, [1.0, 1.0, 1.0])
    state = gepa.tell(state, gepa.ask(state), [[0.9, 1.0, 1.0]])
    state = gepa.tell(state, gepa.ask(state), [[0.5, 0.0, 1.0]])
    assert (state.phase, state.parents, state.merges, state.tried) == ("merge", (1, 2), 1, (Merge(1, 2, 0),))
    assert gepa.ask(state) == [{"read": "new", "write": "W1"}]
    assert set(gepa.batch(state)) < {10, 11, 12}
    assert len(gepa.batch(state)) == 2
    rivals = [{10: 0.0, 11: 0.5, 12: 1.0}, {10: 0.5, 11: 0.0, 12: 1.0}]
    level = min(sum(known[i] for i in gepa.batch(state)) for known in rivals)
    worse = gepa.tell(state, gepa.ask(state), [[level, 0.1]])
    assert (worse.phase, worse.rejected) == ("trace", 1)
    state = gepa.tell(state, gepa.ask(state), [[level, 0.0]])  # as good as the better of the two
    assert state.phase == "validate"
    state = gepa.tell(state, gepa.ask(state), [[0.0, 0.0, 1.0]])
    assert state.pool[3].parents == (1, 2)
    assert gepa.front(state)[3] == 3
    assert state.phase == "trace"  # the only merge is spent
    again = from_json(to_json(state))
    assert to_json(again) == to_json(state)
    assert again.pool == state.pool


def test_what_is_told_is_checked() -> None:
    gepa = method(Client(Scripted([])))
    state = begun(gepa)
    assert gepa.tell(state, [], []) is state
    for genomes, scores in (([{}, {}], [[1.0] * 3] * 2), ([{}], [1.0]), ([{}], [[1.0]])):
        with pytest.raises(TellError):
            gepa.tell(state, genomes, scores)
    for seed in ({}, "text", {"a": 1}, {1: "a"}):
        with pytest.raises(SettingError, match="seed"):
            gepa.init(KEY, seed)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"both have \{3\}"):
        method(gepa.client, validation=[3, 10])


def test_specialists_stay_and_are_combined() -> None:
    """Each text can be right for one half of the instances only: what is best on average is not what is needed."""
    client = Client(Scripted(lambda request: f"<prompt>word {'abcdefgh'[request.sample % 8]}</prompt>"))
    gepa = GEPA(provider=client, instances=range(10), validation=range(10, 20), merges=5)

    def evaluate(genome: Any, instance: int) -> float:
        return float(genome["even" if instance % 2 else "odd"] != ("word a" if instance % 2 else "word b"))

    seed = {"odd": "nothing", "even": "nothing"}
    found = search_text(gepa, evaluate, seed, key=KEY, evaluations=600)
    assert found.best == {"odd": "word b", "even": "word a"}
