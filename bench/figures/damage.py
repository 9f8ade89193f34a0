"""R5, R6 and R13: bits flip, pages are lost, files are cut, and somebody means harm."""

from __future__ import annotations

import json
import pickle
import sqlite3
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hostile import HOSTILE_JOURNALS, Trap, hostile_checkpoints

import blackbox as bb
from blackbox.errors import BlackboxError, CheckpointError
from blackbox.journal import Journal
from blackbox.storage.checkpoint import Checkpoint, pack, unpack
from blackbox.storage.checkpoint import digest as checkpoint_digest
from figures.course import (
    Figure,
    Outcome,
    advance,
    copy_journal,
    digest,
    finish,
    frequent_checkpoints,
    make,
    scaled,
    start,
)

PAGE = 4096


def flips(rng: np.random.Generator, data: bytes) -> bytes:
    """With one bit flipped or, once in ten, cut."""
    at = int(rng.integers(len(data)))
    if rng.random() < 0.1:
        return data[:at]
    changed = bytearray(data)
    changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def lost_pages(rng: np.random.Generator, data: bytes) -> bytes:
    """With a page zeroed, replaced by another one, or some bytes overwritten."""
    page, other = (int(rng.integers(len(data))) // PAGE * PAGE for _ in range(2))
    changed = bytearray(data)
    kind = int(rng.integers(3))
    if kind == 2:
        at, noise = int(rng.integers(len(data))), rng.bytes(16)
        changed[at : at + 16] = noise[: len(changed[at : at + 16])]
    else:
        size = len(changed[page : page + PAGE])
        changed[page : page + PAGE] = (
            bytes(size) if kind == 0 else changed[other : other + PAGE].ljust(size, b"\0")[:size]
        )
    return bytes(changed[: len(data)])


def update(path: Path, statement: str, *arguments: Any) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, arguments)
    connection.close()


def checkpoints(scale: float, folder: Path) -> Outcome:
    """R5. Most damage is done to the stored bytes alone; a part of it in the journal, to be resumed from."""
    bare, whole = scaled(9000, scale, 200), scaled(1000, scale, 20)
    rng = np.random.default_rng(0)
    optimizer = make("cma-es")
    advance(optimizer, 200)
    good = pack(200, *optimizer._search.snapshot())
    wrong = caught = 0
    for _ in range(bare):
        field = ("arrays", "arrays", "arrays", "manifest", "digest")[int(rng.integers(5))]
        value = getattr(good, field)
        data = flips(rng, value if isinstance(value, bytes) else value.encode())
        damaged = good._replace(**{field: data if isinstance(value, bytes) else data.decode("utf-8", "replace")})
        try:
            unpack(200, damaged)
            wrong += 1
        except CheckpointError:
            caught += 1
    path, copy = folder / "run.db", folder / "copy.db"
    frequent_checkpoints(3)
    with make("cma-es", path) as optimizer:
        advance(optimizer, 300)
    frequent_checkpoints(None)
    with bb.Optimizer.resume(path) as optimizer:
        expected = digest(optimizer)
    kept = sqlite3.connect(path).execute("SELECT position, manifest, arrays FROM state ORDER BY position").fetchall()
    fell_back = different = silent = 0
    for number in range(whole):
        copy_journal(path, copy)
        for position, manifest, arrays in kept[1:] if number % 2 else kept:  # the newest, or both
            if rng.random() < 0.2:
                text = flips(rng, manifest.encode()).decode("utf-8", "replace")
                update(copy, "UPDATE state SET manifest = ? WHERE position = ?", text, position)
            else:
                update(copy, "UPDATE state SET arrays = ? WHERE position = ?", flips(rng, arrays), position)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with bb.Optimizer.resume(copy) as optimizer:
                different += digest(optimizer) != expected
                fell_back += 1
        silent += not any("checkpoint" in str(warning.message) for warning in said)
    measured = (
        f"{bare} damaged checkpoints: {caught} caught, {wrong} read; {whole} journals with damaged checkpoints: "
        f"{fell_back} resumed from older ones or by replay, {different} states differ, {silent} without a warning"
    )
    return Outcome(measured, not wrong and not different and not silent)


