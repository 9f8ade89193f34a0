"""Evaluations as tasks of Ray: each is reported once, whatever happens to it or to its worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import misbehaving
import pytest
from misbehaving import behave
from ray_cluster import RAYS_OWN, local_ray

import blackbox as bb
from blackbox.cluster import RayTasks, is_address
from blackbox.workers import Outcome, Workers, start_workers

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))  # for ray_faults

pytestmark = RAYS_OWN
PATIENCE = 90.0  # seconds, in which Ray starts processes


def drain(workers: Workers, count: int) -> dict[int, Outcome]:
    return misbehaving.drain(workers, count, PATIENCE)


def one(workers: Workers, x: object) -> Outcome:
    return misbehaving.one(workers, x, PATIENCE)


# ---- without Ray


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"address": "head"}, "address"),
        ({"address": 3}, "address"),
        ({"slots": 0}, "slots"),
        ({"slots": True}, "slots"),
        ({"options": ["num_cpus"]}, "options"),
        ({"options": {"max_retries": 3}}, "options must not have 'max_retries'"),
    ],
)
def test_wrong_argument_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(bb.SettingError, match=named):
        bb.Ray(**arguments)


def test_addresses() -> None:
    for text in ("auto", "local", "10.0.0.1:6379", "ray://head.example:10001", "[::1]:6379"):
        assert is_address(text) and bb.Ray(text).address == text
    for text in ("two", "ray", "", "head:", "http://head:10001", "ray://head", 3):
        assert not is_address(text)
    with pytest.raises(bb.SettingError, match=r'workers must be .*"ray".* got \'two\''):
        bb.minimize(behave, {"x": bb.Float(0, 1)}, workers="two")


def test_without_ray_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(bb.MissingExtra, match=r"pip install 'blackbox-engine\[ray\]'"):
        bb.minimize(behave, {"x": bb.Float(0, 1)}, workers="ray")


def test_ray_is_not_imported_before_it_is_used() -> None:
    code = "import sys, blackbox; blackbox.minimize, blackbox.Ray; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- with Ray


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with local_ray(Path(__file__).parent, num_cpus=3, resources={"license": 2}) as ray:
        yield ray


@pytest.fixture
def workers(ray: Any) -> Iterator[Workers]:
    started = start_workers(behave, "ray")
    yield started
    started.close(kill=True)


@pytest.fixture
def limited(ray: Any) -> Iterator[Workers]:
    started = start_workers(behave, "ray", timeout=1.5)
    yield started
    started.close(kill=True)


def test_every_submission_comes_back_once_with_its_value(workers: Workers) -> None:
    assert workers.slots == 3
    for id in range(60):
        workers.submit(id, id)
    outcomes = drain(workers, 60)
    assert {id: outcome.value for id, outcome in outcomes.items()} == {id: float(id) ** 2 for id in range(60)}
    assert {outcome.status for outcome in outcomes.values()} == {"ok"}


def test_what_the_objective_raises_is_an_outcome(workers: Workers) -> None:
    outcome = one(workers, ("raise", "bad C"))
    assert (outcome.status, outcome.reason.splitlines()[0]) == ("failed", "ValueError: bad C")
    assert "in behave" in outcome.reason
    assert one(workers, ("exit", 3)).reason.startswith("SystemExit: 3")


def test_what_cannot_be_sent_fails_alone(workers: Workers) -> None:
    for id, x in enumerate([("lock", 1), threading.Lock(), ("bytes", 20_000_000), 3]):
        workers.submit(id, x)
    outcomes = drain(workers, 4)
    assert [outcomes[id].status for id in range(4)] == ["failed", "failed", "ok", "ok"]
    assert "cannot be sent" in outcomes[0].reason and "lock" in outcomes[0].reason
    assert "x cannot be sent" in outcomes[1].reason
    assert len(outcomes[2].value) == 20_000_000  # type: ignore[arg-type]


def test_dead_worker_is_retried_then_reported(workers: Workers, tmp_path: Path) -> None:
    assert one(workers, ("kill once", str(tmp_path / "flag"))).value == 1.0
    outcome = one(workers, ("kill", None))
    assert outcome.status == "crashed" and "died" in outcome.reason
    assert one(workers, 3).value == 9.0


def test_killed_idle_worker_costs_nothing(ray: Any) -> None:
    workers = start_workers(behave, "ray", retries=2)
    os.kill(one(workers, ("pid", 0)).value, signal.SIGKILL)  # type: ignore[arg-type]
    assert one(workers, 3).value == 9.0
    workers.close()


def test_evaluations_over_the_limit_are_killed_whatever_they_do(limited: Workers) -> None:
    for id, x in enumerate([("sleep", 60), ("hang in C", 60), 2, 3]):
        limited.submit(id, x)
    outcomes = drain(limited, 4)
    assert [outcomes[id].status for id in range(4)] == ["timeout", "timeout", "ok", "ok"]
    assert outcomes[0].reason == "killed after 1.5 s" and outcomes[0].seconds >= 1.5
    for id in range(3):  # all slots are free again
        limited.submit(id, ("sleep", 0.2))
    assert {outcome.status for outcome in drain(limited, 3).values()} == {"ok"}


def test_waiting_for_resources_is_not_evaluation(ray: Any) -> None:
    @ray.remote(num_cpus=3)
    def occupy() -> None:
        time.sleep(4)

    blocking = occupy.remote()
    workers = start_workers(behave, "ray", timeout=1.5)
    assert one(workers, 4).status == "ok"
    ray.get(blocking)
    workers.close(kill=True)


def test_stragglers_are_overtaken(ray: Any, tmp_path: Path) -> None:
    """An evaluation that ends only when 20 later ones have: with any barrier the run would not go on."""

    def objective(x: Any) -> float:
        (tmp_path / f"{x['x']}-{time.monotonic_ns()}").touch()
        with contextlib.suppress(FileExistsError):
            (tmp_path / "first").touch(exist_ok=False)
            while len(os.listdir(tmp_path)) < 20:
                time.sleep(0.01)
        return float((x["x"] - 1) ** 2)

    result = bb.minimize(objective, {"x": bb.Float(-5, 5)}, method="cma-es", budget=24, workers="ray", seed=0)
    assert result.evaluations == 24 and result.failures == 0


def test_resources_of_an_evaluation_decide_how_many_run_at_once(ray: Any) -> None:
    for options, slots in (({"num_cpus": 2}, 1), ({"num_cpus": 0.5}, 6), ({"resources": {"license": 1}}, 2)):
        workers = start_workers(behave, bb.Ray(options=options))
        assert workers.slots == slots
        assert one(workers, 3).value == 9.0
        workers.close()
    with pytest.raises(bb.WorkerError, match=r"it has 3 CPU, 0 GPU, of 1 CPU, 0.5 GPU asked for"):
        start_workers(behave, bb.Ray(options={"num_gpus": 0.5}))
    with pytest.raises(bb.SettingError, match="slots must be given"):
        start_workers(behave, bb.Ray(options={"num_cpus": 0}))
    with pytest.raises(bb.SettingError, match="options are not those of a Ray task"):
        start_workers(behave, bb.Ray(options={"cpus": 2}))
    assert start_workers(behave, bb.Ray(slots=7)).slots == 7


def test_auto_knows_how_many_run_at_once(ray: Any) -> None:
    space = {"x": bb.Float(-5, 5), "y": bb.Float(-5, 5)}
    methods = [
        bb.minimize(lambda x: x["x"] ** 2, space, budget=30, workers=bb.Ray(slots=slots), seed=0).method
        for slots in (1, 3)
    ]
    assert methods == [bb.Optimizer(space, budget=30, parallel=slots).method for slots in (1, 3)]
    assert len(set(methods)) == 2


def test_objective_that_workers_cannot_read_ends_the_run(ray: Any, tmp_path: Path) -> None:
    lock = threading.Lock()
    with pytest.raises(bb.WorkerError, match="objective cannot be sent"):
        start_workers(lambda x: lock.locked(), "ray")
    (tmp_path / "only_here.py").write_text("def objective(x):\n    return 1.0\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import only_here  # type: ignore[import-not-found]

        with pytest.raises(bb.WorkerError, match=r"could not be read on a worker.*No module named 'only_here'"):
            bb.minimize(only_here.objective, {"x": bb.Float(0, 1)}, budget=20, workers="ray", seed=0)
    finally:
        sys.path.remove(str(tmp_path))


def test_close_kills_or_waits(ray: Any, tmp_path: Path) -> None:
    def objective(x: float) -> float:
        time.sleep(x)
        (tmp_path / str(x)).touch()
        return x

    for kill, seconds in ((False, 0.3), (True, 60.0)):
        workers = start_workers(objective, bb.Ray(slots=1))
        workers.submit(0, seconds)
        workers.submit(1, seconds + 0.01)
        assert workers.wait(0.1) == []
        workers.close(kill=kill)
        workers.close()
        with pytest.raises(bb.WorkerError, match="closed"):
            workers.submit(2, 2.0)
    assert os.listdir(tmp_path) == ["0.3"]
    assert ray.is_initialized()  # it was here before


def test_what_has_ended_is_not_cancelled(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray ends the whole program where it is to cancel a task whose result it is just taking in."""

    def ended(timeout: float | None) -> RayTasks:
        """With one task, of whose end ``wait`` knows and its future does not yet."""
        tasks = RayTasks(behave, timeout, bb.Ray())
        tasks.launch(0, 3, lambda *_: None)
        task = tasks._running[0]
        task.future.result(PATIENCE)
        task.future, task.begin = Future(), 0.0
        threading.Timer(0.5, task.future.set_result, [None]).start()
        return tasks

    cancelled: list[Any] = []
    monkeypatch.setattr(ray, "cancel", lambda ref, force: cancelled.append(ref))
    for kill in (False, True):
        ended(None).close(kill=kill)
    limited = ended(0.1)
    limited.tick(lambda *reply: cancelled.append(reply))
    limited.close(kill=True)
    assert cancelled == []


