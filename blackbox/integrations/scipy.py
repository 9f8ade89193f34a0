"""blackbox's methods for ``scipy.optimize.minimize``."""

from __future__ import annotations

import inspect
import math
import warnings
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.errors import SettingError, SpaceError, missing_extra
from blackbox.integrations.line import Line
from blackbox.optimizer import Optimizer
from blackbox.shell.settings import positive_integer

if TYPE_CHECKING:
    from jaxtyping import Float

    Point = Float[np.ndarray, "d"]

__all__ = ["scipy_method"]

BUDGET = 100  # evaluations per coordinate, without maxfev
STEP = 0.3  # of max(1, |x0|): the first standard deviation of a coordinate without two bounds


def scipy_method(method: Any = "auto", *, seed: int | None = None, **settings: Any) -> Callable[..., Any]:
    """A method for ``scipy.optimize.minimize``::

        minimize(f, x0, method=bb.scipy_method("cma-es", seed=0), bounds=[(-5, 5)] * 2, options={"maxfev": 1000})

    Coordinates need no bounds. Between two bounds the first step is a fifth of their distance; for other coordinates
    it is 0.3 max(1, abs(x0)), and "quadratic", "sobol", "random" and "l-shade" stay within two and a half such steps of
    ``x0``.
    Values that are NaN count as failed and rank last.

    ``minimize`` takes with it ``args``, ``bounds``, ``tol`` (the greatest difference of the last values at which to
    stop), ``callback`` (of either form; StopIteration ends the run) and as ``options``:

    * ``maxfev``: evaluations in all, by default 100 per coordinate;
    * ``maxiter``: generations;
    * ``target``: value at which to stop;
    * ``disp``: whether to print the outcome.

    The result has ``x``, ``fun``, ``nfev``, ``nit`` (generations), ``message``, ``status`` and ``success``: whether a
    finite value was found and the run was not broken off by the callback. Status 0: converged or target reached;
    1: ``maxfev`` or ``maxiter`` reached; 2: no finite value; 99: ended by the callback.

    Args:
        method: as for :class:`blackbox.Optimizer`.
        seed: likewise.
        **settings: further arguments of Optimizer: ``restarts``, the method's hyperparameters.

    Raises:
        MissingExtra: SciPy is not installed.
    """
    try:
        import scipy.optimize  # noqa: F401
    except ImportError as error:
        raise missing_extra("scipy", "scipy") from error

    def minimize(fun: Callable[..., Any], x0: Any, args: Any = (), **options: Any) -> Any:
        return _minimize(fun, x0, args, {"method": method, "seed": seed, **settings}, **options)

    return minimize


