"""minimize: reasons to stop, policies for failing objectives, workers, callbacks, progress."""

from __future__ import annotations

import io
import math
import os
import random
import re
import signal
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from blackbox.callbacks import Snapshot
from blackbox.errors import JournalError, NonFinite, SettingError, TellError, WorkerError
from blackbox.minimizer import Result, Stop, minimize
from blackbox.progress import Progress
from blackbox.space import Bool, Box, Choice, Float, Int, Permutation, Space
from blackbox.workers import Outcome

BOX = Box(-1, 1, 3)


def sphere(x: Any) -> float:
    return float(((np.asarray(x) - 0.3) ** 2).sum())


def misbehave(x: Any) -> float:
    """The sphere, unless the first coordinate's second digit says otherwise."""
    what = int(100 * abs(x[0])) % 10
    if what == 4:
        raise ValueError("four")
    if what == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == 6:
        time.sleep(60)
    return sphere(x)


def run(objective=sphere, space=BOX, **arguments: Any) -> Result:
    return minimize(objective, space, **{"method": "cma-es", "seed": 1, "budget": 60, **arguments})


# --- results ------------------------------------------------------------------------------------------------------


def test_it_minimizes_and_says_what_it_did():
    result = run(budget=600)
    assert result.value < 1e-8
    assert np.allclose(result.x, 0.3, atol=1e-3)
    assert sphere(result.x) == result.value == result.best.value
    assert result.evaluations == 600
    assert result.stopped == {"budget": "all 600 evaluations are done"}
    assert (result.seed, result.method, result.failures) == (1, "cma-es", 0)
    assert result.seconds > 0
    assert result.optimizer.best.value == result.value


def test_it_maximizes():
    result = run(lambda x: -sphere(x), direction="maximize", budget=300)
    assert -1e-3 < result.value <= 0
    assert np.array_equal(result.x, run(budget=300).x)


def test_auto_takes_the_method_for_so_many_evaluations_at_once():
    result = run(method="auto")
    assert result.method == "quadratic"
    assert result.value < 1e-20
    assert run(method="auto", workers=3, kind="thread", budget=90).method == "lq-cma-es+quadratic"
    assert run(method="auto", workers=4, kind="thread").method == "cma-es"
    assert run(lambda x: [sphere(row) for row in x], method="auto", vectorized=True).method == "cma-es"
    assert list(run(lambda x: 1.0, method="auto", restarts="none", budget=5000).stopped) == ["method"]


def test_serial_runs_are_functions_of_their_arguments():
    calls: list[list[float]] = []

    def objective(x):
        calls.append(x.tolist())
        return sphere(x)

    first, second, other = run(objective), run(objective), run(objective, seed=2)
    assert calls[:60] == calls[60:120]
    assert calls[120:] != calls[:60]
    assert first.value == second.value != other.value


def test_mixed_spaces():
    space = {
        "x": Float(-1, 1), "n": Int(0, 9), "b": Bool(), "p": Permutation(3),
        "k": Choice({"a": Space({"y": Float(1e-3, 1, log=True)}), "b": None}),
    }  # fmt: skip

    def objective(point):
        return point["x"] ** 2 + (point["n"] - 4) ** 2 + point["b"] + point.get("y", 2.0) + point["p"][0]

    result = run(objective, space, method="cma-es", budget=400)
    assert result.x["n"] == 4
    assert result.x["k"] == "a"
    assert result.x["b"] is False
    assert result.value == objective(result.x)


def test_the_default_budget_is_a_hundred_per_coordinate():
    assert run(space=Box(0, 1, 2), budget=None).evaluations == 200


def test_hyperparameters_reach_the_method():
    assert run(popsize=9).optimizer.popsize >= 9
    with pytest.raises(SettingError, match="popsiz"):
        run(popsiz=9)


# --- reasons to stop ----------------------------------------------------------------------------------------------


def test_target():
    result = run(target=1e-2, budget=None)
    assert result.value <= 1e-2
    assert list(result.stopped) == ["target"]
    result = run(lambda x: -sphere(x), target=-1e-2, budget=None, direction="maximize")
    assert result.value >= -1e-2
    assert list(result.stopped) == ["target"]


