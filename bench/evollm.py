"""EvoLLM with the embedded model beside random search, hill climbing, CMA-ES and the learned strategies of evosax.

    python bench/evollm.py                 some 20 minutes of one core; writes results/evollm.md
    python bench/evollm.py --seeds 3       a look, which writes nothing

BBOB: eight functions that the model has not seen, chosen before it was trained; of two of them it has seen relatives,
ellipsoids of the sphere and bowls with random waves of Rastrigin's (``bench/embedded_landscapes.py``). Each seed has an
instance of its own. CartPole: a network 4-8-1, the mean of 4 episodes, tested
in 50 others; the model has seen no such function and none of so many variables at once.

Hill climbing is that of the paper (Lange, Tian & Tang 2024): from a uniform point, each generation of 10 is normal
around the best point so far, with a constant sigma; here with three of them, so that one fits. "EvoLLM, no model" asks
a provider that answers nothing and falls back to the weighted mean of its members. CMA-ES is ours, with its restarts,
and begins as EvoLLM's first member at the center of the box, of which BBOB's optima know nothing. All get the same
number of evaluations.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from record import write
from scipy.stats import wilcoxon

import blackbox as bb
from blackbox.problems.bbob import BBOB
from blackbox.problems.control import JaxControl

FUNCTIONS = {
    1: "sphere",
    3: "Rastrigin",
    6: "attractive sector",
    8: "Rosenbrock",
    13: "sharp ridge",
    15: "Rastrigin, rotated",
    17: "Schaffer F7",
    20: "Schwefel",
}
BUDGET, POPSIZE = 200, 10
CONTROL_BUDGET = 100
SILENT = "EvoLLM, no model"
CLIMBS = (0.01, 0.03, 0.1)  # sigma in widths of the box

Run = Callable[[Any, Any, int, int], Any]
"""From an objective, its box, a budget and a seed to a point."""


def method(name: str, **settings: Any) -> Run:
    """One of ``bb.methods()``."""

    def run(objective: Any, box: Any, budget: int, seed: int) -> Any:
        return bb.minimize(objective, box, method=name, budget=budget, seed=seed, **settings).x

    return run


def climb(sigma: float) -> Run:
    """Gaussian hill climbing."""

    def run(objective: Any, box: Any, budget: int, seed: int) -> Any:
        rng = np.random.default_rng(seed)
        low, high = np.asarray(box.low), np.asarray(box.high)
        point, best = rng.uniform(low, high), np.inf
        for _ in range(budget // POPSIZE):
            steps = rng.standard_normal((POPSIZE, len(low)))
            members = np.clip(point + sigma * (high - low) * steps, low, high)
            values = [objective(member) for member in members]
            if min(values) < best:
                point, best = members[int(np.argmin(values))], min(values)
        return point

    return run


def single(function: Callable[[Any], Any]) -> Callable[[Any], float]:
    """``function`` in single precision."""
    return lambda x: float(function(np.asarray(x, np.float32)))


def contestants() -> dict[str, Run]:
    silent = bb.llm.Client(bb.llm.Scripted(lambda request: "no idea"))
    return {
        "EvoLLM": method("evollm"),
        SILENT: method("evollm", provider=silent, step_size="elites"),
        "random search": method("random"),
        **{f"hill climbing, {sigma:g}": climb(sigma) for sigma in CLIMBS},
        "CMA-ES": method("cma-es"),
        "evosax LES": method("evosax:LES", popsize=POPSIZE),
        "evosax EvoTF_ES": method("evosax:EvoTF_ES", popsize=POPSIZE),
    }


def better(ours: list[float], theirs: list[float]) -> bool:
    """Whether ours are lower, by Wilcoxon's signed-rank test of the paired seeds at 5 %."""
    if ours == theirs:
        return False
    return bool(wilcoxon(ours, theirs, alternative="less").pvalue < 0.05)


