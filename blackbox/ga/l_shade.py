"""L-SHADE: differential evolution that remembers which settings succeeded, with a shrinking population.

Source: Tanabe & Fukunaga 2014, "Improving the search performance of SHADE using linear population size reduction",
CEC, doi:10.1109/CEC.2014.6900380. The trial of slot i competes with the member x_i of the population (equal or
better replaces it):

    F ~ Cauchy(M_F[r], 0.1) in (0, 1],   CR ~ N(M_CR[r], 0.1) in [0, 1],   r uniform in the H memory cells
    v = x_i + F (x_pbest - x_i) + F (x_r1 - x_r2)         x_r2 also from the archive of replaced members
    u_j = v_j with probability CR and in one random coordinate, else x_ij

Each generation ends by writing the weighted Lehmer means of the successful F and CR into the next memory cell and
by dropping the worst members, so that their number falls linearly from N0 to 4 over the planned evaluations.

Here ``ask`` gives the trials of the next few slots only, and replacement follows at once instead of after the last
slot: the population has fixed arrays of N0 rows, of which the first ``size`` count. Four things differ from the
paper, which is tuned for 10,000 d evaluations, because they reach BBOB's targets earlier in 100 d and 1000 d: small
initial populations, M_CR = 0.9 at first, coordinates beyond a bound are set to it (optima at bounds are common),
and the p best may be the best alone. The archive forgets its oldest entry instead of a random one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from blackbox.arrays import Array, Key, cond, namespace
from blackbox.kernels.noise import uniform
from blackbox.shaping import finite_or_worst
from blackbox.strategy import algorithm, require_box, require_integer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

MIN_SIZE = 4  # x_i, x_pbest, x_r1 and x_r2
MEMORY = 6  # H
MAX_GAIN = 1e30  # greater gains, such as to minus infinity, count as this one


def default_popsize(d: int, evaluations: int | None) -> int:
    """N0 = 10 + d/2 up to 100 d evaluations and twice as many for every tenfold number, at most the paper's 18 d.

    Without a plan, as for 1000 d evaluations.
    """
    hundreds = 10.0 if evaluations is None else max(1.0, evaluations / (100 * d))
    return min(18 * d, round((10 + d / 2) * math.pow(hundreds, 0.3)))


class LSHADEState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    population: Float[Array, "N0 d"]
    fitness: Float[Array, "N0"]
    """Infinite before the first evaluation and for failed members."""
    size: Int[Array, ""]
    """N: the first ``size`` rows of the population count."""
    slot: Int[Array, ""]
    """The member that the next trial competes with."""
    memory_f: Float[Array, "H"]
    memory_cr: Float[Array, "H"]
    """Negative once every success had CR = 0: the cell then stands for CR = 0."""
    cell: Int[Array, ""]
    """The memory cell that is written next."""
    gains: Float[Array, "4"]
    """Sums of w F^2, w F, w CR^2 and w CR over the successes since the last write; w is the gain in fitness."""
    archive: Float[Array, "A0 d"]
    archived: Int[Array, ""]
    """Members that ever entered the archive, whose ``2.6 size`` rows are written round and round."""


@algorithm
class LSHADE:
    """L-SHADE, a few trials at a time. Every coordinate stays within the box.

    Args:
        popsize: N0, initial size of the population, at least 4; by default :func:`default_popsize`.
        evaluations: planned number of evaluations, over which the population shrinks; None keeps its size.
        batch: trials per ``ask``; at most popsize.
        low: lower bound of every coordinate.
        high: upper bound of every coordinate.
    """

    popsize: int | None = None
    evaluations: int | None = None
    batch: int = 4
    low: float = 0.0
    high: float = 1.0

    injectable: ClassVar[bool] = True
    positional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("popsize", self.popsize, low=MIN_SIZE)
        require_integer("evaluations", self.evaluations, low=1)
        require_integer("batch", self.batch, low=1)
        require_box(self.low, self.high)

    def init(self, key: Key, x0: Float[Array, "d"]) -> LSHADEState:
        xp = namespace(x0)
        d = x0.shape[0]
        n = self.popsize or default_popsize(d, self.evaluations)
        others = uniform(key, 0, (n - 1, d), leaf=3, like=x0)
        inside = xp.minimum(xp.maximum(x0, self.low), self.high)
        return LSHADEState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            population=xp.concat([inside[None, :], self.low + (self.high - self.low) * others]),
            fitness=xp.full((n,), xp.inf, dtype=x0.dtype),
            size=xp.asarray(n)[()],
            slot=xp.asarray(0)[()],
            memory_f=xp.full((MEMORY,), 0.5, dtype=x0.dtype),
            memory_cr=xp.full((MEMORY,), 0.9, dtype=x0.dtype),
            cell=xp.asarray(0)[()],
            gains=xp.zeros((4,), dtype=x0.dtype),
            archive=xp.zeros((13 * n // 5, d), dtype=x0.dtype),
            archived=xp.zeros((), dtype=xp.asarray(0).dtype)[()],
        )

    def ask(self, state: LSHADEState, first: int = 0) -> Float[Array, "n d"]:
        xp = namespace(state.population)
        n, d = state.population.shape
        batch, size = min(self.batch, n), state.size
        slots = (state.slot + xp.arange(batch)) % size
        x = xp.take(state.population, slots, axis=0)
        F, CR = _settings(state, batch)
        u = uniform(state.key, state.generation, (batch, d + 4), leaf=2, first=first, like=x)

        ranked = xp.argsort(state.fitness, stable=True)  # rows that do not count are infinite and last
        n_best = xp.maximum((11 * size + 50) // 100, xp.asarray(1))  # p = 0.11
        x_best = xp.take(state.population, xp.take(ranked, _below(u[:, 0], n_best)), axis=0)
        r1 = _other_than(slots, _below(u[:, 1], size - 1))
        n_archive = xp.minimum(state.archived, _archive_rows(size))
        r2 = _below(u[:, 2], size + n_archive - 2)
        r2 = _other_than(xp.maximum(slots, r1), _other_than(xp.minimum(slots, r1), r2))
        archived = xp.take(state.archive, xp.maximum(r2 - size, xp.asarray(0)), axis=0)
        x_r1 = xp.take(state.population, r1, axis=0)
        x_r2 = xp.take(state.population, xp.minimum(r2, xp.asarray(n - 1)), axis=0)
        x_r2 = xp.where((r2 < size)[:, None], x_r2, archived)

        v = x + F * (x_best - x + x_r1 - x_r2)
        v = xp.clip(v, self.low, self.high)
        trials = xp.where((u[:, 4:] < CR) | (xp.arange(d) == _below(u[:, 3:4], xp.asarray(d))), v, x)
        # The first N0 evaluations are of the initial population; members beyond the batch are further such points.
        start = x if first == 0 else self.low + (self.high - self.low) * u[:, 4:]
        starting = xp.isinf(xp.take(state.fitness, slots)) & (state.generation * batch + xp.arange(batch) < n)
        return xp.where(starting[:, None], start, trials)

    def tell(self, state: LSHADEState, population: Float[Array, "n d"], fitness: Float[Array, "n"]) -> LSHADEState:
        xp = namespace(state.population)
        n = state.population.shape[0]
        batch = min(self.batch, n)
        inside = xp.all((population >= self.low) & (population <= self.high), axis=1)
        fitness = xp.where(inside, finite_or_worst(fitness, state.fitness.dtype), xp.inf)
        own = min(batch, population.shape[0])
        told = _compete(state, population[:own, :], fitness[:own], inside[:own], batch)
        if population.shape[0] > own:
            told = _merge(told, population[own:, :], fitness[own:])
        told = told._replace(generation=state.generation + 1)

        size = state.size
        if self.evaluations is not None:
            least = max(MIN_SIZE, batch)
            spent = xp.asarray(told.generation * batch, dtype=fitness.dtype) / self.evaluations
            size = xp.maximum(n - _integers(xp.round((n - least) * spent)), xp.asarray(least))[()]
        return cond(told.slot >= state.size, lambda: _end_generation(told, size), lambda: told)

    def recommend(self, state: LSHADEState) -> Float[Array, "d"]:
        xp = namespace(state.population)
        return xp.take(state.population, xp.argmin(state.fitness)[None], axis=0)[0, :]

    def stop(self, state: LSHADEState) -> dict[str, Bool[Array, ""]]:
        """Reasons to restart, each a scalar boolean: members all alike in x or in fitness."""
        xp = namespace(state.population)
        counts = xp.arange(state.fitness.shape[0]) < state.size
        best = self.recommend(state)
        spread = xp.max(xp.where(counts[:, None], xp.abs(state.population - best), 0.0))
        worst = xp.max(xp.where(counts, state.fitness, -xp.inf))
        return {
            "tolx": spread < 1e-12 * (self.high - self.low),
            "tolfun": xp.isfinite(worst) & (worst <= xp.min(state.fitness) + 1e-12),
        }


def _settings(state: LSHADEState, batch: int) -> tuple[Float[Array, "batch 1"], Float[Array, "batch 1"]]:
    """F and CR of each slot's trial, whichever member makes it: :meth:`LSHADE.tell` draws them again."""
    xp = namespace(state.population)
    u = uniform(state.key, state.generation, (batch, 4), leaf=0, like=state.population)
    # Box-Muller by hand: with one draw instead of two, and no normal one, XLA has a third less to compile.
    z = xp.sqrt(-2 * xp.log(u[:, 2:3])) * xp.cos(2 * math.pi * u[:, 3:])
    r = _below(u[:, 0], xp.asarray(MEMORY))
    location, center = xp.take(state.memory_f, r)[:, None], xp.take(state.memory_cr, r)[:, None]
    negative = 0.5 - xp.atan(location / 0.1) / math.pi  # the Cauchy distribution's mass there is not drawn from
    F = location + 0.1 * xp.tan(math.pi * (negative + (1 - negative) * u[:, 1:2] - 0.5))
    CR = xp.where(center < 0, 0.0, center + 0.1 * z)
    return xp.clip(F, 0.0, 1.0), xp.clip(CR, 0.0, 1.0)


