"""Consensus-based optimization with constraints g(x) = 0 and h(x) <= 0, by a penalty or by a drift to where they hold.

Sources: Borghi, Herty & Pareschi 2023, "Constrained consensus-based optimization" (SIAM Journal on Optimization 33,
arXiv:2111.10571), whose penalty grows; Carrillo, Jin, Zhang & Zhu 2024, "An interacting particle consensus method for
constrained global optimization", arXiv:2405.00891, with drift and equalities. r(x) are the components of g(x) and of
max(0, h(x)), J their derivatives, xi ~ N(0, I) and

    w_i  ~  exp(-alpha (f(x_i) + |r(x_i)|^2 / nu)),    v = sum_i w_i x_i,    nu <- max(shrinking nu, nu_least)
    b_i  =  drift (x_i - v) - s S(x_i - v) xi_i

    penalty:  x_i <- x_i - b_i
    drift:    x_i <- x_i - (I + 2 eta J^T J)^-1 (b_i + 2 eta J^T r(x_i))

The second step is implicit in the drift to where |r|^2 = 0, with the Hessian of |r|^2 by Gauss and Newton, so that it
is stable however stiff that is; ``eta`` is the paper's dt / eps. By the identity of Woodbury its system is of the size
of r, x_i - b_i + J^T (1 / (2 eta) + J J^T)^-1 (J b_i - r): nearly a step of Newton's method to r = 0. Inequalities
count in it where they do not hold. A penalty needs no derivatives and its minima violate constraints by O(nu); a drift
goes to where they hold within rounding.

Departures: of the first source, squares instead of |r|, whose minimum is nearer where swarms can find it, and a nu that
shrinks at every step, not only where the swarm still violates much; of the second, Gauss and Newton, inequalities, no
further noise, and the penalty, which is not in its weights (``nu=None``): without it the particles that have just been
thrown farthest off a curved constraint lead, and on a circle the swarm never agrees unless its noise is small.

``fitness`` is f alone: constraints are functions of one point, which are evaluated here, for each particle. Particles
violate them until they agree; what is recommended does not.

Cost per generation: O(popsize d (m^2 + d)) for m components, and the constraints: with a drift and without
``jacobian``, 2 d + 2 calls for each particle unless arrays are JAX's. State O(popsize d). All arrays may have a leading
axis of runs, the key as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from blackbox.arrays import Array, Key, is_jax, namespace
from blackbox.best import Best, better_of, none_yet
from blackbox.cbo.consensus import Sharpness, alpha_of, geometric, mean_of, require_sharpness, softmin
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
from blackbox.shaping import finite_or_worst
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of, require_order

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Constraint = Callable[[Any], Any]
"""Of one point, an array (d,): a vector, or one number."""

_LARGEST_R = 1e15  # a violation, whose square is finite in any dtype


class ConstrainedCBOState(NamedTuple):
    key: Key
    generation: Int[Array, "*runs"]
    particles: Float[Array, "*runs popsize d"]
    consensus: Float[Array, "*runs d"]
    agrees: Bool[Array, "*runs"]
    spread: Float[Array, "*runs"]
    best: Best
    """Of the points that violate no constraint by more than the tolerance."""
    nearest: Best
    """The point that violates them least, and by how much."""


@algorithm
class ConstrainedCBO:
    """Consensus-based optimization with equality and inequality constraints.

    It is for those who ask and tell it, and take what it recommends: :func:`blackbox.minimize` returns the least value,
    whatever these constraints say, and they would be functions of points in its unit cube.

    Args:
        equality: g of one point, a vector that is to be 0. Here and below in operations of the library that points are
            arrays of; constraints are fixed, as a function that JAX compiles.
        inequality: h of one point, a vector of which no component is to be above 0.
        jacobian: of one point the derivatives of g and below them those of h, in rows. By default, with a drift, JAX
            has them, and they are central differences of other libraries' arrays.
        handling: ``"drift"`` or ``"penalty"``.
        popsize: particles, at least 2.
        sigma0: standard deviation of the first particles about x0, uniform in a cube of half width sqrt(3) sigma0.
        tolerance: by how much a component may be violated by what is recommended.
        eta: how stiff constraints are, with a drift.
        nu: how soft they are in the weights, at first; with a drift it may be None, for no such penalty.
        shrinking: factor of nu by step, up to 1.
        nu_least: last nu.
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

    equality: Constraint | None = None
    inequality: Constraint | None = None
    jacobian: Constraint | None = None
    handling: Literal["drift", "penalty"] = "drift"
    popsize: int = 100
    sigma0: float = 0.3
    tolerance: float = 1e-4
    eta: float = 10.0
    nu: float | None = 1.0
    shrinking: float = 0.9
    nu_least: float = 1e-6
    diffusion: Diffusion = "anisotropic"
    s: float = 1.0
    drift: float = 0.1
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
        for name in ("equality", "inequality", "jacobian"):
            given = getattr(self, name)
            if given is not None and not callable(given):
                raise SettingError(f"{name} must be a function of one point, or None; got {given!r}")
        if self.equality is None and self.inequality is None:
            raise SettingError("equality must be a function of one point, or inequality; both are None")
        require_integer("popsize", self.popsize, low=2, optional=False)
        for name in ("sigma0", "tolerance", "eta", "nu", "nu_least", "s"):
            require_number(name, getattr(self, name), above=0)
        require_number("truncation", self.truncation, above=0, infinite=True)
        require_order("nu_least", self.nu_least, "nu", self.nu)
        for name in ("shrinking", "drift"):
            require_number(name, getattr(self, name), above=0, high=1)
        require_one_of("handling", self.handling, ("drift", "penalty"))
        if self.nu is None and self.handling == "penalty":
            raise SettingError("nu must be a number with handling 'penalty', got None")
        require_one_of("diffusion", self.diffusion, DIFFUSIONS)
        require_sharpness(self)

    def init(self, key: Key, x0: Float[Array, "*runs d"]) -> ConstrainedCBOState:
        xp = namespace(x0)
        return ConstrainedCBOState(
            key=xp.asarray(key),
            generation=no_steps(x0),
            particles=uniform_start(key, x0, self.popsize, self.sigma0),
            consensus=x0,
            agrees=no_steps(x0) < 0,
            spread=of_each_run(x0, self.sigma0),
            best=none_yet(x0),
            nearest=none_yet(x0),
        )

    def ask(self, state: ConstrainedCBOState, first: int = 0) -> Float[Array, "*runs n d"]:
        """The particles; further ones lie about these."""
        return asked(state, state.particles, first)

    def tell(
        self, state: ConstrainedCBOState, population: Float[Array, "*runs n d"], fitness: Float[Array, "*runs n"]
    ) -> ConstrainedCBOState:
        xp = namespace(state.particles)
        fitness = finite_or_worst(fitness, state.particles.dtype)
        r = self.violations(population)
        worst = xp.max(r, axis=-1)
        evaluated, energy = results(population, fitness, self.popsize, fitness.dtype)
        if self.nu is not None:  # 1 / nu grows as alpha does
            stiff = geometric(1 / self.nu, 1 / self.shrinking, 1 / self.nu_least, state.generation, energy)
            energy = energy + stiff[..., None] * xp.sum(r * r, axis=-1)[..., : energy.shape[-1]]
        consensus = mean_of(softmin(energy, alpha_of(self.alpha, self, state.generation, energy)), evaluated)

        particles = where_told(state.particles, evaluated)
        offset = particles - consensus[..., None, :]
        squares = squared_length(offset)
        z = normal(state.key, state.generation, particles.shape, like=particles)
        size = scales(self.diffusion, offset, self.truncation * self.sigma0, squares)
        moved = particles + (self.s * size * z - self.drift * offset)
        if self.handling == "drift":
            moved = moved + self._back(particles, moved - particles)
        feasible = xp.where(worst <= self.tolerance, fitness, xp.full_like(fitness, xp.inf))
        return ConstrainedCBOState(
            key=state.key,
            generation=state.generation + 1,
            particles=bounded(moved),
            consensus=consensus,
            agrees=most_agree(squares, consensus, STOPPED * self.sigma0),
            spread=spread(offset, squares),
            best=better_of(state.best, population, feasible),
            nearest=better_of(state.nearest, population, worst),
        )

    def recommend(self, state: ConstrainedCBOState) -> Float[Array, "*runs d"]:
        """The best point evaluated of those that violate nothing by more than ``tolerance``; until there is one, the
        point that violates least."""
        xp = namespace(state.best.x)
        return xp.where((state.best.fitness < xp.inf)[..., None], state.best.x, state.nearest.x)

    def stop(self, state: ConstrainedCBOState) -> dict[str, Bool[Array, "*runs"]]:
        """The one reason to end: most particles agree, so that they move no more."""
        return {"consensus": state.agrees}

    def violations(self, points: Float[Array, "*runs n d"]) -> Float[Array, "*runs n m"]:
        """|r|: of each constraint, how much it is violated; what is not finite, by 1e15."""
        xp = namespace(points)
        return xp.abs(self._r(self._constraints(points), points))

    def _r(self, values: list[Array], points: Array) -> Float[Array, "*runs n m"]:
        """From the values of g, if there is one, and of h."""
        xp = namespace(points)
        if self.inequality is not None:
            values = [*values[:-1], xp.maximum(values[-1], xp.zeros_like(values[-1]))]
        r = xp.concat(values, axis=-1)
        r = xp.where(xp.isfinite(r), r, xp.full_like(r, _LARGEST_R))
        return xp.reshape(xp.clip(r, -_LARGEST_R, _LARGEST_R), (*points.shape[:-1], r.shape[-1]))

    def _constraints(self, points: Float[Array, "*runs n d"]) -> list[Float[Array, "all ..."]]:
        flat = namespace(points).reshape(points, (-1, points.shape[-1]))
        return [of_each(function, flat) for function in (self.equality, self.inequality) if function is not None]

    def _back(self, x: Float[Array, "*runs n d"], step: Float[Array, "*runs n d"]) -> Float[Array, "*runs n d"]:
        """What is to be added to ``step`` from ``x``, so that it is the implicit one."""
        xp = namespace(x)
        values = self._constraints(x)
        r = self._r(values, x)
        J = self._derivatives(x)
        if J.shape[-2] != r.shape[-1]:
            raise SettingError(f"jacobian must return a row for each of {r.shape[-1]} constraints, got {J.shape[-2]}")
        if self.inequality is not None:  # where these hold they neither pull nor resist
            holds = xp.reshape(values[-1] <= 0, (*x.shape[:-1], -1))
            counts = xp.concat([xp.ones_like(r[..., : r.shape[-1] - holds.shape[-1]]) > 0, ~holds], axis=-1)
            J = xp.where(counts[..., None], J, xp.zeros_like(J))
        J = xp.where(xp.isfinite(J), xp.clip(J, -_LARGEST_R, _LARGEST_R), xp.zeros_like(J))
        system = J @ xp.matrix_transpose(J)
        identity = xp.eye(r.shape[-1], dtype=x.dtype)
        # A constraint that is there twice makes J J^T singular, and where it is steep the first term does not help.
        trace = xp.sum(J * J, axis=(-2, -1))[..., None, None]
        soft = 0.5 / self.eta + 10 * float(xp.finfo(x.dtype).eps) * trace
        right = (J @ step[..., None]) + r[..., None]
        back = -(xp.matrix_transpose(J) @ xp.linalg.solve(system + soft * identity, right))[..., 0]
        return xp.where(xp.isfinite(back), back, xp.zeros_like(back))

    def _derivatives(self, points: Float[Array, "*runs n d"]) -> Float[Array, "*runs n m d"]:
        xp, d = namespace(points), points.shape[-1]
        flat = xp.reshape(points, (-1, d))
        functions = [function for function in (self.equality, self.inequality) if function is not None]
        if self.jacobian is not None:
            J = of_each(self.jacobian, flat)
        elif is_jax(points):
            import jax

            J = xp.concat([of_each(jax.jacfwd(_vector(function, flat)), flat) for function in functions], axis=-1)
        else:
            J = xp.concat([_differences(function, flat) for function in functions], axis=-1)
        return xp.reshape(J, (*points.shape[:-1], -1, d))


