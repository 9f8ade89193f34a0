"""What a state becomes when programs come with their scores: islands, archive, bandit, and what is to be repaired."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from blackbox.draws import Draws
from blackbox.errors import TellError
from blackbox.llm.program import islands as of_islands
from blackbox.llm.program.elites import cell, features, insert
from blackbox.llm.program.identity import digest
from blackbox.llm.program.proposals import OFFLINE
from blackbox.llm.program.sites import size
from blackbox.llm.program.state import EvolutionState, Member, Program, Rejected

if TYPE_CHECKING:
    from blackbox.llm.program.evolution import ProgramEvolution

_KEPT = 4000  # characters of what an evaluation said


class Arrivals:
    """A state to which programs come, one after the other."""

    def __init__(self, strategy: ProgramEvolution, state: EvolutionState) -> None:
        self.strategy, self.before = strategy, state
        self.members, self.archive = dict(state.members), dict(state.archive)
        self.islands, self.arrivals = [list(island) for island in state.islands], list(state.arrivals)
        self.scores = {number: member.score for number, member in state.members.items()}
        self.unit = of_islands.spread(list(self.scores.values())) if self.scores else 1.0
        self.best, self.improvements = state.best, state.improvements
        self.broken: list[Member] = []
        self.counts = Counter(state.counts)
        self.pulls: list[tuple[str, float, float]] = []
        self.programs: list[Program] = []
        self.tokens, self.costs = 0, list[float]()

    def add(self, program: Program, scores: tuple[float, ...], feedback: str) -> None:
        """One more; it has failed if it has no score, or one that is not finite.

        Raises:
            TellError: it has scores, and is no Python.
        """
        member = Member(program, scores, feedback[:_KEPT])
        valid = bool(scores) and all(map(math.isfinite, scores))
        if valid:
            self._settle(member)
        else:
            self.counts["failed"] += 1
            if program.model not in ("", OFFLINE) and program.operator != "repair":
                self.broken.append(member._replace(scores=()))
        self.counts["programs"] += 1
        if program.operator == "repair":
            self.counts["repaired" if valid else "not repaired"] += 1
        self.reject(program.rejected)
        if program.arm:
            base = self.scores.get(program.parents[0]) if program.parents else None
            gain = max(0.0, base - member.score) / self.unit if base is not None and valid else 0.0
            self.pulls.append((program.arm, gain / (1 + gain), program.cost))
        self.tokens += program.tokens
        self.costs.append(program.cost)
        self.programs.append(program)

    def reject(self, rejected: Iterable[Rejected]) -> None:
        """Count proposals that were no programs, and what they cost."""
        for one in rejected:
            reason = one.reason.partition(":")[0]
            self.counts[reason] += 1
            self.tokens += one.tokens
            self.costs.append(one.cost)
            if one.tokens or reason in ("provider", "idle"):
                self.pulls.append((one.arm, 0.0, one.cost))

    def state(self, evaluations: int) -> EvolutionState:
        """The state of the next generation, after so many evaluations more."""
        before, strategy, told = self.before, self.strategy, self.programs
        generation = before.generation + 1
        self._renew(generation)
        kept = {self.best, *self.archive.values(), *(number for island in self.islands for number in island)}
        return before._replace(
            generation=generation,
            told=before.told + len(told),
            evaluations=before.evaluations + evaluations,
            members={number: member for number, member in self.members.items() if number in kept},
            islands=tuple(map(tuple, self.islands)),
            arrivals=tuple(self.arrivals),
            archive=self.archive,
            best=self.best,
            seen=before.seen | {digest(program.source) for program in told},
            broken=tuple(self.broken),
            arms=strategy.bandit.update(before.arms, self.pulls) if self.pulls else before.arms,
            counts=dict(sorted(self.counts.items())),
            improvements=self.improvements,
            tokens=before.tokens + self.tokens,
            cost=before.cost + math.fsum(self.costs),
        )

    def _settle(self, member: Member) -> None:
        """A member of its island, and of the archive if it is the best of its kind."""
        strategy, program, number = self.strategy, member.program, self.before.told + len(self.programs)
        try:
            place = cell(features(program.source, self.before.start, strategy.longest), strategy.bins)
        except SyntaxError as error:
            raise TellError(f"programs with scores must be Python; one is not: {error}") from None
        home = program.island % len(self.islands)
        self.members[number] = member._replace(program=program._replace(rejected=()))  # that is counted, and long
        self.scores[number] = member.score
        self.islands[home].append(number)
        self.arrivals[home] += 1
        self.archive = insert(self.archive, place, number, self.scores)
        if self.best < 0 or member.score < self.scores[self.best]:
            self.best, self.improvements = number, self.improvements + (self.best >= 0)

    def _renew(self, generation: int) -> None:
        """Let the best migrate and the weak begin again when it is time, and the worst leave."""
        strategy, islands = self.strategy, self.islands
        if len(islands) > 1 and strategy.migrate_every and generation % strategy.migrate_every == 0:
            of_islands.migrate(islands, self.scores)
        if len(islands) > 1 and strategy.reset_every and generation % strategy.reset_every == 0:
            draws = Draws(self.before.key, generation, 0, strategy.tries + 1)
            for i in of_islands.restart(islands, self.scores, draws):
                self.arrivals[i] = 0
        for i, island in enumerate(islands):
            lengths = [size(self.members[number].program.source) for number in island]
            rows = [self.members[number].scores for number in island]
            order = of_islands.survivors(rows, lengths, strategy.cluster_size)[: strategy.island_size]
            islands[i] = [island[one] for one in order]
