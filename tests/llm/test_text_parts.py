"""What text searches are made of: replies, random draws, losses, evaluations, stored states, the held-out choice."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from chat_server import Answer, chat, error, serving
from hypothesis import given
from hypothesis import strategies as st

import blackbox as bb
from blackbox.errors import BudgetExhausted, CheckpointError, ProviderError, SettingError, TellError
from blackbox.llm import (
    Client,
    EvoPromptGA,
    OpenAI,
    Refused,
    Reply,
    Request,
    Rollout,
    Rollouts,
    Scripted,
    exemplar_pool,
    final_pick,
    prompt,
)
from blackbox.llm.text.draws import Draws, minibatch
from blackbox.llm.text.losses import filled_losses, mean_losses, shown_score, told_losses
from blackbox.llm.text.replies import delimited, shortened, text_in
from blackbox.llm.text.stored import from_json


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("<prompt>Do it.</prompt>", "Do it."),
        ("first <prompt>a</prompt>, then\n<prompt>\n b\nc </prompt> done", "b\nc"),
        ("<prompt>unclosed <prompt>Do it.</prompt>", "Do it."),
        ("<prompt>Answer between <prompt> and </prompt> tags.</prompt>", "Answer between <prompt> and </prompt> tags."),
        ("Between <prompt> and </prompt>: <prompt>Do it.</prompt>", "Do it."),
        ("<prompt>End with </prompt> always.</prompt>", "End with </prompt> always."),
        ("<prompt>Use &lt;prompt> and &lt;/ PROMPT>, a &lt; b.</prompt>", "Use <prompt> and </ PROMPT>, a &lt; b."),
        ("```\nDo it.\n```", "Do it."),
        ("Here:\n```markdown\nDo:\n```python\nx\n```\nit\n```\nbye", "Do:\n```python\nx\n```\nit"),
        ("<prompt>```not a fence```</prompt>", "```not a fence```"),
        ("Do it.", None), ("", None), ("<prompt></prompt>", None), ("<prompt>...</prompt>", None),
        ("</prompt>Do it.<prompt>", None), ("```", None), ("```\n```", None), ("<prompt>Do it.", None),
        (f"<prompt>{'x' * 101}</prompt>", None), ("<prompt>a\ud800</prompt>", None),
    ],
)  # fmt: skip
def test_the_text_of_a_reply(reply: str, text: str | None) -> None:
    assert text_in(reply, 100) == text


def test_a_reply_that_was_cut_has_no_text_unless_that_was_closed() -> None:
    for reply in ("<prompt>Put it between <prompt> and </prompt> or", "```\na\n```\nb\n```\nc"):
        assert text_in(reply, 100) is not None
        assert text_in(reply, 100, is_cut=True) is None
    for reply in ("<prompt>Do it.</prompt> I also", "```\nDo it.\n``` I also"):
        assert text_in(reply, 100, is_cut=True) == "Do it."
    answers = [Reply(("<prompt>a <prompt>b</prompt> c",), 1, 1, ("length",), "m"), "<prompt>whole</prompt>"]
    evo = EvoPromptGA(provider=Client(Scripted(answers)), instances=[0], popsize=2)
    assert evo.ask(evo.init(bb.key(0), "seed")) == ["seed", "whole"]


@pytest.mark.parametrize("part", ["<prompt>", "</prompt>", "```", "<", "<prompt>x", "&lt; ", "<prompt></prompt>"])
def test_no_reply_takes_long(part: str) -> None:
    begin = time.process_time()
    text_in(part * 200_000, 100)
    assert time.process_time() - begin < 1.0


@given(st.lists(st.sampled_from(["<prompt>", "</prompt>", "< / PROMPT >", "<prompt ", "a", "\n", "&lt;", "<b>"])))
def test_what_is_delimited_cannot_close_its_tags(parts: list[str]) -> None:
    shown = delimited("".join(parts))
    assert shown.startswith("<prompt>\n")
    assert shown.endswith("\n</prompt>")
    assert "<prompt" not in shown[1:].lower()
    assert "</" not in shown[:-9].lower().replace("</b", "")


def test_long_feedback_loses_its_middle() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("a" * 50 + "b" * 50, 20) == "a" * 10 + "\n[80 characters left out]\n" + "b" * 10


def test_draws_are_functions_of_their_arguments() -> None:
    key = bb.key(3)
    once = [Draws(key, 1, 2).uniform() for _ in range(2)]
    assert once[0] == once[1]
    assert len({Draws(key, g, m, p).uniform() for g in range(5) for m in range(5) for p in range(4)}) == 100
    draws = Draws(key, 0)
    assert sorted(draws.subset(range(50), 50)) == list(range(50))
    assert len(draws.subset("ab", 5)) == 2
    drawn = Counter(draws.roulette([0.0, 1.0, 3.0, 0.0]) for _ in range(2000))
    assert set(drawn) == {1, 2}
    assert 0.7 < drawn[2] / 2000 < 0.8
    assert set(Counter(draws.roulette([0, 0, 0]) for _ in range(100))) == {0, 1, 2}


@given(st.integers(1, 12), st.integers(1, 15))
def test_minibatches_go_through_all_instances(count: int, size: int) -> None:
    instances = range(100, 100 + count)
    parts = -(-count // min(size, count))
    for epoch in range(2):
        batches = [minibatch(bb.key(0), epoch * parts + part, instances, size) for part in range(parts)]
        assert {i for batch in batches for i in batch} == set(instances)
        assert all(len(set(batch)) == len(batch) == min(size, count) for batch in batches)


def test_losses_that_are_not_finite_have_failed() -> None:
    losses = told_losses("ab", [[0.0, math.nan], [-math.inf, math.inf]], 2)
    assert losses.tolist() == [[0.0, math.inf], [math.inf, math.inf]]
    assert mean_losses(losses, 1.0) == [0.5, math.inf]
    assert mean_losses(told_losses("a", [[4.0, math.nan]], 2), 1.0) == [4.0]  # no failure beats what came back
    assert told_losses("ab", [1, 2], 9).tolist() == [[1.0], [2.0]]
    assert told_losses((), np.zeros((0, 3)), 3).shape == (0, 0)
    for scores in ([1, 2, 3], [[1], [2]], "xy", [[1, 2, 3], [1, 2, 3]], 1.0):
        with pytest.raises(TellError, match="scores must be"):
            told_losses("ab", scores, 2)
    with pytest.raises(TellError, match=r"\(2, 2\), genomes by instances; got \(2,\)"):
        told_losses("ab", [1, 2], 2, is_mean_enough=False)
    assert [shown_score(loss, 2.0) for loss in (0.0, 0.5, 2.0, 9.0, -1.0, math.inf)] == [100, 75, 0, 0, 100, 0]


def test_a_failed_instance_counts_the_same_alone_and_among_others() -> None:
    """In means, in the final choice and in GEPA; and losses may be as large as there are numbers."""
    table = {"a": [0.0, math.nan, 0.5], "b": [9.0, 0.2, 0.2], "c": [math.nan] * 3, "d": [1e308, 1.7e308, math.nan]}
    rows = told_losses(list(table), list(table.values()), 3)
    filled = filled_losses(rows, 1.0)
    assert filled.tolist() == [[0.0, 1.0, 0.5], [9.0, 0.2, 0.2], [1.0, 1.0, 1.0], [1e100, 1e100, 1e100]]
    for i in range(4):
        assert mean_losses(rows[i : i + 1], 1.0) == mean_losses(rows, 1.0)[i : i + 1]
    assert mean_losses(rows, 1.0)[2:] == [math.inf, pytest.approx(1e100)]
    pick = final_pick(Rollouts(lambda genome, instance: table[genome][instance]), list(table), range(3))
    assert pick.genome == "a"
    assert pick.means == tuple(mean_losses(rows, 1.0))
    assert pick.behind == pytest.approx(tuple((filled - filled[0]).mean(axis=1)))
    assert np.isfinite([*pick.standard_errors, *pick.behind_errors]).all()


@pytest.mark.parametrize("workers", [1, 4])
def test_nothing_is_evaluated_twice_and_failures_are_results(workers: int) -> None:
    asked: Counter[tuple[str, int]] = Counter()
    mutex = threading.Lock()

    def evaluate(genome: str, instance: int) -> Any:
        with mutex:
            asked[genome, instance] += 1
        if genome == "bad":
            return {0: math.nan, 1: None, 2: Rollout(1.0, "caf\udce9")}[instance]
        if instance == 1:
            raise OSError("no model")
        return Rollout(len(genome) / 10, f"{genome} on {instance}", "out")

    rollouts = Rollouts(evaluate, workers=workers)
    losses, feedback = rollouts(["ab", "abc", "ab"], [0, 1, 2])
    rollouts(["abc", "bad"], [2, 1, 0])
    assert max(asked.values()) == 1
    assert len(rollouts) == len(asked) == 9
    np.testing.assert_array_equal(losses, [[0.2, math.nan, 0.2], [0.3, math.nan, 0.3], [0.2, math.nan, 0.2]])
    assert feedback[0] == ("ab on 0", "The evaluation failed: OSError: no model", "ab on 2")
    assert [run.feedback for i in range(3) if (run := rollouts.known("bad", i))] == [
        "", "The evaluation failed: TellError: evaluate must give a number or a Rollout; got None", "caf?"
    ]  # fmt: skip
    again: Rollouts[str] = Rollouts(evaluate)
    again.restore(json.loads(json.dumps(rollouts.stored(), allow_nan=False)))
    np.testing.assert_array_equal(again(["ab", "abc", "bad"], [0, 1, 2]).losses[:2], losses[:2])
    assert len(again) == 9
    assert max(asked.values()) == 1
    assert rollouts.fitting(["ab", "new", "bad", "newer"], [0, 1, 2], 5) == 3
    with pytest.raises(CheckpointError):
        again.restore([[1]])
    with pytest.raises(SettingError, match="workers must be an integer >= 1; got 0"):
        Rollouts(evaluate, workers=0)


@pytest.mark.parametrize("workers", [1, 3])
def test_an_exhausted_budget_is_no_failure_of_a_genome(workers: int) -> None:
    def evaluate(genome: str, instance: int) -> float:
        if instance == 5:
            raise BudgetExhausted("spent")
        return 0.0

    rollouts = Rollouts(evaluate, workers=workers)
    with pytest.raises(BudgetExhausted):
        rollouts(["a"], range(10))
    assert 5 <= len(rollouts) < 10
    assert rollouts.known("a", 4) == Rollout(0.0)
    assert rollouts.known("a", 5) is None


@pytest.mark.parametrize("workers", [1, 3])
def test_an_outage_is_of_several_genomes_or_of_one_that_had_answers(workers: int) -> None:
    down: set[str] = set("abcdefgh")

    def evaluate(genome: str, instance: int) -> float:
        if genome in down:
            raise ProviderError("no answer")
        return 0.0

    rollouts = Rollouts(evaluate, workers=workers)
    assert np.isnan(rollouts(["a", "b"], range(30)).losses).all()
    assert not rollouts.is_answered
    assert rollouts.stored() == []
    with pytest.raises(ProviderError, match="evaluations one after another had no answer"):
        rollouts(["c", "d", "e"], range(30))
    assert len(rollouts) == 0
    rollouts(["a", "x"], range(30))
    assert rollouts.is_answered
    assert len(rollouts.stored()) == 60
    down.add("x")
    with pytest.raises(ProviderError, match="20 evaluations one after another"):
        rollouts(["x"], range(30, 60))
    assert len(rollouts) == 60


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("by_client", [False, True])
def test_refusals_are_no_outage_however_many(workers: int, by_client: bool) -> None:
    def answer(request: Request) -> Any:
        return Refused("content filter") if "x" in request.messages[0].content else "yes"

    client = Client(Scripted(answer))

    def evaluate(genome: str, instance: int) -> float:
        if by_client:
            client.complete(Request(prompt(f"{genome} {instance}")))
        elif "x" in genome:
            raise Refused("my filter")
        return 0.0

    rollouts = Rollouts(evaluate, workers=workers)
    assert np.isnan(rollouts([f"x{i}" for i in range(9)], range(30)).losses).all()
    assert rollouts.is_answered
    assert len(rollouts.stored()) == 270
    run = rollouts.known("x0", 0)
    assert run is not None
    assert "Refused" in run.feedback
    assert "filter" in run.feedback


def test_a_server_says_what_it_refuses() -> None:
    """A filter or the model itself; not an error that passes, nor one that all requests have."""
    pytest.importorskip("openai")

    def answered(text: str | None, **message: Any) -> Answer:
        answer = chat("", finish="content_filter" if text is None else "length")
        answer.body["choices"][0]["message"] = {"content": None, **message}
        return answer

    def status(code: str, number: int = 400) -> Answer:
        answer = error(number, "no")
        answer.body["error"]["code"] = code
        return answer

    refusals = [answered(None), answered("", refusal="I would rather not"), status("content_filter")]
    others = [answered(""), status("invalid_api_key", 401), status("context_length_exceeded")]
    with serving([*refusals, *others]) as server:
        client = Client(OpenAI("small", base_url=server.url, key=None))
        for number in range(6):
            with pytest.raises(ProviderError) as raised:
                client.complete(Request(prompt(str(number))))
            assert isinstance(raised.value, Refused) == (number < 3)
        assert len(server.bodies) == 6  # none was tried again


def test_the_final_pick_compares_in_pairs() -> None:
    table = {"a": [0.5, 0.9, 0.1, 0.7], "b": [0.4, 0.8, 0.0, 0.6], "c": [0.0, 0.0, 0.0, math.nan], "d": [math.nan] * 4}
    rollouts = Rollouts(lambda genome, instance: table[genome][instance])
    pick = final_pick(rollouts, ["a", "b", "d"], range(4))
    assert (pick.genome, pick.position) == ("b", 1)
    assert pick.means == pytest.approx((0.55, 0.45, math.inf))
    assert pick.standard_errors[0] == pytest.approx(np.std(table["a"], ddof=1) / 2)
    assert pick.behind[0] == pytest.approx(0.1)
    assert pick.behind_errors[0] == pytest.approx(0.0, abs=1e-12)  # while the means' errors are 0.17
    assert pick.behind[1] == pick.behind_errors[1] == 0.0
    assert final_pick(rollouts, ["a", "c"], range(4)).means == pytest.approx((0.55, 0.25))
    assert final_pick(rollouts, ["a", "a"], [0]).position == 0
    for genomes, instances in (([], [1]), (["a"], []), (["a"], [1, 1])):
        with pytest.raises(SettingError):
            final_pick(rollouts, genomes, instances)


def test_a_pool_is_of_answers_that_passed() -> None:
    rollouts = Rollouts(lambda genome, i: Rollout(float(i % 2), "", f"answer {i}"))
    assert exemplar_pool(rollouts, "p", range(5), lambda i, run: f"{i}: {run.output}") == [
        "0: answer 0", "2: answer 2", "4: answer 4"
    ]  # fmt: skip
    assert len(exemplar_pool(rollouts, "p", range(5), lambda i, run: str(i), passing=1.0)) == 5
    with pytest.raises(SettingError, match="at most 0; none does"):
        exemplar_pool(rollouts, "p", [1, 3], lambda i, run: "")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": "x", "state": []}', '{"format": "blackbox text search 1", "state": {"os": [1]}}',
     '{"format": "blackbox text search 1", "state": {"Scored": [1, 2, 3]}}', '{"format": "blackbox text search 1"}',
     '{"format": "blackbox text search 1", "state": {"key": [1]}}', "[" * 100_000],
)  # fmt: skip
def test_other_texts_are_no_states(text: str) -> None:
    with pytest.raises(CheckpointError, match="text search"):
        from_json(text)
