"""What is asked of a language model, what it answers, and the protocol between.

A provider makes one attempt at one request and knows nothing of retries, budgets, caches or journals: those are in one
place, :class:`blackbox.llm.Client`, so that n retries of one layer never meet m retries of another.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

from blackbox.errors import ProviderError, SettingError
from blackbox.llm.json_schema import check_schema

_MESSAGE_TOKENS = 16  # of a chat template: role, separators, a space in front
_REPLY_TOKENS = 64  # of a chat template: beginning, an instruction for JSON, the begin of the answer


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    """"system", "user" or "assistant"."""
    content: str


def prompt(text: str, system: str = "") -> tuple[Message, ...]:
    """The messages of a conversation that begins: what is asked, after a system message if there is one."""
    return (*((Message("system", system),) if system else ()), Message("user", text))


@dataclass(frozen=True)
class Request:
    """What is asked of a model. Equal requests to equal models are one request: the second one is answered for nothing.

    Args:
        messages: the conversation so far, at least one message; see :func:`prompt`.
        temperature: of sampling, >= 0.
        max_tokens: most tokens of each answer, >= 1; what a budget reserves.
        seed: of the server's sampling, where it has one.
        stop: texts at which an answer ends.
        schema: JSON schema that each answer must fit; None for free text.
        n: answers, >= 1.
        sample: a number that tells requests apart that are equal otherwise, for several samples; it is not sent.

    Raises:
        SettingError: an argument outside its range, or a schema with keywords that are not checked here.
    """

    messages: Sequence[Message]
    temperature: float = 1.0
    max_tokens: int = 1024
    seed: int | None = None
    stop: Sequence[str] = ()
    schema: Mapping[str, Any] | None = None
    n: int = 1
    sample: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.messages, str) or not self.messages:
            raise SettingError(f"messages must be a list of messages, as prompt(text) makes; got {self.messages!r}")
        object.__setattr__(self, "messages", tuple(Message(*message) for message in self.messages))
        if not all(isinstance(part, str) for message in self.messages for part in message):
            raise SettingError(f"messages must be pairs of strings, (role, content); got {self.messages!r}")
        try:
            "".join(content for _, content in self.messages).encode()
        except UnicodeEncodeError as error:
            raise SettingError(f"messages must be text that UTF-8 can hold: {error.reason}") from None
        if not (_is_number(self.temperature) and math.isfinite(self.temperature) and self.temperature >= 0):
            raise SettingError(f"temperature must be a number >= 0; got {self.temperature!r}")
        object.__setattr__(self, "temperature", float(self.temperature))
        for name, least in (("max_tokens", 1), ("n", 1), ("sample", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise SettingError(f"{name} must be an integer >= {least}; got {value!r}")
        if self.seed is not None and type(self.seed) is not int:
            raise SettingError(f"seed must be an integer or None; got {self.seed!r}")
        if isinstance(self.stop, str) or not all(isinstance(text, str) for text in self.stop):
            raise SettingError(f"stop must be a list of strings; got {self.stop!r}")
        object.__setattr__(self, "stop", tuple(self.stop))
        if self.schema is not None:
            check_schema(self.schema)
            object.__setattr__(self, "schema", json.loads(json.dumps(self.schema)))  # a copy: it is part of the key

    def text(self) -> str:
        """The whole request as canonical JSON."""
        fields = {**asdict(self), "messages": [list(message) for message in self.messages]}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def key(self, model: str) -> str:
        """SHA-256 of the model's name and the whole request, in hexadecimal digits."""
        return hashlib.sha256(f"{json.dumps(model)}\n{self.text()}".encode()).hexdigest()

    def most_tokens(self) -> tuple[int, int]:
        """Upper bounds of the tokens in and out.

        No token of a byte-level vocabulary is shorter than one byte, so the bytes of the prompt bound its tokens; for
        English they are some four times as many. What is not used is given back when the answer is there.
        """
        size = sum(len(content.encode()) + _MESSAGE_TOKENS for _, content in self.messages)
        if self.schema is not None:
            size += len(json.dumps(self.schema, ensure_ascii=False).encode())
        return size + _REPLY_TOKENS, self.n * self.max_tokens


@dataclass(frozen=True)
class Reply:
    """What a model answered."""

    texts: tuple[str, ...]
    """One for each of the request's ``n``."""
    tokens_in: int
    tokens_out: int
    finish: tuple[str, ...]
    """Why each text ends: "stop", or "length" where ``max_tokens`` cut it, or a word of the server's."""
    model: str
    """As the server names it."""
    estimated: bool = False
    """Whether the tokens are the upper bound, because the server told none."""

    def to_json(self) -> str:
        """This reply as JSON; equal replies give equal texts."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Reply:
        """The reply that :meth:`to_json` wrote; ProviderError for any other text."""
        try:
            fields = json.loads(text)
            reply = cls(**{**fields, "texts": tuple(fields["texts"]), "finish": tuple(fields["finish"])})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ProviderError(f"a stored reply is not one: {error}") from error
        if not (
            all(isinstance(part, str) for part in (*reply.texts, *reply.finish, reply.model))
            and all(type(count) is int and count >= 0 for count in (reply.tokens_in, reply.tokens_out))
            and len(reply.texts) == len(reply.finish)
            and isinstance(reply.estimated, bool)
        ):
            raise ProviderError("a stored reply is not one: its fields have other types")
        return reply


class AttemptFailed(ProviderError):
    """One attempt that came to nothing.

    Args:
        reason: what happened, without keys.
        retry: whether another attempt may succeed.
        after: seconds to wait before it, where the server says so.
        unpaid: whether it is known that the server charged nothing; what is not known counts with its upper bound.
    """

    def __init__(self, reason: str, *, retry: bool, after: float | None = None, unpaid: bool = False) -> None:
        super().__init__(reason)
        self.retry, self.after, self.unpaid = retry, after, unpaid

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is made again from its args alone, which lack the keywords; so one of another process was lost.
        return type(self).__new__, (type(self), *self.args), self.__dict__


class Refused(AttemptFailed):
    """The model is there and does not answer this request, as a content filter has it.

    Other requests it may answer, so this is no sign of an outage. An evaluation may raise it, too.

    Args:
        reason: what happened, without keys.
        unpaid: as for :class:`AttemptFailed`.
    """

    def __init__(self, reason: str, *, unpaid: bool = False) -> None:
        super().__init__(reason, retry=False, unpaid=unpaid)


class Provider(Protocol):
    """A language model: one attempt at one request, from any thread."""

    @property
    def model(self) -> str:
        """Its name, part of what answers are stored under."""

    def complete(self, request: Request, seconds: float) -> Reply:
        """The answer to ``request``.

        Args:
            request: what is asked.
            seconds: after which this must have returned or raised.

        Raises:
            AttemptFailed: no answer this time.
            Refused: no answer to this request.
            ProviderError: no answer at any time.
        """


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
