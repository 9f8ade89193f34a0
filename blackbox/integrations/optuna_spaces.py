"""Search spaces as Optuna's distributions and back, and points as a trial's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from blackbox.dimensions import Dimension, refusal
from blackbox.errors import SpaceError, missing_extra
from blackbox.space import Bool, Choice, Float, Int, Permutation, Space

try:
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
except ImportError as error:
    raise missing_extra("optuna", "optuna") from error

Distributions = Mapping[str, BaseDistribution]

MAX_VALUES = 1000  # of a stepped distribution that becomes a Choice


def to_distributions(space: Space | Mapping[str, Dimension]) -> dict[str, BaseDistribution]:
    """Optuna's distributions of all variables, those of branches included.

    Bool and Choice become categorical, Float and Int what they are.

    Raises:
        SpaceError: a Permutation, which Optuna has not, or branches that share a name for unlike variables.
    """
    distributions: dict[str, BaseDistribution] = {}
    _collect(space if isinstance(space, Space) else Space(space), distributions)
    return distributions


def _collect(space: Space, distributions: dict[str, BaseDistribution]) -> None:
    for name, dimension in space.dimensions.items():
        distribution = _distribution(name, dimension)
        if distributions.setdefault(name, distribution) != distribution:
            raise refusal(f"space[{name!r}]", "alike in all branches, as Optuna has one distribution a name", dimension)
        for branch in dimension.branches if isinstance(dimension, Choice) else ():
            if branch is not None:
                _collect(branch, distributions)


def _distribution(name: str, dimension: Dimension) -> BaseDistribution:
    match dimension:
        case Float():
            return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
        case Int():
            return IntDistribution(dimension.low, dimension.high, log=dimension.log)
        case Bool():
            return CategoricalDistribution((False, True))
        case Choice():
            return CategoricalDistribution(dimension.options)
    assert isinstance(dimension, Permutation)
    raise refusal(f"space[{name!r}]", "a Float, Int, Bool or Choice for Optuna", dimension)


def to_space(distributions: Distributions) -> Space:
    """The space of Optuna's distributions.

    Categorical distributions become Choice, or Bool if they are of False and True; so do those of a single value, and
    steps other than 1, whose values are listed.

    Raises:
        SpaceError: choices that are no options of Choice, or more than 1000 steps.
    """
    return Space({name: _dimension(name, distribution) for name, distribution in distributions.items()})


def _dimension(name: str, distribution: BaseDistribution) -> Dimension:
    if isinstance(distribution, CategoricalDistribution):
        if [type(c) is bool and c for c in distribution.choices] == [False, True]:
            return Bool() if distribution.choices[0] is False else Choice(distribution.choices)
        return Choice(distribution.choices)
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise refusal(f"distributions[{name!r}]", "float, int or categorical", distribution)
    low, high = distribution.low, distribution.high
    if distribution.single() or distribution.step not in (None, 1) or isinstance(distribution.step, float):
        count = 1 if distribution.single() else steps(distribution)
        if count > MAX_VALUES:
            raise refusal(f"distributions[{name!r}]", f"of at most {MAX_VALUES} steps", distribution)
        return Choice([stepped(distribution, i) for i in range(count)])
    return _numeric(distribution, low, high)


def _numeric(distribution: FloatDistribution | IntDistribution, low: float, high: float) -> Dimension:
    if isinstance(distribution, IntDistribution):
        return Int(int(low), int(high), log=distribution.log)
    return Float(low, high, log=distribution.log)


def steps(distribution: FloatDistribution | IntDistribution) -> int:
    """The number of values of a stepped distribution."""
    return round((distribution.high - distribution.low) / (distribution.step or 1)) + 1


def stepped(distribution: FloatDistribution | IntDistribution, i: int) -> Any:
    """The ``i``-th value of a stepped distribution."""
    return min(distribution.low + i * (distribution.step or 1), distribution.high)


class Codec(Protocol):
    """How the points of a space are a trial's parameters."""

    @property
    def space(self) -> Space: ...
    @property
    def distributions(self) -> Distributions: ...
    def params(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a point."""

    def point(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """The point of a trial's parameters, None if they are of no point of the space."""


class GivenSpace:
    """A Space whose points are parameters as they are.

    Args:
        space: of variables that Optuna has.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.distributions: Distributions = to_distributions(space)

    def params(self, point: Mapping[str, Any]) -> dict[str, Any]:
        return dict(point)

    def point(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        point: dict[str, Any] = {}
        self._take(self.space, params, point)
        return point if self.space.contains(point) else None

    def _take(self, space: Space, params: Mapping[str, Any], point: dict[str, Any]) -> None:
        """Copy what is active; trials may have further parameters."""
        for name, dimension in space.dimensions.items():
            if name in params:
                point[name] = params[name]
                if isinstance(dimension, Choice) and dimension.contains(params[name]):
                    branch = dimension.branches[dimension.position(params[name])]
                    if branch is not None:
                        self._take(branch, params, point)


class Inferred:
    """The space of the distributions that a study has met.

    Stepped variables are integers here, and categories their numbers, so that any choices will do.

    Args:
        distributions: at least one, none of them of a single value.

    Raises:
        SpaceError: bounds that no variable can have.
    """

    def __init__(self, distributions: Distributions) -> None:
        self.distributions = distributions
        self.space = Space({name: self._variable(distribution) for name, distribution in distributions.items()})

    @staticmethod
    def _variable(distribution: Any) -> Dimension:
        if isinstance(distribution, CategoricalDistribution):
            return Choice(range(len(distribution.choices)))
        if distribution.step is not None and not distribution.log:
            return Int(0, steps(distribution) - 1)
        return _numeric(distribution, distribution.low, distribution.high)

    def params(self, point: Mapping[str, Any]) -> dict[str, Any]:
        params = {}
        for name, value in point.items():
            distribution: Any = self.distributions[name]
            if isinstance(distribution, CategoricalDistribution):
                value = distribution.choices[value]
            elif distribution.step is not None and not distribution.log:
                value = stepped(distribution, value)
            params[name] = value
        return params

    def point(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        point: dict[str, Any] = {}
        try:
            for name, distribution in self.distributions.items():
                value = distribution.to_internal_repr(params[name])
                if isinstance(distribution, CategoricalDistribution):
                    value = int(value)
                elif isinstance(distribution, FloatDistribution | IntDistribution):
                    if distribution.step is not None and not distribution.log:
                        value = round((value - distribution.low) / distribution.step)
                    elif isinstance(distribution, IntDistribution):
                        value = int(value)
                point[name] = value
        except (KeyError, ValueError):
            return None
        return point if self.space.contains(point) else None


def searchable(distributions: Distributions) -> Inferred | None:
    """The codec of distributions, None where there are none to search: of a single value, or out of range."""
    try:
        return Inferred({name: d for name, d in distributions.items() if not d.single()})
    except SpaceError:
        return None
