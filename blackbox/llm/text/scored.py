"""Instructions with their mean losses, best first: what OPRO's and EvoPrompt's states hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Scored(NamedTuple):
    """An instruction that was evaluated."""

    text: str
    loss: float
    """The mean over instances, infinite if it failed."""


def ranked(scored: Iterable[Scored]) -> tuple[Scored, ...]:
    """The best first, of equals the earlier; of a text that is there twice the first one stays."""
    first: dict[str, Scored] = {}
    for entry in scored:
        first.setdefault(entry.text, entry)
    return tuple(sorted(first.values(), key=lambda entry: entry.loss))
