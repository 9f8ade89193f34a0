"""Which code computes an operation: compiled for this CPU, XLA's, or NumPy's."""

from __future__ import annotations

import os
import sys
from typing import Literal, get_args

from blackbox.errors import SettingError

from . import native

Impl = Literal["auto", "ref", "xla", "native"]
"""``native`` is compiled code, or an error where it cannot be had; ``ref`` and ``xla`` are NumPy's and JAX's own
operations, without compiled code; ``auto`` takes compiled code where it pays and can be had."""

VARIABLE = "BLACKBOX_KERNELS"
_WORTHWHILE = 512  # blocks: below, remembered windows of noise cost less than a call, and nothing need be compiled


def requested(impl: Impl) -> Impl:
    """``impl``, or for "auto" what the environment variable says.

    Raises:
        SettingError: neither is one of the names.
    """
    known = get_args(Impl)
    if impl not in known:
        raise SettingError(f"impl must be one of {', '.join(known)}, got {impl!r}")
    if impl != "auto":
        return impl
    named = os.environ.get(VARIABLE, "auto")
    if named not in known:
        raise SettingError(f"the environment variable {VARIABLE} must be one of {', '.join(known)}, got {named!r}")
    return named  # type: ignore[return-value]


def in_numpy(impl: Impl, blocks: int) -> Literal["ref", "native"]:
    """What makes ``blocks`` blocks of noise for NumPy."""
    wanted = requested(impl)
    if wanted == "native":
        _demand(native.library() is not None)
        return "native"
    is_native = wanted == "auto" and blocks > _WORTHWHILE and native.library() is not None
    return "native" if is_native else "ref"


def in_jax(impl: Impl) -> Literal["xla", "native"]:
    """What makes noise in JAX's programs; on other devices than CPUs it is XLA in any case."""
    import jax

    wanted = requested(impl)
    if wanted in ("ref", "xla") or (wanted == "auto" and jax.default_backend() != "cpu"):
        return "xla"
    from . import ffi

    is_compiled = ffi.kernel("noise") is not None
    if wanted == "native":
        _demand(is_compiled)
    return "native" if is_compiled else "xla"


def explain() -> str:
    """What computes noise in NumPy and in JAX's programs, and why; builds the compiled code if need be."""
    wanted = requested("auto")
    source = f"{VARIABLE}={wanted}" if VARIABLE in os.environ else f"{VARIABLE} is not set"
    lines = [f"{source}."]
    if in_numpy("auto", _WORTHWHILE + 1) == "native":
        where = f"compiled code ({native.build('host/native.cpp')})"
        few = "" if wanted == "native" else f"; up to {_WORTHWHILE} blocks of noise by NumPy, which is as fast"
        lines.append(f"NumPy: {where}{few}.")
    else:
        lines.append(f"NumPy: NumPy itself, {_why(wanted)}.")
    if "jax" not in sys.modules:
        lines.append("JAX: not imported.")
    elif in_jax("auto") == "native":
        lines.append("JAX on a CPU: compiled code, called by XLA's programs. On other devices: XLA.")
    else:
        import jax

        is_cpu = jax.default_backend() == "cpu"
        lines.append(f"JAX: XLA, {_why(wanted) if is_cpu else f'since it runs on {jax.default_backend()}'}.")
    return "\n".join(lines)


def _why(wanted: str) -> str:
    return "since nothing could be compiled" if wanted == "auto" else "as was asked for"


def _demand(is_there: bool) -> None:
    if not is_there:
        raise SettingError('impl="native" needs a C++ compiler: g++ or clang++, or the one that $CXX names')
