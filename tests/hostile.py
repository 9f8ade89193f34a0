"""Checkpoints and journals made to run code, to take all memory or to be mistaken for others.

All digests in them are right: whoever can write the file can write those, too.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from blackbox.storage.checkpoint import Checkpoint, digest


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), **options)
    return buffer.getvalue()


def header(shape: tuple[int, ...], descr: str = "<f8", fortran: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return buffer.getvalue()


def archive(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def signed(described: Any, data: bytes, facts: Any = None) -> Checkpoint:
    manifest = json.dumps({"arrays": described, "facts": facts or {}})
    return Checkpoint(manifest, data, digest(1, manifest, data))


def one(dtype: str, shape: list[int], content: bytes, **options: Any) -> Checkpoint:
    return signed({"a": {"dtype": dtype, "shape": shape}}, archive(("a.npy", content), **options))


def overlapping() -> bytes:
    """Two entries of the directory that point to the same megabyte."""
    data = archive(("a.npy", npy(np.zeros(2**17))), ("b.npy", b""))
    directory = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", directory + 4)
    entry = bytearray(data[directory:second])
    entry[46:51] = b"b.npy"
    end = data.rindex(b"PK\x05\x06")
    tail = bytearray(data[end:])
    tail[12:16] = (2 * len(entry)).to_bytes(4, "little")
    return data[:second] + bytes(entry) + bytes(tail)


def hostile_checkpoints(marker: Path) -> dict[str, Callable[[], Checkpoint]]:
    pickled = npy(np.array([Trap(marker)], dtype=object), allow_pickle=True)
    good = npy(np.zeros(4))
    entry = {"dtype": "<f8", "shape": [4]}
    return {
        "pickle said to be floats": lambda: one("<f8", [1], pickled),
        "pickle said to be objects": lambda: one("|O", [1], pickled),
        "pickle under another name": lambda: one("O", [1], pickled),
        "bare pickle": lambda: one("<f8", [4], pickled[pickled.index(b"\x80") :]),
        "void dtype": lambda: one("|V8", [4], npy(np.zeros(4, "V8"))),
        "dtype of fields": lambda: one("[('x', '<f8')]", [4], npy(np.zeros(4, [("x", "f8")]))),
        "zip bomb": lambda: one("<f8", [2**21], npy(np.zeros(2**21)), compression=zipfile.ZIP_DEFLATED),
        "huge shape in header": lambda: one("<f8", [4], header((2**40,)) + bytes(32)),
        "huge shape in both": lambda: one("<f8", [2**40], header((2**40,)) + bytes(32)),
        "shape that overflows": lambda: one("<f8", [2**32, 2**32], header((2**32, 2**32)) + bytes(32)),
        "negative shape": lambda: one("<f8", [-1], header((-1,)) + bytes(32)),
        "a thousand dimensions": lambda: one("<f8", [1] * 1000, header((1,) * 1000) + bytes(8)),
        "shape of strings": lambda: one("<f8", ["4"], good),  # type: ignore[list-item]
        "header of another dtype": lambda: one("<f8", [4], header((4,), "<i8") + bytes(32)),
        "Fortran order": lambda: one("<f8", [2, 2], header((2, 2), fortran=True) + bytes(32)),
        "long header": lambda: one("<f8", [4], npy(np.zeros(4))[:10] + b" " * 200_000),
        "extra member": lambda: signed({"a": entry}, archive(("a.npy", good), ("b.npy", good))),
        "missing member": lambda: signed({"a": entry, "b": entry}, archive(("a.npy", good))),
        "member twice": lambda: signed({"a": entry}, archive(("a.npy", good), ("c.npy", good)).replace(b"c.", b"a.")),
        "absolute path": lambda: signed({"/etc/a": entry}, archive(("/etc/a.npy", good))),
        "path upwards": lambda: signed({"../a": entry}, archive(("../a.npy", good))),
        "overlapping members": lambda: signed(
            {n: {"dtype": "<f8", "shape": [2**17]} for n in ("a", "b")}, overlapping()
        ),
        "no archive": lambda: signed({"a": entry}, b"\x80\x04K\x01."),
        "empty": lambda: signed({"a": entry}, b""),
        "manifest is a list": lambda: Checkpoint("[]", b"", digest(1, "[]", b"")),
        "manifest is deep": lambda: Checkpoint("[" * 10**5, b"", digest(1, "[" * 10**5, b"")),
        "manifest without facts": lambda: Checkpoint('{"arrays": {}}', b"", digest(1, '{"arrays": {}}', b"")),
        "arrays are a list": lambda: signed([entry], archive()),
    }  # fmt: skip


HOSTILE_JOURNALS = {
    "view": ["ALTER TABLE tell RENAME TO real", "CREATE VIEW tell AS SELECT * FROM real"],
    "endless view": [
        "DROP TABLE note",
        "CREATE VIEW note AS WITH RECURSIVE n(key) AS (SELECT 1 UNION ALL SELECT key + 1 FROM n) SELECT key FROM n",
    ],
    "trigger": ["CREATE TRIGGER t AFTER INSERT ON tell BEGIN DELETE FROM tell; END"],
    "index on an expression": ["CREATE INDEX i ON tell (abs(value))"],
    "generated column": ["ALTER TABLE note ADD COLUMN x GENERATED ALWAYS AS (zeroblob(1000000000))"],
    "other table": ["CREATE TABLE more (x)"],
    "table missing": ["DROP TABLE state"],
    "run missing": ["DELETE FROM run"],
    "writer missing": ["DELETE FROM writer"],
    "types in run": ["UPDATE run SET configuration = x'80'"],
    "types in writer": ["UPDATE writer SET revision = 'x'"],
    "end of another type": ["UPDATE writer SET digest = 'x'"],
}
"""From kind to the statements that make a journal with at least one result hostile."""
