"""The kernels' text as a GPU compiles it; needs nvcc, but no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from blackbox.kernels import native

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")

ALL_KINDS = """
#include "noise.cuh"
extern "C" __global__ void all_kinds(float* out, int count, bb_u32 k0, bb_u32 k1) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const bb_words words = bb_philox(i, 0, k0, k1);
  for (int half = 0; half < 4; half += 2)
    bb_normal(words.w[half], words.w[half + 1], out[8 * i + half], out[8 * i + half + 1]);
  out[8 * i + 4] = bb_unit(words.w[0]);
  out[8 * i + 5] = bb_sign(words.w[1], i & 31);
  out[8 * i + 6] = (float)bb_popcounts(words.w[2]);
}
"""


def compiled(folder: Path, *options: str, text: str = ALL_KINDS) -> tuple[str, Path]:
    source, made = folder / "kernel.cu", folder / "made"
    source.write_text(text)
    done = subprocess.run(
        ["nvcc", *options, f"-I{native.SOURCES}", str(source), "-o", str(made)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr, made


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_noise_fits_into_registers(architecture: str, tmp_path: Path) -> None:
    said, _ = compiled(tmp_path, f"-arch={architecture}", "-cubin", "-Xptxas", "-v")
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in said
    registers = re.search(r"Used (\d+) registers", said)
    assert registers is not None
    assert int(registers[1]) <= 32  # all threads of a multiprocessor at once


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_products_with_noise_fit_into_registers(architecture: str, tmp_path: Path) -> None:
    said, _ = compiled(tmp_path, f"-arch={architecture}", "-cubin", "-Xptxas", "-v", text='#include "lowrank.cu"')
    assert said.count("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") == 8
    # Of 256 threads at least four blocks at once on a multiprocessor.
    assert max(map(int, re.findall(r"Used (\d+) registers", said))) <= 64


@pytest.mark.parametrize("text", [ALL_KINDS, '#include "lowrank.cu"'])
def test_every_float_operation_is_rounded_once_to_nearest(text: str, tmp_path: Path) -> None:
    _, made = compiled(tmp_path, "-arch=compute_80", "-ptx", text=text)
    operations = set(re.findall(r"^\s*([a-z]+\.\S*f32\S*)", made.read_text(), re.MULTILINE))
    arithmetic = {
        name for name in operations if name.split(".")[0] in {"add", "sub", "mul", "fma", "mad", "div", "sqrt"}
    }
    assert {"add.rn.f32", "mul.rn.f32", "fma.rn.f32", "sqrt.rn.f32"} == arithmetic
    assert not re.search(r"\.(approx|ftz)|lg2|ex2|\b(sin|cos)\.", made.read_text())
