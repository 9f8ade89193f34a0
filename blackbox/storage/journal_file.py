"""The SQLite file under a journal: its schema, the digests of its records, and what is checked when it is opened."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from blackbox.errors import BlackboxError, JournalError

APPLICATION_ID = 0x62626F78  # "bbox", in the header of the file
SCHEMA_VERSION = 1  # in PRAGMA user_version, which is read before anything else
SCHEMA = (
    "CREATE TABLE run (id INTEGER PRIMARY KEY CHECK (id = 1), created TEXT NOT NULL, durability TEXT NOT NULL,"
    " configuration TEXT NOT NULL, digest BLOB NOT NULL)",
    # Columns without a type keep a float as it is; SQLite would make -0.0 of a REAL column an integer.
    "CREATE TABLE tell (position INTEGER PRIMARY KEY, generation INTEGER NOT NULL, member INTEGER NOT NULL, value,"
    " status TEXT NOT NULL, reason TEXT NOT NULL, seconds, payload BLOB, digest BLOB NOT NULL,"
    " UNIQUE (generation, member))",
    "CREATE TABLE state (position INTEGER PRIMARY KEY, manifest TEXT NOT NULL, arrays BLOB NOT NULL,"
    " digest BLOB NOT NULL)",
    "CREATE TABLE note (id INTEGER PRIMARY KEY CHECK (id = 1), facts TEXT NOT NULL)",
    "CREATE TABLE writer (id INTEGER PRIMARY KEY CHECK (id = 1), token TEXT, pid INTEGER, started TEXT, host TEXT,"
    " boot TEXT, namespace TEXT, revision INTEGER NOT NULL, events INTEGER NOT NULL, digest BLOB NOT NULL,"
    " notes BLOB NOT NULL)",
)
RECORD_LIMIT = 16_000_000  # bytes of the configuration, a note, or a told result; SQLite reads no larger one
CHECKPOINT_LIMIT = 1_000_000_000  # bytes, SQLite's own limit
REASON_LIMIT = 10_000  # bytes
START = b"\0" * 8
"""Digest before the first event."""

_BUSY_SECONDS = 5.0
_EVENT = struct.Struct("<qqqdd")
_TAIL = struct.Struct("<qqI")

Row = tuple[int, int, float | None, str, str, float | None, bytes | None]
"""A told result as stored: generation, member, value, status, reason, seconds, payload."""


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection in autocommit mode that trusts nothing in the file; ``mode`` is SQLite's ro, rw or rwc."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    if mode == "ro" and not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists():
        uri += "&immutable=1"  # on a read-only medium SQLite cannot make the files that readers share
    connection = sqlite3.connect(
        uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=32
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, RECORD_LIMIT)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def prepare(connection: sqlite3.Connection, durability: str) -> None:
    """Make an open connection one that writes."""
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise JournalError(f"the file system cannot hold a write-ahead log (SQLite's journal mode stays {mode!r})")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
    connection.execute(f"PRAGMA fullfsync = {'ON' if durability == 'power' else 'OFF'}")  # macOS
    connection.execute(f"PRAGMA journal_size_limit = {4 * 2**20}")  # after a large checkpoint


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """A number from the header of the file."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def verify_kind(connection: sqlite3.Connection, path: Path) -> None:
    """JournalError unless the file is a journal of this version, without tables, views or triggers of others."""
    if pragma(connection, "application_id") != APPLICATION_ID:
        raise JournalError(f"{path} is not a blackbox journal")
    if (version := pragma(connection, "user_version")) != SCHEMA_VERSION:
        raise JournalError(
            f"{path} is a journal of schema version {version}; this release reads version {SCHEMA_VERSION}"
        )
    found = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL LIMIT 100").fetchall()
    if sorted(sql for (sql,) in found) != sorted(SCHEMA):
        raise JournalError(f"{path} is damaged or was altered: its tables are not those of a journal")


def verify_run(connection: sqlite3.Connection, path: Path) -> tuple[str, dict[str, Any]]:
    """Durability and configuration of the run; JournalError if they are not what was written."""
    row = connection.execute("SELECT created, durability, configuration, digest FROM run").fetchone()
    if row is None or record_digest("run", *row[:-1]) != row[-1]:
        raise JournalError(f"{path} is damaged: the configuration is not what was written")
    configuration = json.loads(row[2])
    if not isinstance(configuration, dict):
        raise JournalError(f"{path} holds a configuration that is no dictionary")
    return row[1], configuration


