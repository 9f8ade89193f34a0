"""``blackbox bench``: methods side by side on test problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from blackbox.cli.terminal import Json, Progress, Workers, is_live, show_result, text
from blackbox.errors import SettingError

Methods = Annotated[str, typer.Option(help="Names, separated by commas.")]

bench = typer.Typer(rich_markup_mode=None)


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
    workers: Workers = None,
    progress: Progress = None,
    as_json: Json = False,
) -> None:
    """The 24 BBOB functions; by default all methods.

    Takes less than a minute with the default sizes.
    """
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
    workers: Workers = None,
    progress: Progress = None,
    as_json: Json = False,
) -> None:
    """Hyperparameter searches on scikit-learn's data sets.

    Takes some minutes with the default sizes.
    """
    from blackbox import benchmark
    from blackbox.problems.hpo import tasks as all_tasks

    runs = benchmark.hpo_runs(_names(methods), _names(tasks) or list(all_tasks()), seeds, budget)
    _compare(runs, benchmark.hpo_summary, benchmark.HPO_NOTE, workers, progress, as_json)


def _compare(
    runs: Sequence[Any],
    summarize: Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]],
    note: str,
    workers: Any,
    progress: bool | None,
    as_json: bool,
) -> None:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from blackbox import benchmark
    from blackbox.reporting.tables import table

    with Bar(console=Console(stderr=True), disable=not is_live(progress), transient=True) as bar:
        total = bar.add_task("runs", total=len(runs))
        results = benchmark.carry_out(runs, workers or 0, lambda: bar.advance(total))
    summary = summarize(results)
    columns = list(summary[0])
    cells = [[row[column] for column in columns] for row in summary]
    if len(columns) > 10:  # the lines are columns then
        columns, *cells = [list(line) for line in zip(columns, *cells, strict=True)]
    show_result(
        as_json,
        {"summary": summary, "runs": results},
        lambda: [table(f"{len(runs)} runs", columns, cells, digits=4), text(note)],
    )


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _integers(argument: str, listed: str) -> list[int]:
    """The numbers of a text like 1-5,8."""
    numbers: list[int] = []
    for part in _names(listed):
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)) or int(last or first) - int(first) > 10_000:
            raise SettingError(f"{argument} must be numbers and ranges like 1-5,8; got {listed!r}")
        numbers += range(int(first), int(last or first) + 1)
    if not numbers:
        raise SettingError(f"{argument} must be numbers and ranges like 1-5,8; got {listed!r}")
    return numbers
