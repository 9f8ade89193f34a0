"""Other schedulers' executors as workers: Dask's and mpi4py's, as they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import misbehaving
import pytest

import blackbox as bb
from blackbox.workers import Outcome, Workers, start_workers

# Dask's own: sockets that it leaves to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SPACE = {"x": bb.Float(-5, 5), "y": bb.Float(-5, 5)}
SETTINGS: dict[str, Any] = {"method": "cma-es", "budget": 60, "seed": 0, "synchronous": True}


def behave(x: Any) -> Any:
    """Of points of the space a sphere, of others what tests of workers want."""
    return (x["x"] - 1) ** 2 + x["y"] ** 2 if isinstance(x, dict) else misbehaving.behave(x)


def drain(workers: Workers, count: int) -> dict[int, Outcome]:
    return misbehaving.drain(workers, count, limit=120.0)


# ---- Dask


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (
        pytest.MonkeyPatch.context() as patch,
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        patch.setenv("PYTHONPATH", os.pathsep.join(folders))  # of workers that take the place of killed ones
        yield client


@pytest.fixture(params=["executor", "client"])
def dask(request: pytest.FixtureRequest, client: Any) -> Any:
    client.wait_for_workers(2)  # also after one of them was killed
    return client.get_executor() if request.param == "executor" else client


def test_dask_evaluates_each_once(dask: Any) -> None:
    workers = start_workers(behave, dask)
    assert workers.slots == 2
    for id in range(40):
        workers.submit(id, id % 20)
    workers.submit(40, ("raise", "bad C"))
    outcomes = drain(workers, 41)
    assert [outcomes[id].value for id in range(40)] == [float(id % 20) ** 2 for id in range(40)]
    assert outcomes[40].status == "failed" and outcomes[40].reason.startswith("ValueError: bad C")
    workers.close(kill=True)


def test_dask_run_is_the_run_alone(dask: Any) -> None:
    result = bb.minimize(behave, SPACE, workers=dask, **SETTINGS)
    alone = bb.minimize(behave, SPACE, **SETTINGS)
    assert (result.x, result.value, result.failures) == (alone.x, alone.value, 0)


def test_dask_repeats_what_a_killed_worker_had(dask: Any, tmp_path: Path) -> None:
    workers = start_workers(behave, dask)
    for id in range(10):
        workers.submit(id, ("kill once", str(tmp_path / "flag")) if id == 3 else id)
    outcomes = drain(workers, 10)
    assert {outcome.status for outcome in outcomes.values()} == {"ok"}
    workers.close(kill=True)


def test_hung_evaluation_holds_up_its_thread_until_it_ends(dask: Any) -> None:
    workers = start_workers(behave, dask, timeout=3.0)
    workers.submit(0, ("sleep", 9))
    for id in range(1, 6):
        workers.submit(id, ("sleep", 0.2))
    outcomes = drain(workers, 6)
    assert outcomes[0].status == "timeout" and "holds up one worker" in outcomes[0].reason
    assert {outcomes[id].status for id in range(1, 6)} == {"ok"}  # none of them waits behind the hung one
    time.sleep(7)
    for id in range(2):
        workers.submit(id, ("sleep", 0.5))
    assert {outcome.status for outcome in drain(workers, 2).values()} == {"ok"}
    workers.close(kill=True)


def test_deadly_evaluation_is_a_crash(client: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        scheduler = client.cluster.scheduler
        patch.setattr(scheduler, "allowed_failures", 0)  # or Dask would sacrifice four workers
        workers = start_workers(behave, client.get_executor(), retries=0)
        workers.submit(0, ("kill", None))
        outcome = drain(workers, 1)[0]
        assert outcome.status == "crashed" and "KilledWorker" in outcome.reason
    workers.close(kill=True)


# ---- MPI


def test_mpi_run_is_the_run_alone(tmp_path: Path) -> None:
    """As ``mpiexec -n 3 python -m mpi4py.futures script.py``: one process for the search, two for evaluations."""
    pytest.importorskip("mpi4py")
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if mpiexec is None or subprocess.run([sys.executable, "-c", "from mpi4py import MPI"], check=False).returncode:
        pytest.skip("no MPI library")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import blackbox as bb
        from mpi4py.futures import MPIPoolExecutor
        from test_executors import SETTINGS, SPACE, behave

        if __name__ == "__main__":
            with MPIPoolExecutor() as executor:
                found = bb.minimize(behave, SPACE, workers=executor, timeout=60, **SETTINGS)
                print("found", executor.num_workers, found.evaluations, found.failures, repr(found.value))
    """)
    )
    done = subprocess.run(
        [mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures", str(script)],
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    alone = bb.minimize(behave, SPACE, **SETTINGS)
    assert f"found 2 60 0 {alone.value!r}" in done.stdout, done.stdout + done.stderr
