"""Consensus-based optimization: particles drift to a weighted mean of all and explore as far as they are from it.

Sources: Pinnau, Totzeck, Tse & Martin 2017, "A consensus-based model for global optimization and its mean-field limit"
(M3AS 27); Carrillo, Jin, Li & Zhu 2021 (component-wise noise, ESAIM: COCV 27); Fornasier, Richtarik, Riedl & Sun 2024,
arXiv:2310.16610 (truncated noise). With weights w_i ~ exp(-alpha f(x_i)) and xi ~ N(0, I):

    v    =  sum_i w_i x_i
    x_i <-  x_i - drift (x_i - v) + s min(|x_i - v|, truncation) xi_i       coordinate by coordinate
    alpha grows by 5 % a step

``drift`` is the papers' lambda dt and ``s`` their sigma sqrt(dt), the noise of one step, which decides whether a swarm
contracts: with component-wise noise it does where E log|1 - drift + s xi| < 0, which is s < 1.57 for small drifts, in
any dimension. Small swarms with much noise, as by default, take many steps but fewest evaluations.

Cost per generation: O(popsize d). State O(popsize d).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.best import Best, better_of, none_yet
from blackbox.cbo.consensus import geometric, softmin
from blackbox.cbo.diffusion import NOISES, Noise, scales
from blackbox.errors import SettingError
from blackbox.kernels.noise import normal, uniform
from blackbox.shaping import finite_or_worst
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_LARGEST = 1e8  # coordinates stay within


class CBOState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    particles: Float[Array, "popsize d"]
    consensus: Float[Array, "d"]
    best: Best


@algorithm
class CBO:
    """Consensus-based optimization.

    Args:
        popsize: particles, at least 2.
        sigma0: standard deviation of the first particles about x0, uniform in a cube of half width sqrt(3) sigma0.
        s: noise of a step, in units of the distance from the consensus.
        drift: part of that distance by which a step shrinks it, from 0 to 1.
        noise: ``"anisotropic"``, ``"isotropic"`` (which needs a much smaller ``s``) or ``"constant"``.
        truncation: greatest distance that noise is in proportion to, in units of ``sigma0``; None for none.
        alpha0: first weight of differences in fitness.
        alpha_growth: factor of alpha by step, which at 1 stays as it is.
        alpha_max: last weight.
    """

    popsize: int = 25
    sigma0: float = 0.3
    s: float = 1.15
    drift: float = 0.1
    noise: Noise = "anisotropic"
    truncation: float | None = 0.6
    alpha0: float = 30.0
    alpha_growth: float = 1.05
    alpha_max: float = 1e5

    positional: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2)
        for name in ("sigma0", "s", "alpha0"):
            require_number(name, getattr(self, name), above=0)
        require_number("drift", self.drift, above=0, high=1)
        if self.noise not in NOISES:
            raise SettingError(f"noise must be one of {', '.join(NOISES)}; got {self.noise!r}")
        require_number("truncation", self.truncation, above=0)
        require_number("alpha_growth", self.alpha_growth, above=0)
        require_number("alpha_max", self.alpha_max, above=0)

    def init(self, key: Key, x0: Float[Array, "d"]) -> CBOState:
        xp = namespace(x0)
        u = uniform(key, 0, (self.popsize, x0.shape[0]), leaf=1, like=x0)
        return CBOState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            particles=x0 + self.sigma0 * math.sqrt(12.0) * (u - 0.5),
            consensus=x0,
            best=none_yet(x0),
        )

    def ask(self, state: CBOState, first: int = 0) -> Float[Array, "n d"]:
        """The particles; further ones are where their noise might have thrown them as well."""
        if first == 0:
            return state.particles
        return state.particles + self._throw(state, state.particles - state.consensus, first)

    def tell(self, state: CBOState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> CBOState:
        xp = namespace(state.particles)
        energy = finite_or_worst(fitness, state.particles.dtype)
        alpha = geometric(self.alpha0, self.alpha_growth, self.alpha_max, state.generation, state.particles)
        consensus = softmin(energy, alpha) @ population
        told = min(population.shape[0], self.popsize)
        particles = xp.concat([population[:told, :], state.particles[told:, :]])  # whoever has no result drifts as well
        offset = particles - consensus
        moved = particles - self.drift * offset + self._throw(state, offset)
        return CBOState(
            key=state.key,
            generation=state.generation + 1,
            particles=xp.clip(moved, -_LARGEST, _LARGEST),
            consensus=consensus,
            best=better_of(state.best, population, fitness),
        )

    def _throw(self, state: CBOState, offset: Float[Array, "popsize d"], first: int = 0) -> Float[Array, "popsize d"]:
        """The noise of a step, for particles with this offset from the consensus."""
        z = normal(state.key, state.generation, offset.shape, first=first, like=offset)
        truncation = None if self.truncation is None else self.truncation * self.sigma0
        return self.s * scales(self.noise, offset, truncation) * z

    def recommend(self, state: CBOState) -> Float[Array, "d"]:
        """The best point evaluated; the consensus itself is ``state.consensus``."""
        return state.best.x

    def stop(self, state: CBOState) -> dict[str, Bool[Array, ""]]:
        """The one reason to end: all particles agree, so that none of them moves any more."""
        xp = namespace(state.particles)
        spread = xp.max(xp.abs(state.particles - state.consensus))
        return {"consensus": spread < 1e-12 * self.sigma0}
