"""Evaluation on Ray actors that each hold the state of the strategy, for objectives that are not JAX programs.

A network's parameters are sent once, when a worker starts. From then on a worker receives a generation and member ids,
forms each member itself and returns one number for it; afterwards it receives the fitness of the whole generation and
repeats ``strategy.tell``, as does every other worker and the driver. Strategies are pure functions, so all of them
stay at the same bits. That they do is checked in each generation, by a digest of all arrays of the state, before a
worker evaluates anything; one that differs is sent the state again, with a warning.

The driver is the authority. What a worker may do without any result being lost: die (its unfinished members go to
others, a new worker takes its place), hang (with ``timeout``), drift.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np

from blackbox.cluster import as_remote, cause, require_ray
from blackbox.errors import SettingError, TellError, WorkerError
from blackbox.replica import Replica
from blackbox.strategy import Strategy, require_number

if TYPE_CHECKING:
    from jaxtyping import Float64

S = TypeVar("S")

DEATHS = 8  # workers, beyond two of each, that may die without any member finished in between


class Share:
    """The members of one generation: which are still to be given out, and what came back.

    A batch whose worker died comes again member by member, so that only what kills a worker by itself is given up.
    """

    def __init__(self, members: int, batch: int, retries: int) -> None:
        self.fitness = np.full(members, np.nan)
        self.failures: dict[int, str] = {}
        self._batch, self._retries = batch, retries
        self._pending = deque(range(members))
        self._crashes: Counter[int] = Counter()
        self._left = members

    @property
    def complete(self) -> bool:
        return not self._left

    def take(self) -> tuple[int, ...]:
        """The next batch; empty if everything is under way."""
        ids: list[int] = []
        while self._pending and len(ids) < self._batch and not (ids and self._pending[0] in self._crashes):
            ids.append(self._pending.popleft())
            if ids[0] in self._crashes:
                break
        return tuple(ids)

    def done(self, ids: Sequence[int], outcomes: Sequence[tuple[float, str]]) -> None:
        for i, (value, reason) in zip(ids, outcomes, strict=True):
            self.fitness[i] = value
            if math.isnan(value):
                self.failures[i] = reason or "the objective returned NaN"
        self._left -= len(ids)

    def lost(self, ids: Sequence[int], reason: str, *, hung: bool = False) -> None:
        """The worker that had ``ids`` is gone. One that ``hung`` on a single member is not given it again."""
        for i in reversed(ids):
            self._crashes[i] += 1
            if self._crashes[i] > self._retries or (hung and len(ids) == 1):
                self.done([i], [(math.nan, reason)])
            else:
                self._pending.appendleft(i)


@dataclass
class _Worker:
    """An actor, and the one answer that it owes; ``call`` is None when it waits for work."""

    name: str
    actor: Any
    call: Any
    generation: int  # to which the last state or fitness that it was sent takes it
    sent: bool = True  # whether that was a state, which cannot differ from ours
    started: bool = False
    ids: tuple[int, ...] = ()  # under evaluation
    share: Share | None = None  # of which generation's
    begin: float = 0.0


class Fleet(Generic[S]):
    """Ray workers that evaluate a plain Python objective and follow the strategy by themselves.

    ::

        with bb.Fleet(strategy, state, objective, workers=64) as fleet:
            for _ in range(generations):
                fitness = fleet.evaluate()
                state = fleet.tell(fitness)

    Ray is used as the program has set it up (``ray.init(address=...)`` for a cluster), and started on this machine if
    it has not. Every process must be of one kind (devices, JAX settings, versions): where the driver computes on a GPU
    and the workers do not, the last bits differ, and the state is sent in every generation.

    Args:
        strategy: any with ``init``, ``ask`` and ``tell``, of virtual populations or of rows.
        state: where to begin: ``strategy.init(key, params)``, or a state of a run before.
        objective: ``objective(candidate, *args) -> float``, lower is better, with ``candidate = population[i]``: a
            pytree, or a row. What it raises becomes NaN.
        workers: actors, >= 1.
        batch: members that a worker is given at once, >= 1: more than one where an evaluation takes less than a few
            milliseconds.
        timeout: seconds for one member, > 0; the worker is then killed and replaced, the member's fitness is NaN.
        retries: how often a member is evaluated again after its worker died, >= 0.
        options: of each actor, as for ``ray.remote``: ``{"num_cpus": 2, "num_gpus": 0.1, "runtime_env": ...}``.

    Attributes:
        failures: why members of the last :meth:`evaluate` are NaN, by id.

    Raises:
        MissingExtra: Ray is not installed.
        SettingError: an argument outside its range.
        WorkerError: strategy, state or objective cannot be sent.
    """

    def __init__(
        self,
        strategy: Strategy[S],
        state: S,
        objective: Callable[..., Any],
        *,
        workers: int,
        batch: int = 1,
        timeout: float | None = None,
        retries: int = 1,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value, low in (("workers", workers, 1), ("batch", batch, 1), ("retries", retries, 0)):
            if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
                raise SettingError(f"{name} must be an integer >= {low}, got {value!r}")
        if timeout is not None:
            require_number("timeout", timeout, above=0)
        if not callable(objective):
            raise SettingError(f"objective must be callable, got {type(objective).__name__}")
        self.failures: dict[int, str] = {}
        self._ray = ray = require_ray()
        self._batch, self._timeout, self._retries = batch, timeout, retries
        self._own = Replica((strategy, objective), 0, state)
        self._digest, _ = self._own.presence()
        self._class = as_remote(ray, Replica, options or {}, "actor")
        self._task = self._put((strategy, objective), "strategy or objective")
        self._state = self._put(state, "state")  # of this generation, for workers that start; None until one does
        self._deaths = 0
        self._workers = [self._start(i) for i in range(workers)]

    @property
    def state(self) -> S:
        """Of the strategy, after the last :meth:`tell`."""
        return self._own.state

    def evaluate(self, *args: Any) -> Float64[np.ndarray, "n"]:
        """The fitness of each member of this generation, NaN where it failed.

        Args:
            args: further arguments of the objective, the same for all members: a batch of data, a seed.

        Raises:
            WorkerError: workers die one after the other, or cannot hold the state. The fleet is as before.
        """
        if not self._workers:
            raise WorkerError("evaluate: this fleet is closed")
        share = Share(len(self._own.population), self._batch, self._retries)
        sent = self._put(args, "args")
        while not share.complete:
            for worker in self._workers:
                if worker.call is None and (ids := share.take()):
                    worker.ids, worker.share, worker.begin = ids, share, time.monotonic()
                    worker.call = worker.actor.evaluate.remote(self._own.generation, ids, sent)
            self._collect()
        self.failures = dict(sorted(share.failures.items()))
        if len(self.failures) == len(share.fitness):
            warnings.warn(f"all {len(share.fitness)} members failed; 0: {share.failures[0]}", RuntimeWarning, 2)
        return share.fitness

    def tell(self, fitness: Any) -> S:
        """The state after this generation, here and on every worker.

        Args:
            fitness: for each member, lower is better, NaN = failed: what :meth:`evaluate` returned, or what was made
                of it, as for the strategy's own ``tell``.

        Raises:
            TellError: ``fitness`` is not one real number for each member.
        """
        told = np.asarray(fitness)
        members = len(self._own.population)
        if told.shape[:1] != (members,) or told.dtype.kind not in "fiu":
            got = f"{told.dtype} of shape {told.shape}"
            raise TellError(f"fitness must be real numbers, one for each of {members} members; got {got}")
        told = told.astype(np.float64)
        self._digest, _ = self._own.tell(told)
        self._state = None
        for worker in self._workers:
            if worker.started:  # others are sent the state once they answer
                worker.call, worker.ids, worker.share = worker.actor.tell.remote(told), (), None
                worker.generation, worker.sent = self._own.generation, False
        return self.state

    def close(self) -> None:
        """End the workers. Repeatable; Ray itself goes on."""
        for worker in self._workers:
            if self._ray.is_initialized():
                self._ray.kill(worker.actor)
        self._workers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _put(self, thing: object, name: str) -> Any:
        try:
            return self._ray.put(thing)
        except (TypeError, AttributeError, ValueError) as error:
            raise WorkerError(f"{name} cannot be sent to a worker: {error}") from error

    def _current(self) -> Any:
        if self._state is None:
            self._state = self._put(self.state, "state")
        return self._state

    def _start(self, number: int) -> _Worker:
        actor = self._class.remote(self._task, self._own.generation, self._current())
        return _Worker(f"worker {number}", actor, actor.presence.remote(), self._own.generation)

    def _collect(self) -> None:
        """Wait for at least one answer or time limit, and see to all that there are."""
        ray, now = self._ray, time.monotonic()
        due = {worker.call: worker for worker in self._workers if worker.call is not None}
        limits = [self._limit(worker) for worker in due.values()]
        wait = max(0.0, min(limits) - now)
        ray.wait(list(due), timeout=None if wait == math.inf else wait)
        ready, _ = ray.wait(list(due), num_returns=len(due), timeout=0)
        for call in ready:
            worker = due[call]
            try:
                answer = ray.get(call)
            except ray.exceptions.RayError as error:
                self._replace(worker, f"{worker.name} died: {cause(error)}")
                continue
            worker.call = None
            if worker.share is None:
                self._follow(worker, *answer)
            else:
                worker.share.done(worker.ids, answer)
                worker.ids, worker.share, self._deaths = (), None, 0
        for worker in due.values():
            if worker.call is not None and time.monotonic() > self._limit(worker):
                self._replace(worker, f"no result after {self._timeout:g} s", hung=True)

    def _limit(self, worker: _Worker) -> float:
        if self._timeout is None or not worker.ids:
            return math.inf
        return worker.begin + self._timeout * len(worker.ids)

    def _follow(self, worker: _Worker, held: str, where: str) -> None:
        """A worker says which state it holds: let it have ours if it is another."""
        if not worker.started:
            worker.name, worker.started = f"{worker.name} ({where})", True
        if held == self._digest:
            return
        behind, sent = worker.generation < self._own.generation, worker.sent
        worker.call = worker.actor.reset.remote(self._own.generation, self._current())
        worker.generation, worker.sent = self._own.generation, True
        if behind:  # it started while a generation passed
            return
        if sent:
            raise WorkerError(
                f"{worker.name} does not hold the bits of the state that it was sent: it must have the driver's "
                "settings of JAX (jax_enable_x64) and its versions of the packages"
            )
        warnings.warn(
            f"{worker.name} has drifted from the driver in generation {worker.generation}; it is sent the state",
            RuntimeWarning,
            stacklevel=4,
        )

    def _replace(self, worker: _Worker, reason: str, *, hung: bool = False) -> None:
        self._ray.kill(worker.actor)
        number = self._workers.index(worker)
        self._workers[number] = self._start(number)
        if worker.share is not None:
            worker.share.lost(worker.ids, reason, hung=hung)
        if not hung:
            self._deaths += 1
            if self._deaths > DEATHS + 2 * len(self._workers):
                deaths, self._deaths = self._deaths, 0
                raise WorkerError(f"{deaths} workers died and no member was finished in between; the last: {reason}")
        members = f"; members {', '.join(map(str, worker.ids))} go to others" if worker.ids and not hung else ""
        warnings.warn(f"{reason}{members}; a new worker takes its place", RuntimeWarning, stacklevel=4)
