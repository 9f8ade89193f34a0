"""States for optimizers that are opaque, mutable objects: what was told, from which they can be made again.

The state of a hosted optimizer is its log: key, start point, and all points and values that it was told. The object
itself is remembered by the strategy under a digest of the log, so that the usual course, told once after each ask,
costs no replay. From any other state (an old one, or one of a checkpoint) the object is made anew and told the log.
So ``ask`` is a function of the state alone, and nothing but arrays of numbers ever has to be kept.

A tell copies the log: O(evaluations d) beside what the optimizer itself does.

A failed evaluation is told as the worst value so far: NaN or infinity would end some methods and ruin the models of
others. Before there is any it is told as 1e20.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from blackbox.arrays import Array, Key, namespace
from blackbox.errors import SettingError
from blackbox.kernels.noise import normal
from blackbox.strategy import require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8

REMEMBERED = 4  # objects that a strategy keeps alive, one for each state that was reached last
NEAR = 0.1  # deviation of further members from those asked, in units of sigma0
LARGEST = 1e20  # magnitude of fitness that optimizers are told

_QUIET = threading.Lock()

Rows = Any  # Float[np.ndarray, "n d"]


class Log(NamedTuple):
    """All that the optimizer was told."""

    key: Key
    generation: Int[Array, ""]
    x0: Float[Array, "d"]
    points: Float[np.ndarray, "told d"]
    values: Float[np.ndarray, "told"]
    sizes: Int[np.ndarray, "generations"]
    """How many of them were told together."""
    mark: UInt8[np.ndarray, "16"]
    """Digest of it all."""

    def told(self, start: int, stop: int) -> tuple[Any, ...]:
        """Points and values of these evaluations, as courses are told."""
        return self.points[start:stop], self.values[start:stop]


class Course(Protocol):
    """A running optimizer."""

    @property
    def population(self) -> Rows | None:
        """The points that it waits for; None once it has nothing left to do."""

    @property
    def ended(self) -> bool:
        """Whether it is time for another run."""

    def tell(self, *args: Any, **kwargs: Any) -> None:
        """Take in what came of ``population``, points and values, and ask for the next points."""

    def recommend(self) -> Float[np.ndarray, "d"] | None:
        """The point to return; None for the best told."""

    def close(self) -> None:
        """End it; harmless if it has ended."""


class Courses:
    """The running optimizers of one strategy, by the digests of the logs that led to them.

    A state is a :class:`Log`, or what has its ``mark``, ``sizes`` and ``told`` and tells more than points and values.
    """

    def __init__(self, start: Callable[[Any], Course]) -> None:
        self._start = start
        self._running: OrderedDict[bytes, Course] = OrderedDict()

    def at(self, state: Any) -> Course:
        """The optimizer that has been told this log; made again if it is not remembered."""
        course = self._running.pop(state.mark.tobytes(), None)
        if course is None:
            course = self._start(state)
            try:
                for end, size in zip(np.cumsum(state.sizes), state.sizes, strict=True):
                    course.tell(*state.told(end - size, end))
            except BaseException:
                course.close()
                raise
        self._keep(state, course)
        return course

    def advance(self, state: Any, told: Any) -> None:
        """Tell the optimizer of ``state`` what ``told`` has more."""
        course = self.at(state)
        del self._running[state.mark.tobytes()]
        end = int(told.sizes.sum())
        try:
            course.tell(*told.told(end - int(told.sizes[-1]), end))
        except BaseException:
            course.close()
            raise
        self._keep(told, course)

    def _keep(self, state: Any, course: Course) -> None:
        self._running[state.mark.tobytes()] = course
        while len(self._running) > REMEMBERED:
            self._running.popitem(last=False)[1].close()

    def __del__(self) -> None:
        for course in self._running.values():
            with contextlib.suppress(Exception):
                course.close()


@contextlib.contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Where an optimizer works: its warnings are collected. One at a time, since filters are of the whole process."""
    with _QUIET, warnings.catch_warnings(record=True) as caught, np.errstate(all="ignore"):
        warnings.simplefilter("always")
        yield caught


def require_box(low: float | None, high: float | None) -> None:
    """SettingError unless there are both bounds or none, in order."""
    require_number("low", low)
    require_number("high", high)
    if (low is None) != (high is None) or (low is not None and high is not None and not low < high):
        raise SettingError(f"low and high must be two numbers, low < high, or both None; got {low!r} and {high!r}")


def begin(key: Key, x0: Float[Array, "d"]) -> Log:
    """The log of an optimizer that has been told nothing."""
    return Log(
        key=np.asarray(key),
        generation=np.asarray(0)[()],
        x0=x0,
        points=np.zeros((0, x0.shape[0])),
        values=np.zeros(0),
        sizes=np.zeros(0, np.int64),
        mark=_digest(np.asarray(key), np.asarray(x0)),
    )


def extend(
    state: Log, population: Float[Array, "n d"], fitness: Float[Array, "n"], *more: Float[np.ndarray, "n k"]
) -> Log:
    """The log with one generation more; ``more`` that the optimizer is told, and kept elsewhere, enters the digest."""
    points, values = np.asarray(population, np.float64), np.asarray(fitness, np.float64)
    known = np.concatenate([state.values, values])
    worst = np.max(known, initial=-LARGEST, where=known < LARGEST)
    worst = worst if worst > -LARGEST else LARGEST
    values = np.nan_to_num(values, nan=worst, posinf=worst, neginf=-LARGEST).clip(-LARGEST, LARGEST)
    return Log(
        key=state.key,
        generation=state.generation + 1,
        x0=state.x0,
        points=np.concatenate([state.points, points]),
        values=np.concatenate([state.values, values]),
        sizes=np.append(state.sizes, len(values)),
        mark=_digest(state.mark, points, values, *more),
    )


def population_of(
    state: Log, course: Course, popsize: int, first: int, sigma: float, low: float | None, high: float | None
) -> Float[Array, "popsize d"]:
    """What the optimizer asks for; as further members, or once it has ended, points near those or near the best."""
    rows = course.population
    if first or rows is None:
        center = best_of(state) if rows is None else rows[np.arange(first, first + popsize) % len(rows)]
        shape = (popsize, state.points.shape[1])
        rows = center + NEAR * sigma * normal(state.key, int(state.generation), shape, first=first, like=state.points)
    if low is not None and high is not None:
        rows = np.clip(rows, low, high)
    return namespace(state.x0).asarray(rows, dtype=state.x0.dtype)


def best_of(state: Log) -> Float[np.ndarray, "d"]:
    """The best point told; before any, the start."""
    return state.points[np.argmin(state.values)] if len(state.values) else np.asarray(state.x0, np.float64)


def recommendation(state: Log, course: Course) -> Float[Array, "d"]:
    """The optimizer's own recommendation, or the best point told."""
    x = course.recommend()
    usable = x is not None and np.all(np.isfinite(x))
    return namespace(state.x0).asarray(x if usable else best_of(state), dtype=state.x0.dtype)


def ended(course: Course) -> dict[str, Bool[np.ndarray, ""]]:
    """The reason to restart."""
    return {"finished": np.asarray(course.ended)}


def seed_of(key: Key) -> int:
    """The 32 bits that seed the package's own generators."""
    return int.from_bytes(_digest(np.asarray(key)).tobytes()[:4], "little")


def _digest(*arrays: np.ndarray) -> UInt8[np.ndarray, "16"]:
    content = blake2b(digest_size=16)
    for array in arrays:
        content.update(np.ascontiguousarray(array).tobytes())
    return np.frombuffer(content.digest(), np.uint8)
