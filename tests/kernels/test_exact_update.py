"""Whole-number noise and whole-number weights: one update, in bits, in any order, on any number of devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blackbox.kernels import native


@pytest.mark.skipif(native.library() is None, reason="no C++ compiler")
def test_an_update_of_whole_numbers_is_one_however_it_is_divided() -> None:
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    script = Path(__file__).with_name("exact_update.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * (9 + 4), done.stderr
    assert [line for line in lines if not line.endswith(" True")] == []
