"""Policies by evolution: EGGROLL against Open_ES and PGPE of evosax, episodes and seconds until a task is solved.

    python bench/policies.py tune        settings of each method, written to bench/results/policies-tuning.json
    python bench/policies.py run         the comparison with these settings; writes bench/results/policies.md
    python bench/policies.py report      the table again, from what was run

They take ``--tasks`` and ``--methods`` and keep the results of those that they were not asked for. The brax task needs
``pip install brax`` and is left out without it.

The same for all methods: the network (layer normalization and ReLU, as in the paper on EGGROLL), its first weights,
the population's size, and what is searched. Each generation has new episodes, one a member. As EGGROLL has it, both
members of a mirrored pair play the same one. evosax is run in two ways: as its own problems (``GymnaxProblem``,
``BraxProblem``) evaluate, where one episode is played by all members of a generation, and with an episode for each pair
as EGGROLL ("pairs' episodes"). After each generation the mean policy plays held-out episodes, outside the clock; the
task is solved when their mean return is at the level below. One generation is one compiled program (ask, all episodes,
tell), which a Python loop calls. evosax's populations are evaluated a few members at a time (``Task.chunk``), which is
up to 7 times as fast here as all at once, as its documentation does it. An evaluation is one episode.

Tuning: the same grid for all methods of sigma, Adam's learning rate and shaping, and each method's own defaults as they
are, on seeds of their own; what solves with the fewest evaluations is taken. A setting is given up once it cannot be
the best, or at the first seed with which the task is not solved; where this befalls all, the last to be given up is
taken.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})

import argparse
import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from evosax.algorithms import PGPE, Open_ES
from evosax.core.fitness_shaping import centered_rank_fitness_shaping_fn, standardize_fitness_shaping_fn
from record import RESULTS, write

import blackbox as bb
from blackbox.problems.control import JaxControl

TUNING_SEEDS = range(100, 108)
TUNED, RAN = RESULTS / "policies-tuning.json", RESULTS / "policies-runs.json"


# ---- tasks


class Game(Protocol):
    """What is played, by a network whose layers are a list of (matrix, bias)."""

    hidden: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of all layers."""

    def cost(self, layers: Any, start: Any) -> Any:
        """Minus the return of the episode that begins so."""

    def starts(self, seed: int, generation: int, pairs: int) -> Any:
        """One episode for each pair."""

    def held_out(self, layers: Any) -> Any:
        """Minus the mean return over episodes of a test."""


def network(layers: Any, x: Any) -> Any:
    *hidden, (matrix, bias) = layers
    for weights, offset in hidden:
        x = jax.nn.relu(jax.nn.standardize(x @ weights + offset))
    return x @ matrix + bias


def first_weights(sizes: Sequence[int], seed: int) -> Any:
    """Normal, of variance one over the inputs."""
    rng = np.random.default_rng(seed)
    return [
        (jnp.asarray(rng.standard_normal(shape) / math.sqrt(shape[0]), jnp.float32), jnp.zeros(shape[1]))
        for shape in itertools.pairwise(sizes)
    ]


@dataclass(frozen=True)
class Classic:
    """A task of gymnasium, as a JAX program."""

    env: str
    hidden: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        return self._task.policy.sizes

    @cached_property
    def _task(self) -> JaxControl:
        return JaxControl(self.env, self.hidden)

    def cost(self, layers: Any, start: Any) -> Any:
        return self._task.cost(partial(network, layers), start)

    def starts(self, seed: int, generation: int, pairs: int) -> Any:
        return jnp.asarray(JaxControl(self.env, episodes=pairs, seed=seed).starts(generation), jnp.float32)

    def held_out(self, layers: Any) -> Any:
        return self._task.test_score(partial(network, layers))


