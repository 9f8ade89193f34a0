"""Test problems, from analytic functions to hyperparameter search; imported as ``blackbox.problems``.

``entries()`` lists them, ``load(name)`` makes one with its search space::

    objective, space = load("bbob-f8-d5")        # function 8 in 5 dimensions; "bbob-f8-d5-i2" is its second instance
    objective, space = load("bbob-noisy-f107-d5")  # noise keyed by the point: the same point, the same value
    objective, space = load("rastrigin-d20")   # of consensus-based optimization
    objective, space = load("svc_digits")

The modules offer more: :mod:`blackbox.problems.bbob` and its noisy and mixed-integer suites,
:mod:`blackbox.problems.landscapes`, :mod:`blackbox.problems.densities`, :mod:`blackbox.problems.recovery`,
:mod:`blackbox.problems.hpo`, :mod:`blackbox.problems.control`, :mod:`blackbox.problems.bin_packing`; for neuroevolution
:mod:`blackbox.problems.environments` (gymnax, brax and a protocol for a user's own), :mod:`blackbox.problems.maze`,
:mod:`blackbox.problems.policies`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from blackbox.errors import SettingError, missing_extra

_BBOB = re.compile(r"(bbob|bbob-noisy|bbob-mixint)-f(\d{1,3})-d(\d{1,5})(?:-i(\d{1,9}))?")
_LANDSCAPE = re.compile(r"(.+)-d(\d{1,5})")
_CONTROL = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0")


class Entry(NamedTuple):
    """One line of the list of problems."""

    name: str
    """For :func:`load`, with numbers for the function N and the dimension D."""
    suite: str
    title: str
    variables: str
    """How many, and of which kinds."""


def entries() -> tuple[Entry, ...]:
    """All problems that :func:`load` makes."""
    from blackbox.problems import bbob, hpo
    from blackbox.problems.control import ControlTask
    from blackbox.problems.landscapes import LANDSCAPES

    found = [Entry(f"bbob-f{n}-dD", "bbob", title, "D real") for n, (title, *_) in bbob.FUNCTIONS.items()]
    title = "ten of these functions under Gaussian, uniform and Cauchy noise, N from 101 to 130"
    found.append(Entry("bbob-noisy-fN-dD", "bbob-noisy", title, "D real, 2 to 40"))
    title = "the same 24 functions with integer variables"
    found.append(Entry("bbob-mixint-fN-dD", "bbob-mixint", title, "D, four of five integer; a multiple of 5"))
    for name, form in LANDSCAPES.items():
        d = str(form.least) if isinstance(form.minima, tuple) else "D"
        found.append(Entry(f"{name}-d{d}", "landscapes", form.title, f"{d} real"))
    for name in hpo.tasks():
        task = hpo.task(name)
        loss = {"error": "error rate", "log_loss": "log loss", "mse": "mean squared error"}[task.loss]
        title = f"{loss}, {task.folds}-fold cross-validation on {task.data.replace('_', ' ')}"
        found.append(Entry(name, "hpo", title, f"{len(task.space)}: {', '.join(task.space.names)}"))
    for name in _CONTROL:
        policy = ControlTask(name).policy
        weights = f"{policy.dimension} weights of a tanh network, {'-'.join(map(str, policy.sizes))}"
        found.append(Entry(name, "control", "minus the mean return of three episodes", weights))
    return tuple(found)


def load(name: str) -> tuple[Callable[[Any], Any], Any]:
    """The problem of that name, a function of a point, and its search space.

    Raises:
        SettingError: an unknown name, or a dimension or instance outside its range.
        MissingExtra: the problem needs a package that is not installed.
    """
    if name in _CONTROL:
        _require("gymnasium", "gymnasium", "rl")
        from blackbox.problems.control import ControlTask

        control = ControlTask(name)
        return control, control.box()
    if match := _BBOB.fullmatch(name):
        function, dimension, instance = (int(number or 1) for number in match.groups()[1:])
        if match[1] == "bbob":
            from blackbox.problems.bbob import BBOB
            from blackbox.space import Box

            continuous = BBOB(function, dimension, instance)
            return continuous, Box(*continuous.bounds, dimension=dimension)
        if match[1] == "bbob-noisy":
            from blackbox.problems.bbob_noisy import KeyedByPoint, NoisyBBOB
            from blackbox.space import Box

            noisy = NoisyBBOB(function, dimension, instance)
            return KeyedByPoint(noisy), Box(*noisy.bounds, dimension=dimension)
        from blackbox.problems.bbob_mixint import MixedBBOB

        mixed = MixedBBOB(function, dimension, instance)
        return mixed, mixed.space
    from blackbox.problems import hpo
    from blackbox.problems.landscapes import LANDSCAPES, Landscape

    if (match := _LANDSCAPE.fullmatch(name)) and match[1] in LANDSCAPES:
        landscape = Landscape(match[1], int(match[2]))
        return landscape, landscape.box()
    if name not in hpo.tasks():
        raise SettingError(
            f"name must be bbob-fN-dD, bbob-noisy-fN-dD, bbob-mixint-fN-dD, one of these with -iI, NAME-dD with one of "
            f"{', '.join(LANDSCAPES)} as NAME, or one of {', '.join([*hpo.tasks(), *_CONTROL])}; got {name!r}"
        )
    _require("sklearn", "scikit-learn", "hpo")
    task = hpo.task(name)
    return task, task.space


def _require(module: str, package: str, extra: str) -> None:
    """MissingExtra now, without the import: an optimizer would take it for the failure of each evaluation."""
    if importlib.util.find_spec(module) is None:
        raise missing_extra(package, extra)
