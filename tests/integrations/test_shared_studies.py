"""Studies that several processes work on through a database: SQLite, and PostgreSQL where a server is installed.

The server is the test's own: in a temporary folder, on a socket in it, as a user who is not root.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import multiprocessing
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

import optuna

from blackbox.integrations.optuna import BlackboxSampler

NAME = "shared"


def sphere(trial: Any) -> float:
    return sum((trial.suggest_float(f"x{i}", -5, 5) - 1) ** 2 for i in range(2)) + abs(trial.suggest_int("n", 0, 9) - 3)


def sampler() -> BlackboxSampler:
    return BlackboxSampler("cat-cma", seed=7)


def work(url: str, n: int, dies_at: int | None) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=NAME, storage=url, sampler=sampler())

    def objective(trial: Any) -> float:
        value = sphere(trial)
        if dies_at is not None and trial.number >= dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    study.optimize(objective, n_trials=n)


def programs() -> Path | None:
    """The folder of PostgreSQL's programs."""
    found = shutil.which("initdb")
    folders = [] if found is None else [Path(found).resolve().parent]
    folders += [Path(folder) for folder in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    needed = ("initdb", "postgres", "pg_isready")
    return next((folder for folder in folders if all((folder / name).exists() for name in needed)), None)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The address of a database on a server that runs meanwhile."""
    bin = programs()
    if bin is None or importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs a PostgreSQL server's programs and psycopg")
    user: str | None = None  # as who we are
    folder = tempfile.mkdtemp(prefix="pg")  # short, as a socket's path must be
    if os.geteuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = next((name for name in ("postgres", "nobody") if name in names), None)
        if user is None:
            pytest.skip("needs a user that is not root to run PostgreSQL")
        shutil.chown(folder, user)
    data = f"{folder}/data"
    run: dict[str, Any] = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        initialize = [str(bin / "initdb"), "-D", data, "-U", "blackbox", "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(initialize, check=True, timeout=120, **run)
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=40"]
        server = subprocess.Popen([str(bin / "postgres"), "-D", data, "-k", folder, *options], **run)
        try:
            ready = [str(bin / "pg_isready"), "-h", folder, "-q"]
            deadline = time.monotonic() + 60
            while subprocess.run(ready, check=False, timeout=30).returncode:
                assert server.poll() is None and time.monotonic() < deadline, "the server does not start"
                time.sleep(0.1)
            yield f"postgresql+psycopg://blackbox@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # fast shutdown
            server.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'study.db'}"
    else:
        with postgresql() as address:
            yield address


def test_processes_on_one_database_are_one_search(url: str) -> None:
    """One of them is killed in the middle of a trial, which stays running for ever and blocks nothing."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(url)
    study = optuna.create_study(study_name=NAME, storage=storage, sampler=sampler())
    study.optimize(sphere, n_trials=1)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(url, 10, dies)) for dies in (None, None, 8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
    assert [worker.exitcode for worker in workers] == [0, 0, -signal.SIGKILL]
    study.optimize(sphere, n_trials=8)
    trials = study.get_trials()
    running = [t for t in trials if t.state == optuna.trial.TrialState.RUNNING]
    assert len(running) == 1 and len(trials) >= 1 + 20 + 1 + 8
    kept = [tuple(t.system_attrs["blackbox"]) for t in trials[1:]]
    assert len({name for name, _, _ in kept}) == 1
    assert len(set(kept)) == len(kept)
    # Whoever comes later finds the same state of the search in the trials alone.
    proposals = []
    for _ in range(2):
        trial, new = study.ask(), sampler()
        space = new.infer_relative_search_space(study, study.get_trials()[-1])
        proposals.append(new.sample_relative(study, study.get_trials()[-1], space))
        assert proposals[-1] == {name: trial._suggest(name, space[name]) for name in space}
    assert proposals[0] != proposals[1]
    storage.remove_session()
    storage.engine.dispose()
