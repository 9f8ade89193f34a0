"""Deep GA: a genetic algorithm for networks, whose individuals are lists of seeds.

Source: Such et al. 2017, "Deep Neuroevolution: Genetic Algorithms Are a Competitive Alternative for Training Deep
Neural Networks for Reinforcement Learning" (arXiv:1712.06567), algorithm 1 and section 3.1; what the paper leaves open
is as in its authors' code. With N = popsize, T = truncation, C = n_candidates (lower fitness is better):

    generation 0     theta_i  =  phi(tau_i)                              i = 1..N
    later            theta_i  =  theta_k + sigma eps(tau_i)              k uniform among the T parents, with replacement
    candidates       the best C - 1 offspring and the former elite (in generation 0 the best C), on fresh episodes
    elite            the candidate of the best mean
    parents          the T best offspring; if the elite is not one of them, it takes the first place and the T-th goes
    recommended      the elite of the generation whose candidates had the best mean

``candidates`` and ``tell_candidates`` between two generations are the validation; without them, for objectives without
noise, the elite is the best so far, which stays a parent until it is surpassed. Validated elites keep no fitness.

An individual is ``(tau_0, (tau_1, sigma_1), ...)`` and nothing else: genomes, checkpoints (:func:`blackbox.ga.compact`)
and what tells members apart are seeds. Beside them the state keeps the sums of noise of possible parents, for each leaf
an array of ``max(T, C) + 2`` rows, so that a child is its parent and one mutation, in every bit what its whole lineage
gives; ``cached=False`` keeps none of it and makes lineages anew each time.

Departures: lower is better; biases and other vectors begin as they are given; leaves frozen by ``policy`` never move.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError, TellError
from blackbox.ga.decoding import center_of, streams_of
from blackbox.ga.offspring import (
    Individuals,
    OffspringPopulation,
    first_factors,
    joined,
    lineages,
    rows_of,
    scales_of,
    unborn,
)  # fmt: skip
from blackbox.kernels import xla
from blackbox.kernels.noise import normal
from blackbox.shaping import best_first, finite_or_worst
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of
from blackbox.virtual import Leaf, Structure, dense_structure

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, UInt32

    from blackbox.arrays import Key
    from blackbox.kernels.spec import Kind

WORST = float(np.finfo(np.float32).max)  # of fitness: a state is finite
NOISES = ("normal", "binom8", "sign", "uniform")
POWERS = 1e-6, 1e6  # of sigma, between which adapted mutation powers stay
LEAST = 1e-30


class DeepGAState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    streams: UInt32[Array, "leaves 2"]
    """Keys of the leaves' noise."""
    params: Any
    """The pytree that was given to ``init``: the center of all individuals."""
    kept: Individuals
    """The former elite and the best offspring of the last generation, best first."""
    elite: Int[Array, ""]
    """Its row of ``kept``."""
    elite_fitness: Float[Array, ""]
    """The best so far; the largest number if the elite was validated, since a noisy value is compared with none."""
    best: Individuals
    """The elite of the generation whose candidates had the best mean."""
    best_mean: Float[Array, ""]
    is_validated: Bool[Array, ""]
    """Whether candidates have ever been told."""


