"""Normal noise as the kernels' text has it: its coefficients, and every number that it is made of."""

from __future__ import annotations

import ctypes
import itertools
import re
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from blackbox.kernels import native, ref, spec
from blackbox.kernels.ref import kinds
from blackbox.kernels.xla import kinds as traced_kinds

WORDS = np.arange(2**23, dtype=np.uint32) << 9  # one for each uniform number; lower bits do not count

PARTS = """
#include "noise.cuh"
extern "C" void parts(const bb_u32* words, long count, float* minus_two_log, float* sine, float* cosine) {
  for (long i = 0; i < count; ++i) {
    minus_two_log[i] = bb_minus_two_log(bb_unit(words[i]));
    bb_sin_cos_2pi(words[i], sine[i], cosine[i]);
  }
}
"""

# Special function units as bad as PTX allows them to be, each error of one sign.
FAST = """
#include <cmath>
static double log2_error, root_error, turn_error;
static float log2_approx(float a) {
  return (float)(std::log2((double)a) + log2_error * 0x1p-22 * (a > 0.5f ? 1.0 : std::fabs(std::log2((double)a))));
}
static float sqrt_approx(float a) { return (float)(std::sqrt((double)a) * (1.0 + root_error * 0x1p-23)); }
static float sin_approx(float a) { return (float)(std::sin((double)a) + turn_error * 0x1.6a09e667f3bcdp-21); }
static float cos_approx(float a) { return (float)(std::cos((double)a) + turn_error * 0x1.6a09e667f3bcdp-21); }
#define BB_LOG2_APPROX(a) log2_approx(a)
#define BB_SQRT_APPROX(a) sqrt_approx(a)
#define BB_SIN_APPROX(a) sin_approx(a)
#define BB_COS_APPROX(a) cos_approx(a)
#include "noise.cuh"
extern "C" double distance(const bb_u32* a, const bb_u32* b, long count, int log2, int root, int turn) {
  log2_error = log2, root_error = root, turn_error = turn;
  double largest = 0;
  for (long i = 0; i < count; ++i) {
    float exact[2], fast[2];
    bb_normal(a[i], b[i], exact[0], exact[1]);
    bb_normal_fast(a[i], b[i], fast[0], fast[1]);
    for (int q = 0; q < 2; ++q) largest = std::fmax(largest, std::fabs((double)fast[q] - (double)exact[q]));
  }
  return largest;
}
"""


def compiled(text: str, folder: Path) -> ctypes.CDLL:
    """A library of a text for this CPU, with the options of the kernels."""
    if native.library() is None:
        pytest.skip("no C++ compiler")
    source, made = folder / "text.cpp", folder / "text.so"
    source.write_text(text)
    command = [*native._compiler(), *native.OPTIONS, "-fvisibility=default", f"-I{native.SOURCES}"]
    subprocess.run([*command, str(source), "-o", str(made)], check=True, timeout=120)
    return ctypes.CDLL(str(made))


def test_the_text_has_the_coefficients_of_the_specification() -> None:
    text = (native.SOURCES / "noise.cuh").read_text()

    def numbers(name: str) -> list[np.float32]:
        body = text[text.index(f" {name}(") :].split("\n}\n")[0]
        return [np.float32(number) for number in re.findall(r"(?<![\w.])-?\d+\.\d*(?:e-?\d+)?(?=f\b)", body)]

    log, (first, *sin_cos) = numbers("bb_minus_two_log"), numbers("bb_sin_cos_2pi")
    assert log == [np.float32(c) for c in (-2.0, 2.0, *spec.LOG, spec.MINUS_TWO_LN2)]
    assert first == np.float32(2.0**-32)
    assert sin_cos == [np.float32(c) for c in (*spec.SIN, spec.HALF_PI, *spec.COS, 1.0)]
    assert f"0x{spec.TWO_THIRDS:X}u" in text


def test_constants_are_the_nearest_to_what_they_stand_for() -> None:
    assert np.float32(spec.HALF_PI) == np.float32(np.pi / 2)
    assert np.float32(spec.MINUS_TWO_LN2) == np.float32(-2 * np.log(2)) * np.float32(2.0**-23)
    assert np.float32(2 / 3).view(np.uint32) == spec.TWO_THIRDS


def test_all_logarithms_sines_and_cosines_are_the_same_in_every_backend(tmp_path: Path) -> None:
    """So the roundings of NumPy's and XLA's fused multiply-adds in float64 never tell: products alone come after."""
    expected = (kinds.minus_two_log(kinds.unit(WORDS)), *kinds.sin_cos_2pi(WORDS))
    made = tuple(np.empty(WORDS.shape, np.float32) for _ in expected)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (WORDS, *made)]
    compiled(PARTS, tmp_path).parts(pointers[0], ctypes.c_long(WORDS.size), *pointers[1:])
    with jax.enable_x64(True):
        traced = jax.jit(lambda w: (traced_kinds.minus_two_log(traced_kinds.unit(w)), *traced_kinds.sin_cos_2pi(w)))(
            WORDS
        )
    for reference, of_text, of_xla in zip(expected, made, traced, strict=True):
        assert_array_equal(of_text.view(np.uint32), reference.view(np.uint32))
        assert_array_equal(np.asarray(of_xla).view(np.uint32), reference.view(np.uint32))


def test_fast_normals_would_be_near_on_the_worst_hardware_that_is_allowed(tmp_path: Path) -> None:
    """All radii, and those above 5 with 2**12 angles each; the bound is that of the text's comment."""
    rng = np.random.default_rng(0)
    tail = WORDS[:32]
    a = np.concatenate([WORDS, np.repeat(tail, 2**12)])
    b = np.concatenate([rng.permutation(WORDS), rng.choice(WORDS, len(tail) * 2**12)])
    distance = compiled(FAST, tmp_path).distance
    distance.restype = ctypes.c_double
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (a, b)]
    measured = [distance(*pointers, ctypes.c_long(len(a)), *signs) for signs in itertools.product((-1, 1), repeat=3)]
    measured.append(distance(*pointers, ctypes.c_long(len(a)), 0, 0, 0))
    assert max(measured) < 7.9e-6


def test_fast_normals_of_a_cpu_are_normal_ones() -> None:
    key = np.array([3, 4], np.uint32)
    assert_array_equal(ref.noise(key, 0, 9, 50, "normal_fast"), ref.noise(key, 0, 9, 50, "normal"))
    if native.library() is not None:
        assert_array_equal(native.noise(key, 0, 9, 50, "normal_fast"), ref.noise(key, 0, 9, 50, "normal"))
