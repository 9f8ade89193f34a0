"""The normal tail and its quantile against scipy, and alike in all libraries."""

from __future__ import annotations

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import ndtr, ndtri

from blackbox.es.normal_tail import upper_quantile, upper_tail

Z = np.linspace(-9, 36, 9001)
P = np.concatenate([np.geomspace(1e-12, 0.49, 3000), 0.5 - np.geomspace(1e-12, 0.1, 500), [0.5]])


def test_tail_is_scipy_s() -> None:
    assert_allclose(upper_tail(Z), ndtr(-Z), rtol=1e-11)


def test_quantile_is_scipy_s() -> None:
    assert_allclose(upper_quantile(P), -ndtri(P), rtol=1e-10, atol=1e-15)


def test_one_undoes_the_other() -> None:
    assert_allclose(upper_tail(upper_quantile(P)), P, rtol=1e-10)


def test_all_libraries_sum_the_same_series() -> None:
    for f, x in ((upper_tail, Z), (upper_quantile, P)):
        assert_array_equal(np.asarray(f(array_api_strict.asarray(x))), f(x))
        with jax.enable_x64(True):
            assert_allclose(np.asarray(jax.jit(f)(jnp.asarray(x))), f(x), rtol=1e-9, atol=1e-15)


def test_float32() -> None:
    z = Z[np.abs(Z) < 5].astype(np.float32)
    assert upper_tail(z).dtype == np.float32
    assert_allclose(upper_tail(z), ndtr(-z.astype(float)), rtol=1e-5)
    p = P[P > 1e-6].astype(np.float32)
    assert_allclose(upper_quantile(p), -ndtri(p.astype(float)), atol=1e-5)
