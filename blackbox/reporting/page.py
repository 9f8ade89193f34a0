"""A run as one HTML file that needs nothing else: no network, no scripts, pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from blackbox.reporting.plots import PLOTS, render, write
from blackbox.reporting.report import Report
from blackbox.reporting.tables import best_rows, exact, failures, plain, settings_of, shown

BEST, REASONS = 20, 20  # rows

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.2rem; margin-top: 2.2rem }
.value { font-size: 1.2rem; margin: 0.2rem 0 1.5rem }
.scroll { overflow-x: auto } img { width: 100%; height: auto }
table { border-collapse: collapse; font-size: 0.9rem } td, th { padding: 0.25rem 0.9rem 0.25rem 0; text-align: left;
vertical-align: top; border-bottom: 1px solid #ddd } th { font-weight: 600 } .facts th { font-weight: 400; color: #555 }
img { margin-top: 1.2rem } .number { text-align: right; font-variant-numeric: tabular-nums }
td { overflow-wrap: anywhere }
"""


def save(report: Report, path: Path) -> None:
    """The page of a run: settings, best points, figures, failures.

    Raises:
        SettingError: the file cannot be written.
        MissingExtra: matplotlib is not installed.
    """
    text = page(report)
    write(path, lambda file: file.write(text.encode()))


def page(report: Report) -> str:
    """The page as HTML text. Everything that the journal holds is escaped."""
    title = f"{report.path.name}: {report.settings.method}"
    best = report.row(report.ranking[0]) if report.ranking else None
    plots = PLOTS if report.settings.objectives == 1 else ()
    parts = [f"<h1>{_text(title)}</h1>"]
    if best is None:
        parts.append('<p class="value">No evaluation has a value.</p>')
    else:
        parts.append(
            f'<p class="value">{"Best value" if plots else "First of the front"} '
            f"<strong>{_text(shown(best.get('values', best['value']), 12))}</strong> "
            f"in evaluation {best['number']} of {len(report.evaluations)}</p>"
        )
        parts += ["<h2>Best point</h2>", _facts(exact(best["x"]))]
    parts += ["<h2>Settings</h2>", _facts(settings_of(report))]
    for plot in plots:
        picture = io.BytesIO()
        render(plot, report, picture)
        data = base64.b64encode(picture.getvalue()).decode()
        parts.append(f'<p><img alt="{_text(plot.name)}" src="data:image/png;base64,{data}"></p>')
    if best is not None:
        parts += [f"<h2>The best {min(BEST, len(report.ranking))} evaluations</h2>", _table(*best_rows(report, BEST))]
    if lost := failures(report):
        parts += ["<h2>Evaluations without a value</h2>", _table(["count", "status", "reason"], lost[:REASONS])]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _text(value: object) -> str:
    return escape(plain(value))


def _facts(facts: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><th>{_text(name)}</th><td>{_text(shown(value, 12))}</td></tr>"
        for name, value in facts.items()
        if value is not None and value != ""
    ]
    return '<table class="facts">' + "".join(rows) + "</table>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    rows = list(rows)
    kinds = [all(_is_number(row[i]) or row[i] is None for row in rows) for i in range(len(columns))]
    head = "".join(map(_cell, ["th"] * len(columns), columns, kinds))
    body = "".join("<tr>" + "".join(map(_cell, ["td"] * len(row), row, kinds)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _cell(tag: str, value: Any, is_number: bool) -> str:
    kind = ' class="number"' if is_number else ""
    return f"<{tag}{kind}>{_text(shown(value))}</{tag}>"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
