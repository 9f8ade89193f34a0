"""FZooS and the federated methods beside it: surrogates, written rounds, failures, costs."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.zo.fed_zo import FedZO
from blackbox.zo.federated import difference_gradient, difference_queries, play, told_queries, unit_directions
from blackbox.zo.fzoos import FZooS
from blackbox.zo.scaffold import Scaffold
from blackbox.zo.surrogate import (
    Queries,
    drawn_features,
    explained_variance,
    feature_gradient,
    feature_weights,
    featured,
    inverse_of,
    likely_lengthscale,
    mean_gradient,
    posterior,
)

D, CLIENTS = 6, 3
SMALL = {"clients": CLIENTS, "local_steps": 2}
DIFFERENCES = {**SMALL, "directions": 4}
METHODS: dict[str, Any] = {
    "FedZO": FedZO(**DIFFERENCES),
    "FedProx": FedZO(**DIFFERENCES, proximal=1.0),
    "SCAFFOLD I": Scaffold(**DIFFERENCES, option="I"),
    "SCAFFOLD II": Scaffold(**DIFFERENCES, option="II"),
    "FZooS": FZooS(**SMALL, active=8, candidates=20, history=20, features=32),
}
FEATURE_GRADIENT = jax.jit(feature_gradient)
LIKELY = jax.jit(likely_lengthscale)
TARGETS = np.random.default_rng(0).normal(size=(CLIENTS, D)).astype(np.float32)


def objective(client: Any, x: Any) -> Any:
    """Bowls with minima of their own and different curvatures."""
    return jnp.sum((1.0 + client) * (x - jnp.asarray(TARGETS)[client]) ** 2)


def values_at(queries: Any) -> np.ndarray:
    steps = np.asarray(queries) - TARGETS[:, None, :]
    return ((1.0 + np.arange(CLIENTS))[:, None] * (steps**2).sum(axis=-1)).astype(np.float32)


@partial(jax.jit, static_argnums=0)
def _called(name: str, method: Any, *arguments: Any) -> Any:
    """A function of the method as one program, which is soon compiled and quick to call again."""
    return getattr(method, name)(*arguments)


def looped(method: Any, state: Any, rounds: int, values: Any = values_at) -> Any:
    """What :func:`play` does, with an objective outside JAX."""
    for _ in range(rounds):
        queries = _called("ask_server", method, state)
        state = _called("tell_server", method, state, queries, values(queries))
        for _ in range(method.local_steps):
            queries = _called("ask", method, state)
            state = _called("tell", method, state, queries, values(queries))
    return state


def some_queries(n: int = 12, unknown: int = 3) -> Queries:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(n, D)).astype(np.float32)
    values = (np.sin(points) @ np.arange(1.0, D + 1)).astype(np.float32)
    known = np.arange(n) >= unknown
    values[~known] = 1e6  # what is not known must not matter
    return Queries(jnp.asarray(points), jnp.asarray(values), jnp.asarray(known))


def exact(queries: Queries, lengthscale: float, noise: float, x: np.ndarray) -> tuple[np.ndarray, float]:
    """Gradient of the Gaussian process's mean and the explained part of its variance, by the formulas, in float64."""
    points = np.asarray(queries.points, float)[np.asarray(queries.known)]
    y = np.asarray(queries.values, float)[np.asarray(queries.known)]
    gram = np.exp(-((points[:, None] - points) ** 2).sum(axis=-1) / (2 * lengthscale**2)) + noise * np.eye(len(y))
    k = np.exp(-((points - x) ** 2).sum(axis=-1) / (2 * lengthscale**2))
    slopes = k[:, None] * (points - x) / lengthscale**2
    gradient = np.linalg.solve(gram, y - y.mean()) @ slopes
    return gradient, lengthscale**2 * np.trace(slopes.T @ np.linalg.solve(gram, slopes))


def test_the_surrogate_is_the_gaussian_process() -> None:
    queries, x, lengthscale, noise = some_queries(), np.full(D, 0.3), 1.5, 1e-3
    origin = jnp.full(D, 0.5)  # any

    @jax.jit
    def surrogate(x: Any) -> Any:
        process = posterior(queries, origin, jnp.asarray(lengthscale), noise)
        return mean_gradient(process, x), explained_variance(process, inverse_of(process), x)

    gradient, explained = exact(queries, lengthscale, noise, x)
    got, got_explained = surrogate(jnp.asarray(x, jnp.float32))
    assert np.allclose(got, gradient, rtol=1e-3, atol=1e-3)
    assert np.isclose(got_explained, explained, rtol=1e-3)
    assert 0 < explained < D


