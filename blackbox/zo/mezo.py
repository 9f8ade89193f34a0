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

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError, TellError
from blackbox.population import hashable
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of
from blackbox.virtual import Leaf, NoisePopulation, Structure, structure_of, weighted_noise
from blackbox.virtual.leaves import streams
from blackbox.zo import in_place
from blackbox.zo.pairs import mean_of_finite, mirrored_differences, slopes_of_pairs

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from blackbox.arrays import Key
    from blackbox.kernels.spec import Kind

NOISES = ("normal", "normal_fast", "sign", "binom8", "uniform")


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
                :func:`blackbox.evaluate`.
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


def require_settings(strategy: Any) -> None:
    """Raise SettingError unless the settings that MeZO and its relatives share are in their ranges."""
    require_queries(strategy)
    require_number("weight_decay", strategy.weight_decay, low=0)


def require_queries(strategy: Any) -> None:
    """Raise SettingError unless the settings of pairs and their noise are in their ranges."""
    require_integer("queries", strategy.queries, low=1, optional=False)
    require_number("mu", strategy.mu, above=0)
    require_one_of("noise", strategy.noise, NOISES)
    if not callable(strategy.lr):
        require_number("lr", strategy.lr, low=0)
        if strategy.lr is None:
            raise SettingError("lr must be a number >= 0 or a function of the generation, got None")


def dense_structure(params: Any, policy: Mapping[str, Leaf] | None) -> Structure:
    """The structure of parameters whose noise is of independent entries, or SettingError if a policy wants other."""
    structure = structure_of(params, policy or {}, Leaf(noise="dense"))
    for weight in structure.weights:
        if weight.noise != "dense":
            raise SettingError(f"policy must give dense noise or none, got low rank for {weight.name}")
    return structure


def require_precision(structure: Structure, params: Any) -> None:
    """Raise SettingError if a leaf is of a type that cannot be trained, such as dense ones of less than 32 bits."""
    for weight, w in zip(structure.weights, structure.split(params)[0], strict=True):
        if str(w.dtype) not in in_place.DIGITS:
            raise SettingError(f"params: {weight.name} must be of {', '.join(in_place.DIGITS)}, got {w.dtype}")
        if weight.noise == "dense" and in_place.DIGITS[str(w.dtype)] < 24:
            raise SettingError(
                f"params: {weight.name} is {w.dtype}, where most of mu z is lost in rounding and what is added cannot "
                f"be taken away again; give it low rank (rank=2, of matrices), float32, or "
                f'policy={{"{weight.name}": Leaf(noise="frozen")}}'
            )


def own_arrays(params: Any) -> Any:
    """The tree with arrays of JAX; those of NumPy, which could be changed afterwards, are copied.

    So are arrays that are in it twice, each of which is moved where it lies.
    """
    seen: set[int] = set()

    def own(x: Any) -> Any:
        if not isinstance(x, np.ndarray | np.generic | jax.Array):
            return x
        shared = id(x) in seen
        seen.add(id(x))
        return jnp.array(x) if shared or not isinstance(x, jax.Array) else x

    return jax.tree.map(own, params)


def require_population(params: Any, population: NoisePopulation, fitness: Float[Array, "n"]) -> None:
    """Raise TellError unless the population is around such parameters and fitness is one number for each member."""
    if jax.tree.structure(params) != population.structure.treedef:
        raise TellError("population must be one of this state's, got one whose parameters are another tree")
    if fitness.ndim != 1 or jnp.issubdtype(fitness.dtype, jnp.complexfloating):
        raise TellError(f"fitness must be real numbers of shape (n,), got {fitness.dtype} of shape {fitness.shape}")


def slopes_of(strategy: Any, ids: Int[Array, "n"], fitness: Float[Array, "n"]) -> Float[Array, "n"]:
    """What each member's signed noise is multiplied with for the mean of ``d_k z_k`` over pairs."""
    differences, count = mirrored_differences(ids, jnp.asarray(fitness))
    return (differences / (2 * strategy.mu) / count).astype(jnp.float32)


def rate_of(strategy: Any, generation: Int[Array, ""]) -> Float[Array, ""]:
    """The learning rate of a generation."""
    return jnp.asarray(strategy.lr(generation) if callable(strategy.lr) else strategy.lr, jnp.float32)


@jax.jit
def descended(
    population: NoisePopulation,
    weights: tuple[Float[Array, "..."], ...],
    rates: Float[Array, "n"],
    decay: Float[Array, ""],
) -> tuple[Float[Array, "..."], ...]:
    """The weights after a step, large leaves one by one, so that no more than one's sum of noise lies beside them."""
    named = population.structure.weights
    keys, shrinking = (
        streams(named, population.key, population.generation),
        in_place.decays(population.structure, decay),
    )
    large = [[i] for i, weight in enumerate(named) if math.prod(weight.shape) > in_place.BLOCK]
    small = [i for i, weight in enumerate(named) if math.prod(weight.shape) <= in_place.BLOCK]
    moved = list(weights)
    for group in filter(None, [small, *large]):
        some = Structure(None, ("weight",) * len(group), (), tuple(named[i] for i in group))
        alone = dataclasses.replace(
            population, weights=tuple(weights[i] for i in group), arrays=(), structure=some, sigma=jnp.float32(1)
        )
        for i, total in zip(group, weighted_noise(alone, rates), strict=True):
            moved[i] = in_place.less(weights[i], total, shrinking[i], keys[i])
    return tuple(moved)


def stepped(
    strategy: Any,
    population: NoisePopulation,
    thresholds: tuple[Float[Array, ""] | None, ...],
    loss: Callable[..., Any],
    args: tuple[Any, ...],
    jit: bool,
) -> tuple[tuple[Array, ...], Float[np.ndarray, "n"]]:
    """The weights after a step, in the memory in which they were, and the members' fitness."""
    keys, kind = in_place.keys_of(population), population.kind
    narrow = [
        (key, weight)
        for key, weight in zip(keys, population.structure.weights, strict=True)
        if weight.noise == "low-rank"
    ]
    pairs = jnp.arange(strategy.queries)

    def factors(pairs: Int[Array, "pairs"]) -> list[in_place.Factors]:
        return [in_place.factors_of(key, pairs, weight.parts, weight.rank, kind) for key, weight in narrow]

    weights, grids, fitness = in_place.values_in_place(
        population, loss, args, lambda pair: [(a[0], b[0]) for a, b in factors(pairs[pair : pair + 1])], thresholds, jit
    )
    lr = rate_of(strategy, population.generation)
    rates, decay = lr * slopes_of_pairs(fitness, strategy.mu), lr * strategy.weight_decay
    moved = in_place.trained_leaves(population, weights, grids, rates, decay, iter(factors(pairs)), thresholds)
    return moved, fitness


def away_from_center(population: NoisePopulation, i: int) -> Any:
    """What member ``i`` is away from the center, for populations whose noise depends on the center."""
    return jax.tree.map(lambda x, y: x - y if isinstance(x, jax.Array) else x, population[i], population.center)
