"""Small comparisons of methods, side by side on the same problems: what ``blackbox bench`` runs.

* ``bbob``: the 24 functions of COCO's suite. The score is COCO's: the share of 51 targets, from 100 down to 1e-8
  above the optimal value, that are reached within the budget ("solved"), and the area under the share reached over
  the logarithm of evaluations, from one to the budget ("area"; 1 would be all targets at once).
* ``hpo``: hyperparameter searches on scikit-learn's data sets. Per task the best value found; over tasks, the mean
  rank among the methods, 1 is best.

Every method starts at the center with its own default settings and sees the same seeds.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.errors import SettingError, WorkerError, missing_extra
from blackbox.minimizer import minimize
from blackbox.problems.bbob import BBOB
from blackbox.problems.hpo import task, tasks
from blackbox.space import Box
from blackbox.strategy import HOSTS, create, methods, nearest
from blackbox.workers import start_workers

if TYPE_CHECKING:
    from jaxtyping import Float

TARGETS = 10.0 ** np.linspace(2, -8, 51)
BBOB_NOTE = "area: under the share of 51 targets reached over log(evaluations); solved: share reached at the end"
HPO_NOTE = "mean rank: 1 is best; per task: the best loss in cross-validation, and of that point on held-out data"


class BBOBRun(NamedTuple):
    """One method on one BBOB problem."""

    method: str
    function: int
    dimension: int
    instance: int
    budget: int

    def __call__(self) -> dict[str, Any]:
        """The evaluations at which the targets were reached, None where not; the last distance; the duration."""
        problem = BBOB(self.function, self.dimension, self.instance)
        history: list[Float[np.ndarray, "n"]] = []

        def objective(points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
            values = problem(points)
            history.append(values)
            return values

        start = time.perf_counter()
        minimize(
            objective,
            Box(*problem.bounds, dimension=self.dimension),
            method=self.method,
            budget=self.budget,
            target=problem.f_opt + TARGETS[-1],
            seed=self.instance,
            vectorized=True,
            parallel=1,
        )
        seconds = time.perf_counter() - start
        best = np.minimum.accumulate(np.concatenate(history)) - problem.f_opt
        reached = np.searchsorted(-best, -TARGETS)  # best falls, so its negative rises
        hits = [int(at) + 1 if at < len(best) else None for at in reached]
        return {**self._asdict(), "hits": hits, "distance": float(best[-1]), "seconds": seconds}


class HPORun(NamedTuple):
    """One method on one hyperparameter search."""

    method: str
    task: str
    seed: int
    budget: int

    def __call__(self) -> dict[str, Any]:
        """The best cross-validated loss, the loss of that point on the test data, and the duration."""
        problem = task(self.task)
        start = time.perf_counter()
        result = minimize(problem, problem.space, method=self.method, budget=self.budget, seed=self.seed)
        seconds = time.perf_counter() - start
        test = None if result.x is None else problem.test_score(result.x)
        return {**self._asdict(), "value": result.value, "test": test, "seconds": seconds}


def bbob_runs(
    names: Sequence[str], functions: Sequence[int], dimensions: Sequence[int], instances: int, multiplier: int
) -> list[BBOBRun]:
    """All runs of a comparison; the budget of each is ``multiplier`` times the dimension."""
    check_methods(names)
    runs = [
        BBOBRun(name, f, d, i, multiplier * d)
        for d in dimensions
        for f in functions
        for i in range(1, instances + 1)
        for name in names
    ]
    for run in runs:
        BBOB(run.function, run.dimension, run.instance)  # complain now, not in the middle
    return runs


def hpo_runs(names: Sequence[str], chosen: Sequence[str], seeds: int, budget: int) -> list[HPORun]:
    """All runs of a comparison.

    Raises:
        SettingError: an unknown method or task.
        MissingExtra: scikit-learn is not installed.
    """
    check_methods(names)
    if importlib.util.find_spec("sklearn") is None:  # every evaluation would fail, and the table would be of nothing
        raise missing_extra("scikit-learn", "hpo")
    for name in chosen:
        if name not in tasks():
            raise SettingError(f"tasks must be among {', '.join(tasks())}; got {name!r}{nearest(name, tasks())}")
    return [HPORun(name, t, seed, budget) for t in chosen for seed in range(seeds) for name in names]


def dense_methods() -> list[str]:
    """All methods for real variables."""
    return [name for name, method in methods().items() if "dense" in method.tags]


def check_methods(names: Sequence[str]) -> None:
    """SettingError unless all are registered, or optimizers of packages that are installed."""
    known = ["auto", *(name for name, method in methods().items() if "virtual" not in method.tags)]
    for name in names:
        if name.partition(":")[0] in HOSTS:
            create(name)
        elif not set(name.split("+")) <= set(known):
            raise SettingError(f"methods must be among {', '.join(known)}; got {name!r}{nearest(name, known)}")


def carry_out(
    runs: Sequence[Callable[[], dict[str, Any]]], workers: int | str, done: Callable[[], object]
) -> list[dict[str, Any]]:
    """The results of all runs in order; ``done`` is called after each.

    Raises:
        WorkerError: a run raised; all that a method may do wrong is in its result.
    """
    pool = start_workers(_call, workers)
    results: dict[int, Any] = {}
    try:
        for i, run in enumerate(runs):
            pool.submit(i, run)
        while len(results) < len(runs):
            for outcome in pool.wait(None):
                if outcome.status != "ok":
                    if outcome.exception is not None:
                        raise outcome.exception
                    raise WorkerError(f"{runs[outcome.id]}: {outcome.status}: {outcome.reason}")
                results[outcome.id] = outcome.value
                done()
    finally:
        pool.close(kill=True)
    return [results[i] for i in range(len(runs))]


def _call(run: Any) -> Any:
    return run()


def bbob_summary(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per method, and for each dimension and all: area, share of targets solved, time; the best method first."""
    summary = []
    for name, of_method in _grouped(results, "method"):
        row: dict[str, Any] = {"method": name}
        areas = []
        for dimension, of_both in _grouped(of_method, "dimension"):
            row[f"area {dimension}-D"] = area = _area(of_both)
            row[f"solved {dimension}-D"] = np.mean([[hit is not None for hit in r["hits"]] for r in of_both]).item()
            areas.append(area)
        row["area"] = float(np.mean(areas))
        row["seconds"] = sum(r["seconds"] for r in of_method)
        summary.append(row)
    return sorted(summary, key=lambda row: -row["area"])


