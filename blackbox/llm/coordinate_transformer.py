"""A transformer over coordinates that says where in a list of scored solutions a better one is.

Sources: the question is that of Lange, Tian & Tang 2024 (arXiv:2402.18381); answering it by a posterior that a network
learned from problems of known optima is due to Müller et al. 2022, "Transformers can do Bayesian inference"
(arXiv:2112.10510). For solutions x_1..x_n, best first, losses f and a desired loss f*, in units of the better half's
mean c and spread s:

    token of j    asinh of (x_ij - c_j) / s for all i, with the losses, the solutions' distances from c, f*, and a
                  separable quadratic model of the losses; one linear map
    blocks        h += attention over coordinates; h += MLP
    p_j           softmax over 64 bins of asinh((x*_j - c_j) / s): the posterior of the solution x* whose loss is f*

So it depends on neither the order of the solutions nor the place and scale of the window; coordinates in another order
are answered in that order; and affine changes of the losses change nothing.

Written for NumPy, which answers, and JAX, which trains (``bench/embedded_training.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    from jaxtyping import Float, Int

ROWS = 25  # solutions that are read, the best of those given
BINS, REACH = 64, 20.0  # of the posterior, from -REACH to REACH in units of s
HEADS = 4
FEATURES = 3 * ROWS + 13
_STRETCH = math.asinh(REACH)
_SHARPNESS = (1.0, 4.0, 16.0)  # of weights by losses
_RIDGE = 0.1

CENTERS: Float[ndarray, "bins"] = np.sinh(((np.arange(BINS) + 0.5) / BINS * 2 - 1) * _STRETCH)


def bin_of(u: Float[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
    """The bin that ``u`` falls into, as a real number."""
    return (np.arcsinh(u) / _STRETCH + 1) / 2 * BINS - 0.5


class Tokens(NamedTuple):
    """What the network reads of a list, and the units of its answer."""

    features: Float[ndarray, "lists d features"]
    center: Float[ndarray, "lists d"]
    scale: Float[ndarray, "lists"]


def tokens(
    solutions: Float[ndarray, "lists rows d"],
    losses: Float[ndarray, "lists rows"],
    count: Int[ndarray, "lists"],
    desired: Float[ndarray, "lists"],
) -> Tokens:
    """The tokens of several lists of solutions, best first, of which the first ``count`` rows, >= 1, are in use."""
    lists, n, d = solutions.shape
    rank = np.arange(n)[None]
    used = rank < count[:, None]
    half = np.ceil(count / 2)[:, None]
    weights = np.where(rank < half, np.log(half + 0.5) - np.log(rank + 1), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    center = np.einsum("bn,bnd->bd", weights, solutions)
    away = solutions - center[:, None]
    scale = np.sqrt(np.einsum("bn,bnd->b", weights, away**2) / d)
    farthest = np.max(np.where(used[..., None], np.abs(away), 0.0), axis=(1, 2))
    scale = np.where(scale > 0, scale, np.where(farthest > 0, farthest, 1.0))  # where the better half is one point
    x = np.where(used[..., None], away / scale[:, None, None], 0.0)

    best, worst = losses[:, 0], losses[np.arange(lists), count - 1]
    width = np.maximum(losses[np.arange(lists), count // 2] - best, 1e-9 * (worst - best))
    width = np.where(width > 0, width, 1.0)
    z = np.where(used, (losses - best[:, None]) / width[:, None], 0.0)
    zq = (desired - best) / width

    stretched, loss = np.arcsinh(x), np.arcsinh(z)
    distance = np.arcsinh(np.mean(x**2, axis=-1))
    slope, curvature, minimum = _separable(x, loss, np.log(z + 0.03), used)
    total = [np.arcsinh(zq), np.log(np.abs(zq) + 1e-3) / 3, count / ROWS, np.full(lists, math.log(d))]

    def everywhere(values: ndarray) -> ndarray:
        return np.broadcast_to(values[:, None, :], (lists, d, values.shape[-1]))

    features = [
        np.swapaxes(stretched, 1, 2),
        everywhere(loss),
        everywhere(distance),
        *[_weighted(stretched, z, used, sharpness)[..., None] for sharpness in _SHARPNESS],
        np.arcsinh(slope),
        np.arcsinh(curvature),
        np.arcsinh(minimum),
        everywhere(np.stack(total, axis=-1)),
    ]
    return Tokens(np.concatenate(features, axis=-1).astype(np.float32), center, scale)


def _weighted(
    x: Float[ndarray, "lists rows d"], z: Float[ndarray, "lists rows"], used: ndarray, sharpness: float
) -> Float[ndarray, "lists d"]:
    """The mean of ``x`` by weights that fall with the losses."""
    weights = np.where(used, np.exp(-np.minimum(sharpness * z, 700.0)), 0.0)
    return np.einsum("bn,bnd->bd", weights / weights.sum(axis=1, keepdims=True), x)


def _separable(
    x: Float[ndarray, "lists rows d"], *targets: ndarray
) -> tuple[Float[ndarray, "lists d 2"], Float[ndarray, "lists d 2"], Float[ndarray, "lists d 2"]]:
    """Slope, curvature and minimum of ridge regressions on 1, x and x**2, without products of coordinates."""
    *losses, used = targets
    d, near = x.shape[-1], np.clip(x, -4.0, 4.0)
    rows = np.concatenate([np.ones((*x.shape[:2], 1)), near, near**2], axis=-1) * used[..., None]
    weighted = np.swapaxes(rows * np.exp(-0.5 * losses[0])[..., None], 1, 2)
    target = np.stack([np.where(used, loss, 0.0) for loss in losses], axis=-1)
    fit = np.linalg.solve(weighted @ rows + _RIDGE * np.eye(2 * d + 1), weighted @ target)
    slope, curvature = fit[:, 1 : d + 1], fit[:, d + 1 :]
    minimum = np.clip(-slope / (2 * np.maximum(curvature, 0.02)), -30.0, 30.0)
    return slope, curvature, minimum


def shapes(width: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Names of the parameters with their shapes."""
    found = {"read": (FEATURES, width), "read.bias": (width,), "norm": (width,)}
    found |= {"bins": (width, BINS), "bins.bias": (BINS,)}
    for layer in range(layers):
        found |= {
            f"{layer}.attention.norm": (width,),
            f"{layer}.attention.in": (width, 3 * width),
            f"{layer}.attention.out": (width, width),
            f"{layer}.mlp.norm": (width,),
            f"{layer}.mlp.in": (width, 3 * width),
            f"{layer}.mlp.bias": (3 * width,),
            f"{layer}.mlp.out": (3 * width, width),
        }
    return found


