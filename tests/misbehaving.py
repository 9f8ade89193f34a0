"""An objective that does whatever a test of workers wants, and the outcomes of what workers were given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from blackbox.workers import Outcome, Workers


def behave(x: Any) -> Any:
    """One objective for all the misbehavior that a test wants: ``x`` is a number or (what, argument)."""
    if not isinstance(x, tuple):
        return float(x) ** 2
    what, argument = x
    if what == "raise":
        raise ValueError(argument)
    if what == "exit":
        sys.exit(argument)
    if what == "os exit":
        os._exit(argument)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "kill once":
        if not Path(argument).exists():
            Path(argument).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0
    if what == "sleep":
        time.sleep(argument)
        return 0.5
    if what == "hang in C":  # holds the interpreter lock, so that no Python signal handler runs
        import ctypes

        ctypes.PyDLL(None).sleep(int(argument))
    if what == "start child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        Path(argument).write_text(str(child.pid))
        time.sleep(60)
    if what == "lambda":
        return lambda: argument
    if what == "lock":
        return threading.Lock()
    if what == "bytes":
        return b"x" * argument
    if what == "pid":
        return os.getpid()
    raise AssertionError(what)


def drain(workers: Workers, count: int, limit: float = 60.0) -> dict[int, Outcome]:
    """``count`` outcomes by id; fails on a repeated one."""
    outcomes: dict[int, Outcome] = {}
    end = time.monotonic() + limit
    while len(outcomes) < count:
        assert time.monotonic() < end, f"only {sorted(outcomes)} came back"
        for outcome in workers.wait(1.0):
            assert outcome.id not in outcomes
            outcomes[outcome.id] = outcome
    assert workers.wait(0.0) == []
    return outcomes


def one(workers: Workers, x: object, limit: float = 60.0) -> Outcome:
    workers.submit(99, x)
    return drain(workers, 1, limit)[99]
