"""Genomes as bytes: what names a network that seeds made, in some four bytes for each mutation.

A head, digests of four bytes for each leaf and of sixteen for the center and for what else decoding is given, the
seeds, the sigmas, of which usually all are one, and a checksum. The noise is named by its specification
(:mod:`blackbox.kernels.spec`), kind and key.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.errors import CheckpointError
from blackbox.kernels.native import KINDS

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32

    from blackbox.kernels.spec import Kind

MAGIC, VERSION, GENERATOR = b"BBGN", 1, 1  # the generator is noise specification 1
_HEAD = struct.Struct("<4s4BQ2IHI")
_DIGEST = 16  # bytes
_FIRST, _SCALE, _SNAPSHOT, _WEIGHTS, _SHARED = (1 << bit for bit in range(5))


class Genome(NamedTuple):
    """What the bytes say."""

    kind: Kind
    size: int
    """Number of perturbed parameters."""
    key: tuple[int, int]
    """Of the run."""
    leaves: tuple[bytes, ...]
    """Of each perturbed leaf a digest of its path, shape, dtype and multiplier."""
    center: bytes
    """Digest of the values that the template gives."""
    first: tuple[float, ...]
    """What the first mutation of each leaf is multiplied with; empty for ones."""
    scale: bytes
    """Digest of the scales, or nothing."""
    snapshot: bytes
    """Digest of what the lineage begins with, or nothing."""
    weights: bytes
    """Digest of what it decodes to, or nothing."""
    seeds: UInt32[np.ndarray, "mutations"]
    sigmas: Float[np.ndarray, "mutations"]


def encode(genome: Genome) -> bytes:
    """The bytes of a genome."""
    # Usually all sigmas are one, but the first, which may be of an individual's initialization.
    shared = len(genome.sigmas) > 2 and bool(np.all(genome.sigmas[1:] == genome.sigmas[1]))
    optional = (genome.first, genome.scale, genome.snapshot, genome.weights, shared)
    flags = sum(1 << bit for bit, present in enumerate(optional) if present)
    head = _HEAD.pack(
        MAGIC, VERSION, GENERATOR, KINDS.index(genome.kind), flags,
        genome.size, *genome.key, len(genome.leaves), len(genome.seeds),
    )  # fmt: skip
    parts = [
        *(head, *genome.leaves, genome.center, np.asarray(genome.first, "<f4").tobytes()),
        *(genome.scale, genome.snapshot, genome.weights),
        genome.seeds.astype("<u4").tobytes(),
        genome.sigmas[: 2 if shared else None].astype("<f4").tobytes(),
    ]
    return sealed(b"".join(parts))


def read(data: bytes) -> Genome:
    """What a genome's bytes say.

    Raises:
        CheckpointError: they are no genome, of another version, cut off or damaged.
    """
    if data[:4] != MAGIC:
        raise CheckpointError(f"genome: it begins with {bytes(data[:4])!r}, not {MAGIC!r}")
    rest = opened(data, "genome")
    if len(rest) < _HEAD.size:
        raise CheckpointError(f"genome: {len(data)} bytes are too few for its head")
    _, version, generator, kind, flags, size, *key, leaves, count = _HEAD.unpack_from(rest)
    if (version, generator) != (VERSION, GENERATOR) or kind >= len(KINDS):
        raise CheckpointError(f"genome: format {version}, noise {generator}.{kind} is none that this version reads")
    stored = min(count, 2) if flags & _SHARED else count
    lengths = [
        *(4,) * leaves,
        _DIGEST,
        4 * leaves * bool(flags & _FIRST),
        *(_DIGEST * bool(flags & flag) for flag in (_SCALE, _SNAPSHOT, _WEIGHTS)),
        4 * count,
        4 * stored,
    ]
    if len(rest) != _HEAD.size + sum(lengths):
        raise CheckpointError(f"genome: it has {len(rest)} bytes, and its head says {_HEAD.size + sum(lengths)}")
    ends = np.cumsum([_HEAD.size, *lengths]).tolist()
    parts = [rest[begin:end] for begin, end in itertools.pairwise(ends)]
    center, first, scale, snapshot, weights, seeds, sigmas = parts[leaves:]
    found = np.frombuffer(sigmas, "<f4").astype(np.float32)
    return Genome(
        KINDS[kind], size, (key[0], key[1]), tuple(parts[:leaves]), center, tuple(np.frombuffer(first, "<f4").tolist()),
        scale, snapshot, weights, np.frombuffer(seeds, "<u4").astype(np.uint32),
        np.concatenate([found, np.full(count - stored, found[-1:], np.float32)]) if count > stored else found,
    )  # fmt: skip


def digest(arrays: Iterable[Any]) -> bytes:
    """Of the arrays' dtypes, shapes and bits."""
    made = hashlib.blake2b(digest_size=_DIGEST)
    for x in map(np.asarray, arrays):
        made.update(f"{x.dtype.name} {x.shape}".encode() + np.ascontiguousarray(x).tobytes())
    return made.digest()


def sealed(data: bytes) -> bytes:
    """The bytes and their checksum."""
    return data + struct.pack("<I", zlib.crc32(data))


def opened(data: bytes, name: str) -> bytes:
    """What :func:`sealed` was given; CheckpointError if it was changed."""
    body, checksum = bytes(data[:-4]), bytes(data[-4:])
    if struct.pack("<I", zlib.crc32(body)) != checksum:
        raise CheckpointError(f"{name}: its checksum does not match: it is cut off or damaged")
    return body
