"""Consensus-based optimization: the written update, weights, stability, invariances, and evaluations it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import blackbox as bb
from blackbox.cbo import CBO
from blackbox.cbo.consensus import effective, geometric, softmin
from blackbox.cbo.correction import CORRECTIONS, share_of_drift
from blackbox.cbo.diffusion import DIFFUSIONS, isotropic_limit, scales
from blackbox.kernels.noise import normal

D = 4


def rastrigin(x: np.ndarray) -> np.ndarray:
    return np.sum(x**2 - 10 * np.cos(2 * np.pi * x), axis=-1) + 10 * x.shape[-1]


def steps(strategy: CBO, f: Any, x0: np.ndarray, count: int, seed: int = 0) -> Any:
    state = strategy.init(bb.key(seed), x0)
    for _ in range(count):
        population = strategy.ask(state)
        state = strategy.tell(state, population, f(population))
    return state


# ---- the step


@pytest.mark.parametrize("noise", DIFFUSIONS)
@pytest.mark.parametrize("truncation", [None, 0.2])
def test_a_step_is_the_written_one(noise: Any, truncation: float | None) -> None:
    limit = np.inf if truncation is None else truncation
    strategy = CBO(
        popsize=7, diffusion=noise, truncation=limit, sigma0=0.5, s=0.4, drift=0.3, alpha="geometric", alpha0=2.0
    )
    state = steps(strategy, rastrigin, np.full(D, 0.3), 3)
    x, energy, alpha = state.particles, rastrigin(state.particles), 2.0 * 1.05**3
    weights = [np.exp(-alpha * (e - min(energy))) for e in energy]
    v = sum(w * row for w, row in zip(weights, x, strict=True)) / sum(weights)
    xi = normal(state.key, 3, (7, D), like=x)
    bound = limit * 0.5
    expected = np.empty_like(x)
    for i, row in enumerate(x):
        size = {
            "anisotropic": np.abs(row - v),
            "isotropic": np.linalg.norm(row - v) * np.ones(D),
            "constant": np.ones(D),
        }[noise]
        expected[i] = row - 0.3 * (row - v) + 0.4 * np.minimum(size, bound) * xi[i]
    told = strategy.tell(state, x, energy)
    assert np.allclose(told.particles, expected, rtol=0, atol=1e-12)
    assert np.allclose(told.consensus, v, rtol=0, atol=1e-12)


def test_the_first_particles_are_uniform_with_deviation_sigma0() -> None:
    particles = CBO(popsize=100_000, sigma0=0.5).init(bb.key(0), np.full(2, 3.0)).particles
    assert np.abs(particles - 3.0).max() <= 0.5 * np.sqrt(3)
    assert np.allclose(particles.std(axis=0), 0.5, rtol=0.01)
    assert np.allclose(particles.mean(axis=0), 3.0, atol=0.01)


def test_alpha_grows_to_its_greatest_value() -> None:
    like = np.zeros(1)
    assert np.isclose(geometric(30.0, 1.05, 1e5, np.asarray(40), like), 30 * 1.05**40)
    assert geometric(30.0, 1.05, 1e5, np.asarray(10**9), like) == pytest.approx(1e5)


# ---- weights


def test_weights_are_those_of_gibbs_whatever_the_level_of_the_energy() -> None:
    energy = np.random.default_rng(0).normal(size=9)
    expected = np.exp(-3 * energy) / np.exp(-3 * energy).sum()
    for level in (0.0, 1e6, -1e6):
        assert np.allclose(softmin(energy + level, 3.0), expected, rtol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_failed_particles_have_no_weight_and_no_value_overflows(dtype: str) -> None:
    huge = float(np.finfo(dtype).max)
    for energy, expected in (
        ([1.0, np.nan, 1.0, np.inf], [0.5, 0, 0.5, 0]),
        ([np.nan, np.inf], [0.5, 0.5]),
        ([-np.inf, 0.0, np.nan], [1, 0, 0]),
        ([-huge, huge, 0.0], [1, 0, 0]),
    ):
        for alpha in (1e-3, 1e5):
            assert np.array_equal(softmin(np.array(energy, dtype), alpha), np.array(expected, dtype))


def test_one_failed_value_does_not_poison_the_swarm() -> None:
    """In CBXpy 1.0.4 one NaN makes the consensus NaN for ever."""
    state = steps(CBO(), lambda x: np.where(np.arange(len(x)) == 3, np.nan, rastrigin(x)), np.full(D, 1.0), 200)
    assert np.isfinite(state.consensus).all()
    assert state.best.fitness < 5


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_effective_share_is_met_whatever_level_and_scale(share: float) -> None:
    energy = np.random.default_rng(0).exponential(size=(3, 200)) ** 3
    for level, scale in ((0.0, 1.0), (1e3, 1e-3), (-5.0, 1e6)):
        alpha = effective(level + scale * energy, share)
        weights = softmin(level + scale * energy, alpha)
        assert np.allclose(1 / (weights**2).sum(axis=1), share * 200, rtol=0.02)


def test_particles_without_a_value_do_not_blunt_the_weights() -> None:
    """CBXpy 1.0.4 with batches: infinite energies of particles that were never evaluated give the lowest alpha."""
    energy = np.random.default_rng(0).exponential(size=40)
    padded = np.concatenate([energy, np.full(60, np.inf)])
    assert np.isclose(effective(padded, 0.3), effective(energy, 0.3))
    assert np.allclose(effective(np.full(5, np.inf), 0.3) * 0, 0)  # finite


# ---- corrections, batches, what follows agreement


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_a_correction_has_only_those_drift_that_are_worse_than_the_consensus(correction: Any) -> None:
    strategy = CBO(
        popsize=7, sigma0=0.5, diffusion="isotropic", s=0.2, drift=0.4, alpha="hard", correction=correction,
        agreed="stop",
    )  # fmt: skip
    state = steps(strategy, rastrigin, np.full(D, 0.3), 3)
    population = strategy.ask(state)
    values = rastrigin(population)
    told = strategy.tell(state, population, values)
    x = state.particles
    v = x[np.argmin(values[:7])]
    xi = normal(state.key, 3, (7, D), like=x)
    for i, row in enumerate(x):
        share = 1.0
        if correction != "none":
            above = values[i] - rastrigin(state.consensus)
            share = float(above > 0) if correction == "heaviside" else 0.5 * (1 + np.tanh(above / 1e-3))
        expected = row - 0.4 * share * (row - v) + 0.2 * np.linalg.norm(row - v) * xi[i]
        assert np.allclose(told.particles[i], expected, rtol=0, atol=1e-12)
    failed = share_of_drift(correction, np.array([np.inf, 1.0]), np.array([np.inf]))
    assert failed[0] == 1.0


def test_a_correction_takes_one_evaluation_more_a_generation() -> None:
    """CBXpy 1.0.4 counts one for each of the M runs: 550 instead of 510."""
    strategy = CBO(popsize=50, correction="heaviside", diffusion="anisotropic")
    _, history = bb.run(strategy, rastrigin, np.zeros(D), key=bb.key(0), generations=10, runs=5)
    assert history.evaluations.tolist() == [510] * 5
    assert CBO(correction="none").correction == "none"  # which CBXpy documents and refuses


@pytest.mark.parametrize("update", ["partial", "full"])
def test_batches_are_dealt_from_the_swarm_and_move_themselves_or_all(update: Any) -> None:
    strategy = CBO(popsize=12, batch=4, update=update, diffusion="anisotropic", alpha0=0.01, sigma0=0.5)
    state = strategy.init(bb.key(0), np.zeros(D))
    seen = []
    for generation in range(6):
        population = strategy.ask(state)
        assert population.shape == (4, D)
        told = strategy.tell(state, population, rastrigin(population))
        unmoved = {tuple(row) for row in state.particles} & {tuple(row) for row in told.particles}
        assert len(unmoved) == (8 if update == "partial" else 0)
        if update == "partial" and generation < 3:  # nobody has a second turn before all have had one
            seen += [tuple(row) for row in population]
        state = told
    assert update == "full" or set(seen) == {tuple(row) for row in strategy.init(bb.key(0), np.zeros(D)).particles}
    energies = rastrigin(population)
    alone = softmin(energies, 0.01 * 1.05**5) @ population  # the consensus is that of the batch
    assert np.allclose(state.consensus, alone)


def test_an_unknown_key_of_batches_is_refused() -> None:
    """CBXpy 1.0.4 ignores ``batch_size`` and runs without batches."""
    with pytest.raises(bb.SettingError, match="cbo has no hyperparameter 'batch_size'"):
        bb.create("cbo", batch_size=10)


def test_alternating_swarms_start_anew_when_they_have_agreed_and_others_are_kicked_or_stop() -> None:
    def agreed(strategy: CBO) -> Any:
        state = strategy.init(bb.key(0), np.full(D, 5.0))
        for _ in range(2):  # the second time the consensus stands still
            together = np.full((strategy.popsize, D), 5.5) + 1e-9 * np.arange(strategy.popsize)[:, None]
            state = strategy.tell(state, together, np.arange(float(strategy.popsize)))
        return state

    anew = agreed(CBO(sigma0=0.5))
    assert (anew.swarms, anew.age) == (2, 0)
    assert np.allclose(anew.particles.mean(axis=0), 5.0, atol=0.2)
    assert np.allclose(anew.particles.std(axis=0), 0.5, rtol=0.3)
    kicked = agreed(CBO(sigma0=0.5, diffusion="anisotropic", agreed="kick", kick=0.1))
    assert np.allclose(kicked.particles.mean(axis=0), 5.5, atol=0.02)
    assert np.allclose(kicked.particles.std(axis=0), 0.05, rtol=0.3)
    stopping = CBO(sigma0=0.5, diffusion="anisotropic")
    state = stopping.tell(stopping.init(bb.key(0), np.zeros(D)), np.ones((100, D)), np.ones(100))
    assert stopping.stop(state)["consensus"]
    assert not CBO().stop(anew)["consensus"]


def test_swarms_do_take_turns() -> None:
    """They agree although some of their particles are always far: noise in proportion to distance has a heavy tail."""
    keys = np.stack([bb.key(seed) for seed in range(10)])
    state = CBO(sigma0=np.sqrt(3)).init(keys, np.zeros((10, 5)))
    for _ in range(500):
        population = (strategy := CBO(sigma0=np.sqrt(3))).ask(state)
        state = strategy.tell(state, population, rastrigin(population))
    assert (state.swarms >= 3).all()
    assert (state.spread < 3).all()


def test_a_swarm_in_batches_agrees_restarts_and_is_kicked_as_a_whole() -> None:
    far = np.array([[1.0, 1.0], [1.0, 1.0], [9.0, 9.0], [-9.0, 3.0]])

    def told(strategy: CBO, particles: np.ndarray) -> tuple[Any, Any]:
        state = strategy.init(bb.key(0), np.zeros(2))._replace(particles=particles)
        for _ in range(2):  # the second time the consensus stands still
            state = strategy.tell(state._replace(particles=particles), particles[:2], np.zeros(2))
        return strategy, state

    together = np.ones((4, 2))
    for particles, expected in ((far, False), (together, True)):
        strategy, state = told(CBO(popsize=4, batch=2, diffusion="anisotropic"), particles)
        assert bool(strategy.stop(state)["consensus"]) is expected
        _, state = told(CBO(popsize=4, batch=2), particles)
        assert bool(state.swarms == 2) is expected
        assert not expected or (state.particles != 1).all()  # a new swarm, of all particles
    _, kicked = told(CBO(popsize=4, batch=2, diffusion="anisotropic", agreed="kick"), together)
    assert (kicked.particles != 1).all()


@pytest.mark.parametrize("restarts", ["ipop", "bipop"])
def test_restarts_go_by_the_particles_of_a_swarm_in_batches(restarts: Any) -> None:
    """BIPOP's small runs have any number of particles, also fewer than a batch."""
    for settings in ({}, {"correction": "heaviside"}):
        strategy = CBO(popsize=20, batch=10, diffusion="isotropic", alpha="hard", **settings)
        assert strategy.population_size(2) == 20
        result = bb.minimize(
            lambda x: float(rastrigin(x)), bb.Box(-2, 2, 2), method=strategy, budget=6000, restarts=restarts, seed=0
        )
        assert result.value < 1.0


