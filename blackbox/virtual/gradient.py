"""Sums of members' noise: what every update of evolution strategies and zeroth-order methods is made of."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from blackbox.arrays import placed
from blackbox.virtual.factors import weighted_factors
from blackbox.virtual.leaves import Weight, streams, summed

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from blackbox.virtual.noise import NoisePopulation

LARGEST = 2**24  # entries of noise in memory at once


@partial(jax.jit, static_argnames=("chunk", "mesh"))
def weighted_noise(
    population: NoisePopulation, f: Float[Array, "n"], chunk: int = 1024, mesh: Any = None
) -> tuple[Float[Array, "..."], ...]:
    """``sum_i f_i (candidate_i - center)`` for each weight: one product ``(diag(f) A)^T B`` over stacked pairs.

    Noise of "sign" and "binom8" is of whole numbers: with whole numbers ``f`` the sums are exact as long as they stay
    below 2^24, so they do not depend on chunks and devices. On GPUs this needs
    ``jax.default_matmul_precision("highest")``: products there are of 11 bits otherwise.

    Args:
        population: of n members.
        f: a number for each member.
        chunk: pairs whose factors are in memory at once.
        mesh: of one axis, whose devices each sum a share of the pairs; one all-reduce adds the sums. None: the
            whole work on each device that has the population.
    """
    ids = population.rows
    signed = f * (1.0 - 2.0 * (ids % 2)).astype(f.dtype)
    if population.paired:  # both sides of a pair have the same noise: half the draws, half the depth of the product
        pairs, signed = ids[::2] // 2, signed[::2] + signed[1::2]
    else:
        pairs = ids // 2

    def total(population: NoisePopulation, pairs: Array, signed: Array) -> list[Array]:
        weights = population.structure.weights
        narrow = [weight for weight in weights if weight.noise == "low-rank"]
        dense = [weight for weight in weights if weight.noise == "dense"]
        sums: dict[Weight, Array] = {}
        if narrow:
            entries = sum(math.prod(part) for weight in narrow for part in weight.parts)
            size = max(1, min(chunk, LARGEST // entries))
            sums |= zip(narrow, _streamed(population, narrow, pairs, signed, size), strict=True)
        if dense:
            key, generation, kind = population.key, population.generation, population.kind
            totals = summed(dense, key, generation, pairs[None], signed[None], kind)
            sums |= zip(dense, (total[0] for total in totals), strict=True)
        return [sums[weight] for weight in weights]

    if mesh is None:
        sums = total(population, pairs, signed)
    else:
        whole, split = PartitionSpec(), PartitionSpec(mesh.axis_names[0])
        spare = -pairs.shape[0] % mesh.devices.size
        pairs, signed = (placed(jnp.pad(x, (0, spare)), mesh, split) for x in (pairs, signed))
        sums = jax.shard_map(
            lambda *share: jax.lax.psum(total(*share), mesh.axis_names[0]),
            mesh=mesh, in_specs=(whole, split, split), out_specs=whole, check_vma=False,
        )(population, pairs, signed)  # fmt: skip
    scales = [population.sigma * weight.scale(population.kind) for weight in population.structure.weights]
    return tuple(x * scale for x, scale in zip(sums, scales, strict=True))


@partial(jax.jit, static_argnames=("chunk", "mesh"))
def credited_noise(
    population: NoisePopulation,
    f: Float[Array, "n"],
    generations: Int[Array, "k"],
    sigmas: Float[Array, "k"],
    count: Int[Array, ""],
    chunk: int = 1024,
    mesh: Any = None,
) -> tuple[Float[Array, "..."], ...]:
    """:func:`weighted_noise` summed over the first ``count`` of some generations, each with its own sigma.

    The noise of former generations is made again, so that nothing of it is stored.
    """

    def add(i: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        past = dataclasses.replace(population, generation=generations[i], sigma=sigmas[i])
        return jax.tree.map(jnp.add, sums, weighted_noise(past, f, chunk, mesh))

    zeros = tuple(jnp.zeros(weight.shape, jnp.float32) for weight in population.structure.weights)
    return jax.lax.fori_loop(0, count, add, zeros)


def _streamed(
    population: NoisePopulation,
    weights: list[Weight],
    pairs: Int[Array, "pairs"],
    signed: Float[Array, "pairs"],
    size: int,
) -> list[Float[Array, "..."]]:
    """The weighted sums of the drawn noise, ``size`` pairs at a time."""
    steps = -(-pairs.shape[0] // size)
    size = min(size, pairs.shape[0])
    spare = steps * size - pairs.shape[0]
    parts = (jnp.pad(pairs, (0, spare)).reshape(steps, size), jnp.pad(signed, (0, spare)).reshape(steps, size))

    keys = streams(weights, population.key, population.generation)

    def add(totals: list[Array], part: tuple[Array, Array]) -> tuple[list[Array], None]:
        factors = weighted_factors(weights, keys, *part, population.kind)
        added = [_weighted_sum(weight, *own) for weight, own in zip(weights, factors, strict=True)]
        return [total + more for total, more in zip(totals, added, strict=True)], None

    totals = [jnp.zeros(weight.shape, jnp.float32) for weight in weights]
    return jax.lax.scan(add, totals, parts)[0] if steps > 1 else add(totals, (parts[0][0], parts[1][0]))[0]


def _weighted_sum(weight: Weight, a: Float[Array, "pairs a"], b: Float[Array, "pairs b"]) -> Float[Array, "..."]:
    """``sum_p f_p A_p B_p^T`` of ``f_p A_p`` and ``B_p``, as one product."""
    left, right = (part[weight.stacked : -1] for part in weight.parts)
    a = a.reshape(len(a), -1, math.prod(left), weight.rank)
    b = b.reshape(len(b), -1, math.prod(right), weight.rank)
    return jnp.einsum("plmr,plnr->lmn", a, b).reshape(weight.shape)
