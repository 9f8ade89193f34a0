"""What earlier runs tell of the points of a space."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from blackbox.errors import SettingError, SpaceError
from blackbox.journal import Journal
from blackbox.shell.replay import replay
from blackbox.shell.rungs import INJECTED, Fidelity
from blackbox.shell.settings import Settings
from blackbox.shell.told import Told


def earlier_results(settings: Settings, paths: Any, *, is_x0_given: bool) -> tuple[Settings, list[Told]]:
    """The results of some journals as points from outside, and the settings of a run that begins with them.

    It begins at the best of them, unless ``x0`` is given.

    Raises:
        SettingError: a journal has another direction, other objectives or constraints, or no point of this space.
        JournalError: a journal is missing or damaged.
    """
    told: list[Told] = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else _several(paths):
        found, left_out = _read(settings, path, len(told))
        if not found:
            raise SettingError(f"warm_start: none of the {left_out} results of {path} is of a point of this space")
        if left_out:
            warnings.warn(
                f"warm_start: {left_out} of {left_out + len(found)} results of {path} are left out: their points are "
                "not in this space, or their budgets not in this fidelity",
                RuntimeWarning,
                stacklevel=4,
            )
        told += found
    if not told:
        return settings, told
    usable = [t for t in told if t.status == "ok"]
    if usable and not is_x0_given and settings.objectives == 1:
        best = min(usable, key=lambda t: (-t.rung, settings.policy.sign * t.value))
        settings = dataclasses.replace(settings, x0=tuple(np.asarray(best.row).tolist()))
    return dataclasses.replace(settings, warm=len(told)), told


def _several(paths: Any) -> list[Any]:
    if not isinstance(paths, Sequence) or not all(isinstance(path, str | os.PathLike) for path in paths):
        raise SettingError(f"warm_start must be the file of a journal, or a list of these; got {paths!r}")
    return list(paths)


def _read(settings: Settings, path: Any, first: int) -> tuple[list[Told], int]:
    """What a journal tells, numbered from ``first`` on, and how many results it has that do not fit."""
    told, left_out = list[Told](), 0
    with Journal.open(path, read_only=True) as journal:
        earlier = Settings.from_json(journal.configuration)
        for name in ("direction", "objectives", "constraints"):
            if getattr(earlier, name) != (own := getattr(settings, name)):
                raise SettingError(f"warm_start: {name} of {path} must be {own!r}; it is {getattr(earlier, name)!r}")
        for evaluation in replay(journal):
            candidate, rung = evaluation.candidate, _rung(settings.fidelity, earlier.fidelity, evaluation.candidate)
            try:
                row = settings.space.encode(candidate.x)
            except SpaceError:
                row = None
            if row is None or rung is None:
                left_out += 1
                continue
            value = np.nan if candidate.value is None else candidate.value
            vector = None
            if settings.goals.width > 1:
                vector = np.array([*(candidate.values or (value,)), *(candidate.constraints or ())])
                value = float(vector[0])
            told.append(Told(INJECTED, first + len(told), row, value, candidate.status, vector=vector, rung=rung))
    return told, left_out


def _rung(own: Fidelity | None, other: Fidelity | None, candidate: Any) -> int | None:
    """The rung of an earlier result in this run; None if there is none. Without a fidelity all budgets are full."""
    if own is None:
        return 0 if other is None or candidate.budget == other.most else None
    if other is None:
        return len(own.budgets) - 1
    return own.budgets.index(candidate.budget) if candidate.budget in own.budgets else None
