"""Polarized consensus-based optimization: each particle drifts to a consensus of those near it, so that a swarm finds
several minima.

Source: Bungert, Roith & Wacker 2023, "Polarized consensus-based dynamics for optimization and sampling",
arXiv:2211.05238, with a Gaussian kernel. With weights w_ij that sum to 1 over j, xi ~ N(0, I):

    w_ij ~   exp(-alpha f(x_j) - c |x_i - x_j|^2 / (2 kappa^2))
    v_i  =   sum_j w_ij x_j
    x_i  <-  x_i - drift (x_i - v_i) + s S(x_i - v_i) xi_i

S is as in ``cbo``. The paper has c = 1. With c = alpha, as in CBXpy, the distance is a further energy: the sharper the
weights, the nearer v_i is to the minimum over the particles of f(x) + |x_i - x|^2 / (2 kappa^2), so that a particle
goes to a minimum at the distance r only if it is lower by more than r^2 / (2 kappa^2) than a near one. With c = 1 the
lowest minimum has all weight as alpha grows, and so alpha is to stay small. Kappa infinite is ``cbo`` either way.

Departure: kappa and alpha are numbers that fit functions of any scale, since lengths are in units of ``sigma0`` and f
is in units of its median above its least value in the first generation, which penalties do not move.

Cost per generation: O(popsize^2 d), by matrix products. State O(popsize d). All arrays may have a leading axis of runs,
the key as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, namespace, settled
from blackbox.best import Best, better_of, none_yet
from blackbox.cbo.consensus import Sharpness, above_least, alpha_of, difference, require_sharpness, softmin
from blackbox.cbo.diffusion import DIFFUSIONS, Diffusion, scales, squared_length
from blackbox.cbo.swarm import (
    STOPPED,
    asked,
    bounded,
    most_agree,
    no_steps,
    of_each_run,
    results,
    spread,
    uniform_start,
    where_told,
)
from blackbox.errors import SettingError
from blackbox.kernels.noise import normal
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class PolarizedCBOState(NamedTuple):
    key: Key
    generation: Int[Array, "*runs"]
    particles: Float[Array, "*runs popsize d"]
    consensus: Float[Array, "*runs popsize d"]
    """Of each particle."""
    leaders: Float[Array, "*runs popsize d"]
    """The evaluated point with the greatest weight in it."""
    values: Float[Array, "*runs popsize"]
    """Of the leaders."""
    agrees: Bool[Array, "*runs"]
    spread: Float[Array, "*runs"]
    unit: Float[Array, "*runs"]
    """Of f; 0 as long as nothing is known."""
    best: Best


@algorithm
class PolarizedCBO:
    """Polarized consensus-based optimization; :func:`minima` says what its swarm has found.

    Args:
        popsize: particles, at least 2.
        sigma0: standard deviation of the first particles about x0, uniform in a cube of half width sqrt(3) sigma0.
        kappa: how far particles see, in units of ``sigma0``; infinite: all others alike, as in ``cbo``.
        kernel: ``"sharpening"``: c = alpha, or ``"constant"``: c = 1, for which alpha had better be effective.
        diffusion: ``"anisotropic"``, ``"isotropic"`` or ``"constant"``.
        s: noise of a step, in units of the distance from the consensus (of 1 if constant).
        drift: part of that distance by which a step shrinks it, from 0 to 1.
        alpha: how sharp weights are: ``"geometric"``: alpha grows from ``alpha0`` by the factor ``growth`` to
            ``alpha_max``; ``"effective"``: a ``share`` of the particles would count if there were no kernel;
            ``"hard"``: for each particle, the best alone.
        alpha0: first alpha.
        growth: factor of alpha by step.
        alpha_max: last alpha.
        share: of the particles, that counts.
    """

    popsize: int = 100
    sigma0: float = 0.3
    kappa: float = 2.0
    kernel: Literal["sharpening", "constant"] = "sharpening"
    diffusion: Diffusion = "anisotropic"
    s: float = 1.0
    drift: float = 0.1
    alpha: Sharpness = "geometric"
    alpha0: float = 30.0
    growth: float = 1.05
    alpha_max: float = 1e5
    share: float = 0.3

    positional: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, optional=False)
        for name in ("sigma0", "s"):
            require_number(name, getattr(self, name), above=0)
        require_number("kappa", self.kappa, above=0, infinite=True)
        require_number("drift", self.drift, above=0, high=1)
        require_one_of("kernel", self.kernel, ("sharpening", "constant"))
        require_one_of("diffusion", self.diffusion, DIFFUSIONS)
        require_sharpness(self)

    def init(self, key: Key, x0: Float[Array, "*runs d"]) -> PolarizedCBOState:
        xp = namespace(x0)
        particles = uniform_start(key, x0, self.popsize, self.sigma0)
        return PolarizedCBOState(
            key=xp.asarray(key),
            generation=no_steps(x0),
            particles=particles,
            consensus=particles,
            leaders=particles,
            values=xp.full_like(particles[..., 0], float("inf")),
            agrees=no_steps(x0) < 0,
            spread=of_each_run(x0, self.sigma0),
            unit=of_each_run(x0, 0.0),
            best=none_yet(x0),
        )

    def ask(self, state: PolarizedCBOState, first: int = 0) -> Float[Array, "*runs n d"]:
        """The particles; further ones lie about these."""
        return asked(state, state.particles, first)

    def tell(
        self, state: PolarizedCBOState, population: Float[Array, "*runs n d"], fitness: Float[Array, "*runs n"]
    ) -> PolarizedCBOState:
        xp = namespace(state.particles)
        evaluated, energy = results(population, fitness, self.popsize, state.particles.dtype)
        particles = where_told(state.particles, evaluated)
        unit = settled(xp.where(state.unit > 0, state.unit, _median_above(energy)))
        above, counts = above_least(energy)
        above = xp.where(counts, above, xp.inf) / xp.where(unit > 0, unit, xp.ones_like(unit))[..., None]
        weights = self._weights(state, particles, evaluated, above)
        consensus = weights @ evaluated
        offset = particles - consensus
        squares = squared_length(offset)
        z = normal(state.key, state.generation, particles.shape, like=particles)
        size = scales(self.diffusion, offset, squares=squares)
        leader = xp.argmax(weights, axis=-1)
        return PolarizedCBOState(
            key=state.key,
            generation=state.generation + 1,
            particles=bounded(particles - self.drift * offset + self.s * size * z),
            consensus=consensus,
            leaders=xp.take_along_axis(evaluated, leader[..., None], axis=-2),
            values=xp.take_along_axis(energy, leader, axis=-1),
            agrees=most_agree(squares, consensus, STOPPED * self.sigma0),
            spread=spread(offset, squares),
            unit=unit,
            best=better_of(state.best, population, fitness),
        )

    def recommend(self, state: PolarizedCBOState) -> Float[Array, "*runs d"]:
        """The best point evaluated; :func:`minima` has the others."""
        return state.best.x

    def stop(self, state: PolarizedCBOState) -> dict[str, Bool[Array, "*runs"]]:
        """The one reason to end: most particles are where their consensus is, so that they move no more."""
        return {"consensus": state.agrees}

    def _weights(
        self,
        state: PolarizedCBOState,
        particles: Float[Array, "*runs popsize d"],
        evaluated: Float[Array, "*runs n d"],
        energy: Float[Array, "*runs n"],
    ) -> Float[Array, "*runs popsize n"]:
        alpha = alpha_of(self.alpha, self, state.generation, energy)
        # Distances are an energy in either case: what is near may have weight where exp(-alpha f) alone would be 0.
        far = squared_distances(particles, evaluated) / (2 * (self.kappa * self.sigma0) ** 2)
        if self.kernel == "constant":
            far = far / alpha[..., None, None]
        return softmin(energy[..., None, :] + far, alpha[..., None])


def _median_above(energy: Float[Array, "*runs n"]) -> Float[Array, "*runs"]:
    """The median of what is finite above the least of it; 0 if nothing is."""
    xp = namespace(energy)
    is_known = xp.isfinite(energy)
    ordered = xp.sort(xp.where(is_known, energy, xp.full_like(energy, xp.inf)), axis=-1)
    known = xp.sum(xp.astype(is_known, xp.asarray(0).dtype), axis=-1, keepdims=True)
    median = xp.take_along_axis(ordered, known // 2 * xp.astype(known > 0, known.dtype), axis=-1)[..., 0]
    return difference(median, ordered[..., 0])


def squared_distances(a: Float[Array, "*runs m d"], b: Float[Array, "*runs n d"]) -> Float[Array, "*runs m n"]:
    """Squared distances of the points of ``a`` from those of ``b``, by a matrix product about the mean of ``b``."""
    xp = namespace(a)
    centre = xp.mean(b, axis=-2, keepdims=True)
    a, b = a - centre, b - centre
    lengths = xp.sum(a * a, axis=-1)[..., :, None] + xp.sum(b * b, axis=-1)[..., None, :]
    distances = lengths - 2 * (a @ xp.matrix_transpose(b))
    return xp.maximum(distances, xp.zeros_like(distances))


class Minima(NamedTuple):
    """What a polarized swarm has found, best first."""

    x: Float[np.ndarray, "k d"]
    value: Float[np.ndarray, "k"]
    """The objective at these points, which have been evaluated."""
    particles: Int[np.ndarray, "k"]
    """How many of the swarm follow each."""


def minima(state: PolarizedCBOState, within: float) -> Minima:
    """The points that the particles of one run follow, those within a distance of a better one taken for the same.

    Args:
        state: of one run, with no leading axis.
        within: the distance, in units of x.

    Raises:
        SettingError: a state of several runs, or a distance that is not positive.
    """
    require_number("within", within, above=0)
    points, values = np.asarray(state.leaders), np.asarray(state.values)
    if points.ndim != 2:
        raise SettingError(f"state must be of one run; got particles of shape {points.shape}")
    left = values < np.inf
    firsts, counts = [], []
    for i in np.argsort(values, kind="stable"):
        if left[i]:
            same = left & (np.linalg.norm(points - points[i], axis=-1) <= within)
            left &= ~same
            firsts.append(i)
            counts.append(int(same.sum()))
    return Minima(points[firsts], values[firsts], np.array(counts, int))
