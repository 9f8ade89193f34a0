"""Methods that share an optimization: whose turn it is.

In ``"lq-cma-es+quadratic"`` the first method begins, until its first run has ended, or ``HEAD`` evaluations per
coordinate are used. Then both take turns, each until it has used ``AHEAD`` times its share. The shares are equal at
first, and ``FAVOR`` to one for the method that has found the lower value from starts of its own, once both have: either
has more than a quarter of the evaluations, and where many short runs get further than few long ones, or the other way
round, these get most. Shares stay equal under noise and with constraints, several objectives or a fidelity. Who waits
is kept as it is. Each has its own restarts. The second one begins at the best point that is known by then, which is no
start of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from blackbox.kernels.noise import fold
from blackbox.shell.restarts import Run

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt32

HEAD = 40
AHEAD = 1.25
FAVOR = 2.0  # share of the one that has found the lower value, of the other one's

_TURN = 0x7475726E  # keeps the members' keys apart from those of runs, generations and leaves


class Lane(NamedTuple):
    """A method at work, or one that waits for its turn."""

    strategy: Any
    """As it is in this run."""
    state: Any
    ranking: Any
    """State of what makes one number of a value and its constraints, where there are any."""
    run: Run = Run()
    popsize: int = 0
    """Of its very first run; 0 before its first population."""
    started: int = 0
    """Evaluations of all methods when this run began."""
    used: int = 0
    """Its own evaluations in this run."""
    used_before: int = 0
    """And in its former runs."""
    best: float | None = None
    """The least value of its runs that began where no other method had been; None before any."""

    @property
    def total(self) -> int:
        """Evaluations in all of its runs."""
        return self.used_before + self.used

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON values."""
        counts = {name: getattr(self, name) for name in ("popsize", "started", "used", "used_before", "best")}
        return {**counts, "run": self.run._asdict()}


def next_turn(
    turn: int, totals: Sequence[int], bests: Sequence[float | None], dimension: int, has_converged: bool
) -> int:
    """The number of the method that goes on.

    Args:
        turn: the number of the one that has asked last.
        totals: evaluations that each has used.
        bests: the least value that each has found from starts of its own, None before any.
        dimension: of the search space.
        has_converged: whether the first run of the first method has ended.
    """
    if len(totals) == 1:
        return 0
    (first, second), (lowest, other_lowest) = totals, bests
    share = 1.0  # of the first one, to one of the second
    if lowest is not None and other_lowest is not None and lowest != other_lowest:
        share = FAVOR if lowest < other_lowest else 1 / FAVOR
    if turn == 1:
        return 1 if share * second < AHEAD * first else 0
    begins = not has_converged and first < HEAD * dimension
    return 0 if begins or first < AHEAD * share * second else 1


def lane_key(key: UInt32[np.ndarray, "2"], number: int) -> UInt32[np.ndarray, "2"]:
    """The key of a method's runs; that of the first method is the optimization's own."""
    return fold(key, number, _TURN) if number else key
