"""Inequality constraints g(x) <= 0 as one number for a strategy to minimize.

**For strategies that rank each generation by itself**, an augmented Lagrangian whose coefficients adapt::

    h(x) = f(x) + sum_i  lambda_i g_i + mu_i / 2 g_i^2       with g_i no less than -lambda_i / mu_i

At the right lambda its minimum is the constrained one, whatever mu, so that evolution strategies converge to it as
fast as without constraints, and adding to f or scaling f or g changes nothing. After each generation, with g of its
best member by h::

    lambda_i <- max(0, lambda_i + mu_i g_i / 5)
    mu_i     grows where that member violates i, or where i penalizes members although almost none violate it lately;
             shrinks where it keeps i and some lately did not; grows or shrinks faster the longer it has done so

Sources: Atamna, Auger & Hansen 2017, "Linearly convergent evolution strategies via augmented Lagrangian constraint
handling" (FOGA, doi:10.1145/3040718.3040732), algorithm 1. The conditions on mu, and the idea to begin with
coefficients from the spread of f and g, are those of pycma (``cma.constraints_handler``); the member is the best of
the generation instead of the mean, which would have to be evaluated in addition.

**For strategies that compare with values of former generations**, which must mean the same throughout: feasible points
by their value, others behind all of them by the sum of their violations (Deb 2000, doi:10.1016/S0045-7825(99)00389-8).

A member without a value, or with a constraint that has none, ranks last in both.

One thing is neither the paper's nor pycma's: where h is minimized, only every second member keeps an active
constraint, and of several hardly any keeps all. So h takes g larger than it is by half a standard deviation of the
generation, which keeps the mean inside by half a step of the search, and vanishes with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

INSIDE = 0.37  # of the distance between the quartiles: half a standard deviation, but for outliers
DAMPING = 5.0  # of the change of lambda
FASTEST = 5  # 1 + 4 * 5 times as fast as at first, where pycma stops at 1 + 4: mu may begin far off
STEADY = 0.9  # share of feasible members lately below which mu may shrink
INACTIVE = 0.95  # and above which a constraint that penalizes feasible members is drawn closer
INFEASIBLE = 1e100  # behind the values of all feasible points
_LARGEST = 1e100  # constraints beyond count as this much


class Multipliers(NamedTuple):
    """What an augmented Lagrangian has learned since the last restart."""

    weight: Float[np.ndarray, "m"]
    """lambda."""
    curvature: Float[np.ndarray, "m"]
    """mu; 0 as long as a constraint has not mattered."""
    is_set: Bool[np.ndarray, "m"]
    """Whether the first coefficients are final."""
    kept: Float[np.ndarray, "horizon m"]
    """Whether the last generations' best members kept the constraints: 1, 0, or 1/2 on the edge; NaN before."""
    streak: Int[np.ndarray, "m"]
    """How many times in a row mu has grown; negative: shrunk."""
    generations: Int[np.ndarray, ""]


