"""BBOB: our strategies and other packages' solvers on the same problems, starts and budgets.

    python bench/bbob.py run                      the standard plan (see PLAN), then the report
    python bench/bbob.py run --solvers 'blackbox:cma-es,pycma' --dimensions 2,5 --budget 100
    python bench/bbob.py report --baseline pycma  tables and plots of what was run
    python bench/bbob.py solvers                  their names, and which are installed

A run is one solver on one function, dimension and instance with one seed and a budget of ``factor * dimension``
evaluations. It is a line of ``results/bbob.jsonl``; what is there is not run again, so an interrupted benchmark goes
on where it was. The report goes to ``results/bbob.md``, ``bbob.json`` and ``bbob-*.png``.

Score: 51 targets, 10^2 to 10^-8 above the optimal value; *solved* is the share of targets hit within the budget B,
*area* that under the runtime ECDF with a logarithmic axis from 1 to B evaluations, the mean of 1 - ln(hit) / ln(B).
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import queue
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from objective import Objective, Spent
from peers import SOLVERS, select
from report import write
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from runs import Key, Ledger, Run, numbers

from blackbox.problems.bbob import BBOB

# Each worker process has one thread; they inherit this and import everything anew.
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
RESULTS = Path(__file__).parent / "results"
FUNCTIONS = tuple(range(1, 25))
DIMENSIONS = (2, 5, 10, 20)


class Campaign(NamedTuple):
    """All combinations of solvers and problems."""

    solvers: tuple[str, ...]
    factor: int
    dimensions: tuple[int, ...] = DIMENSIONS
    instances: tuple[int, ...] = (1,)
    functions: tuple[int, ...] = FUNCTIONS
    seeds: tuple[int, ...] = (0,)

    def runs(self) -> Iterator[Key]:
        yield from itertools.starmap(
            Key,
            itertools.product(
                self.solvers, [self.factor], self.dimensions, self.functions, self.instances, self.seeds
            ),
        )  # fmt: skip


_SAMPLED = tuple(select("blackbox:cma-es:box,blackbox:auto:box"))  # of the Optimizer's, which take longer
_LIGHT = tuple(n for n, s in SOLVERS.items() if not s.heavy and (not n.endswith(":box") or n in _SAMPLED))
_HEAVY = tuple(name for name, solver in SOLVERS.items() if solver.heavy)
_LONG = (
    "blackbox:cma-es,blackbox:cma-es:bipop,blackbox:cma-es:box,blackbox:sep-cma-es,blackbox:lm-ma-es,blackbox:snes,"
    "blackbox:pgpe,blackbox:l-shade,blackbox:nelder-mead,blackbox:sobol,pycma,pycma:bipop,cmaes:sep-cma,minionpy:*,"
    "evosax:SNES,evosax:PGPE:*,fcmaes:de,fcmaes:biteopt,fcmaes:cr-fm-nes,scipy:l-bfgs-b,scipy:nelder-mead,"
    "scipy:sobol,numpy:random"
)
_PAIRED = tuple(
    select(
        "blackbox:sep-cma-es,cmaes:sep-cma,blackbox:lm-ma-es,fcmaes:cr-fm-nes,blackbox:snes,evosax:SNES,blackbox:pgpe,"
        "evosax:PGPE:clipup-paper,blackbox:l-shade,minionpy:l-shade:small,fcmaes:de,blackbox:nelder-mead,"
        "scipy:nelder-mead"
    )
)
PLAN = (
    Campaign(_LIGHT, 100, instances=(1, 2, 3)),
    Campaign(_HEAVY, 100, dimensions=(2, 5)),
    Campaign(tuple(select(_LONG)), 1000),
    # Chance decides whether a run falls into a local optimum: the comparisons of one method take more runs.
    Campaign(_PAIRED, 100, instances=(1, 2, 3), seeds=(1, 2)),
    Campaign(_PAIRED, 1000, instances=(1, 2), seeds=(0, 1)),
    Campaign(("blackbox:cma-es", "pycma"), 100, instances=(1, 2, 3), seeds=tuple(range(10))),
    Campaign(("blackbox:cma-es", "pycma"), 1000, instances=(1, 2, 3), seeds=tuple(range(5))),
)
"""What ``run`` without choices does."""


def measure(key: Key) -> Run:
    """Run one solver on one problem."""
    problem = BBOB(key.function, key.dimension, key.instance)
    objective = Objective(problem, key.budget, key.seed)
    error = None
    start = time.process_time()
    np.random.seed(objective.seed)
    try:
        SOLVERS[key.solver].solve(objective)
    except Spent:
        pass
    except Exception as exception:
        # A peer that fails, or wraps what it did not expect, ends its own run only.
        if objective.left:
            error = f"{type(exception).__name__}: {exception}"[:200]
    seconds = time.process_time() - start
    hits = tuple(objective.hits)
    return Run(key, objective.evaluations, float(objective.best - problem.f_opt), hits, round(seconds, 4), error)


def _work(chunks: Any, results: Any) -> None:
    """A worker process: measure chunks until None comes or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback; the parent reports
    warnings.simplefilter("ignore")
    parent = multiprocessing.parent_process()
    while (chunk := chunks.get()) is not None:
        for key in chunk:
            if parent is not None and not parent.is_alive():
                return
            results.put(measure(key))


