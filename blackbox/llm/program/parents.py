"""Which members a new program comes from, and which a model is shown beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blackbox.draws import Draws
from blackbox.llm.program import islands as of_islands
from blackbox.llm.program.sites import size
from blackbox.llm.program.state import EvolutionState

if TYPE_CHECKING:
    from blackbox.llm.program.evolution import ProgramEvolution


def draw_parent(strategy: ProgramEvolution, state: EvolutionState, island: int, draws: Draws) -> int | None:
    """Number of an elite of the archive, or of a member of the island; None where that is empty."""
    members = state.islands[island] if state.islands else ()
    if not members:
        return None
    if draws.uniform() < strategy.from_archive and state.archive:
        return draws.choose(sorted(set(state.archive.values())))
    heat = of_islands.temperature(state.arrivals[island], strategy.temperature, strategy.period)
    rows = [state.members[number].scores for number in members]
    lengths = [size(state.members[number].program.source) for number in members]
    return members[of_islands.parent(rows, lengths, heat, draws)]


def inspirations(
    strategy: ProgramEvolution, state: EvolutionState, island: int, parent: int | None, draws: Draws
) -> list[int]:
    """Members to learn from, from the worst to the best: the best of the island, and others from the archive."""
    scores = {number: member.score for number, member in state.members.items()}
    members = state.islands[island] if state.islands else ()
    found = {min(members, key=lambda number: scores[number])} if members else set()
    archive = sorted(set(state.archive.values()))
    for _ in range(strategy.inspirations - 1 if archive else 0):
        found.add(draws.choose(archive))
    found.discard(-1 if parent is None else parent)
    return sorted(found, key=lambda number: (-scores[number], number))
