"""EvoPrompt's differential evolution: a model changes what differs between two instructions and splices it in.

Source: Guo, Wang, Guo, Li, Song, Tan, Liu, Bian & Yang 2023, "Connecting large language models with evolutionary
algorithms yields powerful prompt optimizers" (arXiv:2309.08532), section 3.3 and algorithm 3. For each member x of the
population, with two others b and c that are drawn at random, one reply has four steps, those of DE's
x' = crossover(x, best + F (b - c)):

    difference  the parts in which b and c are not alike: what is alike may be what works
    mutation    of those parts
    combine     with the best member: parts of it are replaced by them
    crossover   of the result with x

The child takes its member's place if it has less loss, so members compete in places, as in DE. A child whose reply
cannot be read is its member, which costs no evaluation. The seeds are joined by paraphrases at first; a place that
stays empty for want of one is filled by a paraphrase of a member later.

Cost of a generation: N requests, and N evaluations on all ``instances``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blackbox.errors import TellError
from blackbox.llm.provider import Message
from blackbox.llm.text.draws import Draws
from blackbox.llm.text.evoprompt import EvoPrompt, EvoPromptState, after_example, paraphrase
from blackbox.llm.text.proposals import Proposals, counts_of
from blackbox.llm.text.replies import delimited
from blackbox.llm.text.scored import told


@dataclass(frozen=True, kw_only=True)
class EvoPromptDE(EvoPrompt):
    """EvoPrompt's differential evolution for instructions.

    Args:
        provider: the model that changes and splices.
        instances: numbers of the training instances on which every instruction is evaluated.
        popsize: N, members of the population, >= 2.
        temperature: of sampling, >= 0.
        max_tokens: most tokens of a reply.
        longest: most characters of an instruction; a longer one counts as a reply that cannot be parsed.
        worst: loss that a failed instance counts as, > 0.

    Raises:
        SettingError: an argument outside its range.
    """

    def ask(self, state: EvoPromptState) -> Proposals[str]:
        """The first population, then a child for each member, in their order, and paraphrases for empty places.

        Raises:
            BudgetExhausted: a limit of the client has no room for a request.
        """
        if state.generation == 0 or not state.population:
            return self._first(state)
        members = [entry.text for entry in state.population]
        splices = [splice(*self.donors(state, i), x) for i, x in enumerate(members)]
        empty = range(self.popsize - len(members))
        texts = self._propose(state, [*splices, *(paraphrase(members[i % len(members)]) for i in empty)])
        children = [x if text is None else text for x, text in zip(members, texts, strict=False)]
        known = {*members, *children}
        new = dict.fromkeys(text for text in texts[len(members) :] if text is not None and text not in known)
        return Proposals([*children, *new], texts.counts, texts.error)

    def tell(
        self, state: EvoPromptState, genomes: Sequence[str], scores: Any, feedback: Sequence[Sequence[str]] = ()
    ) -> EvoPromptState:
        """The state in which children have the places of members with more loss, and further ones the empty places.

        Args:
            state: that the children were asked of.
            genomes: children of the first members, in order, and after those of all what fills empty places.
            scores: losses of shape (genomes, instances) or (genomes,).
            feedback: not used.

        Raises:
            TellError: scores of another shape, or more genomes than places.
        """
        new = told(genomes, scores, len(self.instances), self.worst)
        population = list(state.population)
        if not population:
            population = new[: self.popsize]
        elif len(new) > max(self.popsize, len(population)):
            raise TellError(f"genomes must be at most one for each of the {self.popsize} places, got {len(new)}")
        for i, (child, member) in enumerate(zip(new, population, strict=False)):
            population[i] = child if child.loss < member.loss else member
        population += new[len(population) :]
        return state._replace(
            generation=state.generation + 1,
            population=tuple(population),
            counts=state.counts.plus(counts_of(genomes)),
        )

    def donors(self, state: EvoPromptState, member: int) -> tuple[str, str, str]:
        """b, c and the best member; b and c are others than the member, and different where there are so many."""
        draws = Draws(state.key, state.generation, member)
        texts = [entry.text for entry in state.population]
        others = texts[:member] + texts[member + 1 :] or texts
        drawn = draws.subset(others, 2)
        return drawn[0], drawn[-1], min(state.population, key=lambda entry: entry.loss).text


def splice(b: str, c: str, best: str, x: str) -> tuple[Message, ...]:
    """A request for a child of four instructions."""
    return after_example(
        _question(
            "Sort the letters by their dates.",
            "Sort the letters by their senders.",
            "Arrange all mail, the newest at the top.",
            "Please tidy up this mail.",
        ),
        '1. Different: "by their dates" and "by their senders".\n'
        '2. Changed: "by the day of arrival" and "by the name of the sender".\n'
        "3. Combined: Arrange all mail by the day of arrival, the newest at the top.\n"
        "4. Crossed: <prompt>Please tidy up this mail by the day of arrival, the newest at the top.</prompt>",
        _question(b, c, best, x),
    )


def _question(b: str, c: str, best: str, x: str) -> str:
    return (
        "Make a better prompt in four steps.\n"
        "1. Find the parts in which prompts 1 and 2 differ.\n"
        "2. Change those parts.\n"
        "3. Combine the changed parts with prompt 3: replace parts of it by them.\n"
        "4. Cross the result of step 3 with prompt 4, and put this final prompt between <prompt> and </prompt>.\n\n"
        f"Prompt 1:\n{delimited(b)}\n\nPrompt 2:\n{delimited(c)}\n\n"
        f"Prompt 3:\n{delimited(best)}\n\nPrompt 4:\n{delimited(x)}"
    )
