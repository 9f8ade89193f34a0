"""A heuristic for online bin packing is discovered: by offline operators, or by a language model with one flag.

    python discover_heuristic.py
    python discover_heuristic.py --provider openai --model qwen --base-url http://localhost:8000/v1

The search begins with best fit, and every program runs in the sandbox; bins are counted here. With a model, answers are
kept in a file, so running it again pays for nothing twice.
"""

import statistics
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

import blackbox as bb
from blackbox.llm.program import EvolutionState, ProgramEvaluator, ProgramEvolution, Tuning, search_programs
from blackbox.problems.bin_packing import BEST_FIT, HARNESS, excess, uniform, weibull

TASK = """\
Online bin packing: items come one by one. priority(item, bins) is given the size of the item and the remaining
capacities of the bins in which it fits, in the order in which they were opened, the last one being empty; it returns a
score for each. The item goes into the bin of the highest score. The score of the program is the mean number of bins
beyond a lower bound, in percent. Use NumPy alone, without loops."""


class Provider(StrEnum):
    offline = "offline"
    openai = "openai"


class Kind(StrEnum):
    uniform = "uniform"
    weibull = "weibull"


def evaluator(instances: list) -> ProgramEvaluator:
    """Programs are run elsewhere; what they return is checked and counted here."""
    return ProgramEvaluator(
        HARNESS,
        "priority",
        [instance.given for instance in instances],
        lambda packing, number: excess(packing, instances[number]),
        batch=32,
        plain=True,
    )


def main(
    provider: Annotated[Provider, typer.Option(help="who writes programs")] = Provider.offline,
    model: Annotated[str, typer.Option(help="name of the endpoint's model")] = "",
    base_url: Annotated[str | None, typer.Option(help="of a compatible endpoint")] = None,
    kind: Annotated[Kind, typer.Option(help="of the instances")] = Kind.weibull,
    evaluations: Annotated[int, typer.Option(min=1)] = 800,
    calls: Annotated[int, typer.Option(min=1, help="most requests to a model")] = 200,
    seed: int = 0,
) -> None:
    """Search on small instances, choose among the best by others, and test on larger ones."""
    console = Console()
    make, sizes = (weibull, (1000, 2000)) if kind is Kind.weibull else (uniform, (250, 1000))
    train = [make(sizes[0], number) for number in range(2)]
    clients = ()
    if provider is Provider.openai:
        endpoint = bb.llm.OpenAI(model, base_url=base_url)
        clients = (bb.llm.Client(endpoint, budget=bb.llm.Budget(calls=calls), path="discover_heuristic.db"),)
    strategy = ProgramEvolution(task=TASK, providers=clients, popsize=16)
    state = strategy.init(bb.key(seed), BEST_FIT)
    best = None

    def progress(told: EvolutionState) -> None:
        nonlocal best
        if told.best != best and told.best >= 0:
            best, member = told.best, told.members[told.best]
            console.print(f"{told.evaluations:5} programs: {member.score:.2f} % excess, by {member.program.operator}")

    state = search_programs(
        strategy, state, evaluator(train), evaluations=evaluations, tuning=Tuning(), callback=progress
    )
    finalists = [member.program.source for member in strategy.finalists(state, 6)] or [BEST_FIT]
    choice = evaluator([make(sizes[1], 100 + number) for number in range(2)])(finalists)
    found = finalists[min(range(len(choice)), key=lambda i: statistics.fmean(choice[i].scores))]
    console.print(Syntax(found, "python", background_color="default", word_wrap=True))
    tests = evaluator([make(sizes[1], 200 + number) for number in range(4)])([BEST_FIT, found])
    results = [statistics.fmean(test.scores) for test in tests]
    table = Table("heuristic", "excess, %", title=f"4 held-out {kind} instances of {sizes[1]} items")
    for name, value in zip(("best fit", "found"), results, strict=True):
        table.add_row(name, f"{value:.2f}")
    console.print(table)
    spent = strategy.report(state)
    console.print(
        f"{spent['evaluations']} programs in {tests[0].level}; {spent['improvements']} improvements, one per"
        f" {spent['evaluations per improvement']:.0f} programs"
        + (f" and {spent['cost per improvement']:.3g} million tokens" if clients else "")
    )
    print(f"excess over the lower bound: best fit {results[0]:.2f}%, found heuristic {results[1]:.2f}%")


if __name__ == "__main__":
    typer.run(main)
