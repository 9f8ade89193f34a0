"""The routes to a GPU, as far as they go without one: compiling, launching from CuPy and within JAX's programs."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fake_cupy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simulator
from jax.sharding import PartitionSpec
from numpy.testing import assert_array_equal

import blackbox as bb
from blackbox.kernels import cuda, device, dispatch, explain, grids, native, noise, ref, seedsum, spec
from blackbox.kernels.device import Launch

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")
KINDS = native.KINDS
KEYS = np.array([[0xDEADBEEF, 0x12345678], [5, 6]], np.uint32)
TEXTS = sorted(path.name for path in native.SOURCES.glob("*.cu"))


def has_nvrtc() -> bool:
    try:
        from cupy.cuda import nvrtc

        return bool(nvrtc.getVersion())
    except (ImportError, OSError, RuntimeError):
        return False


needs_nvrtc = pytest.mark.skipif(not has_nvrtc(), reason="no CuPy with NVRTC")


def assert_same_bits(got: Any, expected: Any) -> None:
    for a, b in zip(got, expected, strict=True):
        assert_array_equal(np.asarray(a, np.float32).view(np.uint32), np.asarray(b, np.float32).view(np.uint32))


def problem(sums: int = 3, terms: int = 130) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    bases = [rng.normal(size=(1, size)).astype(np.float32) for size in (41, 7)]
    return bases, rng.normal(size=(sums, terms)).astype(np.float32), rng.integers(0, 2**32, (sums, terms), np.uint32)


# ---- compiling


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("source", TEXTS)
def test_texts_compile_at_run_time_without_a_gpu(source: str, architecture: str) -> None:
    cubin = cuda.compiled(source, architecture).read_bytes()
    assert cubin.startswith(b"\x7fELF")
    for name in simulator.kernels_of(source):
        assert name.encode() + b"\0" in cubin


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_without_nvrtc_nvcc_compiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    monkeypatch.setattr(cuda, "_compiler", cuda._compiler.__wrapped__)
    assert cuda.compiled("noise.cu", "sm_90").read_bytes().startswith(b"\x7fELF")


@needs_nvrtc
def test_a_change_of_a_text_or_architecture_is_another_cubin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path / "cache"))
    made = {cuda.compiled("noise.cu", "sm_80"), cuda.compiled("noise.cu", "sm_90"), cuda.compiled("noise.cu", "sm_90")}
    shutil.copytree(native.SOURCES, changed := tmp_path / "changed")
    (changed / "noise.cuh").write_text((changed / "noise.cuh").read_text() + "\n// more\n")
    monkeypatch.setattr(native, "SOURCES", changed)
    made.add(cuda.compiled("noise.cu", "sm_90"))
    assert len(made) == 3
    (changed / "noise.cu").write_text("int x = ;")
    with pytest.raises(RuntimeError, match="expected an expression"):
        cuda.compiled("noise.cu", "sm_90")


# ---- CuPy


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """CuPy with a GPU, as far as the kernels use it."""
    module = fake_cupy.module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path))

    def compiled(source: str, architecture: str) -> Path:
        path = tmp_path / f"{source}-{architecture}"
        if not path.exists():
            path.write_text("a cubin")
        return path

    monkeypatch.setattr(cuda, "compiled", compiled)
    cuda.problem.cache_clear()
    cuda._function.cache_clear()
    yield module
    cuda.problem.cache_clear()
    cuda._function.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_cupy_get_the_bits_of_the_reference(kind: spec.Kind, cupy: Any) -> None:
    like = cupy.empty((0,), "float32")
    made = noise.noise(kind, KEYS[0], 5, (4, 33), leaf=2, first=3, like=like)
    expected = ref.noise(ref.fold(KEYS[0], 5, 2), 3, 4, 33, kind)
    assert isinstance(made, cupy.ndarray)
    assert_same_bits([made], [expected])

    bases, weights, members = problem()
    arrays = [cupy.asarray(base) for base in bases], cupy.asarray(weights), cupy.asarray(members)
    sums = seedsum(cupy.asarray(KEYS), *arrays, kind)
    assert all(isinstance(total, cupy.ndarray) for total in sums)
    assert_same_bits(sums, ref.seedsum(KEYS, bases, weights, members, kind))
    assert explain().endswith("CuPy: kernels on the GPU.")


def test_a_damaged_cubin_is_compiled_again(cupy: Any, tmp_path: Path) -> None:
    (tmp_path / "noise.cu-sm_90").write_bytes(b"")
    made = noise.noise("sign", KEYS[0], 0, (2, 9), like=cupy.empty((0,), "float32"), impl="cuda")
    assert_same_bits([made], [ref.noise(ref.fold(KEYS[0], 0), 0, 2, 9, "sign")])


def test_without_a_gpu_arrays_of_cupy_are_copied_after_one_notice(cupy: Any) -> None:
    cupy.cuda.is_available = lambda: False
    native._warned.clear()
    bases, weights, members = problem()
    given = [cupy.asarray(KEYS), [cupy.asarray(base) for base in bases], cupy.asarray(weights), cupy.asarray(members)]
    with pytest.warns(RuntimeWarning, match="copied to and fro: there is no CUDA GPU that CuPy can use") as notices:
        sums = [seedsum(*given, "binom8") for _ in range(2)]
    assert len(notices) == 1
    assert all(isinstance(total, cupy.ndarray) for total in sums[0])
    assert_same_bits(sums[1], ref.seedsum(KEYS, bases, weights, members, "binom8"))
    with pytest.raises(bb.SettingError, match='impl="cuda" cannot be had here: there is no CUDA GPU'):
        seedsum(*given, "binom8", impl="cuda")


# ---- JAX


@pytest.fixture(scope="module")
def text() -> str:
    """The launcher's target on CPUs, where it runs the simulator."""
    launcher, reason = grids.launcher()
    assert launcher is not None, reason
    launcher.bb_register_simulator(ctypes.cast(simulator.library().bb_simulate, ctypes.c_void_p))
    jax.ffi.register_ffi_target(grids.TARGET, jax.ffi.pycapsule(launcher.bb_launch_simulated), platform="cpu")
    return "simulated"


