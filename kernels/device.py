"""The operations as grids of a GPU's threads, for whoever launches them: CuPy, JAX's programs, or the simulator.

A launcher runs one kernel of ``csrc/*.cu``: it puts the inputs' and outputs' addresses and the whole numbers of a
:class:`Launch` into the kernel's only argument, and returns the outputs. The operations here are the same for all of
them, so that what is tested on the simulator is what runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.arrays import Array
from blackbox.errors import SettingError

from . import native, spec
from .environments import dimension_of
from .finish import ACTIVATIONS, Activation, DType
from .weights import Setting, leaves_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int8, Int32, UInt32

    from .weights import Arrays

THREADS = 256
SHARED = 227 << 10  # bytes that a block may ask for, on an H100 or B200; launchers ask what a smaller GPU has
_ROWS = 65535  # blocks that a grid's second and third axis may have; what is beyond them they take in turn
_BUSY = 1 << 17  # threads that fill a large GPU about half
_PARTS = 1 << 24  # sums of chunks in memory at once
_TILE = 8192  # floats of a factor that a block has in shared memory, so that four blocks fit into any GPU's
_SUMS = 2048  # and of sums
_LARGEST_RANK = 64
# Of a thread, in sums: enough to use what Philox gives, few enough for registers.
_VALUES: dict[spec.Kind, int] = {"normal": 4, "uniform": 4, "sign": 32, "binom8": 16, "normal_fast": 4}


@dataclass(frozen=True)
class Launch:
    """One kernel over a grid.

    Attributes:
        source: the text in ``csrc/`` that has it, such as ``"seedsum.cu"``.
        kernel: its name.
        blocks: along the two axes of the grid.
        scalars: whole numbers, of 64 bits.
        threads: of a block.
        shared: bytes of shared memory of a block.
    """

    source: str
    kernel: str
    blocks: tuple[int, int]
    scalars: tuple[int, ...]
    threads: int = THREADS
    shared: int = 0


Shape = tuple[tuple[int, ...], str]
"""Of an output: its shape, and its dtype by name."""

Launcher = Callable[[Launch, Sequence[Array], Sequence[Shape]], tuple[Array, ...]]
"""Runs a kernel on inputs and returns its outputs."""


def grid(columns: int, rows: int) -> tuple[int, int]:
    """Blocks for so many threads in each of some rows; at least one, at most what a GPU takes."""
    return max(1, min(-(-columns // THREADS), 2**31 - 1)), max(1, min(rows, _ROWS))


def centered_noise(
    launch: Launcher,
    keys: UInt32[Array, "streams 2"],
    members: UInt32[Array, "n"],
    sizes: Sequence[int],
    kind: spec.Kind = "normal",
    *,
    centered: bool = True,
) -> tuple[Float[Array, "n size"], ...]:
    """What :func:`blackbox.kernels.xla.centered_noise` makes; without ``centered`` of unit variance."""
    return _written(launch, keys, members, sizes, f"bb_noise_{kind}", "float32", centered)


def signs(
    launch: Launcher, keys: UInt32[Array, "streams 2"], members: UInt32[Array, "n"], sizes: Sequence[int]
) -> tuple[Int8[Array, "n size"], ...]:
    """What :func:`blackbox.kernels.xla.signs` makes."""
    return _written(launch, keys, members, sizes, "bb_noise_int8_sign", "int8", True)


def _written(
    launch: Launcher, keys: Array, members: Array, sizes: Sequence[int], kernel: str, dtype: str, centered: bool
) -> tuple[Array, ...]:
    n = members.shape[0]
    out: list[Array] = []
    for stream, size in enumerate(sizes):
        call = Launch("noise.cu", kernel, grid(-(-size // 4), n), (n, size, centered))
        out += launch(call, (keys[stream], members), [((n, size), dtype)])
    return tuple(out)


def seedsum(
    launch: Launcher,
    keys: UInt32[Array, "streams 2"],
    bases: Sequence[Float[Array, "#sums size"]],
    weights: Float[Array, "sums terms"],
    members: UInt32[Array, "sums terms"],
    kind: spec.Kind = "normal",
    chunk: int = spec.SUM_CHUNK,
) -> tuple[Float[Array, "sums size"], ...]:
    """What :func:`blackbox.kernels.ref.seedsum` computes."""
    (sums, terms), out = weights.shape, []
    chunks = -(-terms // chunk)
    for stream, base in enumerate(bases):
        rows, size = base.shape
        step = size if rows == sums else 0
        columns = -(-size // _VALUES[kind])
        # Few threads with many chunks each: one thread for each chunk instead, and a second pass over their sums.
        split = chunks > 1 and columns * sums < _BUSY and sums * chunks * size <= _PARTS
        scalars = (stream, size, sums, terms, chunk, step, int(split))
        parts = chunks if split else 1
        call = Launch("seedsum.cu", f"bb_seedsum_{kind}", grid(columns, sums * parts), scalars)
        shape = (sums, chunks, size) if split else (sums, size)
        (total,) = launch(call, (keys, weights, members, base), [(shape, "float32")])
        if split:
            second = Launch("seedsum.cu", "bb_seedsum_total", grid(size, sums), (size, sums, chunks, step))
            (total,) = launch(second, (base, total), [((sums, size), "float32")])
        out.append(total)
    return tuple(out)


_ROLLOUTS = {
    "CartPole-v1": "bb_rollout_cartpole",
    "Pendulum-v1": "bb_rollout_pendulum",
    "MountainCarContinuous-v0": "bb_rollout_mountain_car",
    "Acrobot-v1": "bb_rollout_acrobot",
}


def rollout(
    launch: Launcher, setting: Setting, arrays: Arrays, starts: Float[Array, "episodes state"]
) -> tuple[Float[Array, "n episodes"], Int32[Array, "n episodes"]]:
    """What :func:`blackbox.kernels.ref.rollout` computes: a block for each member, or for some of its episodes.

    Raises:
        SettingError: if a network does not fit into the shared memory of a block.
    """
    (n, _), episodes, hidden = arrays.factors.shape, starts.shape[0], setting.sizes[1:-1]
    widest, form = max(hidden, default=0), setting.form
    factors = [(x.inputs + x.outputs) * form.rank for x in leaves_of(setting.sizes, form.small or 1) if x.is_low_rank]
    shared = 4 * (dimension_of(setting.sizes) + 2 * widest + (max(factors, default=0)))
    if shared > SHARED:
        raise SettingError(
            f"hidden must be such that a network takes at most {SHARED} bytes; got {shared} for {hidden}"
        )
    # A thread owns a hidden value; members that leave a GPU idle have their episodes shared among blocks.
    threads = min(THREADS, -(-max(1, widest) // 32) * 32)
    split = min(max(1, episodes), -(-_BUSY // (threads * max(1, n))), _ROWS)
    scalars = native.rollout_scalars(setting, arrays.base.shape, arrays.factors.shape, episodes)
    blocks = max(1, min(n, 2**31 - 1)), split
    call = Launch("rollout.cu", _ROLLOUTS[setting.env], blocks, tuple(map(int, scalars)), threads, shared)
    shape = n, episodes
    returns, lengths = launch(call, (*arrays, starts), [(shape, "float32"), (shape, "int32")])
    return returns, lengths


def lowrank_mix(
    launch: Launcher,
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
    """``activation(mixed + bias)``, where the first is what :func:`blackbox.kernels.ref.lowrank_mix` computes.

    x is of float32 or bfloat16, and the result of ``dtype``, one of these, too; all else is float32.

    Raises:
        SettingError: a rank above 64, for which a block has too little shared memory.
    """
    if rank > _LARGEST_RANK:
        raise SettingError(f"rank must be at most {_LARGEST_RANK} on a GPU, got {rank}")
    (members, _), (rows, m), k, sums = source.shape, x.shape[1:], y.shape[2], spec.DOT_SUMS
    entries = sums * max(1, min(_TILE // (sums * rank), -(-max(m, k) // sums)))
    pairs = -(-members // 2)
    # Blocks of a few pairs share the rows, each with noise of its own: half of them fill a GPU.
    wanted = min(-(-_BUSY // (THREADS * max(1, pairs))), _ROWS)
    at_once = max(1, min(-(-2 * rows // wanted), _SUMS // (sums * rank)))
    shares = max(1, min(-(-2 * rows // at_once), wanted))
    steps = (x.shape[1] * m if x.shape[0] == members else 0, rows * k if y.shape[0] == members else 0)
    is_short = (int(str(own) == "bfloat16") for own in (x.dtype, dtype))
    bias_step = 0 if bias is None or bias.shape[0] != members else k
    end = *is_short, int(bias is not None), bias_step, ACTIVATIONS.index(activation)
    call = Launch(
        "lowrank.cu",
        f"bb_lowrank_mix_{kind}",
        blocks=(max(1, min(pairs, 2**31 - 1)), shares),
        scalars=(members, rows, m, k, rank, size, *steps, entries, at_once, *end),
        shared=4 * (entries * rank + 32 + at_once * rank * sums),
    )
    given = (x, y, source) if bias is None else (x, y, source, bias)
    (mixed,) = launch(call, given, [((members, rows, k), dtype)])
    return mixed


def lowrank_factors(
    launch: Launcher, source: UInt32[Array, "n 6"], sizes: tuple[int, int], size: int, kind: spec.Kind = "normal"
) -> tuple[Float[Array, "n a"], Float[Array, "n b"]]:
    """What :func:`blackbox.kernels.ref.lowrank_factors` makes."""
    rows = source.shape[0]
    out: list[Array] = []
    for which, count in enumerate(sizes):
        blocks = grid(-(-count // 4), rows)
        call = Launch("lowrank.cu", f"bb_lowrank_factor_{kind}", blocks, (rows, count, size, which))
        out += launch(call, (source,), [((rows, count), "float32")])
    return out[0], out[1]


def addressed(buffers: Sequence[int], scalars: Sequence[int]) -> Any:
    """A kernel's argument, ``struct bb_call`` of ``csrc/port.h``."""
    call = np.zeros(32, np.int64)
    call[: len(buffers)] = np.array(buffers, np.uint64).view(np.int64)
    call[12 : 12 + len(scalars)] = scalars
    return call
