"""A search algorithm of Ray Tune that proposes by blackbox's methods."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blackbox.dimensions import Float, show
from blackbox.errors import CheckpointError, SettingError, missing_extra
from blackbox.optimizer import Optimizer
from blackbox.shell.settings import fingerprint
from blackbox.shell.told import read_value
from blackbox.space import Space
from blackbox.whole_file import write_whole

try:
    import ray
    from ray.tune.search import Searcher
except ImportError as error:
    raise missing_extra("ray[tune]", "tune") from error

from blackbox.integrations.distributions import VARIABLES
from blackbox.integrations.ray_spaces import Codec, GivenSpace, TuneSpace

__all__ = ["BlackboxSearch"]

FORMAT = 1  # of what `save` writes
DIRECTIONS = {"min": "minimize", "max": "maximize"}
OURS = ("journal", "durability", "direction", "objectives", "constraints", "nonfinite", "allow_neg_inf", "if_told")


class BlackboxSearch(Searcher):  # type: ignore[misc]  # Ray's classes are not typed
    """Propose the configurations of trials by a method of blackbox::

        tuner = tune.Tuner(
            trainable,
            param_space={"lr": tune.loguniform(1e-5, 1e-1), "layers": tune.randint(1, 5)},
            tune_config=tune.TuneConfig(
                metric="loss", mode="min", num_samples=50, search_alg=BlackboxSearch("auto", seed=0)
            ),
        )

    Trials may end in any order, at most as many at once as ``ConcurrencyLimiter`` or ``max_concurrent_trials`` allow.
    What counts is the last value of the metric that a trial reports, also if a scheduler has stopped it; one that
    errs, or reports NaN or nothing, ranks last. No more trials are begun once the method has nothing left to do.

    The search is a function of its arguments and of the order of proposals and results. These are what Tune saves with
    the experiment, as JSON; restoring goes through them again and ends up at the same bits.

    Args:
        method: as for :class:`blackbox.Optimizer`.
        space: a Space, conditional ones included, or a dictionary with domains of Tune; None to take the Tuner's
            ``param_space``, which then must be given there.
        metric: what trials report, a name or a sequence of several (with ``mode`` given here, too); None for the
            one of the TuneConfig.
        mode: "min", "max", or a sequence with one for each metric.
        points_to_evaluate: configurations for the first trials.
        x0: a configuration to begin the search at.
        seed: as for Optimizer.
        **settings: ``restarts`` and the method's hyperparameters; ``budget``, by which methods plan, by default Tune's
            ``num_samples``; ``parallel``, by default what the ConcurrencyLimiter allows, or else the cluster's CPUs.

    Raises:
        SettingError, SpaceError: as Optimizer, and for domains that cannot be searched; for what depends on the
            Tuner, when it begins.
    """

    def __init__(
        self,
        method: Any = "auto",
        *,
        space: Space | Mapping[str, Any] | None = None,
        metric: str | Sequence[str] | None = None,
        mode: str | Sequence[str] | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] = (),
        x0: Mapping[str, Any] | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        metric = metric if metric is None or isinstance(metric, str) else list(metric)
        mode = mode if mode is None or isinstance(mode, str) else list(mode)
        modes = [mode] if isinstance(mode, str) else mode or []
        if any(m not in DIRECTIONS for m in modes):
            raise SettingError(f'mode must be "min", "max" or a sequence of these; got {mode!r}')
        if isinstance(metric, list) and (not isinstance(mode, list) or len(mode) != len(metric) or len(metric) < 2):
            raise SettingError(f"mode must be a sequence of {len(metric)}, one for each metric; got {mode!r}")
        if taken := [name for name in settings if name in OURS]:
            raise SettingError(f"{taken[0]} is no setting of BlackboxSearch")
        super().__init__(metric=metric, mode=mode)
        self._metric: Any = metric  # names that Tune's own classes read
        self._mode: Any = mode
        self._method, self._seed, self._x0, self._settings = method, seed, x0, settings
        self._points = [dict(point) for point in points_to_evaluate]
        self._codec = None if space is None else _codec(space)
        self._is_given = space is not None
        self._limit: int | None = None  # the ConcurrencyLimiter's
        self._samples: int | None = None  # Tune's num_samples
        self._optimizer: Optimizer | None = None
        self._parallel: float = math.inf
        self._log: list[list[Any]] = []  # all that was asked and told, in order
        self._trials: dict[str, Any] = {}  # by id, of those that have not ended: a candidate, or a point of the space
        self._first: list[dict[str, Any]] = []  # of points_to_evaluate those that are left
        self._saved: dict[str, Any] | None = None  # what is to go on once the space is known
        self._early: list[tuple[Mapping[str, Any], Any]] = []  # points that were added before that
        probe = Space({"x": Float(0.0, 1.0)}) if self._codec is None else self._codec.space
        objectives = len(metric) if isinstance(metric, list) else 1
        # Refuses malformed arguments, and what could not be saved, before any trial.
        Optimizer(probe, method, seed=seed, objectives=objectives, **settings).settings.to_json()

    def __getstate__(self) -> dict[str, Any]:
        saved = self._saved if self._optimizer is None else self._state(self._optimizer)
        return {**self.__dict__, "_optimizer": None, "_trials": {}, "_saved": saved}

    # ---- what Tune calls

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        self._limit = max_concurrent
        return False  # the limiter shall limit

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: Mapping[str, Any], **spec: Any
    ) -> bool:
        for name, given, own in (("metric", metric, self._metric), ("mode", mode, self._mode)):
            if given is not None and own is not None and given != own:
                raise SettingError(f"{name} must be {own!r}, as of BlackboxSearch; got {given!r} in the TuneConfig")
        self._metric, self._mode = self._metric or metric, self._mode or mode
        samples = spec.get("num_samples")
        self._samples = samples if isinstance(samples, int) and samples > 0 else None
        known, codec = self._codec, None
        if not self._is_given:
            codec = TuneSpace(config)
            if known is not None and codec.space != known.space:
                raise SettingError("param_space must be that of the search that has begun")
            self._codec = known or codec
        if self._optimizer is None and self._metric and self._mode:
            self._begin(self._saved)
        return not self._is_given

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        optimizer, codec = self._begun()
        if trial_id not in self._trials:
            if self._first:
                self._do(["try", trial_id])
            elif optimizer.stopped:
                return str(Searcher.FINISHED)
            else:
                self._do(["ask", trial_id])
        trial = self._trials[trial_id]
        return codec.config(trial if isinstance(trial, dict) else trial.x)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        self._begun()
        if trial_id in self._trials:
            self._do(["tell", trial_id, None if error or not result else self._value(result)])

    def add_evaluated_point(
        self,
        parameters: Mapping[str, Any],
        value: Any,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: Sequence[float] | None = None,
    ) -> None:
        """Tell the value of a configuration that was evaluated elsewhere; one that was pruned counts as it stood."""
        if self._codec is None or not self._metric or not self._mode:
            self._early.append((parameters, None if error else value))
        else:
            self._add(parameters, None if error else value)

    def save(self, checkpoint_path: str) -> None:
        """Write the search to a file."""
        state = self._state(self._begun()[0])
        write_whole(Path(checkpoint_path), [json.dumps(state).encode()])

    def restore(self, checkpoint_path: str) -> None:
        """Go on with the search that was saved; this one must have its arguments.

        Raises:
            CheckpointError: the file is missing or no saved search.
            SettingError: it is a search with other arguments.
        """
        try:
            state = json.loads(Path(checkpoint_path).read_text())
            if state["format"] != FORMAT or not all(isinstance(state[name], dict) for name in ("settings", "given")):
                raise ValueError(f"format {state['format']!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{checkpoint_path} is no saved BlackboxSearch: {error!r}") from error
        if self._codec is None or not self._metric or not self._mode:
            self._saved = state  # until Tune says what there is to search
        else:
            self._begin(state)

    # ---- how it is done

    def _begun(self) -> tuple[Optimizer, Codec]:
        if self._optimizer is None and self._codec is not None and self._metric and self._mode:
            self._begin(self._saved)
        if self._optimizer is None or self._codec is None:
            lacks = "a space" if self._codec is None else "metric and mode"
            raise SettingError(f"BlackboxSearch has not got {lacks}: give it here or to the Tuner")
        return self._optimizer, self._codec

    def _begin(self, state: dict[str, Any] | None) -> None:
        """A new search, or the one that was saved."""
        codec = self._codec
        assert codec is not None
        if state is None:
            given = {"budget": self._samples, "parallel": self._limit or _cpus(), "seed": self._seed, **self._settings}
        else:
            given = {**self._settings, **state["given"], "parallel": state["given"]["parallel"] or math.inf}
            if self._seed not in (None, given["seed"]):
                raise SettingError(f"seed must be {given['seed']}, as of the search that was saved; got {self._seed!r}")
        several = isinstance(self._mode, list)
        direction: Any = [DIRECTIONS[m] for m in self._mode] if several else DIRECTIONS[self._mode]
        optimizer = Optimizer(
            codec.space, self._method, x0=None if self._x0 is None else codec.point(self._x0),
            direction=direction,
            objectives=len(self._mode) if several else 1, allow_neg_inf=True, **given,
        )  # fmt: skip
        optimizer.budget = None  # num_samples is Tune's affair, also after a restore with more of them
        first = [codec.point(point) for point in self._points]
        if state is not None:
            self._require_same(optimizer, state)
        self._parallel, self._optimizer, self._first = given["parallel"], optimizer, first
        self._log, self._trials, self._saved = [], {}, None
        for entry in [] if state is None else state["log"]:
            self._do(entry)
        early, self._early = self._early, []
        for parameters, value in early:
            self._add(parameters, value)

    def _state(self, optimizer: Optimizer) -> dict[str, Any]:
        """All of the search, as JSON values."""
        parallel = None if self._parallel == math.inf else self._parallel
        return {
            "format": FORMAT,
            "fingerprint": fingerprint(optimizer.method),
            "settings": self._identity(optimizer),
            "given": {"seed": optimizer.seed, "budget": optimizer.settings.budget, "parallel": parallel},
            "log": [list(entry) for entry in self._log],
        }

    def _identity(self, optimizer: Optimizer) -> dict[str, Any]:
        settings = optimizer.settings.to_json()
        kept = {name: value for name, value in settings.items() if name not in ("owner", "fingerprint", "reason")}
        plain: dict[str, Any] = json.loads(json.dumps({**kept, "metric": self._metric}))
        return plain

    def _require_same(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        own, saved = self._identity(optimizer), state["settings"]
        for name in {**saved, **own}:
            if own.get(name) != saved.get(name):
                raise SettingError(
                    f"{name} must be {saved.get(name)!r}, as of the search that was saved; got {own.get(name)!r}"
                )
        if state["fingerprint"] != (now := fingerprint(optimizer.method)):
            warnings.warn(
                f"the search was saved under {state['fingerprint']} and goes on under {now}: not necessarily bit for "
                "bit",
                RuntimeWarning,
                stacklevel=4,
            )

    def _add(self, parameters: Mapping[str, Any], value: Any) -> None:
        _, codec = self._begun()
        self._do(["add", codec.point(parameters), self._numbers(value)])

    def _value(self, result: Mapping[str, Any]) -> Any:
        if isinstance(self._metric, list):
            return self._numbers([result.get(name) for name in self._metric])
        return self._numbers(result.get(self._metric))

    def _numbers(self, value: Any) -> Any:
        """A value as numbers that JSON holds; None where there is none."""
        if isinstance(self._metric, list):
            given = [None] * len(self._metric) if value is None else value
            values = [self._number(name, v) for name, v in zip(self._metric, given, strict=True)]
            return None if None in values else values
        return self._number(self._metric, value)

    @staticmethod
    def _number(name: Any, value: Any) -> float | None:
        number = read_value(f"metric {name!r}", value)
        return None if math.isnan(number) else number

    def _do(self, entry: list[Any]) -> None:
        """One entry of the log: what it says, and then the entry itself."""
        optimizer, _ = self._begun()
        what, of = entry[0], entry[1]
        if what == "ask":
            self._trials[of] = optimizer.ask()
        elif what == "try":
            self._trials[of] = self._first.pop(0)
        elif what == "add":
            optimizer.tell(of, math.nan if entry[2] is None else entry[2])
        else:
            trial = self._trials[of]
            if entry[2] is not None or isinstance(trial, dict):
                optimizer.tell(trial, math.nan if entry[2] is None else entry[2])
            else:
                optimizer.fail(trial, "the trial ended without a value")
            del self._trials[of]
        self._log.append(entry)


def _codec(space: Any) -> Codec:
    if isinstance(space, Space):
        return GivenSpace(space)
    if isinstance(space, Mapping) and any(isinstance(value, VARIABLES) for value in space.values()):
        return GivenSpace(Space(space))
    if isinstance(space, Mapping):
        return TuneSpace(space)
    raise SettingError(f"space must be a Space or a dictionary of variables or domains of Tune; got {show(space)}")


def _cpus() -> float:
    """Trials of one CPU that the cluster could run at once; any number where there is none yet."""
    return max(1, int(ray.cluster_resources().get("CPU", 1))) if ray.is_initialized() else math.inf
