"""Members along directions from a center, for gradient estimates from differences of function values."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from blackbox.kernels import xla
from blackbox.perturbed.lowrank import added
from blackbox.virtual.gradient import LARGEST
from blackbox.virtual.leaves import Weight, draw, summed
from blackbox.virtual.population import VirtualPopulation, column, required_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float, Int, UInt32

    from blackbox.kernels.spec import Kind


@dataclasses.dataclass(frozen=True, eq=False)
class Directions(abc.ABC):
    """Directions by number, each a tree of the weights' shapes flattened to a list, with entries of unit variance."""

    @abc.abstractmethod
    def drawn(self, weights: Sequence[Weight], ids: Int[Array, "k"]) -> list[Float[Array, "k ..."]]:
        """The directions of some numbers."""

    def weighted(
        self, weights: Sequence[Weight], ids: Int[Array, "k"], f: Float[Array, "k"]
    ) -> list[Float[Array, "..."]]:
        """``sum_k f_k u_k``, of a few directions at a time."""
        entries = sum(math.prod(weight.shape) for weight in weights)
        size = max(1, min(len(ids), LARGEST // entries))
        steps = -(-len(ids) // size)
        parts = [jnp.pad(x, (0, steps * size - len(ids))).reshape(steps, size) for x in (ids, f)]

        def add(totals: list[Array], part: list[Array]) -> tuple[list[Array], None]:
            made = self.drawn(weights, part[0])
            return [t + jnp.tensordot(part[1], u, 1) for t, u in zip(totals, made, strict=True)], None

        zeros = [jnp.zeros(weight.shape, jnp.float32) for weight in weights]
        return jax.lax.scan(add, zeros, parts)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Seeded(Directions):
    """Independent entries, made from the key where they are used: "normal", or "sign" for Rademacher's."""

    key: UInt32[Array, "2"]
    kind: Kind

    def drawn(self, weights: Sequence[Weight], ids: Int[Array, "k"]) -> list[Float[Array, "k ..."]]:
        return [e for (e,) in draw(list(weights), self.key, jnp.asarray(0), ids, self.kind)]

    def weighted(
        self, weights: Sequence[Weight], ids: Int[Array, "k"], f: Float[Array, "k"]
    ) -> list[Float[Array, "..."]]:
        members = ids[None].astype(jnp.uint32)
        return [total[0] for total in summed(list(weights), self.key, 0, members, f[None], self.kind)]


@dataclasses.dataclass(frozen=True, eq=False)
class Hadamard(Directions):
    """Rows of Hadamard's matrix of the next power of two above the dimension n, in random order, with random signs.

    Row i has the entries ``(-1)^popcount(i & j) s_j``. Of n directions that follow each other all are distinct rows,
    orthogonal where the dimension is n itself; the next n have other signs.
    """

    key: UInt32[Array, "2"]

    def drawn(self, weights: Sequence[Weight], ids: Int[Array, "k"]) -> list[Float[Array, "k ..."]]:
        sizes = [math.prod(weight.shape) for weight in weights]
        d = sum(sizes)
        n = 1 << (d - 1).bit_length()
        words = jax.vmap(lambda block: xla.fold(self.key, block, 1))((ids // n).astype(jnp.uint32))
        rows = (words[:, 0] + ids.astype(jnp.uint32) * (words[:, 1] | 1)) & jnp.uint32(n - 1)  # odd: no row twice
        odd = jax.lax.population_count(rows[:, None] & jnp.arange(d, dtype=jnp.uint32)) & 1
        blocks = (draw([Weight("signs", (d,), "dense")], self.key, jnp.asarray(0), ids // n, "sign"))[0][0]
        values = jnp.where(odd == 1, -blocks, blocks)
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        parts = jnp.split(values, ends[:-1], axis=1)
        return [part.reshape(-1, *weight.shape) for part, weight in zip(parts, weights, strict=True)]


@dataclasses.dataclass(frozen=True, eq=False)
class Stored(Directions):
    """Directions that are stored, ``first`` and those after it."""

    rows: tuple[Float[Array, "q ..."], ...]
    first: Int[Array, ""]

    def drawn(self, weights: Sequence[Weight], ids: Int[Array, "k"]) -> list[Float[Array, "k ..."]]:
        return [row[ids - self.first] for row in self.rows]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ProbePopulation(VirtualPopulation):
    """``candidate_i = center + steps_i u_(directions_i)``.

    Attributes:
        weights: center of each perturbed leaf.
        arrays: the other arrays, the same for every member.
        structure: the form of the tree.
        source: what the directions are.
        directions: number of each member's direction, shape ``(n,)``.
        steps: signed, in units of the parameters; zero for the center itself, shape ``(n,)``.
        first: number of the first direction.
        lengths: what the direction ``first + k`` of the source is multiplied with, shape ``(directions,)``.
        ordered: whether members 2k and 2k + 1 are the two sides of one direction.
    """

    source: Directions
    directions: Int[Array, "n"]
    steps: Float[Array, "n"]
    first: Int[Array, ""]
    lengths: Float[Array, "q"]
    ordered: bool

    @property
    def rows(self) -> tuple[Int[Array, "n"], Float[Array, "n"]]:
        return self.directions, self.steps

    @property
    def paired(self) -> bool:
        return self.ordered

    def take(self, ids: Int[Array, "k"]) -> ProbePopulation:
        """The members at some positions."""
        at = required_ids(ids, len(self))
        return dataclasses.replace(self, directions=self.directions[at], steps=self.steps[at], ordered=False)

    def candidates(self, rows: tuple[Int[Array, "k"], Float[Array, "k"]]) -> tuple[tuple[Any, ...], Any]:
        """Weights of some members, with the ``in_axes`` under which ``vmap`` maps over them."""
        directions, steps = rows
        steps = steps * self.lengths[directions - self.first]
        n = len(steps)
        paired = self.ordered and n % 2 == 0
        made = self.source.drawn(self.structure.weights, directions[::2] if paired else directions)
        if paired:
            made = [jnp.repeat(u, 2, axis=0, total_repeat_length=n) for u in made]
        moved = [added(w, u * column(steps, u)) for w, u in zip(self.weights, made, strict=True)]
        return tuple(moved), (0,) * len(moved)

    def weighted(self, f: Float[Array, "q"]) -> list[Float[Array, "..."]]:
        """``sum_k f_k u_k`` over the directions, for each weight."""
        ids = self.first + jnp.arange(len(self.lengths))
        return self.source.weighted(self.structure.weights, ids, f * self.lengths)


def squared_lengths(source: Directions, weights: Sequence[Weight], ids: Int[Array, "k"]) -> Float[Array, "k"]:
    """``u_k . u_k`` of some directions, one after another."""

    def one(i: Int[Array, ""]) -> Float[Array, ""]:
        return jnp.sum(jnp.stack([jnp.sum(u * u) for u in source.drawn(weights, i[None])]))

    return jax.lax.map(one, ids)


def _register(cls: type, data: Sequence[str], meta: Sequence[str] = ()) -> None:
    jax.tree_util.register_dataclass(cls, data_fields=list(data), meta_fields=list(meta))


_register(Seeded, ["key"], ["kind"])
_register(Hadamard, ["key"])
_register(Stored, ["rows", "first"])
_register(
    ProbePopulation,
    ["weights", "arrays", "source", "directions", "steps", "first", "lengths"],
    ["structure", "ordered"],
)
