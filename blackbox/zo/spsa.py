"""SPSA: simultaneous perturbation stochastic approximation, two evaluations for a gradient in any dimension.

Sources: Spall 1992, "Multivariate stochastic approximation using a simultaneous perturbation gradient approximation",
IEEE Transactions on Automatic Control 37; Spall 1998, "Implementation of the simultaneous perturbation algorithm for
stochastic optimization", IEEE Transactions on Aerospace and Electronic Systems 34 (gains). With entries of u that are
+-1 with equal chance, averaged over the pairs of generation k = 0, 1, ...

    g     <-  (f(mean + c_k u) - f(mean - c_k u)) / (2 c_k) u
    mean  <-  mean - a_k g
    a_k    =  a / (k + 1 + A)^alpha,     c_k  =  c / (k + 1)^gamma

By Spall's guidelines A is a tenth of the generations that are expected, and a is such that the first steps change each
coordinate by a chosen length: ``a = step (A + 1)^alpha / magnitude``, with the mean magnitude of the entries of the
first estimates. These are estimates of the first ten generations; until then, of those so far.

Departure: with this a no coordinate changes by more than twice what an entry of that magnitude would change it by; on
functions that grow faster than squares the paper's steps can leave for infinity.

Differences are read off positions, see :mod:`blackbox.zo.mirrored`. Cost per generation: O(pairs d). State O(d).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.kernels.noise import noise
from blackbox.strategy import algorithm, require_integer, require_number
from blackbox.zo.mirrored import bounded, mirrored, mirrored_gradient

if TYPE_CHECKING:
    from jaxtyping import Float, Int

MEASURED = 10  # generations whose estimates tell the gradient's magnitude
STABILITY = 100.0  # A where no number of evaluations is known: a tenth of a thousand generations
MOST = 2.0  # entries of the gradient that count, in units of the measured magnitude


class SPSAState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    mean: Float[Array, "d"]
    magnitude: Float[Array, ""]
    """Mean magnitude of an entry of the first estimates."""
    measured: Int[Array, ""]
    """How many they are."""


@algorithm
class SPSA:
    """Simultaneous perturbation stochastic approximation.

    Args:
        pairs: of candidates in a generation, whose estimates are averaged.
        step: change of each coordinate in the first generations, in units of x.
        a: gain of the steps, in squared units of x by units of fitness; by default by ``step``, which is not used if
            this is given.
        c: first radius of the differences, in units of x. Under noise, large enough for them to exceed it.
        A: stability constant, in generations; by default a tenth of those that ``evaluations`` are, or 100.
        alpha: exponent of the decay of steps.
        gamma: exponent of the decay of radii.
        evaluations: how many are planned; :func:`blackbox.minimize` gives its budget.
    """

    pairs: int = 1
    step: float = 0.01
    a: float | None = None
    c: float = 0.03
    A: float | None = None
    alpha: float = 0.602
    gamma: float = 0.101
    evaluations: int | None = None

    needs_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("pairs", self.pairs, low=1, optional=False)
        require_number("step", self.step, above=0)
        require_number("a", self.a, above=0)
        require_number("c", self.c, above=0)
        require_number("A", self.A, low=0)
        require_number("alpha", self.alpha, low=0, high=1)
        require_number("gamma", self.gamma, low=0, high=1)
        require_integer("evaluations", self.evaluations, low=1)

    def init(self, key: Key, x0: Float[Array, "d"]) -> SPSAState:
        xp = namespace(x0)
        zero = xp.asarray(0)[()]
        return SPSAState(xp.asarray(key), zero, x0, xp.zeros_like(x0)[0], zero)

    def ask(self, state: SPSAState, first: int = 0) -> Float[Array, "n d"]:
        pairs = self.pairs + first % 2  # from the middle of a pair on, its second half and one pair more
        shape = (pairs, state.mean.shape[0])
        u = noise("sign", state.key, state.generation, shape, first=first // 2, like=state.mean)
        return state.mean + self._radius(state) * mirrored(u, 2 * self.pairs, first)

    def tell(self, state: SPSAState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> SPSAState:
        xp = namespace(state.mean)
        gradient, known = mirrored_gradient(population, fitness, state.mean, self._radius(state))
        magnitude, measured = _measured(state, xp.mean(xp.abs(gradient)), known)
        k, A = xp.asarray(state.generation, dtype=gradient.dtype), self._stability()
        if self.a is None:
            relative = gradient / xp.where(magnitude > 0, magnitude, xp.ones_like(magnitude))
            move = self.step * ((A + 1) / (k + 1 + A)) ** self.alpha * xp.clip(relative, -MOST, MOST)
        else:
            move = self.a * gradient / (k + 1 + A) ** self.alpha
        mean = xp.where(known, bounded(state.mean - move), state.mean)
        return SPSAState(state.key, state.generation + 1, mean, magnitude, measured)

    def recommend(self, state: SPSAState) -> Float[Array, "d"]:
        return state.mean

    def _radius(self, state: SPSAState) -> Float[Array, ""]:
        """c_k"""
        k = namespace(state.mean).asarray(state.generation, dtype=state.mean.dtype)
        return self.c / (k + 1) ** self.gamma

    def _stability(self) -> Any:
        if self.A is not None:
            return self.A
        return STABILITY if self.evaluations is None else 0.1 * self.evaluations / (2 * self.pairs)


def _measured(state: SPSAState, entry: Float[Array, ""], known: Any) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The mean magnitude of entries with one more, as long as there are few, and how many."""
    xp = namespace(state.mean)
    measured = xp.where(known & (state.measured < MEASURED), state.measured + 1, state.measured)
    weight = 1 / xp.asarray(xp.where(measured > 0, measured, xp.ones_like(measured)), dtype=entry.dtype)
    mean = state.magnitude + weight * (entry - state.magnitude)
    return xp.where(measured > state.measured, mean, state.magnitude), measured
