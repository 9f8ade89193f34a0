"""Several budgets for an evaluation: which points are evaluated with how much, and what that says of them.

Successive halving without waiting (ASHA, Li et al. 2020, arXiv:1810.05934). The budgets are the *rungs* of a ladder, a
factor apart. A configuration begins on one of them; whenever a candidate is asked for, the best ``1/factor`` of the
results on a rung go on to the next one, those on the highest rung first, and where there is none to promote, a new
configuration begins. So nothing waits for stragglers, and results count in any order.

On which rung a configuration begins is given by its ordinal number alone: on the lowest ``brackets`` rungs, in the
shares that Hyperband gives its brackets (Li et al. 2018, arXiv:1603.06560), spread evenly. All brackets share the
rungs: whoever begins higher up is compared with those who have been promoted to there.

What failed is never promoted. All is a function of what was told, and of who is waited for.

What methods hear of a configuration is :meth:`Rungs.scores`. On the tables of ``bench/fidelity.py``, seeds 1000 to
1019, ``ego`` was left with 0.094 of the median's regret; with the largest budget of which there are six results or more
in its place, and nothing else, as in BOHB (arXiv:1807.01774), with 0.123. Values as they were told, those of the first
budget, and values moved to the scale of the largest by the points that have both, were tried on fewer seeds, and left
more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.errors import SettingError
from blackbox.strategy import require_integer

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from blackbox.shell.told import Told

INJECTED = -1  # generation of the points that come from outside
GOLDEN = (math.sqrt(5) - 1) / 2  # whose multiples, modulo 1, are spread evenly


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """What an evaluation may cost: epochs, samples, seconds or whatever grows with it.

    Args:
        least: the smallest budget that says anything, > 0.
        most: the full one, > ``least``.
        factor: between two budgets; one in ``factor`` configurations goes on to the next, an integer >= 2.
        brackets: on how many of the lowest budgets configurations may begin; None for all, which is Hyperband's hedge
            against small budgets that say little of larger ones. 1 is successive halving alone.

    Raises:
        SettingError: an argument outside its range.
    """

    least: float
    most: float
    factor: int = 3
    brackets: int | None = None

    def __post_init__(self) -> None:
        for name in ("least", "most"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
            if not is_number or not 0 < value < math.inf:
                raise SettingError(f"{name} must be a finite number > 0; got {value!r}")
            object.__setattr__(self, name, value.item() if isinstance(value, np.generic) else value)
        require_integer("factor", self.factor, low=2, optional=False)
        require_integer("brackets", self.brackets, low=1)
        for name in ("factor", "brackets"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, int(value))
        if self.least * self.factor > self.most:
            raise SettingError(
                f"most must be at least factor * least = {self.factor * self.least:g}, or there is nothing to save; "
                f"got {self.most!r}"
            )
        if self.brackets is None:
            object.__setattr__(self, "brackets", len(self.budgets))
        elif self.brackets > len(self.budgets):
            raise SettingError(f"brackets must be at most {len(self.budgets)}, as many as budgets; got {self.brackets}")

    @property
    def budgets(self) -> tuple[float, ...]:
        """All budgets in ascending order: ``most`` divided by powers of ``factor``; integers if both ends are."""
        count = 1
        while self.most / self.factor**count >= self.least * (1 - 1e-9):
            count += 1
        budgets = [self.most / self.factor**k for k in range(count - 1, -1, -1)]
        if isinstance(self.least, int) and isinstance(self.most, int):
            return tuple(round(budget) for budget in budgets)
        return tuple(budgets)

    @property
    def shares(self) -> Float[np.ndarray, "brackets"]:
        """Of the configurations, those that begin on each of the lowest rungs."""
        top = len(self.budgets) - 1
        counts = np.array([self.factor ** (top - s) / (top - s + 1) for s in range(self.brackets or top + 1)])
        return counts / counts.sum()

    def start(self, number: int) -> int:
        """The rung on which the ``number``-th configuration begins."""
        return int(np.searchsorted(np.cumsum(self.shares)[:-1], (0.5 + number * GOLDEN) % 1.0, side="right"))

    @property
    def configurations(self) -> float:
        """How many configurations are begun for the price of one full evaluation, in the long run."""
        budgets, reached = np.array(self.budgets) / self.most, np.zeros(len(self.budgets))
        for rung in range(len(budgets)):
            begun = self.shares[rung] if rung < len(self.shares) else 0.0
            reached[rung] = begun + (reached[rung - 1] / self.factor if rung else 0.0)
        return float(1 / (reached @ budgets))

    def to_json(self) -> dict[str, Any]:
        """The arguments as JSON values."""
        return dataclasses.asdict(self)


class Rungs(NamedTuple):
    """What is known of each configuration, in the order of their first results."""

    rows: Float[np.ndarray, "n d"]
    ids: Int[np.ndarray, "n rungs 2"]
    """Of the candidate that has the result."""
    values: Float[np.ndarray, "n rungs"]
    """Lower is better; NaN where there is no result, infinity where it failed."""

    @classmethod
    def empty(cls, dimension: int, rungs: int) -> Rungs:
        """Those of nothing told."""
        return cls(np.zeros((0, dimension)), np.zeros((0, rungs, 2), dtype=np.int64), np.zeros((0, rungs)))

    def joined(self, told: Told, fitness: float) -> Rungs:
        """With one more result. A point from outside that is known, but not on that rung, is no new one."""
        rows, ids, values = self.rows, self.ids.copy(), self.values.copy()
        place = told.member if told.generation < INJECTED else len(rows)
        if told.generation == INJECTED:
            same = np.flatnonzero((rows == told.row).all(1) & np.isnan(values[:, told.rung]))
            place = int(same[0]) if len(same) else place
        if place == len(rows):
            count = values.shape[1]
            rows = np.concatenate([rows, np.asarray(told.row, np.float64)[None]])
            ids = np.concatenate([ids, np.zeros((1, count, 2), dtype=np.int64)])
            values = np.concatenate([values, np.full((1, count), np.nan)])
        ids[place, told.rung] = told.generation, told.member
        values[place, told.rung] = math.inf if math.isnan(fitness) else fitness
        return Rungs(rows, ids, values)

    def places(self) -> dict[tuple[int, int], int]:
        """The number of the configuration of each candidate that has a result."""
        places, rungs = np.nonzero(~np.isnan(self.values))
        ids = self.ids[places, rungs].tolist()
        return {(generation, member): place for (generation, member), place in zip(ids, places.tolist(), strict=True)}

    def promotions(self, factor: int, waiting: Container[tuple[int, int]]) -> list[tuple[int, int]]:
        """Ids of the candidates that are due: what belongs on a higher rung and is not waited for.

        The candidate of the i-th configuration on rung k >= 1, where it was not begun, has the id ``(-1 - k, i)``.
        """
        due = []
        for rung in range(self.values.shape[1] - 2, -1, -1):
            column = self.values[:, rung]
            known = np.flatnonzero(~np.isnan(column))
            best = known[np.argsort(column[known], kind="stable")[: len(known) // factor]]
            for place in best.tolist():
                id = (INJECTED - 1 - rung, place)
                if column[place] < math.inf and np.isnan(self.values[place, rung + 1]) and id not in waiting:
                    due.append(id)
        return due

    def is_open(self, generation: int, member: int) -> bool:
        """Whether a promotion has no result yet, but one on the rung below."""
        rung = INJECTED - generation
        if not (0 < rung < self.values.shape[1] and member < len(self.values)):
            return False
        return bool(np.isnan(self.values[member, rung]) and self.values[member, rung - 1] < math.inf)

    def before(self, generation: int, member: int) -> tuple[int, int] | None:
        """The id of the candidate that a promotion goes on with; None for others, and for points from outside."""
        rung = INJECTED - generation - 1
        if rung < 0:
            return None
        earlier, number = self.ids[member, rung].tolist()
        return None if earlier == INJECTED else (earlier, number)

    def scores(self, factor: int) -> Float[np.ndarray, "n"]:
        """One number for each configuration, lower is better: what those who went on and those who did not compare by.

        The logarithm of the share of all configurations that it is among the best of, as its last result has it: its
        rank on that rung, divided by the number of results there, and by ``factor`` for each rung below.
        """
        is_known = ~np.isnan(self.values)
        last = self.values.shape[1] - 1 - np.argmax(is_known[:, ::-1], axis=1)
        scores = np.full(len(self.values), math.inf)
        for rung in range(self.values.shape[1]):
            column = self.values[:, rung]
            known = np.sort(column[is_known[:, rung]])
            at = (last == rung) & (column < math.inf)
            if at.any():
                share = (np.searchsorted(known, column[at]) + 0.5) / len(known)
                scores[at] = np.log(share) - rung * math.log(factor)
        return scores
