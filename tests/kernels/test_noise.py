"""Noise specification 1: known answers, equality of the backends, distribution, independence of streams."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import blackbox as bb
from blackbox.kernels import ffi, native, noise, ref, spec, xla

KINDS = list(spec.VALUES_PER_BLOCK)


def _words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


# Random123's kat_vectors for philox4x32: counter, key, result, rounds.
KNOWN = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8", 10),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd", 10),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1", 10),
    ("00000000 " * 4, "00000000 " * 2, "5f6fb709 0d893f64 4f121f81 4f730a48", 7),
    ("ffffffff " * 4, "ffffffff " * 2, "5207ddc2 45165e59 4d8ee751 8c52f662", 7),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "4dfccaba 190a87f0 c47362ba b6b5242a", 7),
]


@pytest.mark.parametrize(("counter", "key", "result", "rounds"), KNOWN)
def test_philox_gives_the_known_answers(counter: str, key: str, result: str, rounds: int) -> None:
    c, k, expected = _words(counter), _words(key), _words(result)
    assert list(ref.philox(c, k, rounds)) == expected
    traced = xla.philox([jnp.uint32(v) for v in c], [jnp.uint32(v) for v in k], rounds)
    assert [int(w) for w in traced] == expected


def test_blocks_follow_the_counter_layout() -> None:
    key = np.array([0xDEADBEEF, 0x12345678], np.uint32)
    start = 2**32 - 3  # across the carry into the counter's second word
    blocks = ref.words(key, start, 6)
    for i, block in enumerate(blocks):
        index = start + i
        assert block.tolist() == list(ref.philox((index & 0xFFFFFFFF, index >> 32, *key.tolist()), key.tolist()))


def test_words_equal_those_of_xla_rng_philox() -> None:
    key = np.array([5, 2**31 + 7], np.uint32)
    state = jnp.asarray(np.array([*key, 11, 0], np.uint32))
    philox = jax.lax.RandomAlgorithm.RNG_PHILOX
    _, bits = jax.lax.rng_bit_generator(state, (64,), dtype=jnp.uint32, algorithm=philox)
    assert_array_equal(np.asarray(bits), ref.words(key, 11, 16).reshape(-1))


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 3])
def test_numpy_and_jax_words_are_identical(seed: int) -> None:
    key = noise.key(seed)
    blocks = 7 + jnp.arange(5000)  # members of one block each
    traced = jax.jit(lambda key: xla.words_of(key[None], blocks, [1]))(key)
    assert_array_equal(np.stack(traced, -1), ref.words(key, 7, 5000))
    assert_array_equal(np.asarray(xla.fold(jnp.asarray(key), 9, 4)), ref.fold(key, 9, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_bit_identical_in_64_bit_mode(kind: spec.Kind) -> None:
    key = noise.key(3)
    with jax.enable_x64(True):
        traced = jax.jit(lambda k: xla.noise(k, 5, 40, 103, kind))(key)
    assert_array_equal(np.asarray(traced), ref.noise(key, 5, 40, 103, kind))


def test_normals_are_within_two_units_in_the_last_place_without_64_bit_mode() -> None:
    key = noise.key(4)
    traced = np.asarray(jax.jit(lambda k: xla.noise(k, 0, 100, 1000, "normal"))(key))
    reference = ref.noise(key, 0, 100, 1000, "normal")
    distance = np.abs(traced.view(np.int32).astype(np.int64) - reference.view(np.int32))
    assert distance.max() <= 2
    assert (distance == 0).mean() > 0.999


def test_normals_are_accurate() -> None:
    w = ref.words(noise.key(5), 0, 50_000)
    u = ((w >> 9).astype(np.float64) * 2 + 1) * 2.0**-24
    exact = np.empty_like(u)
    radius = np.sqrt(-2 * np.log(u[:, 0::2]))
    exact[:, 0::2], exact[:, 1::2] = radius * np.cos(2 * np.pi * u[:, 1::2]), radius * np.sin(2 * np.pi * u[:, 1::2])
    normals = ref.noise(noise.key(5), 0, 50_000, 4, "normal")
    large = np.abs(exact) > 2.0**-10
    ulp = np.abs(normals - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert np.abs(normals - exact).max() < 6.5e-7
    assert ulp[large].mean() < 0.44
    assert np.quantile(ulp[large], 0.999) < 1.8
    assert ulp[large].max() < 2.75


@pytest.mark.parametrize(("kind", "variance", "kurtosis"), [
    ("normal", 1, 3), ("uniform", 1 / 12, 1.8), ("sign", 1, 1), ("binom8", 1, 2.75)
])  # fmt: skip
def test_moments(kind: spec.Kind, variance: float, kurtosis: float) -> None:
    x = ref.noise(noise.key(6), 0, 400, 1000, kind).astype(np.float64) - (0.5 if kind == "uniform" else 0)
    count = x.size
    assert abs(x.mean()) < 5 * np.sqrt(variance / count)
    assert abs(x.var() / variance - 1) < 5 * np.sqrt(kurtosis / count)
    assert abs((x**4).mean() / x.var() ** 2 - kurtosis) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_members_leaves_generations_and_seeds_are_uncorrelated(kind: spec.Kind) -> None:
    size = 4000

    def row(seed: int, generation: int, leaf: int, member: int) -> np.ndarray:
        args = (noise.key(seed), generation, (1, size))
        return noise.noise(kind, *args, leaf=leaf, first=member, like=np.zeros(1))[0]

    rows = np.stack([row(0, 0, 0, 0), row(1, 0, 0, 0), row(0, 1, 0, 0), row(0, 0, 1, 0), row(0, 0, 0, 1)])
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5 / np.sqrt(size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 3, 10, 129])
def test_a_member_does_not_depend_on_its_company(kind: spec.Kind, size: int) -> None:
    key, like = noise.key(7), np.zeros(1)
    together = noise.noise(kind, key, 70, (9, size), like=like)
    for member in (0, 5, 8):
        assert_array_equal(noise.noise(kind, key, 70, (1, size), first=member, like=like)[0], together[member])


@pytest.mark.parametrize("kind", spec.VALUES_PER_BLOCK)
@pytest.mark.parametrize("size", [3, 200])  # of few blocks by NumPy and XLA, of many by compiled code
def test_many_runs_at_once_have_the_noise_of_each(kind: spec.Kind, size: int) -> None:
    keys, generations = np.stack([bb.key(seed) for seed in range(6)]), np.array([0, 5, 1, 2**32 - 1, 9, 7])
    like = np.zeros(1, np.float32)
    alone = [
        noise.noise(kind, key, generation, (9, size), leaf=2, first=4, like=like)
        for key, generation in zip(keys, generations, strict=True)
    ]
    many = noise.noise(kind, keys, generations, (6, 9, size), leaf=2, first=4, like=like)
    assert_array_equal(many, np.stack(alone))
    same_counter = noise.noise(kind, keys, 5, (6, 9, size), leaf=2, first=4, like=like)
    assert_array_equal(same_counter[1], alone[1])


@pytest.mark.parametrize("size", [3, 200])
def test_vmapped_noise_is_one_call_with_the_noise_of_each_run(size: int) -> None:
    keys, like = jnp.asarray(np.stack([bb.key(seed) for seed in range(6)])), jnp.zeros(1)

    def one(key: jax.Array, generation: jax.Array) -> jax.Array:
        return noise.normal(key, generation, (9, size), leaf=2, like=like)

    alone = jnp.stack([one(key, jnp.asarray(3)) for key in keys])
    mapped = jax.vmap(one, in_axes=(0, None))
    np.testing.assert_allclose(mapped(keys, jnp.asarray(3)), alone, atol=2e-6)
    twice = jax.vmap(jax.vmap(one, in_axes=(0, None)), in_axes=(0, None))(keys.reshape(2, 3, 2), jnp.asarray(3))
    np.testing.assert_allclose(twice.reshape(alone.shape), alone, atol=2e-6)
    batched = noise.normal(keys, jnp.full(6, 3), (6, 9, size), leaf=2, like=like)
    np.testing.assert_allclose(batched, alone, atol=2e-6)
    calls = str(jax.make_jaxpr(mapped)(keys, jnp.asarray(3))).count("ffi_call[")
    assert calls == (0 if size == 3 else 1)


def test_keys_and_shapes_that_are_not_of_the_same_runs_are_named() -> None:
    keys, like = np.stack([bb.key(0), bb.key(1)]), np.zeros(1)
    with pytest.raises(bb.SettingError, match=r"shape must be \(runs, members, \*event\) for the 2 runs of key, got"):
        noise.normal(keys, 0, (3, 4, 5), like=like)
    with pytest.raises(bb.SettingError, match=r"generation must be an integer, got int64 of shape \(3,\)"):
        noise.normal(keys, np.arange(3), (2, 4, 5), like=like)
    for generations, got in ((np.array([0.5, 1.7]), "float64"), (jnp.ones(2), "float32"), (np.ones(2, bool), "bool")):
        for array in (like, jnp.zeros(1)):
            with pytest.raises(bb.SettingError, match=f"generation must be an array of integers, got {got}"):
                noise.normal(keys, generations, (2, 4, 5), like=array)


def test_remembered_windows_equal_fresh_noise_in_any_order() -> None:
    key = noise.key(8)
    for generation in (0, 63, 64, 5, 2**32 + 1, 130, 1, -1, 2**32 - 1):
        expected = ref.noise(ref.fold(key, generation, 2), 3, 4, 10)
        assert_array_equal(ref.generation_noise(key, generation, 2, 3, 4, 10, "normal"), expected)


@pytest.mark.skipif(native.library() is None, reason="no C++ compiler")
def test_numbers_of_members_begin_anew_in_whatever_pieces_the_noise_is_made() -> None:
    words = jnp.asarray(np.stack([bb.key(0), bb.key(1)])), jnp.zeros(2, jnp.uint32), jnp.full(2, 2**32 - 2, jnp.uint32)
    for size in (1, 6, 8):
        made = ffi.noise_of_runs(*words, 0, 40, size, "uniform")
        assert_array_equal(made, xla.noise_of_runs(*words, 0, 40, size, "uniform"))


def test_seeds_out_of_range_are_refused() -> None:
    for seed in (-1, 2**64, 1.5, "1", True, None):
        with pytest.raises(bb.SettingError, match=r"seed must be an integer from 0 to 2\*\*64 - 1, got"):
            bb.key(seed)  # type: ignore[arg-type]


BAD_ARGUMENTS = [
    ({"key": [1, 2]}, r"key must be an array of uint32 of shape \(2,\), got \[1, 2\]"),
    ({"key": np.zeros(2)}, r"key must be an array of uint32 of shape \(2,\), got float64 of shape \(2,\)"),
    ({"key": np.zeros(4, np.uint32)}, r"key must be an array of uint32 of shape \(2,\), got uint32 of shape \(4,\)"),
    ({"generation": 0.5}, "generation must be an integer, got 0.5"),
    ({"generation": True}, "generation must be an integer, got True"),
    ({"generation": np.zeros(2, int)}, r"generation must be an integer, got int64 of shape \(2,\)"),
    ({"leaf": 1.0}, "leaf must be an integer, got 1.0"),
    ({"first": 2.0}, "first must be an integer, got 2.0"),
    ({"shape": (-1, 3)}, "shape must be an integer >= 0, got -1"),
    ({"shape": (2.5, 3)}, "shape must be an integer >= 0, got 2.5"),
    ({"shape": ()}, r"shape must be \(members, \*event\), got \(\)"),
    ({"kind": ["normal"]}, "kind must be one of normal"),
]


@pytest.mark.parametrize("like", [np.zeros(0), jnp.zeros(0)], ids=["numpy", "jax"])
@pytest.mark.parametrize(("change", "message"), BAD_ARGUMENTS)
def test_ill_formed_arguments_are_named(like: object, change: dict[str, object], message: str) -> None:
    call = {"kind": "normal", "key": noise.key(0), "generation": 0, "shape": (2, 3), "like": like} | change
    with pytest.raises(bb.SettingError, match=message):
        noise.noise(**call)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": jnp.zeros((2, 2), jnp.uint32)}, r"keys must be an array of uint32 of shape \(1, 2\)"),
        ({"members": jnp.zeros(2)}, "members must be an array of integers, got float32"),
        ({"members": [0, 1]}, r"members must be an array of integers, got \[0, 1\]"),
        ({"members": jnp.zeros((2, 1), jnp.uint32)}, r"members must be of shape \(n,\)"),
        ({"sizes": (-1,)}, "sizes must be an integer >= 0, got -1"),
        ({"sizes": ()}, "sizes must be one integer for each stream"),
    ],
)
def test_ill_formed_streams_are_named(change: dict[str, object], message: str) -> None:
    streams = {"keys": jnp.zeros((1, 2), jnp.uint32), "members": jnp.zeros(2, jnp.uint32), "sizes": (3,)} | change
    for operation in (noise.centered_noise, noise.signs):
        with pytest.raises(bb.SettingError, match=message):
            operation(**streams)  # type: ignore[arg-type]


@pytest.mark.parametrize("like", [np.zeros(0), jnp.zeros(0)], ids=["numpy", "jax"])
def test_what_is_no_noise_is_refused(like: object) -> None:
    key = noise.key(0)
    for first in (-1, 2**32 - 1):
        with pytest.raises(bb.SettingError, match=rf"first must be from 0 to 2\*\*32 - 2 for 2 members, got {first}"):
            noise.noise("normal", key, 0, (2, 3), first=first, like=like)  # type: ignore[arg-type]
    assert noise.noise("normal", key, 0, (2, 3), first=2**32 - 2, like=like).shape == (2, 3)  # type: ignore[arg-type]
    with pytest.raises(bb.SettingError, match=r"kind must be one of normal, uniform, .*, got 'gaussian'"):
        noise.noise("gaussian", key, 0, (2, 3), like=like)  # type: ignore[arg-type]
    with pytest.raises(bb.SettingError, match=r"kind must be one of normal, uniform, .*, got 'gaussian'"):
        noise.centered_noise(jnp.zeros((1, 2), jnp.uint32), jnp.zeros(2, jnp.uint32), (3,), "gaussian")  # type: ignore[arg-type]


def test_ten_thousand_seeds_share_no_key_and_no_first_block() -> None:
    first = {tuple(ref.words(ref.fold(noise.key(s), 0), 0, 1)[0].tolist()) for s in range(10_000)}
    assert len(first) == 10_000
