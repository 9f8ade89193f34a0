"""Consensus-based optimization with adaptive momentum: each particle is Adam, and its offset is the gradient.

Source: Chen, Jin & Lyu 2022, "A consensus-based global optimization method with adaptive momentum estimation"
(Communications in Computational Physics 31, arXiv:2012.04827), and their code github.com/Lyuliyao/ADAM_CBO. In each
generation the swarm is shuffled into batches, each with a consensus v = sum_i w_i x_i, w_i ~ exp(-alpha f(x_i)), of its
own. Then of every particle, coordinate by coordinate, with xi ~ N(0, I):

    M  <-  beta1 M + (1 - beta1) (x - v)           M^ = M / (1 - beta1^t)
    U  <-  beta2 U + (1 - beta2) (x - v)^2         U^ = U / (1 - beta2^t)
    x  <-  x - drift M^ / (sqrt(U^) + eps) + s decay^t xi

M^ / sqrt(U^) is about 1 however far the consensus is: ``drift`` is a length, that of a step, with no dt, and so is
``s``, both in units of sigma0. Noise does not vanish as particles agree, but by its ``decay``. Near the consensus the
step overshoots: offsets do not shrink below about ``drift`` / 40, where drift / sqrt(U^) reaches the limit of stability
2 (1 + beta1) / (1 - beta1). The authors have 500 to 10,000 particles, batches of 5, and 0.06, 0.6 and 0.9995 for
``drift``, ``s`` and ``decay``, which takes tens of thousands of steps; by default here it is some hundreds.

Cost per generation: O(popsize d). State O(popsize d). All arrays may have a leading axis of runs, the key as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.best import Best, better_of, none_yet
from blackbox.cbo.consensus import Sharpness, alpha_of, geometric, mean_of, require_sharpness, softmin
from blackbox.cbo.diffusion import DIFFUSIONS, Diffusion, scales
from blackbox.cbo.swarm import (
    asked,
    bounded,
    in_order,
    no_steps,
    of_each_run,
    order_of_turns,
    spread,
    uniform_start,
    where_told,
)
from blackbox.kernels.noise import normal
from blackbox.shaping import finite_or_worst
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_LONGEST = 0.999999  # of beta: a million steps count


class Moment(NamedTuple):
    """A mean of the past in which what is ``k`` steps old weighs beta^k."""

    total: Float[Array, "*runs popsize d"]
    weight: Float[Array, "*runs"]
    """1 - beta^t, the sum of the weights."""

    def then(self, value: Float[Array, "*runs popsize d"], beta: Array | float) -> Moment:
        return Moment(beta * self.total + (1 - beta) * value, beta * self.weight + (1 - beta))

    def mean(self) -> Float[Array, "*runs popsize d"]:
        return self.total / self.weight[..., None, None]


class AdamCBOState(NamedTuple):
    key: Key
    generation: Int[Array, "*runs"]
    particles: Float[Array, "*runs popsize d"]
    first: Moment
    second: Moment
    spread: Float[Array, "*runs"]
    best: Best


@algorithm
class AdamCBO:
    """Consensus-based optimization with adaptive momentum estimation.

    Args:
        popsize: particles, at least 2.
        sigma0: standard deviation of the first particles about x0, uniform in a cube of half width sqrt(3) sigma0.
        drift: length of a step by coordinate, in units of ``sigma0``.
        s: noise of the first step: in units of ``sigma0`` if constant, else of the distance from the consensus.
        decay: factor of the noise by step, from 0 to 1.
        diffusion: ``"constant"``, ``"anisotropic"`` or ``"isotropic"``.
        beta1: what the past weighs in the mean offset, from 0 to 0.999999.
        beta2: what the past weighs in the mean squared offset, from 0 to 0.999999.
        eps: least root of the mean squared offset, in units of ``sigma0``.
        batch: particles that have a consensus of their own, fewer in the last batch if popsize is no
            multiple. All are evaluated and moved in each generation.
        alpha: how sharp weights are: ``"geometric"``: alpha grows from ``alpha0`` by the factor ``growth`` to
            ``alpha_max``; ``"effective"``: a ``share`` of the particles counts; ``"hard"``: the best alone.
        alpha0: first alpha.
        growth: factor of alpha by step.
        alpha_max: last alpha.
        share: of the particles, that counts.
    """

    popsize: int = 200
    sigma0: float = 0.3
    drift: float = 0.2
    s: float = 0.35
    decay: float = 0.98
    diffusion: Diffusion = "constant"
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    batch: int = 10
    alpha: Sharpness = "geometric"
    alpha0: float = 50.0
    growth: float = 1.0
    alpha_max: float = 1e5
    share: float = 0.3

    positional: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, optional=False)
        require_integer("batch", self.batch, low=2, optional=False)
        for name in ("sigma0", "drift", "s", "eps"):
            require_number(name, getattr(self, name), above=0)
        require_number("decay", self.decay, above=0, high=1)
        for name in ("beta1", "beta2"):
            require_number(name, getattr(self, name), low=0, high=_LONGEST)
        require_one_of("diffusion", self.diffusion, DIFFUSIONS)
        require_sharpness(self)

    def init(self, key: Key, x0: Float[Array, "*runs d"]) -> AdamCBOState:
        xp = namespace(x0)
        zero = of_each_run(x0, 0.0)
        particles = uniform_start(key, x0, self.popsize, self.sigma0)
        nothing = Moment(xp.zeros_like(particles), zero)
        return AdamCBOState(
            key=xp.asarray(key),
            generation=no_steps(x0),
            particles=particles,
            first=nothing,
            second=nothing,
            spread=zero + self.sigma0,
            best=none_yet(x0),
        )

    def ask(self, state: AdamCBOState, first: int = 0) -> Float[Array, "*runs n d"]:
        """The particles; further ones lie about these."""
        return asked(state, state.particles, first)

    def tell(
        self, state: AdamCBOState, population: Float[Array, "*runs n d"], fitness: Float[Array, "*runs n"]
    ) -> AdamCBOState:
        xp = namespace(state.particles)
        x = where_told(state.particles, population)
        offset = x - self._consensus(state, x, fitness)
        first, second = state.first.then(offset, self.beta1), state.second.then(offset * offset, self.beta2)
        step = self.drift * self.sigma0 * first.mean() / (xp.sqrt(second.mean()) + self.eps * self.sigma0)

        level = geometric(self.s, self.decay, self.s, state.generation, x)[..., None, None]
        unit = self.sigma0 if self.diffusion == "constant" else 1.0
        z = normal(state.key, state.generation, x.shape, like=x)
        particles = bounded(x - step + level * unit * scales(self.diffusion, offset) * z)
        if self._batch < self.popsize:
            order = order_of_turns(state.key, state.generation, particles, self.popsize)
            particles = in_order(particles, order)
            first, second = (moment._replace(total=in_order(moment.total, order)) for moment in (first, second))
        return AdamCBOState(
            key=state.key,
            generation=state.generation + 1,
            particles=particles,
            first=first,
            second=second,
            spread=spread(offset),
            best=better_of(state.best, population, fitness),
        )

    def recommend(self, state: AdamCBOState) -> Float[Array, "*runs d"]:
        """The best point evaluated."""
        return state.best.x

    @property
    def _batch(self) -> int:
        return min(self.batch, self.popsize)

    def _consensus(
        self, state: AdamCBOState, x: Float[Array, "*runs popsize d"], fitness: Float[Array, "*runs n"]
    ) -> Float[Array, "*runs popsize d"]:
        """That of each particle's batch; those that were not told have no weight, as what fills up the last batch."""
        xp, size = namespace(x), self._batch
        filled = xp.concat([x, x[..., : -self.popsize % size, :]], axis=-2)
        told = min(fitness.shape[-1], self.popsize)
        energy = finite_or_worst(fitness, x.dtype)[..., :told]
        others = xp.full_like(filled[..., told:, 0], float("inf"))
        batches = (*x.shape[:-2], filled.shape[-2] // size, size)
        energy = xp.reshape(xp.concat([energy, others], axis=-1), batches)
        weights = softmin(energy, alpha_of(self.alpha, self, state.generation[..., None], energy))
        consensus = mean_of(weights, xp.reshape(filled, (*batches, x.shape[-1])))
        return xp.repeat(consensus, size, axis=-2)[..., : self.popsize, :]
