"""``value_and_grad`` from function values, in the place of JAX's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from blackbox.errors import SettingError
from blackbox.perturbed.sweep import Program
from blackbox.population import evaluate, hashable
from blackbox.zo.differences import Estimate, Estimator

if TYPE_CHECKING:
    from jaxtyping import Array, Float

MEMORY = 2**24, 2**30  # bytes of intermediate results of queries at once: on CPUs, by their caches, and elsewhere


def value_and_grad(
    f: Callable[..., Any], estimator: Estimator, *, chunk: int | None = None, mesh: Any = None
) -> Callable[..., tuple[Float[Array, ""], Any]]:
    """A function that returns the value and an estimate of the gradient of ``f``, from values of ``f`` alone.

    In the place of ``jax.value_and_grad(f)``, but for the key: ``value, gradient = fn(params, key, *args)``. The
    gradient is a pytree like ``params``, of float32 at least; leaves that are not floating-point arrays have zeros.
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
        population = estimator.ask(params, key)
        size = chunk or fitting_chunk(f, params, *args)
        return estimator.estimate(population, evaluate(f, population, *args, chunk=size, mesh=mesh))

    @functools.wraps(f)
    def fn(params: Any, key: Any, *args: Any) -> tuple[Float[Array, ""], Any]:
        found = estimate(params, key, *args)
        return found.value, found.gradient

    fn.estimate = estimate  # type: ignore[attr-defined]
    fn.evaluations = estimator.evaluations  # type: ignore[attr-defined]
    return fn


def fitting_chunk(f: Callable[..., Any], params: Any, *args: Any) -> int:
    """How many evaluations of ``f`` at once have intermediate results that fit the device."""
    return max(1, MEMORY[jax.default_backend() != "cpu"] // max(1, _intermediate(f, *jax.tree.flatten((params, args)))))


def _intermediate(f: Callable[..., Any], leaves: list[Any], tree: Any) -> int:
    """Bytes of what the equations of ``f`` give, those that are views included."""
    arrays = [hasattr(x, "dtype") for x in leaves]
    shapes = tuple((x.shape, x.dtype) if yes else x for x, yes in zip(leaves, arrays, strict=True))
    return _measured(f, shapes, tuple(arrays), tree)


@functools.lru_cache(maxsize=64)
def _measured(f: Callable[..., Any], shapes: tuple[Any, ...], arrays: tuple[bool, ...], tree: Any) -> int:
    def call(*given: Any) -> Any:
        found = iter(given)
        params, args = jax.tree.unflatten(
            tree, [next(found) if yes else x for x, yes in zip(shapes, arrays, strict=True)]
        )
        return f(params, *args)

    structs = [jax.ShapeDtypeStruct(*shape) for shape, yes in zip(shapes, arrays, strict=True) if yes]
    return Program(call, *structs).bytes
