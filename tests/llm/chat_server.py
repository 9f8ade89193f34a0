"""An OpenAI-compatible server on the loopback interface, which answers as its script says and remembers what came."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    body: Any = None
    """JSON, or bytes as they are."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    declared: int | None = None
    """Content-Length, if another one than the truth."""
    pieces: tuple[bytes, ...] = ()
    """Sent one after the other, in the place of a body."""
    pause: float = 0.0
    """Seconds before the body and between pieces."""


def chat(*texts: str, finish: str = "stop", usage: tuple[int, int] | None = (7, 5), **more: Any) -> Answer:
    """A good answer."""
    choices = [
        {"index": i, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
        for i, text in enumerate(texts)
    ]
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "fake-1", "choices": choices, **more}
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Answer(body)


def event(text: str | None, finish: str | None = None, usage: tuple[int, int] | None = None) -> bytes:
    """A piece of a streamed answer."""
    body: dict[str, Any] = {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "fake-1",
        "choices": [],
    }
    if text is not None:
        body["choices"] = [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return f"data: {json.dumps(body)}\n\n".encode()


def error(status: int, message: str, **headers: str) -> Answer:
    return Answer({"error": {"message": message, "type": "x", "code": None}}, status, headers)


class ChatServer(ThreadingHTTPServer):
    """Answers come from ``script`` in order, or from a function of the body of the request."""

    daemon_threads = True

    def __init__(self, script: list[Answer] | Callable[[dict[str, Any]], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.mutex = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no matter."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.mutex:
            number = len(self.server.bodies)
            self.server.bodies.append(body)
            self.server.heads.append(
                {name.lower(): value for name, value in self.headers.items()} | {"path": self.path}
            )
        script = self.server.script
        answer = script(body) if callable(script) else script[number]
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        if answer.pieces:
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in answer.pieces:
                time.sleep(answer.pause)
                self.wfile.write(piece)
                self.wfile.flush()
            self.close_connection = True
            return
        self.send_header("Content-Length", str(len(content) if answer.declared is None else answer.declared))
        self.end_headers()
        time.sleep(answer.pause)
        self.wfile.write(content)
        self.close_connection = answer.declared is not None

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(script: list[Answer] | Callable[[dict[str, Any]], Answer]) -> Iterator[ChatServer]:
    server = ChatServer(script)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
