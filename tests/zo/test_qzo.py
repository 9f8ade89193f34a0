"""QZO: packed weights, the written step on their scales, integers that stay, and training in place."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.errors import SettingError
from blackbox.testing.virtual import check_jit_and_scan, check_total_on_fitness, distance, parameters
from blackbox.zo.dequantization import dequantized
from blackbox.zo.quantized import QuantizedWeight, quantize
from blackbox.zo.qzo import QZO

pytestmark = pytest.mark.usefixtures("little_noise_by_compiled_code")

RNG = np.random.default_rng(0)


def params(bits: int = 4) -> Any:
    return quantize(parameters(), bits=bits, group_size=8)


def scales(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(tree[name].scale, np.float64)) for name in ("first", "second")])


# ---- weights


@pytest.mark.parametrize("shape", [(3, 20, 7), (1, 6), (130, 3)])
@pytest.mark.parametrize(("bits", "largest"), [(4, 7), (8, 127)])
def test_weights_are_the_nearest_in_their_bits(shape: tuple[int, ...], bits: int, largest: int) -> None:
    w = RNG.normal(size=shape).astype(np.float32)
    w[..., 0, 0] = 0
    q = QuantizedWeight.of(jnp.asarray(w), bits, group_size=64)
    assert q.shape == np.asarray(q.floats).shape == shape and q.floats.dtype == jnp.float32
    group = min(64, shape[-2] + shape[-2] % 2)
    for begin in range(0, shape[-2], group):
        part = w[..., begin : begin + group, :]
        s = np.abs(part).max(axis=-2, keepdims=True) / np.float32(largest)
        s[s == 0] = 1
        assert_allclose(q.floats[..., begin : begin + group, :], np.round(part / s) * s, rtol=1e-6, atol=1e-6)


def test_four_bits_lie_two_in_a_byte() -> None:
    w = np.zeros((64, 16), np.float32)
    w[:15] = np.arange(-7.0, 8.0)[:, None]  # all that four bits can say, and a group of zeros below
    four = QuantizedWeight.of(jnp.asarray(w), 4, group_size=16)
    assert four.values.dtype == jnp.uint8 and four.values.nbytes == 64 * 16 // 2
    assert four.nbytes == 64 * 16 // 2 + 4 * 4 * 16
    assert_allclose(four.floats, w, rtol=1e-6)


def test_quantized_weights_are_used_like_arrays() -> None:
    w, x = jnp.asarray(RNG.normal(size=(6, 6)), jnp.float32), jnp.asarray(RNG.normal(size=(2, 6)), jnp.float32)
    one = QuantizedWeight.of(w, 8, 2)
    used: Any = one  # as an array is
    assert_allclose(x @ used, x @ one.floats, rtol=1e-6, atol=1e-6)
    assert_allclose(jnp.tanh(used), jnp.tanh(one.floats), rtol=1e-6)
    assert QuantizedWeight.of(w.astype(jnp.bfloat16)).floats.dtype == jnp.bfloat16


def test_what_is_quantized_can_be_said() -> None:
    tree: dict[str, Any] = {
        "embed": jnp.ones((4, 4)),
        "layers": [jnp.ones((4, 4)), jnp.ones(4)],
        "n": jnp.arange(4).reshape(2, 2),
    }
    out = quantize(tree, bits=8, keep=("emb*",))
    assert isinstance(out["layers"][0], QuantizedWeight)
    assert out["embed"] is tree["embed"] and out["layers"][1] is tree["layers"][1] and out["n"] is tree["n"]
    with pytest.raises(SettingError, match=re.escape("keep: ['nothing'] match no leaf")):
        quantize(tree, keep=("nothing",))
    with pytest.raises(SettingError, match="no floating-point array of two axes or more"):
        quantize({"b": jnp.ones(3)})
    with pytest.raises(SettingError, match="bits must be one of 4, 8; got 3"):
        quantize(tree, bits=3)
    with pytest.raises(SettingError, match="group_size must be an even integer >= 2, got 7"):
        quantize(tree, group_size=7)
    with pytest.raises(SettingError, match=re.escape("got float32 of shape (3,)")):
        QuantizedWeight.of(jnp.ones(3))


def test_what_is_quantized_stays_as_it_is() -> None:
    once = params()
    for again in (quantize(once, bits=8), quantize({**once, "more": parameters()["first"]}, group_size=8)):
        assert all(again[name] is once[name] for name in once)
    assert_array_equal(again["more"].values, once["first"].values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(bad: float) -> None:
    w = jnp.ones((6, 4)).at[5, 1].set(bad)
    with pytest.raises(SettingError, match=r"^w must be finite in float32"):
        QuantizedWeight.of(w, 8)
    with pytest.raises(SettingError, match=r"^params: layers/0 must be finite in float32"):
        quantize({"layers": [w]})
    assert jax.jit(QuantizedWeight.of)(w).shape == (6, 4)  # where nothing is known of it


# ---- the strategy


@pytest.mark.parametrize("check", [check_jit_and_scan, check_total_on_fitness], ids=lambda check: check.__name__)
def test_laws_of_virtual_strategies(check: Any) -> None:
    check(QZO(queries=4, lr=0.01), params())


def test_members_are_what_is_evaluated() -> None:
    strategy = QZO(queries=2, mu=0.1)
    population = strategy.ask(strategy.init(bb.key(0), params()))
    values = [float(distance(population[i])) for i in range(4)]
    assert_allclose(bb.evaluate(distance, population), values, rtol=1e-5)
    assert len(set(values)) == 4


@pytest.mark.parametrize("relative", [True, False])
def test_a_step_is_the_written_one(relative: bool) -> None:
    strategy = QZO(queries=3, mu=1e-2, lr=0.01, clip=20.0, relative=relative)
    state = strategy.init(bb.key(0), params())
    for t in range(2):
        population = strategy.ask(state)
        fitness = np.random.default_rng(t).normal(size=6)
        s, step = scales(state.params), 0.0
        unit = s if relative else 1.0
        clipped = 0
        for k in range(3):
            z = (scales(population[2 * k]) - s) / unit / 1e-2
            assert_allclose(scales(population[2 * k + 1]), s - 1e-2 * z * unit, atol=1e-6)
            d = (fitness[2 * k] - fitness[2 * k + 1]) / 2e-2
            clipped += abs(d) > 20
            step += np.clip(d, -20, 20) * z * unit / 3
            if not t and not k:
                assert 0.5 < np.std(z) < 1.5
        assert clipped in (1, 2, 3)
        state = strategy.tell(state, population, jnp.asarray(fitness, jnp.float32))
        assert_allclose(scales(state.params), np.maximum(s - 0.01 * step, 1e-7), rtol=2e-3, atol=1e-4)


def test_scales_stay_positive() -> None:
    """Of a step much larger than the scales, some would change their sign, and the weights with it."""
    strategy = QZO(lr=1e3, mu=1e-2)
    state = strategy.init(bb.key(0), params())
    population = strategy.ask(state)
    told = strategy.tell(state, population, jnp.asarray([1.0, 0.0])).params
    stepped, _ = strategy.step(lambda p: jnp.sum(p["first"].scale))(state)
    for moved in (told, stepped.params):
        assert np.float32(np.min(scales(moved))) == np.float32(1e-7)
        assert np.all(scales(moved) != scales(state.params))


def test_only_scales_are_trained_and_in_place_as_by_ask_and_tell() -> None:
    strategy = QZO(queries=2, lr=lambda t: 0.01)
    state, ours = (strategy.init(bb.key(0), params()) for _ in range(2))
    step = strategy.step(distance)
    for _ in range(3):
        population = strategy.ask(state)
        fitness = bb.evaluate(distance, population)
        state = strategy.tell(state, population, fitness)
        ours, value = step(ours)
        assert float(value) == pytest.approx(float(fitness.mean()), rel=1e-5)
    assert_allclose(scales(ours.params), scales(state.params), rtol=1e-4)
    assert np.abs(scales(ours.params) / scales(params()) - 1).max() > 1e-3
    for name in ("first", "second"):
        assert_array_equal(ours.params[name].values, params()[name].values)
    assert_array_equal(ours.params["bias"], params()["bias"])
    noise = strategy.ask(state).noise(0)
    assert not noise["bias"].any() and not noise["first"].values.any() and noise["first"].scale.all()


@pytest.mark.parametrize("bits", [4, 8])
def test_programs_for_arrays_take_quantized_weights(bits: int) -> None:
    tree = {"table": jnp.asarray(RNG.normal(size=(50, 12)), jnp.float32), "w": jnp.asarray(RNG.normal(size=(12, 18)))}
    packed = quantize(tree, bits=bits, group_size=8)
    arrays = {name: w.floats for name, w in packed.items()}
    tokens = jnp.array([[3, 49, 0], [7, 7, 31]])

    def program(p: Any, tokens: jax.Array) -> list[jax.Array]:
        x = p["table"][tokens]
        y = jnp.tanh(x @ p["w"])
        return [
            y, y @ p["w"].T @ p["table"].T, p["w"].T @ x[0].T, jnp.einsum("io,bti->obt", p["w"], x), p["w"] * 2,
            x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16), p["table"][jnp.array([60, -51, -1])], p["w"],
        ]  # fmt: skip

    for ours, theirs in zip(jax.jit(dequantized(program))(packed, tokens), program(arrays, tokens), strict=True):
        assert ours.dtype == theirs.dtype
        assert_allclose(np.asarray(ours, np.float32), np.asarray(theirs, np.float32), rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize(("dtype", "rounding"), [(jnp.bfloat16, 2.0**-8), (jnp.float16, 2.0**-11)])
def test_products_in_half_precision_are_added_up_in_float32(dtype: Any, rounding: float) -> None:
    n = 2**12  # two blocks, with sums beyond float16 that take all digits of bfloat16
    ends = jnp.where(jnp.arange(n) < n // 2, 128.0, -128.0)[:, None]
    w = QuantizedWeight.of(jnp.asarray(RNG.normal(size=(n, 128)) / 8 + ends, dtype), 8)
    x = jnp.asarray(1 + RNG.integers(0, 2, (1, n)), dtype)
    exact = np.asarray(x, float) @ np.asarray(w.floats, float)
    got = jax.jit(dequantized(lambda w, x: x @ w))(w, x)
    assert got.dtype == dtype
    assert_allclose(np.asarray(got, float), exact, rtol=rounding, atol=1.0)


def test_no_weight_is_formed_as_a_whole() -> None:
    w = QuantizedWeight.of(jnp.ones((2048, 1024)))
    program = jax.jit(dequantized(lambda w, x, i: (x @ w, w @ x.T[:1024], w[i])))
    memory: Any = program.lower(w, jnp.ones((1, 2048)), jnp.arange(3)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * 2**20


def test_losses_may_be_any_function() -> None:
    seen = []

    def crude(p: Any, factor: float) -> float:
        seen.append(np.asarray(p["first"].floats))
        return factor * float(np.sum(np.abs(seen[-1])))

    state = QZO(mu=0.01).init(bb.key(0), params())
    _, value = QZO(mu=0.01).step(crude, jit=False)(state, 2.0)
    assert_allclose(seen[0] + seen[1], 2 * params()["first"].floats, atol=1e-5)
    assert np.abs(seen[0] - seen[1]).max() > 0
    assert value == pytest.approx(2 * np.sum(np.abs(params()["first"].floats)), rel=1e-3)
    assert dequantized(crude) == dequantized(crude) and hash(dequantized(crude)) == hash(dequantized(crude))


def test_differences_of_values_are_taken_in_the_precision_that_they_have() -> None:
    slope = RNG.normal(size=scales(params()).size)

    def crude(p: Any, offset: float) -> float:
        return offset + float(slope @ scales(p))

    near, far = (
        scales(QZO(lr=0.1).step(crude, jit=False)(QZO().init(bb.key(0), params()), offset)[0].params)
        for offset in (0.0, 2.0**30)
    )
    assert_allclose(far, near, rtol=1e-4)
    assert np.abs(near / scales(params()) - 1).max() > 1e-3


def test_settings_are_checked() -> None:
    for setting in ({"queries": 0}, {"mu": 0.0}, {"lr": -1.0}, {"clip": 0.0}, {"noise": "cauchy"}):
        with pytest.raises(SettingError, match=f"^{next(iter(setting))} must be"):
            QZO(**setting)
    with pytest.raises(SettingError, match="params has no quantized weight"):
        QZO().init(bb.key(0), parameters())
