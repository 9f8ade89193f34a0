"""EGGROLL: evolution strategies with low-rank perturbations of every weight matrix, for networks.

Source: Sarkar et al. 2025, "Evolution Strategies at the Hyperscale" (arXiv:2511.16652), algorithm 1, with mirrored
pairs. For a matrix M (m x n), rank r, pairs p of members with opposite steps, and shaped fitness F (lower is better):

    E_p      <- A_p B_p^T / sqrt(r)                         entries of A (m x r), B (n x r): zero mean, unit variance
    evaluate    M + sigma E_p  and  M - sigma E_p
    G        <- sigma / sqrt(N) sum_p (F_p+ - F_p-) E_p     one product: (diag(F) A)^T B over stacked pairs
    M        <- M + optimizer(G)

For z-scored random fitness an entry of G has the root mean square sigma, whatever N and r: a learning rate of plain SGD
is a root mean square step in units of sigma. In the paper's units alpha = lr sigma sqrt(N); on the unbiased gradient of
the smoothed objective the learning rate is lr sigma^2 sqrt(N).

Vectors and narrow matrices have noise of independent entries; ``rank=None`` gives it to all leaves, which is OpenAI-ES.
Memory O(parameters), whatever the population.

Where an episode is longer than what one generation evaluates, ``noise_reuse=K`` keeps a member's noise for the K
generations of an episode (noise-reuse ES, Li et al. 2023, arXiv:2304.12180), and ``persistent=K`` draws fresh noise but
credits a fitness to all of the member's noise since the episode began (persistent ES, Vicol et al. 2021,
arXiv:2112.13835): G sums sigma E_p of those generations, each made again from its seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from blackbox.errors import SettingError, TellError
from blackbox.perturbed.lowrank import widened
from blackbox.shaping import group_relative, pair_signs, whole_ranks, z_scores
from blackbox.strategy import algorithm, require_integer, require_number
from blackbox.virtual import Leaf, NoisePopulation, Quantized, Structure, credited_noise, structure_of, weighted_noise

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from blackbox.arrays import Key
    from blackbox.kernels.spec import Kind

SHAPINGS = ("z-score", "centered-ranks", "sign", "group-relative")
NOISES = ("binom8", "normal", "normal_fast", "sign", "uniform")
SGD = optax.sgd(0.1)
Episode = tuple[Any, Any, Any]  # of some generations their noise's counters and sigmas, and how many of them count


class EggrollState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    params: Any
    """The mean, a pytree like that given to ``init``."""
    optimizer: Any
    """State of the optimizer, which sees the tree of ``params`` with ``optax.MaskedNode`` where nothing is trained."""


@algorithm
class Eggroll:
    """Evolution guided general optimization via low-rank learning.

    Args:
        popsize: members per generation, even.
        rank: of the perturbation of each matrix; None for independent entries (OpenAI-ES).
        sigma: standard deviation of the perturbation, in units of the parameters, or a function of the generation.
        optimizer: any optax optimizer; by default ``optax.sgd(0.1)``. Schedules of the learning rate, masks and labels
            by leaf are optax's; what asks for a ``value`` is given the mean fitness.
        shaping: "z-score", "centered-ranks", "sign" (which side of each pair is better), or "group-relative" (less
            the mean of those who met the same data, over the standard deviation of all).
        group_size: members that share a data item, for "group-relative": members 0 to G - 1 the first item and so
            on. None: all members met all items, and fitness of shape ``(n, items)`` is told.
        policy: :class:`blackbox.virtual.Leaf` by shell pattern of the leaf's path: ``{"*embed*": Leaf(rank=4)}``.
        noise: distribution of the entries, "binom8" (fast), "sign" (fastest), "normal" or "uniform"; all train alike.
            "normal_fast" is "normal" to within 1e-5, by a GPU's special function units where kernels run on one.
        noise_reuse: generations that keep the same noise; 1 is fresh noise each time.
        persistent: generations of an episode over which noise is credited; 1 credits a generation's own alone.
        dtype: of the weights that members are evaluated with, ``jnp.bfloat16`` or ``jnp.int8`` (with a scale for each
            matrix); the mean keeps its own. None: as the mean.
        update_chunk: pairs whose factors are in memory at once in ``tell``.
        mesh: devices that share the pairs in ``tell``, with one all-reduce; None: each device that holds the state
            makes the whole update, with no communication.
    """

    virtual = True

    popsize: int = 256
    rank: int | None = 1
    sigma: Any = 0.02
    optimizer: Any = None
    shaping: Literal["z-score", "centered-ranks", "sign", "group-relative"] = "z-score"
    group_size: int | None = None
    policy: Mapping[str, Leaf] | None = None
    noise: Kind = "binom8"
    noise_reuse: int = 1
    persistent: int = 1
    dtype: Any = None
    update_chunk: int = 1024
    mesh: Any = None

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, even=True, optional=False)
        if self.optimizer is not None and not isinstance(self.optimizer, optax.GradientTransformation):
            raise SettingError(f"optimizer must be one of optax's, such as optax.adam(0.01), got {self.optimizer!r}")
        for name in ("noise_reuse", "persistent", "update_chunk"):
            require_integer(name, getattr(self, name), low=1, optional=False)
        require_integer("rank", self.rank, low=1)
        require_integer("group_size", self.group_size, low=2, even=True)
        if not callable(self.sigma):
            if hasattr(self.sigma, "shape"):
                raise SettingError(f"sigma must be a Python number or a function of the generation, got {self.sigma!r}")
            require_number("sigma", self.sigma, above=0)
        if self.shaping not in SHAPINGS:
            raise SettingError(f"shaping must be one of {', '.join(SHAPINGS)}, got {self.shaping!r}")
        if self.noise not in NOISES:
            raise SettingError(f"noise must be one of {', '.join(NOISES)}, got {self.noise!r}")
        if self.dtype is not None and jnp.dtype(self.dtype) not in (jnp.int8, jnp.bfloat16, jnp.float16, jnp.float32):
            raise SettingError(f"dtype must be bfloat16, float16, float32, int8 or None, got {self.dtype!r}")
        if self.group_size is not None and (self.shaping != "group-relative" or self.popsize % self.group_size):
            raise SettingError(
                f'group_size must divide popsize {self.popsize} and goes with shaping="group-relative", '
                f"got {self.group_size} with {self.shaping!r}"
            )

    def init(self, key: Key, params: Any) -> EggrollState:
        # A copy of what NumPy could change afterwards.
        params = jax.tree.map(lambda x: jnp.array(x) if isinstance(x, np.ndarray | np.generic) else x, params)
        structure = self._structure(params)
        wide = [widened(w) for w in structure.split(params)[0]]  # so that its moments keep one precision
        optimizer = (self.optimizer or SGD).init(structure.only(wide, optax.MaskedNode()))
        return EggrollState(jnp.asarray(key), jnp.asarray(0), params, optimizer)

    def ask(self, state: EggrollState, first: int = 0) -> NoisePopulation:
        structure = self._structure(state.params)
        weights, arrays = structure.split(state.params)
        if self.dtype is not None:
            weights = _copied(weights, structure, jnp.dtype(self.dtype))
        ids = None if first == 0 else first + jnp.arange(self.popsize)
        return NoisePopulation(
            weights, arrays, structure, state.key, state.generation // self.noise_reuse, self._sigma(state.generation),
            ids, self.popsize, self.noise,
        )  # fmt: skip

    def tell(self, state: EggrollState, population: NoisePopulation, fitness: Float[Array, "n *items"]) -> EggrollState:
        if jax.tree.structure(state.params) != population.structure.treedef:
            raise TellError("population must be one of this state's, got one whose parameters are another tree")
        if self.persistent > 1:
            _require_current(population.generation, state.generation // self.noise_reuse)
        weights, arrays = population.structure.split(state.params)
        f, unit = self._shaped(population, jnp.asarray(fitness))
        moved, optimizer = _moved(
            self.optimizer or SGD, self.update_chunk, self.mesh, population, self._episode(state.generation),
            f, unit / len(population) ** 0.5, jnp.mean(fitness), weights, state.optimizer,
        )  # fmt: skip
        return EggrollState(state.key, state.generation + 1, population.structure.join(moved, arrays), optimizer)

    def recommend(self, state: EggrollState) -> Any:
        return state.params

    def _shaped(
        self, population: NoisePopulation, fitness: Float[Array, "n *items"]
    ) -> tuple[Float[Array, "n"], float]:
        """Weights of the members, whole numbers if ranks or signs, and what their sum is yet to be multiplied with."""
        n = fitness.shape[0]
        if fitness.ndim != 1 and (self.shaping != "group-relative" or self.group_size is not None):
            raise TellError(
                f"fitness must be of shape ({n},), got {fitness.shape}; one with a second axis of items goes with "
                'shaping="group-relative" and no group_size'
            )
        if n != self.popsize and (self.shaping == "sign" or self.group_size is not None):
            raise TellError(f'with shaping="{self.shaping}" all {self.popsize} members are told at once, got {n}')
        if jnp.issubdtype(fitness.dtype, jnp.complexfloating):
            raise TellError(f"fitness must be of real numbers, got {fitness.dtype}")
        if self.shaping in ("z-score", "group-relative"):  # the others need nothing but the order
            fitness = fitness.astype(jnp.promote_types(fitness.dtype, jnp.float32))
        order = jnp.argsort(population.rows)  # pairs and groups are members that follow each other
        fitness, unit = fitness[order], 1.0
        if self.shaping == "z-score":
            f = z_scores(fitness)
        elif self.shaping == "centered-ranks":
            f, unit = whole_ranks(fitness), 0.5 / max(1, n - 1)
        elif self.shaping == "sign":
            f = pair_signs(fitness)
        else:
            f = group_relative(fitness, self.group_size or n)
        return jnp.zeros(n, jnp.float32).at[order].set(f.astype(jnp.float32)), unit

    def _episode(self, generation: Int[Array, ""]) -> Episode | None:
        """What the noise of the episode's generations is made from, if it is not this generation's alone."""
        if self.persistent == 1:
            return None
        begin = generation - generation % self.persistent
        first = begin // self.noise_reuse
        counters = first + jnp.arange(self.persistent)  # each noise is credited once, however long it was kept
        sigmas = self._sigma(jnp.maximum(begin, counters * self.noise_reuse))
        return counters, jnp.broadcast_to(sigmas, counters.shape), generation // self.noise_reuse - first + 1

    def _sigma(self, generation: Int[Array, "*k"]) -> Float[Array, "*k"]:
        return jnp.asarray(self.sigma(generation) if callable(self.sigma) else self.sigma, jnp.float32)

    def _structure(self, params: Any) -> Structure:
        default = Leaf(noise="dense") if self.rank is None else Leaf(rank=self.rank)
        return structure_of(params, self.policy or {}, default)


def _require_current(asked: Int[Array, ""], now: Int[Array, ""]) -> None:
    """Raise TellError if numbers that are known, not traced, differ."""
    if not any(isinstance(x, jax.core.Tracer) for x in (asked, now)) and int(asked) != int(now):
        raise TellError("with persistent a population must be told to the state that it was asked from")


@partial(jax.jit, static_argnums=(1, 2))
def _copied(weights: tuple[Array, ...], structure: Structure, dtype: Any) -> tuple[Any, ...]:
    """The weights for evaluation; in eight bits those of low rank alone, since dense noise is added to the others."""
    return tuple(
        w.astype(dtype) if dtype != jnp.int8 else Quantized.of(w, weight.stacked) if weight.noise == "low-rank" else w
        for w, weight in zip(weights, structure.weights, strict=True)
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _moved(
    optimizer: optax.GradientTransformation,
    chunk: int,
    mesh: Any,
    population: NoisePopulation,
    episode: Episode | None,
    f: Float[Array, "n"],
    scale: float,
    value: Float[Array, ""],
    weights: tuple[Float[Array, "..."], ...],
    optimizer_state: Any,
) -> tuple[tuple[Float[Array, "..."], ...], Any]:
    """The mean after the step, and the optimizer's state: one program, so that the gradient needs no memory twice."""
    total = (
        weighted_noise(population, f, chunk, mesh)
        if episode is None
        else credited_noise(population, f, *episode, chunk, mesh)
    )
    own = [x * scale for x in total], [widened(w) for w in weights]
    gradient, trained = (population.structure.only(x, optax.MaskedNode()) for x in own)
    step = optax.with_extra_args_support(optimizer).update
    updates, optimizer_state = step(gradient, optimizer_state, trained, value=value)
    moved = zip(weights, jax.tree.leaves(updates), strict=True)
    return tuple((w + u).astype(w.dtype) for w, u in moved), optimizer_state
