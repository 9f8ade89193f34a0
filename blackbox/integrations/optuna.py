"""A sampler of Optuna that proposes by blackbox's methods, and converters of search spaces."""

from __future__ import annotations

import hashlib
import math
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blackbox.dimensions import Dimension, Float
from blackbox.errors import SettingError, missing_extra
from blackbox.space import Space, as_space

try:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler, RandomSampler
    from optuna.storages import BaseStorage, InMemoryStorage
    from optuna.study import Study, StudyDirection
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise missing_extra("optuna", "optuna") from error

from blackbox.integrations.optuna_course import ATTRIBUTE, Course, Ended
from blackbox.integrations.optuna_spaces import GivenSpace, searchable, to_distributions, to_space

__all__ = ["BlackboxSampler", "to_distributions", "to_space"]

PROBE = GivenSpace(Space({"x": Float(0.0, 1.0)}))  # stands in for a space that is not known yet
ATTEMPTS = 10  # at a member that no other process takes at the same time


class BlackboxSampler(BaseSampler):
    """Propose trials by a method of blackbox::

        study = optuna.create_study(sampler=BlackboxSampler("cma-es", seed=0))

    The method searches the parameters that all completed trials have in common, or, from the first trial on, those of
    ``space``, conditional ones included; other parameters come from ``independent_sampler``. Nothing but the trials
    is kept: a study in a storage goes on with a new sampler of the same arguments as it would have with the old one,
    and several processes with such samplers are one search. Running trials keep their places in it.

    Failed and pruned trials rank last, and before them infeasible ones (:meth:`optuna.trial.Trial.set_constraint`)
    by the sum of their violations. Studies have one objective.

    Args:
        method: as for :class:`blackbox.Optimizer`.
        seed: likewise; None takes one from the study, the same in all its processes.
        space: the Space of all parameters, of variables that Optuna has (no Permutation); None to infer it.
        x0: start point, a dictionary from name to value.
        independent_sampler: by default Optuna's RandomSampler.
        constraints_func: from a finished trial to a sequence of numbers that are to be <= 0, for versions of Optuna
            without ``set_constraint``.
        **settings: ``budget`` (for "auto", and methods that plan by it), ``restarts`` and the method's
            hyperparameters.

    Raises:
        SettingError, SpaceError: as Optimizer; for what depends on the study, with its second trial.
    """

    def __init__(
        self,
        method: Any = "auto",
        *,
        seed: int | None = None,
        space: Space | Mapping[str, Dimension] | None = None,
        x0: Mapping[str, Any] | None = None,
        independent_sampler: BaseSampler | None = None,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
        **settings: Any,
    ) -> None:
        self._given = None
        if space is not None:
            named = as_space(space)
            if not isinstance(named, Space):
                raise SettingError(f"space must be a Space, whose variables have names; got {named!r}")
            self._given = GivenSpace(named)
        self._method, self._seed, self._x0, self._settings = method, seed, x0, settings
        # Refuses malformed arguments before any trial.
        Course(self._given or PROBE, method, seed or 0, "minimize", x0 if self._given else None, settings)
        self._independent = independent_sampler or RandomSampler(seed=None if seed is None else seed % 2**32)
        self._constraints_func = constraints_func
        self._studies: weakref.WeakKeyDictionary[BaseStorage, dict[int, _Study]] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_studies", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._studies, self._lock = weakref.WeakKeyDictionary(), threading.RLock()

    def reseed_rng(self) -> None:
        self._independent.reseed_rng()  # all else is a function of the trials

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self._given is not None:
            return dict(self._given.distributions)
        with self._lock:
            return self._study(study).common(_trials(study))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._raise_error_if_multi_objective(study)
        with self._lock:
            trials, skip = _trials(study), 0
            course = self._course(study, trials, search_space)
            if course is None:
                return {}
            course.take_in(trials)
            for _ in range(ATTEMPTS):
                kept, params = course.propose(trials, trial.number, skip)
                study._storage.set_trial_system_attr(trial._trial_id, ATTRIBUTE, kept)
                if isinstance(study._storage, InMemoryStorage):
                    break
                trials = _trials(study)  # another process may have taken the same member meanwhile
                rivals = [t.number for t in trials if t.system_attrs.get(ATTRIBUTE) == kept]
                if rivals == [trial.number]:
                    break
                skip = sum(number < trial.number for number in rivals)
            return {name: value for name, value in params.items() if name in search_space}

    def _study(self, study: Study) -> _Study:
        return self._studies.setdefault(study._storage, {}).setdefault(study._study_id, _Study())

    def _course(
        self, study: Study, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution]
    ) -> Course | None:
        """The search over a space; the one in use, if it is of that space. None where there is nothing to search."""
        mine = self._study(study)
        if self._given is not None:
            search_space = dict(self._given.distributions)
        if mine.course is None or mine.course.codec.distributions != search_space:
            codec = self._given or searchable(search_space)
            if codec is None:
                return None
            direction: Any = "maximize" if study.direction == StudyDirection.MAXIMIZE else "minimize"
            seed = _seed(study, trials) if self._seed is None else self._seed
            mine.course = Course(codec, self._method, seed, direction, self._x0, self._settings)
        return mine.course

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self._raise_error_if_multi_objective(study)
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._independent.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        if self._constraints_func is not None and state in (TrialState.COMPLETE, TrialState.PRUNED):
            violations = [float(value) for value in self._constraints_func(trial)]
            if any(map(math.isnan, violations)):
                raise SettingError("constraints_func must not return NaN")
            study._storage.set_trial_system_attr(trial._trial_id, "constraints", violations)
        self._independent.after_trial(study, trial, state, values)


class _Study:
    """What a sampler knows of a study."""

    def __init__(self) -> None:
        self.course: Course | None = None
        self._ended = Ended()
        self._common: dict[str, BaseDistribution] | None = None

    def common(self, trials: list[FrozenTrial]) -> dict[str, BaseDistribution]:
        """The distributions that all completed trials share and that leave a choice, in the order of names."""
        for trial in self._ended.take(trials):
            if trial.state == TrialState.COMPLETE:
                known, met = self._common, trial.distributions
                shared = met if known is None else {name: d for name, d in known.items() if met.get(name) == d}
                self._common = {name: d for name, d in sorted(shared.items()) if not d.single()}
        return dict(self._common or {})


def _trials(study: Study) -> list[FrozenTrial]:
    """All trials, those that a pruner hides from samplers included, as they are now."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


def _seed(study: Study, trials: list[FrozenTrial]) -> int:
    """A seed that all processes of a study agree on, and other studies do not share."""
    begin = trials[0].datetime_start if trials else None
    text = f"{study.study_name} {begin.isoformat(timespec='seconds') if begin else ''}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
