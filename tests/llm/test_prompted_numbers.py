"""OPRO and LLAMBO on numbers."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

import blackbox as bb
from blackbox.errors import BudgetExhausted, SettingError
from blackbox.llm.llambo import _losses, expected_improvement
from blackbox.llm.scored_pairs import no_pairs, with_results


def run(strategy: Any, function: Any, d: int, generations: int) -> Any:
    state = strategy.init(bb.key(0), np.full(d, 0.5))
    for _ in range(generations):
        population = strategy.ask(state)
        state = strategy.tell(state, population, np.array([function(x) for x in population]))
    return state


def sphere(x: np.ndarray) -> float:
    return float(np.sum((x - 0.3) ** 2))


def near_the_best(request: bb.llm.Request) -> str:
    """What a model might answer to OPRO: the last solution of the list with small changes."""
    lists = re.findall(r"\[([\d, ]+)\]", request.messages[-1].content)
    rng = np.random.default_rng(request.sample + 31 * len(request.messages[-1].content))
    solution = [min(100, max(0, int(value) + int(rng.integers(-6, 7)))) for value in lists[-1].split(",")]
    return f"I suggest, after [1, 2], this one: {solution}"


def test_pairs_are_the_best_and_none_twice() -> None:
    pairs = no_pairs(3, 1)
    pairs = with_results(pairs, np.array([[1.0], [2.0], [1.0], [3.0]]), np.array([5.0, np.nan, 4.0, np.inf]))
    assert pairs.used == 1
    assert (pairs.points[0, 0], pairs.values[0]) == (1.0, 4.0)
    pairs = with_results(pairs, np.array([[4.0], [5.0], [6.0]]), np.array([9.0, 1.0, 2.0]))
    assert pairs.points[:, 0].tolist() == [5.0, 6.0, 1.0]


def test_opro_shows_the_best_last() -> None:
    script = bb.llm.Scripted(near_the_best)
    strategy = bb.llm.OPRO(provider=script, popsize=2, shown=2, low=0.0, high=100.0, task="Fit a line.")
    state = strategy.init(bb.key(0), np.full(2, 50.0))
    population = np.array([[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    state = strategy.tell(state, population, np.array([2.5, 10.0, 1.25]))
    assert strategy.prompt(state) == (
        "Fit a line.\nA solution is a list of 2 integers from 0 to 100. Solutions with their losses, in"
        " descending order of loss; lower is better:\n\n[3, 4] loss 2.500\n[7, 8] loss 1.250\n\nGive one solution that"
        " differs from all above and has a lower loss than any of them. End with the list in square brackets."
    )


def test_opro_improves_by_a_model_that_changes_the_best() -> None:
    strategy = bb.llm.OPRO(provider=bb.llm.Scripted(near_the_best))
    state = run(strategy, sphere, 2, 20)
    assert state.best.fitness < 1e-3


def test_opro_repeats_no_solution_and_counts_what_was_none() -> None:
    script = bb.llm.Scripted(lambda request: "[10, 10]" if request.sample < 4 else "none [5, 101] [1]")
    strategy = bb.llm.OPRO(provider=script, popsize=4)
    state = strategy.tell(strategy.init(bb.key(1), np.full(2, 0.5)), np.array([[0.2, 0.2]]), np.array([1.0]))
    population = strategy.ask(state)
    assert np.sum(np.all(np.isclose(population, 0.1), axis=1)) == 1
    state = strategy.tell(state, population, np.ones(4))
    assert int(state.fallbacks) == 3
    assert len(script.requests) == 4 + 3


@pytest.mark.parametrize("kind", [bb.llm.OPRO, bb.llm.LLAMBO])
def test_no_member_of_a_generation_is_that_of_another_page(kind: Any) -> None:
    """Few solutions are answered, so that pages would meet; and a page is the same whether others were asked or not."""

    def answer(request: bb.llm.Request) -> Any:
        if kind is bb.llm.OPRO:
            return f"[{request.sample // 2 % 3 + 3 * (request.sample % 2)}, 3]"
        asked = "Complete" in request.messages[-1].content
        return [f"x1 = 0.{1 + i}, x2 = 0.5" if asked else "1" for i in range(request.n)]

    def begun() -> tuple[Any, Any]:
        strategy = kind(provider=bb.llm.Scripted(answer), popsize=3)
        state = strategy.init(bb.key(1), np.full(2, 0.5))
        state = strategy.tell(state, np.array([[0.9, 0.9], [0.8, 0.9]]), np.array([1.0, 2.0]))
        return strategy, state._replace(generation=np.asarray(9)[()])

    strategy, state = begun()
    pages = [strategy.ask(state, first) for first in (0, 3)]
    proposed = [tuple(x) for x in np.concatenate(pages).tolist() if x[1] in (0.03, 0.5)]
    assert len(set(proposed)) == len(proposed) == 6
    other, state = begun()
    assert other.ask(state, 3).tobytes() == pages[1].tobytes()


def by_distance(request: bb.llm.Request) -> list[str]:
    """What a model might answer to LLAMBO: configurations near the best, and losses like the nearest one's."""
    text = request.messages[-1].content
    rows = [
        (float(loss), np.array([float(value) for value in re.findall(r"= ([-\d.e]+)", row)]))
        for loss, row in re.findall(r"^loss (\S+): (x1.*)$", text, re.MULTILINE)
    ]
    rng = np.random.default_rng(request.sample + 7 * len(text))
    if asked := re.search(r"^\? : (.*)$", text, re.MULTILINE):
        point = np.array([float(value) for value in re.findall(r"= ([-\d.e]+)", asked[1])])
        nearest = min(rows, key=lambda row: float(np.sum((row[1] - point) ** 2)))
        return [f"{nearest[0] + 0.01 * rng.standard_normal():.4f}" for _ in range(request.n)]
    best = min(rows, key=lambda row: row[0])[1]
    points = np.clip(best + 0.1 * rng.standard_normal((request.n, len(best))), 0, 1)
    return [", ".join(f"x{i + 1} = {value:.4f}" for i, value in enumerate(point)) for point in points.tolist()]