def test_a_target_that_was_reached_before_a_resume(tmp_path):
    arguments = {"target": 0.5, "budget": None, "journal": tmp_path / "run.db", "resume": True}
    first = run(**arguments)
    again = run(**arguments)
    assert again.stopped == first.stopped
    assert again.evaluations == first.evaluations


def test_seconds():
    result = run(lambda x: time.sleep(0.01) or sphere(x), seconds=0.2, budget=None)
    assert list(result.stopped) == ["seconds"]
    assert 1 <= result.evaluations <= 25


def test_patience():
    result = run(lambda x: 1.0, patience=17, budget=None, seconds=100)
    assert list(result.stopped) == ["patience"]
    assert result.evaluations == 18


def test_convergence_without_restarts():
    result = run(lambda x: 1.0, restarts="none", budget=5000)
    assert list(result.stopped) == ["method"]
    assert "tolfun" in result.stopped["method"]


@pytest.mark.filterwarnings("ignore:.*no finite value")
def test_nothing_but_nan():
    result = run(lambda x: math.nan, budget=1000)
    assert list(result.stopped) == ["method"]
    assert result.x is result.value is result.best is None
    assert result.failures == result.evaluations < 100


# --- failing objectives -------------------------------------------------------------------------------------------


def fails_on(share):
    def objective(x):
        if int(1000 * abs(x[0])) % 10 < 10 * share:
            raise ValueError("a tenth part")
        return sphere(x)

    return objective


def test_some_failures_are_survived():
    result = run(fails_on(0.2), budget=600)
    assert 50 < result.failures < 200
    assert result.value < 1e-4
    assert list(result.stopped) == ["budget"]


@pytest.mark.filterwarnings("ignore:generation .* has no finite value")
def test_an_objective_that_is_probably_wrong_is_the_end():
    with pytest.warns(RuntimeWarning, match="5 of 5 evaluations raised"):
        assert run(fails_on(1.0), budget=1000).evaluations == 5
    with pytest.warns(RuntimeWarning, match="evaluations raised or crashed"):
        result = run(fails_on(0.9), budget=1000)
    assert list(result.stopped) == ["errors"]
    assert "ValueError: a tenth part" in result.stopped["errors"]
    assert "in objective" in result.stopped["errors"]
    assert 5 <= result.evaluations <= 20
    assert list(run(fails_on(0.6), budget=200).stopped) == ["budget"]


def test_errors_that_are_not_caught_are_raised():
    with pytest.raises(ValueError, match="tenth"):
        run(fails_on(0.2), catch=())
    with pytest.raises(ValueError, match="tenth"):
        run(fails_on(0.2), catch=(KeyError, TypeError))
    with pytest.raises(ValueError, match="tenth"):
        run(fails_on(0.2), catch=False, workers=2, kind="thread")
    assert run(fails_on(0.2), catch=ValueError).failures > 0
    with ThreadPoolExecutor(2) as executor:
        assert run(fails_on(0.2), catch=ValueError, workers=executor).failures > 0
        with pytest.raises(ValueError, match="tenth"):
            run(fails_on(0.2), catch=KeyError, workers=executor)


@pytest.mark.parametrize("value", ["3", [1.0], True, 1j, np.ones(2)])
def test_an_objective_that_returns_no_number_is_an_error(value):
    with pytest.raises(TellError, match="value must be"):
        run(lambda x: value)


def test_an_objective_that_returns_best_infinity_is_an_error():
    with pytest.raises(NonFinite):
        run(lambda x: -math.inf)


def test_interruption_passes_through():
    count = 0

    def objective(x):
        nonlocal count
        count += 1
        if count == 7:
            raise KeyboardInterrupt
        return sphere(x)

    seen = []
    with pytest.raises(KeyboardInterrupt):
        run(objective, callbacks=[lambda snapshot: seen.append(snapshot.evaluations)])
    assert seen == [1, 2, 3, 4, 5, 6]


# --- workers ------------------------------------------------------------------------------------------------------


def test_threads_evaluate_at_once_and_none_idles():
    lock, running, most = threading.Lock(), 0, 0

    def objective(x):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return sphere(x)

    result = run(objective, workers=4, kind="thread", budget=200)
    assert result.evaluations == 200
    assert most == 4
    assert result.value < 1e-2


