"""EvoPrompt's genetic algorithm: a model crosses two instructions over and mutates the child.

Source: Guo, Wang, Guo, Li, Song, Tan, Liu, Bian & Yang 2023, "Connecting large language models with evolutionary
algorithms yields powerful prompt optimizers" (arXiv:2309.08532), section 3.2 and algorithm 2. In each generation

    parents     N pairs, drawn in proportion to their scores, worst - loss; a pair has two different instructions
    child       of each pair, in one reply: a crossover of the two, and a mutation of that
    population  the best N of the population and the children

A child whose reply cannot be read is its first parent, which costs no evaluation. Before the first generation the seeds
are joined by paraphrases of them.

Cost of a generation: N requests, and N evaluations on all ``instances``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blackbox.llm.provider import Message
from blackbox.llm.text.draws import Draws
from blackbox.llm.text.evoprompt import EvoPrompt, EvoPromptState, after_example
from blackbox.llm.text.proposals import Proposals, counts_of
from blackbox.llm.text.replies import delimited
from blackbox.llm.text.scored import Scored, ranked, told


@dataclass(frozen=True, kw_only=True)
class EvoPromptGA(EvoPrompt):
    """EvoPrompt's genetic algorithm for instructions.

    Args:
        provider: the model that crosses over and mutates.
        instances: numbers of the training instances on which every instruction is evaluated.
        popsize: N, members of the population and children in a generation, >= 2.
        temperature: of sampling, >= 0.
        max_tokens: most tokens of a reply.
        longest: most characters of an instruction; a longer one counts as a reply that cannot be parsed.
        worst: loss at which an instruction is never a parent, > 0.

    Raises:
        SettingError: an argument outside its range.
    """

    def ask(self, state: EvoPromptState) -> Proposals[str]:
        """The first population, then a child of each pair of parents.

        Raises:
            BudgetExhausted: a limit of the client has no room for a request.
        """
        if state.generation == 0:
            return self._first(state)
        pairs = [self.parents(state, member) for member in range(self.popsize)]
        texts = self._propose(state, [crossover(*pair) for pair in pairs])
        children = [pair[0] if text is None else text for pair, text in zip(pairs, texts, strict=True)]
        return Proposals(children, texts.counts, texts.error)

    def tell(
        self, state: EvoPromptState, genomes: Sequence[str], scores: Any, feedback: Sequence[Sequence[str]] = ()
    ) -> EvoPromptState:
        """The state with these instructions and losses, of shape (genomes, instances) or (genomes,).

        Raises:
            TellError: scores of another shape.
        """
        new = told(genomes, scores, len(self.instances), self.worst)
        return state._replace(
            generation=state.generation + 1,
            population=ranked([*state.population, *new])[: self.popsize],
            counts=state.counts.plus(counts_of(genomes)),
        )

    def parents(self, state: EvoPromptState, member: int) -> tuple[str, str]:
        """The two parents of a child; twice the same only if the population has no other."""
        draws = Draws(state.key, state.generation, member)
        left = list(state.population) or [Scored(seed, 0.0) for seed in state.seeds]
        drawn = []
        for _ in range(2):
            weights = [max(0.0, self.worst - entry.loss) for entry in left]
            position = draws.roulette(weights)
            drawn.append(left.pop(position) if len(left) > 1 else left[position])
        return drawn[0].text, drawn[1].text


def crossover(first: str, second: str) -> tuple[Message, ...]:
    """A request for a child of two instructions."""
    return after_example(
        _question("Sort the letters by their dates.", "Arrange all mail, the newest at the top."),
        "1. Crossover: Sort all mail by date, the newest at the top.\n"
        "2. Mutation: <prompt>Order all mail by the day it was sent, with the newest at the top.</prompt>",
        _question(first, second),
    )


def _question(first: str, second: str) -> str:
    return (
        "Make a better prompt in two steps.\n"
        "1. Crossover: combine these two prompts into one.\n"
        "2. Mutation: change the result of step 1, and put this final prompt between <prompt> and </prompt>.\n\n"
        f"Prompt 1:\n{delimited(first)}\n\nPrompt 2:\n{delimited(second)}"
    )
