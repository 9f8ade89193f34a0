"""An optimizer to test with, strategies that record what they are told, and a digest of all that an optimizer is."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, ClassVar, NamedTuple

import numpy as np

from blackbox.kernels.noise import uniform
from blackbox.optimizer import Optimizer
from blackbox.shell.states import flatten
from blackbox.space import Box

D = 3


def sphere(x) -> float:
    return float(((np.asarray(x) - 0.3) ** 2).sum())


def make(method: Any = "cma-es", **arguments: Any) -> Optimizer:
    return Optimizer(Box(-1, 1, D), method, **{"seed": 1, **arguments})


def state_digest(optimizer: Optimizer) -> str:
    """Everything that the optimizer's further answers depend on, and what it waits for."""
    search = optimizer._search
    digest = hashlib.sha256()
    states = tuple(lane.state if lane else None for lane in search.lanes)
    for name, array in flatten((states, search.population, search.rungs)).items():
        digest.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
    for entries in (search.results, search.outside):
        for id in sorted(entries):
            row, value = entries[id]
            digest.update(f"{id}{value!r}".encode() + row.tobytes())
    best = search.best.row
    rest = (
        search.generation, search.evaluations, search.generation_since, search._used, search._lowest,
        search.failures, search.injected, search.told_on, search.barren, search.turn,
        [lane and lane.to_json() for lane in search.lanes], search.stopped, search.best.rank,
        None if best is None else best.tobytes(),
        sorted(optimizer._gate.waiting), optimizer._member, optimizer.budget,
    )  # fmt: skip
    digest.update(repr(rest).encode())
    return digest.hexdigest()


class State(NamedTuple):
    key: Any
    generation: Any
    told: Any
    """How many rows each generation was told, (20,)."""


@dataclasses.dataclass(frozen=True)
class Recorder:
    """A strategy that keeps what it is told: populations and fitness in a list beside its state."""

    popsize: int = 4
    log: list[Any] = dataclasses.field(default_factory=list, compare=False)

    def init(self, key, x0):
        return State(key, np.int64(0), np.zeros(20, np.int64))

    def ask(self, state, first=0):
        return uniform(state.key, state.generation, (self.popsize, D), first=first, like=np.empty(0))

    def tell(self, state, population, fitness):
        self.log.append((population.copy(), fitness.copy()))
        told = state.told.copy()
        told[int(state.generation) % 20] = len(fitness)
        return State(state.key, state.generation + 1, told)

    def recommend(self, state):
        return np.full(D, 0.5)


class Injectable(Recorder):
    injectable: ClassVar[bool] = True


class Positional(Recorder):
    positional: ClassVar[bool] = True
