"""The kernels compiled for this CPU, from the text that a GPU compiles: built on first use and kept.

A library is named by a hash of its sources, the options and the CPU, and lies under ``$BLACKBOX_CACHE``, by default
``$XDG_CACHE_HOME/blackbox`` or ``~/.cache/blackbox``; ``$CXX`` names the compiler, which is needed for building alone.
Every entry of a library has one signature, ``entry(buffers, scalars, begin, end)`` (``csrc/host/native.cpp``), which
:mod:`blackbox.kernels.ffi` hands to XLA as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import struct
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from . import spec
from .environments import ENVIRONMENTS

if TYPE_CHECKING:
    from jaxtyping import Float, Int32, Int64, UInt32

    from .weights import Arrays, Setting

SOURCES = Path(__file__).parent / "csrc"
# Without contraction every operation is rounded as it is written; errno and traps are in nobody's way here.
CPU_OPTIONS: tuple[str, ...] = ("-mcpu=native",) if platform.machine() in ("arm64", "aarch64") else ("-march=native",)
if platform.machine() in ("x86_64", "AMD64"):
    CPU_OPTIONS += ("-mprefer-vector-width=512",)  # by itself GCC takes 256: sums of noise are a fifth slower
OPTIONS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-unknown-pragmas"),
    *CPU_OPTIONS,
)
LANES = 16  # as in lanes.h
KINDS: tuple[spec.Kind, ...] = ("normal", "uniform", "sign", "binom8", "normal_fast")  # as numbered in kinds.cuh
INT8_SIGN = len(KINDS)  # there, of "sign" in int8
LIBRARIES = {  # of operations
    "noise": "host/native.cpp",
    "noise_of_runs": "host/native.cpp",
    "seedsum": "host/native.cpp",
    "lowrank_mix": "host/lowrank.cpp",
    "lowrank_factors": "host/lowrank.cpp",
    "rollout": "host/rollout.cpp",
}
PROBLEMS = (OSError, RuntimeError, subprocess.SubprocessError)  # RuntimeError: no home folder
_SCRATCH, _DAY = "build-", 86400
WITHOUT_COMPILED = "nothing is compiled"  # of which there is one warning, whatever is missed first
_warned: set[str] = set()


def library(operation: str = "noise") -> ctypes.CDLL | None:
    """The kernels for this CPU, built if need be; None, after one warning, where that is impossible."""
    loaded, problem = attempt(operation)
    if loaded is None:
        slower = "rollouts take hundreds of times" if operation == "rollout" else "noise takes 3 to 20 times"
        warn_once(f"kernels run without compiled code, {slower} as long: {problem}", about=WITHOUT_COMPILED)
    return loaded


def attempt(operation: str = "noise") -> tuple[ctypes.CDLL | None, str]:
    """The library that has an operation, or None and why there is none."""
    with _building:
        return _attempt(LIBRARIES[operation])


_building = threading.Lock()  # one thread compiles, the others wait for it


@cache
def _attempt(source: str) -> tuple[ctypes.CDLL | None, str]:
    entries = entries_of(source)
    loaded, problem = load(source, entries)
    for name in entries if loaded is not None else ():
        entry = getattr(loaded, name)
        entry.argtypes, entry.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64), None
    return loaded, problem


def entries_of(source: str) -> tuple[str, ...]:
    """The entries of a library."""
    return tuple(f"bb_{operation}" for operation, library in LIBRARIES.items() if library == source)


def load(
    source: str, entries: Sequence[str], include: str | None = None, version: str = ""
) -> tuple[ctypes.CDLL | None, str]:
    """A library with its entries, or None and why there is none; one that is damaged is built again."""
    try:
        built = build(source, include, version)
        try:
            return _opened(built, entries), ""
        except (OSError, AttributeError):
            built.unlink(missing_ok=True)  # another process may have found it, too
            return _opened(build(source, include, version), entries), ""
    except PROBLEMS as error:
        return None, reason(error)


def _opened(built: Path, entries: Sequence[str]) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(built))
    for entry in entries:
        getattr(loaded, entry)
    return loaded


def warn_once(message: str, about: str = "") -> None:
    """A warning that a process gives once, also where warnings are errors; of those about one thing the first."""
    if (key := about or message) not in _warned:
        _warned.add(key)
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def noise(
    key: UInt32[ndarray, "2"], first: int, members: int, size: int, kind: spec.Kind = "normal"
) -> Float[ndarray, "members size"]:
    """Noise of members ``first`` to ``first + members - 1`` of one stream; needs :func:`library`."""
    key = np.ascontiguousarray(key, np.uint32)
    numbers = np.arange(first, first + members, dtype=np.uint32)
    values = np.empty((members, size), np.float32)
    _call("noise", (key, numbers, values), noise_scalars(members, (size,), kind, centered=False))
    return values


def noise_of_runs(
    keys: UInt32[ndarray, "runs 2"],
    generations: UInt32[ndarray, "runs"],
    first: UInt32[ndarray, "runs"],
    leaf: int,
    members: int,
    size: int,
    kind: spec.Kind = "normal",
) -> Float[ndarray, "runs members size"]:
    """What :func:`blackbox.kernels.ref.noise_of_runs` makes; needs :func:`library`."""
    keys, generations, first = (np.ascontiguousarray(array, np.uint32) for array in (keys, generations, first))
    values = np.empty((len(keys), members, size), np.float32)
    scalars = noise_of_runs_scalars(len(keys), leaf, members, size, kind)
    _call("noise_of_runs", (keys, generations, first, values), scalars)
    return values


def seedsum(
    keys: UInt32[ndarray, "streams 2"],
    bases: Sequence[Float[ndarray, "#sums size"]],
    weights: Float[ndarray, "sums terms"],
    members: UInt32[ndarray, "sums terms"],
    kind: spec.Kind = "normal",
    chunk: int = spec.SUM_CHUNK,
) -> tuple[Float[ndarray, "sums size"], ...]:
    """What :func:`blackbox.kernels.ref.seedsum` computes; needs :func:`library`."""
    weights, *bases = (np.ascontiguousarray(array, np.float32) for array in (weights, *bases))
    keys, members = (np.ascontiguousarray(array, np.uint32) for array in (keys, members))
    sums = tuple(np.empty((weights.shape[0], base.shape[1]), np.float32) for base in bases)
    scalars = seedsum_scalars([base.shape for base in bases], weights.shape, kind, chunk)
    _call("seedsum", (keys, weights, members, *bases, *sums), scalars)
    return sums


def rollout(
    setting: Setting, arrays: Arrays, starts: Float[ndarray, "episodes state"]
) -> tuple[Float[ndarray, "n episodes"], Int32[ndarray, "n episodes"]]:
    """What :func:`blackbox.kernels.ref.rollout` computes; needs :func:`library`."""
    keys, base, factors, members, starts = (np.ascontiguousarray(array) for array in (*arrays, starts))
    shape = factors.shape[0], starts.shape[0]
    returns, lengths = np.empty(shape, np.float32), np.empty(shape, np.int32)
    scalars = rollout_scalars(setting, base.shape, factors.shape, starts.shape[0])
    _call("rollout", (keys, base, factors, members, starts, returns, lengths), scalars)
    return returns, lengths


def lowrank_mix(
    x: Float[ndarray, "#n rows m"],
    y: Float[ndarray, "#n rows k"],
    source: UInt32[ndarray, "n 6"],
    size: int,
    rank: int,
    kind: spec.Kind = "normal",
) -> Float[ndarray, "n rows k"]:
    """What :func:`blackbox.kernels.ref.lowrank_mix` computes; needs :func:`library`."""
    x, y = (np.ascontiguousarray(array, np.float32) for array in (x, y))
    source = np.ascontiguousarray(source, np.uint32)
    out = np.empty((len(source), *y.shape[1:]), np.float32)
    scalars = lowrank_mix_scalars(len(source), x.shape, y.shape, size, rank, kind)
    _call("lowrank_mix", (x, y, source, out), scalars)
    return out


def lowrank_factors(
    source: UInt32[ndarray, "n 6"], sizes: tuple[int, int], size: int, kind: spec.Kind = "normal"
) -> tuple[Float[ndarray, "n a"], Float[ndarray, "n b"]]:
    """What :func:`blackbox.kernels.ref.lowrank_factors` makes; needs :func:`library`."""
    source = np.ascontiguousarray(source, np.uint32)
    a, b = (np.empty((len(source), own), np.float32) for own in sizes)
    _call("lowrank_factors", (source, a, b), lowrank_factors_scalars(len(source), sizes, size, kind))
    return a, b


def lowrank_mix_scalars(
    members: int, x: tuple[int, ...], y: tuple[int, ...], size: int, rank: int, kind: spec.Kind
) -> ndarray:
    """The scalars of the entry ``bb_lowrank_mix``, of the shapes of x and y."""
    steps = (rows * width if own == members else 0 for own, rows, width in (x, y))
    pairs = -(-members // 2)
    return np.array([pairs, KINDS.index(kind), members, *x[1:], y[2], rank, size, *steps], np.int64)


def lowrank_factors_scalars(rows: int, sizes: tuple[int, int], size: int, kind: spec.Kind) -> ndarray:
    """The scalars of the entry ``bb_lowrank_factors``."""
    return np.array([rows, KINDS.index(kind), *sizes, size], np.int64)


def _call(operation: str, buffers: Sequence[ndarray], scalars: ndarray) -> None:
    pointers = np.array([array.ctypes.data for array in buffers], np.uintp)
    entry = getattr(attempt(operation)[0], f"bb_{operation}")
    entry(pointers.ctypes.data, scalars.ctypes.data, 0, int(scalars[0]))


def rollout_scalars(
    setting: Setting, base: tuple[int, ...], factors: tuple[int, ...], episodes: int
) -> Int64[ndarray, "scalars"]:
    """The scalars of the entry ``bb_rollout`` and of the kernels of rollouts (``csrc/rollout.cuh``)."""
    (n, terms), form = factors, setting.form
    number, step = list(ENVIRONMENTS).index(setting.env), base[1] if base[0] == n else 0
    numbers = (n, number, episodes, setting.steps, KINDS.index(form.kind), step, terms, form.rank, form.small)
    return np.array([*numbers, len(setting.sizes) - 1, *setting.sizes], np.int64)


def seedsum_scalars(bases: Sequence[tuple[int, ...]], weights: tuple[int, ...], kind: spec.Kind, chunk: int) -> ndarray:
    """The scalars of the entry ``bb_seedsum``, of the shapes of bases and weights."""
    sums, terms = weights
    rows = sums * sum(-(-size // (LANES * spec.VALUES_PER_BLOCK[kind])) for _, size in bases)
    streams = [number for rows_of_base, size in bases for number in (size, size if rows_of_base == sums else 0)]
    return np.array([rows, KINDS.index(kind), len(bases), sums, terms, chunk, *streams], np.int64)


def noise_scalars(members: int, sizes: Sequence[int], kind: spec.Kind, *, centered: bool) -> ndarray:
    """The scalars of the entry ``bb_noise``: rows, kind, whether centered, number of streams, their sizes."""
    return np.array([members, KINDS.index(kind), centered, len(sizes), *sizes], np.int64)


def noise_of_runs_scalars(runs: int, leaf: int, members: int, size: int, kind: spec.Kind) -> ndarray:
    """The scalars of the entry ``bb_noise_of_runs``."""
    return np.array([runs * members, KINDS.index(kind), members, size, leaf % 2**32], np.int64)


def sign_scalars(members: int, sizes: Sequence[int]) -> ndarray:
    """The same for noise of kind "sign" as int8."""
    return np.array([members, INT8_SIGN, False, len(sizes), *sizes], np.int64)


def build(source: str, include: str | None = None, version: str = "", options: Sequence[str] | None = None) -> Path:
    """The library made of ``csrc/source``, compiled if it is not in the cache.

    Args:
        source: its name.
        include: a further folder of headers.
        version: of these headers.
        options: of the compiler; None for those of all kernels.

    Raises:
        OSError: if there is no compiler, or no place to write.
        RuntimeError: if there is no home folder.
        subprocess.SubprocessError: if compiling fails or takes more than two minutes.
    """
    options = tuple(OPTIONS if options is None else options)
    own = _named_compiler()[1:]
    digest = hashlib.sha256(repr((source, options, own, version, _cpu())).encode())
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file() and path.suffix in (".h", ".cuh", ".cu", ".cpp"):
            digest.update(path.name.encode() + path.read_bytes())

    def compile_to(made: Path) -> None:
        headers = [f"-isystem{include}"] if include else []
        command = [*_compiler(), *options, *headers, str(SOURCES / source), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=120)

    return kept(f"{Path(source).stem}-{digest.hexdigest()[:20]}.so", compile_to)


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """The file of this name in the cache, made if it is missing or cut off."""
    folder = cache_folder()
    file = folder / name
    if not _is_whole(file):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(folder)
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as scratch:
            made = Path(scratch) / name
            make(made)
            with made.open("rb") as written:
                os.fsync(written.fileno())
            made.replace(file)  # at once: other processes may make the same
    return file


def _sweep(folder: Path) -> None:
    """Remove what builds have left behind that were killed; none takes a day."""
    for scratch in folder.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):  # another process may be sweeping, too
            if time.time() - scratch.stat().st_mtime > _DAY:
                shutil.rmtree(scratch)


def _is_whole(file: Path) -> bool:
    """Whether a file is there up to its tables of segments and sections, if it is one of ELF, as cubins are, too.

    The loader would map one that is cut off, and the process die when it reads beyond the end.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(64)
    except FileNotFoundError:
        return False
    if not head.startswith(b"\x7fELF\x02\x01"):
        return len(head) == 64  # another format, of which the loader may say more
    if len(head) < 64:
        return False
    tables = struct.unpack_from("<QQ", head, 32), struct.unpack_from("<HHHH", head, 54)
    ends = (at + entry * count for at, entry, count in zip(tables[0], tables[1][::2], tables[1][1::2], strict=True))
    return file.stat().st_size >= max(ends)


def cache_folder() -> Path:
    """Where compiled code is kept."""
    if own := os.environ.get("BLACKBOX_CACHE"):
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "blackbox"


def reason(error: Exception) -> str:
    """Why a build failed, in a line."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in str(error.stderr).splitlines() if "error" in line] or [str(error)]
        return f"the compiler said: {lines[0]}"
    return str(error)


def _compiler() -> list[str]:
    """The command, which may have options of its own as in ``CXX="ccache g++"``."""
    named = _named_compiler()
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    raise OSError(f"no C++ compiler found ({f'$CXX is {named[0]!r}' if named else 'looked for c++, g++ and clang++'})")


def _named_compiler() -> list[str]:
    """What ``$CXX`` says, with options of its own; nothing if it is not set."""
    named = os.environ.get("CXX", "")
    try:
        return shlex.split(named)
    except ValueError as error:
        raise OSError(f"$CXX cannot be read ({error}): {named!r}") from None


@cache
def _cpu() -> str:
    """What ``native`` in the options stands for: a cache may be shared by several machines."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return f"{platform.machine()} {platform.processor()}"
