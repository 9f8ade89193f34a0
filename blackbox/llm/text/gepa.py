"""GEPA: a model reads what went wrong on a few instances and rewrites one text of a system.

Source: Agrawal, Tan, Soylu, Ziems, Khare, Opsahl-Ong, Singhvi, Shandilya, Ryan, Jiang, Potts, Sen, Dimakis, Stoica,
Klein, Zaharia & Khattab 2025, "GEPA: reflective prompt evolution can outperform reinforcement learning"
(arXiv:2507.19457), section 3 and algorithms 1 to 4. A genome is a dictionary of named texts. In each iteration

    parent      drawn from the candidates that have the least loss on some validation instance, in proportion to how
                many these are; dominated ones are left out
    component   the parent's texts in turn
    minibatch   3 training instances, on which the parent runs, with feedback in words
    child       the parent with the component rewritten by the model, which is shown the text and the feedback
    acceptance  if the child's losses on the same minibatch have a strictly smaller mean; then it is evaluated on all
                validation instances and becomes a candidate

With ``merges``, two leaders with a common ancestor are merged after an accepted child: of each text the version of the
side that changed it. The merged genome is tried on 5 validation instances on which the two differ as evenly as
possible, and accepted if it loses no more there than the better of them.

An iteration takes two or three rounds of ``ask`` and ``tell``, each with one genome: "trace", "propose", and "validate"
if the child is accepted; a merge is "merge" and "validate". Parents are drawn only by the front, so that a specialist
for a few instances stays, whatever its mean. A merge is drawn uniformly from those that are possible, where the
authors' program weights ancestors by their scores.

Cost of an iteration: one request and two minibatches, and all validation instances for an accepted child.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from blackbox.arrays import Key
from blackbox.errors import SettingError, TellError
from blackbox.llm.client import Client, client_of, without_client
from blackbox.llm.provider import Message, prompt
from blackbox.llm.text.draws import MERGES, Draws, minibatch
from blackbox.llm.text.lineage import Candidate, Merge, items_led, merged, possible_merges, telling_instances
from blackbox.llm.text.losses import mean_losses, shown_score, told_losses
from blackbox.llm.text.proposals import (
    SYSTEM,
    Proposals,
    ReplyCounts,
    counts_of,
    propose,
    require_instances,
    require_model_settings,
    require_text,
)
from blackbox.llm.text.replies import delimited, shortened
from blackbox.strategy import require_integer, require_key


class GEPAState(NamedTuple):
    """All that GEPA needs to go on."""

    key: Key
    phase: str
    """What is asked next: "seed", "trace", "propose", "merge" or "validate"."""
    iteration: int
    """How many parents were drawn."""
    pool: tuple[Candidate, ...]
    """Every accepted candidate, the seed first."""
    genome: Mapping[str, str]
    """What is under way: the seed, the parent, or a child that was merged or is to be validated."""
    parents: tuple[int, ...]
    """Numbers of its parents; in "trace" and "propose" that of the parent itself."""
    component: str
    """The text that is rewritten."""
    batch: tuple[int, ...]
    """The instances of this phase; empty stands for all validation instances."""
    losses: tuple[float, ...]
    """The parent's on the minibatch, where they are known."""
    feedback: tuple[str, ...]
    """Likewise."""
    merges: int
    """How many were tried."""
    is_merge_due: bool
    tried: tuple[Merge, ...]
    accepted: int
    """Children that joined the pool, merged ones included."""
    rejected: int
    counts: ReplyCounts