class Queue:
    """Workers that end one evaluation at a time and count what they have to do."""

    slots = 3

    def __init__(self, objective, *_, **__):
        self.objective, self.queue, self.lengths = objective, deque(), []

    def submit(self, id, x):
        self.queue.append((id, x))

    def wait(self, timeout):
        self.lengths.append(len(self.queue))
        id, x = self.queue.popleft()
        return [Outcome(id, self.objective(x), "ok", "", 0.0)]

    def close(self, *, kill=False):
        assert kill


def test_members_of_the_open_generation_wait_in_line_and_others_do_not(monkeypatch):
    queues = []
    monkeypatch.setattr("blackbox.minimizer.start_workers", lambda *a, **k: queues.append(Queue(*a)) or queues[-1])
    result = run(method="cma-es", popsize=10, budget=25)
    (queue,) = queues
    assert result.evaluations == 25
    assert max(queue.lengths) == 6
    assert min(queue.lengths[:-3]) == 3
    assert queue.lengths[-3:] == [3, 2, 1]


def test_an_executor_is_used_and_left_open():
    with ThreadPoolExecutor(3) as executor:
        result = run(workers=executor, budget=200)
        assert result.evaluations == 200
        assert result.value < 1e-2
        assert executor.submit(abs, -1).result() == 1


def test_processes_that_raise_hang_or_die_cost_one_evaluation_each():
    statuses = []
    watch = [lambda snapshot: statuses.append(snapshot.candidate.status)]
    result = run(misbehave, method="cma-es", workers=2, timeout=0.3, budget=14, retries=0, callbacks=watch)
    assert set(statuses) == {"ok", "failed", "crashed", "timeout"}
    assert len(statuses) == result.evaluations == 14
    assert result.failures == sum(status != "ok" for status in statuses)
    assert result.value == sphere(result.x)


def test_an_uncaught_error_in_a_process():
    with pytest.raises(WorkerError, match="ValueError: zero"):
        run(only_raises, workers=2, catch=False)


def only_raises(x: Any) -> float:
    raise ValueError("zero")


def test_time_over_gives_up_what_runs():
    over, ended = threading.Event(), []

    def objective(x):
        ended.append(over.wait(60))
        return 1.0

    result = run(objective, workers=2, kind="thread", seconds=0.2, budget=None)
    assert ended == []
    over.set()
    assert list(result.stopped) == ["seconds"]
    assert result.evaluations == 0
    assert [candidate.id for candidate in result.optimizer.ask(2)] == [(0, 0), (0, 1)]


def test_an_interruption_keeps_what_the_workers_have_ended():
    told = []

    def interrupt(snapshot):
        told.append(snapshot.evaluations)
        if len(told) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(workers=4, kind="thread", callbacks=[interrupt], budget=100)
    assert len(told) >= 5


class Batches(Queue):
    """Workers that end all evaluations at once."""

    def wait(self, timeout):
        ended = [Outcome(id, self.objective(x), "ok", "", 0.0) for id, x in self.queue]
        self.queue.clear()
        return ended


@pytest.mark.parametrize("bad", [False, True])
def test_an_interruption_between_two_tells_loses_none_of_those_that_have_ended(monkeypatch, bad):
    monkeypatch.setattr("blackbox.minimizer.start_workers", lambda *a, **k: Batches(*a))
    told = []

    def interrupt(snapshot):
        told.append(snapshot.candidate.id)
        if len(told) == 2:
            raise KeyboardInterrupt

    answers = iter([1.0, 2.0, "no number" if bad else 3.0, 4.0, 5.0])
    with pytest.raises(KeyboardInterrupt):
        run(lambda x: next(answers), method="cma-es", callbacks=[interrupt])
    assert told == [(0, i) for i in range(5) if not (bad and i == 2)]


# --- vectorized ---------------------------------------------------------------------------------------------------


def test_vectorized_objectives_get_whole_generations():
    shapes = []

    def objective(points):
        shapes.append(points.shape)
        return ((points - 0.3) ** 2).sum(axis=1)

    result = run(objective, vectorized=True, budget=66)
    assert result.evaluations == 66
    assert shapes == [(7, 3)] * 9 + [(3, 3)]
    assert result.value == pytest.approx(run(budget=66).value, rel=1e-12)