def test_llambo_improves_by_a_model_that_looks_nearby() -> None:
    state = run(bb.llm.LLAMBO(provider=bb.llm.Scripted(by_distance)), sphere, 2, 30)
    assert state.best.fitness < 0.01
    assert int(state.fallbacks) == 0


def test_llambo_asks_for_the_target_in_random_order_with_the_names() -> None:
    script = bb.llm.Scripted(by_distance)
    strategy = bb.llm.LLAMBO(provider=script, start=2, alpha=0.5, names=("depth", "rate"), candidates=3)
    state = strategy.init(bb.key(0), np.full(2, 0.5))
    population = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    state = strategy.tell(state, population, np.array([4.0, 2.0, 3.0]))._replace(generation=np.asarray(3)[()])
    request = strategy._sampling(state, 0)
    text = request.messages[-1].content
    assert text.endswith("\nloss 1.000:")  # 2 - 0.5 (4 - 2)
    assert text.count("depth = ") == 3
    orders = {strategy._sampling(state, member).messages[-1].content for member in range(8)}
    assert len(orders) > 1
    assert request.n == 3


def test_llambo_falls_back_and_counts() -> None:
    strategy = bb.llm.LLAMBO(provider=bb.llm.Scripted(lambda request: "x1 = 2, x2 = 0.1"), start=3)
    state = run(strategy, sphere, 2, 10)
    assert int(state.fallbacks) == 7


@pytest.mark.parametrize("kind", [bb.llm.OPRO, bb.llm.LLAMBO])
def test_a_provider_without_answers_is_an_error(kind: Any) -> None:
    down = bb.llm.AttemptFailed("HTTP 401", retry=False)
    with pytest.raises(bb.ProviderError, match="HTTP 401"):
        run(kind(provider=bb.llm.Scripted(lambda request: down)), sphere, 2, 8)


@pytest.mark.parametrize("kind", [bb.llm.OPRO, bb.llm.LLAMBO])
def test_x0_is_the_first_member(kind: Any) -> None:
    strategy = kind(provider=bb.llm.Scripted([]))
    assert strategy.ask(strategy.init(bb.key(0), np.array([0.25, 0.75])))[0].tolist() == [0.25, 0.75]


def test_prompts_tell_close_losses_and_points_apart() -> None:
    losses = 10000.1 + 0.2 * np.arange(5)
    points = 1000 + np.random.default_rng(0).uniform(size=(5, 2))
    for kind in (bb.llm.OPRO, bb.llm.LLAMBO):
        script = bb.llm.Scripted(lambda request: "none")
        strategy = kind(provider=script, low=1000.0, high=1001.0)
        state = strategy.tell(strategy.init(bb.key(0), points[0]), points, losses)._replace(
            generation=np.asarray(9)[()]
        )
        strategy.ask(state)
        text = script.requests[0].messages[-1].content
        assert len(set(re.findall(r"loss (\d[\d.]*)", text))) >= 5
        assert len(set(re.findall(r"x1 = (\S+),", text))) in (0, 5)


def test_predictions_are_the_last_numbers_of_their_texts() -> None:
    texts = ("The loss of x1 = 0.2 is 0.5", "\u22120.5", ".25", "none", "1e999")
    reply = bb.llm.Reply(texts, 1, 1, ("stop",) * 5, "m")
    assert _losses(reply) == [0.5, -0.5, 0.25]


