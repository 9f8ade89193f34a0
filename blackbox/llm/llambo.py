"""LLAMBO: Bayesian optimization whose candidate sampler and surrogate are a language model.

Source: Liu, Astorga, Seedat & van der Schaar 2024, "Large language models to enhance Bayesian optimization"
(arXiv:2402.03921), sections 4 and 5; with s_min and s_max the least and greatest loss so far:

    target       s' = s_min - alpha (s_max - s_min), of the pairs that are shown
    sampler      x'_k ~ answers to: the pairs so far, in random order, "a configuration whose loss is s'"
    surrogate    s_k1..s_kn ~ answers to: the pairs in another order, "the loss of x'_k"
    next         the x'_k of greatest expected improvement, E max(0, s_min - s), s normal by the answers' moments

The first ``start`` points are uniform: the paper's warm start by knowledge of the problem is what ``x0`` and injected
points bring, and its jitter of the target and second template are left out. Candidates that are none, those shown, and
the members before in the generation are dropped; if none is left, the member is uniform and the state counts it. A
candidate without two readable predictions has no improvement. The provider's error is raised where it proposes nothing
for any member.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.arrays import Array, Key
from blackbox.best import Best, better_of, none_yet
from blackbox.errors import ProviderError, SettingError
from blackbox.kernels.noise import uniform
from blackbox.llm.client import Client, client_of, recalled, require_an_answer, require_provider, without_client
from blackbox.llm.provider import Refused, Reply, Request, prompt
from blackbox.llm.scored_list import written
from blackbox.llm.scored_pairs import Pairs, no_pairs, with_results
from blackbox.strategy import algorithm, require_box, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_NUMBER = r"-?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_DIGITS = 4  # of coordinates and losses in prompts


class LLAMBOState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    pairs: Pairs
    best: Best
    fallbacks: Int[Array, ""]
    """Members of told generations that are uniform because no answer was a new configuration."""


Complete = Callable[[Sequence[Request]], Sequence[Reply | ProviderError | None]]
"""What becomes of requests."""


@algorithm
class LLAMBO:
    """Language models as sampler and surrogate, for few and expensive evaluations.

    Args:
        provider: whom to ask: a :class:`Client`, or a provider, which gets a client without limits.
        task: what is optimized, in words, if the model may know.
        names: of the coordinates; by default x1, x2 and so on.
        popsize: members of a generation, each chosen among candidates of its own.
        start: evaluations before the model is asked.
        shown: pairs in a prompt at most, the best ones.
        candidates: answers of the sampler for each member.
        predictions: answers of the surrogate for each candidate.
        alpha: how much better than the best the target is, in units of the range of losses; the paper's 0.1.
        temperature: of the model's sampling.
        low: lower bound of every coordinate.
        high: upper bound of every coordinate.
    """

    provider: Any
    task: str = ""
    names: tuple[str, ...] | None = None
    popsize: int = 1
    start: int = 5
    shown: int = 30
    candidates: int = 10
    predictions: int = 5
    alpha: float = 0.1
    temperature: float = 0.8
    low: float = 0.0
    high: float = 1.0

    pure: ClassVar[bool] = False
    injectable: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_provider(self.provider)
        if not isinstance(self.task, str):
            raise SettingError(f"task must be a string; got {self.task!r}")
        named = self.names is None or (
            isinstance(self.names, tuple) and all(isinstance(name, str) and "=" not in name for name in self.names)
        )
        if not named or len(set(self.names or ())) < len(self.names or ()):
            raise SettingError(f"names must be a tuple of different strings without '='; got {self.names!r}")
        least = {"popsize": 1, "start": 2, "shown": 2, "candidates": 1, "predictions": 2}
        for name, low in least.items():
            require_integer(name, getattr(self, name), low=low, optional=False)
        require_number("alpha", self.alpha)
        require_number("temperature", self.temperature, low=0)
        require_box(self.low, self.high)

    @functools.cached_property
    def client(self) -> Client:
        """Whom the questions go to."""
        return client_of(self.provider)

    def init(self, key: Key, x0: Float[Array, "d"]) -> LLAMBOState:
        start, zero = np.asarray(x0), np.asarray(0)[()]
        if self.names is not None and len(self.names) != len(start):
            raise SettingError(f"names must be {len(start)}, one for each coordinate; got {self.names!r}")
        return LLAMBOState(np.asarray(key), zero, no_pairs(self.shown, len(start)), none_yet(start), zero)

    def ask(self, state: LLAMBOState, first: int = 0) -> Float[ndarray, "n d"]:
        """The members of most expected improvement; may ask the model, whose answers the client keeps.

        They are none of those before ``first``, for which it is asked, too, if it was not. Where the provider has
        failed to answer, another call asks it again, and may give other members.

        Raises:
            BudgetExhausted: the client has no room for the questions.
            ProviderError: the provider proposed nothing.
        """
        members = self._uniform(state, first)
        if self._asks(state):
            earlier, these = functools.partial(recalled, self.client), self.client.complete_all
            chosen = self._chosen(state, [earlier] * first + [these] * self.popsize)[first:]
            for place, point in enumerate(chosen):
                if point is not None:
                    members[place] = point
        elif state.generation == 0 and first == 0:
            members[0] = state.best.x
        return members.astype(state.best.x.dtype)

    def tell(self, state: LLAMBOState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> LLAMBOState:
        """Never asks the model."""
        missed = 0
        if self._asks(state):
            outcomes = self.client.stored([self._sampling(state, member) for member in range(self.popsize)])
            if all(isinstance(outcome, Reply | Refused) for outcome in outcomes):  # else they were not asked for here
                chosen = self._chosen(state, [self.client.stored] * self.popsize)
                missed = sum(point is None for point in chosen)
        return LLAMBOState(
            key=state.key,
            generation=state.generation + 1,
            pairs=with_results(state.pairs, np.asarray(population), np.asarray(fitness)),
            best=better_of(state.best, np.asarray(population, state.best.x.dtype), np.asarray(fitness)),
            fallbacks=state.fallbacks + missed,
        )

    def recommend(self, state: LLAMBOState) -> Float[Array, "d"]:
        return state.best.x

    def __getstate__(self) -> dict[str, Any]:
        return without_client(self)

    def _asks(self, state: LLAMBOState) -> bool:
        return int(state.generation) * self.popsize >= self.start and state.pairs.used >= 2

    def _chosen(self, state: LLAMBOState, completes: Sequence[Complete]) -> list[Float[ndarray, "d"] | None]:
        """The first members, one after the other, each by its own way to have requests completed."""
        chosen: list[Float[ndarray, "d"] | None] = []
        for member, complete in enumerate(completes):
            chosen.append(self._best(state, member, [point for point in chosen if point is not None], complete))
        return chosen

    def _best(
        self,
        state: LLAMBOState,
        member: int,
        taken: Sequence[Float[ndarray, "d"]],
        complete: Complete,
    ) -> Float[ndarray, "d"] | None:
        (outcome,) = complete([self._sampling(state, member)])
        require_an_answer([outcome])
        candidates = self._candidates(state, outcome, taken)
        if not candidates:
            return None
        questions = [self._predicting(state, member, number, point) for number, point in enumerate(candidates)]
        least = state.pairs.values[0]
        replies = complete(questions)
        gains = np.array([expected_improvement(_losses(reply), float(least)) for reply in replies])
        return candidates[int(np.argmax(np.where(np.isfinite(gains), gains, -np.inf)))]

    def _candidates(
        self, state: LLAMBOState, outcome: Reply | ProviderError | None, taken: Sequence[Float[ndarray, "d"]]
    ) -> list[Float[ndarray, "d"]]:
        """The configurations among the sampler's answers that are new, and none of those ``taken``."""
        texts = outcome.texts if isinstance(outcome, Reply) else ()
        seen = {self._described(state, point) for point in (*state.pairs.points[: state.pairs.used], *taken)}
        found = []
        for text in texts:
            point = self._configuration(text, state.pairs.points.shape[1])
            if point is not None and self._described(state, point) not in seen:
                seen.add(self._described(state, point))
                found.append(point)
        return found

    def _sampling(self, state: LLAMBOState, member: int) -> Request:
        values = state.pairs.values[: state.pairs.used]
        target = values[0] - self.alpha * (values[-1] - values[0])
        text = f"{self._history(state, 2 * member)}\nloss {written(np.append(values, target))[-1]}:"
        text = f"{self._preamble()} Complete the last line with a configuration that has its loss.\n\n{text}"
        tokens = 16 * (1 + state.pairs.points.shape[1])
        return Request(prompt(text), temperature=self.temperature, max_tokens=tokens, n=self.candidates, sample=member)

    def _predicting(self, state: LLAMBOState, member: int, number: int, point: Float[ndarray, "d"]) -> Request:
        history = self._history(state, 2 * member + 1)
        text = f"{self._preamble()} Say which loss the last configuration has, as one number.\n\n{history}\n"
        text += f"? : {self._described(state, point)}"
        return Request(prompt(text), temperature=self.temperature, max_tokens=32, n=self.predictions, sample=number)

    def _preamble(self) -> str:
        task = f"{self.task.strip()}\n" if self.task else ""
        return (
            f"{task}Configurations with numbers from {self.low:g} to {self.high:g}, and their losses; lower is better."
        )

    def _history(self, state: LLAMBOState, order: int) -> str:
        """The pairs in a random order, as the paper has it: a model makes much of what comes last."""
        count = state.pairs.used
        u = uniform(state.key, state.generation, (1, count), leaf=1, first=order, like=state.pairs.values)
        rows = np.argsort(u[0])
        losses = written(state.pairs.values[:count])
        return "\n".join(f"loss {losses[row]}: {self._described(state, state.pairs.points[row])}" for row in rows)

    def _described(self, state: LLAMBOState, point: Float[ndarray, "d"]) -> str:
        names = self.names or [f"x{i + 1}" for i in range(len(point))]
        decimals = max(0, _DIGITS - 1 - math.floor(math.log10(self.high - self.low)))
        return ", ".join(f"{name} = {value:.{decimals}f}" for name, value in zip(names, point.tolist(), strict=True))

    def _configuration(self, text: str, d: int) -> Float[ndarray, "d"] | None:
        numbers = [float(value) for value in re.findall(rf"= *({_NUMBER})", text)]
        inside = all(self.low <= value <= self.high for value in numbers)
        return np.array(numbers) if inside and len(numbers) == d else None

    def _uniform(self, state: LLAMBOState, first: int) -> Float[ndarray, "n d"]:
        shape = (self.popsize, state.pairs.points.shape[1])
        u = uniform(state.key, state.generation, shape, first=first, like=state.pairs.values)
        members: Float[ndarray, "n d"] = self.low + (self.high - self.low) * u
        return members


def expected_improvement(losses: Sequence[float], least: float) -> float:
    """E max(0, least - s) of a normal s with the losses' mean and deviation; -inf for fewer than two of them."""
    if len(losses) < 2:
        return -math.inf
    mean, deviation = float(np.mean(losses)), float(np.std(losses))
    if deviation == 0:
        return max(0.0, least - mean)
    z = (least - mean) / deviation
    density = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return deviation * (density + z * 0.5 * math.erfc(-z / math.sqrt(2)))


def _losses(reply: object) -> list[float]:
    """The last number of each text of a reply, where it is finite."""
    texts = reply.texts if isinstance(reply, Reply) else ()
    found = [re.findall(_NUMBER, text.replace("\u2212", "-")) for text in texts]
    values = [float(matches[-1]) for matches in found if matches]
    return [value for value in values if math.isfinite(value)]
