"""Text searches on a simulated language model, by evaluations, beside random search over the same sentences.

    python bench/prompt_search.py                     some minutes; writes bench/results/prompt_search.md and .json
    python bench/prompt_search.py --seeds 0 --evaluations 500      less, and no file

The task is `blackbox.problems.date_rewriting`: dates in notes are rewritten as an archive has them. What stands in for
the models is a simulation, in which sentences are good, vague, contrary or idle. It says whether searches work from the
meta-prompt to the replies, and how their selection does on a rugged set of sentences, with all else equal. It says
nothing about how well real models write, follow or learn from examples: that the search for exemplars is ahead or
behind here follows from a constant of the simulation, and how far GEPA comes from how often its optimizer makes out
a mistake.

All methods begin with the same instruction. Those that compare on a fixed set have 30 training notes; GEPA has 30
training and 30 validation notes. Random search draws 1 to 8 sentences of the vocabulary. Equal are the evaluations of a
prompt on a note; requests to the optimizer are counted beside them. Losses are those of the recommended prompt on 300
notes that no search has seen.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from record import write

import blackbox as bb
from blackbox.llm import (
    GEPA,
    Client,
    EvoPromptDE,
    EvoPromptGA,
    ExemplarSearch,
    Scripted,
    TextOPRO,
    search_text,
)
from blackbox.problems import date_rewriting

TRAINING, VALIDATION, HELD_OUT = range(30), range(100, 130), range(1000, 1300)
SHOWN = range(200, 240)
SEEDS = list(range(15))
EVALUATIONS = [500, 1000, 2000, 4000]


def loss(genome: Any) -> float:
    """On notes that no search has seen."""
    return statistics.mean(date_rewriting.by_simulation(genome, number).loss for number in HELD_OUT)


def found(strategy: Any, begin: Any, seed: int, evaluations: int) -> tuple[float, int]:
    """Held-out loss of what a search recommends, and how many replies the optimizer gave."""
    end = search_text(strategy, date_rewriting.by_simulation, begin, key=bb.key(seed), evaluations=evaluations)
    return loss(end.best), end.counts.replies


def random_search(seed: int, evaluations: int) -> tuple[float, int]:
    """Random sentences of the vocabulary after the first instruction."""
    rng = random.Random(seed)
    prompts = [
        " ".join([date_rewriting.SEED, *rng.sample(list(date_rewriting.VOCABULARY), rng.randint(1, 8))])
        for _ in range(evaluations // len(TRAINING))
    ]

    def trained(prompt: str) -> float:
        return sum(date_rewriting.by_simulation(prompt, number).loss for number in TRAINING)

    return loss(min(prompts, key=trained)), 0


Search = Callable[[int, int], tuple[float, int]]


def searches() -> dict[str, Search]:
    """All that are compared."""
    client = Client(Scripted(date_rewriting.simulated))
    start = date_rewriting.SEED
    notes = [date_rewriting.note(number) for number in SHOWN]
    pool = [date_rewriting.example(number, date_rewriting.solved(number)) for number in SHOWN]
    two = {"reading": start, "writing": "Give the date alone."}
    methods: dict[str, tuple[Any, Any]] = {
        "OPRO": (
            TextOPRO(provider=client, task=date_rewriting.TASK, instances=TRAINING, exemplars=notes),
            start,
        ),
        "EvoPrompt, GA": (EvoPromptGA(provider=client, instances=TRAINING), start),
        "EvoPrompt, DE": (EvoPromptDE(provider=client, instances=TRAINING), start),
        "GEPA": (GEPA(provider=client, instances=TRAINING, validation=VALIDATION), {"prompt": start}),
        "GEPA+Merge, two texts": (GEPA(provider=client, instances=TRAINING, validation=VALIDATION, merges=5), two),
        "exemplars": (ExemplarSearch(instances=TRAINING), pool),
        "exemplars, random draws alone": (ExemplarSearch(instances=TRAINING, draws=500), pool),
    }

    def run(method: Any, begin: Any) -> Search:
        return lambda seed, evaluations: found(method, begin, seed, evaluations)

    return {"random search": random_search, **{name: run(*method) for name, method in methods.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--evaluations", type=int, nargs="+", default=EVALUATIONS)
    given = parser.parse_args()
    rows = []
    for name, search in searches().items():
        row: dict[str, Any] = {"search": name}
        replies, seconds = 0, 0.0
        for limit in given.evaluations:
            begin = time.process_time()
            runs = [search(seed, limit) for seed in given.seeds]
            seconds = (time.process_time() - begin) / len(runs)
            losses = sorted(value for value, _ in runs)
            low, high = losses[len(losses) // 4], losses[-1 - len(losses) // 4]
            row[f"{limit} evaluations"] = f"{statistics.median(losses):.3f} ({low:.3f} to {high:.3f})"
            row[f"each seed, {limit}"] = [round(value, 4) for value, _ in runs]
            replies = round(statistics.median(asked for _, asked in runs))
        rows.append({**row, "replies": replies, "CPU s": f"{seconds:.1f}"})
        print({key: value for key, value in rows[-1].items() if not key.startswith("each")}, flush=True)
    if given.seeds != SEEDS or given.evaluations != EVALUATIONS:
        return
    note = f"""
A simulated model and a simulated optimizer: it tests that searches work and how they select, and says nothing about
real models. Held-out loss of the recommended prompt, the median over {len(SEEDS)} seeds with the quartiles; the
instruction that all begin with has {loss(date_rewriting.SEED):.3f}. Replies of the optimizer and CPU seconds are those
of the longest runs. Conditions: the docstring of `bench/prompt_search.py`.
"""
    columns = [name for name in rows[0] if not name.startswith("each")]
    write("prompt_search", "Text searches on a simulated model", columns, rows, ["blackbox-engine", "numpy"], note)


if __name__ == "__main__":
    main()
