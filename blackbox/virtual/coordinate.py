"""Members that differ from a center in one coordinate, for coordinate-wise gradient estimates (CGE)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError
from blackbox.perturbed import LowRank
from blackbox.perturbed.lowrank import added
from blackbox.virtual.leaves import Leaf, Structure, Weight, structure_of
from blackbox.virtual.population import VirtualPopulation, column, required_ids

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CoordinatePopulation(VirtualPopulation):
    """``candidate_i = center + step_i e_(coordinate_i)``.

    Where the members of a weight follow each other, in the order of the weights, ``evaluate`` runs the objective once
    and for each member what comes after its weight (:mod:`blackbox.perturbed.sweep`). In another order a change is one
    of rank one, so that members share the products.

    Coordinates count the entries of the perturbed leaves, one leaf after another in the order of the tree, each in row
    order.

    Attributes:
        weights: center of each perturbed leaf.
        arrays: the other arrays, the same for every member.
        structure: the form of the tree.
        coordinates: shape ``(n,)``, each from 0 to the number of perturbed entries less one.
        steps: shape ``(n,)``, signed, in units of the parameters.
        counts: how many members each weight has, if they follow each other; else None.
    """

    coordinates: Int[Array, "n"]
    steps: Float[Array, "n"]
    counts: tuple[int, ...] | None = None

    @classmethod
    def around(
        cls,
        params: Any,
        coordinates: Int[Array, "n"],
        steps: Float[Array, "n"],
        policy: Mapping[str, Leaf] | None = None,
        counts: tuple[int, ...] | None = None,
    ) -> CoordinatePopulation:
        """The population around a pytree of parameters; leaves that ``policy`` freezes have no coordinates.

        ``counts`` is needed in a traced program alone, where coordinates cannot be looked at.

        Raises:
            SettingError: arrays of different shapes, coordinates that do not exist, or more entries than 32 bits can
                count.
        """
        structure = structure_of(params, policy or {}, Leaf(), small=1)
        coordinates, steps = jnp.asarray(coordinates), jnp.asarray(steps, jnp.float32)
        if coordinates.ndim != 1 or coordinates.shape != steps.shape:
            raise SettingError(
                f"coordinates and steps must be of one shape (n,), got {coordinates.shape} and {steps.shape}"
            )
        entries = sum(math.prod(weight.shape) for weight in structure.weights)
        if entries >= 2**31:
            raise SettingError(f"params has {entries} perturbed entries; coordinates count at most {2**31 - 1}")
        required_ids(coordinates, entries, "coordinates")
        coordinates = coordinates % entries
        return cls(*structure.split(params), structure, coordinates, steps, counts or _counted(coordinates, structure))

    @property
    def rows(self) -> tuple[Int[Array, "n"], Float[Array, "n"]]:
        return self.coordinates, self.steps

    def take(self, ids: Int[Array, "k"]) -> CoordinatePopulation:
        """The members at some positions."""
        at = required_ids(ids, len(self))
        coordinates = self.coordinates[at]
        # Of members that follow each other, as shares of a generation do; each other choice would be a program more.
        follow = not isinstance(at, jax.core.Tracer) and bool(np.all(np.diff(np.asarray(at)) == 1))
        counts = _counted(coordinates, self.structure) if follow else None
        return dataclasses.replace(self, coordinates=coordinates, steps=self.steps[at], counts=counts)

    def candidates(self, rows: tuple[Int[Array, "k"], Float[Array, "k"]]) -> tuple[tuple[Any, ...], Any]:
        """Weights of some members, with the ``in_axes`` under which ``vmap`` maps over them."""
        coordinates, steps = rows
        out: list[Any] = []
        axes: list[Any] = []
        first = 0
        for w, weight in zip(self.weights, self.structure.weights, strict=True):
            size = math.prod(weight.shape)
            at = coordinates - first  # one_hot of a number outside its range is zero everywhere
            first += size
            if weight.noise == "low-rank":
                inside = (at >= 0) & (at < size)
                a, b = _one_hot_factors(jnp.where(inside, at, 0), weight)
                a = a * column(jnp.where(inside, steps, 0.0), a)
                out.append(LowRank(w, a, b, weight.axes))
                axes.append(LowRank(None, 0, 0, weight.axes))
            else:
                e = jax.nn.one_hot(at, size).reshape(-1, *weight.shape)
                out.append(added(w, e * column(steps, e)))
                axes.append(0)
        return tuple(out), tuple(axes)


def _counted(coordinates: Int[Array, "n"], structure: Structure) -> tuple[int, ...] | None:
    """How many coordinates each weight has, if they are known and follow each other in the order of the weights."""
    if isinstance(coordinates, jax.core.Tracer):
        return None
    ends = np.cumsum([math.prod(weight.shape) for weight in structure.weights])
    weight = np.searchsorted(ends, np.asarray(coordinates), side="right")
    if np.any(np.diff(weight) < 0):
        return None
    return tuple(np.bincount(weight, minlength=len(ends)).tolist())


def _one_hot_factors(at: Int[Array, "k"], weight: Weight) -> tuple[Float[Array, "k ..."], Float[Array, "k ..."]]:
    """Factors of rank one whose product is one at entry ``at`` and zero elsewhere."""
    entry = jnp.unravel_index(at, weight.shape)
    kinds = "s" * weight.stacked + weight.axes
    factors = []
    for kind, part in zip("ab", weight.parts, strict=True):
        own = [i for i, axis in enumerate(kinds) if axis in ("s", kind)]
        flat = jnp.ravel_multi_index([entry[i] for i in own], part[:-1], mode="clip")
        factors.append(jax.nn.one_hot(flat, math.prod(part)).reshape(-1, *part))
    return factors[0], factors[1]


jax.tree_util.register_dataclass(
    CoordinatePopulation, data_fields=["weights", "arrays", "coordinates", "steps"], meta_fields=["structure", "counts"]
)
