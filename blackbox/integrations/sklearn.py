"""A search over the parameters of an estimator, as scikit-learn's ``RandomizedSearchCV`` is one."""

from __future__ import annotations

import copy
import math
import numbers
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from blackbox.errors import SettingError, missing_extra
from blackbox.integrations.distributions import Parameters
from blackbox.optimizer import Optimizer
from blackbox.space import Space

try:
    from sklearn.exceptions import FitFailedWarning
    from sklearn.model_selection._search import BaseSearchCV
    from sklearn.utils import check_random_state
    from sklearn.utils._param_validation import HasMethods, Interval
except ImportError as error:
    raise missing_extra("scikit-learn", "sklearn") from error

__all__ = ["BlackboxSearchCV"]

MIN_FAILURES = 5  # candidates without any fit that works after which the estimator is taken for wrong


class BlackboxSearchCV(BaseSearchCV):  # type: ignore[misc]
    """Search for parameters by cross-validation, each batch of candidates proposed by what the former ones scored.

    All that holds for scikit-learn's searches holds: ``best_params_``, ``best_estimator_``, ``cv_results_``,
    pipelines, scoring by several metrics. Every candidate is scored on the same splits, also those of a splitter that
    shuffles anew at each call. Candidates whose fits fail (``error_score=nan``) rank last.

    Args:
        estimator: to be fitted with each candidate's parameters.
        space: a Space; or a dictionary from the name of a parameter to a variable, a list, or a distribution of
            scipy.stats; or a list of such dictionaries (see :mod:`blackbox.integrations.distributions`). Parameters
            of inactive branches keep the estimator's values.
        method: as for :class:`blackbox.Optimizer`.
        n_iter: candidates in all.
        batch_size: candidates that are fitted at once, with ``n_jobs``; None takes a generation of the method.
        random_state: integer, RandomState, or None for NumPy's global one; decides the candidates.
        settings: dictionary of further arguments of Optimizer: ``x0``, ``restarts``, the method's hyperparameters.
        scoring, n_jobs, refit, cv, verbose, pre_dispatch, error_score, return_train_score: as for
            RandomizedSearchCV. With several metrics ``refit`` names the one that is optimized.

    Attributes:
        optimizer_: the Optimizer, all told; a copy through pickle has none.
    """

    _parameter_constraints: Mapping[str, Any] = {
        **BaseSearchCV._parameter_constraints,
        "space": [Space, dict, list, tuple],
        "method": [str, HasMethods(["init", "ask", "tell"])],
        "n_iter": [Interval(numbers.Integral, 1, None, closed="left")],
        "batch_size": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
        "settings": [dict, None],
    }

    def __init__(
        self,
        estimator: Any,
        space: Any,
        *,
        method: Any = "auto",
        n_iter: int = 50,
        batch_size: int | None = None,
        random_state: Any = None,
        settings: dict[str, Any] | None = None,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: Any = "2*n_jobs",
        error_score: Any = np.nan,
        return_train_score: bool = False,
    ) -> None:
        super().__init__(
            estimator=estimator,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.space = space
        self.method = method
        self.n_iter = n_iter
        self.batch_size = batch_size
        self.random_state = random_state
        self.settings = settings

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "optimizer_"}

    def _run_search(self, evaluate_candidates: Callable[..., Any], *, callback_ctx: Any = None) -> None:
        parameters = Parameters(copy.deepcopy(self.space))
        if isinstance(self.scoring, list | tuple | set | dict) and not isinstance(self.refit, str):
            raise SettingError(
                f"refit must name the metric to be optimized where scoring has several; got {self.refit!r}"
            )
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.optimizer_ = optimizer = Optimizer(
            parameters.space,
            self.method,
            seed=seed,
            budget=self.n_iter,
            direction="maximize",
            **{"parallel": self.batch_size or self._jobs(), **(self.settings or {})},
        )
        splitter = _SameSplits(self._checked_cv_orig)
        search = None
        if callback_ctx is not None:
            search = callback_ctx.subcontext(task_name="search", max_subtasks=None).call_on_fit_task_begin(
                estimator=self
            )
        self._lost: list[dict[str, Any]] = []  # candidates of batches in which every fit failed
        self._table: tuple[list[Any], int, list[Any], Any] | None = None  # what the last table was made of
        results: dict[str, Any] = {}
        try:
            while optimizer.left:
                due = self.batch_size or optimizer.left_in_generation or optimizer.popsize
                candidates = optimizer.ask(int(min(due, optimizer.left)))
                points = [parameters.of(candidate.x) for candidate in candidates]
                with _Batch(self, search, len(points)) as options:
                    found = self._evaluated(points, evaluate_candidates, cv=splitter, **options)
                results = found or results
                with warnings.catch_warnings():  # scikit-learn has warned of failed fits
                    warnings.simplefilter("ignore", RuntimeWarning)
                    optimizer.tell(candidates, self._scores(found, len(points)))
            if self._lost and self._table is not None:
                results.update(self._format_results(*self._table))
        finally:
            del self._lost, self._table
        if search is not None:
            search.call_on_fit_task_end(estimator=self)

    def _jobs(self) -> int:
        """How many fits there are at once."""
        jobs = 1 if self.n_jobs is None else self.n_jobs
        return jobs if jobs > 0 else os.cpu_count() or 1

    def _evaluated(self, points: list[dict[str, Any]], evaluate: Callable[..., Any], **options: Any) -> dict[str, Any]:
        """scikit-learn's table of results so far; empty if every fit failed."""
        try:
            results: dict[str, Any] = evaluate(points, **options)
            return results
        except ValueError as error:
            # scikit-learn gives up where all fits of one call fail; of a small batch that says little.
            if "fits failed" not in str(error) or isinstance(self.error_score, str):
                raise
            self._lost += points
            if self.optimizer_.best is None and (len(self._lost) >= MIN_FAILURES or not self.optimizer_.left):
                raise
            warnings.warn(str(error), FitFailedWarning, stacklevel=2)
            return {}

    def _scores(self, results: dict[str, Any], count: int) -> list[float | None]:
        """The mean scores of the last ``count`` candidates that were evaluated, None where it is not finite."""
        if not results:
            return [None] * count
        metric = "score" if "mean_test_score" in results else self.refit
        if f"mean_test_{metric}" not in results:
            raise SettingError(f"refit must name the metric to be optimized; got {self.refit!r}")
        end = len(results["params"]) - len(self._lost)
        scores = results[f"mean_test_{metric}"][end - count : end].tolist()
        return [score if math.isfinite(score) else None for score in scores]

    def _format_results(
        self, candidate_params: list[Any], n_splits: int, out: list[Any], more_results: Any = None
    ) -> dict[str, Any]:
        """Add to the rows of scikit-learn those of lost batches, at the end, without scores."""
        self._table = (candidate_params, n_splits, out, more_results)
        lost = [_without_scores(out[0]) for _ in self._lost for _ in range(n_splits)]
        table: dict[str, Any] = super()._format_results(
            [*candidate_params, *self._lost], n_splits, [*out, *lost], more_results
        )
        return table


