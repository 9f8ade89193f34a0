"""Leaves of a pytree of parameters: which have noise, of what form, and from which stream it comes."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError
from blackbox.kernels import seedsum, xla
from blackbox.kernels.noise import centered_noise
from blackbox.kernels.spec import SUM_CHUNK, UNIT
from blackbox.perturbed.lowrank import scaled

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Int8, UInt32

    from blackbox.kernels.spec import Kind

SMALL = 16  # a matrix with a shorter side than this has dense noise: low rank would save nothing and cost variance


@dataclasses.dataclass(frozen=True)
class Leaf:
    """How the leaves whose path matches a pattern are perturbed; what is not given is as for all other leaves.

    Attributes:
        noise: "low-rank", "dense" or "frozen"; None: as the strategy has it for a leaf of this shape, or "low-rank" if
            ``rank`` or ``split`` is given.
        rank: of the perturbation, for "low-rank"; None: the strategy's.
        scale: what sigma is multiplied with.
        stacked: leading axes that count separate weights, as of scanned layers or of experts.
        split: how many of the other axes form the first factor of a low-rank perturbation; None takes the first or
            the last axis against all others, whichever makes the more square matrix (for a kernel (height, width,
            in, out): 3, for one (out, in, height, width): 1).
    """

    noise: Literal["low-rank", "dense", "frozen"] | None = None
    rank: int | None = None
    scale: float = 1.0
    stacked: int = 0
    split: int | None = None

    def __post_init__(self) -> None:
        if self.noise not in ("low-rank", "dense", "frozen", None):
            raise SettingError(f'noise must be "low-rank", "dense", "frozen" or None, got {self.noise!r}')
        if self.rank is not None and (isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1):
            raise SettingError(f"rank must be an integer >= 1 or None, got {self.rank!r}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise SettingError(f'scale must be a finite number > 0 (noise="frozen" for none), got {self.scale!r}')
        if isinstance(self.stacked, bool) or not isinstance(self.stacked, int) or self.stacked < 0:
            raise SettingError(f"stacked must be an integer >= 0, got {self.stacked!r}")


@dataclasses.dataclass(frozen=True)
class Weight:
    """A leaf with noise: where it is, its shape and how it is perturbed."""

    name: str
    shape: tuple[int, ...]
    noise: Literal["low-rank", "dense"] = "low-rank"
    rank: int = 1
    multiplier: float = 1.0
    """Of sigma."""
    stacked: int = 0
    split: int = 1
    """How many axes that are not stacked form the first factor."""

    @property
    def words(self) -> tuple[int, int]:
        """64 bits of the path's name, which name the leaf's stream."""
        digest = hashlib.blake2b(self.name.encode(), digest_size=8).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")

    def scale(self, kind: Kind) -> float:
        """What drawn noise, or a product of its factors, is multiplied with for the policy's standard deviation."""
        unit = UNIT[kind]
        return self.multiplier * (unit if self.noise == "dense" else unit * unit / math.sqrt(self.rank))

    @property
    def axes(self) -> str:
        """One letter, a or b, for each axis that is not stacked."""
        return "a" * self.split + "b" * (len(self.shape) - self.stacked - self.split)

    @property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of what is drawn for a pair: of A and B, or of E if dense."""
        if self.noise == "dense":
            return (self.shape,)
        stack, own = self.shape[: self.stacked], self.shape[self.stacked :]
        return (*stack, *own[: self.split], self.rank), (*stack, *own[self.split :], self.rank)


class Quantized(NamedTuple):
    """A weight in eight bits: integers from -127 to 127, and what they are multiplied with."""

    values: Int8[Array, "*stacked *axes"]
    scale: Float[Array, "*stacked"]

    @classmethod
    def of(cls, w: Float[Array, "*stacked *axes"], stacked: int) -> Quantized:
        """The nearest numbers, with one scale for each stacked weight."""
        largest = jnp.max(jnp.abs(w), axis=tuple(range(stacked, w.ndim)))
        scale = jnp.where(largest > 0, largest / 127, jnp.ones_like(largest))
        values = jnp.round(w / scale.reshape(*scale.shape, *[1] * (w.ndim - stacked)))
        return cls(values.astype(jnp.int8), scale)

    @property
    def floats(self) -> Float[Array, "*stacked *axes"]:
        """The weight."""
        return scaled(self.values, self.scale)


def streams(
    weights: Sequence[Weight], key: UInt32[Array, "2"], generation: Int[Array, ""] | int
) -> UInt32[Array, "weights 2"]:
    """The key of each weight's stream in a generation."""
    words = jnp.asarray(np.array([weight.words for weight in weights], np.uint32))
    return jax.vmap(lambda w: xla.fold(xla.fold(key, w[0], w[1]), generation))(words)


def summed(
    weights: Sequence[Weight],
    key: UInt32[Array, "2"],
    generation: Int[Array, ""] | int,
    members: UInt32[Array, "sums terms"],
    f: Float[Array, "sums terms"],
    kind: Kind,
    chunk: int = SUM_CHUNK,
) -> list[Float[Array, "sums ..."]]:
    """``sum_k f_k E_k`` of leaves of independent entries, whose noise is nowhere stored; see :func:`draw`."""
    start = [jnp.zeros((1, math.prod(weight.shape)), jnp.float32) for weight in weights]
    sums = seedsum(streams(weights, key, generation), start, f, members, kind, chunk=chunk)
    return [total.reshape(-1, *weight.shape) for weight, total in zip(weights, sums, strict=True)]


