"""The search behind Optuna's studies: its state is a function of the study's trials.

Each trial that a search proposes keeps, as a system attribute, which search, generation and member it is. Any process
on the study's storage thus finds the state by telling finished trials in the order in which they ended, whoever ran
them. Members that another trial holds are not asked again, so running trials are never proposed twice.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from blackbox.errors import SpaceError
from blackbox.integrations.optuna_spaces import Codec
from blackbox.shell.rungs import INJECTED
from blackbox.shell.search import Search
from blackbox.shell.settings import Direction, Settings
from blackbox.shell.told import Policy, Told

if TYPE_CHECKING:
    from jaxtyping import Float

    Row = Float[np.ndarray, "d"]

ATTRIBUTE = "blackbox"
INFEASIBLE = 1e100  # above all values, so that infeasible trials rank after feasible ones, by their violation


class Ended:
    """The finished trials of a study that were not seen before; cheap, however many were."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._first = 0  # all before this position were seen

    def unseen(self, trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
        """Of all trials of the study, those that are not known to have ended."""
        while self._first < len(trials) and trials[self._first].number in self._seen:
            self._first += 1
        return [t for t in trials[self._first :] if t.number not in self._seen]

    def take(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """What has ended since the last call, in the order in which it did."""
        ended = [t for t in self.unseen(trials) if t.state.is_finished()]
        self._seen.update(t.number for t in ended)
        ended.sort(key=lambda t: (t.datetime_complete or datetime.max, t.number))
        return ended


class Course:
    """A search whose results are the trials of one study.

    Args:
        codec: of the study's parameters.
        method, seed, x0, settings: as for :class:`blackbox.Optimizer`.
        direction: of the study.

    Attributes:
        name: what the trials of this search bear: a digest of all that it depends on.
    """

    def __init__(
        self, codec: Codec, method: Any, seed: int, direction: Direction, x0: Any, settings: Mapping[str, Any]
    ) -> None:
        given = dict(settings)
        budget, restarts = given.pop("budget", None), given.pop("restarts", None)
        if x0 is not None:
            x0 = codec.point(x0)
            if x0 is None:
                raise SpaceError("x0 must be a point of the study's parameters")
        checked = Settings.check(
            codec.space, method, seed, budget, direction, x0, restarts, Policy(allow_neg_inf=True), given
        )
        self.codec = codec
        self._sign = 1 if direction == "minimize" else -1
        self._search = Search(checked.plan())
        known = [
            budget,
            repr(codec.distributions),
            checked.method,
            repr(checked.instance),
            seed,
            direction,
            list(checked.x0),
        ]
        text = json.dumps([*known, restarts, repr(sorted(checked.hyperparameters.items()))])
        self.name = hashlib.sha256(text.encode()).hexdigest()[:12]
        self._ended = Ended()
        self._rows: dict[int, Row] = {}  # by trial: what was proposed, of trials that may end after their generation

    def take_in(self, trials: Sequence[FrozenTrial]) -> None:
        """Tell what has ended since the last call, one after the other."""
        ended = self._ended.take(trials)
        waiting = [(t, place) for t in [*ended, *self._ended.unseen(trials)] if (place := self.place(t))]
        for trial in ended:
            told = self._result(trial)
            if told is None:
                continue
            closing = self._search.prepare([told])
            if closing is not None:  # keep what was proposed in this generation, for trials that end after it
                for other, (generation, member) in waiting:
                    if generation == self._search.generation and other.number not in self._rows:
                        self._rows[other.number] = self._search.row(member)
            self._search.commit([told], closing)

    def place(self, trial: FrozenTrial) -> tuple[int, int] | None:
        """Generation and member of a trial, None if this search did not propose it."""
        kept = trial.system_attrs.get(ATTRIBUTE)
        return (kept[1], kept[2]) if kept and kept[0] == self.name else None

    def _result(self, trial: FrozenTrial) -> Told | None:
        """A finished trial as a result; None if it tells nothing."""
        search, place = self._search, self.place(trial)
        point, row = self.codec.point(trial.params), self._rows.pop(trial.number, None)
        if place is not None and place[0] == search.generation and place[1] not in search.results:
            row = search.row(place[1])
        if point is not None and (row is None or self.codec.space.decode(row) != point):
            row = self.codec.space.encode(point)  # not what was proposed: fixed parameters, or another search's
        if row is None or (point is None and trial.state != TrialState.FAIL):
            return None
        value, failed = self._value(trial), trial.state == TrialState.FAIL
        if place is None or (place[0] == search.generation and place[1] in search.results):
            place = INJECTED, search.injected
        status: Any = "failed" if failed else "ok" if abs(value) < math.inf else "infeasible"
        return Told(*place, row, value, status, place[0] != search.generation)

    def _value(self, trial: FrozenTrial) -> float:
        """What is told: failed and pruned trials rank last, infeasible ones before them, by their violation."""
        if trial.state == TrialState.FAIL or trial.value is None:
            return math.nan
        if trial.state == TrialState.PRUNED:
            return self._sign * math.inf
        violation = sum(max(0.0, float(c)) for c in constraints(trial))
        if violation > 0:
            return self._sign * INFEASIBLE * (2.0 - 1.0 / (1.0 + violation))
        return float(trial.value)

    def propose(self, trials: Sequence[FrozenTrial], number: int, skip: int = 0) -> tuple[list[Any], dict[str, Any]]:
        """The next member that no trial holds: what its trial keeps, and its parameters.

        Args:
            trials: all of the study.
            number: of the trial that asks, whose former place is free.
            skip: free members to leave to others.
        """
        search = self._search
        others = [t for t in self._ended.unseen(trials) if t.number != number]
        held = {place[1] for t in others if (place := self.place(t)) and place[0] == search.generation}
        member = 0
        while member in held or member in search.results or skip:
            skip -= member not in held and member not in search.results
            member += 1
        point = self.codec.space.decode(search.row(member))
        return [self.name, search.generation, member], self.codec.params(point)


def constraints(trial: FrozenTrial) -> list[float]:
    """The values of a trial's constraints, kept in either of Optuna's forms."""
    attributes = trial.system_attrs
    values = list(attributes.get("constraints") or ())
    return values + [value for key, value in attributes.items() if key.startswith("constraints:")]
