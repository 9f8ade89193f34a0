"""Optimizers found by a search over programs, beside known ones and a random search with as many evaluations.

    python bench/program_search.py                        a quarter of an hour of processor time; writes
                                                          bench/results/program_search.md, .json and .png
    python bench/program_search.py --seeds 0 --evaluations 200     less, and no file

The search is that of Chen et al. 2023 (arXiv:2302.06675) on toys: regularised evolution that begins with momentum, on
two proxy tasks (`program_tasks.py`): softmax regression and a small network on digits of 4 x 4 pixels, half of whose
labels are wrong. They were chosen so that noise dominates and a tuned Lion is better on them than a tuned AdamW;
whether a search finds anything of that kind is the question. Gradients of the four seeds are multiplied by 1/1000 to
1000. Random search evaluates as many different programs, each the start with up to 16 mutations.

Decided by pilots, the last with these seeds: a quadratic among the proxies led to functions made for the size of its
gradients, such as their sine, and to rates that do not fall; hence it is a test, and gradients have units. Medians over
seeds let pass what works for some units only; hence means of logarithms. Begun with AdamW, as the paper's, searches
ended in so few evaluations with another normalization, begun with the gradient alone with its sign and no memory.

Of either, the 32 best come into a funnel, 8 pass it by other seeds, 1 by larger tasks, and this one is tested on tasks
that neither has seen, with three times the steps, all pixels, other seeds and gradients as they are: the two kinds of
proxies with more weights, a network whose labels are right, and a quadratic with heavy-tailed noise. SGD, AdamW and
Lion have the constants that are best out of a grid on the proxies, without units. Every optimizer has its learning rate
tuned on each test task by three seeds and is measured on seven others. All take one gradient a step, so that equal
steps are equal cost.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from program_kinds import traits
from program_tasks import Objective, Task, course, digits, in_units, losses, quadratic
from record import write

import blackbox as bb
from blackbox.programs import (
    Draws,
    Program,
    RegularizedEvolution,
    SearchState,
    analysis,
    funnel,
    mutate,
    parse,
    search,
)

RATES = tuple(10 ** np.arange(-2.5, 0.1, 0.5))
WIDER = tuple(10 ** np.arange(-3.0, 1.1, 0.5))  # of the constants of known optimizers
FINER = tuple(10 ** np.arange(-4.0, 1.1, 0.25))  # of the tests
START = parse("m = interp(g, m, 0.9); update = m * lr")
UNITS = (1e-3, 1e-1, 1e1, 1e3)  # of the gradients of four seeds
SEEDS = list(range(10, 15))
MUTATIONS = 16  # of random search, at most


def tasks(size: int, seeds: Sequence[int]) -> tuple[Task, ...]:
    """Proxies for ``size`` 1, and the same kinds of tasks with more steps, weights, pixels for 2 and 4."""
    steps, pooled = {1: 160, 2: 240, 4: 480}[size], size == 1
    return (
        digits(hidden=0, pooled=pooled, batch=16, flipped=0.5, steps=steps, seeds=seeds, name="softmax"),
        digits(hidden=8 * size, pooled=pooled, batch=8, flipped=0.5, steps=steps, seeds=seeds, name="network"),
    )


def test_tasks(seeds: Sequence[int]) -> tuple[Task, ...]:
    """Those of size 4, and two of kinds that neither the search nor the funnel has seen."""
    return (
        *tasks(4, seeds),
        digits(hidden=32, pooled=False, batch=32, flipped=0.0, steps=480, seeds=seeds, name="network, clean"),
        quadratic(blocks=24, inner=100, outer=1e4, df=3, scale=3.0, steps=480, seeds=seeds, name="quadratic"),
    )


def scaled(given: Sequence[Task]) -> Objective:
    """What is searched on: the tasks with gradients whose units differ between seeds."""
    return Objective(tuple(in_units(task, UNITS * (len(task.w) // len(UNITS))) for task in given), RATES)


class Run(NamedTuple):
    """A search."""

    best: list[float]
    """The best fitness after each evaluation."""
    elites: tuple[Program, ...]
    drawn: int
    saved: int
    rejected: int


def evolved(objective: Objective, seed: int, evaluations: int) -> Run:
    """Regularised evolution."""
    strategy = RegularizedEvolution(start=START, popsize=100, tournament=5)
    best: list[float] = []

    def note(state: SearchState) -> None:
        value = state.fitness[analysis(state.elites[0]).key] if state.elites else math.inf
        best.extend([value] * (state.evaluations - len(best)))

    state = search(strategy, strategy.init(bb.key(seed)), objective, evaluations=evaluations, callback=note)
    return Run(best, state.elites, state.drawn, state.saved, state.rejected)


def random(objective: Objective, seed: int, evaluations: int) -> Run:
    """Random search: as many different programs, each some mutations from the start."""
    fitness: dict[str, float] = {}
    found: list[tuple[float, Program]] = []
    best: list[float] = []
    drawn = rejected = 0
    while len(fitness) < evaluations:
        draws = Draws(bb.key(seed), 0, drawn)
        program = START
        for _ in range(draws.integer(MUTATIONS + 1)):
            program = mutate(program, draws)
        drawn += 1
        form, key, depends_on = analysis(program)
        rejected += "g" not in depends_on
        if "g" not in depends_on or key in fitness:
            continue
        value = objective(form)
        fitness[key] = value if math.isfinite(value) else math.inf
        found.append((fitness[key], form))
        best.append(min(fitness[key], best[-1] if best else math.inf))
    found.sort(key=lambda pair: pair[0])
    return Run(best, tuple(form for _, form in found[:32]), drawn, drawn - rejected - len(fitness), rejected)


def tuned(objective: Objective) -> dict[str, Program]:
    """Known optimizers with the constants that are best on the proxies."""
    decays, slow = (0.0, 0.01, 0.1, 1.0), (0.95, 0.99, 0.999)
    lines = "x9 = w * {wd}\nupdate = update + x9\nupdate = update * lr"
    texts = {
        "SGD, momentum": [f"m = interp(g, m, {b1})\nupdate = m * 1.0\n{lines}" for b1 in (0.0, 0.8, 0.9, 0.95, 0.98)],
        "AdamW": [
            f"x1 = square(g)\nm = interp(g, m, {b1})\nv = interp(x1, v, {b2})\nb = interp(1.0, b, {b1})\n"
            f"c = interp(1.0, c, {b2})\nx2 = m / b\nx3 = v / c\nx3 = sqrt(x3)\nx3 = x3 + 1e-08\n"
            f"update = x2 / x3\n{lines}"
            for b1, b2 in itertools.product((0.8, 0.9, 0.95), slow)
        ],
        "Lion": [
            f"x1 = interp(g, m, {b1})\nupdate = sign(x1)\nm = interp(g, m, {b2})\n{lines}"
            for b1, b2 in itertools.product((0.8, 0.9, 0.95), slow)
        ],
    }
    return {
        name: min((parse(form.format(wd=wd)) for form in forms for wd in decays), key=objective)
        for name, forms in texts.items()
    }


def tested(program: Program) -> dict[str, tuple[float, float]]:
    """For each test task the learning rate by tuning seeds, and with it the median loss of others."""
    found = {}
    for tuning, task in zip(test_tasks(range(200, 203)), test_tasks(range(300, 307)), strict=True):
        rate = FINER[int(np.argmin(np.median(losses(program, tuning, FINER), axis=1)))]
        found[task.name] = rate, float(np.median(losses(program, task, (rate,))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--evaluations", type=int, default=1000)
    given = parser.parse_args()
    proxies = scaled(tasks(1, range(4)))
    stages = [(scaled(tasks(1, range(100, 108))), 8), (scaled(tasks(2, range(100, 104))), 1)]

    contestants = {name: [program] for name, program in tuned(Objective(tasks(1, range(4)), WIDER)).items()}
    runs: dict[str, list[Run]] = {}
    seconds: dict[str, list[float]] = {}
    for name, method in (("evolution", evolved), ("random search", random)):
        for seed in given.seeds:
            began = time.process_time()
            run = method(proxies, seed, given.evaluations)
            seconds.setdefault(name, []).append(time.process_time() - began)
            runs.setdefault(name, []).append(run)
            chosen = funnel(run.elites, stages)[0].program
            contestants.setdefault(name, []).append(chosen)
            print(
                f"{name}, seed {seed}: {run.best[-1]:.3f}, {run.drawn} drawn, {run.saved} saved, "
                f"{run.rejected} rejected, {seconds[name][-1]:.0f} CPU s; {traits(chosen).kind}\n{chosen}\n",
                flush=True,
            )

    rows, results = [], {}
    for name, programs in contestants.items():
        results[name] = [tested(program) for program in programs]
        kinds = [traits(program).kind for program in programs]
        searched = runs.get(name, [])
        rows.append({
            "optimizer": name,
            "proxies": f"{statistics.median(proxies(program) for program in programs):.3f}",
            **{
                task: f"{statistics.median(result[task][1] for result in results[name]):.4f}"
                for task in results[name][0]
            },
            "kind": "; ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)),
            "saved by the cache": f"{sum(r.saved for r in searched) / sum(r.drawn for r in searched):.0%} of children"
            if searched else "–",
            "CPU s a search": f"{statistics.mean(seconds[name]):.0f}" if searched else "–",
            "each seed": [
                {task: [f"{rate:.1e}", round(value, 5)] for task, (rate, value) in result.items()}
                for result in results[name]
            ],
            "programs": [program.code for program in programs],
        })  # fmt: skip
    if given.seeds != SEEDS or given.evaluations != 1000:
        print(*rows, sep="\n")
        return
    best = min(range(len(given.seeds)), key=lambda i: proxies(contestants["evolution"][i]))

    def counted(name: str) -> str:
        kinds = [traits(program).kind for program in contestants[name]]
        signs = sum(kind.startswith("sign of an average") for kind in kinds)
        return f"{signs} of {len(kinds)} searches"

    note = f"""
