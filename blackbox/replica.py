"""A strategy that follows a run somewhere else: it forms members itself, and repeats ``tell`` on the fitness alone."""

from __future__ import annotations

import hashlib
import math
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from blackbox.arrays import namespace
from blackbox.errors import TellError, WorkerError
from blackbox.evaluation import describe
from blackbox.strategy import Strategy

if TYPE_CHECKING:
    from jaxtyping import Float64

S = TypeVar("S")


class Replica(Generic[S]):
    """A strategy at some generation, and what can be asked of it from elsewhere. One in the driver, one per worker."""

    def __init__(self, task: tuple[Strategy[S], Callable[..., Any]], generation: int, state: S) -> None:
        self.strategy, self._objective = task
        self.reset(generation, state)

    def reset(self, generation: int, state: S) -> tuple[str, str]:
        """Take over a state that was sent; returns :meth:`presence`."""
        self.population, self.generation, self.state = self.strategy.ask(state), generation, state
        return self.presence()

    def presence(self) -> tuple[str, str]:
        """A digest of generation and state, and where this is."""
        return digest(self.generation, self.state), f"process {os.getpid()} on {socket.gethostname()}"

    def evaluate(self, generation: int, ids: Sequence[int], args: tuple[Any, ...]) -> list[tuple[float, str]]:
        """For each member its fitness, or NaN and the reason."""
        if generation != self.generation:
            raise WorkerError(f"evaluate: generation {generation} was asked for, this is generation {self.generation}")
        return [self._outcome(i, args) for i in ids]

    def _outcome(self, i: int, args: tuple[Any, ...]) -> tuple[float, str]:
        try:
            return fitness_of(self._objective(self.population[i], *args)), ""
        except BaseException as error:  # a worker has no one to pass SystemExit or KeyboardInterrupt on to
            return math.nan, describe(error)

    def tell(self, fitness: Float64[np.ndarray, "n"]) -> tuple[str, str]:
        """The next generation; the strategy is told in its own array library, as if that had evaluated."""
        told: Any = fitness
        if hasattr(self.population, "dtype"):
            told = namespace(self.population).asarray(fitness)
        elif "jax" in sys.modules:  # a virtual population
            import jax.numpy as jnp

            told = jnp.asarray(fitness)
        return self.reset(self.generation + 1, self.strategy.tell(self.state, self.population, told))


def fitness_of(value: object) -> float:
    """The number that an objective returned, as a Python float. Raises TellError for anything else."""
    if isinstance(value, Real) and not isinstance(value, bool | np.bool):
        return float(value)
    if getattr(value, "shape", None) == () and getattr(getattr(value, "dtype", None), "kind", "") in "fiuV":
        return float(value)  # type: ignore[arg-type]
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    raise TellError(f"objective must return one real number, got {type(value).__name__}{shape}")


def digest(generation: int, state: Any) -> str:
    """blake2b of the generation and of type, shape and bytes of every array in ``state``."""
    words = hashlib.blake2b(str(generation).encode(), digest_size=16)
    for leaf in _leaves(state):
        if isinstance(leaf, bool | int | float | complex) or isinstance(getattr(leaf, "dtype", None), np.dtype):
            array = np.asarray(leaf)
            if not array.dtype.hasobject:
                words.update(f"{array.dtype} {array.shape}".encode())
                words.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return words.hexdigest()


def _leaves(tree: Any) -> Iterable[Any]:
    if "jax" in sys.modules:
        import jax

        return jax.tree.leaves(tree)
    return _numpy_leaves(tree)


def _numpy_leaves(tree: Any) -> Iterator[Any]:
    """In the order of ``jax.tree.leaves``, for trees that need no registration."""
    if isinstance(tree, tuple | list | dict):
        for part in (tree[name] for name in sorted(tree)) if isinstance(tree, dict) else tree:
            yield from _numpy_leaves(part)
    elif tree is not None:
        yield tree
