"""CatCMA with margin: CMA-ES for floats and integers, joined with a categorical distribution for choices.

Sources: Hamano et al. 2024, "CatCMA" (GECCO, doi:10.1145/3638529.3654198), for the joint update; Hamano et al. 2025,
"CatCMA with Margin" (arXiv:2504.07884), for integers; Akimoto et al. 2019, "Adaptive stochastic natural gradient"
(ASNG, ICML, proceedings.mlr.press/v97/akimoto19a.html), for the step size of the probabilities.

Members are v = mean + A (x - mean), where x are CMA-ES's samples and the diagonal A is 1 for floats, and categories
drawn with the probabilities q. Fitness ranks them all at once; with CMA-ES's weights w, members sorted by fitness:

1. Integer centering: where a good member left the mean's cell it counts as the center of its cell; the shift
   that this brings into the mean is balanced by moving good members that stayed towards their cell's center.
2. CMA-ES's update (:mod:`blackbox.es.cma_es`) with x = mean + (v - mean) / A.
3. Margin: mean and A change so that each integer leaves its cell with probability alpha at least, and
   no more often than before unless a good member has just done so.
4. q <- q + delta G / |G|, the natural gradient G = sum_i w_i (onehot_i - q) over positive weights, measured by the
   Fisher metric; delta = 1 / Delta adapts to the signal-to-noise ratio of G. Then each q >= alpha / (k - 1).

alpha = 1 - 0.73^(1 / number of discrete variables): all of them together stay as they are in 73 % of the members.

Integer coordinates are asked within [0, 1]: what lies beyond belongs to the outermost cells, instead of being
mirrored into others. Integers of two values (Booleans) are learned as choices of two, as the authors advise.
Cost per generation: that of CMA-ES in the floats and integers, and O(popsize) per integer cell and category.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from blackbox.arrays import Array, Key, namespace
from blackbox.errors import SettingError
from blackbox.es.cma_es import CMAES, CMAESState, constants, default_popsize
from blackbox.es.normal_tail import upper_quantile, upper_tail
from blackbox.es.stall import Stall, no_stall, watch
from blackbox.kernels.noise import uniform
from blackbox.shaping import best_first
from blackbox.strategy import algorithm, require_integer, require_number

Layout = tuple[tuple[Any, ...], ...]

STAY = 0.73  # probability that a member differs from the mode in no discrete variable, once all have converged
ALPHA_SNR = 1.5  # threshold of the signal-to-noise ratio, Akimoto et al. 2019


class Parts(NamedTuple):
    """A layout as arrays. Numeric coordinates are ordered floats first, then integers; padding comes last."""

    numeric: Int[np.ndarray, "m"]
    """Coordinates of floats and of integers of more than two values."""
    floats: int
    edges: Float[np.ndarray, "integers edges"]
    """Inner cell edges, ascending, padded with infinity."""
    outermost: Float[np.ndarray, "2 integers"]
    """First and last edge."""
    gaps: Float[np.ndarray, "integers edges"]
    """Distance between the centers of the cells on both sides of each edge, padded with 0."""
    first_center: Float[np.ndarray, "integers"]
    options: Int[np.ndarray, "choices k"]
    """Coordinates of the categories, padded with 0; for an integer of two values its coordinate, twice."""
    rivals: Float[np.ndarray, "choices k"]
    """What stands in for a coordinate: the edge for the lower of two values, -inf for padding; else NaN."""
    places: Int[np.ndarray, "d"]
    """For each coordinate its place in the numeric ones followed by all options, padding included."""
    scale: Float[np.ndarray, "d"]
    shift: Float[np.ndarray, "d"]
    """From one-hot to the two cells' centers; 1 and 0 for all but integers of two values."""
    alpha: float
    q_min: Float[np.ndarray, "choices k"]
    parameters: int
    """Free parameters of q."""
    variables: int