def _vector(function: Constraint, like: Array) -> Constraint:
    xp = namespace(like)
    return lambda x: xp.reshape(xp.asarray(function(x), dtype=like.dtype), (-1,))


def of_each(function: Constraint, points: Float[Array, "all d"]) -> Float[Array, "all m"]:
    """The function of each row, as a vector in the points' dtype."""
    vector = _vector(function, points)
    if is_jax(points):
        import jax

        values: Array = jax.vmap(vector)(points)
        return values
    return namespace(points).stack([vector(points[i, :]) for i in range(points.shape[0])])


def _differences(function: Constraint, points: Float[Array, "all d"]) -> Float[Array, "all m*d"]:
    """Derivatives by central differences, each row of the matrix after the other."""
    xp = namespace(points)
    n, d = points.shape
    width = float(xp.finfo(points.dtype).eps) ** (1 / 3) * xp.maximum(xp.abs(points), xp.ones_like(points))
    shifts = width[:, :, None] * xp.eye(d, dtype=points.dtype)
    up, down = (
        xp.reshape(of_each(function, xp.reshape(points[:, None, :] + sign * shifts, (n * d, d))), (n, d, -1))
        for sign in (1.0, -1.0)
    )
    known = xp.isfinite(up) & xp.isfinite(down)
    none = xp.zeros_like(up)
    slopes = (xp.where(known, up, none) - xp.where(known, down, none)) / (2 * width)[:, :, None]
    return xp.reshape(xp.matrix_transpose(slopes), (n, -1))