@dataclass(frozen=True)
class Brax:
    """A task of brax; an episode is known by the key that it is reset with."""

    env: str
    hidden: tuple[int, ...]
    backend: str
    steps: int

    @cached_property
    def _env(self) -> Any:
        from brax import envs

        return envs.get_environment(self.env, backend=self.backend)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self._env.observation_size, *self.hidden, self._env.action_size

    def cost(self, layers: Any, start: Any) -> Any:
        def is_running(carry: Any) -> Any:
            moment, state, _ = carry
            return (moment < self.steps) & (state.done == 0)

        def advance(carry: Any) -> Any:
            moment, state, total = carry
            state = self._env.step(state, jnp.tanh(network(layers, state.obs)))
            return moment + 1, state, total + state.reward

        begin = (jnp.asarray(0), self._env.reset(start), jnp.zeros(()))
        return -jax.lax.while_loop(is_running, advance, begin)[2]

    def starts(self, seed: int, generation: int, pairs: int) -> Any:
        return jnp.asarray(np.random.SeedSequence((seed, generation)).generate_state(pairs * 2).reshape(pairs, 2))

    def held_out(self, layers: Any) -> Any:
        return jax.vmap(partial(self.cost, layers))(self.starts(2**31, 0, 50)).mean()


class Task(NamedTuple):
    game: Game
    popsize: int
    solved: float
    """Mean return over held-out episodes."""
    generations: int
    """After which a run counts as failed."""
    chunk: int
    """Members that evosax's methods evaluate at once, what is fastest: the weights of a few stay in the cache."""
    like: str | None = None
    """Task whose settings are used, where tuning would take hours."""
    seeds: int = 10


TASKS = {
    "CartPole-v1": Task(Classic("CartPole-v1", (128, 128)), 128, 475.0, 60, 16),
    "Acrobot-v1": Task(Classic("Acrobot-v1", (128, 128)), 256, -100.0, 60, 16),
    "Pendulum-v1": Task(Classic("Pendulum-v1", (128, 128)), 256, -200.0, 120, 8),
    "brax inverted_pendulum": Task(
        Brax("inverted_pendulum", (256, 256, 256), "positional", 1000), 64, 950.0, 60, 4, "CartPole-v1", 5
    ),
}
SHAPINGS = {"centered-ranks": centered_rank_fitness_shaping_fn, "z-score": standardize_fitness_shaping_fn}
GRID = [
    {"sigma": sigma, "lr": lr, "shaping": shaping}
    for shaping in SHAPINGS
    for sigma in (0.05, 0.1)
    for lr in (0.06, 0.03, 0.12)
]


# ---- methods


class Method(NamedTuple):
    """A strategy with its settings: ``generation(state, key, starts)`` gives the next state."""

    init: Callable[[Any, int], Any]
    generation: Callable[[Any, Any, Any], Any]
    mean: Callable[[Any], Any]


def eggroll(task: Task, sigma: float | None = None, lr: float | None = None, shaping: str | None = None) -> Method:
    settings = {"sigma": sigma, "optimizer": optax.adam(lr), "shaping": shaping} if lr else {}
    strategy = bb.es.Eggroll(popsize=task.popsize, **settings)

    def generation(state: Any, _: Any, starts: Any) -> Any:
        population = strategy.ask(state)
        fitness = bb.evaluate(task.game.cost, population, jnp.repeat(starts, 2, axis=0), in_axes=0)
        return strategy.tell(state, population, fitness)

    return Method(lambda layers, seed: strategy.init(bb.key(seed), layers), generation, strategy.recommend)


def _evosax(task: Task, strategy: Any, parameters: Any, is_paired: bool) -> Method:
    def generation(state: Any, key: Any, starts: Any) -> Any:
        ask_key, tell_key = jax.random.split(key)
        population, state = strategy.ask(ask_key, state, parameters)
        if not is_paired:
            starts = jnp.broadcast_to(starts[:1], starts.shape)
        both = (population, jnp.concatenate([starts, starts]))
        fitness = jax.lax.map(lambda member: task.game.cost(*member), both, batch_size=task.chunk)
        return strategy.tell(tell_key, population, fitness, state, parameters)[0]

    def init(layers: Any, seed: int) -> Any:
        return strategy.init(jax.random.key(seed), layers, parameters)

    return Method(init, generation, strategy.get_mean)


def open_es(
    task: Task, is_paired: bool, sigma: float | None = None, lr: float | None = None, shaping: str | None = None
) -> Method:
    settings: dict[str, Any] = {}
    if lr and shaping:
        settings = {"optimizer": optax.adam(lr), "std_schedule": optax.constant_schedule(sigma)}
        settings["fitness_shaping_fn"] = SHAPINGS[shaping]
    strategy = Open_ES(population_size=task.popsize, solution=first_weights(task.game.sizes, 0), **settings)
    return _evosax(task, strategy, strategy.default_params, is_paired)


