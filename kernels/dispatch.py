"""Which code computes an operation: compiled for this CPU or for a GPU, XLA's, or NumPy's."""

from __future__ import annotations

import os
import sys
from functools import cache
from types import ModuleType
from typing import Any, Literal, get_args

from blackbox.arrays import is_cupy
from blackbox.errors import SettingError

from . import native, ref

Impl = Literal["auto", "ref", "xla", "native", "cuda"]
"""``native`` is code compiled for this CPU and ``cuda`` for an NVIDIA GPU, or an error where that cannot be had;
``ref`` and ``xla`` are NumPy's and JAX's own operations, without compiled code; ``auto`` takes compiled code where it
pays and can be had, and XLA on JAX's GPUs, where the kernels have not been measured yet."""

VARIABLE = "BLACKBOX_KERNELS"
_KNOWN = get_args(Impl)
ALWAYS = sys.maxsize  # blocks: compiled code is worth its call
_WORTHWHILE = 512  # blocks: below, remembered windows of noise cost less than a call, and nothing need be compiled


def requested(impl: Impl) -> Impl:
    """``impl``, or for "auto" what the environment variable says.

    Raises:
        SettingError: neither is one of the names.
    """
    if impl not in _KNOWN:
        raise SettingError(f"impl must be one of {', '.join(_KNOWN)}, got {impl!r}")
    return from_environment() if impl == "auto" else impl


@cache
def from_environment() -> Impl:
    """What the environment variable said when it was first needed."""
    named = os.environ.get(VARIABLE, "auto")
    if named not in _KNOWN:
        raise SettingError(f"the environment variable {VARIABLE} must be one of {', '.join(_KNOWN)}, got {named!r}")
    return named  # type: ignore[return-value]


def of_arrays(array: Any, impl: Impl, blocks: int, operation: str = "noise") -> ModuleType:
    """The module that makes ``blocks`` blocks of noise, or computes an operation, for CuPy's arrays or for NumPy's.

    ``cuda`` takes arrays of CuPy, ``native`` and ``ref`` take NumPy's, also if ``array`` is CuPy's.
    """
    if not is_cupy(array):
        return in_numpy(impl, blocks, operation)
    from . import cuda

    wanted = requested(impl)
    if wanted == "cuda":
        _demand(wanted, cuda.problem())
    if wanted in ("auto", "cuda"):
        if not (problem := cuda.problem()):
            return cuda
        native.warn_once(f"kernels run on the CPU for arrays of CuPy, which are copied to and fro: {problem}")
    return in_numpy(impl, blocks, operation)


def in_numpy(impl: Impl, blocks: int, operation: str = "noise") -> ModuleType:
    """The module that makes ``blocks`` blocks of noise for NumPy, or computes an operation: ``native`` or ``ref``."""
    wanted = requested(impl)
    if impl == "cuda":
        _demand(wanted, "it takes arrays of JAX or CuPy, and these are NumPy's")
    if wanted == "native":
        _demand(wanted, native.attempt(operation)[1])
        return native
    is_asked = wanted in ("auto", "cuda")  # the latter by the environment, which also holds for JAX's and CuPy's arrays
    return native if is_asked and blocks > _WORTHWHILE and native.library(operation) is not None else ref


def in_jax(impl: Impl, blocks: int, operation: str = "noise") -> ModuleType:
    """The same in JAX's programs: ``xla``, or ``ffi`` for compiled code."""
    import jax

    from . import xla

    wanted, backend = requested(impl), jax.default_backend()
    if wanted in ("ref", "xla"):
        return xla
    # Little noise stays with XLA, which fuses it.
    if wanted == "auto" and (blocks <= _WORTHWHILE or backend != "cpu"):
        return xla
    from . import ffi, grids

    if wanted == "native":
        _demand(wanted, _not_on_cpu(backend) or ffi.problem(operation))
    if wanted == "cuda":
        _demand(wanted, grids.problem())
        return ffi
    return ffi if ffi.kernel(operation) is not None else xla


def explain(operation: str = "noise") -> str:
    """What computes an operation for NumPy, JAX and CuPy, and why; builds the compiled code if need be.

    Args:
        operation: "noise", "noise_of_runs", "seedsum", "lowrank_mix", "lowrank_factors" or "rollout".

    Raises:
        SettingError: an operation that is unknown.
    """
    if operation not in native.LIBRARIES:
        raise SettingError(f"operation must be one of {', '.join(native.LIBRARIES)}, got {operation!r}")
    wanted = requested("auto")
    source = f"{VARIABLE}={wanted}" if VARIABLE in os.environ else f"{VARIABLE} is not set"
    few = f"; up to {_WORTHWHILE} blocks of noise by {{}}, which is as fast"
    if wanted == "native" or operation == "rollout":
        few = ""
    lines = [f"{source}.", f"NumPy: {_explain_numpy(wanted, operation, few)}."]
    lines.append(f"JAX: {_explain_jax(wanted, operation, few)}." if "jax" in sys.modules else "JAX: not imported.")
    if "cupy" in sys.modules:
        from . import cuda

        problem = cuda.problem() if wanted in ("auto", "cuda") else ""
        on_gpu = wanted in ("auto", "cuda") and not problem
        lines.append("CuPy: kernels on the GPU." if on_gpu else f"CuPy: {_without(wanted, 'as NumPy', problem)}.")
    return "\n".join(lines)


def _explain_numpy(wanted: Impl, operation: str, few: str) -> str:
    if wanted in ("ref", "xla"):
        return _without(wanted, "NumPy itself", "")
    loaded, problem = native.attempt(operation)
    if loaded is None:
        return _without("auto" if wanted == "cuda" else wanted, "NumPy itself", problem)
    return f"compiled code ({native.build(native.LIBRARIES[operation])}){few.format('NumPy')}"


def _explain_jax(wanted: Impl, operation: str, few: str) -> str:
    import jax

    from . import ffi, grids

    if wanted == "cuda":
        return _without(wanted, "", problem) if (problem := grids.problem()) else "kernels on the GPU"
    if wanted in ("ref", "xla"):
        return _without(wanted, "XLA", "")
    backend = jax.default_backend()
    if wanted == "native" and backend != "cpu":
        return _without(wanted, "", _not_on_cpu(backend))
    if backend != "cpu":
        return f'XLA, since it runs on {backend}; impl="cuda" takes kernels there'
    if problem := ffi.problem(operation):
        return _without(wanted, "XLA", problem)
    return f"on CPUs compiled code, called by XLA's programs{few.format('XLA')}; elsewhere XLA"


def _not_on_cpu(backend: str) -> str:
    return "" if backend == "cpu" else f"it is for CPUs, and JAX runs on {backend}"


def _without(wanted: Impl, instead: str, problem: str) -> str:
    if wanted in ("native", "cuda") and problem:
        return f"an error: {problem}"
    return f"{instead}, " + (f"since nothing could be compiled: {problem}" if problem else "as was asked for")


def _demand(wanted: Impl, problem: str) -> None:
    if problem:
        raise SettingError(f'impl="{wanted}" cannot be had here: {problem}')
