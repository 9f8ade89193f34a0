"""Decoding genomes: the parameters that a list of seeds stands for, the same bits wherever they are decoded.

Source: Such et al. 2017, "Deep Neuroevolution" (arXiv:1712.06567), section 3.1. With E(seed) noise of the run's key,

    change  <-  0                                   or a snapshot, after :func:`rebase`
    change  <-  change + sigma_l E(seed_l)          in the order of the lineage, each step rounded to float32
    params  <-  center + change                     times the scales of safe mutation, if there are any

This is a sum of :func:`blackbox.kernels.seedsum` over arrays of NumPy, whose bits are those of the reference, of
compiled code and of the kernels on a GPU. JAX's programs sum with the same kernels; XLA alone, without compiled code,
rounds otherwise, and no genome is decoded through it.

No operator of crossover is here: the child of two lineages is no list of seeds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from blackbox.errors import CheckpointError, SettingError
from blackbox.ga.genome import Genome, digest, encode, read
from blackbox.kernels import dispatch, noise, seedsum
from blackbox.virtual import Leaf, Structure, Weight, structure_of

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32

    from blackbox.arrays import Array
    from blackbox.kernels.spec import Kind


def decode(
    data: bytes,
    template: Any,
    *,
    policy: Mapping[str, Leaf] | None = None,
    scale: Any = None,
    snapshot: Sequence[Float[np.ndarray, "size"]] | None = None,
    impl: dispatch.Impl = "auto",
) -> Any:
    """The parameters that a genome stands for, the same bits wherever they are decoded.

    Args:
        data: of ``population.genome(i)``.
        template: the pytree of parameters that the run began with.
        policy: the strategy's.
        scale: the strategy's.
        snapshot: what :func:`rebase` gave beside the genome.
        impl: what sums the noise, "ref" or "native"; see :func:`blackbox.kernels.explain`.

    Raises:
        CheckpointError: the bytes are damaged, or decode here to other weights than where they were made.
        SettingError: the template, scale or snapshot is not the genome's; it names the leaf that differs.
    """
    genome, structure = read(data), _structure(template, policy)
    require_template(genome, structure, template)
    weights, arrays = structure.split(template)
    scales = () if scale is None else tuple(np.asarray(x, np.float32) for x in structure.split(scale)[0])
    if (digest(scales) if scales else b"") != genome.scale:
        raise SettingError(
            "scale must be the strategy's" if genome.scale else "scale must be None: the genome has none"
        )
    decoded = _decoded(genome, structure.weights, weights, scales, snapshot, impl)
    if genome.weights and digest(decoded) != genome.weights:
        raise CheckpointError("genome: it decodes to other weights here than where it was made")
    given = zip(decoded, weights, strict=True)
    return structure.join([jax.numpy.asarray(x) if isinstance(w, jax.Array) else x for x, w in given], arrays)


def rebase(
    data: bytes,
    template: Any,
    mutations: int,
    *,
    policy: Mapping[str, Leaf] | None = None,
    snapshot: Sequence[Float[np.ndarray, "size"]] | None = None,
) -> tuple[bytes, list[Float[np.ndarray, "size"]]]:
    """A genome whose first mutations are replaced by a snapshot's digest, and that snapshot.

    It decodes to the same bits. A snapshot is as large as the weights, and one serves all genomes that begin alike.
    """
    genome, structure = read(data), _structure(template, policy)
    require_template(genome, structure, template)
    if not 0 < mutations <= len(genome.seeds):
        raise SettingError(f"mutations must be from 1 to the genome's {len(genome.seeds)}, got {mutations}")
    head = genome._replace(seeds=genome.seeds[:mutations], sigmas=genome.sigmas[:mutations])
    made = changes(head, structure.weights, snapshot)
    rest = genome._replace(seeds=genome.seeds[mutations:], sigmas=genome.sigmas[mutations:], snapshot=digest(made))
    return encode(rest), made


def changes(
    genome: Genome,
    weights: Sequence[Weight],
    start: Sequence[Float[np.ndarray, "size"]] | None = None,
    impl: dispatch.Impl = "auto",
) -> list[Float[np.ndarray, "size"]]:
    """The sums of noise of a lineage, leaf by leaf, after what it starts with.

    Raises:
        SettingError: ``start`` is not the snapshot that the genome begins with.
    """
    if (b"" if start is None else digest(start)) != genome.snapshot:
        due = "that which the genome was rebased on" if genome.snapshot else "None: the genome has none"
        raise SettingError(f"snapshot must be {due}")
    streams, out = streams_of(weights, np.array(genome.key, np.uint32)), []
    for i, weight in enumerate(weights):
        base = np.zeros(math.prod(weight.shape), np.float32) if start is None else start[i]
        factor, factor_of_first = factors(weight, genome.kind, genome.first[i] if genome.first else 1.0)
        terms = genome.sigmas * factor
        if start is None:
            terms[:1] = genome.sigmas[:1] * factor_of_first
        arrays = streams[i][None], [base[None]], terms[None], genome.seeds[None]
        (total,) = seedsum(*arrays, genome.kind, chunk=1, impl=impl)
        out.append(total[0])
    return out


def streams_of(weights: Sequence[Weight], key: UInt32[Array, "2"]) -> list[UInt32[Array, "2"]]:
    """The key of each leaf's noise, of the library of the run's key."""
    return [noise.fold(noise.fold(key, *weight.words), 0) for weight in weights]


def factors(weight: Weight, kind: Kind, first: float) -> tuple[np.float32, np.float32]:
    """What a mutation's sigma is multiplied with for the kernel's units of noise, and that of an initialization."""
    factor = np.float32(weight.scale(kind))
    return factor, factor * np.float32(first)


def of_population(population: Any, seeds: Any, sigmas: Any, *, checked: bool = False) -> Genome:
    """The genome of a lineage of an :class:`.offspring.OffspringPopulation`; ``checked`` adds its weights' digest."""
    structure, scales, first = population.structure, population.scales, population.first
    genome = Genome(
        population.kind, sum(math.prod(weight.shape) for weight in structure.weights),
        (int(population.key[0]), int(population.key[1])),
        tuple(_leaf(weight, w) for weight, w in zip(structure.weights, population.weights, strict=True)),
        _center(population.weights, population.arrays, first), tuple(np.asarray(first, np.float32).tolist()),
        digest(scales) if scales else b"", b"", b"", seeds, sigmas,
    )  # fmt: skip
    if not checked:
        return genome
    return genome._replace(
        weights=digest(_decoded(genome, structure.weights, population.weights, scales, None, "auto"))
    )


