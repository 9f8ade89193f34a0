"""Journals read back: every point again, the counts, the best, and which variables matter."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from blackbox.errors import JournalError
from blackbox.journal import Journal
from blackbox.minimizer import minimize
from blackbox.optimizer import Optimizer
from blackbox.reporting import tables
from blackbox.reporting.axes import Axis, axes
from blackbox.reporting.importance import importance, rank
from blackbox.reporting.report import Report, jsonable, outcome
from blackbox.shell.replay import replay
from blackbox.space import Bool, Box, Choice, Float, Int, Permutation, Space

MIXED = Space(
    {
        "lr": Float(1e-5, 1.0, log=True),
        "depth": Int(1, 6),
        "flag": Bool(),
        "order": Permutation(["a", "b", "c"]),
        "kernel": Choice({"rbf": Space({"gamma": Float(-1, 1)}), "poly": Space({"gamma": Float(0, 5)}), "no": None}),
    }
)  # fmt: skip


def comparable(x: Any) -> Any:
    return x.tolist() if isinstance(x, np.ndarray) else x


def told_at_random(path: Path, method: str, space: Any, seed: int, count: int = 150) -> list[tuple[Any, ...]]:
    """Ask and tell in every allowed way; what was told, in order."""
    rng = random.Random(seed)
    told = []
    with Optimizer(space, method, seed=seed, journal=path) as optimizer:
        out: list[Any] = []
        while len(told) < count:
            out += optimizer.ask(rng.randint(1, 9))
            rng.shuffle(out)
            while len(out) > rng.randint(0, 12):
                if rng.random() < 0.05:
                    x = optimizer.space.decode(np.array([rng.random() for _ in range(optimizer.space.dimension)]))
                    optimizer.tell(x, value := rng.random())
                    told.append((comparable(x), value, "ok", ""))
                elif rng.random() < 0.2:
                    optimizer.fail(candidate := out.pop(), "why\nnot", status="timeout")
                    told.append((comparable(candidate.x), None, "timeout", "why\nnot"))
                else:
                    batch = [out.pop() for _ in range(min(len(out), rng.randint(1, 4)))]
                    values = [rng.choice([rng.random(), math.inf]) for _ in batch]
                    optimizer.tell(batch, values, seconds=0.5)
                    told += [(comparable(c.x), c.value, c.status, "") for c in batch]
    return told


@pytest.mark.parametrize("method", ["cma-es", "nelder-mead", "sobol"])
@pytest.mark.parametrize("space", [Box(-1, 2, 3), MIXED], ids=["box", "mixed"])
@pytest.mark.parametrize("seed", range(3))
def test_replay_gives_every_point_as_it_was_evaluated(tmp_path: Path, method: str, space: Any, seed: int) -> None:
    told = told_at_random(tmp_path / "run.db", method, space, seed)
    with Journal.open(tmp_path / "run.db", read_only=True) as journal:
        found = [(comparable(e.candidate.x), e.candidate.value, e.candidate.status, e.reason) for e in replay(journal)]
    found = [(x, None if math.isnan(value) else value, *rest) for x, value, *rest in found]
    assert found == told


def test_replay_follows_restarts(tmp_path: Path) -> None:
    def flat(x: Any) -> float:
        points.append(x.tolist())
        return float(np.round(x @ x, 2))

    points: list[Any] = []
    result = minimize(flat, Box(-1, 1, 2), method="cma-es", budget=1500, seed=0, journal=tmp_path / "run.db")
    assert result.optimizer.n_restarts > 0
    with Journal.open(tmp_path / "run.db", read_only=True) as journal:
        assert [e.candidate.x.tolist() for e in replay(journal)] == points


def run(path: Path, direction: Any = "minimize", **settings: Any) -> Report:
    """Twenty evaluations of a parabola, of which the first has failed."""
    calls = []

    def objective(x: Any) -> float:
        calls.append(x)
        if len(calls) == 1:
            raise ValueError("the first one\nalways fails")
        return -((x["a"] - 1) ** 2) if direction == "maximize" else (x["a"] - 1) ** 2

    space = Space({"a": Float(-5, 5), "b": Choice(["x", "y"])})
    minimize(
        objective, space, **{"method": "cma-es", "budget": 20, "seed": 1}, direction=direction, journal=path, **settings
    )
    return Report.read(path)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_best_is_the_optimizers(tmp_path: Path, direction: Any) -> None:
    report = run(tmp_path / "run.db", direction)
    with Optimizer.resume(tmp_path / "run.db") as optimizer:
        best = optimizer.best
    facts = report.facts()
    assert (facts["best"]["id"], facts["best"]["value"], facts["best"]["x"]) == (list(best.id), best.value, best.x)
    values = [report.sign * report.evaluations[i].candidate.value for i in report.ranking]
    assert values == sorted(values)
    assert len(values) == 19


def test_facts_are_counts_settings_and_the_last_budget(tmp_path: Path) -> None:
    facts = run(tmp_path / "run.db", popsize=7).facts()
    assert facts["statuses"] == {"ok": 19, "failed": 1}
    assert facts["evaluations"] == facts["budget"] == 20
    assert facts["hyperparameters"] == {"popsize": 7}
    assert facts["seconds"] > 0
    with Optimizer.resume(tmp_path / "run.db") as optimizer:
        optimizer.budget = 33
    assert Report.read(tmp_path / "run.db").budget == 33
    with Optimizer.resume(tmp_path / "run.db") as optimizer:
        optimizer.budget = None
    assert Report.read(tmp_path / "run.db").budget is None


def test_a_run_in_progress_can_be_read(tmp_path: Path) -> None:
    with Optimizer(Box(0, 1, 2), seed=0, journal=tmp_path / "run.db") as optimizer:
        assert Report.read(tmp_path / "run.db").evaluations == []
        optimizer.tell(optimizer.ask(), 1.0)
        assert len(Report.read(tmp_path / "run.db").evaluations) == 1
        optimizer.tell(optimizer.ask(), 2.0)  # and reading has not disturbed the writer


def test_json_is_strict_and_holds_every_point(tmp_path: Path) -> None:
    report = run(tmp_path / "run.db")
    data = json.loads(json.dumps(jsonable(report.to_json()), allow_nan=False))
    assert len(data["points"]) == 20
    assert data["points"][0]["value"] is None
    assert data["points"][0]["status"] == "failed"
    assert "always fails" in data["points"][0]["reason"]
    assert [point["number"] for point in data["points"]] == list(range(1, 21))
    assert Space.from_dict(data["space"]) == report.settings.space


def test_jsonable_takes_arrays_and_what_is_not_finite() -> None:
    value = {"x": np.array([1.0, math.nan]), "n": np.int64(3), "t": (np.float32(0.5), -math.inf), "s": None}
    assert jsonable(value) == {"x": [1.0, None], "n": 3, "t": [0.5, None], "s": None}


def test_other_versions_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run(tmp_path / "run.db")
    assert report.doubt == ""
    monkeypatch.setattr("blackbox.reporting.report.fingerprint", lambda method: {"blackbox": "9.9", "numpy": "3"})
    assert "read under blackbox 9.9 numpy 3" in report.doubt
    assert report.doubt in tables.settings_of(report).values()


def test_no_journal_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"nothing\.db"):
        Report.read(tmp_path / "nothing.db")


# ---- tables


def printed(renderables: Any, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"), markup=False, highlight=False)  # noqa: SIM115
    for renderable in renderables:
        console.print(renderable)
    console.file.close()
    return console.export_text()


def test_tables_show_settings_the_best_and_the_failures(tmp_path: Path) -> None:
    report = run(tmp_path / "run.db")
    text = printed(tables.show_tables(report, 5))
    best = report.facts()["best"]
    for part in ("cma-es", "20 (19 ok, 1 failed)", repr(best["x"]["a"]), "The best 5", "ValueError: the first one"):
        assert part in text
    assert "always fails" not in text  # only the first line of a reason


def test_what_a_journal_holds_cannot_steer_the_terminal(tmp_path: Path) -> None:
    space = Space({"[red]a[/red]": Float(0, 1), "\x1b[31mb": Choice(["\x1b]0;title\x07", "[bold]"])})
    with Optimizer(space, "random", seed=0, journal=tmp_path / "run.db") as optimizer:
        optimizer.tell(optimizer.ask(8), [1.0] * 8)
        optimizer.fail(optimizer.ask(), "[link]\x1b[2J")
    text = printed(tables.show_tables(Report.read(tmp_path / "run.db"), 5))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]a[/red]" in text
    assert "[bold]" in text
    assert "[link]" in text


def test_points_of_many_variables_are_shortened(tmp_path: Path) -> None:
    with Optimizer(Box(0, 1, 50), "random", seed=0, journal=tmp_path / "run.db") as optimizer:
        optimizer.tell(optimizer.ask(3), [1.0, 2.0, 3.0])
    columns, rows = tables.best_rows(Report.read(tmp_path / "run.db"), 2)
    assert columns == ["#", "value", "seconds", "point"]
    assert all(row[-1].startswith("x0=") and len(row[-1]) <= 100 for row in rows)


@pytest.mark.parametrize("width", [200, 100, 60, 44])
def test_no_number_and_no_name_is_broken_however_narrow_the_terminal(width: int) -> None:
    columns = ["name", "a long heading", "value", "words"]
    rows = [["gradient_boosting_wine", -1.23456e-200, 123456.0, "several words that may be broken"], ["b", 1.5, 2, "c"]]
    lines = printed([tables.table("Title", columns, rows)], width).splitlines()
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    assert {"gradient_boosting_wine", "-1.23456e-200", "123456", "several"} <= words


def test_outcome_of_a_call_says_how_evaluations_ended_and_why_it_stopped() -> None:
    from blackbox.task import Task

    result = minimize(lambda x: float("nan"), Box(0, 1, 2), method="random", budget=4, seed=0)
    task = Task("f", abs, Box(0, 1, 2), {})
    facts = outcome(result.optimizer, task, {"failed": 4}, 0.5, result.stopped)
    assert facts["x"] is None
    assert facts["failures"] == 4
    text = printed(tables.outcome_tables(facts))
    assert text.startswith("No evaluation had a value\nRun\n")  # and no empty table
    assert "4 (4 failed) in 0.5 s" in text
    assert "4 evaluations are done" in text
    resumed = outcome(result.optimizer, task, {"ok": 1, "timeout": 1}, 0.5, result.stopped)
    assert "4 (2 of them now: 1 ok, 1 timeout) in 0.5 s" in printed(tables.outcome_tables(resumed))


# ---- axes and importance


def test_axes_cover_every_variable_and_map_bounds_to_0_and_1() -> None:
    found = axes(MIXED)
    assert [axis.name for axis in found] == ["lr", "depth", "flag", "order", "order", "order", "kernel", "gamma"]
    for axis in found:
        assert axis.position(axis.low) == 0
        assert axis.position(axis.high) == pytest.approx(1)
    lr, _, flag, first, second, _, kernel, gamma = found
    assert lr.position(10**-2.5) == pytest.approx(0.5)
    assert (gamma.low, gamma.high) == (-1, 5)  # of both branches
    x = {"lr": 0.1, "depth": 3, "flag": True, "order": ["b", "c", "a"], "kernel": "no"}
    assert (flag.number(x), first.number(x), second.number(x), kernel.number(x)) == (1, 2, 0, 2)
    assert math.isnan(gamma.number(x))


def test_axis_of_branches_of_different_kinds_is_total() -> None:
    space = Space({"k": Choice({"a": Space({"v": Float(0, 1)}), "b": Space({"v": Choice(["x", "y"])})})})
    _, axis = axes(space)
    assert axis.number({"k": "b", "v": "y"}) == 1
    assert math.isnan(axis.number({"k": "a", "v": 0.3}))


def test_very_long_permutations_have_no_axes() -> None:
    assert axes(Space({"order": Permutation(200), "a": Float(0, 1)})) == [Axis("a", 0.0, 1.0)]


def test_rank_shares_ties() -> None:
    assert rank(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]


def sampled(path: Path, value: Any, method: str = "random", count: int = 150) -> Report:
    minimize(lambda x: value(x), MIXED, method=method, budget=count, seed=3, journal=path)
    return Report.read(path)


VALUES = {
    "lr": lambda x: math.log(x["lr"]) ** 3,
    "flag": lambda x: float(x["flag"]),
    "order": lambda x: float(x["order"].index("b")),
    "kernel": lambda x: {"rbf": 0.0, "poly": 5.0, "no": 1.0}[x["kernel"]],
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("has_sklearn", [True, False])
def test_importance_finds_the_one_variable_that_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, has_sklearn: bool
) -> None:
    if has_sklearn:
        pytest.importorskip("sklearn")
    else:
        monkeypatch.setitem(sys.modules, "sklearn", None)
    found = importance(sampled(tmp_path / "run.db", VALUES[name]))
    assert found is not None
    assert found.names[0] == name
    rest = max(score for other, score in zip(found.names, found.scores, strict=True) if other not in (name, "gamma"))
    assert found.scores[0] > 2 * rest
    assert ("random forest" in found.note) == has_sklearn
    assert ("Spearman" in found.label) != has_sklearn


@pytest.mark.parametrize("has_sklearn", [True, False])
def test_importance_does_not_depend_on_the_scale_of_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_sklearn: bool
) -> None:
    if has_sklearn:
        pytest.importorskip("sklearn")
    else:
        monkeypatch.setitem(sys.modules, "sklearn", None)
    one = importance(sampled(tmp_path / "1.db", lambda x: x["lr"] + x["depth"] / 20, count=40))
    other = importance(sampled(tmp_path / "2.db", lambda x: math.exp(9 * (x["lr"] + x["depth"] / 20)), count=40))
    assert one is not None
    assert other is not None
    assert one.names == other.names
    assert np.array_equal(one.scores, other.scores)


def test_importance_needs_enough_different_values(tmp_path: Path) -> None:
    assert importance(sampled(tmp_path / "1.db", lambda x: x["lr"], count=11)) is None
    assert importance(sampled(tmp_path / "2.db", lambda x: 1.0, count=40)) is None
