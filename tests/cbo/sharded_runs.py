"""Runs over eight devices: those of one device to rounding, with the noise of each device's own runs and no other.

Started by test_family.py in a process of its own, since JAX counts its devices once.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import blackbox as bb
from blackbox.kernels.noise import fold_many, normal

RUNS, D = 16, 5


def sphere(x: jax.Array) -> jax.Array:
    return jnp.sum((x - 0.3) ** 2)


assert jax.device_count() == 8
rows = NamedSharding(Mesh(np.array(jax.devices()), ("runs",)), PartitionSpec("runs"))
explicit = NamedSharding(jax.make_mesh((8,), ("runs",)), PartitionSpec("runs"))
starts = jnp.zeros((RUNS, D))
for strategy in (bb.cbo.CBO(popsize=20), bb.cbo.MemoryCBO(popsize=20), bb.cbo.PolarizedCBO(popsize=20)):
    one, _ = bb.run(strategy, sphere, starts, key=bb.key(0), generations=6, runs=RUNS)
    for layout in (rows, explicit):
        divided = jax.device_put(starts, layout)
        many, history = bb.run(strategy, sphere, divided, key=bb.key(0), generations=6, runs=RUNS)
        assert np.allclose(many.particles, one.particles, rtol=0, atol=1e-4), type(strategy).__name__
        assert many.particles.sharding.is_equivalent_to(rows, 3), many.particles.sharding
        assert history.evaluations.tolist() == [120] * RUNS

# Noise of sizes that are compiled, of keys that lie elsewhere than the runs shall.
everywhere = NamedSharding(rows.mesh, PartitionSpec())
key, large = jax.device_put(jnp.asarray(bb.key(0)), everywhere), bb.cbo.CBO(popsize=200)
one, _ = bb.run(large, sphere, starts, key=bb.key(0), generations=3, runs=RUNS)
many, _ = bb.run(large, sphere, jax.device_put(starts, rows), key=key, generations=3, runs=RUNS)
assert np.allclose(many.particles, one.particles, rtol=0, atol=1e-4)

square = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
plain = fold_many(jnp.asarray(bb.key(0)), RUNS)
counters = jnp.arange(RUNS, dtype=jnp.uint32)
expected = np.asarray(normal(plain, counters, (RUNS, 100, D), like=starts))
for arguments, result in (
    ((PartitionSpec("a", "b"), PartitionSpec("a")), None),
    ((PartitionSpec("a"), PartitionSpec("b")), None),
    ((PartitionSpec(), PartitionSpec()), PartitionSpec("a")),
    ((PartitionSpec(), PartitionSpec()), PartitionSpec(None, "b")),
):
    placed = [
        jax.device_put(x, NamedSharding(square, spec)) for x, spec in zip((plain, counters), arguments, strict=True)
    ]
    layout = {} if result is None else {"out_shardings": NamedSharding(square, result)}
    made = jax.jit(lambda keys, at: normal(keys, at, (RUNS, 100, D), like=starts), **layout)(*placed)
    assert np.array_equal(made, expected), (arguments, result)

keys = jax.device_put(fold_many(jnp.asarray(bb.key(0)), RUNS), rows)
program = jax.jit(lambda keys: normal(keys, 3, (RUNS, 40, D), like=starts)).lower(keys).compile()
assert "all-gather" not in program.as_text()
assert np.array_equal(program(keys), normal(jnp.asarray(np.asarray(keys)), 3, (RUNS, 40, D), like=starts))
print("runs over devices are those of one")
