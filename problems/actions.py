"""What an environment takes, and how a network's outputs name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blackbox.arrays import Array, namespace

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class Discrete:
    """One of ``count`` actions: the place of the largest output."""

    count: int

    @property
    def outputs(self) -> int:
        """That a network has."""
        return self.count

    def of(self, outputs: Float[Array, "*n outputs"]) -> Int[Array, "*n"]:
        """The actions that outputs stand for."""
        return namespace(outputs).argmax(outputs, axis=-1)


@dataclass(frozen=True)
class Continuous:
    """Numbers within bounds: tanh of each output, stretched to them."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def outputs(self) -> int:
        """That a network has."""
        return len(self.low)

    def of(self, outputs: Float[Array, "*n outputs"]) -> Float[Array, "*n outputs"]:
        """The actions that outputs stand for."""
        xp: Any = namespace(outputs)
        low, high = (xp.asarray(bound, dtype=outputs.dtype) for bound in (self.low, self.high))
        return low + (high - low) * (0.5 + 0.5 * xp.tanh(outputs))


Action = Discrete | Continuous
