"""States of strategies, and trees of parameters, in files: a checkpoint of a run of JAX programs.

A state is all that a run needs to go on, so a run that is saved, killed and loaded again has the bits of one that never
stopped. Arrays are kept by number with the paths of their leaves beside them, under one SHA-256 digest; nothing in a
file is executed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from blackbox.errors import CheckpointError
from blackbox.storage.checkpoint import Checkpoint, pack, unpack
from blackbox.whole_file import write_whole

T = TypeVar("T")

_HEAD = b"blackbox state 1\n"
_DIGEST = 32  # bytes
_LENGTH = 8  # bytes of the manifest's length
_BYTES = "bytes"  # as the name of a dtype


def save(path: str | os.PathLike[str], state: Any) -> None:
    """Write a state to a file, whole or not at all: an interrupted call leaves the former file as it was.

    Args:
        path: of the file, replaced if it exists.
        state: any pytree, such as the state of a strategy. Leaves that are neither arrays nor bytes are not kept.

    Raises:
        CheckpointError: a leaf is an array of something else than numbers.
        OSError: the file cannot be written.
    """
    names, leaves = _named(state)
    arrays, dtypes = {}, []
    for i, leaf in enumerate(leaves):
        try:
            dtype, array = _numbers(leaf)
        except TypeError as error:
            raise CheckpointError(f"state: {names[i]} is no array of numbers") from error
        dtypes.append(dtype)
        arrays[str(i)] = _plain(array)
    manifest, data, digest = pack(0, arrays, {"leaves": names, "dtypes": dtypes})
    text = manifest.encode()
    write_whole(Path(path), [_HEAD, digest, len(text).to_bytes(_LENGTH, "little"), text, data])


def load(path: str | os.PathLike[str], like: T) -> T:
    """The state that was saved.

    Args:
        path: of the file.
        like: a state of the same form, such as ``strategy.init(key, params)``; it gives the tree, and the leaves that
            are not kept. Bytes may have any length in it.

    Raises:
        CheckpointError: the file is damaged or of something else, or its leaves differ from those of ``like``.
        OSError: the file cannot be read.
    """
    import jax

    content = Path(path).read_bytes()
    start = len(_HEAD) + _DIGEST + _LENGTH
    if not content.startswith(_HEAD) or len(content) < start:
        raise CheckpointError(f"{os.fspath(path)} is no state saved by blackbox.save")
    length = int.from_bytes(content[start - _LENGTH : start], "little")
    digest, text = content[len(_HEAD) : len(_HEAD) + _DIGEST], content[start : start + length]
    try:
        arrays, facts = unpack(0, Checkpoint(text.decode(errors="replace"), content[start + length :], digest))
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error
    names, leaves = _named(like)
    saved = dict(zip(facts["leaves"], zip(facts["dtypes"], arrays.values(), strict=True), strict=True))
    if facts["leaves"] != names:
        missing, spare = sorted({*names} - {*saved}), sorted({*saved} - {*names})
        raise CheckpointError(f"{os.fspath(path)}: like has other leaves; missing in the file {missing}, spare {spare}")
    found: list[Any] = []
    for name, leaf in zip(names, leaves, strict=True):
        (due_dtype, due), (dtype, array) = _numbers(leaf), saved[name]
        if dtype == due_dtype == _BYTES:
            found.append(array.tobytes())
            continue
        if (dtype, array.shape) != (due_dtype, due.shape):
            expected, got = f"{due_dtype} of shape {due.shape}", f"{dtype} of shape {array.shape}"
            raise CheckpointError(f"{os.fspath(path)}: {name} must be {expected}, got {got}")
        array = array.view(due.dtype)
        if _is_key(leaf):
            found.append(jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)))
        else:
            found.append(jax.numpy.asarray(array) if isinstance(leaf, jax.Array) else array)
    every, treedef = jax.tree.flatten(like)
    rest = iter(found)
    return jax.tree.unflatten(treedef, [next(rest) if _is_array(leaf) else leaf for leaf in every])


def _named(tree: Any) -> tuple[list[str], list[Any]]:
    """Paths and values of the leaves that are kept."""
    import jax

    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    kept = [(jax.tree_util.keystr(path), leaf) for path, leaf in flat if _is_array(leaf)]
    return [name for name, _ in kept], [leaf for _, leaf in kept]


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, bytes) or (hasattr(leaf, "dtype") and hasattr(leaf, "shape"))


def _is_key(leaf: Any) -> bool:
    import jax

    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _numbers(leaf: Any) -> tuple[str, np.ndarray]:
    """The dtype's name and the array, of JAX's random keys their numbers."""
    import jax

    if _is_key(leaf):
        return str(leaf.dtype), np.asarray(jax.random.key_data(leaf))
    if isinstance(leaf, bytes):
        return _BYTES, np.frombuffer(leaf, np.uint8)
    array = np.asarray(leaf)
    return array.dtype.name, array


def _plain(array: np.ndarray) -> np.ndarray:
    """Numbers that NumPy itself knows: others, such as bfloat16, as their bits."""
    foreign = array.dtype.kind == "V" and array.dtype.names is None
    return array.view(np.dtype(f"u{array.dtype.itemsize}")) if foreign else array
