"""The routes to a GPU, as far as they go without one: compiling, launching from CuPy and within JAX's programs."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_cupy
import jax
import jax.numpy as jnp
import lowrank_cases
import ml_dtypes
import numpy as np
import pytest
import rollout_cases
import simulator
from jax.sharding import PartitionSpec
from numpy.testing import assert_array_equal

import blackbox as bb
from blackbox.kernels import (
    cuda,
    device,
    dispatch,
    explain,
    ffi,
    grids,
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
from blackbox.kernels.device import Launch
from blackbox.kernels.finish import finished

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
@pytest.mark.parametrize(
    ("source", "architecture"),
    [(source, "sm_90") for source in TEXTS] + [("noise.cu", "sm_80"), ("noise.cu", "sm_100")],
)
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


@pytest.mark.parametrize("kind", ["sign", "binom8"])
def test_products_of_low_rank_of_cupy_get_the_bits_of_the_reference(kind: spec.Kind, cupy: Any) -> None:
    x, y, source, size, rank = lowrank_cases.problem((5, 3, 100, 8, 2, 5, 3))
    made = lowrank_mix(*map(cupy.asarray, (x, y, source)), size, rank, kind)
    assert_same_bits([made], [ref.lowrank_mix(x, y, source, size, rank, kind)])
    factors = lowrank_factors(cupy.asarray(source), (200, 16), size, kind)
    assert_same_bits(factors, ref.lowrank_factors(source, (200, 16), size, kind))
    w, bias = x[0, :1].T @ y[0, :1], y[0, 0]
    more: dict[str, Any] = {"size": size, "rank": rank, "kind": kind, "activation": "tanh"}
    linear = lowrank_linear(*map(cupy.asarray, (x, w, source)), bias=cupy.asarray(bias), **more)
    assert_same_bits([linear], [lowrank_linear(x, w, source, bias=bias, **more, impl="ref")])
    assert all(isinstance(array, cupy.ndarray) for array in (made, *factors, linear))
    short = x.astype(ml_dtypes.bfloat16)
    with pytest.raises(bb.SettingError, match="x must be of dtype float32, since CuPy multiplies no bfloat16"):
        lowrank_linear(*map(cupy.asarray, (short, w, source)), **more)
    with pytest.raises(bb.SettingError, match="dtype must be float32 for arrays of CuPy"):
        lowrank_mix(*map(cupy.asarray, (x, y, source)), size, rank, kind, dtype="bfloat16")


@pytest.mark.parametrize("source", rollout_cases.SOURCES)
def test_rollouts_of_cupy_get_the_bits_of_the_reference(source: str, cupy: Any) -> None:
    weights, starts = rollout_cases.case("Pendulum-v1", (17, 18), source)
    expected = rollout_cases.expected("Pendulum-v1", (17, 18), source, 9)
    arrays = {name: cupy.asarray(x) if isinstance(x, np.ndarray) else x for name, x in vars(weights).items()}
    for own, first in ((weights, cupy.asarray(starts)), (type(weights)(**arrays), starts)):
        got = rollout("Pendulum-v1", (17, 18), own, first, steps=9)
        assert all(isinstance(array, cupy.ndarray) for array in got)
        rollout_cases.assert_same(got, expected)


def test_a_damaged_cubin_is_compiled_again(cupy: Any, tmp_path: Path) -> None:
    (tmp_path / "noise.cu-sm_90").write_bytes(b"")
    made = noise.noise("sign", KEYS[0], 0, (2, 9), like=cupy.empty((0,), "float32"), impl="cuda")
    assert_same_bits([made], [ref.noise(ref.fold(KEYS[0], 0), 0, 2, 9, "sign")])


def test_a_block_with_more_shared_memory_than_a_gpu_has_is_refused(cupy: Any) -> None:
    call = Launch("noise.cu", "bb_noise_sign", (1, 1), (1, 1, 0), shared=228 << 10)
    with pytest.raises(
        bb.SettingError, match="bb_noise_sign needs 233472 bytes of shared memory, and this GPU has 232"
    ):
        cuda.launch(call, [cupy.asarray(KEYS)], [((1, 1), "float32")])


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

    x, y, source, size, rank = lowrank_cases.problem((5, 3, 100, 8, 2, 5, 3))
    mixed = lowrank_mix(*map(cupy.asarray, (x, y, source)), size, rank, "binom8")
    factors = lowrank_factors(cupy.asarray(source), (200, 16), size, "binom8")
    w, bias = np.ones((100, 8), np.float32), np.ones((5, 8), np.float32)
    linear = lowrank_linear(*map(cupy.asarray, (x, w, source)), size, rank, bias=cupy.asarray(bias), activation="relu")
    own, starts = rollout_cases.case("CartPole-v1", (5,), "seeds")
    played = rollout("CartPole-v1", (5,), own, cupy.asarray(starts), steps=9)
    assert all(isinstance(array, cupy.ndarray) for array in (mixed, *factors, linear, *played))
    assert_same_bits([mixed], [ref.lowrank_mix(x, y, source, size, rank, "binom8")])
    assert_same_bits(factors, ref.lowrank_factors(source, (200, 16), size, "binom8"))
    assert_same_bits([linear], [lowrank_linear(x, w, source, size, rank, bias=bias, activation="relu", impl="ref")])
    rollout_cases.assert_same(played, rollout_cases.expected("CartPole-v1", (5,), "seeds", 9))


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


@pytest.fixture
def as_on_gpu(launch: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs take what they have for GPUs, which the simulator runs."""
    monkeypatch.setattr(grids, "launch", launch)
    monkeypatch.setattr(ffi, "by_platform", lambda *arrays, cuda, **_: cuda(*arrays))
    ffi._mix_of_members.cache_clear()
    jax.clear_caches()
    yield
    ffi._mix_of_members.cache_clear()
    jax.clear_caches()


