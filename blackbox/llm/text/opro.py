"""OPRO: a model is shown scored instructions, the best last, and writes ones that shall score higher.

Source: Yang, Wang, Lu, Liu, Le, Zhou & Chen 2023, "Large language models as optimizers" (arXiv:2309.03409), sections 2
and 5. In each step

    meta-prompt   the task; the best 20 instructions so far in ascending order of their scores, which are whole numbers
                  from 0 to 100; those with a score below a floor are hidden; 3 random examples of the task
    instructions  8 samples from the model; what was told before is dropped
    evaluation    of each on the same training instances

There are no parents and no population: all that is told is kept, and the meta-prompt is what selects. The floor hides
no more than all but the best, as a meta-prompt without instructions would forget what there is.

Cost of a step: 8 requests, and up to 8 evaluations on all ``instances``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from blackbox.arrays import Key
from blackbox.errors import SettingError
from blackbox.llm.client import Client, client_of, without_client
from blackbox.llm.provider import prompt
from blackbox.llm.text.draws import Draws
from blackbox.llm.text.losses import shown_score
from blackbox.llm.text.proposals import (
    SYSTEM,
    Proposals,
    ReplyCounts,
    counts_of,
    propose,
    require_instances,
    require_model_settings,
    require_text,
    require_texts,
)
from blackbox.llm.text.replies import delimited
from blackbox.llm.text.scored import Scored, ranked, told
from blackbox.strategy import require_integer, require_key, require_number


class OPROState(NamedTuple):
    """All that OPRO needs to go on."""

    key: Key
    generation: int
    seeds: tuple[str, ...]
    scored: tuple[Scored, ...]
    """Every instruction that was told, best first."""
    counts: ReplyCounts


@dataclass(frozen=True, kw_only=True)
class TextOPRO:
    """OPRO for instructions.

    Args:
        provider: the model that writes instructions.
        task: what the instructions are for, in a sentence or more.
        instances: numbers of the training instances on which every instruction is evaluated.
        exemplars: inputs of the task with their answers, of which the meta-prompt shows some.
        shown: most instructions in a meta-prompt, >= 1.
        new: samples in a step, >= 1.
        exemplars_shown: random exemplars in a meta-prompt, >= 0.
        floor: score between 0 and 1 below which instructions are hidden.
        temperature: of sampling, >= 0.
        max_tokens: most tokens of a reply.
        longest: most characters of an instruction; a longer one counts as a reply that cannot be parsed.
        worst: loss that is shown as score 0, > 0.

    Raises:
        SettingError: an argument outside its range.
    """

    provider: Any
    task: str
    instances: Sequence[int]
    exemplars: Sequence[tuple[str, str]] = ()
    shown: int = 20
    new: int = 8
    exemplars_shown: int = 3
    floor: float = 0.3
    temperature: float = 1.0
    max_tokens: int = 1024
    longest: int = 4000
    worst: float = 1.0

    def __post_init__(self) -> None:
        require_model_settings(self.provider, self.temperature, self.max_tokens, self.longest, self.worst)
        object.__setattr__(self, "instances", require_instances("instances", self.instances))
        require_text("task", self.task)
        for name, low in (("shown", 1), ("new", 1), ("exemplars_shown", 0)):
            require_integer(name, getattr(self, name), low=low, optional=False)
        require_number("floor", self.floor, low=0.0, high=1.0)
        for pair in self.exemplars:
            if isinstance(pair, str) or len(pair) != 2:
                raise SettingError(f"exemplars must be pairs of texts, an input and its answer; got {pair!r}")
            for text in pair:
                require_text("exemplars", text)

    @functools.cached_property
    def client(self) -> Client:
        """Whom the questions go to."""
        return client_of(self.provider)

    def __getstate__(self) -> dict[str, Any]:
        return without_client(self)

    def init(self, key: Key, seeds: str | Sequence[str]) -> OPROState:
        """The state before the first evaluation, which is that of the seeds: one instruction or several."""
        require_key(key)
        return OPROState(key, 0, require_texts("seeds", seeds), (), ReplyCounts())

    def ask(self, state: OPROState) -> Proposals[str]:
        """The seeds, then up to ``new`` instructions that were not told before.

        Raises:
            BudgetExhausted: a limit of the client has no room for a request.
        """
        if state.generation == 0:
            return Proposals(state.seeds)
        conversation = prompt(self.meta_prompt(state), SYSTEM)
        texts = propose(
            self.client, [conversation] * self.new, key=state.key, generation=state.generation,
            temperature=self.temperature, max_tokens=self.max_tokens, longest=self.longest,
        )  # fmt: skip
        known = {entry.text for entry in state.scored}
        new = dict.fromkeys(text for text in texts if text is not None and text not in known)
        return Proposals(new, texts.counts, texts.error)

    def batch(self, state: OPROState) -> tuple[int, ...]:
        """The training instances."""
        return tuple(self.instances)

    def tell(
        self, state: OPROState, genomes: Sequence[str], scores: Any, feedback: Sequence[Sequence[str]] = ()
    ) -> OPROState:
        """The state with these instructions and losses, of shape (genomes, instances) or (genomes,).

        Raises:
            TellError: scores of another shape.
        """
        new = told(genomes, scores, len(self.instances), self.worst)
        return state._replace(
            generation=state.generation + 1,
            scored=ranked([*state.scored, *new]),
            counts=state.counts.plus(counts_of(genomes)),
        )

    def recommend(self, state: OPROState) -> str:
        """The best instruction that was told; the first seed if none has succeeded."""
        return self.finalists(state, 1)[0]

    def finalists(self, state: OPROState, n: int) -> list[str]:
        """Up to ``n`` instructions, best first."""
        return [entry.text for entry in state.scored if entry.loss < float("inf")][:n] or [state.seeds[0]]

    def meta_prompt(self, state: OPROState) -> str:
        """What the model is asked in this step."""
        best = [
            entry
            for rank, entry in enumerate(state.scored[: self.shown])
            if rank == 0 or entry.loss <= (1.0 - self.floor) * self.worst
        ]
        lines = [f"A language model is given an instruction for this task:\n\n{self.task}\n"]
        lines.append("Instructions that were tried, with their scores from 0 to 100, the best one last:\n")
        lines += [
            f"{delimited(entry.text)}\nscore: {shown_score(entry.loss, self.worst)}\n" for entry in reversed(best)
        ]
        drawn = Draws(state.key, state.generation).subset(list(self.exemplars), self.exemplars_shown)
        if drawn:
            lines.append("Examples of the task, with <INS> where the instruction stands:\n")
        for given, answer in drawn:
            example = f"<INS>\ninput: {given}\nanswer: {answer}"
            lines.append(f"{delimited(example, 'example')}\n")
        lines.append(
            "Write an instruction that differs from all above and scores higher than each of them. Put it between"
            " <prompt> and </prompt>."
        )
        return "\n".join(lines)
