"""The integer language model against its rules in NumPy and a float softmax; the corpus and its bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from blackbox.errors import SettingError
from blackbox.problems import corpus, egg

RNG = np.random.default_rng(11)
I8 = np.iinfo(np.int8)


def random_params(low: int = -127, high: int = 127, **sizes: int) -> Any:
    """A model whose every leaf is random, so that no rule is hidden by a zero."""
    shapes = egg.init(0, **sizes)
    return jax.tree.map(lambda w: jnp.asarray(RNG.integers(low, high + 1, w.shape), jnp.int8), shapes)


def reference_step(params: Any, state: np.ndarray, byte: int) -> tuple[np.ndarray, np.ndarray]:
    """The table of rules, in 64-bit integers."""
    p = jax.tree.map(lambda w: np.asarray(w, np.int64), params)

    def sat(x: np.ndarray) -> np.ndarray:
        return np.clip(x, -127, 127)

    def shift(u: np.ndarray) -> int:
        return 4 + int(np.log2(len(u))) // 2

    def norm(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        mean = max(1, int(np.abs(x).sum()) >> int(np.log2(len(x))))
        return sat(x * w * (65536 // mean) >> 16)

    x, states = sat(p["embedding"][byte]), []
    for layer, s in zip(p["layers"], state.astype(np.int64), strict=True):
        u, g = norm(x, layer["norm"]), layer["gru"]
        f = sat((u @ g["w_f"] + s @ g["u_f"] >> shift(u)) + g["b_f"]) + 127
        new = sat((u @ g["w_g"] + (f * s >> 8) @ g["u_g"] >> shift(u)) + g["b_g"])
        s = s + (f * (new - s) >> 8)
        states.append(s)
        x = sat(x + s)
        hidden = sat(norm(x, layer["norm_mlp"]) @ layer["up"] >> shift(x))
        x = sat(x + sat(hidden @ layer["down"] >> shift(hidden)))
    last = norm(x, p["norm"])
    return np.stack(states), sat((last @ p["head"] >> shift(last)) + p["bias"])


@pytest.mark.parametrize("spread", [20, 127])
def test_a_step_follows_the_rules(spread: int) -> None:
    params = random_params(-spread, spread, width=16, layers=2, expansion=4)
    state, step = np.zeros((2, 16), np.int8), jax.jit(egg.step)
    for byte in RNG.integers(0, 128, 30):
        new, logits = step(params, state, jnp.uint8(byte))
        expected, expected_logits = reference_step(params, state, int(byte))
        assert_array_equal(new, expected)
        assert_array_equal(logits, expected_logits)
        assert (new.dtype, logits.dtype) == (jnp.int8, jnp.int32)
        assert np.abs(expected).max() <= 127
        state = np.asarray(new)
    assert np.abs(state).max() > 20


def test_a_loss_is_that_of_a_float_softmax() -> None:
    """Within the error of the cubic, 0.5 % or 0.007 bit, and that of the fixed point, 2 / 256 bit."""
    y = np.concatenate([RNG.integers(-127, 128, (300, 128)), RNG.normal(0, 20, (300, 128)).clip(-127, 127)]).astype(int)
    y[0], y[1] = 127, -127
    byte = RNG.integers(0, 128, len(y))
    found = jax.jit(jax.vmap(egg.surprise))(jnp.asarray(y, jnp.int32), jnp.asarray(byte, jnp.uint8))
    exact = np.log2(np.exp2(y / 16).sum(axis=1)) - y[np.arange(len(y)), byte] / 16
    assert found.dtype == jnp.int32
    assert np.abs(np.asarray(found) / egg.BITS - exact).max() < 0.015
    assert found[0] == pytest.approx(7 * egg.BITS, abs=2)


def test_powers_and_logarithms() -> None:
    y = np.arange(-128, 128)
    assert np.abs(np.asarray(egg.exp2(jnp.asarray(y))) / (128 * 2.0 ** ((y + 128) / 16)) - 1).max() < 0.008
    n = np.unique(np.concatenate([np.arange(1, 3000), 2 ** np.arange(31), 2 ** np.arange(1, 32) - 1]))
    n = np.concatenate([n, RNG.integers(1, 2**31, 5000)]).astype(np.int32)
    assert np.abs(np.asarray(egg.log2(jnp.asarray(n))) - 256 * np.log2(n)).max() < 1.6


def test_byte_zero_forgets_what_was_before() -> None:
    params = random_params(-40, 40, width=16, layers=1, expansion=2)
    text = jnp.asarray(np.concatenate([[0], RNG.integers(1, 128, 9)]), jnp.uint8)
    states = [jnp.asarray(RNG.integers(-127, 128, (1, 16)), jnp.int8) for _ in range(2)]
    loss = jax.jit(egg.loss)
    (one, after), (other, after_other) = (loss(params, state, text) for state in states)
    assert one == other
    assert_array_equal(after, after_other)
    assert loss(params, states[0], text.at[0].set(65))[0] != loss(params, states[1], text.at[0].set(65))[0]


def test_a_text_in_windows_has_the_same_loss() -> None:
    params = random_params(-40, 40, width=8, layers=2, expansion=0)
    text, state, total = jnp.asarray(RNG.integers(0, 128, 13), jnp.uint8), egg.start(params, 1)[0], 0
    whole, _ = egg.loss(params, state, text)
    for begin in range(0, 12, 4):
        part, state = egg.loss(params, state, text[begin : begin + 5])
        total += int(part)
    assert total == whole


def test_a_new_model_finds_all_bytes_alike() -> None:
    params = egg.init(3, width=8, layers=2, expansion=2)
    assert egg.bits_per_byte(params, RNG.integers(1, 128, 999).astype(np.uint8), streams=9) == pytest.approx(
        7, abs=0.01
    )
    assert {w.dtype for w in jax.tree.leaves(params)} == {jnp.dtype(jnp.int8)}
    spread = float(np.std(np.asarray(params["embedding"])))
    assert spread == pytest.approx(egg.UNIT, rel=0.1)
    again = egg.init(3, width=8, layers=2, expansion=2)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (params, again)), strict=True))


def test_pairs() -> None:
    states = jnp.asarray([[[5, -128 + 1]], [[6, -127]], [[-3, 7]], [[-4, 7]]], jnp.int8)
    assert_array_equal(egg.pair_mean(states), [[[5, -127]], [[5, -127]], [[-4, 7]], [[-4, 7]]])
    text = jnp.asarray([[1, 2, 9], [1, 2, 9], [3, 3, 9], [3, 3, 9]], jnp.uint8)
    read = np.zeros((2, 128), bool)
    read[0, [1, 2]] = read[1, 3] = True
    assert_array_equal(egg.bytes_read(text), read)


@pytest.mark.parametrize("sizes", [{"width": 24}, {"expansion": 3}, {"width": 0}])
def test_sizes_are_powers_of_two(sizes: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="power of two"):
        egg.init(0, **sizes)


# ---- the corpus


def test_modules_are_split_by_their_names(tmp_path: Path) -> None:
    names = [f"package/module_{i}.py" for i in range(300)]
    for name in (*names, "test/left_out.py", "site-packages/left_out.py", "_sysconfigdata_x.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{name}\r\n", newline="")
    (tmp_path / "accents.py").write_text("# é\n", encoding="utf-8")
    (tmp_path / "empty.py").write_text("")
    text = corpus.standard_library(tmp_path)
    train, held_out = (bytes(part).decode().split("\0")[1:] for part in text)
    assert sorted(train + held_out) == sorted(f"{name}\n" for name in names)
    assert train == sorted(train)
    assert 10 <= len(held_out) <= 60
    (tmp_path / "package/module_0.py").unlink()
    fewer = corpus.standard_library(tmp_path)
    assert set(bytes(fewer.held_out).decode().split("\0")) <= {"", *held_out}
    assert fewer.digest != text.digest


def test_bounds_of_known_texts() -> None:
    bits = RNG.integers(0, 2, 40_000).astype(np.uint8) + 65
    fair = corpus.Corpus(bits[:20_000], bits[20_000:])
    assert corpus.unigram(fair) == pytest.approx(1, abs=0.01)
    assert corpus.bigram(fair) == pytest.approx(1, abs=0.01)
    periodic = np.tile(np.arange(65, 81, dtype=np.uint8), 1000)
    known = corpus.Corpus(periodic, periodic)
    assert corpus.unigram(known) == pytest.approx(4, abs=0.01)
    assert corpus.bigram(known) < 0.1
    assert corpus.gzip_bits(known) < 0.1


def test_the_standard_library() -> None:
    text = corpus.standard_library()
    assert len(text.train) > 4e6
    assert 0.05 < len(text.held_out) / len(text.train) < 0.2
    assert max(text.train.max(), text.held_out.max()) < corpus.VOCABULARY
    assert corpus.gzip_bits(text) < corpus.bigram(text) < corpus.unigram(text) < 5