def test_expected_improvement_is_the_integral() -> None:
    losses, least = [1.0, 1.5, 0.2, 0.9], 0.8
    mean, deviation = float(np.mean(losses)), float(np.std(losses))
    found, _ = integrate.quad(lambda s: (least - s) * stats.norm.pdf(s, mean, deviation), -np.inf, least)
    assert expected_improvement(losses, least) == pytest.approx(found)
    assert expected_improvement([0.5, 0.5], least) == pytest.approx(0.3)
    assert expected_improvement([0.5], least) == -math.inf


@pytest.mark.parametrize("kind", [bb.llm.OPRO, bb.llm.LLAMBO])
def test_they_are_replayed_resumed_and_stopped(kind: Any, tmp_path: Path) -> None:
    model = near_the_best if kind is bb.llm.OPRO else by_distance
    tape = tmp_path / "tape.jsonl"
    first = run(kind(provider=bb.llm.Recorded(tape, bb.llm.Scripted(model))), sphere, 2, 9)
    again = run(kind(provider=bb.llm.Recorded(tape)), sphere, 2, 9)
    assert first.pairs.points.tobytes() == again.pairs.points.tobytes()

    script = bb.llm.Scripted(model)
    run(kind(provider=bb.llm.Client(script, path=tmp_path / "llm.db")), sphere, 2, 7)
    paid = len(script.requests)
    run(kind(provider=bb.llm.Client(script, path=tmp_path / "llm.db")), sphere, 2, 7)
    assert len(script.requests) == paid > 0

    limited = kind(provider=bb.llm.Client(bb.llm.Scripted(model), budget=bb.llm.Budget(calls=1)))
    with pytest.raises(BudgetExhausted):
        run(limited, sphere, 2, 9)


@pytest.mark.parametrize("kind", [bb.llm.OPRO, bb.llm.LLAMBO])
def test_they_run_behind_minimize(kind: Any) -> None:
    model = near_the_best if kind is bb.llm.OPRO else by_distance
    result = bb.minimize(
        lambda x: float(np.sum((x - 2) ** 2)), bb.Box([-5.0] * 2, [5.0] * 2),
        method=kind(provider=bb.llm.Scripted(model)), budget=60, seed=1,
    )  # fmt: skip
    assert result.value < 2.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: bb.llm.OPRO(provider=None), "provider must be"),
        (lambda: bb.llm.OPRO(provider=bb.llm.Scripted([]), shown=1), "shown must be an integer >= 2"),
        (lambda: bb.llm.LLAMBO(provider=bb.llm.Scripted([]), predictions=1), "predictions must be an integer >= 2"),
        (
            lambda: bb.llm.LLAMBO(provider=bb.llm.Scripted([]), names=("a",)).init(bb.key(0), np.ones(2)),
            "names must be 2, one for each coordinate",
        ),
    ],
)
def test_settings_are_checked(build: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        build()


@pytest.mark.parametrize("kind", [bb.llm.OPRO, bb.llm.LLAMBO])
def test_members_differ_from_all_before_them_wherever_a_page_begins_and_uniform_ones_are_counted(kind: Any) -> None:
    def same(request: bb.llm.Request) -> Any:
        text = request.messages[-1].content
        return "[5, 5]" if "A solution is" in text else [("x1 = 0.05, x2 = 0.05", "1")["Say" in text]] * request.n

    client = bb.llm.Client(bb.llm.Scripted(same))
    strategy = kind(provider=client, popsize=4)
    state, rows = strategy.init(bb.key(0), np.full(2, 0.5)), np.random.default_rng(0).uniform(size=(8, 2))
    state = strategy.tell(state, rows, np.arange(8.0))._replace(generation=np.asarray(5)[()])
    whole = strategy.ask(state)
    once = np.abs(whole - whole[0]).max(axis=1) < 1e-9
    assert once.tolist() == [True, False, False, False]
    for first in (1, 2, 4, 5):
        page = strategy.ask(state, first)
        assert np.abs(page - whole[0]).max(axis=1).min() > 1e-9
    assert int(strategy.tell(state, whole, np.arange(4.0)).fallbacks - state.fallbacks) == 3
    assert client.spent.reused < 40  # what is known already is not bought again for each page


@pytest.mark.parametrize("kind", [bb.llm.EvoLLM, bb.llm.OPRO, bb.llm.LLAMBO])
def test_a_model_that_refuses_is_not_down(kind: Any) -> None:
    refusing = bb.llm.Scripted(lambda request: bb.llm.Refused("content_filter"))
    result = bb.minimize(
        sphere_of_one, bb.Box([0.0] * 2, [1.0] * 2), method=kind(provider=refusing, popsize=4), budget=40, seed=0
    )
    assert list(result.stopped) == ["budget"]
    assert result.evaluations == 40
    assert refusing.requests


def sphere_of_one(x: np.ndarray) -> float:
    return float(((x - 0.3) ** 2).sum())
