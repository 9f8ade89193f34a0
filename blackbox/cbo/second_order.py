"""Second-order consensus-based optimization: particles with inertia, between particle swarms and consensus.

Source: Grassi & Pareschi 2021, "From particle swarm optimization to consensus based optimization: stochastic modeling
and mean-field limit" (M3AS 31, arXiv:2012.05613), its particle swarm with memory, in the semi-implicit discretization,
where friction acts on the new velocity. With personal bests y_i and the consensus v of these as in ``memory-cbo``:

    (m + gamma) V_i  <-  m V_i - drift (x_i - v) + s S(x_i - v) xi_i
                               - drift_memory (x_i - y_i) + s_memory S(x_i - y_i) xi'_i
            x_i      <-  x_i + V_i

Time is counted in steps, so that velocities are what a step adds: ``m`` is the paper's m / dt, ``gamma`` its own, the
others are as in ``memory-cbo``. With gamma = 1 - m this is a particle swarm of inertia weight m, and for m = 0
``memory-cbo``. Inertia makes steps longer: pulls that last are multiplied by 1 / (1 - m).

Cost per generation: O(popsize d). State O(popsize d). All arrays may have a leading axis of runs, the key as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.best import Best, better_of, none_yet
from blackbox.cbo.consensus import Sharpness
from blackbox.cbo.diffusion import squared_length
from blackbox.cbo.memory import Memory, no_memory, pulls, recalled, reordered, require_swarm
from blackbox.cbo.swarm import (
    STOPPED,
    asked,
    batch_of,
    bounded,
    in_order,
    most_agree,
    no_steps,
    of_each_run,
    order_of_turns,
    spread,
    uniform_start,
)
from blackbox.kernels.noise import normal
from blackbox.strategy import algorithm, require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class SecondOrderCBOState(NamedTuple):
    key: Key
    generation: Int[Array, "*runs"]
    particles: Float[Array, "*runs popsize d"]
    velocity: Float[Array, "*runs popsize d"]
    memory: Memory
    consensus: Float[Array, "*runs d"]
    agrees: Bool[Array, "*runs"]
    spread: Float[Array, "*runs"]
    best: Best


@algorithm
class SecondOrderCBO:
    """Consensus-based optimization with inertia and memory: a stochastic particle swarm.

    Args:
        m: inertia, from 0, no velocity is kept, to 1, none is lost; with ``gamma`` any number of at least 0.
        gamma: friction, above 0; by default 1 - m.
        popsize: particles, at least 2; they start at rest.
        sigma0: standard deviation of the first particles about x0, uniform in a cube of half width sqrt(3) sigma0.
        s: noise of a step, in units of the distance from the consensus.
        drift: part of that distance by which a step without inertia shrinks it, from 0 to 1.
        s_memory: noise of a step, in units of the distance from the personal best, from 0.
        drift_memory: part of that distance by which a step without inertia shrinks it, from 0 to 1.
        diffusion: ``"anisotropic"``, coordinate by coordinate, or ``"isotropic"``, by length: for that the default
            noises are too much, as s^2 + s_memory^2 has to be less than about 2 gamma (drift + drift_memory) / d.
        truncation: greatest distance that noise is in proportion to, in units of ``sigma0``; may be infinite.
        alpha: how sharp weights are: ``"geometric"``: alpha grows from ``alpha0`` by the factor ``growth`` to
            ``alpha_max``; ``"effective"``: a ``share`` of the particles counts; ``"hard"``: the best alone.
        alpha0: first alpha.
        growth: factor of alpha by step.
        alpha_max: last alpha.
        share: of the particles, that counts.
        batch: particles evaluated and moved in a generation; by default all.
    """

    m: float = 0.1
    gamma: float | None = None
    popsize: int = 40
    sigma0: float = 0.3
    s: float = 1.05
    drift: float = 0.1
    s_memory: float = 0.2
    drift_memory: float = 0.04
    diffusion: Literal["anisotropic", "isotropic"] = "anisotropic"
    truncation: float = 0.3
    alpha: Sharpness = "geometric"
    alpha0: float = 30.0
    growth: float = 1.05
    alpha_max: float = 1e5
    share: float = 0.3
    batch: int | None = None

    positional: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_swarm(self)
        require_number("m", self.m, low=0, high=1 if self.gamma is None else None)
        require_number("gamma", self.gamma, above=0)

    def population_size(self, d: int) -> int:
        """Particles, of which ``ask`` returns a batch."""
        return self.popsize

    def init(self, key: Key, x0: Float[Array, "*runs d"]) -> SecondOrderCBOState:
        xp = namespace(x0)
        particles = uniform_start(key, x0, self.popsize, self.sigma0)
        return SecondOrderCBOState(
            key=xp.asarray(key),
            generation=no_steps(x0),
            particles=particles,
            velocity=xp.zeros_like(particles),
            memory=no_memory(particles),
            consensus=x0,
            agrees=no_steps(x0) < 0,
            spread=of_each_run(x0, self.sigma0),
            best=none_yet(x0),
        )

    def ask(self, state: SecondOrderCBOState, first: int = 0) -> Float[Array, "*runs n d"]:
        """The particles of a batch; further ones lie about these."""
        return asked(state, state.particles[..., : batch_of(self), :], first)

    def tell(
        self, state: SecondOrderCBOState, population: Float[Array, "*runs n d"], fitness: Float[Array, "*runs n"]
    ) -> SecondOrderCBOState:
        xp = namespace(state.particles)
        moving = batch_of(self)
        x, memory, consensus = recalled(self, state, population, fitness)
        pull, size = pulls(self, x, memory.y[..., :moving, :], consensus)
        force = pull + size * normal(state.key, state.generation, x.shape, like=x)
        gamma = 1 - self.m if self.gamma is None else self.gamma
        velocity = (self.m * state.velocity[..., :moving, :] + force) / (self.m + gamma)
        rest = state.particles[..., moving:, :]
        offset = xp.concat([x, rest], axis=-2) - consensus[..., None, :]
        squares = squared_length(offset)
        particles = xp.concat([bounded(x + velocity), rest], axis=-2)
        velocity = xp.concat([bounded(velocity), state.velocity[..., moving:, :]], axis=-2)
        at_rest = most_agree(squared_length(velocity), consensus, STOPPED * self.sigma0)
        if moving < self.popsize:
            order = order_of_turns(state.key, state.generation, particles, moving)
            particles, velocity = in_order(particles, order), in_order(velocity, order)
            memory = reordered(memory, order)
        return SecondOrderCBOState(
            key=state.key,
            generation=state.generation + 1,
            particles=particles,
            velocity=velocity,
            memory=memory,
            consensus=consensus,
            agrees=most_agree(squares, consensus, STOPPED * self.sigma0) & at_rest,
            spread=spread(offset, squares),
            best=better_of(state.best, population, fitness),
        )

    def recommend(self, state: SecondOrderCBOState) -> Float[Array, "*runs d"]:
        """The best point evaluated; the consensus itself is ``state.consensus``."""
        return state.best.x

    def stop(self, state: SecondOrderCBOState) -> dict[str, Bool[Array, "*runs"]]:
        """The one reason to end: most particles agree and rest, so that they move no more."""
        return {"consensus": state.agrees}
