"""What the methods with stopping rules like those of CMA-ES share: they stop in time, or else stay finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from es_runs import Function, ellipsoid, sphere, trajectory

import blackbox as bb


@pytest.mark.parametrize("f", [lambda x: x[:, 0], lambda x: np.abs(x).sum(1)], ids=["unbounded", "abs"])
@pytest.mark.parametrize(("method", "generations"), [("sep-cma-es", 2500), ("snes", 2500), ("lm-ma-es", 2000)])
def test_float32_stays_finite_for_ever(method: str, generations: int, f: Function) -> None:
    strategy = bb.create(method)
    state = trajectory(strategy, f, np.ones(3, np.float32), generations)[-1]
    assert np.isfinite(strategy.ask(state)).all()
    assert state.mean.dtype == np.float32


@pytest.mark.parametrize(("method", "f"), [("sep-cma-es", ellipsoid), ("snes", sphere), ("lm-ma-es", sphere)])
def test_stops_on_a_flat_function_and_at_convergence(method: str, f: Function) -> None:
    strategy = bb.create(method, sigma0=0.5)
    flat = trajectory(strategy, lambda x: np.zeros(len(x)), np.zeros(4), 200)[-1]
    assert strategy.stop(flat)["tolfun"]
    assert not any(strategy.stop(strategy.init(bb.key(0), np.zeros(4))).values())
    solved = trajectory(strategy, f, np.ones(4), 700)
    first = next(i for i, s in enumerate(solved) if any(strategy.stop(s).values()))
    assert f(solved[first].mean[None])[0] < 1e-8


@pytest.mark.parametrize("method", ["sep-cma-es", "snes", "lm-ma-es"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popsize": 2}, "popsize must be an integer >= 3, got 2"),
        ({"sigma0": -1.0}, "sigma0 must be a finite number and > 0, got -1.0"),
    ],
)
def test_bad_settings_are_named(method: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(bb.SettingError, match=message):
        bb.create(method, **settings)
