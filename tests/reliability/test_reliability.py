"""The figures of reliability at a tenth of their size; ``bench/reliability.py`` measures them in full."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from reliability import FIGURES, NOTE, main

SCALES = {"R14": 0.03, "R6": 0.05, "R17": 0.03}
"""Smaller ones, where a tenth would take most of the time."""
ELSEWHERE = {"R2": "tests/test_resume.py, of every method", "R8": "blackbox.testing, of every method"}
"""Figures that other tests hold at the size of tests."""
pytestmark = pytest.mark.skipif(not hasattr(__import__("signal"), "SIGKILL"), reason="needs SIGKILL")


@pytest.mark.parametrize("id", sorted({*FIGURES} - {*ELSEWHERE}))
def test_figure_meets_its_bar(id: str, tmp_path: Path) -> None:
    outcome = FIGURES[id].measure(SCALES.get(id, 0.1), tmp_path)
    if outcome.ok is None:
        pytest.skip(outcome.measured)
    assert outcome.ok, outcome.measured


def test_all_figures_of_the_design_are_there() -> None:
    assert set(FIGURES) == {f"R{i}" for i in range(1, 18)} - {"R11", "R15"}
    for id in ("R11", "R15"):
        assert id in NOTE


def test_unknown_ids_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["reliability.py", "--only", "R1,R99"])
    with pytest.raises(SystemExit):
        main()
    assert "R99 unknown" in capsys.readouterr().err
