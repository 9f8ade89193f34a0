"""Virtual populations: members that are named, not stored.

A population around a pytree of parameters is its center, a key, a generation and member ids: O(parameters) however
many members. The noise of a member's leaf is a function of (key, path of the leaf, generation, pair), so that adding a
layer moves no other noise, and members 2k and 2k + 1 are the two sides of pair k.

    candidate_i = center + sigma * scale * s_i * E_pair,       s_i = +1 for even members, -1 for odd ones

with ``E = A B^T / sqrt(rank)`` for leaves of low rank (Sarkar et al. 2025, arXiv:2511.16652, section 4.1; entries of A
and B of zero mean and unit variance, so that E has unit variance for every rank) or of independent entries.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError
from blackbox.kernels import xla
from blackbox.perturbed import LowRank, perturbed

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt32

    from blackbox.kernels.spec import Kind

SMALL = 16  # a matrix with a shorter side than this has dense noise: low rank would save nothing and cost variance


@dataclasses.dataclass(frozen=True)
class Leaf:
    """How the leaves whose path matches a pattern are perturbed.

    Attributes:
        noise: "low-rank", "dense" or "frozen".
        rank: of the perturbation, for "low-rank".
        scale: what sigma is multiplied with.
        stacked: leading axes that count separate weights, as of scanned layers or of experts.
        split: how many of the other axes form the first factor of a low-rank perturbation; None chooses the most
            square matrix (for a kernel (height, width, in, out): 3, for one (out, in, height, width): 1).
    """

    noise: Literal["low-rank", "dense", "frozen"] = "low-rank"
    rank: int = 1
    scale: float = 1.0
    stacked: int = 0
    split: int | None = None

    def __post_init__(self) -> None:
        if self.noise not in ("low-rank", "dense", "frozen"):
            raise SettingError(f'noise must be "low-rank", "dense" or "frozen", got {self.noise!r}')
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise SettingError(f"rank must be an integer >= 1, got {self.rank!r}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise SettingError(f'scale must be a finite number > 0 (noise="frozen" for none), got {self.scale!r}')
        if isinstance(self.stacked, bool) or not isinstance(self.stacked, int) or self.stacked < 0:
            raise SettingError(f"stacked must be an integer >= 0, got {self.stacked!r}")


@dataclasses.dataclass(frozen=True)
class Weight:
    """A leaf with noise: where it is, its shape and how it is perturbed, all resolved."""

    name: str
    shape: tuple[int, ...]
    leaf: Leaf

    @property
    def words(self) -> tuple[int, int]:
        """64 bits of the path's name, which name the leaf's stream."""
        digest = hashlib.blake2b(self.name.encode(), digest_size=8).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")

    @property
    def axes(self) -> str:
        """One letter, a or b, for each axis that is not stacked."""
        own = self.shape[self.leaf.stacked :]
        split = self.leaf.split or 0
        return "a" * split + "b" * (len(own) - split)

    @property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of what is drawn for a pair: of A and B, or of E if dense."""
        if self.leaf.noise == "dense":
            return (self.shape,)
        stacked, rank = self.leaf.stacked, self.leaf.rank
        stack, own, split = self.shape[:stacked], self.shape[stacked:], self.leaf.split or 0
        return (*stack, *own[:split], rank), (*stack, *own[split:], rank)


def draw(
    weights: Sequence[Weight], key: UInt32[Array, "2"], generation: Int[Array, ""], pairs: Int[Array, "n"], kind: Kind
) -> list[tuple[Float[Array, "n ..."], ...]]:
    """Unit-variance noise of some pairs: for each weight (A, B), or (E,) if dense, with a leading axis of pairs."""
    words = np.array([weight.words for weight in weights], np.uint32)
    streams = jax.vmap(lambda w: xla.fold(xla.fold(key, w[0], w[1]), generation))(jnp.asarray(words))
    shapes = [weight.parts for weight in weights]
    sizes = tuple(sum(math.prod(part) for part in parts) for parts in shapes)
    out = []
    for values, parts in zip(xla.noise_of(streams, pairs, sizes, kind), shapes, strict=True):
        ends = np.cumsum([math.prod(part) for part in parts])
        pieces = jnp.split(values, ends[:-1], axis=1)
        out.append(tuple(piece.reshape(-1, *part) for piece, part in zip(pieces, parts, strict=True)))
    return out


