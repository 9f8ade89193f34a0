"""A network with 81 weights learns to swing a pendulum up and to hold it there, knowing only the return of whole
episodes. Simulation, network and CMA-ES are one compiled JAX program."""

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
TASK = JaxControl("Pendulum-v1", hidden=(16,), episodes=16)
UNSEEN = JaxControl("Pendulum-v1", hidden=(16,), episodes=100, seed=1)
POPSIZE, GENERATIONS = 128, 200


def run(console: Console, folder: Path) -> tuple[Table, Path]:
    """The table of returns before and after, and the picture of learning."""
    strategy = bb.create("cma-es", popsize=POPSIZE, sigma0=1.0)
    start = jnp.zeros(TASK.dimension)
    with Progress(console=console) as progress:
        bar = progress.add_task("compiling", total=GENERATIONS)
        state, history = bb.run(
            strategy, TASK, start, key=bb.key(0), generations=GENERATIONS,
            callback=lambda generation, best: progress.update(
                bar, completed=generation + 1, description=f"best return {-float(best):5.0f}"
            ),
        )  # fmt: skip
    returns = -np.asarray(history.quantiles)[:, ::-1]  # worst to best
    done = int(np.isfinite(returns).all(axis=1).sum())  # generations before the strategy stopped by itself
    episodes = TASK.episodes * POPSIZE * np.arange(1, done + 1)
    table = Table(
        title=f"Pendulum: mean return of an episode, at most 0 ({episodes[-1]:,} played)", title_justify="left"
    )
    table.add_column("network")
    table.add_column("episodes of the search", justify="right")
    table.add_column("100 unseen episodes", justify="right")
    for name, weights in (("all weights zero", start), ("evolved", strategy.recommend(state))):
        table.add_row(name, f"{-float(TASK(weights)):.0f}", f"{-float(UNSEEN(weights)):.0f}")
    steps = int(history.evaluations) * TASK.episodes * 200 / history.seconds
    table.caption = f"{steps / 1e6:.1f} million simulated steps per second, compilation included"
    title, label = "A network learns to swing up a pendulum", "mean return of an episode (minus squared error)"
    return table, plots.learning(episodes, returns[:done], title, label, folder)
