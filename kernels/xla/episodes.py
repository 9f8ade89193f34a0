"""Weights of small networks, and the episodes that they play."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..environments import ENVIRONMENTS
from ..weights import Setting, leaves_of
from .kinds import centered_noise, f32
from .sums import seedsum

if TYPE_CHECKING:
    from jaxtyping import Float, Int32

    from ..weights import Arrays


def formed(setting: Setting, arrays: Arrays) -> Float[Array, "n d"]:
    """The weights of all members, which exist in memory."""
    (keys, base, factors, members), (kind, rank, small) = arrays, setting.form
    if not rank:
        return seedsum(keys, (base,), factors, members, kind, 1)[0]
    leaves = tuple(leaves_of(setting.sizes, small))
    sizes = tuple((x.inputs + x.outputs) * rank if x.is_low_rank else x.stop - x.start for x in leaves)
    parts = []
    for leaf, e in zip(leaves, centered_noise(keys, members[:, 0], sizes, kind), strict=True):
        if leaf.is_low_rank:
            a, b = jnp.split(e.reshape(-1, leaf.inputs + leaf.outputs, rank), [leaf.inputs], axis=1)
            e = jnp.einsum("nir,nor->nio", a, b, precision=lax.Precision.HIGHEST)
        step = factors[:, int(leaf.is_low_rank), None]
        parts.append(base[:, leaf.start : leaf.stop] + step * e.reshape(e.shape[0], -1))
    return jnp.concatenate(parts, 1)


@partial(jax.jit, static_argnames="setting")
def rollout(
    setting: Setting, arrays: Arrays, starts: Float[Array, "episodes state"]
) -> tuple[Float[Array, "n episodes"], Int32[Array, "n episodes"]]:
    """What :func:`blackbox.kernels.ref.rollout` computes, but for roundings; all step until the last episode ends."""
    environment, weights = ENVIRONMENTS[setting.env], formed(setting, arrays)
    n, episodes = weights.shape[0], starts.shape[0]

    def sin_cos(x: Array) -> tuple[Array, Array]:
        return jnp.sin(x), jnp.cos(x)

    def act(state: tuple[Array, ...]) -> Array:
        seen = environment.observe(state, jnp, sin_cos)
        values = jnp.stack([x / scale for x, scale in zip(seen, environment.scale, strict=True)], -1)
        for leaf in leaves_of(setting.sizes, 1):
            part = weights[:, leaf.start : leaf.stop]
            if leaf.is_low_rank and leaf.start:
                values = jnp.tanh(values)
            if leaf.is_low_rank:
                matrix = part.reshape(n, leaf.inputs, leaf.outputs)
                values = jnp.einsum("nei,nio->neo", values, matrix, precision=lax.Precision.HIGHEST)
            else:
                values = values + part[:, None]
        if environment.force is None:
            return jnp.argmax(values, -1).astype(f32)
        return environment.force * jnp.tanh(values[..., 0])

    def is_running(carry: Any) -> Array:
        time, _, _, _, is_over = carry
        return (time < setting.steps) & ~is_over.all()

    def advance(carry: Any) -> Any:
        time, state, total, lengths, was_over = carry
        state, reward, ends = environment.step(state, act(state), jnp, sin_cos)
        return time + 1, state, total + jnp.where(was_over, 0, reward), lengths + ~was_over, was_over | ends

    begin = tuple(jnp.broadcast_to(x, (n, episodes)) for x in starts.T)
    zero = jnp.zeros((n, episodes), f32)
    carry = (jnp.int32(0), begin, zero, zero.astype(jnp.int32), zero.astype(bool))
    _, _, total, lengths, _ = lax.while_loop(is_running, advance, carry)
    return total, lengths
