"""CBO on manifolds: the written step, particles that stay there, rotations, phase retrieval and principal subspaces."""

from __future__ import annotations

from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.cbo import ManifoldCBO
from blackbox.kernels.noise import normal
from blackbox.problems.recovery import PhaseRetrieval
from blackbox.testing import dense

SPHERE = ManifoldCBO(popsize=9, sigma0=0.4, s=0.3, drift=0.4)
STIEFEL = ManifoldCBO(popsize=9, sigma0=0.4, s=0.2, drift=0.4, manifold="stiefel", columns=2)
BOTH = pytest.mark.parametrize("strategy", [SPHERE, STIEFEL], ids=["sphere", "stiefel"])
X0 = np.array([0.9, 0.1, -0.2, 0.8, 0.3, 0.1])


def loss(x: Any) -> Any:
    return (x[..., 0] - 0.3) ** 2 + x[..., 1] * x[..., 4] - x[..., 5]


def steps(strategy: Any, f: Any, x0: Any, count: int, key: Any = None) -> Any:
    state = strategy.init(bb.key(0) if key is None else key, x0)
    for _ in range(count):
        population = strategy.ask(state)
        state = strategy.tell(state, population, f(population))
    return state


def off(strategy: ManifoldCBO, x: np.ndarray) -> float:
    """How far points are from the manifold."""
    matrices = x.reshape(*x.shape[:-1], -1, strategy.columns)
    return float(np.abs(np.swapaxes(matrices, -1, -2) @ matrices - np.eye(strategy.columns)).max())


def known_eigenvectors(n: int) -> Any:
    """A symmetric matrix of the eigenvalues 1 to n and its eigenvectors, in ascending order."""
    vectors = np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))[0]
    return (vectors * np.arange(1, n + 1)) @ vectors.T, vectors


@BOTH
def test_a_step_is_the_written_one(strategy: ManifoldCBO) -> None:
    state = steps(strategy, loss, X0, 3)
    x, s, columns = state.particles, strategy.s, strategy.columns
    told = strategy.tell(state, x, loss(x))
    xi = normal(state.key, 3, x.shape, like=x)
    v = told.consensus
    moved = np.empty_like(x)
    for i in range(9):
        X = x[i].reshape(-1, columns)

        def projected(z: np.ndarray, X: np.ndarray = X) -> np.ndarray:
            Z = z.reshape(X.shape)
            return Z - X @ (X.T @ Z + Z.T @ X) / 2

        length = np.linalg.norm(x[i] - v)
        curvature = 5 if columns == 1 else (2 * 3 - 2 - 1) / 2
        Y = X - 0.4 * projected(x[i] - v) + s * length * projected(xi[i]) - s**2 / 2 * length**2 * curvature * X
        values, vectors = np.linalg.eigh(Y.T @ Y)
        moved[i] = (Y @ (vectors / np.sqrt(values)) @ vectors.T).reshape(-1)  # Y (Y^T Y)^(-1/2)
    assert np.allclose(told.particles, moved, rtol=0, atol=1e-12)


def test_the_consensus_is_the_weighted_mean() -> None:
    strategy = ManifoldCBO(popsize=9, sigma0=0.4, alpha="geometric", alpha0=2.0)
    state = steps(strategy, loss, X0, 2)
    weights = np.exp(-2.0 * 1.05**2 * loss(state.particles))
    expected = sum(w * x for w, x in zip(weights, state.particles, strict=True)) / weights.sum()
    assert np.allclose(strategy.tell(state, state.particles, loss(state.particles)).consensus, expected, atol=1e-12)


def test_the_curvature_is_that_by_which_noise_leaves_the_manifold() -> None:
    """To first order in the squared noise, P xi takes matrices to X (I + C / 2) on average, C = E (P xi)^T (P xi); the
    trace of C / 2 over the columns is what the term takes off on the other side."""
    rng = np.random.default_rng(0)
    for strategy, rows in ((SPHERE, 6), (STIEFEL, 3)):
        d = rows * strategy.columns
        x = strategy.retract(rng.normal(size=d))
        tangents = strategy.tangent(np.broadcast_to(x, (100000, d)), rng.normal(size=(100000, d)))
        matrices = tangents.reshape(-1, rows, strategy.columns)
        C = (np.swapaxes(matrices, -1, -2) @ matrices).mean(axis=0)
        assert np.allclose(C, strategy.curvature(d) * np.eye(strategy.columns), atol=0.05)


