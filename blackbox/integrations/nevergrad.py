"""blackbox's methods as optimizers of nevergrad.

Importing this module registers them: ``ng.optimizers.registry["Blackbox"]`` is ``auto``, and
``"Blackbox:cma-es"`` and so on are all others that search flat spaces.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.errors import SettingError, SpaceError, missing_extra
from blackbox.integrations.line import Line
from blackbox.shell.rungs import INJECTED
from blackbox.shell.search import Search
from blackbox.shell.settings import Settings
from blackbox.shell.told import Policy, Told
from blackbox.space import Box, Choice, Space
from blackbox.strategy import methods

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nevergrad as ng
except ImportError as error:
    raise missing_extra("nevergrad", "nevergrad") from error

from blackbox.integrations.nevergrad_spaces import Parametrized, to_parametrization

if TYPE_CHECKING:
    from jaxtyping import Float

    Row = Float[np.ndarray, "d"]

__all__ = ["BlackboxOptimizer", "Parametrized", "to_parametrization"]

FAILED = 5e20  # what nevergrad makes of NaN, of infinity and of values beyond


class BlackboxOptimizer(ng.optimizers.base.ConfiguredOptimizer):  # type: ignore[misc]
    """A method of blackbox as a configured optimizer of nevergrad::

        optimizer = BlackboxOptimizer("cat-cma", {"popsize": 8})(parametrization, budget=200, num_workers=4)
        recommendation = optimizer.minimize(f)

    Where all numbers of the parametrization have two bounds, the method sees it as it is: floats, integers and choices,
    whose options are then drawn by the method and not from weights. Else it works on nevergrad's standardized data, in
    which a standard deviation is 1 and choices are weights. It starts at the parametrization's values; its noise
    follows from ``parametrization.random_state`` as of the first ``ask``.

    Losses that are NaN or infinite rank last. With ``constraint_violation`` in the first ``tell``, the method handles
    constraints as :class:`blackbox.Optimizer` does, if it is one that can, and for ``"auto"`` is one. Several losses
    are one here, as nevergrad makes it. For noisy functions (``parametrization.function.deterministic = False``) the
    recommendation is the method's own.

    Args:
        method: as for :class:`blackbox.Optimizer`; ``"auto"`` goes by the budget and ``num_workers``.
        settings: further arguments of Optimizer: ``restarts``, the method's hyperparameters.

    Raises:
        SettingError: an unknown method or hyperparameter.
    """

    def __init__(self, method: Any = "auto", settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(_Blackbox, {"method": method, "settings": settings})


class _Blackbox(ng.optimizers.base.Optimizer):  # type: ignore[misc]
    """The optimizer. Pickled it is its state after the last generation and what was told since."""

    def __init__(
        self,
        parametrization: Any,
        budget: int | None = None,
        num_workers: int = 1,
        method: Any = "auto",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(parametrization, budget=budget, num_workers=num_workers)
        self._penalize_cheap_violations = True
        self._method, self._given = method, dict(settings or {})
        self._codec: _Native | _Standardized
        try:
            self._codec = _Native(self.parametrization)
        except SpaceError:
            self._codec = _Standardized(self.parametrization)
        self._settings(seed=0, constraints=0).plan()  # refuses malformed arguments now
        self._search: Search | None = None
        self._made: Settings | None = None
        self._snapshot: Any = None
        self._told_since: list[Told] = []
        self._waiting: dict[str, tuple[int, int, Row]] = {}  # by the uid of the candidate
        self._member = 0
        self._violation: Any = None

    def _settings(self, seed: int, constraints: int) -> Settings:
        given = dict(self._given)
        restarts = given.pop("restarts", None)
        parallel = self.num_workers if isinstance(self._codec, _Native) else np.inf
        settings = Settings.check(
            self._codec.space, self._method, seed, self.budget, "minimize", None, restarts,
            Policy(allow_neg_inf=True), given, parallel, constraints,
        )  # fmt: skip
        return dataclasses.replace(settings, x0=tuple(self._codec.start.tolist()))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_search": None}

    @property
    def _running(self) -> Search:
        """The search, begun with the first use, when the random state is what the user made it."""
        if self._search is None:
            if self._made is None:
                self._begin(0)
            assert self._made is not None
            self._search = search = Search(self._made.plan())
            if self._snapshot is not None:
                search.restore(*self._snapshot)
            for told in self._told_since:
                search.commit([told], search.prepare([told]))
        return self._search

    def _begin(self, constraints: int) -> None:
        seed = int(self._rng.randint(2**31 - 1)) if self._made is None else self._made.seed
        settings = self._settings(seed, constraints)
        settings.plan()  # may refuse constraints
        self._made, self._search = settings, None
        self._waiting.clear()
        self._member = 0

    def _internal_ask_candidate(self) -> Any:
        search = self._running
        held = {member for generation, member, _ in self._waiting.values() if generation == search.generation}
        while self._member in held or self._member in search.results:
            self._member += 1
        row = search.row(self._member)
        candidate = self._codec.candidate(row)
        self._waiting[candidate.uid] = search.generation, self._member, row
        return candidate

    def tell(self, candidate: Any, loss: Any, constraint_violation: Any = None, penalty_style: Any = None) -> None:
        if constraint_violation is not None and penalty_style is None:
            self._violation = np.atleast_1d(np.asarray(constraint_violation, dtype=np.float64))
            if not self.num_tell:
                try:
                    self._begin(len(self._violation))
                except SettingError:  # a method that knows no constraints: nevergrad's penalties will do
                    self._begin(0)
        try:
            super().tell(candidate, loss, constraint_violation, penalty_style)
        finally:
            self._violation = None

    def _internal_tell_candidate(self, candidate: Any, loss: float) -> None:
        search = self._running
        generation, member, row = self._waiting.pop(candidate.uid, (INJECTED, search.injected, None))
        if row is None:  # told before, or made by nevergrad to keep a constraint
            row = self._codec.row(candidate)
        assert self._made is not None
        value, constraints = loss, None
        if self._made.constraints:
            value = loss if candidate.loss is None else candidate.loss  # without nevergrad's penalty
            constraints = self._violation
            if constraints is None:
                constraints = np.zeros(self._made.constraints)
        value = float(value) if value < FAILED else np.nan
        number, status, vector = self._made.goals.read(self._made.policy, value, constraints)
        late = generation not in (INJECTED, search.generation)
        told = Told(generation, member, row, number, status, late, vector=vector)
        closing = search.prepare([told])
        search.commit([told], closing)
        self._told_since.append(told)
        if closing is not None:
            self._snapshot, self._told_since, self._member = search.snapshot(), [], 0

    def _internal_provide_recommendation(self) -> Any:
        search = self._search
        if search is None or not search.evaluations or self.parametrization.function.deterministic:
            return None  # the best that was told
        candidate = self._codec.candidate(search.lane.strategy.recommend(search.lane.state))
        return candidate.get_standardized_data(reference=self.parametrization)


class _Native:
    """Candidates by the values of the parametrization's variables."""

    def __init__(self, parametrization: Any) -> None:
        self._parametrized = Parametrized(parametrization)
        self.space: Space = self._parametrized.space

    @property
    def start(self) -> Row:
        """The parametrization's numbers; 1/2, which prefers no option and is the middle of branches, for all else."""
        row, known, i = np.full(self.space.dimension, 0.5), self._parametrized.start(), 0
        for name, variable in self.space.dimensions.items():
            if isinstance(variable, Choice):
                i += len(variable.options) + sum(branch.dimension for branch in variable.branches if branch is not None)
            else:
                row[i] = variable.encode(known[name])[0]
                i += 1
        return row

    def candidate(self, row: Row) -> Any:
        return self._parametrized.candidate(self.space.decode(row))

    def row(self, candidate: Any) -> Row:
        return self.space.encode(self._parametrized.point(candidate))


class _Standardized:
    """Candidates by nevergrad's standardized data, whose scale is that of its mutations."""

    def __init__(self, parametrization: Any) -> None:
        self._parametrization = parametrization
        open_ends, zero = np.full(parametrization.dimension, np.inf), np.zeros(parametrization.dimension)
        self.space: Box = Line(-open_ends, open_ends, zero, np.ones_like(zero))

    @property
    def start(self) -> Row:
        return np.full(self.space.dimension, 0.5)

    def candidate(self, row: Row) -> Any:
        return self._parametrization.spawn_child().set_standardized_data(self.space.decode(row))

    def row(self, candidate: Any) -> Row:
        return self.space.encode(candidate.get_standardized_data(reference=self._parametrization))


def _register() -> None:
    flat = [name for name, method in methods().items() if not {"virtual", "hosted"} & {*method.tags}]
    for name in ["auto", *flat]:
        registered = "Blackbox" if name == "auto" else f"Blackbox:{name}"
        if registered not in ng.optimizers.registry:
            BlackboxOptimizer(name).set_name(registered, register=True)


_register()
