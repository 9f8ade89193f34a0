"""Ray Tune's search spaces as spaces of variables, and points as trials' configurations.

==========================================  ========================================================
there                                       here
==========================================  ========================================================
``uniform``, ``loguniform``                 Float, with ``log``
``randint``, ``lograndint``                 Int, with ``log``; the upper bound is excluded, as there
``quniform``, ``qrandint``, ... with ``q``  the number of the multiple of ``q``, an Int, with ``log``
``randn``, ``qrandn``                       the quantile, a Float from 0 to 1
``choice`` of three or more numbers         their position in order, an Int
any other ``choice``                        a Choice of positions, whatever the categories are
``choice`` with domains in its categories   a Choice with a branch for each category: conditional
``grid_search``, ``sample_from``            SpaceError: they are no variables
==========================================  ========================================================

Variables are named by their path in the configuration, "model/0/lr", and constants stay what they are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from blackbox.dimensions import Dimension, refusal
from blackbox.errors import SpaceError, missing_extra
from blackbox.integrations.distributions import TAIL, are_numbers
from blackbox.space import Choice, Float, Int, Space

try:
    from ray.tune.search.sample import Categorical, Domain, Function, Integer, LogUniform, Normal, Quantized
    from ray.tune.search.sample import Float as TuneFloat
except ImportError as error:
    raise missing_extra("ray[tune]", "tune") from error

Config = dict[str, Any]


class Codec(Protocol):
    """How the points of a space are trials' configurations."""

    @property
    def space(self) -> Space: ...
    def config(self, point: Mapping[str, Any]) -> Config:
        """The configuration of a point, constants beside the variables included where they are in one container."""

    def point(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The point of a configuration, which may have further entries; SpaceError if it is none."""


class GivenSpace:
    """A Space whose points are configurations as they are."""

    def __init__(self, space: Space) -> None:
        self.space = space

    def config(self, point: Mapping[str, Any]) -> Config:
        return dict(point)

    def point(self, config: Mapping[str, Any]) -> dict[str, Any]:
        point = {name: config[name] for name in self.space.names if name in config}
        self.space.encode(point)
        return point


class _Variable(NamedTuple):
    dimension: Dimension
    value: Callable[[Any], Any]  # of the configuration, for one of the dimension
    position: Callable[[Any], Any]  # and back; ValueError for none of its values


class TuneSpace:
    """The space of a configuration with domains of Tune.

    Args:
        config: ``param_space`` of a Tuner, nested as it may be.

    Attributes:
        space: of all variables.

    Raises:
        SpaceError: ``config`` has no domains, or some that cannot be searched.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        if not isinstance(config, Mapping):
            raise refusal("space", "a Space, or a dictionary with domains of Ray Tune", config)
        self._template = {key: value for key, value in config.items() if _has_domains(value)}
        self._variables: dict[str, _Variable] = {}
        dimensions = self._collect(self._template, "")
        if not dimensions:
            raise refusal("space", "a dictionary with at least one domain of Ray Tune, such as tune.uniform", config)
        self.space = Space(dimensions)

    def config(self, point: Mapping[str, Any]) -> Config:
        filled: Config = self._fill(self._template, "", point)
        return filled

    def point(self, config: Mapping[str, Any]) -> dict[str, Any]:
        point: dict[str, Any] = {}
        self._read(self._template, "", {key: config[key] for key in self._template if key in config}, point)
        self.space.encode(point)
        return point

    def _collect(self, value: Any, path: str) -> dict[str, Dimension]:
        """The variables below a value of the configuration."""
        found: dict[str, Dimension] = {}
        if isinstance(value, Domain):
            if path in self._variables:
                raise SpaceError(f"space must be of different paths; got {path!r} twice")
            self._variables[path] = variable = _variable(path, value)
            found[path] = variable.dimension
            if isinstance(value, Categorical) and _has_domains(value.categories):
                branches = [self._collect(category, f"{path}/{i}") for i, category in enumerate(value.categories)]
                found[path] = Choice({str(i): Space(branch) if branch else None for i, branch in enumerate(branches)})
            return found
        for key, item in _items(value):
            found |= self._collect(item, _join(path, key))
        return found

    def _fill(self, value: Any, path: str, point: Mapping[str, Any]) -> Any:
        """A value of the configuration with the point's values in place of domains; constants are not copied."""
        if isinstance(value, Domain):
            if isinstance(value, Categorical) and _has_domains(value.categories):
                chosen = int(point[path])
                return self._fill(value.categories[chosen], f"{path}/{chosen}", point)
            return self._variables[path].value(point[path])
        if not _has_domains(value):
            return value
        filled = {key: self._fill(item, _join(path, key), point) for key, item in _items(value)}
        return filled if isinstance(value, Mapping) else type(value)(filled.values())

    def _read(self, value: Any, path: str, given: Any, point: dict[str, Any]) -> None:
        """Enter the variables below ``value`` by what stands in its place in a configuration; SpaceError for others."""
        if isinstance(value, Categorical) and _has_domains(value.categories):
            for i, category in enumerate(value.categories):
                branch: dict[str, Any] = {path: str(i)}
                try:
                    self._read(category, f"{path}/{i}", given, branch)
                except SpaceError:
                    continue
                point.update(branch)
                return
            raise refusal(path, "of one of the categories", given)
        if isinstance(value, Domain):
            variable = self._variables[path]
            try:
                point[path] = variable.position(given)
            except (ValueError, TypeError, OverflowError):
                point[path] = None
            if not variable.dimension.contains(point[path]):
                raise refusal(path, f"a value of {type(value).__name__} {value.domain_str}", given)
        elif not _has_domains(value):
            if not _same(value, given):
                raise refusal(path, repr(value), given)
        else:
            items = dict(_items(given))
            for key, item in _items(value):
                if key not in items:
                    raise SpaceError(f"{_join(path, key)} must be in the configuration; got nothing")
                self._read(item, _join(path, key), items[key], point)


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def _items(value: Any) -> list[tuple[Any, Any]]:
    """What a container of a configuration holds, by key or position; nothing for other values."""
    if isinstance(value, Mapping):
        return list(value.items())
    return list(enumerate(value)) if type(value) in (list, tuple) else []


def _has_domains(value: Any) -> bool:
    if isinstance(value, Mapping) and set(value) == {"grid_search"}:
        return True  # refused with its path
    return isinstance(value, Domain) or any(_has_domains(item) for _, item in _items(value))


def _same(one: Any, other: Any) -> bool:
    try:
        return one is other or (type(one) is type(other) and bool(one == other))
    except (ValueError, TypeError):  # arrays, which have no single truth
        return False


def _variable(path: str, domain: Domain) -> _Variable:
    """The variable of a domain; SpaceError for one that cannot be searched."""
    sampler, q = domain.get_sampler(), None
    if isinstance(sampler, Quantized):
        sampler, q = sampler.sampler, sampler.q
    if isinstance(domain, Categorical) and not domain.is_grid():
        return _categories(domain)
    if isinstance(domain, Function) or not isinstance(domain, TuneFloat | Integer):
        raise refusal(f"space[{path!r}]", "a domain other than sample_from and grid_search", domain)
    if isinstance(sampler, Normal):
        return _normal(domain, statistics.NormalDist(sampler.mean, sampler.sd), q)
    log, whole = isinstance(sampler, LogUniform), isinstance(domain, Integer)
    if q is None and not whole:
        return _Variable(Float(domain.lower, domain.upper, log=log), float, float)
    step = 1 if q is None else q
    low, high = math.ceil(domain.lower / step - 1e-9), math.floor(domain.upper / step + 1e-9)
    high -= whole and step == 1  # where Tune's samplers exclude the upper bound
    if high < low:
        raise refusal(f"space[{path!r}]", "of at least one value", domain.domain_str)

    def position(value: Any) -> int:
        number = round(value / step)
        if not math.isclose(number * step, value, rel_tol=1e-9, abs_tol=1e-12):
            raise ValueError(value)
        return number

    dimension = Int(low, high, log=log) if low < high else Choice([low])
    return _Variable(dimension, lambda number: domain.cast(number * step), position)


def _normal(domain: Domain, distribution: statistics.NormalDist, q: float | None) -> _Variable:
    def value(quantile: float) -> Any:
        exact = distribution.inv_cdf(quantile)
        return domain.cast(exact if q is None else round(exact / q) * q)

    def position(value: Any) -> float:
        return min(max(distribution.cdf(value), TAIL), 1.0 - TAIL)

    return _Variable(Float(TAIL, 1.0 - TAIL), value, position)


def _categories(domain: Categorical) -> _Variable:
    categories = list(domain.categories)
    if are_numbers(categories) and len(set(categories)) == len(categories) > 2:
        categories.sort()
        dimension: Dimension = Int(0, len(categories) - 1)
    else:
        dimension = Choice(list(range(len(categories))))

    def position(value: Any) -> int:
        return next((i for i, category in enumerate(categories) if _same(category, value)), -1)

    return _Variable(dimension, categories.__getitem__, position)
