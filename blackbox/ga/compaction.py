"""A run of Deep GA in some kilobytes: the seeds of all its individuals, from which it goes on in every bit.

What :func:`compact` writes is a genome without a mutation, which names the run (:mod:`blackbox.ga.genome`), and a
compressed table of lineages. These have most of their seeds in common, since individuals of some generations later
descend from one, so that common seeds take no room. :func:`restore` sums up what all lineages begin with once.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import CheckpointError, SettingError
from blackbox.ga.decoding import of_population, require_template
from blackbox.ga.deep_ga import DeepGAState
from blackbox.ga.genome import Genome, encode, opened, read, sealed
from blackbox.ga.offspring import Individuals, joined, rows_of

if TYPE_CHECKING:
    from blackbox.ga.deep_ga import DeepGA

MAGIC = b"BBDG1"
_HEAD, _NUMBERS = struct.Struct("<5s3I"), struct.Struct("<2q2f?")


def compact(strategy: DeepGA, state: DeepGAState) -> bytes:
    """The state without parameters and sums of noise.

    Raises:
        SettingError: an individual has more mutations than the strategy's ``generations``.
    """
    some = joined(state.kept, state.best)
    seeds, sigmas, depth = (np.asarray(x) for x in some[:3])
    longest = int(depth.max())
    if longest > strategy.generations:
        raise SettingError(f"individuals have {longest} mutations, of which {strategy.generations} are kept")
    numbers = state.generation, state.elite, state.elite_fitness, state.best_mean, state.is_validated
    table = depth.astype("<i4"), seeds[:, :longest].astype("<u4"), sigmas[:, :longest].astype("<f4")
    body = _NUMBERS.pack(*(x.item() for x in numbers)) + b"".join(x.tobytes() for x in table)
    named = encode(_named(strategy, state))
    return sealed(_HEAD.pack(MAGIC, len(named), len(depth), longest) + named + zlib.compress(body, 9))


def restore(strategy: DeepGA, data: bytes, params: Any) -> DeepGAState:
    """The state that :func:`compact` was given.

    Args:
        strategy: with the run's settings.
        data: what :func:`compact` gave.
        params: the parameters that the run began with.

    Raises:
        CheckpointError: the bytes are none of it, cut off or damaged.
        SettingError: the parameters or settings are others than the run's.
    """
    rest = opened(data, "state")
    if len(rest) < _HEAD.size or not rest.startswith(MAGIC):
        raise CheckpointError(f"state: it begins with {rest[: len(MAGIC)]!r}, not {MAGIC!r}")
    _, size, count, longest = _HEAD.unpack_from(rest)
    named = read(rest[_HEAD.size : _HEAD.size + size])
    state = strategy.init(np.array(named.key, np.uint32), params)
    require_template(named, strategy.structure(params), params)
    if encode(_named(strategy, state)) != encode(named):
        raise SettingError("strategy must have the run's noise, initial and scale")
    due = _NUMBERS.size + 4 * count * (1 + 2 * longest)
    body = zlib.decompressobj().decompress(rest[_HEAD.size + size :], due + 1)
    if len(body) != due or count != len(state.kept.depth) + 1 or longest > strategy.generations:
        raise SettingError(
            "strategy must have the run's truncation, n_candidates and generations, for "
            f"{count - 2} individuals beside the elite and lineages of {longest} mutations"
        )
    words = np.frombuffer(body, "<u4", offset=_NUMBERS.size).astype(np.uint32)
    depth, table = words[:count].astype(np.int32), words[count:].reshape(2, count, longest)
    seeds, bits = (np.pad(x, ((0, 0), (0, strategy.generations - longest))) for x in table)
    some = Individuals(jnp.asarray(seeds), jnp.asarray(bits.view(np.float32)), jnp.asarray(depth), ())
    if strategy.cached:
        some = strategy.individuals(state, some, jnp.arange(count)).made_again()
    generation, elite, fitness, mean, is_validated = _NUMBERS.unpack_from(body)
    told = DeepGAState(
        state.key, generation, state.streams, state.params, rows_of(some, jnp.arange(count - 1)), elite, fitness,
        rows_of(some, jnp.array([count - 1])), mean, is_validated,
    )  # fmt: skip
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype) if hasattr(like, "dtype") else x, told, state)


def _named(strategy: DeepGA, state: DeepGAState) -> Genome:
    population = strategy.individuals(state, state.kept, jnp.arange(1))
    none = np.zeros(0, np.float32)
    return of_population(population, none.astype(np.uint32), none)