def test_what_a_signal_raises_ends_the_waiting(ray: Any) -> None:
    class Enough(BaseException):
        pass

    def enough(*_: Any) -> None:
        raise Enough

    tasks = RayTasks(behave, None, bb.Ray())
    tasks.launch(0, ("sleep", 60), lambda *_: None)
    before = signal.signal(signal.SIGUSR1, enough)
    try:
        begin = time.monotonic()
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGUSR1]).start()
        with pytest.raises(Enough):
            tasks.close(kill=False)
        assert time.monotonic() - begin < 30
    finally:
        signal.signal(signal.SIGUSR1, before)
    tasks.close(kill=True)


def test_address_must_be_the_cluster_that_was_joined(ray: Any) -> None:
    here = ray.get_runtime_context().gcs_address
    RayTasks(behave, None, bb.Ray(here)).close(kill=True)
    RayTasks(behave, None, bb.Ray("auto")).close(kill=True)
    with pytest.raises(bb.SettingError, match=f"address must be that of .*{here}; got '192.0.2.7:6379'"):
        start_workers(behave, "192.0.2.7:6379")
    with pytest.raises(bb.SettingError, match=r"got 'ray://192.0.2.7:10001'"):
        start_workers(behave, "ray://192.0.2.7:10001")


# ---- a run in which workers are killed is the run without faults


