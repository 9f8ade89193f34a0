"""What a result consists of: one value or several, and constraints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.box import Box
from blackbox.classic.sobol import MAX_DIMENSION
from blackbox.errors import NonFinite, TellError
from blackbox.shell.auto import Chosen
from blackbox.shell.candidate import CandidateStatus
from blackbox.shell.told import Policy, read_rows, read_value, read_values
from blackbox.space import Space

if TYPE_CHECKING:
    from jaxtyping import Float

FULL_COVARIANCE = 200  # dimensions up to which a d x d covariance costs less than most objectives


class Numbers(NamedTuple):
    """The checked numbers of one result."""

    value: float
    status: CandidateStatus
    vector: Float[np.ndarray, "k+m"] | None = None
    """Values, then constraints; None where there is but one number."""


class Goals(NamedTuple):
    """How many numbers a result has."""

    constraints: int = 0

    @property
    def width(self) -> int:
        """Numbers of a result in all."""
        return 1 + self.constraints

    def read(self, policy: Policy, value: Any, constraints: Any) -> Numbers:
        """The numbers of one result, as told.

        Raises:
            TellError: naming ``value`` or ``constraints``, what came, and what was due.
        """
        number = read_value("value", value)
        if not self._are_due(constraints):
            return self.judge(policy, number)
        row = None
        if constraints is not None:
            row = read_values("constraints", constraints, self.constraints, "constraint")
        return self.judge(policy, number, row)

    def read_many(self, policy: Policy, values: Any, constraints: Any, count: int) -> list[Numbers]:
        """The numbers of ``count`` results.

        Raises:
            TellError: as :meth:`read`.
        """
        numbers = read_values("value", values, count)
        rows: Sequence[list[float] | None] = [None] * count
        if self._are_due(constraints) and constraints is not None:
            rows = read_rows("constraints", constraints, count, self.constraints, "constraint")
        return [self.judge(policy, numbers[i], rows[i], f"[{i}]") for i in range(count)]

    def _are_due(self, constraints: Any) -> bool:
        if constraints is not None and not self.constraints:
            raise TellError(
                "constraints must be left out, as this optimizer was made for none; "
                "make it with constraints=1, or as many as there are"
            )
        return self.constraints > 0

    def judge(self, policy: Policy, value: float, constraints: Sequence[float] | None = None, at: str = "") -> Numbers:
        """Status and vector of a value and what was told of its constraints; ``at`` is its place in a list."""
        status: CandidateStatus = "ok" if math.isfinite(value) else policy.judge(f"value{at}", value)
        if not self.constraints:
            return Numbers(value, status)
        if constraints is None:
            if not math.isnan(value):
                raise TellError(
                    f"constraints{at} must be a sequence of {self.constraints} numbers, of which those <= 0 are kept; "
                    "got None"
                )
            constraints = [math.nan] * self.constraints
        elif policy.nonfinite == "raise" and not all(map(math.isfinite, constraints)):
            raise NonFinite(f'constraints{at} must be finite under nonfinite="raise"; got {list(constraints)}')
        if status == "ok" and not all(g <= 0 for g in constraints):  # NaN is not kept
            status = "infeasible"
        return Numbers(value, status, np.array([value, *constraints]))


def choose_method_for(space: Space | Box, budget: int | None) -> Chosen:
    """The method that ``method="auto"`` stands for where there are constraints: one that ranks each generation anew.

    * fewer evaluations than two generations of CMA-ES: ``sobol``, or ``random`` beyond its 1,111 coordinates;
    * integers of few values, Booleans or choices among the variables: ``cat-cma``;
    * up to 200 coordinates: ``cma-es``; more: ``lm-ma-es``.
    """
    d = space.dimension
    if budget is not None and budget < 2 * (4 + int(3 * math.log(d))):
        few = f"{budget} evaluations are too few for {d} coordinates to learn from"
        return Chosen("sobol" if d <= MAX_DIMENSION else "random", few)
    if any(kind != "float" for kind, *_ in space.layout):
        return Chosen("cat-cma", "constraints, and variables that are discrete")
    if d <= FULL_COVARIANCE:
        return Chosen("cma-es", f"constraints, and {d} continuous coordinates, few enough for a full covariance")
    return Chosen("lm-ma-es", f"constraints, and {d} continuous coordinates, too many for a full covariance")
