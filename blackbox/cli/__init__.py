"""The command ``blackbox``.

Results go to standard output, as tables or with ``--json`` as one JSON value; progress, warnings and errors go to
standard error. Exit codes: 0; 1 where no evaluation had a value; 2 for an error, which is one line; 130 after Ctrl-C.
An unexpected exception shows its traceback.
"""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from blackbox.cli.bench import bench
from blackbox.cli.solve import solve
from blackbox.cli.terminal import Commands, Json, Progress, Workers, show_result, text

# Everything else is imported by the commands that need it, so that `blackbox --help` answers at once.

app = typer.Typer(
    cls=Commands,
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


Method = Annotated[str, typer.Option(help="See `blackbox methods`.")]
Budget = Annotated[int | None, typer.Option(help="Evaluations in all.")]
Seconds = Annotated[float | None, typer.Option(help="Time limit of this call.")]
Target = Annotated[float | None, typer.Option(help="Stop once this value is reached.")]
Timeout = Annotated[float | None, typer.Option(help="Limit of one evaluation in seconds.")]


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
        note = text(
            "auto, the default, chooses among them: blackbox methods auto.\n"
            "Optimizers of other packages: evosax:NAME, nevergrad:NAME, scipy:NAME."
        )
        show_result(as_json, rows, lambda: [table("Methods", ["name", "tags", "source"], cells), note])
        return
    facts = describe_method(name)
    fields = [list(field.values()) for field in facts["hyperparameters"]]
    parts = [text(facts["documentation"])]
    if facts["source"]:  # what auto has none of, as it has no hyperparameters
        parts.append(text(f"\nSource: {facts['source']}\n"))
    if fields:
        parts.append(table("Hyperparameters", ["name", "type", "default"], fields))
    show_result(as_json, facts, lambda: parts)


@app.command()
def problems(as_json: Json = False) -> None:
    """List the test problems, whose names can stand for an objective."""
    from blackbox.problems import entries
    from blackbox.reporting.tables import table

    rows = entries()
    columns = ["name", "suite", "title", "variables"]
    note = "D is the dimension and N the number of the function; -iI names an instance other than 1: bbob-f8-d5-i2."
    show_result(as_json, [row._asdict() for row in rows], lambda: [table("Problems", columns, rows), text(note)])


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
    solve(make_task(objective, None if space is None else read_space(space), settings), progress, as_json)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="TOML file; see the documentation for its keys.")],
    progress: Progress = None,
    as_json: Json = False,
) -> None:
    """Minimize as a TOML file says."""
    from blackbox.task import read_task

    solve(read_task(config), progress, as_json)


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
    solve(resumed_task(journal, objective, changes), progress, as_json, resume=True)


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
    show_result(as_json, run.to_json(), lambda: show_tables(run, best))


app.add_typer(bench, name="bench")