def sphere(x: Any) -> float:
    return float(sum((value - 1) ** 2 for value in x.values()))


class AtWork:
    """The sphere; as long as it takes, a file in ``folder`` has the name of its process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder

    def __call__(self, x: Any) -> float:
        mine = self._folder / str(os.getpid())
        mine.touch()
        time.sleep(0.02)
        value = sphere(x)
        mine.unlink(missing_ok=True)
        return value


def killer_of(objective: AtWork, each: int) -> Any:
    """A callback that kills a worker in the middle of an evaluation after every ``each`` results."""
    from ray_faults import Killer

    return Killer(objective._folder, each)


SPACE = {name: bb.Float(-5, 5) for name in "abcd"}


def test_synchronous_run_with_killed_workers_is_the_run_without(ray: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": "cma-es", "budget": 96, "seed": 3, "popsize": 12, "synchronous": True}
    alone = bb.minimize(sphere, SPACE, journal=tmp_path / "alone.db", **settings)
    objective = AtWork(tmp_path / "at work")
    killer = killer_of(objective, each=20)
    result = bb.minimize(
        objective, SPACE, workers="ray", retries=5, journal=tmp_path / "run.db", callbacks=[killer], **settings
    )
    assert killer.kills >= 4
    told = {name: list(bb.Optimizer.resume(tmp_path / name)._journal.events()) for name in ("alone.db", "run.db")}  # type: ignore[union-attr]
    counts = Counter((event.generation, event.member) for event in told["run.db"])
    assert len(counts) == 96 and set(counts.values()) == {1} and result.failures == 0
    values = [sorted((event.generation, event.member, event.value) for event in events) for events in told.values()]
    assert values[0] == values[1]
    assert (result.value, result.x) == (alone.value, alone.x)


def test_asynchronous_run_with_killed_workers_loses_nothing(ray: Any, tmp_path: Path) -> None:
    objective = AtWork(tmp_path / "at work")
    killer = killer_of(objective, each=20)
    result = bb.minimize(
        objective, SPACE, method="random", budget=60, seed=3, workers="ray", retries=5, callbacks=[killer],
        journal=tmp_path / "run.db",
    )  # fmt: skip
    events = list(bb.Optimizer.resume(tmp_path / "run.db")._journal.events())  # type: ignore[union-attr]
    assert killer.kills >= 2 and len({(event.generation, event.member) for event in events}) == len(events) == 60
    # Points of random search do not depend on results, so neither do they on their order.
    assert result.value == bb.minimize(sphere, SPACE, method="random", budget=60, seed=3).value


# ---- a cluster of its own


SCRIPT = """
    import ray
    import blackbox as bb

    def objective(x):
        return (x["x"] - 1) ** 2

    if __name__ == "__main__":
        result = bb.minimize(objective, {"x": bb.Float(-5, 5)}, budget=20, workers="local", timeout=30, seed=0)
        print("found", result.evaluations, result.failures, ray.is_initialized())
"""


def test_cluster_that_was_started_for_a_run_ends_with_it(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert "found 20 0 False" in done.stdout, done.stderr[-2000:]


def test_cluster_that_is_not_there_is_named(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(address: str) -> None:
        raise ConnectionError(f"no {address}")  # what Ray itself raises after minutes

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(bb.WorkerError, match=r"Ray could not be reached at 'auto': no auto"):
        start_workers(behave, "auto")
