"""A neural network is trained on scikit-learn's images of handwritten digits; nine of its settings, some of them
conditional on the training algorithm, are searched in two worker processes. Every result is in a journal, so the
search could be killed at any moment and resumed."""

from __future__ import annotations

from pathlib import Path

import plots
from rich.console import Console
from rich.table import Table

import blackbox as bb
from blackbox.problems.hpo import task

TITLE = "hyperparameter search"
TASK = task("mlp_digits")
BUDGET = 200
DEFAULTS = {
    "width": 64, "layers": 1, "activation": "relu", "alpha": 1e-4,
    "solver": "adam", "learning_rate_init": 1e-3, "batch_size": 200,
}  # fmt: skip


def run(console: Console, folder: Path) -> tuple[Table, Path]:
    """The table of default and found settings, and the picture of the search."""
    journal = folder / "digits.db"
    journal.unlink(missing_ok=True)
    losses: list[float] = []
    result = bb.minimize(
        TASK, TASK.space, budget=BUDGET, seed=1, x0=DEFAULTS, workers=2, timeout=30, journal=journal, progress=True,
        callbacks=[lambda snapshot: losses.append(snapshot.candidate.value)],
    )  # fmt: skip
    title = f"Digits: log loss (nats) after 20 epochs of training; {result.evaluations} evaluations"
    table = Table(title=title)
    for heading in ("settings", "cross-validation", "test data"):
        table.add_column(heading, justify="left" if heading == "settings" else "right")
    default = TASK(DEFAULTS)
    table.add_row("defaults", f"{default:.4f}", f"{TASK.test_score(DEFAULTS):.4f}")
    table.add_row("found", f"{result.value:.4f}", f"{TASK.test_score(result.x):.4f}")
    found = ", ".join(f"{name} {_short(value)}" for name, value in result.x.items())
    table.caption = f"Found: {found}"
    picture = plots.search(
        losses,
        default,
        "cross-validated log loss (nats)",
        "Settings of a neural network for handwritten digits",
        folder,
    )
    return table, picture


def _short(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
