"""The course of an optimization as a function of its plan and of the told results, in order.

No clock, no lock, no file, no user's types: :class:`blackbox.optimizer.Optimizer` adds those. All that matters is
how generations close:

* A generation closes when ``popsize`` results of it are in; for a ``positional`` strategy, when there is one of each
  slot (member modulo popsize), since all members of a slot are samples for the same place. Results that are told
  together enter together, before this is looked at.
* A positional strategy of one candidate a generation is sequential: it waits for member 0, the point that is due, for
  which no other can stand in. Only if 32 results have come for each that is missing, it is taken for lost, and the
  next best will do.
* Results are told to the strategy sorted by member, those of further members that are in by then included; for a
  positional strategy, exactly the lowest member of each slot.
* Points from outside follow as further rows if the strategy is ``injectable``, and results of closed generations if it
  is not positional, too, sorted. What is not told still counts for the best.
* A generation without a finite result leaves the state as it is but for the generation counter, so that other
  points are asked next. Positional strategies and single candidates are told even then: old points stay.
* Where evaluations have several budgets, each configuration counts with one number, made from its last result (see
  :meth:`blackbox.shell.rungs.Rungs.scores`); a strategy that can ``revise`` what it was told, is given the present
  numbers of all former ones first. Promotions belong to no generation.
* Under noise, results of finals (:mod:`blackbox.shell.finals`) belong to no generation, and no method hears of them.
* Results of an earlier run, told before all others, close a first generation of their own for strategies that model
  values; for others they are points from outside.
* After each tell the strategy's reasons to stop are looked at, and the next run starts by the restart schedule, of
  the method whose turn it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.errors import BudgetExhausted, ProviderError
from blackbox.pareto import Front
from blackbox.shell.constraints import AugmentedLagrangian, FeasibleFirst
from blackbox.shell.finals import Beginning, Finals
from blackbox.shell.goals import Goals
from blackbox.shell.restarts import Run, Schedule, next_run, run_key, start_point
from blackbox.shell.rungs import INJECTED, Fidelity, Rungs
from blackbox.shell.states import flatten, unflatten
from blackbox.shell.told import Told
from blackbox.shell.turns import Lane, lane_key, next_turn

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32

    Row = Float[np.ndarray, "d"]

PATIENCE = 32  # results for each missing one after which a sequential strategy takes the due one for lost
MAX_BARREN = 3  # generations in a row without any finite result
MIN_BARREN = 20  # evaluations in them, so that methods of few candidates a generation are not given up at once


class Member(NamedTuple):
    """A method of an optimization."""

    name: str
    strategy: Any
    schedule: Schedule
    horizon: int | None = None
    """Evaluations to be left at each start, for one that plans its whole run by them."""
    ranking: AugmentedLagrangian | FeasibleFirst | None = None
    """What makes one number of a value and its constraints; of several, one of each."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an optimization starts with."""

    members: tuple[Member, ...]
    """One method, or two that take turns."""
    key: UInt32[np.ndarray, "2"]
    x0: Row
    goals: Goals
    fidelity: Fidelity | None = None
    warm: int = 0
    """Results of an earlier run that are told before all others."""
    noise: bool = False
    """Whether values of the same point differ."""
    settle: Callable[[Row], Row] = lambda row: row
    """The one row of all those of the same point of the space."""

    def begin(self, number: int, run: Run, evaluations: int, best: Row | None = None) -> Lane:
        """The start of a member's run after ``evaluations``, when ``best`` is the best point.

        Args:
            number: of the member.
            run: its run.
            evaluations: of all members.
            best: where another member than the first begins.
        """
        member, changes = self.members[number], dict[str, Any]()
        strategy = member.strategy
        if run.popsize is not None:
            changes["popsize"] = run.popsize
        if run.sigma_factor != 1.0:
            changes["sigma0"] = strategy.sigma0 * run.sigma_factor
        if run.number and member.horizon is not None:
            changes["evaluations"] = max(1, member.horizon - evaluations)
        strategy = dataclasses.replace(strategy, **changes) if changes else strategy
        key, start = lane_key(self.key, number), self.x0
        if run.number:
            start = start_point(key, run.number, len(self.x0))
        elif number and best is not None:
            start = best
        ranking = None if member.ranking is None else member.ranking.begin()
        return Lane(strategy, strategy.init(run_key(key, run.number), start), ranking, run, started=evaluations)


