"""Algorithms of evosax as ``evosax:NAME``: array programs, which jit, vmap and scan with JAX arrays.

Source: Lange 2022, "evosax: JAX-based evolution strategies" (arXiv:2212.04180), versions 0.2 and 0.3. Departures from
a plain use of the package:

* An algorithm works on z = (x - x0) / sigma0 from mean 0 with deviation 1, so that sigma0 means the same to all.
* ``ask`` gives its new state in ``tell``, which asks again under the same key; so ours is a function of the state.
* Population-based algorithms first evaluate a generation of their own, x0 among normal points around it.
* A failed member has the worst finite fitness of its generation. A step to a state that is not finite is not taken.
* Adam with a rate of 0.1 where upstream's optimizer has 0.001, at which nothing moves in a hundred generations.
* Runs whose best value stalls end, so that the shell restarts them; upstream has no such criterion.

Points in float64 are computed in float64, whatever JAX's default, and NumPy's come back as NumPy's. A generation is
told complete and in member order; the first call of each size and dimension compiles for some seconds.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, is_jax, namespace
from blackbox.errors import SettingError, TellError, missing_extra
from blackbox.strategy import algorithm, nearest, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

RATE = 0.1  # of Adam, in units of sigma0
SWARMS = 2  # distributions of the Stein variational algorithms
FARTHEST = 1e9  # in units of sigma0
SLOW = ("ARS", "ASEBO", "ESMC", "GuidedES", "NoiseReuseES", "Open_ES", "PersistentES", "SV_Open_ES")
"""Algorithms whose optimizer moves by a thousandth."""


class EvosaxState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    x0: Float[Array, "d"]
    inner: tuple[Array, ...]
    """Leaves of evosax's own state."""
    best: Float[Array, ""]
    since: Int[Array, ""]
    """Generations since the best value changed by more than rounding."""


@functools.cache
def _algorithms() -> dict[str, Any]:
    """evosax's algorithms by the names of their classes."""
    try:
        import evosax.algorithms as package
    except ImportError:
        raise missing_extra("evosax", "evosax") from None
    classes = {cls.__name__: cls for cls in package.algorithms.values()}
    return {**classes, **package.algorithms}


def names() -> list[str]:
    """The algorithms of the installed evosax."""
    from evosax.algorithms import algorithms

    return sorted(algorithms)


def _even(popsize: int) -> int:
    return popsize + popsize % 2


