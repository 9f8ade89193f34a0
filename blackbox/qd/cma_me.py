"""CMA-ME: evolution strategies that search for improvements of an archive of elites.

Source: Fontaine, Togelius, Nikolaidis & Hoover 2020, "Covariance matrix adaptation for the rapid illumination of
behavior space" (arXiv:1912.02400), algorithm 2: improvement emitters. One generation of each of 15 emitters:

    x_i      36 samples of CMA-ES
    insert   all of them into the archive; how each compares with the archive before is its rank:
             new cells by fitness, then better elites by what they gain, then the rest by what they lack
    update   CMA-ES by those ranks
    restart  at a random elite, if no sample was accepted or CMA-ES has a reason to stop

Departure: the parents are the better half of the samples and the others count with negative weights, as in CMA-ES, not
those alone that were accepted. That is no worse in the authors' own code: 3 % more score on the sphere of the paper.

Cost per generation: 15 times that of CMA-ES, and O(cells d). State O(cells d + 15 d^2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.qd.archive import Archive, empty, insert, recommended
from blackbox.qd.descriptors import descriptors_of
from blackbox.qd.emitters import KINDS, Kind, asked, dealt, restarted, started, stopped, told
from blackbox.qd.tessellation import Ranges, require_cells
from blackbox.shaping import best_first
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class CMAMEState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    x0: Float[Array, "d"]
    archive: Archive
    emitters: Any
    """The state of the evolution strategy, with a leading axis of emitters."""


@algorithm
class CMAME:
    """CMA-ME with improvement emitters.

    ``tell`` takes the descriptors of the population as its last argument, of shape (n, k); without them, as in
    ``bb.minimize``, they are a member's first k coordinates.

    Args:
        emitters: how many evolution strategies.
        batch: candidates of each in a generation, at least 3.
        cells: of a grid, along each descriptor; or one number, of the cells about centroids.
        ranges: least and greatest value of each descriptor; what is outside counts to the nearest cell.
        sigma0: initial step size, in units of x.
        emitter: the evolution strategy: ``"cma-es"``, or ``"sep-cma-es"`` in hundreds of dimensions.
    """

    emitters: int = 15
    batch: int = 36
    cells: int | tuple[int, ...] = (32, 32)
    ranges: Ranges = ((0.0, 1.0), (0.0, 1.0))
    sigma0: float = 0.5
    emitter: Kind = "cma-es"

    positional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("emitters", self.emitters, low=1)
        require_integer("batch", self.batch, low=3)
        require_cells(self.cells, self.ranges)
        require_number("sigma0", self.sigma0, above=0)
        require_one_of("emitter", self.emitter, tuple(KINDS))

    def init(self, key: Key, x0: Float[Array, "d"]) -> CMAMEState:
        xp = namespace(x0)
        return CMAMEState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            x0=x0,
            archive=empty(self.cells, self.ranges, x0),
            emitters=started(self._strategy, key, xp.stack([x0] * self.emitters)),
        )

    def ask(self, state: CMAMEState, first: int = 0) -> Float[Array, "n d"]:
        return asked(self._strategy, state.emitters, first, self.emitters * self.batch)

    def tell(
        self,
        state: CMAMEState,
        population: Float[Array, "n d"],
        fitness: Float[Array, "n"],
        descriptors: Float[Array, "n k"] | None = None,
    ) -> CMAMEState:
        xp = namespace(state.x0)
        d = descriptors_of(population, descriptors, len(self.ranges))
        archive, outcome = insert(state.archive, population, fitness, d)
        order = best_first(-outcome.value)
        order = xp.take(order, best_first(-xp.take(outcome.status, order)))
        rank = xp.astype(xp.argsort(order, stable=True), state.x0.dtype)
        emitters = told(self._strategy, state.emitters, population, rank)
        accepted = dealt(outcome.status, self.emitters, self.batch, xp.zeros_like(outcome.status[:1]))
        due = xp.all(accepted == 0, axis=1) | stopped(self._strategy, emitters)
        return CMAMEState(
            key=state.key,
            generation=state.generation + 1,
            x0=state.x0,
            archive=archive,
            emitters=restarted(self._strategy, emitters, due, archive, state.x0, state.key, state.generation),
        )

    def recommend(self, state: CMAMEState) -> Float[Array, "d"]:
        """The best elite."""
        return recommended(state.archive, state.x0)

    @property
    def _strategy(self) -> Any:
        return KINDS[self.emitter](popsize=self.batch, sigma0=self.sigma0)
