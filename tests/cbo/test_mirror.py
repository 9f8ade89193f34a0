"""Mirror consensus-based optimization: the written step, plain CBO as a case, where particles are, sparse signals."""

from __future__ import annotations

from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.cbo import CBO, MirrorCBO
from blackbox.kernels.noise import normal
from blackbox.problems.recovery import SparseRecovery

D = 4
MIRRORS = ("none", "box", "sparse", "simplex")


def quadratic(x: Any) -> Any:
    return ((x - 0.3) ** 2).sum(-1) + x[..., 0] * x[..., 1]


def steps(strategy: Any, f: Any, x0: np.ndarray, count: int, key: Any = None) -> Any:
    state = strategy.init(bb.key(0) if key is None else key, x0)
    for _ in range(count):
        population = strategy.ask(state)
        state = strategy.tell(state, population, f(population))
    return state


def mapped(mirror: str, y: np.ndarray) -> np.ndarray:
    """The mirror map of one particle, of the box from -0.2 to 0.5 and the threshold 0.25."""
    if mirror == "box":
        return np.array([min(max(c, -0.2), 0.5) for c in y])
    if mirror == "sparse":
        return np.array([0.0 if abs(c) <= 0.25 else c - 0.25 * np.sign(c) for c in y])
    if mirror == "simplex":
        return np.exp(y) / np.exp(y).sum()
    return y


