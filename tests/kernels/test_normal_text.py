"""Normal noise as the kernels' text has it: its coefficients, and every number that it is made of."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from blackbox.kernels import native, ref, spec, xla

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
    expected = (ref._minus_two_log(ref._unit(WORDS)), *ref._sin_cos_2pi(WORDS))
    made = tuple(np.empty(WORDS.shape, np.float32) for _ in expected)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (WORDS, *made)]
    compiled(PARTS, tmp_path).parts(pointers[0], ctypes.c_long(WORDS.size), *pointers[1:])
    with jax.enable_x64(True):
        traced = jax.jit(lambda w: (xla._minus_two_log(xla._unit(w)), *xla._sin_cos_2pi(w)))(WORDS)
    for reference, of_text, of_xla in zip(expected, made, traced, strict=True):
        assert_array_equal(of_text.view(np.uint32), reference.view(np.uint32))
        assert_array_equal(np.asarray(of_xla).view(np.uint32), reference.view(np.uint32))
