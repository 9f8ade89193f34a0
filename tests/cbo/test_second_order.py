"""Second-order consensus-based optimization; libraries, runs and batches are tested beside ``memory-cbo``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import blackbox as bb
from blackbox.cbo import MemoryCBO, SecondOrderCBO
from blackbox.kernels.noise import fold_many, normal

D = 4


def sphere(x: Any) -> Any:
    return np.sum(x**2, axis=-1)


def steps(strategy: Any, f: Any, x0: Any, count: int, key: Any = None) -> Any:
    state = strategy.init(bb.key(0) if key is None else key, x0)
    for _ in range(count):
        population = strategy.ask(state)
        state = strategy.tell(state, population, f(population))
    return state


@pytest.mark.parametrize(("m", "gamma"), [(0.3, None), (2.0, 0.5)])
def test_a_step_is_the_written_one(m: float, gamma: float | None) -> None:
    strategy = SecondOrderCBO(
        m=m, gamma=gamma, popsize=7, sigma0=0.5, s=0.4, drift=0.3, s_memory=0.25, drift_memory=0.2, truncation=np.inf,
        alpha0=2.0, growth=1.1,
    )  # fmt: skip
    state = steps(strategy, sphere, np.full(D, 0.3), 3)
    assert np.abs(state.velocity).min() > 0
    x, e = state.particles, sphere(state.particles)
    y = np.where((e < state.memory.energy)[:, None], x, state.memory.y)
    weights = np.exp(-2.0 * 1.1**3 * (sphere(y) - sphere(y).min()))
    v = (weights[:, None] * y).sum(axis=0) / weights.sum()
    z = normal(state.key, 3, (7, D), like=x)
    friction = 1 - m if gamma is None else gamma
    position, velocity = np.empty_like(x), np.empty_like(x)
    for i in range(7):
        for k in range(D):
            deviation = np.hypot(0.4 * (x[i, k] - v[k]), 0.25 * (x[i, k] - y[i, k]))
            force = -0.3 * (x[i, k] - v[k]) - 0.2 * (x[i, k] - y[i, k]) + deviation * z[i, k]
            velocity[i, k] = (m * state.velocity[i, k] + force) / (m + friction)
            position[i, k] = x[i, k] + velocity[i, k]
    told = strategy.tell(state, x, e)
    assert np.allclose(told.velocity, velocity, rtol=0, atol=1e-12)
    assert np.allclose(told.particles, position, rtol=0, atol=1e-12)


def test_as_inertia_vanishes_steps_tend_to_those_of_memory_cbo() -> None:
    settings = {"popsize": 12, "s": 0.6, "drift": 0.2, "s_memory": 0.1, "drift_memory": 0.05}
    limit = steps(MemoryCBO(**settings), sphere, np.ones(D), 10).particles  # type: ignore[arg-type]
    distances = []
    for m in (1e-2, 1e-4, 1e-6, 0.0):
        particles = steps(SecondOrderCBO(m=m, **settings), sphere, np.ones(D), 10).particles  # type: ignore[arg-type]
        distances.append(np.abs(particles - limit).max())
    assert distances[0] > 50 * distances[1] > 2500 * distances[2] > 0
    assert distances[3] == 0


def test_the_step_is_the_papers_in_its_own_time() -> None:
    """x, V, m, gamma and lambda of a step of dt, without noise: (m + gamma dt) V' = m V - lambda dt (x - v)."""
    dt, mass, gamma, lam = 0.01, 0.05, 0.95, 3.0
    strategy = SecondOrderCBO(
        m=mass / dt, gamma=gamma, popsize=2, drift=lam * dt, s=1e-300, drift_memory=0.0, s_memory=0.0, alpha="hard"
    )
    state = strategy.init(bb.key(0), np.zeros(1))
    x, velocity = 1.0, 0.0
    memory = state.memory._replace(y=np.zeros((2, 1)), energy=np.array([0.0, np.inf]))
    state = state._replace(particles=np.array([[0.0], [1.0]]), memory=memory)
    for _ in range(30):
        state = strategy.tell(state, state.particles, np.array([0.0, np.inf]))
        velocity = (mass * velocity - lam * dt * x) / (mass + gamma * dt)
        x += dt * velocity
        assert state.particles[1, 0] == pytest.approx(x, abs=1e-12)
        assert state.velocity[1, 0] == pytest.approx(dt * velocity, abs=1e-12)


def test_the_swarm_goes_down_on_a_sphere_and_does_not_blow_up() -> None:
    """CBXpy's has the wrong sign: in 300 steps the mean |x| grows from 0.5 to 17.7, and the best hardly improves."""
    x0 = np.zeros((4, 5))
    strategy = SecondOrderCBO(sigma0=0.5)
    state = steps(strategy, lambda x: sphere(x - 0.3), x0, 300, fold_many(bb.key(0), 4))
    assert (state.best.fitness < 1e-6).all()
    assert (np.abs(state.particles - 0.3).mean(axis=(-2, -1)) < 0.1).all()


def test_inertia_carries_particles_on() -> None:
    """Pulled steadily, they come to go 1 / (1 - m) as far in a step as without."""
    reached = []
    for m in (0.0, 0.8):
        strategy = SecondOrderCBO(m=m, popsize=2, drift=1e-4, s=1e-9, drift_memory=0.0, s_memory=0.0, alpha="hard")
        state = strategy.init(bb.key(0), np.zeros(1))
        memory = state.memory._replace(y=np.zeros((2, 1)), energy=np.array([0.0, np.inf]))
        state = state._replace(particles=np.array([[0.0], [1.0]]), memory=memory)
        for _ in range(60):
            state = strategy.tell(state, state.particles, np.array([0.0, np.inf]))
        reached.append(state.velocity[1, 0])
    assert reached[1] / reached[0] == pytest.approx(5.0, rel=0.05)


def test_rastrigin_is_solved_more_often_than_not() -> None:
    def shifted(x: Any) -> Any:
        z = x - 1.7
        return np.sum(z**2 - 10 * np.cos(2 * np.pi * z), axis=-1) + 50

    state = steps(SecondOrderCBO(sigma0=np.sqrt(3)), shifted, np.zeros((10, 5)), 500, fold_many(bb.key(0), 10))
    assert (np.abs(state.best.x - 1.7).max(axis=-1) < 0.25).mean() >= 0.8


def test_it_stops_only_at_rest() -> None:
    strategy = SecondOrderCBO(popsize=3)
    state = strategy.init(bb.key(0), np.zeros(2))
    for speed, distance, expected in ((0.0, 0.0, True), (1e-3, 0.0, False), (0.0, 1e-3, False)):
        x = np.ones((3, 2)) + distance * np.arange(3)[:, None]
        there = strategy.tell(state._replace(velocity=np.full((3, 2), speed)), x, np.arange(3.0))
        assert bool(strategy.stop(there)["consensus"]) is expected


def test_settings_are_checked() -> None:
    for name, settings in (("m", {"m": -0.1}), ("m", {"m": 1.1}), ("gamma", {"gamma": 0.0}), ("m", {"m": np.nan})):
        with pytest.raises(bb.SettingError, match=f"^{name} must be"):
            SecondOrderCBO(**settings)
    SecondOrderCBO(m=3.0, gamma=1.0)
