"""States of text searches as JSON; what is read back goes on with the same bits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from blackbox.errors import CheckpointError
from blackbox.llm.text.evoprompt import EvoPromptState
from blackbox.llm.text.exemplar_search import ExemplarState
from blackbox.llm.text.gepa import GEPAState
from blackbox.llm.text.lineage import Candidate, Merge
from blackbox.llm.text.opro import OPROState
from blackbox.llm.text.proposals import ReplyCounts
from blackbox.llm.text.scored import Scored

_FORMAT = "blackbox text search 1"
_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (Candidate, ReplyCounts, EvoPromptState, ExemplarState, GEPAState, Merge, OPROState, Scored)
}


def to_json(state: Any) -> str:
    """The state of a text search as text."""
    return json.dumps({"format": _FORMAT, "state": plain(state)}, allow_nan=False)


def from_json(text: str) -> Any:
    """The state that :func:`to_json` was given.

    Raises:
        CheckpointError: the text is none of its kind, or damaged.
    """
    try:
        given = json.loads(text)
        if given["format"] != _FORMAT:
            raise CheckpointError(f"text search: format {given['format']!r} is none that this version reads")
        return built(given["state"])
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"text search: the text is no stored state: {error}") from error


def plain(value: Any) -> Any:
    """As JSON values: those that it has not are dictionaries of one entry, dictionaries lists of pairs."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {type(value).__name__: [plain(part) for part in value]}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, Mapping):
        return {"mapping": [[plain(key), plain(part)] for key, part in value.items()]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if hasattr(value, "dtype"):
        return {"key": [int(word) for word in value]}
    return value


def built(value: Any) -> Any:
    """What :func:`plain` was given, with tuples for lists; ValueError, KeyError or TypeError for other values."""
    if isinstance(value, list):
        return tuple(built(part) for part in value)
    if not isinstance(value, dict):
        return value
    ((kind, parts),) = value.items()
    if kind == "float":
        return float(parts)
    if kind == "key":
        return np.asarray(parts, np.uint32).reshape(2)
    if kind == "mapping":
        return {built(key): built(part) for key, part in parts}
    return _KINDS[kind](*built(parts))
