"""Genomes: bytes that are exact, small and checked, and that decode to the same bits by whatever sums the noise."""

from __future__ import annotations

import hashlib
import struct
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.errors import CheckpointError, SettingError
from blackbox.ga import DeepGA, decode, rebase
from blackbox.ga.genome import Genome, encode, read, sealed
from blackbox.kernels import native, noise
from blackbox.virtual import Leaf, Weight

needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")


def template() -> dict[str, Any]:
    return {"w": np.arange(600, dtype=np.float32).reshape(20, 30) / 512, "b": np.zeros(30, np.float32)}


@cache
def named(initial: float | None) -> Genome:
    """A genome of a run that began with the template."""
    strategy = DeepGA(popsize=2, truncation=0, initial=initial)
    return read(strategy.ask(strategy.init(bb.key(7), template())).genome(0))


def genome(mutations: int = 5, initial: float | None = None, **more: Any) -> Genome:
    seeds = np.arange(3, 3 + mutations, dtype=np.uint32) * np.uint32(747796405)
    return named(initial)._replace(seeds=seeds, sigmas=np.full(mutations, 0.02, np.float32))._replace(**more)


def assert_same(left: Genome, right: Genome) -> None:
    for a, b in zip(left, right, strict=True):
        assert_array_equal(np.asarray(a), np.asarray(b))


