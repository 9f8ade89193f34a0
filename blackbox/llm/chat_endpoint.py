"""Models behind an OpenAI-compatible chat endpoint: hosted ones, and vLLM, llama.cpp, Ollama or a gateway by their URL.

Over the official client (extra ``llm``), whose own retries are off: they are the business of one place,
:class:`blackbox.llm.Client`. Servers differ in what they take; what one refuses is found out from its first answer of
status 400 that names it, not from the model's name:

* a schema goes as ``json_schema``, then as ``json_object`` and, where that is refused, in words;
* ``max_tokens`` goes as ``max_completion_tokens`` where the server wants that;
* ``temperature``, ``seed`` and ``stream_options`` are left out where they are refused.

The key is read from the environment for each attempt and sent as a bearer. No object here holds it, and what a server
says about it is cut out of every message.
"""

from __future__ import annotations

import importlib
import os
import queue
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from blackbox.errors import ProviderError, SettingError, missing_extra
from blackbox.llm.chat_body import as_reply, chat_body, joined, parsed, refused_setting
from blackbox.llm.provider import AttemptFailed, Refused, Reply, Request

_BUSY = (408, 409, 425, 429)  # statuses that pass; so do all from 500
_FILTERS = ("content_filter", "content_policy_violation")  # codes of errors that other requests do not have
_REASON_LENGTH = 300  # characters of what a server says


