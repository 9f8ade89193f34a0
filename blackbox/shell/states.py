"""Strategy states as named arrays and back: what a checkpoint holds. Never pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from blackbox.errors import CheckpointError


def flatten(state: Any, name: str = "state") -> dict[str, np.ndarray]:
    """The arrays of a tree of tuples by their path, as ``state.stall.low``; None has no arrays.

    Matrices in Fortran order are stored transposed, as ``state.B.T``: the order decides which routine multiplies
    them, and so the last bits of whatever follows.
    """
    arrays = {}
    for path, leaf in _leaves(state, name):
        array = np.asarray(leaf)
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        arrays[path + ".T" if fortran else path] = array.T if fortran else array
    return arrays


def unflatten(like: Any, arrays: Mapping[str, np.ndarray], name: str = "state") -> Any:
    """The tree whose :func:`flatten` gave ``arrays``.

    Args:
        like: a tree of the same types, shapes and dtypes: a fresh state of the same strategy. An array without rows
            may have got any number of them: logs grow.
        arrays: by path; others than this tree's are ignored.

    Raises:
        CheckpointError: an array is missing, or has another shape or dtype.
    """
    if like is None:
        return None
    if isinstance(like, tuple):
        names = getattr(like, "_fields", range(len(like)))
        children = [unflatten(leaf, arrays, f"{name}.{field}") for field, leaf in zip(names, like, strict=True)]
        return type(like)(*children) if hasattr(like, "_fields") else tuple(children)
    due = np.asarray(like)
    if name + ".T" in arrays:
        found = arrays[name + ".T"].T
    elif name in arrays:
        found = arrays[name]
    else:
        raise CheckpointError(f"checkpoint: {name} is missing")
    grown = due.ndim == found.ndim > 0 and due.shape[0] == 0 and found.shape[1:] == due.shape[1:]
    if not (grown or found.shape == due.shape) or found.dtype != due.dtype:
        raise CheckpointError(
            f"checkpoint: {name} must be {due.dtype} of shape {due.shape}; got {found.dtype} of shape {found.shape}"
        )
    if isinstance(like, np.ndarray):
        return np.array(found)  # keeps the order
    return found[()] if isinstance(like, np.generic) else type(like)(found[()])


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, tuple):
        names = getattr(tree, "_fields", range(len(tree)))
        for field, leaf in zip(names, tree, strict=True):
            yield from _leaves(leaf, f"{name}.{field}")
    elif tree is not None:
        yield name, tree
