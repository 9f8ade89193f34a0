"""A network with 114 weights learns to balance a pole on a cart, knowing only how long the pole stood in whole
episodes. Simulation, network and PGPE are one compiled JAX program."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import plots
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import blackbox as bb
from blackbox.problems.control import JaxControl

TITLE = "neuroevolution"
TASK = JaxControl("CartPole-v1", hidden=(16,), episodes=16)
UNSEEN = JaxControl("CartPole-v1", hidden=(16,), episodes=100, seed=1)
POPSIZE, GENERATIONS, STEPS = 64, 60, 500


def run(console: Console, folder: Path) -> tuple[Table, Path]:
    """The table of returns before and after, and the picture of learning."""
    strategy = bb.create("pgpe", popsize=POPSIZE)
    start = jnp.zeros(TASK.dimension)
    with Progress(console=console) as progress:
        bar = progress.add_task("compiling", total=GENERATIONS)
        state, history = bb.run(
            strategy, TASK, start, key=bb.key(0), generations=GENERATIONS,
            callback=lambda generation, best: progress.update(
                bar, completed=generation + 1, description=f"best return {-float(best):.0f}"
            ),
        )  # fmt: skip
    returns = -np.asarray(history.quantiles)[:, ::-1]  # worst to best
    episodes = TASK.episodes * POPSIZE * np.arange(1, GENERATIONS + 1)
    heading = f"CartPole: mean steps balanced, of {STEPS}; {episodes[-1]:,} episodes in {history.seconds:.1f} s"
    table = Table(title=heading)
    table.add_column("network")
    table.add_column("episodes of the search", justify="right")
    table.add_column("100 unseen episodes", justify="right")
    for name, weights in (("all weights zero", start), ("evolved", strategy.recommend(state))):
        table.add_row(name, f"{-float(TASK(weights)):.0f}", f"{-float(UNSEEN(weights)):.0f}")
    title, label = "A network learns to balance a pole", "mean return of an episode (steps)"
    return table, plots.learning(episodes, returns, STEPS, title, label, folder)
