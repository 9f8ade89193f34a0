"""Evaluations of genomes on instances, none of which is made twice."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Real
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from blackbox.errors import BudgetExhausted, CheckpointError, JournalError, ProviderError, SettingError, TellError
from blackbox.llm.provider import Refused

if TYPE_CHECKING:
    from jaxtyping import Float

G = TypeVar("G")
Key = tuple[str, int]
"""A genome as canonical JSON, and the number of an instance."""

OUTAGE = 20  # evaluations without an answer, one after another, after which it may not be the genomes' fault,
STRANGERS = 5  # and is not if they are of so many genomes, or of one that was answered before


class Rollout(NamedTuple):
    """One evaluation of a genome on an instance."""

    loss: float
    """Lower is better; NaN for one that failed."""
    feedback: str = ""
    """What happened, in words, for a model that learns from it: what was answered, and what is wrong with it."""
    output: str = ""
    """What the model answered, for exemplars."""


class Evaluated(NamedTuple):
    """Evaluations of several genomes on the same instances."""

    losses: Float[np.ndarray, "genomes instances"]
    """NaN where they failed."""
    feedback: tuple[tuple[str, ...], ...]
    """By genome and instance."""


class Rollouts(Generic[G]):
    """Evaluations of genomes on instances, each made once and kept.

    What ``evaluate`` raises is a failure: a loss of NaN with the error as its feedback. An exhausted budget and a file
    that cannot be written are no failures of the genome, and are raised; nor is a model that is down: when 20
    evaluations or more one after another end with a ProviderError, and they are of 5 genomes or of one that had an
    answer before, it is raised and these evaluations are forgotten. A genome that a filter refuses has failed, and
    where the error says so, as :class:`blackbox.llm.Refused` does, that is never taken for an outage.

    Args:
        evaluate: a genome and the number of an instance to its loss, or to a :class:`Rollout`. It must give the same
            for the same, as one does whose client has the answers stored.
        workers: evaluations at the same time, in threads, >= 1.

    Raises:
        SettingError: workers is not in its range.
    """

    def __init__(self, evaluate: Callable[[G, int], float | Rollout], *, workers: int = 1) -> None:
        if type(workers) is not int or workers < 1:
            raise SettingError(f"workers must be an integer >= 1; got {workers!r}")
        self._evaluate, self._workers = evaluate, workers
        self._kept: dict[Key, Rollout] = {}
        self._unanswered: list[Key] = []
        self._answered: set[str] = set()  # genomes with a finite loss

    def __len__(self) -> int:
        """How many were made."""
        return len(self._kept)

    @property
    def is_answered(self) -> bool:
        """Whether the last evaluation had an answer: if not, that may be the beginning of an outage."""
        return not self._unanswered

    def known(self, genome: G, instance: int) -> Rollout | None:
        """That evaluation, if it was made."""
        return self._kept.get((named(genome), instance))

    def fitting(self, genomes: Sequence[G], instances: Sequence[int], room: int) -> int:
        """How many genomes, from the first on, can be evaluated on all instances with at most ``room`` new ones."""
        missing: set[Key] = set()
        for count, genome in enumerate(genomes):
            name = named(genome)
            missing |= {(name, instance) for instance in instances if (name, instance) not in self._kept}
            if len(missing) > room:
                return count
        return len(genomes)

    def __call__(self, genomes: Sequence[G], instances: Sequence[int]) -> Evaluated:
        """All genomes on all instances; only what is not known is evaluated.

        Raises:
            BudgetExhausted: as ``evaluate`` does, when what was under way is done and kept.
            JournalError: likewise.
            ProviderError: the model is down.
        """
        names = [named(genome) for genome in genomes]
        due: dict[Key, G] = {}
        for name, genome in zip(names, genomes, strict=True):
            due |= {(name, instance): genome for instance in instances if (name, instance) not in self._kept}
        self._make(due)
        found = [[self._kept[name, instance] for instance in instances] for name in names]
        losses = np.array([[run.loss for run in row] for row in found], float).reshape(len(genomes), len(instances))
        return Evaluated(losses, tuple(tuple(run.feedback for run in row) for row in found))

    def stored(self, first: int = 0) -> list[list[Any]]:
        """Evaluations from number ``first`` on as JSON values, but for the last without an answer: maybe an outage."""
        answered = len(self._kept) - len(self._unanswered)
        return [
            [*key, run.loss if math.isfinite(run.loss) else None, *run[1:]]
            for key, run in itertools.islice(self._kept.items(), first, max(first, answered))
        ]

    def restore(self, stored: Iterable[Sequence[Any]]) -> None:
        """Take what :meth:`stored` gave as made; CheckpointError for anything else."""
        try:
            for name, instance, loss, feedback, output in stored:
                kept = Rollout(math.nan if loss is None else float(loss), str(feedback), str(output))
                self._kept[str(name), int(instance)] = kept
                if loss is not None:
                    self._answered.add(str(name))
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"text search: stored evaluations are none: {error}") from error

    def _make(self, due: dict[Key, G]) -> None:
        if self._workers == 1:
            for key, genome in due.items():
                self._keep(key, *self._one(genome, key[1]))
            return
        failed: BaseException | None = None
        with ThreadPoolExecutor(self._workers, "blackbox-rollout") as pool:
            futures = {key: pool.submit(self._one, genome, key[1]) for key, genome in due.items()}
            for key, future in futures.items():
                if failed is not None and future.cancel():  # what has not begun never will
                    continue
                try:
                    run, is_unanswered = future.result()
                    if failed is None or not is_unanswered:
                        self._keep(key, run, is_unanswered)
                except BaseException as error:
                    failed = failed or error
        if failed is not None:
            raise failed

    def _keep(self, key: Key, run: Rollout, is_unanswered: bool) -> None:
        self._kept[key] = run
        if not is_unanswered:
            self._unanswered = []
            if math.isfinite(run.loss):  # as restore() has it, so that what is resumed takes the same for an outage
                self._answered.add(key[0])
            return
        self._unanswered.append(key)
        if len(self._unanswered) < OUTAGE:
            return
        names = {name for name, _ in self._unanswered}
        if len(names) >= STRANGERS or names & self._answered:
            count = len(self._unanswered)
            for unanswered in self._unanswered:
                self._kept.pop(unanswered, None)
            self._unanswered = []
            raise ProviderError(f"{count} evaluations one after another had no answer. {run.feedback}")

    def _one(self, genome: G, instance: int) -> tuple[Rollout, bool]:
        """The evaluation, and whether it failed for want of an answer."""
        try:
            found = self._evaluate(genome, instance)
            loss, feedback, output = found if isinstance(found, Rollout) else Rollout(found)
            if not isinstance(loss, Real):
                raise TellError(f"evaluate must give a number or a Rollout; got {found!r}")
        except (BudgetExhausted, JournalError):
            raise
        except Exception as error:
            run = Rollout(math.nan, _sound(f"The evaluation failed: {type(error).__name__}: {error}"))
            return run, isinstance(error, ProviderError) and not isinstance(error, Refused)
        # Of one precision and without what JSON cannot hold, so that what is restored is what was made.
        return Rollout(float(loss) if math.isfinite(loss) else math.nan, _sound(feedback), _sound(output)), False


def named(genome: Any) -> str:
    """The genome as canonical JSON."""
    return json.dumps(genome, sort_keys=True, separators=(",", ":"))


def _sound(text: str) -> str:
    """``text`` with a question mark for what UTF-8 cannot hold, for it will be part of prompts."""
    return str(text).encode("utf-8", "replace").decode()
