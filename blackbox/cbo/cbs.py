"""Consensus-based sampling: a swarm forgets where it was and is drawn anew from a normal about its consensus.

Source: Carrillo, Hoffmann, Stuart & Vaes 2022, "Consensus based sampling" (Studies in Applied Mathematics 148),
whose beta is our alpha and whose alpha our beta. With weights w_i ~ exp(-alpha f(x_i)), xi ~ N(0, I):

    v    =   sum_i w_i x_i
    C    =   sum_i w_i (x_i - v) (x_i - v)^T
    x_i  <-  v + beta (x_i - v) + sqrt((1 - beta^2) / lambda) C^(1/2) xi_i        beta = exp(-dt)

With lambda = 1 / (1 + alpha) and alpha fixed it samples: for a quadratic f, of whatever alpha and dt, the swarm tends
to exp(-f) exactly, as popsize grows; for other f, to something close to the normal with its mode and curvature. With
lambda = 1 it optimizes: the swarm tends to the minimum. Both go by no axes and no scales: of A x + b instead of x, with
any regular matrix A, the swarm is A times the same plus b, in law.

Any root of C will do, and none of C itself is taken. With fewer particles than coordinates, noise is a sum of the
offsets, C^(1/2) xi = sum_j sqrt(w_j) (x_j - v) xi_j; else these are d rows first, by a QR decomposition, which is
as exact as the offsets where C, of their squares, is not.

Departure: none. Cost per generation: O(popsize min(popsize, d) d). State O(popsize d). All arrays may have a leading
axis of runs, the key as well.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.best import Best, better_of, none_yet
from blackbox.cbo.consensus import effective, mean_of, softmin
from blackbox.cbo.diffusion import squared_length
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
from blackbox.kernels.noise import normal
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class CBSState(NamedTuple):
    key: Key
    generation: Int[Array, "*runs"]
    particles: Float[Array, "*runs popsize d"]
    consensus: Float[Array, "*runs d"]
    agrees: Bool[Array, "*runs"]
    spread: Float[Array, "*runs"]
    best: Best


@algorithm
class CBS:
    """Consensus-based sampling; the sample is ``state.particles``, after the steps that it takes to get there.

    Args:
        popsize: particles, at least 2; better ten times the dimension, since noise lies in the plane of the offsets and
            a swarm shrinks by 1 / popsize or so more than it should.
        sigma0: standard deviation of the first particles about x0, uniform in a cube of half width sqrt(3) sigma0. To
            optimize, they are to be about the minimum: of a way of several sigma0 to it, a swarm often goes but a part.
        mode: ``"optimize"``, or ``"sample"`` from the density exp(-f).
        dt: time of a step. Infinite, as the paper has it for optimization: all particles are drawn anew; for samples,
            any is as good in the end.
        alpha: how sharp weights are; by default 1 for samples, and for optimization so that a ``share`` counts.
        share: of the particles, that counts.
    """

    popsize: int = 100
    sigma0: float = 0.3
    mode: Literal["optimize", "sample"] = "optimize"
    dt: float = math.inf
    alpha: float | None = None
    share: float = 0.5

    positional: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, optional=False)
        for name in ("sigma0", "alpha"):
            require_number(name, getattr(self, name), above=0)
        require_number("dt", self.dt, above=0, infinite=True)
        require_number("share", self.share, above=0, high=1)
        require_one_of("mode", self.mode, ("optimize", "sample"))

    def init(self, key: Key, x0: Float[Array, "*runs d"]) -> CBSState:
        xp = namespace(x0)
        return CBSState(
            key=xp.asarray(key),
            generation=no_steps(x0),
            particles=uniform_start(key, x0, self.popsize, self.sigma0),
            consensus=x0,
            agrees=no_steps(x0) < 0,
            spread=of_each_run(x0, self.sigma0),
            best=none_yet(x0),
        )

    def ask(self, state: CBSState, first: int = 0) -> Float[Array, "*runs n d"]:
        """The particles; further ones lie about these."""
        return asked(state, state.particles, first)

    def tell(
        self, state: CBSState, population: Float[Array, "*runs n d"], fitness: Float[Array, "*runs n"]
    ) -> CBSState:
        xp = namespace(state.particles)
        evaluated, energy = results(population, fitness, self.popsize, state.particles.dtype)
        samples = self.mode == "sample"
        if self.alpha is None and not samples:
            alpha = effective(energy, self.share)
        else:
            alpha = xp.asarray(1.0 if self.alpha is None else self.alpha, dtype=energy.dtype)
        weights = softmin(energy, alpha)
        consensus = mean_of(weights, evaluated)

        particles = where_told(state.particles, evaluated)
        offset = particles - consensus[..., None, :]
        squares = squared_length(offset)
        root = root_of_covariance(weights, evaluated - consensus[..., None, :])
        shape = (*particles.shape[:-1], root.shape[-2])
        z = normal(state.key, state.generation, shape, like=particles)
        beta = xp.exp(-xp.asarray(self.dt, dtype=particles.dtype))
        variance = (1 - beta * beta) * (1 + alpha if samples else 1.0)
        return CBSState(
            key=state.key,
            generation=state.generation + 1,
            particles=bounded(consensus[..., None, :] + beta * offset + xp.sqrt(variance) * (z @ root)),
            consensus=consensus,
            agrees=most_agree(squares, consensus, STOPPED * self.sigma0),
            spread=spread(offset, squares),
            best=better_of(state.best, population, fitness),
        )

    def recommend(self, state: CBSState) -> Float[Array, "*runs d"]:
        """The best point evaluated, or of samples the consensus, an estimate of their mean."""
        return state.consensus if self.mode == "sample" else state.best.x

    def stop(self, state: CBSState) -> dict[str, Bool[Array, "*runs"]]:
        """The one reason to end an optimization: most particles agree, so that they move no more."""
        return {"consensus": state.agrees & (self.mode == "optimize")}


def root_of_covariance(
    weights: Float[Array, "*runs n"], offset: Float[Array, "*runs n d"]
) -> Float[Array, "*runs rows d"]:
    """A matrix R of min(n, d) rows with R^T R = sum_j w_j offset_j offset_j^T: of normal z, z R has this covariance."""
    xp = namespace(offset)
    rows = xp.sqrt(weights)[..., None] * offset
    if rows.shape[-2] < rows.shape[-1]:
        return rows
    upper = xp.linalg.qr(rows).R
    # Libraries differ in the signs of rows, which the law of z R does not depend on, but its values do.
    diagonal = xp.linalg.diagonal(upper)
    return xp.where(diagonal < 0, -xp.ones_like(diagonal), xp.ones_like(diagonal))[..., None] * upper
