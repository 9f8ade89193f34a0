"""All that determines an optimization: checked once, and as JSON for the journal."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal, get_args

import numpy as np

from blackbox.box import Box
from blackbox.dimensions import show
from blackbox.errors import JournalError, SettingError, SpaceError
from blackbox.kernels.noise import key
from blackbox.shell.auto import choose_method, choose_method_for, choose_method_under_noise, choose_method_with_fidelity
from blackbox.shell.constraints import AugmentedLagrangian, FeasibleFirst
from blackbox.shell.goals import Goals
from blackbox.shell.restarts import SCHEDULES, Schedule
from blackbox.shell.rungs import Fidelity
from blackbox.shell.search import Member, Plan
from blackbox.shell.told import Policy
from blackbox.space import Space, as_space, space_from_dict
from blackbox.strategy import create, find_method, methods, nearest

Direction = Literal["minimize", "maximize"]
Directions = Direction | tuple[Direction, ...]
"""One for each objective, or one for all."""

SIGMA0 = 0.2  # of the width of the unit cube: two standard deviations reach from the center almost to the faces
HOSTED_BY = {
    "evosax": ("evosax", "jax"),
    "nevergrad": ("nevergrad", "cma", "scipy"),
    "pyribs": ("ribs", "scipy", "scikit-learn"),
    "scipy": ("scipy",),
}
"""Packages whose numerics a hosted method has."""
INFINITY = "infinity"
"""The key of the object that stands for an infinite number in JSON, which has none; no text is read back as one."""
CMA_FAMILY = ("cma-es", "sep-cma-es", "lm-ma-es", "cat-cma", "lq-cma-es")  # whose popsize trades speed for globality


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is made from; with the told results it determines everything."""

    space: Space | Box
    method: str
    """A registered name, or a class's name where the strategy is not registered."""
    reason: str
    """Why this method; empty if the user named it."""
    hyperparameters: Mapping[str, Any]
    instance: Any
    """The user's own strategy, or None."""
    seed: int
    budget: int | None
    direction: Directions
    x0: tuple[float, ...]
    """Coordinates in the unit cube."""
    restarts: Schedule | None
    policy: Policy
    owner: str
    """Random name of the run, by which it knows its candidates."""
    constraints: int = 0
    objectives: int = 1
    fidelity: Fidelity | None = None
    warm: int = 0
    """Results of earlier runs that were told before all others."""
    noise: bool = False
    """Whether values of the same point differ."""

    @classmethod
    def check(
        cls, space: Any, method: Any, seed: Any, budget: Any, direction: Any, x0: Any, restarts: Any,
        policy: Policy, hyperparameters: Mapping[str, Any], parallel: float = 1, constraints: Any = 0,
        objectives: Any = 1, fidelity: Any = None, noise: Any = False,
    ) -> Settings:  # fmt: skip
        """Settings from a user's arguments; see :class:`blackbox.Optimizer`."""
        space = as_space(space)
        objectives = positive_integer("objectives", objectives)
        direction = _directions(direction, objectives)
        policy = policy._replace(sign=-1 if direction == "maximize" else 1).checked()
        if seed is None:
            seed = int.from_bytes(os.urandom(8), "little")
        elif not _is_integer(seed) or not 0 <= seed < 2**64:
            raise SettingError(f"seed must be an integer from 0 to 2**64 - 1, or None for a random one; got {seed!r}")
        if budget is not None:
            budget = positive_integer("budget", budget)
        if x0 is None:
            row = np.full(space.dimension, 0.5)
        else:
            try:
                row = space.encode(x0)
            except SpaceError as error:
                raise SpaceError(f"x0 must be a point of the space: {error}") from None
        if restarts is not None and restarts not in SCHEDULES:
            raise SettingError(f"restarts must be None or one of {', '.join(SCHEDULES)}; got {restarts!r}")
        if parallel != math.inf and (not _is_integer(parallel) or parallel < 1):
            raise SettingError(f"parallel must be an integer >= 1 or math.inf; got {parallel!r}")
        if not _is_integer(constraints) or constraints < 0:
            raise SettingError(f"constraints must be an integer >= 0, how many there are; got {constraints!r}")
        if not (fidelity is None or isinstance(fidelity, Fidelity)):
            raise SettingError(f"fidelity must be None or a Fidelity(least, most); got {show(fidelity)}")
        if fidelity is not None and (constraints or objectives > 1):
            raise SettingError("fidelity must be None with constraints or several objectives, which have no rungs")
        if not isinstance(noise, bool):
            raise SettingError(f"noise must be True or False; got {show(noise)}")
        if noise and (fidelity is not None or constraints or objectives > 1):
            raise SettingError("noise must be False with a fidelity, constraints or several objectives; got True")
        reason, instance = "", None
        if isinstance(method, str):
            if method == "auto":
                if fidelity is not None:
                    configurations = math.inf if budget is None else budget * fidelity.configurations
                    chosen = choose_method_with_fidelity(space, configurations)
                elif constraints or objectives > 1:
                    chosen = choose_method_for(objectives, space, budget)
                elif noise:
                    chosen = choose_method_under_noise(space, budget, parallel)
                else:
                    chosen = choose_method(space, budget, parallel)
                method, reason = chosen.method, chosen.reason
                if chosen.popsize is not None:
                    hyperparameters = {"popsize": chosen.popsize, **hyperparameters}
            hyperparameters = {name: _plain(value) for name, value in hyperparameters.items()}
        else:
            instance, method, hyperparameters = _given(method, hyperparameters)
        return cls(
            space, method, reason, hyperparameters, instance, int(seed), budget, direction, tuple(row.tolist()),
            restarts, policy, os.urandom(8).hex(), int(constraints), objectives, fidelity,
            noise=noise,
        )  # fmt: skip

    @property
    def goals(self) -> Goals:
        """What a result consists of."""
        signs = {"minimize": 1, "maximize": -1}
        each = (self.direction,) * self.objectives if isinstance(self.direction, str) else self.direction
        return Goals(tuple(signs[direction] for direction in each), self.constraints)

    def plan(self) -> Plan:
        """What the search starts with.

        Raises:
            SettingError: the strategy refuses its hyperparameters, or ``restarts`` does not fit it.
        """
        names = [self.method] if self.instance is not None else self.method.split("+")
        if len(names) > 2 or len(set(names)) < len(names):
            raise SettingError(f"method must be one, or two that take turns as local+global; got {self.method!r}")
        shares = [self.hyperparameters] if len(names) == 1 else self._shares(names)
        members = tuple(map(self._member, names, shares))
        return Plan(
            members, key(self.seed), np.array(self.x0), self.goals, self.fidelity, self.warm, self.noise,
            self._settled,
        )  # fmt: skip

    def _settled(self, row: Any) -> Any:
        """The row that stands for the point of ``row``, of which there may be many."""
        space: Any = self.space
        return space.encode(space.decode(row))

    def _shares(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Of the hyperparameters those that each of several methods has; SettingError for one that none has."""
        fields = [_fields(create(name)).keys() for name in names]
        for argument in self.hyperparameters:
            if not any(argument in own for own in fields):
                known = sorted(set().union(*fields))
                raise SettingError(
                    f"{self.method} has no hyperparameter {argument!r}; it has {', '.join(known)}"
                    f"{nearest(argument, known)}"
                )
        return [{k: v for k, v in self.hyperparameters.items() if k in own} for own in fields]

    def _member(self, name: str, given: Mapping[str, Any]) -> Member:
        """The method of this name with the hyperparameters that are given and those that follow from the settings."""
        strategy = _created(name, given) if self.instance is None else self.instance
        if getattr(strategy, "virtual", False):
            raise SettingError(
                f"method {name!r} trains the parameters of JAX models, with bb.evaluate in a loop of your own; "
                'for a search space take another, such as "openai-es"'
            )
        compares = getattr(strategy, "needs_values", False) or getattr(strategy, "positional", False)
        if self.fidelity is not None and compares and not hasattr(strategy, "revise"):
            raise SettingError(
                "method must be one that ranks each generation by itself, such as cma-es or cat-cma, or ego or random, "
                f"where there is a fidelity; got {name!r}, which holds on to values of other budgets"
            )
        fields = _fields(strategy)
        if self.objectives > 1 and "objectives" not in fields:
            several = [name for name, method in methods().items() if "multi-objective" in method.tags]
            raise SettingError(
                f"method must be one of {', '.join(several)} for {self.objectives} objectives; got {name!r}"
            )
        follows = {"sigma0": SIGMA0, "layout": self.space.layout, "evaluations": self.budget, "low": 0.0, "high": 1.0}
        if self.objectives > 1:
            follows["objectives"] = self.objectives
        if isinstance(self.space, Space) and given.get("layout") is None:
            follows["conditions"] = self.space.conditions
        defaults = {
            name: value
            for name, value in follows.items()
            if name in fields and given.get(name) is None and value is not None
        }
        if defaults:
            strategy = dataclasses.replace(strategy, **defaults)
        horizon = self.budget if "evaluations" in fields and given.get("evaluations") is None else None
        schedule = self._schedule(name, hasattr(strategy, "stop"), fields.keys())
        return Member(name, strategy, schedule, horizon, self._ranking(name, strategy))

    def _ranking(self, name: str, strategy: Any) -> AugmentedLagrangian | FeasibleFirst | None:
        """How the strategy is to see constraints."""
        if not self.constraints:
            return None
        if getattr(strategy, "needs_values", False):
            raise SettingError(
                "method must be one that only ranks, such as cma-es, where there are constraints; "
                f"got {name!r}, which models the values"
            )
        if getattr(strategy, "generational", False) and self.objectives == 1:
            return AugmentedLagrangian(self.constraints, self.space.dimension)
        return FeasibleFirst(self.objectives)

    def _schedule(self, method: str, stops: bool, fields: Set[str]) -> Schedule:
        """The restart schedule: the one asked for, if the strategy has what it needs, or the method's default."""
        if self.restarts is None:
            scalable = method in CMA_FAMILY and {"popsize", "sigma0"} <= fields
            return "none" if not stops else "bipop" if scalable else "same"
        if method.partition(":")[0] in HOSTED_BY and self.restarts not in ("same", "none"):
            raise SettingError(f'restarts must be None, "same" or "none" for {method}; got {self.restarts!r}')
        needs = {"ipop": {"popsize"}, "bipop": {"popsize", "sigma0"}}.get(self.restarts, set())
        if self.restarts != "none" and not (stops and needs <= fields):
            if method != self.method and stops:
                return "same"  # asked of the other one
            lacks = " or ".join(sorted(needs - fields)) if stops else "criterion to stop"
            raise SettingError(
                f'restarts must be None or "none" for {method}, which has no {lacks}; got {self.restarts!r}'
            )
        return self.restarts

    def require_same(self, space: Space | Box, given: Mapping[str, Any]) -> None:
        """SettingError unless what a user gives for a run that is resumed is what it was begun with.

        ``method="auto"`` and None stand for whatever it was.
        """
        kept = {**vars(self), **self.policy._asdict(), **self.hyperparameters}
        given = {"space": space, **given}
        if given.get("method") == "auto":
            del given["method"]
        elif not isinstance(given.get("method", ""), str):
            given |= dict(zip(("method", "hyperparameters"), _given(given["method"], {})[1:], strict=True))
        if given.get("x0") is not None:
            given["x0"] = tuple(self.space.encode(given["x0"]).tolist())
        for name, value in given.items():
            if value is not None and (name not in kept or kept[name] != _plain(value)):
                own = repr(kept[name]) if name in kept else "its default"
                raise SettingError(f"{name} must be {own} as in the journal that is resumed; got {value!r}")

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values.

        Raises:
            SettingError: an unregistered strategy, or hyperparameters that JSON cannot hold.
        """
        if self.instance is not None:
            raise SettingError(
                f"journal: the strategy {self.method} is not registered, so a journal could not make it again; offer "
                "it as an entry point of the group blackbox.strategies, or use it without a journal"
            )
        hyperparameters = {name: _to_json(value) for name, value in self.hyperparameters.items()}
        for name, value in self.hyperparameters.items():
            try:
                json.dumps(hyperparameters[name], allow_nan=False)
            except (TypeError, ValueError) as error:
                raise SettingError(f"journal: {name} cannot be kept as JSON ({error}); got {value!r}") from None
        own = ("method", "reason", "seed", "budget", "direction", "restarts", "owner")
        return {
            "space": self.space.to_dict(),
            **{name: getattr(self, name) for name in own},
            "hyperparameters": hyperparameters,
            "x0": list(self.x0),
            "policy": self.policy._asdict(),
            "fingerprint": fingerprint(self.method),
            **({"constraints": self.constraints} if self.constraints else {}),
            **({"objectives": self.objectives} if self.objectives > 1 else {}),
            **({} if self.fidelity is None else {"fidelity": self.fidelity.to_json()}),
            **({"warm": self.warm} if self.warm else {}),
            **({"noise": True} if self.noise else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """The settings that :meth:`to_json` gave.

        Raises:
            JournalError: other keys or types.
        """
        try:
            fields = {**data, "space": space_from_dict(data["space"]), "policy": Policy(**data["policy"]).checked()}
            fields |= {"x0": tuple(data["x0"]), "instance": None, "direction": _plain(data["direction"])}
            fields["hyperparameters"] = {name: _from_json(value) for name, value in data["hyperparameters"].items()}
            del fields["fingerprint"]
            if "fidelity" in fields:
                fields["fidelity"] = Fidelity(**fields["fidelity"])
            return cls(**fields)
        except (KeyError, TypeError, AttributeError, SettingError, SpaceError) as error:
            raise JournalError(f"configuration: not one of an Optimizer's: {error!r}") from error


def fingerprint(method: str) -> dict[str, str]:
    """Versions under which a run is promised to resume bit for bit."""
    from importlib.metadata import PackageNotFoundError, version

    from blackbox import __version__

    versions = {"blackbox": __version__, "numpy": np.__version__}
    for package in HOSTED_BY.get(method.partition(":")[0], ()):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def positive_integer(argument: str, value: Any) -> int:
    """``value`` as an int above 0, or SettingError."""
    if not _is_integer(value) or value < 1:
        raise SettingError(f"{argument} must be an integer >= 1; got {value!r}")
    return int(value)


def finite_number(argument: str, value: Any, *, above: float = -math.inf) -> float:
    """``value`` as a finite float, or SettingError."""
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if is_number and above < value and abs(value) <= sys.float_info.max:
        return float(value)
    allowed = "a finite number" if above == -math.inf else f"a finite number > {above:g}"
    raise SettingError(f"{argument} must be {allowed}; got {show(value)}")


def _directions(given: Any, objectives: int) -> Any:
    """``given`` as a word for all objectives or, if they are several, a tuple with one for each."""
    known = get_args(Direction)
    if isinstance(given, str) and given in known:
        return given
    if isinstance(given, list | tuple) and len(given) == objectives > 1:
        for i, direction in enumerate(given):
            if not isinstance(direction, str) or direction not in known:
                raise SettingError(f'direction[{i}] must be "minimize" or "maximize"; got {direction!r}')
        return tuple(given)
    each = f", or a sequence of {objectives} of these" if objectives > 1 else ""
    raise SettingError(f'direction must be "minimize" or "maximize"{each}; got {given!r}')


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _fields(strategy: Any) -> dict[str, Any]:
    """The defaults of a strategy's hyperparameters by name."""
    return {f.name: f.default for f in dataclasses.fields(strategy)} if dataclasses.is_dataclass(strategy) else {}


def _created(name: str, given: Mapping[str, Any]) -> Any:
    """The strategy of this name; a hyperparameter that is given as None is the default one."""
    fields = _fields(find_method(name).load())
    return create(name, **{key: value for key, value in given.items() if value is not None or key not in fields})


def _given(instance: Any, hyperparameters: Mapping[str, Any]) -> tuple[Any, str, dict[str, Any]]:
    """A user's strategy: the instance if its class is not registered, its method's name, and its hyperparameters."""
    if inspect.isclass(instance) or not all(callable(getattr(instance, f, None)) for f in ("init", "ask", "tell")):
        raise SettingError(f'method must be a name, "auto" or an instance of a strategy; got {instance!r}')
    if hyperparameters:
        names = ", ".join(hyperparameters)
        raise SettingError(f"{names}: unknown argument, or a hyperparameter of a strategy that is given ready made")
    cls = type(instance)
    own = {name: _plain(getattr(instance, name)) for name in _fields(instance)}
    given = {name: value for name, value in sorted(own.items()) if value is not None and value != ()}
    if isinstance(registered := getattr(instance, "registered", None), str):  # one of another package
        del given["name"]
        return None, registered, given
    for name, entry in methods().items():
        if entry.path == f"{cls.__module__}:{cls.__qualname__}":
            return None, name, given
    return instance, cls.__name__, given


def _plain(value: Any) -> Any:
    """NumPy's values as Python's, lists as tuples: what a strategy compares and JSON keeps."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value


def _to_json(value: Any) -> Any:
    """``value`` without infinity: ``{"infinity": 1}`` or ``{"infinity": -1}`` instead."""
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    return {INFINITY: int(math.copysign(1, value))} if isinstance(value, float) and math.isinf(value) else value


def _from_json(value: Any) -> Any:
    """What :func:`_to_json` was given, lists as tuples."""
    if isinstance(value, list):
        return tuple(_from_json(item) for item in value)
    return value[INFINITY] * math.inf if value in ({INFINITY: 1}, {INFINITY: -1}) else value
