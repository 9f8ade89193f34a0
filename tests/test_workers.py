"""Workers: each submitted evaluation is reported exactly once, whatever the objective or its process does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import misbehaving
import numpy as np
import pytest
from misbehaving import drain, one

from blackbox.errors import SettingError, WorkerError
from blackbox.workers import Outcome, Workers, start_workers

# ---- objectives: at the top level, as worker processes import them ----


class Unreadable(Exception):
    """Can be pickled, but not unpickled: the usual fate of exceptions with arguments of their own."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"code {code}: {detail}")


def refuse_to_be_read() -> None:
    raise ImportError("no such thing on this side")


class UnreadableValue:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return refuse_to_be_read, ()


def behave(x: Any) -> Any:
    """Misbehavior, and what cannot be read on the other side."""
    match x:
        case ("unreadable error", argument):
            raise Unreadable(7, argument)
        case ("unreadable value", _):
            return UnreadableValue()
    return misbehaving.behave(x)


def not_called(x: object) -> float:
    raise AssertionError("an objective that must not be called")


DIED = "the worker process died"  # what is known when pebble notices the death before the start of the task

KINDS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "threads": {"workers": 2, "kind": "thread"},
    "processes": {"workers": 2},
    "executor": {"workers": "thread pool"},
}


@pytest.fixture(params=KINDS)
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    arguments = KINDS[request.param]
    with ThreadPoolExecutor(2) as pool:
        if arguments["workers"] == "thread pool":
            arguments = {"workers": pool}
        started = start_workers(behave, **arguments)
        yield started
        started.close()


@pytest.fixture
def processes() -> Iterator[Workers]:
    started = start_workers(behave, 2, timeout=20.0)
    yield started
    started.close(kill=True)


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def gone_within(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(pid)


# ---- all kinds ----


def test_every_submission_comes_back_once_with_its_value(workers: Workers) -> None:
    for id in range(30):
        workers.submit(id, id)
    outcomes = drain(workers, 30)
    assert {id: outcome.value for id, outcome in outcomes.items()} == {id: float(id) ** 2 for id in range(30)}
    assert {outcome.status for outcome in outcomes.values()} == {"ok"}
    assert all(0 <= outcome.seconds < 20 and outcome.reason == "" for outcome in outcomes.values())


def test_exception_is_an_outcome_and_the_next_evaluation_runs(workers: Workers) -> None:
    outcome = one(workers, ("raise", "bad C"))
    assert (outcome.status, outcome.reason.splitlines()[0]) == ("failed", "ValueError: bad C")
    assert "in behave" in outcome.reason
    assert np.isnan(outcome.value)  # type: ignore[call-overload]
    assert one(workers, 3).value == 9.0


def test_sys_exit_is_a_failure(workers: Workers) -> None:
    outcome = one(workers, ("exit", 3))
    assert (outcome.status, outcome.reason.splitlines()[0]) == ("failed", "SystemExit: 3")
    assert one(workers, 3).value == 9.0


def test_wait_returns_nothing_at_the_timeout_and_when_nothing_runs(workers: Workers) -> None:
    assert workers.wait(None) == []
    workers.submit(1, ("sleep", 0.3))
    if workers.slots > 1:  # the inline kind has nobody else to run it
        assert workers.wait(0.05) == []
    assert [outcome.id for outcome in workers.wait(None)] == [1]


def test_close_is_repeatable_and_submit_afterwards_is_refused(workers: Workers) -> None:
    workers.submit(1, 2)
    workers.close()
    workers.close(kill=True)
    with pytest.raises(WorkerError, match="closed"):
        workers.submit(2, 2)


@pytest.mark.parametrize("kind", ["inline", "threads"])
def test_exception_object_is_kept_in_this_process(kind: str) -> None:
    workers = start_workers(behave, **KINDS[kind])
    outcome = one(workers, ("unreadable error", "kept"))
    assert isinstance(outcome.exception, Unreadable)
    workers.close()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"objective": 3}, "objective"),
        ({"workers": -1}, "workers"),
        ({"workers": True}, "workers"),
        ({"workers": "two"}, "workers"),
        ({"kind": "fiber"}, "kind"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"retries": -1}, "retries"),
        ({"retries": True}, "retries"),
    ],
)
def test_wrong_argument_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        start_workers(**{"objective": behave, **arguments})


