"""The kernels on NVIDIA GPUs inside JAX's programs: one target of XLA's foreign function interface for all of them.

The target (``csrc/host/launch_grid.cpp``, of host code only) looks a compiled text up by its name, source and hash,
loads it into the stream's context when it is first used, and launches a kernel of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version

import jax
import numpy as np
from jax import Array

from . import cuda, native
from .device import Launch, Shape

TARGET = "blackbox_launch_grid"
_ENTRIES = ("bb_register_text", "bb_register_simulator", "bb_launch_grid", "bb_launch_simulated")
_images: dict[str, bytes] = {}  # what is registered lives as long as the process


@cache
def launcher() -> tuple[ctypes.CDLL | None, str]:
    """The launcher, or None and why there is none."""
    loaded, problem = native.load("host/launch_grid.cpp", _ENTRIES, jax.ffi.include_dir(), version("jaxlib"))
    if loaded is not None:
        loaded.bb_register_text.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
        loaded.bb_register_text.restype = None
        loaded.bb_register_simulator.argtypes = (ctypes.c_void_p,)
        loaded.bb_register_simulator.restype = None
        jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(loaded.bb_launch_grid), platform="CUDA")
    return loaded, problem


@cache
def problem() -> str:
    """Why JAX's programs cannot launch kernels on a GPU here; empty if they can."""
    architectures = _architectures()
    if not architectures:
        return "JAX sees no CUDA GPU"
    if len(architectures) > 1:
        return f"JAX's GPUs must be of one architecture, and are of {', '.join(architectures)}"
    if reason := launcher()[1]:
        return reason
    try:
        registered("noise.cu")
    except native.PROBLEMS as error:
        return f"the kernels could not be compiled: {native.reason(error)}"
    return ""


def _architectures() -> list[str]:
    """Of JAX's GPUs in this process, such as ``"sm_90"``."""
    gpus = (device for device in jax.local_devices() if device.platform == "gpu")
    return sorted({f"sm_{gpu.compute_capability.replace('.', '')}" for gpu in gpus})


@cache
def registered(source: str) -> str:
    """The name under which the launcher has a text, compiled for JAX's GPUs."""
    path = cuda.compiled(source, *_architectures())
    _images[path.stem] = path.read_bytes()
    loaded, _ = launcher()
    assert loaded is not None  # problem() has said so
    loaded.bb_register_text(path.stem.encode(), _images[path.stem])
    return path.stem


def launch(call: Launch, inputs: Sequence[Array], outputs: Sequence[Shape]) -> tuple[Array, ...]:
    """Run a kernel in a program; a :data:`blackbox.kernels.device.Launcher`."""
    return launched(call, registered(call.source), inputs, outputs)


def launched(call: Launch, text: str, inputs: Sequence[Array], outputs: Sequence[Shape]) -> tuple[Array, ...]:
    """Run a kernel of a registered text in a program."""
    shapes = [jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for shape, dtype in outputs]
    values: tuple[Array, ...] = tuple(
        jax.ffi.ffi_call(TARGET, shapes, vmap_method="sequential")(
            *inputs,
            text=text,
            kernel=call.kernel,
            blocks=np.array(call.blocks, np.int64),
            threads=np.int64(call.threads),
            shared=np.int64(call.shared),
            scalars=np.array(call.scalars, np.int64),
        )
    )
    return values
