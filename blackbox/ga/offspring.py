"""Individuals that are lists of seeds, and children that are one of them and one more mutation (Deep GA)."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError
from blackbox.ga.decoding import factors, of_population
from blackbox.ga.genome import encode
from blackbox.kernels import dispatch, grids
from blackbox.perturbed.lowrank import added
from blackbox.virtual import LineagePopulation, Structure
from blackbox.virtual.population import required_ids

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt32

Rows = tuple[Any, ...]


class Individuals(NamedTuple):
    """Lineages, and what they sum to."""

    seeds: UInt32[Array, "k generations"]
    sigmas: Float[Array, "k generations"]
    """Zero where a lineage has ended."""
    depth: Int[Array, "k"]
    """Mutations so far. Of more than there are columns, the last ones are kept."""
    changes: tuple[Float[Array, "k ..."], ...]
    """Of each leaf the sum of ``sigma E(seed)`` in the order of the lineage; empty where it is made again each time."""


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def unborn(structure: Structure, count: int, generations: int, cached: bool) -> Individuals:
    """Individuals without a mutation."""
    changes = tuple(jnp.zeros((count, *w.shape), jnp.float32) for w in structure.weights) if cached else ()
    shape = (count, generations)
    return Individuals(jnp.zeros(shape, jnp.uint32), jnp.zeros(shape), jnp.zeros(count, jnp.int32), changes)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OffspringPopulation(LineagePopulation):
    """Children of some parents by one mutation each.

        candidate_i = center + scales (change of parent_i + powers_i E(mutation_i))

    with the bits of the whole lineage's sum, which is taken where the parents' changes are not at hand. Compiled code
    keeps these bits whatever the size of a leaf; without it XLA's sums differ by roundings.

    Attributes:
        streams: the key of each leaf's noise, made once for a run.
        depth: mutations of each lineage, shape ``(n,)``.
        slots: which of the parents is each member's, shape ``(n,)``.
        mutations: the seed that each member has more than its parent, shape ``(n,)``; of several ``(n, more)``.
        powers: its standard deviation, of the same shape; zero for the parent itself.
        parents: the parents.
        scales: of each weight what its noise is multiplied with, entry by entry; empty for ones.
        first: of each weight what the first mutation of a lineage is multiplied with, empty for ones: how individuals
            are initialized.
    """

    streams: UInt32[Array, "leaves 2"]
    depth: Int[Array, "n"]
    slots: Int[Array, "n"]
    mutations: UInt32[Array, "n ..."]
    powers: Float[Array, "n ..."]
    parents: Individuals
    scales: tuple[Float[Array, "..."], ...]
    first: tuple[float, ...]

    @property
    def rows(self) -> Rows:
        return self.seeds, self.sigmas, self.depth, self.slots, self.mutations, self.powers

    def take(self, ids: Any) -> OffspringPopulation:
        """The members at some positions."""
        at = required_ids(ids, len(self))
        seeds, sigmas, depth, slots, mutations, powers = (x[at] for x in self.rows)
        return dataclasses.replace(
            self, seeds=seeds, sigmas=sigmas, depth=depth, slots=slots, mutations=mutations, powers=powers
        )

    @property
    def uncached(self) -> OffspringPopulation:
        """The same members by their seeds alone, which takes no memory and each time the whole lineage."""
        return dataclasses.replace(self, parents=self.parents._replace(changes=()))

    def individuals(self) -> Individuals:
        """The members, as parents of others; their changes are made if those of their parents are at hand."""
        changes = _changes(self) if self.parents.changes else ()
        return Individuals(self.seeds, self.sigmas, self.depth, changes)

    def made_again(self) -> Individuals:
        """:meth:`individuals` from their seeds alone, where what all lineages begin with is summed once."""
        seeds, sigmas = np.asarray(self.seeds), np.asarray(self.sigmas)
        same = np.all((seeds == seeds[0]) & (sigmas == sigmas[0]), axis=0)
        shared = int(np.argmin(np.append(same, False)))
        weights, depth = self.structure.weights, jnp.zeros(1, jnp.int32)
        zeros = tuple(jnp.zeros((1, *weight.shape), jnp.float32) for weight in weights)
        start, slots = Individuals(self.seeds[:1], self.sigmas[:1], depth, zeros), jnp.zeros(len(self), jnp.int32)
        if shared:
            trunk = dataclasses.replace(
                self.take(np.arange(1)), slots=slots[:1], parents=start,
                mutations=self.seeds[:1, :shared], powers=self.sigmas[:1, :shared],
            )  # fmt: skip
            start = start._replace(depth=depth + shared, changes=_changes(trunk))
        if shared == seeds.shape[1]:
            changes = tuple(jnp.repeat(x, len(self), axis=0) for x in start.changes)
            return Individuals(self.seeds, self.sigmas, self.depth, changes)
        rest = dataclasses.replace(
            self, slots=slots, parents=start, mutations=self.seeds[:, shared:], powers=self.sigmas[:, shared:]
        )
        return rest.individuals()

    def with_powers(self, powers: Float[Array, "n"]) -> OffspringPopulation:
        """The same mutations with other standard deviations; zeros for the parents."""
        last = jnp.minimum(self.depth, self.seeds.shape[1]) - 1
        sigmas = self.sigmas.at[jnp.arange(len(self)), last].set(powers)
        return dataclasses.replace(self, sigmas=sigmas, powers=powers)

    def candidates(self, rows: Rows) -> tuple[tuple[Any, ...], Any]:
        """Weights of some members, with the ``in_axes`` under which ``vmap`` maps over them."""
        out = []
        scales = self.scales or (None,) * len(self.weights)
        changes = self.changes_of(rows)
        for w, change, scale in zip(self.weights, changes, scales, strict=True):
            out.append(added(w, change if scale is None else change * scale))
        return tuple(out), (0,) * len(out)

    def changes_of(self, rows: Rows) -> tuple[Float[Array, "k ..."], ...]:
        """The sums of noise of some members."""
        is_cached = bool(self.parents.changes)
        slots = rows[3]
        mutations, powers = (x.reshape(slots.shape[0], -1) for x in (rows[4:] if is_cached else rows[:2]))
        is_first = self.parents.depth[slots] == 0 if is_cached else True
        weights = self.structure.weights
        firsts = self.first or (1.0,) * len(weights)
        out = []
        for i, (weight, first) in enumerate(zip(weights, firsts, strict=True)):
            size = math.prod(weight.shape)
            base = self.parents.changes[i][slots].reshape(-1, size) if is_cached else jnp.zeros((1, size), jnp.float32)
            factor, factor_of_first = factors(weight, self.kind, first)
            terms = (powers * factor).at[:, 0].set(powers[:, 0] * jnp.where(is_first, factor_of_first, factor))
            (total,) = _seedsum()(self.streams[i : i + 1], [base], terms, mutations, self.kind, 1)
            out.append(total.reshape(-1, *weight.shape))
        return tuple(out)

    def genome(self, i: int, *, checked: bool = False) -> bytes:
        """Member ``i`` as bytes for :func:`blackbox.ga.decode`, some four for each of its mutations.

        Args:
            i: the member.
            checked: whether to add a digest of the decoded weights, so that decoding where they would be others fails.

        Raises:
            SettingError: the lineage is longer than what has been kept of it.
        """
        depth = int(self.depth[i])
        if depth > self.seeds.shape[1]:
            raise SettingError(
                f"member {i} has {depth} mutations, of which the last {self.seeds.shape[1]} are kept; set generations"
            )
        seeds, sigmas = np.asarray(self.seeds[i])[:depth], np.asarray(self.sigmas[i])[:depth]
        return encode(of_population(self, seeds, sigmas, checked=checked))


jax.tree_util.register_dataclass(
    OffspringPopulation,
    data_fields=[
        *("weights", "arrays", "key", "seeds", "sigmas", "streams"),
        *("depth", "slots", "mutations", "powers", "parents", "scales"),
    ],
    meta_fields=["structure", "kind", "first"],
)


@jax.jit
def lineages(
    parents: Individuals, slots: Int[Array, "n"], mutations: UInt32[Array, "n"], powers: Float[Array, "n"]
) -> tuple[UInt32[Array, "n generations"], Float[Array, "n generations"], Int[Array, "n"]]:
    """Seeds, sigmas and depth of children; of a lineage that fills its columns, the oldest mutation goes."""
    depth, columns = parents.depth[slots], parents.seeds.shape[1]
    is_full = (depth >= columns)[:, None]
    at = jnp.arange(slots.shape[0]), jnp.minimum(depth, columns - 1)
    out = []
    for table, new in ((parents.seeds, mutations), (parents.sigmas, powers)):
        own = table[slots]
        out.append(jnp.where(is_full, jnp.roll(own, -1, axis=1), own).at[at].set(new))
    return out[0], out[1], depth + 1


def first_factors(structure: Structure, initial: Any) -> tuple[float, ...]:
    """What an individual's first mutation is multiplied with in each leaf: zero for vectors.

    Args:
        structure: of the parameters.
        initial: deviation times the root of the fan-in, a number or, by pattern of the path, several; None for
            individuals that begin as mutations of the parameters, which have no such factors.
    """
    if initial is None:
        return ()
    patterns = initial if isinstance(initial, Mapping) else {"*": initial}
    names = [weight.name for weight in structure.weights]
    if unmatched := [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]:
        raise SettingError(f"initial: {unmatched} match no leaf; the leaves are {names}")
    out = []
    for weight in structure.weights:
        number = next((x for pattern, x in patterns.items() if fnmatch.fnmatchcase(weight.name, pattern)), 1.0)
        own = weight.shape[weight.stacked :]
        deviation = number / math.sqrt(math.prod(own[:-1])) / weight.multiplier
        out.append(deviation if len(own) > 1 else 0.0)
    return tuple(out)


def scales_of(structure: Structure, scale: Any) -> tuple[Float[Array, "..."], ...]:
    """The leaves of a tree of scales; none for None."""
    if scale is None:
        return ()
    scales = structure.split(scale)[0]
    for weight, found in zip(structure.weights, scales, strict=True):
        if found.shape != weight.shape:
            raise SettingError(f"scale of {weight.name} must be of shape {weight.shape}, got {found.shape}")
    return tuple(jnp.asarray(found, jnp.float32) for found in scales)


@jax.jit
def rows_of(some: Individuals, at: Int[Array, "k"]) -> Individuals:
    """Those in some rows."""
    taken: Individuals = jax.tree.map(lambda x: x[at], some)
    return taken


@jax.jit
def joined(*some: Individuals) -> Individuals:
    """All of them, one after the other."""
    together: Individuals = jax.tree.map(lambda *xs: jnp.concatenate(xs), *some)
    return together


@jax.jit
def _changes(population: OffspringPopulation) -> tuple[Float[Array, "n ..."], ...]:
    return population.changes_of(population.rows)


def _seedsum() -> Any:
    """Sums whose bits are the contract's also where they are small, if there is compiled code."""
    on_gpu = jax.default_backend() == "gpu" and not grids.problem()
    return dispatch.in_jax("cuda" if on_gpu else "auto", dispatch.ALWAYS, "seedsum").seedsum
