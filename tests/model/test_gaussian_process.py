"""The process agrees with scikit-learn's, its gradients with differences, and its hyperparameters with SciPy's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from blackbox.model.covariance import ROOT5, Features, Kernel
from blackbox.model.gaussian_process import (
    NOISY,
    Prior,
    conditioned,
    fitted,
    inverse_of_lower,
    loss,
    prior,
    relative,
    warped,
)
from blackbox.model.improvement import among, bytes_of, climbed, log_h, log_improvement, log_success

CHOICE = np.array([0, 0, 0, 1, 1])
SIZES = ((4, False), (3, True), (0, True))


def points(n: int, m: int, mixed: bool, rng: np.random.Generator) -> Features:
    """m numbers and, if mixed, choices of three and of two options."""
    x = rng.random((n, m))
    if mixed:
        x = np.hstack(
            [x, np.sqrt(0.5) * np.eye(3)[rng.integers(3, size=n)], np.sqrt(0.5) * np.eye(2)[rng.integers(2, size=n)]]
        )
    owner = np.array([*range(m), *(m + CHOICE if mixed else ())], dtype=int)
    return Features(x, owner, np.arange(len(owner)) < m)


def problem(m: int, mixed: bool, seed: int = 0, n: int = 30) -> tuple[Points, np.ndarray, np.ndarray, Prior]:
    rng = np.random.default_rng(seed)
    seen = points(n, m, mixed, rng)
    t = np.sin(5 * seen.x[:, :m]).sum(1) + seen.x[:, m:] @ np.arange(seen.x.shape[1] - m) + 0.1 * rng.normal(size=n)
    t = (t - t.min()) / np.median(t - t.min())
    p = m + 2 * mixed + 3
    return seen, t, rng.normal(size=p) - 0.5, Prior(rng.normal(size=p), rng.uniform(0.5, 3, p), 1.5)


@pytest.mark.parametrize("m", [1, 4])
def test_the_posterior_is_scikit_learns(m: int) -> None:
    gaussian_process = pytest.importorskip("sklearn.gaussian_process")
    from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

    seen, t, theta, prior = problem(m, False)
    ours = conditioned(seen, t, theta, prior)
    lengths, (tau, eta) = 2 * np.exp(theta[:m]), np.exp(theta[-3:-1])  # of u = 2 x - 1
    kernel = ConstantKernel(ours.s2) * (Matern(lengths, nu=2.5) + ConstantKernel(tau) * DotProduct(1.0) ** 2)
    kernel = kernel + WhiteKernel(ours.s2 * eta)
    theirs = gaussian_process.GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None)
    theirs.fit(2 * seen.x - 1, ours.y)
    new = points(7, m, False, np.random.default_rng(1))
    mean, cov = theirs.predict(2 * new.x - 1, return_cov=True)
    cov -= ours.s2 * eta * np.eye(7)  # theirs is of values with noise
    assert np.allclose(ours.at(new)[0], mean, rtol=1e-6, atol=1e-8)
    assert np.allclose(ours.at(new)[1], np.diagonal(cov), rtol=1e-5, atol=1e-8)
    assert np.allclose(ours.jointly(new)[1], cov, rtol=1e-5, atol=1e-8)
    density = theirs.log_marginal_likelihood(theirs.kernel_.theta)
    z = (theta - prior.mean) / prior.deviation
    scale = -0.5 * prior.weight * (math.log(ours.s2) + 1 / ours.s2)  # of the prior of s2
    constant = 0.5 * len(t) * math.log(2 * math.pi) + 0.5 * (len(t) + prior.weight)
    volume = warped(t, theta[-1])[1]
    assert loss(seen, t, theta, prior)[0] == pytest.approx(-density - scale - volume + 0.5 * z @ z - constant)


@pytest.mark.parametrize(("m", "mixed"), SIZES)
def test_gradients_are_those_of_finite_differences(m: int, mixed: bool) -> None:
    seen, t, theta, prior = problem(m, mixed)
    differences = [
        (loss(seen, t, theta + 1e-6 * e, prior)[0] - loss(seen, t, theta - 1e-6 * e, prior)[0]) / 2e-6
        for e in np.eye(len(theta))
    ]
    assert np.allclose(loss(seen, t, theta, prior)[1](), differences, rtol=1e-5, atol=1e-6)
    process, new = conditioned(seen, t, theta, prior), points(5, m, mixed, np.random.default_rng(1))
    known, one, zero = process.prediction(new.x), np.ones(5), np.zeros(5)
    by_mean, by_variance = process.gradient(known, one, zero), process.s2 * process.gradient(known, zero, one)
    for i, e in enumerate(np.eye(len(new.owner))[:m]):
        up, down = (process.at(new._replace(x=new.x + sign * 1e-6 * e)) for sign in (1, -1))
        assert np.allclose(by_mean[:, i], (up[0] - down[0]) / 2e-6, rtol=1e-5, atol=1e-6)
        assert np.allclose(by_variance[:, i], (up[1] - down[1]) / 2e-6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("m", "mixed"), SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_as_good_as_scipys(m: int, mixed: bool, seed: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    seen, t, _, prior = problem(m, mixed, seed)
    start = prior.mean
    noisy = start.copy()
    noisy[-2] = NOISY

    def value_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = loss(seen, t, theta, prior)
        return value, gradient()

    theirs = [  # the density may have several maxima, and one start lead to another of them
        optimize.minimize(value_and_gradient, begin, jac=True, method="L-BFGS-B").fun for begin in (start, noisy)
    ]
    ours = fitted(seen, t, start, prior, 100)
    assert loss(seen, t, ours, prior)[0] <= max(theirs) + 0.01
    assert np.abs(loss(seen, t, ours, prior)[1]()).max() < 0.1
    assert loss(seen, t, fitted(seen, t, start, prior, 3), prior)[0] < loss(seen, t, start, prior)[0]


def test_options_are_all_equally_far_from_each_other() -> None:
    theta = np.log([0.5, 2.0, 1e-30, 1.0, 1.0])  # no numbers: two choices, and hardly any quadratic
    rows = np.sqrt(0.5) * np.array([[1, 0, 0, 1, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 1]], float)
    seen = Features(rows, CHOICE, np.zeros(5, dtype=bool))
    r = ROOT5 * np.sqrt([[0, 4, 4.25], [4, 0, 4.25], [4.25, 4.25, 0]])
    kernel = Kernel.of(theta, seen)
    placed = kernel.placed(seen.x)
    assert np.allclose(kernel.between(placed, placed).k, (1 + r + r**2 / 3) * np.exp(-r))


def test_values_of_any_range_are_taken_relative_to_their_median() -> None:
    assert relative(np.array([3.0, 5.0, 11.0])).tolist() == [0.0, 1.0, 4.0]
    for values in ([3.0, 3.0], [-1e100, 1e100], [0.0, 0.0, 1e-300], [1e100, 1.0, 1.0]):
        t = relative(np.array(values))
        assert np.isfinite(t).all()
        assert t.min() == 0


def test_quadratics_are_known_from_as_many_points_as_they_have_terms() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 3))

    def f(x: np.ndarray) -> np.ndarray:
        return ((x - 0.3) @ a @ a.T * (x - 0.3)).sum(1)

    seen, new = points(12, 3, False, rng), points(20, 3, False, rng)
    t = f(seen.x) - f(seen.x).min()
    theta = np.array([8.0, 8.0, 8.0, 3.0, -25.0, -30.0])
    process = conditioned(seen, t, theta, Prior(theta, np.ones(6), 1.0))
    predicted = process.at(new)[0] * t.std() + t.mean()
    assert np.allclose(predicted, f(new.x) - f(seen.x).min(), atol=1e-3 * t.std())


def test_warping_keeps_the_order_and_its_derivative_is_its_volume() -> None:
    t = np.sort(np.random.default_rng(0).exponential(size=9)) ** 3
    for psi in (-20.0, -2.0, 3.0):
        y, volume, *_ = warped(t, psi)
        assert (np.diff(y) > 0).all() and y.mean() == pytest.approx(0) and y.std() == pytest.approx(1)
        g = np.log1p(np.exp(psi) * t) / np.exp(psi)
        slope = 1 / (1 + np.exp(psi) * t) / g.std()  # of y by t, at a fixed scale
        assert volume == pytest.approx(float(np.log(slope).sum()))
    assert np.allclose(warped(t, -20.0)[0], (t - t.mean()) / t.std())
    assert not warped(np.zeros(4), 0.0)[0].any()


@pytest.mark.parametrize("n", [1, 48, 49, 130])
def test_the_inverse_of_a_triangle(n: int) -> None:
    factor = np.tril(np.random.default_rng(n).normal(size=(n, n)) / n) + np.eye(n)
    assert np.allclose(inverse_of_lower(factor) @ factor, np.eye(n))


def test_what_is_believed_leaves_the_mean_and_takes_variance() -> None:
    seen, t, theta, prior = problem(3, True)
    process = conditioned(seen, t, theta, prior)
    rng = np.random.default_rng(2)
    pending, new = points(2, 3, True, rng), points(30, 3, True, rng)
    believing = process.believing(pending)
    assert np.allclose(believing.at(new)[0], process.at(new)[0], atol=1e-6)
    assert (believing.at(new)[1] <= process.at(new)[1] + 1e-9).all()
    assert (believing.at(pending)[1] < process.at(pending)[1]).all()


# ---- expected improvement


def test_the_logarithm_of_the_improvement_is_that_of_its_integral() -> None:
    special = pytest.importorskip("scipy.special")
    z = np.array([-1e4, -200.0, -26.0, -25.0, -24.9, -5.0, -1.0, 0.0, 1.0, 9.0, 50.0])
    value, slope = log_h(z)
    density = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    near = z > -20
    h = np.exp(density[near]) + z[near] * special.ndtr(z[near])
    assert np.allclose(value[near], np.log(h), rtol=1e-9)
    ratio = np.sqrt(math.pi / 2) * special.erfcx(-z[~near] / math.sqrt(2))  # Phi / phi
    assert np.allclose(value[~near], density[~near] + np.log1p(np.maximum(z[~near] * ratio, -1 + 1e-9)), atol=2e-2)
    differences = (log_h(z + 1e-5)[0] - log_h(z - 1e-5)[0]) / 2e-5
    assert np.allclose(slope, differences, rtol=5e-3)


def test_what_is_beyond_failures_is_likely_to_fail_and_chance_says_little() -> None:
    rng = np.random.default_rng(0)
    known, new = points(40, 3, True, rng), points(200, 3, True, rng)
    share = np.exp(log_success(known, known.x[:, 1] > 0.5)(new))
    assert share[new.x[:, 1] > 0.7].mean() < 0.3 < 0.7 < share[new.x[:, 1] < 0.3].mean()
    by_chance = np.exp(log_success(known, rng.random(40) < 0.2)(new))
    assert np.quantile(by_chance, 0.05) > 0.4
    for failed in (np.zeros(40, dtype=bool), np.ones(40, dtype=bool)):
        assert not log_success(known, failed)(new).any()


def test_points_among_others_are_those_of_the_same_numbers() -> None:
    points = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.25]])
    assert among(points, set(bytes_of(points[[2, 0]]))).tolist() == [True, False, True]
    assert not among(points, set()).any()


def test_a_climb_gains_within_its_bounds_and_moves_only_what_is_free() -> None:
    seen, t, theta, prior = problem(3, True)
    process = conditioned(seen, t, theta, prior)
    start, best = points(6, 3, True, np.random.default_rng(3)), float(process.y.min())
    low, high = np.maximum(start.x.min(0) - 0.01, 0), np.minimum(start.x.max(0) + 0.01, 1)
    free = np.tile(np.array([True, False, True] + [False] * 5), (6, 1))
    free[0] = False
    x, value = climbed(process, start.x, best, low, high, free, 10)
    end = start._replace(x=x)
    before: Any = log_improvement(best, *process.at(start))
    assert np.allclose(value, log_improvement(best, *process.at(end)))
    assert (value >= before - 1e-9).all() and (value > before + 0.01).any()
    assert ((end.x >= low) & (end.x <= high)).all()
    assert np.array_equal(end.x[~free], start.x[~free])


def test_the_best_of_noisy_values_is_that_of_the_least_mean() -> None:
    """On average it is lower than the point of the least value; without noise it is that point."""
    gains = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        seen = points(60, 2, False, rng)
        f = ((seen.x - 0.4) ** 2).sum(1)
        values = f + 0.1 * rng.normal(size=60)
        t, known = relative(values), prior(2)
        best = conditioned(seen, t, fitted(seen, t, known.mean, known, 30), known).best(t)
        gains.append(f[np.argmin(values)] - f[best])
        exact = relative(f)
        assert conditioned(seen, exact, fitted(seen, exact, known.mean, known, 30), known).best(exact) == np.argmin(f)
    assert np.mean(gains) > 0.01