def _compete(
    state: LSHADEState, trials: Float[Array, "b d"], fitness: Float[Array, "b"], inside: Bool[Array, "b"], batch: int
) -> LSHADEState:
    """Replace members by trials that are no worse, archive members that were worse, and count the gains."""
    xp = namespace(state.population)
    b, n = trials.shape[0], state.population.shape[0]
    slots = (state.slot + xp.arange(b)) % state.size
    parents, parent_fitness = xp.take(state.population, slots, axis=0), xp.take(state.fitness, slots)
    accepted = inside & (fitness <= parent_fitness)
    better = (fitness < parent_fitness) & xp.isfinite(parent_fitness)

    F, CR = (setting[:b, 0] for setting in _settings(state, batch))
    gain = xp.where(better, parent_fitness, 0.0) - xp.where(better, fitness, 0.0)
    gain = xp.minimum(gain, xp.asarray(MAX_GAIN, dtype=gain.dtype))
    gains = xp.stack([F * F, F, CR * CR, CR]) @ gain

    row = xp.arange(n)
    turn = (row - state.slot) % state.size
    trial = xp.minimum(turn, xp.asarray(b - 1))
    chosen = (row < state.size) & (turn < b) & xp.take(accepted, trial)
    archive = cond(xp.any(better), lambda: _archived(state, parents, better), lambda: state.archive)
    return state._replace(
        population=xp.where(chosen[:, None], xp.take(trials, trial, axis=0), state.population),
        fitness=xp.where(chosen, xp.take(fitness, trial), state.fitness),
        slot=state.slot + b,
        gains=state.gains + gains,
        archive=archive,
        archived=state.archived + xp.count_nonzero(better),
    )


