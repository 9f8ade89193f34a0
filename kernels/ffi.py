"""Compiled kernels inside JAX's programs, on CPUs and, where there is one that JAX uses, on a GPU.

On CPUs one target of XLA's foreign function interface serves all of them: it (``csrc/host/launch.cpp``, of host code
only) looks a kernel up by its name and the hash of its sources, and shares its rows among XLA's threads; for GPUs see
:mod:`blackbox.kernels.grids`. Both work under jit, scan, cond and ``shard_map``; under ``vmap`` calls follow one
another, but those of :func:`lowrank_mix` become one, and for :func:`noise_of_runs` there is
:func:`blackbox.kernels.noise.noise`. Where jit divides work among devices by itself, each of them makes
the noise of its own runs (:func:`noise_of_runs`), and all of any other noise: for that there is ``shard_map``, as
:func:`blackbox.evaluate` has it. Programs with such calls cannot be exported.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from . import device, grids, native, spec, xla
from .finish import Activation, DType, finished

if TYPE_CHECKING:
    from jaxtyping import Float, Int8, Int32, UInt32

    from .weights import Arrays, Setting

_TARGET = "blackbox_launch"
_WORTHWHILE = 2**14  # values of noise that are worth a thread


@cache
def kernel(operation: str) -> str | None:
    """The registered name of a kernel for this CPU; None, after one warning, where none can be built."""
    if (library := native.library(operation)) is None:
        return None
    launcher, problem = _launcher()
    if launcher is None:
        slower = "rollouts take 5 to 90 times" if operation == "rollout" else "noise takes 1.5 to 4 times"
        said = f"kernels run without compiled code in JAX, {slower} as long: {problem}"
        native.warn_once(said, about=native.WITHOUT_COMPILED)
        return None
    registered = f"{operation}:{native.build(native.LIBRARIES[operation]).stem}"
    launcher.bb_register(registered.encode(), ctypes.cast(getattr(library, f"bb_{operation}"), ctypes.c_void_p))
    return registered


@cache
def _launcher() -> tuple[ctypes.CDLL | None, str]:
    entries = ("bb_register", "bb_launch")
    launcher, problem = native.load("host/launch.cpp", entries, jax.ffi.include_dir(), version("jaxlib"))
    if launcher is not None:
        launcher.bb_register.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
        launcher.bb_register.restype = None
        jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(launcher.bb_launch), platform="cpu")
    return launcher, problem


def problem(operation: str = "noise") -> str:
    """Why there are no compiled kernels for JAX; empty if there are."""
    return native.attempt(operation)[1] or _launcher()[1]


def by_platform(
    *arrays: Any,
    cpu: Callable[..., Any],
    cuda: Callable[..., Any],
    default: Callable[..., Any],
    operation: str = "noise",
) -> Any:
    """What a program computes on the platform that it is lowered for: with compiled code where there is some for it."""
    compiled = {} if kernel(operation) is None else {"cpu": cpu}
    if not grids.problem():
        compiled["cuda"] = cuda
    return jax.lax.platform_dependent(*arrays, default=default, **compiled)


def _launch(
    name: str,
    shapes: Sequence[Any],
    inputs: Sequence[Array],
    scalars: np.ndarray,
    work: int,
    aliases: dict[int, int] | None = None,
) -> tuple[Array, ...]:
    """Call a kernel whose rows each take ``work`` values of noise; ``aliases``: of inputs that outputs may replace."""
    call = jax.ffi.ffi_call(_TARGET, list(shapes), vmap_method="sequential", input_output_aliases=aliases)
    # A piece of less than this costs more to hand to a thread than to work on.
    least = np.int64(max(1, _WORTHWHILE // max(1, work)))
    values: tuple[Array, ...] = tuple(call(*inputs, kernel=kernel(name), scalars=scalars, least=least))
    return values


@partial(jax.jit, static_argnames=("sizes", "kind"))
def centered_noise(
    keys: UInt32[Array, "streams 2"], members: UInt32[Array, "n"], sizes: tuple[int, ...], kind: spec.Kind = "normal"
) -> tuple[Float[Array, "n size"], ...]:
    """What :func:`blackbox.kernels.xla.centered_noise` makes, by compiled code."""
    values: tuple[Array, ...] = by_platform(
        jnp.asarray(keys, jnp.uint32),
        members.astype(jnp.uint32),
        cpu=partial(_noise, sizes=sizes, kind=kind, centered=True),
        cuda=partial(device.centered_noise, grids.launch, sizes=sizes, kind=kind),
        default=partial(xla.centered_noise, sizes=sizes, kind=kind),
    )
    return values


@partial(jax.jit, static_argnames="sizes")
def signs(
    keys: UInt32[Array, "streams 2"], members: UInt32[Array, "n"], sizes: tuple[int, ...]
) -> tuple[Int8[Array, "n size"], ...]:
    """What :func:`blackbox.kernels.xla.signs` makes, by compiled code."""

    def compiled(keys: Array, members: Array) -> tuple[Array, ...]:
        rows = members.shape[0]
        shapes = [jax.ShapeDtypeStruct((rows, size), jnp.int8) for size in sizes]
        return _launch("noise", shapes, (keys, members), native.sign_scalars(rows, sizes), sum(sizes))

    values: tuple[Array, ...] = by_platform(
        jnp.asarray(keys, jnp.uint32),
        members.astype(jnp.uint32),
        cpu=compiled,
        cuda=partial(device.signs, grids.launch, sizes=sizes),
        default=partial(xla.signs, sizes=sizes),
    )
    return values


@partial(jax.jit, static_argnames=("members", "size", "kind"))
def noise(
    key: UInt32[Array, "2"], first: Array | int, members: int, size: int, kind: spec.Kind = "normal"
) -> Float[Array, "members size"]:
    """What :func:`blackbox.kernels.xla.noise` makes, by compiled code."""

    def compiled(make: Callable[..., tuple[Array, ...]], key: Array, first: Array) -> Array:
        numbers = first + jax.lax.iota(jnp.uint32, members)
        return make(key[None], numbers, sizes=(size,), kind=kind, centered=False)[0]

    values: Array = by_platform(
        jnp.asarray(key, jnp.uint32),
        jnp.asarray(first).astype(jnp.uint32),
        cpu=partial(compiled, _noise),
        cuda=partial(compiled, partial(device.centered_noise, grids.launch)),
        default=partial(xla.noise, members=members, size=size, kind=kind),
    )
    return values


@partial(jax.jit, static_argnames=("leaf", "members", "size", "kind"))
def noise_of_runs(
    keys: UInt32[Array, "runs 2"],
    generations: UInt32[Array, "runs"],
    first: UInt32[Array, "runs"],
    leaf: int,
    members: int,
    size: int,
    kind: spec.Kind = "normal",
) -> Float[Array, "runs members size"]:
    """What :func:`blackbox.kernels.xla.noise_of_runs` makes, by compiled code on CPUs."""

    def compiled(*arrays: Array) -> Array:
        runs = arrays[0].shape[0]
        scalars = native.noise_of_runs_scalars(runs, leaf, members, size, kind)
        shape = jax.ShapeDtypeStruct((runs * members, size), jnp.float32)
        return _launch("noise_of_runs", [shape], arrays, scalars, size)[0].reshape(runs, members, size)

    portable = partial(xla.noise_of_runs, leaf=leaf, members=members, size=size, kind=kind)

    def chosen(*arrays: Array) -> Array:
        return by_platform(*arrays, cpu=compiled, cuda=portable, default=portable, operation="noise_of_runs")

    arrays = (jnp.asarray(array).astype(jnp.uint32) for array in (keys, generations, first))
    values: Array = _by_runs(chosen)(*arrays)
    return values


def _by_runs(made: Callable[..., Array]) -> Callable[..., Array]:
    """``made`` of arrays with a first axis of runs, so that over a mesh each device makes what is of its own runs."""
    partitioned = custom_partitioning(made)

    def partition(mesh: Any, arguments: Any, result: Any) -> tuple[Any, ...]:
        runs = next(iter(result.sharding.spec), None)  # whatever else is divided there is gathered first

        def by_runs(*rest: None) -> NamedSharding:
            return NamedSharding(mesh, PartitionSpec(runs, *rest))

        return mesh, made, by_runs(None, None), (by_runs(None), by_runs(), by_runs())

    partitioned.def_partition(partition, sharding_rule="r k, r, r -> r m s", need_replication_factors=("k", "m", "s"))
    whole: Callable[..., Array] = partitioned
    return whole


@partial(jax.jit, static_argnames=("kind", "chunk"))
def seedsum(
    keys: UInt32[Array, "streams 2"],
    bases: Sequence[Float[Array, "#sums size"]],
    weights: Float[Array, "sums terms"],
    members: UInt32[Array, "sums terms"],
    kind: spec.Kind = "normal",
    chunk: int = spec.SUM_CHUNK,
) -> tuple[Float[Array, "sums size"], ...]:
    """What :func:`blackbox.kernels.ref.seedsum` computes, by compiled code."""
    whole = [jnp.asarray(base, jnp.float32) for base in bases]
    f = jnp.asarray(weights, jnp.float32)
    return _seedsum(kind, chunk, jnp.asarray(keys, jnp.uint32), members.astype(jnp.uint32), whole, f)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _seedsum(
    kind: spec.Kind, chunk: int, keys: Array, members: Array, bases: list[Array], weights: Array
) -> tuple[Array, ...]:
    def compiled(keys: Array, members: Array, bases: list[Array], weights: Array) -> tuple[Array, ...]:
        scalars = native.seedsum_scalars([base.shape for base in bases], weights.shape, kind, chunk)
        shapes = [jax.ShapeDtypeStruct((weights.shape[0], base.shape[1]), jnp.float32) for base in bases]
        work = native.LANES * spec.VALUES_PER_BLOCK[kind] * weights.shape[1]
        return _launch("seedsum", shapes, (keys, weights, members, *bases), scalars, work)

    def on_gpu(keys: Array, members: Array, bases: list[Array], weights: Array) -> tuple[Array, ...]:
        return device.seedsum(grids.launch, keys, bases, weights, members, kind, chunk)

    def portable(keys: Array, members: Array, bases: list[Array], weights: Array) -> tuple[Array, ...]:
        return xla.seedsum(keys, bases, weights, members, kind, chunk)

    values: tuple[Array, ...] = by_platform(keys, members, bases, weights, cpu=compiled, cuda=on_gpu, default=portable)
    return values


@_seedsum.defjvp
def _seedsum_jvp(
    kind: spec.Kind, chunk: int, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Sums are linear in bases and weights."""
    keys, members, bases, weights = primals
    _, _, more_bases, more_weights = tangents
    changes = xla.seedsum(keys, more_bases, more_weights, members, kind, chunk)
    return _seedsum(kind, chunk, keys, members, bases, weights), changes


