"""Requests and replies as the bodies of the chat endpoint, in whole or in pieces."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from blackbox.llm.provider import AttemptFailed, Refused, Reply, Request

_UNKNOWN = re.compile(r"support|unknown|unrecogni|unexpected|permitted|allowed|available|extra", re.IGNORECASE)


def chat_body(model: str, request: Request, refused: set[str]) -> dict[str, Any]:
    """A request as the fields of the chat endpoint, without what the server refuses."""
    messages = [message._asdict() for message in request.messages]
    limit = "max_completion_tokens" if "max_tokens" in refused else "max_tokens"
    fields: dict[str, Any] = {"model": model, limit: request.max_tokens}
    if "temperature" not in refused:
        fields["temperature"] = request.temperature
    if request.seed is not None and "seed" not in refused:
        fields["seed"] = request.seed
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.n > 1:
        fields["n"] = request.n
    if request.schema is not None:
        if "json_schema" not in refused:
            form = {"name": "reply", "schema": dict(request.schema), "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": form}
        else:
            words = (
                f"Answer with JSON only, which fits this JSON schema: {json.dumps(request.schema, ensure_ascii=False)}"
            )
            messages.append({"role": "user", "content": words})
            if "json_object" not in refused:
                fields["response_format"] = {"type": "json_object"}
    return {**fields, "messages": messages}


def refused_setting(said: str, fields: Mapping[str, Any]) -> str:
    """The setting of a request that a server complains about, if we can do without; else ""."""
    if not _UNKNOWN.search(said):  # a value out of range, which must not be left out in silence
        return ""
    if "response_format" in fields and re.search(r"response_format|json_schema|json_object|schema", said):
        return str(fields["response_format"]["type"])
    for name in ("stream_options", "max_tokens", "temperature", "seed"):
        if name in fields and re.search(rf"\b{name}\b", said):
            return name
    return ""


def parsed(text: str) -> dict[str, Any]:
    """The body of an answer; AttemptFailed, ValueError or TypeError if it is none."""
    body = json.loads(text)
    if isinstance(body, dict) and body.get("error"):  # gateways report errors under status 200
        raise AttemptFailed(f"the server reports {json.dumps(body['error'])}", retry=True)
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list) or not body["choices"]:
        raise TypeError("no choices")
    return body


def joined(pieces: Any, n: int, deadline: float) -> dict[str, Any]:
    """The pieces of a stream as the body that would have come without streaming."""
    texts, refusals, finish, usage, model = [""] * n, [""] * n, [""] * n, None, None
    for piece in pieces:
        if time.monotonic() > deadline:
            raise AttemptFailed("no whole reply in time", retry=True)  # nobody waits for it any more
        model = piece.model or model
        if getattr(piece, "usage", None) is not None:
            usage = {"prompt_tokens": piece.usage.prompt_tokens, "completion_tokens": piece.usage.completion_tokens}
        for choice in piece.choices or ():
            texts[choice.index] += (choice.delta and choice.delta.content) or ""
            refusals[choice.index] += getattr(choice.delta, "refusal", None) or ""
            finish[choice.index] = choice.finish_reason or finish[choice.index]
    if not all(finish):
        raise AttemptFailed("the stream ended before the answer did", retry=True)
    messages = [{"content": text, "refusal": refusal} for text, refusal in zip(texts, refusals, strict=True)]
    choices = [{"index": i, "finish_reason": finish[i], "message": messages[i]} for i in range(n)]
    return {"model": model, "choices": choices, "usage": usage}


def as_reply(body: Mapping[str, Any], request: Request, model: str) -> Reply:
    """The body of an answer as a reply.

    Raises:
        AttemptFailed: it holds no text; Refused if the model or a filter says so.
        TypeError, LookupError, AttributeError: it has another form.
    """
    choices = sorted(body["choices"], key=lambda choice: choice.get("index") or 0)
    for choice in choices:
        refusal, finish = choice["message"].get("refusal"), choice.get("finish_reason")
        said = f"the answer holds no text: {str(refusal or finish)[:300]}"
        if refusal or finish == "content_filter":
            raise Refused(said)
        if not isinstance(choice["message"].get("content"), str):
            raise AttemptFailed(said, retry=False)
    usage = body.get("usage") or {}
    counts: Any = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    estimated = not all(type(count) is int and count >= 0 for count in counts)
    tokens_in, tokens_out = request.most_tokens() if estimated else counts
    return Reply(
        tuple(choice["message"]["content"].encode("utf-8", "replace").decode() for choice in choices),
        tokens_in,
        tokens_out,
        tuple(str(choice.get("finish_reason") or "stop") for choice in choices),
        str(body.get("model") or model),
        estimated,
    )
