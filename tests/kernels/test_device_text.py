"""The kernels' text as a GPU compiles it; needs nvcc, but no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from blackbox.kernels import native

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")

EXACT = """
#include "noise.cuh"
extern "C" __global__ void exact_kinds(float* out, int count, bb_u32 k0, bb_u32 k1) {
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

FAST = """
#include "noise.cuh"
extern "C" __global__ void fast(float* out, int count, bb_u32 k0, bb_u32 k1) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const bb_words words = bb_philox(i, 0, k0, k1);
  for (int half = 0; half < 4; half += 2)
    bb_normal_fast(words.w[half], words.w[half + 1], out[4 * i + half], out[4 * i + half + 1]);
}
"""


def compiled(text: str, folder: Path, *options: str) -> tuple[str, Path]:
    source, made = folder / "kernel.cu", folder / "made"
    source.write_text(text)
    done = subprocess.run(
        ["nvcc", *options, f"-I{native.SOURCES}", str(source), "-o", str(made)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr, made


@pytest.mark.parametrize("text", [EXACT, FAST], ids=["exact", "fast"])
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_noise_fits_into_registers(architecture: str, text: str, tmp_path: Path) -> None:
    said, _ = compiled(text, tmp_path, f"-arch={architecture}", "-cubin", "-Xptxas", "-v")
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in said
    registers = re.search(r"Used (\d+) registers", said)
    assert registers is not None
    assert int(registers[1]) <= 32  # all threads of a multiprocessor at once


def test_every_float_operation_of_exact_kinds_is_rounded_once_to_nearest(tmp_path: Path) -> None:
    _, made = compiled(EXACT, tmp_path, "-arch=compute_80", "-ptx")
    operations = set(re.findall(r"^\s*([a-z]+\.\S*f32\S*)", made.read_text(), re.MULTILINE))
    arithmetic = {
        name for name in operations if name.split(".")[0] in {"add", "sub", "mul", "fma", "mad", "div", "sqrt"}
    }
    assert {"mul.rn.f32", "fma.rn.f32", "sqrt.rn.f32"} == arithmetic - {"add.rn.f32"}
    assert not re.search(r"\.(approx|ftz)|lg2|ex2|\b(sin|cos)\.", made.read_text())


def test_fast_normals_come_from_the_special_function_units(tmp_path: Path) -> None:
    _, made = compiled(FAST, tmp_path, "-arch=compute_80", "-ptx")
    approximate = re.findall(r"^\s*(\w+\.approx\S*)", made.read_text(), re.MULTILINE)
    assert sorted(approximate) == sorted(f"{name}.approx.ftz.f32" for name in ("lg2", "sqrt", "sin", "cos") * 2)
