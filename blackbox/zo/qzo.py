"""QZO: fine-tuning of quantized models from function values, by the scales of their weights.

Source: Shang et al. 2025, "Fine-tuning Quantized Neural Networks with Zeroth-order Optimization" (arXiv:2505.13430),
algorithm 1. The weights are w = s q with integers q that stay. For the scales s of all groups, and directions z_k of
independent standard normal entries,

    d_k  =  (f(s + mu z_k s) - f(s - mu z_k s)) / (2 mu)    k = 1..queries
    d_k <-  min(max(d_k, -clip), clip)                      directional derivative clipping
    s   <-  max(s - lr mean_k d_k z_k s, 1e-7)              of scales that were larger, as in the authors' code

The paper perturbs all scales by as much, ``s + mu z``, and steps by d z (``relative=False``). As scales are of the size
of a weight over 7 or 127, and differ among layers, such a perturbation is large for some and small for others. In
proportion to the scale, mu is a share of the weights.

Only the scales are trained; other arrays stay as they are. State beside the parameters: none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError
from blackbox.kernels import seedsum
from blackbox.kernels.spec import UNIT
from blackbox.population import hashable
from blackbox.strategy import algorithm, require_bool, require_number
from blackbox.virtual import NoisePopulation, Structure, Weight, weighted_noise
from blackbox.zo.fine_tuning import away_from_center, own_arrays, rate_of, require_population, require_queries
from blackbox.zo.in_place import keys_of, require_value
from blackbox.zo.pairs import mean_of_finite, mirrored_differences, slopes_of_pairs
from blackbox.zo.quantized import QuantizedWeight

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt32

    from blackbox.arrays import Key
    from blackbox.kernels.spec import Kind


LEAST = 1e-7  # scale


class QZOState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    params: Any
    """The parameters, a pytree with a :class:`blackbox.zo.quantized.QuantizedWeight` for each quantized weight."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ScalePopulation(NoisePopulation):
    """Mirrored pairs of members that share their integers and differ in their scales.

    Attributes:
        relative: whether the noise is in proportion to the scales.
    """

    relative: bool

    def candidates(self, rows: Int[Array, "k"]) -> tuple[tuple[Any, ...], Any]:
        """Scales of some members, with the ``in_axes`` under which ``vmap`` maps over them."""
        if not self.relative:
            return super().candidates(rows)
        around_one = NoisePopulation(
            tuple(map(jnp.ones_like, self.weights)), self.arrays, self.structure, self.key, self.generation, self.sigma,
            self.ids, self.popsize, self.kind,
        )  # fmt: skip
        factors, axes = around_one.candidates(rows)
        return tuple(s * factor for s, factor in zip(self.weights, factors, strict=True)), axes

    def noise(self, i: int) -> Any:
        """What member ``i`` is away from the center, a pytree with zeros where nothing is perturbed."""
        return away_from_center(self, i)


jax.tree_util.register_dataclass(
    ScalePopulation,
    data_fields=["weights", "arrays", "key", "generation", "sigma", "ids"],
    meta_fields=["structure", "popsize", "kind", "relative"],
)


