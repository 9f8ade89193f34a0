"""One process of a run over several hosts: ``python several_hosts.py COORDINATOR PROCESSES NUMBER RESULTS.npz``."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import blackbox as bb

GENERATIONS = 3


def loss(params: dict[str, Any], x: Any, shift: Any) -> Any:
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    return jnp.mean((hidden @ params["v"] - 1) ** 2) + shift


def bowl(x: Any) -> Any:
    return jnp.sum((x - 1) ** 2)


def network(mesh: Any, shaping: Any, update: Any) -> dict[str, np.ndarray]:
    """Fitness of each generation and the weights after the last.

    Args:
        mesh: whose devices share the members.
        shaping: of the fitness.
        update: the mesh whose devices share the update, too.
    """
    rng = np.random.default_rng(0)
    shapes = {"w": (24, 32), "b": (32,), "v": (32, 20)}
    params = {name: jnp.asarray(rng.normal(size=shape) / 5, jnp.float32) for name, shape in shapes.items()}
    batch = rng.normal(size=(8, 24)).astype(np.float32)
    shifts = np.arange(22, dtype=np.float32)
    strategy = bb.es.Eggroll(popsize=22, sigma=0.02, optimizer=optax.sgd(0.5), shaping=shaping, mesh=update)
    state = strategy.init(bb.key(3), params)
    if mesh is not None:
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))  # or nothing: evaluate compiles once more
    fitness = []
    for _ in range(GENERATIONS):
        population = strategy.ask(state)
        values = bb.evaluate(loss, population, batch, shifts, in_axes=(None, 0), chunk=4, mesh=mesh)
        state = strategy.tell(state, population, values)
        fitness.append(np.asarray(values))
    member = strategy.ask(state)[5]
    return {"fitness": np.array(fitness), "member w": np.asarray(member["w"]), **jax.tree.map(np.asarray, state.params)}


def rows(mesh: Any) -> dict[str, np.ndarray]:
    """Likewise, of rows, from a state that each host has by itself."""
    strategy = bb.es.SNES(popsize=10)
    state = strategy.init(bb.key(1), jnp.zeros(7))
    for _ in range(GENERATIONS):
        population = strategy.ask(state)
        fitness = bb.evaluate(bowl, population, mesh=mesh)
        state = strategy.tell(state, population, fitness)
    return {"fitness": np.asarray(fitness), "mean": np.asarray(state.mean)}


def runs(mesh: Any) -> dict[str, np.ndarray]:
    """Results of all runs, by "run/array"."""
    results = {"rows": rows(mesh), "z-score": network(mesh, "z-score", None)}
    results["centered-ranks"] = network(mesh, "centered-ranks", mesh)
    return {f"{run}/{name}": value for run, arrays in results.items() for name, value in arrays.items()}


if __name__ == "__main__":
    coordinator, processes, number, path = sys.argv[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, int(processes), int(number), initialization_timeout=120)
    assert len(jax.devices()) == int(processes) * len(jax.local_devices())
    np.savez(path, **runs(jax.make_mesh((len(jax.devices()),), ("members",))))
