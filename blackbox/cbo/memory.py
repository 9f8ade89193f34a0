"""Consensus-based optimization with memory: particles are drawn to the consensus and to the best point of their own.

Sources: Grassi & Pareschi 2021, "From particle swarm optimization to consensus based optimization" (M3AS 31,
arXiv:2012.05613), which takes personal bests from particle swarms; Riedl 2022, "Leveraging memory effects and gradient
information in consensus-based optimization" (EJAM, arXiv:2211.12184). With weights w_i ~ exp(-alpha f(y_i)):

    y_i  <-  x_i  if f(x_i) < f(y_i)
    v     =  sum_i w_i y_i
    x_i  <-  x_i - drift (x_i - v) + s S(x_i - v) xi_i - drift_memory (x_i - y_i) + s_memory S(x_i - y_i) xi'_i

``drift`` is the papers' lambda_1 dt and ``s`` their sigma_1 sqrt(dt), the others lambda_2 dt and sigma_2 sqrt(dt). The
two noises of a particle are independent, so that their sum is one normal whose variances are added: it is drawn once.
The papers also let y_i creep towards x_i, by kappa dt (1 + tanh beta (f(y_i) - f(x_i))) / 2. Such a y_i is nowhere
evaluated; here kappa = 1 / dt and beta = infinity, as in Riedl's experiments, so that f(y_i) is known and a generation
takes an evaluation of each particle and no more.

The papers' experiments have 0.4 of ``drift`` and of ``s`` for the memory. Noise about it holds a swarm apart, so by
default it is half of that.

Cost per generation: O(popsize d). State O(popsize d). All arrays may have a leading axis of runs, the key as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.best import Best, better_of, none_yet
from blackbox.cbo.consensus import Sharpness, alpha_of, mean_of, require_sharpness, softmin
from blackbox.cbo.diffusion import scales, squared_length
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
    results,
    spread,
    uniform_start,
    where_told,
)
from blackbox.kernels.noise import normal
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class Memory(NamedTuple):
    """The personal bests, of which those that are none yet have infinite energy."""

    y: Float[Array, "*runs popsize d"]
    energy: Float[Array, "*runs popsize"]


def no_memory(particles: Float[Array, "*runs popsize d"]) -> Memory:
    return Memory(particles, namespace(particles).full_like(particles[..., 0], float("inf")))


def remembered(memory: Memory, evaluated: Float[Array, "*runs n d"], energy: Float[Array, "*runs n"]) -> Memory:
    """The memory after the first ``n`` particles have been evaluated."""
    xp = namespace(memory.y)
    told = evaluated.shape[-2]
    better = energy < memory.energy[..., :told]
    y = xp.where(better[..., None], evaluated, memory.y[..., :told, :])
    least = xp.where(better, energy, memory.energy[..., :told])
    return Memory(where_told(memory.y, y), xp.concat([least, memory.energy[..., told:]], axis=-1))


class MemoryCBOState(NamedTuple):
    key: Key
    generation: Int[Array, "*runs"]
    particles: Float[Array, "*runs popsize d"]
    memory: Memory
    consensus: Float[Array, "*runs d"]
    agrees: Bool[Array, "*runs"]
    spread: Float[Array, "*runs"]
    best: Best


@algorithm
class MemoryCBO:
    """Consensus-based optimization with memory effects.

    Args:
        popsize: particles, at least 2.
        sigma0: standard deviation of the first particles about x0, uniform in a cube of half width sqrt(3) sigma0.
        s: noise of a step, in units of the distance from the consensus.
        drift: part of that distance by which a step shrinks it, from 0 to 1.
        s_memory: noise of a step, in units of the distance from the personal best, from 0.
        drift_memory: part of that distance by which a step shrinks it, from 0 to 1.
        diffusion: ``"anisotropic"``, coordinate by coordinate, or ``"isotropic"``, by length: for that the default
            noises are too much, as s^2 + s_memory^2 has to be less than about 2 (drift + drift_memory) / d.
        truncation: greatest distance that noise is in proportion to, in units of ``sigma0``; may be infinite.
        alpha: how sharp weights are: ``"geometric"``: alpha grows from ``alpha0`` by the factor ``growth`` to
            ``alpha_max``; ``"effective"``: a ``share`` of the particles counts; ``"hard"``: the best alone.
        alpha0: first alpha.
        growth: factor of alpha by step.
        alpha_max: last alpha.
        share: of the particles, that counts.
        batch: particles evaluated and moved in a generation; by default all. Batches are dealt from a shuffled swarm,
            and each has its own consensus.
    """

    popsize: int = 40
    sigma0: float = 0.3
    s: float = 1.15
    drift: float = 0.1
    s_memory: float = 0.23
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

    def population_size(self, d: int) -> int:
        """Particles, of which ``ask`` returns a batch."""
        return self.popsize

    def init(self, key: Key, x0: Float[Array, "*runs d"]) -> MemoryCBOState:
        xp = namespace(x0)
        particles = uniform_start(key, x0, self.popsize, self.sigma0)
        return MemoryCBOState(
            key=xp.asarray(key),
            generation=no_steps(x0),
            particles=particles,
            memory=no_memory(particles),
            consensus=x0,
            agrees=no_steps(x0) < 0,
            spread=of_each_run(x0, self.sigma0),
            best=none_yet(x0),
        )

    def ask(self, state: MemoryCBOState, first: int = 0) -> Float[Array, "*runs n d"]:
        """The particles of a batch; further ones lie about these."""
        return asked(state, state.particles[..., : batch_of(self), :], first)

    def tell(
        self, state: MemoryCBOState, population: Float[Array, "*runs n d"], fitness: Float[Array, "*runs n"]
    ) -> MemoryCBOState:
        xp = namespace(state.particles)
        moving = batch_of(self)
        x, memory, consensus = recalled(self, state, population, fitness)
        pull, size = pulls(self, x, memory.y[..., :moving, :], consensus)
        force = pull + size * normal(state.key, state.generation, x.shape, like=x)
        rest = state.particles[..., moving:, :]
        offset = xp.concat([x, rest], axis=-2) - consensus[..., None, :]
        squares = squared_length(offset)
        particles = xp.concat([bounded(x + force), rest], axis=-2)
        if moving < self.popsize:
            order = order_of_turns(state.key, state.generation, particles, moving)
            particles, memory = in_order(particles, order), reordered(memory, order)
        return MemoryCBOState(
            key=state.key,
            generation=state.generation + 1,
            particles=particles,
            memory=memory,
            consensus=consensus,
            agrees=most_agree(squares, consensus, STOPPED * self.sigma0),
            spread=spread(offset, squares),
            best=better_of(state.best, population, fitness),
        )

    def recommend(self, state: MemoryCBOState) -> Float[Array, "*runs d"]:
        """The best point evaluated; the consensus itself is ``state.consensus``."""
        return state.best.x

    def stop(self, state: MemoryCBOState) -> dict[str, Bool[Array, "*runs"]]:
        """The one reason to end: most particles agree, so that they move no more."""
        return {"consensus": state.agrees}


def require_swarm(settings: Any) -> None:
    """Raise :class:`SettingError` unless the settings are those of a swarm with memory."""
    require_integer("popsize", settings.popsize, low=2, optional=False)
    require_integer("batch", settings.batch, low=2)
    for name in ("sigma0", "s"):
        require_number(name, getattr(settings, name), above=0)
    require_number("truncation", settings.truncation, above=0, infinite=True)
    require_number("s_memory", settings.s_memory, low=0)
    require_number("drift_memory", settings.drift_memory, low=0, high=1)
    require_number("drift", settings.drift, above=0, high=1)
    require_one_of("diffusion", settings.diffusion, ("anisotropic", "isotropic"))
    require_sharpness(settings)


def recalled(
    settings: Any, state: Any, population: Float[Array, "*runs n d"], fitness: Float[Array, "*runs n"]
) -> tuple[Float[Array, "*runs batch d"], Memory, Float[Array, "*runs d"]]:
    """The batch where it was told to be, the memory with what was told, and the consensus of the batch's memory."""
    moving = batch_of(settings)
    evaluated, told = results(population, fitness, moving, state.particles.dtype)
    memory = remembered(state.memory, evaluated, told)
    energy = memory.energy[..., :moving]
    weights = softmin(energy, alpha_of(settings.alpha, settings, state.generation, energy))
    consensus = mean_of(weights, memory.y[..., :moving, :])
    return where_told(state.particles[..., :moving, :], evaluated), memory, consensus


def pulls(
    settings: Any, x: Float[Array, "*runs n d"], y: Float[Array, "*runs n d"], consensus: Float[Array, "*runs d"]
) -> tuple[Float[Array, "*runs n d"], Float[Array, "*runs n d"]]:
    """How far both drifts take particles, and the deviation of the sum of both noises."""
    xp = namespace(x)
    limit = settings.truncation * settings.sigma0
    offset, regret = x - consensus[..., None, :], x - y
    size = settings.s * scales(settings.diffusion, offset, limit)
    size_memory = settings.s_memory * scales(settings.diffusion, regret, limit)
    return -(settings.drift * offset + settings.drift_memory * regret), xp.sqrt(size * size + size_memory * size_memory)


def reordered(memory: Memory, order: Int[Array, "*runs n"]) -> Memory:
    return Memory(in_order(memory.y, order), namespace(order).take_along_axis(memory.energy, order, axis=-1))
