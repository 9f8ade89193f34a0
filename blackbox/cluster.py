"""Evaluation on Ray: each evaluation is a task, which Ray places wherever its resources are free.

What may happen without any result being lost or told twice: a worker process is killed, a node goes, memory runs out.
Ray repeats nothing by itself (``max_retries=0``); what died comes back as "crashed" and is repeated by
:mod:`blackbox.workers`, as in any other kind of worker. An evaluation over its time limit is killed with its process,
whatever it does. Time that a task waits for resources, or for its process to start, does not count.
"""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Mapping
from concurrent.futures import wait
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from blackbox.errors import SettingError, WorkerError, missing_extra
from blackbox.evaluation import Call, Objective, Post, Reply, describe

OURS = ("max_retries", "num_returns", "retry_exceptions")  # options of a task that must be as they are here
PIECE = 1.0  # seconds between two looks whether Ray is still there


@dataclass(frozen=True)
class Ray:
    """Ray as ``workers``, with the resources that each evaluation takes::

        bb.minimize(loss, space, workers=bb.Ray("ray://head:10001", options={"num_cpus": 2, "num_gpus": 0.5}))

    ``workers="ray"`` is ``Ray()``, and ``workers="ray://head:10001"`` is ``Ray("ray://head:10001")``.

    Args:
        address: a cluster's "host:port", "ray://host:port" of its client server, "auto" for the one that runs on this
            machine, "local" for a new one of this machine's cores. None: the cluster that this program has joined, or
            that the environment's RAY_ADDRESS names, or that runs here, or else a new one.
        slots: evaluations at once, >= 1; None for as many as the cluster has resources for when the run begins. More
            are for clusters that grow on demand.
        options: of each task, as for ``ray.remote``: ``{"num_cpus": 2, "num_gpus": 0.1, "resources": {"tpu": 1},
            "runtime_env": ...}``; one CPU by default.

    A cluster that the program has joined by ``ray.init`` before stays; otherwise the connection, and what was started
    with it, ends with the run.

    Raises:
        SettingError: an argument outside its range.
    """

    address: str | None = None
    slots: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.address is not None and not is_address(self.address):
            raise SettingError(
                'address must be None, "auto", "local", "host:port" or "ray://host:port"; got ' + repr(self.address)
            )
        if self.slots is not None and (
            not isinstance(self.slots, Integral) or isinstance(self.slots, bool) or self.slots < 1
        ):
            raise SettingError(f"slots must be None or an integer >= 1; got {self.slots!r}")
        if not isinstance(self.options, Mapping):
            raise SettingError(f"options must be a dictionary, as for ray.remote; got {self.options!r}")
        if taken := [name for name in OURS if name in self.options]:
            raise SettingError(f"options must not have {taken[0]!r}: crashes are repeated by `retries` of the run")


def is_address(text: object) -> bool:
    """Whether Ray could be reached under ``text``."""
    return isinstance(text, str) and (
        text in ("auto", "local") or re.fullmatch(r"(ray://)?[^\s/]+:\d+", text) is not None
    )


def require_ray() -> Any:
    """The module ``ray``; MissingExtra where it is not installed."""
    try:
        import ray
    except ImportError:
        raise missing_extra("ray", "ray") from None
    return ray


def as_remote(ray: Any, thing: Any, options: Mapping[str, Any], kind: str) -> Any:
    """A function or class as what Ray runs elsewhere, by default on one CPU; ``kind`` names it in SettingError."""
    try:
        return ray.remote(**{"num_cpus": 1, **options})(thing)
    except (ValueError, TypeError) as error:
        raise SettingError(f"options are not those of a Ray {kind}: {error}") from error


def cause(error: BaseException) -> str:
    """What Ray says on a death, without the table in the middle and the advice at the end."""
    lines = re.sub(r"\x1b\[\d+m", "", str(error)).strip().splitlines()
    if not lines:
        return repr(error)
    said = " ".join(dict.fromkeys([lines[0], lines[-1]]))
    return re.split(r" Some common causes| To troubleshoot| Check python-core", said)[0]


