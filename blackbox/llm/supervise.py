"""One process watched until it ends, within a deadline, whatever it prints; nothing of its group outlives the call."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

OUTPUT_LIMIT = 100_000  # bytes of stdout and stderr together
RESULT_LIMIT = 4 * 2**20  # bytes of JSON, which as objects are up to fifty times as many
CHUNK = 2**16
LOOK = 0.05  # seconds between looks at a process whose pipes say nothing

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PASSED_ON = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # without which NumPy computes wrongly on some processors


class Ended(NamedTuple):
    """How a process ended and what it left."""

    cut: str
    """Why it was killed: "timeout", "output", "result", or "" where it ended by itself."""
    code: int
    """Its exit status, -9 where a signal 9 ended it."""
    result: bytes
    output: bytes
    seconds: float


def supervise(command: Sequence[str], request: Callable[[int], bytes], *, timeout: float, cwd: str) -> Ended:
    """Run ``command`` with ``request(descriptor of the result pipe)`` as its standard input.

    It is the leader of a session of its own, has three descriptors besides the result pipe and next to no
    environment. When it has ended, has printed too much or its time is over, its process group is killed.
    """
    begin = time.monotonic()
    environment = ENVIRONMENT | {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    with contextlib.ExitStack() as stack:
        source, sink = os.pipe()
        stack.callback(os.close, source)
        try:
            text = request(sink)
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                pass_fds=(sink,),
                start_new_session=True,
                env=environment,
                cwd=cwd,
            )
        finally:
            os.close(sink)
        assert process.stdin is not None
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        try:
            cut, result, output = _watch(process, text, source, begin + timeout)
        finally:
            process.stdin.close()
            _kill(process)
    return Ended(cut, process.returncode, result, output, time.monotonic() - begin)


def _watch(process: subprocess.Popen[bytes], text: bytes, source: int, deadline: float) -> tuple[str, bytes, bytes]:
    """Feed the request and collect result and output, until the process has ended or there is a reason to kill it."""
    assert process.stdin is not None
    assert process.stdout is not None
    stdin = process.stdin
    os.set_blocking(stdin.fileno(), False)
    rest = memoryview(text)
    result, output = bytearray(), bytearray()

    def feed() -> str:
        nonlocal rest
        try:
            rest = rest[os.write(stdin.fileno(), rest[:CHUNK]) :]
        except BrokenPipeError:
            rest = rest[:0]
        if not rest:
            selector.unregister(stdin)
            stdin.close()
        return ""

    def collect(pipe: int, kept: bytearray, limit: int, name: str) -> str:
        chunk = os.read(pipe, CHUNK)
        if not chunk:
            selector.unregister(pipe)
        kept += chunk[: limit - len(kept) + 1]
        return name if len(kept) > limit else ""

    with selectors.DefaultSelector() as selector:
        selector.register(stdin, selectors.EVENT_WRITE, feed)
        printed = process.stdout.fileno()
        selector.register(printed, selectors.EVENT_READ, lambda: collect(printed, output, OUTPUT_LIMIT, "output"))
        selector.register(source, selectors.EVENT_READ, lambda: collect(source, result, RESULT_LIMIT, "result"))
        cut = ""
        while not cut:
            ended = _has_ended(process)  # asked before the pipes are, so that nothing written before it is missed
            left = deadline - time.monotonic()
            events = selector.select(0 if ended else max(0, min(left, LOOK if selector.get_map() else LOOK / 25)))
            if ended and not events:
                break
            cut = next(filter(None, [key.data() for key, _ in events]), "" if left > 0 else "timeout")
    return cut, bytes(result), bytes(output)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has, leaving the zombie, which keeps its number from being given to others before we kill by it."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
