"""``minimize``: an optimizer, its workers, and the reasons to stop, in one call."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from typing import Any, Literal

import numpy as np

from blackbox.box import Box
from blackbox.callbacks import CallbackEvent, Callbacks, Snapshot, Stop
from blackbox.cluster import Ray
from blackbox.dimensions import show
from blackbox.errors import BudgetExhausted, ProviderError, SettingError, TellError, WorkerError
from blackbox.evaluation import describe
from blackbox.journal import Journal
from blackbox.optimizer import Optimizer
from blackbox.progress import Progress
from blackbox.shell.candidate import Candidate
from blackbox.shell.settings import Direction, finite_number, positive_integer
from blackbox.space import Space, as_space
from blackbox.workers import Executor, Outcome, Workers, start_workers

__all__ = ["Result", "Stop", "minimize"]

MAX_ERRORS = 0.8  # share of evaluations that raise or crash beyond which a run stops, ...
MIN_EVALUATIONS = 20  # ... once there are as many
ALL_FAILED = 5  # evaluations from the first on that stop a run if none of them succeeds
DEFAULT_BUDGET = 100  # evaluations per coordinate
ALL = (Exception, SystemExit)  # all that an objective may end with; KeyboardInterrupt is meant for us


@dataclasses.dataclass(frozen=True)
class Result:
    """What :func:`minimize` found.

    Attributes:
        x: the best point, in native values; None if no evaluation had a finite value and kept all constraints.
        value: its value, or None. Under ``noise``, after finals, the mean of ``best.n_evaluations`` values.
        standard_error: of that mean, or None.
        pareto: with several objectives, which have no best point, those that no other dominates, as candidates with
            ``x`` and ``values``; see :attr:`Optimizer.pareto`.
        evaluations: results told, those before a resume or of a warm start included.
        seconds: duration of this call.
        stopped: from each reason that ended the run ("budget", "seconds", "target", "patience", "errors",
            "method", "callback") to a sentence. "method": it has converged, or its language model's budget is spent
            or its server down.
        seed: with the same settings gives the same run again (with one evaluation at a time).
        method: name of the method used.
        failures: evaluations without a value.
        best: the best result as a candidate, or None.
        optimizer: to look further, or to go on.
    """

    x: Any
    value: float | None
    evaluations: int
    seconds: float
    stopped: dict[str, str]
    seed: int
    method: str
    failures: int
    best: Candidate | None
    optimizer: Optimizer

    @property
    def standard_error(self) -> float | None:
        return None if self.best is None else self.best.standard_error

    @property
    def pareto(self) -> list[Candidate]:
        return self.optimizer.pareto


def minimize(
    objective: Callable[..., Any],
    space: Space | Box | Mapping[str, Any],
    *,
    method: Any = "auto",
    budget: int | None = None,
    seconds: float | None = None,
    target: float | None = None,
    patience: int | None = None,
    workers: int | str | Ray | Executor = 0,
    synchronous: bool = False,
    kind: Literal["process", "thread"] = "process",
    timeout: float | None = None,
    retries: int = 1,
    vectorized: bool = False,
    seed: int | None = None,
    x0: Any = None,
    direction: Direction | Sequence[Direction] = "minimize",
    journal: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = False,
    callbacks: Iterable[Any] = (),
    catch: bool | type[Exception] | tuple[type[Exception], ...] = True,
    **settings: Any,
) -> Result:
    """Search a space for the point of the least (or, by ``direction``, the greatest) value.

    ::

        result = minimize(lambda x: (x["a"] - 1) ** 2, {"a": Float(-5, 5)}, budget=100, seed=0)
        result.x, result.value

    With one evaluation at a time the run is a function of its arguments; with several, also of the order in which
    they end, unless it is ``synchronous``.

    Args:
        objective: from a point (a dictionary, or an array for a Box) to a number. None and NaN mean failed. With
            ``constraints=m`` among the settings: to a pair of a number and a sequence of m, where those <= 0 are kept.
            With ``objectives=k``: to a sequence of k numbers in place of one. With a ``fidelity`` it is called with a
            point and a budget.
        space, method, seed, x0, direction: as for :class:`blackbox.Optimizer`.
        budget: evaluations in all; with a ``fidelity``, as many full ones as may be paid for. Without ``budget``,
            ``seconds`` and ``target``: 100 per coordinate.
        seconds: time limit; evaluations under way are given up.
        target: value to reach, of a single objective; with a ``fidelity``, at the full budget. None under ``noise``,
            where no single value tells.
        patience: evaluations without improvement after which to stop; with several objectives, without a result that
            enters the front. Under ``noise`` the finals follow then.
        workers: evaluations at once: 0 runs them here, one after the other; or "ray", an address of Ray, or
            :class:`blackbox.Ray` with the resources of each; or an executor with ``submit``.
        synchronous: whether to wait for a whole generation before the next one begins. Then the points and the best
            are the same with any workers, however long evaluations take and however often they are repeated; but
            workers wait for the slowest, and those of methods with one candidate a generation for each other.
        kind: "process" or "thread", where ``workers`` is a number.
        timeout: limit of one evaluation in seconds; over it, the evaluation ranks last.
        retries: how often an evaluation is repeated whose worker died.
        vectorized: whether ``objective`` takes a list of points (an array (n, d) for a Box) and returns as many
            values, or an array (n, k), and with constraints an array (n, m) beside them; here, without workers.
        journal: file that keeps all results as they come.
        resume: go on with the run in ``journal`` if there is one; ``budget`` then replaces its budget.
        progress: whether to show a live line.
        callbacks: see :mod:`blackbox.callbacks`.
        catch: which exceptions of ``objective`` count as a failed evaluation: True for all; a type or tuple of
            types (not in processes); False or () for none. Others end the run and are raised.
        **settings: further arguments of Optimizer: ``constraints``, ``objectives``, ``fidelity``, ``noise``,
            ``warm_start``, ``restarts``, ``durability``, the policies, and the method's hyperparameters.

    Raises:
        SettingError, SpaceError, JournalError: as for Optimizer.
        TellError: ``objective`` returned something that is not a value.
        WorkerError: the workers cannot go on.
    """
    if not callable(objective):
        raise SettingError(f"objective must be callable; got {show(objective)}")
    limits = _Limits.check(budget, seconds, target, patience, workers, vectorized, timeout, kind, catch)
    if not isinstance(synchronous, bool):
        raise SettingError(f"synchronous must be True or False; got {show(synchronous)}")
    listeners = Callbacks(callbacks, Progress(limits.seconds) if progress else None)
    space = as_space(space)
    if target is not None and settings.get("objectives", 1) != 1:
        raise SettingError(f"target must be None with several objectives; got {target!r}")
    if resume and journal is None:
        raise SettingError("journal must name a file where resume=True; got None")
    if settings.get("fidelity") is not None:
        if vectorized:
            raise SettingError("vectorized must be False with a fidelity, whose evaluations differ; got True")
        objective = _OfPair(objective)
    pool = None if vectorized else start_workers(objective, workers, kind=kind, timeout=timeout, retries=retries)
    try:
        if resume and not Journal.is_blank(journal):  # type: ignore[arg-type]
            given = {"method": method, "seed": seed, "direction": direction, "x0": x0, **settings}
            optimizer = _resumed(journal, space, given, budget, target)
        else:
            if settings.get("noise") is True:
                _require_no_target(target)
            if budget is None and seconds is None and target is None:
                budget = DEFAULT_BUDGET * space.dimension
            parallel = math.inf if pool is None else pool.slots
            optimizer = Optimizer(
                space, method, seed=seed, budget=budget, direction=direction, journal=journal, x0=x0,
                **{"parallel": parallel, **settings},
            )  # fmt: skip
        with optimizer:
            run = _Run(optimizer, limits, listeners)
            return run.serve(pool, synchronous) if pool is not None else run.serve_batches(objective)
    finally:
        if pool is not None:
            pool.close(kill=True)


def _require_no_target(target: float | None) -> None:
    if target is not None:
        raise SettingError(f"target must be None under noise, where no single value tells; got {target!r}")


def _resumed(journal: Any, space: Space | Box, given: dict[str, Any], budget: int | None, target: Any) -> Optimizer:
    """The optimizer of a journal, if it is the one meant; ``budget`` replaces its own."""
    optimizer = Optimizer.resume(journal)
    given.pop("warm_start", None)  # its results are in the journal
    try:
        durability = given.pop("durability", optimizer.durability)
        if durability != optimizer.durability:
            raise SettingError(
                f"durability must be {optimizer.durability!r} as in the journal that is resumed; got {durability!r}"
            )
        optimizer.settings.require_same(space, given)
        if optimizer.settings.noise:
            _require_no_target(target)
        if budget is not None and budget != optimizer.budget:
            optimizer.budget = budget
    except BaseException:
        optimizer.close()
        raise
    return optimizer


class _OfPair:
    """An objective of a point and a budget as one of their pair, which can be sent wherever the objective can."""

    def __init__(self, objective: Callable[[Any, Any], Any]) -> None:
        self._objective = objective
        self.__qualname__ = getattr(objective, "__qualname__", repr(objective)[:100])

    def __call__(self, pair: tuple[Any, float]) -> Any:
        return self._objective(*pair)


@dataclasses.dataclass(frozen=True)
class _Limits:
    """When to stop, and what counts as an error."""

    seconds: float | None
    target: float | None
    patience: int | None
    catch: tuple[type[BaseException], ...]

    @classmethod
    def check(
        cls, budget: Any, seconds: Any, target: Any, patience: Any, workers: Any, vectorized: Any, timeout: Any,
        kind: Any, catch: Any,
    ) -> _Limits:  # fmt: skip
        if budget is not None:
            positive_integer("budget", budget)
        if seconds is not None:
            seconds = finite_number("seconds", seconds, above=0.0)
        if target is not None:
            target = finite_number("target", target)
        if patience is not None:
            patience = positive_integer("patience", patience)
        if vectorized and (timeout is not None or workers not in (0, 1)):
            raise SettingError("vectorized must be False with workers or a timeout; got True")
        types = catch if isinstance(catch, tuple) else (catch,)
        if isinstance(catch, bool):
            types = ALL if catch else ()
        elif not all(isinstance(t, type) and issubclass(t, Exception) for t in types):
            raise SettingError(f"catch must be True, False or types of exceptions; got {show(catch)}")
        if isinstance(workers, Integral):
            in_process = kind == "thread" or (workers <= 1 and timeout is None)
        else:
            in_process = isinstance(workers, ThreadPoolExecutor)
        if not in_process and types not in ((), ALL):
            raise SettingError(
                f"catch must be True or False where evaluations run in other processes, which exceptions do not "
                f"leave; got {show(catch)}"
            )
        return cls(seconds, target, patience, types)


class _Run:
    """One call of :func:`minimize`."""

    def __init__(self, optimizer: Optimizer, limits: _Limits, callbacks: Callbacks) -> None:
        self._optimizer = optimizer
        self._limits = limits
        self._callbacks = callbacks
        self._start = time.monotonic()
        self._stopped: dict[str, str] = {}
        self._ending: dict[str, str] = {}  # what it will have stopped for after its finals
        self._exhausted = ""  # why the method proposes nothing more: its language model is down, or not to be paid
        self._told = self._errors = 0  # in this call
        self._best = optimizer.best
        self._improved_at = optimizer.evaluations
        self._record = math.inf  # the best single value in this call, lower is better
        self._generation = optimizer.generation
        self._finished: deque[Outcome] = deque()  # not told yet

    def serve(self, pool: Workers, synchronous: bool) -> Result:
        """Keep the workers busy until a reason to stop."""
        running: dict[int, Candidate] = {}
        try:
            self._keep_busy(pool, running, synchronous)
        except KeyboardInterrupt:
            self._finished += pool.wait(0.0)  # what has ended meanwhile is not lost
            while self._finished:
                with contextlib.suppress(Exception):  # a bad value must not hide the interruption
                    self._tell_finished(running)
                if self._finished:
                    self._finished.popleft()
            raise
        finally:
            self._optimizer.forget(running.values())
            self._emit("on_stop", None)
        return self._result()

    def _keep_busy(self, pool: Workers, running: dict[int, Candidate], synchronous: bool) -> None:
        optimizer, submitted = self._optimizer, 0
        self._begin()
        while not self._stopped:
            is_over = self._is_over()
            # Members of the open generation are needed anyway and may queue; others would only get stale.
            spare = min(pool.slots, optimizer.left_in_generation) if pool.slots > 1 else 0
            while len(running) < pool.slots + spare and optimizer.left > 0 and not is_over:
                if running and self._exhausted:  # once it is idle, promotions may be due
                    break
                if synchronous and running and optimizer.left_in_generation == 0:
                    break
                try:
                    candidate = optimizer.ask()
                except (BudgetExhausted, ProviderError) as error:
                    self._exhausted = self._why(error)
                    break
                running[submitted] = candidate
                pool.submit(submitted, candidate.x if candidate.budget is None else (candidate.x, candidate.budget))
                submitted += 1
                spare = min(spare, optimizer.left_in_generation)
            if not running and self._exhausted and optimizer.left > 0:
                self._end_exhausted()
                continue
            if not running:
                full = " full" if optimizer.settings.fidelity is not None else ""
                self._stopped |= self._ending or {"budget": f"all {optimizer.budget}{full} evaluations are done"}
                break
            self._finished += pool.wait(self._seconds_left())
            self._tell_finished(running)
            self._check_time()

    def _tell_finished(self, running: dict[int, Candidate]) -> None:
        """Each outcome stays in line until it is told, so that an interruption loses none."""
        while self._finished:
            outcome = self._finished[0]
            if running[outcome.id].status == "asked":
                self._tell(running[outcome.id], outcome)
            running.pop(outcome.id)
            self._finished.popleft()

    def serve_batches(self, objective: Callable[[Any], Any]) -> Result:
        """Evaluate whole generations in one call each."""
        try:
            self._go_through_batches(objective)
        finally:
            self._emit("on_stop", None)
        return self._result()

    def _go_through_batches(self, objective: Callable[[Any], Any]) -> None:
        optimizer = self._optimizer
        self._begin()
        while not self._stopped:
            count = int(min(optimizer.left, optimizer.left_in_generation or optimizer.popsize))
            if count == 0 or self._is_over():
                self._stopped |= self._ending or {"budget": f"all {optimizer.budget} evaluations are done"}
                break
            try:
                candidates = optimizer.ask(count)
            except (BudgetExhausted, ProviderError) as error:
                self._exhausted = self._why(error)
                self._end_exhausted()
                continue
            points = [candidate.x for candidate in candidates]
            begin = time.perf_counter()
            try:
                values = objective(np.stack(points) if isinstance(optimizer.space, Box) else points)
            except self._limits.catch as error:
                spent = time.perf_counter() - begin
                for candidate in candidates:
                    self._tell(candidate, Outcome(0, math.nan, "failed", describe(error), spent / count, error))
            else:
                seconds = (time.perf_counter() - begin) / count
                values, constraints = self._parts(values)
                optimizer.tell(candidates, values, constraints=constraints, seconds=seconds)
                for candidate in candidates:
                    self._after(candidate)
            self._check_time()

    def _tell(self, candidate: Candidate, outcome: Outcome) -> None:
        if outcome.status == "failed":
            error = outcome.exception
            if error is not None and not isinstance(error, self._limits.catch):
                raise error
            if error is None and not self._limits.catch:
                raise WorkerError(f"the objective raised in its worker: {outcome.reason}")
        seconds = None if math.isnan(outcome.seconds) else outcome.seconds
        if outcome.status == "ok":
            value, constraints = self._parts(outcome.value)
            self._optimizer.tell(candidate, value, constraints=constraints, seconds=seconds)
        else:
            self._optimizer.fail(candidate, outcome.reason, status=outcome.status, seconds=seconds)
        self._errors += outcome.status in ("failed", "crashed")
        self._after(candidate)
        least = ALL_FAILED if self._errors == self._told else MIN_EVALUATIONS
        if self._told >= least and self._errors > MAX_ERRORS * self._told and "errors" not in self._stopped:
            self._stopped["errors"] = (
                f"{self._errors} of {self._told} evaluations raised or crashed, the last one with: {outcome.reason}"
            )
            warnings.warn(self._stopped["errors"], RuntimeWarning, stacklevel=4)

    def _parts(self, returned: Any) -> tuple[Any, Any]:
        """Value and constraints of what the objective returned; a failed evaluation has None."""
        count = self._optimizer.settings.constraints
        if not count or returned is None or (isinstance(returned, float) and math.isnan(returned)):
            return returned, None
        if isinstance(returned, tuple | list) and len(returned) == 2:
            return returned[0], returned[1]
        raise TellError(
            f"objective must return a pair, a value and {count} constraints, with constraints={count}; "
            f"got {show(returned)}"
        )

    def _after(self, candidate: Candidate) -> None:
        """Look at the reasons to stop that a told result can bring about."""
        optimizer, limits = self._optimizer, self._limits
        self._told += 1
        best = optimizer.best
        if best is not self._best:
            if not optimizer.settings.noise and (self._best is None or best is None or best.value != self._best.value):
                self._improved_at = optimizer.evaluations
            self._best = best
            self._check_target()
        if optimizer.settings.noise:
            self._improved_at = self._improved_under_noise(candidate)
        several = limits.patience is not None and optimizer.settings.objectives > 1
        if several and any(known.id == candidate.id for known in optimizer.pareto):
            self._improved_at = optimizer.evaluations
        if limits.patience is not None and optimizer.evaluations - self._improved_at >= limits.patience:
            self._end("patience", f"no improvement for {limits.patience} evaluations")
        if optimizer.stopped:
            self._end("method", optimizer.stopped)
        self._emit("on_tell", candidate)
        if optimizer.generation != self._generation:
            self._generation = optimizer.generation
            self._emit("on_generation", candidate)

    def _improved_under_noise(self, candidate: Candidate) -> int:
        """When the best single value came; the best of all, after finals, is a mean that no such value changes."""
        if candidate.status != "ok" or candidate.value is None or self._optimizer.in_finals:
            return self._improved_at
        value = self._optimizer.settings.policy.sign * candidate.value
        if value >= self._record:
            return self._improved_at
        self._record = value
        return self._optimizer.evaluations

    def _end(self, reason: str, why: str) -> None:
        """Stop for a reason, under noise after finals."""
        optimizer = self._optimizer
        if not optimizer.settings.noise or optimizer.best is None:
            self._stopped[reason] = why
        elif not (self._ending or optimizer.in_finals):
            self._ending[reason] = why
            optimizer.begin_finals()

    def _why(self, error: BudgetExhausted | ProviderError) -> str:
        """What an error of ``ask`` says; a language model that is down is warned of, as nobody has planned it."""
        if isinstance(error, ProviderError) and not self._exhausted:
            warnings.warn(f"the run ends early: {error}", RuntimeWarning, stacklevel=5)
        return str(error)

    def _end_exhausted(self) -> None:
        """Stop because the method can propose nothing more, under noise after finals, which need no proposals."""
        why, self._exhausted = self._exhausted, ""
        has_finals = bool(self._ending) or self._optimizer.in_finals
        self._end("method", why)
        if has_finals and not self._stopped:  # these were asked for in vain
            self._stopped |= self._ending or {"method": why}

    def _is_over(self) -> bool:
        """Whether the finals are over with which this run was to end."""
        return bool(self._ending) and not self._optimizer.in_finals

    def _check_target(self) -> None:
        best, target = self._best, self._limits.target
        fidelity = self._optimizer.settings.fidelity
        if fidelity is not None and best is not None and best.budget != fidelity.most:
            return
        if target is not None and best is not None and best.value is not None:
            sign = self._optimizer.settings.policy.sign
            if sign * best.value <= sign * target:
                self._stopped["target"] = f"{best.value!r} reaches the target {target!r}"

    def _check_time(self) -> None:
        if self._seconds_left() == 0:
            self._stopped["seconds"] = f"{self._limits.seconds:g} seconds are over"

    def _seconds_left(self) -> float | None:
        if self._limits.seconds is None:
            return None
        return max(0.0, self._limits.seconds - (time.monotonic() - self._start))

    def _begin(self) -> None:
        if self._optimizer.ends_early:
            self._ending["patience"] = "no improvement before the finals, which had begun"
        elif self._optimizer.stopped:
            self._stopped["method"] = self._optimizer.stopped
        self._check_target()  # a run that is resumed may have been there
        self._emit("on_start", None)

    def _result(self) -> Result:
        optimizer, best = self._optimizer, self._optimizer.best
        return Result(
            x=None if best is None else best.x,
            value=None if best is None else best.value,
            evaluations=optimizer.evaluations,
            seconds=time.monotonic() - self._start,
            stopped=self._stopped,
            seed=optimizer.seed,
            method=optimizer.method,
            failures=optimizer.failures,
            best=best,
            optimizer=optimizer,
        )

    def _emit(self, event: CallbackEvent, candidate: Candidate | None) -> None:
        if self._callbacks.listen(event):
            stopped = self._stopped if event == "on_stop" else {}
            snapshot = Snapshot(self._optimizer, candidate, time.monotonic() - self._start, stopped)
            for reason in self._callbacks.emit(event, snapshot):
                self._stopped["callback"] = reason
