"""What the command line prints: runs, outcomes and lists as tables for a terminal.

Names, values and reasons come from users' journals: they are shown as plain text, without markup or control codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from blackbox.reporting.report import Report, coordinates

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderableType
    from rich.table import Table

MOST_OF_FRONT = 20  # rows


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
    """A table for the terminal; numbers to the right, floats with so many significant digits.

    Numbers and the first column are never broken: where a terminal is too narrow for that, each row is shown as lines
    of column and value.
    """
    return _titled(title, _Rows(list(columns), [list(row) for row in rows], digits))


class _Rows(NamedTuple):
    """Rows that fit themselves to a terminal."""

    columns: list[str]
    rows: list[list[Any]]
    digits: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        from rich.measure import Measurement

        side_by_side = self._side_by_side()
        if Measurement.get(console, options.update_width(10_000), side_by_side).minimum <= options.max_width:
            yield side_by_side
            return
        for row in self.rows:
            yield _lines(zip(self.columns, (shown(cell, self.digits) for cell in row), strict=True))

    def _side_by_side(self) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for i, column in enumerate(self.columns):
            is_number = all(isinstance(row[i], int | float | None) for row in self.rows)
            justify: Literal["left", "right"] = "right" if is_number else "left"
            made.add_column(Text(plain(column)), justify=justify, no_wrap=is_number or i == 0, overflow="fold")
        for row in self.rows:
            made.add_row(*(Text(shown(cell, self.digits)) for cell in row))
        return made


def pairs(title: str, facts: Mapping[str, Any]) -> Group:
    """A table of two columns, without the facts that are None or empty."""
    known = [(name, shown(value, 12)) for name, value in facts.items() if value is not None and value != ""]
    return _titled(title, *([_lines(known)] if known else []))


def _lines(facts: Iterable[tuple[str, str]]) -> Table:
    """Names, and what is known of each."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    made.add_column(no_wrap=True, style="dim")
    made.add_column(overflow="fold")
    for name, text in facts:
        made.add_row(Text(plain(name)), Text(text))
    return made


def _titled(title: str, *parts: RenderableType) -> Group:
    from rich.console import Group
    from rich.text import Text

    return Group(Text(plain(title), "bold"), *parts)


def exact(x: Any) -> dict[str, Any]:
    """A point by name, floats with all their digits."""
    return {name: repr(value) if isinstance(value, float) else value for name, value in coordinates(x).items()}


def settings_of(report: Report) -> dict[str, Any]:
    """A run's settings and counts, in words."""
    settings = report.settings
    seconds = report.seconds
    full = "" if settings.fidelity is None else "full "
    counts = ", ".join(f"{count} {status}" for status, count in report.statuses.items())
    return {
        "objective": report.command.get("objective"),
        "method": settings.method + (f" ({settings.reason})" if settings.reason else ""),
        "hyperparameters": ", ".join(f"{k} = {v!r}" for k, v in settings.hyperparameters.items()),
        "restarts": settings.restarts,
        "direction": settings.direction,
        "seed": settings.seed,
        "variables": f"{len(settings.space.names)} in {settings.space.dimension} coordinates",
        "budget": "unlimited" if report.budget is None else f"{report.budget} {full}evaluations",
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
    has_budgets = report.settings.fidelity is not None
    columns = ["#", *(["budget"] if has_budgets else []), "value", "seconds", *(["point"] if many else names)]
    rows = []
    for row, x in zip(chosen, points, strict=True):
        seconds = None if row["seconds"] is None else float(f"{row['seconds']:.3g}")
        head = [row["number"], *([row["budget"]] if has_budgets else []), row.get("values", row["value"]), seconds]
        rows.append([*head, *([shown_point(x)] if many else [x.get(name) for name in names])])
    return columns, rows


def shown_point(x: Mapping[str, Any]) -> str:
    """A point in one cell."""
    text = ", ".join(f"{name}={shown(value, 3)}" for name, value in x.items())
    return text if len(text) < 100 else text[:97] + "..."


def failures(report: Report) -> list[tuple[int, str, str]]:
    """Why evaluations failed: how many, status, first line of the reason; the most frequent first."""
    reasons = Counter(
        (e.candidate.status, plain(e.reason.partition("\n")[0]))
        for e in report.evaluations
        if e.candidate.status != "ok" and not (e.candidate.status == "infeasible" and e.candidate.constraints)
    )
    return [(count, status, reason) for (status, reason), count in reasons.most_common()]


def show_tables(report: Report, count: int) -> list[Group]:
    """A run for the terminal: settings, the best point, the ``count`` best evaluations, and why others failed."""
    tables = [pairs(str(report.path), settings_of(report))]
    if report.ranking:
        first = report.row(report.ranking[0])
        best, several = first.get("values", first["value"]), report.settings.objectives > 1
        title = f"First of a front of {len(report.ranking)}" if several else "Best"
        tables.append(pairs(f"{title}: {shown(best, 12)} in evaluation {first['number']}", exact(first["x"])))
    if count and len(report.ranking) > 1:
        tables.append(table(f"The best {min(count, len(report.ranking))}", *best_rows(report, count)))
    if lost := failures(report):
        tables.append(table("Without a value", ["count", "status", "reason"], lost[:10]))
    return tables


def outcome_tables(facts: Mapping[str, Any]) -> list[Group]:
    """What a call of minimize came to, for the terminal."""
    counts, told = facts["statuses"], sum(facts["statuses"].values())
    now = "" if told == facts["evaluations"] else f"{told} of them now"
    ended = ", ".join(f"{count} {status}" for status, count in counts.items()) if set(counts) - {"ok"} else ""
    details = f" ({': '.join(filter(None, (now, ended)))})" if now or ended else ""
    words = {
        "objective": facts["objective"],
        "method": facts["method"] + (f" ({facts['reason']})" if facts["reason"] else ""),
        "evaluations": f"{facts['evaluations']}{details} in {facts['seconds']:.3g} s",
        "stopped": "; ".join(reason.partition("\n")[0] for reason in facts["stopped"].values()),
        "seed": facts["seed"],
        "journal": facts["journal"],
    }
    title = "No evaluation had a value" if facts["x"] is None else f"Best value: {shown(facts['value'], 12)}"
    if front := facts.get("pareto"):
        rows = [[shown(point["values"]), shown_point(coordinates(point["x"]))] for point in front[:MOST_OF_FRONT]]
        return [table(f"A front of {len(front)}", ["values", "point"], rows), pairs("Run", words)]
    return [pairs(title, {} if facts["x"] is None else exact(facts["x"])), pairs("Run", words)]