@lru_cache(maxsize=256)
def parts(layout: Layout) -> Parts:
    """The arrays that a layout stands for; SettingError for a malformed one."""
    floats: list[int] = []
    integers: list[tuple[int, tuple[float, ...]]] = []
    choices: list[tuple[list[int], list[float]]] = []  # options and rivals
    scale: list[float] = []
    shift: list[float] = []
    for entry in layout:
        d = len(scale)
        columns, units, offsets = [d], [1.0], [0.0]
        match entry:
            case ("float",) | ("int", ()):
                floats.append(d)
            case ("int", (edge,)):
                choices.append(([d, d], [math.nan, edge]))  # the upper value first: it has the edge itself
                units, offsets = [0.5], [0.5 * edge]
            case ("int", tuple(edges)):
                integers.append((d, edges))
            case ("choice", int(k)) if k >= 1:
                columns, units, offsets = list(range(d, d + k)), [1.0] * k, [0.0] * k
                choices.append((columns, [math.nan] * k))
            case _:
                allowed = '("float",), ("int", inner cell edges) or ("choice", number of options)'
                raise SettingError(f"layout must consist of {allowed}; got {entry!r}")
        scale += units
        shift += offsets
    width = max((len(inner) for _, inner in integers), default=0)
    edges = np.full((len(integers), width), np.inf)
    gaps = np.zeros((len(integers), width))
    for i, (_, inner) in enumerate(integers):
        cells = np.array([0.0, *inner, 1.0])
        edges[i, : len(inner)] = inner
        gaps[i, : len(inner)] = (cells[2:] - cells[:-2]) / 2
    numeric = np.array([*floats, *(column for column, _ in integers)], dtype=int)
    places = np.zeros(len(scale), dtype=int)
    places[numeric] = np.arange(len(numeric))
    k_max = max((len(columns) for columns, _ in choices), default=0)
    discrete = len(integers) + sum(len(columns) > 1 for columns, _ in choices)
    alpha = 1 - STAY ** (1 / max(1, discrete))
    options = np.zeros((len(choices), k_max), dtype=int)
    rivals = np.full((len(choices), k_max), -np.inf)
    q_min = np.zeros((len(choices), k_max))
    for i, (columns, rival) in enumerate(choices):
        k = len(columns)
        options[i, :k], rivals[i, :k] = columns, rival
        q_min[i, :k] = alpha / (k - 1) if k > 1 else 0.0
        first = len(numeric) + i * k_max
        places[columns[::-1]] = np.arange(first, first + k)[::-1]  # of two values: the place of the upper one
    return Parts(
        numeric=numeric,
        floats=len(floats),
        edges=edges,
        outermost=np.array([[inner[0] for _, inner in integers], [inner[-1] for _, inner in integers]]),
        gaps=gaps,
        first_center=np.array([inner[0] / 2 for _, inner in integers]),
        options=options,
        rivals=rivals,
        places=places,
        scale=np.array(scale),
        shift=np.array(shift),
        alpha=alpha,
        q_min=q_min,
        parameters=max(1, sum(len(columns) - 1 for columns, _ in choices)),
        variables=len(layout),
    )


class Integers(NamedTuple):
    A: Float[Array, "integers"]
    """What the deviations of the integers are multiplied with."""
    p_leave: Float[Array, "integers"]
    """Probability of leaving the mean's cell."""


class Choices(NamedTuple):
    q: Float[Array, "choices k"]
    """Probability of each category."""
    s: Float[Array, "choices k-1"]
    """Accumulated gradients, in units of their lengths."""
    gamma: Float[Array, ""]
    """Squared length that s has if the gradients are independent."""
    Delta: Float[Array, ""]
    """Inverse length of the next step, in the Fisher metric."""


class CatCMAState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    gaussian: CMAESState | None
    """Floats, then integers, before A; None if there are only choices."""
    integers: Integers | None
    choices: Choices | None
    stall: Stall