def test_vectorized_objectives_of_spaces_get_lists():
    def objective(points):
        assert isinstance(points, list)
        return [point["x"] ** 2 for point in points]

    assert run(objective, {"x": Float(-1, 1)}, vectorized=True).evaluations == 60


def test_vectorized_objectives_may_fail():
    with pytest.warns(RuntimeWarning, match="raised or crashed|finite"):
        result = run(lambda points: 1 / 0, vectorized=True)
    assert list(result.stopped) == ["errors"]
    with pytest.raises(ZeroDivisionError):
        run(lambda points: 1 / 0, vectorized=True, catch=())
    with pytest.raises(TellError, match="value must be a sequence of 7"):
        run(lambda points: [1.0], vectorized=True)


# --- callbacks and progress ---------------------------------------------------------------------------------------


class Listener:
    def __init__(self):
        self.events = []

    def on_start(self, snapshot):
        self.events.append(("start", snapshot.evaluations, snapshot.candidate))

    def on_tell(self, snapshot):
        self.events.append(("tell", snapshot.evaluations, snapshot.candidate.id))

    def on_generation(self, snapshot):
        self.events.append(("generation", snapshot.generation, snapshot.evaluations))

    def on_stop(self, snapshot):
        self.events.append(("stop", snapshot.evaluations, list(snapshot.stopped)))


def test_callbacks_hear_four_events():
    listener = Listener()
    run(callbacks=[listener], budget=8, method="cma-es")
    assert listener.events == [
        ("start", 0, None),
        *[("tell", i + 1, (0, i)) for i in range(7)],
        ("generation", 1, 7),
        ("tell", 8, (1, 0)),
        ("stop", 8, ["budget"]),
    ]


def test_a_function_is_a_callback_and_sees_the_best_so_far():
    bests = []

    def watch(snapshot: Snapshot):
        assert snapshot.candidate.status == "ok"
        bests.append(snapshot.best.value)

    result = run(callbacks=[watch])
    assert bests == sorted(bests, reverse=True)
    assert bests[-1] == result.value


@pytest.mark.parametrize("answer", [Stop("enough"), Stop])
def test_a_callback_may_end_the_run(answer):
    result = run(callbacks=[lambda snapshot: answer if snapshot.evaluations == 5 else None])
    assert result.evaluations == 5
    assert result.stopped == {"callback": "enough" if answer is not Stop else Stop().reason}


def test_a_callback_that_raises_is_reported_once_and_dropped():
    calls = []

    def broken(snapshot):
        calls.append(1)
        raise ValueError("oh")

    with pytest.warns(RuntimeWarning, match="ValueError.*not called again") as caught:
        result = run(callbacks=[broken])
    assert len(calls) == len(caught) == 1
    assert result.evaluations == 60


def test_progress_writes_a_plain_line_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr("blackbox.progress.LINE_EVERY", 0.0)
    output = io.StringIO()
    result = run(fails_on(0.2), callbacks=[Progress(console=Console(file=output, width=200))], budget=30)
    lines = output.getvalue().splitlines()
    assert len(lines) == 31
    assert lines[10].startswith("cma-es: 11/30 evaluations, best ")
    assert lines[10].endswith(" left")
    assert f"30/30 evaluations, best {result.value:.6g}, " in lines[-1]
    assert lines[-1].endswith(f"/s, {result.failures} failed")


@pytest.mark.parametrize("limits", [{"budget": 30}, {"budget": None, "seconds": 0.1}, {"budget": None, "target": 0.1}])
def test_progress_draws_a_live_line_on_a_terminal(limits):
    output = io.StringIO()
    console = Console(file=output, width=120, force_terminal=True)
    result = run(callbacks=[Progress(limits.get("seconds"), console)], **limits)
    assert f"best {result.value:.6g}" in output.getvalue()