def test_surrogates_of_many_queries_that_are_nearly_or_quite_the_same_are_finite() -> None:
    rng = np.random.default_rng(0)
    points = (1 + 1e-2 * rng.normal(size=(300, D))).astype(np.float32)
    points[100:200] = points[:100]
    values = (points**2).sum(axis=1)
    queries = Queries(jnp.asarray(points), jnp.asarray(values), jnp.ones(300, bool))

    @jax.jit
    def surrogate(x: Any, lengthscale: Any, noise: Any, features: Any) -> Any:
        weights = feature_weights(queries, features, x, lengthscale, noise)
        return mean_gradient(posterior(queries, x, lengthscale, noise), x), weights

    gradient, weights = surrogate(jnp.ones(D), jnp.asarray(0.2), 1e-6, drawn(6000 - 1, True))
    assert np.isfinite(weights).all()
    assert np.allclose(gradient, 2, rtol=0.02)


@partial(jax.jit, static_argnums=(0, 1))
def drawn(count: int, orthogonal: bool) -> Any:
    return drawn_features(jnp.asarray(bb.key(2)), count, orthogonal, jnp.zeros(D))


def test_features_approach_the_gaussian_process_and_their_gradient_is_that_of_their_sum() -> None:
    queries, x, lengthscale, noise = some_queries(), jnp.full(D, 0.3), jnp.asarray(2.0), 1e-2
    gradient, _ = exact(queries, 2.0, noise, np.full(D, 0.3))

    @jax.jit
    def gradients(features: Any) -> Any:
        weights = feature_weights(queries, features, 0 * x, lengthscale, noise)
        mean = jax.grad(lambda x: featured(features, x / lengthscale) @ weights)
        return feature_gradient(weights, features, x, 0 * x, lengthscale), mean(x)

    for orthogonal in (False, True):
        got, by_autodiff = gradients(drawn(6000 - 1, orthogonal))
        assert np.allclose(got, by_autodiff, rtol=1e-4, atol=1e-4)
        assert np.linalg.norm(got - gradient) < 0.06 * np.linalg.norm(gradient)


def test_orthogonal_frequencies_are_orthogonal_in_blocks_with_the_lengths_of_normal_ones() -> None:
    frequencies = np.asarray(drawn(6000 - 1, True).frequencies)
    assert frequencies.shape == (6000 - 1, D)
    products = frequencies[:D] @ frequencies[:D].T
    assert np.allclose(products - np.diag(np.diag(products)), 0, atol=1e-4)
    squares = (frequencies**2).sum(axis=1)
    assert np.isclose(squares.mean(), D, rtol=0.03)
    assert np.isclose(squares.var(), 2 * D, rtol=0.1)  # of a chi square of D degrees of freedom


def test_the_lengthscale_is_the_most_likely_and_says_when_there_is_none() -> None:
    rng, found = np.random.default_rng(0), set()
    points = rng.normal(size=(40, D)).astype(np.float32)
    unit = np.sqrt(2 * points.var(axis=0).sum())
    known = jnp.ones(40, bool)
    distances = ((points[:, None].astype(float) - points) ** 2).sum(axis=-1) / unit**2
    for values in (points @ np.arange(1.0, D + 1), (points**2) @ np.arange(1.0, D + 1), rng.normal(size=40)):
        y, likelihoods = (values - values.mean()) / values.std(), []
        for multiple in (2, 4, 8):
            gram = np.exp(-distances / (2 * multiple**2)) + 1e-4 * np.eye(40)
            likelihoods.append(-20 * np.log(y @ np.linalg.solve(gram, y)) - np.linalg.slogdet(gram)[1] / 2)
        queries = Queries(jnp.asarray(points), jnp.asarray(values, jnp.float32), known)
        found.add(best := 2 ** (1 + int(np.argmax(likelihoods))))
        assert np.isclose(LIKELY(queries, 1e-4), best * unit, rtol=1e-4)
    assert len(found) > 1
    assert LIKELY(queries._replace(known=~known), 1e-4) == 0


@partial(jax.jit, static_argnums=2)
def played(method: Any, state: Any, rounds: int = 6) -> Any:
    return play(method, state, objective, rounds)


