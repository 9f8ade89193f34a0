"""Evolve a policy: a task, a method, a seed; with a log, checkpoints, a picture of the policy and its learning curve.

    python examples/neuroevolution.py --task cartpole --method deep-ga --seed 0
    python examples/neuroevolution.py --task maze --method novelty-search --popsize 256 --sigma 0.05
    python examples/neuroevolution.py --task gymnax:Asterix-MinAtar --method eggroll --hidden 64 --generations 300
    python examples/neuroevolution.py --task cartpole --method evosax:SNES --log tensorboard

In a folder of the run's own are ``log.csv``, ``checkpoint``, ``policy``, ``episode.gif`` and ``curve.png``. A run that
was killed goes on with ``--resume``, and ends with the same bits as one that was not.
"""

import csv
import inspect
import time
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer
from jax.flatten_util import ravel_pytree
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import blackbox as bb
from blackbox.problems.environments import Brax, ClassicControl, Gymnax
from blackbox.problems.episodes import Play, episode_keys, held_out_keys, last_observation, recorded
from blackbox.problems.maze import Maze
from blackbox.problems.normalizer import Normalizer, fresh, merge
from blackbox.problems.policies import MLP

# ---- tasks


class Task(NamedTuple):
    """What is played, and when it is solved."""

    env: Any
    level: float = float("inf")
    """Mean return over held-out episodes from which on the task is solved."""
    sigma: float = 0.5
    """A good size of perturbations of its policies' weights."""
    episodes: int = 4
    """Of each candidate in a generation."""
    behaviour: Any = last_observation
    """What novelty is about."""
    is_normalized: bool = False
    """Whether observations are brought to one size; those of classic control are so."""


class GymnasiumPlay:
    """Episodes of gymnasium's own environments, in copies that are stepped together."""

    def __init__(self, name: str, hidden: tuple[int, ...]) -> None:
        from blackbox.problems.gymnasium_episodes import Copies

        self._copies = lambda number: Copies(name, number)
        self._open: dict[int, Copies] = {}
        env = self._of(1)
        self.observation_shape, self.action = env.observation_shape, env.action
        self.policy = MLP((int(np.prod(env.observation_shape)), *hidden, env.action.outputs))

    def _of(self, number: int) -> Any:
        if number not in self._open:
            self._open[number] = self._copies(number)
        return self._open[number]

    def __call__(self, params: Any, keys: Any, normalizer: Any = None) -> Any:
        raise TypeError("gymnasium plays whole populations: see of_population")

    def of_population(self, population: Any, keys: Any, normalizer: Any = None) -> Any:
        members = population.stacked() if hasattr(population, "stacked") else population
        rows = [np.asarray(x).reshape(len(population), -1) for x in jax.tree.leaves(members)]
        copies = self._of(len(population) * len(keys))
        return copies.play(self.policy.outputs, np.concatenate(rows, 1), np.asarray(keys), normalizer=normalizer)


TASKS = {
    "cartpole": Task(ClassicControl("CartPole-v1"), 475),
    "acrobot": Task(ClassicControl("Acrobot-v1"), -100),
    "mountain-car": Task(ClassicControl("MountainCarContinuous-v0"), 90),
    "pendulum": Task(ClassicControl("Pendulum-v1"), -200, episodes=16),
    "maze": Task(Maze(), -10, 0.05, 1, lambda robot, _: jnp.stack([robot.x, robot.y])),
}


OTHERS = "gymnax:NAME, brax:NAME, gymnasium:NAME"


def task_of(name: str) -> Task:
    """A task by its name; those of gymnax, brax and gymnasium are played with normalized observations."""
    kind, _, inner = name.partition(":")
    if kind == "gymnax":
        env = Gymnax(inner)
        return Task(env, is_normalized=len(env.observation_shape) < 3)
    if kind == "brax":
        return Task(Brax(inner), sigma=0.1, episodes=1, is_normalized=True)
    if kind == "gymnasium":
        return Task(inner, is_normalized=True)
    if name not in TASKS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(TASKS)}, {OTHERS}")
    return TASKS[name]


# ---- methods


