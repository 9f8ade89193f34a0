"""SciPy's optimizers as ``scipy:NAME``: local ones for smooth functions, and global ones in a box.

Source: ``scipy.optimize``. A SciPy method calls the objective, so it runs in a thread of its own that waits in each
call until the value is told. The alternative, to run the method anew up to the first point without a value, costs
no thread but all former steps at every ask: at COBYQA's 4 ms a step, 200 evaluations would take over a minute. A thread
costs some 50 microseconds an evaluation. It holds nothing but its two queues, and is ended and joined when the course
is closed, forgotten, or at the interpreter's end. Resuming replays the method once, see
:mod:`blackbox.hosted.replay`.

Methods that need derivatives take forward differences, d evaluations each. Sequential: a generation is one point.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import queue
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from blackbox.arrays import Array, Key
from blackbox.errors import SettingError, missing_extra
from blackbox.hosted import replay
from blackbox.strategy import algorithm, nearest, require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    Function = Callable[[Float[np.ndarray, "d"]], float]

LOCAL = ("COBYLA", "COBYQA", "L-BFGS-B", "Nelder-Mead", "Powell", "SLSQP", "TNC", "trust-constr")
GLOBAL = ("differential_evolution", "direct", "dual_annealing")
ENDLESS = 10**9  # iterations and evaluations: the shell's budget ends a run
DIRECT = 10**5  # evaluations of DIRECT, which has room for all from the start
PRECISION = 1e-8  # of sigma0, at which methods end that have such a tolerance


def names() -> list[str]:
    """The methods that are hosted."""
    return sorted((*LOCAL, *GLOBAL))


class _Closed(BaseException):
    """Ends the method's thread; not an Exception, which a method might catch."""


class _Course:
    """A SciPy method that waits for values in a thread."""

    def __init__(self, run: Callable[[Function], Any], lock: Any) -> None:
        self._asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        thread = threading.Thread(target=_work, args=(run, lock, self._asked, self._told), daemon=True)
        self._end = weakref.finalize(self, _end, thread, self._told)
        self.population: Any = None
        self._run(thread.start)

    def _run(self, wake: Callable[[], None]) -> None:
        """Wait while the method runs to its next point."""
        with replay.quiet():
            wake()
            asked = self._asked.get()
        if isinstance(asked, BaseException):
            raise asked
        self.population = None if asked is None else asked[None, :]

    def tell(self, points: Float[np.ndarray, "n d"], values: Float[np.ndarray, "n"]) -> None:
        if self.population is not None:  # further rows are not for a sequential method
            self._run(functools.partial(self._told.put, float(values[0])))

    @property
    def ended(self) -> bool:
        return self.population is None

    def recommend(self) -> None:
        return None

    def close(self) -> None:
        self._end()


def _work(
    run: Callable[[Function], Any], lock: Any, asked: queue.SimpleQueue[Any], told: queue.SimpleQueue[float | None]
) -> None:
    def function(x: Float[np.ndarray, "d"]) -> float:
        point = np.array(x, np.float64).ravel()
        if lock is None:
            asked.put(point)
            value = told.get()
        else:
            lock.release()
            asked.put(point)
            value = told.get()
            lock.acquire()
        if value is None:
            raise _Closed
        return value

    try:
        run(function)
    except _Closed:
        pass
    except BaseException as error:
        asked.put(error)
    else:
        asked.put(None)


def _lock() -> Any:
    """The lock that COBYQA holds from its start to its end, and lends here while it waits: else only one could run."""
    from scipy import optimize

    return getattr(getattr(optimize, "_cobyqa_py", None), "COBYQA_LOCK", None)


def _end(thread: threading.Thread, told: queue.SimpleQueue[float | None]) -> None:
    told.put(None)
    if thread is not threading.current_thread():
        thread.join()


