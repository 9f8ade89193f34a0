"""A language model whose answers are written beforehand, for tests and examples."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from blackbox.errors import ProviderError
from blackbox.llm.provider import Reply, Request

Answer = str | Sequence[str] | Reply | Exception
"""A text, one text for each of the request's ``n``, a whole reply, or an error to raise."""


class Scripted:
    """A provider that answers from a list, or by a function::

        client = bb.llm.Client(bb.llm.Scripted(["first answer", "second answer"]))
        client = bb.llm.Client(bb.llm.Scripted(lambda request: request.messages[-1].content.upper()))

    Tokens are counted as a third of the characters, rounded up.

    Args:
        replies: answers in the order in which they are asked for, or a function from the request to one.
        model: name of the model.

    Attributes:
        requests: what was asked so far, in order.
    """

    def __init__(self, replies: Sequence[Answer] | Callable[[Request], Answer], model: str = "scripted") -> None:
        self.model = model
        self.requests: list[Request] = []
        self._replies = replies
        self._mutex = threading.Lock()

    def complete(self, request: Request, seconds: float) -> Reply:
        """The next answer.

        Raises:
            ProviderError: the script is at its end.
        """
        with self._mutex:
            self.requests.append(request)
            number = len(self.requests)
        if callable(self._replies):
            answer = self._replies(request)
        elif number <= len(self._replies):
            answer = self._replies[number - 1]
        else:
            raise ProviderError(f"the script has {len(self._replies)} answers, and this is request {number}")
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Reply):
            return answer
        texts = (answer,) * request.n if isinstance(answer, str) else tuple(answer)
        if len(texts) != request.n:
            raise ProviderError(f"answer {number} of the script has {len(texts)} texts, and n is {request.n}")
        most_in, most_out = request.most_tokens()
        tokens_in = min(most_in, sum(_tokens(content) for _, content in request.messages))
        tokens_out = min(most_out, sum(map(_tokens, texts)))
        return Reply(texts, tokens_in, tokens_out, ("stop",) * len(texts), self.model)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_mutex"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._mutex = threading.Lock()


def _tokens(text: str) -> int:
    return -(-len(text) // 3)
