"""What all figures share: a figure, the space and the objective of the runs, and ways to go through one."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from recorder import state_digest

import blackbox as bb
import blackbox.optimizer
from figures import PATHS

METHODS = sorted(name for name, method in bb.methods().items() if "virtual" not in method.tags)
MODELLED = {name for name in METHODS if bb.methods()[name].path.startswith("blackbox.model.")}
"""Methods that take milliseconds for an evaluation."""
SPACE = bb.Space(
    {
        "C": bb.Float(1e-3, 1e3, log=True),
        "x": bb.Float(-1, 1),
        "y": bb.Float(-1, 1),
        "n": bb.Int(1, 6),
        "kernel": bb.Choice({"rbf": bb.Space({"gamma": bb.Float(1e-5, 10, log=True)}), "linear": None}),
    }
)


class Outcome(NamedTuple):
    """What a figure turned out to be."""

    measured: str
    ok: bool | None
    """None: could not be measured here."""


class Figure(NamedTuple):
    """One line of the table."""

    id: str
    what: str
    bar: str
    measure: Callable[[float, Path], Outcome]
    """From the share of the full size, and an empty folder on a local disk."""


def scaled(full: int, scale: float, least: int = 1) -> int:
    """A share of a full size."""
    return max(least, round(full * scale))


def affordable(method: str, evaluations: int) -> int:
    """A quarter, for methods that take milliseconds for each."""
    return evaluations // 4 if method in MODELLED else evaluations


def objective(x: dict[str, Any]) -> float | None:
    """Smooth with a flat bottom, so that runs stall and restart; some points fail or are infeasible."""
    value = math.log10(x["C"]) ** 2 + (x["x"] - 0.3) ** 2 + (x["y"] + 0.2) ** 2 + abs(x["n"] - 4)
    value += math.log10(x["gamma"]) ** 2 if "gamma" in x else 0.5
    if int(1e4 * abs(x["x"])) % 11 == 0:
        return None
    return math.inf if x["y"] > 0.9 else max(value, 0.3)


def make(method: str, journal: Path | None = None, seed: int = 1, **settings: Any) -> bb.Optimizer:
    """A run of a method on the mixed space."""
    return bb.Optimizer(SPACE, method, seed=seed, journal=journal, **settings)


def advance(optimizer: bb.Optimizer, evaluations: int) -> None:
    """Ask and tell one by one until so many results are told in all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # generations without a finite value
        while optimizer.evaluations < evaluations:
            candidate = optimizer.ask()
            optimizer.tell(candidate, objective(candidate.x))


def digest(optimizer: bb.Optimizer, asks: int = 20) -> str:
    """Of all that an optimizer is, and of what it asks for next; candidates that were out are forgotten."""
    optimizer._gate.waiting.clear()
    optimizer._member = 0
    before = state_digest(optimizer)
    rows = b"".join(candidate._row.tobytes() for candidate in optimizer.ask(asks))
    optimizer._gate.waiting.clear()
    optimizer._member = 0
    return before + hashlib.sha256(rows).hexdigest()


def same_value(first: float | None, second: float | None) -> bool:
    """Equality of told values, None and NaN being one."""
    a, b = (math.nan if value is None else value for value in (first, second))
    return a == b or (a != a and b != b)


def copy_journal(source: Path, target: Path) -> None:
    """A journal as it is on the disk at this moment, with its log."""
    for suffix in ("", "-wal", "-shm", "-tail"):
        Path(f"{target}{suffix}").unlink(missing_ok=True)
    for suffix in ("", "-wal", "-tail"):
        if Path(f"{source}{suffix}").exists():
            shutil.copy(f"{source}{suffix}", f"{target}{suffix}")


def frequent_checkpoints(generations: int | None) -> None:
    """Save one every so many generations; None is the default."""
    blackbox.optimizer.CHECKPOINT_GENERATIONS = generations or DEFAULT_CHECKPOINTS


DEFAULT_CHECKPOINTS = blackbox.optimizer.CHECKPOINT_GENERATIONS


def start(
    code: str, *arguments: object, flags: tuple[str, ...] = (), variables: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """A child process that runs ``code``, which may import the figures; to be ended by this handle alone."""
    head = f"import sys; sys.path[:0] = {PATHS!r}\n"
    return subprocess.Popen(
        [sys.executable, *flags, "-c", head + code, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **(variables or {})},
    )  # fmt: skip


def finish(child: subprocess.Popen[str], seconds: float = 600) -> str:
    """What a child printed; RuntimeError with its traceback if it failed."""
    try:
        output, errors = child.communicate(timeout=seconds)
    finally:
        child.kill()
    if child.returncode:
        raise RuntimeError(f"a child ended with {child.returncode}: {errors[-2000:]}")
    return output


def finite_where(clean: Any, other: Any) -> list[str]:
    """Names of arrays that hold non-finite numbers where those of a clean run hold none."""
    from blackbox.shell.states import flatten

    found, expected = flatten(other), flatten(clean)
    return [
        name
        for name, array in found.items()
        if array.dtype.kind == "f" and not np.isfinite(array).all() and np.isfinite(expected[name]).all()
    ]
