"""The loop around a strategy for programs: ask, evaluate, tell, tune constants, store the state."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blackbox.errors import BudgetExhausted, CheckpointError
from blackbox.kernels import noise
from blackbox.llm.program import islands as of_islands
from blackbox.llm.program.constants import constants, tune_constants
from blackbox.llm.program.evaluation import ProgramEvaluator
from blackbox.llm.program.evolution import ProgramEvolution
from blackbox.llm.program.identity import digest
from blackbox.llm.program.state import EvolutionState, Program, from_json, to_json
from blackbox.strategy import require_integer, require_number
from blackbox.whole_file import write_whole

_IDLE = 20  # generations without a program, after which there is nothing to be hoped for
_TUNING = 0x74756E65  # a word that keeps the noise of tuning apart from that of generations


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """When and how constants are tuned; its evaluations count as others.

    Args:
        every: evaluations of the search between two tunings, >= 1.
        evaluations: of one, >= 1.
        method: name of a registered strategy with ``popsize`` and ``sigma0``.
        popsize: programs of one of its generations, >= 3.
        spread: first standard deviation of a constant, as a share of its size.
        best: it is the first of so many best clusters whose form was not tuned before; of programs with equal scores
            one is enough.
    """

    every: int = 128
    evaluations: int = 64
    method: str = "cma-es"
    popsize: int = 8
    spread: float = 0.3
    best: int = 8

    def __post_init__(self) -> None:
        for name in ("every", "evaluations", "best"):
            require_integer(name, getattr(self, name), low=1, optional=False)
        require_integer("popsize", self.popsize, low=3, optional=False)
        require_number("spread", self.spread, above=0)


def search_programs(
    strategy: ProgramEvolution,
    state: EvolutionState,
    evaluate: ProgramEvaluator,
    *,
    evaluations: int,
    tuning: Tuning | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    callback: Callable[[EvolutionState], object] | None = None,
) -> EvolutionState:
    """The state after so many programs were evaluated, those before included; the last generation is not cut off.

    It ends before that when twenty generations in turn had no new program and, with a warning, when a client's budget
    is spent.

    Args:
        strategy: the search.
        state: where it begins; where it goes on is in ``checkpoint``, if that file is there.
        evaluate: the scores.
        evaluations: at which it ends.
        tuning: of constants; None for none.
        checkpoint: a file to which the state is written after each generation; with the clients' files, or without
            clients, a run that was killed goes on with the same bits.
        callback: is given each state.

    Raises:
        CheckpointError: ``checkpoint`` is no state of a search, is damaged, or has another start, key or number of
            islands.
    """
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        begun, state = state, from_json(path.read_bytes())
        if state.start != begun.start or not np.array_equal(state.key, begun.key):
            raise CheckpointError(f"{path} must be of the same start and key as state; it is of another search")
        if len(state.islands) != strategy.islands:
            raise CheckpointError(f"{path} has {len(state.islands)} islands, and the strategy {strategy.islands}")
    idle = 0
    while state.evaluations < evaluations:
        before = state
        try:
            programs = strategy.ask(state)
        except BudgetExhausted as error:
            warnings.warn(f"the search ends early: {error}", RuntimeWarning, stacklevel=2)
            break
        outcomes = evaluate([program.source for program in programs])
        rows = [outcome.scores for outcome in outcomes]
        state = strategy.tell(state, programs, rows, [outcome.feedback for outcome in outcomes])
        if tuning is not None and state.evaluations // tuning.every > before.evaluations // tuning.every:
            state = tune(strategy, state, evaluate, tuning)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, [to_json(state).encode()])
        if callback is not None:
            callback(state)
        idle = 0 if programs else idle + 1
        if idle == _IDLE:
            down = [one.reason for one in programs.rejected if one.reason.startswith("provider: ")]
            if down:
                warnings.warn(f"the search ends early, without new programs; {down[-1]}", RuntimeWarning, stacklevel=2)
            break
    return state


def tune(
    strategy: ProgramEvolution, state: EvolutionState, evaluate: ProgramEvaluator, tuning: Tuning
) -> EvolutionState:
    """The state after the constants of one of the best programs were tuned; the same state if all of them have been."""
    order = sorted(state.members, key=lambda number: (state.members[number].score, number))
    alike = of_islands.clusters([state.members[number].scores for number in order])
    for number in (order[cluster[0]] for cluster in alike[: tuning.best]):
        program, scores, _ = state.members[number]
        if digest(program.source, constants=False) in state.tuned or not constants(program.source):
            continue
        done = tune_constants(
            lambda sources: [outcome.scores for outcome in evaluate(sources)],
            program.source,
            scores,
            noise.fold(state.key, state.generation, _TUNING),
            evaluations=tuning.evaluations,
            method=tuning.method,
            popsize=tuning.popsize,
            spread=tuning.spread,
        )
        told = [Program(done.source, "tune", "", (number,), program.island)] if done.source != program.source else []
        after = strategy.tell(state, told, [done.scores][: len(told)], evaluations=len(done.tried))
        forms = {digest(source, constants=False) for source in (program.source, done.source)}  # a sign is of the form
        tried = {digest(source) for source in done.tried}
        return after._replace(tuned=state.tuned | forms, seen=after.seen | tried, broken=state.broken)
    return state
