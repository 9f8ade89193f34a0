"""CBO with constraints: the written steps, known solutions, derivatives, feasibility of what is recommended."""

from __future__ import annotations

from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.arrays import namespace
from blackbox.cbo import ConstrainedCBO
from blackbox.kernels.noise import normal
from blackbox.testing import dense

HANDLINGS = pytest.mark.parametrize("handling", ["drift", "penalty"])
X0 = np.array([0.5, -0.2, 0.4])


def total(x: Any) -> Any:
    return namespace(x).sum(x)


def circle(x: Any) -> Any:
    return total(x * x) - 1


def disc(x: Any) -> Any:
    return total(x * x) - 0.5


def plane(x: Any) -> Any:
    return total(x) - 1


def two(x: Any) -> Any:
    """Curved and coupled: x0 x1 = x2, |x|^2 = 1."""
    return namespace(x).stack([x[0] * x[1] - x[2], total(x * x) - 1])


def one_sided(x: Any) -> Any:
    return namespace(x).stack([x[0] - 0.3, -x[1] * x[1] - 0.1])  # the second always holds


def jacobian_of_two_and_one_sided(x: Any) -> np.ndarray:
    return np.array([[x[1], x[0], -1], 2 * x, [1, 0, 0], [0, -2 * x[1], 0]])


def loss(x: Any) -> Any:
    return x[..., 0] ** 2 - x[..., 1] + 0.5 * x[..., 2]


def steps(strategy: Any, f: Any, x0: Any, count: int, key: Any = None) -> Any:
    state = strategy.init(bb.key(0) if key is None else key, x0)
    for _ in range(count):
        population = strategy.ask(state)
        state = strategy.tell(state, population, f(population))
    return state


def r_of(x: np.ndarray) -> np.ndarray:
    return np.concatenate([two(x), np.maximum(one_sided(x), 0)])


@pytest.mark.parametrize("noise", ["anisotropic", "isotropic"])
@pytest.mark.parametrize(("handling", "nu"), [("drift", None), ("drift", 0.7), ("penalty", 0.7)])
def test_a_step_is_the_written_one(handling: Any, noise: Any, nu: float | None) -> None:
    strategy = ConstrainedCBO(
        equality=two, inequality=one_sided, jacobian=jacobian_of_two_and_one_sided, handling=handling, popsize=8,
        eta=3.0, nu=nu, shrinking=0.8, nu_least=0.4, diffusion=noise, s=0.3, drift=0.2, truncation=np.inf, alpha0=2.0,
    )  # fmt: skip
    state = strategy.init(bb.key(0), X0)
    for t in range(4):
        x, xi = state.particles, normal(state.key, t, (8, 3), like=X0)
        now = np.inf if nu is None else max(0.7 * 0.8**t, 0.4)
        masses = [np.exp(-2.0 * 1.05**t * (loss(x[i]) + np.sum(r_of(x[i]) ** 2) / now)) for i in range(8)]
        v = sum(m * x[i] for i, m in enumerate(masses)) / sum(masses)
        moved = np.empty_like(x)
        for i in range(8):
            size = np.abs(x[i] - v) if noise == "anisotropic" else np.linalg.norm(x[i] - v)
            b = 0.2 * (x[i] - v) - 0.3 * size * xi[i]
            if handling == "drift":
                active = np.concatenate([[True, True], one_sided(x[i]) > 0])
                J = jacobian_of_two_and_one_sided(x[i])[active]
                b = np.linalg.solve(np.eye(3) + 2 * 3.0 * J.T @ J, b + 2 * 3.0 * J.T @ r_of(x[i])[active])
            moved[i] = x[i] - b
        state = strategy.tell(state, x, loss(x))
        assert np.allclose(state.particles, moved, rtol=0, atol=1e-10)
        assert np.allclose(state.consensus, v, rtol=0, atol=1e-10)


def test_derivatives_by_differences_and_of_jax_are_those_given() -> None:
    """Of one step: differences err by eps^(2/3)."""
    constraints: dict[str, Any] = {"equality": two, "inequality": one_sided, "popsize": 20}
    given = ConstrainedCBO(**constraints, jacobian=jacobian_of_two_and_one_sided)
    by_differences = ConstrainedCBO(**constraints)
    expected = steps(given, loss, X0, 1).particles
    assert np.allclose(steps(by_differences, loss, X0, 1).particles, expected, rtol=0, atol=1e-8)
    start = by_differences.init(bb.key(0), jnp.asarray(X0, jnp.float32))
    of_jax = jax.jit(by_differences.tell)(start, start.particles, loss(start.particles)).particles
    assert np.allclose(of_jax, expected, rtol=0, atol=1e-3)  # in float32, stiff systems lose three digits
    strict = steps(by_differences, loss, array_api_strict.asarray(X0), 1).particles
    assert np.allclose(np.asarray(strict), expected, rtol=0, atol=1e-8)


