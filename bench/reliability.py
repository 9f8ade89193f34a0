"""The figures of reliability: what is lost when things go wrong.

    python bench/reliability.py                     full size, about a quarter of an hour
    python bench/reliability.py --scale 0.1         a tenth, a few minutes; the test suite does the same
    python bench/reliability.py --only R1,R7

A run of all figures in full size writes bench/results/reliability.md. Each figure is measured in a folder of its own;
children are started and killed by their own handles.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import tempfile
import time
from pathlib import Path

from figures import damage, evaluations, kills, replay, tells
from figures.course import Figure, Outcome
from record import markdown, write

FIGURES = {
    figure.id: figure
    for figure in sorted(
        (figure for module in (kills, replay, tells, damage, evaluations) for figure in module.FIGURES),
        key=lambda figure: int(figure.id[1:]),
    )
}
NOTE = """
R1 to R17 are the figures that the design asks for; R11 belongs to the Optuna integration, and R15 (journals of former
releases) is a test. Kills are SIGKILL. A journal counts as silently changed if a run resumed from it differs from the
uninterrupted one after as many results, or is shorter without a warning or an error.
"""


def measure(figure: Figure, scale: float) -> tuple[Outcome, float]:
    """The outcome and its duration in seconds."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        outcome = figure.measure(scale, Path(folder))
    return outcome, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full sizes")
    parser.add_argument("--only", default=",".join(FIGURES), help="ids, by commas")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := [id for id in chosen if id not in FIGURES]:
        parser.error(f"--only: {', '.join(unknown)} unknown; there are {', '.join(FIGURES)}")
    rows, failed = [], []
    for id in chosen:
        figure = FIGURES[id]
        outcome, seconds = measure(figure, arguments.scale)
        verdict = {True: "yes", False: "**no**", None: "–"}[outcome.ok]
        rows.append(
            {"id": id, "what": figure.what, "measured": outcome.measured, "bar": figure.bar, "ok": verdict,
             "seconds": f"{seconds:.0f}"}
        )  # fmt: skip
        failed += [id] if outcome.ok is False else []
        print(f"{id} {verdict} {seconds:.0f} s: {outcome.measured}", flush=True)
    columns = list(rows[0])
    if arguments.scale == 1.0 and chosen == list(FIGURES):
        write("reliability", "Reliability", columns, rows, ["blackbox-engine", "numpy", "pebble"], NOTE)
    else:
        print("\n" + markdown(columns, rows))
    if failed:
        raise SystemExit(f"below the bar: {', '.join(failed)}")


if __name__ == "__main__":
    main()
