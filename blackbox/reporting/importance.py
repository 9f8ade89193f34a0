"""Which variables the values of a run depend on.

With scikit-learn: permutation importance (Breiman 2001) of a random forest, on points that the forest has not seen.
Without, or for more than 60 numbers: the absolute rank correlation of Spearman (1904). Both look at the ranks of the
values, so that a few huge ones do not decide, and both describe the points that the search has chosen, which are no
fair sample of the space.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.reporting.axes import Axis, axes
from blackbox.reporting.report import Report, coordinates

if TYPE_CHECKING:
    from jaxtyping import Float

LEAST = 12  # evaluations below which nothing can be said
MOST = 1000  # evaluations that are looked at, evenly spaced in time
MOST_COLUMNS = 60  # numbers of a point, above which shuffling each one takes too long
FOLDS, TREES, SHUFFLES = 4, 40, 4


class Importance(NamedTuple):
    """How much each variable matters, the most important first."""

    names: list[str]
    scores: Float[np.ndarray, "k"]
    spread: Float[np.ndarray, "k"] | None
    """Standard deviation of the scores over folds and shuffles; None for correlations."""
    label: str
    """What a score is."""
    note: str
    """From how many evaluations, and how far to trust it."""


@functools.lru_cache(maxsize=4)
def importance(report: Report) -> Importance | None:
    """The importance of a run's variables; None where fewer than 12 evaluations or two values are there."""
    chosen = np.flatnonzero(report.is_ok)
    if len(chosen) > MOST:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MOST).astype(int)]
    values, found = report.values[chosen], axes(report.settings.space)
    if len(values) < LEAST or len(np.unique(values)) < 2 or not found:
        return None
    points = [coordinates(report.evaluations[i].candidate.x) for i in chosen.tolist()]
    numbers = np.array([[axis.number(point) for axis in found] for point in points])
    method = _permutation if len(found) <= MOST_COLUMNS and _has_sklearn() else _correlation
    return method(found, numbers, rank(values))


def _has_sklearn() -> bool:
    try:
        import sklearn  # noqa: F401
    except ImportError:
        return False
    return True


def rank(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Ranks from 0 on; equal values share their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: Float[np.ndarray, "n"] = (ends - (counts + 1) / 2.0)[inverse]
    return mean


def _permutation(axes: list[Axis], numbers: Float[np.ndarray, "n k"], ranks: Float[np.ndarray, "n"]) -> Importance:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    below = np.array([axis.low - 0.1 * (axis.high - axis.low) - 1.0 for axis in axes])
    matrix = np.where(np.isnan(numbers), below, numbers)  # absent is a value that a tree can split off
    target = ranks / len(ranks)
    samples, fits = [], []
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(matrix):
        forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=0).fit(matrix[train], target[train])
        found = permutation_importance(forest, matrix[test], target[test], n_repeats=SHUFFLES, random_state=0)
        samples.append(found.importances)
        fits.append(forest.score(matrix[test], target[test]))
    losses = np.concatenate(samples, axis=1)
    owners = np.array([axis.name for axis in axes])
    names = list(dict.fromkeys(owners.tolist()))
    by_name = np.array([losses[owners == name].sum(axis=0) for name in names])
    fit = float(np.mean(fits))
    trust = "" if fit >= 0.3 else ": it explains little, so do not rely on this"
    return _sorted(
        names,
        by_name.mean(axis=1),
        by_name.std(axis=1),
        "loss of R² when the variable is shuffled",
        f"permutation importance, random forest on {len(ranks)} evaluations, R² = {fit:.2f} on unseen ones{trust}",
    )


def _correlation(axes: list[Axis], numbers: Float[np.ndarray, "n k"], ranks: Float[np.ndarray, "n"]) -> Importance:
    scores = dict.fromkeys((axis.name for axis in axes), 0.0)
    for axis, column in zip(axes, numbers.T, strict=True):
        active = ~np.isnan(column)
        columns = [column] if axis.options is None else [column == i for i in range(len(axis.options))]
        for numeric in columns:
            a, b = rank(numeric[active].astype(float)), rank(ranks[active])
            if len(a) >= LEAST and np.ptp(a) > 0 and np.ptp(b) > 0:
                scores[axis.name] = max(scores[axis.name], abs(float(np.corrcoef(a, b)[0, 1])))
    return _sorted(
        list(scores),
        np.array(list(scores.values())),
        None,
        "|ρ|, Spearman's rank correlation with the value",
        f"over {len(ranks)} evaluations; sees monotone effects only (scikit-learn, for up to {MOST_COLUMNS} numbers, "
        "sees more)",
    )


def _sorted(names: list[str], scores: Any, spread: Any, label: str, note: str) -> Importance:
    order = np.argsort(-scores, kind="stable")
    ordered = None if spread is None else spread[order]
    return Importance([names[i] for i in order], scores[order], ordered, label, note)
