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
    """How many numbers a result has, and which way is better."""

    signs: tuple[int, ...] = (1,)
    """Of each objective: 1 to minimize, -1 to maximize."""
    constraints: int = 0

    @property
    def objectives(self) -> int:
        return len(self.signs)

    @property
    def width(self) -> int:
        """Numbers of a result in all."""
        return len(self.signs) + self.constraints

    def signed(self, value: float, vector: Float[np.ndarray, "k+m"] | None) -> Any:
        """What a result ranks by, lower is better: a number, or a vector."""
        if vector is None:
            return self.signs[0] * value
        return vector * np.array([*self.signs, *[1] * self.constraints])

    def read(self, policy: Policy, value: Any, constraints: Any) -> Numbers:
        """The numbers of one result, as told.

        Raises:
            TellError: naming ``value`` or ``constraints``, what came, and what was due.
        """
        k, m = self.objectives, self.constraints
        if k == 1:
            values = [read_value("value", value)]
        elif value is None or (isinstance(value, float) and math.isnan(value)):
            values = [math.nan] * k
        else:
            values = read_values("value", value, k, "objective")
        row = None
        if self._are_due(constraints) and constraints is not None:
            row = read_values("constraints", constraints, m, "constraint")
        return self.judge(policy, values, row)

    def read_many(self, policy: Policy, values: Any, constraints: Any, count: int) -> list[Numbers]:
        """The numbers of ``count`` results.

        Raises:
            TellError: as :meth:`read`.
        """
        k, m = self.objectives, self.constraints
        if k == 1:
            own = [[value] for value in read_values("value", values, count)]
        else:
            own = [row or [math.nan] * k for row in read_rows("value", values, count, k, "objective")]
        rows: Sequence[list[float] | None] = [None] * count
        if self._are_due(constraints) and constraints is not None:
            rows = read_rows("constraints", constraints, count, m, "constraint")
        return [self.judge(policy, own[i], rows[i], f"[{i}]") for i in range(count)]

    def failure(self, status: CandidateStatus) -> Numbers:
        """The numbers of a failed evaluation."""
        return self.judge(Policy(), [math.nan] * self.objectives)._replace(status=status)

    def _are_due(self, constraints: Any) -> bool:
        if constraints is not None and not self.constraints:
            raise TellError(
                "constraints must be left out, as this optimizer was made for none; "
                "make it with constraints=1, or as many as there are"
            )
        return self.constraints > 0

    def judge(
        self, policy: Policy, values: Sequence[float], constraints: Sequence[float] | None = None, at: str = ""
    ) -> Numbers:
        """Status and vector of values and what was told of constraints; ``at`` is their place in a list."""
        status: CandidateStatus = "ok"
        for j, (value, sign) in enumerate(zip(values, self.signs, strict=True)):
            if not math.isfinite(value):
                of = f"[{j}]" if len(values) > 1 else ""
                judged = policy._replace(sign=sign).judge(f"value{at}{of}", value)
                status = judged if status != "failed" and judged != "ok" else status
        if self.width == 1:
            return Numbers(values[0], status)
        if constraints is None and self.constraints:
            if status != "failed":
                raise TellError(
                    f"constraints{at} must be a sequence of {self.constraints} numbers, of which those <= 0 are kept; "
                    "got None"
                )
            constraints = [math.nan] * self.constraints
        elif policy.nonfinite == "raise" and not all(map(math.isfinite, constraints or ())):
            raise NonFinite(f'constraints{at} must be finite under nonfinite="raise"; got {constraints}')
        if status == "ok" and not all(g <= 0 for g in constraints or ()):  # NaN is not kept
            status = "infeasible"
        return Numbers(values[0], status, np.array([*values, *(constraints or ())]))


def choose_method_for(objectives: int, space: Space | Box, budget: int | None) -> Chosen:
    """The method that ``method="auto"`` stands for where there are several objectives, or constraints.

    Several objectives: ``nsga-ii``. With constraints, a method that ranks each generation anew:

    * fewer evaluations than two generations of CMA-ES: ``sobol``, or ``random`` beyond its 1,111 coordinates;
    * integers of few values, Booleans or choices among the variables: ``cat-cma``;
    * up to 200 coordinates: ``cma-es``; more: ``lm-ma-es``.
    """
    if objectives > 1:
        return Chosen("nsga-ii", f"{objectives} objectives")
    d = space.dimension
    if budget is not None and budget < 2 * (4 + int(3 * math.log(d))):
        few = f"{budget} evaluations are too few for {d} coordinates to learn from"
        return Chosen("sobol" if d <= MAX_DIMENSION else "random", few)
    if any(kind != "float" for kind, *_ in space.layout):
        return Chosen("cat-cma", "constraints, and variables that are discrete")
    if d <= FULL_COVARIANCE:
        return Chosen("cma-es", f"constraints, and {d} continuous coordinates, few enough for a full covariance")
    return Chosen("lm-ma-es", f"constraints, and {d} continuous coordinates, too many for a full covariance")
