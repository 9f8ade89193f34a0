"""The journal: what was acknowledged is there, once and unchanged, whatever happens to the process or the file."""

from __future__ import annotations

import gc
import inspect
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import HOSTILE_JOURNALS

from blackbox.errors import CheckpointError, JournalError
from blackbox.journal import Event, Journal
from blackbox.storage import holder, journal_file
from blackbox.storage.holder import Holder, network_file_system

CONFIGURATION = {"seed": 1, "space": {"x": [0, 1]}, "names": ["ä", "b"], "target": None}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def told(i: int) -> Event:
    """The ``i``-th result of every run here, so that what is read can be compared with what was written."""
    value = [i * 0.1, math.nan, -0.0, math.inf, -math.inf, 5e-324][i % 6]
    payload = np.arange(i % 5, dtype=float).tobytes() if i % 7 == 0 else None
    return Event(i // 10, i % 10, value, "ok" if i % 6 else "failed", f"reason {i}" * (i % 3), i / 3, payload)


def key(event: Event) -> tuple[Any, ...]:
    """An event with its value's bits, since NaN is not equal to itself."""
    sign = 0.0 if math.isnan(event.value) else math.copysign(1, event.value)
    return (event.generation, event.member, repr(event.value), sign, event.status, event.reason, event.seconds,
            event.payload)  # fmt: skip


def assert_first(journal: Journal, n: int) -> None:
    assert len(journal) == n
    assert [key(event) for event in journal.events()] == [key(told(i)) for i in range(n)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.db"


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for child in started:
        child.kill()
        child.communicate()


PREAMBLE = """
from __future__ import annotations
import gc, math, os, random, sys, time
import numpy as np
from blackbox.journal import Event, Journal, JournalError
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A child that runs ``code`` after what it needs of this module."""
    parts = [PREAMBLE, *(inspect.getsource(function) for function in (told, key, assert_first)), code]
    command = [sys.executable, "-c", "\n".join(parts), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def sql(path: Path, statement: str, *arguments: Any) -> list[Any]:
    connection = sqlite3.connect(path)
    with connection:
        rows = connection.execute(statement, arguments).fetchall()
    connection.close()
    return rows


# ---- what is written is read


def test_events_come_back_in_order_and_bit_for_bit(path: Path) -> None:
    with Journal.create(path, CONFIGURATION) as journal:
        journal.append([told(0)])
        journal.append([told(i) for i in range(1, 40)])
        journal.append([])
        assert_first(journal, 40)
    with Journal.open(path) as journal:
        assert journal.configuration == CONFIGURATION
        assert_first(journal, 40)
        assert [key(event) for event in journal.events(after=33)] == [key(told(i)) for i in range(33, 40)]
        assert list(journal.events(after=40)) == []
        journal.append([told(40)])
        assert_first(journal, 41)


def test_numbers_of_numpy_are_stored_as_those_of_python(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append([Event(np.int64(0), np.uint8(3), np.float32(0.5), "ok", seconds=np.float64(1))])  # type: ignore[arg-type]
        assert list(journal.events()) == [Event(0, 3, 0.5, "ok", seconds=1.0)]


def test_long_and_strange_reasons(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append([Event(0, 0, 1.0, "failed", "ä" * 10**6), Event(0, 1, 1.0, "failed", "a\udcffb\0c\n")])
        first, second = journal.events()
    assert len(first.reason.encode()) <= 10_000
    assert first.reason.startswith("ää")
    assert first.reason.endswith(" ... (cut short)")
    assert second.reason == "a?b\0c\n"


@pytest.mark.parametrize(
    "event",
    [
        Event(2**63, 0, 1.0, "ok"),
        Event(0, 1.5, 1.0, "ok"),  # type: ignore[arg-type]
        Event(0, 1, "x", "ok"),  # type: ignore[arg-type]
        Event(0, 1, 1.0, None),  # type: ignore[arg-type]
        Event(0, 1, 1.0, "ok", payload="text"),  # type: ignore[arg-type]
        Event(0, 1, 1.0, "\udcff"),
    ],
)
def test_an_event_that_cannot_be_stored_leaves_nothing(path: Path, event: Event) -> None:
    with Journal.create(path, {}) as journal:
        with pytest.raises(JournalError, match=r"events\[1\] cannot be stored"):
            journal.append([told(0), event])
        assert len(journal) == 0
        journal.append([told(0)])
        assert_first(journal, 1)


def test_a_duplicate_is_impossible_and_leaves_nothing(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append([told(0), told(1)])
        for batch in ([told(2), told(1)], [told(2), told(2)]):
            with pytest.raises(JournalError, match="same generation and member"):
                journal.append(batch)
        assert_first(journal, 2)
        journal.append([told(2)])
        assert_first(journal, 3)


def test_events_are_streamed(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append([Event(0, i, 0.0, "ok", payload=bytes(200_000)) for i in range(200)])
        tracemalloc.start()
        assert sum(len(event.payload or b"") for event in journal.events()) == 40_000_000
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
        tracemalloc.stop()


def test_reading_may_overlap_with_writing(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append([told(i) for i in range(2500)])
        read = journal.events()
        first = next(read)
        journal.append([told(2500)])
        assert [key(event) for event in (first, *read)] == [key(told(i)) for i in range(2500)]


def test_notes(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        assert journal.note("status") is None
        journal.set_note("status", "running")
        journal.set_note("status", {"stopped": ["budget"], "seconds": 1.5})
        with pytest.raises(JournalError, match="note 'x' must hold JSON"):
            journal.set_note("x", {1, 2})
    with Journal.open(path, read_only=True) as journal:
        assert journal.note("status") == {"stopped": ["budget"], "seconds": 1.5}


def test_the_newest_two_checkpoints_are_kept(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append([told(i) for i in range(9)])
        assert list(journal.checkpoints()) == []
        for position in (3, 5, 5, 9):
            journal.save_checkpoint(position, {"x": np.full(3, float(position))}, {"at": position})
        with pytest.raises(CheckpointError, match="position must be from 0 to the 9 results told, got 10"):
            journal.save_checkpoint(10, {}, {})
    with Journal.open(path) as journal:
        found = [(position, arrays["x"].tolist(), facts) for position, arrays, facts in journal.checkpoints()]
    assert found == [(9, [9.0] * 3, {"at": 9}), (5, [5.0] * 3, {"at": 5})]


def test_a_checkpoint_may_be_larger_than_any_other_record(path: Path) -> None:
    state = np.random.default_rng(0).random(3_000_000)
    with Journal.create(path, {}) as journal:
        journal.save_checkpoint(0, {"x": state}, {})
        ((_, arrays, _),) = journal.checkpoints()
        assert np.array_equal(arrays["x"], state)


def test_several_threads_may_write(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        errors: list[BaseException] = []

        def work(generation: int) -> None:
            try:
                for member in range(50):
                    journal.append([Event(generation, member, float(member), "ok")])
                    journal.set_note(f"thread {generation}", len(journal))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        events = list(journal.events())
        assert len({(event.generation, event.member) for event in events}) == len(journal) == 200
        for generation in range(4):
            members = [event.member for event in events if event.generation == generation]
            assert members == list(range(50))


def test_a_closed_journal_is_one_file_and_says_that_it_is_closed(path: Path) -> None:
    journal = Journal.create(path, {})
    journal.append([told(0)])
    assert {p.name for p in path.parent.iterdir()} >= {"run.db", "run.db-wal", "run.db-tail"}
    journal.close()
    journal.close()
    assert [p.name for p in path.parent.iterdir()] == ["run.db"]
    with pytest.raises(JournalError, match="is closed"):
        journal.append([told(1)])
    with pytest.raises(JournalError, match="is closed"):
        len(journal)


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 1), ("power", 2)])
def test_durability_is_kept_by_the_file(path: Path, durability: Any, synchronous: int) -> None:
    Journal.create(path, {}, durability=durability).close()
    with Journal.open(path) as journal:
        assert journal_file.pragma(journal._usable(), "synchronous") == synchronous


# ---- which files are journals


def test_folders_are_made_and_paths_may_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a?b#c%20ä.db"
    with Journal.create(path, {}) as journal:
        journal.append([told(0)])
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with Journal.open(str(path), read_only=True) as journal:
        assert_first(journal, 1)


def test_a_run_is_not_written_over(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append([told(0)])
        with pytest.raises(JournalError, match="holds a run already"):
            Journal.create(path, {})
    with pytest.raises(JournalError, match="holds a run already"):
        Journal.create(path, {})
    with Journal.open(path) as journal:
        assert_first(journal, 1)


def test_an_empty_file_is_a_good_place_but_no_journal(path: Path) -> None:
    path.touch()
    with pytest.raises(JournalError, match="is not a blackbox journal"):
        Journal.open(path)
    Journal.create(path, {}).close()


def foreign_database(path: Path) -> None:
    sql(path, "CREATE TABLE theirs (x)")


@pytest.mark.parametrize("write", [foreign_database, lambda path: path.write_text("not a database, " * 200)])
@pytest.mark.parametrize("act", [lambda path: Journal.create(path, {}), Journal.open])
def test_files_of_others_are_left_alone(path: Path, write: Callable[..., Any], act: Callable[..., Any]) -> None:
    write(path)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"run\.db"):
        act(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (lambda folder: Journal.open(folder / "none.db"), "^there is no journal"),
        (lambda folder: Journal.open(folder), "there is no journal"),
        (lambda folder: Journal.open(None), "path must be the path of a file, got None"),  # type: ignore[arg-type]
        (lambda folder: Journal.is_blank(3), "journal must be the path of a file, got 3"),  # type: ignore[arg-type]
        (lambda folder: Journal.create(folder, {}), "create the journal: it must be a file in a folder that may be"),
        (lambda folder: Journal.create(folder, {}), "could not create the journal"),
        (lambda folder: Journal.create(folder / "a.db", {"x": object()}), "configuration must hold JSON"),
        (lambda folder: Journal.create(folder / "a.db", {"x": "y" * 10**7}), "configuration must be at most"),
        (lambda folder: Journal.create(folder / "a.db", {}, durability="x"), "durability must be 'process' or 'power'"),
        (lambda folder: Journal.create(folder / "a\0.db", {}), "could not create the journal"),
        (lambda folder: Journal.create(folder / "file" / "a.db", {}), "could not create the journal"),
    ],
)
def test_bad_arguments(tmp_path: Path, act: Callable[[Path], Any], what: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=what):
        act(tmp_path)


def test_other_schema_versions_are_refused(path: Path) -> None:
    Journal.create(path, {}).close()
    sql(path, "PRAGMA user_version = 2")
    with pytest.raises(JournalError, match="schema version 2; this release reads version 1"):
        Journal.open(path)


def test_a_journal_of_the_first_schema_can_be_read(path: Path) -> None:
    """Figure R15."""
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parent / "data" / "journal_schema_1.sql").read_text())
    connection.close()
    with Journal.open(path) as journal:
        assert journal.configuration == {"seed": 7, "space": {"x": [0, 1]}}
        assert [key(event) for event in journal.events()] == [
            key(event)
            for event in (
                Event(0, 0, 1.5, "ok", "", 0.25),
                Event(0, 1, math.nan, "failed", "ValueError: no", 0.5),
                Event(-1, 0, 2.5, "ok", payload=np.array([0.5, 0.25]).tobytes()),
                Event(0, 2, math.inf, "infeasible"),
            )
        ]
        ((position, arrays, facts),) = journal.checkpoints()
        assert (position, facts) == (3, {"generation": 1})
        assert arrays["state.mean"].tobytes() == np.array([0.5, -0.0]).tobytes()
        assert arrays["state.key"].tolist() == [1, 2]
        assert arrays["state.key"].dtype == np.uint32
        assert journal.note("status") == "running"


@pytest.mark.parametrize("kind", HOSTILE_JOURNALS)
def test_altered_schemas_are_refused(path: Path, kind: str) -> None:
    with Journal.create(path, {}) as journal:
        journal.append([told(0)])
    for statement in HOSTILE_JOURNALS[kind]:
        sql(path, statement)
    with pytest.raises(JournalError, match="damaged"):
        Journal.open(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("value", "x"), ("value", b"x"), ("generation", "x"), ("status", b"x"), ("reason", 5), ("payload", "x"),
        ("seconds", "x"), ("member", 77), ("value", 7.0), ("digest", "x"), ("status", "late"),
    ],
)  # fmt: skip
def test_an_altered_result_is_noticed(path: Path, column: str, value: Any) -> None:
    with Journal.create(path, {}) as journal:
        journal.append([told(i) for i in range(4)])
    sql(path, f"UPDATE tell SET {column} = ? WHERE position = 2", value)
    with Journal.open(path) as journal, pytest.raises(JournalError, match="told result 2 is not what was written"):
        list(journal.events())


@pytest.mark.parametrize("which", ["= 2", "= 4", ">= 3", "> 0"])
def test_a_deleted_result_is_noticed(path: Path, which: str) -> None:
    with Journal.create(path, {}) as journal:
        journal.append([told(i) for i in range(4)])
    sql(path, f"DELETE FROM tell WHERE position {which}")
    with pytest.raises(JournalError, match="damaged"), Journal.open(path) as journal:
        list(journal.events())


def test_a_damaged_checkpoint_is_left_out_with_a_warning(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append([told(i) for i in range(9)])
        for position in (4, 8):
            journal.save_checkpoint(position, {"x": np.ones(3)}, {})
    for damage in (
        "arrays = zeroblob(100)",
        "manifest = '[]'",
        "digest = 'x'",
        "manifest = x'80'",
        "position = 7",
        "position = 70",
    ):
        copy = path.with_name("copy.db")
        shutil.copy(path, copy)
        sql(copy, f"UPDATE state SET {damage} WHERE position = 8")
        with Journal.open(copy) as journal, pytest.warns(RuntimeWarning, match=r"checkpoint after \d+ results cannot"):
            assert [position for position, _, _ in journal.checkpoints()] == [4]
        with Journal.open(copy, read_only=True) as journal:
            assert_first(journal, 9)


def test_records_that_share_their_pages_do_not_exhaust_memory(path: Path) -> None:
    """Figure R13: many rows that point to one large text; the digests are not even looked at before that."""
    with Journal.create(path, {}) as journal:
        journal.append([Event(0, i, 0.0, "ok", payload=bytes(3_000_000)) for i in range(12)])
        tracemalloc.start()
        for _ in journal.events():
            pass
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
        tracemalloc.stop()
    sql(path, "UPDATE tell SET payload = zeroblob(20000000) WHERE position = 5")
    with Journal.open(path) as journal, pytest.raises(JournalError, match="too big"):
        list(journal.events())


# ---- kills

WRITE = """
path, seed = sys.argv[1:]
rng = random.Random(int(seed))
with Journal.open(path) as journal:
    n = len(journal)
    print("ready", n, flush=True)
    while True:
        step = rng.choice([1, 1, 1, 2, 7])
        journal.append([told(i) for i in range(n, n + step)])
        n += step
        print(n, flush=True)
        if rng.random() < 0.2:
            journal.save_checkpoint(n, {"x": np.full(2000, float(n))}, {"n": n})
        if rng.random() < 0.1:
            journal.set_note("n", n)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_what_was_acknowledged_survives_kills(path: Path, children: list[subprocess.Popen[str]]) -> None:
    """Figure R1, of the journal alone: ten kills of ten writers of one file."""
    Journal.create(path, CONFIGURATION).close()
    rng = random.Random(0)
    for kill in range(10):
        child = start(WRITE, path, kill)
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline().startswith("ready"), child.communicate()[1]
        time.sleep(rng.uniform(0.0, 0.25))
        child.kill()
        output, errors = child.communicate()
        assert child.returncode == -signal.SIGKILL, errors
        lines = output.split("\n")[:-1]  # what follows the last line end was cut off
        with Journal.open(path) as journal:
            n = len(journal)
            assert n >= int(lines[-1] if lines else 0)
            assert_first(journal, n)
            for position, arrays, facts in journal.checkpoints():
                assert facts == {"n": position}
                assert arrays["x"].tolist() == [position] * 2000
            assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    assert n > 100


# ---- one writer

HOLD = """
journal = Journal.open(sys.argv[1])
print("ready", flush=True)
time.sleep(120)
"""


def hold(path: Path, children: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    child = start(HOLD, path)
    children.append(child)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n", child.communicate()[1]
    return child


@linux
def test_a_live_writer_is_respected_and_a_dead_one_replaced(path: Path, children: list[subprocess.Popen[str]]) -> None:
    """Figure R12."""
    with Journal.create(path, {}) as journal:
        journal.append([told(0)])
    child = hold(path, children)
    with pytest.raises(JournalError, match=f"is being written by process {child.pid} on .* which is alive"):
        Journal.open(path)
    with Journal.open(path, read_only=True) as journal:
        assert_first(journal, 1)
    child.kill()
    # Not waited for: a zombie still has its process identifier.
    deadline = time.monotonic() + 30
    while True:
        try:
            journal = Journal.open(path)
            break
        except JournalError:
            assert time.monotonic() < deadline
    journal.append([told(1)])
    assert_first(journal, 2)
    journal.close()


def test_who_lost_the_run_cannot_write(path: Path) -> None:
    with Journal.create(path, {}) as first:
        first.append([told(0)])
        with pytest.raises(JournalError, match=f"process {os.getpid()} .* steal=True"):
            Journal.open(path)
        with Journal.open(path, steal=True) as second:
            with pytest.raises(JournalError, match="was taken over by process"):
                first.append([told(1)])
            with pytest.raises(JournalError, match="was taken over by process"):
                first.save_checkpoint(1, {}, {})
            second.append([told(1)])
            first.close()
            second.append([told(2)])
            assert_first(second, 3)


@pytest.mark.parametrize("here", [Holder.current()])
@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, "alive"),
        ({"started": "1"}, "dead"),
        ({"pid": 2**22 + 1}, "dead"),
        ({"boot": "other"}, "dead"),
        ({"boot": "other", "host": "elsewhere"}, "elsewhere"),
        ({"host": "renamed"}, "alive"),
        ({"namespace": "pid:[1]"}, "elsewhere"),
    ],
)
@linux
def test_who_is_alive(here: Holder, change: dict[str, Any], found: str) -> None:
    assert here._replace(**change).liveness() == found


def test_who_is_alive_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "_read", lambda path: "")
    me = Holder.current()
    assert (me.started, me.boot) == ("", "")
    assert me.liveness() == "alive"
    assert me._replace(pid=2**22 + 1).liveness() == ("dead" if os.name == "posix" else "alive")
    assert me._replace(host="other").liveness() == "elsewhere"


@linux
@pytest.mark.parametrize(("host", "boot", "refused"), [("other", "other", True), (None, "other", False)])
def test_a_writer_elsewhere_must_be_stolen_from(path: Path, host: str | None, boot: str, refused: bool) -> None:
    Journal.create(path, {}).close()
    here = Holder.current()
    sql(path, "UPDATE writer SET token = 'x', pid = 7, host = ?, boot = ?", host or here.host, boot)
    if refused:
        with pytest.raises(JournalError, match=r"process 7 on other, which cannot be asked .* steal=True"):
            Journal.open(path)
    Journal.open(path, steal=refused).close()


def test_a_lost_object_gives_the_run_back(path: Path) -> None:
    journal = Journal.create(path, {})
    journal.append([told(0)])
    del journal
    gc.collect()
    with Journal.open(path) as journal:
        assert_first(journal, 1)
        token = journal._token
        assert token is not None
        holder._tokens.discard(token)  # as if its object had vanished without a trace
        with Journal.open(path) as again:
            again.append([told(1)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_cannot_use_the_journal_or_harm_it(path: Path, children: list[subprocess.Popen[str]]) -> None:
    code = """
journal = Journal.create(sys.argv[1], {})
journal.append([told(0)])
read = journal.events()
pid = os.fork()
if pid == 0:
    for act in (lambda: journal.append([told(1)]), lambda: len(journal), lambda: journal.note("x"), lambda: next(read)):
        try:
            act()
        except JournalError as error:
            assert "a forked child must not use it" in str(error)
        else:
            os._exit(1)
    journal.close()
    del journal
    gc.collect()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
journal.append([told(i) for i in range(1, 30)])
assert_first(journal, 30)
print("done")
"""
    child = start(code, path)
    children.append(child)
    output, errors = child.communicate(timeout=60)
    assert output == "done\n", errors
    with Journal.open(path) as journal:
        assert_first(journal, 30)


def test_a_journal_may_be_looked_at_beside_its_writer(path: Path) -> None:
    with Journal.create(path, CONFIGURATION) as journal, Journal.open(path, read_only=True) as reader:
        for i in range(30):
            journal.append([told(i)])
            assert_first(reader, i + 1)
        journal.save_checkpoint(7, {"x": np.ones(2)}, {})
        assert [position for position, _, _ in reader.checkpoints()] == [7]
        for act in (lambda: reader.append([told(30)]), lambda: reader.set_note("a", 1)):
            with pytest.raises(JournalError, match="read_only=True"):
                act()
    assert [p.name for p in path.parent.iterdir()] == ["run.db"]


@linux
@pytest.mark.parametrize(
    ("point", "kind", "refused"),
    [("/", "ext4", False), ("/", "nfs4", True), ("{}", "cifs", True), ("{}-other", "nfs", False), ("/", "9p", True)],
)
def test_network_file_systems_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, kind: str, refused: bool
) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    mounts = ["1 0 8:1 / / rw - ext4 /dev/sda rw", f"2 1 0:5 / {point.format(folder)} rw - {kind} server:/x rw"]
    table = "\n".join(mount.replace("a b", r"a\040b") for mount in mounts)
    read = holder._read
    monkeypatch.setattr(holder, "_read", lambda path: table if path == "/proc/self/mountinfo" else read(path))
    assert network_file_system(folder / "run.db") == (kind if refused else None)
    if refused:
        with pytest.raises(JournalError, match=f"network file system \\({kind}\\).*Optuna"):
            Journal.create(folder / "run.db", {})
        assert not list(folder.iterdir())
    else:
        Journal.create(folder / "run.db", {}).close()


# ---- full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with 300 kB of space, which only root can make."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("needs the right to mount a small disk; the next test needs none")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path, free: int) -> None:
    """Take all space but ``free`` bytes."""
    stat = os.statvfs(path.parent)
    with open(path, "wb") as file:
        file.write(bytes(max(0, stat.f_bavail * stat.f_frsize - free)))


def test_a_full_disk_is_survived(small_disk: Path) -> None:
    """Figure R7."""
    path, filler = small_disk / "run.db", small_disk / "filler"
    failures = 0
    for offset in range(0, 24_000, 3000):
        journal = Journal.create(path, {})
        n = 1
        journal.append([told(0)])
        fill(filler, offset)
        while True:
            batch = [told(i) for i in range(n, n + 1 + n % 4)]
            try:
                journal.append(batch)
            except JournalError as error:
                assert "the disk is full" in str(error)
                break
            n += len(batch)
        with pytest.raises(JournalError):
            journal.save_checkpoint(n, {"x": np.zeros(10_000)}, {})
        failures += 1
        assert_first(journal, n)
        if offset % 2000:  # either it goes on, or another process does
            journal.close()
            filler.unlink()
            journal = Journal.open(path)
        else:
            filler.unlink()
        assert_first(journal, n)
        journal.append(batch)
        journal.save_checkpoint(n, {"x": np.zeros(1000)}, {})
        assert_first(journal, n + len(batch))
        journal.close()
        assert [p.name for p in small_disk.iterdir()] == ["run.db"]
        path.unlink()
    assert failures == 8


@pytest.mark.skipif(os.name != "posix", reason="needs limits of resources")
def test_a_limit_of_the_file_size_is_survived(path: Path, children: list[subprocess.Popen[str]]) -> None:
    code = """
import resource
journal = Journal.create(sys.argv[1], {})
n = failures = 0
for limit in range(100_000, 200_000, 20_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        while True:
            journal.append([told(n)])
            n += 1
    except JournalError as error:
        failures += 1
    assert_first(journal, n)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append([told(n)])
print(n + 1, failures)
os._exit(0)
"""
    child = start(code, path)
    children.append(child)
    output, errors = child.communicate(timeout=60)
    n, failures = map(int, output.split()) if output else pytest.fail(errors)
    assert failures == 5
    with Journal.open(path) as journal:
        assert_first(journal, n)


# ---- damage

N = 60


def filled(path: Path) -> Journal:
    journal = Journal.create(path, CONFIGURATION)
    for i in range(0, N, 5):
        journal.append([told(j) for j in range(i, i + 5)])
    for position in (20, 40):
        journal.save_checkpoint(position, {"x": np.full(50, float(position))}, {"n": position})
    journal.set_note("status", "finished")
    return journal


def read_all(path: Path) -> str:
    """What became of a damaged journal: "refused", "warned" or "unchanged"; fails if it silently says other things."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with Journal.open(path) as journal:
                configuration, note = journal.configuration, journal.note("status")
                checkpoints = list(journal.checkpoints())
                events = [key(event) for event in journal.events()]
                length = len(journal)
        except JournalError:
            return "refused"
    expected = [key(told(i)) for i in range(N)]
    assert configuration == CONFIGURATION
    assert events == expected[:length]
    for position, arrays, facts in checkpoints:
        assert facts == {"n": position}
        assert arrays["x"].tolist() == [position] * 50
    if caught:
        return "warned"
    # Of checkpoints, which only save time, one may be gone with a lost write.
    assert length == N
    assert note == "finished"
    return "unchanged"


def damages(rng: np.random.Generator, data: bytes, n: int) -> Iterator[bytes]:
    for i in range(n):
        damaged = bytearray(data)
        position = int(rng.integers(len(data)))
        page = position // 4096 * 4096
        kind = i % 8
        if kind < 5:
            damaged[position] ^= 1 << int(rng.integers(8))
        elif kind == 5:
            damaged[page : page + 4096] = bytes(len(damaged[page : page + 4096]))
        elif kind == 6:
            other = int(rng.integers(len(data))) // 4096 * 4096
            damaged[page : page + 4096] = data[other : other + 4096]
        else:
            del damaged[position:]
        yield bytes(damaged)


def test_damage_to_the_file_is_never_silent(path: Path) -> None:
    """Figure R6."""
    filled(path).close()
    data, copy = path.read_bytes(), path.with_name("copy.db")
    rng = np.random.default_rng(0)
    outcomes = []
    for damaged in damages(rng, data, 400):
        for leftover in path.parent.glob("copy.db*"):
            leftover.unlink()
        copy.write_bytes(damaged)
        outcomes.append(read_all(copy))
    assert outcomes.count("refused") > 100
    assert outcomes.count("unchanged") > 10  # free space, and the copy of the index


def test_damage_to_the_log_is_never_silent(path: Path) -> None:
    """Figure R6, in the log of a run that was killed; without the tail SQLite would drop results without a word."""
    journal = filled(path)
    files = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal", "-tail")}
    journal.close()
    copy = path.with_name("copy.db")
    rng = np.random.default_rng(0)
    outcomes = []
    for damaged in damages(rng, files["-wal"], 120):
        for leftover in path.parent.glob("copy.db*"):
            leftover.unlink()
        for suffix, data in {**files, "-wal": damaged}.items():
            Path(f"{copy}{suffix}").write_bytes(data)
        outcomes.append(read_all_of_dead(copy))
    assert outcomes.count("warned") > 60


def read_all_of_dead(path: Path) -> str:
    """As :func:`read_all`; the writer named in the file is this process, whose object is gone."""
    kept = set(holder._tokens)
    holder._tokens.clear()
    try:
        return read_all(path)
    finally:
        holder._tokens.update(kept)


def test_an_old_page_is_noticed(path: Path) -> None:
    """A write that the disk acknowledged and never did leaves a page as it was, with all its sums right."""
    journal = Journal.create(path, CONFIGURATION)
    journal.append([told(i) for i in range(40)])
    journal.close()
    old = path.read_bytes()
    with Journal.open(path) as journal:
        journal.append([told(i) for i in range(40, N)])
        for position in (20, 40):
            journal.save_checkpoint(position, {"x": np.full(50, float(position))}, {"n": position})
        journal.set_note("status", "finished")
    new = path.read_bytes()
    copy, outcomes = path.with_name("copy.db"), []
    for page in range(0, len(old), 4096):
        if old[page : page + 4096] != new[page : page + 4096]:
            copy.write_bytes(new[:page] + old[page : page + 4096] + new[page + 4096 :])
            outcomes.append(read_all(copy))
    assert len(outcomes) >= 5
    assert "refused" in outcomes


def test_a_lost_log_warns_and_a_damaged_tail_does_not(path: Path) -> None:
    journal = filled(path)
    files = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal", "-tail")}
    journal.close()
    copy = path.with_name("copy.db")
    copy.write_bytes(files[""])
    Path(f"{copy}-wal").write_bytes(files["-wal"])
    Path(f"{copy}-tail").write_bytes(files["-tail"][:-1])
    assert read_all_of_dead(copy) == "unchanged"
    copy.write_bytes(files[""])
    Path(f"{copy}-wal").unlink(missing_ok=True)
    Path(f"{copy}-tail").write_bytes(files["-tail"])
    with pytest.warns(RuntimeWarning, match=rf"writes \({N} told results\) are missing"):
        Journal.open(copy).close()