@pytest.mark.parametrize("name", ["FZooS", "SCAFFOLD I"])
def test_rounds_are_replayable_and_a_scan_is_the_loop(name: str) -> None:
    method = METHODS[name]
    start = method.init(bb.key(3), np.zeros(D, np.float32))
    state, path = played(method, start)
    assert path.shape == (6, D)
    assert np.array_equal(path[-1], method.recommend(state))
    mine = looped(method, start, 3)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(mine), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
    assert np.allclose(path[2], method.recommend(mine), atol=2e-3)
    first, again = (looped(method, start, 2) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_descends(name: str) -> None:
    def mean(x: np.ndarray) -> float:
        return float(values_at(np.broadcast_to(x, (CLIENTS, 1, D))).mean())

    method = dataclasses.replace(METHODS[name], lr=0.15)
    start = method.init(bb.key(4), np.full(D, 1.5, np.float32))
    _, path = played(method, start)
    best = np.average(TARGETS, axis=0, weights=1 + np.arange(CLIENTS))
    first, last, least = (mean(np.asarray(x)) for x in (start.x, path[-1], best))
    share = 0.3 if name in ("FedZO", "FedProx") else 0.2  # whose clients drift to their own minima
    assert last - least < share * (first - least)


def slopes_at(x: np.ndarray) -> np.ndarray:
    return 2 * (1.0 + np.arange(CLIENTS))[:, None] * (x - TARGETS)


def with_true_gradients(method: Any, state: Any, rounds: int, slopes: Any = slopes_at) -> Any:
    """Rounds in which differences along the axes are those of functions linear about each client's point."""

    def told(name: str, state: Any, x: Any) -> Any:
        queries = np.asarray(x, np.float32)[:, None] + 0.5 * np.vstack([np.zeros(D), np.eye(D)]).astype(np.float32)
        values = np.einsum("ijk,ik->ij", queries - queries[:, :1], slopes(queries[:, 0]))
        return _called(name, method, state, queries, values.astype(np.float32))

    for _ in range(rounds):
        if getattr(method, "option", "II") == "I":
            state = told("tell_server", state, np.broadcast_to(method.recommend(state), (CLIENTS, D)))
        else:
            nothing = np.zeros((CLIENTS, 0, D), np.float32)
            state = _called("tell_server", method, state, nothing, nothing[..., 0])
        for _ in range(method.local_steps):
            state = told("tell", state, state.local.x)
    return state


PLAIN = [(name, False) for name in ("FedZO", "FedProx", "SCAFFOLD I", "SCAFFOLD II")]


@pytest.mark.parametrize(("name", "adam"), [*PLAIN, ("FedZO", True)])
def test_with_true_gradients_updates_are_the_written_ones(name: str, adam: bool) -> None:
    steps, lr, proximal, server_lr = 3, 0.05, 0.7, 0.8
    settings: Any = {"clients": CLIENTS, "local_steps": steps, "lr": lr, "adam": adam, "directions": D, "mu": 0.5}
    method: Any = {
        "FedZO": lambda: FedZO(**settings),
        "FedProx": lambda: FedZO(**settings, proximal=proximal),
        "SCAFFOLD I": lambda: Scaffold(**settings, option="I", server_lr=server_lr),
        "SCAFFOLD II": lambda: Scaffold(**settings, option="II", server_lr=server_lr),
    }[name]()
    x = np.zeros(D)
    control = np.zeros((CLIENTS, D))
    for _ in range(3):
        if name == "SCAFFOLD I":
            control = slopes_at(np.tile(x, (CLIENTS, 1)))
        mean_control = control.mean(axis=0)
        after, averages = [], []
        for i in range(CLIENTS):
            y, m, v, raw = x.copy(), np.zeros(D), np.zeros(D), []
            for t in range(1, steps + 1):
                gradient = 2 * (1.0 + i) * (y - TARGETS[i])
                raw.append(gradient)
                if name == "FedProx":
                    gradient = gradient + proximal * (y - x)
                if name.startswith("SCAFFOLD"):
                    gradient = gradient - control[i] + mean_control
                if adam:
                    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
                    y = y - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
                else:
                    y = y - lr * gradient
            after.append(y)
            averages.append(np.mean(raw, axis=0))
            if name == "SCAFFOLD II" and not adam:  # the paper's form of the same
                assert np.allclose(averages[i], control[i] - mean_control + (x - y) / (steps * lr))
        if name == "SCAFFOLD II":
            control = np.array(averages)
        x = x + (server_lr if name.startswith("SCAFFOLD") else 1.0) * (np.mean(after, axis=0) - x)
    state = with_true_gradients(method, method.init(bb.key(0), np.zeros(D, np.float32)), 3)
    assert np.allclose(state.local.x, after, rtol=0, atol=2e-4)
    assert np.allclose(method.recommend(state), x, rtol=0, atol=2e-4)


def test_directions_are_uniform_on_the_sphere_and_orthogonal_where_they_should_be() -> None:
    for orthogonal in (False, True):
        v = np.asarray(
            jax.jit(partial(unit_directions, shape=(2000, 3, D), orthogonal=orthogonal, like=jnp.zeros(D)))(
                jnp.asarray(bb.key(0)), 0
            )
        )
        products = np.einsum("ijk,ilk->ijl", v, v)
        assert np.allclose(np.diagonal(products, axis1=1, axis2=2), 1, atol=1e-5)
        assert np.allclose(products, np.eye(3), atol=1e-5) == orthogonal
        assert np.abs(v.mean(axis=0)).max() < 5 / (2000 * D) ** 0.5  # no sign is likelier, of any entry
        many = v.reshape(-1, D)
        assert np.allclose(many.T @ many / len(many) * D, np.eye(D), atol=0.1)  # which makes estimates unbiased


def test_a_failed_query_is_left_out_of_differences() -> None:
    x = jnp.asarray(TARGETS)
    queries = jax.jit(lambda key: difference_queries(key, 0, x, 4, 0.1, False))(jnp.asarray(bb.key(0)))
    gradient_of = jax.jit(difference_gradient)
    values = values_at(queries)
    expected, _ = gradient_of(queries[:1, [0, 1, 3, 4]], jnp.asarray(values[:1, [0, 1, 3, 4]]))
    for bad in (np.nan, np.inf, -np.inf, 1e30):
        spoilt = values.copy()
        spoilt[0, 2] = bad
        spoilt[1, 0] = bad
        spoilt[2, 1:] = bad
        gradient, known = gradient_of(queries, jnp.asarray(spoilt))
        assert np.allclose(gradient[0], expected[0], rtol=1e-5)
        assert known.tolist() == [True, False, False]
        assert np.array_equal(gradient[1:], np.zeros((2, D)))


@pytest.mark.parametrize("name", METHODS)
def test_failures_spoil_nothing(name: str) -> None:
    method = METHODS[name]
    bad = np.array([np.nan, np.inf, -np.inf, 1e38, -1e38, 1e14], np.float32)
    rng = np.random.default_rng(0)

    def spoilt(queries: Any) -> np.ndarray:
        values = values_at(queries)
        return np.where(rng.random(values.shape) < 0.3, rng.choice(bad, values.shape), values).astype(np.float32)

    start = method.init(bb.key(0), np.zeros(D, np.float32))
    state = looped(method, start, 4, spoilt)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    nothing = looped(method, start, 2, lambda queries: np.full(np.shape(queries)[:2], np.nan, np.float32))
    assert np.array_equal(method.recommend(nothing), start.x)
    last = looped(method, nothing, 2)  # and it goes on as soon as there are values
    assert np.isfinite(last.local.x).all()
    assert not np.array_equal(method.recommend(last), start.x)


def test_numbers_that_cannot_be_had_in_float32_have_failed() -> None:
    method = METHODS["FedZO"]
    start = method.init(bb.key(0), np.zeros(D, np.float32))
    queries = np.array(_called("ask", method, start), float)
    values = values_at(queries).astype(float)
    values[0, 0], queries[1, 0] = 1e300, np.inf  # beyond float32, without a warning; and no point
    made = told_queries(queries, values, CLIENTS, None, start.x)
    odd = _called("tell", method, start, *made)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(odd))
    assert np.array_equal(odd.local.x[:2], start.local.x[:2])


