"""run(): scanned, vmapped and looped runs agree; history and stopping are right."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.kernels.noise import fold_many


def ellipsoid(x: Any) -> Any:
    return (x * x * 10.0 ** (3 * np.arange(x.shape[0]) / (x.shape[0] - 1))).sum()


STRATEGY = bb.create("cma-es", sigma0=0.5)


def test_numpy_loop_and_jax_scan_agree_in_float64() -> None:
    state, history = bb.run(STRATEGY, ellipsoid, np.ones(5), key=bb.key(1), generations=20)
    with jax.enable_x64(True):
        traced, scanned = bb.run(STRATEGY, ellipsoid, jnp.ones(5), key=bb.key(1), generations=20)
        assert_allclose(scanned.best, history.best, rtol=1e-6)
        assert_allclose(traced.mean, state.mean, rtol=1e-6)
        assert_allclose(scanned.quantiles, history.quantiles, rtol=1e-6)
        assert int(scanned.evaluations) == int(history.evaluations) == 20 * 8


def test_a_run_does_not_depend_on_the_number_of_runs() -> None:
    with jax.enable_x64(True):
        few = bb.run(STRATEGY, ellipsoid, jnp.ones(4), key=bb.key(2), generations=30, runs=2)[1]
        many = bb.run(STRATEGY, ellipsoid, jnp.ones(4), key=bb.key(2), generations=30, runs=5)[1]
        assert few.best.shape == (2, 30)
        assert few.x_best.shape == (2, 4)
        assert_allclose(many.best[:2], few.best, rtol=1e-9)
        alone = bb.run(STRATEGY, ellipsoid, jnp.ones(4), key=bb.fold(bb.key(2), 1), generations=30)[1]
        assert_allclose(alone.best, few.best[1], rtol=1e-9)


def test_several_runs_without_jax_equal_single_runs() -> None:
    starts = np.stack([np.ones(4), np.zeros(4) - 1])
    together = bb.run(STRATEGY, ellipsoid, starts, key=bb.key(3), generations=np.array([5, 9]), runs=2)[1]
    for i, generations in enumerate((5, 9)):
        alone = bb.run(STRATEGY, ellipsoid, starts[i], key=bb.fold(bb.key(3), i), generations=generations)[1]
        assert_array_equal(together.best[i, :generations], alone.best)
        assert together.evaluations[i] == alone.evaluations
    assert np.all(together.best[0, 5:] == together.best[0, 4])


def test_each_run_has_its_own_budget() -> None:
    history = bb.run(STRATEGY, ellipsoid, jnp.ones(4), key=bb.key(3), generations=np.array([5, 9]), runs=2)[1]
    assert history.evaluations.tolist() == [5 * 8, 9 * 8]
    assert np.isnan(history.quantiles[0, 5:]).all()


def test_stopped_runs_freeze() -> None:
    for x0 in (np.ones(3, np.float32), jnp.ones(3)):
        state, history = bb.run(STRATEGY, lambda x: (x * x).sum(), x0, key=bb.key(4), generations=800)
        assert int(history.evaluations) < 800 * 7
        assert any(bool(reason) for reason in STRATEGY.stop(state).values())
        assert history.best.shape == (800,)


def test_objectives_that_jax_cannot_trace_run_in_a_loop() -> None:
    calls = []

    def objective(x: Any) -> float:
        calls.append(1)
        return float(x @ x)

    history = bb.run(STRATEGY, objective, jnp.ones(4), key=bb.key(5), generations=7)[1]
    # One attempt to trace comes before the 7 generations of 8 members.
    assert len(calls) == 1 + 7 * 8 == 1 + int(history.evaluations)


@pytest.mark.parametrize("x0", [np.ones(4), jnp.ones(4)], ids=["loop", "scan"])
def test_callback_sees_every_generation_and_can_end_the_run(x0: Any) -> None:
    seen: list[tuple[int, float]] = []

    def callback(generation: int, best: float) -> bool:
        seen.append((generation, float(best)))
        return generation >= 60

    history = bb.run(STRATEGY, ellipsoid, x0, key=bb.key(6), generations=200, callback=callback)[1]
    assert [g for g, _ in seen] == list(range(len(history.best)))
    assert_allclose([b for _, b in seen], history.best)
    assert len(seen) in (61, 100)  # a scanned run ends with its block of 50


def test_best_point_and_value_belong_together_despite_failures() -> None:
    def objective(x: Any) -> Any:
        return jnp.where(x[0] > 0.9, jnp.nan, ellipsoid(x))

    history = bb.run(STRATEGY, objective, jnp.ones(3), key=bb.key(7), generations=40)[1]
    assert_allclose(ellipsoid(history.x_best), history.best[-1], rtol=1e-5)
    assert np.all(np.diff(history.best) <= 0)


def test_equal_runs_compile_once() -> None:
    traces = []

    def objective(x: Any) -> Any:
        traces.append(1)
        return (x * x).sum()

    for seed in range(3):
        bb.run(STRATEGY, objective, jnp.ones(3), key=bb.key(seed), generations=5)
    # Once to see whether it can be traced, for each run, and once for the only compilation.
    assert len(traces) <= 3 + 1
    traces.clear()
    # A start of JAX's weak type, as jnp.full makes it, is no other program; nor are further blocks of a run.
    settings = {"generations": 120, "runs": 5, "callback": lambda *_: False}
    bb.run(bb.cbo.CBO(), objective, jnp.full(3, 1.0), key=bb.key(3), **settings)
    assert len(traces) == 1


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, x: Any) -> Any:
        return (x * x).sum()


@pytest.mark.parametrize("name", ["cma-es", "pgpe", "l-shade", "nelder-mead", "random"])
@pytest.mark.parametrize("library", [np, jnp], ids=["loop", "scan"])
def test_objectives_may_count(name: str, library: Any) -> None:
    for objective in (lambda x: (x > 0.7).sum(), lambda x: int((x > 0.7).sum()), lambda x: (x > 0.7).any()):
        x0 = library.full((3,), 0.8, dtype=library.float32)
        history = bb.run(bb.create(name), objective, x0, key=bb.key(0), generations=12)[1]
        assert float(history.best[-1]) in (0.0, 1.0)


def test_objectives_may_have_another_precision_than_the_points() -> None:
    with jax.enable_x64(True):
        for name in ("cma-es", "snes", "l-shade"):
            x0 = jnp.full((3,), 0.8, dtype=jnp.float32)
            state, history = bb.run(
                bb.create(name), lambda x: (x.astype(float) ** 2).sum(), x0, key=bb.key(0), generations=3
            )
            assert bb.create(name).ask(state).dtype == history.best.dtype == jnp.float32


@pytest.mark.parametrize(
    "objective",
    [Unhashable(), lambda x: (x[x > 0] ** 2).sum(), lambda x: sum(value**2 for value in x.tolist())],
    ids=["unhashable", "boolean-index", "list"],
)
def test_objectives_of_any_kind_run_from_jax_arrays(objective: Any) -> None:
    history = bb.run(STRATEGY, objective, jnp.ones(3), key=bb.key(0), generations=5)[1]
    assert history.best[-1] < history.best[0]


@pytest.mark.parametrize(
    ("objective", "got"),
    [
        (lambda x: x[:1], r"an array of shape \(1,\)"),
        (lambda x: (x.sum(), 1.0), "a tuple"),
        (lambda x: None, "values of type object"),
        (lambda x: 1j * x.sum(), "values of type complex128"),
    ],
)
def test_objectives_that_return_no_number_are_named(objective: Any, got: str) -> None:
    with pytest.raises(bb.SettingError, match=f"objective must return one real number per point; it returned {got}"):
        bb.run(STRATEGY, objective, np.ones(3), key=bb.key(0), generations=2)


def test_programs_of_former_objectives_are_forgotten() -> None:
    from blackbox.runner import _programs

    kept = _programs.cache_info().maxsize
    assert kept is not None and kept <= 32
    for i in range(3):
        bb.run(bb.create("random"), lambda x, i=i: x.sum() + i, jnp.ones(2), key=bb.key(0), generations=1)
    assert _programs.cache_info().currsize <= kept


def test_the_program_of_many_runs_does_not_grow_with_their_number() -> None:
    from blackbox.runner import _programs

    def objective(x: Any) -> Any:
        return (x * x).sum()

    start = _programs(objective, single=False)[0]
    for key in (bb.key(0), jnp.asarray(bb.key(0))):
        keys = fold_many(key, 1000)
        assert_array_equal(keys[:20], [bb.fold(bb.key(0), i) for i in range(20)])
        sizes = {len(start.lower(STRATEGY, jnp.ones((m, 3)), keys[:m]).as_text().splitlines()) for m in (2, 1000)}
        assert len(sizes) == 1
        making = {len(str(jax.make_jaxpr(lambda k, m=m: fold_many(k, m))(jnp.asarray(key)))) for m in (100, 900)}
        assert len(making) == 1


@pytest.mark.parametrize("library", [np, jnp], ids=["loop", "scan"])
def test_callback_is_not_called_once_all_runs_are_frozen(library: Any) -> None:
    seen: list[int] = []
    x0 = library.ones(2, dtype=library.float32)
    bb.run(STRATEGY, ellipsoid, x0, key=bb.key(0), generations=900, callback=lambda g, _: seen.append(g))
    history = bb.run(STRATEGY, ellipsoid, x0, key=bb.key(0), generations=900)[1]
    frozen = np.isnan(np.asarray(history.quantiles)[:, 0])
    assert frozen[-1] and seen == np.flatnonzero(~frozen).tolist()


def test_hyperparameters_can_be_vmapped_over_whole_runs() -> None:
    def best(sigma0: Any) -> Any:
        strategy = dataclasses.replace(STRATEGY, sigma0=sigma0)
        return bb.run(strategy, ellipsoid, jnp.ones(3), key=bb.key(0), generations=5)[1].best[-1]

    swept = jax.vmap(best)(jnp.array([0.1, 0.5]))
    assert_allclose(swept, [best(0.1), best(0.5)], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x0": np.ones((2, 2))}, r"x0 must have shape \(d,\), got \(2, 2\)"),
        ({"runs": 3, "x0": np.ones((2, 2))}, r"x0 must have shape \(d,\) or \(3, d\), got \(2, 2\)"),
        ({"runs": 0}, "runs must be None or an integer >= 1, got 0"),
        ({"x0": [1.0, 2.0]}, r"x0 must be an array of shape \(d,\), got \[1.0, 2.0\]"),
        ({"x0": np.array([1, 2])}, "x0 must be floating-point numbers .* got int64 of shape"),
        ({"x0": jnp.array([1, 2])}, "x0 must be floating-point numbers .* got int32 of shape"),
        ({"key": 0}, r"key must be two uint32 words, as made by bb.key\(seed\); got 0"),
        ({"key": jax.random.key(0), "x0": jnp.ones(2)}, "key must be two uint32 words"),
        ({"strategy": "cma-es"}, r"strategy must be one as made by bb.create\(name\), got 'cma-es'"),
        ({"strategy": type(STRATEGY)}, "strategy must be one as made by bb.create"),
        ({"generations": 0}, "generations must be an integer >= 1, got 0"),
        ({"generations": 2.5}, "generations must be an integer >= 1, got 2.5"),
        ({"runs": 2, "generations": np.array([1, 2, 3])}, "generations must be an integer, or 2 integers, >= 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    defaults = {"strategy": STRATEGY, "x0": np.ones(3), "key": bb.key(0), "generations": 3}
    with pytest.raises(bb.SettingError, match=message):
        bb.run(objective=ellipsoid, **{**defaults, **arguments})  # type: ignore[arg-type]


def test_strategies_made_before_jax_is_imported_work() -> None:
    code = (
        "import blackbox as bb, numpy as np, sys\n"
        "s = bb.create('cma-es')\n"
        "bb.run(s, lambda x: float(x @ x), np.ones(3), key=bb.key(0), generations=3)\n"
        "assert 'jax' not in sys.modules\n"
        "import jax, jax.numpy as jnp\n"
        "print(bb.run(s, lambda x: x @ x, jnp.ones(3), key=bb.key(0), generations=3)[1].evaluations)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "21"
