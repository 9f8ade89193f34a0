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

import functools
import importlib
import queue
import threading
import warnings
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
ENDLESS = 10**9  # iterations: the shell's budget ends a run


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
        thread.start()
        self.population: Any = None
        self._wait()

    def _wait(self) -> None:
        with warnings.catch_warnings():  # which are of the process: the method runs while this one waits
            warnings.simplefilter("ignore")
            asked = self._asked.get()
        if isinstance(asked, BaseException):
            raise asked
        self.population = None if asked is None else asked[None, :]

    def tell(self, points: Float[np.ndarray, "n d"], values: Float[np.ndarray, "n"]) -> None:
        if self.population is not None:  # further rows are not for a sequential method
            self._told.put(float(values[0]))
            self._wait()

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
        sigma0: initial step, in units of x, of the methods that have one: radius of COBYQA's and COBYLA's trust
            region.
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
        settings = (self.name, self.sigma0, self.low, self.high)  # not self, which the courses would keep alive
        vars(self)["_courses"] = replay.Courses(functools.partial(_start, *settings))

    @property
    def registered(self) -> str:
        """The name for :func:`blackbox.create`."""
        return f"scipy:{self.name}"

    def init(self, key: Key, x0: Float[Array, "d"]) -> replay.Log:
        if self.low is None and self.name in GLOBAL:
            raise SettingError(f"low and high must be given to {self.registered}, which searches a box; got None")
        return replay.begin(key, x0)

    def ask(self, state: replay.Log, first: int = 0) -> Float[Array, "1 d"]:
        return replay.population_of(state, self._at(state), 1, first, self.sigma0, self.low, self.high)

    def tell(self, state: replay.Log, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> replay.Log:
        told = replay.extend(state, population, fitness)
        vars(self)["_courses"].advance(state, told)
        return told

    def recommend(self, state: replay.Log) -> Float[Array, "d"]:
        return replay.recommendation(state, self._at(state))

    def stop(self, state: replay.Log) -> dict[str, Bool[np.ndarray, ""]]:
        """That the method has converged."""
        return replay.ended(self._at(state))

    def _at(self, state: replay.Log) -> replay.Course:
        return vars(self)["_courses"].at(state)


def _start(name: str, sigma0: float, low: float | None, high: float | None, state: replay.Log) -> replay.Course:
    return _Course(_runner(name, sigma0, low, high, state), _lock() if name == "COBYQA" else None)


def _runner(
    name: str, sigma0: float, low: float | None, high: float | None, state: replay.Log
) -> Callable[[Function], Any]:
    """The call of the method."""
    from scipy import optimize

    x0 = np.asarray(state.x0, np.float64)
    bounds = None if low is None else [(low, high)] * len(x0)
    if bounds is not None:
        x0 = np.clip(x0, low, high)
    seed = np.random.default_rng(replay.seed_of(state.key))
    options: dict[str, Any] = {"maxiter": ENDLESS}
    if name in ("L-BFGS-B", "TNC"):
        options["maxfun"] = ENDLESS
    if name in ("Powell", "Nelder-Mead", "COBYQA"):
        options["maxfev"] = ENDLESS
    if name == "COBYQA":
        radius = sigma0 if low is None or high is None else min(sigma0, 0.49 * (high - low))
        options = {"maxiter": 10**6, "maxfev": 10**6, "initial_tr_radius": radius, "final_tr_radius": 1e-8 * radius}
    if name == "COBYLA":
        options = {"maxiter": 10**6, "rhobeg": sigma0, "tol": 1e-8 * sigma0}

    def run(function: Function) -> Any:
        with np.errstate(all="ignore"):
            if name == "differential_evolution":
                return optimize.differential_evolution(function, bounds, x0=x0, rng=seed, maxiter=10**6)
            if name == "dual_annealing":
                return optimize.dual_annealing(function, bounds, x0=x0, rng=seed, maxiter=10**6, maxfun=1e12)
            if name == "direct":
                return optimize.direct(function, bounds, maxiter=10**6, maxfun=10**5)
            return optimize.minimize(function, x0, method=name, bounds=bounds, options=options)

    return run
