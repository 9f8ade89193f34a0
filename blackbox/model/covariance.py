"""The kernel of the Gaussian processes, over numbers and choices: a Matern one plus that of all quadratics.

Source: Rasmussen & Williams 2006, "Gaussian Processes for Machine Learning", chapter 4. With p, q features: numbers in
[0, 1], of which u = 2 p - 1, and one-hot choices, any two options of which are 1 apart:

    k(p, q) = (1 + r + r^2 / 3) exp(-r) + tau (1 + u . u')^2,   r^2 = 5 sum_i |p_i - q_i|^2 / l_i^2

with a length for each variable: Matern with nu = 5/2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

ROOT5 = math.sqrt(5.0)


class Features(NamedTuple):
    """Points of a mixed space."""

    x: Float[ndarray, "n f"]
    """Numbers in [0, 1], and of each choice an option's column at sqrt(1/2), the others at 0."""
    owner: Int[ndarray, "f"]
    """The variable, from 0, that each column belongs to."""
    is_number: Bool[ndarray, "f"]

    def rows(self, index: Int[ndarray, "q"] | Bool[ndarray, "n"] | slice) -> Features:
        return self._replace(x=self.x[index])


class Placed(NamedTuple):
    """Points as a kernel sees them."""

    z: Float[ndarray, "n f"]
    """Features of which r is the distance."""
    norm: Float[ndarray, "n"]
    """Squared, of these."""
    u: Float[ndarray, "n f"]
    """Times tau^(1/4); of choices 0."""
    square: Float[ndarray, "n"]
    """tau^(1/2) (1 + u . u)"""

    @property
    def variance(self) -> Float[ndarray, "n"]:
        """k between each point and itself."""
        return 1.0 + self.square * self.square

    def rows(self, index: Int[ndarray, "q"] | slice) -> Placed:
        return Placed(self.z[index], self.norm[index], self.u[index], self.square[index])

    def joined(self, others: Placed) -> Placed:
        return Placed(*map(np.concatenate, zip(self, others, strict=True)))


class Parts(NamedTuple):
    """What k between points is made of."""

    r: Float[ndarray, "n q"]
    fall: Float[ndarray, "n q"]
    """exp(-r)"""
    quadratic: Float[ndarray, "n q"]
    """tau^(1/2) (1 + u . u')"""

    @property
    def k(self) -> Float[ndarray, "n q"]:
        k = self.r * (1 / 3)
        k += 1.0
        k *= self.r
        k += 1.0
        k *= self.fall
        k += self.quadratic * self.quadratic
        return k

    def rows(self, index: Int[ndarray, "m"]) -> Parts:
        return Parts(self.r[index], self.fall[index], self.quadratic[index])


class Kernel(NamedTuple):
    """k with its hyperparameters."""

    weights: Float[ndarray, "f"]
    """Of the features, in r."""
    tilt: Float[ndarray, "f"]
    """2 tau^(1/4); of choices 0."""
    root_tau: float

    @classmethod
    def of(cls, theta: Float[ndarray, "p"], points: Features) -> Kernel:
        """From the logarithms of the lengths and, third from the end, of tau."""
        root_tau = math.exp(0.5 * theta[-3])
        return cls((ROOT5 * np.exp(-theta))[points.owner], 2.0 * math.sqrt(root_tau) * points.is_number, root_tau)

    def placed(self, x: Float[ndarray, "n f"]) -> Placed:
        """From features."""
        z, u = x * self.weights, x * self.tilt
        u -= 0.5 * self.tilt
        return Placed(z, np.einsum("nf,nf->n", z, z), u, self.root_tau + np.einsum("nf,nf->n", u, u))

    def between(self, a: Placed, b: Placed) -> Parts:
        r = (-2.0 * a.z) @ b.z.T
        r += a.norm[:, None]
        r += b.norm
        np.sqrt(np.maximum(r, 0.0, out=r), out=r)
        quadratic = a.u @ b.u.T
        quadratic += self.root_tau
        return Parts(r, np.exp(-r), quadratic)

    def slopes(self, a: Placed, b: Placed, parts: Parts, weights: Float[ndarray, "n q"]) -> Float[ndarray, "n f"]:
        """Gradients of the weighted sums of k between a and b by the features of a."""
        by_square = (1.0 + parts.r) * parts.fall
        by_square *= weights
        # Of Matern: -(1 + r) exp(-r) / 3, times the difference.
        matern = by_square @ b.z - by_square.sum(1)[:, None] * a.z
        return matern * (self.weights / 3) + ((weights * parts.quadratic) @ b.u) * (2.0 * self.tilt)
