"""Evaluating a population: a function of one candidate, applied to every member."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from blackbox.arrays import Array, is_jax, namespace
from blackbox.errors import SettingError


def evaluate(
    fn: Callable[..., Any],
    population: Array,
    *args: Any,
    in_axes: int | Sequence[int | None] | None = None,
    chunk: int | None = None,
    mesh: Any = None,
) -> Any:
    """``fn(candidate, *args)`` for every member, stacked on a leading axis.

    With JAX arrays this is one vectorized program, compiled when ``fn`` is first seen and remembered: call it with
    the same function again, and hand what changes from call to call over in ``args``. With NumPy arrays it is a
    loop, so ``fn`` may be anything.

    A function that has a faster way for many may be an object with a method ``of_population(population, *args)``, which
    is asked first where all arguments are shared, without a ``chunk`` and a ``mesh``. It returns what this function
    would, or NotImplemented. :class:`blackbox.problems.episodes.Play` is one.

    Args:
        fn: a function of one candidate, shape ``(d,)``. It may return a scalar (the result is then the fitness,
            shape ``(n,)``) or a tuple, list or dictionary of arrays.
        population: shape ``(n, d)``, at least one row, or a virtual population of a JAX model's parameters.
        args: further arguments of ``fn``: arrays, and trees of them.
        in_axes: per argument of ``args`` whether it is shared by all members (None) or has a leading axis of one
            entry per member (0), which holds for all arrays of the argument; a single value holds for all arguments.
        chunk: members evaluated at once, to bound memory; all by default, and always one in a loop. Each device of
            a mesh counts its own.
        mesh: a one-dimensional ``jax.sharding.Mesh`` whose devices share the members. JAX arrays only.

    Raises:
        SettingError: if ``population`` is no array of rows, or ``in_axes``, an argument of ``args``, ``chunk`` or
            ``mesh`` does not fit it.
    """
    virtual = hasattr(population, "candidates")
    if not virtual and (len(getattr(population, "shape", ())) != 2 or population.shape[0] < 1):
        got = f"one of shape {tuple(population.shape)}" if hasattr(population, "shape") else repr(population)
        raise SettingError(f"population must be an array of shape (n, d) with n >= 1, got {got}")
    if virtual and len(population) < 1:
        raise SettingError("population must have at least one member")
    axes = tuple(in_axes) if isinstance(in_axes, Sequence) else (in_axes,) * len(args)
    if len(axes) != len(args) or any(axis not in (None, 0) for axis in axes):
        raise SettingError(f"in_axes must be None or 0 for each of the {len(args)} arguments, got {in_axes!r}")
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, Integral) or chunk < 1):
        raise SettingError(f"chunk must be an integer >= 1, got {chunk!r}")
    is_traced = virtual or is_jax(population)
    for argument, axis in zip(args, axes, strict=True):
        if axis is not None:
            _require_rows(_arrays_of(argument, is_traced), len(population))
    if hasattr(fn, "of_population") and chunk is None and mesh is None and not any(axis == 0 for axis in axes):
        found = fn.of_population(population, *args)
        if found is not NotImplemented:
            return found
    if is_traced:
        from blackbox.vectorized import StoredPopulation, evaluate_vectorized

        members = population if virtual else StoredPopulation(population)
        return evaluate_vectorized(hashable(fn), axes, chunk, _required_mesh(mesh), members, args)
    if mesh is not None:
        raise SettingError("mesh needs a population of JAX arrays; this one is a " + type(population).__name__)
    values = [
        fn(population[i, ...], *(a if axis is None else _entry(a, i) for a, axis in zip(args, axes, strict=True)))
        for i in range(population.shape[0])
    ]
    return _stack(values, namespace(population))


def _arrays_of(argument: Any, is_traced: bool) -> list[Any]:
    """The leaves of an argument: of any tree that JAX knows, else of dictionaries, tuples and lists."""
    if is_traced:
        import jax

        return jax.tree.leaves(argument)
    if not isinstance(argument, dict | tuple | list):
        return [argument]
    parts = argument.values() if isinstance(argument, dict) else argument
    return [array for part in parts for array in _arrays_of(part, is_traced)]


def _require_rows(arrays: list[Any], n: int) -> None:
    """Raise :class:`SettingError` unless each array has a leading axis of ``n``."""
    for array in arrays:
        if (shape := tuple(getattr(array, "shape", ())))[:1] != (n,):
            raise SettingError(f"in_axes is 0 for an argument of shape {shape}, but there are {n} members")


def _entry(argument: Any, i: int) -> Any:
    """Member ``i``'s share of a tree of arrays."""
    if isinstance(argument, dict):
        return {name: _entry(part, i) for name, part in argument.items()}
    if isinstance(argument, tuple | list):
        return _rebuilt(argument, [_entry(part, i) for part in argument])
    return argument[i]


def _rebuilt(like: Any, parts: list[Any]) -> Any:
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def _stack(values: list[Any], xp: Any) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return {name: _stack([v[name] for v in values], xp) for name in first}
    if isinstance(first, tuple | list):
        return _rebuilt(first, [_stack([v[i] for v in values], xp) for i in range(len(first))])
    return np.asarray(values) if xp is np else xp.stack([xp.asarray(v) for v in values])


def _required_mesh(mesh: Any) -> Any:
    """``mesh`` itself, or SettingError unless it is None or has one axis."""
    if mesh is not None and len(getattr(mesh, "axis_names", ())) != 1:
        raise SettingError(f"mesh must be a jax.sharding.Mesh of one axis, the members'; got {mesh!r}")
    return mesh


def hashable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn``, which what was compiled for it can be remembered by; each time another function if it has no hash."""
    try:
        hash(fn)
    except TypeError:
        return lambda *args: fn(*args)
    return fn
