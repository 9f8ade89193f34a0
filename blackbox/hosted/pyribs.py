"""Emitters and archives of pyribs as ``pyribs:NAME``: quality diversity with parts that blackbox does not have.

Source: pyribs 0.8 to 0.12, ``ribs.emitters`` and ``ribs.archives``. NAME is an emitter, or one of pyribs' evolution
strategies, which its EvolutionStrategyEmitter drives; the archive is a setting. As of a scheduler of pyribs, some
emitters of the same kind fill one archive, each with a seed of its own. Values are negated, for pyribs maximizes.
Departures from a plain use of the package:

* A failed member enters no archive, and its emitter hears that it was not added, and had the worst value so far.
* While an archive has no elite, emitters hear nothing: they would look for one to begin anew from.
* OpenAI-ES gets Adam with a rate of 0.1 sigma0, since nothing moves by its 0.001. It does not know bounds, which pyribs
  refuses with its mirrored pairs: points that leave a box are set to its faces.

The state is the log of what was told (:mod:`blackbox.hosted.replay`), from which archive and emitters are made again.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, described
from blackbox.errors import SettingError, TellError, missing_extra
from blackbox.hosted import replay
from blackbox.strategy import algorithm, nearest, require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Float

EMITTERS = ("GaussianEmitter", "IsoLineEmitter")
STRATEGIES = ("cma_es", "sep_cma_es", "lm_ma_es", "openai_es")
ARCHIVES = ("GridArchive", "CVTArchive", "SlidingBoundariesArchive", "ProximityArchive")
Settings = tuple[tuple[str, Any], ...]


@functools.cache
def _package() -> Any:
    try:
        with replay.quiet():
            import ribs.archives
            import ribs.emitters
    except ImportError:
        raise missing_extra("pyribs", "pyribs") from None
    return ribs


def names() -> list[str]:
    """The emitters and evolution strategies that are hosted."""
    return sorted((*EMITTERS, *STRATEGIES))


class Described(NamedTuple):
    """All that archive and emitters were told."""

    log: replay.Log
    descriptors: Float[np.ndarray, "told k"]
    """NaN of members that failed."""

    @property
    def generation(self) -> Any:
        return self.log.generation

    @property
    def mark(self) -> Any:
        return self.log.mark

    @property
    def sizes(self) -> Any:
        return self.log.sizes

    def told(self, start: int, stop: int) -> tuple[Any, ...]:
        return *self.log.told(start, stop), self.descriptors[start:stop]


class _Course:
    """An archive with its emitters."""

    ended = False

    def __init__(self, strategy: Pyribs, state: Described) -> None:
        log = state.log
        x0 = np.asarray(log.x0, np.float64)
        bounds = None
        if strategy.low is not None:
            x0, bounds = np.clip(x0, strategy.low, strategy.high), [(strategy.low, strategy.high)] * len(x0)
        seed = replay.seed_of(log.key)
        self._dtype, self._descriptors = np.asarray(log.x0).dtype, len(strategy.ranges)
        with replay.quiet():
            try:
                self.archive = _archive(strategy, len(x0), seed)
                given = {"x0": x0, "bounds": bounds, "batch_size": strategy.batch}
                self._emitters = [
                    _emitter(strategy, self.archive, {**given, "seed": (seed + 1 + i) % 2**32})
                    for i in range(strategy.emitters)
                ]
            except (TypeError, ValueError) as error:
                raise SettingError(f"{strategy.registered} takes no such settings: {error}") from error
            self._ask()

    def _ask(self) -> None:
        rows = np.concatenate([np.asarray(emitter.ask(), np.float64) for emitter in self._emitters])
        self.population: Any = rows.astype(self._dtype).astype(np.float64)

    def tell(
        self,
        points: Float[np.ndarray, "n d"],
        values: Float[np.ndarray, "n"],
        descriptors: Float[np.ndarray, "n k"],
    ) -> None:
        missing = self.population[len(points) :]
        points = np.concatenate([points, missing])
        values = np.append(values, np.full(len(missing), values.max()))
        descriptors = np.concatenate([descriptors, np.full((len(missing), self._descriptors), math.nan)])
        with replay.quiet():
            valid = np.isfinite(descriptors).all(axis=1)
            measures = np.where(valid[:, None], descriptors, 0.0)
            added: dict[str, Any] = {"status": np.zeros(len(points), np.int32), "value": -values}
            added["value"][~valid] = -replay.LARGEST
            if valid.any():
                for name, found in self.archive.add(points[valid], -values[valid], measures[valid]).items():
                    every = added.setdefault(name, np.zeros(len(points), np.asarray(found).dtype))
                    every[valid] = found
            start = 0
            for emitter in self._emitters if not self.archive.empty else ():
                stop = start + emitter.batch_size
                told = {name: every[start:stop] for name, every in added.items()}
                emitter.tell(points[start:stop], -values[start:stop], measures[start:stop], told)
                start = stop
            self._ask()

    def recommend(self) -> None:
        return None

    def close(self) -> None:
        pass


def _archive(strategy: Pyribs, d: int, seed: int) -> Any:
    cells: Any = strategy.cells
    k = len(strategy.ranges)
    own: dict[str, Any] = {"solution_dim": d, "seed": seed, "ranges": strategy.ranges}
    if strategy.archive == "ProximityArchive":
        del own["ranges"]
        extent = math.sqrt(sum((high - low) ** 2 for low, high in strategy.ranges))
        count = cells if isinstance(cells, int) else math.prod(cells)
        own |= {"measure_dim": k, "k_neighbors": 15, "novelty_threshold": extent / count ** (1 / k)}
    elif strategy.archive == "CVTArchive":
        named = inspect.signature(_package().archives.CVTArchive).parameters
        own["centroids" if "centroids" in named else "cells"] = cells if isinstance(cells, int) else math.prod(cells)
    else:
        own["dims"] = (round(cells ** (1 / k)),) * k if isinstance(cells, int) else cells
    return getattr(_package().archives, strategy.archive)(**{**own, **dict(strategy.archive_settings)})


def _emitter(strategy: Pyribs, archive: Any, given: dict[str, Any]) -> Any:
    emitters, settings = _package().emitters, dict(strategy.emitter_settings)
    if strategy.name in EMITTERS:
        sigma = "sigma" if strategy.name == "GaussianEmitter" else "iso_sigma"
        return getattr(emitters, strategy.name)(archive, **{**given, sigma: strategy.sigma0, **settings})
    own: dict[str, Any] = {"es": strategy.name, "sigma0": strategy.sigma0}
    if strategy.archive == "ProximityArchive":
        own["ranker"] = "nov"
    if strategy.name == "openai_es":
        own |= {"bounds": None, "es_kwargs": {"lr": 0.1 * strategy.sigma0}}
    return emitters.EvolutionStrategyEmitter(archive, **{**given, **own, **settings})


@algorithm
class Pyribs:
    """Emitters of pyribs and an archive of it.

    ``tell`` takes descriptors as its last argument, of shape (n, k); without them, as in ``bb.minimize``, they are a
    member's first coordinates.

    Args:
        name: "GaussianEmitter" or "IsoLineEmitter", or an evolution strategy: "cma_es", "sep_cma_es", "lm_ma_es" or
            "openai_es".
        archive: "GridArchive", "CVTArchive", "SlidingBoundariesArchive" or "ProximityArchive".
        cells: along each descriptor, or their number; a ProximityArchive has none, but a threshold of novelty that is
            as wide as one of so many would be.
        ranges: least and greatest value of each descriptor.
        emitters: how many.
        batch: candidates of each; "openai_es" takes an even number, "lm_ma_es" no more than there are coordinates.
        sigma0: standard deviation, or the first one of an evolution strategy.
        low, high: bounds of all coordinates; in a search space, those of the unit cube.
        archive_settings: further ones by pyribs' names, as pairs, such as ``(("learning_rate", 0.01),)``.
        emitter_settings: likewise, such as ``(("ranker", "imp"),)``.
    """

    name: str
    archive: Literal["GridArchive", "CVTArchive", "SlidingBoundariesArchive", "ProximityArchive"] = "GridArchive"
    cells: int | tuple[int, ...] = (32, 32)
    ranges: tuple[tuple[float, float], ...] = ((0.0, 1.0), (0.0, 1.0))
    emitters: int = 5
    batch: int = 36
    sigma0: float = 1.0
    low: float | None = None
    high: float | None = None
    archive_settings: Settings = ()
    emitter_settings: Settings = ()

    pure: ClassVar[bool] = False
    positional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _package()
        if self.name not in names():
            raise SettingError(f"pyribs has no hosted {self.name!r}{nearest(self.name, names())}")
        require_one_of("archive", self.archive, ARCHIVES)
        for number in self.cells if isinstance(self.cells, tuple) else (self.cells,):
            require_integer("cells", number, low=1, optional=False)
        if isinstance(self.cells, tuple) and len(self.cells) != len(self.ranges):
            raise SettingError(
                f"cells must be one number, or one for each of {len(self.ranges)} ranges; got {self.cells}"
            )
        require_integer("emitters", self.emitters, low=1, optional=False)
        require_integer("batch", self.batch, low=2, optional=False)
        require_number("sigma0", self.sigma0, above=0)
        replay.require_box(self.low, self.high)

    @functools.cached_property
    def _courses(self) -> replay.Courses:
        # Of a copy: courses that knew their strategy would keep it, and so themselves, alive.
        return replay.Courses(functools.partial(_Course, dataclasses.replace(self)))

    @property
    def registered(self) -> str:
        """The name for :func:`blackbox.create`."""
        return f"pyribs:{self.name}"

    def init(self, key: Key, x0: Float[Array, "d"]) -> Described:
        return Described(replay.begin(key, x0), np.zeros((0, len(self.ranges))))

    def ask(self, state: Described, first: int = 0) -> Float[Array, "popsize d"]:
        course, popsize = self._courses.at(state), self.emitters * self.batch
        return replay.population_of(state.log, course, popsize, first, self.sigma0, self.low, self.high)

    def tell(
        self,
        state: Described,
        population: Float[Array, "n d"],
        fitness: Float[Array, "n"],
        descriptors: Float[Array, "n k"] | None = None,
    ) -> Described:
        what = _descriptors(np.asarray(population, np.float64), descriptors, len(self.ranges))
        failed = ~(np.asarray(fitness, np.float64) < math.inf) | ~np.isfinite(what).all(axis=1)
        what = np.where(failed[:, None], math.nan, what)
        told = Described(replay.extend(state.log, population, fitness, what), np.concatenate([state.descriptors, what]))
        self._courses.advance(state, told)
        return told

    def recommend(self, state: Described) -> Float[Array, "d"]:
        """The best point told."""
        return replay.recommendation(state.log, self._courses.at(state))

    def dimension(self, state: Described) -> int:
        """The length of points."""
        return int(state.log.x0.shape[0])

    def filled(self, state: Described) -> Any:
        """A copy of pyribs' archive as it is in this state."""
        return copy.deepcopy(self._courses.at(state).archive)  # type: ignore[attr-defined]


def _descriptors(population: Float[np.ndarray, "n d"], descriptors: Any, k: int) -> Float[np.ndarray, "n k"]:
    """Those given, or the first coordinates, with zeros for those that are missing."""
    n, d = population.shape
    if descriptors is None:
        return np.concatenate([population[:, : min(k, d)], np.zeros((n, max(0, k - d)))], axis=1)
    if getattr(descriptors, "shape", None) != (n, k):
        raise TellError(f"descriptors must be {k} real numbers for each of {n} rows; got {described(descriptors)}")
    return np.asarray(descriptors, np.float64)
