"""Write the README's tables of measured figures from bench/results.

    python bench/readme.py              after a benchmark; a test says when it was forgotten

What has not been measured is left out.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from record import RESULTS, markdown

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- figures: written by bench/readme.py -->\n", "<!-- end of figures -->\n"


def results(name: str) -> Any:
    """The JSON record of a benchmark, or None."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def bbob() -> Iterator[str]:
    """Area and share of targets by solver, means over dimensions and functions."""
    parts = results("bbob")
    dimensions, factors = sorted({p["dimension"] for p in parts}), sorted({p["factor"] for p in parts})
    span = ", ".join(map(str, dimensions))
    yield "**BBOB.** Area under the curve of reached targets (0 to 1, higher is better) and share of targets reached"
    yield f"within 100 D and 1000 D evaluations: means over 24 functions and the dimensions {span}."
    rows: dict[str, dict[str, str]] = {}
    for factor in factors:
        by_solver: defaultdict[str, list[Any]] = defaultdict(list)
        for part in parts:
            if part["factor"] == factor and len(part["functions"]) == 24:
                by_solver[part["solver"]].append(part)
        for solver, own in by_solver.items():
            if len(own) == len(dimensions):  # means of fewer would be means of other problems
                area, solved = (mean(mean(part[what]) for part in own) for what in ("area", "solved"))
                row = rows.setdefault(solver, {"solver": f"`{solver}`"})
                row |= {f"area, {factor} D": f"{area:.3f}", f"targets, {factor} D": f"{solved:.0%}"}
    columns = ["solver", *(f"{what}, {factor} D" for factor in factors for what in ("area", "targets"))]
    yield ""
    yield markdown(columns, sorted(rows.values(), key=lambda row: row.get(columns[1], ""), reverse=True))


def recorded(name: str, title: str) -> Iterator[str]:
    """The table of a benchmark as it is."""
    record = results(name)
    yield f"**{title}.** {record['note']}"
    yield ""
    yield markdown(list(record["rows"][0]), record["rows"])


def sections() -> Iterator[str]:
    parts = {
        "bbob": bbob,
        "overhead": lambda: recorded("overhead", "Overhead"),
        "batch": lambda: recorded("batch", "Many runs in one program"),
        "reliability": lambda: recorded("reliability", "Reliability"),
    }
    for name, section in parts.items():
        if results(name):
            yield from section()
            yield ""
            yield f"[`bench/results/{name}.md`](bench/results/{name}.md) has the conditions and the spread."
            yield ""


def updated(readme: str) -> str:
    """The README's text with the figures as they are now."""
    figures = "".join(f"{line}\n" for line in sections())
    return re.sub(f"(?s)(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", lambda _: figures, readme)


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
