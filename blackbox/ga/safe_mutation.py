"""Safe mutations: mutation powers that a network's outputs can bear, parameter by parameter or member by member.

Source: Lehman et al. 2018, "Safe Mutations for Deep and Recurrent Neural Networks through Output Gradients"
(arXiv:1712.06563), sections 3.1 to 3.3. With y_k(t) output k on observation t, a mutation divides its noise by

    SM-G-SUM    s_j  =  sqrt(sum_k (sum_t dy_k(t) / d theta_j)^2)
    SM-G-ABS    s_j  =  sqrt(sum_k (mean_t |dy_k(t) / d theta_j|)^2)        no cancellation over observations
    SM-R        searches the step along the noise at which the mean squared change of the outputs is a target

with s = 0 counting as 1 and others as 0.01 at least. A seed does not say what its parent's outputs were. So the
gradient's scales are those of one network on one batch, ``DeepGA(scale=..., initial=None)``, of which a genome has the
digest; and the steps of SM-R are the mutations' own sigmas, which a genome has anyhow.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from blackbox.ga.offspring import OffspringPopulation
from blackbox.population import evaluate
from blackbox.strategy import require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Array, Float

FLOOR = 0.01  # of s, from the authors' code


def sensitivity_scale(
    outputs: Callable[[Any, Any], Array], params: Any, observations: Any, *, method: Literal["sum", "abs"] = "sum"
) -> Any:
    """What the noise of each parameter is multiplied with: 1 / s.

    Args:
        outputs: of the parameters and one observation, an array.
        params: the parameters, whose floating-point arrays have scales; other leaves are given back as they are.
        observations: a tree of arrays with a leading axis of observations, the paper's at most 100.
        method: "sum" (SM-G-SUM), one backward pass for each output, or "abs" (SM-G-ABS), one for each output and
            observation.
    """
    require_one_of("method", method, ("sum", "abs"))
    leaves, treedef = jax.tree.flatten(params)
    at = [i for i, x in enumerate(leaves) if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)]

    def flat(weights: list[Array], observation: Any) -> Float[Array, "outputs"]:
        whole = list(leaves)
        for i, w in zip(at, weights, strict=True):
            whole[i] = w
        return jnp.ravel(outputs(jax.tree.unflatten(treedef, whole), observation))

    def total(weights: list[Array]) -> Float[Array, "outputs"]:
        return jnp.sum(jax.vmap(flat, (None, 0))(weights, observations), axis=0)

    def add(sums: list[Array], observation: Any, weights: list[Array]) -> tuple[list[Array], None]:
        return [x + jnp.abs(j) for x, j in zip(sums, jax.jacrev(flat)(weights, observation), strict=True)], None

    def means(weights: list[Array]) -> list[Array]:
        width, count = jax.eval_shape(total, weights).shape[0], jax.tree.leaves(observations)[0].shape[0]
        start = [jnp.zeros((width, *w.shape), w.dtype) for w in weights]
        return [x / count for x in jax.lax.scan(partial(add, weights=weights), start, observations)[0]]

    sums = jax.jit(jax.jacrev(total) if method == "sum" else means)([jnp.asarray(leaves[i]) for i in at])
    scales = list(leaves)
    for i, x in zip(at, sums, strict=True):
        s = jnp.sqrt(jnp.sum(x * x, axis=0))
        scales[i] = 1 / jnp.where(s == 0, jnp.ones_like(s), jnp.maximum(s, FLOOR))
    return jax.tree.unflatten(treedef, scales)


def rescaled(
    population: OffspringPopulation,
    outputs: Callable[[Any, Any], Array],
    observations: Any,
    target: float,
    *,
    rounds: int = 15,
    chunk: int | None = None,
) -> OffspringPopulation:
    """SM-R: the same mutations with steps that change the outputs by ``target``, found by bisection of their logarithm.

    Steps are from a thousandth to a thousand times of what they were. Individuals that are only just initialized stay
    as they are.

    Args:
        population: of :meth:`blackbox.ga.DeepGA.ask`.
        outputs: of the parameters and the observations, an array of any shape.
        observations: a tree of arrays.
        target: mean squared change of the outputs.
        rounds: of the search, each of which evaluates all members; the paper's 15.
        chunk: members evaluated at once.
    """
    require_number("target", target, above=0)
    require_integer("rounds", rounds, low=1, optional=False)
    powers = population.powers
    before = evaluate(outputs, population.with_powers(jnp.zeros_like(powers)), observations, chunk=chunk)
    low, high = jnp.full_like(powers, -3.0), jnp.full_like(powers, 3.0)
    for _ in range(rounds):
        middle = (low + high) / 2
        after = evaluate(outputs, population.with_powers(powers * 10**middle), observations, chunk=chunk)
        change = jnp.mean(jnp.square(after - before).reshape(len(powers), -1), axis=1)
        is_small = change < target
        low, high = jnp.where(is_small, middle, low), jnp.where(is_small, high, middle)
    is_new = bool(population.first) & (population.depth == 1)
    return population.with_powers(jnp.where(is_new, powers, powers * 10**low))
