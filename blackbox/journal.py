"""The journal: one SQLite file that holds a run's settings and every told result, in the order of telling.

A run is a function of its settings, its seed and the told values, so the journal is the whole truth about it and can
be replayed. Checkpoints in the same file only save time.

* *Durability.* When :meth:`Journal.append` returns, the results survive the death of the process at any moment
  (``durability="process"``), or of the machine (``durability="power"``, which waits for the disk at each tell).
  After a power failure under ``"process"`` the last results may be missing; they are simply asked for again.
* *Integrity.* Results are chained by digests, every other record has its own, and a few bytes beside the file
  (``FILE-tail``, only while it is open or after a crash) count the transactions. A damaged file therefore warns or
  raises :class:`JournalError`; it never reads back other values.
* *One writer.* The file names the process that writes it. A dead one is replaced at once; a live one is respected.
* *Input is data.* A file is read only if its schema is, letter by letter, the one written here, and with
  ``PRAGMA trusted_schema=OFF``; nothing in it is ever executed or unpickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import operator
import os
import sqlite3
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from blackbox.errors import CheckpointError, JournalError
from blackbox.storage import checkpoint
from blackbox.storage.holder import claim, holder, refuse_network, release
from blackbox.storage.journal_file import (
    APPLICATION_ID,
    CHECKPOINT_LIMIT,
    REASON_LIMIT,
    RECORD_LIMIT,
    SCHEMA,
    SCHEMA_VERSION,
    START,
    Row,
    Tail,
    connect,
    digest_at,
    event_digest,
    pragma,
    prepare,
    record_digest,
    to_json,
    translated,
    verify_end,
    verify_kind,
    verify_run,
)

Durability = Literal["process", "power"]

_CHECKPOINTS_KEPT = 2
_PAGE_ROWS, _PAGE_BYTES = 1000, 4_000_000  # fetched at a time


@dataclass(frozen=True, slots=True)
class Event:
    """One told result."""

    generation: int
    """Ordinal of the generation over the whole run, restarts included; -1 for injected points."""
    member: int
    """Number within the generation; a running number for injected points."""
    value: float
    """As the user gave it, NaN allowed."""
    status: str
    reason: str = ""
    """Why it failed; cut at 10 kB."""
    seconds: float | None = None
    payload: bytes | None = None
    """Only what replay cannot make again: the encoded vector of an injected point."""


@dataclass(slots=True)
class _End:
    """Where a journal ends."""

    events: int
    digest: bytes | None


class Journal:
    """A run on disk. Make one with :meth:`create` or :meth:`open`; any thread may use it, a forked child may not.

    Attributes:
        path: the file.
        configuration: settings, space, seed, fingerprint: JSON, fixed at creation.
        durability: what an acknowledged result survives, fixed at creation.
    """

    path: Path
    configuration: dict[str, Any]
    durability: str

    def __init__(self, path: Path, connection: sqlite3.Connection, token: str | None) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = connection
        self._token = token  # None: read only
        self._pid = os.getpid()
        self._mutex = threading.RLock()
        self._tail = None if token is None else Tail(path)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        configuration: Mapping[str, Any],
        *,
        durability: Durability = "process",
    ) -> Journal:
        """Begin a journal in a new file; folders are made as needed.

        Args:
            path: the file, on a local disk.
            configuration: JSON values that determine the run.
            durability: what an acknowledged result survives; ``"power"`` costs a disk flush at each tell.

        Raises:
            JournalError: if the file holds something already or cannot be made.
        """
        path = _path("journal", path)
        if durability not in get_args(Durability):
            raise JournalError(f"durability must be 'process' or 'power', got {durability!r}")
        text = to_json("configuration", dict(configuration))
        with translated(path, "create the journal"):
            path.parent.mkdir(parents=True, exist_ok=True)
            refuse_network(path)
            connection = connect(path, "rwc")
            try:
                if pragma(connection, "application_id") == APPLICATION_ID:
                    raise JournalError(f"{path} holds a run already; resume it or choose another file")
                if not _is_empty(connection):
                    raise JournalError(f"{path} is an SQLite file of something else; choose another file")
                prepare(connection, durability)
                connection.execute("BEGIN IMMEDIATE")
                if pragma(connection, "application_id") == APPLICATION_ID:
                    raise JournalError(f"{path} holds a run already, begun this moment by another process")
                for statement in SCHEMA:
                    connection.execute(statement)
                run = (datetime.now(UTC).isoformat(timespec="seconds"), durability, text)
                connection.execute("INSERT INTO run VALUES (1, ?, ?, ?, ?)", (*run, record_digest("run", *run)))
                connection.execute("INSERT INTO note VALUES (1, '{}')")
                writer = (0, 0, START, record_digest("note", "{}"))
                connection.execute(
                    "INSERT INTO writer VALUES (1, NULL, NULL, NULL, NULL, NULL, NULL, ?, ?, ?, ?)", writer
                )
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                connection.execute("COMMIT")
            finally:
                connection.close()
        Tail(path).remove()  # of a former file of this name
        return cls.open(path)

    @classmethod
    def is_blank(cls, path: str | os.PathLike[str]) -> bool:
        """Whether a run may begin in this file: there is none, it is empty, or its making was cut short.

        Raises:
            JournalError: it is no file of SQLite.
        """
        path = _path("journal", path)
        if not path.is_file():
            return True
        with translated(path, "look into the journal"), contextlib.closing(connect(path, "ro")) as connection:
            return pragma(connection, "application_id") != APPLICATION_ID and _is_empty(connection)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, steal: bool = False, read_only: bool = False) -> Journal:
        """Open the journal of a run, to continue it or only to look.

        Args:
            path: the file.
            steal: take the run from a writer that lives or that cannot be asked, as on another machine. The former
                writer gets a :class:`JournalError` at its next tell.
            read_only: change nothing; works beside a live writer.

        Raises:
            JournalError: if the file is missing, damaged, of another kind or version, or held by a live writer.
        """
        path = _path("path", path)
        if not path.is_file():
            raise JournalError(f"there is no journal {str(path)!r}")
        with translated(path, "open the journal"):
            if not read_only:
                refuse_network(path)
            seen = Tail(path).read()  # before the database, which a live writer changes first
            connection = connect(path, "ro" if read_only else "rw")
            try:
                verify_kind(connection, path)
                durability, configuration = verify_run(connection, path)
                revision, events = verify_end(connection, path)
                token = None
                if not read_only:
                    prepare(connection, durability)
                    token = claim(connection, path, steal)
            except BaseException:
                connection.close()
                raise
        if seen is not None and revision < seen[0]:
            lost = max(0, seen[1] - events)
            warnings.warn(
                f"{path}: the last {seen[0] - revision} writes ({lost} told results) are missing, by a power failure"
                " or damage to the file; the results will be asked for again",
                RuntimeWarning,
                stacklevel=2,
            )
        journal = cls(path, connection, token)
        journal.configuration, journal.durability = configuration, durability
        return journal

    def append(self, events: Sequence[Event]) -> None:
        """Add told results in one transaction, durable when this returns.

        Raises:
            JournalError: if a result of this generation and member is there already, or nothing could be written
                (disk full, file locked, run taken over). The file is then as before and the call may be repeated.
        """
        if not events:
            return
        rows = [_row(i, event) for i, event in enumerate(events)]
        with self._transaction("append results") as (connection, end):
            stored = []
            for row in rows:
                end.events += 1
                end.digest = event_digest(end.digest, end.events, row)
                stored.append((end.events, *row, end.digest))
            try:
                connection.executemany("INSERT INTO tell VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", stored)
            except sqlite3.IntegrityError as error:
                raise JournalError(
                    f"{self.path}: a result of the same generation and member is stored already"
                ) from error

    def events(self, after: int = 0) -> Iterator[Event]:
        """The results told so far in order, without the first ``after``; read as needed, never all at once.

        Raises:
            JournalError: at the first damaged record.
        """
        with self._reading() as connection:
            end, last = connection.execute("SELECT events, digest FROM writer").fetchone()
            digest = START if after <= 0 else digest_at(connection, after)
        position = max(0, after)
        while position < end and (page := self._page(position, end)):
            for stored in page:
                position += 1
                digest = event_digest(digest, position, stored[1:-1])
                if digest is None or stored[0] != position or stored[-1] != digest:
                    raise JournalError(f"{self.path} is damaged: told result {position} is not what was written")
                yield _event(stored[1:-1])
        if position < end or (position == end and digest != last):
            raise JournalError(f"{self.path} is damaged: {end} results were told, and they end differently")

    def _page(self, position: int, end: int) -> list[tuple[Any, ...]]:
        """Some rows after a position; no cursor stays open, which would keep the log from being reset."""
        page, size = [], 0
        with self._reading() as connection:
            for stored in connection.execute(
                "SELECT * FROM tell WHERE position > ? AND position <= ? ORDER BY position", (position, end)
            ):
                page.append(stored)
                size += sum(len(field) for field in stored if isinstance(field, str | bytes))
                if len(page) >= _PAGE_ROWS or size > _PAGE_BYTES:
                    break
        return page

    def __len__(self) -> int:
        """Number of told results."""
        with self._reading() as connection:
            return int(connection.execute("SELECT events FROM writer").fetchone()[0])

    def save_checkpoint(self, position: int, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
        """Keep the state after ``position`` results; the newest two are kept.

        Args:
            position: number of results that led to the state.
            arrays: named arrays of numbers or booleans.
            manifest: JSON facts that go with them.

        Raises:
            CheckpointError: for arrays or facts that cannot be kept.
            JournalError: if nothing could be written.
        """
        packed = checkpoint.pack(position, arrays, manifest)
        with self._transaction("save a checkpoint") as (connection, end):
            if not 0 <= position <= end.events:
                raise CheckpointError(f"position must be from 0 to the {end.events} results told, got {position}")
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, CHECKPOINT_LIMIT)
            connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?)", (position, *packed))
            newest = f"SELECT position FROM state ORDER BY position DESC LIMIT {_CHECKPOINTS_KEPT}"
            connection.execute(f"DELETE FROM state WHERE position NOT IN ({newest})")

    def checkpoints(self) -> Iterator[tuple[int, dict[str, np.ndarray], dict[str, Any]]]:
        """The kept states, newest first, as (position, arrays, manifest); a damaged one warns and is left out."""
        try:
            with self._reading() as connection:
                found = connection.execute("SELECT position FROM state ORDER BY position DESC").fetchall()
                events = len(self)
        except JournalError as error:
            self._warn_damaged("the list of checkpoints", error)
            return
        for (position,) in found:
            try:
                if not isinstance(position, int) or not 0 <= position <= events:
                    raise CheckpointError(f"it follows result {position} of {events}")
                with self._reading() as connection:
                    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self._size())
                    row = connection.execute(
                        "SELECT manifest, arrays, digest FROM state WHERE position = ?", (position,)
                    ).fetchone()
                arrays, facts = checkpoint.unpack(position, checkpoint.Checkpoint(*row))
            except (JournalError, TypeError) as error:
                self._warn_damaged(f"the checkpoint after {position} results", error)
            else:
                yield position, arrays, facts

    def set_note(self, key: str, value: Any) -> None:
        """Keep a small JSON fact that may change, such as the status of the run."""
        to_json(f"note {key!r}", value)
        with self._transaction("keep a note") as (connection, _):
            facts = to_json("notes", {**self._notes(connection), key: value})
            connection.execute("UPDATE note SET facts = ?", (facts,))
            connection.execute("UPDATE writer SET notes = ?", (record_digest("note", facts),))

    def note(self, key: str) -> Any:
        """The fact kept under ``key``, or None."""
        with self._reading() as connection:
            return self._notes(connection).get(key)

    def _notes(self, connection: sqlite3.Connection) -> dict[str, Any]:
        row = connection.execute("SELECT facts, notes FROM note, writer").fetchone()
        if row is None or record_digest("note", row[0]) != row[1] or not isinstance(notes := json.loads(row[0]), dict):
            raise JournalError(f"{self.path} is damaged: the notes are not what was written")
        return notes

    def close(self) -> None:
        """Give the run back. Nothing is lost without it: the next process then finds a dead writer."""
        if os.getpid() != self._pid:
            return
        with self._mutex:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            if self._token is not None:
                release(connection, self._token)
            connection.close()
            if self._tail is not None:
                self._tail.close()
                if not Path(f"{self.path}-wal").exists():  # all of it is in the main file now
                    self._tail.remove()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_connection", None) is not None:
            self.close()

    def _size(self) -> int:
        """Bytes of the file and its log: no record can be larger, whatever a hostile one says."""
        log = Path(f"{self.path}-wal")
        return min(CHECKPOINT_LIMIT, self.path.stat().st_size + (log.stat().st_size if log.exists() else 0))

    def _usable(self) -> sqlite3.Connection:
        if os.getpid() != self._pid:
            raise JournalError(f"{self.path} was opened by process {self._pid}; a forked child must not use it")
        if self._connection is None:
            raise JournalError(f"{self.path} is closed")
        return self._connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        self._usable()
        with self._mutex, translated(self.path, "read the journal"):
            connection = self._usable()
            try:
                yield connection
            finally:
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, RECORD_LIMIT)

    @contextlib.contextmanager
    def _transaction(self, act: str) -> Iterator[tuple[sqlite3.Connection, _End]]:
        """A transaction of the rightful writer: the connection, and the end of the events, which may be moved."""
        self._usable()
        if self._tail is None:
            raise JournalError(f"{self.path} was opened with read_only=True")
        with self._mutex, translated(self.path, act):
            connection = self._usable()
            try:
                connection.execute("BEGIN IMMEDIATE")
                token, revision, *rest = connection.execute(
                    "SELECT token, revision, events, digest FROM writer"
                ).fetchone()
                if token != self._token:
                    raise JournalError(f"{self.path} was taken over by {holder(connection)}")
                end = _End(*rest)
                yield connection, end
                connection.execute(
                    "UPDATE writer SET revision = ?, events = ?, digest = ?", (revision + 1, end.events, end.digest)
                )
                connection.execute("COMMIT")
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
                    with contextlib.suppress(sqlite3.Error):  # fold the log in now, and from now on often
                        connection.execute("PRAGMA wal_autocheckpoint = 16")
                        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                raise
            finally:
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, RECORD_LIMIT)
            self._tail.write(revision + 1, end.events)

    def _warn_damaged(self, what: str, error: Exception) -> None:
        warnings.warn(f"{self.path}: {what} cannot be used ({error}); an older state is", RuntimeWarning, stacklevel=3)


def _path(argument: str, path: object) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise JournalError(f"{argument} must be the path of a file, got {path!r}")
    return Path(path)


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)


def _row(i: int, event: Event) -> Row:
    """An event in the types of SQLite; NaN is stored as NULL."""
    try:
        value, seconds = float(event.value), event.seconds
        # Surrogates, as in file names that are no text, have no UTF-8.
        reason = event.reason.encode("utf-8", "replace")
        if len(reason) > REASON_LIMIT:
            reason = reason[: REASON_LIMIT - 16] + b" ... (cut short)"
        row = (
            operator.index(event.generation),
            operator.index(event.member),
            None if value != value else value,
            event.status,
            reason.decode("utf-8", "ignore"),
            None if seconds is None or seconds != seconds else float(seconds),
            event.payload,
        )
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise JournalError(f"events[{i}] cannot be stored: {error}") from error
    if event_digest(START, 0, row) is None:
        raise JournalError(f"events[{i}] cannot be stored: a number is beyond 64 bits, or a text is none")
    return row


def _event(row: Row) -> Event:
    generation, member, value, status, reason, seconds, payload = row
    return Event(generation, member, math.nan if value is None else float(value), status, reason, seconds, payload)
