"""What a statement may compute: functions of arrays and scalars, by name, with the types that they take.

An array has the weights' shape, ``(..., d)``; a scalar is a number for each run, of shape ``(..., 1)`` or ``()``. What
works by entry gives an array if any of its inputs is one; ``norm``, ``mean`` and ``dot`` reduce the last axis and give
a scalar. Hence a program is the same for one run and for many on leading axes, which never mix.

The set is a half of the 45 functions of Chen et al. 2023 (arXiv:2302.06675, appendix), without their near-copies
(hyperbolic and inverse ones, reciprocals, norms over all tensors). Roots and logarithms of negative numbers are NaN, as
there: nothing is protected, a program that fails has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

from blackbox.arrays import Array

Type = Literal["array", "scalar"]
Slot = Literal["array", "scalar", "any"]


class Function(NamedTuple):
    """One of the language."""

    name: str
    slots: tuple[Slot, ...]
    """The type of each input."""
    apply: Callable[..., Array]
    """Of an array namespace and the inputs."""
    commutative: bool = False
    reduces: bool = False
    """Whether it gives a scalar whatever its inputs are."""
    infix: str = ""
    """How it is written between its inputs; nothing if as a call."""


def _interp(xp: Any, x: Array, y: Array, a: Array) -> Array:
    """The step of an exponential average: ``y`` keeps a share ``a``."""
    return (1 - a) * x + a * y


def _clip(xp: Any, x: Array, bound: Array) -> Array:
    bound = xp.abs(bound)
    return xp.minimum(xp.maximum(x, -bound), bound)


def _norm(xp: Any, x: Array) -> Array:
    return xp.sqrt(xp.sum(x * x, axis=-1, keepdims=True))


def _by_entry(name: str) -> Callable[..., Array]:
    """The array standard's function of that name."""
    return lambda xp, *inputs: getattr(xp, name)(*inputs)


_UNARY = ("abs", "sign", "square", "sqrt", "exp", "log", "sin", "cos", "tanh", "asin", "atan")
_ANY: Slot = "any"
_ARRAY: Slot = "array"
_SCALAR: Slot = "scalar"

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        *(Function(name, (_ANY,), _by_entry(name)) for name in _UNARY),
        Function("add", (_ANY, _ANY), lambda xp, x, y: x + y, commutative=True, infix="+"),
        Function("sub", (_ANY, _ANY), lambda xp, x, y: x - y, infix="-"),
        Function("mul", (_ANY, _ANY), lambda xp, x, y: x * y, commutative=True, infix="*"),
        Function("div", (_ANY, _ANY), lambda xp, x, y: x / y, infix="/"),
        Function("maximum", (_ANY, _ANY), _by_entry("maximum"), commutative=True),
        Function("minimum", (_ANY, _ANY), _by_entry("minimum"), commutative=True),
        Function("clip", (_ANY, _SCALAR), _clip),
        Function("interp", (_ANY, _ANY, _SCALAR), _interp),
        Function("norm", (_ARRAY,), _norm, reduces=True),
        Function("mean", (_ARRAY,), lambda xp, x: xp.mean(x, axis=-1, keepdims=True), reduces=True),
        Function(
            "dot",
            (_ARRAY, _ARRAY),
            lambda xp, x, y: xp.sum(x * y, axis=-1, keepdims=True),
            commutative=True,
            reduces=True,
        ),
    )
}
"""The functions by name."""


@cache
def result_type(function: Function, given: tuple[Type, ...]) -> Type | None:
    """The type of the output, or None where an input has none that its slot takes."""
    if any(slot not in ("any", kind) for slot, kind in zip(function.slots, given, strict=True)):
        return None
    by_entry = [kind for slot, kind in zip(function.slots, given, strict=True) if slot == "any"]
    return "array" if "array" in by_entry and not function.reduces else "scalar"
