"""Hyperparameter search with budgets: ours, with and without a fidelity, and Optuna's, on tables of learning curves.

    python bench/fidelity.py run                      what is missing, then the report
    python bench/fidelity.py run --tuners 'ego*' --seeds 0-4 --results FILE
    python bench/fidelity.py report

A run may spend 12 times the budget of a full evaluation (``fidelity_tasks.py``), as is really spent: who goes on with
a point pays the difference. Score: normalized regret, (found - best) / (median - best), all at full budget, of the
point that is the best of those of the largest budget so far, after 4, 8 and 12; 0 is the best of the table. ``warm``
begins with the journal of a run of ``ego`` of 12 full evaluations, with another seed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fidelity_tasks import MOST, RUNGS, TASKS, Task
from hpo_tasks import add_entry, entries
from record import RESULTS, write
from runs import numbers

import blackbox as bb

TOTAL = 12
SHOWN = (4, 8, 12)
LEAST = 3
SEEDS = range(20)
PACKAGES = ("numpy", "optuna", "scikit-learn")

Spent = Iterator[tuple[float, float, dict[str, Any], float]]
"""What an evaluation costs, its budget, its point and its value."""


def ours(task: Task, seed: int, *, method: str, brackets: int | None = 1, **settings: Any) -> Spent:
    fidelity = None if brackets is None else bb.Fidelity(LEAST, MOST, brackets=brackets)
    optimizer = bb.Optimizer(task.space, method, seed=seed, fidelity=fidelity, **settings)
    while True:
        candidate = optimizer.ask()
        budget = MOST if candidate.budget is None else candidate.budget
        value = task.value(candidate.x, budget)
        optimizer.tell(candidate, value)
        yield budget if candidate.continues is None else budget * (1 - 1 / 3), budget, candidate.x, value


def warm(task: Task, seed: int, *, budget: int = MOST, **settings: Any) -> Spent:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "earlier.db"
        with bb.Optimizer(task.space, "ego", seed=30000 + seed, journal=path) as earlier:
            for _ in range(TOTAL):
                candidate = earlier.ask()
                earlier.tell(candidate, task.value(candidate.x, budget))
        yield from ours(task, seed, warm_start=path, **settings)


def optuna(task: Task, seed: int, *, sampler: str, pruner: str | None, **settings: Any) -> Spent:
    import optuna as package

    from blackbox.integrations.optuna_spaces import to_distributions

    package.logging.set_verbosity(package.logging.ERROR)
    pruners: dict[str | None, Callable[[], Any]] = {
        None: package.pruners.NopPruner,
        "hyperband": partial(package.pruners.HyperbandPruner, LEAST, MOST, reduction_factor=3),
        "halving": partial(package.pruners.SuccessiveHalvingPruner, min_resource=LEAST, reduction_factor=3),
    }
    distributions = to_distributions(task.space)
    study = package.create_study(
        sampler=getattr(package.samplers, sampler)(seed=seed, **settings), pruner=pruners[pruner](), study_name="x"
    )
    while True:
        trial, before = study.ask(distributions), 0
        for rung in RUNGS[RUNGS.index(LEAST) :] if pruner else (MOST,):
            value = task.value(trial.params, rung)
            yield rung - before, rung, trial.params, value
            before = rung
            trial.report(value, rung)
            if rung < MOST and trial.should_prune():
                study.tell(trial, state=package.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, value)


TUNERS: dict[str, Callable[[Task, int], Spent]] = {
    **{f"{method}, full budget": partial(ours, method=method, brackets=None) for method in ("ego", "random")},
    **{
        f"{method}, {brackets} bracket{'s' * (brackets > 1)}": partial(ours, method=method, brackets=brackets)
        for method in ("ego", "cat-cma", "random")
        for brackets in (1, 4)
    },
    "optuna tpe, full budget": partial(optuna, sampler="TPESampler", pruner=None),
    "optuna tpe, hyperband": partial(optuna, sampler="TPESampler", pruner="hyperband"),
    "optuna tpe, halving": partial(optuna, sampler="TPESampler", pruner="halving"),
    "ego, full budget, warm": partial(warm, method="ego", brackets=None),
    "ego, 1 bracket, warm": partial(warm, method="ego", brackets=1),
}


def measure(name: str, tuner: str, seed: int) -> list[float]:
    """The regrets of a run."""
    task = TASKS[name]
    least, median = task.scale
    warnings.simplefilter("ignore")
    spent, best, incumbent, regrets = 0.0, (0.0, 0.0), None, []
    for cost, budget, point, value in TUNERS[tuner](task, seed):
        spent += cost
        while len(regrets) < len(SHOWN) and spent > SHOWN[len(regrets)] * MOST + 1e-6:
            regrets.append((task.value(incumbent, MOST) - least) / (median - least) if incumbent else 1.0)
        if len(regrets) == len(SHOWN):
            break
        if incumbent is None or (-budget, value) < best:
            best, incumbent = (-budget, value), point
    return regrets


def report(runs: dict[tuple[str, str, int], list[float]], is_kept: bool) -> None:
    """Print the table of all runs, and keep it."""
    tuners, rows = list(dict.fromkeys(key[1] for key in runs)), []
    for tuner in tuners:
        own = {name: np.array([r for key, r in runs.items() if key[:2] == (name, tuner)]) for name in TASKS}
        own = {name: regrets for name, regrets in own.items() if len(regrets)}
        mean = np.mean([regrets.mean(0) for regrets in own.values()], axis=0)
        error = np.sqrt(np.sum([regrets.var(0, ddof=1) / len(regrets) for regrets in own.values()], axis=0)) / len(own)
        row: dict[str, Any] = {"tuner": tuner, "runs": sum(map(len, own.values()))}
        row |= {f"regret at {n}": f"{mean[i]:.3f} ± {error[i]:.3f}" for i, n in enumerate(SHOWN)}
        rows.append(row | {name: f"{regrets[:, -1].mean():.3f}" for name, regrets in own.items()})
    rows.sort(key=lambda row: row[f"regret at {TOTAL}"])
    note = __doc__.split("\n\n")[2].replace("\n", " ")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if is_kept:
        write("fidelity", "Hyperparameter search with budgets", columns, rows, PACKAGES, note)
    else:
        from record import markdown

        print(markdown(columns, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--tasks", default="*", help="a pattern")
    parser.add_argument("--tuners", default="*", help="a pattern")
    parser.add_argument("--seeds", type=numbers, default=tuple(SEEDS), help="such as 0-4; from 1000 on to develop on")
    parser.add_argument("--results", type=Path, default=RESULTS / "fidelity.jsonl", help="another is only printed")
    arguments = parser.parse_args()
    runs = {tuple(key): regrets for key, regrets in entries(arguments.results)}
    for seed in arguments.seeds if arguments.command == "run" else ():
        for tuner in (name for name in TUNERS if fnmatch(name, arguments.tuners)):
            for task in (name for name in TASKS if fnmatch(name, arguments.tasks)):
                if (task, tuner, seed) not in runs:
                    runs[task, tuner, seed] = measure(task, tuner, seed)
                    add_entry(arguments.results, [[task, tuner, seed], runs[task, tuner, seed]])
    report(runs, arguments.results == RESULTS / "fidelity.jsonl")


if __name__ == "__main__":
    main()
