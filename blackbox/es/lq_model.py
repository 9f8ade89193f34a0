"""Linear and quadratic models of an archive by weighted least squares, for a surrogate of the fitness.

Source: Hansen 2019, "A global surrogate assisted CMA-ES", GECCO 2019, doi:10.1145/3321707.3321842, section 3. His
weights fall with the rank from 20 to 1. Here they also fall with the value, as 1 / (1 + y / y_near) where y is the
distance from the best value and y_near that of the best tenth: else the model is one of the worst values, and where
these are millions of times the best ones, as on badly scaled functions that are no quadratics, it says nothing near the
best points. On BBOB within 100 D evaluations that gains a tenth of the area.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    from jaxtyping import Float

USED = 0.75  # share of the archive, the best of it, that a model is fitted to
SPARE = 1.1  # points in that share for each parameter, before a model is taken
LARGEST_WEIGHT = 20.0  # of the best point; that of the worst is 1
MOST_PARAMETERS = 256  # beyond, quadratic models are diagonal: full ones would take longer than most evaluations


def parameters(d: int) -> tuple[int, ...]:
    """How many the models have: linear, diagonal and, unless it has too many, full."""
    full = (d + 1) * (d + 2) // 2
    return (d + 1, 2 * d + 1, full)[: 2 if d == 1 or full > MOST_PARAMETERS else 3]


class Model(NamedTuple):
    """A quadratic in ``s = (x - center) / scale``, less the least value that it was fitted to."""

    center: Float[ndarray, "d"]
    scale: Float[ndarray, "d"]
    constant: float
    gradient: Float[ndarray, "d"]
    hessian: Float[ndarray, "d d"]

    def __call__(self, x: Float[ndarray, "n d"]) -> Float[ndarray, "n"]:
        s = (x - self.center) / self.scale
        return self.constant + s @ self.gradient + 0.5 * np.einsum("ij,ij->i", s @ self.hessian, s)


def fitted(points: Float[ndarray, "n d"], values: Float[ndarray, "n"]) -> Model:
    """The largest model that the archive allows, fitted to the best of it."""
    n, d = points.shape
    count = max(p for p in parameters(d) if p == d + 1 or n * USED >= SPARE * p)
    order = np.argsort(values, kind="stable")[: max(count + 2, int(USED * (n + 1)))]
    x, y = points[order], values[order] - values[order[0]]
    center, scale = x[0], np.abs(x - x[0]).max(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    height = y[-1] if y[-1] > 0 else 1.0
    s = (x - center) / scale
    i, j = np.triu_indices(d, 1)
    features = [np.ones((len(s), 1)), s]
    if count > d + 1:
        features.append(0.5 * s**2)
    if count > 2 * d + 1:
        features.append(s[:, i] * s[:, j])
    weights = np.linspace(LARGEST_WEIGHT, 1.0, len(s)) / (1 + y / _near(y))
    c = height * _least_squares(weights[:, None] * np.hstack(features), weights * (y / height))
    hessian = np.zeros((d, d))
    if count > d + 1:
        hessian[np.diag_indices(d)] = c[d + 1 : 2 * d + 1]
    if count > 2 * d + 1:
        hessian[i, j] = hessian[j, i] = c[2 * d + 1 :]
    return Model(center, scale, float(c[0]), c[1 : d + 1], hessian)


def _near(y: Float[ndarray, "n"]) -> float:
    """What counts as near the best of sorted values: the best tenth of them, the third at least, is."""
    further = y[min(len(y) - 1, max(2, len(y) // 10)) :]
    further = further[further > 0]
    return float(further[0]) if len(further) else 1.0


def _least_squares(a: Float[ndarray, "n p"], b: Float[ndarray, "n"]) -> Float[ndarray, "p"]:
    """The c that minimizes ``|a c - b|``, by QR; the shortest of them, by singular values, where there are many."""
    n, p = a.shape
    if n >= p:
        factor: Any = np.linalg.qr(np.column_stack([a, b]), mode="r")  # whose type NumPy's versions give differently
        r: Float[ndarray, "k q"] = np.asarray(factor)
        diagonal = np.abs(np.diagonal(r)[:p])
        if diagonal.min() > 1e-13 * diagonal.max():
            return np.linalg.solve(r[:p, :p], r[:p, p])
    return np.linalg.lstsq(a, b, rcond=1e-13)[0]


def kendall(a: Float[ndarray, "n"], b: Float[ndarray, "n"]) -> float:
    """Kendall's rank correlation, tau-b; 0 where all of one are equal."""
    x, y = np.sign(a[:, None] - a), np.sign(b[:, None] - b)
    pairs = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / pairs) if pairs > 0 else 0.0
