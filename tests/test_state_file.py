"""States in files: bit-exact resumption after a kill, and files that are damaged or of something else."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_array_equal

import blackbox as bb
from blackbox.errors import CheckpointError

STRATEGY = bb.es.Eggroll(popsize=8, sigma=0.1, optimizer=optax.adam(0.02))


def params() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "layers": [jnp.asarray(rng.normal(size=(20, 24)), jnp.float32), jnp.zeros(24, jnp.bfloat16)],
        "activation": jnp.tanh,
        "steps": jnp.arange(3),
    }


def loss(p: dict[str, Any]) -> jax.Array:
    return jnp.sum(p["activation"](jnp.ones(20) @ p["layers"][0] + p["layers"][1].astype(jnp.float32)) ** 2)


def advance(state: Any, generations: int) -> Any:
    for _ in range(generations):
        population = STRATEGY.ask(state)
        state = STRATEGY.tell(state, population, bb.evaluate(loss, population))
    return state


def bits(state: Any) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(state) if hasattr(x, "dtype")]


def test_a_loaded_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    state = advance(STRATEGY.init(bb.key(0), params()), 2)
    bb.save(tmp_path / "run.state", state)
    loaded = bb.load(tmp_path / "run.state", STRATEGY.init(bb.key(1), params()))
    assert loaded.params["activation"] is jnp.tanh
    assert loaded.params["layers"][1].dtype == jnp.bfloat16
    for x, y in zip(bits(advance(state, 2)), bits(advance(loaded, 2)), strict=True):
        assert x.dtype == y.dtype
        assert_array_equal(x, y)


def test_a_killed_run_resumes_where_its_file_is(tmp_path: Path) -> None:
    """Killed by a signal while it writes again and again: the file is always that of a whole generation."""
    path = tmp_path / "run.state"
    code = f"""
        import itertools, numpy as np, blackbox as bb
        for i in itertools.count(1):
            bb.save({os.fspath(path)!r}, {{"x": np.full(300_000, i), "i": np.array(i)}})
            print(i, flush=True)
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    for _ in range(5):
        writer.stdout.readline()
    writer.kill()
    writer.communicate()
    found = bb.load(path, {"x": np.zeros(300_000, int), "i": np.array(0)})
    assert found["i"] >= 5
    assert np.all(found["x"] == found["i"])


@pytest.mark.parametrize("library", [np, jnp])
def test_states_of_dense_strategies(tmp_path: Path, library: Any) -> None:
    strategy = bb.create("cma-es")
    state = strategy.init(bb.key(0), library.ones(4, dtype=library.float32))
    state = strategy.tell(state, strategy.ask(state), library.arange(8.0, dtype=library.float32))
    bb.save(tmp_path / "state", state)
    loaded = bb.load(tmp_path / "state", strategy.init(bb.key(5), library.zeros(4, dtype=library.float32)))
    assert type(loaded.mean) is type(state.mean)
    assert_array_equal(strategy.ask(loaded), strategy.ask(state))


def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state"
    bb.save(path, {"x": np.arange(100.0)})
    content = path.read_bytes()
    for position in range(0, len(content), 37):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(CheckpointError, match="state"):
            bb.load(path, {"x": np.zeros(100)})
        path.write_bytes(content[:position])
        with pytest.raises(CheckpointError, match="state"):
            bb.load(path, {"x": np.zeros(100)})


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"y": np.zeros(3)}, r"missing in the file \[\"\['y'\]\"\], spare \[\"\['x'\]\"\]"),
        ({"x": np.zeros(4)}, r"\['x'\] must be float64 of shape \(4,\), got float64 of shape \(3,\)"),
        ({"x": np.zeros(3, np.float32)}, r"\['x'\] must be float32 of shape \(3,\), got float64"),
    ],
)
def test_a_state_of_another_form_is_named(tmp_path: Path, like: Any, message: str) -> None:
    bb.save(tmp_path / "state", {"x": np.arange(3.0)})
    with pytest.raises(CheckpointError, match=message):
        bb.load(tmp_path / "state", like)


def test_what_is_no_number_is_refused_and_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    bb.save(path, {"x": np.arange(3.0)})
    with pytest.raises(CheckpointError, match="only numbers"):
        bb.save(path, {"x": np.array(["a"])})
    assert_array_equal(bb.load(path, {"x": np.zeros(3)})["x"], np.arange(3.0))
    assert os.listdir(tmp_path) == ["state"]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_of_jax_are_keys_again(tmp_path: Path, impl: str) -> None:
    keys = jax.random.split(jax.random.key(3, impl=impl), 4)
    bb.save(tmp_path / "state", {"k": keys})
    loaded = bb.load(tmp_path / "state", {"k": jax.random.split(jax.random.key(0, impl=impl), 4)})["k"]
    assert loaded.dtype == keys.dtype
    assert_array_equal(jax.random.bits(loaded[2]), jax.random.bits(keys[2]))
    other = jax.random.split(jax.random.key(0, impl="unsafe_rbg"), 4)
    with pytest.raises(CheckpointError, match=r"\['k'\] must be key<urbg> of shape"):
        bb.load(tmp_path / "state", {"k": other})


def test_bytes_are_kept_whatever_their_length(tmp_path: Path) -> None:
    bb.save(tmp_path / "run.state", {"genome": b"\x00seeds\xff", "generation": np.int32(3)})
    loaded = bb.load(tmp_path / "run.state", {"genome": b"", "generation": np.int32(0)})
    assert (loaded["genome"], int(loaded["generation"])) == (b"\x00seeds\xff", 3)
    with pytest.raises(CheckpointError, match=r"\['genome'\] must be float64 of shape \(2,\), got bytes"):
        bb.load(tmp_path / "run.state", {"genome": np.zeros(2), "generation": np.int32(0)})