@BOTH
def test_particles_stay_on_the_manifold_whatever_is_told(strategy: ManifoldCBO) -> None:
    for s in (0.1, 50.0):
        wild = ManifoldCBO(popsize=9, s=s, manifold=strategy.manifold, columns=strategy.columns)
        state = wild.init(bb.key(0), X0)
        for i in range(60):
            for first in (0, 9):
                assert off(wild, wild.ask(state, first=first)) < 1e-14
            fitness = loss(state.particles)
            fitness[i % 3 :: 3] = (np.nan, np.inf, 1e300)[i % 3]
            state = wild.tell(state, wild.ask(state), fitness)
        assert off(wild, wild.recommend(state)) < 1e-14


@BOTH
def test_the_retraction_is_the_nearest_point(strategy: ManifoldCBO) -> None:
    rng = np.random.default_rng(0)
    point = rng.normal(size=6)
    near = strategy.retract(point)
    others = strategy.retract(np.concatenate([rng.normal(size=(500, 6)), near + 0.01 * rng.normal(size=(500, 6))]))
    assert np.linalg.norm(near - point) <= np.linalg.norm(others - point, axis=-1).min()
    assert np.allclose(strategy.retract(near), near, rtol=0, atol=1e-15)
    for extreme in (np.zeros(6), np.full(6, 1e-300), 1e200 * point):
        assert off(strategy, strategy.retract(extreme)) < 1e-14


def test_from_zero_the_start_is_uniform_and_else_about_x0() -> None:
    uniform = ManifoldCBO(popsize=4000).init(bb.key(0), np.zeros(3)).particles
    assert np.abs(uniform.mean(axis=0)).max() < 0.04
    assert np.allclose(uniform.T @ uniform / 4000, np.eye(3) / 3, atol=0.03)
    about = ManifoldCBO(popsize=400, sigma0=0.01).init(bb.key(0), np.array([0.0, 5.0, 0.0])).particles
    assert np.abs(about - [0, 1, 0]).max() < 0.02


def test_rotations_of_space_rotate_the_law_of_a_step() -> None:
    """The same where xi is rotated too: what is left of the step when s is 0 and the start is rotated."""
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn = np.kron(Q, np.eye(2))
    for strategy, by in ((STIEFEL, turn), (SPHERE, np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0])):
        quiet = ManifoldCBO(popsize=9, s=1e-12, manifold=strategy.manifold, columns=strategy.columns)
        state = quiet.init(bb.key(0), X0)
        fitness = loss(state.particles)
        straight = quiet.tell(state, state.particles, fitness).particles
        turned = state._replace(particles=state.particles @ by.T)
        assert np.allclose(quiet.tell(turned, turned.particles, fitness).particles, straight @ by.T, rtol=0, atol=1e-10)


def test_a_phase_is_retrieved_up_to_its_sign() -> None:
    signs = []
    for seed in range(4):
        problem = PhaseRetrieval(d=12, seed=seed)
        state = steps(ManifoldCBO(popsize=300), problem, np.zeros(12), 150, bb.key(seed))
        x = state.best.x
        assert problem.recovered(x), (seed, problem.distance(x))
        signs.append(np.sign(x @ problem.x_true))
    assert len(set(signs)) == 2  # neither is preferred


def test_principal_subspaces_are_found() -> None:
    A, vectors = known_eigenvectors(7)

    def negative_trace(x: np.ndarray) -> np.ndarray:
        X = x.reshape(*x.shape[:-1], 7, 3)
        return -np.einsum("...ik,ij,...jk->...", X, A, X)

    for seed in range(2):
        state = steps(ManifoldCBO(manifold="stiefel", columns=3), negative_trace, np.zeros(21), 200, bb.key(seed))
        X = state.best.x.reshape(7, 3)
        assert -state.best.fitness == pytest.approx(7 + 6 + 5, abs=1e-6)
        assert np.allclose(X @ X.T, vectors[:, -3:] @ vectors[:, -3:].T, atol=1e-3)


