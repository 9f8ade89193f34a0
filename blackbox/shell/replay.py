"""The evaluations of a run, read back from its journal.

A journal holds what was told, not where: the points of all candidates follow from the settings and from the results
before them, so the search is run again over the recorded results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from blackbox.journal import Journal
from blackbox.shell.candidate import Candidate
from blackbox.shell.record import beginnings, course
from blackbox.shell.search import Search
from blackbox.shell.settings import Settings


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
    search = Search(settings.plan())
    rungs = search.rungs
    for told, event in course(search, journal.events(), lambda: beginnings(search.plan, journal)):
        candidate = Candidate((told.generation, told.member), settings.space.decode(told.row), told.row, settings.owner)
        if settings.fidelity is not None:
            candidate.allot(told.rung, settings.fidelity.budgets, rungs.before(*candidate.id))
            rungs = rungs.joined(told, told.value)
        if settings.noise:
            candidate.repeats = search.finals.origin(*candidate.id)
        candidate.take(told.value, told.status, told.vector, settings.objectives)
        yield Evaluation(candidate, event.reason, event.seconds)
