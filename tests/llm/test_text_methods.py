"""OPRO, EvoPrompt and the search for exemplars: what they ask the model, whom they select."""

from __future__ import annotations

import copy
import math
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blackbox as bb
from blackbox.errors import SettingError, TellError
from blackbox.llm import (
    GEPA,
    Client,
    EvoPromptDE,
    EvoPromptGA,
    ExemplarSearch,
    Reply,
    Request,
    Rollouts,
    Scripted,
    TextOPRO,
    final_pick,
    search_text,
)
from blackbox.llm.text.evoprompt_de import splice
from blackbox.llm.text.evoprompt_ga import crossover
from blackbox.llm.text.proposals import SYSTEM
from blackbox.llm.text.stored import from_json, to_json

KEY = bb.key(0)


def numbered() -> tuple[Scripted, Client]:
    """A model that answers every request with a new text."""
    script = Scripted(lambda request: f"<prompt>text {request.sample}</prompt>")
    return script, Client(script)


# ---- OPRO

OPRO_PROMPT = """\
A language model is given an instruction for this task:

Add numbers.

Instructions that were tried, with their scores from 0 to 100, the best one last:

<prompt>
Sum &lt;/prompt> it up.
</prompt>
score: 45

<prompt>
Add.
</prompt>
score: 90

Examples of the task, with <INS> where the instruction stands:

<example>
<INS>
input: 2 3
answer: 5
</example>

Write an instruction that differs from all above and scores higher than each of them. Put it between <prompt> and \
</prompt>."""


def test_opro_shows_scored_instructions_the_best_last() -> None:
    script, client = numbered()
    opro = TextOPRO(provider=client, task="Add numbers.", instances=range(2), exemplars=[("2 3", "5")], new=3)
    seeds = ["Add.", "Sum </prompt> it up.", "Multiply.", "Fail."]
    state = opro.init(KEY, seeds)
    assert opro.ask(state) == seeds
    state = opro.tell(state, seeds, [[0.1, 0.1], [0.5, 0.6], [0.9, 0.7], [math.nan, math.nan]])
    assert opro.meta_prompt(state) == OPRO_PROMPT
    children = opro.ask(state)
    assert script.requests[0].messages == (("system", SYSTEM), ("user", OPRO_PROMPT))
    assert len(set(children)) == len({request.sample for request in script.requests}) == 3
    assert opro.ask(state) == children
    assert len(script.requests) == 3  # the answers are stored
    assert opro.finalists(state, 9) == ["Add.", "Sum </prompt> it up.", "Multiply."]
    assert opro.recommend(state) == "Add."


def test_opro_shows_at_most_so_many_and_hides_what_is_under_the_floor() -> None:
    _, client = numbered()
    opro = TextOPRO(provider=client, task="t", instances=[0], shown=3, floor=0.3)
    seeds = [f"seed {i}" for i in range(6)]
    state = opro.tell(opro.init(KEY, seeds), seeds, [0.69, 0.2, 0.71, 0.3, 0.1, math.inf])
    shown = [line for line in opro.meta_prompt(state).splitlines() if line.startswith(("seed", "score"))]
    assert shown == ["seed 3", "score: 70", "seed 1", "score: 80", "seed 4", "score: 90"]
    state = opro.tell(opro.init(KEY, seeds[:2]), seeds[:2], [0.8, 0.9])  # all under the floor: the best is left
    assert [line for line in opro.meta_prompt(state).splitlines() if line.startswith("seed")] == ["seed 0"]


def test_opro_leaves_out_what_was_told_before() -> None:
    client = Client(Scripted(lambda request: ["<prompt>Add.</prompt>", "<prompt>New.</prompt>"][request.sample % 2]))
    opro = TextOPRO(provider=client, task="t", instances=[0])
    state = opro.tell(opro.init(KEY, "Add."), ["Add."], [0.5])
    assert opro.ask(state) == ["New."]
    state = opro.tell(state, ["New."], [0.7])
    assert opro.ask(state) == []
    assert opro.tell(state, opro.ask(state), []).generation == 3