class _Program:
    """One algorithm of one size in compiled functions of arrays."""

    def __init__(self, name: str, popsize: int, d: int) -> None:
        import jax
        import jax.numpy as jnp
        import optax
        from evosax.algorithms import population_based_algorithms

        cls = _algorithms()[name]
        accepted = inspect.signature(cls.__init__).parameters
        options: dict[str, Any] = {"solution": jnp.zeros(d), "population_size": popsize}
        self.means: tuple[int, ...] = ()
        if "num_populations" in accepted:
            self.means = (SWARMS,)
            options |= {"num_populations": SWARMS, "population_size": popsize // SWARMS}
        if "sampling_fn" in accepted:
            options["sampling_fn"] = lambda key: jax.random.normal(key, (d,))
        if cls.__name__ in SLOW:
            options["optimizer"] = optax.adam(RATE)
        self.popsize, self.d = popsize, d
        self.algorithm = cls(**options)
        self.params = self.algorithm.default_params
        if hasattr(self.params, "std_init"):
            self.params = self.params.replace(std_init=1.0)
        self.founded = cls in population_based_algorithms.values()
        self.tree: Any = None
        self.start, self.ask, self.tell = jax.jit(self._start), jax.jit(self._ask), jax.jit(self._tell)
        self.recommend = jax.jit(self._recommend)

    def _key(self, key: Array, generation: Array, word: int) -> Array:
        import jax

        whole = jax.random.wrap_key_data(key, impl="threefry2x32")
        return jax.random.fold_in(jax.random.fold_in(whole, generation), word)

    def _found(self, key: Array, population: Array, fitness: Array) -> tuple[Array, ...]:
        """Leaves of the state of a population-based algorithm that begins with a population."""
        import jax

        state = self.algorithm.init(self._key(key, 0, 0), population, fitness, self.params)
        leaves, self.tree = jax.tree.flatten(state)
        return tuple(map(jax.numpy.asarray, leaves))

    def _start(self, key: Array) -> tuple[Array, ...]:
        import jax
        import jax.numpy as jnp

        if self.founded:
            return self._found(key, self._founders(key, 0), jnp.zeros(self.popsize))
        mean = jnp.zeros(self.d)
        if self.means:  # apart, or nothing would part them later
            apart = 0.5 * jax.random.normal(self._key(key, 0, 1), (*self.means, self.d))
            mean = apart.at[0].set(0.0)
        leaves, self.tree = jax.tree.flatten(self.algorithm.init(self._key(key, 0, 0), mean, self.params))
        return tuple(map(jnp.asarray, leaves))

    def _founders(self, key: Array, page: Array | int) -> Array:
        """The first generation of a population-based algorithm."""
        import jax
        import jax.numpy as jnp

        z = jax.random.normal(self._key(key, 0, 2 + page), (self.popsize, self.d))
        return jnp.where((page == 0) & (jnp.arange(self.popsize) == 0)[:, None], 0.0, z)

    def _asked(self, key: Array, generation: Array, inner: tuple[Array, ...], page: Array | int) -> Any:
        import jax

        state = jax.tree.unflatten(self.tree, inner)
        z, state = self.algorithm.ask(self._key(key, generation, 3 + 2 * page), state, self.params)
        return z, state

    def _ask(self, key: Array, generation: Array, inner: tuple[Array, ...], page: Array) -> Array:
        import jax.numpy as jnp

        z, _ = self._asked(key, generation, inner, page)
        if self.founded:
            z = jnp.where(generation == 0, self._founders(key, page), z)
        return jnp.clip(jnp.nan_to_num(z), -FARTHEST, FARTHEST)

    def _tell(
        self, key: Array, generation: Array, inner: tuple[Array, ...], z: Array, fitness: Array
    ) -> tuple[Array, ...]:
        import jax
        import jax.numpy as jnp

        finite = jnp.isfinite(fitness)
        worst = jnp.max(jnp.where(finite, fitness, -jnp.inf))
        least = jnp.min(jnp.where(finite, fitness, jnp.inf))
        fitness = jnp.where(finite, fitness, jnp.where(fitness == -jnp.inf, least, worst))
        fitness = jnp.where(jnp.any(finite), fitness, 0.0)
        _, asked = self._asked(key, generation, inner, 0)
        rows = z[:, None, :] if self.means else z  # upstream unravels each of these once more
        told, _ = self.algorithm.tell(self._key(key, generation, 1), rows, fitness, asked, self.params)
        leaves = [jnp.asarray(a, b.dtype) for a, b in zip(jax.tree.leaves(told), inner, strict=True)]
        broken = functools.reduce(jnp.logical_or, map(_breaks, leaves, inner))
        kept = tuple(jnp.where(broken, old, new) for new, old in zip(leaves, inner, strict=True))
        if not self.founded:
            return kept
        founded = self._found(key, z, fitness)
        return tuple(jnp.where(generation == 0, a.astype(b.dtype), b) for a, b in zip(founded, kept, strict=True))

    def _recommend(self, inner: tuple[Array, ...]) -> Array:
        import jax
        import jax.numpy as jnp

        state = jax.tree.unflatten(self.tree, inner)
        best = state.best_solution
        if self.means:
            best = best[jnp.argmin(state.best_fitness)]
        elif hasattr(state, "mean"):
            best = jnp.where(jnp.all(jnp.isfinite(state.mean)), state.mean, best)
        return jnp.clip(jnp.nan_to_num(best), -FARTHEST, FARTHEST)


def _breaks(new: Array, old: Array) -> Array:
    """Whether a leaf that was finite no longer is."""
    import jax.numpy as jnp

    if not jnp.issubdtype(new.dtype, jnp.floating):
        return jnp.asarray(False)
    return jnp.any(~jnp.isfinite(new)) & jnp.all(jnp.isfinite(old))


@functools.lru_cache(maxsize=64)
def _program(name: str, popsize: int, d: int, precise: bool) -> _Program:
    """Compiled functions, one for each precision, which JAX's functions cannot share."""
    try:
        return _Program(name, popsize, d)
    except (AssertionError, ValueError, ZeroDivisionError) as error:
        raise SettingError(f"popsize {popsize} does not suit evosax:{name} in {d} dimensions: {error}") from error


def _precision(x: Array) -> Any:
    """The context in which JAX computes in the precision of ``x``; traced arrays bring theirs."""
    import jax

    if is_jax(x):
        return contextlib.nullcontext()
    return jax.enable_x64(_is_precise(x))


def _is_precise(x: Array) -> bool:
    return bool(namespace(x).finfo(x.dtype).bits == 64)


@algorithm
class Evosax:
    """An algorithm of evosax.

    Args:
        name: as in ``evosax.algorithms.algorithms``.
        popsize: candidates per generation; many algorithms need an even one, those with several distributions a
            multiple of 4. By default 4 + floor(3 ln d), made even, and at least 16 for population-based ones.
        sigma0: initial standard deviation, in units of x.
    """

    name: str
    popsize: int | None = None
    sigma0: float = 1.0

    positional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.name not in _algorithms():
            raise SettingError(f"evosax has no algorithm {self.name!r}{nearest(self.name, names())}")
        require_integer("popsize", self.popsize, low=2)
        require_number("sigma0", self.sigma0, above=0)
        swarms = "num_populations" in inspect.signature(_algorithms()[self.name].__init__).parameters
        if self.popsize is not None and swarms and self.popsize % (2 * SWARMS):
            raise SettingError(f"popsize must be a multiple of 4 for {self.registered}, got {self.popsize!r}")
        if self.popsize is not None:
            with _precision(np.zeros(1)):
                try:
                    _program(self.name, self.popsize, 2, True)
                except SettingError as error:
                    even = "even and larger" if self.popsize % 2 else "larger"
                    raise SettingError(
                        f"popsize must be {even} for {self.registered}, got {self.popsize!r} ({error})"
                    ) from error

    @property
    def registered(self) -> str:
        """The name for :func:`blackbox.create`."""
        return f"evosax:{self.name}"

    def _size(self, d: int) -> int:
        from evosax.algorithms import population_based_algorithms

        if self.popsize is not None:
            return self.popsize
        size = _even(4 + int(3 * math.log(d)))
        if _algorithms()[self.name] in population_based_algorithms.values():
            return max(16, size)
        wide = {"iAMaLGaM_Full": _even(17 + int(3 * d**1.5)), "iAMaLGaM_Univariate": _even(10 + int(10 * d**0.5))}
        return wide.get(self.name, size + size % 4 if self.name.startswith("SV_") else size)

    def _for(self, x0: Float[Array, "d"]) -> _Program:
        d = x0.shape[0]
        return _program(self.name, self._size(d), d, _is_precise(x0))

    def init(self, key: Key, x0: Float[Array, "d"]) -> EvosaxState:
        xp = namespace(x0)
        with _precision(x0):
            inner = self._for(x0).start(_plain(key, x0))
        zero = xp.asarray(0)[()]
        return EvosaxState(
            key=xp.asarray(key),
            generation=zero,
            x0=x0,
            inner=tuple(_like(leaf, x0) for leaf in inner),
            best=xp.asarray(xp.inf, dtype=x0.dtype)[()],
            since=zero,
        )

    def ask(self, state: EvosaxState, first: int = 0) -> Float[Array, "popsize d"]:
        with _precision(state.x0):
            program = self._for(state.x0)
            if program.tree is None:  # a state from elsewhere
                program.start(_plain(state.key, state.x0))
            page = np.int32(first // program.popsize) if isinstance(first, int) else first // program.popsize
            generation = state.generation if is_jax(state.generation) else np.int32(state.generation)
            z = program.ask(_plain(state.key, state.x0), generation, _inner(state), page)
        return state.x0 + self.sigma0 * _like(z, state.x0, state.x0.dtype)

    def tell(self, state: EvosaxState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> EvosaxState:
        xp, x0 = namespace(state.x0), state.x0
        with _precision(x0):
            program = self._for(x0)
            if program.tree is None:
                program.start(_plain(state.key, x0))
            if population.shape[0] != program.popsize:
                raise TellError(f"population must have {program.popsize} rows, as asked; got {population.shape[0]}")
            z = _plain((population - x0) / self.sigma0, x0)
            generation = state.generation if is_jax(state.generation) else np.int32(state.generation)
            inner = program.tell(_plain(state.key, x0), generation, _inner(state), z, _plain(fitness, x0))
        least = xp.min(xp.where(xp.isfinite(fitness), fitness, xp.inf))
        least = xp.astype(least, x0.dtype)
        best = xp.minimum(least, state.best)
        scale = 1e-12 if _is_precise(x0) else 1e-6
        moved = least < state.best - scale * xp.abs(xp.where(xp.isfinite(state.best), state.best, 0.0)) - 1e-12
        return EvosaxState(
            key=state.key,
            generation=state.generation + 1,
            x0=x0,
            inner=tuple(_like(leaf, x0) for leaf in inner),
            best=best[()],
            since=xp.where(moved, 0, state.since + 1)[()],
        )

    def recommend(self, state: EvosaxState) -> Float[Array, "d"]:
        with _precision(state.x0):
            program = self._for(state.x0)
            if program.tree is None:
                program.start(_plain(state.key, state.x0))
            z = program.recommend(_inner(state))
        return state.x0 + self.sigma0 * _like(z, state.x0, state.x0.dtype)

    def stop(self, state: EvosaxState) -> dict[str, Bool[Array, ""]]:
        """The reason to restart, a scalar boolean: no better value for many generations."""
        d, popsize = state.x0.shape[0], self._size(state.x0.shape[0])
        return {"stalled": state.since > 50 + math.ceil(100 * d / popsize)}


def _plain(array: Array, x0: Array) -> Array:
    """For JAX's functions: its own arrays as they are, others as NumPy's."""
    return array if is_jax(x0) else np.asarray(array)


def _inner(state: EvosaxState) -> tuple[Array, ...]:
    return tuple(_plain(leaf, state.x0) for leaf in state.inner)


def _like(array: Array, x0: Array, dtype: Any = None) -> Array:
    """A result of JAX's functions in the library of ``x0``."""
    if is_jax(x0):
        return array if dtype is None else array.astype(dtype)
    return namespace(x0).asarray(np.array(array), dtype=dtype)