@pytest.mark.parametrize("noise", ["anisotropic", "isotropic", "constant"])
@pytest.mark.parametrize("mirror", MIRRORS)
def test_a_step_is_the_written_one(mirror: Any, noise: Any) -> None:
    strategy = MirrorCBO(
        popsize=6, sigma0=0.5, mirror=mirror, low=-0.2, high=0.5, threshold=0.25, diffusion=noise, s=0.4, drift=0.3,
        truncation=0.6, alpha0=2.0,
    )  # fmt: skip
    state = steps(strategy, quadratic, np.full(D, 0.1), 3)
    y, alpha = state.dual, 2.0 * 1.05**3
    x = np.array([mapped(mirror, row) for row in y])
    population = strategy.ask(state)
    assert np.allclose(population, x, rtol=0, atol=1e-12)
    weights = np.exp(-alpha * quadratic(x))
    v = sum(weights[i] * x[i] for i in range(6)) / weights.sum()
    xi, moved = normal(state.key, state.generation, y.shape, like=y), np.empty_like(y)
    for i in range(6):
        size = {"anisotropic": np.abs(x[i] - v), "isotropic": np.linalg.norm(x[i] - v), "constant": 1.0}[noise]
        moved[i] = y[i] - 0.3 * (x[i] - v) + 0.4 * np.minimum(size, 0.6 * 0.5) * xi[i]
    told = strategy.tell(state, population, quadratic(population))
    assert np.allclose(told.dual, moved, rtol=0, atol=1e-12)
    assert np.allclose(told.consensus, v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", ["geometric", "effective", "hard"])
@pytest.mark.parametrize("noise", ["anisotropic", "isotropic", "constant"])
def test_without_a_mirror_it_is_plain_cbo_bit_for_bit(noise: Any, alpha: Any) -> None:
    shared: dict[str, Any] = {"popsize": 12, "diffusion": noise, "s": 0.3, "drift": 0.2, "truncation": 0.5}
    shared["alpha"] = alpha
    mirror = steps(MirrorCBO(**shared), quadratic, np.full(D, 0.4), 20)
    plain = steps(CBO(agreed="stop", **shared), quadratic, np.full(D, 0.4), 20)
    assert np.array_equal(mirror.dual, plain.particles)
    assert np.array_equal(mirror.consensus, plain.consensus)
    assert np.array_equal(mirror.spread, plain.spread)
    assert np.array_equal(mirror.best.x, plain.best.x)


def test_the_defaults_are_those_of_plain_cbo_with_noise_by_coordinate() -> None:
    mirror = steps(MirrorCBO(), quadratic, np.full(D, 0.4), 20)
    assert np.array_equal(mirror.dual, steps(CBO(diffusion="anisotropic"), quadratic, np.full(D, 0.4), 20).particles)


def test_particles_are_where_the_mirror_lets_them_be() -> None:
    seen: dict[str, list[np.ndarray]] = {mirror: [] for mirror in MIRRORS}
    for mirror in ("box", "sparse", "simplex"):

        def f(x: np.ndarray, mirror: str = mirror) -> np.ndarray:
            seen[mirror].append(x)
            return quadratic(x)

        settings: dict[str, Any] = {"low": -1.0, "high": 2.0, "s": 2.0, "sigma0": 2.0, "truncation": np.inf}
        state = steps(MirrorCBO(mirror=mirror, **settings), f, np.full(D, 0.5), 30)  # type: ignore[arg-type]
        further = MirrorCBO(mirror=mirror, **settings).ask(state, 1)  # type: ignore[arg-type]
        seen[mirror].append(further)
    boxed, sparse, simplex = (np.stack(seen[mirror]) for mirror in ("box", "sparse", "simplex"))
    assert boxed.min() == -1.0 and boxed.max() == 2.0
    assert (simplex >= 0).all() and np.allclose(simplex.sum(-1), 1.0, rtol=0, atol=1e-12)
    assert (sparse[0] != 0).all()  # they start where x is said to
    assert 0.05 < (sparse[-2] == 0).mean() < 1


def test_minima_on_the_faces_are_found_in_the_box_and_on_the_simplex() -> None:
    """In the box the projection of the unconstrained one; on the simplex the corner of the least price, and a point of
    a face."""
    target = np.array([-3.0, 0.25, 0.75, 9.0])
    best = steps(MirrorCBO(mirror="box"), lambda x: ((x - target) ** 2).sum(-1), np.full(D, 0.5), 300).best.x
    assert np.allclose(best, [0.0, 0.25, 0.75, 1.0], rtol=0, atol=1e-4)
    prices = np.array([3.0, 1.0, 2.0, 1.5])
    simplex = MirrorCBO(mirror="simplex", sigma0=3.0, drift=1.0, alpha="effective")
    best = steps(simplex, lambda x: x @ prices, np.full(D, 0.25), 300).best.x
    assert np.allclose(best, [0.0, 1.0, 0.0, 0.0], rtol=0, atol=0.02)
    target = np.array([0.1, 0.6, 0.3, 0.0])
    best = steps(simplex, lambda x: ((x - target) ** 2).sum(-1), np.full(D, 0.25), 300).best.x
    assert np.allclose(best, target, rtol=0, atol=0.005)


def test_repaired_points_count_and_the_duals_of_others_stay() -> None:
    strategy = MirrorCBO(popsize=5, mirror="sparse", threshold=0.3, alpha="hard")
    state = steps(strategy, quadratic, np.full(D, 0.1), 4)
    repaired = strategy.ask(state).copy()
    repaired[1, 0] = -0.7
    assert (repaired[1] == 0).any() and state.dual[1][repaired[1] == 0].any()  # one x, of which there are several duals
    values = np.array([2.0, 0.0, 1.0, 3.0, 4.0])
    told = strategy.tell(state, repaired, values)
    assert np.array_equal(told.consensus, repaired[1])
    y = state.dual.copy()
    y[1, 0] = -0.7 - 0.3  # the gradient of phi there; the particle's other coordinates are where they were asked
    offset = repaired - repaired[1]
    size = np.minimum(np.abs(offset), 0.45 * 0.3)
    xi = normal(state.key, state.generation, y.shape, like=y)
    assert np.allclose(told.dual, y - strategy.drift * offset + strategy.s * size * xi, rtol=0, atol=1e-12)

    strategy = MirrorCBO(popsize=5, mirror="simplex", alpha="hard")
    state = steps(strategy, quadratic, np.full(D, 0.25), 4)
    repaired = strategy.ask(state).copy()
    repaired[1] = (0.0, 0.5, 0.5, 0.0)  # where the logarithm is infinite
    told = strategy.tell(state, repaired, values)
    assert np.isfinite(told.dual).all() and np.allclose(strategy.ask(told)[1], repaired[1], rtol=0, atol=1e-12)


def test_failed_particles_have_no_weight() -> None:
    """CBXpy 1.0.4: one NaN makes the consensus NaN for ever."""

    def fails(x: np.ndarray) -> np.ndarray:
        values = quadratic(x)
        values[..., ::3] = np.nan
        return values

    for mirror in MIRRORS:
        state = steps(MirrorCBO(mirror=mirror), fails, np.full(D, 0.25), 50)
        assert np.isfinite(state.dual).all() and np.isfinite(state.consensus).all() and np.isfinite(state.best.fitness)


def recover(problem: SparseRecovery, mirror: Any) -> float:
    strategy = MirrorCBO(
        mirror=mirror, sigma0=1.0, threshold=2.0, s=2 * 0.05**0.5, drift=0.05, truncation=np.inf, alpha0=1.0,
        growth=1.4, alpha_max=1e15,
    )  # fmt: skip
    return float(problem.distance(steps(strategy, problem, np.zeros(30), 300).best.x))


def test_sparse_signals_are_recovered_from_half_as_many_measurements() -> None:
    problems = [SparseRecovery(measurements=15, seed=seed) for seed in range(1, 8)]
    sparse, plain = ([recover(problem, mirror) for problem in problems] for mirror in ("sparse", "none"))
    assert np.median(sparse) < 0.4 and np.median(plain) > 1.0
    assert all(a < b for a, b in zip(sparse, plain, strict=True))


@pytest.mark.parametrize("mirror", MIRRORS)
def test_libraries_agree_on_a_step_and_many_runs_are_single_ones(mirror: Any) -> None:
    strategy = MirrorCBO(popsize=9, mirror=mirror, threshold=0.2)
    state = strategy.init(bb.key(3), np.full(D, 0.3))
    population = strategy.ask(state)
    fitness = quadratic(population)
    told = strategy.tell(state, population, fitness)
    strict = strategy.init(bb.key(3), array_api_strict.asarray(np.full(D, 0.3)))
    other = strategy.tell(strict, strategy.ask(strict), array_api_strict.asarray(fitness))
    assert np.array_equal(np.asarray(other.dual), told.dual)
    traced = strategy.init(bb.key(3), jnp.full(D, 0.3))
    single = jax.jit(strategy.tell)(traced, jax.jit(strategy.ask)(traced), jnp.asarray(fitness))
    assert np.allclose(strategy.primal(single.dual), strategy.primal(told.dual), rtol=1e-5, atol=1e-5)

    keys, x0 = np.stack([bb.key(5), bb.key(6)]), np.array([np.full(D, 0.1), np.full(D, 0.7)])
    both = steps(strategy, quadratic, x0, 20, keys)
    for i in range(2):
        alone = steps(strategy, quadratic, x0[i], 20, keys[i])
        for name in ("dual", "consensus", "spread"):
            assert np.array_equal(getattr(both, name)[i], getattr(alone, name)), name


def test_swarms_end_when_their_particles_agree_however_far_apart_the_duals_are() -> None:
    strategy = MirrorCBO(mirror="box")
    state = strategy.init(bb.key(0), np.full(D, 0.5))
    apart = 2.0 + np.arange(100.0)[:, None] * np.ones(D)  # all of them at the corner (1, 1, ...)
    state = state._replace(dual=apart)
    assert not strategy.stop(state)["consensus"]
    told = strategy.tell(state, strategy.ask(state), quadratic(strategy.ask(state)))
    assert strategy.stop(told)["consensus"] and np.allclose(told.dual, apart, rtol=0, atol=1e-12)


def test_equal_seeds_give_equal_particles() -> None:
    first, second, other = (MirrorCBO().init(bb.key(seed), np.zeros(D)).dual for seed in (1, 1, 2))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_settings_are_checked() -> None:
    for name, value in (
        ("popsize", 1), ("popsize", None), ("sigma0", 0.0), ("mirror", "ball"), ("threshold", 0.0), ("low", 1.0),
        ("low", np.nan), ("diffusion", "alternating"), ("s", 0.0), ("drift", 1.5), ("truncation", np.nan),
        ("alpha", "soft"), ("share", 0.0),
    ):  # fmt: skip
        with pytest.raises(bb.SettingError, match=f"^{name} must be"):
            MirrorCBO(**{name: value})  # type: ignore[arg-type]