@pytest.fixture
def launch(text: str) -> Any:
    def simulated(call: Launch, inputs: Sequence[jax.Array], outputs: Sequence[device.Shape]) -> tuple[jax.Array, ...]:
        return grids.launched(call, text, inputs, outputs)

    return simulated


@pytest.mark.parametrize("kind", KINDS)
def test_programs_launch_grids_under_jit_scan_vmap_and_shard_map(kind: spec.Kind, launch: Any) -> None:
    bases, weights, members = problem(sums=8, terms=70)
    expected = ref.seedsum(KEYS, bases, weights, members, kind)

    def total(weights: jax.Array, members: jax.Array) -> tuple[jax.Array, ...]:
        return device.seedsum(launch, jnp.asarray(KEYS), [jnp.asarray(b) for b in bases], weights, members, kind)

    arrays = jnp.asarray(weights), jnp.asarray(members)
    assert_same_bits(jax.jit(total)(*arrays), expected)
    one = tuple(x[:, None] for x in arrays)
    scanned = jax.jit(lambda xs: jax.lax.scan(lambda carry, x: (carry, total(*x)), 0, xs)[1])(one)
    assert_same_bits([x[:, 0] for x in scanned], expected)
    assert_same_bits([x[:, 0] for x in jax.jit(jax.vmap(total))(*one)], expected)
    mesh = jax.make_mesh((len(jax.devices()),), ("sums",), axis_types=(jax.sharding.AxisType.Auto,))
    part = PartitionSpec("sums")
    sharded = jax.shard_map(total, mesh=mesh, in_specs=part, out_specs=part, check_vma=False)
    assert_same_bits(jax.jit(sharded)(*arrays), expected)


def test_the_launcher_names_what_is_wrong(launch: Any) -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match="the simulator returned 1"):
        jax.block_until_ready(launch(Launch("noise.cu", "bb_nothing", (1, 1), ()), (), [((1,), "float32")]))
    with pytest.raises(jax.errors.JaxRuntimeError, match="too many arguments"):
        jax.block_until_ready(launch(Launch("noise.cu", "bb_noise_sign", (1, 1), (0,) * 21), (), [((1,), "float32")]))


# ---- none of it


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a GPU")
def test_without_a_gpu_it_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(bb.SettingError, match='impl="cuda" cannot be had here: JAX sees no CUDA GPU'):
        noise.noise("normal", KEYS[0], 0, (2, 3), like=jnp.zeros(0), impl="cuda")
    with pytest.raises(bb.SettingError, match='impl="cuda" cannot be had here: it takes arrays of JAX or CuPy'):
        noise.noise("normal", KEYS[0], 0, (2, 3), like=np.zeros(0), impl="cuda")
    monkeypatch.setenv("BLACKBOX_KERNELS", "cuda")
    dispatch.from_environment.cache_clear()
    try:
        assert noise.noise("normal", KEYS[0], 0, (2, 3), like=np.zeros(0)).shape == (2, 3)
        assert "JAX: an error: JAX sees no CUDA GPU." in explain()
    finally:
        dispatch.from_environment.cache_clear()


WITHOUT = """
import sys


class Absent:
    def find_spec(name, path, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Absent)
import numpy as np
import blackbox as bb
from blackbox.kernels import cuda, explain, noise, seedsum
noise.noise("normal", bb.key(1), 0, (50, 300), like=np.zeros(0))
seedsum(bb.key(0)[None], [np.zeros((1, 3000))], np.ones((1, 9)), np.arange(9)[None])
result = bb.minimize(lambda x: float(((x["x"] - 1) ** 2)), bb.Space({{"x": bb.Float(-5, 5)}}), budget=60, seed=0)
assert result.value < 0.1, result
assert not {absent!r} & set(sys.modules)
print(cuda.problem())
print(explain())
"""


@pytest.mark.parametrize("absent", [{"jax", "jaxlib", "cupy", "scipy"}, {"cupy"}])
def test_without_jax_and_cupy_the_package_works(absent: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT.format(absent=absent)],
        env=os.environ | {"BLACKBOX_KERNELS": "auto"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pip install 'blackbox-engine[cuda]'" in done.stdout
    assert "NumPy: compiled code" in done.stdout
    assert "JAX: not imported" in done.stdout


def test_importing_the_kernels_imports_neither_jax_nor_cupy() -> None:
    program = "import sys, blackbox.kernels; assert not {'jax', 'cupy'} & set(sys.modules), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True)
