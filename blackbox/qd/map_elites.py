"""MAP-Elites: variations of random elites of an archive, each of which is the best that is known of its cell.

Sources: Mouret & Clune 2015, "Illuminating search spaces by mapping elites" (arXiv:1504.04909); cells of centroids by
Vassiliades, Chatzilygeroudis & Mouret 2018 (arXiv:1610.05729); variation by Vassiliades & Mouret 2018
(arXiv:1804.03906). One generation, for each of its members:

    x1, x2   two elites, drawn uniformly
    x        x1 + iso_sigma N(0, I) + line_sigma N(0, 1) (x2 - x1)
    insert   x into the cell of its descriptors, if that is empty or its elite is worse

Cost per generation: O(popsize d + cells d). State O(cells d).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.kernels.noise import normal, uniform
from blackbox.qd.archive import Archive, empty, insert, is_empty, recommended, sample
from blackbox.qd.descriptors import descriptors_of
from blackbox.qd.tessellation import Ranges, require_cells
from blackbox.qd.variation import iso_line
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class MAPElitesState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    x0: Float[Array, "d"]
    archive: Archive


@algorithm
class MAPElites:
    """MAP-Elites, with Iso+LineDD variation.

    ``tell`` takes the descriptors of the population as its last argument, of shape (n, k); without them, as in
    ``bb.minimize``, they are a member's first k coordinates.

    Args:
        popsize: candidates per generation.
        cells: of a grid, along each descriptor; or one number, of the cells about centroids (CVT-MAP-Elites).
        ranges: least and greatest value of each descriptor; what is outside counts to the nearest cell.
        sigma0: standard deviation of the first generation about x0.
        iso_sigma: standard deviation of the noise in each coordinate, in units of x.
        line_sigma: standard deviation along the line to another elite, in units of their distance.
    """

    popsize: int = 100
    cells: int | tuple[int, ...] = (32, 32)
    ranges: Ranges = ((0.0, 1.0), (0.0, 1.0))
    sigma0: float = 0.3
    iso_sigma: float = 0.01
    line_sigma: float = 0.2

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=1)
        require_cells(self.cells, self.ranges)
        require_number("sigma0", self.sigma0, above=0)
        require_number("iso_sigma", self.iso_sigma, above=0)
        require_number("line_sigma", self.line_sigma, low=0)

    def init(self, key: Key, x0: Float[Array, "d"]) -> MAPElitesState:
        xp = namespace(x0)
        return MAPElitesState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            x0=x0,
            archive=empty(self.cells, self.ranges, x0),
        )

    def ask(self, state: MAPElitesState, first: int = 0) -> Float[Array, "n d"]:
        xp = namespace(state.x0)
        d = state.x0.shape[0]
        u = uniform(state.key, state.generation, (self.popsize, 2), leaf=1, first=first, like=state.x0)
        z = normal(state.key, state.generation, (self.popsize, d + 1), first=first, like=state.x0)
        elites, others = sample(state.archive, u[:, 0]), sample(state.archive, u[:, 1])
        varied = iso_line(elites, others, z, self.iso_sigma, self.line_sigma)
        return xp.where(is_empty(state.archive), state.x0 + self.sigma0 * z[:, :d], varied)

    def tell(
        self,
        state: MAPElitesState,
        population: Float[Array, "n d"],
        fitness: Float[Array, "n"],
        descriptors: Float[Array, "n k"] | None = None,
    ) -> MAPElitesState:
        told = descriptors_of(population, descriptors, len(self.ranges))
        archive, _ = insert(state.archive, population, fitness, told)
        return state._replace(generation=state.generation + 1, archive=archive)

    def recommend(self, state: MAPElitesState) -> Float[Array, "d"]:
        """The best elite."""
        return recommended(state.archive, state.x0)
