"""Several evolution strategies side by side, each of which emits a batch of candidates for one archive.

The states of all of them are one state whose arrays have a leading axis. In JAX they are one program, in NumPy a loop
over the emitters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from blackbox.arrays import Array, Key, cond, is_jax, namespace, settled
from blackbox.es.cma_es import CMAES
from blackbox.es.sep_cma_es import SepCMAES
from blackbox.kernels.noise import fold, fold_many, uniform
from blackbox.qd.archive import Archive, is_empty, sample

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped

Kind = Literal["cma-es", "sep-cma-es"]
KINDS: dict[Kind, Any] = {"cma-es": CMAES, "sep-cma-es": SepCMAES}


def started(strategy: Any, key: Key, starts: Float[Array, "emitters d"]) -> Any:
    """Emitters at some points, each with its own key."""
    return of_each(strategy, "init", namespace(starts).asarray(fold_many(key, starts.shape[0])), starts)


def asked(strategy: Any, emitters: Any, first: int, count: int) -> Float[Array, "count d"]:
    """Members ``first`` to ``first + count - 1``: batches of the emitters in turn, then further members of each."""
    xp = namespace(emitters.mean)
    size = emitters.mean.shape[0] * strategy.popsize
    pages = range(first // size, -(-(first + count) // size))
    asks = [of_each(strategy, "ask", emitters, first=page * strategy.popsize) for page in pages]
    rows = xp.concat([xp.reshape(x, (size, x.shape[-1])) for x in asks])
    return rows[first % size : first % size + count, :]


def told(strategy: Any, emitters: Any, population: Float[Array, "n d"], rank: Float[Array, "n"]) -> Any:
    """The emitters after their batches, of which lower ranks are better; rows that are missing count as failed."""
    count, batch = emitters.mean.shape[0], strategy.popsize
    rows = dealt(population, count, batch, population[:1, :])
    ranks = dealt(rank, count, batch, namespace(rank).full_like(rank[:1], float("nan")))
    return of_each(strategy, "tell", emitters, rows, ranks)


def stopped(strategy: Any, emitters: Any) -> Bool[Array, "emitters"]:
    """Which emitters have nothing left to find: their steps are too short, too long or all along one line."""
    xp = namespace(emitters.mean)
    longest, shortest = xp.max(emitters.D, axis=1), xp.min(emitters.D, axis=1)
    length = emitters.sigma * longest
    too_long = min(1e7, 0.9 / float(xp.finfo(emitters.D.dtype).eps) ** 0.5)
    is_still = xp.all(emitters.mean == emitters.mean + (0.1 * length)[:, None], axis=1)
    is_out = (length < 1e-12 * strategy.sigma0) | (length > 1e4 * strategy.sigma0)
    return is_still | is_out | (longest > too_long * shortest)


def restarted(
    strategy: Any,
    emitters: Any,
    due: Bool[Array, "emitters"],
    archive: Archive,
    x0: Float[Array, "d"],
    key: Key,
    generation: Int[Array, ""],
) -> Any:
    """The emitters, of which those that are ``due`` begin anew at random elites, at ``x0`` if there are none."""
    xp = namespace(x0)

    def anew() -> Any:
        u = uniform(key, generation, (due.shape[0], 1), leaf=2, like=x0)[:, 0]
        starts = xp.where(is_empty(archive), x0, sample(archive, u))
        # With the key of before, the first samples would be those of the emitter's first life.
        return _map(
            lambda new, old: xp.where(xp.reshape(due, (-1, *[1] * (new.ndim - 1))), new, old),
            started(strategy, fold(key, generation, 1), starts),
            emitters,
        )

    return cond(xp.any(due), anew, lambda: emitters)


def dealt(rows: Shaped[Array, "n *row"], count: int, batch: int, fill: Shaped[Array, "1 *row"]) -> Shaped[Array, "..."]:
    """The rows of each emitter, ``(count, pages batch, *row)``, with ``fill`` for those that are missing."""
    xp = namespace(rows)
    missing = -rows.shape[0] % (count * batch)
    whole = xp.concat([rows, xp.broadcast_to(fill, (missing, *rows.shape[1:]))])
    pages = xp.reshape(whole, (-1, count, batch, *rows.shape[1:]))
    return xp.reshape(xp.moveaxis(pages, 1, 0), (count, -1, *rows.shape[1:]))


def of_each(strategy: Any, name: str, *trees: Any, **options: Any) -> Any:
    """What the method of that name returns for each emitter, stacked; arguments are trees with a leading axis."""
    array = _leaves(trees)[0]
    if is_jax(array):
        kind: Any = type(strategy)
        return _program(kind, name, tuple(options.items()))(strategy, trees)
    results = [
        getattr(strategy, name)(*_map(lambda leaf, i=i: settled(leaf[i, ...]), trees), **options)
        for i in range(array.shape[0])
    ]
    return _map(lambda *leaves: namespace(leaves[0]).stack(leaves), *results)


@lru_cache(maxsize=64)
def _program(cls: type, name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    """The method for all emitters at once; compiled, so that it is traced once where nothing else is."""
    import jax

    def of_all(strategy: Any, trees: Any) -> Any:
        return jax.vmap(lambda *tree: getattr(cls, name)(strategy, *tree, **dict(options)))(*trees)

    return jax.jit(of_all)


def _map(function: Callable[..., Array], *trees: Any) -> Any:
    """A tree of tuples, of ``function`` of the corresponding arrays of all trees."""
    if not isinstance(trees[0], tuple):
        return function(*trees)
    children = [_map(function, *parts) for parts in zip(*trees, strict=True)]
    return type(trees[0])(*children) if hasattr(trees[0], "_fields") else tuple(children)


def _leaves(tree: Any) -> list[Array]:
    return [leaf for part in tree for leaf in _leaves(part)] if isinstance(tree, tuple) else [tree]