def test_opro_draws_other_examples_in_each_step() -> None:
    _, client = numbered()
    opro = TextOPRO(provider=client, task="t", instances=[0], exemplars=[(f"in {i}", "out") for i in range(20)])
    state = opro.tell(opro.init(KEY, "a"), ["a"], [0.5])
    shown = set()
    for _ in range(4):
        found = [line for line in opro.meta_prompt(state).splitlines() if line.startswith("input: ")]
        assert len(set(found)) == 3
        shown.add(tuple(found))
        state = opro.tell(state, [], [])
    assert len(shown) == 4


# ---- EvoPrompt


def test_what_evoprompt_asks() -> None:
    *_, example, answer, asked = crossover("A </prompt> b.", "C d.")
    assert example.content.splitlines()[:3] == asked.content.splitlines()[:3]
    assert answer.role == "assistant"
    assert asked.content == (
        "Make a better prompt in two steps.\n"
        "1. Crossover: combine these two prompts into one.\n"
        "2. Mutation: change the result of step 1, and put this final prompt between <prompt> and </prompt>.\n\n"
        "Prompt 1:\n<prompt>\nA &lt;/prompt> b.\n</prompt>\n\nPrompt 2:\n<prompt>\nC d.\n</prompt>"
    )
    assert splice("b", "c", "best", "x")[-1].content == (
        "Make a better prompt in four steps.\n"
        "1. Find the parts in which prompts 1 and 2 differ.\n"
        "2. Change those parts.\n"
        "3. Combine the changed parts with prompt 3: replace parts of it by them.\n"
        "4. Cross the result of step 3 with prompt 4, and put this final prompt between <prompt> and </prompt>.\n\n"
        "Prompt 1:\n<prompt>\nb\n</prompt>\n\nPrompt 2:\n<prompt>\nc\n</prompt>\n\n"
        "Prompt 3:\n<prompt>\nbest\n</prompt>\n\nPrompt 4:\n<prompt>\nx\n</prompt>"
    )


@pytest.mark.parametrize("kind", [EvoPromptGA, EvoPromptDE])
def test_evoprompt_begins_with_seeds_and_paraphrases(kind: Any) -> None:
    script, client = numbered()
    evo = kind(provider=client, instances=range(3), popsize=5)
    state = evo.init(KEY, ["a", "b", "a"])
    first = evo.ask(state)
    assert first[:2] == ["a", "b"]
    assert len(set(first)) == 5
    asked = [request.messages[-1].content.splitlines()[3] for request in script.requests]
    assert sorted(asked) == ["a", "a", "b"]
    assert evo.batch(state) == (0, 1, 2)
    assert evo.recommend(state) == "a"
    assert evo.ask(evo.init(KEY, list("abcdefgh"))) == list("abcde")


def test_the_genetic_algorithm_keeps_the_best_of_both_generations() -> None:
    script, client = numbered()
    evo = EvoPromptGA(provider=client, instances=[0], popsize=4)
    state = evo.init(KEY, list("abcd"))
    state = evo.tell(state, evo.ask(state), [0.5, 0.1, 0.9, math.nan])
    assert [entry.text for entry in state.population] == ["b", "a", "c", "d"]
    children = evo.ask(state)
    assert len(script.requests) == 4
    state = evo.tell(state, children, [0.6, 0.1, 0.0, math.nan])
    assert [entry.text for entry in state.population] == [children[2], "b", children[1], "a"]
    assert evo.finalists(state, 2) == [children[2], "b"]


def test_parents_are_drawn_in_proportion_to_their_scores() -> None:
    _, client = numbered()
    evo = EvoPromptGA(provider=client, instances=[0], popsize=3)
    state = evo.tell(evo.init(KEY, list("abc")), list("abc"), [0.2, 0.6, math.inf])
    pairs = [evo.parents(state, member) for member in range(1500)]
    assert all(one != other for one, other in pairs)
    first = Counter(one for one, _ in pairs)
    assert first["c"] == 0
    assert 0.62 < first["a"] / 1500 < 0.71  # 0.8 of 1.2
    state = evo.tell(evo.init(KEY, list("abc")), list("abc"), [1.0, 1.0, math.nan])
    assert set(Counter(one for one, _ in (evo.parents(state, i) for i in range(100)))) == {"a", "b", "c"}
    state = evo.tell(evo.init(KEY, "a"), ["a"], [0.5])
    assert evo.parents(state, 0) == ("a", "a")


