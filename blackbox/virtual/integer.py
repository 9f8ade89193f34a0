"""Populations of int8 networks: mirrored pairs whose noise is fair signs, in integers alone.

    member_i = center + sigma s_i E_pair,      s_i = +1 for even members, -1 for odd ones

with ``E = A B^T`` for a matrix and ``E = A B`` for a vector; entries of A and B are 1 or -1, and so are those of E. So
every member is itself an int8 network, and a product ``u (M + sigma E)`` is ``u M + sigma (u . A) B`` to the last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError
from blackbox.kernels.noise import signs
from blackbox.virtual.leaves import Weight, streams

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int, Int8, UInt32


@dataclasses.dataclass(frozen=True, eq=False)
class PerturbedWeight:
    """An int8 weight of one member, ``w + a b^T`` for a matrix and ``w + a * b`` for a vector.

    Attributes:
        w: the center, shape ``(m, n)`` or ``(n,)``.
        a: shape ``(m,)`` or ``(n,)``, with the member's sign and sigma.
        b: shape ``(n,)``.
    """

    w: Int8[Array, "..."]
    a: Int8[Array, "m"]
    b: Int8[Array, "n"]

    def accumulate(self, u: Int8[Array, "m"]) -> Int[Array, "n"]:
        """``u W`` in int32; under ``vmap`` over members one product with ``w`` serves all."""
        shared = jax.lax.dot(u, self.w, preferred_element_type=jnp.int32)
        own = jnp.sum(u.astype(jnp.int32) * self.a.astype(jnp.int32), dtype=jnp.int32)
        return shared + own * self.b.astype(jnp.int32)

    def row(self, i: Int[Array, ""]) -> Int[Array, "n"]:
        """Row ``i`` in int32."""
        return self.w[i].astype(jnp.int32) + self.a[i].astype(jnp.int32) * self.b.astype(jnp.int32)

    def value(self) -> Int[Array, "..."]:
        """The weight in int32."""
        a = self.a.astype(jnp.int32)
        return self.w.astype(jnp.int32) + (a[:, None] if self.w.ndim == 2 else a) * self.b.astype(jnp.int32)


jax.tree_util.register_dataclass(PerturbedWeight, data_fields=["w", "a", "b"], meta_fields=[])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class IntegerPopulation:
    """Mirrored pairs of int8 networks around a center, for :func:`blackbox.evaluate`.

    Attributes:
        params: the center, a pytree of int8 arrays.
        key: key of the run.
        generation: the generation counter.
        popsize: members.
        sigma: size of the perturbation, in units of the weights.
        reads: see :meth:`reading`.
    """

    params: Any
    key: UInt32[Array, "2"]
    generation: Int[Array, ""]
    popsize: int
    sigma: int
    reads: Mapping[str, Bool[Array, "pairs m"]] = dataclasses.field(default_factory=dict)

    paired = True
    """Members 2k and 2k + 1 are made together."""

    @property
    def rows(self) -> Int[Array, "n"]:
        return jnp.arange(self.popsize, dtype=jnp.int32)

    def candidates(self, rows: Int[Array, "k"]) -> tuple[Any, Any]:
        """:class:`PerturbedWeight` of some whole pairs of members, with the ``in_axes`` to map over them."""
        leaves, treedef = jax.tree.flatten(self.params)
        sides = self.sigma * (1 - 2 * (rows % 2)).astype(jnp.int8)
        factors = draw(named(self.params), self.key, self.generation, rows[::2] // 2)
        both = [tuple(jnp.repeat(x, 2, axis=0) for x in ab) for ab in factors]
        out = [PerturbedWeight(w, a * sides[:, None], b) for w, (a, b) in zip(leaves, both, strict=True)]
        axes: Any = PerturbedWeight(None, 0, 0)  # type: ignore[arg-type]
        return jax.tree.unflatten(treedef, out), jax.tree.unflatten(treedef, [axes] * len(leaves))

    def reading(self, reads: Mapping[str, Bool[Array, "pairs m"]]) -> IntegerPopulation:
        """The population whose pairs read some rows of a matrix alone, such as an embedding.

        The others' noise is then no part of the update, and a row's sum is measured by the pairs that read it: rare
        rows learn as fast as frequent ones.

        Args:
            reads: by the path of a matrix, which of its rows each pair reads.
        """
        shapes = {weight.name: weight.shape for weight in named(self.params)}
        for name, rows in reads.items():
            expected = (self.popsize // 2, *shapes.get(name, ())[:1])
            if len(shapes.get(name, ())) != 2 or rows.shape != expected:
                raise SettingError(
                    f"reads must give rows of shape {expected} for matrices of the population, which are "
                    f"{[n for n, shape in shapes.items() if len(shape) == 2]}; got {rows.shape} for {name!r}"
                )
        return dataclasses.replace(self, reads=dict(reads))

    def member(self, candidate: Any) -> Any:
        return candidate

    def __len__(self) -> int:
        return self.popsize

    def __repr__(self) -> str:
        return f"IntegerPopulation({self.popsize} members, {', '.join(w.name for w in named(self.params))})"

    def __getitem__(self, i: int) -> Any:
        """Member ``i``, a pytree of int8 arrays like the center."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"member {i} of a population of {len(self)}")
        return _formed(self, i % len(self))


