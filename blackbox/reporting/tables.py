"""What the command line prints: runs, outcomes and lists as tables for a terminal.

Names, values and reasons come from users' journals: they are shown as plain text, without markup or control codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blackbox.reporting.report import Report, coordinates

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def plain(text: object) -> str:
    """``text`` in one line without control characters: what a journal holds must not steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text)).strip()


def shown(value: Any, digits: int = 6) -> str:
    """A value of a table's cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(item, digits) for item in value) + "]"
    return plain(value)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], digits: int = 6) -> Group:
    """A table for the terminal; numbers to the right, floats with so many significant digits."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        is_number = all(isinstance(row[i], int | float | None) for row in rows)
        made.add_column(Text(plain(column)), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(shown(cell, digits)) for cell in row))
    return _titled(title, made)


def pairs(title: str, facts: Mapping[str, Any]) -> Group:
    """A table of two columns, without the facts that are None or empty."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    made.add_column(no_wrap=True, style="dim")
    made.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None and value != "":
            made.add_row(Text(plain(name)), Text(shown(value, 12)))
    return _titled(title, made)


def _titled(title: str, made: Table) -> Group:
    from rich.console import Group
    from rich.text import Text

    return Group(Text(plain(title), "bold"), made)


def exact(x: Any) -> dict[str, Any]:
    """A point by name, floats with all their digits."""
    return {name: repr(value) if isinstance(value, float) else value for name, value in coordinates(x).items()}


def settings_of(report: Report) -> dict[str, Any]:
    """A run's settings and counts, in words."""
    settings = report.settings
    seconds = report.seconds
    counts = ", ".join(f"{count} {status}" for status, count in report.statuses.items())
    return {
        "objective": report.command.get("objective"),
        "method": settings.method + (f" ({settings.reason})" if settings.reason else ""),
        "hyperparameters": ", ".join(f"{k} = {v!r}" for k, v in settings.hyperparameters.items()),
        "restarts": settings.restarts,
        "direction": settings.direction,
        "seed": settings.seed,
        "variables": f"{len(settings.space.names)} in {settings.space.dimension} coordinates",
        "budget": "unlimited" if report.budget is None else f"{report.budget} evaluations",
        "evaluations": f"{len(report.evaluations)}" + (f" ({counts})" if counts else ""),
        "time in the objective": None if seconds is None else f"{seconds:.3g} s",
        "note": report.doubt,
    }


def best_rows(report: Report, count: int) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the ``count`` best evaluations."""
    chosen = [report.row(i) for i in report.ranking[:count]]
    points = [coordinates(row["x"]) for row in chosen]
    names = [name for name in report.settings.space.names if any(name in x for x in points)]
    many = len(names) > 8
    columns = ["#", "value", "seconds", *(["point"] if many else names)]
    rows = []
    for row, x in zip(chosen, points, strict=True):
        head = [row["number"], row["value"], row["seconds"]]
        text = ", ".join(f"{name}={shown(value, 3)}" for name, value in x.items())
        shortened = text if len(text) < 100 else text[:97] + "..."
        rows.append([*head, *([shortened] if many else [x.get(name) for name in names])])
    return columns, rows


def failures(report: Report) -> list[tuple[int, str, str]]:
    """Why evaluations failed: how many, status, first line of the reason; the most frequent first."""
    reasons = Counter(
        (e.candidate.status, plain(e.reason.partition("\n")[0]))
        for e in report.evaluations
        if e.candidate.status != "ok"
    )
    return [(count, status, reason) for (status, reason), count in reasons.most_common()]


def show_tables(report: Report, count: int) -> list[Group]:
    """A run for the terminal: settings, the best point, the ``count`` best evaluations, and why others failed."""
    tables = [pairs(str(report.path), settings_of(report))]
    if report.ranking:
        first = report.row(report.ranking[0])
        tables.append(pairs(f"Best: {shown(first['value'], 12)} in evaluation {first['number']}", exact(first["x"])))
    if count and len(report.ranking) > 1:
        tables.append(table(f"The best {min(count, len(report.ranking))}", *best_rows(report, count)))
    if lost := failures(report):
        tables.append(table("Without a value", ["count", "status", "reason"], lost[:10]))
    return tables


def outcome_tables(facts: Mapping[str, Any]) -> list[Group]:
    """The same for the terminal."""
    failed = f" ({facts['failures']} failed)" if facts["failures"] else ""
    words = {
        "objective": facts["objective"],
        "method": facts["method"] + (f" ({facts['reason']})" if facts["reason"] else ""),
        "evaluations": f"{facts['evaluations']}{failed} in {facts['seconds']:.3g} s",
        "stopped": "; ".join(reason.partition("\n")[0] for reason in facts["stopped"].values()),
        "seed": facts["seed"],
        "journal": facts["journal"],
    }
    title = "No evaluation had a value" if facts["x"] is None else f"Best value: {shown(facts['value'], 12)}"
    return [pairs(title, {} if facts["x"] is None else exact(facts["x"])), pairs("Run", words)]
