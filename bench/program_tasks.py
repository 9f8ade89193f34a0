"""Tasks that optimizer programs are judged by: small ones to search on, larger ones that the search never sees.

Every task is many runs at once, of several seeds by several learning rates, with the same first weights, batches and
noise for every program. A program's value on a task is that of its best learning rate, so that programs are compared as
they are tuned; the rate falls linearly to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

import blackbox as bb

Array = np.ndarray


class Task(NamedTuple):
    """A training problem of several seeds, whose weights are (..., seeds, d)."""

    name: str
    w: Array
    """First weights, (seeds, d)."""
    gradient: Callable[[Array, Array], Array]
    """Of weights and the number of the step, on that step's batch or with that step's noise."""
    loss: Callable[[Array], Array]
    """What counts, (..., seeds): without noise, on data held out."""
    steps: int


def in_units(task: Task, units: Sequence[float]) -> Task:
    """The task with each seed's gradient in a unit of its own, as if its loss were multiplied: what counts stays."""
    sizes = np.reshape(units, (-1, 1))
    return task._replace(gradient=lambda w, t: sizes * task.gradient(w, t))


def quadratic(
    *, blocks: int, inner: float, outer: float, df: float, scale: float, steps: int, seeds: Sequence[int], name: str
) -> Task:
    """A quadratic of rotated blocks of 4 weights, with noise of Student's t on every gradient.

    Curvatures differ by ``inner`` within a block and by ``outer`` between blocks, as between the layers of a network.
    The noise of a weight is in proportion to its curvature's root, as that of batches is near a minimum.
    """
    hessians, bests, noises = [], [], []
    for seed in seeds:
        rng = np.random.default_rng([seed, blocks])
        turns = np.linalg.qr(rng.normal(size=(blocks, 4, 4)))[0]
        spread = rng.permutation(np.geomspace(1 / outer, 1.0, blocks))[:, None] * np.geomspace(1 / inner, 1.0, 4)
        hessians.append(turns * spread[:, None, :] @ np.swapaxes(turns, 1, 2))
        bests.append(rng.normal(size=4 * blocks))
        deviation = scale * np.sqrt(np.diagonal(hessians[-1], axis1=1, axis2=2)).ravel()
        noises.append(rng.standard_t(df, size=(steps, 4 * blocks)) * deviation)
    hessian, best, noise = np.stack(hessians), np.stack(bests), np.stack(noises, axis=1)

    def curved(x: Array) -> Array:
        return (hessian @ x.reshape(*x.shape[:-1], blocks, 4, 1)).reshape(x.shape)

    def gradient(w: Array, t: Array) -> Array:
        return curved(w - best) + noise[t]

    def loss(w: Array) -> Array:
        return np.sum((w - best) * curved(w - best), axis=-1) / np.sum(best * curved(best), axis=-1)

    return Task(name, np.zeros_like(best), gradient, loss, steps)


@cache
def _pixels(pooled: bool) -> tuple[Array, Array]:
    """Images of digits as rows of pixels of unit deviation, with a one for the bias; their labels, one-hot."""
    images, labels = load_digits(return_X_y=True)
    if pooled:  # 4 x 4 pixels
        images = images.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
    images = (images - images.mean(axis=0)) / images.std()
    return np.concatenate([images, np.ones((len(images), 1))], axis=1), np.eye(10)[labels]