def draw(
    weights: Sequence[Weight], key: UInt32[Array, "2"], generation: Int[Array, ""], pairs: Int[Array, "n"], kind: Kind
) -> list[tuple[Float[Array, "n ..."], ...]]:
    """Centered noise of some pairs: for each weight (A, B), or (E,) if dense, with a leading axis of pairs.

    Its entries times ``UNIT[kind]`` have unit variance; those of "sign" and "binom8" are small integers.
    """
    return drawn(weights, streams(weights, key, generation), pairs, kind)


def drawn(
    weights: Sequence[Weight], keys: UInt32[Array, "weights 2"], pairs: Int[Array, "n"], kind: Kind
) -> list[tuple[Float[Array, "n ..."], ...]]:
    """:func:`draw` with the keys of the weights' streams."""
    shapes = [weight.parts for weight in weights]
    sizes = tuple(sum(math.prod(part) for part in parts) for parts in shapes)
    out = []
    for values, parts in zip(centered_noise(keys, pairs, sizes, kind), shapes, strict=True):
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

    def only(self, weights: Sequence[Any], blank: Any) -> Any:
        """The pytree with nothing but the weights, and ``blank`` for all other leaves."""
        found = iter(weights)
        return jax.tree.unflatten(self.treedef, [next(found) if slot == "weight" else blank for slot in self.slots])

    def split(self, params: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Weights and other arrays of a pytree of this form."""
        leaves = self.treedef.flatten_up_to(params)  # by place: a gradient has None for what is not an array
        return tuple(
            tuple(x for x, slot in zip(leaves, self.slots, strict=True) if slot == wanted)
            for wanted in ("weight", "array")
        )  # type: ignore[return-value]


def structure_of(params: Any, policy: Mapping[str, Leaf], default: Leaf, small: int = SMALL) -> Structure:
    """Which leaves of a pytree are perturbed, and how.

    Args:
        params: any pytree. Floating-point arrays are perturbed; other leaves are passed through.
        policy: for shell patterns of paths such as ``"*/bias"``; the first that matches counts.
        default: noise and rank of what the policy says nothing of. Vectors and scalars have dense noise.
        small: matrices with a side below it have dense noise, unless the policy asks for low rank.

    Raises:
        SettingError: no floating-point leaf, two leaves of one path, a pattern that matches nothing, a setting that
            does not fit the leaf.
    """
    for pattern, leaf in policy.items():
        if not isinstance(leaf, Leaf):
            raise SettingError(f"policy must give a Leaf for each pattern, got {leaf!r} for {pattern!r}")
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    slots, static, weights, unmatched = [], [], [], set(policy)
    names: set[str] = set()
    for path, x in flat:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not isinstance(x, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
            slots.append("static")
            static.append(x)
            continue
        matching = [pattern for pattern in policy if fnmatch.fnmatchcase(name, pattern)]
        unmatched -= set(matching)
        leaf = policy[matching[0]] if matching else Leaf()
        if leaf.noise == "frozen" or not x.size or not jnp.issubdtype(x.dtype, jnp.floating):
            slots.append("array")
            continue
        slots.append("weight")
        if name in names:
            raise SettingError(f"params has two leaves of the path {name}, whose noise would be the same")
        names.add(name)
        weights.append(_weight(name, tuple(x.shape), leaf, default, small))
    if unmatched:
        raise SettingError(f"policy: {sorted(unmatched)} match no leaf; the leaves are {[w.name for w in weights]}")
    if not weights:
        raise SettingError("params has no floating-point array to perturb")
    return Structure(treedef, tuple(slots), tuple(static), tuple(weights))


def dense_structure(params: Any, policy: Mapping[str, Leaf] | None) -> Structure:
    """The structure of parameters whose noise is of independent entries, or SettingError if a policy wants other."""
    structure = structure_of(params, policy or {}, Leaf(noise="dense"))
    for weight in structure.weights:
        if weight.noise != "dense":
            raise SettingError(f"policy must give dense noise or none, got low rank for {weight.name}")
    return structure


def _weight(name: str, shape: tuple[int, ...], leaf: Leaf, default: Leaf, small: int) -> Weight:
    own = shape[leaf.stacked :]
    if leaf.stacked > len(shape):
        raise SettingError(f"policy of {name}: stacked is {leaf.stacked}, but the shape is {shape}")
    dense = Weight(name, shape, "dense", 1, leaf.scale, leaf.stacked, len(own))
    is_asked = leaf.noise == "low-rank" or leaf.rank is not None or leaf.split is not None
    if leaf.noise == "dense" or len(own) < 2 or (default.noise == "dense" and not is_asked):
        return dense
    if leaf.split is not None and leaf.split not in range(1, len(own)):
        raise SettingError(f"policy of {name}: split must be 1 to {len(own) - 1} for shape {shape}")
    # One axis against the others: the output channels of a kernel, a model's width before or after its heads.
    split = leaf.split or min((1, len(own) - 1), key=lambda k: math.prod(own[:k]) + math.prod(own[k:]))
    if not is_asked and min(math.prod(own[:split]), math.prod(own[split:])) < small:
        return dense
    return Weight(name, shape, "low-rank", leaf.rank or default.rank or 1, leaf.scale, leaf.stacked, split)