def test_fzoos_remembers_the_last_queries_that_succeeded() -> None:
    method = METHODS["FZooS"]
    asked: list[np.ndarray] = []
    told: list[np.ndarray] = []

    def values(queries: Any) -> np.ndarray:
        made = values_at(queries)
        made[0, 0] = np.nan
        asked.append(np.asarray(queries))
        told.append(made)
        return made

    state = looped(method, method.init(bb.key(0), np.zeros(D, np.float32)), 3, values)
    points, made = np.concatenate(asked, axis=1)[:, -20:], np.concatenate(told, axis=1)[:, -20:]
    assert state.told == 30
    for i in range(CLIENTS):
        kept = np.isfinite(made[i])
        order = np.roll(np.arange(20), -(30 % 20))  # from the oldest slot on
        assert np.array_equal(state.queries.known[i, order], kept)
        assert np.array_equal(state.queries.points[i, order][kept], points[i][kept])
        assert np.array_equal(state.queries.values[i, order][kept], made[i][kept])


def test_fzoos_step_is_the_written_one_for_each_correction() -> None:
    noise, lr, gamma = 1e-3, 0.1, 0.8
    common = dataclasses.replace(METHODS["FZooS"], noise=noise)
    start = common.init(bb.key(5), np.full(D, 0.2, np.float32))
    queries = _called("ask_server", common, start)
    assert np.all(np.abs(queries - 0.2) <= 0.01 + 1e-6)
    start = _called("tell_server", common, start, queries, values_at(queries))
    lengthscale = float(start.lengthscale)
    for correction in ("constant", "uncertainty"):
        method = dataclasses.replace(common, correction=correction, gamma=gamma, adam=False, lr=lr)
        state = start
        for step in (1, 2):
            queries = state.local.x[:, None]
            told = _called("tell", method, state, queries, values_at(queries))
            for i in range(CLIENTS):
                x = np.asarray(queries[i, 0], float)
                known = Queries(*(leaf[i] for leaf in told.queries))
                own, explained = exact(known, lengthscale, noise, x)
                disparity = np.mean(state.weights, axis=0) - state.weights[i]
                correction_at = np.asarray(
                    FEATURE_GRADIENT(disparity, state.features, queries[i, 0], state.x, state.lengthscale)
                )
                factor = gamma
                if correction == "uncertainty":
                    at = np.asarray(known.known)
                    points, y = np.asarray(known.points, float)[at], np.asarray(known.values, float)[at]
                    gram = np.exp(-((points[:, None] - points) ** 2).sum(axis=-1) / (2 * lengthscale**2))
                    y = y - y.mean()
                    amplitude = y @ np.linalg.solve(gram + noise * np.eye(len(y)), y) / len(y)
                    error = amplitude * (D - explained) / lengthscale**2
                    size = (correction_at**2).sum()
                    factor = gamma * size / (size + error)
                    assert 0 < factor < gamma
                moved = np.asarray(told.local.x[i] - state.local.x[i]) / -lr
                assert np.allclose(moved, own + factor * correction_at, rtol=5e-3, atol=5e-3)
            assert np.array_equal(told.local.steps, np.full(CLIENTS, step))
            state = told
    inverse: Any = dataclasses.replace(common, correction="inverse", gamma=gamma)
    for step in (1, 2):  # of which one less is done
        assert np.isclose(inverse._factor(None, start.x, start.x, start.local.steps[0] + step - 1), gamma / step)