jax.tree_util.register_dataclass(
    IntegerPopulation, data_fields=["params", "key", "generation", "reads"], meta_fields=["popsize", "sigma"]
)


@jax.jit
def _formed(population: IntegerPopulation, i: Any) -> Any:
    weights, _ = population.candidates(i - i % 2 + jnp.arange(2))

    def value(weight: PerturbedWeight) -> Int8[Array, "..."]:
        return PerturbedWeight(weight.w, weight.a[i % 2], weight.b[i % 2]).value().astype(jnp.int8)

    return jax.tree.map(value, weights, is_leaf=lambda x: isinstance(x, PerturbedWeight))


def named(params: Any) -> tuple[Weight, ...]:
    """The leaves of a pytree, with the names that their noise comes from."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
    return tuple(Weight(name, np.shape(x)) for name, (_, x) in zip(names, flat, strict=True))


@partial(jax.jit, static_argnums=0)
def draw(
    weights: tuple[Weight, ...], key: UInt32[Array, "2"], generation: Int[Array, ""], pairs: Int[Array, "n"]
) -> list[tuple[Int8[Array, "n m"], Int8[Array, "n k"]]]:
    """Fair signs: for each weight the factors of some pairs. Of its stream's rows, noise of kind "sign"."""
    sizes = tuple(weight.shape[0] + weight.shape[-1] for weight in weights)
    drawn = signs(streams(weights, key, generation), pairs, sizes)
    return [(e[:, : weight.shape[0]], e[:, weight.shape[0] :]) for e, weight in zip(drawn, weights, strict=True)]


@partial(jax.jit, static_argnames="chunk")
def weighted_signs(
    population: IntegerPopulation, f: Int8[Array, "pairs"], chunk: int
) -> list[tuple[Int[Array, "..."], Int[Array, "..."]]]:
    """Of each leaf ``sum_p f_p E_p`` without sigma, and the entries' variance; int32, ``chunk`` pairs at a time."""
    weights = named(population.params)
    n = f.shape[0]
    chunk = min(chunk, n)
    steps = -(-n // chunk)

    def parts(x: Array) -> Array:
        padded = jnp.pad(x, ((0, steps * chunk - n), *[(0, 0)] * (x.ndim - 1)))  # pairs beyond the last count nothing
        return padded.reshape(steps, chunk, *x.shape[1:])

    def add(totals: list[tuple[Array, Array]], part: Any) -> tuple[list[tuple[Array, Array]], None]:
        pairs, f, reads = part
        drawn, out = draw(weights, population.key, population.generation, pairs), []
        for (total, variance), weight, (a, b) in zip(totals, weights, drawn, strict=True):
            own = f[:, None] * reads[weight.name] if weight.name in reads else f[:, None]
            more = jnp.sum(own.astype(jnp.int32) ** 2, axis=0, dtype=jnp.int32)
            if len(weight.shape) == 2:
                product = jax.lax.dot((a * own).T, b, preferred_element_type=jnp.int32)
                out.append((total + product, variance + more[:, None]))
            else:
                out.append((total + jnp.sum(a * b * own, axis=0, dtype=jnp.int32), variance + more))
        return out, None

    start = [
        (
            jnp.zeros(w.shape, jnp.int32),
            jnp.zeros((w.shape[0] if w.name in population.reads else 1, 1)[: len(w.shape)], jnp.int32),
        )
        for w in weights
    ]
    xs = (
        jnp.arange(steps * chunk, dtype=jnp.int32).reshape(steps, chunk),
        parts(f),
        jax.tree.map(parts, population.reads),
    )
    return jax.lax.scan(add, start, xs)[0]
