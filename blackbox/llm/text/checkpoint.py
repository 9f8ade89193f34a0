"""The file of a text search: a log of what was evaluated and told, from which the search is made again.

The first line says which search it is. The others are evaluations, and what each generation was told, after the
evaluations that this is of. States are not in it: ``tell`` is a pure function, so told again they have the same bits,
and what is written grows with the evaluations alone. What a killed process left of a last line is written over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blackbox.errors import CheckpointError, TellError
from blackbox.llm.text.proposals import Proposals, ReplyCounts, counts_of
from blackbox.llm.text.rollouts import Rollouts
from blackbox.llm.text.stored import built, plain
from blackbox.whole_file import write_whole

_FORMAT = "blackbox text search checkpoint 2"


class Progress(NamedTuple):
    """Where a search is between two generations."""

    state: Any
    idle: int
    """Generations without a new evaluation, one after another."""
    made: int
    """Evaluations before the next generation; what is made since belongs to it."""


class Told(NamedTuple):
    """What a generation was told, but for the losses, which are those of the evaluations; and where that led."""

    genomes: Sequence[Any]
    idle: int
    made: int


class Checkpoint:
    """The file of one search, which one process at a time writes.

    Args:
        path: the file; None to keep nothing.
        description: of the search, as text.
        rollouts: its evaluations.
    """

    def __init__(self, path: str | os.PathLike[str] | None, description: str, rollouts: Rollouts[Any]) -> None:
        self._path = None if path is None else Path(path)
        self._head = {"format": _FORMAT, "search": description}
        self._rollouts = rollouts
        self._restored: set[tuple[str, int]] = set()  # evaluations that were in the file
        self._written = 0  # evaluations, the first of them
        self._generations = 0  # that are in the file
        self._end = 0  # bytes of whole lines
        self._size = 0  # bytes in all, as this search left the file

    def restored(self, strategy: Any, begin: Any) -> Progress:
        """Where the search is that began with the state ``begin``: after the last generation in the file.

        Raises:
            CheckpointError: the file is of another search, or damaged.
        """
        progress = Progress(begin, 0, len(self._rollouts))
        if self._path is None or not self._path.exists():
            return progress
        content = self._path.read_bytes()
        lines = content.split(b"\n")[:-1]
        try:
            entries = [json.loads(line) for line in lines or [content]]
            self._require_same(entries[0])
            if not lines:  # the first format had none, and is named above
                raise CheckpointError(f"{self._path} is without a whole line, and no checkpoint of a text search")
            for entry in entries[1:]:
                if "rollouts" in entry:
                    self._rollouts.restore(entry["rollouts"])
                    self._restored |= {(name, instance) for name, instance, *_ in entry["rollouts"]}
                elif entry["generation"] != self._generations:
                    raise CheckpointError(f"{self._path} was written by several searches at a time")
                else:
                    self._generations += 1
                    genomes = Proposals(built(entry["told"]), ReplyCounts(*entry["counts"]))
                    state = self._told(strategy, progress.state, genomes)
                    progress = Progress(state, int(entry["idle"]), int(entry["made"]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, TellError) as error:
            raise CheckpointError(f"{self._path} is no checkpoint of a text search: {error}") from error
        self._end, self._size = sum(len(line) + 1 for line in lines), len(content)
        return progress

    def append(self, told: Sequence[Told]) -> None:
        """Write the evaluations that are new and have answers, and generations; on the disk when this returns.

        Raises:
            CheckpointError: the file cannot be written, or another search writes it.
        """
        if self._path is None:
            return
        stored = self._rollouts.stored(self._written)
        new = [run for run in stored if (run[0], run[1]) not in self._restored]
        entries: list[dict[str, Any]] = [] if self._end else [self._head]
        entries += [{"rollouts": new}] * bool(new)
        for number, (genomes, idle, made) in enumerate(told, self._generations):
            outcome = {"counts": counts_of(genomes), "idle": idle, "made": made}
            entries.append({"generation": number, "told": plain(tuple(genomes)), **outcome})
        content = "".join(f"{json.dumps(entry, allow_nan=False)}\n" for entry in entries).encode()
        if content:
            try:
                self._write(self._path, content)
            except OSError as error:
                raise CheckpointError(f"{self._path} cannot be written: {error}") from error
        self._written += len(stored)
        self._generations += len(told)

    def _write(self, path: Path, content: bytes) -> None:
        if (path.stat().st_size if self._end or path.exists() else 0) != self._size:  # not to cut off another's lines
            raise CheckpointError(f"{path} is not as this search left it: another search writes it")
        if not self._end:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, [content])
        else:
            with open(path, "r+b") as file:
                file.truncate(self._end)
                file.seek(self._end)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        self._end += len(content)
        self._size = self._end

    def _require_same(self, head: Any) -> None:
        if head["format"] != _FORMAT:
            said = f"of the format {head['format']!r}, and no checkpoint that this version reads"
            raise CheckpointError(f"{self._path} is {said}")
        if head["search"] != self._head["search"]:
            said = "another method, model, key, seeds or settings"
            raise CheckpointError(f"{self._path} is of a search with {said}; it has {head['search']}")

    def _told(self, strategy: Any, state: Any, genomes: Proposals[Any]) -> Any:
        batch = strategy.batch(state)
        if self._rollouts.fitting(genomes, batch, 0) < len(genomes):
            raise CheckpointError(f"{self._path} lacks evaluations of a generation that was told")
        return strategy.tell(state, genomes, *self._rollouts(genomes, batch))
