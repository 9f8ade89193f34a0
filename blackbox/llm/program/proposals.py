"""How one generation of programs is made: parents, operators, answers of models, and what is rejected.

Every place of a generation is filled in up to ``tries`` rounds; in each, the requests of all places that are still
empty are asked for at once. An answer that makes no program is repaired once, in the next round. What is left empty
after all rounds is filled by the offline operators. All decisions are functions of the state's key, the generation and
the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from blackbox.draws import Draws
from blackbox.errors import ProviderError
from blackbox.llm.budget import UNIT
from blackbox.llm.client import Client
from blackbox.llm.program.bandit import pull
from blackbox.llm.program.parents import draw_parent, inspirations
from blackbox.llm.program.prompts import Shown, child, messages
from blackbox.llm.program.refusals import Refusals
from blackbox.llm.program.state import EvolutionState, Generation, Member, Program, Rejected
from blackbox.llm.program.variation import vary
from blackbox.llm.provider import Request

if TYPE_CHECKING:
    from blackbox.llm.program.evolution import ProgramEvolution

OFFLINE = "offline"
_VARIANTS = 20  # attempts of the offline operators at one place in one round


class Repair(NamedTuple):
    """What did not work, and why."""

    source: str
    """The program that is to be edited."""
    parents: tuple[int, ...]
    operator: str
    complaint: str


@dataclass
class Place:
    """One of a generation."""

    number: int
    island: int
    program: Program | None = None
    rejected: list[Rejected] = field(default_factory=list)
    repair: Repair | None = None
    repaired: bool = False


class Asked(NamedTuple):
    """A request under way."""

    place: Place
    client: Client
    request: Request
    operator: str
    source: str
    parents: tuple[int, ...]
    edits: str
    """The operator by whose form the answer is read."""


class Proposals:
    """Programs of one generation."""

    def __init__(self, strategy: ProgramEvolution, state: EvolutionState) -> None:
        self.strategy, self.state = strategy, state
        self.refusals = Refusals(state, strategy.novelty, strategy.longest)
        self.priced = all(client.budget.prices is not None for client in strategy.clients)

    def make(self, first: int, n: int) -> Generation:
        """Programs of the places from ``first`` on; fewer than ``n`` if nothing new was found for some."""
        strategy, state = self.strategy, self.state
        count = max(1, len(state.islands))
        places = [Place(number, (state.generation + number) % count) for number in range(first, first + n)]
        if state.generation == 0 and first == 0:
            places[0].program = Program(state.start)
            self.refusals.join(state.start)
        if strategy.clients:
            for place in places:
                if not 1 <= place.number <= len(state.broken):  # the first place is never one of repair
                    continue
                broken = state.broken[place.number - 1]
                program = broken.program
                place.repair = Repair(program.source, program.parents, "repair", broken.feedback or "it failed")
                place.island = program.island % count
        for attempt in range(strategy.tries):
            self._round([place for place in places if place.program is None], attempt)
        if strategy.primitives is not None:
            for place in places:
                if place.program is None:
                    place.rejected.append(Rejected("", "fallback"))
                    self._vary(place, "", Draws(state.key, state.generation, place.number, strategy.tries))
        return _carried(places)

    def _round(self, places: Sequence[Place], attempt: int) -> None:
        arms, weights = dict(self.state.arms), self.strategy.arms()
        asked: list[Asked] = []
        for place in places:
            draws = Draws(self.state.key, self.state.generation, place.number, attempt)
            if place.repair is not None and not place.repaired:
                client = draws.choose(self.strategy.clients)
                asked.append(self._repair(place, client, draws, attempt))
                continue
            arm = self.strategy.bandit.choose(arms, weights, draws)
            arms = pull(arms, arm)
            model, operator = arm.rsplit("/", 1)
            if model == OFFLINE:
                self._vary(place, operator, draws)
            else:
                client = next(client for client in self.strategy.clients if client.provider.model == model)
                asked.append(self._request(place, client, operator, draws, attempt))
        for client in self.strategy.clients:
            mine = [one for one in asked if one.client is client]
            if not mine:
                continue
            for one, outcome in zip(mine, client.complete_all([one.request for one in mine]), strict=True):
                if isinstance(outcome, ProviderError):
                    model = client.provider.model
                    one.place.rejected.append(Rejected(f"{model}/{one.operator}", f"provider: {outcome}"[:200]))
                else:
                    self._take(one, outcome.texts[0], outcome.tokens_in, outcome.tokens_out)

    # ---- without a model

    def _vary(self, place: Place, operator: str, draws: Draws) -> None:
        primitives = self.strategy.primitives
        assert primitives is not None
        weights = self.strategy.offline
        for attempt in range(_VARIANTS):
            if operator and attempt == _VARIANTS // 4:
                place.rejected.append(Rejected(f"{OFFLINE}/{operator}", "idle"))  # it finds nothing new here
            if not operator or attempt >= _VARIANTS // 4:
                operator = draws.weighted(tuple(weights), tuple(weights.values()))
            parent, source = self._parent(place, draws)
            donor, other = self._parent(place, draws) if operator == "crossover" else (None, "")
            made = vary(source, operator, primitives, draws, other)
            arm = f"{OFFLINE}/{operator}"
            reason = self.refusals.reason(made) if made else "nothing"
            if not reason:
                self.refusals.join(made)
                parents = tuple(number for number in (parent, donor) if number is not None)
                place.program = Program(made, operator, OFFLINE, parents, place.island)
                return
            place.rejected.append(Rejected(arm, reason))

    # ---- with one

    def _request(self, place: Place, client: Client, operator: str, draws: Draws, attempt: int) -> Asked:
        number, source = self._parent(place, draws)
        shown = [self._shown(other) for other in inspirations(self.strategy, self.state, place.island, number, draws)]
        score = None if number is None else self.state.members[number].score
        feedback = "" if number is None else self.state.members[number].feedback
        conversation = messages(operator, self.strategy.task, [*shown, Shown(source, score, feedback)])
        parents = () if number is None else (number,)
        request = self._of(conversation, place, draws, attempt)
        return Asked(place, client, request, operator, source, parents, operator)

    def _repair(self, place: Place, client: Client, draws: Draws, attempt: int) -> Asked:
        assert place.repair is not None
        source, parents, operator, complaint = place.repair
        place.repaired = True
        edits = "diff" if operator == "diff" else "rewrite"
        conversation = messages("repair", self.strategy.task, [Shown(source, None, "")], complaint, edits=edits)
        return Asked(place, client, self._of(conversation, place, draws, attempt), "repair", source, parents, edits)

    def _of(self, conversation: tuple[object, ...], place: Place, draws: Draws, attempt: int) -> Request:
        number = (self.state.generation << 16) + place.number * self.strategy.tries + attempt
        high, low = map(int, self.state.key)
        sample = (high << 96) + (low << 64) + number  # runs of other keys get answers of their own
        temperature = draws.choose(self.strategy.temperatures)
        limit = self.strategy.max_tokens
        return Request(conversation, temperature=temperature, max_tokens=limit, sample=sample)  # type: ignore[arg-type]

    def _take(self, one: Asked, answer: str, tokens_in: int, tokens_out: int) -> None:
        """Make a program of an answer, or note why it is none."""
        model, place = one.client.provider.model, one.place
        tokens = tokens_in + tokens_out
        price = one.client.budget.price(tokens_in, tokens_out, model) if self.priced else None
        cost = tokens / 1e6 if price is None else price / UNIT
        edited = child(one.edits, one.source, answer)
        reason = f"edit: {edited.reason}" if edited.reason else self.refusals.reason(edited.source)
        if reason:
            place.rejected.append(Rejected(f"{model}/{one.operator}", reason, tokens, cost))
            if edited.reason:
                said = f"{edited.reason}\nThe answer was:\n{answer}"
                place.repair = Repair(one.source, one.parents, one.edits, said)
            return
        self.refusals.join(edited.source)
        key = one.request.key(model)
        place.program = Program(edited.source, one.operator, model, one.parents, place.island, key, tokens, cost)

    def _shown(self, number: int) -> Shown:
        member: Member = self.state.members[number]
        return Shown(member.program.source, member.score, member.feedback)

    def _parent(self, place: Place, draws: Draws) -> tuple[int | None, str]:
        """Number and source of a parent; of an island without programs the start."""
        number = draw_parent(self.strategy, self.state, place.island, draws)
        return number, self.state.start if number is None else self.state.members[number].program.source


def arms_of(
    models: Sequence[str], online: dict[str, float], offline: dict[str, float], share: float
) -> dict[str, float]:
    """Prior weights of the bandit's arms: ``share`` of them for the offline operators, the rest for the models."""
    own = sum(offline.values()) or 1.0
    weights = {f"{OFFLINE}/{name}": share * weight / own for name, weight in offline.items()} if share else {}
    for model in dict.fromkeys(models):
        every = sum(online.values()) * len(dict.fromkeys(models))
        weights |= {f"{model}/{name}": (1 - share) * weight / every for name, weight in online.items()}
    return weights


def _carried(places: Sequence[Place]) -> Generation:
    """The programs, each with what was rejected before it in its place."""
    return Generation(
        [place.program._replace(rejected=tuple(place.rejected)) for place in places if place.program is not None],
        [one for place in places if place.program is None for one in place.rejected],
    )
