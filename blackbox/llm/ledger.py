"""The ledger: one SQLite file with every attempt, what it cost, and every answer.

Each attempt is written, with the upper bound of its cost, before the request is sent; its cost and the answer are
committed together before anybody sees the answer. So a process that is killed has lost no answer that arrived, and what
was under way counts with its bound for ever: resumed, it can neither pay twice nor pass a limit. Sums are kept in the
same transactions, which several processes may make at once.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from blackbox.errors import JournalError
from blackbox.llm.budget import UNIT, Bill, Budget, Cost
from blackbox.llm.ledger_file import connect, translated
from blackbox.llm.provider import Reply, Request


class Call(NamedTuple):
    """One attempt, as logged."""

    run: str
    key: str
    """SHA-256 of the model's name and the whole request."""
    model: str
    attempt: int
    """1 for the first one of the same request."""
    began: str
    """Time of day, UTC."""
    status: str
    """"begun" (under way, or its process died), "ok" or "failed"."""
    reason: str
    """Why it failed."""
    tokens_in: int
    tokens_out: int
    money: float | None
    """None where no price is known."""
    seconds: float


class Spent(NamedTuple):
    """What a run has taken so far; attempts under way count with their upper bounds."""

    calls: int
    tokens: int
    money: float
    seconds: float
    reused: int
    """Requests answered from the file, for nothing."""


class Ledger:
    """An open ledger, for any thread; a forked child opens its own.

    Args:
        path: the file, on a local disk; None to keep everything in memory.

    Raises:
        JournalError: the file is something else, or cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._mutex = threading.RLock()
        self._path = None if path is None else Path(path)
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = connect(self._path)

    def close(self) -> None:
        """Let go of the file."""
        with self._mutex:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def __del__(self) -> None:
        if connection := getattr(self, "_connection", None):  # not there if the file could not be opened
            connection.close()

    def reuse(self, run: str, key: str) -> Reply | None:
        """The answer stored under ``key``, counted as used; None if there is none."""
        with self._mutex, translated(self._path, "look up an answer"):
            if self._open().execute("SELECT 1 FROM reply WHERE key = ?", (key,)).fetchone() is None:
                return None
            with self._transaction() as connection:
                connection.execute("UPDATE reply SET uses = uses + 1 WHERE key = ?", (key,))
                self._account(connection, run)
                connection.execute("UPDATE spent SET reused = reused + 1 WHERE run = ?", (run,))
                return self._reply(connection, key)

    def stored(self, key: str) -> Reply | None:
        """The answer stored under ``key``, not counted; None if there is none."""
        with self._mutex, translated(self._path, "look up an answer"):
            row = self._open().execute("SELECT reply FROM reply WHERE key = ?", (key,)).fetchone()
            return None if row is None else Reply.from_json(row[0])

    def reserve(self, budget: Budget, run: str, key: str, model: str, attempt: int, bound: Bill) -> int | str:
        """Log an attempt before it begins.

        Returns:
            Its number; or the name of the limit for which ``bound`` is too much, and then nothing is logged.
        """
        with self._transaction("log a call") as connection:
            if limit := budget.refused(self._account(connection, run), bound.cost):
                return limit
            began = datetime.now(UTC).isoformat(timespec="milliseconds")
            row = (run, key, model, attempt, began, "begun", "", *bound)
            cursor = connection.execute(f"INSERT INTO call VALUES (NULL{', ?' * len(row)})", row)
            self._add(connection, run, bound.cost)
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def fail(self, number: int, reason: str, bill: Bill) -> None:
        """Log how an attempt failed and what it cost, in the place of its bound."""
        with self._transaction("log a failed call") as connection:
            self._settle(connection, number, "failed", reason, bill)

    def succeed(self, number: int, request: Request, reply: Reply, bill: Bill) -> Reply:
        """Log an attempt that was answered, and keep the answer.

        Returns:
            The answer under the attempt's key: another one if another process was faster.
        """
        with self._transaction("keep an answer") as connection:
            key = self._settle(connection, number, "ok", "", bill)
            row = (key, request.text(), reply.to_json())
            connection.execute("INSERT OR IGNORE INTO reply VALUES (?, ?, ?, 0)", row)
            return self._reply(connection, key)

    def spent(self, run: str) -> Spent:
        """What a run has taken so far."""
        with self._mutex, translated(self._path, "read the sums"):
            row = (
                self._open()
                .execute("SELECT calls, tokens, money, seconds, reused FROM spent WHERE run = ?", (run,))
                .fetchone()
            )
            calls, tokens, money, seconds, reused = row or (0, 0, 0, 0, 0)
            return Spent(calls, tokens, money / UNIT, seconds / UNIT, reused)

    def calls(self, run: str) -> list[Call]:
        """All attempts of a run, in the order in which they began."""
        with self._mutex, translated(self._path, "read the calls"):
            rows = self._open().execute(
                "SELECT run, key, model, attempt, began, status, reason, tokens_in, tokens_out, money, seconds"
                " FROM call WHERE run = ? ORDER BY id",
                (run,),
            )
            return [
                Call._make((*row[:-2], None if row[-2] is None else row[-2] / UNIT, row[-1] / UNIT)) for row in rows
            ]

    def _settle(self, connection: sqlite3.Connection, number: int, status: str, reason: str, bill: Bill) -> str:
        """Put the bill in the place of the bound; returns the key."""
        run, key, *bound = connection.execute(
            "SELECT run, key, tokens_in, tokens_out, money, seconds FROM call WHERE id = ?", (number,)
        ).fetchone()
        connection.execute(
            "UPDATE call SET status = ?, reason = ?, tokens_in = ?, tokens_out = ?, money = ?, seconds = ?"
            " WHERE id = ?",
            (status, reason, *bill, number),
        )
        self._add(connection, run, bill.cost.minus(Bill(*bound).cost))
        return str(key)

    @staticmethod
    def _add(connection: sqlite3.Connection, run: str, cost: Cost) -> None:
        connection.execute(
            "UPDATE spent SET calls = calls + ?, tokens = tokens + ?, money = money + ?, seconds = seconds + ?"
            " WHERE run = ?",
            (*cost, run),
        )

    @staticmethod
    def _account(connection: sqlite3.Connection, run: str) -> Cost:
        """What counts against the budget so far."""
        connection.execute("INSERT OR IGNORE INTO spent VALUES (?, 0, 0, 0, 0, 0)", (run,))
        row = connection.execute("SELECT calls, tokens, money, seconds FROM spent WHERE run = ?", (run,)).fetchone()
        return Cost(*row)

    @staticmethod
    def _reply(connection: sqlite3.Connection, key: str) -> Reply:
        return Reply.from_json(connection.execute("SELECT reply FROM reply WHERE key = ?", (key,)).fetchone()[0])

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise JournalError("the ledger is closed")
        if self._pid != os.getpid():
            raise JournalError("a ledger was opened before the process was forked; make the client in the child")
        return self._connection

    @contextlib.contextmanager
    def _transaction(self, act: str = "use an answer") -> Iterator[sqlite3.Connection]:
        with self._mutex, translated(self._path, act):
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
