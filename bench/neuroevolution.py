"""Neuroevolution: evaluations and seconds until control tasks are solved, beside evosax; and the deceptive maze.

    python bench/neuroevolution.py control      some 20 minutes on one core; writes results/neuroevolution.md
    python bench/neuroevolution.py maze         some 20 minutes; writes results/neuroevolution_maze.md and .png
    python bench/neuroevolution.py control --tasks pendulum --methods deep-ga eggroll --seeds 0-1

Control: a network obs-16-act with tanh, 64 candidates in a generation, all in the same episodes (4; Pendulum 16), which
change from generation to generation. After each generation the recommended policy plays 32 held-out episodes; the task
is solved when their mean return is at its level. Ours is ``examples/neuroevolution.py`` as it is. evosax evaluates by
its own ``GymnaxProblem``, observations normalized, the best of the generation for SimpleGA and the mean for the others;
actions are the largest output, or tanh of the output times the largest force. Its settings were chosen by hand: initial
deviations of 0.5 (CMA_ES, SNES) and 0.1 (Open_ES with Adam of 0.05, SimpleGA).

Seconds are CPU time of one core, of all seeds one after the other in one process; "start" is that of two generations
of another seed before them, in which all is compiled. The tests of evosax are outside its clock, those of ours inside.
An evaluation is all training episodes of one candidate; Deep GA's candidates for the elite come in addition, under
"episodes".

Maze: what selects novelty against what selects reward, 256 candidates, at most 150 generations, an episode each.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})

import argparse
import inspect
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from record import RESULTS, write

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))  # whose script of this name is what is measured
from neuroevolution import TASKS, Trainer, trainer

from blackbox.problems.episodes import Play

GYMNAX = {
    "cartpole": "CartPole-v1",
    "acrobot": "Acrobot-v1",
    "mountain-car": "MountainCarContinuous-v0",
    "pendulum": "Pendulum-v1",
}
FORCE = {"mountain-car": 1.0, "pendulum": 2.0}
OURS = ("deep-ga", "eggroll", "cma-es")
EVOSAX = ("evosax CMA_ES", "evosax Open_ES", "evosax SNES", "evosax SimpleGA")
POPSIZE, TESTED, MOST = 64, 32, 25_600
WARM = 1000  # the seed of two generations in which all is compiled


class Generation(NamedTuple):
    """What a run has come to."""

    evaluations: int
    episodes: int
    seconds: float
    score: float


def ours(method: str, name: str) -> Any:
    """Runs of ours by seed; what is compiled for one serves the next."""
    made: dict[str, Trainer] = {}

    def run(seed: int) -> Iterator[Generation]:
        begun = time.process_time()
        trained = trainer(name, method, seed, popsize=POPSIZE)
        if made:
            trained.programs = made["first"].programs
        made.setdefault("first", trained)
        state = trained.begin()
        while True:
            state, _, score = trained.generation(state)
            counts = state.counts
            yield Generation(int(counts.evaluations), int(counts.episodes), time.process_time() - begun, score)

    return run


def evosax(method: str, name: str) -> Any:
    """Runs of evosax by seed."""
    import evosax.algorithms as algorithms
    from evosax.problems import GymnaxProblem
    from evosax.problems.networks import MLP

    force = FORCE.get(name)

    def act(outputs: Any, key: Any) -> Any:
        return jnp.argmax(outputs) if force is None else force * jnp.tanh(outputs)

    outputs = 1 if force is not None else {"cartpole": 2, "acrobot": 3}[name]
    network = MLP(layer_sizes=(16, outputs), output_fn=act)
    train = GymnaxProblem(GYMNAX[name], network, num_rollouts=TASKS[name].episodes)
    test = GymnaxProblem(GYMNAX[name], network, num_rollouts=TESTED)
    solution = train.sample(jax.random.key(0))
    cls = getattr(algorithms, method.removeprefix("evosax "))
    is_founded = cls.__name__ == "SimpleGA"
    options: dict[str, Any] = {"Open_ES": {"optimizer": optax.adam(0.05)}}.get(cls.__name__, {})
    std = 0.5 if cls.__name__ in ("CMA_ES", "SNES") else 0.1
    if "std_schedule" in inspect.signature(cls).parameters:
        options["std_schedule"] = optax.constant_schedule(std)
    strategy = cls(population_size=POPSIZE, solution=solution, **options)
    params = strategy.default_params
    params = params.replace(std_init=std) if hasattr(params, "std_init") else params

    @jax.jit
    def generation(key: Any, state: Any, problem: Any) -> Any:
        ask, play, tell = jax.random.split(key, 3)
        population, state = strategy.ask(ask, state, params)
        returns, problem, _ = train.eval(play, population, problem)
        state, _ = strategy.tell(tell, population, -returns, state, params)
        best = jax.tree.map(lambda x: x[jnp.argmax(returns)], population)
        return state, problem, best if is_founded else strategy.get_mean(state)

    score = jax.jit(lambda key, one, problem: test.eval(key, jax.tree.map(lambda x: x[None], one), problem)[0][0])

    def run(seed: int) -> Iterator[Generation]:
        begun, spent, key = time.process_time(), 0.0, jax.random.key(seed)
        problem = train.init(jax.random.fold_in(key, 1))
        evaluations = 0
        if is_founded:
            keys = jax.random.split(jax.random.fold_in(key, 4), POPSIZE)
            founders = jax.vmap(train.sample)(keys)
            returns, problem, _ = train.eval(jax.random.fold_in(key, 3), founders, problem)
            state = strategy.init(jax.random.fold_in(key, 2), founders, -returns, params)
            evaluations = POPSIZE
        else:
            state = strategy.init(jax.random.fold_in(key, 2), train.sample(jax.random.fold_in(key, 4)), params)
        at = 0
        while True:
            at += 1
            state, problem, one = jax.block_until_ready(generation(jax.random.fold_in(key, 10 + at), state, problem))
            spent += time.process_time() - begun
            evaluations += POPSIZE
            episodes = evaluations * TASKS[name].episodes
            yield Generation(evaluations, episodes, spent, float(score(jax.random.fold_in(key, 5), one, problem)))
            begun = time.process_time()

    return run


def control(tasks: list[str], methods: list[str], seeds: range, cache: Path) -> None:
    kept = json.loads(cache.read_text()) if cache.exists() else {}
    for name in tasks:
        for method in methods:
            if f"{name}|{method}|{seeds}" in kept:
                continue
            begun = time.process_time()
            run = (evosax if method in EVOSAX else ours)(method, name)
            warm = run(WARM)
            next(warm), next(warm)
            start, found = time.process_time() - begun, []
            for seed in seeds:
                for now in run(seed):
                    is_solved = now.score >= TASKS[name].level
                    if is_solved or now.evaluations >= MOST:
                        break
                found.append([is_solved, *now])
                print(name, method, seed, found[-1], round(start, 2), flush=True)
            kept[f"{name}|{method}|{seeds}"] = [start, found]
            cache.write_text(json.dumps(kept))
    rows = []
    for name in tasks:
        for method in methods:
            start, found = kept[f"{name}|{method}|{seeds}"]
            solved, evaluations, episodes, seconds, _ = (np.array(x, float) for x in zip(*found, strict=True))
            by_seed = [f"{'' if s else '> '}{int(e):,}" for s, e in zip(solved, evaluations, strict=True)]
            rows.append(
                {
                    "task": name,
                    "method": method if method in EVOSAX else f"blackbox {method}",
                    "solved": f"{int(solved.sum())} of {len(seeds)}",
                    "evaluations, median": f"{np.median(evaluations):,.0f}",
                    "by seed": ", ".join(by_seed),
                    "episodes, median": f"{np.median(episodes):,.0f}",
                    "search, CPU s": f"{np.median(seconds):.3f}",
                    "start, CPU s": f"{start:.1f}",
                    "first solution, CPU s": f"{start + np.median(seconds):.1f}",
                }
            )
    note = __doc__.split("Control: ")[1].split("\n\nMaze")[0].replace("\n", " ").replace("  ", "\n\n")
    packages = ["jax", "evosax", "gymnax", "numpy"]
    write("neuroevolution", "Control tasks by neuroevolution", list(rows[0]), rows, packages, note)


MAZE = {"novelty-search": "novelty", "deep-ga": "reward", "eggroll": "reward", "cma-es": "reward"}
"""Methods, and what they select by."""
LONGEST = 150  # generations


def maze(methods: list[str], seeds: range) -> None:
    """Who arrives, and where everybody ends."""
    env, level = TASKS["maze"].env, TASKS["maze"].level
    rows, ends = [], {}
    for method in methods:
        runs, places = [], []
        for seed in seeds:
            begun = time.process_time()
            trained = trainer("maze", method, seed, popsize=256, hidden=(16, 16))
            trained.play = Play(env, trained.play.policy, behaviour=trained.task.behaviour)
            trained.tested = trained.validated = 1  # the maze has no luck
            run, own = trained.begin(), []
            while run.counts.generation < LONGEST and run.counts.best < level:
                run, played, _ = trained.generation(run)
                own.append(np.asarray(played.behaviour)[:, 0])
            visited = len(np.unique(np.concatenate(own) // 10, axis=0))
            counts = run.counts
            runs.append((counts.best >= level, counts.evaluations, visited, -counts.best, time.process_time() - begun))
            print(method, seed, [round(float(x), 1) for x in runs[-1]], flush=True)
            places += own
        solved, evaluations, visited, nearest, seconds = np.array(runs, float).T
        ends[method] = np.concatenate(places)
        rows.append(
            {
                "method": f"blackbox {method}",
                "selects": MAZE[method],
                "solved": f"{int(solved.sum())} of {len(seeds)}",
                "evaluations, median": f"{np.median(evaluations):,.0f}",
                "by seed": ", ".join(f"{int(e):,}" if s else "–" for s, e in zip(solved, evaluations, strict=True)),
                "cells of 10 x 10 visited, median": f"{np.median(visited):.0f}",
                "distance of the best from the goal, median": f"{np.median(nearest):.1f}",
                "CPU s, median": f"{np.median(seconds):.0f}",
            }
        )
    draw(env, ends, RESULTS / "neuroevolution_maze.png")
    note = (
        "Networks 11-16-16-2, 256 candidates a generation, at most 150 generations; weights begin with a deviation of "
        "1 / sqrt(inputs) and are perturbed by 0.05, the task's setting. Novelty: distance of the ends from those of "
        "the 25 nearest among the generation and an archive of 2 % of all. A run arrives when its recommendation ends "
        "within 10 units of the goal. Every dot of the picture is the end of one episode.\n\n"
        "![Ends of episodes](neuroevolution_maze.png)"
    )
    write("neuroevolution_maze", "The deceptive maze", list(rows[0]), rows, ["jax", "numpy"], note)


def draw(env: Any, ends: dict[str, np.ndarray], file: Path) -> None:
    from matplotlib.figure import Figure

    width, height = env.size
    columns = min(2, len(ends))
    lines = -(-len(ends) // columns)
    figure = Figure(figsize=(5 * columns, 3.1 * lines), layout="constrained")
    for axes, (method, places) in zip(np.ravel(figure.subplots(lines, columns)), ends.items(), strict=True):
        axes.imshow(env.walls, cmap="Greys", vmax=1.5, extent=(0.0, width, height, 0.0), interpolation="nearest")
        axes.plot(*places.T, ",", color="#0072B2", alpha=0.5)
        axes.plot(*env.start, "o", color="#009E73", markersize=8)
        axes.plot(*env.goal, "*", color="#D55E00", markersize=12)
        axes.set_title(f"{method}, by {MAZE[method]}", fontsize=10)
        axes.set_axis_off()
    figure.savefig(file, dpi=120)


def numbers(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("control", "maze"))
    parser.add_argument("--tasks", nargs="+", default=list(GYMNAX), choices=list(GYMNAX))
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--seeds")
    parser.add_argument("--cache", type=Path, default=Path("neuroevolution-runs.json"))
    arguments = parser.parse_args()
    if arguments.part == "maze":
        maze(arguments.methods or list(MAZE), numbers(arguments.seeds or "0-9"))
    else:
        methods = arguments.methods or [*OURS, *EVOSAX]
        control(arguments.tasks, methods, numbers(arguments.seeds or "0-4"), arguments.cache)


if __name__ == "__main__":
    main()