class _Batch:
    """The context that scikit-learn's callbacks see around a batch: as options of ``evaluate_candidates``."""

    def __init__(self, estimator: BlackboxSearchCV, search: Any, count: int) -> None:
        self._estimator = estimator
        self._context = None
        if search is not None:
            tasks = {"max_subtasks": count * estimator.n_splits_, "sequential_subtasks": False}
            self._context = search.subcontext(task_name="batch", **tasks)

    def __enter__(self) -> dict[str, Any]:
        if self._context is None:
            return {}
        return {"callback_ctx": self._context.call_on_fit_task_begin(estimator=self._estimator)}

    def __exit__(self, *_: object) -> None:
        if self._context is not None:
            self._context.call_on_fit_task_end(estimator=self._estimator)


class _SameSplits:
    """A splitter whose splits stay those of its first call."""

    def __init__(self, splitter: Any) -> None:
        self._splitter = splitter
        self._splits: list[Any] | None = None

    def split(self, *arguments: Any, **keywords: Any) -> list[Any]:
        if self._splits is None:
            self._splits = list(self._splitter.split(*arguments, **keywords))
        return self._splits


def _without_scores(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome of a fit that failed, in the form of one that did not."""

    def without(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: without(entry) for name, entry in value.items()}
        return math.nan if isinstance(value, numbers.Number) else value

    return {name: without(value) for name, value in outcome.items()}
