"""Write the README's tables of measured figures from bench/results.

    python bench/readme.py              after a benchmark; a test says when it was forgotten

What has not been measured is left out.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from peers import SAME_METHOD
from record import RESULTS, markdown

POLICIES = ("task", "method", "solved", "evaluations", "wall, s", "times Eggroll's wall")  # no single runs, no settings
AUTO = ("evaluations", "solver", "runs", "area", "less auto's", "coarse", "solved", "ms")
TUNERS = ("tuner", "runs", "regret at 10", "regret at 25", "regret at 50", "median at 50", "ms per suggestion")
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- figures: written by bench/readme.py -->\n", "<!-- end of figures -->\n"


def results(name: str) -> Any:
    """The JSON record of a benchmark, or None."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def bbob() -> Iterator[str]:
    """Area and share of targets of ours and of the same methods elsewhere, means over dimensions and functions."""
    parts = results("bbob")
    dimensions, factors = sorted({p["dimension"] for p in parts}), sorted({p["factor"] for p in parts})
    span, budgets = ", ".join(map(str, dimensions)), " and ".join(f"{factor} D" for factor in factors)
    yield "**BBOB.** Area under the curve of reached targets (0 to 1, higher is better) and share of targets reached"
    yield f"within {budgets} evaluations: means over 24 functions and the dimensions {span}."
    peers = {name for pair in SAME_METHOD for name in pair if not name.endswith(":known-wrong")}
    scores: dict[str, dict[str, float]] = {}
    for factor in factors:
        by_solver: defaultdict[str, list[Any]] = defaultdict(list)
        for part in parts:
            is_shown = part["solver"] in peers or re.fullmatch("blackbox:[^:]+", part["solver"])
            if part["factor"] == factor and len(part["functions"]) == 24 and is_shown:
                by_solver[part["solver"]].append(part)
        for solver, own in by_solver.items():
            if len(own) == len(dimensions):  # means of fewer would be means of other problems
                for what, column in (("area", "area"), ("solved", "targets")):
                    score = mean(mean(part[what]) for part in own)
                    scores.setdefault(solver, {})[f"{column}, {factor} D"] = score
    columns = [f"{column}, {factor} D" for factor in factors for column in ("area", "targets")]
    best_first = sorted(scores, key=lambda solver: [-scores[solver].get(column, 0.0) for column in columns])
    rows = [{"solver": f"`{solver}`"} | _cells(scores[solver]) for solver in best_first]
    yield ""
    yield markdown(["solver", *columns], rows)


def _cells(scores: dict[str, float]) -> dict[str, str]:
    return {name: f"{score:.3f}" if name.startswith("area") else f"{score:.0%}" for name, score in scores.items()}


def recorded(
    name: str, title: str, columns: Sequence[str] = (), only: Callable[[dict[str, str]], bool] = lambda row: True
) -> Iterator[str]:
    """The table of a benchmark as it is, or some columns and rows of it."""
    record = results(name)
    rows = [row for row in record["rows"] if only(row)]
    yield f"**{title}.** {record['note']}"
    yield ""
    yield markdown(columns or list(dict.fromkeys(column for row in rows for column in row)), rows)


NOISE = [
    *(f"normal, {maker}" for maker in ("NumPy SFC64", "JAX threefry2x32", "compiled", "compiled, in JAX")),
    *(f"{kind}, compiled" for kind in ("uniform", "binom8", "sign")),
    *(f"sum of {kind}, compiled" for kind in ("normal", "binom8", "sign")),
]
THROUGHPUT = ("plain batched inference", "Eggroll, binom8", "threefry", "vmapped threefry", "full rank, threefry")


def sections() -> Iterator[str]:
    parts = {
        "bbob": bbob,
        "auto": lambda: recorded("auto", 'BBOB, `method="auto"`', AUTO),
        "overhead": lambda: recorded("overhead", "Overhead"),
        "batch": lambda: recorded("batch", "Many runs in one program"),
        "hpo_tables": lambda: recorded("hpo_tables", "Hyperparameters of networks, by tables", TUNERS),
        "hpo_sklearn": lambda: recorded("hpo_sklearn", "Hyperparameters of scikit-learn's estimators", TUNERS),
        "kernels": lambda: recorded("kernels", "Noise", only=lambda row: row["what"] in NOISE),
        "genomes": lambda: recorded("genomes", "Genomes of seeds"),
        "rollouts": lambda: recorded("rollouts", "Episodes of classic control"),
        "eggroll_throughput": lambda: recorded(
            "eggroll_throughput",
            "EGGROLL, three layers of d x d, 1,024 members",
            only=lambda row: row["entry"] in THROUGHPUT,
        ),
        "eggroll_memory": lambda: recorded("eggroll_memory", "EGGROLL on 100 million parameters"),
        "digits": lambda: recorded("digits", "Handwritten digits without backpropagation"),
        "policies": lambda: recorded("policies", "Policies by evolution", POLICIES),
        "hosted": lambda: recorded("hosted", "Optimizers of other packages"),
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