@algorithm
class DeepGA:
    """Genetic algorithm of truncation selection and mutations by seeds.

    ``init`` takes a pytree of parameters, of which floating-point arrays are evolved.

    Args:
        popsize: offspring per generation. The elite is a parent and not evaluated among them.
        truncation: parents; 0 for random search, each generation new individuals.
        sigma: mutation power, in units of the parameters, or a function of the generation. The paper's 0.002 is for
            four million weights; small networks want 0.05 or more.
        n_candidates: individuals to validate, one of which is the former elite.
        initial: how individuals begin. A number: arrays of two axes or more are drawn anew for each individual, with a
            standard deviation of ``initial / sqrt(fan-in)``, the last axis being the outputs; vectors are as given. By
            shell pattern of the leaf's path if it is a dictionary, 1 where none matches; the paper's policies have
            0.1 at the outputs. None: individuals of generation 0 are mutations of the given parameters.
        adaptation: None, or the deviation of the logarithm of a mutation power that each individual inherits, varies
            and then is mutated with (Schwefel 1981; Bäck and Schwefel 1993), so that ``sigma`` is where it begins.
            Selection favors the short term: such powers may become too small (Clune et al. 2008,
            doi:10.1371/journal.pcbi.1000187).
        scale: a pytree like the parameters, whose arrays multiply the noise entry by entry, such as
            :func:`blackbox.ga.sensitivity_scale` gives for safe mutation; None for ones. It goes with ``initial=None``.
        policy: :class:`blackbox.virtual.Leaf` by shell pattern of the leaf's path, "dense" or "frozen".
        noise: distribution of the entries: "normal", the paper's, or "binom8" or "sign", which take a sixth and less of
            the time to decode.
        generations: mutations of which a lineage keeps the seeds. A run may be longer: parents are at hand, but
            individuals of more mutations than that have no genome any more.
        cached: whether the state keeps the parents' sums of noise. If not, a run ends after ``generations``.
    """

    virtual = True

    popsize: int = 1000
    truncation: int = 20
    sigma: Any = 0.002
    n_candidates: int = 10
    initial: Any = 1.0
    adaptation: float | None = None
    scale: Any = None
    policy: Mapping[str, Leaf] | None = None
    noise: Kind = "normal"
    generations: int = 1000
    cached: bool = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=2, optional=False)
        require_integer("truncation", self.truncation, low=0, optional=False)
        require_integer("n_candidates", self.n_candidates, low=2, optional=False)
        require_integer("generations", self.generations, low=1, optional=False)
        require_number("adaptation", self.adaptation, above=0)
        require_one_of("noise", self.noise, NOISES)
        if self.truncation > self.popsize:
            raise SettingError(f"truncation must be at most popsize {self.popsize}, got {self.truncation}")
        if not callable(self.sigma):
            require_number("sigma", self.sigma, above=0)
        for number in self.initial.values() if isinstance(self.initial, Mapping) else (self.initial,):
            require_number("initial", number, above=0)
        if self.scale is not None and self.initial is not None:
            raise SettingError("scale is of given parameters and goes with initial=None")

    def init(self, key: Key, params: Any) -> DeepGAState:
        # A copy of what NumPy could change afterwards.
        params = jax.tree.map(lambda x: jnp.array(x) if isinstance(x, np.ndarray | np.generic) else x, params)
        structure = self.structure(params)
        first_factors(structure, self.initial), scales_of(structure, self.scale)  # raise what they have to say
        none = unborn(structure, 1 + max(self.truncation, self._candidates), self.generations, self.cached)
        return DeepGAState(
            jnp.asarray(key), jnp.asarray(0), jnp.stack(streams_of(structure.weights, key)), params,
            none, jnp.zeros((), int), jnp.float32(WORST),
            rows_of(none, jnp.arange(1)), jnp.float32(WORST), jnp.asarray(False),
        )  # fmt: skip

    def ask(self, state: DeepGAState, first: int = 0) -> OffspringPopulation:
        parents = state.kept
        if self.truncation == 0:
            parents = unborn(self.structure(state.params), 1, self.generations, self.cached)
        slots, mutations = _drawn(state.key, state.generation, first, state.elite, self.popsize, self.truncation)
        powers = self._powers(state, parents, slots, first)
        return self._population(state, parents, slots, mutations, powers, lineages(parents, slots, mutations, powers))

    def tell(self, state: DeepGAState, population: OffspringPopulation, fitness: Float[Array, "n"]) -> DeepGAState:
        self._require(state, population)
        fitness, rows = jnp.asarray(fitness), state.kept.seeds.shape[0]
        if fitness.ndim != 1 or len(population) < rows - 1 or jnp.issubdtype(fitness.dtype, jnp.complexfloating):
            raise TellError(
                f"fitness must be real numbers of shape (n,) with n >= {rows - 1}, got {fitness.dtype} of shape "
                f"{fitness.shape}"
            )
        if not self.cached and _known(state.generation, 0) >= self.generations:
            raise TellError(f"with cached=False a run ends after {self.generations} generations")
        kept, elite, best = _selected(population, fitness, state.kept, state.elite, state.elite_fitness, rows)
        return state._replace(generation=state.generation + 1, kept=kept, elite=elite, elite_fitness=best)

    def candidates(self, state: DeepGAState) -> OffspringPopulation:
        """Who may become the elite of the generation that was told last: to be evaluated anew, on several episodes."""
        if _known(state.generation, 1) == 0:
            raise TellError("there are no candidates before a generation is told")
        slots = jnp.arange(1, self._candidates + 1)
        slots = slots.at[-1].set(jnp.where(state.generation == 1, self._candidates, 0))
        return self.individuals(state, state.kept, slots)

    def tell_candidates(
        self, state: DeepGAState, population: OffspringPopulation, fitness: Float[Array, "n *episodes"]
    ) -> DeepGAState:
        """The state with the elite of the best mean; the next generation is to be asked from it."""
        self._require(state, population)
        n = len(population)
        if getattr(fitness, "shape", ())[:1] != (n,):
            raise TellError(f"fitness must be an array of shape ({n},) or ({n}, episodes), got {fitness!r}")
        elite, best, mean = _validated(
            state.kept, state.best, state.best_mean, state.is_validated, population.slots, jnp.asarray(fitness)
        )
        return state._replace(
            elite=elite.astype(state.elite.dtype), elite_fitness=jnp.full_like(state.elite_fitness, WORST),
            best=best, best_mean=mean, is_validated=jnp.ones_like(state.is_validated),
        )  # fmt: skip

    def recommend(self, state: DeepGAState) -> Any:
        found = self.recommended(state)
        given, arrays = found.structure.split(state.params)
        reached = found.structure.split(found[0])[0]
        is_new = state.generation == 0
        weights = [jnp.where(is_new, w, x) for w, x in zip(given, reached, strict=True)]
        return found.structure.join(weights, arrays)

    def recommended(self, state: DeepGAState) -> OffspringPopulation:
        """:meth:`recommend` as a population of one, which has a genome."""
        elite = rows_of(state.kept, state.elite[None])
        chosen = jax.tree.map(lambda best, x: jnp.where(state.is_validated, best, x), state.best, elite)
        return self.individuals(state, chosen, jnp.arange(1))

    @property
    def _candidates(self) -> int:
        return min(self.n_candidates, self.popsize)

    def _population(
        self, state: DeepGAState, parents: Individuals, slots: Array, mutations: Array, powers: Array, lineage: Any
    ) -> OffspringPopulation:
        structure, (seeds, sigmas, depth) = self.structure(state.params), lineage
        (weights, arrays), first = structure.split(state.params), first_factors(structure, self.initial)
        return OffspringPopulation(
            center_of(weights, first), arrays, structure, state.key, seeds, sigmas, self.noise,
            state.streams, depth, slots, mutations, powers, parents, scales_of(structure, self.scale), first,
        )  # fmt: skip

    def individuals(self, state: DeepGAState, some: Individuals, slots: Int[Array, "n"]) -> OffspringPopulation:
        """Individuals as they are, without a further mutation."""
        lineage = rows_of(some._replace(changes=()), slots)[:3]
        return self._population(state, some, slots, jnp.zeros(len(slots), jnp.uint32), jnp.zeros(len(slots)), lineage)

    def _powers(
        self, state: DeepGAState, parents: Individuals, slots: Int[Array, "n"], first: int
    ) -> Float[Array, "n"]:
        """The standard deviation of each mutation; 1 for one that initializes an individual."""
        at, depth = state.generation, parents.depth[slots]
        base = jnp.asarray(self.sigma(at) if callable(self.sigma) else self.sigma, jnp.float32)
        powers = jnp.broadcast_to(jnp.maximum(base, LEAST), slots.shape)  # zero would end the lineage
        born = 0 if self.initial is None else 1  # mutations that are none
        if self.adaptation is not None:
            last = jnp.minimum(depth, parents.sigmas.shape[1]) - 1
            inherited = jnp.where(depth > born, parents.sigmas[slots, last], powers)
            varied = inherited * jnp.exp(self.adaptation * normal(state.key, at, slots.shape, first=first, like=powers))
            powers = jnp.clip(varied, powers * POWERS[0], powers * POWERS[1])
        return jnp.where(depth < born, jnp.ones_like(powers), powers)

    def structure(self, params: Any) -> Structure:
        """Which leaves of the parameters are evolved."""
        return dense_structure(params, self.policy)

    def _require(self, state: DeepGAState, population: OffspringPopulation) -> None:
        if not isinstance(population, OffspringPopulation) or (
            jax.tree.structure(state.params) != population.structure.treedef
        ):
            raise TellError("population must be one of this state's, got another kind or one of another tree")


