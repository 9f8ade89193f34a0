"""Programs that attack the machine, the parent, their own score or others', and what may come of each in a sandbox.

All but those of the last part define ``f(place)``: ``place`` is a dict with the ``folder`` that they would spoil, the
``port`` where a server of the test listens, and the ``parent``'s process number. None would do lasting harm if it
succeeded; those that start processes without end are for levels at which a single one was refused.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import blackbox as bb
from blackbox.llm import run_sandboxed

SECRET = "sk-not-a-real-key"
LONG = 60.0  # seconds for programs that end by themselves, on a machine that does other things

FORGE = """
import os, sys
def forge(text):
    frame = sys._getframe()
    while "request" not in frame.f_locals:
        frame = frame.f_back
    request = frame.f_locals["request"]
    os.write(request["result"], (request["token"] + text).encode())
"""


class Hostile(NamedTuple):
    """One program, and what may be reported of it."""

    source: str
    kinds: str
    """Kinds of SandboxError, separated by spaces; "value" where it may return one, which then is ``value``."""
    value: object = None


def _f(*lines: str, before: str = "import os, sys, time") -> str:
    return before + "\ndef f(place):\n" + "\n".join(f"    {line}" for line in lines) + "\n"


def _refused(*lines: str) -> Hostile:
    return Hostile(_f(*lines), "forbidden")


def _libc(call: str) -> Hostile:
    return Hostile(_f("import ctypes", f"return ctypes.CDLL(None).{call}"), "value", -1)


PROCESSES = {
    "fork bomb": _refused("while True: os.fork()"),
    "fork bomb by subprocess": _refused("import subprocess", "while True: subprocess.Popen(['/bin/sleep', '60'])"),
    "clone": _libc("syscall(56, 17, 0, 0, 0, 0)"),
    "threads": Hostile(
        _f("import threading", "for _ in range(9): threading.Thread(target=burn).start()", "burn()",
           before="def burn():\n    while True: pass"), "raised"),
    "daemon": _refused(
        "if os.fork() == 0:", "    os.setsid()", "    if os.fork() == 0:", "        time.sleep(60)", "    os._exit(0)",
        "return 1"),
    "another program": Hostile(_f("os.execv('/usr/bin/sleep', ['sleep', '60'])"), "forbidden"),
}  # fmt: skip
RESOURCES = {
    "memory bomb": Hostile(_f("return len(bytearray(10**11))"), "memory"),
    "memory bomb in steps": Hostile(_f("kept = []", "while True: kept.append(bytearray(10**7))"), "memory"),
    "shared memory": _libc("shmget(0, 1 << 30, 0o1600)"),
    "file in memory": _libc("memfd_create(b'x', 0)"),
    "endless loop": Hostile(_f("while True: pass"), "timeout"),
    "endless import": Hostile("import time; time.sleep(60)", "timeout"),
    "endless loop in C": Hostile(_f("return sum(iter(int, 1))"), "timeout"),
    "deaf sleeper": Hostile(
        _f("import signal", "for number in range(1, 32):", "    try: signal.signal(number, signal.SIG_IGN)",
           "    except OSError: pass", "while True: time.sleep(1)"), "timeout"),
    "prints gigabytes": Hostile(_f("while True: print('x' * 10**6)"), "output"),
    "prints gigabytes of errors": Hostile(_f("while True: os.write(2, b'x' * 10**5)"), "output"),
    "deep recursion": Hostile("def f(place): return f(place)", "raised"),
    "bottomless recursion": Hostile(
        _f("sys.setrecursionlimit(2**30)", "return f(place)"), "crash raised memory timeout"),
    "bottomless source": Hostile("x = " + "(" * 10**5, "raised memory crash"),
    "long message": Hostile(_f("raise ValueError('x' * 10**8)"), "raised memory"),
}  # fmt: skip
MACHINE = {
    "writes a file": _refused("open(place['folder'] + '/new', 'w').write('x')"),
    "spoils a file": _refused("open(place['folder'] + '/kept', 'r+').write('x')"),
    "empties a file": _refused("os.truncate(place['folder'] + '/kept', 0)"),
    "removes a file": _refused("os.remove(place['folder'] + '/kept')"),
    "renames a file": _refused("os.rename(place['folder'] + '/kept', place['folder'] + '/other')"),
    "opens a file to all": _refused("os.chmod(place['folder'] + '/kept', 0o777)"),
    "makes a folder": _refused("os.mkdir(place['folder'] + '/made')"),
    "links a file": _refused("os.symlink('/', place['folder'] + '/link')"),
    "writes where it is": _refused("open('new', 'w').write('x')"),
    "reads a file": Hostile(_f("return open(place['folder'] + '/kept').read()"), "forbidden raised"),
    "reads passwords": Hostile(_f("return open('/etc/shadow').read()"), "forbidden raised"),
    "lists a folder": Hostile(_f("return os.listdir(place['folder'])"), "forbidden raised"),
    "reads its environment": Hostile(_f("return os.environ.get('OPENAI_API_KEY')"), "value"),
    "reads the parent's environment": Hostile(
        _f("return open(f'/proc/{place[\"parent\"]}/environ').read()"), "forbidden raised"),
    "reads the parent's memory": Hostile(
        _f("return open(f'/proc/{place[\"parent\"]}/maps').read()"), "forbidden raised"),
    "finds inherited files": Hostile(
        _f("found = []", "for number in range(3, 4096):", "    try: os.fstat(number); found.append(number)",
           "    except OSError: pass", "return len(found)"), "value", 1),
    "connects": _refused("import socket", "socket.create_connection(('127.0.0.1', place['port']), 1).close()"),
    "sends a datagram": _refused(
        "import socket", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', place['port']))"),
    "kills its parent": _refused("os.kill(os.getppid(), 9)"),
    "kills the parent": _refused("os.kill(place['parent'], 9)"),
    "kills its group": _refused("os.killpg(0, 9)"),
    "kills by a limit": _refused("import resource", "resource.prlimit(place['parent'], resource.RLIMIT_CPU, (0, 0))"),
    "lifts its limits": _refused("import resource", "resource.prlimit(0, resource.RLIMIT_AS, (-1, -1))"),
    "kills by a pipe": _refused("import fcntl", "fcntl.fcntl(1, 8, place['parent'])"),
    "writes to the parent's memory": _libc("process_vm_writev(1, None, 0, None, 0, 0)"),
    "traces": _libc("ptrace(16, 1, 0, 0)"),
    "makes namespaces": _libc("unshare(0x10000000)"),
    "calls by 32-bit numbers": _libc("syscall(0x40000000 + 39)"),
}  # fmt: skip
RESULTS = {
    "leaves": Hostile(_f("sys.exit(0)"), "raised"),
    "leaves at once": Hostile(_f("os._exit(0)"), "crash"),
    "leaves while imported": Hostile("import os; os._exit(7)", "crash"),
    "aborts": Hostile(_f("os.abort()"), "crash"),
    "crashes": Hostile(_f("import ctypes", "ctypes.string_at(0)"), "crash"),
    "closes its pipes": Hostile(_f("os.closerange(0, 4096)", "return 1"), "crash"),
    "closes its pipes and stays": Hostile(_f("os.closerange(0, 4096)", "time.sleep(60)"), "timeout"),
    "writes without the token": Hostile(
        _f("for number in range(3, 4096):", "    try: os.write(number, b'{\"value\": 1}')", "    except OSError: pass",
           "os._exit(0)"), "result"),
    "writes with the token": Hostile(_f("forge('{\"value\": 9}')", "os._exit(0)", before=FORGE), "value", 9),
    "two results": Hostile(_f("forge('{\"value\": 9}')", "return 9", before=FORGE), "result"),
    "half a result": Hostile(_f("forge('{\"value\": [1,')", "os._exit(0)", before=FORGE), "result"),
    "another reply": Hostile(_f("forge('{\"score\": 9}')", "os._exit(0)", before=FORGE), "result"),
    "deep result": Hostile(_f("forge('{\"value\":' + '[' * 10**6)", "os._exit(0)", before=FORGE), "result"),
    "deep result between strings": Hostile(
        _f("forge('{\"value\": [\"]\\\\\"]\",' * 10**5)", "os._exit(0)", before=FORGE), "result"),
    "result in another encoding": Hostile(
        _f("forge('')", "import gc", "request = next(r for r in gc.get_objects() if type(r) is dict and 'token' in r)",
           "os.write(request['result'], '[[1]]'.encode('utf-16'))", "os._exit(0)", before=FORGE), "result"),
    "array larger than its bytes": Hostile(
        _f("forge('{\"value\": {\"$\": \"array\", \"dtype\": \"<f8\", \"shape\": [1000000000000], \"data\": \"\"}}')",
           "os._exit(0)", before=FORGE), "result"),
    "array of objects": Hostile(
        _f("forge('{\"value\": {\"$\": \"array\", \"dtype\": \"|O\", \"shape\": [1], \"data\": \"AAAAAAAAAAA=\"}}')",
           "os._exit(0)", before=FORGE), "result"),
    "unknown failure": Hostile(
        _f("forge('{\"kind\": \"unavailable\", \"message\": \"\\\\u001b[2J\"}')", "os._exit(0)", before=FORGE),
        "crash"),
    "huge result": Hostile(_f("return 'x' * 10**7"), "result"),
    "endless result": Hostile(_f("while True: forge('x' * 10**5)", before=FORGE), "result"),
    "deep value": Hostile(_f("value = []", "for _ in range(10**5): value = [value]", "return value"), "result"),
    "circular value": Hostile(_f("value = []", "value.append(value)", "return value"), "result"),
    "huge integer": Hostile(_f("return 10**5000"), "raised"),
    "set": Hostile(_f("return {1}"), "result"),
    "keys that are no strings": Hostile(_f("return {1: 2}"), "result"),
    "lying object": Hostile(
        _f("return Liar()", before="class Liar(float):\n    __class__ = float\n    def __repr__(self): return '1'"),
        "result"),
    "exception that cannot be shown": Hostile(
        _f("raise Evil", before="class Evil(Exception):\n    def __str__(self): raise SystemExit"),
        "raised"),
    "exception that takes its time": Hostile(
        _f("raise Evil", before="import time\nclass Evil(BaseException):\n    def __str__(self): time.sleep(60)"),
        "timeout"),
    "another JSON": Hostile(_f("import json", "json.dumps = lambda *a, **k: '{\"value\": 5}'", "return 1"), "value", 5),
    "no JSON": Hostile(_f("import json", "json.dumps = None", "return 1"), "crash"),
    "last words": Hostile(
        _f("import atexit", "atexit.register(time.sleep, 60)", "return 3"), "value", 3),
    "hanging output": Hostile(
        _f("sys.stdout = Out()", before="import sys, time\nclass Out:\n    def flush(self): time.sleep(60)"),
        "timeout"),
    "broken output": Hostile(_f("sys.stdout = None", "return 4"), "value", 4),
    "no such function": Hostile("g = 1", "result"),
    "no function": Hostile("f = 1", "raised"),
    "no program": Hostile("def f(:", "raised"),
}  # fmt: skip
HOSTILE = PROCESSES | RESOURCES | MACHINE | RESULTS

ABOVE_LIMITS = ("another program", "file in memory", "shared memory", "clone")
"""What takes more than limits, besides all that attacks the machine or the parent."""

ATTACKS = (
    "os.fork()", "os.kill(os.getppid(), 9)", "os.kill(place['parent'], 9)", "open(place['folder'] + '/new', 'w')",
    "os.remove(place['folder'] + '/kept')", "forge('{\"value\": -1e9}')", "bytearray(10**11)",
    "__import__('socket').socket()", "sys.setrecursionlimit(10**6)", "os.close(place.get('fd', 2))",
    "__import__('threading').Thread(target=print).start()", "os.environ.update(x='y')", "print('x' * 50_000)",
    "sys.modules.clear()", "__import__('json').dumps.__globals__.clear()", "setattr(os, 'write', None)",
    "__builtins__.clear()", "os.chmod(place['folder'], 0)", "place.clear()", "__import__('gc').get_objects()",
)  # fmt: skip
ENDINGS = (
    "return -1e9", "return float('nan')", "os._exit(0)", "sys.exit()", "raise BaseException", "return {'score': -1e9}",
    "return [[]] * 10**5", "return None", "forge('{\"value\": -1e9}'); os._exit(0)", "return open",
)  # fmt: skip


def hostile_sample(generator: random.Random) -> str:
    """Some attacks one after another, each tried whether or not the others succeed, and an end."""
    lines = ["def f(place):"]
    for attack in generator.sample(ATTACKS, generator.randint(1, 6)):
        lines += ["    try:", f"        {attack}", "    except Exception: pass"]
    return FORGE + "\n".join([*lines, f"    {generator.choice(ENDINGS)}"])


# ---- attacks on a score, of programs that ProgramEvaluator runs


class Attack(NamedTuple):
    """A program, and what its evaluation must say: part of its feedback if it fails, else its score on each instance.

    "" means that it fails at nothing and has the score that it would have without the attack.
    """

    source: str
    outcome: str | float
    lines: tuple[str, ...] = ()
    """Those that attack, and then those that end it."""


REACHED = "reached"
"""What a forgery prints when all that it means to change is changed: one that prints nothing has a mistake in it."""

_FRAMES = """
import atexit, builtins, copy, gc, json, os, signal, sys, threading
import numpy as np

