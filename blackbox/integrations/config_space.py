"""Spaces of the package ConfigSpace (SMAC, AutoML) as search spaces, and back.

=============================================  =====================================================================
there                                          here
=============================================  =====================================================================
``UniformFloat``, ``UniformInteger``           Float, Int, with ``log``
normal and beta distributions                  the same, of their range: the density is not kept
``Categorical``                                Choice; its weights are not kept
``Ordinal``                                    the position in the sequence, an Int
``Constant``                                   Choice of one option
conditions, of any kind and conjunction        branches of the parent, a Choice
=============================================  =====================================================================

A child of several parents lies in the branches of one, with the other parents, so each combination has its branch. That
is exact for all that ConfigSpace's conditions can say, as long as parents have few values. Forbidden clauses have no
counterpart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from blackbox.dimensions import Dimension, refusal
from blackbox.errors import SpaceError, missing_extra
from blackbox.space import Bool, Choice, Float, Int, Permutation, Space, as_named_space

try:
    from ConfigSpace import (
        AndConjunction,
        Configuration,
        ConfigurationSpace,
        EqualsCondition,
        InCondition,
        OrConjunction,
    )
    from ConfigSpace import hyperparameters as hp
    from ConfigSpace.types import NotSet
except ImportError as error:
    raise missing_extra("ConfigSpace", "configspace") from error

__all__ = ["Configurations", "to_config_space"]

MAX_VALUES = 20  # of a parent that is a number, which becomes a Choice
MAX_VARIABLES = 10_000  # in all branches

Path = tuple[tuple[str, Any], ...]
"""The options, from the outermost, under which a variable exists."""


class Configurations:
    """The configurations of a ConfigurationSpace as points of a Space::

        converted = Configurations(config_space)
        result = bb.minimize(lambda x: train(converted.configuration(x)), converted.space, budget=50)

    Args:
        config_space: without forbidden clauses; parents of conditions are categorical, ordinal, constant or integers of
            at most 20 values.

    Attributes:
        space: the Space. Options of parents go by their text, ordinals by their position; all else by its value.

    Raises:
        SpaceError: what a Space cannot express.
    """

    def __init__(self, config_space: ConfigurationSpace) -> None:
        if not isinstance(config_space, ConfigurationSpace):
            raise refusal("config_space", "a ConfigurationSpace", config_space)
        if config_space.forbidden_clauses:
            raise refusal("config_space", "free of forbidden clauses", config_space.forbidden_clauses[0])
        self._config_space = config_space
        parents = {parent.name for parents in config_space.parents_of.values() for parent in parents}
        self._codes = {name: _code(config_space[name], name in parents) for name in config_space}
        self._left = MAX_VARIABLES
        self.space = Space(self._branch(list(config_space), {}))

    def _branch(self, names: list[str], known: dict[str, Any]) -> dict[str, Dimension]:
        """The variables among ``names`` where others have the ``known`` values, NotSet for inactive ones."""
        known = dict(known)
        parents = {name: {p.name for p in self._config_space.parents_of[name]} for name in names}
        while absent := [name for name in names if parents[name] <= known.keys() and not self._exists(name, known)]:
            known |= dict.fromkeys(absent, NotSet)
            names = [name for name in names if name not in absent]
        variables: dict[str, Dimension] = {}
        while names:
            group = _connected(names[0], names, parents)
            names = [name for name in names if name not in group]
            root = next(name for name in group if parents[name] <= known.keys())
            variables[root] = self._variable(root, [name for name in group if name != root], known)
        return variables

    def _exists(self, name: str, known: dict[str, Any]) -> bool:
        # By vectors, as ConfigSpace itself decides: only there a value that is absent, NaN, differs from all others.
        vector = np.full(len(self._config_space), np.nan)
        for parent in self._config_space.parents_of[name]:
            if known[parent.name] is not NotSet:
                vector[self._config_space.index_of[parent.name]] = parent.to_vector(known[parent.name])
        return all(condition.satisfied_by_vector(vector) for condition in self._config_space.parent_conditions_of[name])

    def _variable(self, root: str, others: list[str], known: dict[str, Any]) -> Dimension:
        self._left -= 1
        if self._left < 0:
            raise SpaceError(f"config_space must have at most {MAX_VARIABLES} variables in all combinations of parents")
        code = self._codes[root]
        if not others:
            return code.dimension
        if not isinstance(code, _Named):
            allowed = (
                f"categorical, ordinal, constant or an integer of at most {MAX_VALUES} values, as others depend on it"
            )
            raise refusal(f"config_space[{root!r}]", allowed, self._config_space[root])
        branches = {name: self._branch(others, {**known, root: value}) for name, value in code.values.items()}
        return Choice({name: Space(branch) if branch else None for name, branch in branches.items()})

    def configuration(self, point: Mapping[str, Any]) -> Configuration:
        """The configuration of a point of the space."""
        values = {name: self._codes[name].value(entry) for name, entry in point.items()}
        return Configuration(self._config_space, values=values)

    def point(self, configuration: Mapping[str, Any]) -> dict[str, Any]:
        """The point of a configuration, such as ``config_space.get_default_configuration()`` for a start point."""
        return {name: self._codes[name].entry(value) for name, value in dict(configuration).items()}


def _connected(first: str, names: list[str], parents: Mapping[str, set[str]]) -> list[str]:
    """Of ``names`` those that conditions connect with the ``first``, in order."""
    group, grown = {first}, True
    while grown:
        more = {n for n in names if parents[n] & group or any(n in parents[member] for member in group)}
        # Two children of a parent that is known already do not depend on each other.
        grown, group = not more <= group, group | more
    return [name for name in names if name in group]


class _Plain:
    """A variable whose entries in points are the hyperparameter's values."""

    def __init__(self, dimension: Dimension) -> None:
        self.dimension = dimension

    def value(self, entry: Any) -> Any:
        return entry

    def entry(self, value: Any) -> Any:
        return value.item() if hasattr(value, "item") else value


