"""Consensus hopping: the consensus of a normal cloud is the centre of the next one, which is gradient descent.

Source: Riedl, Klock, Geldhauser & Fornasier 2023, "Gradient is all you need?", arXiv:2306.09778. With
weights w_i ~ exp(-alpha f(x_i)), xi ~ N(0, I):

    x_i  =   v + sigma xi_i
    v    <-  sum_i w_i x_i

In a large cloud v moves by sigma^2 times the gradient of log E exp(-alpha f(v + sigma xi)), and that is close to an
implicit step of gradient descent of the length tau = alpha sigma^2: to the minimum over x of f(x) + |x - v|^2 / (2 tau)
if alpha is large, and exactly for quadratic f, with Hessian A and minimum x*: v - (I + tau A)^-1 tau A (v - x*). So a
swarm without any memory descends f, smoothed over the width of its cloud, and does not see narrower valleys.

Departure: a ``decay`` of sigma in every step, with alpha growing so that tau stays what it is; 1 is the paper's scheme,
which does not converge but to within noise. (The authors' code has a variant with 0.98 every hundred steps.)

Cost per generation: O(popsize d). State O(d). All arrays may have a leading axis of runs, the key as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from blackbox.arrays import Array, Key, namespace, settled
from blackbox.cbo.consensus import mean_of, softmin
from blackbox.cbo.swarm import STOPPED, bounded, no_steps, of_each_run
from blackbox.kernels.noise import normal
from blackbox.shaping import finite_or_worst
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_NARROWEST = 1e-15  # in units of sigma0


class ConsensusHoppingState(NamedTuple):
    key: Key
    generation: Int[Array, "*runs"]
    consensus: Float[Array, "*runs d"]
    sigma: Float[Array, "*runs"]


@algorithm
class ConsensusHopping:
    """Consensus hopping.

    Args:
        popsize: points of a cloud, at least 2.
        sigma0: standard deviation of the first cloud, the paper's sampling width; narrower valleys are not seen.
        alpha: how sharp weights are, for the first cloud; then so that alpha sigma^2 stays the same.
        decay: factor of sigma by step, at most 1: 1 as in the paper, where sigma and alpha are constant.
    """

    popsize: int = 200
    sigma0: float = 0.3
    alpha: float = 100.0
    decay: float = 0.98

    needs_values: ClassVar[bool] = True
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, optional=False)
        for name in ("sigma0", "alpha"):
            require_number(name, getattr(self, name), above=0)
        require_number("decay", self.decay, above=0, high=1)

    def init(self, key: Key, x0: Float[Array, "*runs d"]) -> ConsensusHoppingState:
        xp = namespace(x0)
        return ConsensusHoppingState(
            key=xp.asarray(key),
            generation=no_steps(x0),
            consensus=x0,
            sigma=of_each_run(x0, self.sigma0),
        )

    def ask(self, state: ConsensusHoppingState, first: int = 0) -> Float[Array, "*runs n d"]:
        centre = state.consensus[..., None, :]
        shape = (*centre.shape[:-2], self.popsize, centre.shape[-1])
        z = normal(state.key, state.generation, shape, first=first, like=centre)
        return centre + state.sigma[..., None, None] * z

    def tell(
        self, state: ConsensusHoppingState, population: Float[Array, "*runs n d"], fitness: Float[Array, "*runs n"]
    ) -> ConsensusHoppingState:
        xp = namespace(state.consensus)
        wider = self.sigma0 / state.sigma
        weights = softmin(finite_or_worst(fitness, state.consensus.dtype), self.alpha * wider * wider)
        narrowest = xp.zeros_like(state.sigma) + _NARROWEST * self.sigma0
        return ConsensusHoppingState(
            key=state.key,
            generation=state.generation + 1,
            consensus=bounded(mean_of(weights, population)),
            sigma=settled(xp.maximum(self.decay * state.sigma, narrowest)),
        )

    def recommend(self, state: ConsensusHoppingState) -> Float[Array, "*runs d"]:
        """The last consensus."""
        return state.consensus

    def stop(self, state: ConsensusHoppingState) -> dict[str, Bool[Array, "*runs"]]:
        """The one reason to end: the cloud has become a point."""
        return {"sigma": state.sigma < STOPPED * self.sigma0}