def _area(results: Sequence[Mapping[str, Any]]) -> float:
    """Mean over problems and targets of ``1 - log(evaluations until the target) / log(budget)``."""
    return float(
        np.mean(
            [
                1.0 - math.log(min(hit or r["budget"], r["budget"])) / math.log(r["budget"])
                for r in results
                for hit in r["hits"]
            ]
        )
    )


def hpo_summary(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per method: mean rank, time, and for each task the mean of the best values and of the test losses."""
    names = [name for name, _ in _grouped(results, "method")]
    rows: dict[str, dict[str, Any]] = {name: {"method": name, "mean rank": 0.0, "seconds": 0.0} for name in names}
    by_task = list(_grouped(results, "task"))
    for title, of_task in by_task:
        by_method = dict(_grouped(of_task, "method"))
        means = {name: _mean([r["value"] for r in by_method[name]]) for name in names}
        for name in names:
            below = sum(means[other] < means[name] for other in names)
            equal = sum(means[other] == means[name] for other in names)
            rows[name]["mean rank"] += (below + (equal + 1) / 2) / len(by_task)
            rows[name]["seconds"] += sum(r["seconds"] for r in by_method[name])
            rows[name][title] = means[name]
            rows[name][f"{title} test"] = _mean([r["test"] for r in by_method[name]])
    return sorted(rows.values(), key=lambda row: row["mean rank"])


def _mean(values: Sequence[float | None]) -> float:
    """The mean; infinite where a run found nothing."""
    return float(np.mean([math.inf if value is None else value for value in values]))


def _grouped(results: Sequence[Mapping[str, Any]], key: str) -> Iterator[tuple[Any, list[Mapping[str, Any]]]]:
    """The results by a field, in the order of its first appearance."""
    for value in dict.fromkeys(result[key] for result in results):
        yield value, [result for result in results if result[key] == value]
