"""Evaluation in worker processes, each of which can be killed and replaced at any moment.

The processes are spawned, never forked: a fork copies the locks but not the threads of BLAS, OpenMP or JAX and
may deadlock. The objective must therefore be importable by another interpreter, and a script needs the usual
``if __name__ == "__main__":`` guard.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from concurrent.futures import CancelledError, Future
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, NamedTuple, cast

from blackbox.errors import WorkerError
from blackbox.evaluation import Call, Objective, Post, Reply, describe

if TYPE_CHECKING:
    from pebble import ProcessPool

START_LIMIT = 120.0  # seconds in which the first worker process must come up
GRACE = 0.5  # seconds that pebble, which looks ten times a second, has to report a death with its cause
START_DEATHS = 100  # processes in a row that may die before they are ready


def _pack(thing: object) -> bytes:
    """As multiprocessing sends it; done by us, so that what cannot be sent hurts one evaluation, not the pool."""
    return bytes(ForkingPickler.dumps(thing))


def _unpack(reply: Reply) -> Reply:
    if reply.status != "ok":
        return reply
    try:
        return reply._replace(value=ForkingPickler.loads(cast(bytes, reply.value)))
    except Exception as error:
        reason = f"the returned object could not be read back from the worker process: {describe(error)}"
        return Reply("failed", math.nan, reason, reply.seconds)


class _Process(NamedTuple):
    """A pebble pool of exactly one process."""

    pool: ProcessPool
    hello: Future[tuple[int, str]]  # its pid, and why the objective could not be loaded

    @property
    def pid(self) -> int | None:
        ready = self.hello.done() and not self.hello.cancelled() and self.hello.exception() is None
        return self.hello.result()[0] if ready else None


class _Run(NamedTuple):
    process: _Process
    future: Future[Reply]
    begin: float


class Processes:
    """Worker processes, each in a pebble pool of its own.

    In a pool of several, the processes share two pipes and their locks: one that is killed while it holds a lock
    or is halfway through a message stops all the others, and one that is killed while idle breaks the pool
    (measured with pebble 5.2: of 5,000 tasks in a pool of 4 under random SIGKILLs, 4,427 were never finished).
    Alone, it can only harm itself, and is replaced together with its pipes.
    """

    lost = 0

    def __init__(self, objective: Objective, timeout: float | None) -> None:
        self.broken = ""
        self._timeout = timeout
        self._name = getattr(objective, "__qualname__", None) or repr(objective)[:100]
        try:
            self._objective = _pack(objective)
        except Exception as error:
            raise WorkerError(self._unsendable(str(error))) from error
        self._busy: dict[int, _Run] = {}
        self._absent: dict[int, float] = {}  # since when the process of a token is missing
        self._deaths = 0  # processes in a row that died before they were ready
        first = self._start()
        self._idle = [first]
        try:
            _, problem = first.hello.result(timeout=START_LIMIT)
        except (RuntimeError, OSError) as error:  # also TimeoutError
            _end([first])
            raise WorkerError(
                "no worker process came up (its own words are on stderr). A script that starts workers must do so "
                'under `if __name__ == "__main__":`, since each worker imports it'
            ) from error
        except BaseException:
            _end([first])
            raise
        if problem:
            _end([first])
            raise WorkerError(self._unsendable(problem.splitlines()[0]))

    def _unsendable(self, problem: str) -> str:
        return (
            f"objective {self._name} cannot be sent to a worker process ({problem}); define it at the top level of "
            'an importable module or script (no lambda, no closure, no notebook cell), or pass kind="thread"'
        )

    def _start(self) -> _Process:
        from pebble import ProcessPool

        main = sys.modules["__main__"]
        if str(getattr(main, "__file__", "")).startswith("<"):
            del main.__file__  # "<stdin>", which multiprocessing would have each worker open as a script
        pool = ProcessPool(
            max_workers=1,
            initializer=_prepare,
            initargs=(self._objective,),
            context=multiprocessing.get_context("spawn"),
        )
        try:
            return _Process(pool, pool.schedule(_hello))
        except (RuntimeError, OSError) as error:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()
            raise WorkerError(f"a worker process could not be started: {error}") from error

    def launch(self, token: int, x: object, post: Post) -> None:
        try:
            packed = _pack(x)
        except Exception as error:
            post(token, Reply("failed", math.nan, f"x cannot be sent to a process: {describe(error)}", 0.0))
            return
        while True:
            try:
                process = self._idle.pop() if self._idle else self._start()
            except WorkerError as error:
                self.broken = str(error)
                post(token, Reply("crashed", math.nan, self.broken, 0.0))
                return
            try:
                future = process.pool.schedule(_evaluate, (packed,), timeout=self._timeout)
                break
            except RuntimeError:  # it died while idle
                _end([process])
        self._busy[token] = _Run(process, future, time.monotonic())
        future.add_done_callback(lambda done: post(token, done))

    def settle(self, token: int, result: Reply | Future[Reply]) -> Reply:
        if token not in self._busy:  # it was never sent
            assert isinstance(result, Reply)
            return result
        process, future, begin = self._busy.pop(token)
        try:
            if isinstance(result, Reply):  # a silent death, found by tick
                reply = result
            else:
                reply = _unpack(future.result())
                self._idle.append(process)
                self._deaths = 0
                return reply
        except TimeoutError:
            reply = Reply("timeout", math.nan, f"killed after {self._timeout:g} s")
        except (RuntimeError, OSError, CancelledError) as error:
            code = getattr(error, "exitcode", None)
            how = "died" if code is None else f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
            reply = Reply("crashed", math.nan, f"the worker process {how}")
        reply = reply._replace(seconds=time.monotonic() - begin, started=process.pid is not None)
        self._deaths = 0 if reply.started else self._deaths + 1
        _end([process])
        if self._deaths >= START_DEATHS:
            self.broken = f"{START_DEATHS} worker processes in a row died while starting"
        else:
            with contextlib.suppress(WorkerError):  # the next launch tries again, and reports it
                self._idle.append(self._start())
        return reply

    def tick(self, post: Post) -> None:
        """Find processes that ended inside an evaluation without a word from pebble, as with exit code 0."""
        alive = {child.pid for child in multiprocessing.active_children()}
        now = time.monotonic()
        self._absent = {
            token: self._absent.get(token, now)
            for token, run in self._busy.items()
            if run.process.hello.done() and run.process.pid not in alive and not run.future.done()
        }
        for token, since in self._absent.items():
            if now - since > GRACE:
                post(token, Reply("crashed", math.nan, "the worker process left in the middle of the evaluation"))

    def close(self, *, kill: bool) -> None:
        gone: set[int] = set()
        while not kill and any(not run.future.done() for token, run in self._busy.items() if token not in gone):
            self.tick(lambda token, _: gone.add(token))
            time.sleep(0.05)
        _end([*self._idle, *(run.process for run in self._busy.values())])
        self._idle.clear()
        self._busy.clear()


def _end(processes: list[_Process]) -> None:
    """End processes, running or dead, with their pool's threads and whatever the objective left running."""
    for process in processes:
        process.pool.stop()  # type: ignore[no-untyped-call]
    for process in processes:
        process.pool.join()
        if process.pid is not None and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


