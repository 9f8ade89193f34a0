"""Random search: uniform in its box, and it keeps the best."""

from __future__ import annotations

import numpy as np
import pytest

import blackbox as bb
from blackbox.classic.random_search import RandomSearch


def test_points_are_uniform_in_the_box() -> None:
    strategy = RandomSearch(popsize=500, low=-2.0, high=6.0)
    state = strategy.init(bb.key(0), np.zeros(3))
    points = []
    for _ in range(8):
        points.append(strategy.ask(state))
        state = strategy.tell(state, points[-1], np.zeros(500))
    x = np.concatenate(points)
    assert x.min() >= -2.0
    assert x.max() <= 6.0
    counts = np.stack([np.histogram(column, 20, (-2.0, 6.0))[0] for column in x.T])
    chi2 = ((counts - 200.0) ** 2 / 200.0).sum(axis=1)
    assert np.all(chi2 < 43.8)  # 0.1 % of the distribution with 19 degrees of freedom lies above
    assert np.all(np.abs(np.corrcoef(x.T) - np.eye(3)) < 0.06)


def test_recommends_the_best_told_point_even_a_foreign_one() -> None:
    strategy = RandomSearch(popsize=4)
    state = strategy.init(bb.key(0), np.full(2, 0.5))
    assert np.array_equal(strategy.recommend(state), [0.5, 0.5])
    state = strategy.tell(state, strategy.ask(state), np.full(4, np.nan))
    assert np.array_equal(strategy.recommend(state), [0.5, 0.5])
    population = strategy.ask(state)
    state = strategy.tell(state, population, np.array([3.0, np.nan, 1.0, 2.0]))
    assert np.array_equal(strategy.recommend(state), population[2])
    foreign = np.array([[9.0, 9.0], [8.0, 8.0]])
    state = strategy.tell(state, foreign, np.array([0.5, 1.0]))
    assert np.array_equal(strategy.recommend(state), foreign[0])


@pytest.mark.parametrize(("settings", "name"), [({"popsize": 0}, "popsize"), ({"low": 1.0}, "low")])
def test_settings_are_checked(settings: dict[str, float], name: str) -> None:
    with pytest.raises(bb.SettingError, match=name):
        RandomSearch(**settings)