def verify_end(connection: sqlite3.Connection, path: Path) -> tuple[int, int]:
    """Numbers of transactions and of events; JournalError unless the last event is the one that it should be."""
    row = connection.execute(  # one statement, so that a live writer changes nothing between
        "SELECT revision, events, writer.digest, (SELECT max(position) FROM tell),"
        " (SELECT digest FROM tell WHERE position = events) FROM writer"
    ).fetchone()
    if row is None:
        raise JournalError(f"{path} is damaged: the record of its end is missing")
    revision, events, digest, position, last = row
    if type(revision) is not int or events != (position or 0) or digest != (last if position else START):
        raise JournalError(f"{path} is damaged: it does not end with the result that was told last")
    return revision, events


def digest_at(connection: sqlite3.Connection, position: int) -> bytes | None:
    """Digest of all events up to one, as stored."""
    if position <= 0:
        return START
    row = connection.execute("SELECT digest FROM tell WHERE position = ?", (position,)).fetchone()
    return None if row is None else row[0]


def record_digest(*fields: Any) -> bytes:
    """Digest of strings; of anything else, one that is never stored."""
    text = json.dumps([field if isinstance(field, str) else None for field in fields])
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def event_digest(previous: bytes | None, position: int, row: Sequence[Any]) -> bytes | None:
    """Digest of an event and, through ``previous``, of all before it; None if any type is foreign."""
    generation, member, value, status, reason, seconds, payload = row
    if previous is None:
        return None
    try:
        fixed = _EVENT.pack(
            position, generation, member, math.nan if value is None else value, math.nan if seconds is None else seconds
        )
        texts = (status.encode(), reason.encode(), payload or b"")
        lengths = b"%d,%d,%d,%d;" % (*map(len, texts), payload is None)
        return hashlib.blake2b(b"".join((previous, fixed, lengths, *texts)), digest_size=8).digest()
    except (struct.error, AttributeError, TypeError, UnicodeError):
        return None


def to_json(argument: str, value: Any) -> str:
    """``value`` as JSON text; JournalError if it has none or is too long."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise JournalError(f"{argument} must hold JSON values only: {error}") from error
    if len(text) > RECORD_LIMIT // 2:
        raise JournalError(f"{argument} must be at most {RECORD_LIMIT // 2} bytes of JSON, got {len(text)}")
    return text


@contextlib.contextmanager
def translated(path: Path, act: str) -> Iterator[None]:
    """Errors of SQLite and of the file system as :class:`JournalError`; what the file held is data, and may be bad."""
    try:
        yield
    except BlackboxError:
        raise
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        what = {
            "SQLITE_FULL": "the disk is full; nothing of it was written, so free some space and repeat it",
            "SQLITE_BUSY": f"another process has locked the file for more than {_BUSY_SECONDS:g} s; repeat it",
            "SQLITE_NOTADB": "it is not a blackbox journal",
            "SQLITE_CORRUPT": f"the file is damaged ({error})",
            "SQLITE_CANTOPEN": f"it must be a file in a folder that may be written to; got {str(path)!r}",
            "SQLITE_READONLY": f"the file and its folder must be such that they may be written to ({error})",
        }.get("_".join(name.split("_")[:2]), f"{error} ({name or type(error).__name__})")
        raise JournalError(f"{path}: could not {act}: {what}") from error
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        raise JournalError(f"{path}: could not {act}: {error}") from error


class Tail:
    """Numbers of transactions and events, in a small file beside the journal that SQLite does not know.

    A bit that flips in the write-ahead log makes SQLite ignore that transaction and all later ones without a word;
    these numbers, written after each commit, make it known.
    """

    def __init__(self, journal: Path) -> None:
        self.path = Path(f"{journal}-tail")
        self._file: Any = None

    def write(self, revision: int, events: int) -> None:
        """Called after a commit, which stands even if this fails: then only the check on it is lost."""
        numbers = struct.pack("<qq", revision, events)
        try:
            if self._file is None:
                self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115
            self._file.seek(0)
            self._file.write(numbers + struct.pack("<I", crc32(numbers)))
        except OSError:
            self.remove()

    def read(self) -> tuple[int, int] | None:
        """Both numbers, or None if there is nothing to be relied on."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return None
        if len(content) != _TAIL.size or crc32(content[:16]) != int.from_bytes(content[16:], "little"):
            return None
        revision, events, _ = _TAIL.unpack(content)
        return revision, events

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
