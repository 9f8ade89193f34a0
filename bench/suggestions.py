"""What a suggestion of a model-based method costs by the number of observations, beside Optuna's samplers.

    python bench/suggestions.py          some minutes on one core; writes bench/results/suggestions.md
    pip install optuna torch             what it takes

A space of ten variables: six floats, two integers, two choices. Each tuner is told random points and their values, then
suggests and is told some more: CPU time of one thread for a suggestion, with taking in the value before it, median.
The tuners take turns, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from record import write

import blackbox as bb

SPACE = bb.Space(
    {
        **{f"x{i}": bb.Float(0, 1) for i in range(6)},
        "layers": bb.Int(1, 8),
        "width": bb.Int(1, 64, log=True),
        "kind": bb.Choice(["a", "b", "c"]),
        "wide": bb.Choice([False, True]),
    }
)
Known = Sequence[tuple[dict[str, Any], float]]
Tuner = Callable[[Known, int, int], list[float]]
"""From known points, number of suggestions and seed to the seconds of each suggestion."""


def loss(x: dict[str, Any]) -> float:
    numbers = sum((x[f"x{i}"] - 0.2 - 0.1 * i) ** 2 for i in range(6)) + 0.05 * (x["layers"] - 5) ** 2
    return float(numbers + 0.02 * np.log2(x["width"] / 16) ** 2 + 0.1 * x["wide"] + 0.2 * (x["kind"] != "b"))


def timed(suggestions: int, ask: Callable[[], Any], x_of: Callable[[Any], Any], tell: Any) -> list[float]:
    """Seconds of each ask and tell, without the objective's."""
    spent = []
    for _ in range(suggestions):
        start = time.process_time()
        candidate = ask()
        asked = time.process_time()
        value = loss(x_of(candidate))
        evaluated = time.process_time()
        tell(candidate, value)
        spent.append(time.process_time() - evaluated + asked - start)
    return spent


def ours(method: str) -> Tuner:
    def run(known: Known, suggestions: int, seed: int) -> list[float]:
        optimizer = bb.Optimizer(SPACE, method, seed=seed)
        for x, value in known:
            optimizer.tell(x, value)
        return timed(suggestions, optimizer.ask, lambda candidate: candidate.x, optimizer.tell)

    return run


def optuna(sampler: str) -> Tuner:
    def run(known: Known, suggestions: int, seed: int) -> list[float]:
        import optuna

        from blackbox.integrations.optuna_spaces import to_distributions

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        distributions = to_distributions(SPACE)
        study = optuna.create_study(sampler=getattr(optuna.samplers, sampler)(seed=seed))
        study.add_trials(
            [optuna.trial.create_trial(params=x, distributions=distributions, value=value) for x, value in known]
        )
        return timed(suggestions, lambda: study.ask(distributions), lambda trial: trial.params, study.tell)

    return run


TUNERS: dict[str, tuple[Tuner, int]] = {
    "blackbox:ego": (ours("ego"), 2000),
    "blackbox:turbo": (ours("turbo"), 2000),
    "optuna:tpe": (optuna("TPESampler"), 2000),
    "optuna:gp": (optuna("GPSampler"), 200),
}
"""By name, and the most observations that they are measured with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observations", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--suggestions", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    observations = arguments.observations or [25, 50, 100, 200, 500, 1000, 2000]
    points = SPACE.decode_many(np.random.default_rng(0).random((max(observations), SPACE.dimension)))
    known = [(x, loss(x)) for x in points]
    spent: dict[tuple[str, int], list[float]] = {}
    for turn in range(arguments.turns):
        for n in observations:
            for name, (tuner, most) in TUNERS.items():
                if n <= most:
                    spent.setdefault((name, n), []).extend(tuner(known[:n], arguments.suggestions, turn))
    rows = [
        {
            "tuner": name,
            **{f"n = {n}": f"{1e3 * statistics.median(spent[name, n]):.3g}" for n in observations if n <= most},
        }
        for name, (_, most) in TUNERS.items()
    ]
    note = (
        "Milliseconds of CPU time for a suggestion, with taking in the value before it, after n random points of a "
        f"space of ten variables; one thread, median of {arguments.turns} turns of {arguments.suggestions}."
    )
    columns = ["tuner", *[f"n = {n}" for n in observations]]
    write("suggestions", "Cost of a suggestion", columns, rows, ["numpy", "optuna", "torch"], note)


if __name__ == "__main__":
    main()