# ---- many runs, any library


VARIANTS: list[dict[str, Any]] = [
    {},
    {"diffusion": "isotropic", "correction": "heaviside"},
    {"diffusion": "anisotropic", "batch": 5},
    {"diffusion": "anisotropic", "batch": 5, "update": "full", "agreed": "kick"},
    {"diffusion": "constant", "alpha": "hard", "correction": "smooth"},
]


@pytest.mark.parametrize("settings", VARIANTS)
def test_runs_on_a_leading_axis_are_the_runs_alone(settings: dict[str, Any]) -> None:
    strategy, keys = CBO(popsize=20, **settings), np.stack([bb.key(seed) for seed in range(3)])
    starts = np.arange(3.0)[:, None] + np.zeros((3, D))
    together = strategy.init(keys, starts)
    alone = [strategy.init(key, start) for key, start in zip(keys, starts, strict=True)]
    for _ in range(60):  # the alternating ones do not all agree at once
        population = strategy.ask(together)
        together = strategy.tell(together, population, rastrigin(population))
        for i, state in enumerate(alone):
            own = strategy.ask(state)
            assert np.array_equal(own, population[i])
            alone[i] = strategy.tell(state, own, rastrigin(own))
    assert np.array_equal(together.best.fitness, [state.best.fitness for state in alone])


