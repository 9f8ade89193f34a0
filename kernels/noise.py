"""Counter-based noise for strategies: a pure function of (key, generation, leaf, member), in any array library.

All randomness of the engine comes from here. The numbers are those of :mod:`blackbox.kernels.spec`; the same
arguments give the same words in NumPy and JAX.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.arrays import Array, is_jax, namespace
from blackbox.errors import SettingError

from . import dispatch, ref, spec
from .arguments import require_array, require_count, require_integer, require_words

if TYPE_CHECKING:
    from jaxtyping import Float, Int8, UInt32


def key(seed: int) -> UInt32[np.ndarray, "2"]:
    """The key of a run: ``seed`` as two 32-bit words.

    Raises:
        SettingError: if ``seed`` is not an integer from 0 to 2**64 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise SettingError(f"seed must be an integer from 0 to 2**64 - 1, got {seed!r}")
    return np.array((int(seed) & 0xFFFFFFFF, int(seed) >> 32), np.uint32)


def fold(key: UInt32[Array, "2"], a: Array | int, b: Array | int = 0) -> UInt32[Array, "2"]:
    """A new key from ``key`` and two integers (modulo 2**32): independent streams for runs, steps and leaves."""
    if is_jax(key) or is_jax(a) or is_jax(b):
        from . import xla

        return xla.fold(key, a, b)
    return ref.fold(np.asarray(key), int(a), int(b))


def fold_many(key: UInt32[Array, "2"], count: int) -> UInt32[Array, "count 2"]:
    """``fold(key, i)`` for ``i`` from 0 to ``count - 1``, at once."""
    if is_jax(key):
        import jax

        from . import xla

        return jax.vmap(lambda i: xla.fold(key, i))(jax.numpy.arange(count))
    return ref.fold_many(np.asarray(key), 0, count, 0)


def noise(
    kind: spec.Kind,
    key: UInt32[Array, "2"],
    generation: Array | int,
    shape: Sequence[int],
    *,
    leaf: int = 0,
    first: int = 0,
    like: Array,
    impl: dispatch.Impl = "auto",
) -> Float[Array, members * event]:
    """Noise of one generation: row ``i`` belongs to member ``first + i``.

    Of many runs at once if ``key`` is of shape ``(runs, 2)``, and ``shape`` then starts with the runs; each has the
    noise that it has alone. In JAX so has each under ``vmap``, and the runs are one call as well.

    Args:
        kind: ``"normal"``, ``"uniform"``, ``"sign"``, ``"binom8"`` or ``"normal_fast"``; all but uniform have unit
            variance.
        key: the run's key.
        generation: the generation counter, taken modulo 2**32; of many runs also one of each.
        shape: ``(members, *event)``, or ``(runs, members, *event)``.
        leaf: tells apart several draws of one generation.
        first: number of the first member; its noise does not depend on how many are made with it. Numbers are below
            2**32.
        like: an array whose library and dtype the result takes. Values have float32 resolution.
        impl: what computes it, see :func:`blackbox.kernels.explain`.

    Raises:
        SettingError: a ``kind``, ``first`` or ``impl`` that is unknown, out of range or cannot be had here; a key,
            counter or shape that is none.
    """
    spec.require_kind(kind)
    _require_shape(shape)
    if len(getattr(key, "shape", ())) == 2:
        return _noise_of_runs(kind, key, generation, shape, leaf, first, like, impl)
    require_words("key", key, (2,))
    for name, number in (("generation", generation), ("leaf", leaf), ("first", first)):
        require_integer(name, number)
    members, size = int(shape[0]), math.prod(shape[1:])
    _require_first(first, members)
    blocks = members * spec.blocks_of(size, kind)
    if is_jax(like):
        from . import xla

        words = key.astype("uint32"), xla.word(generation), xla.word(first)
        if is_jax(leaf):  # an array in a loop over leaves, which no compiled code for many runs takes
            made = dispatch.in_jax(impl, blocks).noise(xla.fold(*words[:2], leaf), words[2], members, size, kind)
        else:
            made = _of_run(impl, int(leaf), members, size, kind)(*words)
        values: Array = made
        return values.astype(like.dtype).reshape(shape)
    chosen = dispatch.of_arrays(like, impl, blocks)
    if chosen is ref:
        values = ref.generation_noise(np.asarray(key), int(generation), leaf, int(first), members, size, kind)
    else:
        values = chosen.noise(ref.fold(np.asarray(key), int(generation), leaf), int(first), members, size, kind)
    if isinstance(like, np.ndarray | np.generic):
        # What the reference remembers is read-only.
        return values.astype(like.dtype, copy=chosen is ref).reshape(shape)
    return namespace(like).asarray(values.reshape(shape), dtype=like.dtype)


