"""Checkpoints: they come back bit for bit or not at all, and hostile ones neither run code nor take memory."""

from __future__ import annotations

import io
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import Trap, hostile_checkpoints, npy

from blackbox.errors import CheckpointError
from blackbox.storage.checkpoint import pack, unpack

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

KINDS = list(hostile_checkpoints(Path()))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_checkpoints_run_no_code_and_take_no_memory(kind: str, tmp_path: Path) -> None:
    """Figure R13."""
    payload = hostile_checkpoints(tmp_path / "marker")[kind]()
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
