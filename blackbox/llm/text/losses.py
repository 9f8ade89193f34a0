"""Losses of genomes on instances, as they are told, and what a failed one counts: everywhere :func:`filled_losses`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.errors import TellError

if TYPE_CHECKING:
    from jaxtyping import Float

_LARGEST = 1e100  # losses beyond are taken as this large, so that sums and squares of them are finite


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
    bounded = np.clip(losses, -_LARGEST, _LARGEST)
    return np.where(np.isfinite(losses), bounded, np.inf).reshape(n, -1 if n else 0)


def filled_losses(losses: Float[np.ndarray, "n m"], worst: float) -> Float[np.ndarray, "n m"]:
    """Losses in which a failed instance counts ``worst``, or the worst loss of the same genome if that is more.

    So what a genome counts does not depend on which others it was told with.
    """
    failed = np.isinf(losses)
    penalty = np.max(losses, axis=1, where=~failed, initial=worst, keepdims=True)
    return np.where(failed, penalty, losses)


def mean_losses(losses: Float[np.ndarray, "n m"], worst: float) -> list[float]:
    """The mean of each row of :func:`filled_losses`; infinite, which is worse than any, where all instances failed."""
    means = filled_losses(losses, worst).sum(axis=1) / max(1, losses.shape[1])
    return np.where(np.isfinite(losses).any(axis=1), means, np.inf).tolist()


def shown_score(loss: float, worst: float) -> int:
    """A loss as what models are shown: from 0 (``worst``, more, or failed) to 100 (no loss)."""
    return round(100 * min(1.0, max(0.0, 1.0 - loss / worst)))