@pytest.mark.parametrize("settings", VARIANTS)
def test_a_step_in_jax_and_by_the_standard_is_that_of_numpy(settings: dict[str, Any]) -> None:
    import array_api_strict
    import jax.numpy as jnp

    strategy, keys = CBO(popsize=20, **settings), np.stack([bb.key(seed) for seed in range(3)])
    for dtype, arrays, atol in ((np.float32, jnp, 1e-5), (np.float64, array_api_strict, 0.0)):
        state = strategy.init(keys, np.ones((3, D), dtype))
        other = strategy.init(arrays.asarray(keys), arrays.asarray(np.ones((3, D), dtype)))
        population = strategy.ask(state)
        fitness = rastrigin(population)
        told = strategy.tell(state, population, fitness)
        same = strategy.tell(other, strategy.ask(other), arrays.asarray(fitness))
        assert np.allclose(np.asarray(same.particles), told.particles, rtol=0, atol=atol)
        assert np.allclose(np.asarray(same.consensus), told.consensus, rtol=0, atol=atol)


# ---- stability


@pytest.mark.parametrize(
    ("noise", "d", "s", "contracts"),
    [
        ("anisotropic", 1, 1.4, True),
        ("anisotropic", 20, 1.4, True),
        ("anisotropic", 20, 1.8, False),
        ("isotropic", 10, 0.12, True),  # the limit is sqrt((2 - drift) drift / d): 0.138 at d = 10 with drift 0.1
        ("isotropic", 10, 0.16, False),
        ("isotropic", 100, 0.05, False),
    ],
)
def test_the_distance_to_a_fixed_consensus_shrinks_below_the_limit_of_s(
    noise: Any, d: int, s: float, contracts: bool
) -> None:
    """One particle carries all the weight and stays; the others' typical distance contracts or not."""
    strategy = CBO(popsize=1000, diffusion=noise, s=s, drift=0.1, truncation=np.inf, sigma0=1.0, alpha="hard")
    state = strategy.init(bb.key(0), np.zeros(d))
    for _ in range(300):
        particles = state.particles.copy()
        particles[0] = 0.0
        energy = np.where(np.arange(1000) == 0, 0.0, 1.0)
        state = strategy.tell(state, particles, energy)
        if np.abs(state.particles).max() > 1e6:
            break
    typical = np.exp(np.mean(np.log(np.abs(state.particles[1:]) + 1e-300)))
    assert (typical < 0.1) == contracts


