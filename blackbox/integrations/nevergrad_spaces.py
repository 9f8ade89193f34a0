"""Parametrizations of nevergrad as search spaces, and back.

==================================================  ==================================================================
there                                               here
==================================================  ==================================================================
``Scalar``, ``Array``, ``Log`` with two bounds      Float, with ``log`` after an exponent; Int if cast to integers
the same with other operations on top               Float from 0 to 1, the position between the bounds
``Choice``, unordered ``TransitionChoice``          Choice of positions, with the options' parameters as branches
``TransitionChoice``                                the position, an Int
``Tuple``, ``Dict``, ``Instrumentation``            the variables of their parts
==================================================  ==================================================================

Variables are named by the way to them: ``0``, ``lr``, ``kwargs.layers.2``, and ``weights[3]`` for elements of arrays.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from blackbox.dimensions import Dimension, refusal
from blackbox.errors import missing_extra
from blackbox.space import Bool, Choice, Float, Int, Permutation, Space, as_named_space

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nevergrad as ng
        from nevergrad.parametrization import _datalayers as layers
        from nevergrad.parametrization.choice import BaseChoice
        from nevergrad.parametrization.container import Container
        from nevergrad.parametrization.core import Constant
        from nevergrad.parametrization.data import Data
except ImportError as error:
    raise missing_extra("nevergrad", "nevergrad") from error

__all__ = ["Parametrized", "to_parametrization"]

INSIDE = 2.0**-40  # how far from bounds that are infinite in nevergrad's own coordinates, such as those by arctan


class Parametrized:
    """The values of a parametrization as points of a Space::

        converted = Parametrized(parametrization)
        result = bb.minimize(lambda x: f(*converted.candidate(x).args), converted.space, budget=100)

    Args:
        parametrization: a parameter of nevergrad, all of whose numbers have two bounds.

    Attributes:
        space: the Space.

    Raises:
        SpaceError: an open bound, a parameter of another kind, or nothing to vary.
    """

    def __init__(self, parametrization: Any) -> None:
        if not isinstance(parametrization, ng.p.Parameter):
            raise refusal("parametrization", "a parameter of nevergrad", parametrization)
        self._parametrization = parametrization
        self._root = _node("", parametrization)
        variables = self._root.variables()
        if not variables:
            raise refusal("parametrization", "one with something to vary", parametrization)
        self.space = Space(variables)

    def candidate(self, point: Mapping[str, Any]) -> Any:
        """A child of the parametrization with the value of a point: ``value``, ``args`` and ``kwargs``."""
        child = self._parametrization.spawn_child()
        self._root.put(child, point)
        return child

    def point(self, candidate: Any) -> dict[str, Any]:
        """The point of a parameter, such as ``parametrization.spawn_child(new_value=value)``."""
        return self._root.take(candidate)

    def start(self) -> dict[str, Any]:
        """What the parametrization begins with: its numbers, but neither choices, which are drawn, nor their parts."""
        return self._root.start(self._parametrization)


class _Node(Protocol):
    """A part of a parametrization: its variables, and how their values go there and come back."""

    def variables(self) -> dict[str, Dimension]: ...
    def put(self, parameter: Any, point: Mapping[str, Any]) -> None: ...
    def take(self, parameter: Any) -> dict[str, Any]: ...
    def start(self, parameter: Any) -> dict[str, Any]: ...


def _node(name: str, parameter: Any) -> _Node:
    match parameter:
        case BaseChoice():
            return _Options(name, parameter)
        case Data():
            return _Numbers(name, parameter)
        case Container() | Constant():
            return _Group(name, parameter)
    raise refusal(name or "parametrization", "a Scalar, Array, Choice, Tuple, Dict or Instrumentation", parameter)


class _Group:
    """A container, or a constant, which has no parts."""

    def __init__(self, name: str, container: Any) -> None:
        parts = {} if isinstance(container, Constant) else container._content
        if isinstance(container, ng.p.Instrumentation):
            names = {0: name and f"{name}.args", 1: name and f"{name}.kwargs"}
        else:
            names = {key: f"{name}.{key}" if name else str(key) for key in parts}
        self._parts = {key: _node(names[key], part) for key, part in parts.items()}

    def variables(self) -> dict[str, Dimension]:
        return {n: variable for part in self._parts.values() for n, variable in part.variables().items()}

    def put(self, parameter: Any, point: Mapping[str, Any]) -> None:
        for key, part in self._parts.items():
            part.put(parameter[key], point)

    def take(self, parameter: Any) -> dict[str, Any]:
        return {n: value for key, part in self._parts.items() for n, value in part.take(parameter[key]).items()}

    def start(self, parameter: Any) -> dict[str, Any]:
        return {n: value for key, part in self._parts.items() for n, value in part.start(parameter[key]).items()}


class _Options:
    """A Choice or TransitionChoice, or several of the same options."""

    def __init__(self, name: str, choice: Any) -> None:
        count = len(choice.indices.value)
        self._names = [name or "choice"] if count == 1 else [f"{name or 'choice'}[{i}]" for i in range(count)]
        self._branches = [_node(f"{self._names[0]}.{k}", option) for k, option in enumerate(choice.choices)]
        self._inner = [branch.variables() for branch in self._branches]
        self._is_conditional = any(self._inner)
        if self._is_conditional and count > 1:
            raise refusal(self._names[0], "of constant options where there are repetitions", choice)
        self._is_ordered = (
            isinstance(choice, ng.p.TransitionChoice) and choice._ref is None and not self._is_conditional
        )

    def variables(self) -> dict[str, Dimension]:
        k = len(self._branches)
        variable: Dimension = Choice(range(k))
        if self._is_conditional:
            variable = Choice({str(i): Space(inner) if inner else None for i, inner in enumerate(self._inner)})
        elif self._is_ordered and k > 1:
            variable = Int(0, k - 1)
        return dict.fromkeys(self._names, variable)

    def put(self, parameter: Any, point: Mapping[str, Any]) -> None:
        chosen = [int(point[name]) for name in self._names]
        parameter.indices.value = np.array(chosen)
        if self._is_conditional:
            self._branches[chosen[0]].put(parameter.choices[chosen[0]], point)

    def take(self, parameter: Any) -> dict[str, Any]:
        chosen = [int(k) for k in parameter.indices.value]
        if self._is_conditional:
            return {self._names[0]: str(chosen[0]), **self._branches[chosen[0]].take(parameter.choices[chosen[0]])}
        return dict(zip(self._names, chosen, strict=True))

    def start(self, parameter: Any) -> dict[str, Any]:
        return self.take(parameter) if self._is_ordered else {}


class _Numbers:
    """A Scalar or Array between two bounds."""

    def __init__(self, name: str, data: Any) -> None:
        bounds = [b for b in layers.BoundLayer.filter_from(data) if all(end is not None for end in b.bounds)]
        if not bounds:
            raise refusal(name or "parametrization", "between two bounds", data)
        bound = bounds[-1]
        self._layer: int = bound._layer_index
        self._shape: tuple[int, ...] = np.shape(bound.get_normalized_value())
        self._ends = tuple(np.broadcast_to(end, self._shape).ravel() for end in bound.bounds)
        self._inside = INSIDE if getattr(bound, "_method", "clipping") not in ("clipping", "bouncing") else 0.0
        operations = [o for o in layers.Operation.filter_from(data) if o._layer_index > self._layer]
        self._is_log = [type(o) for o in operations] == [layers.Exponent]
        self._is_natural = self._is_log or not operations
        self._is_integer = self._is_natural and data.integer
        self._low, self._high = self._ends
        if self._is_log:
            self._low, self._high = (operations[0].forward(end) for end in self._ends)
            self._is_log = self._is_natural = bool((self._low < self._high).all())  # else of a base below 1
        size = self._ends[0].size
        self._names = [name or "x"] if size == 1 else [f"{name or 'x'}[{i}]" for i in range(size)]
        if self._is_integer:
            probe = data.spawn_child()
            self._put(probe, np.zeros(size))
            first = np.ravel(probe.value)
            self._put(probe, np.ones(size))
            self._integers = first, np.ravel(probe.value)

    def variables(self) -> dict[str, Dimension]:
        if self._is_integer:
            lows, highs = (ends.tolist() for ends in self._integers)
            ranges = zip(self._names, lows, highs, strict=True)
            return {
                name: Int(low, high, log=self._is_log and low >= 1) if low < high else Choice([low])
                for name, low, high in ranges
            }
        if not self._is_natural:
            return dict.fromkeys(self._names, Float(0.0, 1.0))
        ranges = zip(self._names, self._low.tolist(), self._high.tolist(), strict=True)
        return {name: Float(low, high, log=self._is_log) for name, low, high in ranges}

    def put(self, parameter: Any, point: Mapping[str, Any]) -> None:
        values = np.array([point[name] for name in self._names], dtype=np.float64)
        self._put(parameter, self._position(values) if self._is_natural else values)

    def _put(self, parameter: Any, position: Any) -> None:
        """Set the value whose positions between the bounds are given, from 0 to 1."""
        low, high = self._ends
        position = np.clip(position, self._inside, 1.0 - self._inside)
        del parameter.value  # what is remembered of the former one
        parameter._layers[self._layer]._layered_set_value(
            np.clip(low + position * (high - low), low, high).reshape(self._shape)
        )

    def _position(self, values: Any) -> Any:
        low, high = self._low, self._high
        if not self._is_log:
            return (values - low) / (high - low)
        return np.log(values / low) / np.log(high / low)

    def take(self, parameter: Any) -> dict[str, Any]:
        if self._is_integer:
            values = np.clip(np.ravel(parameter.value), *self._integers)
            return dict(zip(self._names, values.tolist(), strict=True))
        u = np.clip(np.ravel(parameter._layers[self._layer].get_normalized_value()), 0.0, 1.0)
        if self._is_natural:
            low, high = self._low, self._high
            line = low + u * (high - low)
            if self._is_log:
                line = low * (high / low) ** u
            u = np.clip(line, low, high)
        return dict(zip(self._names, u.tolist(), strict=True))

    def start(self, parameter: Any) -> dict[str, Any]:
        return self.take(parameter)


def to_parametrization(space: Space | Mapping[str, Dimension]) -> Any:
    """A parameter of nevergrad, a ``Dict``, whose values are the points of ``space``.

    Raises:
        SpaceError: a Permutation, which nevergrad has not.
    """
    named = as_named_space(space)
    return _Points(named)


class _Points(ng.p.Dict):  # type: ignore[misc]
    """Points as flat dictionaries; inside, an option with variables of its own is a pair with the part they are in."""

    def __init__(self, space: Space) -> None:
        super().__init__(**{name: _parameter(name, dimension) for name, dimension in space.dimensions.items()})
        self._dimensions = dict(space.dimensions)

    def _layered_get_value(self) -> dict[str, Any]:
        point: dict[str, Any] = {}
        for name, value in super()._layered_get_value().items():
            dimension = self._dimensions[name]
            if isinstance(dimension, Choice) and dimension.is_conditional:
                point[name] = value[0]
                point.update(value[1] or {})
            elif isinstance(dimension, Float):  # nevergrad's rounding may go beyond
                point[name] = min(max(value, dimension.low), dimension.high)
            else:
                point[name] = value
        return point

    def _layered_set_value(self, value: Mapping[str, Any]) -> None:
        self._check_frozen()
        for name, dimension in self._dimensions.items():
            if not isinstance(dimension, Choice):
                self[name].value = value[name]
                continue
            position = dimension.position(value[name])
            self[name].indices.value = np.array([position])
            if (branch := dimension.branches[position]) is not None:
                self[name].choices[position][1].value = {n: value[n] for n in branch if n in value}


def _parameter(name: str, dimension: Dimension) -> Any:
    match dimension:
        case Float(low, high, log):
            return ng.p.Log(lower=low, upper=high) if log else ng.p.Scalar(lower=low, upper=high)
        case Int(low, high, log):
            kind = ng.p.Log if log else ng.p.Scalar
            # Of half a cell more at both ends, as each integer is rounded to.
            return kind(lower=low - 0.5, upper=high + 0.5).set_integer_casting()
        case Bool():
            return ng.p.Choice([False, True])
        case Choice():
            if not dimension.is_conditional:
                return ng.p.Choice(dimension.options)
            pairs = zip(dimension.options, dimension.branches, strict=True)
            return ng.p.Choice([ng.p.Tuple(option, branch and _Points(branch)) for option, branch in pairs])
    assert isinstance(dimension, Permutation)
    raise refusal(f"space[{name!r}]", "a Float, Int, Bool or Choice for nevergrad", dimension)
