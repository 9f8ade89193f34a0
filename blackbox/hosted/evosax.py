"""Algorithms of evosax as ``evosax:NAME``: array programs, which jit, vmap and scan with JAX arrays.

Source: Lange 2022, "evosax: JAX-based evolution strategies" (arXiv:2212.04180), version 0.3. Departures from a plain
use of the package:

* An algorithm works on z = (x - x0) / sigma0 from mean 0 with deviation 1, so that sigma0 means the same to all.
* ``ask`` gives its new state in ``tell``, which asks again under the same key; so ours is a function of the state.
* Population-based algorithms first evaluate a generation of their own, x0 among normal points around it.
* A failed member has the worst finite fitness of its generation. A step to a state that is not finite is not taken.
* Adam with a rate of 0.1 where upstream's optimizer has 0.001, at which nothing moves in a hundred generations.
* iAMaLGaM without the constant deviation of 1 that upstream adds to what it estimates, and never converges with.
* SimpleGA with mutations that are halved every 50 generations; those of upstream remain as large as sigma0.
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
HALVED = 50  # generations after which SimpleGA's mutations are half as large
SWARMS = 2  # distributions of the Stein variational algorithms
FARTHEST = 1e9  # in units of sigma0
START, MEANS, FOUND, ASK, TELL = range(5)  # words that keep the streams of numbers apart
MODELS = ("iAMaLGaM_Full", "iAMaLGaM_Univariate")
"""Algorithms that sample from the covariance they estimate, to which upstream adds a constant one."""
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
    try:
        from evosax.algorithms import algorithms
    except ImportError:
        raise missing_extra("evosax", "evosax") from None
    return dict(algorithms)


def names() -> list[str]:
    """The algorithms of the installed evosax."""
    return sorted(_algorithms())


def _is_population_based(name: str) -> bool:
    from evosax.algorithms import population_based_algorithms

    return name in population_based_algorithms


def _has_swarms(name: str) -> bool:
    return "num_populations" in inspect.signature(_algorithms()[name].__init__).parameters


def _even(popsize: int) -> int:
    return popsize + popsize % 2


class _Program:
    """One algorithm of one size in compiled functions of arrays."""

    def __init__(self, name: str, popsize: int, d: int) -> None:
        import jax
        import jax.numpy as jnp
        import optax

        cls = _algorithms()[name]
        self.popsize, self.d, self.founded = popsize, d, _is_population_based(name)
        self.swarms = SWARMS if _has_swarms(name) else 0
        options: dict[str, Any] = {"population_size": popsize}
        if self.swarms:
            options |= {"num_populations": SWARMS, "population_size": popsize // SWARMS}
        if "sampling_fn" in inspect.signature(cls.__init__).parameters:
            options["sampling_fn"] = lambda key: jax.random.normal(key, (d,))
        if name in MODELS:
            options["std_schedule"] = optax.constant_schedule(0.0)
        if name == "SimpleGA":
            options["std_schedule"] = optax.exponential_decay(1.0, HALVED, 0.5)
        if name in SLOW:
            options["optimizer"] = optax.adam(RATE)
        with jax.ensure_compile_time_eval():  # constants: they outlive the program that is being traced, if any
            self.algorithm = cls(solution=jnp.zeros(d), **options)
            self.params = self.algorithm.default_params
        if hasattr(self.params, "std_init"):
            self.params = self.params.replace(std_init=1.0)
        self.start, self.ask, self.tell = jax.jit(self._start), jax.jit(self._ask), jax.jit(self._tell)
        self.recommend = jax.jit(self._recommend)
        key, word = jax.ShapeDtypeStruct((2,), jnp.uint32), jax.ShapeDtypeStruct((), jnp.int32)
        self.tree = jax.tree.structure(jax.eval_shape(self._begun, key))
        inner = jax.eval_shape(self.start, key)
        z = jax.eval_shape(self.ask, key, word, inner, word)
        jax.eval_shape(self.tell, key, word, inner, z, jax.ShapeDtypeStruct((popsize,), z.dtype))  # for its errors

    def _key(self, key: Array, generation: Array | int, use: int, page: Array | int = 0) -> Array:
        import jax

        whole = jax.random.wrap_key_data(key, impl="threefry2x32")
        return functools.reduce(jax.random.fold_in, (generation, use, page), whole)

    def _begun(self, key: Array) -> Any:
        """evosax's state before the first generation."""
        import jax
        import jax.numpy as jnp

        if self.founded:
            return self._founded(key, self._founders(key, 0), jnp.zeros(self.popsize))
        mean = jnp.zeros(self.d)
        if self.swarms:  # apart, or nothing would part them later
            apart = 0.5 * jax.random.normal(self._key(key, 0, MEANS), (self.swarms, self.d))
            mean = apart.at[0].set(0.0)
        return self.algorithm.init(self._key(key, 0, START), mean, self.params)

    def _founded(self, key: Array, population: Array, fitness: Array) -> Any:
        """The state of a population-based algorithm that begins with an evaluated population."""
        return self.algorithm.init(self._key(key, 0, START), population, fitness, self.params)

    def _start(self, key: Array) -> tuple[Array, ...]:
        import jax
        import jax.numpy as jnp

        return tuple(map(jnp.asarray, jax.tree.leaves(self._begun(key))))

    def _founders(self, key: Array, page: Array | int) -> Array:
        """The first generation of a population-based algorithm."""
        import jax
        import jax.numpy as jnp

        z = jax.random.normal(self._key(key, 0, FOUND, page), (self.popsize, self.d))
        return jnp.where((page == 0) & (jnp.arange(self.popsize) == 0)[:, None], 0.0, z)

    def _asked(self, key: Array, generation: Array, inner: tuple[Array, ...], page: Array | int) -> Any:
        import jax

        state = jax.tree.unflatten(self.tree, inner)
        z, state = self.algorithm.ask(self._key(key, generation, ASK, page), state, self.params)
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
        rows = z[:, None, :] if self.swarms else z  # upstream unravels each of these once more
        told, _ = self.algorithm.tell(self._key(key, generation, TELL), rows, fitness, asked, self.params)
        leaves = [jnp.asarray(a, b.dtype) for a, b in zip(jax.tree.leaves(told), inner, strict=True)]
        broken = functools.reduce(jnp.logical_or, map(_breaks, leaves, inner))
        kept = tuple(jnp.where(broken, old, new) for new, old in zip(leaves, inner, strict=True))
        if not self.founded:
            return kept
        founded = jax.tree.leaves(self._founded(key, z, fitness))
        return tuple(jnp.where(generation == 0, jnp.asarray(a, b.dtype), b) for a, b in zip(founded, kept, strict=True))

    def _recommend(self, inner: tuple[Array, ...]) -> Array:
        import jax
        import jax.numpy as jnp

        state = jax.tree.unflatten(self.tree, inner)
        best = state.best_solution
        if self.swarms:
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
def _compiled(name: str, popsize: int, d: int, x64: bool) -> _Program:
    """Compiled functions, one for each of JAX's modes, which cannot share them."""
    try:
        return _Program(name, popsize, d)
    except (AssertionError, TypeError, ValueError, ZeroDivisionError) as error:
        allowed = "even" if popsize % 2 else "larger"
        raise SettingError(f"popsize must be {allowed} for evosax:{name}, got {popsize} ({error})") from error