# ---- invariances


def test_translations_of_space_and_value_and_orders_of_particles() -> None:
    strategy, shift = CBO(popsize=12), np.array([3.0, -1.0, 0.5, 8.0])
    plain = steps(strategy, rastrigin, np.zeros(D), 20)
    moved = steps(strategy, lambda x: rastrigin(x - shift) + 7.0, shift, 20)
    assert np.allclose(moved.particles - shift, plain.particles, atol=1e-5)
    order = np.random.default_rng(0).permutation(12)
    told = strategy.tell(plain, plain.particles[order], rastrigin(plain.particles[order]))
    assert np.allclose(told.consensus, strategy.tell(plain, plain.particles, rastrigin(plain.particles)).consensus)


def test_isotropic_noise_does_not_know_the_axes() -> None:
    rng = np.random.default_rng(0)
    offset, rotation = rng.normal(size=(9, D)), np.linalg.qr(rng.normal(size=(D, D)))[0]
    assert np.allclose(scales("isotropic", offset @ rotation), scales("isotropic", offset))
    assert not np.allclose(scales("anisotropic", offset @ rotation), scales("anisotropic", offset) @ rotation)
    assert np.isclose(isotropic_limit(0.1, 10), np.sqrt(0.019))


def test_late_particles_drift_as_well() -> None:
    strategy = CBO(popsize=10)
    state = strategy.init(bb.key(0), np.zeros(D))
    told = strategy.tell(state, state.particles[:6], rastrigin(state.particles[:6]))
    assert told.particles.shape == (10, D)
    assert (told.particles[6:] != state.particles[6:]).all()


