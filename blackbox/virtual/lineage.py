"""Members that are lists of seeds: each seed a mutation of what the seeds before it made (Deep GA)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from blackbox.errors import SettingError
from blackbox.perturbed import LowRank
from blackbox.perturbed.lowrank import added
from blackbox.virtual.leaves import Leaf, Weight, draw, structure_of, summed
from blackbox.virtual.population import VirtualPopulation, column, required_ids

if TYPE_CHECKING:
    from jaxtyping import Array, Float, UInt32

    from blackbox.kernels.spec import Kind


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LineagePopulation(VirtualPopulation):
    """Genomes of seeds (Such et al. 2017, "Deep neuroevolution", arXiv:1712.06567, section 3.1).

        candidate_i = center + sum_l sigma_il E(seed_il)

    A leaf of low rank gains ``rank`` by each mutation and is used without forming it; one of independent entries is
    summed mutation by mutation.

    Attributes:
        weights: center of each perturbed leaf.
        arrays: the other arrays, the same for every member.
        structure: the form of the tree.
        key: key of the run.
        seeds: shape ``(n, generations)``.
        sigmas: the mutations' standard deviations, shape ``(n, generations)``; zero where a genome has ended.
        kind: distribution of the noise.
    """

    key: UInt32[Array, "2"]
    seeds: UInt32[Array, "n generations"]
    sigmas: Float[Array, "n generations"]
    kind: Kind

    @classmethod
    def around(
        cls,
        params: Any,
        key: UInt32[Array, "2"],
        seeds: UInt32[Array, "n generations"],
        sigmas: Float[Array, "n generations"],
        *,
        rank: int | None = None,
        policy: Mapping[str, Leaf] | None = None,
        kind: Kind = "normal",
    ) -> LineagePopulation:
        """The population around a pytree of parameters; ``rank`` None for mutations of independent entries.

        Raises:
            SettingError: seeds and sigmas are not of one shape ``(n, generations)``, or the noise is "normal_fast".
        """
        if kind == "normal_fast":
            raise SettingError(
                'kind must be one whose bits are the same on every device, got "normal_fast": a genome of seeds would '
                'decode differently elsewhere; take "normal"'
            )
        seeds, sigmas = jnp.asarray(seeds, jnp.uint32), jnp.asarray(sigmas, jnp.float32)
        if seeds.ndim != 2 or seeds.shape != sigmas.shape:
            raise SettingError(
                f"seeds and sigmas must be of one shape (n, generations), got {seeds.shape} and {sigmas.shape}"
            )
        default = Leaf(noise="dense") if rank is None else Leaf(rank=rank)
        structure = structure_of(params, policy or {}, default)
        return cls(*structure.split(params), structure, jnp.asarray(key), seeds, sigmas, kind)

    @property
    def rows(self) -> tuple[UInt32[Array, "n generations"], Float[Array, "n generations"]]:
        return self.seeds, self.sigmas

    def take(self, ids: Any) -> LineagePopulation:
        """The members at some positions."""
        at = required_ids(ids, len(self))
        return dataclasses.replace(self, seeds=self.seeds[at], sigmas=self.sigmas[at])

    def candidates(self, rows: tuple[Array, Array]) -> tuple[tuple[Any, ...], Any]:
        """Weights of some members, with the ``in_axes`` under which ``vmap`` maps over them."""
        seeds, sigmas = rows
        weights = self.structure.weights
        dense = [weight for weight in weights if weight.noise == "dense"]
        narrow = [weight for weight in weights if weight.noise == "low-rank"]
        changes = dict(zip(dense, self._summed(dense, seeds, sigmas), strict=True)) if dense else {}
        factors = dict(zip(narrow, self._stacked(narrow, seeds, sigmas), strict=True)) if narrow else {}
        out: list[Any] = []
        axes: list[Any] = []
        for w, weight in zip(self.weights, weights, strict=True):
            if weight in factors:
                out.append(LowRank(w, *factors[weight], weight.axes))
                axes.append(LowRank(None, 0, 0, weight.axes))
            else:
                out.append(added(w, changes[weight]))
                axes.append(0)
        return tuple(out), tuple(axes)

    def _drawn(self, weights: list[Weight], seeds: UInt32[Array, "m"]) -> list[tuple[Array, ...]]:
        return draw(weights, self.key, jnp.asarray(0), seeds, self.kind)

    def _summed(self, weights: list[Weight], seeds: Array, sigmas: Array) -> list[Float[Array, "k ..."]]:
        """What each member's dense leaves are away from the center; a child is its parent and one term, in bits."""
        sums = summed(weights, self.key, 0, seeds, sigmas, self.kind, chunk=1)
        return [total * weight.scale(self.kind) for weight, total in zip(weights, sums, strict=True)]

    def _stacked(self, weights: list[Weight], seeds: Array, sigmas: Array) -> list[tuple[Array, Array]]:
        """The factors of all mutations side by side, as one of a higher rank."""
        k, generations = seeds.shape
        out = []
        for weight, (a, b) in zip(weights, self._drawn(weights, seeds.reshape(-1)), strict=True):
            a = a * column(sigmas.reshape(-1) * weight.scale(self.kind), a)
            beside = [jnp.moveaxis(x.reshape(k, generations, *x.shape[1:]), 1, -2) for x in (a, b)]
            wide_a, wide_b = (x.reshape(*x.shape[:-2], -1) for x in beside)
            out.append((wide_a, wide_b))
        return out


jax.tree_util.register_dataclass(
    LineagePopulation,
    data_fields=["weights", "arrays", "key", "seeds", "sigmas"],
    meta_fields=["structure", "kind"],
)