def method_of(name: str, popsize: int, sigma: float, generations: int, lr: float | None, behaviour: int) -> Any:
    """A strategy for small networks by its registered name, evosax's and nevergrad's included."""
    if name == "deep-ga":
        parents = max(2, popsize // 8)
        return bb.ga.DeepGA(popsize=popsize, truncation=parents, sigma=sigma, n_candidates=5, generations=generations)
    if name == "eggroll":
        descent = optax.sgd(0.3 if lr is None else lr, momentum=0.9)
        return bb.es.Eggroll(popsize=popsize, sigma=sigma, shaping="z-score", optimizer=descent)
    settings: dict[str, Any] = {"popsize": popsize}
    if name == "novelty-search":
        settings |= {"parents": popsize // 8, "dimensions": behaviour, "insertion": 0.02, "sigma0": 1.0}
    if name == "ns-es":
        settings |= {"dimensions": behaviour}
    known = {field.name for field in fields(type(bb.create(name)))}
    settings |= {("sigma" if "sigma" in known else "sigma0"): sigma} if known & {"sigma", "sigma0"} else {}
    return bb.create(name, **settings, **({"lr": lr} if lr is not None and "lr" in known else {}))


def is_virtual(strategy: Any) -> bool:
    """Whether it takes a tree of parameters; others take one vector."""
    return getattr(strategy, "virtual", False)


def programs_of(strategy: Any) -> dict[str, Any]:
    """Its functions, compiled if they are array programs."""
    names = ("ask", "tell", "candidates", "tell_candidates", "recommend")
    known = {name: getattr(strategy, name) for name in names if hasattr(strategy, name)}
    return {name: jax.jit(f) for name, f in known.items()} if getattr(strategy, "pure", True) else known


# ---- runs


class Counts(NamedTuple):
    """What a run has spent, and how good it is."""

    generation: Any
    evaluations: Any
    """Of candidates in generations."""
    episodes: Any
    """Of candidates in generations, and of those that are validated; not held-out ones."""
    steps: Any
    best: Any
    """Best held-out mean return so far."""
    since: Any
    """Generations since then."""


class Run(NamedTuple):
    """All of a run that a checkpoint keeps."""

    state: Any
    normalizer: Any
    counts: Counts


class Row(NamedTuple):
    """A line of the log: one generation."""

    generation: int
    evaluations: int
    episodes: int
    steps: int
    seconds: float
    lowest: float
    """Of the members' mean returns; then their quartiles."""
    quarter: float
    median: float
    three_quarters: float
    highest: float
    held_out: float
    """Mean return of the recommended policy in episodes that no generation plays."""


@dataclass
class Trainer:
    """One run, generation by generation."""

    task: Task
    play: Any
    strategy: Any
    seed: int
    tested: int = 32
    """Episodes of a test."""
    validated: int = 8
    """Episodes of each of Deep GA's candidates for the elite."""

    def __post_init__(self) -> None:
        self.key = bb.key(self.seed)
        self.params = self.play.policy.init(bb.fold(self.key, 1))
        self.first = self.params if is_virtual(self.strategy) else ravel_pytree(self.params)[0]
        self.programs = programs_of(self.strategy)
        self.is_told_behaviours = "descriptors" in inspect.signature(self.strategy.tell).parameters
        self.shape = getattr(self.task.env, "observation_shape", None) or self.play.observation_shape

    def begin(self) -> Run:
        normalizer = fresh(self.shape) if self.task.is_normalized else None
        zero = np.int64(0)
        counts = Counts(zero, zero, zero, zero, np.float64(-np.inf), zero)
        return Run(self.strategy.init(bb.fold(self.key, 2), self.first), normalizer, counts)

    def generation(self, run: Run) -> tuple[Run, Any, float]:
        """The next generation: what the run is then, the members' episodes, and the mean return of held-out ones."""
        state, normalizer, counts = run
        at = int(counts.generation)
        programs = self.programs
        population = programs["ask"](state)
        played = self._played(population, episode_keys(self.key, at, self.task.episodes), normalizer)
        returns = np.asarray(played.returns).mean(axis=1)
        behaviours = (jnp.asarray(played.behaviour[:, 0], jnp.float32),) if self.is_told_behaviours else ()
        state = programs["tell"](state, population, jnp.asarray(-returns, jnp.float32), *behaviours)
        spent = [played]
        if "candidates" in programs:
            candidates = programs["candidates"](state)
            keys = episode_keys(bb.fold(self.key, 3), at, self.validated)
            spent.append(self._played(candidates, keys, normalizer))
            state = programs["tell_candidates"](state, candidates, -spent[-1].returns)
        if normalizer is not None:
            normalizer = jax.tree.map(np.asarray, merge(normalizer, played.moments))
        score = self.score(Run(state, normalizer, counts))
        is_better = score > float(counts.best)
        counts = Counts(
            counts.generation + 1,
            counts.evaluations + len(returns),
            counts.episodes + sum(x.returns.size for x in spent),
            counts.steps + sum(int(np.asarray(x.steps).sum()) for x in spent),
            np.float64(max(score, counts.best)),
            np.int64(0) if is_better else counts.since + 1,
        )
        return Run(state, normalizer, counts), played, score

    def policy(self, run: Run) -> Any:
        """What the run recommends."""
        return self.programs["recommend"](run.state)

    def score(self, run: Run, episodes: int | None = None) -> float:
        """Mean return of that in held-out episodes, or in a number of others for a test at the end."""
        keys = (
            held_out_keys(self.key, self.tested) if episodes is None else held_out_keys(bb.fold(self.key, 4), episodes)
        )
        one = ravel_pytree(self.policy(run))[0][None]
        return float(np.asarray(self._played(one, keys, run.normalizer).returns).mean())

    def _played(self, population: Any, keys: Any, normalizer: Normalizer | None) -> Any:
        return bb.evaluate(self.play, population, keys, *(() if normalizer is None else (normalizer,)))

    # Deep GA's state is mostly sums of noise, which its seeds say as well.

    def save(self, file: Path, run: Run) -> None:
        if isinstance(self.strategy, bb.ga.DeepGA):
            run = run._replace(state=bb.ga.compact(self.strategy, run.state))
        bb.save(file, run)

    def load(self, file: Path) -> Run:
        if not isinstance(self.strategy, bb.ga.DeepGA):
            return bb.load(file, self.begin())
        run = bb.load(file, self.begin()._replace(state=b""))
        return run._replace(state=bb.ga.restore(self.strategy, run.state, self.params))


def trainer(
    name: str,
    method: str,
    seed: int = 0,
    *,
    popsize: int = 64,
    sigma: float | None = None,
    lr: float | None = None,
    episodes: int | None = None,
    hidden: tuple[int, ...] = (16,),
    generations: int = 1000,
) -> Trainer:
    """A run by the names of its task and its method."""
    task = task_of(name)
    task = task._replace(episodes=episodes or task.episodes, sigma=sigma or task.sigma)
    if isinstance(task.env, str):
        play: Any = GymnasiumPlay(task.env, hidden)
    else:
        inputs = int(np.prod(task.env.observation_shape))
        play = Play(task.env, MLP((inputs, *hidden, task.env.action.outputs)))
    behaviour = 0
    if method in ("novelty-search", "ns-es"):
        play = play if isinstance(task.env, str) else Play(play.env, play.policy, behaviour=task.behaviour)
        seen = play if isinstance(task.env, str) else task.env
        behaviour = 2 if name == "maze" else int(np.prod(seen.observation_shape))
    return Trainer(task, play, method_of(method, popsize, task.sigma, generations, lr, behaviour), seed)


# ---- what a run writes


class Log:
    """A line for each generation, in a CSV file and for TensorBoard, if asked for."""

    def __init__(self, folder: Path, is_tensorboard: bool, kept: int) -> None:
        self.file = folder / "log.csv"
        rows = read_log(self.file)[:kept] if kept else []  # what was written after the checkpoint comes again
        self.begun = rows[-1].seconds if rows else 0.0
        with self.file.open("w", newline="") as file:
            csv.writer(file).writerows([Row._fields, *rows])
        self.board = None
        if is_tensorboard:
            from tensorboardX import SummaryWriter

            self.board = SummaryWriter(str(folder), purge_step=kept)

    def write(self, row: Row) -> None:
        with self.file.open("a", newline="") as file:
            csv.writer(file).writerow(row)
        if self.board is not None:
            for name in ("median", "highest", "held_out"):
                self.board.add_scalar(f"return/{name}", getattr(row, name), row.generation)
            self.board.flush()


def read_log(file: Path) -> list[Row]:
    with file.open(newline="") as lines:
        rows = list(csv.reader(lines))[1:]
    return [Row(*(int(x) for x in row[:4]), *(float(x) for x in row[4:])) for row in rows]


def draw_curve(rows: list[Row], title: str, level: float, file: Path) -> None:
    """Returns over evaluations: quartiles and extremes of the population, and held-out episodes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes: Any = figure.subplots()
    x = [row.evaluations for row in rows]
    axes.fill_between(x, [r.lowest for r in rows], [r.highest for r in rows], color="#0072B2", alpha=0.15, linewidth=0)
    middle = [r.quarter for r in rows], [r.three_quarters for r in rows]
    axes.fill_between(x, *middle, color="#0072B2", alpha=0.3, linewidth=0)
    axes.plot(x, [r.median for r in rows], color="#0072B2", label="population: median, quartiles, extremes")
    axes.plot(x, [r.held_out for r in rows], color="#D55E00", label="recommended policy, held-out episodes", marker=".")
    if np.isfinite(level):
        axes.axhline(level, color="#555555", linestyle=":", label="solved")
    axes.set(title=title, xlabel="evaluations", ylabel="mean return")
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=120)


def draw_episode(run: Run, trained: Trainer, folder: Path) -> str:
    """The recommended policy in one unseen episode, as a film or, for brax, as a page."""
    from blackbox.problems import pictures

    env, params = trained.task.env, ravel_pytree(trained.policy(run))[0]
    key = held_out_keys(bb.fold(trained.key, 5), 1)[0]
    seen = recorded(env, trained.play.policy, params, key, normalizer=run.normalizer)
    if isinstance(env, Brax):
        pictures.page(env, seen, folder / "episode.html")
        return "episode.html"
    pictures.film(env, seen, folder / "episode.gif")
    return "episode.gif"


class Logging(StrEnum):
    """Where to."""

    csv = "csv"
    tensorboard = "tensorboard"


def main(
    task: Annotated[
        str, typer.Option(help=f"{', '.join(TASKS)}, gymnax:NAME, brax:NAME or gymnasium:NAME")
    ] = "cartpole",
    method: Annotated[str, typer.Option(help="A method of bb.methods(), evosax:NAME or nevergrad:NAME")] = "deep-ga",
    seed: int = 0,
    popsize: int = 64,
    sigma: Annotated[float | None, typer.Option(help="Of perturbations; the task's by default")] = None,
    lr: Annotated[float | None, typer.Option(help="Of methods that have a learning rate")] = None,
    episodes: Annotated[int | None, typer.Option(help="Of each candidate; the task's by default")] = None,
    hidden: Annotated[str, typer.Option(help="Widths of the policy's hidden layers, such as 64,64")] = "16",
    generations: Annotated[int, typer.Option(help="At most so many")] = 200,
    stop_at: Annotated[
        float | None, typer.Option(help="Held-out mean return to stop at; the task's by default")
    ] = None,
    patience: Annotated[int, typer.Option(help="Generations without a better held-out return to stop after")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/TASK-METHOD-SEED by default")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the folder's checkpoint")] = False,
    every: Annotated[int, typer.Option(help="Generations between checkpoints")] = 1,
    log: Annotated[Logging, typer.Option(help="TensorBoard's has log.csv, too")] = Logging.csv,
    pictures: Annotated[bool, typer.Option(help="Draw the policy and the learning curve at the end")] = True,
) -> None:
    """Evolve a policy."""
    folder = out or Path("runs") / f"{task}-{method}-{seed}".replace(":", "-")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint"
    widths = tuple(int(width) for width in hidden.split(",") if width)
    trained = trainer(
        task, method, seed,
        popsize=popsize, sigma=sigma, lr=lr, episodes=episodes, hidden=widths, generations=generations,
    )  # fmt: skip
    level = trained.task.level if stop_at is None else stop_at
    run = trained.load(checkpoint) if resume and checkpoint.exists() else trained.begin()
    lines = Log(folder, log == "tensorboard", int(run.counts.generation))
    begun = time.perf_counter() - lines.begun
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task(f"{task}, {method}", total=generations, completed=int(run.counts.generation))
        while run.counts.generation < generations and run.counts.best < level and run.counts.since < patience:
            run, played, score = trained.generation(run)
            returns = np.asarray(played.returns).mean(axis=1)
            seconds = round(time.perf_counter() - begun, 3)
            spent = (int(x) for x in run.counts[:4])
            lines.write(Row(*spent, seconds, *(float(x) for x in np.quantile(returns, np.linspace(0, 1, 5))), score))
            if run.counts.generation % every == 0:
                trained.save(checkpoint, run)
            said = (
                f"{task}, {method}: median {np.median(returns):.1f}, held-out {score:.1f}, best {run.counts.best:.1f}"
            )
            progress.update(bar, advance=1, description=said)
    trained.save(checkpoint, run)
    bb.save(folder / "policy", {"params": trained.policy(run), "normalizer": run.normalizer})
    drawn = []
    if pictures:
        if not isinstance(trained.task.env, str):
            drawn.append(draw_episode(run, trained, folder))
        draw_curve(read_log(lines.file), f"{task}, {method}, seed {seed}", level, folder / "curve.png")
        drawn.append("curve.png")
    verdict = "solved" if run.counts.best >= level else "ended"
    spent = f"{run.counts.evaluations} evaluations ({run.counts.episodes} episodes, {run.counts.steps} steps)"
    print(f"{task} {verdict} by {method} after {spent}; in {folder}: {', '.join(['log.csv', 'policy', *drawn])}")
    print(f"mean return in 200 unseen episodes: {trained.score(run, 200):.1f}")


if __name__ == "__main__":
    typer.run(main)
