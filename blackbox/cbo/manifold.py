"""Consensus-based optimization on a sphere, or on matrices with orthonormal columns (a Stiefel manifold).

Sources: Fornasier, Huang, Pareschi & Sünnen 2020 and 2021, "Consensus-based optimization on hypersurfaces" (M3AS 30,
arXiv:2001.11994) and "Consensus-based optimization on the sphere" (JMLR 22, arXiv:2001.11988); Kim, Kang, Kim, Ha &
Yang 2020, "A stochastic consensus method for nonconvex optimization on the Stiefel manifold" (CDC). x are matrices of
``rows`` x ``columns`` with x^T x = I, and the sphere has one column. With weights w_i ~ exp(-alpha f(x_i)), offsets
x_i - v from v = sum_i w_i x_i, which lies inside, and xi ~ N(0, I):

    P(x) z  =   z - x (x^T z + z^T x) / 2
    x_i     <-  R(x_i - drift P(x_i)(x_i - v) + s |x_i - v| P(x_i) xi_i - s^2 / 2 |x_i - v|^2 curvature x_i)

P projects onto the tangents at x. The last term holds noise that goes straight on to the curved manifold: ``curvature``
is the Laplacian of the distance from it, (2 rows - columns - 1) / 2, on the sphere d - 1. R, the retraction, takes the
nearest point of the manifold: x / |x|, and of matrices the orthogonal factor of their polar decomposition.

Departure: that last term takes at most half of x off, as one of more than x would turn particles over.

Rotations from the left change nothing in law, x to Q x, and where f has no columns of its own those from the right;
translations make no sense. So this is no method of flat spaces, and has no name among :func:`blackbox.methods`.

Cost per generation: O(popsize d columns). State O(popsize d). All arrays may have a leading axis of runs, the key as
well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.best import Best, better_of, none_yet
from blackbox.cbo.consensus import Sharpness, alpha_of, mean_of, require_sharpness, softmin
from blackbox.cbo.diffusion import isotropic_limit, scales, squared_length
from blackbox.cbo.swarm import STOPPED, asked, bounded, most_agree, no_steps, of_each_run, results, spread, where_told
from blackbox.errors import SettingError
from blackbox.kernels.noise import normal
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_S = 0.9  # of the limit of stability


class ManifoldCBOState(NamedTuple):
    key: Key
    generation: Int[Array, "*runs"]
    particles: Float[Array, "*runs popsize d"]
    """On the manifold."""
    consensus: Float[Array, "*runs d"]
    """Inside it."""
    agrees: Bool[Array, "*runs"]
    spread: Float[Array, "*runs"]
    best: Best


@algorithm
class ManifoldCBO:
    """Consensus-based optimization on the unit sphere or on a Stiefel manifold.

    It is for those who ask and tell it: :func:`blackbox.minimize` keeps points in a cube, which is no manifold.

    Args:
        popsize: particles, at least 2.
        sigma0: standard deviation of the normal about x0 whose sample, taken to the manifold, are the first particles.
            If x0 is 0, they are uniform.
        manifold: ``"sphere"``: points of length 1, or ``"stiefel"``: x, in rows, is a matrix with orthonormal columns.
        columns: of that matrix. Its rows, of which there are d / columns, have to be at least as many.
        s: noise of a step, in units of the distance from the consensus; by default 0.9 of the limit of stability.
        drift: part of that distance by which a step shrinks it, from 0 to 1.
        alpha: how sharp weights are: ``"geometric"``: alpha grows from ``alpha0`` by the factor ``growth`` to
            ``alpha_max``; ``"effective"``: a ``share`` of the particles counts; ``"hard"``: the best alone.
        alpha0: first alpha.
        growth: factor of alpha by step.
        alpha_max: last alpha.
        share: of the particles, that counts.
    """

    popsize: int = 100
    sigma0: float = 1.0
    manifold: Literal["sphere", "stiefel"] = "sphere"
    columns: int = 1
    s: float | None = None
    drift: float = 0.5
    alpha: Sharpness = "effective"
    alpha0: float = 30.0
    growth: float = 1.05
    alpha_max: float = 1e5
    share: float = 0.05

    positional: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, optional=False)
        require_integer("columns", self.columns, low=1, optional=False)
        for name in ("sigma0", "s"):
            require_number(name, getattr(self, name), above=0)
        require_number("drift", self.drift, above=0, high=1)
        require_one_of("manifold", self.manifold, ("sphere", "stiefel"))
        require_sharpness(self)
        if self.manifold == "sphere" and self.columns != 1:
            raise SettingError(f"columns must be 1 on the sphere, got {self.columns}")

    def init(self, key: Key, x0: Float[Array, "*runs d"]) -> ManifoldCBOState:
        xp, d = namespace(x0), x0.shape[-1]
        if d % self.columns or d < self.columns**2:
            raise SettingError(
                f"columns must be a divisor of d = {d}, of a matrix with no more columns than rows; got {self.columns}"
            )
        z = normal(key, 0, (*x0.shape[:-1], self.popsize, d), leaf=1, like=x0)
        on_it = self.retract(x0)
        return ManifoldCBOState(
            key=xp.asarray(key),
            generation=no_steps(x0),
            particles=self.retract(x0[..., None, :] + self.sigma0 * z),
            consensus=on_it,
            agrees=no_steps(x0) < 0,
            spread=of_each_run(x0, self.sigma0),
            best=none_yet(on_it),
        )

    def ask(self, state: ManifoldCBOState, first: int = 0) -> Float[Array, "*runs n d"]:
        """The particles; further ones lie about these, on the manifold."""
        points = asked(state, state.particles, first)
        return points if first == 0 else self.retract(points)

    def tell(
        self, state: ManifoldCBOState, population: Float[Array, "*runs n d"], fitness: Float[Array, "*runs n"]
    ) -> ManifoldCBOState:
        xp = namespace(state.particles)
        evaluated, energy = results(population, fitness, self.popsize, state.particles.dtype)
        consensus = mean_of(softmin(energy, alpha_of(self.alpha, self, state.generation, energy)), evaluated)

        particles = where_told(state.particles, evaluated)
        offset = particles - consensus[..., None, :]
        squares = squared_length(offset)
        z = normal(state.key, state.generation, particles.shape, like=particles)
        s = self._s(particles.shape[-1])
        step = self.tangent(particles, s * scales("isotropic", offset, squares=squares) * z - self.drift * offset)
        taken_off = 0.5 * self.curvature(particles.shape[-1]) * s * s * squares[..., None]
        left = 1 - xp.minimum(taken_off, xp.zeros_like(taken_off) + 0.5)
        return ManifoldCBOState(
            key=state.key,
            generation=state.generation + 1,
            particles=self.retract(bounded(left * particles + step)),
            consensus=consensus,
            agrees=most_agree(squares, consensus, STOPPED),
            spread=spread(offset, squares),
            best=better_of(state.best, population, fitness),
        )

    def recommend(self, state: ManifoldCBOState) -> Float[Array, "*runs d"]:
        """The best point evaluated; the consensus, which :meth:`retract` takes to the manifold, is
        ``state.consensus``."""
        return state.best.x

    def stop(self, state: ManifoldCBOState) -> dict[str, Bool[Array, "*runs"]]:
        """The one reason to end: most particles agree, so that they move no more."""
        return {"consensus": state.agrees}

    def curvature(self, d: int) -> float:
        """The Laplacian of the distance from the manifold, at the manifold."""
        return (2 * d / self.columns - self.columns - 1) / 2

    def tangent(self, x: Float[Array, "*n d"], z: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """P(x) z: what of ``z`` is tangential to the manifold at ``x``."""
        xp = namespace(x)
        if self.columns == 1:
            return z - x * xp.sum(x * z, axis=-1, keepdims=True)
        X, Z = self._matrices(x), self._matrices(z)
        both = xp.matrix_transpose(X) @ Z
        return xp.reshape(Z - X @ (0.5 * (both + xp.matrix_transpose(both))), z.shape)

    def retract(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """The nearest point of the manifold; of points that have several, one of them."""
        xp = namespace(x)
        if self.columns == 1:
            largest = xp.max(xp.abs(x), axis=-1, keepdims=True)  # in units of which no square overflows
            first = xp.asarray([1.0] + [0.0] * (x.shape[-1] - 1), dtype=x.dtype)
            scaled = xp.where(largest > 0, x / xp.where(largest > 0, largest, xp.ones_like(largest)), first)
            return scaled / xp.sqrt(xp.sum(scaled * scaled, axis=-1, keepdims=True))
        u, _, vh = xp.linalg.svd(self._matrices(x), full_matrices=False)
        return xp.reshape(u @ vh, x.shape)

    def _s(self, d: int) -> Array | float:
        if self.s is not None:
            return self.s
        dimension = d - self.columns * (self.columns + 1) // 2
        return _S * isotropic_limit(self.drift, max(1, dimension))

    def _matrices(self, x: Float[Array, "*n d"]) -> Float[Array, "*n rows columns"]:
        return namespace(x).reshape(x, (*x.shape[:-1], x.shape[-1] // self.columns, self.columns))
