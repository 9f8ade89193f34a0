"""Where and with what a benchmark ran, and its table, as Markdown and JSON under bench/results/."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def environment(packages: Sequence[str]) -> dict[str, str]:
    """Machine, Python and package versions."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def markdown(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; a missing cell is a dash."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(column, "–")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def write(
    name: str, title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], packages: Sequence[str], note: str
) -> None:
    """Print the table and store it as ``results/<name>.md`` and ``results/<name>.json``."""
    ran = environment(packages)
    command = " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    table = markdown(columns, rows)
    versions = ", ".join(f"{package} {number}" for package, number in ran.items())
    text = f"# {title}\n\n`{command}`, {date}; {versions}.\n\n{note.strip()}\n\n{table}\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    record = {"command": command, "date": date, "environment": ran, "note": note.strip(), "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(text)
