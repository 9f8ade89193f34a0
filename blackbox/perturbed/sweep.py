"""A program's results after changes of single entries of its weights, each at the cost of what the change reaches.

The program is traced once and run once; for a changed entry only the equations after its weight are run again
("feature reuse", Chen et al. 2024, "DeepZero", arXiv:2310.02025, section 4), whatever the model is written with. What
is more, a change is kept as the part of an array that it reaches, as long as it is a part. An entry (j, k) of a matrix
changes column k of the product alone, by its step times column j of the input; elementwise operations act on that
column, and the next product adds one row of its matrix, times the change:

    x W          ->  column k:  x W + step x_j
    f(z)         ->  column k:  f(z_k)
    h W'         ->  h W' + (h_k' - h_k) W'_k                    from here on the whole array

There are rules for elementwise operations, products, convolutions, reductions, transposes, broadcasts and reshapes;
all else takes the whole array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal, Primitive

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

# Operations whose results depend on no other entry than their own.
_ELEMENTWISE = """abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy
    cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p
    logistic lt max min mul ne neg nextafter not or pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt
    square sub tan tanh xor"""
_REDUCTIONS = "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or"
_WINDOWS = "reduce_window_sum reduce_window_max reduce_window_min"
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "remat": "jaxpr",
         "checkpoint": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}  # fmt: skip


class Equation(NamedTuple):
    """One operation; values are numbered, a literal stands for itself."""

    primitive: Primitive
    params: dict[str, Any]
    inputs: tuple[int | Literal, ...]
    outputs: tuple[int, ...]


class Part(NamedTuple):
    """An array that differs from the program's own in a part: where ``at`` says so, of one index along that axis."""

    value: Array
    at: Mapping[int, Int[Array, ""]]


