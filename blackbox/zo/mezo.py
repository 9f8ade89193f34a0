"""MeZO: fine-tuning of large models from function values, in the memory of inference.

Source: Malladi et al. 2023, "Fine-Tuning Language Models with Just Forward Passes" (arXiv:2305.17333), algorithms 1 and
2. For parameters x, directions z_k of independent standard normal entries, and a loss f, both sides of a pair on the
same data:

    d_k  =  (f(x + mu z_k) - f(x - mu z_k)) / (2 mu)        k = 1..queries
    x   <-  x - lr (mean_k d_k z_k + weight_decay x)

No z is stored: it is made again from its key. :meth:`MeZO.step` does all of this where the weights lie, as in the
paper, but restores them in every bit (:mod:`blackbox.zo.in_place`); ``ask`` and ``tell`` do the same with members
that are evaluated apart from each other, on several devices or in other processes.

With ``rank``, z of a matrix is ``A B^T / sqrt(rank)``, which is EGGROLL's perturbation (arXiv:2511.16652). The weights
are not touched, so that bfloat16 and float16 do as well, in which ``x + mu z`` would lose most of z.

A pair with a value that is not finite counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from blackbox.population import hashable
from blackbox.strategy import algorithm, require_integer
from blackbox.virtual import Leaf, NoisePopulation, Structure, structure_of
from blackbox.zo.fine_tuning import (
    descended,
    own_arrays,
    rate_of,
    require_population,
    require_precision,
    require_settings,
    slopes_of,
    stepped,
)
from blackbox.zo.pairs import mean_of_finite

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from blackbox.arrays import Key
    from blackbox.kernels.spec import Kind


class MeZOState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    params: Any
    """The parameters, a pytree like that given to ``init``."""


@algorithm
class MeZO:
    """Memory-efficient zeroth-order optimization.

    ``init`` takes a pytree of parameters. Its floating-point arrays are trained, but for those that ``policy`` freezes;
    dense leaves are float32 (or float64), those of low rank of any precision.

    Args:
        queries: pairs of evaluations for a step.
        mu: standard deviation of the perturbation, in units of the parameters. The paper's 1e-3 suits weights of
            language models; in float32 much smaller ones drown in the rounding of the loss.
        lr: learning rate, or a function of the generation such as an optax schedule. The paper's 1e-6 is for models of
            some hundred million weights and more; the largest stable rate falls as 1 / (number of weights), so that
            small networks want 1e-3 to 1e-2.
        weight_decay: of leaves with two axes or more.
        rank: of the perturbation of each matrix; None for independent entries, the paper's.
        policy: :class:`blackbox.virtual.Leaf` by shell pattern of the leaf's path:
            ``{"*embed*": Leaf(noise="frozen")}``.
        noise: distribution of the entries; "sign" (SPSA's) is several times as fast to make as "normal".
    """

    virtual = True

    queries: int = 1
    mu: float = 1e-3
    lr: Any = 1e-6
    weight_decay: float = 0.0
    rank: int | None = None
    policy: Mapping[str, Leaf] | None = None
    noise: Kind = "normal"

    def __post_init__(self) -> None:
        require_settings(self)
        require_integer("rank", self.rank, low=1)

    def init(self, key: Key, params: Any) -> MeZOState:
        """The state around ``params``, whose JAX arrays it shares."""
        require_precision(self._structure(params), params)
        return MeZOState(jnp.asarray(key), jnp.asarray(0), own_arrays(params))

    def ask(self, state: MeZOState, first: int = 0) -> NoisePopulation:
        """Members 2k and 2k + 1: ``x + mu z_k`` and ``x - mu z_k``."""
        structure = self._structure(state.params)
        ids = None if first == 0 else first + jnp.arange(2 * self.queries)
        return NoisePopulation(
            *structure.split(state.params), structure, state.key, state.generation, jnp.asarray(self.mu, jnp.float32),
            ids, 2 * self.queries, self.noise,
        )  # fmt: skip

    def tell(self, state: MeZOState, population: NoisePopulation, fitness: Float[Array, "n"]) -> MeZOState:
        require_population(state.params, population, fitness)
        lr = rate_of(self, state.generation)
        rates = lr * slopes_of(self, population.rows, fitness)
        weights, arrays = population.structure.split(state.params)
        moved = descended(population, weights, rates, lr * self.weight_decay)
        params = population.structure.join(moved, arrays)
        return MeZOState(state.key, state.generation + 1, params)

    def recommend(self, state: MeZOState) -> Any:
        return state.params

    def step(self, loss: Callable[..., Any], *, jit: bool = True) -> Callable[..., tuple[MeZOState, float]]:
        """A function from a state and the arguments of ``loss`` to the next state and the mean fitness of its members.

        It needs the memory that ``loss`` needs and no second copy of the weights: arrays of the state that it is given,
        also those once given to ``init``, are used up. Dense leaves are rounded to their grids, by at most about half
        a unit in the last place of the leaf's largest weight, and after each pair are what they were, in every bit.

        Args:
            loss: a function of the parameters and of further arguments, which gives a number. A leaf of low rank
                comes as a :class:`blackbox.perturbed.LowRank` behind an ordinary array, as in
                :func:`blackbox.evaluate`. If it raises an exception, that has the parameters before the step as its
                ``params``: ``state._replace(params=error.params)`` goes on from them.
            jit: whether to compile it; False for a function that is no JAX program, such as one that generates text.
        """

        loss = hashable(loss)

        def advance(state: MeZOState, *args: Any) -> tuple[MeZOState, float]:
            population = self.ask(state)
            nothing = (None,) * len(population.weights)
            weights, fitness = stepped(self, population, nothing, loss, args, jit)
            params = population.structure.join(weights, population.arrays)
            return MeZOState(state.key, state.generation + 1, params), mean_of_finite(fitness)

        return advance

    def _structure(self, params: Any) -> Structure:
        default = Leaf(noise="dense") if self.rank is None else Leaf(rank=self.rank)
        return structure_of(params, self.policy or {}, default)
