"""What all methods of consensus have in common: they stop at rest in every precision, and no noise is used twice."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blackbox as bb
from blackbox.cbo import (
    CBO,
    CBS,
    AdamCBO,
    ConsensusHopping,
    ConstrainedCBO,
    ManifoldCBO,
    MemoryCBO,
    MirrorCBO,
    MultiObjectiveCBO,
    PolarizedCBO,
    SecondOrderCBO,
)
from blackbox.kernels import noise

STOPPING = (
    CBO(popsize=40, diffusion="isotropic"),
    MemoryCBO(),
    SecondOrderCBO(),
    PolarizedCBO(popsize=40, s=0.3),
    CBS(),
    MirrorCBO(popsize=40, s=0.3),
    ConstrainedCBO(inequality=lambda x: x[0] - 9.0, popsize=40, s=0.3),
    ManifoldCBO(),
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("strategy", STOPPING, ids=lambda strategy: type(strategy).__name__)
def test_swarms_stop_once_they_agree_as_far_as_numbers_tell(strategy: Any, dtype: Any) -> None:
    """Sums of weights times particles are rounded, so that in float32 they never are as near as in float64."""
    target = np.array([1.7, -0.8, 0.4], dtype)
    state = strategy.init(bb.key(0), np.ones(3, dtype))
    for _ in range(2500):
        if any(bool(reason) for reason in strategy.stop(state).values()):
            break
        population = strategy.ask(state)
        state = strategy.tell(state, population, np.sum((population - target) ** 2, axis=-1))
    else:
        pytest.fail(f"it has not stopped; its particles are {state.spread} apart")
    assert state.consensus.dtype == dtype


class Draws:
    """Records which noise is drawn, by replacing the functions where strategies have them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[Any, ...]] = []
        for name in ("normal", "uniform"):
            drawn = getattr(noise, name)
            for module in [module for title, module in sys.modules.items() if title.startswith("blackbox.cbo")]:
                if getattr(module, name, None) is drawn:
                    patch.setattr(module, name, self._recorded(drawn))

    def _recorded(self, drawn: Any) -> Any:
        def record(key: Any, generation: Any, shape: Any, *, leaf: int = 0, first: int = 0, like: Any) -> Any:
            self.seen += [(*map(int, key), int(generation), leaf, first + member) for member in range(shape[0])]
            return drawn(key, generation, shape, leaf=leaf, first=first, like=like)

        return record


def _all_kinds() -> Iterator[Any]:
    for settings in (
        {},
        {"diffusion": "anisotropic", "agreed": "kick", "batch": 4},
        {"diffusion": "anisotropic", "agreed": "kick", "batch": 4, "update": "full"},
        {"diffusion": "isotropic", "agreed": "stop", "correction": "smooth"},
    ):
        yield CBO(popsize=12, **settings)
    yield from (MemoryCBO(popsize=12, batch=4), SecondOrderCBO(popsize=12, batch=4), AdamCBO(popsize=12, batch=4))
    yield from (PolarizedCBO(popsize=12), CBS(popsize=12), ConsensusHopping(popsize=12), MirrorCBO(popsize=12))
    yield from (ManifoldCBO(popsize=12), ConstrainedCBO(inequality=lambda x: x[0] - 9.0, popsize=12))
    yield MultiObjectiveCBO(popsize=12, objectives=2)


@pytest.mark.parametrize("strategy", list(_all_kinds()), ids=lambda strategy: type(strategy).__name__)
def test_no_noise_is_drawn_twice(strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = Draws(monkeypatch)
    state = strategy.init(bb.key(0), np.zeros(3))
    for _ in range(5):
        population = strategy.ask(state)
        strategy.ask(state, len(population))
        fitness = population[:, :2] ** 2 if isinstance(strategy, MultiObjectiveCBO) else np.sum(population**2, -1)
        state = strategy.tell(state, population, fitness)
    assert len(draws.seen) >= 6 * 4
    assert len(set(draws.seen)) == len(draws.seen)


def test_a_last_number_is_not_before_the_first_one() -> None:
    for make, settings in ((CBO, {"alpha0": 2e5}), (MemoryCBO, {"alpha0": 50.0, "alpha_max": 40.0})):
        with pytest.raises(bb.SettingError, match=r"^alpha_max must be at least alpha0 ="):
            make(**settings)
    with pytest.raises(bb.SettingError, match=r"^nu must be at least nu_least ="):
        ConstrainedCBO(equality=lambda x: x[0], nu=0.1, nu_least=0.2)


def test_no_setting_of_a_method_is_hidden_by_an_argument_of_the_optimizer() -> None:
    """Settings are given by name with ``method``; one of the same name could not be."""
    taken = set(inspect.signature(bb.Optimizer).parameters) | set(inspect.signature(bb.minimize).parameters)
    for name in ("cbo", "memory-cbo", "second-order-cbo", "adam-cbo", "polarized-cbo", "mirror-cbo", "cbs", "snes"):
        settings = {field.name for field in dataclasses.fields(type(bb.create(name)))}
        assert settings & taken <= {"popsize", "sigma0"}, name


def test_runs_over_devices_are_those_of_one() -> None:
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    script = Path(__file__).with_name("sharded_runs.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "those of one" in done.stdout
