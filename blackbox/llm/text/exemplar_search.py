"""Search for the exemplars of a prompt: random sets first, then swaps in the best one. No model is asked.

Source: Wan, Sun, Nakhost & Arik 2024, "Teach better or show smarter? On instructions and exemplars in automatic prompt
optimization" (arXiv:2406.15708), which finds that random search for exemplars helps more than searching for
instructions, and that both together are best. A genome is a tuple of ``k`` different exemplars in an order.

    pool        exemplars that the model made itself: its answers where they passed (:func:`blackbox.llm.exemplar_pool`)
    draws       32 random genomes, all on the same instances; the best is the incumbent
    mutation    then in each generation the incumbent with one exemplar swapped for another of the pool
    comparison  both on the same minibatch, so that they are paired; the child replaces the incumbent if its losses have
                a strictly smaller sum

Cost: 32 evaluations, then one a generation where there are no minibatches and evaluations are kept, as they are in
:func:`blackbox.llm.search_text`; two on a minibatch otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from blackbox.arrays import Key
from blackbox.errors import SettingError, TellError
from blackbox.llm.text.draws import Draws, minibatch
from blackbox.llm.text.losses import mean_losses, told_losses
from blackbox.llm.text.proposals import Proposals, require_instances, require_texts
from blackbox.llm.text.rollouts import Rollout, Rollouts
from blackbox.strategy import require_integer, require_key, require_number

Exemplars = tuple[str, ...]


class ExemplarState(NamedTuple):
    """All that a search needs to go on."""

    key: Key
    generation: int
    pool: tuple[str, ...]
    elites: tuple[tuple[Exemplars, float], ...]
    """Genomes with their mean losses when they were compared last: the incumbent, then what it or the draws beat."""


@dataclass(frozen=True, kw_only=True)
class ExemplarSearch:
    """Random search and mutation of exemplars.

    Args:
        instances: numbers of the instances by which exemplars are compared; none that the pool is from.
        k: exemplars of a genome, >= 1; fewer if the pool has no more.
        draws: random genomes at first, >= 1.
        minibatch: instances of a comparison, >= 1, others in each generation; None for all.
        elites: how many genomes are kept for :meth:`finalists`, >= 1.
        worst: loss that a failed instance counts as, > 0.

    Raises:
        SettingError: an argument outside its range.
    """

    instances: Sequence[int]
    k: int = 5
    draws: int = 32
    minibatch: int | None = None
    elites: int = 8
    worst: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "instances", require_instances("instances", self.instances))
        for name in ("k", "draws", "elites"):
            require_integer(name, getattr(self, name), low=1, optional=False)
        require_integer("minibatch", self.minibatch, low=1)
        require_number("worst", self.worst, above=0.0)

    def init(self, key: Key, pool: Sequence[str]) -> ExemplarState:
        """The state before the first evaluation.

        Args:
            key: of the run, by ``bb.key(seed)``.
            pool: exemplars as texts, at least one.
        """
        require_key(key)
        return ExemplarState(key, 0, require_texts("pool", pool), ())

    def ask(self, state: ExemplarState) -> Proposals[Exemplars]:
        """The random genomes, different ones; then the incumbent and its child."""
        k = min(self.k, len(state.pool))
        if not state.elites:
            drawn = (tuple(Draws(state.key, state.generation, i).subset(state.pool, k)) for i in range(self.draws))
            return Proposals(dict.fromkeys(drawn))
        incumbent = state.elites[0][0]
        draws = Draws(state.key, state.generation)
        place = draws.integer(k)
        rest = [exemplar for exemplar in state.pool if exemplar not in incumbent]
        child = list(incumbent)
        if rest:
            child[place] = draws.choose(rest)
        else:  # there is nothing but the order
            other = draws.integer(k)
            child[place], child[other] = child[other], child[place]
        return Proposals([incumbent, tuple(child)])

    def batch(self, state: ExemplarState) -> tuple[int, ...]:
        """The instances of this generation, the same for all genomes."""
        if self.minibatch is None:
            return tuple(self.instances)
        return minibatch(state.key, state.generation, self.instances, self.minibatch)

    def tell(
        self,
        state: ExemplarState,
        genomes: Sequence[Exemplars],
        scores: Any,
        feedback: Sequence[Sequence[str]] = (),
    ) -> ExemplarState:
        """The state with the better one as the incumbent; of equals it stays.

        Args:
            state: that the genomes were asked of.
            genomes: as they were asked; the incumbent without its child changes nothing.
            scores: losses of shape (genomes, instances) or (genomes,).
            feedback: not used.

        Raises:
            TellError: scores of another shape, or the first genome is not the incumbent.
        """
        means = mean_losses(told_losses(genomes, scores, len(self.batch(state))), self.worst)
        told = [(tuple(genome), mean) for genome, mean in zip(genomes, means, strict=True)]
        if state.elites and told and told[0][0] != state.elites[0][0]:
            raise TellError(f"genomes must begin with the incumbent {state.elites[0][0]!r}; got {told[0][0]!r}")
        if not state.elites:
            elites = sorted(told, key=lambda pair: pair[1])
        elif len(told) < 2:
            elites = list(state.elites)
        else:
            incumbent, child = told
            elites = [incumbent, *state.elites[1:]]
            if child[1] < incumbent[1]:
                elites = [child, *(pair for pair in elites if pair[0] != child[0])]
        return state._replace(generation=state.generation + 1, elites=tuple(elites[: self.elites]))

    def recommend(self, state: ExemplarState) -> Exemplars:
        """The incumbent; the first ``k`` of the pool before there is one."""
        return self.finalists(state, 1)[0]

    def finalists(self, state: ExemplarState, n: int) -> list[Exemplars]:
        """Up to ``n`` genomes: the incumbent, then those it replaced, the last one first, and the best draws."""
        return [genome for genome, _ in state.elites[:n]] or [state.pool[: self.k]]


def exemplar_pool(
    rollouts: Rollouts[Any],
    genome: Any,
    instances: Iterable[int],
    render: Callable[[int, Rollout], str],
    *,
    passing: float = 0.0,
) -> list[str]:
    """Exemplars from the model's own answers: those with a loss of at most ``passing``.

    Args:
        rollouts: evaluations, which are made or known.
        genome: the prompt that is run, such as one without exemplars.
        instances: numbers of the instances; none of those by which exemplars are compared.
        render: the exemplar of an instance, with what the model answered as ``rollout.output``.
        passing: most loss of a pass.

    Raises:
        BudgetExhausted: as the evaluation does.
        SettingError: no instance passed.
    """
    numbers = require_instances("instances", list(instances))
    rollouts([genome], numbers)
    runs = [(number, rollouts.known(genome, number)) for number in numbers]
    pool = [render(number, run) for number, run in runs if run is not None and run.loss <= passing]
    if not pool:
        raise SettingError(f"instances must have one that passes with a loss of at most {passing:g}; none does")
    return list(dict.fromkeys(pool))
