"""Laws of strategies of flat vectors."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.arrays import Array, namespace
from blackbox.kernels.noise import fold, key
from blackbox.strategy import register_with_jax

if TYPE_CHECKING:
    from jaxtyping import Float

Check = Callable[[Any, Array], None]


def sphere(population: Float[Array, "n d"]) -> Float[Array, "n"]:
    """Squared distance from (0.3, 0.3, ...), a point inside the unit cube."""
    return namespace(population).sum((population - 0.3) ** 2, axis=1)


def leaves(tree: Any, name: str = "state") -> Iterator[tuple[str, Array]]:
    """The named arrays of a tree of tuples."""
    if isinstance(tree, tuple):
        names = getattr(tree, "_fields", range(len(tree)))
        for field, value in zip(names, tree, strict=True):
            yield from leaves(value, f"{name}.{field}")
    elif tree is not None:
        yield name, tree


def assert_same(first: Any, second: Any, law: str, *, rtol: float = 0.0) -> None:
    """All leaves equal: bit for bit, or to ``rtol`` of the largest magnitude of each."""
    for (name, a), (_, b) in zip(leaves(first), leaves(second), strict=True):
        x, y = np.asarray(a), np.asarray(b)
        if rtol == 0.0:
            same = np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
        else:
            finite = np.abs(x[np.isfinite(x)]) if x.dtype.kind == "f" else np.abs(x)
            scale = max(1e-300, float(np.max(finite, initial=0.0)))
            same = bool(np.allclose(x, y, rtol=rtol, atol=rtol * scale, equal_nan=True))
        assert same, f"{law}: {name} differs\n{x}\n{y}"


def advance(strategy: Any, state: Any, generations: int) -> Any:
    """The state after some generations on the sphere."""
    for _ in range(generations):
        population = strategy.ask(state)
        state = strategy.tell(state, population, sphere(population))
    return state


def check_ask_is_pure(strategy: Any, x0: Array) -> None:
    """Asking twice gives the same bits and leaves the state as it was."""
    state = advance(strategy, strategy.init(key(0), x0), 3)
    before = [(name, np.array(a)) for name, a in leaves(state)]
    first, second = strategy.ask(state), strategy.ask(state)
    assert np.array_equal(np.asarray(first), np.asarray(second)), "ask is pure: two asks of one state differ"
    for (name, a), (_, b) in zip(before, leaves(state), strict=True):
        assert np.array_equal(a, np.asarray(b), equal_nan=a.dtype.kind == "f"), f"ask is pure: it changed {name}"


def check_replayable(strategy: Any, x0: Array) -> None:
    """Same key and fitness, same bits."""
    first = advance(strategy, strategy.init(key(1), x0), 6)
    second = advance(strategy, strategy.init(key(1), x0), 6)
    assert_same(first, second, "replayable")


def check_seeds_differ(strategy: Any, x0: Array) -> None:
    """Different keys, different populations."""
    points = []
    for seed in range(5):
        state = advance(strategy, strategy.init(key(seed), x0), 2 * x0.shape[0] + 2)
        points.append(np.asarray(strategy.ask(state)))
    shapes = {p.shape for p in points}
    deterministic = getattr(strategy, "deterministic", False)
    same = [np.array_equal(a, b) for i, a in enumerate(points) for b in points[:i]]
    assert deterministic or len(shapes) > 1 or not any(same), "seeds: two keys give the same population"


def check_shape_stable(strategy: Any, x0: Array) -> None:
    """Populations are (popsize, d), or parts of that, in the dtype of x0; all leaves keep shape and dtype.

    In JAX its weakness, too: a weak type that ends with the first tell has everything compiled twice.
    """

    def kinds(state: Any) -> list[tuple[Any, ...]]:
        return [(name, np.shape(a), np.asarray(a).dtype, getattr(a, "weak_type", False)) for name, a in leaves(state)]

    state = strategy.init(key(2), x0)
    shapes = kinds(state)
    rows, d = strategy.ask(state).shape[0], x0.shape[0]
    is_part = hasattr(strategy, "population_size")
    for _ in range(4):
        population = strategy.ask(state)
        due = (rows, *range(1, strategy.population_size(d) + 1)) if is_part else (rows,)
        is_due = population.shape[0] in due and population.shape[1:] == (d,)
        assert is_due, f"shape-stable: population {population.shape}"
        assert population.dtype == x0.dtype, f"shape-stable: population {population.dtype}, x0 {x0.dtype}"
        state = strategy.tell(state, population, sphere(population))
        now = kinds(state)
        assert now == shapes, f"shape-stable: {[(a, b) for a, b in zip(shapes, now, strict=True) if a != b]}"
    assert strategy.recommend(state).shape == x0.shape, "shape-stable: recommend() must have the shape of x0"


def check_lower_is_better(strategy: Any, x0: Array) -> None:
    """The recommendation approaches the sphere's minimum and not its maximum."""
    state = strategy.init(key(3), x0)
    start = float(sphere(x0[None, :])[0])
    rows = strategy.ask(state).shape[0]
    best = np.inf
    for _ in range(-(-150 * x0.shape[0] // rows)):
        population = strategy.ask(state)
        fitness = sphere(population)
        best = min(best, float(np.min(np.asarray(fitness))))
        state = strategy.tell(state, population, fitness)
    reached = float(sphere(strategy.recommend(state)[None, :])[0])
    assert reached < 0.5 * start, f"lower is better: recommend() went from {start} to {reached}"
    assert best < 0.5 * start, f"lower is better: the best of all went from {start} to {best}"


def check_total_on_fitness(strategy: Any, x0: Array) -> None:
    """No fitness turns a finite state into one that asks for or recommends non-finite points."""
    xp = namespace(x0)
    start = advance(strategy, strategy.init(key(4), x0), 3)
    huge = float(np.finfo(np.asarray(x0).dtype).max)
    cases: dict[str, Callable[[Any], Any]] = {
        "one NaN": lambda index: np.where(index == 0, np.nan, index),
        "half NaN": lambda index: np.where(index % 2 == 0, np.nan, index),
        "all NaN": lambda index: np.full(len(index), np.nan),
        "all +inf": lambda index: np.full(len(index), np.inf),
        "one -inf": lambda index: np.where(index == 0, -np.inf, index),
        "all -inf": lambda index: np.full(len(index), -np.inf),
        "NaN and infinities": lambda index: np.choose(index % 4, [np.nan, np.inf, -np.inf, 1.0]),
        "all equal": lambda index: np.zeros(len(index)),
        "huge": lambda index: np.where(index % 2 == 0, huge, -huge),
        "tiny": lambda index: 1e-30 * index,
    }
    for name, values in cases.items():
        state = start
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(8):
                population = strategy.ask(state)
                fitness = values(np.arange(population.shape[0]))
                state = strategy.tell(state, population, xp.asarray(fitness, dtype=x0.dtype))
        assert np.all(np.isfinite(np.asarray(strategy.ask(state)))), f"total on fitness: {name} breaks ask"
        assert np.all(np.isfinite(np.asarray(strategy.recommend(state)))), f"total on fitness: {name} breaks recommend"


def check_nan_ranks_last(strategy: Any, x0: Array) -> None:
    """A failed member counts like one of infinite fitness: last."""
    xp = namespace(x0)
    state = advance(strategy, strategy.init(key(5), x0), 3)
    population = strategy.ask(state)
    values = np.array(sphere(population))
    outcomes = []
    for failed in (np.nan, np.inf):
        values[-1] = failed
        outcomes.append(strategy.tell(state, population, xp.asarray(values, dtype=x0.dtype)))
    assert_same(outcomes[0], outcomes[1], "NaN ranks last")


def check_order_of_members(strategy: Any, x0: Array) -> None:
    """Members may be told in any order, where the method does not go by their number."""
    if getattr(strategy, "positional", False):
        return
    xp = namespace(x0)
    state = advance(strategy, strategy.init(key(6), x0), 3)
    population = strategy.ask(state)
    fitness = sphere(population)
    order = xp.asarray(np.random.default_rng(0).permutation(population.shape[0]))
    straight = strategy.tell(state, population, fitness)
    mixed = strategy.tell(state, xp.take(population, order, axis=0), xp.take(fitness, order, axis=0))
    assert_same(straight, mixed, "order of members", rtol=1e-9 if x0.dtype == xp.float64 else 2e-4)


def check_types_of_fitness(strategy: Any, x0: Array) -> None:
    """Fitness in integers, truth values or another float type is taken, and no leaf changes its type by it."""
    xp = namespace(x0)
    state = advance(strategy, strategy.init(key(12), x0), 3)
    shapes = [(name, np.shape(a), np.asarray(a).dtype) for name, a in leaves(state)]
    population = strategy.ask(state)
    values = sphere(population) < 0.5
    reference = strategy.tell(state, population, xp.astype(values, x0.dtype))
    for dtype in (xp.int32, xp.bool, xp.float32, xp.float64):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Explicitly requested dtype")  # JAX without its 64-bit mode
            told = strategy.tell(state, population, xp.astype(values, dtype))
        now = [(name, np.shape(a), np.asarray(a).dtype) for name, a in leaves(told)]
        assert now == shapes, f"types of fitness: {dtype} changes {set(now) - set(shapes)}"
        assert_same(told, reference, f"types of fitness: {dtype}", rtol=1e-5)


def check_sizes_of_population(strategy: Any, x0: Array) -> None:
    """Fewer or more rows than asked may be told, two at least; leaves keep their shapes."""
    xp = namespace(x0)
    state = advance(strategy, strategy.init(key(13), x0), 3)
    shapes = [np.shape(a) for _, a in leaves(state)]
    rows = xp.concat([strategy.ask(state, first=i * strategy.ask(state).shape[0]) for i in range(40)])
    for n in (2, 3, 40):
        told = strategy.tell(state, rows[:n, :], sphere(rows[:n, :]))
        assert [np.shape(a) for _, a in leaves(told)] == shapes, f"sizes of population: {n} rows change a shape"
        assert np.all(np.isfinite(np.asarray(strategy.ask(told)))), f"sizes of population: {n} rows break ask"


def check_further_members(strategy: Any, x0: Array) -> None:
    """Members beyond popsize are new samples; a member's position does not depend on the page it is asked in."""
    state = advance(strategy, strategy.init(key(7), x0), 2 * x0.shape[0])
    first = np.asarray(strategy.ask(state))
    rows = len(first)
    further = np.asarray(strategy.ask(state, first=rows))
    assert further.shape == first.shape and np.all(np.isfinite(further)), "further members: wrong shape or not finite"
    assert not any(np.array_equal(a, b) for a in first for b in further), "further members: repeated"
    again = np.asarray(strategy.ask(state, first=0))
    assert np.array_equal(first, again), "further members: asking for them changed the first"


def check_injected_points(strategy: Any, x0: Array) -> None:
    """Where a method says ``injectable``, foreign rows may be told, near or absurdly far."""
    if not getattr(strategy, "injectable", False):
        return
    xp = namespace(x0)
    state = advance(strategy, strategy.init(key(8), x0), 2 * x0.shape[0])
    for far in (0.5, 1e9):
        population = strategy.ask(state)
        rows = xp.concat([population, xp.full((1, x0.shape[0]), far, dtype=x0.dtype)])
        told = strategy.tell(state, rows, xp.concat([sphere(population), xp.asarray([0.0], dtype=x0.dtype)]))
        asked = np.asarray(strategy.ask(told))
        assert np.all(np.isfinite(asked)), "injected points: ask is not finite any more"
        reach = 1e4 * (1 + np.max(np.abs(np.asarray(population))))
        assert np.max(np.abs(asked)) < reach, f"injected points: one at {far} threw the population to {asked}"


def check_improves_with_failures(strategy: Any, x0: Array) -> None:
    """With a fifth of all evaluations failing at random the sphere is still descended."""
    xp = namespace(x0)
    state = strategy.init(key(9), x0)
    rng = np.random.default_rng(1)
    rows = strategy.ask(state).shape[0]
    start, best = float(sphere(x0[None, :])[0]), np.inf
    for _ in range(-(-300 * x0.shape[0] // rows)):
        population = strategy.ask(state)
        values = np.array(sphere(population))
        best = min(best, float(values.min()))
        if best < 0.5 * start:
            return
        values[rng.random(len(values)) < 0.2] = np.nan
        state = strategy.tell(state, population, xp.asarray(values, dtype=x0.dtype))
    raise AssertionError(f"failures: best went from {start} to {best}")


CHECKS: tuple[Check, ...] = (
    check_ask_is_pure,
    check_replayable,
    check_seeds_differ,
    check_shape_stable,
    check_lower_is_better,
    check_total_on_fitness,
    check_nan_ranks_last,
    check_order_of_members,
    check_types_of_fitness,
    check_sizes_of_population,
    check_further_members,
    check_injected_points,
    check_improves_with_failures,
)


def check_endless_runs(strategy: Any, x0: Float[np.ndarray, "d"]) -> None:
    """Runs that nobody stops stay finite: at a minimum, on a flat function, and on one without a minimum."""
    functions: dict[str, Callable[[Any], Any]] = {
        "at a minimum": lambda population: (population**2).sum(axis=1),
        "on a flat function": lambda population: np.zeros(len(population), population.dtype),
        "down a slope": lambda population: population.sum(axis=1),
    }
    generations = 1000 if getattr(strategy, "pure", True) else 300  # of milliseconds each
    for name, function in functions.items():
        state = strategy.init(key(14), x0)
        with np.errstate(over="ignore", under="ignore"):
            for generation in range(generations):
                population = strategy.ask(state)
                state = strategy.tell(state, population, function(population))
                assert np.all(np.isfinite(population)), f"endless runs: not finite {name} after {generation}"
        assert np.all(np.isfinite(strategy.recommend(state))), f"endless runs: recommendation not finite {name}"


def check_scan_and_vmap(strategy: Any, x0: Array) -> None:
    """JAX only: the method scans; run i of many equals the run alone; float settings can be vmapped over."""
    import jax
    import jax.numpy as jnp

    register_with_jax(type(strategy))  # the instance may be older than the import of JAX
    x0 = jnp.asarray(x0)

    def rollout(settings: Any, key_: Array) -> Any:
        def generation(state: Any, _: None) -> Any:
            population = settings.ask(state)
            return settings.tell(state, population, sphere(population)), None

        return jax.lax.scan(generation, settings.init(key_, x0), None, length=8)[0]

    # One program for all keys and settings: two runs that differ by their keys, then one for each changed setting.
    keys = [jnp.asarray(fold(key(10), i)) for i in range(2)]
    settings = {f.name: getattr(strategy, f.name) for f in dataclasses.fields(strategy)}
    floats = {name: value for name, value in settings.items() if isinstance(value, float)}
    changed = [dataclasses.replace(strategy, **{name: 0.9 * value}) for name, value in floats.items()]
    runs = [(strategy, keys[0]), (strategy, keys[1]), *((variant, keys[0]) for variant in changed)]
    stacked = strategy
    if floats:
        stacked = jax.tree.map(lambda *values: jnp.asarray(values, x0.dtype), *(run for run, _ in runs))
    together = jax.vmap(rollout, in_axes=(0 if floats else None, 0))
    many = jax.jit(together)(stacked, jnp.stack([of_run for _, of_run in runs]))
    alone = jax.jit(rollout)
    for i, what in enumerate(("keys", "keys", *floats)):
        run = jax.tree.map(lambda a, i=i: a[i], many)
        assert_same(run, alone(*runs[i]), f"vmap over {what}", rtol=1e-9 if x0.dtype == jnp.float64 else 1e-3)


def check_libraries_agree(strategy: Any, x0: Float[np.ndarray, "d"]) -> None:
    """NumPy and array-api-strict agree bit for bit; NumPy and JAX (64-bit mode) to 1e-6 over 20 generations."""
    import array_api_strict
    import jax
    import jax.numpy as jnp

    reference = strategy.init(key(11), x0)
    strict = strategy.init(key(11), array_api_strict.asarray(x0))
    with jax.enable_x64(True):
        traced = strategy.init(key(11), jnp.asarray(x0))
        ask, tell = jax.jit(strategy.ask), jax.jit(strategy.tell)
        for _ in range(20):
            population = strategy.ask(reference)
            reference = strategy.tell(reference, population, sphere(population))
            population = strategy.ask(strict)
            strict = strategy.tell(strict, population, sphere(population))
            population = ask(traced)
            traced = tell(traced, population, sphere(population))
        assert_same(reference, strict, "NumPy and array-api-strict")
        assert_same(strategy.ask(reference), ask(traced), "NumPy and JAX: next population", rtol=1e-6)
        assert_same(strategy.recommend(reference), strategy.recommend(traced), "NumPy and JAX: recommend", rtol=1e-6)


def check_strategy(strategy: Any, library: str = "numpy", d: int = 6, dtype: str = "float64") -> None:
    """Run all checks with arrays of one library.

    Args:
        strategy: an instance.
        library: ``"numpy"``, ``"jax"`` (float64 needs JAX's 64-bit mode) or ``"array_api_strict"``.
        d: dimension of the start point, whose coordinates are 0.8.
        dtype: ``"float64"`` or ``"float32"``.

    Raises:
        AssertionError: naming the law that is broken.
    """
    x0 = start_point(library, d, dtype)
    for check in CHECKS:
        check(strategy, x0)
    if library == "numpy":
        check_endless_runs(strategy, x0)
    if library == "jax":
        check_scan_and_vmap(strategy, x0)


def start_point(library: str, d: int, dtype: str) -> Array:
    """The start of the exam's runs: all coordinates 0.8."""
    import importlib

    xp = importlib.import_module("jax.numpy" if library == "jax" else library)
    return xp.full((d,), 0.8, dtype=getattr(xp, dtype))
