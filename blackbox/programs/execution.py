"""Programs executed: a step, and a whole training, in NumPy and JAX by one text, for any number of runs at once.

Weights are of shape ``(..., d)``: leading axes are runs (seeds, tasks, learning rates), which never mix. A learning
rate for each run is of shape ``(..., 1)``. Nothing is raised for NaN or infinity: they reach the weights, and so the
loss, by which the search knows that the program has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from blackbox.arrays import Array, namespace, repeat
from blackbox.programs.functions import FUNCTIONS
from blackbox.programs.language import UPDATE, Operand, Program

if TYPE_CHECKING:
    from jaxtyping import Float

Memory = tuple[Array, ...]
"""The values of a program's memory, in the order of ``program.memory``."""


def start(program: Program, w: Float[Array, "*runs d"]) -> Memory:
    """The memory before the first step: zeros."""
    return tuple(namespace(w).zeros_like(w) for _ in program.memory)


def step(
    program: Program,
    w: Float[Array, "*runs d"],
    g: Float[Array, "*runs d"],
    memory: Memory,
    lr: Float[Array, "*runs 1"] | float,
) -> tuple[Float[Array, "*runs d"], Memory]:
    """The update, to be subtracted from the weights, and the memory after the step."""
    xp = namespace(g)

    def value(x: Operand) -> Array:
        return values[x] if isinstance(x, str) else xp.asarray(x, dtype=g.dtype)

    values = {"w": w, "g": g, "lr": xp.asarray(lr, dtype=g.dtype), **dict(zip(program.memory, memory, strict=True))}
    with np.errstate(all="ignore"):
        for output, name, inputs in program.statements:
            values[output] = FUNCTIONS[name].apply(xp, *map(value, inputs))
    return values[UPDATE], tuple(values[name] for name in program.memory)


def descend(
    program: Program,
    gradient: Callable[[Array, Array], Array],
    w: Float[Array, "*runs d"],
    *,
    lr: Callable[[Array], Array] | Float[Array, "*runs 1"] | float,
    steps: int,
) -> Float[Array, "*runs d"]:
    """The weights after so many steps; under ``jax.jit`` one loop that is compiled once.

    Args:
        program: the optimizer.
        gradient: of weights and the number of the step, from 0, such as the gradient of a loss on a batch of its own.
        w: the first weights.
        lr: the learning rate, or a function of the number of the step.
        steps: how many.
    """
    xp = namespace(w)

    def one(now: tuple[Array, Array, Memory]) -> tuple[Array, Array, Memory]:
        t, w, memory = now
        update, memory = step(program, w, gradient(w, t), memory, lr(t) if callable(lr) else lr)
        return t + 1, w - update, memory

    with np.errstate(all="ignore"):
        return repeat(one, steps, (xp.asarray(0), w, start(program, w)))[1]
