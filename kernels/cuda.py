"""The kernels on NVIDIA GPUs: compiled when they are first needed, kept, and launched on CuPy's current stream.

A text of ``csrc/*.cu`` becomes a cubin for one architecture by NVRTC, which comes with CuPy, or by nvcc where that
fails. It is named by a hash of the texts, the options and the compiler, and lies beside the libraries for CPUs
(:mod:`blackbox.kernels.native`). JAX's programs launch the same cubins by :mod:`blackbox.kernels.grids`.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blackbox.arrays import Array
from blackbox.errors import SettingError

from . import device, native, spec
from .device import Launch, Shape, addressed

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32

    from .finish import Activation, DType

OPTIONS = ("-std=c++17", "-fmad=false")


@cache
def problem() -> str:
    """Why CuPy cannot launch kernels here; empty if it can."""
    try:
        import cupy
    except ImportError as error:
        return f"CuPy cannot be imported ({error}); pip install 'blackbox-engine[cuda]'"
    if not cupy.cuda.is_available():
        return "there is no CUDA GPU that CuPy can use"
    try:
        compiled("noise.cu", architecture())
    except native.PROBLEMS as error:
        return f"the kernels could not be compiled: {native.reason(error)}"
    return ""


def architecture() -> str:
    """Of CuPy's current device, such as ``"sm_90"``."""
    import cupy

    return f"sm_{cupy.cuda.Device().compute_capability}"


def compiled(source: str, architecture: str) -> Path:
    """The cubin of ``csrc/source``, compiled if it is not in the cache.

    Raises:
        OSError: if there is neither NVRTC nor nvcc, or no place to write.
        RuntimeError: if the text does not compile, or there is no home folder.
        subprocess.SubprocessError: likewise, by nvcc.
    """
    compiler, version = _compiler()
    digest = hashlib.sha256(repr((source, OPTIONS, architecture, version)).encode())
    for name, text in _texts().items():
        digest.update(name.encode() + text.encode())
    name = f"{Path(source).stem}-{architecture}-{digest.hexdigest()[:20]}.cubin"
    return native.kept(name, lambda made: compiler(source, architecture, made))


def _texts() -> dict[str, str]:
    paths = sorted(path for path in native.SOURCES.iterdir() if path.suffix in (".h", ".cuh", ".cu"))
    return {path.name: path.read_text() for path in paths}


@cache
def _compiler() -> tuple[Any, str]:
    """What compiles a text into a file, and its version."""
    try:
        from cupy.cuda import nvrtc

        return _by_nvrtc, f"nvrtc {nvrtc.getVersion()}"
    except (ImportError, OSError, RuntimeError) as error:  # CuPy raises what its lazy loading of a library raises
        if (nvcc := shutil.which("nvcc")) is None:
            raise OSError(f"neither NVRTC nor nvcc can be had: {error}") from error
        said = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
        return _by_nvcc, f"nvcc {said}"


def _by_nvrtc(source: str, architecture: str, made: Path) -> None:
    from cupy.cuda import nvrtc

    texts = _texts()
    headers = {name: text for name, text in texts.items() if not name.endswith(".cu")}
    program = nvrtc.createProgram(
        texts[source], source, [text.encode() for text in headers.values()], [name.encode() for name in headers]
    )
    try:
        nvrtc.compileProgram(program, [*OPTIONS, f"-arch={architecture}"])
        made.write_bytes(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"{error}: {nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)


def _by_nvcc(source: str, architecture: str, made: Path) -> None:
    command = ["nvcc", *OPTIONS, f"-arch={architecture}", "-cubin", str(native.SOURCES / source), "-o", str(made)]
    subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=300)


def launch(call: Launch, inputs: Sequence[Array], outputs: Sequence[Shape]) -> tuple[Array, ...]:
    """Run a kernel where the inputs are, on CuPy's current stream; a :data:`blackbox.kernels.device.Launcher`.

    Raises:
        SettingError: if a block needs more shared memory than this GPU has.
    """
    import cupy

    with inputs[0].device as place:
        inputs = [cupy.ascontiguousarray(array) for array in inputs]
        made = tuple(cupy.empty(shape, dtype) for shape, dtype in outputs)
        if all(array.size for array in made):
            kernel = _function(call.source, call.kernel, place.id)
            if call.shared > (most := place.attributes["MaxSharedMemoryPerBlockOptin"]):
                raise SettingError(
                    f"a block of {call.kernel} needs {call.shared} bytes of shared memory, and this GPU has {most}"
                )
            if call.shared > kernel.max_dynamic_shared_size_bytes:  # never lowered: another thread may launch it, too
                kernel.max_dynamic_shared_size_bytes = call.shared
            argument = addressed([array.data.ptr for array in (*inputs, *made)], call.scalars)
            by_value = argument.view(f"V{argument.nbytes}")  # one value to CuPy, which passes it as it is
            kernel((*call.blocks, 1), (call.threads,), (by_value,), shared_mem=call.shared)
    return made


@cache
def _function(source: str, kernel: str, device_number: int) -> Any:
    import cupy

    cubin = compiled(source, architecture())
    try:
        return cupy.RawModule(path=str(cubin)).get_function(kernel)
    except cupy.cuda.driver.CUDADriverError:  # damaged in the cache: once more
        cubin.unlink()
        return cupy.RawModule(path=str(compiled(source, architecture()))).get_function(kernel)


def noise(
    key: UInt32[Array, "2"], first: int, members: int, size: int, kind: spec.Kind = "normal"
) -> Float[Array, "members size"]:
    """Noise of members ``first`` to ``first + members - 1`` of one stream, a CuPy array."""
    import cupy

    numbers = cupy.arange(first, first + members, dtype=cupy.uint32)
    keys = cupy.asarray(key, cupy.uint32)[None]
    values: Array = device.centered_noise(launch, keys, numbers, (size,), kind, centered=False)[0]
    return values


def seedsum(
    keys: UInt32[Array, "streams 2"],
    bases: Sequence[Float[Array, "#sums size"]],
    weights: Float[Array, "sums terms"],
    members: UInt32[Array, "sums terms"],
    kind: spec.Kind = "normal",
    chunk: int = spec.SUM_CHUNK,
) -> tuple[Float[Array, "sums size"], ...]:
    """What :func:`blackbox.kernels.ref.seedsum` computes, of CuPy arrays."""
    import cupy

    floats = [cupy.asarray(base, cupy.float32) for base in bases]
    words = (cupy.asarray(array, cupy.uint32) for array in (keys, members))
    keys, members = words
    return device.seedsum(launch, keys, floats, cupy.asarray(weights, cupy.float32), members, kind, chunk)


rollout = partial(device.rollout, launch)
lowrank_factors = partial(device.lowrank_factors, launch)


def lowrank_mix(
    x: Float[Array, "#n rows m"],
    y: Float[Array, "#n rows k"],
    source: UInt32[Array, "n 6"],
    size: int,
    rank: int,
    kind: spec.Kind = "normal",
    bias: Float[Array, "#n k"] | None = None,
    activation: Activation = None,
    dtype: DType = "float32",
) -> Float[Array, "n rows k"]:
    """``activation(mixed + bias)``, where the first is what :func:`blackbox.kernels.ref.lowrank_mix` computes, of CuPy
    arrays."""
    import cupy

    x, y = (cupy.asarray(array, cupy.float32) for array in (x, y))
    bias = None if bias is None else cupy.asarray(bias, cupy.float32)
    source = cupy.asarray(source, cupy.uint32)
    return device.lowrank_mix(launch, x, y, source, size, rank, kind, bias, activation, dtype)