def _program(name: str, popsize: int, d: int) -> _Program:
    import jax

    return _compiled(name, popsize, d, bool(jax.config.read("jax_enable_x64")))


def _precision(x: Array) -> Any:
    """The context in which JAX computes in the precision of ``x``; JAX's own arrays bring theirs."""
    import jax

    return contextlib.nullcontext() if is_jax(x) else jax.enable_x64(_is_precise(x))


def _is_precise(x: Array) -> bool:
    return bool(namespace(x).finfo(x.dtype).bits == 64)


@algorithm
class Evosax:
    """An algorithm of evosax.

    Args:
        name: as in ``evosax.algorithms.algorithms``.
        popsize: candidates per generation; many algorithms need an even one, those with several distributions a
            multiple of 4. By default 4 + floor(3 ln d), made even, and at least 16 for population-based ones; for
            iAMaLGaM what its authors advise, 17 + 3 d^1.5 (full) or 10 + 10 d^0.5 (univariate).
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
        if self.popsize is not None and _has_swarms(self.name) and self.popsize % (2 * SWARMS):
            raise SettingError(f"popsize must be a multiple of 4 for {self.registered}, got {self.popsize!r}")
        if self.popsize is not None:
            _program(self.name, self.popsize, 2)

    @property
    def registered(self) -> str:
        """The name for :func:`blackbox.create`."""
        return f"evosax:{self.name}"

    def _size(self, d: int) -> int:
        if self.popsize is not None:
            return self.popsize
        size = _even(4 + int(3 * math.log(d)))
        if _is_population_based(self.name):
            return max(16, size)
        if _has_swarms(self.name):
            return size + size % 4
        wide = {"iAMaLGaM_Full": 17 + int(3 * d**1.5), "iAMaLGaM_Univariate": 10 + int(10 * d**0.5)}
        return _even(wide.get(self.name, size))

    def _for(self, x0: Float[Array, "d"]) -> _Program:
        return _program(self.name, self._size(x0.shape[0]), x0.shape[0])

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
            page = np.int32(first // program.popsize) if isinstance(first, int) else first // program.popsize
            generation = state.generation if is_jax(state.generation) else np.int32(state.generation)
            z = program.ask(_plain(state.key, state.x0), generation, _inner(state), page)
        return state.x0 + self.sigma0 * _like(z, state.x0, state.x0.dtype)

    def tell(self, state: EvosaxState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> EvosaxState:
        xp, x0 = namespace(state.x0), state.x0
        with _precision(x0):
            program = self._for(x0)
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
            z = self._for(state.x0).recommend(_inner(state))
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
        return array.astype(array.dtype if dtype is None else dtype)  # of no weak type, which would end with a tell
    return namespace(x0).asarray(np.array(array), dtype=dtype)
