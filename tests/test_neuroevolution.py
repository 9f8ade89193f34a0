"""The trainer of examples/neuroevolution.py: runs resume bit for bit, after a kill as well, from small checkpoints."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import blackbox as bb

SCRIPT = Path(__file__).parent.parent / "examples" / "neuroevolution.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("neuroevolution", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["neuroevolution"] = module
    spec.loader.exec_module(module)
    return module


def bits(run: Any) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(run)]


@pytest.mark.parametrize(
    ("task", "method", "most"),
    [
        ("acrobot", "deep-ga", 10_000),
        ("pendulum", "eggroll", 10_000),
        ("cartpole", "cma-es", 400_000),  # its matrices
        ("gymnax:Pendulum-v1", "openai-es", 10_000),  # with normalized observations
        ("cartpole", "novelty-search", 60_000),  # its archive
    ],
)
def test_a_loaded_run_goes_on_bit_for_bit(script: Any, tmp_path: Path, task: str, method: str, most: int) -> None:
    if task.startswith("gymnax"):
        pytest.importorskip("gymnax")
    trained = script.trainer(task, method, 3, popsize=8, episodes=2)
    run = trained.begin()
    for _ in range(2):
        run, _, _ = trained.generation(run)
    trained.save(tmp_path / "checkpoint", run)
    assert (tmp_path / "checkpoint").stat().st_size < most
    again = script.trainer(task, method, 3, popsize=8, episodes=2)
    again.programs = trained.programs  # the same strategy; it is compiled once
    loaded = again.load(tmp_path / "checkpoint")
    assert bits(loaded) == bits(run)
    for _ in range(2):
        run, played, score = trained.generation(run)
        loaded, same, same_score = again.generation(loaded)
        np.testing.assert_array_equal(played.returns, same.returns)
        assert score == same_score
    assert bits(loaded) == bits(run)
    assert int(run.counts.evaluations) == 4 * len(played.returns)
    assert int(run.counts.steps) > 0


def test_a_killed_script_goes_on_where_it_was(script: Any, tmp_path: Path) -> None:
    """It ends with the log and the policy of a run that was not killed."""
    options = ["--task", "cartpole", "--method", "deep-ga", "--popsize", "16", "--stop-at", "1000", "--no-pictures"]
    command = [sys.executable, str(SCRIPT), *options]
    process = subprocess.Popen([*command, "--generations", "100000", "--out", str(tmp_path)], cwd=tmp_path)
    log = tmp_path / "log.csv"
    deadline = time.monotonic() + 300
    while not log.exists() or log.read_text().count("\n") < 6:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    generations = len(script.read_log(log)) + 3
    assert (tmp_path / "checkpoint").stat().st_size < 10_000
    subprocess.run([*command, "--generations", str(generations), "--out", str(tmp_path), "--resume"], check=True)

    trained = script.trainer("cartpole", "deep-ga", popsize=16, generations=100000)
    run = trained.begin()
    rows = script.read_log(log)
    assert len(rows) == generations
    for row in rows:
        run, played, score = trained.generation(run)
        assert row[:4] == tuple(int(x) for x in run.counts[:4])
        assert (row.highest, row.held_out) == (float(played.returns.mean(axis=1).max()), score)
    policy = bb.load(tmp_path / "policy", {"params": trained.policy(run), "normalizer": None})
    assert bits(policy["params"]) == bits(trained.policy(run))


def test_tasks_and_methods_are_known_by_name(script: Any) -> None:
    with pytest.raises(script.typer.BadParameter, match="'chess' is none of cartpole, acrobot"):
        script.trainer("chess", "deep-ga")
    with pytest.raises(bb.SettingError, match="simulated-annealing"):
        script.trainer("cartpole", "simulated-annealing")
