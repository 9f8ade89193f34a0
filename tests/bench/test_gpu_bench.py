"""The benchmark for GPUs runs to its end without one, on the simulator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blackbox.kernels import native

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.skipif(native.library() is None, reason="no C++ compiler")
def test_every_line_of_it_is_rehearsed() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "gpu.py"), "--rehearse"],
        env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = ["noise, normal", "seedsum, update, sign", "seedsum, genomes, binom8", "rollout, Acrobot-v1"]
    for kernel in (*kernels, "lowrank_mix, binom8", "EGGROLL layer, bfloat16, sign"):
        assert f"'kernel': '{kernel}" in done.stdout
    assert "A launch takes" in done.stdout
    assert done.stdout.count("bits equal to the CPU's: 100.0%") == 5
