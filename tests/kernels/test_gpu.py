"""On an NVIDIA GPU: the bits of the CPU, from CuPy and within JAX's programs (`python -m pytest -m gpu`)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from blackbox.kernels import cuda, grids, native, noise, ref, seedsum, spec

pytestmark = pytest.mark.gpu
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


@pytest.mark.parametrize("kind", native.KINDS)
def test_noise_has_the_bits_of_the_cpu(kind: spec.Kind, on_gpu: Any) -> None:
    for shape in ((1000, 777), (1, 1), (3, 100_001)):
        made = noise.noise(kind, KEYS[0], 3, shape, first=11, like=on_gpu(np.zeros(0, np.float32)), impl="cuda")
        assert_same_bits([made], [ref.noise(ref.fold(KEYS[0], 3), 11, *shape, kind)])


@pytest.mark.parametrize(("sums", "terms", "sizes"), [(1, 2048, (100_000, 3)), (64, 5, (999, 1)), (2, 0, (10, 10))])
@pytest.mark.parametrize("chunk", [1, 64])
@pytest.mark.parametrize("kind", native.KINDS)
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
