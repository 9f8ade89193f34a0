"""A point to evaluate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from blackbox.arrays import Array

if TYPE_CHECKING:
    from jaxtyping import Float

CandidateStatus = Literal["asked", "ok", "infeasible", "failed", "timeout", "crashed"]


class Candidate:
    """A point that an optimizer asks to be evaluated.

    Attributes:
        id: ``(generation, member)``, the same after a resume. Generation -1 are points told from outside; below are
            promotions, which go on with an earlier candidate, and repeats under noise.
        x: the point in native values: a dictionary, or an array of shape (d,) for a Box.
        budget: what to spend on it in all, where there is a ``fidelity``, or None.
        continues: the id of the candidate of the same point and the next smaller budget, if there was one, whose
            checkpoint the evaluation may go on from; else None.
        repeats: the id of the candidate of the same point that it evaluates again, under noise; else None.
        value: what was told, or None before; NaN if the evaluation failed. None with several objectives.
        n_evaluations: how many of them ``value`` is the mean of: 1, but for the best after finals.
        standard_error: of that mean; None for a single value.
        values: what was told of several objectives, or None.
        constraints: what was told with it, or None.
        status: "asked"; "ok"; "infeasible" (told plus infinity, or a constraint that is not kept); "failed", "timeout"
            or "crashed" (no value).
    """

    __slots__ = (
        "_owner", "_row", "_rung", "budget", "constraints", "continues", "id", "n_evaluations", "repeats",
        "standard_error", "status", "value", "values", "x",
    )  # fmt: skip

    def __init__(self, id: tuple[int, int], x: Any, row: Float[Array, "d"], owner: str) -> None:
        self.id = id
        self.x = x
        self.budget: float | None = None
        self.continues: tuple[int, int] | None = None
        self.repeats: tuple[int, int] | None = None
        self.value: float | None = None
        self.n_evaluations = 1
        self.standard_error: float | None = None
        self.values: tuple[float, ...] | None = None
        self.constraints: tuple[float, ...] | None = None
        self.status: CandidateStatus = "asked"
        self._row = row
        self._owner = owner
        self._rung = 0

    def allot(self, rung: int, budgets: tuple[float, ...], continues: tuple[int, int] | None) -> Candidate:
        """Itself, with the budget of a rung."""
        self._rung, self.budget, self.continues = rung, budgets[rung], continues
        return self

    def take(self, value: float, status: CandidateStatus, vector: Float[Array, "k+m"] | None, objectives: int) -> None:
        """Bear a result; ``vector`` has the values and the constraints, where they are more than one number."""
        self.status = status
        if objectives == 1:
            self.value = value
        numbers = () if vector is None else tuple(vector.tolist())
        self.values = numbers[:objectives] if objectives > 1 else None
        self.constraints = numbers[objectives:] or None

    def __repr__(self) -> str:
        result = "" if self.budget is None else f", budget={self.budget!r}"
        result += "" if self.continues is None else f", continues={self.continues}"
        result += "" if self.repeats is None else f", repeats={self.repeats}"
        result += "" if self.value is None else f", value={self.value!r}"
        result += "" if self.n_evaluations == 1 else f", n_evaluations={self.n_evaluations}"
        result += "" if self.values is None else f", values={self.values!r}"
        result += "" if self.constraints is None else f", constraints={self.constraints!r}"
        return f"Candidate(id={self.id}, x={self.x!r}{result}, status={self.status!r})"