@algorithm
class CatCMA:
    """CatCMA with margin: floats, integers and choices learned together.

    Args:
        popsize: candidates per generation, at least 3; by default 4 + floor(3 ln n) for n variables.
        sigma0: initial step size of floats and integers, in units of x.
        layout: ``Space.layout``: an entry per variable in the order of coordinates. ("float",): one coordinate;
            ("int", edges): one coordinate, whose value is the cell of [0, 1] that it is in, between ascending
            inner edges; ("choice", k): k coordinates, whose value is the index of the largest. None: all floats.
    """

    popsize: int | None = None
    sigma0: float = 1.0
    layout: Layout | None = None

    injectable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=3)
        require_number("sigma0", self.sigma0, above=0)
        if self.layout is not None:
            parts(self.layout)

    def init(self, key: Key, x0: Float[Array, "d"]) -> CatCMAState:
        """The start at ``x0``; a category that is largest there starts with half of all probability."""
        xp = namespace(x0)
        p = parts(self.layout or (("float",),) * x0.shape[0])
        if len(p.places) != x0.shape[0]:
            raise SettingError(f"layout must have as many coordinates as x0, {x0.shape[0]}; got {len(p.places)}")
        gaussian, integers, choices = None, None, None
        if len(p.numeric):
            gaussian = self._cma_es(p).init(key, xp.take(x0, xp.asarray(p.numeric)))
        if len(p.edges):
            ones = xp.ones((len(p.edges),), dtype=x0.dtype)
            integers = Integers(A=ones, p_leave=0.5 * ones)
        if len(p.options):
            votes = _read(p, x0[None, :])[0, ...]
            largest = xp.astype(votes == xp.max(votes, axis=-1, keepdims=True), x0.dtype)
            exists = xp.asarray(p.rivals > -np.inf, dtype=x0.dtype)
            zero = xp.asarray(0.0, dtype=x0.dtype)[()]
            choices = Choices(
                q=0.5 * (_share(largest) + _share(exists)), s=0 * exists[:, 1:], gamma=zero, Delta=zero + 1
            )
        return CatCMAState(xp.asarray(key), xp.asarray(0)[()], gaussian, integers, choices, no_stall(x0))

    def ask(self, state: CatCMAState, first: int = 0) -> Float[Array, "n d"]:
        xp = namespace(state.stall.spread)
        p = self._parts(state)
        columns = []
        if state.gaussian is not None:
            x = self._cma_es(p).ask(state.gaussian._replace(generation=state.generation), first)
            if state.integers is not None:
                mean = state.gaussian.mean[p.floats :]
                v = mean + state.integers.A * (x[:, p.floats :] - mean)
                x = xp.concat([x[:, : p.floats], xp.clip(v, 0.0, 1.0)], axis=1)
            columns.append(x)
        if state.choices is not None:
            q = state.choices.q
            shape = (self._popsize(p), q.shape[0], 1)
            u = uniform(state.key, state.generation, shape, leaf=1, first=first, like=q)
            category = xp.sum(xp.astype(u > xp.cumulative_sum(q, axis=1)[:, :-1], xp.int32), axis=-1, keepdims=True)
            onehot = xp.astype(category == xp.arange(q.shape[1]), q.dtype)
            columns.append(xp.reshape(onehot, (shape[0], -1)))
        return _write(p, xp.concat(columns, axis=1))

    def tell(self, state: CatCMAState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> CatCMAState:
        xp = namespace(fitness)
        p = self._parts(state)
        n = population.shape[0]
        generation = state.generation + 1
        order = best_first(fitness)
        rows, fitness = xp.take(population, order, axis=0), xp.take(fitness, order)
        gaussian, integers, choices = state.gaussian, state.integers, state.choices
        if gaussian is not None:
            cma_es = self._cma_es(p)
            gaussian = gaussian._replace(generation=state.generation)
            v = xp.take(rows, xp.asarray(p.numeric), axis=1)
            if integers is None:
                gaussian = cma_es.tell(gaussian, v, fitness)
            else:
                mean = gaussian.mean[p.floats :]
                centered, left = _center(p, mean, v[:, p.floats :])
                x = xp.concat([v[:, : p.floats], mean + (centered - mean) / integers.A], axis=1)
                gaussian, integers = _keep_margin(p, cma_es.tell(gaussian, x, fitness), integers, left)
        if choices is not None:
            weights = constants(n, 1).positive
            choices = _learn(p, choices, _read(p, rows[: n // 2, :]), xp.asarray(weights[: n // 2], dtype=rows.dtype))
        window = 10 + math.ceil(30 * p.variables / n)
        return CatCMAState(
            key=state.key,
            generation=generation,
            gaussian=gaussian,
            integers=integers,
            choices=choices,
            stall=watch(state.stall, fitness[0], generation, window),
        )

    def recommend(self, state: CatCMAState) -> Float[Array, "d"]:
        """The mean, centers of its cells for integers, and the most probable categories."""
        xp = namespace(state.stall.spread)
        p = self._parts(state)
        columns = []
        if state.gaussian is not None:
            mean = state.gaussian.mean
            columns.append(xp.concat([mean[: p.floats], _cells(p, mean[p.floats :])[1]]))
        if state.choices is not None:
            columns.append(xp.reshape(_onehot(state.choices.q), (-1,)))
        return _write(p, xp.concat(columns)[None, :])[0, :]

    def stop(self, state: CatCMAState) -> dict[str, Bool[Array, ""]]:
        """CMA-ES's reasons to restart, of floats and integers; for choices alone only "tolfun"."""
        reasons = {} if state.gaussian is None else self._cma_es(self._parts(state)).stop(state.gaussian)
        return {**reasons, "tolfun": state.stall.spread < 1e-12}

    def _parts(self, state: CatCMAState) -> Parts:
        return parts(self.layout or (("float",),) * (0 if state.gaussian is None else state.gaussian.mean.shape[0]))

    def _popsize(self, p: Parts) -> int:
        return self.popsize or default_popsize(p.variables)

    def _cma_es(self, p: Parts) -> CMAES:
        return CMAES(popsize=self._popsize(p), sigma0=self.sigma0)


def _read(p: Parts, rows: Float[Array, "n d"]) -> Float[Array, "n choices k"]:
    """What each category has got: the largest is the value."""
    xp = namespace(rows)
    shape = p.options.shape
    votes = xp.reshape(xp.take(rows, xp.asarray(p.options.reshape(-1)), axis=1), (rows.shape[0], *shape))
    return xp.where(xp.asarray(np.isnan(p.rivals)), votes, xp.asarray(p.rivals, dtype=rows.dtype))


def _write(p: Parts, columns: Float[Array, "n columns"]) -> Float[Array, "n d"]:
    """Coordinates in the layout's order from the numeric ones and all options."""
    xp = namespace(columns)
    scale, shift = xp.asarray(p.scale, dtype=columns.dtype), xp.asarray(p.shift, dtype=columns.dtype)
    return xp.take(columns, xp.asarray(p.places), axis=1) * scale + shift


def _onehot(votes: Float[Array, "*n k"]) -> Float[Array, "*n k"]:
    xp = namespace(votes)
    largest = xp.argmax(votes, axis=-1, keepdims=True)
    return xp.astype(largest == xp.arange(votes.shape[-1]), votes.dtype)


def _share(weights: Float[Array, "choices k"]) -> Float[Array, "choices k"]:
    return weights / namespace(weights).sum(weights, axis=-1, keepdims=True)


def _cells(p: Parts, v: Float[Array, "*n integers"]) -> tuple[Float[Array, "*n integers"], Float[Array, "*n integers"]]:
    """Number and center of the cell of each value."""
    xp = namespace(v)
    passed = xp.astype(v[..., None] >= xp.asarray(p.edges, dtype=v.dtype), v.dtype)
    center = xp.asarray(p.first_center, dtype=v.dtype) + xp.sum(passed * xp.asarray(p.gaps, dtype=v.dtype), axis=-1)
    return xp.sum(passed, axis=-1), center


def _center(
    p: Parts, mean: Float[Array, "integers"], v: Float[Array, "n integers"]
) -> tuple[Float[Array, "n integers"], Bool[Array, "integers"]]:
    """Integer centering (2025, section 4): the rows to learn from, best first, and where a good one left the cell."""
    xp = namespace(v)
    good = v[: v.shape[0] // 2, :]
    cell, center = _cells(p, good)
    left = cell != _cells(p, mean)[0]
    to_center = center - good
    stays = xp.where(left, 0.0, to_center)
    bias = xp.sum(xp.where(left, to_center, 0.0), axis=0)
    balances = stays * bias < 0
    balance = xp.sum(xp.where(balances, stays, 0.0), axis=0)
    share = xp.minimum(-bias / xp.where(balance == 0, 1.0, balance), xp.asarray(1.0, dtype=v.dtype))
    moved = good + xp.where(left, to_center, xp.where(balances, share * stays, 0.0))
    return xp.concat([moved, v[v.shape[0] // 2 :, :]]), xp.any(left, axis=0)


def _keep_margin(
    p: Parts, gaussian: CMAESState, integers: Integers, left: Bool[Array, "integers"]
) -> tuple[CMAESState, Integers]:
    """Margin correction (2025, section 4): each integer leaves its cell with probability alpha at least.

    Args:
        p: the layout.
        gaussian: after CMA-ES's update.
        integers: before it.
        left: where a good member was in another cell than the mean: there the probability may rise.
    """
    xp = namespace(gaussian.mean)
    dtype = gaussian.mean.dtype
    almost_half = 0.5 - math.sqrt(xp.finfo(dtype).eps)  # a quantile of exactly 0 would divide by zero below
    mean = gaussian.mean[p.floats :]
    deviation = gaussian.sigma * xp.sqrt(xp.linalg.diagonal(gaussian.C)[p.floats :])
    edges = xp.asarray(p.edges, dtype=dtype)
    first, last = xp.asarray(p.outermost[0], dtype=dtype), xp.asarray(p.outermost[1], dtype=dtype)
    below = edges <= mean[:, None]
    low = xp.maximum(xp.max(xp.where(below, edges, -xp.inf), axis=1), first)
    high = xp.minimum(xp.min(xp.where(below, xp.inf, edges), axis=1), last)
    tails = upper_tail(xp.stack([mean - low, high - mean]) / (deviation * integers.A))
    p_low, p_high = tails[0, :], tails[1, :]

    # The mean is beyond the outermost edge (low = high): A lets a mean in the cell's center reach that edge with
    # probability alpha, then the distance from the edge sets the probability.
    outside = xp.maximum(p_low, p_high) > 0.5
    p_outside = xp.maximum(xp.minimum(p_low, p_high), xp.asarray(p.alpha, dtype=dtype))
    p_outside = xp.clip(xp.where(left, p_outside, xp.minimum(p_outside, integers.p_leave)), p.alpha, almost_half)
    z_alpha = upper_quantile(xp.asarray(p.alpha, dtype=dtype))
    A_outside = xp.maximum(integers.A, xp.abs(_cells(p, mean)[1] - high) / (deviation * z_alpha))

    # The mean is between two edges: at least alpha / 2 beyond each, and no less than before in between.
    least = 0.5 * p.alpha
    p_stay = 1 - p_low - p_high
    least_stay = xp.where(left, xp.asarray(least, dtype=dtype), 1 - integers.p_leave)
    p_stay = xp.where(left, p_stay, xp.maximum(p_stay, least_stay))
    p_low, p_high = (
        xp.maximum(p_low, xp.asarray(least, dtype=dtype)),
        xp.maximum(p_high, xp.asarray(least, dtype=dtype)),
    )
    excess = p_low + p_high + p_stay - 1
    spare = p_low + p_high + p_stay - 2 * least - least_stay
    keep = 1 - xp.where(excess > 0, excess, 0.0) / xp.where(excess > 0, spare, 1.0)
    p_low = xp.clip(least + keep * (p_low - least), least, almost_half)
    p_high = xp.clip(least + keep * (p_high - least), least, almost_half)

    z = upper_quantile(xp.stack([p_low, p_high, p_outside]))
    z_low, z_high = z[0, :], z[1, :]
    side = xp.where(mean < first, -1.0, 1.0)
    A = xp.where(outside, A_outside, (high - low) / ((z_low + z_high) * deviation))
    beyond = high + side * deviation * A_outside * z[2, :]
    between = (low * z_high + high * z_low) / (z_low + z_high)
    mean = xp.concat([gaussian.mean[: p.floats], xp.where(outside, beyond, between)])
    return gaussian._replace(mean=mean), Integers(A=A, p_leave=xp.where(outside, p_outside, p_low + p_high))


def _learn(p: Parts, choices: Choices, votes: Float[Array, "mu choices k"], weights: Float[Array, "mu"]) -> Choices:
    """ASNG's update of the probabilities by the good members, and their margin (2024, section 3)."""
    xp = namespace(weights)
    q = choices.q
    exists = xp.asarray(p.rivals[:, 1:] != -np.inf)  # the first category is what the others leave
    q_min = xp.asarray(p.q_min, dtype=q.dtype)
    gradient = xp.sum(weights[:, None, None] * (_onehot(votes) - q), axis=0)
    # The square root of the Fisher matrix times the gradient (Akimoto et al. 2019, appendix B).
    root = xp.sqrt(xp.where(exists, q[:, 1:], 1.0))
    whole = gradient[:, :1] / (q[:, :1] + xp.sqrt(q[:, :1]))
    flat = xp.where(exists, gradient[:, 1:] / root - root * whole, 0.0)
    length = xp.sqrt(xp.sum(flat * flat)) + 1e-8
    delta = 1 / choices.Delta
    q = xp.maximum(q + (delta / length) * gradient, q_min)
    excess = xp.sum(q, axis=1, keepdims=True) - 1
    q = _share(q - excess * (q - q_min) / (excess + 1 - xp.sum(q_min, axis=1, keepdims=True)))

    beta = xp.minimum(delta / math.sqrt(p.parameters), xp.ones_like(delta))
    s = (1 - beta) * choices.s + xp.sqrt(beta * (2 - beta)) * flat / length
    gamma = (1 - beta) ** 2 * choices.gamma + beta * (2 - beta)
    return Choices(q=q, s=s, gamma=gamma, Delta=choices.Delta * xp.exp(beta * (gamma - xp.sum(s * s) / ALPHA_SNR)))