def _minimize(
    fun: Callable[..., Any],
    x0: Any,
    args: Any,
    settings: dict[str, Any],
    *,
    bounds: Any = None,
    callback: Callable[..., Any] | None = None,
    maxfev: int | None = None,
    maxiter: int | None = None,
    tol: float | None = None,
    target: float = -math.inf,
    disp: bool = False,
    **rest: Any,
) -> Any:
    from scipy import optimize

    new_result: Callable[..., Any] = optimize.OptimizeResult  # untyped in SciPy
    _refuse(rest, optimize.OptimizeWarning)
    start = np.atleast_1d(np.asarray(x0, dtype=np.float64)).ravel()
    low, high = _bounds(bounds, len(start))
    inside = np.clip(start, low, high)
    if (inside != start).any():
        warnings.warn("x0 is not within the bounds and was moved there", optimize.OptimizeWarning, stacklevel=4)
    budget = BUDGET * len(start) if maxfev is None else positive_integer("maxfev", maxfev)
    free = low < high

    def place(x: Point) -> Point:
        point = inside.copy()
        point[free] = x
        return point

    extra: tuple[Any, ...] = args if isinstance(args, tuple) else (args,)

    def evaluate(x: Point) -> float:
        return _scalar(fun(x, *extra))

    best = new_result(x=inside, fun=evaluate(inside.copy()), nfev=1, nit=0, success=True)

    def finish(status: int, message: str) -> Any:
        if not math.isfinite(best.fun):
            status, message = status or 2, f"{message}; no value was finite"
        best.update(success=status in (0, 1), status=status, message=message)
        if disp:
            print(f"{message}: {best.fun:g} after {best.nfev} evaluations")
        return best

    if not free.any() or budget == 1:
        return finish(1, "maxfev reached") if free.any() else finish(0, "all coordinates are fixed")
    line = Line(low[free], high[free], inside[free], STEP * np.maximum(1.0, np.abs(inside[free])))
    # "auto" is to take no method that stays within the cube where coordinates are open.
    parallel = 1 if line.is_closed else math.inf
    optimizer = Optimizer(line, budget=budget - 1, x0=inside[free], **{"parallel": parallel, **settings})
    last: deque[float] = deque(maxlen=max(optimizer.popsize, 2 * len(start) + 2))
    listen = _listener(callback)
    while True:
        if best.fun <= target:
            return finish(0, "target reached")
        if not optimizer.left:
            return finish(1, "maxfev reached")
        if optimizer.stopped:
            return finish(0, optimizer.stopped)
        if maxiter is not None and optimizer.generation >= maxiter:
            return finish(1, "maxiter reached")
        candidate = optimizer.ask()
        x = place(candidate.x)
        value = evaluate(x.copy())
        optimizer.tell(candidate, value)
        last.append(value)
        best.nfev, closed = best.nfev + 1, optimizer.generation > best.nit
        best.nit = optimizer.generation
        if value < best.fun or not math.isfinite(best.fun):
            best.x, best.fun = x, value
        if closed and listen is not None:
            try:
                listen(new_result(best))
            except StopIteration:
                return finish(99, "ended by the callback")
        if tol is not None and len(last) == last.maxlen and max(last) - min(last) <= tol:
            return finish(0, "the last values differ by no more than tol")


def _bounds(bounds: Any, dimension: int) -> tuple[Point, Point]:
    """Lower and upper bounds from SciPy's object or from pairs, None standing for infinity."""
    if bounds is None:
        pairs = np.tile([-np.inf, np.inf], (dimension, 1))
    elif hasattr(bounds, "lb"):
        pairs = np.stack([np.broadcast_to(b, dimension) for b in (bounds.lb, bounds.ub)], axis=1)
    else:
        ends = (-np.inf, np.inf)
        pairs = np.array([[e if b is None else b for b, e in zip(pair, ends, strict=True)] for pair in bounds])
    low, high = pairs.astype(np.float64).reshape(-1, 2).T
    if len(low) != dimension or not (low <= high).all():
        raise SpaceError(f"bounds must be {dimension} pairs, each low <= high; got {bounds!r}")
    return low, high


def _refuse(rest: dict[str, Any], warning: type[Warning]) -> None:
    """Say what of SciPy's arguments is not used."""
    constraints = rest.pop("constraints", ())
    if not isinstance(constraints, list | tuple) or len(constraints):
        raise SettingError(f"constraints must be absent for blackbox's methods; got {constraints!r}")
    for name in ("jac", "hess", "hessp"):
        if rest.pop(name, None):
            warnings.warn(f"blackbox's methods do not use {name}", RuntimeWarning, stacklevel=5)
    if rest:
        warnings.warn(f"Unknown solver options: {', '.join(rest)}", warning, stacklevel=5)


def _scalar(value: Any) -> float:
    """The value of an objective, which may be an array of one number."""
    return float(np.asarray(value, dtype=np.float64).reshape(()) if np.size(value) == 1 else value)


def _listener(callback: Callable[..., Any] | None) -> Callable[[Any], Any] | None:
    """``callback`` as a function of a result; SciPy tells its two forms apart by the name of the argument."""
    if callback is None:
        return None
    if set(inspect.signature(callback).parameters) == {"intermediate_result"}:
        return lambda result: callback(intermediate_result=result)
    return lambda result: callback(np.copy(result.x))