@dataclass
class _Task:
    ref: Any
    future: Any
    launched: float
    begin: float | None = None  # when we heard of its start; only asked for where there is a time limit


class RayTasks:
    """A backend of :mod:`blackbox.workers`.

    Attributes:
        slots: evaluations at once.
        broken: why nothing can be launched any more, or "".
    """

    lost = 0

    def __init__(self, objective: Objective, timeout: float | None, settings: Ray) -> None:
        self.broken = ""
        self._ray = ray = require_ray()
        self._timeout = timeout
        self._running: dict[int, _Task] = {}
        self._evaluate = as_remote(ray, _evaluate, {**settings.options, "max_retries": 0}, "task")
        self._owned = _join(ray, settings.address)
        try:
            self.slots = settings.slots or _slots(ray, settings.options)
            self._call = [self._put(Call(objective, keep_exception=False))]  # in a list: fetched once by each process
            self._clock = None if timeout is None else ray.remote(num_cpus=0, max_restarts=-1)(_Clock).remote()
            self._news: Any = None  # what the clock has been asked for
        except BaseException:
            self._leave()
            raise

    def _put(self, call: Call) -> Any:
        try:
            return self._ray.put(call)
        except (TypeError, AttributeError, ValueError) as error:
            raise WorkerError(f"objective cannot be sent to Ray's workers: {error}") from error

    def launch(self, token: int, x: object, post: Post) -> None:
        try:
            ref = self._evaluate.remote(self._call, self._clock, token, x)
        except (TypeError, AttributeError, ValueError) as error:
            post(token, Reply("failed", math.nan, f"x cannot be sent to Ray's workers: {describe(error)}", 0.0))
            return
        except Exception as error:
            self.broken = f"Ray takes no more work: {cause(error)}"
            post(token, Reply("crashed", math.nan, self.broken, 0.0))
            return
        self._running[token] = _Task(ref, ref.future(), time.monotonic())
        self._running[token].future.add_done_callback(lambda done: post(token, done))

    def settle(self, token: int, result: Any) -> Reply:
        task = self._running.pop(token, None)
        if isinstance(result, Reply):  # of ours: refused at launch, or over its limit
            return result
        assert task is not None
        seconds = time.monotonic() - (task.begin or task.launched)
        errors = self._ray.exceptions
        try:
            reply = Reply(*result.result())
        except errors.RayTaskError as error:
            return Reply("failed", math.nan, f"x or the value cannot be sent: {_inner(error)}", seconds)
        except (errors.RuntimeEnvSetupError, errors.TaskUnschedulableError) as error:
            self.broken = f"Ray cannot run evaluations with these options: {cause(error)}"
            return Reply("crashed", math.nan, self.broken, seconds)
        except errors.RayError as error:
            return Reply("crashed", math.nan, cause(error), seconds)
        except Exception as error:  # whatever the reading of a foreign value raises
            reason = f"the returned object could not be read back: {describe(error)}"
            return Reply("failed", math.nan, reason, seconds)
        if reply.status == "crashed":
            self.broken = reply.reason
        return reply

    def tick(self, post: Post) -> None:
        if self._timeout is None:
            return
        self._hear()
        now = time.monotonic()
        for token, task in self._running.items():
            if task.begin is not None and now - task.begin > self._timeout and self._cancel(task):
                post(token, Reply("timeout", math.nan, f"killed after {self._timeout:g} s", now - task.begin))

    def _hear(self) -> None:
        """Note which evaluations have begun."""
        assert self._clock is not None
        if self._news is None:
            self._news = self._clock.take.remote()
        if not self._ray.wait([self._news], timeout=0)[0]:
            return
        try:
            begun = self._ray.get(self._news)
        except self._ray.exceptions.RayError:  # the clock's node has gone, and its notes with it
            begun = list(self._running)
        self._news = None
        for token in begun:
            if token in self._running and self._running[token].begin is None:
                self._running[token].begin = time.monotonic()

    def close(self, *, kill: bool) -> None:
        if not kill:
            self._await()
        if self._ray.is_initialized():
            for task in self._running.values():
                self._cancel(task)
            if self._clock is not None:
                self._ray.kill(self._clock)
        self._running.clear()
        self._leave()

    def _await(self) -> None:
        """Until all have ended, the time limit is over, or the program has left Ray.

        By futures: what a signal's handler raises, other than KeyboardInterrupt, is held back by ``ray.wait``.
        """
        end = time.monotonic() + (math.inf if self._timeout is None else self._timeout)
        waiting = {task.future for task in self._running.values()}
        while waiting and self._ray.is_initialized() and (left := end - time.monotonic()) > 0:
            waiting = wait(waiting, timeout=min(PIECE, left)).not_done

    def _cancel(self, task: _Task) -> bool:
        """End a task, unless its result is here already. Whether it was ended.

        Ray (2.60) ends the whole program by "Tried to complete task that was not pending" where it is to cancel a task
        whose result it is just taking in. What waits learns of a result before that is over, and futures do after it.
        """
        if task.future.done() or self._ray.wait([task.ref], timeout=0, fetch_local=False)[0]:
            return False
        self._ray.cancel(task.ref, force=True)
        return True

    def _leave(self) -> None:
        if self._owned:
            self._ray.shutdown()
            self._owned = False


