"""Rules for programs within programs that quax does not open by itself."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import quax
import quax._trace
from jax import lax
from jax._src import core
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.extend.core.primitives import remat_p

from blackbox.perturbed.lowrank import Array, LowRank


@quax.register(remat_p)
def _(*args: Any, jaxpr: Any, **params: Any) -> Any:
    """Nothing is differentiated, so nothing needs to be computed again."""
    return quax.quaxify(jaxpr_as_fun(ClosedJaxpr(jaxpr, ())))(*args)


def _custom_vjp(trace: Any, primitive: Any, fun: Any, fwd: Any, bwd: Any, tracers: Any, **params: Any) -> Any:
    """A function with its own derivative is called as it is: nothing is differentiated."""
    with core.set_current_trace(trace):
        return fun.call_wrapped(*tracers)


if quax._trace._QuaxTrace.process_custom_vjp_call is core.Trace.process_custom_vjp_call:  # quax 0.4 lacks it
    quax._trace._QuaxTrace.process_custom_vjp_call = _custom_vjp


@quax.register(lax.scan_p, precedence=1)
def _(
    *args: quax.ArrayValue | jax.typing.ArrayLike,
    jaxpr: Any,
    num_consts: int,
    num_carry: int,
    length: int,
    reverse: bool,
    unroll: int,
    **params: Any,
) -> Any:
    """Scanned weights need their leading axis in both factors: each step then has its own slice of either."""
    first = num_consts + num_carry
    constants, carry = args[:num_consts], list(args[num_consts:first])
    stacked = [_stack_first(x) if isinstance(x, LowRank) else x for x in args[first:]]
    step = quax.quaxify(jaxpr_as_fun(jaxpr))

    def body(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        out = step(*constants, *carry, *xs)
        return list(out[:num_carry]), list(out[num_carry:])

    last, ys = lax.scan(body, carry, stacked, length=length, reverse=reverse, unroll=unroll)
    return [*last, *ys]


def _stack_first(value: LowRank) -> LowRank:
    """The same weight with its first axis stacked."""
    if value.stacked:
        return value
    length, kind = value.w.shape[0], value.axes[0]

    def repeated(x: Array) -> Array:
        return jnp.broadcast_to(x, (length, *x.shape))

    a = value.a if kind == "a" else repeated(value.a)
    b = value.b if kind == "b" else repeated(value.b)
    return LowRank(value.w, a, b, value.axes[1:], None if value.scale is None else repeated(value.scale))
