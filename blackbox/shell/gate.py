"""The one gate through which results enter: candidates and values are checked here before anything is changed.

==============================================  =====================================================================
told                                            becomes
==============================================  =====================================================================
NaN, None                                       status "failed", ranks last; NonFinite with ``nonfinite="raise"``
plus infinity (minus, if maximizing)            status "infeasible", ranks last; likewise
minus infinity (plus, if maximizing)            NonFinite; the best of all with ``allow_neg_inf=True``
Boolean, string, complex, not one number        TellError
another number of values than of candidates     TellError
a candidate that has a result, or twice         DuplicateTell; left out with ``if_told="ignore"``
a candidate of another optimizer                UnknownCandidate, naming the open generation
a candidate whose generation has closed         counts for the best, and joins the next tell where the method allows
a point that was not asked for                  the same, with the full budget; TellError if it is not in the space
a constraint above 0, or NaN                    status "infeasible": never the best
no constraints, or another number of them       TellError, unless the evaluation has failed
==============================================  =====================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from blackbox.box import Box
from blackbox.dimensions import show
from blackbox.errors import DuplicateTell, SpaceError, TellError, UnknownCandidate
from blackbox.shell.candidate import Candidate
from blackbox.shell.goals import Goals, Numbers
from blackbox.shell.rungs import INJECTED
from blackbox.shell.search import Search
from blackbox.shell.told import Policy, Told
from blackbox.space import Space


class Gate:
    """What an optimizer may be told at a moment.

    Args:
        space: of points from outside.
        policy: what to do about values that are no finite numbers, and about results told twice.
        goals: what a result consists of.
        owner: name of the run, which its candidates bear.
        search: the course so far.

    Attributes:
        waiting: candidates that are asked and not told, by id.
    """

    def __init__(self, space: Space | Box, policy: Policy, goals: Goals, owner: str, search: Search) -> None:
        self._space = space
        self._policy = policy
        self._goals = goals
        self._owner = owner
        self._search = search
        self.waiting: dict[tuple[int, int], Candidate] = {}

    def admit(self, candidate: Any, value: Any, constraints: Any = None) -> list[Told]:
        """The results that ``tell(candidate, value, constraints=constraints)`` means: usable, or an error.

        Raises:
            TellError: naming the argument, what came, and what was due.
        """
        goals, policy = self._goals, self._policy
        if isinstance(candidate, Candidate):
            told = self._result(candidate, goals.read(policy, value, constraints))
            return [] if told is None else [told]
        if isinstance(candidate, list | tuple) and (not candidate or isinstance(candidate[0], Candidate)):
            return self._results(candidate, goals.read_many(policy, value, constraints, len(candidate)))
        try:
            row = self._space.encode(candidate)
        except SpaceError as error:
            due = "one from ask(), a list of those, or a point of the space"
            raise TellError(f"candidate must be {due}: {error}") from None
        number, status, vector = goals.read(policy, value, constraints)
        rung = self._search.rungs.values.shape[1] - 1
        return [Told(INJECTED, self._search.injected, row, number, status, vector=vector, rung=rung)]

    def admit_failure(self, candidate: Any, reason: Any, status: Any) -> list[Told]:
        """The result that ``fail(candidate, reason, status=status)`` means: usable, or an error.

        Raises:
            TellError: naming the argument, what came, and what was due.
        """
        if not isinstance(candidate, Candidate):
            raise TellError(f"candidate must be one from ask(); got {show(candidate)}")
        if not isinstance(reason, str):
            raise TellError(f"reason must be a string; got {show(reason)}")
        if status not in ("failed", "timeout", "crashed"):
            raise TellError(f"status must be failed, timeout or crashed; got {show(status)}")
        told = self._result(candidate, self._goals.failure(status))
        return [] if told is None else [told]

    def own(self, candidates: Any) -> list[tuple[int, int]]:
        """The ids of candidates, told or not; TellError unless all are of this run."""
        if not isinstance(candidates, Iterable):
            raise TellError(f"candidates must be a list of those from ask(); got {show(candidates)}")
        ids = []
        for i, candidate in enumerate(candidates):
            if not isinstance(candidate, Candidate) or candidate._owner != self._owner:
                raise TellError(f"candidates[{i}] must be one that this optimizer asked for; got {show(candidate)}")
            ids.append(candidate.id)
        return ids

    def _results(self, candidates: Sequence[Any], numbers: list[Numbers]) -> list[Told]:
        told: dict[tuple[int, int], Told] = {}
        for i, (candidate, own) in enumerate(zip(candidates, numbers, strict=True)):
            if not isinstance(candidate, Candidate):
                raise TellError(f"candidate[{i}] must be one from ask() like candidate[0]; got {show(candidate)}")
            usable = self._result(candidate, own, i)
            if candidate.id in told:
                if self._policy.if_told == "raise":
                    raise DuplicateTell(f"candidate[{i}] must not be in the list twice; {candidate.id} is")
            elif usable is not None:
                told[candidate.id] = usable
        return list(told.values())

    def _result(self, candidate: Candidate, numbers: Numbers, i: int | None = None) -> Told | None:
        """The result of a candidate, the ``i``-th of a list; None if it is to be ignored."""
        search, id = self._search, candidate.id
        value, status, vector = numbers
        generation, member = id
        is_open = generation == search.generation
        if candidate._owner == self._owner:
            if id in self.waiting:
                late = not is_open
                return Told(generation, member, candidate._row, value, status, late, candidate, vector, candidate._rung)
            # Asked before a resume, and not again since:
            if is_open and member not in search.results:
                rung = search.first_rung(member)
                return Told(generation, member, search.row(member), value, status, False, candidate, vector, rung)
            if search.rungs.is_open(generation, member):
                row, rung = search.rungs.rows[member], INJECTED - generation
                return Told(generation, member, row, value, status, True, candidate, vector, rung)
            if search.finals.is_open(generation, member):
                return Told(generation, member, search.finals.rows[member], value, status, True, candidate, vector)
        at = "" if i is None else f"[{i}]"
        if candidate._owner != self._owner:
            raise UnknownCandidate(
                f"candidate{at} must be one that this optimizer asked for; got {id} of another one (generation "
                f"{search.generation} is open here)"
            )
        if is_open or candidate.status != "asked":
            if self._policy.if_told == "ignore":
                return None
            raise DuplicateTell(f'candidate{at} must not have a result; {id} has one (if_told="ignore" would skip it)')
        raise UnknownCandidate(
            f"candidate{at} must be one that is waited for; got {id}, which was told, or whose generation had closed "
            f"before a resume (generation {search.generation} is open)"
        )