def pgpe(
    task: Task, is_paired: bool, sigma: float | None = None, lr: float | None = None, shaping: str | None = None
) -> Method:
    settings = {"optimizer": optax.adam(lr), "fitness_shaping_fn": SHAPINGS[shaping]} if lr and shaping else {}
    strategy = PGPE(population_size=task.popsize, solution=first_weights(task.game.sizes, 0), **settings)
    defaults = strategy.default_params
    return _evosax(task, strategy, defaults.replace(std_init=sigma) if lr else defaults, is_paired)


METHODS: dict[str, Callable[..., Method]] = {
    "blackbox Eggroll": eggroll,
    "evosax Open_ES": partial(open_es, is_paired=False),
    "evosax PGPE": partial(pgpe, is_paired=False),
    "evosax Open_ES (pairs' episodes)": partial(open_es, is_paired=True),
    "evosax PGPE (pairs' episodes)": partial(pgpe, is_paired=True),
}


# ---- runs


@dataclass
class Run:
    seed: int
    solved: bool
    evaluations: int
    generations: int
    wall: float
    processor: float
    curve: list[float]


class Program:
    """A method on a task, compiled once for all seeds."""

    def __init__(self, task: Task, method: Method) -> None:
        self.task, self.method = task, method
        self.step = jax.jit(method.generation)
        self.score = jax.jit(lambda state: -task.game.held_out(method.mean(state)))

    def first_calls(self) -> float:
        """Seconds of two generations with compilation."""
        state, key, task = self._begin(0), jax.random.key(0), self.task
        starts = task.game.starts(0, 0, task.popsize // 2)
        began = time.perf_counter()
        # Once more with the state that came out: its types may differ from those of the first one.
        jax.block_until_ready(self.step(self.step(state, key, starts), key, starts))
        return time.perf_counter() - began

    def _begin(self, seed: int) -> Any:
        return self.method.init(first_weights(self.task.game.sizes, seed), seed)

    def run(self, seed: int, most: float = math.inf) -> Run:
        """A run that ends when the task is solved, or with the task's last generation, or after ``most``."""
        task, state, key = self.task, self._begin(seed), jax.random.key(seed)
        run = Run(seed, False, 0, 0, 0.0, 0.0, [])
        while not run.solved and run.generations < min(task.generations, most):
            starts = task.game.starts(seed, run.generations, task.popsize // 2)
            own = jax.block_until_ready(jax.random.fold_in(key, run.generations))
            began = time.perf_counter(), time.process_time()
            state = jax.block_until_ready(self.step(state, own, starts))
            run.wall += time.perf_counter() - began[0]
            run.processor += time.process_time() - began[1]
            run.generations += 1
            run.curve.append(round(float(self.score(state)), 1))
            run.solved = run.curve[-1] >= task.solved
        run.evaluations = run.generations * task.popsize
        return run


def tune(tasks: Sequence[str], methods: Sequence[str]) -> None:
    """Try every setting of every method on the tuning seeds."""
    stored = json.loads(TUNED.read_text()) if TUNED.exists() else {}
    trials: list[dict[str, Any]] = [*GRID, {}]
    for name in tasks:
        task = TASKS[name]
        stored.setdefault(name, {})
        for method in methods:
            make = METHODS[method]
            best, chosen, tried = math.inf, {}, []
            for settings in trials:
                program, spent, curves, solved = Program(task, make(task, **settings)), 0, [], True
                for seed in TUNING_SEEDS:
                    if solved:
                        run = program.run(seed, most=best - spent - 1)
                        solved, spent = run.solved, spent + run.generations
                        curves.append(run.curve)
                if solved:
                    best, chosen = spent, settings
                tried.append({"settings": settings, "generations": spent, "solved": solved, "curves": curves})
                print(f"{name}, {method}, {settings}: {'' if solved else 'given up after '}{spent}", flush=True)
            if math.isinf(best):  # none solved all: the one that got furthest
                chosen = max(tried, key=lambda trial: (len(trial["curves"]), -trial["generations"]))["settings"]
            stored[name][method] = {"chosen": chosen, "trials": tried}
            TUNED.write_text(json.dumps(stored, indent=1) + "\n")


def compare(tasks: Sequence[str], methods: Sequence[str]) -> None:
    """All methods with their settings on the same seeds, in turns; then the table."""
    stored = json.loads(TUNED.read_text())
    kept = json.loads(RAN.read_text()) if RAN.exists() else {}
    for name in tasks:
        programs = {
            method: Program(
                TASKS[name], METHODS[method](TASKS[name], **stored[TASKS[name].like or name][method]["chosen"])
            )
            for method in methods
        }
        first_calls = {method: program.first_calls() for method, program in programs.items()}
        runs: dict[str, list[Run]] = {method: [] for method in methods}
        for seed in range(TASKS[name].seeds):
            for method, program in programs.items():
                runs[method].append(program.run(seed))
                print(f"{name}, {method}, {asdict(runs[method][-1])}", flush=True)
        kept.setdefault(name, {}).update(
            {
                method: {
                    "first_calls": first_calls[method],
                    "at_once": TASKS[name].popsize if METHODS[method] is eggroll else TASKS[name].chunk,
                    "runs": [asdict(run) for run in runs[method]],
                }
                for method in methods
            }
        )
        RAN.write_text(json.dumps(kept, indent=1) + "\n")
    report()


def report() -> None:
    stored, kept = json.loads(TUNED.read_text()), json.loads(RAN.read_text())
    rows = []
    for name in (name for name in TASKS if name in kept):
        reference = _mean(kept[name]["blackbox Eggroll"]["runs"], "wall")
        for method in METHODS:
            runs, settings = kept[name][method]["runs"], stored[TASKS[name].like or name][method]["chosen"]
            wall, generations = _mean(runs, "wall"), sum(run["generations"] for run in runs)
            rows.append({
                "task": name,
                "method": method,
                "solved": f"{sum(run['solved'] for run in runs)} of {len(runs)}",
                "evaluations": f"{_mean(runs, 'evaluations'):,.0f}",
                "by seed": ", ".join(f"{'' if run['solved'] else '>'}{run['evaluations']}" for run in runs),
                "wall, s": f"{wall:.1f}",
                "CPU, s": f"{_mean(runs, 'processor'):.1f}",
                "times Eggroll's wall": f"{wall / reference:.1f}",
                "CPU ms per generation": f"{1e3 * sum(run['processor'] for run in runs) / generations:.0f}",
                "members at once": kept[name][method]["at_once"],
                "first calls, s": f"{kept[name][method]['first_calls']:.1f}",
                "settings": _described(settings),
            })  # fmt: skip
    conditions = "; ".join(
        f"{name}: hidden layers {'-'.join(map(str, task.game.hidden))}, population {task.popsize}, "
        f"solved at {task.solved:g}"
        for name, task in TASKS.items()
        if name in kept
    )
    note = f"""
Means over seeds from 0 on; a run that failed counts with what it spent. An evaluation is one
episode. {conditions}.

Methods take turns seed by seed on one core, which other programs shared: CPU time says more than wall time. The clock
has neither compilation (first calls: two generations with it) nor held-out episodes. Settings: for each method and task
the best of {len(GRID)} of sigma, learning rate of Adam and shaping, and of the method's defaults, by seeds
{TUNING_SEEDS.start} to {TUNING_SEEDS.stop - 1}; brax has those of CartPole, untuned. evosax plays one episode with all
members of a generation, as its own problems do, or with "pairs' episodes" one with each pair, as Eggroll does."""
    write("policies", "Policies by evolution", list(rows[0]), rows, ["numpy", "jax", "evosax", "brax"], note)


def _described(settings: dict[str, Any]) -> str:
    return "sigma {sigma}, lr {lr}, {shaping}".format(**settings) if settings else "defaults"


def _mean(runs: Sequence[Any], what: str) -> float:
    return float(np.mean([run[what] for run in runs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tune", "run", "report"])
    parser.add_argument("--tasks", help="comma-separated; all by default")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated; all by default")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    known = [name for name in TASKS if find_spec("brax") or not name.startswith("brax")]
    tasks = arguments.tasks.split(",") if arguments.tasks else known
    if arguments.what == "tune":
        tasks = [name for name in tasks if TASKS[name].like is None]
    if arguments.what == "report":
        report()
    else:
        {"tune": tune, "run": compare}[arguments.what](tasks, arguments.methods.split(","))


if __name__ == "__main__":
    main()
