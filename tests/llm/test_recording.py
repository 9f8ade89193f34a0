"""Providers without a model: a script, and a recording."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest

from blackbox.errors import JournalError, ProviderError, SettingError
from blackbox.llm import Client, Recorded, Reply, Request, Scripted, prompt

REQUESTS = [Request(prompt(f"say {i}"), temperature=i / 10, n=1 + i % 2, sample=i) for i in range(6)]


class Mine(Recorded):
    """One that a user made."""


def answer(request: Request) -> list[str]:
    return [f"{request.messages[-1].content} ü🙂 {i}" for i in range(request.n)]


def test_a_script_answers_in_order_and_then_ends() -> None:
    script = Scripted(["a", ["b", "c"], Reply(("d",), 1, 2, ("length",), "m"), ValueError("e")])
    assert script.complete(REQUESTS[0], 1.0).texts == ("a",)
    assert script.complete(REQUESTS[1], 1.0).texts == ("b", "c")
    assert script.complete(REQUESTS[2], 1.0).finish == ("length",)
    with pytest.raises(ValueError, match="e"):
        script.complete(REQUESTS[0], 1.0)
    with pytest.raises(ProviderError, match="the script has 4 answers, and this is request 5"):
        script.complete(REQUESTS[0], 1.0)
    assert script.requests == [*REQUESTS[:3], REQUESTS[0], REQUESTS[0]]


def test_a_replay_is_the_recording_to_the_bit_without_a_provider(tmp_path: Path) -> None:
    path = tmp_path / "tapes" / "tape.jsonl"
    script = Scripted(answer)
    asked = [Recorded(path, script).complete(request, 1.0) for request in REQUESTS]  # opened again for each
    content = path.read_bytes()
    assert [Recorded(path).complete(request, 1.0) for request in reversed(REQUESTS)] == asked[::-1]
    assert [Recorded(path, script).complete(request, 1.0) for request in REQUESTS] == asked
    assert path.read_bytes() == content
    assert len(script.requests) == len(REQUESTS)
    with Client(Scripted(answer)) as live, Client(Recorded(path)) as replayed:
        assert live.complete_all(REQUESTS) == replayed.complete_all(REQUESTS)


def test_what_is_not_recorded_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tape.jsonl"
    Recorded(path, Scripted(answer)).complete(REQUESTS[0], 1.0)
    missing = Request(prompt("something else"), seed=4)
    said = rf"tape\.jsonl has no recording of request {missing.key('scripted')[:12]} .*seed 4.*'something else'"
    with pytest.raises(ProviderError, match=said):
        Recorded(path).complete(missing, 1.0)
    with pytest.raises(ProviderError, match=said), Client(Recorded(path)) as client:
        client.complete(missing)
    with pytest.raises(ProviderError, match="there is no recording"):
        Recorded(tmp_path / "other.jsonl")


def test_a_line_that_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "tape.jsonl"
    first = [Recorded(path, Scripted(answer)).complete(request, 1.0) for request in REQUESTS[:3]]
    path.write_bytes(path.read_bytes()[:-30])
    script = Scripted(answer)
    assert [Recorded(path, script).complete(request, 1.0) for request in REQUESTS[:3]] == first
    assert script.requests == [REQUESTS[2]]
    assert [Recorded(path).complete(request, 1.0) for request in REQUESTS[:3]] == first


def test_nothing_is_cut_off_that_another_one_recorded(tmp_path: Path) -> None:
    path = tmp_path / "tape.jsonl"
    late = Recorded(path, Scripted(answer))  # there was no file yet
    first = Recorded(path, Scripted(answer))
    first.complete(REQUESTS[0], 1.0)
    copy.deepcopy(first).complete(REQUESTS[1], 1.0)
    first.complete(REQUESTS[2], 1.0)
    content = path.read_bytes()
    assert content.count(b"\n") == 4
    with pytest.raises(JournalError, match=r"tape\.jsonl is not as it was left"):
        late.complete(REQUESTS[3], 1.0)
    assert path.read_bytes() == content
    path.unlink()
    with pytest.raises(JournalError, match=r"tape\.jsonl is not as it was left"):
        first.complete(REQUESTS[3], 1.0)


def test_a_copy_is_of_the_same_class(tmp_path: Path) -> None:
    recorded = Mine(tmp_path / "tape.jsonl", Scripted(["a"]))
    recorded.complete(REQUESTS[0], 1.0)
    again = pickle.loads(pickle.dumps(Mine(recorded.path)))  # noqa: S301
    assert type(again) is Mine
    assert again.complete(REQUESTS[0], 1.0).texts == ("a",)


def test_other_files_and_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tape.jsonl"
    Recorded(path, Scripted(answer)).complete(REQUESTS[0], 1.0)
    with pytest.raises(ProviderError, match="records 'scripted', and the provider is 'another'"):
        Recorded(path, Scripted(answer, model="another"))
    lines = path.read_text().splitlines()
    for bad in (
        b"",
        b"[]\n",
        json.dumps({"format": "x", "model": "y"}).encode() + b"\n",
        f"{lines[0]}\n{{}}\n".encode(),
    ):
        path.write_bytes(bad)
        with pytest.raises(ProviderError, match=r"tape\.jsonl"):
            Recorded(path)


@pytest.mark.parametrize(
    "arguments",
    [
        {"messages": "hi"}, {"messages": ()}, {"messages": [("user", 3)]}, {"messages": prompt("\ud800")},
        {"temperature": -1}, {"temperature": float("nan")}, {"temperature": True}, {"max_tokens": 0}, {"n": 0},
        {"n": 1.0}, {"sample": -1}, {"seed": 1.5}, {"stop": "x"}, {"stop": [1]}, {"schema": {"format": "date"}},
    ],
)  # fmt: skip
def test_requests_are_checked(arguments: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        Request(**{"messages": prompt("hi"), **arguments})  # type: ignore[arg-type]
