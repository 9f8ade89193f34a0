"""What a run under noise returns, and what it says of it, beside other packages.

Sphere (1), rotated ellipsoid (10), rotated Rastrigin (15) and rotated Rosenbrock (9) of BBOB in 2, 5 and 10 dimensions
on [-5, 5]^d, and the mixed-integer sphere and Rastrigin of bbob-mixint in 5; the seed is the instance. Values are
scaled so that the least is 0 and the median of the space 1. Noise is Gaussian with a deviation of 0.01 ("low") or 0.1
("high"), or a factor exp(N(0, 0.5)) ("factor"). Regret: the true value of the point that a run returns: x of the
result, the recommendation of nevergrad, the mean of pycma (with its NoiseHandler), the best trial of Optuna and of
random search. All 32 problems with 100 evaluations, 13 of them with more. Columns: the geometric mean over the problems
of the median over seeds; "first at" says on how many problems a solver has the least; "bias" is the mean, over the runs
with 0.1 and all budgets, of the value that is stated less the true one. Dashes: not run, as one takes a minute or more,
or there is no such thing.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import math
import warnings
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hpo_tasks import add_entry, entries
from record import RESULTS, markdown, write
from runs import numbers

import blackbox as bb
from blackbox.problems.bbob import BBOB
from blackbox.problems.bbob_mixint import MixedBBOB

FUNCTIONS = {"sphere": 1, "ellipsoid": 10, "rastrigin": 15, "rosenbrock": 9}
MIXED = {"mixed sphere": 1, "mixed rastrigin": 15}
NOISES = {"low": 0.01, "high": 0.1, "factor": 0.5}
BUDGETS = (100, 500, 2000)
SEEDS = range(10)
LEAST = 1e-8  # regrets below count as this
PACKAGES = ("numpy", "nevergrad", "cma", "optuna")

Problem = tuple[str, int, str]
"""Function, dimension, noise."""
SOME: list[Problem] = [
    *((f, d, noise) for f in FUNCTIONS for d, noise in ((2, "high"), (5, "low"), (10, "high"))),
    ("mixed sphere", 5, "high"),
]
PROBLEMS: list[Problem] = [
    *SOME,
    *((f, d, noise) for f in FUNCTIONS for d, noise in ((2, "low"), (5, "high"), (10, "low"), (5, "factor"))),
    *((f, 5, noise) for f in MIXED for noise in ("low", "high") if (f, noise) != ("mixed sphere", "high")),
]
"""All of them with the least budget, some with the others."""


class Found(NamedTuple):
    """What a solver returns, and the value that it states for it, if it does."""

    x: Any
    value: float | None = None


class Objective:
    """A noisy function of the points of a space; ``left`` evaluations may be made."""

    def __init__(self, problem: Problem, budget: int, seed: int) -> None:
        name, d, noise = problem
        number = {**FUNCTIONS, **MIXED}[name]
        self._f: Any = MixedBBOB(number, d, seed + 1) if name in MIXED else BBOB(number, d, seed + 1)
        self.space = self._f.space if name in MIXED else bb.Box(-5, 5, d)
        self.budget, self.evaluations = budget, 0
        self._noise, self._level = noise, NOISES[noise]
        self._rng = np.random.default_rng([seed, d, number])
        sample = bb.Optimizer(self.space, "random", seed=seed).ask(1000)
        self._scale = float(np.median([self._f(c.x) for c in sample])) - self._f.f_opt

    def true(self, x: Any) -> float:
        return max(0.0, (float(self._f(x)) - self._f.f_opt) / self._scale)

    def __call__(self, x: Any) -> float:
        self.evaluations += 1
        z = self._level * float(self._rng.standard_normal())
        return self.true(x) * math.exp(z) if self._noise == "factor" else self.true(x) + z


def ours(f: Objective, seed: int, **settings: Any) -> Found:
    result = bb.minimize(f, f.space, budget=f.budget, seed=seed, **settings)
    return Found(result.x, result.value)


def nevergrad(f: Objective, seed: int, *, name: str) -> Found:
    import nevergrad as package

    from blackbox.integrations.nevergrad_spaces import to_parametrization

    if isinstance(f.space, bb.Box):
        parametrization = package.p.Array(shape=(len(f.space.low),), lower=-5, upper=5)
    else:
        parametrization = to_parametrization(f.space)
    parametrization.function.deterministic = False
    parametrization.random_state.seed(seed)
    optimizer = package.optimizers.registry[name](parametrization, budget=f.budget)
    for _ in range(f.budget):
        candidate = optimizer.ask()
        optimizer.tell(candidate, f(candidate.value))
    return Found(optimizer.provide_recommendation().value)


def pycma(f: Objective, seed: int) -> Found:
    import cma

    d = len(f.space.low)
    options = {"bounds": [-5, 5], "maxfevals": f.budget, "verbose": -9, "seed": seed + 1}
    found = cma.fmin2(f, np.zeros(d), 2.0, options, noise_handler=cma.NoiseHandler(d), restarts=9)[1]
    return Found(np.clip(found.result.xfavorite, -5, 5))


def optuna(f: Objective, seed: int) -> Found:
    import optuna as package

    from blackbox.integrations.optuna_spaces import to_distributions

    package.logging.set_verbosity(package.logging.ERROR)
    if isinstance(f.space, bb.Box):
        d = len(f.space.low)
        distributions: Any = {f"x{i}": package.distributions.FloatDistribution(-5, 5) for i in range(d)}
    else:
        distributions = to_distributions(f.space)
    study = package.create_study(sampler=package.samplers.TPESampler(seed=seed))

    def point(params: dict[str, Any]) -> Any:
        return np.array(list(params.values())) if isinstance(f.space, bb.Box) else params

    for _ in range(f.budget):
        trial = study.ask(distributions)
        study.tell(trial, f(point(trial.params)))
    return Found(point(study.best_params), study.best_value)


class Solver(NamedTuple):
    solve: Callable[[Objective, int], Found]
    most: int = 10**9
    """Evaluations up to which a run does not take minutes."""
    mixed: bool = True
    """Whether it takes integers."""


SOLVERS: dict[str, Solver] = {
    "blackbox auto, noise=True": Solver(partial(ours, noise=True)),
    "blackbox auto": Solver(ours),
    "random": Solver(partial(ours, method="random")),
    "pycma, NoiseHandler": Solver(pycma, mixed=False),
    "nevergrad NGOpt": Solver(partial(nevergrad, name="NGOpt"), most=500),
    "nevergrad TBPSA": Solver(partial(nevergrad, name="TBPSA")),
    "nevergrad OptimisticNoisyOnePlusOne": Solver(partial(nevergrad, name="OptimisticNoisyOnePlusOne")),
    "optuna TPE": Solver(optuna, most=100),
}

Key = tuple[str, str, int, str, int, int]
"""Solver, problem, budget, seed."""


def measure(solver: str, problem: Problem, budget: int, seed: int) -> tuple[float, float | None]:
    """The regret of a run, and what it states too much or, below 0, too little."""
    warnings.simplefilter("ignore")
    f = Objective(problem, budget, seed)
    found = SOLVERS[solver].solve(f, seed)
    regret = f.true(found.x)
    return regret, None if found.value is None else found.value - regret


def due(budget: int, seed: int) -> list[Key]:
    """All runs with a budget and a seed."""
    return [
        (name, *problem, budget, seed)
        for problem in (PROBLEMS if budget == BUDGETS[0] else SOME)
        for name, solver in SOLVERS.items()
        if budget <= solver.most and (solver.mixed or problem[0] not in MIXED)
    ]


def report(runs: dict[Key, tuple[float, float | None]], is_kept: bool) -> None:
    """Print the table, and keep it; of the seeds with which all solvers have run."""
    seeds = {b: [s for s in sorted({k[5] for k in runs}) if all(k in runs for k in due(b, s))] for b in BUDGETS}
    runs = {k: runs[k] for b in BUDGETS for s in seeds[b] for k in due(b, s)}
    medians: dict[tuple[str, int], dict[Problem, float]] = {}
    for solver, *problem, budget, _ in runs:
        own = medians.setdefault((solver, budget), {})
        if (name := (problem[0], problem[1], problem[2])) not in own:
            own[name] = float(np.median([r for k, (r, _) in runs.items() if k[:5] == (solver, *name, budget)]))
    rows = []
    for solver in SOLVERS:
        row: dict[str, Any] = {"solver": solver}
        errors = [e for k, (_, e) in runs.items() if k[0] == solver and k[3] == "high" and e is not None]
        for budget in BUDGETS:
            own = medians.get((solver, budget), {})
            for kind, names in (("", set(FUNCTIONS)), (", mixed", set(MIXED))):
                regrets = [max(r, LEAST) for p, r in own.items() if p[0] in names]
                if regrets:
                    row[f"{budget}{kind}"] = f"{np.exp(np.mean(np.log(regrets))):.4f}"
            rivals = [m for (_, b), m in medians.items() if b == budget]
            first = sum(r <= min(m[p] for m in rivals if p in m) for p, r in own.items())
            if own:
                row[f"first at {budget}"] = f"{first} of {len(own)}"
        if errors:
            row["bias"] = f"{np.mean(errors):+.3f} ± {np.std(errors) / math.sqrt(len(errors)):.3f}"
        if len(row) > 1:
            rows.append(row | {"runs": sum(k[0] == solver for k in runs)})
    columns = ["solver", *(f"{b}{kind}" for kind in ("", ", mixed") for b in BUDGETS)]
    columns += [*(f"first at {b}" for b in BUDGETS), "bias", "runs"]
    columns = [column for column in columns if any(column in row for row in rows)]
    note = __doc__.split("\n\n")[1].replace("\n", " ")
    counts = ", ".join(f"{len(own)} with {budget}" for budget, own in seeds.items())
    note = f"{note.strip()} Seeds: {counts} evaluations."
    if is_kept:
        write("noise", "Under noise", columns, rows, PACKAGES, note)
    else:
        print(markdown(columns, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solvers", default="*", help="a pattern; with none that fits, only the report is made")
    parser.add_argument("--budgets", type=numbers, default=BUDGETS)
    parser.add_argument("--seeds", type=numbers, default=tuple(SEEDS), help="such as 0-4; from 1000 on to develop on")
    parser.add_argument("--results", type=Path, default=RESULTS / "noise.jsonl", help="another is only printed")
    arguments = parser.parse_args()
    runs: dict[Key, Any] = {tuple(key): found for key, found in entries(arguments.results)}
    for seed in arguments.seeds:
        for budget in arguments.budgets:
            for key in due(budget, seed):
                if key not in runs and fnmatch(key[0], arguments.solvers):
                    runs[key] = measure(key[0], key[1:4], budget, seed)
                    add_entry(arguments.results, [key, runs[key]])
    report(runs, arguments.results == RESULTS / "noise.jsonl")


if __name__ == "__main__":
    main()
