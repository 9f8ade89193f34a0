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
* After each tell the strategy's reasons to stop are looked at, and the next run starts by the restart schedule.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.pareto import Front
from blackbox.shell.constraints import AugmentedLagrangian, FeasibleFirst
from blackbox.shell.goals import Goals
from blackbox.shell.restarts import Run, Schedule, next_run, run_key, start_point
from blackbox.shell.states import flatten, unflatten
from blackbox.shell.told import Told

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32

    Row = Float[np.ndarray, "d"]

INJECTED = -1  # generation of the points that come from outside
PATIENCE = 32  # results for each missing one after which a sequential strategy takes the due one for lost
MAX_BARREN = 3  # generations in a row without any finite result
MIN_BARREN = 20  # evaluations in them, so that methods of few candidates a generation are not given up at once


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an optimization starts with."""

    strategy: Any
    key: UInt32[np.ndarray, "2"]
    x0: Row
    schedule: Schedule
    horizon: int | None
    """Evaluations to be left at each start to a strategy that plans its whole run by them."""
    goals: Goals
    ranking: AugmentedLagrangian | FeasibleFirst | None
    """What makes one number of a value and its constraints; of several, one of each."""

    def begin(self, run: Run, evaluations: int) -> tuple[Any, Any]:
        """Strategy and first state of a run that starts after ``evaluations``."""
        changes: dict[str, Any] = {}
        if run.popsize is not None:
            changes["popsize"] = run.popsize
        if run.sigma_factor != 1.0:
            changes["sigma0"] = self.strategy.sigma0 * run.sigma_factor
        if run.number and self.horizon is not None:
            changes["evaluations"] = max(1, self.horizon - evaluations)
        strategy = dataclasses.replace(self.strategy, **changes) if changes else self.strategy
        start = start_point(self.key, run.number, len(self.x0)) if run.number else self.x0
        return strategy, strategy.init(run_key(self.key, run.number), start)


class Closing(NamedTuple):
    """What changes when a generation closes."""

    run: Run
    strategy: Any
    state: Any
    population: Float[np.ndarray, "popsize d"]
    """The first members of the next generation."""
    barren: tuple[int, int]
    """Generations in a row without any finite result, and the evaluations in them."""
    stopped: str | None
    ranking: Any = None
    """What ``plan.ranking`` has learned."""


class Best(NamedTuple):
    """The best result so far; of equal ones the first asked."""

    rank: tuple[float, tuple[int, int]] = (math.inf, (0, 0))
    """Value, lower is better, then id."""
    row: Row | None = None
    vector: Any = None
    """All that was told, where it is more than one number."""


class Search:
    """A running optimization.

    Attributes:
        generation: number of the open generation, counted through all restarts.
        results: of the open generation, from member to row and value (lower is better).
        front: the best results where there are several objectives.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run = Run()
        strategy, state = plan.begin(self.run, 0)
        self.generation = self.run_generation = 0
        self.evaluations = self.run_evaluations = self.failures = self.injected = 0
        self.barren = (0, 0)
        self.best = Best()
        self.front = Front.empty(plan.goals.objectives, len(plan.x0), plan.goals.width)
        self.stopped: str | None = None
        self.ranking: Any = None if plan.ranking is None else plan.ranking.begin()
        self._open(strategy, state, strategy.ask(state))
        self.popsize0 = self.popsize

    def _open(self, strategy: Any, state: Any, population: Float[np.ndarray, "popsize d"]) -> None:
        self.strategy, self.state, self.population = strategy, state, population
        self._positional: bool = getattr(strategy, "positional", False)
        self._injectable: bool = getattr(strategy, "injectable", False)
        self.results: dict[int, tuple[Row, float]] = {}
        self.outside: dict[tuple[int, int], tuple[Row, float]] = {}
        self._pages: list[list[Row]] = [list(population)]
        self.popsize = len(population)

    def page(self, number: int) -> list[Row]:
        """The vectors of popsize members of the open generation, from ``number * popsize`` on."""
        while number >= len(self._pages):
            self._pages.append(list(self.strategy.ask(self.state, first=len(self._pages) * self.popsize)))
        return self._pages[number]

    def row(self, member: int) -> Row:
        """The vector of a member of the open generation."""
        page, slot = divmod(member, self.popsize)
        return self.page(page)[slot]

    def is_complete(self, members: Collection[int]) -> bool:
        """Whether the open generation closes once these members, without results so far, have some."""
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
        if len(self.results) + len(told) < self.popsize:
            return None
        generation = self.generation
        if not self.is_complete([t.member for t in told if t.generation == generation]):
            return None
        results, outside = dict(self.results), dict(self.outside)
        for t in told:
            self._sort_in(t, results, outside)
        population, fitness = self._rows(results, outside)
        ranking = self.ranking
        if self.plan.ranking is not None:
            fitness, ranking = self.plan.ranking.rank(ranking, fitness)
        spent = self.run_evaluations + len(told)
        if (fitness < math.inf).any():
            barren = (0, 0)
            state = self.strategy.tell(self.state, population, fitness)
        else:
            barren = (self.barren[0] + 1, self.barren[1] + len(fitness))
            if self._positional or len(fitness) == 1 or "generation" not in getattr(self.state, "_fields", ()):
                state = self.strategy.tell(self.state, population, fitness)
            else:
                state = self.state._replace(generation=self.state.generation + 1)
        stopped = self.stopped
        if barren[0] >= MAX_BARREN and barren[1] >= MIN_BARREN:
            stopped = f"{barren[0]} generations in a row ({barren[1]} evaluations) have no finite value"
        if reasons := self._reasons(state, spent):
            if self.plan.schedule == "none":
                stopped = stopped or f"the method has nothing left to do: {reasons}"
            else:
                run = next_run(self.plan.schedule, self.run, spent, self.popsize0, self.plan.key)
                strategy, state = self.plan.begin(run, self.evaluations + len(told))
                ranking = None if self.plan.ranking is None else self.plan.ranking.begin()
                return Closing(run, strategy, state, strategy.ask(state), barren, stopped, ranking)
        return Closing(self.run, self.strategy, state, self.strategy.ask(state), barren, stopped, ranking)

    def _reasons(self, state: Any, spent: int) -> str:
        if self.run.limit is not None and spent >= self.run.limit:
            return "evaluations of a small run"
        stop = getattr(self.strategy, "stop", None)
        return "" if stop is None else ", ".join(reason for reason, holds in stop(state).items() if holds)

    def _sort_in(self, t: Told, results: dict[int, Any], outside: dict[tuple[int, int], Any]) -> None:
        fitness = self.plan.goals.signed(t.value, t.vector)
        if t.generation == self.generation:
            results[t.member] = t.row, fitness
        elif self._injectable and (
            t.generation == INJECTED or (t.generation >= self.run_generation and not self._positional)
        ):
            outside[t.generation, t.member] = t.row, fitness

    def _rows(
        self, results: Mapping[int, tuple[Row, float]], outside: Mapping[tuple[int, int], tuple[Row, float]]
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n"]]:
        """Population and fitness to tell: a closed generation and what joins it, in a defined order."""
        members = sorted(results)
        if self._positional:
            slots = {member % self.popsize: member for member in reversed(members)}
            members = [slots[slot] for slot in range(self.popsize)]
        pairs = [results[member] for member in members] + [outside[id] for id in sorted(outside)]
        fitness = np.array([value for _, value in pairs])
        if len(pairs) == self.popsize and max(members) == self.popsize - 1:  # exactly what was asked first
            return self.population, fitness
        return np.stack([row for row, _ in pairs]), fitness

    def commit(self, told: Sequence[Told], closing: Closing | None) -> None:
        """Take in results and what :meth:`prepare` has made of them."""
        for t in told:
            if closing is None:
                self._sort_in(t, self.results, self.outside)
            if t.generation == INJECTED:
                self.injected += 1
            if t.status == "ok" and self.plan.goals.objectives > 1:
                values = self.plan.goals.signed(t.value, t.vector)[: self.plan.goals.objectives]
                self.front = self.front.joined(values, (t.generation, t.member), t.row, t.vector)
            elif t.status == "ok":
                value = self.plan.goals.signs[0] * t.value
                if value <= self.best.rank[0] and (rank := (value, (t.generation, t.member))) < self.best.rank:
                    self.best = Best(rank, t.row, t.vector)
            elif t.status != "infeasible":
                self.failures += 1
        self.evaluations += len(told)
        self.run_evaluations += len(told)
        if closing is not None:
            self.generation += 1
            if closing.run != self.run:
                self.run_evaluations, self.run_generation = 0, self.generation
            self.run, self.barren, self.stopped = closing.run, closing.barren, closing.stopped
            self.ranking = closing.ranking
            self._open(closing.strategy, closing.state, closing.population)

    def snapshot(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All of it between two generations, as arrays and as JSON."""
        arrays = flatten(self.state) | flatten(self.ranking, "ranking")
        if self.best.row is not None:
            arrays["best"] = self.best.row
            arrays["best.value"] = np.asarray(self.best.rank[0])
        if self.best.vector is not None:
            arrays["best.vector"] = self.best.vector
        if self.plan.goals.objectives > 1:
            arrays |= flatten(self.front, "front")
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return arrays, {**counters, "barren": self.barren, "run": self.run._asdict(), "best": self.best.rank[1]}

    def restore(self, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
        """Go to the state of a snapshot.

        Raises:
            CheckpointError: the arrays are not this strategy's.
            KeyError, TypeError: the manifest is not a snapshot's.
        """
        run = Run(**manifest["run"])
        strategy, state = self.plan.begin(run, manifest["evaluations"] - manifest["run_evaluations"])
        state = unflatten(state, arrays)
        if self.plan.ranking is not None:
            self.ranking = unflatten(self.plan.ranking.begin(), arrays, "ranking")
        population = strategy.ask(state)
        self.run = run
        for name in _COUNTERS:
            setattr(self, name, manifest[name])
        self.barren = tuple(manifest["barren"])
        if "best" in arrays:
            rank = float(arrays["best.value"]), tuple(manifest["best"])
            self.best = Best(rank, arrays["best"], arrays.get("best.vector"))
        if self.plan.goals.objectives > 1:
            self.front = Front(*(arrays[f"front.{name}"] for name in Front._fields))
        self._open(strategy, state, population)


_COUNTERS = ("generation", "run_generation", "evaluations", "run_evaluations", "failures", "injected", "stopped")
