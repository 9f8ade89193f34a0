"""Checkpoints: they come back bit for bit or not at all, and hostile ones neither run code nor take memory."""

from __future__ import annotations

import io
import json
import math
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blackbox.checkpoint import Checkpoint, digest, pack, unpack
from blackbox.errors import CheckpointError

ARRAYS = {
    "state.mean": np.arange(5.0),
    "state.C": np.eye(3)[:, ::-1],
    "state.key": np.array([1, 2**32 - 1], dtype=np.uint32),
    "state.generation": np.array(7),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 3), dtype=np.float32),
    "edge": np.array([math.nan, -0.0, math.inf, 5e-324]),
    "z": np.array([1 + 2j]),
    "big-endian": np.arange(3, dtype=">i8"),
}
FACTS = {"run": {"number": 2}, "seconds": 1.5, "none": None}


def test_arrays_and_facts_come_back_bit_for_bit() -> None:
    arrays, facts = unpack(12, pack(12, ARRAYS, FACTS))
    assert facts == FACTS
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype.newbyteorder("<")
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
        assert arrays[name].flags.writeable
        assert arrays[name].flags.aligned


def test_the_same_state_gives_the_same_bytes() -> None:
    assert pack(12, ARRAYS, FACTS) == pack(12, ARRAYS, FACTS)


def test_archive_is_an_ordinary_npz() -> None:
    archive = np.load(io.BytesIO(pack(0, ARRAYS, {}).arrays), allow_pickle=False)
    assert np.array_equal(archive["state.C"], ARRAYS["state.C"])


def test_no_arrays_and_no_facts() -> None:
    assert unpack(0, pack(0, {}, {})) == ({}, {})


@pytest.mark.parametrize(
    ("arrays", "facts", "what"),
    [
        ({"a": np.array([object()])}, {}, "'a' has dtype object"),
        ({"a": np.array(["text"])}, {}, "'a' has dtype <U4"),
        ({"a": np.array(["2026-01-01"], dtype="datetime64[D]")}, {}, "'a' has dtype datetime64"),
        ({"a": np.zeros(2, dtype=[("x", "f8")])}, {}, "'a' has dtype"),
        ({"/etc/a": np.zeros(2)}, {}, "name '/etc/a'"),
        ({"../a": np.zeros(2)}, {}, r"name '\.\./a'"),
        ({"": np.zeros(2)}, {}, "name ''"),
        ({"a" * 300: np.zeros(2)}, {}, "name 'aaa"),
        ({}, {"x": np.zeros(2)}, "manifest must hold JSON"),
        ({}, {"x": {1, 2}}, "manifest must hold JSON"),
    ],
)
def test_what_could_not_be_read_back_is_refused(arrays: Any, facts: Any, what: str) -> None:
    with pytest.raises(CheckpointError, match=what):
        pack(0, arrays, facts)


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    good = pack(12, {"a": np.arange(40.0), "b": np.array(3)}, FACTS)
    rng = np.random.default_rng(0)
    for _ in range(600):
        position, data = int(rng.integers(len(good.arrays))), bytearray(good.arrays)
        data[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(CheckpointError, match="digest"):
            unpack(12, good._replace(arrays=bytes(data)))
        with pytest.raises(CheckpointError, match="digest"):
            unpack(12, good._replace(arrays=good.arrays[:position]))
    for position in range(len(good.manifest)):
        text = good.manifest[:position] + chr(ord(good.manifest[position]) ^ 1) + good.manifest[position + 1 :]
        with pytest.raises(CheckpointError, match="digest"):
            unpack(12, good._replace(manifest=text))
    with pytest.raises(CheckpointError, match="digest"):
        unpack(13, good)


# ---- hostile checkpoints, whose digest is right


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


def hostile(marker: Path) -> dict[str, Callable[[], Checkpoint]]:
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


KINDS = list(hostile(Path()))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_checkpoints_run_no_code_and_take_no_memory(kind: str, tmp_path: Path) -> None:
    """Figure R13."""
    payload = hostile(tmp_path / "marker")[kind]()
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            unpack(1, payload)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "digest" not in str(caught.value), "the payload must get past the digest to test anything"
    assert peak < 4 * len(payload.arrays) + 2**21
    assert not (tmp_path / "marker").exists()


def test_the_trap_works(tmp_path: Path) -> None:
    """Without this the tests above could not fail."""
    buffer = io.BytesIO(npy(np.array([Trap(tmp_path / "marker")], dtype=object), allow_pickle=True))
    np.lib.format.read_array(buffer, allow_pickle=True)
    assert (tmp_path / "marker").exists()