def test_swarms_contract_below_the_limit_of_noise_and_not_above() -> None:
    dimension, drift = 29, 0.5
    limit = ((2 * drift - drift**2) / dimension) ** 0.5
    target = np.eye(30)[0]
    spreads = [
        float(steps(ManifoldCBO(s=share * limit, drift=drift, sigma0=0.01), lambda x: -(x @ target), target, 60).spread)
        for share in (0.5, 2.0)
    ]
    assert spreads[0] < 1e-6 and spreads[1] > 1e-2


@BOTH
def test_libraries_agree_on_a_step_and_many_runs_are_single_ones(strategy: ManifoldCBO) -> None:
    state = strategy.init(bb.key(3), X0)
    fitness = loss(state.particles)
    told = strategy.tell(state, state.particles, fitness)
    strict = strategy.init(bb.key(3), array_api_strict.asarray(X0))
    same = strategy.tell(strict, strict.particles, array_api_strict.asarray(fitness))
    assert np.array_equal(np.asarray(same.particles), told.particles)
    traced = strategy.init(bb.key(3), jnp.asarray(X0, jnp.float32))
    single = jax.jit(strategy.tell)(traced, traced.particles, jnp.asarray(fitness, jnp.float32))
    assert np.allclose(single.particles, told.particles, rtol=1e-5, atol=1e-5)

    keys, x0 = np.stack([bb.key(5), bb.key(6)]), np.stack([X0, X0[::-1]])
    both = steps(strategy, loss, x0, 20, keys)
    for i in range(2):
        alone = steps(strategy, loss, x0[i], 20, keys[i])
        for name in ("particles", "consensus", "spread"):
            assert np.array_equal(getattr(both, name)[i], getattr(alone, name)), name


@BOTH
@pytest.mark.parametrize("library", ["numpy", "array_api_strict"])
def test_laws_that_hold_on_manifolds(strategy: ManifoldCBO, library: str) -> None:
    x0 = dense.start_point(library, 6, "float64")
    checks: tuple[Any, ...] = (
        dense.check_ask_is_pure, dense.check_replayable, dense.check_seeds_differ, dense.check_shape_stable,
        dense.check_total_on_fitness, dense.check_nan_ranks_last, dense.check_types_of_fitness,
        dense.check_sizes_of_population, dense.check_further_members,
    )  # fmt: skip
    for check in checks:
        check(strategy, x0)


def test_runs_scan_and_vmap() -> None:
    strategy = STIEFEL

    def run(key: Any) -> Any:
        def generation(state: Any, _: None) -> Any:
            population = strategy.ask(state)
            return strategy.tell(state, population, loss(population)), None

        return jax.lax.scan(generation, strategy.init(key, jnp.asarray(X0, jnp.float32)), length=8)[0]

    keys = np.stack([bb.key(0), bb.key(1)])
    many = jax.jit(jax.vmap(run))(jnp.asarray(keys))
    for i in range(2):
        alone = steps(strategy, loss, X0, 8, keys[i])
        assert np.allclose(many.particles[i], alone.particles, rtol=1e-3, atol=1e-3)
        assert np.allclose(strategy.recommend(many)[i], strategy.recommend(alone), rtol=1e-3, atol=1e-3)


def test_settings_are_checked() -> None:
    for name, value in (
        ("popsize", 1), ("popsize", None), ("sigma0", 0.0), ("manifold", "torus"), ("columns", 0), ("s", 0.0),
        ("drift", 1.5), ("alpha", "soft"), ("share", 0.0),
    ):  # fmt: skip
        with pytest.raises(bb.SettingError, match=f"^{name} must be"):
            ManifoldCBO(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(bb.SettingError, match=r"^columns must be 1 on the sphere, got 2"):
        ManifoldCBO(columns=2)
    for columns in (3, 4):  # 6 = 2 x 3 has more columns than rows, and 4 is no divisor
        with pytest.raises(bb.SettingError, match=r"^columns must be a divisor of d = 6"):
            ManifoldCBO(manifold="stiefel", columns=columns).init(bb.key(0), X0)