def _chunks(keys: list[Key]) -> list[list[Key]]:
    """Runs of one solver and dimension together, so that what it compiles is compiled once; long ones first."""
    chunks: dict[tuple[str, int, int], list[Key]] = {}
    for key in keys:
        chunks.setdefault((key.solver, key.dimension, key.factor), []).append(key)
    return sorted(chunks.values(), key=lambda chunk: -sum(key.budget for key in chunk))


def run_all(keys: list[Key], ledger: Ledger, processes: int, console: Console, again: bool = False) -> None:
    """Run what the ledger lacks, or all. Ctrl-C ends it with what was run until then on disk."""
    due = [key for key in dict.fromkeys(keys) if again or not ledger.has(key)]
    console.print(f"{len(due):,} of {len(set(keys)):,} runs to do, with {processes} processes")
    if not due:
        return
    columns = (
        TextColumn("{task.description:32}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    os.environ.update(ENVIRONMENT)
    context = multiprocessing.get_context("spawn")
    chunks, results = context.Queue(), context.Queue()
    for chunk in [*_chunks(due), *[None] * processes]:
        chunks.put(chunk)
    workers = [context.Process(target=_work, args=(chunks, results), daemon=True) for _ in range(processes)]
    left = len(due)
    try:
        for worker in workers:
            worker.start()
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("starting", total=sum(key.budget for key in due))
            while left:
                alive = any(worker.is_alive() for worker in workers)
                try:
                    run = results.get(timeout=1.0)
                except queue.Empty:
                    if not alive:
                        break
                    continue
                ledger.add(run)
                left -= 1
                progress.update(bar, advance=run.key.budget, description=f"{run.key.solver}, d = {run.key.dimension}")
    finally:
        for worker in workers:
            worker.terminate()
    if left:
        codes = [worker.exitcode for worker in workers]
        console.print(f"{left} runs are missing: a worker died (exit codes {codes}); the same command tries again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("solvers", help="list the solvers")
    run = commands.add_parser("run", help="run, then report; without choices the standard plan")
    run.add_argument("--solvers", help="comma-separated names or patterns such as 'fcmaes:*'")
    run.add_argument("--dimensions", type=numbers, help="such as 2,5 (default 2,5,10,20)")
    run.add_argument("--functions", type=numbers, help="such as 1-24 (default)")
    run.add_argument("--instances", type=numbers, help="such as 1-3 (default)")
    run.add_argument("--seeds", type=numbers, help="such as 0-4 (default 0)")
    run.add_argument("--budget", type=int, help="evaluations by dimension (default 100)")
    run.add_argument("--processes", type=int, default=2)
    run.add_argument("--again", action="store_true", help="run even what is in the results")
    report = commands.add_parser("report", help="tables and plots")
    for command in (run, report):
        command.add_argument("--baseline", default="pycma", help="solver that differences are taken to")
        command.add_argument("--results", type=Path, default=RESULTS, help="folder (default bench/results)")
    return parser


def _campaigns(arguments: argparse.Namespace) -> tuple[Campaign, ...]:
    """The plan, or what the command line chooses."""
    chosen = ("solvers", "dimensions", "functions", "instances", "seeds", "budget")
    if all(getattr(arguments, name) is None for name in chosen):
        return PLAN
    return (
        Campaign(
            tuple(select(arguments.solvers or "*")),
            arguments.budget or 100,
            arguments.dimensions or DIMENSIONS,
            arguments.instances or (1, 2, 3),
            arguments.functions or FUNCTIONS,
            arguments.seeds or (0,),
        ),
    )


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # the former may be ignored where the shell has sent us behind
        signal.signal(number, signal.default_int_handler)
    console = Console()
    if arguments.command == "solvers":
        for name, solver in SOLVERS.items():
            missing = "" if solver.available else f"not installed: pip install {solver.package}"
            console.print(f"{name:32} {missing or solver.note}", highlight=False)
        return 0
    ledger = Ledger(arguments.results / "bbob.jsonl")
    if ledger.skipped:
        console.print(f"{ledger.path}: {ledger.skipped} damaged lines skipped")
    interrupted = False
    if arguments.command == "run":
        try:
            keys = [key for campaign in _campaigns(arguments) for key in campaign.runs()]
        except ValueError as error:
            parser.error(str(error))
        for name in dict.fromkeys(key.solver for key in keys):
            if not SOLVERS[name].available:
                console.print(f"{name} is skipped: pip install {SOLVERS[name].package}", highlight=False)
        keys = [key for key in keys if SOLVERS[key.solver].available]
        try:
            run_all(keys, ledger, arguments.processes, console, arguments.again)
        except KeyboardInterrupt:
            interrupted = True
            console.print("interrupted; the same command goes on from here")
    if ledger.runs:
        command = shlex.join(["python", "bench/bbob.py", *sys.argv[1:]])
        write(ledger.runs, arguments.baseline, arguments.results, console, command)
    return 130 if interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
