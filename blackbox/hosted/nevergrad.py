"""Optimizers of nevergrad as ``nevergrad:NAME``: some five hundred names, from random search to NGOpt.

Source: nevergrad 1.0, ``nevergrad.optimizers.registry``. The optimizer is an object; its state here is the log of what
it was told (:mod:`blackbox.hosted.replay`). Departures from a plain use of the package:

* Optimizers draw from ``parametrization.random_state`` and, in places, from the global generators of NumPy and
  Python, or from a pycma that seeds these by the clock. Each gets its own state of both, put in place around each call
  and taken out after it, and pycma seeds nothing meanwhile.
* Those that are no ask/tell methods run in threads. Here whoever tells a thread a value waits for its next point, so
  that the threads of a portfolio draw their numbers one after the other; and none keeps the interpreter from ending.
* An optimizer that asks for nothing new any more has ended; nevergrad goes on with random points.
* NGOpt and its kin fail with NumPy 2.4 or later, hence the bound in the extra.

A member that was moved is told as one that was not asked; where the optimizer allows no such thing, as failed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import queue
import random
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from blackbox.arrays import Array, Key
from blackbox.errors import MissingExtra, SettingError, missing_extra
from blackbox.hosted import replay
from blackbox.strategy import algorithm, nearest, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

EVALUATIONS = 100  # per dimension, planned for where no budget is known


@functools.cache
def _package() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nevergrad
    except ImportError:
        raise missing_extra("nevergrad", "nevergrad") from None
    return nevergrad


def names() -> list[str]:
    """The optimizers that the installed nevergrad registers; some need further packages."""
    return sorted(_package().optimizers.registry)


class _Course:
    """A nevergrad optimizer with its random generators."""

    def __init__(self, strategy: Nevergrad, state: replay.Log) -> None:
        package = _package()
        self._errors, self._registered = package.errors, strategy.registered
        seed = replay.seed_of(state.key)
        self._numpy = np.random.RandomState(seed).get_state()
        self._python = random.Random(seed).getstate()
        x0 = np.asarray(state.x0, np.float64)
        self._dtype = np.asarray(state.x0).dtype
        self._popsize, self._low, self._high = strategy.popsize, strategy.low, strategy.high
        self._left = EVALUATIONS * len(x0) if strategy.evaluations is None else strategy.evaluations
        self._left = max(self._left, self._popsize)
        self._worst = -replay.LARGEST
        self.population: Any = None
        self.ended = False
        with self._surroundings() as caught:
            array = package.p.Array(init=x0 if self._low is None else np.clip(x0, self._low, self._high))
            array.set_mutation(sigma=strategy.sigma0)
            if self._low is not None:
                array.set_bounds(self._low, self._high)
            array.random_state = np.random.RandomState(seed)
            kind = package.optimizers.registry[strategy.name]
            self._optimizer = kind(array, budget=self._left, num_workers=self._popsize)
            self._ask(caught)

    @contextlib.contextmanager
    def _surroundings(self) -> Iterator[list[warnings.WarningMessage]]:
        """The optimizer's own state of the global generators, and threads that end with the interpreter."""
        from cma.options_parameters import cma_default_options as defaults
        from nevergrad.optimization import recaster

        with replay.quiet() as caught:
            outside = np.random.get_state(), random.getstate(), recaster._MessagingThread, defaults["seed"]
            np.random.set_state(self._numpy)
            random.setstate(self._python)
            recaster._MessagingThread = functools.partial(_thread_in_step, outside[2])
            defaults["seed"] = math.nan
            try:
                yield caught
            except (ImportError, RuntimeError) as error:
                reason = error if isinstance(error, ImportError) else error.__cause__  # what ended a thread
                if not isinstance(reason, ImportError):
                    raise
                raise MissingExtra(f"{self._registered} needs a package that is not installed: {reason}") from error
            finally:
                self._numpy, self._python = np.random.get_state(), random.getstate()
                np.random.set_state(outside[0])
                random.setstate(outside[1])
                recaster._MessagingThread, defaults["seed"] = outside[2:]

    def _ask(self, caught: list[warnings.WarningMessage]) -> None:
        self.population = None
        if self._left < self._popsize:
            return
        self._candidates = [self._optimizer.ask() for _ in range(self._popsize)]
        finished = any(issubclass(w.category, self._errors.FinishedUnderlyingOptimizerWarning) for w in caught)
        self.ended = finished and self._optimizer.recast  # while a portfolio goes on with its others
        if not self.ended:
            rows = np.array([np.asarray(candidate.value, np.float64) for candidate in self._candidates])
            self.population = rows.astype(self._dtype).astype(np.float64)

    def tell(self, points: Float[np.ndarray, "n d"], values: Float[np.ndarray, "n"]) -> None:
        if self.population is None:  # only now: to the end of the budget it is this one that recommends
            self.ended = True
            return
        self._worst = max(self._worst, float(values.max()))
        waiting: dict[bytes, list[Any]] = {}
        for row, candidate in zip(self.population, self._candidates, strict=True):
            waiting.setdefault(row.tobytes(), []).append(candidate)
        moved = []
        with self._surroundings() as caught:
            for row, value in zip(points, values.tolist(), strict=True):
                if candidates := waiting.get(row.tobytes()):
                    self._optimizer.tell(candidates.pop(0), value)
                else:
                    moved.append((row, value))
            for candidate in (candidate for candidates in waiting.values() for candidate in candidates):
                self._optimizer.tell(candidate, self._worst)
            for row, value in moved:
                self._tell_moved(row, value)
            self._left -= self._popsize
            self._ask(caught)  # here too: an optimizer's thread runs from the tell to this

    def _tell_moved(self, row: Float[np.ndarray, "d"], value: float) -> None:
        inside = row if self._low is None else np.clip(row, self._low, self._high)
        with contextlib.suppress(self._errors.TellNotAskedNotSupportedError):
            self._optimizer.tell(self._optimizer.parametrization.spawn_child(new_value=inside), value)

    def recommend(self) -> Float[np.ndarray, "d"]:
        with self._surroundings():
            return np.asarray(self._optimizer.provide_recommendation().value, np.float64)

    def close(self) -> None:
        thread = getattr(self._optimizer, "_messaging_thread", None)
        if thread is not None and thread.is_alive():
            thread.stop()


