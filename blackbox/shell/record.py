"""What a journal holds of an optimization: told results as events, checkpoints, and the way back."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from blackbox.errors import CheckpointError
from blackbox.journal import Event, Journal
from blackbox.shell.finals import Beginning
from blackbox.shell.rungs import INJECTED
from blackbox.shell.search import Plan, Search
from blackbox.shell.told import Told

FINALS = "finals"  # note of the journal: when they began
_OPEN = struct.Struct("<q")  # before the vector of a late result: the generation that was open when it was told
_RUNG = struct.Struct("<q")  # first of all, where evaluations have several budgets: the number of this one


def to_event(t: Told, open_generation: int, seconds: float | None, reason: str, has_rungs: bool = False) -> Event:
    """A told result as the journal keeps it.

    The vector of an asked candidate can be made again, but not that of a point from outside, nor, once its
    generation is closed, that of a late one. What else was told than the (first) value stands before it.
    """
    payload = None if t.vector is None else t.vector[1:].tobytes()
    if t.late:
        payload = (payload or b"") + _OPEN.pack(open_generation) + t.row.tobytes()
    elif t.generation == INJECTED:
        payload = (payload or b"") + t.row.tobytes()
    if has_rungs:
        payload = _RUNG.pack(t.rung) + (payload or b"")
    return Event(t.generation, t.member, t.value, t.status, reason, seconds, payload)


def replay(plan: Plan, journal: Journal) -> Search:
    """The search after all results of a journal: from its newest checkpoint that fits, else from the start.

    Raises:
        JournalError: the journal is damaged.
    """
    search, position = _from_checkpoint(plan, journal)
    for _ in course(search, journal.events(after=position), lambda: beginnings(plan, journal)):
        pass
    return search


def beginnings(plan: Plan, journal: Journal) -> list[Beginning]:
    """When the finals of a run under noise began."""
    return [Beginning(*noted) for noted in journal.note(FINALS) or ()] if plan.noise else []


def course(
    search: Search, events: Iterable[Event], begun: Callable[[], Sequence[Beginning]] = list
) -> Iterator[tuple[Told, Event]]:
    """Take the results that follow the state of ``search`` in, and give each with its vector.

    All that was told together with the last result of a generation is in before the generation closes, which shows
    only in the results that come after.

    Args:
        search: the state to go on from; it is changed.
        events: what was told after it.
        begun: when finals began, asked for once the first event is there, so that it is as new as the last of them.
    """
    coming: list[Beginning] | None = None
    width, has_rungs, told = search.plan.goals.width, search.plan.fidelity is not None, list[Told]()
    members: list[int] = []  # of those told that are of the open generation

    def enter() -> None:
        search.commit(told, search.prepare(told))
        told.clear()
        members.clear()

    for event in events:
        if coming is None:
            coming = [b for b in begun() if b.after >= search.evaluations]
        while coming and coming[0].after == search.evaluations + len(told):
            enter()
            search.finals = search.finals_begun(coming.pop(0))
        row: Any = None
        value = math.nan if event.value is None else event.value
        payload, vector, rung = event.payload or b"", None, 0
        if has_rungs:
            (rung,) = _RUNG.unpack_from(payload)
            payload = payload[_RUNG.size :]
        if width > 1:
            vector = np.append(value, np.frombuffer(payload, count=width - 1))
            payload = payload[vector[1:].nbytes :]
        open_generation = event.generation
        if event.generation == INJECTED:
            # Told on its own: if the results before it complete a generation, that one had closed.
            open_generation = search.generation + search.is_complete(members, len(told))
            row = np.frombuffer(payload)
        elif payload:
            (open_generation,) = _OPEN.unpack_from(payload)
            row = np.frombuffer(payload, offset=_OPEN.size)
        if open_generation > search.generation:
            enter()
        if event.generation == search.generation:
            members.append(event.member)
        if row is None:
            row = search.row(event.member)
        told.append(
            Told(event.generation, event.member, row, value, event.status, vector=vector, rung=rung)  # type: ignore[arg-type]
        )
        yield told[-1], event
    enter()
    for beginning in begun() if coming is None else coming:
        if beginning.after == search.evaluations:
            search.finals = search.finals_begun(beginning)


def _from_checkpoint(plan: Plan, journal: Journal) -> tuple[Search, int]:
    for position, arrays, manifest in journal.checkpoints():
        search = Search(plan)
        try:
            search.restore(arrays, manifest)
        except (CheckpointError, KeyError, TypeError, ValueError) as error:
            warnings.warn(
                f"{journal.path}: the checkpoint after {position} results does not fit ({error}); an older state does",
                RuntimeWarning,
                stacklevel=4,
            )
        else:
            return search, position
    return Search(plan), 0
