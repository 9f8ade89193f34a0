"""Evaluation of an objective: inline, in processes, in threads, on Ray, or by anybody's executor.

:func:`start_workers` returns one of them behind a single interface, :class:`Workers`. Each submitted evaluation
comes back exactly once as an :class:`Outcome`, whatever the objective does: raise, hang, exit, or die with its
process. All calls belong to one thread.

What each kind can do about an evaluation that exceeds ``timeout``:

* a *process* is killed, with every process that the objective started, and replaced;
* a *thread* cannot be killed: the outcome is reported, a fresh thread takes the slot, and the old one runs on as
  a daemon until it returns or the interpreter exits;
* a *task of Ray* is killed with its process (see :mod:`blackbox.cluster`);
* an *executor's* future is cancelled; where that fails, one slot fewer is used, because the worker is stuck.

Processes need an objective that another interpreter can import: see :mod:`blackbox.processes`.
"""

from __future__ import annotations

import itertools
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal, Protocol

from blackbox.cluster import Ray, RayTasks, is_address
from blackbox.dimensions import show
from blackbox.errors import SettingError, WorkerError
from blackbox.evaluation import Call, Objective, Post, Reply, Status, describe
from blackbox.processes import Processes

ALLOWED = 'an integer >= 0, "ray", an address of Ray, blackbox.Ray(...) or an executor with submit(fn, x)'
DEATHS = ("KilledWorker",)  # exceptions of executors whose workers died: dask, after it has repeated it a few times
TICK = 0.05  # seconds between looks at deadlines and silent deaths; results wake a waiter at once


@dataclass(frozen=True)
class Outcome:
    """One finished evaluation.

    Attributes:
        id: the caller's number of the evaluation.
        value: what the objective returned, unchecked; NaN where it returned nothing.
        status: "ok"; "failed" (it raised); "timeout" (over the time limit); "crashed" (its worker died).
        reason: empty, or one line that says what happened, for an exception followed by the traceback's tail.
        seconds: duration seen by the worker, or by us where the worker cannot tell.
        exception: the exception itself, where the objective ran in this process.
    """

    id: int
    value: object
    status: Status
    reason: str
    seconds: float
    exception: BaseException | None = None


class Workers(Protocol):
    """Evaluates points; ``slots`` of them at once, further ones in the order of submission."""

    slots: int

    def submit(self, id: int, x: object) -> None:
        """Queue the point ``x``. Raises WorkerError when the workers are closed or beyond repair."""
        ...

    def wait(self, timeout: float | None) -> list[Outcome]:
        """At least one finished outcome, or [] after ``timeout`` seconds or when nothing is under way.

        Once the workers are beyond repair, all that is under way comes back as "crashed".
        """
        ...

    def close(self, *, kill: bool = False) -> None:
        """Drop what is queued, wait for (or kill) what runs, and end every worker. Repeatable."""
        ...


class Executor(Protocol):
    """Anything with ``submit(fn, x)`` that returns a future: concurrent.futures, loky, dask, mpi4py, submitit."""

    def submit(self, fn: Callable[[Any], Any], x: Any, /) -> Any: ...


