"""The choice among the best of a search, on instances that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from blackbox.errors import SettingError
from blackbox.llm.text.losses import filled_losses, mean_losses, told_losses
from blackbox.llm.text.proposals import require_instances
from blackbox.llm.text.rollouts import Rollouts
from blackbox.strategy import require_number


class FinalPick(NamedTuple):
    """What was picked, and how sure that is."""

    genome: Any
    position: int
    """Its number among the candidates."""
    means: tuple[float, ...]
    """Mean loss of each candidate on the held-out instances; infinite if it failed on all."""
    standard_errors: tuple[float, ...]
    """Of these means over instances; NaN for a single instance."""
    behind: tuple[float, ...]
    """How much more loss each candidate has than the pick, instance by instance, in the mean; 0 for the pick. Failed
    instances count as in the means, and ``worst`` where all failed."""
    behind_errors: tuple[float, ...]
    """Standard errors of these paired differences: smaller than those of two means where instances differ most. A
    difference of less than two of them tells nothing."""


def final_pick(
    rollouts: Rollouts[Any], genomes: Sequence[Any], instances: Sequence[int], *, worst: float = 1.0
) -> FinalPick:
    """The candidate with the least mean loss on held-out instances; of equals the first.

    The mean of the pick is a little too good where there are many candidates; they should be few, and the instances
    many.

    Args:
        rollouts: evaluations, which are made or known.
        genomes: candidates, best first, as ``strategy.finalists(state, n)`` gives them.
        instances: numbers of instances that no candidate was chosen by.
        worst: loss that a failed instance counts as, or the candidate's worst loss if that is more, > 0.

    Raises:
        SettingError: no candidates, or no instances.
        BudgetExhausted: as the evaluation does; what was evaluated is kept.
        ProviderError: the model is down.
    """
    if not len(genomes):
        raise SettingError("genomes must be at least one candidate; got none")
    instances = require_instances("instances", instances)
    require_number("worst", worst, above=0.0)
    losses = told_losses(genomes, rollouts(genomes, instances).losses, len(instances))
    means = mean_losses(losses, worst)
    position = int(np.argmin(means))
    filled = filled_losses(losses, worst)
    differences = filled - filled[position]
    return FinalPick(
        genome=genomes[position],
        position=position,
        means=tuple(means),
        standard_errors=_standard_errors(filled),
        behind=tuple(differences.mean(axis=1).tolist()),
        behind_errors=_standard_errors(differences),
    )


def _standard_errors(rows: Any) -> tuple[float, ...]:
    n = rows.shape[1]
    if n < 2:
        return (math.nan,) * len(rows)
    return tuple((rows.std(axis=1, ddof=1) / math.sqrt(n)).tolist())
