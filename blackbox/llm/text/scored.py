"""Instructions with their mean losses, best first: what OPRO's and EvoPrompt's states hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from blackbox.llm.text.losses import mean_losses, told_losses


class Scored(NamedTuple):
    """An instruction that was evaluated."""

    text: str
    loss: float
    """The mean over instances, infinite if it failed."""


def told(texts: Sequence[str], scores: Any, instances: int, worst: float) -> list[Scored]:
    """Instructions with the means of their losses, of shape (texts, instances) or (texts,).

    Raises:
        TellError: scores of another shape, or no numbers.
    """
    means = mean_losses(told_losses(texts, scores, instances), worst)
    return [Scored(text, loss) for text, loss in zip(texts, means, strict=True)]


def ranked(scored: Iterable[Scored]) -> tuple[Scored, ...]:
    """The best first, of equals the earlier; of a text that is there twice the first one stays."""
    first: dict[str, Scored] = {}
    for entry in scored:
        first.setdefault(entry.text, entry)
    return tuple(sorted(first.values(), key=lambda entry: entry.loss))
