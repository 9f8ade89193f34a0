"""The best members of the last generations, as what a language model is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.shaping import bounded_or_failed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

LARGEST = 1e100  # values beyond are taken as this large


class Elites(NamedTuple):
    """``M`` members of each of ``K`` generations, the newest generation last, each with its best member first."""

    solutions: Float[ndarray, "K M d"]
    losses: Float[ndarray, "K M"]
    """Infinite in rows not in use, and of failed members."""

    @property
    def known(self) -> Bool[ndarray, "K M"]:
        """Which rows are members that did not fail."""
        return np.isfinite(self.losses)

    def worst_first(self) -> tuple[Float[ndarray, "n d"], Float[ndarray, "n"]]:
        """All known members, sorted by their losses; of equal ones the newest last."""
        known = self.known
        solutions, losses = self.solutions[known], self.losses[known]
        order = np.argsort(-losses, kind="stable")
        return solutions[order], losses[order]


def no_elites(generations: int, members: int, d: int) -> Elites:
    """Room for so many, none of them known."""
    return Elites(np.zeros((generations, members, d)), np.full((generations, members), np.inf))


def with_generation(elites: Elites, population: Float[ndarray, "n d"], fitness: Float[ndarray, "n"]) -> Elites:
    """The elites after one more generation, of any size and in any order; the oldest one goes."""
    losses = bounded_or_failed(fitness, LARGEST)
    rows = np.asarray(population, np.float64)
    losses = np.where(np.isfinite(rows).all(axis=1), losses, np.inf)
    order = np.lexsort((*rows.T[::-1], losses))[: elites.losses.shape[1]]
    newest = np.full((1, elites.losses.shape[1]), np.inf)
    points = np.zeros((1, *elites.solutions.shape[1:]))
    count = int(np.isfinite(losses[order]).sum())
    if count == 0:  # nothing was learned: what was known stays
        return elites
    newest[0, :count], points[0, :count] = losses[order[:count]], rows[order[:count]]
    return Elites(
        np.concatenate([elites.solutions[1:], points]),
        np.concatenate([elites.losses[1:], newest]),
    )


def recombined(elites: Elites) -> Float[ndarray, "d"]:
    """The mean of the newest generation's members by logarithmic weights, as of an evolution strategy."""
    return _weights(int(elites.known[-1].sum())) @ elites.solutions[-1][elites.known[-1]]


def spread(elites: Elites, former: Float[ndarray, "d"]) -> float:
    """The root mean square distance of the newest members from the ``former`` mean, per coordinate.

    From the former mean, not from their own: it grows where all of them lie on one side, and so does not vanish on a
    slope (Hansen 2006, "The CMA evolution strategy: a comparing review", section 2.2).
    """
    known = elites.known[-1]
    squares = np.mean((elites.solutions[-1][known] - former) ** 2, axis=1)
    return float(np.sqrt(_weights(int(known.sum())) @ squares))


def _weights(n: int) -> Float[ndarray, "n"]:
    weights = np.log(n + 1) - np.log(np.arange(1, n + 1))
    return np.asarray(weights / weights.sum())