def initial(rng: np.random.Generator, width: int, layers: int) -> dict[str, Float[ndarray, "..."]]:
    """Random parameters; those of the bins begin smooth along them, and what is added to ``h`` begins small."""
    waves = np.cos(np.pi * np.arange(24)[:, None] * (np.arange(BINS) + 0.5) / BINS)
    parameters = {}
    for name, shape in shapes(width, layers).items():
        if name.endswith("norm"):
            value = np.ones(shape)
        elif name.endswith("bias"):
            value = np.zeros(shape)
        elif name == "bins":
            value = rng.standard_normal((width, 24)) * width**-0.5 @ waves * 0.02
        else:
            value = (
                rng.standard_normal(shape) * ((2 * layers) ** -0.5 if name.endswith("out") else 1.0) * shape[0] ** -0.5
            )
        parameters[name] = value.astype(np.float32)
    return parameters


def logits(xp: Any, parameters: Mapping[str, Any], features: Any) -> Any:
    """Logits of the bins, (lists, d, bins), by ``xp``, which is NumPy or JAX's."""
    lists, d, _ = features.shape
    width = parameters["norm"].shape[0]
    h = features @ parameters["read"] + parameters["read.bias"]
    for layer in range(sum(name.endswith("attention.in") for name in parameters)):
        p = {name.partition(".")[2]: value for name, value in parameters.items() if name.startswith(f"{layer}.")}
        heads = (_normed(xp, h) * p["attention.norm"] @ p["attention.in"]).reshape(lists, d, 3, HEADS, width // HEADS)
        query, key, value = (xp.swapaxes(heads[:, :, i], 1, 2) for i in range(3))
        weights = _softmax(xp, query @ xp.swapaxes(key, -1, -2) * float((width // HEADS) ** -0.5))
        h = h + xp.swapaxes(weights @ value, 1, 2).reshape(lists, d, width) @ p["attention.out"]
        hidden = _normed(xp, h) * p["mlp.norm"] @ p["mlp.in"] + p["mlp.bias"]
        h = h + hidden / (1 + xp.exp(-1.702 * hidden)) @ p["mlp.out"]  # GELU by its sigmoid
    return _normed(xp, h) * parameters["norm"] @ parameters["bins"] + parameters["bins.bias"]


def _normed(xp: Any, h: Any) -> Any:
    return h / xp.sqrt(xp.mean(h * h, axis=-1, keepdims=True) + 1e-6)


def _softmax(xp: Any, scores: Any) -> Any:
    weights = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    return weights / xp.sum(weights, axis=-1, keepdims=True)


class Posterior(NamedTuple):
    """Where the solution is, in the units of the given ones."""

    mean: Float[ndarray, "lists d"]
    deviation: Float[ndarray, "lists d"]


def posterior(read: Tokens, values: Float[ndarray, "lists d bins"]) -> Posterior:
    """Mean and standard deviation by the logits of the bins."""
    weights = _softmax(np, np.asarray(values, np.float64))
    mean = weights @ CENTERS
    variance = np.maximum(weights @ CENTERS**2 - mean**2, 1e-6)
    return Posterior(read.center + read.scale[:, None] * mean, read.scale[:, None] * np.sqrt(variance))