@dataclass(frozen=True)
class OpenAI:
    """A model behind an OpenAI-compatible endpoint::

        bb.llm.OpenAI("gpt-x")
        bb.llm.OpenAI("qwen", base_url="http://localhost:8000/v1", key=None)

    Args:
        model: the server's name for it.
        base_url: of the endpoint; None for what the environment's OPENAI_BASE_URL names, or OpenAI itself.
        key: name of the environment variable that holds the key; None for servers that need none.
        stream: receive the answer bit by bit, for proxies that cut silent connections.

    Raises:
        SettingError: an argument of another kind, or a URL with a password in it.
        MissingExtra: the package ``openai`` is not installed; raised by the first request.
    """

    model: str
    base_url: str | None = None
    key: str | None = "OPENAI_API_KEY"
    stream: bool = False
    _refused: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    _clients: dict[int, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _mutex: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise SettingError(f"model must be the server's name of a model; got {self.model!r}")
        if self.base_url is not None and not re.match(r"https?://[^/@]+(/|$)", self.base_url):
            raise SettingError("base_url must be http(s)://host..., without a user or password in it")
        if self.key is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key):
            raise SettingError("key must be the name of an environment variable, never a key itself")

    def complete(self, request: Request, seconds: float) -> Reply:
        """One HTTP request, which is given up when ``seconds`` are over, however slowly the answer drips.

        Raises:
            AttemptFailed: says what came instead of an answer.
            ProviderError: there is no key.
        """
        openai, deadline = require_openai(), time.monotonic() + seconds
        if self.key is not None and not self._read_key():
            raise ProviderError(
                f"the environment variable {self.key} holds no key; set it, or key=None for a server that needs none"
            )
        outcome: queue.SimpleQueue[Reply | AttemptFailed] = queue.SimpleQueue()

        # Read timeouts begin anew with every byte, so the deadline is kept from outside. The thread left behind ends at
        # the next piece of a stream, or when the server is silent for so long.
        def exchange() -> None:
            outcome.put(self._exchange(openai, request, seconds, deadline))

        threading.Thread(target=exchange, daemon=True, name="blackbox-llm").start()
        try:
            answer = outcome.get(timeout=seconds)
        except queue.Empty:
            raise AttemptFailed(f"no whole reply within {seconds:g} s", retry=True) from None
        if isinstance(answer, AttemptFailed):
            raise answer
        return answer

    def __reduce__(self) -> tuple[type[OpenAI], tuple[Any, ...]]:
        # Without connections and locks, which are of this process.
        return type(self), (self.model, self.base_url, self.key, self.stream)

    def close(self) -> None:
        """Close idle connections; the next request opens new ones."""
        with self._mutex:
            if (client := self._clients.pop(os.getpid(), None)) is not None:
                client.close()

    def _exchange(self, openai: Any, request: Request, seconds: float, deadline: float) -> Reply | AttemptFailed:
        """A reply or a failure; never an exception, which would hold the request's headers and the key in them."""
        key = self._read_key()
        fields = chat_body(self.model, request, self._refused)
        try:
            headers = {"Authorization": openai.Omit() if key is None else f"Bearer {key}"}
            chat = self._client(openai).chat.completions
            if not self.stream:
                raw = chat.with_raw_response.create(**fields, extra_headers=headers, timeout=seconds)
                return as_reply(parsed(raw.http_response.text), request, self.model)
            fields["stream"] = True
            if "stream_options" not in self._refused:
                fields["stream_options"] = {"include_usage": True}
            pieces = chat.create(**fields, extra_headers=headers, timeout=seconds)
            with pieces:
                return as_reply(joined(pieces, request.n, deadline), request, self.model)
        except Refused as error:
            return Refused(_clean(str(error), key))
        except AttemptFailed as error:
            return AttemptFailed(_clean(str(error), key), retry=error.retry)
        except openai.APIStatusError as error:
            return self._refusal(error, fields, key)
        except openai.APITimeoutError:
            return AttemptFailed(f"no reply within {seconds:g} s", retry=True)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            unpaid = type(cause).__name__ in ("ConnectError", "ConnectTimeout")
            return AttemptFailed(_clean(f"connection failed: {cause}", key), retry=True, unpaid=unpaid)
        except (AttributeError, TypeError, LookupError) as error:
            return AttemptFailed(_clean(f"the reply has another form: {error!r}", key), retry=True)
        except ValueError as error:
            return AttemptFailed(_clean(f"the reply is not JSON: {error}", key), retry=True)
        except Exception as error:  # in the middle of a stream come the errors of the HTTP library, whichever it is
            return AttemptFailed(_clean(f"the reply broke off: {error}", key), retry=True)

    def _refusal(self, error: Any, fields: Mapping[str, Any], key: str | None) -> AttemptFailed:
        """What an error status means; a setting that is refused is remembered, and the next attempt does without."""
        body = error.body if isinstance(error.body, dict) else {}
        status, said = int(error.status_code), _clean(str(body.get("message") or error.message), key)
        if status in (400, 422) and (name := refused_setting(said, fields)):
            self._refused.add(name)
            return AttemptFailed(f"HTTP {status}: the server takes no {name}", retry=True, after=0.0, unpaid=True)
        if getattr(error, "code", None) in _FILTERS:
            return Refused(f"HTTP {status}: {said}", unpaid=True)
        quota = getattr(error, "code", None) == "insufficient_quota"
        passes = (status in _BUSY or status >= 500) and not quota
        return AttemptFailed(
            f"HTTP {status}: {said}", retry=passes, after=_retry_after(error.response.headers), unpaid=True
        )

    def _read_key(self) -> str | None:
        key = "" if self.key is None else os.environ.get(self.key, "").strip()
        return key if key and key.isascii() and key.isprintable() else None

    def _client(self, openai: Any) -> Any:
        with self._mutex:
            if os.getpid() not in self._clients:  # connections do not survive a fork
                placeholder = "sent-with-each-request"  # the client wants one; requests replace the header made of it
                self._clients[os.getpid()] = openai.OpenAI(api_key=placeholder, base_url=self.base_url, max_retries=0)
            return self._clients[os.getpid()]


def require_openai() -> Any:
    """The module ``openai``; MissingExtra where it is not installed."""
    try:
        return importlib.import_module("openai")
    except ImportError:
        raise missing_extra("openai", "llm") from None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from either header in which servers say so: a number of them, or a date."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(milliseconds) / 1000)
        if (text := headers.get("retry-after")) is None:
            return None
        if re.fullmatch(r"\s*\d+(\.\d*)?\s*", text):
            return float(text)
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _clean(text: str, key: str | None) -> str:
    """Text from outside, for a message: in one line, not long, and without the key."""
    if key:  # or its beginning, after which servers put stars
        text = re.sub(re.escape(key[:6]) + (r"\S*" if len(key) > 6 else ""), "[key]", text)
    return " ".join(text.split())[:_REASON_LENGTH]