def _archived(state: LSHADEState, parents: Float[Array, "b d"], better: Bool[Array, "b"]) -> Float[Array, "A0 d"]:
    """The archive with the parents of better trials written over its oldest rows."""
    xp = namespace(state.population)
    row, rows = xp.arange(state.archive.shape[0]), _archive_rows(state.size)
    turn = (row - state.archived) % rows
    written = (row < rows) & (turn < xp.count_nonzero(better))
    entering = xp.argsort(xp.astype(~better, state.slot.dtype), stable=True)  # parents of better trials first
    parent = xp.take(entering, xp.minimum(turn, xp.asarray(parents.shape[0] - 1)))
    return xp.where(written[:, None], xp.take(parents, parent, axis=0), state.archive)


def _merge(state: LSHADEState, population: Float[Array, "m d"], fitness: Float[Array, "m"]) -> LSHADEState:
    """The best of members and foreign points."""
    xp = namespace(state.population)
    every = xp.concat([state.fitness, fitness])
    order = xp.argsort(every, stable=True)[: state.fitness.shape[0]]
    counts = xp.arange(state.fitness.shape[0]) < state.size
    return state._replace(
        population=xp.take(xp.concat([state.population, population]), order, axis=0),
        fitness=xp.where(counts, xp.take(every, order), xp.inf),
    )


def _end_generation(state: LSHADEState, size: Int[Array, ""]) -> LSHADEState:
    """Write the memory, sort the members and keep the best ``size``."""
    xp = namespace(state.population)
    f2, f, cr2, cr = (state.gains[i] for i in range(4))
    here = (xp.arange(MEMORY) == state.cell) & (f > 0)
    one = xp.ones_like(f)
    mean_F = f2 / xp.where(f > 0, f, one)
    mean_CR = xp.where((cr > 0) & (state.memory_cr >= 0), cr2 / xp.where(cr > 0, cr, one), -one)
    order = xp.argsort(state.fitness, stable=True)
    return state._replace(
        population=xp.take(state.population, order, axis=0),
        fitness=xp.where(xp.arange(order.shape[0]) < size, xp.take(state.fitness, order), xp.inf),
        size=size,
        slot=xp.zeros_like(state.slot),
        memory_f=xp.where(here, mean_F, state.memory_f),
        memory_cr=xp.where(here, mean_CR, state.memory_cr),
        cell=xp.where(f > 0, (state.cell + 1) % MEMORY, state.cell)[()],
        gains=xp.zeros_like(state.gains),
    )


def _archive_rows(size: Int[Array, ""]) -> Int[Array, ""]:
    """Rows of the archive in use: 2.6 per member."""
    return 13 * size // 5


def _integers(x: Float[Array, "*n"]) -> Int[Array, "*n"]:
    xp = namespace(x)
    return xp.asarray(x, dtype=xp.asarray(0).dtype)


def _below(u: Float[Array, "*n"], n: Int[Array, ""]) -> Int[Array, "*n"]:
    """A uniform integer from 0 to n - 1 for each uniform number."""
    xp = namespace(u)
    return xp.minimum(_integers(xp.floor(u * xp.asarray(n, dtype=u.dtype))), n - 1)


def _other_than(excluded: Int[Array, "n"], drawn: Int[Array, "n"]) -> Int[Array, "n"]:
    """Skip one number: a uniform draw from the others."""
    xp = namespace(drawn)
    return drawn + xp.where(drawn >= excluded, xp.ones_like(drawn), 0)