@pytest.mark.usefixtures("as_on_gpu")
@pytest.mark.parametrize(("dtype", "activation"), [(jnp.bfloat16, "tanh"), (jnp.bfloat16, None), (np.float32, "relu")])
def test_layers_are_a_product_and_one_grid(dtype: Any, activation: Any) -> None:
    x, y, source, size, rank = lowrank_cases.problem((6, 2, 70, 36, 2, 3, 1))
    w, bias = jnp.asarray(x[0].T @ y[0] / 20, dtype), np.random.default_rng(0).normal(size=(6, 36)).astype("f")
    x = jnp.asarray(x, dtype)

    def layer(x: Any, words: Any, bias: Any) -> Any:
        return lowrank_linear(x, w, words, size, rank, "sign", bias=bias, activation=activation, impl="native")

    def one(x: Any, words: Any, bias: Any) -> Any:
        return layer(x[None], words[None], bias)[0]

    product = jax.lax.dot_general(x, w, (((2,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    mixed = ref.lowrank_mix(np.asarray(x), np.asarray(product), source, size, rank, "sign")
    expected = finished(mixed, bias, activation, str(np.dtype(dtype)))
    program = jax.jit(jax.vmap(one))
    for got in (jax.jit(layer)(x, source, bias), program(x, source, bias)):
        assert got.dtype == dtype
        lowrank_cases.assert_same_bits([got], [expected])
    text = program.lower(x, source, bias).as_text()
    assert text.count("@blackbox_launch_grid") == 1
    converted = [line for line in text.splitlines() if "stablehlo.convert" in line and "bf16" in line]
    assert not converted, converted
    for shared, words in ((x[:1], source), (x, np.repeat(source[:1], 6, 0))):
        rows = jax.vmap(one, (None if len(shared) == 1 else 0, 0, None))(
            shared[0] if len(shared) == 1 else x, words, bias[0]
        )
        lowrank_cases.assert_same_bits([rows], [layer(shared, words, bias[0])])


def test_the_launcher_names_what_is_wrong(launch: Any) -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match="the simulator returned 1"):
        jax.block_until_ready(launch(Launch("noise.cu", "bb_nothing", (1, 1), ()), (), [((1,), "float32")]))
    with pytest.raises(jax.errors.JaxRuntimeError, match="too many arguments"):
        jax.block_until_ready(launch(Launch("noise.cu", "bb_noise_sign", (1, 1), (0,) * 21), (), [((1,), "float32")]))


def test_compiled_code_for_cpus_is_not_taken_where_jax_runs_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(bb.SettingError, match='impl="native" cannot be had here: it is for CPUs, and JAX runs on gpu'):
        noise.noise("normal", KEYS[0], 0, (200, 30), like=jnp.zeros(0), impl="native")
    assert 'JAX: XLA, since it runs on gpu; impl="cuda" takes kernels there.' in explain()
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform="gpu", compute_capability=own)
                                                       for own in ("9.0", "8.0", "9.0")])  # fmt: skip
    assert grids.problem.__wrapped__() == "JAX's GPUs must be of one architecture, and are of sm_80, sm_90"


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
