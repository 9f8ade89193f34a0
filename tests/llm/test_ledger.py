"""The file of calls and answers: kills, resumption, several processes and threads."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, chat, serving

from blackbox.errors import BudgetExhausted, JournalError, ProviderError
from blackbox.llm import Budget, Client, Reply, Request, Scripted, prompt

# A process that asks for as many answers as it is told, and prints them and what it took.
PROGRAM = """
import json, sys, urllib.request
import blackbox as bb
kind, url, path, number, run = sys.argv[1:]
class Light:  # as OpenAI, without the seconds that its import takes
    model = "small"
    def complete(self, request, seconds):
        body = json.dumps({"messages": [message._asdict() for message in request.messages]}).encode()
        with urllib.request.urlopen(url + "/chat/completions", body, seconds) as answer:
            text = json.load(answer)["choices"][0]["message"]["content"]
        return bb.llm.Reply((text,), 7, 5, ("stop",), "small")
provider = Light() if kind == "light" else bb.llm.OpenAI("small", base_url=url, key=None)
client = bb.llm.Client(provider, path=path, budget=bb.llm.Budget(calls=100), run=run)
for i in range(int(number)):
    print(client.complete(bb.llm.Request(bb.llm.prompt(f"question {i}"))).texts[0], flush=True)
print(client.spent.calls, client.spent.reused)
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def question(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def test_a_killed_run_repeats_no_paid_call_and_keeps_its_budget(tmp_path: Path) -> None:
    """Killed while the fourth request is under way, and resumed to the end."""
    pytest.importorskip("openai")
    path = tmp_path / "calls.db"
    processes: list[subprocess.Popen[str]] = []

    def answer(body: dict[str, Any]) -> Answer:
        if question(body) == "question 3" and len(processes) == 1:
            processes[0].send_signal(signal.SIGKILL)
            processes[0].wait()
        return chat(f"answer to {question(body)}")

    with serving(answer) as server:
        for kind, number, printed in (("openai", 6, 3), ("light", 5, 5)):
            processes.append(start(kind, server.url, path, number, ""))
            lines = processes[-1].communicate(timeout=60)[0].splitlines()
            assert lines[:5] == [f"answer to question {i}" for i in range(printed)]
    assert lines[-1] == "6 3"  # calls, with the one that was under way; and what was there already
    asked = Counter(map(question, server.bodies))
    assert asked == {f"question {i}": 2 if i == 3 else 1 for i in range(5)}
    with Client(Scripted(["five", "six"], "small"), path=path, budget=Budget(calls=7)) as client:
        assert [call.status for call in client.calls()] == ["ok"] * 3 + ["begun"] + ["ok"] * 2
        assert [client.complete(Request(prompt(f"question {i}"))).texts[0] for i in (4, 5)] == [
            "answer to question 4", "five",
        ]  # fmt: skip
        with pytest.raises(BudgetExhausted, match="calls has no room for another attempt: 7 of 7"):
            client.complete(Request(prompt("question 6")))


def test_two_processes_share_answers(tmp_path: Path) -> None:
    path = tmp_path / "calls.db"
    with serving(lambda body: chat(f"{question(body)}: {len(server.bodies)}")) as server:
        both = [start("light", server.url, path, 12, run) for run in ("a", "b")]
        outs = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert outs[0][:-1] == outs[1][:-1]  # the same answers, also where both asked at the same moment
    calls, reused = zip(*(map(int, out[-1].split()) for out in outs), strict=True)
    assert all(a + b == 12 for a, b in zip(calls, reused, strict=True))
    assert sum(calls) == len(server.bodies)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        uses = connection.execute("SELECT sum(uses), count(*) FROM reply").fetchone()
    assert uses == (sum(reused), 12)


def test_a_budget_holds_over_several_processes(tmp_path: Path) -> None:
    """Two clients of one run, as two processes have them."""
    path = tmp_path / "calls.db"
    clients = [Client(Scripted(lambda request: "x"), path=path, budget=Budget(calls=10)) for _ in range(2)]

    def work(client: Client, numbers: range) -> None:
        for number in numbers:
            try:
                client.complete(Request(prompt(str(number))))
            except BudgetExhausted:
                return

    threads = [
        threading.Thread(target=work, args=(client, range(100 * i, 100 * i + 20))) for i, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clients[0].spent == clients[1].spent
    assert clients[0].spent.calls == 10
    assert sum(len(client.provider.requests) for client in clients) == 10  # type: ignore[attr-defined]
    for client in clients:
        client.close()


def test_equal_requests_at_once_are_paid_once() -> None:
    gate = threading.Event()

    def answer(request: Request) -> str:
        gate.wait(0.2)
        return "x"

    script = Scripted(answer)
    client = Client(script)
    replies = client.complete_all([Request(prompt("same"))] * 8)
    assert len(script.requests) == 1
    assert len({id(reply) for reply in replies}) == 8
    assert all(reply == replies[0] for reply in replies)
    assert client.spent.reused == 7


def test_any_difference_is_another_request() -> None:
    base: dict[str, Any] = {"messages": prompt("hi"), "temperature": 0.5, "max_tokens": 9, "seed": 1, "stop": ("a",)}
    others = [
        {"messages": prompt("ho")}, {"messages": prompt("hi", "system")}, {"temperature": 0.6}, {"max_tokens": 8},
        {"seed": 2}, {"seed": None}, {"stop": ()}, {"n": 2}, {"sample": 1}, {"schema": {"type": "integer"}},
    ]  # fmt: skip
    keys = [Request(**{**base, **other}).key("m") for other in ({}, *others)]
    keys.append(Request(**base).key("another"))
    assert len(set(keys)) == len(keys)
    assert Request(**base).key("m") == Request(**{**base, "messages": [list(m) for m in prompt("hi")]}).key("m")


def test_failures_are_not_stored(tmp_path: Path) -> None:
    with Client(Scripted([ProviderError("no"), "yes"]), path=tmp_path / "calls.db") as client:
        with pytest.raises(ProviderError, match=r"model 'scripted' did not answer request \w+: no \(once\)"):
            client.complete(Request(prompt("hi")))
        assert client.complete(Request(prompt("hi"))).texts == ("yes",)


def test_replies_come_back_to_the_bit(tmp_path: Path) -> None:
    reply = Reply(('ü "\\\n\x00🙂',), 3, 2, ("length",), "m-1", estimated=True)
    for script in ([reply], []):
        with Client(Scripted(script), path=tmp_path / "folder" / "calls.db") as client:
            assert client.complete(Request(prompt("hi"))) == reply


def test_failures_of_one_request_leave_the_others(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        if request.sample == 1:
            raise ProviderError("no")
        return "x"

    client = Client(Scripted(answer))
    outcomes = client.complete_all([Request(prompt("hi"), sample=sample) for sample in range(3)])
    assert [type(outcome) for outcome in outcomes] == [Reply, ProviderError, Reply]
    assert client.complete_all([]) == []


@pytest.mark.parametrize("content", [b"something else" * 100, None])
def test_other_files_are_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "calls.db"
    if content is None:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE call (id INTEGER)")
        connection.close()
    else:
        path.write_bytes(content)
    with pytest.raises(JournalError, match=r"calls\.db"):
        Client(Scripted([]), path=path)


def test_a_closed_client_says_so() -> None:
    client = Client(Scripted(["x"]))
    client.close()
    with pytest.raises(JournalError, match="closed"):
        client.complete(Request(prompt("hi")))
