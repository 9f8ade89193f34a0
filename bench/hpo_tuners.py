"""The tuners: generators that yield a point and are sent its value, all over the same spaces."""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Generator, Mapping
from fnmatch import fnmatch
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

import blackbox as bb
from blackbox import Choice, Float, Int, Space

Search = Generator[dict[str, Any], float, None]
Tuner = Callable[[Space, int, int], Search]
"""From space, budget and seed."""


def ours(space: Space, budget: int, seed: int, *, method: str, **hyperparameters: Any) -> Search:
    optimizer = bb.Optimizer(space, method, seed=seed, budget=budget, **hyperparameters)
    for _ in range(budget):
        candidate = optimizer.ask()
        optimizer.tell(candidate, (yield candidate.x))


def random(space: Space, budget: int, seed: int) -> Search:
    rng = np.random.default_rng(seed)
    while True:
        yield space.decode(rng.random(space.dimension))


def optuna(space: Space, budget: int, seed: int, *, sampler: str, **settings: Any) -> Search:
    import optuna

    from blackbox.integrations.optuna_spaces import to_distributions

    if sampler == "GPSampler":
        import torch

        torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = to_distributions(space)
    study = optuna.create_study(sampler=getattr(optuna.samplers, sampler)(seed=seed, **settings))
    while True:
        trial = study.ask(distributions)
        study.tell(trial, (yield trial.params))


def nevergrad(space: Space, budget: int, seed: int, *, name: str) -> Search:
    import nevergrad as ng

    def variable(dimension: Any) -> Any:
        if isinstance(dimension, Choice):
            return ng.p.Choice(list(dimension.options))
        scale = ng.p.Log if dimension.log else ng.p.Scalar
        made = scale(lower=dimension.low, upper=dimension.high)
        return made.set_integer_casting() if isinstance(dimension, Int) else made

    parametrization = ng.p.Dict(**{key: variable(dimension) for key, dimension in space.dimensions.items()})
    parametrization.random_state.seed(seed)
    optimizer = ng.optimizers.registry[name](parametrization=parametrization, budget=budget)
    while True:
        candidate = optimizer.ask()
        optimizer.tell(candidate, (yield candidate.value))


def smac(space: Space, budget: int, seed: int) -> Search:
    from ConfigSpace import Categorical, ConfigurationSpace, Integer
    from ConfigSpace import Float as Real
    from smac import HyperparameterOptimizationFacade as Facade
    from smac import Scenario
    from smac.runhistory.dataclasses import TrialValue

    logging.disable(logging.CRITICAL)

    def variable(name: str, dimension: Any) -> Any:
        if isinstance(dimension, Choice):  # by position, for options that are no strings
            return Categorical(name, [str(i) for i in range(len(dimension.options))])
        kind = Integer if isinstance(dimension, Int) else Real
        return kind(name, (dimension.low, dimension.high), log=dimension.log)

    configurations = ConfigurationSpace(seed=seed)
    configurations.add([variable(name, dimension) for name, dimension in space.dimensions.items()])
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(configurations, deterministic=True, n_trials=budget, seed=seed, output_directory=folder)
        facade = Facade(scenario, lambda config, seed=0: 0.0, overwrite=True, logging_level=False)
        while True:
            trial = facade.ask()
            point = {
                name: dimension.options[int(trial.config[name])]
                if isinstance(dimension, Choice)
                else (int if isinstance(dimension, Int) else float)(trial.config[name])
                for name, dimension in space.dimensions.items()
            }
            facade.tell(trial, TrialValue(cost=(yield point), time=0.0))


def skopt(space: Space, budget: int, seed: int, *, model: str) -> Search:
    from skopt import Optimizer
    from skopt.space import Categorical, Integer, Real

    def variable(dimension: Any) -> Any:
        if isinstance(dimension, Choice):
            return Categorical(list(range(len(dimension.options))))
        kind = Integer if isinstance(dimension, Int) else Real
        return kind(dimension.low, dimension.high, prior="log-uniform" if dimension.log else "uniform")

    dimensions = space.dimensions
    optimizer = Optimizer(list(map(variable, dimensions.values())), model, n_initial_points=10, random_state=seed)
    while True:
        values = optimizer.ask()
        point = {
            name: dimension.options[int(value)] if isinstance(dimension, Choice) else np.asarray(value).item()
            for (name, dimension), value in zip(dimensions.items(), values, strict=True)
        }
        optimizer.tell(values, (yield point))


