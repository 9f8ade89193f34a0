"""Compiled kernels inside JAX's programs: one target of XLA's foreign function interface for all of them.

The target (``csrc/host/launch.cpp``, of host code only) looks a kernel up by its name and the hash of its sources, and
shares its rows among XLA's threads. It works under jit, scan, cond and ``shard_map``; under ``vmap`` calls follow one
another.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from . import native, spec, xla

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32

_TARGET = "blackbox_launch"


@cache
def kernel(name: str) -> str | None:
    """The registered name of a kernel for this CPU; None, after one warning, where none can be built."""
    if (library := native.library()) is None or (launcher := _launcher()) is None:
        return None
    registered = f"{name}:{native.build('host/native.cpp').stem}"
    launcher.bb_register(registered.encode(), ctypes.cast(getattr(library, f"bb_{name}"), ctypes.c_void_p))
    return registered


@cache
def _launcher() -> ctypes.CDLL | None:
    try:
        launcher = ctypes.CDLL(str(native.build("host/launch.cpp", [jax.ffi.include_dir()])))
    except native.PROBLEMS as error:
        warnings.warn(
            f"kernels run without compiled code in JAX, noise takes 1.5 to 4 times as long: {native.reason(error)}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    launcher.bb_register.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
    launcher.bb_register.restype = None
    jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(launcher.bb_launch), platform="cpu")
    return launcher


@partial(jax.jit, static_argnames=("sizes", "kind"))
def centered_noise(
    keys: UInt32[Array, "streams 2"], members: UInt32[Array, "n"], sizes: tuple[int, ...], kind: spec.Kind = "normal"
) -> tuple[Float[Array, "n size"], ...]:
    """What :func:`blackbox.kernels.xla.centered_noise` makes; compiled code where the program runs on a CPU."""
    portable = partial(xla.centered_noise, sizes=sizes, kind=kind)
    values: tuple[Array, ...] = jax.lax.platform_dependent(
        jnp.asarray(keys, jnp.uint32),
        members.astype(jnp.uint32),
        cpu=partial(_noise, sizes=sizes, kind=kind, centered=True),
        default=portable,
    )
    return values


@partial(jax.jit, static_argnames=("members", "size", "kind"))
def noise(
    key: UInt32[Array, "2"], first: Array | int, members: int, size: int, kind: spec.Kind = "normal"
) -> Float[Array, "members size"]:
    """What :func:`blackbox.kernels.xla.noise` makes; compiled code where the program runs on a CPU."""

    def compiled(key: Array, first: Array) -> Array:
        numbers = first + jax.lax.iota(jnp.uint32, members)
        return _noise(key[None], numbers, sizes=(size,), kind=kind, centered=False)[0]

    values: Array = jax.lax.platform_dependent(
        jnp.asarray(key, jnp.uint32),
        jnp.asarray(first).astype(jnp.uint32),
        cpu=compiled,
        default=partial(xla.noise, members=members, size=size, kind=kind),
    )
    return values


@partial(jax.jit, static_argnames=("kind", "chunk"))
def seedsum(
    keys: UInt32[Array, "streams 2"],
    bases: Sequence[Float[Array, "#sums size"]],
    weights: Float[Array, "sums terms"],
    members: UInt32[Array, "sums terms"],
    kind: spec.Kind = "normal",
    chunk: int = spec.SUM_CHUNK,
) -> tuple[Float[Array, "sums size"], ...]:
    """What :func:`blackbox.kernels.ref.seedsum` computes; compiled code where the program runs on a CPU."""

    def compiled(keys: Array, bases: Sequence[Array], weights: Array, members: Array) -> tuple[Array, ...]:
        scalars = native.seedsum_scalars([base.shape for base in bases], weights.shape, kind, chunk)
        shapes = [jax.ShapeDtypeStruct((weights.shape[0], base.shape[1]), jnp.float32) for base in bases]
        call = jax.ffi.ffi_call(_TARGET, shapes, vmap_method="sequential")
        return tuple(call(keys, weights, members, *bases, kernel=kernel("seedsum"), scalars=scalars))

    values: tuple[Array, ...] = jax.lax.platform_dependent(
        jnp.asarray(keys, jnp.uint32),
        [jnp.asarray(base, jnp.float32) for base in bases],
        jnp.asarray(weights, jnp.float32),
        members.astype(jnp.uint32),
        cpu=compiled,
        default=partial(xla.seedsum, kind=kind, chunk=chunk),
    )
    return values


def _noise(
    keys: UInt32[Array, "streams 2"],
    members: UInt32[Array, "n"],
    *,
    sizes: tuple[int, ...],
    kind: spec.Kind,
    centered: bool,
) -> tuple[Float[Array, "n size"], ...]:
    rows = members.shape[0]
    call = jax.ffi.ffi_call(
        _TARGET, [jax.ShapeDtypeStruct((rows, size), jnp.float32) for size in sizes], vmap_method="sequential"
    )
    scalars = native.noise_scalars(rows, sizes, kind, centered=centered)
    values: tuple[Array, ...] = tuple(call(keys, members, kernel=kernel("noise"), scalars=scalars))
    return values
