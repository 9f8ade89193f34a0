"""evaluate(): every member once, chunked and sharded alike."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

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

    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "True (21,)", done.stderr


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"in_axes": (None, None)}, "in_axes must be None or 0 for each of the 1 arguments"),
        ({"in_axes": 1}, "in_axes must be None or 0"),
        ({"chunk": 0}, "chunk must be an integer >= 1, got 0"),
        ({"mesh": "cpu"}, "mesh needs a population of JAX arrays"),
    ],
)
def test_bad_arguments_are_named(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(bb.SettingError, match=message):
        bb.evaluate(lambda x, y: 0.0, np.ones((2, 2)), 1.0, **keywords)
