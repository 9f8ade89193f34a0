"""EvoLLM: a language model continues a sorted list of solutions, and its answer is the mean of the next generation.

Source: Lange, Tian & Tang 2024, "Large language models as evolution strategies" (arXiv:2402.18381). With the M best
members of each of the last K generations:

    discretise    the members' coordinates to integers from 0 to R - 1
    list          their losses and integers, the worst first (:mod:`blackbox.llm.scored_list`)
    query         one more line with the loss f_best - delta (f_worst - f_best) and no integers
    m             the integers of the answer; each block of B coordinates is asked for by itself, all at once
    x_i           m + sigma N(0, I)

The first generations are uniform in the box, without a question. An answer that is none is asked for once more, at a
higher temperature; then, or where the provider gives none, the block's mean is that of the newest members by
logarithmic weights, which alone makes an evolution strategy, and the state counts it. The provider's error is raised
where it gives no answer for any block.

Beside the paper, whose table of settings we could not read: R counts within a window around the members that moves and
shrinks with them, not of the box; and by ``step_size`` the model also says how far to look around m in each coordinate
("asked"), or sigma is the spread of the newest members around the mean before them ("elites"), or the paper's constant
("fixed").
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.arrays import Array, Key
from blackbox.best import Best, better_of, none_yet
from blackbox.errors import ProviderError, SettingError
from blackbox.kernels.noise import normal, uniform
from blackbox.llm.client import Client, client_of, require_an_answer, require_provider, without_client
from blackbox.llm.elite_history import Elites, no_elites, recombined, spread, with_generation
from blackbox.llm.provider import Reply, Request, prompt
from blackbox.llm.scored_list import Answer, Asked, Window, parse, render, window_of
from blackbox.strategy import algorithm, require_box, require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_HOTTER, _HOTTEST = 0.2, 2.0  # by which the temperature rises for the second question, and to where
_MOST_INTEGERS = 1_000_000  # beyond, no model tells them apart
_LEAST_STEP = 1e-12  # of sigma, relative to sigma0


class Stats(NamedTuple):
    """What became of the questions of generations that were told."""

    blocks: Int[Array, ""]
    """Blocks of coordinates that were asked for."""
    repeated: Int[Array, ""]
    """Those whose first answer was none."""
    fallbacks: Int[Array, ""]
    """Those whose second answer was none either, or of which the provider gave none."""
    clipped: Int[Array, ""]
    """Those whose answer was outside of the box, and the mean its nearest point."""


class EvoLLMState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    elites: Elites
    former: Float[ndarray, "d"]
    """The mean of the members before the newest generation."""
    best: Best
    stats: Stats


class _Proposal(NamedTuple):
    mean: Float[ndarray, "d"]
    sigma: Float[ndarray, "d"]
    stats: Stats


@algorithm
class EvoLLM:
    """A language model as the recombination of an evolution strategy.

    Args:
        provider: whom to ask: a :class:`Client`, or a provider, which gets a client without limits; by default the
            model that comes with this package, :class:`Embedded`.
        popsize: members of a generation.
        sigma0: standard deviation of the members with ``step_size="fixed"``, and what bounds that of the elites; what
            is asked for is bounded by half of the box.
        generations: K, shown in the list.
        members: M of each of them, at most popsize.
        warm_up: W, first generations, without a question.
        resolution: R, how many integers there are.
        block: B, most coordinates in one question.
        delta: how much better the desired loss is, in units of the range of those shown.
        step_size: where sigma is from; see the module's documentation.
        temperature: of the model's sampling, at most 2.
        max_tokens: of an answer; models that think before they answer need many.
        low: lower bound of every coordinate.
        high: upper bound of every coordinate.
    """

    provider: Any = None
    popsize: int = 10
    sigma0: float = 0.2
    generations: int = 5
    members: int = 5
    warm_up: int = 2
    resolution: int = 1000
    block: int = 8
    delta: float = 0.1
    step_size: Literal["asked", "elites", "fixed"] = "asked"
    temperature: float = 1.0
    max_tokens: int = 1024
    low: float = 0.0
    high: float = 1.0

    pure: ClassVar[bool] = False
    injectable: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("popsize", "generations", "members", "warm_up", "block"):
            require_integer(name, getattr(self, name), low=1, optional=False)
        require_integer("max_tokens", self.max_tokens, low=1, optional=False)
        require_integer("resolution", self.resolution, low=10, optional=False)
        if self.resolution > _MOST_INTEGERS:
            raise SettingError(f"resolution must be at most {_MOST_INTEGERS}; got {self.resolution}")
        if self.generations * min(self.members, self.popsize) < 2:
            raise SettingError(
                "generations times members, of which there are at most popsize, must be at least 2: a list of one is"
                f" none; got generations={self.generations}, members={self.members}, popsize={self.popsize}"
            )
        require_number("sigma0", self.sigma0, above=0)
        require_number("delta", self.delta, low=0)
        require_number("temperature", self.temperature, low=0, high=_HOTTEST)
        require_one_of("step_size", self.step_size, ("asked", "elites", "fixed"))
        require_box(self.low, self.high)
        if self.provider is not None:
            require_provider(self.provider)

    @functools.cached_property
    def client(self) -> Client:
        """Whom the questions go to."""
        return client_of(self.provider)

    def init(self, key: Key, x0: Float[Array, "d"]) -> EvoLLMState:
        start, zero = np.asarray(x0), np.asarray(0)[()]
        return EvoLLMState(
            key=np.asarray(key),
            generation=zero,
            elites=no_elites(self.generations, min(self.members, self.popsize), len(start)),
            former=np.asarray(start, np.float64),
            best=none_yet(start),
            stats=Stats(zero, zero, zero, zero),
        )

    def ask(self, state: EvoLLMState, first: int = 0) -> Float[ndarray, "n d"]:
        """The next members; may ask the model, whose answers the client keeps.

        Where the provider has failed to answer for a block, another call asks it again, and may give other members.

        Raises:
            BudgetExhausted: the client has no room for the question.
            ProviderError: the provider gave no answer for any block.
        """
        shape, like = (self.popsize, len(state.former)), state.former
        if self._warming(state):
            u = uniform(state.key, state.generation, shape, leaf=1, first=first, like=like)
            members = self.low + (self.high - self.low) * u
            if state.generation == 0 and first == 0:
                members[0] = state.former
        else:
            proposal = self._proposal(state, self._bought)
            assert proposal is not None
            z = normal(state.key, state.generation, shape, first=first, like=like)
            members = np.clip(proposal.mean + proposal.sigma * z, self.low, self.high)
        return members.astype(state.best.x.dtype)

    def tell(self, state: EvoLLMState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> EvoLLMState:
        """Never asks the model: the counts are those of answers that the client has."""
        proposal = None if self._warming(state) else self._proposal(state, self.client.stored)
        elites = with_generation(state.elites, np.asarray(population), np.asarray(fitness))
        return EvoLLMState(
            key=state.key,
            generation=state.generation + 1,
            elites=elites,
            former=state.former if self._warming(state) or elites is state.elites else recombined(state.elites),
            best=better_of(state.best, np.asarray(population, state.best.x.dtype), np.asarray(fitness)),
            stats=state.stats if proposal is None else Stats(*map(np.add, state.stats, proposal.stats)),
        )

    def recommend(self, state: EvoLLMState) -> Float[Array, "d"]:
        return state.best.x

    def dimension(self, state: EvoLLMState) -> int:
        """The length of points, which populations are checked for."""
        return len(state.former)

    def _warming(self, state: EvoLLMState) -> bool:
        """Whether no question is due: the list would have less than two lines."""
        return bool(state.generation < self.warm_up) or state.elites.known.sum() < 2

    def _proposal(self, state: EvoLLMState, complete: Any) -> _Proposal | None:
        """Mean and sigma by the model's answers; None if ``complete`` has none for one of the questions."""
        solutions, losses = state.elites.worst_first()
        mean = recombined(state.elites)
        window = window_of(solutions, mean, self.resolution)
        step = self.sigma0 if self.step_size == "fixed" else min(spread(state.elites, state.former), self.sigma0)
        sigma = np.full(len(mean), max(step, _LEAST_STEP * self.sigma0))
        blocks = [slice(start, start + self.block) for start in range(0, len(mean), self.block)]
        asked = [self._asked(window, solutions[:, block], losses, block) for block in blocks]
        repeated = fallbacks = clipped = 0
        due = list(range(len(blocks)))
        for again in (False, True):
            outcomes = complete([self._request(asked[i], again) for i in due])
            if not again and None in outcomes:  # nobody asked in this state
                return None
            unread = []
            for i, outcome in zip(due, outcomes, strict=True):
                answer = _answer(outcome, asked[i])
                if answer is not None:
                    answered = window._replace(center=window.center[blocks[i]]).points(answer.integers)
                    mean[blocks[i]] = np.clip(answered, self.low, self.high)
                    clipped += int(np.any(mean[blocks[i]] != answered))
                    if answer.spread is not None and self.step_size == "asked":
                        widest = (self.high - self.low) / 2
                        sigma[blocks[i]] = np.minimum(window.lengths(np.maximum(answer.spread, 0.5)), widest)
                elif isinstance(outcome, Reply) and not again:
                    unread.append(i)
                else:
                    fallbacks += 1
            if again or not unread:
                break
            repeated, due = len(unread), unread
        counts = np.asarray([len(blocks), repeated, fallbacks, clipped])
        return _Proposal(np.clip(mean, self.low, self.high), sigma, Stats(*counts))

    def _bought(self, requests: list[Request]) -> list[Reply | ProviderError]:
        """What the client gives; its error where that is nothing for the first questions of a generation."""
        outcomes = self.client.complete_all(requests)
        if requests[0].sample == 0:
            require_an_answer(outcomes)
        return outcomes

    def _asked(
        self, window: Window, solutions: Float[ndarray, "n b"], losses: Float[ndarray, "n"], block: slice
    ) -> Asked:
        integers = window._replace(center=window.center[block]).integers(solutions)
        desired = losses[-1] - self.delta * (losses[0] - losses[-1])
        return Asked(integers, losses, float(desired), self.step_size == "asked", self.resolution)

    def _request(self, asked: Asked, again: bool) -> Request:
        temperature = min(self.temperature + _HOTTER * again, _HOTTEST)
        return Request(prompt(render(asked)), temperature=temperature, max_tokens=self.max_tokens, sample=int(again))

    def __getstate__(self) -> dict[str, Any]:
        return without_client(self)


def _answer(outcome: Reply | ProviderError | None, asked: Asked) -> Answer | None:
    if not isinstance(outcome, Reply) or outcome.finish[0] == "length":  # what is cut may be cut within a number
        return None
    return parse(outcome.texts[0], asked.integers.shape[1], asked.resolution, asked.spread)