def frames():
    number, found = 1, []
    while True:
        try:
            found.append(sys._getframe(number))
        except ValueError:
            assert len(found) > 7, found
            return found
        number += 1

def values(name):
    found = [frame.f_locals[name] for frame in frames() if name in frame.f_locals]
    assert found, name
    return found

def forge(text):
    request = values("request")[-1]
    os.write(request["result"], (request["token"] + text).encode())

zeros = lambda n, np=np: np.zeros(n, np.int32)
done = []

def priority(item, bins):
"""


def _forgery(outcome: str, *lines: str, always: bool = False, end: str = "pass") -> Attack:
    """A best fit that first does what the lines say, in its first call for each instance or always."""
    body = [*lines, f"print({REACHED!r}, flush=True)", "done.append(1)", end]
    indented = [f"        {line}\n" for line in body]
    source = f"{_FRAMES}    if {always or 'not done'}:\n{''.join(indented)}    return -bins\n"
    return Attack(source, outcome, (*lines, end))


def _said(text: str, outcome: str) -> Attack:
    return _forgery(outcome, f"text = {text!r}", end="forge(text); os._exit(0)")


_FULL, _NONE, _FEW = "bin 0 holds", "instance 0: a packing is an array", "did not return one output for each instance"

FORGERIES = {
    "the harness's functions, in all frames": _forgery(
        "", "for space in [frame.f_globals for frame in frames()]:",
        "    space.update(run=lambda *a: zeros(40), pack=lambda *a: zeros(40))"),
    "the harness, for the instance to come": _forgery(
        "instance 1: " + _FULL, "cells = values('output')[0].__closure__",
        "cell, = [cell for cell in cells if hasattr(cell.cell_contents, 'co_code')]",
        "cell.cell_contents = compile('import numpy as np\\ndef run(p, i): return np.zeros(60, int)', '', 'exec')"),
    "the copy of its output": _forgery(
        "instance 1: " + _FULL, "copy.deepcopy = lambda v, zeros=zeros: zeros(len(v)) if hasattr(v, 'dtype') else v"),
    "an output of before, found by the collector": _forgery(
        "instance 0: " + _FULL,
        "for kept in [v for v in gc.get_objects() if type(v) is list and len(v) == 1 and hasattr(v[0], 'dtype')]:",
        "    kept[0][:] = 0"),
    "one more answer": _forgery(_FEW, "values('answers')[0].append({'values': [zeros(40), zeros(60)]})"),
    "its answer, when it is collected": _forgery(
        _NONE, "answers = values('answers')[0]",
        "def claim(*phase):", "    if answers:", "        answers[0] = {'values': [-1e9, -1e9]}",
        "gc.callbacks.append(claim)"),
    "its answer, by the frame of an exception": _forgery(
        _FEW, "try:", "    raise KeyError", "except KeyError as error:", "    frame = error.__traceback__.tb_frame",
        "while 'answers' not in frame.f_locals:", "    frame = frame.f_back", "frame.f_locals['answers'].append({})"),
    "its instance": _forgery("instance 1: " + _FULL, "values('instances')[0][1] = [[1.0] * 60, 1e3]"),
    "the number of instances": _forgery(_FEW, "del values('instances')[0][1:]"),
    "the packing, in the harness's frame": _forgery(_FULL, "for v in values('chosen'): v[:] = 0", always=True),
    "the capacity, in the harness's frame": _forgery(
        "instance 0: " + _FULL, "for v in values('bins'): v[:] = 1e9", always=True),
    "the harness's result, by a trace": _forgery(
        "instance 0: " + _FULL, "def trace(frame, event, value):",
        "    if event == 'return' and frame.f_code.co_name == 'run': value[:] = 0", "    return trace",
        "sys.settrace(trace)", "for frame in frames(): frame.f_trace = trace"),
    "NumPy's functions": _forgery("instance 0: " + _FULL, "np.flatnonzero = lambda v, zeros=zeros: zeros(1)"),
    "Python's functions": _forgery("ValueError: attempt to get argmax", "builtins.len = lambda v: 0"),
    "JSON": _forgery(_NONE, "json.dumps = lambda *a, **k: '{\"value\": [{\"values\": [-1e9, -1e9]}]}'"),
    "the encoding": _forgery(
        _NONE, "for frame in frames(): frame.f_globals['encode'] = lambda v: [{'values': [-1e9, -1e9]}]"),
    "the way out": _forgery(
        _NONE, "request, write = values('request')[0], os.write",
        "text = request['token'] + '{\"value\": [{\"values\": [-1e9, -1e9]}]}'",
        "os.write = lambda file, data: write(file, text.encode()) and len(data)"),
    "its token": _forgery("result: ", "for v in values('request'): v['token'] = '0' * 32"),
    "its pipe": _forgery("crash: ", "for v in values('request'): v['result'] = 1"),
    "outputs of its own": _said('{"value": [{"values": [0.0, 0.0]}]}', _NONE),
    "outputs of its own, again": _said('{"value": [{"values": [0.0, 0.0], "again": true}]}', _NONE),
    "scores of its own": _said('{"value": [{"scores": [-1e9, -1e9]}]}', _FEW),
    "one score": _said('{"value": -1e9}', _FEW),
    "one output": _said('{"value": [{"values": [0.0]}]}', _FEW),
    "an error that is none": _said('{"value": [{"error": 0, "values": []}]}', _FEW),
    "no sandbox": _said('{"kind": "unavailable", "message": "none"}', "crash: none"),
    "two results": _forgery("result: ", "forge('{\"value\": 1}')"),
    "every inherited file": _forgery(
        "result: ", "written = 0", "for file in range(3, 4096):",
        "    try: written += os.write(file, b'{\"value\": [{\"values\": [0.0, 0.0]}]}')", "    except OSError: pass",
        "assert written"),
    "a result on stdout": _forgery("", "print('{\"value\": [{\"values\": [-1e9, -1e9]}]}', flush=True)"),
    "last words": _forgery("", "atexit.register(forge, '{\"value\": 1}')"),
    "words after a while": _forgery(
        "", "try: threading.Thread(target=forge, args=('{\"value\": 1}',)).start()",
        "except RuntimeError: pass", "else: raise AssertionError('a thread')"),
    "its parent": _forgery(
        "", "for process in (os.getppid(), 0):", "    try: os.kill(process, signal.SIGKILL)",
        "    except PermissionError: continue", "    raise AssertionError('a signal')"),
    "its frames": _forgery(
        "", "for frame in frames():", "    try: frame.clear()", "    except RuntimeError: continue",
        "    raise AssertionError('a frame')"),
    "an exception with a score": _forgery(
        "ValueError: instance 0: -1e9", "pass", end="raise ValueError('instance 0: -1e9\\x1b[2J\\ud800')"),
    "an end": _forgery("crash: ", "pass", end="os._exit(0)"),
    "an end by exception": _forgery("raised: SystemExit", "pass", end="raise SystemExit(0)"),
    "an endless loop": _forgery("timeout: ", "pass", end="while True: pass"),
}  # fmt: skip
"""Priorities of ``blackbox.problems.bin_packing`` that would rather have a score than earn it. None is plain."""

SHARED = """
import numpy as np
X, KEPT, TABLE = np.linspace(0.0, 1.0, 5), [0.0, 2.0], {"a": 1.0}
def run(program, place):
    place = {**place, 0: place["given"], 1: X, 2: KEPT, 3: TABLE}
    return [program(place) for _ in range(2)]
