"""Descent along gradients from random directions, for flat vectors: RGE with AdaMM.

Sources: Chen, Liu, Xu, Li, Lin, Hong & Cox 2019, "ZO-AdaMM: Zeroth-Order Adaptive Momentum Method for Black-Box
Optimization" (arXiv:1910.06513), algorithm 1, with the central differences of Nesterov & Spokoiny 2017, "Random
gradient-free minimization of convex functions"; orthogonal directions: Choromanski et al. 2018 (arXiv:1804.02395).
Over q directions u with ``E u u^T = I``

    g     <-  1/q sum_u (f(mean + mu u) - f(mean - mu u)) / (2 mu) u
    mean  <-  mean - lr m / sqrt(v_max)         with AdaMM's moments of g (:mod:`blackbox.zo.adamm`)

Differences are read off positions, see :mod:`blackbox.zo.mirrored`. Unlike the steps of evolution strategies, which go
by ranks, these become shorter as the gradient does, so that a smooth minimum is approached to within rounding.

Cost per generation: O(queries d), for orthogonal directions O(queries^2 d). State O(d).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.kernels.noise import noise, normal
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of
from blackbox.zo.adamm import Moments, at_rest, no_moments, step_of, updated
from blackbox.zo.mirrored import bounded, mirrored, mirrored_gradient
from blackbox.zo.orthogonal import orthonormal_rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

DISTRIBUTIONS = ("normal", "rademacher", "sphere", "orthogonal")


class RandomDescentState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    mean: Float[Array, "d"]
    moments: Moments


@algorithm
class RandomDescent:
    """Descent along random gradient estimates.

    Args:
        queries: directions of a generation, two candidates each.
        distribution: of the directions: "normal", "rademacher" (entries of +-1), "sphere" (normal ones scaled to the
            length sqrt(d)) or "orthogonal" (of the sphere, in blocks of at most d at right angles to each other).
        mu: smoothing radius, the root mean square of a candidate's step in each coordinate, in units of x.
        lr: learning rate, about the length of the first steps in each coordinate, in units of x.
        beta1: decay of the mean gradient.
        beta2: decay of the mean squared gradient.
    """

    queries: int = 10
    distribution: Literal["normal", "rademacher", "sphere", "orthogonal"] = "orthogonal"
    mu: float = 0.01
    lr: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.3

    needs_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("queries", self.queries, low=1, optional=False)
        require_one_of("distribution", self.distribution, DISTRIBUTIONS)
        require_number("mu", self.mu, above=0)
        require_number("lr", self.lr, above=0)
        require_number("beta1", self.beta1, low=0, high=0.9999)
        require_number("beta2", self.beta2, low=0, high=0.9999)

    def init(self, key: Key, x0: Float[Array, "d"]) -> RandomDescentState:
        xp = namespace(x0)
        return RandomDescentState(
            key=xp.asarray(key), generation=xp.asarray(0)[()], mean=x0, moments=no_moments(x0)
        )  # fmt: skip

    def ask(self, state: RandomDescentState, first: int = 0) -> Float[Array, "n d"]:
        pairs = self.queries + first % 2  # from the middle of a pair on, its second half and one pair more
        directions = self._directions(state, pairs, first // 2)
        return state.mean + self.mu * mirrored(directions, 2 * self.queries, first)

    def tell(
        self, state: RandomDescentState, population: Float[Array, "n d"], fitness: Float[Array, "n"]
    ) -> RandomDescentState:
        gradient, known = mirrored_gradient(population, fitness, state.mean, self.mu)
        moments = updated(state.moments, gradient, known, self.beta1, self.beta2)
        step = step_of(moments, self.lr)
        mean = namespace(step).where(known, bounded(state.mean - step), state.mean)
        return RandomDescentState(state.key, state.generation + 1, mean, moments)

    def recommend(self, state: RandomDescentState) -> Float[Array, "d"]:
        return state.mean

    def stop(self, state: RandomDescentState) -> dict[str, Bool[Array, ""]]:
        """``tolx``: the mean has come to rest, at a minimum or where the function is flat."""
        return {"tolx": at_rest(state.moments, self.lr, self.mu)}

    def _directions(self, state: RandomDescentState, pairs: int, first: int) -> Float[Array, "pairs d"]:
        """Those of pairs ``first`` to ``first + pairs - 1``."""
        d = state.mean.shape[0]
        if self.distribution == "orthogonal":
            size = min(self.queries, d)
            begin = first // size
            blocks = -(-(first + pairs) // size) - begin
            rows = _orthogonal(state, blocks, size, begin)
            return rows[first - begin * size : first - begin * size + pairs, :]
        if self.distribution == "rademacher":
            return noise("sign", state.key, state.generation, (pairs, d), first=first, like=state.mean)
        z = normal(state.key, state.generation, (pairs, d), first=first, like=state.mean)
        if self.distribution == "normal":
            return z
        xp = namespace(z)
        return z * (d**0.5 / xp.sqrt(xp.sum(z * z, axis=1, keepdims=True)))


def _orthogonal(state: RandomDescentState, blocks: int, size: int, first: int) -> Float[Array, "blocks*size d"]:
    """Blocks of rows of random orthogonal matrices, times d^(1/2)."""
    xp = namespace(state.mean)
    d = state.mean.shape[0]
    z = normal(state.key, state.generation, (blocks * size, d), first=first * size, like=state.mean)
    return xp.reshape(d**0.5 * orthonormal_rows(xp.reshape(z, (blocks, size, d))), (blocks * size, d))
