"""ZO: any gradient estimator in front of any optax optimizer, as a strategy.

    population  <-  estimator's queries around the parameters
    gradient    <-  estimator's estimate from their values
    parameters  <-  parameters + optimizer(gradient)

The zeroth-order forms of first-order methods are this with their optimizer: ZO-SGD (Ghadimi & Lan 2013,
arXiv:1309.5549) with ``optax.sgd``, ZO-signSGD (Liu et al. 2019) with ``optax.sign_sgd``, ZO-AdaMM (Chen et al. 2019,
arXiv:1910.06513) with ``optax.amsgrad``.
"""

from __future__ import annotations

from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from blackbox.errors import SettingError, TellError
from blackbox.perturbed.lowrank import widened
from blackbox.strategy import algorithm

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from blackbox.arrays import Key
    from blackbox.virtual import Structure, VirtualPopulation
    from blackbox.zo.differences import Estimate


class ZOState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    params: Any
    """A pytree like that given to ``init``."""
    optimizer: Any
    """State of the optimizer, which sees the tree of ``params`` with ``optax.MaskedNode`` where nothing is trained."""


@algorithm
class ZO:
    """Zeroth-order optimization of a pytree of parameters.

    Args:
        estimator: such as :class:`CGE`, :class:`RGE` or :class:`DeepZero`.
        optimizer: any optax optimizer; what asks for a ``value`` is given the estimate's. Weights of bfloat16 or
            float16 are rounded to nearest, where steps of less than half a spacing do nothing: keep them in float32,
            or take :class:`MeZO`.
    """

    virtual = True

    estimator: Any = field(kw_only=False)
    optimizer: Any = field(kw_only=False)

    def __post_init__(self) -> None:
        if isinstance(self.estimator, type) or not all(hasattr(self.estimator, name) for name in ("ask", "estimate")):
            raise SettingError(f"estimator must be one of bb.zo's, such as bb.zo.RGE(), got {self.estimator!r}")
        if not isinstance(self.optimizer, optax.GradientTransformation):
            raise SettingError(f"optimizer must be one of optax's, such as optax.adam(0.01), got {self.optimizer!r}")

    def init(self, key: Key, params: Any) -> ZOState:
        # A copy of what NumPy could change afterwards.
        params = jax.tree.map(lambda x: jnp.array(x) if isinstance(x, np.ndarray | np.generic) else x, params)
        structure = self.estimator.ask(params, jnp.asarray(key)).structure
        wide = [widened(w) for w in structure.split(params)[0]]  # so that the moments keep one precision
        optimizer = self.optimizer.init(structure.only(wide, optax.MaskedNode()))
        return ZOState(jnp.asarray(key), jnp.asarray(0), params, optimizer)

    def ask(self, state: ZOState, first: int = 0) -> VirtualPopulation:
        return self.estimator.ask(state.params, state.key, state.generation, first)

    def tell(self, state: ZOState, population: VirtualPopulation, fitness: Float[Array, "n"]) -> ZOState:
        if jax.tree.structure(state.params) != population.structure.treedef:
            raise TellError("population must be one of this state's, got one whose parameters are another tree")
        estimate = self.estimator.estimate(population, fitness)
        params, optimizer = stepped(self.optimizer, population.structure, state.params, state.optimizer, estimate)
        return ZOState(state.key, state.generation + 1, params, optimizer)

    def recommend(self, state: ZOState) -> Any:
        return state.params


def stepped(
    optimizer: optax.GradientTransformation, structure: Structure, params: Any, optimizer_state: Any, estimate: Estimate
) -> tuple[Any, Any]:
    """The parameters after the optimizer's step, and its state."""
    weights, arrays = structure.split(params)
    gradient, _ = structure.split(estimate.gradient)
    moved, optimizer_state = _moved(optimizer, structure, weights, optimizer_state, gradient, estimate.value)
    return structure.join(moved, arrays), optimizer_state


@partial(jax.jit, static_argnums=(0, 1))
def _moved(
    optimizer: optax.GradientTransformation,
    structure: Structure,
    weights: tuple[Float[Array, "..."], ...],
    optimizer_state: Any,
    gradient: tuple[Float[Array, "..."], ...],
    value: Float[Array, ""],
) -> tuple[list[Float[Array, "..."]], Any]:
    seen, trained = (structure.only(x, optax.MaskedNode()) for x in (gradient, [widened(w) for w in weights]))
    step = optax.with_extra_args_support(optimizer).update
    updates, optimizer_state = step(seen, optimizer_state, trained, value=value)
    return [(w + u).astype(w.dtype) for w, u in zip(weights, jax.tree.leaves(updates), strict=True)], optimizer_state
