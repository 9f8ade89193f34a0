"""A prompt is optimized for a small task, by a method of choice and a simulated language model or a real one.

    python examples/optimize_prompt.py
    python examples/optimize_prompt.py --method evoprompt-de --evaluations 3000
    python examples/optimize_prompt.py --provider openai --model gpt-x --out runs/dates
    python examples/optimize_prompt.py --provider openai --model qwen --base-url http://localhost:8000/v1 --workers 8

The task is to rewrite dates as an archive has them, which no prompt says at first. The simulated model parses dates by
what its prompt says, the simulated optimizer recombines sentences: a test of search, no claim about real models. With
``--out`` all answers and the state are in a folder, and a run that was killed goes on without paying twice.
"""

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import blackbox as bb
from blackbox.problems import date_rewriting

TRAINING, VALIDATION, HELD_OUT = range(30), range(100, 130), range(1000, 1100)
SHOWN = range(200, 240)  # notes with their dates, as examples


class Provider(StrEnum):
    """Who answers."""

    scripted = "scripted"
    openai = "openai"


class Method(StrEnum):
    """How prompts are searched for."""

    opro = "opro"
    evoprompt_ga = "evoprompt-ga"
    evoprompt_de = "evoprompt-de"
    gepa = "gepa"
    exemplars = "exemplars"


def strategy(method: Method, client: bb.llm.Client):
    """The strategy of that name, and what it begins with."""
    seed = date_rewriting.SEED
    if method is Method.opro:
        shown = [date_rewriting.note(number) for number in SHOWN]
        return bb.llm.TextOPRO(provider=client, task=date_rewriting.TASK, instances=TRAINING, exemplars=shown), seed
    if method is Method.evoprompt_ga:
        return bb.llm.EvoPromptGA(provider=client, instances=TRAINING), seed
    if method is Method.evoprompt_de:
        return bb.llm.EvoPromptDE(provider=client, instances=TRAINING), seed
    if method is Method.gepa:
        texts = {"reading": seed, "writing": "Give the date alone."}
        return bb.llm.GEPA(provider=client, instances=TRAINING, validation=VALIDATION, merges=5), texts
    pool = [date_rewriting.example(number, date_rewriting.solved(number)) for number in SHOWN]
    return bb.llm.ExemplarSearch(instances=TRAINING), pool


def main(
    method: Annotated[Method, typer.Option(help="How prompts are searched for")] = Method.gepa,
    provider: Annotated[Provider, typer.Option(help="A simulation, or a server with OpenAI's API")] = Provider.scripted,
    model: Annotated[str, typer.Option(help="Of the server")] = "gpt-x",
    base_url: Annotated[str | None, typer.Option(help="Of the server; OpenAI's by default")] = None,
    evaluations: Annotated[int, typer.Option(help="Of a prompt on a note, at most")] = 2000,
    calls: Annotated[int, typer.Option(help="Of the model, at most")] = 10_000,
    workers: Annotated[int, typer.Option(help="Evaluations at the same time")] = 1,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for answers and the state; none by default")] = None,
) -> None:
    """Optimize a prompt."""
    if provider is Provider.scripted:
        answers = bb.llm.Scripted(date_rewriting.simulated)
    else:
        key = "OPENAI_API_KEY"  # a server of one's own may need none
        answers = bb.llm.OpenAI(model, base_url=base_url, key=key if base_url is None or key in os.environ else None)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    budget = bb.llm.Budget(calls=calls)
    named = re.sub(r"[^\w.-]", "_", answers.model)  # as part of a file's name
    console = Console()
    with bb.llm.Client(answers, budget=budget, path=out and out / "llm.db", run=f"{method}-{seed}") as client:
        rollouts = bb.llm.Rollouts(date_rewriting.by_client(client), workers=workers)
        searched, begin = strategy(method, client)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task(f"evaluations of {method}", total=evaluations)
            found = bb.llm.search_text(
                searched, rollouts, begin, key=bb.key(seed), evaluations=evaluations,
                checkpoint=out and out / f"{method}-{seed}-{named}.json",
                callback=lambda state, made: progress.update(bar, completed=made),
            )  # fmt: skip
        candidates = [*found.finalists, date_rewriting.SEED]
        try:
            pick = bb.llm.final_pick(rollouts, candidates, HELD_OUT)
        except (bb.BudgetExhausted, bb.ProviderError) as error:
            console.print(Panel(date_rewriting.instruction(found.best), title="prompt, not chosen on held-out notes"))
            print(f"{error}; with --out the same command goes on, with more --calls or when the model answers again")
            raise typer.Exit(1) from None

    table = Table("candidate", "held-out loss", "behind the pick", title=f"{method}, stopped by: {found.stopped}")
    for number, (mean, error) in enumerate(zip(pick.means, pick.standard_errors, strict=True)):
        name = "seed" if number == len(candidates) - 1 else f"{number + 1} in training"
        behind = f"{pick.behind[number]:.3f} ± {pick.behind_errors[number]:.3f}"
        table.add_row(name, f"{mean:.3f} ± {error:.3f}", "picked" if number == pick.position else behind)
    console.print(table)
    console.print(Panel(date_rewriting.instruction(pick.genome), title="prompt"))
    counts = found.counts
    console.print(f"{counts.replies} replies of the optimizer, of which {counts.unparsed} could not be read")
    print(
        f"held-out loss after {found.evaluations} evaluations: seed {pick.means[-1]:.3f}, "
        f"picked prompt {pick.means[pick.position]:.3f}"
    )


if __name__ == "__main__":
    typer.run(main)