def _noise_of_runs(
    kind: spec.Kind,
    keys: UInt32[Array, "runs 2"],
    generation: Array | int,
    shape: Sequence[int],
    leaf: int,
    first: Array | int,
    like: Array,
    impl: dispatch.Impl,
) -> Float[Array, runs * members * event]:
    require_words("key", keys, (None, 2))
    runs = keys.shape[0]
    if len(shape) < 2 or shape[0] != runs:
        raise SettingError(f"shape must be (runs, members, *event) for the {runs} runs of key, got {tuple(shape)}")
    if getattr(generation, "shape", ()) == (runs,):
        require_array("generation", generation, "integers")
    else:
        require_integer("generation", generation)
    require_integer("leaf", leaf)
    require_integer("first", first)
    members, size = int(shape[1]), math.prod(shape[2:])
    _require_first(first, members)
    if is_jax(like):
        import jax.numpy as jnp

        from . import xla

        words = (jnp.broadcast_to(xla.word(number), (runs,)) for number in (generation, first))
        values: Array = _of_runs(impl, int(leaf), members, size, kind)(jnp.asarray(keys, "uint32"), *words)
        return values.astype(like.dtype).reshape(shape)
    blocks = runs * members * spec.blocks_of(size, kind)
    counters = (np.broadcast_to(np.asarray(number), (runs,)).astype(np.uint32) for number in (generation, first))
    chosen = dispatch.in_numpy(impl, blocks, "noise_of_runs")
    values = chosen.noise_of_runs(np.asarray(keys), *counters, int(leaf), members, size, kind)
    if isinstance(like, np.ndarray | np.generic):
        return values.astype(like.dtype, copy=False).reshape(shape)
    return namespace(like).asarray(values.reshape(shape), dtype=like.dtype)


@cache
def _of_run(impl: dispatch.Impl, leaf: int, members: int, size: int, kind: spec.Kind) -> Any:
    """Noise of one run in JAX's programs, which under ``vmap`` becomes one call for all of the runs."""
    import jax
    from jax.custom_batching import custom_vmap

    from . import xla

    @custom_vmap
    def noise(
        key: UInt32[Array, "2"], generation: UInt32[Array, ""], first: UInt32[Array, ""]
    ) -> Float[Array, "members size"]:
        kernels = dispatch.in_jax(impl, members * spec.blocks_of(size, kind))
        made: Array = kernels.noise(xla.fold(key, generation, leaf), first, members, size, kind)
        return made

    @noise.def_vmap
    def mapped(runs: int, is_mapped: Sequence[bool], *words: Array) -> tuple[Array, bool]:
        return _of_runs(impl, leaf, members, size, kind)(*_rows(runs, is_mapped, *words)), True

    return jax.jit(noise)  # outside of programs, too, it is compiled once


