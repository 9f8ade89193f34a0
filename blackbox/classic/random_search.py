"""Random search: independent uniform points. The baseline that every other method has to beat.

Source: Bergstra & Bengio 2012, "Random search for hyper-parameter optimization", JMLR 13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.best import Best, better_of, none_yet
from blackbox.kernels.noise import uniform
from blackbox.strategy import algorithm, require_box, require_integer

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class RandomSearchState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    best: Best


@algorithm
class RandomSearch:
    """Uniform random search in a box.

    Args:
        popsize: candidates per generation; it decides nothing but how many are made at once.
        low: lower bound of every coordinate.
        high: upper bound of every coordinate.
    """

    popsize: int = 16
    low: float = 0.0
    high: float = 1.0

    injectable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=1)
        require_box(self.low, self.high)

    def init(self, key: Key, x0: Float[Array, "d"]) -> RandomSearchState:
        xp = namespace(x0)
        return RandomSearchState(key=xp.asarray(key), generation=xp.asarray(0)[()], best=none_yet(x0))

    def ask(self, state: RandomSearchState, first: int = 0) -> Float[Array, "n d"]:
        like = state.best.x
        u = uniform(state.key, state.generation, (self.popsize, like.shape[0]), first=first, like=like)
        return self.low + (self.high - self.low) * u

    def tell(
        self, state: RandomSearchState, population: Float[Array, "n d"], fitness: Float[Array, "n"]
    ) -> RandomSearchState:
        return state._replace(generation=state.generation + 1, best=better_of(state.best, population, fitness))

    def dimension(self, state: RandomSearchState) -> int:
        """The length of points, which populations are checked for."""
        d: int = state.best.x.shape[-1]
        return d

    def recommend(self, state: RandomSearchState) -> Float[Array, "d"]:
        return state.best.x
