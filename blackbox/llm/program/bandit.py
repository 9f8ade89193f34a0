"""Which operator, by which model, makes the next program: a bandit that weighs what an arm gained against its cost.

UCB1 (Auer, Cesa-Bianchi & Fischer 2002, "Finite-time analysis of the multiarmed bandit problem") with discounted counts
(Garivier & Moulines 2011), as gains shrink while a search goes on, and with a share of uninformed choices; gains of an
arm that costs more are scaled down, after ShinkaEvolve (Lange et al. 2025, arXiv:2509.19349).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from blackbox.draws import Draws
from blackbox.strategy import require_number


class Arm(NamedTuple):
    """What is known of an arm; sums are discounted."""

    pulls: float = 0.0
    reward: float = 0.0
    """Sum of rewards, each from 0 to 1."""
    cost: float = 0.0
    """Sum of costs."""


@dataclass(frozen=True, kw_only=True)
class Bandit:
    """Settings of the bandit; its memory is a mapping from names to :class:`Arm`.

    Args:
        exploration: factor of UCB1's bonus, >= 0.
        epsilon: share of choices by the prior weights alone, 0 to 1.
        decay: of pulls, rewards and costs at each update, 0 to 1.
        cost: how much of a mean reward an arm loses that costs much more than the median, 0 to 1.
    """

    exploration: float = 1.0
    epsilon: float = 0.2
    decay: float = 0.95
    cost: float = 0.5

    def __post_init__(self) -> None:
        require_number("exploration", self.exploration, low=0)
        for name in ("epsilon", "decay", "cost"):
            require_number(name, getattr(self, name), low=0, high=1)

    def choose(self, arms: Mapping[str, Arm], weights: Mapping[str, float], draws: Draws) -> str:
        """The next arm.

        Args:
            arms: what is known of each; of some nothing may be.
            weights: prior weight of each arm that can be chosen, >= 0.
            draws: decides on exploration.
        """
        names = [name for name, weight in weights.items() if weight > 0]
        if draws.uniform() < self.epsilon:
            return draws.weighted(names, [weights[name] for name in names])
        values = self.indices(arms, {name: weights[name] for name in names})
        return max(names, key=lambda name: (values[name], weights[name]))

    def indices(self, arms: Mapping[str, Arm], weights: Mapping[str, float]) -> dict[str, float]:
        """The upper confidence bound of each arm, infinite for those without pulls.

        Mean rewards are in units of the best arm's: improvements are rare and small, and a bonus made for rewards of 0
        or 1 would drown them.
        """
        known = {name: arms.get(name, Arm()) for name in weights}
        total = sum(arm.pulls for arm in known.values())
        costs = sorted(arm.cost / arm.pulls for arm in known.values() if arm.pulls and arm.cost)
        median = costs[len(costs) // 2] if costs else 0.0
        means: dict[str, float] = {}
        for name, arm in known.items():
            mean, spent = (arm.reward / arm.pulls, arm.cost / arm.pulls) if arm.pulls else (0.0, 0.0)
            ratio = min(1.0, median / spent) if spent else 1.0
            means[name] = mean * (1 - self.cost + self.cost * ratio)
        most = max(means.values(), default=0.0) or 1.0
        bonus = 2 * math.log(max(math.e, total))
        return {
            name: means[name] / most + self.exploration * math.sqrt(bonus / arm.pulls) if arm.pulls else math.inf
            for name, arm in known.items()
        }

    def update(self, arms: Mapping[str, Arm], pulls: list[tuple[str, float, float]]) -> dict[str, Arm]:
        """The memory after pulls that are told together: name, reward from 0 to 1, and cost of each."""
        new = {name: Arm(*(self.decay * value for value in arm)) for name, arm in arms.items()}
        for name, reward, cost in pulls:
            arm = new.get(name, Arm())
            new[name] = Arm(arm.pulls + 1, arm.reward + reward, arm.cost + cost)
        return new


def pull(arms: Mapping[str, Arm], name: str) -> dict[str, Arm]:
    """The memory with a pull under way, whose reward is not known: the mean stays, the bonus shrinks."""
    arm = arms.get(name, Arm())
    mean = arm.reward / arm.pulls if arm.pulls else 0.0
    cost = arm.cost / arm.pulls if arm.pulls else 0.0
    return {**arms, name: Arm(arm.pulls + 1, arm.reward + mean, arm.cost + cost)}