def start_workers(
    objective: Objective,
    workers: int | str | Ray | Executor = 0,
    *,
    kind: Literal["process", "thread"] = "process",
    timeout: float | None = None,
    retries: int = 1,
) -> Workers:
    """Workers that evaluate ``objective``.

    Args:
        objective: a function of one point.
        workers: how many evaluations run at once; 0 and 1 mean one after the other, in this process where there
            is no ``timeout``. Or "ray", an address of Ray, or :class:`blackbox.Ray`. Or an executor, which stays the
            caller's: closing does not shut it down.
        kind: "process" (isolated and killable) or "thread" (any callable; shares memory and the interpreter lock).
        timeout: limit of one evaluation in seconds, > 0; the start of a process does not count.
        retries: how often an evaluation is repeated after its worker process died, >= 0.

    Raises:
        SettingError: an argument outside its range.
        WorkerError: ``objective`` cannot be sent to a process, or no process can be started.
        MissingExtra: Ray is not installed.
    """
    if not callable(objective):
        raise SettingError(f"objective must be callable, got {type(objective).__name__}")
    if kind not in ("process", "thread"):
        raise SettingError(f'kind must be "process" or "thread", got {kind!r}')
    if timeout is not None:
        if not isinstance(timeout, Real) or isinstance(timeout, bool) or not 0 < timeout < math.inf:
            raise SettingError(f"timeout must be None or a positive number of seconds, got {timeout!r}")
        timeout = float(timeout)
    if not isinstance(retries, Integral) or isinstance(retries, bool) or retries < 0:
        raise SettingError(f"retries must be an integer >= 0, got {retries!r}")
    if isinstance(workers, Integral):
        if isinstance(workers, bool) or workers < 0:
            raise SettingError(f"workers must be {ALLOWED}, got {workers!r}")
        if workers <= 1 and timeout is None:
            return _Inline(objective)
        slots = max(int(workers), 1)
        if kind == "thread":
            return _Pool(_Threads(objective, timeout), slots, retries)
        return _Pool(Processes(objective, timeout), slots, retries)
    if isinstance(workers, str) and (workers == "ray" or is_address(workers)):
        workers = Ray(None if workers == "ray" else workers)
    if isinstance(workers, Ray):
        tasks = RayTasks(objective, timeout, workers)
        return _Pool(tasks, tasks.slots, retries)
    if isinstance(workers, str) or not callable(getattr(workers, "submit", None)):
        raise SettingError(f"workers must be {ALLOWED}, got {show(workers)}")
    executor = _Executor(objective, timeout, workers)
    return _Pool(executor, executor.capacity, retries)


class _Inline:
    """No worker at all: the objective runs inside :meth:`wait`, and KeyboardInterrupt passes through."""

    slots = 1

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._pending: deque[tuple[int, object]] = deque()
        self._closed = False

    def submit(self, id: int, x: object) -> None:
        if self._closed:
            raise WorkerError("submit: these workers are closed")
        self._pending.append((id, x))

    def wait(self, timeout: float | None) -> list[Outcome]:
        if not self._pending or timeout == 0.0:
            return []
        id, x = self._pending[0]
        begin = time.perf_counter()
        try:
            outcome = Outcome(id, self._objective(x), "ok", "", time.perf_counter() - begin)
        except (Exception, SystemExit) as error:
            outcome = Outcome(id, math.nan, "failed", describe(error), time.perf_counter() - begin, error)
        self._pending.popleft()  # only now: an interrupted evaluation stays queued
        return [outcome]

    def close(self, *, kill: bool = False) -> None:
        self._closed = True
        self._pending.clear()


class _Backend(Protocol):
    """Runs launches, known by token. Posts (token, result) for each; ``settle`` turns a result into a reply."""

    broken: str  # why nothing can be launched any more, or ""

    @property
    def lost(self) -> int: ...  # slots held by evaluations that were given up but cannot be ended
    def launch(self, token: int, x: object, post: Post) -> None: ...
    def settle(self, token: int, result: Any) -> Reply: ...
    def tick(self, post: Post) -> None: ...  # look at deadlines and for silent deaths
    def close(self, *, kill: bool) -> None: ...


