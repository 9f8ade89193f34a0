"""What all virtual populations share: members that are named, not stored."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp

from blackbox.errors import SettingError
from blackbox.perturbed import LowRank
from blackbox.virtual.leaves import Quantized

if TYPE_CHECKING:
    from jaxtyping import Array, Int

    from blackbox.virtual.leaves import Structure

P = TypeVar("P", bound="VirtualPopulation")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class VirtualPopulation(abc.ABC):
    """Members around a center, O(parameters) of memory however many.

    A kind of population adds what tells its members apart, as ``rows``, and says in ``candidates`` what they are.

    Attributes:
        weights: center of each perturbed leaf.
        arrays: the other arrays, the same for every member.
        structure: the form of the tree.
    """

    weights: tuple[Any, ...]
    arrays: tuple[Any, ...]
    structure: Structure

    @property
    @abc.abstractmethod
    def rows(self) -> Any:
        """What tells the members apart: a pytree of arrays with a leading axis of one entry per member."""

    @property
    def paired(self) -> bool:
        """Whether members 2k and 2k + 1 are made together, as they are of one noise."""
        return False

    @abc.abstractmethod
    def candidates(self, rows: Any) -> tuple[tuple[Any, ...], Any]:
        """Weights of the members of some rows, with the ``in_axes`` under which ``vmap`` maps over them."""

    @abc.abstractmethod
    def take(self: P, ids: Int[Array, "k"]) -> P:
        """The members at some positions."""

    def __len__(self) -> int:
        return int(jax.tree.leaves(self.rows)[0].shape[0])

    def __repr__(self) -> str:
        named = ", ".join(f"{w.name}: {w.noise}" for w in self.structure.weights)
        return f"{type(self).__name__}({len(self)} members, {named})"

    def __getitem__(self, i: int) -> Any:
        """Member ``i``, as a pytree of parameters like the center; :meth:`take` gives several."""
        if isinstance(i, slice):
            raise TypeError("members are taken one by one; several are a population: take(range(...))")
        if not -len(self) <= i < len(self):
            raise IndexError(f"member {i} of a population of {len(self)}")
        return self.structure.join(_formed(self, i % len(self)), self.arrays)

    def noise(self, i: int) -> Any:
        """What member ``i`` is away from the center, a pytree with zeros where nothing is perturbed."""
        around_zero = tuple(jnp.zeros(weight.shape, jnp.float32) for weight in self.structure.weights)
        member = dataclasses.replace(self, weights=around_zero)[i]
        return self.structure.join(self.structure.split(member)[0], [jnp.zeros_like(x) for x in self.arrays])

    def stacked(self) -> Any:
        """All members, a pytree like the center with a leading axis: ``n`` times the memory of the parameters."""
        candidates, axes = self.candidates(self.rows)
        formed = jax.vmap(lambda weights: [_form(w) for w in weights], in_axes=(axes,))(candidates)
        n = len(self)
        return self.structure.join(formed, [jnp.broadcast_to(x, (n, *jnp.shape(x))) for x in self.arrays])

    @property
    def center(self) -> Any:
        """The pytree that the members are around."""
        weights = [w.floats if isinstance(w, Quantized) else w for w in self.weights]
        return self.structure.join(weights, self.arrays)

    def member(self, weights: tuple[Any, ...]) -> Any:
        """The pytree of one candidate's weights."""
        return self.structure.join(weights, self.arrays)


def required_ids(ids: Any, n: int, name: str = "ids") -> Int[Array, "k"]:
    """``ids`` as an array, or SettingError unless they are positions in a population of ``n``."""
    array = jnp.asarray(ids)
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise SettingError(f"{name} must be integers of shape (k,), got {array.dtype} of shape {array.shape}")
    if not isinstance(array, jax.core.Tracer) and array.size and not -n <= int(array.min()) <= int(array.max()) < n:
        raise SettingError(f"{name} must be from {-n} to {n - 1}, got {int(array.min())} to {int(array.max())}")
    return array


def column(x: Array, like: Array) -> Array:
    """One entry for each leading entry of ``like``."""
    return x.reshape(-1, *[1] * (like.ndim - 1))


@jax.jit
def _formed(population: VirtualPopulation, i: Any) -> list[Array]:
    """The weights of one member, as evaluation has them but formed."""
    one = jax.tree.map(lambda x: x[i][None], population.rows)
    weights, axes = population.candidates(one)
    return [w[0] for w in jax.vmap(lambda weights: [_form(w) for w in weights], in_axes=(axes,))(weights)]


def _form(weight: Any) -> Array:
    return weight.materialise() if isinstance(weight, LowRank) else weight