class _Listed:
    """A variable whose entries are positions in a sequence of values."""

    def __init__(self, dimension: Dimension, values: list[Any]) -> None:
        self.dimension, self._values = dimension, values

    def value(self, entry: Any) -> Any:
        return self._values[entry]

    def entry(self, value: Any) -> Any:
        return self._values.index(value)


class _Named:
    """A Choice whose options are names of values."""

    def __init__(self, values: list[Any]) -> None:
        names = [str(value) for value in values]
        if len({*names}) < len(names) or "" in names:
            names = [f"{i}: {name}" for i, name in enumerate(names)]
        self.values: dict[str, Any] = dict(zip(names, values, strict=True))
        self._names = names
        self.dimension: Dimension = Choice(names)

    def value(self, entry: Any) -> Any:
        return self.values[entry]

    def entry(self, value: Any) -> Any:
        return self._names[list(self.values.values()).index(value)]


def _code(parameter: Any, is_parent: bool) -> _Plain | _Listed | _Named:
    name = f"config_space[{parameter.name!r}]"
    match parameter:
        case hp.CategoricalHyperparameter():
            values = list(parameter.choices)
        case hp.OrdinalHyperparameter():
            values = list(parameter.sequence)
            if not is_parent and len(values) > 1:
                return _Listed(Int(0, len(values) - 1), values)
        case hp.Constant():
            values = [parameter.value]
        case hp.IntegerHyperparameter():
            low, high = int(parameter.lower), int(parameter.upper)
            if not is_parent or high - low >= MAX_VALUES:
                return _Plain(Int(low, high, log=parameter.log))
            values = list(range(low, high + 1))
        case hp.FloatHyperparameter():
            return _Plain(Float(float(parameter.lower), float(parameter.upper), log=parameter.log))
        case _:
            raise refusal(name, "a hyperparameter of ConfigSpace", parameter)
    if is_parent:
        return _Named(values)
    try:
        return _Plain(Choice(values))
    except SpaceError:  # values that are no options
        return _Listed(Choice(range(len(values))), values)


def to_config_space(space: Space | Mapping[str, Dimension], *, seed: int | None = None) -> ConfigurationSpace:
    """A ConfigurationSpace whose configurations, as dictionaries, are the points of ``space``.

    Args:
        space: without Permutation. Bool becomes categorical; branches become conditions.
        seed: of the ConfigurationSpace.

    Raises:
        SpaceError: a Permutation, variables of one name that differ between branches, or bounds that ConfigSpace's
            rounding to 13 decimals changes.
    """
    named = as_named_space(space)
    config_space = ConfigurationSpace(seed=seed)
    paths: dict[str, list[Path]] = {}
    parameters: dict[str, Any] = {}
    _collect(named, (), parameters, paths)
    config_space.add(*parameters.values())
    conditions = [_condition(name, parameters, paths) for name in parameters if paths[name] != [()]]
    if conditions:
        config_space.add(*conditions)
    return config_space


def _collect(space: Space, path: Path, parameters: dict[str, Any], paths: dict[str, list[Path]]) -> None:
    for name, dimension in space.dimensions.items():
        parameter = _parameter(name, dimension)
        if parameters.setdefault(name, parameter) != parameter:
            raise refusal(f"space[{name!r}]", "alike in all branches, as ConfigSpace has one of each name", dimension)
        paths.setdefault(name, []).append(path)
        if isinstance(dimension, Choice):
            for option, branch in zip(dimension.options, dimension.branches, strict=True):
                if branch is not None:
                    _collect(branch, (*path, (name, option)), parameters, paths)


def _parameter(name: str, dimension: Dimension) -> Any:
    match dimension:
        case Float() | Int():
            kind = hp.UniformFloatHyperparameter if isinstance(dimension, Float) else hp.UniformIntegerHyperparameter
            try:
                parameter = kind(name, dimension.low, dimension.high, log=dimension.log)
            except ValueError as error:
                raise SpaceError(f"space[{name!r}] must be a range that ConfigSpace takes: {error}") from error
            if (parameter.lower, parameter.upper) != (dimension.low, dimension.high):
                raise refusal(f"space[{name!r}]", "of bounds with at most 13 decimals for ConfigSpace", dimension)
            return parameter
        case Bool():
            return hp.CategoricalHyperparameter(name, [False, True])
        case Choice():
            return hp.CategoricalHyperparameter(name, list(dimension.options))
    assert isinstance(dimension, Permutation)
    raise refusal(f"space[{name!r}]", "a Float, Int, Bool or Choice for ConfigSpace", dimension)


def _condition(name: str, parameters: Mapping[str, Any], paths: Mapping[str, list[Path]]) -> Any:
    """When a variable of branches is active."""
    child, short, alternatives = parameters[name], dict[str, list[Any]](), list[Any]()
    for path in paths[name]:
        parent, option = path[-1]
        if len(paths[parent]) == 1:  # it being active says the rest
            short.setdefault(parent, []).append(option)
        else:
            alternatives.append(AndConjunction(*(EqualsCondition(child, parameters[p], value) for p, value in path)))
    for parent, options in short.items():
        alternatives.append(
            EqualsCondition(child, parameters[parent], options[0])
            if len(options) == 1
            else InCondition(child, parameters[parent], options)
        )
    return alternatives[0] if len(alternatives) == 1 else OrConjunction(*alternatives)