def test_numpy_numbers_are_numbers() -> None:
    workers = start_workers(behave, np.int64(2), kind="thread", timeout=np.float32(30), retries=np.int8(1))
    assert workers.slots == 2
    assert one(workers, 2).status == "ok"
    workers.close()


# ---- inline ----


def test_keyboard_interrupt_passes_through_inline_and_the_point_stays_queued() -> None:
    calls: list[object] = []

    def interrupted(x: object) -> float:
        calls.append(x)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return 1.0

    workers = start_workers(interrupted)
    workers.submit(5, "x")
    assert workers.wait(0.0) == []  # no time to evaluate anything
    with pytest.raises(KeyboardInterrupt):
        workers.wait(None)
    assert [(outcome.id, outcome.value) for outcome in workers.wait(None)] == [(5, 1.0)]


# ---- processes ----


def test_hung_evaluations_are_killed_and_their_slots_refilled() -> None:
    workers = start_workers(behave, 2, timeout=1.0)
    pids = {one(workers, ("pid", 0)).value for _ in range(2)}
    for id, x in enumerate([("sleep", 60), ("hang in C", 60), 2, 3]):
        workers.submit(id, x)
    outcomes = drain(workers, 4)
    assert [outcomes[id].status for id in range(4)] == ["timeout", "timeout", "ok", "ok"]
    assert outcomes[0].reason == "killed after 1 s"
    assert outcomes[0].seconds >= 1.0
    assert not any(is_alive(pid) for pid in pids)  # type: ignore[arg-type]
    workers.close()
    assert multiprocessing.active_children() == []


def test_timeout_is_kept_for_one_worker_too() -> None:
    workers = start_workers(behave, 0, timeout=0.3)
    assert one(workers, ("sleep", 60)).status == "timeout"
    workers.close()


def test_what_the_objective_started_dies_with_it(tmp_path: Path) -> None:
    workers = start_workers(behave, 1, timeout=1.0)
    assert one(workers, ("start child", str(tmp_path / "pid"))).status == "timeout"
    assert gone_within(int((tmp_path / "pid").read_text()), 5.0)
    workers.close()


def test_dead_worker_is_retried_then_reported(processes: Workers, tmp_path: Path) -> None:
    assert one(processes, ("kill once", str(tmp_path / "flag"))).value == 1.0
    outcome = one(processes, ("kill", None))
    assert outcome.status == "crashed"
    assert outcome.reason in ("the worker process was killed by signal 9", DIED)
    assert one(processes, 3).value == 9.0


def test_retries_zero_reports_the_first_crash(tmp_path: Path) -> None:
    workers = start_workers(behave, 2, retries=0)
    assert one(workers, ("kill once", str(tmp_path / "flag"))).status == "crashed"
    workers.close()


@pytest.mark.parametrize("code", [0, 3])
def test_os_exit_is_a_crash_even_with_code_0(code: int) -> None:
    workers = start_workers(behave, 2, retries=0)  # no timeout: nothing else would end the wait
    outcome = one(workers, ("os exit", code))
    assert outcome.status == "crashed"
    left = "the worker process left in the middle of the evaluation"
    assert outcome.reason == left if code == 0 else outcome.reason in (f"the worker process exited with {code}", DIED)
    workers.close()


def test_pool_survives_kills_at_random_moments() -> None:
    """A tenth of R10: workers are killed while idle, starting, evaluating or sending."""
    workers = start_workers(behave, 2, retries=1000)
    random = np.random.default_rng(0)
    kills = 0
    outcomes: dict[int, Outcome] = {}
    submitted = 0
    while kills < 10 or len(outcomes) < submitted:
        while submitted - len(outcomes) < 4 and kills < 10:
            workers.submit(submitted, ("sleep", 0.01) if submitted % 2 else ("bytes", 200_000))
            submitted += 1
        for outcome in workers.wait(0.01):
            assert outcome.id not in outcomes
            outcomes[outcome.id] = outcome
        children = multiprocessing.active_children()
        if children and kills < 10 and random.random() < 0.1:
            os.kill(random.choice([child.pid or 0 for child in children]), signal.SIGKILL)
            kills += 1
    assert {outcome.status for outcome in outcomes.values()} == {"ok"}
    workers.close()
    assert multiprocessing.active_children() == []