"""
"""A harness that hands out what it owns, twice, beside an array ``given``."""


def _plain(*lines: str) -> str:
    head = "import numpy as np\ndef f(place):\n    given, x, kept, table = "
    return "\n    ".join([head + "place[0], place[1], place[2], place[3]", *lines])


def _plain_attack(outcome: str | float, *lines: str) -> Attack:
    return Attack(_plain(*lines), outcome, lines)


PLAIN = _plain("return given.sum() + x.sum() + kept[1] + len(table)")
"""An honest program for ``SHARED``, whose outputs are ``given.sum() + 5.5``."""

QUIET = {
    "writes to its instance": _plain_attack(1818.0, "given[:] = 9.0", "return given.sum()"),
    "writes to an array of the harness": _plain_attack(201.0, "x += 1.0", "return x[0]"),
    "writes to a view of it": _plain_attack(0.0, "y = x[1:]", "y *= 0.0", "return x.sum()"),
    "writes to it by a function": _plain_attack(0.0, "x[1:] = np.nan", "np.nan_to_num(x, False)", "return x.sum()"),
    "writes to a list": _plain_attack(403.0, "kept[1] += 1.0", "return kept[1]"),
    "writes to a dict": _plain_attack(302.0, "table[len(table)] = 1.0", "return float(len(table))"),
    "puts a list into itself": _plain_attack(101.0, "kept[0] = kept", "return 1.0"),
    "leaves garbage": _plain_attack(101.0, "a = [np.arange(5e6), 0]", "a[1] = a", "return 1.0"),
    "returns what it changes later": _plain_attack("two floats", "x[0] += 1.0", "return x"),
    "returns what it was given": _plain_attack("two floats", "return kept"),
    "returns a module": _plain_attack("TypeError: cannot pickle 'module'", "return np"),
    "returns a deep list": _plain_attack("RecursionError: ", "a = 1.0", *["a = [a]"] * 2000, "return a"),
    "warns": _plain_attack(101.0, *["z = np.log(x - 9.0) + x / 0.0"] * 2000, "return 1.0"),
    "divides": _plain_attack("ZeroDivisionError: division by zero (line 4)", "return 1 / 0"),
    "computes with functions": _plain_attack("TypeError: loop of ufunc", "return np.exp(np.array([f, np, None]))"),
    "returns no number": _plain_attack("a score is not finite", "return np.nan"),
}  # fmt: skip
"""Plain attacks that end neither their process nor its result: others have been there before and after."""

LOUD = {
    "all memory": _plain_attack("MemoryError: Unable to allocate", "return np.arange(1e12)"),
    "its function": _plain_attack("result: ", "return f"),
    "a list in itself": _plain_attack("result: ", "kept[0] = kept", "return kept"),
    "a huge integer": _plain_attack("raised: ValueError", "return 10 ** 5000"),
    "a huge key": _plain_attack("raised: ValueError", "return table[10 ** 5000]"),
    "a huge array": _plain_attack("result: the program's result is larger", "return np.arange(1e6)"),
    "an array in itself": _plain_attack("crash: ", "a = np.array([1.0, None])", "a[0] = a", "return -a"),
}  # fmt: skip
"""Plain attacks that take the whole process with them, or its result."""


def forgery_sample(generator: random.Random) -> str:
    """Some forgeries one after another, each tried whether or not the others succeed."""
    lines = []
    for name in generator.sample(sorted(FORGERIES.keys() - {"an endless loop"}), generator.randint(1, 4)):
        lines += ["try:", *(f"    {line}" for line in FORGERIES[name].lines), "except Exception: pass"]
    return _forgery("", *lines, always=generator.random() < 0.5).source


def quiet_sample(generator: random.Random) -> str:
    """Some of ``QUIET`` one after another, and the end of one of them."""
    return _plain_sample(generator, QUIET)


def plain_sample(generator: random.Random) -> str:
    """Some plain attacks of either kind one after another, and the end of one of them."""
    return _plain_sample(generator, QUIET | LOUD)


def _plain_sample(generator: random.Random, attacks: Mapping[str, Attack]) -> str:
    chosen = [attacks[name].lines for name in generator.sample(sorted(attacks), generator.randint(1, 4))]
    return _plain(*[line for lines in chosen for line in lines[:-1]], chosen[-1][-1])


def attempt(program: Hostile, place: Mapping[str, Any], level: str | None) -> str:
    """Run it; what has happened if that is not among what may, else nothing."""
    asked = {key: value for key, value in place.items() if key != "server"}
    kinds = program.kinds.split()
    timeout = 1.0 if kinds == ["timeout"] else LONG if "timeout" not in kinds else 5.0
    try:
        result = run_sandboxed(program.source, "f", [asked], timeout=timeout, level=level)
    except bb.SandboxError as error:
        assert str(error)
        assert str(error).isprintable()
        assert SECRET not in f"{error}{error.output}"
        return "" if error.kind in kinds and error.level == (level or error.level) else f"{error.kind}: {error}"
    return "" if "value" in kinds and result.value == program.value else f"returned {result.value!r}"
