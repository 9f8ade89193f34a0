"""A program as an optax optimizer, for any pytree of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from blackbox.arrays import Array
from blackbox.errors import missing_extra
from blackbox.programs.execution import start, step
from blackbox.programs.language import Program

if TYPE_CHECKING:
    from jaxtyping import Int


class TransformationState(NamedTuple):
    count: Int[Array, ""]
    memory: tuple[tuple[Array, ...], ...]
    """Of each leaf of the parameters."""


def transformation(program: Program, learning_rate: float | Callable[[Array], Array]) -> Any:
    """The program as an ``optax.GradientTransformation``.

    Each leaf of the parameters is one vector to the program, so that ``norm``, ``mean`` and ``dot`` are of a leaf.

    Args:
        program: the optimizer; its update is subtracted, so optax is given its negative.
        learning_rate: a number, or a schedule of the number of the step.

    Raises:
        MissingExtra: optax is not installed.
    """
    try:
        import jax
        import optax
    except ImportError as error:
        raise missing_extra("optax", "jax") from error

    def init(params: Any) -> TransformationState:
        memory = tuple(start(program, leaf.reshape(-1)) for leaf in jax.tree.leaves(params))
        return TransformationState(jax.numpy.zeros((), "int32"), memory)

    def update(gradients: Any, state: TransformationState, params: Any = None) -> tuple[Any, TransformationState]:
        lr = learning_rate(state.count) if callable(learning_rate) else learning_rate
        leaves, tree = jax.tree.flatten(gradients)
        weights = leaves if params is None else jax.tree.leaves(params)
        updates, memory = [], []
        for w, g, kept in zip(weights, leaves, state.memory, strict=True):
            taken, kept = step(program, w.reshape(-1), g.reshape(-1), kept, lr)
            updates.append(-taken.reshape(g.shape))
            memory.append(kept)
        return jax.tree.unflatten(tree, updates), TransformationState(state.count + 1, tuple(memory))

    return optax.GradientTransformation(init, update)