@dataclass(frozen=True, kw_only=True)
class GEPA:
    """GEPA for systems of named texts.

    Args:
        provider: the model that reflects.
        instances: numbers of the training instances, whose feedback the model reads.
        validation: numbers of the instances by which candidates are chosen; none of the training instances.
        minibatch: training instances in an iteration, >= 1.
        merges: most merges that are tried; 5 in the paper's GEPA+Merge.
        merge_instances: validation instances on which a merge is tried, >= 1.
        temperature: of sampling, >= 0.
        max_tokens: most tokens of a reply.
        longest: most characters of a text; a longer one counts as a reply that cannot be parsed.
        longest_feedback: characters of the feedback on one instance that are shown; more are cut out of its middle.
        perfect: loss at which there is nothing to learn: a minibatch without more is passed over.
        worst: loss that a failed instance counts as, and what is shown as score 0, > 0.

    Raises:
        SettingError: an argument outside its range.
    """

    provider: Any
    instances: Sequence[int]
    validation: Sequence[int]
    minibatch: int = 3
    merges: int = 0
    merge_instances: int = 5
    temperature: float = 1.0
    max_tokens: int = 2048
    longest: int = 8000
    longest_feedback: int = 2000
    perfect: float = 0.0
    worst: float = 1.0

    def __post_init__(self) -> None:
        require_model_settings(self.provider, self.temperature, self.max_tokens, self.longest, self.worst)
        object.__setattr__(self, "instances", require_instances("instances", self.instances))
        object.__setattr__(self, "validation", require_instances("validation", self.validation))
        if both := set(self.instances) & set(self.validation):
            raise SettingError(f"validation must be other instances than the training instances; both have {both}")
        for name, low in (("minibatch", 1), ("merges", 0), ("merge_instances", 1), ("longest_feedback", 1)):
            require_integer(name, getattr(self, name), low=low, optional=False)

    @functools.cached_property
    def client(self) -> Client:
        """Whom the questions go to."""
        return client_of(self.provider)

    def __getstate__(self) -> dict[str, Any]:
        return without_client(self)

    def init(self, key: Key, seed: Mapping[str, str]) -> GEPAState:
        """The state before the first evaluation, that of ``seed`` on the validation instances."""
        require_key(key)
        if not isinstance(seed, Mapping) or not seed:
            raise SettingError(f"seed must be a dictionary of at least one named text; got {seed!r}")
        for name, text in seed.items():
            require_text("seed's names", name)
            require_text(f"seed[{name!r}]", text)
        return GEPAState(
            key=key, phase="seed", iteration=0, pool=(), genome=dict(seed), parents=(), component="", batch=(),
            losses=(), feedback=(), merges=0, is_merge_due=False, tried=(), accepted=0, rejected=0,
            counts=ReplyCounts(),
        )  # fmt: skip

    def ask(self, state: GEPAState) -> Proposals[Mapping[str, str]]:
        """The genome of this phase. In "propose" the model is asked; if its replies cannot be read it is the parent.

        Raises:
            BudgetExhausted: a limit of the client has no room for a request.
        """
        if state.phase != "propose":
            return Proposals([state.genome])
        texts = propose(
            self.client, [self.reflection(state)], key=state.key, generation=state.iteration,
            temperature=self.temperature, max_tokens=self.max_tokens, longest=self.longest,
        )  # fmt: skip
        children = [state.genome if text is None else {**state.genome, state.component: text} for text in texts]
        return Proposals(children, texts.counts, texts.error)

    def batch(self, state: GEPAState) -> tuple[int, ...]:
        """The minibatch, or all validation instances."""
        return state.batch or tuple(self.validation)

    def tell(
        self,
        state: GEPAState,
        genomes: Sequence[Mapping[str, str]],
        scores: Any,
        feedback: Sequence[Sequence[str]] = (),
    ) -> GEPAState:
        """The state of the next phase.

        Args:
            state: that the genome was asked of.
            genomes: the one that was asked; if none, the phase begins again.
            scores: losses of shape (1, instances), in the order of :meth:`batch`.
            feedback: in words, for each instance; the model reads that of the phase "trace".

        Raises:
            TellError: more than one genome, or scores of another shape.
        """
        if len(genomes) > 1:
            raise TellError(f"genomes must be the one that was asked, got {len(genomes)}")
        batch = self.batch(state)
        losses = told_losses(genomes, scores, len(batch), is_mean_enough=False)
        if not genomes:
            return state
        (row,), (mean,) = losses.tolist(), mean_losses(losses, self.worst)
        state = state._replace(counts=state.counts.plus(counts_of(genomes)))
        genome = dict(genomes[0])
        if state.phase in ("seed", "validate"):
            component = state.pool[state.parents[0]].component if state.parents else 0
            joined = Candidate(genome, state.parents, tuple(row), mean, component)
            accepted = state.accepted + (state.phase == "validate")
            is_due = len(state.parents) == 1  # after a rewritten child: a merged one has two
            return self._begin(state._replace(pool=(*state.pool, joined), accepted=accepted, is_merge_due=is_due))
        if state.phase == "trace":
            if max(row) <= self.perfect:
                return self._begin(state)
            words = tuple(feedback[0]) if feedback else ("",) * len(batch)
            return state._replace(phase="propose", losses=tuple(row), feedback=words)
        if state.phase == "merge":
            rivals = [self._validated(state, number, batch) for number in state.parents]
            is_accepted = mean <= min(mean_losses(np.asarray(rivals), self.worst))
        else:
            is_accepted = mean < mean_losses(np.asarray([state.losses]), self.worst)[0]
        if is_accepted and all(genome != candidate.genome for candidate in state.pool):
            return state._replace(phase="validate", genome=genome, batch=(), losses=(), feedback=())
        return self._begin(state._replace(rejected=state.rejected + 1))

    def recommend(self, state: GEPAState) -> Mapping[str, str]:
        """The candidate with the least mean loss on the validation instances."""
        return self.finalists(state, 1)[0]

    def finalists(self, state: GEPAState, n: int) -> list[Mapping[str, str]]:
        """Up to ``n`` candidates, those with the least mean loss first; the seed before it was evaluated."""
        best = sorted(state.pool, key=lambda candidate: candidate.loss)[:n]
        return [candidate.genome for candidate in best] or [state.genome]

    def front(self, state: GEPAState) -> list[int]:
        """On how many validation instances each candidate leads, 0 for dominated ones."""
        return items_led([candidate.losses for candidate in state.pool])

    def reflection(self, state: GEPAState) -> tuple[Message, ...]:
        """What the model is asked in the phase "propose"."""
        parts = [
            "A language model did a task with this prompt:\n",
            f"{delimited(state.genome[state.component])}\n",
            "Here is how it went on some instances, each with a score from 0 to 100 and feedback:\n",
        ]
        for loss, words in zip(state.losses, state.feedback, strict=True):
            seen = f"score: {shown_score(loss, self.worst)}\n{shortened(words, self.longest_feedback)}"
            parts.append(f"{delimited(seen, 'example')}\n")
        parts.append(
            "Find out what the task is, what facts about it the feedback tells, and what went wrong. Write a better"
            " prompt that says all that a model needs to know, also for instances other than these. Put it between"
            " <prompt> and </prompt>."
        )
        return prompt("\n".join(parts), SYSTEM)

    def _begin(self, state: GEPAState) -> GEPAState:
        """The first phase of the next iteration, or a merge that is due."""
        led = self.front(state)
        state = state._replace(losses=(), feedback=(), component="")
        if state.is_merge_due and state.merges < self.merges:
            state = state._replace(is_merge_due=False)
            draws = Draws(state.key, state.merges, purpose=MERGES)
            leaders = [number for number, items in enumerate(led) if items]
            possible = [merge for merge in possible_merges(state.pool, leaders) if merge not in state.tried]
            if possible:
                merge = draws.choose(possible)
                child = merged(state.pool, merge, draws)
                first, second = state.pool[merge.first].losses, state.pool[merge.second].losses
                places = telling_instances(first, second, min(self.merge_instances, len(first)), draws)
                state = state._replace(merges=state.merges + 1, tried=(*state.tried, merge))
                if all(child != candidate.genome for candidate in state.pool):
                    batch = tuple(self.validation[place] for place in places)
                    return state._replace(phase="merge", genome=child, parents=(merge.first, merge.second), batch=batch)
        number = Draws(state.key, state.iteration).roulette(led)
        parent = state.pool[number]
        names = list(parent.genome)
        turned = parent._replace(component=(parent.component + 1) % len(names))
        return state._replace(
            phase="trace",
            iteration=state.iteration + 1,
            pool=(*state.pool[:number], turned, *state.pool[number + 1 :]),
            genome=parent.genome,
            parents=(number,),
            component=names[parent.component],
            batch=minibatch(state.key, state.iteration, self.instances, self.minibatch),
        )

    def _validated(self, state: GEPAState, number: int, batch: Sequence[int]) -> list[float]:
        """A candidate's losses on some of the validation instances."""
        known = dict(zip(self.validation, state.pool[number].losses, strict=True))
        return [known[instance] for instance in batch]
