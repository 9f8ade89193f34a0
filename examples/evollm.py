"""A language model as an evolution strategy: the embedded one, or one behind OpenAI's API by changing one flag.

    python examples/evollm.py
    python examples/evollm.py --task cartpole --budget 100
    python examples/evollm.py --provider openai --model gpt-x --out runs/evollm
    python examples/evollm.py --provider openai --model qwen --base-url http://localhost:8000/v1 --step-size fixed

The model sees sorted lists of integers and losses, nothing of the problem. With ``--out`` all answers are in a file,
and a run that was killed, begun again, pays for nothing twice.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import blackbox as bb
from blackbox.problems.bbob import BBOB
from blackbox.problems.control import JaxControl


class Provider(StrEnum):
    """Who answers."""

    embedded = "embedded"
    openai = "openai"


class Task(StrEnum):
    """What is optimized."""

    bbob = "bbob"
    cartpole = "cartpole"


class StepSize(StrEnum):
    """Where the spread of the members is from."""

    asked = "asked"
    elites = "elites"
    fixed = "fixed"


def objective(task: Task, function: int, dimension: int, seed: int):
    """A function, its box, and the least value that it can have."""
    if task is Task.bbob:
        problem = BBOB(function, dimension, instance=seed + 1)
        return problem, bb.Box([-5.0] * dimension, [5.0] * dimension), problem.f_opt
    import jax

    control = JaxControl("CartPole-v1", hidden=(8,), episodes=4, seed=seed)
    score = jax.jit(control)
    return lambda x: float(score(np.asarray(x, np.float32))), control.box(), -500.0


def main(
    task: Annotated[Task, typer.Option(help="A BBOB function, or a network that balances a pole")] = Task.bbob,
    function: Annotated[int, typer.Option(help="Of BBOB, 1 to 24")] = 8,
    dimension: Annotated[int, typer.Option(help="Of the BBOB function")] = 5,
    budget: Annotated[int, typer.Option(help="Evaluations")] = 200,
    provider: Annotated[Provider, typer.Option(help="The package's own, or a server's")] = Provider.embedded,
    model: Annotated[str, typer.Option(help="Of the server")] = "gpt-x",
    base_url: Annotated[str | None, typer.Option(help="Of the server; OpenAI's by default")] = None,
    step_size: Annotated[StepSize, typer.Option(help="Asked for, of the elites, or the paper's")] = StepSize.asked,
    calls: Annotated[int, typer.Option(help="Of the model, at most")] = 1000,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the answers; none by default")] = None,
) -> None:
    """Minimize by a language model, beside random search and CMA-ES."""
    if provider is Provider.embedded:
        answers = bb.llm.Embedded()
    else:
        key = "OPENAI_API_KEY"  # a server of one's own may need none
        answers = bb.llm.OpenAI(model, base_url=base_url, key=key if base_url is None or key in os.environ else None)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    f, box, least = objective(task, function, dimension, seed)
    with bb.llm.Client(answers, budget=bb.llm.Budget(calls=calls), path=out and out / "llm.db") as client:
        evollm = bb.llm.EvoLLM(provider=client, step_size=step_size.value)
        try:
            ours = bb.minimize(f, box, method=evollm, budget=budget, seed=seed).value
        except (bb.BudgetExhausted, bb.ProviderError) as error:
            print(f"{error}; with --out, the same command goes on where it was, and --calls gives it more")
            raise typer.Exit(1) from None
        found = {
            f"EvoLLM, {provider.value}": ours,
            "random search": bb.minimize(f, box, method="random", budget=budget, seed=seed).value,
            "CMA-ES": bb.minimize(f, box, method="cma-es", budget=budget, seed=seed).value,
        }
        spent = client.spent
    table = Table("method", f"{'above the minimum' if task is Task.bbob else 'steps'} after {budget} evaluations")
    for name, value in found.items():
        table.add_row(name, f"{value - least:.3g}" if task is Task.bbob else f"{-value:.0f} of 500")
    Console().print(table)
    best, random = list(found.values())[:2]
    print(f"{spent.calls} questions; EvoLLM {best - least:.2g}, random search {random - least:.2g} above the minimum")


if __name__ == "__main__":
    typer.run(main)
