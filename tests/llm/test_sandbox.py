"""The sandbox: what hostile programs do at each level, and that neither the machine nor honest programs notice."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_programs import (
    ABOVE_LIMITS,
    HOSTILE,
    LONG,
    MACHINE,
    PROCESSES,
    RESOURCES,
    SECRET,
    attempt,
    hostile_sample,
)

import blackbox as bb
from blackbox.llm import run_sandboxed, sandbox, sandbox_levels
from blackbox.llm.exchange import decode, encode, parse
from blackbox.llm.sandbox import LEVELS

LEVELS_HERE = sandbox_levels()
CONTAINING = [level for level in ("landlock", "bubblewrap") if not LEVELS_HERE[level]]
needs_containment = pytest.mark.skipif(not CONTAINING, reason=f"no sandbox contains hostile programs: {LEVELS_HERE}")
HONEST = "def f(x):\n    return sum(v * v for v in x)\n"


@pytest.fixture(scope="module")
def place() -> Iterator[dict[str, Any]]:
    """What hostile programs attack: a folder with one file, a server on the loopback interface, us."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        (Path(folder) / "kept").write_text("as it was")
        server.settimeout(0)
        yield {"folder": folder, "port": server.getsockname()[1], "parent": os.getpid(), "server": server}


def untouched(place: dict[str, Any]) -> bool:
    """Whether folder and server are as they were."""
    (file,) = Path(place["folder"]).iterdir()
    try:
        place["server"].accept()
    except BlockingIOError:
        return file.name == "kept" and file.read_text() == "as it was" and file.stat().st_mode & 0o777 != 0o777
    return False


def inmates(of: int) -> set[int]:
    """Processes of sandboxes that ``of`` has started, and such as have lost their parent."""
    parents, found = {}, set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"blackbox.llm.child" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return {process for process in found if of in ancestors(process, parents) or parents[process] == 1}


def ancestors(process: int, parents: dict[int, int]) -> list[int]:
    chain = [process]
    while chain[-1] in parents:
        chain.append(parents[chain[-1]])
    return chain


