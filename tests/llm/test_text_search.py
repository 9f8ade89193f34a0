"""Whole text searches: replayed, killed and resumed, out of budget, with models and evaluations that fail."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blackbox as bb
from blackbox.errors import BudgetExhausted, CheckpointError, SettingError
from blackbox.llm import (
    GEPA,
    Budget,
    Client,
    EvoPromptDE,
    EvoPromptGA,
    ExemplarSearch,
    Recorded,
    Refused,
    Request,
    Rollout,
    Rollouts,
    Scripted,
    TextOPRO,
    TextSearch,
    search_text,
)
from blackbox.llm.text.stored import to_json
from blackbox.problems import date_rewriting

TRAINING, VALIDATION = range(8), range(100, 110)
METHODS = ["opro", "ga", "de", "gepa", "exemplars"]
KEY = bb.key(1)


class Killed(BaseException):
    """As a signal would end it."""


def method(name: str, client: Client) -> tuple[Any, Any]:
    if name == "opro":
        shown = [date_rewriting.note(i) for i in range(200, 210)]
        given = TextOPRO(provider=client, task=date_rewriting.TASK, instances=TRAINING, exemplars=shown, new=4)
        return given, date_rewriting.SEED
    if name == "ga":
        return EvoPromptGA(provider=client, instances=TRAINING, popsize=4), date_rewriting.SEED
    if name == "de":
        return EvoPromptDE(provider=client, instances=TRAINING, popsize=4), date_rewriting.SEED
    if name == "gepa":
        given = GEPA(provider=client, instances=TRAINING, validation=VALIDATION, merges=5)
        return given, {"reading": date_rewriting.SEED, "writing": "Be concise."}
    pool = [date_rewriting.example(i, date_rewriting.solved(i)) for i in range(200, 210)]
    return ExemplarSearch(instances=TRAINING, draws=6, k=3), pool


def searched(name: str, client: Client, evaluate: Any = None, **settings: Any) -> TextSearch:
    strategy, seeds = method(name, client)
    given = {"key": KEY, "evaluations": 150, **settings}
    return search_text(strategy, date_rewriting.by_client(client) if evaluate is None else evaluate, seeds, **given)


def outcome(found: TextSearch) -> tuple[Any, ...]:
    return (*found[:2], to_json(found.state), *found[3:])


@pytest.mark.parametrize("name", METHODS)
def test_a_replay_is_the_same_to_the_bit_without_a_provider(name: str, tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    script = Scripted(date_rewriting.simulated)
    with Client(Recorded(tape, script)) as client:
        found = searched(name, client)
    assert found.evaluations <= 150
    assert found.stopped == "evaluations"
    with Client(Recorded(tape)) as client:
        assert outcome(searched(name, client)) == outcome(found)
    with Client(Scripted(date_rewriting.simulated)) as client:
        other = searched(name, client, key=bb.key(2))
    assert other.state.key.tolist() != found.state.key.tolist()
    assert to_json(other.state) != to_json(found.state)


@pytest.mark.parametrize("is_checkpointed", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_a_search_that_is_killed_pays_nothing_twice(name: str, is_checkpointed: bool, tmp_path: Path) -> None:
    whole_script = Scripted(date_rewriting.simulated)
    with Client(whole_script) as client:
        whole = searched(name, client)
    paid: Counter[str] = Counter()
    left = [70]

    def answer(request: Request) -> str:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        paid[request.key("scripted")] += 1
        return date_rewriting.simulated(request)

    checkpoint = tmp_path / "search.json" if is_checkpointed else None
    for _ in range(20):
        try:
            with Client(Scripted(answer), path=tmp_path / "llm.db", concurrency=1) as client:
                found = searched(name, client, checkpoint=checkpoint)
            break
        except Killed:
            left[0] = 70
    assert outcome(found) == outcome(whole)
    assert max(paid.values()) == 1
    assert sum(paid.values()) == len({request.key("scripted") for request in whole_script.requests})
    if checkpoint is not None:
        asked = sum(paid.values())
        with Client(Scripted(answer), path=tmp_path / "llm.db") as client:
            assert outcome(searched(name, client, checkpoint=checkpoint)) == outcome(whole)
        assert sum(paid.values()) == asked


@pytest.mark.parametrize("name", METHODS)
def test_a_search_goes_on_with_a_larger_budget_as_if_it_had_never_stopped(name: str, tmp_path: Path) -> None:
    def run(evaluations: int, checkpoint: Path | None) -> TextSearch:
        with Client(Scripted(date_rewriting.simulated)) as client:
            return searched(name, client, date_rewriting.by_simulation, evaluations=evaluations, checkpoint=checkpoint)

    path = tmp_path / "folder" / "search.json"
    for evaluations in (3, 50, 51, 130):
        assert run(evaluations, path).evaluations <= evaluations
    assert outcome(run(200, path)) == outcome(run(200, None))


def test_a_checkpoint_is_of_one_search(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    with Client(Scripted(date_rewriting.simulated)) as client:
        searched("ga", client, checkpoint=path, evaluations=40)
        for name, settings in (("de", {}), ("ga", {"key": bb.key(5)})):
            with pytest.raises(CheckpointError, match="of a search with another method, model, key, seeds or settings"):
                searched(name, client, checkpoint=path, **settings)
        head, *lines = path.read_text().splitlines(keepends=True)
        made, told = lines[:2]
        damaged = [head + made[:-9] + "\n" + told, head + told + made, head + "{}\n", head + made + told * 2]
        first = json.dumps({"format": "blackbox text search checkpoint 1", "state": ""})  # it had no line's end
        path.write_text(first)
        with pytest.raises(CheckpointError, match="is of the format 'blackbox text search checkpoint 1'"):
            searched("ga", client, checkpoint=path)
        damaged += [head + made + re.sub('"idle": [0-9]+', '"idle": 1e999', told)]
        for text in ("", "[]", "{}\n", json.dumps({"format": "x"}) + "\n", "7\n", head[:-1], *damaged):
            path.write_text(text)
            with pytest.raises(CheckpointError, match=r"search\.json"):
                searched("ga", client, checkpoint=path)
        with pytest.raises(SettingError, match="evaluations"):
            searched("ga", client, evaluations=0)


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_grows_and_may_be_cut_anywhere(name: str, tmp_path: Path) -> None:
    path, contents = tmp_path / "search", [b""]

    def run(checkpoint: Path | None, **settings: Any) -> tuple[Any, ...]:
        with Client(Scripted(date_rewriting.simulated)) as client:
            return outcome(searched(name, client, date_rewriting.by_simulation, checkpoint=checkpoint, **settings))

    whole = run(None)
    assert run(path, callback=lambda state, made: contents.append(path.read_bytes())) == whole
    assert len(set(contents)) > 3
    assert all(later.startswith(former) for former, later in itertools.pairwise(contents))
    content = path.read_bytes()
    head = content.index(b"\n") + 1
    for size in {head, head + 1, *np.linspace(head, len(content), 10).astype(int).tolist(), len(content) - 1}:
        path.write_bytes(content[:size])
        assert run(path) == whole
        assert path.read_bytes().count(b"\n") >= content.count(b"\n")
    path.write_bytes(content[:head] + b"x" * 2 * len(content))  # a line so long that what follows ends within it
    for _ in range(2):
        assert run(path) == whole
    assert b"x" * 99 not in path.read_bytes()


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_checkpoint_that_another_search_writes_is_left_as_it_is(has_begun: bool, tmp_path: Path) -> None:
    path, client, contents = tmp_path / "search", Client(Scripted(date_rewriting.simulated)), []

    def another() -> None:
        if not contents:
            path.unlink(missing_ok=True)
            searched("de", client, date_rewriting.by_simulation, checkpoint=path, evaluations=45)
            contents.append(path.read_bytes())

    def evaluate(genome: Any, instance: int) -> Rollout:
        if not has_begun:
            another()
        return date_rewriting.by_simulation(genome, instance)

    with pytest.raises(CheckpointError, match="search is not as this search left it: another search writes it"):
        searched("ga", client, evaluate, checkpoint=path, callback=lambda *_: another())
    assert path.read_bytes() == contents[0]


def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    client, path = Client(Scripted(date_rewriting.simulated)), tmp_path / "search"
    with pytest.raises(CheckpointError, match=r"search cannot be written: .*No such file"):
        searched("ga", client, checkpoint=path, callback=lambda *_: path.unlink())
    path.write_text("a file, and no folder")
    with pytest.raises(CheckpointError, match="below cannot be written"):
        searched("ga", client, checkpoint=path / "below")


def test_evaluations_that_were_made_elsewhere_are_kept_with_those_of_the_search(tmp_path: Path) -> None:
    def run(evaluations: int, *prompts: str) -> TextSearch:
        rollouts: Rollouts[Any] = Rollouts(date_rewriting.by_simulation)
        rollouts(prompts, TRAINING)
        with Client(Scripted(date_rewriting.simulated)) as client:
            return searched("ga", client, rollouts, checkpoint=tmp_path / "search", evaluations=evaluations)

    run(60)
    run(70, "another", "one more")
    found = run(90)
    assert 80 < found.evaluations <= 90
    lines = [json.loads(line) for line in (tmp_path / "search").read_text().splitlines()]
    kept = {(name, instance) for line in lines for name, instance, *_ in line.get("rollouts", ())}
    assert len(kept) == found.evaluations == sum(len(line.get("rollouts", ())) for line in lines)
    assert ('"one more"', 0) in kept


def test_no_number_of_an_instance_is_infinite() -> None:
    with pytest.raises(CheckpointError, match="stored evaluations are none"):
        Rollouts(date_rewriting.by_simulation).restore([["a", math.inf, 0.5, "", ""]])


def test_what_is_restored_takes_the_same_for_an_outage() -> None:
    """A genome that only ever failed had no answer, whether it is evaluated in this process or was in a former one."""

    def evaluate(genome: str, instance: int) -> float:
        raise ValueError("bad") if instance == 0 else Refused("no") if instance == 1 else bb.ProviderError("503")

    made: Rollouts[str] = Rollouts(evaluate)
    made(["a"], range(2))
    resumed: Rollouts[str] = Rollouts(evaluate)
    resumed.restore(made.stored())
    for rollouts in (made, resumed):
        assert np.isnan(rollouts(["a"], range(2, 30)).losses).all()
        assert len(rollouts) == 30


GARBAGE = [
    "", "I can't help with that.", "<prompt></prompt>", "<prompt>", "</prompt>", "```", "{" * 5000, "\0",
    "<prompt>\ud800x", "<prompt>" + "x" * 9000 + "</prompt>", "score: 100\n" * 50,
]  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_model_that_only_writes_garbage_stops_nothing(name: str) -> None:
    asked = []

    def answer(request: Request) -> str:
        asked.append(request)
        return GARBAGE[request.sample % len(GARBAGE)]

    strategy, seeds = method(name, Client(Scripted(answer)))
    found = search_text(strategy, date_rewriting.by_simulation, seeds, key=KEY, evaluations=250, stalled=5)
    if name == "exemplars":
        assert not asked
        return
    assert found.stopped == "stalled"
    assert found.best == seeds
    counts = found.counts
    assert counts.replies == counts.unparsed == len(asked)
    assert counts.fallbacks == len(asked) / 2  # each is asked twice
    assert found.evaluations <= 2 * (len(TRAINING) + len(VALIDATION))


@pytest.mark.parametrize("begin", [0, 12])
@pytest.mark.parametrize("name", METHODS)
def test_an_outage_of_the_optimizer_is_not_the_end(name: str, begin: int, tmp_path: Path) -> None:
    """The optimizer is down from some request on; when it is back, the same command goes on as if nothing was."""
    checkpoint = tmp_path / "search.json"
    left = [begin]

    def answer(request: Request) -> Any:
        left[0] -= 1
        return bb.ProviderError("HTTP 503") if left[0] < 0 else date_rewriting.simulated(request)

    def run(checkpoint: Path | None) -> TextSearch:
        client = Client(Scripted(answer), concurrency=1)
        return searched(name, client, date_rewriting.by_simulation, checkpoint=checkpoint, evaluations=250, stalled=3)

    found = run(checkpoint)
    if name == "exemplars":
        return
    assert "proposals one after another had no reply. model 'scripted' did not answer" in found.stopped
    assert "HTTP 503" in found.stopped
    assert found.counts.failed > 0
    assert run(checkpoint).stopped == found.stopped or begin
    left[0] = 10**6
    resumed, whole = run(checkpoint), run(None)
    assert resumed.stopped == whole.stopped == "evaluations"
    assert resumed.state.key.tolist() == whole.state.key.tolist()
    if begin == 0 and name != "gepa":  # else some were without a reply in a generation that had others
        assert outcome(resumed) == outcome(whole)


def test_a_proposal_without_a_reply_now_and_then_stops_nothing() -> None:
    def answer(request: Request) -> Any:
        return bb.ProviderError("filter") if request.sample % 4 == 0 else date_rewriting.simulated(request)

    for name in METHODS:
        found = searched(name, Client(Scripted(answer), concurrency=1), date_rewriting.by_simulation)
        assert found.stopped == "evaluations", name


@pytest.mark.parametrize("name", ["opro", "ga", "de", "gepa"])
def test_an_optimizer_whose_filter_refuses_all_is_not_down(name: str) -> None:
    client = Client(Scripted(lambda request: Refused("content filter")), concurrency=1)
    found = searched(name, client, date_rewriting.by_simulation, evaluations=400, stalled=5)
    assert found.stopped == "stalled"
    assert found.counts.failed == 0
    assert found.counts.replies == found.counts.unparsed > 0


@pytest.mark.parametrize("name", METHODS)
def test_evaluations_are_counted_exactly_across_an_outage(name: str, tmp_path: Path) -> None:
    """Also those of generations that the search goes back over: they were made, and are not made again."""
    made: Counter[tuple[str, int]] = Counter()
    left = [12]

    def evaluate(genome: Any, instance: int) -> Rollout:
        made[json.dumps(genome), instance] += 1
        return date_rewriting.by_simulation(genome, instance)

    def answer(request: Request) -> Any:
        left[0] -= 1
        return bb.ProviderError("HTTP 503") if left[0] < 0 else date_rewriting.simulated(request)

    for more in (0, 5, 10**6):
        left[0] = more or left[0]
        client = Client(Scripted(answer), concurrency=1)
        found = searched(name, client, evaluate, evaluations=250, checkpoint=tmp_path / "search")
        assert found.evaluations == sum(made.values()) <= 250
    assert found.stopped == "evaluations"
    assert max(made.values()) == 1


@pytest.mark.parametrize("name", ["opro", "ga", "de", "gepa"])
def test_genomes_that_a_filter_refuses_have_failed(name: str) -> None:
    instances = range(30)
    client = Client(Scripted(date_rewriting.simulated))

    def evaluate(genome: Any, instance: int) -> Rollout:
        if "archive" in (text := date_rewriting.instruction(genome)) and text.count(".") <= 2:
            raise bb.ProviderError("content filter")
        return date_rewriting.by_simulation(genome, instance)

    strategy, seeds = method(name, client)
    strategy = dataclasses.replace(strategy, instances=instances)
    found = search_text(strategy, evaluate, seeds, key=KEY, evaluations=900)
    assert found.stopped == "evaluations"
    assert date_rewriting.instruction(found.best) != date_rewriting.SEED


def test_a_checkpoint_is_of_one_model(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    for model in "ab":
        client = Client(Scripted(date_rewriting.simulated, model))
        if model == "a":
            searched("ga", client, date_rewriting.by_simulation, checkpoint=path, evaluations=40)
        else:
            with pytest.raises(CheckpointError, match="another method, model"):
                searched("ga", client, date_rewriting.by_simulation, checkpoint=path, evaluations=40)


def test_the_counts_are_those_of_all_replies() -> None:
    for evaluations in (35, 40):  # the first of them cuts the second generation, the other one ends before it
        script = Scripted(date_rewriting.simulated)
        found = searched("ga", Client(script), date_rewriting.by_simulation, evaluations=evaluations)
        assert found.counts.replies == len(script.requests)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_an_outage_is_no_failure_of_the_genomes(name: str, workers: int, tmp_path: Path) -> None:
    """The model is down from some evaluation on; when it is back, the same command goes on as if nothing was."""
    checkpoint = tmp_path / "search.json"
    with Client(Scripted(date_rewriting.simulated)) as client:
        whole = searched(name, client, date_rewriting.by_simulation)
        answers = [70 if name == "exemplars" else 40]

        def evaluate(genome: Any, instance: int) -> Rollout:
            answers[0] -= 1
            if answers[0] < 0:
                raise bb.ProviderError("HTTP 503")
            return date_rewriting.by_simulation(genome, instance)

        found = searched(name, client, Rollouts(evaluate, workers=workers), checkpoint=checkpoint)
        assert "evaluations one after another had no answer" in found.stopped
        assert found.evaluations <= 70
        answers[0] = 10**6
        assert outcome(searched(name, client, evaluate, checkpoint=checkpoint)) == outcome(whole)


@pytest.mark.parametrize("name", METHODS)
def test_evaluations_that_fail_are_the_worst(name: str) -> None:
    """Every third evaluation raises or is not finite; what always fails is never recommended."""

    def evaluate(genome: Any, instance: int) -> float | Rollout:
        text = date_rewriting.instruction(genome)
        if "Check your answer." in text:
            return math.nan
        kind = (len(text) + instance) % 9
        if kind < 3:
            return [math.inf, -math.inf, math.nan][kind]
        if kind == 3:
            raise RuntimeError("no answer")
        return date_rewriting.by_simulation(genome, instance)

    script = Scripted(date_rewriting.simulated)
    with Client(script) as client:
        found = searched(name, client, evaluate, evaluations=300)
    assert "Check your answer." not in date_rewriting.instruction(found.best)
    text = to_json(found.state)
    assert '{"float": "-inf"}' not in text
    assert '{"float": "nan"}' not in text
    asked = "\n".join(message.content for request in script.requests for message in request.messages)
    assert set(re.findall(r"^score: (.*)$", asked, re.MULTILINE)) <= {str(score) for score in range(101)}
    if name == "gepa":
        assert "The evaluation failed: RuntimeError: no answer" in asked


@pytest.mark.parametrize("name", METHODS)
def test_all_evaluations_fail(name: str) -> None:
    def evaluate(genome: Any, instance: int) -> float:
        raise OSError("disk full")

    with Client(Scripted(date_rewriting.simulated)) as client:
        found = searched(name, client, evaluate, evaluations=120)
    assert found.evaluations <= 120
    assert date_rewriting.instruction(found.best).startswith(date_rewriting.SEED)
    assert len(found.finalists) >= 1


@pytest.mark.parametrize("calls", [0, 40, 90])
@pytest.mark.parametrize("name", METHODS)
def test_an_exhausted_budget_leaves_a_search_that_goes_on(name: str, calls: int, tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "llm.db", tmp_path / "search.json"
    with Client(Scripted(date_rewriting.simulated)) as client:
        whole = searched(name, client)
    budget = Budget(calls=calls)
    with Client(Scripted(date_rewriting.simulated), path=path, budget=budget, concurrency=1) as client:
        found = searched(name, client, checkpoint=checkpoint)
        assert client.spent.calls == calls
    assert "the budget of calls has no room for another attempt" in found.stopped
    assert date_rewriting.instruction(found.best)
    assert found.evaluations <= calls
    assert found.finalists[0] == found.best
    with Client(Scripted(date_rewriting.simulated), path=path) as client:
        assert outcome(searched(name, client, checkpoint=checkpoint)) == outcome(whole)


def test_what_was_evaluated_before_the_budget_ended_counts() -> None:
    """Of the last generation two members were evaluated, and the second is the best there is."""
    client = Client(Scripted(lambda request: f"<prompt>child {request.sample}</prompt>"))
    opro = TextOPRO(provider=client, task="t", instances=[0, 1], new=4)
    order: list[str] = []

    def evaluate(genome: str, instance: int) -> float:
        if genome not in order:
            order.append(genome)
        if len(order) == 4:
            raise BudgetExhausted("no money")
        return [0.9, 0.5, 0.2][order.index(genome)]

    found = search_text(opro, evaluate, "seed", key=KEY, evaluations=100)
    assert (found.stopped, found.evaluations) == ("no money", 6)
    assert found.best == order[2]
    assert found.finalists == [order[2], order[1], "seed"]
    assert found.state.generation == 1  # the state is that of the last whole generation


@pytest.mark.parametrize("name", METHODS)
def test_no_rollout_is_repeated_and_the_limit_holds(name: str) -> None:
    made: Counter[tuple[str, int]] = Counter()

    def evaluate(genome: Any, instance: int) -> Rollout:
        made[json.dumps(genome), instance] += 1
        return date_rewriting.by_simulation(genome, instance)

    rollouts: Rollouts[Any] = Rollouts(evaluate)
    seen: list[int] = []
    with Client(Scripted(date_rewriting.simulated)) as client:
        found = searched(name, client, rollouts, evaluations=203, callback=lambda state, n: seen.append(n))
    assert max(made.values()) == 1
    assert sum(made.values()) == len(rollouts) == found.evaluations == seen[-1]
    assert found.evaluations > 203 - len(VALIDATION)
    assert found.evaluations <= 203
    assert seen == sorted(seen)


@pytest.mark.parametrize("name", METHODS)
def test_threads_change_nothing(name: str) -> None:
    with Client(Scripted(date_rewriting.simulated)) as client:
        one = searched(name, client, Rollouts(date_rewriting.by_simulation))
        assert outcome(searched(name, client, Rollouts(date_rewriting.by_simulation, workers=4))) == outcome(one)


@pytest.mark.parametrize("name", METHODS)
def test_a_search_finds_a_better_prompt(name: str) -> None:
    held_out = range(1000, 1100)

    def loss(genome: Any) -> float:
        return sum(date_rewriting.by_simulation(genome, i).loss for i in held_out) / len(held_out)

    with Client(Scripted(date_rewriting.simulated)) as client:
        found = searched(name, client, date_rewriting.by_simulation, evaluations=1000)
    assert loss(date_rewriting.SEED) > 0.5
    assert loss(found.best) < 0.42


def test_the_simulated_model() -> None:
    for number in range(200):
        assert date_rewriting.solved(number).loss == 0.0
        text, date = date_rewriting.note(number)
        rules = set(date_rewriting.RULES)
        assert date_rewriting._rewritten(text, rules) == date
        assert 0.0 < date_rewriting.by_simulation(date_rewriting.SEED, number).loss <= 1.0
    good = "Use the ISO format YYYY-MM-DD. If there are only numbers, the first is the day."
    opposed = f"{good} If there are only numbers, the first is the month."
    losses = [
        sum(date_rewriting.by_simulation(text, i).loss for i in range(300)) / 300
        for text in (good, opposed, " ".join(date_rewriting.VOCABULARY))
    ]
    assert losses[0] < losses[1]
    assert losses[0] < losses[2]  # saying all there is makes it overlook too much
    with Client(Scripted(date_rewriting.simulated)) as client:
        evaluate = date_rewriting.by_client(client)
        assert [evaluate(good, i) for i in range(20)] == [date_rewriting.by_simulation(good, i) for i in range(20)]
    with pytest.raises(bb.ProviderError, match="does nothing but rewrite"):
        date_rewriting.simulated_model(Request(bb.llm.prompt("hello")))


def test_the_example_ends_well_when_the_model_is_down_at_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typer = pytest.importorskip("typer")
    main = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "optimize_prompt.py"))

    def down(*_: object) -> None:
        raise bb.ProviderError("HTTP 503")

    monkeypatch.setattr(bb.llm, "final_pick", down)
    with pytest.raises(typer.Exit):
        main["main"](main["Method"].opro, evaluations=30, out=tmp_path)
    assert "HTTP 503; with --out the same command goes on" in capsys.readouterr().out
    assert (tmp_path / "opro-0-scripted.json").exists()
