"""Budgets are never passed, with many requests at once, failures, retries, kills and several processes."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blackbox.errors import BudgetExhausted, ProviderError, SettingError
from blackbox.llm import AttemptFailed, Budget, Client, Reply, Request, Scripted, prompt
from blackbox.llm.ledger import Spent

PRICES = (2.0, 6.0)
HI = Request(prompt("hi"), max_tokens=100)


class Meter:
    """A provider with random costs and failures, which keeps its own books and looks at them at every step."""

    model = "meter"

    def __init__(self, seed: int, budget: Budget) -> None:
        self.random = random.Random(seed)
        self.budget = budget
        self.mutex = threading.Lock()
        self.calls = self.tokens = 0
        self.money = 0.0
        self.over: list[str] = []
        self.under_way = self.most = 0

    def complete(self, request: Request, seconds: float) -> Reply:
        with self.mutex:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            self.calls += 1
            kind = self.random.random()
            most_in, most_out = request.most_tokens()
            tokens = (self.random.randint(1, most_in), self.random.randint(1, most_out))
            pause = self.random.choice([0.0, 0.0, 0.002])
        time.sleep(pause)
        with self.mutex:
            self.under_way -= 1
            if kind < 0.15:
                raise AttemptFailed("HTTP 500", retry=True, unpaid=True)
            # What is lost on the way is paid as well.
            self.tokens += sum(tokens)
            self.money += (tokens[0] * PRICES[0] + tokens[1] * PRICES[1]) / 1e6
            for name in ("calls", "tokens", "money"):
                limit = getattr(self.budget, name)
                if limit is not None and getattr(self, name) > limit + 1e-12:
                    self.over.append(name)
            if kind < 0.3:
                raise AttemptFailed("lost", retry=True)
            if kind < 0.35:
                raise ProviderError("broken for good")
        return Reply(("x",) * request.n, *tokens, ("stop",) * request.n, "meter")


LIMITS = st.one_of(
    st.builds(Budget, calls=st.integers(0, 80), prices=st.just(PRICES)),
    st.builds(Budget, tokens=st.integers(0, 20_000), prices=st.just(PRICES)),
    st.builds(Budget, money=st.floats(0, 0.05), prices=st.just(PRICES)),
    st.builds(Budget, seconds=st.floats(2, 20), prices=st.just(PRICES)),
    st.builds(
        Budget, calls=st.integers(20, 80), tokens=st.integers(5000, 20_000), money=st.floats(0.01, 0.05),
        seconds=st.floats(2, 20), prices=st.just(PRICES),
    ),
)  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(LIMITS, st.integers(0, 2**32 - 1))
def test_fifty_threads_never_pass_a_limit(budget: Budget, seed: int) -> None:
    meter = Meter(seed, budget)
    with Client(meter, budget=budget, timeout=0.5, attempts=3, concurrency=50, sleep=lambda _: None) as client:
        refused: list[str] = []

        def work(number: int) -> None:
            for sample in range(2):
                request = Request(prompt("p" * (number % 7)), max_tokens=50 + number, sample=2 * number + sample)
                try:
                    client.complete(request)
                except BudgetExhausted as error:
                    refused.append(str(error))
                except ProviderError:
                    pass

        threads = [threading.Thread(target=work, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent = client.spent
        logged = client.calls()
    assert meter.over == []
    for name in ("calls", "tokens", "money", "seconds"):
        limit = getattr(budget, name)
        assert limit is None or getattr(spent, name) <= limit
    assert spent.calls == meter.calls == len(logged)
    assert spent.tokens >= meter.tokens
    assert spent.tokens == sum(call.tokens_in + call.tokens_out for call in logged)
    assert spent.money == pytest.approx(sum(call.money or 0 for call in logged))
    if refused:
        assert any(
            f"the budget of {name} has no room" in refused[0] for name in ("calls", "tokens", "money", "seconds")
        )


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(calls=1), "the budget of calls has no room for another attempt: 1 of 1 are spent, and it may take 1"),
        (Budget(tokens=sum(HI.most_tokens())), r"the budget of tokens has no room .* 2 of 182 are spent, .* take 182"),
        (Budget(money=7.66e-4, prices=PRICES), "the budget of money has no room"),
    ],
)
def test_every_limit_is_named(budget: Budget, said: str) -> None:
    client = Client(Scripted(lambda request: "x"), budget=budget)
    client.complete(HI)
    with pytest.raises(BudgetExhausted, match=said):
        client.complete(Request(prompt("ho"), max_tokens=100))


def test_a_timeout_must_have_room_in_the_budget() -> None:
    with pytest.raises(SettingError, match="timeout must be at most the budget's seconds"):
        Client(Scripted(["a"]), budget=Budget(seconds=30.0), timeout=29.5)


def test_a_limit_of_seconds_is_named() -> None:
    now = [0.0]

    def slowly(request: Request) -> str:
        now[0] += 8.0
        return "x"

    client = Client(Scripted(slowly), budget=Budget(seconds=20.0), timeout=9.0, clock=lambda: now[0])
    client.complete(HI)
    client.complete(Request(prompt("ho")))
    with pytest.raises(BudgetExhausted, match="the budget of seconds has no room for another attempt: 16 of 20"):
        client.complete(Request(prompt("hu")))
    assert client.complete(HI).texts == ("x",)  # what is stored costs nothing


def test_retries_count_and_end_with_the_budget() -> None:
    script = Scripted([AttemptFailed("lost", retry=True)] * 5)
    client = Client(script, budget=Budget(calls=2), attempts=5, sleep=lambda _: None)
    with pytest.raises(BudgetExhausted, match="calls"):
        client.complete(HI)
    assert len(script.requests) == 2
    assert client.spent.tokens == 2 * sum(HI.most_tokens())  # nobody knows what they cost


def test_what_is_not_used_is_given_back_to_those_who_wait() -> None:
    """Eight requests whose bounds fit one by one only, all of whose costs fit together."""
    bound = sum(HI.most_tokens())
    client = Client(Scripted(lambda request: "x"), budget=Budget(tokens=bound + 40))
    replies = client.complete_all([Request(prompt("hi"), max_tokens=100, sample=sample) for sample in range(8)])
    assert [isinstance(reply, Reply) for reply in replies] == [True] * 8
    assert client.spent.tokens <= 40


def test_what_goes_wrong_in_between_counts_in_full() -> None:
    def interrupted(request: Request) -> str:
        raise KeyboardInterrupt

    client = Client(Scripted(interrupted), budget=Budget(calls=3))
    with pytest.raises(KeyboardInterrupt):
        client.complete(HI)
    assert [(call.status, call.reason, call.tokens_out) for call in client.calls()] == [
        ("failed", "KeyboardInterrupt", 100)
    ]


def test_prices_by_model_and_sums_are_exact(tmp_path: Any) -> None:
    budget = Budget(money=1.0, prices={"small": (1.0, 2.0), "large": (10.0, 20.0)})
    for model in ("small", "large"):
        scripted = Scripted(lambda request: Reply(("x",), 10, 10, ("stop",), "m"), model)
        with Client(scripted, budget=budget, path=tmp_path / "calls.db") as client:
            client.complete(HI)
            spent = client.spent
    assert spent == Spent(2, 40, 330e-6, spent.seconds, 0)
    with pytest.raises(SettingError, match="prices has no model 'other'"):
        Client(Scripted([], "other"), budget=budget)


def test_without_a_price_money_is_unknown_and_not_nothing() -> None:
    client = Client(Scripted(["x"]))
    client.complete(HI)
    assert client.calls()[0].money is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"calls": -1}, {"calls": 1.5}, {"calls": True}, {"tokens": "9"}, {"seconds": float("nan")}, {"money": 1.0},
        {"prices": (1.0,)}, {"prices": (-1.0, 1.0)}, {"prices": {"m": (1.0, "x")}},
    ],
)  # fmt: skip
def test_budgets_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        Budget(**arguments)