def require_template(genome: Genome, structure: Structure, template: Any) -> None:
    """Raise SettingError, which names what differs, unless a run that began with the template has such genomes."""
    weights, arrays = structure.split(template)
    own = {_leaf(weight, w): weight.name for weight, w in zip(structure.weights, weights, strict=True)}
    if tuple(own) != genome.leaves:
        other = [name for leaf, name in own.items() if leaf not in genome.leaves]
        missing = len(set(genome.leaves) - {*own})
        raise SettingError(
            f"template: {', '.join(other) or 'no leaf'} differs in path, shape, dtype or policy from the genome's "
            f"leaves, of which {missing} are not in the template"
        )
    if _center(center_of(weights, genome.first), arrays, genome.first) != genome.center:
        raise SettingError("template has the genome's leaves and other values than those that its run began with")


def center_of(weights: Sequence[Any], first: tuple[float, ...]) -> tuple[Any, ...]:
    """The leaves that changes are added to: zeros where an individual's first mutation makes the whole leaf."""
    firsts = first or (0.0,) * len(weights)
    zeros = [jax.numpy.zeros_like if isinstance(w, jax.Array) else np.zeros_like for w in weights]
    return tuple(w if f == 0 else zero(w) for w, f, zero in zip(weights, firsts, zeros, strict=True))


def _structure(template: Any, policy: Mapping[str, Leaf] | None) -> Structure:
    return structure_of(template, policy or {}, Leaf(noise="dense"))


def _leaf(weight: Weight, w: Any) -> bytes:
    text = f"{weight.name} {weight.shape} {np.dtype(w.dtype).name} {weight.multiplier!r}"
    return hashlib.blake2b(text.encode(), digest_size=4).digest()


def _center(weights: Sequence[Any], arrays: Sequence[Any], first: tuple[float, ...]) -> bytes:
    firsts = first or (0.0,) * len(weights)
    return digest([*(w for w, f in zip(weights, firsts, strict=True) if f == 0), *arrays])


def _decoded(
    genome: Genome,
    weights: Sequence[Weight],
    template: Sequence[Any],
    scales: Sequence[Any],
    snapshot: Sequence[Float[np.ndarray, "size"]] | None,
    impl: dispatch.Impl,
) -> list[Float[np.ndarray, "..."]]:
    center = center_of([np.asarray(w) for w in template], genome.first)
    out = []
    for i, change in enumerate(changes(genome, weights, snapshot, impl)):
        w, step = center[i], change.reshape(weights[i].shape)
        if scales:
            step = step * np.asarray(scales[i])
        out.append((w.astype(np.promote_types(w.dtype, np.float32)) + step).astype(w.dtype))
    return out
