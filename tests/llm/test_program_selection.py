"""Who is a parent, and by which operator: distributions of islands and clusters, the bandit, the archive."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

import blackbox as bb
from blackbox.draws import Draws
from blackbox.errors import SettingError
from blackbox.llm.program import Bandit
from blackbox.llm.program import islands as of_islands
from blackbox.llm.program.bandit import Arm, pull
from blackbox.llm.program.elites import cell, features, insert
from blackbox.problems.bin_packing import BEST_FIT


def draws(i: int, seed: int = 0) -> Draws:
    return Draws(bb.key(seed), 0, i)


# ---- islands


def test_parents_are_drawn_as_the_formulas_say() -> None:
    """Against a direct transcription: softmax of scores over clusters, of lengths within them."""
    rows = [(1.0, 3.0), (2.0, 2.0), (1.0, 3.0), (5.0, 5.0), (2.5, 2.5)]
    lengths = [10, 20, 30, 5, 8]
    heat = 0.7
    groups = [[0, 2], [1], [3], [4]]
    assert of_islands.clusters(rows) == groups
    means = np.array([2.0, 2.0, 5.0, 2.5])
    unit = of_islands.spread(means.tolist())
    assert unit == 0.5  # the first of the worse half that is worse than the best
    cluster = np.exp(-means / (heat * unit))
    cluster /= cluster.sum()
    within = np.exp([-0.0, -1.0])
    expected = np.array(
        [cluster[0] * within[0] / within.sum(), cluster[1], cluster[0] * within[1] / within.sum(), *cluster[2:]]
    )
    count, n = Counter(of_islands.parent(rows, lengths, heat, draws(i)) for i in range(2000)), 2000
    for i, share in enumerate(expected):
        assert count[i] / n == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n) + 1e-3)


def test_probabilities_have_no_scale_and_bear_extremes() -> None:
    scores = [1.0, 1.5, 2.0, 7.0]
    once = of_islands.cluster_probabilities(scores, 0.5)
    scaled = of_islands.cluster_probabilities([100 + 1000 * score for score in scores], 0.5)
    assert scaled == pytest.approx(once)
    assert sum(once) == pytest.approx(1)
    assert of_islands.cluster_probabilities([3.0, 3.0], 0.5) == [0.5, 0.5]
    assert of_islands.cluster_probabilities([0.0, 1e300, 1e300], 1e-300)[0] == 1.0
    assert of_islands.length_probabilities([7]) == [1.0]
    assert of_islands.length_probabilities([3, 9])[0] == pytest.approx(1 / (1 + math.exp(-1)))


def test_temperature_falls_and_is_raised_again() -> None:
    values = [of_islands.temperature(n, 0.5, 10) for n in range(21)]
    assert values[0] == values[10] == values[20] == 0.5
    assert all(a > b > 0 for a, b in itertools.pairwise(values[:10]))


def test_the_weaker_half_begins_again() -> None:
    assert of_islands.weaker_half([3.0, 1.0, 2.0, math.inf]) == [0, 3]
    assert of_islands.weaker_half([3.0, 1.0, 2.0]) == [0]
    assert of_islands.weaker_half([1.0]) == []


# ---- the bandit


def regret(bandit: Bandit, means: dict[str, float], turns: int, seed: int) -> float:
    arms: dict[str, Arm] = {}
    weights, lost = dict.fromkeys(means, 1.0), 0.0
    for turn in range(turns):
        decide = draws(turn, seed)
        name = bandit.choose(arms, weights, decide)
        lost += max(means.values()) - means[name]
        arms = bandit.update(arms, [(name, float(decide.uniform() < means[name]), 0.0)])
    return lost / turns


def test_the_bandit_loses_less_than_uniform_choices() -> None:
    means = {"a": 0.1, "b": 0.2, "c": 0.8, "d": 0.1}
    bandit = Bandit(exploration=0.3, decay=0.99)
    uniform = np.mean([max(means.values()) - mean for mean in means.values()])
    assert np.mean([regret(bandit, means, 300, seed) for seed in range(3)]) < 0.5 * uniform
    assert np.mean([regret(Bandit(epsilon=1.0), means, 300, seed) for seed in range(3)]) == pytest.approx(
        uniform, abs=0.05
    )


def test_the_index_is_that_of_ucb1() -> None:
    arms = {"a": Arm(10, 4.0, 0.0), "b": Arm(5, 1.0, 0.0)}
    values = Bandit(exploration=1.0).indices(arms, {"a": 1.0, "b": 1.0, "new": 1.0})
    assert values["new"] == math.inf
    assert values["a"] == pytest.approx(1.0 + math.sqrt(2 * math.log(15) / 10))  # means in units of the best
    assert values["b"] == pytest.approx(0.5 + math.sqrt(2 * math.log(15) / 5))


def test_of_equal_gains_the_cheaper_arm_is_worth_more() -> None:
    arms = {"cheap": Arm(10, 5.0, 10.0), "dear": Arm(10, 5.0, 100.0), "middle": Arm(10, 5.0, 20.0)}
    weights = dict.fromkeys(arms, 1.0)
    values = Bandit(exploration=0.0, cost=0.5).indices(arms, weights)
    assert values["cheap"] == values["middle"] == 1.0
    assert values["dear"] == pytest.approx(0.5 + 0.5 * 0.2)
    assert len(set(Bandit(exploration=0.0, cost=0.0).indices(arms, weights).values())) == 1


def test_pulls_under_way_keep_the_mean_and_old_ones_fade() -> None:
    arms = {"a": Arm(4.0, 2.0, 8.0)}
    assert pull(arms, "a") == {"a": Arm(5.0, 2.5, 10.0)}
    assert pull(arms, "b")["b"] == Arm(1.0, 0.0, 0.0)
    assert Bandit(decay=0.5).update(arms, [("b", 1.0, 3.0)]) == {"a": Arm(2.0, 1.0, 4.0), "b": Arm(1.0, 1.0, 3.0)}
    with pytest.raises(SettingError, match="epsilon must be"):
        Bandit(epsilon=2.0)


def test_arms_without_weight_are_never_chosen() -> None:
    chosen = {Bandit().choose({}, {"a": 1.0, "b": 0.0, "c": 2.0}, draws(i)) for i in range(50)}
    assert chosen == {"a", "c"}


def test_weighted_draws_have_their_shares() -> None:
    count = Counter(draws(i).weighted("abc", (1.0, 0.0, 3.0)) for i in range(1000))
    assert count["b"] == 0
    assert count["c"] / 1000 == pytest.approx(0.75, abs=0.05)


# ---- the archive


def test_the_archive_keeps_the_best_of_each_cell() -> None:
    scores = {1: 5.0, 2: 4.0, 3: 6.0}
    archive: dict[tuple[int, ...], int] = {}
    for number in (1, 2, 3):
        archive = insert(archive, (0, 1), number, scores)
    assert archive == {(0, 1): 2}
    assert insert(archive, (1, 1), 3, scores) == {(0, 1): 2, (1, 1): 3}
    assert cell((0.0, 0.999, 1.0, -3.0, 7.0), 10) == (0, 9, 9, 0, 9)


def test_features_are_length_and_unlikeness() -> None:
    longer = BEST_FIT.replace("-left", "-left + np.sqrt(bins) * np.exp(item)")
    first, second = features(BEST_FIT, BEST_FIT, 80), features(longer, BEST_FIT, 80)
    assert first[1] == 0
    assert 0 < first[0] < second[0] < 1
    assert 0 < second[1] <= 1
