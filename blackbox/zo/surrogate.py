"""A Gaussian process of a client's queries: gradient of its mean, how uncertain that is, and weights to send.

Squared exponential kernel of lengthscale l, values y standardized, noise variance s in units of the kernel's amplitude;
at a point x with p_j = x_j - x:

    k(a, b)  =  exp(-|a - b|^2 / (2 l^2)),    K = k(X, X) + s I
    mean'    =  sum_j (K^-1 y)_j k(x, x_j) p_j / l^2
    variance =  d / l^2 - sum_ij (K^-1)_ij k(x, x_i) k(x, x_j) p_i^T p_j / l^4        trace over coordinates, times a^2

with the kernel's likeliest amplitude a^2 = y^T K^-1 y / n. The paper's uncertainty is a norm of the matrix of which
this variance is the trace.

Shu, Dai, Sng, Verma, Jaillet & Low 2023, "Zeroth-Order Optimization with Trajectory-Informed Derivative Estimation"
(ICLR), equations 4 and 5. The random Fourier features of Rahimi & Recht 2007 approximate the kernel by a product,

    phi(x)   =  (2 / M)^(1/2) cos(V x / l + b),  k(a, b) ~ phi(a)^T phi(b)
    weights  =  Phi^T (Phi Phi^T + s I)^-1 y,    Phi rows phi(x_j)

With n queries and M features: O(n^2 (d + M) + n^3).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from blackbox.kernels.noise import normal, uniform

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    from blackbox.arrays import Key


class Queries(NamedTuple):
    """Of one client; slots that are empty, or whose query failed, are not ``known`` and count for nothing."""

    points: Float[Array, "n d"]
    values: Float[Array, "n"]
    known: Bool[Array, "n"]


class Features(NamedTuple):
    """Random Fourier features of lengthscale 1."""

    frequencies: Float[Array, "features d"]
    phases: Float[Array, "features"]


def drawn_features(key: Key, count: int, orthogonal: bool, like: Float[Array, "d"]) -> Features:
    """Normal frequencies, independent or in orthogonal blocks of d, and uniform phases."""
    d = like.shape[0]
    rows = min(count, d)
    blocks = -(-count // rows)
    z = normal(key, 0, (blocks, rows, d), leaf=2, like=like)
    if orthogonal:
        # The length of a normal vector in a direction of its own (Yu et al. 2016, arXiv:1610.09072).
        lengths = jnp.linalg.norm(normal(key, 0, (blocks, rows, d), leaf=3, like=like), axis=-1, keepdims=True)
        z = lengths * jnp.swapaxes(jnp.linalg.qr(jnp.swapaxes(z, 1, 2))[0], 1, 2)
    phases = 2 * math.pi * uniform(key, 0, (count,), leaf=4, like=like)
    return Features(z.reshape(-1, d)[:count], phases)


MULTIPLES = (2.0, 4.0, 8.0)


def likely_lengthscale(queries: Queries, noise: Any) -> Float[Array, ""]:
    """Of those in :data:`MULTIPLES`, times the root mean square distance of known points, the most likely lengthscale.

    The kernel's amplitude a is the likeliest for each: log likelihood -n/2 log(y^T K^-1 y / n) - 1/2 log det K. It is 0
    where known points are all at one place, or there are none.
    """
    weight = queries.known[:, None].astype(queries.points.dtype)
    count = jnp.maximum(jnp.sum(weight), 1)
    center = jnp.sum(weight * queries.points, axis=0) / count
    unit = jnp.sqrt(2 * jnp.sum(((queries.points - center) * weight) ** 2) / count)
    at_unit = posterior(queries, center, jnp.where(unit > 0, unit, 1), noise)
    y, _ = standardized(queries)
    squares = jnp.diagonal(at_unit.products)
    distances = jnp.maximum(squares[:, None] + squares[None, :] - 2 * at_unit.products, 0)

    def log_likelihood(multiple: Float[Array, ""]) -> Float[Array, ""]:
        factor = factor_of(jnp.exp(-0.5 * distances / multiple**2), queries.known, noise)
        amplitude = jnp.maximum(y @ cho_solve((factor, True), y) / count, float(np.finfo(y.dtype).tiny))
        return -0.5 * count * jnp.log(amplitude) - jnp.sum(jnp.log(jnp.diagonal(factor)))  # unknown points: 0

    multiples = jnp.asarray(MULTIPLES, unit.dtype)
    return unit * multiples[jnp.argmax(jax.lax.map(log_likelihood, multiples))]


def standardized(queries: Queries) -> tuple[Float[Array, "n"], Float[Array, ""]]:
    """Values less their mean over their standard deviation, 0 where unknown; and that deviation."""
    count = jnp.maximum(jnp.sum(queries.known), 1)
    mean = jnp.sum(queries.values, where=queries.known) / count
    centered = jnp.where(queries.known, queries.values - mean, 0)
    deviation = jnp.sqrt(jnp.sum(centered**2) / count)
    return centered / jnp.where(deviation > 0, deviation, 1), deviation


def factor_of(gram: Float[Array, "n n"], known: Bool[Array, "n"], noise: Any) -> Float[Array, "n n"]:
    """Cholesky's factor of the kernel matrix with noise; unknown points are independent of all others.

    The noise is at least what the roundings of n points add up to, below which there may be no factor.
    """
    both = known[:, None] & known[None, :]
    least = 2 * gram.shape[0] * float(np.finfo(gram.dtype).eps)
    diagonal = jnp.where(known, jnp.maximum(noise, least), 1.0)
    return jnp.linalg.cholesky(jnp.where(both, gram, 0) + jnp.diag(diagonal).astype(gram.dtype))


class Posterior(NamedTuple):
    """A Gaussian process of lengthscale 1, with what its gradients need."""

    points: Float[Array, "n d"]
    """Less ``origin``, in units of the lengthscale."""
    products: Float[Array, "n n"]
    """Of points with each other."""
    factor: Float[Array, "n n"]
    coefficients: Float[Array, "n"]
    known: Bool[Array, "n"]
    origin: Float[Array, "d"]
    lengthscale: Float[Array, ""]
    deviation: Float[Array, ""]
    """Of the known values."""
    amplitude: Float[Array, ""]
    """Of the kernel, in units of values: the most likely one."""


def posterior(queries: Queries, origin: Float[Array, "d"], lengthscale: Float[Array, ""], noise: Any) -> Posterior:
    """The Gaussian process of some queries; ``origin`` is a point near them, so that distances keep their digits."""
    points = (queries.points - origin) / lengthscale
    products = points @ points.T
    squares = jnp.diagonal(products)
    distances = squares[:, None] + squares[None, :] - 2 * products
    factor = factor_of(jnp.exp(-0.5 * jnp.maximum(distances, 0)), queries.known, noise)
    y, deviation = standardized(queries)
    coefficients = cho_solve((factor, True), y)
    square = jnp.maximum(y @ coefficients, 0) / jnp.maximum(jnp.sum(queries.known), 1)
    return Posterior(
        points=points,
        products=products,
        factor=factor,
        coefficients=coefficients,
        known=queries.known,
        origin=origin,
        lengthscale=lengthscale,
        deviation=deviation,
        amplitude=deviation * jnp.sqrt(square),
    )


def mean_gradient(process: Posterior, x: Float[Array, "d"]) -> Float[Array, "d"]:
    """Of the posterior mean, in units of values by units of x."""
    steps = process.points - (x - process.origin) / process.lengthscale
    k = jnp.where(process.known, jnp.exp(-0.5 * jnp.sum(steps**2, axis=-1)), 0)
    return process.deviation * ((process.coefficients * k) @ steps) / process.lengthscale


def inverse_of(process: Posterior) -> Float[Array, "n n"]:
    """Of the kernel matrix with noise, for :func:`explained_variance` at many points."""
    return cho_solve((process.factor, True), jnp.eye(process.factor.shape[0], dtype=process.factor.dtype))


def explained_variance(process: Posterior, inverse: Float[Array, "n n"], x: Float[Array, "d"]) -> Float[Array, ""]:
    """By how much queries have reduced the variance of the gradient at ``x``, summed over coordinates, of d at first.

    In units of the squared amplitude over the squared lengthscale.
    """
    at = (x - process.origin) / process.lengthscale
    steps = process.points - at
    k = jnp.where(process.known, jnp.exp(-0.5 * jnp.sum(steps**2, axis=-1)), 0)
    # k^T (inverse * (points - at) (points - at)^T) k, whose middle part would be a matrix for each point asked for.
    along, solved = process.points @ at, inverse @ k
    return k @ (inverse * process.products) @ k - 2 * (k * along) @ solved + jnp.sum(at**2) * (k @ solved)


def feature_weights(
    queries: Queries, features: Features, origin: Float[Array, "d"], lengthscale: Float[Array, ""], noise: Any
) -> Float[Array, "features"]:
    """Of the features' mean, in units of values."""
    phi = featured(features, (queries.points - origin) / lengthscale)
    y, deviation = standardized(queries)
    factor = factor_of(phi @ phi.T, queries.known, noise)
    return deviation * (cho_solve((factor, True), y) @ phi)


def featured(features: Features, points: Float[Array, "... d"]) -> Float[Array, "... features"]:
    """phi, of points in units of the lengthscale."""
    count = features.phases.shape[0]
    return (2 / count) ** 0.5 * jnp.cos(points @ features.frequencies.T + features.phases)


def feature_gradient(
    weights: Float[Array, "features"],
    features: Features,
    x: Float[Array, "d"],
    origin: Float[Array, "d"],
    lengthscale: Float[Array, ""],
) -> Float[Array, "d"]:
    """Of the sum of weighted features at ``x``."""
    angle = features.frequencies @ ((x - origin) / lengthscale) + features.phases
    count = features.phases.shape[0]
    return -((2 / count) ** 0.5) * ((weights * jnp.sin(angle)) @ features.frequencies) / lengthscale