@partial(jax.jit, static_argnames=("popsize", "truncation"))
def _drawn(
    key: Key, generation: Int[Array, ""], first: Int[Array, ""], elite: Int[Array, ""], popsize: int, truncation: int
) -> tuple[Int[Array, "n"], UInt32[Array, "n"]]:
    """Each member's parent, as a row of those that are kept, and its seed."""
    members = first + jnp.arange(popsize)
    words = jax.vmap(lambda member: xla.fold(key, generation, member))(members)
    if truncation == 0:
        return jnp.zeros(popsize, jnp.int32), words[:, 0]
    place = (words[:, 1] % jnp.uint32(truncation)).astype(jnp.int32)
    among = (elite >= 1) & (elite <= truncation)
    return jnp.where(among, place + 1, jnp.where(place == 0, elite, place)), words[:, 0]


@partial(jax.jit, static_argnames="rows")
def _selected(
    population: OffspringPopulation,
    fitness: Float[Array, "n"],
    kept: Individuals,
    elite: Int[Array, ""],
    elite_fitness: Float[Array, ""],
    rows: int,
) -> tuple[Individuals, Int[Array, ""], Float[Array, ""]]:
    """The former elite before the best offspring, which of these is the elite, and its fitness."""
    values = finite_or_worst(fitness.astype(jnp.promote_types(fitness.dtype, jnp.float32)))
    order = best_first(values)[: rows - 1]
    least = jnp.clip(values[order[0]].astype(jnp.float32), -WORST, WORST)
    is_better = least <= elite_fitness  # of equal ones the younger, so that search drifts where all is level
    both = joined(rows_of(kept, elite[None]), population.take(order).individuals())
    return both, is_better.astype(elite.dtype), jnp.where(is_better, least, elite_fitness)


@jax.jit
def _validated(
    kept: Individuals,
    best: Individuals,
    best_mean: Float[Array, ""],
    is_validated: Bool[Array, ""],
    slots: Int[Array, "n"],
    fitness: Float[Array, "n *episodes"],
) -> tuple[Int[Array, ""], Individuals, Float[Array, ""]]:
    """The candidate of the best mean, and who is recommended by which mean of a generation's candidates."""
    scores = jnp.clip(finite_or_worst(fitness.astype(jnp.float32)), -WORST, WORST).reshape(len(slots), -1)
    means = jnp.sum(scores / scores.shape[1], axis=1)  # of no overflow
    elite, mean = slots[jnp.argmin(means)], jnp.sum(means / len(slots))
    is_best = (mean < best_mean) | ~is_validated
    chosen = jax.tree.map(lambda x, old: jnp.where(is_best, x, old), rows_of(kept, elite[None]), best)
    return elite, chosen, jnp.where(is_best, mean, best_mean)


def _known(number: Any, otherwise: int) -> int:
    """A number that may be traced, and then is not known."""
    return otherwise if isinstance(number, jax.core.Tracer) else int(number)
