"""Programs, and all that a search needs to go on; a state is immutable and can be stored as JSON."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from blackbox.arrays import Key
from blackbox.errors import CheckpointError
from blackbox.llm.program.bandit import Arm
from blackbox.llm.program.elites import Cell

_FORMAT = "blackbox program evolution 2"


class Rejected(NamedTuple):
    """A proposal that was no program worth an evaluation."""

    arm: str
    reason: str
    """"duplicate", "similar", "long", "nothing", "edit: ..." or "provider: ..."; "idle" after attempts of an offline
    operator in turn, and "fallback" where such had to stand in for a model."""
    tokens: int = 0
    cost: float = 0.0


class Program(NamedTuple):
    """A program, and where it comes from."""

    source: str
    operator: str = "start"
    model: str = ""
    """Name of the language model, "offline" without one, "" for what no arm of the bandit made."""
    parents: tuple[int, ...] = ()
    """Numbers of members, that which was changed first."""
    island: int = 0
    request: str = ""
    """Key of the request by which it was made."""
    tokens: int = 0
    """Of the prompt and the answer."""
    cost: float = 0.0
    """In the unit of the budget's prices; 0 where there are none."""
    rejected: tuple[Rejected, ...] = ()
    """Proposals before it in its place."""

    @property
    def arm(self) -> str:
        """Name of the bandit's arm."""
        return f"{self.model}/{self.operator}" if self.model else ""


class Generation(list[Program]):
    """The programs of a generation.

    Args:
        programs: they.
        rejected: proposals of places that have no program in the end.
    """

    def __init__(self, programs: Iterable[Program] = (), rejected: Iterable[Rejected] = ()) -> None:
        super().__init__(programs)
        self.rejected = tuple(rejected)


class Member(NamedTuple):
    """A program with its scores."""

    program: Program
    scores: tuple[float, ...]
    """One for each instance."""
    feedback: str

    @property
    def score(self) -> float:
        """Their mean."""
        return math.fsum(self.scores) / len(self.scores) if self.scores else math.inf


class EvolutionState(NamedTuple):
    """All that a search needs to go on."""

    key: Key
    start: str
    """The source that everything began with."""
    generation: int = 0
    """How many tells there were."""
    told: int = 0
    """How many programs were told: the number of the next member."""
    evaluations: int = 0
    """How many programs were evaluated, those of tuned constants included."""
    members: Mapping[int, Member] = {}
    """Those that may still be parents, by number."""
    islands: tuple[tuple[int, ...], ...] = ()
    arrivals: tuple[int, ...] = ()
    """How many programs came to each island since it began."""
    archive: Mapping[Cell, int] = {}
    """The best of each kind, by number."""
    best: int = -1
    """Number of the best member ever told; -1 before."""
    seen: frozenset[str] = frozenset()
    """Digests of all programs told, failed ones included, and of those that tuning tried."""
    tuned: frozenset[str] = frozenset()
    """Digests, without constants, of those whose constants were tuned."""
    broken: tuple[Member, ...] = ()
    """What language models wrote last and what failed, to be repaired once; scores are empty."""
    arms: Mapping[str, Arm] = {}
    """What the bandit knows."""
    counts: Mapping[str, int] = {}
    """How many proposals were rejected for each reason, how many programs failed, what was repaired."""
    improvements: int = 0
    """How often there was a new best program."""
    tokens: int = 0
    cost: float = 0.0
    """Of all answers that led to programs told or were rejected on the way."""


def to_json(state: EvolutionState) -> str:
    """The state as text; equal states give equal texts."""
    fields: dict[str, Any] = {
        **state._asdict(),
        "key": [int(word) for word in state.key],
        "members": [[number, _row(member)] for number, member in sorted(state.members.items())],
        "archive": [[list(place), number] for place, number in sorted(state.archive.items())],
        "seen": sorted(state.seen),
        "tuned": sorted(state.tuned),
        "broken": [_row(member) for member in state.broken],
        "arms": {name: list(arm) for name, arm in state.arms.items()},
    }
    return json.dumps({"format": _FORMAT, "sha256": _sha256(fields), "state": fields}, sort_keys=True)


def from_json(text: str | bytes) -> EvolutionState:
    """The state that :func:`to_json` was given, in UTF-8 if as bytes; it goes on with the same bits.

    Raises:
        CheckpointError: the text is none of its kind, or damaged.
    """
    try:
        stored = json.loads(text)
        if (kind := stored["format"]) != _FORMAT:
            raise CheckpointError(f"program evolution: format {kind!r} is none that this version reads")
        fields: dict[str, Any] = stored["state"]
        if _sha256(fields) != stored["sha256"]:
            raise CheckpointError("program evolution: the state is not the one that was stored: its digest differs")
        return EvolutionState(**{
            **fields,
            "key": np.asarray(fields["key"], np.uint32).reshape(2),
            "members": {int(number): _member(row) for number, row in fields["members"]},
            "islands": tuple(tuple(map(int, island)) for island in fields["islands"]),
            "arrivals": tuple(map(int, fields["arrivals"])),
            "archive": {tuple(map(int, place)): int(number) for place, number in fields["archive"]},
            "seen": frozenset(fields["seen"]),
            "tuned": frozenset(fields["tuned"]),
            "broken": tuple(map(_member, fields["broken"])),
            "arms": {name: Arm(*map(float, arm)) for name, arm in fields["arms"].items()},
        })  # fmt: skip
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"program evolution: the text is no stored state: {error}") from error


def _sha256(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _row(member: Member) -> list[Any]:
    program = member.program._asdict() | {"rejected": [list(one) for one in member.program.rejected]}
    return [program, list(member.scores), member.feedback]


def _member(row: Any) -> Member:
    fields, scores, feedback = row
    rejected = tuple(Rejected(*one) for one in fields["rejected"])
    program = Program(**{**fields, "parents": tuple(fields["parents"]), "rejected": rejected})
    return Member(program, tuple(map(float, scores)), str(feedback))
