"""``run``: a strategy against an objective for many generations, as one program where that is possible."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, is_jax, namespace
from blackbox.best import Best, better_of
from blackbox.errors import SettingError
from blackbox.kernels.noise import fold_many
from blackbox.population import evaluate, hashable
from blackbox.shaping import finite_or_worst
from blackbox.strategy import Strategy, register_with_jax, require_key

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt32

QUANTILES = np.array([0.0, 0.25, 0.5, 0.75, 1.0])

_CHUNK = 50  # generations between two looks of the callback at a scanned run
_KEPT = 2**22  # values of fitness that a program hands over at once


class History(NamedTuple):
    """What happened, by generation; with ``runs=M`` every field but ``seconds`` has a leading axis of M."""

    best: Float[Array, "generations"]
    """Best fitness so far."""
    x_best: Float[Array, "d"]
    """The best point."""
    quantiles: Float[Array, "generations 5"]
    """Least, quartiles and greatest fitness of each generation, failures counted as infinite."""
    evaluations: Int[Array, ""]
    """Calls of the objective."""
    seconds: float
    """Wall time, compilation included."""


class _Best(NamedTuple):
    fitness: Float[Array, ""]
    x: Float[Array, "d"]
    evaluations: Int[Array, ""]
    stopped: Array


def run(
    strategy: Strategy[Any],
    objective: Callable[[Any], Any],
    x0: Array,
    *,
    key: Key,
    generations: int | Int[Array, "runs"],
    runs: int | None = None,
    callback: Callable[[int, Any], Any] | None = None,
) -> tuple[Any, History]:
    """Minimize ``objective`` for a number of generations.

    With JAX arrays and a traceable objective the whole run is one scanned program. With other arrays it is a
    loop; with JAX arrays and an objective that JAX cannot trace, a loop over NumPy arrays. A run whose strategy
    says ``stop`` is frozen: its state and its count of evaluations no longer change.

    A scanned program is remembered with its objective: equal calls compile once, each new lambda compiles anew, and
    what the objective reads besides its argument is read when it is compiled.

    Args:
        strategy: a strategy of flat vectors.
        objective: a function of one point, shape ``(d,)``, that returns one real number; lower is better, NaN is a
            failure.
        x0: start point in floating-point numbers, shape ``(d,)``, or ``(runs, d)`` with one start per run: if these
            lie on several devices, each makes its own runs.
        key: key of the run, see :func:`blackbox.key`.
        generations: number of generations; with ``runs`` also one number per run.
        runs: makes that many independent runs at once. Run ``i`` has the key ``fold(key, i)`` and its noise whatever
            their number is; in JAX roundings may differ, as products of matrices of another size are rounded otherwise.
        callback: called as ``callback(generation, best)`` after each generation (``best`` has shape ``(runs,)``
            with ``runs``) until all runs are frozen; a true return value ends the run. In a scanned program it sees
            the generations in blocks of 50, so the run ends at the end of such a block.

    Returns:
        The final state (with a leading axis with ``runs``) and the :class:`History`.

    Raises:
        SettingError: for arguments that do not fit each other.
    """
    started = time.perf_counter()
    if isinstance(strategy, type) or not all(hasattr(strategy, name) for name in ("init", "ask", "tell")):
        raise SettingError(f"strategy must be one as made by bb.create(name), got {strategy!r}")
    if getattr(strategy, "virtual", False):
        raise SettingError(
            f"strategy must be one of flat vectors; {type(strategy).__name__} trains the parameters of JAX models, "
            "with bb.evaluate in a loop of your own"
        )
    require_key(key)
    limits = _limits(x0, generations, runs)
    single = runs is None
    objective = hashable(objective)
    if is_jax(x0) and getattr(strategy, "pure", True) and _traceable(objective, x0.shape[-1:], x0.dtype):
        keys = key if single else fold_many(key, len(limits))
        states, best, series = _scanned(strategy, objective, x0, keys, limits, single, callback)
    else:
        if is_jax(x0):  # an objective beyond JAX wants plain arrays, and the loop is faster with them
            x0, key = np.asarray(x0), np.asarray(key)
        keys = [key] if single else list(fold_many(key, len(limits)))
        starts = x0 if x0.ndim == 2 else namespace(x0).stack([x0] * len(limits))
        states, best, series = _looped(strategy, objective, starts, keys, limits, single, callback)
    history = History(series[0], best.x, series[1], best.evaluations, time.perf_counter() - started)
    return states, history


def _limits(x0: Array, generations: Any, runs: int | None) -> Int[np.ndarray, "runs"]:
    if runs is not None and (isinstance(runs, bool) or not isinstance(runs, int | np.integer) or runs < 1):
        raise SettingError(f"runs must be None or an integer >= 1, got {runs!r}")
    expected = "(d,)" if runs is None else f"(d,) or ({runs}, d)"
    if not hasattr(x0, "shape") or not hasattr(x0, "dtype"):
        raise SettingError(f"x0 must be an array of shape {expected}, got {x0!r}")
    if x0.ndim != 1 and (x0.ndim != 2 or runs is None or x0.shape[0] != runs):
        raise SettingError(f"x0 must have shape {expected}, got {tuple(x0.shape)}")
    limits = np.asarray(generations)
    if limits.dtype.kind not in "iu" or limits.shape not in ((), (runs,)) or np.any(limits < 1):
        shape = "an integer" if runs is None else f"an integer, or {runs} integers,"
        raise SettingError(f"generations must be {shape} >= 1, got {generations!r}")
    return np.broadcast_to(limits, (runs or 1,)).astype(np.int32)


def _looped(
    strategy: Any,
    objective: Callable[[Any], Any],
    starts: Array,
    keys: list[Key],
    limits: Int[np.ndarray, "runs"],
    single: bool,
    callback: Callable[[int, Any], Any] | None,
) -> tuple[Any, _Best, tuple[Array, Array]]:
    runs = range(len(limits))
    states = [strategy.init(keys[i], starts[i, ...]) for i in runs]
    best_fitness = np.full(len(runs), np.inf)
    best_x = [starts[i, ...] for i in runs]
    evaluations = np.zeros(len(runs), np.int64)
    live = np.ones(len(runs), bool)
    bests, quantiles = [], []
    for generation in range(int(limits.max())):
        live &= generation < limits
        spread = np.full((len(runs), len(QUANTILES)), np.nan)
        for i in np.flatnonzero(live):
            population = strategy.ask(states[i])
            fitness = evaluate(objective, population)
            _require_numbers(fitness)
            states[i] = strategy.tell(states[i], population, fitness)
            values = finite_or_worst(np.asarray(fitness), np.float64)
            winner = int(values.argmin())
            if values[winner] < best_fitness[i]:
                best_fitness[i], best_x[i] = values[winner], population[winner, ...]
            evaluations[i] += len(values)
            spread[i] = np.quantile(values, QUANTILES, method="lower")
            if hasattr(strategy, "stop"):
                live[i] = not any(bool(reason) for reason in strategy.stop(states[i]).values())
        bests.append(best_fitness.copy())
        quantiles.append(spread)
        if callback is not None and callback(generation, bests[-1][0] if single else bests[-1]):
            break
        if not live.any():
            # A frozen run keeps its best value, as in a scanned run.
            missing = int(limits.max()) - generation - 1
            bests += [bests[-1]] * missing
            quantiles += [np.full_like(spread, np.nan)] * missing
            break
    best, spreads = np.stack(bests, axis=1), np.stack(quantiles, axis=1)
    xp = namespace(starts)
    if single:
        return states[0], _Best(best_fitness[0], best_x[0], evaluations[0], ~live[0]), (best[0], spreads[0])
    return _stack(states, xp), _Best(best_fitness, xp.stack(best_x), evaluations, ~live), (best, spreads)


def _stack(trees: list[Any], xp: Any) -> Any:
    """One tree of NamedTuples whose leaves have a leading axis for the runs."""
    first = trees[0]
    if isinstance(first, tuple):
        return type(first)(*(_stack([tree[i] for tree in trees], xp) for i in range(len(first))))
    return xp.stack([xp.asarray(tree) for tree in trees])


def _require_numbers(fitness: Any) -> None:
    """Raise :class:`SettingError` unless the objective gave one number per member."""
    if isinstance(fitness, tuple | list | dict):
        got = f"a {type(fitness).__name__}"
    elif fitness.ndim != 1:
        got = f"an array of shape {tuple(fitness.shape[1:])}"
    elif (dtype := np.asarray(fitness).dtype).kind not in "biuf":
        got = f"values of type {dtype}"
    else:
        return
    raise SettingError(f"objective must return one real number per point; it returned {got}")


@lru_cache(maxsize=16)  # as many as there are programs; tracing again would cost more than a short run
def _traceable(objective: Callable[[Any], Any], shape: tuple[int, ...], dtype: Any) -> bool:
    import jax

    try:
        out = jax.eval_shape(objective, jax.ShapeDtypeStruct(shape, dtype))
    except Exception:  # whatever is wrong with an objective itself, it raises again when called with numbers
        return False
    return getattr(out, "shape", None) == ()


def _scanned(
    strategy: Any,
    objective: Callable[[Any], Any],
    x0: Array,
    keys: Key | UInt32[Array, "runs 2"],
    limits: Int[np.ndarray, "runs"],
    single: bool,
    callback: Callable[[int, Any], Any] | None,
) -> tuple[Any, _Best, tuple[Array, Array]]:
    import jax
    import jax.numpy as jnp

    register_with_jax(type(strategy))
    # Of no weak type, with which the first block would be compiled by itself.
    x0 = jax.lax.convert_element_type(_laid_out(x0), x0.dtype)
    start, block = _programs(objective, single)
    if single:
        carry, limit = start(strategy, x0, jnp.asarray(keys)), limits[0]
    else:
        starts = x0 if x0.ndim == 2 else jnp.broadcast_to(x0, (len(limits), *x0.shape))
        carry, limit = start(strategy, starts, jnp.asarray(keys)), limits
    total, axis = int(limits.max()), 0 if single else 1
    length = min(total, _CHUNK)
    if callback is None:
        asked = jax.eval_shape(strategy.ask if single else jax.vmap(strategy.ask), carry[0])
        each = math.prod(asked.shape[:-1])
        pieces_due = -(-total // max(1, min(total, _KEPT // each)))
        length = -(-total // pieces_due)  # of all pieces, so that one program does: what is beyond the limit is frozen
    bests: list[Array] = []
    spreads: list[Array] = []
    pending: Array = None
    for first in range(0, total, length):
        carry, (best_so_far, fitness) = block(strategy, length, carry, limit, first)
        if pending is not None:
            spreads.append(_spread(pending))  # while the device goes on
        pending = fitness
        bests.append(best_so_far)
        if callback is not None:
            seen = np.moveaxis(np.asarray(best_so_far), axis, 0)
            frozen = np.moveaxis(np.isnan(np.asarray(fitness)).all(axis=-1), axis, 0)
            lived = ~frozen.reshape(len(frozen), -1).all(axis=1)
            answers = [callback(first + g, seen[g]) for g in np.flatnonzero(lived).tolist()]
            if any(answers):
                break
    spreads.append(_spread(pending))
    state, best = carry
    series = jnp.concatenate(bests, axis), jnp.concatenate(spreads, axis)
    best_of_all, quantiles = (values[:total] if single else values[:, :total] for values in series)
    return state, best, (best_of_all, quantiles)


def _laid_out(x0: Array) -> Array:
    """``x0`` on the same devices by axes along which JAX divides programs by itself, not by explicit ones."""
    import jax

    where = None if isinstance(x0, jax.core.Tracer) else x0.sharding
    if not isinstance(where, jax.sharding.NamedSharding) or not isinstance(where.mesh, jax.sharding.Mesh):
        return x0
    mesh = jax.sharding.Mesh(where.mesh.devices, where.mesh.axis_names)
    return x0 if mesh == where.mesh else jax.device_put(x0, jax.sharding.NamedSharding(mesh, where.spec))


def _spread(fitness: Float[Array, "*runs generations n"]) -> Float[Array, "*runs generations 5"]:
    """The quantiles of each generation, NaN for one that was not made.

    By NumPy, which sorts many times faster than XLA on CPUs, unless ``run`` is itself part of a JAX program.
    """
    import jax
    import jax.numpy as jnp

    inside = isinstance(fitness, jax.core.Tracer)
    ordered = jnp.sort(fitness, axis=-1) if inside else np.sort(np.asarray(fitness), axis=-1)
    picked: Array = ordered[..., (QUANTILES * (ordered.shape[-1] - 1)).astype(int)]
    return picked


@lru_cache(maxsize=16)
def _programs(objective: Callable[[Any], Any], single: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The compiled start and the compiled block of generations, so that equal runs compile once.

    Those of the last objectives only: a compiled program takes megabytes.
    """
    import jax
    import jax.numpy as jnp

    def start(strategy: Any, x0: Array, key: Key) -> tuple[Any, _Best]:
        state = strategy.init(key, x0)
        return state, _Best(jnp.asarray(jnp.inf, x0.dtype), x0, jnp.asarray(0), jnp.asarray(False))

    def block(strategy: Any, length: int, carry: Any, limit: Array, first: Array) -> Any:
        def advance(state: Any, best: _Best) -> Any:
            population = strategy.ask(state)
            fitness = jax.vmap(objective)(population)
            if not jnp.issubdtype(fitness.dtype, jnp.floating):
                fitness = fitness.astype(best.fitness.dtype)
            state = strategy.tell(state, population, fitness)
            values = finite_or_worst(fitness, best.fitness.dtype)
            told = better_of(Best(best.x, best.fitness), population, values)
            reasons = list(strategy.stop(state).values()) if hasattr(strategy, "stop") else [best.stopped]
            best = _Best(
                fitness=told.fitness,
                x=told.x,
                evaluations=best.evaluations + len(values),
                stopped=jnp.any(jnp.stack(reasons)),
            )
            return state, best, values

        def freeze(state: Any, best: _Best) -> Any:
            members = jax.eval_shape(strategy.ask, state).shape[0]
            return state, best, jnp.full(members, jnp.nan, best.fitness.dtype)

        def generation(carry: tuple[Any, _Best], index: Array) -> Any:
            state, best = carry
            live = (index < limit) & ~best.stopped
            state, best, values = jax.lax.cond(live, advance, freeze, state, best)
            return (state, best), (best.fitness, values)

        return jax.lax.scan(generation, carry, first + jnp.arange(length))

    if single:
        return jax.jit(start), jax.jit(block, static_argnums=1)

    def start_all(strategy: Any, x0: Array, keys: UInt32[Array, "runs 2"]) -> Any:
        return jax.vmap(start, in_axes=(None, 0, 0))(strategy, x0, keys)

    def block_all(strategy: Any, length: int, carry: Any, limits: Array, first: Array) -> Any:
        def one(carry: Any, limit: Array) -> Any:
            return block(strategy, length, carry, limit, first)

        return jax.vmap(one)(carry, limits)

    return jax.jit(start_all), jax.jit(block_all, static_argnums=1)
