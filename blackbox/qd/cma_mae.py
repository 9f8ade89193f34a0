"""CMA-MAE: evolution strategies that search for improvements of thresholds, which follow the elites slowly.

Source: Fontaine & Nikolaidis 2023, "Covariance matrix adaptation MAP-Annealing" (arXiv:2205.10752), algorithm 1. As
CMA-ME, but a sample x of cell c is ranked by t_c - f(x), how far it is below the threshold of its cell, and

    t_c      <- (1 - alpha) t_c + alpha f(x)    for each sample that is below it
    restart  at a random elite, if CMA-ES has a reason to stop

With alpha = 0 thresholds stay what they are and the emitters minimize f; with alpha = 1 they are those of CMA-ME. In
between, the more often a cell has been visited, the less a further visit is worth.

Departures: parents as in :mod:`blackbox.qd.cma_me`; of the samples of one generation thresholds follow the mean, as in
the authors' code; the archive keeps the best of each cell, as their result archive does, whatever the thresholds.

Cost per generation: 15 times that of CMA-ES, and O(cells d). State O(cells d + 15 d^2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from blackbox.arrays import Array, Key, namespace
from blackbox.qd.archive import empty, insert, recommended
from blackbox.qd.cma_me import CMAMEState
from blackbox.qd.descriptors import descriptors_of
from blackbox.qd.emitters import KINDS, Kind, asked, restarted, started, stopped, told
from blackbox.qd.tessellation import Ranges, require_cells
from blackbox.shaping import best_first
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Float


@algorithm
class CMAMAE:
    """CMA-MAE.

    ``tell`` takes the descriptors of the population as its last argument, of shape (n, k); without them, as in
    ``bb.minimize``, they are a member's first k coordinates.

    Args:
        emitters: how many evolution strategies.
        batch: candidates of each in a generation, at least 3.
        cells: of a grid, along each descriptor; or one number, of the cells about centroids.
        ranges: least and greatest value of each descriptor; what is outside counts to the nearest cell.
        sigma0: initial step size, in units of x.
        alpha: rate at which thresholds follow the elites, from 0 to 1.
        threshold0: initial threshold: fitness at which a candidate is worth nothing (the paper's min_f, negated);
            None: the worst of the first generation.
        emitter: the evolution strategy: ``"cma-es"``, or ``"sep-cma-es"`` in hundreds of dimensions.
    """

    emitters: int = 15
    batch: int = 36
    cells: int | tuple[int, ...] = (32, 32)
    ranges: Ranges = ((0.0, 1.0), (0.0, 1.0))
    sigma0: float = 0.5
    alpha: float = 0.01
    threshold0: float | None = None
    emitter: Kind = "cma-es"

    positional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("emitters", self.emitters, low=1)
        require_integer("batch", self.batch, low=3)
        require_cells(self.cells, self.ranges)
        require_number("sigma0", self.sigma0, above=0)
        require_number("alpha", self.alpha, low=0, high=1)
        require_number("threshold0", self.threshold0)
        require_one_of("emitter", self.emitter, tuple(KINDS))

    def init(self, key: Key, x0: Float[Array, "d"]) -> CMAMEState:
        xp = namespace(x0)
        archive = empty(self.cells, self.ranges, x0)
        if self.threshold0 is not None:
            archive = archive._replace(threshold=xp.zeros_like(archive.threshold) + self.threshold0)
        return CMAMEState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            x0=x0,
            archive=archive,
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
        archive = state.archive
        worst = xp.max(xp.where(xp.isfinite(fitness), fitness, -xp.inf))
        unknown = (archive.threshold == xp.inf) & xp.isfinite(worst)
        archive = archive._replace(threshold=xp.where(unknown, xp.astype(worst, state.x0.dtype), archive.threshold))
        d = descriptors_of(population, descriptors, len(self.ranges))
        archive, outcome = insert(archive, population, fitness, d, self.alpha)
        rank = xp.astype(xp.argsort(best_first(-outcome.value), stable=True), state.x0.dtype)
        emitters = told(self._strategy, state.emitters, population, rank)
        due = stopped(self._strategy, emitters)
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
