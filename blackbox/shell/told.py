"""The one place where told values enter: whatever a user may tell becomes a float and a status, or an error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from blackbox.dimensions import show
from blackbox.errors import NonFinite, SettingError, TellError
from blackbox.shell.candidate import Candidate, CandidateStatus

if TYPE_CHECKING:
    from jaxtyping import Float

NONFINITE = ("fail", "raise")
IF_TOLD = ("raise", "ignore")


class Policy(NamedTuple):
    """What to do about values that are no finite numbers, and about results told twice."""

    sign: int = 1
    """1 to minimize, -1 to maximize."""
    nonfinite: Literal["fail", "raise"] = "fail"
    allow_neg_inf: bool = False
    if_told: Literal["raise", "ignore"] = "raise"

    def checked(self) -> Policy:
        """Itself; SettingError for options that do not exist."""
        if self.nonfinite not in NONFINITE:
            raise SettingError(f"nonfinite must be one of {', '.join(NONFINITE)}; got {self.nonfinite!r}")
        if self.if_told not in IF_TOLD:
            raise SettingError(f"if_told must be one of {', '.join(IF_TOLD)}; got {self.if_told!r}")
        if not isinstance(self.allow_neg_inf, bool):
            raise SettingError(f"allow_neg_inf must be True or False; got {self.allow_neg_inf!r}")
        return self

    def judge(self, argument: str, value: float) -> CandidateStatus:
        """The status of a value that was told as ``argument``.

        Raises:
            NonFinite: for infinitely good values and, with ``nonfinite="raise"``, for all that are not finite.
        """
        if math.isfinite(value):
            return "ok"
        if self.nonfinite == "raise":
            raise NonFinite(f'{argument} must be finite under nonfinite="raise"; got {value}')
        if math.isnan(value):
            return "failed"
        if value * self.sign > 0:
            return "infeasible"
        if self.allow_neg_inf:
            return "ok"
        worst = "+inf" if self.sign > 0 else "-inf"
        raise NonFinite(
            f"{argument} must not be {value}, which no other value could ever beat; tell {worst} for an infeasible "
            "point, None for a failed evaluation, or set allow_neg_inf=True"
        )


class Told(NamedTuple):
    """A checked result."""

    generation: int
    member: int
    row: Any
    """The strategy's vector, shape (d,)."""
    value: float
    """As the user told it, of several the first; NaN if the evaluation failed."""
    status: CandidateStatus
    late: bool = False
    """Whether its generation was closed when it was told."""
    candidate: Candidate | None = None
    vector: Float[np.ndarray, "k+m"] | None = None
    """Values and constraints, as the user told them; None where there is but one number."""
    rung: int = 0
    """Number of its budget, from the smallest, where there are several."""


def read_value(argument: str, value: Any) -> float:
    """``value`` as a float; None is NaN.

    Accepted: numbers, NumPy scalars, and arrays of one element from any library.

    Raises:
        TellError: for anything else, Booleans, strings and complex numbers among them.
    """
    if type(value) is float:
        return value
    if value is None:
        return math.nan
    if isinstance(value, bool | np.bool_ | str | bytes | complex | np.complexfloating | np.timedelta64):
        raise _refusal(argument, value)
    try:
        if isinstance(value, int | float | np.integer | np.floating):
            return float(value)
        if _is_array(value):
            elements = _as_numpy(argument, value).reshape(-1).tolist()
            if len(elements) != 1 or isinstance(elements[0], list):
                raise _refusal(argument, value)
            return read_value(argument, elements[0])
        if hasattr(value, "__float__"):
            return float(value)
    except TellError:
        raise
    except Exception as error:  # a foreign conversion may raise anything
        raise _refusal(argument, value) from error
    raise _refusal(argument, value)


def read_values(argument: str, values: Any, count: int, each: str = "candidate") -> list[float]:
    """``count`` told values as floats.

    Raises:
        TellError: for anything but a sequence or one-dimensional array of ``count`` values.
    """
    due = f"{argument} must be a sequence of {count} values, one for each {each}"
    items: Sequence[Any]
    if isinstance(values, Sequence) and not isinstance(values, str | bytes | bytearray | memoryview):
        items = values
    elif _is_array(values):
        array = _as_numpy(argument, values)
        if array.ndim != 1:
            raise TellError(f"{due}; got an array of shape {array.shape}")
        items = array.tolist()
    else:
        raise TellError(f"{due}; got {show(values)}")
    if len(items) != count:
        raise TellError(f"{due}; got {len(items)}")
    return [value if type(value) is float else read_value(f"{argument}[{i}]", value) for i, value in enumerate(items)]


def read_rows(argument: str, rows: Any, count: int, width: int, each: str) -> list[list[float] | None]:
    """``width`` told values for each of ``count`` candidates, as floats; None stays what it is.

    Raises:
        TellError: for anything but a sequence of ``count`` sequences, or an array of that shape.
    """
    due = f"{argument} must be a sequence for each of {count} candidates, of {width} values each"
    if _is_array(rows):
        array = _as_numpy(argument, rows)
        if array.shape != (count, width):
            raise TellError(f"{due}; got an array of shape {array.shape}")
        rows = array.tolist()
    elif not isinstance(rows, Sequence) or isinstance(rows, str | bytes | bytearray | memoryview):
        raise TellError(f"{due}; got {show(rows)}")
    elif len(rows) != count:
        raise TellError(f"{due}; got {len(rows)}")
    return [None if row is None else read_values(f"{argument}[{i}]", row, width, each) for i, row in enumerate(rows)]


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "__array__") or hasattr(value, "__dlpack__")


def _as_numpy(argument: str, values: Any) -> np.ndarray:
    """An array of any library as a NumPy array of numbers or objects, masks kept."""
    if not isinstance(values, np.ndarray):
        try:
            values = np.asarray(values) if hasattr(values, "__array__") else np.from_dlpack(values)
        except Exception as error:  # arrays that live on another device, or that gradients are tracked through
            try:
                return np.array(float(values))  # which one number may leave
            except Exception:
                raise TellError(f"{argument} could not be copied to a NumPy array: {error}") from error
    if values.dtype.kind in "mM":  # whose elements may become plain integers
        raise TellError(f"{argument} must be real numbers; got {values.dtype}")
    array: np.ndarray = values
    return array


def _refusal(argument: str, value: Any) -> TellError:
    return TellError(f"{argument} must be a real number, or None or NaN for a failed evaluation; got {show(value)}")
