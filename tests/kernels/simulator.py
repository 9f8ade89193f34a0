"""Runs the kernels' grids on the CPU, thread by thread (``kernels/csrc/host/simulator.h``)."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial

import numpy as np

from blackbox.kernels import native
from blackbox.kernels.device import Launch, Launcher, Shape, addressed

OPTIONS = (
    "-std=c++17",
    "-O1",
    "-g",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-Wno-unknown-pragmas",
)
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
SANITIZED = "BLACKBOX_SANITIZED"  # in a process that is started with the sanitizers' libraries
ORDERS = (0, 1, 7)  # forward, backward, shuffled


@cache
def library(*more: str) -> ctypes.CDLL:
    """The simulator with every kernel, compiled with further options."""
    sanitizers = SANITIZERS if SANITIZED in os.environ else ()
    options = (*OPTIONS, *native.CPU_OPTIONS, *sanitizers, *more)
    return ctypes.CDLL(str(native.build("host/simulator.cpp", options=options)))


def barriers_of(source: str) -> list[int]:
    """The lines of a text that have a barrier."""
    lines = (native.SOURCES / source).read_text().splitlines()
    return [number for number, line in enumerate(lines, 1) if "__syncthreads()" in line]


@contextmanager
def without_barrier(line: int) -> Iterator[None]:
    """Kernels lack the barrier at this line of their text."""
    library().bb_without_barrier(line)
    try:
        yield
    finally:
        library().bb_without_barrier(0)


def kernels_of(source: str) -> list[str]:
    """The names of a text's kernels."""
    return re.findall(r"^BB_KERNEL\((\w+),", (native.SOURCES / source).read_text(), re.MULTILINE)


def launch(
    order: int, options: Sequence[str], threads: int | None, call: Launch, inputs: Sequence[np.ndarray],
    outputs: Sequence[Shape],
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """One kernel, with outputs that are NaN, or all bits one, where nothing is written."""
    inputs = [np.ascontiguousarray(x) for x in inputs]
    made = tuple(np.full(shape, -1 if dtype.startswith("int") else np.nan, dtype) for shape, dtype in outputs)
    argument = addressed([x.ctypes.data for x in (*inputs, *made)], call.scalars)
    code = library(*options).bb_simulate(
        call.kernel.encode(), (ctypes.c_uint * 3)(*call.blocks, 1), threads or call.threads, call.shared,
        ctypes.c_void_p(argument.ctypes.data), order,
    )  # fmt: skip
    if code:
        raise RuntimeError({1: f"no kernel {call.kernel}", 2: f"{call.kernel}: threads at different barriers"}[code])
    return made


def launcher(order: int = 0, options: Sequence[str] = (), threads: int | None = None) -> Launcher:
    """A launcher of some order of threads, compiler options, and threads of a block instead of the launch's."""
    return partial(launch, order, options, threads)