def wait_for(condition: Callable[[], bool], limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# ---- honest programs


@pytest.mark.parametrize("level", [level for level in LEVELS if not LEVELS_HERE[level]])
def test_values_and_output_come_back(level: str) -> None:
    source = "import sys\ndef f(x):\n    print('out')\n    print('err', file=sys.stderr)\n    return x\n"
    value = [None, True, 3, -0.5, "ü\ud800\n", {"$": "array", "b": []}, 10**400, float("inf")]
    result = run_sandboxed(source, "f", [value], timeout=LONG, level=level)
    assert result.value == value
    assert result.level == level
    assert sorted(result.output.split()) == ["err", "out"]
    assert 0 < result.seconds < LONG


def test_arrays_and_numpy_go_both_ways() -> None:
    source = "import numpy as np\ndef f(a, b):\n    return a @ b, np.half(1.5), np.int8(-1), a.T, a > 1, float('nan')\n"
    a, b = np.arange(6.0).reshape(2, 3), np.ones((3, 1), np.float32)
    product, half, small, transposed, mask, nan = run_sandboxed(source, "f", [a, b], timeout=LONG, level="none").value
    np.testing.assert_array_equal(product, a @ b)
    np.testing.assert_array_equal(transposed, a.T)
    assert (half, small) == (1.5, -1)
    assert mask.dtype == bool
    assert np.isnan(nan)


def test_encoding_is_undone_by_decoding() -> None:
    values = [[[1, "a"], {"$": {"$": 2}}], {}, np.zeros((0, 3)), np.array(2 + 1j), np.int64(3)]
    for value in values:
        np.testing.assert_equal(decode(parse(json.dumps(encode(value)).encode())), value)


@needs_containment
def test_default_is_the_strongest_level_and_is_recorded() -> None:
    result = run_sandboxed(HONEST, "f", [[1, 2]], timeout=LONG)
    assert (result.value, result.level) == (5, CONTAINING[-1])


# ---- arguments and levels


@pytest.mark.parametrize(
    "wrong",
    [{"timeout": 0}, {"timeout": float("nan")}, {"memory": 0}, {"level": "docker"}, {"args": [{1}]}, {"source": b""}],
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(bb.SettingError):
        run_sandboxed(**({"source": HONEST, "entry": "f", "args": [[1]]} | wrong))


def test_level_that_does_not_work_is_an_error_and_never_weakened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_problem", lambda level: "" if level == "none" else "it is not there")
    for level in LEVELS[1:]:
        with pytest.raises(bb.SandboxError, match="it is not there") as caught:
            run_sandboxed(HONEST, "f", [[1]], level=level)
        assert caught.value.kind == "unavailable"
    with pytest.raises(bb.SandboxError, match='level="none"'):
        run_sandboxed(HONEST, "f", [[1]])


def test_level_at_which_a_program_can_do_too_much_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sandbox.FORBIDDEN, "none", ("start a process", "read files"))
    assert "could start a process and read files" in sandbox._problem.__wrapped__("none")


def test_errors_can_be_sent_between_processes() -> None:
    error = copy.copy(bb.SandboxError("what", "timeout", "limits", "printed"))  # in the way of pickle
    assert (str(error), error.kind, error.level, error.output) == ("what", "timeout", "limits", "printed")


# ---- hostile programs


@pytest.mark.parametrize("level", CONTAINING)
def test_hostile_programs_are_contained(level: str, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    chosen = HOSTILE if level == CONTAINING[-1] else PROCESSES | MACHINE
    with ThreadPoolExecutor(4) as pool:
        outcomes = dict(zip(chosen, pool.map(lambda p: attempt(p, place, level), chosen.values()), strict=True))
    assert {name: outcome for name, outcome in outcomes.items() if outcome} == {}
    assert untouched(place)
    wait_for(lambda: not inmates(os.getpid()))
    assert threading.active_count() <= threads  # those of former tests may end meanwhile
    assert len(os.listdir("/proc/self/fd")) <= files
    assert run_sandboxed(HONEST, "f", [[3, 4]], timeout=LONG, level=level).value == 25


def as_another_user() -> list[str]:
    """How root starts Python as somebody who can read what root can and do nothing else."""
    return [
        "setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "--inh-caps", "-all,+dac_read_search",
        "--ambient-caps", "-all,+dac_read_search", "--bounding-set", "-all,+dac_read_search",
    ]  # fmt: skip


def run_limited() -> None:
    """As a program of its own: at level ``limits`` programs that take too much of the machine."""
    assert not sandbox_levels()["limits"], sandbox_levels()
    chosen = {name: program for name, program in (PROCESSES | RESOURCES).items() if name not in ABOVE_LIMITS}
    place = {"folder": "/nowhere", "port": 1, "parent": 0}
    with ThreadPoolExecutor(4) as pool:
        outcomes = dict(zip(chosen, pool.map(lambda p: attempt(p, place, "limits"), chosen.values()), strict=True))
    print({name: outcome for name, outcome in outcomes.items() if outcome})


@pytest.mark.skipif(sys.platform != "linux", reason="it needs Linux")
def test_limits_contain_runaway_programs() -> None:
    command = [] if os.getuid() else as_another_user()
    if subprocess.run([*command, sys.executable, "-c", ""], check=False).returncode:
        pytest.skip("root cannot become another user who can read Python's files")
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_sandbox as t; t.run_limited()"
    done = subprocess.run(
        [*command, sys.executable, "-B", "-c", code], capture_output=True, text=True, check=False, cwd="/"
    )
    assert (done.stdout.strip(), done.returncode) == ("{}", 0), done.stderr


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="root is meant")
def test_limits_are_not_available_to_root_whom_they_do_not_bind() -> None:
    assert "as root" in LEVELS_HERE["limits"]


def test_none_still_has_a_deadline_a_bound_on_output_and_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for name in ("deaf sleeper", "prints gigabytes", "endless result", "two results", "reads its environment"):
        assert attempt(HOSTILE[name], {}, "none") == "", name


def test_folder_of_the_process_is_removed() -> None:
    source = "import os\ndef f():\n    for _ in range(1500): os.mkdir('d'); os.chdir('d')\n"
    before = set(Path(tempfile.gettempdir()).glob("blackbox-*"))
    run_sandboxed(source, "f", timeout=LONG, level="none")
    assert set(Path(tempfile.gettempdir()).glob("blackbox-*")) <= before


@needs_containment
def test_programs_end_with_a_parent_that_is_killed() -> None:
    code = """
import blackbox.llm as llm
llm.sandbox_levels()
print("probed", flush=True)
llm.run_sandboxed("import time; time.sleep(60)", "f", timeout=60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"probed\n"
        wait_for(lambda: bool(inmates(parent.pid)))
    finally:
        parent.kill()
        parent.communicate()
    wait_for(lambda: not inmates(parent.pid))


# ---- honest programs among hostile ones


@needs_containment
def test_two_hundred_hostile_samples_alter_no_score_of_honest_programs(place: dict[str, Any]) -> None:
    generator = random.Random(2026)
    asked = {key: value for key, value in place.items() if key != "server"}
    jobs: list[tuple[str, Any, float | None]] = [(hostile_sample(generator), asked, None) for _ in range(200)]
    for seed in range(30):
        x = [generator.uniform(-5, 5) for _ in range(8)]
        jobs.insert(generator.randrange(len(jobs)), (HONEST + f"# {seed}", x, sum(v * v for v in x)))

    def score(job: tuple[str, Any, float | None]) -> tuple[float | None, object]:
        source, x, expected = job
        try:
            return expected, run_sandboxed(source, "f", [x], timeout=LONG, level=CONTAINING[0]).value
        except bb.SandboxError as error:
            return expected, error.kind

    with ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(score, jobs))
    assert [got for expected, got in scores if expected is not None] == [e for e, _ in scores if e is not None]
    assert len({str(got) for expected, got in scores if expected is None}) > 4
    assert untouched(place)
    wait_for(lambda: not inmates(os.getpid()))
