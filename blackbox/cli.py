"""The command ``blackbox``.

Results go to standard output, as tables or with ``--json`` as one JSON value; progress, warnings and errors go to
standard error. Exit codes: 0; 1 where no evaluation had a value; 2 for an error, which is one line; 130 after Ctrl-C.
An unexpected exception shows its traceback.
"""

from __future__ import annotations

import enum
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from blackbox.errors import BlackboxError, SettingError

# Everything else is imported by the commands that need it, so that `blackbox --help` answers at once.
if TYPE_CHECKING:
    from blackbox.callbacks import Snapshot
    from blackbox.optimizer import Optimizer
    from blackbox.task import Task

NOTHING_FOUND, ERROR, INTERRUPTED = 1, 2, 130


class _Commands(TyperGroup):
    """The commands, with errors in one line."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            try:
                code = super().main(*args, **kwargs)
            except BlackboxError as error:
                code = _fail(str(error))
            except Exception as error:
                if not hasattr(error, "format_message"):  # what usage errors have, wherever typer keeps their class
                    raise
                code = _fail(error.format_message())
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return ERROR


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {str(message).partition(chr(10))[0]}", file=sys.stderr)


app = typer.Typer(
    cls=_Commands,
    name="blackbox",
    help="Gradient-free optimization: minimize functions, resume and inspect runs, compare methods.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Direction(enum.StrEnum):
    minimize = "minimize"
    maximize = "maximize"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of tables.")]
Progress = Annotated[
    bool | None, typer.Option("--progress/--no-progress", help="A live line on stderr; default: on a terminal.")
]
Method = Annotated[str, typer.Option(help="See `blackbox methods`.")]
Budget = Annotated[int | None, typer.Option(help="Evaluations in all.")]
Seconds = Annotated[float | None, typer.Option(help="Time limit of this call.")]
Target = Annotated[float | None, typer.Option(help="Stop once this value is reached.")]
Workers = Annotated[int | None, typer.Option(help="Evaluations at once, each in a process; 0: one, in this process.")]
Timeout = Annotated[float | None, typer.Option(help="Limit of one evaluation in seconds.")]
Methods = Annotated[str, typer.Option(help="Names, separated by commas.")]


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        from blackbox import __version__

        print(f"blackbox {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One of them, for its hyperparameters.")] = None,
    as_json: Json = False,
) -> None:
    """List the methods, or describe one."""
    from blackbox.reporting.report import describe_method
    from blackbox.reporting.tables import table

    if name is None:
        from blackbox.strategy import methods

        rows = [{"name": m.name, "tags": sorted(m.tags), "source": m.source} for m in methods().values()]
        cells = [[row["name"], " ".join(row["tags"]), row["source"]] for row in rows]
        _print(as_json, rows, lambda: [table("Methods", ["name", "tags", "source"], cells)])
        return
    facts = describe_method(name)
    fields = [list(field.values()) for field in facts["hyperparameters"]]
    title, columns = "Hyperparameters", ["name", "type", "default"]
    _print(as_json, facts, lambda: [_text(facts["documentation"]), "", table(title, columns, fields)])


@app.command()
def problems(as_json: Json = False) -> None:
    """List the test problems. Their names can stand for an objective."""
    from blackbox.problems import entries
    from blackbox.reporting.tables import table

    rows = entries()
    columns = ["name", "suite", "title", "variables"]
    _print(as_json, [row._asdict() for row in rows], lambda: [table("Problems", columns, rows)])


@app.command("minimize")
def _minimize(
    objective: Annotated[str, typer.Argument(help="MODULE:FUNCTION, FILE.py:FUNCTION, or a problem's name.")],
    space: Annotated[
        Path | None, typer.Option(help="TOML file with a table per variable; not needed if the objective has `space`.")
    ] = None,
    method: Method = "auto",
    budget: Budget = None,
    seconds: Seconds = None,
    target: Target = None,
    workers: Workers = None,
    timeout: Timeout = None,
    seed: Annotated[int | None, typer.Option(help="Makes the run repeatable; random by default.")] = None,
    journal: Annotated[Path | None, typer.Option(help="A new file for all results; see `blackbox resume`.")] = None,
    direction: Annotated[Direction, typer.Option(help="Which values are better.")] = Direction.minimize,
    progress: Progress = None,
    as_json: Json = False,
) -> None:
    """Search a space for the best point of a function."""
    from blackbox.task import make_task, read_space

    given = {
        "method": method, "budget": budget, "seconds": seconds, "target": target, "workers": workers,
        "timeout": timeout, "seed": seed, "journal": journal, "direction": direction.value,
    }  # fmt: skip
    settings = {name: value for name, value in given.items() if value is not None}
    _solve(make_task(objective, None if space is None else read_space(space), settings), progress, as_json)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="TOML file; see the documentation for its keys.")],
    progress: Progress = None,
    as_json: Json = False,
) -> None:
    """Minimize as a TOML file says."""
    from blackbox.task import read_task

    _solve(read_task(config), progress, as_json)


@app.command()
def resume(
    journal: Annotated[Path, typer.Argument(help="Of a run that was interrupted, or is to go on.")],
    budget: Budget = None,
    objective: Annotated[
        str | None, typer.Option(help="Default: the one that the journal names, which is imported and called.")
    ] = None,
    seconds: Seconds = None,
    target: Target = None,
    workers: Workers = None,
    timeout: Timeout = None,
    progress: Progress = None,
    as_json: Json = False,
) -> None:
    """Go on with the run of a journal."""
    from blackbox.task import resumed_task

    given = {"budget": budget, "seconds": seconds, "target": target, "workers": workers, "timeout": timeout}
    changes = {name: value for name, value in given.items() if value is not None}
    _solve(resumed_task(journal, objective, changes), progress, as_json, resume=True)


@app.command()
def show(
    journal: Annotated[Path, typer.Argument(help="Of a run, which may be in progress.")],
    png: Annotated[Path | None, typer.Option(help="Write the figures to this file (.png, .pdf or .svg).")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the figures to this file.")] = None,
    best: Annotated[int, typer.Option(help="How many of the best evaluations to list.", min=0)] = 10,
    as_json: Json = False,
) -> None:
    """Show the run of a journal; nothing is executed or changed."""
    from blackbox.reporting.report import Report
    from blackbox.reporting.tables import show_tables

    run = Report.read(journal)
    if png is not None:
        from blackbox.reporting import plots

        plots.save(run, png)
    if html is not None:
        from blackbox.reporting import page

        page.save(run, html)
    for path in (png, html):
        if path is not None:
            print(f"wrote {path}", file=sys.stderr)
    _print(as_json, run.to_json(), lambda: show_tables(run, best))


bench = typer.Typer(rich_markup_mode=None)
app.add_typer(bench, name="bench")


@bench.callback(invoke_without_command=True)
def _bench(context: typer.Context) -> None:
    """Compare methods on test problems."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@bench.command()
