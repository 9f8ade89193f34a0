"""Regularised evolution of programs: tournaments among the young, in which the oldest dies, whatever its fitness.

Sources: Real, Aggarwal, Huang & Le 2019, "Regularized evolution for image classifier architecture search"
(arXiv:1802.01548), algorithm 1; for programs Real et al. 2020, "AutoML-Zero" (arXiv:2003.03384), and Chen et al. 2023,
"Symbolic discovery of optimization algorithms" (arXiv:2302.06675), section 2.2:

    population   P copies of a known program, as a warm start
    parent       the best of T members that are drawn with replacement
    child        the parent with one mutation; it is appended, and the oldest member is dropped
    cache        a child that computes the same as a former program, found by abstract execution, has its fitness
    restart      a population of copies of the best program, after long without a better one

A child whose update does not depend on the gradient has failed without being run. Whoever dies is not what is reported:
the best programs ever told are kept beside the population, for a choice among them on other tasks
(:func:`blackbox.programs.funnel`).

A search has the shape of a strategy, ``init``, ``ask``, ``tell``, ``recommend``, all pure functions of an immutable
state. It is none of the registry: its members are programs, no vectors. Children may be told in any order and number,
also such as were asked of an earlier state, so that evaluations may be asynchronous; the same seed and the same order
of tells give the same search. A state is a tuple of programs and a table of fitness, stored by
:mod:`blackbox.programs.stored`.

Cost of a child: an analysis and a mutation, half a millisecond; of a tell, a copy of the table of all fitness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from blackbox.arrays import Key
from blackbox.draws import Draws
from blackbox.errors import TellError
from blackbox.programs.abstract import Analysis, analysis
from blackbox.programs.language import MEMORY, Program
from blackbox.programs.mutation import mutate
from blackbox.strategy import require_integer, require_key, require_number


class Member(NamedTuple):
    """A program of the population."""

    program: Program
    """As it was mutated, redundant statements included, for they are what later mutations work on."""
    key: str
    """Digest of its canonical form."""


class SearchState(NamedTuple):
    """All that a search needs to go on."""

    key: Key
    generation: int
    """How many tells there were."""
    population: tuple[Member, ...]
    """Oldest first."""
    fitness: Mapping[str, float]
    """Of all programs told, by digest; infinite for those that failed."""
    elites: tuple[Program, ...]
    """Canonical forms of the best ever told, best first."""
    drawn: int
    """How many children were told."""
    rejected: int
    """How many of them failed without an evaluation, since their update does not depend on the gradient."""
    stale: int
    """How many children were told since the last that was better than all before, or the last restart."""
    restarts: int

    @property
    def evaluations(self) -> int:
        """How many different programs were evaluated."""
        return len(self.fitness)

    @property
    def saved(self) -> int:
        """How many evaluations the cache saved."""
        return self.drawn - self.rejected - self.evaluations


@dataclass(frozen=True, kw_only=True)
class RegularizedEvolution:
    """Regularised evolution of programs.

    Args:
        start: the program of which the first population has copies; it is the first to be evaluated.
        popsize: P, members; 1,000 in the paper, whose searches have some 25,000 evaluations.
        tournament: T, members that compete for being a parent.
        longest: statements that a program may have.
        memory: how many of m, v, b and c mutations may bring in.
        patience: children without progress after which the population is copies of the best again; None for never.
        elites: how many of the best programs are kept.
    """

    start: Program
    popsize: int = 1000
    tournament: int = 2
    longest: int = 24
    memory: int = 2
    patience: int | None = None
    elites: int = 32

    def __post_init__(self) -> None:
        for name in ("popsize", "tournament", "longest", "elites"):
            require_integer(name, getattr(self, name), low=1, optional=False)
        require_integer("memory", self.memory, low=0, optional=False)
        require_number("memory", self.memory, high=len(MEMORY))
        require_integer("patience", self.patience, low=1)

    def init(self, key: Key) -> SearchState:
        """The state before the first evaluation."""
        require_key(key)
        first = Member(self.start, analysis(self.start).key)
        return SearchState(key, 0, (first,) * self.popsize, {}, (), 0, 0, 0, 0)

    def ask(self, state: SearchState, n: int = 1, first: int = 0) -> list[Program]:
        """Children number ``first`` to ``first + n - 1`` of this state; the very first of a search is its start."""
        return [self._child(state, i) for i in range(first, first + n)]

    def known(self, state: SearchState, program: Program) -> float | None:
        """The fitness of a program that need not be evaluated, or None."""
        found = analysis(program)
        return math.inf if "g" not in found.depends_on else state.fitness.get(found.key)

    def tell(self, state: SearchState, programs: Sequence[Program], fitness: Sequence[float | None]) -> SearchState:
        """The state with these children, the first told becoming the first to die.

        Args:
            state: any; it need not be the one that the programs were asked of.
            programs: children, or others that shall compete.
            fitness: of each, lower is better; NaN and infinity have failed. It is only read for a program that is not
                ``known``, and for one that is may be None.

        Raises:
            TellError: as many numbers as programs were expected, or one is missing.
        """
        if len(fitness) != len(programs):
            raise TellError(f"fitness must have a number for each of the {len(programs)} programs, got {len(fitness)}")
        table, elites = dict(state.fitness), list(state.elites)
        population = list(state.population)
        rejected, stale, restarts = state.rejected, state.stale, state.restarts
        for program, told in zip(programs, fitness, strict=True):
            found = analysis(program)
            population.append(Member(program, found.key))
            stale += 1
            if "g" not in found.depends_on:
                rejected += 1
            elif found.key not in table:
                if told is None:
                    raise TellError(
                        f"fitness must be a number for a program that is not known, got None for\n{program}"
                    )
                table[found.key] = float(told) if math.isfinite(told) else math.inf
                if self._joined(elites, found, table):
                    stale = 0
            if stale == self.patience and elites:
                best = Member(elites[0], analysis(elites[0]).key)
                population = [best] * self.popsize
                stale, restarts = 0, restarts + 1
        return SearchState(
            key=state.key,
            generation=state.generation + 1,
            population=tuple(population[-self.popsize :]),
            fitness=table,
            elites=tuple(elites),
            drawn=state.drawn + len(programs),
            rejected=rejected,
            stale=stale,
            restarts=restarts,
        )

    def recommend(self, state: SearchState) -> Program:
        """The best program ever told, in canonical form; the start if none has succeeded."""
        return state.elites[0] if state.elites else self.start

    def _child(self, state: SearchState, number: int) -> Program:
        if state.generation == number == 0:
            return self.start
        draws = Draws(state.key, state.generation, number)
        drawn = [draws.choose(state.population) for _ in range(self.tournament)]
        parent = min(drawn, key=lambda member: state.fitness.get(member.key, math.inf))
        return mutate(parent.program, draws, longest=self.longest, memory=self.memory)

    def _joined(self, elites: list[Program], found: Analysis, table: Mapping[str, float]) -> bool:
        """Insert a new program into the elites, after those as good; whether it is the best of all."""
        value = table[found.key]
        better = [table[analysis(elite).key] <= value for elite in elites]
        if math.isfinite(value):
            elites.insert(sum(better), found.program)
            del elites[self.elites :]
        return math.isfinite(value) and not any(better)


def search(
    strategy: RegularizedEvolution,
    state: SearchState,
    objective: Callable[[Program], float],
    *,
    evaluations: int,
    batch: int = 1,
    callback: Callable[[SearchState], object] | None = None,
) -> SearchState:
    """The state after the search has evaluated so many different programs, those before included.

    Args:
        strategy: the search.
        state: where it begins or goes on.
        objective: fitness of a program, which it is given in canonical form; it may fail by NaN.
        evaluations: where it ends; the last batch is cut off.
        batch: children of one state. Another number makes another search.
        callback: is given each state.
    """
    while state.evaluations < evaluations:
        children = strategy.ask(state, batch)
        told: dict[str, float] = {}
        values: list[float | None] = []
        for child in children:
            form, key, _ = analysis(child)
            value = strategy.known(state, child)
            if value is None and key not in told:
                if state.evaluations + len(told) == evaluations:
                    break
                told[key] = objective(form)
            values.append(told[key] if value is None else value)
        state = strategy.tell(state, children[: len(values)], values)
        if callback is not None:
            callback(state)
    return state