RNG = np.random.default_rng(5)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no mutation": {"mutations": 0},
    "one": {"mutations": 1},
    "random start": {"initial": 1.0, "sigmas": np.array([1, 0.5, 0.5, 0.5, 0.5], np.float32)},
    "own sigmas": {"sigmas": RNG.random(5, np.float32)},
    "signs": {"kind": "sign"},
    "all digests": {"scale": b"s" * 16, "snapshot": b"t" * 16, "weights": b"w" * 16, "kind": "binom8"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_bytes_say_all_there_is_and_nothing_else(variant: str) -> None:
    made = genome(**VARIANTS[variant])
    data = encode(made)
    assert_same(read(data), made)
    assert encode(read(data)) == data


def test_a_hundred_mutations_take_four_bytes_each() -> None:
    assert len(encode(genome(100))) - len(encode(genome(0))) == 4 * 100 + 8  # two sigmas for all
    assert len(encode(genome(100))) < 500


def test_the_format_and_its_noise_are_pinned() -> None:
    """Genomes outlive releases: other bytes, or others that they decode to, are another version."""
    data = encode(genome(3, initial=1.0))
    assert hashlib.sha256(data).hexdigest()[:16] == "5889c55b56a1073c"
    digests = {}
    for kind in ("normal", "binom8", "sign", "uniform"):
        decoded = decode(encode(genome(3, initial=1.0, kind=kind)), template(), impl="ref")
        digests[kind] = hashlib.sha256(decoded["b"].tobytes() + decoded["w"].tobytes()).hexdigest()[:16]
    assert digests == {
        "normal": "ffd56203ba6500d1",
        "binom8": "9fa638af76b5c0e9",
        "sign": "a9c39576d449ec67",
        "uniform": "3cad170bacc45060",
    }


@pytest.mark.parametrize("kind", ["normal", "binom8", "sign", "uniform"])
def test_decoding_adds_the_mutations_in_order(kind: Any) -> None:
    made = genome(6, kind=kind, sigmas=RNG.random(6, np.float32))
    decoded = decode(encode(made), template(), impl="ref")
    for name, x in template().items():
        key = noise.fold(np.array(made.key, np.uint32), *Weight(name, x.shape).words)
        total = x.astype(float)
        for seed, sigma in zip(made.seeds, made.sigmas, strict=True):
            (drawn,) = noise.noise(kind, key, 0, (1, *x.shape), first=int(seed), like=x, impl="ref")
            total += sigma * (12**0.5 * (drawn - 0.5) if kind == "uniform" else drawn)
        assert_allclose(decoded[name], total, rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("kind", ["normal", "binom8", "sign", "uniform"])
def test_compiled_code_decodes_to_the_bits_of_the_reference(kind: Any) -> None:
    data = encode(genome(40, kind=kind, sigmas=RNG.random(40, np.float32), initial=1.0))
    plain, compiled = (decode(data, template(), impl=impl) for impl in ("ref", "native"))  # type: ignore[arg-type]
    for name in ("b", "w"):
        assert plain[name].tobytes() == compiled[name].tobytes()


def test_leaves_are_of_the_template_s_library() -> None:
    in_jax = {name: jnp.asarray(x) for name, x in template().items()}
    decoded = decode(encode(genome()), in_jax)
    assert isinstance(decoded["w"], jnp.ndarray)
    assert np.asarray(decoded["w"]).tobytes() == decode(encode(genome()), template())["w"].tobytes()


def test_wrong_templates_are_told_by_the_leaf() -> None:
    data, given = encode(genome()), template()
    cases: list[tuple[Any, str]] = [
        ({"w": given["w"].T.copy(), "b": given["b"]}, "template: w differs .* of which 1 are not in"),
        ({"w": given["w"], "c": given["b"]}, "template: c differs"),
        ({"w": given["w"].astype(np.float16), "b": given["b"]}, "template: w differs"),
        ({"w": given["w"]}, "template: no leaf differs .* of which 1 are not in the template"),
        (given | {"x": given["b"]}, "template: x differs .* of which 0 are not"),
        ({"w": given["w"] + 1, "b": given["b"]}, "other values than those that its run began with"),
    ]
    for wrong, message in cases:
        with pytest.raises(SettingError, match=message):
            decode(data, wrong)
    with pytest.raises(SettingError, match="template: w differs"):
        decode(data, given, policy={"w": Leaf(scale=2.0)})
    with pytest.raises(SettingError, match="scale must be None: the genome has none"):
        decode(data, given, scale=given)
    with pytest.raises(SettingError, match="snapshot must be None: the genome has none"):
        decode(data, given, snapshot=[np.zeros(30, np.float32), np.zeros(600, np.float32)])


def test_damaged_bytes_are_refused() -> None:
    data = encode(genome(5, initial=1.0))
    for end in range(4, len(data)):
        with pytest.raises(CheckpointError, match="cut off or damaged"):
            read(data[:end])
    for at in range(4, len(data)):
        for bit in (0, 7):
            with pytest.raises(CheckpointError, match="cut off or damaged"):
                read(data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :])
    with pytest.raises(CheckpointError, match="begins with b'PNG'"):
        read(b"PNG")
    body = data[:-4]
    with pytest.raises(CheckpointError, match="format 9, noise 1"):
        read(sealed(body[:4] + b"\x09" + body[5:]))
    with pytest.raises(CheckpointError, match="too few for its head"):
        read(sealed(body[:10]))
    many = struct.pack("<I", 2**32 - 1)
    with pytest.raises(CheckpointError, match="and its head says"):
        read(sealed(body[:26] + many + body[30:]))
    with pytest.raises(CheckpointError, match="decodes to other weights here"):
        decode(encode(genome(weights=b"w" * 16)), template())


def test_a_prefix_may_be_a_snapshot() -> None:
    made = genome(9, initial=1.0, sigmas=RNG.random(9, np.float32))
    data = encode(made)
    whole = decode(data, template())
    short, snapshot = rebase(data, template(), 6)
    shorter, later = rebase(short, template(), 2, snapshot=snapshot)
    for part, start in ((short, snapshot), (shorter, later)):
        decoded = decode(part, template(), snapshot=start)
        assert all(decoded[name].tobytes() == whole[name].tobytes() for name in whole)
    assert len(read(shorter).seeds) == 1
    with pytest.raises(SettingError, match="snapshot must be that which the genome was rebased on"):
        decode(short, template(), snapshot=later)
    with pytest.raises(SettingError, match="that which the genome was rebased on"):
        decode(short, template())
    with pytest.raises(SettingError, match="mutations must be from 1 to the genome's 9, got 10"):
        rebase(data, template(), 10)
