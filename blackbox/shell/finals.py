"""Finals under noise: the most promising points are evaluated again, and the best mean wins.

Where values of the same point differ, the least of many is mostly luck. So the last tenth of the budget, and at least
some evaluations, go to *finalists*: what the method recommends, and the points of the best values so far. They are
evaluated again by sequential halving (Karnin, Koren & Somekh 2013, "Almost optimal exploration in multi-armed
bandits", ICML): in each stage all that are left get equally many *repeats*, and the half of the better means goes on.
Departures: means are of all repeats so far, not of a stage's alone; the number of finalists, a power of two, follows
from the evaluations that there are (2 of a budget of 100, 8 of 500, 16 from 800 on); and a last stage has one finalist,
whose mean in it is the value that is reported. The values by which points came to be finalists are never used again.

The winner is, of the finalists that have repeats of the last stage, the one of the best mean before it: so no value
that is reported has chosen anything, and the mean is unbiased. Until there is one, it is the one of the best mean.

All is a function of what was told, of who is waited for, and of when the finals began, so that nothing waits: where
all of a stage is asked for but not told, the next one begins by the means that are known. With late results it may be
that several finalists have repeats of the last stage.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.shell.rungs import INJECTED

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from blackbox.shell.told import Told

SHARE = 0.1  # of the budget
LEAST, MOST = 5, 1000  # evaluations, the former where the budget has twice as many
FINALISTS = 16  # at most


def reserve(budget: int) -> int:
    """How many of all evaluations the finals get."""
    return min(MOST, max(round(SHARE * budget), min(LEAST, budget // 2)))


def ending(searched: int) -> int:
    """The least budget that has at least so many evaluations before its finals."""
    budget = searched + min(LEAST, searched)
    while budget - reserve(budget) < searched:
        budget += 1
    return budget


def finalists(total: int) -> int:
    """How many points compete for ``total`` evaluations: so many that each stage has one for all of them."""
    count = 1
    while count < FINALISTS and 2 * count * (int(math.log2(count)) + 2) <= total:
        count *= 2
    return count


def stages(count: int, total: int) -> list[tuple[int, int]]:
    """Of each stage: how many finalists it has, and how many repeats each of them has by its end."""
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    found, repeats, left = list[tuple[int, int]](), 0, total
    for size in sizes:
        more = max(1, total // (len(sizes) * size)) if size > 1 else max(1, left)
        repeats, left = repeats + more, left - size * more
        found.append((size, repeats))
    return found


class Beginning(NamedTuple):
    """When finals began; the journal keeps it."""

    after: int
    """Results that were told before."""
    end: int
    """What is spent of the budget when they are over."""
    total: int
    """Evaluations that are theirs."""


class Winner(NamedTuple):
    """The finalist that is ahead."""

    row: Float[ndarray, "d"]
    id: Int[ndarray, "2"]
    """Of the candidate that was evaluated first."""
    values: Float[ndarray, "n"]
    """Of the repeats by which it was not chosen or, before there are any, of all; lower is better. Empty: nobody."""

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def standard_error(self) -> float | None:
        """Of the mean; None for a single value."""
        n = len(self.values)
        return float(self.values.std(ddof=1) / math.sqrt(n)) if n > 1 else None


class Leaders(NamedTuple):
    """The points of the best values so far, each once, best first."""

    rows: Float[ndarray, "n d"]
    ids: Int[ndarray, "n 2"]
    values: Float[ndarray, "n"]

    def have_place(self, told: Told, value: float) -> bool:
        """Whether a result may be among them."""
        id = told.generation, told.member
        return len(self.values) < FINALISTS or (value, *id) < (self.values[-1], *self.ids[-1].tolist())

    def joined(self, row: Float[ndarray, "d"], told: Told, value: float) -> Leaders:
        """With one more result."""
        rows, values = np.concatenate([self.rows, row[None]]), np.append(self.values, value)
        ids = np.concatenate([self.ids, [(told.generation, told.member)]])
        kept, seen = list[int](), set[bytes]()
        for i in np.lexsort((ids[:, 1], ids[:, 0], values)).tolist():
            if (bits := rows[i].tobytes()) not in seen:
                seen.add(bits)
                kept.append(i)
        return Leaders(rows[kept[:FINALISTS]], ids[kept[:FINALISTS]], values[kept[:FINALISTS]])


class Finals(NamedTuple):
    """All finals of a run so far: others follow if its budget is raised."""

    leaders: Leaders
    beginning: Int[ndarray, "3"]
    """The :class:`Beginning` of the present ones; zeros before."""
    first: Int[ndarray, ""]
    """Their first finalist; those before are of former ones."""
    rows: Float[ndarray, "n d"]
    """Of the finalists, in the order of entry."""
    ids: Int[ndarray, "n 2"]
    """Of the candidates that had these points first."""
    repeats: Int[ndarray, "m 2"]
    """Finalist and number of each repeat that was told, sorted."""
    values: Float[ndarray, "m"]
    """Of these; lower is better, infinity where it failed."""
    former: Winner
    """Of the finals before the present ones."""

    @classmethod
    def empty(cls, d: int) -> Finals:
        """Those of nothing told."""
        leaders = Leaders(np.zeros((0, d)), np.zeros((0, 2), dtype=np.int64), np.zeros(0))
        nobody = Winner(np.zeros(d), np.zeros(2, dtype=np.int64), np.zeros(0))
        return cls(leaders, np.zeros(3, np.int64), np.zeros((), np.int64), *leaders[:2], *leaders[1:], nobody)

    def joined(self, told: Told, fitness: float, settle: Callable[[ndarray], ndarray]) -> Finals:
        """With one more result: of a repeat, or one that may make a finalist; ``settle`` gives a point's one row."""
        if told.generation >= INJECTED:
            is_leading = told.status == "ok" and self.leaders.have_place(told, fitness)
            return self._replace(leaders=self.leaders.joined(settle(told.row), told, fitness)) if is_leading else self
        repeats = np.concatenate([self.repeats, [[told.member, INJECTED - 1 - told.generation]]])
        values = np.append(self.values, math.inf if math.isnan(fitness) else fitness)
        order = np.lexsort(repeats.T[::-1])
        return self._replace(repeats=repeats[order], values=values[order])

    def begin(self, beginning: Beginning, recommended: Float[ndarray, "d"]) -> Finals:
        """With new finals: of the point that the method recommends, the last winner, and the leaders.

        Where there is but one finalist, it is a point that was evaluated.
        """
        entrants: dict[bytes, tuple[Float[ndarray, "d"], Sequence[int]]] = {}
        winner = self.winner()
        if winner is not None:
            entrants[winner.row.tobytes()] = winner.row, winner.id.tolist()
        for row, id in zip(self.leaders.rows, self.leaders.ids.tolist(), strict=True):
            entrants.setdefault(row.tobytes(), (row, id))
        count, bits = finalists(beginning.total), recommended.tobytes()
        if count > 1 or bits in entrants:
            entrants = {bits: entrants.get(bits, (recommended, (INJECTED - 1, len(self.rows)))), **entrants}
        rows, ids = zip(*[*entrants.values()][:count], strict=True)
        return self._replace(
            beginning=np.array(beginning),
            first=np.array(len(self.rows)),
            rows=np.concatenate([self.rows, rows]),
            ids=np.concatenate([self.ids, ids]),
            former=self.former if winner is None else winner,
        )

    @property
    def n_finalists(self) -> int:
        """Finalists of the present finals."""
        return len(self.rows) - int(self.first)

    def due(self, waiting: Container[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Ids of the repeats that are neither told nor waited for, first ones first, without end.

        The k-th repeat, from 0, of the i-th finalist has the id ``(-2 - k, i)``.
        """
        for ids in self._open():
            yield from (id for id in ids if id not in waiting)

    def due_now(self, waiting: Container[tuple[int, int]]) -> int:
        """How many of them need no result that is waited for."""
        return sum(id not in waiting for id in next(self._open()))

    def is_open(self, generation: int, member: int) -> bool:
        """Whether an id is that of a repeat without a result."""
        number = INJECTED - 1 - generation
        return number >= 0 and member < len(self.rows) and not (self.repeats == (member, number)).all(1).any()

    def origin(self, generation: int, member: int) -> tuple[int, int] | None:
        """The id of the candidate that a repeat evaluates again; None for others, and where it is the first one."""
        first = tuple(self.ids[member].tolist()) if generation < INJECTED else (generation, member)
        return None if first == (generation, member) else first

    def winner(self) -> Winner | None:
        """The finalist that is ahead, and what is known of it; before any repeat has a value, the former winner."""
        known, values, place = self._known(), list[float](), -1
        fresh = self._stages_planned()[-2][1] if self.n_finalists > 1 else 0
        last = {p: [v for n, v in pairs if n >= fresh and v < math.inf] for p, pairs in known.items()}
        if any(last.values()):
            means = {p: _mean([v for n, v in pairs if n < fresh]) for p, pairs in known.items() if last[p]}
            place = min(means, key=means.__getitem__)  # of equal ones the first, as places are in order
            values = last[place]
        elif known:
            means = {p: _mean([v for _, v in pairs]) for p, pairs in known.items()}
            ahead = next(places[0] for places, _ in self._stages() if len(places) == 1)
            place = ahead if means.get(ahead, math.inf) < math.inf else min(means, key=means.__getitem__)
            values = [v for _, v in known[place] if v < math.inf]
        if values:
            return Winner(self.rows[place], self.ids[place], np.array(values))
        return self.former if len(self.former.values) else None

    def _known(self) -> dict[int, list[tuple[int, float]]]:
        """Number and value of the repeats of each finalist of the present finals, in the order of both."""
        known = dict[int, list[tuple[int, float]]]()
        for (place, number), value in zip(self.repeats.tolist(), self.values.tolist(), strict=True):
            if place >= self.first:
                known.setdefault(place, []).append((number, value))
        return known

    def _stages_planned(self) -> list[tuple[int, int]]:
        return stages(self.n_finalists, Beginning(*self.beginning.tolist()).total)

    def _open(self) -> Iterator[list[tuple[int, int]]]:
        """The ids without a result, of each stage that has any."""
        told = {(place, number) for place, number in self.repeats.tolist()}
        for places, numbers in self._stages():
            pairs = [(place, number) for number in numbers for place in places if (place, number) not in told]
            if pairs:
                yield [(INJECTED - 1 - number, place) for place, number in pairs]

    def _stages(self) -> Iterator[tuple[list[int], range]]:
        """Of each stage the finalists, as far as is known, and the numbers of their repeats; the last ones go on."""
        known, places, begin = self._known(), list(range(int(self.first), len(self.rows))), 0
        for size, end in self._stages_planned():
            means = {place: _mean([v for n, v in known.get(place, ()) if n < begin]) for place in places}
            places = sorted(places, key=means.__getitem__)[:size]  # of equal ones the first
            yield places, range(begin, end)
            begin = end
        for number in itertools.count(begin):
            yield places, range(number, number + 1)


def _mean(values: Sequence[float]) -> float:
    """Infinity where one has failed, or there is none."""
    return math.inf if math.inf in values or not values else math.fsum(values) / len(values)
