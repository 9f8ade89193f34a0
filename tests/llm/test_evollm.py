"""EvoLLM, the text it asks with, and the embedded model that answers."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blackbox as bb
from blackbox.errors import BudgetExhausted, ProviderError, SettingError
from blackbox.llm import coordinate_transformer as network
from blackbox.llm.embedded import WEIGHTS, weights_of
from blackbox.llm.provider import Request, prompt
from blackbox.llm.scored_list import Asked, parse, read, render, window_of
from blackbox.problems.bbob import BBOB

HALVES = np.array([0.5, 0.5, 0.5])


def run(strategy: Any, function: Any, d: int, generations: int, seed: int = 0, x0: Any = None) -> Any:
    state = strategy.init(bb.key(seed), np.full(d, 0.5) if x0 is None else x0)
    for _ in range(generations):
        population = strategy.ask(state)
        state = strategy.tell(state, population, np.array([function(x) for x in population]))
    return state


def sphere(x: np.ndarray) -> float:
    return float(np.sum((x - 0.3) ** 2))


def test_the_question_is_this_text() -> None:
    asked = Asked(np.array([[12, 880], [512, 490]]), np.array([812.31, 0.4137]), -80.77, True, 1000)
    assert render(asked) == (
        "Solutions of 2 integers from 0 to 999 and their losses, the worst first. Write the 2 integers of the last"
        " line, a semicolon, and 2 integers that say how far from it to look next, no words.\n"
        "loss 812.3: 12 880\n"
        "loss 0.4: 512 490\n"
        "loss -80.8:"
    )


@given(
    n=st.integers(2, 6), d=st.integers(1, 9), seed=st.integers(0, 2**20), exponent=st.integers(-300, 99),
    offset=st.sampled_from([0.0, -450.3, 1e6]), spread=st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_what_is_read_is_what_was_written(
    n: int, d: int, seed: int, exponent: int, offset: float, spread: bool
) -> None:
    rng = np.random.default_rng(seed)
    losses = np.sort(rng.uniform(size=n) * 10.0**exponent + offset)[::-1]
    asked = Asked(rng.integers(0, 1000, (n, d)), losses, float(losses[-1]), spread, 1000)
    got = read(render(asked))
    assert got is not None
    assert np.array_equal(got.integers, asked.integers)
    assert (got.spread, got.resolution) == (spread, 1000)
    width = losses[0] - losses[-1]
    assert np.all(np.abs(got.losses - losses) <= 1e-3 * width)  # four digits of the differences are told


@pytest.mark.parametrize(
    ("text", "integers", "spread"),
    [
        ("12 34", [12, 34], None),
        ("I think it is 12, 34; 5, 6.", [12, 34], [5, 6]),
        ("loss 3 would be better: 12 34", [12, 34], None),
        ("12 34; 5", [12, 34], None),
        ("[650, 649]; [20, 20]", [650, 649], [20, 20]),
        ("(650, 649); (20, 20)", [650, 649], [20, 20]),
        ("**650 649**; **20 20**", [650, 649], [20, 20]),
        ("650 649;\n20 20", [650, 649], [20, 20]),
        ("650 649\n20 20", [650, 649], [20, 20]),
        ("Solution: 650 649. Spread: 20 20", [650, 649], [20, 20]),
        ("First 1 2; 3 4, but better is 650 649; 20 20", [650, 649], [20, 20]),
    ],
)
def test_answers_are_read(text: str, integers: list[int], spread: list[int] | None) -> None:
    answer = parse(text, 2, 1000, spread=True)
    assert answer is not None
    assert answer.integers.tolist() == integers
    assert (None if answer.spread is None else answer.spread.tolist()) == spread


@pytest.mark.parametrize(
    "text",
    ["", "no idea", "12", "1 2 3", "-1 5", "\u22121 5", "12 1000", "1.5 2.5 7", "9" * 5000 + " 1", "1e5 2e5", "5% 6%"],
)
@pytest.mark.parametrize("spread", [False, True])
def test_other_answers_are_none(text: str, spread: bool) -> None:
    assert parse(text, 2, 1000, spread) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("650; 20. Confidence: 90%", 650), ("650", 650), ("650\n20", 650), ("1e5", None), ("between 1, or 2, or 3", None)],
)
def test_one_integer_is_read_or_refused(text: str, value: int | None) -> None:
    answer = parse(text, 1, 1000, spread=True)
    assert (None if answer is None else int(answer.integers[0])) == value


def test_last_rows_count_where_no_spread_was_asked_for() -> None:
    answer = parse("1 2\n12 34", 2, 1000)
    assert answer is not None
    assert answer.integers.tolist() == [12, 34]
    assert answer.spread is None


def test_the_window_holds_all_and_moves_with_them() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 3))
    window = window_of(x, x.mean(axis=0), 1000)
    assert np.abs(window.points(window.integers(x)) - x).max() <= window.half / 999 * 1.001
    moved = window_of(1e-6 * x + 7, 1e-6 * x.mean(axis=0) + 7, 1000)
    assert np.abs(moved.integers(1e-6 * x + 7) - window.integers(x)).max() <= 1  # but for rounding
    one = window_of(np.ones((4, 2)), np.ones(2), 1000)
    assert np.allclose(one.points(one.integers(np.ones((4, 2)))), 1)


def test_each_block_is_asked_with_all_losses_and_its_own_columns() -> None:
    script = bb.llm.Scripted(
        lambda request: "500 500 500; 3 3 3" if "of 3 integers" in request.messages[-1].content else "7; 1"
    )
    strategy = bb.llm.EvoLLM(provider=script, block=3, warm_up=1, popsize=6, members=4)
    state = run(strategy, sphere, 7, 1)
    strategy.ask(state)
    lists = [read(request.messages[-1].content) for request in script.requests]
    assert [one.integers.shape for one in lists if one is not None] == [(4, 3), (4, 3), (4, 1)]
    assert len({tuple(one.losses) for one in lists if one is not None}) == 1
    assert all(one is not None and one.losses[0] == max(one.losses) for one in lists)  # the worst first
    first = lists[0]
    assert first is not None
    assert first.desired == pytest.approx(first.losses[-1] - 0.1 * (first.losses[0] - first.losses[-1]), rel=1e-2)


def test_the_answer_is_the_mean_and_its_spread_the_deviation() -> None:
    script = bb.llm.Scripted(lambda request: "500 250; 0 100")
    strategy = bb.llm.EvoLLM(provider=script, popsize=400, members=5, warm_up=1, low=-100.0, high=100.0)
    state = run(strategy, sphere, 2, 1)
    population = strategy.ask(state)
    solutions, _ = state.elites.worst_first()
    window = window_of(solutions, _mean(state), 1000)
    deviation = population.std(axis=0)
    assert np.allclose(population.mean(axis=0), window.points(np.array([500, 250])), atol=4 * deviation[1] / 20)
    assert deviation == pytest.approx(window.lengths(np.array([0.5, 100.0])), rel=0.2)


def _mean(state: Any) -> np.ndarray:
    from blackbox.llm.elite_history import recombined

    return recombined(state.elites)


def test_without_answers_it_is_an_evolution_strategy_and_counts() -> None:
    script = bb.llm.Scripted(lambda request: "As a language model I cannot.")
    strategy = bb.llm.EvoLLM(provider=script, step_size="elites")
    state = run(strategy, sphere, 3, 30)
    assert state.best.fitness < 1e-3 * sphere(HALVES)
    assert tuple(map(int, state.stats)) == (28, 28, 28, 0)  # of 30 generations less two to warm up
    assert len(script.requests) == 56  # each asked twice, at two temperatures
    assert {request.temperature for request in script.requests} == {1.0, 1.2}


def test_a_provider_without_answers_is_an_error_and_one_block_of_it_a_fallback() -> None:
    down = bb.llm.AttemptFailed("HTTP 401", retry=False)
    with pytest.raises(ProviderError, match="HTTP 401"):
        run(bb.llm.EvoLLM(provider=bb.llm.Scripted(lambda request: down)), sphere, 3, 4)

    def half(request: Request) -> Any:
        return down if "of 1 integer" in request.messages[-1].content else "500 500; 9 9"

    script = bb.llm.Scripted(half)
    state = run(bb.llm.EvoLLM(provider=script, block=2), sphere, 3, 5)
    assert tuple(map(int, state.stats)) == (6, 0, 3, 0)
    assert len(script.requests) == 6  # the client has tried as often as it may: it is not asked again


def test_answers_that_are_cut_are_none() -> None:
    cut = bb.llm.Reply(("500 50",), 9, 9, ("length",), "m")
    state = run(bb.llm.EvoLLM(provider=bb.llm.Scripted(lambda request: cut)), sphere, 2, 4)
    assert tuple(map(int, state.stats)) == (2, 2, 2, 0)


def test_a_used_strategy_can_be_copied_and_sent() -> None:
    strategy = bb.llm.EvoLLM()
    state = run(strategy, sphere, 2, 4)
    for other in (copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))):  # noqa: S301
        assert np.array_equal(other.ask(state), strategy.ask(state))


def test_every_provider_can_be_copied_and_sent(tmp_path: Path) -> None:
    providers = [
        bb.llm.OpenAI("m", base_url="http://localhost:1/v1", key=None),
        bb.llm.Scripted(["500 500; 9 9"] * 3),
        bb.llm.Recorded(tmp_path / "tape.jsonl", bb.llm.Scripted(["500 500; 9 9"] * 3)),
    ]
    for provider in providers:
        strategy = bb.llm.EvoLLM(provider=provider)
        if isinstance(provider, bb.llm.Recorded):  # first, as two may not record on one tape
            run(strategy, sphere, 2, 4)
        others = [copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))]  # noqa: S301
        assert [other.client.provider.model for other in others] == [provider.model] * 2
        if not isinstance(provider, bb.llm.OpenAI):
            states = [run(other, sphere, 2, 4) for other in [*others, strategy]]
            assert len({state.best.x.tobytes() for state in states}) == 1


def test_a_client_is_shared_by_copies_and_stays_in_its_process() -> None:
    client = bb.llm.Client(bb.llm.Scripted([]))
    for strategy in (bb.llm.EvoLLM(provider=client), bb.llm.GEPA(provider=client, instances=[1], validation=[2])):
        assert copy.deepcopy(strategy).client is client
        with pytest.raises(SettingError, match="provider must be no Client where a strategy is pickled"):
            pickle.dumps(strategy)


def test_weights_have_names_of_their_own(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(WEIGHTS)
    save_file({**tensors, "norm": tensors["norm"] * 2}, tmp_path / "embedded.safetensors")
    other = bb.llm.Embedded(tmp_path / "embedded.safetensors")
    assert other.model != bb.llm.Embedded().model
    save_file({"norm": tensors["norm"]}, tmp_path / "part.safetensors")
    with pytest.raises(ProviderError, match="path must be weights of the embedded model"):
        bb.llm.Embedded(tmp_path / "part.safetensors")


def test_a_second_answer_counts_as_repeated_only() -> None:
    answers = ["no", "500 500 500; 9 9 9"] * 40
    state = run(bb.llm.EvoLLM(provider=bb.llm.Client(bb.llm.Scripted(answers))), sphere, 3, 6)
    assert tuple(map(int, state.stats)) == (4, 4, 0, 0)


def test_answers_outside_of_the_box_are_counted() -> None:
    script = bb.llm.Scripted(lambda request: "999 500" if "of 2 integers" in request.messages[-1].content else "500")
    strategy = bb.llm.EvoLLM(provider=script, block=2, step_size="fixed", sigma0=1e-9)
    state = strategy.init(bb.key(0), np.full(3, 0.5))
    corner = np.array([[1.0, 0.5, 0.5], [0.9, 0.4, 0.4]])
    state = strategy.tell(state, corner, np.array([0.0, 1.0]))._replace(generation=np.asarray(5)[()])
    population = strategy.ask(state)
    assert population[:, 0] == pytest.approx(1.0)
    assert population.max() <= 1.0
    assert tuple(map(int, strategy.tell(state, population, np.ones(10)).stats)) == (2, 0, 0, 1)


def test_failed_members_never_reach_the_prompt() -> None:
    script = bb.llm.Scripted(lambda request: "500 500; 9 9")
    strategy = bb.llm.EvoLLM(provider=script)
    values = iter(np.resize([np.nan, np.inf, 1.0, -np.inf, 2.0, 1e300], 200).tolist())
    state = run(strategy, lambda x: next(values), 2, 8)
    assert np.isfinite(state.elites.solutions).all()
    assert script.requests
    for request in script.requests:
        asked = read(request.messages[-1].content)
        assert asked is not None
        assert np.isfinite([*asked.losses, asked.desired]).all()


def test_where_everything_fails_it_goes_on_sampling() -> None:
    script = bb.llm.Scripted([])
    state = run(bb.llm.EvoLLM(provider=script), lambda x: np.nan, 2, 5)
    assert int(state.generation) == 5
    assert not script.requests


def test_a_recorded_run_is_replayed_to_the_bit(tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    first = run(bb.llm.EvoLLM(provider=bb.llm.Recorded(tape, bb.llm.Embedded())), sphere, 3, 10)
    again = run(bb.llm.EvoLLM(provider=bb.llm.Recorded(tape)), sphere, 3, 10)
    assert first.best.x.tobytes() == again.best.x.tobytes()
    assert first.elites.solutions.tobytes() == again.elites.solutions.tobytes()


def test_a_run_that_was_killed_pays_for_nothing_twice(tmp_path: Path) -> None:
    script = bb.llm.Scripted(lambda request: "400 500 600; 20 20 20")

    def strategy() -> Any:
        return bb.llm.EvoLLM(provider=bb.llm.Client(script, path=tmp_path / "llm.db"))

    run(strategy(), sphere, 3, 6)  # and dies
    paid = len(script.requests)
    resumed = run(strategy(), sphere, 3, 9)
    assert len(script.requests) == paid + 3
    assert resumed.best.x.tobytes() == run(bb.llm.EvoLLM(provider=script), sphere, 3, 9).best.x.tobytes()


def test_a_spent_budget_ends_asking_and_loses_nothing() -> None:
    budget = bb.llm.Budget(calls=3)
    strategy = bb.llm.EvoLLM(provider=bb.llm.Client(bb.llm.Scripted(lambda r: "500 500 500; 9 9 9"), budget=budget))
    state = run(strategy, sphere, 3, 5)
    with pytest.raises(BudgetExhausted, match="calls"):
        strategy.ask(state)
    assert strategy.recommend(state).shape == (3,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"provider": "gpt"}, "provider must be a Client, or a provider"),
        ({"members": 0}, "members must be an integer >= 1"),
        ({"step_size": "none"}, "step_size must be one of asked, elites, fixed"),
        ({"resolution": 5}, "resolution must be an integer >= 10"),
        ({"resolution": 10**7}, "resolution must be at most 1000000"),
        ({"generations": 1, "popsize": 1}, "generations times members"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        bb.llm.EvoLLM(**settings)


# The embedded model


def _lists(seed: int, d: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    solutions = rng.integers(0, 1000, (1, network.ROWS, d)).astype(float)
    losses = np.sort(rng.exponential(size=(1, network.ROWS)))
    return solutions, losses, np.array([network.ROWS]), losses[:, 0] - 0.1


def _answer(solutions: Any, losses: Any, count: Any, desired: Any) -> network.Posterior:
    tokens = network.tokens(solutions, losses, count, desired)
    return network.posterior(tokens, network.logits(np, weights_of(WEIGHTS).parameters, tokens.features))


@pytest.mark.parametrize("d", [1, 2, 5, 8])
def test_the_order_of_coordinates_does_not_matter(d: int) -> None:
    solutions, *rest = _lists(d, d)
    order = np.random.default_rng(1).permutation(d)
    straight, turned = _answer(solutions, *rest), _answer(solutions[..., order], *rest)
    assert np.allclose(turned.mean, straight.mean[:, order], rtol=1e-3, atol=1)
    assert np.allclose(turned.deviation, straight.deviation[:, order], rtol=1e-3, atol=1)


def test_places_scales_and_affine_losses_do_not_matter() -> None:
    solutions, losses, count, desired = _lists(3, 4)
    plain = _answer(solutions, losses, count, desired)
    other = _answer(0.01 * solutions - 5, 1e6 * losses + 3e5, count, 1e6 * desired + 3e5)
    assert np.allclose(other.mean, 0.01 * plain.mean - 5, atol=0.01)
    assert np.allclose(other.deviation, 0.01 * plain.deviation, rtol=1e-3)


def test_numpy_and_jax_agree() -> None:
    tokens = network.tokens(*_lists(5, 6))
    ours = network.logits(np, weights_of(WEIGHTS).parameters, tokens.features)
    theirs = network.logits(jnp, weights_of(WEIGHTS).parameters, jnp.asarray(tokens.features))
    assert np.allclose(ours, theirs, atol=1e-3)


def test_rows_that_are_not_in_use_do_not_matter() -> None:
    solutions, losses, _, desired = _lists(6, 3)
    count = np.array([7])
    noise = np.where(np.arange(network.ROWS)[None, :, None] < 7, solutions, -3e5)
    tokens, other = (network.tokens(x, losses, count, desired).features for x in (solutions, noise))
    assert np.array_equal(tokens, other)


def test_equal_losses_and_equal_solutions_are_answered() -> None:
    asked = Asked(np.full((6, 2), 500), np.ones(6), 1.0, True, 1000)
    reply = bb.llm.Embedded().complete(Request(prompt(render(asked))), 1.0)
    assert parse(reply.texts[0], 2, 1000) is not None


def test_it_continues_lists_and_nothing_else() -> None:
    with pytest.raises(ProviderError, match="continues lists of solutions"):
        bb.llm.Embedded().complete(Request(prompt("Write a poem.")), 1.0)
    with pytest.raises(ProviderError, match="path must be weights of the embedded model"):
        bb.llm.Embedded("missing.safetensors")


def test_the_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size < 5_000_000
    assert weights_of(WEIGHTS).parameters["read"].shape[0] == network.FEATURES


def rosenbrock(x: np.ndarray) -> float:
    y = x + 1
    return float(np.sum(100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2))


def rastrigin(x: np.ndarray) -> float:
    return float(10 * len(x) + np.sum(x**2 - 10 * np.cos(2 * np.pi * x)))


@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("function", [sphere, rosenbrock, rastrigin], ids=lambda f: f.__name__)
def test_it_beats_random_search_on_functions_it_was_not_trained_on(function: Any, d: int) -> None:
    won = 0
    for seed in range(7):
        shift = np.random.default_rng(seed).uniform(-4, 4, d)
        box = bb.Box([-5.0] * d, [5.0] * d)
        found = {
            method: bb.minimize(lambda x, by=shift: function(x - by), box, method=method, budget=200, seed=seed).value
            for method in ("evollm", "random")
        }
        won += found["evollm"] < found["random"]
    assert won >= 5  # 70 %


@pytest.mark.parametrize(("function", "d"), [(13, 5), (17, 2)])
def test_its_answers_are_worth_more_than_none(function: int, d: int) -> None:
    silent = bb.llm.EvoLLM(provider=bb.llm.Scripted(lambda request: "no"), step_size="elites")
    gains = []
    for seed in range(8):
        problem = BBOB(function, d, instance=seed + 1)
        box = bb.Box([-5.0] * d, [5.0] * d)
        with_model, without = (
            bb.minimize(problem, box, method=method, budget=200, seed=seed).value - problem.f_opt
            for method in ("evollm", silent)
        )
        gains.append(np.log(with_model / without))
    assert np.median(gains) < np.log(0.7)


def test_the_papers_step_size_is_constant() -> None:
    script = bb.llm.Scripted(lambda request: "500 500")
    strategy = bb.llm.EvoLLM(provider=script, step_size="fixed", sigma0=0.01, popsize=300)
    state = run(strategy, sphere, 2, 4)
    assert strategy.ask(state).std(axis=0) == pytest.approx([0.01, 0.01], rel=0.2)
    assert int(state.stats.fallbacks) == 0
    assert "semicolon" not in script.requests[-1].messages[-1].content


# Behind minimize


def words(request: Request) -> Any:
    """An answer that each of the three methods can read, another one to each question."""
    text, number = request.messages[-1].content, 5 + 7 * request.sample % 90
    if "Solutions of" in text:
        return "500 500; 90 90"
    if "A solution is" in text:
        return f"[{number}, {len(text) % 100}]"
    return [f"x1 = 0.{i + number}, x2 = 0.5" if "Complete" in text else f"{i}" for i in range(request.n)]


MODES: list[dict[str, Any]] = [
    {}, {"vectorized": True}, {"workers": 3, "kind": "thread"}, {"workers": 3, "kind": "thread", "synchronous": True},
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(map(str, mode)) or "serial")
@pytest.mark.parametrize("kind", [bb.llm.EvoLLM, bb.llm.OPRO, bb.llm.LLAMBO])
def test_minimize_ends_with_what_was_found_when_the_models_budget_is_spent(kind: Any, mode: dict[str, Any]) -> None:
    """The latest evaluation is always the best, so that none may be missing."""
    numbers = itertools.count()

    def latest(x: Any) -> Any:
        values = [-float(next(numbers)) for _ in range(len(x) if "vectorized" in mode else 1)]
        return values if "vectorized" in mode else values[0]

    seen: list[float] = []
    client = bb.llm.Client(bb.llm.Scripted(words), budget=bb.llm.Budget(calls=23))
    result = bb.minimize(
        latest, bb.Box([0.0] * 2, [1.0] * 2), method=kind(provider=client, popsize=4), budget=1000, seed=0,
        callbacks=[lambda snapshot: seen.append(snapshot.candidate.value)], **mode,
    )  # fmt: skip
    assert list(result.stopped) == ["method"]
    assert "the budget of calls has no room for another attempt" in result.stopped["method"]
    assert sorted(seen, reverse=True) == [-float(i) for i in range(next(numbers))]
    assert result.evaluations == len(seen)
    assert result.value == min(seen)
    assert client.spent.calls == 23
    with pytest.raises(BudgetExhausted, match="calls"):
        go_on(result.optimizer, [])
    assert result.optimizer.best.value == result.value


def test_tell_takes_all_results_and_ask_says_that_the_budget_is_spent() -> None:
    client = bb.llm.Client(bb.llm.Scripted(words), budget=bb.llm.Budget(calls=3))
    method = bb.llm.EvoLLM(provider=client, popsize=4)
    optimizer = bb.Optimizer(bb.Box([0.0] * 2, [1.0] * 2), method=method, seed=0)
    values: list[float] = []
    with pytest.raises(BudgetExhausted, match="calls"):
        go_on(optimizer, values)
    assert optimizer.evaluations == len(values) > 4
    assert optimizer.best.value == values[-1]
    with pytest.raises(BudgetExhausted, match="calls"):
        optimizer.ask(3)
    client.budget = bb.llm.Budget(calls=99)
    assert len(optimizer.ask(4)) == 4  # and it goes on where there is a budget again


@pytest.mark.parametrize("late", [False, True])
def test_a_generation_closes_by_what_is_told_whether_the_model_can_be_paid_or_not(late: bool) -> None:
    """Results that come while the budget is spent are of the next generation, as they are where it is not."""
    box = bb.Box([0.0] * 2, [1.0] * 2)
    points = []
    for paid in (True, False):
        client = bb.llm.Client(bb.llm.Scripted(words))
        optimizer = bb.Optimizer(box, method=bb.llm.EvoLLM(provider=client, popsize=4), seed=0)
        while optimizer.generation < 4:
            candidates = optimizer.ask(6)
            if not paid and optimizer.generation == 3:
                client.budget = bb.llm.Budget(calls=client.spent.calls)
            for candidate in candidates if late else candidates[:4]:
                optimizer.tell(candidate, sphere(candidate.x))
        if not paid:
            with pytest.raises(BudgetExhausted, match="calls"):
                optimizer.ask()
        optimizer.tell([0.31, 0.3], 0.1)
        client.budget = bb.llm.Budget()
        points.append([candidate.x.tolist() for candidate in optimizer.ask(6)])
        assert optimizer.generation == 4
    assert points[0] == points[1]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(map(str, mode)) or "serial")
def test_a_provider_that_goes_down_ends_the_run_with_what_was_found(mode: dict[str, Any]) -> None:
    def until_eight(request: Request) -> Any:
        return words(request) if len(script.requests) <= 8 else bb.llm.AttemptFailed("HTTP 503", retry=False)

    script = bb.llm.Scripted(until_eight)
    method = bb.llm.EvoLLM(provider=bb.llm.Client(script), popsize=4)
    calls: list[Any] = []

    def counted(x: np.ndarray) -> Any:
        calls.extend(x if "vectorized" in mode else [x])
        return [sphere(one) for one in x] if "vectorized" in mode else sphere(x)

    with pytest.warns(RuntimeWarning, match="the run ends early: .*HTTP 503"):
        result = bb.minimize(counted, bb.Box([0.0] * 2, [1.0] * 2), method=method, budget=1000, seed=0, **mode)
    assert list(result.stopped) == ["method"]
    assert "HTTP 503" in result.stopped["method"]
    assert result.evaluations == len(calls)
    assert result.value == min(map(sphere, calls))
    with pytest.raises(ProviderError, match="HTTP 503"):
        go_on(result.optimizer, [])


def go_on(optimizer: Any, values: list[float]) -> None:
    """Each value told is lower than the one before."""
    for number in range(100):
        candidate = optimizer.ask()
        values.append(-float(number))
        optimizer.tell(candidate, values[-1])


def test_the_budget_of_evaluations_is_the_reason_where_both_are_spent() -> None:
    client = bb.llm.Client(bb.llm.Scripted(words), budget=bb.llm.Budget(calls=3))
    result = bb.minimize(
        sphere, bb.Box([0.0] * 2, [1.0] * 2), method=bb.llm.EvoLLM(provider=client, popsize=4), budget=20, seed=0
    )
    assert result.stopped == {"budget": "all 20 evaluations are done"}


@pytest.mark.parametrize("fails", [False, True])
def test_under_noise_finals_follow_a_spent_budget_of_the_model(fails: bool) -> None:
    client = bb.llm.Client(bb.llm.Scripted(words), budget=bb.llm.Budget(calls=10))
    rng = np.random.default_rng(0)

    def noisy(x: np.ndarray) -> float:
        return np.nan if fails and rng.uniform() < 0.3 else sphere(x) + 0.01 * rng.standard_normal()

    result = bb.minimize(
        noisy, bb.Box([0.0] * 2, [1.0] * 2), method=bb.llm.EvoLLM(provider=client, popsize=5), noise=True, budget=500,
        seed=0,
    )  # fmt: skip
    assert list(result.stopped) == ["method"]
    assert result.best.n_evaluations > 1
    assert 60 < result.evaluations < 80  # 12 generations, and as many finals as belong to them


@pytest.mark.parametrize("nonfinite", ["fail", "raise"])
def test_failed_evaluations_count_where_the_models_budget_is_spent(nonfinite: str) -> None:
    client = bb.llm.Client(bb.llm.Scripted(words), budget=bb.llm.Budget(calls=4))
    calls: list[Any] = []

    def every_fourth_fails(x: np.ndarray) -> float:
        calls.append(x)
        if len(calls) % 4 == 0:
            raise ValueError("a generation's last")
        return sphere(x)

    method = bb.llm.EvoLLM(provider=client, popsize=4)
    box = bb.Box([0.0] * 2, [1.0] * 2)
    result = bb.minimize(every_fourth_fails, box, method=method, budget=99, seed=0, nonfinite=nonfinite)
    assert list(result.stopped) == ["method"]
    assert result.evaluations == len(calls)
    assert result.failures == len(calls) // 4
