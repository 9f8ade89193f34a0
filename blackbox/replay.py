"""The evaluations of a run, read back from its journal.

A journal holds what was told, not where: the points of all candidates follow from the settings and from the results
before them, so the search is run again over the recorded results.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from blackbox.candidate import Candidate
from blackbox.journal import Event, Journal
from blackbox.search import INJECTED, Search
from blackbox.settings import Settings
from blackbox.told import Told

_OPEN = struct.Struct("<q")  # before the vector of a late result: the generation that was open when it was told


class Evaluation(NamedTuple):
    """One told result."""

    candidate: Candidate
    reason: str
    """Why it failed; empty where it did not."""
    seconds: float | None
    """How long it took, if that was told."""


def replay(journal: Journal) -> Iterator[Evaluation]:
    """All results of a journal in the order of telling; works beside a live writer.

    Args:
        journal: an open one, read-only or not.

    Raises:
        JournalError: the journal is damaged.
        SettingError: its method is not installed here.
    """
    settings = Settings.from_json(journal.configuration)
    for told, event in course(Search(settings.plan()), journal.events()):
        candidate = Candidate((told.generation, told.member), settings.space.decode(told.row), told.row, settings.owner)
        candidate.value, candidate.status = told.value, told.status
        yield Evaluation(candidate, event.reason, event.seconds)


def course(search: Search, events: Iterable[Event]) -> Iterator[tuple[Told, Event]]:
    """Take the results that follow the state of ``search`` in, and give each with its vector.

    All that was told together with the last result of a generation is in before the generation closes, which shows
    only in the results that come after.
    """
    told: list[Told] = []
    for event in events:
        row: Any = None
        open_generation = event.generation
        if event.generation == INJECTED:
            # Told on its own: if the results before it complete a generation, that one had closed.
            open_generation = search.generation + search.is_complete([t.member for t in told if search.is_due(t)])
            row = np.frombuffer(event.payload or b"")
        elif event.payload:
            (open_generation,) = _OPEN.unpack_from(event.payload)
            row = np.frombuffer(event.payload, offset=_OPEN.size)
        if open_generation > search.generation:
            search.commit(told, search.prepare(told))
            told = []
        if row is None:
            row = search.row(event.member)
        value = math.nan if event.value is None else event.value
        told.append(Told(event.generation, event.member, row, value, event.status))  # type: ignore[arg-type]
        yield told[-1], event
    search.commit(told, search.prepare(told))