def bbob(
    methods: Methods = "",
    dims: Annotated[str, typer.Option(help="Dimensions, as in 2,5,10.")] = "2,5",
    functions: Annotated[str, typer.Option(help="Numbers, as in 1-5,8.")] = "1-24",
    instances: Annotated[int, typer.Option(help="How many of each function.", min=1)] = 1,
    budget_multiplier: Annotated[int, typer.Option(help="Evaluations per dimension.", min=1)] = 100,
    workers: Workers = 0,
    progress: Progress = None,
    as_json: Json = False,
) -> None:
    """The 24 BBOB functions; by default all methods for real variables, in less than a minute."""
    from blackbox import benchmark

    names = _names(methods) or benchmark.dense_methods()
    runs = benchmark.bbob_runs(
        names, _integers("functions", functions), _integers("dims", dims), instances, budget_multiplier
    )
    _compare(runs, benchmark.bbob_summary, benchmark.BBOB_NOTE, workers, progress, as_json)


@bench.command()
def hpo(
    methods: Methods = "cat-cma,cma-es,random",
    tasks: Annotated[str, typer.Option(help="Names, separated by commas; default: all of `blackbox problems`.")] = "",
    seeds: Annotated[int, typer.Option(help="Runs of each method on each task.", min=1)] = 1,
    budget: Annotated[int, typer.Option(help="Evaluations of each run.", min=1)] = 40,
    workers: Workers = 0,
    progress: Progress = None,
    as_json: Json = False,
) -> None:
    """Hyperparameter searches on scikit-learn's data sets; some minutes."""
    from blackbox import benchmark
    from blackbox.problems.hpo import tasks as all_tasks

    runs = benchmark.hpo_runs(_names(methods), _names(tasks) or list(all_tasks()), seeds, budget)
    _compare(runs, benchmark.hpo_summary, benchmark.HPO_NOTE, workers, progress, as_json)