def test_equal_seeds_give_equal_particles() -> None:
    """In CBXpy 1.0.4 the seed does not reach the first particles."""
    first, second, other = (CBO().init(bb.key(seed), np.zeros(D)).particles for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


# ---- runs


def test_rastrigin_in_ten_dimensions_is_solved_by_one_default_within_50_000_evaluations() -> None:
    """Far from the origin, about which nothing is symmetric."""
    import jax.numpy as jnp

    shift = 1.7

    def objective(x: Any) -> Any:
        z = x - shift
        return jnp.sum(z**2 - 10 * jnp.cos(2 * jnp.pi * z)) + 10 * x.shape[-1]

    strategy = CBO(sigma0=np.sqrt(3))
    _, history = bb.run(strategy, objective, jnp.zeros(10), key=bb.key(0), generations=500, runs=20)
    assert np.mean(np.abs(np.asarray(history.x_best) - shift).max(axis=1) < 0.25) >= 0.9
    assert (np.asarray(history.evaluations) <= 50_000).all()


def test_rotated_ackley_is_solved_by_the_same_default_within_30_000_evaluations() -> None:
    import jax.numpy as jnp

    from blackbox.problems.landscapes import Landscape

    ackley = Landscape("ackley", 20, rotation=0)
    _, history = bb.run(CBO(sigma0=np.sqrt(3)), ackley, jnp.zeros(20), key=bb.key(0), generations=300, runs=10)
    assert ackley.solved(np.asarray(history.x_best)).mean() >= 0.9


def test_a_box_is_searched_by_name() -> None:
    result = bb.minimize(lambda x: float(rastrigin(x - 0.4)), bb.Box(-5, 5, 3), method="cbo", budget=6000, seed=0)
    assert result.value < 1e-2


def test_settings_are_checked() -> None:
    for setting in (
        {"popsize": 1},
        {"s": 0.0},
        {"drift": 1.5},
        {"diffusion": "odd"},
        {"truncation": -1.0},
        {"truncation": np.nan},
        {"alpha": "soft"},
        {"correction": "no_correction"},
        {"batch": 1},
        {"update": "half"},
        {"agreed": "kick", "diffusion": "alternating"},
        {"s": 1.0, "diffusion": "alternating"},
        {"update": "full", "correction": "smooth", "batch": 10},
    ):
        name = next(iter(setting))
        with pytest.raises(bb.SettingError, match=f"^{name} must be"):
            CBO(**{"diffusion": "anisotropic", **setting})  # type: ignore[arg-type]
