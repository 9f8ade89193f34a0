"""``value_and_grad`` from function values, in the place of JAX's."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from blackbox.errors import SettingError
from blackbox.perturbed.sweep import Program
from blackbox.population import evaluate, hashable
from blackbox.vectorized import joined_arguments, parted
from blackbox.zo.differences import Estimate, Estimator

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from blackbox.virtual import VirtualPopulation

MEMORY = 2**24, 2**30  # bytes of intermediate results of queries at once: on CPUs, by their caches, and elsewhere


def value_and_grad(
    f: Callable[..., Any], estimator: Estimator, *, chunk: int | None = None, mesh: Any = None
) -> Callable[..., tuple[Float[Array, ""], Any]]:
    """A function that returns the value and an estimate of the gradient of ``f``, from values of ``f`` alone.

    In the place of ``jax.value_and_grad(f)``, but for the key: ``value, gradient = fn(params, key, *args)``. The
    gradient is a pytree like ``params``, of float32 at least; arrays of other types have zeros there, and
    what is no array None.
    ``f`` may be anything that JAX can run, differentiable or not. All queries see the same ``args``: give what is
    random in ``f`` a key of its own among them. The value is ``f(params)`` for forward differences, and the mean of
    the queries for central ones, which takes none.

    ``fn.estimate(params, key, *args)`` gives an :class:`Estimate`, ``fn.evaluations(params)`` how often ``f`` is
    evaluated by a call.

    Args:
        f: a function of a pytree of parameters and of further arguments, which returns a number.
        estimator: how the queries are chosen, such as :class:`CGE` or :class:`RGE`.
        chunk: queries that are evaluated at once; by default as many as take some 16 MiB of intermediate
            results, on GPUs 1 GiB.
        mesh: a one-dimensional ``jax.sharding.Mesh`` whose devices share the queries.
    """
    f = hashable(f)
    if isinstance(estimator, type) or not all(hasattr(estimator, x) for x in ("ask", "estimate", "evaluations")):
        raise SettingError(f"estimator must be one of bb.zo's, such as bb.zo.RGE(queries=64), got {estimator!r}")

    def estimate(params: Any, key: Any, *args: Any) -> Estimate:
        params = jax.tree.map(lambda x: jnp.asarray(x) if type(x) is float else x, params)  # as JAX sees it
        population = estimator.ask(params, key)
        fitting = fitting_chunk(f, population, params, *args)
        size = fitting if chunk is None else chunk
        return estimator.estimate(population, evaluate(f, population, *args, chunk=size, mesh=mesh))

    @functools.wraps(f, assigned=("__name__", "__doc__"), updated=())  # its signature has a key more
    def fn(params: Any, key: Any, *args: Any) -> tuple[Float[Array, ""], Any]:
        found = estimate(params, key, *args)
        return found.value, found.gradient

    fn.estimate = estimate  # type: ignore[attr-defined]
    fn.evaluations = estimator.evaluations  # type: ignore[attr-defined]
    return fn


def fitting_chunk(f: Callable[..., Any], population: VirtualPopulation, params: Any, *args: Any) -> int:
    """How many members at once have intermediate results, and weights of their own, that fit the device.

    Raises:
        SettingError: if ``f`` does not return one real number.
    """
    form, arrays = parted((params, args))
    kinds = tuple((jnp.shape(x), x.dtype if hasattr(x, "dtype") else jnp.result_type(x)) for x in arrays)
    each, returned = _traced(f, form, kinds)
    if returned is not None:
        raise SettingError(f"f must return one real number, got {returned}")
    if getattr(population, "counts", None) is None:  # a copy of the weights and half of a pair's direction
        each += sum(6 * math.prod(weight.shape) for weight in population.structure.weights)
    return max(1, MEMORY[jax.default_backend() != "cpu"] // max(1, each))


@functools.lru_cache(maxsize=16)
def _traced(f: Callable[..., Any], form: Any, kinds: tuple[tuple[tuple[int, ...], Any], ...]) -> tuple[int, Any]:
    """Bytes of what the equations of ``f`` give, and what it returns if that is not one real number."""

    def call(*arrays: Any) -> Any:
        params, args = joined_arguments(form, arrays)
        return f(params, *args)

    program = Program(call, *(jax.ShapeDtypeStruct(*kind) for kind in kinds))
    out = program.returned
    is_number = getattr(out, "shape", None) == () and not jnp.issubdtype(out.dtype, jnp.complexfloating)
    return program.bytes, None if is_number else out
