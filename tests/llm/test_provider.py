"""The OpenAI-compatible endpoint and the client, against a server on the loopback interface."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import pickle
import re
import sqlite3
import sys
import threading
import time
import traceback
from email.utils import formatdate
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from chat_server import Answer, ChatServer, chat, error, event, serving

from blackbox.errors import MissingExtra, ProviderError, SettingError
from blackbox.llm import AttemptFailed, Client, OpenAI, Refused, Reply, Request, prompt

pytest.importorskip("openai")
KEY = "sk-live-1234567890-abcdef"
ASK = Request(prompt("How many?", "Be short."), temperature=0.5, max_tokens=20, seed=3, stop=("\n",))
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}


class Clock:
    """Seconds that pass only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Mine(OpenAI):
    """One that a user made."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def client(server: ChatServer, clock: Clock, *, stream: bool = False, **settings: Any) -> Client:
    provider = OpenAI("small", base_url=server.url, stream=stream)
    return Client(provider, **{"clock": clock, "sleep": clock.sleep, **settings})


def test_a_request_arrives_whole_and_its_reply_too(clock: Clock) -> None:
    with serving([chat("seven")]) as server:
        reply = client(server, clock).complete(ASK)
    assert reply == Reply(("seven",), 7, 5, ("stop",), "fake-1")
    assert server.bodies == [
        {
            "model": "small",
            "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "How many?"}],
            "temperature": 0.5,
            "max_tokens": 20,
            "seed": 3,
            "stop": ["\n"],
        }
    ]
    assert server.heads[0]["path"] == "/v1/chat/completions"


def test_several_texts_come_in_the_order_of_their_index(clock: Clock) -> None:
    answer = chat("a", "b", "c")
    answer.body["choices"].reverse()
    with serving([answer]) as server:
        assert client(server, clock).complete(Request(prompt("x"), n=3)).texts == ("a", "b", "c")
    assert server.bodies[0]["n"] == 3


def test_a_server_that_ignores_n_is_not_asked_again(clock: Clock) -> None:
    with serving([chat("a")]) as server, pytest.raises(ProviderError, match=r"1 texts instead of n=2 \(once\)"):
        client(server, clock).complete(Request(prompt("x"), n=2))


def test_a_stream_is_put_together(clock: Clock) -> None:
    pieces = (event("se"), event("ven"), event("", "stop"), event(None, usage=(7, 5)), b"data: [DONE]\n\n")
    with serving([Answer(headers={"Content-Type": "text/event-stream"}, pieces=pieces)]) as server:
        reply = client(server, clock, stream=True).complete(ASK)
    assert reply == Reply(("seven",), 7, 5, ("stop",), "fake-1")
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("message", [{"content": "", "refusal": "I would rather not"}, {"content": "Well"}])
def test_what_is_refused_or_filtered_is_no_answer(message: dict[str, str], stream: bool, clock: Clock) -> None:
    finish = "stop" if "refusal" in message else "content_filter"
    answer = chat("x", finish=finish)
    answer.body["choices"][0]["message"] = message
    if stream:
        piece = event("x", finish).replace(b'{"content": "x"}', json.dumps(message).encode())
        answer = Answer(headers={"Content-Type": "text/event-stream"}, pieces=(piece,))
    with serving([answer]) as server, client(server, clock, stream=stream) as asking:
        with pytest.raises(Refused, match="rather not" if finish == "stop" else "content_filter"):
            asking.complete(ASK)
        assert asking.stored([ASK]) != [None]
        assert not isinstance(asking.stored([ASK])[0], Reply)


def test_absent_usage_counts_as_the_upper_bound(clock: Clock) -> None:
    with serving([chat("seven", usage=None)]) as server:
        reply = client(server, clock).complete(ASK)
    assert reply.estimated
    assert (reply.tokens_in, reply.tokens_out) == ASK.most_tokens()


# ---- failures


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (error(500, "on fire"), "HTTP 500: on fire"),
        (error(503, "later"), "HTTP 503: later"),
        (Answer(b"{not json"), "the reply is not JSON"),
        (Answer(b"<html>gateway</html>", headers={"Content-Type": "text/html"}), "the reply is not JSON"),
        (Answer([1, 2]), "the reply has another form"),
        (Answer({"choices": []}), "the reply has another form"),
        (Answer({"error": {"message": f"no room for {KEY}"}}), r'the server reports {"message": "no room for \[key\]'),
        (Answer({"choices": [{"message": 3}]}), "the reply has another form"),
        (Answer({"choices": [{"index": 0}]}), "the reply has another form"),
        (Answer(b'{"choices": [', declared=1000), "connection failed"),
    ],
)  # fmt: skip
def test_bad_answers_are_asked_for_again_and_counted(bad: Answer, said: str, clock: Clock) -> None:
    with serving([bad, chat("good")]) as server:
        assert client(server, clock).complete(ASK).texts == ("good",)
    with serving([bad] * 4) as server, pytest.raises(ProviderError) as raised:
        client(server, clock).complete(ASK)
    assert len(server.bodies) == 4
    assert re.search(rf"^model 'small' did not answer request \w{{12}}: {said}.* \(4 times\)$", str(raised.value))


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ((event("se"), event("ven")), "the stream ended before the answer did"),
        ((event("se"), b"data: {oops\n\n"), "the reply is not JSON"),
        ((event("se"), b'data: {"choices": [{"index": 7, "delta": {}}]}\n\n'), "the reply has another form"),
        ((event("se"), b'data: {"error": {"message": "overloaded"}}\n\n'), "the reply broke off: overloaded"),
    ],
)
def test_streams_that_break_off_are_failures(pieces: tuple[bytes, ...], said: str, clock: Clock) -> None:
    bad = Answer(headers={"Content-Type": "text/event-stream"}, pieces=pieces)
    with serving([bad, bad]) as server, pytest.raises(ProviderError, match=rf"{said}.*\(twice\)"):
        client(server, clock, stream=True, attempts=2).complete(ASK)


def test_different_failures_are_named_with_how_often(clock: Clock) -> None:
    script = [error(500, "a"), error(502, "b"), error(500, "a"), error(401, "no")]
    with serving(script) as server, pytest.raises(ProviderError) as raised:
        client(server, clock, attempts=9).complete(ASK)
    assert str(raised.value).endswith("HTTP 500: a (twice), HTTP 502: b (once), HTTP 401: no (once)")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusals_are_final(status: int, clock: Clock) -> None:
    with serving([error(status, "no")]) as server, pytest.raises(ProviderError, match=f"HTTP {status}: no"):
        client(server, clock).complete(ASK)
    assert clock.slept == []


def test_an_exhausted_quota_is_final(clock: Clock) -> None:
    answer = Answer({"error": {"message": "pay", "code": "insufficient_quota"}}, 429)
    with serving([answer]) as server, pytest.raises(ProviderError, match=r"HTTP 429: pay \(once\)"):
        client(server, clock).complete(ASK)


@pytest.mark.parametrize("stream", [False, True])
def test_slow_replies_are_given_up_when_the_time_is_over(stream: bool, clock: Clock) -> None:
    """Also those that drip: every byte comes in time, the reply does not."""
    drip = tuple(event("x") for _ in range(40)) if stream else (b" ",) * 40
    with serving([Answer(pieces=drip, pause=0.05), Answer({}, pause=0.3)]) as server:
        asking = client(server, clock, stream=stream, timeout=0.15, attempts=2)
        begin = time.monotonic()
        with pytest.raises(ProviderError, match=r"no whole reply within 0.15 s \(once\)|within 0.15 s"):
            asking.complete(ASK)
        assert time.monotonic() - begin < 1.5
    assert [call.tokens_out for call in asking.calls()] == [20, 20]  # nobody knows, so it counts in full


def test_a_server_that_is_not_there_costs_nothing(clock: Clock) -> None:
    with serving([]) as server:
        pass
    asking = client(server, clock, attempts=2)
    with pytest.raises(ProviderError, match=r"connection failed: .*\(twice\)"):
        asking.complete(ASK)
    assert asking.spent[:2] == (2, 0)


# ---- waiting


def test_retry_after_is_honoured(clock: Clock) -> None:
    script = [
        error(429, "slow", **{"Retry-After": "7"}), error(429, "slow", **{"retry-after-ms": "1500"}),
        error(503, "slow", **{"Retry-After": formatdate(time.time() + 20, usegmt=True)}), chat("good"),
    ]  # fmt: skip
    with serving(script) as server:
        assert client(server, clock).complete(ASK).texts == ("good",)
    assert 7 <= clock.slept[0] <= 7.5
    assert 1.5 <= clock.slept[1] <= 2.5
    assert 18 <= clock.slept[2] <= 22


def test_retry_after_beyond_patience_is_final(clock: Clock) -> None:
    with (
        serving([error(429, "slow", **{"Retry-After": "3600"})]) as server,
        pytest.raises(ProviderError, match="asks to wait for 3600 s, which is more than patience"),
    ):
        client(server, clock).complete(ASK)
    assert clock.slept == []


def test_backoff_grows_with_jitter_that_depends_on_the_request_alone() -> None:
    waits = []
    for request in (ASK, ASK, Request(prompt("other"))):
        clock = Clock()
        with serving([error(500, "x")] * 8) as server, pytest.raises(ProviderError):
            client(server, clock, attempts=8).complete(request)
        waits.append(clock.slept)
    assert waits[0] == waits[1] != waits[2]
    assert all(0 <= wait <= min(30, 0.5 * 2**i) for i, wait in enumerate(waits[0]))
    assert max(waits[0]) > 4


def test_a_pause_for_one_is_a_pause_for_all(clock: Clock) -> None:
    with serving([error(429, "slow", **{"Retry-After": "9"}), chat("b")]) as server:
        asking = client(server, clock, attempts=1)
        with pytest.raises(ProviderError):
            asking.complete(ASK)
        asking.complete(Request(prompt("other")))
    assert clock.slept == [9]


@pytest.mark.parametrize("limits", [{"requests_per_minute": 3}, {"tokens_per_minute": 40}])
def test_rate_limits_hold_in_every_minute(limits: dict[str, int], clock: Clock) -> None:
    moments = []

    def answer(body: dict[str, Any]) -> Answer:
        moments.append(clock.now)
        clock.now += 1.0
        return chat("x", usage=(8, 4))

    with serving(answer) as server:
        asking = client(server, clock, **limits)
        for sample in range(10):
            asking.complete(Request(prompt("x"), max_tokens=4, sample=sample))
    in_a_minute = max(sum(begin <= moment < begin + 60 for moment in moments) for begin in moments)
    assert in_a_minute <= (3 if "requests_per_minute" in limits else 40 // 12)
    assert moments[-1] >= 120


def test_no_more_than_so_many_at_once() -> None:
    under_way, most = [0], [0]

    def answer(body: dict[str, Any]) -> Answer:
        with server.mutex:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.01)
        with server.mutex:
            under_way[0] -= 1
        return chat(body["messages"][0]["content"])

    with serving(answer) as server, Client(OpenAI("small", base_url=server.url), concurrency=3) as asking:
        replies = asking.complete_all([Request(prompt(str(i))) for i in range(12)])
    assert [reply.texts[0] for reply in replies if isinstance(reply, Reply)] == [str(i) for i in range(12)]
    assert 2 <= most[0] <= 3


# ---- structured output, and servers that take less


def test_a_schema_is_sent_and_checked(clock: Clock) -> None:
    script = [chat('{"y": 1}'), chat("I think 3"), chat('Sure:\n```json\n{"x": 3}\n```')]
    with serving(script) as server:
        asking = client(server, clock)
        reply = asking.complete(Request(prompt("x?"), schema=POINT))
    assert reply.texts[0].startswith("Sure")
    form = {"type": "json_schema", "json_schema": {"name": "reply", "schema": POINT, "strict": True}}
    assert [body["response_format"] for body in server.bodies] == [form] * 3
    assert [call.reason for call in asking.calls()] == [
        "its JSON does not fit the schema: it lacks 'x'", "its JSON does not fit the schema: it holds no JSON", "",
    ]  # fmt: skip
    assert asking.spent.tokens == 36  # wrong answers are paid, too


def test_a_cut_answer_says_so(clock: Clock) -> None:
    with (
        serving([chat('{"x": ', finish="length")]) as server,
        pytest.raises(ProviderError, match=r"holds no JSON \(max_tokens cut it\) \(once\)"),
    ):
        client(server, clock, attempts=1).complete(Request(prompt("x?"), schema=POINT))


def test_what_a_server_refuses_is_left_out_from_then_on(clock: Clock) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        for name in ("temperature", "seed", "max_tokens"):
            if name in body:
                return error(400, f"Unsupported parameter: '{name}' is not supported with this model.")
        if "response_format" in body:
            return error(400, "response_format is not available")
        return chat('{"x": 3}')

    with serving(answer) as server:
        asking = client(server, clock, attempts=6)
        request = Request(prompt("x?"), seed=1, schema=POINT)
        assert asking.complete(request).texts == ('{"x": 3}',)
        assert len(server.bodies) == 6
        asking.complete(Request(prompt("y?"), seed=1, schema=POINT))
    last = server.bodies[-1]
    assert len(server.bodies) == 7
    assert set(last) == {"model", "messages", "max_completion_tokens"}
    assert json.dumps(POINT) in last["messages"][-1]["content"]


def test_a_setting_may_be_refused_to_several_at_once() -> None:
    gate = threading.Barrier(4)

    def answer(body: dict[str, Any]) -> Answer:
        if "temperature" in body:
            gate.wait(5)
            return error(400, "Extra inputs are not permitted: temperature")
        return chat("x")

    with serving(answer) as server:
        asking = Client(OpenAI("small", base_url=server.url), sleep=lambda _: None)
        replies = asking.complete_all([Request(prompt("x"), sample=sample) for sample in range(4)])
    assert [isinstance(reply, Reply) for reply in replies] == [True] * 4
    assert len(server.bodies) == 8


@pytest.mark.parametrize("said", ["prompt too long", "temperature must be at most 2", "max_tokens is too large: 20"])
def test_a_refusal_of_something_else_is_final(said: str, clock: Clock) -> None:
    with serving([error(400, said)]) as server, pytest.raises(ProviderError, match=rf"{said} \(once\)"):
        client(server, clock).complete(ASK)


# ---- keys


def _everything(thing: object) -> str:
    """An object with all that hangs on it; of an exception also its causes, and the variables of their frames."""
    seen: set[int] = set()
    text: list[str] = []

    def look(value: Any, depth: int) -> None:
        if id(value) in seen or depth > 6 or isinstance(value, ModuleType | type):
            return
        seen.add(id(value))
        text.append(repr(value)[:10_000])
        for part in (getattr(value, "__dict__", None) or {}).values():
            look(part, depth + 1)
        if isinstance(value, BaseException):
            text.append("".join(traceback.format_exception(value)))
            look(value.__cause__, depth)
            look(value.__context__, depth)
            for frame, _ in traceback.walk_tb(value.__traceback__):
                if frame.f_code.co_filename != __file__:
                    look(list(frame.f_locals.values()), depth + 1)
                    for part in frame.f_locals.values():
                        look(part, depth + 1)

    look(thing, 0)
    return "\n".join(text)


@pytest.mark.parametrize("stream", [False, True])
def test_the_key_is_sent_as_bearer_and_is_nowhere_else(
    stream: bool, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    script = [
        error(500, f"bad key {KEY}"), error(500, f"Incorrect API key provided: {KEY[:8]}****cdef."), chat("good"),
        error(401, f"bad key {KEY}"),
    ]  # fmt: skip
    if stream:
        script[2] = Answer(pieces=(event("good", "stop"),), headers={"Content-Type": "text/event-stream"})
    with serving(script) as server:
        asking = client(server, clock, stream=stream, path=tmp_path / "calls.db")
        reply = asking.complete(ASK)
        with pytest.raises(ProviderError) as raised:
            asking.complete(Request(prompt("other")))
        logged = repr(asking.calls())
        asking.close()
    assert {head["authorization"] for head in server.heads} == {f"Bearer {KEY}"}
    others = [{**head, "authorization": ""} for head in server.heads]
    places = [
        repr(others), repr(server.bodies), repr(reply), _everything(asking), _everything(raised.value), logged,
        caplog.text, *capfd.readouterr(), *(path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()),
    ]  # fmt: skip
    assert [place for place in places if KEY in place or KEY[:8] in place] == []
    assert "[key]" in str(raised.value)


def test_a_redirect_elsewhere_takes_no_key_with_it(clock: Clock) -> None:
    with (
        serving([chat("x")]) as other,
        serving([Answer({}, 307, {"Location": f"{other.url}/chat/completions"})]) as server,
    ):
        client(server, clock, attempts=1).complete(ASK)
    assert "authorization" in server.heads[0]
    assert "authorization" not in other.heads[0]


def test_a_missing_key_is_named_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with serving([]) as server, pytest.raises(ProviderError, match="the environment variable OPENAI_API_KEY holds no"):
        client(server, clock).complete(ASK)
    assert server.bodies == []


def test_servers_without_keys_get_none(clock: Clock) -> None:
    with serving([chat("x")]) as server:
        Client(OpenAI("small", base_url=server.url, key=None)).complete(ASK)
    assert "authorization" not in server.heads[0]


@pytest.mark.parametrize(
    "settings",
    [{"key": KEY}, {"base_url": "http://me:secret@localhost/v1"}, {"base_url": "localhost"}, {"model": ""}],
)
def test_endpoints_are_checked_without_repeating_secrets(settings: dict[str, str]) -> None:
    with pytest.raises(SettingError) as raised:
        OpenAI(**{"model": "small", **settings})
    assert KEY not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtra, match=r"pip install 'blackbox-engine\[llm\]'"):
        OpenAI("small").complete(ASK, 1.0)


def test_an_attempt_of_the_endpoint_fails_with_its_reason() -> None:
    with serving([error(429, "slow", **{"Retry-After": "2"})]) as server, pytest.raises(AttemptFailed) as raised:
        OpenAI("small", base_url=server.url).complete(ASK, 5.0)
    assert (raised.value.retry, raised.value.after, raised.value.unpaid) == (True, 2.0, True)
    assert KEY not in _everything(raised.value)


@pytest.mark.parametrize("protocol", [0, pickle.DEFAULT_PROTOCOL])
@pytest.mark.parametrize(
    "failed", [AttemptFailed("slow", retry=True, after=2.0, unpaid=True), Refused("filter", unpaid=True)]
)
def test_a_failure_in_a_worker_process_arrives(failed: AttemptFailed, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(failed, protocol))  # noqa: S301
    assert (type(again), str(again), vars(again)) == (type(failed), str(failed), vars(failed))


def test_a_copy_of_an_endpoint_is_of_the_same_class() -> None:
    mine = Mine("small", base_url="http://localhost/v1", key=None, stream=True)
    for again in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):  # noqa: S301
        assert type(again) is Mine
        assert again == mine


def test_an_answer_without_text_is_final_and_shows_no_key(clock: Clock) -> None:
    script = [chat("x", finish="content_filter")] * 2
    script[0].body["choices"][0]["message"] = {"content": None, "refusal": "I would rather not"}
    with serving(script) as server:
        with pytest.raises(AttemptFailed, match="the answer holds no text: I would rather not") as raised:
            OpenAI("small", base_url=server.url).complete(ASK, 5.0)
        with pytest.raises(ProviderError, match=r"rather not \(once\)"):
            client(server, clock).complete(ASK)
    assert KEY not in _everything(raised.value)


def test_the_file_of_calls_is_plain(clock: Clock, tmp_path: Path) -> None:
    with serving([error(500, "x"), chat("good")]) as server, client(server, clock, path=tmp_path / "c.db") as asking:
        asking.complete(ASK)
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db")) as connection:
        rows = connection.execute("SELECT attempt, status, reason, tokens_in, money FROM call").fetchall()
    assert rows == [(1, "failed", "HTTP 500: x", 0, None), (2, "ok", "", 7, None)]
