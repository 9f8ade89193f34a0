"""``method="auto"`` on BBOB beside the solvers that are ahead within few evaluations per coordinate.

    python bench/auto.py                    three instances, 100 D and 1000 D evaluations, and 60 in D = 5; hours
    python bench/auto.py 100 --dimensions 2,5,10 --instances 1-3         to develop by; 6-8 are to judge by
    python bench/auto.py --solvers 'blackbox:auto:box,pycma:lq' 100

A run is a line of ``results/auto.jsonl``; what is there is not run again. Differences of area are paired over
functions, dimensions, instances and seeds: mean and standard error over functions and dimensions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from bbob import FUNCTIONS, Campaign, run_all
from peers import SOLVERS, select
from record import RESULTS, write
from rich.console import Console
from runs import GROUPS, Ledger, Run, difference, mean_area, numbers

AUTO = "blackbox:auto:box"
PEERS = f"{AUTO},blackbox:quadratic:box,blackbox:lq-cma-es:box,blackbox:cma-es:box,pycma:lq,pycma,scipy:l-bfgs-b"
COARSE = 16  # targets, 10^2 to 10^-1
COLUMNS = ("evaluations", "solver", "runs", "area", "less auto's", "coarse", "solved", "ms")
FEW = 12  # evaluations by dimension; of these functions only:
FEW_FUNCTIONS = (1, 3, 6, 8, 10, 12, 15, 17, 20, 21, 22, 24)
DIMENSIONS = {FEW: (5,), 100: (2, 5, 10, 20), 1000: (5, 10)}


def coarse(run: Run) -> float:
    """Area of the coarse targets alone."""
    return sum(1.0 - np.log(hit) / np.log(run.key.budget) for hit in run.hits[:COARSE]) / COARSE


def row(name: str, runs: Sequence[Run], auto: Sequence[Run]) -> dict[str, object]:
    """What the table says of one solver within one budget."""
    evaluations = sum(run.evaluations for run in runs)
    cells: dict[str, object] = {
        "evaluations": f"{runs[0].key.factor} D",
        "solver": name,
        "runs": len(runs),
        "area": f"{mean_area(runs):.3f}",
        "less auto's": "" if name == AUTO else str(difference(runs, auto)),
        "coarse": f"{np.mean([coarse(run) for run in runs]):.3f}",
        "solved": f"{np.mean([run.solved for run in runs]):.0%}",
        "ms": f"{1e3 * sum(run.seconds for run in runs) / evaluations:.2g}",
    }
    for d in sorted({run.key.dimension for run in runs}):
        cells[f"D = {d}"] = f"{mean_area([run for run in runs if run.key.dimension == d]):.3f}"
    for group, functions in GROUPS.items():
        cells[group] = f"{mean_area([run for run in runs if run.key.function in functions]):.3f}"
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("budgets", nargs="*", type=int, default=[FEW, 100, 1000], help="evaluations by dimension")
    parser.add_argument("--solvers", default=PEERS, help="as for bench/bbob.py")
    parser.add_argument("--dimensions", type=numbers, help="such as 2,5; by default by the budget")
    parser.add_argument("--instances", type=numbers, default=(6, 7, 8))
    parser.add_argument("--seeds", type=numbers, default=(0,))
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    ledger = Ledger(RESULTS / "auto.jsonl")
    keys = []
    for factor in arguments.budgets:
        functions = FEW_FUNCTIONS if factor == FEW else FUNCTIONS
        dimensions = arguments.dimensions or DIMENSIONS.get(factor, (2, 5, 10))
        solvers = tuple(name for name in select(arguments.solvers) if SOLVERS[name].available)
        campaign = Campaign(solvers, factor, dimensions, arguments.instances, functions, arguments.seeds)
        keys += list(campaign.runs())
    run_all(keys, ledger, arguments.processes, Console())
    rows = []
    for factor in sorted({run.key.factor for run in ledger.runs}):
        of = {name: [r for r in ledger.runs if (r.key.solver, r.key.factor) == (name, factor)] for name in SOLVERS}
        made = [row(name, runs, of[AUTO]) for name, runs in of.items() if runs]
        rows += sorted(made, key=lambda cells: str(cells["area"]), reverse=True)
    dimensions = sorted({run.key.dimension for run in ledger.runs})
    columns = [*COLUMNS, *(f"D = {d}" for d in dimensions), *GROUPS]
    note = (
        "Area under the runtime ECDF (see bench/bbob.py), of all 51 targets and of the 16 coarse ones; its difference "
        "to that of auto in the runs that both have, with its standard error; share of targets hit; milliseconds of "
        "processor time for an evaluation; area by dimension and by group of functions. Of 12 D, twelve functions "
        "only. Means of unlike numbers of runs are over unlike dimensions: the differences are not. Instances "
        f"{', '.join(map(str, sorted({run.key.instance for run in ledger.runs})))}; development took 1 to 5."
    )
    packages = ("blackbox-engine", "numpy", "scipy", "cma")
    write("auto", 'BBOB: method="auto"', columns, rows, packages, note)


if __name__ == "__main__":
    main()
