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
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, namespace
from blackbox.errors import SettingError
from blackbox.es.cma_es import CMAES, CMAESState, constants, default_popsize
from blackbox.es.margin import Cells, Margin, cells, centered, with_margin
from blackbox.es.stall import Stall, no_stall, watch
from blackbox.kernels.noise import uniform
from blackbox.layout import Layout, variables_of
from blackbox.shaping import best_first
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

STAY = 0.73  # probability that a member differs from the mode in no discrete variable, once all have converged
ALPHA_SNR = 1.5  # threshold of the signal-to-noise ratio, Akimoto et al. 2019


class Parts(NamedTuple):
    """A layout as arrays. Numeric coordinates are ordered floats first, then integers; padding comes last."""

    numeric: Int[np.ndarray, "m"]
    """Coordinates of floats and of integers of more than two values."""
    floats: int
    cells: Cells | None
    """Of the integers."""
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
    for _, d, edges, k in variables_of(layout):
        units, offsets = [1.0] * max(1, k), [0.0] * max(1, k)
        if k:
            choices.append((list(range(d, d + k)), [math.nan] * k))
        elif len(edges) == 1:
            choices.append(([d, d], [math.nan, edges[0]]))  # the upper value first: it has the edge itself
            units, offsets = [0.5], [0.5 * edges[0]]
        elif edges:
            integers.append((d, edges))
        else:
            floats.append(d)
        scale += units
        shift += offsets
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
        cells=cells(tuple(inner for _, inner in integers)) if integers else None,
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
    margin: Margin | None
    """Of the integers."""
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
    generational: ClassVar[bool] = True

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
        gaussian, margin, choices = None, None, None
        if len(p.numeric):
            gaussian = self._cma_es(p).init(key, xp.take(x0, xp.asarray(p.numeric)))
        if p.cells is not None:
            ones = xp.ones((len(p.cells.first),), dtype=x0.dtype)
            margin = Margin(A=ones, p_leave=0.5 * ones)
        if len(p.options):
            votes = _read(p, x0[None, :])[0, ...]
            largest = xp.astype(votes == xp.max(votes, axis=-1, keepdims=True), x0.dtype)
            exists = xp.asarray(p.rivals != -np.inf, dtype=x0.dtype)
            zero = xp.asarray(0.0, dtype=x0.dtype)[()]
            choices = Choices(
                q=0.5 * (_share(largest) + _share(exists)), s=0 * exists[:, 1:], gamma=zero, Delta=zero + 1
            )
        return CatCMAState(xp.asarray(key), xp.asarray(0)[()], gaussian, margin, choices, no_stall(x0))

    def ask(self, state: CatCMAState, first: int = 0) -> Float[Array, "n d"]:
        xp = namespace(state.stall.spread)
        p = self._parts(state)
        columns = []
        if state.gaussian is not None:
            x = self._cma_es(p).ask(state.gaussian._replace(generation=state.generation), first)
            if state.margin is not None:
                mean = state.gaussian.mean[p.floats :]
                v = mean + state.margin.A * (x[:, p.floats :] - mean)
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
        gaussian, margin, choices = state.gaussian, state.margin, state.choices
        if gaussian is not None:
            cma_es = self._cma_es(p)
            gaussian = gaussian._replace(generation=state.generation)
            v = xp.take(rows, xp.asarray(p.numeric), axis=1)
            if p.cells is None or margin is None:
                gaussian = cma_es.tell(gaussian, v, fitness)
            else:
                mean = gaussian.mean[p.floats :]
                good, left = centered(p.cells, mean, v[:, p.floats :])
                x = xp.concat([v[:, : p.floats], mean + (good - mean) / margin.A], axis=1)
                gaussian = cma_es.tell(gaussian, x, fitness)
                variance = xp.linalg.diagonal(gaussian.C)
                # Rounding may leave C indefinite where it is very elongated: the same bound as in its decomposition.
                variance = xp.maximum(variance, 1e-16 * xp.max(variance))[p.floats :]
                deviation = gaussian.sigma * xp.sqrt(variance)
                mean, margin = with_margin(p.cells, gaussian.mean[p.floats :], deviation, margin, left, p.alpha)
                gaussian = gaussian._replace(mean=xp.concat([gaussian.mean[: p.floats], mean]))
        if choices is not None:
            weights = constants(n, 1).positive
            choices = _learn(p, choices, _read(p, rows[: n // 2, :]), xp.asarray(weights[: n // 2], dtype=rows.dtype))
        window = 10 + math.ceil(30 * p.variables / n)
        return CatCMAState(
            key=state.key,
            generation=generation,
            gaussian=gaussian,
            margin=margin,
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
            if p.cells is not None:
                mean = xp.concat([mean[: p.floats], p.cells.around(mean[p.floats :])[1]])
            columns.append(mean)
        if state.choices is not None:
            columns.append(xp.reshape(_onehot(state.choices.q), (-1,)))
        return _write(p, xp.concat(columns)[None, :])[0, :]

    def stop(self, state: CatCMAState) -> dict[str, Bool[Array, ""]]:
        """CMA-ES's reasons to restart, of floats and integers; for choices alone only "tolfun"."""
        reasons = {} if state.gaussian is None else self._cma_es(self._parts(state)).stop(state.gaussian)
        return {**reasons, "tolfun": state.stall.spread < 1e-12}

    def dimension(self, state: CatCMAState) -> int:
        """The number of coordinates."""
        return self._coordinates or (0 if state.gaussian is None else state.gaussian.mean.shape[0])

    @cached_property
    def _coordinates(self) -> int:
        return 0 if self.layout is None else len(parts(self.layout).places)

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