def test_corrections_vanish_for_clients_that_are_alike() -> None:
    def same(queries: Any) -> np.ndarray:
        return ((np.asarray(queries) - TARGETS[0]) ** 2).sum(axis=-1).astype(np.float32)

    x0 = np.zeros(D, np.float32)
    method = METHODS["FZooS"]
    free = dataclasses.replace(method, gamma=0.0)
    state = method.init(bb.key(0), x0)
    queries = np.tile(_called("ask_server", method, state)[:1], (CLIENTS, 1, 1))
    state = _called("tell_server", method, state, queries, same(queries))
    other = _called("tell_server", free, free.init(bb.key(0), x0), queries, same(queries))
    for _ in range(2):
        queries = np.asarray(state.local.x[:, None])
        assert np.allclose(other.local.x[:, None], queries, atol=1e-5)
        state, other = (
            _called("tell", method, state, queries, same(queries)),
            _called("tell", free, other, queries, same(queries)),
        )
    assert np.allclose(state.local.x, state.local.x[0], atol=1e-5)

    def same_slopes(x: np.ndarray) -> np.ndarray:
        return 2 * (x - TARGETS[0])

    settings: Any = {"clients": CLIENTS, "local_steps": 3, "lr": 0.05, "adam": False, "directions": D, "mu": 0.5}
    plain = FedZO(**settings)
    averaged = with_true_gradients(plain, plain.init(bb.key(0), x0), 3, same_slopes)
    for option in ("I", "II"):
        scaffold = Scaffold(**settings, option=option)
        state = with_true_gradients(scaffold, scaffold.init(bb.key(0), x0), 3, same_slopes)
        assert np.allclose(state.local.x, averaged.local.x, atol=1e-4)