class _Pool:
    """The queue, the retries, and the promise that each submitted id is reported exactly once."""

    def __init__(self, backend: _Backend, slots: int, retries: int) -> None:
        self.slots = slots
        self._backend = backend
        self._retries = retries
        self._pending: deque[tuple[int, object, int]] = deque()  # (id, x, crashes so far)
        self._running: dict[int, tuple[int, object, int]] = {}  # by token
        self._events: queue.SimpleQueue[tuple[int, object]] = queue.SimpleQueue()
        self._tokens = itertools.count()
        self._next_tick = 0.0
        self._closed = False

    def submit(self, id: int, x: object) -> None:
        if self._closed:
            raise WorkerError("submit: these workers are closed")
        if self._backend.broken:
            raise WorkerError(f"submit: {self._backend.broken}")
        self._pending.append((id, x, 0))
        self._fill()

    def wait(self, timeout: float | None) -> list[Outcome]:
        end = math.inf if timeout is None else time.monotonic() + timeout
        outcomes = self._collect(0.0)
        while not outcomes and (self._running or self._pending) and (left := end - time.monotonic()) > 0:
            outcomes = self._collect(min(TICK, left))
        return outcomes

    def close(self, *, kill: bool = False) -> None:
        if not self._closed:
            self._pending.clear()
            self._backend.close(kill=kill)
            self._running.clear()
            self._closed = True

    def _post(self, token: int, result: object) -> None:
        self._events.put((token, result))

    def _fill(self) -> None:
        while self._pending and len(self._running) < self.slots - self._backend.lost and not self._backend.broken:
            token = next(self._tokens)
            self._running[token] = self._pending.popleft()
            self._backend.launch(token, self._running[token][1], self._post)

    def _collect(self, pause: float) -> list[Outcome]:
        if time.monotonic() >= self._next_tick:
            self._backend.tick(self._post)
            self._next_tick = time.monotonic() + TICK
        events = []
        try:
            events.append(self._events.get(timeout=pause))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            outcomes = [outcome for token, result in events if (outcome := self._finish(token, result))]
        if why := self._backend.broken:
            outcomes += [Outcome(id, math.nan, "crashed", why, math.nan) for id, *_ in self._pending]
            self._pending.clear()
        self._fill()
        return outcomes

    def _finish(self, token: int, result: object) -> Outcome | None:
        """The outcome of a launch, or None where it was given up earlier or is to be launched again."""
        if token not in self._running:
            return None
        id, x, crashes = self._running.pop(token)
        reply = self._backend.settle(token, result)
        crashes += reply.started
        if reply.status == "crashed" and crashes <= self._retries and not self._backend.broken:
            self._pending.appendleft((id, x, crashes))
            return None
        return Outcome(id, reply.value, reply.status, reply.reason, reply.seconds, reply.exception)


class _Threads:
    """A daemon thread per evaluation, so that one which never returns holds up neither its slot nor the exit."""

    broken = ""
    lost = 0

    def __init__(self, objective: Objective, timeout: float | None) -> None:
        self._call = Call(objective, keep_exception=True)
        self._timeout = timeout
        self._threads: dict[int, tuple[threading.Thread, float]] = {}  # with the time of the start

    def launch(self, token: int, x: object, post: Post) -> None:
        thread = threading.Thread(
            target=lambda: post(token, self._call(x)), name=f"blackbox-evaluation-{token}", daemon=True
        )
        thread.start()
        self._threads[token] = thread, time.monotonic()

    def settle(self, token: int, result: Reply) -> Reply:
        thread, _ = self._threads.pop(token)
        if result.status != "timeout":
            thread.join()  # it has posted its result, so this is the end of it
        return result

    def tick(self, post: Post) -> None:
        if self._timeout is not None:
            now = time.monotonic()
            for token, (_, begin) in self._threads.items():
                if now - begin > self._timeout:
                    reason = f"no result after {self._timeout:g} s; the thread was left to itself"
                    post(token, Reply("timeout", math.nan, reason, now - begin))

    def close(self, *, kill: bool) -> None:
        for thread, begin in self._threads.values():
            if not kill:
                thread.join(None if self._timeout is None else max(0.0, begin + self._timeout - time.monotonic()))
        self._threads.clear()


