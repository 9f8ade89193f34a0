"""What a result consists of: one value or several, and constraints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.errors import NonFinite, TellError
from blackbox.shell.candidate import CandidateStatus
from blackbox.shell.told import Policy, read_rows, read_value, read_values

if TYPE_CHECKING:
    from jaxtyping import Float


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
