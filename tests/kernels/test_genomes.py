"""Genomes decode to the same bits by the reference, compiled code, JAX's programs and the text that a GPU compiles."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simulator

import blackbox as bb
from blackbox.ga import DeepGA, decode, decoding
from blackbox.kernels import device, native

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")
PARAMS = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(11, 13)), jnp.float32), "b": jnp.ones(13)}


@pytest.mark.parametrize("noise", ["normal", "binom8"])
def test_genomes_decode_to_the_same_bits_everywhere(noise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = DeepGA(popsize=6, truncation=3, n_candidates=2, sigma=0.1, noise=noise, generations=8)
    state = strategy.init(bb.key(3), PARAMS)
    for _ in range(3):
        state = strategy.tell(state, strategy.ask(state), jnp.arange(6.0))
    population = strategy.ask(state)
    data = population.genome(4, checked=True)
    decoded = {"JAX, parent and mutation": population[4], "JAX, all mutations": population.uncached[4]}
    for impl in ("ref", "native"):
        decoded[impl] = decode(data, PARAMS, impl=impl)  # type: ignore[arg-type]
    for order in simulator.ORDERS:

        def simulated(*arrays: Any, chunk: int, impl: Any, order: int = order) -> Any:
            return device.seedsum(simulator.launcher(order), *arrays, chunk)

        monkeypatch.setattr(decoding, "seedsum", simulated)
        decoded[f"GPU's text, order {order}"] = decode(data, PARAMS)
    expected = [np.asarray(x).tobytes() for x in jax.tree.leaves(decoded["ref"])]
    for way, found in decoded.items():
        assert [np.asarray(x).tobytes() for x in jax.tree.leaves(found)] == expected, way
