"""What `bench/program_search.py` calls rediscovered is found by running a program, whatever it looks like."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from blackbox.programs import ADAMW, GRADIENT, LION, MOMENTUM, Program, parse

BENCH = Path(__file__).parents[2] / "bench"

AVERAGE = "m = interp(g, m, 0.9)\n"


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        (LION, "sign of an average"),
        (parse(AVERAGE + "x1 = abs(m)\nx2 = m / x1\nupdate = lr * x2"), "sign of an average"),
        (parse("m = m + g\nx1 = m * 1e+30\nx2 = clip(x1, lr)\nupdate = x2 * 1.0"), "sign of an average"),
        (parse("x1 = sign(g)\nm = interp(x1, m, 0.7)\nx1 = sign(m)\nupdate = x1 * lr"), "sign of an average of signs"),
        (parse("x1 = sign(g)\nupdate = x1 * lr"), "sign"),
        (parse("m = interp(g, m, 0.9)\nupdate = clip(m, 0.001)"), "average, clipped"),
        (parse("update = clip(g, 0.001)"), "gradient, clipped"),
        (parse(f"x1 = sign(g)\n{AVERAGE.replace('g', 'x1')}update = m * lr"), "average of signs"),
        (ADAMW, "average, normalized"),
        (parse(AVERAGE + "x1 = norm(m)\nx2 = m / x1\nupdate = x2 * lr"), "average, normalized"),
        (parse("x1 = norm(g)\nx2 = g / x1\nupdate = x2 * lr"), "gradient, normalized"),
        (parse("x1 = sin(g)\nupdate = x1 * lr"), "gradient, bounded"),
        (parse(AVERAGE + "x1 = atan(m)\nupdate = x1 * lr"), "average, bounded"),
        (MOMENTUM, "average"),
        (GRADIENT, "gradient"),
    ],
)
def test_kinds_of_known_programs(program: Program, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.delitem(sys.modules, "program_kinds", raising=False)
    assert importlib.import_module("program_kinds").traits(program).kind == kind
