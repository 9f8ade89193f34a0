"""OPRO for numbers: a language model is shown the best pairs of solution and value, and writes new solutions.

Source: Yang et al. 2023, "Large language models as optimizers" (arXiv:2309.03409), section 3.1 and appendix C:

    pairs       the 20 best solutions so far, as integers, in descending order of their loss: the best last
    prompt      what a solution is, the pairs, "another one that differs from all of them and has a lower loss"
    x_1..x_8    eight answers at temperature 1; of each the last list in brackets

A solution that is none, is listed, or is that of a member before it in the generation, is asked for once more; then a
uniform point stands in its place, and the state counts it. One that was told and is no longer among the best may come
again: the state keeps no others. The provider's error is raised where it gives no answer at all. The first generation
is x0 and uniform points. For texts there is :class:`TextOPRO`.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.arrays import Array, Key
from blackbox.best import Best, better_of, none_yet
from blackbox.errors import ProviderError, SettingError
from blackbox.kernels.noise import uniform
from blackbox.llm.client import Client, client_of, recalled, require_an_answer, require_provider, without_client
from blackbox.llm.provider import Reply, Request, prompt
from blackbox.llm.scored_list import written
from blackbox.llm.scored_pairs import Pairs, no_pairs, with_results
from blackbox.strategy import algorithm, require_box, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_LIST = re.compile(r"\[([-\d\s,]+)\]")


class OPROState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    pairs: Pairs
    best: Best
    fallbacks: Int[Array, ""]
    """Members of told generations that are uniform because no answer was a new solution."""


@algorithm
class OPRO:
    """Optimization by prompting, for points of a box.

    Args:
        provider: whom to ask: a :class:`Client`, or a provider, which gets a client without limits.
        task: what is optimized, in words, if the model may know.
        popsize: solutions of a generation.
        shown: pairs in the prompt.
        resolution: integers from 0 to one less stand for each coordinate's range.
        temperature: of the model's sampling.
        max_tokens: of an answer.
        low: lower bound of every coordinate.
        high: upper bound of every coordinate.
    """

    provider: Any
    task: str = ""
    popsize: int = 8
    shown: int = 20
    resolution: int = 101
    temperature: float = 1.0
    max_tokens: int = 1024
    low: float = 0.0
    high: float = 1.0

    pure: ClassVar[bool] = False
    injectable: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_provider(self.provider)
        if not isinstance(self.task, str):
            raise SettingError(f"task must be a string; got {self.task!r}")
        for name, least in (("popsize", 1), ("shown", 2), ("resolution", 2), ("max_tokens", 1)):
            require_integer(name, getattr(self, name), low=least, optional=False)
        require_number("temperature", self.temperature, low=0)
        require_box(self.low, self.high)

    @functools.cached_property
    def client(self) -> Client:
        """Whom the questions go to."""
        return client_of(self.provider)

    def init(self, key: Key, x0: Float[Array, "d"]) -> OPROState:
        start, zero = np.asarray(x0), np.asarray(0)[()]
        return OPROState(np.asarray(key), zero, no_pairs(self.shown, len(start)), none_yet(start), zero)

    def ask(self, state: OPROState, first: int = 0) -> Float[ndarray, "n d"]:
        """New solutions, also to those before ``first``; may ask the model, whose answers the client keeps.

        Where the provider has failed to answer, another call asks it again, and may give other solutions.

        Raises:
            BudgetExhausted: the client has no room for the questions.
            ProviderError: the provider gave no answer to any of them.
        """
        members = self._uniform(state, first)
        if not state.generation and not first:
            members[0] = state.best.x
        if state.pairs.used:
            for member, integers in self._solutions(state, first + self.popsize, self._bought).items():
                if member >= first:
                    members[member - first] = self._points(integers)
        return members.astype(state.best.x.dtype)

    def tell(self, state: OPROState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> OPROState:
        """Never asks the model."""
        missed = 0
        if state.pairs.used and None not in self.client.stored(self._requests(state, range(self.popsize), 0)):
            missed = self.popsize - len(self._solutions(state, self.popsize, self.client.stored))
        return OPROState(
            key=state.key,
            generation=state.generation + 1,
            pairs=with_results(state.pairs, np.asarray(population), np.asarray(fitness)),
            best=better_of(state.best, np.asarray(population, state.best.x.dtype), np.asarray(fitness)),
            fallbacks=state.fallbacks + missed,
        )

    def recommend(self, state: OPROState) -> Float[Array, "d"]:
        return state.best.x

    def prompt(self, state: OPROState) -> str:
        """What the model is shown."""
        d = state.pairs.points.shape[1]
        task = f"{self.task.strip()}\n" if self.task else ""
        integers, first = np.unique(self._integers(state.pairs.points[: state.pairs.used]), axis=0, return_index=True)
        order = np.argsort(first)  # of points that round alike the best alone
        losses = written(state.pairs.values[first[order]])
        lines = [
            f"[{', '.join(map(str, row))}] loss {loss}"
            for row, loss in zip(integers[order].tolist(), losses, strict=True)
        ]
        listed = "\n".join(reversed(lines))
        return (
            f"{task}A solution is a list of {d} integers from 0 to {self.resolution - 1}. Solutions with their losses,"
            f" in descending order of loss; lower is better:\n\n{listed}\n\nGive one solution that"
            " differs from all above and has a lower loss than any of them. End with the list in square brackets."
        )

    def _bought(self, requests: list[Request]) -> list[Reply | ProviderError]:
        """What the client gives; its error where that is nothing for a whole generation."""
        outcomes = self.client.complete_all(requests)
        if len(outcomes) == self.popsize:
            require_an_answer(outcomes)
        return outcomes

    def _solutions(self, state: OPROState, end: int, complete: Any) -> dict[int, tuple[int, ...]]:
        """By member, of those before ``end``, the new solutions among the answers."""
        known = {tuple(row) for row in self._integers(state.pairs.points[: state.pairs.used]).tolist()}
        found: dict[int, tuple[int, ...]] = {}
        for page in range(0, end, self.popsize):
            open_ = list(range(page, min(end, page + self.popsize)))
            for again in (0, 1):
                requests = self._requests(state, open_, again)
                is_earlier = page + self.popsize <= end - self.popsize
                replies = recalled(self.client, requests) if is_earlier else complete(requests)
                for member, reply in zip(list(open_), replies, strict=True):
                    solution = self._parsed(reply, state.pairs.points.shape[1])
                    if solution is not None and solution not in known:
                        known.add(solution)
                        found[member] = solution
                        open_.remove(member)
                if not open_:
                    break
        return found

    def __getstate__(self) -> dict[str, Any]:
        return without_client(self)

    def _requests(self, state: OPROState, members: Any, again: int) -> list[Request]:
        messages = prompt(self.prompt(state))
        return [
            Request(messages, temperature=self.temperature, max_tokens=self.max_tokens, sample=2 * member + again)
            for member in members
        ]

    def _parsed(self, reply: object, d: int) -> tuple[int, ...] | None:
        whole = isinstance(reply, Reply) and reply.finish[0] != "length"
        lists = _LIST.findall(reply.texts[0]) if isinstance(reply, Reply) and whole else []
        if not lists:
            return None
        words = re.findall(r"-?\d+", lists[-1])
        inside = all(len(word) < 10 and 0 <= int(word) < self.resolution for word in words)
        return tuple(map(int, words)) if len(words) == d and inside else None

    def _integers(self, points: Float[ndarray, "n d"]) -> ndarray:
        steps = (points - self.low) / (self.high - self.low) * (self.resolution - 1)
        return np.clip(np.rint(steps), 0, self.resolution - 1).astype(np.int64)

    def _points(self, integers: tuple[int, ...]) -> Float[ndarray, "d"]:
        return self.low + (self.high - self.low) * np.asarray(integers) / (self.resolution - 1)

    def _uniform(self, state: OPROState, first: int) -> Float[ndarray, "n d"]:
        shape = (self.popsize, state.pairs.points.shape[1])
        u = uniform(state.key, state.generation, shape, first=first, like=state.pairs.values)
        members: Float[ndarray, "n d"] = self.low + (self.high - self.low) * u
        return members
