"""Laws of strategies whose populations are virtual: of a pytree of parameters, evaluated with JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.kernels.noise import key
from blackbox.population import evaluate
from blackbox.testing.dense import leaves

if TYPE_CHECKING:
    from jaxtyping import Array, Float

VirtualCheck = Callable[[Any, Any], None]


def parameters() -> dict[str, Any]:
    """A small model: two matrices, a vector, and an array of integers, which no strategy may change."""
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    return {
        "first": jnp.asarray(rng.normal(size=(20, 24)) / 20**0.5, jnp.float32),
        "bias": jnp.full(24, 0.5, jnp.float32),
        "second": jnp.asarray(rng.normal(size=(24, 17)) / 24**0.5, jnp.float32),
        "classes": jnp.arange(3),
    }


def distance(params: dict[str, Any]) -> Float[Array, ""]:
    """Squared difference between a network's outputs and others, least where they are alike."""
    import jax.numpy as jnp

    x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 20)), jnp.float32)
    y = jnp.asarray(np.random.default_rng(2).normal(size=(8, 17)), jnp.float32)
    return jnp.mean((jnp.tanh(x @ params["first"] + params["bias"]) @ params["second"] - y) ** 2)


def _advance(strategy: Any, state: Any, generations: int) -> Any:
    for _ in range(generations):
        population = strategy.ask(state)
        state = strategy.tell(state, population, evaluate(distance, population))
    return state


def _bits(tree: Any) -> list[np.ndarray]:
    import jax

    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def _same(first: Any, second: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(_bits(first), _bits(second), strict=True))


def check_ask_is_pure(strategy: Any, params: Any) -> None:
    """Asking twice names the same members."""
    state = _advance(strategy, strategy.init(key(0), params), 2)
    first, second = strategy.ask(state), strategy.ask(state)
    for i in range(len(first)):
        assert _same(first[i], second[i]), f"ask is pure: member {i} differs between two asks of one state"


def check_evaluation(strategy: Any, params: Any) -> None:
    """A population's fitness is that of its members, one by one, in chunks and of those taken."""
    population = strategy.ask(strategy.init(key(1), params))
    alone = np.array([distance(population[i]) for i in range(len(population))])
    for chunk in (None, 1, 3):
        together = np.asarray(evaluate(distance, population, chunk=chunk))
        assert np.allclose(together, alone, rtol=1e-5), f"evaluation: chunk={chunk} differs from members by themselves"
    ids = np.array([len(population) - 1, 0])
    assert np.allclose(evaluate(distance, population.take(ids)), alone[ids], rtol=1e-5), "evaluation: take() differs"


def check_replayable(strategy: Any, params: Any) -> None:
    """Same key and fitness, same bits; other keys, other bits."""
    first, second = (_advance(strategy, strategy.init(key(2), params), 3) for _ in range(2))
    assert _same(first, second), "replayable: two runs of one seed differ"
    other = _advance(strategy, strategy.init(key(3), params), 3)
    assert not _same(strategy.recommend(first), strategy.recommend(other)), "replayable: the seed does not matter"


def check_shape_stable(strategy: Any, params: Any) -> None:
    """Leaves keep their shape and dtype, and arrays of integers their values."""
    state = strategy.init(key(4), params)
    before = [(x.shape, x.dtype) for x in _bits(state)]
    state = _advance(strategy, state, 2)
    assert [(x.shape, x.dtype) for x in _bits(state)] == before, "shape-stable: a leaf of the state changed its form"
    member, found = strategy.ask(state)[0], strategy.recommend(state)
    for name, x in params.items():
        for tree in (member, found):
            assert (tree[name].shape, tree[name].dtype) == (x.shape, x.dtype), f"shape-stable: {name} changed its form"
    assert _same(found["classes"], params["classes"]), "shape-stable: integers were changed"