def digits(
    *, hidden: int, pooled: bool, batch: int, flipped: float, steps: int, seeds: Sequence[int], name: str = "digits"
) -> Task:
    """Digits by softmax regression, or by a network with ``hidden`` units, from small batches.

    A share ``flipped`` of the labels of every batch is wrong; the loss is of 400 images held out, with right labels.
    """
    x, y = _pixels(pooled)
    inputs = x.shape[1]
    orders, rows, labels, starts = [], [], [], []
    for seed in seeds:
        rng = np.random.default_rng([seed, hidden, inputs])
        order = rng.permutation(len(x))
        orders.append(order[:400])
        rows.append(rng.choice(order[400:], size=(steps, batch)))
        wrong = rng.random((steps, batch, 1)) < flipped
        labels.append(np.where(wrong, np.eye(10)[rng.integers(10, size=(steps, batch))], y[rows[-1]]))
        first = rng.normal(size=(inputs, hidden)) / inputs**0.5
        starts.append(np.concatenate([first.ravel(), np.zeros(10 * (hidden + 1 if hidden else inputs))]))
    held, batches, targets = np.stack(orders), np.stack(rows, axis=1), np.stack(labels, axis=1)

    def layers(w: Array) -> tuple[Array, Array]:
        cut = inputs * hidden
        return w[..., :cut].reshape(*w.shape[:-1], inputs, hidden), w[..., cut:].reshape(*w.shape[:-1], -1, 10)

    def forward(w: Array, images: Array) -> tuple[Array, Array, Array]:
        first, last = layers(w)
        if hidden:
            units = np.tanh(images @ first)
            seen = np.concatenate([units, np.ones((*units.shape[:-1], 1))], axis=-1)
        else:
            seen = np.broadcast_to(images, (*w.shape[:-1], *images.shape[-2:]))
        logits = seen @ last
        logits = logits - logits.max(axis=-1, keepdims=True)
        return seen, last, logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    def gradient(w: Array, t: Array) -> Array:
        images = x[batches[t]]
        seen, last, logs = forward(w, images)
        error = (np.exp(logs) - targets[t]) / batch
        of_last = np.swapaxes(seen, -1, -2) @ error
        if not hidden:
            return of_last.reshape(w.shape)
        back = (error @ np.swapaxes(last[..., :-1, :], -1, -2)) * (1 - seen[..., :-1] ** 2)
        of_first = np.swapaxes(images, -1, -2) @ back
        return np.concatenate([of_first.reshape(*w.shape[:-1], -1), of_last.reshape(*w.shape[:-1], -1)], axis=-1)

    def loss(w: Array) -> Array:
        logs = forward(w, x[held])[2]
        return -np.mean(np.sum(logs * y[held], axis=-1), axis=-1) / np.log(10)

    return Task(name, np.stack(starts), gradient, loss, steps)


@dataclass(frozen=True)
class Objective:
    """What the search minimizes: the mean over tasks and seeds of the logarithm of the loss, in units of a guess's.

    Args:
        tasks: each with the same weight.
        rates: learning rates, of which each program has its best on each task.
    """

    tasks: tuple[Task, ...]
    rates: tuple[float, ...]

    def __call__(self, program: bb.programs.Program) -> float:
        logs = [np.log(losses(program, task, self.rates)) for task in self.tasks]
        return float(np.mean([np.min(np.mean(of_rates, axis=1)) for of_rates in logs]))


def losses(program: bb.programs.Program, task: Task, rates: Sequence[float]) -> Array:
    """The loss after training, (rates, seeds); infinite where it has failed."""
    first = np.reshape(rates, (-1, 1, 1))
    w = np.broadcast_to(task.w, (len(rates), *task.w.shape))
    end = bb.programs.descend(program, task.gradient, w, lr=lambda t: first * (1 - t / task.steps), steps=task.steps)
    return _loss(task, end)


def course(program: bb.programs.Program, task: Task, rate: float, every: int) -> Array:
    """The median loss over seeds before training and after each ``every`` steps of it."""
    w, memory = task.w, bb.programs.start(program, task.w)
    found = [_loss(task, w)]
    for t in range(task.steps):
        with np.errstate(all="ignore"):
            lr = rate * (1 - t / task.steps)
            update, memory = bb.programs.step(program, w, task.gradient(w, np.asarray(t)), memory, lr)
            w = w - update
        if (t + 1) % every == 0:
            found.append(_loss(task, w))
    return np.median(found, axis=1)


def _loss(task: Task, w: Array) -> Array:
    with np.errstate(all="ignore"):
        loss = task.loss(w)
    return np.where(np.isfinite(loss), loss, np.inf)
