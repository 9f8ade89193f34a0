"""CatCMA with margin: CMA-ES jointly with categorical distributions, for floats, integers and choices.

Sources: Hamano, Saito, Nomura, Uchida & Shirakawa 2024, "CatCMA: stochastic optimization for mixed-category
problems", GECCO, arXiv:2405.09962; Hamano, Nomura, Saito, Uchida & Shirakawa 2025, "CatCMA with margin for single-
and multi-objective mixed-variable black-box optimization", arXiv:2504.07884; the categorical part is adaptive
stochastic natural gradient, Akimoto et al. 2019, ICML, arXiv:1905.08537.

    floats, integers    v ~ mean + A N(0, sigma^2 C); an integer is the cell of its axis that v falls into
    choices             one-hot c ~ Categorical(q)

Mean, sigma and C are learned by :mod:`~blackbox.es.cma_es` on (v - mean) / A, after which :mod:`~blackbox.es.margin`
keeps every neighboring cell reachable. The natural gradient of the choices, with the positive weights of CMA-ES, is

    G = sum_i w_i (c_i - q),     q <- q + delta G / |G|_F

in the Fisher norm. The trust region delta grows while successive gradients agree and shrinks while they do not;
every category keeps at least q_min.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from blackbox.arrays import Array, Key, namespace
from blackbox.errors import SettingError
from blackbox.es.cma_es import CMAES, CMAESState, constants, default_popsize
from blackbox.es.margin import Cells, Margin, cells, centered, into_cube, out_of_cube, with_margin
from blackbox.es.stall import watch
from blackbox.kernels.noise import uniform
from blackbox.shaping import best_first
from blackbox.strategy import algorithm, require_integer, require_number

SIGNAL_TO_NOISE = 1.5  # at which delta stays as it is


class Variables(NamedTuple):
    """Where the variables of a layout are: what ``ask`` and ``tell`` need to know of it."""

    numbers: np.ndarray  # coordinates of floats, then of integers
    n_floats: int
    cells: Cells | None  # of the integers
    columns: np.ndarray  # (choices, largest k): coordinates, the first one repeated where there are fewer
    exists: np.ndarray  # (choices, largest k)
    last: np.ndarray  # (choices, largest k): one-hot of the last category
    order: np.ndarray  # of the coordinates in [floats, integers, choices]
    alpha: float  # margin
    q_min: np.ndarray  # (choices, 1)
    parameters: int  # free parameters of all choices

    @property
    def count(self) -> int:
        return len(self.numbers) + len(self.columns)


@lru_cache(maxsize=64)
def variables(layout: tuple[tuple[Any, ...], ...] | None, d: int) -> Variables:
    """Read a layout of ``d`` coordinates.

    Raises:
        SettingError: an unknown entry, or another number of coordinates.
    """
    floats, integers, choices = [], [], []
    edges, position = [], 0
    for entry in layout if layout is not None else (("float",),) * d:
        kind = entry[0]
        if kind == "float":
            floats.append(position)
        elif kind == "int" and entry[1]:
            integers.append(position)
            edges.append(tuple(entry[1]))
        elif kind == "choice" and entry[1] >= 1:
            choices.append(np.arange(position, position + entry[1]))
        else:
            raise SettingError(f"layout must be of ('float',), ('int', edges) and ('choice', k); got {entry!r}")
        position += entry[1] if kind == "choice" else 1
    if position != d:
        raise SettingError(f"layout has {position} coordinates, but x0 has {d}")
    discrete = len(integers) + len(choices)
    alpha = 1 - 0.73 ** (1 / max(discrete, 1))
    sizes = np.array([len(c) for c in choices], int)
    k = np.arange(max(sizes, default=0))
    exists = k < sizes[:, None]
    numbers = np.array(floats + integers, int)
    return Variables(
        numbers=numbers,
        n_floats=len(floats),
        cells=cells(tuple(edges)) if edges else None,
        columns=np.array([np.pad(c, (0, len(k) - len(c)), constant_values=c[0]) for c in choices], int),
        exists=exists,
        last=k == sizes[:, None] - 1,
        order=np.argsort(np.concatenate([numbers, *choices]).astype(int)),
        alpha=alpha,
        q_min=(alpha / np.maximum(sizes - 1, 1))[:, None],
        parameters=max(1, int((sizes - 1).sum())),
    )


class Categorical(NamedTuple):
    q: Float[Array, "choices k"]
    path: Float[Array, "choices k"]
    """Accumulated natural gradients in the Fisher metric, each of length 1."""
    gamma: Float[Array, ""]
    """Expected squared length of the path, had the gradients been random."""
    Delta: Float[Array, ""]
    """Inverse of the trust region."""


class CatCMAState(NamedTuple):
    gaussian: CMAESState
    """Of the floats and integers: key and generation, mean, step size, covariance."""
    margin: Margin
    """Scales and mutation rates of the integers; its mean is theirs, too."""
    categorical: Categorical

    @property
    def mean(self) -> Float[Array, "m"]:
        return self.gaussian.mean


@algorithm
class CatCMA:
    """CatCMA with margin. Without integers and choices it is CMA-ES.

    The mean starts at x0, choices start uniform.

    Args:
        popsize: candidates per generation, at least 3; by default 4 + floor(3 ln n) for n variables.
        sigma0: initial step size of floats and integers, in units of x.
        layout: one entry per variable in the order of the coordinates: ``("float",)``, one coordinate;
            ``("int", edges)``, one coordinate in [0, 1] that the ascending edges cut into cells; ``("choice", k)``,
            k coordinates of a one-hot vector. None: all float.

    Raises:
        SettingError: in ``init``, for a layout that does not fit x0.
    """

    popsize: int | None = None
    sigma0: float = 0.2
    layout: tuple[tuple[Any, ...], ...] | None = None

    injectable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=3)
        require_number("sigma0", self.sigma0, above=0)

    def _cma_es(self, v: Variables) -> CMAES:
        return CMAES(popsize=self.popsize or max(4, default_popsize(v.count)), sigma0=self.sigma0)

    def init(self, key: Key, x0: Float[Array, "d"]) -> CatCMAState:
        xp = namespace(x0)
        v = variables(self.layout, x0.shape[0])
        gaussian = self._cma_es(v).init(key, xp.take(x0, xp.asarray(v.numbers)))
        q = xp.asarray(v.exists / np.maximum(v.exists.sum(axis=1, keepdims=True), 1), dtype=x0.dtype)
        one = xp.asarray(1.0, dtype=x0.dtype)[()]
        return CatCMAState(
            gaussian=gaussian,
            margin=Margin(
                mean=gaussian.mean[v.n_floats :],
                A=xp.ones_like(gaussian.mean[v.n_floats :]),
                rate=0.5 * xp.ones_like(gaussian.mean[v.n_floats :]),
            ),
            categorical=Categorical(q=q, path=xp.zeros_like(q), gamma=0 * one, Delta=one),
        )

    def ask(self, state: CatCMAState, first: int = 0) -> Float[Array, "n d"]:
        g, q = state.gaussian, state.categorical.q
        xp = namespace(g.mean)
        v = variables(self.layout, self._dimension(state))
        cma_es = self._cma_es(v)
        blocks = []
        if len(v.numbers):
            samples = cma_es.ask(g, first)
            blocks.append(samples[:, : v.n_floats])
            if v.cells is not None:
                integers = state.margin.mean + state.margin.A * (samples[:, v.n_floats :] - state.margin.mean)
                blocks.append(into_cube(integers, v.cells))
        if len(v.columns):
            n = cma_es.popsize or 0
            u = uniform(g.key, g.generation, (n, len(v.columns)), leaf=1, first=first, like=q)
            # Beyond the last category u never is, in spite of rounding.
            up_to = xp.where(xp.asarray(v.last | ~v.exists), xp.inf, xp.cumulative_sum(q, axis=1))
            category = xp.count_nonzero(u[:, :, None] >= up_to, axis=-1)
            one_hot = xp.astype(category[:, :, None] == xp.arange(q.shape[1]), q.dtype)
            (kept,) = np.nonzero(v.exists.ravel())
            blocks.append(xp.take(xp.reshape(one_hot, (n, -1)), xp.asarray(kept), axis=1))
        return xp.take(xp.concat(blocks, axis=1), xp.asarray(v.order), axis=1)

    def tell(self, state: CatCMAState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> CatCMAState:
        g, margin = state.gaussian, state.margin
        xp = namespace(g.mean)
        v = variables(self.layout, population.shape[1])
        order = best_first(fitness)
        population, fitness = xp.take(population, order, axis=0), xp.take(fitness, order)
        n, m = population.shape[0], len(v.numbers)
        weights = constants(n, max(m, 1)).positive
        mu = int(np.count_nonzero(weights))

        if m:
            samples = xp.take(population, xp.asarray(v.numbers), axis=1)
            if v.cells is not None:
                integers = out_of_cube(samples[:, v.n_floats :], v.cells)
                selected, succeeded = centered(integers[:mu, :], margin.mean, v.cells)
                integers = xp.concat([selected, integers[mu:, :]])
                unscaled = margin.mean + (integers - margin.mean) / margin.A
                samples = xp.concat([samples[:, : v.n_floats], unscaled], axis=1)
            g = self._cma_es(v).tell(g, samples, fitness)
            if v.cells is not None:
                deviation = g.sigma * xp.sqrt(xp.linalg.diagonal(g.C)[v.n_floats :])
                moved = margin._replace(mean=g.mean[v.n_floats :])
                margin = with_margin(moved, deviation, succeeded, v.cells, v.alpha)
                g = g._replace(mean=xp.concat([g.mean[: v.n_floats], margin.mean]))
        else:
            generation = g.generation + 1
            window = 10 + math.ceil(30 * v.count / n)
            g = g._replace(generation=generation, stall=watch(g.stall, fitness[0], generation, window))
        categorical = state.categorical
        if len(v.columns):
            weights = xp.asarray(weights, dtype=fitness.dtype)
            categorical = _natural_gradient_step(categorical, _one_hot(population, v), weights, v)
        return CatCMAState(g, margin, categorical)

    def recommend(self, state: CatCMAState) -> Float[Array, "d"]:
        g, q = state.gaussian, state.categorical.q
        xp = namespace(g.mean)
        v = variables(self.layout, self._dimension(state))
        blocks = [g.mean[: v.n_floats]]
        if v.cells is not None:
            blocks.append(into_cube(g.mean[None, v.n_floats :], v.cells)[0, :])
        if len(v.columns):
            one_hot = xp.astype(xp.argmax(q, axis=1)[:, None] == xp.arange(q.shape[1]), q.dtype)
            (kept,) = np.nonzero(v.exists.ravel())
            blocks.append(xp.take(xp.reshape(one_hot, (-1,)), xp.asarray(kept)))
        return xp.take(xp.concat(blocks), xp.asarray(v.order))

    def stop(self, state: CatCMAState) -> dict[str, Bool[Array, ""]]:
        """Reasons to restart, those of CMA-ES; each a scalar boolean.

        The margin holds integers at their cell's width however small their deviation before scaling has become,
        so with integers the condition of C and the size of its axes mean nothing.
        """
        v = variables(self.layout, self._dimension(state))
        if not len(v.numbers):
            return {"tolfun": state.gaussian.stall.spread < 1e-12}
        reasons = self._cma_es(v).stop(state.gaussian)
        return reasons if v.cells is None else {"tolfun": reasons["tolfun"], "tolxup": reasons["tolxup"]}

    def _dimension(self, state: CatCMAState) -> int:
        if self.layout is None:
            return int(state.mean.shape[0])
        return sum(entry[1] if entry[0] == "choice" else 1 for entry in self.layout)


def _one_hot(population: Float[Array, "n d"], v: Variables) -> Float[Array, "n choices k"]:
    """The chosen categories: of each block the first greatest coordinate."""
    xp = namespace(population)
    block = xp.take(population, xp.asarray(v.columns.ravel()), axis=1)
    block = xp.reshape(block, (population.shape[0], *v.columns.shape))
    category = xp.argmax(xp.where(xp.asarray(v.exists), block, -xp.inf), axis=-1)
    return xp.astype(category[..., None] == xp.arange(v.columns.shape[1]), population.dtype)


def _natural_gradient_step(
    state: Categorical, c: Float[Array, "n choices k"], weights: Float[Array, "n"], v: Variables
) -> Categorical:
    """One step of the categorical distributions, best sample first, and of the trust region."""
    q, path, gamma, Delta = state
    xp = namespace(q)
    exists, last = xp.asarray(v.exists), xp.asarray(v.last)
    q_min = xp.where(exists, xp.asarray(v.q_min, dtype=q.dtype), 0.0)
    gradient = xp.sum(weights[:, None, None] * (c - q), axis=0)

    # The square root of the Fisher matrix times the gradient (Akimoto et al. 2019, appendix B): all but the last
    # category are free parameters.
    q_last = xp.sum(xp.where(last, q, 0.0), axis=1, keepdims=True)
    of_others = -xp.sum(xp.where(last, gradient, 0.0), axis=1, keepdims=True)
    root = xp.sqrt(xp.where(exists, q, 1.0))
    fisher = xp.where(exists & ~last, gradient / root + root * of_others / (q_last + xp.sqrt(q_last)), 0.0)
    length = xp.sqrt(xp.sum(fisher * fisher)) + 1e-8

    delta = 1 / Delta
    beta = xp.minimum(delta / math.sqrt(v.parameters), xp.ones_like(delta))
    path = (1 - beta) * path + xp.sqrt(beta * (2 - beta)) * fisher / length
    gamma = (1 - beta) ** 2 * gamma + beta * (2 - beta)
    Delta = Delta * xp.exp(beta * (gamma - xp.sum(path * path) / SIGNAL_TO_NOISE))

    q = xp.maximum(q + (delta / length) * gradient, q_min)
    above = q - q_min
    q = q_min + above * (1 - xp.sum(q_min, axis=1, keepdims=True)) / xp.sum(above, axis=1, keepdims=True)
    return Categorical(q, path, gamma, Delta)
