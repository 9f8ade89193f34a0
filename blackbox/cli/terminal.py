"""How the command meets its user: errors in one line, results as tables or JSON, options that several commands have."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from blackbox.errors import BlackboxError

ERROR = 2  # exit code

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of tables.")]
Progress = Annotated[
    bool | None, typer.Option("--progress/--no-progress", help="A live line on stderr; default: on a terminal.")
]


def _workers(given: str | int) -> Any:
    """A number; all else is for ``start_workers`` to judge."""
    try:
        return int(given)
    except ValueError:
        return given


Workers = Annotated[
    str | None,  # for Typer: what the parser returns is an int or a str
    typer.Option(
        parser=_workers,
        metavar="N|ray|ADDRESS",
        help="Evaluations at once, each in a process; 0: one, in this process; or a cluster of Ray.",
    ),
]


class Commands(TyperGroup):
    """The commands, with errors and warnings in one line on standard error."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            try:
                code = super().main(*args, **kwargs)
            except BlackboxError as error:
                code = _fail(str(error))
            except Exception as error:
                if not hasattr(error, "format_message"):  # what usage errors have, wherever typer keeps their class
                    raise
                code = _fail(error.format_message())
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return ERROR


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {str(message).partition(chr(10))[0]}", file=sys.stderr)


def is_live(progress: bool | None) -> bool:
    """Whether to show progress; unless said, on a terminal."""
    return sys.stderr.isatty() if progress is None else progress


def show_result(as_json: bool, value: Any, tables: Callable[[], Iterable[Any]]) -> None:
    """Print ``value`` as JSON, or else tables of it."""
    from blackbox.reporting.report import jsonable

    if as_json:
        print(json.dumps(jsonable(value), indent=2, allow_nan=False))
        return
    from rich.console import Console

    # Into a pipe or a file, rich would assume 80 columns and break the lines of tables.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    for table in tables():
        console.print(table)


def text(words: str) -> Any:
    """Words that rich leaves as they are."""
    from rich.text import Text

    return Text(words)
