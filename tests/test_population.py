"""evaluate(): every member once, chunked and sharded alike."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb


def test_numpy_populations_take_any_function() -> None:
    population = np.arange(12.0).reshape(4, 3)
    assert_array_equal(bb.evaluate(lambda x: float(x.sum()), population), population.sum(1))


def test_results_may_be_trees() -> None:
    population = np.arange(12.0).reshape(4, 3)
    for p in (population, jnp.asarray(population)):
        out = bb.evaluate(lambda x: {"sum": x.sum(), "pair": (x[0], x * 2)}, p)
        assert_allclose(out["sum"], population.sum(1))
        assert_allclose(out["pair"][1], population * 2)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_arguments_are_shared_or_per_member(array: Any) -> None:
    population, scale, own = array(np.ones((5, 2))), array([2.0, 3.0]), array(np.arange(5.0))
    fitness = bb.evaluate(lambda x, s, o: (x * s).sum() + o, population, scale, own, in_axes=(None, 0))
    assert_allclose(fitness, 5 + np.arange(5))


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_arguments_may_be_trees(array: Any, chunk: int | None) -> None:
    own = {"a": array(np.arange(5.0)), "b": (array(np.ones((5, 2))),)}
    fitness = bb.evaluate(
        lambda x, o: (x * o["b"][0]).sum() + o["a"], array(np.ones((5, 2))), own, in_axes=0, chunk=chunk
    )
    assert_allclose(fitness, 2 + np.arange(5))


def test_functions_without_a_hash_are_evaluated() -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, x: Any) -> Any:
            return x.sum()

    assert_allclose(bb.evaluate(Unhashable(), jnp.ones((3, 2))), 2)


def test_a_function_is_traced_once_for_a_mesh() -> None:
    traces = []

    def function(x: Any) -> Any:
        traces.append(1)
        return x.sum()

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("members",))
    for _ in range(3):
        bb.evaluate(function, jnp.ones((4, 2)), mesh=mesh)
    assert len(traces) == 1


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_chunks_change_nothing(chunk: int) -> None:
    population = jnp.asarray(np.random.default_rng(0).normal(size=(10, 3)))
    own = jnp.arange(10.0)
    whole = bb.evaluate(lambda x, o: x @ x + o, population, own, in_axes=0)
    assert_allclose(bb.evaluate(lambda x, o: x @ x + o, population, own, in_axes=0, chunk=chunk), whole, rtol=1e-6)


def test_members_are_sharded_over_a_mesh() -> None:
    code = """
import jax, jax.numpy as jnp, numpy as np, blackbox as bb
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("members",))
assert mesh.devices.size == 8
x = jnp.asarray(np.random.default_rng(0).normal(size=(21, 5)).astype(np.float32))
f = lambda x, s, o: (jnp.sin(x) * s).sum() + o
own = jnp.arange(21.0)
one = bb.evaluate(f, x, jnp.float32(2), own, in_axes=(None, 0))
many = bb.evaluate(f, x, jnp.float32(2), own, in_axes=(None, 0), mesh=mesh)
print(np.array_equal(one, many), many.shape)
"""
    import os

    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "True (21,)", done.stderr


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"in_axes": (None, None)}, "in_axes must be None or 0 for each of the 1 arguments"),
        ({"in_axes": 1}, "in_axes must be None or 0"),
        ({"chunk": 0}, "chunk must be an integer >= 1, got 0"),
        ({"mesh": "cpu"}, "mesh needs a population of JAX arrays"),
        ({"population": jnp.ones((2, 2)), "mesh": "cpu"}, "mesh must be a jax.sharding.Mesh of one axis.* got 'cpu'"),
        ({"in_axes": 0}, r"in_axes is 0 for an argument of shape \(\), but there are 2 members"),
        ({"population": np.ones((0, 2))}, r"population must be an array of shape \(n, d\) with n >= 1, got one of"),
        ({"population": [[1.0]]}, r"population must be an array of shape \(n, d\) with n >= 1, got \[\[1.0\]\]"),
    ],
)
def test_bad_arguments_are_named(keywords: dict[str, Any], message: str) -> None:
    population = keywords.pop("population", np.ones((2, 2)))
    with pytest.raises(bb.SettingError, match=message):
        bb.evaluate(lambda x, y: 0.0, population, 1.0, **keywords)


def test_arguments_may_be_trees_of_any_kind() -> None:
    """With None and registered classes among them, such as the state of a simulation."""

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Simulation:
        place: jax.Array
        speed: jax.Array | None

    strategy = bb.es.Eggroll(popsize=4)
    population = strategy.ask(strategy.init(bb.key(0), {"w": jnp.ones((3, 3))}))
    simulation = Simulation(jnp.arange(12.0).reshape(4, 3), None)
    moved = bb.evaluate(lambda p, s: (s.place @ p["w"]).sum(), population, simulation, in_axes=0, chunk=2)
    expected = [(simulation.place[i] @ population[i]["w"]).sum() for i in range(4)]
    assert_allclose(moved, expected, rtol=1e-5)


def test_an_objective_may_answer_for_a_population() -> None:
    class Sphere:
        asked = 0

        def __call__(self, x: Any) -> Any:
            return (x * x).sum()

        def of_population(self, population: Any, *args: Any) -> Any:
            self.asked += 1
            return NotImplemented if len(population) > 2 else (population * population).sum(axis=1)

    sphere, population = Sphere(), np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(bb.evaluate(sphere, population), [5.0, 50.0])
    np.testing.assert_array_equal(bb.evaluate(sphere, np.concatenate([population, population])), [5.0, 50.0, 5.0, 50.0])
    assert sphere.asked == 2
    bb.evaluate(sphere, population, chunk=1)
    assert sphere.asked == 2  # who asks for chunks gets them
