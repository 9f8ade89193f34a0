"""Answers of a language model in a file, so that a run can be repeated to the bit, without the model.

The file has one JSON object a line: the model's name in the first, then requests with their replies under the SHA-256
of the model's name and the whole request. It is text in the order of recording, made to be committed beside a test.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from blackbox.errors import JournalError, ProviderError
from blackbox.llm.provider import Provider, Reply, Request

_FORMAT = "blackbox-llm-recording-1"


class Recorded:
    """A provider that answers from a file, and records what is not there if it has another provider to ask::

        bb.llm.Recorded("tape.jsonl", bb.llm.OpenAI("gpt-x"))    # asks and records
        bb.llm.Recorded("tape.jsonl")                            # only replays

    Equal requests have one recording: ``Request.sample`` tells them apart. Failures are not recorded. One process
    records at a time.

    Args:
        path: the file; made, with its folders, when something is recorded.
        provider: whom to ask for what is not recorded; None to fail then.

    Raises:
        ProviderError: the file is missing without a provider, is no recording, or one of another model.
    """

    def __init__(self, path: str | os.PathLike[str], provider: Provider | None = None) -> None:
        self.path = Path(path)
        self.provider = provider
        self._mutex = threading.Lock()
        self._replies: dict[str, Reply] = {}
        self._end = 0  # bytes of whole lines: what a killed process left of a line is written over
        self._size = 0  # bytes in all, as this left the file
        self.model = "" if provider is None else provider.model
        if self.path.exists():
            self._load()
        elif provider is None:
            raise ProviderError(f"there is no recording {str(self.path)!r}; give a provider to make one")

    def complete(self, request: Request, seconds: float) -> Reply:
        """The recorded reply, or the provider's, which is in the file when this returns.

        Raises:
            ProviderError: nothing is recorded for the request, and there is no provider.
            JournalError: something else wrote the file.
        """
        key = request.key(self.model)
        with self._mutex:
            if key in self._replies:
                return self._replies[key]
        if self.provider is None:
            last = request.messages[-1].content
            raise ProviderError(
                f"{self.path} has no recording of request {key[:12]} (temperature {request.temperature:g}, max_tokens"
                f" {request.max_tokens}, seed {request.seed}, n {request.n}, sample {request.sample}; it ends with"
                f" {last[-80:]!r})"
            )
        reply = self.provider.complete(request, seconds)
        with self._mutex:
            if key not in self._replies:
                self._append(key, request, reply)
                self._replies[key] = reply
            return self._replies[key]

    def __deepcopy__(self, memo: object) -> Recorded:
        return self  # a file has one writer

    def __reduce__(self) -> tuple[type[Recorded], tuple[Path, Provider | None]]:
        return type(self), (self.path, self.provider)

    def _load(self) -> None:
        content = self.path.read_bytes()
        lines = content.split(b"\n")[:-1]  # without what follows the last line's end
        self._end, self._size = sum(len(line) + 1 for line in lines), len(content)
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if number > 1:
                    self._replies[entry["key"]] = Reply.from_json(json.dumps(entry["reply"]))
                    continue
                recorded, model = entry["format"], entry["model"]
            except (ValueError, TypeError, KeyError, ProviderError) as error:
                raise ProviderError(f"{self.path}: line {number} is no line of a recording") from error
            if recorded != _FORMAT:
                raise ProviderError(f"{self.path} must be a recording of the format {_FORMAT!r}; it says {recorded!r}")
            if self.provider is not None and model != self.provider.model:
                raise ProviderError(f"{self.path} records {model!r}, and the provider is {self.provider.model!r}")
            self.model = model
        if not lines and self.provider is None:
            raise ProviderError(f"{self.path} is empty; give a provider to record")

    def _append(self, key: str, request: Request, reply: Reply) -> None:
        lines = [] if self._end else [json.dumps({"format": _FORMAT, "model": self.model})]
        fields = {"key": key, "request": json.loads(request.text()), "reply": json.loads(reply.to_json())}
        lines.append(json.dumps(fields, sort_keys=True))
        content = "".join(f"{line}\n" for line in lines).encode()
        is_there = self.path.exists()
        if (self.path.stat().st_size if is_there else 0) != self._size:  # not to cut off what another one recorded
            raise JournalError(f"{self.path} is not as it was left: something else writes it, or a write failed")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "r+b" if is_there else "wb") as file:
            file.truncate(self._end)
            file.seek(self._end)
            file.write(content)
        self._end += len(content)
        self._size = self._end
