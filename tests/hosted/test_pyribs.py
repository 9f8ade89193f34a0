"""pyribs' emitters and archives under our interface: quality diversity, seeds, failures, journals, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blackbox as bb
from blackbox import testing
from blackbox.hosted import pyribs

pytest.importorskip("ribs")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NAMES = ["GaussianEmitter", "IsoLineEmitter", "cma_es", "sep_cma_es", "lm_ma_es", "openai_es"]
ARCHIVES = ["GridArchive", "CVTArchive", "SlidingBoundariesArchive", "ProximityArchive"]
SMALL: dict[str, Any] = {
    "emitters": 2, "batch": 8, "cells": (6, 6), "archive_settings": (), "sigma0": 0.2, "low": 0.0, "high": 1.0,
}  # fmt: skip


def build(name: str, archive: str = "GridArchive", **settings: Any) -> Any:
    more = (("samples", 500),) if archive == "CVTArchive" else ()
    return bb.create(f"pyribs:{name}", **{**SMALL, "archive": archive, "archive_settings": more, **settings})


def sphere(x: Any) -> Any:
    return np.sum((np.asarray(x) - 0.3) ** 2, axis=-1)


def run(strategy: Any, generations: int, seed: int = 0, fail: int = 0) -> tuple[Any, list[Any]]:
    state = strategy.init(bb.key(seed), np.full(8, 0.5))
    asked = []
    for _ in range(generations):
        population = strategy.ask(state)
        asked.append(population)
        values = sphere(population)
        if fail:
            values[::fail] = np.nan
        state = strategy.tell(state, population, values, population[:, 1:3])
    return state, asked


@pytest.mark.parametrize("archive", ARCHIVES)
@pytest.mark.parametrize("name", NAMES)
def test_every_emitter_fills_every_archive(name: str, archive: str) -> None:
    strategy = build(name, archive)
    state, asked = run(strategy, 15)
    assert np.min(asked) >= 0 and np.max(asked) <= 1
    assert np.array_equal(asked, run(build(name, archive), 15)[1])
    assert not np.array_equal(asked, run(strategy, 15, seed=1)[1])
    filled = strategy.filled(state)
    assert len(filled) > 8
    found = filled.data(return_type="dict")
    assert np.allclose(found["objective"], -sphere(found["solution"]))
    assert np.allclose(found["measures"], np.asarray(found["solution"])[:, 1:3])
    assert sphere(strategy.recommend(state)) == np.min(sphere(np.concatenate(asked)))


@pytest.mark.parametrize("name", NAMES)
def test_failed_members_enter_no_archive(name: str) -> None:
    strategy = build(name)
    state, asked = run(strategy, 8, fail=3)
    told = np.concatenate([np.delete(rows, np.s_[::3], axis=0) for rows in asked])
    found = np.asarray(strategy.filled(state).data("solution"))
    assert len(found) > 4
    assert all((row == told).all(axis=1).any() for row in found)


@pytest.mark.parametrize("name", ["cma_es", "IsoLineEmitter"])
def test_states_are_asked_again_by_another_object(name: str) -> None:
    strategy, other = build(name), build(name)
    state = strategy.init(bb.key(0), np.full(8, 0.5))
    states, asked = [], []
    for _ in range(6):
        states.append(state)
        asked.append(strategy.ask(state))
        state = strategy.tell(state, asked[-1], sphere(asked[-1]), asked[-1][:, 1:3])
    for old, population in zip(reversed(states), reversed(asked), strict=True):
        assert np.array_equal(other.ask(old), population)
    elsewhere = strategy.tell(states[-1], asked[-1], sphere(asked[-1]), asked[-1][:, :2])
    assert not np.array_equal(elsewhere.mark, state.mark)  # descriptors are a part of what was told


@pytest.mark.parametrize("name", ["cma_es", "GaussianEmitter"])
@pytest.mark.parametrize(
    "check",
    [
        testing.check_ask_is_pure,
        testing.check_replayable,
        testing.check_total_on_fitness,
        testing.check_nan_ranks_last,
        testing.check_further_members,
        testing.check_improves_with_failures,
    ],
    ids=lambda c: c.__name__.removeprefix("check_"),
)
def test_law_holds(name: str, check: testing.Check) -> None:
    check(build(name), np.full(3, 0.8))


@pytest.mark.parametrize("name", NAMES)
def test_other_numbers_of_rows_are_taken(name: str) -> None:
    strategy = build(name)
    state, asked = run(strategy, 3)
    rows = np.concatenate(asked)
    for n in (2, 40):
        told = strategy.tell(state, rows[:n], sphere(rows[:n]), rows[:n, 1:3])
        assert strategy.ask(told).shape == (16, 8)


@pytest.mark.parametrize("name", ["sep_cma_es", "GaussianEmitter"])
def test_an_interrupted_run_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    settings = {key: value for key, value in SMALL.items() if key not in ("low", "high", "sigma0")}

    def course(optimizer: bb.Optimizer, evaluations: int) -> list[Any]:
        points = []
        while optimizer.evaluations < evaluations:
            candidate = optimizer.ask()
            points.append(candidate.x)
            optimizer.tell(candidate, float("nan") if len(points) % 7 == 1 else float(sphere(candidate.x)))
        return points

    box = bb.Box(0, 1, 3)
    whole = course(bb.Optimizer(box, f"pyribs:{name}", seed=5, **settings), 70)
    with bb.Optimizer(box, f"pyribs:{name}", seed=5, journal=tmp_path / "run.db", **settings) as optimizer:
        begun = course(optimizer, 35)
    with bb.Optimizer.resume(tmp_path / "run.db") as optimizer:
        assert np.array_equal(whole, begun + course(optimizer, 70))


def test_wrong_settings_are_named() -> None:
    assert pyribs.names() == sorted(NAMES)
    with pytest.raises(bb.SettingError, match="did you mean 'cma_es'"):
        bb.create("pyribs:cmaes")
    with pytest.raises(bb.SettingError, match="archive must be one of GridArchive"):
        build("cma_es", "Grid")
    with pytest.raises(bb.SettingError, match="cells must be one number, or one for each of 2 ranges"):
        build("cma_es", cells=(3, 3, 3))
    strategy = build("lm_ma_es")
    with pytest.raises(bb.SettingError, match=r"pyribs:lm_ma_es takes no such settings.*batch_size \(8\) is greater"):
        strategy.ask(strategy.init(bb.key(0), np.zeros(3)))
    strategy = build("cma_es", emitter_settings=(("rankr", "imp"),))
    with pytest.raises(bb.SettingError, match=r"pyribs:cma_es takes no such settings.*rankr"):
        strategy.ask(strategy.init(bb.key(0), np.zeros(3)))
    strategy = build("cma_es", emitter_settings=(("ranker", "imp"), ("restart_rule", "basic")))
    state = strategy.init(bb.key(0), np.zeros(3))
    population = strategy.ask(state)
    with pytest.raises(bb.TellError, match="descriptors must be 2 real numbers for each of 16 rows"):
        strategy.tell(state, population, sphere(population), population)
