"""Rules for programs within programs that quax does not open by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import quax
import quax._trace
from jax import lax
from jax._src import core
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.extend.core.primitives import remat_p

from blackbox.perturbed.lowrank import Array, LowRank, formed, sourceless


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
    length: int,
    reverse: bool,
    unroll: int,
    **params: Any,
) -> Any:
    """Scanned weights need their leading axis in both factors: each step then has its own slice of either."""
    if "ft_in" in params:  # JAX 0.12 keeps the forms of constants, carry and scanned arrays
        num_consts, num_carry = (len(list(part)) for part in params["ft_in"].update(args).unpack()[:2])
    else:
        num_consts, num_carry = params["num_consts"], params["num_carry"]
    first = num_consts + num_carry
    constants = _made_once(args[:num_consts])
    stacked = [_stack_first(x) if isinstance(x, LowRank) else x for x in args[first:]]
    program = quax.quaxify(jaxpr_as_fun(jaxpr))

    def step(carry: list[Any], xs: list[Any]) -> list[Any]:
        return program(*constants, *carry, *xs)

    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stacked)
    carry = _settled(lambda carry: jax.eval_shape(step, carry, one), list(args[num_consts:first]), lax.scan_p)

    def body(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        out = step(carry, xs)
        return _like(out[:num_carry], carry, lax.scan_p), list(out[num_carry:])

    last, ys = lax.scan(body, carry, stacked, length=length, reverse=reverse, unroll=unroll)
    return [*last, *ys]


@quax.register(lax.while_p, precedence=1)
def _(
    *args: quax.ArrayValue | jax.typing.ArrayLike,
    cond_nconsts: int,
    cond_jaxpr: Any,
    body_nconsts: int,
    body_jaxpr: Any,
    **params: Any,
) -> Any:
    """Of a loop under ``vmap`` whose condition differs by entry, each entry stays as it is once its condition fails."""
    first = cond_nconsts + body_nconsts
    args = (*_made_once(args[:first]), *args[first:])
    condition, body = (quax.quaxify(jaxpr_as_fun(program)) for program in (cond_jaxpr, body_jaxpr))

    def step(carry: list[Any]) -> list[Any]:
        return body(*args[cond_nconsts:first], *carry)

    def goes_on(carry: list[Any]) -> Array:
        return condition(*args[:cond_nconsts], *carry)[0]

    (batch,) = (aval.shape for aval in cond_jaxpr.out_avals)
    if batch:  # as JAX itself lowers such loops
        each = [formed(x, lax.while_p) for x in args[first:]]

        def unless_over(carry: list[Any]) -> list[Any]:
            is_on = goes_on(carry)
            columns = (is_on.reshape(batch + (1,) * (x.ndim - len(batch))) for x in carry)
            return [jnp.where(on, new, x) for on, new, x in zip(columns, step(carry), carry, strict=True)]

        return lax.while_loop(lambda carry: jnp.any(goes_on(carry)), unless_over, each)
    carry = _settled(lambda carry: jax.eval_shape(step, carry), list(args[first:]), lax.while_p)
    return lax.while_loop(goes_on, lambda carry: _like(step(carry), carry, lax.while_p), carry)


@quax.register(lax.cond_p, precedence=1)
def _(index: jax.typing.ArrayLike, *args: quax.ArrayValue | jax.typing.ArrayLike, branches: Any, **params: Any) -> Any:
    """A weight stays one if all branches give it in the same form."""
    programs = [quax.quaxify(jaxpr_as_fun(branch)) for branch in branches]
    outs = list(zip(*(jax.eval_shape(program, *args) for program in programs), strict=True))
    named = [len({_form(out) for out in same}) == 1 for same in outs]
    kept = [len({_form(sourceless(out)) for out in same}) == 1 for same in outs]

    def run(program: Any, args: Any) -> list[Any]:
        same = [x if keep else sourceless(x) for x, keep in zip(program(*args), named, strict=True)]
        return [x if keep else formed(x, lax.cond_p) for x, keep in zip(same, kept, strict=True)]

    return lax.switch(index, [partial(run, program) for program in programs], args)


def _made_once(constants: Sequence[Any]) -> tuple[Any, ...]:
    """What every step of a loop uses, without sources: its steps would make the same noise again."""
    return tuple(map(sourceless, constants))


def _settled(step: Callable[[list[Any]], Any], carry: list[Any], primitive: Any) -> list[Any]:
    """``carry`` with those weights formed that do not come back from ``step`` in the form in which they went in."""
    while True:
        out = step(carry)
        changed = [isinstance(x, LowRank) and _form(x) != _form(y) for x, y in zip(carry, out, strict=False)]
        if not any(changed):
            return carry
        settled = []
        for x, y, new in zip(carry, out, changed, strict=False):
            is_named = new and x.source is not None and _form(sourceless(x)) == _form(sourceless(y))
            settled.append(sourceless(x) if is_named else formed(x, primitive) if new else x)
        carry = settled


def _like(out: Sequence[Any], carry: list[Any], primitive: Any) -> list[Any]:
    """What a step gives, with weights formed where its carry has arrays, and without sources where it has none."""
    lacking = (isinstance(before, LowRank) and before.source is None for before in carry)
    pairs = zip((sourceless(x) if lacks else x for x, lacks in zip(out, lacking, strict=True)), carry, strict=True)
    return [formed(x, primitive) if _form(x) != _form(before) else x for x, before in pairs]


def _form(value: Any) -> Any:
    """Equal for values that one program can take in each other's place."""
    leaves, treedef = jax.tree.flatten(value)
    return treedef, tuple((x.shape, x.dtype) if hasattr(x, "shape") else () for x in leaves)


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
