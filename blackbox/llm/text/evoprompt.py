"""What the two methods of EvoPrompt share: settings, the state, and a first population of seeds and paraphrases."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from blackbox.arrays import Key
from blackbox.llm.client import Client, client_of, without_client
from blackbox.llm.provider import Message, prompt
from blackbox.llm.text.proposals import (
    SYSTEM,
    Proposals,
    ReplyCounts,
    propose,
    require_instances,
    require_model_settings,
    require_texts,
)
from blackbox.llm.text.replies import delimited
from blackbox.llm.text.scored import Scored, ranked
from blackbox.strategy import require_integer, require_key


class EvoPromptState(NamedTuple):
    """All that a search needs to go on."""

    key: Key
    generation: int
    seeds: tuple[str, ...]
    population: tuple[Scored, ...]
    """Best first in the genetic algorithm; in differential evolution each in its place."""
    counts: ReplyCounts


@dataclass(frozen=True, kw_only=True)
class EvoPrompt:
    """What both methods have: see :class:`blackbox.llm.EvoPromptGA` and :class:`blackbox.llm.EvoPromptDE`."""

    provider: Any
    instances: Sequence[int]
    popsize: int = 10
    temperature: float = 0.5
    max_tokens: int = 1024
    longest: int = 4000
    worst: float = 1.0

    def __post_init__(self) -> None:
        require_model_settings(self.provider, self.temperature, self.max_tokens, self.longest, self.worst)
        object.__setattr__(self, "instances", require_instances("instances", self.instances))
        require_integer("popsize", self.popsize, low=2, optional=False)

    @functools.cached_property
    def client(self) -> Client:
        """Whom the questions go to."""
        return client_of(self.provider)

    def __getstate__(self) -> dict[str, Any]:
        return without_client(self)

    def init(self, key: Key, seeds: str | Sequence[str]) -> EvoPromptState:
        """The state before the first evaluation: one instruction or several, of which the first ``popsize`` count."""
        require_key(key)
        return EvoPromptState(key, 0, require_texts("seeds", seeds)[: self.popsize], (), ReplyCounts())

    def batch(self, state: EvoPromptState) -> tuple[int, ...]:
        """The training instances."""
        return tuple(self.instances)

    def recommend(self, state: EvoPromptState) -> str:
        """The best of the population; the first seed if none has succeeded."""
        return self.finalists(state, 1)[0]

    def finalists(self, state: EvoPromptState, n: int) -> list[str]:
        """Up to ``n`` of the population, best first."""
        found = [entry.text for entry in ranked(state.population) if entry.loss < float("inf")]
        return found[:n] or [state.seeds[0]]

    def _first(self, state: EvoPromptState) -> Proposals[str]:
        """The seeds, and paraphrases of them in turn until the population is full."""
        missing = self.popsize - len(state.seeds)
        parents = [state.seeds[i % len(state.seeds)] for i in range(missing)]
        texts = self._propose(state, [paraphrase(parent) for parent in parents])
        first = dict.fromkeys([*state.seeds, *(text for text in texts if text is not None)])
        return Proposals(first, texts.counts, texts.error)

    def _propose(self, state: EvoPromptState, conversations: Sequence[Sequence[Message]]) -> Proposals[str | None]:
        return propose(
            self.client, conversations, key=state.key, generation=state.generation,
            temperature=self.temperature, max_tokens=self.max_tokens, longest=self.longest,
        )  # fmt: skip


def paraphrase(text: str) -> tuple[Message, ...]:
    """A request for the same in other words."""
    return prompt(
        f"Write a variation of this prompt that keeps its meaning:\n\n{delimited(text)}\n\nPut it between <prompt> and"
        " </prompt>.",
        SYSTEM,
    )


def after_example(question: str, answer: str, asked: str) -> tuple[Message, ...]:
    """A conversation in which one example of the operator was answered before."""
    return (
        Message("system", SYSTEM),
        Message("user", question),
        Message("assistant", answer),
        Message("user", asked),
    )