def resumption(path: Path, expected: dict[int, str]) -> str:
    """What becomes of a damaged journal; ``expected`` is the right digest after so many results."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with bb.Optimizer.resume(path, steal=True) as optimizer:
                evaluations, found = optimizer.evaluations, digest(optimizer)
                with Journal.open(path, read_only=True) as journal:
                    list(journal.events())  # those before the checkpoint, which a resume does not need
        except BlackboxError:
            return "refused"
        except Exception as error:
            return f"raised {type(error).__name__}"
    if found != expected.get(evaluations):
        return "changed"
    if said:
        return "warned"
    return "unharmed" if evaluations == max(expected) else "shortened without a word"


def journals(scale: float, folder: Path) -> Outcome:
    """R6. Half of the damage is done to a closed file, half to the log of a run that was killed."""
    count = scaled(6000, scale, 100)
    path, closed, copy = folder / "run.db", folder / "closed.db", folder / "copy.db"
    evaluations = 250
    plain, expected = make("cma-es"), {}
    expected[0] = digest(plain)
    frequent_checkpoints(7)
    optimizer = make("cma-es", path)
    for number in range(1, evaluations + 1):
        advance(optimizer, number)
        advance(plain, number)
        expected[number] = digest(plain)
    copy_journal(path, folder / "killed.db")
    optimizer.close()
    frequent_checkpoints(None)
    copy_journal(path, closed)
    results = {}
    for source in (closed, folder / "killed.db"):  # what is not damaged is not reported
        copy_journal(source, copy)
        if (found := resumption(copy, expected)) != "unharmed":
            return Outcome(f"a good journal is {found}", False)
    for name, source, suffix in (("file", closed, ""), ("log", folder / "killed.db", "-wal")):
        rng, data, outcomes = np.random.default_rng(0), Path(f"{source}{suffix}").read_bytes(), Counter[str]()
        for number in range(count // 2):
            copy_journal(source, copy)
            Path(f"{copy}{suffix}").write_bytes((flips if number % 4 else lost_pages)(rng, data))
            outcomes[resumption(copy, expected)] += 1
        results[name] = outcomes
    total = sum(results.values(), Counter[str]())
    bad = sum(number for kind, number in total.items() if kind not in ("refused", "warned", "unharmed"))
    parts = [
        f"{name}: " + ", ".join(f"{n} {kind}" for kind, n in found.most_common()) for name, found in results.items()
    ]
    return Outcome(f"{count} damaged journals: {bad} silent changes; " + "; ".join(parts), not bad)


# ---- R13


def hostile_files(folder: Path, marker: Path) -> Iterator[tuple[str, Path]]:
    """Journals that hold what should not be there, each with its kind."""
    base = folder / "base.db"
    with make("cma-es", base) as optimizer:
        advance(optimizer, 30)
    for number, (kind, payload) in enumerate(hostile_checkpoints(marker).items()):
        path = folder / f"checkpoint-{number}.db"
        copy_journal(base, path)
        hostile = payload()
        # The payloads are signed for position 1.
        assert_signed(hostile)
        update(path, "INSERT INTO state VALUES (1, ?, ?, ?)", *hostile)
        yield f"checkpoint: {kind}", path
    for number, (kind, statements) in enumerate(HOSTILE_JOURNALS.items()):
        path = folder / f"journal-{number}.db"
        copy_journal(base, path)
        for statement in statements:
            update(path, statement)
        yield f"journal: {kind}", path
    trap = pickle.dumps(Trap(marker))
    path = folder / "pickle.db"
    path.write_bytes(trap)
    yield "a pickle for a journal", path
    path = folder / "zip.db"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("run.db", bytes(2**27))
    yield "a compressed journal", path
    path = folder / "configuration.db"
    copy_journal(base, path)
    update(path, "UPDATE run SET configuration = ?", "[" * 10**6)
    yield "a deep configuration", path


def assert_signed(hostile: Checkpoint) -> None:
    """RuntimeError if a payload would be refused by its digest alone, which would test nothing."""
    if checkpoint_digest(1, hostile.manifest, hostile.arrays) != hostile.digest:
        raise RuntimeError("a hostile checkpoint has a wrong digest")


def peak_memory() -> int:
    """Bytes that this process has held at most. (``getrusage`` would count the parent's before the child began.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def attacked(marker: str, files: str) -> tuple[int, int, list[str], int]:
    """In a child: number of kinds, of files that were made by code that ran, kinds that were taken in, memory."""
    taken, kinds = [], 0
    bb.create("cma-es")
    before = peak_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = make("cma-es")
        advance(plain, 30)
        expected = digest(plain)
        for kind, path in json.loads(files):
            kinds += 1
            try:
                with bb.Optimizer.resume(path) as optimizer:
                    if not kind.startswith("checkpoint") or digest(optimizer) != expected:
                        taken.append(kind)
            except BlackboxError:
                if kind.startswith("checkpoint"):  # it only had to be passed over
                    taken.append(kind)
    after = peak_memory()
    return kinds, int(Path(marker).exists()), taken, after - before


def hostile(scale: float, folder: Path) -> Outcome:
    """R13. Files are made first; then one process opens them all."""
    if not Path("/proc/self/status").exists():
        return Outcome("not measured: needs /proc", None)
    marker = folder / "marker"
    files = [(kind, str(path)) for kind, path in hostile_files(folder, marker)]
    child = start(
        "import figures.damage as d, json; print(json.dumps(d.attacked(*sys.argv[1:])))", marker, json.dumps(files)
    )
    kinds, ran, taken, memory = json.loads(finish(child))
    measured = (
        f"{kinds} kinds: code ran {ran} times, {len(taken)} taken in, peak memory grows by {memory / 2**20:.1f} MiB"
    )
    return Outcome(measured + "".join(f"; {kind}" for kind in taken), not ran and not taken and memory < 100e6)


FIGURES = [
    Figure(
        "R5", "flips and cuts of a checkpoint: 10,000", "wrong value returned 0; falls back to an older one or replay",
        checkpoints,
    ),
    Figure("R6", "flips, lost pages and cuts of the journal and of its log", "never a silent change", journals),
    Figure("R13", "pickles, bombs and altered schemas", "code run 0; memory < 100 MB", hostile),
]  # fmt: skip
