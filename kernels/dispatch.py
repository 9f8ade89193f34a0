"""Which code computes an operation: compiled for this CPU, XLA's, or NumPy's."""

from __future__ import annotations

import os
import sys
from functools import cache
from types import ModuleType
from typing import Literal, get_args

from blackbox.errors import SettingError

from . import native, ref

Impl = Literal["auto", "ref", "xla", "native"]
"""``native`` is compiled code, or an error where it cannot be had; ``ref`` and ``xla`` are NumPy's and JAX's own
operations, without compiled code; ``auto`` takes compiled code where it pays and can be had."""

VARIABLE = "BLACKBOX_KERNELS"
_KNOWN = get_args(Impl)
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


def in_numpy(impl: Impl, blocks: int, source: str = native.MAIN) -> ModuleType:
    """The module that makes ``blocks`` blocks of noise for NumPy: ``native``, with a library, or ``ref``."""
    wanted = requested(impl)
    if wanted == "native":
        _demand(native.attempt(source)[1])
        return native
    return native if wanted == "auto" and blocks > _WORTHWHILE and native.library(source) is not None else ref


def in_jax(impl: Impl, blocks: int, kernel: str = "noise") -> ModuleType:
    """The module that makes ``blocks`` blocks of noise in JAX's programs: ``xla``, or ``ffi``, compiled for CPUs."""
    import jax

    from . import xla

    wanted = requested(impl)
    if wanted in ("ref", "xla"):
        return xla
    # Little noise stays with XLA, which fuses it and maps it over many runs.
    if wanted == "auto" and (blocks <= _WORTHWHILE or jax.default_backend() != "cpu"):
        return xla
    from . import ffi

    if wanted == "native":
        _demand(ffi.problem(kernel))
    return ffi if ffi.kernel(kernel) is not None else xla


def explain() -> str:
    """What computes noise in NumPy and in JAX's programs, and why; builds the compiled code if need be."""
    wanted = requested("auto")
    source = f"{VARIABLE}={wanted}" if VARIABLE in os.environ else f"{VARIABLE} is not set"
    lines = [f"{source}."]
    is_asked = wanted in ("auto", "native")
    few = "" if wanted == "native" else f"; up to {_WORTHWHILE} blocks of noise by {{}}, which is as fast"
    loaded, problem = native.attempt() if is_asked else (None, "")
    if loaded is not None:
        lines.append(f"NumPy: compiled code ({native.build('host/native.cpp')}){few.format('NumPy')}.")
    else:
        lines.append(f"NumPy: {_without(wanted, 'NumPy itself', problem)}.")
    if "jax" not in sys.modules:
        lines.append("JAX: not imported.")
        return "\n".join(lines)
    import jax

    from . import ffi

    if (backend := jax.default_backend()) != "cpu" and wanted != "native":
        lines.append(f"JAX: XLA, since it runs on {backend}.")
    elif is_asked and not (problem := ffi.problem()):
        lines.append(f"JAX: on CPUs compiled code, called by XLA's programs{few.format('XLA')}; elsewhere XLA.")
    else:
        lines.append(f"JAX: {_without(wanted, 'XLA', problem)}.")
    return "\n".join(lines)


def _without(wanted: str, instead: str, problem: str) -> str:
    if wanted == "native":
        return f"an error, since nothing could be compiled: {problem}"
    return f"{instead}, " + (f"since nothing could be compiled: {problem}" if problem else "as was asked for")


def _demand(problem: str) -> None:
    if problem:
        raise SettingError(f'impl="native" cannot be had here: {problem}')
