"""OpenAI-ES: a gradient of the smoothed objective from ranked antithetic samples, followed by Adam.

Source: Salimans et al. 2017, "Evolution strategies as a scalable alternative to reinforcement learning",
arXiv:1703.03864, algorithm 1 with mirrored sampling and centered ranks (section 2.1). With steps e_i = x_i - mean
and ranks r_i in [-1/2, 1/2], best -1/2:

    g    = sum_i r_i e_i / (popsize sigma^2)
    mean <- mean - lr * Adam(g)                                       Kingma & Ba 2015, algorithm 1

Cost per generation: O(popsize d). sigma stays as it is, so the search does not converge closer than it allows.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from jaxtyping import Float, Int

from blackbox.arrays import Array, Key, namespace
from blackbox.es.antithetic import antithetic_normal, even_popsize
from blackbox.shaping import centered_ranks
from blackbox.strategy import algorithm, require_integer, require_number


class OpenESState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    mean: Float[Array, "d"]
    first_moment: Float[Array, "d"]
    second_moment: Float[Array, "d"]


@algorithm
class OpenES:
    """OpenAI-ES with Adam.

    Args:
        popsize: candidates per generation, even; by default about 4 + 3 ln d. Noisy objectives want hundreds.
        sigma: smoothing radius, in units of x. The paper has 0.02 for network weights; the default suits the unit
            cube that the Optimizer works in.
        lr: step length of Adam, in units of x (0.01 in the paper).
        beta1: decay of the first moment.
        beta2: decay of the second moment.
    """

    popsize: int | None = None
    sigma: float = 0.1
    lr: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999

    injectable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, even=True)
        require_number("sigma", self.sigma, above=0)
        require_number("lr", self.lr, above=0)
        require_number("beta1", self.beta1, low=0, high=1)
        require_number("beta2", self.beta2, low=0, high=1)

    def init(self, key: Key, x0: Float[Array, "d"]) -> OpenESState:
        xp = namespace(x0)
        return OpenESState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            mean=x0,
            first_moment=xp.zeros_like(x0),
            second_moment=xp.zeros_like(x0),
        )

    def ask(self, state: OpenESState, first: int = 0) -> Float[Array, "n d"]:
        popsize = self.popsize or even_popsize(state.mean.shape[0])
        steps = antithetic_normal(state.key, state.generation, popsize, first, state.mean)
        return state.mean + self.sigma * steps

    def gradient(
        self, state: OpenESState, population: Float[Array, "n d"], weights: Float[Array, "n"]
    ) -> Float[Array, "d"]:
        """The estimate of the smoothed objective's gradient, for fitness or shaped fitness ``weights``."""
        return weights @ (population - state.mean) / (population.shape[0] * self.sigma**2)

    def tell(self, state: OpenESState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> OpenESState:
        xp = namespace(state.mean)
        generation = state.generation + 1
        g = self.gradient(state, population, centered_ranks(fitness))
        first_moment = self.beta1 * state.first_moment + (1 - self.beta1) * g
        second_moment = self.beta2 * state.second_moment + (1 - self.beta2) * g * g
        age = xp.asarray(generation, dtype=g.dtype)
        unbiased_first = first_moment / (1 - self.beta1**age)
        unbiased_second = second_moment / (1 - self.beta2**age)
        return OpenESState(
            key=state.key,
            generation=generation,
            mean=state.mean - self.lr * unbiased_first / (xp.sqrt(unbiased_second) + 1e-8),
            first_moment=first_moment,
            second_moment=second_moment,
        )

    def recommend(self, state: OpenESState) -> Float[Array, "d"]:
        return state.mean
