"""Evolution of programs by language models, by offline operators, or by both.

The loop of FunSearch (Romera-Paredes et al. 2024, Nature 625), AlphaEvolve (Novikov et al. 2025, arXiv:2506.13131) and
ShinkaEvolve (Lange et al. 2025, arXiv:2509.19349), with the shape of a strategy: ``init``, ``ask``, ``tell`` and
``recommend`` are functions of an immutable state, and only ``ask`` talks to a model::

    island → parent and inspirations → operator → new program → duplicate? alike? → evaluation → island, archive, bandit

With the answers of the client's file, or of a recording, ``ask`` is a pure function: a run that was killed goes on from
its last stored state with the same bits, and pays for nothing twice. It is none of the registry: its members are
programs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blackbox.arrays import Key
from blackbox.errors import SettingError, TellError
from blackbox.llm.client import Client, client_of, require_provider, without_client
from blackbox.llm.program import islands as of_islands
from blackbox.llm.program.arrivals import Arrivals
from blackbox.llm.program.bandit import Bandit
from blackbox.llm.program.genome import lines_of, regions
from blackbox.llm.program.primitives import Primitives
from blackbox.llm.program.prompts import OPERATORS as ONLINE
from blackbox.llm.program.proposals import OFFLINE, Proposals, arms_of
from blackbox.llm.program.sites import size
from blackbox.llm.program.state import EvolutionState, Generation, Member, Program
from blackbox.llm.program.variation import OPERATORS
from blackbox.strategy import require_integer, require_key, require_number


@dataclass(frozen=True, kw_only=True)
class ProgramEvolution:
    """Evolution of programs whose marked regions change.

    Args:
        task: what the programs are for, in words for the models.
        providers: whom to ask for programs, one for each model: clients, or providers, which get limitless clients;
            none for the offline operators alone.
        primitives: what the offline operators compose programs of; None for models alone.
        popsize: programs of a generation, >= 1.
        islands: >= 1.
        island_size: most programs of an island, >= 1; the worst leaves.
        cluster_size: most programs of an island with the same scores, >= 1; the longest leaves.
        share: prior share of programs by offline operators where there are both, 0 to 1.
        online, offline: prior weights of the operators of either kind.
        bandit: which operator, by which model, is chosen.
        tries: rounds in which answers that are no new programs are asked for again, >= 1; the first such is repaired.
        temperatures: of the models' sampling; one of them is drawn for each request.
        max_tokens: of an answer, >= 1.
        inspirations: how many other programs a prompt shows at most, >= 1.
        novelty: programs whose token shingles are more alike to those of a member than this are not evaluated; 1 allows
            all but duplicates.
        longest: nodes of the syntax tree that regions may have, >= 1.
        temperature: of the softmax over clusters at its beginning, in units of the spread of scores.
        period: programs that come to an island until the temperature has fallen to 0 and is raised again.
        from_archive: share of parents from the archive of all islands.
        bins: of each of the archive's two features, >= 1.
        migrate_every, reset_every: generations until the best of each island also joins the next one, and until the
            weaker half begins again with the best of another; 0 for never.

    Raises:
        SettingError: an argument outside its range; neither providers nor primitives.
    """

    task: str = ""
    providers: tuple[Any, ...] = ()
    primitives: Primitives | None = field(default_factory=Primitives)
    popsize: int = 16
    islands: int = 4
    island_size: int = 60
    cluster_size: int = 3
    share: float = 0.3
    online: Mapping[str, float] = field(default_factory=lambda: dict(ONLINE))
    offline: Mapping[str, float] = field(default_factory=lambda: dict(OPERATORS))
    bandit: Bandit = field(default_factory=Bandit)
    tries: int = 3
    temperatures: tuple[float, ...] = (0.0, 0.5, 1.0)
    max_tokens: int = 2048
    inspirations: int = 2
    novelty: float = 0.98
    longest: int = 80
    temperature: float = 0.1
    period: int = 400
    from_archive: float = 0.15
    bins: int = 10
    migrate_every: int = 10
    reset_every: int = 40

    def __post_init__(self) -> None:
        for name in (
            "popsize",
            "islands",
            "island_size",
            "cluster_size",
            "tries",
            "max_tokens",
            "inspirations",
            "longest",
            "period",
            "bins",
        ):
            require_integer(name, getattr(self, name), low=1, optional=False)
        for name in ("migrate_every", "reset_every"):
            require_integer(name, getattr(self, name), low=0, optional=False)
        for name in ("share", "novelty", "from_archive"):
            require_number(name, getattr(self, name), low=0, high=1)
        require_number("temperature", self.temperature, above=0)
        object.__setattr__(self, "providers", tuple(self.providers))
        for provider in self.providers:
            require_provider(provider)
        if not self.providers and self.primitives is None:
            raise SettingError("providers or primitives must be given: something has to make programs")
        names = [client.provider.model for client in self.clients]
        if len(set(names)) < len(names) or OFFLINE in names:
            raise SettingError(f"providers must be of different models, none called {OFFLINE!r}; got {names}")
        for name, allowed in (("online", ONLINE), ("offline", OPERATORS)):
            given = getattr(self, name)
            if not given or not given.keys() <= allowed.keys() or not any(given.values()) or min(given.values()) < 0:
                raise SettingError(
                    f"{name} must have weights >= 0 for some of {', '.join(allowed)}; got {dict(given)!r}"
                )

    @functools.cached_property
    def clients(self) -> tuple[Client, ...]:
        """Whom the questions go to."""
        return tuple(map(client_of, self.providers))

    def __getstate__(self) -> dict[str, Any]:
        return without_client(self)

    def arms(self) -> dict[str, float]:
        """The bandit's arms with their prior weights."""
        share = 0.0 if self.primitives is None else self.share if self.clients else 1.0
        models = [client.provider.model for client in self.clients]
        return arms_of(models, dict(self.online), dict(self.offline), share)

    def init(self, key: Key, source: str) -> EvolutionState:
        """The state before the first evaluation, which is that of ``source``; its lines end as Unix has them.

        Raises:
            SettingError: ``source`` has no marked region, or is no Python.
        """
        require_key(key)
        source = "\n".join(lines_of(source))
        regions(source)
        try:
            size(source)
        except SyntaxError as error:
            raise SettingError(f"source must be Python: {error}") from None
        return EvolutionState(key=key, start=source, islands=((),) * self.islands, arrivals=(0,) * self.islands)

    def ask(self, state: EvolutionState, first: int = 0, n: int | None = None) -> Generation:
        """New programs number ``first`` to ``first + n - 1`` of this generation, by default ``popsize``.

        None of them is one that was told, whatever the variables of its functions are called, nor nearly one of the
        members. There may be fewer, where nothing new was found.

        Raises:
            BudgetExhausted: a client's budget has no room for another request; answers so far are stored.
        """
        return Proposals(self, state).make(first, self.popsize if n is None else n)

    def tell(
        self,
        state: EvolutionState,
        programs: Sequence[Program],
        scores: Any,
        feedback: Sequence[str] = (),
        *,
        evaluations: int | None = None,
    ) -> EvolutionState:
        """The state with these programs.

        Args:
            state: any; it need not be the one that the programs were asked of.
            programs: asked ones, with what was rejected in their generation, or others.
            scores: (n,) or (n, instances), lower is better; a program with a score that is not finite has failed.
                Programs with equal scores on all instances are one cluster.
            feedback: what the evaluation of each said, for the models; none, or one for each.
            evaluations: how many the scores took, by default one for each program.

        Raises:
            TellError: scores or feedback of another length; a program with scores that is no Python.
        """
        try:
            rows = np.asarray(scores, float)
        except (ValueError, TypeError) as error:
            raise TellError(f"scores must be numbers, as many for each program: {error}") from None
        if len(rows.shape) not in (1, 2) or len(rows) != len(programs):
            raise TellError(
                f"scores must be of shape (n,) or (n, instances) for the {len(programs)} programs; got {rows.shape}"
            )
        if feedback and len(feedback) != len(programs):
            raise TellError(f"feedback must have one text for each of {len(programs)} programs, got {len(feedback)}")
        rows = rows[:, None] if rows.ndim == 1 else rows
        arrivals = Arrivals(self, state)
        for i, program in enumerate(programs):
            arrivals.add(program, tuple(rows[i].tolist()), feedback[i] if feedback else "")
        arrivals.reject(getattr(programs, "rejected", ()))
        return arrivals.state(len(programs) if evaluations is None else evaluations)

    def recommend(self, state: EvolutionState) -> Program:
        """The best program told; the start if none has succeeded."""
        return state.members[state.best].program if state.best >= 0 else Program(state.start)

    def finalists(self, state: EvolutionState, n: int) -> list[Member]:
        """The best members, at most ``n``, best first, one of each cluster: to choose among by other instances."""
        ordered = sorted(state.members.values(), key=lambda member: (member.score, size(member.program.source)))
        groups = of_islands.clusters([member.scores for member in ordered])
        return [ordered[group[0]] for group in groups[:n]]

    def report(self, state: EvolutionState) -> dict[str, Any]:
        """What the search took and gained: evaluations, tokens and cost, in all and for each accepted improvement.

        ``cost`` is in the unit of the budgets' prices, or in millions of tokens where a client has none.
        """
        each = max(1, state.improvements)
        return {
            "best": state.members[state.best].score if state.best >= 0 else math.nan,
            "evaluations": state.evaluations,
            "improvements": state.improvements,
            "evaluations per improvement": state.evaluations / each,
            "tokens": state.tokens,
            "cost": state.cost,
            "cost per improvement": state.cost / each,
            **{f"proposals: {reason}": count for reason, count in state.counts.items()},
        }
