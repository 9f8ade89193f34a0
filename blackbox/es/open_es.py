"""OpenAI-ES: gradient steps on a smoothed objective, estimated from mirrored samples of fixed width.

Sources: Salimans, Ho, Chen, Sidor & Sutskever 2017, "Evolution strategies as a scalable alternative to
reinforcement learning" (arXiv:1703.03864), algorithm 1 with mirrored sampling and centered ranks r (best -1/2);
Kingma & Ba 2015, "Adam" (arXiv:1412.6980), algorithm 1. With z_i = (x_i - mean) / sigma:

    gradient <- sum_i r_i z_i / (n sigma)
    mean     <- mean - lr gradient                  or, by Adam,
    mean     <- mean - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

Cost per generation: O(popsize d). State O(d).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.es.mirrored import default_popsize, mirrored_normal
from blackbox.shaping import centered_ranks
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class OpenESState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    mean: Float[Array, "d"]
    m: Float[Array, "d"]
    v: Float[Array, "d"]
    """Adam's running means of the gradient and of its square; 0 without Adam."""


@algorithm
class OpenES:
    """OpenAI evolution strategy.

    Args:
        popsize: candidates per generation, even; by default 2 (1 + floor(sqrt(d))), at most 200.
        sigma: standard deviation of the samples, in units of x; fixed, so that it bounds the accuracy.
        lr: learning rate. By default ``sigma / 2`` with Adam, where it is about the length of a step in each
            coordinate (the ratio of the paper's code), and ``sigma**2`` without.
        adam: whether to step by Adam or along the gradient itself.
        beta1: Adam's decay of the mean gradient.
        beta2: Adam's decay of the mean squared gradient.
    """

    popsize: int | None = None
    sigma: float = 0.1
    lr: float | None = None
    adam: bool = True
    beta1: float = 0.9
    beta2: float = 0.999

    generational: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, even=True)
        require_number("sigma", self.sigma, above=0)
        require_number("lr", self.lr, above=0)
        require_number("beta1", self.beta1, low=0, high=0.9999)
        require_number("beta2", self.beta2, low=0, high=0.9999)

    def init(self, key: Key, x0: Float[Array, "d"]) -> OpenESState:
        xp = namespace(x0)
        return OpenESState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            mean=x0,
            m=xp.zeros_like(x0),
            v=xp.zeros_like(x0),
        )

    def ask(self, state: OpenESState, first: int = 0) -> Float[Array, "n d"]:
        popsize = self.popsize or default_popsize(state.mean.shape[0])
        z = mirrored_normal(state.key, state.generation, popsize, first, like=state.mean)
        return state.mean + self.sigma * z

    def tell(self, state: OpenESState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> OpenESState:
        xp = namespace(state.mean)
        z = (population - state.mean) / self.sigma
        weights = xp.astype(centered_ranks(fitness), z.dtype)
        gradient = (weights @ z) / (population.shape[0] * self.sigma)
        generation = state.generation + 1
        if not self.adam:
            lr = self.sigma**2 if self.lr is None else self.lr
            return state._replace(generation=generation, mean=state.mean - lr * gradient)
        lr = self.sigma / 2 if self.lr is None else self.lr
        t = xp.asarray(generation, dtype=state.mean.dtype)
        m = self.beta1 * state.m + (1 - self.beta1) * gradient
        v = self.beta2 * state.v + (1 - self.beta2) * (gradient * gradient)
        step = (m / (1 - self.beta1**t)) / (xp.sqrt(v / (1 - self.beta2**t)) + 1e-8)
        return OpenESState(key=state.key, generation=generation, mean=state.mean - lr * step, m=m, v=v)

    def recommend(self, state: OpenESState) -> Float[Array, "d"]:
        return state.mean
