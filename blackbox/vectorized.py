"""Evaluation of a JAX population, stored or virtual, as one compiled program: in chunks, and shared by devices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from blackbox.arrays import placed
from blackbox.perturbed.sweep import Program

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from blackbox.virtual import CoordinatePopulation


@dataclasses.dataclass(frozen=True)
class StoredPopulation:
    """An array of candidates, with the interface of a virtual population."""

    rows: Float[Array, "n d"]
    paired: bool = False

    def without_rows(self) -> StoredPopulation:
        """What candidates are made with."""
        return StoredPopulation(self.rows[:0])

    def candidates(self, rows: Float[Array, "k d"]) -> tuple[Float[Array, "k d"], int]:
        return rows, 0

    def member(self, candidate: Float[Array, "d"]) -> Float[Array, "d"]:
        return candidate

    def __len__(self) -> int:
        return self.rows.shape[0]


jax.tree_util.register_dataclass(StoredPopulation, data_fields=["rows"], meta_fields=["paired"])


def evaluate_vectorized(
    fn: Callable[..., Any],
    axes: tuple[int | None, ...],
    chunk: int | None,
    mesh: Any,
    population: Any,
    args: tuple[Any, ...],
) -> Any:
    """:func:`blackbox.evaluate` with JAX. Pairs of members stay in one chunk and on one device.

    Args:
        fn: a function of one candidate and ``args``, hashable.
        axes: of each argument 0 or None, as in ``jax.vmap``.
        chunk: members at once on a device; None for all.
        mesh: of one axis, over which members are shared; None for one device.
        population: a :class:`StoredPopulation` or a virtual one.
        args: trees of arrays and of hashable constants.
    """
    devices = 1 if mesh is None else mesh.devices.size
    n = len(population)
    share = -(-n // (2 * devices)) * 2 if population.paired else -(-n // devices)  # members of a device
    size = min(chunk or share, share)
    if population.paired and size % 2:
        size += 1  # the two sides of a pair share their noise
    form, arrays = parted(args)
    if getattr(population, "counts", None) is not None and not any(axis == 0 for axis in axes):
        return _swept(fn, form, chunk, mesh, population, arrays)
    return _evaluated(fn, axes, form, size, share, mesh, population, arrays)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _evaluated(
    fn: Callable[..., Any],
    axes: tuple[int | None, ...],
    form: Any,
    size: int,
    share: int,
    mesh: Any,
    population: Any,
    arrays: list[Any],
) -> Any:
    args = joined_arguments(form, arrays)
    own = [a for a, axis in zip(args, axes, strict=True) if axis == 0]
    shared = [a for a, axis in zip(args, axes, strict=True) if axis is None]
    virtual = not isinstance(population, StoredPopulation)

    def one(population: Any, shared: list[Any], candidate: Any, own: list[Any]) -> Any:
        both = {0: iter(own), None: iter(shared)}
        full = [next(both[axis]) for axis in axes]

        def call(candidate: Any) -> Any:
            return fn(population.member(candidate), *full)

        if not virtual:
            return call(candidate)
        from blackbox.perturbed import perturbed

        return perturbed(call)(candidate)

    def device(population: Any, shared: list[Any], rows: Any, own: list[Any]) -> Any:
        def block(part: tuple[Any, list[Any]]) -> Any:
            candidates, in_axes = population.candidates(part[0])
            return jax.vmap(partial(one, population, shared), in_axes=(in_axes, 0))(candidates, part[1])

        return _in_blocks(block, (rows, own), size)

    members = (population.rows, own)
    n = len(population)
    if mesh is None:
        out = device(population, shared, *jax.tree.map(lambda x: _fill(x, share), members))
    else:
        whole, split = PartitionSpec(), PartitionSpec(mesh.axis_names[0])
        sharded = jax.shard_map(
            device, mesh=mesh, in_specs=(whole, whole, split, split), out_specs=split, check_vma=False
        )
        filled = jax.tree.map(lambda x: placed(_fill(x, share * mesh.devices.size), mesh, split), members)
        # Every process of a cluster sees all results: they are a few numbers per member.
        kept = population if virtual else population.without_rows()  # each device needs its own rows alone
        out = jax.tree.map(lambda x: placed(x, mesh, whole), sharded(kept, shared, *filled))
    return jax.tree.map(lambda x: x[:n], out)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _swept(
    fn: Callable[..., Any],
    form: Any,
    chunk: int | None,
    mesh: Any,
    population: CoordinatePopulation,
    arrays: list[Any],
) -> Any:
    """Members that differ in single entries, those of one weight together: only what comes after it is run again."""
    assert population.counts is not None
    devices = 1 if mesh is None else mesh.devices.size
    sizes = [math.prod(weight.shape) for weight in population.structure.weights]
    groups, begin, first = [], 0, 0
    for number, (size, count) in enumerate(zip(sizes, population.counts, strict=True)):
        if count:
            rows = (population.coordinates[begin : begin + count] - first, population.steps[begin : begin + count])
            groups.append((number, count, tuple(_fill(x, -(-count // devices) * devices) for x in rows)))
        begin, first = begin + count, first + size

    def device(population: CoordinatePopulation, arrays: list[Any], shares: list[Any]) -> list[Any]:
        args = joined_arguments(form, arrays)
        program = Program(lambda *weights: fn(population.member(weights), *args), *population.weights)
        values = program.run(*population.weights)
        out = []
        for (number, _, _), rows in zip(groups, shares, strict=True):
            changed = jax.vmap(partial(program.changed, number, program.after(number), values))
            out.append(_in_blocks(changed, rows, chunk))
        return out

    shares = [rows for _, _, rows in groups]
    if mesh is None:
        found = device(population, arrays, shares)
    else:
        whole, split = PartitionSpec(), PartitionSpec(mesh.axis_names[0])
        sharded = jax.shard_map(device, mesh=mesh, in_specs=(whole, whole, split), out_specs=split, check_vma=False)
        kept = dataclasses.replace(population, coordinates=population.coordinates[:0], steps=population.steps[:0])
        placed_shares = jax.tree.map(lambda x: placed(x, mesh, split), shares)
        found = jax.tree.map(lambda x: placed(x, mesh, whole), sharded(kept, arrays, placed_shares))
    counts = [count for _, count, _ in groups]

    def joined(*parts: Array) -> Array:
        return jnp.concatenate([part[:count] for part, count in zip(parts, counts, strict=True)])

    return jax.tree.map(joined, *found)


def parted(args: Any) -> tuple[Any, list[Any]]:
    """The form of an objective's arguments with its constants, hashable; and the arrays and numbers among them."""
    leaves, treedef = jax.tree.flatten(args)
    is_array = [isinstance(x, jax.Array | np.ndarray | np.generic | float | int | bool) for x in leaves]
    constants = tuple(None if yes else (x,) for x, yes in zip(leaves, is_array, strict=True))
    return (treedef, constants), [x for x, yes in zip(leaves, is_array, strict=True) if yes]


def joined_arguments(form: Any, arrays: Iterable[Any]) -> Any:
    """The arguments of an objective: arrays, and the constants that its program is compiled for."""
    treedef, constants = form
    given = iter(arrays)
    return jax.tree.unflatten(treedef, [next(given) if part is None else part[0] for part in constants])


def _in_blocks(block: Callable[[Any], Any], rows: Any, size: int | None) -> Any:
    """``block`` of ``size`` rows at a time, of all at once for None."""
    n = jax.tree.leaves(rows)[0].shape[0]
    size = min(size or n, n)
    if (steps := -(-n // size)) == 1:
        return block(rows)
    parts = jax.tree.map(lambda x: _fill(x, steps * size).reshape(steps, size, *x.shape[1:]), rows)
    out = jax.lax.scan(lambda _, part: (None, block(part)), None, parts)[1]
    return jax.tree.map(lambda x: x.reshape(steps * size, *x.shape[2:])[:n], out)


def _fill(x: Array, n: int) -> Array:
    """``n`` rows: those of ``x``, and its first ones again."""
    return x if x.shape[0] == n else jnp.resize(x, (n, *x.shape[1:]))
