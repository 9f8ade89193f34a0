"""Factors of low rank by name, for compiled code that makes them where they are used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.kernels import lowrank_factors
from blackbox.kernels.lowrank import is_compiled
from blackbox.perturbed.lowrank import Source
from blackbox.virtual.leaves import Weight, drawn

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt32

    from blackbox.kernels.spec import Kind


def is_fused(weight: Weight, members: int, kind: Kind) -> bool:
    """Whether what uses so many members' factors of a weight makes them itself."""
    if weight.noise != "low-rank":
        return False
    a, b = (math.prod(part) for part in weight.parts)
    return a + b < 2**32 and is_compiled(members, (a, b), kind)


def source(
    weight: Weight, key: UInt32[Array, "2"], pairs: Int[Array, "n"], steps: Float[Array, "n"], kind: Kind
) -> Source:
    """What names the factors that :func:`.leaves.drawn` makes of a weight, the first of them times some steps."""
    stack, sizes = weight.shape[: weight.stacked], [math.prod(part) for part in weight.parts]
    # In a member's row all stacked A are followed by all B.
    count = np.arange(math.prod(stack), dtype=np.uint32).reshape(stack)
    first = [count * np.uint32(size // math.prod(stack)) for size in sizes]
    words = _words(key, pairs, steps, (first[0], first[1] + np.uint32(sizes[0])))
    return Source(words, sum(sizes), kind)


def weighted_factors(
    weights: Sequence[Weight],
    keys: UInt32[Array, "weights 2"],
    pairs: Int[Array, "n"],
    f: Float[Array, "n"],
    kind: Kind,
) -> list[tuple[Float[Array, "n a"], Float[Array, "n b"]]]:
    """``f_p A_p`` and ``B_p`` of what :func:`.leaves.drawn` makes of each weight of low rank."""
    out: dict[int, tuple[Array, Array]] = {}
    others = []
    for i, weight in enumerate(weights):
        if is_fused(weight, pairs.shape[0], kind):
            a, b = (math.prod(part) for part in weight.parts)
            words = _words(keys[i], pairs, f, (np.array(0, np.uint32), np.array(a, np.uint32)))
            out[i] = lowrank_factors(words, (a, b), a + b, kind, impl="native")
        else:
            others.append(i)
    if others:
        made = drawn([weights[i] for i in others], keys[np.array(others)], pairs, kind)
        out |= {
            i: (f[:, None] * a.reshape(len(f), -1), b.reshape(len(f), -1))
            for i, (a, b) in zip(others, made, strict=True)
        }
    return [out[i] for i in range(len(weights))]


def _words(
    key: UInt32[Array, "2"], pairs: Int[Array, "n"], steps: Float[Array, "n"], offsets: tuple[np.ndarray, np.ndarray]
) -> UInt32[Array, "n *stacked 6"]:
    bits = jax.lax.bitcast_convert_type(steps.astype(jnp.float32), jnp.uint32)
    members = [x.reshape(-1, *[1] * np.ndim(offsets[0])) for x in (pairs.astype(jnp.uint32), bits)]
    columns = [key[0], key[1], *members, *map(jnp.asarray, offsets)]
    return jnp.stack(jnp.broadcast_arrays(*columns), -1)