def problems(seeds: int) -> Iterator[tuple[str, int, list[tuple[Any, Any, Callable[[Any], float]]]]]:
    """Name, budget, and for each seed an objective, its box and what a point is worth, lower is better."""
    for d in (2, 5):
        for number, name in FUNCTIONS.items():
            cases = []
            for seed in range(seeds):
                function = BBOB(number, d, instance=seed + 1)
                cases.append((function, bb.Box([-5.0] * d, [5.0] * d), lambda x, f=function: float(f(x) - f.f_opt)))
            yield f"{name}, {d}", BUDGET, cases
    cases = []
    for seed in range(seeds):
        task = JaxControl("CartPole-v1", (8,), 4, seed)
        cases.append((single(jax.jit(task)), task.box(), single(jax.jit(task.test_score))))
    yield f"CartPole, {task.dimension}", CONTROL_BUDGET, cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    given = parser.parse_args()
    runs = contestants()
    baselines = [name for name in runs if name.startswith(("random", "hill"))]
    rows, seconds = [], dict.fromkeys(runs, 0.0)
    beaten, clearly, helped = {}, {}, {}
    for problem, budget, cases in problems(given.seeds):
        found: dict[str, list[float]] = {}
        for name, run in runs.items():
            began = time.process_time()
            points = [run(objective, box, budget, seed) for seed, (objective, box, _) in enumerate(cases)]
            seconds[name] += time.process_time() - began
            found[name] = [worth(point) for point, (_, _, worth) in zip(points, cases, strict=True)]
        median = {name: statistics.median(values) for name, values in found.items()}
        beaten[problem] = all(median["EvoLLM"] < median[name] for name in baselines)
        clearly[problem] = beaten[problem] and all(better(found["EvoLLM"], found[name]) for name in baselines)
        helped[problem] = better(found["EvoLLM"], found[SILENT]) - better(found[SILENT], found["EvoLLM"])
        row: dict[str, Any] = {"function, variables": problem}
        row |= {name: f"{-value:.0f}" if "CartPole" in problem else f"{value:.2g}" for name, value in median.items()}
        row["won"] = ", ".join(
            f"{np.mean(np.array(found['EvoLLM']) < np.array(found[name])):.0%}"
            for name in [*baselines, SILENT, "CMA-ES"]
        )
        row["each seed"] = found
        rows.append(row)
        print({key: value for key, value in row.items() if key != "each seed"}, flush=True)
    if given.seeds != 20:
        return
    counts = {
        kind: [sum(told[f"{name}, {d}"] for name in FUNCTIONS.values()) for d in (2, 5)]
        for kind, told in (("median", beaten), ("clear", clearly))
    }
    control = next(problem for problem in beaten if "CartPole" in problem)
    note = f"""
Medians over {given.seeds} seeds of what is left after {BUDGET} evaluations, each seed on an instance of its own; for
CartPole the mean return (at most 500) in 50 unseen episodes after {CONTROL_BUDGET} evaluations of 4 episodes. "won" is
the share of seeds in which EvoLLM is better than random search, the three hill climbers, EvoLLM without a model and
CMA-ES.

EvoLLM's median is better than those of random search and all three hill climbers on {counts["median"][0]} of 8
functions of 2 variables, on {counts["median"][1]} of 8 of 5, and on CartPole it is{"" if beaten[control] else " not"}.
By Wilcoxon's signed-rank test at 5 %, paired by seeds, it is better than all four on {counts["clear"][0]}, on
{counts["clear"][1]}, and on CartPole {"too" if clearly[control] else "not"}. Against itself without a model, whose mean
is that of the best members by weights, it is better by this test on {sum(value > 0 for value in helped.values())} of
{len(helped)} and worse on {sum(value < 0 for value in helped.values())}. CPU seconds of all runs together, in one
process: {", ".join(f"{name} {value:.0f}" for name, value in seconds.items())}.
"""
    columns = [name for name in rows[0] if name != "each seed"]
    packages = ["blackbox-engine", "numpy", "scipy", "jax", "evosax"]
    write("evollm", "EvoLLM with the embedded model", columns, rows, packages, note)


if __name__ == "__main__":
    main()
