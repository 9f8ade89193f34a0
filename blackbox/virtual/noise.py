"""Members around a center by seeded noise, of low rank or of independent entries."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.perturbed import LowRank
from blackbox.perturbed.lowrank import Source, added
from blackbox.virtual.factors import is_fused, source
from blackbox.virtual.leaves import Quantized, drawn, streams
from blackbox.virtual.population import VirtualPopulation, column, required_ids

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt32

    from blackbox.kernels.spec import Kind


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class NoisePopulation(VirtualPopulation):
    """Mirrored pairs of members around a center: EGGROLL's and OpenAI-ES's.

        candidate_i = center + sigma * scale * s_i * E_pair,       s_i = +1 for even members, -1 for odd ones

    with ``E = A B^T / sqrt(rank)`` for leaves of low rank (Sarkar et al. 2025, arXiv:2511.16652, section 4.1) or of
    independent entries. Entries of A, B and E have zero mean and unit variance, so that sigma means the same for
    every rank.

    Attributes:
        weights: center of each perturbed leaf.
        arrays: the other arrays, the same for every member.
        structure: the form of the tree.
        key: key of the run.
        generation: the generation counter.
        sigma: standard deviation of the noise, in units of the parameters.
        ids: member numbers, shape ``(n,)``; None for all of the generation.
        popsize: members of the generation.
        kind: distribution of the noise.
    """

    key: UInt32[Array, "2"]
    generation: Int[Array, ""]
    sigma: Float[Array, ""]
    ids: Int[Array, "n"] | None
    popsize: int
    kind: Kind

    @property
    def rows(self) -> Int[Array, "n"]:
        return jnp.arange(self.popsize) if self.ids is None else self.ids

    @property
    def paired(self) -> bool:
        return self.ids is None

    def __len__(self) -> int:
        return self.popsize if self.ids is None else int(self.ids.shape[0])

    def take(self, ids: Int[Array, "k"]) -> NoisePopulation:
        """The members at some positions."""
        return dataclasses.replace(self, ids=self.rows[required_ids(ids, len(self))])

    def candidates(self, rows: Int[Array, "k"]) -> tuple[tuple[Any, ...], Any]:
        """Weights of some members, with the ``in_axes`` under which ``vmap`` maps over them."""
        paired = self.paired and rows.shape[0] % 2 == 0  # then members 2k and 2k + 1 follow each other
        pairs = rows[::2] // 2 if paired else rows // 2
        sign = (1.0 - 2.0 * (rows % 2)).astype(jnp.float32)
        out: list[Any] = []
        axes: list[Any] = []
        weights = self.structure.weights
        keys = streams(weights, self.key, self.generation)
        # All of the generation decides what makes noise in its product, so that a member's fitness does not depend on
        # who is evaluated with it.
        apart = [i for i, weight in enumerate(weights) if is_fused(weight, self.popsize, self.kind)]
        # Such products need no factors: making these vanishes, if it is a call for that leaf alone. Little noise, which
        # XLA makes, is made at once: a generator for each leaf would take long to compile.
        alone = [i for i in apart if is_fused(weights[i], pairs.shape[0], self.kind)]
        groups = [[i] for i in alone] + [[i for i in range(len(weights)) if i not in alone]]
        noise: dict[int, tuple[Array, ...]] = {}
        for group in filter(None, groups):
            made = drawn([weights[i] for i in group], keys[np.array(group)], pairs, self.kind)
            noise |= zip(group, made, strict=True)
        for i, (w, weight) in enumerate(zip(self.weights, weights, strict=True)):
            parts = noise[i]
            if paired:
                parts = tuple(jnp.repeat(part, 2, axis=0, total_repeat_length=rows.shape[0]) for part in parts)
            step = sign * (self.sigma * weight.scale(self.kind))
            if weight.noise == "low-rank":
                a, b = parts
                values, scale = w if isinstance(w, Quantized) else (w, None)
                named = source(weight, keys[i], rows // 2, step, self.kind) if i in apart else None
                out.append(LowRank(values, a * column(step, a), b, weight.axes, scale, named))
                axes.append(LowRank(None, 0, 0, weight.axes, None, named and Source(0, named.size, named.kind)))
            else:
                (e,) = parts
                out.append(added(w, e * column(step, e)))
                axes.append(0)
        return tuple(out), tuple(axes)


jax.tree_util.register_dataclass(
    NoisePopulation,
    data_fields=["weights", "arrays", "key", "generation", "sigma", "ids"],
    meta_fields=["structure", "popsize", "kind"],
)
