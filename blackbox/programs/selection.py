"""A funnel: of the winners on small tasks those that win on larger ones, fewer at each stage.

Source: Chen et al. 2023 (arXiv:2302.06675), section 2.3: a long search overfits its proxy tasks, so what it found is
chosen by tasks that it has not seen, 10 times larger, and of what stands that by larger ones again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from blackbox.programs.abstract import analysis
from blackbox.programs.language import Program


class Finalist(NamedTuple):
    """A program that has come through."""

    program: Program
    """In canonical form."""
    values: tuple[float, ...]
    """Its value at each stage; infinite where it failed."""


def funnel(
    programs: Iterable[Program], stages: Sequence[tuple[Callable[[Program], float], int]]
) -> tuple[Finalist, ...]:
    """The programs that come through all stages, best first by the last one.

    Args:
        programs: such as the elites of several searches; those that compute the same are one.
        stages: of each its objective, lower is better, and how many of the best come through. Who fails does not.
    """
    forms = {form.key: form.program for form in map(analysis, programs)}
    left = [Finalist(program, ()) for program in forms.values()]
    for objective, keep in stages:
        valued = [Finalist(program, (*values, float(objective(program)))) for program, values in left]
        standing = [finalist for finalist in valued if math.isfinite(finalist.values[-1])]
        left = sorted(standing, key=lambda finalist: finalist.values[-1])[:keep]
    return tuple(left)
