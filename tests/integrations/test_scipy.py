"""blackbox's methods within scipy.optimize.minimize."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import blackbox as bb

pytest.importorskip("scipy")

from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, OptimizeWarning, minimize, rosen

from blackbox.integrations.line import Line


@pytest.mark.parametrize("bounds", [None, [(-5, 5)] * 3, [(-5, None), (None, 5), (None, None)], Bounds(-2, 3)])
@pytest.mark.parametrize("method", ["cma-es", "nelder-mead", "sep-cma-es"])
def test_finds_the_minimum(method: str, bounds: Any) -> None:
    result = minimize(
        lambda x: float(((x - 1) ** 2).sum()),
        np.zeros(3),
        method=bb.scipy_method(method, seed=0),
        bounds=bounds,
        options={"maxfev": 1500, "target": 1e-8},
    )
    assert isinstance(result, OptimizeResult)
    assert result.success and result.status == 0 and "target" in result.message
    assert result.x == pytest.approx(np.ones(3), abs=1e-3)
    assert 0 < result.nit < result.nfev <= 1500


def test_unbounded_coordinates_reach_far() -> None:
    result = minimize(
        lambda x: float(((x - 1000) ** 2).sum()), [0.0, 1.0], method=bb.scipy_method("cma-es", seed=1),
        options={"maxfev": 3000, "target": 1e-6},
    )  # fmt: skip
    assert result.x == pytest.approx([1000, 1000], abs=0.01)


def test_the_objective_sees_its_arguments_and_points_within_bounds() -> None:
    low, high = np.array([-1.0, 0.0, -np.inf]), np.array([2.0, np.inf, 0.5])
    seen = []

    def objective(x: Any, shift: float, scale: float) -> Any:
        seen.append(x)
        x = x.copy()
        return np.array([scale * ((x - shift) ** 2).sum()])

    result = minimize(
        objective, [0.5, 3.0, -1.0], args=(5.0, 2.0), method=bb.scipy_method("cma-es", seed=0),
        bounds=Bounds(low, high), options={"maxfev": 400},
    )  # fmt: skip
    assert len(seen) == result.nfev == 400
    assert all(((low <= x) & (x <= high)).all() for x in seen)
    assert result.fun == min(2.0 * ((x - 5.0) ** 2).sum() for x in seen)
    assert result.x == pytest.approx([2, 5, 0.5], abs=0.2)
    assert result.success and result.status == 1 and "maxfev" in result.message
    assert (seen[0] == [0.5, 3.0, -1.0]).all()


def test_the_seed_decides() -> None:
    def run(seed: int) -> Any:
        return minimize(rosen, [0.0, 0.0], method=bb.scipy_method("cma-es", seed=seed), options={"maxfev": 100})

    assert run(3).fun == run(3).fun
    assert (run(3).x == run(3).x).all()
    assert run(3).fun != run(4).fun


def test_fixed_coordinates_stay() -> None:
    method = bb.scipy_method("cma-es", seed=0)
    result = minimize(rosen, [1.0, 2.0], method=method, bounds=[(0, 2), (2, 2)], options={"maxfev": 300})
    assert result.x[1] == 2.0 and result.x[0] == pytest.approx(2**0.5, abs=0.05)
    result = minimize(rosen, [1.0, 2.0], method=method, bounds=[(1, 1), (2, 2)])
    assert result.nfev == 1 and result.success and (result.x == [1, 2]).all()


def test_callbacks_of_both_forms_may_end_the_run() -> None:
    points, results = [], []

    def by_point(xk: Any) -> None:
        points.append(xk)

    def by_result(intermediate_result: Any) -> None:
        results.append(intermediate_result)
        if len(results) == 3:
            raise StopIteration

    method = bb.scipy_method("cma-es", seed=0)
    full = minimize(rosen, [0.0, 0.0], method=method, callback=by_point, options={"maxiter": 7})
    assert len(points) == 7 == full.nit and full.status == 1 and (points[-1] == full.x).all()
    ended = minimize(rosen, [0.0, 0.0], method=method, callback=by_result)
    assert ended.nit == 3 and ended.status == 99 and not ended.success
    assert [r.fun for r in results] == sorted((r.fun for r in results), reverse=True)


def test_tolerance_ends_the_run() -> None:
    method = bb.scipy_method("cma-es", seed=0, restarts="none")
    result = minimize(lambda x: float(x @ x), [1.0, 1.0], method=method, tol=1e-3, options={"maxfev": 5000})
    assert result.success and result.status == 0 and result.nfev < 1000 and result.fun < 1e-3


def test_values_that_are_not_finite() -> None:
    method = bb.scipy_method("cma-es", seed=0)
    result = minimize(lambda x: float("nan") if x[0] < 0 else float(x @ x), [-0.1, 1.0], method=method)
    assert result.success and result.fun < 0.1
    with pytest.warns(RuntimeWarning):
        result = minimize(lambda x: float("nan"), [0.0, 1.0], method=method)
    assert not result.success and "finite" in result.message


def test_what_is_not_used_is_said() -> None:
    method = bb.scipy_method("cma-es", seed=0)
    with pytest.warns(RuntimeWarning, match="jac"):
        minimize(rosen, [0.0, 0.0], method=method, jac=lambda x: x, options={"maxfev": 5})
    with pytest.warns(OptimizeWarning, match="gtol"):
        minimize(rosen, [0.0, 0.0], method=method, options={"maxfev": 5, "gtol": 1})
    with pytest.warns(OptimizeWarning, match="x0"):
        minimize(rosen, [9.0, 0.0], method=method, bounds=[(-1, 1)] * 2, options={"maxfev": 5})
    with pytest.raises(bb.SettingError, match="constraints"):
        minimize(rosen, [0.0, 0.0], method=method, constraints=LinearConstraint([1, 1], 0, 1))
    with pytest.raises(bb.SettingError, match="maxfev"):
        minimize(rosen, [0.0, 0.0], method=method, options={"maxfev": 0})
    with pytest.raises(bb.SpaceError, match="bounds"):
        minimize(rosen, [0.0, 0.0], method=method, bounds=[(1, -1)] * 2)
    with pytest.raises(bb.SettingError, match="method"):
        minimize(rosen, [0.0, 0.0], method=bb.scipy_method("nope"))


def test_disp_prints(capsys: pytest.CaptureFixture[str]) -> None:
    minimize(rosen, [0.0, 0.0], method=bb.scipy_method(seed=0), options={"maxfev": 5, "disp": True})
    assert "after 5 evaluations" in capsys.readouterr().out


def test_open_coordinates_go_on_beyond_the_cube_and_back() -> None:
    low, high = np.array([0.0, -np.inf, 2.0]), np.array([1.0, np.inf, np.inf])
    line = Line(low, high, np.array([0.5, 10.0, 3.0]), np.array([0.3, 3.0, 0.9]))
    assert line.decode(np.array([0.5, 0.5, 0.5])) == pytest.approx([0.5, 10.0, 3.0])
    assert line.decode(np.array([1.25, 2.0, 0.5]))[:2] == pytest.approx([0.75, 10 + 1.5 * 15.0])
    rows = np.random.default_rng(0).normal(0.5, 2.0, (100, 3))
    points = np.array(line.decode_many(rows))
    assert (points[:, 0] <= 1).all() and (points[:, 0] >= 0).all() and (points[:, 2] >= 2).all()
    again = np.array([line.decode(line.encode(point)) for point in points])
    assert again == pytest.approx(points)