def test_in_differential_evolution_children_compete_with_their_members() -> None:
    script, client = numbered()
    evo = EvoPromptDE(provider=client, instances=[0], popsize=4)
    state = evo.init(KEY, list("abcd"))
    state = evo.tell(state, evo.ask(state), [0.5, 0.1, 0.9, math.nan])
    assert [entry.text for entry in state.population] == list("abcd")
    for member, text in enumerate("abcd"):
        b, c, best = evo.donors(state, member)
        assert text not in (b, c)
        assert b != c
        assert best == "b"
    children = evo.ask(state)
    basic = [request.messages[-1].content.splitlines()[-2] for request in script.requests]
    assert sorted(basic) == list("abcd")
    told = evo.tell(state, children, [0.5, 0.0, 0.8, 0.9])
    assert [entry.text for entry in told.population] == ["a", *children[1:]]  # a tie is no improvement
    part = evo.tell(state, children[:2], [0.4, 0.2])
    assert [entry.text for entry in part.population] == [children[0], "b", "c", "d"]
    with pytest.raises(TellError, match="at most one for each of the 4 places, got 5"):
        evo.tell(state, [*children, "x"], [0.0] * 5)


def test_differential_evolution_of_one_member_goes_on() -> None:
    client = Client(Scripted(lambda request: "nothing"))
    evo = EvoPromptDE(provider=client, instances=[0], popsize=3)
    state = evo.init(KEY, "a")
    for generation in range(3):
        genomes = evo.ask(state)
        assert genomes == ["a"]
        state = evo.tell(state, genomes, [0.5])
        assert state.generation == generation + 1
    assert state.counts.fallbacks == 2 + 3 + 3
    assert state.counts.unparsed == state.counts.replies == 16


def test_differential_evolution_fills_its_empty_places() -> None:
    replies = [""] * 6
    script = Scripted(lambda request: replies.pop() if replies else f"<prompt>text {request.sample}</prompt>")
    evo = EvoPromptDE(provider=Client(script), instances=[0], popsize=4)
    state = evo.init(KEY, "a")
    assert evo.ask(state) == ["a"]
    state = evo.tell(state, evo.ask(state), [0.5])
    genomes = evo.ask(state)
    assert len(set(genomes)) == 4
    state = evo.tell(state, genomes, [0.6, 0.7, 0.8, 0.9])
    assert [entry.text for entry in state.population] == ["a", *genomes[1:]]
    assert len(evo.ask(state)) == 4


# ---- exemplars

POOL = [f"exemplar {i}" for i in range(8)]


def value(genome: tuple[str, ...]) -> float:
    """The smaller their numbers, and the more they are in order, the better."""
    numbers = [POOL.index(exemplar) for exemplar in genome]
    return sum(numbers) / 40 + 0.01 * (numbers != sorted(numbers))


def searched(search: ExemplarSearch, generations: int, score: Callable[[tuple[str, ...], int], float]) -> Any:
    state = search.init(KEY, POOL)
    for _ in range(generations):
        genomes, batch = search.ask(state), search.batch(state)
        state = search.tell(state, genomes, [[score(genome, i) for i in batch] for genome in genomes])
    return state