def test_killed_idle_worker_is_replaced(processes: Workers) -> None:
    pid = one(processes, ("pid", 0)).value
    os.kill(pid, signal.SIGKILL)  # type: ignore[arg-type]
    assert one(processes, 3).value == 9.0


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (("unreadable error", "deep"), "test_workers.Unreadable: code 7: deep"),
        (("lambda", 1), "the returned function cannot be sent"),
        (("unreadable value", 1), "the returned object could not be read back"),
        (("raise", lambda: 1), "x cannot be sent to a process"),
        (UnreadableValue(), "x could not be read in the worker"),
    ],
)
def test_what_cannot_be_sent_fails_alone(processes: Workers, x: object, reason: str) -> None:
    processes.submit(0, x)
    processes.submit(1, 3)
    outcomes = drain(processes, 2)
    assert outcomes[0].status == "failed"
    assert outcomes[0].reason.startswith(reason)
    assert outcomes[1].value == 9.0


def test_huge_values_arrive_whole(processes: Workers) -> None:
    value = one(processes, ("bytes", 60_000_000)).value
    assert isinstance(value, bytes)
    assert len(value) == 60_000_000


@pytest.mark.parametrize("kill", [False, True])
def test_close_leaves_no_process_and_no_thread(kill: bool) -> None:
    threads = set(threading.enumerate())
    workers = start_workers(behave, 2)
    workers.submit(0, ("sleep", 60.0 if kill else 0.2))
    workers.submit(1, ("sleep", 60.0 if kill else 0.2))
    workers.submit(2, 1)
    workers.close(kill=kill)
    assert multiprocessing.active_children() == []
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("objective", [lambda x: 0.0, partial(behave, lambda: 0)])
def test_unsendable_objective_is_refused_by_name_before_anything_runs(objective: Any) -> None:
    name = "lambda" if not isinstance(objective, partial) else "partial"
    with pytest.raises(WorkerError, match=rf"objective .*{name}.*top level.*kind=\"thread\""):
        start_workers(objective, 2)
    assert multiprocessing.active_children() == []


def run_script(text: str, how: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(text))
    (folder / "square_module.py").write_text("def square(x):\n    return x * x\n")
    command = [sys.executable, str(script)] if how == "file" else [sys.executable, "-"]
    stdin = None if how == "file" else script.read_text()
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, cwd=folder, timeout=60)


SCRIPT = """
    from blackbox.errors import WorkerError
    from blackbox.workers import start_workers
    from square_module import square

    def cube(x):
        return x ** 3

    if __name__ == "__main__":
        try:
            workers = start_workers({objective}, 2)
            workers.submit(0, 3)
            print([(outcome.value, outcome.reason) for outcome in workers.wait(None)])
            workers.close()
        except WorkerError as error:
            print("WorkerError:", error)
"""


