"""The kernels on the simulator under AddressSanitizer and UndefinedBehaviorSanitizer, on arrays of exact size."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import simulator

from blackbox.kernels import native

HERE = Path(__file__).parent
BEYOND = """
import numpy as np, simulator
from blackbox.kernels.device import Launch
one = np.zeros(1, np.uint32)
simulator.launch(0, (), None, Launch("noise.cu", "bb_noise_sign", (1, 1), (2, 9, 0)), (np.zeros(2, np.uint32), one),
                 [((2, 9), "float32")])
"""


def environment() -> dict[str, str]:
    """Of a process in which sanitized libraries can be loaded."""
    said = [
        subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(os.path.isabs(path) for path in said):
        pytest.skip("the compiler has no sanitizers")
    return os.environ | {
        "LD_PRELOAD": " ".join(said),
        # CPython keeps what it has allocated, and so do NumPy's caches of small arrays.
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
        "CXX": "g++",
        simulator.SANITIZED: "1",
    }


pytestmark = [
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="no g++"),
    pytest.mark.skipif(native.library() is None, reason="no C++ compiler"),
    pytest.mark.skipif(simulator.SANITIZED in os.environ, reason="within itself"),
]


def test_kernels_are_clean() -> None:
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-rA"]
    done = subprocess.run(
        [*tests, str(HERE / "test_simulator.py")],
        env=environment(), cwd=HERE.parents[1], capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("\nPASSED ") >= 120


def test_a_read_beyond_an_array_is_found() -> None:
    """Two rows of noise are asked for, and one member is given."""
    done = subprocess.run(
        [sys.executable, "-c", BEYOND], env=environment() | {"PYTHONPATH": str(HERE)}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
