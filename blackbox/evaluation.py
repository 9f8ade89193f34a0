"""One evaluation of an objective, with whatever it does turned into a value."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Objective = Callable[[Any], Any]
Status = Literal["ok", "failed", "timeout", "crashed"]


Post = Callable[[int, object], None]  # hands in the result of the evaluation with this token


class Reply(NamedTuple):
    """How an evaluation ended. ``started`` is False where its worker died before the objective was called."""

    status: Status
    value: object = math.nan
    reason: str = ""
    seconds: float = math.nan
    exception: BaseException | None = None
    started: bool = True


@dataclass(frozen=True)
class Call:
    """The objective with its errors turned into replies; can be sent wherever the objective can.

    ``token`` tells repeated evaluations of one point apart for executors that cache by argument (dask), those of
    another run included.
    """

    objective: Objective
    keep_exception: bool
    token: str = ""

    def __call__(self, x: object) -> Reply:
        begin = time.perf_counter()
        try:
            value = self.objective(x)
        except BaseException as error:  # a worker has no one to pass SystemExit or KeyboardInterrupt on to
            seconds = time.perf_counter() - begin
            return Reply("failed", math.nan, describe(error), seconds, error if self.keep_exception else None)
        return Reply("ok", value, "", time.perf_counter() - begin)


def describe(error: BaseException) -> str:
    """The exception in its own words, then the innermost three frames."""
    words = "".join(traceback.format_exception_only(error)).strip()
    inside = error.__traceback__.tb_next if error.__traceback__ else None  # without the frame of the call itself
    return f"{words}\n{''.join(traceback.format_tb(inside, limit=-3))}".strip()[:4000]