def cmaes(space: Space, budget: int, seed: int) -> Search:
    """CatCMA with margin; log scales are its floats' logarithms and its integers' values."""
    from cmaes import CatCMAwM

    kinds = {
        kind: [name for name, dimension in space.dimensions.items() if isinstance(dimension, kind)]
        for kind in (Float, Int, Choice)
    }
    dimensions: Mapping[str, Any] = space.dimensions
    given: dict[str, Any] = {"seed": seed}
    if kinds[Float]:
        given["x_space"] = [[0.0, 1.0]] * len(kinds[Float])
    if kinds[Int]:
        given["z_space"] = [list(range(dimensions[n].low, dimensions[n].high + 1)) for n in kinds[Int]]
    if kinds[Choice]:
        given["c_space"] = [len(dimensions[n].options) for n in kinds[Choice]]
    optimizer = CatCMAwM(**given)

    def point(solution: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, u in zip(kinds[Float], solution.x if kinds[Float] else (), strict=True):
            low, high, log = dimensions[name].low, dimensions[name].high, dimensions[name].log
            u = min(max(float(u), 0.0), 1.0)
            values[name] = low * math.exp(u * math.log(high / low)) if log else low + u * (high - low)
            values[name] = min(max(values[name], low), high)
        values |= zip(kinds[Int], map(int, solution.z if kinds[Int] else ()), strict=True)
        for name, onehot in zip(kinds[Choice], solution.c if kinds[Choice] else (), strict=True):
            values[name] = dimensions[name].options[int(np.argmax(onehot))]
        return values

    while True:
        solutions = []
        for _ in range(optimizer.population_size):
            solution = optimizer.ask()
            solutions.append((solution, (yield point(solution))))
        optimizer.tell(solutions)


TUNERS: dict[str, tuple[Tuner, str]] = {
    **{
        f"blackbox:{method}": (partial(ours, method=method), "blackbox")
        for method in ("ego", "turbo", "cat-cma", "sobol")
    },
    "optuna:tpe": (partial(optuna, sampler="TPESampler"), "optuna"),
    "optuna:tpe-univariate": (partial(optuna, sampler="TPESampler", multivariate=False), "optuna"),
    "optuna:gp": (partial(optuna, sampler="GPSampler"), "torch"),
    "optuna:cma-es": (
        partial(optuna, sampler="CmaEsSampler", with_margin=True, warn_independent_sampling=False),
        "cmaes",
    ),
    "cmaes:cat-cma": (cmaes, "cmaes"),
    "nevergrad:two-points-de": (partial(nevergrad, name="TwoPointsDE"), "nevergrad"),
    "nevergrad:one-plus-one": (partial(nevergrad, name="OnePlusOne"), "nevergrad"),
    "smac": (smac, "smac"),
    "skopt:gp": (partial(skopt, model="GP"), "skopt"),
    "skopt:forest": (partial(skopt, model="RF"), "skopt"),
    "random": (random, "numpy"),
}
"""By name, and the package that each needs."""


def select(patterns: str) -> list[str]:
    """Names of installed tuners that fit one of some patterns, separated by commas; ValueError where none does."""
    names: list[str] = []
    for pattern in patterns.split(","):
        fitting = [name for name in TUNERS if fnmatch(name, pattern)]
        if not fitting:
            raise ValueError(f"{pattern!r} fits none of {', '.join(TUNERS)}")
        names += [name for name in fitting if name not in names]
    missing = {name for name in names if find_spec(TUNERS[name][1]) is None}
    if missing:
        warnings.warn(f"not installed, left out: {', '.join(sorted(missing))}", stacklevel=2)
    return [name for name in names if name not in missing]