def test_without_a_violation_a_drift_is_plain_cbo_and_stiff_it_is_newton_s_step() -> None:
    shared: dict[str, Any] = {"popsize": 10, "sigma0": 0.1, "nu": None}
    free = ConstrainedCBO(inequality=disc, **shared)
    inside = steps(free, loss, 0.1 * X0, 1).particles
    penalized = ConstrainedCBO(inequality=disc, handling="penalty", popsize=10, sigma0=0.1)
    assert np.array_equal(steps(penalized, loss, 0.1 * X0, 1).particles, inside)
    stiff = ConstrainedCBO(equality=plane, eta=1e9, popsize=10)
    reached = steps(stiff, loss, X0, 1).particles
    assert np.allclose(reached.sum(axis=-1), 1, rtol=0, atol=1e-6)  # linear: in one step


PROBLEMS: dict[str, tuple[Any, dict[str, Any], np.ndarray]] = {
    "linear on the circle": (
        lambda x: x[..., 0] + 2 * x[..., 1], {"equality": circle}, -np.array([1.0, 2.0]) / 5**0.5,
    ),
    "quadratic on a plane": (
        lambda x: ((x - np.array([1.0, 0.0, -1.0])) ** 2).sum(axis=-1),
        {"equality": plane}, np.array([1.0, 0.0, -1.0]) + 1 / 3,
    ),
    "linear in a disc": (lambda x: x[..., 0] + x[..., 1], {"inequality": disc}, np.full(2, -0.5)),
    "free minimum in a disc": (
        lambda x: ((x - 0.2) ** 2).sum(axis=-1), {"inequality": disc}, np.full(2, 0.2),
    ),
    "linear on half a circle": (
        lambda x: x[..., 0] + 2 * x[..., 1], {"equality": circle, "inequality": lambda x: -x[1]}, np.array([-1.0, 0.0]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("problem", PROBLEMS)
@HANDLINGS
def test_known_solutions_are_found(handling: Any, problem: str) -> None:
    f, constraints, solution = PROBLEMS[problem]
    strategy = ConstrainedCBO(**constraints, handling=handling, popsize=60, sigma0=1.0)
    x0 = np.tile(0.3 + 0.2 * np.arange(len(solution)), (2, 1))
    state = steps(strategy, f, x0, 150, np.stack([bb.key(seed) for seed in range(2)]))
    x = strategy.recommend(state)
    assert strategy.violations(x).max() <= strategy.tolerance <= 1e-3
    assert np.abs(f(x) - f(solution)).max() < 5e-3, f(x) - f(solution)
    assert np.abs(x - solution).max() < 0.1


def test_without_the_penalty_in_weights_a_swarm_on_a_circle_never_agrees() -> None:
    f, constraints, _ = PROBLEMS["linear on the circle"]
    spreads = []
    for nu in (1.0, None):
        strategy = ConstrainedCBO(**constraints, nu=nu, sigma0=1.0)
        spreads.append(float(steps(strategy, f, np.array([0.3, 0.5]), 200).spread))
    assert spreads[0] < 0.1 < 0.3 < spreads[1]


def test_a_feasible_point_beats_lower_ones_that_are_not_and_till_then_the_nearest_counts() -> None:
    strategy = ConstrainedCBO(inequality=lambda x: x[0], popsize=3, tolerance=0.01, handling="penalty")
    state = strategy.init(bb.key(0), np.zeros(2))
    state = strategy.tell(state, np.array([[3.0, 0], [1.0, 0], [2.0, 0]]), np.array([0.0, 5.0, 1.0]))
    assert strategy.recommend(state).tolist() == [1, 0]
    state = strategy.tell(state, np.array([[0.02, 0], [0.01, 0], [-4.0, 0]]), np.array([0.0, 6.0, 7.0]))
    assert strategy.recommend(state).tolist() == [0.01, 0] and state.best.fitness == 6
    state = strategy.tell(state, np.array([[-1.0, 0], [-2.0, 0], [5.0, 0]]), np.array([np.nan, 7.0, -9.0]))
    assert strategy.recommend(state).tolist() == [0.01, 0]


@HANDLINGS
def test_constraints_that_fail_and_failures_are_borne(handling: Any) -> None:
    """One that is NaN on a half plane, one that is there twice, and a fifth of all evaluations failing."""

    def fails(x: Any) -> Any:
        return np.stack([np.where(x[0] < 0, np.nan, 1.0) * circle(x), circle(x)])

    rng = np.random.default_rng(0)

    def f(x: np.ndarray) -> np.ndarray:
        return np.where(rng.random(x.shape[:-1]) < 0.2, np.nan, x[..., 0] + 2 * x[..., 1])

    strategy = ConstrainedCBO(equality=fails, handling=handling, sigma0=1.0)
    state = steps(strategy, f, np.array([0.5, 0.5]), 200)
    assert np.isfinite(state.particles).all()
    x = strategy.recommend(state)
    assert x[0] >= 0 and np.allclose(x, [0, -1], rtol=0, atol=0.1)


@HANDLINGS
def test_libraries_agree_on_a_step_and_many_runs_are_single_ones(handling: Any) -> None:
    strategy = ConstrainedCBO(equality=two, inequality=one_sided, handling=handling, popsize=9)
    state = strategy.init(bb.key(3), X0)
    told = strategy.tell(state, state.particles, loss(state.particles))
    strict = strategy.init(bb.key(3), array_api_strict.asarray(X0))
    same = strategy.tell(strict, strict.particles, array_api_strict.asarray(loss(state.particles)))
    assert np.array_equal(np.asarray(same.particles), told.particles)
    traced = strategy.init(bb.key(3), jnp.asarray(X0, jnp.float32))
    single = jax.jit(strategy.tell)(traced, traced.particles, jnp.asarray(loss(state.particles), jnp.float32))
    assert np.allclose(single.particles, told.particles, rtol=1e-4, atol=1e-4)
    assert np.allclose(single.consensus, told.consensus, rtol=1e-5, atol=1e-5)

    keys, x0 = np.stack([bb.key(5), bb.key(6)]), np.stack([X0, -X0])
    both = steps(strategy, loss, x0, 20, keys)
    for i in range(2):
        alone = steps(strategy, loss, x0[i], 20, keys[i])
        for name in ("particles", "consensus", "spread"):
            assert np.array_equal(getattr(both, name)[i], getattr(alone, name)), name
        assert np.array_equal(strategy.recommend(both)[i], strategy.recommend(alone))


@HANDLINGS
@pytest.mark.parametrize("library", ["numpy", "array_api_strict"])
def test_the_laws_of_strategies_hold(handling: Any, library: str) -> None:
    """Inside a ball that has the minimum of the laws' sphere."""
    strategy = ConstrainedCBO(inequality=lambda x: total(x * x) - 0.6, handling=handling, popsize=12)
    x0 = dense.start_point(library, 6, "float64")
    for check in dense.CHECKS:
        if library == "numpy" or check not in (dense.check_lower_is_better, dense.check_improves_with_failures):
            check(strategy, x0)


@HANDLINGS
def test_runs_scan_and_vmap(handling: Any) -> None:
    strategy = ConstrainedCBO(equality=two, handling=handling, popsize=8)

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
        ("equality", 3), ("inequality", "x"), ("jacobian", 1.0), ("handling", "ignore"), ("popsize", 1),
        ("popsize", None), ("sigma0", 0.0), ("tolerance", 0.0), ("eta", 0.0), ("nu", 0.0), ("shrinking", 1.1),
        ("nu_least", 0.0), ("diffusion", "alternating"), ("s", 0.0), ("drift", 1.5), ("truncation", 0.0),
        ("alpha", "soft"), ("share", 0.0),
    ):  # fmt: skip
        with pytest.raises(bb.SettingError, match=f"^{name} must be"):
            ConstrainedCBO(**{"equality": circle, name: value})  # type: ignore[arg-type]
    with pytest.raises(bb.SettingError, match=r"^equality must be .* both are None"):
        ConstrainedCBO()
    with pytest.raises(bb.SettingError, match=r"^nu must be a number with handling 'penalty'"):
        ConstrainedCBO(equality=circle, handling="penalty", nu=None)
    strategy = ConstrainedCBO(equality=two, jacobian=lambda x: 2 * x)
    with pytest.raises(bb.SettingError, match=r"^jacobian must return a row for each of 2 constraints, got 1"):
        steps(strategy, loss, X0, 1)


def test_a_constraint_that_is_infinite_beyond_a_line_does_no_harm() -> None:
    def wall(x: Any) -> Any:
        return np.array([np.inf if x[0] > 2 else 0.5 - x[0]])

    strategy = ConstrainedCBO(inequality=wall, sigma0=1.0)
    state = strategy.init(bb.key(0), np.full(2, 2.0))
    for _ in range(60):
        population = strategy.ask(state)
        state = strategy.tell(state, population, (population**2).sum(axis=-1))
    assert np.allclose(strategy.recommend(state), [0.5, 0.0], atol=0.05)