class Closing(NamedTuple):
    """What changes when a generation closes."""

    turn: int
    lanes: tuple[Lane | None, ...]
    population: Float[np.ndarray, "popsize d"] | None
    """The first members of the next generation; None if the method's language model gives none now."""
    is_elsewhere: bool
    """Whether the next generation is of another run or method."""
    barren: tuple[int, int]
    """Generations in a row without any finite result, and the evaluations in them."""
    stopped: str | None


class Best(NamedTuple):
    """The best result so far; of equal ones the first asked."""

    rank: tuple[int, float, tuple[int, int]] = (0, math.inf, (0, 0))
    """Rung, negative, then value, lower is better, then id."""
    row: Row | None = None
    vector: Any = None
    """All that was told, where it is more than one number."""


class Search:
    """A running optimization.

    Attributes:
        generation: number of the open generation, counted through all restarts.
        generation_since: number of the first one of this run and turn, whose late results may still join.
        turn: number of the method that has asked for the open generation.
        lanes: all methods at work, None before their first turn.
        results: of the open generation, from member to row and value (lower is better).
        front: the best results where there are several objectives.
        rungs: what was told at which budget, where there are several.
        finals: the best results and those of finals, under noise.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.generation = self.generation_since = 0
        self.evaluations = self.failures = self.injected = 0
        self.barren = (0, 0)
        self.best = Best()
        self.front = Front.empty(plan.goals.objectives, len(plan.x0), plan.goals.width)
        self.rungs = Rungs.empty(len(plan.x0), 1 if plan.fidelity is None else len(plan.fidelity.budgets))
        self.finals = Finals.empty(len(plan.x0))
        self.told_on = [0] * self.rungs.values.shape[1]  # results on each rung but for those of an earlier run
        self.stopped: str | None = None
        lane = plan.begin(0, Run(), 0)
        population = lane.strategy.ask(lane.state)
        self._open(0, (lane, *[None] * (len(plan.members) - 1)), population)

    def _open(
        self, turn: int, lanes: tuple[Lane | None, ...], population: Float[np.ndarray, "popsize d"] | None
    ) -> None:
        self.turn, self.lanes = turn, lanes
        strategy = self.lane.strategy
        self._positional: bool = getattr(strategy, "positional", False)
        self._injectable: bool = getattr(strategy, "injectable", False)
        self.results: dict[int, tuple[Row, float]] = {}
        self.outside: dict[tuple[int, int], tuple[Row, float]] = {}
        self._pages: list[list[Row]] = []
        if population is not None:
            self._begin(population)
        self._used = 0  # evaluations told since the generation was opened, and
        self._lowest = math.inf  # the least value among those of this run
        self._begun = len(self.rungs.rows)  # configurations before it

    def _begin(self, population: Float[np.ndarray, "popsize d"]) -> None:
        """Let the open generation have its first members, without which it has no results and cannot close."""
        self.population, self.popsize = population, len(population)
        self._pages = [list(population)]
        sized = _sized(self.lane, population)
        self.lanes = tuple(sized if turn == self.turn else lane for turn, lane in enumerate(self.lanes))

    @property
    def lane(self) -> Lane:
        """The method whose turn it is."""
        lane = self.lanes[self.turn]
        assert lane is not None
        return lane

    @property
    def restarts(self) -> int:
        """Runs that have ended."""
        return sum(lane.run.number for lane in self.lanes if lane is not None)

    def page(self, number: int) -> list[Row]:
        """The vectors of popsize members of the open generation, from ``number * popsize`` on.

        Raises:
            BudgetExhausted, ProviderError: the method's language model gives none.
        """
        if not self._pages:
            self._begin(self.lane.strategy.ask(self.lane.state))
        while number >= len(self._pages):
            self._pages.append(list(self.lane.strategy.ask(self.lane.state, first=len(self._pages) * self.popsize)))
        return self._pages[number]

    def row(self, member: int) -> Row:
        """The vector of a member of the open generation."""
        self.page(0)  # from which on popsize is that of the open generation
        page, slot = divmod(member, self.popsize)
        return self.page(page)[slot]

    def first_rung(self, member: int) -> int:
        """The number of the budget with which a member of the open generation begins."""
        return 0 if self.plan.fidelity is None else self.plan.fidelity.start(self._begun + member)

    def promotions(self, waiting: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
        """Ids of the candidates that go on with earlier ones and are due, but for those that are waited for."""
        return [] if self.plan.fidelity is None else self.rungs.promotions(self.plan.fidelity.factor, waiting)

    def finals_begun(self, beginning: Beginning) -> Finals:
        """The finals when the most promising points known are finalists."""
        recommended = self.lane.strategy.recommend(self.lane.state)
        return self.finals.begin(beginning, self.plan.settle(recommended))

    def is_complete(self, members: Collection[int], together: int = 0) -> bool:
        """Whether the open generation closes once these members, without results so far, have some.

        Args:
            members: of the open generation.
            together: results that come at once, theirs included.
        """
        if together and self.evaluations + together == self.plan.warm:
            return self._injectable and getattr(self.lane.strategy, "needs_values", False)
        if (count := len(self.results) + len(members)) < self.popsize:
            return False
        if not self._positional:
            return True
        told = {*self.results, *members}
        if self.popsize > 1:
            return len({member % self.popsize for member in told}) == self.popsize
        return 0 in told or count > PATIENCE * (max(told) + 1 - count)

    def prepare(self, told: Sequence[Told]) -> Closing | None:
        """What these results will lead to if their generation closes by them; changes nothing."""
        if len(self.results) + len(told) < self.popsize and self.evaluations >= self.plan.warm:
            return None
        generation = self.generation
        if not self.is_complete([t.member for t in told if t.generation == generation], len(told)):
            return None
        results, outside = dict(self.results), dict(self.outside)
        for t in told:
            self._sort_in(t, results, outside)
        lane = self.lane._replace(used=self.lane.used + self._used + len(told))
        if self.plan.fidelity is not None:
            lane = lane._replace(state=self._scored(self.plan.fidelity, lane, told, results, outside))
        population, fitness = self._rows(results, outside)
        if len(self.lanes) > 1 and (self.turn == 0 or lane.run.number > 0):
            lowest = min(self._lowest, self._lowest_of(told), math.inf if lane.best is None else lane.best)
            lane = lane._replace(best=lowest if math.isfinite(lowest) else None)
        if (ranking := self.plan.members[self.turn].ranking) is not None:
            fitness, seen = ranking.rank(lane.ranking, fitness)
            lane = lane._replace(ranking=seen)
        if (fitness < math.inf).any():
            barren = (0, 0)
            lane = lane._replace(state=lane.strategy.tell(lane.state, population, fitness))
        else:
            barren = (self.barren[0] + 1, self.barren[1] + len(fitness))
            if self._positional or len(fitness) == 1 or "generation" not in getattr(lane.state, "_fields", ()):
                lane = lane._replace(state=lane.strategy.tell(lane.state, population, fitness))
            else:
                lane = lane._replace(state=lane.state._replace(generation=lane.state.generation + 1))
        stopped = self.stopped
        if barren[0] >= MAX_BARREN and barren[1] >= MIN_BARREN:
            stopped = f"{barren[0]} generations in a row ({barren[1]} evaluations) have no finite value"
        reasons = _reasons(lane)
        if reasons and self.plan.members[self.turn].schedule == "none":
            stopped = stopped or f"the method has nothing left to do: {reasons}"
            reasons = ""
        return self._next(lane, told, bool(reasons), barren, stopped)

    def _next(
        self, lane: Lane, told: Sequence[Told], has_ended: bool, barren: tuple[int, int], stopped: str | None
    ) -> Closing:
        """The closing of a generation after which ``lane`` is as given."""
        lanes, plan, evaluations = list(self.lanes), self.plan, self.evaluations + len(told)
        if has_ended:
            run = next_run(
                plan.members[self.turn].schedule, lane.run, lane.used, lane.popsize, lane_key(plan.key, self.turn)
            )
            begun = plan.begin(self.turn, run, evaluations)
            lane = begun._replace(popsize=lane.popsize, used_before=lane.total, best=lane.best)
        lanes[self.turn] = lane
        totals = [0 if other is None else other.total for other in lanes]
        first = lanes[0]
        has_converged = first is not None and first.run.number > 0
        bests = [None if other is None else other.best for other in lanes]
        turn = next_turn(self.turn, totals, bests, len(plan.x0), has_converged)
        due = lanes[turn] or plan.begin(turn, Run(), evaluations, self._best_with(told).row)
        lanes[turn] = due
        return Closing(turn, tuple(lanes), _asked(due), has_ended or turn != self.turn, barren, stopped)

    def _lowest_of(self, told: Sequence[Told]) -> float:
        """The least of these values that are of this run and turn; infinite where values do not say which is better."""
        plan = self.plan
        if plan.goals.width > 1 or plan.fidelity is not None or plan.noise:
            return math.inf
        own = (t for t in told if t.status == "ok" and t.generation >= self.generation_since)
        return min((plan.goals.signs[0] * t.value for t in own), default=math.inf)

    def _sort_in(self, t: Told, results: dict[int, Any], outside: dict[tuple[int, int], Any]) -> None:
        fitness = self.plan.goals.signed(t.value, t.vector)
        if t.generation == self.generation:
            results[t.member] = t.row, fitness
        elif self._injectable and (
            t.generation == INJECTED or (t.generation >= self.generation_since and not self._positional)
        ):
            outside[t.generation, t.member] = t.row, fitness

    def _rows(
        self, results: Mapping[int, tuple[Row, float]], outside: Mapping[tuple[int, int], tuple[Row, float]]
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n"]]:
        """Population and fitness to tell: a closed generation and what joins it, in a defined order."""
        members = sorted(results)
        if self._positional and results:
            slots = {member % self.popsize: member for member in reversed(members)}
            members = [slots[slot] for slot in range(self.popsize)]
        pairs = [results[member] for member in members] + [outside[id] for id in sorted(outside)]
        fitness = np.array([value for _, value in pairs])
        if members == list(range(self.popsize)) and not outside:  # exactly what was asked first
            return self.population, fitness
        return np.stack([row for row, _ in pairs]), fitness

    @property
    def spent(self) -> float:
        """Evaluations told but for those of an earlier run; with a fidelity, as many full ones as cost the same."""
        if self.plan.fidelity is None:
            return self.evaluations - self.plan.warm
        return float(np.dot(self.told_on, self.plan.fidelity.budgets) / self.plan.fidelity.most)

    def _scored(
        self,
        fidelity: Fidelity,
        lane: Lane,
        told: Sequence[Told],
        results: dict[int, Any],
        outside: dict[tuple[int, int], Any],
    ) -> Any:
        """The state of the strategy with the present scores of what it knows; writes those of others into the rest."""
        rungs = self._rungs_with(told)
        scores, places = rungs.scores(fidelity.factor), rungs.places()
        is_known = np.ones(len(rungs.rows), dtype=bool)
        for member, (row, _) in results.items():
            place = places[self.generation, member]
            results[member], is_known[place] = (row, float(scores[place])), False
        for id, (row, _) in list(outside.items()):
            if is_known[place := places[id]]:
                outside[id], is_known[place] = (row, float(scores[place])), False
            else:  # another result of the same point
                del outside[id]
        revise = getattr(lane.strategy, "revise", None)
        return lane.state if revise is None else revise(lane.state, rungs.rows[is_known], scores[is_known])

    def _rungs_with(self, told: Sequence[Told]) -> Rungs:
        rungs = self.rungs
        for t in told if self.plan.fidelity is not None else ():
            rungs = rungs.joined(t, self.plan.goals.signed(t.value, t.vector))
        return rungs

    def commit(self, told: Sequence[Told], closing: Closing | None) -> None:
        """Take in results and what :meth:`prepare` has made of them."""
        for position, t in enumerate(told, self.evaluations):
            if closing is None:
                self._sort_in(t, self.results, self.outside)
            if t.generation == INJECTED:
                self.injected += 1
            if position >= self.plan.warm:
                self.told_on[t.rung] += 1
            if self.plan.noise:
                self.finals = self.finals.joined(t, self.plan.goals.signed(t.value, t.vector), self.plan.settle)
            if t.status == "ok" and self.plan.goals.objectives > 1:
                values = self.plan.goals.signed(t.value, t.vector)[: self.plan.goals.objectives]
                self.front = self.front.joined(values, (t.generation, t.member), t.row, t.vector)
            elif t.status not in ("ok", "infeasible"):
                self.failures += 1
        self.best, self.rungs = self._best_with(told), self._rungs_with(told)
        self.evaluations += len(told)
        if closing is not None:
            self.generation += 1
            if closing.is_elsewhere:
                self.generation_since = self.generation
            self.barren, self.stopped = closing.barren, closing.stopped
            self._open(closing.turn, closing.lanes, closing.population)
        else:
            self._used += len(told)
            self._lowest = min(self._lowest, self._lowest_of(told))

    def _best_with(self, told: Sequence[Told]) -> Best:
        """The best result, with these."""
        best = self.best
        for t in told if self.plan.goals.objectives == 1 else ():
            if t.status == "ok" and not (self.plan.noise and t.generation < INJECTED):
                rank = -t.rung, self.plan.goals.signs[0] * t.value, (t.generation, t.member)
                if rank < best.rank:
                    best = Best(rank, t.row, t.vector)
        return best

    def snapshot(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All of it between two generations, as arrays and as JSON."""
        arrays: dict[str, np.ndarray] = {}
        for (name, ranking), lane in zip(_NAMES, self.lanes, strict=False):
            arrays |= flatten(lane.state, name) | flatten(lane.ranking, ranking) if lane is not None else {}
        if self.best.row is not None:
            arrays["best"] = self.best.row
            arrays["best.value"] = np.asarray(self.best.rank[1])
        if self.best.vector is not None:
            arrays["best.vector"] = self.best.vector
        if self.plan.goals.objectives > 1:
            arrays |= flatten(self.front, "front")
        if self.plan.fidelity is not None:
            arrays |= flatten(self.rungs, "rungs")
        if self.plan.noise:
            arrays |= flatten(self.finals, "finals")
        counters = {name: getattr(self, name) for name in _COUNTERS} | {"told_on": list(self.told_on)}
        lanes = [None if lane is None else lane.to_json() for lane in self.lanes]
        return arrays, {
            **counters, "barren": self.barren, "turn": self.turn, "lanes": lanes, "best": self.best.rank[2],
            "best_rung": -self.best.rank[0],
        }  # fmt: skip

    def restore(self, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
        """Go to the state of a snapshot.

        Raises:
            CheckpointError: the arrays are not this strategy's.
            KeyError, TypeError, ValueError: the manifest is not a snapshot's.
        """
        lanes: list[Lane | None] = []
        for number, (_, kept) in enumerate(zip(self.lanes, manifest["lanes"], strict=True)):
            if kept is None:
                lanes.append(None)
                continue
            counts = {**kept, "run": Run(**kept["run"])}
            fresh, (name, ranking) = self.plan.begin(number, counts["run"], counts["started"]), _NAMES[number]
            state, seen = unflatten(fresh.state, arrays, name), unflatten(fresh.ranking, arrays, ranking)
            lanes.append(fresh._replace(state=state, ranking=seen, **counts))
        turn = manifest["turn"]
        if (due := lanes[turn]) is None:
            raise ValueError(f"turn is of a method without a state: {turn}")
        for name in _COUNTERS:
            value = manifest[name]
            setattr(self, name, list(value) if isinstance(value, list) else value)
        self.barren = tuple(manifest["barren"])
        if "best" in arrays:
            rank = -manifest["best_rung"], float(arrays["best.value"]), tuple(manifest["best"])
            self.best = Best(rank, arrays["best"], arrays.get("best.vector"))
        if self.plan.goals.objectives > 1:
            self.front = Front(*(arrays[f"front.{name}"] for name in Front._fields))
        if self.plan.fidelity is not None:
            self.rungs = unflatten(self.rungs, arrays, "rungs")
        if self.plan.noise:
            self.finals = unflatten(self.finals, arrays, "finals")
        self._open(turn, tuple(lanes), _asked(due))


def _asked(lane: Lane) -> Float[np.ndarray, "popsize d"] | None:
    """The next members; None if there are none now, and whoever needs them is told so by :meth:`Search.page`.

    A generation must close by what is told alone, and no result may be lost by what a language model's budget or
    server does.
    """
    try:
        population: Float[np.ndarray, "popsize d"] = lane.strategy.ask(lane.state)
    except (BudgetExhausted, ProviderError):
        return None
    return population


def _sized(lane: Lane, population: Float[np.ndarray, "popsize d"]) -> Lane:
    """A lane that knows the population size of its very first run, which restart schedules go by."""
    if lane.popsize:
        return lane
    size = getattr(lane.strategy, "population_size", None)  # of those who ask for a part of it at a time
    return lane._replace(popsize=len(population) if size is None else int(size(population.shape[1])))


def _reasons(lane: Lane) -> str:
    """Why a run is to end; empty if it goes on."""
    if lane.run.limit is not None and lane.used >= lane.run.limit:
        return "evaluations of a small run"
    stop = getattr(lane.strategy, "stop", None)
    return "" if stop is None else ", ".join(reason for reason, holds in stop(lane.state).items() if holds)


_NAMES = (("state", "ranking"), ("state1", "ranking1"))  # of what the methods know, in a checkpoint
_COUNTERS = ("generation", "generation_since", "evaluations", "failures", "injected", "stopped", "told_on")
