"""Restart schedules: how large, how wide and from where the next run starts, once a run has converged or stalled.

* ``"same"``: the same settings from another point.
* ``"ipop"``: the population doubles each time (Auger & Hansen 2005, doi:10.1109/CEC.2005.1554902).
* ``"bipop"``: two regimes take turns (Hansen 2009, doi:10.1145/1570256.1570333): large populations that double as
  above, and small ones of random size and width, each for at most half the evaluations of the last large run.
  Whichever regime has spent less goes next; the first run counts for neither.
* ``"none"``.

All is a function of the run's key and of what former runs have spent: no generator, no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from blackbox.kernels.noise import fold, uniform

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32

Schedule = Literal["same", "ipop", "bipop", "none"]

SCHEDULES: tuple[Schedule, ...] = ("same", "ipop", "bipop", "none")
MAX_DOUBLINGS = 9  # Hansen 2009, section 2: a population of 512 times the default at most

# Words that keep these streams apart from those of generations and leaves.
_RUN, _START, _SIZE = 0x72657374, 0x73746172, 0x73697A65


class Run(NamedTuple):
    """One run between two restarts. Plain numbers only, so that a checkpoint can hold it as JSON."""

    number: int = 0
    """Restarts before it."""
    popsize: int | None = None
    """None: as the strategy was given."""
    sigma_factor: float = 1.0
    """What the initial step size is multiplied with."""
    limit: int | None = None
    """Evaluations after which it ends, whatever its state."""
    small: bool = False
    """Whether it belongs to the regime of small populations."""
    doublings: int = 0
    spent_large: int = 0
    spent_small: int = 0
    last_large: int = 0
    """Evaluations of the last large run."""


def next_run(schedule: Schedule, run: Run, spent: int, popsize: int, key: UInt32[np.ndarray, "2"]) -> Run:
    """The run after ``run``.

    Args:
        schedule: any but "none".
        run: the one that has ended.
        spent: evaluations that it has used.
        popsize: population size of the very first run.
        key: key of the whole optimization.
    """
    number = run.number + 1
    if schedule == "same":
        return Run(number)
    doublings = min(run.doublings + 1, MAX_DOUBLINGS)
    if schedule == "ipop":
        return Run(number, popsize * 2**doublings, doublings=doublings)
    spent_small = run.spent_small + (spent if run.small else 0)
    spent_large = run.spent_large + (spent if run.number and not run.small else 0)
    last_large = run.last_large if run.small else spent
    if spent_small >= spent_large:
        return Run(number, popsize * 2**doublings, 1.0, None, False, doublings, spent_large, spent_small, last_large)
    size, width = uniform(key, number, (1, 2), leaf=_SIZE, like=np.empty(0)).ravel().tolist()
    return Run(
        number,
        popsize=int(popsize * (0.5 * 2**run.doublings) ** (size * size)),
        sigma_factor=10.0 ** (-2.0 * width),
        limit=max(1, last_large // 2),
        small=True,
        doublings=run.doublings,
        spent_large=spent_large,
        spent_small=spent_small,
        last_large=last_large,
    )


def run_key(key: UInt32[np.ndarray, "2"], number: int) -> UInt32[np.ndarray, "2"]:
    """The key of the run after ``number`` restarts; that of run 0 is the optimization's own."""
    return fold(key, number, _RUN) if number else key


def start_point(key: UInt32[np.ndarray, "2"], number: int, dimension: int) -> Float[np.ndarray, "d"]:
    """Where the run after ``number`` restarts begins: uniform in the unit cube, shape (dimension,)."""
    point: Float[np.ndarray, "d"] = uniform(key, number, (1, dimension), leaf=_START, like=np.empty(0))[0]
    return point