def test_exemplars_are_drawn_then_swapped() -> None:
    search = ExemplarSearch(instances=range(4), k=3, draws=32)
    state = search.init(KEY, POOL)
    drawn = search.ask(state)
    assert len(drawn) == len(set(drawn)) <= 32
    assert len(drawn) > 25
    assert all(len(set(genome)) == 3 for genome in drawn)
    state = search.tell(state, drawn, [[value(genome)] * 4 for genome in drawn])
    assert search.recommend(state) == min(drawn, key=value)
    for _ in range(40):
        incumbent, child = search.ask(state)
        assert incumbent == search.recommend(state)
        assert sum(one != other for one, other in zip(incumbent, child, strict=True)) == 1
        assert len(set(child)) == 3
        state = search.tell(state, [incumbent, child], [[value(incumbent)] * 4, [value(child)] * 4])
        assert search.recommend(state) == (child if value(child) < value(incumbent) else incumbent)
    assert set(search.recommend(state)) <= {*POOL[:4]}
    assert search.finalists(state, 3)[0] == search.recommend(state)
    assert len(set(search.finalists(state, 8))) == 8


def test_both_are_compared_on_the_same_minibatch() -> None:
    """Instances differ by far more than genomes, which does not matter for pairs on the same of them."""
    search = ExemplarSearch(instances=range(40), k=3, draws=8, minibatch=2)
    state = searched(search, 80, lambda genome, instance: value(genome) + 100.0 * instance)
    assert set(search.recommend(state)) <= {*POOL[:4]}
    batches = {search.batch(state._replace(generation=g)) for g in range(20)}
    assert len({i for batch in batches for i in batch}) == 40


def test_exemplars_of_a_small_pool_change_their_order() -> None:
    search = ExemplarSearch(instances=[0], k=5, draws=2)
    state = search.init(KEY, POOL[:3])
    state = search.tell(state, search.ask(state), [0.5] * len(search.ask(state)))
    children = set()
    for _ in range(20):
        incumbent, child = search.ask(state)
        assert sorted(child) == sorted(incumbent) == POOL[:3]
        children.add(child)
        state = search.tell(state, [incumbent, child], [0.5, 0.5])
    assert len(children) > 2
    with pytest.raises(TellError, match="must begin with the incumbent"):
        search.tell(state, [("other",), ("x",)], [0.5, 0.5])


# ---- all


class Plain:
    """A provider without locks."""

    model = "plain"

    def complete(self, request: Request, seconds: float) -> Reply:
        return Reply((f"<prompt>text {request.sample}</prompt>",), 1, 1, ("stop",), self.model)


@pytest.mark.parametrize("kind", [TextOPRO, EvoPromptGA, EvoPromptDE, GEPA])
def test_methods_can_be_pickled_and_copied_after_they_asked(kind: Any) -> None:
    more = {TextOPRO: {"task": "t"}, GEPA: {"validation": [5]}}.get(kind, {})
    method = kind(provider=Plain(), instances=range(2), **more)
    state = method.init(KEY, {"a": "b"} if kind is GEPA else "a")
    assert method.client is method.client
    begin = method.ask(state)
    for again in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):  # noqa: S301
        assert again.instances == method.instances
        assert again.ask(state) == begin
        assert again.client is not method.client


@pytest.mark.parametrize("kind", [TextOPRO, EvoPromptGA, EvoPromptDE])
def test_states_are_stored_as_json_and_go_on(kind: Any) -> None:
    _, client = numbered()
    method = kind(provider=client, instances=range(2), **({"task": "t"} if kind is TextOPRO else {}))
    state = method.init(bb.key(7), ["a", "bé\n"])
    for generation in range(3):
        again = from_json(to_json(state))
        assert type(again) is type(state)
        assert to_json(again) == to_json(state)
        genomes = method.ask(state)
        assert method.ask(again) == genomes
        scores = [[math.nan if (i + generation) % 3 == 0 else i / 10, 0.3] for i in range(len(genomes))]
        state = method.tell(state, genomes, scores)
        assert to_json(method.tell(again, method.ask(again), scores)) == to_json(state)