def _compare(
    runs: Sequence[Any],
    summarize: Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]],
    note: str,
    workers: int | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from blackbox import benchmark
    from blackbox.reporting.tables import table

    is_live = sys.stderr.isatty() if progress is None else progress
    with Bar(console=Console(stderr=True), disable=not is_live, transient=True) as bar:
        total = bar.add_task("runs", total=len(runs))
        results = benchmark.carry_out(runs, workers or 0, lambda: bar.advance(total))
    summary = summarize(results)
    columns = list(summary[0])
    cells = [[row[column] for column in columns] for row in summary]
    if len(columns) > 10:  # the lines are columns then
        columns, *cells = [list(line) for line in zip(columns, *cells, strict=True)]
    _print(
        as_json,
        {"summary": summary, "runs": results},
        lambda: [table(f"{len(runs)} runs", columns, cells, digits=4), _text(note)],
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _integers(argument: str, text: str) -> list[int]:
    """The numbers of a text like 1-5,8."""
    numbers: list[int] = []
    for part in _names(text):
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)) or int(last or first) - int(first) > 10_000:
            raise SettingError(f"{argument} must be numbers and ranges like 1-5,8; got {text!r}")
        numbers += range(int(first), int(last or first) + 1)
    if not numbers:
        raise SettingError(f"{argument} must be numbers and ranges like 1-5,8; got {text!r}")
    return numbers


class _Watch:
    """A callback that keeps in the journal how to go on, and draws the live line."""

    def __init__(self, task: Task, has_progress: bool) -> None:
        from blackbox.progress import Progress

        self._task = task
        self._progress = Progress(task.settings.get("seconds")) if has_progress else None
        self.begin = time.monotonic()
        self.optimizer: Optimizer | None = None

    def on_start(self, snapshot: Snapshot) -> None:
        from blackbox.task import COMMAND, OBJECTIVE

        self.optimizer = snapshot.optimizer
        self.optimizer.keep(COMMAND, {OBJECTIVE: self._task.name, **self._task.evaluation})
        if self._progress is not None:
            self._progress.on_start(snapshot)

    def on_tell(self, snapshot: Snapshot) -> None:
        if self._progress is not None:
            self._progress.on_tell(snapshot)

    def on_stop(self, snapshot: Snapshot) -> None:
        if self._progress is not None:
            self._progress.on_stop(snapshot)


def _solve(task: Task, progress: bool | None, as_json: bool, resume: bool = False) -> None:
    """Minimize, print what was found, and choose the exit code."""
    from blackbox.minimizer import minimize
    from blackbox.reporting.report import outcome
    from blackbox.reporting.tables import outcome_tables

    watch, code = _Watch(task, sys.stderr.isatty() if progress is None else progress), 0
    try:
        result = minimize(task.objective, task.space, callbacks=[watch], resume=resume, **task.settings)
        optimizer, stopped = result.optimizer, result.stopped
    except KeyboardInterrupt:
        if watch.optimizer is None:
            raise
        optimizer, code, journal = watch.optimizer, INTERRUPTED, task.settings.get("journal")
        hint = "nothing is kept without --journal" if journal is None else f"go on with: blackbox resume {journal}"
        stopped = {"interrupted": f"interrupted; {hint}"}
    if code:
        print(f"interrupted after {optimizer.evaluations} evaluations; {hint}", file=sys.stderr)
    facts = outcome(optimizer, task, time.monotonic() - watch.begin, stopped)
    _print(as_json, facts, lambda: outcome_tables(facts))
    if code or facts["x"] is None:
        raise typer.Exit(code or NOTHING_FOUND)


def _print(as_json: bool, value: Any, tables: Callable[[], Iterable[Any]]) -> None:
    """``value`` as JSON, or else tables of it."""
    from blackbox.reporting.report import jsonable

    if as_json:
        print(json.dumps(jsonable(value), indent=2, allow_nan=False))
        return
    import os

    from rich.console import Console

    # Into a pipe or a file, rich would assume 80 columns and break the lines of tables.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    for table in tables():
        console.print(table)


def _text(text: str) -> Any:
    from rich.text import Text

    return Text(text)