@pytest.mark.parametrize("width", [50, 60, 79, 80, 100, 120])
def test_progress_keeps_best_value_rate_and_time_left_on_a_narrow_terminal(width, monkeypatch):
    monkeypatch.setattr("blackbox.progress.REFRESH_EVERY", 0.0)
    monkeypatch.setattr("blackbox.progress._clock", lambda seconds: "123:45:06")
    output, lines = io.StringIO(), []
    progress = Progress(console=Console(file=output, width=width, height=9, force_terminal=True, color_system=None))

    class Screen:
        def on_start(self, snapshot):
            progress.on_start(snapshot)

        def on_tell(self, snapshot):
            progress.on_tell(snapshot)
            if snapshot.evaluations > 1:
                before = len(output.getvalue())
                progress._live.refresh()
                lines.append(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", output.getvalue()[before:]).strip())

        def on_stop(self, snapshot):
            progress.on_stop(snapshot)

    run(lambda x: -1.234567e-105 * (2 - fails_on(0.2)(x)), callbacks=[Screen()], budget=30)
    assert len(lines) == 29
    for line in lines:
        assert "\n" not in line
        assert re.search(r"best -[\d.]+e-1\d\d, [\d.e+]+/s, (\d+ failed, )?123:45:06 left$", line), line
        assert ("━" in line) == (width >= 80)
    if width >= 100:
        assert "cma-es: 2/30 evaluations, " in lines[0]


def test_progress_is_an_argument(capsys):
    run(progress=True)
    captured = capsys.readouterr()
    assert "60/60 evaluations" in captured.err
    assert not captured.out


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"objective": 3}, "objective"),
        ({"budget": 0}, "budget"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": "1"}, "seconds"),
        ({"seconds": 10**400}, "seconds must be a finite number > 0"),
        ({"target": -(10**400)}, "target must be a finite number; got"),
        ({"target": math.inf}, "target"),
        ({"target": "low"}, "target"),
        ({"target": math.nan}, "target"),
        ({"target": True}, "target"),
        ({"journal": 3, "resume": True}, "journal"),
        ({"patience": 0}, "patience"),
        ({"workers": -1}, "workers"),
        ({"workers": "2"}, "workers"),
        ({"kind": "fiber"}, "kind"),
        ({"timeout": 0}, "timeout"),
        ({"vectorized": True, "workers": 2}, "vectorized"),
        ({"vectorized": True, "timeout": 1.0}, "vectorized"),
        ({"catch": "all"}, "catch"),
        ({"catch": (int,)}, "catch"),
        ({"catch": ValueError, "workers": 2}, "catch"),
        ({"callbacks": [3]}, r"callbacks\[0\]"),
        ({"callbacks": print}, "callbacks"),
        ({"resume": True}, "journal"),
        ({"method": "cma"}, "method"),
        ({"direction": "up"}, "direction"),
    ],
)
def test_arguments_are_checked(arguments, named):
    with pytest.raises((SettingError, JournalError), match=named):
        run(**arguments)


@pytest.mark.parametrize("method", ["cma-es", "l-shade", "nelder-mead", "quadratic", "lq-cma-es+quadratic", "nsga-ii"])
def test_synchronous_run_does_not_depend_on_the_order_of_results(method: str) -> None:
    """Evaluations of three threads end in any order; points and best are those of one after the other."""
    space = {"x": Float(-5, 5), "y": Float(-5, 5)}
    objectives = 2 if method == "nsga-ii" else 1
    chance = random.Random(1)

    def objective(x: Any) -> Any:
        values = ((x["x"] - 1) ** 2 + x["y"] ** 2, x["x"] ** 2)
        return values[0] if objectives == 1 else values

    def slow(x: Any) -> Any:
        time.sleep(chance.random() * 0.004)
        return objective(x)

    runs = [
        minimize(f, space, method=method, budget=90, seed=2, objectives=objectives, parallel=3, **workers)
        for f, workers in (
            (objective, {}),
            (slow, {"workers": 3, "kind": "thread", "synchronous": True}),
            (slow, {"workers": 2, "kind": "thread", "synchronous": True}),
        )
    ]
    states = [run.optimizer._search.snapshot() for run in runs]
    for arrays, counters in states[1:]:
        assert counters == states[0][1]
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, states[0][0][name])
    assert runs[0].x == runs[1].x == runs[2].x and runs[0].evaluations == 90
