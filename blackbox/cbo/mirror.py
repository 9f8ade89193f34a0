"""Mirror consensus-based optimization: particles drift in a dual space, and where that is mapped to they are evaluated.

Source: Bungert, Hoffmann, Kim & Roith 2025, "MirrorCBO: A consensus-based optimization method in the spirit of mirror
descent", arXiv:2501.12189. With a convex function phi, weights w_i ~ exp(-alpha f(x_i)) and xi ~ N(0, I):

    x_i  =   grad phi*(y_i)
    v    =   sum_i w_i x_i
    y_i  <-  y_i - drift (x_i - v) + s S(x_i - v) xi_i

S is as in ``cbo``. phi is |x|^2 / 2 and what ``mirror`` adds to it, and by that decides where particles can be:

    none      nothing                         x = y                                 everywhere: ``cbo``
    box       0 in [low, high], else inf      x = y, projected onto the box         in the box
    sparse    threshold |x|_1                 x = sign(y) max(0, |y| - threshold)   many coordinates are exactly 0
    simplex   sum_k x_k ln x_k, in its place  x = exp(y) / sum exp(y)               positive, with the sum 1

No step is taken back: a particle beyond a face is at the face until its dual comes back, and a coordinate is 0 until
its dual has gone ``threshold`` far. Particles agree where the x do, however far apart the y are.

Particles start with y = grad phi(x), x uniform about x0; those on the simplex with y uniform about ln x0.

Cost per generation: O(popsize d). State O(popsize d). All arrays may have a leading axis of runs, the key as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, get_args

from blackbox.arrays import Array, Key, namespace
from blackbox.best import Best, better_of, none_yet
from blackbox.cbo.consensus import Sharpness, alpha_of, mean_of, require_sharpness, softmin
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
from blackbox.kernels.noise import normal
from blackbox.strategy import algorithm, require_box, require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Mirror = Literal["none", "box", "sparse", "simplex"]
MIRRORS: tuple[Mirror, ...] = get_args(Mirror)

_LEAST = 1e-30  # of a coordinate on the simplex, of which there is a logarithm


class MirrorCBOState(NamedTuple):
    key: Key
    generation: Int[Array, "*runs"]
    dual: Float[Array, "*runs popsize d"]
    """y; the particles are :meth:`MirrorCBO.primal` of it."""
    consensus: Float[Array, "*runs d"]
    agrees: Bool[Array, "*runs"]
    spread: Float[Array, "*runs"]
    best: Best


@algorithm
class MirrorCBO:
    """Mirror consensus-based optimization.

    Args:
        popsize: particles, at least 2.
        sigma0: standard deviation of the first particles about x0, uniform in a cube of half width sqrt(3) sigma0; on
            the simplex, of their logarithms.
        mirror: ``"none"``, ``"box"``, ``"sparse"`` or ``"simplex"``; without one this is ``cbo`` with one swarm.
        low: least value of a coordinate in the box. By default the box is the unit cube, in which spaces are searched.
        high: greatest value of a coordinate in the box.
        threshold: how far the dual of a coordinate is to go from 0 until it is not 0 any more, if sparse.
        diffusion: ``"anisotropic"``, ``"isotropic"`` or ``"constant"``.
        s: noise of a step, in units of the distance from the consensus (of 1 if constant). If isotropic, the default
            is too much: s^2 d has to be less than 2 drift - drift^2.
        drift: part of that distance by which a step shrinks it, from 0 to 1.
        truncation: greatest distance that noise is in proportion to, in units of ``sigma0``; may be infinite.
        alpha: how sharp weights are: ``"geometric"``: alpha grows from ``alpha0`` by the factor ``growth`` to
            ``alpha_max``; ``"effective"``: a ``share`` of the particles counts; ``"hard"``: the best alone.
        alpha0: first alpha.
        growth: factor of alpha by step.
        alpha_max: last alpha.
        share: of the particles, that counts.
    """

    popsize: int = 100
    sigma0: float = 0.3
    mirror: Mirror = "none"
    low: float = 0.0
    high: float = 1.0
    threshold: float = 1.0
    diffusion: Diffusion = "anisotropic"
    s: float = 1.3
    drift: float = 0.25
    truncation: float = 0.45
    alpha: Sharpness = "geometric"
    alpha0: float = 30.0
    growth: float = 1.05
    alpha_max: float = 1e5
    share: float = 0.2

    positional: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, optional=False)
        for name in ("sigma0", "threshold", "s"):
            require_number(name, getattr(self, name), above=0)
        require_number("truncation", self.truncation, above=0, infinite=True)
        require_number("drift", self.drift, above=0, high=1)
        require_box(self.low, self.high)
        require_one_of("mirror", self.mirror, MIRRORS)
        require_one_of("diffusion", self.diffusion, DIFFUSIONS)
        require_sharpness(self)

    def init(self, key: Key, x0: Float[Array, "*runs d"]) -> MirrorCBOState:
        xp = namespace(x0)
        if self.mirror == "simplex":
            dual = uniform_start(key, self._dual(x0), self.popsize, self.sigma0)
        else:
            dual = self._dual(uniform_start(key, x0, self.popsize, self.sigma0))
        centre = self.primal(self._dual(x0))
        return MirrorCBOState(
            key=xp.asarray(key),
            generation=no_steps(x0),
            dual=dual,
            consensus=centre,
            agrees=no_steps(x0) < 0,
            spread=of_each_run(x0, self.sigma0),
            best=none_yet(centre),
        )

    def ask(self, state: MirrorCBOState, first: int = 0) -> Float[Array, "*runs n d"]:
        """The particles; further ones have duals about theirs."""
        return self.primal(asked(state, state.dual, first))

    def tell(
        self, state: MirrorCBOState, population: Float[Array, "*runs n d"], fitness: Float[Array, "*runs n"]
    ) -> MirrorCBOState:
        xp = namespace(state.dual)
        evaluated, energy = results(population, fitness, self.popsize, state.dual.dtype)
        consensus = mean_of(softmin(energy, alpha_of(self.alpha, self, state.generation, energy)), evaluated)

        primal = self.primal(state.dual)
        particles = where_told(primal, evaluated)
        # Many duals have the same x. What was evaluated elsewhere than asked has another one, that of the gradient.
        was_moved = particles != primal
        if self.mirror == "simplex":  # whose coordinates have duals only together
            was_moved = xp.any(was_moved, axis=-1, keepdims=True)
        dual = xp.where(was_moved, self._dual(particles), state.dual)
        offset = particles - consensus[..., None, :]
        squares = squared_length(offset)
        z = normal(state.key, state.generation, dual.shape, like=dual)
        size = scales(self.diffusion, offset, self.truncation * self.sigma0, squares)
        return MirrorCBOState(
            key=state.key,
            generation=state.generation + 1,
            dual=bounded(dual + (self.s * size * z - self.drift * offset)),
            consensus=consensus,
            agrees=most_agree(squares, consensus, STOPPED * self.sigma0),
            spread=spread(offset, squares),
            best=better_of(state.best, population, fitness),
        )

    def recommend(self, state: MirrorCBOState) -> Float[Array, "*runs d"]:
        """The best point evaluated; the consensus itself is ``state.consensus``."""
        return state.best.x

    def stop(self, state: MirrorCBOState) -> dict[str, Bool[Array, "*runs"]]:
        """The one reason to end: most particles agree, so that they move no more."""
        return {"consensus": state.agrees}

    def primal(self, y: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """x = grad phi*(y)."""
        xp = namespace(y)
        if self.mirror == "box":
            return _clipped(y, self.low, self.high)
        if self.mirror == "sparse":
            far = xp.abs(y) - xp.asarray(self.threshold, dtype=y.dtype)
            return xp.sign(y) * xp.maximum(far, xp.zeros_like(y))
        if self.mirror == "simplex":
            exponentials = xp.exp(y - xp.max(y, axis=-1, keepdims=True))
            return exponentials / xp.sum(exponentials, axis=-1, keepdims=True)
        return y

    def _dual(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """y = grad phi(x), up to a number on the simplex; of points where phi is infinite, of one near by."""
        xp = namespace(x)
        if self.mirror == "box":
            return _clipped(x, self.low, self.high)
        if self.mirror == "sparse":
            return x + xp.asarray(self.threshold, dtype=x.dtype) * xp.sign(x)
        if self.mirror == "simplex":
            return xp.log(xp.maximum(x, xp.zeros_like(x) + _LEAST))
        return x


def _clipped(x: Float[Array, "*n d"], low: Array | float, high: Array | float) -> Float[Array, "*n d"]:
    xp = namespace(x)
    return xp.minimum(xp.maximum(x, xp.zeros_like(x) + low), xp.zeros_like(x) + high)
