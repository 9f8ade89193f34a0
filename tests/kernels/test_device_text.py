"""The kernels' text as a GPU compiles it; needs nvcc, but no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import simulator

from blackbox.kernels import cuda, native

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")

# Registers of a thread, at most: with so many a multiprocessor of 65,536 has that many threads at once.
REGISTERS = {
    "lowrank.cu": 64,  # 1,024
    "noise.cu": 32,  # all 2,048
    "rollout.cu": 80,  # 768, in blocks of one warp or a few
    "seedsum.cu": 128,  # 512, each with 4 to 32 sums of its own in registers
}
ARITHMETIC = {"add", "sub", "mul", "fma", "mad", "div", "sqrt", "rcp", "rsqrt", "sin", "cos", "lg2", "ex2", "tanh"}
ROUNDED = {"add.rn.f32", "mul.rn.f32", "fma.rn.f32", "sqrt.rn.f32", "div.rn.f32"}


def compiled(source: str, made: Path, *options: str) -> str:
    done = subprocess.run(
        ["nvcc", *cuda.OPTIONS, *options, str(native.SOURCES / source), "-o", str(made)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@cache
def ptx(source: str, contraction: str = cuda.OPTIONS[-1]) -> str:
    """The text that nvcc makes of a source."""
    command = ["nvcc", *cuda.OPTIONS[:-1], contraction, "-arch=compute_80", "-ptx", str(native.SOURCES / source)]
    return subprocess.run(
        [*command, "-o", "/dev/stdout"], check=True, capture_output=True, text=True, timeout=300
    ).stdout


@pytest.mark.parametrize(
    ("source", "architecture"),
    [(source, "sm_90") for source in REGISTERS] + [("seedsum.cu", "sm_80"), ("seedsum.cu", "sm_100")],
)
def test_kernels_fit_into_registers(source: str, architecture: str, tmp_path: Path) -> None:
    said = compiled(source, tmp_path / "made", f"-arch={architecture}", "-cubin", "-Xptxas", "-v")
    assert "warning" not in said
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    used = [int(number) for number in re.findall(r"Used (\d+) registers", said)]
    assert len(frames) == len(used) == len(simulator.kernels_of(source))
    assert set(frames) == {("0", "0", "0")}
    assert max(used) <= REGISTERS[source]


@pytest.mark.parametrize("source", REGISTERS)
def test_every_float_operation_is_rounded_once_to_nearest(source: str) -> None:
    exact = {name for name in simulator.kernels_of(source) if not name.endswith("_fast")}
    found = dict(re.findall(r"\.entry (\w+)\((.*?)\n\}", ptx(source), re.DOTALL))
    assert found.keys() >= exact
    for name in exact:
        operations = set(re.findall(r"^\s*(?:@!?%p\d+ )?([a-z0-9]+\.\S*f32)\b", found[name], re.MULTILINE))
        assert {operation for operation in operations if operation.split(".")[0] in ARITHMETIC} <= ROUNDED
        assert not re.search(r"\.(approx|ftz|full)\b", found[name])


@pytest.mark.parametrize("source", ["noise.cu", "seedsum.cu"])
def test_fast_normals_come_from_the_special_function_units(source: str) -> None:
    found = dict(re.findall(r"\.entry (\w+)\((.*?)\n\}", ptx(source), re.DOTALL))
    (fast,) = (found[name] for name in simulator.kernels_of(source) if name.endswith("_fast"))
    assert {"lg2", "sqrt", "sin", "cos"} == set(re.findall(r"(\w+)\.approx\.ftz\.f32", fast))


@pytest.mark.parametrize("source", REGISTERS)
def test_no_operation_is_left_to_contraction(source: str) -> None:
    """A sum of a product that is not written with BB_ADD and BB_MUL would be fused where a compiler may."""
    assert cuda.OPTIONS[-1] == "-fmad=false"
    assert ptx(source) == ptx(source, "-fmad=true")
    assert ".f64" not in ptx(source)


def test_all_texts_are_checked() -> None:
    assert set(REGISTERS) == {path.name for path in native.SOURCES.glob("*.cu")}
