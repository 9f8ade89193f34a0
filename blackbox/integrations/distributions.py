"""What ``RandomizedSearchCV`` takes as distributions of parameters, as a search space, and back.

========================================  ==========================================================
there                                     here
========================================  ==========================================================
``uniform``, ``loguniform``, ``randint``  Float, Float with ``log``, Int
any other distribution                    its quantile, a Float from 0 to 1
a list of three or more numbers           their position in order, an Int
any other list                            a Choice; of positions, if the values are no options
a variable of blackbox                    itself
a list of dictionaries                    a Choice of the dictionary, with its parameters as branches
========================================  ==========================================================
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from blackbox.dimensions import Dimension, refusal
from blackbox.errors import SpaceError, missing_extra
from blackbox.space import Bool, Choice, Float, Int, Permutation, Space, as_named_space

VARIABLES = (Float, Int, Choice, Bool, Permutation)
ALTERNATIVE = "(alternative)"  # the hidden variable that says which of several dictionaries
TAIL = 2.0**-20  # quantiles stay this far from 0 and 1, where values may be infinite

MAX_VALUES = 100_000  # of an integer on a log scale, whose probabilities are listed
MAX_DICTIONARIES = 1000

Decoder = Callable[[Any], Any]


class Parameters:
    """Parameters of an estimator that are searched.

    Args:
        space: a Space, a dictionary from name to variable, list or distribution, or a list of such dictionaries.

    Attributes:
        space: the Space of the points.

    Raises:
        SpaceError: something else.
    """

    def __init__(self, space: Any) -> None:
        self._decoders: list[dict[str, Decoder]] = []
        if isinstance(space, Space):
            self.space = space
        elif isinstance(space, Mapping):
            self.space = self._converted("space", space)
        elif isinstance(space, Sequence) and not isinstance(space, str) and len(space):
            branches = [self._converted(f"space[{i}]", entry) for i, entry in enumerate(space)]
            self.space = Space({ALTERNATIVE: Choice({str(i): branch for i, branch in enumerate(branches)})})
        else:
            allowed = "a Space, a dictionary from name to variable, list or distribution, or a list of those"
            raise refusal("space", allowed, space)

    def _converted(self, argument: str, entry: Any) -> Space:
        if not isinstance(entry, Mapping) or not entry:
            raise refusal(argument, "a non-empty dictionary", entry)
        decoders: dict[str, Decoder] = {}
        variables = {name: _variable(f"{argument}[{name!r}]", name, value, decoders) for name, value in entry.items()}
        self._decoders.append(decoders)
        return Space(variables)

    def of(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a point of the space; those of inactive branches are absent."""
        if not self._decoders:
            return dict(point)
        decoders = self._decoders[int(point.get(ALTERNATIVE, 0))]
        return {
            name: decoders[name](value) if name in decoders else value
            for name, value in point.items()
            if name != ALTERNATIVE
        }


def _variable(argument: str, name: str, value: Any, decoders: dict[str, Decoder]) -> Dimension:
    """The variable for ``value``; adds a decoder where its values are not yet the parameter's."""
    if isinstance(value, VARIABLES):
        return value
    quantile = getattr(value, "ppf", None) or getattr(value, "icdf", None)
    if quantile is not None and not hasattr(value, "freeze"):  # the parameters of a distribution are given
        return _distribution(argument, name, value, quantile, decoders)
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value):
        return _options(name, list(value), decoders)
    raise refusal(argument, "a variable, a non-empty list or a distribution of scipy.stats", value)


def are_numbers(values: Sequence[Any]) -> bool:
    """Whether all are finite numbers, which have an order."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def _options(name: str, values: list[Any], decoders: dict[str, Decoder]) -> Dimension:
    if are_numbers(values) and len(values) > 2:
        ordered = sorted(set(values))
        if len(ordered) > 1:
            decoders[name] = ordered.__getitem__
            return Int(0, len(ordered) - 1)
    try:
        return Choice(values)
    except SpaceError:  # values that are no options, such as estimators, or equal ones
        decoders[name] = values.__getitem__
        return Choice(list(range(len(values))))


def _distribution(argument: str, name: str, value: Any, quantile: Decoder, decoders: dict[str, Decoder]) -> Dimension:
    kind = getattr(getattr(value, "dist", None), "name", "")
    if kind in ("uniform", "reciprocal", "loguniform", "randint") and hasattr(value, "support"):
        low, high = (bound.item() for bound in map(np.asarray, value.support()))
        if kind == "randint":
            low, high = int(low), int(high)
            return Int(low, high) if low < high else Choice([low])
        if low < high:
            return Float(low, high, log=kind != "uniform")
    try:
        ends = [float(quantile(q)) for q in (TAIL, 0.5, 1.0 - TAIL)]
    except Exception as error:  # whatever a foreign distribution raises
        raise refusal(argument, "a distribution whose quantiles are numbers", value) from error
    if not all(map(math.isfinite, ends)):
        raise refusal(argument, "a distribution with finite quantiles", value)
    decoders[name] = lambda q: np.asarray(quantile(q)).item()
    return Float(TAIL, 1.0 - TAIL)


def to_distributions(space: Space | Mapping[str, Dimension]) -> list[dict[str, Any]]:
    """Dictionaries from name to list or distribution of scipy.stats, whose samples are the points of ``space``.

    ``RandomizedSearchCV(estimator, to_distributions(space))`` draws first one of them: there is one for each
    combination of the options that have variables of their own.

    Raises:
        SpaceError: a Permutation, an Int with ``log`` of more than 100,000 values, or more than 1000 combinations.
        MissingExtra: SciPy is not installed.
    """
    named = as_named_space(space)
    return _combinations(named)


def _combinations(space: Space) -> list[dict[str, Any]]:
    """For each variable the dictionaries of its alternatives, and of these the products."""
    parts: list[list[dict[str, Any]]] = []
    for name, dimension in space.dimensions.items():
        if isinstance(dimension, Choice) and dimension.is_conditional:
            options = zip(dimension.options, dimension.branches, strict=True)
            parts.append(
                [
                    {name: [option], **inner}
                    for option, branch in options
                    for inner in ([{}] if branch is None else _combinations(branch))
                ]
            )
        else:
            parts.append([{name: _samples(name, dimension)}])
    if (count := math.prod(map(len, parts))) > MAX_DICTIONARIES:
        raise SpaceError(f"space must have at most {MAX_DICTIONARIES} combinations of options; got {count}")
    return [{n: value for part in chosen for n, value in part.items()} for chosen in itertools.product(*parts)]


def _samples(name: str, dimension: Dimension) -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise missing_extra("scipy", "scipy") from error

    match dimension:
        case Float(low, high, log):
            return stats.loguniform(low, high) if log else stats.uniform(low, high - low)
        case Int(low, high, False):
            return stats.randint(low, high + 1)
        case Int(low, high):
            if high - low >= MAX_VALUES:
                raise refusal(f"space[{name!r}]", f"of at most {MAX_VALUES} values with log", dimension)
            values = np.arange(low, high + 1)
            cells = np.log(values + 0.5) - np.log(values - 0.5)
            return stats.rv_discrete(values=(values, cells / cells.sum()))
        case Bool():
            return [False, True]
        case Choice():
            return list(dimension.options)
    raise refusal(f"space[{name!r}]", "a Float, Int, Bool or Choice for distributions", dimension)