def check_lower_is_better(strategy: Any, params: Any) -> None:
    """The recommendation approaches the minimum and not the maximum."""
    state = _advance(strategy, strategy.init(key(5), params), 40)
    reached, start = float(distance(strategy.recommend(state))), float(distance(params))
    assert reached < start, f"lower is better: recommend() went from {start} to {reached}"


def check_total_on_fitness(strategy: Any, params: Any) -> None:
    """No fitness makes a finite state not finite, and failed members count like those of infinite fitness."""
    import jax.numpy as jnp

    start = _advance(strategy, strategy.init(key(6), params), 1)
    population = strategy.ask(start)
    n = len(population)
    index = np.arange(n)
    huge = float(np.finfo(np.float32).max)
    cases = {
        "one NaN": np.where(index == 0, np.nan, index),
        "one +inf": np.where(index == 0, np.inf, index),
        "half NaN": np.where(index % 2 == 0, np.nan, index),
        "all NaN": np.full(n, np.nan),
        "all -inf": np.full(n, -np.inf),
        "NaN and infinities": np.choose(index % 4, [np.nan, np.inf, -np.inf, 1.0]),
        "all equal": np.zeros(n),
        "huge": np.where(index % 2 == 0, huge, -huge),
        "all huge": np.full(n, huge),
        "tiny": 1e-30 * index,
    }
    outcomes = {}
    for name, values in cases.items():
        told = strategy.tell(start, population, jnp.asarray(values, jnp.float32))
        for field, x in leaves(tuple(_bits(told))):
            assert x.dtype.kind != "f" or np.all(np.isfinite(x)), f"total on fitness: {name} breaks {field}"
        outcomes[name] = told
    assert _same(outcomes["one NaN"], outcomes["one +inf"]), "total on fitness: NaN does not count like +inf"


def check_order_of_members(strategy: Any, params: Any) -> None:
    """Results may be told in any order of members."""
    state = strategy.init(key(7), params)
    population = strategy.ask(state)
    order = np.random.default_rng(0).permutation(len(population))
    straight = strategy.tell(state, population, evaluate(distance, population))
    some = population.take(order)
    mixed = strategy.tell(state, some, evaluate(distance, some))
    for x, y in zip(_bits(straight), _bits(mixed), strict=True):
        assert np.allclose(x, y, rtol=1e-4, atol=1e-6), "order of members: told in another order, the state differs"


def check_further_members(strategy: Any, params: Any) -> None:
    """Members beyond popsize are new samples."""
    state = strategy.init(key(8), params)
    first, further = strategy.ask(state), strategy.ask(state, first=len(strategy.ask(state)))
    assert len(first) == len(further), "further members: another number"
    own = [first[i]["first"] for i in range(len(first))]
    for i in range(len(further)):
        assert not any(_same(further[i]["first"], x) for x in own), f"further members: {i} was asked before"


def check_jit_and_scan(strategy: Any, params: Any) -> None:
    """Generations are one program: a scan gives what a loop gives."""
    import jax

    def generation(state: Any, _: None) -> tuple[Any, None]:
        population = strategy.ask(state)
        return strategy.tell(state, population, evaluate(distance, population)), None

    scanned = jax.jit(lambda state: jax.lax.scan(generation, state, None, length=3)[0])(strategy.init(key(9), params))
    looped = _advance(strategy, strategy.init(key(9), params), 3)
    for x, y in zip(_bits(scanned), _bits(looped), strict=True):
        assert np.allclose(x, y, rtol=1e-3, atol=1e-5), "scan: it differs from the loop"


VIRTUAL_CHECKS: tuple[VirtualCheck, ...] = (
    check_ask_is_pure,
    check_evaluation,
    check_replayable,
    check_shape_stable,
    check_lower_is_better,
    check_total_on_fitness,
    check_order_of_members,
    check_further_members,
    check_jit_and_scan,
)


def check_virtual_strategy(strategy: Any) -> None:
    """Run all checks of a strategy whose populations are virtual, on a small network.

    Raises:
        AssertionError: naming the law that is broken.
    """
    for check in VIRTUAL_CHECKS:
        check(strategy, parameters())