class Program:
    """The operations of a function of several arrays, calls of other functions resolved.

    Attributes:
        equations: in order.
        arguments: numbers of the function's arguments.
        results: numbers of what it returns, or literals.
        returned: shapes and dtypes of what it returns.
        tree: the form of that.
        bytes: of what the equations give.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        self.returned, self.tree = shape, jax.tree.structure(shape)
        self.equations: list[Equation] = []
        self._constants: dict[int, Any] = {}
        self.bytes = 0
        self._count = 0
        self.arguments = [self._new() for _ in closed.jaxpr.invars]
        self.results = self._inline(closed, list(self.arguments))
        self.last = [i for i in self.results if not isinstance(i, Literal)]

    def _new(self, constant: Any = None) -> int:
        self._count += 1
        if constant is not None:
            self._constants[self._count] = constant
        return self._count

    def _inline(self, closed: ClosedJaxpr, inputs: Sequence[int | Literal]) -> list[int | Literal]:
        jaxpr = closed.jaxpr
        numbers: dict[Any, int | Literal] = dict(zip(jaxpr.invars, inputs, strict=True))
        numbers |= {var: self._new(value) for var, value in zip(jaxpr.constvars, closed.consts, strict=True)}
        for eqn in jaxpr.eqns:
            ins = tuple(x if isinstance(x, Literal) else numbers[x] for x in eqn.invars)
            inner = eqn.params.get(CALLS.get(eqn.primitive.name, ""))
            if inner is not None:
                body = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
                numbers |= zip(eqn.outvars, self._inline(body, ins), strict=True)
            else:
                outs = tuple(self._new() for _ in eqn.outvars)
                numbers |= zip(eqn.outvars, outs, strict=True)
                self.bytes += sum(math.prod(x.aval.shape) * x.aval.dtype.itemsize for x in eqn.outvars)
                self.equations.append(Equation(eqn.primitive, eqn.params, ins, outs))
        return [x if isinstance(x, Literal) else numbers[x] for x in jaxpr.outvars]

    def run(self, *arguments: Any) -> dict[int, Any]:
        """All values by number."""
        values = dict(self._constants) | dict(zip(self.arguments, arguments, strict=True))
        for eqn in self.equations:
            ins = [x.val if isinstance(x, Literal) else values[x] for x in eqn.inputs]
            values |= zip(eqn.outputs, _bound(eqn, ins), strict=True)
        return values

    def after(self, argument: int) -> list[Equation]:
        """The equations that depend on an argument, without those that lead to no result."""
        changed, found = {self.arguments[argument]}, []
        for eqn in self.equations:
            if any(x in changed for x in eqn.inputs if not isinstance(x, Literal)):
                found.append(eqn)
                changed.update(eqn.outputs)
        needed, kept = set(self.last), []
        for eqn in reversed(found):
            if needed.intersection(eqn.outputs):
                kept.append(eqn)
                needed.update(x for x in eqn.inputs if not isinstance(x, Literal))
        return kept[::-1]

    def changed(
        self,
        argument: int,
        equations: Sequence[Equation],
        values: dict[int, Any],
        row: tuple[Int[Array, ""], Float[Array, ""]],
    ) -> Any:
        """The results where one entry of an argument is a step away.

        Args:
            argument: which.
            equations: those after it.
            values: of the program as it was run.
            row: number of the entry, in row order, and what is added to it.
        """
        entry, step = row
        number = self.arguments[argument]
        w = values[number]
        at = dict(enumerate(jnp.unravel_index(entry, w.shape)))
        new: dict[int, Part] = {number: Part(_sliced(w, at) + step.astype(w.dtype), at)}
        for eqn in equations:
            new |= zip(eqn.outputs, _advanced(eqn, values, new), strict=True)
        results = [
            x.val if isinstance(x, Literal) else _whole(new[x], values[x]) if x in new else values[x]
            for x in self.results
        ]
        return jax.tree.unflatten(self.tree, results)


def _bound(eqn: Equation, inputs: Sequence[Any], **changes: Any) -> list[Any]:
    found = eqn.primitive.get_bind_params({**eqn.params, **changes})
    functions, params = found if isinstance(found, tuple) else ((), found)  # as JAX before 0.10 has it
    outs = eqn.primitive.bind(*functions, *inputs, **params)
    return list(outs) if eqn.primitive.multiple_results else [outs]


def _sliced(x: Any, at: Mapping[int, Any]) -> Array:
    """``x`` of one index along some axes, which are kept."""
    return lax.dynamic_slice(
        x, _starts(at, jnp.ndim(x)), [1 if axis in at else n for axis, n in enumerate(jnp.shape(x))]
    )


def _whole(part: Part, base: Array) -> Array:
    """The array that a part stands for."""
    if not part.at:
        return part.value
    return lax.dynamic_update_slice(base, part.value, _starts(part.at, base.ndim))


def _starts(at: Mapping[int, Any], axes: int) -> list[Array]:
    """Of one dtype, which vectorized slices need."""
    return [jnp.asarray(at.get(axis, 0), jnp.int32) for axis in range(axes)]


def _advanced(eqn: Equation, values: dict[int, Any], new: dict[int, Part]) -> list[Part]:
    """The results of an equation of which some inputs have changed."""
    base = [x.val if isinstance(x, Literal) else values[x] for x in eqn.inputs]
    inputs = [None if isinstance(x, Literal) else new.get(x) for x in eqn.inputs]
    if len(eqn.outputs) == 1:
        rule = _RULES.get(eqn.primitive.name)
        out = rule(eqn, base, inputs, values[eqn.outputs[0]]) if rule else None
        if out is not None:
            return [out]
    whole = [b if x is None else _whole(x, b) for x, b in zip(inputs, base, strict=True)]
    return [Part(value, {}) for value in _bound(eqn, whole)]


Rule = Callable[[Equation, list[Any], list[Part | None], Any], Part | None]


def _elementwise(eqn: Equation, base: list[Any], inputs: list[Part | None], out: Any) -> Part | None:
    parts = [x for x in inputs if x is not None]
    at = parts[0].at
    if any(x.at.keys() != at.keys() or any(x.at[k] is not at[k] for k in at) for x in parts):
        return None
    shape = out.shape
    ins = []
    for b, x in zip(base, inputs, strict=True):
        if jnp.ndim(b) and jnp.shape(b) != shape:
            return None
        ins.append(x.value if x is not None else _sliced(b, at) if jnp.ndim(b) else b)
    return Part(_bound(eqn, ins)[0], at)


def _reduction(eqn: Equation, base: list[Any], inputs: list[Part | None], out: Any) -> Part | None:
    (part,), axes = inputs, eqn.params["axes"]
    assert part is not None
    left = {k - sum(axis < k for axis in axes): i for k, i in part.at.items() if k not in axes}
    if not any(axis in part.at for axis in axes):
        changes = {"out_sharding": None} if "out_sharding" in eqn.params else {}
        return Part(_bound(eqn, [part.value], **changes)[0], left)
    if eqn.primitive.name != "reduce_sum":
        return None
    change = jnp.sum(part.value - _sliced(base[0], part.at), axes)
    return Part(_sliced(out, left) + change, left)


def _window(eqn: Equation, base: list[Any], inputs: list[Part | None], out: Any) -> Part | None:
    (part,), params = inputs, eqn.params
    assert part is not None
    alone = all(
        params["window_dimensions"][k] == 1 and params["window_strides"][k] == 1 and params["padding"][k] == (0, 0)
        and params["base_dilation"][k] == 1 for k in part.at
    )  # fmt: skip
    return Part(_bound(eqn, [part.value])[0], part.at) if alone else None


def _transpose(eqn: Equation, base: list[Any], inputs: list[Part | None], out: Any) -> Part | None:
    (part,), order = inputs, eqn.params["permutation"]
    assert part is not None
    return Part(lax.transpose(part.value, order), {order.index(k): i for k, i in part.at.items()})


def _broadcast(eqn: Equation, base: list[Any], inputs: list[Part | None], out: Any) -> Part | None:
    part, to = inputs[0], eqn.params["broadcast_dimensions"]
    if part is None or any(base[0].shape[k] != out.shape[to[k]] for k in part.at):
        return None
    at = {to[k]: i for k, i in part.at.items()}
    shape = [1 if axis in at else n for axis, n in enumerate(out.shape)]
    return Part(lax.broadcast_in_dim(part.value, shape, to), at)


def _reshape(eqn: Equation, base: list[Any], inputs: list[Part | None], out: Any) -> Part | None:
    """A view of the same part, if its axes are those of the new shape, too."""
    part = inputs[0]
    if part is None or eqn.params.get("dimensions") is not None:
        return None
    old, new = base[0].shape, out.shape
    starts = {(math.prod(new[:k]), n): k for k, n in enumerate(new)}
    at = {}
    for k, i in part.at.items():
        if (position := starts.get((math.prod(old[:k]), old[k]))) is None:
            return None
        at[position] = i
    return Part(part.value.reshape([1 if k in at else n for k, n in enumerate(new)]), at)


def _squeeze(eqn: Equation, base: list[Any], inputs: list[Part | None], out: Any) -> Part | None:
    (part,), gone = inputs, eqn.params["dimensions"]
    assert part is not None
    if any(k in gone for k in part.at):
        return None
    return Part(lax.squeeze(part.value, gone), {k - sum(axis < k for axis in gone): i for k, i in part.at.items()})


def _product(eqn: Equation, base: list[Any], inputs: list[Part | None], out: Any) -> Part | None:
    side = 0 if inputs[0] is not None else 1
    part, other = inputs[side], inputs[1 - side]
    if part is None or other is not None:
        return None
    contract, batch = eqn.params["dimension_numbers"]
    own, others = contract[side], contract[1 - side]
    rank, fixed = jnp.ndim(base[side]), {*own, *batch[side]}
    free = [k for k in range(rank) if k not in fixed]
    first = len(batch[0]) + (0 if side == 0 else jnp.ndim(base[0]) - len(contract[0]) - len(batch[0]))
    to = {k: n for n, k in enumerate(batch[side])} | {k: first + n for n, k in enumerate(free)}
    at = {to[k]: i for k, i in part.at.items() if k in to}
    # Of the other operand what meets the part.
    met = {others[own.index(k)]: i for k, i in part.at.items() if k in own}
    met |= {batch[1 - side][batch[side].index(k)]: i for k, i in part.at.items() if k in batch[side]}
    mine = part.value
    if inner := any(k in part.at for k in own):
        mine = mine - _sliced(base[side], part.at)
    pair = [mine, _sliced(base[1 - side], met)]
    made = _bound(eqn, pair if side == 0 else pair[::-1])[0]
    return Part(_sliced(out, at) + made, at) if inner else Part(made, at)


def _convolution(eqn: Equation, base: list[Any], inputs: list[Part | None], out: Any) -> Part | None:
    """An entry of the kernel reaches one channel, by a window of the input; a channel of the input all channels."""
    params = eqn.params
    numbers = params["dimension_numbers"]
    plain = params["feature_group_count"] == params["batch_group_count"] == 1 and set(params["lhs_dilation"]) <= {1}
    (image, kernel), (x, w) = inputs, base
    if not plain or (image is None) == (kernel is None):
        return None
    channel, spatial = numbers.lhs_spec[1], numbers.lhs_spec[2:]
    taps, sizes = numbers.rhs_spec[2:], [w.shape[k] for k in numbers.rhs_spec[2:]]
    views = partial(
        _view, spatial=spatial, params=params, sizes=sizes, counts=[out.shape[k] for k in numbers.out_spec[2:]]
    )
    if kernel is not None:
        if len(kernel.at) != w.ndim:
            return None
        step = (kernel.value - _sliced(w, kernel.at)).reshape(())
        seen = views(_sliced(x, {channel: kernel.at[numbers.rhs_spec[1]]}), [kernel.at[k] for k in taps])
        at = {numbers.out_spec[1]: kernel.at[numbers.rhs_spec[0]]}
        moved = jnp.transpose(seen, [numbers.lhs_spec[numbers.out_spec.index(k)] for k in range(x.ndim)])
        return Part(_sliced(out, at) + (moved * step).astype(out.dtype), at)
    assert image is not None
    if set(image.at) != {channel}:
        return None
    change = image.value - _sliced(x, image.at)
    places = [[int(i) for i in place] for place in _places(sizes)]
    seen = jnp.concatenate([views(change, place) for place in places], channel)  # one window for each tap
    rows = _sliced(w, {numbers.rhs_spec[1]: image.at[channel]})
    rows = jnp.transpose(rows, [*taps, numbers.rhs_spec[1], numbers.rhs_spec[0]]).reshape(len(places), -1)
    made = jnp.moveaxis(jnp.tensordot(seen, rows, ((channel,), (0,))), -1, channel)  # axes as in the input
    moved = jnp.transpose(made, [numbers.lhs_spec[numbers.out_spec.index(k)] for k in range(x.ndim)])
    return Part(out + moved.astype(out.dtype), {})


def _view(x: Array, place: Sequence[Any], *, spatial: Sequence[int], params: Any, sizes: Any, counts: Any) -> Array:
    """What one tap of a kernel meets of the input."""
    low_high = dict(zip(spatial, params["padding"], strict=True))
    x = lax.pad(x, jnp.zeros((), x.dtype), [(*low_high.get(axis, (0, 0)), 0) for axis in range(x.ndim)])
    for axis, tap, count, stride, dilation in zip(
        spatial, place, counts, params["window_strides"], params["rhs_dilation"], strict=True
    ):
        x = lax.dynamic_slice_in_dim(x, tap * dilation, (count - 1) * stride + 1, axis)
        x = lax.slice_in_dim(x, 0, None, stride, axis)
    return x


def _places(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    return [()] if not sizes else [(i, *rest) for i in range(sizes[0]) for rest in _places(sizes[1:])]


_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_REDUCTIONS.split(), _reduction),
    **dict.fromkeys(_WINDOWS.split(), _window),
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "dot_general": _product,
    "conv_general_dilated": _convolution,
}