@algorithm
class QZO:
    """Quantized zeroth-order optimization.

    ``init`` takes a pytree with quantized weights, as :func:`blackbox.zo.quantized.quantize` makes it. The loss meets
    :class:`blackbox.zo.quantized.QuantizedWeight` in it, which multiplies like an array; for a loss that does more
    with its arrays there is :class:`blackbox.zo.dequantized`.

    Args:
        queries: pairs of evaluations for a step.
        mu: standard deviation of the perturbation, as a share of each scale (or as it is, if not ``relative``).
        lr: learning rate, or a function of the generation. The largest stable rate falls as 1 / (number of scales).
        clip: largest magnitude of a directional derivative; the paper's 100 is that by absolute scales, which is larger
            than the one by relative scales by about their inverse.
        relative: whether perturbation and step are in proportion to the scales.
        noise: distribution of the entries.
    """

    virtual = True

    queries: int = 1
    mu: float = 1e-3
    lr: Any = 1e-5
    clip: float = 100.0
    relative: bool = True
    noise: Kind = "normal"

    def __post_init__(self) -> None:
        require_queries(self)
        require_number("clip", self.clip, above=0)
        require_bool("relative", self.relative)

    def init(self, key: Key, params: Any) -> QZOState:
        """The state around ``params``, whose JAX arrays it shares."""
        _structure(params)
        return QZOState(jnp.asarray(key), jnp.asarray(0), own_arrays(params))

    def ask(self, state: QZOState, first: int = 0) -> ScalePopulation:
        """Members 2k and 2k + 1: scales ``s + mu z_k s`` and ``s - mu z_k s``."""
        structure = _structure(state.params)
        ids = None if first == 0 else first + jnp.arange(2 * self.queries)
        return ScalePopulation(
            *structure.split(state.params), structure, state.key, state.generation, jnp.asarray(self.mu, jnp.float32),
            ids, 2 * self.queries, self.noise, self.relative,
        )  # fmt: skip

    def tell(self, state: QZOState, population: ScalePopulation, fitness: Float[Array, "n"]) -> QZOState:
        require_population(state.params, population, fitness)
        scales, arrays = population.structure.split(state.params)
        differences, count = mirrored_differences(population.rows, jnp.asarray(fitness))
        slopes = jnp.clip(differences / (2 * self.mu), -self.clip, self.clip) / count
        rates = (rate_of(self, state.generation) * slopes).astype(jnp.float32)
        moved = _descended(population, scales, rates)
        params = population.structure.join(moved, arrays)
        return QZOState(state.key, state.generation + 1, params)

    def recommend(self, state: QZOState) -> Any:
        return state.params

    def step(self, loss: Callable[..., Any], *, jit: bool = True) -> Callable[..., tuple[QZOState, float]]:
        """A function from a state and the arguments of ``loss`` to the next state and the mean fitness of its members.

        Members are evaluated one after the other, so that it needs the memory of inference: besides that of ``loss``
        the scales of one member.

        Args:
            loss: a function of the parameters and of further arguments, which gives a number.
            jit: whether to compile it; False for a function that is no JAX program.
        """

        loss = hashable(loss)

        def advance(state: QZOState, *args: Any) -> tuple[QZOState, float]:
            population = self.ask(state)
            keys, scales = keys_of(population), population.weights
            evaluated = _evaluated if jit else _evaluated.__wrapped__  # type: ignore[attr-defined]

            def plus(pairs: Int[Array, "pairs"], steps: Any) -> tuple[Float[Array, "..."], ...]:
                given = jnp.asarray(pairs, jnp.uint32), jnp.asarray(steps, jnp.float32)
                return tuple(
                    _plus(s, key, *given, self.noise, self.relative) for s, key in zip(scales, keys, strict=True)
                )

            values = []
            for row in range(len(population)):
                member = plus(jnp.asarray([row // 2]), [self.mu * (1 - 2 * (row % 2))])
                value = evaluated(loss, population.structure, member, population.arrays, args)
                require_value(value)
                values.append(float(value))
            fitness = np.array(values)
            rates = rate_of(self, state.generation) * slopes_of_pairs(fitness, self.mu, self.clip)
            moved = plus(jnp.arange(self.queries), -rates)
            params = population.structure.join(tuple(map(_positive, moved, scales)), population.arrays)
            return QZOState(state.key, state.generation + 1, params), mean_of_finite(fitness)

        return advance


@partial(jax.jit, static_argnums=(0, 1))
def _evaluated(
    loss: Callable[..., Any],
    structure: Structure,
    scales: tuple[Float[Array, "..."], ...],
    arrays: tuple[Array, ...],
    args: tuple[Any, ...],
) -> Any:
    return loss(structure.join(scales, arrays), *args)


@partial(jax.jit, static_argnums=(4, 5))
def _plus(
    s: Float[Array, "..."],
    key: UInt32[Array, "2"],
    pairs: UInt32[Array, "pairs"],
    steps: Float[Array, "pairs"],
    kind: Kind,
    relative: bool,
) -> Float[Array, "..."]:
    """The scales of a leaf plus steps along the noise of some pairs."""
    start = jnp.zeros((1, s.size), jnp.float32)
    (total,) = seedsum(key[None], [start], steps[None] * UNIT[kind], pairs[None], kind)
    return s + total.reshape(s.shape) * (s if relative else 1)


@jax.jit
def _descended(
    population: ScalePopulation, scales: tuple[Float[Array, "..."], ...], rates: Float[Array, "n"]
) -> tuple[Float[Array, "..."], ...]:
    """The scales after a step."""
    totals = weighted_noise(dataclasses.replace(population, sigma=jnp.float32(1)), rates)
    moved = [s - total * (s if population.relative else 1) for s, total in zip(scales, totals, strict=True)]
    return tuple(map(_positive, moved, scales))


@jax.jit
def _positive(moved: Float[Array, "..."], scale: Float[Array, "..."]) -> Float[Array, "..."]:
    """Scales after a step, none of which becomes less than the least."""
    return jnp.maximum(moved, jnp.minimum(scale, LEAST))


def _structure(params: Any) -> Structure:
    """The structure of a pytree in which the scales of quantized weights have noise, and nothing else."""
    slots: list[str] = []
    static: list[Any] = []
    weights: list[Weight] = []
    flat, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: isinstance(x, QuantizedWeight))
    for path, x in flat:
        if isinstance(x, QuantizedWeight):
            name, shape = jax.tree_util.keystr(path, simple=True, separator="/"), tuple(x.scale.shape)
            slots += ["array", "weight"]
            weights.append(Weight(name, shape, "dense", split=len(shape)))
        elif isinstance(x, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
            slots.append("array")
        else:
            slots.append("static")
            static.append(x)
    if not weights:
        raise SettingError("params has no quantized weight; blackbox.zo.quantize(params) makes some")
    return Structure(jax.tree.structure(params), tuple(slots), tuple(static), tuple(weights))
