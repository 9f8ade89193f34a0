"""DeepZero: coordinate-wise estimates of a few coordinates at a time, more of them where pruning would keep more.

Source: Chen et al. 2024, "DeepZero: Scaling up zeroth-order optimization for deep model training" (arXiv:2310.02025),
sections 3 and 4. Before training, ZO-GraSP scores the weights (Wang et al. 2020, arXiv:2002.07376)

    score  =  -theta * (H g),      H g  =  (grad f(theta + delta g) - grad f(theta)) / delta

with estimated gradients g; the weights of the lowest scores would be kept. Of that mask only the density of each layer
is used: each step draws new coordinates with these densities, and estimates their derivatives by CGE, all others are
zero. So all weights are trained over time at a fraction of the queries.

The derivatives are as they are, not multiplied to be unbiased, as in the paper. Departures: vectors (biases, scales of
normalizations), which the paper trains whole, have the density of all; coordinates are redrawn each step by default,
not every few epochs, which trains better. The lowest signed scores are kept, as GraSP is published, where the authors'
code keeps the largest magnitudes; gradients are by central differences, both along the same directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError
from blackbox.strategy import require_bool, require_integer, require_key, require_number
from blackbox.virtual import CoordinatePopulation, Leaf, Structure, structure_of
from blackbox.zo.cge import asked, estimated
from blackbox.zo.differences import (
    Estimate,
    Estimator,
    members,
    plain_radius,
    require_first,
    require_patterns,
    require_whole,
    without,
)
from blackbox.zo.gradient import value_and_grad
from blackbox.zo.rge import RGE

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from blackbox.arrays import Key


@dataclass(frozen=True)
class DeepZero:
    """Sparse coordinate-wise gradient estimation.

    Args:
        density: part of the coordinates that are queried: one for all, or one for each leaf by its path, as
            :func:`grasp_densities` gives them. Each leaf has one query at least.
        interval: generations of :class:`ZO` for which coordinates are kept. :func:`value_and_grad` knows no
            generations: there they are kept as long as its key is.
        mu: smoothing radius; by default as that of :class:`CGE`.
        central: central differences, or the paper's forward ones.
        frozen: shell patterns of the paths of leaves that have no gradient.
    """

    density: float | Mapping[str, float] = 0.1
    interval: int = 1
    mu: float | None = None
    central: bool = True
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        each = self.density.items() if isinstance(self.density, Mapping) else [("", self.density)]
        for name, value in each:
            described = f"density of {name}" if name else "density"
            if value is None:
                raise SettingError(f"{described} must be a number above 0 and at most 1, got None")
            require_number(described, value, above=0, high=1)
        if isinstance(self.density, Mapping):
            object.__setattr__(self, "density", _Densities((k, float(v)) for k, v in sorted(self.density.items())))
        require_integer("interval", self.interval, low=1, optional=False)
        require_bool("central", self.central)
        object.__setattr__(self, "mu", plain_radius(self.mu))
        object.__setattr__(self, "frozen", require_patterns(self.frozen))

    def ask(self, params: Any, key: Key, generation: Any = 0, first: int = 0) -> CoordinatePopulation:
        """The queries around ``params``; those of another ``first`` are of coordinates drawn anew."""
        require_key(key)
        structure = self._structure(params)
        counts, interval = self._counts(structure), generation // self.interval
        require_first(first, members(sum(counts), self.central))
        return asked(structure, counts, self.central, first, self.mu, structure.split(params), key, interval)

    def estimate(self, population: CoordinatePopulation, fitness: Float[Array, "n"]) -> Estimate:
        """Value and gradient from the values of all members."""
        structure = population.structure
        fitness = require_whole(fitness, members(sum(self._counts(structure)), self.central))
        return Estimate.of(population, *estimated(self.central, (1.0,) * len(structure.weights), population, fitness))

    def evaluations(self, params: Any) -> int:
        """How many function values an estimate takes."""
        return members(sum(self._counts(self._structure(params))), self.central)

    def _structure(self, params: Any) -> Structure:
        return structure_of(params, without(self.frozen), Leaf(), small=1)

    def _counts(self, structure: Structure) -> tuple[int, ...]:
        if isinstance(self.density, Mapping) and (
            missing := [w.name for w in structure.weights if w.name not in self.density]
        ):
            raise SettingError(f"density must have one for each leaf of params, which {missing} are, too")
        if isinstance(self.density, Mapping) and (unknown := {*self.density} - {w.name for w in structure.weights}):
            raise SettingError(f"density must be of leaves of params that have a gradient; {sorted(unknown)} are none")
        found = []
        for weight in structure.weights:
            density = self.density[weight.name] if isinstance(self.density, Mapping) else self.density
            found.append(max(1, round(density * math.prod(weight.shape))))
        return tuple(found)


class _Densities(dict[str, float]):
    """A mapping that programs can be remembered by."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def grasp_scores(
    f: Callable[..., Any],
    params: Any,
    key: Key,
    *args: Any,
    estimator: Estimator | None = None,
    delta: float | None = None,
) -> dict[str, Float[Array, "..."]]:
    """ZO-GraSP's score of each weight, by the leaf's path: pruning keeps those of the lowest scores.

    Args:
        f: the loss, of ``params`` and ``args``.
        params: the initial parameters.
        key: of the gradients' queries; both gradients have the same ones.
        args: such as a batch of data.
        estimator: of the gradients; by default :class:`RGE` with the paper's 192 queries.
        delta: length of the step along the gradient for the product with the Hessian matrix; by default a hundredth of
            the parameters' own length.
    """
    require_number("delta", delta, above=0)
    estimator = estimator or RGE(queries=192)
    gradient = value_and_grad(f, estimator)
    structure = structure_of(params, without(getattr(estimator, "frozen", ())), Leaf(), small=1)
    weights, arrays = structure.split(params)
    g = structure.split(gradient(params, key, *args)[1])[0]
    length, own = _length(g), _length(weights)
    if not 0 < length < math.inf:
        raise SettingError(f"f must have a gradient at params that is finite and not zero; its length is {length}")
    step = (delta or 0.01 * max(own, 1e-3)) / length
    moved = structure.join([(w + step * x).astype(w.dtype) for w, x in zip(weights, g, strict=True)], arrays)
    g_moved = structure.split(gradient(moved, key, *args)[1])[0]
    if not 0 < _length(g_moved) < math.inf:
        raise SettingError(f"delta must lead to where f has a finite gradient, too; {delta or 'a hundredth'} does not")
    return {
        weight.name: -w * (y - x) / step for weight, w, x, y in zip(structure.weights, weights, g, g_moved, strict=True)
    }


def _length(arrays: Sequence[Array]) -> float:
    return float(jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in arrays)))


def grasp_densities(
    f: Callable[..., Any],
    params: Any,
    key: Key,
    *args: Any,
    density: float = 0.1,
    estimator: Estimator | None = None,
    delta: float | None = None,
) -> dict[str, float]:
    """The part of each leaf that ZO-GraSP keeps, by the leaf's path: densities for :class:`DeepZero`.

    Args:
        density: part of all coordinates that is kept.
        f, params, key, args, estimator, delta: as of :func:`grasp_scores`.
    """
    require_number("density", density, above=0, high=1)
    scores = grasp_scores(f, params, key, *args, estimator=estimator, delta=delta)
    ranked = {name: np.ravel(score) for name, score in scores.items() if score.ndim > 1}
    if not ranked:
        return dict.fromkeys(scores, density)
    pooled = np.concatenate(list(ranked.values()))
    kept = max(1, round(density * len(pooled)))
    threshold = np.partition(pooled, kept - 1)[kept - 1]
    return dict.fromkeys(scores, density) | {
        name: max(1, int(np.sum(score <= threshold))) / len(score) for name, score in ranked.items()
    }
