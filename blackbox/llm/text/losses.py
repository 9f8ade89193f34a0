"""Losses of genomes on instances, as they are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.errors import TellError

if TYPE_CHECKING:
    from jaxtyping import Float


def told_losses(
    genomes: Sequence[Any], scores: Any, instances: int, *, is_mean_enough: bool = True
) -> Float[np.ndarray, "n m"]:
    """Scores as losses by genome and instance, or in one column if they are means; what is not finite is infinite.

    Args:
        genomes: what was evaluated.
        scores: numbers of shape ``(genomes, instances)``, or of shape ``(genomes,)`` if ``is_mean_enough``.
        instances: how many there are.
        is_mean_enough: whether one number for each genome says all.

    Raises:
        TellError: another shape, or no numbers.
    """
    n = len(genomes)
    try:
        losses = np.asarray(scores, float)
    except (TypeError, ValueError) as error:
        raise TellError(f"scores must be numbers; got {scores!r}") from error
    shapes = [(n, instances), *[(n,)] * is_mean_enough]
    if losses.shape not in shapes and losses.size:
        allowed = " or ".join(map(str, shapes))
        raise TellError(f"scores must be of shape {allowed}, genomes by instances; got {losses.shape}")
    return np.where(np.isfinite(losses), losses, np.inf).reshape(n, -1 if n else 0)


def mean_losses(losses: Float[np.ndarray, "n m"], worst: float) -> list[float]:
    """The mean of each row, in which a failed instance counts ``worst``, or the worst finite loss if that is more.

    The mean is infinite where all instances failed.
    """
    found = []
    for row in losses:
        finite = row[np.isfinite(row)]
        penalty = max([worst, *finite.tolist()])
        found.append(float(np.where(np.isfinite(row), row, penalty).mean()) if len(finite) else float("inf"))
    return found


def shown_score(loss: float, worst: float) -> int:
    """A loss as what models are shown: from 0 (``worst``, more, or failed) to 100 (no loss)."""
    return round(100 * min(1.0, max(0.0, 1.0 - loss / worst)))