@cache
def _of_runs(impl: dispatch.Impl, leaf: int, members: int, size: int, kind: spec.Kind) -> Any:
    """Noise of many runs in JAX's programs; a further axis of ``vmap`` makes them more."""
    import jax
    from jax.custom_batching import custom_vmap

    @custom_vmap
    def noise(
        keys: UInt32[Array, "runs 2"], generations: UInt32[Array, "runs"], first: UInt32[Array, "runs"]
    ) -> Float[Array, "runs members size"]:
        blocks = keys.shape[0] * members * spec.blocks_of(size, kind)
        kernels = dispatch.in_jax(impl, blocks, "noise_of_runs")
        made: Array = kernels.noise_of_runs(keys, generations, first, leaf, members, size, kind)
        return made

    @noise.def_vmap
    def mapped(more: int, is_mapped: Sequence[bool], *words: Array) -> tuple[Array, bool]:
        rows = _rows(more, is_mapped, *words)
        runs = rows[1].shape[1]
        made = noise(*(array.reshape(more * runs, *array.shape[2:]) for array in rows))
        return made.reshape(more, runs, members, size), True

    return jax.jit(noise)


def _rows(count: int, is_mapped: Sequence[bool], *arrays: Array) -> list[Array]:
    """The arrays with the mapped axis, also where all share one."""
    import jax.numpy as jnp

    return [
        array if own else jnp.broadcast_to(array, (count, *array.shape))
        for array, own in zip(arrays, is_mapped, strict=True)
    ]


def normal(
    key: UInt32[Array, "2"],
    generation: Array | int,
    shape: Sequence[int],
    *,
    leaf: int = 0,
    first: int = 0,
    like: Array,
) -> Float[Array, members * event]:
    """Standard normal noise; see :func:`noise`."""
    return noise("normal", key, generation, shape, leaf=leaf, first=first, like=like)


def uniform(
    key: UInt32[Array, "2"],
    generation: Array | int,
    shape: Sequence[int],
    *,
    leaf: int = 0,
    first: int = 0,
    like: Array,
) -> Float[Array, members * event]:
    """Uniform noise in the open interval (0, 1), odd multiples of 2**-24; see :func:`noise`."""
    return noise("uniform", key, generation, shape, leaf=leaf, first=first, like=like)


def centered_noise(
    keys: UInt32[Array, "streams 2"],
    members: UInt32[Array, "n"],
    sizes: tuple[int, ...],
    kind: spec.Kind = "normal",
    *,
    impl: dispatch.Impl = "auto",
) -> tuple[Float[Array, "n size"], ...]:
    """Centered noise of any members of several streams, in JAX; see :func:`blackbox.kernels.xla.centered_noise`."""
    spec.require_kind(kind)
    _require_streams(keys, members, sizes)
    blocks = members.shape[0] * sum(spec.blocks_of(size, kind) for size in sizes)
    values: tuple[Array, ...] = dispatch.in_jax(impl, blocks).centered_noise(keys, members, sizes, kind)
    return values


def signs(
    keys: UInt32[Array, "streams 2"],
    members: UInt32[Array, "n"],
    sizes: tuple[int, ...],
    *,
    impl: dispatch.Impl = "auto",
) -> tuple[Int8[Array, "n size"], ...]:
    """Noise of kind "sign" of any members of several streams as int8, in JAX, without a float."""
    _require_streams(keys, members, sizes)
    blocks = members.shape[0] * sum(spec.blocks_of(size, "sign") for size in sizes)
    values: tuple[Array, ...] = dispatch.in_jax(impl, blocks).signs(keys, members, sizes)
    return values


def _require_first(first: Array | int, members: int) -> None:
    if not is_jax(first) and not 0 <= first <= 2**32 - members:
        raise SettingError(f"first must be from 0 to 2**32 - {members} for {members} members, got {first}")


def _require_shape(shape: Sequence[int]) -> None:
    if not isinstance(shape, Sequence) or not shape:
        raise SettingError(f"shape must be (members, *event), got {shape!r}")
    for number in shape:
        require_count("shape", number)


def _require_streams(keys: Array, members: Array, sizes: tuple[int, ...]) -> None:
    if not isinstance(sizes, Sequence) or not sizes:
        raise SettingError(f"sizes must be one integer for each stream, got {sizes!r}")
    for size in sizes:
        require_count("sizes", size)
    require_words("keys", keys, (len(sizes), 2))
    require_array("members", members, "integers")
    if len(members.shape) != 1:
        raise SettingError(f"members must be of shape (n,), got {members.shape}")
