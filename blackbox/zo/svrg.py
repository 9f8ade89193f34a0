"""ZO-SVRG: estimated gradients of mini-batches, less what the batch alone makes them differ by at an anchor.

Source: Liu, Kailkhura, Chen, Ting, Chang & Amini 2018, "Zeroth-Order Stochastic Variance Reduction for Nonconvex
Optimization" (arXiv:1805.10367), algorithm 2. With estimates g of the gradient from values, over all data now and then
at an anchor x~, and over mini-batches B in between:

    v  =  g_B(x; u) - g_B(x~; u) + g_all(x~; u')

Both terms of the batch have the same directions u, so that each is a control variate for the other: the nearer x is to
the anchor, the less does v vary with B and u. Its mean over these is that of g_all(x) at the same smoothing.

    g_all = anchored(f, estimator)                      once an epoch: evaluations on all data
    v     = variance_reduced(f, estimator)              twice the evaluations on each batch
    anchor = g_all(params, key, *data)
    value, gradient = v(params, anchor, other_key, *batch)

Mean losses over a batch and over all data, of which the batch is drawn, are supposed. Keys of different batches, and
that of the anchor, must differ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from blackbox.errors import TellError
from blackbox.population import evaluate, hashable
from blackbox.zo.differences import Estimate, Estimator
from blackbox.zo.gradient import fitting_chunk, value_and_grad

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from blackbox.arrays import Key


class Anchor(NamedTuple):
    """Parameters, and what all data say of them."""

    params: Any
    """x~"""
    value: Float[Array, ""]
    gradient: Any
    """g_all(x~), a pytree like the parameters."""


def anchored(
    f: Callable[..., Any], estimator: Estimator, *, chunk: int | None = None, mesh: Any = None
) -> Callable[..., Anchor]:
    """A function that makes an :class:`Anchor`: ``fn(params, key, *data)``.

    ``fn.evaluations(params)`` says how often ``f`` is evaluated by a call, each time on all of ``data``. An estimator
    of more queries than those of the batches pays: its error stays in every step until the next anchor.

    Args:
        f: a function of a pytree of parameters and of data, which returns a number: the mean loss.
        estimator: how the queries are chosen, such as :class:`CGE` or :class:`RGE`.
        chunk: queries that are evaluated at once; by default as :func:`value_and_grad` has it.
        mesh: a one-dimensional ``jax.sharding.Mesh`` whose devices share the queries.
    """
    gradient_of = value_and_grad(f, estimator, chunk=chunk, mesh=mesh)

    def fn(params: Any, key: Key, *data: Any) -> Anchor:
        value, gradient = gradient_of(params, key, *data)
        return Anchor(params, value, gradient)

    fn.evaluations = estimator.evaluations  # type: ignore[attr-defined]
    return fn


def variance_reduced(
    f: Callable[..., Any], estimator: Estimator, *, chunk: int | None = None, mesh: Any = None
) -> Callable[..., tuple[Float[Array, ""], Any]]:
    """A function that returns the value on a batch and v: ``value, gradient = fn(params, anchor, key, *batch)``.

    The value is that of :func:`value_and_grad`, from the queries around ``params``. A query that has failed, NaN or
    infinite, around the parameters or the anchor takes its direction out of both terms; if all have, v is the anchor's
    gradient. ``fn.evaluations(params)`` says how often ``f`` is evaluated by a call, on ``batch``: twice as often as by
    the estimator alone.

    Args:
        f: a function of a pytree of parameters and of data, which returns a number: the mean loss.
        estimator: how the queries are chosen, such as :class:`CGE` or :class:`RGE`.
        chunk: queries that are evaluated at once; by default as :func:`value_and_grad` has it.
        mesh: a one-dimensional ``jax.sharding.Mesh`` whose devices share the queries.
    """
    value_and_grad(f, estimator)  # which names what is wrong with the estimator
    f = hashable(f)

    @functools.wraps(f, assigned=("__name__", "__doc__"), updated=())  # its signature is another one
    def fn(params: Any, anchor: Anchor, key: Key, *batch: Any) -> tuple[Float[Array, ""], Any]:
        tree: Any = jax.tree.structure(params)
        if tree != jax.tree.structure(anchor.params):
            raise TellError("anchor must be of parameters like params, got one whose parameters are another tree")
        here, there = (estimator.ask(x, key) for x in (params, anchor.params))
        size = fitting_chunk(f, here, params, *batch) if chunk is None else chunk
        near, far = (evaluate(f, population, *batch, chunk=size, mesh=mesh) for population in (here, there))
        both = jnp.isfinite(near) & jnp.isfinite(far)
        now, then = (
            estimator.estimate(population, jnp.where(both, fitness, jnp.nan))
            for population, fitness in ((here, near), (there, far))
        )
        structure = here.structure
        parts = zip(*(structure.split(x.gradient)[0] for x in (now, then, anchor)), strict=True)
        return Estimate.of(here, now.value, [a - b + c for a, b, c in parts])

    fn.evaluations = lambda params: 2 * estimator.evaluations(params)  # type: ignore[attr-defined]
    return fn