@dataclasses.dataclass(frozen=True)
class Structure:
    """What is static of a pytree of parameters: its form, what is not an array, and the leaves with noise."""

    treedef: Any
    slots: tuple[str, ...]
    """Of each leaf: "weight" if it has noise, "array", or "static"."""
    static: tuple[Any, ...]
    weights: tuple[Weight, ...]

    def join(self, weights: Sequence[Any], arrays: Sequence[Any]) -> Any:
        """The pytree."""
        parts = {"weight": iter(weights), "array": iter(arrays), "static": iter(self.static)}
        return jax.tree.unflatten(self.treedef, [next(parts[slot]) for slot in self.slots])

    def split(self, params: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Weights and other arrays of a pytree of this form."""
        leaves = jax.tree.leaves(params)
        return tuple(
            tuple(x for x, slot in zip(leaves, self.slots, strict=True) if slot == wanted)
            for wanted in ("weight", "array")
        )  # type: ignore[return-value]


def structure_of(params: Any, policy: Mapping[str, Leaf], default: Leaf) -> Structure:
    """Which leaves of a pytree are perturbed, and how.

    Args:
        params: any pytree. Floating-point arrays are perturbed; other leaves are passed through.
        policy: for shell patterns of paths such as ``"*/bias"``; the first that matches counts.
        default: for all others. Vectors, scalars and matrices with a side below 16 then have dense noise.

    Raises:
        SettingError: no floating-point leaf, a pattern that matches nothing, a setting that does not fit the leaf.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    slots, static, weights, unmatched = [], [], [], set(policy)
    for path, x in flat:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not isinstance(x, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
            slots.append("static")
            static.append(x)
            continue
        matching = [pattern for pattern in policy if fnmatch.fnmatchcase(name, pattern)]
        unmatched -= set(matching)
        leaf = policy[matching[0]] if matching else default
        if leaf.noise == "frozen" or not jnp.issubdtype(x.dtype, jnp.floating):
            slots.append("array")
            continue
        slots.append("weight")
        weights.append(Weight(name, tuple(x.shape), _resolved(leaf, name, x.shape, given=bool(matching))))
    if unmatched:
        raise SettingError(f"policy: {sorted(unmatched)} match no leaf; the leaves are {[w.name for w in weights]}")
    if not weights:
        raise SettingError("params has no floating-point array to perturb")
    return Structure(treedef, tuple(slots), tuple(static), tuple(weights))


def _resolved(leaf: Leaf, name: str, shape: Sequence[int], given: bool) -> Leaf:
    own = shape[leaf.stacked :]
    if leaf.stacked > len(shape):
        raise SettingError(f"policy of {name}: stacked is {leaf.stacked}, but the shape is {tuple(shape)}")
    if leaf.noise == "dense" or len(own) < 2:
        return dataclasses.replace(leaf, noise="dense", split=None)
    splits = range(1, len(own))
    if leaf.split is not None and leaf.split not in splits:
        raise SettingError(f"policy of {name}: split must be 1 to {len(own) - 1} for shape {tuple(shape)}")
    split = leaf.split or min(splits, key=lambda k: math.prod(own[:k]) + math.prod(own[k:]))
    if not given and min(math.prod(own[:split]), math.prod(own[split:])) < SMALL:
        return dataclasses.replace(leaf, noise="dense", split=None)
    return dataclasses.replace(leaf, split=split)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class NoisePopulation:
    """Members around a center, by seeded noise of low rank or dense.

    Attributes:
        weights: center of each perturbed leaf.
        arrays: the other arrays, the same for every member.
        key: key of the run.
        generation: the generation counter.
        ids: member numbers, shape ``(n,)``.
        sigma: standard deviation of the noise, in units of the parameters.
        structure: the form of the tree.
        kind: distribution of the noise.
        paired: whether members 2k and 2k + 1 of the population are the two sides of one pair.
    """

    weights: tuple[Any, ...]
    arrays: tuple[Any, ...]
    key: UInt32[Array, "2"]
    generation: Int[Array, ""]
    ids: Int[Array, "n"]
    sigma: Float[Array, ""]
    structure: Structure
    kind: Kind
    paired: bool

    def __repr__(self) -> str:
        named = ", ".join(f"{w.name}: {w.leaf.noise}" for w in self.structure.weights)
        return f"NoisePopulation({len(self)} members, {named})"

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def __getitem__(self, i: int) -> Any:
        """Member ``i``, as a pytree of parameters like the center."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"member {i} of a population of {len(self)}")
        return self.structure.join(_formed(self, i), self.arrays)

    def noise(self, i: int) -> Any:
        """What member ``i`` is away from the center, a pytree with zeros where nothing is perturbed."""
        around_zero = tuple(jnp.zeros(w.shape, jnp.float32) for w in self.weights)
        formed = _formed(dataclasses.replace(self, weights=around_zero), i)
        return self.structure.join(formed, [jnp.zeros_like(x) for x in self.arrays])

    def take(self, ids: Int[Array, "k"]) -> NoisePopulation:
        """The members at some positions."""
        return dataclasses.replace(self, ids=self.ids[jnp.asarray(ids)], paired=False)

    @property
    def center(self) -> Any:
        """The pytree that the members are around."""
        return self.structure.join(self.weights, self.arrays)

    def candidates(self, ids: Int[Array, "k"], paired: bool) -> tuple[tuple[Any, ...], Any]:
        """Weights of some members, with the ``in_axes`` under which ``vmap`` maps over them."""
        pairs = ids[::2] // 2 if paired else ids // 2
        sign = (1.0 - 2.0 * (ids % 2)).astype(jnp.float32)
        out: list[Any] = []
        axes: list[Any] = []
        drawn = draw(self.structure.weights, self.key, self.generation, pairs, self.kind)
        for w, weight, parts in zip(self.weights, self.structure.weights, drawn, strict=True):
            if paired:
                parts = tuple(jnp.repeat(part, 2, axis=0, total_repeat_length=ids.shape[0]) for part in parts)
            step = sign * (self.sigma * weight.leaf.scale)
            if weight.leaf.noise == "low-rank":
                a, b = parts
                a = a * _column(step / math.sqrt(weight.leaf.rank), a)
                out.append(LowRank(w, a, b, weight.axes))
                axes.append(LowRank(None, 0, 0, weight.axes))
            else:
                (e,) = parts
                wide = jnp.promote_types(w.dtype, jnp.float32)
                out.append((w.astype(wide) + e * _column(step, e)).astype(w.dtype))
                axes.append(0)
        return tuple(out), tuple(axes)


def _column(x: Array, like: Array) -> Array:
    return x.reshape(-1, *[1] * (like.ndim - 1))


@jax.jit
def _formed(population: NoisePopulation, i: Any) -> list[Array]:
    """The weights of one member, as evaluation has them but formed."""
    weights, _ = population.candidates(population.ids[i][None], paired=False)
    return [LowRank(w.w, w.a[0], w.b[0], w.axes).materialise() if isinstance(w, LowRank) else w[0] for w in weights]


jax.tree_util.register_dataclass(
    NoisePopulation,
    data_fields=["weights", "arrays", "key", "generation", "ids", "sigma"],
    meta_fields=["structure", "kind", "paired"],
)


def evaluate_virtual(
    fn: Callable[..., Any],
    axes: tuple[int | None, ...],
    chunk: int | None,
    mesh: Any,
    population: NoisePopulation,
    args: tuple[Any, ...],
) -> Any:
    """:func:`blackbox.evaluate` of a virtual population: noise is made where it is used, pairs stay on one device."""
    devices = 1 if mesh is None else mesh.devices.size
    n = len(population)
    share = -(-n // (2 * devices)) * 2 if population.paired else -(-n // devices)  # members of a device
    size = min(chunk or share, share)
    if population.paired and size % 2:
        size += 1  # the two sides of a pair share their noise
    leaves, treedef = jax.tree.flatten(args)
    is_array = [isinstance(x, jax.Array | np.ndarray | np.generic | float | int | bool) for x in leaves]
    arrays = [x for x, yes in zip(leaves, is_array, strict=True) if yes]
    static = tuple(None if yes else (x,) for x, yes in zip(leaves, is_array, strict=True))
    return _evaluated(fn, axes, (treedef, static), size, share, mesh, population, arrays)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _evaluated(
    fn: Callable[..., Any],
    axes: tuple[int | None, ...],
    form: Any,
    size: int,
    share: int,
    mesh: Any,
    population: NoisePopulation,
    arrays: list[Any],
) -> Any:
    treedef, static = form
    given = iter(arrays)
    args = jax.tree.unflatten(treedef, [next(given) if part is None else part[0] for part in static])
    own = [a for a, axis in zip(args, axes, strict=True) if axis == 0]
    shared = [a for a, axis in zip(args, axes, strict=True) if axis is None]
    steps = -(-share // size)

    def one(population: NoisePopulation, shared: list[Any], weights: tuple[Any, ...], own: list[Any]) -> Any:
        both = {0: iter(own), None: iter(shared)}
        full = [next(both[axis]) for axis in axes]

        def call(weights: tuple[Any, ...]) -> Any:
            return fn(population.structure.join(weights, population.arrays), *full)

        return perturbed(call)(weights)

    def device(population: NoisePopulation, shared: list[Any], ids: Array, own: list[Any]) -> Any:
        def block(part: tuple[Array, list[Any]]) -> Any:
            weights, in_axes = population.candidates(part[0], population.paired)
            return jax.vmap(partial(one, population, shared), in_axes=(in_axes, 0))(weights, part[1])

        parts = jax.tree.map(lambda x: _fill(x, steps * size).reshape(steps, size, *x.shape[1:]), (ids, own))
        if steps == 1:
            return block(jax.tree.map(lambda x: x[0], parts))
        out = jax.lax.scan(lambda _, part: (None, block(part)), None, parts)[1]
        return jax.tree.map(lambda x: x.reshape(steps * size, *x.shape[2:])[:share], out)

    n = population.ids.shape[0]
    if mesh is None:
        out = device(population, shared, _fill(population.ids, share), jax.tree.map(lambda x: _fill(x, share), own))
    else:
        total = share * mesh.devices.size
        whole, members = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(mesh.axis_names[0])
        sharded = jax.shard_map(
            device, mesh=mesh, in_specs=(whole, whole, members, members), out_specs=members, check_vma=False
        )
        out = sharded(population, shared, _fill(population.ids, total), jax.tree.map(lambda x: _fill(x, total), own))
    return jax.tree.map(lambda x: x[:n], out)


def _fill(x: Array, n: int) -> Array:
    """``n`` rows: those of ``x``, and its first ones again."""
    return x if x.shape[0] == n else jnp.resize(x, (n, *x.shape[1:]))
