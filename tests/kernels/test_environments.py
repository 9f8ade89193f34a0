"""What episodes are made of: exact float32 arithmetic, functions of it, and gymnasium's dynamics."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from blackbox.kernels import exact
from blackbox.kernels.environments import ENVIRONMENTS

NAMES = tuple(ENVIRONMENTS)


def _nearest(x: Fraction) -> np.float32:
    """The float32 number next to ``x``, half to even, in whole numbers."""
    if x == 0:
        return np.float32(0)
    exponent = abs(x).numerator.bit_length() - abs(x).denominator.bit_length()
    exponent -= Fraction(2) ** exponent > abs(x)
    unit = Fraction(2) ** max(exponent - 23, -149)
    return np.float32(float(round(x / unit) * unit))


def test_multiply_adds_are_rounded_once() -> None:
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 3000)).astype(np.float32)
    c *= np.float32(2.0) ** rng.integers(-40, 40, 3000, dtype=np.int32)
    a[::3], b[::3] = 1 + 2.0**-12 * rng.integers(1, 9, (2, 1000))  # products halfway between two numbers, all but a bit
    c[::3] = np.where(rng.integers(2, size=1000), 1, -1) * np.float32(2.0) ** -rng.integers(40, 80, 1000)
    a[::5] *= np.float32(2.0**-130)
    numbers = np.stack([a, b, c], 1).tolist()
    wanted = [_nearest(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in numbers]
    assert_array_equal(exact.fma(a, b, c), np.array(wanted))
    twice = (a.astype(float) * b + c).astype(np.float32)
    assert (twice != np.array(wanted)).any()  # what float64 alone errs in


def test_functions_are_accurate() -> None:
    x = np.concatenate([np.linspace(-50, 50, 1_000_001), np.linspace(-1, 1, 200_001), [1e-30, -1e-30]]).astype(
        np.float32
    )
    for got, wanted in zip(exact.sin_cos(x), (np.sin(x.astype(float)), np.cos(x.astype(float))), strict=True):
        error = np.abs(got - wanted)
        assert error.max() < 1e-7
        assert ((error <= 2 * np.spacing(np.abs(wanted).astype(np.float32))) | (np.abs(wanted) < 1e-5)).all()
    got, wanted = exact.tanh(x), np.tanh(x.astype(float))
    error = np.abs(got - wanted)
    assert error.max() < 3e-7 and np.abs(got).max() < 1
    assert (error <= 5 * np.spacing(np.abs(wanted).astype(np.float32))).all()
    assert_array_equal(exact.tanh(-x), -got)
    with np.errstate(invalid="ignore"):
        assert np.isnan([exact.tanh(np.float32([np.nan])), *exact.sin_cos(np.float32([np.nan]))]).all()


@pytest.mark.parametrize("name", NAMES)
def test_float32_dynamics_are_gymnasiums_step_by_step(name: str) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    rng, environment, game = np.random.default_rng(0), ENVIRONMENTS[name], gymnasium.make(name).unwrapped
    high = np.array({"CartPole-v1": [2.4, 2.0, 0.21, 2.0], "Pendulum-v1": [9.0, 8.0],
                     "MountainCarContinuous-v0": [1.2, 0.07], "Acrobot-v1": [3.1, 3.1, 4.0, 8.0]}[name])  # fmt: skip
    states = rng.uniform(-high, high, (100, len(high))).astype(np.float32)
    is_discrete = environment.force is None
    actions = rng.integers(environment.outputs, size=100) if is_discrete else rng.uniform(-2, 2, 100)
    following, rewards, is_over = environment.step(tuple(states.T), actions.astype(np.float32), np, exact.sin_cos)
    seen = environment.observe(following, np, exact.sin_cos)
    assert {x.dtype for x in (*following, rewards, *seen)} == {np.dtype(np.float32)}
    for i, state in enumerate(states):
        game.reset()
        game.state = state.astype(float)
        action = actions[i] if is_discrete else actions[i : i + 1]
        observation, reward, terminated, _, _ = game.step(action)
        np.testing.assert_allclose([x[i] for x in seen], observation, rtol=1e-5, atol=3e-6)
        assert rewards[i] == pytest.approx(reward, rel=1e-5)
        assert is_over[i] == terminated
    assert (gymnasium.spec(name).max_episode_steps, environment.state) == (environment.steps, len(high))