@partial(jax.jit, static_argnames="setting")
def rollout(
    setting: Setting, arrays: Arrays, starts: Float[Array, "episodes state"]
) -> tuple[Float[Array, "n episodes"], Int32[Array, "n episodes"]]:
    """What :func:`blackbox.kernels.ref.rollout` computes, by compiled code."""

    def compiled(arrays: Arrays, starts: Array) -> tuple[Array, ...]:
        shape = arrays.factors.shape[0], starts.shape[0]
        shapes = [jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.float32, jnp.int32)]
        scalars = native.rollout_scalars(setting, arrays.base.shape, arrays.factors.shape, starts.shape[0])
        # A member's episodes are worth a thread if they fill its lanes.
        return _launch("rollout", shapes, (*arrays, starts), scalars, _WORTHWHILE * shape[1] // native.LANES)

    returns, lengths = by_platform(
        arrays, starts,
        cpu=compiled,
        cuda=partial(device.rollout, grids.launch, setting),
        default=partial(xla.rollout, setting),
        operation="rollout",
    )  # fmt: skip
    return returns, lengths


class _Mix(NamedTuple):
    """What is static of a product with noise of low rank."""

    size: int
    rank: int
    kind: spec.Kind
    activation: Activation
    dtype: DType


@partial(jax.jit, static_argnames=("size", "rank", "kind", "activation", "dtype"))
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
    """``activation(mixed + bias)``, where the first is what :func:`blackbox.kernels.ref.lowrank_mix` computes, by
    compiled code.

    On GPUs x in bfloat16 is read, and such a result is written, as it is. Under ``vmap`` one call of all members.
    """
    x = x if x.dtype == jnp.bfloat16 else jnp.asarray(x, jnp.float32)
    given = () if bias is None else (jnp.asarray(bias, jnp.float32),)
    return _mixed(_Mix(size, rank, kind, activation, dtype), x, jnp.asarray(y, jnp.float32), source, given)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _mixed(setting: _Mix, x: Array, y: Array, source: Array, bias: tuple[Array, ...]) -> Array:
    return _mix_of_members(setting)(x, y, source, *bias)


@_mixed.defjvp
def _mixed_jvp(setting: _Mix, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    """It is linear in x, y and the bias, but for the activation."""
    x, y, _, bias = tangents
    change = xla.lowrank_mix(x.astype(jnp.float32), y, primals[2], setting.size, setting.rank, setting.kind)
    change = finished(change, bias[0] if bias else None, None, "float32")
    out = _mixed(setting, *primals)
    if setting.activation == "relu":
        change = jnp.where(out > 0, change, 0)
    elif setting.activation == "tanh":
        change = change * (1 - out.astype(jnp.float32) ** 2)
    return out, change.astype(out.dtype)


@cache
def _mix_of_members(setting: _Mix) -> Any:
    size, rank, kind, activation, dtype = setting

    def compiled(x: Array, y: Array, source: Array, bias: Array | None = None) -> Array:
        members = source.shape[0]
        scalars = native.lowrank_mix_scalars(members, x.shape, y.shape, size, rank, kind)
        rows, width = y.shape[1:]
        out = jax.ShapeDtypeStruct((members * rows, width), jnp.float32)
        work = (x.shape[2] + width) * (rank + rows // 2)
        # Two axes, as a product has them: for a third of one entry XLA copies the arrays into another layout.
        flat = [jax.lax.collapse(array, 0, 2).astype(jnp.float32) for array in (x, y)]
        aliases = {1: 0} if flat[1].shape == out.shape else None
        (total,) = _launch("lowrank_mix", [out], (*flat, source), scalars, work, aliases)
        return finished(total.reshape(members, rows, width), bias, activation, dtype)

    def on_gpu(x: Array, y: Array, source: Array, bias: Array | None = None) -> Array:
        return device.lowrank_mix(grids.launch, x, y, source, size, rank, kind, bias, activation, dtype)

    def portable(x: Array, y: Array, source: Array, bias: Array | None = None) -> Array:
        return finished(xla.lowrank_mix(x, y, source, size, rank, kind), bias, activation, dtype)

    @jax.custom_batching.custom_vmap
    def mix(x: Array, y: Array, source: Array, *bias: Array) -> Array:
        arrays = x, y, source, *bias
        values: Array = by_platform(*arrays, cpu=compiled, cuda=on_gpu, default=portable, operation="lowrank_mix")
        return values

    @mix.def_vmap
    def mapped(length: int, is_mapped: Sequence[bool], *arrays: Array) -> tuple[Array, bool]:
        """The mapped axis joins that of the members; what all of them share stays as it is."""
        members = arrays[2].shape[-2]

        def joined(value: Array, own: bool, shares: bool) -> Array:
            count = value.shape[1 if own else 0]
            if shares and not own and count == 1:
                return value
            if not own:
                value = jnp.broadcast_to(value, (length, *value.shape))
            if count != members:
                value = jnp.broadcast_to(value, (length, members, *value.shape[2:]))
            return value.reshape(length * members, *value.shape[2:])

        shares = (array is not arrays[2] for array in arrays)
        out = mix(*map(joined, arrays, is_mapped, shares))
        return out.reshape(length, members, *out.shape[1:]), True

    return mix


@partial(jax.jit, static_argnames=("sizes", "size", "kind"))
def lowrank_factors(
    source: UInt32[Array, "n 6"], sizes: tuple[int, int], size: int, kind: spec.Kind = "normal"
) -> tuple[Float[Array, "n a"], Float[Array, "n b"]]:
    """What :func:`blackbox.kernels.ref.lowrank_factors` makes, by compiled code."""

    def compiled(source: Array) -> tuple[Array, ...]:
        rows = source.shape[0]
        shapes = [jax.ShapeDtypeStruct((rows, own), jnp.float32) for own in sizes]
        scalars = native.lowrank_factors_scalars(rows, sizes, size, kind)
        return _launch("lowrank_factors", shapes, (source,), scalars, sum(sizes))

    arguments: dict[str, Any] = {"sizes": sizes, "size": size, "kind": kind}
    a, b = by_platform(
        source,
        cpu=compiled,
        cuda=partial(device.lowrank_factors, grids.launch, **arguments),
        default=partial(xla.lowrank_factors, **arguments),
        operation="lowrank_factors",
    )
    return a, b


def _noise(
    keys: UInt32[Array, "streams 2"],
    members: UInt32[Array, "n"],
    *,
    sizes: tuple[int, ...],
    kind: spec.Kind,
    centered: bool,
) -> tuple[Float[Array, "n size"], ...]:
    rows = members.shape[0]
    shapes = [jax.ShapeDtypeStruct((rows, size), jnp.float32) for size in sizes]
    scalars = native.noise_scalars(rows, sizes, kind, centered=centered)
    return _launch("noise", shapes, (keys, members), scalars, sum(sizes))