Proxies: the mean logarithm of the loss on the tasks of the search, lower is better; then the loss on each test task in
units of the loss of a guess (quadratic: of the start), the median over seven seeds of training and, for the searches,
over the programs of seeds {", ".join(map(str, given.seeds))}, each with {given.evaluations} evaluations and chosen by
the funnel. Constants of the known optimizers are the best of 20 or 36 on the proxies, learning rates the best of
{len(FINER)} on three other seeds of a test task. One core, shared with other programs.

Rediscovered? An update that does not depend on the scale of gradients, is an average and has one magnitude, the sign of
a momentum: {counted("evolution")} of evolution, {counted("random search")} of random search. What each
program is follows from running it (`bench/program_kinds.py`). The one of evolution that is best on the proxies:

```
{contestants["evolution"][best]}
```
"""
    columns = [name for name in rows[0] if name not in ("each seed", "programs")]
    packages = ["blackbox-engine", "numpy", "scikit-learn"]
    write("program_search", "Optimizers found by a search over programs", columns, rows, packages, note)
    plotted(runs, {name: programs[best if len(programs) > 1 else 0] for name, programs in contestants.items()}, proxies)


COLORS = {
    "SGD, momentum": "#999999",
    "AdamW": "#56B4E9",
    "Lion": "#009E73",
    "evolution": "#D55E00",
    "random search": "#0072B2",
}


def plotted(runs: dict[str, list[Run]], programs: dict[str, Program], proxies: Objective) -> None:
    """Fitness by evaluations of every search, and training by the programs on two test tasks."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(14, 4.6), layout="constrained")
    for name, searches in runs.items():
        for number, run in enumerate(searches):
            panels[0].plot(run.best, color=COLORS[name], lw=1.2, alpha=0.8, label=None if number else name)
    for name in ("AdamW", "Lion"):
        panels[0].axhline(proxies(programs[name]), color=COLORS[name], ls="--", lw=1.2)
        panels[0].annotate(
            f"{name}, tuned", (0, proxies(programs[name])), xycoords=("axes fraction", "data"), va="bottom",
            xytext=(4, 2), textcoords="offset points", color=COLORS[name], fontsize=9,
        )  # fmt: skip
    best = [value for searches in runs.values() for run in searches for value in run.best]
    panels[0].set(
        title="search, one line a seed",
        xlabel="programs evaluated",
        ylabel="mean log loss on the proxies",
        xscale="log",
        ylim=(min(best) - 0.1, 0.3),  # a few of the first programs are far above
    )
    shown = [0, 2]
    for panel, number in zip(panels[1:], shown, strict=True):
        tuning, task = test_tasks(range(200, 203))[number], test_tasks(range(300, 307))[number]
        for name, program in programs.items():
            rate = FINER[int(np.argmin(np.median(losses(program, tuning, FINER), axis=1)))]
            values = course(program, task, rate, every=8)
            panel.plot(8 * np.arange(len(values)), values, color=COLORS[name], lw=1.5, label=name)
        panel.set(title=f"test task: {task.name}", xlabel="step", ylabel="loss, in units of a guess's", yscale="log")
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(Path(__file__).parent / "results" / "program_search.png", dpi=130)


if __name__ == "__main__":
    main()