class _Executor:
    """Somebody else's executor, used only through ``submit`` and the futures that it returns."""

    def __init__(self, objective: Objective, timeout: float | None, executor: Executor) -> None:
        self.broken = ""
        self._call = Call(objective, keep_exception=isinstance(executor, ThreadPoolExecutor))
        self._timeout = timeout
        self._executor = executor
        self._futures: dict[int, tuple[Any, float]] = {}  # with the time from which its limit counts
        self.capacity = _capacity(executor)
        self._name = os.urandom(8).hex()
        self._dask = _dask_client(executor)
        self._begun: set[str] = set()  # tokens of Dask's tasks, whose futures do not say when they begin
        if self._dask is not None and timeout is not None:
            self._dask.subscribe_topic(self._name, lambda event: self._begun.add(event[1]))
        self._stuck: list[Any] = []  # futures over their limit that could not be cancelled

    @property
    def lost(self) -> int:
        return sum(not future.done() for future in self._stuck)

    def launch(self, token: int, x: object, post: Post) -> None:
        named = replace(self._call, token=f"{self._name}-{token}")
        announces = self._dask is not None and self._timeout is not None
        call = _Announced(self._name, named) if announces else named
        try:
            future = self._executor.submit(call, x)
        except Exception as error:
            if isinstance(error, RuntimeError):  # broken, or shut down
                self.broken = f"the executor takes no more work: {error}"
            post(token, Reply("crashed" if self.broken else "failed", math.nan, describe(error), 0.0))
            return
        self._futures[token] = future, time.monotonic()
        if callable(notify := getattr(future, "add_done_callback", None)):
            notify(lambda done: post(token, done))

    def settle(self, token: int, result: Any) -> Reply:
        future, begin = self._futures.pop(token, (None, time.monotonic()))
        if isinstance(result, Reply):  # of ours: refused at launch, or over its limit
            return result
        seconds = time.monotonic() - begin
        try:
            reply = future.result()
        except BrokenExecutor as error:
            self.broken = f"the executor is broken: {error}"
            return Reply("crashed", math.nan, describe(error), seconds)
        except (Exception, CancelledError) as error:
            status: Status = "crashed" if type(error).__name__ in DEATHS else "failed"
            return Reply(status, math.nan, describe(error), seconds)
        return reply if isinstance(reply, Reply) else Reply(*reply)

    def tick(self, post: Post) -> None:
        now = time.monotonic()
        for token, (future, begin) in self._futures.items():
            if future.done():
                if not hasattr(future, "add_done_callback"):
                    post(token, future)
            elif self._timeout is None:
                continue
            elif not self._has_begun(token, future):
                self._futures[token] = future, now  # still in somebody else's queue: nothing has run yet
            elif now - begin > self._timeout:
                reason = f"no result after {self._timeout:g} s"
                # Dask forgets a task that is cancelled, while it runs on.
                if self._dask is not None or not future.cancel():
                    self._stuck.append(future)
                    reason += "; it could not be cancelled and holds up one worker of the executor"
                post(token, Reply("timeout", math.nan, reason, now - begin))
        if self.lost >= self.capacity:
            self.broken = "every worker of the executor is stuck in an evaluation over its time limit"

    def _has_begun(self, token: int, future: Any) -> bool:
        """Whether the evaluation has left all queues, as far as the executor tells."""
        if self._dask is not None:
            return f"{self._name}-{token}" in self._begun
        running = getattr(future, "running", None)
        return not callable(running) or bool(running())

    def close(self, *, kill: bool) -> None:
        if self._dask is not None and self._timeout is not None:
            self._dask.unsubscribe_topic(self._name)
        for future, begin in self._futures.values():
            end = begin + (math.inf if self._timeout is None else self._timeout)
            while not (future.cancel() or kill or future.done()) and time.monotonic() < end:
                time.sleep(TICK)
        self._futures.clear()


def _capacity(executor: Executor) -> int:
    """Evaluations that the executor runs at once, as far as it tells."""
    for attribute in ("_max_workers", "num_workers"):  # concurrent.futures and loky; mpi4py
        if isinstance(count := getattr(executor, attribute, None), int) and count > 0:
            return count
    if (client := _dask_client(executor)) is not None:  # threads of each worker, by address
        return max(1, int(sum(client.nthreads().values())))
    return os.cpu_count() or 1


def _dask_client(executor: Executor) -> Any:
    """The client that an executor of Dask is, or belongs to; None for others."""
    for client in (executor, getattr(executor, "_client", None)):
        if callable(getattr(client, "nthreads", None)):
            return client
    return None


@dataclass(frozen=True)
class _Announced:
    """A call that a worker of Dask announces under ``topic`` when it begins."""

    topic: str
    call: Call

    def __call__(self, x: object) -> Reply:
        from distributed import get_worker

        get_worker().log_event(self.topic, self.call.token)
        return self.call(x)
