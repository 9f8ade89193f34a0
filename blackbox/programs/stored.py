"""States of searches as JSON: programs as text, fitness by digest; what is read back goes on with the same bits."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from blackbox.errors import CheckpointError, SettingError
from blackbox.programs.abstract import analysis
from blackbox.programs.language import parse
from blackbox.programs.regularized_evolution import Member, SearchState

_FORMAT = "blackbox program search 1"
_COUNTS = ("generation", "drawn", "rejected", "stale", "restarts")


def to_json(state: SearchState) -> str:
    """The state as text. A population has many copies, so its programs are named by their number in a list."""
    texts = list(dict.fromkeys(member.program.code for member in state.population))
    numbers = {text: i for i, text in enumerate(texts)}
    return json.dumps({
        "format": _FORMAT,
        "key": [int(word) for word in state.key],
        **{name: getattr(state, name) for name in _COUNTS},
        "programs": texts,
        "population": [numbers[member.program.code] for member in state.population],
        "elites": [program.code for program in state.elites],
        "fitness": {key: value if math.isfinite(value) else None for key, value in state.fitness.items()},
    })  # fmt: skip


def from_json(text: str) -> SearchState:
    """The state that :func:`to_json` was given.

    Raises:
        CheckpointError: the text is none of its kind, or damaged.
    """
    try:
        given: dict[str, Any] = json.loads(text)
        if given["format"] != _FORMAT:
            raise CheckpointError(f"search: format {given['format']!r} is none that this version reads")
        programs = [Member(program, analysis(program).key) for program in map(parse, given["programs"])]
        return SearchState(
            key=np.asarray(given["key"], np.uint32).reshape(2),
            population=tuple(programs[i] for i in given["population"]),
            elites=tuple(map(parse, given["elites"])),
            fitness={key: math.inf if value is None else float(value) for key, value in given["fitness"].items()},
            **{name: int(given[name]) for name in _COUNTS},
        )
    except CheckpointError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, SettingError) as error:
        raise CheckpointError(f"search: the text is no stored state: {error}") from error
