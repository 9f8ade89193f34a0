"""The stateful shell around a strategy: asks in native values, tells in any order, durable if journaled."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np

from blackbox.box import Box
from blackbox.errors import BudgetExhausted, JournalError, SettingError
from blackbox.journal import Durability, Journal
from blackbox.shell.candidate import Candidate
from blackbox.shell.finals import Beginning, ending, reserve
from blackbox.shell.gate import Gate
from blackbox.shell.interrupts import uninterrupted
from blackbox.shell.record import FINALS, beginnings, replay, to_event
from blackbox.shell.restarts import Schedule
from blackbox.shell.rungs import INJECTED, Fidelity
from blackbox.shell.search import Closing, Search
from blackbox.shell.settings import Direction, Settings, fingerprint, positive_integer
from blackbox.shell.told import Policy, Told, read_value
from blackbox.shell.warm_start import earlier_results
from blackbox.space import Space

__all__ = ["Candidate", "Optimizer"]

CHECKPOINT_GENERATIONS = 200
CHECKPOINT_SECONDS = 2.0  # spent in the strategy since the last checkpoint, which a resume would spend again


class Optimizer:
    """Asks for points to evaluate and is told their values.

    ::

        optimizer = Optimizer({"x": Float(-5, 5)}, seed=0, budget=100)
        while optimizer.left:
            candidate = optimizer.ask()
            optimizer.tell(candidate, (candidate.x["x"] - 1) ** 2)
        optimizer.best.x

    Any number of candidates may be out at once, and their results may come back in any order, in batches, late or
    never, from any thread. The course depends on the settings and on what is told, in order, alone.

    Args:
        space: a Space, a Box, or a dictionary from name to variable.
        method: a name (see ``blackbox.methods()``); two that take turns, such as "quadratic+cma-es" (see
            :mod:`blackbox.shell.turns`); "auto" (see :func:`blackbox.shell.auto.choose_method`); or a strategy,
            whose ``sigma0`` then is in units of the unit cube.
        seed: integer from 0 to 2**64 - 1; None draws one, kept as ``seed``.
        budget: evaluations in all, told from outside included; None is unlimited. With ``fidelity`` in full ones: an
            evaluation counts by its share of ``fidelity.most``, one that continues another like one from scratch.
        direction: "minimize" or "maximize"; of several objectives, a sequence with one for each, or one for all.
        journal: a new file for all settings and results; see :meth:`resume`.
        durability: what told results in the journal survive: the death of the "process" at any moment, or, waiting
            for the disk at each tell (some 10 ms), also the loss of "power".
        x0: start point in native values; by default the center of the space.
        restarts: "same", "ipop", "bipop" (see :mod:`blackbox.shell.restarts`) or "none"; None chooses by the method.
        nonfinite: what NaN and infinity told as values do: "fail" (rank last) or "raise" (NonFinite).
        allow_neg_inf: whether a value may be infinitely good; it would be the best for ever.
        if_told: what a second result for a candidate does: "raise" (DuplicateTell) or "ignore".
        parallel: how many evaluations there will be at once, by which "auto" chooses; any number may be asked for.
        constraints: how many inequality constraints are told with each value; see :meth:`tell`.
        objectives: how many values a result has; more than one give :attr:`pareto` in place of :attr:`best`.
        fidelity: evaluations may cost less than a full one; each candidate then has a ``budget``. See
            :mod:`blackbox.shell.rungs`.
        noise: whether values of the same point differ from one evaluation to the next. Then the last tenth of the
            budget evaluates the most promising points again; see :mod:`blackbox.shell.finals`.
        warm_start: the journal of an earlier run, or several, of the same objective: what they tell of points of this
            space is told first, as points from outside that do not count against ``budget``. What does not fit is
            left out with a warning. The journal of this run has them, too.
        **hyperparameters: the method's own, such as ``popsize``; ``sigma0`` (default 0.2) is in units of the unit
            cube that the space is mapped to.

    Raises:
        SettingError: an argument outside its range, or an unknown method or hyperparameter.
        SpaceError: ``space`` is none, or ``x0`` not in it.
        JournalError: ``journal`` holds a run already, or cannot be made.

    Attributes:
        space, method, seed, direction: as in use.
        settings: everything that the course depends on but the results.
    """

    def __init__(
        self,
        space: Space | Box | Mapping[str, Any],
        method: Any = "auto",
        *,
        seed: int | None = None,
        budget: int | None = None,
        direction: Direction | Sequence[Direction] = "minimize",
        journal: str | os.PathLike[str] | None = None,
        durability: Durability = "process",
        x0: Any = None,
        restarts: Schedule | None = None,
        nonfinite: Literal["fail", "raise"] = "fail",
        allow_neg_inf: bool = False,
        if_told: Literal["raise", "ignore"] = "raise",
        parallel: float = 1,
        constraints: int = 0,
        objectives: int = 1,
        fidelity: Fidelity | None = None,
        noise: bool = False,
        warm_start: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        **hyperparameters: Any,
    ) -> None:
        policy = Policy(1, nonfinite, allow_neg_inf, if_told)
        settings = Settings.check(
            space, method, seed, budget, direction, x0, restarts, policy, hyperparameters, parallel, constraints,
            objectives, fidelity, noise,
        )  # fmt: skip
        settings, earlier = earlier_results(settings, warm_start, is_x0_given=x0 is not None)
        search = Search(settings.plan())
        opened = None
        if journal is not None:
            opened = Journal.create(journal, settings.to_json(), durability=durability)
        elif durability != "process":
            raise SettingError(f'durability must be "process" without a journal; got {durability!r}')
        self._set_up(settings, search, opened)
        self._record(earlier)

    def _set_up(self, settings: Settings, search: Search, journal: Journal | None) -> None:
        self.settings = settings
        self.space, self.method, self.seed = settings.space, settings.method, settings.seed
        self.direction = settings.direction
        self._budget = settings.budget
        self._gate = Gate(settings.space, settings.policy, settings.goals, settings.owner, search)
        self._search = search
        self._journal = journal
        self._lock = threading.RLock()
        self._member = 0  # the next one of the open generation to be asked
        self._points: list[list[Any]] = []  # native values of the open generation's pages
        self._best: Candidate | None = None
        self._pareto: list[Candidate] | None = None
        self._checkpointed = search.generation
        self._strategy_seconds = 0.0

    @classmethod
    def resume(cls, path: str | os.PathLike[str], *, steal: bool = False) -> Optimizer:
        """The optimizer of a journal, as it was after the last result that was told.

        Candidates that were asked and not told are simply asked again.

        Args:
            path: the journal's file.
            steal: take the run even if its writer seems to be alive.

        Raises:
            JournalError: the file is missing, damaged, or written by a living process.
        """
        journal = Journal.open(path, steal=steal)
        try:
            settings = Settings.from_json(journal.configuration)
            if (made := journal.configuration["fingerprint"]) != (now := fingerprint(settings.method)):
                warnings.warn(
                    f"{path} was written under {made} and is resumed under {now}: the run goes on, but not "
                    "necessarily bit for bit",
                    RuntimeWarning,
                    stacklevel=2,
                )
            search = replay(settings.plan(), journal)
            if search.evaluations < settings.warm:
                raise JournalError(f"{path} was cut short when the run began, before anything was asked; begin it anew")
            budget = journal.note("budget")
        except BaseException:
            journal.close()
            raise
        optimizer = cls.__new__(cls)
        optimizer._set_up(settings, search, journal)
        if budget is not None:
            optimizer._budget = budget["evaluations"]
        return optimizer

    @overload
    def ask(self) -> Candidate: ...
    @overload
    def ask(self, n: int) -> list[Candidate]: ...
    def ask(self, n: int | None = None) -> Candidate | list[Candidate]:
        """The next candidate, or a list of the next ``n``.

        Beyond the members of the open generation these are further samples of the same distribution. With a fidelity,
        those that go on with earlier ones come first. Under noise the last ones of the budget are repeats.

        Raises:
            SettingError: ``n`` is no integer >= 1.
            BudgetExhausted: more than :attr:`left`, with a fidelity the last one may cost more than that; or the
                budget of the method's language model is spent.
            ProviderError: the method's language model does not answer.
        """
        count = 1 if n is None else positive_integer("n", n)
        with self._lock:
            waiting = self._gate.waiting
            if self.settings.fidelity is None and count > self.left:
                limit = f"with a budget of {self._budget}"
                if self.in_finals:
                    limit = f"in finals that end with {self._end_of_finals} evaluations"
                raise BudgetExhausted(
                    f"n must be at most {self.left} {limit}, of which {self.evaluations} are told "
                    f"and {len(waiting)} waited for; got {count}"
                )
            candidates = [self._promoted(id) for id in self._search.promotions(waiting)[:count]]
            repeats = int(max(0, count - self._left_to_search)) if self._can_repeat else 0
            new = list(itertools.islice(self._candidates(), count - len(candidates) - repeats))
            candidates += new + self._repeats(repeats)
            if self.settings.fidelity is not None and self.left <= sum(map(self._cost, candidates[:-1])):
                raise BudgetExhausted(
                    f"n must be less than {count}: a budget of {self._budget} full evaluations has {self.left:g} left, "
                    f"and as many candidates take {sum(map(self._cost, candidates)):g}"
                )
            waiting.update((candidate.id, candidate) for candidate in candidates)
            if new:
                self._member = new[-1].id[1] + 1
        return candidates[0] if n is None else candidates

    def promote(self, candidate: Candidate) -> Candidate | None:
        """With a fidelity: the candidate that goes on with one just told, if it is among the best so far; else None.

        For an evaluation that reports step by step and may be stopped early::

            while candidate is not None:
                optimizer.tell(candidate, train(model, until=candidate.budget))
                candidate = optimizer.promote(candidate)

        Raises:
            TellError: ``candidate`` is not from this optimizer.
        """
        with self._lock:
            self._gate.own([candidate])
            waiting = self._gate.waiting
            for id in self._search.promotions(waiting) if self.left > 0 else ():
                if self._search.rungs.before(*id) == candidate.id:
                    waiting[id] = self._promoted(id)
                    return waiting[id]
        return None

    def _promoted(self, id: tuple[int, int]) -> Candidate:
        """The candidate of a promotion."""
        row = self._search.rungs.rows[id[1]]
        return self._allotted(Candidate(id, self.space.decode(row), row, self.settings.owner), INJECTED - id[0])

    @property
    def _left_to_search(self) -> float:
        """Candidates that may still be asked for before the finals."""
        if self.in_finals:
            return 0
        kept = reserve(self._budget) if self.settings.noise and self._budget is not None else 0
        return max(0, self.left - kept)

    @property
    def _can_repeat(self) -> bool:
        """Whether there is a point to evaluate again."""
        return self.settings.noise and len(self._search.finals.leaders.values) > 0

    def _repeats(self, count: int) -> list[Candidate]:
        """The next candidates of the finals, which begin if they have not."""
        if not count:
            return []
        search = self._search
        if not self.in_finals:
            self._begin_finals(int(self._budget or 0), int(self.left - self._left_to_search))
        repeats = []
        for id in itertools.islice(search.finals.due(self._gate.waiting), count):
            row = search.finals.rows[id[1]]
            repeats.append(Candidate(id, self.space.decode(row), row, self.settings.owner))
            repeats[-1].repeats = search.finals.origin(*id)
        return repeats

    def _allotted(self, candidate: Candidate, rung: int) -> Candidate:
        """The candidate with its budget, where there are several."""
        fidelity = self.settings.fidelity
        if fidelity is None:
            return candidate
        return candidate.allot(rung, fidelity.budgets, self._search.rungs.before(*candidate.id))

    def _cost(self, candidate: Candidate) -> float:
        """In full evaluations."""
        fidelity = self.settings.fidelity
        return 1.0 if fidelity is None or candidate.budget is None else candidate.budget / fidelity.most

    def _candidates(self) -> Iterator[Candidate]:
        """The members of the open generation that are neither told nor waited for, without end."""
        search, waiting, owner = self._search, self._gate.waiting, self.settings.owner
        search.page(0)  # raises if the method's language model gives none
        generation, popsize, results = search.generation, search.popsize, search.results
        for page in itertools.count(self._member // popsize):
            rows = search.page(page)
            if page == len(self._points):
                self._points.append(self.space.decode_many(rows))
            points, first = self._points[page], page * popsize
            for slot in range(max(0, self._member - first), popsize):
                id = (generation, first + slot)
                if id not in waiting and id[1] not in results:
                    candidate = Candidate(id, points[slot], rows[slot], owner)
                    yield self._allotted(candidate, search.first_rung(id[1]))

    @property
    def in_finals(self) -> bool:
        """Whether, under noise, finals have begun that are not over."""
        return self.settings.noise and self.spent < self._end_of_finals

    @property
    def ends_early(self) -> bool:
        """Whether they end before the budget does, as those of :meth:`begin_finals`."""
        return self.in_finals and (self._budget is None or self._end_of_finals < self._budget)

    @property
    def _end_of_finals(self) -> int:
        return int(self._search.finals.beginning[1])

    def begin_finals(self) -> None:
        """Under noise: begin the finals now, with as many evaluations as if the budget ended with them, at most all.

        Meanwhile :attr:`left` counts these alone; afterwards the search goes on, if it is asked to.

        Raises:
            SettingError: the optimizer was made without ``noise=True``, or no result has a value.
        """
        if not self.settings.noise:
            raise SettingError("noise must be True for finals; got False")
        with self._lock:
            if not self._can_repeat:
                raise SettingError("finals need a result that has a value; there is none yet")
            searched = int(self.spent) + len(self._gate.waiting)
            end = int(min(ending(searched), math.inf if self._budget is None else self._budget))
            if not self.in_finals and end > searched:
                self._begin_finals(end, end - searched)

    def _begin_finals(self, end: int, total: int) -> None:
        search, journal = self._search, self._journal
        beginning = Beginning(search.evaluations, end, total)
        finals = search.finals_begun(beginning)
        with uninterrupted():
            if journal is not None:
                journal.set_note(FINALS, [*beginnings(search.plan, journal), beginning])
            search.finals, self._best = finals, None

    def forget(self, candidates: Iterable[Candidate]) -> None:
        """No longer wait for candidates that nobody will evaluate: they are left again, and may be asked for again.

        Raises:
            TellError: one of ``candidates`` is not from this optimizer.
        """
        with self._lock:
            for generation, member in self._gate.own(candidates):
                known = self._gate.waiting.pop((generation, member), None)
                if known is not None and generation == self._search.generation:
                    self._member = min(self._member, member)

    def tell(self, candidate: Any, value: Any, *, constraints: Any = None, seconds: float | None = None) -> None:
        """Take in the value of a candidate, the values of a list of candidates, or that of a point from outside.

        All is checked first, then journaled in one transaction, then used. After an error all is as before.

        Args:
            candidate: from :meth:`ask`; a list of those; or a point in native values that was not asked for.
            value: a real number or an array of one from any library; None or NaN for a failed evaluation; plus
                infinity (minus, if maximizing) for an infeasible point. With several objectives a sequence of these.
                For a list of candidates: a sequence of as many.
            constraints: for an optimizer that was made with ``constraints=m``, a sequence of m numbers, of which those
                <= 0 are kept; NaN where one could not be computed, which counts as not kept; None if the evaluation
                failed. For a list of candidates: a sequence of such sequences, or an array.
            seconds: how long the evaluation took, for the journal.

        Raises:
            TellError: anything else (UnknownCandidate, DuplicateTell and NonFinite among them).
            JournalError: the result could not be written; tell it again.
        """
        if seconds is not None:
            seconds = read_value("seconds", seconds)
        with self._lock:
            self._record(self._gate.admit(candidate, value, constraints), seconds)

    def fail(
        self,
        candidate: Candidate,
        reason: str = "",
        *,
        status: Literal["failed", "timeout", "crashed"] = "failed",
        seconds: float | None = None,
    ) -> None:
        """Take in that the evaluation of a candidate has failed; it ranks last.

        Raises:
            TellError: ``candidate`` is not one that is waited for, or another argument is malformed.
        """
        if seconds is not None:
            seconds = read_value("seconds", seconds)
        with self._lock:
            self._record(self._gate.admit_failure(candidate, reason, status), seconds, reason)

    def _record(self, told: Sequence[Told], seconds: float | None = None, reason: str = "") -> None:
        """Journal and use checked results. What may go wrong comes first, so that an error leaves all as it was."""
        if not told:
            return
        search, start = self._search, time.perf_counter()
        closing = search.prepare(told)
        self._strategy_seconds += time.perf_counter() - start
        popsize = search.popsize
        if self._journal is None:
            self._take_in(told, closing)
        else:
            has_rungs = self.settings.fidelity is not None
            events = [to_event(t, search.generation, seconds, reason, has_rungs) for t in told]
            with uninterrupted():  # or the journal would hold results that are not known here
                self._journal.append(events)
                self._take_in(told, closing)
        if closing is not None:
            self._save_checkpoint()
            if closing.barren[0] and (popsize > 1 or search.stopped):
                text = search.stopped or f"generation {search.generation - 1} has no finite value and teaches nothing"
                warnings.warn(text, RuntimeWarning, stacklevel=4)

    def _take_in(self, told: Sequence[Told], closing: Closing | None) -> None:
        search, waiting = self._search, self._gate.waiting
        best, front, repeats = search.best, search.front, search.finals.repeats
        search.commit(told, closing)
        if search.best is not best or search.finals.repeats is not repeats:
            self._best = None
        if search.front is not front:
            self._pareto = None
        for t in told:
            if t.candidate is not None:
                t.candidate.take(t.value, t.status, t.vector, self.settings.objectives)
                waiting.pop(t.candidate.id, None)
        if closing is not None:
            self._member, self._points = 0, []

    def _save_checkpoint(self) -> None:
        due = self._search.generation - self._checkpointed >= CHECKPOINT_GENERATIONS
        if self._journal is not None and (due or self._strategy_seconds >= CHECKPOINT_SECONDS):
            self._checkpointed, self._strategy_seconds = self._search.generation, 0.0
            try:
                self._journal.save_checkpoint(self._search.evaluations, *self._search.snapshot())
            except JournalError as error:  # the results are safe; a resume will only take longer
                warnings.warn(f"a checkpoint could not be saved: {error}", RuntimeWarning, stacklevel=5)

    @property
    def best(self) -> Candidate | None:
        """The best result so far, as a candidate with ``x`` and ``value``; None before any.

        With constraints: the best that keeps them all. With several objectives None: there is none, but a front.
        With a fidelity: the best of those of the largest budget so far. Under noise the finalist of the best mean,
        with this mean as its value, its ``standard_error``, and ``n_evaluations`` of which it is the mean: those after
        all by which it was chosen, so that it is neither too good nor too bad on average. Until then, and without a
        budget, the best single value, which is mostly better than the point really is.
        """
        with self._lock:
            if self._best is None and (winner := self._search.finals.winner()) is not None:
                first, again = winner.id.tolist()
                self._best = Candidate((first, again), self.space.decode(winner.row), winner.row, self.settings.owner)
                self._best.take(self.settings.policy.sign * winner.mean, "ok", None, 1)
                self._best.n_evaluations, self._best.standard_error = len(winner.values), winner.standard_error
            (rung, value, id), row, vector = self._search.best
            if self._best is None and row is not None:
                candidate = Candidate(id, self.space.decode(row), row, self.settings.owner)
                self._best = self._allotted(candidate, -rung)
                self._best.take(self.settings.policy.sign * value, "ok", vector, 1)
            return self._best

    @property
    def pareto(self) -> list[Candidate]:
        """The results that no other one dominates and that keep all constraints, by their first value, best first.

        One dominates another if it is no worse in any objective and better in one; of equal ones the first told is
        here. With one objective, :attr:`best` alone.
        """
        with self._lock:
            if self.settings.objectives == 1:
                return [] if self.best is None else [self.best]
            if self._pareto is None:
                front, self._pareto = self._search.front, []
                for i in np.lexsort(front.values.T[::-1]).tolist():
                    row, id = front.rows[i], front.ids[i].tolist()
                    candidate = Candidate((id[0], id[1]), self.space.decode(row), row, self.settings.owner)
                    candidate.take(math.nan, "ok", front.vectors[i], self.settings.objectives)
                    self._pareto.append(candidate)
            return list(self._pareto)

    def recommend(self) -> Any:
        """The point that the method itself would return, in native values: for many methods not one that was
        evaluated, and under noise a better choice than :attr:`best`.

        With constraints it is :attr:`best`, as soon as a point that keeps them all is known: of others nobody knows.
        With several objectives, a compromise. With a fidelity, and in and after finals, it is :attr:`best`, too.
        """
        with self._lock:
            has_finals = len(self._search.finals.values) > 0
            if (self.settings.constraints or self.settings.fidelity or has_finals) and self.best is not None:
                return self.best.x
            lane = self._search.lane
            return self.space.decode(lane.strategy.recommend(lane.state))

    @property
    def budget(self) -> int | None:
        """Evaluations in all; None is unlimited. May be set."""
        return self._budget

    @budget.setter
    def budget(self, budget: int | None) -> None:
        budget = None if budget is None else positive_integer("budget", budget)
        with self._lock:
            self.keep("budget", {"evaluations": budget})
            self._budget = budget

    @property
    def left(self) -> float:
        """Candidates that may still be asked for: the budget less what is told and what is waited for.

        With a fidelity in full evaluations, and no integer; as long as it is above 0 there is one more.
        """
        budget = math.inf if self._budget is None else self._budget
        if self.in_finals:
            budget = min(budget, self._end_of_finals)
        waiting = self._gate.waiting
        awaited = len(waiting) if self.settings.fidelity is None else sum(map(self._cost, waiting.values()))
        return max(0, round(budget - self._search.spent - awaited, 9))  # fractions do not quite add up

    @property
    def spent(self) -> float:
        """What is told of the budget: without the results of a warm start, and with a fidelity in full evaluations."""
        return self._search.spent

    @property
    def left_in_generation(self) -> int:
        """Members of the open generation that have not been asked for; beyond them candidates get stale.

        In finals, repeats of the open stage.
        """
        left = max(0, self._search.popsize - self._member)
        if not self.settings.noise:
            return left
        if self.in_finals:
            return int(min(self.left, self._search.finals.due_now(self._gate.waiting)))
        if self._left_to_search == 0 and self._can_repeat:  # the finals begin when all is told
            return 0 if self._gate.waiting else 1
        return int(min(left, self._left_to_search))

    @property
    def evaluations(self) -> int:
        """Results told, failed ones and points from outside included."""
        return self._search.evaluations

    @property
    def failures(self) -> int:
        """Results told without a value."""
        return self._search.failures

    @property
    def generation(self) -> int:
        """Number of the open generation, restarts included."""
        return self._search.generation

    @property
    def durability(self) -> str | None:
        """What told results survive; None without a journal."""
        return None if self._journal is None else self._journal.durability

    @property
    def popsize(self) -> int:
        """Candidates in the open generation."""
        return self._search.popsize

    @property
    def n_restarts(self) -> int:
        """Restarts so far."""
        return self._search.restarts

    @property
    def stopped(self) -> str | None:
        """Why going on makes little sense: everything fails, or the method has converged and does not restart.

        None otherwise. Asking and telling still work.
        """
        return self._search.stopped

    def explain(self) -> str:
        """What is in use and why, in a few sentences."""
        settings, search = self.settings, self._search
        why = f" ({settings.reason})" if settings.reason else ""
        budget = "no limit" if self._budget is None else f"{self._budget}"
        schedules = ", ".join(member.schedule for member in search.plan.members)
        turns = ""
        if len(search.lanes) > 1:
            name = search.plan.members[search.turn].name
            shares = " and ".join(str(lane.total if lane else 0) for lane in search.lanes)
            turns = f"; it is the turn of {name}, after {shares} evaluations of the two"
        finals = ""
        if 0 < self.spent <= self._end_of_finals:
            after, _, total = search.finals.beginning.tolist()
            finals = f", finals of {total} evaluations since {after}, among {search.finals.n_finalists} points"
        elif settings.noise and self._budget is not None:
            finals = f", the last {reserve(self._budget)} evaluations will be finals"
        return (
            f"{self.method}{why}{turns}; {self.space.dimension} coordinates; {search.popsize} candidates a generation; "
            f"restarts: {schedules}; budget: {budget}{finals}; seed: {self.seed}"
        )

    def keep(self, name: str, fact: Any) -> None:
        """Keep a small JSON fact beside the results in the journal, if there is one; a later one of that name wins.

        Raises:
            JournalError: it is no JSON, or could not be written.
        """
        with self._lock:
            if self._journal is not None:
                self._journal.set_note(name, fact)

    def close(self) -> None:
        """Close the journal; what was found stays readable."""
        with self._lock:
            if self._journal is not None:
                self._journal.close()

    def __enter__(self) -> Optimizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