@pytest.mark.parametrize(
    ("objective", "how", "printed"),
    [
        ("cube", "file", "[(27, '')]"),
        ("square", "stdin", "[(9, '')]"),
        ("cube", "stdin", "WorkerError: objective cube cannot be sent"),
    ],
)
def test_objectives_of_scripts(objective: str, how: str, printed: str, tmp_path: Path) -> None:
    done = run_script(SCRIPT.format(objective=objective), how, tmp_path)
    assert done.stdout.startswith(printed), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_script_without_main_guard_is_told_so(tmp_path: Path) -> None:
    text = """
        from blackbox.workers import start_workers
        from square_module import square

        start_workers(square, 2)
    """
    done = run_script(text, "file", tmp_path)
    assert done.returncode == 1
    assert "WorkerError: no worker process came up" in done.stderr
    assert 'must do so under `if __name__ == "__main__":`' in done.stderr


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    text = """
        import sys, time
        from blackbox.workers import start_workers

        def report_and_hang(x):
            import os
            print(os.getpid(), flush=True)
            time.sleep(60)

        if __name__ == "__main__":
            workers = start_workers(report_and_hang, 2)
            workers.submit(0, None)
            workers.wait(None)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(text))
    with subprocess.Popen([sys.executable, str(tmp_path / "script.py")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert gone_within(pid, 5.0)


def test_keyboard_interrupt_in_wait_leaves_a_pool_that_can_be_closed(processes: Workers) -> None:
    processes.submit(0, ("sleep", 60))
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        processes.wait(None)
    processes.close(kill=True)
    assert multiprocessing.active_children() == []


# ---- threads ----


def test_hung_thread_is_reported_and_its_slot_reused() -> None:
    workers = start_workers(behave, 1, kind="thread", timeout=0.2)
    workers.submit(0, ("sleep", 1.0))
    workers.submit(1, 3)
    outcomes = drain(workers, 2)
    assert outcomes[0].status == "timeout"
    assert outcomes[1].value == 9.0
    workers.close()


def test_threads_run_closures_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=20)
    workers = start_workers(lambda x: barrier.wait() * 0 + x, 3, kind="thread")
    for id in range(3):
        workers.submit(id, id)
    assert sorted(outcome.value for outcome in drain(workers, 3).values()) == [0, 1, 2]
    workers.close()


# ---- executors ----


def test_process_executor_of_the_standard_library_works_and_is_left_open() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        workers = start_workers(behave, executor)
        assert workers.slots == 1
        assert one(workers, 3).value == 9.0
        assert one(workers, ("unreadable error", "far")).reason.startswith("test_workers.Unreadable: code 7")
        workers.close()
        assert executor.submit(behave, 2).result() == 4.0


def test_broken_executor_reports_all_and_takes_no_more() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        workers = start_workers(behave, executor)
        for id, x in enumerate([("os exit", 1), 2, 3]):
            workers.submit(id, x)
        outcomes = drain(workers, 3)
        assert {outcome.status for outcome in outcomes.values()} == {"crashed"}
        with pytest.raises(WorkerError, match="broken"):
            workers.submit(3, 3)
        workers.close()


def test_executor_whose_workers_are_all_stuck_is_given_up() -> None:
    release = threading.Event()

    def objective(x: float) -> float:
        release.wait(30)
        return x

    with ThreadPoolExecutor(1) as executor:
        workers = start_workers(objective, executor, timeout=0.2)
        workers.submit(0, 0.0)
        workers.submit(1, 1.0)
        outcomes = drain(workers, 2)
        assert (outcomes[0].status, outcomes[1].status) == ("timeout", "crashed")
        with pytest.raises(WorkerError, match="stuck"):
            workers.submit(2, 2.0)
        release.set()
        workers.close()


def test_shut_down_executor_is_reported() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    workers = start_workers(behave, executor)
    assert one(workers, 1).status == "crashed"
    with pytest.raises(WorkerError, match="takes no more work"):
        workers.submit(0, 1)


class QueueingExecutor(Executor):
    """A queue that starts nothing before it is told to, as a cluster's does."""

    num_workers = 3

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: fn(*args)))
        return future

    def start(self) -> None:
        for future, call in self.waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(call())


def test_time_in_an_executors_queue_does_not_count() -> None:
    executor = QueueingExecutor()
    workers = start_workers(behave, executor, timeout=0.1)
    assert workers.slots == 3
    for id in range(5):
        workers.submit(id, id)
    assert len(executor.waiting) == 3
    assert workers.wait(0.4) == []
    executor.start()
    assert sorted(outcome.id for outcome in workers.wait(None)) == [0, 1, 2]
    workers.close()
    assert executor.waiting[-1][0].cancelled()


class PolledJob:
    """A future that knows only ``done``, ``result`` and ``cancel``, as submitit's jobs do."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._looks = 0

    def done(self) -> bool:
        self._looks += 1
        return self._looks > 2

    def result(self) -> Any:
        return self._call()

    def cancel(self) -> bool:
        return False


class JobExecutor:
    def nthreads(self) -> dict[str, int]:
        return {"tcp://a": 2, "tcp://b": 2}

    def submit(self, fn: Callable[[Any], Any], x: Any, /) -> PolledJob:
        return PolledJob(lambda: fn(x))


def test_futures_without_callbacks_are_polled() -> None:
    workers = start_workers(behave, JobExecutor())
    assert workers.slots == 4
    for id in range(6):
        workers.submit(id, id)
    assert sorted(outcome.value for outcome in drain(workers, 6).values()) == [0, 1, 4, 9, 16, 25]
    workers.close()
