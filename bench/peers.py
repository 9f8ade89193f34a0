"""The solvers that benchmarks compare: ours, and the same and other methods in other packages.

A solver is a function of one :class:`objective.Objective` that evaluates it until it raises ``Spent``. All that take
a start point and a step size get ``objective.start(run)`` and ``objective.sigma0``; all restart until the budget is
spent, by their own criteria if they have any, else by :class:`Stalled`. Names are ``package:method[:variant]``.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import re
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from objective import HIGH, LOW, SIGMA0, Objective

import blackbox as bb
from blackbox.shell.restarts import Run, next_run, run_key

Solve = Callable[[Objective], None]


class Solver(NamedTuple):
    """One line of the registry."""

    solve: Solve
    package: str
    """Distribution on PyPI."""
    heavy: bool = False
    """Whether an evaluation costs milliseconds: the standard plan runs it on fewer problems."""
    note: str = ""

    @property
    def available(self) -> bool:
        """Whether the package can be imported."""
        module = {"blackbox-engine": "blackbox"}.get(self.package, self.package)
        return importlib.util.find_spec(module) is not None


SOLVERS: dict[str, Solver] = {}

SAME_METHOD = (
    ("blackbox:cma-es", "pycma"),
    ("blackbox:cma-es", "cmaes:cma"),
    ("blackbox:cma-es:bipop", "pycma:bipop"),
    ("blackbox:sep-cma-es", "cmaes:sep-cma"),
    ("blackbox:lm-ma-es", "evosax:LM_MA_ES:known-wrong"),
    ("blackbox:lm-ma-es", "fcmaes:cr-fm-nes"),
    ("blackbox:snes", "evosax:SNES"),
    ("blackbox:pgpe", "evosax:PGPE"),
    ("blackbox:pgpe", "evosax:PGPE:clipup-paper"),
    ("blackbox:l-shade", "minionpy:l-shade"),
    ("blackbox:l-shade", "minionpy:l-shade:small"),
    ("blackbox:l-shade", "fcmaes:de"),
    ("blackbox:nelder-mead", "scipy:nelder-mead"),
    ("blackbox:sobol", "scipy:sobol"),
)
"""Pairs (ours, peer's) of one method or, where no peer has it, of the nearest one."""


def solver(name: str, package: str, *, heavy: bool = False, note: str = "") -> Callable[[Solve], Solve]:
    """Register the decorated function."""

    def register(solve: Solve) -> Solve:
        SOLVERS[name] = Solver(solve, package, heavy, note)
        return solve

    return register


class Stalled:
    """CMA-ES's rule for solvers without their own: the best of 10 + 30 d / popsize generations differ by < 1e-12."""

    def __init__(self, dimension: int, popsize: int) -> None:
        self._best: deque[float] = deque(maxlen=10 + math.ceil(30 * dimension / popsize))

    def __call__(self, fitness: Float[ndarray, "n"]) -> bool:
        self._best.append(float(np.fmin.reduce(fitness)))
        complete = len(self._best) == self._best.maxlen
        return complete and not max(self._best) - min(self._best) >= 1e-12  # true for NaN, too


# Ours, as strategies: not confined to a box unless they are made for one.


def _strategy(name: str, objective: Objective, **changes: Any) -> Any:
    fields = type(bb.create(name)).__dataclass_fields__
    given = {"sigma0": SIGMA0, "low": LOW, "high": HIGH, "evaluations": objective.left, **changes}
    return bb.create(name, **{key: value for key, value in given.items() if key in fields and value is not None})


def _run_strategy(objective: Objective, strategy: Any, run: int, limit: int | None = None) -> int:
    """One run until it stops or ``limit`` evaluations are spent; returns the number of its evaluations."""
    state = strategy.init(run_key(bb.key(objective.seed), run), objective.start(run))
    spent = 0
    while True:
        population = strategy.ask(state)
        state = strategy.tell(state, population, objective.many(population))
        spent += len(population)
        stopped = hasattr(strategy, "stop") and any(strategy.stop(state).values())
        if stopped or (limit is not None and spent >= limit):
            return spent


def _blackbox(objective: Objective, name: str) -> None:
    for run in itertools.count():
        _run_strategy(objective, _strategy(name, objective), run)


def _blackbox_restarts(objective: Objective, name: str, schedule: Any) -> None:
    key = bb.key(objective.seed)
    run, first = Run(), None
    while True:
        strategy = _strategy(name, objective, popsize=run.popsize, sigma0=SIGMA0 * run.sigma_factor)
        first = first or len(strategy.ask(strategy.init(key, objective.start())))
        spent = _run_strategy(objective, strategy, run.number, run.limit)
        run = next_run(schedule, run, spent, first, key)


def _blackbox_box(objective: Objective, name: str) -> None:
    box = bb.Box([LOW] * objective.dimension, [HIGH] * objective.dimension)
    optimizer = bb.Optimizer(box, name, seed=objective.seed, budget=objective.budget, x0=objective.start())
    while True:
        candidate = optimizer.ask()
        optimizer.tell(candidate, objective(candidate.x))


for _name, _method in bb.methods().items():
    _installed = importlib.util.find_spec(_method.path.partition(":")[0])
    if _installed and _name != "cat-cma" and not {"plugin", "virtual"} & _method.tags:  # which is CMA-ES here
        _is_heavy = _method.path.startswith("blackbox.model.")
        SOLVERS[f"blackbox:{_name}"] = Solver(partial(_blackbox, name=_name), "blackbox-engine", _is_heavy)
        SOLVERS[f"blackbox:{_name}:box"] = Solver(
            partial(_blackbox_box, name=_name),
            "blackbox-engine",
            _is_heavy,
            note="Optimizer in Box(-5, 5), its own restarts",
        )
SOLVERS["blackbox:auto:box"] = Solver(partial(_blackbox_box, name="auto"), "blackbox-engine")
SOLVERS["blackbox:cma-es:bipop"] = Solver(
    partial(_blackbox_restarts, name="cma-es", schedule="bipop"), "blackbox-engine"
)


# CMA-ES by its author, and by CyberAgent.


@solver("pycma", "cma", note="plain restarts")
def _pycma(objective: Objective) -> None:
    import cma

    for run in itertools.count():
        options = {"seed": objective.seed + run + 1, "verbose": -9, "maxfevals": objective.left}
        es = cma.CMAEvolutionStrategy(objective.start(run), objective.sigma0, options)
        while not es.stop():
            x = es.ask()
            es.tell(x, objective.many(np.asarray(x)))


@solver("pycma:bipop", "cma")
def _pycma_bipop(objective: Objective) -> None:
    import cma

    runs = itertools.count()
    while True:
        options = {"seed": objective.seed + 1, "verbose": -9, "maxfevals": objective.left}
        cma.fmin2(
            None, lambda: objective.start(next(runs)), objective.sigma0, options, restarts=9, bipop=True,
            parallel_objective=lambda x: objective.many(np.asarray(x)).tolist(),
        )  # fmt: skip


@solver("pycma:lq", "cma", heavy=True, note="fmin_lq_surr2, restarts")
def _pycma_lq(objective: Objective) -> None:
    import cma

    for run in itertools.count():
        options = {"seed": objective.seed + run + 1, "verbose": -9, "maxfevals": objective.left}
        cma.fmin_lq_surr2(objective, objective.start(run), objective.sigma0, options)


def _cmaes(objective: Objective, cls: str, growth: int = 1) -> None:
    import cmaes

    popsize = None
    for run in itertools.count():
        es = getattr(cmaes, cls)(
            mean=objective.start(run), sigma=objective.sigma0, seed=objective.seed + run, population_size=popsize
        )
        while not es.should_stop():
            x = np.array([es.ask() for _ in range(es.population_size)])
            es.tell(list(zip(x, objective.many(x).tolist(), strict=True)))
        popsize = es.population_size * growth


SOLVERS["cmaes:cma"] = Solver(partial(_cmaes, cls="CMA"), "cmaes", note="plain restarts")
SOLVERS["cmaes:cma:ipop"] = Solver(partial(_cmaes, cls="CMA", growth=2), "cmaes")
SOLVERS["cmaes:sep-cma"] = Solver(partial(_cmaes, cls="SepCMA"), "cmaes", note="plain restarts")


# fcmaes: compiled; in the box.


def _fcmaes(objective: Objective, module: str, **options: Any) -> None:
    from scipy.optimize import Bounds

    minimize = importlib.import_module(f"fcmaes.{module}").minimize
    bounds = Bounds([LOW] * objective.dimension, [HIGH] * objective.dimension)
    for run in itertools.count():
        if not objective.left:
            return
        minimize(
            objective.quiet, bounds=bounds, x0=objective.start(run), max_evaluations=objective.left,
            rg=np.random.Generator(np.random.PCG64DXSM(objective.seed + run)), **options,
        )  # fmt: skip


@solver("fcmaes:cma:small", "fcmaes", note="popsize 4 + 3 ln d")
def _fcmaes_small(objective: Objective) -> None:
    popsize = 4 + int(3 * math.log(objective.dimension))
    _fcmaes(objective, "cmaescpp", input_sigma=SIGMA0 / (HIGH - LOW), popsize=popsize)


SOLVERS["fcmaes:cma"] = Solver(
    partial(_fcmaes, module="cmaescpp", input_sigma=SIGMA0 / (HIGH - LOW)), "fcmaes", note="popsize 31"
)
SOLVERS["fcmaes:de"] = Solver(partial(_fcmaes, module="decpp"), "fcmaes")
SOLVERS["fcmaes:biteopt"] = Solver(partial(_fcmaes, module="bitecpp"), "fcmaes")
SOLVERS["fcmaes:cr-fm-nes"] = Solver(partial(_fcmaes, module="crfmnescpp", input_sigma=SIGMA0, workers=1), "fcmaes")


# nevergrad and Optuna: ask and tell one by one, in the box.


def _nevergrad(objective: Objective, name: str) -> None:
    import nevergrad

    array = nevergrad.p.Array(init=objective.start()).set_bounds(LOW, HIGH).set_mutation(sigma=SIGMA0)
    array.random_state.seed(objective.seed)
    optimizer = nevergrad.optimizers.registry[name](parametrization=array, budget=objective.budget, num_workers=1)
    while True:
        candidate = optimizer.ask()
        optimizer.tell(candidate, objective(candidate.value))


for _name in ("CMA", "DE", "OnePlusOne"):
    SOLVERS[f"nevergrad:{_name}"] = Solver(partial(_nevergrad, name=_name), "nevergrad", heavy=True)


@solver("optuna:cma", "optuna", heavy=True)
def _optuna(objective: Objective) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = [f"x{i}" for i in range(objective.dimension)]
    sampler = optuna.samplers.CmaEsSampler(
        x0=dict(zip(names, objective.start().tolist(), strict=True)), sigma0=SIGMA0, seed=objective.seed
    )
    study = optuna.create_study(sampler=sampler)
    space: dict[str, Any] = dict.fromkeys(names, optuna.distributions.FloatDistribution(LOW, HIGH))
    while True:
        trial = study.ask(space)
        study.tell(trial, objective(np.array([trial.params[name] for name in names])))


# evosax: in float64, one compiled call per generation; it has no restarts.


class _Evosax(NamedTuple):
    """The compiled functions of one method, dimension and population size."""

    first: Callable[..., Any]
    next: Callable[..., Any]


@lru_cache(maxsize=8)
def _evosax_functions(name: str, dimension: int, popsize: int, clipup: bool) -> _Evosax:
    import jax
    from evosax import algorithms
    from evosax.core.optimizer import clipup as clip

    jax.config.update("jax_enable_x64", True)
    # Toklu et al. 2020: the largest step is a fifteenth of the radius of search, the learning rate half of that.
    speed = SIGMA0 * math.sqrt(dimension) / 15
    options = {"optimizer": clip(learning_rate=speed / 2, max_velocity=speed)} if clipup else {}
    es = getattr(algorithms, name)(population_size=popsize, solution=np.zeros(dimension), **options)
    params = es.default_params
    if hasattr(params, "std_init"):
        params = params.replace(std_init=jax.numpy.full_like(jax.numpy.asarray(params.std_init), SIGMA0, dtype=float))

    def ask(key: Any, state: Any) -> Any:
        key, now = jax.random.split(key)
        return key, *es.ask(now, state, params)

    def first(key: Any, mean: Any) -> Any:
        key, now = jax.random.split(key)
        return ask(key, es.init(now, mean, params))

    def following(key: Any, population: Any, fitness: Any, state: Any) -> Any:
        key, now = jax.random.split(key)
        return ask(key, es.tell(now, population, fitness, state, params)[0])

    return _Evosax(jax.jit(first), jax.jit(following))


def _evosax(objective: Objective, name: str, clipup: bool = False) -> None:
    import jax

    popsize = 4 + int(3 * math.log(objective.dimension))
    popsize += popsize % 2  # some take even sizes only
    functions = _evosax_functions(name, objective.dimension, popsize, clipup)
    for run in itertools.count():
        key, population, state = functions.first(jax.random.key(objective.seed + run), objective.start(run))
        stalled = Stalled(objective.dimension, popsize)
        while True:
            fitness = objective.many(np.asarray(population))
            if stalled(fitness):
                break
            key, population, state = functions.next(key, population, fitness, state)


for _name in ("CMA_ES", "SNES", "PGPE"):
    SOLVERS[f"evosax:{_name}"] = Solver(partial(_evosax, name=_name), "evosax", note="float64")
SOLVERS["evosax:PGPE:clipup-paper"] = Solver(
    partial(_evosax, name="PGPE", clipup=True), "evosax", note="ClipUp's settings by the rule of its paper"
)
SOLVERS["evosax:LM_MA_ES:known-wrong"] = Solver(
    partial(_evosax, name="LM_MA_ES"), "evosax", note="known to be wrong: ranked weights meet unsorted steps"
)


# SciPy.


def _scipy(objective: Objective, method: str, box: bool, **options: Any) -> None:
    from scipy.optimize import minimize

    bounds = [(LOW, HIGH)] * objective.dimension if box else None
    for run in itertools.count():
        minimize(objective, objective.start(run), method=method, bounds=bounds, options=options)


SOLVERS["scipy:l-bfgs-b"] = Solver(
    partial(_scipy, method="L-BFGS-B", box=True, maxfun=10**7), "scipy", note="finite differences, restarts"
)
SOLVERS["scipy:powell"] = Solver(partial(_scipy, method="Powell", box=True, maxfev=10**7), "scipy", note="restarts")


@solver("scipy:nelder-mead", "scipy", note="adaptive, unbounded, restarts, tolerances 1e-11")
def _nelder_mead(objective: Objective) -> None:
    from scipy.optimize import minimize

    for run in itertools.count():
        start, axes = objective.start(run), objective.sigma0 * np.eye(objective.dimension)
        simplex = np.concatenate([start[None], start + axes])
        options = {"adaptive": True, "maxfev": 10**7, "maxiter": 10**7, "xatol": 1e-11, "fatol": 1e-11}
        minimize(objective, start, method="Nelder-Mead", options={**options, "initial_simplex": simplex})


@solver("scipy:nelder-mead:defaults", "scipy", note="adaptive, unbounded, restarts, tolerances 1e-4, SciPy's simplex")
def _nelder_mead_defaults(objective: Objective) -> None:
    _scipy(objective, "Nelder-Mead", False, adaptive=True, maxfev=10**7, maxiter=10**7)


@solver("scipy:de", "scipy")
def _differential_evolution(objective: Objective) -> None:
    from scipy.optimize import differential_evolution

    for run in itertools.count():
        differential_evolution(
            objective, [(LOW, HIGH)] * objective.dimension, rng=objective.seed + run, maxiter=10**7,
            x0=objective.start(run),
        )  # fmt: skip


@solver("scipy:dual-annealing", "scipy")
def _dual_annealing(objective: Objective) -> None:
    from scipy.optimize import dual_annealing

    for run in itertools.count():
        dual_annealing(
            objective, [(LOW, HIGH)] * objective.dimension, rng=objective.seed + run, maxiter=10**6, maxfun=10**9,
            x0=objective.start(run),
        )  # fmt: skip


@solver("scipy:sobol", "scipy", note="scrambled")
def _sobol(objective: Objective) -> None:
    from scipy.stats import qmc

    sampler = qmc.Sobol(objective.dimension, rng=objective.seed)
    while True:
        objective.many(LOW + (HIGH - LOW) * sampler.random(256))


@solver("numpy:random", "numpy")
def _random(objective: Objective) -> None:
    rng = np.random.default_rng(objective.seed)
    while True:
        objective.many(rng.uniform(LOW, HIGH, (256, objective.dimension)))


# minionpy: compiled L-SHADE, in the box.


def _minionpy(objective: Objective, **options: Any) -> None:
    import minionpy

    for run in itertools.count():
        if not objective.left:
            return
        minionpy.LSHADE(
            lambda x: [objective.quiet(point) for point in np.asarray(x)], [(LOW, HIGH)] * objective.dimension,
            x0=[objective.start(run).tolist()], maxevals=objective.left, seed=objective.seed + run, options=options,
        ).optimize()  # fmt: skip


SOLVERS["minionpy:l-shade"] = Solver(_minionpy, "minionpy", note="N0 = 18 d, as in the paper")


@solver("minionpy:l-shade:small", "minionpy", note="N0 = 5 d")
def _minionpy_small(objective: Objective) -> None:
    _minionpy(objective, population_size=5 * objective.dimension)


def select(patterns: str) -> Iterator[str]:
    """Names that match one of the comma-separated shell patterns, in the registry's order.

    Raises:
        ValueError: a pattern that matches nothing.
    """
    from fnmatch import translate

    expressions = {pattern: re.compile(translate(pattern)) for pattern in patterns.split(",")}
    for pattern, expression in expressions.items():
        if not any(map(expression.match, SOLVERS)):
            raise ValueError(f"solvers: {pattern!r} matches none of {', '.join(SOLVERS)}")
    yield from (name for name in SOLVERS if any(e.match(name) for e in expressions.values()))
