"""Consensus-based optimization: particles drift to a weighted mean of all and explore as far as they are from it.

Sources: Pinnau, Totzeck, Tse & Martin 2017, "A consensus-based model for global optimization and its mean-field limit"
(M3AS 27); Carrillo, Jin, Li & Zhu 2021 (component-wise noise, batches of particles; ESAIM: COCV 27); Fornasier,
Richtarik, Riedl & Sun 2024, arXiv:2310.16610 (truncated noise). With weights w_i ~ exp(-alpha f(x_i)), xi ~ N(0, I):

    v    =  sum_i w_i x_i
    x_i <-  x_i - drift H_i (x_i - v) + s S(x_i - v) xi_i

S is the distance, coordinate by coordinate or as a length; H_i is 1, or whether x_i is worse than the consensus.
``drift`` is the papers' lambda dt and ``s`` their sigma sqrt(dt), the noise of one step, which decides whether a swarm
contracts: coordinate by coordinate where E log|1 - drift + s xi| < 0, that is s < 1.57 for small drifts, and as a
length where s^2 d < 2 drift - drift^2.

Neither noise does for all functions: coordinate by coordinate, swarms find the lowest of 10^20 minima if they lie on a
grid, and not if it is rotated; a soft consensus with noise by length does not know of axes. So by default swarms take
turns until the budget is used: one that has agreed is followed by one with the other noise. That takes an isotropic
swarm tens of steps, and an anisotropic one thousands in many dimensions, where its noise has a heavy tail.

Cost per generation: O(popsize d). State O(popsize d). All arrays may have a leading axis of runs, the key as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from blackbox.arrays import Array, Key, choose, namespace, settled
from blackbox.best import Best, better_of, none_yet
from blackbox.cbo.consensus import SHARPNESSES, Sharpness, alpha_of, mean_of, require_sharpness, softmin
from blackbox.cbo.correction import CORRECTIONS, Correction, share_of_drift
from blackbox.cbo.diffusion import DIFFUSIONS, Diffusion, isotropic_limit, scales, squared_length
from blackbox.cbo.swarm import (
    STOPPED,
    asked,
    batch_of,
    bounded,
    dealt,
    most_agree,
    no_steps,
    of_each_run,
    spread,
    uniform_start,
    where_told,
)
from blackbox.errors import SettingError
from blackbox.kernels.noise import normal
from blackbox.shaping import finite_or_worst
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# If isotropic, s is in units of its limit of stability.
_S: dict[Diffusion, float] = {"anisotropic": 1.3, "isotropic": 0.95, "constant": 0.1}
_DRIFT: dict[Diffusion, float] = {"anisotropic": 0.25, "isotropic": 0.8, "constant": 0.1}
_TRUNCATION: dict[Diffusion, float | None] = {"anisotropic": 0.45, "isotropic": None, "constant": None}
_ALPHA: dict[Diffusion, Sharpness] = {"anisotropic": "geometric", "isotropic": "effective", "constant": "geometric"}
_AGREED, _STILL = 1e-3, 1e-5  # in units of sigma0


class CBOState(NamedTuple):
    key: Key
    generation: Int[Array, "*runs"]
    age: Int[Array, "*runs"]
    """Steps of the present swarm."""
    swarms: Int[Array, "*runs"]
    """Swarms before it."""
    x0: Float[Array, "*runs d"]
    particles: Float[Array, "*runs popsize d"]
    consensus: Float[Array, "*runs d"]
    agrees: Bool[Array, "*runs"]
    spread: Float[Array, "*runs"]
    best: Best


@algorithm
class CBO:
    """Consensus-based optimization.

    Args:
        popsize: particles, at least 2.
        sigma0: standard deviation of the first particles about x0, uniform in a cube of half width sqrt(3) sigma0.
        diffusion: what noise is in proportion to: ``"anisotropic"``, ``"isotropic"``, ``"constant"``, or
            ``"alternating"``: swarms take turns, isotropic first, each with the defaults of its noise.
        s: noise of a step, in units of the distance from the consensus (of 1 if constant); by default 1.3 if
            anisotropic, 0.95 of the limit of stability if isotropic, 0.1 if constant.
        drift: part of that distance by which a step shrinks it, from 0 to 1; by default 0.25 if anisotropic, 0.8 if
            isotropic, 0.1 if constant.
        truncation: greatest distance that noise is in proportion to, in units of ``sigma0``; by default 0.45 if
            anisotropic, else none. May be infinite.
        alpha: how sharp weights are: ``"geometric"``: alpha grows from ``alpha0`` by the factor ``growth`` to
            ``alpha_max``; ``"effective"``: a ``share`` of the particles counts; ``"hard"``: the best alone. By default
            geometric, and effective if isotropic.
        alpha0: first alpha.
        growth: factor of alpha by step.
        alpha_max: last alpha.
        share: of the particles, that counts.
        correction: ``"none"``, or who drifts is who is worse than the consensus: ``"heaviside"``, or ``"smooth"`` about
            it. Either takes one evaluation more a generation, the last row of a population: of the consensus of the
            generation before.
        batch: particles evaluated in a generation; by default all. Batches are dealt from a shuffled swarm, and each
            has its own consensus.
        update: ``"partial"``: a batch moves itself; ``"full"``: all particles.
        agreed: ``"restart"``: once more than half of the particles are within 0.1 % of ``sigma0`` of the consensus, a
            new swarm follows, normal about x0; ``"kick"``: when the consensus stands still, all particles are kicked;
            ``"stop"`` once more than half of them are where the consensus is. By default restart if alternating, else
            stop.
        kick: deviation of the kick, in units of ``sigma0``.
    """

    popsize: int = 100
    sigma0: float = 0.3
    diffusion: Literal["alternating", "anisotropic", "isotropic", "constant"] = "alternating"
    s: float | None = None
    drift: float | None = None
    truncation: float | None = None
    alpha: Sharpness | None = None
    alpha0: float = 30.0
    growth: float = 1.05
    alpha_max: float = 1e5
    share: float = 0.2
    correction: Correction = "none"
    batch: int | None = None
    update: Literal["partial", "full"] = "partial"
    agreed: Literal["restart", "kick", "stop"] | None = None
    kick: float = 0.1

    positional: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2)
        require_integer("batch", self.batch, low=2)
        for name in ("sigma0", "s", "kick"):
            require_number(name, getattr(self, name), above=0)
        require_number("truncation", self.truncation, above=0, infinite=True)
        require_number("drift", self.drift, above=0, high=1)
        require_one_of("diffusion", self.diffusion, ("alternating", *DIFFUSIONS))
        require_sharpness(self, (None, *SHARPNESSES))
        require_one_of("correction", self.correction, CORRECTIONS)
        require_one_of("update", self.update, ("partial", "full"))
        turns = self.diffusion == "alternating"
        require_one_of("agreed", self.agreed, (None, "restart") if turns else (None, "restart", "kick", "stop"))
        for name in ("s", "drift", "truncation", "alpha") if turns else ():
            if (given := getattr(self, name)) is not None:
                raise SettingError(
                    f"{name} must be None with alternating noise, of which each has its own; got {given!r}"
                )
        if self.correction != "none" and self.batch is not None and self.update == "full":
            raise SettingError(f"update must be 'partial' with correction {self.correction!r}, which needs all values")

    def population_size(self, d: int) -> int:
        """Particles, of which ``ask`` returns a batch, with the consensus if a correction needs it."""
        return self.popsize

    def init(self, key: Key, x0: Float[Array, "*runs d"]) -> CBOState:
        xp = namespace(x0)
        zero = no_steps(x0)
        return CBOState(
            key=xp.asarray(key),
            generation=zero,
            age=zero,
            swarms=zero,
            x0=x0,
            particles=uniform_start(key, x0, self.popsize, self.sigma0),
            consensus=x0,
            agrees=zero < 0,
            spread=of_each_run(x0, self.sigma0),
            best=none_yet(x0),
        )

    def ask(self, state: CBOState, first: int = 0) -> Float[Array, "*runs n d"]:
        """The particles of a batch, and the consensus if a correction needs it; further ones lie about these."""
        xp = namespace(state.particles)
        points = state.particles[..., : batch_of(self), :]
        if self.correction != "none":
            points = xp.concat([points, state.consensus[..., None, :]], axis=-2)
        return asked(state, points, first)

    def tell(
        self, state: CBOState, population: Float[Array, "*runs n d"], fitness: Float[Array, "*runs n"]
    ) -> CBOState:
        xp = namespace(state.particles)
        batch = batch_of(self)
        energy = finite_or_worst(fitness, state.particles.dtype)
        told = min(population.shape[-2], batch)
        evaluated, energies = population[..., :told, :], energy[..., :told]
        consensus = mean_of(softmin(energies, self._alpha(state, energies)), evaluated)

        particles = where_told(state.particles, evaluated)
        offset = particles - consensus[..., None, :]
        squares = squared_length(offset)
        moving = self.popsize if self.update == "full" else batch
        z = normal(state.key, state.generation, particles[..., :moving, :].shape, like=particles)
        pull: Array | float = 1.0
        if self.correction != "none" and told == moving < population.shape[-2]:
            pull = share_of_drift(self.correction, energies, energy[..., told : told + 1])[..., None]
        step = self._step(state, offset[..., :moving, :], squares[..., :moving], z, pull)
        moved = particles[..., :moving, :] + step
        if moving < self.popsize:
            moved = xp.concat([moved, particles[..., moving:, :]], axis=-2)

        restarts = self._when_agreed == "restart"
        agrees = most_agree(squares, consensus, (_AGREED if restarts else STOPPED) * self.sigma0)
        is_over = agrees & restarts
        if self._when_agreed == "kick":
            still = xp.max(xp.abs(consensus - state.consensus), axis=-1) < _STILL * self.sigma0
            blow = normal(state.key, state.generation, particles.shape, leaf=3, like=particles)
            moved = xp.where(still[..., None, None], moved + self.kick * self.sigma0 * blow, moved)
        elif restarts:
            stepped = moved
            moved = choose(is_over[..., None, None], lambda: self._next_swarm(state, z), lambda: stepped)
        if batch < self.popsize:
            moved = dealt(state.key, state.generation, moved, batch)
        return CBOState(
            key=state.key,
            generation=state.generation + 1,
            age=settled(xp.where(is_over, xp.zeros_like(state.age), state.age + 1)),
            swarms=state.swarms + xp.astype(is_over, state.swarms.dtype),
            x0=state.x0,
            particles=bounded(moved),
            consensus=consensus,
            agrees=agrees,
            spread=settled(xp.where(is_over, xp.zeros_like(state.spread) + self.sigma0, spread(offset, squares))),
            best=better_of(state.best, population, fitness),
        )

    def recommend(self, state: CBOState) -> Float[Array, "*runs d"]:
        """The best point evaluated; the consensus itself is ``state.consensus``."""
        return state.best.x

    def stop(self, state: CBOState) -> dict[str, Bool[Array, "*runs"]]:
        """The one reason to end: most particles agree, so that they move no more."""
        return {"consensus": state.agrees & (self._when_agreed == "stop")}

    @property
    def _when_agreed(self) -> str:
        return self.agreed or ("restart" if self.diffusion == "alternating" else "stop")

    def _alpha(self, state: CBOState, energy: Float[Array, "*runs n"]) -> Float[Array, "*runs"]:
        def of(kind: Sharpness) -> Float[Array, "*runs"]:
            return alpha_of(kind, self, state.age, energy)

        if self.diffusion == "alternating":
            return choose(state.swarms % 2 == 0, lambda: of("effective"), lambda: of("geometric"))
        return of(self.alpha or _ALPHA[self.diffusion])

    def _next_swarm(self, state: CBOState, z: Float[Array, "*runs moving d"]) -> Float[Array, "*runs popsize d"]:
        """Normal about x0, by the noise that this step needs no more: uniform numbers for it would slow every step."""
        if z.shape[-2] < self.popsize:
            z = normal(state.key, state.generation, state.particles.shape, like=z)
        return state.x0[..., None, :] + self.sigma0 * z

    def _step(
        self,
        state: CBOState,
        offset: Float[Array, "*runs n d"],
        squares: Float[Array, "*runs n"],
        z: Float[Array, "*runs n d"],
        pull: Array | float,
    ) -> Float[Array, "*runs n d"]:
        """What a step adds: the drift towards the consensus, of which ``pull`` holds, and the noise."""

        def of(kind: Diffusion) -> Float[Array, "*runs n d"]:
            drift = _DRIFT[kind] if self.drift is None else self.drift
            s = _S[kind] if self.s is None else self.s
            if kind == "isotropic" and self.s is None:
                s = s * isotropic_limit(drift, offset.shape[-1])
            truncation = _TRUNCATION[kind] if self.truncation is None else self.truncation
            size = scales(kind, offset, None if truncation is None else truncation * self.sigma0, squares)
            return s * size * z - drift * pull * offset

        if self.diffusion != "alternating":
            return of(self.diffusion)
        is_isotropic = (state.swarms % 2 == 0)[..., None, None]
        return choose(is_isotropic, lambda: of("isotropic"), lambda: of("anisotropic"))
