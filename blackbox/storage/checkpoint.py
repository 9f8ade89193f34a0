"""Named arrays and JSON facts as bytes that cannot be read back wrong, and cannot run code or exhaust memory.

A checkpoint is a JSON manifest and an ``.npz`` archive (stored, never compressed), under one SHA-256 digest. Reading
goes from cheap to dear: digest, manifest, list of members, header of each member, and only then arrays are made,
whose sizes are known by then to be those of the bytes at hand.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from blackbox.errors import CheckpointError

_DTYPE = re.compile(r"[<|][biufc](1|2|4|8|16)")
_NAME = re.compile(r"(?!/)(?!.*\.\.)[\w./\[\]-]{1,200}", re.ASCII)
_NPY: Any = np.lib.format  # which NumPy types from 2.4 on
_HEADER_LIMIT = 10_000  # bytes of an .npy header


class Checkpoint(NamedTuple):
    """A state in storable form."""

    manifest: str
    arrays: bytes
    digest: bytes


def digest(position: int, manifest: str, arrays: bytes) -> bytes:
    """SHA-256 of all that a checkpoint says."""
    text = manifest.encode()
    return hashlib.sha256(b"%d:%d:" % (position, len(text)) + text + arrays).digest()


def pack(position: int, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Checkpoint:
    """The state after ``position`` events as manifest, archive and digest.

    Args:
        position: number of events that led to the state.
        arrays: named arrays of numbers or booleans, of any shape.
        facts: anything JSON can hold.

    Raises:
        CheckpointError: for a name or an array that could not be read back, or facts that are not JSON.
    """
    described: dict[str, Any] = {}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, given in arrays.items():
            array = np.asarray(given)
            if not _NAME.fullmatch(name):
                raise CheckpointError(f"arrays: name {name!r} may hold letters, digits and _ . / [ ] - only, up to 200")
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            if not _DTYPE.fullmatch(array.dtype.str):
                raise CheckpointError(f"arrays: {name!r} has dtype {array.dtype}; only numbers and booleans are kept")
            described[name] = {"dtype": array.dtype.str, "shape": list(array.shape)}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _NPY.write_array(member, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
    try:
        manifest = json.dumps({"arrays": described, "facts": dict(facts)})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"manifest must hold JSON values only: {error}") from error
    data = buffer.getvalue()
    return Checkpoint(manifest, data, digest(position, manifest, data))


def unpack(position: int, checkpoint: Checkpoint) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and facts of a packed checkpoint.

    Raises:
        CheckpointError: when anything differs from what was packed.
    """
    manifest, data, expected = checkpoint
    if not isinstance(manifest, str) or not isinstance(data, bytes):
        raise CheckpointError("it is of another type")
    if digest(position, manifest, data) != expected:
        raise CheckpointError("its SHA-256 digest does not match")
    try:
        content = json.loads(manifest)
        described, facts = content["arrays"], content["facts"]
        shapes = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in described.items()}
        for name, (dtype, shape) in shapes.items():
            _require(_NAME.fullmatch(name), f"has a member {name!r}")
            _require(_DTYPE.fullmatch(dtype), f"has dtype {dtype!r}")
            _require(len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape), f"has shape {shape!r}")
        _require(isinstance(facts, dict), "has no facts")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _require(archive.namelist() == [f"{name}.npy" for name in shapes], "holds other arrays than it lists")
            total = sum(info.file_size for info in archive.infolist())
            _require(total <= len(data), "has members that overlap or are compressed")
            return {name: _read(archive, name, *expected) for name, expected in shapes.items()}, facts
    except CheckpointError:
        raise
    except Exception as error:  # whatever a hostile archive makes zipfile, json or numpy raise
        raise CheckpointError(f"cannot be read: {error}") from error


def _read(archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    info = archive.getinfo(f"{name}.npy")
    size = math.prod(shape) * np.dtype(dtype).itemsize
    stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    _require(stored and size <= info.file_size <= size + _HEADER_LIMIT, f"has a member {name!r} of another size")
    with archive.open(info) as member:
        version = _NPY.read_magic(member)
        _require(version == (1, 0), f"has a member {name!r} in .npy version {version}")
        header = _NPY.read_array_header_1_0(member, max_header_size=_HEADER_LIMIT)
        _require(header == (shape, False, np.dtype(dtype)), f"has a member {name!r} with header {header}")
        content = member.read()
    _require(len(content) == size, f"has a member {name!r} of another size")
    return np.frombuffer(content, dtype=dtype).reshape(shape).copy()


def _require(holds: object, what: str) -> None:
    if not holds:
        raise CheckpointError(what)