@algorithm
class SciPy:
    """An optimizer of SciPy. Methods that have ended are restarted by the shell from another point.

    Args:
        name: as in ``scipy.optimize.minimize``, or the name of a global optimizer's function.
        sigma0: initial step, in units of x, of the methods that have one: radius of the trust region, size of the
            simplex, length of Powell's directions.
        low, high: bounds of all coordinates, which the global methods need; in a search space, those of the unit cube.
    """

    name: str
    sigma0: float = 1.0
    low: float | None = None
    high: float | None = None

    pure: ClassVar[bool] = False
    positional: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        try:
            importlib.import_module("scipy.optimize")
        except ImportError:
            raise missing_extra("SciPy", "scipy") from None
        if self.name not in names():
            raise SettingError(f"scipy has no hosted {self.name!r}{nearest(self.name, names())}")
        require_number("sigma0", self.sigma0, above=0)
        replay.require_box(self.low, self.high)

    @functools.cached_property
    def _courses(self) -> replay.Courses:
        # Of a copy: courses that knew their strategy would keep it, and so themselves, alive.
        return replay.Courses(functools.partial(_start, dataclasses.replace(self)))

    @property
    def registered(self) -> str:
        """The name for :func:`blackbox.create`."""
        return f"scipy:{self.name}"

    def init(self, key: Key, x0: Float[Array, "d"]) -> replay.Log:
        if self.low is None and self.name in GLOBAL:
            raise SettingError(f"low and high must be given to {self.registered}, which searches a box; got None")
        return replay.begin(key, x0)

    def ask(self, state: replay.Log, first: int = 0) -> Float[Array, "1 d"]:
        return replay.population_of(state, self._courses.at(state), 1, first, self.sigma0, self.low, self.high)

    def tell(self, state: replay.Log, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> replay.Log:
        told = replay.extend(state, population, fitness)
        self._courses.advance(state, told)
        return told

    def recommend(self, state: replay.Log) -> Float[Array, "d"]:
        return replay.recommendation(state, self._courses.at(state))

    def stop(self, state: replay.Log) -> dict[str, Bool[np.ndarray, ""]]:
        """That the method has converged."""
        return replay.ended(self._courses.at(state))


def _start(strategy: SciPy, state: replay.Log) -> replay.Course:
    return _Course(_runner(strategy, state), _lock() if strategy.name == "COBYQA" else None)


def _runner(strategy: SciPy, state: replay.Log) -> Callable[[Function], Any]:
    """The call of the method."""
    from scipy import optimize

    name, sigma, low, high = strategy.name, strategy.sigma0, strategy.low, strategy.high
    x0 = np.asarray(state.x0, np.float64)
    bounds, room = None, math.inf
    if low is not None and high is not None:
        x0, bounds, room = np.clip(x0, low, high), [(low, high)] * len(x0), high - low
    rng = np.random.default_rng(replay.seed_of(state.key))
    step = float(np.finfo(np.asarray(state.x0).dtype).eps ** 0.5)  # of differences, in the precision of the points
    simplex = x0 + sigma * np.vstack([np.zeros(len(x0)), np.eye(len(x0))])
    radius = min(sigma, 0.49 * room)
    options: dict[str, dict[str, Any]] = {
        "COBYLA": {"maxiter": ENDLESS, "rhobeg": sigma, "tol": PRECISION * sigma},
        "COBYQA": {
            "maxiter": ENDLESS,
            "maxfev": ENDLESS,
            "initial_tr_radius": radius,
            "final_tr_radius": PRECISION * radius,
        },
        "L-BFGS-B": {"maxiter": ENDLESS, "maxfun": ENDLESS, "eps": step},
        "Nelder-Mead": {"maxiter": ENDLESS, "maxfev": ENDLESS, "initial_simplex": simplex, "xatol": PRECISION * sigma},
        "Powell": {
            "maxiter": ENDLESS,
            "maxfev": ENDLESS,
            "direc": sigma * np.eye(len(x0)),
            "xtol": PRECISION,
            "ftol": PRECISION,
        },
        "SLSQP": {"maxiter": ENDLESS, "eps": step},
        "TNC": {"maxfun": ENDLESS, "eps": step},
        "trust-constr": {"maxiter": ENDLESS, "initial_tr_radius": sigma, "finite_diff_rel_step": step},
    }

    def run(function: Function) -> Any:
        with np.errstate(all="ignore"):
            if name == "differential_evolution":
                return optimize.differential_evolution(function, bounds, x0=x0, rng=rng, maxiter=ENDLESS)
            if name == "dual_annealing":
                inner = {"eps": step, "maxiter": max(100, min(6 * len(x0), 1000))}  # as by default, but for the step
                local = {"method": "L-BFGS-B", "bounds": bounds, "options": inner}
                return optimize.dual_annealing(
                    function, bounds, x0=x0, rng=rng, maxiter=ENDLESS, maxfun=math.inf, minimizer_kwargs=local
                )
            if name == "direct":  # without tolerances: it would begin again, and ask for the same
                return optimize.direct(function, bounds, maxiter=DIRECT, maxfun=DIRECT, vol_tol=0.0, len_tol=0.0)
            return optimize.minimize(function, x0, method=name, bounds=bounds, options=options[name])

    return run