def test_active_queries_are_where_the_gradient_is_most_uncertain() -> None:
    method = METHODS["FZooS"]
    state = looped(method, method.init(bb.key(1), np.zeros(D, np.float32)), 1)
    chosen = np.asarray(_called("ask_server", method, state))
    everything = dataclasses.replace(method, active=20, history=22)
    candidates = np.asarray(_called("ask_server", everything, state))
    x = np.asarray(method.recommend(state))
    for i in range(CLIENTS):
        side = max(0.01, float(np.abs(state.local.x[i] - x).mean()) / 2)
        assert np.abs(candidates[i] - x).max() <= side * (1 + 1e-4)
        queries = Queries(*(leaf[i] for leaf in state.queries))
        explained = [exact(queries, float(state.lengthscale), 1e-4, point)[1] for point in candidates[i]]
        best = candidates[i][np.argsort(explained)[:8]]
        shared = sum(any(np.array_equal(a, b) for b in chosen[i]) for a in best)
        assert shared >= 7  # rounding may exchange the last


@pytest.mark.parametrize("name", METHODS)
def test_costs_are_those_of_what_is_asked_and_sent(name: str) -> None:
    method, asked = METHODS[name], []

    def counted(queries: Any) -> np.ndarray:
        asked.append(queries.shape[1])
        return values_at(queries)

    state, cost = method.init(bb.key(0), np.zeros(D, np.float32)), method.cost(D)
    if name in ("FZooS", "SCAFFOLD I"):  # whose server asks too
        state = looped(method, state, 2, counted)
        assert sum(asked) == 2 * cost.evaluations
    sent = state.local.x[0].size  # what each method's server needs of a client
    if name.startswith("SCAFFOLD"):
        sent += state.control[0].size
    if name == "FZooS":
        sent += state.weights[0].size + state.lengthscale.size
    assert cost.sent == cost.received == sent


def test_arguments_are_checked() -> None:
    for cls in (FedZO, Scaffold, FZooS):
        for setting in ({"clients": 0}, {"local_steps": 0}, {"lr": 0.0}):
            with pytest.raises(bb.SettingError, match=f"^{next(iter(setting))} must be"):
                cls(**setting)  # type: ignore[arg-type]
    for setting, message in (
        ({"active": 9, "candidates": 8}, "candidates must be an integer >= 9, got 8"),
        ({"history": 59}, "history must be an integer >= 60, got 59"),
        ({"noise": 0.0}, "noise must be"),
        ({"gamma": -1.0}, "gamma must be"),
        ({"features": 0}, "features must be"),
        ({"lengthscale": 0.0}, "lengthscale must be"),
        ({"correction": "best"}, "correction must be one of constant, inverse, uncertainty; got 'best'"),
    ):
        with pytest.raises(bb.SettingError, match=message):
            FZooS(**setting)  # type: ignore[arg-type]
    with pytest.raises(bb.SettingError, match="option must be one of I, II; got 'III'"):
        Scaffold(option="III")  # type: ignore[arg-type]
    for cls in (FedZO, Scaffold, FZooS):
        with pytest.raises(bb.SettingError, match="adam must be True or False, got 'no'"):
            cls(adam="no")  # type: ignore[arg-type]
    with pytest.raises(bb.SettingError, match="proximal must be"):
        FedZO(proximal=-1.0)
    with pytest.raises(bb.SettingError, match="directions must be at most d = 6 where they are orthogonal, got 7"):
        FedZO(directions=7).init(bb.key(0), np.zeros(D))
    FedZO(directions=7, orthogonal=False).init(bb.key(0), np.zeros(D))
    method = METHODS["FZooS"]
    state = method.init(bb.key(0), np.zeros(D, np.float32))
    with pytest.raises(bb.SettingError, match="rounds must be an integer >= 1"):
        play(method, state, objective, 0)
    with pytest.raises(bb.TellError, match=r"queries must be points of shape \(3, 8, 6\), as asked; got"):
        method.tell_server(state, np.zeros((3, 7, D), np.float32), np.zeros((3, 7), np.float32))
    queries = np.zeros((3, 8, D), np.float32)
    with pytest.raises(bb.TellError, match=r"values must be an array of shape \(3, 8\), got float64 of shape \(8,\)"):
        method.tell_server(state, queries, np.zeros(8))
    with pytest.raises(bb.TellError, match="fitness must be an array"):
        method.tell(state, queries[:, :1], np.zeros(3))
