"""What is refused before it is evaluated: programs that were told before, that are nearly a member, or too long."""

from __future__ import annotations

import numpy as np

from blackbox.llm.program.identity import HASHES, digest, signature
from blackbox.llm.program.sites import size
from blackbox.llm.program.state import EvolutionState


class Refusals:
    """The programs of a state, and those that join them in the generation that is made.

    Args:
        state: programs told, and members.
        novelty: similarity above which a program is refused; 1 for none.
        longest: nodes that the regions of a program may have.
    """

    def __init__(self, state: EvolutionState, novelty: float, longest: int) -> None:
        self.novelty, self.longest = novelty, longest
        self._known = set(state.seen)
        rows = [signature(member.program.source) for member in state.members.values()]
        self._signatures = np.array(rows, np.int64).reshape(-1, HASHES)

    def reason(self, source: str) -> str:
        """Why a program is not worth an evaluation; "" if it is."""
        if digest(source) in self._known:
            return "duplicate"
        if size(source) > self.longest:
            return "long"
        if self.novelty < 1 and len(self._signatures):
            alike = (self._signatures == np.array(signature(source), np.int64)).mean(axis=1).max()
            if alike > self.novelty:
                return "similar"
        return ""

    def join(self, source: str) -> None:
        """From now on ``source`` is one of them."""
        self._known.add(digest(source))
        self._signatures = np.vstack([self._signatures, np.array(signature(source), np.int64)])
