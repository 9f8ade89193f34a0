"""The file of a ledger: its tables, and how it is opened.

A file is used only if its tables are, letter by letter, the ones made here. Nothing in it is executed or unpickled, and
keys never come near it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from blackbox.errors import JournalError

_APPLICATION_ID = 0x62624C4D  # "bbLM"
_SCHEMA = (
    "CREATE TABLE call (id INTEGER PRIMARY KEY, run TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,"
    " attempt INTEGER NOT NULL, began TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL,"
    " tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, money INTEGER, seconds INTEGER NOT NULL)",
    "CREATE TABLE reply (key TEXT PRIMARY KEY, request TEXT NOT NULL, reply TEXT NOT NULL, uses INTEGER NOT NULL)",
    "CREATE TABLE spent (run TEXT PRIMARY KEY, calls INTEGER NOT NULL, tokens INTEGER NOT NULL, money INTEGER NOT NULL,"
    " seconds INTEGER NOT NULL, reused INTEGER NOT NULL)",
)
_BUSY_SECONDS = 30.0


def connect(path: Path | None) -> sqlite3.Connection:
    """A connection in autocommit mode to the ledger in ``path``, made if it is not there; in memory for None."""
    with translated(path, "open it"):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            path or ":memory:", timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            if path is not None:
                _prepare(connection, path)
            connection.execute("BEGIN IMMEDIATE")
            found = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL LIMIT 100").fetchall()
            if not found:
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            elif sorted(sql for (sql,) in found) != sorted(_SCHEMA):
                raise JournalError(f"{path} is a file of something else, no ledger of calls")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """A write-ahead log, which SQLite refuses without waiting while another process makes the same change."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            if not getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise JournalError(f"{path}: the file system cannot hold a write-ahead log (it stays {mode!r})")
    connection.execute("PRAGMA synchronous = NORMAL")


@contextlib.contextmanager
def translated(path: Path | None, act: str) -> Iterator[None]:
    """Errors of SQLite and of the file system as :class:`JournalError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"{path or 'the ledger in memory'}: could not {act}: {error}") from error
