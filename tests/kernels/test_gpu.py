"""On an NVIDIA GPU: the bits of the CPU, from CuPy and within JAX's programs (`python -m pytest -m gpu`)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import lowrank_cases
import ml_dtypes
import numpy as np
import pytest
import rollout_cases
from numpy.testing import assert_array_equal

from blackbox.kernels import (
    cuda,
    grids,
    lowrank,
    lowrank_factors,
    lowrank_linear,
    lowrank_mix,
    native,
    noise,
    ref,
    rollout,
    seedsum,
    spec,
)
from blackbox.kernels.finish import finished

pytestmark = pytest.mark.gpu
EXACT = [kind for kind in native.KINDS if kind != "normal_fast"]
KEYS = np.array([[0xDEADBEEF, 0x12345678], [5, 6]], np.uint32)


@pytest.fixture(params=["cupy", "jax"])
def on_gpu(request: pytest.FixtureRequest) -> Any:
    """What makes an array of a library whose arrays lie on the GPU."""
    if request.param == "cupy":
        if reason := cuda.problem():
            pytest.skip(reason)
        import cupy

        return cupy.asarray
    if reason := grids.problem():
        pytest.skip(reason)
    return jnp.asarray


def on_cpu(array: Any) -> np.ndarray:
    return np.asarray(array) if isinstance(array, jax.Array) else array.get()


def assert_same_bits(got: Any, expected: Any) -> None:
    for a, b in zip(got, expected, strict=True):
        assert_array_equal(on_cpu(a).view(np.uint32), np.asarray(b, np.float32).view(np.uint32))


@pytest.mark.parametrize("kind", EXACT)
def test_noise_has_the_bits_of_the_cpu(kind: spec.Kind, on_gpu: Any) -> None:
    for shape in ((1000, 777), (1, 1), (3, 100_001)):
        made = noise.noise(kind, KEYS[0], 3, shape, first=11, like=on_gpu(np.zeros(0, np.float32)), impl="cuda")
        assert_same_bits([made], [ref.noise(ref.fold(KEYS[0], 3), 11, *shape, kind)])


@pytest.mark.parametrize(("sums", "terms", "sizes"), [(1, 2048, (100_000, 3)), (64, 5, (999, 1)), (2, 0, (10, 10))])
@pytest.mark.parametrize("chunk", [1, 64])
@pytest.mark.parametrize("kind", EXACT)
def test_sums_have_the_bits_of_the_cpu(
    kind: spec.Kind, chunk: int, sums: int, terms: int, sizes: tuple[int, ...], on_gpu: Any
) -> None:
    rng = np.random.default_rng(0)
    bases = [rng.normal(size=(1, size)).astype(np.float32) for size in sizes]
    weights = rng.normal(size=(sums, terms)).astype(np.float32)
    members = rng.integers(0, 2**32, (sums, terms), dtype=np.uint32)
    made = seedsum(
        on_gpu(KEYS), [on_gpu(base) for base in bases], on_gpu(weights), on_gpu(members), kind, chunk=chunk, impl="cuda"
    )
    assert_same_bits(made, seedsum(KEYS, bases, weights, members, kind, chunk=chunk))


LARGE = [(1024, 1, 2048, 2048, 1, 0, 0), (3, 40, 8200, 9001, 1, 5, 2), (64, 2, 500, 300, 5, 0, 0)]
EXACT: tuple[spec.Kind, ...] = ("normal", "uniform", "sign", "binom8")


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("shape", [*lowrank_cases.SHAPES, *LARGE])
def test_products_of_low_rank_have_the_bits_of_the_cpu(kind: spec.Kind, shape: tuple[int, ...], on_gpu: Any) -> None:
    for shared, paired in (("", True), ("x", False), ("xy", True)):
        x, y, source, size, rank = lowrank_cases.problem(shape, shared, paired)
        arrays = [on_gpu(array) for array in (x, y, source)]
        expected = lowrank_mix(x, y, source, size, rank, kind)
        assert_same_bits([lowrank_mix(*arrays, size, rank, kind, impl="cuda")], [expected])
        sizes = x.shape[2] * rank, y.shape[2] * rank
        made = lowrank_factors(arrays[2], sizes, size, kind, impl="cuda")
        assert_same_bits(made, lowrank_factors(source, sizes, size, kind))
        if isinstance(arrays[0], jax.Array):
            got = lowrank_mix(
                arrays[0].astype(jnp.bfloat16), *arrays[1:], size, rank, kind, dtype="bfloat16", impl="cuda"
            )
            short = lowrank_mix(x.astype(ml_dtypes.bfloat16), y, source, size, rank, kind, dtype="bfloat16")
            lowrank_cases.assert_same_bits([got], [short])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_layers_have_the_bits_of_the_cpu_after_their_product(activation: Any, dtype: Any, on_gpu: Any) -> None:
    x, y, source, size, rank = lowrank_cases.problem((256, 2, 1024, 512, 1, 0, 0))
    source[:, 3] = np.float32(0.01).view(np.uint32)
    w, bias = np.random.default_rng(0).normal(size=(1024, 512)).astype("f") / 32, y[0, 0]
    given = [on_gpu(array) for array in (x, w, source, bias)]
    if dtype == "bfloat16":
        if not isinstance(given[0], jax.Array):
            pytest.skip("CuPy has no bfloat16")
        given[:2] = [array.astype(jnp.bfloat16) for array in given[:2]]
    product = on_cpu(lowrank._product(*given[:2]))
    more: dict[str, Any] = {"size": size, "rank": rank, "kind": "binom8", "activation": activation}
    got = lowrank_linear(*given[:3], bias=given[3], **more, impl="cuda")
    mixed = lowrank_mix(on_cpu(given[0]), product, source, size, rank, "binom8")
    lowrank_cases.assert_same_bits([on_cpu(got)], [finished(mixed, bias[None], activation, dtype)])


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("source", rollout_cases.SOURCES)
@pytest.mark.parametrize("name", rollout_cases.NAMES)
def test_rollouts_have_the_bits_of_the_cpu(name: str, source: str, kind: spec.Kind, on_gpu: Any) -> None:
    for hidden in rollout_cases.HIDDEN:
        weights, starts = rollout_cases.case(name, hidden, source, 50, 3, kind)
        made = rollout(name, hidden, weights, on_gpu(starts), steps=100, impl="cuda")
        expected = rollout(name, hidden, weights, starts, steps=100)
        rollout_cases.assert_same([on_cpu(array) for array in made], expected)


def test_fast_normals_are_near_those_of_the_cpu(on_gpu: Any) -> None:
    like = on_gpu(np.zeros(0, np.float32))
    made = noise.noise("normal_fast", KEYS[0], 3, (1000, 777), first=11, like=like, impl="cuda")
    expected = ref.noise(ref.fold(KEYS[0], 3), 11, 1000, 777, "normal")
    np.testing.assert_allclose(on_cpu(made), expected, rtol=0, atol=1e-5)
