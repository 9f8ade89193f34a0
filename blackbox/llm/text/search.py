"""The loop around a text search: evaluations within a budget, with failures, kills and exhausted budgets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, Protocol

from blackbox.arrays import Key
from blackbox.errors import BudgetExhausted, ProviderError
from blackbox.llm.text.checkpoint import Checkpoint, Progress, Told
from blackbox.llm.text.proposals import Proposals, ReplyCounts, counts_of
from blackbox.llm.text.rollouts import Rollout, Rollouts
from blackbox.llm.text.stored import to_json
from blackbox.strategy import require_integer

SILENCE = 3  # proposals without a reply, one after another, after which the optimizer is down


class TextStrategy(Protocol):
    """What a text search provides; see :mod:`blackbox.llm.text`."""

    def init(self, key: Key, seeds: Any, /) -> Any: ...
    def ask(self, state: Any) -> Sequence[Any]: ...
    def batch(self, state: Any) -> tuple[int, ...]: ...
    def tell(self, state: Any, genomes: Any, scores: Any, feedback: Any = ()) -> Any: ...
    def recommend(self, state: Any) -> Any: ...
    def finalists(self, state: Any, n: int) -> list[Any]: ...


class TextSearch(NamedTuple):
    """The end of a search."""

    best: Any
    """The recommended genome."""
    finalists: list[Any]
    """The best genomes, best first, for :func:`blackbox.llm.final_pick`."""
    state: Any
    """After the last whole generation: where a search goes on."""
    evaluations: int
    """Evaluations of a genome on an instance, so far."""
    stopped: str
    """Why it ended: "evaluations", "stalled", or the message of a budget that is exhausted or a model that is down."""
    counts: ReplyCounts
    """What became of the model's replies."""


def search_text(
    strategy: TextStrategy,
    evaluate: Callable[[Any, int], float | Rollout] | Rollouts[Any],
    seeds: Any,
    *,
    key: Key,
    evaluations: int,
    checkpoint: str | os.PathLike[str] | None = None,
    stalled: int = 20,
    finalists: int = 5,
    callback: Callable[[Any, int], object] | None = None,
) -> TextSearch:
    """Run a text search until it has made so many evaluations, another budget is exhausted, or the model is down.

    A generation that does not fit into what is left is cut to the genomes that do. These count for what is recommended,
    and not for the state, which a search with a larger budget goes on from as if it had never stopped.

    When the model that proposes is down, the search ends with its error, before the generations for which it gave no
    reply: the same command goes on when it is back. What was evaluated in these, as GEPA's minibatches, was made: it
    counts, and is not made again.

    A search that was killed and begins again with the same ``checkpoint`` goes on after its last whole generation. With
    the same ``path`` of its clients, and a checkpoint or none, it pays for no answer twice and gives the same result.

    Args:
        strategy: such as :class:`blackbox.llm.GEPA`.
        evaluate: a genome and the number of an instance to the loss or a :class:`blackbox.llm.Rollout`; or
            :class:`blackbox.llm.Rollouts` of it, whose evaluations count.
        seeds: what ``strategy.init`` takes: instructions, a dictionary of texts, or a pool of exemplars.
        key: of the run, by ``bb.key(seed)``.
        evaluations: most evaluations of a genome on an instance, >= 1.
        checkpoint: file of all evaluations and generations, to which each generation is added; None for none. One
            search at a time may write it.
        stalled: generations without a new evaluation after which a search ends, >= 1: the model gives nothing new.
        finalists: how many of the best are returned, >= 1.
        callback: is given each state and the number of evaluations.

    Raises:
        SettingError: an argument outside its range.
        CheckpointError: the file is of another search or of another model that proposes, damaged, written by another
            one at the same time, or cannot be written.
        JournalError: a client's file could not be read or written.
    """
    for name, value in (("evaluations", evaluations), ("stalled", stalled), ("finalists", finalists)):
        require_integer(name, value, low=1, optional=False)
    rollouts = evaluate if isinstance(evaluate, Rollouts) else Rollouts(evaluate)
    begin = strategy.init(key, seeds)
    file = Checkpoint(checkpoint, _description(strategy, begin), rollouts)
    sound = state, idle, made = file.restored(strategy, begin)  # sound: before an outage
    since: list[Told] = []
    stopped, latest, silent = "", state, 0
    while not stopped:
        counts = getattr(state, "counts", ReplyCounts())
        if made >= evaluations or idle >= stalled:
            stopped = "evaluations" if made >= evaluations else "stalled"
            break
        try:
            genomes = strategy.ask(state)
        except BudgetExhausted as error:
            stopped = str(error)
            break
        asked = counts_of(genomes)
        counts = counts.plus(asked)
        silent = 0 if asked.replies else silent + asked.failed
        if silent >= SILENCE:
            stopped = f"{silent} proposals one after another had no reply. {getattr(genomes, 'error', None)}"
            state, idle, made = sound
            latest = state
            break
        batch = strategy.batch(state)
        count = rollouts.fitting(genomes, batch, evaluations - len(rollouts))
        stopped = "evaluations" if count < len(genomes) else ""
        try:
            losses, feedback = rollouts(genomes[:count], batch)
        except (BudgetExhausted, ProviderError) as error:
            stopped = str(error)
            count = rollouts.fitting(genomes[:count], batch, 0)
            if isinstance(error, ProviderError) and state is not sound[0]:
                count = 0  # of genomes that are due to the outage
                state, idle, made = sound
            losses, feedback = rollouts(genomes[:count], batch)
        if stopped:
            latest = strategy.tell(state, Proposals(genomes[:count], asked), losses, feedback) if count else state
        else:
            state = latest = strategy.tell(state, genomes, losses, feedback)
            idle = 0 if len(rollouts) > made else idle + (silent == 0)
            made = len(rollouts)
            since.append(Told(genomes, idle, made))
            if rollouts.is_answered and not silent:
                sound = Progress(state, idle, made)
                file.append(since)
                since = []
        if callback is not None:
            callback(latest, len(rollouts))
    file.append([])
    return TextSearch(
        best=strategy.recommend(latest),
        finalists=strategy.finalists(latest, finalists),
        state=state,
        evaluations=len(rollouts),
        stopped=stopped,
        counts=counts,
    )


def _description(strategy: Any, first: Any) -> str:
    """The search as JSON: its method with all settings, of the provider the model's name, and its first state."""
    settings = {field.name: getattr(strategy, field.name) for field in fields(strategy)}
    shown = {name: value for name, value in settings.items() if name != "provider"}
    if hasattr(strategy, "client"):
        shown["model"] = strategy.client.provider.model
    return json.dumps([type(strategy).__name__, shown, to_json(first)], sort_keys=True, default=str)