@pytest.mark.parametrize("kind", [TextOPRO, EvoPromptGA, EvoPromptDE, GEPA, ExemplarSearch])
@pytest.mark.parametrize("given", [np.arange(3), np.arange(3, dtype=np.uint8), [np.int64(0), 1, 2], range(3)])
def test_instances_may_be_an_array(kind: Any, given: Any, tmp_path: Path) -> None:
    """And are Python's integers for all that use them, as the checkpoint's file does."""
    more = {TextOPRO: {"task": "t"}, GEPA: {"validation": np.arange(5, 7)}}.get(kind, {})
    _, client = numbered()
    method = kind(instances=given, **({} if kind is ExemplarSearch else {"provider": client, **more}))
    assert method.instances == (0, 1, 2)
    kinds: set[type] = set()

    def evaluate(genome: Any, instance: int) -> float:
        kinds.add(type(instance))
        return len(str(genome)) / 100

    seeds = {GEPA: {"a": "b"}, ExemplarSearch: POOL}.get(kind, "a")
    found = search_text(method, evaluate, seeds, key=KEY, evaluations=30, checkpoint=tmp_path / "search")
    assert kinds == {int}
    pick = final_pick(Rollouts(evaluate), found.finalists, np.arange(10, 20))
    assert kinds == {int}
    assert len(pick.means) == len(found.finalists)


def test_other_keys_have_other_answers() -> None:
    script, client = numbered()
    evo = EvoPromptGA(provider=client, instances=[0])
    assert evo.ask(evo.init(bb.key(0), "a"))[1:] != evo.ask(evo.init(bb.key(1), "a"))[1:]
    assert len(script.requests) == 18


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        (TextOPRO, {"provider": None}, "provider must be a Client, or a provider"),
        (TextOPRO, {"instances": []}, "instances must be integers >= 0, at least one; got"),
        (TextOPRO, {"instances": np.arange(4).reshape(2, 2)}, "instances must be integers"),
        (TextOPRO, {"instances": np.arange(3.0)}, "instances must be integers"),
        (TextOPRO, {"instances": [True]}, "instances must be integers"),
        (TextOPRO, {"instances": {1, 2}}, "instances must be integers"),
        (TextOPRO, {"instances": [1, np.int32(1)]}, "instances must be different"),
        (TextOPRO, {"instances": "12"}, "instances must be integers"),
        (TextOPRO, {"floor": 30}, "floor"), (TextOPRO, {"new": 0}, "new"), (TextOPRO, {"task": "\ud800"}, "task"),
        (TextOPRO, {"exemplars": ["ab"]}, "exemplars must be pairs of texts"), (TextOPRO, {"worst": 0.0}, "worst"),
        (EvoPromptGA, {"popsize": 1}, "popsize"), (EvoPromptDE, {"temperature": -1.0}, "temperature"),
        (ExemplarSearch, {"k": 0}, "k must"), (ExemplarSearch, {"minibatch": 0}, "minibatch"),
    ],
)  # fmt: skip
def test_settings_are_checked(kind: Any, arguments: dict[str, Any], said: str) -> None:
    _, client = numbered()
    given: dict[str, Any] = {"instances": [0], **({} if kind is ExemplarSearch else {"provider": client})}
    if kind is TextOPRO:
        given["task"] = "t"
    with pytest.raises(SettingError, match=said):
        kind(**{**given, **arguments})


@pytest.mark.parametrize("seeds", [[], 3, [1], {"a": "b"}, "\ud800"])
def test_seeds_are_checked(seeds: Any) -> None:
    _, client = numbered()
    for method in (EvoPromptGA(provider=client, instances=[0]), ExemplarSearch(instances=[0])):
        with pytest.raises(SettingError):
            method.init(KEY, seeds)
    with pytest.raises(SettingError, match="key must be two uint32 words"):
        ExemplarSearch(instances=[0]).init(0, ["a"])  # type: ignore[arg-type]


def test_the_provider_fails_and_the_parent_stays() -> None:
    def fails(request: Request) -> Exception:
        return bb.ProviderError("down")

    evo = EvoPromptGA(provider=Client(Scripted(fails)), instances=[0], popsize=3)
    state = evo.init(KEY, ["a", "b"])
    state = evo.tell(state, evo.ask(state), [0.2, 0.1])
    children = evo.ask(state)
    assert set(children) <= {"a", "b"}
    state = evo.tell(state, children, [0.3] * 3)
    assert state.counts == (0, 0, 1 + 3, 1 + 3)