def _join(ray: Any, address: str | None) -> bool:
    """Be in a cluster. Whether that took a connection that is ours to end.

    Raises:
        SettingError: the program has joined another cluster.
        WorkerError: there is none at ``address``, or none could be started.
    """
    if ray.is_initialized():
        if address not in (None, "auto"):
            here = ray.get_runtime_context().gcs_address
            if address != here and not (address.startswith("ray://") and ray.util.client.ray.is_connected()):
                raise SettingError(f"address must be that of the cluster which this program has joined, {here}; "
                                   f"got {address!r}")  # fmt: skip
        return False
    try:
        ray.init(address=address)
    except Exception as error:  # ConnectionError, RuntimeError, and what grpc raises
        where = "could not be started" if address in (None, "local") else f"could not be reached at {address!r}"
        raise WorkerError(f"Ray {where}: {cause(error)}") from error
    return True


def _slots(ray: Any, options: Mapping[str, Any]) -> int:
    """Evaluations for which the cluster has resources."""
    needs = {
        "CPU": options.get("num_cpus", 1),
        "GPU": options.get("num_gpus", 0),
        "memory": options.get("memory", 0),
        **(options.get("resources") or {}),
    }
    needs = {name: amount for name, amount in needs.items() if amount}
    if not needs:
        raise SettingError("slots must be given where the options of an evaluation ask for no resources; got None")
    total = ray.cluster_resources()
    slots = min(math.floor(total.get(name, 0) / amount + 1e-9) for name, amount in needs.items())
    if slots < 1:
        has = ", ".join(f"{total.get(name, 0):g} {name}" for name in needs)
        asked = ", ".join(f"{amount:g} {name}" for name, amount in needs.items())
        raise WorkerError(f"the cluster has not the resources of one evaluation: it has {has}, of {asked} asked for")
    return slots


def _inner(error: Any) -> str:
    """The words of an exception in a task."""
    return str(error.cause if getattr(error, "cause", None) is not None else error).strip()[-4000:]


# What follows runs in the worker process.


class _Clock:
    """Knows which evaluations have begun, of which a task can tell nothing before its end."""

    def __init__(self) -> None:
        self._begun: list[int] = []

    def begin(self, token: int) -> None:
        self._begun.append(token)

    def take(self) -> list[int]:
        """Those since the last call."""
        begun, self._begun = self._begun, []
        return begun


@functools.lru_cache(maxsize=1)
def _load(call: Any) -> Call:
    import ray

    loaded: Call = ray.get(call)
    return loaded


def _evaluate(call: list[Any], clock: Any, token: int, x: object) -> tuple[Any, ...]:
    try:
        loaded = _load(call[0])
    except BaseException as error:
        return Reply("crashed", math.nan, f"objective could not be read on a worker of Ray: {describe(error)}")
    if clock is not None:
        clock.begin.remote(token)
    return loaded(x)