class AugmentedLagrangian(NamedTuple):
    """The scalar of strategies that rank each generation by itself."""

    constraints: int
    dimension: int

    def begin(self) -> Multipliers:
        m = self.constraints
        return Multipliers(
            weight=np.zeros(m),
            curvature=np.zeros(m),
            is_set=np.zeros(m, dtype=bool),
            kept=np.full((5 + self.dimension, m), np.nan),
            streak=np.zeros(m, dtype=np.int64),
            generations=np.asarray(0),
        )

    def rank(self, state: Multipliers, told: Float[np.ndarray, "n 1+m"]) -> tuple[Float[np.ndarray, "n"], Multipliers]:
        """The scalars of a generation, told as values and constraints, and what is learned from it."""
        f, g = told[:, 0], np.clip(told[:, 1:], -_LARGEST, None)
        usable = np.isfinite(f) & np.isfinite(g).all(1)
        if not usable.any():
            return np.where(usable, f, np.inf), state
        f, g = f[usable], g[usable]
        g += INSIDE * _spread(g)
        if not state.is_set.all():
            state = self._started(state, f, g)
        h = f + _penalties(state, g).sum(1)
        scalars = np.full(len(told), np.inf)
        scalars[usable] = h
        return scalars, self._learned(state, g[np.argmin(h)])

    def _started(self, state: Multipliers, f: Float[np.ndarray, "n"], g: Float[np.ndarray, "n m"]) -> Multipliers:
        """First coefficients from the spread of values, until a generation has members on both sides."""
        side = 2 * (g > 0).mean(0) - 1  # from -1, all keep the constraint, to 1
        due = ~state.is_set & (side > -0.8)
        df, dg = _spread(f), _spread(g)
        dg = np.where(dg > 0, dg, 1.0)
        is_final = (side < 0.8) | (state.generations > 2 + self.dimension)
        return state._replace(
            weight=np.where(due, df / (self.dimension * dg), state.weight),
            curvature=np.where(due, 4 * df / (self.dimension * dg * dg), state.curvature),
            is_set=state.is_set | (due & is_final),
        )

    def _learned(self, state: Multipliers, g: Float[np.ndarray, "m"]) -> Multipliers:
        m, mu = self.constraints, state.curvature
        at = int(state.generations) % len(state.kept)
        kept = state.kept.copy()
        kept[at] = (g < 0) + 0.5 * (g == 0)
        weight = state.weight + mu * g / DAMPING
        is_near = mu * g >= -weight
        matters = (mu > 0) & (mu * g > -state.weight)
        weight = np.where(matters, weight, state.weight)
        moves = matters & (weight >= 0) & is_near
        weight = np.maximum(weight, 0.0)
        share = np.nanmean(kept, axis=0)
        grows = moves & ((g > 0) | ((mu * g > -weight) & (share > INACTIVE)))
        shrinks = moves & ~grows & (g < 0) & (share < STEADY)
        sign = grows.astype(np.int64) - shrinks
        streak = np.where(sign == 0, state.streak, np.where(sign * state.streak < 0, 0, state.streak) + sign)
        wait = 2 + m  # generations before mu changes faster and faster
        faster = 4 / wait * np.clip(np.abs(streak) - wait, 0, FASTEST * wait)
        factor = 2.0 ** (sign * (1 + faster) / (20 * self.dimension))
        return Multipliers(weight, mu * factor, state.is_set, kept, streak, state.generations + 1)


class FeasibleFirst(NamedTuple):
    """The scalar of strategies that compare with values of former generations; of several objectives, of each one.

    With several, feasible points dominate all others, and of others those of less violation the rest: the constrained
    domination of Deb et al. 2002, doi:10.1109/4235.996017.
    """

    objectives: int

    def begin(self) -> tuple[()]:
        return ()

    def rank(self, state: tuple[()], told: Float[np.ndarray, "n k+m"]) -> tuple[Float[np.ndarray, "n *k"], tuple[()]]:
        """The scalars of a generation, told as values and constraints; there is nothing to learn."""
        f, g = told[:, : self.objectives], told[:, self.objectives :]
        violation = np.where(np.isnan(g), np.inf, np.maximum(g, 0.0)).sum(1, keepdims=True)
        beyond = np.where(np.isinf(violation), np.inf, INFEASIBLE * (1 + np.minimum(violation, _LARGEST)))
        scalars = np.where(violation > 0, beyond, np.minimum(f, INFEASIBLE))
        has_values = (f < np.inf).all(1, keepdims=True)  # NaN has none
        scalars = np.where(has_values, scalars, np.inf)
        return scalars if self.objectives > 1 else scalars[:, 0], state


def _penalties(state: Multipliers, g: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    weight, mu = state.weight, state.curvature
    least = -weight / np.where(mu > 0, mu, 1.0)
    g = np.where((mu > 0) & (g < least), least, g)
    return weight * g + 0.5 * mu * g * g


def _spread(values: Float[np.ndarray, "n *m"]) -> Float[np.ndarray, "*m"]:
    """Between the quartiles."""
    low, high = np.percentile(values, (25, 75), axis=0)
    return high - low
