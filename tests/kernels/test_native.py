"""Compiled noise: the bits of the reference from NumPy and within JAX's programs; what happens without a compiler."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from numpy.testing import assert_array_equal

import blackbox as bb
from blackbox.kernels import dispatch, explain, ffi, native, noise, ref, spec, xla

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")
KINDS = native.KINDS
KEY = np.array([0xDEADBEEF, 0x12345678], np.uint32)
# Sizes that fill lanes and blocks and that do not, one value, no member, the last member numbers.
SHAPES = [(0, 1, 1), (3, 7, 5), (5, 2, 130), (2**32 - 64, 64, 33), (11, 300, 17), (0, 1, 5000), (4, 0, 3), (4, 3, 0)]


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a test sets does not outlive it."""
    yield
    dispatch.from_environment.cache_clear()


def bits(values: object) -> np.ndarray:
    return np.asarray(values, np.float32).view(np.uint32)


@pytest.mark.parametrize(("first", "members", "size"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_noise_has_the_bits_of_the_reference(kind: spec.Kind, first: int, members: int, size: int) -> None:
    made = native.noise(KEY, first, members, size, kind)
    assert_array_equal(bits(made), bits(ref.noise(KEY, first, members, size, kind)))


@pytest.mark.parametrize(("members", "sizes"), [(1, (1,)), (70, (128, 37, 300)), (3, (0, 129)), (0, (5,))])
def test_signs_are_those_of_the_reference_without_a_float(members: int, sizes: tuple[int, ...]) -> None:
    keys = np.arange(2 * len(sizes), dtype=np.uint32).reshape(-1, 2)
    numbers = np.arange(3, 3 + members, dtype=np.uint32)[::-1].copy()
    for impl in ("native", "xla"):
        program = partial(noise.signs, sizes=sizes, impl=impl)
        for key, size, made in zip(keys, sizes, program(keys, jnp.asarray(numbers)), strict=True):
            assert made.dtype == jnp.int8
            assert_array_equal(made, ref.noise(key, 3, members, size, "sign")[::-1])
        assert not re.search(r"\b[b]?f(16|32|64)\[", str(jax.make_jaxpr(program)(keys, jnp.asarray(numbers))))


def test_four_million_words_are_those_of_the_reference() -> None:
    signs = native.noise(KEY, 7, 1, 2**22 * 32, "sign")
    blocks = ref.words(KEY, 7 * 2**20, 2**20).astype("<u4").view(np.uint8)
    assert_array_equal(signs.reshape(-1) < 0, np.unpackbits(blocks.reshape(-1), bitorder="little").astype(bool))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="another processor")
@pytest.mark.parametrize("processor", ["x86-64", "haswell", "skylake-avx512"])
def test_other_processors_make_the_same_bits(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of 128, 256 and 512 bits; one key and a key for each lane."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    if not {"haswell": {"avx2", "fma"}, "skylake-avx512": {"avx512dq"}}.get(processor, set()) <= set(flags):
        pytest.skip(f"this processor cannot run what is compiled for {processor}")
    options = [option for option in native.OPTIONS if option not in native.CPU_OPTIONS]
    source = native.LIBRARIES["noise"]
    loaded = ctypes.CDLL(str(native.build(source, options=[*options, f"-march={processor}"])))
    for entry in native.entries_of(source):
        getattr(loaded, entry).argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    monkeypatch.setattr(native, "attempt", lambda operation: (loaded, ""))
    rng, keys = np.random.default_rng(0), np.array([[1, 2], [2**32 - 1, 5]], np.uint32)
    bases = [rng.normal(size=(1, size)).astype(np.float32) for size in (3, 300)]
    weights, members = rng.normal(size=(2, 70)).astype("f"), rng.integers(0, 2**32, (2, 70), np.uint32)
    for kind in KINDS:
        for size in (3, 130, 2**15):  # the last one has blocks beyond 2**32
            made, expected = native.noise(KEY, 2**32 - 70, 70, size, kind), ref.noise(KEY, 2**32 - 70, 70, size, kind)
            assert_array_equal(bits(made), bits(expected))
        sums, expected_sums = (by.seedsum(keys, bases, weights, members, kind) for by in (native, ref))
        for total, wanted in zip(sums, expected_sums, strict=True):
            assert_array_equal(bits(total), bits(wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_may_be_made_in_pieces(kind: spec.Kind) -> None:
    library, members, values = native.library(), np.arange(50, dtype=np.uint32), np.full((50, 37), np.nan, np.float32)
    assert library is not None
    buffers = np.array([array.ctypes.data for array in (KEY, members, values)], np.uintp)
    scalars = native.noise_scalars(50, (37,), kind, centered=False)
    for begin, end in ((20, 50), (0, 1), (1, 20)):
        library.bb_noise(buffers.ctypes.data, scalars.ctypes.data, begin, end)
    assert_array_equal(bits(values), bits(ref.noise(KEY, 0, 50, 37, kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_programs_of_jax_get_the_same_bits(kind: spec.Kind) -> None:
    expected = ref.noise(KEY, 3, 40, 29, kind)
    assert_array_equal(bits(ffi.noise(jnp.asarray(KEY), 3, 40, 29, kind)), bits(expected))

    keys, members = jnp.stack([jnp.asarray(KEY), jnp.uint32([1, 2])]), jnp.uint32([9, 4, 4, 2**31])
    centered = ffi.centered_noise(keys, members, (29, 130), kind)
    shift = np.float32(0.5) if kind == "uniform" else np.float32(0.0)
    for stream, values in enumerate(centered):
        for row, member in enumerate(members.tolist()):
            whole = ref.noise(np.asarray(keys[stream]), member, 1, values.shape[1], kind)[0] - shift
            unit = np.float32(2**0.5) if kind == "binom8" else np.float32(1.0)
            got = np.asarray(values[row])
            if kind == "binom8":
                assert_array_equal(got, np.rint(whole * unit))
            else:
                assert_array_equal(bits(got), bits(whole))


def test_loops_maps_and_shards_get_the_same_bits() -> None:
    expected = ref.noise(KEY, 0, 24, 50, "normal")
    members = jnp.arange(24, dtype=jnp.uint32)

    def rows(members: jax.Array) -> jax.Array:
        return ffi.centered_noise(jnp.asarray(KEY)[None], members, (50,), "normal")[0]

    _, scanned = jax.lax.scan(lambda carry, part: (carry, rows(part)), 0, members.reshape(6, 4))
    mapped = jax.vmap(rows)(members.reshape(6, 4))
    mesh = jax.make_mesh((len(jax.devices()),), ("members",), axis_types=(jax.sharding.AxisType.Auto,))
    part = PartitionSpec("members")
    sharded = jax.jit(jax.shard_map(rows, mesh=mesh, in_specs=part, out_specs=part, check_vma=False))(members)
    for values in (scanned, mapped, sharded):
        assert_array_equal(bits(values).reshape(24, 50), bits(expected))


def test_a_large_call_shares_its_rows_among_threads() -> None:
    members = jnp.arange(5000, dtype=jnp.uint32)
    keys = jnp.stack([jnp.asarray(KEY)] * 2)
    call = jax.jit(partial(ffi.centered_noise, sizes=(40, 9), kind="normal"))
    first = [np.asarray(part) for part in call(keys, members)]
    for size, part in zip((40, 9), first, strict=True):
        assert_array_equal(bits(part), bits(ref.noise(KEY, 0, 5000, size, "normal")))
    for _ in range(20):
        for part, again in zip(first, call(keys, members), strict=True):
            assert_array_equal(bits(part), bits(again))


def test_strategies_get_the_same_numbers_however_they_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(impl: str) -> np.ndarray:
        monkeypatch.setenv("BLACKBOX_KERNELS", impl)
        dispatch.from_environment.cache_clear()
        return np.asarray(noise.noise("normal", KEY, 5, (40, 300), leaf=2, first=3, like=np.zeros(0, np.float32)))

    assert_array_equal(bits(asked("native")), bits(asked("ref")))
    assert_array_equal(bits(asked("auto")), bits(asked("ref")))


def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(bb.SettingError, match="impl must be one of auto, ref, xla, native, cuda, got 'fast'"):
        noise.noise("normal", KEY, 0, (1, 1), like=np.zeros(0), impl="fast")  # type: ignore[arg-type]
    monkeypatch.setenv("BLACKBOX_KERNELS", "fast")
    dispatch.from_environment.cache_clear()
    with pytest.raises(bb.SettingError, match=r"BLACKBOX_KERNELS must be one of .*, got 'fast'"):
        noise.noise("normal", KEY, 0, (1, 1), like=np.zeros(0))


WITHOUT = """
import warnings, numpy as np
import blackbox as bb
from blackbox.kernels import explain, noise, ref
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    made = [noise.noise("normal", noise.key(1), g, (50, 300), like=np.zeros(0, np.float32)) for g in (0, 1)]
    import jax.numpy as jnp
    traced = noise.noise("sign", noise.key(1), 0, (50, 3000), like=jnp.zeros(0))
notices = [str(warning.message) for warning in caught if "compiled code" in str(warning.message)]
assert len(notices) == 1, notices
print(notices[0])
for g, values in enumerate(made):
    assert (values == ref.noise(ref.fold(noise.key(1), g), 0, 50, 300)).all()
assert (np.asarray(traced) == ref.noise(ref.fold(noise.key(1), 0), 0, 50, 3000, "sign")).all()
try:
    noise.noise("normal", noise.key(1), 0, (50, 300), like=np.zeros(0), impl="native")
except bb.SettingError as error:
    print(error)
print(explain())
"""


@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        ("no-such-compiler", "no C++ compiler found ($CXX is"),
        ("broken", "the compiler said: error"),
    ],
)
def test_without_a_compiler_all_works_after_one_notice(compiler: str, said: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\nprintf "error: out of order \\351\\n" >&2\nexit 1\n')
    broken.chmod(0o755)
    chosen = str(broken) if compiler == "broken" else compiler
    environment = os.environ | {"CXX": chosen, "BLACKBOX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert f'impl="native" cannot be had here: {said}' in done.stdout
    assert f"NumPy itself, since nothing could be compiled: {said}" in done.stdout
    assert f"JAX: XLA, since nothing could be compiled: {said}" in done.stdout


def test_processes_that_build_at_once_all_get_the_library(tmp_path: Path) -> None:
    program = "from blackbox.kernels import native; assert native.library() is not None"
    environment = os.environ | {"BLACKBOX_CACHE": str(tmp_path)}
    started = [subprocess.Popen([sys.executable, "-W", "error", "-c", program], env=environment) for _ in range(3)]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]


def test_threads_that_need_a_library_at_once_wait_for_one_build(monkeypatch: pytest.MonkeyPatch) -> None:
    loads, loaded = [], native.library()

    def load(source: str, entries: object) -> tuple[object, str]:
        loads.append(source)
        time.sleep(0.1)
        return loaded, ""

    monkeypatch.setattr(native, "load", load)
    native._attempt.cache_clear()
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(native.attempt, ["noise", "seedsum"] * 4)) == [(loaded, "")] * 8
    assert loads == [native.LIBRARIES["noise"]]


def test_what_killed_builds_left_is_swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path))
    for name, age in (("build-old", 2 * 86400), ("build-running", 60), ("others", 2 * 86400)):
        (tmp_path / name / "part").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    made = native.kept("made.txt", lambda path: path.write_text("x" * 64) and None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build-running", made.name, "others"]


def test_a_library_in_the_cache_needs_no_compiler(tmp_path: Path) -> None:
    program = "from blackbox.kernels import native; assert native.library() is not None"
    for compiler in ("c++", "no-such-compiler"):
        environment = os.environ | {"BLACKBOX_CACHE": str(tmp_path), "CXX": compiler}
        subprocess.run([sys.executable, "-W", "error", "-c", program], env=environment, check=True)


@pytest.mark.parametrize("left", ["nothing", "a head", "half", "other bytes"])
def test_a_damaged_library_is_built_again(left: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = native.build("host/native.cpp")  # or taken from the cache of all tests
    whole = built.read_bytes()
    damaged = {"nothing": b"", "a head": whole[:40], "half": whole[: len(whole) // 2], "other bytes": b"x" * 100}[left]
    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path))
    (tmp_path / built.name).write_bytes(damaged)
    loaded, problem = native.load("host/native.cpp", native.entries_of("host/native.cpp"))
    assert (loaded is not None, problem) == (True, "")
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [(built.name, len(whole))]


def test_a_change_of_options_or_sources_is_another_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path))
    made = {native.build("host/native.cpp")}
    assert {native.build("host/native.cpp")} == made
    monkeypatch.setattr(native, "OPTIONS", (*native.OPTIONS, "-DOTHER"))
    made.add(native.build("host/native.cpp"))
    shutil.copytree(native.SOURCES, changed := tmp_path / "changed")
    (changed / "noise.cuh").write_text((changed / "noise.cuh").read_text() + "\n// more\n")
    monkeypatch.setattr(native, "SOURCES", changed)
    made.add(native.build("host/native.cpp"))
    assert len(made) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_members_far_out_are_the_same_without_compiled_code(kind: spec.Kind) -> None:
    first, size = 2**32 - 3, 2000  # block numbers beyond 32 bits
    expected = ref.noise(KEY, first, 2, size, kind)
    portable = np.asarray(xla.noise(jnp.asarray(KEY), jnp.uint32(first), 2, size, kind))
    if kind == "normal":
        np.testing.assert_allclose(portable, expected, atol=2e-6)
    else:
        assert_array_equal(portable, expected)


@pytest.mark.parametrize("operation", native.LIBRARIES)
def test_explain_names_what_computes_an_operation(operation: str) -> None:
    said = explain(operation)
    assert f"NumPy: compiled code ({native.build(native.LIBRARIES[operation])})" in said
    assert "JAX: on CPUs compiled code" in said
    assert ("up to 512 blocks" in said) == (operation != "rollout")
    with pytest.raises(bb.SettingError, match=r"operation must be one of noise, .*, got 'sum'"):
        explain("sum")


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("impl", ["auto", "ref", "native"])
def test_no_noise_is_an_empty_array(shape: tuple[int, int], impl: dispatch.Impl) -> None:
    for like in (np.zeros(0, np.float32), jnp.zeros(0)):
        assert noise.noise("normal", KEY, 0, shape, like=like, impl=impl).shape == shape