def _thread_in_step(kind: Any, *args: Any, **kwargs: Any) -> Any:
    thread = kind(*args, **kwargs)
    thread.daemon = True
    thread.messages_tell = _Told(thread)
    return thread


class _Told(queue.Queue[Any]):
    """What a thread is told; ``put`` returns once the thread waits for the next value, or has ended."""

    def __init__(self, thread: Any) -> None:
        super().__init__()
        self._thread = thread

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        thread, asked = self._thread, self._thread.messages_ask
        with asked.not_empty:
            while not asked.queue and thread.is_alive() and thread is not threading.current_thread():
                asked.not_empty.wait(0.01)


@algorithm
class Nevergrad:
    """An optimizer of nevergrad. One that has ended, or used its budget, is restarted by the shell.

    Args:
        name: as in nevergrad's registry.
        popsize: points asked together (``num_workers``), as many as are evaluated at once.
        sigma0: the mutations' standard deviation, in units of x.
        evaluations: ``budget``, by which many optimizers choose their ways; by default the search's own, else 100 d.
        low, high: bounds of all coordinates; in a search space, those of the unit cube.
    """

    name: str
    popsize: int = 1
    sigma0: float = 1.0
    evaluations: int | None = None
    low: float | None = None
    high: float | None = None

    pure: ClassVar[bool] = False
    positional: ClassVar[bool] = True
    injectable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        registry = _package().optimizers.registry
        if self.name not in registry:
            raise SettingError(f"nevergrad has no optimizer {self.name!r}{nearest(self.name, registry)}")
        require_integer("popsize", self.popsize, low=1, optional=False)
        require_integer("evaluations", self.evaluations, low=1)
        require_number("sigma0", self.sigma0, above=0)
        replay.require_box(self.low, self.high)
        if self.popsize > 1 and getattr(registry[self.name], "no_parallelization", False):
            raise SettingError(f"popsize must be 1 for {self.registered}, which is sequential; got {self.popsize!r}")

    @functools.cached_property
    def _courses(self) -> replay.Courses:
        # Of a copy: courses that knew their strategy would keep it, and so themselves, alive.
        return replay.Courses(functools.partial(_Course, dataclasses.replace(self)))

    @property
    def registered(self) -> str:
        """The name for :func:`blackbox.create`."""
        return f"nevergrad:{self.name}"

    def init(self, key: Key, x0: Float[Array, "d"]) -> replay.Log:
        return replay.begin(key, x0)

    def ask(self, state: replay.Log, first: int = 0) -> Float[Array, "popsize d"]:
        course = self._courses.at(state)
        return replay.population_of(state, course, self.popsize, first, self.sigma0, self.low, self.high)

    def tell(self, state: replay.Log, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> replay.Log:
        told = replay.extend(state, population, fitness)
        self._courses.advance(state, told)
        return told

    def recommend(self, state: replay.Log) -> Float[Array, "d"]:
        return replay.recommendation(state, self._courses.at(state))

    def stop(self, state: replay.Log) -> dict[str, Bool[np.ndarray, ""]]:
        """That the optimizer has ended or its evaluations are used."""
        return replay.ended(self._courses.at(state))