# What follows runs in the worker process.

_packed: bytes = b""
_call: Call | None = None


def _prepare(objective: bytes) -> None:
    global _packed
    _packed = objective
    # pebble's handler is Python code, which a hung C extension never lets run; the default one ends us at once.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # so that what the objective starts can be ended with us
    threading.Thread(target=_end_with_parent, name="blackbox-watch-parent", daemon=True).start()


def _end_with_parent() -> None:
    """A hung evaluation must not outlive a parent that was killed."""
    if (parent := multiprocessing.parent_process()) is not None:
        multiprocessing.connection.wait([parent.sentinel])
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


def _hello() -> tuple[int, str]:
    try:
        _load()
    except BaseException as error:
        return os.getpid(), describe(error)
    return os.getpid(), ""


def _load() -> Call:
    global _call
    if _call is None:
        _call = Call(ForkingPickler.loads(_packed), keep_exception=False)
    return _call


def _evaluate(x: bytes) -> Reply:
    try:
        call, point = _load(), ForkingPickler.loads(x)
    except BaseException as error:
        return Reply("failed", math.nan, f"x could not be read in the worker process: {describe(error)}", 0.0)
    reply = call(point)
    if reply.status != "ok":
        return reply
    try:
        return reply._replace(value=_pack(reply.value))
    except BaseException as error:
        kind = type(reply.value).__name__
        reason = f"the returned {kind} cannot be sent from the worker process: {describe(error)}"
        return Reply("failed", math.nan, reason, reply.seconds)
