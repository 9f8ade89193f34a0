"""Weights of small networks, and the episodes that they play."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from .. import exact, spec
from ..environments import ENVIRONMENTS
from ..weights import Setting, leaves_of
from .generator import words
from .kinds import CENTERED, f32
from .sums import seedsum

if TYPE_CHECKING:
    from jaxtyping import Float, Int32, UInt32

    from ..environments import Environment
    from ..weights import Arrays


def formed(setting: Setting, arrays: Arrays) -> Float[ndarray, "n d"]:
    """The weights of all members (see :mod:`.weights`)."""
    keys, base, factors, members = arrays
    if not setting.form.rank:
        return seedsum(keys, (base,), factors, members, setting.form.kind, 1)[0]
    return np.array(
        [
            _perturbed(setting, keys, row, int(member), step)
            for row, (member,), step in zip(
                np.broadcast_to(base, (factors.shape[0], base.shape[1])), members, factors, strict=True
            )
        ],
        f32,
    ).reshape(factors.shape[0], base.shape[1])


def _perturbed(
    setting: Setting, keys: UInt32[ndarray, "leaves 2"], base: Float[ndarray, "d"], member: int, steps: ndarray
) -> Float[ndarray, "d"]:
    """``base`` and a member's noise: of low rank, in a fused sum over the ranks in order, or of independent entries."""
    (kind, rank, small), out = setting.form, base.copy()
    for key, leaf in zip(keys, leaves_of(setting.sizes, small), strict=True):
        size = (leaf.inputs + leaf.outputs) * rank if leaf.is_low_rank else leaf.stop - leaf.start
        blocks = spec.blocks_of(size, kind)
        drawn = CENTERED[kind](words(key, member * blocks, blocks)).reshape(-1)[:size]
        own = out[leaf.start : leaf.stop].reshape(leaf.inputs, leaf.outputs)
        if leaf.is_low_rank:
            a, b = np.split(drawn.reshape(-1, rank), [leaf.inputs])
            for r in range(rank):
                own[...] = exact.fma((steps[1] * a[:, r])[:, None], b[:, r], own)
        else:
            own[...] = exact.fma(steps[0], drawn.reshape(own.shape), own)
    return out


def rollout(
    setting: Setting, arrays: Arrays, starts: Float[ndarray, "episodes state"]
) -> tuple[Float[ndarray, "n episodes"], Int32[ndarray, "n episodes"]]:
    """Returns and lengths of all members' episodes (:func:`blackbox.kernels.rollout`), those that run in lockstep."""
    weights, environment = formed(setting, arrays), ENVIRONMENTS[setting.env]
    shape = weights.shape[0], starts.shape[0]
    returns, lengths = np.zeros(shape[0] * shape[1], f32), np.zeros(shape[0] * shape[1], np.int32)
    running = np.arange(returns.size)
    own, state = np.repeat(weights, shape[1], axis=0), tuple(np.tile(starts, (shape[0], 1)).T)
    # Numbers that overflow are infinite, as in compiled code.
    with np.errstate(all="ignore"):
        for _ in range(setting.steps if returns.size else 0):
            action = _action(environment, setting.sizes, own, state)
            state, reward, is_over = environment.step(state, action, np, exact.sin_cos)
            returns[running] += reward
            lengths[running] += 1
            if is_over.any():
                keep = ~is_over
                running, own, state = running[keep], own[keep], tuple(x[keep] for x in state)
            if not running.size:
                break
    return returns.reshape(shape), lengths.reshape(shape)


def _action(
    environment: Environment, sizes: tuple[int, ...], weights: Float[ndarray, "k d"], state: tuple[ndarray, ...]
) -> Float[ndarray, "k"]:
    """What a network for each state does: biases first, then a fused multiply-add for each input in order."""
    seen = environment.observe(state, np, exact.sin_cos)
    values = np.stack([x / f32(scale) for x, scale in zip(seen, environment.scale, strict=True)], -1)
    leaves = tuple(leaves_of(sizes, 1))
    for matrix, biases in zip(leaves[::2], leaves[1::2], strict=True):
        inputs = exact.tanh(values) if matrix.start else values
        columns = weights[:, matrix.start : matrix.stop].reshape(-1, matrix.inputs, matrix.outputs)
        values = weights[:, biases.start : biases.stop]
        for i in range(matrix.inputs):
            values = exact.fma(inputs[:, i, None], columns[:, i], values)
    if environment.force is not None:
        action: ndarray = f32(environment.force) * exact.tanh(values[:, 0])
        return action
    # Not argmax, for which NaN is the largest: here it is never larger, as in compiled code.
    best, chosen = values[:, 0], np.zeros(values.shape[0], f32)
    for k in range(1, environment.outputs):
        is_larger = values[:, k] > best
        best, chosen = np.where(is_larger, values[:, k], best), np.where(is_larger, f32(k), chosen)
    return chosen
